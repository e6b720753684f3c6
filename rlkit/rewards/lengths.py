"""Rewards for length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rlkit.errors import bad_value
from rlkit.rewards.formats import RewardFunction


def soft_overlong(max_completion_length: int = 256, buffer: int = 64) -> RewardFunction:
    """Return a reward function that charges for the last ``buffer`` tokens before the limit, more for each.

    With L tokens in a completion, L_max the limit and b the buffer:

        0                          L ≤ L_max − b
        (L_max − b − L) / b        L_max − b < L ≤ L_max       from 0 down to −1
        −1                         L > L_max

    A completion that is cut off loses its answer's reward as well; this slope warns before the cliff. It is the soft
    overlong punishment of DAPO (arXiv:2503.14476); beside it ``mask_truncated_completions`` leaves completions
    that were cut out of the loss. Counted are sampled tokens, the end token included.

    Raises `ConfigError` unless 1 ≤ buffer ≤ max_completion_length.

    >>> soft_overlong(100, 20)([""] * 3, [""] * 3, completion_ids=[[1] * 80, [1] * 90, [1] * 100])
    [0.0, -0.5, -1.0]
    """
    for name, value in (("max_completion_length", max_completion_length), ("buffer", buffer)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise bad_value(name, value, "a whole number of tokens, 1 or more")
    if buffer > max_completion_length:
        raise bad_value("buffer", buffer, f"at most max_completion_length = {max_completion_length}")

    def reward(
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]],
        **columns: Any,
    ) -> list[float | None]:
        free = max_completion_length - buffer
        return [-min(1.0, max(0.0, (len(ids) - free) / buffer)) + 0.0 for ids in completion_ids]

    reward.__name__ = reward.__qualname__ = "soft_overlong"
    reward.__doc__ = f"From 0 down to −1 over the last {buffer} of {max_completion_length} tokens."
    return reward
