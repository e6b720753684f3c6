"""The policy loss: the one that every trainer and every notebook calls.

It reads top to bottom as the formula does: ratio, clipped term, KL term, entropy term, weights, sum.
"""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from rlkit.errors import bad_value, unknown_name
from rlkit.objectives.kl import kl_estimate
from rlkit.objectives.names import KL_ESTIMATORS, WIDEST_SEQUENCE_EPSILON, resolve_level
from rlkit.objectives.normalisers import LossTotals, token_weights
from rlkit.objectives.ratios import clipped_term, importance_ratio


class ObjectiveWarning(UserWarning):
    """A setting that is allowed, but does not do what it looks like."""


class PolicyLoss(NamedTuple):
    """The loss, and what it was made of. Everything but `loss` is detached."""

    loss: Tensor  # []      minimise this; policy_part + kl_part + entropy_part
    policy_part: Tensor  # []      what the clipped terms add to the loss
    kl_part: Tensor  # []      what beta * KL adds
    entropy_part: Tensor  # []      what the entropy bonus adds (below 0)
    ratio: Tensor  # [N, T]  rho; a completion's own, repeated, at level "sequence"; 1 where masked
    log_ratio: Tensor  # [N, T]  logp_new - logp_old of each token, nats; 0 where masked
    clipped_low: Tensor  # [N, T]  bool: rho < 1 - eps and A < 0
    clipped_high: Tensor  # [N, T]  bool: rho > 1 + eps_high and A > 0
    capped: Tensor  # [N, T]  bool: rho > delta and A < 0
    kl: Tensor | None  # [N, T]  the KL estimate (nats), before beta and ratio; None without logp_ref


