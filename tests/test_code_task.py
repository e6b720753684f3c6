"""Code as a task: what counts as the program, what it is paid, and problems whose solutions pass their own tests."""

from __future__ import annotations

import ast
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlkit import sandbox
from rlkit.errors import ConfigError, RewardError
from rlkit.rewards import code
from rlkit.sandbox.judging import read_test
from rlkit.tasks.code import code as code_task
from rlkit.tasks.code import problems

HOLDS = dict((name, on) for name, on, _ in sandbox.active())["sandbox"]
holds = pytest.mark.skipif(not HOLDS, reason="this system cannot hold a hostile program")

RIGHT = "```python\ndef double(x):\n    return 2 * x\n```"
TESTS = ["assert double(3) == 6", "assert double(-4) == -8", "assert double(0) == 0"]


def message(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


# --- finding the program ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("x = 1", "x = 1"),
        ("```python\nx = 1\n```", "x = 1"),
        ("So:\n```py\nx = 1\n```\nDone.", "x = 1"),
        ("```\nx = 1\n```", "x = 1"),
        ("```Python title=a\nx = 1\n```", "x = 1"),
        ("```python\nx = 1\n```\n```python\nx = 2\n```", "x = 2"),
        ("```python\nx = 1\n```\n```json\n{}\n```", "x = 1"),
        ("```json\n{}\n```", "```json\n{}\n```"),
        ("```python\nx = 1", "x = 1"),
        ("```python\nx = '''\n``` no fence\n'''\n```", "x = '''\n``` no fence\n'''"),
        ("  ```python\n  x = 1\n  ```", "  x = 1"),
        ("```python\r\nx = 1\r\n```\r\n", "x = 1\r"),
        ("", ""),
        ("``` ```", ""),
    ],
)
def test_the_program_in_a_completion(text, found):
    assert code.extract_code(text) == found
    assert code.extract_code(message(text)) == found


@given(st.text(alphabet="`python x=1\n", max_size=200) | st.text())
def test_any_text_has_a_program_and_a_form(text):
    assert isinstance(code.extract_code(text), str)
    assert code.code_block([""], [text])[0] in (0.0, 1.0)


# --- rewards ---------------------------------------------------------------------------------------------------------


@holds
def test_what_a_program_is_paid():
    wrong, half = "def double(x): return x * x", "def double(x): return abs(2 * x)"
    texts = [RIGHT, wrong, half, "", "while True: pass"]
    limits = {"seconds": 0.5}
    assert code.passes_tests(limits=limits)([""] * 5, texts, tests=[TESTS] * 5) == [1, 0, 0, 0, 0]
    assert code.passes_tests(3, -3, limits=limits)([""] * 5, texts, tests=[TESTS] * 5) == [3, -3, -3, -3, -3]
    shares = code.passes_tests(partial=True, limits=limits)([""] * 5, texts, tests=[TESTS] * 5)
    assert shares == pytest.approx([1, 1 / 3, 2 / 3, 0, 0])


@holds
def test_tests_may_be_json_text_and_rows_without_tests_are_not_judged():
    reward = code.passes_tests()
    assert reward(["", ""], [RIGHT, message(RIGHT)], tests=[json.dumps(TESTS), tuple(TESTS)]) == [1, 1]
    assert reward(["", ""], [RIGHT, "a poem"], tests=[TESTS, None]) == [1, None]
    for nothing in ("", "[]", [], "assert double(3) == 6", [3], 3):
        with pytest.raises(RewardError, match="right column"):
            reward([""], [RIGHT], tests=[nothing])


@holds
def test_reward_and_verifier_agree_and_run_a_program_once(monkeypatch):
    reward = code.passes_tests()
    texts = [RIGHT, "def double(x): return 7", RIGHT]
    ran: list[str] = []
    pool = code.shared()
    mapped = pool.map

    def counting(programs, *others):
        ran.extend(programs)
        return mapped(programs, *others)

    monkeypatch.setattr(pool, "map", counting)
    assert reward([""] * 3, texts, tests=[TESTS] * 3, level=[1, 1, 1]) == [1, 0, 1]
    assert [reward.verifier(text, tests=TESTS, level=1) for text in texts] == [True, False, True]
    assert len(ran) == 2  # two different programs, each once
    assert reward.__name__ == "passes_tests" and reward.__doc__


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"right": "1"}, "right="),
        ({"wrong": float("nan")}, "wrong="),
        ({"limits": 3}, "limits="),
        ({"limits": {"second": 3}}, "Did you mean 'seconds'"),
        ({"limits": {"seconds": -3}}, "seconds="),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, says):
    with pytest.raises(ConfigError, match=says):
        code.passes_tests(**settings)


