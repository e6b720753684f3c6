"""Exercises of notebook 07, continued: what a prompt weighs, and what a living group costs."""

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

# ---------------------------------------------------------------------------------------- dynamic sampling


def groups_per_living(probabilities: list[float], G: int) -> float:
    """Groups sampled for each living one, if each is of a prompt drawn at random; infinite where none can live."""
    alive = sum(1 - p**G - (1 - p) ** G for p in probabilities) / len(probabilities)
    return 1 / alive if alive > 0 else math.inf


def _share_alive(probabilities: list[float], G: int) -> float:
    alive = 0.0
    for p in probabilities:
        for group in itertools.product((0, 1), repeat=G):
            if len(set(group)) == 2:
                alive += math.prod(p if right else 1 - p for right in group)
    return alive / len(probabilities)


def _groups_expected(probabilities: list[float], G: int) -> float:
    """The chance that more than k groups are needed, added up over k: the mean of a waiting time."""
    dead = 1 - _share_alive(probabilities, G)
    return math.inf if dead > 1 - 1e-12 else math.fsum(dead**k for k in range(5000))


def _over(alive: float) -> float:
    return 1 / alive if alive > 0 else math.inf


LIVING = Exercise(
    name="07-living",
    title="What does a living group cost?",
    difficulty="medium",
    minutes=6,
    hint="A group of a prompt drawn at random lives with the mean of 1 - p**G - (1 - p)**G. Then wait as in notebook "
    "02: 1 over the chance.",
    solution=groups_per_living,
    cases=lambda rng: [
        ([0.5], 2),
        ([0.1, 0.9, 0.3], 3),
        ([0.0, 1.0], 4),
        ([round(rng.uniform(0.05, 0.95), 3) for _ in range(3)], rng.randint(4, 6)),
    ],
    expected=_groups_expected,
    wrong=(
        Wrong(
            "mean of the waits",
            "You average each prompt's own wait, as if one stuck to a prompt until it gives a living group. Every "
            "new group is of another prompt: average the chances first, and take 1 over the mean last.",
            lambda probabilities, G: (
                sum(_over(_share_alive([p], G)) for p in probabilities) / len(probabilities)
            ),
        ),
        Wrong(
            "at the mean p",
            "You average the probabilities first. Two prompts with p = 0 and p = 1 then look like one with p = 0.5, "
            "whose groups nearly all live; theirs never do. Average the chances to live.",
            lambda probabilities, G: _over(_share_alive([sum(probabilities) / len(probabilities)], G)),
        ),
        Wrong(
            "share of dead groups",
            "That is the share of dead groups, exercise 02-dead-groups. Asked for is how many groups are sampled for "
            "one that lives: 1 over the share of living ones.",
            lambda probabilities, G: 1 - _share_alive(probabilities, G),
        ),
        Wrong(
            "thrown away only",
            "You count the groups that are thrown away. The one that lives had to be sampled, too: one more.",
            lambda probabilities, G: _over(_share_alive(probabilities, G)) - 1,
        ),
        Wrong(
            "all wrong only",
            "You take a group for dead only if all of it is wrong. If all is right nothing differs, either: subtract "
            "p**G as well.",
            lambda probabilities, G: _over(1 - sum((1 - p) ** G for p in probabilities) / len(probabilities)),
        ),
        Wrong(
            "divided by 0",
            "Where every prompt is always right or never, no group lives and you divide by 0. One samples for ever: "
            "return math.inf.",
            lambda probabilities, G: 1 / _share_alive(probabilities, G),
        ),
    ),
    praise="It is what `dynamic_sampling_tries` has to allow for.",
)
