"""Exercises of notebook 08, continued: the loss, and what one token weighs in it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rlkit import objectives
from rlkit.exercises.exercise import Exercise, Wrong, value_and_gradient

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


def _of_rows(term: Tensor, mask: Tensor) -> Tensor:
    return -((term * mask).sum(1) / mask.sum(1)).mean()


def _maximum(new: Tensor, old: Tensor, A: Tensor, mask: Tensor, epsilon: float) -> Tensor:
    ratio = torch.exp(new - old.detach())
    clipped = ratio.clamp(1 - epsilon, 1 + epsilon)
    return _of_rows(torch.maximum(ratio * A[:, None], clipped * A[:, None]), mask)


def _upside_down(new: Tensor, old: Tensor, A: Tensor, mask: Tensor, epsilon: float) -> Tensor:
    ratio = torch.exp(old.detach() - new)
    return _of_rows(
        torch.minimum(ratio * A[:, None], ratio.clamp(1 - epsilon, 1 + epsilon) * A[:, None]), mask
    )


def _wrong_axis(new: Tensor, old: Tensor, A: Tensor, mask: Tensor, epsilon: float) -> Tensor:
    ratio = torch.exp(new - old.detach())
    return _of_rows(torch.minimum(ratio * A, ratio.clamp(1 - epsilon, 1 + epsilon) * A), mask)


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
            "clamp only",
            "You use clamp(ratio) · A alone. A token that moved the wrong way beyond the range is then never brought "
            "back. Take the minimum with ratio · A.",
            lambda new, old, A, mask, epsilon: _of_rows(
                torch.exp(new - old.detach()).clamp(1 - epsilon, 1 + epsilon) * A[:, None], mask
            ),
        ),
        Wrong(
            "maximum",
            "You take the larger of the two terms. The loss is a pessimist: of ratio · A and clamped ratio · A it "
            "believes the smaller one. (With the minus already inside, maximum would be right.)",
            _maximum,
        ),
        Wrong(
            "ratio upside down",
            "Your ratio is old / new. It is the probability now over what it was: exp(new − old.detach()).",
            _upside_down,
        ),
        Wrong(
            "A along the wrong axis",
            "A has one number for each completion, [N], and torch lays it along the tokens' axis. Write A[:, None], "
            "[N, 1]: then every token of a row gets its completion's A.",
            _wrong_axis,
        ),
        Wrong(
            "sum of the rows",
            "You add the completions up. The loss is their mean: divide by N.",
            lambda new, old, A, mask, epsilon: len(A) * grpo_loss(new, old, A, mask, epsilon),
        ),
        Wrong(
            "new detached",
            "The value is right, but no gradient reaches new: it was detached as well, or passed through .item() or "
            "math.exp. Only `old` is a constant.",
            lambda new, old, A, mask, epsilon: grpo_loss(new.detach(), old, A, mask, epsilon),
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
            "dr_grpo without N",
            "Under dr_grpo you divide by the limit alone. The loss is a mean over the N completions as well: 1 / (N · "
            "longest).",
            lambda mask, loss_type, longest: (
                mask / longest if loss_type == "dr_grpo" else token_weights(mask, loss_type, longest)
            ),
        ),
        Wrong(
            "padding weighs something",
            "Your padding has weights above 0. Multiply by the mask: what was never sampled is not to be trained.",
            lambda mask, loss_type, longest: (
                token_weights(mask, loss_type, longest).amax(1, keepdim=True) * torch.ones_like(mask)
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
