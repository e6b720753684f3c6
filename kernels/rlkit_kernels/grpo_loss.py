"""The policy loss and its gradient in one kernel: the second form of `rlkit.objectives.policy_loss`.

The forward pass computes the gradient too, so the backward pass is one product. Here is what goes around the kernel;
the kernel and its formulas are in `rlkit_kernels.loss_kernel`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from rlkit_kernels.loss_kernel import INTERPRETED, configuration, loss_kernel, variants

__all__ = ["GrpoLoss", "Totals", "grpo_loss", "variants"]

LOSS_TYPES = ("grpo", "bnpo", "dr_grpo", "dapo", "gspo")
IMPORTANCE_SAMPLING_LEVELS = ("token", "sequence")
KL_ESTIMATORS = ("k1", "k2", "k3")

#: Columns of the kernel's sums, one row a completion; the last is w itself and is never summed.
_POLICY, _KL_PART, _ENTROPY_PART, _TOKENS, _LOW, _HIGH, _CAPPED, _KL, _WEIGHT = range(9)


class Totals(Protocol):
    """Counts over one optimizer batch, as `rlkit.objectives.LossTotals` has them."""

    @property
    def sequences(self) -> float: ...

    @property
    def tokens(self) -> float: ...


class GrpoLoss(NamedTuple):
    """The loss, and what a trainer logs. Everything but `loss` is detached; all float32, all on the device."""

    loss: Tensor  # []      minimise this; policy_part + kl_part + entropy_part
    policy_part: Tensor  # []
    kl_part: Tensor  # []
    entropy_part: Tensor  # []
    ratio: Tensor  # [N, T]  rho; a completion's own, repeated, at level "sequence"; 1 where masked
    tokens: Tensor  # []      active tokens of this micro-batch, the truncated completions' left out
    clipped_low: Tensor  # []      how many tokens have rho < 1 - eps and A < 0
    clipped_high: Tensor  # []      how many tokens have rho > 1 + eps_high and A > 0
    capped: Tensor  # []      how many tokens have rho > delta and A < 0
    kl: (
        Tensor | None
    )  # []      sum of the KL estimate (nats) over the active tokens; None without ref_logprobs


def grpo_loss(
    logprobs: Tensor,  # [N, T] float32
    old_logprobs: Tensor | None,  # [N, T]
    ref_logprobs: Tensor | None,  # [N, T]
    advantages: Tensor,  # [N] or [N, T]
    mask: Tensor,  # [N, T]
    *,
    entropy: Tensor | None = None,  # [N, T]
    is_weight: Tensor | None = None,  # [N], [N, 1] or [N, T]
    truncated: Tensor | None = None,  # [N] bool
    loss_type: str = "grpo",
    importance_sampling_level: str | None = None,
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
    delta: float | None = None,
    beta: float = 0.0,
    kl_estimator: str = "k3",
    use_bias_correction_kl: bool = False,
    entropy_coef: float = 0.0,
    max_completion_length: int | None = None,
    totals: Totals | None = None,
) -> GrpoLoss:
    """The loss of one micro-batch. Settings, defaults, formula and normalisers are those of `policy_loss`.

        loss = sum over i, t of w[i, t] * ( policy[i, t] + beta * KL[i, t] - entropy_coef * H[i, t] )
        policy = -is_weight * min( min(rho, delta) * A,  clip(rho, 1 - eps, 1 + eps_high) * A )

    logprobs, old_logprobs, ref_logprobs, entropy: nats; gradients reach `logprobs` and `entropy` alone.
    old_logprobs None means on-policy, ref_logprobs None no KL (then beta must be 0). mask: non-zero where a token
    counts; what lies elsewhere, inf and nan included, is not even read. truncated: completions that were cut off
    at the length limit; their tokens are masked (DAPO's overlong filtering), they still count in N.

    Differs from `policy_loss` in four points. It is float32 only: logprobs of another type are refused, every
    other tensor is converted. Clipped tokens, capped tokens and KL come as sums over the micro-batch, not as
    [N, T]. It does not warn about settings that cannot do what they look like. And where a clipped token's rho
    overflows (log-ratio above 88) its gradient is 0; automatic differentiation makes it 0 * inf = nan.

    Extra memory: 8 N T bytes (gradient and ratio) + 36 N, and another 4 N T while the backward pass runs.
    Deterministic: every sum has one order. The host never waits for the device.

    Raises ValueError for unknown names, shapes, types or devices that do not fit, a missing tensor, or settings
    that contradict each other.
    """
    level = _level(loss_type, importance_sampling_level)
    _check_tensors(logprobs, old_logprobs, ref_logprobs, advantages, mask, entropy, is_weight, truncated)
    high_eps = epsilon if epsilon_high is None else epsilon_high
    _check_settings(epsilon, high_eps, delta, beta, kl_estimator, entropy_coef, ref_logprobs, entropy)

    active = (mask if mask.dtype == torch.bool else mask != 0).contiguous()  # [N, T]
    cut = None if truncated is None else truncated.to(torch.bool).contiguous()  # [N]
    if is_weight is not None and is_weight.dim() == 2 and is_weight.shape[1] == 1:
        is_weight = is_weight[:, 0]  # [N]
    call = _Call(
        old=None if old_logprobs is None else _plain(old_logprobs),
        ref=None if ref_logprobs is None else _plain(ref_logprobs),
        advantages=_plain(advantages),
        is_weight=None if is_weight is None else _plain(is_weight),
        active=active,
        cut=cut,
        inverse=_inverse(logprobs, active, cut, loss_type, max_completion_length, totals),
        by_length=loss_type in ("grpo", "gspo"),
        sequence=level == "sequence",
        low=1 - epsilon,
        high=1 + high_eps,
        delta=math.inf if delta is None else delta,
        beta=beta,
        kl_kind=KL_ESTIMATORS.index(kl_estimator) + 1,
        corrected=use_bias_correction_kl,
        entropy_coef=entropy_coef,
    )
    with torch.cuda.device_of(logprobs):
        loss, sums, ratio = _Loss.apply(logprobs, entropy if entropy_coef != 0 else None, call)
    return GrpoLoss(
        loss,
        *sums[:_TOKENS].unbind(),
        ratio,
        *sums[_TOKENS:_KL].unbind(),
        None if ref_logprobs is None else sums[_KL],
    )


# ---------------------------------------------------------------------- around it


class _Call(NamedTuple):
    """What one call asks for; the tensors are float32, detached, and contiguous along tokens."""

    old: Tensor | None  # [N, T]
    ref: Tensor | None  # [N, T]
    advantages: Tensor  # [N] or [N, T]
    is_weight: Tensor | None  # [N] or [N, T]
    active: Tensor  # [N, T] bool
    cut: Tensor | None  # [N] bool
    inverse: Tensor  # [1]
    by_length: bool
    sequence: bool
    low: float
    high: float
    delta: float
    beta: float
    kl_kind: int
    corrected: bool
    entropy_coef: float


def _launch(new: Tensor, entropy: Tensor | None, call: _Call) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient [N, T], ratio [N, T] and sums [N, 9]."""
    rows, tokens = new.shape
    gradient, ratio = (
        new.new_empty(rows, tokens),
        new.new_empty(rows, tokens),
    )  # apart: they do not die together
    sums = new.new_empty(rows, 9)
    # A tensor that was not given stands for itself: rho = exp(new - new) = 1, KL(new, new) = 0, 0 * entropy.
    old = new if call.old is None else call.old
    ref = new if call.ref is None else call.ref
    given = new if entropy is None else entropy
    weight = new.new_ones(1) if call.is_weight is None else call.is_weight
    cut = call.active if call.cut is None else call.cut
    block, warps = configuration()
    if rows and tokens:
        loss_kernel[(rows,)](
            new,
            old,
            ref,
            given,
            call.advantages,
            weight,
            call.active.view(torch.uint8),
            cut.view(torch.uint8),
            call.inverse,
            gradient,
            ratio,
            sums,
            tokens,
            *(x.stride(0) for x in (new, old, ref, given, call.advantages)),
            0 if call.is_weight is None else weight.stride(0),
            int(call.cut is not None),
            int(call.by_length),
            call.kl_kind,
            int(call.corrected),
            call.low,
            call.high,
            call.delta,
            call.beta,
            call.entropy_coef,
            SEQUENCE=call.sequence,
            ADVANTAGE_STEP=call.advantages.dim() - 1,
            WEIGHT_STEP=weight.dim() - 1,
            BLOCK=block,
            num_warps=warps,
            num_stages=1,
        )
    else:
        sums.zero_()
    return gradient, ratio, sums


class _Loss(torch.autograd.Function):
    """Saves ∂loss/∂logprobs [N, T]; with an entropy gradient also the mask [N, T] and w [N]."""

    @staticmethod
    def forward(
        ctx: Any, logprobs: Tensor, entropy: Tensor | None, call: _Call
    ) -> tuple[Tensor, Tensor, Tensor]:
        gradient, ratio, sums = _launch(_plain(logprobs), None if entropy is None else _plain(entropy), call)
        totals = sums.sum(0)  # [9]
        loss = totals[:_TOKENS].sum()  # []
        ctx.mark_non_differentiable(totals, ratio)
        ctx.set_materialize_grads(False)  # no zeros [N, T] for the ratio
        ctx.entropy_coef = call.entropy_coef
        ctx.entropy_dtype = None if entropy is None else entropy.dtype
        by_entropy = (call.active, sums[:, _WEIGHT]) if ctx.needs_input_grad[1] else (None, None)
        ctx.save_for_backward(gradient, *by_entropy)
        return loss, totals, ratio

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        g = gradients[0]
        if g is None:
            return None, None, None
        gradient, active, w = ctx.saved_tensors
        by_entropy = None
        if active is not None:
            by_entropy = torch.where(active, (-ctx.entropy_coef * g * w)[:, None], 0.0)  # [N, T]
            by_entropy = by_entropy.to(ctx.entropy_dtype)
        return gradient * g if ctx.needs_input_grad[0] else None, by_entropy, None


def _plain(x: Tensor) -> Tensor:
    """Float32, detached, and with tokens side by side; the same memory where it already is."""
    x = x.detach().to(torch.float32)
    return x if x.stride(-1) == 1 else x.contiguous()


def _inverse(
    like: Tensor,  # [N, T]
    active: Tensor,  # [N, T]
    cut: Tensor | None,  # [N]
    loss_type: str,
    max_completion_length: int | None,
    totals: Totals | None,
) -> Tensor:
    """1 / N, 1 / tokens or 1 / (N max_completion_length) as [1] on the device; "grpo" divides by the length too."""
    sequences = max(like.shape[0] if totals is None else totals.sequences, 1)
    if loss_type in ("bnpo", "dapo"):
        if totals is None:  # counted on the device, where the count also stays
            counted = active if cut is None else active & ~cut[:, None]
            return counted.sum().clamp(min=1).reciprocal().to(torch.float32).reshape(1)
        divisor = max(totals.tokens, 1)
    elif loss_type == "dr_grpo":
        if max_completion_length is None or max_completion_length < 1:
            allowed = 'a whole number of tokens above 0 with loss_type="dr_grpo"'
            raise _refuse("max_completion_length", max_completion_length, allowed)
        divisor = sequences * max_completion_length
    else:
        divisor = sequences
    return torch.full((1,), 1 / divisor, dtype=torch.float32, device=like.device)


def _refuse(argument: str, value: object, allowed: str, cause: str = "") -> ValueError:
    message = f"{argument}={value!r} is not usable. Allowed: {allowed}."
    return ValueError(f"{message} {cause}" if cause else message)


def _level(loss_type: str, level: str | None) -> str:
    if loss_type not in LOSS_TYPES:
        raise _refuse("loss_type", loss_type, ", ".join(LOSS_TYPES))
    if level is None:
        return "sequence" if loss_type == "gspo" else "token"
    if level not in IMPORTANCE_SAMPLING_LEVELS:
        raise _refuse("importance_sampling_level", level, ", ".join(IMPORTANCE_SAMPLING_LEVELS))
    if loss_type == "gspo" and level == "token":
        raise _refuse("importance_sampling_level", level, '"sequence" (or None) with loss_type="gspo"')
    return level


def _check_tensors(
    logprobs: Tensor,
    old_logprobs: Tensor | None,
    ref_logprobs: Tensor | None,
    advantages: Tensor,
    mask: Tensor,
    entropy: Tensor | None,
    is_weight: Tensor | None,
    truncated: Tensor | None,
) -> None:
    """Shapes, type and device, before any work."""
    shape = tuple(logprobs.shape)
    if len(shape) != 2 or logprobs.dtype != torch.float32:
        cause = "rlkit.objectives.policy_loss takes every floating-point type."
        raise _refuse("logprobs", f"{shape}, {logprobs.dtype}", "float32 of shape [N, T]", cause)
    if not (logprobs.is_cuda or INTERPRETED):
        cause = "On the CPU: rlkit.objectives.policy_loss, or TRITON_INTERPRET=1 before triton is imported."
        raise _refuse("logprobs.device", str(logprobs.device), "a CUDA device", cause)
    rows = shape[:1]
    wanted = {
        "old_logprobs": (old_logprobs, (shape,)),
        "ref_logprobs": (ref_logprobs, (shape,)),
        "advantages": (advantages, (rows, shape)),
        "mask": (mask, (shape,)),
        "entropy": (entropy, (shape,)),
        "is_weight": (is_weight, (rows, (*rows, 1), shape)),
        "truncated": (truncated, (rows,)),
    }
    for name, (tensor, shapes) in wanted.items():
        if tensor is None:
            continue
        if tuple(tensor.shape) not in shapes:
            allowed = " or ".join(str(list(s)) for s in shapes)
            raise _refuse(f"{name}.shape", list(tensor.shape), f"{allowed}, since logprobs is {list(shape)}")
        if tensor.device != logprobs.device:
            raise _refuse(f"{name}.device", str(tensor.device), f"that of logprobs, {logprobs.device}")


def _check_settings(
    epsilon: float,
    epsilon_high: float,
    delta: float | None,
    beta: float,
    kl_estimator: str,
    entropy_coef: float,
    ref_logprobs: Tensor | None,
    entropy: Tensor | None,
) -> None:
    for name, value in (("epsilon", epsilon), ("epsilon_high", epsilon_high)):
        if not value >= 0:
            raise _refuse(name, value, "a number, 0 or more")
    if delta is not None and not delta > 1 + epsilon_high:
        raise _refuse("delta", delta, f"above 1 + epsilon_high = {1 + epsilon_high:g}, or None")
    if kl_estimator not in KL_ESTIMATORS:
        raise _refuse("kl_estimator", kl_estimator, ", ".join(KL_ESTIMATORS))
    if not (math.isfinite(beta) and beta >= 0):
        raise _refuse("beta", beta, "a finite number, 0 or more")
    if not math.isfinite(entropy_coef):
        raise _refuse("entropy_coef", entropy_coef, "a finite number")
    if beta > 0 and ref_logprobs is None:
        raise _refuse("beta", beta, "0 without ref_logprobs", "KL compares with the reference policy.")
    if entropy_coef != 0 and entropy is None:
        raise _refuse("entropy_coef", entropy_coef, "0 without entropy", "The bonus needs each token's H.")
