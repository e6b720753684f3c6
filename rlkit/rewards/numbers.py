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
    last = None
    for match in NUMBER.finditer(text):
        last = match
    return None if last is None else _decimal(last.group())


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
    whose last number is meant (so "#### 42" serves as it is). Raises `RewardError` where the answer holds no
    number: then the data set's column is at fault, not the model.

    >>> verify_number("17+25=42", "42"), verify_number("32", "42")
    (True, False)
    """
    expected = _expected(answer)
    said = last_number(text)
    return said is not None and said == expected


def _expected(answer: str | int | float | Decimal) -> Decimal:
    """Return the decimal that a data set's answer stands for, or say that it stands for none."""
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


def _number_is_right(completion: Completion, *, answer: Any, **columns: Any) -> bool:
    """`verify_number` in the form that the trainer calls: one completion and its row's columns."""
    return verify_number(completion_text(completion), answer)


def number_found(
    prompts: Sequence[Any], completions: Sequence[Completion], **columns: Any
) -> list[float | None]:
    """Reward +1 where the completion holds a number, −1 where it holds none (any number: not its correctness).

    `prompts` and `completions` have one entry per completion; so has the result.
    """
    return [1.0 if NUMBER.search(completion_text(completion)) else -1.0 for completion in completions]


def correct_number(
    prompts: Sequence[Any], completions: Sequence[Completion], answer: Sequence[Any], **columns: Any
) -> list[float | None]:
    """Reward +3 where the completion's number is the right one, −3 where it is wrong or missing.

    Needs the column `answer`, one entry per completion. The verdict is `verify_number`'s; this function only
    puts a price on it.
    """
    verdicts = [
        _number_is_right(completion, answer=row) for completion, row in zip(completions, answer, strict=True)
    ]
    return [3.0 if right else -3.0 for right in verdicts]


correct_number.verifier = _number_is_right  # type: ignore[attr-defined]


def only_number(
    prompts: Sequence[Any], completions: Sequence[Completion], **columns: Any
) -> list[float | None]:
    """Reward 1 where the completion is nothing but one number (spaces around it are ignored), else 0.

    Looks at form only: "32" earns it whatever the question was, "42." and "It is 42" do not.
    """
    texts = (completion_text(completion).strip() for completion in completions)
    return [1.0 if NUMBER.fullmatch(text) else 0.0 for text in texts]
