"""Who acts and who judges: a policy's logits and a value for each state, as a table or from a small network.

A state is a number. A table has a row for each and learns each by itself; a network sees the state's features [S, D]
and carries over what it learns from one state to others like it. Everything is float64.
"""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn

from rlkit.errors import ConfigError


class Policy(nn.Module):
    """π(a|s) = softmax(logits(s)) over the actions; `forward` takes states [...] and gives logits [..., A]."""

    n_states: int

    def probabilities(self) -> Tensor:  # [S, A]
        """π(a|s) for all states, without gradient: what `rlkit.lab.planning` takes."""
        with torch.no_grad():
            return self(torch.arange(self.n_states)).softmax(-1)


class TabularPolicy(Policy):
    """A softmax over a row of logits for each state; zeros, the uniform policy, to begin with."""

    def __init__(self, n_states: int, n_actions: int) -> None:
        super().__init__()
        self.n_states = n_states
        self.logits = nn.Parameter(torch.zeros(n_states, n_actions, dtype=torch.float64))  # [S, A]

    @classmethod
    def of(cls, env: Any) -> Self:
        """One that fits an environment whose observations and actions are numbers (`gymnasium.spaces.Discrete`)."""
        return cls(*_sizes(env))

    def forward(self, states: Tensor) -> Tensor:  # [...] → [..., A]
        return self.logits[states]


class TabularValue(nn.Module):
    """V(s), a number for each state; 0 to begin with. `forward` takes states [...] and gives values [...]."""

    def __init__(self, n_states: int) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.zeros(n_states, dtype=torch.float64))  # [S]

    @classmethod
    def of(cls, env: Any) -> Self:
        """One that fits an environment whose observations are numbers."""
        return cls(_sizes(env)[0])

    def forward(self, states: Tensor) -> Tensor:  # [...] → [...]
        return self.values[states]


class NetworkPolicy(Policy):
    """Features [S, D] → one hidden layer of tanh units → logits; the last layer begins near zero, so π near uniform."""

    features: Tensor

    def __init__(self, features: Tensor, n_actions: int, hidden: int = 64, seed: int = 0) -> None:
        super().__init__()
        self.n_states = features.shape[0]
        self.register_buffer("features", features.double())  # [S, D]
        self.net = _network(features.shape[1], hidden, n_actions, seed)

    @classmethod
    def of(cls, env: Any, hidden: int = 64, seed: int = 0) -> Self:
        """One that fits an environment; without `features` of its own, one 0/1 a state."""
        return cls(_features(env), _sizes(env)[1], hidden, seed)

    def forward(self, states: Tensor) -> Tensor:  # [...] → [..., A]
        return self.net(self.features[states])


class NetworkValue(nn.Module):
    """Features [S, D] → one hidden layer of tanh units → V(s)."""

    features: Tensor

    def __init__(self, features: Tensor, hidden: int = 64, seed: int = 1) -> None:
        super().__init__()
        self.register_buffer("features", features.double())  # [S, D]
        self.net = _network(features.shape[1], hidden, 1, seed)

    @classmethod
    def of(cls, env: Any, hidden: int = 64, seed: int = 1) -> Self:
        """One that fits an environment."""
        return cls(_features(env), hidden, seed)

    def forward(self, states: Tensor) -> Tensor:  # [...] → [...]
        return self.net(self.features[states]).squeeze(-1)


def _network(inputs: int, hidden: int, outputs: int, seed: int) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        last = nn.Linear(hidden, outputs)
        net = nn.Sequential(nn.Linear(inputs, hidden), nn.Tanh(), last).double()
    with torch.no_grad():
        last.weight.mul_(0.01)
        last.bias.zero_()
    return net


def _sizes(env: Any) -> tuple[int, int]:
    """(S, A) of an environment."""
    spaces = (env.observation_space, env.action_space)
    if not all(hasattr(space, "n") for space in spaces):
        raise ConfigError(
            f"{env} has observations {spaces[0]} and actions {spaces[1]}. Allowed: Discrete spaces, numbers from 0; "
            "the lab's policies look states up"
        )
    return int(spaces[0].n), int(spaces[1].n)


def _features(env: Any) -> Tensor:  # [S, D]
    given = getattr(env.unwrapped, "features", None)
    return torch.eye(_sizes(env)[0], dtype=torch.float64) if given is None else given
