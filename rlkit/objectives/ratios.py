"""Ratios of policies, and what clipping does to them.

Three policies are easily confused. pi_new is being trained; pi_old is the trainer's policy when the batch
was sampled; pi_engine is what the generation engine computed for the same weights, in its own arithmetic.
rho = pi_new / pi_old is clipped; pi_old / pi_engine is a weight (`mismatch_weight`).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from rlkit.errors import bad_value, unknown_name
from rlkit.objectives.names import IMPORTANCE_SAMPLING_LEVELS, MISMATCH_MODES

LARGEST_LOG_RATIO = 80.0
"""A larger one counts as this: exp would overflow float32, and a clipped token's gradient be 0 · ∞, not a number."""


class ClippedTerm(NamedTuple):
    """The clipped objective (to be maximised), and where clipping took the gradient away."""

    objective: Tensor  # [N, T] or [N, 1]  min(min(rho, delta) * A, clip(rho) * A)
    low: Tensor  # bool: rho < 1 - eps and A < 0
    high: Tensor  # bool: rho > 1 + eps_high and A > 0
    capped: Tensor  # bool: rho > delta and A < 0


def importance_ratio(
    log_ratio: Tensor,  # [N, T]  logp_new - logp_old, 0 where masked
    mask: Tensor,  # [N, T]
    level: str = "token",
) -> Tensor:  # [N, T] or [N, 1]
    """The ratio rho = pi_new / pi_old of each token, or of each completion.

        token:    rho[i, t] = exp(log_ratio[i, t])                                    [N, T]
        sequence: rho[i]    = exp(mean of log_ratio[i] over the active tokens)        [N, 1]

    log_ratio: nats, finite everywhere; above 80 (`LARGEST_LOG_RATIO`) it counts as 80. Returns ratios without a
    unit; 1 for a completion without active tokens. Raises ConfigError for an unknown level. Sources: PPO
    (arXiv:1707.06347) for "token"; GSPO (arXiv:2507.18071) for "sequence", whose ratio is the length-normalised
    one (a geometric mean), not the product of the tokens' ratios.
    """
    if level not in IMPORTANCE_SAMPLING_LEVELS:
        raise unknown_name("importance_sampling_level", level, IMPORTANCE_SAMPLING_LEVELS)
    if level == "token":
        return torch.exp(log_ratio.clamp(max=LARGEST_LOG_RATIO))
    active = mask != 0  # [N, T]
    lengths = active.sum(dim=1, keepdim=True).clamp(min=1)  # [N, 1]
    mean = torch.where(active, log_ratio, 0.0).sum(dim=1, keepdim=True) / lengths  # [N, 1]
    return torch.exp(mean.clamp(max=LARGEST_LOG_RATIO))


def clipped_term(
    ratio: Tensor,  # [N, T] or [N, 1]
    advantages: Tensor,  # [N, T] or [N, 1]
    *,
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
    delta: float | None = None,
) -> ClippedTerm:
    """PPO's pessimistic objective: min(min(rho, delta) * A, clip(rho, 1 - eps, 1 + eps_high) * A).

    ratio and advantages broadcast against each other; the result has their common shape. epsilon bounds rho
    from below where A < 0; epsilon_high (None: epsilon; DAPO, arXiv:2503.14476, uses 0.28) from above where
    A > 0. That leaves one side open: where A < 0 and rho grows, the term falls without limit. delta (None:
    no bound) closes it, as INTELLECT-2's two-sided clipping (arXiv:2505.07291) and TRL's `delta`.

    Where a bound applies, the term is constant and its gradient 0. Raises ConfigError for a negative
    epsilon or a delta that is not above 1 + epsilon_high (it would cut into the range that the clip leaves
    free).
    """
    high_eps = epsilon if epsilon_high is None else epsilon_high
    for name, value in (("epsilon", epsilon), ("epsilon_high", high_eps)):
        if not value >= 0:
            raise bad_value(name, value, "a number, 0 or more (0.2 in PPO and GRPO, 3e-4 in GSPO)")
    if delta is not None and not delta > 1 + high_eps:
        raise bad_value(
            "delta",
            delta,
            f"above 1 + epsilon_high = {1 + high_eps:g}, or None",
            "delta bounds the ratio itself, not its distance from 1.",
        )
    clipped = torch.clamp(ratio, 1 - epsilon, 1 + high_eps)
    bounded = ratio if delta is None else torch.clamp(ratio, max=delta)
    objective = torch.minimum(bounded * advantages, clipped * advantages)
    r = ratio.detach()
    low = (r < 1 - epsilon) & (advantages < 0)
    high = (r > 1 + high_eps) & (advantages > 0)
    capped = (r > (math.inf if delta is None else delta)) & (advantages < 0)
    return ClippedTerm(objective=objective, low=low, high=high, capped=capped)


