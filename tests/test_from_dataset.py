"""A task from one's own data: every kind of source, a split that stays, verifiers, and errors that say which row."""

from __future__ import annotations

import csv
import hashlib
import json
import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlkit import rewards
from rlkit.config import ConfigWarning
from rlkit.errors import ConfigError
from rlkit.rewards.answers import FUNCTIONS, GOLDEN, correct_text, stated_answer, verify_text
from rlkit.tasks.base import Task
from rlkit.tasks.from_dataset import deal, from_dataset
from rlkit.trainers.data import check_dataset
from rlkit.trainers.scoring import check_columns, probe_reward_functions

ROWS = [{"question": f"{i}+{i}=", "answer": str(2 * i), "level": i % 3} for i in range(50)]


def prompts(task: Task) -> dict[str, list]:
    return {side: [row["prompt"] for row in task.rows(side)] for side in ("train", "test")}


# --- sources ---------------------------------------------------------------------------------------------------------


def sources(folder: Path) -> dict[str, object]:
    """The same rows in every form that is taken."""
    import pandas
    from datasets import Dataset, DatasetDict
    from pyarrow import Table, parquet

    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)) + "\n\n")
    (folder / "rows.ndjson").write_text("\r\n".join(map(json.dumps, ROWS)))
    (folder / "lines.json").write_text("\n".join(map(json.dumps, ROWS)))
    (folder / "rows.json").write_text(json.dumps(ROWS, indent=1))
    (folder / "marked.json").write_text("\ufeff" + json.dumps(ROWS))
    (folder / "one_key.json").write_text(json.dumps({"data": ROWS}))
    columns = {name: [row[name] for row in ROWS] for name in ROWS[0]}
    (folder / "columns.json").write_text(json.dumps(columns))
    parquet.write_table(Table.from_pylist(ROWS), folder / "rows.parquet")
    files = (
        "rows.jsonl",
        "rows.ndjson",
        "lines.json",
        "rows.json",
        "marked.json",
        "one_key.json",
        "columns.json",
    )
    return {
        **{name: str(folder / name) for name in files},
        "a path": folder / "rows.parquet",
        "pandas": pandas.DataFrame(ROWS),
        "a list": ROWS,
        "a tuple": tuple(ROWS),
        "a dict of columns": columns,
        "a dict of one list": {"train": ROWS},
        "a data set": Dataset.from_list(ROWS),
        "a dict of data sets": DatasetDict({"train": Dataset.from_list(ROWS)}),
        "a dict of DataFrames": {"train": pandas.DataFrame(ROWS)},
    }


def test_every_source_gives_the_same_rows(tmp_path):
    tasks = {name: from_dataset(source) for name, source in sources(tmp_path).items()}
    expected = tasks["a list"]
    assert expected.column_names == ["prompt", "answer", "level"]
    assert len(expected.train) + len(expected.test) == 50
    for name, task in tasks.items():
        assert (task.rows(), task.rows("test")) == (expected.rows(), expected.rows("test")), name
    assert tasks["rows.json"].name == "from_dataset/rows" and expected.name == "from_dataset"
    assert "rows.json" in tasks["rows.json"].card and str(tmp_path) not in tasks["rows.json"].card
    assert expected.fingerprint == from_dataset(ROWS).fingerprint == "4e2e0c921bf52c3a"


@pytest.mark.parametrize(
    ("name", "separator"), [("a.csv", ","), ("a.csv", ";"), ("a.csv", "\t"), ("a.tsv", "\t")]
)
def test_csv_values_stay_text(tmp_path, name, separator):
    """A byte-order mark, quoted separators and line breaks, a blank line, words that some readers take as missing."""
    header = ["question", "answer", "note"]
    rows = [["What is 1,5+1,5; in words?", "007", ""], ["Two\nlines", "1e3", "NA"], ["tab\there", "None", ""]]
    with (tmp_path / name).open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file, delimiter=separator)
        writer.writerows([header, rows[0], [], *rows[1:]])
    task = from_dataset(tmp_path / name, test_size=1)
    read = [[row["prompt"], row["answer"], row["note"]] for row in [*task.train, *task.test]]
    assert sorted(read) == sorted(rows)


