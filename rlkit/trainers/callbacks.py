"""Hooks into the training loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlkit.rollout import Evaluation, Metrics


class Callback:
    """Override what you need. Every hook gets the trainer; ``trainer.stop()`` ends training after this step.

    >>> class StopWhenRight(Callback):
    ...     def on_evaluate(self, trainer, evaluation):
    ...         if evaluation.accuracy_greedy >= 0.95:
    ...             trainer.stop("95 % right on held-out problems")
    """

    def on_train_begin(self, trainer: Any) -> None: ...

    def on_step_end(self, trainer: Any, metrics: Metrics) -> None: ...

    def on_evaluate(self, trainer: Any, evaluation: Evaluation) -> None: ...

    def on_train_end(self, trainer: Any, summary: dict[str, Any]) -> None: ...


class StopAtAccuracy(Callback):
    """Ends training once the greedy held-out accuracy reaches ``target``."""

    def __init__(self, target: float) -> None:
        self.target = target

    def on_train_begin(self, trainer: Any) -> None:
        if (
            trainer.evaluations and trainer.evaluations[-1].step == trainer.step_index
        ):  # a run that was resumed
            self.on_evaluate(trainer, trainer.evaluations[-1])

    def on_evaluate(self, trainer: Any, evaluation: Evaluation) -> None:
        found = evaluation.accuracy_greedy
        if found is not None and found >= self.target and trainer.step_index:
            trainer.stop(f"held-out accuracy {found:.3f} reached target_accuracy {self.target:g}")
