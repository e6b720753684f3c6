"""Settings of training runs, checked before anything is loaded. Importing them loads no torch."""

from rlkit.config.grpo import GRPOConfig
from rlkit.config.ppo import PPOConfig
from rlkit.config.reward_model import RewardModelConfig
from rlkit.config.rollout import WEIGHT_SYNCS, RolloutSettings
from rlkit.config.rows import RowSettings
from rlkit.config.sft import SFTConfig
from rlkit.config.training import SCHEDULES, ConfigWarning, TrainingSettings

__all__ = [
    "SCHEDULES",
    "WEIGHT_SYNCS",
    "ConfigWarning",
    "GRPOConfig",
    "PPOConfig",
    "RewardModelConfig",
    "RolloutSettings",
    "RowSettings",
    "SFTConfig",
    "TrainingSettings",
]
