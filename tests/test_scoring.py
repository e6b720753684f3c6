"""Calling reward functions: what they are given, and that nothing they return is trusted."""

from __future__ import annotations

import asyncio
import functools
import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlkit import rewards, tasks
from rlkit.config import GRPOConfig
from rlkit.errors import ConfigError, RewardError, RlkitError
from rlkit.objectives import group_advantages
from rlkit.rewards.calls import RewardCaller, RewardWarning
from rlkit.rewards.notes import TrainerState
from rlkit.rewards.signatures import required_columns
from rlkit.rollout import Completion, Rollout
from rlkit.trainers.scoring import (
    check_columns,
    check_reward_functions,
    probe_reward_functions,
    score_rollout,
)

NAN, INF = float("nan"), float("inf")
ROWS = [{"prompt": "1+1=", "answer": "2"}, {"prompt": "17+25=", "answer": "42"}]


def rollout(texts: list[str], rows: list[dict[str, Any]] = ROWS, step: int = 7) -> Rollout:
    """``texts`` as the completions of ``rows``, the same number for each; token ids are the letters' codes."""
    completions = [Completion([ord(c) for c in t] + [1], [-0.5] * (len(t) + 1), t, "stop") for t in texts]
    prompts = [row["prompt"] for row in rows]
    return Rollout(
        step,
        rows,
        prompts,
        [str(p) for p in prompts],
        [[1]] * len(rows),
        completions,
        len(texts) // len(rows),
    )


def score(
    *functions: Any,
    texts: list[str] | None = None,
    weights: Any = None,
    verifier: Any = None,
    caller: RewardCaller | None = None,
    state: TrainerState | None = None,
    **keywords: Any,
):
    """Score four completions, two a prompt, with ``functions``."""
    names = check_reward_functions(functions, weights)
    sample = rollout(texts or ["2", "3", "42", "32"], **keywords)
    return score_rollout(sample, functions, names, weights or [1.0] * len(functions), verifier, caller, state)


# --- what a reward function is given ----------------------------------------------------------------------


def test_everything_comes_one_a_completion_in_order() -> None:
    seen: dict[str, Any] = {}

    def spy(prompts, completions, completion_ids, **columns):
        seen.update(prompts=prompts, completions=completions, ids=completion_ids, columns=columns)
        return [0.0, 1.0, 2.0, 3.0]

    result = score(spy)
    assert seen["prompts"] == ["1+1=", "1+1=", "17+25=", "17+25="]
    assert seen["completions"] == ["2", "3", "42", "32"]
    assert seen["ids"] == [[50, 1], [51, 1], [52, 50, 1], [51, 50, 1]]
    assert seen["columns"] == {"answer": ["2", "2", "42", "42"]}
    assert result.per_function[..., 0].tolist() == [[0, 1], [2, 3]]  # [P, G]
    assert result.per_function.dtype == torch.float64
    assert result.names == ["spy"]


def test_a_function_gets_only_what_it_names() -> None:
    assert score(lambda completions: [float(len(c)) for c in completions]).total.tolist() == [[1, 1], [2, 2]]
    assert score(lambda *, answer: [float(a) for a in answer]).total.tolist() == [[2, 2], [42, 42]]
    assert score(lambda completions, bonus=0.5: [bonus] * len(completions)).total.unique().tolist() == [0.5]


def test_message_lists_come_back_as_message_lists() -> None:
    rows = [{"prompt": [{"role": "user", "content": row["prompt"]}], "answer": row["answer"]} for row in ROWS]
    seen: list[Any] = []

    def spy(prompts, completions):
        seen.extend([prompts, completions])
        return [0.0] * len(completions)

    result = score(spy, rewards.correct_number, rows=rows)
    assert seen[0][0] == rows[0]["prompt"]
    assert seen[1] == [[{"role": "assistant", "content": text}] for text in ("2", "3", "42", "32")]
    assert result.per_function[..., 1].tolist() == [[3, -3], [3, -3]]  # ours read both forms


def test_a_function_cannot_disturb_the_next_one() -> None:
    def vandal(prompts, completions, answer, **columns):
        size = len(completions)
        for values in (prompts, completions, answer):
            values.clear()
        return [0.0] * size

    assert score(vandal, rewards.correct_number).per_function[..., 1].tolist() == [[3, -3], [3, -3]]


