"""What a group's rewards become: advantages under four methods, side by side, and what to watch for in words."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from rlkit.errors import bad_value, unknown_name
from rlkit.objectives.advantages import group_advantages

FEWEST, MOST = 2, 16  # completions of a group
_SMALL = 0.1  # a spread below it that is scaled up deserves a remark
_FAR = 2.5  # spreads: an advantage beyond it is an outlier's

Make = Callable[[int], list[float]]


@dataclass(frozen=True, slots=True)
class Method:
    """One way to make advantages: settings of `group_advantages`, its formula, its unit, and who does it."""

    key: str
    label: str
    scale: str
    baseline: str
    formula: str
    unit: str
    used_by: str


METHODS: tuple[Method, ...] = (
    Method(
        "grpo",
        "GRPO",
        "group",
        "group",
        "(r - mean) / (spread of the group + ε)",
        "spreads of the group",
        'DeepSeekMath; TRL (scale_rewards="group", its default) and Unsloth, which takes TRL\'s settings; verl; '
        "OpenRLHF (group_norm)",
    ),
    Method(
        "dr_grpo",
        "Dr. GRPO",
        "none",
        "group",
        "r - mean",
        "the reward's own unit",
        'Dr. GRPO (arXiv:2503.20783); TRL and Unsloth (scale_rewards="none"); OpenRLHF (dr_grpo)',
    ),
    Method(
        "rloo",
        "RLOO",
        "none",
        "leave_one_out",
        "r - mean of the others",
        "the reward's own unit",
        "RLOO (arXiv:2402.14740); verl; OpenRLHF (rloo)",
    ),
    Method(
        "batch",
        "Batch scaling",
        "batch",
        "group",
        "(r - mean) / (spread of the batch + ε)",
        "spreads of the batch",
        'TRL and Unsloth (scale_rewards="batch"); REINFORCE++ scales so, too',
    ),
)

BESSEL = (
    (
        "spread ÷ (G - 1), Bessel",
        "torch's std, and so TRL, rasbt/reasoning-from-scratch, simple_GRPO, rlhf-book",
    ),
    ("spread ÷ G", "numpy's std, and so GRPO-Zero; the formula as DeepSeekMath writes it"),
)
"""Who divides the sum of squares by what."""

PRESETS: dict[str, Make] = {
    "one right of all": lambda g: [1.0] + [0.0] * (g - 1),
    "half right": lambda g: [1.0] * (g // 2) + [0.0] * (g - g // 2),
    "one wrong of all": lambda g: [1.0] * (g - 1) + [0.0],
    "all right (dead)": lambda g: [1.0] * g,
    "all wrong (dead)": lambda g: [0.0] * g,
    "graded": lambda g: [round(i / (g - 1), 2) for i in range(g)],
    "nearly the same": lambda g: [0.5] * (g - 1) + [0.52],
    "outlier": lambda g: [round(0.2 + 0.1 * (i % 3), 2) for i in range(g - 1)] + [3.0],
}
"""Groups by name, for any size."""

RESTS: dict[str, tuple[Make, ...]] = {
    "nothing: this group is the batch": (),
    "a hard prompt: one right": (PRESETS["one right of all"],),
    "an easy prompt: one wrong": (PRESETS["one wrong of all"],),
    "a hard, an even and an easy prompt": (
        PRESETS["one right of all"],
        PRESETS["half right"],
        PRESETS["one wrong of all"],
    ),
    "a prompt with large rewards, 0 and 3": (lambda g: [3.0 * r for r in PRESETS["half right"](g)],),
}
"""What else is in the batch, which only batch scaling looks at."""


class Result(NamedTuple):
    """One method's advantages of the group, and the spread that it divides by (None: it does not)."""

    method: Method
    values: list[float]
    divisor: float | None


class Remark(NamedTuple):
    """Something to notice; `kind` is one of `look.callout`'s."""

    kind: str
    title: str
    text: str


class AdvantageModel:
    """A group's rewards and what `rlkit.objectives.group_advantages` makes of them.

    Args:
        rewards: totals of the G completions of one prompt, 2 ≤ G ≤ 16.
        unbiased: divide the sum of squares by G - 1 (Bessel's correction) or by G.
        rest: what else is in the batch; a key of `RESTS`.
        eps: added to the spread.

    Raises `ConfigError` for another number of rewards, one that is not finite, or an unknown `rest`.
    """

    def __init__(
        self,
        rewards: Sequence[float],
        unbiased: bool = True,
        rest: str = next(iter(RESTS)),
        eps: float = 1e-4,
    ) -> None:
        self.rewards = [float(reward) for reward in rewards]
        if not FEWEST <= len(self.rewards) <= MOST:
            raise bad_value("rewards", self.rewards, f"from {FEWEST} to {MOST} rewards, one a completion")
        if not all(math.isfinite(reward) for reward in self.rewards):
            raise bad_value("rewards", self.rewards, "finite numbers")
        if rest not in RESTS:
            raise unknown_name("rest of the batch:", rest, RESTS)
        self.unbiased, self.rest, self.eps = bool(unbiased), rest, float(eps)
        batch = [self.rewards, *(make(len(self.rewards)) for make in RESTS[rest])]
        self.batch = torch.tensor(batch, dtype=torch.float64)  # [P, G], this group first
        found = {
            m.key: group_advantages(
                self.batch, scale=m.scale, baseline=m.baseline, unbiased=self.unbiased, eps=self.eps
            )
            for m in METHODS
        }
        self.results = [
            Result(
                m, found[m.key].values[0].tolist(), None if m.scale == "none" else float(found[m.key].std[0])
            )
            for m in METHODS
        ]
        self.mean = float(found["grpo"].mean[0])
        self.spread = float(found["grpo"].std[0])
        self.batch_spread = float(found["batch"].std[0])
        self.dead = bool(found["grpo"].dead[0])

    def advantages(self, key: str) -> list[float]:
        """One method's advantages, by its key: "grpo", "dr_grpo", "rloo" or "batch"."""
        for result in self.results:
            if result.method.key == key:
                return result.values
        raise unknown_name("method", key, [m.key for m in METHODS])

    def remarks(self) -> list[Remark]:
        """What a group like this does to training."""
        if self.dead:
            text = (
                "All rewards are the same, so every advantage is exactly 0 under every method: the prompt costs "
                "time and teaches nothing. Too easy or too hard a prompt, or a reward that cannot tell."
            )
            return [Remark("problem", "A dead group.", text)]
        found = []
        grpo = self.advantages("grpo")
        if self.spread < _SMALL:
            text = (
                f"The rewards differ by {max(self.rewards) - min(self.rewards):.3g} at most, but GRPO divides by their "
                f"spread: the largest advantage is {max(map(abs, grpo)):.2f}, as if right stood against wrong."
            )
            found.append(Remark("warning", "A small difference, blown up.", text))
        far = [i for i, a in enumerate(grpo) if abs(a) > _FAR]
        if far:
            text = (
                f"Completion {far[0] + 1} has an advantage of {grpo[far[0]]:.2f} spreads. The others are pushed "
                "together: what told them apart hardly counts beside it."
            )
            found.append(Remark("info", "One completion decides.", text))
        if not RESTS[self.rest]:
            found.append(
                Remark("info", "Batch scaling", "is GRPO here: without other prompts the group is the batch.")
            )
        return found
