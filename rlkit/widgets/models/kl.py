"""Three estimators of the KL divergence on a distribution so small that everything about them is exact."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Categorical, kl_divergence

from rlkit.errors import bad_value
from rlkit.lab.patience import Interval, mean_interval
from rlkit.objectives import importance_ratio, kl_estimate
from rlkit.objectives.names import KL_ESTIMATORS

TOKENS = ("the", "a", "one", "no")

#: The reference policy's logits.
REFERENCES: dict[str, tuple[float, ...]] = {
    "a favourite": (2.0, 1.0, 0.0, -1.0),
    "all equal": (0.0, 0.0, 0.0, 0.0),
    "one almost never": (1.0, 1.0, 1.0, -4.0),
}
POLICY = (1.0, 1.5, 0.5, -0.5)
MOST_DRAWS = 100_000


class Exact(NamedTuple):
    """What one estimator does under the policy, summed over all tokens."""

    estimator: str
    values: Tensor  # [V] nats at each token
    mean: float  # nats, over tokens drawn from the policy
    bias: float  # mean - KL(new || ref)
    spread: float  # standard deviation of a single draw
    lowest: float  # its least value at any token
    gradient: Tensor  # [V] the mean of its gradient for the policy's logits


class Sampled(NamedTuple):
    """The same from draws."""

    estimator: str
    interval: Interval  # mean of the draws ± 1.96 standard errors
    running: Tensor  # [n] mean of the first 1, 2, … draws


class KLModel:
    """A policy and a reference over a few tokens, both softmaxes.

    Args:
        logits, reference: [V], without a unit; only their differences count.
        tokens: what the tokens are called.
        bias_correction: multiply each estimate by the ratio, as `policy_loss(use_bias_correction_kl=True)` does.

    Raises `ConfigError` for lists of differing lengths, fewer than two tokens, or logits that are not finite.
    """

    def __init__(
        self,
        logits: Sequence[float] = POLICY,
        reference: Sequence[float] = REFERENCES["a favourite"],
        tokens: Sequence[str] = TOKENS,
        bias_correction: bool = False,
    ) -> None:
        if not len(logits) == len(reference) == len(tokens) or len(tokens) < 2:
            found = (len(logits), len(reference), len(tokens))
            raise bad_value("logits, reference, tokens", found, "the same number of each, 2 or more")
        self.tokens = tuple(tokens)
        self.logits = torch.tensor(list(logits), dtype=torch.float64)  # [V]
        self.reference = torch.tensor(list(reference), dtype=torch.float64)  # [V]
        for name, row in (("logits", self.logits), ("reference", self.reference)):
            if not bool(torch.isfinite(row).all()):
                raise bad_value(name, row.tolist(), "finite numbers")
        self.bias_correction = bias_correction

    # -- exact ------------------------------------------------------------------------------------------

    @property
    def probabilities(self) -> Tensor:  # [V]
        """The policy's."""
        return self.logits.softmax(-1)

    @property
    def reference_probabilities(self) -> Tensor:  # [V]
        return self.reference.softmax(-1)

    def _divergence(self, logits: Tensor, forward: bool) -> Tensor:  # []
        new, ref = Categorical(logits=logits), Categorical(logits=self.reference)
        return kl_divergence(ref, new) if forward else kl_divergence(new, ref)

    @property
    def reverse(self) -> float:
        """KL(new || ref), nats: what all three estimate."""
        return float(self._divergence(self.logits, False))

    @property
    def forward(self) -> float:
        """KL(ref || new), nats: the other direction."""
        return float(self._divergence(self.logits, True))

    def divergence_gradient(self, forward: bool = False) -> Tensor:  # [V]
        """∂KL/∂logits of the policy, by autograd."""
        logits = self.logits.clone().requires_grad_()
        return torch.autograd.grad(self._divergence(logits, forward), logits)[0]

    def _estimates(self, logits: Tensor, estimator: str) -> Tensor:  # [V]
        logp = logits.log_softmax(-1)[:, None]  # [V, 1]: each token as a completion of its own
        values = kl_estimate(logp, self.reference.log_softmax(-1)[:, None], estimator)
        if self.bias_correction:  # on-policy: the ratio is 1, and its gradient is not 0
            values = values * importance_ratio(logp - logp.detach(), torch.ones_like(logp))
        return values[:, 0]

    def exact(self, estimator: str) -> Exact:
        """Mean, spread and mean gradient of an estimator over the policy's tokens: sums, no draws.

        The gradient is that of a loss: draws are what they are, only the estimate is differentiated. Raises
        `ConfigError` for an unknown estimator.
        """
        logits = self.logits.clone().requires_grad_()
        values = self._estimates(logits, estimator)  # [V]
        weight = self.probabilities  # [V], not differentiated
        mean = (weight * values).sum()
        (gradient,) = torch.autograd.grad(mean, logits)
        values, mean = values.detach(), mean.detach()
        spread = (weight * (values - mean) ** 2).sum().sqrt()
        bias = float(mean) - self.reverse
        return Exact(estimator, values, float(mean), bias, float(spread), float(values.min()), gradient)

    def follows(self, gradient: Tensor, tolerance: float = 1e-9) -> str:
        """Whose gradient this is: "0", "reverse KL", "forward KL", "both" (where those two agree) or "neither"."""
        reverse, forward = self.divergence_gradient(), self.divergence_gradient(forward=True)
        if float(gradient.abs().max()) <= tolerance:
            return "0"
        is_reverse = bool(torch.allclose(gradient, reverse, rtol=0, atol=tolerance))
        is_forward = bool(torch.allclose(gradient, forward, rtol=0, atol=tolerance))
        if is_reverse and is_forward:
            return "both"
        return "reverse KL" if is_reverse else "forward KL" if is_forward else "neither"

    # -- sampled ----------------------------------------------------------------------------------------

    def draw(self, draws: int, seed: int = 0) -> Tensor:  # [n]
        """Tokens drawn from the policy; the first n of more draws are the same."""
        if not 1 <= draws <= MOST_DRAWS:
            raise bad_value("draws", draws, f"1 to {MOST_DRAWS:,}")
        luck = torch.rand(draws, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)  # [n]
        edges = self.probabilities.cumsum(-1)  # [V]
        return torch.searchsorted(edges / edges[-1], luck, right=True).clamp(max=len(self.tokens) - 1)

    def sampled(self, drawn: Tensor) -> list[Sampled]:
        """Each estimator's mean over drawn tokens [n]."""
        found = []
        for name in KL_ESTIMATORS:
            values = self._estimates(self.logits, name)[drawn]  # [n]
            running = values.cumsum(0) / torch.arange(1, len(values) + 1, dtype=torch.float64)
            found.append(Sampled(name, mean_interval(values), running))
        return found
