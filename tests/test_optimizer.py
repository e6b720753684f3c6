"""The optimizer: transformers' schedules, clipping, and no step on a gradient that is not finite."""

from __future__ import annotations

import pytest
import torch

from rlkit import GRPOConfig
from rlkit.config import SCHEDULES, ConfigWarning
from rlkit.trainers.optimizer import Optimizer


@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.parametrize("warmup", [0, 3])
def test_schedules_are_those_of_transformers(kind, warmup):
    from transformers import get_scheduler

    if kind == "constant" and warmup:
        warmup = 0
    layer = torch.nn.Linear(2, 2)
    args = GRPOConfig(learning_rate=0.1, lr_scheduler_type=kind, warmup_steps=warmup)
    ours = Optimizer(layer, args, total_steps=5, updates_per_step=2)
    adamw = torch.optim.AdamW(layer.parameters(), lr=0.1)
    theirs = get_scheduler(kind, adamw, num_warmup_steps=2 * warmup, num_training_steps=10)
    for _ in range(10):
        layer(torch.ones(1, 2)).sum().backward()
        found = ours.step()
        assert found["learning_rate"] == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)
        adamw.step()
        theirs.step()


def test_a_gradient_that_is_not_finite_changes_nothing():
    layer = torch.nn.Linear(2, 2)
    optimizer = Optimizer(layer, GRPOConfig(learning_rate=0.1), total_steps=5)
    before = [parameter.clone() for parameter in layer.parameters()]
    (layer(torch.ones(1, 2)).sum() * float("nan")).backward()
    assert optimizer.step()["skipped"]
    assert all(torch.equal(a, b) for a, b in zip(before, layer.parameters(), strict=True))
    assert all(parameter.grad is None for parameter in layer.parameters())


def bf16_layer():
    torch.manual_seed(0)
    return torch.nn.Linear(8, 8, bias=False).to(torch.bfloat16)


def test_small_steps_add_up_in_bfloat16():
    """Each step moves a weight by 1e-5, far below its rounding; after 200 they are where float32 would be, rounded."""
    layer, twin = bf16_layer(), bf16_layer().float()
    before = layer.weight.detach().clone()
    settings = GRPOConfig(learning_rate=1e-5, lr_scheduler_type="constant", max_grad_norm=0)
    ours, theirs = (
        Optimizer(layer, settings, 200),
        torch.optim.AdamW(twin.parameters(), lr=1e-5, weight_decay=0.0),
    )
    x = torch.ones(1, 8)
    for step in range(200):
        layer(x.bfloat16()).float().sum().backward()
        ours.step()
        twin(x).sum().backward()
        theirs.step()
        theirs.zero_grad()
        if step == 0:
            large = before.abs() > 0.05
            assert torch.equal(layer.weight[large], before[large]), "one step alone is rounded away"
    assert torch.allclose(ours.parameters[0], twin.weight, atol=1e-7)
    assert torch.equal(layer.weight, twin.weight.bfloat16())
    assert float((layer.weight.detach().float() - before.float()).mean()) == pytest.approx(-200e-5, rel=0.1)
    assert layer.weight.dtype == torch.bfloat16 and layer.weight.grad is None


def test_gradients_of_micro_batches_add_up_in_float32():
    """1 and then 300 times 1/512: in bfloat16 the sum would stay at 1."""
    layer = bf16_layer()
    optimizer = Optimizer(layer, GRPOConfig(max_grad_norm=0), 1)
    for scale in (1.0, *[1 / 512] * 300):
        layer.weight.grad = torch.full_like(layer.weight, scale)
        optimizer.collect()
        assert layer.weight.grad is None
    assert optimizer.parameters[0].grad[0, 0] == pytest.approx(1 + 300 / 512)
    assert optimizer.step()["grad_norm"] == pytest.approx(8 * (1 + 300 / 512))
    assert optimizer.parameters[0].grad is None


def test_a_second_optimizer_starts_from_the_model():
    layer = bf16_layer()
    for _ in range(2):
        optimizer = Optimizer(layer, GRPOConfig(learning_rate=0.1, lr_scheduler_type="constant"), 2)
        before = layer.weight.detach().clone()
        layer(torch.ones(1, 8, dtype=torch.bfloat16)).sum().backward()
        optimizer.step()
        assert not torch.equal(layer.weight, before)
        assert torch.equal(layer.weight, optimizer.parameters[0].bfloat16())


def test_float16_gradients_are_warned_of():
    with pytest.warns(ConfigWarning, match="float16: gradients below 6e-8"):
        Optimizer(torch.nn.Linear(2, 2).half(), GRPOConfig(), 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_its_state_goes_on_exactly(tmp_path, dtype):
    def trained(steps, optimizer, layer):
        for step in steps:
            (layer(torch.full((1, 3), 1.0 + step, dtype=dtype)) ** 2).sum().backward()
            optimizer.step()

    def fresh():
        torch.manual_seed(0)
        layer = torch.nn.Linear(3, 3).to(dtype)
        return layer, Optimizer(layer, GRPOConfig(learning_rate=0.01, weight_decay=0.1), total_steps=9)

    whole, optimizer = fresh()
    trained(range(8), optimizer, whole)
    first, optimizer = fresh()
    trained(range(4), optimizer, first)
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    second, resumed = fresh()
    second.load_state_dict(first.state_dict())
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    trained(range(4, 8), resumed, second)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), second.parameters(), strict=True))
