"""What trainers share that sample from the policy and let reward functions judge: GRPO and PPO.

The rollout, the engine and its canary, scoring, the shape of a step, evaluation, the probe (its run directory and
checkpoints: ``rollout_run``). A trainer adds how rewards become advantages (``credit``) and what is learned from them
(``learn``).
"""

from __future__ import annotations

import dataclasses
import os
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from rlkit.adapters import add_lora
from rlkit.config import RolloutSettings
from rlkit.engines import Engine, Sampling, SyncReport
from rlkit.engines.canary import SyncGuard
from rlkit.engines.make import check_engine
from rlkit.errors import TrainingError
from rlkit.interrupts import interrupts_held
from rlkit.rewards.calls import RewardCaller
from rlkit.rewards.notes import TrainerState
from rlkit.rollout import Batch, Evaluation, Metrics, Rewards, Rollout, Row, TokenRecord, build_batch
from rlkit.trainers.callbacks import Callback, StopAtAccuracy
from rlkit.trainers.checks import check_callbacks, check_model, check_output_dir, check_policy, check_settings
from rlkit.trainers.data import PromptOrder, check_dataset, check_lengths
from rlkit.trainers.evaluation import judge_policy
from rlkit.trainers.generation import PolicyEngine, canary_tokens
from rlkit.trainers.nonfinite import NonfiniteGradients
from rlkit.trainers.passes import BatchPasses
from rlkit.trainers.probe import ProbeReport, ProbeWarning, probe_length, probe_report
from rlkit.trainers.record import TokenStrings
from rlkit.trainers.reference import reference_policy
from rlkit.trainers.resume import model_fingerprint
from rlkit.trainers.rollout_run import RolloutRun
from rlkit.trainers.scoring import (
    RewardFunction,
    check_columns,
    check_reward_functions,
    probe_reward_functions,
    score_rollout,
)

Reference = Callable[[], AbstractContextManager[Any]]


