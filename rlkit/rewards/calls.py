"""Call reward functions: async ones at the same time, each within its time, and find the completion that broke one.

A reward function is ``f(prompts, completions, **columns) -> list[float | None]``, plain or async, and is asked about a
whole batch at once. A model may write anything, so sooner or later one raises, does not come back, or returns something
else than numbers. `RewardCaller` then asks it again, about one completion at a time, until it knows which one did it.
"""

from __future__ import annotations

import inspect
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from typing import Any

from rlkit.errors import RewardError, bad_value, unknown_name
from rlkit.rewards.attempts import EventLoop, Outcome, TooSlow, attempt, is_async
from rlkit.rewards.notes import RewardNotes
from rlkit.rewards.signatures import reward_name

ON_ERROR = ("stop", "skip")
_SEARCH = 2  # times the timeout: so long the search for a completion may take

Given = Mapping[str, Sequence[Any]]
"""A batch: prompts, completions, completion_ids and the data set's columns, N values each."""


class RewardWarning(UserWarning):
    """A reward function failed for some completions, which go without its score."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A completion for which a reward function gave no number.

    Attributes:
        name: of the reward function.
        index: the completion's place in the batch.
        completion: what the model said, as the function was given it.
        reason: what happened, such as ``"raised ZeroDivisionError: division by zero"``.
        error: what the function raised, if it did.
    """

    name: str
    index: int
    completion: Any
    reason: str
    error: Exception | None = None


