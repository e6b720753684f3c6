"""Small exact worlds: reinforcement learning where every number can be worked out and compared with.

    from rlkit import lab
    env = lab.PacmanGrid("guide")
    policy, value = lab.TabularPolicy.of(env), lab.TabularValue.of(env)
    history = lab.ppo(env, policy, value)
    lab.expected_return(env.model, policy.probabilities()) / lab.optimal_return(env.model)

The worlds: `pacman` (a grid, for `gymnasium`), `bandit` (one token), `mdp` (four tokens), `probes` (five environments
that each test one thing). What is exact about them: `planning`. Who acts in them: `policies`, which `methods` and
`proximal` (PPO) train. `patience`, `patience_models` and `pruning` are about luck: how long one has to draw, and what
learning does to that.

Importing it registers the environment ``rlkit/PacmanGrid-v0``. Names are looked up on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import gymnasium

_HOME = {  # exported name -> the module that defines it
    "PacmanGrid": "pacman",
    "TransitionModel": "planning",
    "Plan": "planning",
    "value_iteration": "planning",
    "policy_evaluation": "planning",
    "optimal_return": "planning",
    "expected_return": "planning",
    "SoftmaxBandit": "bandit",
    "two_armed_flow": "bandit",
    "TokenMDP": "mdp",
    "TabularPolicy": "policies",
    "TabularValue": "policies",
    "NetworkPolicy": "policies",
    "NetworkValue": "policies",
    "Episodes": "episodes",
    "History": "episodes",
    "sample_episodes": "episodes",
    "discounted_returns": "returns",
    "td_errors": "returns",
    "generalized_advantages": "returns",
    "reinforce": "methods",
    "reinforce_with_baseline": "methods",
    "actor_critic": "methods",
    "ppo": "proximal",
}
_SUBMODULES = (
    "bandit", "episodes", "mdp", "methods", "pacman", "patience", "patience_models", "planning", "policies",
    "probes", "proximal", "pruning", "returns",
)  # fmt: skip

__all__ = [*_HOME, *_SUBMODULES]

if "rlkit/PacmanGrid-v0" not in gymnasium.registry:
    gymnasium.register(id="rlkit/PacmanGrid-v0", entry_point="rlkit.lab.pacman:PacmanGrid")


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    elif name in _SUBMODULES:
        value = import_module(f"{__name__}.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
