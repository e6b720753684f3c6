"""What a task is: problems to train on, problems to be judged by, and a verifier that knows right from wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, repr=False)
class Task:
    """A data set with its verifier and the reward functions that suit it.

    `train` and `test` are lists of rows, dicts of plain values: `prompt` (a string, or a list of chat messages)
    and whatever columns the reward functions need, such as `answer`. They share no problem. `verifier(completion,
    **columns)` is True where a completion solves the row with these columns. `reward_funcs` are what one
    would start training with; nothing ties the task to them.
    """

    name: str
    train: list[dict[str, Any]]
    test: list[dict[str, Any]]
    verifier: Callable[..., bool]
    reward_funcs: tuple[Callable[..., Any], ...]
    description: str = ""

    def __repr__(self) -> str:
        rewards = ", ".join(getattr(f, "__name__", repr(f)) for f in self.reward_funcs)
        example = f"; e.g. {self.train[0]}" if self.train else ""
        return f"Task({self.name!r}: {len(self.train)} train, {len(self.test)} test; rewards: {rewards}{example})"
