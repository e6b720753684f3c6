"""Drawing until an answer is right: what came, beside what the law promises (`rlkit.lab.patience`)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from rlkit.errors import bad_value
from rlkit.lab import patience as law

#: Probabilities of a right answer, one a prompt.
PRESETS: dict[str, tuple[float, ...]] = {
    "one prompt": (),
    "easy, middling, hard": (0.9, 0.3, 0.02),
    "five alike": (0.3, 0.3, 0.3, 0.3, 0.3),
    "one hopeless among easy ones": (0.9, 0.8, 0.7, 0.0),
    "what a weak model meets": (0.6, 0.2, 0.1, 0.05, 0.02, 0.01),
}
MOST_DRAWS = 200_000  # of one prompt
BARS = 24  # of the histogram, at most


class Wait(NamedTuple):
    """One prompt: what is expected, and what came."""

    p: float
    expected: float  # 1/p, draws
    for_95: float  # draws that suffice in 95 of 100 cases
    draws: int
    hits: int
    measured: float  # draws made / hits; inf without a hit, NaN without a draw


class Bar(NamedTuple):
    """One bar of the histogram: waits of `first` to `last` draws."""

    first: int
    last: int
    seen: int  # waits of this length
    share: float  # of all finished waits; NaN where there is none
    promised: float  # by the geometric law


class PatienceModel:
    """Prompts with known chances, from which verdicts (right or wrong) are drawn.

    Args:
        p: the probability of a right answer, one a prompt.
        group_size: G, completions a group.
        seed: decides the draws; a hundred single draws are the same as a hundred at once.

    Raises `ConfigError` for probabilities outside 0 to 1 or none at all, and for a group of fewer than 2.
    """

    def __init__(self, p: float | Sequence[float] = 0.3, group_size: int = 8, seed: int = 0) -> None:
        self.p = torch.as_tensor(p, dtype=torch.float64).reshape(-1)  # [P]
        law.expected_draws(self.p)  # says what is wrong with p
        if not isinstance(group_size, int) or group_size < 2:
            raise bad_value("group_size", group_size, "a whole number, 2 or more")
        self.group_size, self.seed = group_size, seed
        self.reset()

    def reset(self) -> None:
        """Forget all draws; the next ones are the same again."""
        self._generators = [
            torch.Generator().manual_seed(1_000_003 * self.seed + i) for i in range(len(self.p))
        ]
        self.correct = torch.zeros(len(self.p), 0, dtype=torch.bool)  # [P, n] in the order of drawing

    def draw(self, count: int = 1) -> Tensor:  # [P, count]
        """Draw `count` more answers to each prompt; returns their verdicts. Raises `ConfigError` beyond 200,000."""
        if count < 1 or self.draws + count > MOST_DRAWS:
            left = MOST_DRAWS - self.draws
            raise bad_value("count", count, f"1 to {left:,} more draws of a prompt", "Reset and draw again.")
        luck = [torch.rand(count, generator=g, dtype=torch.float64) for g in self._generators]
        verdicts = torch.stack(luck) < self.p[:, None]  # [P, count]
        self.correct = torch.cat((self.correct, verdicts), 1)
        return verdicts

    @property
    def draws(self) -> int:
        """Draws made of each prompt so far."""
        return self.correct.shape[1]

    # -- waiting ----------------------------------------------------------------------------------------

    def waits(self, prompt: int = 0) -> Tensor:  # [hits]
        """The finished waits of one prompt: draws from one right answer to the next, the right one among them."""
        at = self.correct[prompt].nonzero()[:, 0] + 1  # [hits] numbers of the right draws
        return torch.diff(at, prepend=torch.zeros(1, dtype=at.dtype))

    def since(self, prompt: int = 0) -> int:
        """Draws since the last right answer: the wait that is still going on."""
        return self.draws - int(self.waits(prompt).sum())

    def wait(self, prompt: int = 0) -> Wait:
        """One prompt's expected and measured wait."""
        chance, hits = self.p[prompt], int(self.correct[prompt].sum())
        measured = self.draws / hits if hits else float("inf") if self.draws else float("nan")
        return Wait(
            float(chance),
            float(law.expected_draws(chance)),
            float(law.draws_for(chance)),
            self.draws,
            hits,
            measured,
        )

    def histogram(self, prompt: int = 0) -> list[Bar]:
        """Finished waits in bars of equal width, with what the geometric law promises for each bar.

        The bars reach as far as 99 of 100 waits, and as far as what was seen. Empty where p is 0.
        """
        p = self.p[prompt]
        if p == 0:
            return []
        waits = self.waits(prompt)  # [hits]
        reach = max(int(law.draws_for(p, 0.99)), int(waits.max()) if len(waits) else 1, 4)
        width = -(-reach // BARS)
        found = []
        for first in range(1, reach + 1, width):
            last = first + width - 1
            seen = int(((waits >= first) & (waits <= last)).sum())
            ends = law.pass_at_k_exact(p, torch.tensor([first - 1, last]))  # [2] the distribution function
            share = seen / len(waits) if len(waits) else float("nan")
            found.append(Bar(first, last, seen, share, float(ends[1] - ends[0])))
        return found

    # -- pass@k -----------------------------------------------------------------------------------------

    def ks(self) -> list[int]:
        """Values of k for the curve, up to where the hardest prompt that is possible is right with 95 %.

        Even steps up to about 100, even ratios beyond.
        """
        possible = self.p[self.p > 0]
        reach = int(law.draws_for(possible.min())) if len(possible) else 32
        reach = max(16, min(4096, reach))
        if reach > 100:
            return sorted({round(reach ** (i / 63)) for i in range(64)})
        return sorted({1, *(round(1 + (reach - 1) * i / 47) for i in range(48))})

    def pass_at_k(self, k: int) -> tuple[float, float | None]:
        """(exact, estimated) share of prompts with a right answer among k draws; no estimate before k draws."""
        exact = float(law.pass_at_k_exact(self.p, k).mean())
        if k > self.draws:
            return exact, None
        hits = self.correct.sum(1)  # [P]
        return exact, float(law.pass_at_k(torch.full_like(hits, self.draws), hits, k).mean())

    # -- groups and means -------------------------------------------------------------------------------

    def without_spread(self) -> tuple[float, float | None]:
        """(exact, estimated) share of groups of G with equal rewards, the mean of p^G + (1 - p)^G.

        No estimate before G draws.
        """
        exact = float(law.no_spread(self.p, self.group_size))
        if self.draws < self.group_size:
            return exact, None
        return exact, float(law.no_spread_estimate(self.correct.double(), self.group_size))

    def spread_curve(self) -> tuple[list[float], list[float]]:
        """The share of groups without spread against p, for the present G."""
        return _spread_curve(self.group_size)

    def means(self) -> tuple[law.Jensen, float, float]:
        """Mean of 1/p against 1 / mean p, exact; then both as drawn.

        Drawn: the mean over prompts of draws a hit, and all draws a hit; NaN before the first draw.
        """
        hits = self.correct.sum(1).double()  # [P]
        measured = float((self.draws / hits).mean()) if self.draws else float("nan")
        pooled = self.draws * len(self.p) / float(hits.sum()) if hits.sum() else float("inf")
        return law.jensen(self.p), measured, pooled if self.draws else float("nan")

    def summary(self) -> law.Patience:
        """What the chances mean, without a draw."""
        return law.patience(self.p, self.group_size)


@lru_cache
def _spread_curve(group_size: int, points: int = 101) -> tuple[list[float], list[float]]:
    p = torch.linspace(0, 1, points, dtype=torch.float64)
    return p.tolist(), [float(law.no_spread(one.reshape(1), group_size)) for one in p]
