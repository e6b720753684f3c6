"""Exercises of notebook 02: how long one waits for a right answer, pass@k, and groups that teach nothing."""

from __future__ import annotations

import itertools
import math
import random

import torch
from torch import Tensor

from rlkit.exercises.exercise import Exercise, Wrong

# ---------------------------------------------------------------------------------------- how many draws are enough


def draws_needed(p: float, confidence: float) -> int:
    return math.ceil(math.log(1 - confidence) / math.log(1 - p))


def _draw_by_draw(p: float, confidence: float) -> int:
    """Draw on until the chance of nothing but misses has shrunk far enough."""
    k, all_wrong = 0, 1.0
    while 1 - all_wrong < confidence:
        k, all_wrong = k + 1, all_wrong * (1 - p)
    return k


def _mean_wait(p: float, confidence: float) -> int:
    return math.ceil(1 / p)


def _linear(p: float, confidence: float) -> int:
    return math.ceil(confidence / p)


def _swapped(p: float, confidence: float) -> int:
    return math.ceil(math.log(confidence) / math.log(1 - p))


def _not_whole(p: float, confidence: float) -> float:
    return math.log(1 - confidence) / math.log(1 - p)


def _one_short(p: float, confidence: float) -> int:
    return math.floor(math.log(1 - confidence) / math.log(1 - p))


def _rule_of_thumb(p: float, confidence: float) -> int:
    return math.ceil(3 / p)


def _wait_cases(rng: random.Random) -> list[tuple[float, float]]:
    drawn = [(round(rng.uniform(0.011, 0.29), 4), round(rng.uniform(0.81, 0.989), 3)) for _ in range(3)]
    return [(0.3, 0.95), (0.01, 0.95), *drawn]


WAIT = Exercise(
    name="02-wait",
    title="How long is long enough?",
    difficulty="easy",
    minutes=6,
    hint="All k draws miss with probability (1 − p)ᵏ, and that must not be more than 1 − confidence. Take "
    "the logarithm of "
    "both sides; a draw cannot be made in part, so round up with math.ceil.",
    solution=draws_needed,
    cases=_wait_cases,
    expected=_draw_by_draw,
    wrong=(
        Wrong(
            "mean wait",
            "You return the average wait, 1/p. After that many draws a right answer has come in only "
            "about 63 of 100 "
            "cases. Ask instead for which k the chance of k misses, (1 − p)**k, is at most 1 − confidence.",
            _mean_wait,
        ),
        Wrong(
            "chances added up",
            "You add the chances of the draws: k·p = confidence. They overlap (two draws can both be "
            "right), or 1/p draws "
            "would be certain to succeed. Multiply the chances of missing instead: (1 − p)**k.",
            _linear,
        ),
        Wrong(
            "confidence and its complement swapped",
            "You let the chance that all draws miss be `confidence`; it is to be 1 − confidence. Put "
            "log(1 − confidence) "
            "on top.",
            _swapped,
        ),
        Wrong(
            "a part of a draw",
            "The formula is right, but nobody makes 8.4 draws: return a whole number, rounded up with math.ceil.",
            _not_whole,
        ),
        Wrong(
            "rounded down",
            "You round down, and so stop one draw too early: the confidence is not reached yet. "
            "Round up with math.ceil.",
            _one_short,
        ),
        Wrong(
            "rule of thumb",
            "3/p is a rule of thumb for 95 % and a small p. It forgets `confidence`, and is a little too long: solve "
            "(1 − p)**k ≤ 1 − confidence for k.",
            _rule_of_thumb,
        ),
    ),
    praise="For 95 % it is about 3/p: patience means three times the average wait.",
)

# ------------------------------------------------------------------------------------------------ pass@k, unbiased


def pass_at_k(n: int, c: int, k: int) -> float:
    return 1 - math.comb(n - c, k) / math.comb(n, k)


def _every_choice(n: int, c: int, k: int) -> float:
    """Take every choice of k of the n draws, and count those that hold a right one."""
    right = [True] * c + [False] * (n - c)
    choices = list(itertools.combinations(right, k))
    return sum(any(choice) for choice in choices) / len(choices)


def _plugged_in(n: int, c: int, k: int) -> float:
    return 1 - (1 - c / n) ** k


def _pass_at_1(n: int, c: int, k: int) -> float:
    return c / n


def _pass_at_n(n: int, c: int, k: int) -> float:
    return float(c > 0)


def _all_right(n: int, c: int, k: int) -> float:
    return math.comb(c, k) / math.comb(n, k)


def _all_miss(n: int, c: int, k: int) -> float:
    return math.comb(n - c, k) / math.comb(n, k)


def _chances_added(n: int, c: int, k: int) -> float:
    return k * c / n


def _pass_cases(rng: random.Random) -> list[tuple[int, int, int]]:
    n = rng.randint(6, 9)
    c = rng.randint(2, 3)
    more = (n, c, rng.randint(2, n - c))
    return [(4, 1, 2), (4, 1, 4), (5, 0, 3), (8, 3, 3), more, (rng.randint(7, 10), 2, 2)]


