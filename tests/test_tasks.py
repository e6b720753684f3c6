"""Tasks: arithmetic's split (disjoint up to commutation, balanced in carries), loading by name, reasoning-gym."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlkit import tasks
from rlkit.errors import ConfigError, RewardError
from rlkit.recipe import Recipe
from rlkit.tasks.arithmetic import forgotten_carry, needs_carry
from rlkit.tasks.reasoning_gym import EVALUATES_ANSWERS, pack, stated_answer, unpack


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
    assert tasks.names() == ["arithmetic", "reasoning_gym", "word_problems"]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: tasks.load("arithmetics"), "Did you mean 'arithmetic'"),
        (lambda: tasks.load("arithmetic", max_operands=19), "Did you mean 'max_operand'"),
        (lambda: tasks.load({"max_operand": 19}), "key 'name'"),
        (lambda: tasks.load(3), "task=3"),
        (lambda: tasks.load("reasoning_gym"), "needs the setting 'dataset'"),
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


@pytest.fixture
def legs():
    pytest.importorskip("reasoning_gym")
    return tasks.reasoning_gym("leg_counting", size=30, test_size=10, min_animals=1, max_animals=2)


def question(row) -> str:
    return row["prompt"] if isinstance(row["prompt"], str) else row["prompt"][-1]["content"]


def test_reasoning_gym_rows_are_plain_and_disjoint(legs):
    rows = legs.train + legs.test
    assert (len(legs.train), len(legs.test)) == (30, 10)
    assert json.loads(json.dumps(rows)) == rows == pickle.loads(pickle.dumps(rows))
    assert len({question(row) for row in rows}) == 40
    assert len({turn["content"] for row in rows for turn in row["prompt"] if turn["role"] == "user"}) == 43
    assert all(unpack(row["entry"])["question"] == question(row) for row in rows)


@pytest.mark.parametrize(
    "dataset", ["leg_counting", "spell_backward", "knights_knaves", "game_of_life", "maze"]
)
def test_reasoning_gyms_own_answers_are_right_and_others_wrong(dataset):
    pytest.importorskip("reasoning_gym")
    task = tasks.reasoning_gym(dataset, size=6, test_size=4)
    reward = task.reward_funcs[-1]
    for row in task.train + task.test:
        for said in (row["answer"], f"<answer>{row['answer']}</answer>"):
            assert task.verifier([{"role": "assistant", "content": said}], **row)
        assert not task.verifier("", **row) and not task.verifier("no idea", **row)
        assert reward(["?", "?"], [row["answer"], "no idea"], entry=[row["entry"]] * 2) == [1.0, 0.0]


def test_the_scorer_of_reasoning_gym_judges_what_has_several_right_answers():
    """Three colours for a small graph: the row holds no answer, and any proper colouring is right."""
    pytest.importorskip("reasoning_gym")
    task = tasks.reasoning_gym("graph_color", size=4, test_size=2, min_num_vertices=4, max_num_vertices=4)
    for row in task.train:
        metadata = unpack(row["entry"])["metadata"]
        colours = metadata["possible_answer"]
        assert row["answer"] == "" and all(isinstance(vertex, int) for vertex in colours)
        assert task.verifier(json.dumps({str(vertex): colour for vertex, colour in colours.items()}), **row)
        if metadata["puzzle"]["edges"]:
            assert not task.verifier(json.dumps({str(vertex): 1 for vertex in colours}), **row)


def test_reasoning_gym_is_the_same_each_time_and_another_for_another_seed(legs):
    again = tasks.reasoning_gym("leg_counting", size=30, test_size=10, min_animals=1, max_animals=2)
    assert (again.train, again.test, again.verifier) == (legs.train, legs.test, legs.verifier)
    other = tasks.reasoning_gym("leg_counting", size=30, test_size=10, seed=1, min_animals=1, max_animals=2)
    # Neighbouring seeds of the package itself have all items but one in common.
    assert len({question(r) for r in other.train} & {question(r) for r in legs.train}) < 10


def test_reasoning_gym_prompts():
    pytest.importorskip("reasoning_gym")
    settings = {"dataset": "spell_backward", "size": 3, "test_size": 2}
    bare = tasks.reasoning_gym(**settings, system_prompt=None, examples=0)
    assert [turn["role"] for turn in bare.train[0]["prompt"]] == ["user"]
    full = tasks.reasoning_gym(**settings, system_prompt="Spell.", examples=1).train[0]["prompt"]
    assert [turn["role"] for turn in full] == ["system", "user", "assistant", "user"]
    assert full[2]["content"] == full[1]["content"].rsplit(" ", 1)[1][::-1]  # the example is true
    text = tasks.reasoning_gym(**settings, chat=False, system_prompt="Spell.", examples=1).train[0]["prompt"]
    assert text.startswith("Spell.\n\nQuestion: ") and text.count("Answer:") == 2 and text.endswith("Answer:")


def test_partial_credit_is_the_scorers():
    pytest.importorskip("reasoning_gym")
    task = tasks.reasoning_gym("spell_backward", size=3, test_size=2, partial_credit=True, min_word_len=4)
    row, (right, partial) = task.train[0], task.reward_funcs
    half = row["answer"][:2]
    assert (right.__name__, partial.__name__) == ("correct_answer", "partial_credit")
    assert right(["?"], [half], entry=[row["entry"]]) == [0.0]
    assert 0 < partial(["?"], [half], entry=[row["entry"]])[0] < 1
    assert partial(["?"], [row["answer"]], entry=[row["entry"]]) == [1.0]


def test_a_recipe_can_name_a_reasoning_gym_data_set(legs):
    task = {"name": "reasoning_gym", "dataset": "leg_counting", "size": 30, "test_size": 10, "min_animals": 1}
    recipe = Recipe.from_dict({"model": "rlkit/tiny-arithmetic", "task": {**task, "max_animals": 2}})
    assert recipe.task.train == legs.train
    assert [f.__name__ for f in recipe.reward_funcs] == ["number_found", "correct_answer"]


@pytest.mark.parametrize(
    ("text", "numeric", "answer"),
    [
        ("12", True, "12"),
        ("2 * 6 = 12 legs", True, "12"),
        ("The answer is 12, not 14.\nOr 15?", True, "14"),
        ("Answer: 12 legs\n2 dogs", True, "12"),
        ("<answer>12</answer> or 13", True, "12"),
        ("<answer>11</answer><answer> 12 </answer>", True, "12"),
        ("Answer:\n12", True, "12"),
        ("−5", True, "-5"),
        ("none", True, ""),
        (" nus \n", False, "nus"),
        ("**Answer:** nus", False, "nus"),
        ("The answer is: nus\nBecause …", False, "nus"),
        ("I have no answer", False, "I have no answer"),
    ],
)
def test_what_counts_as_the_answer(text, numeric, answer):
    assert stated_answer(text, numeric) == answer


def test_items_survive_as_json():
    entry = {
        "metadata": {"pairs": [(1, 2), {3: "a"}], "seen": {4, 5}, "*": "star", "none": None, "x": [1.5, "ü"]}
    }
    assert unpack(pack(entry)) == entry
    with pytest.raises(ConfigError, match="dataset='x'.*JSON"):
        pack({"metadata": object()}, "x")
    for text in ("nonsense", "[1]", '{"*": "unheard of", "values": []}'):
        with pytest.raises(RewardError, match="tasks.reasoning_gym"):
            unpack(text)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"dataset": "leg_count"}, "Did you mean 'leg_counting'"),
        ({"dataset": 3}, "dataset=3"),
        ({"max_animal": 2}, "Did you mean 'max_animals'"),
        ({"max_animals": 2}, "max_animals must be >= min_animals"),
        ({"max_animals": "two"}, "TypeError"),
        ({"max_animals": {1, 2}}, "numbers, texts"),
        ({"size": 0}, "size=0"),
        ({"test_size": 0}, "test_size=0"),
        ({"examples": -1}, "examples=-1"),
        ({"seed": 1.5}, "seed=1.5"),
        ({"system_prompt": ""}, "system_prompt=''"),
        ({"min_animals": 1, "max_animals": 1, "max_instances": 1, "size": 90}, "hold only"),
        *(({"dataset": dataset}, "allow_eval=True") for dataset in sorted(EVALUATES_ANSWERS)),
    ],
)
def test_what_reasoning_gym_cannot_do_is_refused(wrong, says):
    pytest.importorskip("reasoning_gym")
    with pytest.raises(ConfigError, match=says):
        tasks.reasoning_gym(**{"dataset": "leg_counting", "size": 4, "test_size": 2, **wrong})


def test_without_the_package_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym.factory", None)  # what Python itself does for "not there"
    with pytest.raises(ConfigError, match=r"pip install 'rlkit-notebooks\[tasks\]'"):
        tasks.reasoning_gym("leg_counting")


def test_reasoning_gym_is_imported_late():
    code = "import sys; from rlkit import tasks; tasks.load('word_problems'); print('reasoning_gym' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip() == "False"
