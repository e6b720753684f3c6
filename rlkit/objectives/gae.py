"""What single tokens were worth: per-token rewards, temporal-difference errors, GAE, and the value loss of PPO.

A completion is an episode: the state s_t is the prompt with the tokens before token t, the action is token t, and the
episode ends with the completion's last token. A row's tokens stand at its left; the mask says how many there are.

Symbols: r reward, V value, γ discount, λ how far to look, δ temporal-difference error, A advantage, R = A + V return.
Sizes: N completions, T tokens of the longest. Sums run in the type of the inputs, at least float32.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rlkit.errors import bad_value

_EPS = 1e-8  # added to a variance, in units of the numbers squared; TRL's
_DUST = 8  # numbers within so many steps of their type are the same but for rounding


class ValueLoss(NamedTuple):
    """The value loss, and where clipping took its gradient away."""

    loss: Tensor  # []      minimise this
    clipped: Tensor  # [N, T]  bool: the value had left the clip range and being held back costs more


def discounted_sums(numbers: Tensor, factor: float) -> Tensor:  # [N, T]
    """S_t = x_t + factor · S_{t+1}: what comes from t on. `numbers` [N, T] are 0 after a row's end.

    With rewards and γ these are returns (Sutton & Barto 2018, eq. 3.9).
    """
    sums = torch.zeros_like(numbers)  # [N, T]
    ahead = torch.zeros_like(numbers[:, 0])  # [N]
    for t in reversed(range(numbers.shape[1])):
        ahead = numbers[:, t] + factor * ahead
        sums[:, t] = ahead
    return sums


def td_errors(
    rewards: Tensor,  # [N, T]
    values: Tensor,  # [N, T]  V(s_t)
    next_values: Tensor,  # [N, T]  V(s_{t+1}), 0 where nothing follows
    mask: Tensor,  # [N, T]
    gamma: float,
) -> Tensor:  # [N, T]
    """δ_t = r_t + γ V(s_{t+1}) − V(s_t), 0 where masked (Sutton & Barto 2018, eq. 6.5)."""
    return torch.where(mask != 0, rewards + gamma * next_values - values, 0.0)


def following_values(
    values: Tensor,  # [N, T]
    mask: Tensor,  # [N, T]
    bootstrap: Tensor | None = None,  # [N]
) -> Tensor:  # [N, T]
    """V(s_{t+1}) of every token: the next token's value, and behind the last one `bootstrap` (None: 0).

    An episode that ended is worth nothing from there on; one that was merely cut off is worth what its last state
    was (Pardo et al. 2018, arXiv:1712.00378), so its `bootstrap` is V of the state behind its last token.
    """
    active = mask != 0  # [N, T]
    after = torch.zeros_like(values)  # [N, T]
    after[:, :-1] = torch.where(active[:, 1:], values[:, 1:], 0.0)
    if bootstrap is not None:
        last = last_tokens(mask)  # [N, T]
        after = torch.where(last, bootstrap.to(values.dtype)[:, None], after)
    return after


def last_tokens(mask: Tensor) -> Tensor:  # [N, T] bool
    """Where each row's last active token stands; nowhere in a row without any."""
    active = mask != 0  # [N, T]
    behind = torch.zeros_like(active)
    behind[:, :-1] = active[:, 1:]
    return active & ~behind


