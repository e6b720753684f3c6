"""A KL coefficient that looks for a given divergence from the reference policy."""

from __future__ import annotations

import math

from rlkit.errors import bad_value

MOST = 0.2  # of the coefficient, in units of completions / horizon, at one update


class AdaptiveKL:
    """Raise the coefficient where the policy is further from the reference than wanted, lower it where it is nearer.

        error = clip(KL / target − 1, −0.2, 0.2)        β ← β · (1 + error · completions / horizon)

    Source: Ziegler et al. 2019, arXiv:1909.08593, section 2.2.

    Args:
        kl_coef: β to begin with, above 0.
        target: KL of a completion (summed over its tokens) to look for, in nats; None: β stays as it is.
        horizon: completions after which β has changed by at most 20 %; the smaller, the quicker.

    Raises:
        ConfigError: a β of 0, which no factor can change; or a target or a horizon that is not above 0.

    >>> controller = AdaptiveKL(0.1, target=6.0, horizon=1000)
    >>> controller.update(kl=12.0, completions=100)
    0.102
    """

    def __init__(self, kl_coef: float, target: float | None = None, horizon: float = 10_000) -> None:
        if target is not None:
            if not kl_coef > 0:
                cause = "It is changed by factors, and 0 would stay 0."
                raise bad_value("kl_coef", kl_coef, "above 0 with kl_target", cause)
            if not target > 0:
                raise bad_value(
                    "kl_target", target, "nats a completion, above 0, or None for a fixed kl_coef"
                )
            if not horizon > 0:
                raise bad_value("kl_horizon", horizon, "completions, above 0")
        self.value, self.target, self.horizon = float(kl_coef), target, horizon

    def update(self, kl: float, completions: int) -> float:
        """Take note of the mean KL, in nats, of so many new completions; returns the coefficient from now on.

        A KL that is NaN says nothing, and β stays: one broken step must not break all that follow.
        """
        if self.target is not None and not math.isnan(kl):
            error = min(max(kl / self.target - 1.0, -MOST), MOST)
            self.value *= 1.0 + error * min(completions / self.horizon, 1.0)  # at most 20 % at once
        return self.value
