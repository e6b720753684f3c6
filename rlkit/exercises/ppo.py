"""Exercises of notebook 06: advantages by recursion, the clipped loss, and the KL in the reward."""

from __future__ import annotations

import math
import random
from typing import Any

import torch
from torch import Tensor

from rlkit.exercises.exercise import Exercise, Wrong, value_and_gradient
from rlkit.objectives import kl_estimate
from rlkit.objectives import token_rewards as library_token_rewards


def _numbers(rng: random.Random, count: int, low: float = -1.0, high: float = 1.0) -> Tensor:  # [count]
    return torch.tensor([round(rng.uniform(low, high), 2) for _ in range(count)], dtype=torch.float64)


# -- GAE ---------------------------------------------------------------------------------------------------------


def gae(rewards: Tensor, values: Tensor, bootstrap: float, gamma: float, lam: float) -> Tensor:
    advantages = torch.zeros_like(rewards)
    ahead, value_ahead = 0.0, bootstrap
    for t in reversed(range(len(rewards))):
        delta = rewards[t] + gamma * value_ahead - values[t]
        ahead = delta + gamma * lam * ahead
        advantages[t] = ahead
        value_ahead = values[t]
    return advantages


def gae_cases(rng: random.Random) -> list[tuple[Any, ...]]:
    cases: list[tuple[Any, ...]] = []
    for steps, cut_off in ((2, False), (3, True), (5, False), (6, True)):
        bootstrap = round(rng.uniform(0.5, 1.5), 2) if cut_off else 0.0
        gamma, lam = round(rng.uniform(0.85, 0.95), 2), round(rng.uniform(0.4, 0.7), 2)
        cases.append((_numbers(rng, steps), _numbers(rng, steps, 0.3, 1.0), bootstrap, gamma, lam))
    return cases


def gae_by_definition(
    rewards: Tensor, values: Tensor, bootstrap: float, gamma: float, lam: float
) -> list[float]:
    after = [*values.tolist()[1:], bootstrap]
    delta = [r + gamma * v1 - v0 for r, v0, v1 in zip(rewards.tolist(), values.tolist(), after)]
    return [sum((gamma * lam) ** k * d for k, d in enumerate(delta[t:])) for t in range(len(delta))]


def _gae_forward(rewards: Tensor, values: Tensor, bootstrap: float, gamma: float, lam: float) -> Tensor:
    after = torch.cat((values[1:], torch.tensor([bootstrap], dtype=values.dtype)))
    return _backwards((rewards + gamma * after - values).flip(0), gamma * lam).flip(0)


def _backwards(numbers: Tensor, factor: float) -> Tensor:
    sums, ahead = torch.zeros_like(numbers), 0.0
    for t in reversed(range(len(numbers))):
        ahead = float(numbers[t]) + factor * ahead
        sums[t] = ahead
    return sums


