"""Planning: what the best policy earns, and what any policy earns, worked out from the rules instead of sampled.

Reinforcement learning must do without the rules. Whoever has them can say exactly how good what was learned is.
Symbols: V(s) value of a state, Q(s, a) of an action in it, π(a|s) policy, γ discount. Sizes: S states, A actions,
K possible outcomes of an action. All float64. Source: Sutton & Barto, "Reinforcement Learning" (2nd ed. 2018), ch. 4.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rlkit.errors import ConfigError, bad_value

MAX_SWEEPS = 100_000


class TransitionModel(NamedTuple):
    """The rules of a world: outcome k of action a in state s, its probability and its reward."""

    next_state: Tensor  # [S, A, K] int64
    probability: Tensor  # [S, A, K] float64, adds up to 1 over K
    reward: Tensor  # [S, A, K] float64
    terminal: Tensor  # [S] bool: nothing follows, V = 0
    start: Tensor  # [S] float64: where an episode begins
    horizon: int | None = None  # steps after which an episode is cut off; None: never


class Plan(NamedTuple):
    """The optimum; with a horizon, that of the first step."""

    values: Tensor  # [S] V*
    action_values: Tensor  # [S, A] Q*
    policy: Tensor  # [S, A] π*: 1 for the best action (the first of equals), else 0


def action_values(model: TransitionModel, values: Tensor, gamma: float) -> Tensor:  # [S, A]
    """Q(s, a) = Σ_k P(k|s, a) · (r_k + γ V(s'_k)), and 0 in terminal states; `values` is V [S]."""
    ahead = model.reward + gamma * values[model.next_state]  # [S, A, K]
    q = (model.probability * ahead).sum(-1)  # [S, A]
    return torch.where(model.terminal[:, None], 0.0, q)


def value_iteration(model: TransitionModel, gamma: float = 1.0, tolerance: float = 1e-12) -> Plan:
    """The optimum by Bellman's equation, V*(s) = max_a Q*(s, a), applied until nothing changes.

    With `model.horizon` = T it is applied T times: exactly the best return of an episode of at most T steps. Without,
    until no value changes by more than `tolerance`.

    Raises `ConfigError` for gamma outside (0, 1], and where values grow without end, as a positive reward for
    every step does with gamma = 1.
    """
    _check_gamma(gamma)
    values = torch.zeros(model.terminal.shape, dtype=torch.float64)  # [S]
    q = action_values(model, values, gamma)  # [S, A]
    for _sweep in range(MAX_SWEEPS if model.horizon is None else model.horizon):
        q = action_values(model, values, gamma)
        best = q.amax(-1)  # [S]
        change = float((best - values).abs().max())
        values = best
        if change <= tolerance:
            break
    else:
        if model.horizon is None:
            cause = (
                "Episodes that never end have no finite return; take a smaller gamma or a cost for each step."
            )
            raise bad_value("gamma", gamma, "a discount for which values settle", cause)
    policy = torch.nn.functional.one_hot(q.argmax(-1), q.shape[1]).double()  # [S, A]
    return Plan(values, q, policy)


def policy_evaluation(model: TransitionModel, policy: Tensor, gamma: float = 1.0) -> Tensor:  # [S]
    """V_π(s) of the policy π [S, A], exactly: with a horizon by as many backups, without by solving
    (I - γ P_π) V = r_π over the states that are not terminal.

    Raises `ConfigError` for a table that is no policy, and (gamma = 1, no horizon) for one that can go on for ever.
    """
    _check_gamma(gamma)
    pi = torch.as_tensor(policy).detach().double()  # [S, A]
    shape = tuple(model.next_state.shape[:2])
    if (
        tuple(pi.shape) != shape
        or bool((pi < 0).any())
        or not torch.allclose(pi.sum(-1), torch.ones(1).double())
    ):
        raise bad_value("policy", tuple(pi.shape), f"probabilities of shape {shape} whose rows add up to 1")
    if model.horizon is not None:
        values = torch.zeros(shape[0], dtype=torch.float64)  # [S]
        for _step in range(model.horizon):
            values = (pi * action_values(model, values, gamma)).sum(-1)
        return values
    weight = (pi[:, :, None] * model.probability).flatten(1)  # [S, A·K]
    moves = torch.zeros(shape[0], shape[0], dtype=torch.float64)  # [S, S] P_π
    moves.scatter_add_(1, model.next_state.flatten(1), weight)
    reward = (weight * model.reward.flatten(1)).sum(-1)  # [S] r_π
    going = ~model.terminal  # [S]
    system = torch.eye(int(going.sum()), dtype=torch.float64) - gamma * moves[going][:, going]
    solution, failed = torch.linalg.solve_ex(system, reward[going])  # [going]
    if bool(failed) or not bool(torch.isfinite(solution).all()):
        raise ConfigError(
            "this policy can go on for ever, and with gamma=1 its return has no value. Allowed: gamma below 1, or a "
            "model with a horizon"
        )
    return torch.zeros(shape[0], dtype=torch.float64).masked_scatter(going, solution)


def optimal_return(model: TransitionModel, gamma: float = 1.0) -> float:
    """The highest expected return of an episode, Σ_s P(start = s) V*(s)."""
    return float(model.start @ value_iteration(model, gamma).values)


def expected_return(model: TransitionModel, policy: Tensor, gamma: float = 1.0) -> float:
    """The expected return of an episode under the policy π [S, A], Σ_s P(start = s) V_π(s)."""
    return float(model.start @ policy_evaluation(model, policy, gamma))


def _check_gamma(gamma: float) -> None:
    if not 0 < gamma <= 1:
        raise bad_value("gamma", gamma, "a number above 0, at most 1")
