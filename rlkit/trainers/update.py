"""The update: from a batch and its advantages to changed weights.

For each micro-batch: log-probabilities under the present weights, the policy loss, its gradient. Then one
clipped optimizer step for all of them. The counts that normalise the loss are those of the whole optimizer batch,
so how it is split changes memory and speed, never the gradient.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from rlkit.config import GRPOConfig
from rlkit.objectives import (
    LossTotals,
    apply_truncation_mask,
    mismatch_statistics,
    mismatch_weight,
    policy_loss,
)
from rlkit.rollout import Batch, TokenRecord
from rlkit.trainers.passes import BatchPasses, mean_of

_SUMMED = ("loss", "kl", "clip_low", "clip_high", "clip_delta")


class Given(NamedTuple):
    """What one pass over the batch needs and does not change."""

    mask: torch.Tensor  # [N, T] the tokens that are trained on
    advantages: torch.Tensor  # [N]
    logp_old: torch.Tensor | None  # [N, T]; None: this very policy, so every ratio is 1
    logp_ref: torch.Tensor | None  # [N, T]


class PolicyUpdate(BatchPasses):
    """AdamW on the policy loss; the arguments are those of ``BatchPasses``."""

    args: GRPOConfig

    def update(self, batch: Batch, advantages: torch.Tensor) -> tuple[dict[str, Any], TokenRecord]:
        """μ passes over ``batch``, each in ``steps_per_generation`` optimizer steps.

        Args:
            advantages: A of each row, [N].

        Returns:
            The last pass's numbers (``updates``: optimizer steps taken in all; ``skipped``: a gradient was not finite,
            and its step and all later ones were left out) and its per-token record.
        """
        args, mask = self.args, batch.mask  # [N, T]
        if args.mask_truncated_completions:
            mask = apply_truncation_mask(mask, batch.truncated)
        size = len(batch) // args.steps_per_generation
        parts = [range(start, start + size) for start in range(0, len(batch), size)]
        given = Given(
            mask,
            advantages.to(mask.device, torch.float32),
            # Only the first optimizer step is taken by the policy that sampled: the others need its log-probabilities.
            self._whole_batch(self.model, batch) if len(parts) > 1 else None,
            self._reference_logprobs(batch),
        )
        tokens = TokenRecord.zeros(mask.shape, mask.device)
        self.taken, skipped = 0, False
        for iteration in range(args.num_iterations):
            values = []
            for part in parts:
                found = self._gradient(batch, part, given, tokens)
                found |= self.optimizer.step()
                values.append(found)
                self.taken += not found["skipped"]
                if skipped := found["skipped"]:
                    break
            if iteration == 0:
                if given.logp_old is None:
                    given = given._replace(logp_old=tokens.logp_new.clone())
                assert given.logp_old is not None
                tokens.logp_old = given.logp_old
            if skipped:
                break
        merged = {name: mean_of([found[name] for found in values]) for name in values[0]}
        merged |= {"learning_rate": values[-1]["learning_rate"], "updates": self.taken, "skipped": skipped}
        gap = (batch.logp_engine - tokens.logp_old)[batch.mask].abs()  # [tokens] nats
        merged |= {"engine_gap": float(gap.mean()), "engine_gap_max": float(gap.max())}
        merged |= mismatch_statistics(
            tokens.logp_old,
            batch.logp_engine,
            batch.mask,
            mode=args.vllm_importance_sampling_mode,
            **self._clip,
        )
        tokens.logp_ref = given.logp_ref
        return merged, tokens.cpu()

    def _gradient(self, batch: Batch, rows: range, given: Given, tokens: TokenRecord) -> dict[str, Any]:
        """Accumulate the gradient of one optimizer step, micro-batch by micro-batch; fill ``tokens`` in."""
        args, totals = self.args, LossTotals.from_mask(given.mask[rows.start : rows.stop])
        lengths = batch.lengths
        # A row whose every token has advantage 0 has no gradient: its numbers are wanted, a backward pass is not.
        always = args.beta > 0 or args.entropy_coef != 0
        active = given.mask.any(-1) & ((given.advantages != 0) | always)  # [N]
        live = active.tolist()
        self.optimizer.clear()
        sums = dict.fromkeys(_SUMMED, 0.0)
        cells = 0
        for wanted in (True, False):
            mine = [row for row in rows if live[row] == wanted]
            for chosen in self._micro_batches([lengths[row] for row in mine]):
                index = torch.tensor([mine[i] for i in chosen], device=given.mask.device)  # [n]
                with torch.set_grad_enabled(wanted), self.recomputing():
                    loss, width = self._micro_batch(batch, index, given, tokens, totals)
                    if wanted:
                        loss.loss.backward()
                        self.optimizer.collect()
                cells += len(chosen) * width
                sums["loss"] += float(loss.loss.detach())
                sums["clip_low"] += float(loss.clipped_low.sum())
                sums["clip_high"] += float(loss.clipped_high.sum())
                sums["clip_delta"] += float(loss.capped.sum())
                sums["kl"] += 0.0 if loss.kl is None else float(loss.kl.sum())
        for parameter in self.optimizer.parameters:
            if parameter.grad is None:  # as a backward pass over rows without a gradient would leave it
                parameter.grad = torch.zeros_like(parameter)
        count = max(totals.tokens, 1.0)
        here = slice(rows.start, rows.stop)
        mask = given.mask[here]
        filled = sum(lengths[row] for row in rows)
        return {
            "loss": sums["loss"],
            "entropy": float((tokens.entropy[here] * mask).sum() / count),
            "kl": sums["kl"] / count if given.logp_ref is not None else None,
            "ratio_mean": float((tokens.ratio[here] * mask).sum() / count),
            "clip_low": sums["clip_low"] / count,
            "clip_high": sums["clip_high"] / count,
            "clip_delta": sums["clip_delta"] / count,
            "padding": (cells - filled) / filled,
        }

    def _micro_batch(
        self, batch: Batch, index: torch.Tensor, given: Given, tokens: TokenRecord, totals: LossTotals
    ) -> tuple[Any, int]:
        """The loss of the rows ``index`` [n] and the width of their rectangle."""
        args = self.args
        logp, entropy, width = self._logprobs(self.model, batch, index, args.entropy_coef != 0)  # [n, T] both
        mask = given.mask[index]  # [n, T]
        logp_old = logp.detach() if given.logp_old is None else given.logp_old[index]
        is_weight = None
        if self.corrects_mismatch:
            mode = args.vllm_importance_sampling_mode
            is_weight = mismatch_weight(logp_old, batch.logp_engine[index], mask, mode=mode, **self._clip)
        loss = policy_loss(
            logp,
            None if given.logp_old is None else logp_old,
            given.advantages[index],
            mask,
            logp_ref=None if given.logp_ref is None else given.logp_ref[index],
            is_weight=is_weight,
            entropy=entropy,
            loss_type=args.loss_type,
            importance_sampling_level=args.importance_sampling_level,
            epsilon=args.epsilon,
            epsilon_high=args.epsilon_high,
            delta=args.delta,
            beta=args.beta,
            kl_estimator=args.kl_estimator,
            use_bias_correction_kl=args.use_bias_correction_kl,
            entropy_coef=args.entropy_coef,
            max_completion_length=args.max_completion_length,
            totals=totals,
        )
        tokens.logp_new[index], tokens.entropy[index] = logp.detach().float(), entropy.detach().float()
        tokens.ratio[index] = loss.ratio.detach().expand_as(logp).float()
        if is_weight is not None:
            tokens.is_weight[index] = is_weight.float()
        return loss, width
