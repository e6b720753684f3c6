"""The trainer on real in-process vLLM."""

from __future__ import annotations

import pytest
import torch
from small_trainer import make_trainer, small_model

from rlkit import Run
from rlkit.embedded import build_tokenizer
from rlkit.engines import SyncReport
from rlkit.engines.make import EngineWarning
from rlkit.errors import SyncError


@pytest.mark.engine
def test_vllm_trains_with_shared_and_reloaded_weights_alike(tmp_path):
    losses = {}
    for weight_sync in ("shared", "reload"):
        with make_trainer(
            tmp_path / weight_sync, fast_inference=True, weight_sync=weight_sync, sync_check_steps=2
        ) as trainer:
            assert trainer.weight_sync == weight_sync
            metrics = [trainer.step() for _ in range(3)]
            assert all(m["engine_gap_max"] < 1e-4 and m["sync_gap"] < 1e-4 for m in metrics)
            losses[weight_sync] = [m["loss"] for m in metrics]
            proofs = [event for event in Run(trainer.run_dir).events if event["event"] == "sync_check"]
            assert [event["step"] for event in proofs] == [2]
            assert proofs[0]["moved"] > 0.01 > 1e-4 > proofs[0]["gap"]
    assert losses["shared"] == pytest.approx(losses["reload"], abs=1e-5)


@pytest.mark.engine
def test_a_model_that_vllm_does_not_know_falls_back_and_says_why(tmp_path):
    model, tokenizer = small_model()
    model.__class__ = type("HomemadeForCausalLM", (type(model),), {})
    with pytest.warns(EngineWarning, match="does not know the architecture HomemadeForCausalLM"):
        trainer = make_trainer(tmp_path, model=(model, tokenizer), fast_inference=True)
    assert trainer.engine.name.startswith("Hugging Face")
    trainer.step()


@pytest.mark.engine
def test_a_forgotten_sync_does_not_sample_from_old_weights(tmp_path):
    """Cell by cell with ``reload``, the sync cell left out: the next rollout synchronises by itself."""
    with make_trainer(tmp_path, fast_inference=True, weight_sync="reload", learning_rate=1e-2) as trainer:
        for _ in range(2):
            rollout = trainer.rollout()
            metrics = trainer.update(rollout, trainer.advantages(trainer.score(rollout)))
            assert metrics["engine_gap_max"] < 1e-4


@pytest.mark.engine
def test_gpt_oss_is_refused_or_falls_back(tmp_path):
    from tiny_models import random_model

    tokenizer = build_tokenizer()
    model = random_model("gptoss", tied=False)
    model.resize_token_embeddings(len(tokenizer))
    with pytest.raises(SyncError, match="set fast_inference=False"):
        make_trainer(tmp_path, model=(model, tokenizer), fast_inference=True)
    with pytest.warns(EngineWarning, match="generating with transformers instead of vLLM"):
        trainer = make_trainer(tmp_path, model=(model, tokenizer), fast_inference=None)
    assert trainer.engine.name.startswith("Hugging Face")


@pytest.mark.engine
def test_weights_changed_behind_the_trainers_back_are_noticed(tmp_path):
    with make_trainer(tmp_path, fast_inference=True, weight_sync="reload") as trainer:
        trainer.step()
        trainer.engine.transport.push = lambda model: SyncReport("reload", 0, 0.0)
        with torch.no_grad():
            trainer.model.model.embed_tokens.weight.mul_(1.5)
        with pytest.raises(SyncError, match="Rollouts would come from the wrong weights"):
            trainer.sync()
