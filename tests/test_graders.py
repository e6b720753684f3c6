"""Graders of reinforcement fine-tuning from their JSON form: what they give, and what is refused."""

from __future__ import annotations

import asyncio
import json
import math
import os
import warnings

import pytest
from chat_server import ChatServer, Reply, said
from hypothesis import given
from hypothesis import strategies as st

from rlkit.errors import ConfigError, RewardError
from rlkit.rewards.calls import RewardWarning
from rlkit.rewards.graders import formula, rft, similarity, templates
from rlkit.rewards.graders.rft import from_json, string_check, text_similarity
from rlkit.rewards.judge.usage import JudgeWarning
from rlkit.rewards.signatures import required_columns, reward_name


def message(text):
    return [{"role": "assistant", "content": text}]


def check(operation="eq", **more):
    spec = {
        "type": "string_check",
        "name": "right",
        "operation": operation,
        "input": "{{ sample.output_text }}",
        "reference": "{{ item.answer }}",
    }
    return {**spec, **more}


def python(source, **more):
    return {"type": "python", "name": "own", "source": source, **more}


# --- string_check ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "text", "score"),
    [
        ("eq", "Paris", 1),
        ("eq", "paris", 0),
        ("eq", "Paris.", 0),
        ("ne", "Paris", 0),
        ("ne", "Lyon", 1),
        ("like", "It is Paris.", 1),
        ("like", "It is paris.", 0),
        ("ilike", "IT IS PARIS.", 1),
        ("ilike", "It is Lyon.", 0),
    ],
)
def test_string_check(operation, text, score):
    reward = from_json(check(operation))
    assert reward(["", ""], [text, message(text)], answer=["Paris", "Paris"]) == [score, score]
    assert reward.verifier(text, answer="Paris") is bool(score)
    assert required_columns(reward) == ["answer"]
    assert reward_name(reward) == "right"


def test_a_reference_that_everything_holds_is_the_data_sets_fault():
    with pytest.raises(RewardError, match="reference is empty"):
        from_json(check("like"))([""], ["x"], answer=[""])
    assert from_json(check("eq"))([""], [""], answer=[""]) == [1.0]


def test_json_comes_as_mapping_text_or_file(tmp_path):
    path = tmp_path / "grader.json"
    path.write_text(json.dumps(check()))
    for form in (check(), json.dumps(check()), path, str(path)):
        assert from_json(form)([""], ["42"], answer=["42"]) == [1.0]


def test_the_prompt_is_part_of_the_item():
    reward = from_json(check(reference="{{ item.prompt }}"))
    assert reward(["Say it", [{"role": "user", "content": "Hi"}]], ["Say it", "user: Hi"]) == [1.0, 1.0]
    assert required_columns(reward) == []
    assert not hasattr(reward, "verifier")  # which is not told the prompt


# --- templates -------------------------------------------------------------------------------------------------------

ITEM = {"answer": 42, "facts": [{"name": "Ann"}, {"name": "Bob", "x y": 2.5}], "nothing": None, "yes": True}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("plain", "plain"),
        ("{{item.answer}}", "42"),
        ("<{{  item.answer }}>", "<42>"),
        ("{{ item.facts[1].name }}", "Bob"),
        ("{{ item.facts.0.name }}", "Ann"),
        ("{{ item['facts'][1][\"x y\"] }}", "2.5"),
        ("{{ item.facts[0] }}", '{"name": "Ann"}'),
        ("{{ item.nothing }}", ""),
        ("{{ item.yes }}", "true"),
        ("{{ sample.output_json.a }}{{ sample.output_text }}", 'é{"a": "é"}'),
        ("{{ sample.choices[0].message.content }}", '{"a": "é"}'),
        ("}} {", "}} {"),
    ],
)
def test_templates(template, text):
    sample = templates.sample_of('{"a": "é"}')
    assert templates.parse(template, "input").fill(sample, ITEM) == text


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{{ item }}", "paths such as"),
        ("{{ items.answer }}", "namespace"),
        ("{{ sample.text }}", "output_text"),
        ("{{ item.answer", "as many }}"),
        ("{{ item.answer | upper }}", "paths such as"),
        ("{{ item[0] }}", "names, not numbers"),
        ("{{ __import__('os') }}", "paths such as"),
        (3, "text"),
    ],
)
def test_templates_that_lead_nowhere(template, says):
    with pytest.raises(ConfigError, match=says):
        from_json(check(input=template))


