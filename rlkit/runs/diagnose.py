"""Say in words what a run's numbers mean and what to change.

Each rule is one small function from the evidence to a ``Diagnosis`` or None. A rule looks at a window of
the last ``WINDOW`` steps; where it asks whether something rose or fell, it compares that window with the
first one of the same length. The thresholds stand in the rules, with their reasons.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rlkit.runs import rules_ppo, rules_rewards, rules_rows, rules_updates
from rlkit.runs.evidence import Diagnosis, Evidence
from rlkit.runs.facts import REWARD_MODEL, algorithm

__all__ = ["Diagnosis", "Evidence", "diagnose"]

Rule = Callable[[Evidence], Diagnosis | None]
_RANK = {"problem": 0, "warning": 1, "info": 2}

RULES: tuple[Rule, ...] = (
    rules_updates.not_finite,
    rules_rewards.never_right,
    rules_rewards.same_reward,
    rules_rewards.truncated,
    rules_rewards.dead_groups,
    rules_updates.no_gradient,
    rules_updates.engine_gap,
    rules_rewards.reward_hacking,
    rules_rewards.over_optimised,
    rules_rewards.reward_unscored,
    rules_updates.entropy_collapse,
    rules_updates.kl_growth,
    rules_updates.tiny_updates,
    rules_rewards.held_out,
    rules_rewards.reward_trend,
    rules_rewards.length_drift,
    rules_rewards.reward_constant,
    rules_updates.gradient_clipped,
    rules_updates.loss_zero,
    rules_updates.loss_not_zero,
)

PPO_RULES: tuple[Rule, ...] = (  # GRPO's say nothing of groups and losses where there are none
    *RULES,
    rules_ppo.large_updates,
    rules_ppo.value_explains_nothing,
    rules_ppo.value_clipped,
    rules_ppo.far_from_reference,
    rules_ppo.unmeasured_distance,
)

SFT_RULES: tuple[Rule, ...] = (  # a warm start has no rewards, and its entropy is meant to fall
    rules_updates.not_finite,
    rules_updates.tiny_updates,
    rules_rows.memorises,
    rules_rows.held_out_loss,
)

REWARD_MODEL_RULES: tuple[Rule, ...] = (
    rules_updates.not_finite,
    rules_updates.tiny_updates,
    rules_rows.held_out_pairs,
    rules_rows.overfits,
    rules_rows.memorises,
    rules_rows.length_biased,
    rules_rows.badly_calibrated,
)

_OF: dict[str, tuple[Rule, ...]] = {"PPO": PPO_RULES, "SFT": SFT_RULES, REWARD_MODEL: REWARD_MODEL_RULES}


def diagnose(metrics: Sequence[Mapping[str, Any]], config: Mapping[str, Any]) -> list[Diagnosis]:
    """Every finding about a run, worst first.

    ``metrics``: lines of ``metrics.jsonl`` in order; step lines, and evaluation lines where there are some
    (a line without ``event`` is a step). ``config``: the run's config; settings may stand in sections.
    """
    steps = [row for row in metrics if row.get("event", "step") == "step"]
    evals = [row for row in metrics if row.get("event") == "eval"]
    evidence = Evidence(steps, evals, config)
    rules = _OF.get(algorithm(config), RULES)
    found = [finding for rule in rules if (finding := rule(evidence)) is not None]
    return sorted(found, key=lambda finding: _RANK[finding.severity])
