"""What rewards, groups, lengths and held-out results say: is there something to learn, and is it learned?"""

from __future__ import annotations

import math
from statistics import fmean, pstdev

from rlkit.runs import schema
from rlkit.runs.evidence import ENOUGH, WINDOW, Diagnosis, Evidence, finite, lately, number, percent

GIVEN_BACK = 0.2  # of what a reward had won, that it may lose again before it counts as lost
PATIENCE = 300  # steps that GRPO on a real model may need before its reward rises


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
        f"{percent(share)} truncated {lately(len(run.recent('truncated')))}: the answer was cut off before "
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
        f"Not one answer was right {lately(len(accuracy))}{among}: the probability of a right answer is 0 "
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
        f"Every completion got the same reward, {number(rewards[-1])}, {lately(len(rewards))}: there is "
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
    what = f"{percent(share)} of groups have no reward spread {lately(seen)}: they teach nothing"
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
        f"{said} {lately(min(len(run.steps), WINDOW))}: it teaches nothing now.",
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
        f"{said} scored nothing {lately(min(len(run.steps), WINDOW))}: None for every completion.",
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


def over_optimised(run: Evidence) -> Diagnosis | None:
    """The reward that is trained on rises, while one of weight 0, which is only looked at, falls from its best.

    Gao et al. 2022, arXiv:2210.10760: a reward model that stands for what people want is learned, then exploited.
    """
    total = run.change("reward")
    if total is None or total[1] - total[0] <= total[2]:
        return None
    fallen = []
    for name in run.names(schema.REWARDS):
        one = name[len(schema.REWARDS) :]
        values = run.values(name)
        if run.weights.get(one) != 0 or len(values) < ENOUGH:
            continue
        half = WINDOW // 2  # it may be gone within ten steps
        parts = [values[end - half : end] for end in range(len(values), half - 1, -half)][::-1]
        best, last = max(parts, key=fmean), parts[-1]
        # Three standard errors: the best of many windows is good partly by luck.
        noise = 3 * math.sqrt((pstdev(best) ** 2 + pstdev(last) ** 2) / half)
        fall, rise = fmean(best) - fmean(last), fmean(best) - fmean(parts[0])
        # Who gives back a tenth of what was won wobbles at the top; that is no reason to take an older checkpoint.
        if fall > max(noise, GIVEN_BACK * rise, 1e-9):
            fallen.append(f"{one!r} fell from {number(fmean(best))} to {number(fmean(last))}")
    return over_optimisation(total[0], total[1], fallen) if fallen else None


def over_optimisation(before: float, after: float, fallen: list[str], where: str = "") -> Diagnosis:
    """The finding; ``fallen``: what each reward of weight 0 did, in words. ``where``: measured on what."""
    return Diagnosis(
        "over_optimised",
        "problem",
        f"Over-optimisation: the reward that is trained on rose from {number(before)} to {number(after)}{where} while "
        f"{' and '.join(fallen)} (weight 0, so only looked at): the policy exploits what the two disagree on.",
        "Take the checkpoint from before it fell, raise the KL term, or make the reward better: read the completions "
        "that it overrates, and train it on comparisons of such.",
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
            f"Does a reward function favour length{'' if run.ppo else ', or the loss (loss_type grpo divides by it)'}?"
            if not better
            else "Read a few."
        ),
    )


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
    spread = "a value model that explains nothing" if run.ppo else "groups without spread"
    if count < PATIENCE:
        return Diagnosis(
            "patience",
            "info",
            f"The reward has not risen yet after {count} steps {numbers}.",
            f"With a real model that is common: wait for about {PATIENCE} steps. Until then read "
            f"completions and check that {'rewards differ' if run.ppo else 'groups have reward spread'}.",
        )
    return Diagnosis(
        "reward_flat",
        "warning",
        f"The reward has not risen in {count} steps {numbers}.",
        f"That is long enough to look for a cause: {spread}, a learning rate that is too low, a reward "
        "that does not follow what you want, or a model that cannot do the task yet.",
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
