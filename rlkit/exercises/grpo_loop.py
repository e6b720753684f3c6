"""Exercises of notebook 08: the mask, the shift, the loss and its weights."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rlkit import objectives
from rlkit.exercises.exercise import Exercise, Wrong, value_and_gradient

# --------------------------------------------------------------------------------- which tokens are trained on


def completion_mask(completions: Tensor, end_id: int) -> Tensor:
    ends = (completions == end_id).long()  # [N, T]
    ended_before = ends.cumsum(1) - ends  # [N, T] end tokens strictly before each place
    return ended_before == 0


def _mask_by_loop(completions: Tensor, end_id: int) -> list[list[bool]]:
    found = []
    for row in completions.tolist():
        length = row.index(end_id) + 1 if end_id in row else len(row)
        found.append([place < length for place in range(len(row))])
    return found


def _one_too_many(completions: Tensor, end_id: int) -> Tensor:
    ends = (completions == end_id).long()
    before = ends.cumsum(1) - ends
    return torch.cat([torch.ones_like(before[:, :1]).bool(), before[:, :-1] == 0], 1)


def _argmax_alone(completions: Tensor, end_id: int) -> Tensor:
    first = (completions == end_id).long().argmax(1, keepdim=True)
    return torch.arange(completions.shape[1]) <= first


def _mask_cases(rng: random.Random) -> list[tuple[Any, ...]]:
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    drawn = torch.randint(2, 9, (4, 6), generator=generator)
    drawn[0, rng.randrange(1, 5)] = 1  # ends in the middle; what follows is not padding
    drawn[1, 0] = drawn[1, 3] = 1  # empty, and a second end token
    drawn[2, 5] = 1
    return [
        (torch.tensor([[5, 6, 1, 0], [7, 1, 0, 0]]), 1),
        (torch.tensor([[5, 6, 7, 8], [1, 0, 0, 0]]), 1),  # truncated; empty
        (drawn, 1),
    ]


MASK = Exercise(
    name="08-mask",
    title="The mask",
    difficulty="easy",
    minutes=6,
    hint="Count the end tokens that stand strictly before each place: `cumsum`, less the place's own. Where that "
    "count is 0, the model was still talking.",
    solution=completion_mask,
    cases=_mask_cases,
    expected=_mask_by_loop,
    praise="The end token is in, what follows is out, and an answer that was cut counts whole.",
    wrong=(
        Wrong(
            "end token left out",
            "Your mask stops before the end token. Ending was the model's decision too: without it in the loss it "
            "never learns when to stop. Take the end token in, and leave out only what follows it.",
            lambda completions, end_id: (completions == end_id).long().cumsum(1) == 0,
        ),
        Wrong(
            "only the end token left out",
            "You leave out the end tokens themselves, and keep everything after them. Leave out what comes *after* "
            "the first end token: a cumulative sum along the row remembers that one has been seen.",
            lambda completions, end_id: completions != end_id,
        ),
        Wrong(
            "nothing masked",
            "You count every place, padding included. The padding was never sampled: nobody is to be praised or "
            "blamed for it. Look for end_id in each row.",
            lambda completions, end_id: torch.ones_like(completions).bool(),
        ),
        Wrong(
            "one place too many",
            "Your mask runs one place past the end token, into the padding. Count the end tokens strictly before "
            "each place: cumsum less the place's own.",
            _one_too_many,
        ),
        Wrong(
            "argmax of a row without end",
            "argmax of a row without an end token is 0, so you keep a single token of every answer that was cut. "
            "Such a row counts whole: use any() to tell it apart, or cumsum, which needs no special case.",
            _argmax_alone,
        ),
    ),
)

# ------------------------------------------------------------------------- log-probabilities, shifted by one


def token_logprobs(logits: Tensor, tokens: Tensor) -> Tensor:
    logp = logits[:, :-1].log_softmax(-1)  # [N, S - 1, V], the last place predicts nothing that we have
    return logp.gather(-1, tokens[:, 1:, None]).squeeze(-1)  # [N, S - 1]


def _logprobs_by_loop(logits: Tensor, tokens: Tensor) -> list[list[float]]:
    found = []
    for scores, row in zip(logits.double().tolist(), tokens.tolist()):
        sums = [math.log(sum(math.exp(one) for one in place)) for place in scores]
        found.append([scores[t][row[t + 1]] - sums[t] for t in range(len(row) - 1)])
    return found


def _logprob_cases(rng: random.Random) -> list[tuple[Any, ...]]:
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    first = torch.tensor([[[0.0, 1.0, 2.0], [2.0, 0.0, 0.0], [0.0, 3.0, 0.0]]])
    return [
        (first, torch.tensor([[0, 2, 1]])),
        (torch.randn(2, 5, 4, generator=generator), torch.randint(0, 4, (2, 5), generator=generator)),
        (5 * torch.randn(3, 4, 6, generator=generator), torch.randint(0, 6, (3, 4), generator=generator)),
    ]


LOGPROBS = Exercise(
    name="08-logprobs",
    title="Log-probabilities, shifted by one",
    difficulty="medium",
    minutes=8,
    hint="The logits at place t say what comes at t + 1: pair `logits[:, :-1]` with `tokens[:, 1:]`. Turn logits "
    "into log-probabilities along the vocabulary, then pick one of each place with `gather`.",
    solution=token_logprobs,
    cases=_logprob_cases,
    expected=_logprobs_by_loop,
    praise="This off-by-one has cost people weeks.",
    wrong=(
        Wrong(
            "no shift",
            "You score each token with the logits of its own place, and these were computed after the model had read"
            " it. The logits at t predict token t + 1: pair logits[:, :-1] with tokens[:, 1:].",
            lambda logits, tokens: logits.log_softmax(-1).gather(-1, tokens[..., None]).squeeze(-1)[:, 1:],
        ),
        Wrong(
            "shifted the wrong way",
            "You shift the wrong way: your logits at t + 1 score token t, two places off. The last logits predict a "
            "token that does not exist, so drop the last logits and the first token.",
            lambda logits, tokens: logits[:, 1:].log_softmax(-1).gather(-1, tokens[:, :-1, None]).squeeze(-1),
        ),
        Wrong(
            "raw logits",
            "You pick logits, not log-probabilities. Logits are only known up to a constant; subtract their "
            "logsumexp, which is what log_softmax(-1) does.",
            lambda logits, tokens: logits[:, :-1].gather(-1, tokens[:, 1:, None]).squeeze(-1),
        ),
        Wrong(
            "probabilities",
            "You return probabilities; asked for are their natural logarithms, which add up along a completion. Use "
            "log_softmax instead of softmax.",
            lambda logits, tokens: logits[:, :-1].softmax(-1).gather(-1, tokens[:, 1:, None]).squeeze(-1),
        ),
        Wrong(
            "softmax along the places",
            "Your log_softmax runs along dim 1, the places of the text, so that the words compete with those of "
            "other places. The candidates for one place are on the last axis: log_softmax(-1).",
            lambda logits, tokens: logits[:, :-1].log_softmax(1).gather(-1, tokens[:, 1:, None]).squeeze(-1),
        ),
    ),
)

# ---------------------------------------------------------------------------------------------------- the loss


def grpo_loss(new: Tensor, old: Tensor, A: Tensor, mask: Tensor, epsilon: float) -> Tensor:
    ratio = torch.exp(new - old.detach())  # [N, T]
    clipped = ratio.clamp(1 - epsilon, 1 + epsilon)
    term = torch.minimum(ratio * A[:, None], clipped * A[:, None])  # [N, T]
    return -((term * mask).sum(1) / mask.sum(1)).mean()


def _loss_of_library(new: Tensor, old: Tensor, A: Tensor, mask: Tensor, epsilon: float) -> dict[str, Tensor]:
    first = new.clone().requires_grad_(True)
    loss = objectives.policy_loss(first, old, A, mask, loss_type="grpo", epsilon=epsilon).loss
    loss.backward()
    assert first.grad is not None
    return {"value": loss, "gradient": first.grad}


def _on_policy_too(answer: Callable[..., Any], case: tuple[Any, ...]) -> Any:
    """Value and gradient; where a case has the same tensor twice, ``old`` is ``new`` itself, graph and all."""
    same = case[1] is case[0]
    return value_and_gradient(lambda new, old, *rest: answer(new, new if same else old, *rest), case)


def _term(new: Tensor, old: Tensor, A: Tensor, epsilon: float) -> Tensor:
    ratio = torch.exp(new - old.detach())
    return torch.minimum(ratio * A[:, None], ratio.clamp(1 - epsilon, 1 + epsilon) * A[:, None])


def _undetached(new: Tensor, old: Tensor, A: Tensor, mask: Tensor, epsilon: float) -> Tensor:
    ratio = torch.exp(new - old)
    term = torch.minimum(ratio * A[:, None], ratio.clamp(1 - epsilon, 1 + epsilon) * A[:, None])
    return -((term * mask).sum(1) / mask.sum(1)).mean()


def _unclipped(new: Tensor, old: Tensor, A: Tensor, mask: Tensor, epsilon: float) -> Tensor:
    ratio = torch.exp(new - old.detach())
    return -((ratio * A[:, None] * mask).sum(1) / mask.sum(1)).mean()


def _loss_cases(rng: random.Random) -> list[tuple[Any, ...]]:
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    first = torch.tensor([[-0.5, -1.0], [-2.0, -9.0]])
    mask = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    new = -3 * torch.rand(4, 5, generator=generator)
    old = new + 0.6 * torch.randn(4, 5, generator=generator)
    old[0, 0], old[1, 0] = (
        new[0, 0] - 0.5,
        new[1, 0] + 0.5,
    )  # beyond the clip range on the side that is clipped
    A = torch.tensor([1.5, -0.5, -1.2, 0.2]) + 0.1 * torch.rand(4, generator=generator)
    lengths = torch.tensor([5, 2, rng.randrange(2, 5), 1])
    return [
        (first, first, torch.tensor([1.0, -1.0]), mask, 0.2),  # on-policy: old is new
        (new, old, A, (torch.arange(5) < lengths[:, None]).float(), 0.2),
    ]


LOSS = Exercise(
    name="08-loss",
    title="The loss",
    difficulty="hard",
    minutes=12,
    hint="ratio = exp(new − old), with `old.detach()`; the smaller of ratio · A and clipped ratio · A; then for "
    "each row the mean over its own tokens, then the mean of the rows, then minus.",
    solution=grpo_loss,
    cases=_loss_cases,
    expected=_loss_of_library,
    observe=_on_policy_too,
    tolerance=1e-4,
    praise="Value and gradient are those of rlkit.objectives.policy_loss.",
    wrong=(
        Wrong(
            "unmasked mean",
            "You average over the padding as well, so whatever the model thinks of padding is trained. Multiply by "
            "the mask before you sum, and divide by mask.sum(1).",
            lambda new, old, A, mask, epsilon: -_term(new, old, A, epsilon).mean(),
        ),
        Wrong(
            "mean over all tokens",
            "You take one mean over all tokens of the batch. That is dapo: a long answer then weighs more than a "
            "short one. For grpo take the mean of each row first (divide by mask.sum(1)), then the mean of the rows.",
            lambda new, old, A, mask, epsilon: -(_term(new, old, A, epsilon) * mask).sum() / mask.sum(),
        ),
        Wrong(
            "divided by the width",
            "You divide every row by the width T of the rectangle. That shrinks short answers (dr_grpo does so on "
            "purpose, with a constant). For grpo divide each row by its own number of tokens, mask.sum(1).",
            lambda new, old, A, mask, epsilon: -(_term(new, old, A, epsilon) * mask).mean(),
        ),
        Wrong(
            "old not detached",
            "The value is right, but the gradient also flows through old. On-policy old is new, both gradients "
            "cancel, and nothing is learned. Write old.detach().",
            _undetached,
        ),
        Wrong(
            "sign",
            "The sign is flipped. An optimizer makes the loss small, and good answers (A > 0) are to become likely: "
            "the loss is minus the objective.",
            lambda new, old, A, mask, epsilon: (
                (_term(new, old, A, epsilon) * mask).sum(1) / mask.sum(1)
            ).mean(),
        ),
        Wrong(
            "never clipped",
            "You use the ratio without clipping. Take the minimum of ratio · A and clamp(ratio, 1 − ε, 1 + ε) · A: "
            "beyond the range nothing more is to be gained.",
            _unclipped,
        ),
        Wrong(
            "log-probability in place of the ratio",
            "You weigh A by the log-probability, as REINFORCE does. On-policy that has the right gradient, but it "
            "cannot be clipped, and is wrong once the policy has moved. Use ratio = exp(new − old.detach()).",
            lambda new, old, A, mask, epsilon: -((new * A[:, None] * mask).sum(1) / mask.sum(1)).mean(),
        ),
        Wrong(
            "ratio missing",
            "Your loss does not depend on the model: the ratio is 1, but it has to be computed as exp(new − "
            "old.detach()). Otherwise there is no gradient to follow.",
            lambda new, old, A, mask, epsilon: -((A[:, None] * mask).sum(1) / mask.sum(1)).mean(),
        ),
    ),
)

# ------------------------------------------------------------------------------------- what one token weighs


def token_weights(mask: Tensor, loss_type: str, longest: int) -> Tensor:
    N = len(mask)
    if loss_type == "grpo":
        return mask / mask.sum(1, keepdim=True) / N
    if loss_type == "dapo":
        return mask / mask.sum()
    return mask / (N * longest)  # dr_grpo


def _weight_cases(rng: random.Random) -> list[tuple[Any, ...]]:
    lengths = torch.tensor([6, 1, *(rng.randrange(1, 6) for _ in range(3))])
    drawn = (torch.arange(6) < lengths[:, None]).float()
    simple = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
    return [(one, kind, 8) for one in (simple, drawn) for kind in ("grpo", "dapo", "dr_grpo")]


WEIGHTS = Exercise(
    name="08-weights",
    title="What one token weighs",
    difficulty="medium",
    minutes=7,
    hint="grpo: 1 / (N · own length). dapo: 1 / (all tokens that count). dr_grpo: 1 / (N · longest). The mask, as"
    " numbers, puts the zeros in.",
    solution=token_weights,
    cases=_weight_cases,
    expected=lambda mask, kind, longest: objectives.token_weights(mask, kind, max_completion_length=longest),
    praise="The three losses are one sum with three kinds of weights.",
    wrong=(
        Wrong(
            "grpo without N",
            "Under grpo each of your rows adds up to 1, and the batch to N. The loss is the mean over the N "
            "completions: divide by N as well.",
            lambda mask, loss_type, longest: (
                mask / mask.sum(1, keepdim=True)
                if loss_type == "grpo"
                else token_weights(mask, loss_type, longest)
            ),
        ),
        Wrong(
            "dapo counts the padding",
            "Under dapo you divide by all places, padding included. Only tokens that count are counted: mask.sum().",
            lambda mask, loss_type, longest: (
                mask / mask.numel() if loss_type == "dapo" else token_weights(mask, loss_type, longest)
            ),
        ),
        Wrong(
            "dr_grpo by the width",
            "Under dr_grpo you divide by the width of this batch, which changes from step to step. The point of Dr. "
            "GRPO is a constant: N times the limit `longest`.",
            lambda mask, loss_type, longest: (
                mask / mask.numel() if loss_type == "dr_grpo" else token_weights(mask, loss_type, longest)
            ),
        ),
        Wrong(
            "grpo and dapo swapped",
            "You have swapped grpo and dapo. Under grpo every *completion* weighs the same (divide by its own "
            "length), under dapo every *token* does (divide by the number of all tokens).",
            lambda mask, loss_type, longest: token_weights(
                mask, {"grpo": "dapo", "dapo": "grpo"}.get(loss_type, loss_type), longest
            ),
        ),
    ),
)

EXERCISES: tuple[Exercise, ...] = (MASK, LOGPROBS, LOSS, WEIGHTS)
