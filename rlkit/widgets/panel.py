"""The frame of every widget: its style, a line for what went wrong, and a picture for pages on which no widget runs."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ipywidgets

from rlkit.errors import RlkitError
from rlkit.widgets.look import LITERAL, STYLE, callout, escaped

Handler = Callable[..., None]


class Panel(ipywidgets.VBox):  # type: ignore[misc]
    """A box of widgets with a title, an error line and a static form.

    A subclass makes its controls, calls ``super().__init__(title, [...])``, and says with ``static_html`` and
    ``describe`` what GitHub, nbviewer and screen readers get.

    Args:
        title: what this is, in a few words.
        children: rows from top to bottom.
        about: one sentence under the title.
    """

    def __init__(self, title: str, children: Sequence[ipywidgets.Widget], about: str = "") -> None:
        self.title = title
        said = f'<p class="soft">{escaped(about)}</p>' if about else ""
        self._head = ipywidgets.HTML(f"{STYLE}<h3>{escaped(title)}</h3>{said}")
        self._trouble = ipywidgets.HTML("")
        self._trouble.layout.display = "none"
        super().__init__([self._head, self._trouble, *children])
        self.add_class("rlkit")

    # -- what stands in a page without widgets --------------------------------------------------------

    def static_html(self) -> str:
        """The present state as HTML without widgets: pictures with their content in words, tables."""
        raise NotImplementedError

    def describe(self) -> str:
        """The present state in one or two lines of text."""
        raise NotImplementedError

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None, **kwargs: Any) -> Any:
        """Widget, HTML and text: a front end takes the richest form that it can show."""
        bundle = super()._repr_mimebundle_(include=include, exclude=exclude, **kwargs)
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        page = f'{STYLE}<div class="rlkit {LITERAL}"><h3>{escaped(self.title)}</h3>{self.static_html()}</div>'
        data = {**data, "text/html": page, "text/plain": f"{self.title}: {self.describe()}"}
        return (data, metadata) if metadata else data

    def close(self) -> None:
        """Take the panel away, and all that is in it: nothing then holds on to it."""
        waiting = list(self.children)
        while waiting:
            child = waiting.pop()
            waiting += getattr(child, "children", ())
            child.close()
        super().close()

    # -- errors ---------------------------------------------------------------------------------------

    def trouble(self, error: BaseException | str | None) -> None:
        """Show what went wrong above the controls, in words; None takes it away."""
        if error is None:
            self._trouble.value, self._trouble.layout.display = "", "none"
            return
        text = str(error)
        if isinstance(error, BaseException) and not isinstance(error, RlkitError):
            text = f"{type(error).__name__}: {error}"
        self._trouble.value = callout("problem", "", text)
        self._trouble.layout.display = None


def guarded(handler: Handler) -> Handler:
    """A panel's method as an event handler: an error is shown in the panel, and does not vanish in the log."""

    @functools.wraps(handler)
    def handle(self: Panel, *args: Any, **kwargs: Any) -> None:
        try:
            handler(self, *args, **kwargs)
        except Exception as error:
            self.trouble(error)
        else:
            self.trouble(None)

    return handle


class SetsItself:
    """For a view that moves its own controls: within ``silently()`` its handlers see ``_silent`` and do nothing."""

    _silent = False

    @contextmanager
    def silently(self) -> Iterator[None]:
        """Change controls without acting on it."""
        before, self._silent = self._silent, True
        try:
            yield
        finally:
            self._silent = before


def put(widget: ipywidgets.HTML, html: str) -> None:
    """Show ``html``, unless it stands there already: what does not change does not flicker, and is not sent."""
    if widget.value != html:
        widget.value = html


class Pace:
    """Says when to draw again: at most ``per_second`` times, and never for more than ``share`` of the time.

    ``cost``: what is counted as spent, if not ``clock``: ``time.thread_time`` leaves out waiting for other threads.

    >>> pace = Pace()
    >>> if pace.due():
    ...     with pace:
    ...         draw()
    """

    def __init__(
        self,
        per_second: float = 2.0,
        share: float = 0.02,
        clock: Callable[[], float] = time.monotonic,
        cost: Callable[[], float] | None = None,
    ):
        self.least, self.share, self.clock, self.cost = 1 / per_second, share, clock, cost or clock
        self._next = float("-inf")
        self._start = 0.0

    def due(self) -> bool:
        """Whether enough time has passed."""
        return self.clock() >= self._next

    def __enter__(self) -> Pace:
        self._start = self.cost()
        return self

    def __exit__(self, *error: object) -> None:
        spent = self.cost() - self._start
        self._next = self.clock() + max(self.least, spent * (1 / self.share - 1))
