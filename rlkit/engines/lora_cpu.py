"""LoRA on vLLM's CPU build as what it is with one adapter: two small matrix products.

vLLM lets every token of a batch carry another adapter, and its CPU version therefore gathers a copy of A and B *per
token* in every layer, which halves the throughput of a small model. Our requests all carry the policy's one
adapter, so ``y += (x Aᵀ) Bᵀ`` over the whole batch is the same. GPUs keep vLLM's own kernels.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch.nn.functional import linear


def use_dense_lora(vllm_model: Any) -> None:
    """Let this engine's LoRA layers multiply densely. For CPUs and engines with room for one adapter."""
    assert vllm_model.lora_manager.lora_slots == 1
    for wrapper in set(vllm_model.lora_manager.punica_wrapper_mapping.values()):
        wrapper.add_lora_linear = MethodType(_add_lora_linear, wrapper)


def _add_lora_linear(
    self: Any,
    y: torch.Tensor,  # [tokens, out]: all slices (q, k, v) side by side
    x: torch.Tensor,  # [tokens, in]
    lora_a_stacked: tuple[torch.Tensor, ...],  # per slice [adapters, 1, r, in]
    lora_b_stacked: tuple[
        torch.Tensor, ...
    ],  # per slice [adapters, 1, out of the slice, r], α/r multiplied in
    scale: float,
    output_slices: tuple[int, ...],
    **kwargs: Any,
) -> None:
    """y += scale · (x Aᵀ) Bᵀ, slice by slice, in the rows that carry the adapter."""
    if self.no_lora:  # warm-up runs
        return
    x, y = x.view(-1, x.shape[-1]), y.view(-1, y.shape[-1])
    start = 0
    for a, b, width in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
        down = linear(x, a[0, 0])  # [tokens, r]; slot 0 is the only one
        if self.batch_size != 1:  # runs of equal rows: some have no adapter
            down = down * (self.token_lora_indices >= 0).unsqueeze(-1)
        y[:, start : start + width].addmm_(down, b[0, 0].T, alpha=scale)
        start += width
