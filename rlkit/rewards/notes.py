"""What a reward function may ask and tell a trainer, besides scoring: TRL's trainer_state, log_extra and log_metric.

    def correct(completions, answer, trainer_state, log_metric, log_extra, **columns):
        strict = trainer_state.global_step > 100
        …
        log_metric("share_of_empty", empty / len(completions))      # a line in metrics.jsonl
        log_extra("answer_read", answers)                           # a value in every sample

A function gets those that it names. https://huggingface.co/docs/trl/main/en/grpo_trainer describes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple


class TrainerState(NamedTuple):
    """How far training is; fields as in transformers' TrainerState."""

    global_step: int = 0  # finished steps
    max_steps: int = 0


class RewardNotes:
    """What the reward functions of one rollout said besides their scores.

    Attributes:
        state: what they are given as ``trainer_state``.
        count: completions in the batch.
    """

    def __init__(self, state: TrainerState | None = None, count: int = 0) -> None:
        self.state = TrainerState() if state is None else state
        self.count = count
        self._metrics: dict[str, list[float]] = {}
        self._columns: dict[str, list[Any]] = {}

    def given(self) -> dict[str, Any]:
        """The arguments by their names."""
        return {"trainer_state": self.state, "log_extra": self.log_extra, "log_metric": self.log_metric}

    def log_metric(self, name: str, value: float) -> None:
        """Note a number about the batch; several of one name are averaged."""
        self._metrics.setdefault(str(name), []).append(float(value))

    def log_extra(self, column: str, values: Sequence[Any]) -> None:
        """Note one value for each completion.

        Ignored where there are not as many as completions: a function that failed is asked about single ones.
        """
        if len(values) == self.count:
            self._columns[str(column)] = list(values)

    @property
    def metrics(self) -> dict[str, float]:
        """The mean of each metric."""
        return {name: sum(values) / len(values) for name, values in self._metrics.items()}

    @property
    def columns(self) -> dict[str, list[Any]]:
        """Each column's values, one a completion."""
        return self._columns
