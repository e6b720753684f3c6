"""Exercises of notebook 07: advantages and leave-one-out; those of whole groups are in `grpo_groups`."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from rlkit.exercises.exercise import Exercise, Wrong
from rlkit.exercises.grpo_groups import LIVING, PUSH
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
            "no Bessel, dead group",
            "Two things: numpy's std divides by G (ask for ddof=1, or take torch's), and with eps = 0 a dead group "
            "gives 0 / 0, NaN, where exactly 0 is wanted.",
            lambda rewards, eps: (
                (rewards - rewards.mean(dim=1, keepdim=True))
                / (rewards.std(1, keepdim=True, correction=0) + eps)
            ),
        ),
        Wrong(
            "keepdim",
            "The group's mean has lost its axis: [P, G] − [P] pairs the prompts with the completions, which stops, "
            "or is silently wrong where P = G. Ask for keepdim=True, a column [P, 1].",
            lambda rewards, eps: (rewards - rewards.mean(dim=1)) / (rewards.std(dim=1) + eps),
        ),
        Wrong(
            "not divided",
            "You subtract the mean, and do not divide. That is Dr. GRPO, of which section 6 speaks; here divide by the "
            "group's standard deviation plus eps.",
            lambda rewards, eps: rewards - rewards.mean(dim=1, keepdim=True),
        ),
        Wrong(
            "eps left out",
            "You divide by the standard deviation alone; asked for is std + eps. (Usually eps is tiny; one of the "
            "inputs has a large one, to see that it is there.)",
            lambda rewards, eps: advantages(rewards, 0.0),
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
            "whole batch",
            "You compare with all other rewards of the batch. Only the siblings count, those of the same row: sum "
            "along dim=1, divide by G - 1.",
            lambda rewards: rewards - (rewards.sum() - rewards) / (rewards.numel() - 1),
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

EXERCISES: tuple[Exercise, ...] = (ADVANTAGES, LEAVE_ONE_OUT, PUSH, LIVING)
