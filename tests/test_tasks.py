"""The arithmetic task: a split that is disjoint up to commutation, the same each time, and balanced in carries."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlkit import tasks
from rlkit.errors import ConfigError
from rlkit.tasks.arithmetic import forgotten_carry, needs_carry


def operands(row) -> tuple[int, int]:
    prompt = row["prompt"] if isinstance(row["prompt"], str) else row["prompt"][0]["content"]
    a, b = prompt.removesuffix("=").split("+")
    return int(a), int(b)


@given(
    max_operand=st.integers(9, 40),
    test_share=st.floats(0.05, 0.8),
    seed=st.integers(0, 1000),
    chat=st.booleans(),
)
def test_the_split_is_a_partition_up_to_commutation(max_operand, test_share, seed, chat):
    task = tasks.arithmetic(max_operand, test_share, seed, chat)
    train, test = ([operands(row) for row in side] for side in (task.train, task.test))
    everything = {(a, b) for a in range(1, max_operand + 1) for b in range(1, max_operand + 1)}
    assert sorted(train + test) == sorted(everything)
    assert {frozenset(pair) for pair in train}.isdisjoint(frozenset(pair) for pair in test)
    assert all(int(row["answer"]) == sum(operands(row)) for row in task.train + task.test)
    for carry in (False, True):  # of each kind the share that was asked for, counted without order
        pairs = {frozenset(pair) for pair in everything if needs_carry(*pair) is carry}
        held_out = {frozenset(pair) for pair in test if needs_carry(*pair) is carry}
        assert abs(len(held_out) - test_share * len(pairs)) <= 0.5


def test_the_default_task():
    task = tasks.arithmetic()
    assert (len(task.train), len(task.test)) == (673, 168)
    assert task == tasks.arithmetic()
    assert task.test != tasks.arithmetic(seed=1).test
    assert [f.__name__ for f in task.reward_funcs] == ["number_found", "correct_number"]
    row = task.test[0]
    assert task.verifier(row["answer"], **row) and not task.verifier("0", **row)
    assert len(repr(task)) < 200 and "673 train, 168 test" in repr(task)


def test_chat_rows_hold_the_same_problems():
    plain, chat = tasks.arithmetic(), tasks.arithmetic(chat=True)
    for a, b in zip(plain.train + plain.test, chat.train + chat.test, strict=True):
        assert b["prompt"] == [{"role": "user", "content": a["prompt"]}]
        assert a["answer"] == b["answer"]


def test_forgotten_carry():
    assert [forgotten_carry(a, b) for a, b in [(17, 25), (5, 7), (11, 12), (29, 29), (5, 5)]] == [
        32,
        2,
        23,
        48,
        0,
    ]


def test_load_by_name_and_by_mapping():
    assert tasks.load("arithmetic") == tasks.arithmetic()
    assert tasks.load({"name": "arithmetic", "max_operand": 19}) == tasks.arithmetic(max_operand=19)
    assert tasks.load("arithmetic", seed=3) == tasks.arithmetic(seed=3)
    assert tasks.names() == ["arithmetic"]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: tasks.load("arithmetics"), "Did you mean 'arithmetic'"),
        (lambda: tasks.load("arithmetic", max_operands=19), "Did you mean 'max_operand'"),
        (lambda: tasks.load({"max_operand": 19}), "key 'name'"),
        (lambda: tasks.load(3), "task=3"),
        (lambda: tasks.arithmetic(max_operand=8), "max_operand=8"),
        (lambda: tasks.arithmetic(max_operand=29.0), "max_operand=29.0"),
        (lambda: tasks.arithmetic(max_operand=True), "max_operand=True"),
        (lambda: tasks.arithmetic(test_share=20), "not a percentage"),
        (lambda: tasks.arithmetic(test_share=0), "test_share=0"),
        (lambda: tasks.arithmetic(seed="0"), "seed='0'"),
    ],
)
def test_what_cannot_work_is_refused(make, says):
    with pytest.raises(ConfigError, match=says):
        make()
