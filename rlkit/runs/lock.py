"""A lock that tells a slow run from a dead one: the system drops it whatever the way its holder ends.

Where there are no such locks (Windows, some network drives) nothing is taken, and readers go by age.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

fcntl: Any
try:
    import fcntl
except ImportError:
    fcntl = None


def take(fd: int) -> None:
    """Hold the open file ``fd`` until it is closed or the process ends; no error where locks are missing."""
    if fcntl is None:
        return
    for _ in range(50):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:  # a reader looks this very moment
            time.sleep(0.01)
        except OSError:
            return


def is_taken(path: Path) -> bool | None:
    """Whether somebody holds the file at ``path``; None where this system cannot tell."""
    if fcntl is None:
        return None
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    except OSError:
        return None
