"""Prompts: what is refused before anything starts, and the order in which rows are dealt."""

from __future__ import annotations

from collections import Counter, UserDict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlkit import tasks
from rlkit.errors import ConfigError
from rlkit.trainers.data import PromptOrder, check_dataset, check_lengths, check_tokenizer

TINY = "rlkit/tiny-arithmetic"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from rlkit import load_model

    return load_model(TINY)[1]


# --- data sets --------------------------------------------------------------------------------------------

USER = {"role": "user", "content": "1+1="}

REFUSED: list[tuple[str, Any, list[str]]] = [
    ("nothing", None, ["must be a list of dicts", "'prompt' column", "not None"]),
    ("a file's name", "data/train.jsonl", ["not 'data/train.jsonl'", "Read the file first", "load_dataset"]),
    ("a path", Path("train.jsonl"), ["train.jsonl", "Read the file first"]),
    ("a generator", (row for row in [{"prompt": "1+1="}]), ["generator", "no length", "list(…)"]),
    ("a number", 3, ["not 3"]),
    ("columns", {"prompt": ["1+1="]}, ["'prompt': ['1+1=']", "datasets.Dataset.from_dict"]),
    ("a set", {"1+1="}, ["set", "make a list of it"]),
    ("empty", [], ["has no rows", "filtered to nothing"]),
    ("strings", ["1+1=", "2+2="], ["row 0", "'1+1='", "must be a dict with a 'prompt'"]),
    ("numbers", [1, 2], ["row 0", "1 (type int)", "must be a dict"]),
    ("None rows", [None], ["row 0", "None", "must be a dict"]),
    ("bare conversations", [[USER], [USER]], ["row 0", "type list", "must be a dict"]),
    ("a bad row far down", [{"prompt": "1+1="}] * 9 + ["2+2="], ["row 9", "'2+2='"]),
    (
        "no prompts",
        [{"question": "1+1=", "answer": "2"}],
        ["row 0", "no 'prompt'", "found: question, answer", 'question column renamed to "prompt"'],
    ),
    ("rows without columns", [{}], ["row 0", "no 'prompt'"]),
    (
        "different columns",
        [{"prompt": "1+1=", "answer": "2"}, {"prompt": "2+2="}],
        ["row 1", "['prompt']", "row 0 has ['answer', 'prompt']", "same columns"],
    ),
    ("an empty prompt", [{"prompt": "1+1="}, {"prompt": ""}], ["prompt of row 1", "empty", "remove the row"]),
    ("a blank prompt", [{"prompt": " \n\t"}], ["prompt of row 0", "empty"]),
    ("no messages", [{"prompt": []}], ["prompt of row 0", "empty"]),
    ("a blank message", [{"prompt": [{"role": "user", "content": " "}]}], ["prompt of row 0", "empty"]),
    ("a None prompt", [{"prompt": None}], ["prompt of row 0", "None", "a string, or a list of messages"]),
    ("a number as prompt", [{"prompt": 17}], ["prompt of row 0", "17", "a string, or a list of messages"]),
    ("strings as messages", [{"prompt": ["1+1="]}], ["prompt of row 0", "'role' and 'content'"]),
    (
        "a message without a role",
        [{"prompt": [{"content": "1+1="}]}],
        ["prompt of row 0", "'role' and 'content'"],
    ),
    (
        "a column that the trainer gives",
        [{"prompt": "1+1=", "completions": "2"}],
        ["column 'completions'", "reward functions get", "Rename"],
    ),
]


