"""Advantages: how much better than its siblings a completion is.

Rewards [P, G, F] become one total a completion [P, G], and totals become advantages A [P, G]. All
arithmetic is in float64: in float32 the mean of sixteen rewards of 1.3 misses 1.3 by enough that dividing
by the (equally accidental) spread leaves an advantage of 1e-3, which Adam turns into real steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rlkit.errors import RewardError, bad_value, unknown_name
from rlkit.objectives.names import ADVANTAGE_BASELINES, resolve_scale

#: Largest minus smallest reward of a group, relative to max(1, |r|), up to which it has no spread.
NO_SPREAD = 1e-8


class Advantages(NamedTuple):
    """Advantages and the statistics that they came from; float64, on the device of the rewards."""

    values: Tensor  # [P, G]  A, in units of the spread (scale "group", "batch") or of the reward ("none")
    mean: Tensor  # [P]     mean reward of the group
    std: Tensor  # [P]     spread of the group's rewards; with scale="batch", of the whole batch's, repeated
    dead: Tensor  # [P]     bool: the group has no spread, so its advantages are exactly 0


def weighted_total(
    per_func: Tensor,  # [P, G, F]
    weights: Tensor | Sequence[float],  # [F]
) -> Tensor:  # [P, G]
    """Add up the reward functions: total = sum over f of w_f * r_f, leaving out what was not scored.

    per_func: rewards [P, G, F] in the functions' own units; NaN stands for None, "this function does not
    score this completion", and is left out of the sum. weights: [F], one a function. Returns the totals
    [P, G] in float64.

    Raises RewardError when a completion was scored by no function at all, or a reward is infinite;
    ConfigError for a wrong shape or a weight that is not a finite number.

    As TRL's nansum, but for the completion that nobody scored: TRL gives it advantage 0 and trains on, here
    it is an error, because it nearly always means a reward function that fell through to its last line.
    """
    if per_func.dim() != 3:
        raise bad_value("per_func", tuple(per_func.shape), "a tensor of shape [P, G, F]")
    rewards = per_func.double()  # [P, G, F]
    weight = torch.as_tensor(weights, dtype=torch.float64, device=rewards.device)  # [F]
    functions = rewards.shape[2]
    if weight.shape != (functions,):
        raise bad_value(
            "reward_weights", weight.tolist(), f"one weight for each of the {functions} reward functions"
        )
    if not bool(torch.isfinite(weight).all()):
        raise bad_value("reward_weights", weight.tolist(), "finite numbers")
    if bool(torch.isinf(rewards).any()):
        guilty = torch.isinf(rewards).any(0).any(0).nonzero().flatten().tolist()
        raise RewardError(
            f"reward function(s) number {guilty} (counted from 0) returned an infinite reward. "
            "A reward is a finite number, or None for 'not scored'; the usual cause is a division by zero or "
            "log(0)."
        )
    scored = ~torch.isnan(rewards)  # [P, G, F]
    unscored = ~scored.any(dim=2)  # [P, G]
    if bool(unscored.any()):
        first = unscored.nonzero()[0].tolist()
        raise RewardError(
            f"{int(unscored.sum())} of {unscored.numel()} completions were scored by no reward function (all "
            f"returned None); the first is completion {first[1]} of prompt {first[0]} (counted from 0). "
            "Make at least one function return a number for every completion: 0.0 where nothing was earned. Where a "
            'judge may fail, on_reward_error="skip" lets such a completion count as its group\'s mean.'
        )
    return (torch.where(scored, rewards, 0.0) * weight).sum(dim=2)  # [P, G]


def group_advantages(
    rewards: Tensor,  # [P, G]
    *,
    scale: str | bool = "group",
    baseline: str = "group",
    unbiased: bool = True,
    eps: float = 1e-4,
) -> Advantages:
    """Compare each completion with its group: A = (r - baseline) / (std + eps).

    rewards: totals [P, G], row p holding the G completions of prompt p.

    baseline: "group" subtracts the group's mean (GRPO, DeepSeekMath, arXiv:2402.03300). "leave_one_out"
    subtracts the mean of the *other* completions (RLOO, arXiv:2402.14740), which is the same thing times
    G / (G - 1): r_i - mean of others = G / (G - 1) * (r_i - mean).

    scale: "group" divides by the group's own standard deviation (GRPO), "batch" by that of all P * G
    rewards (REINFORCE++ and TRL's scale_rewards="batch"; the mean stays the group's), "none" not at all
    (Dr. GRPO, arXiv:2503.20783: dividing favours prompts that are nearly always or nearly never solved).
    TRL's booleans are understood: True is "group", False is "none".

    unbiased: True divides the sum of squares by G - 1 (Bessel's correction, torch's and TRL's default),
    False by G (numpy's default, and the formula as DeepSeekMath writes it). For rewards [1, 1, 0, 0] that
    is the difference between 0.866 and 1.0.

    eps: added to the standard deviation, in units of the reward; TRL's 1e-4.

    Returns `Advantages`. A group without spread (largest and smallest reward within 1e-8 * max(1, |r|))
    gets exactly 0 in every mode and is marked in `dead`: nothing in it was better than anything else.

    Raises ConfigError for G = 1, a wrong shape or an unknown name; RewardError for rewards that are not
    finite.
    """
    divide_by = resolve_scale(scale)
    if baseline not in ADVANTAGE_BASELINES:
        raise unknown_name("baseline", baseline, ADVANTAGE_BASELINES)
    if not (math.isfinite(eps) and eps >= 0):
        raise bad_value("eps", eps, "a finite number, 0 or more")
    if rewards.dim() != 2 or rewards.numel() == 0:
        raise bad_value("rewards", tuple(rewards.shape), "a tensor of shape [P, G], neither of them 0")
    size = rewards.shape[1]  # G
    if size < 2:
        raise bad_value(
            "num_generations",
            size,
            "2 or more",
            "An advantage compares a completion with others of the same prompt; alone, it is always 0.",
        )
    r = rewards.double()  # [P, G]
    finite = torch.isfinite(r)
    if not bool(finite.all()):
        raise RewardError(
            f"{int((~finite).sum())} of {r.numel()} rewards are NaN or infinite. Add the functions up with "
            "weighted_total, which leaves out what was not scored; look for a division by zero or a log(0)."
        )

    spread = r.amax(dim=1) - r.amin(dim=1)  # [P]
    dead = spread <= NO_SPREAD * r.abs().amax(dim=1).clamp(min=1.0)  # [P]
    mean = r.mean(dim=1)  # [P]
    correction = 1 if unbiased else 0
    if divide_by == "batch":
        std = r.std(correction=correction).expand(r.shape[0])  # [P]
    else:
        std = r.std(dim=1, correction=correction)  # [P]

    values = r - mean[:, None]  # [P, G]
    if baseline == "leave_one_out":
        values = values * (size / (size - 1))  # [P, G]
    if divide_by != "none":
        values = values / torch.where(dead, 1.0, std + eps)[:, None]  # [P, G]
    values = torch.where(dead[:, None], 0.0, values)  # [P, G]
    return Advantages(values=values, mean=mean, std=std, dead=dead)
