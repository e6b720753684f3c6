"""The policy loss and its gradient once more, in plain Python floats: the oracle of test_policy_loss.py.

It shares nothing with rlkit: no tensors, no autograd, the derivatives worked out by hand. Rows are lists;
a completion is given by its per-token lists and a mask of zeros and ones.
"""

import math


def _mean(values):
    return math.fsum(values) / len(values) if values else 0.0


def _kl(new, ref, estimator):
    """One token's KL estimate, and its derivative by `new`."""
    if estimator == "k1":
        return new - ref, 1.0
    if estimator == "k2":
        return (new - ref) ** 2 / 2.0, new - ref
    return math.exp(ref - new) + new - ref - 1.0, 1.0 - math.exp(ref - new)


def _clipped(rho, a, low, high, delta):
    """-min(min(rho, delta) * a, clip(rho) * a), and its derivative by rho."""
    if a > 0:  # the smaller product belongs to the smaller ratio: bounded from above only
        return (-rho * a, -a) if rho <= high else (-high * a, 0.0)
    if a < 0:  # the smaller product belongs to the larger ratio: bounded from below, and by delta from above
        if rho < low:
            return -low * a, 0.0
        if delta is not None and rho > delta:
            return -delta * a, 0.0
        return -rho * a, -a
    return 0.0, 0.0


def _divisor(loss_type, length, rows, tokens, longest):
    if loss_type in ("grpo", "gspo"):
        return rows * length
    if loss_type in ("bnpo", "dapo"):
        return tokens
    assert loss_type == "dr_grpo"
    return rows * longest


def reference_loss(
    new,
    old,
    advantages,
    mask,
    *,
    ref=None,
    entropy=None,
    is_weight=None,
    loss_type="grpo",
    level="token",
    epsilon=0.2,
    epsilon_high=0.2,
    delta=None,
    beta=0.0,
    kl_estimator="k3",
    corrected_kl=False,
    entropy_coef=0.0,
    longest=None,
    rows=None,
    tokens=None,
):
    """Return (loss, gradient by new, gradient by entropy); every argument a list of lists of floats [N][T].

    rows and tokens: counts of the whole optimizer batch (None: of these rows).
    """
    if rows is None:
        rows = len(new)
    if tokens is None:
        tokens = sum(1 for row in mask for m in row if m)
    low, high = 1.0 - epsilon, 1.0 + epsilon_high
    pieces = []
    grad = [[0.0] * len(row) for row in new]
    grad_entropy = [[0.0] * len(row) for row in new]
    for i, row in enumerate(new):
        live = [t for t in range(len(row)) if mask[i][t]]
        if not live:
            continue
        divisor = _divisor(loss_type, len(live), rows, tokens, longest)
        sequence_rho = math.exp(_mean([row[t] - old[i][t] for t in live]))
        for t in live:
            rho = math.exp(row[t] - old[i][t]) if level == "token" else sequence_rho
            value, by_rho = _clipped(rho, advantages[i][t], low, high, delta)
            if is_weight is not None:
                value *= is_weight[i][t]
                by_rho *= is_weight[i][t]
            if beta:
                kl, by_new = _kl(row[t], ref[i][t], kl_estimator)
                factor = rho if corrected_kl else 1.0
                value += beta * kl * factor
                grad[i][t] += beta * by_new * factor / divisor
                if corrected_kl:
                    by_rho += beta * kl
            if entropy_coef:
                value -= entropy_coef * entropy[i][t]
                grad_entropy[i][t] -= entropy_coef / divisor
            pieces.append(value / divisor)
            if level == "token":
                grad[i][t] += by_rho * rho / divisor
            else:  # rho depends on every live token of the completion, each with 1 / |o_i|
                for s in live:
                    grad[i][s] += by_rho * rho / len(live) / divisor
    return math.fsum(pieces), grad, grad_entropy
