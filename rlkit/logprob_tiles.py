"""The arithmetic behind `rlkit.logprobs`: tiles of logits, rows × vocabulary, in torch, on any device.

Symbols as in the notebooks: h hidden state [H], W head [V, H], y logits over T [V], p = softmax(y), t target.

    y = softcap · tanh((h Wᵀ + b) / softcap) / T        first the soft-cap, then the temperature

Three ideas do the work:

1. **The target stands apart.** Each row's running sums leave its own target out. With L the logsumexp of the
   *others*, log p_t = -softplus(L - y_t) and 1 - p_t = sigmoid(L - y_t): both keep their digits for a token
   of which the model is sure (1 - p_t = 1e-5), where y_t - logsumexp(y) and W_t - Σ p W cancel to noise.
2. **A frozen head needs two matmuls, not three.** With r = p / (1 - p_t) the distribution over the others,

       ∂ log p_t / ∂h = (1 - p_t) (W_t - Σ_v r_v W_v) / T

   so the loss enters by one factor a row. The sum is accumulated in the forward pass while the vocabulary
   streams by, and rescaled whenever a larger logit turns up, as FlashAttention does with V = W. The backward
   pass has no matmul. (A soft-cap puts its slope inside the sum.)
3. **A trained head recomputes** its tiles in the backward pass, one slice of the vocabulary after another, so
   that each slice of ∂W is summed over all rows in fp32 before it is rounded to the weight's type.

The streaming sums are those of Milakov & Gimelshein, "Online normalizer calculation for softmax" (2018).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

# Stands in for the logit of the target, which is left out. Finite, because inf - inf is not a number.
_LEFT_OUT = -1e30


class Head(NamedTuple):
    """The last layer, and how its logits are shaped."""

    weight: Tensor  # [V, H]
    bias: Tensor | None  # [V]
    softcap: float | None


class Job(NamedTuple):
    """What one call asks for."""

    row_tile: int
    vocab_tile: int
    want_entropy: bool
    entropy_grad: bool
    directions: bool  # accumulate ∂ log p_t / ∂h in the forward pass: the two-matmul form


class Found(NamedTuple):
    """What the forward pass finds, for N rows or for one tile of R rows."""

    logprobs: Tensor  # [N] log p_t
    top: Tensor  # [N] largest logit, and
    log_total: Tensor  # [N] log Σ_v exp(y_v - top): apart, they lose nothing where logits are large
    entropy: Tensor | None  # [N]
    d_logprobs: Tensor | None  # [N, H] ∂ log p_t / ∂h
    d_entropy: Tensor | None  # [N, H] ∂ entropy / ∂h


# ---------------------------------------------------------------------- helpers, one formula each


def _slices(size: int, tile: int) -> Iterator[slice]:
    return (slice(start, min(start + tile, size)) for start in range(0, size, tile))


def _tempered_logits(
    x: Tensor,  # [R, H] rows of hidden
    head: Head,
    columns: slice,  # C tokens of the vocabulary
    inverse: Tensor,  # [R] 1/T
) -> tuple[Tensor, Tensor | None, Tensor]:
    """y [R, C], the soft-cap's slope ∂(T y)/∂z [R, C] (None: 1), and the tile of the weight [C, H]."""
    w = head.weight[columns].to(x.dtype)
    y = torch.mm(x, w.T).to(inverse.dtype)
    slope = None
    if head.bias is not None:
        y += head.bias[columns]
    if head.softcap is not None:
        y.div_(head.softcap).tanh_()
        slope = torch.addcmul(y.new_ones(()), y, y, value=-1)
        y *= head.softcap
    y *= inverse[:, None]
    return y, slope, w


def _locate(targets: Tensor, columns: slice) -> tuple[Tensor, Tensor]:
    """Is each row's target [R] in this tile [R, 1], and in which column [R, 1] (any, if not)?"""
    column = targets[:, None] - columns.start
    width = columns.stop - columns.start
    return (column >= 0) & (column < width), column.clamp(0, width - 1)


def _swap(tile: Tensor, inside: Tensor, column: Tensor, new: Tensor | float) -> Tensor:
    """Overwrite the targets' entries of a tile [R, C] in place; return what stood at `column` [R, 1]."""
    old = tile.gather(1, column)
    tile.scatter_(1, column, torch.where(inside, new, old))
    return old


