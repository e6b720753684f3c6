"""GSM8K: how its rows are read, where it comes from, and what stands in for it without a network."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import pytest

from rlkit.config import ConfigWarning
from rlkit.errors import ConfigError
from rlkit.rewards import last_number
from rlkit.tasks.gsm8k import gsm8k, read_answer

# Rows in GSM8K's form, written for this test.
ROWS = [
    {
        "question": "A shelf holds 12 books and a box half as many. How many are there?",
        "answer": "The box holds 12/2 = <<12/2=6>>6 books.\nTogether there are 12+6 = <<12+6=18>>18.\n#### 18",
    },
    {
        "question": "Mia earns $1,150 a month. How much a year?",
        "answer": "12*1150 = $<<12*1150=13800>>13,800\n#### 13,800",
    },
    {"question": " It is 3 degrees and gets 5 colder. What now? ", "answer": "3-5 = <<3-5=-2>>-2\n#### -2"},
]


def test_answers_are_read():
    assert [read_answer(**row)[1] for row in ROWS] == ["18", "13800", "-2"]
    assert read_answer(**ROWS[0])[2] == "The box holds 12/2 = 6 books.\nTogether there are 12+6 = 18."
    assert read_answer(**ROWS[1])[2] == "12*1150 = $13,800"
    assert read_answer(**ROWS[2])[0] == "It is 3 degrees and gets 5 colder. What now?"


@pytest.mark.parametrize("answer", ["", "18", "#### ", "#### eighteen", "18 ####", "#### 18 books"])
def test_other_data_sets_are_noticed(answer):
    with pytest.raises(ConfigError, match="#### "):
        read_answer("How many?", answer)


@pytest.fixture(scope="module")
def synthetic():
    pytest.importorskip("reasoning_gym")
    return gsm8k(60, 20, source="synthetic")


def test_the_stand_in_has_the_same_columns(synthetic):
    rows = synthetic.rows("train") + synthetic.rows("test")
    assert synthetic.sizes == {"train": 60, "test": 20} and synthetic.name == "gsm8k/synthetic"
    assert all(list(row) == ["prompt", "answer", "solution"] for row in rows)
    assert len({row["prompt"][-1]["content"] for row in rows}) == 80
    for row in rows:
        assert row["solution"] and "####" not in row["solution"] and "," not in row["answer"]
        assert not row["prompt"][-1]["content"].endswith("Do not include units.")
        assert synthetic.verifier(f"{row['solution']}\nSo it is {row['answer']}.", **row)
        assert not synthetic.verifier(f"It is {last_number(row['answer']) + 1}", **row)


def test_the_stand_in_says_what_it_is(synthetic):
    assert "not comparable with results on GSM8K" in synthetic.card and "Apache-2.0" in synthetic.card
    assert synthetic.fingerprint == gsm8k(60, 20, source="synthetic").fingerprint == "55b193333da71fab"
    assert synthetic.rows("test") != gsm8k(60, 20, source="synthetic", seed=1).rows("test")


def test_prompts():
    pytest.importorskip("reasoning_gym")
    chat = gsm8k(2, 1, system_prompt="Think.", source="synthetic").train[0]["prompt"]
    assert [message["role"] for message in chat] == ["system", "user"]
    text = gsm8k(2, 1, chat=False, system_prompt="Think.", source="synthetic").train[0]["prompt"]
    assert text == f"Think.\n\nQuestion: {chat[1]['content']}\nAnswer:"


def test_offline_it_stands_in_with_a_warning():
    """No test may reach the Hub: conftest.py sets HF_HUB_OFFLINE."""
    pytest.importorskip("reasoning_gym")
    with pytest.warns(ConfigWarning, match=r"HF_HUB_OFFLINE is set.*gsm_symbolic stands in.*not comparable"):
        task = gsm8k(4, 2)
    assert task.name == "gsm8k/synthetic" and "HF_HUB_OFFLINE is set" in task.card
    assert task.rows() == gsm8k(4, 2, source="synthetic").rows()
    with pytest.raises(ConfigError, match=r"'openai/gsm8k' cannot be loaded.*HF_HUB_OFFLINE is set"):
        gsm8k(4, 2, source="hub")


def test_asked_for_it_comes_without_a_warning():
    pytest.importorskip("reasoning_gym")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gsm8k(4, 2, source="synthetic")


def test_an_address_that_does_not_answer_is_noticed_at_once(monkeypatch):
    from datasets import config
    from huggingface_hub import constants

    for proxy in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(proxy, raising=False)
        monkeypatch.delenv(proxy.upper(), raising=False)
    monkeypatch.setattr(config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # where nobody listens
    with pytest.raises(ConfigError, match="is there a network connection"):
        gsm8k(4, 2, source="hub")
    assert config.HF_HUB_OFFLINE is False


def test_without_hub_and_package_the_error_names_both(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "reasoning_gym.factory", None)  # what Python itself does for "not there"
    with pytest.raises(ConfigError, match=r"HF_HUB_OFFLINE is set.*pip install 'rlkit-notebooks\[tasks\]'"):
        gsm8k(4, 2)


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Hub's data set as `datasets` leaves it in its cache: made by `datasets`, under GSM8K's name."""
    import datasets

    files = {}
    for side, rows in (("train", ROWS), ("test", ROWS[::-1])):
        files[side] = str(tmp_path / f"{side}.jsonl")
        Path(files[side]).write_text("\n".join(map(json.dumps, rows)))
    cache = tmp_path / "cache"
    datasets.load_dataset("json", data_files=files, cache_dir=str(cache))
    (made,) = (path.parent for path in (cache / "json").rglob("dataset_info.json"))
    there = cache / "openai___gsm8k" / "main" / made.parent.name / made.name
    there.parent.mkdir(parents=True)
    shutil.move(made, there)
    for path in there.glob("json-*"):
        path.rename(there / path.name.replace("json-", "gsm8k-", 1))
    info = json.loads((there / "dataset_info.json").read_text())
    info.update(builder_name="parquet", dataset_name="gsm8k", config_name="main")
    for split in info["splits"].values():
        split["dataset_name"] = "gsm8k"
    (there / "dataset_info.json").write_text(json.dumps(info))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)


