"""Playing PacmanGrid step by step, by hand or by a policy, with what planning knows about every state."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlkit.errors import ConfigError, bad_value, unknown_name
from rlkit.lab.pacman import ACTIONS, PacmanGrid
from rlkit.lab.planning import expected_return, optimal_return, policy_evaluation, value_iteration

#: What can be typed for an action; the order is that of `ACTIONS`.
KEYS = ("w", "a", "d", "s")
ARROWS = ("↑", "←", "→", "↓")
NAMED = ("optimal", "uniform")  # policies that need no training


class Move(NamedTuple):
    """One step that was made."""

    step: int  # 1, 2, …
    state: int
    action: int
    reward: float
    next_state: int
    by: str  # "you" or "policy"
    slipped: bool  # the world went another way than was meant


class GridWorldModel:
    """A world, a policy, and an episode that is being played.

    Args:
        env: a `PacmanGrid` (also as `gymnasium.make` wraps it); a copy of it is played.
        policy: "optimal", "uniform", probabilities [S, A], or anything with `probabilities()` as `lab.TabularPolicy`
            and what the lab's methods return.
        gamma: the discount of values and planning; returns are undiscounted.
        seed: decides the slips, and what the policy draws.

    Raises `ConfigError` for another environment, a policy of another shape, or one that is no distribution.
    """

    def __init__(self, env: Any = None, policy: Any = None, gamma: float = 1.0, seed: int = 0) -> None:
        world = PacmanGrid() if env is None else getattr(env, "unwrapped", env)
        if not isinstance(world, PacmanGrid):
            raise bad_value("env", env, "a lab.PacmanGrid", "Other environments have no picture here.")
        self.env: PacmanGrid = copy.deepcopy(world)
        self.gamma, self.seed = gamma, seed
        self.plan = value_iteration(self.env.model, gamma)
        self.best = optimal_return(self.env.model, gamma)
        self.use(policy)
        self.reset()

    # -- the policy -------------------------------------------------------------------------------------

    def use(self, policy: Any = None) -> None:
        """Take another policy (None: "optimal"); its values are worked out at once."""
        shape = tuple(self.env.model.next_state.shape[:2])
        if policy is None or isinstance(policy, str):
            name = policy or "optimal"
            if name not in NAMED:
                raise unknown_name("policy", name, NAMED, "Or give probabilities [S, A].")
            table = self.plan.policy if name == "optimal" else torch.full(shape, 1 / shape[1]).double()
        else:
            name = type(policy).__name__
            table = policy.probabilities() if hasattr(policy, "probabilities") else torch.as_tensor(policy)
        self.values = policy_evaluation(
            self.env.model, table, self.gamma
        )  # [S]; says what is wrong with a table
        self.policy, self.policy_name = table.detach().double(), name  # [S, A]
        self.expected = expected_return(self.env.model, self.policy, self.gamma)

    # -- the episode ------------------------------------------------------------------------------------

    def reset(self, seed: int | None = None) -> None:
        """A new episode; with a seed the luck is that of this seed again, else it goes on."""
        fresh = seed if seed is not None else (self.seed if not hasattr(self, "_luck") else None)
        if fresh is not None:
            self._luck = torch.Generator().manual_seed(fresh)
        self.state, _ = self.env.reset(seed=fresh)
        self.moves: list[Move] = []
        self.truncated = False

    @property
    def over(self) -> bool:
        """Whether the episode has ended."""
        return self.truncated or self.env.outcome != "playing"

    @property
    def outcome(self) -> str:
        """ "playing", "won", "lost", or "cut off" after `max_steps`."""
        return "cut off" if self.truncated else self.env.outcome

    @property
    def total(self) -> float:
        """The return so far, undiscounted."""
        return sum(move.reward for move in self.moves)

    def go(self, action: int | str, by: str = "you") -> Move:
        """Make a step: a number from 0 to 3, a name of `ACTIONS`, a key (w a s d) or an arrow.

        Raises `ConfigError` for anything else, and where the episode is over.
        """
        if self.over:
            raise ConfigError(f"the episode is over ({self.outcome}). Begin a new one")
        number = self._number(action)
        before = self.state
        meant = int(self.env.model.next_state[before, number, 0])
        self.state, reward, _ended, self.truncated, _info = self.env.step(number)
        move = Move(len(self.moves) + 1, before, number, float(reward), self.state, by, self.state != meant)
        self.moves.append(move)
        return move

    def act(self) -> Move:
        """Let the policy make a step: drawn from its probabilities in this state."""
        if self.over:
            raise ConfigError(f"the episode is over ({self.outcome}). Begin a new one")
        action = int(torch.multinomial(self.policy[self.state], 1, generator=self._luck))
        return self.go(action, by="policy")

    @staticmethod
    def _number(action: int | str) -> int:
        if isinstance(action, str):
            word = action.strip()
            for words in (KEYS, tuple(name.lower() for name in ACTIONS), ARROWS):
                if word.lower() in words:
                    return words.index(word.lower())
            raise unknown_name("action", action, [*KEYS, *ACTIONS, *ARROWS])
        if action not in range(len(ACTIONS)):
            raise bad_value("action", action, "0 UP, 1 LEFT, 2 RIGHT, 3 DOWN")
        return int(action)

    # -- what is known about here -----------------------------------------------------------------------

    def table(self, kind: str) -> tuple[Tensor | None, Tensor | None]:
        """(values [S], arrows [S, A]) to draw: kind "nothing", "policy" (its values) or "optimal"."""
        if kind == "nothing":
            return None, None
        return (self.plan.values, self.plan.policy) if kind == "optimal" else (self.values, self.policy)

    def here(self) -> list[tuple[str, float, float]]:
        """The four actions in this state: (name, the policy's probability, Q* of planning)."""
        chances, best = self.policy[self.state].tolist(), self.plan.action_values[self.state].tolist()
        return [(name, chances[i], best[i]) for i, name in enumerate(ACTIONS)]

    def picture(self, kind: str = "nothing") -> str:
        """The world as SVG, with values and arrows of `kind` (see `table`)."""
        values, policy = self.table(kind)
        return self.env.svg(values, policy)
