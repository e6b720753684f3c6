"""Luck (patience) is all you need: how long one has to draw until an answer is right, and what learning does to that.

A model that is right with probability p needs 1/p draws on average until the first right answer, and reinforcement
learning begins with that answer. p above 0 means that patience suffices; p = 0 means that no patience does. What RL
does is to raise p, so to shorten the wait. Here: the law, measurements that can be held to it, and the sums that are
easily done wrong.

Symbols: p probability of a right answer, k draws, G completions a group, P prompts. Tensors float64; a number will do
for any [P]. `rlkit.lab.patience_models` has the p of real models, `rlkit.lab.pruning` what happens before the first
hit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rlkit.errors import bad_value

P = float | Sequence[float] | Tensor  # probabilities


class Interval(NamedTuple):
    """An estimate with a confidence interval."""

    value: float
    low: float
    high: float

    def holds(self, truth: float) -> bool:
        """Whether the interval has the true value in it."""
        return self.low <= truth <= self.high


# -- the geometric law ---------------------------------------------------------------------------------------------


def expected_draws(p: P) -> Tensor:  # [P]
    """Draws until the first right answer, on average: 1/p; inf where p = 0."""
    return 1 / _chances(p)


def geometric_pmf(p: P, k: int | Tensor) -> Tensor:
    """P(the first right answer is draw number k) = (1 - p)^(k - 1) p, for k = 1, 2, …; p and k broadcast."""
    p, k = _chances(p), torch.as_tensor(k, dtype=torch.float64)
    return torch.where(k >= 1, (1 - p) ** (k - 1).clamp(min=0) * p, 0.0)


def pass_at_k_exact(p: P, k: int | Tensor) -> Tensor:
    """P(at least one of k draws is right) = 1 - (1 - p)^k, where p is known: also the geometric law's distribution
    function. Accurate for tiny p."""
    p, k = _chances(p), torch.as_tensor(k, dtype=torch.float64)
    return torch.where(k == 0, 0.0, -torch.expm1(k * torch.log1p(-p)))


def draws_for(p: P, confidence: float = 0.95) -> Tensor:  # [P]
    """Draws after which a right answer has come with this probability: log(1 - confidence) / log(1 - p), rounded up.

    At 95 % about 3/p: patience means three times the average wait. inf where p = 0.
    """
    if not 0 < confidence < 1:
        raise bad_value("confidence", confidence, "a probability above 0 and below 1")
    return (math.log1p(-confidence) / torch.log1p(-_chances(p))).ceil().clamp(min=1)


def draw_until_right(draw: Callable[[], bool], limit: int = 1_000_000) -> int | None:
    """Draw until the first right answer: the number of draws, or None where `limit` draws were not enough.

    >>> import random
    >>> draw_until_right(lambda: random.random() < 0.3) >= 1
    True
    """
    return next((k for k in range(1, limit + 1) if draw()), None)


def simulate_draws(p: P, trials: int = 1000, seed: int = 0, limit: int = 1_000_000) -> Tensor:  # [P, trials]
    """Really draw, right or wrong, until the first right answer, `trials` times for each p; nothing about 1/p is used.

    Returns float64 counts [P, trials]; inf where `limit` draws were not enough (always where p = 0).
    """
    chance = _chances(p).reshape(-1)  # [P]
    generator = torch.Generator().manual_seed(seed)
    counts = torch.full((len(chance), trials), torch.inf, dtype=torch.float64)
    waiting = (chance > 0)[:, None].expand(counts.shape).nonzero()  # [W, 2]
    drawn, block = 0, 16
    while len(waiting) and drawn < limit:
        block = min(block, limit - drawn)
        luck = torch.rand(len(waiting), block, generator=generator, dtype=torch.float64)  # [W, block]
        right = luck < chance[waiting[:, 0], None]
        hit = right.any(1)
        counts[waiting[hit, 0], waiting[hit, 1]] = (drawn + 1 + right[hit].double().argmax(1)).double()
        waiting, drawn = waiting[~hit], drawn + block
        block = max(16, min(4 * block, 4_000_000 // max(len(waiting), 1)))
    return counts


def measure_patience(p: float, trials: int = 1000, seed: int = 0, z: float = 1.96) -> Interval:
    """The mean of simulated draws with its interval (± z standard errors), to be held against 1/p."""
    return mean_interval(simulate_draws(p, trials, seed)[0], z)


def first_hits(correct: Tensor) -> Tensor:  # [P]
    """Which draw of each prompt was the first right one, from verdicts [P, n] in the order of drawing; inf: none."""
    right = torch.as_tensor(correct).bool()  # [P, n]
    first = right.double().argmax(1).double() + 1  # [P]
    return torch.where(right.any(1), first, torch.inf)


def mean_draws(hits: Tensor, draws: int) -> float:
    """The mean wait of one p from first hits of which some did not come within `draws` (inf): all draws made / hits.

    Leaving out what did not hit would make the wait look short: the maximum-likelihood estimate of a geometric law
    whose late values are cut off counts their draws too. inf where there was no hit at all.
    """
    made = hits.double().clamp(max=draws).sum()
    return float(made / torch.isfinite(hits).sum())


# -- pass@k --------------------------------------------------------------------------------------------------------


def pass_at_k(n: int | Tensor, c: int | Tensor, k: int) -> Tensor:
    """The unbiased estimate of pass@k from n draws of which c were right: 1 - C(n - c, k) / C(n, k).

    The share of all choices of k of the n draws that hold a right one, so its mean is 1 - (1 - p)^k exactly. Putting
    c/n into that formula instead is too low on average. n and c broadcast ([P] each: take the mean over prompts).

    Raises `ConfigError` unless 1 ≤ k ≤ n and 0 ≤ c ≤ n. Source: Chen et al. 2021, "Evaluating Large Language Models
    Trained on Code", arXiv:2107.03374, eq. 1.
    """
    total, right = torch.broadcast_tensors(torch.as_tensor(n), torch.as_tensor(c))
    if not 1 <= k <= int(total.min()):
        raise bad_value("k", k, f"1 to n = {int(total.min())}", "Draw at least k answers a prompt.")
    if bool((right < 0).any()) or bool((right > total).any()):
        raise bad_value("c", right.tolist(), "right answers, from 0 to n")
    return 1 - _share_of_choices((total - right).double(), total.double(), k)


def _share_of_choices(c: Tensor, n: Tensor, k: int) -> Tensor:
    """C(c, k) / C(n, k) = Π_{i<k} (c - i) / (n - i), without large numbers."""
    i = torch.arange(k, dtype=torch.float64)
    return ((c[..., None] - i).clamp(min=0) / (n[..., None] - i)).prod(-1)


# -- means over prompts --------------------------------------------------------------------------------------------


class Jensen(NamedTuple):
    """Two means over prompts that are easily confused."""

    mean_of_inverse: float  # mean over i of 1/p_i: the wait for a prompt that is dealt out
    inverse_of_mean: float  # 1 / mean p: the wait if every draw came from a new prompt
    ratio: float  # the first over the second: 1 where all p are equal, else more


def jensen(p: P) -> Jensen:
    """Mean of 1/p against 1 / mean of p, from exact p_i: the first is never smaller (Jensen: 1/x is convex).

    One hopeless prompt makes the mean wait infinite, however easy the others are, and hardly moves mean p. With
    estimated p_i noise hides this: an estimate of 0 makes it infinite, leaving it out makes it too small.
    """
    chance = _chances(p).reshape(-1)  # [P]
    mean_of_inverse, inverse_of_mean = float((1 / chance).mean()), float(1 / chance.mean())
    ratio = mean_of_inverse / inverse_of_mean if math.isfinite(inverse_of_mean) else math.nan
    return Jensen(mean_of_inverse, inverse_of_mean, ratio)


def no_spread(probabilities: P, group_size: int) -> Tensor:  # []
    """The share of groups in which all G rewards are equal, so that GRPO learns nothing: the mean of Σ_r P(r)^G.

    `probabilities`: [P, R], that of each of R different rewards, prompt by prompt; or [P], that of the higher of two
    rewards: then it is the mean of p^G + (1 - p)^G. Average over prompts, not over p first: p^G + (1 - p)^G is
    convex, so the mean p promises fewer dead groups than there are.
    """
    if not isinstance(group_size, int) or group_size < 1:
        raise bad_value("group_size", group_size, "a whole number, 1 or more")
    shares = _chances(probabilities)
    if shares.dim() < 2:
        shares = torch.stack((shares.reshape(-1), 1 - shares.reshape(-1)), -1)  # [P, 2]
    if not torch.allclose(shares.sum(-1), torch.ones(1, dtype=torch.float64), atol=1e-9):
        raise bad_value(
            "probabilities", shares.sum(-1).tolist(), "rows [R] that add up to 1, or one p a prompt [P]"
        )
    return (shares**group_size).sum(-1).mean()


def no_spread_estimate(rewards: Tensor, group_size: int) -> Tensor:  # []
    """The unbiased estimate of `no_spread` from n ≥ G rewards a prompt [P, n]: the mean of Σ_r C(c_r, G) / C(n, G).

    The share of all choices of G of the n that are equal, as `pass_at_k` is of those that hold a right one.
    """
    rewards = torch.as_tensor(rewards, dtype=torch.float64)  # [P, n]
    n = rewards.shape[-1]
    if not 1 <= group_size <= n:
        raise bad_value("group_size", group_size, f"1 to n = {n}")
    found = []
    for row in rewards:
        counts = row.unique(return_counts=True)[1].double()  # [R]
        found.append(_share_of_choices(counts, torch.full_like(counts, n), group_size).sum())
    return torch.stack(found).mean()


# -- before and after ----------------------------------------------------------------------------------------------


class Patience(NamedTuple):
    """What exact p_i of P prompts mean for whoever draws."""

    prompts: int
    mean_p: float
    mean_draws: float  # mean over prompts of 1/p; inf if one p is 0
    median_draws: float
    worst_draws: float
    inverse_of_mean: float  # 1 / mean p, the number that looks like mean_draws and is not
    pass_at_k: float  # share of prompts with a right answer among group_size draws, expected
    no_spread: float  # share of groups of group_size without spread, expected
    group_size: int

    def __str__(self) -> str:
        return (
            f"p {self.mean_p:.3f} on average; draws until right: mean {self.mean_draws:.3g}, median "
            f"{self.median_draws:.3g}, worst {self.worst_draws:.3g} (1 / mean p: {self.inverse_of_mean:.3g}); "
            f"groups of {self.group_size}: {self.pass_at_k:.1%} hold a right one, {self.no_spread:.1%} have no spread"
        )


def patience(p: P, group_size: int = 8) -> Patience:
    """Sum the exact p_i [P] up; take it before and after k updates to see what RL changed."""
    chance = _chances(p).reshape(-1)  # [P]
    draws = 1 / chance
    means = jensen(chance)
    return Patience(
        len(chance),
        float(chance.mean()),
        means.mean_of_inverse,
        float(draws.median()),
        float(draws.max()),
        means.inverse_of_mean,
        float(pass_at_k_exact(chance, group_size).mean()),
        float(no_spread(chance, group_size)),
        group_size,
    )


# -- intervals -----------------------------------------------------------------------------------------------------


def mean_interval(values: Tensor, z: float = 1.96) -> Interval:
    """A mean ± z standard errors; z = 1.96 for 95 %."""
    values = torch.as_tensor(values, dtype=torch.float64)
    mean = float(values.mean())
    error = float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.inf
    return Interval(mean, mean - z * error, mean + z * error)


def wilson_interval(hits: int, draws: int, z: float = 1.96) -> Interval:
    """A share with Wilson's interval, which is right near 0 and 1 too: no hit in n draws does not mean p = 0.

    Source: Wilson 1927, "Probable Inference, the Law of Succession, and Statistical Inference".
    """
    if not 0 <= hits <= draws or draws < 1:
        raise bad_value("hits", hits, f"0 to draws = {draws}, which must be 1 or more")
    share, spread = hits / draws, z * z / draws
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / draws + spread / (4 * draws)) / (1 + spread)
    return Interval(share, max(0.0, middle - half), min(1.0, middle + half))


def _chances(p: P) -> Tensor:
    chance = torch.as_tensor(p, dtype=torch.float64)
    if chance.numel() == 0 or not bool(((chance >= 0) & (chance <= 1)).all()):
        raise bad_value("p", p, "probabilities from 0 to 1")
    return chance
