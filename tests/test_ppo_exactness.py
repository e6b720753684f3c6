"""PPO on a language model: its gradient against a loop in float64, and that memory, type and disk change nothing."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from small_trainer import small_model, token_sum, weights_of
from test_ppo_trainer import make_ppo

from rlkit import add_lora, load_model
from rlkit.errors import ConfigError, RewardError
from rlkit.objectives import generalized_advantages, token_rewards, whiten
from rlkit.rollout import Batch, TokenRecord, build_batch
from rlkit.trainers.ppo import PPOTrainer
from rlkit.trainers.ppo_update import Experience
from rlkit.trainers.scorer import RewardModel, make_reward_model
from rlkit.trainers.value_files import load_value_model
from rlkit.trainers.values import ValueModel


def normal(shape: Any, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def batch_of(trainer: PPOTrainer, rollout: Any) -> Batch:
    return build_batch(rollout, trainer.processing_class.pad_token_id)


def gradient_of(trainer: PPOTrainer, batch: Batch, given: Experience, **tokens: Any) -> list[torch.Tensor]:
    """The gradient of one optimizer step on the whole batch; every trained tensor, those of the policy first."""
    record = TokenRecord.zeros(batch.mask.shape)
    for name, value in tokens.items():
        setattr(record, name, value)
    trainer.policy._gradient(batch, list(range(len(batch))), given, record)
    optimizers = (trainer.policy.optimizer, trainer.policy.value_optimizer)
    return [parameter.grad.clone() for optimizer in optimizers for parameter in optimizer.parameters]


# -- the gradient -------------------------------------------------------------------------------------------


def loop_loss(trainer: PPOTrainer, rollout: Any, given: Experience) -> torch.Tensor:
    """PPO's loss one token at a time, from plain forward passes over each row alone."""
    args, values = trainer.args, trainer.values
    terms: list[torch.Tensor] = []
    for i, completion in enumerate(rollout.completions):
        if not given.mask[i].any():
            continue
        prompt = rollout.prompt_ids[i]
        ids = torch.tensor([prompt + completion.token_ids])  # [1, L]
        found = trainer.model(input_ids=ids, output_hidden_states=True)
        logp_all = found.logits[0].log_softmax(-1)  # [L, V]
        hidden = found.hidden_states[-1][0]  # [L, H]
        if values.own:
            hidden = values.model(input_ids=ids, output_hidden_states=True).hidden_states[-1][0]
        for t, token in enumerate(completion.token_ids):
            at = len(prompt) + t - 1  # the place that predicts this token
            new, a = logp_all[at, token], given.advantages[i, t]
            ratio = (new - given.logp_old[i, t]).exp()
            held = min(max(float(ratio.detach()), 1 - args.cliprange), 1 + args.cliprange)
            gain = ratio * a if float((ratio * a).detach()) <= float(held * a) else held * a
            away = given.logp_ref[i, t] - new
            k3 = away.exp() - away - 1
            entropy = -(logp_all[at].exp() * logp_all[at]).sum()
            v, old = values.head(hidden[at])[0], given.values[i, t]
            error, edge = (v - given.returns[i, t]) ** 2, args.cliprange_value
            kept = (
                min(max(float(v.detach()), float(old) - edge), float(old) + edge) - given.returns[i, t]
            ) ** 2
            worst = error if float(error.detach()) >= float(kept) else kept
            terms.append(-gain + args.kl_coef * k3 - args.entropy_coef * entropy + args.vf_coef * 0.5 * worst)
    return sum(terms[1:], terms[0]) / len(terms)


