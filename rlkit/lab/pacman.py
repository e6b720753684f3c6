"""PacmanGrid: the smallest world with all that reinforcement learning has: states, actions, rewards and an end.

Pac-Man (P) walks UP, LEFT, RIGHT or DOWN on a grid, eats cookies (.) and must not meet an enemy (E). Enemies stay
where they are, so a state is Pac-Man's cell together with the cookies that are left, and all states can be listed.
The rules are one table, `PacmanGrid.model`: `step` draws from it and `rlkit.lab.planning` computes with it.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import torch
from torch import Tensor

from rlkit.errors import bad_value, unknown_name
from rlkit.lab.pacman_svg import draw
from rlkit.lab.planning import TransitionModel

ACTIONS = ("UP", "LEFT", "RIGHT", "DOWN")
MOVES = ((-1, 0), (0, -1), (0, 1), (1, 0))  # rows down, columns to the right
SIDEWAYS = ((1, 2), (0, 3), (0, 3), (1, 2))  # the two actions across each action

#: P start, . cookie, E enemy, # wall, space free.
MAPS: dict[str, tuple[str, ...]] = {
    "first": ("P .", "  E", ". ."),
    "guide": ("P  .", " #E ", ".   ", " E ."),
    "corridor": ("E  P  .",),
    "cliff": ("      ", "      ", "PEEEE."),  # slippery: the short way is not the good way
    "maze": ("P#   .", " # ## ", "   #E ", " ## # ", ".  E  "),
}
MAX_STATES = 20_000

Cell = tuple[int, int]
State = tuple[Cell, frozenset[Cell]]  # where Pac-Man is, and which cookies are left


class PacmanGrid(gymnasium.Env[Any, Any]):
    """Pac-Man on a grid: after ``import rlkit.lab`` also ``gymnasium.make("rlkit/PacmanGrid-v0")``.

    Args:
        grid: the name of a built-in map (`MAPS`), or rows of equal length made of ``P . E #`` and spaces.
        slip: the probability that a step goes to one side of where it was meant to go, half for each side; 0 is
            deterministic.
        cookie, enemy, step: rewards for eating a cookie, for meeting an enemy, and for every step.
        max_steps: the episode is cut off (truncated) after so many steps.
        render_mode: "svg" (a picture as text), "ansi" (characters), or None.

    An observation is the number of the state, from 0 (the start); an action is a number from 0 to 3, in the order of
    `ACTIONS`. Whoever walks into a wall stays. The episode terminates when the last cookie is eaten (won) or an enemy
    is met (lost). ``info`` has "outcome" ("playing", "won", "lost") and "cookies_left".

    A notebook shows the environment (``env``, or ``env.unwrapped`` of what ``gymnasium.make`` returns) as a picture.

    Attributes:
        model: the rules, a `TransitionModel`; its horizon is `max_steps`.
        states: what the numbers stand for, (cell, cookies left).
        features: [S, D] float64 for networks: one-hot cell, then one 0/1 a cookie that is left.

    Raises `ConfigError` for an unknown map, a grid that is not as described, and settings out of range.
    """

    metadata = {"render_modes": ["svg", "ansi"], "render_fps": 4}  # noqa: RUF012  # as gymnasium declares it

    def __init__(
        self,
        grid: str | Sequence[str] = "guide",
        *,
        slip: float = 0.0,
        cookie: float = 1.0,
        enemy: float = -1.0,
        step: float = -0.01,
        max_steps: int = 50,
        render_mode: str | None = None,
    ) -> None:
        if isinstance(grid, str) and grid not in MAPS:
            raise unknown_name("map of PacmanGrid", grid, MAPS, "Or give its rows, such as ('P .', ' E ').")
        self.rows = MAPS[grid] if isinstance(grid, str) else tuple(grid)
        _check(self.rows, slip, max_steps, render_mode)
        self.slip, self.max_steps, self.render_mode = slip, max_steps, render_mode
        self.rewards = {"cookie": cookie, "enemy": enemy, "step": step}
        self.states = self._reachable()
        self.model = self._rules()
        self.features = self._features()  # [S, D]
        # The same table as plain numbers: a step then takes a microsecond.
        self._outcomes: list[list[list[int]]] = self.model.next_state.tolist()
        self._gains: list[list[list[float]]] = self.model.reward.tolist()
        self._ends: list[bool] = self.model.terminal.tolist()
        self.observation_space = gymnasium.spaces.Discrete(len(self.states))
        self.action_space = gymnasium.spaces.Discrete(len(ACTIONS))
        self._state, self._steps = 0, 0

    # -- gymnasium's interface ---------------------------------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Begin an episode; returns (observation, info). `seed` decides how one slips; `options` are ignored."""
        super().reset(seed=seed)
        self._state, self._steps = 0, 0
        return self._state, self._info()

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        """Go one step; returns (observation, reward, terminated, truncated, info)."""
        if action not in (0, 1, 2, 3):
            raise bad_value("action", action, "0 UP, 1 LEFT, 2 RIGHT, 3 DOWN")
        if self._ends[self._state]:
            raise bad_value("action", action, "none before reset()", f"The episode is over: {self.outcome}.")
        k = 0
        if self.slip:
            luck = float(self.np_random.random())
            k = 0 if luck < 1 - self.slip else 1 if luck < 1 - self.slip / 2 else 2
        reward = self._gains[self._state][action][k]
        self._state = self._outcomes[self._state][action][k]
        self._steps += 1
        ended = self._ends[self._state]
        return self._state, reward, ended, self._steps >= self.max_steps and not ended, self._info()

    def render(self) -> str | None:  # type: ignore[override]
        """The state as SVG or as characters, as `render_mode` says; None without one."""
        if self.render_mode == "svg":
            return self.svg()
        return "\n".join(self._characters()) if self.render_mode == "ansi" else None

    def __deepcopy__(self, memo: dict[int, Any]) -> PacmanGrid:
        """A copy with luck of its own; the rules never change, so copies share them."""
        twin = copy.copy(self)
        for name in ("_np_random", "action_space", "observation_space"):
            setattr(twin, name, copy.deepcopy(getattr(self, name), memo))
        return twin

    # -- pictures ----------------------------------------------------------------------------------------------

    @property
    def outcome(self) -> str:
        """ "playing", "won" (all cookies eaten) or "lost" (an enemy met)."""
        if not self._ends[self._state]:
            return "playing"
        return "lost" if self._at(self.states[self._state][0]) == "E" else "won"

    def svg(self, values: Tensor | None = None, policy: Tensor | None = None) -> str:
        """The state as an SVG picture with a description inside.

        `values` [S] are written into the cells, and `policy` [S, 4] is drawn as arrows (each as long as its
        probability): for every cell Pac-Man could be in while the cookies that are left now are left.
        """
        place, cookies = self.states[self._state]
        here = {
            cell: i for i, (cell, left) in enumerate(self.states) if left == cookies and not self._ends[i]
        }
        return draw(
            self.rows,
            place,
            cookies,
            self.outcome,
            self._steps,
            values=None if values is None else {cell: float(values[i]) for cell, i in here.items()},
            policy=None if policy is None else {cell: policy[i].tolist() for cell, i in here.items()},
        )

    def _repr_svg_(self) -> str:
        return self.svg()

    def _repr_html_(self) -> str:
        return f"<div>{self.svg()}</div>"

    def _characters(self) -> list[str]:
        place, cookies = self.states[self._state]
        rows = [re.sub("[P.]", " ", row) for row in self.rows]
        for marks, mark in ((cookies, "."), ((place,), "P" if self.outcome != "lost" else "X")):
            for r, c in marks:
                rows[r] = rows[r][:c] + mark + rows[r][c + 1 :]
        return rows

    # -- the rules ---------------------------------------------------------------------------------------------

    def _info(self) -> dict[str, Any]:
        return {"outcome": self.outcome, "cookies_left": len(self.states[self._state][1])}

    def _at(self, cell: Cell) -> str:
        r, c = cell
        return self.rows[r][c] if 0 <= r < len(self.rows) and 0 <= c < len(self.rows[0]) else "#"

    def _ended(self, state: State) -> bool:
        return not state[1] or self._at(state[0]) == "E"

    def _go(self, state: State, move: int) -> tuple[State, float]:
        """Where a move leads, and its reward."""
        (r, c), cookies = state
        there = (r + MOVES[move][0], c + MOVES[move][1])
        cell = state[0] if self._at(there) == "#" else there
        reward = self.rewards["step"]
        reward += self.rewards["cookie"] * (cell in cookies) + self.rewards["enemy"] * (self._at(cell) == "E")
        return (cell, cookies - {cell}), reward

    def _reachable(self) -> list[State]:
        """All states that can be reached, breadth first: the start is number 0."""
        cells = [(r, c) for r in range(len(self.rows)) for c in range(len(self.rows[0]))]
        start = next(cell for cell in cells if self._at(cell) == "P")
        states: dict[State, None] = {
            (start, frozenset(cell for cell in cells if self._at(cell) == ".")): None
        }
        queue = list(states)
        for state in queue:  # grows while it is read
            if self._ended(state):
                continue
            for after in (self._go(state, move)[0] for move in range(len(MOVES))):
                if after not in states:
                    states[after] = None
                    queue.append(after)
            if len(states) > MAX_STATES:
                cause = "Each cookie doubles their number; ten on a small grid are a lot."
                raise bad_value("grid", self.rows, f"a map with at most {MAX_STATES:,} states", cause)
        return queue

    def _rules(self) -> TransitionModel:
        number = {state: i for i, state in enumerate(self.states)}
        meant = torch.tensor(
            [1 - self.slip, self.slip / 2, self.slip / 2] if self.slip else [1.0]
        ).double()  # [K]
        shape = (len(self.states), len(ACTIONS), len(meant))  # [S, A, K]
        following = torch.arange(shape[0])[:, None, None].repeat(
            1, shape[1], shape[2]
        )  # an end leads to itself
        reward = torch.zeros(shape, dtype=torch.float64)
        terminal = torch.tensor([self._ended(state) for state in self.states])  # [S]
        for i, state in enumerate(self.states):
            for action in range(0 if terminal[i] else len(ACTIONS)):
                for k, move in enumerate((action, *SIDEWAYS[action])[: len(meant)]):
                    after, reward[i, action, k] = self._go(state, move)
                    following[i, action, k] = number[after]
        start = torch.zeros(shape[0], dtype=torch.float64)  # [S]
        start[0] = 1.0
        return TransitionModel(following, meant.expand(shape), reward, terminal, start, self.max_steps)

    def _features(self) -> Tensor:  # [S, D]
        cells = {cell: i for i, cell in enumerate(sorted({cell for cell, _ in self.states}))}
        cookies = {cell: len(cells) + i for i, cell in enumerate(sorted(self.states[0][1]))}
        features = torch.zeros(len(self.states), len(cells) + len(cookies), dtype=torch.float64)
        for i, (cell, left) in enumerate(self.states):
            features[i, [cells[cell], *(cookies[one] for one in left)]] = 1.0
        return features


def _check(rows: tuple[str, ...], slip: float, max_steps: int, render_mode: str | None) -> None:
    text = "".join(rows)
    if not rows or len({len(row) for row in rows}) != 1 or not re.fullmatch(r"[P.E# ]+", text):
        raise bad_value(
            "grid", rows, "rows of equal length, made of P (start), . (cookie), E, # (wall) and spaces"
        )
    if text.count("P") != 1 or "." not in text:
        raise bad_value("grid", rows, "a map with one P and at least one cookie (.)")
    if not 0 <= slip <= 1:
        raise bad_value("slip", slip, "a probability from 0 to 1")
    if not isinstance(max_steps, int) or isinstance(max_steps, bool) or max_steps < 2:
        raise bad_value("max_steps", max_steps, "a whole number of steps, 2 or more")
    if render_mode not in (None, *PacmanGrid.metadata["render_modes"]):
        raise bad_value("render_mode", render_mode, '"svg", "ansi" or None')
