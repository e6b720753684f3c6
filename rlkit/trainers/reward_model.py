"""The reward model of RLHF: learns from pairs of answers which of the two people prefer.

    loss = mean over pairs of −log σ(r_chosen − r_rejected − margin) + c · (r_chosen + r_rejected)²

(``rlkit.objectives.preferences``.) What it has learned it gives to PPO or GRPO as a reward function:

    preferences ──RewardModelTrainer──▶ as_reward() ──▶ PPOTrainer(model, reward_funcs=[…])

Whether to trust it is what its evaluation says: accuracy, calibration, and whether it has only learned length.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from rlkit.adapters import is_adapter_model
from rlkit.config import ConfigWarning
from rlkit.config.reward_model import RewardModelConfig
from rlkit.errors import ConfigError
from rlkit.feedback.data import check_preferences
from rlkit.objectives.preferences import bradley_terry_loss, calibration, length_bias, pairwise_accuracy
from rlkit.rollout import Row
from rlkit.trainers.callbacks import Callback
from rlkit.trainers.checks import check_callbacks, check_model, check_output_dir, check_settings
from rlkit.trainers.data import check_tokenizer
from rlkit.trainers.reward_evaluation import RewardModelEvaluation
from rlkit.trainers.reward_rows import check_reward_model, end_ids_of, read_row, rewards_of, score_rows
from rlkit.trainers.rows import RowTrainer, longest_row
from rlkit.trainers.scorer import RewardModel, make_reward_model, save_reward_model


@dataclasses.dataclass(slots=True)
class Pair:
    """A preference as the model reads it: two rows of token ids."""

    chosen: list[int]
    rejected: list[int]
    margin: float

    def __len__(self) -> int:
        """Tokens of the longer side."""
        return max(len(self.chosen), len(self.rejected))


class RewardModelTrainer(RowTrainer):
    """Trains a scalar head, and what is under it, on preferences.

    The model stays in eval mode: dropout would make the two sides of a pair two different models.

    Args:
        model: a name or folder for ``load_model``, or a causal LM, which is copied: a new head is put on its backbone;
            or a model of ``make_reward_model`` (with LoRA, say), which is trained itself.
        args: the settings; default ``RewardModelConfig()``.
        train_dataset: preferences, see ``rlkit.feedback.data``.
        eval_dataset: held-out ones; judged before and after training, and every ``eval_steps``.
        processing_class: the tokenizer; may be left out when ``model`` is a name.
        callbacks: see :class:`rlkit.trainers.callbacks.Callback`.
        lora: on a causal LM or a name: freeze the backbone, train an adapter and the head.

    Raises:
        ConfigError: bad settings, model or data; a model whose reward is not finite.

    Example:
        >>> trainer = RewardModelTrainer("rlkit/tiny-arithmetic", RewardModelConfig(), preferences, held_out)
        >>> trainer.train()["accuracy_after"]
        >>> reward = trainer.as_reward()
    """

    algorithm = "reward model"
    evaluation_type: type = RewardModelEvaluation

    def __init__(
        self,
        model: Any,
        args: RewardModelConfig | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        callbacks: Sequence[Callback] = (),
        lora: bool = False,
    ) -> None:
        args = RewardModelConfig() if args is None else args
        check_settings(args, RewardModelConfig)
        args = dataclasses.replace(args)  # checks it again: a field may have been set since; a copy is ours
        check_callbacks(callbacks)
        check_output_dir(args.output_dir)
        given = {"train_dataset": check_preferences(train_dataset, "train_dataset")}
        if eval_dataset is not None:
            given["eval_dataset"] = check_preferences(eval_dataset, "eval_dataset")
        if not hasattr(getattr(model, "config", None), "num_labels") or not _has_score(model):
            model, processing_class = make_reward_model(model, processing_class, lora=lora, seed=args.seed)
        elif lora:
            raise ConfigError(
                "lora=True, but the model has its head already. make_reward_model(…, lora=True) makes one"
            )
        check_model(model)
        check_reward_model(model)
        check_tokenizer(processing_class)
        limit = longest_row(args.max_length, model, processing_class)
        self.left_out = {"train_dataset": 0, "eval_dataset": 0}  # pairs with a side that is too long
        pairs: dict[str, list[Pair]] = {"eval_dataset": []}
        for name, rows in given.items():
            pairs[name], self.left_out[name] = make_pairs(rows, processing_class, limit, name)
        super().__init__(
            model, args, pairs["train_dataset"], pairs["eval_dataset"], processing_class, callbacks
        )
        self.args: RewardModelConfig = args
        first = self.train_rows[0]
        found = self._scores([first])[:, 0]  # [2]
        if not bool(torch.isfinite(found).all()):
            raise ConfigError(
                f"the {type(model).__name__} gives the first pair the rewards {found.tolist()}; allowed: finite "
                "numbers. "
                "Is the file damaged, or the model in float16? load_model(…, dtype='float32')"
            )

    def gradient(self, examples: Sequence[Pair]) -> dict[str, Any]:
        """Accumulate the gradient of these pairs, micro-batch by micro-batch; how they are cut does not change it."""
        self.optimizer.clear()
        total, cells = 0.0, 0
        rewards = torch.zeros(2, len(examples), dtype=torch.float64)  # [2, N] chosen, rejected
        for rows in self._micro_batches(examples, rows_each=2):
            here = [examples[row] for row in rows]
            cells += 2 * len(here) * max(map(len, here))
            with self._checkpointing():
                chosen, rejected = self._rewards(here)  # [n] each
                loss = self._loss(chosen, rejected, here).sum() / len(examples)
                loss.backward()
                self.optimizer.collect()
            total += float(loss.detach())
            rewards[:, rows] = torch.stack([chosen, rejected]).detach().double().cpu()
        tokens = sum(len(pair.chosen) + len(pair.rejected) for pair in examples)
        gap = rewards[0] - rewards[1]  # [N]
        return {
            "loss": total,
            "accuracy": float((gap.sign() + 1).mean() / 2),
            "margin_mean": float(gap.mean()),
            "reward_mean": float(rewards.mean()),
            "tokens": tokens,
            "padding": 1 - tokens / cells,
        }

    @torch.no_grad()
    def judge(self) -> RewardModelEvaluation | None:
        """Accuracy, calibration and length bias on ``eval_dataset``; None without one.

        Raises:
            ConfigError: a reward is not finite.
        """
        pairs: list[Pair] = self.eval_rows
        if not pairs:
            return None
        start = time.perf_counter()
        with self.ledger.phase("eval"):
            chosen, rejected = self._scores(pairs)  # [N] each
        accuracy = pairwise_accuracy(chosen, rejected)  # refuses rewards that are not finite
        error, bins = calibration(chosen, rejected, self.args.calibration_bins)
        lengths = torch.tensor([[len(pair.chosen), len(pair.rejected)] for pair in pairs]).T  # [2, N]
        length = length_bias(chosen, rejected, lengths[0], lengths[1])
        both = torch.cat([chosen, rejected])  # [2 N]
        return RewardModelEvaluation(
            step=self.step_index,
            n=len(pairs),
            loss=float(self._loss(chosen, rejected, pairs).mean()),
            accuracy=accuracy,
            margin_mean=float((chosen - rejected).mean()),
            reward_mean=float(both.mean()),
            reward_std=float(both.std(unbiased=False)),
            calibration_error=error,
            longer_chosen=length.longer_chosen,
            longer_preferred=length.longer_preferred,
            accuracy_longer=length.accuracy_longer,
            accuracy_shorter=length.accuracy_shorter,
            length_correlation=length.correlation,
            seconds=time.perf_counter() - start,
            calibration=[found._asdict() for found in bins],
        )

    def as_reward(self, normalise: bool = False, name: str = "reward_model") -> RewardModel:
        """The present weights as a reward function for GRPO and PPO; goes on with them where training does.

        Args:
            normalise: subtract the mean over all sides of the training pairs and divide by their standard deviation,
                so that a KL coefficient means the same for every reward model.
            name: under which it is logged.
        """
        mean, std = self._normalisation() if normalise else (0.0, 1.0)
        return RewardModel(
            self.model,
            self.processing_class,
            mean=mean,
            std=std,
            name=name,
            micro_batch_tokens=self.args.micro_batch_tokens,
        )

    def save_model(self, path: str | Path | None = None, about: dict[str, Any] | None = None) -> Path:
        """Write model (or adapter with head), tokenizer and model card; whole or not at all. ``load_reward_model``
        reads the folder.
        """
        self.control.check_free("save_model()")
        target = Path(path) if path is not None else self.run_dir / "model"
        facts = {**self.describe(), **(about or {})}
        return save_reward_model(self.model, self.processing_class, target, about=facts)

    def outcome(self) -> dict[str, Any]:
        """What the summary says besides: losses, tokens, and the last evaluation's calibration and words."""
        last = self.evaluations[-1] if self.evaluations else None
        found = {"calibration": last.calibration, "report": last.report()} if last else {}
        return {**super().outcome(), **found}

    # -- inside ------------------------------------------------------------------------------------------------

    def _rewards(self, pairs: Sequence[Pair]) -> tuple[torch.Tensor, torch.Tensor]:
        """r of the chosen and of the rejected sides, [n] each, in one forward pass."""
        rows = [*(pair.chosen for pair in pairs), *(pair.rejected for pair in pairs)]
        rewards = rewards_of(self.model, rows, self.processing_class.pad_token_id or 0)  # [2 n]
        return rewards[: len(pairs)], rewards[len(pairs) :]

    def _scores(self, pairs: Sequence[Pair]) -> torch.Tensor:
        """r without gradient, [2, N] in float64: chosen, rejected."""
        rows = [*(pair.chosen for pair in pairs), *(pair.rejected for pair in pairs)]
        padding = self.processing_class.pad_token_id or 0
        return score_rows(self.model, rows, self.args.micro_batch_tokens, padding).reshape(2, len(pairs))

    def _loss(self, chosen: torch.Tensor, rejected: torch.Tensor, pairs: Sequence[Pair]) -> torch.Tensor:
        """The loss of each pair, [n]."""
        margin = torch.tensor(
            [pair.margin for pair in pairs], dtype=chosen.dtype, device=chosen.device
        )  # [n]
        return bradley_terry_loss(chosen, rejected, margin, self.args.center_rewards_coefficient)

    def _normalisation(self) -> tuple[float, float]:
        scores = self._scores(self.train_rows)  # [2, N]
        return float(scores.mean()), float(scores.std(unbiased=False))