def test_the_hubs_own_split_is_kept(cached):
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConfigWarning)
        task = gsm8k()
    assert task.name == "gsm8k" and task.sizes == {"train": 3, "test": 3}
    assert [row["answer"] for row in task.train] == ["18", "13800", "-2"]
    assert [row["answer"] for row in task.test] == ["-2", "13800", "18"]
    assert all(task.verifier(f"{row['solution']} So {row['answer']}.", **row) for row in task.train)
    assert "MIT" in task.card and "https://huggingface.co/datasets/openai/gsm8k" in task.card
    assert task.seed is None and "Notes" not in task.card


def test_sizes_take_the_first_rows(cached):
    task = gsm8k(2, 1, source="hub")
    assert [row["answer"] for row in task.train] == ["18", "13800"] and task.test[0]["answer"] == "-2"


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"source": "web"}, "source='web'.*'auto' or 'hub' or 'synthetic'"),
        ({"train_size": 0}, "train_size=0"),
        ({"train_size": 7474}, "train_size=7474.*7473 rows on that side"),
        ({"test_size": 1320}, "test_size=1320"),
        ({"test_size": 2.5}, "test_size=2.5"),
        ({"seed": "0"}, "seed='0'"),
        ({"system_prompt": " "}, "system_prompt=' '"),
    ],
)
def test_what_cannot_work_is_refused(wrong, says):
    with pytest.raises(ConfigError, match=says):
        gsm8k(**{"train_size": 4, "test_size": 2, "source": "synthetic", **wrong})
