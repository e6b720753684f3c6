"""rlkit: reinforcement learning of language models, taught in Jupyter.

    from rlkit import GRPOConfig, GRPOTrainer, load_model, rewards, tasks

Importing the package is instant and imports nothing heavy: torch, transformers and vLLM are loaded when the
first name that needs them is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what type checkers and editors see; at run time __getattr__ does the work
    from rlkit import engines, exercises, feedback, figures, lab, objectives, rewards, runs, sandbox, tasks
    from rlkit.adapters import add_lora
    from rlkit.config import GRPOConfig, PPOConfig, RewardModelConfig, SFTConfig
    from rlkit.fetching import fetch
    from rlkit.models import load_model
    from rlkit.rollout import Completion, Rollout
    from rlkit.runs import Run
    from rlkit.trainers.callbacks import Callback
    from rlkit.trainers.grpo import GRPOTrainer
    from rlkit.trainers.ppo import PPOTrainer
    from rlkit.trainers.reward_model import RewardModelTrainer
    from rlkit.trainers.scorer import RewardModel, load_reward_model
    from rlkit.trainers.sft import SFTTrainer
    from rlkit.trainers.value_files import load_value_model

    __version__: str

__all__ = [
    "Callback",
    "Completion",
    "GRPOConfig",
    "GRPOTrainer",
    "PPOConfig",
    "PPOTrainer",
    "RewardModel",
    "RewardModelConfig",
    "RewardModelTrainer",
    "Rollout",
    "Run",
    "SFTConfig",
    "SFTTrainer",
    "add_lora",
    "engines",
    "exercises",
    "feedback",
    "fetch",
    "figures",
    "lab",
    "load_model",
    "load_reward_model",
    "load_value_model",
    "objectives",
    "rewards",
    "runs",
    "sandbox",
    "tasks",
]

_HOME = {  # exported name -> the module that defines it
    "Callback": "rlkit.trainers.callbacks",
    "Completion": "rlkit.rollout",
    "GRPOConfig": "rlkit.config",
    "GRPOTrainer": "rlkit.trainers.grpo",
    "PPOConfig": "rlkit.config",
    "PPOTrainer": "rlkit.trainers.ppo",
    "RewardModel": "rlkit.trainers.scorer",
    "RewardModelConfig": "rlkit.config",
    "RewardModelTrainer": "rlkit.trainers.reward_model",
    "Rollout": "rlkit.rollout",
    "Run": "rlkit.runs",
    "SFTConfig": "rlkit.config",
    "SFTTrainer": "rlkit.trainers.sft",
    "add_lora": "rlkit.adapters",
    "fetch": "rlkit.fetching",
    "load_model": "rlkit.models",
    "load_reward_model": "rlkit.trainers.scorer",
    "load_value_model": "rlkit.trainers.value_files",
}
_SUBMODULES = frozenset(
    {
        "engines",
        "exercises",
        "feedback",
        "figures",
        "lab",
        "objectives",
        "rewards",
        "runs",
        "sandbox",
        "tasks",
    }
)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
    elif name in _SUBMODULES:
        value = importlib.import_module(f"rlkit.{name}")
    elif name == "__version__":
        value = importlib.import_module("rlkit._version").version()
    else:
        raise AttributeError(f"module 'rlkit' has no attribute {name!r}. It has: {', '.join(__all__)}.")
    globals()[name] = value  # the next access does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
