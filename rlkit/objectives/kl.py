"""KL divergence from samples: three estimators, and what each of them does to a gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from rlkit.errors import bad_value, unknown_name
from rlkit.objectives.names import KL_ESTIMATORS


def kl_estimate(
    logp_new: Tensor,  # [N, T]
    logp_ref: Tensor,  # [N, T]
    estimator: str = "k3",
) -> Tensor:  # [N, T]
    """Estimate the reverse divergence KL(pi_new || pi_ref) at each token, from tokens that pi_new sampled.

    With d = logp_ref - logp_new, in nats:

        k1 = -d                   k2 = d^2 / 2                   k3 = exp(d) - d - 1

    logp_new, logp_ref: log-probabilities (nats) of the sampled tokens under the trained and the reference
    policy, same shape. Returns the estimate at each token, same shape; logp_ref is detached.

    | estimator | its mean over samples of pi_new       | the mean of its gradient, used in a loss |
    |-----------|---------------------------------------|------------------------------------------|
    | k1        | KL(new || ref) exactly; can be < 0    | 0: it does nothing but add noise         |
    | k2        | biased, close when the two are close  | that of the reverse KL(new || ref)       |
    | k3        | KL(new || ref) exactly; never < 0     | that of the *forward* KL(ref || new)     |

    A good estimate of the value is therefore not a good loss. The reason is that a loss differentiates the
    estimate and not the sampling; k1 belongs in the reward, where the policy gradient does differentiate
    the sampling. Multiplying k1 or k3 by the ratio rho brings the missing part back, and the mean gradient
    is the reverse KL's (`use_bias_correction_kl` of `policy_loss`).

    Raises ConfigError for an unknown estimator or differing shapes.

    Source: J. Schulman, "Approximating KL divergence" (2020), whose p is our pi_ref and whose q is our
    pi_new, and who speaks of values only. GRPO (arXiv:2402.03300) puts k3 in the loss. Some libraries write
    the log ratio the other way round: k2 near 0 hardly notices, k1 and k3 then estimate something else.
    """
    if estimator not in KL_ESTIMATORS:
        raise unknown_name("kl_estimator", estimator, KL_ESTIMATORS)
    if logp_new.shape != logp_ref.shape:
        raise bad_value("logp_ref", tuple(logp_ref.shape), f"the shape of logp_new, {tuple(logp_new.shape)}")
    d = logp_ref.detach() - logp_new  # [N, T]
    if estimator == "k1":
        return -d
    if estimator == "k2":
        return 0.5 * d * d
    # expm1(d) is exp(d) - 1 without cancellation: in float32, at d = 1e-4, exp(d) - d - 1 is all rounding.
    return torch.expm1(d) - d
