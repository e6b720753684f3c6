"""AdamW with a schedule and a clipped gradient, over the parameters that are trained.

bfloat16 has 8 significant bits: a step below about 0.4 % of a weight would be rounded away, a sum over many
micro-batches loses its small terms, and Adam's second moment would hardly decay. So weights that are trained in 16 bits
have **master weights** in float32: gradients add up there, AdamW moves them, and the model gets their rounded values
(Micikevicius et al. 2018, "Mixed Precision Training", arXiv:1710.03740). A trained weight then takes 18 bytes (2 in the
model, and 4 each of master, gradient and Adam's two moments) where one in float32 takes 16.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch

from rlkit.config import ConfigWarning, TrainingSettings
from rlkit.interrupts import interrupts_held


class Optimizer:
    """One optimizer step at a time; a gradient that is not finite is never applied.

    Args:
        model: its parameters with ``requires_grad`` are trained.
        args: learning rate, schedule, AdamW's numbers and the largest gradient norm.
        total_steps: steps of the whole run, for the schedule.
        updates_per_step: optimizer steps a step.
    """

    def __init__(
        self, model: Any, args: TrainingSettings, total_steps: int, updates_per_step: int = 1
    ) -> None:
        self.args = args
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if any(parameter.dtype == torch.float16 for parameter in trained):
            warnings.warn(
                "the weights that are trained are in float16: gradients below 6e-8 become 0 before they reach the "
                "float32 master weights. Load the model with dtype='bfloat16', which has float32's range, or 'float32'",
                ConfigWarning,
                stacklevel=4,
            )
        # 16-bit weight → its float32 master
        self.masters = {p: p.detach().float() for p in trained if p.dtype in (torch.bfloat16, torch.float16)}
        self.parameters = [self.masters.get(parameter, parameter) for parameter in trained]
        self.adamw = torch.optim.AdamW(
            self.parameters,
            lr=args.learning_rate,
            betas=(args.adam_beta1, args.adam_beta2),
            eps=args.adam_epsilon,
            weight_decay=args.weight_decay,
            fused=True,
        )
        warmup, total = args.warmup_steps * updates_per_step, total_steps * updates_per_step
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.adamw, lambda update: learning_rate_share(args.lr_scheduler_type, update, warmup, total)
        )

    def collect(self) -> None:
        """Add the 16-bit gradients of a micro-batch to those of the master weights; nothing to do without any."""
        for parameter, master in self.masters.items():
            if parameter.grad is not None:
                gradient = parameter.grad.float()
                master.grad = gradient if master.grad is None else master.grad.add_(gradient)
                parameter.grad = None

    def step(self) -> dict[str, Any]:
        """Clip the gradient and apply it, or leave the step out where it is not finite; then clear it.

        Returns:
            ``grad_norm`` before clipping, ``learning_rate`` of this step, ``skipped``.
        """
        self.collect()
        limit = self.args.max_grad_norm or float("inf")
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, limit))
        finite = norm < float("inf")  # False for NaN as well
        values = {
            "grad_norm": norm,
            "learning_rate": self.schedule.get_last_lr()[0],
            "skipped": not finite,
        }
        if finite:
            with interrupts_held():
                self.adamw.step()
                self._round()
                self.schedule.step()
        self.clear()
        return values

    def clear(self) -> None:
        """Drop the gradient."""
        for parameter in self.masters:
            parameter.grad = None
        self.adamw.zero_grad(set_to_none=True)

    @torch.no_grad()
    def _round(self) -> None:
        """Give the model its master weights' rounded values."""
        for parameter, master in self.masters.items():
            parameter.copy_(master)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: Adam's moments, the place in the schedule, and master weights if there are any."""
        state: dict[str, Any] = {"adamw": self.adamw.state_dict(), "schedule": self.schedule.state_dict()}
        if self.masters:
            state["masters"] = list(self.masters.values())
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` gave; the model's own weights are in place already."""
        saved = state.get("masters") or list(self.masters)  # a checkpoint from before there were any
        for master, value in zip(self.masters.values(), saved, strict=True):
            master.copy_(value.detach())
        self.adamw.load_state_dict(state["adamw"])
        self.schedule.load_state_dict(state["schedule"])
        done = self.schedule.last_epoch  # max_steps, and with it the schedule, may have changed since
        rates = [
            base * share(done)
            for base, share in zip(self.schedule.base_lrs, self.schedule.lr_lambdas, strict=True)
        ]
        for group, rate in zip(self.adamw.param_groups, rates, strict=True):
            group["lr"] = rate
        self.schedule._last_lr = rates


def learning_rate_share(kind: str, update: int, warmup: int, total: int) -> float:
    """The learning rate of optimizer step ``update`` (from 0), as a share of the peak.

    It rises linearly over ``warmup`` optimizer steps; then, with x from 0 to 1 over the rest of ``total``,

        constant, constant_with_warmup: 1      linear: 1 − x      cosine: (1 + cos πx) / 2

    The same numbers as transformers' ``get_scheduler``, whose import loads peft and bitsandbytes.
    """
    if update < warmup and kind != "constant":
        return update / max(1, warmup)
    if kind.startswith("constant"):
        return 1.0
    x = min(1.0, (update - warmup) / max(1, total - warmup))
    return 1 - x if kind == "linear" else 0.5 * (1 + math.cos(math.pi * x))