PASS = Exercise(
    name="02-pass-at-k",
    title="pass@k without bias",
    difficulty="medium",
    minutes=10,
    hint="There are math.comb(n, k) ways to choose k of the n draws. How many of them are made of wrong "
    "answers only? "
    "(math.comb(3, 4) is 0, which is what you want.)",
    solution=pass_at_k,
    cases=_pass_cases,
    expected=_every_choice,
    wrong=(
        Wrong(
            "c/n put into the exact formula",
            "You put the estimate c/n into 1 − (1 − p)ᵏ. That draws k times with replacement, so "
            "that the one right answer "
            "of four can be missed by all four draws; on average it is too low. Count choices of k "
            "different draws: "
            "math.comb.",
            _plugged_in,
        ),
        Wrong(
            "pass@1",
            "You return c/n, which is pass@1, whatever k is. With k attempts one right answer is "
            "enough: count the choices "
            "of k draws that hold at least one.",
            _pass_at_1,
        ),
        Wrong(
            "pass@n",
            "You return 1 as soon as any of the n draws was right: that is pass@n, for k = n. With "
            "fewer attempts, some "
            "choices of k draws miss the right ones; count them with math.comb(n − c, k).",
            _pass_at_n,
        ),
        Wrong(
            "all k right",
            "You count the choices in which all k answers are right. One right answer is enough: "
            "take 1 minus the share of "
            "choices that are wholly wrong.",
            _all_right,
        ),
        Wrong(
            "the chance to fail",
            "That is the share of choices without a right answer, so the chance to fail. Subtract it from 1.",
            _all_miss,
        ),
        Wrong(
            "chances added up",
            "You add c/n for each of the k attempts. Two attempts can both be right, so the chances overlap, and the "
            "sum may even be above 1. Count the choices that hold no right answer: math.comb(n − c, k).",
            _chances_added,
        ),
    ),
    praise="Nothing was assumed about p: the mean of this number over many experiments is 1 − (1 − p)ᵏ exactly.",
)

# ------------------------------------------------------------------------------ groups without spread


def dead_share(p: Tensor, G: int) -> Tensor:
    return (p**G + (1 - p) ** G).mean()


def _every_group(p: Tensor, G: int) -> Tensor:
    """Go through every possible group of every prompt, and add up the chances of those that are all alike."""
    shares = []
    for chance in p.tolist():
        dead = 0.0
        for group in itertools.product((True, False), repeat=G):
            if len(set(group)) == 1:
                dead += math.prod(chance if right else 1 - chance for right in group)
        shares.append(dead)
    return torch.tensor(sum(shares) / len(shares), dtype=p.dtype)


def _at_the_mean(p: Tensor, G: int) -> Tensor:
    return p.mean() ** G + (1 - p.mean()) ** G


def _all_wrong_only(p: Tensor, G: int) -> Tensor:
    return ((1 - p) ** G).mean()


def _all_right_only(p: Tensor, G: int) -> Tensor:
    return (p**G).mean()


def _alive(p: Tensor, G: int) -> Tensor:
    return 1 - (p**G + (1 - p) ** G).mean()


def _one_a_prompt(p: Tensor, G: int) -> Tensor:
    return p**G + (1 - p) ** G


def _summed(p: Tensor, G: int) -> Tensor:
    return (p**G + (1 - p) ** G).sum()


def _dead_cases(rng: random.Random) -> list[tuple[Tensor, int]]:
    def chances(count: int) -> Tensor:
        return torch.tensor([round(rng.uniform(0.02, 0.98), 3) for _ in range(count)], dtype=torch.float64)

    two = torch.tensor([0.9, 0.1], dtype=torch.float64)
    sure = torch.tensor([0.0, 1.0, 0.3], dtype=torch.float64)
    return [(two, 2), (two, 4), (sure, 3), (chances(4), rng.randint(3, 5)), (chances(3), 6)]


DEAD = Exercise(
    name="02-dead-groups",
    title="The share of dead groups",
    difficulty="medium",
    minutes=7,
    hint="For one prompt a group is dead if all G answers are right (p multiplied with itself G times) or "
    "all are wrong. "
    "Do that for each prompt, and take the mean last.",
    solution=dead_share,
    cases=_dead_cases,
    expected=_every_group,
    wrong=(
        Wrong(
            "formula at the mean p",
            "You take the mean of p first. An easy and a hard prompt then look like two middling "
            "ones, which hardly ever "
            "die. Put each prompt's own p into the formula, and take the mean of the results.",
            _at_the_mean,
        ),
        Wrong(
            "all wrong only",
            "You count the groups that are all wrong. Groups that are all right are dead, too: there "
            "is nothing to compare. "
            "Add p**G.",
            _all_wrong_only,
        ),
        Wrong(
            "all right only",
            "You count the groups that are all right. Groups that are all wrong are dead, too. Add (1 − p)**G.",
            _all_right_only,
        ),
        Wrong(
            "the living ones",
            "That is the share of groups *with* a spread, those that teach. The dead ones are the "
            "rest: 1 minus this.",
            _alive,
        ),
        Wrong(
            "one number a prompt",
            "You return one share for each prompt. Asked for is the share over all prompts: take the "
            ".mean() of them.",
            _one_a_prompt,
        ),
        Wrong(
            "summed",
            "You add the shares of the prompts. A share of all groups cannot be above 1: divide by the number of "
            "prompts, with .mean().",
            _summed,
        ),
    ),
    praise="So a mixture of easy and hopeless prompts wastes most of its groups, though its mean p looks ideal.",
)

EXERCISES: tuple[Exercise, ...] = (WAIT, PASS, DEAD)
