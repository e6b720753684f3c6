"""Call reward functions as TRL does, and trust nothing that they return.

A reward function is ``f(prompts, completions, **columns) -> list[float | None]``, plain or async. Columns are
the data set's other columns, one value a completion; ``completion_ids`` holds the sampled token ids. None
means "not mine to judge".
"""

from __future__ import annotations

import asyncio
import inspect
import math
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence, Set
from typing import Any

from rlkit.errors import ConfigError, RewardError, bad_value
from rlkit.rewards.registry import names as names_of_rewards
from rlkit.rewards.registry import required_columns, reward_name
from rlkit.rollout import Messages, Rewards, Rollout, Row, completion_as_given

RewardFunction = Callable[..., Any]


def check_reward_functions(functions: Sequence[RewardFunction], weights: Sequence[float] | None) -> list[str]:
    """Names of the functions, unique; checks that they can be called and that the weights match.

    Raises:
        ConfigError: no function, something that is not callable, or another number of weights.
    """
    if not functions:
        raise bad_value(
            "reward_funcs", [], "at least one reward function", "Without a reward nothing is learned."
        )
    for function in functions:
        if not callable(function):
            known = isinstance(function, str) and function in names_of_rewards()
            raise bad_value(
                "reward_funcs",
                function,
                "functions f(prompts, completions, **columns) -> list of numbers",
                f"Without the quotes: rewards.{function}." if known else "",
            )
    if weights is not None and len(weights) != len(functions):
        raise bad_value(
            "reward_weights", weights, f"one number a reward function, of which there are {len(functions)}"
        )
    names: list[str] = []
    for function in functions:
        name, copies = reward_name(function), 1
        while name in names:
            copies += 1
            name = f"{reward_name(function)}_{copies}"
        names.append(name)
    return names


def check_columns(
    functions: Sequence[RewardFunction], columns: Sequence[str], name: str = "train_dataset"
) -> None:
    """Refuse a reward function that asks for a column which the data set lacks.

    Raises:
        ConfigError: naming the function, the column and the columns there are.
    """
    for function in functions:
        for column in required_columns(function):
            if column not in columns:
                advice = "Rename the parameter or the column, or give the parameter a default."
                if column in ("prompt", "completion"):
                    advice = f"A reward function gets all of them at once: call the parameter '{column}s'."
                raise ConfigError(
                    f"reward function {reward_name(function)!r} asks for a column {column!r}, which {name} does not "
                    f"have. Its columns: {', '.join(columns) or 'none beside prompt'}. {advice}"
                )


def probe_reward_functions(
    functions: Sequence[RewardFunction], rows: Sequence[Row], verifier: Callable[..., bool] | None = None
) -> None:
    """Call every reward function once on real rows with stand-in answers, before anything expensive starts.

    A model may write anything, so a reward function (and the verifier, if given) must survive an empty and an
    odd answer.

    Raises:
        ConfigError: the verifier is no function.
        RewardError: as :func:`score_rollout` does; or all functions left both answers unscored.
    """
    if verifier is not None and not callable(verifier):
        raise bad_value("verifier", verifier, "a function (completion, **columns) -> bool")
    during = "a trial call before training"
    texts = ("", "42 is it?")
    rows = [rows[0], rows[-1]]
    prompts = [row["prompt"] for row in rows]
    completions = [completion_as_given(prompt, text) for prompt, text in zip(prompts, texts, strict=True)]
    ids = [[0], [0, 0]]  # no tokenizer here; a sampled answer has at least its end token
    values = [_call(function, rows, prompts, completions, ids, during) for function in functions]
    if all(math.isnan(value) for column in values for value in column):
        names = ", ".join(repr(reward_name(function)) for function in functions)
        raise RewardError(
            f"reward function {names} returned only None (during {during}, for the answers {texts[0]!r} and "
            f"{texts[1]!r}). None means 'not mine to judge', so these answers would get no reward at all; a missing "
            "return looks the same. Give a number wherever no other function does"
        )
    if verifier is not None:
        _judge(verifier, rows, completions, during)


