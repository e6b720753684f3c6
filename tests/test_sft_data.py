"""Demonstrations: which tokens a row becomes, which of them are learned, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from rlkit import tasks
from rlkit.config import ConfigWarning
from rlkit.embedded import END, build_tokenizer
from rlkit.errors import ConfigError
from rlkit.rollout import tokenize_prompts
from rlkit.trainers.sft_data import Example, demonstrations, make_examples

# Turns with a role, an end token and a line break after it, as ChatML's.
TURNS = (
    "{% for m in messages %}[{{ m['role'] }}]\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]\n{% endif %}"
)
# A thinking model's: what was thought in earlier turns is dropped.
FORGETS = (
    "{% for m in messages %}[{{ m['role'] }}]\n"
    "{{ m['content'] if loop.last else m['content'].split('</think>')[-1] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]\n{% endif %}"
)
# One that opens the turn with a thinking block, which finished answers do not have.
OPENS = TURNS.replace(
    "{% if add_generation_prompt %}[assistant]\n", "{% if add_generation_prompt %}[assistant]\n<think>"
)


def turn(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def user(content: str) -> dict[str, Any]:
    return turn("user", content)


def said(content: str) -> dict[str, Any]:
    return turn("assistant", content)


@pytest.fixture
def tokenizer() -> Any:
    return build_tokenizer()


def example_of(row: dict[str, Any], tokenizer: Any, template: str | None = None) -> Example:
    if template is not None:
        tokenizer.chat_template = template
    (example,), left_out = make_examples([row], tokenizer, end_ids=[tokenizer.eos_token_id])
    assert left_out == 0
    return example


def learned_texts(example: Example, tokenizer: Any) -> list[str]:
    """The stretches of learned tokens, as text."""
    texts, open_ = [], False
    for token, learn in zip(example.input_ids, example.learned, strict=True):
        if learn:
            texts += [] if open_ else [""]
            texts[-1] += tokenizer.decode([token])
        open_ = learn
    return texts


# -- what is learned ---------------------------------------------------------------------------------------


def test_two_strings(tokenizer: Any) -> None:
    example = example_of({"prompt": "17+25=", "completion": "42"}, tokenizer)
    assert tokenizer.decode(example.input_ids) == "17+25=42" + END
    assert example.learned == [False] * 6 + [True] * 3


def test_an_end_token_that_is_there_is_not_doubled(tokenizer: Any) -> None:
    row = {"prompt": "17+25=", "completion": "42"}
    assert example_of({**row, "completion": "42" + END}, tokenizer) == example_of(row, tokenizer)


def test_a_chat_and_two_strings_are_the_same_tokens_with_the_embedded_template(tokenizer: Any) -> None:
    text = example_of({"prompt": "17+25=", "completion": "42"}, tokenizer)
    assert example_of({"prompt": [user("17+25=")], "completion": [said("42")]}, tokenizer) == text
    assert example_of({"messages": [user("17+25="), said("42")]}, tokenizer) == text


@pytest.mark.parametrize("prompt", ["17+25=", [turn("system", "Add."), user("17+25=")]])
def test_the_prompt_is_tokenised_as_for_sampling(tokenizer: Any, prompt: Any) -> None:
    tokenizer.chat_template = TURNS
    _, (sampled_from,) = tokenize_prompts(tokenizer, [prompt])
    (row,) = demonstrations([{"prompt": prompt, "answer": "42"}])
    example = example_of(row, tokenizer)
    assert example.input_ids[: len(sampled_from)] == sampled_from
    assert example.learned == [False] * len(sampled_from) + [True] * 3


def test_every_turn_of_the_assistant_and_nothing_else(tokenizer: Any) -> None:
    messages = [turn("system", "Add."), user("1+1="), said("2"), user("2+2="), said("4"), user("thanks")]
    example = example_of({"messages": messages}, tokenizer, TURNS)
    assert learned_texts(example, tokenizer) == [
        "2" + END,
        "4" + END,
    ]  # not the line break: it is never sampled
    assert tokenizer.decode(example.input_ids) == (
        "[system]\nAdd.<|end|>\n[user]\n1+1=<|end|>\n[assistant]\n2<|end|>\n[user]\n2+2=<|end|>\n[assistant]\n4<|end|>"
    )


def test_turns_in_the_prompt_are_not_learned_and_tools_in_the_completion_neither(tokenizer: Any) -> None:
    row = {
        "prompt": [user("1+1="), said("2"), user("12·12=")],
        "completion": [said("calc(12*12)"), turn("tool", "144"), said("144")],
    }
    example = example_of(row, tokenizer, TURNS)
    assert learned_texts(example, tokenizer) == ["calc(12*12)" + END, "144" + END]


def test_tools_reach_the_template(tokenizer: Any) -> None:
    template = "{% if tools %}({{ tools[0]['name'] }}){% endif %}" + TURNS
    messages = [user("1+1="), said("2")]
    for tools in ([{"name": "calc"}], '[{"name": "calc"}]'):
        example = example_of({"messages": messages, "tools": tools}, tokenizer, template)
        assert tokenizer.decode(example.input_ids).startswith("(calc)[user]")


def test_a_token_across_the_border_is_not_used(tokenizer: Any) -> None:
    """Sampling starts from the prompt's own tokens: so must learning."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    vocab = {text: i for i, text in enumerate(["<e>", "1", "+", "=", "2", "=2", "2 ", " "])}
    core = Tokenizer(models.BPE(vocab=vocab, merges=[("=", "2"), ("2", " ")]))
    merging = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<e>", pad_token="<e>")
    assert merging("1+1=2")["input_ids"] == [1, 2, 1, 5], "the test needs the merge"
    example = example_of({"prompt": "1+1=", "completion": "2"}, merging)
    assert example == Example([1, 2, 1, 3, 4, 0], [False] * 4 + [True] * 2)


