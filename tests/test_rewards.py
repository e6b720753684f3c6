"""Rewards and verifiers: what counts as a number, what counts as a format, and how a configuration names them."""

from __future__ import annotations

import subprocess
import sys
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlkit import rewards
from rlkit.errors import ConfigError, RewardError

TEXTS = st.text() | st.text(alphabet="0123456789.,+-−eE ()$=\n", max_size=30)


def message(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


# --- completions -----------------------------------------------------------------------------------------------------


@given(st.text())
def test_completion_text_reads_strings_and_messages_alike(text):
    assert rewards.completion_text(text) == text
    assert rewards.completion_text(message(text)) == text
    assert (
        rewards.completion_text([{"role": "assistant", "content": [{"type": "text", "text": text}]}]) == text
    )


def test_completion_text_takes_the_last_assistant_message():
    conversation = [
        {"role": "assistant", "content": "let me look"},
        {"role": "tool", "content": "13"},
        {"role": "assistant", "content": "42"},
        {"role": "tool", "content": "7"},
    ]
    assert rewards.completion_text(conversation) == "42"
    assert rewards.completion_text([{"role": "assistant", "content": None}]) == ""
    assert rewards.completion_text([]) == ""


@pytest.mark.parametrize("wrong", [42, None, b"42", [["42"]], {"role": "assistant"}])
def test_completion_text_refuses_other_things(wrong):
    with pytest.raises(RewardError, match="string or a list of messages"):
        rewards.completion_text(wrong)


# --- numbers ---------------------------------------------------------------------------------------------------------

READINGS = [
    ("42", "42"),
    ("42.", "42"),
    ("042", "42"),
    ("+42", "42"),
    ("-42", "-42"),
    ("−42", "-42"),  # the typographic minus
    ("=-42", "-42"),
    ("50-8", "8"),
    ("x-8", "8"),
    ("(50)-8", "8"),
    ("answer--42", "42"),
    ("- 42", "42"),
    ("4 2", "2"),
    ("17+25=42", "42"),
    ("answer: 42 or 43", "43"),
    ("4.2e1", "42"),
    ("4.2E+1", "42"),
    ("420e−1", "42"),
    ("1,234", "1234"),
    ("$1,234.50", "1234.5"),
    ("1,23", "23"),
    ("1234,567", "567"),
    ("12,345,67", "67"),
    (".5", "0.5"),
    ("1/2", "2"),
    ("42<|end|>", "42"),
    ("\\boxed{42}", "42"),
    ("forty-two", None),
    ("", None),
    ("-", None),
    (".", None),
    ("४२", None),
    ("４２", None),
    ("²", None),
    ("1e99999999999999999999999", None),
]


@pytest.mark.parametrize(("text", "number"), READINGS)
def test_how_a_number_is_read(text, number):
    assert rewards.last_number(text) == (None if number is None else Decimal(number))


@pytest.mark.parametrize("text", ["42", "42.0", "042", "+42", " 42\n", "17+25=42", "4.2e1", "It is 42."])
def test_right_answers(text):
    assert rewards.verify_number(text, "42") is True


@pytest.mark.parametrize(
    "text", ["", "4 2", "-42", "32", "142", "420", "42 or 43", "4.2", "４２", "42e1", "forty-two"]
)
def test_wrong_answers(text):
    assert rewards.verify_number(text, "42") is False


@pytest.mark.parametrize("answer", ["42", "#### 42", "42.0", 42, 42.0, Decimal(42)])
def test_answers_may_be_text_or_numbers(answer):
    assert rewards.verify_number("42", answer)
    assert not rewards.verify_number("43", answer)


def test_decimals_are_exact():
    assert rewards.verify_number("0.1", 0.1)
    assert not rewards.verify_number("0.30000000000000004", "0.3")


@pytest.mark.parametrize(
    "answer", ["", "forty-two", None, True, float("nan"), float("inf"), Decimal("NaN"), [42]]
)
def test_an_answer_without_a_number_is_the_data_sets_fault(answer):
    with pytest.raises(RewardError, match="right column"):
        rewards.verify_number("42", answer)


def test_huge_texts_are_read_in_no_time():
    digits = "9" * 200_000
    assert rewards.verify_number(digits, digits)
    assert not rewards.verify_number(digits, "42")
    for text in (
        "1," * 100_000,
        "1,111" * 50_000,
        "-" * 200_000,
        "1e" * 100_000,
        "." * 200_000,
        "1.1" * 50_000,
    ):
        rewards.verify_number(text, "42")
    assert not rewards.verify_number("1e999999999", "42")


@given(TEXTS, st.integers())
def test_number_rewards_never_raise_and_agree(text, answer):
    found = rewards.number_found(["q", "q"], [text, message(text)])
    right = rewards.correct_number(["q", "q"], [text, message(text)], answer=[answer, str(answer)])
    assert found[0] == found[1] == (1.0 if any(c in "0123456789" for c in text) else -1.0)
    assert right[0] == right[1] == (3.0 if rewards.verify_number(text, answer) else -3.0)
    assert rewards.only_number(["q"], [text])[0] in (0.0, 1.0)


@given(st.integers())
def test_a_number_written_out_is_recognised(number):
    assert rewards.verify_number(str(number), number)
    assert rewards.verify_number(f"The answer is {number:,}.", number)
    assert not rewards.verify_number(str(number + 1), number)
    assert rewards.only_number([""], [f" {number} "]) == [1.0]


def test_the_guides_example():
    prompts, completions = ["2+2="] * 4, ["4", "3", "C", ""]
    assert rewards.number_found(prompts, completions) == [1.0, 1.0, -1.0, -1.0]
    assert rewards.correct_number(prompts, completions, answer=["4"] * 4) == [3.0, -3.0, -3.0, -3.0]


def test_only_number():
    texts = ["42", " 42\n", "-4.5", "1,234", "42.", "42!", "4 2", "17+25=42", "", "x"]
    assert rewards.only_number([""] * 10, texts) == [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]


def test_the_verifier_rides_on_the_reward_that_uses_it():
    verifier = rewards.correct_number.verifier
    assert verifier("42", answer="42", prompt="17+25=") is True
    assert verifier(message("32"), answer="42") is False
    assert not hasattr(rewards.number_found, "verifier")
    assert not hasattr(rewards.only_number, "verifier")


# --- formats ---------------------------------------------------------------------------------------------------------

SOFT = "<reasoning>7+5=12</reasoning> <answer>42</answer>"
STRICT = "<reasoning>\n7+5=12\n</reasoning>\n<answer>\n42\n</answer>\n"


@pytest.mark.parametrize(
    ("text", "soft", "strict"),
    [
        (SOFT, 1, 0),
        (STRICT, 1, 1),
        (STRICT.rstrip("\n"), 1, 1),
        ("\n" + STRICT, 1, 0),
        (STRICT + "\n", 1, 0),
        (STRICT.replace("</reasoning>\n", "</reasoning>\n\n"), 1, 0),
        ("Sure! " + SOFT, 0, 0),
        (SOFT + " Bye.", 0, 0),
        (SOFT + SOFT, 0, 0),
        (SOFT.replace("42", " "), 0, 0),
        ("<answer>42</answer><reasoning>7+5=12</reasoning>", 0, 0),
        ("<reasoning>7+5=12<answer>42</answer></reasoning>", 0, 0),
        ("<reasoning><answer>7</reasoning>42</answer>", 0, 0),
        ("</reasoning>7<reasoning><answer>42</answer>", 0, 0),
        (SOFT.replace("</answer>", ""), 0, 0),
        (SOFT.replace("answer", "Answer"), 0, 0),
        (SOFT.replace("<answer>", "<answer >"), 0, 0),
        ("42", 0, 0),
        ("", 0, 0),
    ],
)
def test_xml_format(text, soft, strict):
    assert rewards.xml_format()([""], [text]) == [soft]
    assert rewards.xml_format(strict=True)([""], [message(text)]) == [strict]


@given(st.lists(st.sampled_from(["<a>", "</a>", "<b>", "</b>", "x", "\n", " "]), max_size=10))
def test_strict_implies_soft_and_nothing_raises(parts):
    text = "".join(parts)
    soft, strict = rewards.read_tags(text, ("a", "b")), rewards.read_tags(text, ("a", "b"), strict=True)
    assert strict is None or strict == soft
    assert soft is None or (set(soft) == {"a", "b"} and all(soft.values()))


@given(st.text())
def test_format_rewards_never_raise(text):
    assert rewards.xml_format(right=2, wrong=-1)([""], [text])[0] in (2.0, -1.0)


def test_read_tags_returns_the_contents():
    assert rewards.read_tags(STRICT, ("reasoning", "answer"), strict=True) == {
        "reasoning": "7+5=12",
        "answer": "42",
    }


def test_factories_return_named_functions():
    assert rewards.xml_format().__name__ == "xml_format_reasoning_answer"
    assert rewards.xml_format(("think",), strict=True).__name__ == "xml_format_strict_think"


@pytest.mark.parametrize("tags", [(), ("a", "a"), ("<a>",), ("",), (1,), ("a b",)])
def test_xml_format_refuses_tags_that_are_none(tags):
    with pytest.raises(ConfigError, match="tags="):
        rewards.xml_format(tags=tags)


# --- names -----------------------------------------------------------------------------------------------------------


def short(completion: str, *, limit: int) -> bool:
    return len(completion) <= limit


def test_reward_from():
    reward = rewards.reward_from(short, right=0.5, wrong=-0.5)
    assert reward.__name__ == "short"
    assert rewards.required_columns(reward) == ["limit"]
    assert reward(["", ""], ["42", "forty"], limit=[3, 3], other=["a", "b"], trainer_state=None) == [
        0.5,
        -0.5,
    ]
    assert reward.verifier("42", limit=3, other="a") is True
    assert reward.score_range == (-0.5, 0.5)


async def judged_later(completion: str) -> bool:
    return False


class JudgesLater:
    async def __call__(self, completion: str) -> bool:
        return False


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"verifier": "short"}, "verifier="),
        ({"verifier": judged_later}, "plain function, not an async one"),  # a coroutine is true
        ({"verifier": JudgesLater()}, "plain function, not an async one"),
        ({"verifier": short, "right": "3"}, "right='3'"),
        ({"verifier": short, "wrong": float("nan")}, "wrong=nan"),
    ],
)
def test_what_no_reward_is_made_from(settings, says):
    with pytest.raises(ConfigError, match=says):
        rewards.reward_from(**settings)


