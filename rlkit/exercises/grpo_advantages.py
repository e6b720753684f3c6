"""Exercises of notebook 07: advantages, leave-one-out, what a prompt weighs, how many groups are dead."""

from __future__ import annotations

import itertools
import math
import random

import torch
from torch import Tensor

from rlkit.exercises.exercise import Exercise, Wrong
from rlkit.lab.bandit import grpo_gain
from rlkit.objectives import group_advantages

# ------------------------------------------------------------------------------------------- advantages


def advantages(rewards: Tensor, eps: float) -> Tensor:
    """Advantages [P, G] of rewards [P, G]: within each group, in standard deviations; dead groups get 0."""
    mean = rewards.mean(dim=1, keepdim=True)  # [P, 1]
    std = rewards.std(dim=1, keepdim=True)  # [P, 1], torch divides by G - 1
    dead = rewards.amax(dim=1, keepdim=True) == rewards.amin(dim=1, keepdim=True)  # [P, 1]
    return torch.where(dead, 0.0, (rewards - mean) / (std + eps))


def _advantages_expected(rewards: Tensor, eps: float) -> Tensor:
    return group_advantages(rewards, eps=eps).values


def _draw(rng: random.Random, prompts: int, size: int) -> Tensor:
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    return (8 * torch.rand(prompts, size, generator=generator, dtype=torch.float64)).round(decimals=2)


def _advantages_cases(rng: random.Random) -> list[tuple[Tensor, float]]:
    simple = torch.tensor([[1.0, 1.0, 0.0, 0.0], [4.0, -2.0, -4.0, -4.0]], dtype=torch.float64)
    with_dead = _draw(rng, 3, 5)
    with_dead[1] = float(rng.randint(1, 4))  # one group in which all are the same
    return [(simple, 0.0), (_draw(rng, 3, 3), 0.0), (with_dead, 0.0), (_draw(rng, 2, 6), 0.5)]


def _alive(rewards: Tensor, values: Tensor) -> Tensor:
    dead = rewards.amax(dim=1, keepdim=True) == rewards.amin(dim=1, keepdim=True)
    return torch.where(dead, 0.0, values)


def _wrong_axis(rewards: Tensor, eps: float) -> Tensor:
    values = (rewards - rewards.mean(dim=0)) / (rewards.std(dim=0) + eps)
    return _alive(rewards, values)


def _whole_batch(rewards: Tensor, eps: float) -> Tensor:
    return _alive(rewards, (rewards - rewards.mean()) / (rewards.std() + eps))


def _batch_spread(rewards: Tensor, eps: float) -> Tensor:
    return _alive(rewards, (rewards - rewards.mean(dim=1, keepdim=True)) / (rewards.std() + eps))


def _no_bessel(rewards: Tensor, eps: float) -> Tensor:
    mean, std = rewards.mean(dim=1, keepdim=True), rewards.std(dim=1, keepdim=True, correction=0)
    return _alive(rewards, (rewards - mean) / (std + eps))


def _dead_forgotten(rewards: Tensor, eps: float) -> Tensor:
    return (rewards - rewards.mean(dim=1, keepdim=True)) / (rewards.std(dim=1, keepdim=True) + eps)


def _variance(rewards: Tensor, eps: float) -> Tensor:
    mean, variance = rewards.mean(dim=1, keepdim=True), rewards.var(dim=1, keepdim=True)
    return _alive(rewards, (rewards - mean) / (variance + eps))


def _flipped(rewards: Tensor, eps: float) -> Tensor:
    return -advantages(rewards, eps)


ADVANTAGES = Exercise(
    name="07-advantages",
    title="Advantages of a batch",
    difficulty="medium",
    minutes=8,
    hint="Mean and std along dim=1 with keepdim=True have shape [P, 1] and fit to [P, G]. A dead group is one whose "
    "largest reward is its smallest; torch.where(dead, 0.0, …) puts the 0 there.",
    solution=advantages,
    cases=_advantages_cases,
    expected=_advantages_expected,
    wrong=(
        Wrong(
            "wrong axis",
            "You compare across prompts: dim=0 takes the first completion of every prompt together. A group is a row, "
            "the G answers to one prompt: take mean and std along dim=1.",
            _wrong_axis,
        ),
        Wrong(
            "whole batch",
            "You take one mean over all P · G rewards, so that answers to an easy prompt look good and to a hard one "
            "bad. Each row has its own mean and std: dim=1, keepdim=True.",
            _whole_batch,
        ),
        Wrong(
            "spread of the batch",
            "The mean is the group's, but you divide by the spread of the whole batch (TRL calls that "
            'scale_rewards="batch"). Here each group is measured by its own: std(dim=1, keepdim=True).',
            _batch_spread,
        ),
        Wrong(
            "no Bessel",
            "You divide the sum of squares by G, as numpy's std does, and get ±1.000 for [1, 1, 0, 0]. Asked for is "
            "Bessel's G - 1, torch's default (correction=1): ±0.866.",
            _no_bessel,
        ),
        Wrong(
            "dead group",
            "With eps = 0 a dead group gives 0 / 0, which is NaN, and one NaN in the loss spoils every weight. Where "
            "all rewards of a row are equal, return exactly 0: torch.where(dead, 0.0, …).",
            _dead_forgotten,
        ),
        Wrong(
            "variance",
            "You divide by the variance. Its unit is the reward squared, so A would change with the reward's scale. "
            "Divide by its square root, the standard deviation.",
            _variance,
        ),
        Wrong(
            "flipped sign",
            "Your signs are flipped: answers better than their group get a negative A, and training would make them "
            "rarer. It is the reward minus the mean.",
            _flipped,
        ),
    ),
    praise="The library's group_advantages computes the same.",
)

