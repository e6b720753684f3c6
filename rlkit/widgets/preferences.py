"""Ask a person: which of two answers is better, or a thumb up or down for one."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets

from rlkit.feedback import FeedbackStore
from rlkit.rollout import Row
from rlkit.runs.evidence import number
from rlkit.widgets.look import callout, empty, escaped, model_text, table
from rlkit.widgets.models.preferences import FEW, KEYS, Agreement, Rating
from rlkit.widgets.panel import Panel, guarded, put

_LONGEST = 20_000  # characters of an answer
_RATERS, _PAIRS = 12, 10  # listed at most
_BUTTONS = {  # key -> attribute, label, icon
    "1": ("first", "1  first is better", "arrow-left"),
    "=": ("tie", "=  as good as each other", ""),
    "2": ("second", "2  second is better", "arrow-right"),
    "+": ("up", "1  thumb up", "thumbs-up"),
    "-": ("down", "2  thumb down", "thumbs-down"),
    "s": ("skip", "s  ask me later", ""),
    "u": ("undo", "u  take back", "undo"),
}


class PreferenceRater(Panel):
    """Questions one after the other, answered by button or key; every answer is on disk before the next question.

    Whoever comes back under the same name, after a restart as well, goes on where they stopped. Which answer stands
    first is drawn for each rater. Several may rate the same questions, each under their own name; the panel says how
    far they agree. Keys go into a text field, which reacts to each character: 1, 2 and = (or 1 and 2 for thumbs),
    s to skip, u to take back.

    Args:
        rows: each a ``prompt`` with ``completions``: two to be compared, or one to get a thumb;
            ``rlkit.widgets.models.preferences.rows_from_run`` makes them of a run's completions.
        store: a ``FeedbackStore``, or the file that answers go to.
        rater: who answers; default the store's, else the name field asks.
        seed: of the order of questions and of answers.

    Attributes:
        rater, key_field: ``Text``.
        first, second, tie, up, down, skip, undo: ``Button``.
        rating: the ``Rating`` behind it.

    Raises:
        ConfigError: rows that are no questions; a store that is a folder.

    Example:
        >>> PreferenceRater([{"prompt": "17+25=", "completions": ["42", "32"]}], "feedback.jsonl", rater="ada")
    """

    def __init__(
        self,
        rows: Sequence[Row],
        store: FeedbackStore | str | os.PathLike[str] = "feedback.jsonl",
        rater: str | None = None,
        seed: int = 0,
    ) -> None:
        kept = store if isinstance(store, FeedbackStore) else FeedbackStore(store)
        self.rating = Rating(rows, kept, rater or kept.rater or "", seed)
        self.rater = ipywidgets.Text(
            self.rating.rater,
            description="your name",
            placeholder="then Enter",
            tooltip="Answers are kept under this name",
            continuous_update=False,
            layout={"width": "auto", "flex": "1 1 220px", "max_width": "340px"},
        )
        self.key_field = ipywidgets.Text(
            description="keys",
            placeholder="click here, then type",
            tooltip="Each character answers at once: 1, 2, =, s, u",
            layout={"width": "auto", "flex": "1 1 220px", "max_width": "340px"},
        )
        self._typed = ""
        self._buttons: dict[str, ipywidgets.Button] = {}
        for key, (name, label, icon) in _BUTTONS.items():
            button = ipywidgets.Button(
                description=label, icon=icon, tooltip=KEYS[key][1], layout={"width": "auto"}
            )
            button.on_click(self._presser(key))
            self._buttons[key] = button
            setattr(self, name, button)
        self._question, self._progress, self._said, self._others = (ipywidgets.HTML() for _ in range(4))
        self._progress.layout = {"flex": "1 1 260px", "max_width": "460px"}

        def line(*children: ipywidgets.Widget) -> ipywidgets.HBox:
            return ipywidgets.HBox(children, layout={"flex_flow": "row wrap", "align_items": "center"})

        answers = [self._buttons[key] for key in ("1", "=", "2", "+", "-", "s", "u")]
        super().__init__(
            self.rating.title,
            [
                line(self.rater, self._progress),
                self._question,
                line(*answers),
                line(self.key_field, self._said),
                self._others,
            ],
        )
        self._draw()
        self.rater.observe(self._on_rater, "value")
        self.key_field.observe(self._on_keys, "value")

    # -- events ---------------------------------------------------------------------------------------

    @guarded
    def _on_rater(self, change: Any) -> None:
        self.rating.begin(change["new"])
        self._draw()

    def _presser(self, key: str) -> Callable[[Any], None]:
        def click(button: Any) -> None:
            self.press(key)

        return click

    @guarded
    def press(self, key: str) -> None:
        """Do what a key does; what went wrong is shown above."""
        try:
            self.rating.press(key)
        finally:
            self._draw()

    @guarded
    def _on_keys(self, change: Any) -> None:
        # The field is not emptied after each key: a key typed meanwhile would be lost, or come twice. What is new is
        # what stands behind the text of before.
        before, self._typed = self._typed, change["new"]
        if not self._typed.startswith(before):
            return  # something was deleted: no key
        for key in self._typed[len(before) :]:
            if not key.isspace():
                self.rating.press(key)
                self._draw()

    # -- what is shown --------------------------------------------------------------------------------

    def _draw(self) -> None:
        rating, question = self.rating, self.rating.question
        pair = question is not None and len(question.answers) == 2
        for key, button in self._buttons.items():
            button.disabled = key not in rating.allowed
            other_kind = key in ("1", "=", "2") if question is not None and not pair else key in ("+", "-")
            button.layout.display = "none" if other_kind else None
        self.key_field.disabled = rating.state == "nameless"
        put(self._question, self._question_html())
        put(self._progress, self._progress_html())
        put(self._said, f'<span role="status">{escaped(rating.said)}</span>')
        put(self._others, self._others_html())

    def _question_html(self) -> str:
        rating, question = self.rating, self.rating.question
        if rating.state == "nameless":
            return empty("Type your name first: answers are kept under it, and you can go on another day.")
        if question is None:
            done = f"All {rating.progress[1]} questions are answered. Thank you, {rating.rater}."
            return callout("good", "Done.", f"{done} The answers are in {rating.store.path}.")
        names = ("1 · first answer", "2 · second answer") if len(question.answers) == 2 else ("answer",)
        cards = "".join(
            f"<div class='said'><p><b>{name}</b></p>{_said_html(answer)}</div>"
            for name, answer in zip(names, question.answers, strict=True)
        )
        asked = f"<div class='said'><p class='soft'>prompt</p>{_said_html(question.prompt)}</div>"
        return f'{asked}<div class="sides answers">{cards}</div>'

    def _progress_html(self) -> str:
        done, total = self.rating.progress
        if self.rating.state == "nameless":
            return f"{total} {'question' if total == 1 else 'questions'}"
        return (
            f'<div class="progress"><progress max="{total}" value="{done}" aria-label="answered"></progress> '
            f"<span>{done} of {total} answered</span></div>"
        )

    def _others_html(self) -> str:
        rating = self.rating
        counts = sorted(rating.raters().items(), key=lambda pair: pair[0] != rating.rater)  # this one's first
        told = [f"{name}: {count} {'answer' if count == 1 else 'answers'}" for name, count in counts]
        more = f" and {len(told) - _RATERS:,} raters more" if len(told) > _RATERS else ""
        lines = [f"In the file: {', '.join(told[:_RATERS])}{more}."] if told else []
        remarks = "".join(callout("warning", "", text) for text in rating.warnings)
        said = "".join(f'<p class="soft">{escaped(line)}</p>' for line in lines)
        return f"{remarks}{said}{_agreement_html(rating.agreement())}"

    def static_html(self) -> str:
        """The question at hand, progress and agreement, as HTML without widgets."""
        return f"<p>{self._progress.value}</p>{self._question.value}{self._others.value}"

    def describe(self) -> str:
        """The same in a line of text."""
        done, total = self.rating.progress
        who = f" by {self.rating.rater}" if self.rating.rater else ""
        return f"{done} of {total} questions answered{who}"


def _agreement_html(found: Sequence[Agreement]) -> str:
    """κ of all raters and of each two, as a table."""
    if not found:
        return ""
    rows = [
        [
            escaped(one.who, 120),
            f"{one.items:,} {one.kind if one.items != 1 else one.kind.removesuffix('s')}",
            "none" if one.kappa is None else number(one.kappa),
            escaped(one.words),
        ]
        for one in found[:_PAIRS]
    ]
    notes = ["Agreement beyond chance: κ is 0 as chance would have it, 1 where they always agree."]
    if any(one.words.endswith("*") for one in found[:_PAIRS]):
        notes.append(f"* with fewer than {FEW} answers in common no more than a hint.")
    if len(found) > _PAIRS:
        notes.append(f"{len(found) - _PAIRS:,} pairs more are not listed.")
    head = ["raters", "in common", "κ", "agreement"]
    return table(head, rows, numeric=[2], caption=" ".join(notes), stack=True)


def _said_html(text: Any) -> str:
    """A text, or messages with who says them."""
    if isinstance(text, str):
        return model_text(text, _LONGEST)
    return "".join(
        f"<p class='soft'>{escaped(message.get('role', ''), 40)}</p>{model_text(message.get('content', ''), _LONGEST)}"
        for message in text
    )
