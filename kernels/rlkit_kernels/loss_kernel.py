"""The kernel of `rlkit_kernels.grpo_loss`: one program takes one completion.

Symbols as in `rlkit.objectives.policy_loss`: rho the ratio, A the advantage, v the `is_weight`, w the weight that
the loss type gives a token, c what clipping leaves of the gradient (1, or 0 where a bound applies).

    token:     ∂loss/∂logp[t] = w (beta ∂KL[t]/∂logp[t] - v c A rho[t])
    sequence:  ∂loss/∂logp[t] = w (beta ∂KL[t]/∂logp[t] - rho / |o| · sum over s of v c A[s])

because there rho is one number that depends on every token's log-probability with weight 1 / |o|. Where KL is
multiplied by rho ("bias correction"), ∂KL is too, and beta KL joins -v c A. The README of `kernels/` derives it.
"""

from __future__ import annotations

from collections.abc import Iterator

import triton
import triton.language as tl

from rlkit_kernels.variants import Variant

#: (tokens a tile, warps). One entry: the kernel reads each number once or twice and has nothing to tune against.
CONFIGS = ((2048, 16),)


@triton.jit
def _exp_parts(d):
    """exp(d) - 1 and exp(d) - 1 - d, both to the last digits also around 0, where the plain forms cancel."""
    # (exp(d) - 1 - d) / d² as a series up to d⁷/9!: below |d| = 0.5 the rest is under 1e-8 of it.
    series = 1 / 5040 + d * (1 / 40320 + d * (1 / 362880))
    series = 0.5 + d * (1 / 6 + d * (1 / 24 + d * (1 / 120 + d * (1 / 720 + d * series))))
    near = tl.abs(d) < 0.5
    grown = tl.exp(d) - 1
    rest = tl.where(near, d * d * series, grown - d)
    return tl.where(near, d + rest, grown), rest


@triton.jit
def _kl_and_slope(d, kl_kind):
    """The estimate of KL from d = ref - new, and its derivative by new."""
    grown, rest = _exp_parts(d)
    kl = tl.where(kl_kind == 1, -d, tl.where(kl_kind == 2, 0.5 * d * d, rest))
    slope = tl.where(kl_kind == 1, 1.0, tl.where(kl_kind == 2, -d, -grown))
    return kl, slope


