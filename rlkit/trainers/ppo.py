"""PPO, cell by cell.

    rollout = trainer.rollout()                     # the generating policy samples
    rewards = trainer.score(rollout)                # the reward model, and whatever else judges
    experience = trainer.estimate(rollout, rewards) # reference policy: KL; value model: V; then A and R of each token
    metrics = trainer.update(rollout, experience)   # epochs of mini-batches: policy loss + value loss
    report = trainer.sync()                         # the engine follows, and the canary checks it

``trainer.step()`` is these five and a line in the run directory; ``trainer.train()`` loops over it.

Four models are at work: the **policy**, which generates and is trained; the **reference policy**, which it must stay
near (a frozen copy; with an adapter, the base itself); the **value model**, a head on the policy or a model of
its own; the **reward model**, which is a reward function like any other. GRPO does without the last two.

Sources: Schulman et al. 2017 (arXiv:1707.06347); of language models, Ziegler et al. 2019 (arXiv:1909.08593), Ouyang et
al. 2022 (arXiv:2203.02155). Argument names are TRL's.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlkit.config import PPOConfig
from rlkit.errors import bad_value
from rlkit.objectives import Advantages
from rlkit.quantised import parameter_count
from rlkit.rollout import Batch, Rewards, Rollout, TokenRecord, build_batch
from rlkit.trainers.checks import check_policy
from rlkit.trainers.ppo_update import Experience, PPOUpdate
from rlkit.trainers.rollout_trainer import Reference, RolloutTrainer
from rlkit.trainers.scorer import RewardModel
from rlkit.trainers.value_files import save_value_model
from rlkit.trainers.values import (
    ValueModel,
    as_value_model,
    check_context,
    check_finite,
    check_not_judging,
    check_reference_model,
    check_value_model,
)
from rlkit.trainers.weights import fingerprint


class PPOTrainer(RolloutTrainer):
    """Trains a causal LM with proximal policy optimization and a learned value model.

    Args:
        model, reward_funcs, args, train_dataset, eval_dataset, processing_class, callbacks, peft_config, verifier,
            engine: as for :class:`rlkit.GRPOTrainer`; ``args`` is a ``PPOConfig``. A reward model is given as
            the reward function that ``RewardModelTrainer.as_reward()`` makes of it.
        value_model: a transformers model with the policy's vocabulary, trained as the value model; or a
            ``RewardModel``, of which a copy is trained, beginning with its scores; None: a head on the policy.
        ref_model: the reference policy, of the policy's architecture; None: the policy as it is now, or the base
            of its adapter.

    Raises:
        ConfigError, RewardError: bad settings, data, reward functions or models, before the engine starts.
        SyncError: the engine's weights cannot be trusted.

    Example:
        >>> trainer = PPOTrainer(model, rewards.correct_number, PPOConfig(max_steps=20), task.train,
        ...                      task.test, processing_class=tokenizer)
        >>> trainer.train()["accuracy_after"]
    """

    algorithm = "PPO"
    settings = PPOConfig
    several_times = "num_ppo_epochs"
    args: PPOConfig
    policy: PPOUpdate

    def __init__(self, *args: Any, value_model: Any = None, ref_model: Any = None, **settings: Any) -> None:
        self._value_model = (
            as_value_model(value_model) if isinstance(value_model, RewardModel) else value_model
        )
        self._ref_model = ref_model
        super().__init__(*args, **settings)

    @property
    def values(self) -> ValueModel:
        """The value model."""
        return self.policy.values

    # -- the step's parts that are PPO's own -----------------------------------------------------------

    def estimate(self, rollout: Rollout, rewards: Rewards) -> Experience:
        """What each token was worth: values, KL, per-token rewards, advantages and returns.

        A completion that no reward function judged (``on_reward_error="skip"``) is not learned from.
        """
        start = time.perf_counter()
        judged = ~rewards.per_function.isnan().all(-1).flatten()  # [N]
        with self.ledger.phase("update"):
            batch = build_batch(rollout, self.processing_class.pad_token_id, self.model.device)
            experience = self.policy.estimate(batch, rewards.total.flatten(), judged)
        return experience._replace(seconds=time.perf_counter() - start)

    def credit(self, rollout: Rollout, rewards: Rewards) -> Experience:
        return self.estimate(rollout, rewards)

    def learn(self, batch: Batch, advantages: Experience) -> tuple[dict[str, Any], TokenRecord]:
        return self.policy.update(batch, advantages, self._seed(self.step_index + 1))

    def per_completion(self, rewards: Rewards, advantages: Experience) -> Advantages:
        """The mean advantage of each completion's tokens, [P, G]; the tokens' own are in ``Experience``."""
        shape = rewards.total.shape
        lengths = advantages.mask.sum(-1).clamp(min=1)  # [N]
        mean = (advantages.advantages.sum(-1) / lengths).double().cpu().reshape(shape)  # [P, G]
        spread = mean.std(-1, correction=0)  # [P]
        return Advantages(mean, rewards.total.mean(-1), spread, spread.isnan())

    # -- models -------------------------------------------------------------------------------------

    def check_models(self, model: Any, args: PPOConfig) -> None:
        check_not_judging(model, self.reward_funcs, "model")
        if self._value_model is not None:
            check_value_model(self._value_model, model)
            check_not_judging(self._value_model, self.reward_funcs)
        if self._ref_model is None:
            return
        if not args.kl_coef:
            cause = "Without a KL term nothing is compared with the reference."
            raise bad_value("ref_model", f"<{type(self._ref_model).__name__}>", "None with kl_coef=0", cause)
        check_reference_model(self._ref_model, model, self._value_model)

    def check_readers(self, token_ids: Sequence[int]) -> None:
        self._values = ValueModel(self.model, self._value_model, self.longest_row)
        for name, reader in (("value_model", self._value_model), ("ref_model", self._ref_model)):
            if reader is not None:
                reader.eval()
                check_context(name, reader, self.longest_row)
                check_finite(name, reader, token_ids)
        if self._ref_model is not None:
            check_policy(self._ref_model, token_ids)

    def reference(self) -> Reference:
        if self._ref_model is None:
            return super().reference()
        frozen = self._ref_model.eval().requires_grad_(False)
        return lambda: contextlib.nullcontext(frozen)

    def make_update(self, reference: Reference | None) -> PPOUpdate:
        return PPOUpdate(self.model, self.args, self.total_steps, reference, self._values)

    def save_value_model(self, folder: str | os.PathLike[str]) -> Path:
        """Write the value model with its head; whole or not at all. ``load_value_model`` gives a ``value_model`` for
        another PPO run.

        ``save_model`` writes the policy alone. Of a head on the policy the policy's weights are written with it,
        whose hidden states it reads.
        """
        self.control.check_free("save_value_model()")
        return save_value_model(self.values, self.model, self.processing_class, folder)

    # -- the run ------------------------------------------------------------------------------------

    def what_must_match(self) -> dict[str, Any]:
        reference = None if self._ref_model is None else fingerprint(self._ref_model)
        value_model = self._value_kind
        if self.values.own:  # what a checkpoint does not hold: an adapter's base
            value_model += f", frozen weights {fingerprint(self.values, frozen_only=True)[:8]}"
        return {**super().what_must_match(), "value model": value_model, "ref_model": reference}

    def describe(self) -> dict[str, Any]:
        trained = sum(parameter.numel() for parameter in self.policy.value_optimizer.parameters)
        about = {"kind": self._value_kind, "trained_parameters": trained}
        if self.values.own:
            about["parameters"] = parameter_count(self.values.model)
        return {**super().describe(), "value_model": about}

    @property
    def _value_kind(self) -> str:
        if not self.values.own:
            return "a head on the policy"
        return f"a model of its own: {type(self.values.model).__name__}"
