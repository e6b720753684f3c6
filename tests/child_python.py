"""Another Python process, which can import the package and the helpers that stand beside the tests."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import rlkit

ROOT = Path(rlkit.__path__[0]).parent
TESTS = Path(__file__).parent


def python(code: str, *args: object, **options) -> subprocess.Popen:
    """Start it on ``code``; ``options`` are those of ``subprocess.Popen``."""
    path = os.pathsep.join([str(ROOT), str(TESTS)])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, args)]
    return subprocess.Popen(command, env=environment, **options)


def a_fork_a_line() -> Iterator[None]:
    """In that process: fork a child for every line of stdin, wait for its end, and say "dead".

    It yields in the children alone, which work until they are killed and share the start-up before it.
    """
    for _ in sys.stdin:
        child = os.fork()
        if child:
            os.waitpid(child, 0)
            print("dead", flush=True)
            continue
        yield
