"""The fused kernel of `linear_logprob`: log-probabilities without any gradient, logits in registers only.

Symbols: see `rlkit_kernels.logprob_math`; here a = m.
Every offset that rows × stride can make large is int64, every edge is masked, nothing is added up atomically.
"""

from __future__ import annotations

import triton
import triton.language as tl

from rlkit_kernels.logprob_math import FAR, LEFT_OUT, rounded, row_values, shape_logits


@triton.jit
def linear_partials(
    x_ptr,  # [N, H] hidden
    w_ptr,  # [V, H] head
    b_ptr,  # [V] bias
    target_ptr,  # [N] int64
    inverse_ptr,  # [N] 1/T
    out_ptr,  # [splits, 3, N] m, q, s with a = m
    n,
    vocab,
    width,
    x_row,
    x_col,
    w_row,
    w_col,
    splits,
    tiles_per_split,
    softcap,
    HAS_BIAS: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    WANT_ENTROPY: tl.constexpr,
    EVEN: tl.constexpr,  # DEPTH divides H
    UNIT: tl.constexpr,  # x_row and w_row count so many elements: 16 tells the compiler that rows are aligned
    INTERPRET: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    GROUP: tl.constexpr,
):
    """A block of rows against one split of the vocabulary: y lives in registers only."""
    # Order: GROUP blocks of rows walk the same split side by side, so that its tiles of W are read from L2, and
    # all splits of a group come before the next group, so that its rows of h stay there too.
    pid = tl.program_id(0)
    first = pid // (GROUP * splits) * GROUP
    size = tl.minimum(tl.cdiv(n, ROWS) - first, GROUP)
    place = pid % (GROUP * splits)
    split = place // size
    rows = (first + place % size) * ROWS + tl.arange(0, ROWS)
    # Rows beyond the last are copies of it and never stored: clamping needs no mask in the inner loop.
    safe = tl.minimum(rows, n - 1).to(tl.int64)
    target = tl.load(target_ptr + safe)
    inverse = tl.load(inverse_ptr + safe)
    depth = tl.arange(0, DEPTH)
    x_start = x_ptr + safe[:, None] * (x_row * UNIT) + depth[None, :].to(tl.int64) * x_col

    m = tl.full([ROWS], LEFT_OUT, tl.float32)
    q = tl.zeros([ROWS], tl.float32)
    s = tl.zeros([ROWS], tl.float32)
    last = tl.minimum((split + 1) * tiles_per_split, tl.cdiv(vocab, COLUMNS))
    for tile in range(split * tiles_per_split, last):
        columns = tile * COLUMNS + tl.arange(0, COLUMNS)
        near = tl.minimum(columns, vocab - 1).to(tl.int64)
        x_at = x_start
        w_at = w_ptr + near[:, None] * (w_row * UNIT) + depth[None, :].to(tl.int64) * w_col
        z = tl.zeros([ROWS, COLUMNS], tl.float32)
        for k in range(0, width, DEPTH):
            if EVEN:
                x = tl.load(x_at)
                w = tl.load(w_at)
            else:
                inside = (k + depth < width)[None, :]
                x = tl.load(x_at, mask=inside, other=0.0)
                w = tl.load(w_at, mask=inside, other=0.0)
            w = rounded(w.to(tl.float32), x.dtype, INTERPRET) if w.dtype != x.dtype else w
            if INTERPRET:  # whose dot cannot read bfloat16
                x = x.to(tl.float32)
                w = w.to(tl.float32)
            z = tl.dot(x, tl.trans(w), z, input_precision="ieee")
            x_at += DEPTH * x_col
            w_at += DEPTH * w_col
        if HAS_BIAS:
            z += tl.load(b_ptr + near).to(tl.float32)[None, :]
        y, _slope = shape_logits(z, inverse[:, None], softcap, HAS_SOFTCAP)
        other = (columns < vocab)[None, :] & (columns[None, :] != target[:, None])
        y = tl.where(other, y, float("-inf"))

        m_old = m
        m = tl.maximum(m, tl.max(y, 1))
        y -= m[:, None]
        e = tl.exp(y)
        shrink = tl.exp(m_old - m)
        if WANT_ENTROPY:
            s = shrink * (s + (m_old - m) * q) + tl.sum(e * tl.maximum(y, FAR), 1)
        q = shrink * q + tl.sum(e, 1)

    out = out_ptr + split.to(tl.int64) * 3 * n + rows
    inside_rows = rows < n
    tl.store(out, m, mask=inside_rows)
    tl.store(out + n, q, mask=inside_rows)
    tl.store(out + 2 * n, s, mask=inside_rows)


@triton.jit
def combine_partials(
    x_ptr,
    w_ptr,
    b_ptr,
    target_ptr,
    inverse_ptr,
    partial_ptr,  # [splits, 3, N]
    out_ptr,  # [5, N] log p_t, entropy, lse, top, log Σ exp(y - top)
    n,
    vocab,
    width,
    x_row,
    x_col,
    w_row,
    w_col,
    splits,
    softcap,
    HAS_BIAS: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    INTERPRET: tl.constexpr,
    ROWS: tl.constexpr,
    SPLITS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """Each target's own logit h · W_t, then the splits' sums, added up in a fixed order."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    there = row < n
    target = tl.load(target_ptr + row, mask=there, other=-1)
    possible = (target >= 0) & (target < vocab)
    where = tl.where(possible, target, 0)
    depth = tl.arange(0, DEPTH)
    total = tl.zeros([ROWS, DEPTH], tl.float32)
    for k in range(0, width, DEPTH):
        at = (k + depth).to(tl.int64)[None, :]
        inside = there[:, None] & (at < width)
        x = tl.load(x_ptr + row[:, None] * x_row + at * x_col, mask=inside, other=0.0)
        w = tl.load(w_ptr + where[:, None] * w_row + at * w_col, mask=inside, other=0.0).to(tl.float32)
        total += x.to(tl.float32) * rounded(w, x.dtype, INTERPRET).to(tl.float32)
    z = tl.sum(total, 1)
    if HAS_BIAS:
        z += tl.load(b_ptr + where).to(tl.float32)
    inverse = tl.load(inverse_ptr + row, mask=there, other=1.0)
    y_target, _slope = shape_logits(z, inverse, softcap, HAS_SOFTCAP)
    y_target = tl.where(possible, y_target, float("-inf"))

    split = tl.arange(0, SPLITS)
    present = there[:, None] & (split < splits)[None, :]
    at = partial_ptr + split.to(tl.int64)[None, :] * 3 * n + row[:, None]
    ms = tl.load(at, mask=present, other=LEFT_OUT)
    qs = tl.load(at + n, mask=present, other=0.0)
    ss = tl.load(at + 2 * n, mask=present, other=0.0)
    m = tl.max(ms, 1)
    shrink = tl.exp(ms - m[:, None])
    q = tl.sum(shrink * qs, 1)
    s = tl.sum(shrink * (ss + (ms - m[:, None]) * qs), 1)
    logp, _log_others, top, log_total, _entropy_others, entropy = row_values(
        m, q, s / tl.where(q == 0, 1.0, q), m, y_target
    )
    out = out_ptr + row
    tl.store(out, logp, mask=there)
    tl.store(out + n, entropy, mask=there)
    tl.store(out + 2 * n, top + log_total, mask=there)
    tl.store(out + 3 * n, top, mask=there)
    tl.store(out + 4 * n, log_total, mask=there)
