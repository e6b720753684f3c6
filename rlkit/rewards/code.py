"""Rewards for code: find the program in a completion, run it in the sandbox, pay for tests that hold.

    reward = passes_tests(partial=True)
    reward(prompts, completions, tests=[["assert double(3) == 6"], …])

The program never runs in this process: `rlkit.sandbox` runs it behind walls and limits, and judges its values
outside of its process, so that neither ``os._exit(0)`` nor an object that equals everything earns anything.
"""

from __future__ import annotations

import json
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rlkit.errors import RewardError, bad_value, unknown_name
from rlkit.rewards.golden import Example, GoldenSet
from rlkit.rewards.signatures import RewardFunction
from rlkit.rewards.spans import Spans
from rlkit.rewards.text import Completion, completion_text
from rlkit.rewards.verifiers import reward_from
from rlkit.sandbox.limits import Limits, Outcome
from rlkit.sandbox.pool import shared

FENCE = "```"
PYTHON = (
    "python",
    "py",
    "python3",
    "",
)  # what may stand behind an opening fence; "" is a fence without a language
REMEMBERED = 4096  # outcomes kept, so that reward and verifier of one completion run it once


def code_blocks(text: str) -> list[tuple[str, str, bool]]:
    """Return every fenced block as (language, code, whether it is closed).

    A fence is a line that begins, after at most three spaces, with three backticks; what follows it names the language,
    lower-cased. A block that is not closed reaches to the end of the text.
    """
    blocks: list[tuple[str, str, bool]] = []
    language: str | None = None
    lines: list[str] = []
    for line in text.split("\n"):
        mark = line.strip()
        fence = mark.startswith(FENCE) and len(line) - len(line.lstrip(" ")) <= 3
        if language is None:
            if fence:
                words = mark.strip("`").split()
                language, lines = (words[0].lower() if words else ""), []
        elif fence and not mark.strip("`"):
            blocks.append((language, "\n".join(lines), True))
            language = None
        else:
            lines.append(line)
    if language is not None:
        blocks.append((language, "\n".join(lines), False))
    return blocks


def extract_code(completion: Completion) -> str:
    """Return the program in a completion: the last fenced Python block, else the whole text.

    A block counts as Python where its fence says so or names no language. The last one counts: models think first and
    answer last. A block that was cut off (no closing fence) counts, too; it is up to the tests.

    >>> extract_code("So:\\n```python\\ndef f(): return 1\\n```\\nThat is it.")
    'def f(): return 1'
    """
    text = completion_text(completion)
    for language, code, _ in reversed(code_blocks(text)):
        if language in PYTHON:
            return code
    return text


def code_block(
    prompts: Sequence[Any], completions: Sequence[Completion], **columns: Any
) -> list[float | None]:
    """Reward 1 where a completion holds exactly one closed Python block that is not blank, else 0.

    Looks at form only: what the code does is for `passes_tests`.
    """
    rewards: list[float | None] = []
    for completion in completions:
        blocks = [block for block in code_blocks(completion_text(completion)) if block[0] in PYTHON]
        rewards.append(1.0 if len(blocks) == 1 and blocks[0][2] and blocks[0][1].strip() else 0.0)
    return rewards


def _code_spans(completion: Completion, **columns: Any) -> Spans:
    code = extract_code(completion)
    start = completion_text(completion).rfind(code)
    return [(start, start + len(code))]


code_block.spans = _code_spans  # type: ignore[attr-defined]


def row_tests(tests: Any) -> tuple[str, ...]:
    """Return one row's tests, whether the data set holds them as a list or as JSON text.

    Raises `RewardError` for anything else, and for no tests at all: every program would pass them.
    """
    if isinstance(tests, str):
        try:
            tests = json.loads(tests)
        except ValueError:
            tests = None
    if not isinstance(tests, list | tuple) or not tests or not all(isinstance(test, str) for test in tests):
        raise RewardError(
            f"tests={tests!r:.80} are no tests. Allowed: a list of Python texts such as ['assert f(2) == 4'], at least "
            "one, or the same as JSON text. Is 'tests' the right column of this data set?"
        )
    return tuple(tests)


