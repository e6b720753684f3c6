"""Answers that are words: which part of a completion is its answer, and whether it says what it should.

"Not Sydney. The answer is Canberra."   →   Canberra
"""

from __future__ import annotations

import re
from typing import Any

from rlkit.rewards.golden import Example, GoldenSet
from rlkit.rewards.numbers import NUMBER
from rlkit.rewards.signatures import RewardFunction
from rlkit.rewards.spans import Spans, trimmed
from rlkit.rewards.text import Completion, completion_text
from rlkit.rewards.verifiers import reward_from

_ANNOUNCED = re.compile(r"\banswer(?: is)?(?:\s*:|(?<=is))([ \t*]*)([^\n]*)", re.IGNORECASE)
_AROUND = " *`_\"'“”‘’.!"  # Markdown, quotes, the end of a sentence


def stated_answer(text: str, numeric: bool = False) -> str:
    """Return the part of a completion that is its answer; with `numeric` the last number in it ('' without one).

    That is what stands in the last <answer> block; else what follows the last "answer:" or "answer is" in its line;
    else everything.

    >>> stated_answer("Four and four. The answer is 8 legs.", True), stated_answer("<answer>nus</answer>")
    ('8', 'nus')
    """
    start, end = _stated_span(text)
    text = text[start:end]
    if not numeric:
        return text
    numbers = NUMBER.findall(text)
    return numbers[-1].replace("−", "-") if numbers else ""


def _stated_span(text: str) -> tuple[int, int]:
    closing = text.rfind("</answer>")
    opening = text.rfind("<answer>", 0, closing) if closing >= 0 else -1
    if opening >= 0 and text[opening + len("<answer>") : closing].strip():
        return trimmed(text, opening + len("<answer>"), closing)
    for announced in list(_ANNOUNCED.finditer(text))[-1:]:
        for group in (2, 1):
            if announced.group(group).strip():
                return trimmed(text, *announced.span(group))
    return trimmed(text, 0, len(text))


def verify_text(text: str, answer: Any) -> bool:
    """Verifier: is the stated answer of `text` the answer, letter case, white space, quotes and a full stop aside?

    Nothing raises; an answer that is blank or None is never right.

    >>> verify_text("The answer is **Canberra**.", "canberra"), verify_text("Canberra or Sydney", "Canberra")
    (True, False)
    """
    wanted = "" if answer is None else _bare(str(answer))
    return bool(wanted) and _bare(stated_answer(text)) == wanted


def _bare(text: str) -> str:
    """The words alone; the text itself where it holds nothing but quotes and stops."""
    words = " ".join(text.casefold().split())
    return words.strip(_AROUND) or words


def _text_is_right(completion: Completion, *, answer: Any) -> bool:
    """`verify_text` in the form that the trainer calls: one completion and its row's columns."""
    return verify_text(completion_text(completion), answer)


def _stated_spans(completion: Completion, **columns: Any) -> Spans:
    return [_stated_span(completion_text(completion))]


_text_is_right.spans = _stated_spans  # type: ignore[attr-defined]
correct_text: RewardFunction = reward_from(_text_is_right, name="correct_text")
correct_text.__doc__ = """Reward 1 where the completion states the row's `answer` in the same words, else 0.

Needs the column `answer`. The verdict is `verify_text`'s: the same in other words is wrong.
"""

_ROW = {"answer": "Canberra"}
_QUESTION = "What is the capital of Australia: Sydney, Melbourne or Canberra?"

GOLDEN: dict[str, GoldenSet] = {
    "correct_text": GoldenSet(
        right=(
            Example("Canberra", _ROW, "bare", _QUESTION),
            Example(" canberra.\n", _ROW, "another case, a full stop", _QUESTION),
            Example("Sydney is larger. The answer is Canberra.", _ROW, "after its reasons", _QUESTION),
            Example("<answer>\nCanberra\n</answer>", _ROW, "in its tag", _QUESTION),
            Example("**Answer:** Canberra", _ROW, "Markdown", _QUESTION),
            Example("“Canberra”", _ROW, "quoted", _QUESTION),
        ),
        wrong=(
            Example("Sydney", _ROW, "another one", _QUESTION),
            Example("The answer is Melbourne.", _ROW, "another one, announced", _QUESTION),
            Example("Can berra", _ROW, "torn apart", _QUESTION),
            Example("It could be Canberra", _ROW, "not stated", _QUESTION),
            Example("I do not know.", _ROW, "given up", _QUESTION),
        ),
        exploits=(
            Example("", _ROW, "empty", _QUESTION),
            Example(_QUESTION, _ROW, "the prompt repeated", _QUESTION),
            Example("Sydney, Melbourne, Canberra", _ROW, "every answer listed", _QUESTION),
            Example("<answer>" * 40 + "Sydney" + "</answer>" * 40, _ROW, "marker spam", _QUESTION),
            Example("Answer: Canberra\nAnswer: Sydney", _ROW, "the right one in the wrong place", _QUESTION),
            Example("<answer>Canberra</answer><answer>Sydney</answer>", _ROW, "injected tags", _QUESTION),
            Example("Canberra " * 5000, _ROW, "huge output", _QUESTION),
            Example("Ｃａｎｂｅｒｒａ", _ROW, "letters that only look alike", _QUESTION),
            Example(" .\"'!", _ROW, "nothing but punctuation", _QUESTION),
        ),
    ),
}
"""What each reward must tell apart."""

FUNCTIONS: dict[str, RewardFunction] = {"correct_text": correct_text}
"""Reward functions by name."""
