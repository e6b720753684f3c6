"""Which loss a recorded step had: what its run told ``policy_loss``, read from the config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from rlkit.runs import schema


class Objective(NamedTuple):
    """What a run's loss was told; no settings where the config does not say."""

    settings: dict[str, Any]
    masks_truncated: bool = False
    parts: int = 1  # optimizer steps that a pass over the rollout was cut into
    shuffled: bool = False  # the parts were drawn at random
    entropy_coef: float = 0.0


def objective(config: Mapping[str, Any], line: Mapping[str, Any]) -> Objective:
    """What ``policy_loss`` was told in a step of a run with this config and this line of metrics."""

    def get(name: str, default: Any = None) -> Any:
        return schema.setting(config, name, default=default)

    if get("cliprange") is not None:  # PPO
        in_loss = get("kl_penalty") == "loss"
        settings = {
            "loss_type": "dapo",
            "epsilon": get("cliprange"),
            "beta": (line.get("kl_coef") or 0.0) if in_loss else 0.0,
            "kl_estimator": get("kl_estimator", "k3" if in_loss else "k1"),
        }
        parts = get("num_mini_batches", 1)
        return Objective(settings, False, parts, parts > 1, get("entropy_coef", 0.0))
    if get("loss_type") is None:
        return Objective({})
    names = ("importance_sampling_level", "epsilon_high", "delta", "max_completion_length")
    settings = {
        "loss_type": get("loss_type"),
        "epsilon": get("epsilon", 0.2),
        "beta": get("beta", 0.0),
        "kl_estimator": get("kl_estimator", "k3"),
        "use_bias_correction_kl": get("use_bias_correction_kl", False),
        **{name: get(name) for name in names},
    }
    masks, parts = get("mask_truncated_completions", False), get("steps_per_generation", 1)
    return Objective(settings, masks, parts, entropy_coef=get("entropy_coef", 0.0))