def generalized_advantages(
    rewards: Tensor,  # [N, T]
    values: Tensor,  # [N, T]
    mask: Tensor,  # [N, T]
    *,
    gamma: float = 1.0,
    lam: float = 0.95,
    bootstrap: Tensor | None = None,  # [N]
) -> tuple[Tensor, Tensor]:  # [N, T] both
    """A_t = Σ_l (γλ)^l δ_{t+l}, and the returns R_t = A_t + V(s_t) that the value model is to learn.

    rewards: of each token (`token_rewards`). values: V(s_t), the value of the prompt and the tokens before token t.
    mask: non-zero on a completion's tokens, which stand at the left of its row; whatever lies elsewhere, nan
    included, does not matter. bootstrap: V of the state behind the last token of completions that were cut
    off, 0 for those that ended; None: 0 for all.

    λ = 0 is the one-step error (little noise, as wrong as V is), λ = 1 return minus value (right on average whatever V
    is, noisy). Without gradient; 0 where masked.

    Raises ConfigError for differing shapes, a mask with a gap, or γ or λ outside [0, 1]. Source: Schulman et al. 2015,
    "High-Dimensional Continuous Control Using Generalized Advantage Estimation", arXiv:1506.02438, eq. 16.
    """
    _check(mask, rewards=rewards, values=values)
    if bootstrap is not None and bootstrap.shape != mask.shape[:1]:
        raise bad_value("bootstrap", tuple(bootstrap.shape), f"one value a completion, [{mask.shape[0]}]")
    for name, number in (("gamma", gamma), ("lam", lam)):
        if not 0 <= number <= 1:
            raise bad_value(name, number, "a number from 0 to 1")
    active = mask != 0  # [N, T]
    compute = torch.promote_types(torch.promote_types(rewards.dtype, values.dtype), torch.float32)
    r = torch.where(active, rewards.detach().to(compute), 0.0)  # [N, T]
    v = torch.where(active, values.detach().to(compute), 0.0)  # [N, T]
    following = following_values(v, active, None if bootstrap is None else bootstrap.detach())  # [N, T]
    advantages = discounted_sums(td_errors(r, v, following, active, gamma), gamma * lam)  # [N, T]
    return advantages, torch.where(active, advantages + v, 0.0)


def token_rewards(
    scores: Tensor,  # [N]
    mask: Tensor,  # [N, T]
    *,
    kl: Tensor | None = None,  # [N, T]
    kl_coef: float = 0.0,
) -> Tensor:  # [N, T]
    """r_t = −kl_coef · KL_t, and at a completion's last token its score on top.

    scores: what the reward functions gave, [N]. kl: an estimate of KL(π_old || π_ref) at each token in nats,
    [N, T] (`kl_estimate`), from the policy that sampled. With k1 the expected policy gradient of this reward is that
    of E[score] − kl_coef · KL exactly (γ = 1), for the gradient of k1 itself is 0 on average; with k2 and k3 that part
    is not 0, and is missing.

    Without gradient; 0 where masked; a completion without tokens has nowhere to put its score. Raises
    ConfigError for differing shapes. Source: Ziegler et al. 2019, arXiv:1909.08593, eq. 2.
    """
    given = {} if kl is None else {"kl": kl}
    _check(mask, **given)
    if scores.shape != mask.shape[:1]:
        raise bad_value("scores", tuple(scores.shape), f"one score a completion, [{mask.shape[0]}]")
    scores = scores.detach()
    rewards = torch.where(last_tokens(mask), scores[:, None], torch.zeros_like(scores)[:, None])  # [N, T]
    if kl is None or kl_coef == 0:
        return rewards
    return rewards - torch.where(mask != 0, kl_coef * kl.detach(), 0.0)


def whiten(
    x: Tensor,  # [N, T]
    mask: Tensor,  # [N, T]
    shift_mean: bool = True,
) -> Tensor:  # [N, T]
    """(x − mean) / √(variance + 1e-8) over the active tokens; 0 where masked.

    shift_mean: False adds the mean back, unscaled, as TRL whitens rewards: their sign means something. Numbers that
    are all the same but for rounding (largest and smallest within 8 steps of their type) become exactly 0, or stay:
    rounding scaled up by 1/√1e-8 would be an advantage, and Adam makes real steps of any. The variance is the
    population's; TRL divides by one less, which is the same but for a factor of √(1 − 1/n). Sums are in float64.
    Raises ConfigError for differing shapes.
    """
    _check(mask, x=x)
    active = mask != 0  # [N, T]
    clean = torch.where(active, x, 0.0)  # [N, T]
    made = x[active].double()  # [tokens]
    if not _has_spread(made, x.dtype):
        return torch.zeros_like(clean) if shift_mean else clean
    mean = made.mean()  # []
    away = torch.where(active, clean.double() - mean, 0.0)  # [N, T]
    scaled = away * torch.rsqrt(away.square().sum() / len(made) + _EPS)  # [N, T]
    return torch.where(active, scaled if shift_mean else scaled + mean, 0.0).to(x.dtype)


