"""The course's exercises: they check themselves, and name the misconception behind a wrong answer.

    from rlkit import exercises
    exercises.check("07-advantages", advantages)        # your own function
    exercises.names("07")                               # what there is to solve in notebook 07

Every exercise stands in the module of its notebook, or in one that it imports, with a solution, an independent way to
the same result, and named wrong answers; a check tells these apart by what they compute (`exercise`).
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from rlkit.errors import unknown_name
from rlkit.exercises.exercise import Exercise, Result, Wrong

__all__ = ["Exercise", "Result", "Wrong", "check", "find", "names"]

_LESSONS = {  # number of the notebook -> the module with its exercises
    "00": "start_here",
    "01": "agents",
    "02": "luck",
    "03": "verifiers",
    "04": "policy_gradient",
    "05": "rlhf",
    "06": "ppo",
    "07": "grpo_advantages",
    "08": "grpo_loop",
}


def check(name: str, answer: Any, seed: int = 0) -> Result:
    """Try ``answer``, your function, on the exercise ``name``; say whether it is right, and if not, why.

    It never raises for what the function does. As a cell's last line the result is shown; as a condition it is true
    where the answer is right. ``seed`` draws the inputs: another one tries other inputs.

    Raises ``ConfigError`` where there is no such exercise.
    """
    return find(name).check(answer, seed)


def find(name: str) -> Exercise:
    """The exercise of this name, with its ``solution``, ``hint``, ``difficulty``, ``minutes`` and wrong answers."""
    lesson = name.partition("-")[0] if isinstance(name, str) else ""
    for exercise in _exercises(lesson) if lesson in _LESSONS else ():
        if exercise.name == name:
            return exercise
    raise unknown_name(
        "exercise", name, names(), 'Names begin with the number of their notebook: "07-advantages".'
    )


def names(lesson: str = "") -> list[str]:
    """The names of all exercises, or of those of one notebook: ``names("07")``."""
    wanted = [one for one in _LESSONS if not lesson or one == lesson]
    return [exercise.name for one in wanted for exercise in _exercises(one)]


def _exercises(lesson: str) -> tuple[Exercise, ...]:
    return tuple(import_module(f"{__name__}.{_LESSONS[lesson]}").EXERCISES)
