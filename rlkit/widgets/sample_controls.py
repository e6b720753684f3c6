"""The controls of one side of the sample inspector, and how they stand; what they do is `sample_pane`'s."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ipywidgets

from rlkit.widgets.models.samples import FILTERS, ORDERS

ROWS = 8  # completions on a page
NO_STEP = -1
_WIDE = {"width": "auto", "max_width": "calc(100% - 4px)"}
_LONG = {"width": "auto", "min_width": "220px", "max_width": "calc(100% - 4px)", "flex": "1 1 240px"}
_NARROW = {"width": "44px"}


class PaneControls(ipywidgets.VBox):  # type: ignore[misc]
    """The controls, without what they do.

    Args:
        runs: what the runs are called; there is no menu of fewer than two.

    Attributes:
        run, kind: ``Dropdown``; step: ``SelectionSlider``; again: ``Button``, looks for new steps.
        order, only: ``Dropdown``; descending: ``Checkbox``; search: ``Text``.
        page: ``BoundedIntText``; before, after: ``Button``.
        rows: eight ``Button``, which open the completions of the page.
        csv, parquet: ``Button``, write the list to a file.
    """

    def __init__(self, runs: Sequence[str]) -> None:
        self._choose_sheet(runs)
        self._choose_list()
        self._count, self._pages, self._notes, self._summary, self._saved, self._opened = (
            ipywidgets.HTML() for _ in range(6)
        )
        super().__init__(self._arranged())
        self.add_class("sample-pane")

    def _choose_sheet(self, runs: Sequence[str]) -> None:
        self.run = ipywidgets.Dropdown(
            options=[(f"{i + 1}: {name}" if len(runs) > 1 else name, i) for i, name in enumerate(runs)],
            description="run",
            tooltip="Which run",
            layout=_WIDE,
        )
        if len(runs) < 2:
            self.run.layout.display = "none"
        self.kind = ipywidgets.Dropdown(
            description="completions", tooltip="Of training or held-out", layout=_WIDE
        )
        self.step = ipywidgets.SelectionSlider(
            options=[("none yet", NO_STEP)],
            description="step",
            tooltip="Which step",
            continuous_update=False,
            layout=_LONG,
        )
        self.again = _button("look again", "Look for steps that have been written since", {"width": "100px"})

    def _choose_list(self) -> None:
        self.order = ipywidgets.Dropdown(
            options=[(order, order) for order in ORDERS],
            description="sort by",
            tooltip="Order of the list",
            layout=_WIDE,
        )
        self.descending = ipywidgets.Checkbox(
            value=False, description="largest first", indent=False, layout={"width": "120px"}
        )
        self.only = ipywidgets.Dropdown(
            options=list(FILTERS), description="show", tooltip="Which ones", layout=_WIDE
        )
        self.search = ipywidgets.Text(
            description="search",
            placeholder="text, then Enter",
            tooltip="Part of a prompt or of a completion",
            continuous_update=False,
            layout={**_LONG, "min_width": "200px"},
        )
        self.page = ipywidgets.BoundedIntText(
            1,
            min=1,
            max=1,
            description="page",
            tooltip="Page of the list",
            style={"description_width": "40px"},
            layout={"width": "110px"},
        )
        self.before = _button("◀", "The page before", _NARROW)
        self.after = _button("▶", "The next page", _NARROW)
        self.rows = [_button("", "", {"width": "78px", "flex": "0 0 auto"}) for _ in range(ROWS)]
        self._texts = [
            ipywidgets.HTML(layout={"flex": "1 1 0", "min_width": "0", "width": "auto"}) for _ in self.rows
        ]
        self.csv = _button("save as csv", "Write what the list shows to a new file", {"width": "auto"})
        self.parquet = _button(
            "save as parquet", "Write these completions with every column to a new file", {"width": "auto"}
        )

    def _arranged(self) -> list[ipywidgets.Widget]:
        def row(*children: ipywidgets.Widget) -> ipywidgets.HBox:
            return ipywidgets.HBox(children, layout={"flex_flow": "row wrap", "align_items": "center"})

        self._lines = [ipywidgets.HBox(pair) for pair in zip(self.rows, self._texts, strict=True)]
        for line in self._lines:
            line.add_class("sample-row")
        self._pages.layout.margin = "2px 8px"
        return [
            row(self.run, self.kind, self.step, self.again),
            self._summary,
            row(self.order, self.descending, self.only, self.search),
            self._notes,
            row(self.before, self.page, self._pages, self.after, self._count),
            *self._lines,
            row(self.csv, self.parquet, self._saved),
            self._opened,
        ]


def _button(text: str, tip: str, layout: dict[str, Any]) -> ipywidgets.Button:
    return ipywidgets.Button(description=text, tooltip=tip, layout=layout)
