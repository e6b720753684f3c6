"""Planning against brute force: all ways to play, listed."""

from __future__ import annotations

import functools
import itertools

import pytest
import torch

from rlkit import lab
from rlkit.errors import ConfigError
from rlkit.lab.pacman import PacmanGrid
from rlkit.lab.patience import mean_interval


def best_of_all_ways(env: PacmanGrid, steps: int) -> float:
    """The best total reward of all action sequences of a world without luck, played one by one."""
    best = -float("inf")
    for actions in itertools.product(range(4), repeat=steps):
        env.reset()
        total = 0.0
        for action in actions:
            _, reward, terminated, truncated, _ = env.step(action)
            total += reward
            if terminated or truncated:
                break
        best = max(best, total)
    return best


@pytest.mark.parametrize("grid", [("P .", "  E"), ("P.", "E.", ". ")])
def test_the_optimum_of_all_ways_to_play(grid):
    env = PacmanGrid(grid, max_steps=6)
    assert lab.optimal_return(env.model) == pytest.approx(best_of_all_ways(env, 6), abs=1e-12)


def test_a_horizon_that_is_too_short_for_all_cookies():
    for steps in (2, 3, 5):
        env = PacmanGrid("first", max_steps=steps)
        assert lab.optimal_return(env.model) == pytest.approx(best_of_all_ways(env, steps), abs=1e-12)


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_luck_by_recursion_over_all_outcomes(gamma):
    env = PacmanGrid(("P .", "  E"), slip=0.3, max_steps=7)
    model = env.model

    @functools.cache
    def best(s: int, steps: int) -> float:
        if steps == 0 or model.terminal[s]:
            return 0.0
        outcomes = [
            sum(
                float(model.probability[s, a, k])
                * (float(model.reward[s, a, k]) + gamma * best(int(model.next_state[s, a, k]), steps - 1))
                for k in range(3)
            )
            for a in range(4)
        ]
        return max(outcomes)

    assert lab.optimal_return(model, gamma) == pytest.approx(best(0, 7), abs=1e-12)


def test_without_a_horizon_bellmans_equation_holds_and_a_long_one_comes_to_the_same():
    env = PacmanGrid("guide", slip=0.2)
    endless = env.model._replace(horizon=None)
    plan = lab.value_iteration(endless)
    q = lab.planning.action_values(endless, plan.values, 1.0)
    assert torch.allclose(q.amax(-1), plan.values, atol=1e-10)
    assert torch.allclose(lab.policy_evaluation(endless, plan.policy), plan.values, atol=1e-9)
    long = lab.value_iteration(env.model._replace(horizon=2000))
    assert torch.allclose(long.values, plan.values, atol=1e-9)


def test_no_policy_beats_the_optimum_and_the_best_one_reaches_it():
    env = PacmanGrid("maze")
    plan = lab.value_iteration(env.model._replace(horizon=None))
    best = lab.optimal_return(env.model)
    assert lab.expected_return(env.model, plan.policy) == pytest.approx(best, abs=1e-10)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        policy = (3 * torch.randn(plan.policy.shape, generator=generator).double()).softmax(-1)
        assert lab.expected_return(env.model, policy) <= best


def test_evaluation_agrees_with_playing():
    env = PacmanGrid("guide", slip=0.2, max_steps=20)
    policy = lab.TabularPolicy.of(env)
    with torch.no_grad():
        policy.logits.normal_(generator=torch.Generator().manual_seed(1))
    exact = lab.expected_return(env.model, policy.probabilities())
    envs = lab.episodes.copies(env, 2000, seed=0)
    played = lab.sample_episodes(envs, policy, torch.Generator().manual_seed(0))
    assert mean_interval(played.returns, z=4).holds(exact)
    assert mean_interval(played.returns).high - mean_interval(played.returns).low < 0.1  # so it could fail


def test_solving_agrees_with_backing_up():
    env = PacmanGrid("first", slip=0.1)
    uniform = torch.full((len(env.states), 4), 0.25).double()
    solved = lab.policy_evaluation(env.model._replace(horizon=None), uniform, 0.95)
    backed_up = lab.policy_evaluation(env.model._replace(horizon=3000), uniform, 0.95)
    assert torch.allclose(solved, backed_up, atol=1e-10)


def test_what_is_refused():
    env = PacmanGrid("first")
    with pytest.raises(ConfigError, match="gamma=1.5"):
        lab.value_iteration(env.model, gamma=1.5)
    with pytest.raises(ConfigError, match="add up to 1"):
        lab.policy_evaluation(env.model, torch.ones(len(env.states), 4))
    stays = torch.zeros(len(env.states), 4).double()
    stays[:, 0] = 1.0  # UP for ever
    with pytest.raises(ConfigError, match="go on for ever"):
        lab.policy_evaluation(env.model._replace(horizon=None), stays)
    lab.planning.MAX_SWEEPS, before = 500, lab.planning.MAX_SWEEPS
    try:
        with pytest.raises(ConfigError, match="never end"):
            lab.value_iteration(PacmanGrid("first", step=0.1).model._replace(horizon=None))
    finally:
        lab.planning.MAX_SWEEPS = before
