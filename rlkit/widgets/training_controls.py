"""The training dashboard's buttons and choices, each with a label and a tooltip."""

from __future__ import annotations

import ipywidgets

from rlkit.widgets.models.subjects import NUMBERS

_AVERAGES = (
    ("every step", 1),
    ("mean of 5 steps", 5),
    ("mean of 20 steps", 20),
    ("mean of 100 steps", 100),
)
_SPEEDS = (0.5, 1.0, 2.0, 5.0, 20.0)


class Controls:
    """Buttons of a training or of a replay, what charts to show, and how many steps a point stands for.

    Args:
        speed: of a replay; None: it is no replay.
        act: whether there is something that the buttons act on.

    Attributes:
        pause, step, stop, again, restart, speed: what may be shown in the row ``buttons``.
        section, average: shown in the row ``choice``.
        spare: those that are not shown.
    """

    def __init__(self, speed: float | None, act: bool) -> None:
        self.pause = _button("Pause", "pause", "pause after the running step; again: go on")
        self.step = _button("One step", "step-forward", "make one step, then pause")
        if speed is None:
            self.stop = _button(
                "Stop with checkpoint", "stop", "end after the running step; the run can be resumed"
            )
        else:
            self.stop = _button("Skip to the end", "fast-forward", "show the whole run at once")
        self.again = _button("Look again", "refresh", "read the run directory again")
        self.restart = _button("Begin again", "undo", "tell the recorded run from its first step")
        at = 1.0 if speed is None else speed
        self.speed = ipywidgets.Dropdown(
            options=[(f"{value:g} ×", value) for value in sorted({*_SPEEDS, at})],
            value=at,
            description="Speed",
            tooltip="seconds of the recording that pass in one second",
            layout=ipywidgets.Layout(width="11rem"),
        )
        self.section = ipywidgets.ToggleButtons(
            options=[NUMBERS],
            description="Show",
            tooltip="which charts",
            style={"button_width": "auto"},
            layout=ipywidgets.Layout(width="auto", max_width="100%"),
        )
        self.average = ipywidgets.Dropdown(
            options=_AVERAGES,
            description="Points",
            tooltip="what a point of a curve stands for",
            layout=ipywidgets.Layout(width="15rem"),
        )
        for labelled in (self.speed, self.section, self.average):
            labelled.style.description_width = "initial"
        row = ipywidgets.Layout(flex_flow="row wrap", align_items="center", grid_gap="0 14px")
        made = [self.pause, self.step, self.stop, self.again, self.restart, self.speed]
        shown = made[:4] if act else [self.again]
        if speed is not None:
            shown = [self.pause, self.step, self.stop, self.restart, self.speed]
        self.spare = [control for control in made if control not in shown]
        close = ipywidgets.Layout(flex_flow="row wrap", align_items="center")
        self.buttons = ipywidgets.HBox(shown, layout=close)
        self.choice = ipywidgets.HBox([self.section, self.average], layout=row)
        self.choice.add_class("choice")

    def set(self, why: str, pausing: bool, stopping: bool) -> None:
        """``why``: why the buttons cannot act, "" where they can."""
        for button in (self.pause, self.step, self.stop):
            button.disabled = bool(why)
        self.stop.disabled = bool(why) or stopping
        waiting = pausing and not why
        self.pause.description, self.pause.icon = ("Go on", "play") if waiting else ("Pause", "pause")


def _button(text: str, icon: str, tip: str) -> ipywidgets.Button:
    layout = ipywidgets.Layout(width="auto", min_width="6.5rem")
    return ipywidgets.Button(description=text, icon=icon, tooltip=tip, layout=layout)
