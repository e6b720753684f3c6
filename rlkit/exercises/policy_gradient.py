"""Notebook 04: the softmax gradient, the loss of REINFORCE, a baseline from the group, reward-to-go.

Sizes: V tokens, N completions, T tokens of the longest, P prompts, G completions a prompt. All float64.
"""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor

from rlkit.exercises.exercise import Exercise, Wrong, value_and_gradient

Case = tuple[Any, ...]


def _drawn(rng: random.Random, *shape: int) -> Tensor:
    """Random normal numbers, rounded so that they can be read."""
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    return torch.randn(*shape, dtype=torch.float64, generator=generator).round(decimals=2)


# ------------------------------------------------------------------------------ 04-softmax-gradient


def softmax_gradient(logits: Tensor, rewards: Tensor) -> Tensor:  # [V]
    """∂J/∂z of J = Σ π_y r_y."""
    pi = logits.softmax(-1)
    average = (pi * rewards).sum()
    return pi * (rewards - average)


def _bandits(rng: random.Random) -> list[Case]:
    simple = (torch.zeros(3).double(), torch.tensor([0.0, 0.0, 3.0]).double())
    return [simple, *((_drawn(rng, n), _drawn(rng, n)) for n in (3, 4, 6))]


def _by_autograd(logits: Tensor, rewards: Tensor) -> Tensor:
    z = logits.clone().requires_grad_(True)
    (z.softmax(-1) @ rewards).backward()
    assert z.grad is not None
    return z.grad


SOFTMAX = Exercise(
    name="04-softmax-gradient",
    title="The gradient in one line",
    difficulty="easy",
    minutes=5,
    hint="Three steps: π is the softmax of the logits; the average reward J weighs each reward by its π; "
    "then the formula.",
    solution=softmax_gradient,
    cases=_bandits,
    expected=_by_autograd,
    tolerance=1e-6,
    wrong=(
        Wrong(
            "no average",
            "You multiply π by the reward itself. But raising one logit lowers all other probabilities, so what "
            "counts is how much better than average a token is: subtract J = Σ π r from the rewards.",
            lambda logits, rewards: logits.softmax(-1) * rewards,
        ),
        Wrong(
            "unweighted mean",
            "You compare with rewards.mean(), where each token counts once. The average that the policy earns "
            "weighs each reward by how often the token is said: (pi * rewards).sum().",
            lambda logits, rewards: logits.softmax(-1) * (rewards - rewards.mean()),
        ),
        Wrong(
            "no probability",
            "The factor π_k is missing: you have only r_k - J. A token that is never said has gradient 0, however "
            "good it is; multiply by pi.",
            lambda logits, rewards: rewards - (logits.softmax(-1) * rewards).sum(),
        ),
        Wrong(
            "the average itself",
            "That is J, one number. Asked for is how J changes with each logit, a number for each token: "
            "pi * (rewards - J).",
            lambda logits, rewards: (logits.softmax(-1) * rewards).sum(),
        ),
        Wrong(
            "sign",
            "All signs are turned round. This is the gradient of J, which points uphill, not that of a loss: "
            "leave out the minus.",
            lambda logits, rewards: -softmax_gradient(logits, rewards),
        ),
        Wrong(
            "logits as probabilities",
            "You use the logits as if they were probabilities. They can be negative and do not add up to 1: take "
            "logits.softmax(-1) first.",
            lambda logits, rewards: logits * (rewards - (logits * rewards).sum()),
        ),
    ),
    praise="A token gains by how much better than average it is, times how often it is said.",
)


# ------------------------------------------------------------------------------- 04-leave-one-out


def leave_one_out(rewards: Tensor) -> Tensor:  # [P, G]
    """Each reward minus the mean of the others of its group."""
    G = rewards.shape[1]
    others = (rewards.sum(1, keepdim=True) - rewards) / (G - 1)
    return rewards - others


def _groups(rng: random.Random) -> list[Case]:
    simple = (torch.tensor([[3.0, 0.0, 0.0], [1.0, 1.0, 4.0]]).double(),)
    return [simple, (_drawn(rng, 3, 3),), (_drawn(rng, 2, 5),), (_drawn(rng, 4, 2),)]


def _others_by_loop(rewards: Tensor) -> Tensor:
    rows = []
    for row in rewards.tolist():
        rest = [row[:i] + row[i + 1 :] for i in range(len(row))]
        rows.append([r - sum(others) / len(others) for r, others in zip(row, rest)])
    return torch.tensor(rows, dtype=torch.float64)