@holds
def test_a_data_set_whose_tests_cannot_be_proven_is_told_so():
    with pytest.raises(ConfigError, match="both come from the program"):
        code.passes_tests()([""], [RIGHT], tests=[["assert double(1) == double(1)"]])


@pytest.mark.parametrize("name", ["passes_tests", "code_block"])
def test_golden_sets(name):
    if name == "passes_tests" and not HOLDS:
        pytest.skip("this system cannot hold a hostile program")
    golden = code.GOLDEN[name]
    assert min(len(golden.right), len(golden.wrong), len(golden.exploits)) >= 5
    reward = code.FUNCTIONS[name] if name in code.FUNCTIONS else code.FACTORIES[name]()

    def scores(examples):
        columns = {key: [e.columns[key] for e in examples] for key in examples[0].columns}
        return reward([e.prompt for e in examples], [e.completion for e in examples], **columns)

    right, wrong, exploits = (scores(group) for group in (golden.right, golden.wrong, golden.exploits))
    assert right == [golden.high] * len(right)
    for example, score in zip(golden.wrong + golden.exploits, wrong + exploits, strict=True):
        assert score == golden.low, example.note


# --- the task --------------------------------------------------------------------------------------------------------


def test_the_split_is_fixed_and_disjoint():
    task = code_task()
    assert (len(task.train), len(task.test)) == (36, 12)
    assert task == code_task()
    names = [row["name"] for row in task.rows("train") + task.rows("test")]
    assert len(set(names)) == 48
    assert {row["level"] for row in task.train} == {row["level"] for row in task.test} == {1, 2, 3}
    for level in (1, 2, 3):
        part = code_task(level=level)
        for side in ("train", "test"):
            assert part.rows(side) == [row for row in task.rows(side) if row["level"] == level]
    rows = task.rows("train") + task.rows("test")
    assert json.loads(json.dumps(rows)) == rows


def test_only_the_first_test_is_shown():
    for row in code_task(system_prompt=None).train:
        (turn,) = row["prompt"]
        shown, *hidden = (test.removeprefix("assert ") for test in row["tests"])
        assert shown in turn["content"] and row["starter"] in turn["content"]
        assert len(hidden) >= 3 and not any(test in turn["content"] for test in hidden)
    assert code_task().train[0]["prompt"][0]["role"] == "system"
    assert "def " not in code_task(system_prompt=None, starter=False).train[0]["prompt"][0]["content"]


def test_problems_are_well_formed():
    for problem in problems():
        assert ast.parse(problem.solution).body[0].name == problem.name
        assert all(read_test(test).proven for test in problem.tests)
        assert len(problem.tests) >= 4 and problem.text.endswith((".", "?"))
        # One constant does not do: the tests expect at least two different values.
        expected = {ast.unparse(ast.parse(test).body[0].test.comparators[0]) for test in problem.tests}
        assert len(expected) > 1, problem.name


@holds
def test_every_solution_passes_and_every_other_fails():
    """Each problem's solution passes its own tests; that of the next problem, under its name, does not."""
    task = code_task()
    rows = task.rows("train") + task.rows("test")
    by_name = {problem.name: problem for problem in problems()}
    solutions = [f"```python\n{by_name[row['name']].solution}```" for row in rows]
    reward = task.reward_funcs[1]
    columns = {key: [row[key] for row in rows] for key in ("name", "tests", "level")}
    scores = reward([""] * len(rows), solutions, **columns)
    assert [row["name"] for row, score in zip(rows, scores, strict=True) if score != 1] == []
    others = [
        solution.replace(f"def {other['name']}(", f"def {row['name']}(")
        for row, other, solution in zip(rows, rows[1:] + rows[:1], solutions[1:] + solutions[:1], strict=True)
    ]
    assert reward([""] * len(rows), others, **columns) == [0] * len(rows)
    assert task.verifier(solutions[0], **rows[0]) and not task.verifier("no idea", **rows[0])
    assert task.reward_funcs[0]([""] * len(rows), solutions) == [1] * len(rows)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"level": 4}, "level=4"),
        ({"level": True}, "level="),
        ({"system_prompt": ""}, "system_prompt="),
        ({"starter": 1}, "starter="),
    ],
)
def test_task_settings_that_cannot_work_are_refused(settings, says):
    with pytest.raises(ConfigError, match=says):
        code_task(**settings)
