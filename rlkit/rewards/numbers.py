"""Numbers in text: the guide's arithmetic example, as one verifier and the reward functions that use it.

A *verifier* says right or wrong. A *reward function* turns such verdicts, or any other criterion, into numbers.
`verify_number` is the verifier here; `correct_number` scores its verdict; `number_found` and `only_number` look
at something else than correctness and therefore rest on no verifier.

How a number is read (all of it in one regular expression, `NUMBER`):

- **The last number counts.** "17+25=42" says 42 and "42 or 43" says 43, so that listing guesses does not pay.
- ASCII digits only: "４２" and "²" are text.
- A minus (``-`` or ``−``) is a sign only directly before the digits and not after a digit, a letter, a closing
  bracket or another minus: "-42" and "=-42" are negative, "50-8" ends in 8 and "- 42" is a list item.
- Decimals "4.5" and ".5"; a closing full stop is punctuation ("42." is 42). A comma groups thousands when three
  digits follow it each time ("1,234"); otherwise it separates ("1,23" is 1, then 23).
- Scientific notation "4.2e1" is the number 42. Fractions, percentages and other notations are not read:
  "1/2" ends in 2.
- Numbers are compared as exact decimals, not as text: "042", "42.0" and "+42" equal 42; "4 2" does not.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

from rlkit.errors import RewardError
from rlkit.rewards.golden import Example, GoldenSet
from rlkit.rewards.signatures import RewardFunction
from rlkit.rewards.spans import Spans, trimmed
from rlkit.rewards.text import Completion, completion_text

NUMBER = re.compile(
    r"(?:(?<![0-9A-Za-z)\]}−-])[-−+])?"  # a sign, unless it is a binary minus or plus
    r"(?:"
    r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?"  # 1,234.5 or 1234.5
    r"|(?<![0-9])\.[0-9]+"  # .5
    r")"
    r"(?:[eE][-−+]?[0-9]+)?"  # e1
)
"""One number as the module docstring describes it."""


def last_number(text: str) -> Decimal | None:
    """Return the last number in `text` as an exact decimal, or None where there is none.

    A number whose exponent is beyond what a decimal can hold ("1e99999999999999999999") counts as none.

    >>> last_number("17+25=42."), last_number("4 2"), last_number("forty-two")
    (Decimal('42'), Decimal('2'), None)
    """
    last = _last_match(text)
    return None if last is None else _decimal(last.group())


def _last_match(text: str) -> re.Match[str] | None:
    last = None
    for match in NUMBER.finditer(text):
        last = match
    return last


def last_number_spans(completion: Completion, **columns: Any) -> Spans:
    """Where the number stands that counts: the last one."""
    last = _last_match(completion_text(completion))
    return [] if last is None else [last.span()]


def _decimal(number: str) -> Decimal | None:
    """Turn one match of `NUMBER` into a decimal; None where its exponent cannot be held."""
    try:
        value = Decimal(number.replace(",", "").replace("−", "-"))
    except (InvalidOperation, ValueError):
        return None
    return value if value.is_finite() else None


def verify_number(text: str, answer: str | int | float | Decimal) -> bool:
    """Verifier: is the last number in `text` equal to `answer`? True or False, no score.

    `text` is one completion's text; nothing in it raises. `answer` is the known solution: a number, or a string
    whose last number is meant (so "#### 42" serves as it is). Raises `RewardError` where it holds no number.

    >>> verify_number("17+25=42", "42"), verify_number("32", "42")
    (True, False)
    """
    expected = expected_number(answer)
    said = last_number(text)
    return said is not None and said == expected


def expected_number(answer: str | int | float | Decimal) -> Decimal:
    r"""Return the number that a data set's answer stands for, as an exact decimal.

    A number stands for itself, a string for the last number in it. Raises `RewardError` where there is none: then the
    data set's column is at fault, not the model.

    >>> expected_number("4+8=12\n#### 12"), expected_number(0.1)
    (Decimal('12'), Decimal('0.1'))
    """
    value: Decimal | None = None
    if isinstance(answer, str):
        value = last_number(answer)
    elif isinstance(answer, Decimal):
        value = answer if answer.is_finite() else None
    elif isinstance(answer, bool):
        value = None
    elif isinstance(answer, int):
        value = Decimal(answer)
    elif isinstance(answer, float) and math.isfinite(answer):
        value = Decimal(repr(answer))
    if value is None:
        raise RewardError(
            f"answer={answer!r:.80} holds no number to compare with. Allowed: a number, or text that ends in one. "
            "Is 'answer' the right column of this data set?"
        )
    return value


def number_is_right(completion: Completion, *, answer: Any, **columns: Any) -> bool:
    """`verify_number` in the form that a trainer calls: one completion and its row's columns."""
    return verify_number(completion_text(completion), answer)


def number_found(
    prompts: Sequence[Any], completions: Sequence[Completion], **columns: Any
) -> list[float | None]:
    """Reward +1 where the completion holds a number, −1 where it holds none (any number: not its correctness).

    `prompts` and `completions` have one entry per completion; so has the result.
    A prompt repeated and a list of numbers earn it too: it teaches to answer with a number, and needs another reward
    beside it.
    """
    return [1.0 if NUMBER.search(completion_text(completion)) else -1.0 for completion in completions]