GAE = Exercise(
    name="06-gae",
    title="Advantages, from the last token to the first",
    difficulty="medium",
    minutes=12,
    hint="Go through t in reversed order and carry two numbers along: the advantage of the token behind, and its "
    "value. Behind the last token the first is 0 and the second is bootstrap.",
    solution=gae,
    cases=gae_cases,
    expected=gae_by_definition,
    wrong=(
        Wrong(
            "no bootstrap",
            "You take the value behind the last token for 0, always. That is right where the text ended, but one that "
            "was merely cut off would have gone on: there the next value is `bootstrap`.",
            lambda rewards, values, bootstrap, gamma, lam: gae(rewards, values, 0.0, gamma, lam),
        ),
        Wrong(
            "gamma and lambda swapped",
            "γ and λ have changed places. γ alone stands before V(s_{t+1}) in δ; λ appears only in the product γλ, "
            "before the next advantage.",
            lambda rewards, values, bootstrap, gamma, lam: gae(rewards, values, bootstrap, lam, gamma),
        ),
        Wrong(
            "gamma alone",
            "λ is missing: you carry the next advantage over with γ alone, which is GAE at λ = 1, return minus value. "
            "The factor is γλ.",
            lambda rewards, values, bootstrap, gamma, lam: gae(rewards, values, bootstrap, gamma, 1.0),
        ),
        Wrong(
            "delta alone",
            "These are the errors δ, which is GAE at λ = 0. Each advantage takes the next one along: A_t = δ_t + "
            "γλ A_{t+1}.",
            lambda rewards, values, bootstrap, gamma, lam: gae(rewards, values, bootstrap, gamma, 0.0),
        ),
        Wrong(
            "value of the same state",
            "Your δ takes V(s_t) for the next value as well: off by one. δ_t = r_t + γ V(s_{t+1}) − V(s_t), where "
            "V(s_{t+1}) is values[t + 1], and bootstrap behind the last token.",
            lambda rewards, values, bootstrap, gamma, lam: _backwards(
                rewards + (gamma - 1) * values, gamma * lam
            ),
        ),
        Wrong(
            "forward recursion",
            "You add up the errors of earlier tokens: the recursion runs forward. A token can only be praised for what "
            "came after it; go through t backwards.",
            _gae_forward,
        ),
        Wrong(
            "left in reversed order",
            "The numbers are right, and stand in reversed order: you went through t backwards and appended. Write each "
            "into advantages[t], or turn the list round at the end.",
            lambda rewards, values, bootstrap, gamma, lam: gae(rewards, values, bootstrap, gamma, lam).flip(
                0
            ),
        ),
        Wrong(
            "returns",
            "These are the returns A + V, what the value model is to learn. The advantage is how much *better than V* "
            "it went: leave V out of the result.",
            lambda rewards, values, bootstrap, gamma, lam: (
                gae(rewards, values, bootstrap, gamma, lam) + values
            ),
        ),
    ),
)


# -- the clipped loss --------------------------------------------------------------------------------------------


def clipped_loss(logp: Tensor, logp_old: Tensor, advantages: Tensor, epsilon: float) -> Tensor:
    ratio = (logp - logp_old).exp()
    clipped = ratio.clamp(1 - epsilon, 1 + epsilon)
    return -torch.minimum(ratio * advantages, clipped * advantages).mean()


def clip_cases(rng: random.Random) -> list[tuple[Any, ...]]:
    cases: list[tuple[Any, ...]] = []
    quadrants = [(1, 1), (-1, 1), (1, -1), (-1, -1)]  # signs of the log ratio and of A: outside the range
    for inside in (0, 1, 3):
        rng.shuffle(quadrants)
        logp_old = _numbers(rng, 4 + inside, -3.0, -1.5)
        moved = [sign * round(rng.uniform(0.35, 0.8), 2) for sign, _ in quadrants]
        moved += [round(rng.uniform(-0.08, 0.08), 2) for _ in range(inside)]
        a = [sign * round(rng.uniform(0.5, 2.0), 2) for _, sign in quadrants] + _numbers(rng, inside).tolist()
        shift, advantages = (torch.tensor(x, dtype=torch.float64) for x in (moved, a))
        cases.append((logp_old + shift, logp_old, advantages, round(rng.uniform(0.1, 0.25), 2)))
    return cases


def clipped_loss_by_hand(
    logp: Tensor, logp_old: Tensor, advantages: Tensor, epsilon: float
) -> dict[str, Any]:
    value, gradient, n = 0.0, [], len(logp)
    for new, old, a in zip(logp.tolist(), logp_old.tolist(), advantages.tolist()):
        rho = math.exp(new) / math.exp(old)
        flat = rho > 1 + epsilon if a > 0 else rho < 1 - epsilon
        edge = 1 + epsilon if a > 0 else 1 - epsilon
        value -= (edge if flat else rho) * a / n
        gradient.append(0.0 if flat else -rho * a / n)
    return {"value": value, "gradient": gradient}