# ---------------------------------------------------------------------------------------- leave one out


def leave_one_out(rewards: Tensor) -> Tensor:
    """Advantages [P, G] of rewards [P, G]: each reward minus the mean of the OTHER rewards of its group."""
    size = rewards.shape[1]  # G
    others = (rewards.sum(dim=1, keepdim=True) - rewards) / (size - 1)  # [P, G]
    return rewards - others


def _leave_one_out_expected(rewards: Tensor) -> list[list[float]]:
    rows = rewards.tolist()
    return [[row[i] - sum(row[:i] + row[i + 1 :]) / (len(row) - 1) for i in range(len(row))] for row in rows]


def _leave_one_out_cases(rng: random.Random) -> list[tuple[Tensor]]:
    simple = torch.tensor([[4.0, -2.0, -4.0, -4.0], [1.0, 1.0, 0.0, 0.0]], dtype=torch.float64)
    return [(simple,), (_draw(rng, 3, 3),), (_draw(rng, 2, 5),)]


LEAVE_ONE_OUT = Exercise(
    name="07-rloo",
    title="Leave yourself out",
    difficulty="easy",
    minutes=5,
    hint="The sum of the others is the sum of all minus your own reward. How many others are there?",
    solution=leave_one_out,
    cases=_leave_one_out_cases,
    expected=_leave_one_out_expected,
    wrong=(
        Wrong(
            "own reward in the mean",
            "Your baseline is the mean of the whole group, the sample's own reward included. Take that one out: the "
            "sum of the row minus the reward itself, over G - 1.",
            lambda rewards: rewards - rewards.mean(dim=1, keepdim=True),
        ),
        Wrong(
            "divided by G",
            "You left the own reward out of the sum, but still divide by G. There are only G - 1 others.",
            lambda rewards: rewards - (rewards.sum(dim=1, keepdim=True) - rewards) / rewards.shape[1],
        ),
        Wrong(
            "factor upside down",
            "You multiply r - mean with (G - 1) / G. It is the other way round: the own reward pulls the mean towards "
            "itself and makes r - mean too small, so leaving it out enlarges it, by G / (G - 1).",
            lambda rewards: (
                (rewards - rewards.mean(dim=1, keepdim=True)) * (rewards.shape[1] - 1) / rewards.shape[1]
            ),
        ),
        Wrong(
            "only the baseline",
            "You return the mean of the others, which is the baseline b. The advantage is the reward minus it: r - b.",
            lambda rewards: (rewards.sum(dim=1, keepdim=True) - rewards) / (rewards.shape[1] - 1),
        ),
        Wrong(
            "divided by the spread",
            "The difference is right, but then you divide by the group's standard deviation. RLOO does not: its "
            "advantages stay in the unit of the reward.",
            lambda rewards: leave_one_out(rewards) / rewards.std(dim=1, keepdim=True),
        ),
    ),
    praise='The library calls this baseline="leave_one_out".',
)

# ------------------------------------------------------------------------------------ weight of a prompt


def push(p: float, G: int, divide: bool) -> float:
    """How hard a prompt pushes towards its right answers, on average over all groups that may be sampled."""
    total = 0.0
    for k in range(1, G):  # k of G are right; k = 0 and k = G are dead groups
        chance = math.comb(G, k) * p**k * (1 - p) ** (G - k)
        advantage = 1 - k / G  # of a right answer: its reward 1 minus the mean k / G
        if divide:
            advantage /= math.sqrt(k * (G - k) / (G * (G - 1)))
        total += chance * k / G * advantage
    return total


def _push_like(p: float, G: int, divide: bool, how: str) -> float:
    """`push` with one thing wrong."""
    total = 0.0
    for k in range(1, G):
        ways = 1 if how == "ways" else math.comb(G, k)
        chance = ways * p**k * (1 - p) ** (G - k)
        advantage = 1.0 if how == "reward" else 1 - k / G
        if divide:
            square = k * (G - k) / (G * G if how == "bessel" else G * (G - 1))
            advantage /= square if how == "variance" else math.sqrt(square)
        total += chance * (1 if how == "one" else k / G) * advantage
    return total


