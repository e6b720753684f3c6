"""Overlong completions: the soft punishment before the limit."""

from __future__ import annotations

import pytest
from small_trainer import make_trainer

from rlkit import rewards
from rlkit.errors import ConfigError


@pytest.mark.parametrize("length, expected", [(0, 0), (80, 0), (81, -0.05), (90, -0.5), (100, -1), (300, -1)])
def test_the_slope_is_dapos(length, expected):
    reward = rewards.resolve({"name": "soft_overlong", "max_completion_length": 100, "buffer": 20})
    (found,) = reward([""], [""], completion_ids=[[1] * length])
    assert found == pytest.approx(expected)


def test_it_agrees_with_trl():
    from trl.rewards import get_soft_overlong_punishment

    theirs = get_soft_overlong_punishment(max_completion_len=50, soft_punish_cache=12)
    ids = [[1] * length for length in range(51)]
    ours = rewards.soft_overlong(50, 12)([""] * 51, [""] * 51, completion_ids=ids)
    assert ours == pytest.approx(theirs(completion_ids=ids))


def test_a_trainer_takes_it(tmp_path):
    metrics = make_trainer(tmp_path, rewards.soft_overlong(6, 5)).step()
    assert -1 <= metrics["rewards/soft_overlong"] < 0


@pytest.mark.parametrize("limit, buffer", [(0, 1), (10, 0), (10, 11), (10, 2.5)])
def test_bad_sizes_are_refused(limit, buffer):
    with pytest.raises(ConfigError):
        rewards.soft_overlong(limit, buffer)
