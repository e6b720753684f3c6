"""The optimizer: transformers' schedules, clipping, and no step on a gradient that is not finite."""

from __future__ import annotations

import pytest
import torch

from rlkit import GRPOConfig
from rlkit.config import SCHEDULES
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


def test_its_state_goes_on_exactly(tmp_path):
    def trained(steps, optimizer, layer):
        for step in steps:
            (layer(torch.full((1, 3), 1.0 + step)) ** 2).sum().backward()
            optimizer.step()

    def fresh():
        torch.manual_seed(0)
        layer = torch.nn.Linear(3, 3)
        return layer, Optimizer(layer, GRPOConfig(learning_rate=0.1, weight_decay=0.1), total_steps=9)

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
