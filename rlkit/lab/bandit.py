"""One token: the softmax bandit, where everything that a policy gradient does has a closed form.

The guide asks "What is 2 + 2?", and the model answers with one of V tokens: y ~ π = softmax(z), reward r_y. Then, with
J = Σ_y π_y r_y the expected reward, 1[y] the one-hot vector of y, b a baseline:

    the gradient                ∂J/∂z_k = π_k (r_k - J)
    one sample of REINFORCE     g(y) = (r_y - b) (1[y] - π),    E g = ∇J for every b

All tensors float64. Sizes: V tokens, G completions a group. Source: Williams 1992; Sutton & Barto (2018), section 2.8.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import combinations

import torch
from torch import Tensor

from rlkit.errors import bad_value
from rlkit.objectives import group_advantages

#: The guide's example: numbers are better than letters, 3 is closer than 8, 4 is right.
GUIDE_TOKENS = ("3", "4", "8", "C", "D", "-10")
GUIDE_REWARDS = (0.5, 3.0, 0.2, -1.0, -1.0, 0.1)
MAX_GROUPS = 200_000


class SoftmaxBandit:
    """A choice among V tokens with rewards r [V]; by default the guide's answers to "What is 2 + 2?".

    Raises `ConfigError` for fewer than two tokens, rewards that are not finite, or names that do not match.
    """

    def __init__(
        self, rewards: Sequence[float] | Tensor = GUIDE_REWARDS, tokens: Sequence[str] | None = None
    ) -> None:
        self.rewards = torch.as_tensor(rewards, dtype=torch.float64)  # [V]
        if self.rewards.dim() != 1 or len(self.rewards) < 2 or not bool(torch.isfinite(self.rewards).all()):
            raise bad_value("rewards", rewards, "two or more finite numbers, one a token")
        numbered = tuple(map(str, range(len(self.rewards))))
        default = GUIDE_TOKENS if tuple(self.rewards.tolist()) == GUIDE_REWARDS else numbered
        self.tokens = tuple(tokens) if tokens is not None else default
        if len(self.tokens) != len(self.rewards):
            raise bad_value("tokens", self.tokens, f"one name for each of the {len(self.rewards)} rewards")

    def expected_reward(self, logits: Tensor) -> Tensor:  # []
        """J = Σ_y π_y r_y for logits z [V]; differentiable."""
        return (logits.softmax(-1) * self.rewards).sum(-1)

    def gradient(self, logits: Tensor) -> Tensor:  # [V]
        """∂J/∂z_k = π_k (r_k - J): a token gains by how much better than average it is, times how often it is said."""
        pi = logits.softmax(-1)  # [V]
        return pi * (self.rewards - (pi * self.rewards).sum())

    def samples(self, logits: Tensor, baseline: float = 0.0) -> Tensor:  # [V, V]
        """What REINFORCE does with each token y that might be sampled: row y is g(y) = (r_y - b) (1[y] - π)."""
        pi = logits.softmax(-1)  # [V]
        return (self.rewards - baseline)[:, None] * (torch.eye(len(pi), dtype=torch.float64) - pi)

    def reinforce_update(self, logits: Tensor, baseline: float = 0.0) -> Tensor:  # [V]
        """E g = Σ_y π_y g(y), the expected update of REINFORCE: the gradient, whatever the baseline."""
        return logits.softmax(-1) @ self.samples(logits, baseline)

    def reinforce_variance(self, logits: Tensor, baseline: float = 0.0) -> Tensor:  # []
        """E |g - E g|² = Σ_y π_y (r_y - b)² w_y - |∇J|², with w_y = |1[y] - π|² = 1 - 2 π_y + |π|²."""
        pi = logits.softmax(-1)  # [V]
        lengths = 1 - 2 * pi + pi.square().sum()  # [V] w
        return (pi * (self.rewards - baseline).square() * lengths).sum() - self.gradient(
            logits
        ).square().sum()

    def best_baseline(self, logits: Tensor) -> Tensor:  # []
        """The b of least variance, Σ π_y w_y r_y / Σ π_y w_y: near the mean reward J, but not the same.

        Source: Greensmith, Bartlett & Baxter 2004, "Variance Reduction Techniques for Gradient Estimates".
        """
        pi = logits.softmax(-1)  # [V]
        weight = pi * (1 - 2 * pi + pi.square().sum())  # [V]
        return (weight * self.rewards).sum() / weight.sum()

    def grpo_update(
        self, logits: Tensor, group_size: int, *, scale: str | bool = "group", eps: float = 1e-4
    ) -> Tensor:  # [V]
        """The expected update of GRPO: E of 1/G Σ_i A_i (1[y_i] - π) over all groups of G tokens, exactly.

        A is `group_advantages(rewards, scale=scale, eps=eps)`. Groups count by how often each token is in them, with
        multinomial probabilities: C(G + V - 1, G) of them. With scale="none" this is (1 - 1/G) ∇J: the sample is in
        its own mean. With "group" it points elsewhere than ∇J as soon as there are three different rewards.

        Raises `ConfigError` for a group of one, and where there are more than 200,000 groups.
        """
        pi = logits.softmax(-1)  # [V]
        counts = _compositions(group_size, len(pi)).double()  # [C, V]
        ways = torch.lgamma(torch.tensor(group_size + 1.0).double()) - torch.lgamma(counts + 1).sum(1)  # [C]
        chance = (ways + torch.xlogy(counts, pi).sum(1)).exp()  # [C]
        tokens = torch.stack(
            [torch.repeat_interleave(torch.arange(len(pi)), row.long()) for row in counts]
        )  # [C, G]
        a = group_advantages(self.rewards[tokens], scale=scale, eps=eps).values  # [C, G]
        updates = torch.zeros_like(counts).scatter_add_(1, tokens, a) - a.sum(1, keepdim=True) * pi  # [C, V]
        return chance @ updates / group_size

    def flow(
        self,
        logits: Tensor,
        *,
        learning_rate: float = 0.1,
        updates: int = 100,
        update: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:  # [updates + 1, V]
        """The probabilities over the course of z ← z + learning_rate · update(z); `update` is the gradient by default.

        No sampling, so no noise: what many runs do on average, as long as steps are small.
        """
        z = torch.as_tensor(logits, dtype=torch.float64).clone()  # [V]
        course = [z.softmax(-1)]
        for _ in range(updates):
            z = z + learning_rate * (self.gradient(z) if update is None else update(z))
            course.append(z.softmax(-1))
        return torch.stack(course)


def grpo_gain(p: float, group_size: int, *, scale: str | bool = "group", eps: float = 1e-4) -> float:
    """How many times the true gradient GRPO's expected update is, where rewards are 0 and 1 and p is the share of 1.

    With k right of G: E of k/G · A_right(k), over p (1 - p). 1 - 1/G with scale="none"; with "group" about
    1 / sqrt(p (1 - p)) for large groups, so that rare successes count more, down to p of about 1/G, below which most
    groups have none.
    """
    if not 0 < p < 1:
        raise bad_value("p", p, "a probability above 0 and below 1")
    k = torch.arange(group_size + 1)  # [G + 1]
    right = (torch.arange(group_size) < k[:, None]).double()  # [G + 1, G] the first k of G
    a = group_advantages(right, scale=scale, eps=eps).values  # [G + 1, G]
    chance = [math.comb(group_size, int(i)) * p ** int(i) * (1 - p) ** (group_size - int(i)) for i in k]
    credit = (a * right).sum(1) / group_size  # [G + 1]
    return float(torch.tensor(chance, dtype=torch.float64) @ credit) / (p * (1 - p))


def two_armed_flow(p: float, gap: float, time: float) -> float:
    """The probability of the better of two tokens after gradient flow dz/dt = ∇J, in closed form.

    With Δ the difference of the two logits and `gap` that of their rewards, dΔ/dt = 2 gap p (1 - p), so

        Δ + sinh Δ  =  Δ_0 + sinh Δ_0 + gap · t

    which is solved for Δ (Newton, in float64). From p near 0 the way takes a time of about 1 / (2 p · gap).
    """
    if not 0 < p < 1:
        raise bad_value(
            "p", p, "a probability above 0 and below 1", "From 0 there is no way up: the gradient is 0."
        )
    start = math.log(p / (1 - p))
    goal = start + math.sinh(start) + gap * time
    delta = math.asinh(goal)
    for _ in range(100):
        delta -= (delta + math.sinh(delta) - goal) / (1 + math.cosh(delta))
    return 1 / (1 + math.exp(-delta))


def _compositions(total: int, parts: int) -> Tensor:  # [C, parts] int64
    """All ways to write `total` as a sum of `parts` whole numbers."""
    if not isinstance(total, int) or total < 2:
        raise bad_value(
            "group_size", total, "2 or more", "Alone, a completion has nothing to be compared with."
        )
    if math.comb(total + parts - 1, parts - 1) > MAX_GROUPS:
        raise bad_value(
            "group_size", total, f"at most {MAX_GROUPS:,} different groups", "Fewer tokens, smaller groups."
        )
    bars = torch.tensor(
        list(combinations(range(total + parts - 1), parts - 1)), dtype=torch.long
    )  # [C, parts - 1]
    ends = torch.full((len(bars), 1), total + parts - 1)
    return torch.cat((bars, ends), 1) - torch.cat((torch.full_like(ends, -1), bars), 1) - 1
