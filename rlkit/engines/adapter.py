"""Adapter sync: the frozen base goes to vLLM once, the adapter after every update, in place and unmerged.

vLLM's own loader reads adapters from folders. Engine and trainer are one process here, so the tensors are handed to
the loader's second half directly: it sorts them into the engine's fused q/k/v and gate/up, multiplies α/r in, and
fills the slot that every request names. There is one slot, and it is emptied first: vLLM ignores a second
adapter of the same number without a word.
"""

from __future__ import annotations

import time
from typing import Any, get_args

import torch
from torch import nn

from rlkit.adapters import adapter_state
from rlkit.engines.base_weights import base_parameters, is_quantised, is_quantised_model
from rlkit.engines.sync import SharedTransport, SyncReport, Transport
from rlkit.errors import EngineError, SyncError, bad_value
from rlkit.interrupts import interrupts_held

ADAPTER_ID = 1  # vLLM's number of the one adapter; 0 means none


def lora_request() -> Any:
    """What every request to the engine carries. Its folder does not exist: an empty slot is an error, not the base."""
    from vllm.lora.request import LoRARequest

    return LoRARequest("rlkit-policy", ADAPTER_ID, "held in memory, never on disk")


def lora_settings(model: Any, max_lora_rank: int | None) -> dict[str, Any]:
    """``LLM``'s keywords for this model's adapter: room for its rank, in the layers that it adapts and no others.

    Raises:
        ConfigError: ``max_lora_rank`` is below the adapter's rank, or above what vLLM has.
    """
    rank = adapter_rank(model)
    if max_lora_rank is None:
        max_lora_rank = getattr(model, "rlkit_max_lora_rank", None) or rank
    allowed = _ranks()
    if not rank <= max_lora_rank <= allowed[-1]:
        raise bad_value(
            "max_lora_rank",
            max_lora_rank,
            f"{rank} to {allowed[-1]}",
            f"The adapter's rank is {rank}; the engine must have room for it.",
        )
    return {
        "enable_lora": True,
        "max_loras": 1,
        "max_lora_rank": next(size for size in allowed if size >= max_lora_rank),
        "lora_target_modules": sorted({module.rpartition(".")[2] for module in _adapted(model)}),
    }


def adapter_rank(model: Any) -> int:
    """The largest rank of the active adapter's matrices."""
    return max(
        tensor.shape[0] for name, tensor in adapter_state(model).items() if ".lora_A." in name
    )  # [r, in]


def why_adapter_cannot_run(model: Any, architecture: str) -> str | None:
    """None where vLLM can hold the model's active adapter, otherwise the reason in words."""
    from vllm import ModelRegistry
    from vllm.config.lora import LoRAConfig
    from vllm.model_executor.models import supports_lora

    if model.device.type == "cuda" and model.dtype == torch.float32:
        return "its kernels on a GPU multiply in 16 bits only: load the model with dtype='bfloat16'"
    if len(model.active_adapters) != 1:
        return f"{len(model.active_adapters)} are active at once"
    if model.active_adapter != "default":
        return f"it is called {model.active_adapter!r}, not 'default'"
    config = model.peft_config["default"]
    if str(getattr(config.peft_type, "value", config.peft_type)) != "LORA":
        return f"it is of the kind {config.peft_type}, not LoRA"
    try:
        _peft_helper(model).validate_legal(LoRAConfig(max_lora_rank=512))
    except (ValueError, TypeError) as error:
        return str(error)
    odd = [name for name in adapter_state(model) if ".lora_A." not in name and ".lora_B." not in name]
    if odd:
        return f"it has no place for {odd[0]}"
    if not supports_lora(ModelRegistry.models[architecture].load_model_cls()):
        return f"{architecture} has no LoRA there"
    codes = [p for p in base_parameters(model).values() if not p.is_floating_point()]
    if not all(is_quantised(parameter) for parameter in codes):
        return "its base is quantised, but not to bitsandbytes' 4 bits"
    return None