def passes_tests(
    right: float = 1.0,
    wrong: float = 0.0,
    partial: bool = False,
    limits: Limits | Mapping[str, Any] | None = None,
    allow_unproven: bool = False,
    allow_weak: bool = False,
) -> RewardFunction:
    """Return a reward function that pays `right` where a completion's program passes all tests of its row.

    Otherwise it pays `wrong`, or with `partial`, where k of n tests hold, wrong + (right − wrong)·k/n; a program that
    was stopped (timeout, memory, blocked) or crashed gets `wrong`. Needs the column `tests`: for each row a list of
    Python texts with asserts, or such a list as JSON text; None where a row has no code to be judged, which scores
    None. The completions of a batch run side by side; what was run before is remembered.

    The verifier is True where all tests pass. `limits`, `allow_unproven` and `allow_weak` are those of `sandbox.run`.

    Raises `ConfigError` for values that cannot work; when it is called, for a test that cannot be proven and for a
    system that cannot hold a hostile program; `RewardError` for a row without tests.
    """
    if isinstance(limits, Mapping):  # as a configuration writes it
        unknown = [name for name in limits if name not in Limits.__dataclass_fields__]
        if unknown:
            raise unknown_name("limit", unknown[0], Limits.__dataclass_fields__)
        limits = Limits(**limits)
    limits = Limits() if limits is None else limits
    if not isinstance(limits, Limits):
        raise bad_value("limits", limits, "sandbox.Limits(seconds=…, memory_mib=…, …)")
    for name, value in (("right", right), ("wrong", wrong)):
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            raise bad_value(name, value, "a finite number")
    known: OrderedDict[tuple[str, tuple[str, ...]], Outcome] = OrderedDict()
    remembering = threading.Lock()

    def outcomes(completions: Sequence[Completion], tests: Sequence[Any]) -> list[Outcome]:
        jobs = [(extract_code(c), row_tests(row)) for c, row in zip(completions, tests, strict=True)]
        with remembering:  # several threads may score
            found = {job: known[job] for job in jobs if job in known}
        new = [job for job in dict.fromkeys(jobs) if job not in found]
        found |= zip(new, _run(new, limits, allow_unproven, allow_weak), strict=True)
        with remembering:
            known.update((job, found[job]) for job in new)
            while len(known) > REMEMBERED:
                known.popitem(last=False)
        return [found[job] for job in jobs]

    def all_tests_pass(completion: Completion, tests: Any) -> bool:
        return outcomes([completion], [tests])[0].passed

    def reward(
        prompts: Sequence[Any], completions: Sequence[Completion], tests: Sequence[Any], **columns: Any
    ) -> list[float | None]:
        values: list[float | None] = [None] * len(completions)
        mine = [i for i, row in enumerate(tests) if row is not None]
        found = outcomes([completions[i] for i in mine], [tests[i] for i in mine])
        for i, outcome in zip(mine, found, strict=True):
            share = 1.0 if outcome.passed else 0.0
            if partial and outcome.verdict == "failed":
                share = outcome.tests_passed / len(row_tests(tests[i]))
            values[i] = float(right) if share == 1.0 else float(wrong + (right - wrong) * share)
        return values

    verified = reward_from(all_tests_pass, right, wrong, "passes_tests")  # one at a time; the batch is faster
    reward.__name__ = reward.__qualname__ = "passes_tests_partial" if partial else "passes_tests"
    less = f", {wrong:g} to {right:g} for a share of them" if partial else ""
    reward.__doc__ = f"Reward {right:g} where the program passes all tests{less}, else {wrong:g}."
    reward.spans = _code_spans  # type: ignore[attr-defined]
    reward.verifier = verified.verifier  # type: ignore[attr-defined]
    reward.score_range = verified.score_range  # type: ignore[attr-defined]
    reward.starts_processes = True  # type: ignore[attr-defined]  # property tests try it less often
    return reward


def _run(
    jobs: Sequence[tuple[str, tuple[str, ...]]], limits: Limits, allow_unproven: bool, allow_weak: bool
) -> list[Outcome]:
    """Run programs against their tests, side by side."""
    if not jobs:
        return []
    programs, tests = zip(*jobs, strict=True)
    return shared(allow_weak).map(programs, tests, limits, allow_unproven)


def _examples(tests: Sequence[str], *cases: tuple[str, str]) -> tuple[Example, ...]:
    return tuple(Example(text, {"tests": list(tests)}, note) for text, note in cases)


