"""What the kernels behind `linear_logprob` share: their symbols, the shape of logits, one row's numbers.

Symbols: h hidden state, W head, y tempered logits, t target, inverse = 1/T. All sums leave the target out, so with
r = p / (1 - p_t) the distribution over the others:

    m reference of the exponentials    e = exp(y - m)    q = Σ e    s = Σ e (y - a), a a constant of the row
    o = Σ e slope W    u = Σ e slope (y - a) W           slope: of the soft-cap, 1 without one

The sums are those of Milakov & Gimelshein, "Online normalizer calculation for softmax" (2018).
"""

from __future__ import annotations

import triton
import triton.language as tl

LEFT_OUT = tl.constexpr(-1e30)  # m of a row without logits so far: finite, because inf - inf is not a number
FAR = tl.constexpr(-1e5)  # e is 0 here already; finite, because 0 · inf is not a number

# Rows of the state [STATES, R] that `weigh_tile` carries from one tile of the vocabulary to the next
M, Q, S, A = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2), tl.constexpr(3)
Y_TARGET, SLOPE_TARGET = tl.constexpr(4), tl.constexpr(5)
WEIGHTS, WEIGHTS_ROUNDED = tl.constexpr(6), tl.constexpr(7)  # Σ e slope, exactly and as the matmul sees it
MOMENTS, MOMENTS_ROUNDED = tl.constexpr(8), tl.constexpr(9)  # Σ e slope (y - a), likewise
STATES = 10


def interpreting() -> bool:
    """Do the kernels run in Triton's interpreter (TRITON_INTERPRET=1 when triton was imported)?"""
    return not isinstance(shape_logits, triton.runtime.JITFunction)


@triton.jit
def shape_logits(z, inverse, softcap, HAS_SOFTCAP: tl.constexpr):
    """y = softcap · tanh(z / softcap) / T and the soft-cap's slope 1 - tanh², for scalars and blocks.

    From E = exp(-2 |z| / softcap): tanh = ±(1 - E)/(1 + E), slope = 4 E/(1 + E)², which keeps its digits when it is
    small. (Triton has a tanh only in CUDA's library, which its interpreter cannot call.)
    """
    slope = (z == z).to(tl.float32)  # 1, of z's shape
    if HAS_SOFTCAP:
        ratio = tl.exp(-2 * tl.abs(z) / softcap)
        size = softcap * (1 - ratio) / (1 + ratio)
        z = tl.where(z < 0, -size, size)
        slope = 4 * ratio / ((1 + ratio) * (1 + ratio))
    return z * inverse, slope


@triton.jit
def rounded(x, like: tl.constexpr, INTERPRET: tl.constexpr):
    """x in the type `like`, rounded to nearest: the interpreter, left alone, would cut bfloat16 off."""
    if INTERPRET and like == tl.bfloat16:
        bits = x.to(tl.int32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & -0x10000
        x = bits.to(tl.float32, bitcast=True)
    return x.to(like)


@triton.jit
def log1p(x):
    """log(1 + x) for x from 0 to 1: 2 artanh(x / (2 + x)); the device's own log loses the digits of a small x."""
    z = x / (2 + x)  # at most 1/3: nine terms leave a relative rest below 1e-9
    zz = z * z
    total = 1 / 17 + zz * 0
    total = total * zz + 1 / 15
    total = total * zz + 1 / 13
    total = total * zz + 1 / 11
    total = total * zz + 1 / 9
    total = total * zz + 1 / 7
    total = total * zz + 1 / 5
    total = total * zz + 1 / 3
    return 2 * z * (total * zz + 1)


@triton.jit
def log_sigmoid(x):
    return tl.minimum(x, 0.0) - log1p(tl.exp(-tl.abs(x)))


@triton.jit
def row_values(m, q, s_over_q, a, y_target):
    """log p_t, log(1 - p_t), top, log Σ exp(y - top), entropy of the others, entropy; from one row's sums.

    `q` is 0 where there is no other token, or none that is possible.
    """
    alone = q == 0
    log_q = tl.log(tl.where(alone, 1.0, q))
    gap = tl.where(alone, float("inf"), (y_target - m) - log_q)  # target's logit - logsumexp of the others
    logp = log_sigmoid(gap)
    log_others = log_sigmoid(-gap)
    top = tl.where(alone, y_target, tl.maximum(m, y_target))
    log_total = tl.log(tl.exp(y_target - top) + q * tl.exp(m - top))
    # log q - Σ e (y - m) / q, never negative but for rounding
    entropy_others = tl.where(alone, 0.0, tl.maximum(log_q - (s_over_q + (a - m)), 0.0))
    p = tl.exp(logp)
    others = tl.exp(log_others)
    entropy = others * entropy_others - p * tl.maximum(logp, FAR) - others * tl.maximum(log_others, FAR)
    return logp, log_others, top, log_total, entropy_others, entropy