# Flags and settings stay run-time numbers: compiled in, every estimator and loss type would be a variant of its own.
@triton.jit(do_not_specialize=["has_cut", "by_length", "kl_kind", "corrected"])
def loss_kernel(
    new_ptr,  # [N, T]
    old_ptr,  # [N, T]
    ref_ptr,  # [N, T]
    entropy_ptr,  # [N, T]
    advantage_ptr,  # [N] or [N, T]
    weight_ptr,  # [N], [N, T], or [1] with stride 0
    mask_ptr,  # [N, T] uint8
    cut_ptr,  # [N] uint8
    inverse_ptr,  # [1] w, but for the completion's length
    gradient_ptr,  # [N, T] out: ∂loss/∂new
    ratio_ptr,  # [N, T] out
    sums_ptr,  # [N, 9] out
    n_tokens,  # T
    stride_new,
    stride_old,
    stride_ref,
    stride_entropy,
    stride_advantage,
    stride_weight,
    has_cut,  # 0 or 1, as all flags
    by_length,
    kl_kind,  # 1, 2, 3
    corrected,
    low,
    high,
    delta,
    beta,
    entropy_coef,
    SEQUENCE: tl.constexpr,
    ADVANTAGE_STEP: tl.constexpr,  # 1: one a token, 0: one a completion
    WEIGHT_STEP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    new_ptr += row * stride_new
    old_ptr += row * stride_old
    ref_ptr += row * stride_ref
    entropy_ptr += row * stride_entropy
    advantage_ptr += row * stride_advantage
    weight_ptr += row * stride_weight
    mask_ptr += row * n_tokens
    gradient_ptr += row * n_tokens
    ratio_ptr += row * n_tokens
    cut = tl.load(cut_ptr + row, mask=has_cut != 0, other=0)
    reach = tl.where(cut != 0, 0, n_tokens)  # no token of a truncated completion is active

    # How long is the completion, and what is its own ratio?
    count = tl.zeros([BLOCK], tl.float32)
    log_sum = tl.zeros([BLOCK], tl.float32)
    for start in range(0, n_tokens, BLOCK):
        t = start + tl.arange(0, BLOCK)
        active = tl.load(mask_ptr + t, mask=t < reach, other=0) != 0
        count += active.to(tl.float32)
        if SEQUENCE:
            log_sum += tl.load(new_ptr + t, mask=active, other=0.0) - tl.load(
                old_ptr + t, mask=active, other=0.0
            )
    tokens = tl.sum(count, 0)
    length = tl.maximum(tokens, 1.0)
    w = tl.load(inverse_ptr) / tl.where(by_length != 0, length, 1.0)
    own_ratio = tl.exp(tl.sum(log_sum, 0) / length)  # 1 where it is not used

    policy = tl.zeros([BLOCK], tl.float32)
    kl_part = tl.zeros([BLOCK], tl.float32)
    entropy_part = tl.zeros([BLOCK], tl.float32)
    n_low = tl.zeros([BLOCK], tl.float32)
    n_high = tl.zeros([BLOCK], tl.float32)
    n_capped = tl.zeros([BLOCK], tl.float32)
    kl_sum = tl.zeros([BLOCK], tl.float32)
    by_ratio = tl.zeros([BLOCK], tl.float32)  # Σ ∂(policy + beta KL)/∂rho of the tokens
    for start in range(0, n_tokens, BLOCK):
        t = start + tl.arange(0, BLOCK)
        inside = t < n_tokens
        active = tl.load(mask_ptr + t, mask=t < reach, other=0) != 0
        new = tl.load(new_ptr + t, mask=active, other=0.0)
        log_ratio = new - tl.load(old_ptr + t, mask=active, other=0.0)
        a = tl.load(advantage_ptr + t * ADVANTAGE_STEP, mask=active, other=0.0)
        weight = tl.load(weight_ptr + t * WEIGHT_STEP, mask=active, other=0.0)
        if SEQUENCE:
            ratio = tl.where(active, own_ratio, 1.0)
        else:
            ratio = tl.exp(log_ratio)

        is_low = (ratio < low) & (a < 0)
        is_high = (ratio > high) & (a > 0)
        is_capped = (ratio > delta) & (a < 0)
        bounded = tl.where(is_low, low, tl.where(is_high, high, tl.where(is_capped, delta, ratio)))
        policy -= weight * bounded * a
        slope = tl.where(is_low | is_high | is_capped, 0.0, -weight * a)  # ∂policy/∂rho

        kl, kl_slope = _kl_and_slope(tl.load(ref_ptr + t, mask=active, other=0.0) - new, kl_kind)
        factor = tl.where(corrected != 0, ratio, 1.0)
        # Not 0 * kl: without a KL term in the loss, one that is infinite must not spoil it.
        kl_part += tl.where(beta != 0, beta * kl * factor, 0.0)
        slope += tl.where((beta != 0) & (corrected != 0), beta * kl, 0.0)
        h = tl.load(entropy_ptr + t, mask=active, other=0.0)
        entropy_part -= tl.where(entropy_coef != 0, entropy_coef * h, 0.0)

        if SEQUENCE:
            by_ratio += slope
        else:
            direct = tl.where(beta != 0, beta * kl_slope * factor, 0.0)
            through = tl.where(slope == 0, 0.0, slope * ratio)  # a clipped ratio may be infinite
            gradient = tl.where(active, w * (direct + through), 0.0)
            tl.store(gradient_ptr + t, gradient, mask=inside)
        tl.store(ratio_ptr + t, ratio, mask=inside)
        n_low += is_low.to(tl.float32)
        n_high += is_high.to(tl.float32)
        n_capped += is_capped.to(tl.float32)
        kl_sum += kl

    if SEQUENCE:  # only now is it known what the completion's one ratio is worth
        total = tl.sum(by_ratio, 0)
        shared = tl.where(total == 0, 0.0, total * own_ratio / length)
        for start in range(0, n_tokens, BLOCK):
            t = start + tl.arange(0, BLOCK)
            inside = t < n_tokens
            active = tl.load(mask_ptr + t, mask=t < reach, other=0) != 0
            new = tl.load(new_ptr + t, mask=active, other=0.0)
            kl, kl_slope = _kl_and_slope(tl.load(ref_ptr + t, mask=active, other=0.0) - new, kl_kind)
            factor = tl.where(corrected != 0, own_ratio, 1.0)
            direct = tl.where(beta != 0, beta * kl_slope * factor, 0.0)
            tl.store(gradient_ptr + t, tl.where(active, w * (direct + shared), 0.0), mask=inside)

    sums_ptr += row * 9
    tl.store(sums_ptr + 0, w * tl.sum(policy, 0))
    tl.store(sums_ptr + 1, w * tl.sum(kl_part, 0))
    tl.store(sums_ptr + 2, w * tl.sum(entropy_part, 0))
    tl.store(sums_ptr + 3, tokens)
    tl.store(sums_ptr + 4, tl.sum(n_low, 0))
    tl.store(sums_ptr + 5, tl.sum(n_high, 0))
    tl.store(sums_ptr + 6, tl.sum(n_capped, 0))
    tl.store(sums_ptr + 7, tl.sum(kl_sum, 0))
    tl.store(sums_ptr + 8, tl.where(cut != 0, 0.0, w))


#: Was the kernel made for the interpreter? Triton decides when it sees the decorator, not when it runs.
INTERPRETED = not isinstance(loss_kernel, triton.JITFunction)


def configuration() -> tuple[int, int]:
    """(tokens a tile, warps); the interpreter's tile is small, so that small tests have several."""
    return (16, 1) if INTERPRETED else CONFIGS[0]


def variants() -> Iterator[Variant]:
    """Every compiled form: token or sequence ratios × advantages and weights a token or a completion."""
    tensors = ("new", "old", "ref", "entropy", "advantage", "weight", "mask", "cut", "inverse")
    signature = {f"{name}_ptr": "*u8" if name in ("mask", "cut") else "*fp32" for name in tensors}
    signature |= {f"{name}_ptr": "*fp32" for name in ("gradient", "ratio", "sums")}
    signature |= {"n_tokens": "i32"}
    signature |= {f"stride_{name}": "i32" for name in tensors[:6]}
    signature |= dict.fromkeys(("has_cut", "by_length", "kl_kind", "corrected"), "i32")
    signature |= dict.fromkeys(("low", "high", "delta", "beta", "entropy_coef"), "fp32")
    for block, warps in CONFIGS:
        for sequence in (False, True):
            for a_step in (0, 1):
                for w_step in (0, 1):
                    level = "sequence" if sequence else "token"
                    yield Variant(
                        f"loss {level} A{'[N,T]' if a_step else '[N]'} v{'[N,T]' if w_step else '[N]'}",
                        loss_kernel,
                        signature,
                        {
                            "SEQUENCE": sequence,
                            "ADVANTAGE_STEP": a_step,
                            "WEIGHT_STEP": w_step,
                            "BLOCK": block,
                        },
                        num_warps=warps,
                        num_stages=1,
                    )
