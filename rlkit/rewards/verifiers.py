"""From a verifier, which says right or wrong, to a reward function, which says what that is worth."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

from rlkit.errors import bad_value
from rlkit.rewards.attempts import is_async
from rlkit.rewards.signatures import KEYWORD, RewardFunction, reward_name
from rlkit.rewards.text import Completion


def reward_from(
    verifier: Callable[..., bool], right: float = 1.0, wrong: float = 0.0, name: str | None = None
) -> RewardFunction:
    """Return the reward function that pays `right` or `wrong` for a verifier's verdict.

    `verifier(completion, **columns) -> bool` judges one completion by its row's columns: it gets those that it
    names (or all, where it takes ``**columns``). The result carries it as `.verifier`, and (lowest, highest) as
    `.score_range`; and its `.spans`, where it has them (`rlkit.rewards.spans`).

    Raises `ConfigError` for a verifier that is no plain function, and for scores that are no finite numbers.

    >>> short = reward_from(lambda completion: len(completion) < 4, right=0.5, name="short")
    >>> short.__name__, short(["", ""], ["42", "forty-two"])
    ('short', [0.5, 0.0])
    """
    if not callable(verifier):
        raise bad_value("verifier", verifier, "a function (completion, **columns) -> bool")
    if is_async(verifier):  # what it returns, a coroutine, is true whatever it would say
        cause = (
            "Write an async judge as a reward function: async def f(prompts, completions, **columns) -> list."
        )
        raise bad_value("verifier", reward_name(verifier), "a plain function, not an async one", cause)
    for argument, score in (("right", right), ("wrong", wrong)):
        number = isinstance(score, int | float) and not isinstance(score, bool)
        if not number or not math.isfinite(score):
            raise bad_value(argument, score, "a finite number")
    parameters = list(inspect.signature(verifier).parameters.values())[1:]
    takes_all = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
    named = {p.name for p in parameters if p.kind is not inspect.Parameter.VAR_KEYWORD}

    def judge(completion: Completion, **columns: Any) -> bool:
        wanted = columns if takes_all else {key: columns[key] for key in columns if key in named}
        return bool(verifier(completion, **wanted))

    def reward(
        prompts: Sequence[Any], completions: Sequence[Completion], **columns: Any
    ) -> list[float | None]:
        lists = {key: values for key, values in columns.items() if _is_column(values)}
        verdicts = [
            judge(completion, **{key: values[i] for key, values in lists.items()})
            for i, completion in enumerate(completions)
        ]
        return [float(right) if verdict else float(wrong) for verdict in verdicts]

    reward.__name__ = reward.__qualname__ = name or reward_name(verifier)
    reward.__doc__ = f"Reward {right:g} where {reward_name(verifier)} says right, else {wrong:g}."
    reward.score_range = (float(min(right, wrong)), float(max(right, wrong)))  # type: ignore[attr-defined]
    reward.verifier = judge  # type: ignore[attr-defined]
    if hasattr(verifier, "spans"):
        reward.spans = verifier.spans  # type: ignore[attr-defined]
    reward.required_columns = [  # type: ignore[attr-defined]
        p.name for p in parameters if p.kind in KEYWORD and p.default is inspect.Parameter.empty
    ]
    return reward


def _is_column(values: Any) -> bool:
    """Tell the data set's columns (lists) from other things that a trainer hands over, such as its state."""
    return isinstance(values, Sequence) and not isinstance(values, str)