PUSH = Exercise(
    name="07-push",
    title="What a prompt weighs",
    difficulty="hard",
    minutes=12,
    hint="Go through k = 1 … G - 1. Chance of k right answers: math.comb(G, k) * p**k * (1 - p)**(G - k). A right "
    "answer is 1 - k/G above the mean, and k/G of all are right. The std with Bessel is sqrt(k (G - k) / (G (G - 1))).",
    solution=push,
    cases=lambda rng: [
        (0.5, 2, False),
        (0.5, 4, True),
        (round(rng.uniform(0.05, 0.4), 3), rng.randint(3, 6), False),
        (round(rng.uniform(0.6, 0.95), 3), rng.randint(7, 12), True),
    ],
    expected=lambda p, G, divide: p * (1 - p) * grpo_gain(p, G, scale=divide, eps=0.0),
    wrong=(
        Wrong(
            "infinite group",
            "That is the limit for very large groups, p (1 - p) or its square root. A group of G has k right answers "
            "by chance, and with k = 0 or k = G it is dead: average over k with binomial probabilities.",
            lambda p, G, divide: math.sqrt(p * (1 - p)) if divide else p * (1 - p),
        ),
        Wrong(
            "ways forgotten",
            "p**k (1 - p)**(G - k) is the chance of one order of k right and G - k wrong answers. There are "
            "math.comb(G, k) orders: multiply by them.",
            lambda p, G, divide: _push_like(p, G, divide, "ways"),
        ),
        Wrong(
            "reward for advantage",
            "You add up rewards, not advantages: a right answer has reward 1, but only 1 - k/G above the mean of its "
            "group.",
            lambda p, G, divide: _push_like(p, G, divide, "reward"),
        ),
        Wrong(
            "one answer only",
            "You count the advantage of one right answer. There are k of them among G: multiply by k / G.",
            lambda p, G, divide: _push_like(p, G, divide, "one"),
        ),
        Wrong(
            "no Bessel",
            "Your standard deviation divides by G: sqrt(k (G - k)) / G. With Bessel's correction it is "
            "sqrt(k (G - k) / (G (G - 1))).",
            lambda p, G, divide: _push_like(p, G, divide, "bessel"),
        ),
        Wrong(
            "variance",
            "Where divide is true you divide by the variance. The standard deviation is its square root: math.sqrt.",
            lambda p, G, divide: _push_like(p, G, divide, "variance"),
        ),
    ),
    praise="Now you can draw for any G what the picture below shows.",
)

# ------------------------------------------------------------------------------------------- dead groups


def dead_share(probabilities: list[float], G: int) -> float:
    """Share of groups that are dead, if a group of G is sampled for each prompt, right with its own probability."""
    return sum(p**G + (1 - p) ** G for p in probabilities) / len(probabilities)


def _dead_share_expected(probabilities: list[float], G: int) -> float:
    dead = 0.0
    for p in probabilities:
        for group in itertools.product((0, 1), repeat=G):
            if len(set(group)) == 1:
                dead += math.prod(p if right else 1 - p for right in group)
    return dead / len(probabilities)


def _at_the_mean(probabilities: list[float], G: int) -> float:
    p = sum(probabilities) / len(probabilities)
    return p**G + (1 - p) ** G


DEAD = Exercise(
    name="07-dead",
    title="How many groups will be dead?",
    difficulty="easy",
    minutes=5,
    hint="One prompt first: all G right has probability p multiplied with itself G times, all G wrong likewise with "
    "1 - p. Both are dead. Then average over the prompts.",
    solution=dead_share,
    cases=lambda rng: [
        ([0.5], 2),
        ([0.1, 0.9, 0.3], 3),
        ([round(rng.random(), 3) for _ in range(3)], rng.randint(4, 6)),
    ],
    expected=_dead_share_expected,
    wrong=(
        Wrong(
            "all right only",
            "You count the groups that are all right. Groups that are all wrong are just as dead: add (1 - p)**G.",
            lambda probabilities, G: sum(p**G for p in probabilities) / len(probabilities),
        ),
        Wrong(
            "all wrong only",
            "You count the groups that are all wrong. Groups that are all right are just as dead: add p**G.",
            lambda probabilities, G: sum((1 - p) ** G for p in probabilities) / len(probabilities),
        ),
        Wrong(
            "mean probability",
            "You average the probabilities first and then ask how often such an average prompt is dead. Easy and hard "
            "prompts die, average ones hardly: take p**G + (1 - p)**G of each prompt, then the mean.",
            _at_the_mean,
        ),
        Wrong(
            "living groups",
            "That is the share of groups that live. Dead ones are the rest: 1 minus it.",
            lambda probabilities, G: 1 - dead_share(probabilities, G),
        ),
        Wrong(
            "sum of prompts",
            "You add up the prompts: that is how many groups are dead, not their share. Divide by their number.",
            lambda probabilities, G: dead_share(probabilities, G) * len(probabilities),
        ),
    ),
    praise="Measured below, on real samples.",
)

EXERCISES: tuple[Exercise, ...] = (ADVANTAGES, LEAVE_ONE_OUT, PUSH, DEAD)
