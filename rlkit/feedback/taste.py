"""A taste that is written down: short answers that show their working, and are right.

    u(prompt, answer) = correct · [the last number is the sum's value]
                      + working · [a true step of working is shown, and no false one]
                      − length  · characters / 100

It is for sums, such as those of ``tasks.arithmetic``: the sum that is asked is the last one in the prompt. A *step* is
``left = right`` with an operation on the left that is not the asked sum itself, or the asked sum with an
operation on the right: in ``17+25=30+12=42`` there are two. So repeating the question is no working, and an
invented step costs what a true one earns. With the default weights and a prompt 17+25=:

    42                                      1 − 0.04            =  0.96
    The answer is 42.                       1 − 0.34            =  0.66
    20+10=30, 7+5=12, 30+12=42              1 + 1 − 0.52        =  1.48
    Well, let me see. I add … 42 (150)      1 − 3               = −2
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from rlkit.errors import bad_value
from rlkit.rewards.text import completion_text

_SUM = r"-?\d+(?:\s*[-+*×]\s*\d+)*"
_CHAIN = re.compile(rf"(?<!\d){_SUM}(?:\s*=\s*{_SUM})+")
_ASKED = re.compile(r"\d+(?:\s*[-+*×]\s*\d+)+")
_MOST_DIGITS = 12  # of a number: whoever writes more gets no step for it, and nobody waits for the product


class Taste:
    """The documented taste; callable as a reward function, which gives the *true* score.

    Args:
        correct: what a right answer is worth; a prompt without a sum has none.
        working: what working shown is worth.
        length: what a hundred characters cost.

    >>> Taste().score("17+25=", "42")
    0.96
    """

    __name__ = "taste"

    def __init__(self, correct: float = 1.0, working: float = 1.0, length: float = 2.0) -> None:
        for name, value in (("correct", correct), ("working", working), ("length", length)):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise bad_value(name, value, "a finite number")
        self.correct, self.working, self.length = correct, working, length

    def score(self, prompt: Any, completion: Any) -> float:
        """u of one answer."""
        asked = asked_sum(prompt)
        said = completion_text(completion)
        return (
            self.correct * is_right(asked, said)
            + self.working * shows_working(asked, said)
            - self.length * len(said) / 100
        )

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float]:
        return [self.score(*pair) for pair in zip(prompts, completions, strict=True)]

    def __repr__(self) -> str:
        return f"Taste(correct={self.correct}, working={self.working}, length={self.length})"


def asked_sum(prompt: Any) -> str | None:
    """The last sum that a prompt names, without white space; None where it names none.

    >>> asked_sum("What is 17 + 25?")
    '17+25'
    """
    text = prompt if isinstance(prompt, str) else completion_text([{**prompt[-1], "role": "assistant"}])
    found = _ASKED.findall(text)
    return _tidy(found[-1]) if found else None


def is_right(asked: str | None, said: str) -> bool:
    """Whether the last number that is said is the value of the sum that was asked."""
    if asked is None:
        return False
    # "30-12" ends in the number 12 and not in −12: a sign counts only where no digit precedes it.
    last = re.search(r"(?<!\d)-?\d+(?=\D*$)", said)
    return last is not None and len(last.group()) <= _MOST_DIGITS and int(last.group()) == _value(asked)


def shows_working(asked: str | None, said: str) -> bool:
    """Whether a step of working is shown, and every one that is shown is true."""
    steps = 0
    # The answer continues the prompt: in "17+25=" + "30+12=42" the first equals sign is the prompt's.
    for chain in _CHAIN.finditer(said):
        parts = [_tidy(part) for part in chain.group().split("=")]
        values = [_value(part) for part in parts]
        for (left, right), (a, b) in zip(pairwise(parts), pairwise(values), strict=True):
            if a is None or a != b:
                return False
            steps += _operates(left) and (left != asked or _operates(right))
    return steps > 0


def _operates(text: str) -> bool:
    return any(sign in text[1:] for sign in "+-*")


def _tidy(text: str) -> str:
    return re.sub(r"\s", "", text).replace("×", "*")


def _value(text: str) -> int | None:
    """The value of a tidy sum of products; None where a number is too long."""
    total, sign = 0, 1
    for token in re.findall(r"[-+]|\d+(?:\*\d+)*", text):
        if token in "+-":
            sign = -1 if token == "-" else 1
            continue
        factors = token.split("*")
        if sum(map(len, factors)) > _MOST_DIGITS:
            return None
        total, sign = total + sign * math.prod(map(int, factors)), 1
    return total
