"""A run in a few numbers, for whoever prints it: which algorithm it is, what came out, which columns its steps have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlkit.runs.evidence import finite, number

REWARD_MODEL = "reward model"
ON_ROWS = ("SFT", REWARD_MODEL)  # algorithms that learn from a fixed data set: nothing is sampled

# What a run is judged by, the first that was measured: name in summary.json, in words, and those of its
# evaluation lines.
_JUDGED = (
    ("accuracy", "accuracy", ("accuracy_greedy", "accuracy")),
    ("reward", "reward", ("reward_greedy",)),
    ("loss", "loss", ("loss",)),
)
_COLUMNS = {
    "PPO": (
        "reward",
        "accuracy",
        "kl",
        "value_loss",
        "explained_variance",
        "approx_kl",
        "grad_norm",
        "entropy",
    ),
    REWARD_MODEL: ("loss", "accuracy", "margin_mean", "reward_mean", "grad_norm"),
    "SFT": ("loss", "perplexity", "entropy", "grad_norm"),
}
_OF_GRPO = ("reward", "accuracy", "loss", "grad_norm", "entropy", "dead_groups")


def algorithm(config: Mapping[str, Any]) -> str:
    """ "GRPO", "PPO", "SFT" or "reward model", as the run's config says; "" where it does not."""
    return str(config.get("algorithm") or "")


def step_columns(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the step numbers that tell most of a run of this kind, the step's own first, its seconds last."""
    return ("step", *_COLUMNS.get(algorithm(config), _OF_GRPO), "seconds/step")


def held_out(summary: Mapping[str, Any] | None) -> str:
    """What the held-out data said before and after, e.g. "accuracy 0.52 → 0.93"; "" where nothing was measured.

    The first of accuracy, reward and loss that a summary has on both sides.
    """
    for name, words, _ in _JUDGED:
        before, after = ((summary or {}).get(f"{name}_{when}") for when in ("before", "after"))
        if isinstance(before, (int, float)) and isinstance(after, (int, float)):
            return f"{words} {short(before)} → {short(after)}"
    return ""


def run_facts(config: Mapping[str, Any], metrics: Any, evals: Any) -> dict[str, str]:
    """First and last value of what matters, by its name: of the step lines, then of the evaluation lines."""
    found: dict[str, str] = {}
    training = "reward" if algorithm(config) not in ON_ROWS else "loss"
    sides: list[tuple[str, Any, tuple[str, ...]]] = [(training, metrics, (training,))]
    sides += [(f"held-out {words}", evals, names) for _, words, names in _JUDGED]
    for label, rows, names in sides:
        values = [value for row in rows for name in names if (value := finite(row.get(name))) is not None]
        if not values or (label.startswith("held-out") and any(key.startswith("held-out") for key in found)):
            continue
        found[label] = f"{short(values[0])} → {short(values[-1])}" if len(values) > 1 else short(values[0])
    return found


def short(value: float) -> str:
    """Two decimals; three significant digits where these would say nothing."""
    return f"{value:.2f}" if not finite(value) or 0.095 <= abs(value) < 1000 else number(value)
