"""The kernels of `linear_logprob` that stand between library matmuls: the paths with a gradient.

Symbols: see `rlkit_kernels.logprob_math`.
Every offset that rows × stride can make large is int64, every edge is masked, nothing is added up atomically.
"""

from __future__ import annotations

import triton
import triton.language as tl

from rlkit_kernels.logprob_math import (
    FAR,
    LEFT_OUT,
    MOMENTS,
    MOMENTS_ROUNDED,
    SLOPE_TARGET,
    WEIGHTS,
    WEIGHTS_ROUNDED,
    Y_TARGET,
    A,
    M,
    Q,
    S,
    rounded,
    row_values,
    shape_logits,
)

# ---------------------------------------------------------------------- frozen head, forward: between two matmuls


@triton.jit
def weigh_tile(
    z_ptr,  # [R, C] logits of one tile, from the first matmul
    e_ptr,  # [R, C] out: e · slope, for the second
    f_ptr,  # [R, C] out: e · slope · (y - a), for that of the entropy's gradient
    o_ptr,  # [R, H] Σ e slope W so far
    u_ptr,  # [R, H] Σ e slope (y - a) W so far
    b_ptr,  # [V]
    target_ptr,  # [R] int64
    inverse_ptr,  # [R]
    state_ptr,  # [STATES, R]
    n_rows,  # R
    start,  # token id of the tile's first column
    columns,  # C
    width,  # H
    softcap,
    HAS_BIAS: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    WANT_ENTROPY: tl.constexpr,
    ENTROPY_GRAD: tl.constexpr,
    INTERPRET: tl.constexpr,
    LIFT: tl.constexpr,  # a new reference is the row's largest logit less this
    HIGH: tl.constexpr,  # and is only taken where a logit is more than this above the old one
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,  # C or more
    BLOCK_WIDTH: tl.constexpr,
):
    """From a tile of logits to the weights of the second matmul, and the rows' sums.

    The reference m of the exponentials follows the largest logit only when that has outgrown it by HIGH: e then
    stays below exp(HIGH), and o and u, which would have to be rescaled, are left alone on nearly every tile.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    there = row < n_rows
    # Is there a state yet? (As a block: the interpreter cannot spread a single int1.)
    old = there & (row * 0 + start > 0)
    state = state_ptr + row
    m_old = tl.load(state + n_rows * M, mask=old, other=LEFT_OUT)
    q = tl.load(state + n_rows * Q, mask=old, other=0.0)
    target = tl.load(target_ptr + row, mask=there, other=-1) - start
    inverse = tl.load(inverse_ptr + row, mask=there, other=1.0)
    place = row.to(tl.int64) * columns

    # The target's own logit: a number of its own
    hit = there & (target >= 0) & (target < columns)
    z_target = tl.load(z_ptr + place + target, mask=hit, other=0.0)
    if HAS_BIAS:
        z_target += tl.load(b_ptr + start + target, mask=hit, other=0.0).to(tl.float32)
    y_target, slope_target = shape_logits(z_target, inverse, softcap, HAS_SOFTCAP)
    keep = tl.load(state + n_rows * Y_TARGET, mask=old, other=float("-inf"))
    tl.store(state + n_rows * Y_TARGET, tl.where(hit, y_target, keep), mask=there)
    if HAS_SOFTCAP:
        keep = tl.load(state + n_rows * SLOPE_TARGET, mask=old, other=0.0)
        tl.store(state + n_rows * SLOPE_TARGET, tl.where(hit, slope_target, keep), mask=there)

    # The others
    column = tl.arange(0, BLOCK)
    inside = column < columns
    both = there[:, None] & inside[None, :]
    at = place[:, None] + column[None, :]
    z = tl.load(z_ptr + at, mask=both, other=0.0)
    if HAS_BIAS:
        z += tl.load(b_ptr + start + column, mask=inside, other=0.0).to(tl.float32)[None, :]
    y, slope = shape_logits(z, inverse[:, None], softcap, HAS_SOFTCAP)
    y = tl.where(both & (column[None, :] != target[:, None]), y, float("-inf"))

    top = tl.max(y, 1)
    moved = top > m_old + HIGH
    m = tl.where(moved, top - LIFT, m_old)
    shrink = tl.exp(m_old - m)
    y -= m[:, None]
    e = tl.exp(y)
    tile_q = tl.sum(e, 1)
    tl.store(state + n_rows * M, m, mask=there)
    tl.store(state + n_rows * Q, shrink * q + tile_q, mask=there)

    weights = e * slope if HAS_SOFTCAP else e
    stored = rounded(weights, e_ptr.dtype.element_ty, INTERPRET)
    tl.store(e_ptr + at, stored, mask=both)
    exact = q  # Σ e slope of the tiles before
    if HAS_SOFTCAP:
        exact = tl.load(state + n_rows * WEIGHTS, mask=old, other=0.0)
        tl.store(state + n_rows * WEIGHTS, shrink * exact + tl.sum(weights, 1), mask=there)
    seen = tl.load(state + n_rows * WEIGHTS_ROUNDED, mask=old, other=0.0)
    total = tl.sum(stored.to(tl.float32), 1)
    tl.store(state + n_rows * WEIGHTS_ROUNDED, shrink * seen + total, mask=there)

    step = shrink * 0  # a of the tiles before - a
    if WANT_ENTROPY:
        s = tl.load(state + n_rows * S, mask=old, other=0.0)
        a = tl.load(state + n_rows * A, mask=old, other=0.0)
        y = tl.maximum(y, FAR)
        tile_s = tl.sum(e * y, 1)
        # a: the mean logit under e where the reference was set, so that y - a is small where e is large
        step = a
        a = tl.where(moved, m + tile_s / tl.where(moved, tile_q, 1.0), a)
        step -= a
        s = shrink * (s + step * q) + (tile_s + (m - a) * tile_q)
        tl.store(state + n_rows * S, s, mask=there)
        tl.store(state + n_rows * A, a, mask=there)
        if ENTROPY_GRAD:
            moments = weights * (y + (m - a)[:, None])
            stored = rounded(moments, f_ptr.dtype.element_ty, INTERPRET)
            tl.store(f_ptr + at, stored, mask=both)
            total = tl.load(state + n_rows * MOMENTS, mask=old, other=0.0)
            total = shrink * (total + step * exact) + tl.sum(moments, 1)
            tl.store(state + n_rows * MOMENTS, total, mask=there)
            total = tl.load(state + n_rows * MOMENTS_ROUNDED, mask=old, other=0.0)
            total = shrink * (total + step * seen) + tl.sum(stored.to(tl.float32), 1)
            tl.store(state + n_rows * MOMENTS_ROUNDED, total, mask=there)

    if (tl.max(moved.to(tl.int32), 0) > 0) & (start > 0):
        for k in range(0, width, BLOCK_WIDTH):
            deep = k + tl.arange(0, BLOCK_WIDTH)
            here = row[:, None].to(tl.int64) * width + deep[None, :]
            part = there[:, None] & (deep < width)[None, :]
            o = tl.load(o_ptr + here, mask=part, other=0.0)
            tl.store(o_ptr + here, shrink[:, None] * o, mask=part)
            if ENTROPY_GRAD:
                u = tl.load(u_ptr + here, mask=part, other=0.0)
                tl.store(u_ptr + here, shrink[:, None] * (u + step[:, None] * o), mask=part)


@triton.jit
def finish_rows(
    o_ptr,  # [R, H]
    u_ptr,  # [R, H]
    w_ptr,  # [V, H]
    target_ptr,  # [R] int64
    inverse_ptr,  # [R]
    state_ptr,  # [STATES, R]
    out_ptr,  # [4, N] from this tile's first row: log p_t, entropy, lse, scale
    direction_ptr,  # [R, H] out
    d_entropy_ptr,  # [R, H] out
    n_rows,  # R
    n,
    vocab,
    width,
    w_row,
    w_col,
    HAS_SOFTCAP: tl.constexpr,
    WANT_ENTROPY: tl.constexpr,
    ENTROPY_GRAD: tl.constexpr,
    INTERPRET: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
):
    """The rows' three numbers, and their directions, which lack only the factors scale · ∂loss.

    ∂ log p_t / ∂h = scale · direction      direction = slope_t W_t - Σ r slope W     scale = (1 - p_t) / T
    ∂ entropy / ∂h = -scale · d_entropy     d_entropy = Σ r (y - Σ r y) slope W + p_t D · direction
                                            D = entropy of the others - log(1 - p_t) + log p_t
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    there = row < n_rows
    state = state_ptr + row
    m = tl.load(state + n_rows * M, mask=there, other=0.0)
    q = tl.load(state + n_rows * Q, mask=there, other=1.0)
    s = m * 0
    a = m
    one_over_q = tl.where(q == 0, 0.0, 1 / tl.where(q == 0, 1.0, q))
    if WANT_ENTROPY:
        s = tl.load(state + n_rows * S, mask=there, other=0.0) * one_over_q
        a = tl.load(state + n_rows * A, mask=there, other=0.0)
    y_target = tl.load(state + n_rows * Y_TARGET, mask=there, other=0.0)
    logp, log_others, top, log_total, entropy_others, entropy = row_values(m, q, s, a, y_target)
    target = tl.load(target_ptr + row, mask=there, other=-1)
    possible = (target >= 0) & (target < vocab)
    inverse = tl.load(inverse_ptr + row, mask=there, other=1.0)
    out = out_ptr + row
    tl.store(out, logp, mask=there)
    tl.store(out + n, entropy, mask=there)
    tl.store(out + 2 * n, top + log_total, mask=there)
    tl.store(out + 3 * n, tl.where(possible, tl.exp(log_others) * inverse, 0.0), mask=there)

    # o over the sum of the weights as they were rounded is a mean of rows of W, whatever the rounding did
    total = tl.load(state + n_rows * WEIGHTS_ROUNDED, mask=there, other=1.0)
    one_over_total = tl.where(total == 0, 0.0, 1 / tl.where(total == 0, 1.0, total))
    share = s * 0 + 1  # Σ r slope
    slope_target = share
    if HAS_SOFTCAP:
        share = tl.load(state + n_rows * WEIGHTS, mask=there, other=0.0) * one_over_q
        slope_target = tl.load(state + n_rows * SLOPE_TARGET, mask=there, other=0.0)
    lost = s * 0  # what rounding the moments took from their sum
    curve = lost  # p_t D
    if ENTROPY_GRAD:
        lost = tl.load(state + n_rows * MOMENTS, mask=there, other=0.0)
        lost -= tl.load(state + n_rows * MOMENTS_ROUNDED, mask=there, other=0.0)
        curve = tl.exp(logp) * (entropy_others + tl.maximum(logp, FAR) - tl.maximum(log_others, FAR))
        # Times 1 - p_t it is nothing there, and must not overflow float16
        curve = tl.where(log_others > -80, curve, 0.0)
    where = tl.where(possible, target, 0)
    like: tl.constexpr = direction_ptr.dtype.element_ty
    for k in range(0, width, BLOCK_WIDTH):
        at = k + tl.arange(0, BLOCK_WIDTH)[None, :]
        both = there[:, None] & (at < width)
        here = row[:, None].to(tl.int64) * width + at
        w_target = tl.load(w_ptr + where[:, None] * w_row + at.to(tl.int64) * w_col, mask=both, other=0.0)
        w_target = rounded(w_target.to(tl.float32), like, INTERPRET).to(tl.float32) * slope_target[:, None]
        mean = tl.load(o_ptr + here, mask=both, other=0.0) * one_over_total[:, None]
        direction = w_target - mean * share[:, None]
        tl.store(direction_ptr + here, rounded(direction, like, INTERPRET), mask=both)
        if ENTROPY_GRAD:
            u = tl.load(u_ptr + here, mask=both, other=0.0) + lost[:, None] * mean
            d = u * one_over_q[:, None] - (s * share)[:, None] * mean + curve[:, None] * direction
            tl.store(d_entropy_ptr + here, rounded(d, like, INTERPRET), mask=both)


