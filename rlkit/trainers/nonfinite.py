"""Gradients that are not finite: keep the batch that led there, and end a run in which they do not stop."""

from __future__ import annotations

import warnings
from typing import Any

import torch

from rlkit.errors import TrainingError
from rlkit.runs import RunWriter

MAX_SKIPPED = 3  # steps in a row


class NonfiniteGradients:
    """Counts the steps in a row whose gradient was not finite; ``count`` is part of a checkpoint."""

    def __init__(self) -> None:
        self.count = 0

    def saw(self, skipped: bool, step: int, run: RunWriter, kept: dict[str, Any], applied: int) -> None:
        """Take note of a step; where it was ``skipped``, save ``kept`` in ``<run>/nonfinite`` and say so.

        Args:
            applied: optimizer steps of this step that were taken before.
        """
        self.count = self.count + 1 if skipped else 0
        if not skipped:
            return
        folder = run.directory / "nonfinite"
        folder.mkdir(exist_ok=True)
        path = folder / f"step_{step:06d}.pt"
        torch.save(kept, path)
        which = f"update {applied + 1}" if applied else "the update"
        message = f"step {step}: the gradient is not finite; {which} is skipped, its batch is in {path}"
        run.note(message)
        warnings.warn(message, RuntimeWarning, stacklevel=3)

    def check(self, step: int, run: RunWriter, learning_rate: float) -> None:
        """End the run after too many.

        Raises:
            TrainingError: the last ``MAX_SKIPPED`` gradients were not finite.
        """
        if self.count >= MAX_SKIPPED:
            raise TrainingError(
                f"{MAX_SKIPPED} non-finite gradients in a row, last at step {step}. All steps and the batches are in "
                f"{run.directory}. Likely causes: a learning rate that is too high ({learning_rate:g} now), float16 "
                "without loss scaling, or a broken checkpoint"
            )
