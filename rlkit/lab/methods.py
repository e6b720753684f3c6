"""The policy-gradient methods, each on one screen: REINFORCE, REINFORCE with a baseline, actor-critic (PPO: `lab.ppo`).

All have the same signature, train the policy (and the value function) that they are given, and return a `History`:

    method(env, policy, value, *, updates, episodes, gamma, learning_rate, entropy_coef, seed, value_learning_rate)

    env             a `gymnasium` environment whose observations and actions are numbers
    policy, value   from `lab.policies`; methods without a value function ignore `value`
    updates         how often the weights are moved; each time `episodes` new episodes are played
    gamma           γ; as usual, the factor γ^t of the exact gradient of the discounted return is left out, so later
                    steps count as much as early ones
    learning_rate   of Adam; the defaults suit tables. Networks need less, an entropy bonus and more updates: 3e-3 with
                    entropy_coef=0.03, updates=600 (PPO: 100)
    entropy_coef    weight of the entropy bonus, which keeps the policy trying things
    seed            of the actions and of the environments' luck
    value_learning_rate  that of the value function, None for the same. One-step actor-critic with networks needs about
                    ten times the policy's: a critic that lags behind teaches nonsense

Symbols: π policy, V value function, G return from a step on, A advantage, N episodes, T steps (padded, masked).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rlkit.errors import ConfigError, bad_value
from rlkit.lab.episodes import Episodes, History, copies, sample_episodes
from rlkit.lab.returns import discounted_returns, td_errors


def reinforce(
    env: Any,
    policy: nn.Module,
    value: nn.Module | None = None,
    *,
    updates: int = 300,
    episodes: int = 16,
    gamma: float = 0.99,
    learning_rate: float = 0.05,
    entropy_coef: float = 0.0,
    seed: int = 0,
    value_learning_rate: float | None = None,
) -> History:
    """REINFORCE: make every action as much likelier as the return that followed it was high.

        ∇J ≈ 1/N Σ_i Σ_t G_it ∇ log π(a_it | s_it)

    Unbiased where gamma is 1, and noisy: where all returns are high, whatever was tried gets likelier, even the bad.
    Source: Williams 1992, "Simple Statistical Gradient-Following Algorithms"; Sutton & Barto (2018), section 13.3.
    """
    envs, generator, adam = prepare(env, policy, None, episodes, gamma, learning_rate, seed)
    history = History(policy)
    for _ in range(updates):
        batch = sample_episodes(envs, policy, generator)
        returns = discounted_returns(batch.rewards, gamma)  # [N, T] G
        logp, entropy = look_up(policy, batch)  # [N, T] both
        loss = -(logp * returns + entropy_coef * entropy).sum() / episodes
        step(adam, loss)
        history.add(batch, loss=loss, entropy=entropy.sum() / batch.mask.sum())
    return history


def reinforce_with_baseline(
    env: Any,
    policy: nn.Module,
    value: nn.Module | None = None,
    *,
    updates: int = 300,
    episodes: int = 16,
    gamma: float = 0.99,
    learning_rate: float = 0.05,
    entropy_coef: float = 0.0,
    seed: int = 0,
    value_learning_rate: float | None = None,
) -> History:
    """REINFORCE with a baseline: compare the return with what was to be expected in that state.

        A_it = G_it - V(s_it)      ∇J ≈ 1/N Σ_i Σ_t A_it ∇ log π(a_it | s_it)      V learns G by least squares

    V changes the noise and not the mean, since Σ_a ∇π(a|s) = 0. Source: Sutton & Barto (2018), section 13.4.
    """
    value = needs_value(value, "reinforce_with_baseline")
    envs, generator, adam = prepare(
        env, policy, value, episodes, gamma, learning_rate, seed, value_learning_rate
    )
    history = History(policy, value)
    for _ in range(updates):
        batch = sample_episodes(envs, policy, generator)
        returns = discounted_returns(batch.rewards, gamma)  # [N, T] G
        errors = torch.where(batch.mask, returns - value(batch.states), 0.0)  # [N, T] A
        logp, entropy = look_up(policy, batch)  # [N, T] both
        loss = -(logp * errors.detach() + entropy_coef * entropy).sum() / episodes
        value_loss = 0.5 * errors.square().sum() / episodes
        step(adam, loss + value_loss)
        history.add(batch, loss=loss, value_loss=value_loss, entropy=entropy.sum() / batch.mask.sum())
    return history


def actor_critic(
    env: Any,
    policy: nn.Module,
    value: nn.Module | None = None,
    *,
    updates: int = 300,
    episodes: int = 16,
    gamma: float = 0.99,
    learning_rate: float = 0.05,
    entropy_coef: float = 0.0,
    seed: int = 0,
    value_learning_rate: float | None = None,
) -> History:
    """Actor-critic: let the value function say what an action was worth, without waiting for the episode's end.

        δ_it = r_it + γ V(s_i,t+1) - V(s_it)      ∇J ≈ 1/N Σ_i Σ_t δ_it ∇ log π(a_it | s_it)      V learns r + γ V(s')

    Less noise than a return, and a bias as long as V is wrong. Source: Sutton & Barto (2018), section 13.5.
    """
    value = needs_value(value, "actor_critic")
    envs, generator, adam = prepare(
        env, policy, value, episodes, gamma, learning_rate, seed, value_learning_rate
    )
    history = History(policy, value)
    for _ in range(updates):
        batch = sample_episodes(envs, policy, generator)
        with torch.no_grad():  # the target counts as given: semi-gradient
            next_values = value(batch.next_states)  # [N, T]
        deltas = td_errors(batch, value(batch.states), next_values, gamma)  # [N, T] δ
        logp, entropy = look_up(policy, batch)  # [N, T] both
        loss = -(logp * deltas.detach() + entropy_coef * entropy).sum() / episodes
        value_loss = 0.5 * deltas.square().sum() / episodes
        step(adam, loss + value_loss)
        history.add(batch, loss=loss, value_loss=value_loss, entropy=entropy.sum() / batch.mask.sum())
    return history


# -- what the methods share --------------------------------------------------------------------------------------


def prepare(
    env: Any,
    policy: nn.Module,
    value: nn.Module | None,
    episodes: int,
    gamma: float,
    learning_rate: float,
    seed: int,
    value_learning_rate: float | None = None,
) -> tuple[list[Any], torch.Generator, torch.optim.Adam]:
    """Copies of the environment, a seeded generator, and one Adam for policy and value function."""
    if not 0 < gamma <= 1:
        raise bad_value("gamma", gamma, "a number above 0, at most 1")
    rates = {"learning_rate": learning_rate, "value_learning_rate": value_learning_rate or learning_rate}
    for name, rate in rates.items():
        if not rate > 0:
            raise bad_value(name, rate, "a number above 0")
    adam = torch.optim.Adam(policy.parameters(), lr=learning_rate)
    if value is not None:
        adam.add_param_group({"params": list(value.parameters()), "lr": rates["value_learning_rate"]})
    return copies(env, episodes, seed), torch.Generator().manual_seed(seed), adam


def look_up(policy: nn.Module, batch: Episodes) -> tuple[Tensor, Tensor]:
    """log π(a_t|s_t) and the entropy of π(·|s_t) in nats, [N, T] both; 0 after an episode's end."""
    logp = policy(batch.states).log_softmax(-1)  # [N, T, A]
    taken = logp.gather(-1, batch.actions[..., None])[..., 0]  # [N, T]
    entropy = -(logp.exp() * logp).sum(-1)  # [N, T]
    return torch.where(batch.mask, taken, 0.0), torch.where(batch.mask, entropy, 0.0)


def step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One step downhill."""
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def needs_value(value: nn.Module | None, method: str) -> nn.Module:
    """The value function, or the error that says that there is none."""
    if value is None:
        raise ConfigError(f"{method} compares with a value function. Give one: lab.TabularValue.of(env)")
    return value