def test_what_a_row_lacks_is_the_data_sets_fault_and_what_a_completion_lacks_the_models():
    with pytest.raises(RewardError, match="item.facts.name.*its columns: facts"):
        from_json(check(reference="{{ item.facts.name }}"))(["Q"], ["x"], facts=[{"size": 1}])
    reward = from_json(check(input="{{ sample.output_json.city }}"))
    texts = ['{"city": "Paris"}', "Paris", "", '{"town": "Paris"}', "[" * 5000, '{"city": ["Paris"]}']
    assert reward([""] * 6, texts, answer=["Paris"] * 6) == [1, 0, 0, 0, 0, 0]
    never = from_json(check("ne", input="{{ sample.output_json.city }}"))
    assert never([""], ["no JSON"], answer=["Paris"]) == [0.0]


def test_tool_calls_are_part_of_the_sample():
    call = {"id": "1", "type": "function", "function": {"name": "look_up", "arguments": "{}"}}
    turns = [{"role": "assistant", "content": None, "tool_calls": [call]}]
    reward = from_json(check(input="{{ sample.output_tools[0].function.name }}"))
    assert reward(["", ""], [turns, "look_up"], answer=["look_up"] * 2) == [1.0, 0.0]


# --- text_similarity -------------------------------------------------------------------------------------------------

CAT, DOG = "The cat sat on the mat.", "The dog sat on the log."


@pytest.mark.parametrize("name", similarity.METRICS)
def test_measures_are_1_for_equal_texts_and_0_for_nothing_in_common(name):
    measure = similarity.metric(name)
    assert measure(CAT, CAT) == pytest.approx(1)
    assert measure("zzzz", CAT) == measure("", CAT) == 0
    assert 0 <= measure(DOG, CAT) < 1


@pytest.mark.parametrize(
    ("name", "score"),
    [
        ("fuzzy_match", 1 - 6 / 46),  # three letters replaced: six deletions and insertions of 46 letters
        ("rouge_1", 5 / 7),  # the sat on the .
        ("rouge_2", 2 / 6),  # sat on, on the
        ("rouge_3", 1 / 5),
        ("rouge_l", 5 / 7),
    ],
)
def test_measures_counted_by_hand(name, score):
    other = "The dig sat on the mat." if name == "fuzzy_match" else DOG
    assert similarity.METRICS[name](other, CAT) == pytest.approx(score)


def test_bleu_and_gleu_counted_by_hand():
    # a b c d against a b c e: precisions 3/4, 2/3, 1/2 and, smoothed, (1/2)/1.
    expected = math.exp(sum(map(math.log, (3 / 4, 2 / 3, 1 / 2, 1 / 2))) / 4)
    assert similarity.bleu("a b c d", "a b c e") == pytest.approx(expected)
    # Of 4 + 3 + 2 + 1 n-grams six are in both.
    assert similarity.gleu("a b c d", "a b c e") == pytest.approx(6 / 10)
    # Two words against four: the brevity penalty is exp(1 − 4/2).
    assert similarity.bleu("a b", "a b c d") == pytest.approx(math.exp(-1))


@given(st.text(max_size=60), st.text(max_size=60), st.sampled_from(sorted(similarity.METRICS)))
def test_measures_stay_in_range_for_any_text(text, reference, name):
    assert 0 <= similarity.METRICS[name](text, reference) <= 1


def test_text_similarity_and_its_verifier():
    spec = {
        "type": "text_similarity",
        "name": "close to it",
        "input": "{{ sample.output_text }}",
        "reference": "{{ item.answer }}",
        "evaluation_metric": "rouge_1",
        "pass_threshold": 0.7,
    }
    reward = from_json(spec)
    assert reward(["", ""], [DOG, "zzz"], answer=[CAT, CAT]) == [pytest.approx(5 / 7), 0.0]
    assert reward.verifier(DOG, answer=CAT) is True
    assert reward.verifier("zzz", answer=CAT) is False
    assert reward_name(reward) == "close_to_it"
    del spec["pass_threshold"]
    assert not hasattr(from_json(spec), "verifier")


