"""Exercises of notebook 07, continued: what a prompt weighs, and how many groups are dead."""

from __future__ import annotations

import itertools
import math

from rlkit.exercises.exercise import Exercise, Wrong
from rlkit.lab.bandit import grpo_gain

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
            "k for k / G",
            "You add the k right answers up, and do not divide by G. A push is a sum over the group *divided by G*: "
            "k / G.",
            lambda p, G, divide: G * push(p, G, divide),
        ),
        Wrong(
            "dead groups divided",
            "k = 0 and k = G are dead groups: their spread is 0, so that you divide by 0. Their advantages are 0, so"
            " let k run from 1 to G - 1.",
            lambda p, G, divide: 1 / 0 if divide else push(p, G, divide),
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
    praise="Over p (1 - p) it is the curve of the picture, for any G.",
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
            "multiplied",
            "You multiply the two chances, as if a group had to be all right *and* all wrong. It is one or the other: "
            "add them.",
            lambda probabilities, G: sum(p**G * (1 - p) ** G for p in probabilities) / len(probabilities),
        ),
        Wrong(
            "not averaged",
            "You return one chance for each prompt. Asked for is a single number, their mean.",
            lambda probabilities, G: [p**G + (1 - p) ** G for p in probabilities],
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
