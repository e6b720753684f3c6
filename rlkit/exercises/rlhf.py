"""Exercises of notebook 05: Bradley–Terry, the loss of a pair, agreement beyond chance, a reward with a KL penalty."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rlkit.exercises.exercise import Exercise, Wrong, value_and_gradient


def _normal(rng: random.Random, *shape: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(rng.randrange(2**31)))


# ------------------------------------------------------------------------------------ 1. who wins


def win_probability(score_a: Tensor, score_b: Tensor) -> Tensor:
    return torch.sigmoid(score_a - score_b)


def _win_by_odds(score_a: Tensor, score_b: Tensor) -> list[float]:
    """e^a against e^b, as Bradley and Terry wrote it: strengths that share out the win."""
    pairs = zip(score_a.tolist(), score_b.tolist(), strict=True)
    return [math.exp(a) / (math.exp(a) + math.exp(b)) for a, b in pairs]


def _win_cases(rng: random.Random) -> list[tuple[Any, ...]]:
    simple = (torch.tensor([2.0, 0.0, 1.0]), torch.tensor([1.0, 1.0, 3.0]))
    return [simple, (_normal(rng, 4), _normal(rng, 4)), (_normal(rng, 3, scale=3) - 5, _normal(rng, 3) - 5)]


WIN = Exercise(
    name="05-win-probability",
    title="From two scores to a probability",
    difficulty="easy",
    minutes=4,
    hint="Only the difference of the scores counts, and torch.sigmoid turns any number into one between 0 and 1.",
    solution=win_probability,
    cases=_win_cases,
    expected=_win_by_odds,
    wrong=(
        Wrong(
            "the other side",
            "This is the probability that B beats A: the difference stands the wrong way round. The higher "
            "A's own score, the likelier it must win: take score_a - score_b.",
            lambda score_a, score_b: torch.sigmoid(score_b - score_a),
        ),
        Wrong(
            "one score alone",
            "You look at A's score alone, so A would beat a strong B as often as a weak one. A score means "
            "nothing by itself: subtract B's first.",
            lambda score_a, score_b: torch.sigmoid(score_a),
        ),
        Wrong(
            "sum",
            "You add the scores, so two good answers would both be sure to win. What decides is by how much "
            "one is ahead: subtract.",
            lambda score_a, score_b: torch.sigmoid(score_a + score_b),
        ),
        Wrong(
            "ratio of the scores",
            "You share out the raw scores, a / (a + b). Scores may be negative, and then this is no "
            "probability. The shares are those of exp(a) and exp(b), which comes to the sigmoid of the "
            "difference.",
            lambda score_a, score_b: score_a / (score_a + score_b),
        ),
        Wrong(
            "always the better one",
            "Your better answer always wins. People are noisy: a small lead is a probability a little above "
            "one half. Put the difference through torch.sigmoid instead of comparing.",
            lambda score_a, score_b: (score_a > score_b).float(),
        ),
    ),
    praise="Add the same number to both scores: nothing changes. That is why a reward model has no zero point.",
)


# ----------------------------------------------------------------------------- 2. the loss of a pair


def pairwise_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    return -torch.nn.functional.logsigmoid(chosen - rejected).mean()


def _loss_by_loop(chosen: Tensor, rejected: Tensor) -> dict[str, Any]:
    """log(1 + e^−gap) pair by pair, and its derivative by hand: minus the probability of the other outcome."""
    gaps = [c - r for c, r in zip(chosen.tolist(), rejected.tolist(), strict=True)]
    losses = [math.log1p(math.exp(-abs(gap))) + max(-gap, 0.0) for gap in gaps]
    return {
        "value": sum(losses) / len(gaps),
        "gradient": [-1 / (1 + math.exp(gap)) / len(gaps) for gap in gaps],
    }


def _loss_cases(rng: random.Random) -> list[tuple[Any, ...]]:
    simple = (torch.tensor([1.0, 0.0]), torch.tensor([0.0, 0.0]))
    far = (torch.tensor([-80.0, 3.0]), torch.tensor([80.0, 1.0]) + rng.random())
    return [simple, (_normal(rng, 3), _normal(rng, 3)), far]


LOSS = Exercise(
    name="05-pairwise-loss",
    title="The loss of a reward model",
    difficulty="medium",
    minutes=8,
    hint="Write down −log σ(chosen − rejected), then its mean over the pairs. torch.nn.functional.logsigmoid is "
    "log σ that does not break for large numbers.",
    solution=pairwise_loss,
    cases=_loss_cases,
    expected=_loss_by_loop,
    observe=value_and_gradient,
    wrong=(
        Wrong(
            "flipped pair",
            "Your loss falls when the rejected answer scores higher: the model would learn the opposite of "
            "the taste. It is chosen - rejected inside the sigmoid.",
            lambda chosen, rejected: -torch.nn.functional.logsigmoid(rejected - chosen).mean(),
        ),
        Wrong(
            "sigmoid of the sum",
            "You add the two rewards, so the model could please you by liking everything. Only the lead of "
            "the chosen answer may count: chosen - rejected.",
            lambda chosen, rejected: -torch.nn.functional.logsigmoid(chosen + rejected).mean(),
        ),
        Wrong(
            "unstable logarithm",
            "Right on paper, but log(sigmoid(x)) breaks: for x = -160 the sigmoid is rounded to 0, its "
            "logarithm is -inf, and the gradient becomes nan. torch.nn.functional.logsigmoid does both in one"
            " step and stays finite.",
            lambda chosen, rejected: -torch.log(torch.sigmoid(chosen - rejected)).mean(),
        ),
        Wrong(
            "a small number in the logarithm",
            "A small number inside the logarithm keeps it finite, but cuts the loss off, and with it the gradient, "
            "just where a pair is badly wrong. torch.nn.functional.logsigmoid needs no such help.",
            lambda chosen, rejected: -torch.log(torch.sigmoid(chosen - rejected) + 1e-8).mean(),
        ),
        Wrong(
            "without the logarithm",
            "You left out the logarithm. Then a pair that is badly wrong gives hardly any gradient, just "
            "where it is needed most. Take the negative log-probability: -log sigmoid(...).",
            lambda chosen, rejected: -torch.sigmoid(chosen - rejected).mean(),
        ),
        Wrong(
            "mean before the logarithm",
            "You average the margins first, so one very clear pair hides all the wrong ones. Take the loss of"
            " each pair, then the mean.",
            lambda chosen, rejected: -torch.nn.functional.logsigmoid((chosen - rejected).mean()),
        ),
        Wrong(
            "no minus",
            "The minus is missing: this is the log-likelihood, which should rise. An optimiser goes downhill,"
            " so the loss is its negative.",
            lambda chosen, rejected: torch.nn.functional.logsigmoid(chosen - rejected).mean(),
        ),
        Wrong(
            "sum instead of mean",
            "You add the losses up, so twice the pairs would mean twice the step. Take the mean over the pairs.",
            lambda chosen, rejected: -torch.nn.functional.logsigmoid(chosen - rejected).sum(),
        ),
    ),
    praise="It is the cross-entropy of a yes/no question whose answer is always yes: the chosen one wins.",
)


# --------------------------------------------------------------------------- 3. agreement beyond chance


def kappa(first: Sequence[str], second: Sequence[str]) -> float:
    n = len(first)
    observed = sum(a == b for a, b in zip(first, second)) / n
    chance = sum((first.count(k) / n) * (second.count(k) / n) for k in set(first))
    return (observed - chance) / (1 - chance)


def _kappa_of_library(first: Sequence[str], second: Sequence[str]) -> float | None:
    from rlkit.feedback import cohen_kappa

    return cohen_kappa(first, second)


def _observed(first: Sequence[str], second: Sequence[str]) -> float:
    return sum(a == b for a, b in zip(first, second, strict=True)) / len(first)


def _by_chance(first: Sequence[str], second: Sequence[str]) -> float:
    n = len(first)
    return sum(first.count(k) * second.count(k) for k in set(first)) / n**2


def _kappa_pooled(first: Sequence[str], second: Sequence[str]) -> float:
    both, n = [*first, *second], 2 * len(first)
    chance = sum((both.count(k) / n) ** 2 for k in set(both))
    return (_observed(first, second) - chance) / (1 - chance)


def _kappa_over_chance(first: Sequence[str], second: Sequence[str]) -> float:
    chance = _by_chance(first, second)
    return (_observed(first, second) - chance) / chance


def _kappa_cases(rng: random.Random) -> list[tuple[Any, ...]]:
    cases: list[tuple[Any, ...]] = [(["up", "up", "up", "down"], ["up", "up", "down", "down"])]
    for kinds in (["up", "up", "up", "down"], ["first", "second", "tie", "first"]):
        one = [*sorted(set(kinds)), *rng.choices(kinds, k=7)]
        other = [
            *reversed(sorted(set(kinds))),
            *(rng.choice([a, a, kinds[-1]]) for a in one[len(set(kinds)) :]),
        ]
        cases.append((one, other))
    return cases


KAPPA = Exercise(
    name="05-kappa",
    title="Do two raters agree, or is it luck?",
    difficulty="medium",
    minutes=10,
    hint="Two shares first: how often both say the same, and for each answer k the first rater's share of k times the "
    "second rater's share of k. Their sum is what luck alone would give.",
    solution=kappa,
    cases=_kappa_cases,
    expected=_kappa_of_library,
    wrong=(
        Wrong(
            "raw agreement",
            "This is the plain share of equal answers. Two raters who both nearly always press 'up' agree a "
            "lot and say nothing. Subtract what luck would give, then divide by 1 - luck.",
            lambda first, second: _observed(first, second),
        ),
        Wrong(
            "luck is one half",
            "You take luck as 1/2. That holds only for two answers, each used half of the time. Compute it "
            "from the shares that these raters really have.",
            lambda first, second: (_observed(first, second) - 0.5) / 0.5,
        ),
        Wrong(
            "not divided",
            "You subtract luck but do not divide. Perfect agreement must give 1: divide by 1 - chance, the "
            "most that there was to gain.",
            lambda first, second: _observed(first, second) - _by_chance(first, second),
        ),
        Wrong(
            "pooled shares",
            "You pool both raters' answers before you take shares (that is Scott's pi). Cohen's kappa keeps "
            "each rater's own habit: the first's share of k times the second's share of k.",
            _kappa_pooled,
        ),
        Wrong(
            "divided by luck",
            "You divide by chance itself. The room that was left above luck is 1 - chance; with that below "
            "the line, perfect agreement gives 1.",
            _kappa_over_chance,
        ),
    ),
    praise="Your function and rlkit.feedback.cohen_kappa say the same.",
)


# ------------------------------------------------------------------------------ 4. a reward with a leash


def penalised_reward(score: Tensor, logp: Tensor, logp_ref: Tensor, mask: Tensor, beta: float) -> Tensor:
    return score - beta * ((logp - logp_ref) * mask).sum(-1)


def _penalised_by_loop(
    score: Tensor, logp: Tensor, logp_ref: Tensor, mask: Tensor, beta: float
) -> list[float]:
    found = []
    for n in range(len(score)):
        whole = [sum(row[n][mask[n] == 1].tolist()) for row in (logp, logp_ref)]  # log π of the completion
        found.append(float(score[n]) - beta * (whole[0] - whole[1]))
    return found


def _penalised_cases(rng: random.Random) -> list[tuple[Any, ...]]:
    simple = (
        torch.tensor([1.0]),
        torch.tensor([[-0.5, -1.0]]),
        torch.tensor([[-1.0, -0.75]]),
        torch.ones(1, 2),
        0.5,
    )
    lengths = torch.tensor([4, rng.choice([1, 2, 3])])
    mask = (torch.arange(4) < lengths[:, None]).float()  # [2, 4]
    drawn = (_normal(rng, 2), -_normal(rng, 2, 4).abs(), -_normal(rng, 2, 4).abs(), mask, 0.2)
    return [simple, drawn]


PENALISED = Exercise(
    name="05-penalised-reward",
    title="A reward on a leash",
    difficulty="medium",
    minutes=8,
    hint="The logarithm of a whole completion's probability is the sum of those of its tokens. Multiply by the "
    "mask before you add them up.",
    solution=penalised_reward,
    cases=_penalised_cases,
    expected=_penalised_by_loop,
    wrong=(
        Wrong(
            "bonus for leaving",
            "You pay the policy for moving away from the reference: the sign is flipped. What the policy "
            "likes more than the reference does must cost: subtract beta times the sum of logp - logp_ref.",
            lambda score, logp, logp_ref, mask, beta: score + beta * ((logp - logp_ref) * mask).sum(-1),
        ),
        Wrong(
            "padding counted",
            "You add up the padding, too. What stands behind the end of a completion was never said: multiply"
            " by mask before you add up.",
            lambda score, logp, logp_ref, mask, beta: score - beta * (logp - logp_ref).sum(-1),
        ),
        Wrong(
            "mean over tokens",
            "You take the mean over the tokens. The log-probability of a completion is the sum: with the "
            "mean, a long completion could wander off far more cheaply than a short one.",
            lambda score, logp, logp_ref, mask, beta: (
                score - beta * ((logp - logp_ref) * mask).sum(-1) / mask.sum(-1)
            ),
        ),
        Wrong(
            "ratio instead of its logarithm",
            "You add up the ratios of probabilities. They are 1 where nothing has changed, so every token "
            "would cost beta. Leave out the exp: the logarithm of the ratio is 0 there.",
            lambda score, logp, logp_ref, mask, beta: score - beta * ((logp - logp_ref).exp() * mask).sum(-1),
        ),
        Wrong(
            "absolute values",
            "You take absolute values. Single tokens may well be less likely than under the reference; these "
            "terms are negative and belong in the sum, which is how its average becomes the KL.",
            lambda score, logp, logp_ref, mask, beta: score - beta * ((logp - logp_ref) * mask).abs().sum(-1),
        ),
    ),
    praise="Averaged over completions of the policy, the second term is beta times KL(policy || reference).",
)


EXERCISES: tuple[Exercise, ...] = (WIN, LOSS, KAPPA, PENALISED)
