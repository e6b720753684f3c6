"""One call of a reward function: where the caller is, in a thread, or in an event loop, and within its time.

Nothing here looks at rewards; `rlkit.rewards.calls` does.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
import time
from collections.abc import Callable
from concurrent import futures
from dataclasses import dataclass
from typing import Any, Self

_GRACE = 1.0  # seconds that an async function has to let go of its event loop once it was cancelled


class TooSlow(Exception):
    """No answer within the time. `awaited`: of an async function; `blocked`: one that keeps its event loop busy."""

    def __init__(self, awaited: bool = False, blocked: bool = False) -> None:
        super().__init__("no answer within the time")
        self.awaited, self.blocked = awaited, blocked


@dataclass(slots=True)
class Outcome:
    """What became of a call: its `values`, or an `error`."""

    values: Any = None
    error: Exception | None = None
    awaited: bool = False
    done: bool = False


def is_async(function: Any) -> bool:
    """Whether calling it only makes a coroutine; a callable object may have an async ``__call__``."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def attempt(call: Callable[[], Any], timeout: float | None) -> Outcome:
    """Call a plain function: here, or where it must be back in time in a thread of its own.

    What it returns may be awaitable; `EventLoop` takes it from there.
    """
    try:
        return Outcome(call() if timeout is None else _in_time(call, timeout), done=True)
    except Exception as error:
        return Outcome(error=error, done=True)


def _in_time(call: Callable[[], Any], seconds: float) -> Any:
    """What ``call()`` returns; `TooSlow` where it takes longer, and its thread is left to itself."""
    answer: futures.Future[Any] = futures.Future()

    def run() -> None:
        try:
            answer.set_result(call())
        except BaseException as error:
            answer.set_exception(error)

    # A daemon: the interpreter can end while it runs on. It would wait for a thread of an executor.
    threading.Thread(target=run, name="rlkit reward function", daemon=True).start()
    finished, _ = futures.wait([answer], seconds)
    if not finished:
        raise TooSlow
    return answer.result()


class EventLoop:
    """An event loop in a thread of its own, in which async functions overlap.

    In a notebook a loop is running already where the caller is, and ``asyncio.run`` is refused there. Each call has
    `timeout` seconds from its start. Leaving the ``with`` block cancels whatever has not ended.
    """

    def __init__(self, timeout: float | None) -> None:
        self.timeout = timeout
        self._outcomes: list[Outcome] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._until = 0.0
        self._thread: threading.Thread | None = None
        self._opened = threading.Event()
        self._loop: Any = None
        self._main: Any = None
        self._no_more: Any = None
        self._gave_up = False
        self._broke: BaseException | None = None  # SystemExit and the like

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        if self._thread is not None and self._thread.is_alive():  # an error, or Ctrl-C, came before the end
            self._in_loop(lambda: self._main.cancel())
            if not self._gave_up:
                self._thread.join(_GRACE)

    def start(self, call: Callable[[], Any]) -> Outcome:
        """Begin ``await call()``. What becomes of it is known after `wait`."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="rlkit async rewards", daemon=True)
            self._thread.start()
            self._opened.wait()
        outcome = Outcome(awaited=True)
        self._outcomes.append(outcome)
        self._until = time.monotonic() + (self.timeout or 0.0) + _GRACE
        self._in_loop(lambda: self._tasks.append(self._loop.create_task(self._one(call, outcome))))
        return outcome

    def wait(self) -> None:
        """Wait until all calls have ended, or have been cancelled because their time was up."""
        if self._thread is None:
            return
        self._in_loop(lambda: self._no_more.set())
        self._thread.join(None if self.timeout is None else max(0.0, self._until - time.monotonic()))
        if self._broke is not None:
            raise self._broke
        self._gave_up = self._thread.is_alive()
        for outcome in self._outcomes:
            if not outcome.done:  # a function that never awaits holds up itself and all others
                outcome.error = TooSlow(awaited=True, blocked=True)

    def _in_loop(self, function: Callable[[], object]) -> None:
        """Have the loop's thread call `function`; nothing where the loop broke."""
        with contextlib.suppress(RuntimeError, AttributeError):
            self._loop.call_soon_threadsafe(function)

    def _run(self) -> None:
        try:
            with asyncio.Runner() as runner:
                runner.run(self._until_told())
        except asyncio.CancelledError:
            pass
        except BaseException as error:
            self._broke = error
        finally:
            self._opened.set()

    async def _until_told(self) -> None:
        self._loop, self._main = asyncio.get_running_loop(), asyncio.current_task()
        self._no_more = asyncio.Event()
        self._opened.set()
        await self._no_more.wait()
        await asyncio.gather(*self._tasks)

    async def _one(self, call: Callable[[], Any], outcome: Outcome) -> None:
        clock = asyncio.timeout(self.timeout)
        try:
            async with clock:
                values = call()
                outcome.values = await values if inspect.isawaitable(values) else values
        except TimeoutError as error:
            outcome.error = TooSlow(awaited=True) if clock.expired() else error
        except Exception as error:
            outcome.error = error
        finally:
            outcome.done = True