@pytest.mark.parametrize("own", [False, True])
def test_loss_and_gradient_are_those_of_the_loop(tmp_path, own) -> None:
    """Values and gradients to 1e-10, with clipped ratios, clipped values, KL, entropy and a row nobody judged."""
    policy, tokenizer = small_model()
    value_model = small_model(1)[0].double() if own else None
    settings = dict(kl_penalty="loss", kl_coef=0.3, entropy_coef=0.05, vf_coef=0.7, micro_batch_tokens=40)
    with make_ppo(
        tmp_path, model=(policy.double(), tokenizer), value_model=value_model, **settings
    ) as trainer:
        trainer.values.head.double()
        with torch.no_grad():
            trainer.values.head.weight.copy_(normal((1, 64), 1))
        rollout = trainer.rollout()
        batch = batch_of(trainer, rollout)
        mask, shape = batch.mask.clone(), batch.mask.shape
        known = trainer.policy.estimate(batch, torch.zeros(len(batch)))
        mask[3] = False
        given = Experience(
            logp_old=known.logp_old.double() + 0.3 * normal(shape, 2),
            logp_ref=known.logp_old.double() + 0.3 * normal(shape, 3),
            kl=None,
            values=known.values.double() + 0.3 * normal(shape, 4),
            bootstrap=torch.zeros(len(batch)),
            rewards=torch.zeros(shape),
            advantages=normal(shape, 5) * mask,
            returns=known.values.double() + normal(shape, 6),
            scores=torch.zeros(len(batch)),
            mask=mask,
        )
        found = gradient_of(trainer, batch, given)
        loss = loop_loss(trainer, rollout, given)
        parameters = [
            *(p for p in trainer.model.parameters() if p.requires_grad),
            *(p for p in trainer.values.parameters() if p.requires_grad),
        ]
        for parameter in parameters:
            parameter.grad = None
        loss.backward()
        record = TokenRecord.zeros(shape)
        numbers = trainer.policy._gradient(batch, list(range(len(batch))), given, record)
    assert numbers["loss"] == pytest.approx(float(loss.detach()), abs=1e-10)
    assert numbers["clip_low"] > 0 and numbers["clip_high"] > 0 and numbers["value_clip"] > 0
    expected = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-10, rtol=0.0)
    assert max(float(gradient.abs().max()) for gradient in expected) > 1e-2


@pytest.mark.parametrize("kind", ["head", "own", "head on an adapter"])
def test_gradient_checkpointing_gives_the_same_gradient(tmp_path, kind) -> None:
    found, passes = [], []
    for again in (False, True):
        policy, tokenizer = small_model()
        if kind == "head on an adapter":
            policy = add_lora(policy, r=4)
        value_model = small_model(1)[0] if kind == "own" else None
        where = tmp_path / str(again)
        settings = dict(gradient_checkpointing=again, value_model=value_model, max_grad_norm=0.0)
        with make_ppo(where, model=(policy, tokenizer), **settings) as trainer:
            with torch.no_grad():
                trainer.values.head.weight.copy_(normal((1, 64), 1))
            rollout = trainer.rollout()
            given = trainer.estimate(rollout, trainer.score(rollout))
            counted: list[int] = []
            reader = value_model if value_model is not None else trainer.model
            norm = next(m for name, m in reader.named_modules() if name.endswith("layers.0.input_layernorm"))
            norm.register_forward_hook(lambda *_, into=counted: into.append(1))
            found.append(gradient_of(trainer, batch_of(trainer, rollout), given))
            passes.append(len(counted))
    assert passes[1] == 2 * passes[0]  # what was thrown away is computed again, of both models
    for plain, again in zip(*found, strict=True):
        torch.testing.assert_close(plain, again, atol=1e-7, rtol=1e-5)
    assert any(gradient.any() for gradient in found[0])


@pytest.mark.parametrize("own", [False, True])
def test_bfloat16(tmp_path, own) -> None:
    """Values and their head stay float32; 16-bit weights of both models move by way of float32 masters."""
    policy, tokenizer = small_model()
    value_model = small_model(1)[0].to(torch.bfloat16) if own else None
    settings = dict(learning_rate=1e-5, num_ppo_epochs=1, value_model=value_model)
    with make_ppo(tmp_path, model=(policy.to(torch.bfloat16), tokenizer), **settings) as trainer:
        before = [master.clone() for master in trainer.policy.optimizer.masters.values()]
        values_before = [master.clone() for master in trainer.policy.value_optimizer.masters.values()]
        rollout = trainer.rollout()
        given = trainer.estimate(rollout, trainer.score(rollout))
        assert trainer.values.head.weight.dtype == given.values.dtype == given.logp_old.dtype == torch.float32
        assert trainer.policy.corrects_mismatch
        metrics = trainer.update(rollout, given)
        assert not metrics["skipped"] and math.isfinite(metrics["value_loss"])
        moved = [
            (was - now).abs().max()
            for was, now in zip(before, trainer.policy.optimizer.masters.values(), strict=True)
        ]
        assert moved and 0 < max(moved) < 1e-4  # less than bfloat16 can hold
        now = list(trainer.policy.value_optimizer.masters.values())
        assert len(now) == len(values_before) == (sum(1 for _ in value_model.parameters()) if own else 0)
        assert all(not torch.equal(a, b) for a, b in zip(values_before, now, strict=True)) or not own
        assert trainer.values.head.weight.any()


