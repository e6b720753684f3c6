"""What a judge uses up, and what it leaves without a score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


class JudgeWarning(UserWarning):
    """A judge gave no score, or cannot keep its scores."""


@dataclass(slots=True)
class Usage:
    """What a judge has used since it was made.

    Attributes:
        requests: completions that the endpoint was asked about.
        cached: completions scored without asking: kept on disk, or the same as another of the batch.
        failed: requests that ended without a score.
        retries: tries beyond the first of those requests that were answered.
        prompt_tokens, completion_tokens: as the endpoint counts them; 0 where it does not say.
        prices: of a million prompt tokens and a million completion tokens, in any currency.
    """

    requests: int = 0
    cached: int = 0
    failed: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prices: tuple[float, float] | None = None

    @property
    def cost(self) -> float | None:
        """What it has cost, in the currency of `prices`; None without prices."""
        if self.prices is None:
            return None
        return (self.prompt_tokens * self.prices[0] + self.completion_tokens * self.prices[1]) / 1e6

    def __str__(self) -> str:
        cost = "" if self.cost is None else f"; cost {self.cost:.4g}"
        asked = f"{self.requests} requests ({self.retries} retries, {self.failed} without a score)"
        tokens = f"{self.prompt_tokens:,} + {self.completion_tokens:,} tokens"
        return f"{asked}; {self.cached} scores known already; {tokens}{cost}"

    def add_tokens(self, usage: Any) -> None:
        """Add what the endpoint says that one request used. All sorts of servers answer, so nothing is trusted."""
        for name in ("prompt_tokens", "completion_tokens"):
            count = getattr(usage, name, None)
            if isinstance(count, int) and not isinstance(count, bool) and count > 0:
                setattr(self, name, getattr(self, name) + count)


@dataclass(frozen=True, slots=True)
class JudgeFailure:
    """A completion without a score, and why."""

    reason: str
    completion: str
