"""Play episodes in a `gymnasium` environment, many at a time, and lay them out as padded tensors [N, T].

The layout is that of language models: an episode is a row, a step is a token. So the same formulas apply.
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rlkit.errors import bad_value


class Episodes(NamedTuple):
    """N episodes of up to T steps; 0 (False) after an episode's last step."""

    states: Tensor  # [N, T] int64: what was seen
    actions: Tensor  # [N, T] int64: what was done
    rewards: Tensor  # [N, T] float64: what came of it
    next_states: Tensor  # [N, T] int64: what was seen then
    terminated: (
        Tensor  # [N, T] bool: the world ended there, nothing follows; False where it was merely cut off
    )
    mask: Tensor  # [N, T] bool: this step was made

    @property
    def returns(self) -> Tensor:  # [N]
        """Rewards of each episode added up, undiscounted."""
        return self.rewards.sum(1)


@dataclass(slots=True)
class History:
    """What a training was: its policy and value function (trained in place), and a dict of numbers for each update.

    ``history["return"]`` is the column of that name. All have "update", "steps" (of the environment, so far),
    "return" (mean of the update's episodes), "length", "entropy" (nats) and "loss"; those with a value function
    "value_loss".
    """

    policy: nn.Module
    value: nn.Module | None = None
    rows: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    _start: float = field(default_factory=time.perf_counter)

    def add(self, batch: Episodes, **numbers: Tensor | float) -> None:
        """Note an update: the episodes that it learned from, and what else is known."""
        steps = int(batch.mask.sum())
        before = int(self.rows[-1]["steps"]) if self.rows else 0
        row = {"update": len(self.rows) + 1, "steps": before + steps, "return": float(batch.returns.mean())}
        row["length"] = steps / len(batch.mask)
        self.rows.append(
            row | {name: float(torch.as_tensor(number).detach()) for name, number in numbers.items()}
        )
        self.seconds = time.perf_counter() - self._start

    def __getitem__(self, name: str) -> list[float]:
        return [row[name] for row in self.rows]

    def __repr__(self) -> str:
        if not self.rows:
            return "History(no updates)"
        first, last = self.rows[0]["return"], self.rows[-1]["return"]
        return f"History({len(self.rows)} updates, return {first:.3f} → {last:.3f}, {self.seconds:.1f} s)"


def copies(env: Any, count: int, seed: int) -> list[Any]:
    """`count` copies of an environment, each with luck of its own that follows from `seed`."""
    if count < 1:
        raise bad_value("episodes", count, "1 or more")
    made = [copy.deepcopy(env) for _ in range(count)]
    for i, one in enumerate(made):
        one.reset(seed=1_000_003 * seed + i)
    return made


@torch.no_grad()
def sample_episodes(
    envs: list[Any], policy: nn.Module, generator: torch.Generator, max_steps: int = 10_000
) -> Episodes:
    """Play one episode in each of N environments with actions drawn from the policy; all go in step.

    `policy` takes states [n] and gives logits [n, A]. An episode of `max_steps` is cut off.
    """
    observed = [int(env.reset()[0]) for env in envs]
    going = list(range(len(envs)))
    made: list[tuple[int, int, int, int, int, bool, float]] = []  # a row for each step of each episode
    t = 0
    while going and t < max_steps:
        shares = policy(torch.tensor([observed[i] for i in going])).softmax(-1)  # [n, A]
        actions = torch.multinomial(shares, 1, generator=generator)[:, 0].tolist()  # [n]
        still = []
        for i, action in zip(going, actions):
            after, reward, terminated, truncated, _info = envs[i].step(action)
            made.append((i, t, observed[i], action, int(after), bool(terminated), float(reward)))
            observed[i] = int(after)
            if not (terminated or truncated):
                still.append(i)
        going, t = still, t + 1
    columns = [torch.tensor(column) for column in list(zip(*made))[:-1]]  # [all steps] each
    who, when, seen, done, following, ends = columns
    rewards = torch.tensor([step[-1] for step in made], dtype=torch.float64)  # [all steps]

    def laid_out(values: Tensor) -> Tensor:  # [N, T]
        return torch.zeros(len(envs), int(when.max()) + 1, dtype=values.dtype).index_put((who, when), values)

    parts = (seen, done, rewards, following, ends, torch.ones_like(ends))
    return Episodes(*(laid_out(part) for part in parts))
