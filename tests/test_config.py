"""Settings: what is refused and in which words, and the arithmetic of batches and schedules."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from rlkit.config import ConfigWarning, GRPOConfig
from rlkit.errors import ConfigError

NAN, INF = float("nan"), float("inf")

# settings -> what the message must hold: the setting, the value, what is allowed, the likely cause
REFUSED: list[tuple[dict[str, Any], list[str]]] = [
    # names
    ({"learning_rte": 1e-4}, ["learning_rte", "Did you mean 'learning_rate'"]),
    ({"lr": 1e-4}, ["'lr'", "Here that is learning_rate"]),
    ({"use_vllm": True}, ["'use_vllm'", "fast_inference"]),
    ({"loss_type": "grp0"}, ["loss_type 'grp0'", "Did you mean 'grpo'", "dr_grpo", "gspo"]),
    ({"loss_type": "ppo2"}, ["loss_type 'ppo2'", "bnpo, dapo, dr_grpo, grpo, gspo"]),
    ({"importance_sampling_level": "word"}, ["importance_sampling_level 'word'", "sequence, token"]),
    (
        {"loss_type": "gspo", "importance_sampling_level": "token"},
        ["'token'", "gspo", "one ratio a completion"],
    ),
    ({"kl_estimator": "k4"}, ["kl_estimator 'k4'", "k1, k2, k3"]),
    ({"scale_rewards": "groups"}, ["scale_rewards 'groups'", "Did you mean 'group'", "batch", "none"]),
    ({"advantage_baseline": "mean"}, ["advantage_baseline 'mean'", "group", "leave_one_out"]),
    ({"lr_scheduler_type": "cosin"}, ["lr_scheduler_type 'cosin'", "Did you mean 'cosine'"]),
    ({"weight_sync": "share"}, ["weight_sync 'share'", "Did you mean 'shared'", "reload"]),
    # types
    ({"learning_rate": "1e-5"}, ["learning_rate='1e-5'", "type float", "without quotes"]),
    ({"learning_rate": "fast"}, ["learning_rate='fast'", "type float", "str"]),
    ({"learning_rate": None}, ["learning_rate=None", "type float", "NoneType"]),
    ({"num_generations": 8.0}, ["num_generations=8.0", "type int", "write 8"]),
    ({"num_generations": True}, ["num_generations=True", "type int", "bool"]),
    ({"shuffle_dataset": "yes"}, ["shuffle_dataset='yes'", "type bool", "str"]),
    ({"fast_inference": "false"}, ["fast_inference='false'", "bool", "str"]),
    ({"loss_type": 3}, ["loss_type=3", "type str", "int"]),
    ({"reward_weights": 2.0}, ["reward_weights=2.0", "list", "float"]),
    # the batch
    ({"num_generations": 1}, ["num_generations=1", "2 or more", "group of one", "advantage 0"]),
    ({"num_generations": 0}, ["num_generations=0", "2 or more"]),
    ({"prompts_per_step": 0}, ["prompts_per_step=0", "1 or more"]),
    ({"per_device_train_batch_size": -4}, ["per_device_train_batch_size=-4", "1 or more"]),
    ({"gradient_accumulation_steps": 0}, ["gradient_accumulation_steps=0", "1 or more"]),
    (
        {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 3, "num_generations": 8},
        [
            "per_device_train_batch_size × gradient_accumulation_steps=12",
            "multiple of num_generations=8",
            "whole group",
        ],
    ),
    (
        {"per_device_train_batch_size": 6, "num_generations": 4},
        ["=6 ", "multiple of num_generations=4", "prompts_per_step"],
    ),
    (
        {
            "prompts_per_step": 3,
            "num_generations": 4,
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 2,
        },
        [
            "prompts_per_step=3 × num_generations=4 is 12 rows",
            "=4 × gradient_accumulation_steps=2 is 8",
            "not both",
        ],
    ),
    (
        {"prompts_per_step": 3, "num_generations": 4, "gradient_accumulation_steps": 5},
        ["gradient_accumulation_steps=5", "a divisor of the 12 rows"],
    ),
    # numbers
    ({"learning_rate": -1e-5}, ["learning_rate=-1e-05", "above 0"]),
    ({"learning_rate": 0}, ["learning_rate=0", "above 0"]),
    ({"learning_rate": NAN}, ["learning_rate=nan", "above 0"]),
    ({"learning_rate": INF}, ["learning_rate=inf", "above 0"]),
    ({"weight_decay": -0.1}, ["weight_decay=-0.1", "0 or more"]),
    ({"adam_beta2": 1.0}, ["adam_beta2=1.0", "not including, 1"]),
    ({"max_grad_norm": NAN}, ["max_grad_norm=nan", "0 or more"]),
    ({"beta": -0.04}, ["beta=-0.04", "0 or more"]),
    ({"max_steps": 0}, ["max_steps=0", "1 or more, or −1 to count epochs"]),
    ({"max_steps": -5}, ["max_steps=-5", "1 or more, or −1"]),
    ({"num_train_epochs": 0}, ["num_train_epochs=0", "above 0 when max_steps is −1"]),
    ({"num_train_epochs": INF}, ["num_train_epochs=inf"]),
    ({"num_iterations": 0}, ["num_iterations=0", "1 or more"]),
    ({"warmup_steps": -1}, ["warmup_steps=-1", "0 or more"]),
    ({"eval_steps": 0}, ["eval_steps=0", "1 or more, or None"]),
    ({"gpu_memory_utilization": 30}, ["gpu_memory_utilization=30", "share above 0 and up to 1"]),
    ({"sync_tolerance": 0.0}, ["sync_tolerance=0.0", "above 0, or None"]),
    ({"reward_weights": [1.0, "x"]}, ["reward_weights=[1.0, 'x']", "finite numbers"]),
    ({"reward_weights": [1.0, NAN]}, ["reward_weights=[1.0, nan]", "finite numbers"]),
    ({"reward_weights": [0.0, 0.0]}, ["reward_weights=[0.0, 0.0]", "not all 0", "nothing is learned"]),
    ({"output_dir": " "}, ["output_dir=' '", "name of a folder"]),
    # the objective
    ({"epsilon": 0.0}, ["epsilon=0.0", "between 0 and 1"]),
    ({"epsilon": NAN}, ["epsilon=nan", "between 0 and 1"]),
    ({"epsilon_high": -0.2}, ["epsilon_high=-0.2", "above 0"]),
    ({"delta": 1.2}, ["delta=1.2", "above 1 + epsilon_high = 1.2", "clip range"]),
    ({"delta": 1.25, "epsilon_high": 0.28}, ["delta=1.25", "above 1 + epsilon_high = 1.28"]),
    # sampling
    ({"temperature": 0.0}, ["temperature=0.0", "above 0", "Greedy", "spread"]),
    ({"top_p": 0.9}, ["top_p=0.9", "1.0 (off)", "truncated distribution", "biased"]),
    ({"top_k": 50}, ["top_k=50", "0 (off)", "truncated distribution"]),
    ({"min_p": 0.1}, ["min_p=0.1", "None (off)", "truncated distribution"]),
    ({"max_completion_length": 0}, ["max_completion_length=0", "1 or more"]),
]


@pytest.mark.parametrize(("settings", "says"), REFUSED, ids=lambda value: str(value)[:60])
def test_refused_with_name_value_allowed_and_cause(settings: dict[str, Any], says: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        GRPOConfig(**settings)
    for part in says:
        assert part in str(caught.value)


def test_a_config_error_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="num_generations=1"):
        GRPOConfig(num_generations=1)


def test_settings_without_a_name_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"by name.*found 'runs/a' without a name.*from_dict"):
        GRPOConfig("runs/a")  # type: ignore[misc]


def test_a_misspelt_setting_is_refused_after_making_too() -> None:
    args = GRPOConfig()
    args.learning_rate = 1e-4
    with pytest.raises(ConfigError, match=r"'learning_rte'.*Did you mean 'learning_rate'"):
        args.learning_rte = 1e-5  # type: ignore[attr-defined]
    assert args.learning_rate == 1e-4


def test_a_subclass_may_have_settings_of_its_own() -> None:
    @dataclasses.dataclass(kw_only=True)
    class Mine(GRPOConfig):
        patience: int = 3

    mine = Mine(patience=5, num_generations=4)
    mine.patience = 6
    assert (mine.patience, mine.num_generations, mine.rows_per_step) == (6, 4, 32)
    with pytest.raises(ConfigError, match="'patinece'"):
        mine.patinece = 7  # type: ignore[attr-defined]


def test_config_survives_copying() -> None:
    args = GRPOConfig(num_generations=4, output_dir="runs/x")
    for twin in (copy.deepcopy(args), pickle.loads(pickle.dumps(args)), dataclasses.replace(args)):
        assert twin == args


def test_paths_and_numpy_numbers_become_plain() -> None:
    args = GRPOConfig(
        output_dir=Path("runs") / "x",
        max_steps=np.int64(3),
        learning_rate=np.float32(0.5),
        reward_weights=(np.float64(2.0), np.int32(1)),
    )
    assert json.loads(json.dumps(args.to_dict())) == args.to_dict()
    assert (args.output_dir, args.max_steps, args.learning_rate) == ("runs/x", 3, 0.5)
    assert args.reward_weights == [2.0, 1]


@pytest.mark.parametrize(
    ("settings", "warns"),
    [
        ({"loss_type": "gspo"}, True),
        ({"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 0.02}, True),
        ({"loss_type": "gspo", "epsilon": 3e-4, "epsilon_high": 4e-4}, False),
        ({"loss_type": "gspo", "epsilon": 3e-4, "epsilon_high": 0.2}, True),
        ({"loss_type": "grpo"}, False),
    ],
)
def test_a_clip_range_that_never_clips_is_warned_of(settings: dict[str, Any], warns: bool) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        GRPOConfig(**settings)
    assert [w.category for w in caught] == ([ConfigWarning] if warns else [])
    if warns:
        assert "too wide for sequence-level ratios" in str(caught[0].message)
        assert caught[0].filename == __file__  # the line that made the configuration, not one of ours


# --- settings from a file ---------------------------------------------------------------------------------


def test_yaml_1_1_reads_1e_5_as_text_and_we_as_a_number() -> None:
    import yaml

    text = "{learning_rate: 1e-5, max_steps: 1e2, beta: '0.04', reward_weights: [1e-1, 2], delta: 2e0}"
    assert yaml.safe_load(text)["learning_rate"] == "1e-5"  # why this is needed at all
    args = GRPOConfig.from_dict(yaml.safe_load(text))
    assert (args.learning_rate, args.max_steps, args.beta, args.delta) == (1e-5, 100, 0.04, 2.0)
    assert args.reward_weights == [0.1, 2]
    assert type(args.max_steps) is int


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"learning_rate": "fast"}, "learning_rate='fast'"),
        ({"learning_rate": "nan"}, "learning_rate=nan"),
        ({"max_steps": "2.5"}, "max_steps=2.5"),
        ({"max_steps": "inf"}, "max_steps=inf"),
        ({"reward_weights": ["a"]}, r"reward_weights=\['a'\]"),
        ({"loss_typ": "grpo"}, "'loss_typ'.*Did you mean 'loss_type'"),
        ({1: 2}, "setting '1'"),
        ("learning_rate", "settings='learning_rate'.*a mapping"),
        (None, "settings=None.*a mapping"),
    ],
)
def test_from_dict_refuses_the_same_things(settings: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        GRPOConfig.from_dict(settings)


# --- the arithmetic -----------------------------------------------------------------------------------------

SIZES = st.integers(1, 40)


@given(
    st.none() | SIZES,
    st.integers(2, 20),
    st.none() | st.integers(1, 200),
    st.none() | SIZES,
)
def test_batch_arithmetic(P: int | None, G: int, micro: int | None, accumulate: int | None) -> None:
    """Whatever is accepted means the same number of rows in every wording, and what is refused had to be."""
    given_settings = {
        name: value
        for name, value in (
            ("prompts_per_step", P),
            ("per_device_train_batch_size", micro),
            ("gradient_accumulation_steps", accumulate),
        )
        if value is not None
    }
    rows = P * G if P is not None else 8 * G if micro is None else micro * (accumulate or 1)
    must_fail = rows % G != 0  # half a group
    if accumulate is not None:
        must_fail |= rows % accumulate != 0 if micro is None else micro * accumulate != rows
    try:
        args = GRPOConfig(num_generations=G, **given_settings)
    except ConfigError:
        assert must_fail
        return
    assert not must_fail
    assert args.prompts_per_step is not None and args.prompts_per_step >= 1
    assert args.rows_per_step == args.prompts_per_step * G == rows
    size = args.per_device_train_batch_size
    assert size == (micro if micro is not None or accumulate is None else rows // accumulate)


@given(
    st.builds(
        dict,
        num_generations=st.integers(2, 16),
        prompts_per_step=SIZES,
        learning_rate=st.floats(1e-9, 10, exclude_min=True),
        loss_type=st.sampled_from(["grpo", "bnpo", "dr_grpo", "dapo"]),
        scale_rewards=st.sampled_from([True, False, "group", "batch", "none"]),
        epsilon_high=st.none() | st.floats(0.01, 2),
        reward_weights=st.none() | st.lists(st.floats(0.1, 3), min_size=1, max_size=4),
        fast_inference=st.sampled_from([None, True, False]),
        max_steps=st.just(-1) | st.integers(1, 10**6),
        seed=st.integers(-(2**40), 2**40),
        output_dir=st.text(min_size=1).filter(str.strip),
    )
)
def test_to_dict_and_from_dict_are_inverse(settings: dict[str, Any]) -> None:
    args = GRPOConfig(**settings)
    assert GRPOConfig.from_dict(args.to_dict()) == args
    assert GRPOConfig.from_dict(json.loads(json.dumps(args.to_dict()))) == args  # as config.json holds it
    assert {name: args.to_dict()[name] for name in settings} == settings


@given(
    st.integers(1, 5000),
    SIZES,
    st.integers(2, 16),
    st.none() | st.integers(1, 300),
    st.just(-1) | st.integers(1, 5000),
    st.floats(0.01, 20),
    st.integers(1, 4),
)
def test_the_schedule_says_what_happens(
    num_rows: int, P: int, G: int, micro: int | None, max_steps: int, epochs: float, iterations: int
) -> None:
    args = GRPOConfig(
        prompts_per_step=P,
        num_generations=G,
        per_device_train_batch_size=micro,
        max_steps=max_steps,
        num_train_epochs=epochs,
        num_iterations=iterations,
    )
    steps = args.total_steps(num_rows)
    if max_steps > 0:
        assert steps == max_steps
    else:
        # the fewest steps that deal out at least that many rows
        assert steps * P >= num_rows * epochs * (1 - 1e-12)
        assert (steps - 1) * P < num_rows * epochs * (1 + 1e-12)
    found = re.fullmatch(
        r"(\d+) rows?, (\d+) prompts? a step × (\d+) completions = (\d+) rows a step"
        r"(?:, (\d+) updates each)?: (\d+) steps?, (\S+) epochs?",
        args.schedule(num_rows),
    )
    assert found, args.schedule(num_rows)
    rows_, P_, G_, N_, mu, steps_, epochs_ = found.groups()
    assert [int(x) for x in (rows_, P_, G_, N_, steps_)] == [num_rows, P, G, P * G, steps]
    assert int(mu or 1) == iterations
    assert math.isclose(float(epochs_), steps * P / num_rows, rel_tol=0.005)


def test_one_of_a_kind_is_not_spoken_of_in_the_plural() -> None:
    args = GRPOConfig(prompts_per_step=1, num_generations=2, max_steps=1)
    sentence = "1 row, 1 prompt a step × 2 completions = 2 rows a step: 1 step, 1 epoch"
    assert args.schedule(1) == sentence


def test_the_guides_schedule() -> None:
    """300 rows, one prompt a step: an epoch is 300 steps."""
    args = GRPOConfig(prompts_per_step=1, num_generations=4, num_train_epochs=1)
    assert args.total_steps(300) == 300
    assert args.schedule(300).startswith("300 rows, 1 prompt a step × 4 completions = 4 rows a step")


def test_trls_pair_means_the_same_as_prompts_per_step() -> None:
    trl = GRPOConfig(per_device_train_batch_size=8, gradient_accumulation_steps=4, num_generations=16)
    ours = GRPOConfig(prompts_per_step=2, per_device_train_batch_size=8, num_generations=16)
    assert trl.rows_per_step == ours.rows_per_step == 32
    assert trl.per_device_train_batch_size == ours.per_device_train_batch_size == 8
    assert trl.total_steps(100) == ours.total_steps(100)


@given(st.integers(1, 1000), SIZES, st.floats(0.1, 5))
def test_more_data_never_means_fewer_steps(num_rows: int, P: int, epochs: float) -> None:
    assume(num_rows > 1)
    args = GRPOConfig(prompts_per_step=P, num_train_epochs=epochs)
    assert args.total_steps(num_rows - 1) <= args.total_steps(num_rows)