def _clip_max(logp: Tensor, logp_old: Tensor, advantages: Tensor, epsilon: float) -> Tensor:
    ratio = (logp - logp_old).exp()
    return -torch.maximum(ratio * advantages, ratio.clamp(1 - epsilon, 1 + epsilon) * advantages).mean()


def _clip_without_exp(logp: Tensor, logp_old: Tensor, advantages: Tensor, epsilon: float) -> Tensor:
    ratio = logp - logp_old
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - epsilon, 1 + epsilon) * advantages).mean()


CLIP = Exercise(
    name="06-clipped-loss",
    title="The clipped loss",
    difficulty="medium",
    minutes=10,
    hint="The ratio is exp(logp − logp_old). Of ρ·A and clip(ρ)·A take the smaller one, token by token; then the "
    "mean; then the sign that turns something to maximise into a loss.",
    solution=clipped_loss,
    cases=clip_cases,
    expected=clipped_loss_by_hand,
    observe=value_and_gradient,
    praise="Its gradient is right as well: two of the four quadrants get none.",
    wrong=(
        Wrong(
            "max instead of min",
            "You take the larger of the two terms. PPO is a pessimist: it believes the smaller one, so that nothing is "
            "gained by leaving the range. (With a minus in front of both, max would be right.)",
            _clip_max,
        ),
        Wrong(
            "clamp only",
            "You use clip(ρ)·A alone. Then a token that moved the *wrong* way beyond the range has no gradient either, "
            "and is never brought back. Take the minimum with ρ·A.",
            lambda logp, logp_old, advantages, epsilon: (
                -((logp - logp_old).exp().clamp(1 - epsilon, 1 + epsilon) * advantages).mean()
            ),
        ),
        Wrong(
            "never clipped",
            "You use ρ·A without the clip, so that a token can gain by going any distance. Take the minimum with "
            "clip(ρ)·A.",
            lambda logp, logp_old, advantages, epsilon: -((logp - logp_old).exp() * advantages).mean(),
        ),
        Wrong(
            "sign flipped",
            "The sign is flipped: minimising this makes good tokens rarer. The objective is to be maximised, so the "
            "loss is minus its mean.",
            lambda logp, logp_old, advantages, epsilon: -clipped_loss(logp, logp_old, advantages, epsilon),
        ),
        Wrong(
            "ratio reversed",
            "Your ratio is π_old / π_new. It is the new one over the old one: exp(logp − logp_old).",
            lambda logp, logp_old, advantages, epsilon: clipped_loss(logp_old, logp, advantages, epsilon),
        ),
        Wrong(
            "exp forgotten",
            "logp − logp_old is the *logarithm* of the ratio, and 0 where nothing has moved. The ratio is its exp, "
            "and 1 there.",
            _clip_without_exp,
        ),
        Wrong(
            "old is the detached new",
            "Your ratio is always 1: you compare logp with itself, detached. After the first update the weights have "
            "moved, so use the logp_old that was stored when the tokens were sampled.",
            lambda logp, logp_old, advantages, epsilon: clipped_loss(
                logp, logp.detach(), advantages, epsilon
            ),
        ),
        Wrong(
            "undetached",
            "There is no gradient at all: numerator and denominator are both logp, undetached, and cancel. The "
            "denominator is logp_old, a stored number.",
            lambda logp, logp_old, advantages, epsilon: clipped_loss(logp, logp, advantages, epsilon),
        ),
        Wrong(
            "detached",
            "The value is right, but no gradient reaches logp. Keep to torch's functions from logp to the result: "
            "math.exp, float(), .item(), .tolist() and .detach() cut it off.",
            lambda logp, logp_old, advantages, epsilon: clipped_loss(
                logp.detach(), logp_old, advantages, epsilon
            ),
        ),
    ),
)


# -- the KL in the reward ----------------------------------------------------------------------------------------


def token_rewards(scores: Tensor, logp: Tensor, logp_ref: Tensor, mask: Tensor, beta: float) -> Tensor:
    rewards = -beta * (logp - logp_ref) * mask
    last = mask.sum(1) - 1
    rewards[torch.arange(len(scores)), last] += scores
    return rewards


