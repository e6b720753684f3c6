"""Score a rollout with reward functions as TRL calls them, and trust nothing that they return.

A reward function is ``f(prompts, completions, **columns) -> list[float | None]``, plain or async. Columns are
the data set's other columns, one value a completion; ``completion_ids`` holds the sampled token ids. None
means "not mine to judge". How they are called, and what happens when one fails, is in ``rlkit.rewards.calls``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from rlkit.errors import ConfigError, RewardError, bad_value
from rlkit.rewards.calls import RewardCaller
from rlkit.rewards.notes import RewardNotes, TrainerState
from rlkit.rewards.registry import names as names_of_rewards
from rlkit.rewards.signatures import required_columns, reward_name
from rlkit.rollout import Messages, Rewards, Rollout, Row, completion_as_given

if TYPE_CHECKING:
    import torch

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
    functions: Sequence[RewardFunction],
    rows: Sequence[Row],
    verifier: Callable[..., bool] | None = None,
    timeout: float | None = None,
) -> None:
    """Call every reward function once on real rows with stand-in answers, before anything expensive starts.

    A model may write anything, so a reward function (and the verifier, if given) must survive an empty and an
    odd answer. Whatever fails here fails for good: nothing is skipped yet.

    Args:
        timeout: seconds that each may take.

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
    values = RewardCaller(timeout=timeout)(functions, _given(rows, prompts, completions, ids), during)
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
    caller: RewardCaller | None = None,
    state: TrainerState | None = None,
) -> Rewards:
    """Score every completion with every function.

    `state` is what functions that ask for ``trainer_state`` get.
    `caller` says what happens when one fails (None: everything stops). With ``on_error="skip"`` the completions
    concerned go without that function's score, as if it had returned None; one that has no score at all takes the mean
    of its group, so that its advantage is 0 and it teaches nothing.

    Raises:
        RewardError: a function raised, took too long, returned another number of values than there are completions, or
            something that is neither a finite number nor None, or all of them returned None for some completion; and
            nothing is skipped.
    """
    import torch

    start = time.perf_counter()
    caller = caller or RewardCaller()
    size = rollout.num_generations
    rows = [row for row in rollout.rows for _ in range(size)]
    prompts = [prompt for prompt in rollout.prompts for _ in range(size)]
    completions = [
        completion_as_given(prompt, completion.text)
        for prompt, completion in zip(prompts, rollout.completions, strict=True)
    ]
    ids = [completion.token_ids for completion in rollout.completions]
    given = _given(rows, prompts, completions, ids)
    notes = RewardNotes(state, len(completions))
    columns = caller(functions, given, f"step {rollout.step}", names, notes)
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
        total=_total(per_function, weight, skip=caller.on_error == "skip"),
        correct=correct,
        seconds=time.perf_counter() - start,
        metrics=notes.metrics,
        columns=notes.columns,
    )


def _total(per_function: torch.Tensor, weight: torch.Tensor, skip: bool) -> torch.Tensor:
    """Weighted sums [P, G]; with `skip`, the mean of its group for a completion that nobody scored."""
    import torch

    from rlkit.objectives import weighted_total

    if not skip:
        return weighted_total(per_function, weight)
    lost = per_function.isnan().all(-1)  # [P, G]
    total = weighted_total(per_function.masked_fill(lost[..., None], 0.0), weight)  # [P, G]
    left = (~lost).sum(-1, keepdim=True)  # [P, 1]
    mean = total.masked_fill(lost, 0.0).sum(-1, keepdim=True) / left.clamp(min=1)  # [P, 1]
    return torch.where(lost, mean, total)


def _given(
    rows: Sequence[Row],
    prompts: Sequence[str | Messages],
    completions: Sequence[str | Messages],
    completion_ids: Sequence[Sequence[int]],
) -> dict[str, list[Any]]:
    """What reward functions choose from, one entry a completion."""
    return {
        "prompts": list(prompts),
        "completions": list(completions),
        "completion_ids": list(completion_ids),
        **{column: [row[column] for row in rows] for column in _columns_of(rows[0])},
    }


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
