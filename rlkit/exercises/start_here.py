"""Exercises of notebook 00: dead groups, and how to read a run."""

from __future__ import annotations

import random
from itertools import product
from math import prod
from typing import Any

from rlkit.exercises.exercise import Exercise, Wrong

# ------------------------------------------------------------------------------------------- dead groups


def dead_share(p: float, G: int) -> float:
    """All right, or all wrong."""
    return p**G + (1 - p) ** G


def _by_listing(p: float, G: int) -> float:
    """Every possible group, one after the other."""
    groups = [group for group in product((True, False), repeat=G) if len(set(group)) == 1]
    return sum(prod(p if right else 1 - p for right in group) for group in groups)


def _dead_cases(rng: random.Random) -> list[tuple[Any, ...]]:
    return [(0.4, 2), (round(rng.uniform(0.1, 0.45), 2), 3), (round(rng.uniform(0.6, 0.9), 2), 8)]


DEAD = Exercise(
    name="00-dead",
    title="How large should a group be?",
    difficulty="medium",
    minutes=7,
    hint="All G right: p multiplied with itself G times. And how likely is a single wrong answer?",
    solution=dead_share,
    cases=_dead_cases,
    expected=_by_listing,
    wrong=(
        Wrong(
            "all right only",
            "You count the groups that are all right. Those that are all wrong are dead, too: add their "
            "probability.",
            lambda p, G: p**G,
        ),
        Wrong(
            "all wrong only",
            "You count the groups that are all wrong. Those that are all right have no spread either: add"
            " p**G.",
            lambda p, G: (1 - p) ** G,
        ),
        Wrong(
            "alive",
            "That is the share of groups that are alive, which teach something. Subtract it from 1.",
            lambda p, G: 1 - p**G - (1 - p) ** G,
        ),
        Wrong(
            "multiplied by G",
            "You multiply by G. G answers that all have to be right are a power, p**G: each one "
            "multiplies by p again.",
            lambda p, G: p * G + (1 - p) * G,
        ),
        Wrong(
            "both at once",
            "You multiply the two probabilities, as if a group had to be all right and all wrong at once."
            " It is dead if one *or* the other happens, and they exclude each other: add them.",
            lambda p, G: p**G * (1 - p) ** G,
        ),
        Wrong(
            "not all right",
            "You add p**G and 1 - p**G, which is always 1: the second is the probability that *not all* are right. "
            "All wrong is something else: first 1 - p, one wrong answer, and then to the power of G.",
            lambda p, G: p**G + (1 - p**G),
        ),
    ),
    praise="Compare it with the dead groups that you counted in 4.3.",
)

# ------------------------------------------------------------------------------------------- reading a run


def first_above(exams: dict[int, float], x: float) -> int | None:
    """The first step whose accuracy is above x, None where there is none."""
    for step in sorted(exams):
        if exams[step] > x:
            return step
    return None


def _smallest(exams: dict[int, float], x: float) -> int | None:
    return min((step for step, accuracy in exams.items() if accuracy > x), default=None)


def _run_cases(rng: random.Random) -> list[tuple[Any, ...]]:
    def drawn() -> dict[int, float]:
        start = rng.uniform(0.3, 0.5)
        ups = (0.0, 0.05, 0.35, 0.2, 0.42, 0.4)  # it falls back once
        return {10 * i: round(start + up + rng.uniform(0, 0.02), 3) for i, up in enumerate(ups)}

    easy = {0: 0.5, 10: 0.6, 20: 0.9, 30: 0.8, 40: 0.95}
    one = drawn()
    return [(easy, 0.7), (one, round(one[0] + 0.25, 3)), (easy, 0.9), (easy, 0.4), (drawn(), 0.99)]


FIRST = Exercise(
    name="00-first",
    title="Read a run",
    difficulty="easy",
    minutes=6,
    hint="Go through the steps in order, and return at the first one whose accuracy is above x. After the "
    "loop: None.",
    solution=first_above,
    cases=_run_cases,
    expected=_smallest,
    wrong=(
        Wrong(
            "number of the exam",
            "You return which exam it was, counted 0, 1, 2. The dictionary's keys are the steps: return "
            "the key.",
            lambda exams, x: next((i for i, a in enumerate(exams.values()) if a > x), None),
        ),
        Wrong(
            "last below",
            "You return the last step that is not above x. Curves go up and down: asked for is the first "
            "that is above.",
            lambda exams, x: max((step for step, a in exams.items() if a <= x), default=None),
        ),
        Wrong(
            "above or equal",
            "You count accuracies that equal x. Above means larger: use > and not >=.",
            lambda exams, x: next((step for step, a in exams.items() if a >= x), None),
        ),
        Wrong(
            "best",
            "You return the step of the highest accuracy. The first one above x may come much earlier.",
            lambda exams, x: max(exams, key=lambda step: exams[step]),
        ),
        Wrong(
            "accuracy",
            "You return the accuracy that was reached, not the step at which it was.",
            lambda exams, x: next((a for a in exams.values() if a > x), None),
        ),
        Wrong(
            "gives up at the first exam",
            "You look at the first exam only: `return None` stands inside the loop, and ends it. Put it after the "
            "loop, where all exams have been looked at.",
            lambda exams, x: next((step if a > x else None for step, a in exams.items()), None),
        ),
        Wrong(
            "stays above",
            "You ask for the step from which on it stays above x. The question is when it was above for "
            "the first time; a later fall does not undo that.",
            lambda exams, x: next(
                (step for step in exams if all(a > x for later, a in exams.items() if later >= step)), None
            ),
        ),
    ),
    praise="Yours is a number that people report: steps until a goal is reached.",
)

EXERCISES: tuple[Exercise, ...] = (DEAD, FIRST)
