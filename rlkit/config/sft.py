"""Settings of supervised fine-tuning, the warm start before reinforcement learning."""

from __future__ import annotations

from dataclasses import dataclass

from rlkit.config.training import TrainingSettings, count
from rlkit.errors import ConfigError, bad_value
from rlkit.settings import require, strict_keywords

_ROWS_PER_STEP = 16  # where neither rows_per_step nor TRL's pair is given


@strict_keywords
@dataclass(kw_only=True)
class SFTConfig(TrainingSettings):
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

    rows_per_step: int | None = None
    max_length: int | None = None

    def __post_init__(self) -> None:
        self.check_types()
        self.check_training()
        length, cause = self.max_length, "A completion needs a token before it."
        require(
            "max_length", length, length is None or length >= 2, "a whole number, 2 or more, or None", cause
        )
        self._check_batch()

    def total_steps(self, num_rows: int) -> int:
        """Optimizer steps for a data set of ``num_rows`` rows."""
        assert self.rows_per_step is not None
        return self.steps_for(num_rows, self.rows_per_step)

    def schedule(self, num_rows: int) -> str:
        """The batch arithmetic in one sentence, for people.

        >>> SFTConfig(rows_per_step=16, num_train_epochs=1).schedule(300)
        '300 rows, 16 rows a step: 19 steps, 1.01 epochs'
        """
        assert self.rows_per_step is not None
        steps = self.total_steps(num_rows)
        epochs = steps * self.rows_per_step / max(num_rows, 1)
        return (
            f"{count(num_rows, 'row')}, {count(self.rows_per_step, 'row')} a step: {count(steps, 'step')}, "
            f"{epochs:.3g} epoch{'' if round(epochs, 3) == 1 else 's'}"
        )

    def _check_batch(self) -> None:
        """Fill in whichever of the rows, the micro-batch and the accumulation follows from the others."""
        rows, micro = self.rows_per_step, self.per_device_train_batch_size
        accumulate = self.gradient_accumulation_steps
        require("rows_per_step", rows, rows is None or rows >= 1, "a whole number, 1 or more")
        if rows is None:
            rows = self.rows_per_step = _ROWS_PER_STEP if micro is None else micro * (accumulate or 1)
        elif micro is not None and accumulate is not None and micro * accumulate != rows:
            raise ConfigError(
                f"rows_per_step={rows}, but per_device_train_batch_size={micro} × gradient_accumulation_steps="
                f"{accumulate} is {micro * accumulate}. Give rows_per_step, or the other two, not both."
            )
        if micro is None and accumulate is not None:
            if rows % accumulate:
                raise bad_value(
                    "gradient_accumulation_steps",
                    accumulate,
                    f"a divisor of the {rows} rows a step",
                    "Each accumulation step takes the same number of rows.",
                )
            self.per_device_train_batch_size = rows // accumulate
