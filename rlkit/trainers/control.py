"""Pause, step and stop a training that runs in the background, from another thread or a widget's button."""

from __future__ import annotations

import contextlib
import contextvars
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

from rlkit.errors import TrainingError, bad_value

STATES = ("idle", "running", "paused", "finished", "stopped", "failed")


class TrainerControl:
    """The remote control of one trainer; every method may be called from any thread, and returns at once.

    A request takes effect between two steps: a step is never cut in two.

    >>> control = trainer.train(background=True)
    >>> control.pause(); control.step(); control.resume()
    >>> control.stop("seen enough")          # leaves a checkpoint
    >>> summary = control.wait()
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._state = "idle"
        self._paused = False
        self._allowed = 0  # steps to make although paused
        self._stop_reason: str | None = None
        self._thread: threading.Thread | None = None  # the one that trains
        self._summary: dict[str, Any] | None = None
        self._error: BaseException | None = None

    @property
    def state(self) -> str:
        """``idle``, ``running``, ``paused``, ``finished``, ``stopped`` or ``failed``."""
        return self._state

    @property
    def alive(self) -> bool:
        """Whether training is under way, be it paused."""
        return self._state in ("running", "paused")

    @property
    def pausing(self) -> bool:
        """Whether it is paused, or will be after the running step."""
        return self._paused and not self._allowed

    @property
    def background(self) -> bool:
        """Whether the training has a thread of its own: the notebook then stays free, and hears its buttons."""
        return self._thread is not None and self._thread is not threading.main_thread()

    @property
    def stop_reason(self) -> str | None:
        """Why training was asked to stop; None where it was not."""
        return self._stop_reason

    def pause(self) -> None:
        """Wait after the running step, until ``resume``, ``step`` or ``stop``."""
        with self._changed:
            self._paused = True
            self._changed.notify_all()

    def resume(self) -> None:
        """Go on after ``pause``."""
        with self._changed:
            self._paused, self._allowed = False, 0
            self._leave_pause()

    def step(self, count: int = 1) -> None:
        """Make ``count`` more steps, then pause."""
        if count < 1:
            raise bad_value("count", count, "a whole number of steps, 1 or more")
        with self._changed:
            self._paused = True
            self._allowed += count
            self._leave_pause()

    def stop(self, reason: str = "stopped by the program") -> None:
        """End training after the running step; a checkpoint is written, so that it can be resumed."""
        with self._changed:
            if self._stop_reason is None:
                self._stop_reason = reason
            self._leave_pause()

    def wait(self, timeout: float | None = None) -> dict[str, Any] | None:
        """Wait until training has ended and return its summary; None where ``timeout`` seconds were too few.

        Interrupting the wait leaves the training alone. An error that ended it is raised here.
        """
        ended = self.join(timeout)
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        return self._summary if ended else None

    def join(self, timeout: float | None = None) -> bool:
        """Wait until training has ended, however; False where ``timeout`` seconds were too few."""
        with self._changed:
            ended = self._changed.wait_for(lambda: not self.alive, timeout)
        thread = self._thread
        if (
            ended
            and thread is not None
            and thread not in (threading.current_thread(), threading.main_thread())
        ):
            thread.join()
        return ended

    def wait_until_paused(self, timeout: float | None = None) -> bool:
        """Wait until no step is running; True where that is so."""
        with self._changed:
            return self._changed.wait_for(lambda: self._state != "running", timeout)

    def _leave_pause(self) -> None:
        """Steps may run from here on, even if the thread that makes them has not woken up yet."""
        if self._state == "paused":
            self._state = "running"
        self._changed.notify_all()

    # -- the trainer's side ---------------------------------------------------------------------------

    def begin(self) -> None:
        """Training starts in this thread: forget the last time's requests, but for a pause."""
        with self._changed:
            if self._state != "running":  # in_background has cleared them, and a stop may have come since
                self._stop_reason, self._summary, self._error = None, None, None
            self._thread = threading.current_thread()
            self._state = "running"
            self._changed.notify_all()

    def may_go_on(self) -> bool:
        """Between two steps: wait while paused; False where training is to stop."""
        with self._changed:
            while self._paused and not self._allowed and self._stop_reason is None:
                self._state = "paused"
                self._changed.notify_all()
                self._changed.wait()
            if self._allowed:
                self._allowed -= 1
            self._state = "running"
            self._changed.notify_all()
            return self._stop_reason is None

    def end(
        self, state: str, summary: dict[str, Any] | None = None, error: BaseException | None = None
    ) -> None:
        """Training is over."""
        with self._changed:
            self._summary, self._error, self._state = summary, error, state
            self._changed.notify_all()

    def in_background(self, work: Callable[[], Any]) -> None:
        """Run ``work``, which trains, in a thread of its own. A program that ends waits for it."""

        def run() -> None:
            try:
                work()
            except (
                BaseException
            ) as error:  # work() has left it with end() for wait(); nobody here could catch it
                if isinstance(error, Exception):
                    print(f"training stopped: {type(error).__name__}: {error}", flush=True)

        with self._changed:
            self._stop_reason, self._summary, self._error = None, None, None
            self._state = "running"  # from here on, before the thread is scheduled
            # With this cell's context: a notebook shows what the thread prints below the cell that started it.
            work_here = contextvars.copy_context().run
            self._thread = threading.Thread(target=work_here, args=(run,), name="rlkit training")
        self._thread.start()

    def check_free(self, what: str) -> None:
        """Refuse to touch model and engine while another thread trains with them.

        Raises:
            TrainingError: saying how to get at them.
        """
        if self._state == "running" and self._thread is not threading.current_thread():
            raise TrainingError(
                f"{what} while training runs in the background: both would use the same model and engine. "
                "control.pause() and control.wait_until_paused() first, or control.stop() and control.wait()"
            )


@contextlib.contextmanager
def stoppable_by_hand(control: TrainerControl) -> Iterator[None]:
    """Within the block the first Ctrl-C (a notebook's stop button) lets the running step finish; the second interrupts.

    Does nothing outside the main thread, where Python delivers no signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def on_interrupt(signum: int, frame: Any) -> None:
        if control.stop_reason is not None:
            raise KeyboardInterrupt
        control.stop("interrupted by hand")
        print("\nfinishing this step; interrupt again to stop at once", flush=True)

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
