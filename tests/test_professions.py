"""Law and medicine: small rewards that see words where they count, and references that pass their rubric."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlkit.errors import ConfigError, RewardError
from rlkit.rewards.rubric import score_range
from rlkit.rewards.rubrics import professions
from rlkit.rewards.rubrics.care import amounts, keeps_to_limits, recommends_professional, sends_to, sentences
from rlkit.rewards.rubrics.phrases import alternatives, plain
from rlkit.rewards.rubrics.professions import FACTORIES, FUNCTIONS, GOLDEN, LAW_EXAMPLES, MEDICINE_EXAMPLES
from rlkit.rewards.rubrics.professions_golden import LAW, MEDICINE
from rlkit.rewards.rubrics.statements import cites, legal, mentions, must_not_say
from rlkit.rewards.signatures import required_columns

REWARDS = {**FUNCTIONS, **{name: factory() for name, factory in FACTORIES.items()}}
SETS = [(name, example, kind) for name, golden in GOLDEN.items() for kind in ("right", "wrong", "exploits")
        for example in getattr(golden, kind)]  # fmt: skip
EXAMPLES = [("law", row) for row in LAW_EXAMPLES] + [("medicine", row) for row in MEDICINE_EXAMPLES]
RUBRICS = {"law": professions.law_rubric(), "medicine": professions.medicine_rubric()}


def score(name: str, completion, **columns) -> float:
    (value,) = REWARDS[name](
        prompts=[""], completions=[completion], **{key: [value] for key, value in columns.items()}
    )
    return value


# --- golden sets -----------------------------------------------------------------------------------------------------


def test_every_reward_has_a_golden_set_and_a_range():
    assert set(GOLDEN) == set(REWARDS)
    for name, golden in GOLDEN.items():
        assert min(len(golden.right), len(golden.wrong), len(golden.exploits)) >= 5
        assert score_range(REWARDS[name]) == (golden.low, golden.high)
        assert REWARDS[name].__name__.startswith(name) and REWARDS[name].__doc__


@pytest.mark.parametrize(("name", "example", "kind"), SETS, ids=lambda value: getattr(value, "note", value))
def test_golden(name, example, kind):
    golden = GOLDEN[name]
    value = score(name, example.completion, **example.columns)
    assert score(name, [{"role": "assistant", "content": example.completion}], **example.columns) == value
    assert golden.low <= value <= golden.high
    assert (value == golden.high) is (kind == "right" or example.fools)


# --- what must be said -----------------------------------------------------------------------------------------------


def test_settings_take_the_place_of_columns():
    assert required_columns(mentions()) == ["any_of"] and required_columns(mentions(["a"])) == []
    assert required_columns(must_not_say()) == ["must_not"] and required_columns(must_not_say(["a"])) == []
    assert required_columns(cites()) == ["citations"] and required_columns(cites("a")) == []
    assert mentions("appeal", right=2, wrong=-1)(
        [""] * 2, ["You can appeal against it.", "You can not."]
    ) == [2, -1]
    assert must_not_say(["surely"], wrong=-5)([""] * 2, ["Surely it is.", "It is."]) == [-5, 0]
    assert cites(r"§ ?[0-9]+")([""] * 2, ["See § 5.", "See § five."]) == [1, 0]


def test_a_short_answer_is_paid_for_what_it_says():
    (value,) = FUNCTIONS["makes_points"](
        [""], ["You have 30 days to reject it and get a refund."], points=[LAW_EXAMPLES[0]["points"]]
    )
    assert value == 0.75


def test_partial_credit():
    assert score("makes_points", "You can sue for six years, I am told.", **LAW) == 0.5
    assert score("cites", "Under the Limitation Act you have some years.", **LAW) == 0.5
    assert REWARDS["makes_points"].verifier("You can sue for six years, I am told.", **LAW) is False
    assert (
        REWARDS["cites"].verifier("By s. 5 of the Limitation Act you have quite some years.", **LAW) is True
    )


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("Section 20", "§ 20"),
        ("§§ 20, 22", "§ 20, 22"),
        ("§20", "§ 20"),
        ("s.20 and s 21", "§ 20 and § 21"),
        ("ss. 20–22", "§ 20-22"),
        ("Art. 9 GDPR", "art 9 gdpr"),
        ("it's 20 days", "it's 20 days"),
        ("class 5", "class 5"),
        ("chart 5", "chart 5"),
        ("section five", "section five"),
    ],
)
def test_ways_to_cite(text, read):
    assert legal(text) == read


# --- doses, advice ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("500 mg", [500]),
        ("500mg or 0.5 g", [500, 500]),
        ("4,000 mg", [4000]),
        ("1,000,000 mcg", [1000]),
        ("250 µg", [0.25]),
        ("2 milligrams, 3 grammes", [2, 3000]),
        ("a 500-mg tablet", [500]),
        ("70 kg, 24 hours, 5 mgs", []),
        ("4 gin and tonics", []),
    ],
)
def test_amounts(text, found):
    assert amounts(plain(text)) == found


def test_a_dose_belongs_to_the_drug_that_is_spoken_of():
    limits = ["ibuprofen: 1200 mg", "paracetamol: 4000 mg"]
    assert keeps_to_limits("Paracetamol: 3 g. Ibuprofen: 1.2 g.", max_dose=limits)
    assert not keeps_to_limits("Paracetamol: 1 g. Ibuprofen: 3 g.", max_dose=limits)
    assert keeps_to_limits("Take 9 kg.", max_dose=[]) and keeps_to_limits("Ibuprofen: 9 g", max_dose=None)
    for wrong in (["ibuprofen"], ["1200 mg"], [": 1200 mg"], ["ibuprofen: much"], [3]):
        with pytest.raises(RewardError, match="max_dose"):
            keeps_to_limits("", max_dose=wrong)


def test_sentences():
    assert sentences("one. two! three?! 4.5 mg; five") == ["one", "two", "three", "4.5 mg", "five"]


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("please see a doctor", True),
        ("do not hesitate and call your doctor", True),
        ("it is necessary to see a doctor", True),
        ("you need to see a doctor", True),
        ("get medical help", True),
        ("it is not necessary to see a doctor", False),
        ("it is unnecessary to see a doctor", False),
        ("you need not see a doctor", False),
        ("you do not have to see a doctor", False),
        ("you can do it without asking a doctor", False),
        ("rest instead of going to hospital", False),
        ("never call an ambulance for this", False),
        ("overseeing doctors is my job", False),
        ("see what a doctorate costs", False),
    ],
)
def test_advice_to_see_a_doctor(text, advice):
    assert sends_to("doctor", text) is advice


# --- what is refused, and any text -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: mentions([]), "any_of="),
        (lambda: mentions(["a|"]), "any_of="),
        (lambda: must_not_say([3]), "phrases="),
        (lambda: cites("("), "pattern="),
        (lambda: cites(3), "pattern="),
        (lambda: recommends_professional("wizard"), "'doctor' or 'lawyer'"),
    ],
)
def test_settings_are_checked(make, says):
    with pytest.raises(ConfigError, match=says):
        make()


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("mentions", "any_of"),
        ("makes_points", "points"),
        ("cites", "citations"),
        ("must_not_say", "must_not"),
    ],
)
def test_columns_at_fault_are_named(name, column):
    with pytest.raises(RewardError, match=column):
        score(name, "anything", **{**LAW, column: []})


@given(st.text() | st.text(alphabet="§ 5sartyouhve.!?;<>*12g m", max_size=200))
@settings(max_examples=200)
def test_nothing_raises_and_everything_is_in_range(text):
    for name, golden in GOLDEN.items():
        assert golden.low <= score(name, text, **LAW, max_dose=MEDICINE["max_dose"]) <= golden.high


@pytest.mark.parametrize(
    "unit",
    [
        "§",
        "§ 1 ",
        ".",
        "!?",
        "see doctor ",
        "not see doctor ",
        "1,",
        "1",
        "8 g ",
        "<",
        "a\u0301",
        "section ",
        "see ",
    ],
)
def test_long_texts_are_read(unit):
    for name in GOLDEN:
        score(name, unit * (65_536 // len(unit)), **LAW, max_dose=MEDICINE["max_dose"])


# --- the rubrics and their examples ----------------------------------------------------------------------------------


def test_ranges_of_the_rubrics():
    assert (RUBRICS["law"].lowest, RUBRICS["law"].highest) == (-5, 6)
    assert (RUBRICS["medicine"].lowest, RUBRICS["medicine"].highest) == (-9, 4.5)


@pytest.mark.parametrize(
    ("kind", "row"), EXAMPLES, ids=lambda v: v if isinstance(v, str) else v["question"][:40]
)
def test_every_reference_passes_and_less_does_not(kind, row):
    rubric = RUBRICS[kind]
    assert set(rubric.required_columns) <= set(row)
    assert rubric.score(row["reference"], **row)["total"] == rubric.highest
    assert rubric.verifier(row["reference"], **row)
    for point in row["points"]:
        less = plain(row["reference"])
        for phrases in alternatives(point):
            for phrase in phrases:
                less = less.replace(phrase, "…")
        assert not rubric.verifier(less, **row)
    for phrase in row["must_not"]:
        worse = f"{row['reference']} {phrase.split('|')[0]}."
        assert rubric.score(worse, **row)["nothing forbidden"] == -2 and not rubric.verifier(worse, **row)
    assert not rubric.verifier(row["question"], **row)
    assert rubric.score(row["question"], **row)["total"] <= 0.5
    assert rubric.score("", **row)["total"] == 0


def test_no_reference_serves_two_questions():
    for kind, rows in (("law", LAW_EXAMPLES), ("medicine", MEDICINE_EXAMPLES)):
        for row in rows:
            assert not any(
                RUBRICS[kind].verifier(row["reference"], **other) for other in rows if other is not row
            )


def test_examples_are_plain_rows_of_one_form():
    for rows in (LAW_EXAMPLES, MEDICINE_EXAMPLES):
        assert len(rows) >= 6 and len({tuple(row) for row in rows}) == 1
        assert json.loads(json.dumps(rows)) == rows
        assert all(row["prompt"][-1]["content"] == row["question"] for row in rows)
    assert "no advice" in professions.__doc__
