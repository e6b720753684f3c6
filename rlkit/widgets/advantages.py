"""AdvantageExplorer: drag the rewards of a group and see what each method makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ipywidgets

from rlkit.errors import bad_value
from rlkit.runs.evidence import number
from rlkit.widgets.controls import Explorer, button, menu, picture, row, slider, tick
from rlkit.widgets.look import callout, escaped, facts, signed_bar, table
from rlkit.widgets.models.advantages import BESSEL, FEWEST, METHODS, MOST, PRESETS, RESTS, AdvantageModel
from rlkit.widgets.panel import put

_OWN = "my own rewards"
LOWEST, HIGHEST = -1.0, 3.0  # of the sliders; rewards beyond them widen the range


class AdvantageExplorer(Explorer):
    """The advantages of one group under GRPO, Dr. GRPO, RLOO and batch scaling, side by side.

    Shows mean and spread of the group (with Bessel's correction or without), every advantage as a number and as a bar,
    and says when the group is dead. All numbers are `rlkit.objectives.group_advantages`'.

    Args:
        rewards: totals of the G completions of one prompt, 2 ≤ G ≤ 16.
        unbiased: whether the spread divides by G - 1 (Bessel) or by G.
        rest: what else is in the batch, a key of `models.advantages.RESTS`; only batch scaling looks at it.

    Raises `ConfigError` for another number of rewards, or one that is not finite.

    >>> AdvantageExplorer([1, 0, 0, 0, 0, 0, 0, 0])  # a cell's last line

    Controls: `sliders` (16, of which `size.value` are shown), `size`, `more`, `fewer`, `preset`, `unbiased`, `rest`.
    """

    def __init__(
        self,
        rewards: Sequence[float] = (1, 0, 0, 0, 0, 0, 0, 0),
        unbiased: bool = True,
        rest: str = next(iter(RESTS)),
    ) -> None:
        self.model = AdvantageModel(rewards, unbiased, rest)
        rewards = self.model.rewards
        if max(map(abs, rewards)) > 1e6:
            raise bad_value("rewards", rewards, "numbers up to a million", "Sliders cannot show larger ones.")
        low, high = min(LOWEST, *rewards), max(HIGHEST, *rewards)
        self.sliders = [
            ipywidgets.FloatSlider(
                value=rewards[i] if i < len(rewards) else 0.0,
                min=low,
                max=high,
                step=0.01,
                description=f"r{i + 1}",
                tooltip=f"Reward of completion {i + 1}",
                orientation="vertical",
                readout_format=".2f",
                layout=ipywidgets.Layout(width="54px", height="150px", margin="0"),
            )
            for i in range(MOST)
        ]
        self.size = slider(
            "completions G", len(rewards), FEWEST, MOST, 1, "How many answers were sampled to one prompt"
        )
        self.fewer, self.more = (
            button("- one fewer", "Take the last away"),
            button("+ one more", "Add another"),
        )
        self.preset = menu("group", [_OWN, *PRESETS], _OWN, "Groups that one meets in training")
        self.unbiased = tick(
            "Bessel: ÷ (G - 1)",
            unbiased,
            "Divide the sum of squares by G - 1, as torch does, or by G as numpy does",
        )
        self.rest = menu("rest of batch", list(RESTS), rest, "What batch scaling divides by depends on it")
        self.rest.layout.width = "min(100% - 8px, 30rem)"  # its choices are sentences
        self._group = row()
        self._picture = picture()
        super().__init__(
            "Advantages: better than its siblings?",
            [
                row(self.preset, self.size, ipywidgets.HBox([self.fewer, self.more])),
                self._group,
                row(self.unbiased, self.rest),
                self._picture,
                ipywidgets.HTML(_who()),
            ],
            "Rewards of the G answers to one prompt. Drag them, or click the number under a slider and type.",
        )
        self.preset.observe(self._preset, names="value")
        self.fewer.on_click(lambda _: self._resize(-1))
        self.more.on_click(lambda _: self._resize(1))
        self.follow(*self.sliders, self.size, self.unbiased, self.rest)

    # -- controls -----------------------------------------------------------------------------------------

    def _resize(self, by: int) -> None:
        self.size.value += by  # the slider keeps within its ends

    def _preset(self, change: Any) -> None:
        if change["new"] == _OWN or self._held:
            return
        with self.at_once():
            for control, reward in zip(self.sliders, PRESETS[change["new"]](self.size.value)):
                control.value = reward

    @property
    def rewards(self) -> list[float]:
        """The rewards as the sliders stand."""
        return [control.value for control in self.sliders[: self.size.value]]

    def refresh(self) -> None:
        count = self.size.value
        if len(self._group.children) != count:
            # A preset stays what it is when the group grows.
            if self.preset.value != _OWN:
                self._held = True
                for control, reward in zip(self.sliders, PRESETS[self.preset.value](count)):
                    control.value = reward
                self._held = False
            self._group.children = self.sliders[:count]
        self.fewer.disabled, self.more.disabled = count == FEWEST, count == MOST
        self.model = AdvantageModel(self.rewards, self.unbiased.value, self.rest.value)
        chosen = self.preset.value
        if chosen != _OWN and PRESETS[chosen](count) != [round(r, 2) for r in self.rewards]:
            self._held = True
            self.preset.value = _OWN
            self._held = False
        put(self._picture, self._drawn())

    # -- pictures -----------------------------------------------------------------------------------------

    def static_html(self) -> str:
        return self._drawn() + _who()

    def _drawn(self) -> str:
        model = self.model
        said = facts(
            [
                ("mean", number(model.mean)),
                (f"spread, ÷ {'(G - 1)' if model.unbiased else 'G'}", number(model.spread)),
                ("spread of the batch", number(model.batch_spread)),
                ("completions G", str(len(model.rewards))),
            ]
        )
        remarks = "".join(callout(*remark) for remark in model.remarks())
        return f"{said}{remarks}{self._numbers()}"

    def _numbers(self) -> str:
        """One line a completion: its reward, and its advantage under each method with a bar."""
        model = self.model
        # Methods with the same unit have the same scale, so that their bars can be compared.
        most = {
            scaled: max(
                (abs(v) for r in model.results if (r.divisor is None) is not scaled for v in r.values),
                default=0.0,
            )
            for scaled in (True, False)
        }
        rows = []
        for i, reward in enumerate(model.rewards):
            cells = [f"{i + 1}", escaped(number(reward))]
            for color, result in enumerate(model.results):
                value = result.values[i]
                bar = signed_bar(value, most[result.divisor is not None], color)
                cells.append(f'{bar} <span class="num">{escaped(signed(value))}</span>')
            rows.append(cells)
        head = ["", "reward r", *(f"A: {m.label}" for m in METHODS)]
        caption = (
            "Advantages A. GRPO and batch scaling in spreads, Dr. GRPO and RLOO in the reward's own unit."
        )
        return table(head, rows, range(6), caption, stack=True)

    def describe(self) -> str:
        model = self.model
        if model.dead:
            return (
                f"{len(model.rewards)} rewards of {number(model.mean)}: a dead group, every advantage is 0."
            )
        parts = "; ".join(
            f"{r.method.label} from {signed(min(r.values))} to {signed(max(r.values))}" for r in model.results
        )
        return f"mean {number(model.mean)}, spread {number(model.spread)}; advantages: {parts}."


def signed(value: float) -> str:
    """An advantage as people write it: two decimals and a sign; exactly 0 as "0"."""
    if value == 0:
        return "0"
    return f"{value:+.2f}" if abs(value) >= 0.005 else f"{value:+.1e}"


def _who() -> str:
    """Which method is whose."""
    rows = [[f"<b>{escaped(m.label)}</b>", escaped(m.formula), escaped(m.used_by)] for m in METHODS]
    rows += [["", escaped(name), escaped(who)] for name, who in BESSEL]
    who = table(["method", "A =", "who does it"], rows)
    return f"<details><summary>Which library does this?</summary>{who}</details>"