def test_resolve_finds_names_mappings_paths_and_functions():
    assert rewards.resolve("correct_number") is rewards.correct_number
    assert rewards.resolve("xml_format").__name__ == "xml_format_reasoning_answer"
    made = rewards.resolve({"name": "xml_format", "tags": ["think"], "right": 0.5})
    assert made([""], ["<think>hm</think>"]) == [0.5]
    assert rewards.resolve("rlkit.rewards:number_found") is rewards.number_found
    assert rewards.resolve(short) is short
    made = rewards.resolve({"name": "rlkit.rewards:xml_format", "tags": ["a"]})
    assert made.__name__ == "xml_format_a"


@pytest.mark.parametrize(
    ("reward", "says"),
    [
        ("corect_number", "Did you mean 'correct_number'"),
        ("rlkit.rewards:numberfound", "Did you mean 'number_found'"),
        ("no_such_package_at_all:f", "ModuleNotFoundError"),
        ("rlkit.rewards:__all__", "is a list"),
        ("rlkit rewards:f", "package.module:function"),
        (":f", "package.module:function"),
        ({"name": "xml_format", "tag": ["a"]}, "tags, right, wrong, strict"),
        ({"name": "correct_number", "right": 1}, "plain function"),
        ({"right": 1}, "key 'name'"),
        (3, "a name"),
    ],
)
def test_resolve_says_what_is_wrong(reward, says):
    with pytest.raises(ConfigError, match=says):
        rewards.resolve(reward)


def test_required_columns_and_names():
    assert rewards.required_columns(rewards.correct_number) == ["answer"]
    assert rewards.required_columns(rewards.number_found) == []
    assert rewards.required_columns(len) == ["obj"] or rewards.required_columns(len) == []

    class Judge:
        def __call__(self, prompts, completions, rubric, **columns):
            return [0.0] * len(completions)

    assert rewards.required_columns(Judge()) == ["rubric"]
    assert rewards.reward_name(Judge()) == "Judge"
    for name in rewards.names():
        assert rewards.reward_name(rewards.resolve(name)).startswith(name)
        assert rewards.resolve(name).__doc__


def test_rewards_and_tasks_load_neither_torch_nor_transformers():
    code = "import sys, rlkit.rewards, rlkit.tasks; print(sorted({'torch', 'transformers', 'vllm'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
