"""Settings of training runs, checked before anything is loaded. Importing them loads no torch."""

from rlkit.config.grpo import WEIGHT_SYNCS, GRPOConfig
from rlkit.config.sft import SFTConfig
from rlkit.config.training import SCHEDULES, ConfigWarning, TrainingSettings

__all__ = ["SCHEDULES", "WEIGHT_SYNCS", "ConfigWarning", "GRPOConfig", "SFTConfig", "TrainingSettings"]
