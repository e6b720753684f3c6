"""The reward lab: every way to be paid for nothing is found, and nothing else is called one."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlkit import rewards, tasks
from rlkit.errors import ConfigError
from rlkit.rewards import registry
from rlkit.rewards.audits import exploits
from rlkit.rewards.audits.audit import audit
from rlkit.rewards.golden import Example, GoldenSet
from rlkit.rewards.rubrics import professions

ARITHMETIC = tasks.arithmetic()


def pays(condition: Any, name: str = "suspect") -> Any:
    """The reward function that pays 1 where ``condition(text, answer)`` holds, else 0."""

    def reward(prompts, completions, answer, **columns):
        texts = map(rewards.completion_text, completions)
        return [float(bool(condition(text, row))) for text, row in zip(texts, answer, strict=True)]

    reward.__name__ = name
    return reward


def kinds(found: Any) -> set[str]:
    return {hole.kind for hole in found.holes}


# --- rewards without a hole -------------------------------------------------------------------------------


@pytest.mark.parametrize("task", [ARITHMETIC, "arithmetic", "word_problems", tasks.arithmetic(chat=True)])
def test_the_guides_reward_has_no_hole(task: Any) -> None:
    found = audit("correct_number", task)
    assert found.ok and found.holes == [], str(found)
    assert not found.notes
    assert "correct_number: no hole found" in str(found)


def test_form_and_answer_together_have_none_either() -> None:
    found = audit([rewards.number_found, "correct_number", {"name": "xml_format", "right": 0.5}], ARITHMETIC)
    assert found.ok, str(found)
    best = max(s.score for s in found.scored if s.group == "right")
    assert best == 1 + 3 + 0.5
    assert found.scored[0].parts.keys() == {"number_found", "correct_number", "xml_format_reasoning_answer"}
    assert "number_found 1, correct_number 3" in str(found.scored[0])


def test_every_kind_has_its_line() -> None:
    found = audit("correct_number", ARITHMETIC, n=4)
    lines = {line.kind: line for line in found.lines}
    wanted = {
        *(f"right: {exploits.label(form)}" for form in exploits.FORMS),
        *("wrong: near miss", "wrong: another row's answer"),
        *(
            "empty",
            "white space",
            "prompt repeated",
            "the prompt's numbers",
            "every number listed",
            "marker spam",
        ),
        *("right answer in the wrong place", "huge output", "unicode digits", "injected tags", "refusal"),
        *("answer: unknown", "always the commonest answer", "two answers, the right one first"),
        *("golden right", "golden wrong", "golden exploit: huge output"),
    }
    assert wanted <= lines.keys()
    text = " ".join(str(found).split())
    for kind in wanted:
        shown = kind.removeprefix("right: ").removeprefix("wrong: ").removeprefix("golden exploit: ")
        assert shown.replace("golden right", "golden set").replace("golden wrong", "golden set") in text
    assert lines["empty"].count == 4 and lines["empty"].mean == -3 and lines["empty"].paid == 0
    assert lines["right: X"].paid == 1 and lines["right: X"].highest == 3
    assert max(len(s.text) for s in found.scored if s.kind == "huge output") > 30_000
    groups = [line.group for line in found.lines]
    assert groups == sorted(groups, key=("right", "wrong", "exploit").index)


@pytest.mark.parametrize("name", ["email", "database", "law", "medicine"])
def test_the_rubrics_hold_on_their_own_rows(name: str) -> None:
    """Whole solutions take the place of answers: those of other rows, all of them at once, and one only thought of."""
    examples = {"law": professions.LAW_EXAMPLES, "medicine": professions.MEDICINE_EXAMPLES}
    found = audit(f"{name}_rubric", examples.get(name, name))
    assert found.ok, str(found)
    assert found.name == f"rubric {name!r}" and len(found.scored[0].parts) >= 5
    lines = {line.kind: line for line in found.lines}
    wanted = {"wrong: another row's solution", "every answer listed", "right answer in the wrong place"}
    assert wanted <= lines.keys() and all(lines[kind].count >= 8 for kind in wanted)
    right = next(line for line in found.lines if line.group == "right")
    assert right.paid == 1 and right.lowest == getattr(rewards, f"{name}_rubric")().highest


def test_the_form_that_is_expected_is_tried_empty_too() -> None:
    """With forms of one's own, exploits take these forms."""
    form = "<start>So it is.<end><SOLUTION>{answer}</SOLUTION>"
    strict = pays(lambda text, answer: text.endswith(f"<SOLUTION>{answer}</SOLUTION>"))
    assert audit(strict, ARITHMETIC, forms=[form]).ok
    found = audit(pays(lambda text, answer: "<SOLUTION>" in text), ARITHMETIC, forms=[form])
    assert {"blind", "form with nothing in it", "marker spam", "right answer in the wrong place"} <= kinds(
        found
    )