def test_callables_of_every_kind() -> None:
    class Judge:
        def __call__(self, completions, **columns):
            return [1.0] * len(completions)

        def method(self, completions, answer):
            return [float(a == c) for a, c in zip(answer, completions, strict=True)]

    def scaled(completions, scale, **columns):
        return [scale] * len(completions)

    half = functools.partial(scaled, scale=0.5)
    functions = [Judge(), Judge().method, half, lambda completions: [2.0] * len(completions)]
    result = score(*functions)
    assert result.names == ["Judge", "method", "scaled", "<lambda>"]
    assert result.per_function[0, 0].tolist() == [1.0, 1.0, 0.5, 2.0]


def test_names_are_unique() -> None:
    same = [lambda completions: [0.0], lambda completions: [1.0], rewards.number_found, rewards.number_found]
    assert check_reward_functions(same, None) == ["<lambda>", "<lambda>_2", "number_found", "number_found_2"]


def test_weights_and_none() -> None:
    def first_only(completions):
        return [1.0, None, None, None]

    def others(completions):
        return [None, 10.0, 20.0, 30.0]

    result = score(first_only, others, weights=[2.0, 0.1])
    assert result.total.tolist() == [[2.0, 1.0], [2.0, 3.0]]
    assert result.per_function[..., 0].isnan().tolist() == [[False, True], [True, True]]
    assert "first_only +1.00" in repr(result)


@given(st.lists(st.none() | st.floats(-1e9, 1e9), min_size=4, max_size=4))
def test_finite_numbers_pass_unchanged(values: list[float | None]) -> None:
    result = score(lambda completions: values, lambda completions: [0.0] * 4)
    for got, given_value in zip(result.per_function[..., 0].flatten().tolist(), values, strict=True):
        assert math.isnan(got) if given_value is None else got == given_value


@pytest.mark.parametrize(
    "values",
    [
        (1, 2, 3, 4),
        np.array([1, 2, 3, 4], dtype=np.float32),
        torch.tensor([1.0, 2.0, 3.0, 4.0]),
        [np.int64(1), torch.tensor(2), 3.0, True + 3],
        range(1, 5),
    ],
    ids=lambda v: type(v).__name__,
)
def test_lists_of_every_kind(values: Any) -> None:
    assert score(lambda completions: values).total.tolist() == [[1, 2], [3, 4]]


def test_a_generator_is_a_list_too() -> None:
    assert score(lambda completions: (float(len(c)) for c in completions)).total.tolist() == [[1, 1], [2, 2]]


# --- what it may not return -------------------------------------------------------------------------------

BAD_ANSWERS: list[tuple[Any, list[str]]] = [
    ([1.0, 2.0, 3.0], ["returned 3 values for 4 completions", "one number or None for each"]),
    ([1.0] * 5, ["returned 5 values for 4 completions"]),
    ([], ["returned 0 values for 4 completions"]),
    (
        [1.0, NAN, 1.0, 1.0],
        ["returned nan for the completion '3'", "finite number", "None where it cannot judge"],
    ),
    ([1.0, 1.0, INF, 1.0], ["returned inf for the completion '42'", "finite number"]),
    ([1.0, 1.0, 1.0, -INF], ["returned -inf for the completion '32'"]),
    ([1.0, np.float64("nan"), 1.0, 1.0], ["for the completion '3'", "finite number"]),
    (torch.tensor([1.0, 1.0, 1.0, NAN]), ["for the completion '32'", "finite number"]),
    (["good", 1.0, 1.0, 1.0], ["returned 'good' for the completion '2'", "finite number"]),
    (["1", "2", "3", "4"], ["returned '1' for the completion '2'", "finite number"]),
    ([[1.0, 2.0], 1.0, 1.0, 1.0], ["returned [1.0, 2.0] for the completion '2'"]),
    ([1j, 1.0, 1.0, 1.0], ["returned 1j for the completion '2'"]),
    (1.0, ["returned 1.0", "a list with one number or None a completion"]),
    (None, ["returned None", "a list with one number or None a completion"]),
    ("good", ["returned 'good'", "a list with one number"]),
    ("1234", ["returned '1234'", "a list with one number"]),
    (b"1234", ["returned b'1234'", "a list with one number"]),
    ({1: 0.5, 2: 0.5, 3: 0.5, 4: 0.5}, ["returned {1: 0.5", "a list with one number"]),
    ({1.0, 2.0, 3.0, 4.0}, ["returned {1.0, 2.0", "a list with one number"]),
    (lambda completions: [1.0] * 4, ["returned a function", "pass what it makes: broken(…)"]),
]