def test_what_pandas_calls_missing_is_none():
    import numpy
    import pandas

    table = pandas.DataFrame({"question": ["a", "b", "c"], "answer": ["x", "y", "z"], "n": [1, None, 3]})
    table["list"] = [numpy.array([1, 2])] * 3
    table["when"] = pandas.to_datetime(["2024-01-01", None, "2024-01-03"])
    rows = {
        row["prompt"]: row
        for side in ("train", "test")
        for row in from_dataset(table, test_size=1).rows(side)
    }
    assert rows["b"]["n"] is None and rows["b"]["when"] is None and rows["a"]["list"] == [1, 2]
    table.loc[1, "question"] = None
    with pytest.raises(ConfigError, match=r"'question' is empty in 1 of 3 rows.*: 1\."):
        from_dataset(table)


def test_a_test_split_of_its_own_is_kept():
    task = from_dataset({"test": ROWS[40:], "train": ROWS[:40], "extra": ROWS[:5]})
    assert prompts(task) == {
        "train": [row["question"] for row in ROWS[:40]],
        "test": [row["question"] for row in ROWS[40:]],
    }
    assert task.seed is None and "Seed" not in task.card
    validation = from_dataset({"train": ROWS[:40], "validation": ROWS[40:]})
    assert (validation.rows(), validation.rows("test")) == (task.rows(), task.rows("test"))


def test_one_split_can_be_chosen():
    sides = {"train": ROWS[:30], "test": ROWS[30:]}
    task = from_dataset(sides, split="train", test_size=5)
    assert task.sizes == {"train": 25, "test": 5} and task.seed == 0
    with pytest.raises(ConfigError, match="unknown split.*'tset'. Did you mean 'test'"):
        from_dataset(sides, split="tset")
    with pytest.raises(ConfigError, match="it has no splits"):
        from_dataset(ROWS, split="train")
    with pytest.raises(ConfigError, match="one of 'a', 'b'"):
        from_dataset({"a": ROWS[:30], "b": ROWS[30:]})


def test_prompts_on_both_sides_are_taken_out_of_train():
    train = [*ROWS[:20], {"question": "  31+31=\n", "answer": "62", "level": 0}, ROWS[30]]
    with pytest.warns(ConfigWarning, match="2 rows of train are left out: their prompts are in 'test' too"):
        task = from_dataset({"train": train, "test": ROWS[30:]})
    assert task.sizes == {"train": 20, "test": 20} and "2 rows of train are left out" in task.card
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        from_dataset({"train": ROWS[:20], "test": ROWS[30:]})
    with pytest.raises(ConfigError, match="nothing is left to train on"):
        from_dataset({"train": ROWS[:3], "test": ROWS})


# --- the split -------------------------------------------------------------------------------------------------------

KEYS = st.lists(st.text(max_size=6), min_size=2, max_size=60).filter(lambda keys: len(set(keys)) > 1)


@given(KEYS, st.floats(0.01, 0.9), st.integers(-5, 5))
def test_the_prompt_alone_decides_the_side(keys, share, seed):
    """Not its position, nor what else is there: so rows may come, go and move."""

    def place(key: str) -> float:
        return int(hashlib.sha256(f"{seed}/{key}".encode()).hexdigest()[:16], 16) / 2**64

    expected, sides = [place(key) < share for key in keys], deal(keys, share, seed)
    assert any(sides) and not all(sides)
    if any(expected) and not all(expected):
        assert sides == expected
    assert deal(keys[::-1], share, seed) == sides[::-1]


@given(KEYS, st.integers(1, 10), st.integers(-5, 5))
def test_a_number_of_prompts_is_met_exactly(keys, count, seed):
    if count >= len(set(keys)):
        with pytest.raises(ConfigError, match=f"test_size={count} cannot be taken from {len(set(keys))}"):
            deal(keys, count, seed)
        return
    sides = dict(zip(keys, deal(keys, count, seed), strict=True))
    assert sum(sides.values()) == count
    assert deal(keys, count, seed) == [sides[key] for key in keys]  # the same prompt on one side


def test_a_share_is_met_on_average():
    keys = [f"question {i}" for i in range(20_000)]
    for share in (0.01, 0.2, 0.9):
        got = sum(deal(keys, share, 0)) / len(keys)
        assert abs(got - share) < 4 * (share * (1 - share) / len(keys)) ** 0.5
    assert deal(keys, 0.2, 0) != deal(keys, 0.2, 1)


def test_a_growing_data_set_keeps_its_split():
    before, after = from_dataset(ROWS[:40]), from_dataset(list(reversed(ROWS)))
    assert set(prompts(before)["train"]) < set(prompts(after)["train"])
    assert set(prompts(before)["test"]) <= set(prompts(after)["test"])
    worded = from_dataset(ROWS, chat=True, system_prompt="Add.")  # the wording around it does not matter
    assert [row["answer"] for row in worded.test] == [row["answer"] for row in from_dataset(ROWS).test]