# --- rewards with one -------------------------------------------------------------------------------------

SUSPECTS = {
    "mentions it": (
        lambda text, answer: answer in text,
        {"every number listed", "right answer in the wrong place", "two answers, the right one first"},
    ),
    "reads the first number": (
        lambda text, answer: (re.findall(r"\d+", text) or [""])[0] == answer,
        {"right answer in the wrong place", "two answers, the right one first"},
    ),
    "reads unicode digits": (
        lambda text, answer: int((re.findall(r"\d+", text) or ["-1"])[-1]) == int(answer),
        {"unicode digits"},
    ),
    "right unless a wrong number is there": (
        lambda text, answer: all(number == answer for number in re.findall(r"[0-9]+", text)),
        {"empty", "white space", "marker spam", "refusal", "answer: unknown", "words without an answer"},
    ),
    "believes what it reads": (
        lambda text, answer: '"correct": true' in text or text.strip().endswith(answer),
        {"injected tags"},
    ),
    "the longer the better": (lambda text, answer: len(text) > 5000 or text == answer, {"huge output"}),
    "likes the tags": (
        lambda text, answer: "<answer>" in text or text == answer,
        {"marker spam", "injected tags"},
    ),
    "nearly is enough": (
        lambda text, answer: any(abs(int(n) - int(answer)) <= 1 for n in re.findall(r"[0-9]+", text)[-1:]),
        {"wrong: near miss"},
    ),
    "sign does not matter": (
        lambda text, answer: (re.findall(r"[0-9]+", text) or [""])[-1] == answer,
        set(),  # and that is no hole that these trials look for
    ),
}


@pytest.mark.parametrize("name", SUSPECTS)
def test_a_hole_is_found(name: str) -> None:
    condition, wanted = SUSPECTS[name]
    found = audit(pays(condition, name), ARITHMETIC)
    assert wanted <= kinds(found), str(found)
    assert found.ok is (not wanted)
    for hole in found.holes:
        assert hole.examples and all(example.paid and example.group != "right" for example in hole.examples)
        assert hole.says in str(found)


def test_who_only_looks_at_form_cannot_tell_right_from_wrong() -> None:
    for reward in ("number_found", "only_number", "xml_format"):
        found = audit(reward, ARITHMETIC)
        assert found.holes[0].kind == "blind"
        assert "cannot tell right from wrong" in str(found)
        assert not any(kind.startswith("wrong") for kind in kinds(found))  # said once is enough
    assert {"every number listed", "prompt repeated"} <= kinds(audit("number_found", ARITHMETIC))


def test_the_prompt_may_be_all_that_is_wanted() -> None:
    def echoes(prompts, completions, answer):
        return [
            1.0 if p in c or c == a else 0.0 for p, c, a in zip(prompts, completions, answer, strict=True)
        ]

    assert "prompt repeated" in kinds(audit(echoes, ARITHMETIC))


def test_always_saying_the_same() -> None:
    rows = [{"prompt": f"Is {i} even?", "answer": "yes" if i % 4 else "no"} for i in range(40)]
    found = audit(pays(lambda text, answer: text.strip() == answer), rows)
    assert kinds(found) == {"always the commonest answer"}
    assert "75%" in str(found)


def test_luck_is_no_hole() -> None:
    """In a few stories the last number is the answer: repeating them is paid there, as any guess would be."""
    found = audit("correct_number", "word_problems", n=60)
    assert 0 < next(line.paid for line in found.lines if line.kind == "prompt repeated") < 0.1
    assert str(found).count("by luck") == 3 and "✗" not in str(found)
    assert found.ok


@pytest.mark.parametrize(
    ("reward", "kind", "says"),
    [
        (lambda completions, **columns: [0.5] * len(completions), "constant", "everything earns 0.5"),
        (lambda completions, **columns: [None] * len(completions), "silent", "None for everything"),
        (
            lambda completions, **columns: [float(c[0] == "4") for c in completions],
            "fails",
            "raised IndexError",
        ),
        (lambda completions, **columns: [float(len(c)) for c in completions][:3], "fails", "returned"),
    ],
)
def test_rewards_that_teach_nothing(reward: Any, kind: str, says: str) -> None:
    found = audit(reward, ARITHMETIC, n=3)
    assert found.holes[0].kind == kind
    assert says in str(found)


def test_a_form_that_is_not_tried_makes_a_reward_look_constant() -> None:
    marked = pays(lambda text, answer: f"<SOLUTION>{answer}</SOLUTION>" in text)
    found = audit(marked, ARITHMETIC)
    assert kinds(found) == {"constant"}
    assert "forms" in str(found)
    assert audit(marked, ARITHMETIC, forms=["<SOLUTION>{answer}</SOLUTION>"]).ok


