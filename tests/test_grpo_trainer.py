"""The trainer on problems whose answer is known: what must not change, and what must change how."""

from __future__ import annotations

import warnings

import pytest
import torch
from small_trainer import PROMPTS, make_trainer, small_model, weights_of

from rlkit import GRPOTrainer, Run
from rlkit.errors import TrainingError


def captured_gradient(trainer: GRPOTrainer) -> dict[str, torch.Tensor]:
    """Run one rollout and update, and return the gradient that the optimizer saw."""
    seen: dict[str, torch.Tensor] = {}

    def keep(optimizer, args, kwargs):
        seen.update(
            {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}
        )

    trainer.policy.optimizer.adamw.register_step_pre_hook(keep)
    rollout = trainer.rollout()
    trainer.update(rollout, trainer.advantages(trainer.score(rollout)))
    return seen


# -- what must not change ---------------------------------------------------------------------------------


@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "dr_grpo"])
@pytest.mark.parametrize("constant", [0.0, 0.1, 1.3])
def test_constant_rewards_change_no_weight(tmp_path, constant, loss_type):
    def same_for_all(completions, **columns):
        return [constant] * len(completions)

    trainer = make_trainer(tmp_path, same_for_all, loss_type=loss_type)
    before = weights_of(trainer.model)
    for _ in range(3):
        metrics = trainer.step()
        assert metrics["dead_groups"] == 1.0
        assert metrics["grad_norm"] == 0.0
    assert all(torch.equal(tensor, before[name]) for name, tensor in trainer.model.state_dict().items())


def test_dust_of_several_float_rewards_changes_no_weight(tmp_path):
    """0.1 + 0.2 is not 0.3 in floating point; a group that differs by that much has no spread."""

    def either(completion_ids, **columns):
        return [0.1 if sum(ids) % 2 else 0.3 for ids in completion_ids]

    def or_other(completion_ids, **columns):
        return [0.2 if sum(ids) % 2 else 0.0 for ids in completion_ids]

    trainer = make_trainer(tmp_path, [either, or_other])
    before = weights_of(trainer.model)
    rewards = trainer.score(trainer.rollout())
    assert len(set(rewards.total.flatten().tolist())) == 2, "the test needs the dust"
    trainer.step()
    assert all(torch.equal(tensor, before[name]) for name, tensor in trainer.model.state_dict().items())


def test_how_the_batch_is_split_does_not_change_the_gradient(tmp_path):
    for loss_type in ("grpo", "bnpo", "dapo", "dr_grpo", "gspo"):
        gradients = []
        for micro in (1, 3, 16):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                trainer = make_trainer(
                    tmp_path, loss_type=loss_type, per_device_train_batch_size=micro, max_grad_norm=0.0
                )
            gradients.append(captured_gradient(trainer))
        for other in gradients[1:]:
            for name, gradient in gradients[0].items():
                torch.testing.assert_close(other[name], gradient, rtol=1e-4, atol=1e-7)


# -- what must change, and how ----------------------------------------------------------------------------


def test_one_token_bandit_follows_its_closed_form(tmp_path):
    """One prompt, one token: π = softmax(W h). Only W learns, by plain gradient ascent, beside a bandit in numpy."""
    import numpy as np

    model, tokenizer = small_model(tied=False)
    model.model.requires_grad_(False)
    learning_rate, steps = 0.5, 20
    trainer = make_trainer(
        tmp_path,
        lambda completion_ids, **columns: [float(ids[0] % 5) for ids in completion_ids],
        (model, tokenizer),
        dataset=PROMPTS[:1],
        prompts_per_step=1,
        num_generations=32,
        max_completion_length=1,
        loss_type="grpo",
        scale_rewards="none",
        max_grad_norm=0.0,
    )
    trainer.policy.optimizer.adamw = torch.optim.SGD([model.lm_head.weight], lr=learning_rate)
    trainer.policy.optimizer.schedule = torch.optim.lr_scheduler.ConstantLR(
        trainer.policy.optimizer.adamw, factor=1.0
    )
    ids = torch.tensor([tokenizer(PROMPTS[0]["prompt"])["input_ids"]])
    with torch.no_grad():
        hidden = model.model(input_ids=ids).last_hidden_state[0, -1].double()  # h, fixed
        logits = (model.lm_head.weight.double() @ hidden).numpy()  # z = W h
    start = logits.copy()
    for _ in range(steps):
        rollout = trainer.rollout()
        trainer.update(rollout, trainer.advantages(trainer.score(rollout)))
        tokens = np.array([completion.token_ids[0] for completion in rollout.completions])
        rewards = (tokens % 5).astype(float)
        advantage = rewards - rewards.mean()
        policy = np.exp(logits - logits.max())
        policy /= policy.sum()
        gradient = -policy * advantage.mean()  # Σ A (1[y] − π) / N
        np.add.at(gradient, tokens, advantage / len(tokens))
        logits = logits + learning_rate * float(hidden @ hidden) * gradient  # ∂z/∂W = h
    with torch.no_grad():
        reached = (model.lm_head.weight.double() @ hidden).numpy()
    assert np.abs(reached - start).max() > 0.1, "the bandit must have learned something"
    np.testing.assert_allclose(reached, logits, atol=1e-4)


