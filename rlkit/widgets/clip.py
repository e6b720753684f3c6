"""ClipExplorer: the clipped surrogate of PPO and GRPO, moved by hand."""

from __future__ import annotations

from typing import Any

from rlkit.runs.evidence import number
from rlkit.widgets.controls import Explorer, menu, picture, row, slider, tick
from rlkit.widgets.look import escaped, table
from rlkit.widgets.models.clip import PRESETS, ClipModel, Token
from rlkit.widgets.panel import put
from rlkit.widgets.plot import Curve, Plot

_OWN = "my own settings"
_BOUNDS = {"low": "ρ < 1 - ε", "high": "ρ > 1 + ε", "capped": "ρ > δ"}
_WIDEST = 3.0  # ratio of the axis, where δ asks for no more


class ClipExplorer(Explorer):
    """The surrogate min(min(ρ, δ)·A, clip(ρ, 1 - ε, 1 + ε_high)·A) against the ratio, for a good and a bad token.

    Shows where clipping takes the gradient away, and for a ratio of one's choice what the token adds to the objective
    and how hard its log-probability is pushed. All numbers are `rlkit.objectives.clipped_term`'s.

    Args:
        epsilon, epsilon_high, delta: as for `policy_loss`; None: as epsilon, and no bound.
        ratio: ρ = π_new / π_old of the token, to begin with.
        advantage: size of A, above 0; both signs are shown.

    The sliders: 0 ≤ ε ≤ 0.9, 2 ≤ δ ≤ 6, 0 ≤ ρ ≤ 3 (or 1.5 δ). Raises `ConfigError` for settings that
    `clipped_term` refuses.

    >>> ClipExplorer(epsilon=0.2, epsilon_high=0.28)  # a cell's last line

    Controls: `preset`, `epsilon`, `epsilon_high`, `same`, `delta`, `two_sided`, `advantage`, `ratio`.
    """

    def __init__(
        self,
        epsilon: float = 0.2,
        epsilon_high: float | None = None,
        delta: float | None = None,
        *,
        ratio: float = 1.4,
        advantage: float = 1.0,
    ) -> None:
        self.model = ClipModel(epsilon, epsilon_high, delta)
        high = epsilon if epsilon_high is None else epsilon_high
        self.preset = menu("settings", [_OWN, *PRESETS], _OWN, "Clip settings by name")
        self.epsilon = slider(
            "ε below", epsilon, 0.0, 0.9, 0.01, "How far the ratio may fall for a bad token", shown=".2f"
        )
        self.epsilon_high = slider(
            "ε above", high, 0.0, 0.9, 0.01, "How far the ratio may rise for a good token", shown=".2f"
        )
        self.same = tick(
            "ε above as below", epsilon_high is None, "Tick for the same bound on both sides (PPO)"
        )
        self.delta = slider(
            "δ",
            4.0 if delta is None else delta,
            2.0,
            6.0,
            0.1,
            "Bound of the ratio of a bad token",
            shown=".1f",
        )
        self.two_sided = tick("bound by δ as well", delta is not None, "Two-sided clipping (INTELLECT-2)")
        self.advantage = slider(
            "size of A", advantage, 0.1, 3.0, 0.1, "How good or bad the token was", shown=".1f"
        )
        self.ratio = slider(
            "ratio ρ", ratio, 0.0, _WIDEST, 0.01, "π_new / π_old of one token: the marker", shown=".2f"
        )
        self._picture = picture()
        super().__init__(
            "Clipping: where the gradient ends",
            [
                row(self.preset, self.advantage),
                row(self.epsilon, self.epsilon_high, self.same),
                row(self.delta, self.two_sided),
                row(self.ratio),
                self._picture,
            ],
            "A token's part of the objective against its ratio ρ = π_new / π_old. Move the ratio and the bounds.",
        )
        self.preset.observe(self._preset, names="value")
        self.follow(
            self.epsilon,
            self.epsilon_high,
            self.same,
            self.delta,
            self.two_sided,
            self.advantage,
            self.ratio,
        )

    # -- controls -----------------------------------------------------------------------------------------

    def _preset(self, change: Any) -> None:
        if change["new"] == _OWN or self._held:
            return
        epsilon, high, delta = PRESETS[change["new"]]
        with self.at_once():
            self.epsilon.value, self.same.value, self.two_sided.value = (
                epsilon,
                high is None,
                delta is not None,
            )
            self.epsilon_high.value = epsilon if high is None else high
            if delta is not None:
                self.delta.value = delta

    def _settings(self) -> tuple[float, float | None, float | None]:
        high = None if self.same.value else self.epsilon_high.value
        return self.epsilon.value, high, self.delta.value if self.two_sided.value else None

    def refresh(self) -> None:
        self.model = ClipModel(*self._settings())
        self._held = True  # what follows from the settings is no change of them
        try:
            self.epsilon_high.disabled, self.delta.disabled = self.same.value, not self.two_sided.value
            if self.same.value:
                self.epsilon_high.value = self.epsilon.value
            self.ratio.max = 1.5 * self.delta.value if self.two_sided.value else _WIDEST
            named = next((name for name, own in PRESETS.items() if own == self._settings()), _OWN)
            self.preset.value = named
        finally:
            self._held = False
        put(self._picture, self.static_html())

    # -- pictures -----------------------------------------------------------------------------------------

    def tokens(self) -> tuple[Token, Token]:
        """The numbers at the present ratio: of a good token, and of a bad one."""
        ratio, size = self.ratio.value, self.advantage.value
        return self.model.token(ratio, size), self.model.token(ratio, -size)

    def plots(self) -> tuple[Plot, Plot]:
        """The two charts."""
        good, bad = self.tokens()
        return self._plot(good, "a good token"), self._plot(bad, "a bad token")

    def _plot(self, token: Token, who: str) -> Plot:
        low, high, delta = self.model.bounds
        a = token.advantage
        end = 1.25 * delta if self.two_sided.value else max(2.0, 1.1 * self.ratio.value)
        curves = [
            Curve(
                "ρ·A, not clipped",
                [0.0, end],
                [0.0, end * a],
                "limit",
                told=f"Without clipping: a straight line from 0 to {number(end * a)} at ratio {number(end)}.",
            )
        ]
        for stretch in self.model.stretches(a, end):
            x, y = self.model.curve(stretch, a)
            free = stretch.state == "free"
            name = "surrogate" if free else f"flat: {_BOUNDS[stretch.state]}"
            span = f"from ratio {number(x[0])} to {number(x[1])}"
            words = (
                f"rises or falls from {number(y[0])} to {number(y[1])}" if free else f"flat at {number(y[0])}"
            )
            middle = (x[0] + x[1]) / 2, (y[0] + y[1]) / 2  # a straight stretch; two points would get markers
            curves.append(
                Curve(
                    name,
                    [x[0], middle[0], x[1]],
                    [y[0], middle[1], y[1]],
                    "line",
                    0 if free else 1,
                    told=f"Surrogate {words} {span}{'' if free else ', gradient 0'}.",
                )
            )
        curves.append(
            Curve(
                "this token",
                [token.ratio],
                [token.surrogate],
                "points",
                3,
                told=f"This token: surrogate {number(token.surrogate)} at ratio {number(token.ratio)}.",
            )
        )
        marks = [(high, "1 + ε")] if a > 0 else [(low, "1 - ε")]
        if a < 0 and self.two_sided.value:
            marks.append((delta, "δ"))
        return Plot(
            f"{who}, A = {number(a)}",
            "ratio ρ = π_new / π_old (no unit)",
            "surrogate (no unit)",
            curves,
            x_span=(0.0, end),
            marks=marks,
        )

    def static_html(self) -> str:
        charts = "".join(plot.figure_html() for plot in self.plots())
        good, bad = self.tokens()
        lines = (
            ("ρ·A, not clipped", "unclipped"),
            ("surrogate: what is maximised", "surrogate"),
            ("its slope against ρ", "slope"),
            ("push on log π (slope · ρ)", "push"),
        )
        rows = [
            [escaped(text), *(escaped(number(getattr(token, name))) for token in (good, bad))]
            for text, name in lines
        ]
        rows.append(["", *(_state(token) for token in (good, bad))])
        head = ("", f"A = {number(good.advantage)}", f"A = {number(bad.advantage)}")
        numbers = table(head, rows, (1, 2), f"This token, at ρ = {number(good.ratio)}")
        words = "".join(
            f"<p><b>A = {escaped(number(token.advantage))}:</b> {escaped(self.model.says(token))}</p>"
            for token in (good, bad)
        )
        return f'<div class="charts pair">{charts}</div>{numbers}{words}'

    def describe(self) -> str:
        good, bad = self.tokens()
        low, high, delta = self.model.bounds
        closed = f", δ {number(delta)}" if self.two_sided.value else ""
        return (
            f"bounds {number(low)} and {number(high)}{closed}; at ratio {number(good.ratio)} the surrogate is "
            f"{number(good.surrogate)} for A = {number(good.advantage)} ({_word(good)}) and {number(bad.surrogate)} "
            f"for A = {number(bad.advantage)} ({_word(bad)})."
        )


def _word(token: Token) -> str:
    return "not clipped" if token.state == "free" else "gradient 0"


def _state(token: Token) -> str:
    """Whether a gradient flows, with a sign, in colour and in words."""
    free = token.state == "free"
    sign = "→ moved" if free else "✕ gradient 0"
    return f'<span class="{"good" if free else "bad"}">{escaped(sign)}</span>'
