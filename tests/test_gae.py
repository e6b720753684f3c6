"""GAE, per-token rewards and the value loss: against plain loops and sums over all texts of a four-token MDP."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlkit.errors import ConfigError
from rlkit.lab.episodes import Episodes
from rlkit.lab.mdp import TokenMDP
from rlkit.lab.returns import generalized_advantages as lab_advantages
from rlkit.lab.returns import td_errors as lab_errors
from rlkit.objectives import (
    AdaptiveKL,
    LossTotals,
    explained_variance,
    generalized_advantages,
    kl_estimate,
    policy_loss,
    token_rewards,
    value_loss,
    whiten,
)

EXACT = dict(atol=1e-10, rtol=0.0)


def ragged(seed: int, rows: int = 5, width: int = 6) -> tuple[torch.Tensor, ...]:
    """Rewards, values, bootstrap and mask of rows of different lengths, one of them empty."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    lengths = torch.randint(1, width + 1, (rows,), generator=draw)
    lengths[0], lengths[-1] = width, 0
    mask = torch.arange(width) < lengths[:, None]  # [N, T]
    return normal(rows, width), normal(rows, width), normal(rows), mask


def loop_advantages(rewards, values, mask, gamma, lam, bootstrap):
    """The definition, term by term: A_t = Σ_l (γλ)^l (r + γ V' − V)."""
    found = [[0.0] * len(row) for row in rewards]
    for i, row in enumerate(mask):
        steps = sum(row)
        ahead = [values[i][t + 1] if t + 1 < steps else bootstrap[i] for t in range(steps)]
        delta = [rewards[i][t] + gamma * ahead[t] - values[i][t] for t in range(steps)]
        for t in range(steps):
            found[i][t] = math.fsum((gamma * lam) ** (s - t) * delta[s] for s in range(t, steps))
    return found


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**31),
    st.sampled_from([0.0, 0.5, 0.9, 1.0]),
    st.sampled_from([0.0, 0.3, 0.95, 1.0]),
    st.booleans(),
)
def test_advantages_are_the_loops(seed: int, gamma: float, lam: float, cut_off: bool) -> None:
    rewards, values, ends, mask = ragged(seed)
    bootstrap = ends if cut_off else None
    advantages, returns = generalized_advantages(
        rewards, values, mask, gamma=gamma, lam=lam, bootstrap=bootstrap
    )
    known = ends.tolist() if cut_off else [0.0] * len(ends)
    expected = torch.tensor(
        loop_advantages(rewards.tolist(), values.tolist(), mask.tolist(), gamma, lam, known),
        dtype=torch.float64,
    )
    torch.testing.assert_close(advantages, expected, **EXACT)
    torch.testing.assert_close(returns, torch.where(mask, expected + values, 0.0), **EXACT)


def test_what_lies_behind_a_row_does_not_matter() -> None:
    rewards, values, ends, mask = ragged(3)
    clean = generalized_advantages(rewards, values, mask, bootstrap=ends)
    for garbage in (math.nan, math.inf, 1e30):
        dirty = generalized_advantages(
            rewards.masked_fill(~mask, garbage), values.masked_fill(~mask, garbage), mask, bootstrap=ends
        )
        for found, expected in zip(dirty, clean, strict=True):
            assert torch.equal(found, expected)


def test_the_lab_computes_the_same() -> None:
    rewards, values, ends, mask = ragged(5)
    last = mask & ~torch.nn.functional.pad(mask, (0, 1))[:, 1:]  # [N, T]
    cut_off = torch.tensor([True, False, True, False, True])  # [N]
    after = torch.nn.functional.pad(values, (0, 1))[:, 1:]  # [N, T]
    after = torch.where(last, ends[:, None], after)
    nothing = torch.zeros_like(rewards, dtype=torch.long)
    episodes = Episodes(nothing, nothing, rewards * mask, nothing, last & ~cut_off[:, None], mask)
    in_lab = lab_advantages(lab_errors(episodes, values, after, 0.9), 0.9, 0.8)
    ours, _ = generalized_advantages(
        rewards, values, mask, gamma=0.9, lam=0.8, bootstrap=torch.where(cut_off, ends, 0.0)
    )
    torch.testing.assert_close(in_lab, ours, **EXACT)