def test_grpo_on_policy_has_loss_zero_and_the_policy_gradient(tmp_path):
    """L = −(1/N) Σᵢ (1/|oᵢ|) Σₜ ρ A is 0 in value, and −(1/N) Σᵢ A ∇ mean log π in gradient."""
    trainer = make_trainer(tmp_path, loss_type="grpo", max_grad_norm=0.0)
    rollout = trainer.rollout()
    advantages = trainer.advantages(trainer.score(rollout))
    expected = torch.zeros(())
    for i, completion in enumerate(rollout.completions):
        prompt = rollout.prompt_ids[i // 4]
        ids = torch.tensor([prompt + completion.token_ids])
        logp = trainer.model(input_ids=ids).logits[0].log_softmax(-1)[len(prompt) - 1 : -1]
        taken = logp.gather(-1, torch.tensor(completion.token_ids)[:, None])
        expected = expected - advantages.values.flatten()[i] * taken.mean() / len(rollout)
    wanted = torch.autograd.grad(expected, list(trainer.model.parameters()))
    seen = []
    trainer.policy.optimizer.adamw.register_step_pre_hook(
        lambda *_: seen.extend(p.grad.clone() for p in trainer.model.parameters())
    )
    metrics = trainer.update(rollout, advantages)
    assert metrics["loss"] == pytest.approx(0.0, abs=1e-6)
    assert metrics["grad_norm"] > 1e-3
    for gradient, want in zip(seen, wanted, strict=True):
        torch.testing.assert_close(gradient, want.to(gradient), rtol=1e-3, atol=1e-6)


def test_a_length_reward_moves_length_in_its_direction(tmp_path):
    """Rewarding short answers makes them shorter."""

    def shorter(completion_ids, **columns):
        return [-float(len(ids)) for ids in completion_ids]

    trainer = make_trainer(
        tmp_path,
        shorter,
        num_generations=32,
        max_completion_length=16,
        learning_rate=3e-3,
        loss_type="dr_grpo",
        max_steps=40,
    )
    lengths = [trainer.step()["completion_length"] for _ in range(40)]
    assert sum(lengths[-5:]) / 5 < 0.6 * sum(lengths[:5]) / 5, lengths


def test_kl_iterations_and_entropy_are_wired_in(tmp_path):
    trainer = make_trainer(tmp_path, beta=0.1, num_iterations=2, entropy_coef=0.01)
    first, second = trainer.step(), trainer.step()
    assert first["kl"] > 0, "after the first of two iterations the policy has left the reference"
    assert second["kl"] > 0
    assert first.tokens.ratio.max() > 1.0 > first.tokens.ratio[first.tokens.ratio > 0].min()
    rows = Run(trainer.run_dir).samples(1)
    assert rows[0]["logp_ref"] is not None
    assert rows[0]["logp_old"] != rows[0]["logp_new"]


def test_masked_truncated_completions_are_not_trained_on(tmp_path):
    """With an end token out of reach every completion is truncated, and nothing is left to learn from."""
    model, tokenizer = small_model(tied=False)
    with torch.no_grad():
        model.lm_head.weight[tokenizer.eos_token_id] = 0.0
    trainer = make_trainer(
        tmp_path, model=(model, tokenizer), mask_truncated_completions=True, max_completion_length=1
    )
    metrics = trainer.step()
    assert metrics["truncated"] > 0.9
    finished = [row for row in Run(trainer.run_dir).samples(1) if row["finish_reason"] == "stop"]
    assert (metrics["grad_norm"] == 0.0) == (not any(row["advantage"] for row in finished))
    unmasked = make_trainer(tmp_path / "b", model=(model, tokenizer), max_completion_length=1).step()
    assert unmasked["grad_norm"] > 0.0


# -- stepping, determinism, what is written ---------------------------------------------------------------


def test_the_five_calls_are_a_step(tmp_path):
    whole, parts = make_trainer(tmp_path / "a"), make_trainer(tmp_path / "b")
    for _ in range(2):
        metrics = whole.step()
        rollout = parts.rollout()
        rewards = parts.score(rollout)
        advantages = parts.advantages(rewards)
        same = parts.update(rollout, advantages)
        report = parts.sync()
        assert same["loss"] == metrics["loss"]
        assert report.gap == metrics["sync_gap"]
        for thing in (rollout, rewards, metrics):
            assert len(repr(thing)) < 300, "a learner prints these"
    after = whole.model.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in parts.model.state_dict().items())


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(tmp_path):
    def losses(seed: int, folder: str) -> list[float]:
        trainer = make_trainer(tmp_path / folder, seed=seed)
        return [trainer.step()["loss"] for _ in range(3)]

    assert losses(1, "a") == losses(1, "b")
    assert losses(1, "c") != losses(2, "d")


