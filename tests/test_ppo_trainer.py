"""PPO on a random two-layer model: the five probes in token form, its parts, exact resume, and what is refused."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from small_trainer import PROMPTS, small_model, token_sum, weights_of
from tiny_models import random_model

from rlkit.config import PPOConfig
from rlkit.errors import ConfigError, RewardError, TrainingError
from rlkit.objectives import generalized_advantages
from rlkit.rollout import build_batch
from rlkit.runs import Run
from rlkit.trainers.ppo import PPOTrainer
from rlkit.trainers.reward_rows import rewards_of
from rlkit.trainers.scorer import RewardModel, make_reward_model


def make_ppo(
    tmp_path: Path, reward: Any = token_sum, model: Any = None, dataset: Any = PROMPTS, **settings: Any
) -> PPOTrainer:
    companions = {name: settings.pop(name) for name in ("value_model", "ref_model") if name in settings}
    model, tokenizer = model or small_model()
    defaults: dict[str, Any] = dict(
        output_dir=str(tmp_path / "run"),
        max_steps=3,
        prompts_per_step=12,
        max_completion_length=6,
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        num_mini_batches=2,
        fast_inference=False,
        save_model=False,
        probe_prompts=0,
        disable_tqdm=True,
        seed=0,
    )
    args = PPOConfig(**{**defaults, **settings})
    return PPOTrainer(model, reward, args, dataset, processing_class=tokenizer, **companions)


# -- the five probes of rlkit.lab.probes, with tokens for actions and prompts for observations ------------------

SEEN = [{"prompt": "0+0=", "side": 0}, {"prompt": "9+9=", "side": 1}]


def one(completions, completion_ids, **columns):
    return [1.0 for _ in completion_ids]


def by_prompt(completions, completion_ids, side, **columns):
    return [2.0 * s - 1.0 for s in side]


def later(completions, completion_ids, **columns):
    """1 at the second token; a completion that ends at its first one gets γ = 0.5 there, what waiting is worth."""
    return [1.0 if len(ids) == 2 else 0.5 for ids in completion_ids]


def odd(completions, completion_ids, **columns):
    return [2.0 * (ids[0] % 2) - 1.0 for ids in completion_ids]


def same_side(completions, completion_ids, side, **columns):
    return [1.0 if ids[0] % 2 == s else -1.0 for ids, s in zip(completion_ids, side, strict=True)]


PROBES: list[tuple[Any, int, dict[str, list[float]], bool]] = [
    # reward, tokens, V(s_0) of the two prompts, is there something to choose
    (one, 1, {"values": [1.0, 1.0]}, False),
    (by_prompt, 1, {"values": [-1.0, 1.0]}, False),
    (later, 2, {"values": [0.5, 0.5]}, False),
    (odd, 1, {"values": [1.0, 1.0]}, True),
    (same_side, 1, {"values": [1.0, 1.0]}, True),
]


@pytest.mark.parametrize(
    ("reward", "tokens", "expected", "chooses", "own"),
    [(*probe, False) for probe in PROBES] + [(*PROBES[2], True), (*PROBES[4], True)],
    ids=[*(probe[0].__name__ for probe in PROBES), "later, own model", "same_side, own model"],
)
def test_probes(tmp_path, reward, tokens, expected, chooses, own) -> None:
    trainer = make_ppo(
        tmp_path,
        reward,
        dataset=SEEN,
        value_model=small_model(1)[0] if own else None,
        prompts_per_step=2,
        num_generations=16,
        max_completion_length=tokens,
        gamma=0.5 if reward is later else 1.0,
        kl_coef=0.0,
        vf_coef=1.0,
        cliprange_value=None,
        value_learning_rate=3e-3,
        save_samples=False,
    )
    with trainer:
        for _ in range(60 if chooses else 40):
            trainer.step()
        rollout = trainer.rollout(SEEN)
        rewards = trainer.score(rollout)
        found = trainer.estimate(rollout, rewards)
    values = found.values[:, 0].reshape(2, 16).mean(1)  # [2] V(s_0) of each prompt
    torch.testing.assert_close(
        values, torch.tensor(expected["values"]), atol=0.15 if chooses else 0.1, rtol=0.0
    )
    if tokens == 2:  # and the state behind the first token is worth all of it
        second = found.values[:, 1][found.mask[:, 1]]
        assert float((second - 1.0).abs().mean()) < 0.12
    if chooses:
        assert float(rewards.total.mean()) > 0.8


# -- its parts ----------------------------------------------------------------------------------------------


def test_cell_by_cell(tmp_path) -> None:
    trainer = make_ppo(tmp_path, kl_coef=0.2, missing_eos_penalty=2.0)
    with trainer:
        trainer.step()  # away from the reference
        rollout = trainer.rollout()
        rewards = trainer.score(rollout)
        found = trainer.estimate(rollout, rewards)
        mask = found.mask
        engine = torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(c.logprobs) for c in rollout.completions], batch_first=True
        )
        torch.testing.assert_close(found.logp_old, engine, atol=1e-4, rtol=0.0)
        cut = torch.tensor([float(c.truncated) for c in rollout.completions])
        assert cut.any()
        scores = rewards.total.flatten().float() - 2.0 * cut
        torch.testing.assert_close(found.scores, scores)
        penalties = -0.2 * (found.logp_old - found.logp_ref) * mask
        lengths = mask.sum(-1)
        last = torch.arange(mask.shape[1]) == lengths[:, None] - 1
        torch.testing.assert_close(found.rewards, penalties + last * scores[:, None])
        _, returns = generalized_advantages(found.rewards, found.values, mask)
        torch.testing.assert_close(found.returns, returns)
        assert abs(float(found.advantages[mask].mean())) < 1e-5  # whitened
        before = weights_of(trainer.model)
        metrics = trainer.update(rollout, found)
        assert metrics["updates"] == 4 * 2
        assert metrics["kl_coef"] == 0.2
        assert any(not torch.equal(before[name], now) for name, now in trainer.model.state_dict().items())
        assert trainer.sync().gap < 1e-4


@pytest.mark.parametrize("own", [False, True])
def test_values_are_those_of_the_whole_text_so_far(tmp_path, own) -> None:
    """V before token t: the head on the hidden state of a plain forward pass over the prompt and the tokens before."""
    model = small_model(1)[0] if own else None
    with make_ppo(tmp_path, value_model=model, bootstrap_truncated=True) as trainer:
        torch.nn.init.normal_(trainer.values.head.weight)
        rollout = trainer.rollout()
        found = trainer.estimate(rollout, trainer.score(rollout))
        body = (model or trainer.model).base_model
        for i, completion in enumerate(rollout.completions[:4]):
            prompt = rollout.prompt_ids[i]
            with torch.no_grad():
                for t in range(len(completion.token_ids) + 1):
                    ids = torch.tensor([prompt + completion.token_ids[:t]])
                    value = float(trainer.values.head(body(input_ids=ids)[0][0, -1]))
                    if t < len(completion.token_ids):
                        assert float(found.values[i, t]) == pytest.approx(value, abs=1e-4)
                    else:
                        behind = value if completion.truncated else 0.0
                        assert float(found.bootstrap[i]) == pytest.approx(behind, abs=1e-4)
        cut = torch.tensor([completion.truncated for completion in rollout.completions])
        assert cut.any()
        assert not found.scores[cut].any()  # the last state's value stands in the score's place


@pytest.mark.parametrize("own", [False, True])
def test_the_cut_into_micro_batches_changes_nothing(tmp_path, own) -> None:
    after = []
    for tokens in (10_000, 25):
        value_model = small_model(1)[0] if own else None
        settings = dict(micro_batch_tokens=tokens, kl_penalty="loss", entropy_coef=0.01, max_grad_norm=0.0)
        with make_ppo(tmp_path / str(tokens), value_model=value_model, **settings) as trainer:
            rollout = trainer.rollout()
            experience = trainer.estimate(rollout, trainer.score(rollout))
            batch = build_batch(rollout, trainer.processing_class.pad_token_id)
            policy = trainer.policy
            from rlkit.rollout import TokenRecord

            policy._gradient(batch, list(range(len(batch))), experience, TokenRecord.zeros(batch.mask.shape))
            parameters = [*policy.optimizer.parameters, *policy.value_optimizer.parameters]
            after.append([parameter.grad.clone() for parameter in parameters])
    assert any(gradient.any() for gradient in after[0])
    for one_cut, many in zip(*after, strict=True):
        torch.testing.assert_close(one_cut, many, atol=2e-6, rtol=1e-4)


def test_the_reward_rises_and_kl_holds_it_back(tmp_path) -> None:
    found = {}
    for coef in (0.0, 5.0):
        settings = dict(prompts_per_step=2, num_generations=16, kl_coef=coef, learning_rate=2e-3)
        with make_ppo(tmp_path / str(coef), odd, dataset=SEEN, **settings) as trainer:
            found[coef] = [trainer.step() for _ in range(20)]
    free, held = (sum(step["reward"] for step in found[coef][-5:]) / 5 for coef in (0.0, 5.0))
    assert free > 0.5
    assert held < 0.3
    assert found[0.0][-1]["kl"] is None
    assert found[5.0][-1]["kl"] < 0.1


def test_adaptive_kl_moves_the_coefficient(tmp_path) -> None:
    with make_ppo(tmp_path, odd, kl_coef=0.1, kl_target=1e-4, kl_horizon=12) as trainer:
        seen = [trainer.step() for _ in range(4)]
    used = [step["kl_coef"] for step in seen]
    assert used[0] == 0.1
    for step, after in zip(seen, used[1:], strict=False):
        error = min(max(step["kl_completion"] / 1e-4 - 1.0, -0.2), 0.2)
        assert after == pytest.approx(step["kl_coef"] * (1.0 + error))
    assert len(set(used)) > 1


def test_a_head_on_an_adapter(tmp_path) -> None:
    from rlkit import add_lora

    model, tokenizer = small_model()
    before = weights_of(model)
    with make_ppo(tmp_path, model=(add_lora(model, r=4), tokenizer)) as trainer:
        metrics = trainer.step()
        trainer.step()
        trainer.save_checkpoint()
    assert metrics["kl"] == pytest.approx(0.0, abs=1e-6)  # the base is the reference
    now = {name.replace(".base_layer", ""): tensor for name, tensor in model.state_dict().items()}
    assert all(torch.equal(now[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("lora", [False, True])
def test_a_value_model_begins_on_the_scale_of_the_scores(tmp_path, lora) -> None:
    """Behind the last token it says what the reward model, with its mean and spread, says of the whole."""
    policy, tokenizer = small_model()
    model, _ = make_reward_model(small_model(1)[0], tokenizer, lora=lora)
    reward = RewardModel(model, tokenizer, mean=0.7, std=0.2)
    with make_ppo(tmp_path, reward, model=(policy, tokenizer), value_model=reward) as trainer:
        rollout = trainer.rollout()
        batch = build_batch(rollout, tokenizer.pad_token_id)
        _, ends = trainer.values(batch, list(range(len(batch))))  # [N]
        rows = [
            [*rollout.prompt_ids[i], *completion.token_ids]
            for i, completion in enumerate(rollout.completions)
        ]
        expected = (rewards_of(model, rows, 0) - 0.7) / 0.2  # [N]
        torch.testing.assert_close(ends, expected, rtol=1e-4, atol=1e-4)
        before = weights_of(model)
        trainer.step()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("lora", [False, True])
def test_a_reward_model_judges_and_begins_the_value_model(tmp_path, lora) -> None:
    policy, tokenizer = small_model()
    judge, _ = make_reward_model(small_model(1)[0], tokenizer, lora=lora)
    reward = RewardModel(judge, tokenizer)
    with pytest.raises(
        ConfigError, match=r"value_model.*shares weights with the reward function 'reward_model'"
    ):
        make_ppo(tmp_path, reward, model=(policy, tokenizer), value_model=judge)
    before = weights_of(judge)
    value_model = copy.deepcopy(judge)
    with make_ppo(tmp_path, reward, model=(policy, tokenizer), value_model=value_model) as trainer:
        heads = [
            tensor for name, tensor in before.items() if name.endswith("score.weight") or ".default" in name
        ]
        assert any(head.shape == (1, 64) and torch.equal(trainer.values.head.weight, head) for head in heads)
        start = trainer.values.head.weight.clone()
        metrics = trainer.step()
        assert not torch.equal(trainer.values.head.weight, start)
        assert trainer.describe()["value_model"]["kind"].startswith("a model of its own")
    assert math.isfinite(metrics["rewards/reward_model"])
    assert all(torch.equal(tensor, before[name]) for name, tensor in judge.state_dict().items())


# -- the run ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("own", [False, True])
def test_resume_is_bit_for_bit(tmp_path, own) -> None:
    def trainer(folder: str, **settings: Any) -> PPOTrainer:
        value_model = small_model(1)[0] if own else None
        settings = dict(max_steps=4, save_steps=2, kl_target=0.5, kl_horizon=24, **settings)
        return make_ppo(tmp_path / folder, value_model=value_model, **settings)

    with trainer("whole") as whole:
        whole.train()
        expected, coef = weights_of(whole.model), whole.policy.kl.value
        values = {name: tensor.clone() for name, tensor in whole.values.trained_state().items()}
    with trainer("cut") as first:
        for _ in range(3):
            first.step()
            if first.step_index == 2:
                first.save_checkpoint()
    with trainer("cut") as second:
        second.train(resume=True)
        assert second.step_index == 4
        assert second.policy.kl.value == coef
        for name, tensor in weights_of(second.model).items():
            assert torch.equal(tensor, expected[name]), name
        for name, tensor in second.values.trained_state().items():
            assert torch.equal(tensor, values[name]), name


def test_what_a_run_holds(tmp_path) -> None:
    judged = lambda completion, **_: len(completion) % 2 == 0  # noqa: E731
    model, tokenizer = small_model()
    args = PPOConfig(
        output_dir=str(tmp_path / "run"),
        max_steps=2,
        prompts_per_step=4,
        max_completion_length=4,
        fast_inference=False,
        probe_prompts=2,
        disable_tqdm=True,
    )
    with PPOTrainer(model, token_sum, args, PROMPTS, PROMPTS[:2], tokenizer, verifier=judged) as trainer:
        summary = trainer.train()
        trainer.report()
    run = Run(tmp_path / "run")
    assert summary["algorithm"] == "PPO" and summary["steps"] == 2
    assert run.config["ppo"]["num_ppo_epochs"] == 4
    assert run.config["value_model"]["kind"] == "a head on the policy"
    steps = [line for line in run.metrics if line.get("event", "step") == "step"]
    for name in (
        "policy_loss",
        "value_loss",
        "explained_variance",
        "kl",
        "kl_coef",
        "value",
        "return",
        "score",
    ):
        assert name in steps[0], name
    assert math.isfinite(steps[0]["reward_std"])
    assert (tmp_path / "run" / "model" / "config.json").exists()


# -- what is refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"num_mini_batches": 5}, ["num_mini_batches=5", "divisor of the 8 rows"]),
        ({"kl_penalty": "advantage"}, ["kl_penalty 'advantage'", "loss, reward"]),
        ({"kl_penalty": "loss", "kl_estimator": "k1"}, ["kl_estimator='k1'", "k2, k3", "noise"]),
        ({"kl_target": 6.0, "kl_coef": 0.0}, ["kl_coef=0.0", "kl_target"]),
        ({"gamma": 1.1}, ["gamma=1.1", "0 to 1"]),
        ({"lam": -0.5}, ["lam=-0.5"]),
        ({"cliprange": 0.0}, ["cliprange=0.0"]),
        ({"cliprange_value": 0.0}, ["cliprange_value=0.0", "or None"]),
        ({"missing_eos_penalty": -1.0}, ["missing_eos_penalty=-1.0", "punishes"]),
        ({"num_ppo_epoch": 2}, ["num_ppo_epoch", "Did you mean 'num_ppo_epochs'"]),
        ({"num_generations": 0}, ["num_generations=0"]),
        ({"vf_coef": math.nan}, ["vf_coef=nan"]),
    ],
)
def test_settings_that_are_refused(settings, said) -> None:
    with pytest.raises(ConfigError) as caught:
        PPOConfig(**settings)
    for part in said:
        assert part in str(caught.value)


def test_models_that_do_not_fit(tmp_path) -> None:
    other = random_model("qwen2", tied=True)  # 100 tokens
    model, tokenizer = small_model()
    cases: list[tuple[dict[str, Any], list[str]]] = [
        ({"value_model": other}, ["value_model", "vocabulary of 100", str(len(tokenizer))]),
        ({"ref_model": other}, ["ref_model", "vocabulary of 100"]),
        ({"value_model": model}, ["value_model", "shares weights", "None puts a head"]),
        ({"ref_model": model}, ["ref_model", "shares weights"]),
        ({"value_model": "head"}, ["value_model", "<str>", "transformers model"]),
        ({"ref_model": small_model(1)[0], "kl_coef": 0.0}, ["ref_model", "kl_coef=0"]),
        ({"value_model": small_model(1)[0].requires_grad_(False)}, ["value_model", "no trainable parameter"]),
    ]
    for given, said in cases:
        with pytest.raises(ConfigError) as caught:
            make_ppo(tmp_path, model=(model, tokenizer), **given)
        for part in said:
            assert part in str(caught.value), given
    assert not (tmp_path / "run").exists()


def test_a_reference_of_another_architecture(tmp_path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    model, tokenizer = small_model()
    llama = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
        )
    )
    with pytest.raises(ConfigError, match=r"ref_model=.<a llama model>.*architecture, qwen2"):
        make_ppo(tmp_path, model=(model, tokenizer), ref_model=llama)
    with make_ppo(tmp_path, model=(model, tokenizer), value_model=llama) as trainer:
        trainer.step()  # as a value model it may be any that reads the same tokens


def test_a_reward_model_that_gives_nan(tmp_path) -> None:
    def broken(completions, completion_ids, **columns):
        return [math.nan for _ in completion_ids]

    with pytest.raises(RewardError, match="nan"):
        make_ppo(tmp_path, broken)
    assert not (tmp_path / "run").exists()


def test_a_value_that_is_not_finite(tmp_path) -> None:
    with make_ppo(tmp_path) as trainer:
        trainer.step()
        before = weights_of(trainer.model)
        with torch.no_grad():
            trainer.values.head.bias.fill_(math.nan)
        for _ in range(2):
            with pytest.warns(RuntimeWarning, match="not finite"):
                metrics = trainer.step()
            assert metrics["skipped"] and metrics["updates"] == 0
        with pytest.warns(RuntimeWarning), pytest.raises(TrainingError, match="3 non-finite"):
            trainer.step()
        assert all(torch.equal(tensor, before[name]) for name, tensor in trainer.model.state_dict().items())


def test_a_value_model_with_a_short_context(tmp_path) -> None:
    policy, tokenizer = small_model()
    short = policy.config.__class__(**{**policy.config.to_dict(), "max_position_embeddings": 8})
    with pytest.raises(ConfigError, match=r"value_model.*reads 8 tokens at most.*10 tokens"):
        make_ppo(tmp_path, model=(policy, tokenizer), value_model=type(policy)(short))


def test_grpo_settings_are_refused(tmp_path) -> None:
    from rlkit import GRPOConfig

    model, tokenizer = small_model()
    with pytest.raises(ConfigError, match="PPOConfig"):
        PPOTrainer(model, token_sum, GRPOConfig(), PROMPTS, processing_class=tokenizer)


@pytest.mark.engine
def test_with_vllm(tmp_path) -> None:
    """The same step on a real vLLM engine: what it sampled is what is trained on, and the canary follows."""
    from rlkit import load_model, tasks

    task, (model, tokenizer) = tasks.arithmetic(), load_model("rlkit/tiny-arithmetic")
    settings = dict(fast_inference=True, max_completion_length=4, learning_rate=1e-4)
    with make_ppo(tmp_path, task.reward_funcs, (model, tokenizer), task.train, **settings) as trainer:
        metrics = [trainer.step() for _ in range(2)]
        assert trainer.engine.name.startswith("vLLM")
    for step in metrics:
        assert step["engine_gap_max"] < 3e-4
        assert step["sync_gap"] < 3e-4
        assert step["updates"] == 8
