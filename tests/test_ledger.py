"""The memory ledger, held to allocations of known size; each source of figures that this system has is tested."""

from __future__ import annotations

import math
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlkit.errors import ConfigError
from rlkit.memory import MemoryLedger
from rlkit.memory.ledger import GIB, LifetimeGauge, LinuxGauge, NoGauge, PsutilGauge, gauge_for

MEGABYTES = 200
SIZE = MEGABYTES * 2**20 / GIB  # GiB
TOLERANCE = 0.02  # GiB: what the interpreter and other threads take on the way


def resettable() -> bool:
    try:
        LinuxGauge()
    except OSError:
        return False
    return True


needs_marks = pytest.mark.skipif(not resettable(), reason="the high-water mark cannot be set back here")


def take_memory(megabytes: int = MEGABYTES) -> Any:
    """So much memory, every page of it touched; one large block, so that freeing it gives it back."""
    return np.ones(megabytes * 2**20, dtype=np.uint8)


@needs_marks
def test_a_peak_belongs_to_its_phase() -> None:
    ledger = MemoryLedger()
    assert ledger.gauge.name == "VmHWM"
    before = ledger.take()["memory/after"]
    with ledger.phase("rollout"):
        pass
    with ledger.phase("update"):
        take_memory()  # freed at once: the sizes before and after do not show it
    with ledger.phase("sync"):
        pass
    values = ledger.take()
    assert values["memory/rollout"] == pytest.approx(before, abs=TOLERANCE)
    assert values["memory/update"] == pytest.approx(before + SIZE, abs=TOLERANCE)
    assert values["memory/sync"] == pytest.approx(before, abs=TOLERANCE)
    assert values["memory/after"] == pytest.approx(before, abs=TOLERANCE)


@needs_marks
def test_what_is_kept_counts_afterwards() -> None:
    ledger = MemoryLedger("cpu")
    before = ledger.take()["memory/after"]
    with ledger.phase("rollout"):
        kept = take_memory()
    with ledger.phase("update"):
        pass
    values = ledger.take()
    for name in ("rollout", "update", "after"):
        assert values[f"memory/{name}"] == pytest.approx(before + SIZE, abs=TOLERANCE)
    del kept
    assert ledger.take()["memory/after"] == pytest.approx(before, abs=TOLERANCE)


@needs_marks
def test_torch_tensors_on_the_cpu() -> None:
    import torch

    ledger = MemoryLedger(torch.device("cpu"))
    before = ledger.take()["memory/after"]
    with ledger.phase("update"):
        torch.ones(MEGABYTES * 2**18)  # [200 Mi / 4] float32
    assert ledger.take()["memory/update"] == pytest.approx(before + SIZE, abs=TOLERANCE)


@needs_marks
def test_phases_inside_one_another() -> None:
    """A phase inside sets the mark back; the one around it must still know its own peak."""
    ledger = MemoryLedger()
    before = ledger.take()["memory/after"]
    with ledger.phase("step"):
        take_memory()
        with ledger.phase("score"):
            pass
    values = ledger.take()
    assert values["memory/step"] == pytest.approx(before + SIZE, abs=TOLERANCE)
    assert values["memory/score"] == pytest.approx(before, abs=TOLERANCE)
    with ledger.phase("step"), ledger.phase("score"):
        take_memory()
    values = ledger.take()
    assert values["memory/step"] == pytest.approx(before + SIZE, abs=TOLERANCE)
    assert values["memory/score"] == pytest.approx(before + SIZE, abs=TOLERANCE)


@needs_marks
def test_a_phase_in_another_thread() -> None:
    ledger = MemoryLedger()
    before = ledger.take()["memory/after"]
    entered, leave = threading.Event(), threading.Event()

    def rollout() -> None:
        with ledger.phase("rollout"):
            entered.set()
            leave.wait(30)

    thread = threading.Thread(target=rollout)
    thread.start()
    assert entered.wait(30)
    with ledger.phase("update"):
        take_memory()
    leave.set()
    thread.join()
    values = ledger.take()
    assert values["memory/update"] == pytest.approx(before + SIZE, abs=TOLERANCE)
    assert values["memory/rollout"] == pytest.approx(before + SIZE, abs=TOLERANCE)


@needs_marks
def test_a_phase_that_comes_twice() -> None:
    ledger = MemoryLedger()
    before = ledger.take()["memory/after"]
    for megabytes in (MEGABYTES, 0):
        with ledger.phase("update"):
            take_memory(megabytes)
            time.sleep(0.01)
    values = ledger.take()
    assert values["memory/update"] == pytest.approx(before + SIZE, abs=TOLERANCE)
    assert values["seconds/update"] >= 0.02
    assert list(ledger.take()) == ["memory/after"]


