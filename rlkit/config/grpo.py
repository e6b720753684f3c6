"""Settings of GRPO."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

from rlkit.config.training import ConfigWarning, TrainingSettings, count
from rlkit.errors import ConfigError, bad_value, unknown_name
from rlkit.objectives.names import (
    ADVANTAGE_BASELINES,
    KL_ESTIMATORS,
    MISMATCH_MODES,
    WIDEST_SEQUENCE_EPSILON,
    resolve_level,
    resolve_scale,
)
from rlkit.settings import require, strict_keywords

WEIGHT_SYNCS = ("auto", "shared", "reload")
REWARD_ERRORS = ("stop", "skip")


@strict_keywords
@dataclass(kw_only=True)
class GRPOConfig(TrainingSettings):
    """Everything that a GRPO run can be told.

    The batch, in the notebooks' symbols: P = ``prompts_per_step`` prompts, G = ``num_generations`` completions
    each, N = P · G rows a rollout. Whoever comes from TRL may give ``per_device_train_batch_size`` and
    ``gradient_accumulation_steps`` instead: their product is N, the first is the micro-batch.

    Attributes:
        output_dir … disable_tqdm: see :class:`TrainingSettings`. A step is a rollout with all its updates.
        learning_rate: peak rate of AdamW. TRL's default suits large models; tiny ones want 1e-4, LoRA 1e-5 to 1e-4.

        prompts_per_step: P; default 8, or what the TRL pair gives.
        num_generations: G, at least 2: the group's mean is the baseline.
        num_iterations: μ, passes over the same rollout; from the second on, ratios leave 1. (TRL counts each of
            them as a step of ``max_steps``.)
        steps_per_generation: cut each rollout into so many parts, with one optimizer step each; from the second on,
            ratios leave 1. (TRL's default is ``gradient_accumulation_steps``; here it is 1, on-policy.)

        max_completion_length: tokens a completion at most; longer ones are truncated.
        temperature: of sampling, and of the trainer's log-probabilities.
        top_p, top_k, min_p: must be neutral (1, 0, 0): a truncated distribution is not the one whose
            log-probabilities the loss uses.
        dynamic_sampling_tries: replace groups without reward spread by groups of the next prompts, at most so many
            times a step (DAPO, arXiv:2503.14476); 0 leaves them in, where they teach nothing.
        probe_prompts: before training, sample the first so many prompts to see how long answers are and how often one
            is right; 0 switches the probe off.
        fast_inference: True for vLLM, False for transformers, None for vLLM where it is installed.
        weight_sync: ``"shared"`` (one set of weights), ``"reload"`` (pushed each step) or ``"auto"``.
            Adapters always travel by themselves.
        gpu_memory_utilization: share of a GPU's memory for vLLM's KV cache.
        top_logprobs: alternatives kept a token in the samples on disk; 0 keeps none.
        sync_tolerance: largest engine/trainer gap in nats on the canary tokens; None picks by dtype and device (3e-4 in
            float32 on a CPU).
        sync_check_steps: prove every so many steps, by a visible perturbation, that weights reach the engine.

        loss_type: ``"grpo"``, ``"bnpo"``, ``"dr_grpo"``, ``"dapo"`` (TRL's default and ours) or ``"gspo"``.
        importance_sampling_level: ``"token"`` or ``"sequence"``; None follows ``loss_type``.
        epsilon, epsilon_high, delta: the ratio's lower and upper clip range, and the cap of the unclipped one.
        beta, kl_estimator: weight and estimator (k1, k2, k3) of the KL to the reference model; β = 0 keeps none.
            With an adapter the reference is the frozen base, and costs no memory.
        use_bias_correction_kl: multiply the KL term by the ratio, as TRL 1.16 does by default; the GRPO paper, and
            the default here, do not.
        scale_rewards: ``"group"``, ``"batch"`` or ``"none"``; TRL's True and False are understood. Dr. GRPO's
            paper does not divide by the spread: for the paper's version say ``"none"``.
        advantage_baseline: ``"group"`` (the group's mean) or ``"leave_one_out"`` (RLOO).
        reward_weights: one weight a reward function; default all 1.
        reward_timeout: seconds that one reward function may take for a rollout; None: any time. An async one is
            cancelled then; a plain one cannot be ended from outside, and its thread runs on.
        on_reward_error: where a reward function raises, takes too long or returns no number, ``"stop"`` ends training
            and names the completion that caused it; ``"skip"`` leaves it unscored by this function, and warns. A
            completion that nobody scored ends training, too, or with ``"skip"`` counts as its group's mean.
        mask_truncated_completions: leave truncated completions out of the loss.
        entropy_coef: weight of an entropy bonus.
        vllm_importance_sampling_correction: weigh tokens by π_old / π_engine, because the engine computes the same
            weights in its own arithmetic. None: where they differ visibly,
            in 16 bits and on a GPU; in float32 on a CPU they agree to 1e-5.
        vllm_importance_sampling_mode: ``token_``, ``sequence_`` or ``geometric_`` with ``truncate`` or ``mask``.
        vllm_importance_sampling_clip_max, vllm_importance_sampling_clip_min: the range that weights are
            truncated to, or outside which they are masked.

        num_generations_eval: sampled completions a held-out prompt, beside one greedy one.
        target_accuracy: end training once the greedy held-out accuracy reaches this share; wants ``eval_steps``.

    Raises:
        ConfigError: naming the setting, its value, what is allowed and the likely cause.
    """

    output_dir: str = "runs/grpo"

    prompts_per_step: int | None = None
    num_generations: int = 8
    num_iterations: int = 1
    steps_per_generation: int = 1

    max_completion_length: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float | None = None
    dynamic_sampling_tries: int = 0
    probe_prompts: int = 8
    fast_inference: bool | None = None
    weight_sync: str = "auto"
    gpu_memory_utilization: float = 0.3
    top_logprobs: int = 5
    sync_tolerance: float | None = None
    sync_check_steps: int = 100

    loss_type: str = "dapo"
    importance_sampling_level: str | None = None
    epsilon: float = 0.2
    epsilon_high: float | None = None
    delta: float | None = None
    beta: float = 0.0
    kl_estimator: str = "k3"
    use_bias_correction_kl: bool = False
    scale_rewards: str | bool = "group"
    advantage_baseline: str = "group"
    reward_weights: list[float] | None = None
    reward_timeout: float | None = None
    on_reward_error: str = "stop"
    mask_truncated_completions: bool = False
    entropy_coef: float = 0.0
    vllm_importance_sampling_correction: bool | None = None
    vllm_importance_sampling_mode: str = "sequence_mask"
    vllm_importance_sampling_clip_max: float | None = 3.0
    vllm_importance_sampling_clip_min: float | None = None

    num_generations_eval: int = 4
    target_accuracy: float | None = None

    def __post_init__(self) -> None:
        self.check_types()
        self.check_training()
        for name in ("num_iterations", "steps_per_generation"):
            require(name, getattr(self, name), getattr(self, name) >= 1, "a whole number, 1 or more")
        self._check_batch()
        self._check_numbers()
        self._check_objective()
        self._check_rewards()
        self._check_sampling()

    @property
    def rows_per_step(self) -> int:
        """N = P · G, rows a rollout."""
        assert self.prompts_per_step is not None  # __post_init__ fills it in
        return self.prompts_per_step * self.num_generations

    def total_steps(self, num_rows: int) -> int:
        """GRPO steps for a data set of ``num_rows`` rows."""
        assert self.prompts_per_step is not None
        return self.steps_for(num_rows, self.prompts_per_step)

    def schedule(self, num_rows: int) -> str:
        """The batch arithmetic in one sentence, for people.

        >>> GRPOConfig(prompts_per_step=1, num_train_epochs=1).schedule(300)
        '300 rows, 1 prompt a step × 8 completions = 8 rows a step: 300 steps, 1 epoch'
        """
        steps = self.total_steps(num_rows)
        epochs = steps * (self.prompts_per_step or 1) / max(num_rows, 1)
        updates = self.num_iterations * self.steps_per_generation
        again = f", {updates} updates each" if updates > 1 else ""
        return (
            f"{count(num_rows, 'row')}, {count(self.prompts_per_step or 1, 'prompt')} a step × "
            f"{self.num_generations} completions = {self.rows_per_step} rows a step"
            f"{again}: {count(steps, 'step')}, {epochs:.3g} epoch{'' if round(epochs, 3) == 1 else 's'}"
        )

    def _check_batch(self) -> None:
        if self.num_generations < 2:
            raise bad_value(
                "num_generations",
                self.num_generations,
                "2 or more",
                "GRPO compares a completion with the others of its group; a group of one has advantage 0 always.",
            )
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
        if self.rows_per_step % self.steps_per_generation:
            raise bad_value(
                "steps_per_generation",
                self.steps_per_generation,
                f"a divisor of the {self.rows_per_step} rows a step",
                "Each optimizer step takes an equal part of the rollout.",
            )

    def _check_numbers(self) -> None:
        for name in ("beta", "entropy_coef"):
            require(name, getattr(self, name), getattr(self, name) >= 0, "0 or more")
        for name in ("max_completion_length", "num_generations_eval", "sync_check_steps"):
            require(name, getattr(self, name), getattr(self, name) >= 1, "a whole number, 1 or more")
        for name in ("top_logprobs", "dynamic_sampling_tries", "probe_prompts"):
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

    def _check_objective(self) -> None:
        level = resolve_level(self.loss_type, self.importance_sampling_level)
        resolve_scale(self.scale_rewards)
        if self.advantage_baseline not in ADVANTAGE_BASELINES:
            raise unknown_name("advantage_baseline", self.advantage_baseline, ADVANTAGE_BASELINES)
        if self.kl_estimator not in KL_ESTIMATORS:
            raise unknown_name("kl_estimator", self.kl_estimator, KL_ESTIMATORS)
        high = self.epsilon if self.epsilon_high is None else self.epsilon_high
        require("epsilon", self.epsilon, 0 < self.epsilon < 1, "between 0 and 1: the ratio stays above 1 − ε")
        require("epsilon_high", high, high > 0, "above 0")
        if self.delta is not None:
            require(
                "delta",
                self.delta,
                self.delta > 1 + high,
                f"above 1 + epsilon_high = {1 + high:g}",
                "It caps the unclipped ratio; below the clip range it would make the clip pointless.",
            )
        if level == "sequence" and max(self.epsilon, high) > WIDEST_SEQUENCE_EPSILON:
            warnings.warn(
                f"epsilon={self.epsilon:g} is far too wide for sequence-level ratios, which are averages over a "
                "completion and stay near 1: nothing will ever be clipped. The GSPO paper uses 3e-4 and 4e-4.",
                ConfigWarning,
                stacklevel=5,
            )
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
