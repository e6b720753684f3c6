"""How far training is: one bar that suits a notebook, a terminal, a log file and a background thread.

* **notebook**: one output, drawn again in place as HTML and text. It needs no widgets, so JupyterLab, VS Code, Colab,
  nbconvert and GitHub show it, and a stored notebook shows how it ended. The output has an id: a background
  thread may draw long after its cell has returned.
* **terminal**: tqdm's bar.
* **anything else** (a file, a pipe, CI): plain lines without carriage returns. One at the start, one at the end, and
  one whenever 10 % of the steps or 30 s have passed (after 25 minutes: 2 % of the time gone; days stay readable).
"""

from __future__ import annotations

import contextlib
import html
import math
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TextIO

from tqdm import tqdm

Clock = Callable[[], float]
_SHOWN = {"reward": ".2f", "accuracy": ".2f", "loss": ".3g"}
_SHOWN_OF_PPO = {"reward": ".2f", "accuracy": ".2f", "kl": ".3g", "value_loss": ".3g"}  # its loss says little
_REDRAWN_EVERY = 0.25  # seconds, in a notebook
_BROKEN = (OSError, ValueError)  # a terminal that was closed must not end the training that it showed


@contextlib.contextmanager
def progress(
    total: int,
    initial: int = 0,
    disable: bool = False,
    desc: str = "",
    *,
    stream: TextIO | None = None,
    clock: Clock = time.monotonic,
) -> Iterator[Bar]:
    """Show a bar of ``total`` steps, ``initial`` of them done, while the block runs; ``update`` it after each step.

    ``disable``: show nothing, not even what goes through ``write``. ``desc``: stands in front. ``stream``: where to
    draw instead of the notebook or ``sys.stderr``. ``clock``: seconds that never go back.
    """
    ipython = sys.modules.get("IPython")
    kernel = getattr(ipython and ipython.get_ipython(), "kernel", None)  # known to background threads as well
    isatty = getattr(stream or sys.stderr, "isatty", None)
    kind: type[Bar] = NotebookBar if kernel and not stream else TerminalBar if isatty and isatty() else LogBar
    bar = (Bar if disable else kind)(total, initial, desc, stream, clock)
    try:
        yield bar
    finally:
        bar.close()


class Bar:
    """Counts and measures; this one shows nothing, its subclasses draw."""

    def __init__(
        self, total: int, initial: int, desc: str, stream: TextIO | None, clock: Callable[[], float]
    ):
        self.total, self.done, self.desc, self.stream, self.clock = total, initial, desc, stream, clock
        self._start = self._last = clock()
        self._recent: deque[float] = deque(maxlen=20)  # seconds a step
        self._numbers: list[str] = []
        self._draw("start")

    def update(self, metrics_values: Mapping[str, Any] | None = None, n: int = 1) -> None:
        """``n`` more steps are done; of their numbers, reward, accuracy and loss are shown, of PPO KL and value loss
        in the place of its loss.
        """
        now = self.clock()
        self._recent.append((now - self._last) / max(n, 1))
        self._last = now
        self.done += n
        values = metrics_values or {}
        shown = _SHOWN_OF_PPO if values.get("value_loss") is not None else _SHOWN
        found = ((name, values.get(name), form) for name, form in shown.items())
        said = (
            (name.replace("_", " "), v, form)
            for name, v, form in found
            if v is not None and not math.isnan(v)
        )
        self._numbers = [f"{name} {v:{form}}" for name, v, form in said]
        with contextlib.suppress(*_BROKEN):
            self._draw("step")

    def write(self, text: str) -> None:
        """A line for people on ``sys.stdout``, which the bar makes room for."""
        with contextlib.suppress(*_BROKEN):
            self._say(text)

    def close(self) -> None:
        """Show the last state, for good. May be called twice."""
        with contextlib.suppress(*_BROKEN):
            self._draw("end")

    @property
    def seconds_left(self) -> float | None:
        """The median of the last 20 steps × the steps to come: an evaluation in between does not disturb it."""
        return statistics.median_low(self._recent) * (self.total - self.done) if self._recent else None

    def state(self) -> str:
        """Time left and numbers, e.g. ``01:48 left, reward 0.51``."""
        left = self.seconds_left if self.done < self.total else None
        return ", ".join([*([] if left is None else [f"{tqdm.format_interval(left)} left"]), *self._numbers])

    def __str__(self) -> str:
        parts = [f"step {self.done} of {self.total}", f"{100 * self.done // max(self.total, 1)} %"]
        parts += [f"{tqdm.format_interval(self.clock() - self._start)} gone", self.state()]
        return (self.desc and f"{self.desc}: ") + ", ".join(filter(None, parts))

    def _draw(self, when: str) -> None: ...

    def _say(self, text: str) -> None: ...


class TerminalBar(Bar):
    def _draw(self, when: str) -> None:
        if when == "start":
            shape = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"
            settings = {"file": self.stream or sys.stderr, "bar_format": shape, "dynamic_ncols": True}
            self._bar = tqdm(None, self.desc or None, self.total, initial=self.done, **settings)
        elif when == "step":
            self._bar.set_postfix_str(self.state(), refresh=False)  # update() draws, at tqdm's own pace
            self._bar.update(self.done - self._bar.n)
        else:
            self._bar.close()

    def _say(self, text: str) -> None:
        self._bar.write(text, file=self.stream or sys.stdout)


class LogBar(Bar):
    def _draw(self, when: str) -> None:
        now = self.clock()
        if when != "start":  # which comes first and sets what the others look at
            tenth = self.done == self.total or self.done - self._said >= self.total / 10
            silent = now - self._said_at >= max(30.0, (now - self._start) / 50)
            wanted = tenth or silent or when == "end"
        if when == "start" or (wanted and self.done != self._said):
            self._said, self._said_at = self.done, now
            print(self, file=self.stream or sys.stderr, flush=True)

    def _say(self, text: str) -> None:
        print(text, file=self.stream or sys.stdout, flush=True)


class NotebookBar(LogBar):
    def _draw(self, when: str) -> None:
        from IPython.display import display

        now = self.clock()
        if when == "step" and now - self._said_at < _REDRAWN_EVERY:
            return
        self._said_at = now
        bar = f'<progress value="{self.done}" max="{max(self.total, 1)}" aria-label="training"></progress>'
        drawn = {"text/plain": str(self), "text/html": f"<div>{bar} {html.escape(str(self))}</div>"}
        if when == "start":
            self._handle: Any = display(drawn, raw=True, display_id=True)
        else:
            self._handle.update(drawn, raw=True)
