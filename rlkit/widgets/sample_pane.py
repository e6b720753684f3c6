"""One side of the sample inspector: a run, a step of it, the list of its completions, one of them opened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rlkit.errors import RlkitError
from rlkit.runs import Run
from rlkit.runs.evidence import shown
from rlkit.widgets.look import callout, empty, escaped, whole
from rlkit.widgets.models.places import KINDS, Place, places
from rlkit.widgets.models.sample_export import export, free_path
from rlkit.widgets.models.samples import ORDERS, Listed, Sheet
from rlkit.widgets.panel import SetsItself, guarded, put
from rlkit.widgets.sample_controls import NO_STEP, ROWS, PaneControls
from rlkit.widgets.sample_html import index, none_opened, opened_html, row_html, summary_html, value
from rlkit.widgets.token_view import TokenView


class SamplePane(SetsItself, PaneControls):
    """One side; see ``SampleInspector``. Empty until ``look`` is called.

    Args:
        runs: which can be chosen.
        trouble: shows an error above the panel.
        tokenizer: see ``SampleInspector``.
        number: which of ``runs`` first.

    Attributes:
        Its controls: see ``PaneControls``.
        tokens: the ``TokenView`` of the opened completion.
        sheet: the ``Sheet`` shown; listed: the completions on the page; opened: the row that is open.
    """

    def __init__(
        self, runs: Sequence[Run], trouble: Callable[[Any], None], tokenizer: Any = None, number: int = 0
    ) -> None:
        self.runs, self.trouble, self.tokenizer = list(runs), trouble, tokenizer
        self.sheet: Sheet | None = None
        self.listed: list[Listed] = []
        self.opened: Listed | None = None
        self.on_open: Callable[[Listed], None] = lambda row: None
        self._most = 0.0  # the largest advantage of the sheet, on either side
        self._asked: list[str] = []  # that another step was asked for than is shown
        self._places: dict[str, list[int]] = {}
        super().__init__([shown(whole(run.name), 60) for run in self.runs])
        self.tokens = TokenView(trouble)
        self.children += (self.tokens,)
        if number < len(self.runs):
            self.run.value = number
        self._wire()

    def _wire(self) -> None:
        self.run.observe(self._on_run, "value")
        self.kind.observe(self._on_kind, "value")
        self.step.observe(self._on_step, "value")
        for control in (self.order, self.descending, self.only, self.search):
            control.observe(self._on_list, "value")
        self.page.observe(self._on_page, "value")
        self.before.on_click(lambda _: setattr(self.page, "value", max(1, self.page.value - 1)))
        self.after.on_click(lambda _: setattr(self.page, "value", min(self.page.max, self.page.value + 1)))
        self.again.on_click(self._on_again)
        for i, button in enumerate(self.rows):
            button.on_click(self._opener(i))
        self.csv.on_click(lambda _: self._save(".csv"))
        self.parquet.on_click(lambda _: self._save(".parquet"))

    # -- from Python ----------------------------------------------------------------------------------

    def show(self, position: int) -> None:
        """Open the completion at a position of the file (from 0), on whatever page it is.

        Raises:
            ConfigError: no such completion.
        """
        if self.sheet is None:
            return
        opened = self.sheet.open(position)
        self.opened = opened.row
        put(self._opened, opened_html(self.sheet, opened.row, opened.data_row))
        self.tokens.show(opened)
        self._mark_open()
        self.on_open(opened.row)

    def show_none(self, why: str) -> None:
        """Close the completion that is open, and say why there is none."""
        self.opened = None
        put(self._opened, none_opened(why))
        self.tokens.show(None)
        self._mark_open()

    @property
    def chosen(self) -> dict[str, Any]:
        """How the list is sorted, filtered and searched."""
        return {
            "order": self.order.value,
            "descending": self.descending.value,
            "only": self.only.value,
            "search": self.search.value,
        }

    def export(self, path: Any) -> Path:
        """Write the completions that the list finds, in its order; see ``models.sample_export.export``."""
        assert self.sheet is not None
        return export(self.sheet, path, self.sheet.listed(**self.chosen))

    # -- events ---------------------------------------------------------------------------------------

    @guarded
    def _on_run(self, change: Any) -> None:
        if not self._silent:
            self.look(None)

    @guarded
    def _on_again(self, button: Any) -> None:
        self.look(None if self.step.value == NO_STEP else self.step.value)

    @guarded
    def _on_kind(self, change: Any) -> None:
        if not self._silent:
            self._fill_steps(self.step.value)
            self._load()

    @guarded
    def _on_step(self, change: Any) -> None:
        if not self._silent:
            self._load()

    @guarded
    def _on_list(self, change: Any) -> None:
        if not self._silent:
            self._list(1)

    @guarded
    def _on_page(self, change: Any) -> None:
        if not self._silent:
            self._list(self.page.value)

    def _opener(self, i: int) -> Callable[[Any], None]:
        def click(button: Any) -> None:
            try:
                if i < len(self.listed):
                    self.show(self.listed[i].position)
                self.trouble(None)
            except Exception as error:
                self.trouble(error)

        return click

    @guarded
    def _save(self, ending: str) -> None:
        if self.sheet is None or not self.sheet.rows:
            put(self._saved, "There are no completions to save.")
            return
        place = self.sheet.place
        name = f"{self.sheet.run.name}_{place.kind}_step_{place.step}{ending}"
        path = self.export(free_path(name))
        count = len(self.sheet.listed(**self.chosen))
        put(self._saved, f"{count:,} completions were written to {escaped(path.resolve())}")

    # -- what is shown --------------------------------------------------------------------------------

    def look(self, step: int | None = None) -> None:
        """Read which steps there are, then the one asked for, or the newest."""
        self._places = places(self.runs[self.run.value]) if self.runs else {}
        with self.silently():
            kept = self.kind.value
            self.kind.options = [(KINDS[kind], kind) for kind in self._places]
            self.kind.value = kept if kept in self._places else next(iter(self._places), None)
        self._fill_steps(step)
        if step and self.step.value not in (step, NO_STEP):
            self._asked = [f"Step {step} has no completions here: the nearest step that has is shown."]
        self._load()
        self._asked = []

    def _fill_steps(self, step: int | None) -> None:
        """The steps of the chosen kind; ``step`` or the nearest one before it is chosen."""
        steps = self._places.get(self.kind.value, [])
        with self.silently():
            self.step.options = [(str(n), n) for n in steps] or [("none yet", NO_STEP)]
            if steps:
                before = [n for n in steps if step is None or n <= step]
                self.step.value = before[-1] if before else steps[0]

    def _load(self) -> None:
        """Read the sheet of the chosen step."""
        self.sheet, self.opened = None, None
        put(self._saved, "")
        put(self._opened, "")
        self.tokens.show(None)
        try:
            if self.step.value != NO_STEP:
                place = Place(self.kind.value, self.step.value)
                self.sheet = Sheet(self.runs[self.run.value], place, self.tokenizer)
        except RlkitError as error:
            self._list(1)
            put(self._notes, callout("problem", "", str(error)))
            return
        if self.sheet is not None:
            with self.silently():
                kept = self.order.value
                self.order.options = [(shown(order, 60), order) for order in self.sheet.orders]
                self.order.value = kept if kept in self.sheet.orders else ORDERS[0]
            self._most = self.sheet.most_advantage
        self._list(1)

    def _list(self, page: int) -> None:
        sheet = self.sheet
        if sheet is None or not sheet.rows:
            why = (
                "No whole step yet. A run writes its completions at the end of each step: press “look again” then."
                if sheet is None
                else sheet.why_empty
            )
            self.listed = []
            put(self._notes, empty(why))
            for part in (self._count, self._pages, self._summary):
                put(part, "")
        else:
            found = sheet.page(page, ROWS, **self.chosen)
            self.listed = found.rows
            notes = [*self._asked, *sheet.notes]
            put(self._notes, "".join(callout("info", "", note) for note in notes))
            put(self._summary, summary_html(sheet))
            put(self._pages, f"of {found.pages:,}")
            said = f"{found.found:,} of {found.total:,} completions"
            none = empty("Nothing is found: change the search or what is shown.")
            put(self._count, said if found.found else none)
            if self.opened is None:
                put(self._opened, none_opened())
            with self.silently():
                self.page.max = max(found.pages, self.page.value)
                self.page.value = found.number
                self.page.max = found.pages
        for line, button, text, row in zip(self._lines, self.rows, self._texts, self._padded(), strict=True):
            line.layout.display = "none" if row is None else None
            if row is not None:
                button.description = f"{index(row.prompt_index)}·{index(row.completion_index)}"
                button.tooltip = (
                    f"Open completion {index(row.completion_index)} of prompt {index(row.prompt_index)} "
                    "(both from 0, as the run counts them)"
                )
                put(text, row_html(row, self.order.value, self._most))
        self._mark_open()

    def _padded(self) -> list[Listed | None]:
        return [*self.listed, *([None] * (ROWS - len(self.listed)))]

    def _mark_open(self) -> None:
        for button, row in zip(self.rows, self._padded(), strict=True):
            is_open = row is not None and self.opened is not None and row.position == self.opened.position
            button.icon = "caret-right" if is_open else ""
            button.button_style = "info" if is_open else ""

    def static_html(self) -> str:
        """The page of the list and the opened completion as HTML without widgets."""
        rows = "".join(
            f'<div class="sample-row">{row_html(row, self.order.value, self._most)}</div>'
            for row in self.listed
        )
        page = f"page {self.page.value} {self._pages.value}: {self._count.value}"
        count = f"<p class='soft'>{page}</p>" if self.listed else self._count.value
        opened = "" if self.opened is None else f"{self._opened.value}{self.tokens.static_html()}"
        return f"{self._summary.value}{self._notes.value}{count}{rows}{opened}"

    def describe(self) -> str:
        """The same in a line of text."""
        if self.sheet is None:
            return "no completions yet"
        told = f"{self.sheet}: {len(self.sheet):,} completions"
        if self.opened is None:
            return told
        row = self.opened
        return (
            f"{told}; opened: completion {index(row.completion_index)} of prompt {index(row.prompt_index)}, "
            f"reward {value(row.reward)}, advantage {value(row.advantage)}, {index(row.length)} tokens"
        )
