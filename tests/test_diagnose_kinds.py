"""What is said of PPO, of a reward model and of a warm start: metrics that call for it, and some that do not."""

from __future__ import annotations

import math
from typing import Any

import pytest

from rlkit.runs import diagnose
from rlkit.runs.diagnose import PPO_RULES, REWARD_MODEL_RULES, RULES, SFT_RULES
from rlkit.runs.evidence import Evidence

PPO: dict[str, Any] = {
    "algorithm": "PPO",
    "rewards": {"reward_model": 1.0},
    "ppo": {"kl_coef": 0.05, "cliprange_value": 0.2, "max_grad_norm": 1.0, "num_generations": 1},
}
PAIRS: dict[str, Any] = {"algorithm": "reward model", "reward_model": {"calibration_bins": 5}}
SFT: dict[str, Any] = {"algorithm": "SFT", "sft": {"learning_rate": 1e-3}}


def ppo(count: int = 25, **series: Any) -> list[dict[str, Any]]:
    """``count`` healthy step lines of PPO; a series may be a value or a function of i = 0, 1, …"""
    lines = []
    for i in range(count):
        line: dict[str, Any] = {
            "step": i + 1,
            "loss": 0.1,
            "grad_norm": 0.4,
            "learning_rate": 1e-4,
            "reward": 0.1 + 0.02 * i,
            "reward_std": 0.5,
            "rewards/reward_model": 0.1 + 0.02 * i,
            "unscored/reward_model": 0.0,
            "dead_groups": None,
            "accuracy": 0.4 + 0.01 * i,
            "completion_length": 20.0,
            "completion_length_max": 30,
            "truncated": 0.0,
            "entropy": 0.5,
            "kl": 0.02,
            "kl_coef": 0.05,
            "kl_completion": 0.4,
            "approx_kl": 0.01,
            "clip_low": 0.02,
            "clip_high": 0.02,
            "value_clip": 0.05,
            "explained_variance": 0.5,
            "ratio_mean": 1.0,
            "engine_gap": 1e-6,
            "skipped": False,
        }
        line.update({key: value(i) if callable(value) else value for key, value in series.items()})
        lines.append(line)
    return lines


def rows(count: int = 20, **series: Any) -> list[dict[str, Any]]:
    """``count`` healthy step lines of a reward model."""
    base = {"loss": 0.5, "accuracy": 0.75, "grad_norm": 1.0, "learning_rate": 1e-4, "skipped": False}
    said = ({k: v(i) if callable(v) else v for k, v in series.items()} for i in range(count))
    return [{"step": i + 1, **base, **own} for i, own in enumerate(said)]


def line(step: int = 20, **numbers: Any) -> dict[str, Any]:
    """An evaluation line of a reward model: right in 75 % of 400 pairs, unbiased and calibrated."""
    healthy = {
        "n": 400,
        "loss": 0.5,
        "accuracy": 0.75,
        "calibration_error": 0.01,
        "calibration": bins((400, 0.75, 0.75)),
        "longer_chosen": 0.5,
        "longer_preferred": 0.52,
        "accuracy_longer": 0.76,
        "accuracy_shorter": 0.74,
    }
    return {"event": "eval", "step": step, **healthy, **numbers}


def bins(*found: tuple[int, float, float]) -> list[dict[str, Any]]:
    return [{"low": p, "high": p, "pairs": n, "confidence": p, "accuracy": t} for n, p, t in found]


def losses(*values: float) -> list[dict[str, Any]]:
    return [{"event": "eval", "step": 5 * i, "n": 40, "loss": v} for i, v in enumerate(values)]


def no_kl(**weights: float) -> dict[str, Any]:
    return {**PPO, "rewards": weights or PPO["rewards"], "ppo": {**PPO["ppo"], "kl_coef": 0.0}}


falling = rows(20, loss=lambda i: 1.0 - 0.04 * i)
SURE = bins((200, 0.9, 0.6), (200, 0.6, 0.55))  # says 75 %, 57.5 % come true

