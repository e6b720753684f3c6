"""The reward model: its loss and gradient against a loop, learning, exact resume, and use as a reward function."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from small_trainer import PROMPTS, small_model, weights_of
from small_trainer import make_trainer as make_grpo_trainer
from tiny_models import ARCHITECTURES, IdTokenizer, random_model

from rlkit import Callback, Run, load_model
from rlkit.adapters import add_lora
from rlkit.config import ConfigWarning
from rlkit.config.reward_model import RewardModelConfig
from rlkit.errors import ConfigError, RewardError, TrainingError
from rlkit.feedback import SyntheticRater
from rlkit.trainers.reward_model import RewardModelTrainer
from rlkit.trainers.reward_rows import read_row, rewards_of
from rlkit.trainers.scorer import RewardModel, load_reward_model, make_reward_model

ROWS = [  # of different lengths; the rater wants a "y"
    {"prompt": f"{a}+{b}=", "chosen": f"{a + b}y" + "!" * (a % 3), "rejected": f"{a + b}n" + "!" * (b % 4)}
    for a in range(3, 30, 4)
    for b in range(5, 21, 3)
]
LONG = {"prompt": "1+1=", "chosen": "2 " * 40, "rejected": "3"}


def reward_model(lora: bool = False, dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[Any, Any]:
    model, tokenizer = small_model(seed)
    return make_reward_model(model.to(dtype), tokenizer, lora=lora, seed=seed)


def make_trainer(
    tmp_path: Path,
    model: Any = None,
    rows: Any = ROWS,
    held_out: Any = None,
    callbacks: Any = (),
    **settings: Any,
) -> RewardModelTrainer:
    model, tokenizer = model or reward_model()
    defaults = dict(
        output_dir=str(tmp_path / "run"),
        max_steps=3,
        rows_per_step=8,
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        save_model=False,
        disable_tqdm=True,
        seed=0,
    )
    args = RewardModelConfig(**{**defaults, **settings})
    return RewardModelTrainer(model, args, rows, held_out, tokenizer, callbacks)


def gradients(model: Any) -> dict[str, torch.Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def reference_loss(model: Any, pairs: list[Any], weight: float) -> torch.Tensor:
    """Row by row, through transformers' own forward pass."""
    total = torch.zeros((), dtype=torch.float64)
    for pair in pairs:
        chosen, rejected = (
            model(input_ids=torch.tensor([ids])).logits[0, 0] for ids in (pair.chosen, pair.rejected)
        )
        total = total - torch.log(1 / (1 + torch.exp(-(chosen - rejected - pair.margin))))
        total = total + weight * (chosen + rejected) ** 2
    return total / len(pairs)


# -- the loss ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lora", [False, True])
def test_loss_and_gradient_are_those_of_the_loop(tmp_path, lora):
    rows = [{**row, "margin": i % 3 / 2} for i, row in enumerate(ROWS)]
    model = reward_model(lora, torch.float64)
    trainer = make_trainer(tmp_path, model, rows, micro_batch_tokens=60, center_rewards_coefficient=0.3)
    pairs = trainer.train_rows[:8]
    found = trainer.gradient(pairs)
    mine = gradients(trainer.model)
    loss = reference_loss(trainer.model, pairs, 0.3)
    loss.backward()
    theirs = gradients(trainer.model)
    assert abs(found["loss"] - loss.item()) < 1e-12
    assert set(mine) == set(theirs) and any("score" in name for name in mine)
    for name, gradient in theirs.items():
        torch.testing.assert_close(mine[name], gradient, rtol=1e-9, atol=1e-12)
    assert any(float(gradient.abs().max()) > 1e-3 for gradient in theirs.values())


