"""E-mail: each check looks where the thing belongs, and every message of the task has a reply that passes them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlkit import tasks
from rlkit.errors import ConfigError, RewardError
from rlkit.rewards.rubrics import email
from rlkit.rewards.rubrics.email_golden import BODY, IDEAL, MESSAGE, ROW, SHORT, SIGNATURE
from rlkit.rewards.rubrics.phrases import (
    alternatives,
    fits,
    own_text,
    plain,
    reply_text,
    says,
    share_said,
    unmasked,
)
from rlkit.rewards.signatures import required_columns
from rlkit.tasks.email import email as email_task

TASK = email_task()
TRAIN, TEST = (list(side) for side in (TASK.train, TASK.test))
ROWS = [*TRAIN, *TEST]
GOLDEN = [(name, example, kind) for name, golden in email.GOLDEN.items() for kind in ("right", "wrong", "exploits")
          for example in getattr(golden, kind)]  # fmt: skip


def score(name: str, completion, **columns) -> float:
    row = {**ROW, **columns}
    (value,) = email.FUNCTIONS[name](
        prompts=[MESSAGE], completions=[completion], **{key: [value] for key, value in row.items()}
    )
    return value


# --- phrases ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "phrase", "said"),
    [
        ("we refund 24.90 today", "24.90", True),
        ("we refund 24.90.", "24.90", True),
        ("we refund 124.90", "24.90", False),
        ("we refund 24.905", "24.90", False),
        ("version 4.5", "4", False),
        ("version 4.5", "5", False),
        ("at 10:30", "10", False),
        ("you get 4, not 5", "4", True),
        ("it is 4.", "4", True),
        ("refunded", "refund", False),
        ("a refund-free day", "refund", True),
        ("refunded, then a refund", "refund", True),
        ("§ 201", "§ 20", False),
        ("§ 20(1)", "§ 20", True),
        ("", "refund", False),
    ],
)
def test_phrases_are_whole_words_and_whole_numbers(text, phrase, said):
    assert says(text, phrase) is said


def test_alternatives_and_parts():
    assert alternatives("A|b  C & d") == (("a",), ("b c", "d"))
    assert fits(plain("You’ll get your Money\n back."), "refund|money back")
    assert fits("section 20 of the act", "act & section 20") and not fits("section 20", "act & section 20")
    for nothing in ("", "|a", "a & ", 3):
        with pytest.raises(RewardError, match="no phrase"):
            alternatives(nothing)


def test_what_is_quoted_copied_or_tagged_is_not_own():
    text = "> What happens now?\nmy lamp arrived with a broken shade. What happens now?\nTuesday <b>it is</b>\nMia"
    assert own_text(text, MESSAGE) == "tuesday it is mia"
    assert own_text("a" * 9) == "a" * 9


@pytest.mark.parametrize("tag", ["think", "THINKING", "reasoning"])
def test_thoughts_are_no_part_of_a_reply(tag):
    row, rubric = TRAIN[0], email.email_rubric()
    thoughtful = f"<{tag}>\nDear Ms Somebody, 5127? {'Well. ' * 200}\n</{tag}>\n\n{row['ideal']}"
    assert rubric.score(thoughtful, **row)["total"] == rubric.highest and rubric.verifier(thoughtful, **row)
    for hidden in (
        f"<{tag}>{row['ideal']}</{tag}>",
        f"<{tag}>{row['ideal']}",
        f"<{tag}>{row['ideal']}</{tag}>Hello!",
    ):
        assert rubric.score(hidden, **row)["total"] == 0
    assert reply_text(f"a<{tag}>b</{tag}>c<{tag}>d</{tag}>e") == "ace"
    assert (
        reply_text("<think>b</reasoning>c") == "" and reply_text("I <b>think</b> so.") == "I <b>think</b> so."
    )


def test_a_list_of_phrases_says_nothing():
    wanted = ["refund", "24.90"]
    assert share_said("refund 24.90", wanted) == share_said("refund 24.90 " * 99, wanted) == 0
    assert share_said("You get a refund by Friday at the latest.", wanted) == 0.5


def test_unmasked():
    assert unmasked("Ｙｏｕ h\u00ada\u200bve") == "you have"
    long = "a\u0301" * 40_000  # normalised as one word, this would take minutes
    assert unmasked(long) == plain(long)


# --- golden sets -----------------------------------------------------------------------------------------------------


def test_every_reward_has_a_golden_set():
    assert set(email.GOLDEN) == set(email.FUNCTIONS)
    for golden in email.GOLDEN.values():
        assert min(len(golden.right), len(golden.wrong), len(golden.exploits)) >= 5


@pytest.mark.parametrize(("name", "example", "kind"), GOLDEN, ids=lambda value: getattr(value, "note", value))
def test_golden(name, example, kind):
    golden = email.GOLDEN[name]
    value = score(name, example.completion, **example.columns)
    assert score(name, [{"role": "assistant", "content": example.completion}], **example.columns) == value
    assert golden.low <= value <= golden.high
    assert (value == golden.high) is (kind == "right" or example.fools)


# --- single checks ---------------------------------------------------------------------------------------------------


def test_partial_credit_for_keywords():
    assert score("email_keywords", "We can send a new shade on Tuesday, I hope.") == 0.5
    assert email.email_keywords.verifier(BODY, **ROW) is True
    assert email.email_keywords.verifier("A new shade comes on Tuesday, I hope.", **ROW) is False


def test_the_length_limit_is_exact():
    assert score("email_too_long", "w " * 70) == 0 and score("email_too_long", "w " * 71) == -1
    assert score("email_too_long", "w" * 840) == 0 and score("email_too_long", "w" * 841) == -1


@pytest.mark.parametrize(
    ("block", "phones", "emails", "addresses"),
    [
        ("Nora Feld\n+44 20 7946 0311", {"442079460311"}, set(), set()),
        ("Nora Feld\nTel: 7946 0311", {"79460311"}, set(), set()),
        ("Nora Feld\n(555) 555-0142 | nora@shop.example", {"5555550142"}, {"nora@shop.example"}, set()),
        ("Nora Feld\n555-555-0142", {"5555550142"}, set(), set()),
        ("Nora Feld <NORA@Shop.example>", set(), {"nora@shop.example"}, set()),
        ("Nora Feld\n14 Mill Lane\nBarrowby", set(), set(), {"14 mill lane"}),
        ("Nora Feld\nLindenstraße 5, 12345 Berlin", set(), set(), {"lindenstrasse 5"}),
        ("Nora Feld\n+44 (0)20 7946 0311", {"442079460311"}, set(), set()),
    ],
)
def test_contacts_in_a_signature(block, phones, emails, addresses):
    found = email.read_signature(f"{BODY}\n\nKind regards,\n{block}")
    assert found == email.Contacts(frozenset(phones), frozenset(emails), frozenset(addresses))


@pytest.mark.parametrize(
    "block",
    [
        "Nora Feld",
        "+44 20 7946 0311",
        "Phone: +44 20 7946 0311",
        "Nora Feld\n12345678",
        "Nora Feld\n2025-03-14",
        "Nora Feld\n01.02.2025",
        "Nora Feld\n+1111111111",
        "Nora Feld\n@nora",
        "Nora Feld\nnora@shop",
        "Nora Feld\n+44 20 7946 0311\n+44 20 7946 0311",
        "Nora Feld\na@b.example\nc@b.example\nd@b.example",
    ],
)
def test_no_signature(block):
    assert email.read_signature(f"{BODY}\n\nKind regards,\n{block}") is None


def test_a_signature_must_be_the_given_one():
    reply = f"{BODY}\n\nKind regards,\nNora Feld\n{{}}"
    assert email.has_signature(reply.format("020 7946 0311"), signature=SIGNATURE)
    assert not email.has_signature(reply.format("020 7946 0312"), signature=SIGNATURE)
    assert not email.has_signature(reply.format("020 7946 0311, nora@else.example"), signature=SIGNATURE)
    assert email.has_signature(reply.format("020 7946 0312"))


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("email_recipient", {"recipient": ""}),
        ("email_recipient", {"recipient": "Dr."}),
        ("email_keywords", {"keywords": []}),
        ("email_keywords", {"keywords": [3]}),
        ("email_exact", {"ideal": " "}),
        ("email_too_long", {"max_words": 0}),
        ("email_too_long", {"max_words": "70"}),
        ("email_signature", {"signature": "Nora Feld"}),
    ],
)
def test_columns_at_fault_are_named(name, columns):
    with pytest.raises(RewardError, match=next(iter(columns))):
        score(name, SHORT, **columns)


@given(st.text() | st.text(alphabet="\n>-@.+0123456789 MiaNora|<", max_size=200))
@settings(max_examples=200)
def test_nothing_raises_and_everything_is_in_range(text):
    for name, golden in email.GOLDEN.items():
        assert golden.low <= score(name, text) <= golden.high
    assert email.email_handled(text, **ROW) in (True, False)


@pytest.mark.parametrize("unit", ["\n", "a@", "+1 ", "Nora ", "<", "> ", "1-", ".", "()", "́", "14 lane "])
def test_long_texts_are_read(unit):
    for name in email.FUNCTIONS:
        score(name, unit * (65_536 // len(unit)))


# --- the rubric ------------------------------------------------------------------------------------------------------


def test_the_rubric_adds_up_to_the_guides_points():
    rubric = email.email_rubric()
    assert (rubric.lowest, rubric.highest) == (-1, 4)
    assert rubric.score(IDEAL, **ROW) == {
        "keywords": 1, "ideal reply": 1, "too long": 0, "recipient": 1, "signature": 1, "total": 4
    }  # fmt: skip
    assert rubric.score(SHORT, **ROW)["total"] == 3
    assert rubric.score(MESSAGE, **ROW)["total"] == 0
    assert rubric.score("word " * 99, **ROW)["total"] == -1
    assert rubric.verifier(SHORT, **ROW) and not rubric.verifier(BODY, **ROW)
    assert set(rubric.required_columns) == {"keywords", "ideal", "max_words", "recipient"}


def test_weights_of_the_rubric():
    assert email.email_rubric(ideal=0, keywords=2).score(SHORT, **ROW)["total"] == 4
    with pytest.raises(ConfigError, match="at least one"):
        email.email_rubric(0, 0, 0, 0, 0)


# --- the task --------------------------------------------------------------------------------------------------------


def test_the_split_is_by_subject():
    assert (len(TRAIN), len(TEST)) == (48, 16)
    subjects = [{row["scenario"] for row in side} for side in (TRAIN, TEST)]
    assert (len(subjects[0]), len(subjects[1])) == (12, 4) and subjects[0].isdisjoint(subjects[1])
    assert len({row["recipient"] for row in ROWS}) == len({row["message"] for row in ROWS}) == 64
    assert list(email_task().train) == TRAIN


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["recipient"])
def test_every_ideal_reply_passes_and_nothing_else_does(row):
    columns = {key: value for key, value in row.items() if key != "prompt"}
    rubric = email.email_rubric()
    assert TASK.verifier(row["ideal"], **columns)
    assert rubric.score(row["ideal"], **row)["total"] == rubric.highest
    # Without its greeting, one keyword, its signature or its brevity it does not.
    greeting, _, rest = row["ideal"].partition("\n\n")
    assert not TASK.verifier(rest, **columns)
    assert not TASK.verifier(row["ideal"].removesuffix(row["signature"]), **columns)
    assert not TASK.verifier(f"{greeting}\n\n{rest} {rest}", **columns)
    for keyword in row["keywords"]:
        left = plain(row["ideal"])
        for phrases in alternatives(keyword):
            for phrase in phrases:
                left = left.replace(phrase, "…")
        assert not email.has_keywords(left, **columns)
    # What the model was given earns nothing but for not being too long, as a whole, by turn or line by line.
    for text in (
        row["message"],
        row["prompt"][0]["content"],
        "\n\n".join(m["content"] for m in row["prompt"]),
    ):
        assert not TASK.verifier(text, **columns)
        assert rubric.score(text, **row)["total"] <= 0


def test_no_reply_serves_two_messages():
    for row in ROWS:
        others = [other for other in ROWS if other is not row]
        assert not any(email.email_handled(row["ideal"], **other) for other in others)


def test_the_message_says_what_the_reply_must():
    for row in ROWS:
        asked = plain(row["prompt"][0]["content"] + " " + row["prompt"][1]["content"])
        assert plain(row["recipient"]) in asked and plain(row["signature"]) in asked
        assert f"below {row['max_words']} words" in asked


def test_plain_prompts():
    task = email_task(chat=False)
    row = next(iter(task.train))
    assert row["prompt"].endswith("Reply:\n") and row["message"] in row["prompt"]
    assert row["ideal"] == TRAIN[0]["ideal"]
    with pytest.raises(ConfigError, match="chat="):
        email_task(chat="yes")


def test_rows_are_plain_values_and_the_rewards_find_their_columns():
    columns = {key for key in ROWS[0] if key != "prompt"}
    assert json.loads(json.dumps(ROWS)) == ROWS
    for reward in TASK.reward_funcs:
        assert set(required_columns(reward)) <= columns
    assert isinstance(TASK, tasks.Task)
