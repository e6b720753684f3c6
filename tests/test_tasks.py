"""Tasks: arithmetic's split (disjoint up to commutation, balanced in carries), loading by name, reasoning-gym."""

from __future__ import annotations

import copy
import dataclasses
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
from rlkit.tasks.base import Task
from rlkit.tasks.countdown import countdown
from rlkit.tasks.from_dataset import from_dataset
from rlkit.tasks.reasoning_gym import EVALUATES_ANSWERS, pack, stated_answer, unpack
from rlkit.trainers.data import check_dataset


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
    assert all(int(row["answer"]) == sum(operands(row)) for row in task.rows("train") + task.rows("test"))
    for carry in (False, True):  # of each kind the share that was asked for, counted without order
        pairs = {frozenset(pair) for pair in everything if needs_carry(*pair) is carry}
        held_out = {frozenset(pair) for pair in test if needs_carry(*pair) is carry}
        assert abs(len(held_out) - test_share * len(pairs)) <= 0.5


def test_the_default_task():
    task = tasks.arithmetic()
    assert (len(task.train), len(task.test)) == (673, 168)
    assert task == tasks.arithmetic()
    assert task.rows("test") != tasks.arithmetic(seed=1).rows("test")
    assert [f.__name__ for f in task.reward_funcs] == ["number_found", "correct_number"]
    row = task.test[0]
    assert task.verifier(row["answer"], **row) and not task.verifier("0", **row)
    assert len(repr(task)) < 200 and "673 train, 168 test" in repr(task)


def test_chat_rows_hold_the_same_problems():
    plain, chat = tasks.arithmetic(), tasks.arithmetic(chat=True)
    for a, b in zip(
        plain.rows("train") + plain.rows("test"), chat.rows("train") + chat.rows("test"), strict=True
    ):
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
    assert tasks.names() == sorted(tasks.TASKS)
    assert {"arithmetic", "reasoning_gym", "word_problems"} <= set(tasks.names())


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
    rows = legs.rows("train") + legs.rows("test")
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
    for row in task.rows("train") + task.rows("test"):
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
    assert (again.rows(), again.rows("test"), again.verifier) == (
        legs.rows(),
        legs.rows("test"),
        legs.verifier,
    )
    assert again.fingerprint == legs.fingerprint == "81aee4cba006050b"
    assert "version 0.1.25" in legs.card and "no question on both sides" in legs.card
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
    assert recipe.task.rows() == legs.rows()
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


# --- the form that all tasks have -----------------------------------------------------------------------------------

MADE = {
    "arithmetic": lambda: tasks.arithmetic(),
    "arithmetic, chat": lambda: tasks.arithmetic(19, chat=True),
    "word_problems": lambda: tasks.word_problems(30, 10),
    "countdown": lambda: countdown(30, 10),
    "from_dataset": lambda: from_dataset([{"question": f"{i}?", "answer": f"a|`{i}`\n"} for i in range(20)]),
}


@pytest.mark.parametrize("name", MADE)
def test_sides_are_data_sets(name):
    from datasets import Dataset

    task = MADE[name]()
    for side, data in (("train", task.train), ("test", task.test)):
        assert isinstance(data, Dataset) and str(data.split) == side
        assert len(data) == task.sizes[side] > 0
        assert list(data) == task.rows(side) and data[0] == task.rows(side, 1)[0]
        assert data.column_names == task.column_names and data[:2]["prompt"] == [
            r["prompt"] for r in task.rows(side, 2)
        ]
        assert data.info.license == task.licence and data.info.description == task.description
        assert check_dataset(data) == check_dataset(task.rows(side))
    assert task.train is task.train
    assert not {str(row["prompt"]) for row in task.train} & {str(row["prompt"]) for row in task.test}


def test_what_data_sets_can_do():
    task = tasks.arithmetic()
    longer = task.train.map(lambda row: {"length": len(row["prompt"])})
    assert longer.column_names == ["prompt", "answer", "length"] and longer[0]["length"] == len(
        task.train[0]["prompt"]
    )
    assert len(task.train.filter(lambda row: row["answer"] == "42")) > 0
    assert list(task.train.select(range(3))) == task.rows("train", 3) == list(task.train.take(3))
    assert list(task.train.shuffle(seed=1)) != list(task.train)
    assert list(pickle.loads(pickle.dumps(task.train))) == list(task.train) == list(copy.deepcopy(task.train))
    assert len(task.train.train_test_split(0.5, seed=0)["test"]) == 337


def test_rows_are_copies():
    task = tasks.word_problems(10, 5)
    rows = task.rows("train")
    rows[0]["prompt"][0]["content"] = rows[1]["answer"] = "changed"
    assert task.rows("train") != rows and "changed" not in str(list(task.train))
    assert (
        task.rows() == task.rows("train")
        and len(task.rows("test", 3)) == 3
        and len(task.rows("test", 99)) == 5
    )
    assert task.rows("train", 0) == []
    with pytest.raises(ConfigError, match="unknown side of a task 'tset'"):
        task.rows("tset")
    for count in (-1, 1.5, True, "3"):
        with pytest.raises(ConfigError, match="count="):
            task.rows("train", count)


PINNED = {
    "arithmetic": "46dcec4bee90135c",
    "arithmetic, chat": "97d2cd683ddb7f4c",
    "word_problems": "627f92dd1a37521e",
    "countdown": "5764f7b35ad37f46",
    "from_dataset": "af31e65320ae0b84",
}


