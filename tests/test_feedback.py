"""Human feedback: what rows may be, a file that survives everything, agreement, and a rater whose taste is known."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import warnings

import pytest

from rlkit.errors import ConfigError
from rlkit.feedback import (
    FeedbackStore,
    FeedbackWarning,
    Questions,
    SyntheticRater,
    Taste,
    as_dataset,
    check_preferences,
    check_thumbs,
    cohen_kappa,
    fleiss_kappa,
    pairs_from_thumbs,
    thumbs_from_pairs,
)
from rlkit.feedback.taste import asked_sum, is_right, shows_working

PAIR = {"prompt": "17+25=", "chosen": "42", "rejected": "32"}
THUMB = {"prompt": "17+25=", "completion": "42", "label": True}


def says(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


CHAT = {
    "prompt": [says("user", "17+25=")],
    "chosen": [says("assistant", "42")],
    "rejected": [says("assistant", "32")],
}

# -- rows ----------------------------------------------------------------------------------------------------


def test_preferences_in_all_their_forms():
    rows = [PAIR, {**PAIR, "rejected": "41"}]
    assert check_preferences(rows) == rows
    assert check_preferences([{**PAIR, "margin": 2}])[0]["margin"] == 2
    assert check_preferences([CHAT]) == [CHAT]
    whole = {side: CHAT["prompt"] + CHAT[side] for side in ("chosen", "rejected")}
    assert check_preferences([{**whole, "source": "x"}]) == [{**CHAT, "source": "x"}]
    assert check_preferences(as_dataset(rows)) == rows


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({**PAIR, "rejected": "42"}, "prefers '42' to itself"),
        ({**PAIR, "rejected": " 42\n"}, "to itself"),
        ({**CHAT, "rejected": CHAT["chosen"]}, "to itself"),
        ({**PAIR, "chosen": "  "}, "the chosen of row 1 of train_dataset is empty"),
        ({**PAIR, "rejected": ""}, "the rejected of row 1 of train_dataset is empty"),
        ({**PAIR, "prompt": ""}, "the prompt of row 1"),
        ({**CHAT, "chosen": [says("assistant", "")]}, "the chosen of row 1 of train_dataset is empty"),
        ({**CHAT, "chosen": "42"}, "all texts, or all lists of messages"),
        ({**PAIR, "chosen": 42}, "allowed: a text, or a list of messages"),
        ({**PAIR, "margin": float("nan")}, "only one of them has a 'margin'"),
        ({"prompt": "1+1=", "chosen": "2"}, "has no 'rejected'"),
        (THUMB, "pairs_from_thumbs"),
        ({"chosen": "2", "rejected": "3"}, "nobody can tell where the answer begins"),
        ({"chosen": CHAT["chosen"], "rejected": CHAT["rejected"]}, "do not begin with the same message"),
        ("42", "every row must be a dict"),
    ],
)
def test_a_preference_that_says_nothing_is_refused(row, said):
    with pytest.raises(ConfigError, match=said):
        check_preferences([PAIR, row])


def test_margins_are_finite_numbers():
    for margin in (float("nan"), float("inf"), "2", True):
        with pytest.raises(ConfigError, match="margin"):
            check_preferences([{**PAIR, "margin": margin}])


def test_data_sets_that_are_none_are_refused():
    for data in ([], None, "file.json", {"prompt": ["1"]}, iter([PAIR])):
        with pytest.raises(ConfigError, match="train_dataset"):
            check_preferences(data)


@pytest.mark.parametrize("label", [1, "yes", None, 0.0])
def test_a_thumb_is_up_or_down(label):
    with pytest.raises(ConfigError, match=r"label of row 0.*True \(thumb up\)"):
        check_thumbs([{**THUMB, "label": label}])
    with pytest.raises(ConfigError, match="empty"):
        check_thumbs([{**THUMB, "completion": ""}])


def test_thumbs_to_pairs_and_back():
    thumbs = [
        {"prompt": p, "completion": c, "label": label}
        for p, c, label in [
            ("1+1=", "2", True), ("1+1=", "3", False), ("1+1=", "4", False), ("1+1=", "two", True),
            ("1+1=", "II", True), ("1+1=", "II", False),  # two raters, divided
            ("2+2=", "4", True), ("2+2=", "four", True),
        ]
    ]  # fmt: skip
    pairs = pairs_from_thumbs(thumbs)
    assert [(row["prompt"], row["chosen"], row["rejected"]) for row in pairs] == [
        ("1+1=", good, bad) for good in ("2", "two") for bad in ("3", "4")
    ]
    assert thumbs_from_pairs([PAIR]) == [THUMB, {**THUMB, "completion": "32", "label": False}]


# -- the store -----------------------------------------------------------------------------------------------


def test_answers_come_back_in_trls_form(tmp_path):
    store = FeedbackStore(tmp_path / "new" / "feedback.jsonl", rater="ada")
    assert store.preferences() == [] and len(store) == 0
    store.prefer("17+25=", "32", "42", "second")
    store.prefer("1+1=", "2", "two", "tie")
    store.thumb("17+25=", "42", True)
    assert store.preferences() == [PAIR]
    assert store.thumbs() == [THUMB]
    assert check_preferences(store.preferences()) and check_thumbs(store.thumbs())
    again = FeedbackStore(store.path)
    assert len(again) == 3 and again.raters() == {"ada": 3}
    with pytest.raises(ConfigError, match="rater"):
        again.thumb("1+1=", "2", True)


def test_undo_is_an_entry_and_nothing_is_deleted(tmp_path):
    store = FeedbackStore(tmp_path / "feedback.jsonl", rater="ada")
    store.prefer("17+25=", "42", "32", "first")
    store.prefer("1+1=", "3", "2", "first", rater="bob")
    before = store.path.read_bytes()
    assert store.undo().content["prompt"] == "17+25="  # ada's, not bob's newer one
    assert store.undo() is None
    assert [entry.rater for entry in store.entries()] == ["bob"]
    after = store.path.read_bytes()
    assert after.startswith(before) and json.loads(after.splitlines()[-1])["kind"] == "undo"


def test_who_answers_again_has_changed_their_mind(tmp_path):
    store = FeedbackStore(tmp_path / "feedback.jsonl", rater="ada")
    store.prefer("17+25=", "32", "42", "first")
    store.prefer("17+25=", "42", "32", "first")  # the same item, shown in the other order
    assert store.preferences() == [PAIR]
    store.undo()  # the earlier answer stands again
    assert store.preferences() == [{**PAIR, "chosen": "32", "rejected": "42"}]


def test_an_answer_is_on_disk_when_it_is_noted(tmp_path, monkeypatch):
    path, synced = tmp_path / "feedback.jsonl", []
    sync = os.fsync

    def watched(fd: int) -> None:
        synced.append(path.read_bytes() if path.exists() else b"")
        sync(fd)

    monkeypatch.setattr(os, "fsync", watched)
    FeedbackStore(path, rater="ada").thumb("1+1=", "2", True)
    assert synced[0].endswith(b"\n") and json.loads(synced[0])["completion"] == "2"
    assert len(synced) == 2  # the file, and the folder in which it is new


def test_bad_answers_are_not_written(tmp_path):
    store = FeedbackStore(tmp_path / "feedback.jsonl", rater="ada")
    for bad in [("1+1=", "2", "2", "first"), ("1+1=", "", "2", "first"), ("1+1=", "2", "3", "left")]:
        with pytest.raises(ConfigError):
            store.prefer(*bad)
    with pytest.raises(ConfigError):
        store.thumb("1+1=", "2", 1)
    assert not store.path.exists()


def test_a_file_cut_anywhere_loses_the_last_line_only(tmp_path):
    store = FeedbackStore(tmp_path / "feedback.jsonl", rater="ada")
    for a in range(3):
        store.thumb(f"{a}+é=", "42", a % 2 == 0)
    whole = store.path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == 10]
    for cut in range(len(whole) + 1):
        store.path.write_bytes(whole[:cut])
        kept = sum(end <= cut for end in ends)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert len(store.entries()) == kept
    store.path.write_bytes(whole[: ends[1] + 30])  # killed within the third line
    store.thumb("9+9=", "18", True)
    with pytest.warns(FeedbackWarning, match="line 3 "):
        assert [entry.content["prompt"] for entry in store.entries()] == ["0+é=", "1+é=", "9+9="]


WRITER = """
import sys
from rlkit.feedback.store import FeedbackStore
store = FeedbackStore(sys.argv[1], rater=sys.argv[2])
print("ready", flush=True)
i = 0
while True:
    store.thumb(f"{i}+1=", "x" * 5000, True)
    i += 1
    print(i, flush=True)
