"""Calling reward functions that are slow or fail: overlap, time limits, and who is to blame."""

from __future__ import annotations

import asyncio
import math
import threading
import time
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from rlkit.config import rollout
from rlkit.errors import ConfigError, RewardError
from rlkit.rewards import calls
from rlkit.rewards.calls import RewardCaller, RewardWarning

NAN = math.nan
TEXTS = ["2", "3", "42", "32"]
SOON, LATE = 0.3, 20.0  # seconds: a limit that is reached, one that would only be by mistake


def given(texts: list[str] = TEXTS) -> dict[str, list[Any]]:
    return {"prompts": ["q"] * len(texts), "completions": list(texts), "answer": ["2"] * len(texts)}


def skipping(
    *functions: Any, timeout: float | None = None, texts: list[str] = TEXTS
) -> tuple[Any, RewardCaller]:
    caller = RewardCaller("skip", timeout)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RewardWarning)
        return caller(functions, given(texts), "step 7"), caller


def same(found: list[float], wanted: list[float]) -> bool:
    return len(found) == len(wanted) and all(
        math.isnan(a) if math.isnan(b) else a == b for a, b in zip(found, wanted, strict=True)
    )


@pytest.fixture
def released() -> Iterator[threading.Event]:
    """Set at the test's end: what hangs in a thread lets go then."""
    event = threading.Event()
    yield event
    event.set()


def hang_on(text: str, event: threading.Event) -> Any:
    """A plain reward function that does not come back from one completion."""

    def hangs(completions):
        for completion in completions:
            if completion == text:
                event.wait(60)
        return [float(len(completion)) for completion in completions]

    return hangs


async def lengths(completions):
    return [float(len(completion)) for completion in completions]


# --- async functions overlap ------------------------------------------------------------------------------


def test_async_functions_run_at_the_same_time() -> None:
    """Each waits for the other one: one after the other they would never end."""
    events = [asyncio.Event(), asyncio.Event()]

    async def first(completions):
        events[0].set()
        await events[1].wait()
        return [1.0] * len(completions)

    async def second(completions):
        await events[0].wait()
        events[1].set()
        return [2.0] * len(completions)

    found = RewardCaller(timeout=LATE)([first, second], given(), "step 1")
    assert found == [[1.0] * 4, [2.0] * 4]


def test_plain_functions_run_meanwhile_and_where_the_caller_is() -> None:
    began, answered = threading.Event(), threading.Event()
    where: list[Any] = []

    async def waits(completions):
        began.set()
        while not answered.is_set():
            await asyncio.sleep(0.001)
        return [1.0] * len(completions)

    def answers(completions):
        assert began.wait(LATE)
        where.append(threading.current_thread())
        answered.set()
        return [2.0] * len(completions)

    assert RewardCaller()([waits, answers], given(), "step 1") == [[1.0] * 4, [2.0] * 4]
    assert RewardCaller()([answers, waits], given(), "step 1") == [[2.0] * 4, [1.0] * 4]
    assert where == [threading.current_thread()] * 2


def test_what_a_plain_function_returns_may_be_awaited_too() -> None:
    """A wrapper around an async function is no async function; such ones overlap all the same."""
    events = [asyncio.Event(), asyncio.Event()]

    def wrapped(mine: int, value: float) -> Any:
        async def scores(completions):
            events[mine].set()
            await events[1 - mine].wait()
            return [value] * len(completions)

        return lambda completions: scores(completions)

    assert RewardCaller(timeout=LATE)([wrapped(0, 1.0), wrapped(1, 2.0)], given(), "step 1") == [
        [1.0] * 4,
        [2.0] * 4,
    ]


def test_an_object_with_an_async_call_begins_before_the_plain_ones() -> None:
    class Judge:
        began = threading.Event()

        async def __call__(self, completions):
            self.began.set()
            return [1.0] * len(completions)

    def plain(completions):
        return [float(Judge.began.wait(LATE))] * len(completions)

    assert RewardCaller()([plain, Judge()], given(), "step 1") == [[1.0] * 4, [1.0] * 4]


def test_no_thread_is_left_behind() -> None:
    async def cell() -> Any:
        return RewardCaller()([lengths, lambda completions: [0.0] * 4], given(), "step 1")

    before = threading.active_count()
    assert asyncio.run(cell())[0] == [1, 1, 2, 2]  # as in a notebook, with a loop running
    assert RewardCaller()([lengths], given(), "step 1") == [[1, 1, 2, 2]]
    assert threading.active_count() == before


def test_no_thread_is_started_for_plain_functions() -> None:
    def spy(completions):
        return [float(threading.active_count())] * len(completions)

    assert RewardCaller()([spy], given(), "step 1")[0][0] == threading.active_count()


def test_an_error_in_a_plain_function_does_not_wait_for_async_ones() -> None:
    began, ended = threading.Event(), []

    async def forever(completions):
        began.set()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    def breaks(completions):
        assert began.wait(LATE)
        return [1.0 / (len(c) - 2) for c in completions]

    with pytest.raises(RewardError, match="ZeroDivisionError"):
        RewardCaller()([forever, breaks], given(), "step 1")
    assert ended == ["cancelled"]


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_what_must_end_the_program_does(error: type[BaseException]) -> None:
    async def leaves(completions):
        raise error

    for timeout in (None, LATE):
        with pytest.raises(error):
            RewardCaller("skip", timeout)([leaves, lengths], given(), "step 1")


