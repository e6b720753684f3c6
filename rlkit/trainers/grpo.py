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

from typing import Any

from rlkit.config import GRPOConfig
from rlkit.objectives import Advantages, group_advantages
from rlkit.rollout import Batch, Rewards, Rollout, TokenRecord
from rlkit.trainers.dynamic_sampling import Refilled, replace_dead_groups
from rlkit.trainers.record import reward_values
from rlkit.trainers.rollout_trainer import Reference, RolloutTrainer
from rlkit.trainers.update import PolicyUpdate


class GRPOTrainer(RolloutTrainer):
    """Trains a causal LM with group-relative policy optimisation on a colocated engine.

    Args:
        model: a transformers causal LM, or a name or folder for ``load_model``.
        reward_funcs: one or more ``f(prompts, completions, **columns) -> list[float | None]``; a `rewards.Rubric` is a
            list of them.
        args: the settings; default ``GRPOConfig()``.
        train_dataset: rows with a ``prompt`` (list of dicts or ``datasets.Dataset``).
        eval_dataset: held-out rows; judged before and after training, and every ``eval_steps``.
        processing_class: the tokenizer; may be left out when ``model`` is a name.
        callbacks: see :class:`rlkit.trainers.callbacks.Callback`.
        verifier: ``verifier(completion, **columns) -> bool``, for accuracy; default: that of the rubric, or of the
            first reward function that carries one.
        engine: a ready engine instead of the one that ``args`` asks for.
        peft_config: a ``peft.LoraConfig``: train a fresh adapter on ``model``, which stays as it is. ``add_lora`` and
            ``load_model`` make adapters too.

    Raises:
        ConfigError, RewardError: bad settings, data or reward functions, before the engine starts.
        SyncError: the engine's weights cannot be trusted.

    Example:
        >>> trainer = GRPOTrainer(model, rewards.correct_number, GRPOConfig(max_steps=20), task.train,
        ...                       task.test, processing_class=tokenizer)
        >>> trainer.train()["accuracy_after"]
    """

    algorithm = "GRPO"
    settings = GRPOConfig
    several_times = "num_iterations"
    args: GRPOConfig
    policy: PolicyUpdate

    def advantages(self, rewards: Rewards) -> Advantages:
        """How much better than its group each completion did: [P, G]."""
        return group_advantages(
            rewards.total, scale=self.args.scale_rewards, baseline=self.args.advantage_baseline
        )

    def refill(self, rollout: Rollout, rewards: Rewards) -> Refilled:
        """Replace groups without reward spread by groups of the next prompts (dynamic sampling)."""

        def more(prompts: int) -> tuple[Rollout, Rewards]:
            extra = self.rollout(self._next_rows(prompts))
            return extra, self.score(extra)

        return replace_dead_groups(rollout, rewards, more, self.args.dynamic_sampling_tries)

    def make_update(self, reference: Reference | None) -> PolicyUpdate:
        return PolicyUpdate(self.model, self.args, self.total_steps, reference)

    def credit(self, rollout: Rollout, rewards: Rewards) -> Advantages:
        return self.advantages(rewards)

    def learn(self, batch: Batch, advantages: Advantages) -> tuple[dict[str, Any], TokenRecord]:
        return self.policy.update(batch, advantages.values.flatten())

    def per_completion(self, rewards: Rewards, advantages: Advantages) -> Advantages:
        return advantages

    def _sampled_and_scored(self) -> tuple[Rollout, Rewards, dict[str, Any]]:
        """What a step trains on, and the numbers of all that was drawn for it where groups were replaced."""
        rollout = self.rollout()
        rewards = self.score(rollout)
        if not self.args.dynamic_sampling_tries:
            return rollout, rewards, {}
        refilled = self.refill(rollout, rewards)
        everything = refilled.drawn_rollout, refilled.drawn_rewards
        drawn = {**reward_values(*everything, self.advantages(everything[1])), **refilled.values()}
        return refilled.rollout, refilled.rewards, drawn
