"""What held-out pairs say of a reward model, in words: accuracy, calibration, length.

Everything is read from an evaluation's line in ``metrics.jsonl``, so that it can be said of a run from elsewhere too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rlkit.runs.evidence import finite


def pairs_report(line: Mapping[str, Any]) -> list[str]:
    """The findings, one sentence or two each; lines of the calibration table begin with two spaces.

    ``line``: the numbers of ``RewardModelEvaluation.values``; what is missing is left out.
    """
    n, accuracy = int(finite(line.get("n")) or 0), finite(line.get("accuracy"))
    if not n or accuracy is None:
        return []
    noise = 2 * math.sqrt(max(accuracy * (1 - accuracy), 0.0) / n)
    against = "more" if accuracy - noise > 0.5 else "less" if accuracy + noise < 0.5 else "no more"
    than = (
        "than a coin would do"
        if against != "less"
        else "than a coin would do: are the sides the wrong way round?"
    )
    found = [
        f"{n} held-out pairs: the chosen side has the higher reward in {_share(accuracy)} (± {_share(noise)}, two "
        f"standard errors): {against} {than}."
    ]
    return found + _calibrated(line, n) + _length(line)


def calibration_chance(bins: Sequence[Mapping[str, Any]]) -> float:
    """The calibration error that a perfectly calibrated model would show on average, with so few pairs.

        Σ_b (N_b/N) √(2/π) √(p_b (1 − p_b) / N_b)        p_b: the mean confidence of the N_b pairs of a bin

    the mean absolute deviation of a share (normal approximation).
    """
    total = sum(one["pairs"] for one in bins)
    away = (math.sqrt(one["confidence"] * (1 - one["confidence"]) * one["pairs"]) for one in bins)
    return math.sqrt(2 / math.pi) * sum(away) / total if total else 0.0


def said_and_true(bins: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """(mean confidence, accuracy) over all pairs: the first is larger where the model is too sure."""
    total = sum(one["pairs"] for one in bins)
    said, true = (
        sum(one["pairs"] * one[name] for one in bins) / total for name in ("confidence", "accuracy")
    )
    return said, true


def _calibrated(line: Mapping[str, Any], n: int) -> list[str]:
    error, bins = finite(line.get("calibration_error")), line.get("calibration") or []
    if error is None:
        return []
    found = f"Calibration: its probabilities are off by {_share(error)} on average"
    if not bins:
        return [f"{found}."]
    said, true = said_and_true(bins)
    rows = [
        f"  says {one['low']:.0%} to {one['high']:.0%}: {one['pairs']} pair{'s' if one['pairs'] != 1 else ''}, "
        f"{one['accuracy']:.0%} came true"
        for one in bins
    ]
    chance = f"chance would be about {_share(calibration_chance(bins))} with so few"
    return [f"{found} ({chance}). It says {_share(said)}, and {_share(true)} come true.", *rows]


def _length(line: Mapping[str, Any]) -> list[str]:
    rater, model = finite(line.get("longer_chosen")), finite(line.get("longer_preferred"))
    if rater is None or model is None:
        return []
    correlation = finite(line.get("length_correlation"))
    follows = "" if correlation is None else f"; correlation of reward and length {correlation:+.2f}"
    sides = [
        f"{_share(value)} where the {side} side was chosen"
        for side in ("longer", "shorter")
        if (value := finite(line.get(f"accuracy_{side}"))) is not None
    ]
    return [
        f"Length: the rater chose the longer side in {_share(rater)} of the pairs, the model gives it more in "
        f"{_share(model)}. Accuracy: {', '.join(sides)}{follows}."
    ]


def _share(value: float) -> str:
    return f"{value:.1%}"
