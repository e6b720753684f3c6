"""Countdown: equations read as arithmetic and never run, golden sets, and problems that can be solved."""

from __future__ import annotations

import itertools
import random
import re
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlkit.errors import ConfigError, RewardError
from rlkit.rewards.equations import (
    FUNCTIONS,
    GOLDEN,
    correct_equation,
    equation_found,
    read_equation,
    right_numbers,
    verify_equation,
)
from rlkit.rewards.signatures import required_columns
from rlkit.tasks.countdown import SHOWN, countdown

NUMBERS, TARGET = [25, 5, 3], 60


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


# --- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1 + 2", 3),
        ("1+2=3", 3),
        ("10 - 2 - 3", 5),
        ("10 - (2 - 3)", 11),
        ("2 + 3 * 4", 14),
        ("(2 + 3) * 4", 20),
        ("1 / 3 + 2 / 3", 1),
        ("8 / (3 - 8 / 3)", 24),
        ("2 × 3 − 4 ÷ 2", 4),
        ("((((1 + 2))))", 3),
        ("= 1 + 2", 3),
        ("1 + 2 =", 3),
        ("first 9 + 9\nthen 1 + 2\n\n", 3),
        ("```\n1 + 2\n```", 3),
        ("`1 + 2`.", 3),
        ("\\[ 1 \\cdot 2 + 6 \\div 3 = 4 \\]", 4),
        ("\\( \\left(1 + 2\\right) \\times 3 \\)", 9),
        ("<answer>\n1 + 2\n</answer>\nIs it 7 + 7?", 3),
        ("<answer>1 + 2", 3),
        ("1\u00a0+\t2", 3),
    ],
)
def test_equations_that_are_read(text, value):
    assert read_equation(text).value == value
    assert equation_found(["", ""], [text, said(text)]) == [1.0, 1.0]


@pytest.mark.parametrize(
    "text",
    [
        *("", "7", "-7", "+", "1 +", "1 2", "1 + 2 = 3 = 3", "1 + 2 = x", "1 + 2 = -3", "1 = = 2"),
        *(
            "2 ** 3",
            "7 // 2",
            "7 % 2",
            "-1 + 2",
            "+1 + 2",
            "~1 + 2",
            "1 + 2j",
            "1.5 + 2",
            "1,5 + 2",
            "1_0 + 2",
        ),
        *("0x1 + 2", "01 + 2", "1 / 0", "1 / (2 - 2)", "f(1) + 2", "1(2) + 3", "() + 1", "(1 + 2", "1 + 2)"),
        *(
            "１ + ２",
            "१ + २",
            "１0 + 2",
            "1 + 2;",
            "__import__('os') + 1",
            "1 + 2 if 1 else 2",
            "[1 + 2]",
            "1 + 2, 3",
        ),
        *("1 + 2 coins", "1 + 2\nThat is all.", "<answer>7</answer> 1 + 2", "<answer></answer> 1 + 2"),
        "1" * 201 + " + 1",
        "(" * 80 + "1 + 2" + ")" * 110,
    ],
)
def test_what_is_no_equation(text):
    assert read_equation(text) is None
    assert equation_found(["", ""], [text, said(text)]) == [0.0, 0.0]


def test_a_claimed_result_must_be_true():
    assert verify_equation("(25 - 5) * 3 = 60", NUMBERS, TARGET)
    assert not verify_equation("(25 - 5) * 3 = 61", NUMBERS, TARGET)
    assert not verify_equation("25 - 5 + 3 = 60", NUMBERS, TARGET)


def test_each_number_exactly_once():
    assert verify_equation("2 * 2 + 2", [2, 2, 2], 6)
    assert not verify_equation("2 + 2 + 2", [2, 2], 6)
    assert not verify_equation("2 * 3", [2, 2, 2], 6)
    assert not verify_equation("3 + 3", [3, 3, 1], 6)


@pytest.mark.parametrize("numbers", [None, "25", 25, [25.0, 5], ["25", "5"], [True, 5]])
def test_numbers_that_are_none_are_the_data_sets_fault(numbers):
    with pytest.raises(RewardError, match="right column"):
        verify_equation("1 + 2", numbers, 3)


