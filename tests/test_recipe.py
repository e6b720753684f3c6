"""What a recipe makes of a YAML file: which trainer, on which model. Wrong recipes are in ``test_bad_input.py``."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from rlkit import GRPOTrainer, PPOTrainer, RewardModel, load_model
from rlkit.adapters import add_lora, is_adapter_model
from rlkit.config import GRPOConfig, PPOConfig, SFTConfig
from rlkit.recipe import LORA_KEYS, Recipe
from rlkit.trainers.scorer import make_reward_model
from rlkit.trainers.sft import SFTTrainer

TINY = "rlkit/tiny-arithmetic"
TASK = {"name": "arithmetic", "max_operand": 9}


def made(tmp_path: Path, **settings: Any) -> Any:
    """The trainer of a recipe with ``settings``, read from a file."""
    if "sft" not in settings:
        section = "ppo" if "ppo" in settings else "grpo"
        settings[section] = {"fast_inference": False, "max_completion_length": 4, **settings.get(section, {})}
    settings = {"model": TINY, "task": TASK, "output_dir": str(tmp_path / "run"), **settings}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    return Recipe.read(tmp_path / "config.yaml").trainer()


def test_the_keys_under_lora_are_the_arguments_of_add_lora() -> None:
    arguments = inspect.signature(add_lora).parameters
    assert {*LORA_KEYS} == {*arguments} - {"model", "peft_config"}


def test_grpo_with_an_adapter(tmp_path: Path) -> None:
    with made(tmp_path, lora={"r": 4, "target_modules": ["q_proj"]}, seed=5) as trainer:
        assert isinstance(trainer, GRPOTrainer) and trainer.args.seed == 5
        assert trainer.describe()["lora"] == {
            "r": 4,
            "lora_alpha": 32,
            "use_rslora": False,
            "target_modules": ["q_proj"],
        }
        same = add_lora(load_model(TINY)[0], r=4, target_modules=["q_proj"], seed=5)  # the run's seed
        mine, other = (dict(model.named_parameters()) for model in (trainer.model, same))
        assert mine.keys() == other.keys() and all(torch.equal(mine[name], other[name]) for name in mine)
    with made(tmp_path, lora={"r": 4, "seed": 6}, seed=5) as trainer:  # the adapter's own
        found = dict(trainer.model.named_parameters())
        name = next(name for name in other if "lora_A" in name)
        assert not torch.equal(found[name], other[name])


def test_an_empty_lora_is_an_adapter_with_default_settings(tmp_path: Path) -> None:
    with made(tmp_path, lora={}) as trainer:
        assert is_adapter_model(trainer.model) and trainer.describe()["lora"]["r"] == 16
    with made(tmp_path) as trainer:
        assert not is_adapter_model(trainer.model)


def test_the_model_as_a_mapping(tmp_path: Path) -> None:
    model = {"name": TINY, "dtype": "bfloat16", "max_seq_length": 32}
    with made(tmp_path, model=model) as trainer:
        assert trainer.model.dtype == torch.bfloat16
        assert trainer.processing_class.model_max_length == 32


def test_four_bits_and_an_adapter(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    with made(tmp_path, model={"name": TINY, "load_in_4bit": True}, lora={"r": 4}) as trainer:
        about = trainer.describe()
        assert about["load_in_4bit"] and about["trained_parameters"] < about["parameters"]


def test_ppo_with_a_reward_model_that_was_saved(tmp_path: Path) -> None:
    backbone, tokenizer = make_reward_model(TINY)
    RewardModel(backbone, tokenizer, mean=0.5).save(tmp_path / "judge")
    judge = {"name": "rlkit:load_reward_model", "folder": str(tmp_path / "judge")}
    ppo = {"prompts_per_step": 2, "max_steps": 1, "probe_prompts": 0, "disable_tqdm": True}
    with made(tmp_path, ppo=ppo, rewards=judge, seed=5) as trainer:
        assert isinstance(trainer, PPOTrainer) and trainer.args.seed == 5
        assert trainer.reward_funcs[0].mean == 0.5
        values = trainer.step().values
        assert values["rewards/reward_model"] == values["reward"]


@pytest.mark.parametrize("lora", [None, {"r": 4}], ids=["full", "lora"])
def test_a_warm_start(tmp_path: Path, lora: Any) -> None:
    with made(tmp_path, sft={"rows_per_step": 4, "max_steps": 1}, lora=lora, seed=5) as trainer:
        assert isinstance(trainer, SFTTrainer) and isinstance(trainer.args, SFTConfig)
        assert (trainer.args.seed, trainer.args.rows_per_step) == (5, 4)
        assert trainer.eval_rows  # the task's test rows
        assert is_adapter_model(trainer.model) == (lora is not None)
        row = trainer.train_rows[0]
        learned = [token for token, learn in zip(row.input_ids, row.learned, strict=True) if learn]
        answer = trainer.processing_class.decode(learned, skip_special_tokens=True)
        assert answer.strip().isdigit()


def test_an_empty_section_means_its_defaults(tmp_path: Path) -> None:
    for section, kind in (("grpo", GRPOConfig), ("ppo", PPOConfig), ("sft", SFTConfig)):
        assert Recipe.from_dict({"model": TINY, "task": TASK, section: None}).args == kind()
    assert Recipe.from_dict({"model": TINY, "task": TASK}).args == GRPOConfig()
