"""Linear layers whose frozen weight is kept in 8 bits: e4m3 numbers, one fp32 scale for each block of the weight.

    W[o, i] ≈ scale[o // b, i // b] · q[o, i]         q in e4m3: 1 sign, 4 exponent, 3 mantissa bits, at most 448

A weight takes 1 byte and 4 / b² for its scale. It is widened inside the matmul, to bf16 or fp16, which hold e4m3
exactly; the scale is one number over a tile's depth, so it multiplies fp32 sums:

    y[m, o] = Σ over blocks of scale[o, block] · ( Σ over i in the block of x[m, i] q[o, i] )

The one rounding that 16 bits would not have is that of `quantise_fp8`. Gradients reach x (a second matmul, with W as it
lies) and the bias; the weight has none, which is what an adapter's base needs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn.functional import linear, pad

from rlkit_kernels.variants import Variant

#: The largest e4m3 number. Rounding to a normal one is off by at most 1/16 of it, below 2^-6 by at most 2^-10.
E4M3_MAX = 448.0
#: A block is at least as wide as the kernel's tiles are deep, so that a tile has one scale.
SMALLEST_BLOCK = 64
#: Numbers of the weight that are widened at a time while it is quantised: 16 MiB in fp32.
_STRIP = 1 << 22


class Fp8Weight(NamedTuple):
    """A weight [O, I] in blocks of block × block numbers; those at the right and the lower edge may be smaller."""

    data: Tensor  # [O, I] float8_e4m3fn, contiguous
    scale: Tensor  # [ceil(O / block), ceil(I / block)] float32, contiguous
    block: int = 128


@torch.no_grad()
def quantise_fp8(weight: Tensor, block: int = 128) -> Fp8Weight:  # [O, I]
    """Round a weight to e4m3 with scale = max |W| / 448 in each block; 1 where the block is 0.

    weight: float32, bfloat16 or float16 (float64 goes through float32). block: a multiple of 64; 128 is what
    DeepSeek-V3 (arXiv:2412.19437) and the FP8 checkpoints after it use, so their `weight_scale_inv` is our scale.
    The error of each number is at most the larger of |W| / 16 and scale / 1024.

    A number that is not finite is neither clipped nor looked for, since looking makes the host wait: its block's scale
    becomes NaN, and so does every output that the block has a part in. Extra memory: 64 MiB at any size.

    Raises ValueError for a weight or a block that does not fit.
    """
    if weight.dim() != 2 or not weight.is_floating_point() or weight.dtype.itemsize < 2 or not weight.numel():
        found = f"{weight.dtype} {list(weight.shape)}"
        raise _refuse("weight", found, "a float32, bfloat16 or float16 tensor [O, I], not empty")
    if block < SMALLEST_BLOCK or block % SMALLEST_BLOCK:
        raise _refuse("block", block, f"a multiple of {SMALLEST_BLOCK}")
    rows, columns = weight.shape
    wide = triton.cdiv(columns, block)
    data = torch.empty(rows, columns, dtype=torch.float8_e4m3fn, device=weight.device)  # [O, I]
    scale = torch.empty(triton.cdiv(rows, block), wide, dtype=torch.float32, device=weight.device)
    step = max(1, _STRIP // (block * wide * block))  # block rows at a time
    for first in range(0, scale.shape[0], step):
        part = weight[first * block : (first + step) * block].to(torch.float32)  # [R, I]
        tall = triton.cdiv(part.shape[0], block)
        edges = (0, wide * block - columns, 0, tall * block - part.shape[0])
        blocks = pad(part, edges).view(tall, block, wide, block)
        largest = torch.maximum(blocks.amax((1, 3)), -blocks.amin((1, 3)))  # [tall, wide]
        s = (largest / E4M3_MAX).clamp_(min=torch.finfo(torch.float32).tiny)
        s = torch.where(largest == 0, 1.0, torch.where(largest.isfinite(), s, torch.nan))
        scale[first : first + step] = s
        blocks = (blocks / s[:, None, :, None]).clamp_(-E4M3_MAX, E4M3_MAX)  # beyond, the cast gives NaN
        blocks = blocks.view(tall * block, wide * block)[: part.shape[0], :columns]
        data[first * block : (first + step) * block] = blocks.to(torch.float8_e4m3fn)
    return Fp8Weight(data, scale, block)


def dequantise_fp8(weight: Fp8Weight, dtype: torch.dtype = torch.float32) -> Tensor:  # [O, I]
    """scale · q in dtype, [O, I]: a copy of the weight in full, for tests and for exports."""
    rows, columns = weight.data.shape
    wide = torch.promote_types(dtype, torch.float32)
    scale = weight.scale.to(wide).repeat_interleave(weight.block, 0)[:rows]  # [O, I / b]
    scale = scale.repeat_interleave(weight.block, 1)[:, :columns]  # [O, I]
    return (weight.data.to(wide) * scale).to(dtype)


def fp8_linear_reference(
    x: Tensor,  # [..., I]
    weight: Fp8Weight,
    bias: Tensor | None = None,  # [O]
) -> Tensor:  # [..., O]
    """What `fp8_linear` computes, in torch: dequantise, then a matmul in float32 (float64 for float64 x)."""
    wide = torch.promote_types(x.dtype, torch.float32)
    b = None if bias is None else bias.to(wide)
    return linear(x.to(wide), dequantise_fp8(weight, wide), b).to(x.dtype)


def fp8_linear(
    x: Tensor,  # [..., I] bfloat16, float16 or float32
    weight: Fp8Weight,
    bias: Tensor | None = None,  # [O]
) -> Tensor:  # [..., O]
    """x Wᵀ + bias in the type of x (autocast's where that is on); products are summed in fp32.

    Gradients reach x and the bias. The backward pass needs neither x nor y, so nothing but the weight, which is there
    anyway, is kept for it. Extra memory: the result, and in the backward pass x's gradient. Deterministic, also from
    one process to the next: the tiles follow from shape, type and chip, nothing is timed.

    Compute capability 8.9 (Ada) or above, where e4m3 is a type of the hardware. Float32 x is multiplied in full
    float32 (no TF32), which is slow. Raises ValueError for tensors that do not fit and for other devices.
    """
    _check(x, weight, bias)
    if torch.is_autocast_enabled(x.device.type):
        x = x.to(torch.get_autocast_dtype(x.device.type))
    flat = x.reshape(-1, x.shape[-1])  # [M, I]
    with torch.cuda.device_of(x), torch.autocast(x.device.type, enabled=False):
        out = _Linear.apply(flat, bias, weight.data, weight.scale, weight.block)  # [M, O]
    return out.view(*x.shape[:-1], weight.data.shape[0])


# ---------------------------------------------------------------------- the kernel


class Tile(NamedTuple):
    """How one program cuts the matmul: [n, k] of the weight times [k, m] of the activations."""

    m: int
    n: int
    k: int
    warps: int
    stages: int
    aligned: bool  # for rows that start at multiples of 16 numbers: without, the larger tiles spill registers


#: Few rows or odd widths; many rows on Ada and on Hopper; float32, which has no matrix unit and lives in registers.
SMALL, ADA = Tile(32, 64, 64, 4, 4, False), Tile(64, 128, 64, 8, 3, True)
HOPPER = Tile(128, 128, 64, 8, 3, True)
FULL = Tile(32, 32, 32, 4, 2, False)
GROUP = 8  # tiles of rows that share a walk over the weight, so that its tiles are found in L2


def choose_tile(rows: int, aligned: bool, dtype: torch.dtype, hopper: bool) -> Tile:
    """By shape, type and chip alone: the same sums in every process."""
    if dtype == torch.float32:
        return FULL
    if rows <= 64 or not aligned:
        return SMALL
    return HOPPER if hopper else ADA


@triton.jit(do_not_specialize=["has_bias"])
def fp8_matmul_kernel(
    x_ptr,  # [M, K]
    w_ptr,  # [O, I] bits of e4m3
    scale_ptr,  # [O / b, I / b]
    bias_ptr,  # [N]
    out_ptr,  # [M, N]
    M,
    N,
    K,
    stride_x,
    stride_w,  # I
    stride_scale,
    b,  # numbers along a block's edge, a multiple of BLOCK_K
    has_bias,
    TRANSPOSED: tl.constexpr,  # False: out = x Wᵀ, N = O, K = I. True: out = x W, N = I, K = O
    WIDEN: tl.constexpr,  # the interpreter multiplies bfloat16 as if it were integers: widen, which is exact
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
    ALIGNED: tl.constexpr,  # N, K and stride_x are multiples of 16
):
    if ALIGNED:  # changes no number; tells the compiler (tl.multiple_of says nothing about arguments)
        N, K = N // 16 * 16, K // 16 * 16
        stride_x, stride_w = stride_x // 16 * 16, stride_w // 16 * 16
    tiles_m, tiles_n = tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N)
    pid = tl.program_id(0)
    first_m = pid // (GROUP * tiles_n) * GROUP
    height = tl.minimum(tiles_m - first_m, GROUP)
    within = pid % (GROUP * tiles_n)
    m = (first_m + within % height) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = within // height * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    far_m, far_n = m.to(tl.int64), n.to(tl.int64)

    # The weight stands on the left: on Hopper that operand may come from registers, where it is widened.
    x_ptrs = x_ptr + far_m[None, :] * stride_x + k[:, None]  # [BLOCK_K, BLOCK_M]
    if TRANSPOSED:
        w_ptrs = w_ptr + far_n[:, None] + k.to(tl.int64)[None, :] * stride_w  # [BLOCK_N, BLOCK_K]
        w_step = stride_w.to(tl.int64) * BLOCK_K
        scale_ptrs = scale_ptr + n // b
        scale_step = stride_scale
    else:
        w_ptrs = w_ptr + far_n[:, None] * stride_w + k[None, :]
        w_step = BLOCK_K
        scale_ptrs = scale_ptr + n // b * stride_scale
        scale_step = 1

    total = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    for start in range(0, K, BLOCK_K):
        left = K - start
        x = tl.load(x_ptrs, mask=(k[:, None] < left) & (m[None, :] < M), other=0.0)
        bits = tl.load(w_ptrs, mask=(n[:, None] < N) & (k[None, :] < left), other=0)
        w = bits.to(tl.float8e4nv, bitcast=True).to(x.dtype)
        if WIDEN:
            part = tl.dot(w.to(tl.float32), x.to(tl.float32), input_precision="ieee")
        else:
            part = tl.dot(w, x, input_precision="ieee")
        scale = tl.load(scale_ptrs + start // b * scale_step, mask=n < N, other=0.0)
        total += part * scale[:, None]
        x_ptrs += BLOCK_K
        w_ptrs += w_step

    total += tl.load(bias_ptr + n, mask=n < tl.where(has_bias != 0, N, 0), other=0.0).to(tl.float32)[:, None]
    out_ptrs = out_ptr + far_m[None, :] * N + n[:, None]
    tl.store(out_ptrs, total.to(out_ptr.dtype.element_ty), mask=(n[:, None] < N) & (m[None, :] < M))


#: Was the kernel made for the interpreter? Triton decides when it sees the decorator, not when it runs.
INTERPRETED = not isinstance(fp8_matmul_kernel, triton.JITFunction)


def variants() -> Iterator[Variant]:
    """Both directions × tiles × types: everything that `choose_tile` can return."""
    kinds = [(kind, tile) for kind in ("bf16", "fp16") for tile in (SMALL, ADA, HOPPER)]
    for kind, tile in [*kinds, ("fp32", FULL)]:
        for transposed in (False, True):
            signature = dict.fromkeys(("x_ptr", "bias_ptr", "out_ptr"), f"*{kind}")
            signature |= {"w_ptr": "*u8", "scale_ptr": "*fp32"} | dict.fromkeys(
                ("M", "N", "K", "stride_x", "stride_w", "stride_scale", "b", "has_bias"), "i32"
            )
            yield Variant(
                f"fp8 {kind} {tile.m}x{tile.n}x{tile.k} {'g W' if transposed else 'x Wt'}",
                fp8_matmul_kernel,
                signature,
                _constants(tile, transposed, False),
                tile.warps,
                tile.stages,
                min_capability=90 if tile is HOPPER else 89,
            )


def _constants(tile: Tile, transposed: bool, widen: bool) -> dict[str, Any]:
    cut = {"BLOCK_M": tile.m, "BLOCK_N": tile.n, "BLOCK_K": tile.k, "GROUP": GROUP, "ALIGNED": tile.aligned}
    return {"TRANSPOSED": transposed, "WIDEN": widen, **cut}


# ---------------------------------------------------------------------- around it


def _matmul(
    x: Tensor,  # [M, K]
    data: Tensor,  # [O, I]
    scale: Tensor,  # [O / b, I / b]
    block: int,
    bias: Tensor | None,  # [N]
    transposed: bool,
) -> Tensor:  # [M, N]
    """x Wᵀ + bias, or x W."""
    rows, depth = x.shape
    if x.stride(1) != 1:
        x = x.contiguous()
    columns = data.shape[1] if transposed else data.shape[0]
    out = torch.empty(rows, columns, dtype=x.dtype, device=x.device)
    if not rows:
        return out
    aligned = not (columns % 16 or depth % 16 or x.stride(0) % 16 or x.data_ptr() % 16)
    hopper = not INTERPRETED and torch.cuda.get_device_capability(x.device) >= (9, 0)
    tile = choose_tile(rows, aligned, x.dtype, hopper)
    fp8_matmul_kernel[(triton.cdiv(rows, tile.m) * triton.cdiv(columns, tile.n),)](
        x,
        data.view(torch.uint8),
        scale,
        x if bias is None else bias.detach().to(x.dtype).contiguous(),
        out,
        rows,
        columns,
        depth,
        x.stride(0),
        data.stride(0),
        scale.stride(0),
        block,
        int(bias is not None),
        **_constants(tile, transposed, INTERPRETED),
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    return out


class _Linear(torch.autograd.Function):
    """Saves the weight, which lives anyway, and no activation."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, data: Tensor, scale: Tensor, block: int) -> Tensor:
        ctx.save_for_backward(data, scale)
        ctx.block, ctx.bias_dtype = block, None if bias is None else bias.dtype
        return _matmul(x.detach(), data, scale, block, bias, transposed=False)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        data, scale = ctx.saved_tensors
        by_x = by_bias = None
        if ctx.needs_input_grad[0]:
            with torch.cuda.device_of(g):
                by_x = _matmul(g, data, scale, ctx.block, None, transposed=True)
        if ctx.needs_input_grad[1]:
            by_bias = g.sum(0, dtype=torch.float32).to(ctx.bias_dtype)
        return by_x, by_bias, None, None, None


def _refuse(argument: str, value: object, allowed: str, cause: str = "") -> ValueError:
    message = f"{argument}={value!r} is not usable. Allowed: {allowed}."
    return ValueError(f"{message} {cause}" if cause else message)


def _check(x: Tensor, weight: Fp8Weight, bias: Tensor | None) -> None:
    """Types, shapes and the device, before any work."""
    data, scale, block = weight
    if x.dtype not in (torch.bfloat16, torch.float16, torch.float32):
        raise _refuse("x.dtype", x.dtype, "bfloat16, float16 or float32")
    if data.dtype != torch.float8_e4m3fn or data.dim() != 2 or not data.is_contiguous():
        found = f"{data.dtype} {list(data.shape)}"
        raise _refuse("weight.data", found, "contiguous float8_e4m3fn [O, I]", "Use quantise_fp8.")
    rows, columns = data.shape
    if x.dim() < 1 or x.shape[-1] != columns:
        raise _refuse("x.shape", list(x.shape), f"[..., {columns}], since the weight is {[rows, columns]}")
    if block < SMALLEST_BLOCK or block % SMALLEST_BLOCK:
        raise _refuse("weight.block", block, f"a multiple of {SMALLEST_BLOCK}")
    blocks = [triton.cdiv(rows, block), triton.cdiv(columns, block)]
    if list(scale.shape) != blocks or scale.dtype != torch.float32 or not scale.is_contiguous():
        raise _refuse("weight.scale", f"{scale.dtype} {list(scale.shape)}", f"contiguous float32 {blocks}")
    if bias is not None and (tuple(bias.shape) != (rows,) or not bias.is_floating_point()):
        raise _refuse("bias", f"{bias.dtype} {list(bias.shape)}", f"floating-point [{rows}]")
    for name, tensor in (("weight.data", data), ("weight.scale", scale), ("bias", bias)):
        if tensor is not None and tensor.device != x.device:
            raise _refuse(f"{name}.device", str(tensor.device), f"that of x, {x.device}")
    if not (INTERPRETED or x.is_cuda):
        cause = "On the CPU: fp8_linear_reference, or TRITON_INTERPRET=1 before triton is imported."
        raise _refuse("x.device", str(x.device), "a CUDA device", cause)
    if x.is_cuda and (capability := torch.cuda.get_device_capability(x.device)) < (8, 9) and not INTERPRETED:
        cause = "Older chips have no float8: keep the weight in 16 or in 4 bits."
        raise _refuse("compute capability", capability, "8.9 (Ada), 9.0 (Hopper) or above", cause)