@pytest.mark.parametrize("target", [None, "sixty", float("nan"), float("inf"), []])
def test_a_target_that_is_none_is_the_data_sets_fault(target):
    with pytest.raises(RewardError, match="right column"):
        verify_equation("1 + 2", [1, 2], target)


@given(st.text() | st.text(alphabet="0123456789+-*/()= \n.<answer>\\", max_size=300))
def test_nothing_raises_and_strings_and_messages_agree(text):
    columns = {"numbers": [NUMBERS] * 2, "target": [TARGET] * 2}
    for reward in FUNCTIONS.values():
        plain, chat = reward(["", ""], [text, said(text)], **columns)
        assert plain == chat and plain in (0.0, 1.0)


def exact(text: str) -> Fraction | None:
    """Python's own value of an expression, in fractions; None for a division by zero."""
    try:
        return eval(re.sub(r"([0-9]+)", r"Fraction(\1)", text), {"Fraction": Fraction})
    except ZeroDivisionError:
        return None


@given(st.lists(st.integers(0, 99), min_size=2, max_size=6), st.randoms(use_true_random=False))
def test_the_value_is_pythons_own(numbers, rng):
    parts = [str(number) for number in numbers]
    while len(parts) > 1:
        a, b = (parts.pop(rng.randrange(len(parts))) for _ in range(2))
        joined = f"{a} {rng.choice('+-*/')} {b}"
        parts.append(f"({joined})" if rng.random() < 0.5 else joined)
    (text,) = parts
    read = read_equation(text)
    assert (read.value if read else None) == exact(text)
    assert read is None or sorted(read.numbers) == sorted(numbers)


@pytest.mark.parametrize(
    "text",
    [
        *("(" * 65_536, "1+" * 32_768, "-" * 65_536, "9**" * 20_000, "`" * 65_536),
        *("<answer>" * 8_000, "1 = " * 16_000, "\\]" * 30_000, "\\times" * 10_000, "\n" * 65_536),
    ],
)
def test_long_texts_are_read_at_once(text):
    assert read_equation(text) is None
    assert read_equation(f"{text}\n1 + 2").value == 3


# --- golden sets -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_golden_sets(name):
    golden, reward = GOLDEN[name], FUNCTIONS[name]

    def score(example):
        columns = {column: [value] for column, value in example.columns.items()}
        (value,) = reward([example.prompt], [example.completion], **columns)
        assert golden.low <= value <= golden.high
        return value

    assert min(len(part) for part in (golden.right, golden.wrong, golden.exploits)) >= 5
    right = [score(example) for example in golden.right]
    assert min(right) > max(score(example) for example in golden.wrong)
    for example in golden.exploits:
        assert (score(example) >= min(right)) == example.fools, example.note


def test_the_rewards_say_what_they_need():
    assert set(GOLDEN) == set(FUNCTIONS)
    assert required_columns(correct_equation) == ["numbers", "target"]
    assert required_columns(right_numbers) == ["numbers"]
    assert correct_equation.verifier("(25 - 5) * 3", numbers=NUMBERS, target=TARGET, answer="x") is True
    assert [function.__name__ for function in FUNCTIONS.values()] == list(FUNCTIONS)


# --- the task --------------------------------------------------------------------------------------------------------


@given(
    seed=st.integers(0, 999),
    numbers=st.tuples(st.integers(2, 4), st.integers(0, 2)),
    operations=st.sampled_from(["+-*/", "+-", "+*", "*/-", "+"]),
)
@settings(max_examples=20)
def test_every_problem_can_be_solved_and_none_is_there_twice(seed, numbers, operations):
    low, high = numbers[0], numbers[0] + numbers[1]
    task = countdown(30, 10, seed, min_numbers=low, max_numbers=high, max_target=200, operations=operations)
    rows = task.rows("train") + task.rows("test")
    assert (len(task.train), len(task.test)) == (30, 10)
    assert len({tuple(sorted(row["numbers"])) for row in rows}) == 40
    for row in rows:
        assert low <= len(row["numbers"]) <= high and len(set(row["numbers"])) == len(row["numbers"])
        assert 1 <= row["target"] <= 200 and row["target"] not in row["numbers"]
        assert max(row["numbers"]) <= 50 and tuple(sorted(row["numbers"])) != SHOWN
        assert set(row["answer"]) <= set("0123456789() ") | set(operations)
        assert task.verifier(row["answer"], **row) and task.verifier(
            said(f"{row['answer']} = {row['target']}."), **row
        )
        assert not task.verifier(f"{row['answer']} + 0", **row) and not task.verifier(
            str(row["target"]), **row
        )
        question = row["prompt"][-1]["content"]
        assert all(f"{number}" in question for number in [*row["numbers"], row["target"]])
        assert not task.verifier(question, **row)