class RolloutTrainer(RolloutRun):
    """Base of ``GRPOTrainer`` and ``PPOTrainer``, which say what the arguments mean."""

    settings: type[RolloutSettings]
    several_times: str  # the setting that trains several times on one rollout

    def __init__(
        self,
        model: Any,
        reward_funcs: RewardFunction | Sequence[RewardFunction],
        args: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        callbacks: Sequence[Callback] = (),
        peft_config: Any = None,
        *,
        verifier: Callable[..., bool] | None = None,
        engine: Engine | None = None,
    ) -> None:
        args = self.settings() if args is None else args
        check_settings(args, self.settings)
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
        carried = (getattr(carrier, "verifier", None) for carrier in (reward_funcs, *self.reward_funcs))
        self.verifier = verifier or next((found for found in carried if found is not None), None)
        for rows in filter(None, (self.train_rows, self.eval_rows)):
            probe_reward_functions(self.reward_funcs, rows, self.verifier, args.reward_timeout)
        self._reward_caller = RewardCaller(args.on_reward_error, args.reward_timeout)
        if engine is None:
            check_engine(args.fast_inference)

        if isinstance(model, (str, os.PathLike)):
            from rlkit.models import load_model

            model, tokenizer = load_model(model)
            processing_class = processing_class or tokenizer
        if peft_config is not None:
            model = add_lora(model, peft_config=peft_config, seed=args.seed)
        check_model(model)
        self.check_models(model, args)
        self.model = model.eval()  # no dropout: the policy that samples is the policy that is trained
        self.processing_class = processing_class
        if args.target_accuracy is not None:
            callbacks = [*callbacks, StopAtAccuracy(args.target_accuracy)]
        super().__init__(args, args.total_steps(len(self.train_rows)), callbacks)
        self.args = args

        context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        limit = getattr(processing_class, "model_max_length", None)  # load_model's max_seq_length
        context = min((length for length in (context, limit) if length), default=None)
        longest = [
            check_lengths(rows, processing_class, args.max_completion_length, context, name)
            for rows, name in ((self.train_rows, "train_dataset"), (self.eval_rows, "eval_dataset"))
            if rows
        ]
        canary = canary_tokens(processing_class, model, self.train_rows[0], context)
        check_policy(model, canary[-1])
        self._order = PromptOrder(len(self.train_rows), args.seed, args.shuffle_dataset)
        self._rollouts = 0
        self._nonfinite = NonfiniteGradients()
        self._token_strings = TokenStrings(processing_class)
        self.longest_row = max(longest) + args.max_completion_length  # tokens, prompt and completion
        self.check_readers(canary[-1])
        self._base = model_fingerprint(model, args.kl_weight > 0)
        reference = self.reference() if args.kl_weight > 0 else None  # before the engine shares the memory
        room = None if context is None else context - max(longest)
        self._probe_length = probe_length(args.max_completion_length, room)
        needed = max(longest) + (self._probe_length if args.probe_prompts else args.max_completion_length)
        most = max(needed, max(len(ids) for ids in canary) + 1)
        self.generation = PolicyEngine(model, processing_class, args, canary, most, engine)
        try:
            self.policy = self.make_update(reference)
        except BaseException:
            self.generation.engine.close()
            raise

    # -- what a subclass says -------------------------------------------------------------------------

    def check_models(self, model: Any, args: Any) -> None:
        """Refuse models beside the policy that do not fit to it, before the engine starts."""

    def check_readers(self, token_ids: Sequence[int]) -> None:
        """Let the models beside the policy read a few tokens, before the engine starts."""

    def reference(self) -> Reference:
        """``with reference() as model:`` gives the policy that a KL term pulls towards."""
        return reference_policy(self.model)

    def make_update(self, reference: Reference | None) -> BatchPasses:
        """The update with its optimizer."""
        raise NotImplementedError

    def credit(self, rollout: Rollout, rewards: Rewards) -> Any:
        """What ``update`` is given beside the rollout: the advantages, in whatever form ``learn`` takes them."""
        raise NotImplementedError

    def learn(self, batch: Batch, advantages: Any) -> tuple[dict[str, Any], TokenRecord]:
        """All optimizer steps on one rollout: numbers, and a record of its tokens."""
        raise NotImplementedError

    @property
    def guard(self) -> SyncGuard:
        """The canary."""
        return self.generation.guard

    # -- the parts of a step --------------------------------------------------------------------------

    def rollout(self, rows: Sequence[Row] | None = None) -> Rollout:
        """Sample G completions for each of the next P training rows, or of ``rows``."""
        self.control.check_free("rollout()")
        if rows is None:
            assert self.args.prompts_per_step is not None
            rows = self._next_rows(self.args.prompts_per_step)
        self._rollouts += 1
        with self.ledger.phase("rollout"):
            return self.generation.sample(rows, self._sampling(self._rollouts), self.step_index + 1)

    def score(self, rollout: Rollout) -> Rewards:
        """Let every reward function judge every completion."""
        with self.ledger.phase("score"):
            return score_rollout(
                rollout,
                self.reward_funcs,
                self.reward_names,
                self.reward_weights,
                self.verifier,
                self._reward_caller,
                TrainerState(self.step_index, self.total_steps),
            )

    def update(self, rollout: Rollout, advantages: Any) -> Metrics:
        """All optimizer steps on one rollout.

        A non-finite gradient skips the optimizer step and keeps the batch in ``<run>/nonfinite/``.

        Raises:
            TrainingError: the rollout was sampled before an earlier update; or the third non-finite gradient
                in a row.
        """
        if rollout.step != self.step_index + 1:
            raise TrainingError(
                f"this rollout was sampled for step {rollout.step}, and step {self.step_index} has been trained since: "
                "its log-probabilities are those of an older policy. Call trainer.rollout() again; to train several "
                f"times on one rollout set {self.several_times}"
            )
        self.control.check_free("update()")
        start = time.perf_counter()
        self.generation.stale = True
        with self.ledger.phase("update"):
            batch = build_batch(rollout, self.processing_class.pad_token_id, self.model.device)
            values, tokens = self.learn(batch, advantages)
        step, skipped = self.step_index + 1, values["skipped"]
        kept = {"rollout": rollout, "advantages": advantages, "batch": batch, "tokens": tokens}
        if skipped or self._nonfinite.count:
            self._nonfinite.saw(skipped, step, self.run, kept, values["updates"])
            self._nonfinite.check(step, self.run, self.args.learning_rate)
        values["seconds/update"] = time.perf_counter() - start
        self.step_index, self.policy.taken = self.step_index + 1, 0
        return Metrics(self.step_index, values, tokens)

    def sync(self) -> SyncReport:
        """Carry the weights to the engine; the canary compares both sides.

        Raises:
            SyncError: engine and trainer disagree by more than ``sync_tolerance``.
        """
        self.control.check_free("sync()")
        with self.ledger.phase("sync"):
            report = self.generation.sync()
            if self.step_index and self.step_index % self.args.sync_check_steps == 0:
                proof = self.generation.prove()
                if proof is not None:
                    line = {"event": "sync_check", "step": self.step_index}
                    self.run.write_metrics({**line, "gap": proof.gap, "moved": proof.moved})
        return report

    # -- whole steps ----------------------------------------------------------------------------------

    def step(self) -> Metrics:
        """Rollout, score, advantages, update, sync; then one line and one sample file in the run directory."""
        start = time.perf_counter()
        dealt, index = (self._order.position, self._rollouts), self.step_index
        try:
            rollout, rewards, drawn = self._sampled_and_scored()
            advantages = self.credit(rollout, rewards)
            metrics = self.update(rollout, advantages)
        except BaseException:
            if self.step_index == index:  # the step can be made again, with the same prompts and samples
                self._order.position, self._rollouts = dealt
            raise
        metrics.values |= drawn
        with interrupts_held():  # weights that have moved are synchronised and written down
            report = self.sync()
            metrics.values["seconds/step"] = time.perf_counter() - start
            self.record(rollout, rewards, advantages, metrics, report)
        return metrics

    def _sampled_and_scored(self) -> tuple[Rollout, Rewards, dict[str, Any]]:
        """What a step trains on; and numbers that replace its own, where more was drawn."""
        rollout = self.rollout()
        return rollout, self.score(rollout), {}

    def judge(self) -> Evaluation | None:
        """Held-out results on ``eval_dataset``: one greedy answer and ``num_generations_eval`` sampled ones each."""
        if not self.eval_rows:
            return None
        sampled = dataclasses.replace(self._sampling(0), n=self.args.num_generations_eval)
        with self.ledger.phase("eval"):
            return judge_policy(self.eval_rows, sampled, self._sample, self.score, self._token_strings)

    def probe(self, prompts: int | None = None) -> ProbeReport:
        """Sample a group for each of the first ``prompts`` training rows; see ``print(trainer.probe())``.

        Nothing is trained, and the samples of training stay the same. Default: ``probe_prompts``.
        """
        self.control.check_free("probe()")
        start = time.perf_counter()
        rows = self.train_rows[: prompts or self.args.probe_prompts or 8]
        limit = self._probe_length if self.args.probe_prompts else self.args.max_completion_length
        sampling = dataclasses.replace(self._sampling(-1), max_tokens=limit, top_logprobs=0)
        with self.ledger.phase("rollout"):
            rollout = self._sample(rows, sampling)
        rewards, seconds = self.score(rollout), time.perf_counter() - start
        return probe_report(rollout, rewards, self.args.max_completion_length, limit, seconds)

    def prepare(self) -> None:
        """Probe, and warn of what will keep the model from learning."""
        if not self.args.probe_prompts:
            return
        report = self.probe()
        self.run.note(f"probe: {report}")
        for text in report.warnings():
            self.run.note(text)
            warnings.warn(text, ProbeWarning, stacklevel=6)

    # -- inside ---------------------------------------------------------------------------------------

    def _sample(self, rows: Sequence[Row], sampling: Sampling) -> Rollout:
        """Completions that are not trained on."""
        return self.generation.sample(rows, sampling, self.step_index)

    def _next_rows(self, count: int) -> list[Row]:
        return [self.train_rows[i] for i in self._order.take(count)]

    def _sampling(self, rollout: int) -> Sampling:
        """How training samples; ``rollout`` numbers the draws."""
        return Sampling(
            n=self.args.num_generations,
            max_tokens=self.args.max_completion_length,
            temperature=self.args.temperature,
            seed=self._seed(rollout),
            top_logprobs=self.args.top_logprobs,
        )

    def _seed(self, rollout: int) -> int:
        """A seed for one rollout's samples, far from those of other rollouts and other runs."""
        return (self.args.seed * 1_000_003 + rollout) * 1_000_003 % 2**31