"""


def test_writers_that_are_killed_lose_nothing_they_were_told_is_written(tmp_path):
    path = tmp_path / "feedback.jsonl"
    # Through a file, not a pipe: what was said before the kill is all there.
    said = {name: tmp_path / name for name in ("ada", "bob")}
    writers = {
        name: subprocess.Popen([sys.executable, "-c", WRITER, str(path), name], stdout=open(out, "w"))  # noqa: SIM115
        for name, out in said.items()
    }
    for out in said.values():
        while len(out.read_text().split()) < 6:
            assert all(writer.poll() is None for writer in writers.values())
            time.sleep(0.01)
    for writer in writers.values():
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
    store = FeedbackStore(path, rater="cleo")
    store.thumb("1+1=", "2", True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a line without an end is allowed
        found = store.raters()
    for name, out in said.items():
        told = int(out.read_text().split()[-1])
        assert told <= found[name] <= told + 1
    assert found["cleo"] == 1


# -- asking --------------------------------------------------------------------------------------------------

ASKED = [{"prompt": f"{a}+1=", "completions": [f"{a + 1}", f"it is {a + 1}"]} for a in range(20)]


def test_questions_are_asked_once_and_one_can_go_on_tomorrow(tmp_path):
    store = FeedbackStore(tmp_path / "feedback.jsonl", rater="ada")
    today = Questions(store, ASKED)
    first = today.current
    for _ in range(5):
        today.answer("first")
    assert today.progress == (5, 20) and len(store) == 5
    shown = today.current
    tomorrow = Questions(FeedbackStore(store.path, rater="ada"), ASKED)
    assert tomorrow.progress == (5, 20) and tomorrow.current == shown
    assert tomorrow.skip() != shown
    while tomorrow.current is not None:
        last = tomorrow.current
        tomorrow.answer("second")
    assert last == shown  # what was skipped comes at the end
    assert tomorrow.progress == (20, 20) and len(store) == 20
    assert store.preferences()[0]["chosen"] == first.answers[0]
    assert store.preferences()[-1]["chosen"] == shown.answers[1]
    with pytest.raises(ConfigError, match="All questions are answered"):
        tomorrow.answer("first")
    assert tomorrow.undo() == shown == tomorrow.current and len(store) == 19
    assert Questions(store, ASKED, rater="bob").progress == (0, 20)


def test_questions_stand_in_another_order_for_each_rater(tmp_path):
    store = FeedbackStore(tmp_path / "feedback.jsonl")
    orders, sides = [], []
    for rater in ("ada", "bob"):
        questions = Questions(store, ASKED, rater=rater)
        asked = []
        while questions.current is not None:
            asked.append(questions.current)
            questions.answer("first" if questions.current.answers[0].startswith("it") else "second")
        orders.append([question.prompt for question in asked])
        sides.append({q.prompt: q.answers[0].startswith("it") for q in asked})
        assert 3 < sum(sides[-1].values()) < 17
    assert orders[0] != orders[1] and sorted(orders[0]) == sorted(orders[1]) and sides[0] != sides[1]
    assert store.agreement()["cohen"]["ada", "bob"] == (1, 20)
    turned = [{**row, "completions": row["completions"][::-1]} for row in ASKED]
    assert Questions(store, turned, rater="cleo").current == Questions(store, ASKED, rater="cleo").current


def test_questions_for_thumbs_and_what_is_refused(tmp_path):
    store = FeedbackStore(tmp_path / "feedback.jsonl", rater="ada")
    thumbs = Questions(store, [{"prompt": "1+1=", "completions": ["2"]}])
    for bad in ("first", 1, None):
        with pytest.raises(ConfigError, match="thumb up"):
            thumbs.answer(bad)
    assert thumbs.undo() is None and thumbs.answer(True) is None
    assert store.thumbs() == [{"prompt": "1+1=", "completion": "2", "label": True}]
    pairs = Questions(store, ASKED)
    assert pairs.undo() is None and len(store) == 1  # the newest answer is not to one of these questions
    with pytest.raises(ConfigError, match="'first', 'second' or 'tie'"):
        pairs.answer(True)
    for rows in (
        [],
        [{"prompt": "1"}],
        [{"prompt": "1", "completions": ["2", "2"]}],
        [{"prompt": "1", "completions": [""]}],
    ):
        with pytest.raises(ConfigError):
            Questions(store, rows)


# -- agreement -----------------------------------------------------------------------------------------------


def test_cohens_kappa_of_the_textbook():
    """Fifty grants, two readers: 20 yes/yes, 5 yes/no, 10 no/yes, 15 no/no: κ = 0.4 (0.7 observed, 0.5 by chance)."""
    one = "y" * 25 + "n" * 25
    other = "y" * 20 + "n" * 5 + "y" * 10 + "n" * 15
    assert cohen_kappa(one, other) == pytest.approx(0.4, abs=1e-15)
    assert cohen_kappa("yynn", "nnyy") == -1
    assert cohen_kappa("yyn", "yyn") == 1
    assert cohen_kappa("yyy", "yyy") is None
    with pytest.raises(ConfigError):
        cohen_kappa("yy", "y")


def test_fleiss_kappa_of_his_table():
    """Fleiss (1971): ten subjects, fourteen raters, five categories: 0.210."""
    table = [
        (0, 0, 0, 0, 14), (0, 2, 6, 4, 2), (0, 0, 3, 5, 6), (0, 3, 9, 2, 0), (2, 2, 8, 1, 1),
        (7, 7, 0, 0, 0), (3, 2, 6, 3, 0), (2, 5, 3, 2, 2), (6, 5, 2, 1, 0), (0, 2, 2, 3, 7),
    ]  # fmt: skip
    answers = [[k for k, count in enumerate(row) for _ in range(count)] for row in table]
    assert fleiss_kappa(answers) == pytest.approx(0.20993, abs=5e-6)
    assert fleiss_kappa(["yyy", "yyy"]) is None
    with pytest.raises(ConfigError):
        fleiss_kappa(["yyy", "yy"])


def test_agreement_does_not_depend_on_which_answer_is_called_the_first(tmp_path):
    dice = random.Random(0)
    verdicts = [(dice.random() < 0.7, dice.random() < 0.6) for _ in range(20)]
    found = []
    for order in (0, 1):
        store = FeedbackStore(tmp_path / f"{order}.jsonl")
        for i, (ada, bob) in enumerate(verdicts):
            names = (
                (f"a{i}", f"b{i}") if order == 0 or i % 2 else (f"z{i}", f"b{i}")
            )  # sorts the other way round
            for rater, says_first in (("ada", ada), ("bob", bob)):
                store.prefer("?", *names, "first" if says_first else "second", rater=rater)
        found.append(store.agreement())
    assert found[0] == found[1]
    agreed = sum(a == b for a, b in verdicts) / 20
    assert found[0]["cohen"]["ada", "bob"] == (pytest.approx(2 * agreed - 1), 20)  # chance: 1/2
    assert found[0]["fleiss"] == pytest.approx(2 * agreed - 1)


def test_raters_who_saw_the_answers_in_opposite_order_agree(tmp_path):
    store = FeedbackStore(tmp_path / "feedback.jsonl")
    for i in range(4):
        better, worse = (f"a{i}", f"b{i}") if i % 2 else (f"b{i}", f"a{i}")
        store.prefer("?", better, worse, "first", rater="ada")
        store.prefer("?", worse, better, "second", rater="bob")
    assert store.agreement()["cohen"]["ada", "bob"] == (1, 4)
    assert [row["chosen"] for row in store.preferences(majority=True)] == ["b0", "a1", "b2", "a3"]


def test_agreement_is_over_shared_items(tmp_path):
    store = FeedbackStore(tmp_path / "feedback.jsonl")
    for rater, labels in (("ada", "10110"), ("bob", "1001"), ("cleo", "0")):
        for i, label in enumerate(labels):
            store.thumb("?", f"answer {i}", label == "1", rater=rater)
    found = store.agreement("thumb")
    assert found["raters"] == {"ada": 5, "bob": 4, "cleo": 1}
    assert found["cohen"]["ada", "bob"] == (cohen_kappa("1011", "1001"), 4)
    assert found["items"] == 1
    assert len(store.thumbs(majority=True)) == 4  # ada and bob are divided about answer 2
    assert store.thumbs(majority=True)[0]["label"] is True  # two to one
    assert FeedbackStore(tmp_path / "none.jsonl").agreement()["fleiss"] is None


# -- the taste and its rater ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "right", "working"),
    [
        ("42", True, False),
        ("The answer is 42.", True, False),
        ("17+25=42", True, False),  # the question again
        ("17 + 25 = 42", True, False),
        ("20+10=30, 7+5=12, 30+12=42", True, True),
        ("30+12=42", True, True),
        ("17+25=30+12=42", True, True),
        ("30+12=42, since 10+20=31", False, False),  # one step is wrong
        ("40=40 so 42", True, False),
        ("50-8=42", True, True),
        ("6×7=42", True, True),
        ("52-10", False, False),
        ("it is -42", False, False),
        ("", False, False),
        ("1" * 4000, False, False),
        ("1+" * 2000 + "1=2", False, False),
    ],
)
def test_the_taste_reads_what_is_documented(said, right, working):
    assert is_right("17+25", said) is right
    assert shows_working("17+25", said) is working
    wanted = right + working - 2 * len(said) / 100
    assert Taste().score("17+25=", said) == pytest.approx(wanted)


def test_the_taste_is_a_reward_function():
    taste = Taste(correct=2, working=0, length=1)
    prompts, chat = ["17+25="], [[says("user", "What is 17 + 25?")]]
    assert taste(prompts=prompts, completions=["42"], answer=["42"]) == [2 - 0.02]
    assert taste(prompts=chat, completions=[[says("assistant", "42")]]) == [2 - 0.02]
    assert asked_sum("First 1+1. Then 17 × 25 + 3?") == "17*25+3"
    assert asked_sum("Hello") is None and Taste().score("Hello", "42") == -0.04


def test_the_rater_follows_bradley_terry():
    rater = SyntheticRater(noise=0.5, mistakes=0.1)
    gap = rater.taste.score("17+25=", "42") - rater.taste.score("17+25=", "The answer is 42.")
    wanted = 0.9 / (1 + 2.718281828459045 ** (-gap / 0.5)) + 0.05
    assert rater.probability("17+25=", "42", "The answer is 42.") == pytest.approx(wanted)
    votes = [
        SyntheticRater(noise=0.5, mistakes=0.1, seed=s).choose("17+25=", "42", "The answer is 42.") == "first"
        for s in range(4000)
    ]
    assert abs(sum(votes) / 4000 - wanted) < 4 * (wanted * (1 - wanted) / 4000) ** 0.5


def test_a_verdict_depends_on_the_item_alone():
    rater = SyntheticRater(noise=3.0)
    items = [(f"{a}+{b}=", str(a + b), f"it is {a + b}") for a in range(10) for b in range(10)]
    once = [rater.choose(*item) for item in items]
    assert once == [rater.choose(*item) for item in items]
    turned = [rater.choose(prompt, second, first) for prompt, first, second in items]
    assert all({one, other} == {"first", "second"} for one, other in zip(once, turned, strict=True))
    assert 20 < once.count("first") < 80
    assert once != [SyntheticRater(noise=3.0, seed=1).choose(*item) for item in items]


def answers(count: int = 40) -> list[dict]:
    rows = []
    for i in range(count):
        a, b = 11 + i, 38 - i % 29
        styles = [
            f"{a + b}",
            f"The answer is {a + b}.",
            f"{a}+{b}={a + b - 8}+8={a + b}",
            f"Well, let me see: {a + b}",
        ]
        rows.append({"prompt": f"{a}+{b}=", "completions": [*styles, styles[0], ""]})
    return rows


def test_synthetic_preferences_and_their_ceiling():
    exact = SyntheticRater(noise=0)
    rows = exact.preferences(answers())
    assert len(rows) == 40 * 6  # of four different answers; one that is empty is not shown
    assert exact.accuracy(rows) == exact.expected_accuracy(rows) == 1
    noisy = SyntheticRater(noise=0.25, mistakes=0.2)
    rows = noisy.preferences(answers(400), pairs=3)
    assert len(rows) == 1200
    ceiling = noisy.expected_accuracy(rows)
    assert 0.6 < ceiling < 0.95
    assert abs(noisy.accuracy(rows) - ceiling) < 4 * (ceiling * (1 - ceiling) / 1200) ** 0.5
    assert check_thumbs(noisy.thumbs(answers(1)[:1])[:4])
    with pytest.raises(ConfigError, match="two different answers"):
        exact.preferences([{"prompt": "1+1=", "completions": ["2", "2 "]}])


def test_synthetic_raters_fill_a_store(tmp_path):
    store = FeedbackStore(tmp_path / "feedback.jsonl")
    rows = [
        {"prompt": r["prompt"], "first": r["completions"][0], "second": r["completions"][1]}
        for r in answers()
    ]
    for seed in range(3):
        assert SyntheticRater(noise=0.1, seed=seed).answer(store, rows) == 40
    found = store.agreement()
    assert found["items"] == 40 and found["fleiss"] > 0.5
    assert len(store.preferences()) == 120 and len(store.preferences(majority=True)) == 40


def test_raters_refuse_what_cannot_be():
    for bad in ({"noise": -1}, {"noise": float("nan")}, {"mistakes": 1.5}):
        with pytest.raises(ConfigError, match=next(iter(bad))):
            SyntheticRater(**bad)
    with pytest.raises(ConfigError, match="length"):
        Taste(length=float("nan"))
