"""What moved between two evaluations of the same prompts, and whether it moved by more than its own noise.

Samples of one prompt are not independent of each other, so that the mean of each prompt is one observation, and the
difference after − before of the same prompt is what is averaged: the spread between prompts drops out.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any

Rows = Sequence[dict[str, Any]]


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """A mean and its standard error, s / √n; the error of one value is nan."""
    error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return mean(values), error


def by_prompt(rows: Rows, column: str) -> list[float]:
    """The mean of a column over each prompt's samples; rows as ``Run.eval_samples`` gives them."""
    found: dict[int, list[float]] = defaultdict(list)
    for row in rows:
        found[row["prompt_index"]].append(float(row[column]))
    return [mean(found[index]) for index in sorted(found)]


def change(before: Rows, after: Rows, column: str) -> dict[str, Any]:
    """Means before and after, their difference with its standard error, and a word: rose, fell, "no clear change".

    A difference counts where it is more than two of its standard errors away from 0.
    """
    pairs = list(zip(by_prompt(before, column), by_prompt(after, column), strict=True))
    difference, error = mean_and_error([b - a for a, b in pairs])
    clear = abs(difference) > 2 * error  # False where the error is nan
    return {
        "before": _short(mean(a for a, _ in pairs)),
        "after": _short(mean(b for _, b in pairs)),
        "difference": _short(difference),
        "standard_error": _short(error),
        "prompts": len(pairs),
        "verdict": ("rose" if difference > 0 else "fell") if clear else "no clear change",
    }


def sentence(name: str, moved: dict[str, Any]) -> str:
    """``"accuracy: 0.22 → 0.31, +0.09 ± 0.03: rose"``"""
    return (
        f"{name}: {moved['before']:.3g} → {moved['after']:.3g}, {moved['difference']:+.3g} ± "
        f"{moved['standard_error']:.2g}: {moved['verdict']}"
    )


def _short(value: float) -> float:
    return float(f"{value:.5g}")
