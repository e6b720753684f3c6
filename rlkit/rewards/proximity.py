"""Proximity: closer answers earn more, exactly right ones most, and wild guesses lose."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal
from typing import Any

from rlkit.errors import bad_value, unknown_name
from rlkit.rewards.golden import Example, GoldenSet
from rlkit.rewards.numbers import expected_number, last_number, last_number_spans, number_is_right
from rlkit.rewards.signatures import RewardFunction
from rlkit.rewards.text import Completion, completion_text

SCALES = {"ratio": 1.0, "distance": 10.0}
"""The default scale for each way of measuring: beyond it, a guess is an outlier."""

# A model may write 1e999999999; the difference to that is rounded, not refused, and nothing raises.
_ARITHMETIC = Context(prec=28, Emax=MAX_EMAX, Emin=MIN_EMIN, traps=[])


def proximity(
    by: str = "ratio", scale: float | None = None, right: float = 1.0, outlier: float = -1.0
) -> RewardFunction:
    """Return a reward function that pays the more, the closer a completion's number is to the column `answer`.

    With s the last number in the completion (read by `last_number`), a the answer, and the error e in units of `scale`:

        e = |s − a| / (scale · |a|)     by "ratio": a share of the answer; of 1 where the answer is 0. scale: 1
        e = |s − a| / scale             by "distance": for answers of like size, such as years. scale: 10

        right               s = a                 the best score
        ½ · right · (1 − e)   0 < e < 1             from below half of it down to 0
        outlier             e ≥ 1                 the worst score
        ½ · outlier         no number at all      worse than any fair guess, better than a wild one

    The reward never rises with the error. The gap of half a reward keeps "nearly" apart from "right", so that a policy
    does not settle beside the answer. All scores lie from `outlier` to `right`. The verifier that it carries is
    `verify_number`: close is not right.

    Advantages that are divided by the group's spread make two wrong answers that differ a little as unlike as right and
    wrong: take ``scale_rewards="none"`` beside it where right answers are rare (measured in
    `benchmarks.reward_choices`).

    Raises `ConfigError` unless by is "ratio" or "distance", scale > 0 and outlier < 0 < right.

    >>> proximity()([""] * 4, ["10", "9", "5", "500"], answer=["10"] * 4)
    [1.0, 0.45, 0.25, -1.0]
    """
    if by not in SCALES:
        raise unknown_name("way to measure proximity, by =", by, SCALES)
    scale = SCALES[by] if scale is None else scale
    for name, value, fits in (
        ("scale", scale, lambda number: number > 0),
        ("right", right, lambda number: number > 0),
        ("outlier", outlier, lambda number: number < 0),
    ):
        usable = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf
        if not usable or not fits(value):
            sign = "below" if name == "outlier" else "above"
            raise bad_value(name, value, f"a finite number {sign} 0")
    unit = Decimal(repr(float(scale)))

    def score(completion: Completion, answer: Any) -> float:
        expected = expected_number(answer)
        said = last_number(completion_text(completion))
        if said is None:
            return 0.5 * outlier
        if said == expected:
            return float(right)
        size = _ARITHMETIC.abs(expected) if by == "ratio" and expected else Decimal(1)
        distance = _ARITHMETIC.abs(_ARITHMETIC.subtract(said, expected))
        error = _ARITHMETIC.divide(distance, _ARITHMETIC.multiply(size, unit))
        # NaN: both overflowed, for numbers of a quintillion digits.
        if error.is_nan() or error >= 1:
            return float(outlier)
        return 0.5 * right * (1.0 - float(error))

    def reward(
        prompts: Sequence[Any], completions: Sequence[Completion], answer: Sequence[Any], **columns: Any
    ) -> list[float | None]:
        return [score(completion, row) for completion, row in zip(completions, answer, strict=True)]

    reward.__name__ = reward.__qualname__ = f"proximity_{by}"
    reward.__doc__ = f"From {right:g} (right) down to {outlier:g} (an outlier), by {by}, scale {scale:g}."
    reward.score_range = (float(outlier), float(right))  # type: ignore[attr-defined]
    reward.verifier = number_is_right  # type: ignore[attr-defined]
    reward.spans = last_number_spans  # type: ignore[attr-defined]
    return reward


_TEN = {"answer": "10"}


def _examples(*pairs: tuple[str, str], answer: str = "10", fools: bool = False) -> tuple[Example, ...]:
    return tuple(Example(text, {"answer": answer}, note, prompt="3+7=", fools=fools) for text, note in pairs)


GOLDEN: dict[str, GoldenSet] = {
    "proximity": GoldenSet(
        right=(
            *_examples(
                ("10", "right"),
                ("3+7=10", "with the sum"),
                ("It is 10.0.", "a decimal"),
                ("9, no, 10", "the last number counts"),
            ),
            *_examples(("0", "an answer of 0"), answer="0"),
            *_examples(("-1,234", "negative"), answer="-1234"),
        ),
        wrong=(
            *_examples(
                ("9", "near"),
                ("3", "far"),
                ("10.000001", "nearer than anybody can see"),
                ("25", "an outlier"),
                ("ten", "no number"),
                ("-10", "the wrong sign"),
            ),
            *_examples(("0.5", "near an answer of 0"), answer="0"),
        ),
        exploits=_examples(
            ("", "empty"),
            ("3+7=", "the prompt repeated"),
            (" ".join(map(str, range(101))), "every number listed"),
            ("10 " * 900 + "1e999999999", "huge, with a huge number last"),
            ("9" * 4000, "four thousand digits"),
            ("The answer 10 is not 11", "the right answer in the wrong place"),
            ("１０", "digits of another script"),
            ("<answer>" * 300 + "10 or 9</answer>", "tags over and over"),
        ),
        low=-1.0,
        high=1.0,
    ),
}

FACTORIES: dict[str, Callable[..., RewardFunction]] = {"proximity": proximity}
