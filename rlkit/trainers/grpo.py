"""GRPO, cell by cell.

    rollout = trainer.rollout()                    # G completions for each of P prompts
    rewards = trainer.score(rollout)               # every reward function, every completion
    advantages = trainer.advantages(rewards)       # A = (r − mean of the group) / spread of the group
    metrics = trainer.update(rollout, advantages)  # policy loss, gradient, optimizer step
    report = trainer.sync()                        # the engine follows, and the canary checks it

``trainer.step()`` is these five and a line in the run directory; ``trainer.train()`` loops over it.

Sources: GRPO, Shao et al. 2024 (DeepSeekMath, arXiv:2402.03300); the argument names are TRL's.
"""

from __future__ import annotations

import dataclasses
import os
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Self

import torch

from rlkit.config import GRPOConfig
from rlkit.engines import Engine, Sampling, SyncReport, make_engine
from rlkit.engines.canary import SyncGuard, canary_sequences
from rlkit.engines.make import EngineWarning, check_engine
from rlkit.errors import SyncError, TrainingError
from rlkit.interrupts import interrupts_held
from rlkit.logprobs import check_head
from rlkit.objectives import Advantages, group_advantages
from rlkit.rollout import (
    Evaluation,
    Metrics,
    Rewards,
    Rollout,
    Row,
    build_batch,
    tokenize_prompts,
)
from rlkit.trainers.callbacks import Callback
from rlkit.trainers.checks import check_callbacks, check_model, check_output_dir, check_settings
from rlkit.trainers.data import PromptOrder, check_dataset, check_lengths
from rlkit.trainers.loop import TrainingLoop
from rlkit.trainers.record import TokenStrings, reward_values, sample_rows
from rlkit.trainers.scoring import (
    RewardFunction,
    check_columns,
    check_reward_functions,
    probe_reward_functions,
    score_rollout,
)
from rlkit.trainers.update import PolicyUpdate, frozen_copy

_MAX_SKIPPED = 3  # non-finite gradients in a row that end a run