@pytest.mark.parametrize(("answer", "says"), BAD_ANSWERS, ids=lambda v: repr(v).split(" at 0x")[0][:40])
@pytest.mark.parametrize("asynchronous", [False, True], ids=["plain", "async"])
def test_bad_answers_are_refused(answer: Any, says: list[str], asynchronous: bool) -> None:
    def broken(completions):
        return answer

    async def later(completions):
        return answer

    later.__name__ = "broken"
    with pytest.raises(RewardError) as caught:
        score(rewards.number_found, later if asynchronous else broken)
    for part in ["reward function 'broken'", "during step 7", *says]:
        assert part in str(caught.value)


def test_a_function_that_raises_is_named_with_its_error() -> None:
    def divides(completions):
        return [1 / (len(c) - 1) for c in completions]

    with pytest.raises(RewardError) as caught:
        score(divides)
    for part in ("'divides'", "ZeroDivisionError", "step 7", "the empty string included", "'2'"):
        assert part in str(caught.value)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)  # the user's own traceback is kept


def test_a_builtin_without_a_signature_is_no_crash() -> None:
    with pytest.raises(RewardError, match="reward function 'max'"):
        score(max)


def test_a_completion_that_nobody_judges_is_an_error() -> None:
    with pytest.raises(RewardError, match=r"1 of 4 completions were scored by no reward function"):
        score(lambda completions: [1.0, None, 1.0, 1.0], lambda completions: [1.0, None, None, None])


# --- async ------------------------------------------------------------------------------------------------


async def slow_length(completions, **columns):
    await asyncio.sleep(0.001)
    return [float(len(c)) for c in completions]


async def slow_failure(completions, **columns):
    await asyncio.sleep(0.001)
    raise KeyError("no such answer")


def test_async_functions() -> None:
    assert score(slow_length).total.tolist() == [[1, 1], [2, 2]]
    with pytest.raises(RewardError, match=r"'slow_failure' raised KeyError.*no such answer"):
        score(slow_failure)


def test_async_functions_inside_a_running_event_loop() -> None:
    """A notebook's kernel has a running loop, in which asyncio.run() is refused."""

    async def cell():
        assert asyncio.get_running_loop().is_running()
        with pytest.raises(RewardError, match=r"'slow_failure' raised KeyError"):
            score(slow_failure)
        return score(slow_length, rewards.number_found).per_function

    before = threading.active_count()
    assert asyncio.run(cell())[..., 0].tolist() == [[1, 1], [2, 2]]
    assert threading.active_count() == before


def test_an_awaitable_that_is_no_coroutine() -> None:
    class Later:
        def __await__(self):
            yield from asyncio.sleep(0).__await__()
            return [1.0, 2.0, 3.0, 4.0]

    assert score(lambda completions: Later()).total.tolist() == [[1, 2], [3, 4]]


# --- functions that fail, and training that goes on -----------------------------------------------------------


def fails_on_3(completions):
    return [float(len(c)) / (int(c) - 3) for c in completions]


def test_a_failure_counts_as_none_where_it_is_skipped() -> None:
    with pytest.raises(RewardError, match=r"'fails_on_3' raised ZeroDivisionError.*completion '3'.*step 7"):
        score(rewards.number_found, fails_on_3)
    with pytest.warns(RewardWarning, match="unscored/fails_on_3"):
        result = score(rewards.number_found, fails_on_3, caller=RewardCaller("skip"))
    assert result.per_function[..., 1].isnan().tolist() == [[False, True], [False, False]]
    assert result.total.tolist() == [[1 - 1, 1.0], [1 + 2 / 39, 1 + 2 / 29]]


@pytest.mark.filterwarnings("ignore::rlkit.rewards.calls.RewardWarning")
def test_a_completion_without_any_score_teaches_nothing() -> None:
    def fails(completions):
        return [float(c) if c != "x" else 1 / 0 for c in completions]

    texts = ["1", "x", "4", "2", "3", "5", "x", "x", "x"]
    rows = [{"prompt": str(i)} for i in range(3)]
    result = score(fails, texts=texts, rows=rows, caller=RewardCaller("skip"), weights=[2.0])
    assert result.total.tolist() == [
        [2, 5, 8],
        [4, 6, 10],
        [0, 0, 0],
    ]  # the mean of 2 and 8; a group that is lost
    assert result.per_function.isnan().sum() == 4
    advantages = group_advantages(result.total)
    assert advantages.values[0].tolist()[1] == 0 and advantages.values[2].tolist() == [0, 0, 0]


