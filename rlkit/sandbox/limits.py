"""What a program may use, and what became of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from rlkit.errors import bad_value

Verdict = Literal["passed", "failed", "error", "timeout", "memory", "blocked"]

LARGEST_PROGRAM = 2**20
"""Characters of program and tests together; a longer program is an "error" and is never started."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one program may use; whatever goes beyond is ended and judged.

    Attributes:
        seconds: wall-clock time from its start, tests included.
        cpu_seconds: processor time of each of its processes, rounded up to whole seconds; None is `seconds`.
        memory_mib: MiB of address space beyond what the bare interpreter takes.
        file_mib: MiB that its private directory holds, all files together.
        processes: how many processes there may be at once. 1 denies starting any; up to 16 threads are free.
        output_kib: KiB that it may print; its answers to the tests may take as much again.
    """

    seconds: float = 3.0
    cpu_seconds: float | None = None
    memory_mib: int = 256
    file_mib: int = 8
    processes: int = 1
    output_kib: int = 64

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("seconds", self.seconds, 0.05, 600),
            ("cpu_seconds", self.seconds if self.cpu_seconds is None else self.cpu_seconds, 0.05, 600),
        ):
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not low <= value <= high:
                raise bad_value(name, value, f"a number of seconds from {low} to {high}")
        for name, count, least, most in (
            ("memory_mib", self.memory_mib, 16, 2**20),
            ("file_mib", self.file_mib, 1, 2**14),
            ("processes", self.processes, 1, 256),
            ("output_kib", self.output_kib, 1, 2**14),
        ):
            if not isinstance(count, int) or isinstance(count, bool) or not least <= count <= most:
                raise bad_value(name, count, f"a whole number from {least} to {most}")

    def whole_cpu_seconds(self) -> int:
        """The processor time as the kernel counts it, in whole seconds."""
        return math.ceil(self.seconds if self.cpu_seconds is None else self.cpu_seconds)


@dataclass(frozen=True)
class Outcome:
    """What became of one program.

    Attributes:
        verdict: "passed": every test holds. "failed": the first that does not is `failed_test`. "error": the program
            itself raised, crashed or ended before its tests did. "timeout", "memory": it used too much of either.
            "blocked": it tried what is not allowed here, or printed or wrote more than it may.
        failed_test: number of the first test that does not hold, from 0; None where it did not come to that.
        detail: what happened, in words; "" where it passed.
        output: what it printed to stdout and stderr, cut at the limit.
        seconds: wall-clock time from the start of its process to its end.
        tests_passed: how many tests hold, for partial credit.
        proven: whether the verdict "passed" rests on values alone; False where a test was judged inside the program's
            own process, or where there were no tests.
    """

    verdict: Verdict
    failed_test: int | None = None
    detail: str = ""
    output: str = ""
    seconds: float = 0.0
    tests_passed: int = 0
    proven: bool = True

    @property
    def passed(self) -> bool:
        """Whether the verdict is "passed"."""
        return self.verdict == "passed"
