"""What every token of a completion may have a number for: name, unit, formula, and where it counts as strong."""

from __future__ import annotations

import math
from dataclasses import dataclass

LEVELS = 4  # of strength, beside 0


@dataclass(frozen=True)
class Quantity:
    """Something that every token has a number for.

    Attributes:
        label, unit: for people; the unit "" where it has none.
        formula: what exactly it is.
        middle: the value that has no colour.
        steps: distances from ``middle`` at which strength 1, 2, 3, 4 begin; None: quarters of the largest distance
            in the completion.
        signed: whether both sides of ``middle`` are told apart.
    """

    label: str
    unit: str
    formula: str
    middle: float = 0.0
    steps: tuple[float, ...] | None = None
    signed: bool = True


_LOGP_STEPS = tuple(-math.log(p) for p in (0.9, 0.5, 0.1, 0.01))

QUANTITIES: dict[str, Quantity] = {
    "push": Quantity(
        "push (advantage-weighted gradient)",
        "",
        "−∂loss/∂z of the sampled token, z its logit divided by the temperature: (1 − π) · (−∂loss/∂log π). Without "
        "clipping, KL and engine weight −∂loss/∂log π = w · A · ρ, w the token's weight in the loss. Above 0: made "
        "likelier; below 0: less likely. Before the norm is clipped and Adam scales it.",
    ),
    "logp": Quantity(
        "log-probability",
        "nats",
        "log π of the sampled token under the policy that sampled it, at the sampling temperature: the trainer's where "
        "it was kept, else the engine's.",
        steps=_LOGP_STEPS,
        signed=False,
    ),
    "ratio": Quantity(
        "ratio ρ",
        "",
        "ρ = π_new / π_old in the last pass of the update (one for the whole completion at level “sequence”); clipped "
        "outside [1 − ε, 1 + ε_high].",
        middle=1.0,
    ),
    "kl": Quantity(
        "KL to the reference",
        "nats",
        "log π_new − log π_ref: k1, the estimate whose mean is KL(π_new ‖ π_ref).",
        steps=(0.01, 0.1, 0.5, 2.0),
    ),
    "entropy": Quantity(
        "entropy",
        "nats",
        "H = −Σ π log π over the whole vocabulary: how open the choice was.",
        steps=(0.05, 0.25, 1.0, 2.0),
        signed=False,
    ),
    "mismatch": Quantity(
        "engine/trainer difference",
        "nats",
        "log π_old (trainer) − log π (engine): the same weights in two arithmetics.",
        steps=(1e-4, 1e-3, 1e-2, 1e-1),
    ),
    "token_advantage": Quantity("advantage of the token", "", "A as PPO's loss took it."),
    "value": Quantity(
        "value V", "reward", "V before the token: what the value model expected still to come."
    ),
    "token_reward": Quantity("reward of the token", "reward", "r, with the KL penalty and the score in it."),
    "token_return": Quantity("return", "reward", "R = A + V, before whitening: what V is to learn."),
}