def test_templates_that_change_what_was_said_are_refused_where_it_matters(tokenizer: Any) -> None:
    thought = said("<think>1+1</think>2")
    one = example_of({"messages": [user("1+1="), thought]}, tokenizer, FORGETS)
    assert learned_texts(one, tokenizer) == ["<think>1+1</think>2" + END]
    in_prompt = {"prompt": [user("1+1="), thought, user("2+2=")], "completion": [said("4")]}
    assert learned_texts(example_of(in_prompt, tokenizer, FORGETS), tokenizer) == ["4" + END]
    with pytest.raises(ConfigError, match=r"row 0 of train_dataset.*message 1 differently.*one row a turn"):
        example_of({"messages": [user("1+1="), thought, user("2+2="), said("4")]}, tokenizer, FORGETS)
    with pytest.raises(ConfigError, match=r"opens the assistant's turn with .*<think>"):
        example_of({"messages": [user("1+1="), said("2")]}, tokenizer, OPENS)


def test_a_turn_without_an_end_token_is_warned_of(tokenizer: Any) -> None:
    tokenizer.chat_template = TURNS.replace("<|end|>", "[end]")
    rows = [{"messages": [user("1+1="), said("2")]}] * 3
    with pytest.warns(
        ConfigWarning, match=r"in 3 of the 3 rows .* sampling stops \('<\|end\|>'\).*learn to stop"
    ):
        ((example, *_), _) = make_examples(rows, tokenizer, end_ids=[tokenizer.eos_token_id])
    assert learned_texts(example, tokenizer) == ["2[end]\n"]


def test_rows_that_are_too_long_are_left_out_and_counted(tokenizer: Any) -> None:
    rows = [{"prompt": "1" * n, "completion": "2"} for n in (3, 8, 9, 20)]  # n + 2 tokens
    ends = [tokenizer.eos_token_id]
    with pytest.warns(
        ConfigWarning, match=r"2 of the 4 rows of held_out are left out.*max_length=10.*longest: 22"
    ):
        examples, left_out = make_examples(rows, tokenizer, end_ids=ends, max_length=10, name="held_out")
    assert [len(example) for example in examples] == [5, 10]
    assert left_out == 2
    with pytest.raises(
        ConfigError, match=r"all 4 rows .* longer than max_length=4 tokens \(the longest: 22\)"
    ):
        make_examples(rows, tokenizer, end_ids=ends, max_length=4)


def test_hugging_face_data_sets(tokenizer: Any) -> None:
    datasets = pytest.importorskip("datasets")
    rows = [{"messages": [user("1+1="), said("2")]}, {"messages": [user("2+2="), {**said("4"), "name": "x"}]}]
    table = datasets.Dataset.from_list(rows)
    ends = [tokenizer.eos_token_id]
    assert make_examples(table, tokenizer, end_ids=ends) == make_examples(rows, tokenizer, end_ids=ends)


# -- what is refused ---------------------------------------------------------------------------------------

GOOD = {"prompt": "1+1=", "completion": "2"}

