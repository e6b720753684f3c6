"""Seconds and peak memory of each phase of a step: rollout, score, update, sync.

"It ran out of memory" has a different remedy in each phase (fewer sequences in the engine, a smaller
micro-batch, another way to synchronise), so the peak of the whole process says too little. What is measured:

* **GPU** (CUDA, XPU): PyTorch's allocator, ``max_memory_allocated``. What others take on the device, and what the
  allocator holds in reserve, is not in it.
* **CPU on Linux**: the resident set of the process. The kernel keeps its high-water mark (``VmHWM``), and writing
  ``5`` to ``/proc/self/clear_refs`` sets the mark back to the present size. That touches one number, not the
  page tables: about 10 µs, whether the process holds 1 or 4 GB; reading the mark takes about 25 µs.
  Both are in proc(5) and the kernel's ``Documentation/filesystems/proc.rst``.
* **elsewhere** the mark cannot be set back. With psutil (every Jupyter kernel has it) a phase shows the larger of the
  sizes before and after it, so a peak in between is missed; the same holds for Apple's GPU, whose allocator keeps no
  peak. Without psutil it is ``getrusage``'s mark, which holds for the whole life of the process and never sinks;
  Windows has none, and memory is None there.

A peak counts everything the process holds at that moment, weights and optimizer included: it is what has to fit.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, Protocol

from rlkit.errors import bad_value

GIB = 2**30
_AFTER = "after"


class Gauge(Protocol):
    """A source of memory figures, in bytes; None where the system does not tell."""

    name: str

    def cut(self) -> tuple[int | None, int | None]:
        """(peak since the last cut, size now); the next peak is counted from here on."""
        ...


class MemoryLedger:
    """Times phases and measures their peak memory.

    >>> ledger = MemoryLedger("cpu")
    >>> with ledger.phase("update"):
    ...     update()
    >>> ledger.take()
    {'seconds/update': 1.32, 'memory/update': 2.61, 'memory/after': 1.94}

    A phase that runs several times until ``take`` counts its seconds together and its highest peak. Phases may lie
    inside one another, and in several threads: memory belongs to the process, so all that are open see a peak.

    On a GPU each border of a phase waits for the work that was queued, which is then counted where it belongs, and the
    allocator's peak is set back, also for others who read it. On Linux the same holds for the process's
    ``VmHWM`` and ``ru_maxrss``.

    Args:
        device: where the model is: a ``torch.device``, or a name such as ``"cpu"`` or ``"cuda:0"``.
    """

    def __init__(self, device: Any = "cpu") -> None:
        self.gauge = gauge_for(str(device))
        self._lock = threading.Lock()
        self._open: list[_Phase] = []
        self._seconds: dict[str, float] = {}
        self._peaks: dict[str, int | None] = {}

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure what runs inside; also where it raises.

        Raises:
            ConfigError: ``name`` is not a text, is empty, or is ``"after"``, which ``take`` itself uses.
        """
        if not isinstance(name, str) or not name or name == _AFTER:
            raise bad_value("name", name, 'any text but "after"')
        phase = _Phase(name)
        with self._lock:
            phase.see(self._cut())
            self._open.append(phase)
        start = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                try:
                    self._cut()
                finally:  # a GPU reports errors of queued work here
                    self._open.remove(phase)
                # After the cut, which waits for the device: queued work is part of the phase.
                seconds = time.perf_counter() - start
                self._seconds[name] = self._seconds.get(name, 0.0) + seconds
                self._peaks[name] = _larger(self._peaks.get(name), phase.peak)

    def take(self) -> dict[str, float | None]:
        """What was measured since the last ``take``, and start anew; phases still open come with the next one.

        Returns:
            ``seconds/<phase>``; ``memory/<phase>``, its peak in GiB; ``memory/after``, the GiB held now.
            A memory figure is None where the system does not tell.
        """
        with self._lock:
            now = self._cut()
            seconds, self._seconds = self._seconds, {}
            peaks, self._peaks = self._peaks, {}
        values: dict[str, float | None] = {f"seconds/{name}": value for name, value in seconds.items()}
        values |= {f"memory/{name}": _gib(peak) for name, peak in peaks.items()}
        return values | {f"memory/{_AFTER}": _gib(now)}

    def _cut(self) -> int | None:
        """End a stretch: every open phase sees its peak. Returns the size now."""
        peak, now = self.gauge.cut()
        for phase in self._open:
            phase.see(_larger(peak, now))
        return now


