"""Settings of PPO."""

from __future__ import annotations

from dataclasses import dataclass

from rlkit.config.rollout import RolloutSettings
from rlkit.errors import bad_value, unknown_name
from rlkit.objectives.names import KL_ESTIMATORS
from rlkit.settings import require, strict_keywords

KL_PLACES = ("reward", "loss")


@strict_keywords
@dataclass(kw_only=True)
class PPOConfig(RolloutSettings):
    """Everything that a PPO run can be told. Names are TRL's where TRL has them.

    Attributes:
        output_dir … disable_tqdm: see :class:`TrainingSettings`. A step is a rollout with all its updates.
        prompts_per_step … target_accuracy: see :class:`GRPOConfig`; but ``num_generations`` may be 1, and is: the value
            model is the baseline, not the group. ``on_reward_error="skip"``: a completion that nobody judged is not
            learned from.

        num_ppo_epochs: passes over the same rollout.
        num_mini_batches: parts that each pass is cut into, in a seeded random order, with one optimizer step each.
        cliprange: ε of the policy loss: the ratio gains nothing from leaving [1 − ε, 1 + ε].
        cliprange_value: ε of the value loss, in units of the reward; None: no clipping.
        vf_coef: weight of the value loss. Where the value model is a head on the policy, the policy's layers
            learn from it as well.
        value_learning_rate: peak rate for the value model's own weights; None: ``learning_rate``. A new head wants more
            than a trained policy: 1e-3 to 1e-2 is no bad guess.
        gamma, lam: γ and λ of the advantages.
        whiten_rewards: (r − mean) / spread + mean of the rollout's per-token rewards, before advantages (TRL's). A
            token without reward gets mean − mean / spread, so that length pays or costs where the mean is not 0.
        whiten_advantages: mean 0 and spread 1 over the rollout's tokens (TRL always does).

        kl_coef: β, the weight of the KL to the reference policy; 0 keeps none. With an adapter the reference is the
            frozen base, and costs no memory.
        kl_penalty: ``"reward"``: −β KL is part of every token's reward, and goes through the advantages; ``"loss"``:
            it is a term of the loss, as in GRPO.
        kl_estimator: k1, k2 or k3; None: k1 in the reward (the only one whose gradient is then right), k3 in the loss.
        kl_target: look for this KL a completion, in nats, by changing β; None: β is fixed.
        kl_horizon: completions in which β changes by at most 20 %.

        missing_eos_penalty: taken from the score of a completion that was cut off (TRL's); None: nothing is.
        bootstrap_truncated: a completion that was cut off is taken to go on: the value of its last
            state takes the place of its score. False: the cut is the end, and the score counts.

    Raises:
        ConfigError: naming the setting, its value, what is allowed and the likely cause.
    """

    output_dir: str = "runs/ppo"

    num_ppo_epochs: int = 4
    num_mini_batches: int = 1
    cliprange: float = 0.2
    cliprange_value: float | None = 0.2
    vf_coef: float = 0.1
    value_learning_rate: float | None = None
    gamma: float = 1.0
    lam: float = 0.95
    whiten_rewards: bool = False
    whiten_advantages: bool = True

    kl_coef: float = 0.05
    kl_penalty: str = "reward"
    kl_estimator: str | None = None
    kl_target: float | None = None
    kl_horizon: int = 10_000

    missing_eos_penalty: float | None = None
    bootstrap_truncated: bool = False

    def __post_init__(self) -> None:
        self.check_types()
        self.check_training()
        for name in ("num_generations", "num_ppo_epochs", "num_mini_batches", "kl_horizon"):
            require(name, getattr(self, name), getattr(self, name) >= 1, "a whole number, 1 or more")
        self.check_rollout()
        if self.rows_per_step % self.num_mini_batches:
            raise bad_value(
                "num_mini_batches",
                self.num_mini_batches,
                f"a divisor of the {self.rows_per_step} rows a step",
                "Each optimizer step takes an equal part of the rollout.",
            )
        for name in ("vf_coef", "kl_coef"):
            require(name, getattr(self, name), getattr(self, name) >= 0, "0 or more")
        for name in ("gamma", "lam"):
            require(name, getattr(self, name), 0 <= getattr(self, name) <= 1, "from 0 to 1")
        require("cliprange", self.cliprange, 0 < self.cliprange < 1, "between 0 and 1")
        for name in ("cliprange_value", "value_learning_rate", "kl_target"):
            value = getattr(self, name)
            require(name, value, value is None or value > 0, "above 0, or None")
        penalty = self.missing_eos_penalty
        cause = "It is taken away: a positive number punishes."
        require("missing_eos_penalty", penalty, penalty is None or penalty > 0, "above 0, or None", cause)
        self._check_kl()

    def _check_kl(self) -> None:
        if self.kl_penalty not in KL_PLACES:
            raise unknown_name("kl_penalty", self.kl_penalty, KL_PLACES)
        if self.kl_estimator is not None and self.kl_estimator not in KL_ESTIMATORS:
            raise unknown_name("kl_estimator", self.kl_estimator, KL_ESTIMATORS)
        if self.kl_penalty == "loss" and self.kl_estimator == "k1" and self.kl_coef:
            cause = "The expected gradient of k1 in a loss is 0: it would be noise."
            raise bad_value("kl_estimator", "k1", "k2, k3 or None with kl_penalty='loss'", cause)
        if self.kl_target is not None and not self.kl_coef:
            cause = "It is changed by factors, and 0 would stay 0."
            raise bad_value("kl_coef", self.kl_coef, "above 0 with kl_target", cause)

    @property
    def updates_per_rollout(self) -> int:
        return self.num_ppo_epochs * self.num_mini_batches

    @property
    def kl_weight(self) -> float:
        return self.kl_coef

    @property
    def estimator(self) -> str:
        """The KL estimator, with None filled in."""
        return self.kl_estimator or ("k1" if self.kl_penalty == "reward" else "k3")