@pytest.mark.parametrize(
    ("name", "says"), [("meteor", "WordNet"), ("cosine", "score_model"), ("rouge", "Did you mean")]
)
def test_measures_that_are_not_offered_are_refused_by_name(name, says):
    with pytest.raises(ConfigError, match=says):
        text_similarity(evaluation_metric=name)


# --- python ----------------------------------------------------------------------------------------------------------

LENGTHS = """
import json

def grade(sample, item):
    if sample["output_text"] == "crash":
        raise ValueError("no")
    if sample["output_text"] == "leave":
        raise SystemExit(0)
    if sample["output_text"] == "text":
        return "1.0"
    if sample["output_text"] == "nan":
        return float("nan")
    print("chatter")
    right = sample["output_json"] == {"sum": item["sum"]} if sample["output_json"] else False
    return 1.0 if right else len(sample["output_text"]) / 100
"""


def test_python_graders_run_in_the_sandbox():
    reward = from_json(python(LENGTHS, image_tag="2025-05-08"))
    texts = ['{"sum": 42}', "four", message("four"), '{"sum": 41}']
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert reward([""] * 4, texts, sum=[42] * 4) == [1.0, 0.04, 0.04, 0.11]


def test_what_a_python_grader_cannot_grade_gets_0_and_is_said_once():
    reward = from_json(python(LENGTHS))
    texts = ["crash", "leave", "text", "nan", "four"]
    with pytest.warns(RewardWarning, match="4 of 5 completions, which get 0: ValueError: no"):
        assert reward([""] * 5, texts, sum=[42] * 5) == [0, 0, 0, 0, 0.04]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert from_json(python(LENGTHS))([""], ["four"], sum=[42]) == [0.04]
        assert reward([""], ["crash"], sum=[42]) == [0]
    with pytest.warns(RewardWarning):
        assert from_json(python(LENGTHS, invalid_grade=-1))([""], ["crash"], sum=[42]) == [-1]


HANGS = """
def grade(sample, item):
    while sample["output_text"] == "hang":
        pass
    return 1
"""


@pytest.mark.slow
def test_one_completion_that_hangs_does_not_take_the_others_with_it():
    with pytest.warns(RewardWarning, match="1 of 3 completions.*timeout"):
        assert from_json(python(HANGS))([""] * 3, ["a", "hang", "b"]) == [1, 0, 1]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("def grade(sample, item)\n  return 1", "no Python"),
        ("def grading(sample, item):\n  return 1", r"must define a function grade\(sample, item\)"),
        ("def grade(sample):\n  return 1", r"grade\(sample, item\)"),
        (3, "256 kB"),
        ("#" * 300_000, "256 kB"),
        ("\0", "no Python"),
    ],
)
def test_python_graders_that_are_none(source, says):
    with pytest.raises(ConfigError, match=says):
        from_json(python(source))


def test_a_source_that_cannot_be_loaded_is_no_zero():
    reward = from_json(python("import no_such_package_at_all\ndef grade(sample, item):\n  return 1"))
    with pytest.raises(RewardError, match="cannot be loaded: ModuleNotFoundError"):
        reward([""], ["x"])


def test_a_python_grader_does_not_run_in_this_process(tmp_path):
    trace = tmp_path / "trace"
    source = (
        f"def grade(sample, item):\n  try:\n    open({str(trace)!r}, 'w')\n  except Exception:\n    pass\n"
    )
    reward = from_json(python(source + "  import os\n  return os.getpid()"))
    assert reward([""], ["x"]) != [float(os.getpid())]
    assert not trace.exists()


# --- score_model -----------------------------------------------------------------------------------------------------

KIND = {
    "type": "score_model",
    "name": "kindness",
    "model": "their-model",
    "range": [0, 2],
    "input": [
        {"role": "developer", "content": "You judge kindness."},
        {
            "role": "user",
            "content": [{"type": "input_text", "text": "{{ item.who }}: {{ sample.output_text }}"}],
        },
    ],
    "sampling_params": {"temperature": 0.5, "max_completions_tokens": 33, "seed": 5, "top_p": None},
}


