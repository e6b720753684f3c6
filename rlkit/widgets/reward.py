"""RewardInspector: one completion under every part of a reward, with the places where each part looked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import ipywidgets

from rlkit.errors import ConfigError
from rlkit.runs.evidence import number
from rlkit.widgets.controls import FIELD, LABEL, Explorer, button, field, menu, picture, row, slider
from rlkit.widgets.look import callout, escaped, model_text
from rlkit.widgets.models.reward import Inspection, RewardModel
from rlkit.widgets.models.reward_audits import golden_results, group_means, score_examples, score_task
from rlkit.widgets.models.reward_inputs import BLANK, Trial, read_cell, show_cell
from rlkit.widgets.panel import guarded, put
from rlkit.widgets.reward_html import golden_html, marked, parts_table, task_html, verdict

_OWN = "my own text"
_HIDDEN = "completion_ids"  # a column that says how long the text is; only true of the text that it came with
_LONGEST_TIP = 200
_LONG = 60  # characters from which on a column gets more than a line


class RewardInspector(Explorer):
    """One completion under every verifier and every part of a rubric, with the places that each went by.

    Type or paste a completion, take one from "try" (right and wrong answers and exploits made from the row, the
    reward's golden sets), change the row, change the weights. Two buttons run the golden and exploit sets, and score a
    whole task. Scores are the reward functions' own, findings `rlkit.rewards.audit`'s. Where a function fails, it is
    said for which completion.

    Args:
        rewards: a reward function, a rubric, a list of them, or names; or a task or its name: its own rewards.
        task: a `Task` or its name, for rows to answer.
        examples: completions to try: texts, `Example`s, or mappings with a "completion" and the row's columns, such as
            a run's samples.
        weights: one number a part; default those of the rubric, or 1.
        timeout: seconds that one part may take; None: any time.

    Raises `ConfigError` for what is no reward, task or example, or another number of weights.

    >>> RewardInspector("email_rubric", "email")  # a cell's last line

    Controls: `completion`, `cells` (the row's columns by name; `edit_row` shows them), `side`, `index`, `trial`,
    `weights` (by part), `score_button`, `golden_button`, `task_button`, `rows`. Results: `result`, `golden`, `scores`.
    """

    def __init__(
        self,
        rewards: Any = None,
        task: Any = None,
        examples: Iterable[Any] | None = None,
        weights: Sequence[float] | None = None,
        timeout: float | None = 10.0,
    ) -> None:
        self.model = RewardModel.make(rewards, task, examples, weights, timeout)
        self.result: Inspection | None = None
        self.golden: list[Any] = []  # `GoldenResult`s of the last run
        self.scores: list[Any] = []  # `GroupMean`s of the last run
        self.cells: dict[str, Any] = {}
        self._cell_row = row()
        self._controls()
        self._asked, self._marked, self._table, self._audits = picture(), picture(), picture(), picture()
        self._task_scores, self._busy = picture(), picture()
        children = [
            self._row_controls,
            self._asked,
            self.completion,
            row(
                self.score_button,
                ipywidgets.HTML("<span class='soft'>weights of the parts:</span>"),
                *self.weights.values(),
            ),
            self._marked,
            self._table,
            self.edit_row,
            self._cell_row,
            row(self.golden_button, *((self.task_button, self.rows) if self.model.task is not None else ())),
            self._busy,
            self._audits,
            self._task_scores,
        ]
        about = "Which part pays for what? Underlined is where a part looked; the number after it says which part."
        super().__init__(f"Reward inspector: {self.model.title[:80]}", children, about)
        self._held = True  # until everything is in its field
        self._load(self.model.row(), first=True)
        self._held = False
        self.follow(self.completion)
        self._watch()

    def _controls(self) -> None:
        model = self.model
        self.side = menu("side", ["train", "test"], "train", "Rows to train on, or held-out ones")
        self.index = ipywidgets.BoundedIntText(
            value=0, min=0, max=max(0, model.size("train") - 1), description="row", style=LABEL,
            tooltip="Number of the task's row, counted from 0", layout=ipywidgets.Layout(width=FIELD),
        )  # fmt: skip
        field(self.index)
        self.trial = menu("try", [_OWN], _OWN, "Right and wrong answers, exploits, golden sets")
        self.trial.layout.width = "min(100%, 40rem)"
        rows = (self.side, self.index) if model.task is not None else ()
        self._row_controls = row(*rows, self.trial)
        self.completion = ipywidgets.Textarea(
            value="", rows=5, description="completion", continuous_update=False, style=LABEL,
            placeholder="What a model said. Leave the field, or press the button, to have it scored.",
            tooltip="A completion; leave the field to have it scored", layout=ipywidgets.Layout(width="100%"),
        )  # fmt: skip
        field(self.completion)
        self.edit_row = ipywidgets.ToggleButton(
            value=True, description="Show the row's columns", icon="caret-down",
            layout=ipywidgets.Layout(width="auto", align_self="flex-start"),
        )  # fmt: skip
        self.edit_row.observe(self._row_shown, names="value")
        self.score_button = button("Score it", "Call every part again with what stands here", "8rem")
        self.weights = {
            part.name: ipywidgets.FloatText(
                value=weight, step=0.1, description=f"{i + 1} ×", tooltip=f"Weight of {part.name}",
                style={"description_width": "2.2rem"}, layout=ipywidgets.Layout(width="6.3rem"),
            )
            for i, (part, weight) in enumerate(zip(model.parts, model.weights, strict=True))
        }  # fmt: skip
        self.golden_button = button(
            "Golden and exploit sets", "Try each part on the completions that it is judged by"
        )
        self.task_button = button(
            "Score the task", "Right answers, wrong ones and exploits made from its rows"
        )
        most = max(1, model.size("train"), model.size("test"))
        self.rows = slider(
            "rows", min(32, most), 1, min(512, most), 1, "How many rows of the side", live=False
        )

    def _watch(self) -> None:
        self.side.observe(self._row_chosen, names="value")
        self.index.observe(self._row_chosen, names="value")
        self.trial.observe(self._trial_chosen, names="value")
        for weight in self.weights.values():
            weight.observe(self._weighed, names="value")
        self.score_button.on_click(self._changed)
        self.golden_button.on_click(self._run_golden)
        self.task_button.on_click(self._run_task)

    # -- the row and what is tried on it ------------------------------------------------------------------

    def _load(self, whole: dict[str, Any], first: bool = False) -> None:
        """Show a row of the task, and what can be tried on it. The caller holds back the events."""
        self._base = whole
        self._trials = {trial.label: trial for trial in self.model.trials(whole)}
        self.trial.options = [_OWN, *self._trials]
        self.trial.value = _OWN
        self._fill(whole)
        if first and self._trials:
            self._take(next(iter(self._trials.values())))

    def _fill(self, whole: dict[str, Any]) -> None:
        """Put a row into the fields; those that it lacks go."""
        self._row = whole
        names = [name for name in whole if name not in ("completion", _HIDDEN)]
        if names != list(self.cells):
            for cell in self.cells.values():
                cell.close()
            self.cells = {name: self._cell(name, show_cell(whole[name])) for name in names}
            self._cell_row.children = tuple(self.cells.values())
            self.edit_row.layout.display = None if names else "none"
            self.edit_row.tooltip = f"The row that the completion answers: {', '.join(names)}"[:_LONGEST_TIP]
            # Long rows would push the completion's scores out of sight.
            self.edit_row.value = not any(_is_long(show_cell(whole[name])) for name in names)
        for name in names:
            self.cells[name].value = show_cell(whole[name])

    def _cell(self, name: str, text: str) -> Any:
        long = _is_long(text)
        settings = {
            "value": text, "description": name[:40], "continuous_update": False, "style": LABEL,
            "tooltip": f"The row's column {name}; leave the field to have the completion scored",
            "layout": ipywidgets.Layout(width="100%" if long else FIELD),
        }  # fmt: skip
        cell = ipywidgets.Textarea(rows=3, **settings) if long else ipywidgets.Text(**settings)
        cell.observe(self._changed, names="value")
        return field(cell)

    def _take(self, trial: Trial) -> None:
        """Put a trial into the fields. The caller holds back the events."""
        blank = dict.fromkeys(self.model.columns, BLANK)
        self._fill({"prompt": "", **blank, **trial.row} if trial.row else self._base)
        self.completion.value = trial.text
        self.trial.value = trial.label

    def _row_chosen(self, _change: Any) -> None:
        def change() -> None:
            self.index.max = max(0, self.model.size(self.side.value) - 1)
            self._load(self.model.row(self.side.value, self.index.value))

        self._do(change)

    def _trial_chosen(self, change: Any) -> None:
        if change["new"] != _OWN:
            self._do(lambda: self._take(self._trials[change["new"]]))

    def _row_shown(self, change: Any) -> None:
        self._cell_row.layout.display = None if change["new"] else "none"
        self.edit_row.icon = "caret-down" if change["new"] else "caret-right"

    def _do(self, change: Callable[[], None]) -> None:
        """Change several fields, then score; what goes wrong is shown."""
        if self._held:
            return
        try:
            with self.at_once():
                change()
        except Exception as error:
            self.trouble(error)

    def row_values(self) -> dict[str, Any]:
        """The row as it stands in the fields. Raises `ConfigError` for a column that cannot be read."""
        values = {name: read_cell(cell.value, self._row[name]) for name, cell in self.cells.items()}
        trial = self._trials.get(self.trial.value)
        if _HIDDEN in self._row and trial is not None and trial.text == self.completion.value:
            values[_HIDDEN] = self._row[_HIDDEN]
        return values

    # -- what is shown ------------------------------------------------------------------------------------

    def refresh(self) -> None:
        trial = self._trials.get(self.trial.value)
        if trial is not None and trial.text != self.completion.value:
            self._held = True
            self.trial.value = _OWN
            self._held = False
        self.model.weights = [weight.value for weight in self.weights.values()]
        self.result = self.model.inspect(self.completion.value, self.row_values())
        self._draw()

    @guarded
    def _weighed(self, _change: Any) -> None:
        self.model.weights = [weight.value for weight in self.weights.values()]
        if self.result is not None:
            self.result = self.result.weighed(self.model.weights)
            self._draw()

    def _draw(self) -> None:
        assert self.result is not None
        put(self._asked, self._prompt())
        put(self._marked, verdict(self.result) + marked(self.result))
        put(self._table, parts_table(self.result))

    @guarded
    def _run_golden(self, _button: Any) -> None:
        self.golden = []
        with _Busy(self.golden_button):
            for result in golden_results(self.model):
                self.golden.append(result)
                put(self._busy, _progress(len(self.golden), len(self.model.parts), "parts"))
                put(self._audits, golden_html(self.golden))
        put(self._busy, "")

    @guarded
    def _run_task(self, _button: Any) -> None:
        put(self._busy, _progress(0, self.rows.value, "rows"))
        names = [part.name for part in self.model.parts]
        try:
            with _Busy(self.task_button):
                for done, rows, audit in score_task(self.model, self.side.value, self.rows.value):
                    put(self._busy, _progress(done, rows, "rows"))
                    self.scores = group_means(audit.scored, self.model.weights)
                    put(self._task_scores, task_html(audit, self.scores, names))
                mine = score_examples(self.model)
                if mine is not None:
                    self.scores.append(mine)
                    put(self._task_scores, task_html(audit, self.scores, names))
        finally:
            put(self._busy, "")

    def static_html(self) -> str:
        if self.result is None:
            return callout("info", "Nothing was scored yet.", "")
        audits = self._audits.value + self._task_scores.value
        return self._prompt() + verdict(self.result) + marked(self.result) + parts_table(self.result) + audits

    def _prompt(self) -> str:
        """The prompt for reading; the empty text where there is none."""
        try:
            prompt = self.row_values().get("prompt", "")
        except ConfigError:  # said where the row is scored
            prompt = self.cells["prompt"].value
        text = _spoken(prompt).strip()
        return f'<div class="asked"><h4>prompt</h4>{model_text(text, 4000)}</div>' if text else ""

    def describe(self) -> str:
        if self.result is None:
            return "nothing was scored yet."
        parts = ", ".join(
            f"{p.name} {'–' if p.counts is None else number(p.counts)}" for p in self.result.parts
        )
        total = "nobody scored it" if self.result.total is None else f"total {number(self.result.total)}"
        return f"{total} ({parts}) for {self.result.text[:60]!r}."


def _spoken(prompt: Any) -> str:
    """A prompt for reading: messages one below the other, each with its role."""
    if isinstance(prompt, list) and all(
        isinstance(m, dict) and isinstance(m.get("content"), str) for m in prompt
    ):
        return "\n\n".join(f"{m.get('role', '?')}: {m['content']}" for m in prompt)
    return show_cell(prompt)


def _is_long(text: str) -> bool:
    return len(text) > _LONG or "\n" in text


class _Busy:
    """A button that cannot be pressed again until its work is done."""

    def __init__(self, control: ipywidgets.Button) -> None:
        self.control = control

    def __enter__(self) -> None:
        self.control.disabled = True

    def __exit__(self, *error: object) -> None:
        self.control.disabled = False


def _progress(done: int, of: int, what: str) -> str:
    label = escaped(f"{done} of {of} {what} scored")
    return f'<div class="progress"><progress max="{of}" value="{done}" aria-label="{label}"></progress>{label}</div>'