def test_solutions_have_no_parentheses_that_they_do_not_need():
    """Taking out any one pair changes what it comes to."""
    pairs = 0
    for row in countdown(200, 50, max_numbers=5, max_target=500).rows("train"):
        text, opened = row["answer"], []
        assert exact(text) == row["target"]
        for i, character in enumerate(text):
            if character == "(":
                opened.append(i)
            elif character == ")":
                start = opened.pop()
                assert exact(text[:start] + text[start + 1 : i] + text[i + 1 :]) != row["target"], text
                pairs += 1
    assert pairs > 50


def test_other_solutions_count_as_well():
    """Every equation with these numbers, by Python's own reckoning and by the verifier's."""
    for row in countdown(10, 5, max_numbers=3).rows("train"):
        right = set()
        for a, b, c in itertools.permutations(row["numbers"]):
            for first, second in itertools.product("+-*/", repeat=2):
                for text in (f"({a} {first} {b}) {second} {c}", f"{a} {first} ({b} {second} {c})"):
                    assert task_says(row, text) is (exact(text) == row["target"])
                    right |= {text} if task_says(row, text) else set()
        assert len(right) >= 2


def task_says(row, text: str) -> bool:
    return correct_equation.verifier(text, **row)


def test_the_same_arguments_give_the_same_task():
    assert countdown(20, 5).fingerprint == countdown(20, 5).fingerprint == "8197abd738b282a9"
    assert countdown(20, 5).rows() != countdown(20, 5, seed=1).rows()
    random.seed(1)
    assert countdown(20, 5) == countdown(20, 5)


def test_prompts():
    chat = countdown(5, 2, system_prompt="Be brief.").train[0]["prompt"]
    assert [message["role"] for message in chat] == ["system", "user"]
    text = countdown(5, 2, system_prompt="Be brief.", chat=False).train[0]["prompt"]
    assert text == f"Be brief.\n\nQuestion: {chat[1]['content']}\nAnswer:"


def test_the_card_says_how_it_is_judged():
    task = countdown(5, 2)
    assert "exactly once" in task.card and "`correct_equation`" in task.card and "Apache-2.0" in task.card
    assert [reward.__name__ for reward in task.reward_funcs] == [
        "equation_found",
        "right_numbers",
        "correct_equation",
    ]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"train_size": 0}, "train_size=0"),
        ({"test_size": 2.0}, "test_size=2.0"),
        ({"min_numbers": 1}, "min_numbers=1"),
        ({"min_numbers": "3"}, "min_numbers='3'"),
        ({"min_numbers": 5}, "max_numbers=4.*from 5 to 6"),
        ({"max_numbers": 7}, "max_numbers=7"),
        ({"max_number": 8}, "max_number=8"),
        ({"max_target": 9}, "max_target=9"),
        ({"operations": "+^"}, "operations='\\+\\^'"),
        ({"operations": ""}, "operations=''"),
        ({"seed": 0.5}, "seed=0.5"),
        ({"system_prompt": ""}, "system_prompt=''"),
        ({"operations": "/", "max_number": 9}, "only [0-9]+ different ones"),
        (
            {"max_number": 9, "min_numbers": 3, "max_numbers": 3, "train_size": 80},
            "only [0-9]+ different ones",
        ),
    ],
)
def test_what_cannot_work_is_refused(wrong, says):
    with pytest.raises(ConfigError, match=says):
        countdown(**{"train_size": 20, "test_size": 5, **wrong})