def _add_matmul(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a @ b, the matmul in b's type, the sum in that of total."""
    if b.dtype == total.dtype:
        total.addmm_(a, b)
    else:
        total += torch.mm(a.to(b.dtype), b)


def _entropy(logp: Tensor, log_others: Tensor, entropy_others: Tensor) -> Tensor:
    """Entropy of "target or not" plus that among the others, [R, 1]: three terms >= 0, nothing cancels."""
    others = log_others.exp()
    return others * entropy_others - logp.exp() * logp - others * log_others


# ---------------------------------------------------------------------- forward


def forward(
    hidden: Tensor,  # [N, H]
    head: Head,
    targets: Tensor,  # [N]
    inverse: Tensor,  # [N] 1/T, in the type of the sums
    job: Job,
) -> Found:
    """All rows, one tile of rows after another."""
    n, width = hidden.shape
    wanted = (True, True, True, job.want_entropy, job.directions, job.directions and job.entropy_grad)
    shapes = ((n,), (n,), (n,), (n,), (n, width), (n, width))
    out: list[Any] = [
        inverse.new_empty(shape) if want else None for shape, want in zip(shapes, wanted, strict=True)
    ]
    for rows in _slices(n, job.row_tile):
        found = _forward_rows(hidden[rows], head, targets[rows], inverse[rows], job)
        for whole, part in zip(out, found, strict=True):
            if whole is not None:
                whole[rows] = part
    return Found(*out)


def _forward_rows(x: Tensor, head: Head, targets: Tensor, inverse: Tensor, job: Job) -> Found:
    """One tile of rows x [R, H] against the whole vocabulary, in one sweep."""
    # With e = exp(y - m), over all but the target: q = Σ e, s = Σ e (y - m); the target's own y and slope
    q, s, y_target, slope_target = inverse.new_zeros(4, x.shape[0], 1)  # [R, 1] each
    m = torch.full_like(q, _LEFT_OUT)  # [R, 1] largest logit so far
    o = inverse.new_zeros(x.shape) if job.directions else None  # [R, H] Σ e slope W
    u = torch.zeros_like(o) if o is not None and job.entropy_grad else None  # [R, H] Σ e (y - m) slope W

    for columns in _slices(head.weight.shape[0], job.vocab_tile):
        y, slope, w = _tempered_logits(x, head, columns, inverse)
        inside, column = _locate(targets, columns)
        y_target = torch.where(inside, _swap(y, inside, column, _LEFT_OUT), y_target)
        if slope is not None:
            slope_target = torch.where(inside, slope.gather(1, column), slope_target)

        m_old, m = m, torch.maximum(m, y.amax(1, keepdim=True))
        step = m_old - m  # <= 0
        shrink = step.exp()
        y -= m
        e = y.exp() if job.want_entropy else y.exp_()
        if job.want_entropy:
            y *= e  # from here on e (y - m)
            s = shrink * (s + step * q) + y.sum(1, keepdim=True)
        q = shrink * q + e.sum(1, keepdim=True)
        if u is not None and o is not None:
            u.addcmul_(step, o).mul_(shrink)
            _add_matmul(u, y if slope is None else y.mul_(slope), w)
        if o is not None:
            o *= shrink
            _add_matmul(o, e if slope is None else e.mul_(slope), w)

    gap = (y_target - m) - q.log()  # target's logit - logsumexp of the others
    logp, log_others = logsigmoid(gap), logsigmoid(-gap)  # log p_t, log (1 - p_t)
    top = torch.maximum(m, y_target)
    log_total = torch.logaddexp(y_target - top, m - top + q.log())
    entropy = _entropy(logp, log_others, q.log() - s / q) if job.want_entropy else None
    d_entropy = None
    if o is not None:
        w_target = head.weight[targets].to(o.dtype)
        if head.softcap is not None:
            w_target *= slope_target
        others = log_others.exp() * inverse[:, None]
        o /= q
        if u is not None and entropy is not None:
            # -Σ_v p_v (log p_v + entropy) ∂y_v/∂h: first the others, then the target
            u.div_(q).addcmul_(log_others - q.log() + entropy, o).mul_(-others)
            d_entropy = u.addcmul_(-logp.exp() * (logp + entropy) * inverse[:, None], w_target)
        o = w_target.sub_(o).mul_(others)
    columns_of = (x if x is None else x[:, 0] for x in (logp, top, log_total, entropy))
    return Found(*columns_of, o, d_entropy)


# ---------------------------------------------------------------------- backward, trained head


def _logit_gradient(
    y: Tensor,  # [R, C] tempered logits; overwritten
    inside: Tensor,  # [R, 1] from `_locate`
    column: Tensor,  # [R, 1]
    saved: Tensor,  # [R, 4] log p_t, top, log_total, entropy
    g: Tensor,  # [R, 1] ∂loss/∂logprobs
    g_entropy: Tensor | None,  # [R, 1] ∂loss/∂entropy
) -> Tensor:
    """∂loss/∂y_v = g (1[v = t] - p_v) - g_entropy p_v (log p_v + entropy), [R, C]; 1 - p_t from log p_t."""
    logp, top, log_total, entropy = saved.split(1, dim=1)
    at_target = -g * torch.expm1(logp)
    y -= top
    if g_entropy is None:
        d = y.exp_().mul_(-g / log_total.exp())
    else:
        at_target = at_target - g_entropy * logp.exp() * (logp + entropy)
        p = y.exp().mul_((-log_total).exp())
        d = y.add_(entropy - log_total).mul_(-g_entropy).sub_(g).mul_(p)
    _swap(d, inside, column, at_target)
    return d


def backward(
    hidden: Tensor,  # [N, H]
    head: Head,
    targets: Tensor,  # [N]
    inverse: Tensor,  # [N] 1/T
    saved: Tensor,  # [N, 4] log p_t, top, log_total, entropy
    g: Tensor,  # [N] ∂loss/∂logprobs
    g_entropy: Tensor | None,  # [N] ∂loss/∂entropy
    needs: tuple[bool, bool, bool],  # do hidden, weight, bias want a gradient?
    job: Job,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of hidden [N, H], weight [V, H] and bias [V], from every tile once more, slice by slice."""
    d_hidden = inverse.new_zeros(hidden.shape) if needs[0] else None
    d_weight = torch.empty_like(head.weight, memory_format=torch.contiguous_format) if needs[1] else None
    d_bias = torch.empty_like(head.bias) if needs[2] and head.bias is not None else None
    for columns in _slices(head.weight.shape[0], job.vocab_tile):
        slice_w = inverse.new_zeros(head.weight[columns].shape) if needs[1] else None  # [C, H]
        slice_b = inverse.new_zeros(columns.stop - columns.start) if needs[2] else None  # [C]
        for rows in _slices(hidden.shape[0], job.row_tile):
            x = hidden[rows]
            y, slope, w = _tempered_logits(x, head, columns, inverse[rows])
            ge = None if g_entropy is None else g_entropy[rows, None]
            d = _logit_gradient(y, *_locate(targets[rows], columns), saved[rows], g[rows, None], ge)
            d *= inverse[rows, None]
            if slope is not None:
                d *= slope
            if slice_b is not None:
                slice_b += d.sum(0)
            if d_hidden is not None:
                _add_matmul(d_hidden[rows], d, w)
            if slice_w is not None:
                _add_matmul(slice_w, d.T, x)
        if d_weight is not None and slice_w is not None:
            d_weight[columns] = slice_w
        if d_bias is not None and slice_b is not None:
            d_bias[columns] = slice_b
    return (None if d_hidden is None else d_hidden.to(hidden.dtype)), d_weight, d_bias


class TiledLogprob(torch.autograd.Function):
    """Saves the directions [N, H] (frozen head), or its inputs and four numbers a row (trained head).

    Inputs: hidden [N, H], weight [V, H], bias [V] or None, targets [N], inverse [N], softcap, Job.
    Outputs: logprobs [N], entropy [N] or None, lse [N].
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor | None, Tensor]:
        hidden, weight, bias, targets, inverse, softcap, job = inputs
        found = forward(hidden, Head(weight, bias, softcap), targets, inverse, job)
        lse = found.top + found.log_total
        ctx.mark_non_differentiable(lse)
        if found.entropy is not None and not job.entropy_grad:
            ctx.mark_non_differentiable(found.entropy)
        ctx.softcap, ctx.job, ctx.hidden_dtype = softcap, job, hidden.dtype
        if job.directions:
            ctx.save_for_backward(found.d_logprobs, found.d_entropy)
        else:
            entropy = torch.zeros_like(lse) if found.entropy is None else found.entropy
            saved = torch.stack((found.logprobs, found.top, found.log_total, entropy), dim=1)
            ctx.save_for_backward(hidden, weight, bias, targets, inverse, saved)
        return found.logprobs, found.entropy, lse

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        g, g_entropy = gradients[0], gradients[1] if ctx.job.entropy_grad else None
        if ctx.job.directions:
            d_logprobs, d_entropy = ctx.saved_tensors
            d_hidden = d_logprobs * g[:, None]
            if g_entropy is not None:
                d_hidden.addcmul_(d_entropy, g_entropy[:, None])
            return d_hidden.to(ctx.hidden_dtype), None, None, None, None, None, None
        hidden, weight, bias, targets, inverse, saved = ctx.saved_tensors
        head = Head(weight, bias, ctx.softcap)
        needs = ctx.needs_input_grad[:3]
        d = backward(hidden, head, targets, inverse, saved, g, g_entropy, needs, ctx.job)
        return *d, None, None, None, None