# -- all texts of the four-token MDP ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world() -> tuple[TokenMDP, torch.Tensor, torch.Tensor]:
    """The MDP, logits of a policy and of a reference, [S, V] both."""
    mdp = TokenMDP(token_cost=0.1)
    draw = torch.Generator().manual_seed(0)
    logits, reference = (
        torch.randn(len(mdp.states), len(mdp.vocabulary), generator=draw, dtype=torch.float64)
        for _ in range(2)
    )
    return mdp, logits, reference


@pytest.mark.parametrize("gamma", [1.0, 0.7])
@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
def test_with_true_values_any_lambda_gives_the_policy_gradient(world, gamma: float, lam: float) -> None:
    mdp, logits, _ = world
    values, _ = mdp.values(logits, gamma)  # [S]
    advantages, _ = generalized_advantages(mdp.rewards, values[mdp.path], mdp.mask, gamma=gamma, lam=lam)
    discounts = gamma ** torch.arange(mdp.max_tokens, dtype=torch.float64)  # [T]
    found = mdp.expected_score(logits, advantages * discounts)
    torch.testing.assert_close(found, mdp.policy_gradient(logits, gamma), **EXACT)


def test_with_wrong_values_only_lambda_one_does(world) -> None:
    mdp, logits, _ = world
    wrong = torch.linspace(-1.0, 2.0, len(mdp.states), dtype=torch.float64)[mdp.path]  # [M, T]
    right = mdp.policy_gradient(logits)
    for lam, is_right in ((1.0, True), (0.5, False), (0.0, False)):
        advantages, _ = generalized_advantages(mdp.rewards, wrong, mdp.mask, lam=lam)
        found = mdp.expected_score(logits, advantages)
        assert torch.allclose(found, right, **EXACT) is is_right, lam


def test_ppo_loss_and_its_gradient_by_enumeration(world) -> None:
    """Summed over all texts with their probabilities, at ratio 1: minus the true policy gradient; and its value."""
    mdp, logits, _ = world
    logits = logits.clone().requires_grad_()
    values, _ = mdp.values(logits)
    advantages, _ = generalized_advantages(mdp.rewards, values[mdp.path], mdp.mask, lam=0.95)
    chance = mdp.probabilities(logits).detach()  # [M]
    once = LossTotals(sequences=1, tokens=1)
    logp = mdp.logprobs(logits)  # [M, T]
    loss = policy_loss(
        logp, logp.detach(), advantages, mdp.mask, is_weight=chance, loss_type="dapo", totals=once
    )
    loss.loss.backward()
    torch.testing.assert_close(logits.grad, -mdp.policy_gradient(logits.detach()), **EXACT)
    expected = -(chance[:, None] * advantages).sum()
    torch.testing.assert_close(loss.loss.detach(), expected, **EXACT)
    assert abs(float(expected)) < 1e-10  # advantages of true values are 0 on average


def test_value_loss_leads_to_the_true_values_by_enumeration(world) -> None:
    """∂/∂V(s) of the expected loss is d(s) (V(s) − V_π(s)) with λ = 1: it is 0 at the true values, and nowhere else."""
    mdp, logits, _ = world
    table = torch.linspace(-1.0, 2.0, len(mdp.states), dtype=torch.float64).requires_grad_()  # [S]
    _, returns = generalized_advantages(mdp.rewards, table.detach()[mdp.path], mdp.mask, lam=1.0)
    chance = mdp.probabilities(logits)  # [M]
    for i in range(len(mdp.texts)):
        one = slice(i, i + 1)
        values = table[mdp.path[one]]
        loss = value_loss(
            values, values.detach(), returns[one], mdp.mask[one], cliprange_value=None, tokens=1
        )
        (chance[i] * loss.loss).backward()
    true, _ = mdp.values(logits)
    torch.testing.assert_close(table.grad, mdp.visits(logits) * (table.detach() - true), **EXACT)


