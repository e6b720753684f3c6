"""Sliders, menus, buttons and rows as all explorers have them: labelled, explained, and at home on 400 pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ipywidgets

from rlkit.widgets.panel import Panel

FIELD = (
    "min(100% - 8px, 23rem)"  # of a control with its label: two or three stand side by side, one on a phone
)
LABEL = {"description_width": "8.2rem"}


def row(*children: ipywidgets.Widget) -> ipywidgets.HBox:
    """Controls side by side, which wrap where there is no room."""
    layout = ipywidgets.Layout(flex_flow="row wrap", align_items="center", width="100%", grid_gap="2px 18px")
    return ipywidgets.HBox(list(children), layout=layout)


def slider(
    label: str,
    value: float,
    low: float,
    high: float,
    step: float,
    tip: str,
    *,
    log: bool = False,
    shown: str = "",
    live: bool = True,
) -> Any:
    """A slider with its number, which can be typed too.

    Whole numbers where `step` is an int. ``log``: `low` and `high` are powers of ten, as `FloatLogSlider` has them.
    ``live``: whether it reports while it is dragged; not where an answer takes more than about 20 ms.
    """
    settings: dict[str, Any] = {
        "value": value, "min": low, "max": high, "step": step, "description": label, "tooltip": tip,
        "continuous_update": live, "style": LABEL, "layout": ipywidgets.Layout(width=FIELD),
    }  # fmt: skip
    if shown:
        settings["readout_format"] = shown
    kind = (
        ipywidgets.FloatLogSlider
        if log
        else ipywidgets.IntSlider
        if isinstance(step, int)
        else ipywidgets.FloatSlider
    )
    return field(kind(**settings))


def field(control: Any) -> Any:
    """A control with its label beside it, or above it on a phone (`style.css`)."""
    control.add_class("field")
    return control


def menu(label: str, options: Sequence[Any], value: Any, tip: str) -> ipywidgets.Dropdown:
    """A drop-down menu; options are texts, or (text, value)."""
    made = ipywidgets.Dropdown(
        options=list(options), value=value, description=label, tooltip=tip, style=LABEL,
        layout=ipywidgets.Layout(width=FIELD),
    )  # fmt: skip
    return field(made)


def tick(label: str, value: bool, tip: str) -> ipywidgets.Checkbox:
    """A box to tick."""
    return ipywidgets.Checkbox(
        value=value, description=label, tooltip=tip, indent=False, layout=ipywidgets.Layout(width="auto")
    )


def button(text: str, tip: str, width: str = "auto") -> ipywidgets.Button:
    """A button."""
    return ipywidgets.Button(description=text, tooltip=tip, layout=ipywidgets.Layout(width=width))


def picture() -> ipywidgets.HTML:
    """Where charts and tables are put (`panel.put`)."""
    return ipywidgets.HTML(layout=ipywidgets.Layout(width="100%"))


class Explorer(Panel):
    """A panel whose picture follows its controls.

    A subclass writes `refresh`, which reads the controls and draws, and hands the controls to `follow`.
    """

    _held = False

    def refresh(self) -> None:
        """Read the controls, work it out, draw."""
        raise NotImplementedError

    def follow(self, *controls: ipywidgets.Widget) -> None:
        """Refresh whenever one of these changes; and once, now."""
        for control in controls:
            control.observe(self._changed, names="value")
        self._changed(None)

    def _changed(self, _change: Any) -> None:
        if self._held:
            return
        try:
            self.refresh()
        except Exception as error:
            self.trouble(error)
        else:
            self.trouble(None)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Change several controls; the picture follows once, at the end."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        self._changed(None)
