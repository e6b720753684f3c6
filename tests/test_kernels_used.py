"""`rlkit.logprobs` on the Triton kernels: the same numbers as in torch, and who is chosen.

The comparison runs in a process of its own, because Triton decides on import whether to interpret its kernels.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest
import torch
from tiny_models import VOCAB, random_model

from rlkit.errors import ConfigError
from rlkit.logprobs import check_head, completion_logprobs, linear_logprob

INSIDE = os.environ.get("TRITON_INTERPRET") == "1"


def inside(test):
    """A test of the process that the first test starts; elsewhere there is none of that name."""
    return test if INSIDE else None


@pytest.mark.skipif(INSIDE or importlib.util.find_spec("triton") is None, reason="needs Triton")
def test_in_a_process_where_triton_interprets():
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", __file__]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def both(monkeypatch, function):
    """What `function` returns with torch tiles, and with the Triton kernels."""
    found = []
    for name in ("torch", "triton"):
        monkeypatch.setenv("RLKIT_KERNELS", name)
        found.append(function())
    return found


@inside
@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("more", [{}, {"entropy_grad": True}, {"softcap": 4.0, "return_entropy": True}])
def test_values_and_gradients_are_those_of_the_torch_tiles(monkeypatch, trained, more):
    torch.manual_seed(0)
    hidden = torch.randn(9, 20, requires_grad=True)  # [N, H]
    weight = torch.randn(70, 20, requires_grad=trained)  # [V, H]
    targets, mask = torch.randint(0, 70, (9,)), torch.arange(9) % 4 != 2
    warm = torch.rand(9) + 0.5

    def call():
        out = linear_logprob(hidden, weight, targets, mask=mask, temperature=warm, **more)
        total = out.logprobs.sum() + (out.entropy.sum() if "entropy_grad" in more else 0)
        gradients = torch.autograd.grad(total, [hidden, weight] if trained else [hidden])
        return [part for part in (*out, *gradients) if part is not None]

    for mine, theirs in zip(*both(monkeypatch, call), strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-5, atol=1e-5)


@inside
def test_rows_that_are_all_masked_cost_nothing(monkeypatch):
    hidden, weight = torch.randn(4, 20, requires_grad=True), torch.randn(70, 20)
    nowhere, ids = torch.zeros(4, dtype=torch.bool), torch.full((4,), -100)

    def call():
        out = linear_logprob(hidden, weight, ids, mask=nowhere, return_entropy=True)
        return [*out, *torch.autograd.grad(out.logprobs.sum(), hidden)]

    for found in both(monkeypatch, call):
        assert all(part.eq(0).all() for part in found) and found[0].shape == (4,)


@inside
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_kernels_must_prove_themselves(monkeypatch, recwarn, dtype):
    """On a new GPU nobody has seen them run."""
    import rlkit_kernels

    from rlkit import kernel_choice

    kernel_choice.proven.cache_clear()
    assert kernel_choice.proven(torch.device("cpu"), dtype) and not recwarn.list
    right = rlkit_kernels.linear_logprob

    def wrong(hidden, weight, targets):
        found = right(hidden, weight, targets)
        return found._replace(logprobs=found.logprobs * 1.05)

    def broken(hidden, weight, targets):
        raise RuntimeError("out of shared memory")

    for sabotaged, says in ((wrong, "differ from torch by"), (broken, "out of shared memory")):
        monkeypatch.setattr(rlkit_kernels, "linear_logprob", sabotaged)
        kernel_choice.proven.cache_clear()
        with pytest.warns(RuntimeWarning, match=says):
            assert not kernel_choice.proven(torch.device("cpu"), dtype)
    kernel_choice.proven.cache_clear()


@inside
def test_a_model_gives_the_same_log_probabilities(monkeypatch):
    model = random_model("qwen2", tied=True)
    ids = torch.randint(0, VOCAB, (2, 7), generator=torch.Generator().manual_seed(1))  # [N, L]
    ones = torch.ones_like(ids)

    def call():
        model.zero_grad()
        out = completion_logprobs(model, ids, ones, 4, temperature=0.7)
        out.logprobs.sum().backward()
        check_head(model, ids)
        return [out.logprobs.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]

    mine, theirs = both(monkeypatch, call)
    assert len(mine) == len(theirs) > 5
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(mine, theirs, strict=True))


@pytest.mark.skipif(INSIDE, reason="of a process without the interpreter")
def test_who_is_chosen(monkeypatch):
    row = torch.randn(1, 4), torch.randn(5, 4), torch.tensor([2])
    monkeypatch.setenv("RLKIT_KERNELS", "tritn")
    with pytest.raises(ConfigError, match=r"unknown RLKIT_KERNELS 'tritn'.*triton"):
        linear_logprob(*row)
    monkeypatch.setenv("RLKIT_KERNELS", "triton")
    with pytest.raises(ConfigError, match=r"RLKIT_KERNELS='triton'.*TRITON_INTERPRET=1"):
        linear_logprob(*row)  # on a CPU, without the interpreter
    for name in ("auto", "torch", ""):
        monkeypatch.setenv("RLKIT_KERNELS", name)
        assert linear_logprob(*row).logprobs.shape == (1,)
    monkeypatch.setenv("RLKIT_KERNELS", "triton")
    double = [tensor.double() if tensor.is_floating_point() else tensor for tensor in row]
    assert linear_logprob(*double).logprobs.dtype == torch.float64  # torch's own, whatever is asked for