def test_kl_in_the_reward_is_the_gradient_of_the_regularised_objective(world) -> None:
    """E[score] − β KL, differentiated by autograd through all probabilities, against PPO's advantages with k1."""
    mdp, logits, reference = world
    beta = 0.3
    free = logits.clone().requires_grad_()
    logp, logp_ref = mdp.logprobs(free), mdp.logprobs(reference)  # [M, T] both
    objective = (mdp.probabilities(free) * (mdp.returns() - beta * (logp - logp_ref).sum(1))).sum()
    objective.backward()
    for estimator, is_right in (("k1", True), ("k2", False), ("k3", False)):
        kl = kl_estimate(logp.detach(), logp_ref, estimator)
        shaped = mdp.rewards + token_rewards(
            torch.zeros(len(mdp.texts), dtype=torch.float64), mdp.mask, kl=kl, kl_coef=beta
        )
        advantages, _ = generalized_advantages(shaped, torch.zeros_like(shaped), mdp.mask, lam=1.0)
        found = mdp.expected_score(logits, advantages)
        assert torch.allclose(found, free.grad, **EXACT) is is_right, estimator


# -- per-token rewards, whitening, the value loss --------------------------------------------------------------


def test_the_score_stands_at_the_last_token() -> None:
    mask = torch.tensor([[1, 1, 1], [1, 0, 0], [0, 0, 0]])
    kl = torch.tensor([[1.0, 2.0, 3.0], [4.0, math.nan, 5.0], [6.0, 7.0, 8.0]], dtype=torch.float64)
    scores = torch.tensor([10.0, 20.0, 30.0], dtype=torch.float64)
    found = token_rewards(scores, mask, kl=kl, kl_coef=0.5)
    assert found.tolist() == [[-0.5, -1.0, 8.5], [18.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    assert token_rewards(scores, mask).tolist() == [[0.0, 0.0, 10.0], [20.0, 0.0, 0.0], [0.0, 0.0, 0.0]]


def test_whitening() -> None:
    x, _, _, mask = ragged(7)
    found = whiten(x.masked_fill(~mask, math.nan), mask)
    made = found[mask]
    assert abs(float(made.mean())) < 1e-12
    assert float(made.std(correction=0)) == pytest.approx(1.0, abs=1e-7)
    assert not found[~mask].any()
    kept = whiten(x, mask, shift_mean=False)
    torch.testing.assert_close((kept - found)[mask], x[mask].mean().expand(int(mask.sum())), **EXACT)
    assert not whiten(torch.full_like(x, 3.0), mask).any()  # no spread: no advantage, and no nan


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_whitening_does_not_blow_rounding_up(dtype) -> None:
    """A mean in float32 is off by the last digit, and 1e-7/√1e-8 = 1e-3 would be an advantage."""
    same = torch.full((7, 13), 1.3, dtype=dtype)
    same[0, 0] += torch.finfo(dtype).eps
    mask = torch.ones_like(same)
    assert not whiten(same, mask).any()
    assert torch.equal(whiten(same, mask, shift_mean=False), same)
    assert not whiten(same[:1, :1], mask[:1, :1]).any()  # nor has a single token a spread
    assert not whiten(same, torch.zeros_like(mask)).any()
    apart = same.clone()
    apart[0, 0] += 1e-4
    assert whiten(apart, mask)[0, 0] > 0.05
    assert whiten(apart, mask).dtype == dtype


def loop_value_loss(values, old, returns, mask, eps):
    """(loss, gradient), the derivative worked out by hand."""
    count = sum(map(sum, mask))
    total, gradient = 0.0, [[0.0] * len(row) for row in values]
    for i, row in enumerate(mask):
        for t, here in enumerate(row):
            if not here:
                continue
            v, o, r = values[i][t], old[i][t], returns[i][t]
            held = v if eps is None else min(max(v, o - eps), o + eps)
            if (held - r) ** 2 > (v - r) ** 2:
                total += 0.5 * (held - r) ** 2 / count
            else:
                total += 0.5 * (v - r) ** 2 / count
                gradient[i][t] = (v - r) / count
    return total, gradient


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([None, 0.01, 0.2, 5.0]))
def test_value_loss_is_the_loops(seed: int, eps: float | None) -> None:
    values, old, _, mask = ragged(seed)
    returns = ragged(seed + 1)[0]
    values = values.masked_fill(~mask, math.nan).requires_grad_()
    found = value_loss(values, old, returns, mask, cliprange_value=eps)
    found.loss.backward()
    loss, gradient = loop_value_loss(
        values.tolist(), old.tolist(), returns.tolist(), mask.int().tolist(), eps
    )
    assert float(found.loss.detach()) == pytest.approx(loss, abs=1e-10)
    torch.testing.assert_close(values.grad, torch.tensor(gradient, dtype=torch.float64), **EXACT)


def test_micro_batches_of_the_value_loss_add_up() -> None:
    values, old, _, mask = ragged(11)
    returns = ragged(12)[0]
    whole = value_loss(values, old, returns, mask).loss
    parts = [
        value_loss(values[rows], old[rows], returns[rows], mask[rows], tokens=int(mask.sum())).loss
        for rows in (slice(0, 2), slice(2, 3), slice(3, 5))
    ]
    torch.testing.assert_close(sum(parts), whole, **EXACT)


def test_explained_variance() -> None:
    values, _, _, mask = ragged(13)
    assert explained_variance(values, values, mask) == 1.0
    assert explained_variance(torch.zeros_like(values), values, mask) == pytest.approx(0.0)
    assert math.isnan(explained_variance(values, torch.ones_like(values), mask))
    almost = torch.ones_like(values)
    almost[0, 0] += 2 * torch.finfo(values.dtype).eps  # rounding is no variance to explain
    assert math.isnan(explained_variance(values, almost, mask))
    assert math.isnan(explained_variance(values, values, torch.zeros_like(mask)))


def test_adaptive_kl() -> None:
    controller = AdaptiveKL(0.1, target=6.0, horizon=1000)
    assert controller.update(12.0, 100) == pytest.approx(0.1 * (1 + 0.2 * 0.1))  # error held at 0.2
    assert controller.update(6.0, 100) == pytest.approx(0.102)
    assert controller.update(5.7, 100) == pytest.approx(0.102 * (1 - 0.05 * 0.1))
    assert AdaptiveKL(0.1).update(99.0, 100) == 0.1
    assert AdaptiveKL(1.0, 1.0, horizon=1).update(-5.0, 10_000) == pytest.approx(0.8)
    controller = AdaptiveKL(0.1, target=6.0, horizon=1000)
    assert controller.update(math.nan, 100) == 0.1  # a broken step breaks none that follow
    assert controller.update(math.inf, 100) == pytest.approx(0.102)


ONE = torch.ones(1, 2)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: generalized_advantages(torch.ones(1, 3), ONE, ONE), ["rewards", "(1, 3)", "(1, 2)"]),
        (lambda: generalized_advantages(ONE, ONE, ONE, gamma=1.5), ["gamma=1.5", "0 to 1"]),
        (lambda: generalized_advantages(ONE, ONE, ONE, lam=-0.1), ["lam=-0.1"]),
        (lambda: generalized_advantages(ONE, ONE, ONE, bootstrap=torch.ones(2)), ["bootstrap", "[1]"]),
        (lambda: generalized_advantages(ONE, ONE, torch.tensor([[0, 1]])), ["mask", "gap"]),
        (lambda: token_rewards(torch.ones(2), ONE), ["scores", "(2,)", "[1]"]),
        (lambda: value_loss(ONE, ONE, ONE, ONE, cliprange_value=0.0), ["cliprange_value=0.0", "above 0"]),
        (lambda: whiten(torch.ones(2, 2), ONE), ["x=(2, 2)"]),
        (lambda: AdaptiveKL(0.0, target=6.0), ["kl_coef=0.0", "stay 0"]),
        (lambda: AdaptiveKL(0.1, target=-1.0), ["kl_target=-1.0"]),
        (lambda: AdaptiveKL(0.1, target=1.0, horizon=0), ["kl_horizon=0"]),
    ],
)
def test_what_is_refused(call, said: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        call()
    for part in said:
        assert part in str(caught.value)