def test_seconds_and_names() -> None:
    ledger = MemoryLedger()
    with pytest.raises(RuntimeError, match="reward"), ledger.phase("score"):
        time.sleep(0.01)
        raise RuntimeError("reward")
    with ledger.phase("open"):
        values = ledger.take()  # a phase that is open comes with the next one
    assert set(values) == {"seconds/score", "memory/score", "memory/after"}
    assert 0.01 <= values["seconds/score"] < 10
    assert set(ledger.take()) == {"seconds/open", "memory/open", "memory/after"}


@pytest.mark.parametrize("name", ["", "after", None, 3])
def test_names_that_cannot_be(name: Any) -> None:
    with pytest.raises(ConfigError, match="name="), MemoryLedger().phase(name):
        pass


def test_a_device_that_is_not_here() -> None:
    import torch

    if torch.backends.mps.is_available():
        pytest.skip("it is here")
    with pytest.raises(ConfigError, match="PyTorch finds no mps"):
        MemoryLedger("mps")


# ----------------------------------------------------------------- where the mark cannot be set back


def test_sizes_at_the_borders() -> None:
    pytest.importorskip("psutil")
    ledger = MemoryLedger()
    ledger.gauge = PsutilGauge()
    before = ledger.take()["memory/after"]
    with ledger.phase("rollout"):
        kept = take_memory()
    with ledger.phase("update"):
        del kept
    with ledger.phase("sync"):
        pass
    values = ledger.take()
    assert values["memory/rollout"] == pytest.approx(before + SIZE, abs=TOLERANCE)
    assert values["memory/update"] == pytest.approx(before + SIZE, abs=TOLERANCE)
    assert values["memory/sync"] == pytest.approx(before, abs=TOLERANCE)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no getrusage")
def test_the_mark_of_a_life_is_in_bytes_and_never_sinks() -> None:
    ledger = MemoryLedger()
    ledger.gauge = LifetimeGauge()
    before = ledger.take()["memory/after"]
    beyond = math.ceil(before * 1024) + MEGABYTES
    with ledger.phase("update"):
        take_memory(beyond)
    values = ledger.take()
    assert beyond / 1024 <= values["memory/update"] < beyond / 1024 + before + TOLERANCE
    assert values["memory/after"] >= beyond / 1024


def test_without_any_source() -> None:
    ledger = MemoryLedger()
    ledger.gauge = NoGauge()
    with ledger.phase("update"):
        pass
    values = ledger.take()
    assert values.pop("seconds/update") >= 0
    assert values == {"memory/update": None, "memory/after": None}


@pytest.mark.skipif(not resettable(), reason="there is nothing to take away")
@pytest.mark.parametrize("obstacle", ["read-only", "without effect", "no field"])
def test_a_sandbox_that_does_not_let_us(obstacle: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Containers may mount /proc read-only, take the write and do nothing, or leave the field out."""
    import builtins

    real = open

    def sandboxed(path: Any, *arguments: Any, **settings: Any) -> Any:
        if path == "/proc/self/clear_refs":
            if obstacle == "read-only":
                raise PermissionError(path)
            path = "/dev/null"
        if path == "/proc/self/status" and obstacle == "no field":
            path = "/proc/self/statm"
        return real(path, *arguments, **settings)

    monkeypatch.setattr(builtins, "open", sandboxed)
    assert not isinstance(gauge_for("cpu"), LinuxGauge)
    monkeypatch.undo()
    assert isinstance(gauge_for("cpu"), LinuxGauge)


# ------------------------------------------------------------------------------------------------ GPU


def test_on_a_gpu() -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    ledger = MemoryLedger("cuda")
    before = ledger.take()["memory/after"]
    with ledger.phase("update"):
        torch.ones(MEGABYTES * 2**18, device="cuda")
    with ledger.phase("sync"):
        pass
    values = ledger.take()
    assert values["memory/update"] == pytest.approx(before + SIZE, abs=0.001)
    assert values["memory/sync"] == values["memory/after"] == pytest.approx(before, abs=0.001)


def test_the_ledger_loads_no_torch() -> None:
    import subprocess

    code = (
        "import sys, rlkit.memory; rlkit.memory.MemoryLedger('cpu').take(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent.parent).returncode == 0
