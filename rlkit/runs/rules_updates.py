"""What losses, gradients, entropy, KL and the engine's log-probabilities say: are the updates sound?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import fmean
from typing import Any

from rlkit.runs.evidence import ENOUGH, WINDOW, Diagnosis, Evidence, lately, number, percent


def no_gradient(run: Evidence) -> Diagnosis | None:
    """There is something to learn, yet no gradient reaches the weights."""
    norms, dead = run.recent("grad_norm"), run.mean("dead_groups")
    if len(norms) < 3 or max(norms) > 1e-10 or dead is None or dead > 0.99:
        return None
    return Diagnosis(
        "no_gradient",
        "problem",
        f"The gradient was 0 {lately(len(norms))} although {percent(1 - dead)} of groups have reward spread.",
        "Check that some parameters require a gradient (is the adapter attached?) and that not every token "
        "is masked.",
    )


def not_finite(run: Evidence) -> Diagnosis | None:
    """Steps that were skipped for a NaN or infinite gradient, or that should have been."""

    def broken(row: Mapping[str, Any]) -> bool:
        numbers = (row.get("loss"), row.get("grad_norm"))
        return bool(row.get("skipped")) or any(isinstance(v, float) and not math.isfinite(v) for v in numbers)

    bad = [row.get("step") for row in run.steps if broken(row)]
    if not bad:
        return None
    lately = sum(broken(row) for row in run.steps[-WINDOW:])
    steps = ", ".join(str(step) for step in bad[-3:])
    return Diagnosis(
        "not_finite",
        "problem" if lately >= 3 else "warning" if lately else "info",
        f"{len(bad)} of {len(run.steps)} steps had a NaN or infinite gradient "
        f"({lately} of the last {min(len(run.steps), WINDOW)}; most recently step {steps}).",
        "One is no harm. If they go on: lower the learning rate, use bf16 instead of fp16, and look at the "
        "kept batch for a log-probability of -∞.",
    )


def loss_zero(run: Evidence) -> Diagnosis | None:
    """The loss that alarms newcomers: on-policy it is minus the mean advantage, 0 by construction."""
    losses, norm = run.recent("loss"), run.mean("grad_norm")
    if not losses or run.loss_type not in ("grpo", "gspo") or run.amount("beta") or not run.on_policy:
        return None
    if max(abs(v) for v in losses) > 1e-5 or not norm:
        return None
    return Diagnosis(
        "loss_zero",
        "info",
        f"Loss 0.000 is normal here (loss_type {run.loss_type}, β = 0, on-policy): the advantages of a group "
        f"sum to 0. Its gradient does not vanish: grad-norm is {number(norm)}.",
        "Watch the reward and the accuracy, not the loss.",
    )


def loss_not_zero(run: Evidence) -> Diagnosis | None:
    """Token-weighted losses: the advantages still sum to 0, but long completions count more."""
    losses = run.recent("loss")
    if not losses or run.loss_type not in ("dapo", "dr_grpo", "bnpo"):
        return None
    if run.amount("beta") or run.amount("entropy_coef"):
        return None
    if not run.on_policy or max(abs(v) for v in losses) <= 1e-5:
        return None
    return Diagnosis(
        "loss_not_zero",
        "info",
        f"Loss {number(max(losses, key=abs))} is not 0 although the run is on-policy with β = 0. That is normal for "
        f"loss_type {run.loss_type}: it weighs tokens, so that longer completions count more.",
        "Neither its size nor its sign says how well it learns. Watch the reward and the accuracy.",
    )


def entropy_collapse(run: Evidence) -> Diagnosis | None:
    """The policy has stopped trying other answers before it was good."""
    values, accuracy = run.values("entropy"), run.mean("accuracy")
    if len(values) < WINDOW:
        return None
    start, now = fmean(values[:3]), fmean(values[-3:])
    if start <= 0 or now >= 0.1 * start or (accuracy is not None and accuracy >= 0.9):
        return None
    other = "fewer num_ppo_epochs" if run.ppo else "a higher epsilon_high"
    so_far = "" if accuracy is None else f" while accuracy is only {accuracy:.2f}"
    return Diagnosis(
        "entropy_collapse",
        "warning",
        f"Entropy fell from {number(start)} to {number(now)} nats a token{so_far}: the model says the same "
        f"thing each time, so {'rewards' if run.ppo else 'groups'} lose their spread.",
        f"Start again from an earlier checkpoint with a lower learning rate, {other}, an "
        "entropy bonus or a higher temperature.",
    )


def kl_growth(run: Evidence) -> Diagnosis | None:
    """The policy runs away from the reference: 0.2 nats a token is far, and doubling is fast."""
    values = run.values("kl")
    if len(values) < ENOUGH:
        return None
    before, now = fmean(values[-2 * WINDOW : -WINDOW]), fmean(values[-WINDOW:])
    if now < 0.2 or now < 2 * before:
        return None
    return Diagnosis(
        "kl_growth",
        "problem" if now > 2 else "warning",
        f"KL to the reference grew from {number(before)} to {number(now)} nats a token within {2 * WINDOW} "
        "steps.",
        f"Read the completions: if they degrade, lower the learning rate or raise {'kl_coef' if run.ppo else 'beta'}.",
    )


def engine_gap(run: Evidence) -> Diagnosis | None:
    """The engine samples from other probabilities than those that are trained; 1e-3 is much in fp32."""
    gap, worst = run.mean("engine_gap"), max(run.recent("engine_gap_max"), default=0.0)
    if gap is None:
        return None
    low = run.low_precision
    if gap <= (0.1 if low else 0.05):
        if not low or gap < 0.01:
            return None
        return Diagnosis(
            "engine_gap_16bit",
            "info",
            f"Engine and trainer differ by {number(gap)} nats a token on average: expected in 16-bit "
            "arithmetic (0.01 to 0.1).",
            "Nothing to do while it stays there; importance-sampling correction takes it out of the "
            "gradient.",
        )
    expected = "0.01 to 0.1 is usual in 16 bits" if low else "below 0.001 is usual in 32 bits"
    at_most = f", at most {number(worst)}" if worst else ""
    return Diagnosis(
        "engine_gap",
        "problem",
        f"Engine and trainer differ by {number(gap)} nats a token on average{at_most} ({expected}): what "
        "was sampled is not what is trained.",
        "Likely causes: old weights in the engine, another temperature, a truncated distribution (top-p, "
        "top-k), or another dtype. Look at the sync checks first.",
    )


def tiny_updates(run: Evidence) -> Diagnosis | None:
    """bf16 keeps 8 significant bits: near 0.02 a weight moves in steps of 1e-4, smaller updates are lost."""
    rates = run.values("learning_rate")
    highest = max(rates, default=0.0)
    adapter = run.setting("lora", "lora_rank", "lora_alpha", "load_in_4bit", default=False)
    if (
        not run.low_precision
        or adapter
        or run.setting("master_weights", "fp32_master_weights", default=False)
    ):
        return None
    if not 0 < highest < 1e-5:
        return None
    return Diagnosis(
        "tiny_updates",
        "warning",
        f"The learning rate is at most {number(highest)} and the weights are in 16 bits: most updates are "
        "smaller than the rounding and vanish.",
        "Keep master weights in fp32, train an adapter, or use fp32.",
    )


def gradient_clipped(run: Evidence) -> Diagnosis | None:
    """max_grad_norm cuts in nearly every step, so that it, not the data, sets the step's length."""
    limit, norms = run.amount("max_grad_norm"), run.recent("grad_norm")
    if not limit or len(norms) < 5:
        return None
    clipped, typical = sum(norm > limit for norm in norms), sorted(norms)[len(norms) // 2]
    if clipped < 0.9 * len(norms):
        return None
    return Diagnosis(
        "gradient_clipped",
        "warning" if typical > 10 * limit else "info",
        f"The gradient was clipped {clipped} times {lately(len(norms))} (typical norm {number(typical)}, "
        f"max_grad_norm {number(limit)}): every step counts the same, noisy ones too.",
        "Harmless while the reward rises (Adam undoes a constant factor). If it jumps about, take more "
        "completions a step or a lower learning rate.",
    )
