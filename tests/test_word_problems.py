"""Word problems: true answers, numbers within bounds, and no problem on both sides of the split."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlkit import tasks
from rlkit.errors import ConfigError
from rlkit.recipe import Recipe
from rlkit.tasks.word_problems import NAMES, STORIES, problems, value, worked_examples


def story(row) -> str:
    return row["prompt"][-1]["content"]


def pattern(text: str) -> re.Pattern[str]:
    """A template as a regular expression; its numbers are the groups."""
    named = re.sub(r"\\{(name|other)\\}", "[A-Z][a-z]+", re.escape(text))
    return re.compile(re.sub(r"\\{[abc]\\}", r"(\\d+)", named))


PATTERNS = {steps: [(used, pattern(used.text)) for used in stories] for steps, stories in STORIES.items()}


def template(row, steps: int):
    """The one template that this row's text was made from, and its numbers, found again from the text alone."""
    found = [(used, match) for used, regex in PATTERNS[steps] if (match := regex.fullmatch(story(row)))]
    assert len(found) == 1, story(row)
    used, match = found[0]
    letters = re.findall(r"{([abc])}", used.text)
    return used, tuple(number for _, number in sorted(zip(letters, map(int, match.groups()), strict=True)))


def problem(row, steps: int):
    """What makes two rows the same problem: the template, and the numbers in any order that is free."""
    used, numbers = template(row, steps)
    return used.text, tuple(sorted(numbers[: used.free])) + numbers[used.free :]


@given(seed=st.integers(0, 999), max_number=st.integers(12, 40), steps=st.sampled_from([1, 2]))
@settings(max_examples=15)
def test_no_problem_is_on_both_sides_or_twice(seed, max_number, steps):
    task = tasks.word_problems(150, 50, seed, max_number, steps, "+-*/")
    assert (len(task.train), len(task.test)) == (150, 50)
    keys = [problem(row, steps) for row in task.rows("train") + task.rows("test")]
    assert len(set(keys)) == 200
    assert len({text for text, _ in keys}) == len(STORIES[steps])


@given(seed=st.integers(0, 999), max_number=st.integers(9, 40), steps=st.sampled_from([1, 2]))
@settings(max_examples=15)
def test_answers_are_true_and_numbers_bounded(seed, max_number, steps):
    task = tasks.word_problems(60, 20, seed, max_number, steps, "+-*/")
    for row in task.rows("train") + task.rows("test"):
        used, numbers = template(row, steps)
        expression = str(numbers[0])
        for operation, number in zip(used.operations, numbers[1:], strict=True):
            expression += f"{operation}{number}"
        result = eval(expression)  # Python's own precedence, on digits and + - * /
        assert int(row["answer"]) == result
        assert 1 <= result <= max_number and all(2 <= number <= max_number for number in numbers)
        assert task.verifier(f"{expression} = {result}", **row)
        assert not task.verifier(f"{expression} = {result + 1}", **row)


@pytest.mark.parametrize("steps", [1, 2])
def test_the_list_of_problems_is_complete(steps):
    for candidate in STORIES[steps]:
        listed = problems(candidate, 10)
        assert len(set(listed)) == len(listed)
        everything = {
            tuple(sorted(numbers[: candidate.free])) + numbers[candidate.free :]
            for numbers in _all_numbers(steps + 1, 10)
            if value(candidate.operations, numbers, 10) is not None
        }
        assert set(listed) == everything


def _all_numbers(count: int, top: int):
    if count == 0:
        return [()]
    return [(*head, last) for head in _all_numbers(count - 1, top) for last in range(2, top + 1)]


def test_value_minds_bounds_and_rests():
    assert value("+", (3, 4), 7) == 7 and value("+", (3, 4), 6) is None
    assert value("-", (4, 4), 9) is None and value("-", (4, 3), 9) == 1
    assert value("/", (8, 4), 9) == 2 and value("/", (9, 4), 9) is None
    assert value("*-", (3, 4, 5), 12) == 7 and value("*-", (3, 4, 5), 11) is None  # 12 on the way
    assert value("*-", (3, 4), 12) == 12  # a story's beginning