def test_how_pairs_are_cut_changes_nothing(tmp_path):
    found = []
    for i, budget in enumerate((16, 100, 4096)):
        trainer = make_trainer(
            tmp_path / str(i), reward_model(dtype=torch.float64), micro_batch_tokens=budget
        )
        values = trainer.gradient(trainer.train_rows[:8])
        found.append((values, gradients(trainer.model)))
        assert values["tokens"] == sum(len(p.chosen) + len(p.rejected) for p in trainer.train_rows[:8])
    for values, gradient in found[1:]:
        for name in ("loss", "accuracy", "margin_mean", "reward_mean"):
            assert values[name] == pytest.approx(found[0][0][name], abs=1e-12)
        for name, tensor in gradient.items():
            torch.testing.assert_close(tensor, found[0][1][name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_rewards_of_every_architecture_are_those_of_transformers(architecture):
    policy = random_model(architecture, tied=False)
    before = weights_of(policy)
    model, _ = make_reward_model(policy, IdTokenizer())
    rows = [[5, 6, 7, 2], [8, 9, 10, 11, 12, 13, 2], [4, 2]]
    together = rewards_of(model, rows, 0)
    alone = torch.cat([model(input_ids=torch.tensor([row])).logits[:, 0] for row in rows])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    assert len({round(r, 3) for r in together.tolist()}) == 3
    rewards_of(model, rows, 0).sum().backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in policy.state_dict().items())


# -- learning ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lora", [False, True])
def test_it_learns_what_is_preferred(tmp_path, lora):
    rate = 3e-3 if lora else 1e-3
    trainer = make_trainer(
        tmp_path,
        reward_model(lora),
        ROWS[::2],
        ROWS[1::2],
        max_steps=30,
        learning_rate=rate,
        rows_per_step=16,
    )
    summary = trainer.train()
    assert summary["accuracy_after"] == 1 and summary["loss_after"] < 0.2 < summary["loss_before"]
    last = trainer.evaluations[-1]
    assert last.calibration_error < 0.2 and last.longer_preferred == last.longer_chosen
    assert "held-out pairs" in last.report() and "100.0%" in last.report()
    run = Run(tmp_path / "run")
    assert [line["step"] for line in run.metrics] == list(range(1, 31))
    assert run.config["algorithm"] == "reward model"
    reward = trainer.as_reward(normalise=True)
    good, bad = reward(["2+9=", "2+9="], ["11y", "11n"])
    assert good > 0 > bad
    sides = [reward([row["prompt"]], [row[side]])[0] for row in ROWS[::2] for side in ("chosen", "rejected")]
    assert abs(sum(sides) / len(sides)) < 1e-5
    trainer.close()


def test_labels_turned_round_turn_the_rewards(tmp_path):
    """The control: what it learns comes from the labels."""
    turned = [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in ROWS]
    trainer = make_trainer(tmp_path, rows=turned, held_out=ROWS, max_steps=30, rows_per_step=16)
    assert trainer.train()["accuracy_after"] == 0


def test_centring_keeps_rewards_around_zero(tmp_path):
    found = []
    for i, weight in enumerate((None, 0.1)):
        model, tokenizer = reward_model()
        with torch.no_grad():
            model.score.weight.mul_(8)
        trainer = make_trainer(
            tmp_path / str(i),
            (model, tokenizer),
            held_out=ROWS,
            max_steps=20,
            center_rewards_coefficient=weight,
        )
        trainer.train()
        found.append(abs(trainer.evaluations[-1].reward_mean))
    assert found[1] < found[0] / 2


def test_the_policy_it_begins_as_stays_as_it_is(tmp_path):
    policy, tokenizer = small_model()
    before = weights_of(policy)
    trainer = make_trainer(tmp_path, (policy, tokenizer))
    trainer.train()
    assert all(torch.equal(tensor, before[name]) for name, tensor in policy.state_dict().items())
    assert not torch.equal(trainer.model.model.norm.weight, policy.model.norm.weight)


def test_an_adapters_base_is_its_merged_weights():
    policy, tokenizer = small_model()
    adapted = add_lora(policy)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.2, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[5, 6, 7, 8]])
    wanted = adapted.get_base_model().model(input_ids=ids).last_hidden_state
    model, _ = make_reward_model(adapted, tokenizer)
    torch.testing.assert_close(model.model(input_ids=ids).last_hidden_state, wanted, rtol=1e-4, atol=1e-5)


def test_synthetic_preferences_are_learned_from_a_name(tmp_path):
    rater = SyntheticRater(noise=0)
    answers = [
        {"prompt": f"{a}+{b}=", "completions": [f"{a + b}", f"it is {a + b}"]}
        for a in range(10, 16)
        for b in range(8)
    ]
    args = RewardModelConfig(
        output_dir=str(tmp_path / "run"), max_steps=8, learning_rate=1e-3, disable_tqdm=True, save_model=True
    )
    trainer = RewardModelTrainer("rlkit/tiny-arithmetic", args, rater.preferences(answers))
    trainer.train()
    loaded = load_reward_model(tmp_path / "run" / "model")
    short, long = loaded(["11+3=", "11+3="], ["14", "it is 14"])
    assert short > long


def in_styles(a: int, b: int, dice: random.Random) -> list[str]:
    """Bare, a sentence, with the working shown, rambling; now and then wrong."""
    tens, ones, said = a // 10 * 10 + b // 10 * 10, a % 10 + b % 10, a + b - dice.choice([0, 0, 10])
    working = f"{tens}+{ones}={a + b}"
    return [
        f"{said}",
        f"The answer is {said}.",
        working,
        f"Well, let me see, that should be about {said}, I think.",
    ]