def make_pairs(
    rows: Sequence[Row], tokenizer: Any, max_length: int | None, name: str = "train_dataset"
) -> tuple[list[Pair], int]:
    """Checked preferences as token ids, and how many were left out, because a side is longer than ``max_length``.

    Raises:
        ConfigError: two sides with the same tokens; all pairs are too long; the chat template cannot read a row.
    """
    import warnings

    ends = end_ids_of(tokenizer)
    pairs, longest = [], 0
    for i, row in enumerate(rows):
        sides = [read_row(tokenizer, row["prompt"], row[side], ends) for side in ("chosen", "rejected")]
        if sides[0] == sides[1]:
            raise ConfigError(
                f"the two sides of row {i} of {name} have the same tokens, so that the model cannot tell them apart. "
                "Remove the row, or take a tokenizer and chat template that keep what differs"
            )
        pair = Pair(sides[0], sides[1], float(row.get("margin", 0.0)))
        longest = max(longest, len(pair))
        if max_length is None or len(pair) <= max_length:
            pairs.append(pair)
    left_out = len(rows) - len(pairs)
    if not pairs:
        raise ConfigError(
            f"all {len(rows)} pairs of {name} have a side of more than max_length={max_length} tokens (the longest: "
            f"{longest}). Raise max_length, or take a backbone with a longer context"
        )
    if left_out:
        text = f"{left_out} of the {len(rows)} pairs of {name} are left out: a side has more than {max_length} tokens"
        warnings.warn(f"{text} (the longest: {longest})", ConfigWarning, stacklevel=3)
    return pairs, left_out


def _has_score(model: Any) -> bool:
    inner = model.get_base_model() if is_adapter_model(model) else model
    return not isinstance(model, (str, os.PathLike)) and hasattr(inner, "score")
