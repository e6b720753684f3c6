"""Asking a person: which question comes next, in which order its answers stand, and back to the one before.

What a widget shows and does is here, without the widget: it draws ``current``, and calls ``answer``, ``skip`` or
``undo``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rlkit.errors import bad_value
from rlkit.feedback.data import check_preferences, check_thumbs, item_key
from rlkit.feedback.store import CHOICES, Entry, FeedbackStore
from rlkit.rollout import Row
from rlkit.runs.schema import plain, whole_text


class Question(NamedTuple):
    """Two answers to compare, or one for a thumb."""

    prompt: Any
    answers: tuple[Any, ...]

    @property
    def item(self) -> str:
        """What is judged, whichever answer stands first."""
        return _entry(self).item


class Questions:
    """One rater's way through a list of questions.

    Args:
        store: where answers go. What this rater has answered there is not asked again, so that one can go on tomorrow.
        rows: each a ``prompt`` with ``completions``: two to be compared, or one to get a thumb.
        rater: who answers; default the store's.
        seed: of the order of the questions and of the two sides, other ones for each rater: whoever tends to the left
            side would teach the model where answers stood.

    Raises:
        ConfigError: no rows; a row with other than one or two completions, or with empty or equal ones; no rater.
    """

    def __init__(
        self, store: FeedbackStore, rows: Sequence[Row], rater: str | None = None, seed: int = 0
    ) -> None:
        self.store, self.rater, self.seed = store, whole_text(store.rater_name(rater)), seed
        self._questions: dict[str, Question] = {}
        for i, row in enumerate(rows):
            question = self._question(row, f"row {i}")
            self._questions[question.item] = question
        if not self._questions:
            raise bad_value("rows", [], "at least one question")
        self._left = sorted(self._questions, key=lambda item: self._draw("order", item))
        done = {entry.item for entry in store.entries() if entry.rater == self.rater}
        self._left = [item for item in self._left if item not in done]

    @property
    def current(self) -> Question | None:
        """The question to show; None when all are answered."""
        return self._questions[self._left[0]] if self._left else None

    @property
    def progress(self) -> tuple[int, int]:
        """How many are answered, of how many."""
        return len(self._questions) - len(self._left), len(self._questions)

    def answer(self, value: str | bool) -> Question | None:
        """Note the answer to ``current``, and return the next question.

        Args:
            value: ``"first"``, ``"second"`` or ``"tie"`` of two answers; True or False for one.

        Raises:
            ConfigError: another value, or all questions are answered. Nothing is written.
        """
        question = self.current
        if question is None:
            raise bad_value("value", value, "nothing any more", "All questions are answered.")
        if len(question.answers) == 2:
            if value not in CHOICES:
                raise bad_value("value", value, "'first', 'second' or 'tie'")
            self.store.prefer(question.prompt, *question.answers, str(value), rater=self.rater)
        else:
            if not isinstance(value, bool):
                raise bad_value("value", value, "True (thumb up) or False (thumb down)")
            self.store.thumb(question.prompt, question.answers[0], value, rater=self.rater)
        self._left.pop(0)
        return self.current

    def skip(self) -> Question | None:
        """Put ``current`` at the end, without an answer, and return the next question."""
        self._left = [*self._left[1:], *self._left[:1]]
        return self.current

    def undo(self) -> Question | None:
        """Take the rater's newest answer back and return its question, now ``current``; None where there is none
        here.
        """
        mine = [entry for entry in self.store.entries() if entry.rater == self.rater]
        if not mine or mine[-1].item not in self._questions:
            return None
        self.store.undo(self.rater)
        self._left.insert(0, mine[-1].item)
        return self.current

    def _question(self, row: Row, where: str) -> Question:
        allowed = "a dict with a prompt and one or two completions"
        if not isinstance(row, Mapping):
            raise bad_value(where, row, allowed)
        row = plain(row)  # half a character, which no file could hold, is replaced before anybody sees it
        answers = row.get("completions", ())
        if "prompt" not in row or not isinstance(answers, list) or len(answers) not in (1, 2):
            raise bad_value(where, row, allowed)
        if len(answers) == 2:
            pair = {"prompt": row["prompt"], "chosen": answers[0], "rejected": answers[1]}
            check_preferences([pair], where)
        else:
            check_thumbs([{"prompt": row["prompt"], "completion": answers[0], "label": True}], where)
        answers.sort(
            key=lambda answer: self._draw("side", [row["prompt"], *sorted(map(item_key, answers)), answer])
        )
        return Question(row["prompt"], tuple(answers))

    def _draw(self, *what: Any) -> bytes:
        return hashlib.blake2b(item_key([self.seed, self.rater, *what]).encode(), digest_size=8).digest()

    def __len__(self) -> int:
        return len(self._questions)

    def __repr__(self) -> str:
        done, total = self.progress
        return f"Questions({done} of {total} answered by {self.rater!r})"


def _entry(question: Question) -> Entry:
    """The question as an entry without a verdict."""
    prompt, answers = question
    if len(answers) == 1:
        return Entry("", "", "", "thumb", {"prompt": prompt, "completion": answers[0]})
    return Entry("", "", "", "preference", {"prompt": prompt, "first": answers[0], "second": answers[1]})