# --- who is to blame --------------------------------------------------------------------------------------


def fails_on_42(completions):
    return [1.0 / (float(c) - 42) for c in completions]


async def fails_on_42_later(completions):
    await asyncio.sleep(0)
    return fails_on_42(completions)


def wrapped_fails_on_42(completions):
    return fails_on_42_later(completions)


@pytest.mark.parametrize("function", [fails_on_42, fails_on_42_later, wrapped_fails_on_42])
@pytest.mark.parametrize("timeout", [None, LATE])
def test_the_completion_that_broke_a_function_is_named(function: Any, timeout: float | None) -> None:
    with pytest.raises(RewardError) as caught:
        RewardCaller(timeout=timeout)([lengths, function], given(), "step 7")
    for part in (
        repr(function.__name__),
        "raised ZeroDivisionError",
        "for the completion '42'",
        "during step 7",
    ):
        assert part in str(caught.value)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)  # with the user's own traceback

    found, caller = skipping(lengths, function, timeout=timeout)
    assert found[0] == [1, 1, 2, 2]
    assert same(found[1], [1 / -40, 1 / -39, NAN, 1 / -10])
    (failure,) = caller.failures
    assert (failure.name, failure.index, failure.completion) == (function.__name__, 2, "42")
    assert failure.reason == "raised ZeroDivisionError: float division by zero"


def test_the_others_are_scored_where_several_fail() -> None:
    found, caller = skipping(lambda completions: [math.log(int(c) - 3) for c in completions])
    assert same(found[0], [NAN, NAN, math.log(39), math.log(29)])
    assert [failure.index for failure in caller.failures] == [0, 1]
    assert RewardCaller("skip")([lengths], given(), "step 8") == [[1, 1, 2, 2]]
    caller([lengths], given(), "step 8")
    assert caller.failures == []  # of the last call only


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([1.0, NAN, 3.0, 4.0], "returned nan"),
        ([1.0, "good", 3.0, 4.0], "returned 'good'"),
        ([1.0, 10**400, 3.0, 4.0], "returned 1000"),
    ],
)
def test_what_is_no_number_is_skipped_without_another_call(values: list[Any], reason: str) -> None:
    asked: list[int] = []

    def answers(completions):
        asked.append(len(completions))
        return values

    found, caller = skipping(answers)
    assert same(found[0], [1.0, NAN, 3.0, 4.0])
    assert asked == [4]
    assert caller.failures[0].reason.startswith(reason)
    with pytest.raises(RewardError, match="for the completion '3'.*finite number"):
        RewardCaller()([answers], given(), "step 1")


def test_a_list_of_another_length() -> None:
    def drops(completions):
        return [float(len(c)) for c in completions if c != "42"]

    with pytest.raises(RewardError, match="returned 3 values for 4 completions"):
        RewardCaller()([drops], given(), "step 1")
    found, caller = skipping(drops)
    assert same(found[0], [1, 1, NAN, 2])
    assert caller.failures[0].reason == "returned 0 values for 1 completions"


def test_a_generator_that_raises_half_way() -> None:
    found, caller = skipping(lambda completions: (float(c) for c in completions), texts=["2", "x", "3"])
    assert same(found[0], [2, NAN, 3])
    assert "ValueError" in caller.failures[0].reason


def test_nobody_is_to_blame_where_only_the_batch_fails() -> None:
    def needs_one(completions):
        if len(completions) > 1:
            raise IndexError("too many")
        return [float(len(completions[0]))]

    with pytest.raises(RewardError, match=r"IndexError.*4 completions together.*for none of the 4.*compare"):
        RewardCaller()([needs_one], given(), "step 1")
    with pytest.warns(RewardWarning, match="for none of them alone"):
        assert RewardCaller("skip")([needs_one], given(), "step 1") == [[1, 1, 2, 2]]


def test_a_single_completion_is_not_asked_about_twice() -> None:
    asked: list[str] = []

    def breaks(completions):
        asked.extend(completions)
        raise KeyError("x")

    found, caller = skipping(breaks, texts=["42"])
    assert same(found[0], [NAN]) and asked == ["42"]
    assert caller.failures[0].completion == "42"


def test_a_completion_as_long_as_a_book_is_not_printed() -> None:
    def breaks(completions):
        raise ValueError

    with pytest.raises(RewardError) as caught:
        RewardCaller()([breaks], given(["x" * 100_000]), "step 1")
    assert len(str(caught.value)) < 1000


def test_it_is_said_once() -> None:
    caller = RewardCaller("skip")
    with pytest.warns(RewardWarning) as seen:
        for step in range(3):
            caller([fails_on_42], given(), f"step {step}")
    (warning,) = seen
    text = str(warning.message)
    for part in (
        "'fails_on_42' raised ZeroDivisionError",
        "1 of 4",
        "step 0",
        "'42'",
        "unscored/fails_on_42",
    ):
        assert part in text
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        RewardCaller("skip", quiet=True)([fails_on_42], given(), "step 1")