class AdapterTransport:
    """Push the adapter alone; the base has gone over before, by the transport in ``base``.

    Args:
        vllm_model: the engine's module tree, with LoRA layers.
        model: the peft model.
        base: how the frozen base gets there: shared memory, or one reload.

    Raises:
        EngineError: a trained tensor of the base would never reach the engine.
    """

    name = "adapter"

    def __init__(self, vllm_model: Any, model: nn.Module, base: Transport) -> None:
        self._manager: Any = vllm_model.lora_manager
        self._base: Transport = base
        self._base_sent = False
        self.reason = _reason(model, base)
        views = base.views if isinstance(base, SharedTransport) else {}
        trained = [
            name for name, p in base_parameters(model).items() if p.requires_grad and name not in views
        ]
        if trained:
            raise EngineError(
                f"{trained[0]} is trained besides the adapter, and would stay as it was in the engine "
                f"({self.reason}). Freeze it, or set fast_inference=False"
            )

    def push(self, model: nn.Module) -> SyncReport:
        start = time.perf_counter()
        copied = 0
        if not self._base_sent or isinstance(self._base, SharedTransport):  # which looks at addresses only
            copied = self._base.push(model).bytes_copied  # a reload also empties the adapter's slot
            self._base_sent = True
        # Clones: vLLM multiplies α/r into B where it lies, which would be the trainer's own B.
        tensors = {name: tensor.clone() for name, tensor in adapter_state(model).items()}
        _load(self._manager, tensors, _peft_helper(model))
        copied += sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        return SyncReport("adapter", bytes_copied=copied, seconds=time.perf_counter() - start)

    def release(self) -> None:
        self._manager = None
        self._base.release()


def _load(manager: Any, tensors: dict[str, torch.Tensor], helper: Any) -> None:
    """Replace the engine's adapter.

    Raises:
        EngineError: vLLM has no LoRA layer for one of the tensors.
        SyncError: the adapter of before is still there.
    """
    from vllm.lora.lora_model import LoRAModel

    mapper = getattr(manager.model, "hf_to_vllm_mapper", None)
    adapter = LoRAModel.from_lora_tensors(
        ADAPTER_ID,
        tensors,
        helper,
        device=str(manager.device),
        dtype=manager.lora_config.lora_dtype,
        model_vocab_size=manager.vocab_size,
        weights_mapper=mapper.get_rename_mapper() if mapper is not None else None,
    )
    with interrupts_held():
        manager.remove_adapter(ADAPTER_ID)
        if not manager.add_adapter(adapter):  # which also fuses q/k/v and gate/up
            raise SyncError("vLLM kept the adapter of before: its slot was not emptied")
        homeless = sorted(set(adapter.loras) - set(manager.modules))
        if not homeless:
            manager.activate_adapter(ADAPTER_ID)
    if homeless:  # vLLM would leave them out and say nothing
        raise EngineError(
            f"vLLM has no LoRA layer for {homeless[0]}. Leave {homeless[0].rpartition('.')[2]!r} out of "
            "target_modules, or set fast_inference=False"
        )


def _reason(model: nn.Module, base: Transport) -> str:
    if is_quantised_model(model):
        from rlkit.engines.vllm import vllm_version

        version = ".".join((vllm_version() or "").split(".")[:2])
        return f"the engine holds the base dequantised: vLLM {version} has no 4-bit of its own"
    if isinstance(base, SharedTransport):
        return "the frozen base is shared, the adapter is copied after every update"
    return f"the frozen base was copied once ({base.reason}), the adapter is after every update"


def _adapted(model: Any) -> list[str]:
    """Plain names of the layers that the adapter adapts."""
    return sorted(
        {name.partition(".lora_")[0].removeprefix("base_model.model.") for name in adapter_state(model)}
    )


def _peft_helper(model: Any) -> Any:
    """The active adapter's configuration as vLLM reads it."""
    from vllm.lora.peft_helper import PEFTHelper

    return PEFTHelper.from_dict(model.peft_config["default"].to_dict())


def _ranks() -> list[int]:
    from vllm.config.lora import MaxLoRARanks

    return sorted(get_args(MaxLoRARanks))
