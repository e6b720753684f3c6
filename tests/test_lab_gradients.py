"""The bandit's and the four-token MDP's closed forms: against autograd, finite differences and enumeration."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from rlkit import lab
from rlkit.errors import ConfigError
from rlkit.lab.bandit import SoftmaxBandit, grpo_gain, two_armed_flow
from rlkit.lab.episodes import Episodes
from rlkit.lab.mdp import TokenMDP
from rlkit.lab.methods import look_up
from rlkit.objectives import group_advantages

F64 = torch.float64


def close(a, b, tolerance=1e-10):
    return torch.allclose(
        torch.as_tensor(a, dtype=F64), torch.as_tensor(b, dtype=F64), rtol=0, atol=tolerance
    )


def finite_differences(f, x, h=1e-5):
    """Central differences of a scalar function, entry by entry."""
    grad = torch.zeros_like(x)
    for i in itertools.product(*map(range, x.shape)):
        up, down = x.clone(), x.clone()
        up[i] += h
        down[i] -= h
        grad[i] = (f(up) - f(down)) / (2 * h)
    return grad


def random_logits(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


# --- One token ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_the_bandits_gradient(seed):
    bandit, z = SoftmaxBandit(), random_logits(6, seed=seed).requires_grad_()
    (auto,) = torch.autograd.grad(bandit.expected_reward(z), z)
    z = z.detach()
    assert close(bandit.gradient(z), auto)
    assert close(bandit.gradient(z), finite_differences(bandit.expected_reward, z), 1e-8)
    for baseline in (0.0, -2.0, 5.0):  # a baseline moves no expectation
        assert close(bandit.reinforce_update(z, baseline), auto)


def test_the_variance_and_the_baseline_that_makes_it_least():
    bandit, z = SoftmaxBandit(), random_logits(6)
    pi = z.softmax(-1)
    for b in (0.0, 1.0):
        g = bandit.samples(z, b)  # [V, V]
        direct = pi @ (g - bandit.gradient(z)).square().sum(1)
        assert close(bandit.reinforce_variance(z, b), direct)
    best = float(bandit.best_baseline(z))
    least = float(bandit.reinforce_variance(z, best))
    assert all(float(bandit.reinforce_variance(z, best + d)) > least for d in (-1e-3, 1e-3, -1.0, 1.0))
    mean = float(bandit.expected_reward(z))
    assert least < float(bandit.reinforce_variance(z, mean)) < float(bandit.reinforce_variance(z, 0.0))


@pytest.mark.parametrize("scale", ["group", "none"])
def test_grpos_expected_update_over_every_group(scale):
    bandit, z, size = SoftmaxBandit([0.0, 1.0, 0.3]), random_logits(3), 4
    pi, expected = z.softmax(-1), torch.zeros(3, dtype=F64)
    for group in itertools.product(range(3), repeat=size):  # in order, one by one
        y = torch.tensor(group)
        a = group_advantages(bandit.rewards[y][None], scale=scale).values[0]
        score = torch.nn.functional.one_hot(y, 3).double() - pi
        expected += pi[y].prod() * (a[:, None] * score).mean(0)
    found = bandit.grpo_update(z, size, scale=scale)
    assert close(found, expected)
    if scale == "none":
        assert close(found, (1 - 1 / size) * bandit.gradient(z))


def test_grpo_divided_by_the_spread_points_elsewhere_but_for_two_rewards():
    z = random_logits(3)
    cosine = torch.nn.functional.cosine_similarity
    two, three = SoftmaxBandit([0.0, 1.0, 0.0]), SoftmaxBandit([0.0, 1.0, 0.3])
    assert float(cosine(two.grpo_update(z, 4), two.gradient(z), 0)) == pytest.approx(1, abs=1e-12)
    assert float(cosine(three.grpo_update(z, 4), three.gradient(z), 0)) < 0.9999
    p = float(z.softmax(-1)[1])
    assert close(two.grpo_update(z, 4), grpo_gain(p, 4) * two.gradient(z))
    assert grpo_gain(0.3, 4, scale="none") == pytest.approx(3 / 4)
    assert grpo_gain(0.05, 512, eps=0.0) == pytest.approx(1 / math.sqrt(0.05 * 0.95), rel=0.05)


def test_the_flow_of_two_arms_has_a_closed_form():
    bandit = SoftmaxBandit([0.2, 1.0])
    z = torch.tensor([2.0, 0.0], dtype=F64)
    start, steps, time = float(z.softmax(-1)[1]), 20_000, 20.0
    course = bandit.flow(z, learning_rate=time / steps, updates=steps)
    for share in (0.25, 1.0):
        assert float(course[int(share * steps), 1]) == pytest.approx(
            two_armed_flow(start, 0.8, share * time), abs=2e-4
        )
    assert two_armed_flow(0.3, 0.8, 0.0) == pytest.approx(0.3, abs=1e-12)
    # The slope at the start is the gradient's: dp/dt = 2 gap p² (1 - p)².
    slope = (two_armed_flow(0.3, 0.8, 1e-4) - two_armed_flow(0.3, 0.8, -1e-4)) / 2e-4
    assert slope == pytest.approx(2 * 0.8 * 0.3**2 * 0.7**2, rel=1e-6)


def test_what_the_bandit_refuses():
    for rewards in ([1.0], [1.0, math.nan]):
        with pytest.raises(ConfigError, match="rewards"):
            SoftmaxBandit(rewards)
    with pytest.raises(ConfigError, match="tokens"):
        SoftmaxBandit([0.0, 1.0], tokens=("a",))
    with pytest.raises(ConfigError, match="group_size=1"):
        SoftmaxBandit().grpo_update(torch.zeros(6, dtype=F64), 1)
    with pytest.raises(ConfigError, match="different groups"):
        SoftmaxBandit(torch.arange(30.0)).grpo_update(torch.zeros(30, dtype=F64), 16)
    with pytest.raises(ConfigError, match="no way up"):
        two_armed_flow(0.0, 1.0, 1.0)
    assert SoftmaxBandit().tokens[1] == "4" and SoftmaxBandit([0.0, 1.0]).tokens == ("0", "1")


# --- Four tokens -------------------------------------------------------------------------------------------


def test_every_text_is_there_once_and_the_probabilities_add_up():
    mdp = TokenMDP()
    assert len(mdp.texts) == len(set(mdp.texts)) == 31 and len(mdp.states) == 15
    z = random_logits(15, 3)
    assert close(mdp.probabilities(z).sum(), 1.0)
    i = mdp.texts.index(("a", "b", "."))
    p = z.softmax(-1)
    by_hand = p[0, 0] * p[mdp.states.index(("a",)), 1] * p[mdp.states.index(("a", "b")), 2]
    assert close(mdp.probabilities(z)[i], by_hand) and float(mdp.returns()[i]) == 1.5


@pytest.mark.parametrize("gamma", [1.0, 0.8])
def test_the_policy_gradient_four_ways(gamma):
    mdp = TokenMDP(token_cost=0.1)
    z = random_logits(15, 3, seed=2).requires_grad_()
    (auto,) = torch.autograd.grad(mdp.expected_return(z, gamma), z)
    z = z.detach()
    assert close(mdp.policy_gradient(z, gamma), auto)
    assert close(finite_differences(lambda x: mdp.expected_return(x, gamma), z), auto, 1e-8)
    assert close(mdp.expected_score(z, mdp.returns(gamma)), auto)  # REINFORCE: all of the return
    discount = gamma ** torch.arange(4, dtype=F64)
    to_go = lab.discounted_returns(mdp.rewards, gamma) * discount  # causality: what came before is noise
    assert close(mdp.expected_score(z, to_go), auto)


@pytest.mark.parametrize("gamma", [1.0, 0.8])
def test_values_are_means_over_all_texts_that_pass(gamma):
    mdp, z = TokenMDP(), random_logits(15, 3, seed=3)
    values, q = mdp.values(z, gamma)
    chance, to_go = mdp.probabilities(z), lab.discounted_returns(mdp.rewards, gamma)
    for s, a in itertools.product(range(15), range(3)):
        passes = (mdp.path == s) & mdp.mask
        then = passes & (mdp.tokens == a)
        for found, which in ((values[s], passes), (q[s, a], then)):
            weight = (which * chance[:, None]).sum()
            assert close(found, (which * chance[:, None] * to_go).sum() / weight)
    assert close(values[0], mdp.expected_return(z, gamma))
    assert close(mdp.visits(z)[0], 1.0)


def as_episodes(mdp: TokenMDP) -> Episodes:
    """All texts as the lab's episodes."""
    last = mdp.mask & ~torch.nn.functional.pad(mdp.mask, (0, 1))[:, 1:]
    following = torch.nn.functional.pad(mdp.path, (0, 1))[:, 1:]
    return Episodes(mdp.path, mdp.tokens, mdp.rewards, following, last, mdp.mask)