def score_rollout(
    rollout: Rollout,
    functions: Sequence[RewardFunction],
    names: Sequence[str],
    weights: Sequence[float],
    verifier: Callable[..., bool] | None,
) -> Rewards:
    """Score every completion with every function.

    Raises:
        RewardError: a function raised, returned another number of values than there are completions, or
            something that is neither a finite number nor None; or no function scored some completion.
    """
    import torch

    from rlkit.objectives import weighted_total

    start = time.perf_counter()
    size = rollout.num_generations
    rows = [row for row in rollout.rows for _ in range(size)]
    prompts = [prompt for prompt in rollout.prompts for _ in range(size)]
    completions = [
        completion_as_given(prompt, completion.text)
        for prompt, completion in zip(prompts, rollout.completions, strict=True)
    ]
    ids = [completion.token_ids for completion in rollout.completions]
    columns = [
        _call(function, rows, prompts, completions, ids, during=f"step {rollout.step}")
        for function in functions
    ]
    shape = (len(rollout.rows), size, len(functions))
    per_function = torch.tensor(columns, dtype=torch.float64).T.reshape(shape)  # [P, G, F]
    weight = torch.tensor(weights, dtype=torch.float64)  # [F]
    correct = None
    if verifier is not None:
        verdicts = _judge(verifier, rows, completions, during=f"step {rollout.step}")
        correct = torch.tensor(verdicts).reshape(shape[:2])  # [P, G]
    return Rewards(
        names=list(names),
        per_function=per_function,
        weights=weight,
        total=weighted_total(per_function, weight),
        correct=correct,
        seconds=time.perf_counter() - start,
    )


def _columns_of(row: Row) -> Row:
    return {name: value for name, value in row.items() if name not in ("prompt", "completion")}


def _judge(
    verifier: Callable[..., bool], rows: Sequence[Row], completions: Sequence[str | Messages], during: str
) -> list[bool]:
    """The verifier's verdict on every completion."""
    verdicts = []
    for completion, row in zip(completions, rows, strict=True):
        try:
            verdicts.append(bool(verifier(completion, **_columns_of(row))))
        except Exception as error:
            raise RewardError(
                f"the verifier {reward_name(verifier)!r} raised {type(error).__name__}: {error} (during {during}, for "
                f"the completion {completion!r}). It is called as verifier(completion, **columns) with the columns "
                f"{', '.join(_columns_of(row)) or '(none)'}"
            ) from error
    return verdicts


def _call(
    function: RewardFunction,
    rows: Sequence[Row],
    prompts: Sequence[str | Messages],
    completions: Sequence[str | Messages],
    completion_ids: Sequence[Sequence[int]],
    during: str,
) -> list[float]:
    """One function's rewards for all completions; NaN stands for None."""
    name = reward_name(function)
    given: dict[str, Any] = {
        "prompts": list(prompts),
        "completions": list(completions),
        "completion_ids": list(completion_ids),
        **{column: [row[column] for row in rows] for column in _columns_of(rows[0])},
    }
    try:
        parameters = inspect.signature(function).parameters.values()
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            accepted = {parameter.name for parameter in parameters}
            given = {key: value for key, value in given.items() if key in accepted}
        values = function(**given)
        if inspect.isawaitable(values):
            values = _wait(values)
    except Exception as error:
        raise RewardError(
            f"reward function {name!r} raised {type(error).__name__}: {error} (during {during}). A model may write "
            f"anything, the empty string included; the first answer here was {completions[0]!r}"
        ) from error
    return _checked(name, values, completions, during)


def _checked(name: str, values: Any, completions: Sequence[Any], during: str) -> list[float]:
    needed = f"(during {during}); a list with one number or None a completion is needed"
    if callable(values) and not hasattr(values, "__len__"):
        raise RewardError(
            f"reward function {name!r} returned a function {needed}. Does it make a reward function? Then pass what "
            f"it makes: {name}(…)"
        )
    try:
        if isinstance(values, (str, bytes, Mapping, Set)):  # these iterate, but not over rewards in order
            raise TypeError
        values = list(values)
    except TypeError:
        raise RewardError(f"reward function {name!r} returned {values!r} {needed}") from None
    if len(values) != len(completions):
        raise RewardError(
            f"reward function {name!r} returned {len(values)} values for {len(completions)} completions (during "
            f"{during}); it must return one number or None for each"
        )
    checked = []
    for value, completion in zip(values, completions, strict=True):
        if value is None:
            checked.append(math.nan)
            continue
        try:
            number = math.nan if isinstance(value, str) else float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise RewardError(
                f"reward function {name!r} returned {value!r} for the completion {completion!r} (during {during}); a "
                "finite number is needed, or None where it cannot judge"
            )
        checked.append(number)
    return checked


def _wait(awaitable: Any) -> Any:
    """Run a coroutine to its end, also inside a notebook, whose event loop is already running."""

    async def main() -> Any:
        return await awaitable

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(main())
    return _in_thread(main())


def _in_thread(coroutine: Coroutine[Any, Any, Any]) -> Any:
    outcome: dict[str, Any] = {}

    def run() -> None:
        try:
            outcome["value"] = asyncio.run(coroutine)
        except BaseException as error:
            outcome["error"] = error

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if "error" in outcome:
        raise outcome["error"]
    return outcome["value"]