FIRES: list[tuple[str, str, str, list[dict[str, Any]], dict[str, Any]]] = [
    ("value_explains_nothing", "warning", "explained variance -0.3", ppo(explained_variance=-0.3), PPO),
    (
        "value_explains_nothing",
        "warning",
        "cliprange_value",
        ppo(explained_variance=0.0, value_clip=0.5),
        PPO,
    ),
    ("value_clipped", "warning", "60 % of the values", ppo(value_clip=0.6), PPO),
    ("value_clipped", "warning", "cliprange_value 0.2", ppo(value_clip=0.6), PPO),
    ("large_updates", "warning", "0.3 nats a token", ppo(approx_kl=0.3), PPO),
    ("large_updates", "problem", "40 % of the tokens", ppo(approx_kl=2.0, clip_low=0.3, clip_high=0.1), PPO),
    (
        "far_from_reference",
        "info",
        "is 25 nats a completion",
        ppo(kl_completion=25.0),
        PPO,
    ),  # with a verifier
    ("far_from_reference", "warning", "further than it was", ppo(kl_completion=25.0, accuracy=None), PPO),
    ("unmeasured_distance", "info", "kl_coef is 0", ppo(accuracy=None, kl=None, kl_coef=None), no_kl()),
    (
        "over_optimised",
        "problem",
        "'taste' fell from 0.6 to 0.1",
        ppo(40, **{"rewards/taste": lambda i: 0.6 if i < 20 else 0.1}),
        no_kl(reward_model=1.0, taste=0.0),
    ),
    ("kl_growth", "warning", "raise kl_coef", ppo(kl=lambda i: 0.1 if i < 15 else 0.5), PPO),
    ("entropy_collapse", "warning", "num_ppo_epochs", ppo(entropy=lambda i: 1.0 if i < 9 else 0.01), PPO),
    (
        "reward_flat",
        "warning",
        "value model",
        ppo(310, accuracy=0.4, reward=lambda i: 0.2 + 0.05 * (-1) ** i),
        PPO,
    ),
    ("held_out_pairs", "info", "75 % of 400 held-out pairs (±4 %)", [*rows(), line()], PAIRS),
    ("held_out_pairs", "info", "before training in 50 %", [*rows(), line(0, accuracy=0.5), line()], PAIRS),
    ("no_better_than_a_coin", "problem", "51 % of 400", [*rows(accuracy=0.55), line(accuracy=0.51)], PAIRS),
    (
        "no_better_than_a_coin",
        "problem",
        "In training it is 55 %",
        [*rows(accuracy=0.55), line(accuracy=0.51)],
        PAIRS,
    ),
    ("no_better_than_a_coin", "problem", "±37 %", [*rows(), line(n=6, accuracy=0.7)], PAIRS),
    ("overfits", "warning", "98 % in training and 75 % on 400", [*rows(accuracy=0.98), line()], PAIRS),
    (
        "length_biased",
        "warning",
        "80 % of the pairs; the rater chose it in 50 %",
        [line(longer_preferred=0.8)],
        PAIRS,
    ),
    (
        "length_biased",
        "warning",
        "it is right in 30 %",
        [line(longer_preferred=0.8, accuracy_shorter=0.3)],
        PAIRS,
    ),
    ("length_biased", "warning", "brevity pays", [line(longer_preferred=0.2)], PAIRS),
    (
        "badly_calibrated",
        "warning",
        "surer than it should be (75 % said, 57 % true)",
        [line(calibration_error=0.175, calibration=SURE)],
        PAIRS,
    ),
    (
        "badly_calibrated",
        "warning",
        "less sure than it should be",
        [line(calibration_error=0.3, calibration=bins((400, 0.6, 0.9)))],
        PAIRS,
    ),
    ("memorises", "warning", "0.6 at step 5, 0.9 at step 15", [*falling, *losses(1.0, 0.6, 0.7, 0.9)], SFT),
    ("memorises", "warning", "0.6 at step 5", [*falling, *losses(1.0, 0.6, 0.7, 0.9)], PAIRS),
    ("held_out_loss", "info", "from 3 to 2.1 on 40 rows.", [*falling, *losses(3.0, 2.1)], SFT),
    ("held_out_loss", "warning", "nothing that carries over", [*falling, *losses(2.0, 2.1)], SFT),
    ("not_finite", "warning", "1 of 20 steps", rows(skipped=lambda i: i == 18), PAIRS),
    ("tiny_updates", "warning", "vanish", rows(learning_rate=1e-6), {**SFT, "dtype": "bfloat16"}),
]