def test_it_predicts_the_rater_as_well_as_the_taste_itself_does(tmp_path):
    dice = random.Random(0)
    sums = [(a, b) for a in range(1, 30) for b in range(1, 30)]
    dice.shuffle(sums)
    rows = [{"prompt": f"{a}+{b}=", "completions": in_styles(a, b, dice)} for a, b in sums]
    rater = SyntheticRater(noise=0.25)
    train, held_out = rater.preferences(rows[:400], pairs=2), rater.preferences(rows[-200:], pairs=3)
    trainer = make_trainer(
        tmp_path,
        ("rlkit/tiny-arithmetic", None),
        train,
        held_out,
        max_steps=-1,
        rows_per_step=16,
        lr_scheduler_type="linear",
    )
    found = trainer.train()["accuracy_after"]
    ceiling = rater.expected_accuracy(held_out)
    assert 0.85 < ceiling < 0.97
    assert found > ceiling - 3 * (ceiling * (1 - ceiling) / len(held_out)) ** 0.5


# -- going on ------------------------------------------------------------------------------------------------


class StopAfter(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, trainer, metrics):
        if metrics.step == self.step:
            trainer.stop()


@pytest.mark.parametrize("kind", ["full", "lora", "bfloat16"])
def test_resume_is_exact(tmp_path, kind):
    def model():
        return reward_model(kind == "lora", torch.bfloat16 if kind == "bfloat16" else torch.float32)

    settings = dict(held_out=ROWS[:6], max_steps=6, eval_steps=2, lr_scheduler_type="linear")
    whole = make_trainer(tmp_path / "whole", model(), **settings)
    whole.train()
    first = make_trainer(tmp_path / "parts", model(), callbacks=[StopAfter(3)], **settings)
    assert first.train()["status"].startswith("stopped")
    first.close()
    second = make_trainer(tmp_path / "parts", model(), **settings)
    summary = second.train(resume=True)
    assert summary["steps"] == 6
    theirs = weights_of(second.model)
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in whole.model.state_dict().items())
    for mine, other in zip(Run(whole.run_dir).metrics, Run(second.run_dir).metrics, strict=True):
        for name in ("loss", "accuracy", "grad_norm", "learning_rate", "reward_mean"):
            assert mine[name] == other[name]
    assert [repr(e) for e in whole.evaluations] == [repr(e) for e in second.evaluations]


def test_resume_with_other_data_is_refused(tmp_path):
    first = make_trainer(tmp_path, save_steps=1)
    first.train()
    first.close()
    for changed in (dict(rows=ROWS[1:]), dict(center_rewards_coefficient=0.1), dict(rows_per_step=4)):
        with pytest.raises(ConfigError, match="cannot be resumed"):
            make_trainer(tmp_path, **{"max_steps": 5, **changed}).train(resume=True)


def test_three_gradients_that_are_not_finite_end_the_run(tmp_path):
    trainer = make_trainer(tmp_path)
    with torch.no_grad():
        trainer.model.score.weight.fill_(math.nan)
    with pytest.warns(RuntimeWarning, match="not finite"), pytest.raises(TrainingError, match="3 non-finite"):
        trainer.train()
    assert len(list((tmp_path / "run" / "nonfinite").iterdir())) == 3


# -- files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lora", [False, True])
def test_saved_and_loaded_it_gives_the_same_rewards(tmp_path, lora):
    policy = small_model()[0]
    policy.save_pretrained(tmp_path / "base")
    small_model()[1].save_pretrained(tmp_path / "base")
    trainer = make_trainer(tmp_path, make_reward_model(str(tmp_path / "base"), lora=lora))
    trainer.train()
    reward = trainer.as_reward(normalise=True)
    wanted = reward(["2+9=", "1+1="], ["11y", "2 or so"])
    reward.save(tmp_path / "saved")
    loaded = load_reward_model(tmp_path / "saved")
    assert loaded(["2+9=", "1+1="], ["11y", "2 or so"]) == wanted
    assert (loaded.mean, loaded.std) == (reward.mean, reward.std)
    files = {path.name for path in (tmp_path / "saved").iterdir()}
    assert ("adapter_model.safetensors" if lora else "model.safetensors") in files
    trainer.save_model(tmp_path / "plain")
    plain = load_reward_model(tmp_path / "plain")
    assert plain(["2+9="], ["11y"]) == trainer.as_reward()(["2+9="], ["11y"])


