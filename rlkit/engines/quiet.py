"""Run vLLM in the trainer's process without its noise: environment, warnings, log lines, random numbers."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from typing import IO

import torch

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # in-process, so that trainer and engine can share tensors
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # otherwise it re-pins the trainer's threads
    "VLLM_NO_USAGE_STATS": "1",
}


def set_environment() -> None:
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


@contextlib.contextmanager
def quiet(device: torch.device | None = None) -> Iterator[None]:
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
def native_chatter() -> Iterator[IO[bytes]]:
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


def tail(said: IO[bytes], lines: int = 5) -> str:
    """The last lines that were caught, for an error message."""
    said.seek(0)
    text = said.read().decode(errors="replace").strip().splitlines()[-lines:]
    return "It said: " + " | ".join(text) if text else ""
