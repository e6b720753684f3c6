"""The warm start before reinforcement learning: supervised fine-tuning on completions.

    loss = −Σ log π(token | what precedes it) / tokens        over the completion tokens of the whole step

RL raises the probability of what is sampled; what is never sampled it cannot find. A few demonstrations first make
right answers possible, or teach a format. The log-probabilities are those of GRPO (``rlkit.logprobs``: the logits
are never held), and so are the loop, the optimizer, the micro-batches and the run directory.
"""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Sequence
from typing import Any

import torch

from rlkit.config import SFTConfig
from rlkit.engines.base import end_token_ids
from rlkit.logprobs import completion_logprobs
from rlkit.rollout import Row
from rlkit.trainers.callbacks import Callback
from rlkit.trainers.checks import check_callbacks, check_model, check_output_dir, check_policy, check_settings
from rlkit.trainers.rows import RowTrainer, longest_row
from rlkit.trainers.sft_data import Example, make_examples


@dataclasses.dataclass(slots=True)
class SFTEvaluation:
    """Held-out results: −log p of the ``tokens`` completion tokens of ``n`` rows.

    ``loss`` is their mean in nats, ``perplexity`` e to its power: among so many equally likely tokens the model
    hesitates on average.
    """

    step: int
    n: int
    tokens: int
    loss: float
    perplexity: float
    seconds: float

    def values(self) -> dict[str, Any]:
        """Its line in ``metrics.jsonl``."""
        return {
            "n": self.n,
            "tokens": self.tokens,
            "loss": self.loss,
            "perplexity": self.perplexity,
            "seconds/eval": self.seconds,
        }

    def tables(self) -> dict[str, list[Row]]:
        """The completions to keep, by kind: none, since none are sampled."""
        return {}

    def forget_tables(self) -> None:
        """Nothing is held."""

    def outcome(self) -> dict[str, float]:
        """What a run's summary says, before and after."""
        return {"loss": self.loss, "perplexity": self.perplexity}

    def __repr__(self) -> str:
        return (
            f"SFTEvaluation(step {self.step}: loss {self.loss:.4f}, perplexity {self.perplexity:.4g}, "
            f"{self.n} held-out rows)"
        )


class SFTTrainer(RowTrainer):
    """Trains a causal LM to say the completions of its data.

    Whatever of the model requires a gradient is trained: all of it, or its adapter. The model stays in eval mode, as in
    GRPO: dropout would make it another policy than the one that will sample.

    Args:
        model: a transformers causal LM, or a peft model around one, or a name or folder for ``load_model``.
        args: the settings; default ``SFTConfig()``.
        train_dataset: rows with ``prompt`` and ``completion``, or with ``messages``; see ``rlkit.trainers.sft_data``.
        eval_dataset: held-out rows; judged before and after training, and every ``eval_steps``.
        processing_class: the tokenizer; may be left out when ``model`` is a name.
        callbacks: see :class:`rlkit.trainers.callbacks.Callback`.

    Raises:
        ConfigError: bad settings, model or data.

    Example:
        >>> rows = demonstrations(task.rows("train", 200))
        >>> trainer = SFTTrainer(model, SFTConfig(max_steps=100), rows, processing_class=tokenizer)
        >>> trainer.train()["train_loss_last"]
    """

    algorithm = "SFT"
    evaluation_type: type = SFTEvaluation
    counted = "completion_tokens"

    def __init__(
        self,
        model: Any,
        args: SFTConfig | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        args = SFTConfig() if args is None else args
        check_settings(args, SFTConfig)
        args = dataclasses.replace(args)  # checks it again: a field may have been set since; a copy is ours
        check_callbacks(callbacks)
        check_output_dir(args.output_dir)
        if isinstance(model, (str, os.PathLike)):
            from rlkit.models import load_model

            model, tokenizer = load_model(model)
            processing_class = processing_class or tokenizer
        check_model(model)
        limit = longest_row(args.max_length, model, processing_class)
        self.left_out = {"train_dataset": 0, "eval_dataset": 0}  # rows that are too long
        data: dict[str, list[Example]] = {"eval_dataset": []}
        for dataset, name in ((train_dataset, "train_dataset"), (eval_dataset, "eval_dataset")):
            if name == "train_dataset" or dataset is not None:
                data[name], self.left_out[name] = make_examples(
                    dataset,
                    processing_class,
                    end_ids=_end_ids(model, processing_class),
                    max_length=limit,
                    name=name,
                )
        super().__init__(
            model, args, data["train_dataset"], data["eval_dataset"], processing_class, callbacks
        )
        self.args: SFTConfig = args
        check_policy(model, self.train_rows[0].input_ids)

    def gradient(self, examples: Sequence[Example]) -> dict[str, Any]:
        """Accumulate the gradient of these rows, micro-batch by micro-batch; how they are cut does not change it."""
        self.optimizer.clear()
        learned = sum(sum(example.learned) for example in examples)  # completion tokens of the whole step
        total, entropy, cells = 0.0, 0.0, 0
        for rows in self._micro_batches(examples):
            batch = self._batch([examples[row] for row in rows])
            cells += batch[0].numel()
            with self._checkpointing():
                found = completion_logprobs(
                    self.model, *batch, return_entropy=True
                )  # [n, W], 0 where not learned
                loss = -found.logprobs.sum() / learned
                loss.backward()
                self.optimizer.collect()
            total += float(loss.detach())
            assert found.entropy is not None
            entropy += float(found.entropy.detach().sum())
        tokens = sum(map(len, examples))
        return {
            "loss": total,
            "perplexity": _perplexity(total),
            "entropy": entropy / learned,
            "tokens": tokens,
            "completion_tokens": learned,
            "padding": 1 - tokens / cells,
        }

    @torch.no_grad()
    def judge(self) -> SFTEvaluation | None:
        """Loss and perplexity on ``eval_dataset``; None without one."""
        examples = self.eval_rows
        if not examples:
            return None
        start = time.perf_counter()
        total = 0.0
        with self.ledger.phase("eval"):
            for rows in self._micro_batches(examples):
                batch = self._batch([examples[row] for row in rows])
                total -= float(completion_logprobs(self.model, *batch).logprobs.double().sum())
        tokens = sum(sum(example.learned) for example in examples)
        return SFTEvaluation(
            step=self.step_index,
            n=len(examples),
            tokens=tokens,
            loss=total / tokens,
            perplexity=_perplexity(total / tokens),
            seconds=time.perf_counter() - start,
        )

    def _batch(self, examples: Sequence[Example]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """input_ids, attention_mask and the mask of what is learned, [n, W] each, padded on the right."""
        shape = (len(examples), max(map(len, examples)))
        input_ids = torch.full(shape, self.processing_class.pad_token_id)  # [n, W]
        attention_mask = torch.zeros(shape, dtype=torch.long)  # [n, W]
        learned = torch.zeros(shape, dtype=torch.bool)  # [n, W]
        for row, example in enumerate(examples):
            input_ids[row, : len(example)] = torch.tensor(example.input_ids)
            attention_mask[row, : len(example)] = 1
            learned[row, : len(example)] = torch.tensor(example.learned)
        device = self.model.device
        return input_ids.to(device), attention_mask.to(device), learned.to(device)


def _end_ids(model: Any, tokenizer: Any) -> list[int]:
    """The tokens at which sampling stops; [] for what is no tokenizer, which the data's checks refuse."""
    return end_token_ids(model, tokenizer) if hasattr(tokenizer, "eos_token_id") else []


def _perplexity(loss: float) -> float:
    return math.exp(loss) if loss < 700 else math.nan if math.isnan(loss) else math.inf
