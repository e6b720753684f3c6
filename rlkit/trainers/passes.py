"""Forward passes over a batch, in micro-batches: what the updates of GRPO and PPO share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch

from rlkit.config import RolloutSettings
from rlkit.logprobs import completion_logprobs
from rlkit.rollout import Batch, unpack
from rlkit.trainers.checkpointing import gradient_checkpointing
from rlkit.trainers.micro_batches import micro_batches, token_budget
from rlkit.trainers.optimizer import Optimizer


class BatchPasses:
    """The policy with its optimizer, and log-probabilities of a batch under it or its reference.

    Args:
        model: the policy π_θ.
        args: the settings of loss and optimizer.
        total_steps: steps (rollouts) of the whole run, for the learning-rate schedule.
        reference: ``with reference() as model:`` gives π_ref for the KL term; None without one.
    """

    def __init__(
        self,
        model: Any,
        args: RolloutSettings,
        total_steps: int,
        reference: Callable[[], AbstractContextManager[Any]] | None = None,
    ) -> None:
        self.model: Any = model
        self.args: Any = args
        self.reference = reference
        self.per_rollout = args.updates_per_rollout  # optimizer steps
        self.optimizer = Optimizer(model, args, total_steps, self.per_rollout)
        self.taken = 0  # optimizer steps of an update that the trainer has not counted as a step yet
        self.recomputing = gradient_checkpointing(model, args.gradient_checkpointing)
        self.max_tokens = token_budget(args.micro_batch_tokens, model, args.gradient_checkpointing)
        inexact = model.dtype in (torch.bfloat16, torch.float16) or model.device.type != "cpu"
        asked = args.vllm_importance_sampling_correction
        self.corrects_mismatch = inexact if asked is None else asked

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps beside the policy's weights."""
        return {"optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` gave."""
        self.optimizer.load_state_dict(state["optimizer"])

    @property
    def _clip(self) -> dict[str, float | None]:
        return {
            "clip_max": self.args.vllm_importance_sampling_clip_max,
            "clip_min": self.args.vllm_importance_sampling_clip_min,
        }

    def _micro_batches(self, lengths: Sequence[int]) -> list[list[int]]:
        return micro_batches(
            lengths, max_tokens=self.max_tokens, max_rows=self.args.per_device_train_batch_size
        )

    def _logprobs(
        self,
        model: Any,
        batch: Batch,
        index: torch.Tensor,
        entropy_grad: bool = False,
        entropy: bool = True,
        hidden: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, Any, int]:
        """Log-probabilities and entropies [n, T] of the rows ``index`` [n]; the width W of their rectangle.

        ``hidden``: the model's hidden states [n, W, H] of these rows, where they are there already.
        """
        ids, attention, scored = batch.packed(index)  # [n, W] each
        result = completion_logprobs(
            model,
            ids,
            attention,
            scored,
            temperature=self.args.temperature,
            return_entropy=entropy,
            entropy_grad=entropy_grad,
            hidden=hidden,
        )
        mask = batch.mask[index]  # [n, T]
        entropies = unpack(result.entropy, scored, mask) if result.entropy is not None else None
        return unpack(result.logprobs, scored, mask), entropies, ids.shape[1]

    @torch.no_grad()
    def _whole_batch(self, model: Any, batch: Batch) -> torch.Tensor:
        """log π of every completion token under ``model``'s present weights, [N, T]."""
        logp = torch.zeros(batch.mask.shape, device=batch.mask.device)
        for chosen in self._micro_batches(batch.lengths):
            index = torch.tensor(chosen, device=logp.device)
            logp[index] = self._logprobs(model, batch, index, entropy=False)[0].to(logp.dtype)
        return logp

    def _reference_logprobs(self, batch: Batch) -> torch.Tensor | None:
        """log π_ref of every completion token, [N, T]; None without a KL term."""
        if self.reference is None:
            return None
        with self.reference() as model:
            return self._whole_batch(model, batch)


def mean_of(values: list[Any]) -> Any:
    """The mean of numbers; None where there are none."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