@triton.jit
def scale_directions(
    direction_ptr,  # [N, H]
    d_entropy_ptr,  # [N, H]
    scale_ptr,  # [N]
    g_ptr,  # [N] ∂loss/∂logprobs
    g_entropy_ptr,  # [N] ∂loss/∂entropy
    out_ptr,  # [N, H] may be `direction` itself
    n,
    width,
    g_step,
    g_entropy_step,
    ENTROPY_GRAD: tl.constexpr,
    INTERPRET: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
):
    """The whole backward pass of a frozen head: ∂loss/∂h = scale (g direction - g_entropy d_entropy)."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    there = row < n
    scale = tl.load(scale_ptr + row, mask=there, other=0.0)
    g = scale * tl.load(g_ptr + row * g_step, mask=there, other=0.0).to(tl.float32)
    g_entropy = g
    if ENTROPY_GRAD:
        g_entropy = scale * tl.load(g_entropy_ptr + row * g_entropy_step, mask=there, other=0.0).to(
            tl.float32
        )
    for k in range(0, width, BLOCK_WIDTH):
        at = k + tl.arange(0, BLOCK_WIDTH)[None, :]
        both = there[:, None] & (at < width)
        here = row[:, None] * width + at
        d = g[:, None] * tl.load(direction_ptr + here, mask=both, other=0.0).to(tl.float32)
        if ENTROPY_GRAD:
            d -= g_entropy[:, None] * tl.load(d_entropy_ptr + here, mask=both, other=0.0).to(tl.float32)
        tl.store(out_ptr + here, rounded(d, out_ptr.dtype.element_ty, INTERPRET), mask=both)


# ---------------------------------------------------------------------- backward of a trained head


@triton.jit
def logit_gradient(
    z_ptr,  # [R, C] logits of one tile
    d_ptr,  # [R, C] out: ∂loss/∂z
    sums_ptr,  # [blocks of rows, C] out: sums of that over each block's rows, for the bias
    b_ptr,  # [V]
    target_ptr,  # [R] int64
    inverse_ptr,  # [R]
    saved_ptr,  # [5, N] from this tile's first row, see `combine_partials`
    g_ptr,  # [R] ∂loss/∂logprobs
    g_entropy_ptr,  # [R] ∂loss/∂entropy
    n_rows,
    n,
    start,
    columns,
    softcap,
    HAS_BIAS: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    ENTROPY_GRAD: tl.constexpr,
    BIAS_GRAD: tl.constexpr,
    INTERPRET: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """∂loss/∂y_v = g (1[v = t] - p_v) - g_entropy p_v (log p_v + entropy), times slope / T; 1 - p_t from log p_t."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    there = row < n_rows
    inside = column < columns
    both = there[:, None] & inside[None, :]
    at = row[:, None].to(tl.int64) * columns + column[None, :]
    inverse = tl.load(inverse_ptr + row, mask=there, other=1.0)
    target = tl.load(target_ptr + row, mask=there, other=-1) - start
    logp = tl.load(saved_ptr + row, mask=there, other=0.0)
    top = tl.load(saved_ptr + 3 * n + row, mask=there, other=0.0)
    log_total = tl.load(saved_ptr + 4 * n + row, mask=there, other=0.0)
    # A target outside the vocabulary has probability 0 and no gradient
    g = tl.where(logp > float("-inf"), tl.load(g_ptr + row, mask=there, other=0.0), 0.0)

    z = tl.load(z_ptr + at, mask=both, other=0.0)
    if HAS_BIAS:
        z += tl.load(b_ptr + start + column, mask=inside, other=0.0).to(tl.float32)[None, :]
    y, slope = shape_logits(z, inverse[:, None], softcap, HAS_SOFTCAP)
    logp_all = (y - top[:, None]) - log_total[:, None]
    p = tl.exp(logp_all)
    d = -g[:, None] * p
    # 1 - p_t = sigmoid(L - y_t), from log p_t = -softplus(L - y_t): -expm1(log p_t), which a small log p_t needs
    small = logp * (1 + logp * (1 / 2 + logp * (1 / 6 + logp * (1 / 24 + logp * (1 / 120 + logp / 720)))))
    at_target = -g * tl.where(logp > -0.25, small, tl.exp(logp) - 1)
    if ENTROPY_GRAD:
        entropy = tl.load(saved_ptr + n + row, mask=there, other=0.0)
        g_entropy = tl.load(g_entropy_ptr + row, mask=there, other=0.0)
        d -= g_entropy[:, None] * p * (tl.maximum(logp_all, FAR) + entropy[:, None])
        at_target -= g_entropy * tl.exp(logp) * (tl.maximum(logp, FAR) + entropy)
    d = tl.where(column[None, :] == target[:, None], at_target[:, None], d) * inverse[:, None]
    if HAS_SOFTCAP:
        d *= slope
    tl.store(d_ptr + at, rounded(d, d_ptr.dtype.element_ty, INTERPRET), mask=both)
    if BIAS_GRAD:
        total = tl.sum(tl.where(both, d, 0.0), 0)
        tl.store(sums_ptr + tl.program_id(0) * columns + column, total, mask=inside)
