"""Stop a computation that takes too long, in any thread.

The usual way, an alarm signal, works in a program's main thread only, and training may run in another. CPython can
also raise an exception in a chosen thread (`PyThreadState_SetAsyncExc`); it arrives between two of its Python
instructions. SymPy is Python through and through, so this ends it; one long multiplication in C it would not.
"""

from __future__ import annotations

import _thread
import ctypes
import threading
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")

RING_AGAIN = (
    1.0  # seconds: a bare `except` or a callback of the garbage collector may have swallowed the exception
)


class Overtime(BaseException):
    """Raised inside the computation; no Exception, because SymPy catches those."""


def within(seconds: float, work: Callable[[], Result], default: Result) -> Result:
    """Return `work()`, or `default` where that takes longer than `seconds`.

    Whatever else `work` raises passes through. On a Python without that call there is no limit.

    >>> within(5.0, lambda: 6 * 7, default=0)
    42
    """
    raise_in = getattr(getattr(ctypes, "pythonapi", None), "PyThreadState_SetAsyncExc", None)
    if raise_in is None:
        return work()
    thread = ctypes.c_ulong(threading.get_ident())
    # Only locks and lists, which are C: an exception that arrives inside an Event or a Condition would leave it locked.
    lock, over, finished = threading.Lock(), threading.Lock(), list[bool]()
    over.acquire()

    def ring() -> None:
        pause = seconds
        while not over.acquire(timeout=pause):
            with lock:
                if not finished:
                    raise_in(thread, ctypes.py_object(Overtime))
            pause = RING_AGAIN

    def silence() -> None:
        """After this no bell rings, and one that has rung but was not heard yet is taken back."""
        while True:
            try:
                with lock:
                    finished.append(True)
                raise_in(thread, None)
                if over.locked():
                    over.release()
                return
            except Overtime:  # heard just now: once more, for it may have come before the flag was set
                continue

    try:
        try:
            _thread.start_new_thread(ring, ())
            return work()
        finally:
            silence()
    except Overtime:
        silence()
        return default
