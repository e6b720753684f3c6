"""A rater that is a program: it has a taste, judges by it with noise, and never tires.

    P(first beats second) = (1 − mistakes) · σ((u(first) − u(second)) / noise) + mistakes / 2

the Bradley–Terry model of a taste u, and a share of answers given without looking. Its verdict on an item follows from
its seed and the item alone, whatever was asked before and in whichever order the two answers stand.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

from rlkit.errors import bad_value
from rlkit.feedback.data import check_preferences, item_key, same_answer
from rlkit.feedback.store import FeedbackStore
from rlkit.feedback.taste import Taste
from rlkit.rollout import Row


class SyntheticRater:
    """Judges answers by a taste, with noise.

    Args:
        taste: ``taste.score(prompt, completion)``, the true score; default :class:`~rlkit.feedback.taste.Taste`.
        noise: in units of the score: a difference of so much is judged rightly with 73 %; 0 judges by the taste alone.
        mistakes: the share of verdicts that are a coin's.
        threshold: thumbs are up above this score.
        seed: two raters with different seeds err on different items.
        name: under which it answers in a :class:`FeedbackStore`.

    Raises:
        ConfigError: noise below 0, mistakes outside 0 to 1.
    """

    def __init__(
        self,
        taste: Any = None,
        noise: float = 0.25,
        mistakes: float = 0.0,
        threshold: float = 0.5,
        seed: int = 0,
        name: str | None = None,
    ) -> None:
        if not 0 <= noise < math.inf:
            raise bad_value("noise", noise, "0 or more, in units of the taste's score")
        if not 0 <= mistakes <= 1:
            raise bad_value("mistakes", mistakes, "a share from 0 to 1")
        self.taste = Taste() if taste is None else taste
        self.noise, self.mistakes, self.threshold, self.seed = noise, mistakes, threshold, seed
        self.name = name or f"synthetic-{seed}"

    def probability(self, prompt: Any, first: Any, second: Any) -> float:
        """P(it says that ``first`` is better)."""
        gap = self.taste.score(prompt, first) - self.taste.score(prompt, second)
        return (1 - self.mistakes) * _logistic(gap, self.noise) + self.mistakes / 2

    def choose(self, prompt: Any, first: Any, second: Any) -> str:
        """``"first"`` or ``"second"``; which of two that are equally good is a coin's."""
        turned = item_key(first) > item_key(second)
        one, other = (second, first) if turned else (first, second)
        wins = self._draw("preference", prompt, one, other) < self.probability(prompt, one, other)
        return "first" if wins != turned else "second"

    def label(self, prompt: Any, completion: Any) -> bool:
        """Thumb up: with σ((u − threshold) / noise), but for the mistakes."""
        gap = self.taste.score(prompt, completion) - self.threshold
        up = (1 - self.mistakes) * _logistic(gap, self.noise) + self.mistakes / 2
        return self._draw("thumb", prompt, completion) < up

    def preferences(self, rows: Sequence[Row], pairs: int | None = None) -> list[Row]:
        """Preferences on sampled answers.

        Args:
            rows: each a ``prompt`` with its ``completions``, two or more; equal ones are compared once.
            pairs: so many pairs a prompt, evenly spread over all; None for all.

        Raises:
            ConfigError: all answers to every prompt are the same.
        """
        made = []
        for row in rows:
            distinct: list[Any] = []
            for completion in row["completions"]:
                blank = isinstance(completion, str) and not completion.strip()
                if not blank and not any(same_answer(completion, other) for other in distinct):
                    distinct.append(completion)
            duels = list(combinations(distinct, 2))
            if pairs is not None and len(duels) > pairs:
                order = sorted(range(len(duels)), key=lambda i: self._draw("pair", row["prompt"], *duels[i]))
                duels = [duels[i] for i in sorted(order[:pairs])]
            for first, second in duels:
                won = self.choose(row["prompt"], first, second) == "first"
                chosen, rejected = (first, second) if won else (second, first)
                made.append({"prompt": row["prompt"], "chosen": chosen, "rejected": rejected})
        if not made:
            raise bad_value(
                "rows", f"{len(rows)} rows", "prompts with two different answers that are not empty"
            )
        return made

    def thumbs(self, rows: Sequence[Row]) -> list[Row]:
        """A thumb for each of the ``completions`` of each row."""
        return [
            {"prompt": row["prompt"], "completion": answer, "label": self.label(row["prompt"], answer)}
            for row in rows
            for answer in row["completions"]
        ]

    def answer(self, store: FeedbackStore, rows: Sequence[Row]) -> int:
        """Answer into a store as a person would: ``rows`` of ``prompt``, ``first``, ``second``; returns how many."""
        for row in rows:
            choice = self.choose(row["prompt"], row["first"], row["second"])
            store.prefer(row["prompt"], row["first"], row["second"], choice, rater=self.name)
        return len(rows)

    def accuracy(self, rows: Sequence[Row]) -> float:
        """The share of these preferences that follow the taste; equal scores count half."""
        return self._mean(rows, lambda gap: 0.5 if gap == 0 else float(gap > 0))

    def expected_accuracy(self, rows: Sequence[Row]) -> float:
        """How often the taste itself would agree with this rater on these pairs, on average over its noise.

        No reward model can predict this rater's verdicts better on held-out pairs: knowing the taste is all there is
        to know.
        """
        keep, noise = self.mistakes, self.noise
        return self._mean(rows, lambda gap: (1 - keep) * _logistic(abs(gap), noise) + keep / 2)

    def _mean(self, rows: Sequence[Row], value: Callable[[float], float]) -> float:
        score = self.taste.score
        checked = check_preferences(rows, "rows")
        gaps = [
            score(row["prompt"], row["chosen"]) - score(row["prompt"], row["rejected"]) for row in checked
        ]
        return sum(map(value, gaps)) / len(gaps)

    def _draw(self, *what: Any) -> float:
        """A number from 0 up to 1 that belongs to this rater and this item."""
        digest = hashlib.blake2b(item_key([self.seed, *what]).encode(), digest_size=8).digest()
        return (int.from_bytes(digest, "big") >> 11) / 2**53

    def __repr__(self) -> str:
        return (
            f"SyntheticRater({self.taste!r}, noise={self.noise}, mistakes={self.mistakes}, seed={self.seed})"
        )


def _logistic(gap: float, noise: float) -> float:
    """σ(gap / noise); without noise a step, 1/2 at 0."""
    if gap == 0:
        return 0.5
    x = gap / noise if noise > 0 else math.copysign(math.inf, gap)
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0