class _Phase:
    """One phase that is open, and the highest memory it saw; compared by identity."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.peak: int | None = None

    def see(self, size: int | None) -> None:
        self.peak = _larger(self.peak, size)


def gauge_for(device: str) -> Gauge:
    """The best source of memory figures for ``device``.

    Raises:
        ConfigError: PyTorch does not find the device on this machine.
    """
    kind = device.partition(":")[0]
    if kind in ("cuda", "xpu", "mps"):
        return DeviceGauge(device)
    for gauge in (LinuxGauge, PsutilGauge, LifetimeGauge):
        with contextlib.suppress(OSError, ImportError):
            return gauge()
    return NoGauge()


class DeviceGauge:
    """PyTorch's allocator on a GPU. Apple's keeps no peak: there it is the larger of two sizes."""

    def __init__(self, device: str) -> None:
        import torch

        self.name = device
        kind = device.partition(":")[0]
        self._backend: Any = getattr(torch, kind)
        if not self._backend.is_available():
            raise bad_value("device", device, "a device of this machine", f"PyTorch finds no {kind} here.")
        self._where = () if kind == "mps" else (torch.device(device),)
        self._keeps_peaks = hasattr(self._backend, "reset_peak_memory_stats")
        self.cut()

    def cut(self) -> tuple[int | None, int | None]:
        self._backend.synchronize(*self._where)
        if self._keeps_peaks:
            peak = self._backend.max_memory_allocated(*self._where)
            now = self._backend.memory_allocated(*self._where)
            self._backend.reset_peak_memory_stats(*self._where)
            return peak, now
        now = self._backend.current_allocated_memory()
        return now, now


class LinuxGauge:
    """The resident set from ``/proc``, with its high-water mark set back at each cut.

    Raises:
        OSError: there is no such file, writing is not permitted, or writing has no effect (some sandboxes).
    """

    name = "VmHWM"
    _PROBE = 32 * 2**20  # bytes

    def __init__(self) -> None:
        self.cut()
        with mmap.mmap(-1, self._PROBE) as probe:
            for page in range(0, self._PROBE, mmap.PAGESIZE):
                probe[page] = 1
        self.cut()
        peak, now = self.cut()
        if peak - now > self._PROBE // 2:
            raise OSError("the high-water mark of the resident set cannot be set back here")

    def cut(self) -> tuple[int, int]:
        with open("/proc/self/status", "rb", buffering=0) as file:
            text = file.read(8192)
        with open("/proc/self/clear_refs", "wb", buffering=0) as file:
            file.write(b"5")
        return _kilobytes(text, b"VmHWM:"), _kilobytes(text, b"VmRSS:")


class PsutilGauge:
    """The resident set at the borders of phases alone: what rises and sinks in between is missed."""

    name = "resident set at the borders"

    def __init__(self) -> None:
        import psutil

        self._memory = psutil.Process(os.getpid()).memory_info

    def cut(self) -> tuple[int, int]:
        now = int(self._memory().rss)
        return now, now  # an open phase looks at both of its borders


class LifetimeGauge:
    """``getrusage``'s mark, the highest resident set of the process's whole life: it never sinks."""

    name = "highest resident set of the process"

    def __init__(self) -> None:
        import resource  # not on Windows

        self._usage = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        self._unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere

    def cut(self) -> tuple[int, int]:
        peak = self._usage() * self._unit
        return peak, peak


class NoGauge:
    """Where nothing can be measured: phases are timed all the same."""

    name = "none"

    def cut(self) -> tuple[None, None]:
        return None, None


def _kilobytes(status: bytes, field: bytes) -> int:
    """One size of ``/proc/self/status``, in bytes. Raises OSError where the kernel leaves it out."""
    _, found, rest = status.partition(b"\n" + field)
    if not found:
        raise OSError(f"{field.decode()} is not in /proc/self/status")
    return int(rest.split(maxsplit=1)[0]) * 1024


def _larger(a: int | None, b: int | None) -> int | None:
    return b if a is None else a if b is None else max(a, b)


def _gib(size: int | None) -> float | None:
    return None if size is None else size / GIB
