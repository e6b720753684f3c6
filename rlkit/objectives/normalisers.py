"""Normalisers: how much each token weighs in the loss.

Every loss type here is the same sum, loss = sum over i, t of w[i, t] * term[i, t]; they differ in w alone.
The counts in w are those of the whole optimizer batch (`LossTotals`). So the losses of micro-batches add up
to the loss of the batch, and so do their gradients, however the batch was cut.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rlkit.errors import bad_value, unknown_name
from rlkit.objectives.names import LOSS_TYPES


class LossTotals(NamedTuple):
    """Counts over one whole optimizer batch: all micro-batches and all ranks between two optimizer steps.

    Where a framework averages gradients over ranks (DDP does), multiply the loss by the number of ranks:
    these totals already divide by everybody's share.
    """

    sequences: float  # completions N, the wholly masked ones included
    tokens: float  # active tokens: the sum of the mask

    @classmethod
    def from_mask(cls, mask: Tensor) -> LossTotals:  # [N, T]
        """Count the completions and the active (non-zero) tokens of a mask [N, T]."""
        _check_mask(mask)
        return cls(sequences=int(mask.shape[0]), tokens=int((mask != 0).sum()))


def apply_truncation_mask(
    mask: Tensor,  # [N, T]
    truncated: Tensor,  # [N] bool
) -> Tensor:  # [N, T]
    """Mask every token of the completions that were cut off: mask'[i, t] = 0 where truncated[i].

    mask: [N, T], 1 or True for tokens to train on. truncated: [N], True where generation stopped at the
    length limit. Returns a new mask of the same shape and type. Raises ConfigError for differing shapes.

    A masked completion teaches nothing, but it still counts: its reward stays in its group's mean, and it
    stays in `LossTotals.sequences` (so "grpo" and "dr_grpo" divide by it), not in `LossTotals.tokens`.
    Source: DAPO's overlong filtering (arXiv:2503.14476); TRL's mask_truncated_completions does the same.
    """
    _check_mask(mask)
    if truncated.shape != mask.shape[:1]:
        raise bad_value("truncated", tuple(truncated.shape), f"one flag a completion, [{mask.shape[0]}]")
    return torch.where(truncated.bool()[:, None], torch.zeros_like(mask), mask)


def token_weights(
    mask: Tensor,  # [N, T]
    loss_type: str,
    *,
    totals: LossTotals | None = None,
    max_completion_length: int | None = None,
    dtype: torch.dtype = torch.float64,
) -> Tensor:  # [N, T]
    """The weight w of each token, so that loss = sum of w * term; 0 where masked.

    With |o_i| the active tokens of completion i, and N and tokens from `totals`:

    | loss_type     | w[i, t]                         | in words                                            |
    |---------------|---------------------------------|-----------------------------------------------------|
    | grpo, gspo    | 1 / (N * abs(o_i))              | each completion weighs the same (arXiv:2402.03300)  |
    | bnpo, dapo    | 1 / tokens                      | each token weighs the same (arXiv:2503.14476)       |
    | dr_grpo       | 1 / (N * max_completion_length) | the same, by a constant (arXiv:2503.20783)          |

    mask: [N, T], non-zero where the token counts. totals: counts of the whole optimizer batch; None
    takes this mask for all of it. max_completion_length: tokens, needed by "dr_grpo". Returns [N, T] in
    dtype; wholly masked completions get weights of 0, yet count in N.

    Raises ConfigError for an unknown loss type, a wrong shape, or "dr_grpo" without max_completion_length.

    Where others differ: TRL's "bnpo" divides each micro-batch by its own tokens and averages over
    micro-batches, so that its gradient depends on the cut; here "bnpo" and "dapo" are the same. TRL's
    "dapo" counts, as we do, active tokens only (truncation-masked completions excluded), but over the whole
    generation batch, and gives every optimizer step an equal part of that count; with one optimizer step a
    generation batch the two agree.
    """
    if loss_type not in LOSS_TYPES:
        raise unknown_name("loss_type", loss_type, LOSS_TYPES)
    _check_mask(mask)
    if totals is None:
        totals = LossTotals.from_mask(mask)
    active = (mask != 0).to(dtype)  # [N, T]
    if loss_type in ("bnpo", "dapo"):
        return active / max(totals.tokens, 1)
    if loss_type == "dr_grpo":
        if max_completion_length is None or max_completion_length < 1:
            raise bad_value(
                "max_completion_length",
                max_completion_length,
                'a whole number of tokens above 0 with loss_type="dr_grpo"',
                "Dr. GRPO divides by this constant instead of by each completion's own length.",
            )
        return active / (max(totals.sequences, 1) * max_completion_length)
    lengths = active.sum(dim=1, keepdim=True).clamp(min=1.0)  # [N, 1]
    return active / (max(totals.sequences, 1) * lengths)


def _check_mask(mask: Tensor) -> None:
    if mask.dim() != 2:
        raise bad_value("mask", tuple(mask.shape), "a tensor of shape [N, T]")