BASELINE = Exercise(
    name="04-leave-one-out",
    title="A baseline from your siblings",
    difficulty="medium",
    minutes=8,
    hint="The sum of the others is the group's sum minus your own reward. How many others are there? Mind "
    "keepdim=True.",
    solution=leave_one_out,
    cases=_groups,
    expected=_others_by_loop,
    wrong=(
        Wrong(
            "own reward included",
            "You subtract the mean of the whole group, with the completion's own reward in it. That shrinks every "
            "advantage by 1 - 1/G. Leave your own reward out, and divide by G - 1.",
            lambda rewards: rewards - rewards.mean(1, keepdim=True),
        ),
        Wrong(
            "whole batch",
            "You take the mean over all other completions of the batch. An easy prompt would then always look "
            "good: compare within the group, that is along dim 1.",
            lambda rewards: rewards - (rewards.sum() - rewards) / (rewards.numel() - 1),
        ),
        Wrong(
            "mean of everything",
            "You subtract one mean over all prompts, your own reward included. Compare within the group (dim 1), and "
            "with the others only.",
            lambda rewards: rewards - rewards.mean(),
        ),
        Wrong(
            "wrong axis",
            "You compare answers to different prompts: the sum runs along dim 0. A group is a row: sum(1, "
            "keepdim=True).",
            lambda rewards: rewards - (rewards.sum(0, keepdim=True) - rewards) / (rewards.shape[0] - 1),
        ),
        Wrong(
            "no keepdim",
            "sum(1) alone gives shape [P], which does not fit [P, G]: torch lays it along the wrong axis (where P "
            "is G, without a word) or stops. sum(1, keepdim=True) gives [P, 1], one sum for each row.",
            lambda rewards: rewards - (rewards.sum(1) - rewards) / (rewards.shape[1] - 1),
        ),
        Wrong(
            "divided by G",
            "You add up the G - 1 others and divide by G, so the baseline is too close to 0. A mean divides by how "
            "many were added: G - 1.",
            lambda rewards: rewards - (rewards.sum(1, keepdim=True) - rewards) / rewards.shape[1],
        ),
        Wrong(
            "baseline only",
            "That is the baseline. The advantage is how far the reward is above it: rewards - baseline.",
            lambda rewards: (rewards.sum(1, keepdim=True) - rewards) / (rewards.shape[1] - 1),
        ),
    ),
    praise="This is RLOO's advantage; notebook 07 compares it with GRPO's.",
)


# ------------------------------------------------------------------------------- 04-reward-to-go


def reward_to_go(rewards: Tensor, mask: Tensor) -> Tensor:  # [N, T]
    """The sum of the rewards from each step on, 0 at padding."""
    kept = rewards * mask
    return kept.flip(1).cumsum(1).flip(1)


def _episodes(rng: random.Random) -> list[Case]:
    ones = torch.ones(1, 3, dtype=torch.bool)
    cases: list[Case] = [(torch.tensor([[1.0, 0.0, 2.0]]).double(), ones)]
    for n, t in ((2, 4), (3, 5), (4, 6)):
        lengths = torch.tensor([t, *(rng.randint(2, t - 1) for _ in range(n - 1))])
        cases.append((_drawn(rng, n, t), torch.arange(t) < lengths[:, None]))
    return cases


def _to_go_by_loop(rewards: Tensor, mask: Tensor) -> Tensor:
    result = torch.zeros_like(rewards)
    for i in range(rewards.shape[0]):
        length = int(mask[i].sum())
        for t in range(length):
            result[i, t] = sum(rewards[i, t:length].tolist())
    return result


TO_GO = Exercise(
    name="04-reward-to-go",
    title="Credit only for what came after",
    difficulty="medium",
    minutes=8,
    hint="cumsum(1) adds up from the left. Turn the row round with flip(1) before and after. Padding must not count.",
    solution=reward_to_go,
    cases=_episodes,
    expected=_to_go_by_loop,
    wrong=(
        Wrong(
            "sum so far",
            "You add up what came before. A step cannot have caused the past: add up from the other end (flip, "
            "cumsum, flip).",
            lambda rewards, mask: (rewards * mask).cumsum(1) * mask,
        ),
        Wrong(
            "whole return",
            "Every step gets the return of the whole episode. That is right on average but noisier: count only "
            "from step t on.",
            lambda rewards, mask: (rewards * mask).sum(1, keepdim=True) * mask,
        ),
        Wrong(
            "one step late",
            "You leave out the reward of the step itself. rewards[i, t] is what action t brought, so the sum "
            "begins at t.",
            lambda rewards, mask: reward_to_go(rewards, mask) - rewards * mask,
        ),
        Wrong(
            "padding counts",
            "Numbers in the padding leak into the sums of real steps. Multiply the rewards by the mask before you "
            "add up, not only after.",
            lambda rewards, mask: rewards.flip(1).cumsum(1).flip(1) * mask,
        ),
        Wrong(
            "no mask",
            "You never use the mask, so the numbers in the padding count as rewards. Multiply the rewards by the "
            "mask before you add up.",
            lambda rewards, mask: rewards.flip(1).cumsum(1).flip(1),
        ),
        Wrong(
            "left reversed",
            "The sums are right, but stand in reverse order: after flip and cumsum, flip once more.",
            lambda rewards, mask: (rewards * mask).flip(1).cumsum(1),
        ),
    ),
    praise="lab.discounted_returns(rewards, 1.0) does the same.",
)


