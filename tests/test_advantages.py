"""Advantages: exact zeros, known numbers, invariances, and what is refused."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlkit.errors import ConfigError, RewardError
from rlkit.objectives import ADVANTAGE_BASELINES, ADVANTAGE_SCALES, group_advantages, weighted_total

F64 = torch.float64
MODES = [
    {"scale": scale, "baseline": baseline, "unbiased": unbiased}
    for scale in ADVANTAGE_SCALES
    for baseline in ADVANTAGE_BASELINES
    for unbiased in (True, False)
]


@st.composite
def reward_tables(draw):
    """Rewards [P, G] that differ by at least 0.01 within each group."""
    p, g = draw(st.integers(1, 5)), draw(st.integers(2, 8))
    rows = [
        draw(st.lists(st.integers(-500, 500), min_size=g, max_size=g).filter(lambda row: len(set(row)) > 1))
        for _ in range(p)
    ]
    return torch.tensor(rows, dtype=F64) / 100


# --- Groups without spread -------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("constant", [0.0, 0.1, 1.3, -2.7, 1e6])
@pytest.mark.parametrize("size", [2, 3, 16])
def test_a_group_of_equals_gets_exactly_zero(constant, size, dtype, mode):
    rewards = torch.full((2, size), constant, dtype=dtype)
    rewards[1, 0] += 1.0  # a second group with spread, so that the batch has some
    a = group_advantages(rewards, eps=0.0, **mode)
    assert (a.values[0] == 0).all()
    assert a.dead.tolist() == [True, False]
    assert (a.values[1] != 0).all() and torch.isfinite(a.values).all()


def test_the_dust_is_real():
    """Why float64: added up one by one in float32, twelve rewards of 1.3 have a mean that is not 1.3."""
    total = np.float32(0)
    for _ in range(12):
        total += np.float32(1.3)
    off = abs(float(total / np.float32(12)) - float(np.float32(1.3)))
    assert off / (off + 1e-4) > 1e-3  # the spread around that mean is as small: a real advantage
    assert (group_advantages(torch.full((1, 12), 1.3)).values == 0).all()


def test_rounding_in_the_last_digits_is_no_spread():
    sums = torch.tensor([[0.1 + 0.2, 0.3, 0.3, 0.1 + 0.2]], dtype=F64)
    assert sums.unique().numel() == 2
    a = group_advantages(sums)
    assert a.dead.all() and (a.values == 0).all()
    assert not group_advantages(torch.tensor([[0.3, 0.3 + 1e-6]], dtype=F64)).dead.any()


def test_a_batch_of_equals_is_all_zero_without_a_division_by_zero():
    for mode in MODES:
        a = group_advantages(torch.ones(3, 4), eps=0.0, **mode)
        assert (a.values == 0).all() and a.dead.all()


# --- Numbers ---------------------------------------------------------------------------------------------


def test_two_right_two_wrong():
    rewards = torch.tensor([[1, 1, 0, 0]])
    unbiased = group_advantages(rewards, eps=0.0)
    root = math.sqrt(3) / 2  # 0.866
    torch.testing.assert_close(unbiased.values, torch.tensor([[root, root, -root, -root]], dtype=F64))
    biased = group_advantages(rewards, unbiased=False, eps=0.0)
    torch.testing.assert_close(biased.values, torch.tensor([[1.0, 1.0, -1.0, -1.0]], dtype=F64))
    with_eps = group_advantages(rewards)
    assert with_eps.values[0, 0].item() == pytest.approx(0.5 / (1 / math.sqrt(3) + 1e-4), rel=1e-14)
    assert unbiased.mean.tolist() == [0.5]
    assert unbiased.std[0].item() == pytest.approx(1 / math.sqrt(3), rel=1e-15)
    assert unbiased.values.dtype == F64


@settings(max_examples=60)
@given(rewards=reward_tables(), unbiased=st.booleans(), scale=st.sampled_from(ADVANTAGE_SCALES))
def test_against_numpy(rewards, unbiased, scale):
    a = group_advantages(rewards, scale=scale, unbiased=unbiased)
    r = rewards.numpy()
    ddof = 1 if unbiased else 0
    std = np.full(len(r), r.std(ddof=ddof)) if scale == "batch" else r.std(axis=1, ddof=ddof)
    want = r - r.mean(axis=1, keepdims=True)
    if scale != "none":
        want = want / (std[:, None] + 1e-4)
    np.testing.assert_allclose(a.values.numpy(), want, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(a.std.numpy(), std, rtol=1e-12)
    np.testing.assert_allclose(a.mean.numpy(), r.mean(axis=1), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(a.values.sum(1).numpy(), 0.0, atol=1e-9)


def test_booleans_mean_what_they_mean_in_trl():
    rewards = torch.tensor([[1.0, 0.0, 0.5]])
    assert torch.equal(group_advantages(rewards, scale=True).values, group_advantages(rewards).values)
    none = group_advantages(rewards, scale="none").values
    assert torch.equal(group_advantages(rewards, scale=False).values, none)
    assert none.tolist() == [[0.5, -0.5, 0.0]]


def test_batch_scale_divides_by_the_spread_of_everything_around_the_groups_own_mean():
    rewards = torch.tensor([[0.0, 1.0], [10.0, 12.0], [5.0, 5.0]], dtype=F64)
    a = group_advantages(rewards, scale="batch", eps=0.0)
    spread = np.std(rewards.numpy(), ddof=1)
    want = np.array([[-0.5, 0.5], [-1.0, 1.0], [0.0, 0.0]]) / spread
    np.testing.assert_allclose(a.values.numpy(), want, rtol=1e-14)
    np.testing.assert_allclose(a.std.numpy(), [spread] * 3)
    assert a.dead.tolist() == [False, False, True]


@pytest.mark.parametrize("scale", ADVANTAGE_SCALES)
def test_against_trl(scale):
    """TRL's own standard deviation, put together as its trainer does for "sum_then_normalize"."""
    trl_utils = pytest.importorskip("trl.trainer.utils")
    torch.manual_seed(3)
    rewards = torch.randn(5, 4, dtype=F64)
    flat = rewards.flatten()
    centred = flat - torch.nanmean(rewards, dim=1).repeat_interleave(4)
    if scale == "batch":
        std = trl_utils.nanstd(flat).expand_as(flat)
    else:
        std = trl_utils.nanstd(rewards, dim=1).repeat_interleave(4)
    want = centred if scale == "none" else centred / (std + 1e-4)
    got = group_advantages(rewards, scale=scale)
    # TRL's G / (G - 1) is a quotient of integers, which torch forms in float32
    torch.testing.assert_close(got.values.flatten(), want, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(got.std.repeat_interleave(4), std, rtol=1e-7, atol=1e-7)


# --- Leave one out ---------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(rewards=reward_tables())
def test_leave_one_out_is_the_reward_less_the_mean_of_the_others(rewards):
    a = group_advantages(rewards, scale="none", baseline="leave_one_out").values
    for p, row in enumerate(rewards.tolist()):
        for i, r in enumerate(row):
            others = row[:i] + row[i + 1 :]
            assert a[p, i].item() == pytest.approx(r - sum(others) / len(others), rel=1e-10, abs=1e-12)
    g = rewards.shape[1]
    plain = group_advantages(rewards, scale="none").values
    torch.testing.assert_close(a, plain * g / (g - 1), rtol=1e-12, atol=1e-12)


# --- Invariances -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES, ids=str)
@settings(max_examples=15)
@given(
    rewards=reward_tables(),
    shift=st.integers(-50, 50),
    factor=st.sampled_from([0.5, 2.0, 10.0]),
    data=st.data(),
)
def test_invariances(mode, rewards, shift, factor, data):
    a = group_advantages(rewards, eps=0.0, **mode).values
    shifted = group_advantages(rewards + shift, eps=0.0, **mode).values
    torch.testing.assert_close(shifted, a, rtol=1e-9, atol=1e-9)
    scaled = group_advantages(rewards * factor, eps=0.0, **mode).values
    torch.testing.assert_close(scaled, a * (factor if mode["scale"] == "none" else 1.0), rtol=1e-9, atol=1e-9)
    order = torch.tensor(data.draw(st.permutations(range(rewards.shape[1]))))
    permuted = group_advantages(rewards[:, order], eps=0.0, **mode).values
    torch.testing.assert_close(permuted, a[:, order], rtol=1e-9, atol=1e-9)
    if mode["scale"] != "batch":  # a group's advantages depend on no other group
        alone = group_advantages(rewards[:1], eps=0.0, **mode).values
        torch.testing.assert_close(alone, a[:1], rtol=1e-12, atol=1e-12)


# --- Totals ----------------------------------------------------------------------------------------------


def test_weighted_total_leaves_out_what_was_not_scored():
    nan = math.nan
    per_func = torch.tensor([[[1.0, 2.0, 4.0], [nan, 2.0, 4.0], [1.0, nan, nan]]])
    total = weighted_total(per_func, [1.0, 0.5, -1.0])
    assert total.tolist() == [[-2.0, -3.0, 1.0]]
    assert total.dtype == F64 and total.shape == (1, 3)


def test_weighted_total_adds_in_float64():
    ones = torch.ones(1, 2, 2)  # float32
    assert weighted_total(ones, torch.tensor([1e9, 0.001], dtype=F64))[0, 0].item() == 1e9 + 0.001
    fine = torch.tensor([[[1e9 + 0.001]]], dtype=F64)
    assert weighted_total(fine, [1.0]).item() == 1e9 + 0.001


def test_completions_that_nobody_scored_are_an_error_that_counts_them():
    per_func = torch.zeros(2, 3, 2)
    per_func[1, 2] = math.nan
    per_func[0, 1] = math.nan
    with pytest.raises(RewardError, match=r"2 of 6 completions .* completion 1 of prompt 0"):
        weighted_total(per_func, [1.0, 1.0])


def test_infinite_rewards_name_the_function():
    per_func = torch.zeros(2, 3, 2)
    per_func[1, 0, 1] = -math.inf
    with pytest.raises(RewardError, match=r"number \[1\]"):
        weighted_total(per_func, [1.0, 1.0])


@pytest.mark.parametrize("weights", [[1.0], [1.0, 1.0, 1.0], [1.0, math.nan], [math.inf, 1.0]])
def test_weights_must_fit(weights):
    with pytest.raises(ConfigError, match="reward_weights"):
        weighted_total(torch.zeros(2, 3, 2), weights)


# --- Refusals --------------------------------------------------------------------------------------------


def test_refusals():
    with pytest.raises(ConfigError, match=r"num_generations=1 .*always 0"):
        group_advantages(torch.zeros(4, 1))
    with pytest.raises(ConfigError, match="shape"):
        group_advantages(torch.zeros(4))
    with pytest.raises(ConfigError, match="shape"):
        group_advantages(torch.zeros(0, 4))
    with pytest.raises(ConfigError, match="per_func"):
        weighted_total(torch.zeros(4, 2), [1.0, 1.0])
    with pytest.raises(ConfigError, match="Did you mean 'group'"):
        group_advantages(torch.zeros(1, 2), scale="groups")
    with pytest.raises(ConfigError, match="leave_one_out"):
        group_advantages(torch.zeros(1, 2), baseline="rloo")
    with pytest.raises(ConfigError, match="eps"):
        group_advantages(torch.zeros(1, 2), eps=-1.0)
    for bad in (math.nan, math.inf):
        with pytest.raises(RewardError, match="1 of 4 rewards"):
            group_advantages(torch.tensor([[0.0, 1.0], [bad, 1.0]]))
