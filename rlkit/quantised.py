"""4-bit base models for QLoRA: how a model is loaded in NF4, made fit for training, and taken out of NF4 again.

NF4 with double quantisation as in Dettmers et al., "QLoRA: Efficient Finetuning of Quantized LLMs" (2023): each block
of 64 weights is stored as 4-bit indices into the quantiles of a normal distribution and one scale; the scales are
quantised themselves. Matrix products are computed in the model's dtype. Embeddings and output head stay as they are.
"""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from rlkit.errors import bad_value

# On import (peft imports it too) bitsandbytes advises a kernel for CPUs, which `prepare_nf4` would keep unused.
logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(
    lambda record: "gemm_4bit" not in str(record.msg)
)


def check_bitsandbytes() -> None:
    """Raise `ConfigError` where bitsandbytes is missing."""
    if find_spec("bitsandbytes") is None:
        cause = (
            "bitsandbytes, which does the quantising, is not installed: python -m pip install bitsandbytes"
        )
        raise bad_value("load_in_4bit", True, "False on this machine", cause)


def nf4_keywords(dtype: str | torch.dtype, place: torch.device) -> dict[str, Any]:
    """What ``from_pretrained`` is told for NF4 with matrix products in ``dtype``, right on its device."""
    from transformers import BitsAndBytesConfig

    compute = getattr(torch, str(dtype).removeprefix("torch."))
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
    )
    return {"quantization_config": settings, "device_map": {"": str(place)}}


def prepare_nf4(model: nn.Module) -> None:
    """Freeze a 4-bit model and keep its bytes as they are. In place.

    On CPUs with AVX512-BF16, bitsandbytes 0.50 repacks a layer's weights in place at the first forward pass in eval
    mode, computes in bfloat16 from then on whatever the compute dtype, and has no backward pass for the repacked form:
    adapters before such a layer get a gradient of zero, and torch only warns. RL samples and trains with the same
    module, always in eval mode, so that path is switched off layer by layer.

    peft's ``prepare_model_for_kbit_training`` is not used: it copies all that is not quantised to float32, so that the
    norms would differ from those of the engine, and turns gradient checkpointing on.
    """
    from bitsandbytes.nn import Linear4bit

    model.requires_grad_(False)
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def is_nf4(model: Any) -> bool:
    """Whether the base is held in 4 bits by bitsandbytes; works for an adapter model too."""
    return bool(getattr(model, "is_loaded_in_4bit", False))


def dequantised(weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A weight as an ordinary matrix [out, in] in ``dtype``; one that is not quantised is returned as it is."""
    state = getattr(weight, "quant_state", None)
    if state is None:
        return weight.detach()
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(weight.detach(), state).to(dtype)  # [out, in]


def parameter_count(model: nn.Module) -> int:
    """Numbers in all parameters; of a packed 4-bit matrix those that it stands for."""
    total = 0
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        total += parameter.numel() if state is None else state.shape.numel()
    return total
