"""Who computes log-probabilities: the Triton kernels of `rlkit_kernels`, or torch in tiles.

Triton on an NVIDIA GPU, torch elsewhere and for float64. The environment variable ``RLKIT_KERNELS`` forces one:
``torch`` or ``triton`` (on a CPU that needs ``TRITON_INTERPRET=1``). Left alone, the kernels must first agree with
torch on a few rows on that GPU; where they do not, torch it is, with a warning.
"""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rlkit.errors import bad_value, unknown_name
from rlkit.logprob_tiles import Job, TiledLogprob

KERNELS = ("auto", "torch", "triton")


def triton_form(hidden: Tensor) -> Callable[..., Any] | None:
    """The Triton form of `linear_logprob` where it is to be used on `hidden`, else None.

    Raises `ConfigError` where ``RLKIT_KERNELS`` asks for what there is not.
    """
    wanted = os.environ.get("RLKIT_KERNELS") or "auto"
    if wanted not in KERNELS:
        raise unknown_name("RLKIT_KERNELS", wanted, KERNELS)
    if wanted == "torch" or hidden.dtype == torch.float64 or (wanted == "auto" and not hidden.is_cuda):
        return None
    try:
        import rlkit_kernels

        there = rlkit_kernels.available()
    except ImportError:
        there = False
    if there and (hidden.is_cuda or os.environ.get("TRITON_INTERPRET") == "1"):
        if wanted == "auto" and not proven(hidden.device, hidden.dtype):
            return None
        fused: Callable[..., Any] = rlkit_kernels.linear_logprob
        return fused
    if wanted == "triton":
        cause = f"Here: {hidden.device.type}, Triton's kernels {'work' if there else 'do not work'}."
        allowed = "torch, auto, or triton with an NVIDIA GPU of capability 7.5 or with TRITON_INTERPRET=1"
        raise bad_value("RLKIT_KERNELS", wanted, allowed, cause)
    return None


@functools.cache
def proven(device: torch.device, dtype: torch.dtype) -> bool:
    """Do the Triton kernels give the torch tiles' numbers on this device? Asked once, on a few rows; warns if not."""
    import rlkit_kernels

    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(33, 64, generator=generator).to(device, dtype)  # [N, H]
    weight = torch.randn(257, 64, generator=generator).to(device, dtype)  # [V, H]
    targets = torch.arange(33, device=device)  # [N]
    try:
        with torch.enable_grad():
            mine = hidden.clone().requires_grad_()
            found = rlkit_kernels.linear_logprob(mine, weight, targets)
            found.logprobs.sum().backward()
            theirs = hidden.float().requires_grad_()
            job = Job(33, 257, False, False, True)
            wanted = TiledLogprob.apply(theirs, weight.float(), None, targets, theirs.new_ones(33), None, job)
            wanted[0].sum().backward()
        pairs = ((found.logprobs, wanted[0]), (mine.grad, theirs.grad))
        gap = max(float((a.float() - b).detach().abs().max() / b.detach().abs().max()) for a, b in pairs)  # type: ignore[union-attr]
        problem = "" if gap <= 0.02 else f"they differ from torch by {gap:.1%}"
    except Exception as error:  # a compiler's, a driver's, a launch's
        problem = f"{type(error).__name__}: {str(error).strip():.300}"
    if problem:
        warnings.warn(
            f"the Triton kernels do not work on {device} ({problem}); torch computes log-probabilities instead. "
            "RLKIT_KERNELS=torch says so without asking",
            RuntimeWarning,
            stacklevel=2,
        )
    return not problem
