"""Countdown: reach a target with given numbers, each used once. Many equations are right, and a program can tell which.

    Use the numbers 25, 5 and 3 … to make 60.   →   (25 - 5) * 3 = 60

Every problem can be solved: it is made from a solution. How an answer is read and judged stands in `rewards.equations`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from rlkit.errors import ConfigError, bad_value
from rlkit.rewards.equations import correct_equation, equation_found, right_numbers
from rlkit.tasks.base import Task
from rlkit.tasks.card import OURS
from rlkit.tasks.prompts import as_prompt, check_whole, check_wording

SHOWN = (2, 3, 8)
"""The numbers of the example in every prompt, (8 - 2) * 3 = 18, sorted; no problem has these."""

_ATOM, _PRODUCT, _SUM = 3, 2, 1  # how tightly a part of an expression holds together
_TRIES = 200  # draws for each problem that is wanted, before the problems count as used up


def countdown(
    train_size: int = 500,
    test_size: int = 100,
    seed: int = 0,
    min_numbers: int = 3,
    max_numbers: int = 4,
    max_number: int = 50,
    max_target: int = 100,
    operations: str = "+-*/",
    chat: bool = True,
    system_prompt: str | None = None,
) -> Task:
    """Return `train_size` + `test_size` sets of numbers, each with a target that can be made from all of them.

    Rows are ``{"prompt": …, "numbers": [25, 5, 3], "target": 60, "answer": "(25 - 5) * 3"}``: `min_numbers` to
    `max_numbers` different whole numbers from 1 to `max_number`, a target from 1 to `max_target` that is none of them,
    and one solution of mostly several. It was made with `operations`, without negative numbers or fractions on the way;
    an answer may use any of + - * / and parentheses, and fractions. With `chat` the prompt is a list of messages, the
    system prompt first (None: none).

    No two rows have the same numbers, in whatever order. The same arguments give the same rows.

    Rewards, each 0 or 1: `equation_found` (it can be read), `right_numbers` (each number once), `correct_equation`.

    Raises `ConfigError` for values out of range, or where there are not so many different problems.
    """
    for name, value, low, high in (
        ("train_size", train_size, 1, 100_000),
        ("test_size", test_size, 1, 100_000),
        ("min_numbers", min_numbers, 2, 6),
        ("max_numbers", max_numbers, min_numbers if min_numbers in range(2, 7) else 2, 6),
        ("max_number", max_number, 9, 1000),
        ("max_target", max_target, 10, 10_000),
    ):
        check_whole(name, value, low, high)
    if not isinstance(operations, str) or not operations or not set(operations) <= set("+-*/"):
        raise bad_value("operations", operations, "one or more of the characters + - * /, such as '+-'")
    check_wording(seed, system_prompt)

    rng = random.Random(f"countdown/{seed}")
    problems: dict[tuple[int, ...], tuple[list[int], int, str]] = {}
    wanted = train_size + test_size
    for _ in range(_TRIES * wanted):
        numbers = rng.sample(range(1, max_number + 1), rng.randint(min_numbers, max_numbers))
        key = tuple(sorted(numbers))
        made = None if key in problems or key == SHOWN else _combine(numbers, operations, max_target, rng)
        if made and made[0] not in numbers:
            problems[key] = (numbers, *made)
        if len(problems) == wanted:
            break
    else:
        raise ConfigError(
            f"train_size={train_size} and test_size={test_size} make {wanted} problems, but only {len(problems)} "
            f"different ones were found with max_number={max_number}, max_target={max_target}, "
            f"operations={operations!r} and {min_numbers} to {max_numbers} numbers. Ask for fewer, or allow more"
        )
    rows = [
        {
            "prompt": as_prompt(_question(numbers, target), chat, system_prompt),
            "numbers": numbers,
            "target": target,
            "answer": solution,
        }
        for numbers, target, solution in problems.values()
    ]
    return Task(
        name="countdown",
        train=rows[test_size:],
        test=rows[:test_size],
        verifier=correct_equation.verifier,  # type: ignore[attr-defined]
        reward_funcs=(equation_found, right_numbers, correct_equation),
        description=(
            f"{min_numbers} to {max_numbers} numbers up to {max_number}, a target up to {max_target}; no set of "
            "numbers on both sides"
        ),
        licence=OURS,
        source="rlkit's own: made from solutions drawn at random",
        seed=seed,
        columns={
            "prompt": "the question",
            "numbers": "the numbers to be used",
            "target": "what they should come to",
            "answer": "one equation that is right; any other that is right counts as well",
        },
        judging=(
            "the last equation of the completion, in its last <answer> tag if there is one, is computed in exact "
            "fractions; it must use each number exactly once and come to the target (`rewards.equations`)"
        ),
        weaknesses=(
            "Sums are easier than other equations, and few numbers easier than many: an average says "
            "little about the hard ones.",
            "Trying out is as good as reasoning; the working is not looked at.",
        ),
    )


def _combine(
    numbers: Sequence[int], operations: str, max_target: int, rng: random.Random
) -> tuple[int, str] | None:
    """Put all numbers together at random: value and text; None where nothing fits or the value is out of range."""
    parts = [(number, str(number), _ATOM) for number in numbers]
    while len(parts) > 1:
        rng.shuffle(parts)
        b, a = sorted((parts.pop(), parts.pop()))  # a ≥ b, so that a - b and a / b stay in the range
        fitting = [
            operation
            for operation in operations
            if operation == "+"
            or (operation == "-" and a[0] > b[0])
            or (operation == "*" and b[0] > 1)  # times 1 and by 1 are no moves
            or (operation == "/" and b[0] > 1 and a[0] % b[0] == 0)
        ]
        if not fitting:
            return None
        parts.append(_joined(a, rng.choice(fitting), b))
    value, text, _ = parts[0]
    return (value, text) if 1 <= value <= max_target else None


def _joined(a: tuple[int, str, int], operation: str, b: tuple[int, str, int]) -> tuple[int, str, int]:
    """Two parts joined: value, text with no more parentheses than it needs, and how tightly it holds together."""
    value = {
        "+": a[0] + b[0],
        "-": a[0] - b[0],
        "*": a[0] * b[0],
        "/": a[0] // b[0],
    }[operation]
    tightness = _SUM if operation in "+-" else _PRODUCT
    left = f"({a[1]})" if a[2] < tightness else a[1]
    # a - (b + c) and a / (b * c) need theirs, a + (b - c) and a * (b / c) do not
    right = f"({b[1]})" if b[2] < tightness or (b[2] == tightness and operation in "-/") else b[1]
    return value, f"{left} {operation} {right}", tightness


def _question(numbers: Sequence[int], target: int) -> str:
    *most, last = numbers
    return (
        f"Use the numbers {', '.join(map(str, most))} and {last}, each exactly once, with + - * / and parentheses, to "
        f"make {target}. End with your equation on a line of its own, such as (8 - 2) * 3 = 18."
    )
