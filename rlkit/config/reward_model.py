"""Settings of the reward model's training."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rlkit.config.rows import RowSettings
from rlkit.settings import require, strict_keywords


@strict_keywords
@dataclass(kw_only=True)
class RewardModelConfig(RowSettings):
    """Everything that a reward model's training can be told. TRL's ``RewardConfig``, with rlkit's run settings.

    A row is a pair of answers; a step is one optimizer step on ``rows_per_step`` of them.

    Attributes:
        output_dir … max_length: see :class:`RowSettings`. A pair is left out where one of its sides is too long.
        center_rewards_coefficient: c of the term c · (r_chosen + r_rejected)², which keeps rewards around 0; None: no
            such term. Usual: 0.01. Without it, only differences of rewards mean anything.
        calibration_bins: bins of the expected calibration error.

    Raises:
        ConfigError: naming the setting, its value, what is allowed and the likely cause.
    """

    output_dir: str = "runs/reward_model"
    learning_rate: float = 1e-4
    num_train_epochs: float = 1.0  # a reward model that has seen its pairs twice tends to know them by heart

    center_rewards_coefficient: float | None = None
    calibration_bins: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        weight = self.center_rewards_coefficient
        fits = weight is None or 0 <= weight < math.inf
        require("center_rewards_coefficient", weight, fits, "0 or more, or None")
        bins = self.calibration_bins
        require("calibration_bins", bins, bins >= 1, "a whole number, 1 or more")
