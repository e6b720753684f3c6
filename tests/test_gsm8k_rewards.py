"""The five GSM8K rewards; and functions written for TRL's trainer, which run here without a change."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_trainer import make_trainer

from rlkit.rewards import gsm8k
from rlkit.rollout import Completion, Rollout
from rlkit.trainers.scoring import (
    check_columns,
    check_reward_functions,
    probe_reward_functions,
    score_rollout,
)

LAID_OUT = "<reasoning>\n7+5=12\n</reasoning>\n<answer>\n42\n</answer>\n"
PIECES = ["<reasoning>", "</reasoning>", "<answer>", "</answer>", "\n", " ", "42", "x", "４２", "²", "-5"]


def message(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def scored(name: str, text: str, answer: str = "42") -> float:
    (score,) = gsm8k.FUNCTIONS[name](["17+25="], [text], answer=[answer])
    assert gsm8k.FUNCTIONS[name](["17+25="], [message(text)], answer=[answer]) == [score]
    return score


# --- scores ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "correct", "whole_number", "soft", "strict", "tags"),
    [
        (LAID_OUT, 2, 0.5, 0.5, 0.5, 0.5),
        (LAID_OUT.replace("42", "41"), 0, 0.5, 0.5, 0.5, 0.5),
        (LAID_OUT.replace("42", "forty-two"), 0, 0, 0.5, 0.5, 0.5),
        (LAID_OUT.replace("42", "42.0"), 0, 0, 0.5, 0.5, 0.5),
        (LAID_OUT.replace("42", "-42"), 0, 0, 0.5, 0.5, 0.5),
        (LAID_OUT.replace("42", "４２"), 0, 0, 0.5, 0.5, 0.5),
        (LAID_OUT.replace("7+5=12", "7+5=12\nso 42"), 2, 0.5, 0.5, 0.5, 0.5),
        ("\n" + LAID_OUT, 2, 0.5, 0.5, 0, 0.5),
        (LAID_OUT[:-1], 2, 0.5, 0.5, 0, 0.5),
        (LAID_OUT + "So it is 42.", 2, 0.5, 0.5, 0, 0.488),
        (LAID_OUT + "x" * 2000, 2, 0.5, 0.5, 0, -0.5),
        ("<reasoning>7+5</reasoning> <answer>42</answer>", 2, 0.5, 0.5, 0, 0),
        ("<reasoning></reasoning><answer></answer>", 0, 0, 0, 0, 0),
        ("<reasoning>\n7+5\n</reasoning>\n42", 0, 0, 0, 0, 0.25),
        ("<answer>\n42\n</answer>\n", 2, 0.5, 0, 0, 0.125),
        (LAID_OUT * 2, 2, 0.5, 0, 0, 0),
        ("42", 2, 0.5, 0, 0, 0),
        ("It is 42", 0, 0, 0, 0, 0),
        ("", 0, 0, 0, 0, 0),
    ],
)
def test_scores(
    text: str, correct: float, whole_number: float, soft: float, strict: float, tags: float
) -> None:
    assert scored("correctness_reward_func", text) == correct
    assert scored("int_reward_func", text) == whole_number
    assert scored("soft_format_reward_func", text) == soft
    assert scored("strict_format_reward_func", text) == strict
    assert scored("xmlcount_reward_func", text) == pytest.approx(tags, abs=1e-12)


def test_where_the_patterns_of_the_notebooks_fail_ours_do_not() -> None:
    """The two defects that the docstrings name, shown on patterns of the same kind."""
    soft = re.compile(r"<reasoning>.*?</reasoning>\s*<answer>.*?</answer>")
    for text in (LAID_OUT, "\n<reasoning>x</reasoning><answer>42</answer>"):
        assert not soft.match(text)
        assert scored("soft_format_reward_func", text) == 0.5


def test_the_answer_may_be_a_number_and_its_verifier_rides_along() -> None:
    verifier = gsm8k.correctness_reward_func.verifier
    assert verifier(LAID_OUT, answer=42, level=3) is True
    assert verifier(message(LAID_OUT), answer=" 42\n") is True
    assert verifier(LAID_OUT, answer="42.0") is False
    assert verifier("<answer>None</answer>", answer=None) is False
    assert not hasattr(gsm8k.int_reward_func, "verifier")


@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=30))
def test_no_text_raises_or_leaves_the_range(pieces: list[str]) -> None:
    text = "".join(pieces)
    for name, golden in gsm8k.GOLDEN.items():
        assert golden.low <= scored(name, text) <= golden.high
    if scored("strict_format_reward_func", text):
        assert scored("soft_format_reward_func", text) and scored("xmlcount_reward_func", text) == 0.5


@pytest.mark.parametrize("name", sorted(gsm8k.GOLDEN))
def test_golden_sets(name: str) -> None:
    golden = gsm8k.GOLDEN[name]
    scores = {
        kind: [(scored(name, e.completion, **e.columns), e) for e in getattr(golden, kind)]
        for kind in ("right", "wrong", "exploits")
    }
    assert all(len(examples) >= 5 for examples in scores.values())
    least = min(score for score, _ in scores["right"])
    assert {score for score, _ in scores["right"]} == {golden.high}
    for score, example in scores["wrong"]:
        assert score < least, example
    for score, example in scores["exploits"]:
        assert golden.low <= score <= golden.high
        assert (score >= least) == example.fools, example


def test_every_golden_set_has_its_function() -> None:
    assert gsm8k.GOLDEN.keys() == gsm8k.FUNCTIONS.keys()
    for name, function in gsm8k.FUNCTIONS.items():
        assert function.__name__ == name and function.__doc__


# --- functions for TRL's trainer -----------------------------------------------------------------------------------
# In the forms that public GRPO notebooks use: message lists indexed by hand, prints, re.match, columns by name.


def correctness_reward(prompts, completions, answer, **kwargs) -> list[float]:
    contents = [completion[0]["content"] for completion in completions]
    extracted = [content.split("<answer>")[-1].split("</answer>")[0].strip() for content in contents]
    print(
        "-" * 20,
        f"Question:\n{prompts[0][-1]['content']}",
        f"\nAnswer:\n{answer[0]}",
        f"\nGot:\n{extracted[0]}",
    )
    return [2.0 if e == a else 0.0 for e, a in zip(extracted, answer)]


def format_reward(completions, **kwargs):
    """Thinking, then an answer."""
    pattern = r"^<think>.*?</think>\s*<answer>.*?</answer>$"
    contents = [completion[0]["content"] for completion in completions]
    matches = [re.match(pattern, content, re.DOTALL) for content in contents]
    return [1.0 if match else 0.0 for match in matches]


def boxed_reward(completions, ground_truth, **kwargs):
    matches = [re.search(r"\\boxed\{(.*?)\}", completion[0]["content"]) for completion in completions]
    return [1.0 if m and m.group(1) == t else 0.0 for m, t in zip(matches, ground_truth)]


PRINTED = 0


def check_numbers(prompts, completions, answer, **kwargs):
    global PRINTED
    scores = []
    for completion, true_answer in zip(completions, answer):
        found = re.search(r"([-+]?\d+)", completion[0]["content"])
        if PRINTED % 2 == 0:
            print(f"{prompts[0][-1]['content']} -> {completion[0]['content']}")
        PRINTED += 1
        if found is None:
            scores.append(0)
            continue
        try:
            scores.append(1.5 if float(found.group(1)) == float(true_answer) else -0.5)
        except ValueError:
            scores.append(0)
            continue
    return scores


def length_reward(completions, **kwargs):
    return [-abs(20 - len(completion[0]["content"])) / 20 for completion in completions]


async def async_reward(prompts, completions, **kwargs):
    import asyncio

    await asyncio.sleep(0)
    return [float("42" in completion[0]["content"]) for completion in completions]


NOTEBOOK = [correctness_reward, format_reward, boxed_reward, check_numbers, length_reward, async_reward]

ROWS = [
    {
        "prompt": [{"role": "user", "content": question}],
        "answer": answer,
        "ground_truth": answer,
        "solution": f"$\\boxed{{{answer}}}$",
    }
    for question, answer in (("1+1=", "2"), ("17+25=", "42"))
]
TEXTS = ["<answer>2</answer>", "3", "<think>7+5</think><answer>42</answer>", "so \\boxed{42}"]


def score(*functions: Any, texts: list[str] = TEXTS) -> list[list[float]]:
    """Score four completions of two message-list prompts as the trainer does; one list for each function."""
    names = check_reward_functions(functions, None)
    check_columns(functions, [name for name in ROWS[0] if name != "prompt"])
    probe_reward_functions(functions, ROWS)
    completions = [Completion([ord(c) for c in t] + [1], [-0.5] * (len(t) + 1), t, "stop") for t in texts]
    prompts = [row["prompt"] for row in ROWS]
    rollout = Rollout(3, ROWS, prompts, [str(p) for p in prompts], [[1]] * 2, completions, 2)
    result = score_rollout(rollout, functions, names, [1.0] * len(functions), None)
    return result.per_function.flatten(0, 1).T.tolist()  # [P, G, F] → one row a function


def test_functions_from_notebooks_run_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    correct, form, boxed, numbers, length, later = score(*NOTEBOOK)
    assert correct == [2, 0, 2, 0]
    assert form == [0, 0, 1, 0]
    assert boxed == [0, 0, 0, 1]
    assert numbers == [1.5, -0.5, -0.5, 1.5]
    assert length == pytest.approx([-abs(20 - len(text)) / 20 for text in TEXTS])
    assert later == [0, 0, 1, 1]
    assert "Question:\n17+25=" not in capsys.readouterr().out  # it prints the first prompt, as TRL gives it


def test_trls_own_functions_run_as_they_are() -> None:
    trl = pytest.importorskip("trl.rewards")
    texts = ["<think>\n1\n</think>\n2", "3", "<think>a<think>b</think>42", "4242424242"]
    repeated = trl.get_repetition_penalty_reward(ngram_size=2)
    overlong = trl.get_soft_overlong_punishment(max_completion_len=10, soft_punish_cache=5)
    cosine = trl.get_cosine_scaled_reward(max_len=10)
    functions = (trl.think_format_reward, repeated, overlong, cosine)
    form, repetition, length, scaled = score(*functions, texts=texts)
    assert form == [1, 0, 0, 0]
    assert all(-1 <= value <= 1 for value in scaled)
    assert repetition[1] == 0 and repetition[3] == pytest.approx(
        -7 / 10
    )  # 42 24 42 … and the end: 10 pairs, 3 kinds
    assert length == [-1, 0, -1, -1]


def test_trls_accuracy_agrees_with_ours_on_boxes() -> None:
    pytest.importorskip("math_verify")
    trl = pytest.importorskip("trl.rewards")
    from rlkit.rewards.maths.rewards import correct_maths_strict

    texts = ["\\boxed{2}", "\\boxed{\\frac{4}{2}}", "\\boxed{42}", "\\boxed{41}"]
    (theirs,) = score(trl.accuracy_reward, texts=texts)
    assert theirs == [1, 1, 1, 0]
    thought = ["<think>1+1</think>" + text for text in texts]
    assert score(trl.reasoning_accuracy_reward, texts=thought) == [[1, 1, 1, 0]]
    ours = correct_maths_strict([""] * 4, texts, answer=["2", "2", "42", "42"])
    assert ours == [1, 0, 1, 0]  # 4/2 is not carried out


def test_a_training_takes_notebook_functions_beside_ours(tmp_path: Any) -> None:
    rewards = [*NOTEBOOK, gsm8k.correctness_reward_func, gsm8k.xmlcount_reward_func]
    trainer = make_trainer(tmp_path, reward=rewards, dataset=ROWS, max_steps=1, prompts_per_step=2)
    trainer.train()
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    for function in NOTEBOOK:
        assert any(function.__name__ in line for line in lines)
    assert all(weight.isfinite().all() for weight in trainer.model.parameters())