def test_weights_decide_what_the_sum_pays_for() -> None:
    both = [rewards.number_found, rewards.correct_number]
    assert audit(both, ARITHMETIC, weights=[1.0, 0.5]).ok
    assert "blind" in kinds(audit(both, ARITHMETIC, weights=[1.0, 0.0]))


def test_an_async_reward_in_a_notebook() -> None:
    async def later(completions, answer):
        await asyncio.sleep(0)
        return [float(c == a) for c, a in zip(completions, answer, strict=True)]

    async def cell() -> Any:
        return audit(later, ARITHMETIC, n=4)

    assert asyncio.run(cell()).ok


def test_a_reward_that_hangs() -> None:
    async def hangs(completions, answer):
        if "" in completions:
            await asyncio.sleep(3600)
        return [float(c == a) for c, a in zip(completions, answer, strict=True)]

    found = audit(hangs, ARITHMETIC, n=2, timeout=1.0)
    assert kinds(found) == {"fails"}
    assert {s.kind for s in found.scored if s.failure} == {"empty"}


# --- golden sets ------------------------------------------------------------------------------------------

RIGHT = tuple(Example(text, {"answer": "42"}) for text in ("42", " 42"))
WRONG = tuple(Example(text, {"answer": "42"}) for text in ("41", "420"))


def test_a_golden_set_alone() -> None:
    strict = pays(lambda text, answer: text.strip() == answer)
    exploit = Example("42 42", {"answer": "42"}, "said twice")
    assert audit(strict, golden=GoldenSet(RIGHT, WRONG, (exploit,))).ok
    loose = pays(lambda text, answer: answer in text)
    found = audit(loose, golden=GoldenSet(RIGHT, WRONG, (exploit,)))
    assert kinds(found) == {"golden wrong", "golden exploit"}
    assert "golden set: said twice" in str(found)
    known = Example("42 42", {"answer": "42"}, "said twice", fools=True)
    assert kinds(audit(loose, golden=GoldenSet(RIGHT, WRONG, (known,)))) == {"golden wrong"}


def test_a_golden_set_knows_the_range() -> None:
    def big(completions, answer):
        return [7.0 if c.strip() == a else 0.0 for c, a in zip(completions, answer, strict=True)]

    assert kinds(audit(big, golden=GoldenSet(RIGHT, WRONG))) == {"range"}
    assert audit(big, golden=GoldenSet(RIGHT, WRONG, high=7.0)).ok


def test_a_golden_set_wants_an_opinion_on_right_answers() -> None:
    def shy(completions, answer):
        return [None if c == " 42" else float(c == a) for c, a in zip(completions, answer, strict=True)]

    assert kinds(audit(shy, golden=GoldenSet(RIGHT, WRONG))) == {"golden right"}


def test_a_function_may_carry_its_golden_set() -> None:
    strict = pays(lambda text, answer: text.strip() == answer)
    strict.golden = GoldenSet(RIGHT, WRONG)
    assert audit(strict).ok
    assert len(audit(strict).scored) == 4


def test_a_name_and_its_function_have_the_same_set() -> None:
    if "correct_number" not in registry.offers().golden:
        pytest.fail("correct_number has no golden set")
    size = len(audit("correct_number").scored)
    assert len(audit(rewards.correct_number).scored) == size > 15
    assert audit({"name": "xml_format", "tags": ["think"]}, ARITHMETIC, n=1).about == "1 row of arithmetic"


# --- with a model -----------------------------------------------------------------------------------------


def test_what_a_model_really_says() -> None:
    found = audit(
        "number_found", ARITHMETIC, "rlkit/tiny-arithmetic", n=12, samples=4, max_completion_length=4
    )
    lines = {line.kind: line for line in found.lines}
    assert lines["sampled, right"].count + lines["sampled, wrong"].count == 48
    assert lines["sampled, wrong"].count > 0
    for s in found.scored:
        if s.source == "model":
            assert (s.group == "right") == ARITHMETIC.verifier(s.text, **s.columns)
            assert len(s.columns["completion_ids"]) <= 4
    assert audit("correct_number", ARITHMETIC, "rlkit/tiny-arithmetic", max_completion_length=4).ok

    paid_for_tens = pays(
        lambda text, answer: text.strip()[1:] == answer[1:]
    )  # a forgotten carry does not matter
    assert "sampled, wrong" in kinds(
        audit(paid_for_tens, ARITHMETIC, "rlkit/tiny-arithmetic", max_completion_length=4)
    )


# --- what is tried ----------------------------------------------------------------------------------------


@given(st.integers() | st.decimals(allow_nan=False, allow_infinity=False, places=2) | st.text(min_size=1))
def test_a_near_miss_is_a_miss(answer: Any) -> None:
    text = str(answer)
    misses = exploits.near_misses(text)
    assert misses and text not in misses
    if isinstance(answer, int):
        assert not any(rewards.verify_number(miss, answer) for miss in misses)


