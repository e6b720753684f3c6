"""Small programming problems with tests: the task for rewards that run what a model wrote.

    Write a Python function. … Return the number of posts.

    def fence_posts(length, gap):

    For example, fence_posts(10, 2) == 6.

The problems are our own (`rlkit/assets/code_problems.yaml`). One test of each stands in its prompt as an example; the
others are seen by the sandbox only, so that a table of the shown answer passes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from rlkit.errors import ConfigError, bad_value
from rlkit.rewards.code import code_block, passes_tests
from rlkit.tasks.base import Task
from rlkit.tasks.card import OURS

FILE = Path(__file__).parent.parent / "assets" / "code_problems.yaml"
SYSTEM_PROMPT = "Write one Python function. Answer with a single ```python block and nothing after it."
LEVELS = (1, 2, 3)

_passes_tests = passes_tests()


@dataclass(frozen=True)
class Problem:
    """One problem.

    Attributes:
        name: the function's name.
        level: 1, a line or two; 2, a loop and a condition; 3, an idea.
        text: what the function does.
        starter: its first line.
        tests: asserts, the first of which is shown.
        solution: a program that passes them.
    """

    name: str
    level: int
    text: str
    starter: str
    tests: tuple[str, ...]
    solution: str


@lru_cache(maxsize=1)
def problems() -> tuple[Problem, ...]:
    """Return all problems in their fixed order; every fourth one belongs to the test side."""
    import yaml

    found = []
    for entry in yaml.safe_load(FILE.read_text(encoding="utf-8")):
        signature = entry["signature"]
        starter = f"def {signature}:"
        body = "".join(f"    {line}\n" for line in entry["solution"].rstrip().split("\n"))
        found.append(
            Problem(
                name=signature.partition("(")[0],
                level=entry["level"],
                text=entry["text"],
                starter=starter,
                tests=tuple(f"assert {test}" for test in entry["tests"]),
                solution=f"{starter}\n{body}",
            )
        )
    return tuple(found)


def code(level: int | None = None, system_prompt: str | None = SYSTEM_PROMPT, starter: bool = True) -> Task:
    """Return the programming problems, 36 to train on and 12 to be judged by, as chat messages.

    Rows are ``{"prompt": [messages], "name": …, "level": …, "starter": …, "tests": [asserts]}``. The split is fixed and
    the same within each level: every fourth problem is held out. `level` (1 to 3) keeps one level only; `starter` puts
    the function's first line into the prompt (its name is told in either case).

    The verifier runs a completion's program in the sandbox against all tests of its row. `reward_funcs` are
    `code_block` (one closed block) and `passes_tests`.

    Raises `ConfigError` for values out of range. Licence of the problems: that of rlkit.
    """
    if level is not None and (isinstance(level, bool) or level not in LEVELS):
        raise bad_value("level", level, "1, 2, 3, or None for all")
    if system_prompt is not None and (not isinstance(system_prompt, str) or not system_prompt.strip()):
        raise bad_value("system_prompt", system_prompt, "text, or None for none")
    if not isinstance(starter, bool):
        raise bad_value("starter", starter, "True or False")
    rows = [(place, problem) for place, problem in enumerate(problems()) if level in (None, problem.level)]
    sides = {
        held_out: [_row(p, system_prompt, starter) for place, p in rows if (place % 4 == 3) is held_out]
        for held_out in (False, True)
    }
    if not sides[False] or not sides[True]:
        raise ConfigError(f"level={level} leaves a side without problems")
    return Task(
        name="code",
        train=sides[False],
        test=sides[True],
        verifier=_passes_tests.verifier,  # type: ignore[attr-defined]
        reward_funcs=(code_block, _passes_tests),
        description="small Python functions, judged by tests in the sandbox",
        licence=OURS,
        source="written for rlkit",
        columns={
            "prompt": "what the function does, and one of its tests as an example",
            "name": "what the function is called",
            "level": "1, a line or two; 2, a loop and a condition; 3, an idea",
            "starter": "the function's first line",
            "tests": "asserts, the first of which is shown",
        },
        judging="the program in the completion is run in the sandbox against all tests of its row",
        weaknesses=("A program that is right on these tests may be wrong elsewhere: there are few of each.",),
    )


def _row(problem: Problem, system_prompt: str | None, starter: bool) -> dict[str, Any]:
    """Tell a problem."""
    example = problem.tests[0].removeprefix("assert ")
    parts = [
        problem.text,
        problem.starter if starter else f"Call it {problem.name}.",
        f"For example, {example}.",
    ]
    before = [{"role": "system", "content": system_prompt}] if system_prompt else []
    return {
        "prompt": [*before, {"role": "user", "content": "\n\n".join(parts)}],
        "name": problem.name,
        "level": problem.level,
        "starter": problem.starter,
        "tests": list(problem.tests),
    }
