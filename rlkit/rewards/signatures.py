"""What a trainer asks about a reward function: what it is called, and which columns it needs."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

RewardFunction = Callable[..., list[float | None]]
"""f(prompts, completions, **columns) → one number or None a completion."""

# What a trainer passes besides the data set's columns, with TRL's names.
GIVEN = ("prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric")

KEYWORD = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def reward_name(reward: Callable[..., Any]) -> str:
    """Return the name under which a reward function is logged: its `__name__`, else that of its class.

    >>> from rlkit.rewards import number_found
    >>> reward_name(number_found)
    'number_found'
    """
    while not hasattr(reward, "__name__") and hasattr(reward, "func"):  # functools.partial
        reward = reward.func
    return str(getattr(reward, "__name__", type(reward).__name__))


def required_columns(reward: Callable[..., Any]) -> list[str]:
    """Return the data-set columns without which `reward` cannot be called: its parameters without a default.

    A trainer compares them with the data set before it starts. Empty where the signature cannot be read.

    >>> from rlkit.rewards import correct_number, number_found
    >>> required_columns(correct_number), required_columns(number_found)
    (['answer'], [])
    """
    if hasattr(reward, "required_columns"):
        return list(reward.required_columns)
    try:
        parameters = inspect.signature(reward).parameters.values()
    except (TypeError, ValueError):
        return []
    needed = [p.name for p in parameters if p.kind in KEYWORD and p.default is inspect.Parameter.empty]
    return [name for name in needed if name not in GIVEN]