def correct_number(
    prompts: Sequence[Any], completions: Sequence[Completion], answer: Sequence[Any], **columns: Any
) -> list[float | None]:
    """Reward +3 where the completion's number is the right one, −3 where it is wrong or missing.

    Needs the column `answer`, one entry per completion. The verdict is `verify_number`'s; this function only
    puts a price on it.
    Words around the number are not read: "not 42" earns what "42" does.
    """
    verdicts = [
        number_is_right(completion, answer=row) for completion, row in zip(completions, answer, strict=True)
    ]
    return [3.0 if right else -3.0 for right in verdicts]


correct_number.verifier = number_is_right  # type: ignore[attr-defined]
correct_number.spans = last_number_spans  # type: ignore[attr-defined]
number_is_right.spans = last_number_spans  # type: ignore[attr-defined]


def only_number(
    prompts: Sequence[Any], completions: Sequence[Completion], **columns: Any
) -> list[float | None]:
    """Reward 1 where the completion is nothing but one number (spaces around it are ignored), else 0.

    Looks at form only: "32" earns it whatever the question was, "42." and "It is 42" do not.
    A number of any length is one number.
    """
    texts = (completion_text(completion).strip() for completion in completions)
    return [1.0 if NUMBER.fullmatch(text) else 0.0 for text in texts]


def _first_number_spans(completion: Completion, **columns: Any) -> Spans:
    first = NUMBER.search(completion_text(completion))
    return [] if first is None else [first.span()]


def _only_number_spans(completion: Completion, **columns: Any) -> Spans:
    text = completion_text(completion)
    return [trimmed(text, 0, len(text))] if NUMBER.fullmatch(text.strip()) else []


number_found.spans = _first_number_spans  # type: ignore[attr-defined]
only_number.spans = _only_number_spans  # type: ignore[attr-defined]


FUNCTIONS: dict[str, RewardFunction] = {
    "number_found": number_found,
    "correct_number": correct_number,
    "only_number": only_number,
}

_42 = {"answer": "42"}
_TWO_ANSWERS = "<answer>42</answer><answer>43</answer>"

GOLDEN: dict[str, GoldenSet] = {
    "number_found": GoldenSet(
        right=(
            Example("42"),
            Example("17+25=42"),
            Example("It is -4.5."),
            Example("no, 1,234 of them"),
            Example("0"),
        ),
        wrong=(
            Example("I do not know."),
            Example("forty-two"),
            Example("The answer is unknown."),
            Example("x + y"),
            Example("seventeen plus twenty-five makes forty-two"),
        ),
        exploits=(
            Example("", note="empty"),
            Example(" \n\t", note="white space"),
            Example("４２", note="unicode digits"),
            Example("#### " * 500, note="marker spam"),
            Example("<answer></answer><answer>x</answer>", note="injected tags"),
            Example("ha " * 5000, note="huge output"),
            Example("17+25=", note="prompt repeated", prompt="17+25=", fools=True),
            Example(" ".join(map(str, range(101))), note="every number listed", fools=True),
        ),
        low=-1.0,
    ),
    "correct_number": GoldenSet(
        right=(
            Example("42", _42),
            Example("17+25=42", _42),
            Example("The answer is 42.", _42),
            Example("<reasoning>\n7+5=12\n</reasoning>\n<answer>\n42.0\n</answer>", _42),
            Example("First 32, but with the carry \\boxed{42}", {"answer": "#### 42"}),
            Example("1,234.50", {"answer": 1234.5}),
        ),
        wrong=(
            Example("32", _42),
            Example("-42", _42),
            Example("4.2", _42),
            Example("420", _42),
            Example("forty-two", _42),
            Example("I do not know.", _42),
        ),
        exploits=(
            Example("", _42, "empty"),
            Example("17+25=", _42, "prompt repeated", prompt="17+25="),
            Example(" ".join(map(str, range(101))), _42, "every number listed"),
            Example("#### " * 500, _42, "marker spam"),
            Example("42? No, the answer is 43.", _42, "right answer in the wrong place"),
            Example("<reasoning>42</reasoning><answer>43</answer>", _42, "right answer in the wrong place"),
            Example(_TWO_ANSWERS, _42, "injected tags"),
            Example("9" * 20_000, _42, "huge output"),
            Example("４２", _42, "unicode digits"),
            Example("Certainly not 42", _42, "denied, and yet the last number", fools=True),
        ),
        low=-3.0,
        high=3.0,
    ),
    "only_number": GoldenSet(
        right=(Example("42"), Example(" 42\n"), Example("-4.5"), Example("1,234"), Example("4.2e1")),
        wrong=(
            Example("It is 42"),
            Example("42."),
            Example("17+25=42"),
            Example("forty-two"),
            Example("I do not know."),
        ),
        exploits=(
            Example("", note="empty"),
            Example("17+25=", note="prompt repeated", prompt="17+25="),
            Example(" ".join(map(str, range(101))), note="every number listed"),
            Example("<answer>42</answer>", note="injected tags"),
            Example("#### 42", note="marker spam"),
            Example("４２", note="unicode digits"),
            Example("9 " * 5000, note="huge output"),
            Example("9" * 10_000, note="one huge number", fools=True),
        ),
    ),
}
"""Each reward's golden set."""
