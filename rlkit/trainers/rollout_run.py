"""The run of a trainer that samples: what is written of a step, what a run says of itself, what a checkpoint keeps."""

from __future__ import annotations

from typing import Any

from rlkit.adapters import adapter_summary
from rlkit.engines import Engine, SyncReport
from rlkit.objectives import Advantages
from rlkit.quantised import is_nf4, parameter_count
from rlkit.rollout import Metrics, Rewards, Rollout, Row
from rlkit.trainers.checkpoints import Checkpoint
from rlkit.trainers.data import PromptOrder
from rlkit.trainers.generation import PolicyEngine
from rlkit.trainers.loop import TrainingLoop
from rlkit.trainers.nonfinite import NonfiniteGradients
from rlkit.trainers.passes import BatchPasses
from rlkit.trainers.record import TokenStrings, reward_values, sample_rows
from rlkit.trainers.resume import rows_fingerprint
from rlkit.trainers.scorer import RewardModel


class RolloutRun(TrainingLoop):
    """Base of ``RolloutTrainer``, whose constructor makes what is named here."""

    algorithm: str  # what config.json and the summary call it; in small letters, the section of its settings
    generation: PolicyEngine
    policy: BatchPasses
    reward_funcs: list[Any]
    reward_names: list[str]
    reward_weights: list[float]
    train_rows: list[Row]
    eval_rows: list[Row]
    _order: PromptOrder
    _rollouts: int  # drawn so far: the number of the next one's seed
    _nonfinite: NonfiniteGradients
    _token_strings: TokenStrings
    _base: str | None  # fingerprint of what training leaves alone

    def per_completion(self, rewards: Rewards, advantages: Any) -> Advantages:
        """One advantage a completion, for the run directory."""
        raise NotImplementedError

    @property
    def engine(self) -> Engine:
        """The engine that samples."""
        return self.generation.engine

    @property
    def weight_sync(self) -> str:
        """How weights reach the engine: ``shared``, ``reload``, ``same module`` or ``copied``."""
        return self.engine.weight_sync

    def record(
        self,
        rollout: Rollout,
        rewards: Rewards,
        advantages: Any,
        metrics: Metrics,
        report: SyncReport | None = None,
    ) -> None:
        """Write a step to the run directory: samples first, then the line that makes it whole."""
        known_advantages = self.per_completion(rewards, advantages)
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
            **reward_values(rollout, rewards, known_advantages),
            "seconds/step": parts,  # the clock's, where the step was one call
            **known,
            **{name: value for name, value in self.ledger.take().items() if name.startswith("memory/")},
        }
        self.tokens_sampled += metrics.values["tokens"]
        self.train_seconds += metrics.values["seconds/step"]
        if self.args.save_samples:
            rows = sample_rows(rollout, rewards, self._token_strings, known_advantages, metrics.tokens)
            self.run.write_samples(metrics.step, rows)
        self.run.write_metrics(metrics.values)

    def state_dict(self) -> dict[str, Any]:
        state = {
            **self.policy.state_dict(),
            "position": self._order.position,
            "rollouts": self._rollouts,
            "skipped": self._nonfinite.count,
        }
        return {**super().state_dict(), **state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.policy.load_state_dict(state)
        self._order.position = state["position"]
        self._rollouts, self._nonfinite.count = state["rollouts"], state["skipped"]

    def after_loading(self, checkpoint: Checkpoint) -> None:
        super().after_loading(checkpoint)
        self.generation.stale = True
        self.generation.sync()  # not self.sync(), which may write to the run directory: it is not reopened yet

    def what_must_match(self) -> dict[str, Any]:
        return {
            **super().what_must_match(),
            "base model": self._base,
            "train_dataset": rows_fingerprint(self.train_rows),
            "reward_funcs": self.reward_names,
            "engine": self.engine.name,
        }

    def describe(self) -> dict[str, Any]:
        from rlkit.environment import device_name, versions

        named = zip(self.reward_names, self.reward_funcs, strict=True)
        judges = {name: judge.model.name_or_path for name, judge in named if isinstance(judge, RewardModel)}
        return {
            "algorithm": self.algorithm,
            "model": self.model.name_or_path,
            "parameters": parameter_count(self.model),
            "load_in_4bit": is_nf4(self.model),
            "trained_parameters": sum(parameter.numel() for parameter in self.policy.optimizer.parameters),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "master_weights": bool(self.policy.optimizer.masters),
            "lora": adapter_summary(self.model),
            "train_rows": len(self.train_rows),
            "eval_rows": len(self.eval_rows),
            "rewards": dict(zip(self.reward_names, self.reward_weights, strict=True)),
            "reward_models": judges or None,
            "engine": self.engine.name,
            "weight_sync": self.weight_sync,
            "weight_sync_reason": self.engine.weight_sync_reason,
            "sync_check": {"gap": proof.gap, "moved": proof.moved}
            if (proof := self.generation.proof)
            else None,
            "total_steps": self.total_steps,
            "schedule": self.args.schedule(len(self.train_rows)),
            self.algorithm.lower(): self.args.to_dict(),
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

    def between_steps(self) -> str:
        taken = self.policy.taken
        return (
            f"{taken} of the {self.policy.per_rollout} optimizer steps of step {self.step_index + 1}"
            if taken
            else ""
        )

    def outcome(self) -> dict[str, Any]:
        return {
            "algorithm": self.algorithm,
            "model": self.model.name_or_path,
            "engine": self.engine.name,
            "weight_sync": self.weight_sync,
        }

    def close(self) -> None:
        """Free the engine and close the run directory."""
        super().close()
        self.engine.close()