class RewardCaller:
    """Calls reward functions on a batch, and finds the completion that one of them failed on.

    Async functions overlap: all begin before the first plain one is called, in one event loop in a thread of its own.
    Plain functions are called one after another, where the caller is; with a `timeout` each in a thread of its own.

    A function that failed on the batch is asked about one completion at a time. So one that compares completions with
    each other is then asked about each alone; these are the scores that count where the search ends well.

    Args:
        on_error: ``"stop"`` raises a `RewardError` that names the completion; ``"skip"`` leaves the completion unscored
            by this function, as if it had returned None, with one `RewardWarning` for each kind of failure.
        timeout: seconds that one call for a batch may take; None: any time. An async function is cancelled. A plain one
            cannot be ended from outside: nobody waits for it any more, but its thread runs on, and what it holds is
            held, until it returns by itself. The search for the completion may take twice as long again.
        quiet: no warnings; `failures` tells.

    Attributes:
        failures: those of the last call.
        together: what failed there on the batch, though on no completion alone; in words.
    """

    def __init__(self, on_error: str = "stop", timeout: float | None = None, quiet: bool = False) -> None:
        if on_error not in ON_ERROR:
            raise unknown_name("on_reward_error", on_error, ON_ERROR)
        number = isinstance(timeout, int | float) and not isinstance(timeout, bool)
        if timeout is not None and not (number and math.isfinite(timeout) and timeout > 0):
            raise bad_value("reward_timeout", timeout, "seconds, above 0, or None for no limit")
        self.on_error = on_error
        self.timeout = timeout
        self.quiet = quiet
        self.failures: list[Failure] = []
        self.together: list[str] = []
        self._said: set[tuple[str, str]] = set()
        self._extras: dict[str, Any] = {}

    def __call__(
        self,
        functions: Sequence[Callable[..., Any]],
        given: Given,
        during: str,
        names: Sequence[str] | None = None,
        notes: RewardNotes | None = None,
    ) -> list[list[float]]:
        """Return what each function gives each completion, [F][N]; NaN stands for None.

        A function gets those of `given` that it names, or all where it takes ``**columns``, as lists of its own, and
        what it names of `notes`. `during` says in messages when this is, `names` what the functions are called.

        Raises `RewardError` with ``on_error="stop"`` where a function raises, is too slow, or returns something else
        than a list of N finite numbers or None.
        """
        self.failures, self.together = [], []
        self._extras = (notes or RewardNotes()).given()
        names = names or [reward_name(function) for function in functions]
        calls = [partial(_call, function, given, self._extras) for function in functions]
        outcomes: dict[int, Outcome] = {}
        numbers: dict[int, list[float]] = {}
        with EventLoop(self.timeout) as loop:
            for i, function in enumerate(functions):
                if is_async(function):
                    outcomes[i] = loop.start(calls[i])
            for i, function in enumerate(functions):
                if i in outcomes:
                    continue
                outcomes[i] = attempt(calls[i], self.timeout)
                if inspect.isawaitable(outcomes[i].values):  # a plain function around an async one
                    outcomes[i] = loop.start(partial(_itself, outcomes[i].values))
                else:
                    numbers[i] = self._numbers(names[i], function, outcomes[i], given, during)
            loop.wait()
        for i, function in enumerate(functions):
            if i not in numbers:
                numbers[i] = self._numbers(names[i], function, outcomes[i], given, during)
        self._warn(len(given["completions"]), during)
        return [numbers[i] for i in range(len(functions))]

    def _numbers(
        self, name: str, function: Callable[..., Any], outcome: Outcome, given: Given, during: str
    ) -> list[float]:
        """One function's rewards for the batch: as it returned them, or else asked for one by one."""
        completions = given["completions"]
        try:
            numbers, unusable = _read(name, outcome, len(completions))
        except _NoList as error:
            if self.on_error == "stop":  # no completion's fault
                message = f"reward function {name!r} {error.what} (during {during}); {error.needed}"
                raise RewardError(message) from None
            return self._search(name, function, outcome, error, given, during)
        except Exception as error:
            return self._search(name, function, outcome, error, given, during)
        for i, reason in unusable.items():
            self._fail(Failure(name, i, completions[i], reason), during)
        return numbers

    def _search(
        self,
        name: str,
        function: Callable[..., Any],
        failed: Outcome,
        cause: Exception,
        given: Given,
        during: str,
    ) -> list[float]:
        """Ask about one completion at a time, to learn which one a function failed on."""
        completions = given["completions"]
        count, tried, before = len(completions), 0, len(self.failures)
        odd: Failure | None = None
        numbers = [math.nan] * count
        for i, outcome in self._one_by_one(function, failed, given):
            tried = i + 1
            error: Exception | None = None
            try:
                single, unusable = _read(name, outcome, 1)
            except Exception as raised:
                error, reason = raised, self._reason(raised)
            else:
                if not unusable:
                    numbers[i] = single[0]
                    continue
                reason = unusable[0]
            failure = Failure(name, i, completions[i], reason, error)
            if error is None and self.on_error == "stop":
                odd = odd or failure  # a fault too, but perhaps not the one that is looked for
            else:
                self._fail(failure, during)
        if odd is not None:
            self._fail(odd, during)

        together = f"reward function {name!r} {self._reason(cause)} for {count} completions together (during {during})"
        if self.on_error == "stop":
            advice = "Does it compare completions with each other, or fail now and then?"
            if isinstance(cause, TooSlow):
                advice = "Is it slow rather than stuck? Then give reward_timeout more seconds."
            raise RewardError(
                f"{together}, but for none of the {tried} that it was then asked about alone. {advice}"
            ) from cause
        for i in range(tried, count):  # the time for the search was up
            self.failures.append(Failure(name, i, completions[i], self._reason(cause), cause))
        if len(self.failures) == before:
            text = f"{together}, but for none of them alone. Each has the score that it got alone"
            self.together.append(text)
            self._say(name, self._reason(cause), text)
        return numbers

    def _one_by_one(
        self, function: Callable[..., Any], failed: Outcome, given: Given
    ) -> Iterator[tuple[int, Outcome]]:
        """Ask about every completion alone; a plain function that may hang, until the time for that is up."""
        count = len(given["completions"])
        if count == 1 and failed.error is not None:
            yield 0, failed
            return
        singles = [{key: [values[i]] for key, values in given.items()} for i in range(count)]
        calls = [partial(_call, function, single, self._extras) for single in singles]
        if failed.awaited:
            with EventLoop(self.timeout) as loop:
                outcomes = [loop.start(call) for call in calls]
                loop.wait()
            yield from enumerate(outcomes)
            return
        left, until = self.timeout, time.monotonic() + _SEARCH * (self.timeout or 0.0)
        for i, call in enumerate(calls):
            if self.timeout is not None:
                left = min(self.timeout, until - time.monotonic())
                if left <= 0:
                    return
            outcome = attempt(call, left)
            if inspect.isawaitable(outcome.values):
                with EventLoop(left) as loop:
                    outcome = loop.start(partial(_itself, outcome.values))
                    loop.wait()
            if isinstance(outcome.error, TooSlow) and left is not None and left < (self.timeout or 0.0):
                return  # it did not have its time
            yield i, outcome

    def _reason(self, error: Exception) -> str:
        """What happened, to follow a function's name."""
        if isinstance(error, TooSlow):
            stuck = " and does not let go of its event loop" if error.blocked else ""
            return f"takes longer than reward_timeout={self.timeout:g} s{stuck}"
        return error.what if isinstance(error, _NoList) else f"raised {type(error).__name__}: {error}"

    def _fail(self, failure: Failure, during: str) -> None:
        """Keep a failure, or end everything with it."""
        self.failures.append(failure)
        if self.on_error == "skip":
            return
        advice = "A finite number is needed, or None where it cannot judge"
        if isinstance(failure.error, TooSlow):
            advice = "Its thread cannot be ended from outside and runs on"
            if failure.error.awaited:
                advice = "It was cancelled"
            if failure.error.blocked:
                advice = "An async function awaits whatever takes long; does it call time.sleep or requests?"
        elif failure.error is not None:
            advice = "A model may write anything, the empty string included"
        raise RewardError(
            f"reward function {failure.name!r} {failure.reason} for the completion {failure.completion!r:.300} "
            f"(during {during}). {advice}"
        ) from failure.error

    def _warn(self, count: int, during: str) -> None:
        """Say of each function and kind of failure, once, that completions go without its score."""
        for name in dict.fromkeys(failure.name for failure in self.failures):
            mine = [failure for failure in self.failures if failure.name == name]
            self._say(
                name,
                mine[0].reason,
                f"reward function {name!r} {mine[0].reason} for {len(mine)} of {count} completions (during {during}), "
                f"such as {mine[0].completion!r:.300}. They go without its score, as on_reward_error='skip' says; "
                f"unscored/{name} in the metrics counts them. This is said once",
            )

    def _say(self, name: str, reason: str, text: str) -> None:
        kind = name, reason.partition(":")[0]
        if kind not in self._said and not self.quiet:
            self._said.add(kind)
            warnings.warn(text, RewardWarning, stacklevel=5)


