"""Run programs, many at once: a few warm workers, each with one program at a time."""

from __future__ import annotations

import os
import selectors
import threading
import time
import weakref
from collections import deque
from collections.abc import Collection, Sequence
from typing import Any

from rlkit.errors import bad_value
from rlkit.sandbox import isolation
from rlkit.sandbox.connection import Connection, Gone
from rlkit.sandbox.judging import Test, read_test
from rlkit.sandbox.limits import LARGEST_PROGRAM, Limits, Outcome
from rlkit.sandbox.verdicts import outcome

GRACE = 10.0  # seconds beyond a program's own limit after which its worker is given up


class Pool:
    """Workers that run programs behind every wall which the system offers (`isolation`).

    They start with the first program, some 100 ms, stay warm, and end with the pool or with this process, however that
    ends. One pool may be used from several threads; calls wait for each other.

    Args:
        workers: how many programs run at once; None: one for each usable core, 8 at most.
        allow_weak: run programs even where the walls are not enough to hold a hostile one.
        without: walls to leave out, of "namespaces", "landlock" and "seccomp", to see what the others are worth.
    """

    def __init__(
        self, workers: int | None = None, allow_weak: bool = False, without: Collection[str] = ()
    ) -> None:
        if workers is None:
            usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
            workers = min(usable, 8)
        if not isinstance(workers, int) or isinstance(workers, bool) or not 1 <= workers <= 256:
            raise bad_value("workers", workers, "a whole number from 1 to 256, or None for one a core")
        if isinstance(without, str) or not set(without) <= isolation.SWITCHES:
            raise bad_value("without", without, f"some of {', '.join(sorted(isolation.SWITCHES))}")
        self.size = workers
        self.allow_weak = allow_weak
        self.without = frozenset(without)
        self.walls: dict[str, Any] = {}
        self._workers: list[Connection] = []
        self._lock = threading.Lock()
        self._end = weakref.finalize(self, _close, self._workers)
        _pools.add(self)

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers; the next program starts new ones."""
        with self._lock:
            _close(self._workers)

    def run(
        self,
        program: str,
        tests: Sequence[str] = (),
        limits: Limits | None = None,
        allow_unproven: bool = False,
    ) -> Outcome:
        """Run one program against its tests; see `rlkit.sandbox.run`."""
        return self.map([program], [tests], limits, allow_unproven)[0]

    def map(
        self,
        programs: Sequence[str],
        tests: Sequence[Sequence[str]] | None = None,
        limits: Limits | None = None,
        allow_unproven: bool = False,
    ) -> list[Outcome]:
        """Run every program against its own list of tests (None: no tests); the outcomes in the same order.

        Raises `ConfigError` for tests that cannot be read or proven, another number of them than of programs, or a
        system whose walls do not hold a hostile program. No program can make it raise.
        """
        limits = Limits() if limits is None else limits
        if not isinstance(limits, Limits):
            raise bad_value("limits", limits, "sandbox.Limits(seconds=…, memory_mib=…, …)")
        if isinstance(programs, str):
            raise bad_value(
                "programs", programs[:80], "a list of programs", "One alone: run(program, tests)."
            )
        lists = [()] * len(programs) if tests is None else tests
        if len(lists) != len(programs):
            raise bad_value("tests", f"{len(lists)} lists", f"one list for each of {len(programs)} programs")
        read = [read_tests(list_, allow_unproven) for list_ in lists]
        results: list[Outcome | None] = [None] * len(programs)
        waiting: deque[int] = deque()
        for number, program in enumerate(programs):
            if not isinstance(program, str):
                raise bad_value("program", program, "Python text")
            length = len(program) + sum(len(test.source) for test in read[number])
            if length > LARGEST_PROGRAM:
                detail = f"{length} characters of program and tests; {LARGEST_PROGRAM} are allowed"
                results[number] = Outcome("error", detail=detail)
            else:
                waiting.append(number)
        with self._lock:
            self._prepare(min(self.size, len(waiting)), limits)
            self._work(waiting, programs, read, limits, results)
        return [result for result in results if result is not None]

    def _prepare(self, count: int, limits: Limits) -> None:
        """Have so many workers."""
        missing = count - len(self._workers)
        if missing > 0:
            started, self.walls = isolation.start(missing, self.without, self.allow_weak)
            self._workers += started
        if limits.processes > 1 and self.walls and not self.walls["process namespace"][0]:
            cause = f"It would need a process namespace: {self.walls['process namespace'][1]}."
            raise bad_value("processes", limits.processes, "1 on this system", cause)

    def _work(
        self,
        waiting: deque[int],
        programs: Sequence[str],
        tests: Sequence[tuple[Test, ...]],
        limits: Limits,
        results: list[Outcome | None],
    ) -> None:
        """Keep every worker busy until all programs have run."""
        amounts = {
            "seconds": limits.seconds,
            "cpu": limits.whole_cpu_seconds(),
            "memory_mib": limits.memory_mib,
            "file_mib": limits.file_mib,
            "processes": limits.processes,
            "output_kib": limits.output_kib,
        }
        busy: dict[Connection, tuple[int, float]] = {}  # what it runs, when it is given up
        tried: set[int] = set()  # programs that have lost a worker before
        with selectors.DefaultSelector() as selector:
            try:
                while waiting or busy:
                    idle = [worker for worker in self._workers if worker not in busy]
                    if not idle and not busy:  # all of them have been lost
                        self._prepare(min(self.size, len(waiting)), limits)
                        continue
                    for worker in idle[: len(waiting)]:
                        number = waiting.popleft()
                        orders = [test.orders() for test in tests[number]]
                        busy[worker] = (number, time.monotonic() + limits.seconds + GRACE)
                        try:
                            worker.send(programs[number], orders, amounts)
                        except Gone:  # it ended while it had nothing to do
                            del busy[worker]
                            self._lose(worker)
                            waiting.appendleft(number)
                            continue
                        selector.register(worker, selectors.EVENT_READ)
                    given_up = min((moment for _, moment in busy.values()), default=0.0)
                    ready = {key.fileobj for key, _ in selector.select(given_up - time.monotonic())}
                    late = {w for w, (_, moment) in busy.items() if moment <= time.monotonic()} - ready
                    for worker in [w for w in busy if w in ready or w in late]:
                        number, _ = busy.pop(worker)
                        selector.unregister(worker)
                        try:
                            if worker in late:
                                raise Gone("it does not answer")
                            report = worker.receive(GRACE)
                        except Gone:
                            self._lose(worker)
                            if worker in late or number in tried:
                                results[number] = _lost(worker in late, limits)
                            else:  # whoever killed the worker may not have meant this program
                                tried.add(number)
                                waiting.appendleft(number)
                        else:
                            results[number] = outcome(report, tests[number], limits)
            except BaseException:
                for worker in busy:  # a late report must not become that of the next program
                    self._lose(worker)
                raise

    def _lose(self, worker: Connection) -> None:
        self._workers.remove(worker)
        worker.kill()


def _lost(late: bool, limits: Limits) -> Outcome:
    """What is said of a program whose worker went with it."""
    if late:
        return Outcome("timeout", detail=f"not ended {GRACE:g} s after its limit of {limits.seconds:g} s")
    return Outcome("memory", detail="its worker was killed with it, most likely for want of memory")


def read_tests(tests: Sequence[str], allow_unproven: bool = False) -> tuple[Test, ...]:
    """Read the tests of one program; raises `ConfigError` for what is no list of tests, or none that can be proven."""
    if isinstance(tests, str) or not all(isinstance(test, str) for test in tests):
        raise bad_value("tests", tests, "a list of Python texts, such as ['assert f(2) == 4']")
    return tuple(read_test(test, allow_unproven) for test in tests)


def _close(workers: list[Connection]) -> None:
    for worker in workers:
        worker.socket.close()  # all of them first: they end at the same time
    for worker in workers:
        worker.close()
    workers.clear()


_shared: dict[bool, Pool] = {}
_sharing = threading.Lock()
_pools: weakref.WeakSet[Pool] = weakref.WeakSet()


def _after_fork() -> None:
    """In a forked process, such as a data loader's: leave the workers to the process that started them.

    A copy of their sockets kept open here would keep them alive when that process is killed, and its locks may have
    been held at the moment of the fork.
    """
    global _sharing
    _sharing = threading.Lock()
    for pool in list(_pools):
        pool._lock = threading.Lock()
        _close(pool._workers)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def shared(allow_weak: bool = False) -> Pool:
    """Return the pool that `run` and the rewards use, one for the process."""
    with _sharing:
        if allow_weak not in _shared:
            _shared[allow_weak] = Pool(allow_weak=allow_weak)
        return _shared[allow_weak]


def run(
    program: str,
    tests: Sequence[str] = (),
    limits: Limits | None = None,
    allow_unproven: bool = False,
    allow_weak: bool = False,
) -> Outcome:
    """Run a program in the sandbox, against tests such as ``["assert f(2) == 4"]``; returns what became of it.

    The program is executed once as a module, then each test in its namespace, in order, all of them, also after one
    that fails. A program without tests is executed as a script; "passed" then says only that it ended by itself.

    Args:
        program: Python text, standard library only.
        tests: Python texts with asserts at the top level; statements before them are run, too.
        limits: time, memory and so on; None: `Limits()`.
        allow_unproven: accept asserts of a shape that the program itself could forge (`Outcome.proven` is False then).
        allow_weak: run it even where this system's walls do not hold a hostile program.

    Raises:
        ConfigError: a test that cannot be read or proven; a system that cannot hold a hostile program.
    """
    return shared(allow_weak).run(program, tests, limits, allow_unproven)