def policy_loss(
    logp_new: Tensor,  # [N, T]
    logp_old: Tensor | None,  # [N, T]
    advantages: Tensor,  # [N] or [N, T]
    mask: Tensor,  # [N, T]
    *,
    logp_ref: Tensor | None = None,  # [N, T]
    entropy: Tensor | None = None,  # [N, T]
    is_weight: Tensor | None = None,  # [N], [N, 1] or [N, T]
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
    totals: LossTotals | None = None,
) -> PolicyLoss:
    """The loss of one micro-batch, from log-probabilities of the tokens that were sampled.

        loss = sum over i, t of w[i, t] * ( policy[i, t] + beta * KL[i, t] - entropy_coef * H[i, t] )
        policy = -is_weight * min( min(rho, delta) * A,  clip(rho, 1 - eps, 1 + eps_high) * A )

    Tensors (log-probabilities and H in nats):
      logp_new: under the policy in training, [N, T]; the gradient flows through these.
      logp_old: under the trainer's policy when the batch was sampled, [N, T]; detached here. None means
        on-policy: logp_new, detached.
      advantages: A, one a completion [N] or one a token [N, T]; detached.
      mask: [N, T], non-zero where a token counts. Whatever lies elsewhere, inf and nan included, reaches
        neither value nor gradient.
      logp_ref: under the reference policy, [N, T]; needed when beta > 0, else only reported as `kl`.
      entropy: H, [N, T]; needed when entropy_coef is not 0.
      is_weight: [N], [N, 1] or [N, T], detached; multiplies the policy term alone, before KL is added. What
        `mismatch_weight` returns, or 0 and 1 to train on some tokens only.

    Settings:
      loss_type: the weights w (`token_weights`); "gspo" is "grpo" with sequence-level ratios.
      importance_sampling_level: "token" or "sequence" (`importance_ratio`); None: what loss_type implies.
      epsilon, epsilon_high, delta: the clip range of rho, without a unit (`clipped_term`).
      beta, kl_estimator: weight and form of the KL term (`kl_estimate`, which says what its gradient is).
      use_bias_correction_kl: multiply the KL term by rho, whose gradient makes the expected gradient of k1
        and k3 the reverse KL's, also on-policy (exact for "token" ratios).
      entropy_coef: weight of the entropy bonus.
      max_completion_length: tokens; needed by "dr_grpo".
      totals: counts of the whole optimizer batch; None takes this micro-batch for all of it. With totals,
        losses and gradients of micro-batches add up to those of the batch, however it is cut: never divide
        by the number of accumulation steps as well.

    The value on-policy (rho = 1), with beta = 0 and advantages that sum to 0 in each group: "grpo" and
    "gspo" give 0.0, because every completion weighs the same and -A averages to 0. Their gradient,
    -A / (N * |o_i|) for each token's log-probability, is the policy gradient and is not 0. "dapo", "bnpo"
    and "dr_grpo" weigh completions by length and give 0 only where lengths are equal. So a loss of 0.000
    does not mean that nothing is learned: watch the gradient's norm.

    Where sources differ: clipping, delta, KL and is_weight follow TRL 1.16. Its use_bias_correction_kl is on
    unless switched off (DeepSeek-V3.2, arXiv:2512.02556); here it is off, as in the GRPO paper. Its
    entropy bonus is a mean over tokens whatever the loss type; here the bonus is normalised as the rest of
    the loss is (the same thing for "dapo" and "bnpo").

    Returns `PolicyLoss`; sums are in float32, or in the type of logp_new where that is wider.
    Raises ConfigError for unknown names, differing shapes, a missing tensor, or settings that contradict
    each other. Warns (`ObjectiveWarning`) where a setting cannot do what it looks like.

    Sources: PPO (arXiv:1707.06347), GRPO (arXiv:2402.03300), Dr. GRPO (arXiv:2503.20783), DAPO
    (arXiv:2503.14476), GSPO (arXiv:2507.18071); "bnpo" after TRL's use of the name.
    """
    level = resolve_level(loss_type, importance_sampling_level)
    _check_tensors(logp_new, logp_old, advantages, mask, logp_ref, entropy, is_weight)
    _check_settings(beta, kl_estimator, entropy_coef, logp_ref, entropy)
    _warn_about_settings(
        level,
        epsilon,
        epsilon_high,
        beta,
        kl_estimator,
        use_bias_correction_kl,
        entropy_coef,
        entropy,
        logp_new,
    )

    active = mask != 0  # [N, T]
    compute = torch.promote_types(logp_new.dtype, torch.float32)

    def clean(x: Tensor) -> Tensor:  # [N, T]; done before any exp, so that masked garbage has no gradient
        return torch.where(active, x.to(compute), 0.0)

    new = clean(logp_new)  # [N, T]
    old = new.detach() if logp_old is None else clean(logp_old.detach())  # [N, T]
    a = clean(_per_token(advantages, active))  # [N, T]; 0 where masked, so that nothing is clipped there

    log_ratio = new - old  # [N, T]
    ratio = importance_ratio(log_ratio, active, level)  # [N, T] or [N, 1]
    term = clipped_term(ratio, a, epsilon=epsilon, epsilon_high=epsilon_high, delta=delta)
    policy_term = -term.objective  # [N, T]
    if is_weight is not None:
        policy_term = policy_term * clean(_per_token(is_weight, active))  # [N, T]

    w = token_weights(
        active, loss_type, totals=totals, max_completion_length=max_completion_length, dtype=compute
    )  # [N, T]
    policy_part = (w * policy_term).sum()  # []
    kl_part = entropy_part = torch.zeros((), dtype=compute, device=new.device)  # []
    kl = None
    if logp_ref is not None:
        kl = kl_estimate(new, clean(logp_ref), kl_estimator)  # [N, T]
        if beta != 0:
            kl_part = beta * (w * (kl * ratio if use_bias_correction_kl else kl)).sum()  # []
    if entropy is not None and entropy_coef != 0:
        entropy_part = -entropy_coef * (w * clean(entropy)).sum()  # []

    return PolicyLoss(
        loss=policy_part + kl_part + entropy_part,
        policy_part=policy_part.detach(),
        kl_part=kl_part.detach(),
        entropy_part=entropy_part.detach(),
        ratio=torch.where(active, ratio.detach(), 1.0),
        log_ratio=log_ratio.detach(),
        clipped_low=term.low,
        clipped_high=term.high,
        capped=term.capped,
        kl=None if kl is None else kl.detach(),
    )


