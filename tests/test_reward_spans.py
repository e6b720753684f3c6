"""Where rewards looked: places for every reward that tells them, and that they are what the verdict rests on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlkit import rewards
from rlkit.rewards.maths.finding import LONGEST_TEXT
from rlkit.rewards.registry import offers, resolve
from rlkit.rewards.rubrics.phrases import own_text, plain
from rlkit.rewards.rubrics.readings import open_reading, own_reading
from rlkit.rewards.rubrics.statements import undisguised
from rlkit.rewards.spans import marker_spans, spans_of, trimmed
from rlkit.rewards.style import CHAT_MARKERS
from rlkit.rewards.text import completion_text
from rlkit.widgets.models.reward import RewardModel

WITHOUT = {  # they judge the whole, and say so
    *("email_exact", "email_too_long", "language", "length_penalty", "readability", "soft_overlong"),
    *("string_check", "text_similarity"),
}
EMAIL = {"recipient": "Ms Dr Nora Feld", "keywords": ["refund|money back", "24.90", "coupon"]}
REPLY = (
    "<think>a refund of 24.90?</think>Dear Ms Feld,\n\n> where is my refund\n"
    "You will get your money\u00a0back, 24.90 euros in all, before Friday evening.\n\n"
    "Kind regards,\nAda Holm\n+44 20 7946 0311"
)


def quoted(reward, text, **row):
    found = spans_of(resolve(reward) if isinstance(reward, str) else reward, text, row)
    return None if found is None else [completion_text(text)[start:end] for start, end in found]


@pytest.mark.parametrize("name", rewards.names())
def test_every_reward_tells_places_within_the_text_or_none_at_all(name):
    known = offers()
    reward = resolve(name)
    assert hasattr(reward, "spans") == (name not in WITHOUT)
    assert bool(getattr(reward, "looks_at", "")) == (name in WITHOUT)
    golden = known.golden[name]
    found = []
    for example in (*golden.right, *golden.wrong, *golden.exploits):
        spans = spans_of(reward, example.completion, {**example.columns, "prompt": example.prompt})
        assert (spans is None) == (name in WITHOUT), example
        for start, end in spans or ():
            assert 0 <= start < end <= len(example.completion)
        found += spans or []
    assert found or name in WITHOUT


@pytest.mark.parametrize(
    ("reward", "text", "row", "places"),
    [
        ("number_found", "4 and 42", {}, ["4"]),
        ("correct_number", "17+25 is 42, not 32", {"answer": "42"}, ["32"]),
        ("correct_number", "none", {"answer": "42"}, []),
        ("only_number", " 42\n", {}, ["42"]),
        ("only_number", "It is 42", {}, []),
        ("proximity", "about -1,234.5.", {"answer": "7"}, ["-1,234.5"]),
        ("correctness_reward_func", "<answer>1</answer> <answer> 42 </answer>", {"answer": "42"}, ["42"]),
        ("int_reward_func", " bare 42 ", {}, ["bare 42"]),
        ("soft_format_reward_func", "<reasoning>x</reasoning>", {}, ["<reasoning>", "</reasoning>"]),
        ("xmlcount_reward_func", "<reasoning>\nx</reasoning>\n<answer>", {}, ["<reasoning>"]),
        ("xml_format", "<answer>42</answer>", {}, ["<answer>", "</answer>"]),
        ("correct_text", "Sydney? The answer is **Canberra**", {"answer": "Canberra"}, ["Canberra**"]),
        ("correct_text", "<answer> nus </answer>", {"answer": "nus"}, ["nus"]),
        ("correct_equation", "20 + 5\nSo (25 − 5) × 3 = 60.", {"numbers": [1], "target": 1}, ["(25 − 5) × 3 = 60"]),
        ("equation_found", "$(25 - 5) \\times 3$", {}, ["$(25 - 5) \\times 3$"]),
        ("correct_maths", r"41. Wait: \boxed{42} I checked 42 twice", {"answer": "42"}, ["42"]),
        ("correct_maths_strict", "So it is 42", {"answer": "42"}, []),
        ("correct_maths", "It is Evelyn\n", {"answer": "Evelyn"}, ["It is Evelyn"]),
        ("no_markers", "ß 42<|IM_END|>", {}, ["<|IM_END|>"]),
        ("reasoning_answer", "<SOLUTION> 42 </SOLUTION>", {"answer": "42"}, ["42"]),
        ("reasoning_markers", "<SOLUTION>42</SOLUTION>", {}, ["<SOLUTION>", "</SOLUTION>"]),
        ("code_block", "So:\n```python\nx = 1\n```\n", {}, ["x = 1"]),
        ("sql_select", "```sql\nSELECT 1;\n```", {}, ["SELECT 1"]),
        ("email_recipient", REPLY, EMAIL, ["Feld"]),
        ("email_keywords", REPLY, EMAIL, ["money\u00a0back", "24.90"]),
        ("email_signature", REPLY, EMAIL, ["Ada Holm", "+44 20 7946 0311"]),
        ("makes_points", "You may appeal within a month. " * 2, {"points": ["appeal"]}, ["appeal", "appeal"]),
        ("must_not_say", "Success is guaranteed.", {"must_not": ["guaranteed"]}, ["guaranteed"]),
        ("must_not_say", "> **guar<b></b>an\u00adteed**", {"must_not": ["guaranteed"]}, ["guar<b></b>an\u00adteed"]),
        ("makes_points", "You may get your\n  money back soon.", {"points": ["money back"]}, ["money back"]),
        ("makes_points", "get your money\nback", {"points": ["money back"]}, ["money\nback"]),
        ("cites", "Sections 5 and s.6 of it", {"citations": ["section 5", "§ 6", "art 1"]}, ["Sections 5", "s.6"]),
        ("doses_within_limits", "Paracetamol: 1,000 mg. At most 4 g, or 9 tablets; ibuprofen 1 g",
         {"max_dose": ["paracetamol: 4000 mg", "aspirin: 1 g"]}, ["1,000 mg", "4 g", "1 g"]),
        ("doses_within_limits", "Take 9 g of sugar", {"max_dose": ["paracetamol: 4000 mg"]}, []),
        ("no_bare_diagnosis", "If you have a cold. You have **flu**; see a doctor", {}, ["You have", "see a doctor"]),
        ("states_uncertainty", "Perhaps. It might well be\nanother thing, possibly a cold", {}, ["might", "possibly"]),
        ("recommends_professional", "No need to see a doctor. Do call a GP today", {}, ["call a GP"]),
        ("repetition_penalty", "Carry the one now. CARRY the one now! 1", {}, ["CARRY the one now"]),
    ],
)  # fmt: skip
def test_the_place_is_what_the_verdict_rests_on(reward, text, row, places):
    assert quoted(reward, text, **row) == places


def test_the_boxed_answer_and_not_a_later_mention():
    text = "42 " * 10 + r"\boxed{42} 42"
    ((start, _),) = spans_of(resolve("correct_maths"), text, {"answer": "42"})
    assert start == text.index(r"\boxed{") + 7


def test_places_are_counted_from_the_beginning_of_a_long_text():
    text = "x" * (LONGEST_TEXT + 50) + " The answer is 42"
    assert quoted("correct_maths", text, answer="42") == ["42"]


def test_messages_have_the_places_of_their_text():
    completion = [{"role": "assistant", "content": "It is 42."}]
    assert spans_of(resolve("correct_number"), completion, {"answer": "42"}) == [(6, 8)]


def test_rubric_parts_and_rewards_of_verifiers_keep_them():
    rubric = rewards.Rubric({"right": (rewards.correct_number, 2.0), "brief": rewards.length_penalty()})
    assert quoted(rubric[0], "so 42", answer="42") == ["42"] and quoted(rubric[1], "so 42") is None

    def found(completion):
        return True

    assert quoted(rewards.reward_from(found), "x") is None
    found.spans = lambda completion, **columns: [(0, 1)]
    assert quoted(rewards.reward_from(found), "xy") == ["x"]


def test_whatever_a_finder_does_nothing_raises():
    def reward(completions, **columns):
        return [0.0]

    for broken in (
        lambda c, **k: 1 / 0,
        lambda c: [(0, 99), (2, 1), (1, 2)],
        lambda c, missing: [],
        lambda c: None,
    ):
        reward.spans = broken
        assert spans_of(reward, "abc", {}) in (None, [(1, 2)])


def test_helpers():
    assert trimmed("  a b ", 0, 6) == (2, 5)
    assert marker_spans("<b><b>", ["<b>", "</b>"]) == [(0, 3), (3, 6)]
    assert all(marker_spans(marker, [marker]) == [(0, len(marker))] for marker in CHAT_MARKERS)


PIECES = st.lists(
    st.sampled_from(
        ["a refund", " MONEY  back", "\n", "> quoted", "<b>", "</b>", "\u00a0", "“ß”", "…\u00ad", "42", " "]
    )
)


@given(PIECES.map("".join), st.sampled_from(["", "we ask for a refund MONEY back 42"]))
def test_readings_are_what_the_rubrics_read(text, asked):
    own, places = own_reading(text, asked)
    assert own == own_text(text, asked) and len(places) == len(own) and places == sorted(places)
    assert all(letter == " " or letter in plain(text[i]) for letter, i in zip(own, places, strict=True))
    assert open_reading(text).text == undisguised(text)[0]


def test_a_rubrics_parts_say_what_they_look_at():
    model = RewardModel.make("email_rubric")
    parts = {part.name: part for part in model.inspect("Dear Sam", {"recipient": "Sam"}).parts}
    assert (
        parts["too long"].looks_at == "the whole reply: how many words it has"
        and not parts["keywords"].looks_at
    )
