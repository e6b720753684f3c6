"""The three paths of `linear_logprob`, which tells when each is taken: matmuls, kernels and buffers in order."""

from __future__ import annotations

import contextlib
import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlkit_kernels import logprob_configs as configs
from rlkit_kernels import logprob_fused as fused
from rlkit_kernels import logprob_kernels as kernels
from rlkit_kernels.logprob_math import STATES, interpreting


class Job(NamedTuple):
    """What one call asks for."""

    softcap: float | None
    want_entropy: bool
    entropy_grad: bool
    directions: bool  # path 2
    vocab: int  # ids from here on are padding of the head
    row_tile: int
    vocab_tile: int


# ---------------------------------------------------------------------- helpers


def even(size: int, tile: int) -> int:
    """The tile at most this large that cuts `size` into as few parts, as equal as multiples of 64 allow."""
    parts = max(-(-size // tile), 1)
    return max(-(-size // (64 * parts)) * 64, 1)


def slices(size: int, tile: int) -> list[slice]:
    return [slice(start, min(start + tile, size)) for start in range(0, size, tile)]


def view(buffer: Tensor, rows: int, columns: int) -> Tensor:
    """The first rows × columns of a flat buffer, contiguous."""
    return buffer[: rows * columns].view(rows, columns)


def on_device(device: torch.device) -> Any:
    """Triton launches on the current device."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def _aligned(x: Tensor) -> bool:
    """Do all rows start at multiples of 16 elements and 16 bytes, with their elements side by side?"""
    return x.stride(1) == 1 and x.stride(0) % 16 == 0 and x.data_ptr() % 16 == 0


def rows_each(x: Tensor) -> int:
    """Rows that one program of the kernels without matmul takes: 16 in the interpreter, which minds every program."""
    return 1 if x.is_cuda else 16


def matmul(out: Tensor, a: Tensor, b: Tensor) -> None:
    """out = a @ b, summed and stored in fp32; out is a contiguous matrix."""
    if a.dtype == torch.float32:
        torch.mm(a, b, out=out)
    elif a.is_cuda:
        torch.mm(a, b, out_dtype=torch.float32, out=out)
    else:  # torch has no such product on a CPU
        torch.mm(a.float(), b.float(), out=out)


def add_matmul(out: Tensor, a: Tensor, b: Tensor) -> None:
    """out += a @ b, summed in fp32."""
    if a.dtype == torch.float32:
        out.addmm_(a, b)
    elif not a.is_cuda:
        out.addmm_(a.float(), b.float())
    elif _adds_in_fp32(a.device, a.dtype):
        torch.addmm(out, a, b, out_dtype=torch.float32, out=out)
    else:  # a torch whose addmm wants the summand in the type of the factors
        out += torch.mm(a, b, out_dtype=torch.float32)


@functools.cache
def _adds_in_fp32(device: torch.device, dtype: torch.dtype) -> bool:
    """Does torch.addmm add a 16-bit product to an fp32 matrix? Its first releases with `out_dtype` did not."""
    a, out = torch.zeros(16, 16, device=device, dtype=dtype), torch.zeros(16, 16, device=device)
    try:
        torch.addmm(out, a, a, out_dtype=torch.float32, out=out)
    except RuntimeError:
        return False
    return True


def _kind(dtype: torch.dtype) -> str:
    return {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[dtype]


def flags_of(bias: Tensor | None, job: Job) -> dict[str, Any]:
    return {
        "HAS_BIAS": bias is not None,
        "HAS_SOFTCAP": job.softcap is not None,
        "INTERPRET": interpreting(),
    }


# ---------------------------------------------------------------------- path 1


def scores(
    hidden: Tensor,  # [N, H]
    weight: Tensor,  # [V, H]
    bias: Tensor | None,  # [V]
    targets: Tensor,  # [N]
    inverse: Tensor,  # [N]
    job: Job,
) -> Tensor:
    """[5, N]: log p_t, entropy, lse, top, log Σ exp(y - top)."""
    (n, width), one = hidden.shape, rows_each(hidden)
    config, unit = configs.TINY, 1
    if hidden.is_cuda:
        major, minor = torch.cuda.get_device_capability(hidden.device)
        shaped = bias is not None or job.softcap is not None
        sizes = hidden.element_size(), weight.element_size(), 10 * major + minor
        config = configs.fused_config(*sizes, True, shaped)
        aligned = width % config.depth == 0 and all(_aligned(x) for x in (hidden, weight))
        config, unit = (config, 16) if aligned else (configs.fused_config(*sizes, False, shaped), 1)
    splits, each = configs.splits_of(n, job.vocab, config)
    partials = inverse.new_empty(splits, 3, n)
    out = inverse.new_empty(5, n)
    if n == 0:
        return out
    strides = hidden.stride(0), hidden.stride(1), weight.stride(0), weight.stride(1)
    cap = 1.0 if job.softcap is None else job.softcap
    with on_device(hidden.device):
        fused.linear_partials[(-(-n // config.rows) * splits,)](
            hidden,
            weight,
            bias,
            targets,
            inverse,
            partials,
            n,
            job.vocab,
            width,
            strides[0] // unit,
            strides[1],
            strides[2] // unit,
            strides[3],
            splits,
            each,
            cap,
            WANT_ENTROPY=job.want_entropy,
            EVEN=width % config.depth == 0,
            UNIT=unit,
            ROWS=config.rows,
            COLUMNS=config.columns,
            DEPTH=config.depth,
            GROUP=config.group,
            num_warps=config.num_warps,
            num_stages=config.num_stages,
            **flags_of(bias, job),
        )
        fused.combine_partials[(-(-n // one),)](
            hidden,
            weight,
            bias,
            targets,
            inverse,
            partials,
            out,
            n,
            job.vocab,
            width,
            *strides,
            splits,
            cap,
            SPLITS=configs.MAX_SPLITS,
            ROWS=one,
            DEPTH=configs.WIDTH_BLOCK,
            num_warps=configs.WIDTH_WARPS,
            **flags_of(bias, job),
        )
    return out


# ---------------------------------------------------------------------- path 2


def with_directions(
    hidden: Tensor,  # [N, H]
    weight: Tensor,  # [V, H]
    bias: Tensor | None,  # [V]
    targets: Tensor,  # [N]
    inverse: Tensor,  # [N]
    job: Job,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """[4, N] log p_t, entropy, lse, scale; and the directions [N, H] of log p_t and of the entropy."""
    (n, width), one = hidden.shape, rows_each(hidden)
    rows_most, columns_most = job.row_tile, job.vocab_tile
    out = inverse.new_empty(4, n)
    direction = torch.empty(n, width, dtype=hidden.dtype, device=hidden.device)
    d_entropy = torch.empty_like(direction) if job.entropy_grad else None
    if n == 0:
        return out, direction, d_entropy
    z_buffer = inverse.new_empty(rows_most * columns_most)
    e_buffer = direction.new_empty(rows_most * columns_most)
    f_buffer = torch.empty_like(e_buffer) if job.entropy_grad else None
    o_buffer = inverse.new_empty(rows_most * width)
    u_buffer = torch.empty_like(o_buffer) if job.entropy_grad else None
    state = inverse.new_empty(STATES * rows_most)
    lift, high = configs.REFERENCE[_kind(hidden.dtype)]
    flags = flags_of(bias, job) | {"WANT_ENTROPY": job.want_entropy, "ENTROPY_GRAD": job.entropy_grad}
    block = configs.VOCAB_BLOCK if hidden.is_cuda else 1 << (columns_most - 1).bit_length()
    cap = 1.0 if job.softcap is None else job.softcap

    for rows in slices(n, rows_most):
        x = hidden[rows]  # [R, H]
        r = x.shape[0]
        o = view(o_buffer, r, width)  # [R, H] Σ e slope W
        u = None if u_buffer is None else view(u_buffer, r, width)  # [R, H] Σ e slope (y - a) W
        for columns in slices(job.vocab, columns_most):
            c = columns.stop - columns.start
            w = weight[columns].to(x.dtype)  # [C, H]
            z, e = view(z_buffer, r, c), view(e_buffer, r, c)  # [R, C]
            f = None if f_buffer is None else view(f_buffer, r, c)
            matmul(z, x, w.T)
            kernels.weigh_tile[(-(-r // one),)](
                z,
                e,
                f,
                o,
                u,
                bias,
                targets[rows],
                inverse[rows],
                state,
                r,
                columns.start,
                c,
                width,
                cap,
                LIFT=lift,
                HIGH=high,
                ROWS=one,
                BLOCK=block,
                BLOCK_WIDTH=configs.WIDTH_BLOCK,
                num_warps=configs.VOCAB_WARPS,
                **flags,
            )
            multiply = matmul if columns.start == 0 else add_matmul
            multiply(o, e, w)
            if u is not None and f is not None:
                multiply(u, f, w)
        kernels.finish_rows[(-(-r // one),)](
            o,
            u,
            weight,
            targets[rows],
            inverse[rows],
            state,
            out[:, rows],
            direction[rows],
            None if d_entropy is None else d_entropy[rows],
            r,
            n,
            job.vocab,
            width,
            *weight.stride(),
            HAS_SOFTCAP=flags["HAS_SOFTCAP"],
            WANT_ENTROPY=job.want_entropy,
            ENTROPY_GRAD=job.entropy_grad,
            INTERPRET=flags["INTERPRET"],
            ROWS=one,
            BLOCK_WIDTH=configs.WIDTH_BLOCK,
            num_warps=configs.WIDTH_WARPS,
        )
    return out, direction, d_entropy


def from_directions(
    direction: Tensor,  # [N, H]
    d_entropy: Tensor | None,  # [N, H]
    scale: Tensor,  # [N]
    g: Tensor,  # [N]
    g_entropy: Tensor | None,  # [N]
) -> Tensor:
    """∂loss/∂h [N, H], in the place of `direction` when this graph is not kept for another pass."""
    n, width = direction.shape
    one = rows_each(direction)
    kept = torch._C._autograd._get_current_graph_task_keep_graph()  # what torch's own compiler asks, too
    out = torch.empty_like(direction) if kept else direction.detach()
    if n == 0:
        return out
    with on_device(direction.device):
        kernels.scale_directions[(-(-n // one),)](
            direction,
            d_entropy,
            scale,
            g,
            g_entropy,
            out,
            n,
            width,
            g.stride(0),
            1 if g_entropy is None else g_entropy.stride(0),
            ENTROPY_GRAD=g_entropy is not None,
            INTERPRET=interpreting(),
            ROWS=one,
            BLOCK_WIDTH=configs.WIDTH_BLOCK,
            num_warps=configs.WIDTH_WARPS,
        )
    return out
