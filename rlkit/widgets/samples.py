"""Look inside a run's completions: lists, one completion token by token, two steps or two runs side by side."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ipywidgets

from rlkit.errors import ConfigError, bad_value
from rlkit.runs import Run
from rlkit.widgets.look import callout
from rlkit.widgets.models.samples import Listed
from rlkit.widgets.panel import Panel, guarded
from rlkit.widgets.sample_pane import SamplePane

_MOST_RUNS = 5
_LINKED = ("kind", "order", "descending", "only", "search")  # controls that both sides may share


class SampleInspector(Panel):
    """Any step's completions: sorted, searched, opened, token by token; two steps or runs side by side.

    A list shows reward, advantage, length and end of each completion. An opened one shows its tokens coloured by the
    push on each (the gradient), log-probability, ratio with what was clipped, KL, entropy or engine/trainer difference,
    for PPO also by value and advantage; a chosen token shows all its numbers and the engine's alternatives.

    Args:
        run: a run directory, a ``Run``, a trainer, or a list of up to five of them.
        step: which step to show first; default the newest.
        compare: show a second side at once: of the second run, or the same run's first step.
        tokenizer: spells alternatives that occur in no completion of the step; default the trainer's.

    Attributes:
        left, right: the two sides, each a ``SamplePane`` with its controls.
        compare: ``Checkbox``, shows the right side.
        linked: ``Checkbox``, chooses, sorts and searches on the right side as on the left one, and opens the same
            prompt there.

    Raises:
        ConfigError: something else than runs, or more than five. A folder that holds no run is said in the panel.

    Example:
        >>> SampleInspector("runs/demo", step=20)
    """

    def __init__(
        self, run: Any, step: int | None = None, *, compare: bool = False, tokenizer: Any = None
    ) -> None:
        given = list(run) if isinstance(run, Sequence) and not isinstance(run, str) else [run]
        if not 1 <= len(given) <= _MOST_RUNS:
            raise bad_value("run", f"{len(given)} runs", f"1 to {_MOST_RUNS} runs")
        if step is not None and (isinstance(step, bool) or not isinstance(step, int) or step < 0):
            raise bad_value("step", step, "a whole number, 0 or more, or None for the newest")
        self.missing: list[str] = []  # why runs that were asked for are not there
        runs = [found for one in given if (found := self._opened(one)) is not None]
        if tokenizer is None:
            tokenizer = next((getattr(one, "processing_class", None) for one in given), None)
        self.left = SamplePane(runs, self.trouble, tokenizer)
        self.right = SamplePane(runs, self.trouble, tokenizer, number=1)
        self._beside = step if len(runs) > 1 else 0  # the step that the right side begins with
        self.compare = ipywidgets.Checkbox(value=compare, description="two side by side", indent=False)
        self.linked = ipywidgets.Checkbox(
            value=True,
            description="same list and prompt on both",
            tooltip="Choose, sort, search and open the same on both sides",
            indent=False,
        )
        self.linked.layout.width = "auto"
        sides = ipywidgets.HBox([self.left, self.right])
        sides.add_class("sides")
        lines = [ipywidgets.HTML(callout("problem", "", why)) for why in self.missing]
        switches = ipywidgets.HBox([self.compare, self.linked], layout={"flex_flow": "row wrap"})
        about = "Every prompt, every completion, and what each token was worth."
        super().__init__("Samples", [*lines, switches, sides], about)
        if runs:
            self.left.look(step)
        else:
            switches.layout.display = sides.layout.display = "none"
        self._show_right()
        self.compare.observe(self._on_compare, "value")
        for name in _LINKED:
            getattr(self.left, name).observe(self._on_left, "value")
        self.left.on_open = self._on_open

    def _opened(self, one: Any) -> Run | None:
        if isinstance(one, Run):
            return one
        path = getattr(one, "run_dir", one)
        if not isinstance(path, (str, os.PathLike)):
            raise bad_value("run", one, "a run directory, a Run or a trainer")
        try:
            return Run(Path(path))
        except ConfigError as error:
            later = (
                " The trainer has not written anything yet: make this again once it has."
                if path is not one
                else ""
            )
            self.missing.append(f"{error}{later}")
            return None

    def export(self, path: str | os.PathLike[str]) -> Path:
        """Write the left side's list to a new file: ``.csv`` what it shows, ``.parquet`` every column.

        Raises:
            ConfigError: another ending, a file that is there already (nothing is overwritten), no completions.
        """
        if self.left.sheet is None:
            raise ConfigError("there are no completions to export: the run has no whole step yet")
        return self.left.export(path)

    def static_html(self) -> str:
        """What is shown, as HTML without widgets."""
        said = "".join(callout("problem", "", why) for why in self.missing)
        if not self.left.runs:
            return said
        sides = [self.left, self.right] if self.compare.value else [self.left]
        inside = "".join(f"<div>{side.static_html()}</div>" for side in sides)
        return f'{said}<div class="sides">{inside}</div>'

    def describe(self) -> str:
        """The same in a line of text."""
        if not self.left.runs:
            return " ".join(self.missing)
        beside = f" | beside it {self.right.describe()}" if self.compare.value else ""
        return f"{self.left.describe()}{beside}"

    # -- events ---------------------------------------------------------------------------------------

    @guarded
    def _on_compare(self, change: Any) -> None:
        self._show_right()

    def _show_right(self) -> None:
        shown = bool(self.compare.value)
        self.right.layout.display = None if shown else "none"
        self.linked.layout.display = None if shown else "none"
        if shown and self.right.sheet is None:
            self.right.look(self._beside)
        if shown and self.linked.value:
            for name in _LINKED:
                self._copy(name)
            if self.left.opened is not None:
                self._on_open(self.left.opened)

    @guarded
    def _on_left(self, change: Any) -> None:
        if self.compare.value and self.linked.value:
            self._copy(next(name for name in _LINKED if getattr(self.left, name) is change["owner"]))

    def _copy(self, name: str) -> None:
        """Set a control of the right side as the left one is, where it can be."""
        value, control = getattr(self.left, name).value, getattr(self.right, name)
        if name not in ("order", "kind") or value in (one for _, one in control.options):
            control.value = value

    def _on_open(self, row: Listed) -> None:
        """Open the same prompt on the right side, where it has it."""
        if self.compare.value and self.linked.value and self.right.sheet is not None:
            same = self.right.sheet.find_prompt(row.prompt)
            if same is not None:
                self.right.show(same.position)
                wanted = self.left.tokens.quantity.value
                if wanted in (value for _, value in self.right.tokens.quantity.options):
                    self.right.tokens.quantity.value = wanted
            else:
                self.right.show_none(
                    "This side has no completion of the prompt that is open on the other one."
                )
