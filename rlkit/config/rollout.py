"""Settings of every trainer that samples from its policy: the batch, sampling, the engine, rewards."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rlkit.config.training import TrainingSettings, count
from rlkit.errors import ConfigError, bad_value, unknown_name
from rlkit.objectives.names import MISMATCH_MODES
from rlkit.settings import require

WEIGHT_SYNCS = ("auto", "shared", "reload")
REWARD_ERRORS = ("stop", "skip")


@dataclass(kw_only=True)
class RolloutSettings(TrainingSettings):
    """Base of the settings of GRPO and PPO; each of them says what its fields mean."""

    prompts_per_step: int | None = None
    num_generations: int = 1

    max_completion_length: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float | None = None
    probe_prompts: int = 8
    fast_inference: bool | None = None
    weight_sync: str = "auto"
    gpu_memory_utilization: float = 0.3
    top_logprobs: int = 5
    sync_tolerance: float | None = None
    sync_check_steps: int = 100

    reward_weights: list[float] | None = None
    reward_timeout: float | None = None
    on_reward_error: str = "stop"
    entropy_coef: float = 0.0
    vllm_importance_sampling_correction: bool | None = None
    vllm_importance_sampling_mode: str = "sequence_mask"
    vllm_importance_sampling_clip_max: float | None = 3.0
    vllm_importance_sampling_clip_min: float | None = None

    num_generations_eval: int = 4
    target_accuracy: float | None = None

    @property
    def rows_per_step(self) -> int:
        """N = P · G, rows a rollout."""
        assert self.prompts_per_step is not None  # __post_init__ fills it in
        return self.prompts_per_step * self.num_generations

    @property
    def updates_per_rollout(self) -> int:
        """Optimizer steps that are taken on one rollout."""
        raise NotImplementedError

    @property
    def kl_weight(self) -> float:
        """The weight of a KL to the reference policy that the run begins with; 0 needs no reference."""
        raise NotImplementedError

    def total_steps(self, num_rows: int) -> int:
        """Steps (rollouts) for a data set of ``num_rows`` rows."""
        assert self.prompts_per_step is not None
        return self.steps_for(num_rows, self.prompts_per_step)

    def schedule(self, num_rows: int) -> str:
        """The batch arithmetic in one sentence, for people.

        >>> GRPOConfig(prompts_per_step=1, num_train_epochs=1).schedule(300)
        '300 rows, 1 prompt a step × 8 completions = 8 rows a step: 300 steps, 1 epoch'
        """
        steps = self.total_steps(num_rows)
        epochs = steps * (self.prompts_per_step or 1) / max(num_rows, 1)
        updates = self.updates_per_rollout
        again = f", {updates} updates each" if updates > 1 else ""
        return (
            f"{count(num_rows, 'row')}, {count(self.prompts_per_step or 1, 'prompt')} a step × "
            f"{count(self.num_generations, 'completion')} = {self.rows_per_step} rows a step"
            f"{again}: {count(steps, 'step')}, {epochs:.3g} epoch{'' if round(epochs, 3) == 1 else 's'}"
        )

    def check_rollout(self) -> None:
        """Check what GRPO and PPO share; fills ``prompts_per_step`` in.

        Raises:
            ConfigError: naming the setting, its value, what is allowed and the likely cause.
        """
        self._check_batch()
        self._check_numbers()
        self._check_mismatch()
        self._check_rewards()
        self._check_sampling()

    def _check_batch(self) -> None:
        given = self.prompts_per_step
        require("prompts_per_step", given, given is None or given >= 1, "a whole number, 1 or more")
        micro, accumulate, prompts = (
            self.per_device_train_batch_size,
            self.gradient_accumulation_steps,
            self.prompts_per_step,
        )
        if prompts is None:
            rows = 8 * self.num_generations if micro is None else micro * (accumulate or 1)
            if rows % self.num_generations:
                raise bad_value(
                    "per_device_train_batch_size × gradient_accumulation_steps",
                    rows,
                    f"a multiple of num_generations={self.num_generations}",
                    f"Every prompt brings a whole group of completions: try {self.num_generations} × a whole number, "
                    "or give prompts_per_step and leave these two out.",
                )
            self.prompts_per_step = rows // self.num_generations
        elif (
            micro is not None
            and accumulate is not None
            and micro * accumulate != prompts * self.num_generations
        ):
            raise ConfigError(
                f"prompts_per_step={prompts} × num_generations={self.num_generations} is "
                f"{prompts * self.num_generations} rows a step, but per_device_train_batch_size={micro} × "
                f"gradient_accumulation_steps={accumulate} is {micro * accumulate}. Give prompts_per_step, or the "
                "other two, not both."
            )
        if micro is None and accumulate is not None:
            rows = self.rows_per_step
            if rows % accumulate:
                raise bad_value(
                    "gradient_accumulation_steps",
                    accumulate,
                    f"a divisor of the {rows} rows a step",
                    "Each accumulation step takes the same number of rows.",
                )
            self.per_device_train_batch_size = rows // accumulate

    def _check_numbers(self) -> None:
        require("entropy_coef", self.entropy_coef, self.entropy_coef >= 0, "0 or more")
        for name in ("max_completion_length", "num_generations_eval", "sync_check_steps"):
            require(name, getattr(self, name), getattr(self, name) >= 1, "a whole number, 1 or more")
        for name in ("top_logprobs", "probe_prompts"):
            require(name, getattr(self, name), getattr(self, name) >= 0, "a whole number, 0 or more")
        if self.sync_tolerance is not None:
            require("sync_tolerance", self.sync_tolerance, self.sync_tolerance > 0, "above 0, or None")
        share = self.gpu_memory_utilization
        require("gpu_memory_utilization", share, 0 < share <= 1, "a share above 0 and up to 1")
        if self.weight_sync not in WEIGHT_SYNCS:
            raise unknown_name("weight_sync", self.weight_sync, WEIGHT_SYNCS)
        target = self.target_accuracy
        if target is not None:
            require("target_accuracy", target, 0 < target <= 1, "a share above 0 and up to 1, or None")
            cause = "The target is looked at when the model is evaluated."
            require(
                "eval_steps",
                self.eval_steps,
                self.eval_steps is not None,
                "a number with target_accuracy",
                cause,
            )

    def _check_mismatch(self) -> None:
        mode = self.vllm_importance_sampling_mode
        if mode not in MISMATCH_MODES:
            raise unknown_name("vllm_importance_sampling_mode", mode, MISMATCH_MODES)
        bottom, top = self.vllm_importance_sampling_clip_min, self.vllm_importance_sampling_clip_max
        good = 0 <= (bottom or 0.0) < (math.inf if top is None else top)
        cause = "Weights are near 1 where engine and trainer agree."
        require("vllm_importance_sampling_clip_min, …_clip_max", (bottom, top), good, "0 <= min < max", cause)

    def _check_rewards(self) -> None:
        weights = self.reward_weights
        if weights is not None:
            good = all(
                isinstance(w, (int, float)) and not isinstance(w, bool) and math.isfinite(w) for w in weights
            )
            require("reward_weights", weights, good, "finite numbers, one a reward function")
            cause = "Every total is then 0, and nothing is learned."
            require(
                "reward_weights", weights, not weights or any(weights), "numbers that are not all 0", cause
            )
        if self.reward_timeout is not None:
            require(
                "reward_timeout", self.reward_timeout, self.reward_timeout > 0, "seconds, above 0, or None"
            )
        if self.on_reward_error not in REWARD_ERRORS:
            raise unknown_name("on_reward_error", self.on_reward_error, REWARD_ERRORS)

    def _check_sampling(self) -> None:
        require(
            "temperature",
            self.temperature,
            self.temperature > 0,
            "above 0",
            "Greedy samples of one prompt are all the same, so no group would have any spread.",
        )
        for name, neutral in (("top_p", (1.0,)), ("top_k", (0, -1)), ("min_p", (None, 0.0))):
            if getattr(self, name) not in neutral:
                raise bad_value(
                    name,
                    getattr(self, name),
                    f"{neutral[0]} (off)",
                    "It samples from a truncated distribution, while the loss uses the full one's "
                    "log-probabilities: the policy gradient would be biased.",
                )
