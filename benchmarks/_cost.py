"""What a step costs: processor seconds, and the bytes that the models at work hold whatever the batch is."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from rlkit.trainers.callbacks import Callback

GIB = 2**30
PARTS = ("weights", "gradients", "optimizer")


class CpuClock(Callback):
    """Processor seconds of each step: a busy machine adds little to them, and much to a clock's."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_evaluate(self, trainer: Any, evaluation: Any) -> None:
        self._mark = time.process_time()

    def on_step_end(self, trainer: Any, metrics: Any) -> None:
        now = time.process_time()
        self.seconds.append(now - self._mark)
        self._mark = now


def model_bytes(model: Any, optimizer: Any = None) -> dict[str, int]:
    """Bytes of one model's weights, of their gradients and of AdamW's two moments, counted tensor by tensor.

    ``optimizer``: the rlkit optimizer that trains it, after its first step; None for a frozen model.
    """
    parameters = [model] if hasattr(model, "numel") else list(model.parameters())
    weights = _bytes(parameters)
    if optimizer is None:
        return {"weights": weights, "gradients": 0, "optimizer": 0}
    masters = _bytes(optimizer.masters.values())
    moments = [
        value
        for state in optimizer.adamw.state.values()
        for value in state.values()
        if hasattr(value, "numel") and value.numel() > 1
    ]
    return {
        "weights": weights + masters,
        "gradients": _bytes(optimizer.parameters),
        "optimizer": _bytes(moments),
    }


def by_formula(parameters: int, trained: bool, bits: int = 32) -> dict[str, int]:
    """The same by counting: float32 takes 4 bytes a weight and, trained, 4 of gradient and 8 of AdamW's moments.

    In 16 bits the weights take 2 bytes, and where they are trained 4 more of float32 masters.
    """
    each = 4 if bits == 32 else 2 + 4 * trained
    return {
        "weights": each * parameters,
        "gradients": 4 * parameters * trained,
        "optimizer": 8 * parameters * trained,
    }


def total(models: dict[str, dict[str, int]]) -> int:
    """Bytes of all parts of all models."""
    return sum(sum(parts.values()) for parts in models.values())


def _bytes(tensors: Iterable[Any]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
