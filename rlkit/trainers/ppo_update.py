"""PPO's update: what each token was worth, then several epochs of mini-batches on policy and value loss.

``estimate`` looks once at the whole rollout with the weights that sampled it: log-probabilities, values, per-token
rewards, advantages. ``update`` then takes the optimizer steps. How a mini-batch is cut into micro-batches changes
memory and speed, never the gradient.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from rlkit.config import PPOConfig
from rlkit.interrupts import interrupts_held
from rlkit.logprobs import hidden_states
from rlkit.objectives import (
    AdaptiveKL,
    LossTotals,
    explained_variance,
    generalized_advantages,
    kl_estimate,
    mismatch_statistics,
    mismatch_weight,
    policy_loss,
    token_rewards,
    value_loss,
    whiten,
)
from rlkit.rollout import Batch, TokenRecord
from rlkit.trainers.checkpointing import gradient_checkpointing
from rlkit.trainers.micro_batches import token_budget
from rlkit.trainers.optimizer import Optimizer
from rlkit.trainers.passes import BatchPasses, mean_of
from rlkit.trainers.values import ValueModel

_SUMMED = ("loss", "policy_loss", "value_loss", "clip_low", "clip_high", "value_clip", "approx_kl")


class Experience(NamedTuple):
    """A rollout as PPO learns from it. [N, T] each but where noted; 0 where the batch's mask is 0."""

    logp_old: torch.Tensor  # log π_old of each token, nats
    logp_ref: torch.Tensor | None  # log π_ref; None without a KL term
    kl: torch.Tensor | None  # its estimate of KL(π_old || π_ref), nats
    values: torch.Tensor  # V_old of the state before each token
    bootstrap: torch.Tensor  # [N] V_old behind the last token of completions that go on, 0 for the others
    rewards: torch.Tensor  # r of each token, the KL penalty and the score in it
    advantages: torch.Tensor  # A, whitened where that is asked for
    returns: torch.Tensor  # R = A + V_old, before whitening: what V is to learn
    scores: torch.Tensor  # [N] what the completion got, a missing end taken off
    mask: torch.Tensor  # bool: a token that is learned from: of a completion that was judged
    seconds: float = 0.0  # that this took


