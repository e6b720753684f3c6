"""Several updates a rollout, the weight against an engine/trainer mismatch, and dynamic sampling."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from small_trainer import PROMPTS, make_trainer, small_model, token_sum, weights_of

from rlkit.errors import ConfigError
from rlkit.objectives import mismatch_statistics
from rlkit.runs import Run
from rlkit.trainers.dynamic_sampling import replace_dead_groups


def gradients_of(trainer) -> list[dict[str, torch.Tensor]]:
    """Filled with the gradient of every optimizer step from now on."""
    seen: list[dict[str, torch.Tensor]] = []

    def keep(optimizer, args, kwargs):
        seen.append({name: p.grad.clone() for name, p in trainer.model.named_parameters()})

    trainer.policy.optimizer.adamw.register_step_pre_hook(keep)
    return seen


def parts_of_a_step(trainer):
    rollout = trainer.rollout()
    return rollout, trainer.advantages(trainer.score(rollout))


def test_a_rollout_in_parts_takes_one_optimizer_step_each_against_the_policy_that_sampled(tmp_path):
    trainer = make_trainer(
        tmp_path, steps_per_generation=4, num_iterations=2, loss_type="grpo", max_grad_norm=0
    )
    seen = gradients_of(trainer)
    rollout, advantages = parts_of_a_step(trainer)
    metrics = trainer.update(rollout, advantages)
    assert metrics["updates"] == len(seen) == 8
    tokens = metrics.tokens
    for row, completion in enumerate(rollout.completions):
        length = len(completion.token_ids)
        engine = torch.tensor(completion.logprobs)  # the trainer's own module sampled: these are π_old's
        assert torch.allclose(tokens.logp_old[row, :length], engine, atol=1e-5)
        ratio = (tokens.logp_new - tokens.logp_old)[row, :length].exp()
        assert torch.allclose(tokens.ratio[row, :length], ratio, atol=1e-6)
    moved = (tokens.ratio - 1).abs().amax(-1)  # [N]
    assert (moved[:12] > 1e-4).all()  # the second pass is off-policy everywhere


def test_the_first_part_is_an_on_policy_step_on_its_rows(tmp_path):
    """Its gradient is that of a trainer which sampled nothing else."""
    trainer = make_trainer(tmp_path / "parts", steps_per_generation=4, loss_type="grpo", max_grad_norm=0)
    seen = gradients_of(trainer)
    rollout, advantages = parts_of_a_step(trainer)
    trainer.update(rollout, advantages)
    alone = make_trainer(tmp_path / "alone", prompts_per_step=1, loss_type="grpo", max_grad_norm=0)
    expected = gradients_of(alone)
    first = alone.rollout(rollout.rows[:1])
    first.completions = rollout.completions[:4]
    alone.update(first, advantages._replace(values=advantages.values[:1]))
    for name, gradient in expected[0].items():
        assert torch.allclose(seen[0][name], gradient, atol=1e-7), name


def test_parts_must_be_equal(tmp_path):
    with pytest.raises(ConfigError, match="steps_per_generation.*divisor of the 16 rows"):
        make_trainer(tmp_path, steps_per_generation=3)


# -- the weight against a mismatch ----------------------------------------------------------------


def off_by(trainer, nats: float):
    """A rollout whose engine thinks every token less likely than the trainer does, by so many nats."""
    rollout, advantages = parts_of_a_step(trainer)
    for completion in rollout.completions:
        completion.logprobs = [value - nats for value in completion.logprobs]
    return rollout, advantages


@pytest.mark.parametrize("parts", [1, 2])
def test_the_gradient_is_weighed_by_old_over_engine(tmp_path, parts):
    """A uniform gap of δ nats multiplies a token-level gradient by exp(δ), up to the bound."""

    def gradient(nats, **settings):
        trainer = make_trainer(
            tmp_path / f"{nats}{settings}",
            max_grad_norm=0,
            steps_per_generation=parts,
            learning_rate=1e-12,
            vllm_importance_sampling_mode="token_truncate",
            vllm_importance_sampling_clip_max=2.0,
            **settings,
        )
        seen = gradients_of(trainer)
        metrics = trainer.update(*off_by(trainer, nats))
        return seen, metrics

    plain, _ = gradient(0.3, vllm_importance_sampling_correction=False)
    weighed, metrics = gradient(0.3, vllm_importance_sampling_correction=True)
    capped, capped_metrics = gradient(1.5, vllm_importance_sampling_correction=True)
    for before, after, bounded in zip(plain, weighed, capped, strict=True):
        for name, value in before.items():
            assert torch.allclose(after[name], math.exp(0.3) * value, rtol=1e-3, atol=1e-6), name
            assert torch.allclose(bounded[name], 2.0 * value, rtol=1e-3, atol=1e-6), name
    assert metrics["mismatch_kl"] == pytest.approx(-0.3, abs=1e-5)
    assert metrics["mismatch_kept"] == 1.0 and capped_metrics["mismatch_kept"] == 0.0
    assert metrics["mismatch_ess"] == pytest.approx(1.0, abs=1e-5)  # all weights are the same


def test_a_masked_completion_is_not_trained_on_and_the_samples_say_so(tmp_path):
    trainer = make_trainer(tmp_path, vllm_importance_sampling_correction=True, max_grad_norm=0)
    rollout, advantages = parts_of_a_step(trainer)
    for completion in rollout.completions[:8]:  # half of them come from somewhere else
        completion.logprobs = [value - 5.0 for value in completion.logprobs]
    rewards = trainer.score(rollout)
    metrics = trainer.update(rollout, advantages)
    assert metrics["mismatch_kept"] == 0.5
    trainer.record(rollout, rewards, advantages, metrics)
    weights = [row["is_weight"] for row in Run(trainer.run_dir).samples(1)]
    assert all(set(row) == {0.0} for row in weights[:8])
    assert all(abs(value - 1) < 1e-3 for row in weights[8:] for value in row)


def test_in_float32_nothing_is_corrected_unless_asked_for(tmp_path):
    assert not make_trainer(tmp_path / "a").policy.corrects_mismatch
    assert make_trainer(tmp_path / "b", vllm_importance_sampling_correction=True).policy.corrects_mismatch
    model, tokenizer = small_model()
    bf16 = make_trainer(tmp_path / "c", model=(model.bfloat16(), tokenizer))
    assert bf16.policy.corrects_mismatch


def test_statistics_are_those_of_the_formula():
    generator = torch.Generator().manual_seed(0)
    old, engine = -torch.rand(3, 5, generator=generator), -torch.rand(3, 5, generator=generator)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]]).bool()
    tokens = [(i, t) for i in range(3) for t in range(5) if mask[i, t]]
    kl = sum(float(engine[i, t] - old[i, t]) for i, t in tokens) / len(tokens)

    def ess(weights):
        return sum(weights) ** 2 / (len(weights) * sum(w * w for w in weights))

    each = [math.exp(old[i, t] - engine[i, t]) for i, t in tokens]
    whole = [math.exp(sum(float(old[i, t] - engine[i, t]) for t in range(n))) for i, n in ((0, 3), (1, 5))]
    found = mismatch_statistics(old, engine, mask, mode="token_mask", clip_max=1.2)
    assert found["mismatch_kl"] == pytest.approx(kl, rel=1e-5)
    assert found["mismatch_ess"] == pytest.approx(ess(each), rel=1e-5)
    assert found["mismatch_kept"] == sum(w <= 1.2 for w in each) / len(each)
    found = mismatch_statistics(old, engine, mask, mode="sequence_truncate", clip_max=1.2)
    assert found["mismatch_ess"] == pytest.approx(ess(whole), rel=1e-5)
    assert found["mismatch_kept"] == sum(w <= 1.2 for w in whole) / 2


# -- dynamic sampling -----------------------------------------------------------------------------


def only_some_prompts(prompts, completion_ids, **columns):
    """Prompts that begin with an even digit have no spread."""
    return [
        1.0 if int(prompt[0]) % 2 == 0 else float(sum(ids) % 7)
        for prompt, ids in zip(prompts, completion_ids)
    ]


def test_dead_groups_are_replaced_by_the_next_prompts_and_the_cost_is_shown(tmp_path):
    # in data set order: 0+0 0+1 0+2 1+0 | 1+1 1+2 2+0 | 2+1 …: three dead, then one dead, which is tried once more
    trainer = make_trainer(
        tmp_path, only_some_prompts, shuffle_dataset=False, dynamic_sampling_tries=2, max_completion_length=8
    )
    rollout = trainer.rollout()
    refilled = trainer.refill(rollout, trainer.score(rollout))
    assert [row["prompt"] for row in refilled.rollout.rows] == ["1+1=", "1+2=", "0+2=", "1+0="]
    assert refilled.tries == 2 and trainer._order.position == 4 + 3 + 1
    values = refilled.values()
    assert values["resampled_groups"] == 4
    assert values["resampled_tokens"] == refilled.drawn_rollout.num_tokens - refilled.rollout.num_tokens
    assert values["dead_groups_trained"] == 0.25
    for p, row in enumerate(refilled.rollout.rows):  # every row still has its own completions and rewards
        again = trainer.score(refilled.rollout).total[p]
        assert torch.equal(again, refilled.rewards.total[p]), row


def test_a_step_reports_what_was_drawn_and_trains_on_what_is_left(tmp_path):
    trainer = make_trainer(
        tmp_path, only_some_prompts, shuffle_dataset=False, dynamic_sampling_tries=5, max_completion_length=8
    )
    metrics = trainer.step()
    assert metrics["resample_tries"] >= 2
    assert metrics["dead_groups"] > metrics["dead_groups_trained"]
    samples = Run(trainer.run_dir).samples(1)
    assert len(samples) == 16  # the rows that were trained on
    assert metrics["tokens"] > sum(len(row["completion_ids"]) for row in samples)
    assert trainer.tokens_sampled == metrics["tokens"]


def test_no_tries_no_replacement(tmp_path):
    trainer = make_trainer(
        tmp_path, lambda completions, **_: [1.0] * len(completions), dynamic_sampling_tries=2
    )
    before = weights_of(trainer.model)
    metrics = trainer.step()
    assert metrics["resample_tries"] == 2 and metrics["dead_groups_trained"] == 1.0
    assert all(torch.equal(tensor, before[name]) for name, tensor in trainer.model.state_dict().items())
    rollout = trainer.rollout()
    rewards = trainer.score(rollout)
    untouched = replace_dead_groups(rollout, rewards, more=lambda n: pytest.fail("not asked for"), tries=0)
    assert untouched.rollout is rollout and untouched.tries == 0


# -- before and after -----------------------------------------------------------------------------


def test_the_probe_says_which_length_to_set(tmp_path):
    from rlkit.trainers.probe import ProbeReport, ProbeWarning

    report = ProbeReport(8, 32, [5, 9, 20, 21, 22, 23, 24, 25, 26, 32], None, 0.0, 0.1)
    assert report.truncated == 0.9
    assert "Set max_completion_length=32: nine in ten end by then" in report.warnings()[0]
    endless = ProbeReport(8, 32, [32] * 10, None, 0.0, 0.1)
    assert "does the model end its answers at all" in endless.warnings()[0]
    fine = ProbeReport(32, 64, [5, 9, 20, 40], [0.5, 0.0], 0.5, 0.1)
    assert fine.warnings() == []
    never = ProbeReport(32, 64, [5] * 40, [0.0] * 10, 0.5, 0.1)
    assert "Warm the model up first" in never.warnings()[0] and "in 4 tries" in never.warnings()[0]
    flat = ProbeReport(32, 64, [5] * 40, None, 1.0, 0.1)
    assert "no advantage differs from 0" in flat.warnings()[0]

    trainer = make_trainer(
        tmp_path, probe_prompts=5, judged_by={"verifier": lambda completion, **_: False}, max_steps=1
    )
    with pytest.warns(ProbeWarning, match="Warm the model up"):
        trainer.train()
    notes = Run(trainer.run_dir).notes
    assert any(note.startswith("probe: 20 completions") for note in notes)


def test_the_probe_leaves_training_as_it_is(tmp_path):
    def run(name, prompts):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            make_trainer(tmp_path / name, probe_prompts=prompts).train()
        return [(step["reward"], step["loss"]) for step in Run(tmp_path / name / "run").metrics]

    assert run("with", 6) == run("without", 0)


def test_training_ends_early_at_its_target(tmp_path):
    right_from_step_4 = {"now": False}
    trainer = make_trainer(
        tmp_path,
        max_steps=50,
        eval_steps=2,
        target_accuracy=0.9,
        judged_by={"eval_dataset": PROMPTS[:3], "verifier": lambda completion, **_: right_from_step_4["now"]},
    )
    step = trainer.step

    def counted():
        right_from_step_4["now"] = trainer.step_index >= 3
        return step()

    trainer.step = counted
    summary = trainer.train()
    assert summary["steps"] == 4
    assert "reached target_accuracy 0.9" in summary["status"]
    assert summary["accuracy_after"] == 1.0
    with pytest.raises(ConfigError, match="eval_steps"):
        make_trainer(tmp_path / "b", target_accuracy=0.9)


def test_several_epochs_deal_every_row_once_each(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=-1, num_train_epochs=2, prompts_per_step=4)
    assert trainer.total_steps == 6
    trainer.train()
    dealt = [
        prompt
        for step in range(1, 7)
        for prompt in {row["prompt"] for row in Run(trainer.run_dir).samples(step)}
    ]
    everyone = sorted(row["prompt"] for row in PROMPTS)
    assert sorted(dealt[:12]) == everyone and sorted(dealt[12:]) == everyone
    assert Run(trainer.run_dir).metrics[-1]["epoch"] == pytest.approx(2.0)


@pytest.mark.parametrize("name, value", [("top_p", 0.9), ("top_k", 20), ("min_p", 0.05)])
def test_truncated_sampling_is_refused_with_the_reason(tmp_path, name, value):
    with pytest.raises(ConfigError, match=f"{name}.*truncated distribution"):
        make_trainer(tmp_path, token_sum, **{name: value})