@pytest.mark.parametrize("name", MADE)
def test_equal_arguments_give_equal_fingerprints(name):
    task, again = MADE[name](), MADE[name]()
    assert task.fingerprint == again.fingerprint == PINNED[name]
    assert task == again and hash(task) == hash(again) and task.train._fingerprint == again.train._fingerprint
    assert task.train._fingerprint == f"{task.fingerprint}-train"


def test_fingerprints_differ_where_rows_do():
    made = [tasks.arithmetic(), tasks.arithmetic(seed=1), tasks.arithmetic(chat=True), tasks.arithmetic(28)]
    made += [
        dataclasses.replace(made[0], train=made[0].test, test=made[0].train),
        dataclasses.replace(made[0], name="x"),
    ]
    assert len({task.fingerprint for task in made}) == len(set(made)) == 6
    rows = [{"prompt": "1", "b": 2}, {"b": 3, "prompt": "4"}]  # the order of columns is no difference
    assert plain(rows).fingerprint == plain([{"b": 2, "prompt": "1"}, {"prompt": "4", "b": 3}]).fingerprint
    assert plain(rows) != plain(rows[::-1])


def plain(train, test=(), **settings) -> Task:
    return Task("plain", train, list(test), None, (), **settings)


def test_tasks_are_frozen_and_can_be_copied():
    task = tasks.arithmetic()
    with pytest.raises(dataclasses.FrozenInstanceError):
        task.train = []
    for twin in (
        copy.copy(task),
        copy.deepcopy(task),
        dataclasses.replace(task),
        pickle.loads(pickle.dumps(task)),
    ):
        assert twin == task and twin.rows() == task.rows() and twin.verifier("42", answer="42")
    assert task != "arithmetic"


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ("rows", "train='rows'"),
        ({"prompt": ["a"]}, "a list of rows"),
        (None, "train=None"),
        (["a"], "row 0 of train is 'a'"),
        ([{"prompt": "a"}, {"question": "b"}], "row 1 of train.*with a 'prompt'"),
        (
            [{"prompt": "a"}, {"prompt": "b", "answer": "1"}],
            r"row 1 of train has the columns \['answer', 'prompt'\]",
        ),
    ],
)
def test_rows_that_are_none(rows, says):
    with pytest.raises(ConfigError, match=says):
        plain(rows)


def test_a_column_of_two_kinds_is_named():
    task = plain([{"prompt": "a", "n": 1, "answer": "x"}, {"prompt": "b", "n": "two", "answer": "y"}])
    assert task.rows("train", 1) == [{"prompt": "a", "n": 1, "answer": "x"}]
    with pytest.raises(ConfigError, match="train cannot become a datasets.Dataset: the column 'n' mixes"):
        _ = task.train
    with pytest.raises(ConfigError, match="the column 'n' mixes"):
        _ = plain([{"prompt": "a", "n": 2**70}]).train


def test_sides_may_be_empty_or_data_sets():
    assert (
        plain([]).sizes == {"train": 0, "test": 0}
        and plain([]).column_names == []
        and len(plain([]).train) == 0
    )
    assert "plain" in plain([]).card and "0 train" in repr(plain([]))
    task = tasks.arithmetic()
    assert plain(task.train).rows() == task.rows()


@pytest.mark.parametrize("name", MADE)
def test_cards(name):
    from markdown_it import MarkdownIt

    task = MADE[name]()
    card = task._repr_markdown_()
    assert card == task.card
    tokens = MarkdownIt("commonmark").enable("table").parse(card)
    headings = [tokens[i + 1].content for i, token in enumerate(tokens) if token.type == "heading_open"]
    assert headings[:3] == [f"Task {task.name}", "Columns", "How an answer is judged"]
    assert ("Known weaknesses" in headings) == bool(task.weaknesses)
    cells = [tokens[i + 1] for i, token in enumerate(tokens) if token.type == "td_open"]
    splits, columns = cells[:4], cells[4:]
    assert [cell.content for cell in splits] == ["train", str(len(task.train)), "test", str(len(task.test))]
    assert [cell.children[0].content for cell in columns[::3]] == task.column_names
    for cell, value in zip(columns[2::3], task.rows("train", 1)[0].values(), strict=True):  # the examples
        (code,) = cell.children
        assert code.type == "code_inline"
        assert isinstance(value, list) or code.content == json.dumps(value, ensure_ascii=False)
    for said in (task.fingerprint, task.licence or "not stated", "Rewards to start with", task.source):
        assert said in card


def test_examples_in_cards_are_short():
    task = plain([{"prompt": "word " * 500, "entry": "{" + "x" * 5000 + "}"}], licence="MIT")
    assert len(task.card) < 1500 and "…" in task.card and "**Licence:** MIT" in task.card


def test_datasets_and_pandas_are_imported_when_a_side_is_read():
    code = (
        "import sys\nfrom rlkit import tasks\nfrom rlkit.tasks.countdown import countdown\n"
        "import rlkit.tasks.gsm8k, rlkit.tasks.from_dataset\n"
        "task = tasks.arithmetic()\n"
        "repr(task), task.card, task.rows(), task.sizes, task == countdown(5, 2), hash(task)\n"
        "loaded = [sorted({'datasets', 'pandas', 'pyarrow'} & set(sys.modules))]\n"
        "task.test\nloaded.append('datasets' in sys.modules)\nprint(loaded)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip() == "[[], True]"
