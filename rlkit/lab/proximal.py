"""Proximal policy optimization on one screen. The signature is that of `rlkit.lab.methods`, with PPO's own settings."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from rlkit.lab.episodes import Episodes, History, sample_episodes
from rlkit.lab.methods import look_up, needs_value, prepare, step
from rlkit.lab.returns import generalized_advantages, td_errors
from rlkit.objectives import clipped_term


def ppo(
    env: Any,
    policy: nn.Module,
    value: nn.Module | None = None,
    *,
    updates: int = 100,
    episodes: int = 16,
    gamma: float = 0.99,
    learning_rate: float = 0.03,
    entropy_coef: float = 0.0,
    seed: int = 0,
    value_learning_rate: float | None = None,
    lam: float = 0.95,
    epsilon: float = 0.2,
    epochs: int = 4,
    mini_batches: int = 2,
) -> History:
    """PPO: several steps from the same episodes, and no gain from leaving the old policy's neighbourhood.

        A = generalized advantages (lam = λ), whitened        rho = π_new(a|s) / π_old(a|s)
        maximise  mean of  min(rho A, clip(rho, 1 - ε, 1 + ε) A) + entropy_coef · H        V learns A + V_old

    `epochs` times over the episodes, in `mini_batches` parts of episodes each; the history's numbers are means over
    these steps. Source: Schulman et al. 2017, arXiv:1707.06347; the loss is `rlkit.objectives.clipped_term`.
    """
    value = needs_value(value, "ppo")
    envs, generator, adam = prepare(
        env, policy, value, episodes, gamma, learning_rate, seed, value_learning_rate
    )
    history = History(policy, value)
    for _ in range(updates):
        batch = sample_episodes(envs, policy, generator)
        with torch.no_grad():
            logp_old, _ = look_up(policy, batch)  # [N, T]
            values = value(batch.states)  # [N, T]
            deltas = td_errors(batch, values, value(batch.next_states), gamma)  # [N, T]
            advantages = generalized_advantages(deltas, gamma, lam)  # [N, T]
            targets = advantages + values  # [N, T]
            made = advantages[batch.mask]  # [all steps]
            advantages = (advantages - made.mean()) / (made.std(correction=0) + 1e-8)
        seen = []
        for _ in range(epochs):
            for rows in torch.randperm(episodes, generator=generator).chunk(mini_batches):
                part = Episodes(*(column[rows] for column in batch))  # [n, T] each
                logp, entropy = look_up(policy, part)  # [n, T] both
                term = clipped_term((logp - logp_old[rows]).exp(), advantages[rows], epsilon=epsilon)
                steps = part.mask.sum()
                loss = -(term.objective * part.mask + entropy_coef * entropy).sum() / steps
                errors = torch.where(part.mask, targets[rows] - value(part.states), 0.0)  # [n, T]
                value_loss = 0.5 * errors.square().sum() / steps
                step(adam, loss + value_loss)
                clipped = ((term.low | term.high) & part.mask).sum() / steps
                seen.append(
                    [loss.item(), value_loss.item(), entropy.sum().item() / float(steps), float(clipped)]
                )
        names = ("loss", "value_loss", "entropy", "clipped")
        history.add(batch, **dict(zip(names, torch.tensor(seen).mean(0).tolist())))
    return history
