"""What trainers on a fixed data set share: so many rows a step, one optimizer step on each, and its line in the run."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

from rlkit.adapters import adapter_summary
from rlkit.config.rows import RowSettings
from rlkit.errors import bad_value
from rlkit.interrupts import interrupts_held
from rlkit.quantised import is_nf4, parameter_count
from rlkit.rollout import Metrics
from rlkit.trainers.callbacks import Callback
from rlkit.trainers.checkpointing import gradient_checkpointing
from rlkit.trainers.data import PromptOrder
from rlkit.trainers.loop import TrainingLoop
from rlkit.trainers.micro_batches import micro_batches, token_budget
from rlkit.trainers.nonfinite import NonfiniteGradients
from rlkit.trainers.optimizer import Optimizer
from rlkit.trainers.resume import model_fingerprint, rows_fingerprint


class RowTrainer(TrainingLoop):
    """Base of ``SFTTrainer`` and ``RewardModelTrainer``; a subclass has ``gradient`` and ``judge``.

    Args:
        model, processing_class: the model, in eval mode from here on, and its tokenizer.
        args: the settings, checked and our own.
        train_rows, eval_rows: dataclasses, as the model reads them.
    """

    algorithm: (
        str  # what config.json calls it; in small letters, with underscores, the section of its settings
    )
    counted = "tokens"  # the number of a step that the summary's tokens_trained adds up
    left_out: dict[str, int]  # rows of each data set that are too long

    def __init__(
        self,
        model: Any,
        args: RowSettings,
        train_rows: Sequence[Any],
        eval_rows: Sequence[Any],
        processing_class: Any,
        callbacks: Sequence[Callback],
    ) -> None:
        self.model = model.eval()
        self.processing_class = processing_class
        self.train_rows, self.eval_rows = list(train_rows), list(eval_rows)
        super().__init__(args, args.total_steps(len(self.train_rows)), callbacks)
        self._checkpointing = gradient_checkpointing(model, args.gradient_checkpointing)
        self._order = PromptOrder(len(self.train_rows), args.seed, args.shuffle_dataset)
        self.optimizer = Optimizer(model, args, self.total_steps)
        self._nonfinite = NonfiniteGradients()
        self._base = model_fingerprint(model, initial_weights_matter=False)
        self._tokens_trained = 0
        self._losses: list[float] = []  # of the first and the last step

    def gradient(self, examples: Sequence[Any]) -> dict[str, Any]:
        """Accumulate the gradient of these rows; returns ``loss`` and whatever else the step's line says."""
        raise NotImplementedError

    def step(self) -> Metrics:
        """One optimizer step on the next ``rows_per_step`` rows, and its line in the run directory.

        Raises:
            TrainingError: the third gradient in a row that is not finite.
        """
        self.control.check_free("step()")
        start = time.perf_counter()
        examples = [self.train_rows[i] for i in self._order.take(self.args.rows_per_step)]
        values = self.update(examples)
        with interrupts_held():  # weights that have moved are written down
            self.step_index += 1
            values = {
                "step": self.step_index,
                "epoch": self._order.epoch,
                **values,
                "seconds/step": time.perf_counter() - start,
                **{name: value for name, value in self.ledger.take().items() if name.startswith("memory/")},
            }
            self.train_seconds += values["seconds/step"]
            self._tokens_trained += values[self.counted]
            self._losses = [*self._losses[:1], values["loss"]]
            self.run.write_metrics(values)
        return Metrics(self.step_index, values)

    def update(self, examples: Sequence[Any]) -> dict[str, Any]:
        """One optimizer step on these rows: what ``gradient`` says, and the optimizer's numbers.

        A gradient that is not finite leaves the optimizer step out and keeps the rows in ``<run>/nonfinite/``.

        Raises:
            TrainingError: the third gradient in a row that is not finite; or training runs in the background.
        """
        self.control.check_free("update()")
        start = time.perf_counter()
        with self.ledger.phase("update"):
            values = {**self.gradient(examples), **self.optimizer.step()}
        values["seconds/update"] = time.perf_counter() - start
        if values["skipped"] or self._nonfinite.count:
            step, kept = self.step_index + 1, {"rows": list(map(dataclasses.asdict, examples))}
            self._nonfinite.saw(values["skipped"], step, self.run, kept, applied=0)
            self._nonfinite.check(step, self.run, self.args.learning_rate)
        return values

    def announcement(self) -> str:
        return str(self.args.schedule(len(self.train_rows)))

    def describe(self) -> dict[str, Any]:
        from rlkit.environment import device_name, versions

        return {
            "algorithm": self.algorithm,
            "model": self.model.name_or_path,
            "parameters": parameter_count(self.model),
            "load_in_4bit": is_nf4(self.model),
            "lora": adapter_summary(self.model),
            "trained_parameters": sum(parameter.numel() for parameter in self.optimizer.parameters),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "master_weights": bool(self.optimizer.masters),
            "train_rows": len(self.train_rows),
            "eval_rows": len(self.eval_rows),
            "left_out": self.left_out,
            "total_steps": self.total_steps,
            "schedule": self.args.schedule(len(self.train_rows)),
            self.algorithm.lower().replace(" ", "_"): self.args.to_dict(),
            "seed": self.args.seed,
            "versions": versions(),
            "device": device_name(str(self.model.device)),
        }

    def outcome(self) -> dict[str, Any]:
        """The loss on the rows of the first and of the last step, and how many tokens were learned from."""
        first, last = (self._losses[0], self._losses[-1]) if self._losses else (None, None)
        return {"train_loss_first": first, "train_loss_last": last, "tokens_trained": self._tokens_trained}

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps beside the weights."""
        return {
            **super().state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "order": self._order.position,
            "skipped": self._nonfinite.count,
            "tokens_trained": self._tokens_trained,
            "losses": self._losses,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` gave."""
        super().load_state_dict(state)
        self.optimizer.load_state_dict(state["optimizer"])
        self._order.position = state["order"]
        self._nonfinite.count = state["skipped"]
        self._tokens_trained = state["tokens_trained"]
        self._losses = list(state["losses"])

    def what_must_match(self) -> dict[str, Any]:
        return {
            **super().what_must_match(),
            "base model": self._base,
            "train_dataset": rows_fingerprint(self.train_rows),  # as tokens: the tokenizer matters too
        }

    def _micro_batches(self, examples: Sequence[Any], rows_each: int = 1) -> list[list[int]]:
        """Numbers of the examples of each micro-batch.

        Args:
            examples: their ``len`` is that of the longest row of tokens in each.
            rows_each: rows of tokens an example.
        """
        args = self.args
        budget = token_budget(args.micro_batch_tokens, self.model, args.gradient_checkpointing)
        lengths = [len(example) for example in examples]
        return micro_batches(
            lengths, max_tokens=max(1, budget // rows_each), max_rows=args.per_device_train_batch_size
        )


def longest_row(asked: int | None, model: Any, tokenizer: Any) -> int | None:
    """Tokens a row at most: what was asked for, or the model's context.

    Raises:
        ConfigError: the context is shorter than what was asked for.
    """
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    limit = getattr(tokenizer, "model_max_length", None)  # load_model's max_seq_length
    longest = min((length for length in (context, limit) if length), default=None)
    if asked is not None and longest is not None and asked > longest:
        cause = "The model has no positions for more, or was loaded with a smaller max_seq_length."
        raise bad_value("max_length", asked, f"at most {longest} for this model, or None", cause)
    return longest if asked is None else asked