# ------------------------------------------------------------------------------ 04-reinforce-loss


def reinforce_loss(logprobs: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:  # []
    """Minus the mean over completions of A times the log-probability of the completion."""
    sequence = (logprobs * mask).sum(1)
    return -(advantages * sequence).mean()


def _completions(rng: random.Random) -> list[Case]:
    cases: list[Case] = []
    for n, t in ((2, 3), (3, 4), (4, 5)):
        lengths = torch.tensor([t, *(rng.randint(1, t - 1) for _ in range(n - 1))])
        cases.append((-_drawn(rng, n, t).abs() - 0.1, _drawn(rng, n), torch.arange(t) < lengths[:, None]))
    return cases


def _loss_by_loop(logprobs: Tensor, advantages: Tensor, mask: Tensor) -> dict[str, Tensor]:
    n, value, gradient = len(advantages), 0.0, torch.zeros_like(logprobs)
    for i in range(n):
        for t in range(int(mask[i].sum())):
            value -= float(advantages[i] * logprobs[i, t]) / n
            gradient[i, t] = -advantages[i] / n
    return {"value": torch.tensor(value, dtype=torch.float64), "gradient": gradient}


LOSS = Exercise(
    name="04-reinforce-loss",
    title="The loss of REINFORCE",
    difficulty="medium",
    minutes=10,
    hint="First the log-probability of each completion: the sum over its own tokens. Then weigh, average over N, and "
    "turn uphill into downhill.",
    solution=reinforce_loss,
    cases=_completions,
    expected=_loss_by_loop,
    observe=value_and_gradient,
    tolerance=1e-6,
    wrong=(
        Wrong(
            "sign",
            "The sign is turned round: optimisers go downhill, so this makes good completions rarer. Minimise "
            "minus A log π.",
            lambda logprobs, advantages, mask: (advantages * (logprobs * mask).sum(1)).mean(),
        ),
        Wrong(
            "no mask",
            "Padding counts as if the model had written it. Multiply the log-probabilities by the mask before the sum.",
            lambda logprobs, advantages, mask: -(advantages * logprobs.sum(1)).mean(),
        ),
        Wrong(
            "mean over padding",
            "You average over all N × T places, padding included, so that the step depends on the longest "
            "completion of the batch. Sum over tokens, then take the mean over the N completions.",
            lambda logprobs, advantages, mask: -(advantages[:, None] * logprobs * mask).mean(),
        ),
        Wrong(
            "mean over all tokens",
            "You divide by the number of tokens in the batch, not by N. Sum each completion's tokens first: its log π "
            "is that sum; then take the mean over completions.",
            lambda logprobs, advantages, mask: -(advantages[:, None] * logprobs)[mask].mean(),
        ),
        Wrong(
            "mean over tokens",
            "You divide by each completion's length. log π of a completion is the sum over its tokens; with the "
            "mean, tokens of long completions count less, and it is not the gradient of J.",
            lambda logprobs, advantages, mask: -(advantages * (logprobs * mask).sum(1) / mask.sum(1)).mean(),
        ),
        Wrong(
            "sum over completions",
            "You add the completions up, so twice the samples would mean twice the step. The sum estimates an "
            "average: take the mean over the N completions.",
            lambda logprobs, advantages, mask: -(advantages * (logprobs * mask).sum(1)).sum(),
        ),
        Wrong(
            "probability",
            "You weigh probabilities, not log-probabilities. The sample was already drawn with probability π, so "
            "this counts π twice: leave out exp.",
            lambda logprobs, advantages, mask: -(advantages * (logprobs * mask).sum(1).exp()).mean(),
        ),
        Wrong(
            "detached",
            "The value is right, but no gradient reaches the log-probabilities, so nothing is learned. Detach the "
            "advantages, never the log-probabilities.",
            lambda logprobs, advantages, mask: -(advantages * (logprobs * mask).sum(1).detach()).mean(),
        ),
    ),
    praise="Value and gradient both agree with a loop over the tokens.",
)

EXERCISES: tuple[Exercise, ...] = (SOFTMAX, BASELINE, TO_GO, LOSS)