def test_transformers_loads_the_folder_and_agrees(tmp_path):
    from transformers import AutoModelForSequenceClassification

    trainer = make_trainer(tmp_path)
    trainer.train()
    trainer.save_model(tmp_path / "saved")
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved").eval()
    rows = [read_row(trainer.processing_class, "1+1=", said, {1}) for said in ("2", "two, I think")]
    width = max(map(len, rows))
    pad = trainer.processing_class.pad_token_id
    ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows])  # [2, W]
    with torch.no_grad():
        found = theirs(input_ids=ids, attention_mask=(ids != pad).long()).logits[:, 0]  # [2]
    torch.testing.assert_close(found, rewards_of(trainer.model, rows, pad).detach(), rtol=1e-5, atol=1e-5)


def test_an_adapter_is_not_loaded_onto_another_base(tmp_path):
    """A model that was trained in memory still bears its folder's name; what lies there is not what was trained on."""
    policy, tokenizer = small_model()
    policy.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    policy, _ = load_model(tmp_path / "base")
    model, _ = make_reward_model(policy, tokenizer, lora=True)
    RewardModel(model, tokenizer).save(tmp_path / "good")
    load_reward_model(tmp_path / "good")
    with torch.no_grad():
        policy.model.norm.weight[0] += 1e-3
    model, _ = make_reward_model(policy, tokenizer, lora=True)
    RewardModel(model, tokenizer).save(tmp_path / "bad")
    with pytest.raises(ConfigError, match="other weights than .*base"):
        load_reward_model(tmp_path / "bad")
    with pytest.raises(ConfigError, match="Merge first"):
        make_reward_model(add_lora(policy, r=4), tokenizer, lora=True)


def test_a_backbone_in_four_bits(tmp_path):
    policy, tokenizer = load_model("rlkit/tiny-arithmetic", load_in_4bit=True)
    with pytest.raises(ConfigError, match="4 bits.*lora=True"):
        make_reward_model(policy, tokenizer)
    trainer = make_trainer(tmp_path, make_reward_model(policy, tokenizer, lora=True), learning_rate=3e-3)
    before = trainer.as_reward()(["2+9="], ["11y"])
    losses = [trainer.step()["loss"] for _ in range(3)]
    assert all(map(math.isfinite, losses))
    after = trainer.as_reward()(["2+9="], ["11y"])
    assert before != after
    trainer.save_model(tmp_path / "saved")
    loaded = load_reward_model(tmp_path / "saved")(["2+9="], ["11y"])  # in full precision: near, not equal
    assert loaded == pytest.approx(after, abs=0.5)


def test_folders_without_a_reward_model_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"no config\.json"):
        load_reward_model(tmp_path)
    model, tokenizer = small_model()
    model.config.num_labels = 2
    model.save_pretrained(tmp_path / "two")
    tokenizer.save_pretrained(tmp_path / "two")
    with pytest.raises(ConfigError, match="one label"):
        load_reward_model(tmp_path / "two")


# -- as a reward ---------------------------------------------------------------------------------------------


def test_it_scores_what_grpo_samples(tmp_path):
    reward = RewardModel(*reward_model(), name="taste_model")
    trainer = make_grpo_trainer(tmp_path, reward=reward, max_steps=1)
    trainer.train()
    line = Run(tmp_path / "run").metrics[0]
    assert any("taste_model" in name for name in line)


def test_a_reward_model_that_gives_nan_is_refused_before_training(tmp_path):
    model, tokenizer = reward_model()
    with torch.no_grad():
        model.score.weight[0, 0] = math.nan
    with pytest.raises(RewardError, match="weights are broken"):
        make_grpo_trainer(tmp_path, reward=RewardModel(model, tokenizer))
    with pytest.raises(ConfigError, match="finite"):
        make_trainer(tmp_path, (model, tokenizer))
    assert not (tmp_path / "run").exists()


def test_padding_and_company_change_no_reward():
    reward = RewardModel(*reward_model(dtype=torch.float64), micro_batch_tokens=30)
    prompts = [row["prompt"] for row in PROMPTS]
    said = ["4", "", "it is four", "4" * 20, *"12345678"]
    together = reward(prompts, said)
    alone = [reward([prompt], [text])[0] for prompt, text in zip(prompts, said, strict=True)]
    assert together == pytest.approx(alone, abs=1e-12)