class _NoList(Exception):
    """What a function returned is no list with one entry a completion."""

    def __init__(self, what: str, needed: str) -> None:
        super().__init__(what)
        self.what, self.needed = what, needed


def _call(function: Callable[..., Any], given: Given, extras: Mapping[str, Any]) -> Any:
    """Call `function` with what it takes of `given`, in lists that it may change, and names of `extras`."""
    parameters = inspect.signature(function).parameters.values()
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    named = {parameter.name for parameter in parameters}
    lists = {key: list(values) for key, values in given.items() if takes_all or key in named}
    return function(
        **lists, **{key: extra for key, extra in extras.items() if key in named and key not in lists}
    )


def _itself(awaitable: Any) -> Any:
    return awaitable


def _read(name: str, outcome: Outcome, count: int) -> tuple[list[float], dict[int, str]]:
    """The rewards that a call returned, NaN for None, and by its place what is no reward.

    Raises what the function raised, `TooSlow`, or `_NoList`.
    """
    if outcome.error is not None:
        raise outcome.error
    values, needed = outcome.values, "a list with one number or None a completion is needed"
    if callable(values) and not hasattr(values, "__len__"):
        advice = f"{needed}. Does it make a reward function? Then pass what it makes: {name}(…)"
        raise _NoList("returned a function", advice)
    if isinstance(values, str | bytes | Mapping | Set):  # these iterate, but not over rewards in order
        raise _NoList(f"returned {values!r:.300}", needed)
    try:
        entries = iter(values)
    except TypeError:
        raise _NoList(f"returned {values!r:.300}", needed) from None
    values = list(entries)  # a generator may raise here
    if len(values) != count:
        needed = "it must return one number or None for each"
        raise _NoList(f"returned {len(values)} values for {count} completions", needed)
    numbers: list[float] = []
    unusable: dict[int, str] = {}
    for i, value in enumerate(values):
        try:
            number = math.nan if value is None or isinstance(value, str) else float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number) and value is not None:
            number, unusable[i] = math.nan, f"returned {value!r:.300}"
        numbers.append(number)
    return numbers, unusable
