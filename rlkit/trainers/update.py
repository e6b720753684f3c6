"""The update: from a batch and its advantages to changed weights.

For each micro-batch: log-probabilities under the present weights, the policy loss, its gradient. Then one
clipped optimizer step for the whole batch. The counts that normalise the loss are those of the whole batch,
so how it is split changes memory and speed, never the gradient.
"""

from __future__ import annotations

import copy
from typing import Any

import torch

from rlkit.config import GRPOConfig
from rlkit.interrupts import interrupts_held
from rlkit.logprobs import completion_logprobs
from rlkit.objectives import LossTotals, apply_truncation_mask, policy_loss
from rlkit.rollout import Batch, TokenRecord


class PolicyUpdate:
    """AdamW on the policy loss.

    Args:
        model: the policy π_θ.
        args: the settings of loss and optimizer.
        total_steps: GRPO steps of the whole run, for the learning-rate schedule.
        reference: π_ref for the KL term; None without one.
    """

    def __init__(self, model: Any, args: GRPOConfig, total_steps: int, reference: Any = None) -> None:
        from transformers import get_scheduler

        self.model: Any = model
        self.args = args
        self.reference: Any = reference
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=args.learning_rate,
            betas=(args.adam_beta1, args.adam_beta2),
            eps=args.adam_epsilon,
            weight_decay=args.weight_decay,
            fused=True,
        )
        self.lr_scheduler = get_scheduler(
            args.lr_scheduler_type,
            self.optimizer,
            num_warmup_steps=args.warmup_steps * args.num_iterations,
            num_training_steps=total_steps * args.num_iterations,
        )

    def update(self, batch: Batch, advantages: torch.Tensor) -> tuple[dict[str, Any], TokenRecord]:
        """μ optimizer steps on ``batch``.

        Args:
            advantages: A of each row, [N].

        Returns:
            The update's numbers (``updates``: optimizer steps taken; ``skipped``: a gradient was not finite, and its
            step and the rest of the μ were left out) and the per-token record of the last pass.
        """
        mask = batch.mask  # [N, T]
        if self.args.mask_truncated_completions:
            mask = apply_truncation_mask(mask, batch.truncated)
        advantages = advantages.to(mask.device, torch.float32)  # [N]
        logp_ref = self._reference_logprobs(batch)
        logp_old: torch.Tensor | None = None  # [N, T]; None: this very policy, so every ratio is 1
        for done in range(self.args.num_iterations):
            values, tokens = self._gradient(batch, mask, advantages, logp_old, logp_ref)
            logp_old = tokens.logp_new if logp_old is None else logp_old
            values |= self._apply()
            values["updates"] = done + (not values["skipped"])
            if values["skipped"]:
                break
        assert logp_old is not None
        tokens.logp_old = logp_old
        gap = (batch.logp_engine - logp_old)[batch.mask].abs()  # [tokens] nats
        values |= {"engine_gap": float(gap.mean()), "engine_gap_max": float(gap.max())}
        return values, tokens.cpu()

    def _gradient(
        self,
        batch: Batch,
        mask: torch.Tensor,  # [N, T] the tokens that are trained on
        advantages: torch.Tensor,  # [N]
        logp_old: torch.Tensor | None,  # [N, T]
        logp_ref: torch.Tensor | None,  # [N, T]
    ) -> tuple[dict[str, Any], TokenRecord]:
        """Accumulate the gradient of the whole batch, micro-batch by micro-batch."""
        args, totals = self.args, LossTotals.from_mask(mask)
        self.optimizer.zero_grad(set_to_none=True)
        logp_new, ratio, entropy = (torch.zeros(mask.shape, device=mask.device) for _ in range(3))  # [N, T]
        sums = dict.fromkeys(("loss", "kl", "clip_low", "clip_high", "clip_delta"), 0.0)
        for start in range(0, len(batch), args.micro_batch_size):
            stop = min(start + args.micro_batch_size, len(batch))
            micro = batch.rows(start, stop)
            here = (slice(start, stop), slice(micro.mask.shape[1]))  # this micro-batch in [N, T]
            policy = self._logprobs(self.model, micro, entropy_grad=args.entropy_coef != 0)
            loss = policy_loss(
                policy.logprobs,
                None if logp_old is None else logp_old[here],
                advantages[start:stop],
                mask[here],
                logp_ref=None if logp_ref is None else logp_ref[here],
                entropy=policy.entropy,
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
            loss.loss.backward()
            logp_new[here], ratio[here] = policy.logprobs.detach(), loss.ratio
            entropy[here] = policy.entropy.detach()
            sums["loss"] += float(loss.loss.detach())
            sums["clip_low"] += float(loss.clipped_low.sum())
            sums["clip_high"] += float(loss.clipped_high.sum())
            sums["clip_delta"] += float(loss.capped.sum())
            sums["kl"] += 0.0 if loss.kl is None else float(loss.kl.sum())
        count = max(totals.tokens, 1.0)
        values = {
            "loss": sums["loss"],
            "entropy": float((entropy * mask).sum() / count),
            "kl": sums["kl"] / count if logp_ref is not None else None,
            "ratio_mean": float((ratio * mask).sum() / count),
            "clip_low": sums["clip_low"] / count,
            "clip_high": sums["clip_high"] / count,
            "clip_delta": sums["clip_delta"] / count,
        }
        return values, TokenRecord(logp_new, logp_new, ratio, entropy, logp_ref)

    def _apply(self) -> dict[str, Any]:
        """Clip the gradient and step, or leave the step out where the gradient is not finite."""
        limit = self.args.max_grad_norm or float("inf")
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, limit))
        finite = norm < float("inf")  # False for NaN as well
        values = {
            "grad_norm": norm,
            "learning_rate": self.lr_scheduler.get_last_lr()[0],
            "skipped": not finite,
        }
        if finite:
            with interrupts_held():
                self.optimizer.step()
                self.lr_scheduler.step()
        self.optimizer.zero_grad(set_to_none=True)
        return values

    def _logprobs(self, model: Any, batch: Batch, entropy: bool = True, entropy_grad: bool = False) -> Any:
        """Log-probabilities, and entropy where wanted, of a (micro-)batch's completion tokens, [N, T] each."""
        result = completion_logprobs(
            model,
            batch.input_ids,
            batch.attention_mask,
            batch.completion_mask,
            temperature=self.args.temperature,
            return_entropy=entropy,
            entropy_grad=entropy_grad,
        )
        columns = slice(batch.prompt_length, None)
        entropies = result.entropy[:, columns] if entropy else None
        return result._replace(logprobs=result.logprobs[:, columns], entropy=entropies)

    @torch.no_grad()
    def _reference_logprobs(self, batch: Batch) -> torch.Tensor | None:
        """log π_ref of every completion token, [N, T]; None without a KL term."""
        if self.reference is None:
            return None
        logp_ref = torch.zeros(batch.mask.shape, device=batch.mask.device)
        for start in range(0, len(batch), self.args.micro_batch_size):
            micro = batch.rows(start, start + self.args.micro_batch_size)
            logp = self._logprobs(self.reference, micro, entropy=False).logprobs
            logp_ref[start : start + len(micro), : logp.shape[1]] = logp
        return logp_ref


def frozen_copy(model: Any) -> Any:
    """The reference policy: the model as it is now, never trained."""
    return copy.deepcopy(model).eval().requires_grad_(False)