def _per_token(x: Tensor, like: Tensor) -> Tensor:
    """Repeat [N] or [N, 1] along the tokens of `like` [N, T]; [N, T] stays. Detached."""
    x = x.detach()
    return (x[:, None] if x.dim() == 1 else x).expand_as(like)  # [N, T]


def _check_tensors(
    logp_new: Tensor,
    logp_old: Tensor | None,
    advantages: Tensor,
    mask: Tensor,
    logp_ref: Tensor | None,
    entropy: Tensor | None,
    is_weight: Tensor | None,
) -> None:
    shape = tuple(logp_new.shape)
    if len(shape) != 2 or not logp_new.is_floating_point():
        raise bad_value("logp_new", f"{shape}, {logp_new.dtype}", "a floating-point tensor of shape [N, T]")
    rows = shape[0]
    full = {"logp_old": logp_old, "mask": mask, "logp_ref": logp_ref, "entropy": entropy}
    for name, tensor in full.items():
        if tensor is not None and tuple(tensor.shape) != shape:
            raise bad_value(name, tuple(tensor.shape), f"the shape of logp_new, {shape}")
    if tuple(advantages.shape) not in ((rows,), shape):
        raise bad_value(
            "advantages",
            tuple(advantages.shape),
            f"[N] = {(rows,)} or [N, T] = {shape}",
            "Advantages [P, G] are flattened first: values.flatten().",
        )
    if is_weight is not None and tuple(is_weight.shape) not in ((rows,), (rows, 1), shape):
        raise bad_value("is_weight", tuple(is_weight.shape), f"[N], [N, 1] or [N, T] = {shape}")


def _check_settings(
    beta: float, kl_estimator: str, entropy_coef: float, logp_ref: Tensor | None, entropy: Tensor | None
) -> None:
    if kl_estimator not in KL_ESTIMATORS:
        raise unknown_name("kl_estimator", kl_estimator, KL_ESTIMATORS)
    if not (math.isfinite(beta) and beta >= 0):
        raise bad_value(
            "beta", beta, "a finite number, 0 or more", "Below 0 it rewards leaving the reference."
        )
    if not math.isfinite(entropy_coef):
        raise bad_value("entropy_coef", entropy_coef, "a finite number")
    if beta > 0 and logp_ref is None:
        raise bad_value("beta", beta, "0 without logp_ref", "KL compares with the reference policy.")
    if entropy_coef != 0 and entropy is None:
        raise bad_value("entropy_coef", entropy_coef, "0 without entropy", "The bonus needs each token's H.")


def _warn_about_settings(
    level: str,
    epsilon: float,
    epsilon_high: float | None,
    beta: float,
    kl_estimator: str,
    use_bias_correction_kl: bool,
    entropy_coef: float,
    entropy: Tensor | None,
    logp_new: Tensor,
) -> None:
    def warn(message: str) -> None:
        warnings.warn(message, ObjectiveWarning, stacklevel=4)

    widest = max(epsilon, epsilon if epsilon_high is None else epsilon_high)
    if level == "sequence" and WIDEST_SEQUENCE_EPSILON < widest < math.inf:
        warn(
            f"epsilon {widest:g} never clips a sequence-level ratio, which is a mean over the completion and "
            "stays within about 1e-3 of 1. The GSPO paper uses epsilon=3e-4, epsilon_high=4e-4."
        )
    if beta > 0 and kl_estimator == "k1" and not use_bias_correction_kl:
        warn(
            f"beta={beta:g} with kl_estimator='k1' adds noise only: the expected gradient of k1 in a loss is "
            "0. Use 'k2' or 'k3', or subtract k1 from the reward."
        )
    training = torch.is_grad_enabled() and logp_new.requires_grad
    if entropy_coef != 0 and training and entropy is not None and not entropy.requires_grad:
        warn(
            f"entropy_coef={entropy_coef:g} changes the loss's value but trains nothing: this entropy "
            "carries no gradient. Compute it with gradients switched on."
        )