def reward_cases(rng: random.Random) -> list[tuple[Any, ...]]:
    cases: list[tuple[Any, ...]] = []
    for lengths in ([2, 3], [1, 4, 2]):
        rng.shuffle(lengths)
        n, longest = len(lengths), max(lengths)
        mask = torch.tensor([[int(t < length) for t in range(longest)] for length in lengths])  # [N, T]
        logp, logp_ref = (_numbers(rng, n * longest, -3.0, -0.1).view(n, longest) * mask for _ in range(2))
        cases.append((_numbers(rng, n, 0.5, 3.0), logp, logp_ref, mask, round(rng.uniform(0.1, 0.5), 2)))
    return cases


def rewards_by_library(scores: Tensor, logp: Tensor, logp_ref: Tensor, mask: Tensor, beta: float) -> Tensor:
    return library_token_rewards(scores, mask, kl=kl_estimate(logp, logp_ref, "k1"), kl_coef=beta)


def _score_instead(scores: Tensor, logp: Tensor, logp_ref: Tensor, mask: Tensor, beta: float) -> Tensor:
    rewards = -beta * (logp - logp_ref) * mask
    rewards[torch.arange(len(scores)), mask.sum(1) - 1] = scores
    return rewards


def _last_column(scores: Tensor, logp: Tensor, logp_ref: Tensor, mask: Tensor, beta: float) -> Tensor:
    rewards = -beta * (logp - logp_ref) * mask
    rewards[:, -1] += scores
    return rewards


def _kl_at_the_end(scores: Tensor, logp: Tensor, logp_ref: Tensor, mask: Tensor, beta: float) -> Tensor:
    total = scores - beta * ((logp - logp_ref) * mask).sum(1)  # [N]
    return library_token_rewards(total, mask)


REWARDS = Exercise(
    name="06-token-rewards",
    title="A score at the end, a toll on the way",
    difficulty="easy",
    minutes=8,
    hint="First the toll: −β times (logp − logp_ref), times the mask. Then find where each row's last token stands, "
    "mask.sum(1) − 1, and add the score there.",
    solution=token_rewards,
    cases=reward_cases,
    expected=rewards_by_library,
    wrong=(
        Wrong(
            "score at each token",
            "You pay the score at every token, so a text is paid once for each of its tokens, and long ones win. The "
            "reward model reads the whole text and pays once, at its last token.",
            lambda scores, logp, logp_ref, mask, beta: (scores[:, None] - beta * (logp - logp_ref)) * mask,
        ),
        Wrong(
            "score in place of the toll",
            "At the last token you write the score over the toll. That token pays, too: add the score (+=).",
            _score_instead,
        ),
        Wrong(
            "last column",
            "You put the scores into the last column, which is padding for the shorter texts. The last token of row i "
            "stands at mask[i].sum() − 1.",
            _last_column,
        ),
        Wrong(
            "sign of the KL",
            "Your toll has the wrong sign: it pays for leaving the reference. It must cost, so it is "
            "−β (logp − logp_ref).",
            lambda scores, logp, logp_ref, mask, beta: token_rewards(scores, logp, logp_ref, mask, -beta),
        ),
        Wrong(
            "k3 in the reward",
            "That is k3, exp(d) − d − 1, the estimate for a loss. In the reward use k1 itself, logp − logp_ref, even "
            "where it is negative: only then is the gradient that of the KL.",
            lambda scores, logp, logp_ref, mask, beta: library_token_rewards(
                scores, mask, kl=kl_estimate(logp, logp_ref, "k3"), kl_coef=beta
            ),
        ),
        Wrong(
            "all of the KL at the end",
            "You charge the whole text's KL at its last token. The sum is right, but each token should pay its own "
            "toll, or the value model has to find out whose fault it was.",
            _kl_at_the_end,
        ),
    ),
)


EXERCISES: tuple[Exercise, ...] = (GAE, CLIP, REWARDS)