def test_what_the_engine_sampled_is_what_is_trained_on_and_written(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.train()
    run = Run(trainer.run_dir)
    assert run.steps == [1, 2, 3]
    assert run.status == "finished"
    for row in run.samples(2):
        count = len(row["completion_ids"])
        assert (
            trainer.processing_class.decode(row["completion_ids"], skip_special_tokens=True)
            == row["completion"]
        )
        for name in (
            "tokens",
            "logp_engine",
            "logp_old",
            "logp_new",
            "entropy",
            "ratio",
            "is_weight",
            "topk_ids",
        ):
            assert len(row[name]) == count, name
        assert row["logp_engine"] == pytest.approx(row["logp_old"], abs=1e-4)
        assert row["ratio"] == [1.0] * count
    metrics = run.metrics[1]
    rows = run.samples(2)
    assert metrics["reward"] == pytest.approx(sum(row["reward"] for row in rows) / len(rows))
    assert metrics["tokens"] == sum(len(row["completion_ids"]) for row in rows)


def test_the_learning_rate_follows_its_schedule(tmp_path):
    def rates(folder: str, **settings) -> list[float]:
        trainer = make_trainer(tmp_path / folder, max_steps=4, learning_rate=1.0, **settings)
        return [trainer.step()["learning_rate"] for _ in range(4)]

    assert rates("a", lr_scheduler_type="constant") == [1.0] * 4
    assert rates("b", lr_scheduler_type="linear") == pytest.approx([1.0, 0.75, 0.5, 0.25])
    assert rates("c", lr_scheduler_type="constant_with_warmup", warmup_steps=2) == pytest.approx(
        [0, 0.5, 1, 1]
    )
    assert rates("d", lr_scheduler_type="cosine")[:2] == pytest.approx([1.0, 0.8535534])


def test_gradients_are_clipped_to_the_norm_and_the_norm_before_is_reported(tmp_path):
    trainer = make_trainer(tmp_path, max_grad_norm=1e-3)
    seen = []
    trainer.policy.optimizer.adamw.register_step_pre_hook(
        lambda *_: seen.append(torch.stack([p.grad.norm() for p in trainer.model.parameters()]).norm())
    )
    assert trainer.step()["grad_norm"] > 1e-2
    assert float(seen[0]) == pytest.approx(1e-3, rel=1e-3)


def test_a_rollout_is_trained_on_once(tmp_path):
    """The update cell that is run twice: its ratios would be 1 by construction, and wrong."""
    trainer = make_trainer(tmp_path)
    rollout = trainer.rollout()
    advantages = trainer.advantages(trainer.score(rollout))
    trainer.update(rollout, advantages)
    with pytest.raises(TrainingError, match="set num_iterations"):
        trainer.update(rollout, advantages)
