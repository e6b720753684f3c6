"""What training on a fixed data set can go wrong with: the reward model's pairs, and a warm start's demonstrations."""

from __future__ import annotations

import math
from statistics import fmean

from rlkit.runs.evidence import WINDOW, Diagnosis, Evidence, finite, number, percent
from rlkit.runs.facts import REWARD_MODEL, algorithm
from rlkit.runs.pairs import calibration_chance, said_and_true


def held_out_loss(run: Evidence) -> Diagnosis | None:
    """First against last held-out loss."""
    losses = run.values("loss", run.evals)
    if len(losses) < 2:
        return None
    first, last = losses[0], losses[-1]
    vain = "" if last < first else ": nothing that carries over was learned"
    return Diagnosis(
        "held_out_loss",
        "info" if last < first else "warning",
        f"Held-out loss went from {number(first)} to {number(last)}{_on(run)}{vain}.",
        "" if last < first else "Are the held-out rows of the same kind? Otherwise lower the learning rate.",
    )


def memorises(run: Evidence) -> Diagnosis | None:
    """The held-out loss rises again while the training loss goes on falling; 5 % are taken for noise."""
    evals = [(row["step"], loss) for row in run.evals if (loss := finite(row.get("loss"))) is not None]
    if len(evals) < 3:
        return None
    best_step, best = min(evals, key=lambda pair: pair[1])
    last_step, last = evals[-1]
    then = run.values("loss", [row for row in run.steps if row.get("step", 0) <= max(best_step, 1)])[-WINDOW:]
    now = run.recent("loss")
    if last - best <= 0.05 * abs(best) or not then or not now or fmean(now) >= fmean(then):
        return None
    return Diagnosis(
        "memorises",
        "warning",
        f"The held-out loss rises again: {number(best)} at step {best_step}, {number(last)} at step {last_step}, "
        f"while the training loss fell from {number(fmean(then))} to {number(fmean(now))}: the rows are being learned "
        "by heart.",
        f"Stop at about step {best_step} (max_steps, or fewer num_train_epochs), take more rows, a lower learning "
        "rate, or an adapter instead of all weights.",
    )


# -- the reward model ----------------------------------------------------------------------------------------------


def held_out_pairs(run: Evidence) -> Diagnosis | None:
    """Whether its accuracy on held-out pairs is more than a coin's, and more than before training."""
    if not (found := _last(run)):
        return None
    last, n = found
    noise = 2 * math.sqrt(max(last * (1 - last), 0.0) / n)
    said = f"The reward model prefers the chosen side in {percent(last)} of {n} held-out pairs (±{percent(noise)})"
    if last - noise > 0.5:
        first = run.values("accuracy", run.evals)[0]
        before = f"; before training in {percent(first)}" if len(run.evals) > 1 else ""
        return Diagnosis("held_out_pairs", "info", f"{said}: more than a coin would do{before}.", "")
    learned = _training_accuracy(run)
    seen = "" if learned is None else f" In training it is {percent(learned)}."
    return Diagnosis(
        "no_better_than_a_coin",
        "problem",
        f"{said}: no better than a coin.{seen}",
        "Do not train a policy on it. Are chosen and rejected the right way round, and do raters agree with each other "
        "(rlkit.feedback)? Then take more pairs, or a larger backbone; where training accuracy is low as well, more "
        "steps or a higher learning rate.",
    )


def overfits(run: Evidence) -> Diagnosis | None:
    """Much better on the pairs of training than on held-out ones; a tenth, and more than chance."""
    found, learned = _last(run), _training_accuracy(run)
    if not found or learned is None:
        return None
    last, n = found
    noise = 2 * math.sqrt(max(last * (1 - last), 0.0) / n)
    if learned - last <= max(0.1, noise):
        return None
    return Diagnosis(
        "overfits",
        "warning",
        f"Accuracy is {percent(learned)} in training and {percent(last)} on {n} held-out pairs: the reward model knows "
        "its pairs by heart.",
        "One epoch is usual (num_train_epochs=1). Take more pairs, a lower learning rate, or an adapter (lora=True).",
    )


def length_biased(run: Evidence) -> Diagnosis | None:
    """It prefers the longer (or the shorter) side clearly more often than the rater did."""
    if not _judged(run) or not (n := int(finite(run.evals[-1].get("n")) or 0)):
        return None
    row = run.evals[-1]
    rater, model = finite(row.get("longer_chosen")), finite(row.get("longer_preferred"))
    if rater is None or model is None:
        return None
    noise = 2 * math.sqrt(max(rater * (1 - rater), model * (1 - model)) / n)
    if abs(model - rater) <= max(0.1, noise):
        return None
    longer = model > rater
    right = finite(row.get("accuracy_shorter" if longer else "accuracy_longer"))
    said = [model, rater] if longer else [1 - model, 1 - rater]
    side, other = ("longer", "shorter") if longer else ("shorter", "longer")
    cost = (
        f" Where the {other} side was chosen, it is right in {percent(right)}." if right is not None else ""
    )
    return Diagnosis(
        "length_biased",
        "warning",
        f"It gives the {side} side more in {percent(said[0])} of the pairs; the rater chose it in {percent(said[1])}: "
        f"it has learned that {'length' if longer else 'brevity'} pays.{cost}",
        f"A policy trained on it will write {side} answers. Balance the pairs (as many whose {other} side was chosen), "
        "or watch completion_length, and take a penalty for length beside it.",
    )


def badly_calibrated(run: Evidence) -> Diagnosis | None:
    """Its probabilities are off by more than so few pairs are off by chance, and by more than 5 points."""
    if not _judged(run):
        return None
    row = run.evals[-1]
    error, n = finite(row.get("calibration_error")), finite(row.get("n"))
    bins = row.get("calibration") or []
    if error is None or not n or not bins:
        return None
    chance = calibration_chance(bins)
    if error <= max(0.05, 2 * chance):
        return None
    said, true = said_and_true(bins)
    sure = said > true
    return Diagnosis(
        "badly_calibrated",
        "warning",
        f"Its probabilities are off by {percent(error)} on average ({percent(chance)} would be chance): it is "
        f"{'surer' if sure else 'less sure'} than it should be ({percent(said)} said, {percent(true)} true).",
        (
            "Fewer steps or a lower learning rate, center_rewards_coefficient=0.01; "
            if sure
            else "It could learn for longer; "
        )
        + "order is not affected, but the reward's scale is: normalise it (as_reward(normalise=True)) before PPO.",
    )


def _last(run: Evidence) -> tuple[float, int] | None:
    """(accuracy of the last evaluation, its pairs); None where that was before training: it says nothing yet."""
    if not _judged(run) or algorithm(run.config) != REWARD_MODEL:
        return None
    accuracy, n = finite(run.evals[-1].get("accuracy")), finite(run.evals[-1].get("n"))
    return None if accuracy is None or not n else (accuracy, int(n))


def _judged(run: Evidence) -> bool:
    """Whether the newest evaluation is of a model that had been trained."""
    return bool(run.evals) and (run.evals[-1].get("step", 0) > 0 or not run.steps)


def _training_accuracy(run: Evidence) -> float | None:
    recent = run.recent("accuracy")
    return fmean(recent) if len(recent) >= 3 else None


def _on(run: Evidence) -> str:
    n = finite(run.evals[-1].get("n"))
    kind = "pairs" if algorithm(run.config) == REWARD_MODEL else "rows"
    return f" on {int(n)} {kind}" if n else ""