def test_templates_and_examples_are_sound():
    for steps, stories in STORIES.items():
        assert len({s.text for s in stories}) == len(stories)
        for candidate in stories:
            assert len(candidate.operations) == steps and candidate.text.endswith("?")
            assert set(re.findall(r"{(\w+)}", candidate.text)) >= set("abc"[: steps + 1])
        for question, answer in worked_examples(99, steps, "+-*/"):
            left, right = re.fullmatch(r"\D*([0-9+*/ -]+) = ([0-9]+)\D*", answer).groups()
            assert eval(left) == int(right)
            assert not any(name in question for name in NAMES)
            assert not any(regex.fullmatch(question) for _, regex in PATTERNS[steps])


def test_the_default_task():
    task = tasks.word_problems()
    assert task == tasks.word_problems() and task.rows("test") != tasks.word_problems(seed=1).rows("test")
    assert (len(task.train), len(task.test)) == (240, 60)
    assert [f.__name__ for f in task.reward_funcs] == ["number_found", "correct_number"]
    rows = task.rows("train") + task.rows("test")
    assert json.loads(json.dumps(rows)) == rows
    assert rows[0]["prompt"][0] is not rows[1]["prompt"][0]  # rows may be changed one by one


def test_both_sides_have_the_same_mix():
    task = tasks.word_problems(400, 100, max_number=20)
    for operation in "+-*/":
        train, test = (
            sum(template(row, 1)[0].operations == operation for row in side) / len(side)
            for side in (task.train, task.test)
        )
        assert abs(train - test) < 0.15


def test_prompts_hold_system_prompt_and_examples():
    bare = tasks.word_problems(20, 5, operations="+-", system_prompt=None, examples=0).train[0]["prompt"]
    assert [m["role"] for m in bare] == ["user"]
    full = tasks.word_problems(20, 5, operations="+-", system_prompt="Only the number.", examples=2).train[0][
        "prompt"
    ]
    assert [m["role"] for m in full] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert full[-1] == bare[-1]  # the wording around a story does not choose the stories


@pytest.mark.parametrize(("steps", "operations"), [(1, "+"), (1, "*/"), (1, "+-"), (2, "+-"), (2, "-")])
def test_only_the_operations_that_were_asked_for(steps, operations):
    task = tasks.word_problems(20, 5, max_number=20, steps=steps, operations=operations, examples=4)
    used = {template(row, steps)[0].operations for row in task.rows("train") + task.rows("test")}
    assert set("".join(used)) == set(operations)
    said = [turn["content"] for turn in task.train[0]["prompt"] if turn["role"] == "assistant"]
    assert 0 < len(said) <= 4 and all(
        set(re.findall(r" ([-+*/]) ", answer)) <= set(operations) for answer in said
    )


def test_a_recipe_can_name_it():
    recipe = Recipe.from_dict(
        {"model": "rlkit/tiny-arithmetic", "task": {"name": "word_problems", "n_train": 20, "n_test": 5}}
    )
    assert recipe.task == tasks.word_problems(20, 5)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"n_train": 0}, "n_train=0"),
        ({"n_test": 0}, "n_test=0"),
        ({"n_train": 5000}, "only [0-9]+ different ones"),
        ({"max_number": 8}, "max_number=8"),
        ({"max_number": 20.0}, "max_number=20.0"),
        ({"steps": 3}, "steps=3"),
        ({"steps": True}, "steps=True"),
        ({"examples": 5}, "examples=5"),
        ({"operations": "+x"}, "operations='\\+x'"),
        ({"operations": ""}, "operations=''"),
        ({"steps": 2, "operations": "*"}, "only 0 different ones"),
        ({"seed": "0"}, "seed='0'"),
        ({"system_prompt": " "}, "system_prompt=' '"),
    ],
)
def test_what_cannot_work_is_refused(wrong, says):
    with pytest.raises(ConfigError, match=says):
        tasks.word_problems(**wrong)