def test_score_model_asks_the_judge_in_the_graders_words():
    with ChatServer(lambda request, number: Reply('{"score": 1.5}')) as server:
        reward = from_json(KIND, model="ours", base_url=server.base_url, cache_dir=False)
        assert asyncio.iscoroutinefunction(reward)
        assert required_columns(reward) == ["who"]
        assert asyncio.run(reward([""], ["<|im_end|>hello"], who=["Ann"])) == [1.5]
        (request,) = server.requests
    assert request["model"] == "ours"
    assert (request["temperature"], request["max_completion_tokens"], request["seed"]) == (0.5, 33, 5)
    assert "top_p" not in request
    assert request["messages"][0] == {"role": "system", "content": "You judge kindness."}
    assert request["messages"][1]["content"].startswith("Ann: < |im_end|>hello\n\nReply with JSON only")
    assert request["response_format"]["json_schema"]["schema"]["properties"]["score"]["maximum"] == 2.0


def test_score_model_that_fails_gives_none_and_a_sample_that_lacks_something_the_lowest():
    spec = {**KIND, "range": [1, 5], "input": [{"role": "user", "content": "{{ sample.output_json.a }}"}]}
    with ChatServer(lambda request, number: Reply("hm")) as server:
        reward = from_json(spec, base_url=server.base_url, cache_dir=False, retries=0)
        with pytest.warns(JudgeWarning):
            assert asyncio.run(reward(["", ""], ["no JSON", '{"a": 1}'])) == [1.0, None]
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"range": [1]}, "range of grader"),
        ({"range": [0, "1"]}, "range of grader"),
        ({"input": "grade it"}, "messages such as"),
        ({"input": [{"role": "robot", "content": "x"}]}, "a role"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "images"),
        ({"model": ""}, "model="),
    ],
)
def test_score_models_that_cannot_work(changed, says):
    with pytest.raises(ConfigError, match=says):
        from_json({**KIND, **changed}, base_url="http://localhost:1/v1")


# --- multi -----------------------------------------------------------------------------------------------------------


def multi(formula, graders=None, **more):
    graders = graders or {"right": check(), "close": check("ilike", name="close")}
    return {"type": "multi", "name": "both", "graders": graders, "calculate_output": formula, **more}


def test_multi_puts_scores_together():
    reward = from_json(multi("0.75 * right + 0.25 * close"))
    assert reward([""] * 3, ["Paris", "PARIS!", "Lyon"], answer=["Paris"] * 3) == [1.0, 0.25, 0.0]
    assert required_columns(reward) == ["answer"]
    listed = from_json(multi("right - close", [check(), check("ilike", name="close")]))
    assert listed([""], ["PARIS!"], answer=["Paris"]) == [-1.0]


def test_multi_with_a_judge_waits_for_it_and_none_stays_none():
    graders = {"right": check(), "kind": {**KIND, "name": "kind"}}
    with ChatServer(lambda r, number: Reply('{"score": 1}' if "hello" in said(r) else "hm")) as server:
        reward = from_json(multi("right + kind", graders), base_url=server.base_url, cache_dir=False)
        with pytest.warns(JudgeWarning):
            scores = asyncio.run(
                reward(["", ""], ["hello", "oh"], answer=["hello", "oh"], who=["Ann", "Bob"])
            )
        assert scores == [2.0, None]
        assert required_columns(reward) == ["answer", "who"]
        # A judge that the formula does not use is not paid for.
        alone = from_json(multi("right", graders), base_url=server.base_url)
        before = len(server.requests)
        assert alone([""], ["hello"], answer=["hello"]) == [1.0]
        assert len(server.requests) == before


