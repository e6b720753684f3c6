"""PatienceSimulator: draw until the answer is right, and hold what came against the law."""

from __future__ import annotations

import math
from collections.abc import Sequence

import ipywidgets

from rlkit.runs.evidence import number, percent
from rlkit.widgets.controls import FIELD, LABEL, Explorer, button, field, menu, picture, row, slider
from rlkit.widgets.look import callout, empty, escaped, facts, table
from rlkit.widgets.models.patience import MOST_DRAWS, PRESETS, PatienceModel
from rlkit.widgets.panel import put
from rlkit.widgets.plot import Curve, Plot

_ONE = next(iter(PRESETS))  # the preset whose p is the slider's
_OWN = "my own prompts"
_STRIP = 60  # draws shown one by one
_WIDTH = 350  # pixels of a chart, so that three stand side by side without being made smaller

#: The slider's values, about evenly spaced on a logarithmic scale; the front end rounds no number that was given.
CHANCES = (
    0.0, 0.001, 0.002, 0.003, 0.005, 0.007, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7,
    0.8, 0.9, 1.0,
)  # fmt: skip


class PatienceSimulator(Explorer):
    """Live draws from prompts whose chance of a right answer is known: luck (patience) is all you need.

    Shows the latest draws, the waits between right answers against the geometric law and 1/p, pass@k (exact, and
    estimated without bias from the draws), and the share of groups without spread, pᴳ + (1 - p)ᴳ. With several
    prompts the mean of 1/p stands against 1 / mean p. All laws are `rlkit.lab.patience`'s.

    Args:
        p: one probability, or one for each of several prompts.
        group_size: G, completions a group; 2 to 64.
        seed: which luck.

    Raises `ConfigError` for probabilities outside 0 to 1.

    >>> PatienceSimulator(0.05)  # a cell's last line

    Controls: `prompts`, `p` (its values are `CHANCES`, and what was given), `group_size`,
    `seed`, `shown`, and the buttons `one`, `hundred`, `many`, `again`.
    """

    def __init__(self, p: float | Sequence[float] = 0.3, *, group_size: int = 8, seed: int = 0) -> None:
        self.model = PatienceModel(p, group_size, seed)
        chances = tuple(self.model.p.tolist())
        single = len(chances) == 1
        self._prompts = {**({} if single else {_OWN: chances}), **PRESETS}
        self.prompts = menu(
            "prompts",
            list(self._prompts),
            _ONE if single else _OWN,
            "One prompt, or several of differing chances",
        )
        start = chances[0] if single else 0.3
        self.p = field(
            ipywidgets.SelectionSlider(
                options=[("0, never" if p == 0 else f"{p:.3g}", p) for p in sorted({*CHANCES, start})],
                value=start,
                description="p, right answer",
                tooltip="Probability of a right answer: 0 (never), then 0.001 to 1",
                style=LABEL,
                layout=ipywidgets.Layout(width=FIELD),
            )
        )
        self.group_size = slider("group size G", group_size, 2, 64, 1, "Completions a group in GRPO")
        self.seed = slider("seed", seed, 0, 50, 1, "Which luck; changing it begins again")
        self.shown = menu("look at", [("prompt 1", 0)], 0, "Whose draws and waits are shown")
        self.one = button("Draw once", "Draw one answer to each prompt")
        self.hundred = button("Draw 100", "Draw a hundred answers to each prompt")
        self.many = button("Draw 5,000", "Draw five thousand answers to each prompt")
        self.again = button("↺ Start again", "Forget all draws")
        self._picture = picture()
        super().__init__(
            "Patience: draw until it is right",
            [
                row(self.prompts, self.p),
                row(self.group_size, self.seed, self.shown),
                row(self.one, self.hundred, self.many, self.again),
                self._picture,
            ],
            "A model that is right with probability p needs 1/p draws on average. Draw, and see.",
        )
        for control, count in ((self.one, 1), (self.hundred, 100), (self.many, 5000)):
            control.on_click(lambda _button, count=count: self._act(count))
        self.again.on_click(lambda _button: self._act(0))
        self.follow(self.prompts, self.p, self.group_size, self.seed, self.shown)

    # -- controls -----------------------------------------------------------------------------------------

    def _act(self, count: int) -> None:
        """Draw, or with 0 start again; an error is shown in the panel."""
        try:
            if count:
                self.model.draw(count)
            else:
                self.model.reset()
        except Exception as error:
            self.trouble(error)
            return
        self._changed(None)

    def draw(self, count: int = 1) -> None:
        """Draw `count` answers to each prompt: what the buttons do."""
        self._act(count)

    def _chances(self) -> tuple[float, ...]:
        if self.prompts.value == _ONE:
            return (self.p.value,)
        return self._prompts[self.prompts.value]

    def refresh(self) -> None:
        chances, seed = self._chances(), self.seed.value
        if chances != tuple(self.model.p.tolist()) or seed != self.model.seed:
            self.model = PatienceModel(chances, self.group_size.value, seed)
        self.model.group_size = self.group_size.value
        single = self.prompts.value == _ONE
        self._held = True
        try:
            self.p.disabled = not single
            options = [(f"prompt {i + 1}: p = {number(p)}", i) for i, p in enumerate(chances)]
            if list(self.shown.options) != options:
                keep = (
                    self.shown.value
                    if self.shown.value is not None and self.shown.value < len(options)
                    else 0
                )
                self.shown.options, self.shown.value = options, keep
            self.shown.layout.display = "none" if len(options) == 1 else None
        finally:
            self._held = False
        for control, count in ((self.one, 1), (self.hundred, 100), (self.many, 5000)):
            control.disabled = self.model.draws + count > MOST_DRAWS
        put(self._picture, self.static_html())

    # -- pictures -----------------------------------------------------------------------------------------

    @property
    def prompt(self) -> int:
        """The prompt that is looked at, from 0."""
        return self.shown.value or 0

    def plots(self) -> list[Plot]:
        """Waits against the law, pass@k, and groups without spread."""
        return [self._waits(), self._pass(), self._spread()]

    def _waits(self) -> Plot:
        bars = self.model.histogram(self.prompt)
        middle = [(bar.first + bar.last) / 2 for bar in bars]
        seen = [100 * bar.share for bar in bars]
        promised = [100 * bar.promised for bar in bars]
        curves = [] if not bars else [
            Curve("seen", middle, seen, "bars", 0, told="" if self.model.draws else "Seen: nothing yet."),
            Curve("geometric law", middle, promised, "line" if len(bars) > 12 else "points", 1),
        ]  # fmt: skip
        width = bars[0].last - bars[0].first + 1 if bars else 1
        marks = [] if not bars else [(1 / float(self.model.p[self.prompt]), "1/p")]
        each = f"Bars of {width:,} draws. " if width > 1 else ""
        return Plot(
            "draws until right",
            "wait (draws)",
            "share of waits (%)",
            curves,
            y_span=(0.0, None),
            x_span=(0.5, None),
            marks=marks,
            width=_WIDTH,
            note=f"{each}The wait that is still going on is not among them.",
        )

    def _pass(self) -> Plot:
        found = [(k, *self.model.pass_at_k(k)) for k in self.model.ks()]
        curves = [Curve("exact", [k for k, _, _ in found], [100 * exact for _, exact, _ in found], "line", 1)]
        known = [(k, 100 * estimate) for k, _, estimate in found if estimate is not None]
        far = found[-1][0] > 100  # then a logarithmic axis shows the beginning, too
        curves.append(Curve("from the draws", [k for k, _ in known], [e for _, e in known], "line", 0))
        return Plot(
            "pass@k: at least one of k draws is right",
            "k (draws)",
            "pass@k (%)",
            curves,
            x_span=(1.0 if far else 0.0, None),
            y_span=(0.0, 100.0),
            x_log=far,
            width=_WIDTH,
            note="Estimated by 1 - C(n - c, k) / C(n, k), which is right on average; it needs k draws.",
        )

    def _spread(self) -> Plot:
        size = self.model.group_size
        p, share = self.model.spread_curve()
        exact, estimate = self.model.without_spread()
        mean = float(self.model.p.mean())
        curves = [
            Curve("pᴳ + (1 - p)ᴳ", p, [100 * one for one in share], "line", 1),
            Curve("these prompts", [mean], [100 * exact], "points", 3),
        ]
        if estimate is not None:
            curves.append(Curve("from the draws", [mean], [100 * estimate], "points", 0))
        several = len(self.model.p) > 1
        return Plot(
            f"groups of {size} without spread",
            "p, mean over prompts (no unit)" if several else "p (no unit)",
            "groups without spread (%)",
            curves,
            x_span=(0.0, 1.0),
            y_span=(0.0, 100.0),
            width=_WIDTH,
            note="Several prompts lie above the curve: it is convex, and the mean is taken over groups, not over p."
            if several
            else "All right or all wrong: GRPO learns nothing from such a group.",
        )

    def _strip(self) -> str:
        """The latest draws one by one."""
        verdicts = self.model.correct[self.prompt][-_STRIP:].tolist()
        if not verdicts:
            return empty("No draws yet. Press “Draw once” or “Draw 100”.")
        marks = "".join(
            f'<span class="{"good" if right else "soft"}">{"✓" if right else "✗"}</span>'
            for right in verdicts
        )
        right = sum(verdicts)
        label = f"The latest {len(verdicts)} draws, {right} of them right (✓)"
        return f'<div class="draws" role="img" aria-label="{escaped(label)}">{marks}</div>'

    def _facts(self) -> str:
        wait = self.model.wait(self.prompt)
        return facts(
            [
                ("expected wait 1/p", _draws(wait.expected)),
                ("95 of 100 are right within", _draws(wait.for_95)),
                ("drawn", f"{wait.draws:,}"),
                ("right", f"{wait.hits:,}"),
                ("draws per right answer", "—" if not wait.draws else _draws(wait.measured)),
                ("since the last right one", f"{self.model.since(self.prompt):,}"),
            ]
        )

    def _prompts_table(self) -> str:
        rows = []
        for i in range(len(self.model.p)):
            wait = self.model.wait(i)
            measured = "—" if not wait.draws else number(wait.measured)
            cells = (number(wait.p), number(wait.expected), f"{wait.draws:,}", f"{wait.hits:,}", measured)
            rows.append([f"{i + 1}", *(escaped(cell) for cell in cells)])
        head = ("prompt", "p", "1/p (draws)", "drawn", "right", "draws per right answer")
        return table(head, rows, range(1, 6), "All prompts", True)

    def _means(self) -> str:
        exact, measured, pooled = self.model.means()
        rows = [
            [
                "a prompt is dealt out and drawn until right: mean of 1/p",
                number(exact.mean_of_inverse),
                number(measured),
            ],
            ["every draw comes from a new prompt: 1 / mean p", number(exact.inverse_of_mean), number(pooled)],
        ]
        cells = [[escaped(cell.replace("NaN", "—")) for cell in one] for one in rows]
        head = ("mean wait (draws)", "exact", "drawn")
        return table(head, cells, (1, 2), "Two means that are easily confused (Jensen)")

    def _remark(self) -> str:
        if len(self.model.p) > 1:
            exact, *_ = self.model.means()
            if math.isinf(exact.mean_of_inverse):
                text = "One prompt is never right, so the mean wait is infinite, however easy the others are."
                return callout("warning", "No patience suffices.", text)
            if exact.ratio > 1.005:
                text = f"the mean wait is {number(exact.ratio)} times as long as 1 / mean p suggests."
                return callout("info", "Hard prompts decide:", text)
            return callout("info", "All alike:", "both means agree.")
        p = float(self.model.p[0])
        if p == 0:
            text = "With p = 0 every group is without spread, and reinforcement learning has nothing to begin with."
            return callout("warning", "No patience suffices.", text)
        dead, _ = self.model.without_spread()
        if dead > 0.5:
            text = f"{percent(dead)} of the groups of {self.model.group_size} teach nothing at this p."
            return callout("info", "Few groups count:", text)
        return ""

    def static_html(self) -> str:
        charts = "".join(plot.figure_html() for plot in self.plots())
        exact, estimate = self.model.without_spread()
        groups = facts(
            [
                (f"groups of {self.model.group_size} without spread, expected", percent(exact)),
                ("from the draws", "—" if estimate is None else percent(estimate)),
            ]
        )
        several = self._prompts_table() + self._means() if len(self.model.p) > 1 else ""
        numbers = f"{self._strip()}{self._facts()}{groups}{self._remark()}"
        return f'{numbers}<div class="charts three">{charts}</div>{several}'

    def describe(self) -> str:
        if len(self.model.p) == 1:
            wait = self.model.wait(0)
            seen = f"{wait.draws:,} draws, {wait.hits:,} right" if wait.draws else "no draws yet"
            return f"p {number(wait.p)}: {_draws(wait.expected)} until right on average; {seen}."
        return f"{self.model.summary()}; {self.model.draws:,} draws of each prompt."


def _draws(value: float) -> str:
    return "never" if math.isinf(value) else f"{number(value)} draw{'' if value == 1 else 's'}"