def test_what_nobody_scored_is_an_error_or_counts_as_the_mean() -> None:
    """A judge that cannot be reached gives None, and is often the only reward."""

    def judge(completions):
        return [None if c == "2" else float(c) for c in completions]

    with pytest.raises(RewardError, match='1 of 4 completions were scored by no reward function.*="skip"'):
        score(judge, texts=["1", "2", "3", "5"])
    result = score(judge, texts=["1", "2", "3", "5"], caller=RewardCaller("skip"))
    assert result.total.tolist() == [[1, 1], [3, 5]]


def test_what_functions_ask_and_log_as_with_trl() -> None:
    """trainer_state, log_extra and log_metric, in a plain function, an async one, and a rubric's part."""
    steps = []

    def plain(completions, trainer_state, log_extra, log_metric):
        steps.append((trainer_state.global_step, trainer_state.max_steps))
        log_metric("share_of_3", sum(c == "3" for c in completions) / len(completions))
        log_extra("length", [len(c) for c in completions])
        return [0.0] * len(completions)

    async def later(completions, log_metric=None, **columns):
        assert "trainer_state" not in columns  # lists alone, unless it is asked for by name
        log_metric("share_of_3", 1.0)
        return [0.0] * len(completions)

    assert required_columns(plain) == []
    texts = ["1", "3", "42", "5"]
    result = score(plain, later, texts=texts, state=TrainerState(3, 10))
    assert steps == [(3, 10)] and result.metrics == {"share_of_3": (0.25 + 1) / 2}
    assert result.columns == {"length": [1, 1, 2, 1]}
    rubric = rewards.Rubric({"plain": (plain, 2.0)})
    assert score(*rubric, texts=texts, state=TrainerState(4, 10)).columns == {"length": [1, 1, 2, 1]}
    assert steps[-1] == (4, 10)


def test_what_a_failing_function_logs_of_single_completions_is_left_out() -> None:
    def fails(completions, log_extra):
        log_extra("length", [len(c) for c in completions])
        return [1 / (int(c) - 3) for c in completions]

    with pytest.warns(RewardWarning):
        result = score(rewards.number_found, fails, caller=RewardCaller("skip"))
    assert result.columns == {"length": [1, 1, 2, 2]}


def test_copies_of_a_function_are_told_apart() -> None:
    def fails(completions):
        raise ValueError("no")

    with pytest.warns(RewardWarning) as seen:
        score(rewards.number_found, fails, fails, caller=RewardCaller("skip"))
    assert ["'fails'" in str(w.message) for w in seen] == [True, False]
    assert "'fails_2'" in str(seen[1].message)


