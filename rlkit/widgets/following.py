"""Who draws while training runs: a thread where the kernel is free, else the training itself between two steps.

Neither keeps a panel alive, neither outlives the training, and neither ever raises into it.
"""

from __future__ import annotations

import contextlib
import contextvars
import threading
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from rlkit.widgets.training import TrainingDashboard


class Followed(Protocol):
    """What is drawn again: ``tick`` draws where it is due, and says whether more is to come."""

    live: bool

    def tick(self, force: bool = False) -> bool: ...

    def begin(self, foreground: bool) -> None: ...

    def settle(self) -> None: ...


class Refresher:
    """A thread that lets a panel draw again until nothing more is to come. It ends with the panel, or with ``stop``."""

    def __init__(self, panel: Followed, every: float) -> None:
        self._panel, self._every = weakref.ref(panel), every
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Begin, unless it runs already."""
        if self.alive:
            return
        self._stopped.clear()
        # An empty context: a kernel takes what comes from it for the running cell's, as front ends and nbclient expect.
        here = contextvars.Context().run
        work = (_follow, self._panel, self._stopped, self._every)
        self._thread = threading.Thread(target=here, args=work, name="rlkit dashboard", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it, and wait until it has ended."""
        self._stopped.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=5)


def _follow(panel_of: Any, stopped: threading.Event, every: float) -> None:
    while not stopped.wait(every):
        panel = panel_of()
        if panel is None:
            return
        if not panel.tick():
            with contextlib.suppress(Exception):  # a kernel that is going away
                panel.settle()
            if not panel.live:  # a replay may have been begun again
                return
        del panel  # nobody holds it while this thread sleeps


class BetweenSteps:
    """A panel's place in a trainer: a callback that draws between two steps of a training in the foreground.

    In the background it only wakes the panel's own thread. It is closed when training ends, however that ends.
    """

    def __init__(self, panel: Followed) -> None:
        self._panel = weakref.ref(panel)
        self._foreground = False

    def on_train_begin(self, trainer: Any) -> None:
        self._foreground = threading.current_thread() is threading.main_thread()
        with contextlib.suppress(Exception):  # a picture that fails must not end the training
            if (panel := self._panel()) is not None:
                panel.begin(self._foreground)

    def on_step_end(self, trainer: Any, metrics: Any) -> None:
        self._draw()

    def on_evaluate(self, trainer: Any, evaluation: Any) -> None:
        self._draw()

    def on_train_end(self, trainer: Any, summary: Any) -> None: ...

    def close(self) -> None:
        """Training has ended, its summary is written, and the control says so."""
        if self._foreground:
            self._foreground = False
            with contextlib.suppress(Exception):
                if (panel := self._panel()) is not None:
                    panel.settle()

    def _draw(self) -> None:
        if self._foreground:
            with contextlib.suppress(Exception):
                if (panel := self._panel()) is not None:
                    panel.tick()


def dashboard(trainer: Any, compare: Sequence[Any] = ()) -> TrainingDashboard:
    """A dashboard of ``trainer``, which draws it from now on; ``compare``: earlier runs beside it."""
    from rlkit.widgets.training import TrainingDashboard

    trainer_of, control = weakref.ref(trainer), trainer.control  # a picture must not keep a model in memory

    def begun() -> bool:
        return (alive := trainer_of()) is None or alive._writer is not None

    runs = [trainer.run_dir, *compare]
    panel = TrainingDashboard(runs, control=control, total_steps=trainer.total_steps, begun=begun)
    drawer = BetweenSteps(panel)
    trainer.callbacks.append(drawer)
    trainer._drawers.append(drawer)
    return panel