# --- time limits ------------------------------------------------------------------------------------------


def test_a_plain_function_that_hangs(released: threading.Event) -> None:
    hangs = hang_on("42", released)
    with pytest.raises(RewardError) as caught:
        RewardCaller(timeout=SOON)([hangs], given(), "step 7")
    for part in ("'hangs' takes longer than reward_timeout=0.3 s", "completion '42'", "step 7", "runs on"):
        assert part in str(caught.value)

    found, caller = skipping(hangs, timeout=SOON)
    assert same(found[0], [1, 1, NAN, 2])
    assert [failure.index for failure in caller.failures] == [2]


def test_the_search_for_what_hangs_ends(released: threading.Event) -> None:
    def stuck(completions):
        released.wait(60)
        return [0.0] * len(completions)

    start = time.monotonic()
    found, caller = skipping(stuck, timeout=SOON, texts=["x"] * 500)  # 150 s, if each were waited for
    assert time.monotonic() - start < 10
    assert all(math.isnan(value) for value in found[0])
    assert [failure.index for failure in caller.failures] == list(range(500))


def test_slow_is_not_stuck() -> None:
    """No completion takes long; all of them together do."""

    def slow(completions):
        time.sleep(0.02 * len(completions))
        return [0.0] * len(completions)

    with pytest.raises(
        RewardError, match=r"takes longer.*for none of the \d+ that.*give reward_timeout more"
    ):
        RewardCaller(timeout=0.2)([slow], given(["x"] * 50), "step 1")


@pytest.mark.parametrize("stubborn", [False, True])
def test_an_async_function_that_hangs(stubborn: bool) -> None:
    async def hangs(completions):
        if "42" in completions:
            for _ in range(2 if stubborn else 1):  # one that does not let itself be cancelled at first
                try:
                    await asyncio.sleep(3600)
                except asyncio.CancelledError:
                    if not stubborn:
                        raise
        return [float(len(c)) for c in completions]

    if stubborn:
        with pytest.raises(RewardError, match="'hangs' takes longer"):
            RewardCaller(timeout=SOON)([hangs], given(["42"]), "step 7")
        return
    with pytest.raises(RewardError, match=r"'hangs' takes longer.*completion '42'.*cancelled"):
        RewardCaller(timeout=SOON)([lengths, hangs], given(), "step 7")
    found, caller = skipping(hangs, lengths, timeout=SOON)
    assert same(found[0], [1, 1, NAN, 2])
    assert found[1] == [1, 1, 2, 2]
    assert [failure.index for failure in caller.failures] == [2]


def test_an_async_function_that_blocks_its_loop(released: threading.Event) -> None:
    async def blocks(completions):
        released.wait(60)  # where await is needed
        return [0.0] * len(completions)

    with pytest.raises(RewardError, match="does not let go of its event loop"):
        RewardCaller(timeout=SOON)([blocks], given(["42"]), "step 7")
    found, _ = skipping(blocks, lengths, timeout=SOON)
    assert all(math.isnan(value) for value in found[0])
    assert found[1] == [1, 1, 2, 2]  # asked again, alone in its loop


def test_a_timeout_of_its_own_is_no_timeout_of_ours() -> None:
    def plain(completions):
        raise TimeoutError("the server did not answer")

    async def later(completions):
        raise TimeoutError("the server did not answer")

    for function in (plain, later):
        with pytest.raises(RewardError, match="raised TimeoutError: the server did not answer"):
            RewardCaller(timeout=LATE)([function], given(), "step 1")


def test_with_time_to_spare_nothing_changes() -> None:
    found = RewardCaller(timeout=LATE)([lengths, lambda completions: [None, 1, 2, 3]], given(), "step 1")
    assert found[0] == [1, 1, 2, 2] and same(found[1], [NAN, 1, 2, 3])


def test_a_function_with_a_limit_runs_in_a_thread() -> None:
    seen: list[Any] = []

    def spy(completions):
        seen.append(threading.current_thread())
        return [0.0] * len(completions)

    RewardCaller(timeout=LATE)([spy], given(), "step 1")
    assert seen[0] is not threading.current_thread()
    assert seen[0].daemon  # the interpreter does not wait for it


# --- settings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"on_error": "ignore"}, "unknown on_reward_error 'ignore'.*skip, stop"),
        ({"timeout": 0}, "reward_timeout=0 is not usable"),
        ({"timeout": -1.0}, "reward_timeout=-1.0"),
        ({"timeout": NAN}, "reward_timeout=nan"),
        ({"timeout": "5"}, "reward_timeout='5'"),
        ({"timeout": True}, "reward_timeout=True"),
    ],
)
def test_settings_that_cannot_work(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        RewardCaller(**settings)


def test_the_trainers_setting_has_the_same_names() -> None:
    assert rollout.REWARD_ERRORS == calls.ON_ERROR