def value_loss(
    values: Tensor,  # [N, T]
    old_values: Tensor,  # [N, T]
    returns: Tensor,  # [N, T]
    mask: Tensor,  # [N, T]
    *,
    cliprange_value: float | None = 0.2,
    tokens: float | None = None,
) -> ValueLoss:
    """½ · mean over the tokens of max( (V − R)², (clip(V, V_old − ε, V_old + ε) − R)² ).

    values: under the weights in training; the gradient flows through these. old_values: when the advantages were
    computed. returns: R = A + V_old. cliprange_value: ε, in units of the reward; None: no clipping, (V − R)² alone.
    tokens: active tokens of the whole optimizer batch, so that micro-batches add up to it; None: of this mask.

    The larger of the two errors counts, so a value that left the range *towards* its target gets no gradient, and
    one that left it away from the target does. Raises ConfigError for differing shapes or an ε that is not above 0.
    Source: the value clipping of OpenAI's baselines (ppo2), as in TRL.
    """
    _check(mask, values=values, old_values=old_values, returns=returns)
    if cliprange_value is not None and not cliprange_value > 0:
        raise bad_value("cliprange_value", cliprange_value, "a number above 0, or None for no clipping")
    active = mask != 0  # [N, T]
    compute = torch.promote_types(values.dtype, torch.float32)
    v = torch.where(
        active, values.to(compute), 0.0
    )  # [N, T]; before the square, so that garbage has no gradient
    old = torch.where(active, old_values.detach().to(compute), 0.0)  # [N, T]
    target = torch.where(active, returns.detach().to(compute), 0.0)  # [N, T]
    error = (v - target).square()  # [N, T]
    clipped = torch.zeros_like(active)
    if cliprange_value is not None:
        held = (
            torch.maximum(torch.minimum(v, old + cliprange_value), old - cliprange_value) - target
        ).square()
        clipped = (held > error) & active
        error = torch.where(clipped, held, error)  # max, without half a gradient where the two are equal
    count = float(active.sum()) if tokens is None else tokens
    return ValueLoss(0.5 * error.sum() / max(count, 1.0), clipped)


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> float:
    """1 − Var(R − V) / Var(R) over the active tokens: 1 is a perfect V, 0 a constant one; nan where R is constant.

    Constant but for rounding counts as constant, as for `whiten`. Raises ConfigError for differing shapes.
    """
    _check(mask, values=values, returns=returns)
    active = mask != 0
    target = returns[active].double()  # [tokens]
    if not _has_spread(target, returns.dtype):
        return float("nan")
    left = (target - values[active].double()).var(correction=0)
    return float(1.0 - left / target.var(correction=0))


def _has_spread(numbers: Tensor, dtype: torch.dtype) -> bool:  # [tokens]
    """Whether numbers that were computed in ``dtype`` differ by more than rounding; False for none at all."""
    if not len(numbers):
        return False
    apart = numbers.max() - numbers.min()
    return not bool(apart <= _DUST * torch.finfo(dtype).eps * numbers.abs().max())  # nan: True


def _check(mask: Tensor, **tensors: Tensor) -> None:
    if mask.dim() != 2:
        raise bad_value("mask", tuple(mask.shape), "a tensor of shape [N, T]")
    for name, tensor in tensors.items():
        if tensor.shape != mask.shape:
            raise bad_value(name, tuple(tensor.shape), f"the shape of mask, {tuple(mask.shape)}")
    active = mask != 0
    if bool((active[:, 1:] & ~active[:, :-1]).any()):
        cause = "Tokens stand at the left of their row; a token behind a gap would follow nothing."
        raise bad_value("mask", "a row with a gap", "rows of ones followed by zeros", cause)
