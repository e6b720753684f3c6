"""What holds for every test: one thread, no network, no real vLLM where it has no wheel.

The environment is set here, before torch is imported anywhere; notebook kernels that nbval starts inherit it.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two threads wait for each other on a busy machine
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ["HF_HUB_OFFLINE"] = "1"  # a test that reaches for the Hub is a mistake: fail, do not wait
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["VLLM_NO_USAGE_STATS"] = "1"

if importlib.util.find_spec("hypothesis"):
    from hypothesis import settings

    # No deadline: timings belong to benchmarks. Derandomised in CI, which must not fail by chance.
    settings.register_profile("rlkit", deadline=None, derandomize=bool(os.environ.get("CI")), print_blob=True)
    settings.load_profile("rlkit")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `engine` where vLLM is not installed; in CI on Linux they fail instead."""
    if importlib.util.find_spec("vllm") or (sys.platform == "linux" and os.environ.get("CI")):
        return
    skip = pytest.mark.skip(reason="vLLM is not installed here (it has wheels for Linux only)")
    for item in items:
        if "engine" in item.keywords:
            item.add_marker(skip)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """`--dist loadfile` keeps a file's tests, and so its fixtures, in one process.

    But for the solved notebooks: they share nothing, and one process alone would have minutes to do with them.
    """
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return nodeid if "test_solved_notebooks.py" in nodeid else super()._split_scope(nodeid)

    return Scheduling(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """One thread, also where the environment says otherwise: sums are then taken in one order."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