def test_a_formula_that_has_no_result_gives_the_invalid_grade():
    assert from_json(multi("1 / (right - 1)"))(["", ""], ["a", "b"], answer=["a", "a"]) == [0.0, -1.0]
    assert from_json(multi("log(right)", invalid_grade=-5))([""], ["b"], answer=["a"]) == [-5.0]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a", 2),
        ("-a + +b", 1),
        ("a + b * 2 - 1", 7),
        ("(a + b) * 2 / 4", 2.5),
        ("2 ^ a * 3", 12),
        ("2 ** 3 ^ a", 512),
        ("min(a, b, 1) + max(a, b)", 4),
        ("abs(a - b) + floor(1.7) + ceil(1.2)", 4),
        ("exp(0) + sqrt(a * a) + log(1)", 3),
        ("1e3 * a", 2000),
        ("a / 0", None),
        ("sqrt(0 - a)", None),
        ("log(0)", None),
        ("(0 - a) ^ 0.5", None),
        ("10 ^ (10 ^ (10 ^ a))", None),
        ("exp(1e6)", None),
        ("9 ^ 9 ^ 9 ^ 9 ^ 9", None),
    ],
)
def test_formulas(text, value):
    assert formula.parse(text, ["a", "b"])({"a": 2.0, "b": 3.0}) == (
        None if value is None else pytest.approx(value)
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a + c", "grader in calculate_output: 'c'"),
        ("a +", "formula"),
        ("0.5 * a)", "formula"),
        ("", "formula"),
        ("a" * 2000, "1000 characters"),
        ("(" * 500, "formula"),
        ("__import__('os')", "function in calculate_output"),
        ("a.real", "numbers, grader names"),
        ("a if b else 1", "numbers, grader names"),
        ("[a for a in b]", "numbers, grader names"),
        ("'a'", "numbers, grader names"),
        ("a // b", "numbers, grader names"),
        ("a % b", "numbers, grader names"),
        ("a == b", "numbers, grader names"),
        ("True", "numbers, grader names"),
        ("1j", "numbers, grader names"),
        ("lambda: a", "numbers, grader names"),
        ("max(a)", "two numbers"),
        ("sqrt(a, b)", "one number"),
        ("max(*a)", "two numbers|numbers, grader names"),
        ("max(a, key=b)", "two numbers"),
        ("pow(a, b)", "function in calculate_output"),
        ("1e999", "finite"),
    ],
)
def test_formulas_that_are_none(text, says):
    with pytest.raises(ConfigError, match=says):
        formula.parse(text, ["a", "b"])


@given(st.text(max_size=40) | st.text(alphabet="ab0123456789+-*/^(). ,", max_size=30))
def test_no_formula_does_anything_but_arithmetic(text):
    try:
        read = formula.parse(text, ["a", "b"])
    except ConfigError:
        return
    value = read({"a": 2.0, "b": -3.0})
    assert value is None or math.isfinite(value)


# --- the whole form --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("grader", "says"),
    [
        ({"type": "label_model"}, "type of grader"),
        ({}, "type of grader"),
        (check(operaton="eq"), "Did you mean 'operation'"),
        ({key: value for key, value in check().items() if key != "input"}, "needs the key 'input'"),
        (check("contains"), "operation of grader 'right'"),
        (check(name=""), "name="),
        ("{not json", "no JSON"),
        ("no/such/file.json", "readable file"),
        ([1], "JSON object"),
        ("[1]", "readable file"),
        (multi("right", {"right": multi("x")}), "graders of the other types"),
        ({**multi("right"), "graders": {}}, "a mapping from names"),
        (multi("right", {"right": {"type": "string_check"}}), "needs the key"),
        (multi("right", invalid_grade="x"), "invalid_grade"),
    ],
)
def test_graders_that_cannot_be_read(grader, says):
    with pytest.raises(ConfigError, match=says):
        from_json(grader)


def test_settings_of_the_judge_are_checked():
    with pytest.raises(ConfigError, match="Did you mean 'temperature'"):
        from_json(KIND, temperatur=0)


@pytest.mark.parametrize("name", rft.GOLDEN)
def test_golden_sets(name):
    golden = rft.GOLDEN[name]
    reward = rft.FACTORIES[name]()

    def scores(examples):
        columns = {"answer": [example.columns["answer"] for example in examples]}
        return reward([e.prompt for e in examples], [e.completion for e in examples], **columns)

    right, wrong, exploits = scores(golden.right), scores(golden.wrong), scores(golden.exploits)
    assert min(len(right), len(wrong), len(exploits)) >= 5
    assert min(right) > max(wrong) and min(right) > max(exploits)
    assert all(golden.low <= score <= golden.high for score in right + wrong + exploits)
    assert reward.__doc__ and reward_name(reward) == name


@given(st.text())
def test_graders_never_raise_on_a_text(text):
    for reward in (string_check(), string_check(operation="ilike"), text_similarity()):
        assert 0 <= reward([""], [text], answer=["42"])[0] <= 1
        assert reward([""], [message(text)], answer=["42"]) == reward([""], [text], answer=["42"])