def test_the_same_prompt_stays_on_one_side_and_the_card_says_so():
    rows = [
        {"question": word, "answer": str(i)}
        for i in range(4)
        for word in ("One?", "one?\n", "two?", "Three?")
    ]
    task = from_dataset(rows, test_size=1)
    sides = [{row["prompt"].casefold().strip() for row in task.rows(side)} for side in ("train", "test")]
    assert not sides[0] & sides[1] and len(sides[0] | sides[1]) == 3
    assert "13 rows repeat the prompt of another one; 3 prompts have more than one answer" in task.card


def test_neither_side_is_empty():
    for share in (0.01, 0.9):
        task = from_dataset(ROWS[:2], test_size=share)
        assert task.sizes == {"train": 1, "test": 1}


# --- prompts ---------------------------------------------------------------------------------------------------------


def test_prompts_in_every_form():
    def first(**settings):
        return from_dataset(ROWS[:2], test_size=1, **settings).train[0]["prompt"]

    text = first()
    assert first(system_prompt="Add.") == f"Add.\n\n{text}"
    assert first(chat=True) == [{"role": "user", "content": text}]
    system = {"role": "system", "content": "Add."}
    assert first(chat=True, system_prompt="Add.") == [system, {"role": "user", "content": text}]


def test_messages_stay_messages():
    own = {"role": "system", "content": "Own."}
    rows = [{"chat": [{"role": "user", "content": f"{i}?"}], "answer": str(i)} for i in range(3)]
    rows += [{"chat": [own, {"role": "user", "content": "7?"}], "answer": "7"}]
    task = from_dataset(rows, prompt="chat", system_prompt="Add.", test_size=1)
    heads = [row["prompt"][0] for row in task.rows("train") + task.rows("test")]
    assert all(head["role"] == "system" for head in heads)
    assert sorted(head["content"] for head in heads) == ["Add.", "Add.", "Add.", "Own."]
    assert rows[0]["chat"] == [{"role": "user", "content": "0?"}]  # the source is left as it was


def test_map_changes_and_leaves_out():
    def change(row):
        return (
            None
            if row["level"] == 0
            else {"q": f"{row['question']}?", "a": int(row["answer"]), "twice": row["level"] * 2}
        )

    task = from_dataset(ROWS, prompt="q", answer="a", map=change)
    assert sum(task.sizes.values()) == 33 and task.column_names == ["prompt", "answer", "twice"]
    assert all(isinstance(row["answer"], int) for row in task.train)
    assert "level" in ROWS[0]


# --- verifiers and rewards -------------------------------------------------------------------------------------------


def made(answers, **settings) -> Task:
    rows = [{"question": f"q{i}", "answer": answer} for i, answer in enumerate(answers)]
    return from_dataset(rows, test_size=1, **settings)


@pytest.mark.parametrize(
    ("answers", "names"),
    [
        (["1", " 2.5", "-3"], ["number_found", "correct_number"]),
        ([1, 2, 3], ["number_found", "correct_number"]),
        ([1, 2.5, "3"], ["number_found", "correct_number"]),
        (["so 1+1\n#### 2", "#### 1,200", "3"], ["number_found", "correct_number"]),
        (["1", "two", "3"], ["correct_text"]),
        (["Paris", "Rome", "Oslo"], ["correct_text"]),
        (["1/2", "1/3", "2/3"], ["correct_text"]),
        ([True, False, True], ["correct_text"]),
    ],
)
def test_the_answers_choose_the_verifier(answers, names):
    task = made(answers)
    assert [reward.__name__ for reward in task.reward_funcs] == names
    for row in [*task.train, *task.test]:
        assert task.verifier(f"The answer is {row['answer']}.", **row)
        assert not task.verifier("Madrid, or 99", **row)


def test_verifiers_by_name_and_as_functions():
    assert made(["so 7", "so 8"], verifier="number").verifier("7, I think: 7", answer="so 7")
    assert not made(["7", "8"], verifier="text").verifier("I say 7", answer="7")
    by_reward = made(["7", "8"], verifier="correct_number")
    assert [reward.__name__ for reward in by_reward.reward_funcs] == ["correct_number"]

    def near(completion: str, answer: str, tolerance: int = 1) -> bool:
        return abs(int(completion) - int(answer)) <= tolerance

    task = made(["7", "8"], verifier=near)
    assert task.verifier("8", answer="7", level=3, prompt="q") and not task.verifier("9", answer="7")
    assert [reward.__name__ for reward in task.reward_funcs] == ["near"] and "`near`" in task.card
    assert task.reward_funcs[0](["q", "q"], ["8", "9"], answer=["7", "7"]) == [1.0, 0.0]