class GRPOTrainer(TrainingLoop):
    """Trains a causal LM with group-relative policy optimisation on a colocated engine.

    Args:
        model: a transformers causal LM, or a name or folder for ``load_model``.
        reward_funcs: one or more ``f(prompts, completions, **columns) -> list[float | None]``.
        args: the settings; default ``GRPOConfig()``.
        train_dataset: rows with a ``prompt`` (list of dicts or ``datasets.Dataset``).
        eval_dataset: held-out rows; judged before and after training, and every ``eval_steps``.
        processing_class: the tokenizer; may be left out when ``model`` is a name.
        callbacks: see :class:`rlkit.trainers.callbacks.Callback`.
        verifier: ``verifier(completion, **columns) -> bool``, for accuracy; default: that of the first
            reward function that carries one.
        engine: a ready engine instead of the one that ``args`` asks for.

    Raises:
        ConfigError, RewardError: bad settings, data or reward functions, before the engine starts.
        SyncError: the engine's weights cannot be trusted.

    Example:
        >>> trainer = GRPOTrainer(model, rewards.correct_number, GRPOConfig(max_steps=20), task.train,
        ...                       task.test, processing_class=tokenizer)
        >>> trainer.train()["accuracy_after"]
    """

    def __init__(
        self,
        model: Any,
        reward_funcs: RewardFunction | Sequence[RewardFunction],
        args: GRPOConfig | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        callbacks: Sequence[Callback] = (),
        *,
        verifier: Callable[..., bool] | None = None,
        engine: Engine | None = None,
    ) -> None:
        args = GRPOConfig() if args is None else args
        check_settings(args, GRPOConfig)
        args = dataclasses.replace(args)  # checks it again: a field may have been set since; a copy is ours
        check_callbacks(callbacks)
        check_output_dir(args.output_dir)
        self.reward_funcs = list(reward_funcs) if isinstance(reward_funcs, (list, tuple)) else [reward_funcs]
        self.reward_names = check_reward_functions(self.reward_funcs, args.reward_weights)
        self.reward_weights = args.reward_weights or [1.0] * len(self.reward_funcs)
        self.train_rows = check_dataset(train_dataset)
        self.eval_rows = check_dataset(eval_dataset, "eval_dataset") if eval_dataset is not None else []
        for rows, name in ((self.train_rows, "train_dataset"), (self.eval_rows, "eval_dataset")):
            if rows:
                check_columns(self.reward_funcs, [column for column in rows[0] if column != "prompt"], name)
        carried = (getattr(function, "verifier", None) for function in self.reward_funcs)
        self.verifier = verifier or next((found for found in carried if found is not None), None)
        for rows in filter(None, (self.train_rows, self.eval_rows)):
            probe_reward_functions(self.reward_funcs, rows, self.verifier)
        if engine is None:
            check_engine(args.fast_inference)

        if isinstance(model, (str, os.PathLike)):
            from rlkit.models import load_model

            model, tokenizer = load_model(model)
            processing_class = processing_class or tokenizer
        check_model(model)
        self.model = model.eval()  # no dropout: the policy that samples is the policy that is trained
        self.processing_class = processing_class
        super().__init__(args, args.total_steps(len(self.train_rows)), callbacks)
        self.args: GRPOConfig = args

        context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        limit = getattr(processing_class, "model_max_length", None)  # load_model's max_seq_length
        context = min((length for length in (context, limit) if length), default=None)
        longest = [
            check_lengths(rows, processing_class, args.max_completion_length, context, name)
            for rows, name in ((self.train_rows, "train_dataset"), (self.eval_rows, "eval_dataset"))
            if rows
        ]
        self._canary = self._canary_tokens(context)
        check_head(model, torch.tensor(self._canary[-1:], device=model.device))
        self._order = PromptOrder(len(self.train_rows), args.seed, args.shuffle_dataset)
        self._rollouts = 0
        self._skipped = 0
        self._token_strings = TokenStrings(processing_class)
        reference = frozen_copy(model) if args.beta > 0 else None  # before the engine shares the memory
        needed = max(longest) + args.max_completion_length  # tokens
        canary = max(len(ids) for ids in self._canary) + 1
        self._stale = False  # the weights have moved and the engine has not been seen to follow
        self.engine = engine or self._make_engine(max(needed, canary))
        self.guard = self._make_guard(own_engine=engine is None)
        self.policy = PolicyUpdate(model, args, self.total_steps, reference)

    # -- the five parts of a step ---------------------------------------------------------------------

    def rollout(self, rows: Sequence[Row] | None = None) -> Rollout:
        """Sample G completions for each of the next P training rows, or of ``rows``."""
        if rows is None:
            assert self.args.prompts_per_step is not None
            rows = [self.train_rows[i] for i in self._order.take(self.args.prompts_per_step)]
        self._rollouts += 1
        sampling = Sampling(
            n=self.args.num_generations,
            max_tokens=self.args.max_completion_length,
            temperature=self.args.temperature,
            seed=self._seed(self._rollouts),
            top_logprobs=self.args.top_logprobs,
        )
        return self._sample(rows, sampling, self.step_index + 1)

    def score(self, rollout: Rollout) -> Rewards:
        """Let every reward function judge every completion."""
        return score_rollout(
            rollout, self.reward_funcs, self.reward_names, self.reward_weights, self.verifier
        )

    def advantages(self, rewards: Rewards) -> Advantages:
        """How much better than its group each completion did: [P, G]."""
        return group_advantages(
            rewards.total, scale=self.args.scale_rewards, baseline=self.args.advantage_baseline
        )

    def update(self, rollout: Rollout, advantages: Advantages) -> Metrics:
        """μ optimizer steps on one rollout (μ = ``num_iterations``).

        A non-finite gradient skips the optimizer step and keeps the batch in ``<run>/nonfinite/``.

        Raises:
            TrainingError: the rollout was sampled before an earlier update; or the third non-finite gradient
                in a row.
        """
        if rollout.step != self.step_index + 1:
            raise TrainingError(
                f"this rollout was sampled for step {rollout.step}, and step {self.step_index} has been trained since: "
                "its log-probabilities are those of an older policy. Call trainer.rollout() again; to train several "
                "times on one rollout set num_iterations"
            )
        start = time.perf_counter()
        self._stale = True
        batch = build_batch(rollout, self.processing_class.pad_token_id, self.model.device)
        values, tokens = self.policy.update(batch, advantages.values.flatten())
        if values["skipped"]:
            kept = {"rollout": rollout, "advantages": advantages, "batch": batch, "tokens": tokens}
            self._keep_batch(kept, values["updates"])
        self._skipped = self._skipped + 1 if values["skipped"] else 0
        values["seconds/update"] = time.perf_counter() - start
        if self._skipped >= _MAX_SKIPPED:
            raise TrainingError(
                f"{_MAX_SKIPPED} non-finite gradients in a row, last at step {self.step_index + 1}. All steps and the "
                f"batches are in {self.run.directory}. Likely causes: a learning rate that is too high "
                f"({self.args.learning_rate:g} now), float16 without loss scaling, or a broken checkpoint"
            )
        self.step_index += 1
        return Metrics(self.step_index, values, tokens)

    def sync(self) -> SyncReport:
        """Carry the weights to the engine; the canary compares both sides.

        Raises:
            SyncError: engine and trainer disagree by more than ``sync_tolerance``.
        """
        report = self.guard.check(self.engine.sync(self.model))
        if self.step_index and self.step_index % self.args.sync_check_steps == 0:
            self._prove()
        self._stale = False
        return report

    # -- whole steps ----------------------------------------------------------------------------------

    def step(self) -> Metrics:
        """Rollout, score, advantages, update, sync; then one line and one sample file in the run directory."""
        start = time.perf_counter()
        rollout = self.rollout()
        rewards = self.score(rollout)
        advantages = self.advantages(rewards)
        metrics = self.update(rollout, advantages)
        with interrupts_held():  # weights that have moved are synchronised and written down
            report = self.sync()
            metrics.values["seconds/step"] = time.perf_counter() - start
            self.record(rollout, rewards, advantages, metrics, report)
        return metrics

    def record(
        self,
        rollout: Rollout,
        rewards: Rewards,
        advantages: Advantages,
        metrics: Metrics,
        report: SyncReport | None = None,
    ) -> None:
        """Write a step to the run directory: samples first, then the line that makes it whole."""
        known: dict[str, Any] = {
            "seconds/rollout": rollout.seconds,
            "seconds/score": rewards.seconds,
            **({} if report is None else {"seconds/sync": report.seconds, "sync_gap": report.gap}),
            **metrics.values,
        }
        parts = sum(value for name, value in known.items() if name.startswith("seconds/"))
        metrics.values = {
            "step": metrics.step,
            "epoch": self._order.epoch,
            **reward_values(rollout, rewards, advantages),
            "seconds/step": parts,  # the clock's, where the step was one call
            **known,
        }
        self.tokens_sampled += rollout.num_tokens
        self.train_seconds += metrics.values["seconds/step"]
        if self.args.save_samples:
            rows = sample_rows(rollout, rewards, self._token_strings, advantages, metrics.tokens)
            self.run.write_samples(metrics.step, rows)
        self.run.write_metrics(metrics.values)

    def judge(self) -> Evaluation | None:
        """Held-out results on ``eval_dataset``: one greedy answer and ``num_generations_eval`` sampled ones each."""
        if not self.eval_rows:
            return None
        start = time.perf_counter()
        # The same seed each time: before and after differ by the model, not by the draw.
        sampled = Sampling(
            n=self.args.num_generations_eval,
            max_tokens=self.args.max_completion_length,
            temperature=self.args.temperature,
            seed=self._seed(0),
            top_logprobs=self.args.top_logprobs,
        )
        greedy = Sampling(
            n=1, max_tokens=sampled.max_tokens, temperature=0.0, top_logprobs=sampled.top_logprobs
        )
        rollouts = [self._sample(self.eval_rows, sampling, self.step_index) for sampling in (greedy, sampled)]
        rewards = [self.score(rollout) for rollout in rollouts]
        rows = [
            sample_rows(rollout, reward, self._token_strings)
            for rollout, reward in zip(rollouts, rewards, strict=True)
        ]
        return Evaluation(
            step=self.step_index,
            n=len(self.eval_rows),
            accuracy_greedy=rewards[0].accuracy,
            accuracy_sampled=rewards[1].accuracy,
            reward_greedy=float(rewards[0].total.mean()),
            reward_sampled=float(rewards[1].total.mean()),
            seconds=time.perf_counter() - start,
            rows_greedy=rows[0],
            rows_sampled=rows[1],
        )

    def describe(self) -> dict[str, Any]:
        from rlkit.environment import device_name, versions

        return {
            "algorithm": "GRPO",
            "model": self.model.name_or_path,
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "train_rows": len(self.train_rows),
            "eval_rows": len(self.eval_rows),
            "rewards": dict(zip(self.reward_names, self.reward_weights, strict=True)),
            "engine": self.engine.name,
            "weight_sync": self.weight_sync,
            "weight_sync_reason": self.engine.weight_sync_reason,
            "sync_check": {"gap": self._proof.gap, "moved": self._proof.moved} if self._proof else None,
            "schedule": self.args.schedule(len(self.train_rows)),
            "grpo": self.args.to_dict(),
            "seed": self.args.seed,
            "versions": versions(),
            "device": device_name(str(self.model.device)),
        }

    def announcement(self) -> str:
        because = f" ({self.engine.weight_sync_reason})" if self.engine.weight_sync_reason else ""
        return (
            f"{self.args.schedule(len(self.train_rows))}\n"
            f"generating with {self.engine.name}; weights: {self.weight_sync}{because}"
        )

    def outcome(self) -> dict[str, Any]:
        return {
            "algorithm": "GRPO",
            "model": self.model.name_or_path,
            "engine": self.engine.name,
            "weight_sync": self.weight_sync,
        }

    @property
    def weight_sync(self) -> str:
        """How weights reach the engine: ``shared``, ``reload``, ``same module`` or ``copied``."""
        return self.engine.weight_sync

    def close(self) -> None:
        """Free the engine and close the run directory."""
        self.engine.close()
        if self._writer is not None:
            self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # -- inside ---------------------------------------------------------------------------------------

    def _sample(self, rows: Sequence[Row], sampling: Sampling, step: int) -> Rollout:
        if (
            self._stale
        ):  # a forgotten or interrupted sync: never sample from weights that are not the trained ones
            self.sync()
        start = time.perf_counter()
        prompts = [row["prompt"] for row in rows]
        texts, ids = tokenize_prompts(self.processing_class, prompts)
        completions = self.engine.generate(ids, sampling)
        return Rollout(
            step, list(rows), prompts, texts, ids, completions, sampling.n, time.perf_counter() - start
        )

    def _keep_batch(self, kept: dict[str, Any], applied: int) -> None:
        """Save what led to a non-finite gradient for inspection, and say so."""
        step = self.step_index + 1
        folder = self.run.directory / "nonfinite"
        folder.mkdir(exist_ok=True)
        path = folder / f"step_{step:06d}.pt"
        torch.save(kept, path)
        which = f"update {applied + 1} of {self.args.num_iterations}" if applied else "the update"
        message = f"step {step}: the gradient is not finite; {which} is skipped, its batch is in {path}"
        self.run.note(message)
        warnings.warn(message, RuntimeWarning, stacklevel=2)

    @property
    def _engine_wanted(self) -> bool | None:
        """What the settings ask for, or else what ``load_model`` was told."""
        asked = self.args.fast_inference
        return asked if asked is not None else getattr(self.model, "rlkit_fast_inference", None)

    def _make_engine(self, max_model_len: int) -> Engine:
        return make_engine(
            self.model,
            self.processing_class,
            fast_inference=self._engine_wanted,
            max_model_len=max_model_len,
            weight_sync=self.args.weight_sync,
            gpu_memory_utilization=self.args.gpu_memory_utilization,
        )

    def _make_guard(self, own_engine: bool) -> SyncGuard:
        """Set the canary up and prove, before the first step, that weights reach the engine."""
        self._proof: SyncReport | None = None
        guard = SyncGuard(self.engine, self.model, self._canary, self.args.sync_tolerance)
        try:
            guard.check(self.engine.sync(self.model))
            if self.weight_sync != "same module":
                self._proof = guard.prove()
            return guard
        except SyncError as error:
            if not own_engine:
                raise
            self.engine.close()
            if self._engine_wanted:
                raise
            text = f"generating with transformers instead of vLLM: {error}"
            warnings.warn(text, EngineWarning, stacklevel=3)
        self.engine = make_engine(self.model, self.processing_class, fast_inference=False, max_model_len=0)
        return SyncGuard(self.engine, self.model, self._canary, self.args.sync_tolerance)

    def _prove(self) -> None:
        """The perturbation check, written to the run."""
        if self.weight_sync == "same module":
            return
        proof = self.guard.prove()
        self.run.write_metrics(
            {"event": "sync_check", "step": self.step_index, "gap": proof.gap, "moved": proof.moved}
        )

    def _canary_tokens(self, context: int | None) -> list[list[int]]:
        """Fixed tokens to compare engine and trainer on, short enough for the model and one generated token."""
        _, ids = tokenize_prompts(self.processing_class, [self.train_rows[0]["prompt"]])
        length = min(16, (context or 17) - 1)
        return canary_sequences(ids[0], self.model.get_input_embeddings().num_embeddings, length=length)

    def _seed(self, rollout: int) -> int:
        """A seed for one rollout's samples, far from those of other rollouts and other runs."""
        return (self.args.seed * 1_000_003 + rollout) * 1_000_003 % 2**31
