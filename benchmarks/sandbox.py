"""The sandbox: how fast it starts, and how many programs a second it judges, against a fresh interpreter for each.

64 short programs with three tests each, two workers. The peer runs ``python -I -c`` with program and tests, two at a
time, as many notebooks do: without walls, limits or a verdict that can be trusted. Both sides run in turns, each in a
process of its own.

    python -m benchmarks.sandbox [--quick]
"""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks import _peers, _report
from benchmarks._peers import Found

WORKERS = 2


def jobs(count: int) -> tuple[list[str], list[list[str]]]:
    """Short programs, all different, and their tests."""
    programs = [
        f"def f(n):\n    total = {i}\n    for k in range(n):\n        total += k * k\n    return total\n"
        for i in range(count)
    ]
    tests = [
        [f"assert f({n}) == {i + sum(k * k for k in range(n))}" for n in (3, 10, 50)] for i in range(count)
    ]
    return programs, tests


def ours(programs: int, rounds: int) -> Found:
    from rlkit.sandbox import Pool

    texts, tests = jobs(programs)
    first, seconds = [], []
    for _ in range(rounds):
        start = time.perf_counter()
        with Pool(WORKERS) as pool:
            assert pool.run(texts[0], tests[0]).passed
            first.append(time.perf_counter() - start)
            assert all(outcome.passed for outcome in pool.map(texts, tests))  # starts the second worker
            start = time.perf_counter()
            assert all(outcome.passed for outcome in pool.map(texts, tests))
            seconds.append(time.perf_counter() - start)
    return {"seconds": seconds, "first": first}


def interpreters(programs: int, rounds: int) -> Found:
    def judge(job: tuple[str, list[str]]) -> bool:
        text = "\n".join([job[0], *job[1]])
        return subprocess.run([sys.executable, "-I", "-c", text], capture_output=True).returncode == 0

    work = list(zip(*jobs(programs), strict=True))
    first, seconds = [], []
    for _ in range(rounds):
        start = time.perf_counter()
        assert judge(work[0])
        first.append(time.perf_counter() - start)
        start = time.perf_counter()
        with ThreadPoolExecutor(WORKERS) as threads:
            assert all(threads.map(judge, work))
        seconds.append(time.perf_counter() - start)
    return {"seconds": seconds, "first": first}


def run(options: Any) -> list[dict[str, Any]]:
    from rlkit.sandbox import active

    walls = [name for name, on, _ in active() if on]
    if "sandbox" not in walls:
        print(
            "this system cannot hold a hostile program, and the rows are left out: rlkit doctor", flush=True
        )
        return []
    programs, rounds, turns = (8, 1, 1) if options.quick else (64, 5, 3)
    print(f"sandbox, {programs} programs, workers: {WORKERS}; walls: {', '.join(walls[:-1])}", flush=True)
    job = {"programs": programs, "rounds": rounds}
    sides = {"sandbox": {"call": "ours", **job}, "interpreters": {"call": "interpreters", **job}}
    runs = _peers.in_turns("sandbox", "sandbox", sides, 1, turns)
    mine, others = (runs[side] for side in sides)
    versions = _peers.versions()
    speeds = [programs / _peers.middle(found) for found in (mine, others)]
    starts = [_peers.middle(found, "first") for found in (mine, others)]
    what = f"sandbox, {programs} short programs, {WORKERS} at a time, against a fresh interpreter for each"
    return [
        _report.row(what, *speeds, "programs/s", ">= 2", versions),
        _report.row(
            "sandbox, start and first program, against a bare interpreter", *starts, "s", "<= 15", versions
        ),
    ]


if __name__ == "__main__":
    sys.exit(_peers.main("sandbox", __doc__, run))