def test_the_weight_of_a_mismatch_takes_a_row_out_of_the_policys_gradient(tmp_path) -> None:
    settings = dict(vllm_importance_sampling_correction=True, num_mini_batches=1, num_ppo_epochs=1)
    with make_ppo(tmp_path, **settings) as trainer:
        rollout = trainer.rollout()
        completion = rollout.completions[5]  # as if the engine had had other weights for it
        completion.logprobs = [logp - 5.0 for logp in completion.logprobs]
        given = trainer.estimate(rollout, trainer.score(rollout))
        metrics = trainer.update(rollout, given)
        weights = metrics.tokens.is_weight
        assert not weights[5][given.mask[5]].any()
        others = [i for i in range(len(given.mask)) if i != 5]
        torch.testing.assert_close(
            weights[others][given.mask[others]],
            torch.ones(int(given.mask[others].sum())),
            atol=1e-3,
            rtol=0.0,
        )
        batch, advantages = batch_of(trainer, rollout), given.advantages.clone()
        advantages[5] = 0.0
        weighted = gradient_of(trainer, batch, given, is_weight=weights)
        left_out = gradient_of(
            trainer, batch, given._replace(advantages=advantages), is_weight=torch.ones_like(weights)
        )
    for one, other in zip(weighted, left_out, strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)


# -- what is learned from ----------------------------------------------------------------------------------------


def test_whitened_rewards(tmp_path) -> None:
    """(r − mean) / spread + mean over all tokens of the rollout, before advantages; the mean stays."""
    with make_ppo(tmp_path, whiten_rewards=True, kl_coef=0.2, lam=0.9, gamma=0.95) as trainer:
        trainer.step()
        rollout = trainer.rollout()
        found = trainer.estimate(rollout, trainer.score(rollout))
    mask = found.mask
    plain = token_rewards(found.scores, mask, kl=found.kl, kl_coef=0.2)
    made = plain[mask].double()
    expected = (plain.double() - made.mean()) / (made.var(correction=0) + 1e-8).sqrt() + made.mean()
    torch.testing.assert_close(found.rewards.double(), expected * mask, atol=1e-5, rtol=1e-5)
    assert float(found.rewards[mask].std(correction=0)) == pytest.approx(1.0, abs=1e-4)
    advantages, returns = generalized_advantages(found.rewards, found.values, mask, gamma=0.95, lam=0.9)
    torch.testing.assert_close(found.returns, returns)
    torch.testing.assert_close(found.advantages, whiten(advantages, mask))


def test_rewards_without_spread_move_nothing(tmp_path) -> None:
    """Rounding that is scaled up by whitening would be an advantage, of which Adam makes a whole step."""

    def always(completions, completion_ids, **columns):
        return [1.3 for _ in completion_ids]

    settings = dict(gamma=1.0, lam=1.0, kl_coef=0.0, vf_coef=0.0, num_ppo_epochs=1)
    with make_ppo(tmp_path, always, **settings) as trainer:
        before = weights_of(trainer.model)
        rollout = trainer.rollout()
        found = trainer.estimate(rollout, trainer.score(rollout))
        assert not found.advantages.any()
        trainer.update(rollout, found)
        assert all(torch.equal(tensor, before[name]) for name, tensor in trainer.model.state_dict().items())


def test_a_single_token_teaches_nothing_once_whitened(tmp_path) -> None:
    with make_ppo(tmp_path, prompts_per_step=1, num_mini_batches=1, max_completion_length=1) as trainer:
        rollout = trainer.rollout()
        found = trainer.estimate(rollout, trainer.score(rollout))
        assert found.advantages.tolist() == [[0.0]]
        metrics = trainer.update(rollout, found)
    assert metrics["updates"] == 4 and not metrics["skipped"]