QUIET: list[tuple[str, list[dict[str, Any]], dict[str, Any]]] = [
    ("value_explains_nothing", ppo(15, explained_variance=-0.3), PPO),  # a new head begins at 0
    (
        "value_explains_nothing",
        ppo(explained_variance=lambda i: -5.0 if i == 22 else 0.2),
        PPO,
    ),  # one bad step
    ("value_explains_nothing", ppo(explained_variance=math.nan), PPO),  # nothing to explain
    ("value_clipped", ppo(value_clip=0.3), PPO),
    ("value_clipped", ppo(4, value_clip=0.9), PPO),
    ("value_clipped", ppo(value_clip=lambda i: 0.9 if i < 12 else 0.0), PPO),  # long ago
    ("large_updates", ppo(approx_kl=0.05), PPO),
    ("large_updates", ppo(approx_kl=lambda i: 9.0 if i == 20 else 0.02), PPO),
    ("far_from_reference", ppo(kl_completion=8.0), PPO),
    ("far_from_reference", ppo(kl_completion=None), no_kl()),
    ("unmeasured_distance", ppo(accuracy=None), PPO),
    ("unmeasured_distance", ppo(), no_kl()),  # a verifier says whether it is exploited
    (
        "unmeasured_distance",
        ppo(accuracy=None),
        no_kl(reward_model=1.0, taste=0.0),
    ),  # so does a second reward
    ("over_optimised", ppo(40, **{"rewards/taste": 0.5}), no_kl(reward_model=1.0, taste=0.0)),
    (  # most of what was won is still there
        "over_optimised",
        ppo(40, **{"rewards/taste": lambda i: 0.1 if i < 10 else 1.2 if i < 25 else 1.1}),
        no_kl(reward_model=1.0, taste=0.0),
    ),
    ("dead_groups", ppo(dead_groups=None, accuracy=None), PPO),
    ("loss_not_zero", ppo(), PPO),
    ("no_gradient", ppo(), PPO),
    ("held_out_pairs", [*rows(), line(n=6, accuracy=0.7)], PAIRS),
    ("no_better_than_a_coin", [*rows(), line()], PAIRS),
    ("no_better_than_a_coin", rows(), PAIRS),  # nothing is held out
    (
        "no_better_than_a_coin",
        [line(step=0, accuracy=0.47), *rows()],
        PAIRS,
    ),  # before training; nothing later yet
    ("length_biased", [line(step=0, longer_preferred=0.9), *rows()], PAIRS),
    ("badly_calibrated", [line(step=0, calibration=SURE, calibration_error=0.2), *rows()], PAIRS),
    ("overfits", [*rows(accuracy=0.8), line()], PAIRS),
    ("overfits", [*rows(accuracy=0.98), line(n=12)], PAIRS),  # so few pairs say little
    ("length_biased", [line(longer_chosen=0.8, longer_preferred=0.85)], PAIRS),
    ("length_biased", [line(n=12, longer_preferred=0.7)], PAIRS),
    ("length_biased", [line(longer_chosen=None, longer_preferred=None)], PAIRS),
    ("badly_calibrated", [line(calibration_error=0.04)], PAIRS),
    ("badly_calibrated", [line(n=20, calibration_error=0.14, calibration=bins((20, 0.75, 0.61)))], PAIRS),
    ("badly_calibrated", [line(calibration_error=0.175, calibration=None)], PAIRS),
    ("memorises", [*falling, *losses(1.0, 0.6, 0.55, 0.5)], SFT),
    ("memorises", [*falling, *losses(1.0, 0.6, 0.62)], SFT),  # within the noise
    ("memorises", [*rows(20, loss=lambda i: 0.2 + 0.04 * i), *losses(1.0, 0.6, 0.9)], SFT),  # it diverges
    ("held_out_loss", [*falling, *losses(3.0)], SFT),
]


@pytest.mark.parametrize(
    ("code", "severity", "text", "metrics", "config"), FIRES, ids=lambda v: v if isinstance(v, str) else ""
)
def test_fires(code, severity, text, metrics, config):
    found = {d.code: d for d in diagnose(metrics, config)}
    assert code in found, found
    assert found[code].severity == severity
    assert text in str(found[code])
    assert "\n" not in str(found[code]) and "  " not in str(found[code])


@pytest.mark.parametrize(("code", "metrics", "config"), QUIET, ids=lambda v: v if isinstance(v, str) else "")
def test_stays_quiet(code, metrics, config):
    assert code not in {d.code for d in diagnose(metrics, config)}


def test_every_rule_has_been_heard():
    own = {*PPO_RULES, *SFT_RULES, *REWARD_MODEL_RULES} - {*RULES}
    silent = {rule.__name__ for rule in own if not any(_alone(rule, case) for case in FIRES)}
    assert silent == set()


def _alone(rule, case):
    kinds = [[m for m in case[3] if m.get("event", "step") == kind] for kind in ("step", "eval")]
    return rule(Evidence(*kinds, case[4]))


def test_healthy_runs_are_left_alone():
    assert diagnose(ppo(60), PPO) == []
    assert {d.severity for d in diagnose([*rows(), line(0, accuracy=0.5), line()], PAIRS)} == {"info"}
    assert {d.severity for d in diagnose([*falling, *losses(3.0, 2.0)], SFT)} == {"info"}
    for config in (PPO, PAIRS, SFT):
        assert diagnose([], config) == []
