"""vLLM in the trainer's own process: continuous batching on the weights that are being trained.

One process, one set of weights where the model allows it (see ``engines/sync.py``). The engine starts with
*no* weights of its own (``load_format="dummy"``): what it samples from is what the trainer gave it, so a
stale checkpoint on disk can never be sampled by accident.
"""

from __future__ import annotations

import contextlib
import gc
import io
import os
import sys
import tempfile
import warnings
import weakref
from collections.abc import Iterator, Sequence
from typing import IO, Any, Self

import torch

from rlkit.engines.base import Sampling, end_token_ids
from rlkit.engines.sync import SyncReport, Transport, choose_transport
from rlkit.errors import EngineError
from rlkit.rollout import Completion

# One live engine a process: a second LLM() breaks the first one's process groups without saying so.
_live: weakref.ref[VLLMEngine] | None = None

_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # in-process, so that trainer and engine can share tensors
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB; plenty for the models that a CPU trains
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # otherwise it re-pins the trainer's threads
    "VLLM_NO_USAGE_STATS": "1",
}


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
    _set_environment()
    try:
        with _quiet(), _native_chatter():
            from vllm import ModelRegistry  # noqa: F401 - vllm itself imports lazily
    except Exception as error:  # a missing library, another torch than it was built for, …
        return f"vLLM {version} is installed but cannot be imported ({type(error).__name__}: {error})"
    return None


def why_vllm_cannot_run(model: Any) -> str | None:
    """None when vLLM is installed and can run ``model`` here, otherwise the reason in words."""
    if reason := why_vllm_is_missing():
        return reason
    version = vllm_version()
    with _quiet(), _native_chatter():
        from vllm import ModelRegistry

        known = ModelRegistry.get_supported_archs()
    name = type(model).__name__
    if name not in known:
        return f"vLLM {version} does not know the architecture {name}"
    if model.device.type != "cpu":
        return None
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    sizes = CPUAttentionBackend.get_supported_head_sizes()
    config = model.config.get_text_config()
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if head_dim not in sizes:
        return f"vLLM {version} on CPU has no attention for head_dim {head_dim} (it has {sizes})"
    return None


class VLLMEngine:
    """In-process vLLM that samples from a transformers model's weights.

    Args:
        model: the causal LM being trained; its weights are shared or pushed (``weight_sync``).
        tokenizer: decodes completions and names the end-of-sequence token.
        max_model_len: longest prompt + completion, in tokens.
        weight_sync: ``"shared"``, ``"reload"`` or ``"auto"`` (shared where the model allows it).
        gpu_memory_utilization: share of a GPU's memory for the engine's KV cache; ignored on CPU.
        max_num_seqs: sequences decoded at once.

    Raises:
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
    ) -> None:
        if reason := why_vllm_cannot_run(model):
            raise EngineError(f"{reason}; set fast_inference=False to generate with transformers")
        close_live_engine()
        self.name = f"vLLM {'.'.join((vllm_version() or '').split('.')[:2])} colocated"
        self._tokenizer = tokenizer
        self._end_ids = end_token_ids(model, tokenizer)
        self._device = model.device
        self._llm: Any = None
        with (
            _quiet(),
            _native_chatter() as said,
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
                    max_logprobs=-1,  # top_logprobs as large as one likes
                    gpu_memory_utilization=gpu_memory_utilization,
                    logprobs_mode="processed_logprobs",  # log-probabilities at the sampling temperature
                    generation_config="vllm",  # no hidden top-k or repetition penalty from the model's folder
                    disable_log_stats=True,
                    seed=0,
                )
            except Exception as error:
                raise EngineError(
                    f"vLLM could not start for {type(model).__name__}: {error}. "
                    f"fast_inference=False generates with transformers instead. {_tail(said)}"
                ) from error
        global _live
        _live = weakref.ref(
            self
        )  # from here on it holds process groups and must be closed before another starts
        try:
            self.transport: Transport = choose_transport(self.vllm_model, model, self._llm, weight_sync)
            self.sync(model)
        except BaseException:
            self.close()
            raise

    @property
    def weight_sync(self) -> str:
        """``"shared"`` or ``"reload"``."""
        return self.transport.name

    @property
    def weight_sync_reason(self) -> str:
        """Why weights are reloaded and not shared; empty where they are shared."""
        return self.transport.reason

    @property
    def vllm_model(self) -> torch.nn.Module:
        """The engine's own module tree (its layout differs from transformers')."""
        return self._open().llm_engine.model_executor.driver_worker.model_runner.model

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[Completion]:
        from vllm import SamplingParams

        requests = [{"prompt_token_ids": list(ids)} for ids in prompts]
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
        results = self._run([{"prompt_token_ids": list(ids)} for ids in token_ids], params)
        return [
            [
                position[token].logprob
                for position, token in zip(result.prompt_logprobs[1:], ids[1:], strict=True)
            ]
            for result, ids in zip(results, token_ids, strict=True)
        ]

    def _run(self, requests: list[Any], params: Any) -> list[Any]:
        """Run requests to their end. An interrupt drops them all: vLLM would go on with them at the next call."""
        llm = self._open()
        try:
            with _quiet(self._device):
                return llm.generate(requests, params, use_tqdm=False)
        except BaseException:
            pending = list(llm.llm_engine.output_processor.request_states)
            llm.llm_engine.abort_request(pending, internal=True)
            raise

    def sync(self, model: Any) -> SyncReport:
        """Carry ``model``'s weights into the engine and drop what it cached of the old ones."""
        llm = self._open()
        with _quiet(self._device):
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


def _set_environment() -> None:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


@contextlib.contextmanager
def _quiet(device: torch.device | None = None) -> Iterator[None]:
    """Run vLLM without its warnings, its hand on the caller's random numbers and, on CPU, without a compiler.

    vLLM compiles one log-probability helper with torch.compile. On CPU that takes up to 18 s once and needs a
    C++ compiler, which a fresh machine lacks; ``force_eager`` runs it as written. Both ``LLM()`` and seeded
    sampling move torch's global generators, which belong to the user: they are put back.
    """
    on_gpu = device is not None and device.type == "cuda"
    stance = contextlib.nullcontext() if on_gpu else torch.compiler.set_stance("force_eager")
    threads = torch.get_num_threads()
    try:
        with torch.random.fork_rng([device] if on_gpu else []), stance, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)


@contextlib.contextmanager
def _native_chatter() -> Iterator[IO[bytes]]:
    """Catch what C++ code and vLLM's import write to standard error: they bypass warnings and our log level.

    In a notebook ``sys.stderr`` is not file descriptor 2, so both are caught.
    """
    with tempfile.TemporaryFile() as said, io.TextIOWrapper(io.FileIO(os.dup(said.fileno()), "w")) as text:
        sys.stderr.flush()
        kept = os.dup(2)
        os.dup2(said.fileno(), 2)
        try:
            with contextlib.redirect_stderr(text):
                yield said
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)


def _tail(said: IO[bytes], lines: int = 5) -> str:
    """The last lines that were caught, for an error message."""
    said.seek(0)
    text = said.read().decode(errors="replace").strip().splitlines()[-lines:]
    return "It said: " + " | ".join(text) if text else ""


def _write_config(model: Any, folder: str) -> None:
    """Write the config that vLLM builds its (still weightless) module tree from."""
    config = model.config.__class__.from_dict(model.config.to_dict())
    config.architectures = [type(model).__name__]
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
