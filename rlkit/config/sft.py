"""Settings of supervised fine-tuning, the warm start before reinforcement learning."""

from __future__ import annotations

from dataclasses import dataclass

from rlkit.config.rows import RowSettings
from rlkit.settings import strict_keywords


@strict_keywords
@dataclass(kw_only=True)
class SFTConfig(RowSettings):
    """Everything that a warm start can be told.

    A step is one optimizer step on ``rows_per_step`` rows. Whoever comes from TRL may give
    ``per_device_train_batch_size`` and ``gradient_accumulation_steps`` instead: their product is the rows a
    step, the first is the micro-batch. The loss is always on completions only (TRL: ``completion_only_loss``), for
    chats on the assistant's turns (TRL: ``assistant_only_loss``).

    Attributes:
        output_dir … disable_tqdm: see :class:`TrainingSettings`. ``save_samples`` has nothing to keep: nothing is
            sampled.
        learning_rate: peak rate of AdamW. TRL's default suits large models; tiny ones want 1e-3, LoRA 1e-4 to 2e-4.

        rows_per_step: rows an optimizer step; default 16, or what the TRL pair gives.
        max_length: tokens of prompt and completion together; longer rows are left out, with a warning that
            counts them (TRL cuts them, and what is cut off is the end: the answer). None: the model's context.

    Raises:
        ConfigError: naming the setting, its value, what is allowed and the likely cause.
    """

    output_dir: str = "runs/sft"
    learning_rate: float = 2e-5
