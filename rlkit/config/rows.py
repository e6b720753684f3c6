"""Settings of trainers that go through a fixed data set, so many rows a step."""

from __future__ import annotations

from dataclasses import dataclass

from rlkit.config.training import TrainingSettings, count
from rlkit.errors import ConfigError, bad_value
from rlkit.settings import require

_ROWS_PER_STEP = 16  # where neither rows_per_step nor TRL's pair is given


@dataclass(kw_only=True)
class RowSettings(TrainingSettings):
    """Base of ``SFTConfig`` and ``RewardModelConfig``.

    Attributes:
        output_dir … disable_tqdm: see :class:`TrainingSettings`.
        rows_per_step: rows an optimizer step; default 16, or what ``per_device_train_batch_size`` ×
            ``gradient_accumulation_steps`` gives.
        max_length: tokens of prompt and completion together; longer rows are left out. None: the model's context.
    """

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

        >>> RowSettings(rows_per_step=16, num_train_epochs=1).schedule(300)
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
