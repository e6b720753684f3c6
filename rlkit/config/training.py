"""What every trainer can be told: the run, the optimizer, memory, checkpoints, evaluation.

Fields carry TRL's names where TRL has them, so that a configuration can move over.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from rlkit.errors import bad_value, unknown_name
from rlkit.settings import Settings, require

SCHEDULES = ("constant", "linear", "cosine", "constant_with_warmup")


class ConfigWarning(UserWarning):
    """A setting that works but rarely does what one hopes."""


@dataclass(kw_only=True)
class TrainingSettings(Settings):
    """Base of the trainers' settings.

    Attributes:
        output_dir: the run directory; an earlier run there is moved aside, never overwritten.
        seed: of data order, sampling and everything else that is random.

        max_steps: steps; −1 takes ``num_train_epochs`` passes over the data instead.
        num_train_epochs: passes over the data when ``max_steps`` is −1.
        shuffle_dataset: take rows in a seeded random order, without replacement within an epoch.

        learning_rate: peak rate of AdamW.
        lr_scheduler_type, warmup_steps: the schedule, over all steps.
        weight_decay, adam_beta1, adam_beta2, adam_epsilon: AdamW's.
        max_grad_norm: gradients are scaled down to this norm; 0 switches clipping off.

        per_device_train_batch_size: at most so many rows a forward/backward pass (a micro-batch); None leaves it to
            ``micro_batch_tokens``. Memory and speed depend on the two, the gradient does not.
        micro_batch_tokens: at most so many tokens a micro-batch (a longer row stands alone); None: as many as
            keep a micro-batch's activations near 1 GiB on a CPU, 8 GiB elsewhere. Rows of similar
            length go together, so that padding stays below 10 %.
        gradient_checkpointing: keep only each layer's input for the backward pass and compute the rest again: less
            memory, about a third more time.

        eval_steps: evaluate every so many steps; None evaluates before and after training only.
        save_steps: write a checkpoint every so many steps; None writes one only where training is stopped early.
        save_total_limit: so many checkpoints are kept, the newest.
        save_samples: write every completion, with its per-token numbers, to the run directory.
        save_model: write the trained model and tokenizer to ``<output_dir>/model`` at the end.
        report_to: ``"tensorboard"``, ``"trackio"``, ``"wandb"``, a list of these, ``"all"`` (that are installed) or
            ``"none"``.
        disable_tqdm: no progress bar.
    """

    output_dir: str = "runs/training"
    seed: int = 42

    max_steps: int = -1
    num_train_epochs: float = 3.0
    shuffle_dataset: bool = True

    learning_rate: float = 1e-6
    lr_scheduler_type: str = "linear"
    warmup_steps: int = 0
    weight_decay: float = 0.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 1.0

    per_device_train_batch_size: int | None = None
    gradient_accumulation_steps: int | None = None
    micro_batch_tokens: int | None = None
    gradient_checkpointing: bool = False

    eval_steps: int | None = None
    save_steps: int | None = None
    save_total_limit: int = 2
    save_samples: bool = True
    save_model: bool = True
    report_to: str | list[str] = "none"
    disable_tqdm: bool = False

    def steps_for(self, num_rows: int, rows_per_step: int) -> int:
        """``max_steps``, or as many as ``num_train_epochs`` passes over ``num_rows`` rows take."""
        if self.max_steps > 0:
            return self.max_steps
        return math.ceil(num_rows * self.num_train_epochs / rows_per_step)

    def check_training(self) -> None:
        """Check what all trainers share.

        Raises:
            ConfigError: naming the setting, its value, what is allowed and the likely cause.
        """
        if not self.output_dir.strip():
            raise bad_value("output_dir", self.output_dir, "the name of a folder, such as runs/first")
        require("learning_rate", self.learning_rate, self.learning_rate > 0, "a number above 0")
        for name in ("weight_decay", "adam_epsilon", "max_grad_norm", "num_train_epochs"):
            require(name, getattr(self, name), getattr(self, name) >= 0, "0 or more")
        for name in ("adam_beta1", "adam_beta2"):
            require(name, getattr(self, name), 0 <= getattr(self, name) < 1, "from 0 up to, not including, 1")
        require("warmup_steps", self.warmup_steps, self.warmup_steps >= 0, "a whole number, 0 or more")
        if self.max_steps != -1:
            require("max_steps", self.max_steps, self.max_steps >= 1, "1 or more, or −1 to count epochs")
        elif self.num_train_epochs == 0:
            raise bad_value("num_train_epochs", 0, "above 0 when max_steps is −1")
        for name in ("per_device_train_batch_size", "gradient_accumulation_steps"):
            value = getattr(self, name)
            require(name, value, value is None or value >= 1, "a whole number, 1 or more")
        for name in ("micro_batch_tokens", "eval_steps", "save_steps"):
            value = getattr(self, name)
            require(name, value, value is None or value >= 1, "1 or more, or None")
        limit = self.save_total_limit
        cause = "A checkpoint that is not kept cannot be resumed."
        require("save_total_limit", limit, limit >= 1, "a whole number, 1 or more", cause)
        if self.lr_scheduler_type == "constant" and self.warmup_steps:
            raise bad_value(
                "warmup_steps",
                self.warmup_steps,
                "0 with lr_scheduler_type='constant'",
                "See 'constant_with_warmup'.",
            )
        if self.lr_scheduler_type not in SCHEDULES:
            raise unknown_name("lr_scheduler_type", self.lr_scheduler_type, SCHEDULES)


def count(number: int, noun: str, plural: str = "s") -> str:
    """``"1 row"``, ``"2 rows"``."""
    return f"{number} {noun}{'' if number == 1 else plural}"