def test_padding_with_the_end_token_changes_no_reward():
    """The last token is counted, not looked for: where the end token pads, looking finds the wrong one."""
    model, tokenizer = reward_model(dtype=torch.float64)
    plain = RewardModel(model, tokenizer)(["1+1=", "1+1="], ["2", "two, I think"])
    tokenizer.pad_token = tokenizer.eos_token
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    padded = RewardModel(model, tokenizer)(["1+1=", "1+1="], ["2", "two, I think"])
    assert padded == plain
    row = read_row(tokenizer, "1+1=", "2", {tokenizer.eos_token_id})
    hidden = model.model(input_ids=torch.tensor([row]))[0][0, -1]  # [H], at the end token
    assert plain[0] == pytest.approx(float(model.score(hidden).detach()), abs=1e-12)


def test_rows_end_in_their_end_token():
    tokenizer = small_model()[1]
    end = tokenizer.eos_token_id
    text = read_row(tokenizer, "1+1=", "2", {end})
    assert text == [*tokenizer("1+1=2")["input_ids"], end]
    chat = [{"role": "user", "content": "1+1="}], [{"role": "assistant", "content": "2"}]
    assert read_row(tokenizer, *chat, {end}) == text
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}<|end|>\n{% endfor %}"
    )
    assert tokenizer.decode(read_row(tokenizer, *chat, {end})) == "[user]1+1=<|end|>\n[assistant]2<|end|>"


def test_chats_are_preferences_too(tmp_path):
    rows = [
        {
            "prompt": [{"role": "user", "content": row["prompt"]}],
            **{side: [{"role": "assistant", "content": row[side]}] for side in ("chosen", "rejected")},
        }
        for row in ROWS
    ]
    texts, chats = make_trainer(tmp_path / "a"), make_trainer(tmp_path / "b", rows=rows)
    assert texts.train_rows == chats.train_rows
    assert chats.as_reward()([rows[0]["prompt"]], [rows[0]["chosen"]]) == texts.as_reward()(
        [ROWS[0]["prompt"]], [ROWS[0]["chosen"]]
    )


# -- what cannot be ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{**ROWS[0], "rejected": ROWS[0]["chosen"]}], "to itself"),
        ([{**ROWS[0], "chosen": " "}], "empty"),
        ([{"prompt": "1+1=", "completion": "2", "label": True}], "pairs_from_thumbs"),
        ([], "no rows"),
        (None, "train_dataset"),
        ([LONG], "Raise max_length"),
    ],
)
def test_bad_pairs_are_refused(tmp_path, rows, said):
    with pytest.raises(ConfigError, match=said):
        make_trainer(tmp_path, rows=rows)
    assert not (tmp_path / "run").exists()


def test_pairs_that_are_too_long_are_left_out_and_counted(tmp_path):
    with pytest.warns(ConfigWarning, match=f"1 of the {len(ROWS) + 1} pairs"):
        trainer = make_trainer(tmp_path, rows=[LONG, *ROWS])
    assert trainer.describe()["left_out"]["train_dataset"] == 1
    with pytest.raises(ConfigError, match="max_length"):
        make_trainer(tmp_path, max_length=1000)


def test_sides_with_the_same_tokens_are_refused(tmp_path):
    model, tokenizer = reward_model()
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }}{% endfor %}"  # drops what is said
    rows = [
        {
            "prompt": [{"role": "user", "content": "?"}],
            "chosen": [{"role": "assistant", "content": "yes"}],
            "rejected": [{"role": "assistant", "content": "no"}],
        }
    ]
    with pytest.raises(ConfigError, match="same tokens"):
        make_trainer(tmp_path, (model, tokenizer), rows)


def test_bad_models_and_settings_are_refused(tmp_path):
    model, tokenizer = small_model()
    with pytest.raises(ConfigError, match="tokenizer"):
        make_reward_model(model)
    with pytest.raises(ConfigError, match="lora=True"):
        make_reward_model(model, tokenizer, r=8)
    with pytest.raises(ConfigError, match="scalar head"):
        RewardModel(model, tokenizer)
    with pytest.raises(ConfigError, match="causal LM"):
        make_reward_model(torch.nn.Linear(2, 2), tokenizer)
    with pytest.raises(ConfigError, match="std"):
        RewardModel(*reward_model(), std=0.0)
    for setting in (dict(center_rewards_coefficient=-1.0), dict(calibration_bins=0), dict(rows_per_step=0)):
        with pytest.raises(ConfigError, match=next(iter(setting))):
            RewardModelConfig(**setting)
    with pytest.raises(ConfigError, match="Did you mean 'center_rewards_coefficient'"):
        RewardModelConfig(center_reward_coefficient=0.1)
    with pytest.raises(ConfigError, match="RewardModelConfig"):
        RewardModelTrainer(model, {"max_steps": 1}, ROWS)