@pytest.mark.parametrize(
    ("dataset", "says"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED]
)
def test_refused_with_row_and_cause(dataset: Any, says: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        check_dataset(dataset, "val_set")
    for part in ["val_set", *says]:
        assert part in str(caught.value)


def test_an_error_about_a_large_thing_stays_short() -> None:
    with pytest.raises(ConfigError) as caught:
        check_dataset({"prompt": ["1+1="] * 10_000})
    assert len(str(caught.value)) < 400


def test_rows_are_copies_and_keep_their_columns() -> None:
    given_rows = [{"prompt": "1+1=", "answer": "2", "level": 1}, UserDict(prompt=[USER], answer="2", level=2)]
    rows = check_dataset(given_rows)
    assert rows == [dict(row) for row in given_rows]
    rows[0]["prompt"] = "changed"
    assert given_rows[0]["prompt"] == "1+1="
    assert check_dataset(tuple(given_rows)) == [dict(row) for row in given_rows]


def test_hugging_face_data_sets() -> None:
    datasets = pytest.importorskip("datasets")
    task = tasks.arithmetic(chat=True)
    table = datasets.Dataset.from_list(task.train)
    assert check_dataset(table) == task.rows()
    with pytest.raises(ConfigError, match=r"Choose one of its splits: 'train', 'test'"):
        check_dataset(datasets.DatasetDict({"train": table, "test": table}))
    with pytest.raises(ConfigError, match=r"no length; make a list"):
        check_dataset(table.to_iterable_dataset())
    with pytest.raises(ConfigError, match=r"found: question, answer"):
        check_dataset(table.rename_column("prompt", "question"))
    with pytest.raises(ConfigError, match=r"has no rows"):
        check_dataset(table.filter(lambda row: False))


def test_tables_of_pandas() -> None:
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(tasks.arithmetic().train)
    with pytest.raises(ConfigError, match=r"\.to_dict\('records'\)"):
        check_dataset(table)
    assert check_dataset(table.to_dict("records")) == tasks.arithmetic().rows()


# --- lengths and tokenizers -------------------------------------------------------------------------------


@pytest.mark.parametrize("room", [1, 7, 100])
def test_a_prompt_must_leave_room_for_the_answer(tokenizer: Any, room: int) -> None:
    rows = [{"prompt": "1+1="}, {"prompt": "+".join(["17"] * 30) + "="}, {"prompt": "2+2="}]
    longest = len(tokenizer(rows[1]["prompt"])["input_ids"])
    assert check_lengths(rows, tokenizer, room, longest + room, "val_set") == longest
    assert check_lengths(rows, tokenizer, room, None, "val_set") == longest
    with pytest.raises(ConfigError) as caught:
        check_lengths(rows, tokenizer, room, longest + room - 1, "val_set")
    for part in (
        "row 1 of val_set",
        f"has {longest} tokens",
        f"max_completion_length={room}",
        f"exceeds the model's {longest + room - 1}",
        "Shorten or drop",
        "max_seq_length",
    ):
        assert part in str(caught.value)


def test_the_chat_template_counts(tokenizer: Any) -> None:
    plain, chat = ([task.train[0]] for task in (tasks.arithmetic(), tasks.arithmetic(chat=True)))
    rendered = tokenizer.apply_chat_template(chat[0]["prompt"], add_generation_prompt=True, tokenize=False)
    tokens = tokenizer(rendered, add_special_tokens=False)["input_ids"]
    assert check_lengths(chat, tokenizer, 1, None, "val_set") == len(tokens)
    assert check_lengths(plain, tokenizer, 1, None, "val_set") == len(
        tokenizer(plain[0]["prompt"])["input_ids"]
    )


def test_what_the_chat_template_refuses_is_said_with_its_row(tokenizer: Any) -> None:
    import copy

    strict = copy.deepcopy(tokenizer)
    strict.chat_template = (
        "{% for m in messages %}{% if m['role'] != 'user' %}{{ raise_exception('no system messages, please') }}"
        "{% endif %}{{ m['content'] }}{% endfor %}"
    )
    rows = [{"prompt": [USER]}, {"prompt": [{"role": "system", "content": "Add."}, USER]}]
    with pytest.raises(
        ConfigError, match=r"row 1 of val_set.*no system messages, please.*differ in the roles"
    ):
        check_lengths(rows, strict, 4, None, "val_set")
    strict.chat_template = None
    with pytest.raises(ConfigError, match=r"row 0 of val_set.*chat.template"):
        check_lengths(rows, strict, 4, None, "val_set")


@pytest.mark.parametrize("wrong", [None, "rlkit/tiny-arithmetic", object(), len])
def test_what_is_no_tokenizer(wrong: Any) -> None:
    with pytest.raises(ConfigError, match=r"processing_class is .*model, tokenizer = load_model"):
        check_lengths([{"prompt": "1+1="}], wrong, 4, None, "train_dataset")


def test_a_tokenizer_that_cannot_pad(tokenizer: Any) -> None:
    import copy

    bare = copy.deepcopy(tokenizer)
    bare.pad_token = None
    with pytest.raises(ConfigError, match=r"no pad token.*load_model.*pad_token = tokenizer\.eos_token"):
        check_tokenizer(bare)
    check_tokenizer(tokenizer)


# --- the order of rows ------------------------------------------------------------------------------------

ROWS = st.integers(1, 60)
SEEDS = st.integers(-(10**12), 10**12)
TAKES = st.lists(st.integers(1, 50), min_size=1, max_size=12)


def dealt(order: PromptOrder, takes: list[int]) -> list[int]:
    return [row for count in takes for row in order.take(count)]


@given(ROWS, SEEDS, st.booleans(), TAKES)
def test_no_row_twice_within_an_epoch_and_none_left_out(
    num_rows: int, seed: int, shuffle: bool, takes: list[int]
) -> None:
    order = PromptOrder(num_rows, seed, shuffle)
    rows = dealt(order, takes)
    assert len(rows) == sum(takes) == order.position
    assert order.epoch == sum(takes) / num_rows
    for start in range(0, len(rows), num_rows):
        epoch = rows[start : start + num_rows]
        assert max(Counter(epoch).values()) == 1
        if len(epoch) == num_rows:
            assert sorted(epoch) == list(range(num_rows))
        if not shuffle:
            assert epoch == list(range(len(epoch)))


@given(ROWS, SEEDS, TAKES)
def test_the_seed_alone_decides_not_how_rows_are_taken(num_rows: int, seed: int, takes: list[int]) -> None:
    at_once = PromptOrder(num_rows, seed, shuffle=True).take(sum(takes))
    assert dealt(PromptOrder(num_rows, seed, shuffle=True), takes) == at_once


@given(ROWS, SEEDS, TAKES, TAKES)
def test_a_position_resumes_exactly(num_rows: int, seed: int, before: list[int], after: list[int]) -> None:
    whole = PromptOrder(num_rows, seed, shuffle=True)
    dealt(whole, before)
    resumed = PromptOrder(num_rows, seed, shuffle=True)
    resumed.position = whole.position
    assert dealt(resumed, after) == dealt(whole, after)
    whole.position = 0  # and back
    assert dealt(whole, before) == dealt(PromptOrder(num_rows, seed, shuffle=True), before)


@given(st.integers(20, 60), SEEDS, SEEDS)
def test_seeds_and_epochs_differ(num_rows: int, seed: int, other: int) -> None:
    # 20! orders: two that agree by chance will not be met
    order = PromptOrder(num_rows, seed, shuffle=True)
    first, second = order.take(num_rows), order.take(num_rows)
    assert first != second
    if seed != other:
        assert PromptOrder(num_rows, other, shuffle=True).take(num_rows) != first


def test_the_order_is_the_same_on_every_machine() -> None:
    """Python's own generator, seeded with text: no platform, no library and no PYTHONHASHSEED has a say."""
    assert PromptOrder(8, seed=42, shuffle=True).take(12) == [1, 2, 5, 7, 6, 0, 3, 4, 4, 0, 7, 1]