def test_the_trial_call_has_its_time_limit_and_skips_nothing() -> None:
    async def hangs(completions):
        await asyncio.sleep(3600)

    with pytest.raises(
        RewardError, match=r"'hangs' takes longer than reward_timeout=0.2 s.*completion ''.*trial call"
    ):
        probe_reward_functions([rewards.number_found, hangs], ROWS, timeout=0.2)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"on_reward_error": "ignore"}, "unknown on_reward_error 'ignore'"),
        ({"reward_timeout": 0.0}, "reward_timeout=0.0 is not usable.*above 0"),
        ({"reward_timeout": NAN}, "reward_timeout=nan"),
        ({"reward_timeout": "soon"}, "reward_timeout='soon'"),
    ],
)
def test_settings_for_failing_functions(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        GRPOConfig(**settings)
    assert GRPOConfig(on_reward_error="skip", reward_timeout=30).reward_timeout == 30


# --- the verifier -----------------------------------------------------------------------------------------


def test_the_verifier_judges_by_the_rows_columns() -> None:
    result = score(rewards.number_found, verifier=rewards.correct_number.verifier)
    assert result.correct.tolist() == [[True, False], [True, False]]
    assert result.accuracy == 0.5
    assert score(rewards.number_found).accuracy is None


def test_a_verifier_that_raises_is_named() -> None:
    def strict(completion, solution):
        return completion == solution

    with pytest.raises(RewardError) as caught:
        score(rewards.number_found, verifier=strict)
    for part in (
        "verifier 'strict'",
        "TypeError",
        "keyword argument 'answer'",
        "'2'",
        "step 7",
        "columns answer",
    ):
        assert part in str(caught.value)


# --- before training --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("functions", "weights", "says"),
    [
        ([], None, [r"reward_funcs=[]", "at least one", "nothing is learned"]),
        ([None], None, ["reward_funcs=None", "functions f(prompts, completions"]),
        (
            ["correct_number"],
            None,
            ["reward_funcs='correct_number'", "Without the quotes: rewards.correct_number"],
        ),
        (["no_such_reward"], None, ["reward_funcs='no_such_reward'", "functions f(prompts, completions"]),
        ([1.0], None, ["reward_funcs=1.0", "functions f("]),
        ([rewards.number_found], [1.0, 2.0], ["reward_weights=[1.0, 2.0]", "one number", "there are 1"]),
    ],
)
def test_what_is_no_reward_function(functions: Any, weights: Any, says: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        check_reward_functions(functions, weights)
    for part in says:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (
            lambda completions, solution: [],
            ["'<lambda>'", "'solution'", "val_set does not have", "answer, level", "Rename"],
        ),
        (lambda prompt, completions: [], ["'prompt'", "call the parameter 'prompts'"]),
        (lambda prompts, completion, answer: [], ["'completion'", "call the parameter 'completions'"]),
        (functools.partial(lambda completions, key, tone: [], tone=1), ["'key'", "val_set"]),
        (rewards.reward_from(lambda completion, unit: True, name="unit_right"), ["'unit_right'", "'unit'"]),
    ],
)
def test_a_column_that_is_not_there(function: Callable[..., Any], says: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        check_columns([rewards.number_found, function], ["answer", "level"], "val_set")
    for part in says:
        assert part in str(caught.value)


def test_columns_that_are_there_or_have_a_default() -> None:
    functions = [
        rewards.correct_number,
        lambda prompts, completions, completion_ids, answer: [],
        lambda completions, unit="m", **columns: [],
    ]
    check_columns(functions, ["answer"])
    with pytest.raises(ConfigError, match=r"'correct_number'.*train_dataset.*none beside prompt"):
        check_columns(functions, [])


def test_the_trial_call_uses_real_rows_and_awkward_answers() -> None:
    calls: list[dict[str, Any]] = []

    def spy(**everything):
        calls.append(everything)
        return [0.0] * len(everything["completions"])

    rows = tasks.arithmetic().train
    probe_reward_functions([spy], rows, verifier=rewards.correct_number.verifier)
    (call,) = calls
    assert call["prompts"] == [rows[0]["prompt"], rows[-1]["prompt"]]
    assert call["answer"] == [rows[0]["answer"], rows[-1]["answer"]]
    assert "" in call["completions"] and any(call["completions"])
    assert all(len(ids) >= 1 for ids in call["completion_ids"])  # an answer holds at least its end token


def test_the_trial_call_with_a_single_row_and_messages() -> None:
    rows = [{"prompt": [{"role": "user", "content": "1+1="}], "answer": "2"}]
    probe_reward_functions([rewards.correct_number, rewards.xml_format(), slow_length], rows)


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda completions: [c[0] == "4" for c in completions], ["IndexError", "for the completion ''"]),
        (lambda completions: [float(c) for c in completions], ["ValueError", "could not convert"]),
        (lambda completions: [math.log(len(c) + 1e-320) for c in completions][:1], ["1 values for 2"]),
        (lambda completions: [len(c) / 0.0 if c else NAN for c in completions], ["ZeroDivisionError"]),
        (
            lambda completions: [None for c in completions],
            ["only None", "'42 is it?'", "missing return", "a number"],
        ),
        (lambda completions, **columns: None, ["returned None", "a list"]),
        (rewards.xml_format, ["'xml_format' returned a function", "pass what it makes: xml_format(…)"]),
        (slow_failure, ["'slow_failure' raised KeyError"]),
    ],
)
def test_the_trial_call_finds_what_would_fail_later(function: Any, says: list[str]) -> None:
    with pytest.raises(RewardError) as caught:
        probe_reward_functions([function], ROWS)
    for part in ["a trial call before training", *says]:
        assert part in str(caught.value)


def test_a_function_may_stay_silent_where_another_one_speaks() -> None:
    probe_reward_functions([lambda completions: [None, None], rewards.number_found], ROWS)
    probe_reward_functions([lambda completions: [1.0, None]], ROWS)  # it may know only some kinds of answer


@pytest.mark.parametrize(
    ("verifier", "kind", "says"),
    [
        ("correct_number", ConfigError, r"verifier='correct_number'.*\(completion, \*\*columns\) -> bool"),
        (lambda completion: True, RewardError, r"'<lambda>' raised TypeError.*answer"),
        (lambda completion, answer: completion[0] == answer, RewardError, r"IndexError.*completion ''"),
    ],
)
def test_the_trial_call_tries_the_verifier_too(verifier: Any, kind: type[RlkitError], says: str) -> None:
    with pytest.raises(kind, match=says):
        probe_reward_functions([rewards.number_found], ROWS, verifier=verifier)