def test_completions_that_nobody_judged_are_not_learned_from(tmp_path) -> None:
    """With one completion a prompt there is no group whose mean could stand in: 0 would be a reward like any other."""

    def gives_up(completions, completion_ids, **columns):
        if any(ids[0] % 2 for ids in completion_ids):
            raise ValueError("odd")
        return [5.0 + len(ids) for ids in completion_ids]

    settings = dict(on_reward_error="skip", kl_coef=0.1, whiten_advantages=False)
    with pytest.warns(UserWarning, match="gives_up"), make_ppo(tmp_path, gives_up, **settings) as trainer:
        rollout = trainer.rollout()
        rewards = trainer.score(rollout)
        lost = torch.tensor([completion.token_ids[0] % 2 == 1 for completion in rollout.completions])
        assert lost.any() and not lost.all()
        found = trainer.estimate(rollout, rewards)
        assert not found.mask[lost].any() and found.mask[~lost].any(-1).all()
        for numbers in (found.rewards, found.advantages, found.returns):
            assert not numbers[lost].any()
        batch = batch_of(trainer, rollout)
        whole = gradient_of(trainer, batch, found)
        rows = (~lost).nonzero()[:, 0].tolist()
        record = TokenRecord.zeros(batch.mask.shape)
        trainer.policy._gradient(batch, rows, found, record)
        optimizers = (trainer.policy.optimizer, trainer.policy.value_optimizer)
        without = [parameter.grad for optimizer in optimizers for parameter in optimizer.parameters]
        metrics = trainer.update(rollout, found)
    assert metrics["score"] == pytest.approx(float(rewards.total.flatten()[~lost].mean()), rel=1e-6)
    for one, other in zip(whole, without, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


def test_chats(tmp_path) -> None:
    """Prompts as messages: the policy reads them through the template, the reward model prompt and answer."""
    policy, tokenizer = small_model()
    end = "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}" + end + "{% endfor %}"
    dataset = [{"prompt": [{"role": "user", "content": f"{a}+1="}]} for a in range(6)]
    reward = judge()
    reward.tokenizer.chat_template = tokenizer.chat_template
    with make_ppo(tmp_path, reward, (policy, tokenizer), dataset, bootstrap_truncated=True) as trainer:
        metrics = trainer.step()
        rollout = trainer.rollout()
        rewards = trainer.score(rollout)
    assert metrics["updates"] == 8 and math.isfinite(metrics["value_loss"])
    texts = [prompt[0]["content"] for prompt in rollout.prompts]
    alone = judge()(texts, [completion.text for completion in rollout.completions])
    assert rewards.total.flatten().tolist() == pytest.approx(alone, abs=1e-5)


# -- on disk -----------------------------------------------------------------------------------------------------


def on_disk(folder: Any, seed: int) -> tuple[Any, Any]:
    """A small model that has a folder, as an adapter's base must."""
    model, tokenizer = small_model(seed)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return load_model(folder)


@pytest.mark.parametrize(
    "kind", ["head", "head on an adapter", "own", "own adapter", "reward model", "its adapter"]
)
def test_a_saved_value_model_goes_on(tmp_path, kind) -> None:
    model, tokenizer = on_disk(tmp_path / "policy", 0)
    if kind == "head on an adapter":
        model = add_lora(model, r=4)
    value_model = None
    if "own" in kind:
        value_model = on_disk(tmp_path / "base", 1)[0]
        value_model = add_lora(value_model, r=4) if kind == "own adapter" else value_model
    elif kind in ("reward model", "its adapter"):
        on_disk(tmp_path / "base", 1)
        value_model, _ = make_reward_model(str(tmp_path / "base"), lora=kind == "its adapter")
    with make_ppo(tmp_path, model=(model, tokenizer), value_model=value_model) as trainer:
        trainer.step()
        rollout = trainer.rollout()
        batch, rows = batch_of(trainer, rollout), list(range(12))
        expected = trainer.policy.estimate(batch, torch.zeros(12)).values
        folder = trainer.save_value_model(tmp_path / "values")
    assert expected.any()
    loaded = ValueModel(small_model()[0], load_value_model(folder))
    with torch.no_grad():
        found, _ = loaded(batch, rows)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert loaded.head.weight.requires_grad


def test_a_folder_without_a_value_model_is_refused(tmp_path) -> None:
    small_model()[0].save_pretrained(tmp_path / "policy")
    with pytest.raises(ConfigError, match="a folder of save_value_model"):
        load_value_model(tmp_path / "policy")


@pytest.mark.parametrize("kind", ["head on an adapter", "own in bfloat16", "own adapter"])
def test_resume_is_bit_for_bit(tmp_path, kind) -> None:
    """As in test_ppo_trainer, with adapters and master weights."""

    def trainer(folder: str) -> PPOTrainer:
        policy, tokenizer = small_model()
        value_model = None
        if kind == "head on an adapter":
            policy = add_lora(policy, r=4)
        elif kind == "own adapter":
            value_model = add_lora(small_model(1)[0], r=4)
        else:
            policy, value_model = policy.to(torch.bfloat16), small_model(1)[0].to(torch.bfloat16)
        settings = dict(max_steps=3, save_steps=1, kl_target=0.5, kl_horizon=24, value_model=value_model)
        return make_ppo(tmp_path / folder, model=(policy, tokenizer), **settings)

    with trainer("whole") as whole:
        whole.train()
        expected, coef = weights_of(whole.model), whole.policy.kl.value
        values = {name: tensor.clone() for name, tensor in whole.values.trained_state().items()}
    with trainer("cut") as first:
        first.step()
        first.save_checkpoint()
        first.step()
    with trainer("cut") as second:
        second.train(resume=True)
        assert (second.step_index, second.policy.kl.value) == (3, coef)
        for name, tensor in weights_of(second.model).items():
            assert torch.equal(tensor, expected[name]), name
        for name, tensor in second.values.trained_state().items():
            assert torch.equal(tensor, values[name]), name


def test_resume_with_another_base_of_the_value_model_is_refused(tmp_path) -> None:
    def trainer(seed: int) -> PPOTrainer:
        return make_ppo(tmp_path, value_model=add_lora(small_model(seed)[0], r=4), save_steps=1)

    with trainer(1) as first:
        first.step()
        first.save_checkpoint()
    with trainer(2) as second, pytest.raises(ConfigError, match="value model"):
        second.train(resume=True)


# -- what is refused before the engine starts --------------------------------------------------------------------


@pytest.fixture
def no_engine(monkeypatch) -> None:
    """Whoever starts an engine here was told too late."""

    def started(*args: Any, **settings: Any) -> None:
        raise AssertionError("the engine was started")

    monkeypatch.setattr("rlkit.trainers.rollout_trainer.PolicyEngine", started)


def spoiled(model: Any) -> Any:
    with torch.no_grad():
        model.get_input_embeddings().weight[0] = math.nan  # the padding's; and through a tied head all else
        model.model.layers[0].mlp.up_proj.weight[0, 0] = math.nan
    return model


def shorter(policy: Any) -> Any:
    return type(policy)(policy.config.__class__(**{**policy.config.to_dict(), "max_position_embeddings": 8}))


def judge(spoil: bool = False) -> RewardModel:
    model, tokenizer = make_reward_model(*small_model(1))
    if spoil:
        with torch.no_grad():
            model.score.weight[0, 0] = math.nan
    return RewardModel(model, tokenizer)


CASES: dict[str, tuple[Any, Any, list[str]]] = {  # the models beside a policy, the reward, what is said
    "a value model that gives nan": (
        lambda policy: dict(value_model=spoiled(small_model(1)[0])),
        None,
        ["value_model", "gives nan", "float16"],
    ),
    "a reference that gives nan": (
        lambda policy: dict(ref_model=spoiled(small_model(1)[0])),
        None,
        ["ref_model", "gives nan"],
    ),
    "a value model with a short context": (
        lambda policy: dict(value_model=shorter(policy)),
        None,
        ["value_model", "8 tokens at most", "10 tokens"],
    ),
    "a reference with a short context": (
        lambda policy: dict(ref_model=shorter(policy)),
        None,
        ["ref_model", "8 tokens at most"],
    ),
    "a reference without a language model's head": (
        lambda policy: dict(ref_model=judge().model),
        None,
        ["ref_model", "a causal LM"],
    ),
    "a RewardModel as reference": (
        lambda policy: dict(ref_model=judge()),
        None,
        ["ref_model", "a transformers model"],
    ),
    "a reward model that gives nan": (
        lambda policy: {},
        lambda: judge(spoil=True),
        ["'reward_model'", "nan", "weights are broken"],
    ),
}


@pytest.mark.parametrize(("given", "reward", "said"), CASES.values(), ids=CASES)
def test_models_that_cannot_be(tmp_path, no_engine, given, reward, said) -> None:
    policy, tokenizer = small_model()
    with pytest.raises((ConfigError, RewardError)) as caught:
        make_ppo(tmp_path, reward() if reward else token_sum, model=(policy, tokenizer), **given(policy))
    for part in said:
        assert part in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_one_model_for_two_tasks(tmp_path, no_engine) -> None:
    both = small_model(1)[0]
    with pytest.raises(ConfigError, match=r"ref_model.*shares weights with value_model"):
        make_ppo(tmp_path, ref_model=both, value_model=both)
    assert all(parameter.requires_grad for parameter in both.parameters())  # it was not touched
    with pytest.raises(AssertionError, match="engine was started"):
        make_ppo(tmp_path, ref_model=copy.deepcopy(both), value_model=both)
