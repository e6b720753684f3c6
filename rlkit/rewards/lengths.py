"""Rewards for length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rlkit.errors import bad_value
from rlkit.rewards.golden import Example, GoldenSet
from rlkit.rewards.signatures import RewardFunction


def soft_overlong(max_completion_length: int = 256, buffer: int = 64) -> RewardFunction:
    """Return a reward function that charges for the last ``buffer`` tokens before the limit, more for each.

    With L tokens in a completion, L_max the limit and b the buffer:

        0                          L ≤ L_max − b
        (L_max − b − L) / b        L_max − b < L ≤ L_max       from 0 down to −1
        −1                         L > L_max

    A completion that is cut off loses its answer's reward as well; this slope warns before the cliff. It is the soft
    overlong punishment of DAPO (arXiv:2503.14476); beside it ``mask_truncated_completions`` leaves completions
    that were cut out of the loss. Counted are sampled tokens, the end token included.
    What a completion says is not looked at, so that an empty one is never charged.

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
    reward.score_range = (-1.0, 0.0)  # type: ignore[attr-defined]
    reward.looks_at = "the whole completion: how many tokens it has"  # type: ignore[attr-defined]
    reward.__doc__ = f"From 0 down to −1 over the last {buffer} of {max_completion_length} tokens."
    return reward


FACTORIES: dict[str, Callable[..., RewardFunction]] = {"soft_overlong": soft_overlong}


def _tokens(count: int) -> dict[str, Any]:
    return {"completion_ids": [1] * count}


GOLDEN: dict[str, GoldenSet] = {
    "soft_overlong": GoldenSet(
        right=(
            Example("42", _tokens(3)),
            Example("It is 42.", _tokens(6)),
            Example("17+25=42", _tokens(9)),
            Example("so " * 100 + "42", _tokens(102)),
            Example("so " * 190 + "42", _tokens(192)),
        ),
        wrong=(
            Example("so " * 192, _tokens(193)),
            Example("so " * 200, _tokens(201)),
            Example("so " * 230, _tokens(231)),
            Example("so " * 255, _tokens(256)),
            Example("so " * 300, _tokens(301)),
        ),
        exploits=(
            Example(" " * 4000, _tokens(256), "white space"),
            Example("#### " * 128, _tokens(256), "marker spam"),
            Example("9" * 20_000, _tokens(20_000), "huge output"),
            Example("17+25=" * 43, _tokens(258), "prompt repeated", prompt="17+25="),
            Example(" ".join(map(str, range(120))), _tokens(240), "every number listed"),
            Example("", _tokens(256), "nothing but special tokens, which text does not show"),
            Example("", _tokens(1), "empty", fools=True),
        ),
        low=-1.0,
        high=0.0,
    ),
}
"""Each reward's golden set; a factory's is for its default settings."""
