"""Sums of two small numbers: the task of the embedded model, small enough that every problem can be looked at.

    17+25=   →   42

A problem needs a *carry* when its ones digits sum to ten or more. The embedded model (`rlkit.embedded`) has
mostly read answers that forget it (17+25=32), and GRPO's work here is to cure it of that.
"""

from __future__ import annotations

import random
from typing import Any

from rlkit.errors import bad_value
from rlkit.rewards.numbers import correct_number, number_found
from rlkit.tasks.base import Task
from rlkit.tasks.card import LAST_NUMBER, OURS

SMALLEST_OPERAND = 1  # adding 0 teaches nothing about carries


def needs_carry(a: int, b: int) -> bool:
    """Say whether the ones digits of `a` and `b` sum to ten or more."""
    return a % 10 + b % 10 >= 10


def forgotten_carry(a: int, b: int) -> int:
    """Return the sum of `a` and `b` as someone writes it who forgets to carry into the tens: 17+25 → 32."""
    return a + b - 10 if needs_carry(a, b) else a + b


def split_pairs(
    max_operand: int, test_share: float, seed: int
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Return the ordered pairs (a, b) of the train and of the test side, each shuffled.

    The *unordered* pairs are dealt out, so 3+5 and 5+3 stay on one side. Problems with and without a carry
    are dealt separately: the test side gets `test_share` of the unordered pairs of each, whatever the seed.
    """
    rng = random.Random(seed)
    train: list[tuple[int, int]] = []
    test: list[tuple[int, int]] = []
    operands = range(SMALLEST_OPERAND, max_operand + 1)
    for carry in (False, True):
        pairs = [(a, b) for a in operands for b in range(a, max_operand + 1) if needs_carry(a, b) is carry]
        rng.shuffle(pairs)
        cut = round(len(pairs) * test_share)
        for side, part in ((test, pairs[:cut]), (train, pairs[cut:])):
            side += [(a, b) for a, b in part] + [(b, a) for a, b in part if a != b]
    rng.shuffle(train)
    rng.shuffle(test)
    return train, test


def arithmetic(max_operand: int = 29, test_share: float = 0.2, seed: int = 0, chat: bool = False) -> Task:
    """Return the sums a+b with 1 ≤ a, b ≤ `max_operand`, split into train and test.

    Rows are ``{"prompt": "17+25=", "answer": "42"}``; with ``chat=True`` the prompt is a list with one user
    message (the embedded model's chat template renders both forms to the same tokens). `test_share` of the
    unordered pairs go to the test side, the same ones for the same `seed`, and 3+5 and 5+3 never part. The
    defaults give 673 train and 168 test problems.

    The corpus of the embedded model holds no test problem of the *default* split, so that held-out accuracy there is
    honest before and after RL. With another `seed`, `test_share` or `max_operand` the split is as disjoint for RL, but
    the embedded model may have read a test problem (with its mostly wrong answers) while it was pretrained.

    Raises `ConfigError` for values that leave a side empty or are out of range.
    """
    if not isinstance(max_operand, int) or isinstance(max_operand, bool) or not 9 <= max_operand <= 999:
        cause = (
            "below 9 hardly a sum needs a carry; above 999 the list of all pairs is too long to be useful."
        )
        raise bad_value("max_operand", max_operand, "a whole number from 9 to 999", cause)
    if (
        not isinstance(test_share, int | float)
        or isinstance(test_share, bool)
        or not 0.01 <= test_share <= 0.9
    ):
        raise bad_value("test_share", test_share, "a number from 0.01 to 0.9", "a share, not a percentage.")
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise bad_value("seed", seed, "a whole number")

    def row(a: int, b: int) -> dict[str, Any]:
        text = f"{a}+{b}="
        return {"prompt": [{"role": "user", "content": text}] if chat else text, "answer": str(a + b)}

    train, test = split_pairs(max_operand, test_share, seed)
    return Task(
        name="arithmetic",
        train=[row(a, b) for a, b in train],
        test=[row(a, b) for a, b in test],
        verifier=correct_number.verifier,  # type: ignore[attr-defined]
        reward_funcs=(number_found, correct_number),
        description=f"sums a+b of numbers from {SMALLEST_OPERAND} to {max_operand}; 3+5 and 5+3 on one side",
        licence=OURS,
        source="rlkit's own: every pair of numbers",
        seed=seed,
        columns={"prompt": "a sum to be finished", "answer": "its result, as text"},
        judging=LAST_NUMBER,
        weaknesses=(
            "So few problems that a model can learn the answers by heart; only the test side tells.",
            "Numbers are as long on both sides: the test side shows nothing about longer ones.",
        ),
    )
