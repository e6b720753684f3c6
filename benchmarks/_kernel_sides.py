"""The sides that `benchmarks.kernels` compares, and the float64 that judges them.

All compute the same step: the policy-gradient loss of one on-policy batch, and its gradients,

    loss = -Σ_rows A exp(log p - stopped log p)        ∂loss/∂log p = -A

from hidden states [N, H], a head [V, H], targets [N] and one advantage for each of B completions of N / B tokens.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

COMPLETIONS = 8  # generations of one prompt, as in the guide's 20k × 8
CHUNK = (1024, 8192)  # rows × vocabulary of the chunked torch form, its default on a GPU
REFERENCE_ROWS = 512  # of float64 logits held at a time


class Problem(NamedTuple):
    hidden: Tensor  # [N, H]
    weight: Tensor  # [V, H]
    targets: Tensor  # [N]
    advantages: Tensor  # [B], B divides N

    @property
    def wanted(self) -> list[Tensor]:
        """What the step differentiates by."""
        return [x for x in (self.hidden, self.weight) if x.requires_grad]

    def rows(self, index: Tensor) -> Problem:  # [n] row numbers
        """The same problem on some rows, each with its own advantage."""
        each = self.advantages.repeat_interleave(len(self.targets) // len(self.advantages))
        hidden = self.hidden.detach()[index].requires_grad_(self.hidden.requires_grad)
        return Problem(hidden, self.weight, self.targets[index], each[index])


def problem(
    rows: int,
    vocab: int,
    width: int,
    head: str,
    dtype: torch.dtype,
    device: str,
    seed: int,
    peaked: bool = False,
) -> Problem:
    """Random, with logits of spread 2; where `peaked`, every other row is sure of its target (1 - p ≈ 1e-5)."""
    r = torch.Generator(device).manual_seed(seed)
    hidden = torch.randn(rows, width, generator=r, device=device)
    weight = torch.randn(vocab, width, generator=r, device=device).mul_(2 / width**0.5)
    targets = torch.randint(0, vocab, (rows,), generator=r, device=device)
    targets[:2], targets[-1:] = 0, vocab - 1
    if peaked:
        own = weight[targets[::2]]
        hidden[::2] += own * (25 / own.square().sum(1, keepdim=True))
    count = COMPLETIONS if rows % COMPLETIONS == 0 else 1
    advantages = torch.randn(count, generator=r, device=device)
    return Problem(
        hidden.to(dtype).requires_grad_(head != "scored"),
        weight.to(dtype).requires_grad_(head == "trained"),
        targets,
        advantages,
    )


# ---------------------------------------------------------------------- the sides


def plain_logprobs(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    logp = torch.log_softmax((hidden @ weight.T).float(), -1)  # [N, V]
    return logp.gather(1, targets[:, None])[:, 0]


def kernel_logprobs(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    from rlkit_kernels import linear_logprob

    found: Tensor = linear_logprob(hidden, weight, targets).logprobs
    return found


def chunked_logprobs(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """The torch form, whatever `rlkit.logprobs` would choose on this device."""
    from rlkit.logprob_tiles import Job, TiledLogprob

    directions = torch.is_grad_enabled() and hidden.requires_grad and not weight.requires_grad
    inverse = torch.ones(len(targets), device=hidden.device)
    found: Tensor = TiledLogprob.apply(
        hidden, weight, None, targets, inverse, None, Job(*CHUNK, False, False, directions)
    )[0]
    return found


def policy_loss(logprobs: Tensor, advantages: Tensor) -> Tensor:
    each = advantages.repeat_interleave(len(logprobs) // len(advantages))
    return -(each * torch.exp(logprobs - logprobs.detach())).sum()


def _through(logprobs: Callable[..., Tensor]) -> Callable[[Problem], Tensor]:
    return lambda p: policy_loss(logprobs(p.hidden, p.weight, p.targets), p.advantages)


def _liger(p: Problem) -> Tensor:
    """Liger's loss is the mean over all tokens (bnpo); one completion a chunk, as TRL calls it."""
    from liger_kernel.chunked_loss import LigerFusedLinearGRPOLoss

    count = len(p.advantages)
    fused = LigerFusedLinearGRPOLoss(beta=0.0, use_ref_model=False, loss_type="bnpo")
    loss = fused(
        p.hidden.view(count, -1, p.hidden.shape[1]),
        p.weight,
        p.targets.view(count, -1),
        torch.ones(count, len(p.targets) // count, device=p.hidden.device),
        p.advantages,
    )[0]
    return loss * len(p.targets)


class Side(NamedTuple):
    name: str
    loss: Callable[[Problem], Tensor]
    logprobs: Callable[..., Tensor] | None  # None: it gives nothing but the loss, so it cannot score


def sides(names: list[str]) -> tuple[list[Side], dict[str, str]]:
    """Those that can run here, and why the others cannot. New functions each time: `torch.compile` starts afresh."""
    compiled = torch.compile(plain_logprobs, dynamic=False)
    found = {
        "ours": Side("ours", _through(kernel_logprobs), kernel_logprobs),
        "plain": Side("plain", _through(plain_logprobs), plain_logprobs),
        "compiled": Side("compiled", torch.compile(_through(plain_logprobs), dynamic=False), compiled),
        "liger": Side("liger", _liger, None),
        "chunked": Side("chunked", _through(chunked_logprobs), chunked_logprobs),
    }
    missing = {}
    for name, package in (("liger", "liger_kernel"), ("ours", "triton"), ("ours", "rlkit_kernels")):
        if not importlib.util.find_spec(package):
            missing[name] = f"{package} is not installed"
    return [found[name] for name in names if name not in missing], {
        name: why for name, why in missing.items() if name in names
    }


def step(side: Side, p: Problem) -> tuple[Tensor, ...]:
    """Forward and backward; ∂loss/∂ what the problem wants. Scoring: the log-probabilities alone."""
    if not p.wanted:
        assert side.logprobs is not None
        with torch.no_grad():
            return (side.logprobs(p.hidden, p.weight, p.targets),)
    return torch.autograd.grad(side.loss(p), p.wanted)


# ---------------------------------------------------------------------- what is right


def exact(p: Problem) -> tuple[Tensor, Tensor, Tensor | None]:
    """log p [N], and for a problem with gradients ∂loss/∂hidden [N, H] and ∂loss/∂weight [V, H], in float64.

    By the definition, ∂loss/∂logits = -A (1[target] - p); 1 - p of the target is the sum of the others.
    """
    weight = p.weight.detach().double()
    each = p.advantages.double().repeat_interleave(len(p.targets) // len(p.advantages))
    logprobs = each.new_empty(len(p.targets))
    d_hidden = each.new_empty(p.hidden.shape)
    d_weight = torch.zeros_like(weight) if p.weight.requires_grad else None
    for start in range(0, len(p.targets), REFERENCE_ROWS):
        rows = slice(start, start + REFERENCE_ROWS)
        x = p.hidden.detach()[rows].double()
        target = p.targets[rows, None]
        logp = torch.log_softmax(x @ weight.T, -1)  # [R, V]
        logprobs[rows] = logp.gather(1, target)[:, 0]
        if p.hidden.requires_grad:
            d = logp.exp_().scatter_(1, target, 0)
            d.scatter_(1, target, -d.sum(1, keepdim=True)).mul_(each[rows, None])
            d_hidden[rows] = d @ weight
            if d_weight is not None:
                d_weight += d.T @ x
    return logprobs, d_hidden, d_weight


def errors(side: Side, p: Problem, sample: Tensor | None = None) -> dict[str, float]:
    """Largest relative errors against float64, of all rows or of a sample [n] of them.

    Values: against the largest. Gradients of hidden: of each row against that row. Gradients of the weight: of each
    row against that row or a typical one, whichever is larger (a row may be next to nothing).
    """
    found: dict[str, float] = {}
    # What torch.compile made is not poisoned: it would compile once more for the other mode
    with nullcontext() if side.name in ("compiled", "liger") else poisoned(p):
        gradients = step(side, p) if p.wanted else ()
        with torch.no_grad():
            values = None if side.logprobs is None else side.logprobs(p.hidden, p.weight, p.targets)
    part = p if sample is None else p.rows(sample)
    if sample is not None:
        part = part._replace(weight=p.weight.detach())
    logprobs, d_hidden, d_weight = exact(part)
    if values is not None:
        values = values if sample is None else values[sample]
        found["values"] = _worst((values.double() - logprobs).abs() / logprobs.abs().max())
    if gradients:
        own = gradients[0] if sample is None else gradients[0][sample]
        found["d_hidden"] = _worst((own.double() - d_hidden).norm(dim=1) / d_hidden.norm(dim=1))
    if d_weight is not None:
        size = d_weight.norm(dim=1)
        gap = (gradients[1].double() - d_weight).norm(dim=1)
        found["d_weight"] = _worst(gap / torch.maximum(size, size.median()))
    return found


def _worst(error: Tensor) -> float:
    return float(torch.where(error.isnan(), torch.inf, error).max())


@contextmanager
def poisoned(p: Problem) -> Iterator[None]:
    """Memory that is handed out holds NaN: what is read before it is written shows in the result."""
    if p.hidden.is_cuda:
        result = p.hidden.numel() * p.hidden.element_size()
        sizes = [512] * 512 + [2**20] * 32 + [2**26] * 8 + [result] * 3
        blocks = [torch.full((size // 4,), torch.nan, device=p.hidden.device) for size in sizes]
        del blocks  # back to the caching allocator, which gives them out next
    mode = torch.are_deterministic_algorithms_enabled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.use_deterministic_algorithms(True, warn_only=True)  # torch.empty fills with NaN then
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(mode)


def versions() -> dict[str, Any]:
    from importlib.metadata import PackageNotFoundError, version

    found = {"cuda": torch.version.cuda}
    for name in ("torch", "triton", "liger-kernel"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