class PPOUpdate(BatchPasses):
    """AdamW on policy loss + ``vf_coef`` · value loss.

    Args:
        model, args, total_steps, reference: see ``BatchPasses``.
        values: the value model. Its own weights have an optimizer of their own, whose gradient is clipped by itself.

    Attributes:
        kl: the KL coefficient, fixed or adaptive.
    """

    args: PPOConfig

    def __init__(
        self, model: Any, args: PPOConfig, total_steps: int, reference: Any, values: ValueModel
    ) -> None:
        super().__init__(model, args, total_steps, reference)
        self.values = values
        if values.own:
            self._with_value_model()
        rate = args.value_learning_rate or args.learning_rate
        own = dataclasses.replace(args, learning_rate=rate)
        self.value_optimizer = Optimizer(values, own, total_steps, self.per_rollout)
        self.kl = AdaptiveKL(args.kl_coef, args.kl_target, args.kl_horizon)

    def _with_value_model(self) -> None:
        """Two models' activations at a time: recompute those of both, and halve the micro-batches."""
        args, model, policys = self.args, self.values.model, self.recomputing
        if args.micro_batch_tokens is None:
            budget = token_budget(None, model, args.gradient_checkpointing)
            self.max_tokens = max(1, min(self.max_tokens, budget) // 2)
        if args.gradient_checkpointing:
            values = gradient_checkpointing(model, True)

            @contextlib.contextmanager
            def both() -> Iterator[None]:
                with policys(), values():
                    yield

            self.recomputing = both

    # -- what the tokens were worth ------------------------------------------------------------------

    @torch.no_grad()
    def estimate(self, batch: Batch, scores: torch.Tensor, judged: torch.Tensor | None = None) -> Experience:
        """Advantages and returns of every token, under the present weights.

        Args:
            scores: what each completion got, [N].
            judged: bool [N], whether anybody judged it at all: nothing is learned from one that nobody did. None: all.
        """
        args, mask = self.args, batch.mask  # [N, T]
        learned = mask if judged is None else mask & judged.to(mask.device)[:, None]  # [N, T]
        shape, device = mask.shape, mask.device
        logp, values = torch.zeros(shape, device=device), torch.zeros(shape, device=device)
        ends = torch.zeros(len(batch), device=device)  # [N] V behind the last token
        for chosen in self._micro_batches(batch.lengths):
            index = torch.tensor(chosen, device=device)
            logp_part, _, before, behind, _ = self._forward(batch, index, entropy=False)
            logp[index], values[index], ends[index] = logp_part.float(), before.float(), behind.float()
        logp_ref = self._reference_logprobs(batch)
        kl = None if logp_ref is None else torch.where(mask, kl_estimate(logp, logp_ref, args.estimator), 0.0)
        score = scores.to(device, torch.float32)  # [N]
        bootstrap = torch.zeros_like(ends)
        if args.bootstrap_truncated:
            bootstrap = torch.where(batch.truncated, ends, 0.0)
            score = torch.where(batch.truncated, 0.0, score)
        if args.missing_eos_penalty is not None:
            score = score - args.missing_eos_penalty * batch.truncated
        coef = self.kl.value if args.kl_penalty == "reward" else 0.0
        rewards = token_rewards(score, learned, kl=kl, kl_coef=coef)
        if args.whiten_rewards:
            rewards = whiten(rewards, learned, shift_mean=False)
        advantages, returns = generalized_advantages(
            rewards, values, learned, gamma=args.gamma, lam=args.lam, bootstrap=bootstrap
        )
        if args.whiten_advantages:
            advantages = whiten(advantages, learned)
        return Experience(logp, logp_ref, kl, values, bootstrap, rewards, advantages, returns, score, learned)

    def _forward(
        self, batch: Batch, index: torch.Tensor, entropy: bool = True
    ) -> tuple[torch.Tensor, Any, torch.Tensor, torch.Tensor, int]:
        """log π [n, T], entropy [n, T], V before each token [n, T] and behind the last [n]; the rectangle's width."""
        ids, attention, _ = batch.packed(index)  # [n, W] each
        hidden = hidden_states(self.model, ids, attention)  # [n, W, H]
        grad = entropy and self.args.entropy_coef != 0
        logp, entropies, width = self._logprobs(self.model, batch, index, grad, entropy, hidden)
        values, ends = self.values(batch, index, hidden)
        return logp, entropies, values, ends, width

    # -- the optimizer steps -------------------------------------------------------------------------

    def update(self, batch: Batch, given: Experience, seed: int) -> tuple[dict[str, Any], TokenRecord]:
        """``num_ppo_epochs`` passes over ``batch``, each in ``num_mini_batches`` optimizer steps.

        Args:
            seed: of the order of rows.

        Returns:
            The last pass's numbers and its per-token record, as ``PolicyUpdate.update`` gives them.
        """
        args, mask = self.args, batch.mask
        tokens = TokenRecord.zeros(mask.shape, mask.device)
        tokens.logp_old, tokens.logp_ref = given.logp_old, given.logp_ref
        tokens.token_reward, tokens.value = given.rewards, given.values
        tokens.token_advantage, tokens.token_return = given.advantages, given.returns
        if self.corrects_mismatch:
            mode = args.vllm_importance_sampling_mode
            tokens.is_weight = mismatch_weight(
                given.logp_old, batch.logp_engine, mask, mode=mode, **self._clip
            )
        order = torch.Generator().manual_seed(seed)
        self.taken, skipped = 0, False
        found: list[dict[str, Any]] = []
        for _ in range(args.num_ppo_epochs):
            found = []
            rows = torch.randperm(len(batch), generator=order)
            for part in rows.chunk(args.num_mini_batches):
                numbers = self._gradient(batch, part.tolist(), given, tokens)
                numbers |= self._step()
                found.append(numbers)
                self.taken += not numbers["skipped"]
                if skipped := numbers["skipped"]:
                    break
            if skipped:
                break
        merged = {name: mean_of([numbers[name] for numbers in found]) for name in found[0]}
        merged |= {"learning_rate": found[-1]["learning_rate"], "updates": self.taken, "skipped": skipped}
        merged |= self._about(batch, given)
        return merged, tokens.cpu()

    def _step(self) -> dict[str, Any]:
        """One optimizer step of the policy and one of the value model; none where a gradient is not finite."""
        values = self.value_optimizer
        values.collect()
        finite = all(bool(p.grad.isfinite().all()) for p in values.parameters if p.grad is not None)
        if not finite:  # the policy's step would count as taken, and the value model's not
            norm = float("nan")
            values.clear()
            self.optimizer.clear()
            rate = self.optimizer.schedule.get_last_lr()[0]
            return {"grad_norm": norm, "learning_rate": rate, "skipped": True, "value_grad_norm": norm}
        with interrupts_held():  # both or none
            taken = self.optimizer.step()
            if taken["skipped"]:
                values.clear()
                return {**taken, "value_grad_norm": float("nan")}
            return {**taken, "value_grad_norm": values.step()["grad_norm"]}

    def _gradient(
        self, batch: Batch, rows: list[int], given: Experience, tokens: TokenRecord
    ) -> dict[str, Any]:
        """Accumulate the gradient of one optimizer step, micro-batch by micro-batch; fill ``tokens`` in."""
        args, lengths = self.args, batch.lengths
        mask = given.mask[rows]  # [n, T]
        totals = LossTotals.from_mask(mask)
        count = max(totals.tokens, 1.0)
        self.optimizer.clear()
        self.value_optimizer.clear()
        sums, cells, in_loss = dict.fromkeys(_SUMMED, 0.0), 0, args.kl_penalty == "loss"
        for chosen in self._micro_batches([lengths[row] for row in rows]):
            index = torch.tensor([rows[i] for i in chosen], device=mask.device)  # [n]
            with self.recomputing():
                logp, entropy, values, _, width = self._forward(batch, index)
                here = given.mask[index]  # [n, T]
                policy = policy_loss(
                    logp,
                    given.logp_old[index],
                    given.advantages[index],
                    here,
                    logp_ref=given.logp_ref[index] if in_loss and given.logp_ref is not None else None,
                    is_weight=tokens.is_weight[index] if self.corrects_mismatch else None,
                    entropy=entropy,
                    loss_type="dapo",
                    epsilon=args.cliprange,
                    beta=self.kl.value if in_loss else 0.0,
                    kl_estimator=args.estimator,
                    entropy_coef=args.entropy_coef,
                    totals=totals,
                )
                value = value_loss(
                    values,
                    given.values[index],
                    given.returns[index],
                    here,
                    cliprange_value=args.cliprange_value,
                    tokens=totals.tokens,
                )
                loss = policy.loss + args.vf_coef * value.loss
                loss.backward()
                self.optimizer.collect()
                self.value_optimizer.collect()
            cells += len(chosen) * width
            sums["loss"] += float(loss.detach())
            sums["policy_loss"] += float(policy.loss.detach())
            sums["value_loss"] += float(value.loss.detach())
            sums["clip_low"] += float(policy.clipped_low.sum()) / count
            sums["clip_high"] += float(policy.clipped_high.sum()) / count
            sums["value_clip"] += float(value.clipped.sum()) / count
            sums["approx_kl"] += 0.5 * float(policy.log_ratio.square().sum()) / count
            tokens.logp_new[index], tokens.entropy[index] = logp.detach().float(), entropy.detach().float()
            tokens.ratio[index] = policy.ratio.float()
        for parameter in (*self.optimizer.parameters, *self.value_optimizer.parameters):
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        filled = sum(lengths[row] for row in rows)
        return {
            **sums,
            "entropy": float((tokens.entropy[rows] * mask).sum() / count),
            "ratio_mean": float((tokens.ratio[rows] * mask).sum() / count),
            "padding": (cells - filled) / filled,
        }

    def _about(self, batch: Batch, given: Experience) -> dict[str, Any]:
        """The rollout's own numbers; moves an adaptive KL coefficient on."""
        mask, learned = batch.mask, given.mask  # [N, T] both
        count = learned.sum().clamp(min=1)
        gap = (batch.logp_engine - given.logp_old)[mask].abs()  # [tokens] nats
        judged, explained = learned.any(-1), explained_variance(given.values, given.returns, learned)
        values: dict[str, Any] = {
            "score": float(given.scores[judged].mean()) if judged.any() else None,
            "value": float((given.values * learned).sum() / count),
            "return": float((given.returns * learned).sum() / count),
            "explained_variance": None if math.isnan(explained) else explained,
            "kl": None if given.kl is None else float(given.kl.sum() / mask.sum().clamp(min=1)),
            "kl_coef": self.kl.value if given.kl is not None else None,
            "kl_completion": None,
            "dead_groups": None,  # there are none: the baseline is V, not the group
            "engine_gap": float(gap.mean()),
            "engine_gap_max": float(gap.max()),
            "seconds/estimate": given.seconds,
        }
        if given.logp_ref is not None:
            apart = torch.where(mask, given.logp_old - given.logp_ref, 0.0).sum(-1)  # [N] nats a completion
            values["kl_completion"] = float(apart.mean())
            self.kl.update(values["kl_completion"], len(batch))
        mode = self.args.vllm_importance_sampling_mode
        return values | mismatch_statistics(given.logp_old, batch.logp_engine, mask, mode=mode, **self._clip)

    def state_dict(self) -> dict[str, Any]:
        return {
            **super().state_dict(),
            "value_optimizer": self.value_optimizer.state_dict(),
            "value_model": self.values.trained_state(),
            "kl_coef": self.kl.value,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.values.load_trained_state(state["value_model"])
        super().load_state_dict(state)
        self.value_optimizer.load_state_dict(state["value_optimizer"])
        self.kl.value = state["kl_coef"]
