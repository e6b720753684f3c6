"""Reasoning templates: what is asked for, shown, read and paid for comes from one set of markers."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlkit import SFTConfig, SFTTrainer, load_model, rewards
from rlkit.embedded import END, build_tokenizer
from rlkit.errors import ConfigError
from rlkit.rewards.blocks import read_blocks
from rlkit.rewards.formats import read_tags
from rlkit.rewards.signatures import required_columns
from rlkit.rewards.templates.golden import GOLDEN
from rlkit.rewards.templates.reasoning import Parts, ReasoningTemplate
from rlkit.rewards.templates.rewards import FACTORIES, find_template, reasoning_format
from rlkit.rewards.verifiers import reward_from
from rlkit.rollout import tokenize_prompts
from rlkit.trainers.sft_data import make_examples

WORKING, ANSWER = "7+5=12, carry 1", "42"
TEMPLATES = {
    "working_out": ReasoningTemplate(),
    "think": ReasoningTemplate.think(),
    "xml": ReasoningTemplate.xml(),
    "prefilled": ReasoningTemplate(prefilled=True),
    "prefilled xml": ReasoningTemplate.xml(prefilled=True),
    # Quotes, braces, a backslash, a line break, other scripts: all of it must get through Jinja.
    "odd": ReasoningTemplate(
        ('{{"a\\n', "%}'b"), ("¡\n🎉!", "{# c #}"), instruction='Say "x" {{ y }}', prefilled=True
    ),
}
each_template = pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES.keys())


def one(reward: Any, completion: Any, **columns: Any) -> float:
    (score,) = reward([""], [completion], **{name: [value] for name, value in columns.items()})
    return score


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


# --- blocks ----------------------------------------------------------------------------------------------------------

TAGS = [("<a>", "</a>"), ("<b>", "</b>")]
PIECES = st.lists(st.sampled_from(["<a>", "</a>", "<b>", "</b>", "x", "\n", " "]), max_size=12).map("".join)


@given(PIECES | st.text())
def test_blocks_are_what_a_regular_expression_finds(text):
    match = re.fullmatch(r"\s*<a>(.*)</a>\s*<b>(.*)</b>\s*", text, re.DOTALL)
    once = all(text.count(marker) == 1 for block in TAGS for marker in block)
    found = match and [content.strip() for content in match.groups()]
    assert read_blocks(text, TAGS) == (found if once and found and all(found) else None)


@pytest.mark.parametrize("text", ["<a>x</b></a><b>y", "<a>x<b></a>y</b>", "<b>y</b><a>x</a>"])
def test_tags_out_of_order_are_not_read(text):
    assert read_blocks(text, TAGS) is None and read_tags(text, ("a", "b")) is None


@pytest.mark.parametrize("content", ["x", "\nx\n", " x\n", "\n\n x\n"])
@pytest.mark.parametrize("after", ["", "\n", "\n\n", " "])
def test_blocks_in_their_layouts(content, after):
    direct = f"<a>{content}</a><b>{content}</b>{after}"
    lines = f"<a>{content}</a>\n<b>{content}</b>{after}"
    assert read_blocks(direct, TAGS) == read_blocks(lines, TAGS) == ["x", "x"]
    ended = after in ("", "\n")
    own = content.startswith("\n") and content.endswith("\n")
    assert (read_blocks(direct, TAGS, True, own_lines=False) is not None) == ended
    assert read_blocks(lines, TAGS, True, own_lines=False) is None
    assert (read_blocks(lines, TAGS, True) is not None) == (ended and own)
    assert read_blocks(direct, TAGS, True) is None


def test_a_marker_that_hides_in_another_block_is_out_of_order():
    assert read_blocks("<a>x</b></a><b>y", TAGS) is None
    assert read_blocks("<a>x<b></a>y</b>", TAGS) is None
    assert read_blocks("<a>x</a><b>y</b>", TAGS) == ["x", "y"]


# --- markers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (dict(reasoning=("<think>",)), "reasoning="),
        (dict(reasoning="<think></think>"), "reasoning="),
        (dict(reasoning=("<think>", "")), "not blank"),
        (dict(solution=("<answer>", " \n")), "solution="),
        (dict(solution=("<answer>", 3)), "solution="),
        (dict(reasoning=("#", "#")), "occurs in"),
        (dict(reasoning=("<a>", "</a>"), solution=("<a>", "</b>")), "occurs in"),
        (dict(reasoning=("think>", "</think>")), "occurs in"),
        (dict(instruction=3), "instruction="),
        (dict(prefilled="yes"), "prefilled="),
        (dict(own_lines=1), "own_lines="),
    ],
)
def test_markers_that_cannot_be_told_apart(settings, says):
    with pytest.raises(ConfigError, match=says):
        ReasoningTemplate(**settings)


def test_a_template_is_a_value():
    assert ReasoningTemplate() == ReasoningTemplate.working_out() == find_template("working_out")
    from_file = find_template({"reasoning": ["<think>", "</think>"], "solution": ["<answer>", "</answer>"]})
    assert from_file == ReasoningTemplate.think() and hash(from_file) == hash(ReasoningTemplate.think())
    assert find_template(from_file) is from_file
    with pytest.raises(AttributeError):
        from_file.prefilled = True
    for unknown, says in (
        ("thnik", "Did you mean 'think'"),
        ({"reasonin": 1}, "Did you mean 'reasoning'"),
        (3, "template=3"),
    ):
        with pytest.raises(ConfigError, match=says):
            find_template(unknown)


# --- what is asked for -----------------------------------------------------------------------------------------------


@each_template
def test_the_prompt_names_the_markers(template):
    system, question = template.prompt("17+25=")
    assert all(system["content"].count(marker) == 1 for marker in template.markers)
    assert system["role"] == "system" and question == {"role": "user", "content": "17+25="}
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "17+25="}]
    both, _ = template.prompt(chat)
    assert both["content"] == f"Be brief.\n{template.system_prompt}"
    assert chat[0]["content"] == "Be brief.", "what was given stays as it is"
    assert template.prompt(chat[1:]) == template.prompt("17+25=")


@pytest.mark.parametrize("question", ["", " \n", [], 42, None, ["17+25="]])
def test_a_question_must_be_one(question):
    with pytest.raises(ConfigError, match="question="):
        ReasoningTemplate().prompt(question)


def test_the_instruction_comes_first():
    assert ReasoningTemplate(instruction="Add. ").system_prompt.startswith("Add.\nFirst ")
    assert ReasoningTemplate(instruction="").system_prompt.startswith("First ")
    assert "line of its own" in ReasoningTemplate.xml().system_prompt


@each_template
def test_the_chat_template_writes_it_exactly(template):
    tokenizer = template.apply_to(build_tokenizer())
    prompt = template.prompt("17+25=")
    written = template.completion(WORKING, ANSWER)
    opening = template.reasoning[0] if template.prefilled else ""
    before = f"{template.system_prompt}\n\nUser:\n17+25=\n\nAssistant:\n{opening}"

    def text(messages: list[dict[str, Any]], generate: bool = False) -> str:
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generate)

    assert text(prompt, generate=True) == before
    assert text(prompt[1:], generate=True) == before, "a conversation without a system message gets it"
    done = [*prompt, *said(written)]
    assert text(done) == f"{before}{written}{END}\n\n"
    assert text([*done, {"role": "user", "content": "2+2="}], generate=True) == (
        f"{before}{written}{END}\n\nUser:\n2+2=\n\nAssistant:\n{opening}"
    )
    whole = [*prompt, *said(template.whole(written))]
    assert text(whole) == text(done), "an opening marker that is there is not written twice"
    parts = [{"role": m["role"], "content": [{"type": "text", "text": m["content"]}]} for m in done]
    assert text(parts) == text(done)
    assert template.read(text(done).removeprefix(before).removesuffix(f"{END}\n\n")) == (WORKING, ANSWER)


def test_its_own_system_message_is_kept():
    tokenizer = ReasoningTemplate().apply_to(build_tokenizer())
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert text == "Be brief.\n\nUser:\nHi\n\nAssistant:\n"


def test_sampling_starts_behind_the_opening_marker():
    template = ReasoningTemplate(prefilled=True)
    tokenizer = template.apply_to(build_tokenizer())
    (text,), (ids,) = tokenize_prompts(tokenizer, [template.prompt("17+25=")])
    assert text.endswith(template.reasoning[0])
    assert tokenizer.decode(ids) == text


def test_bos_and_eos():
    tokenizer = build_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(ConfigError, match="eos_token"):
        ReasoningTemplate().apply_to(tokenizer)

    class Begins:
        bos_token, bos_token_id, eos_token = "<s>", 1, "</s>"

        def __call__(self, text: str) -> dict[str, list[int]]:
            return {"input_ids": [1, *map(ord, text)]}

    begins = ReasoningTemplate().apply_to(Begins())
    assert begins.chat_template == "{{ bos_token }}" + ReasoningTemplate().chat_template
    silent = Begins()
    silent.bos_token_id = 2  # there is one, but no text begins with it
    assert ReasoningTemplate().apply_to(silent).chat_template == ReasoningTemplate().chat_template


# --- what is shown ---------------------------------------------------------------------------------------------------


def test_completions_are_written_in_their_layout():
    inner = f"{WORKING}<end_working_out><SOLUTION>42</SOLUTION>"
    assert ReasoningTemplate().completion(f" {WORKING}\n", "42 ") == f"<start_working_out>{inner}"
    assert ReasoningTemplate(prefilled=True).completion(WORKING, "42") == inner
    lines = f"<reasoning>\n{WORKING}\n</reasoning>\n<answer>\n42\n</answer>"
    assert ReasoningTemplate.xml().completion(WORKING, "42") == lines
    assert one(rewards.xml_format(strict=True), lines) == 1.0


@each_template
@given(working=st.text(min_size=1), answer=st.text(min_size=1))
def test_what_is_written_can_be_read(template, working, answer):
    if (
        not working.strip()
        or not answer.strip()
        or any(m in working + "|" + answer for m in template.markers)
    ):
        return
    written = template.completion(working, answer)
    assert template.read(written) == template.read(written, strict=True) == (working.strip(), answer.strip())
    assert template.read(said(written)) == Parts(working.strip(), answer.strip())
    assert template.solution_in(written) == answer.strip()


@pytest.mark.parametrize(
    ("working", "answer"),
    [("", "42"), ("x", " "), ("x", 42), ("a <SOLUTION> b", "42"), ("x", "42</SOLUTION>")],
)
def test_completions_that_could_not_be_read_back(working, answer):
    with pytest.raises(ConfigError, match="reasoning|solution"):
        ReasoningTemplate().completion(working, answer)


def test_demonstrations():
    template = ReasoningTemplate.think(prefilled=True)
    solved = [{"question": "17+25=", "reasoning": WORKING, "answer": 42, "level": 1}]
    (row,) = template.demonstrations(solved)
    assert row == {
        "prompt": template.prompt("17+25="),
        "completion": said(f"{WORKING}</think><answer>42</answer>"),
    }
    renamed = [{"q": "17+25=", "steps": WORKING, "a": "42"}]
    assert template.demonstrations(renamed, question="q", reasoning="steps", answer="a") == [row]
    with pytest.raises(ConfigError, match="row 0 has no 'question' .found: q, steps, a."):
        template.demonstrations(renamed)
    with pytest.raises(ConfigError, match="row 1 cannot be shown.*solution"):
        template.demonstrations([*solved, {**solved[0], "answer": True}])
    with pytest.raises(ConfigError, match="row 0 cannot be shown.*</think>"):
        template.demonstrations([{**solved[0], "reasoning": "</think>"}])


@each_template
def test_demonstrations_teach_the_completion_and_nothing_else(template):
    tokenizer = template.apply_to(build_tokenizer())
    rows = template.demonstrations([{"question": "17+25=", "reasoning": WORKING, "answer": ANSWER}])
    (example,), _ = make_examples(rows, tokenizer, end_ids=[tokenizer.eos_token_id])
    learned = [token for token, learn in zip(example.input_ids, example.learned, strict=True) if learn]
    assert tokenizer.decode(learned) == template.completion(WORKING, ANSWER) + END
    _, (sampled_from,) = tokenize_prompts(tokenizer, [rows[0]["prompt"]])
    assert example.input_ids[: example.learned.index(True)] == sampled_from


@pytest.mark.parametrize("prefilled", [False, True])
def test_a_warm_start_learns_from_them(tmp_path, prefilled):
    model, tokenizer = load_model("rlkit/tiny-arithmetic")
    template = ReasoningTemplate.think(prefilled=prefilled)
    template.apply_to(tokenizer)
    solved = [{"question": f"{a}+5=", "reasoning": f"{a}, then 5 more", "answer": a + 5} for a in range(4)]
    settings = dict(max_steps=2, rows_per_step=4, learning_rate=1e-3, lr_scheduler_type="constant", seed=0)
    args = SFTConfig(output_dir=str(tmp_path / "run"), save_model=False, disable_tqdm=True, **settings)
    rows = template.demonstrations(solved)
    trainer = SFTTrainer(model, args, rows, processing_class=tokenizer)
    assert trainer.left_out == {"train_dataset": 0, "eval_dataset": 0}
    summary = trainer.train()
    assert math.isfinite(summary["train_loss_last"])
    assert summary["train_loss_last"] < summary["train_loss_first"]


# --- what is read and paid for ---------------------------------------------------------------------------------------


def test_prefilled_completions_lack_the_opening_marker():
    plain, prefilled = ReasoningTemplate.think(), ReasoningTemplate.think(prefilled=True)
    rest = f"{WORKING}</think><answer>42</answer>"
    assert prefilled.read(rest) == plain.read(f"<think>{rest}") == (WORKING, ANSWER)
    assert plain.read(rest) is None
    assert prefilled.read(f"<think>{rest}") is None, "the prompt has opened it already"
    assert one(prefilled.approximate_format_reward(), rest) == 1.0
    assert one(prefilled.approximate_format_reward(), f"<think>{rest}") == 0.5
    assert one(prefilled.number_reward(), rest, answer="42") == 3.0


@pytest.mark.parametrize(
    ("text", "solution"),
    [
        ("<answer>42</answer>", "42"),
        ("<think>x</think> <answer> 42\n</answer> bye", "42"),
        ("<think>x <answer>42</answer>", "42"),
        ("<think>x</think><answer>4</answer><answer>2</answer>", None),
        ("<answer>42</answer><think>x</think>", None),
        ("<think>x <answer>42</answer></think>", None),
        ("</answer><answer>42</answer>", None),
        ("<answer>42", None),
        ("42</answer>", None),
        ("<answer> </answer>", None),
        ("", None),
    ],
)
def test_where_a_solution_is_looked_for(text, solution):
    assert ReasoningTemplate.think().solution_in(text) == solution


def test_the_scores():
    template = ReasoningTemplate.think()
    loose, exact = "<think>x</think> <answer>42</answer>", "<think>x</think><answer>42</answer>"
    assert [one(template.format_reward(), text) for text in (loose, exact, "42")] == [1, 1, 0]
    strict = template.format_reward(strict=True, right=2, wrong=-1)
    assert [one(strict, text) for text in (loose, exact, exact + "\n", "42")] == [-1, 2, 2, -1]
    counted = template.approximate_format_reward(right=0.5, wrong=-1.0)
    texts = (exact, "42", "<think>x</think>", "<think>" + exact, "</answer><think></think><answer>")
    assert [one(counted, text) for text in texts] == [2, -4, -1, 0.5, 2]
    numbers = template.number_reward(right=5, wrong=-1)
    assert [one(numbers, text, answer="42") for text in (loose, "42", "<answer>It is 42.</answer>")] == [
        5,
        -1,
        5,
    ]
    whole = template.number_reward(whole=True)
    assert [one(whole, text, answer="42") for text in (loose, "<answer>42</answer>")] == [3, -3]


def test_answers_by_verifier_and_by_comparison():
    template = ReasoningTemplate.think()
    right, wrong = ("<think>x</think><answer>Paris</answer>", "<think>Paris</think><answer>Rome</answer>")
    exact = template.answer_reward()
    assert required_columns(exact) == ["answer"]
    assert [one(exact, text, answer=" Paris ") for text in (right, wrong)] == [3, -3]
    assert exact.verifier(said(right), answer="Paris", prompt="?", level=3) is True
    assert one(exact, "<think>x</think><answer>None</answer>", answer=None) == -3
    loose = template.answer_reward(
        compare=lambda solution, answer: solution.lower() == answer.lower(), right=1
    )
    assert [one(loose, text, answer="PARIS") for text in (right, wrong)] == [1, -3]

    def starts(completion: str, *, letter: str) -> bool:
        return completion.startswith(letter)

    judged = template.answer_reward(starts, wrong=0)
    assert required_columns(judged) == ["letter"]
    assert [one(judged, text, letter="P", other="x") for text in (right, wrong)] == [3, 0]
    carried = template.answer_reward(rewards.correct_number.verifier)
    assert required_columns(carried) == ["answer"]
    assert one(carried, "<answer>42</answer>", answer="42") == 3
    nested = template.answer_reward(reward_from(starts).verifier)
    assert one(nested, right, letter="P") == 3
    for wrong_arguments in (dict(verifier=starts, compare=starts), dict(verifier="starts"), dict(compare=3)):
        with pytest.raises(ConfigError, match="compare=|verifier="):
            template.answer_reward(**wrong_arguments)


def test_what_one_would_start_with():
    template = ReasoningTemplate()
    names = ["reasoning_markers", "reasoning_format", "reasoning_number"]
    assert [rewards.reward_name(reward) for reward in template.rewards()] == names
    names[-1] = "reasoning_answer"
    assert [rewards.reward_name(reward) for reward in template.rewards(lambda completion: True)] == names
    written = template.completion(WORKING, ANSWER)
    assert [one(reward, written, answer="42") for reward in template.rewards()] == [1.0, 1.0, 3.0]


def test_by_name():
    assert reasoning_format("think", strict=True).__name__ == "reasoning_format_strict"
    for name, make in FACTORIES.items():
        reward = make()
        assert reward.__name__ == name and reward.__doc__
        assert one(make({"prefilled": True}), "x<end_working_out><SOLUTION>42</SOLUTION>", answer="42") > 0


# --- golden sets -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FACTORIES)
def test_golden(name):
    golden, reward = GOLDEN[name], FACTORIES[name]()
    assert min(len(golden.right), len(golden.wrong), len(golden.exploits)) >= 5

    def score(example: Any) -> float:
        value = one(reward, example.completion, **example.columns)
        assert golden.low <= value <= golden.high
        assert one(reward, said(example.completion), **example.columns) == value
        return value

    worst = min(score(example) for example in golden.right)
    assert worst == golden.high
    for example in (*golden.wrong, *golden.exploits):
        assert (score(example) >= worst) == example.fools, example.note


@each_template
@given(
    text=st.text() | st.lists(st.sampled_from([*ReasoningTemplate().markers, "42", "\n", "x"])).map("".join)
)
def test_nothing_raises(template, text):
    for reward in template.rewards():
        assert -3.0 <= one(reward, text, answer="42") <= 3.0
    assert template.read(text) is None or template.read(text).solution == template.solution_in(text)
