"""Path 3 of `linear_logprob`: the backward pass of a trained head, every tile of logits once more."""

from __future__ import annotations

import torch
from torch import Tensor

from rlkit_kernels import logprob_configs as configs
from rlkit_kernels import logprob_kernels as kernels
from rlkit_kernels.logprob_paths import Job, add_matmul, flags_of, matmul, slices, view


def trained_backward(
    hidden: Tensor,  # [N, H]
    weight: Tensor,  # [V, H]
    bias: Tensor | None,  # [V]
    targets: Tensor,  # [N]
    inverse: Tensor,  # [N]
    saved: Tensor,  # [5, N] from `scores`
    g: Tensor,  # [N] ∂loss/∂logprobs
    g_entropy: Tensor | None,  # [N] ∂loss/∂entropy
    needs: tuple[bool, ...],  # do hidden, weight, bias want a gradient?
    job: Job,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of hidden [N, H], weight [V, H] and bias [V], slice of the vocabulary by slice."""
    (n, width), kind = hidden.shape, hidden.dtype
    unscale = None
    if kind == torch.float16:
        # Small probabilities times small gradients would be 0: a power of two lifts them
        peak = (g * inverse).abs().amax() if n else inverse.new_ones(())
        if g_entropy is not None and n:
            peak = torch.maximum(peak, 16 * (g_entropy * inverse).abs().amax())
        unscale = torch.exp2(torch.ceil(torch.log2(peak.clamp_min(1e-30))) - 10)  # [] on the device
        g = g / unscale
        g_entropy = None if g_entropy is None else g_entropy / unscale
    d_hidden = inverse.new_zeros(n, width) if needs[0] and n == 0 else None
    d_hidden = inverse.new_empty(n, width) if needs[0] and n else d_hidden  # [N, H] fp32
    whole = job.vocab == weight.shape[0] and n > 0
    make = torch.empty_like if whole else torch.zeros_like
    d_weight = make(weight, memory_format=torch.contiguous_format) if needs[1] else None  # [V, H]
    d_bias = None  # [V]
    if needs[2] and bias is not None:
        d_bias = make(bias, memory_format=torch.contiguous_format)
    if n == 0:
        return None if d_hidden is None else d_hidden.to(kind), d_weight, d_bias

    rows_most, columns_most = job.row_tile, job.vocab_tile
    block_rows, block_columns, warps = configs.GRADIENT if hidden.is_cuda else (8, 16, 1)
    z_buffer = inverse.new_empty(rows_most * columns_most)
    d_buffer = torch.empty(rows_most * columns_most, dtype=kind, device=hidden.device)
    # A float32 gradient of the weight is summed in its own place
    own = d_weight is not None and d_weight.dtype == torch.float32 and unscale is None
    w_buffer = inverse.new_empty(columns_most * width) if d_weight is not None and not own else None
    b_buffer = inverse.new_empty(-(-rows_most // block_rows) * columns_most) if d_bias is not None else None
    flags = flags_of(bias, job) | {"ENTROPY_GRAD": g_entropy is not None, "BIAS_GRAD": d_bias is not None}
    cap = 1.0 if job.softcap is None else job.softcap

    for columns in slices(job.vocab, columns_most):
        c = columns.stop - columns.start
        w = weight[columns].to(kind)  # [C, H]
        slice_w = slice_b = None
        if d_weight is not None:
            slice_w = d_weight[columns] if w_buffer is None else view(w_buffer, c, width)  # [C, H] fp32
        for rows in slices(n, rows_most):
            x = hidden[rows]  # [R, H]
            r = x.shape[0]
            z, d = view(z_buffer, r, c), view(d_buffer, r, c)  # [R, C]
            blocks = -(-r // block_rows)
            parts = None if b_buffer is None else view(b_buffer, blocks, c)
            matmul(z, x, w.T)
            kernels.logit_gradient[(blocks, -(-c // block_columns))](
                z,
                d,
                parts,
                bias,
                targets[rows],
                inverse[rows],
                saved[:, rows],
                g[rows],
                None if g_entropy is None else g_entropy[rows],
                r,
                n,
                columns.start,
                c,
                cap,
                ROWS=block_rows,
                COLUMNS=block_columns,
                num_warps=warps,
                **flags,
            )
            if parts is not None:
                slice_b = parts.sum(0) if slice_b is None else slice_b + parts.sum(0)  # [C]
            if d_hidden is not None:
                (matmul if columns.start == 0 else add_matmul)(d_hidden[rows], d, w)
            if slice_w is not None:
                (matmul if rows.start == 0 else add_matmul)(slice_w, d.T, x)
        if w_buffer is not None and d_weight is not None and slice_w is not None:
            d_weight[columns] = slice_w if unscale is None else slice_w.mul_(unscale)
        if d_bias is not None and slice_b is not None:
            d_bias[columns] = slice_b if unscale is None else slice_b * unscale
    if d_hidden is not None:
        d_hidden = (d_hidden if unscale is None else d_hidden.mul_(unscale)).to(kind)
    return d_hidden, d_weight, d_bias