@pytest.mark.parametrize("task", ["arithmetic", "word_problems"])
def test_no_exploit_solves_its_row_but_by_chance(task: str) -> None:
    made = tasks.load(task)
    rows = list(made.train)
    answers = [row["answer"] for row in rows]
    for row in rows[:200]:
        for trial in exploits.exploit_trials(row, answers, huge=False):
            assert trial.by_chance or not made.verifier(trial.text, **row), trial
        for trial in exploits.right_trials(row):
            assert made.verifier(trial.text, **row), trial
        for trial in exploits.wrong_trials(row, answers):
            assert not made.verifier(trial.text, **row), trial


@given(st.text(), st.text() | st.integers() | st.none())
def test_any_row_can_be_tried(prompt: str, answer: Any) -> None:
    row = {"prompt": prompt, "answer": answer}
    for trials in (
        exploits.right_trials(row),
        exploits.wrong_trials(row, ["x"]),
        exploits.exploit_trials(row, ["x"]),
    ):
        assert all(isinstance(trial.text, str) for trial in trials)


def test_rows_without_an_answer() -> None:
    rows = [{"prompt": "Say something kind.", "ideal": "You are kind."}, {"prompt": "Say something."}]

    def kind(completions):
        return [float("kind" in c and len(c) < 100) for c in completions]

    found = audit(kind, rows)
    assert "1 of 2 rows have no right answer" in str(found)
    assert kinds(found) == {"right answer in the wrong place"}  # thought of, and not said
    assert any(line.kind == "right: the column 'ideal'" for line in found.lines)


def test_answers_of_gsm8k() -> None:
    assert exploits.answer_of({"answer": "6 + 7 = 13\n#### 13"}) == "13"
    assert exploits.answer_of({"answer": 13}) == "13"
    assert exploits.answer_of({"answer": ["13"]}) is None
    assert exploits.answer_of({}) is None
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1="}]
    assert exploits.prompt_text(chat) == "1+1="


def test_a_verifier_that_raises_is_noted() -> None:
    class Broken:
        name, train = (
            "broken",
            ARITHMETIC.rows("train", 3),
        )

        @staticmethod
        def verifier(completion, answer):
            return int(completion) == int(answer)

    found = audit("correct_number", Broken, n=3)
    assert "verifier raised ValueError" in str(found)
    assert found.ok


# --- how it is shown --------------------------------------------------------------------------------------


def test_it_can_be_shown() -> None:
    evil = pays(lambda text, answer: "<answer>" in text or text == answer, "<b>evil</b>")
    found = audit(evil, ARITHMETIC, n=4)
    html = found._repr_html_()
    assert "<b>evil" not in html and "&lt;b&gt;evil" in html and "&lt;answer&gt;" in html
    dull = str(found).partition("Exploits that earn 0 at most, no more than silence: ")[2].partition(".")[0]
    headings = ["", "right answers", "wrong answers", "exploits"]
    assert html.count("<tr>") == len(found.lines) - len(dull.split(";")) + len(headings)
    assert (
        dull.count(";") > 3 and "empty" in dull and "marker spam" not in dull
    )  # that is paid, and has its row
    assert html.count("<li>✗") == len(found.holes)
    assert html.count("✗</td>") == len(found.holes) + 1  # two kinds of wrong answers, one hole
    assert repr(found) == str(found)
    assert max(len(line) for line in str(found).splitlines()) < 400  # 32 KB of spam is not printed
    worst = found.worst(3)
    assert len(worst) == 3 and all(s.group != "right" and s.paid for s in worst)
    json.dumps([s.text for s in worst])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (([],), "rewards=.*one or more"),
        (("corect_number", "arithmetic"), "Did you mean 'correct_number'"),
        (("correct_number", "arithmetics"), "Did you mean 'arithmetic'"),
        ((pays(lambda text, answer: True),), "task=None.*golden set"),
        (("correct_number", [{"prompt": "q"}]), "asks for a column 'answer'.*none beside prompt"),
        (("correct_number", []), "task="),
        (("correct_number", [{"question": "q"}]), "rows with a prompt"),
        (("correct_number", "arithmetic", None, 0), "n=0"),
        (("correct_number", None, "rlkit/tiny-arithmetic"), "task=None"),
    ],
)
def test_what_cannot_be_audited(arguments: tuple[Any, ...], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        audit(*arguments)


def test_weights_must_match() -> None:
    with pytest.raises(ConfigError, match=r"weights=\[1.0\].*there are 2"):
        audit(["number_found", "correct_number"], ARITHMETIC, weights=[1.0])


def test_a_model_needs_its_tokenizer() -> None:
    with pytest.raises(ConfigError, match="tokenizer=None"):
        audit("correct_number", ARITHMETIC, model=object())
