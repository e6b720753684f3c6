"""Say in words what a run's numbers mean and what to change.

Each rule is one small function from the evidence to a ``Diagnosis`` or None. A rule looks at a window of
the last ``WINDOW`` steps; where it asks whether something rose or fell, it compares that window with the
first one of the same length. The thresholds stand in the rules, with their reasons.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, pstdev
from typing import Any

from rlkit.runs import schema
from rlkit.runs.evidence import ENOUGH, WINDOW, Diagnosis, Evidence, finite, number, percent

__all__ = ["Diagnosis", "Evidence", "diagnose"]

PATIENCE = 300  # steps that GRPO on a real model may need before its reward rises

Rule = Callable[[Evidence], Diagnosis | None]
_RANK = {"problem": 0, "warning": 1, "info": 2}


def _lately(count: int) -> str:
    return "in the last step" if count == 1 else f"in the last {count} steps"


# ------------------------------------------------------------------------- what stops learning


def truncated(run: Evidence) -> Diagnosis | None:
    """Completions cut at the token limit: their answer is missing, so their reward says nothing."""
    share = run.mean("truncated")
    if share is None or share <= 0.2:
        return None
    cap = int(run.amount("max_completion_length") or max(run.recent("completion_length_max"), default=0))
    # The lengths beyond the cap were never seen: double it, or quadruple it where nearly all reach it.
    aim = cap * (4 if share > 0.8 else 2)
    change = f"max_completion_length from {cap} to ~{aim}" if cap else "max_completion_length"
    masked = " They are masked out of the loss." if run.setting("mask_truncated_completions") else ""
    return Diagnosis(
        "truncated",
        "problem" if share > 0.5 else "warning",
        f"{percent(share)} truncated {_lately(len(run.recent('truncated')))}: the answer was cut off before "
        f"it came.{masked}",
        f"Raise {change}, or ask for shorter answers in the prompt. If the text rambles on, the model never "
        "learned to stop: check its end-of-sequence token and chat template.",
    )


def never_right(run: Evidence) -> Diagnosis | None:
    """p(right) = 0: nothing to reinforce. RL raises the probability of what was sampled; it cannot invent."""
    accuracy = run.recent("accuracy")
    if (
        len(accuracy) < 3
        or max(accuracy) > 0
        or max(run.values("accuracy_sampled", run.evals), default=0) > 0
    ):
        return None
    count = int(len(accuracy) * run.amount("prompts_per_step") * run.amount("num_generations"))
    among = f" ({count:,} completions)" if count else ""
    return Diagnosis(
        "never_right",
        "problem",
        f"Not one answer was right {_lately(len(accuracy))}{among}: the probability of a right answer is 0 "
        "or close to it, and then RL will never work.",
        "Warm start first: fine-tune on a few worked examples, take easier problems or a stronger model, "
        "or add a reward for steps on the way. Read some completions: a format that the verifier cannot "
        "parse looks the same.",
    )


def same_reward(run: Evidence) -> Diagnosis | None:
    """No verifier to ask, but every completion got one and the same reward."""
    rewards, dead = run.recent("reward"), run.recent("dead_groups")
    if (
        run.recent("accuracy")
        or len(rewards) < 3
        or not dead
        or min(dead) < 1
        or max(rewards) - min(rewards) > 1e-9
    ):
        return None
    return Diagnosis(
        "same_reward",
        "problem",
        f"Every completion got the same reward, {number(rewards[-1])}, {_lately(len(rewards))}: there is "
        "nothing to learn from.",
        "If that is the lowest reward, the model never does what is rewarded and RL will never work: warm "
        "start it first, or add a reward for steps on the way. If it is the highest, the task is solved.",
    )


def dead_groups(run: Evidence) -> Diagnosis | None:
    """Groups whose completions all got the same reward: all their advantages are 0."""
    share, accuracy = run.mean("dead_groups"), run.mean("accuracy")
    seen = len(run.recent("dead_groups"))
    if share is None or share <= 0.5 or seen < 3 or never_right(run) or same_reward(run):
        return None
    what = f"{percent(share)} of groups have no reward spread {_lately(seen)}: they teach nothing"
    if accuracy is None:
        return Diagnosis(
            "dead_groups",
            "warning",
            f"{what}.",
            "Look at the samples: where all are good, take harder problems; where all are bad, easier "
            "ones, a warm start, or more num_generations.",
        )
    # Groups with spread are about half right on average, so the rest of the accuracy sits in dead groups.
    right = min(max(accuracy - 0.5 * (1 - share), 0.0), share)
    wrong = share - right
    if right >= 0.8 * share:
        return Diagnosis(
            "dead_groups_right",
            "info",
            f"{what}. Nearly all of them are all-right (accuracy {accuracy:.2f}): the model has learned "
            "these problems.",
            "Stop here, or go on with harder problems.",
        )
    if wrong >= 0.8 * share:
        return Diagnosis(
            "dead_groups_wrong",
            "problem" if share > 0.8 else "warning",
            f"{what}. Nearly all of them are all-wrong (accuracy {accuracy:.2f}): the problems are too hard "
            "for now.",
            "Take easier problems first, raise num_generations so that a right answer turns up, warm start "
            "by fine-tuning, or reward steps on the way.",
        )
    return Diagnosis(
        "dead_groups_mixed",
        "warning",
        f"{what}. Roughly {percent(right)} of all groups are all-right and {percent(wrong)} all-wrong "
        f"(estimated from accuracy {accuracy:.2f}): within a group the answers hardly differ.",
        "Raise temperature or num_generations, and choose problems that the model gets right some of the "
        "time.",
    )


def no_gradient(run: Evidence) -> Diagnosis | None:
    """There is something to learn, yet no gradient reaches the weights."""
    norms, dead = run.recent("grad_norm"), run.mean("dead_groups")
    if len(norms) < 3 or max(norms) > 1e-10 or dead is None or dead > 0.99:
        return None
    return Diagnosis(
        "no_gradient",
        "problem",
        f"The gradient was 0 {_lately(len(norms))} although {percent(1 - dead)} of groups have reward "
        "spread.",
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


# ------------------------------------------------------------------------- what the loss means


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


# --------------------------------------------------------------------------- what may go wrong


def entropy_collapse(run: Evidence) -> Diagnosis | None:
    """The policy has stopped trying other answers before it was good."""
    values, accuracy = run.values("entropy"), run.mean("accuracy")
    if len(values) < WINDOW:
        return None
    start, now = fmean(values[:3]), fmean(values[-3:])
    if start <= 0 or now >= 0.1 * start or (accuracy is not None and accuracy >= 0.9):
        return None
    so_far = "" if accuracy is None else f" while accuracy is only {accuracy:.2f}"
    return Diagnosis(
        "entropy_collapse",
        "warning",
        f"Entropy fell from {number(start)} to {number(now)} nats a token{so_far}: the model says the same "
        "thing each time, so groups lose their spread.",
        "Start again from an earlier checkpoint with a lower learning rate, a higher epsilon_high, an "
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
        "Read the completions: if they degrade, lower the learning rate or raise beta.",
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


def reward_constant(run: Evidence) -> Diagnosis | None:
    """Reward functions that never varied lately: they cancel out of the advantages."""
    names = [name for name in run.names(schema.REWARDS) if len(run.recent(name)) >= 5]
    flat = [name for name in names if max(run.recent(name)) - min(run.recent(name)) < 1e-9]
    if not flat:
        return None
    said = ", ".join(
        f"{name[len(schema.REWARDS) :]!r} was always {number(run.recent(name)[-1])}" for name in flat
    )
    return Diagnosis(
        "reward_constant",
        "warning" if len(flat) == len(names) else "info",
        f"{said} {_lately(min(len(run.steps), WINDOW))}: it teaches nothing now.",
        "Fine where it is the highest possible (learned, or given away for free). Otherwise test the "
        "function on a completion that you wrote by hand.",
    )


def reward_unscored(run: Evidence) -> Diagnosis | None:
    """Reward functions that returned None for everything."""
    names = run.names(schema.UNSCORED)
    silent = [name[len(schema.UNSCORED) :] for name in names if min(run.recent(name), default=0.0) >= 1]
    if not silent:
        return None
    said = ", ".join(repr(name) for name in silent)
    return Diagnosis(
        "reward_unscored",
        "problem" if len(silent) == len(names) else "warning",
        f"{said} scored nothing {_lately(min(len(run.steps), WINDOW))}: None for every completion.",
        'None means "does not apply". Is the column that it reads in the data set, and does its pattern '
        "match the completions?",
    )


def reward_hacking(run: Evidence) -> Diagnosis | None:
    """The reward rises while the answers get worse: since the window of best accuracy."""
    found = [(finite(row.get("reward")), finite(row.get("accuracy"))) for row in run.steps]
    pairs = [(r, a) for r, a in found if r is not None and a is not None]
    if len(pairs) < ENOUGH:
        return None
    parts = [pairs[end - WINDOW : end] for end in range(len(pairs), WINDOW - 1, -WINDOW)][::-1]
    best, last = max(parts, key=lambda part: fmean(a for _, a in part)), parts[-1]
    right, right_now = (fmean(a for _, a in part) for part in (best, last))
    reward, reward_now = (fmean(r for r, _ in part) for part in (best, last))
    noise = 2 * math.sqrt(sum(pstdev([r for r, _ in part]) ** 2 for part in (best, last)) / WINDOW)
    if right - right_now < 0.1 or reward_now - reward <= noise:
        return None
    return Diagnosis(
        "reward_hacking",
        "problem",
        f"The reward rose from {number(reward)} to {number(reward_now)} while accuracy fell from "
        f"{right:.2f} to {right_now:.2f}: the model found a way to the reward that is not the right answer.",
        "Read the completions with the highest reward, find the loophole, and weigh the verifier more or "
        "close it.",
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
        f"The gradient was clipped {clipped} times {_lately(len(norms))} (typical norm {number(typical)}, "
        f"max_grad_norm {number(limit)}): every step counts the same, noisy ones too.",
        "Harmless while the reward rises (Adam undoes a constant factor). If it jumps about, take more "
        "completions a step or a lower learning rate.",
    )


def length_drift(run: Evidence) -> Diagnosis | None:
    """Completions twice as long, or half as long, as at the start."""
    change, reward = run.change("completion_length"), run.change("reward")
    if change is None or change[0] <= 0:
        return None
    first, last, error = change
    if not (last > 2 * first or last < 0.5 * first) or abs(last - first) <= error:
        return None
    better = reward is not None and reward[1] - reward[0] > reward[2]
    grew = last > first
    return Diagnosis(
        "length_drift",
        "info" if better else "warning",
        f"Completions {'grew' if grew else 'shrank'} from {number(first)} to {number(last)} tokens on average"
        f"{' while the reward rose' if better else ' and the reward did not rise with it'}.",
        ("Longer reasoning may be what helps; watch the share of truncated ones. " if grew else "")
        + (
            "Does a reward function favour length, or the loss (loss_type grpo divides by it)?"
            if not better
            else "Read a few."
        ),
    )


# ----------------------------------------------------------------------- whether it is learning


def reward_trend(run: Evidence) -> Diagnosis | None:
    """Whether the reward rose, and how long to wait before worrying that it does not."""
    change, accuracy = run.change("reward"), run.mean("accuracy")
    if change is None or (accuracy is not None and accuracy >= 0.9):
        return None
    first, last, error = change
    count = len(run.steps)
    numbers = f"(first {WINDOW} steps {number(first)}, last {WINDOW} {number(last)})"
    if first - last > error and first - last > 0.1 * max(abs(first), 1e-9):
        return Diagnosis(
            "reward_fell",
            "problem",
            f"The reward fell {numbers}.",
            "Most often the learning rate is too high: go back to a checkpoint and try a third of it.",
        )
    if last - first > error:
        return None
    if count < PATIENCE:
        return Diagnosis(
            "patience",
            "info",
            f"The reward has not risen yet after {count} steps {numbers}.",
            f"With a real model that is common: wait for about {PATIENCE} steps. Until then read "
            "completions and check that groups have reward spread.",
        )
    return Diagnosis(
        "reward_flat",
        "warning",
        f"The reward has not risen in {count} steps {numbers}.",
        "That is long enough to look for a cause: groups without spread, a learning rate that is too low, "
        "a reward that does not follow what you want, or a model that cannot do the task yet.",
    )


def held_out(run: Evidence) -> Diagnosis | None:
    """First against last evaluation on problems that were not trained on."""
    accuracies = run.values("accuracy_greedy", run.evals)
    if len(accuracies) < 2:
        return None
    first, last, n = accuracies[0], accuracies[-1], int(max(run.values("n", run.evals), default=0))
    variance = max(first * (1 - first) + last * (1 - last), 0.0) / n if n > 0 else 0.0
    noise = 2 * math.sqrt(variance)
    numbers = f"from {first:.2f} to {last:.2f}" + (f" on {n} problems" if n > 0 else "")
    if last - first > noise:
        return Diagnosis(
            "held_out_rose",
            "info",
            f"Held-out accuracy (greedy) rose {numbers}: more than chance would do.",
            "",
        )
    if first - last > noise:
        return Diagnosis(
            "held_out_fell",
            "problem",
            f"Held-out accuracy (greedy) fell {numbers}: more than chance would do.",
            "Compare with the accuracy in training: where that rose, the model memorises; where it fell "
            "too, the learning rate is too high or the reward asks for something else.",
        )
    return Diagnosis(
        "held_out_same",
        "info",
        f"Held-out accuracy (greedy) went {numbers}: no more than chance may do (±{noise:.2f}).",
        "",
    )


RULES: tuple[Rule, ...] = (
    not_finite,
    never_right,
    same_reward,
    truncated,
    dead_groups,
    no_gradient,
    engine_gap,
    reward_hacking,
    reward_unscored,
    entropy_collapse,
    kl_growth,
    tiny_updates,
    held_out,
    reward_trend,
    length_drift,
    reward_constant,
    gradient_clipped,
    loss_zero,
    loss_not_zero,
)


def diagnose(metrics: Sequence[Mapping[str, Any]], config: Mapping[str, Any]) -> list[Diagnosis]:
    """Every finding about a run, worst first.

    ``metrics``: lines of ``metrics.jsonl`` in order; step lines, and evaluation lines where there are some
    (a line without ``event`` is a step). ``config``: the run's config; settings may stand in sections.
    """
    steps = [row for row in metrics if row.get("event", "step") == "step"]
    evals = [row for row in metrics if row.get("event") == "eval"]
    evidence = Evidence(steps, evals, config)
    found = [finding for rule in RULES if (finding := rule(evidence)) is not None]
    return sorted(found, key=lambda finding: _RANK[finding.severity])