REFUSED: list[tuple[str, Any, list[str]]] = [
    ("nothing", None, ["must be a list of dicts", "prompts and completions", "not None"]),
    ("a file's name", "train.jsonl", ["'train.jsonl'", "Read the file first"]),
    ("columns", {"prompt": ["1+1="]}, ["datasets.Dataset.from_dict"]),
    ("empty", [], ["has no rows", "filtered to nothing"]),
    ("strings", [GOOD, "2+2="], ["row 1", "'2+2='", "must be a dict", '"completion": "42"']),
    (
        "text only",
        [{"text": "1+1=2"}],
        ["row 0", "no completion to learn", "found: text", "where the prompt ends"],
    ),
    (
        "prompts only",
        [{"prompt": "1+1=", "answer": "2"}],
        ["found: prompt, answer", 'the answer\'s to "completion"'],
    ),
    ("another's columns", [{"instruction": "1+1=", "output": "2"}], ["found: instruction, output", "Rename"]),
    ("ShareGPT", [{"conversations": [{"from": "human", "value": "1+1="}]}], ["'from' to 'role'"]),
    ("no columns", [{}], ["row 0", "found: no columns"]),
    ("two formats", [{**GOOD, "messages": [user("1"), said("2")]}], ["messages too", "Remove the one"]),
    (
        "half a chat",
        [{"prompt": [user("1+1=")], "completion": "2"}],
        ["'2' (type str)", "two strings or two lists"],
    ),
    ("an empty prompt", [GOOD, {**GOOD, "prompt": " "}], ["prompt of row 1", "empty"]),
    ("an empty completion", [{**GOOD, "completion": ""}], ["completion of row 0", "empty", "fill it in"]),
    ("no messages", [{"messages": []}], ["messages of row 0", "not empty"]),
    ("messages as text", [{"messages": "hello"}], ["messages of row 0", "'hello'", "'role' and 'content'"]),
    ("a message without a role", [{"messages": [{"content": "2"}]}], ["'role' and 'content'"]),
    (
        "no answer",
        [{"messages": [turn("system", "Add."), user("1+1=")]}],
        ["says nothing", "roles: system, user"],
    ),
    ("a blank answer", [{"messages": [user("1+1="), said(" ")]}], ["says nothing", "roles: user, assistant"]),
    (
        "no question",
        [{"messages": [said("2"), user("?"), said("2")]}],
        ["begins with the assistant's message"],
    ),
    ("a question without tokens", [{"messages": [user(""), said("2")]}], ["prompt of row 0", "no tokens"]),
    (
        "an answer in the prompt",
        [{"prompt": [user("1+1="), said("2")], "completion": [said("2")]}],
        ["last message of the prompt is the assistant's", "in the completion"],
    ),
]


@pytest.mark.parametrize(
    ("dataset", "says"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED]
)
def test_refused_with_row_and_cause(tokenizer: Any, dataset: Any, says: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        make_examples(dataset, tokenizer, end_ids=[tokenizer.eos_token_id], name="val_set")
    for part in ["val_set", *says]:
        assert part in str(caught.value)


def test_what_the_template_or_the_tokenizer_cannot_do(tokenizer: Any) -> None:
    tokenizer.chat_template = "{{ raise_exception('only the user speaks') }}"
    with pytest.raises(
        ConfigError, match=r"cannot read row 0 .*only the user speaks.*takes rows of two strings"
    ):
        make_examples([{"messages": [user("1"), said("2")]}], tokenizer, end_ids=[1])
    with pytest.raises(ConfigError, match="must be the model's tokenizer"):
        make_examples([GOOD], None, end_ids=[1])
    tokenizer.eos_token = None
    with pytest.raises(ConfigError, match=r"no eos_token.*Set tokenizer\.eos_token"):
        make_examples([GOOD], tokenizer, end_ids=[])


# -- from a task -------------------------------------------------------------------------------------------


def test_demonstrations_from_a_task() -> None:
    task = tasks.arithmetic()
    first = task.train[0]
    assert demonstrations(task.train)[0] == {"prompt": first["prompt"], "completion": first["answer"]}
    worked = demonstrations(task.train, lambda row: f"so {row['answer']}")
    assert worked[0]["completion"] == f"so {first['answer']}"
    chat = demonstrations(tasks.arithmetic(chat=True).train)[0]
    assert chat == {"prompt": [user(first["prompt"])], "completion": [said(first["answer"])]}
    assert demonstrations([{"prompt": "1+1=", "n": 2}], "n")[0]["completion"] == "2"


@pytest.mark.parametrize(
    ("rows", "answer", "says"),
    [
        (
            [{"question": "1+1=", "answer": "2"}],
            "answer",
            ["row 0", "no 'prompt'", "found: question, answer"],
        ),
        ([{"prompt": "1+1=", "solution": "2"}], "answer", ["no 'answer'", "or a function of the row"]),
        ([{"prompt": "1+1=", "answer": None}], "answer", ["answer of row 0 is None", "whole number"]),
        ([{"prompt": "1+1=", "answer": ""}], "answer", ["answer of row 0", "not empty"]),
        ([{"prompt": "1+1=", "answer": "2"}], lambda row: ["2"], ["['2'] (type list)"]),
    ],
)
def test_demonstrations_refused(rows: Any, answer: Any, says: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        demonstrations(rows, answer)
    for part in says:
        assert part in str(caught.value)
