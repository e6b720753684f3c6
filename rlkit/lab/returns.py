"""What a step was worth: returns, temporal-difference errors, generalized advantages, over episodes [N, T].

Symbols: r reward, V value function, γ discount, λ how far to look, δ temporal-difference error.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlkit.lab.episodes import Episodes
from rlkit.objectives import gae


def discounted_returns(rewards: Tensor, gamma: float) -> Tensor:  # [N, T]
    """G_t = r_t + γ G_{t+1}: what came from step t on. `rewards` [N, T] are 0 after an episode's end.

    An episode that was cut off counts as if nothing had followed. Source: Sutton & Barto (2018), eq. 3.9.
    """
    return gae.discounted_sums(rewards, gamma)


def td_errors(batch: Episodes, values: Tensor, next_values: Tensor, gamma: float) -> Tensor:  # [N, T]
    """δ_t = r_t + γ V(s_{t+1}) - V(s_t), with V = 0 after a terminal step and V(s_{t+1}) where it was merely cut off.

    `values` and `next_values` are V(s_t) and V(s_{t+1}), [N, T]. 0 after an episode's end. Source: Sutton & Barto
    (2018), eq. 6.5; the difference between ending and being cut off: Pardo et al. 2018, arXiv:1712.00378.
    """
    follows = torch.where(batch.terminated, 0.0, next_values)  # [N, T]
    return gae.td_errors(batch.rewards, values, follows, batch.mask, gamma)


def generalized_advantages(deltas: Tensor, gamma: float, lam: float) -> Tensor:  # [N, T]
    """A_t = Σ_l (γλ)^l δ_{t+l}: λ = 0 is the one-step error, λ = 1 return minus value.

    `deltas` [N, T] from `td_errors`, 0 after an episode's end. Source: Schulman et al. 2015, "High-Dimensional
    Continuous Control Using Generalized Advantage Estimation", arXiv:1506.02438, eq. 16.
    """
    return gae.discounted_sums(deltas, gamma * lam)  # the same sum, of other numbers