@pytest.mark.parametrize("lam", [0.0, 0.6, 1.0])
def test_advantages_of_any_lambda_are_unbiased_where_the_values_are_right(lam):
    mdp, z = TokenMDP(token_cost=0.05), random_logits(15, 3, seed=4)
    batch, (values, _) = as_episodes(mdp), mdp.values(z)
    v = torch.where(batch.mask, values[batch.states], 0.0)
    deltas = lab.td_errors(batch, v, values[batch.next_states], 1.0)
    weights = lab.generalized_advantages(deltas, 1.0, lam)
    assert close(mdp.expected_score(z, weights), mdp.policy_gradient(z))
    other = values + random_logits(15, seed=9)  # values that are wrong
    wrong = lab.td_errors(batch, other[batch.states], other[batch.next_states], 1.0)
    biased = mdp.expected_score(z, lab.generalized_advantages(wrong, 1.0, lam))
    assert close(biased, mdp.policy_gradient(z)) == (lam == 1.0)  # λ = 1: V is a mere baseline


def test_the_methods_loss_has_the_policy_gradient():
    """What `reinforce` descends, over all texts with their probabilities for weights."""
    mdp, policy = TokenMDP(), lab.TabularPolicy(15, 3)
    with torch.no_grad():
        policy.logits.copy_(random_logits(15, 3, seed=5))
    batch = as_episodes(mdp)
    logp, entropy = look_up(policy, batch)
    chance = mdp.probabilities(policy.logits.detach())
    loss = -(logp * lab.discounted_returns(batch.rewards, 1.0) * chance[:, None]).sum()
    (grad,) = torch.autograd.grad(loss, policy.logits)
    assert close(-grad, mdp.policy_gradient(policy.logits.detach()))
    pi = policy.probabilities()
    expected = -(pi * pi.log()).sum(-1)
    assert close(entropy[0, 0], expected[0]) and not bool(entropy[~batch.mask].any())