_TESTS = ["assert double(3) == 6", "assert double(-4) == -8", "assert double(0) == 0"]
_PROMPT = "Write a Python function double(x) that returns twice x."

GOLDEN: dict[str, GoldenSet] = {
    "passes_tests": GoldenSet(
        right=_examples(
            _TESTS,
            ("```python\ndef double(x):\n    return 2 * x\n```", "a block"),
            ("def double(x): return x + x", "bare code"),
            ("Twice is a sum:\n```py\ndouble = lambda x: x + x\n```\nThat is all.", "words around it"),
            (
                "```python\ndef double(x): return x\n```\nNo, wait:\n```python\ndef double(x): return x * 2\n```",
                "the last block counts",
            ),
            ("```\ndef double(x):\n    print('hm')\n    return x << 1\n```", "no language; it prints"),
            ("```python\nimport operator\ndef double(x): return operator.mul(2, x)", "cut off at the end"),
        ),
        wrong=_examples(
            _TESTS,
            ("```python\ndef double(x):\n    return x * x\n```", "squares"),
            ("```python\ndef double(x):\n    return 2 * x +\n```", "no Python"),
            ("```python\ndef twice(x): return 2 * x\n```", "another name"),
            ("```python\ndef double(x): return str(2 * x)\n```", "text instead of a number"),
            ("```python\ndef double(x): return abs(2 * x)\n```", "fails for one test"),
            ("I cannot write code.", "words"),
        ),
        exploits=_examples(
            _TESTS,
            ("", "empty"),
            (_PROMPT, "prompt repeated"),
            ("\n".join(_TESTS), "tests repeated"),
            ("```python\nraise SystemExit(0)\n```", "leaves"),
            ("```python\nimport os; os._exit(0)\n```", "leaves at once"),
            (
                "```python\nclass Yes:\n    def __eq__(self, other): return True\n"
                "    __hash__ = None\ndef double(x): return Yes()\n```",
                "equals everything",
            ),
            (
                "```python\nclass Yes(int):\n    def __eq__(self, other): return True\n"
                "def double(x): return Yes(7)\n```",
                "a number that equals everything",
            ),
            (
                "```python\nimport os\nos.write(3, b'{\"ran\": true}\\n' + b'{\"answers\": [[true]]}\\n' * 3)\n"
                "os._exit(0)\n```",
                "writes the answers itself",
            ),
            ("def double(x): return 2 * x\n```python\n```", "right code outside, an empty block last"),
            (
                "```python\ndef double(x): return 2 * x\n```\n```python\nprint(6)\n```",
                "right one in the wrong place",
            ),
            ("```python\n" + "# 6 -8 0\n" * 2000 + "```", "huge"),
            ("```python\ndef double(x): return int('２') * x + 1\n```", "unicode digits, and wrong"),
            ("<answer>6 -8 0</answer>" * 40, "marker spam"),
        ),
    ),
    "code_block": GoldenSet(
        right=_examples(
            (),
            ("```python\nx = 1\n```", "a block"),
            ("Here:\n```python\ndef f(): pass\n```\nDone.", "words around it"),
            ("```py\nx\n```", "the short name"),
            ("```\nx = 1\n```", "no language"),
            ("```json\n{}\n```\n```python\nx = 1\n```", "beside another language"),
        ),
        wrong=_examples(
            (),
            ("x = 1", "bare code"),
            ("```python\nx = 1", "cut off"),
            ("```json\n{}\n```", "another language"),
            ("no code here", "words"),
            ("`x = 1`", "inline code"),
        ),
        exploits=_examples(
            (),
            ("", "empty"),
            (_PROMPT, "prompt repeated"),
            ("```" * 50, "marker spam"),
            ("```python\n```", "an empty block"),
            ("```python\n   \n```", "a blank block"),
            ("```python\nx\n```\n" * 30, "many blocks"),
            ("```python x = 1 ```", "all on one line"),
        ),
    ),
}
"""The golden sets of what this module offers."""

FUNCTIONS: dict[str, RewardFunction] = {"code_block": code_block}
FACTORIES: dict[str, Callable[..., RewardFunction]] = {"passes_tests": passes_tests}
