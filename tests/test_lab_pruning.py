"""Pruning: what learning from wrong answers moves, and what it does for the right one."""

from __future__ import annotations

import itertools

import pytest
import torch

from rlkit.errors import ConfigError
from rlkit.lab.bandit import SoftmaxBandit
from rlkit.lab.patience import mean_interval
from rlkit.lab.pruning import (
    World,
    _direction,
    draws_while_learning,
    guide_world,
    unlucky_updates,
    warm_start,
)

F64 = torch.float64
TABLE, SHARED = guide_world(shared=False), guide_world(shared=True)


@pytest.mark.parametrize("world", [TABLE, SHARED], ids=["table", "shared"])
@pytest.mark.parametrize("rewards", ["binary", "penalty"])
def test_equal_rewards_move_nothing_under_grpo(world, rewards):
    course = unlucky_updates(world, "grpo", rewards, updates=10, repetitions=50)
    assert not bool(course.moved.any()) and course.gain == 1.0  # exactly


def test_reinforce_without_a_penalty_moves_nothing_either():
    assert not bool(unlucky_updates(TABLE, "reinforce", "binary", updates=5, repetitions=50).moved.any())


@pytest.mark.parametrize(
    ("method", "rewards"), [("grpo", "graded"), ("reinforce", "penalty"), ("reinforce", "graded")]
)
def test_graded_rewards_and_penalties_move_the_policy(method, rewards):
    course = unlucky_updates(TABLE, method, rewards)
    assert float(course.moved[-1]) > 0.02 and bool((course.moved[1:] >= course.moved[:-1] - 1e-3).all())


def test_but_in_a_table_the_right_answer_hardly_gains():
    """Mass moved away from what was said; less than a tenth more of it lies on the right answer."""
    for method, rewards in (("grpo", "graded"), ("reinforce", "penalty")):
        course = unlucky_updates(TABLE, method, rewards)
        assert 1.0 < course.gain < 1.15


def test_and_it_may_lose_to_the_better_wrong_answers():
    """Among digits alone, 3 and 5 are worth nearly as much as 4, and are seen."""
    digits = guide_world(shared=False, letters=-5.0)._replace(
        weights=torch.tensor([0.0] * 4 + [-4.0] + [0.0] * 5 + [-5.0] * 10).double()
    )
    assert unlucky_updates(digits, "grpo", "graded").gain < 0.9


def test_what_answers_share_lifts_one_that_was_never_seen():
    shared = unlucky_updates(SHARED, "grpo", "graded")
    assert shared.gain > 4 > 1.15 > unlucky_updates(TABLE, "grpo", "graded").gain
    assert (
        unlucky_updates(SHARED, "reinforce", "penalty").gain < 1.3
    )  # -1 for everything tells nothing about numbers


def test_without_learning_the_wait_is_geometric_and_equal_rewards_do_not_shorten_it():
    none = draws_while_learning(TABLE, None, repetitions=1500)
    assert mean_interval(none, z=4).holds(1 / TABLE.p_right)
    same = draws_while_learning(TABLE, "grpo", "binary", repetitions=1500)
    assert torch.equal(none, same)  # draw by draw


def test_the_wait_is_shorter_where_pruning_reaches_the_right_answer():
    none = mean_interval(draws_while_learning(SHARED, None))
    graded = mean_interval(draws_while_learning(SHARED, "grpo", "graded"))
    assert graded.high < 0.75 * none.low


def test_the_direction_is_the_gradient_on_average():
    """Over all groups that can be drawn: REINFORCE's is the bandit's gradient, GRPO's the bandit's expected update."""
    rewards = torch.tensor([0.0, 1.0, 0.3], dtype=F64)
    z = torch.tensor([0.5, -1.0, 0.2], dtype=F64)
    bandit, pi, size = SoftmaxBandit(rewards), z.softmax(-1), 3
    for method, expected in (("reinforce", bandit.gradient(z)), ("grpo", bandit.grpo_update(z, size))):
        total = torch.zeros(3, dtype=F64)
        for group in itertools.product(range(3), repeat=size):
            y = torch.tensor([group])
            total += pi[y].prod() * _direction(torch.eye(3, dtype=F64), pi[None], y, rewards[y], method)[0]
        assert torch.allclose(total, expected, atol=1e-12)


def test_a_penalty_pushes_the_right_answer_itself_by_p_only():
    """REINFORCE with -1, given no hit: E Δz_right = lr · p, E Δz_wrong = -lr · π p / (1 - p)."""
    pi = (TABLE.features @ TABLE.weights).softmax(-1)
    p, wrong = TABLE.p_right, pi.clone()
    wrong[TABLE.right] = 0
    wrong /= wrong.sum()
    mean = torch.zeros_like(pi)
    for y in range(len(pi)):
        if y != TABLE.right:
            group = torch.tensor([[y]])
            mean += (
                wrong[y]
                * _direction(TABLE.features, pi[None], group, TABLE.rewards["penalty"][group], "reinforce")[0]
            )
    expected = -pi * p / (1 - p)
    expected[TABLE.right] = p
    assert torch.allclose(mean, expected, atol=1e-12)


def test_p_zero_and_the_warm_start():
    z = torch.tensor([0.0, 0.0, -800.0], dtype=F64)
    assert float(z.softmax(-1)[2]) == 0.0
    shown, drawn = warm_start(z, 2, updates=40, learning_rate=50.0)
    assert float(shown[-1]) > 0.99 and not bool(drawn.any())
    # Rare, but not impossible: RL's gradient is p times a demonstration's.
    shown, drawn = warm_start(torch.tensor([0.0, 0.0, -7.0], dtype=F64), 2, updates=1, learning_rate=1e-4)
    p = float(shown[0])
    assert float((drawn[1] - p) / (shown[1] - p)) == pytest.approx(p, rel=1e-3)


def test_what_is_refused():
    with pytest.raises(ConfigError, match="method 'ppo'"):
        unlucky_updates(TABLE, "ppo", "binary")
    with pytest.raises(ConfigError, match="rewards 'grade'"):
        unlucky_updates(TABLE, "grpo", "grade")
    never = World(("a", "b"), 1, torch.eye(2, dtype=F64), torch.tensor([0.0, -1e4], dtype=F64), TABLE.rewards)
    with pytest.raises(ConfigError, match="p_right"):
        draws_while_learning(never, None)
