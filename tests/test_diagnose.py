"""Every diagnosis: metrics that call for it, and metrics beside them that do not."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlkit.runs import Diagnosis, diagnose
from rlkit.runs.diagnose import RULES
from rlkit.runs.evidence import duration, number, percent, shown
from rlkit.runs.rules_rewards import PATIENCE

CONFIG: dict[str, Any] = {
    "dtype": "torch.float32",
    "trainer": {
        "loss_type": "dapo",
        "beta": 0.0,
        "num_iterations": 1,
        "num_generations": 8,
        "prompts_per_step": 16,
        "max_completion_length": 64,
        "max_grad_norm": 1.0,
    },
}


def steps(count: int, **series: Any) -> list[dict[str, Any]]:
    """``count`` healthy step lines of a run that learns; a series may be a value or a function of i = 0, 1, …"""
    lines = []
    for i in range(count):
        line: dict[str, Any] = {
            "step": i + 1,
            "loss": 1e-8,
            "grad_norm": 0.4,
            "learning_rate": 1e-4,
            "reward": 0.1 + 0.02 * i,
            "rewards/correct": 0.1 + 0.02 * i,
            "unscored/correct": 0.0,
            "dead_groups": 0.2,
            "accuracy": min(0.3 + 0.01 * i, 0.85),
            "completion_length": 30.0,
            "completion_length_max": 50,
            "truncated": 0.0,
            "entropy": 0.5,
            "kl": 0.01,
            "engine_gap": 1e-6,
            "engine_gap_max": 1e-5,
            "ratio_mean": 1.0,
            "skipped": False,
        }
        line.update({k.replace("__", "/"): v(i) if callable(v) else v for k, v in series.items()})
        lines.append(line)
    return lines


def evals(*accuracies: float, n: int = 200) -> list[dict[str, Any]]:
    return [{"event": "eval", "step": i, "accuracy_greedy": a, "n": n} for i, a in enumerate(accuracies)]


def config(**settings: Any) -> dict[str, Any]:
    top = {k: settings.pop(k) for k in list(settings) if k == "dtype"}
    return {**CONFIG, **top, "trainer": {**CONFIG["trainer"], **settings}}


def noisy(level: float, rise: float = 0.0, jitter: float = 0.05):
    """A value that rises a little each step, with a fixed zigzag in place of noise."""
    return lambda i: level + rise * i + jitter * (-1) ** i


BF16 = "torch.bfloat16"

# code, severity, a piece of the text, the metrics, the config
FIRES: list[tuple[str, str, str, list[dict[str, Any]], dict[str, Any]]] = [
    ("truncated", "problem", "97 % truncated", steps(1, truncated=0.97), CONFIG),
    ("truncated", "problem", "from 64 to ~256", steps(12, truncated=0.97), CONFIG),
    ("truncated", "problem", "from 64 to ~128", steps(12, truncated=0.6), CONFIG),
    ("truncated", "warning", "30 % truncated", steps(12, truncated=0.3), CONFIG),
    ("truncated", "problem", "from 50 to ~200", steps(12, truncated=1.0), {}),
    ("truncated", "problem", "masked", steps(5, truncated=0.9), config(mask_truncated_completions=True)),
    ("never_right", "problem", "1,280 completions", steps(12, accuracy=0.0), CONFIG),
    ("never_right", "problem", "RL will never work", steps(3, accuracy=0.0), {}),
    (
        "same_reward",
        "problem",
        "the same reward, -1,",
        steps(5, accuracy=None, reward=-1.0, dead_groups=1.0),
        CONFIG,
    ),
    ("dead_groups_right", "info", "80 % of groups", steps(12, dead_groups=0.8, accuracy=0.88), CONFIG),
    (
        "dead_groups_wrong",
        "warning",
        "Nearly all of them are all-wrong",
        steps(12, dead_groups=0.7, accuracy=0.1),
        CONFIG,
    ),
    ("dead_groups_wrong", "problem", "95 % of groups", steps(12, dead_groups=0.95, accuracy=0.01), CONFIG),
    (
        "dead_groups_mixed",
        "warning",
        "30 % of all groups are all-right",
        steps(12, dead_groups=0.6, accuracy=0.5),
        CONFIG,
    ),
    ("dead_groups", "warning", "62 % of groups", steps(12, dead_groups=0.62, accuracy=None), CONFIG),
    ("no_gradient", "problem", "although 80 % of groups", steps(5, grad_norm=0.0), CONFIG),
    ("not_finite", "warning", "1 of 12 steps", steps(12, skipped=lambda i: i == 8), CONFIG),
    (
        "not_finite",
        "problem",
        "3 of the last 10",
        steps(12, grad_norm=lambda i: math.nan if i > 8 else 0.4),
        CONFIG,
    ),
    (
        "not_finite",
        "info",
        "0 of the last 10; most recently step 2",
        steps(30, skipped=lambda i: i == 1),
        CONFIG,
    ),
    ("loss_zero", "info", "loss_type grpo, β = 0, on-policy", steps(2), config(loss_type="grpo")),
    ("loss_zero", "info", "grad-norm is 0.4", steps(2), config(loss_type="gspo")),
    ("loss_not_zero", "info", "Loss -0.02 is not 0", steps(2, loss=-0.02), config(loss_type="dapo")),
    ("loss_not_zero", "info", "loss_type dr_grpo", steps(2, loss=0.02), config(loss_type="dr_grpo")),
    (
        "entropy_collapse",
        "warning",
        "from 1 to 0.01",
        steps(15, entropy=lambda i: 1.0 if i < 5 else 0.01),
        CONFIG,
    ),
    ("kl_growth", "warning", "from 0.1 to 0.5", steps(25, kl=lambda i: 0.1 if i < 15 else 0.5), CONFIG),
    ("kl_growth", "problem", "to 5 nats", steps(25, kl=lambda i: 0.1 if i < 15 else 5.0), CONFIG),
    ("engine_gap", "problem", "0.2 nats", steps(3, engine_gap=0.2), CONFIG),
    ("engine_gap", "problem", "usual in 16 bits", steps(3, engine_gap=0.4), config(dtype=BF16)),
    ("engine_gap_16bit", "info", "expected in 16-bit", steps(3, engine_gap=0.04), config(dtype=BF16)),
    ("tiny_updates", "warning", "vanish", steps(3, learning_rate=1e-6), config(dtype=BF16)),
    (
        "reward_constant",
        "info",
        "'format' was always 1 in the last 10 steps",
        steps(12, rewards__format=1.0),
        CONFIG,
    ),
    ("reward_constant", "warning", "'correct' was always", steps(12, rewards__correct=-1.0), CONFIG),
    ("reward_unscored", "warning", "'style' scored nothing", steps(3, unscored__style=1.0), CONFIG),
    ("reward_unscored", "problem", "'correct' scored nothing", steps(3, unscored__correct=1.0), CONFIG),
    (
        "reward_hacking",
        "problem",
        "from 0.70 to 0.30",
        steps(40, accuracy=lambda i: 0.7 if i < 20 else 0.3, reward=noisy(0.1, 0.02)),
        CONFIG,
    ),
    (
        "over_optimised",
        "problem",
        "'taste' fell from 0.6 to 0.1 (weight 0",
        steps(40, rewards__taste=lambda i: 0.6 if i < 20 else 0.1),
        {**CONFIG, "rewards": {"correct": 1.0, "taste": 0.0}},
    ),
    ("gradient_clipped", "info", "10 times in the last 10 steps", steps(12, grad_norm=3.0), CONFIG),
    ("gradient_clipped", "warning", "typical norm 30", steps(12, grad_norm=30.0), CONFIG),
    (
        "length_drift",
        "info",
        "grew from 39 to 124 tokens",
        steps(30, completion_length=lambda i: 30 + 2 * i if i < 10 else 120 + (i - 20)),
        CONFIG,
    ),
    (
        "length_drift",
        "warning",
        "shrank from 100 to 20",
        steps(30, completion_length=lambda i: 100 if i < 15 else 20, reward=0.1),
        CONFIG,
    ),
    ("reward_fell", "problem", "The reward fell", steps(40, reward=noisy(3.0, -0.05)), CONFIG),
    ("patience", "info", f"about {PATIENCE} steps", steps(40, reward=noisy(0.2)), CONFIG),
    ("reward_flat", "warning", "in 310 steps", steps(310, reward=noisy(0.2)), CONFIG),
    ("held_out_rose", "info", "0.52 to 0.93 on 200 problems", evals(0.52, 0.8, 0.93), CONFIG),
    ("held_out_fell", "problem", "0.52 to 0.30", evals(0.52, 0.3), CONFIG),
    ("held_out_same", "info", "no more than chance", evals(0.52, 0.55), CONFIG),
]

# code, metrics, config: close to a case above, and yet no reason to say anything
QUIET: list[tuple[str, list[dict[str, Any]], dict[str, Any]]] = [
    ("truncated", steps(12, truncated=0.2), CONFIG),
    ("truncated", steps(30, truncated=lambda i: 0.9 if i < 15 else 0.0), CONFIG),  # long ago
    ("never_right", steps(2, accuracy=0.0), CONFIG),
    ("never_right", steps(12, accuracy=lambda i: 0.01 * (i == 8)), CONFIG),
    (
        "never_right",
        [*steps(12, accuracy=0.0), {"event": "eval", "step": 12, "accuracy_sampled": 0.02}],
        CONFIG,
    ),
    ("never_right", steps(12, accuracy=None), CONFIG),
    ("same_reward", steps(12, accuracy=None, reward=1.0, dead_groups=0.9), CONFIG),
    ("same_reward", steps(12, accuracy=0.5, reward=1.0, dead_groups=1.0), CONFIG),
    ("dead_groups", steps(12, dead_groups=0.5, accuracy=None), CONFIG),
    ("dead_groups", steps(2, dead_groups=1.0, accuracy=None), CONFIG),
    ("dead_groups_wrong", steps(12, dead_groups=1.0, accuracy=0.0), CONFIG),  # never_right says it
    ("dead_groups_wrong", steps(12, dead_groups=0.8, accuracy=0.9), CONFIG),
    ("dead_groups_right", steps(12, dead_groups=0.8, accuracy=0.1), CONFIG),
    ("dead_groups_mixed", steps(12, dead_groups=0.4, accuracy=0.5), CONFIG),
    ("no_gradient", steps(5, grad_norm=0.0, dead_groups=1.0), CONFIG),
    ("no_gradient", steps(5, grad_norm=lambda i: 0.4 * (i == 2)), CONFIG),
    ("not_finite", steps(12), CONFIG),
    ("loss_zero", steps(2), config(loss_type="grpo", beta=0.04)),
    ("loss_zero", steps(2, loss=0.3), config(loss_type="grpo")),
    ("loss_zero", steps(2, ratio_mean=1.05), config(loss_type="grpo")),
    ("loss_zero", steps(2), config(loss_type="grpo", num_iterations=2)),
    ("loss_zero", steps(2, grad_norm=0.0), config(loss_type="grpo")),
    ("loss_not_zero", steps(2, loss=0.02), config(loss_type="dapo", beta=0.04)),
    ("loss_not_zero", steps(2, loss=0.02), config(loss_type="dapo", entropy_coef=0.01)),
    ("loss_not_zero", steps(2), CONFIG),
    ("entropy_collapse", steps(15, entropy=lambda i: 1.0 if i < 5 else 0.01, accuracy=0.95), CONFIG),
    ("entropy_collapse", steps(15, entropy=lambda i: 1.0 if i < 5 else 0.2), CONFIG),
    ("kl_growth", steps(25, kl=lambda i: 0.01 if i < 15 else 0.1), CONFIG),
    ("kl_growth", steps(25, kl=0.5), CONFIG),
    ("kl_growth", steps(25, kl=None), CONFIG),
    ("engine_gap", steps(3, engine_gap=0.04), CONFIG),
    ("engine_gap", steps(3, engine_gap=0.09), config(dtype=BF16)),
    ("engine_gap_16bit", steps(3, engine_gap=0.04), CONFIG),
    ("engine_gap_16bit", steps(3, engine_gap=0.001), config(dtype=BF16)),
    ("tiny_updates", steps(3, learning_rate=1e-6), CONFIG),
    ("tiny_updates", steps(3, learning_rate=1e-4), config(dtype=BF16)),
    ("tiny_updates", steps(3, learning_rate=1e-6), config(dtype=BF16, master_weights=True)),
    ("tiny_updates", steps(3, learning_rate=1e-6), config(dtype=BF16, lora_rank=16)),
    ("reward_constant", steps(12, rewards__format=lambda i: 0.5 + 0.01 * i), CONFIG),
    ("reward_constant", steps(4, rewards__format=1.0), CONFIG),
    ("reward_unscored", steps(12, unscored__style=0.99), CONFIG),
    ("reward_hacking", steps(40), CONFIG),
    (
        "reward_hacking",
        steps(40, accuracy=lambda i: 0.7 if i < 20 else 0.3, reward=noisy(2.0, -0.02)),
        CONFIG,
    ),
    ("reward_hacking", steps(40, accuracy=None), CONFIG),
    (
        "over_optimised",  # it is trained on
        steps(40, rewards__taste=lambda i: 0.6 if i < 20 else 0.1),
        {**CONFIG, "rewards": {"correct": 1.0, "taste": 0.5}},
    ),
    (
        "over_optimised",  # it rises as well
        steps(40, rewards__taste=noisy(0.1, 0.01)),
        {**CONFIG, "rewards": {"correct": 1.0, "taste": 0.0}},
    ),
    (
        "over_optimised",  # what is trained on does not rise: no exploit, but a fall
        steps(40, reward=noisy(0.3), rewards__taste=lambda i: 0.6 if i < 20 else 0.1),
        {**CONFIG, "rewards": {"correct": 1.0, "taste": 0.0}},
    ),
    (
        "over_optimised",  # no more than its noise
        steps(40, rewards__taste=noisy(0.5, 0.0, 0.3)),
        {**CONFIG, "rewards": {"correct": 1.0, "taste": 0.0}},
    ),
    ("gradient_clipped", steps(12, grad_norm=lambda i: 3.0 if i % 2 else 0.5), CONFIG),
    ("gradient_clipped", steps(12, grad_norm=3.0), config(max_grad_norm=0.0)),
    ("length_drift", steps(30, completion_length=lambda i: 30 + i), CONFIG),
    ("length_drift", steps(15, completion_length=lambda i: 30 if i < 5 else 300), CONFIG),
    ("reward_fell", steps(40, reward=noisy(3.0, -0.001)), CONFIG),
    ("patience", steps(40), CONFIG),
    ("patience", steps(40, reward=noisy(0.2), accuracy=0.95), CONFIG),
    ("patience", steps(15, reward=noisy(0.2)), CONFIG),
    ("patience", steps(310, reward=noisy(0.2)), CONFIG),
    ("reward_flat", steps(290, reward=noisy(0.2)), CONFIG),
    ("reward_flat", steps(310), CONFIG),
    ("held_out_rose", evals(0.52, 0.55), CONFIG),
    ("held_out_rose", evals(0.93), CONFIG),
    ("held_out_fell", evals(0.52, 0.48), CONFIG),
    ("held_out_same", evals(0.52, 0.93), CONFIG),
]


@pytest.mark.parametrize(
    ("code", "severity", "text", "metrics", "settings"), FIRES, ids=lambda v: v if isinstance(v, str) else ""
)
def test_fires(code, severity, text, metrics, settings):
    found = {d.code: d for d in diagnose(metrics, settings)}
    assert code in found
    assert found[code].severity == severity
    assert text in str(found[code])
    assert "\n" not in str(found[code]) and "  " not in str(found[code])


@pytest.mark.parametrize(
    ("code", "metrics", "settings"), QUIET, ids=lambda v: v if isinstance(v, str) else ""
)
def test_stays_quiet(code, metrics, settings):
    assert code not in {d.code for d in diagnose(metrics, settings)}


def test_every_code_has_both_kinds_of_test():
    assert {case[0] for case in FIRES} == {case[0] for case in QUIET}
    fired = {
        rule.__name__ for rule in RULES for case in FIRES if (d := _alone(rule, case)) and d.code == case[0]
    }
    assert fired == {rule.__name__ for rule in RULES}


def _alone(rule, case) -> Diagnosis | None:
    from rlkit.runs.evidence import Evidence

    lines = case[3]
    kinds = [[m for m in lines if m.get("event", "step") == kind] for kind in ("step", "eval")]
    return rule(Evidence(*kinds, case[4]))


def test_a_healthy_run_has_nothing_to_say():
    assert diagnose(steps(60), CONFIG) == []
    assert diagnose([], {}) == []


def test_worst_first_and_frozen():
    found = diagnose([*evals(0.5, 0.9), *steps(12, truncated=0.9, dead_groups=0.7, accuracy=0.1)], CONFIG)
    severities = [d.severity for d in found]
    assert (
        severities == sorted(severities, key=["problem", "warning", "info"].index)
        and len(set(severities)) == 3
    )
    with pytest.raises(dataclasses.FrozenInstanceError):
        found[0].code = "x"  # type: ignore[misc]


def test_settings_are_found_wherever_they_stand():
    lines = steps(3)
    for where in (
        {"loss_type": "grpo", "beta": 0.0},
        {"trainer": {"loss_type": "grpo"}},
        {"grpo": {"loss_type": "grpo"}},
    ):
        assert [d.code for d in diagnose(lines, where)] == ["loss_zero"]


ODD = {**dict.fromkeys(CONFIG["trainer"], "odd"), "dtype": 3, "loss_type": ["grpo"]}
names = st.sampled_from([*steps(1)[0], "rewards/x", "unscored/x", "event", "accuracy_greedy", "n"])
values = st.none() | st.booleans() | st.floats() | st.integers(-5, 5) | st.sampled_from(["", "step", "eval"])


@given(
    st.lists(st.dictionaries(names, values), max_size=30), st.sampled_from([{}, CONFIG, config(dtype=BF16)])
)
def test_never_raises(metrics, settings):
    for diagnosis in diagnose(metrics, settings):
        assert str(diagnosis)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1.0, "1"),
        (-0.0, "0"),
        (0.12345, "0.123"),
        (1e-6, "1e-6"),
        (2.34e-5, "2.3e-5"),
        (12345.6, "12,346"),
        (3e7, "3e7"),
        (-2.5, "-2.5"),
        (math.nan, "NaN"),
        (-math.inf, "-∞"),
        (99.96, "100"),
    ],
)
def test_numbers_read_as_people_say_them(value, text):
    assert number(value) == text


def test_shares_durations_and_text():
    assert [percent(x) for x in (0, 0.001, 0.97, 0.999, 1)] == [
        "0 %",
        "under 1 %",
        "97 %",
        "over 99 %",
        "100 %",
    ]
    assert [duration(x) for x in (0.26, 24.3, 125, 3725 * 2, math.nan)] == [
        "0.3 s",
        "24 s",
        "2 min 5 s",
        "2 h 4 min",
        "an unknown time",
    ]
    assert shown("a\x1b[31m\u202eb\n") == "a⟨U+001B⟩[31m⟨U+202E⟩b\n"
    assert shown("x" * 30, 10) == "x" * 10 + " … (20 more characters)"
    assert shown("👩\u200d🔬 α") == "👩\u200d🔬 α"
