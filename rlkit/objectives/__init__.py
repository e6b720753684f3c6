"""The mathematics of the objectives: tensors in, tensors out, nothing held and nothing logged.

What flows through, in the order of a step: rewards become advantages A (`advantages`), log-probabilities
become ratios rho and clipped terms (`ratios`) and KL terms (`kl`), every token gets a weight
(`normalisers`), and `policy_loss` adds it all up (`loss`). PPO's tokens have rewards, values and advantages of their
own (`gae`), and a KL coefficient that may follow a target (`adaptive_kl`). Reward models learn from pairs
(`preferences`).

Symbols: A advantage, rho ratio, o_i completion i, eps clip range, beta KL coefficient. Sizes: P prompts,
G completions a prompt, F reward functions, N = P * G completions, T tokens of a completion (padded).

Names are looked up on first use, so that `rlkit.objectives.names` can be read without loading torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rlkit.objectives.names import (
    ADVANTAGE_BASELINES,
    ADVANTAGE_SCALES,
    IMPORTANCE_SAMPLING_LEVELS,
    KL_ESTIMATORS,
    LOSS_TYPES,
    MISMATCH_MODES,
)

if TYPE_CHECKING:
    from rlkit.objectives.adaptive_kl import AdaptiveKL
    from rlkit.objectives.advantages import Advantages, group_advantages, weighted_total
    from rlkit.objectives.gae import (
        ValueLoss,
        explained_variance,
        generalized_advantages,
        token_rewards,
        value_loss,
        whiten,
    )
    from rlkit.objectives.kl import kl_estimate
    from rlkit.objectives.loss import ObjectiveWarning, PolicyLoss, policy_loss
    from rlkit.objectives.normalisers import LossTotals, apply_truncation_mask, token_weights
    from rlkit.objectives.preferences import (
        bradley_terry_loss,
        calibration,
        length_bias,
        pairwise_accuracy,
    )
    from rlkit.objectives.ratios import (
        ClippedTerm,
        clipped_term,
        importance_ratio,
        mismatch_statistics,
        mismatch_weight,
    )

_HOME = {
    "AdaptiveKL": "adaptive_kl",
    "Advantages": "advantages",
    "group_advantages": "advantages",
    "weighted_total": "advantages",
    "ValueLoss": "gae",
    "explained_variance": "gae",
    "generalized_advantages": "gae",
    "token_rewards": "gae",
    "value_loss": "gae",
    "whiten": "gae",
    "kl_estimate": "kl",
    "ObjectiveWarning": "loss",
    "PolicyLoss": "loss",
    "policy_loss": "loss",
    "LossTotals": "normalisers",
    "apply_truncation_mask": "normalisers",
    "token_weights": "normalisers",
    "bradley_terry_loss": "preferences",
    "calibration": "preferences",
    "length_bias": "preferences",
    "pairwise_accuracy": "preferences",
    "ClippedTerm": "ratios",
    "clipped_term": "ratios",
    "importance_ratio": "ratios",
    "mismatch_statistics": "ratios",
    "mismatch_weight": "ratios",
}

__all__ = [
    "ADVANTAGE_BASELINES",
    "ADVANTAGE_SCALES",
    "IMPORTANCE_SAMPLING_LEVELS",
    "KL_ESTIMATORS",
    "LOSS_TYPES",
    "MISMATCH_MODES",
    "AdaptiveKL",
    "Advantages",
    "ClippedTerm",
    "LossTotals",
    "ObjectiveWarning",
    "PolicyLoss",
    "ValueLoss",
    "apply_truncation_mask",
    "bradley_terry_loss",
    "calibration",
    "clipped_term",
    "explained_variance",
    "generalized_advantages",
    "group_advantages",
    "importance_ratio",
    "kl_estimate",
    "length_bias",
    "mismatch_statistics",
    "mismatch_weight",
    "pairwise_accuracy",
    "policy_loss",
    "token_rewards",
    "token_weights",
    "value_loss",
    "weighted_total",
    "whiten",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
