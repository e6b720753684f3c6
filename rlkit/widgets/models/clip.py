"""What clipping does to one token: the surrogate against the ratio, its gradient, and where that is zero."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from rlkit.errors import bad_value
from rlkit.objectives.ratios import LARGEST_LOG_RATIO, clipped_term

#: Settings by the name that people know: (epsilon, epsilon_high, delta).
PRESETS: dict[str, tuple[float, float | None, float | None]] = {
    "PPO and GRPO: ε = 0.2": (0.2, None, None),
    "DAPO: more room above, 0.28": (0.2, 0.28, None),
    "INTELLECT-2: two-sided, δ = 4": (0.2, None, 4.0),
    "tight: ε = 0.05": (0.05, None, None),
}

POINTS = 240  # of a curve


class Token(NamedTuple):
    """One token: its ratio, what it adds to the objective, and how it would be moved."""

    ratio: float  # rho = pi_new / pi_old
    log_ratio: float  # nats: logp_new - logp_old; -inf at ratio 0
    advantage: float
    unclipped: float  # rho * A
    surrogate: float  # what is maximised
    slope: float  # d surrogate / d rho
    push: float  # d surrogate / d logp_new = rho * slope: what reaches the log-probability
    state: str  # "free", or the bound that applies: "low", "high", "capped"


class Stretch(NamedTuple):
    """A range of ratios within which one bound applies, or none."""

    state: str
    start: float
    end: float


class ClipModel:
    """Clip settings and what `rlkit.objectives.clipped_term` makes of them.

    Args:
        epsilon, epsilon_high, delta: as for `policy_loss`; ratios without a unit.

    Raises `ConfigError` where `clipped_term` does.
    """

    def __init__(
        self, epsilon: float = 0.2, epsilon_high: float | None = None, delta: float | None = None
    ) -> None:
        self.epsilon, self.epsilon_high, self.delta = epsilon, epsilon_high, delta
        self._term(torch.ones(1, dtype=torch.float64), 1.0)  # says what is wrong with the settings

    @property
    def bounds(self) -> tuple[float, float, float]:
        """(1 - ε, 1 + ε_high, δ); the last is inf without a δ."""
        high = self.epsilon if self.epsilon_high is None else self.epsilon_high
        return 1 - self.epsilon, 1 + high, math.inf if self.delta is None else self.delta

    def _term(self, ratio: Tensor, advantage: float) -> tuple[Tensor, list[str]]:
        """The objective [R] and each ratio's state."""
        term = clipped_term(
            ratio,
            torch.full_like(ratio, advantage).detach(),
            epsilon=self.epsilon,
            epsilon_high=self.epsilon_high,
            delta=self.delta,
        )
        # capped first: where A < 0 and rho > delta, no other bound applies
        flags = {"capped": term.capped, "low": term.low, "high": term.high}
        states = [
            next((name for name, flag in flags.items() if flag[i]), "free") for i in range(ratio.numel())
        ]
        return term.objective, states

    def surrogate(self, ratios: Tensor, advantage: float) -> Tensor:  # [R]
        """The objective at these ratios [R]."""
        return self._term(ratios, advantage)[0]

    def token(self, ratio: float, advantage: float) -> Token:
        """All numbers of one token, its two derivatives by autograd.

        Raises `ConfigError` for a ratio below 0, or above e^80 (where `policy_loss` cuts).
        """
        if not 0 <= ratio <= math.exp(LARGEST_LOG_RATIO):
            raise bad_value("ratio", ratio, "a number, 0 or more")
        x = torch.tensor([ratio], dtype=torch.float64)
        shift = torch.zeros_like(x, requires_grad=True)  # of logp_new; its own value moves nothing
        moved = (x * torch.exp(shift)).requires_grad_()  # exactly x: exp(log(x)) may fall beyond a bound
        objective, states = self._term(moved, advantage)
        slope, push = torch.autograd.grad(objective.sum(), (moved, shift))
        return Token(
            ratio,
            math.log(ratio) if ratio > 0 else -math.inf,
            advantage,
            ratio * advantage,
            float(objective.detach()),
            float(slope),
            float(push),
            states[0],
        )

    def stretches(self, advantage: float, end: float) -> list[Stretch]:
        """The ratios from 0 to `end`, cut where a bound begins or stops to apply."""
        low, high, delta = self.bounds
        edges = sorted({0.0, end, *(edge for edge in (low, high, delta) if 0 < edge < end)})
        found: list[Stretch] = []
        for a, b in pairwise(edges):
            middle = torch.tensor([(a + b) / 2], dtype=torch.float64)
            state = self._term(middle, advantage)[1][0]
            if found and found[-1].state == state:
                found[-1] = Stretch(state, found[-1].start, b)
            else:
                found.append(Stretch(state, a, b))
        return found

    def curve(self, stretch: Stretch, advantage: float) -> tuple[list[float], list[float]]:
        """Ratios along a stretch and the surrogate there; straight, so its two ends say all."""
        x = torch.tensor([stretch.start, stretch.end], dtype=torch.float64)
        return x.tolist(), self.surrogate(x, advantage).tolist()

    def says(self, token: Token) -> str:
        """What happens to this token, in words."""
        low, high, delta = self.bounds
        if token.advantage == 0:
            return "A is 0: the token is moved neither way."
        if token.state == "high":
            return f"A good token, already more likely by more than the bound {high:g}: clipped, gradient 0."
        if token.state == "low":
            return f"A bad token, already less likely than the bound {low:g}: clipped, gradient 0."
        if token.state == "capped":
            return f"A bad token whose ratio is above δ = {delta:g}: bounded, gradient 0."
        if token.advantage < 0 and token.ratio > high and self.delta is None:
            return "A bad token that became more likely: no bound holds here, the larger the ratio the harder the push."
        if token.advantage > 0 and token.ratio < low:
            return "A good token that became less likely: not clipped, it is pulled back up."
        return f"Not clipped: the token is made {'more' if token.advantage > 0 else 'less'} likely."
