"""Hidden states and targets in, log-probabilities and entropies out: the logits never reach memory as a whole.

Three paths, told apart by what wants a gradient:

1. **Nothing, or a trained head's forward:** one fused Triton kernel, a block of rows × a split of the vocabulary a
   program, logits in registers; a small second one adds the splits up. One matmul.
2. **A frozen head and hidden states with a gradient:** tile of rows × tile of the vocabulary. A library matmul into a
   buffer that stays in L2, a Triton kernel that turns logits into weights, a second library matmul that accumulates
   Σ_v r_v W_v, r = p / (1 - p_t). With it the gradient is known but for one factor a row:

       ∂ log p_t / ∂h = (1 - p_t) (W_t - Σ_v r_v W_v) / T

   and the backward pass is one product of [N] and [N, H]. Two matmuls in all, three with an entropy gradient.
3. **A trained head's backward:** every tile once more, slice of the vocabulary by slice, so that a slice of ∂W is
   summed over all rows in fp32 before it is rounded. Three matmuls.

Nothing here waits for the device, nothing grows with rows × vocabulary (`extra_bytes` is the formula), and the order
of every sum is fixed. Sources: Milakov & Gimelshein, "Online normalizer calculation for softmax" (2018) for the
running sums; FlashAttention-4 (2026) for moving the reference of the exponentials only when it must.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlkit_kernels import logprob_configs as configs
from rlkit_kernels.logprob_math import STATES, interpreting
from rlkit_kernels.logprob_paths import Job, even, from_directions, on_device, scores, with_directions
from rlkit_kernels.logprob_trained import trained_backward


class LinearLogprob(NamedTuple):
    """What the last layer says about each target token, [N] fp32 each."""

    logprobs: Tensor  # log p(target), differentiable
    entropy: Tensor | None  # -Σ_v p_v log p_v in nats, where asked for; differentiable with entropy_grad
    lse: Tensor  # logsumexp of the tempered logits; not differentiable


def linear_logprob(
    hidden: Tensor,  # [N, H] after the final norm: float32, bfloat16 or float16
    weight: Tensor,  # [V, H] the head; if its type differs, it is cast to that of `hidden`, tile by tile
    targets: Tensor,  # [N] token ids
    *,
    bias: Tensor | None = None,  # [V]
    temperature: float | Tensor = 1.0,  # number or [N]; no gradient
    softcap: float | None = None,  # Gemma's final_logit_softcapping
    vocab: int | None = None,  # ids from here on are padding of the head: probability 0, gradient 0
    return_entropy: bool = False,
    entropy_grad: bool = False,  # implies return_entropy
    row_tile: int | None = None,
    vocab_tile: int | None = None,
) -> LinearLogprob:
    """log p(target | h) for each row, without ever holding [N, V].

    y = softcap · tanh((h Wᵀ + b) / softcap) / T    first the soft-cap, then the temperature, as in vLLM
    logprobs = y_target - logsumexp(y)              entropy = -Σ_v p_v log p_v

    A head is frozen when neither `weight` nor `bias` requires a gradient; what is then kept for the backward pass is
    [N, H] in the type of `hidden`, which becomes the gradient in place (with `retain_graph` it is copied). Matmuls
    take that type and sum in fp32 (float32 in full, unless torch's own switch for TF32 is on); all else is fp32.

    Target ids and a tensor of temperatures are not looked at, since that would wait for the device: a target outside
    [0, vocab) has log-probability -inf and no gradient. Extra memory: `extra_bytes`. Raises `ValueError` for shapes,
    types and numbers that do not fit, and where there is neither a GPU nor Triton's interpreter.
    """
    vocab = weight.shape[0] if vocab is None and weight.ndim == 2 else vocab
    tiny = interpreting()
    row_tile = (configs.TINY_ROW_TILE if tiny else configs.ROW_TILE) if row_tile is None else row_tile
    vocab_tile = (
        (configs.TINY_VOCAB_TILE if tiny else configs.VOCAB_TILE) if vocab_tile is None else vocab_tile
    )
    _check(hidden, weight, targets, bias, temperature, softcap, vocab, row_tile, vocab_tile)
    assert vocab is not None
    n, device = hidden.shape[0], hidden.device
    if isinstance(temperature, Tensor):
        inverse = 1 / temperature.detach().to(device, torch.float32)
        inverse = inverse.reshape(-1).expand(n).contiguous()  # [N]
    else:
        inverse = torch.full((n,), 1 / temperature, device=device)  # [N]
    targets = targets.to(device, torch.long).contiguous()  # [N]
    grad = torch.is_grad_enabled()
    trained = weight.requires_grad or (bias is not None and bias.requires_grad)
    job = Job(
        None if softcap is None else float(softcap),
        return_entropy or entropy_grad,
        entropy_grad,
        grad and hidden.requires_grad and not trained,
        vocab,
        min(row_tile, even(n, row_tile)),
        min(vocab_tile, even(vocab, vocab_tile)),
    )
    return LinearLogprob(*_LinearLogprob.apply(hidden, weight, bias, targets, inverse, job))


def extra_bytes(
    n: int,  # N rows
    width: int,  # H
    itemsize: int,  # w, bytes of an element of `hidden`
    *,
    path: int = 2,  # 1, 2 or 3, see above
    weight_itemsize: int | None = None,  # of the head; None: as `hidden`
    entropy_grad: bool = False,
    row_tile: int = configs.ROW_TILE,  # R
    vocab_tile: int = configs.VOCAB_TILE,  # C
    splits: int = 8,  # of path 1, from N = 2,048 on; up to 32 below
) -> int:
    """Most bytes held at a time, forward and backward, besides the inputs and path 3's gradient of the weight [V, H].

    path 1     (44 + 12 splits) N
    path 2     N H w + 44 N + R C (4 + w) + 4 R H + 40 R            an entropy gradient: N H w + R C w + 4 R H more
    path 3     4 N H + 60 N + R C (4 + w) + R C / 2 + 4 C H + 8 C   w < 4: N H w more
    2 and 3    C H w more where the head has another type than `hidden`

    [N, H] is the gradient of `hidden` itself, in path 2 kept from the forward pass on, in path 3 summed in fp32 and
    then rounded; 44 N are outputs and numbers kept by row. Nothing grows with N × V.
    """
    weight_itemsize = itemsize if weight_itemsize is None else weight_itemsize
    r, c = min(row_tile, n), vocab_tile
    cast = c * width * itemsize if weight_itemsize != itemsize else 0
    first = (44 + 12 * splits) * n
    if path == 1:
        return first
    if path == 2:
        sides = 2 if entropy_grad else 1
        kept = sides * n * width * itemsize + 44 * n
        return kept + r * c * (4 + sides * itemsize) + 4 * sides * r * width + 4 * STATES * r + cast
    result = 4 * n * width + (n * width * itemsize if itemsize < 4 else 0) + 60 * n
    parts = -(-r // configs.GRADIENT[0]) * c * 4
    return max(first, result + r * c * (4 + itemsize) + parts + 4 * c * width + 8 * c + cast)


# ---------------------------------------------------------------------- checks


def _wrong(name: str, value: object, allowed: str, cause: str = "") -> ValueError:
    message = f"{name}={value!r} is not usable. Allowed: {allowed}."
    return ValueError(f"{message} {cause}" if cause else message)


def _check(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    temperature: float | Tensor,
    softcap: float | None,
    vocab: int | None,
    row_tile: int,
    vocab_tile: int,
) -> None:
    """Shapes, types and numbers, before any work; nothing that would wait for the device."""
    floats = (torch.float32, torch.bfloat16, torch.float16)
    for name, tensor in (("hidden", hidden), ("weight", weight)):
        if tensor.ndim != 2:
            raise _wrong(f"{name}.shape", list(tensor.shape), "2 dimensions", "Flatten [B, L, H] to [N, H].")
        if tensor.dtype not in floats:
            cause = "There is no float64 here: rlkit.logprobs computes it in tiles of torch."
            raise _wrong(f"{name}.dtype", tensor.dtype, "float32, bfloat16 or float16", cause)
    n, width = hidden.shape
    rows = weight.shape[0]
    if weight.shape[1] != width or width == 0 or rows == 0:
        raise _wrong("weight.shape", list(weight.shape), f"[V, {width}], as hidden is {list(hidden.shape)}")
    if targets.shape != (n,) or targets.is_floating_point():
        raise _wrong("targets", f"{targets.dtype} {list(targets.shape)}", f"token ids of shape [{n}]")
    if bias is not None and bias.shape != (rows,):
        raise _wrong("bias.shape", list(bias.shape), f"[{rows}], one for each token of the vocabulary")
    if isinstance(temperature, Tensor):
        if temperature.numel() != 1 and temperature.shape != (n,):
            raise _wrong("temperature.shape", list(temperature.shape), f"one number, or [{n}]")
    elif not temperature > 0:
        cause = "Greedy sampling has no distribution of its own: score it at temperature 1."
        raise _wrong("temperature", temperature, "a number above 0", cause)
    if softcap is not None and not softcap > 0:
        raise _wrong("softcap", softcap, "a number above 0, or None")
    if vocab is None or not 0 < vocab <= rows:
        raise _wrong("vocab", vocab, f"1 to {rows}, the rows of weight")
    for name, size, most in (("row_tile", row_tile, 65536), ("vocab_tile", vocab_tile, configs.VOCAB_BLOCK)):
        if not 0 < size <= most:
            raise _wrong(name, size, f"1 to {most}")
    devices = {x.device for x in (hidden, weight, bias) if x is not None}
    if len(devices) > 1:
        raise _wrong("hidden, weight, bias", sorted(map(str, devices)), "tensors on one device")
    if not (hidden.is_cuda or interpreting()):
        cause = "On a CPU, TRITON_INTERPRET=1 before Python starts runs the kernels in Triton's interpreter, slowly."
        raise _wrong("hidden.device", str(hidden.device), "a CUDA device", cause)


# ---------------------------------------------------------------------- autograd


class _LinearLogprob(torch.autograd.Function):
    """Saves the directions [N, H] (path 2), or its inputs and five numbers a row (path 3).

    Inputs: hidden [N, H], weight [V, H], bias [V] or None, targets [N], inverse [N], Job.
    Outputs: logprobs [N], entropy [N] or None, lse [N].
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor | None, Tensor]:
        hidden, weight, bias, targets, inverse, job = inputs
        ctx.job = job
        if job.directions:
            with on_device(hidden.device):
                out, direction, d_entropy = with_directions(hidden, weight, bias, targets, inverse, job)
            ctx.save_for_backward(direction, d_entropy, out[3])
        else:
            out = scores(hidden, weight, bias, targets, inverse, job)
            ctx.save_for_backward(hidden, weight, bias, targets, inverse, out)
        # Copies: an output must not be a view of what is saved, and must not hold the other numbers in memory
        logprobs, lse = out[0].clone(), out[2].clone()
        entropy = out[1].clone() if job.want_entropy else None
        ctx.mark_non_differentiable(lse)
        if entropy is not None and not job.entropy_grad:
            ctx.mark_non_differentiable(entropy)
        return logprobs, entropy, lse

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        job = ctx.job
        g, g_entropy = gradients[0], gradients[1] if job.entropy_grad else None
        if job.directions:
            direction, d_entropy, scale = ctx.saved_tensors
            return from_directions(direction, d_entropy, scale, g, g_entropy), None, None, None, None, None
        hidden, weight, bias, targets, inverse, saved = ctx.saved_tensors
        g = g.contiguous()
        g_entropy = None if g_entropy is None else g_entropy.contiguous()
        needs = ctx.needs_input_grad[:3]
        with on_device(hidden.device):
            d = trained_backward(hidden, weight, bias, targets, inverse, saved, g, g_entropy, needs, job)
        return *d, None, None, None
