"""A model's weights to disk and back into the very same tensors; and a digest that tells one model from another."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from rlkit.adapters import is_adapter_model
from rlkit.errors import TrainingError
from rlkit.hub import quiet_transformers

_SAMPLE = 4096  # values of each tensor that go into a digest


def fingerprint(model: Any, *, frozen_only: bool = False) -> str:
    """A digest of names, shapes, dtypes and (sampled) values of a model's parameters.

    Two models with the same digest are the same for all purposes but malice: from each tensor at least 4,096 values
    are looked at, evenly spread, and training moves them all. Of quantised weights the scales count too.

    Args:
        frozen_only: leave out what is trained: an adapter's base model keeps its digest throughout a run.
    """
    return values_digest(
        (name, parameter)
        for name, parameter in model.named_parameters()
        if not (frozen_only and parameter.requires_grad)
    )


def values_digest(tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    """The digest behind ``fingerprint``, of any named tensors: 32 hexadecimal digits of BLAKE2b."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in tensors:
        digest.update(f"{name} {_kind(tensor)}\n".encode())
        digest.update(_sample(tensor))
        quantised = getattr(tensor, "quant_state", None)  # bitsandbytes: codes in tensor, scales here
        while quantised is not None:  # double quantisation: the scales are quantised in turn
            digest.update(_sample(quantised.absmax))
            if quantised.offset is not None:
                digest.update(_sample(quantised.offset))
            quantised = quantised.state2
    return digest.hexdigest()


def _sample(tensor: torch.Tensor) -> bytes:
    """Every value of a small tensor, evenly spread ones of a large one, as bytes."""
    flat = tensor.detach().reshape(-1)  # [n]
    stride = (flat.numel() // _SAMPLE) | 1  # odd, so that it does not walk down one column
    return flat[::stride].cpu().contiguous().view(torch.uint8).numpy().tobytes()


def table(weights: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Name → dtype and shape, such as ``"float32 [64, 32]"``."""
    return {name: _kind(tensor) for name, tensor in weights.items()}


def _kind(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def live_weights(model: Any) -> dict[str, torch.Tensor]:
    """The tensors that a checkpoint of ``model`` holds, sharing its memory: all, or those of the active adapters.

    Raises:
        TrainingError: something is trained beside the adapter, and would be lost.
    """
    if not is_adapter_model(model):
        return dict(model.state_dict())
    weights = {
        f"{_prefix(adapter)}{name}": tensor
        for adapter in model.active_adapters
        for name, tensor in _adapter_state(model, adapter).items()
    }
    held = {tensor.data_ptr() for tensor in weights.values()}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter.data_ptr() not in held:
            raise TrainingError(
                f"{name} is trained but belongs to no active adapter ({', '.join(model.active_adapters)}), so a "
                "checkpoint would lose it. Name its module in LoraConfig's modules_to_save, or freeze it"
            )
    return weights


def _adapter_state(model: Any, adapter: str) -> dict[str, torch.Tensor]:
    """One adapter's tensors by the names that peft writes: LoRA's, and whole modules that are trained beside it."""
    from peft import get_peft_model_state_dict

    # Without embeddings that are not trained: peft would ask the Hub whether the vocabulary has grown.
    state: dict[str, torch.Tensor] = get_peft_model_state_dict(
        model, state_dict=_named(model), adapter_name=adapter, save_embedding_layers=False
    )
    return state


def _named(model: Any) -> dict[str, torch.Tensor]:
    """The state dict without what bitsandbytes would pack for it anew at each call."""
    parameters = model.named_parameters(remove_duplicate=False)
    buffers = model.named_buffers(remove_duplicate=False)
    return {name: tensor.detach() for name, tensor in [*parameters, *buffers]}


def _prefix(adapter: str) -> str:
    """Where peft puts an adapter: the one called default at the top, others in a folder of their name."""
    return "" if adapter == "default" else f"{adapter}/"


def save_weights(folder: Path, model: Any) -> None:
    """Write ``model`` (of a peft model: its active adapters) as transformers and peft do."""
    with quiet_transformers():
        if is_adapter_model(model):
            model.save_pretrained(
                folder,
                state_dict=_named(model),
                selected_adapters=list(model.active_adapters),
                save_embedding_layers=False,
            )
        else:
            model.save_pretrained(folder)


def copy_weights(folder: Path, model: Any, digest: str) -> bool:
    """Copy what ``save_weights`` wrote into the model's own tensors.

    Tensor by tensor where the files use the model's names. transformers writes some models otherwise (experts one by
    one that are fused in memory): those go through its own loading, which takes the memory of a second model.

    Returns:
        Whether the model then has the values of ``digest``.
    """
    weights = live_weights(model)
    for copy in (_copy_files, _copy_through_adapter if is_adapter_model(model) else _copy_through_model):
        with torch.no_grad(), quiet_transformers():
            if copy(folder, model, weights) and values_digest(weights.items()) == digest:
                return True
    return False


def _copy_files(folder: Path, model: Any, weights: dict[str, torch.Tensor]) -> bool:
    """Straight from the files; False, with nothing copied, where their names or shapes are not the model's."""
    from safetensors import safe_open

    homes: dict[str, torch.Tensor] = {}
    for path in sorted(folder.rglob("*.safetensors")):
        prefix = "" if path.parent == folder else f"{path.parent.name}/"
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a mapping
                home = weights.get(prefix + name)
                if home is None or list(home.shape) != file.get_slice(name).get_shape():
                    return False
                homes[prefix + name] = home
    # A tied tensor is written once.
    written = {(home.data_ptr(), home.shape) for home in homes.values()}
    if any((tensor.data_ptr(), tensor.shape) not in written for tensor in weights.values()):
        return False
    for path in sorted(folder.rglob("*.safetensors")):
        prefix = "" if path.parent == folder else f"{path.parent.name}/"
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                homes[prefix + name].copy_(file.get_tensor(name))
    return True


def _copy_through_model(folder: Path, model: Any, weights: dict[str, torch.Tensor]) -> bool:
    """By way of a second model that transformers loads."""
    loaded = type(model).from_pretrained(folder, dtype=model.dtype).state_dict()
    if table(loaded) != table(weights):
        return False
    for name, tensor in weights.items():
        tensor.copy_(loaded[name])
    return True


def _copy_through_adapter(folder: Path, model: Any, weights: dict[str, torch.Tensor]) -> bool:
    """By way of peft, which copies in place."""
    from peft import load_peft_weights, set_peft_model_state_dict

    for adapter in model.active_adapters:
        saved = load_peft_weights(str(folder / _prefix(adapter)), device="cpu")
        set_peft_model_state_dict(model, saved, adapter_name=adapter)
    return True
