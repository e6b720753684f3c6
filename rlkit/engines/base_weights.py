"""What a policy's frozen base is called and holds, seen from outside: without adapter, without 4-bit packing.

peft wraps a model (``base_model.model.…``) and every layer that it adapts (``….base_layer.weight``), and
bitsandbytes stores a matrix as packed codes. An engine knows neither: it wants plain names and plain numbers.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from rlkit.adapters import is_adapter_model
from rlkit.quantised import dequantised


def plain_name(name: str) -> str:
    """A base tensor's name as its checkpoint has it.

    >>> plain_name("base_model.model.model.layers.0.self_attn.q_proj.base_layer.weight")
    'model.layers.0.self_attn.q_proj.weight'
    """
    return name.removeprefix("base_model.model.").replace(".base_layer.", ".")


def base_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The base's parameters by plain name, tied ones under each of their names, adapters left out."""
    named = model.named_parameters(remove_duplicate=False)
    if not is_adapter_model(model):
        return dict(named)
    return {plain_name(name): parameter for name, parameter in named if not _is_adapter_key(name)}


def base_state(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """The base's state dict with plain names, one tensor at a time, dequantised where it is quantised."""
    if not is_adapter_model(model) and not is_quantised_model(model):
        yield from model.state_dict().items()
        return
    parameters = base_parameters(model)
    buffers = {plain_name(name) for name, _ in model.named_buffers(remove_duplicate=False)}
    for name, tensor in model.state_dict().items():
        plain = plain_name(name)
        if plain in parameters:
            yield plain, dequantised(parameters[plain], model.dtype)  # type: ignore[arg-type]
        elif plain in buffers:  # bitsandbytes also saves its tables here; an engine has no place for those
            yield plain, tensor


def is_quantised(parameter: torch.Tensor) -> bool:
    """Whether this is a bitsandbytes 4-bit matrix: packed codes with a table to read them by."""
    return getattr(parameter, "quant_state", None) is not None


def is_quantised_model(model: nn.Module) -> bool:
    return any(is_quantised(parameter) for parameter in model.parameters())


def plain_shape(parameter: torch.Tensor) -> torch.Size:
    """The shape of the matrix that a parameter stands for; 4-bit codes lie flat."""
    state = getattr(parameter, "quant_state", None)
    return parameter.shape if state is None else torch.Size(state.shape)


def quantised_layers(model: nn.Module) -> list[nn.Module]:
    """The layers whose weight is 4-bit."""
    weights = ((module, module._parameters.get("weight")) for module in model.modules())
    return [module for module, weight in weights if weight is not None and is_quantised(weight)]


def keep_quantised_as_loaded(model: nn.Module) -> None:
    """Stop bitsandbytes from re-packing 4-bit weights at the first evaluation on a CPU with bfloat16.

    It would round every block's scale to bfloat16 for good and compute in bfloat16 from then on, so the policy that is
    evaluated, and each later gradient, would no longer be those of the model that was loaded; layers whose
    width is no multiple of the block size crash. (bitsandbytes 0.50, ``Linear4bit.forward``.)
    """
    for layer in quantised_layers(model):
        layer.support_avx512bf16_for_cpu = False  # type: ignore[assignment]
        if getattr(layer.weight.quant_state, "packing_format_for_cpu", False):  # type: ignore[union-attr]
            layer.state_dict()  # re-packed already: saving is what undoes it, in place


def _is_adapter_key(name: str) -> bool:
    return any(part.startswith("lora_") for part in name.split("."))
