"""Which walls this system offers, found out by building them, and what is enough to run a model's program.

    wall                 keeps a program from                                       offered by
    own process, limits  using more time, memory, files, output than it may         Linux, macOS
    process namespace    seeing other processes; leaving any behind                 Linux: root, or user namespaces
    network namespace    reaching any network, loopback included                    the same
    own root directory   seeing any file but the standard library and its own       the same
    another user         what a root user may do                                    Linux: root
    landlock             reading, writing, connecting, signalling outside           Linux 5.13, more with later ones
    seccomp              sockets, starting processes, signals, and other calls      Linux with libseccomp

Enough are namespaces with something that bounds the number of processes, or Landlock with seccomp (as in Docker, whose
containers may not make namespaces). Where a system has neither (macOS, old or locked containers), programs are refused
unless `allow_weak=True`.

What the second way does not bound: the disk space of files that a program has deleted and keeps open. It is free again
when the program ends.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection
from typing import Any

from rlkit.errors import ConfigError
from rlkit.sandbox.connection import Connection, Gone

NAMESPACES = ("process namespace", "network namespace", "own root directory")
SWITCHES = frozenset({"namespaces", "landlock", "seccomp"})
"""What can be left out, to see what the rest is worth."""

_refused_namespaces = ""  # why they could not be entered, once that is known
_tried: set[tuple[bool, frozenset[str]]] = set()  # what has run a program here before

# One program that must come out right before any other is believed.
_TRIAL: dict[str, Any] = {
    "program": "def double(x): return 2 * x",
    "tests": [[["ask", ["double(21)"]]]],
    "limits": {"seconds": 20, "cpu": 20, "memory_mib": 64, "file_mib": 1, "processes": 1, "output_kib": 4},
}
_TRIAL_ANSWER = '{"ran": true}\n{"test": 0, "answers": [[42]]}\n'


def supported() -> str:
    """Return "" where programs can be run in processes at all, else why not."""
    if not hasattr(os, "fork"):
        return "this system cannot fork processes; use Linux, macOS or WSL"
    return "" if sys.executable else "sys.executable is not set, so no interpreter can be started"


def enough(walls: dict[str, Any]) -> bool:
    """Whether the walls that stand can hold a hostile program."""
    stands = {name for name, (on, _) in walls.items() if on}
    if set(NAMESPACES) <= stands and stands & {"seccomp", "process limit"}:
        return True
    return {"landlock", "seccomp"} <= stands


def start(
    count: int, without: Collection[str] = (), allow_weak: bool = False
) -> tuple[list[Connection], dict[str, Any]]:
    """Start `count` workers behind as many walls as there are; returns them and the walls, name -> [on, why not].

    Raises `ConfigError` where that is not enough to hold a hostile program (unless `allow_weak`), or where not even a
    trivial program runs.
    """
    global _refused_namespaces
    problem = supported()
    if problem:
        raise ConfigError(f"programs cannot be run here: {problem}")
    off = frozenset(without)
    namespaces = sys.platform == "linux" and "namespaces" not in off and not _refused_namespaces
    workers = [Connection(namespaces, off) for _ in range(count)]
    try:
        walls: dict[str, Any] = {}
        for worker in workers:
            hello = worker.hello()
            if not hello["ready"] and namespaces:
                _refused_namespaces = hello["why"]
                break
            if not hello["ready"]:
                raise ConfigError(f"the sandbox does not start: {hello['why']}")
            walls = _described(namespaces, off, hello["walls"])
        else:
            if not enough(walls) and not allow_weak:
                raise ConfigError(
                    f"programs of a model cannot be run safely here: {_missing(walls)}. Needed are namespaces, or "
                    "Landlock (Linux 5.13 or newer) and libseccomp (Debian and Ubuntu: apt install libseccomp2). With "
                    "allow_weak=True only time, memory and output are limited, and a program can read and change your "
                    "files."
                )
            if (namespaces, off) not in _tried:
                _try(workers[0])
                _tried.add((namespaces, off))
            return workers, walls
    except BaseException:
        for worker in workers:
            worker.kill()
        raise
    for worker in workers:
        worker.kill()
    return start(count, without, allow_weak)  # without namespaces this time


def _try(worker: Connection) -> None:
    """Run a trivial program; a sandbox that judges it wrong would teach a model nothing."""
    try:
        worker.send(**_TRIAL)
        report = worker.receive(_TRIAL["limits"]["seconds"] + 10)
    except Gone as error:
        raise ConfigError(f"the sandbox starts but runs no program: {error}") from None
    if report["answers"] != _TRIAL_ANSWER:
        raise ConfigError(f"the sandbox starts but runs no program: {report}")


def _described(namespaces: bool, off: Collection[str], found: dict[str, Any]) -> dict[str, Any]:
    """Return all walls by name, the namespaces among them."""
    why = ""
    if not namespaces:
        why = "switched off" if "namespaces" in off else _refused_namespaces
        why = why or "Linux has them, this system has not"
    spaces = {name: [namespaces, why] for name in NAMESPACES}
    return {"own process, limits": [True, ""], **spaces, "user namespace": [False, why], **found}


def _missing(walls: dict[str, Any]) -> str:
    wanted = ("process namespace", "landlock", "seccomp")
    return "; ".join(f"no {name} ({walls[name][1]})" for name in wanted if not walls[name][0])


def active() -> list[tuple[str, bool, str]]:
    """Return what holds programs on this machine: (name, whether it is active, why not), found out by starting one.

    Takes some 100 ms. The last row, "sandbox", says whether all of it together is enough.
    """
    problem = supported()
    if problem:
        return [("sandbox", False, problem)]
    try:
        workers, walls = start(1, allow_weak=True)
    except ConfigError as error:
        return [("sandbox", False, str(error))]
    for worker in workers:
        worker.close()
    rows = [(name, bool(on), str(why)) for name, (on, why) in walls.items()]
    return [*rows, ("sandbox", enough(walls), "" if enough(walls) else _missing(walls))]