def test_rewards_that_are_given():
    def short(prompts, completions, **columns):
        return [-float(len(text)) for text in completions]

    alone = made(["7", "8"], reward_funcs=short)
    assert alone.reward_funcs == (short,) and alone.verifier("7", answer="7")  # chosen by the answers
    named = made(["7", "8"], reward_funcs=["correct_number", {"name": "xml_format", "tags": ["a"]}, short])
    assert [reward.__name__ for reward in named.reward_funcs] == ["correct_number", "xml_format_a", "short"]
    assert named.verifier is rewards.correct_number.verifier
    unjudged = from_dataset(ROWS, answer=None, reward_funcs=short)
    assert unjudged.verifier is None and unjudged.column_names == ["prompt", "answer", "level"]
    assert "no accuracy is reported" in unjudged.card
    assert made([["a"], ["b"]], reward_funcs=short).verifier is None


def test_a_trainer_can_use_it():
    task = from_dataset(ROWS, chat=True)
    rows = check_dataset(task.train)
    assert rows == task.rows("train")
    check_columns(task.reward_funcs, list(rows[0]))
    probe_reward_functions(task.reward_funcs, rows, task.verifier)


# --- answers in words ------------------------------------------------------------------------------------------------


def test_golden_set_of_correct_text():
    for name, golden in GOLDEN.items():

        def score(example, reward=FUNCTIONS[name]):
            columns = {column: [value] for column, value in example.columns.items()}
            return reward([example.prompt], [example.completion], **columns)[0]

        assert min(len(part) for part in (golden.right, golden.wrong, golden.exploits)) >= 5
        assert {score(example) for example in golden.right} == {1.0}
        for example in (*golden.wrong, *golden.exploits):
            assert score(example) == 0.0, example.note


@given(st.text() | st.text(alphabet="<answer>/: is\n*.'", max_size=200), st.text(max_size=5))
def test_words_are_judged_without_raising(text, answer):
    message = [{"role": "assistant", "content": text}]
    one, other = correct_text(["", ""], [text, message], answer=[answer, answer])
    assert one == other and one in (0.0, 1.0)
    assert not verify_text("", answer) and not verify_text("None", None)
    if answer.strip() and "answer" not in answer.casefold():
        assert verify_text(f"The answer is: {answer.split()[0]}", answer.split()[0])


def test_long_texts_are_read_at_once():
    for text in (
        "<answer>" * 20_000,
        "answer" + " " * 100_000,
        "answer: " * 20_000,
        "</answer>" * 20_000,
        "answer\n" * 20_000,
    ):
        assert not verify_text(text, "42")
        assert stated_answer(f"{text}\n<answer>42</answer>") == "42"


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"prompt": "questoin"}, "column for prompt: 'questoin'. Did you mean 'question'"),
        (
            {"answer": "solution"},
            "column for answer: 'solution'.*Known: answer, level, question.*answer=None",
        ),
        ({"prompt": "answer"}, "prompt='answer'.*another one than"),
        ({"prompt": None}, "prompt=None"),
        ({"answer": None}, "verifier=None.*Nothing would tell"),
        ({"answer": None, "verifier": "number"}, "verifier='number'.*answer=None"),
        ({"answer": "level", "verifier": "text"}, "answer='level'.*The data set has both"),
        ({"verifier": "corect_number"}, "Did you mean 'correct_number'"),
        ({"verifier": "number_found"}, "verifier='number_found'.*reward_funcs"),
        ({"verifier": 3}, "verifier=3"),
        ({"verifier": lambda prompts, completions: [1.0]}, "as reward functions do"),
        ({"reward_funcs": []}, "at least one reward function"),
        ({"reward_funcs": 3}, "reward_funcs=3"),
        ({"test_size": 0}, "test_size=0 "),
        ({"test_size": 1.0}, "test_size=1.0"),
        ({"test_size": True}, "test_size=True"),
        ({"test_size": "0.2"}, "test_size='0.2'"),
        ({"test_size": 50}, "test_size=50 cannot be taken from 50"),
        ({"seed": None}, "seed=None"),
        ({"system_prompt": ""}, "system_prompt=''"),
        ({"map": "upper"}, "map='upper'"),
        ({"map": lambda row: row["no such"]}, r"map raised KeyError: 'no such' \(for row 0"),
        ({"map": lambda row: 3}, "map returned 3 for row 0"),
        ({"map": lambda row: None}, "map left all of them out"),
    ],
)
def test_settings_that_cannot_work(settings, says):
    with pytest.raises(ConfigError, match=says):
        from_dataset(ROWS, **settings)


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        (
            "question",
            "",
            r"column 'question' is empty in 2 of 6 rows of the data set, counted from 0: 1, 4\. .*map=",
        ),
        ("question", " \n", "is empty in 2 of 6 rows"),
        ("question", None, "is empty in 2 of 6 rows"),
        ("question", [], "is empty in 2 of 6 rows"),
        ("question", [{"role": "user", "content": ""}], "is empty in 2 of 6 rows"),
        ("answer", None, "column 'answer' is empty in 2 of 6 rows"),
        ("question", 7, "the prompt of row 1 of the data set is 7; allowed: text"),
        ("question", [{"text": "hm"}], "the prompt of row 1"),
        ("answer", ["a"], r"One of the answers is \['a'\]"),
    ],
)
def test_rows_that_cannot_work_are_named(column, value, says):
    rows = [{**row, **({column: value} if i in (1, 4) else {})} for i, row in enumerate(ROWS[:6])]
    with pytest.raises(ConfigError, match=says):
        from_dataset(rows)


