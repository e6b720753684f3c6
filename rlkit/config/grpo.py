"""Settings of GRPO."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

from rlkit.config.rollout import RolloutSettings
from rlkit.config.training import ConfigWarning
from rlkit.errors import bad_value, unknown_name
from rlkit.objectives.names import (
    ADVANTAGE_BASELINES,
    KL_ESTIMATORS,
    WIDEST_SEQUENCE_EPSILON,
    resolve_level,
    resolve_scale,
)
from rlkit.settings import require, strict_keywords


@strict_keywords
@dataclass(kw_only=True)
class GRPOConfig(RolloutSettings):
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

    num_generations: int = 8
    num_iterations: int = 1
    steps_per_generation: int = 1

    dynamic_sampling_tries: int = 0

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
    mask_truncated_completions: bool = False

    def __post_init__(self) -> None:
        self.check_types()
        self.check_training()
        for name in ("num_iterations", "steps_per_generation"):
            require(name, getattr(self, name), getattr(self, name) >= 1, "a whole number, 1 or more")
        if self.num_generations < 2:
            raise bad_value(
                "num_generations",
                self.num_generations,
                "2 or more",
                "GRPO compares a completion with the others of its group; a group of one has advantage 0 always.",
            )
        self.check_rollout()
        if self.rows_per_step % self.steps_per_generation:
            raise bad_value(
                "steps_per_generation",
                self.steps_per_generation,
                f"a divisor of the {self.rows_per_step} rows a step",
                "Each optimizer step takes an equal part of the rollout.",
            )
        require("beta", self.beta, self.beta >= 0, "0 or more")
        tries = self.dynamic_sampling_tries
        require("dynamic_sampling_tries", tries, tries >= 0, "a whole number, 0 or more")
        self._check_objective()

    @property
    def updates_per_rollout(self) -> int:
        return self.num_iterations * self.steps_per_generation

    @property
    def kl_weight(self) -> float:
        return self.beta

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
