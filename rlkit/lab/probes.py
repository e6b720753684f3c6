"""Five tiny environments that each need one thing more than the one before: which of them fails says where the bug is.

| probe                 | what is needed                               | if it fails, look at                         |
|-----------------------|----------------------------------------------|----------------------------------------------|
| ValueOnly             | a constant value                             | the value loss, its optimizer                |
| ObservationValue      | a value that depends on what is seen         | whether states reach the value function      |
| Discount              | a reward that comes a step later             | bootstrapping, gamma, what "terminated" does |
| Advantage             | a policy that prefers the better action      | the sign and size of advantages, policy loss |
| ObservationAdvantage  | both, depending on what is seen              | which advantage meets which state            |

The idea is Andy Jones', "Debugging RL, Without the Agonizing Pain" (2021), as taught in ARENA. Observations and
actions are numbers (Discrete), so every policy of the lab fits; `values(gamma)` and `best` say what must be learned.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium


class Probe(gymnasium.Env[Any, Any]):
    """Base: `n_states` things to see, `n_actions` to do; one step unless said otherwise."""

    n_states = 1
    n_actions = 1
    best: tuple[int | None, ...] = (None,)  # the better action in each state; None where there is no choice

    def __init__(self) -> None:
        self.observation_space = gymnasium.spaces.Discrete(self.n_states)
        self.action_space = gymnasium.spaces.Discrete(self.n_actions)
        self.seen = 0

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self.seen = self.first()
        return self.seen, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        return self.seen, self.reward(int(action)), True, False, {}

    def first(self) -> int:
        """The state that an episode begins in."""
        return 0

    def reward(self, action: int) -> float:
        """The reward of an action in the state that is seen."""
        return 1.0

    def values(self, gamma: float) -> tuple[float, ...]:
        """V of the best policy in each state."""
        return (1.0,)


class ValueOnly(Probe):
    """One state, one action, reward 1: V = 1."""


class ObservationValue(Probe):
    """One of two states by chance, one action, reward -1 in state 0 and +1 in state 1: V = -1, +1."""

    n_states, best = 2, (None, None)

    def first(self) -> int:
        return int(self.np_random.integers(2))

    def reward(self, action: int) -> float:
        return 2.0 * self.seen - 1.0

    def values(self, gamma: float) -> tuple[float, ...]:
        return -1.0, 1.0


class Discount(Probe):
    """State 0, then state 1, one action, reward 1 at the second step only: V = γ, 1."""

    n_states, best = 2, (None, None)

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        ended = self.seen == 1
        self.seen = 1
        return 1, float(ended), ended, False, {}

    def values(self, gamma: float) -> tuple[float, ...]:
        return gamma, 1.0


class Advantage(Probe):
    """One state, two actions, rewards -1 and +1: π prefers the second, V → 1."""

    n_actions, best = 2, (1,)

    def reward(self, action: int) -> float:
        return 2.0 * action - 1.0


class ObservationAdvantage(Probe):
    """One of two states by chance, two actions, +1 for the action with the state's number, else -1: V → 1, 1."""

    n_states, n_actions, best = 2, 2, (0, 1)

    def first(self) -> int:
        return int(self.np_random.integers(2))

    def reward(self, action: int) -> float:
        return 1.0 if action == self.seen else -1.0

    def values(self, gamma: float) -> tuple[float, ...]:
        return 1.0, 1.0


PROBES = (ValueOnly, ObservationValue, Discount, Advantage, ObservationAdvantage)