def test_generalized_advantages_against_the_double_sum():
    generator = torch.Generator().manual_seed(0)
    n, t, gamma, lam = 5, 7, 0.9, 0.8
    lengths, ends = torch.tensor([7, 1, 4, 7, 2]), torch.tensor([True, True, False, False, True])
    mask = torch.arange(t) < lengths[:, None]
    rewards, v, after = (torch.randn(n, t, generator=generator, dtype=F64) * mask for _ in range(3))
    terminated = (torch.arange(t) == lengths[:, None] - 1) & ends[:, None]
    zero = torch.zeros(n, t, dtype=torch.long)
    batch = Episodes(zero, zero, rewards, zero, terminated, mask)
    found = lab.generalized_advantages(lab.td_errors(batch, v, after, gamma), gamma, lam)
    for i, s in itertools.product(range(n), range(t)):
        total = 0.0
        for u in range(s, int(lengths[i])):
            follows = 0.0 if terminated[i, u] else float(after[i, u])
            total += (gamma * lam) ** (u - s) * (float(rewards[i, u]) + gamma * follows - float(v[i, u]))
        assert float(found[i, s]) == pytest.approx(total, abs=1e-12)


@pytest.mark.parametrize("size", [2, 3])
def test_grpos_weight_of_a_text(size):
    mdp = TokenMDP(max_tokens=3)
    z = random_logits(7, 3, seed=6)
    weights = mdp.group_weights(z, size, scale="none")
    exact = (1 - 1 / size) * (mdp.returns() - mdp.expected_return(z))
    assert close(weights, exact)
    assert close(mdp.expected_score(z, weights), (1 - 1 / size) * mdp.policy_gradient(z))
    assert not close(mdp.expected_score(z, mdp.group_weights(z, size)), mdp.policy_gradient(z), 1e-3)


def test_what_the_mdp_refuses():
    with pytest.raises(ConfigError, match="vocabulary"):
        TokenMDP(vocabulary=("a",))
    with pytest.raises(ConfigError, match="max_tokens"):
        TokenMDP(max_tokens=20)
    with pytest.raises(ConfigError, match="group_size"):
        TokenMDP().group_weights(torch.zeros(15, 3, dtype=F64), 6)


def test_the_small_world_played_token_by_token_is_the_one_that_is_summed():
    mdp = TokenMDP(token_cost=0.1)
    env = mdp.env()
    policy, value = lab.TabularPolicy.of(env), lab.TabularValue.of(env)
    assert policy.logits.shape == (len(mdp.states) + 1, 3)
    for text, rewards, mask in zip(mdp.texts, mdp.rewards, mdp.mask):  # every text, forced
        env.reset()
        steps = [env.step(mdp.vocabulary.index(token)) for token in text]
        assert [step[1] for step in steps] == rewards[mask].tolist()
        assert [step[2] for step in steps] == [False] * (len(text) - 1) + [True]  # terminated, never cut off
        assert not any(step[3] for step in steps) and steps[-1][0] == len(mdp.states)
    played = lab.sample_episodes([mdp.env() for _ in range(4000)], policy, torch.Generator().manual_seed(0))
    spread = played.returns.std() / 4000**0.5
    assert abs(played.returns.mean() - mdp.expected_return(policy.logits.detach()[:-1])) < 4 * spread
    before = mdp.expected_return(policy.logits.detach()[:-1])
    lab.ppo(env, policy, value, updates=30, gamma=1.0, learning_rate=0.05)
    assert mdp.expected_return(policy.logits.detach()[:-1]) > 2 * before