@torch.no_grad()
def mismatch_weight(
    logp_old: Tensor,  # [N, T]
    logp_engine: Tensor,  # [N, T]
    mask: Tensor,  # [N, T]
    *,
    mode: str = "sequence_mask",
    clip_max: float | None = 3.0,
    clip_min: float | None = None,
) -> Tensor:  # [N, T]
    """Weight for tokens that the engine sampled from a slightly different policy than the trainer computes.

    With l = logp_old - logp_engine (nats) over the active tokens of a completion, the raw weight is

        token_*: exp(l[i, t])      sequence_*: exp(sum of l[i])      geometric_*: exp(mean of l[i])

    and *_truncate clamps it to [clip_min, clip_max], *_mask sets it to 0 outside. A None bound does not
    bind. Returns weights [N, T], without gradient, 1 where masked: the `is_weight` of `policy_loss`.

    A token without an engine log-probability (NaN) counts as l = 0, no correction. The modes token_* and
    sequence_*, the default and the bound of 3 are TRL's (vllm_importance_sampling_mode, _clip_max,
    _clip_min); truncation is from "Your efficient RL framework secretly brings you off-policy RL training"
    (F. Yao and others, 2025). A product over a completion drifts away from 1 with its length; geometric_*
    does not, and is the better filter for long ones.

    Raises ConfigError for an unknown mode, differing shapes, or bounds that do not hold 0 <= clip_min <
    clip_max.
    """
    if mode not in MISMATCH_MODES:
        raise unknown_name("importance sampling mode", mode, MISMATCH_MODES)
    for name, other in (("logp_engine", logp_engine), ("mask", mask)):
        if other.dim() != 2 or other.shape != logp_old.shape:
            raise bad_value(
                name, tuple(other.shape), f"[N, T], the shape of logp_old {tuple(logp_old.shape)}"
            )
    low = 0.0 if clip_min is None else clip_min
    high = math.inf if clip_max is None else clip_max
    if not 0 <= low < high:
        raise bad_value("clip_min, clip_max", (clip_min, clip_max), "0 <= clip_min < clip_max")
    level, action = mode.split("_")
    active = mask != 0  # [N, T]
    known = active & ~torch.isnan(logp_engine)  # [N, T]
    compute = torch.promote_types(logp_old.dtype, torch.float32)
    gap = torch.where(known, logp_old.to(compute) - logp_engine.to(compute), 0.0)  # [N, T]
    if level == "token":
        log_weight = gap  # [N, T]
    else:
        log_weight = gap.sum(dim=1, keepdim=True)  # [N, 1]
        if level == "geometric":
            log_weight = log_weight / active.sum(dim=1, keepdim=True).clamp(min=1)  # [N, 1]
    weight = torch.exp(log_weight)
    if action == "truncate":
        weight = weight.clamp(min=low, max=high)
    else:
        weight = torch.where((weight < low) | (weight > high), 0.0, weight)
    return torch.where(active, weight, 1.0)  # [N, T]


@torch.no_grad()
def mismatch_statistics(
    logp_old: Tensor,  # [N, T]
    logp_engine: Tensor,  # [N, T]
    mask: Tensor,  # [N, T]
    *,
    mode: str = "sequence_mask",
    clip_max: float | None = 3.0,
    clip_min: float | None = None,
) -> dict[str, float]:
    """How far engine and trainer are apart, and what a correction by `mismatch_weight` would cost.

        mismatch_kl    mean of logp_engine - logp_old over the tokens: an estimate of KL(engine || trainer) in nats
        mismatch_ess   (sum of w)^2 / (n * sum of w^2), the effective sample size as a share of the n samples,
                       with the raw weights w of the mode's level (tokens or completions)
        mismatch_kept  share of those samples whose weight lies in [clip_min, clip_max]

    0 nats, 1 and 1 where the two agree. The effective sample size is Kish's (1965). Raises as `mismatch_weight` does.
    """
    active = mask != 0
    raw = mismatch_weight(logp_old, logp_engine, mask, mode=mode, clip_max=None, clip_min=None)
    kept = mismatch_weight(
        logp_old, logp_engine, mask, mode=f"{mode.split('_')[0]}_mask", clip_max=clip_max, clip_min=clip_min
    )
    if mode.startswith("token"):
        weights, inside = raw[active], kept[active] != 0
    else:  # one weight a completion, the same at each of its tokens
        rows = active.any(-1)
        first = active[rows].int().argmax(-1, keepdim=True)
        weights = raw[rows].gather(1, first)[:, 0]
        inside = kept[rows].gather(1, first)[:, 0] != 0
    weights = weights.double()
    known = active & ~torch.isnan(logp_engine)
    count = max(len(weights), 1)
    squares = float((weights**2).sum())
    return {
        "mismatch_kl": float((logp_engine - logp_old)[known].double().mean()) if bool(known.any()) else 0.0,
        "mismatch_ess": float(weights.sum()) ** 2 / (count * squares) if squares else 0.0,
        "mismatch_kept": float(inside.double().mean()) if len(inside) else 1.0,
    }