def test_rows_that_lack_a_column_are_named():
    rows = [{"question": "a", "answer": "x"}, {"answer": "y"}, {"question": "c", "answer": "z"}]
    with pytest.raises(ConfigError, match="'question' is empty in 1 of 3 rows.*: 1"):
        from_dataset(rows)
    more = [{"question": "a", "answer": "x"}, {"question": "b", "answer": "y", "hint": "h"}]
    task = from_dataset(more, test_size=1)
    assert {row["prompt"]: row["hint"] for row in [*task.train, *task.test]} == {"a": None, "b": "h"}


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        (
            "a.csv",
            "question,answer\nq,1\nq,2,3\n",
            "line 3 of a.csv has another number of fields than the header's 2",
        ),
        ("a.csv", "question,answer\nq\n", "line 2 of a.csv"),
        ("a.csv", 'question,answer\n"q,1\n', "a.csv cannot be read as .csv: Error"),
        ("a.csv", "", "has no rows"),
        ("a.csv", "question,answer\n", "has no rows"),
        ("a.csv", b"question\n\xff\xfe", "UnicodeDecodeError"),
        ("a.jsonl", '{"question": "q"}\n{oops}\n', "line 2 of a.jsonl is no JSON"),
        ("a.jsonl", "[1]\n", r"row 0 of a.jsonl is \[1\]"),
        ("a.json", "[1, 2]", "row 0 of a.json is 1"),
        ("a.json", "[1, 2", "a.json cannot be read as .json: JSONDecodeError"),
        (
            "a.json",
            '{"question": ["a"], "answer": ["b", "c"]}',
            "different lengths: {'question': 1, 'answer': 2}",
        ),
        ("a.parquet", "PAR1", "a.parquet cannot be read as .parquet"),
        ("a.txt", "q", "a.txt.*a file that ends in .csv"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=says):
        from_dataset(tmp_path / name)


def test_sources_that_are_none(tmp_path):
    import pandas
    from datasets import Dataset

    for source, says in (
        (str(tmp_path / "missing.csv"), "missing.csv.*There is no such file here"),
        (tmp_path, "It is a folder"),
        ("questions", "There is no such file here"),
        ("x" * 5000, "There is no such file here"),
        (3, "int 3"),
        (None, "NoneType None"),
        ([1, 2], r"list \[1, 2\]"),
        ({"a": 1}, "A dict holds lists"),
        ({}, "A dict holds lists"),
        (pandas.Series(["a"]), "Series"),
        ((row for row in ROWS), "It has no length"),
        (Dataset.from_list(ROWS).to_iterable_dataset(), "It has no length"),
    ):
        with pytest.raises(ConfigError, match=says):
            from_dataset(source)


def test_the_hub_out_of_reach_is_said_at_once():
    """No test may reach the Hub: conftest.py sets HF_HUB_OFFLINE."""
    with pytest.raises(ConfigError, match="'somebody/questions' cannot be loaded.*HF_HUB_OFFLINE is set"):
        from_dataset("somebody/questions:main")
