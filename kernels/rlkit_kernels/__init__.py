"""Triton kernels for reinforcement learning of language models: log-probabilities, the loss, fp8 products.

Needs torch and triton only. Nothing is imported before it is asked for, so that `available()` answers everywhere.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

_HOMES = {
    "LinearLogprob": "linear_logprob",
    "linear_logprob": "linear_logprob",
    "GrpoLoss": "grpo_loss",
    "grpo_loss": "grpo_loss",
    "Fp8Weight": "fp8",
    "dequantise_fp8": "fp8",
    "fp8_linear": "fp8",
    "fp8_linear_reference": "fp8",
    "quantise_fp8": "fp8",
}
__all__ = ["available", *_HOMES]


def available() -> bool:
    """Can the kernels run here: is there Triton, and a GPU of compute capability 7.5 or its interpreter?"""
    if find_spec("triton") is None:
        return False
    import torch

    from rlkit_kernels.variants import interpreting

    if interpreting():
        return True
    return (
        torch.cuda.is_available()
        and torch.version.hip is None
        and torch.cuda.get_device_capability() >= (7, 5)
    )


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'rlkit_kernels' has no attribute {name!r}")
    value = getattr(import_module(f"rlkit_kernels.{_HOMES[name]}"), name)
    # Importing a module of the same name has set the attribute to that module: put the function back
    globals()[name] = value
    return value
