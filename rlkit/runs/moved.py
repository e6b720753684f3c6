"""What moved between a run's beginning and its end, and whether chance would do as much.

Held-out numbers compare the first evaluation with the last one; training numbers compare the first ``WINDOW`` steps
with the last (fewer in a short run). Beside each change stands twice its standard error:

    2 √(s₁²/n₁ + s₂²/n₂)        s: spread of the n answers, or of the n steps

A reward of weight 0 is in the table like any other. It was not trained on, so it says whether what was trained on was
worth it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, pvariance
from typing import Any, NamedTuple

from rlkit.errors import ConfigError
from rlkit.runs import schema
from rlkit.runs.evidence import WINDOW, Diagnosis, Evidence, finite, number
from rlkit.runs.facts import ON_ROWS, algorithm
from rlkit.runs.reader import Run
from rlkit.runs.rules_rewards import over_optimisation

_TOTAL = "reward, total"
_LEAST = 3  # steps on each side, without which a training number is left out

_OF_STEPS = (  # name in a step line, in words
    ("reward", _TOTAL),
    (schema.REWARDS, ""),
    ("accuracy", "accuracy"),
    ("loss", "loss"),
    ("completion_length", "completion length, tokens"),
    ("entropy", "entropy, nats a token"),
    ("kl", "KL to the reference, nats a token"),
    ("explained_variance", "explained variance of the value model"),
)
_OF_EVALS = (  # of evaluations without completions: name in its line, in words, whether it is a share of n
    ("loss", "loss", False),
    ("perplexity", "perplexity", False),
    ("accuracy", "accuracy", True),
    ("calibration_error", "calibration error", False),
    ("longer_preferred", "longer side preferred", True),
)


class Moved(NamedTuple):
    """One number at a run's beginning and end; ``chance`` is twice the standard error of the change, None: unknown."""

    name: str
    where: str  # "held out" or "training"
    first: float
    last: float
    chance: float | None

    @property
    def change(self) -> float:
        return self.last - self.first

    @property
    def verdict(self) -> str:
        """ "rose" or "fell" where the change is more than chance, else "no more than chance"; "" where unknown."""
        if self.chance is None:
            return ""
        if abs(self.change) <= self.chance or not self.change:
            return "no more than chance"
        return "rose" if self.change > 0 else "fell"


def what_moved(run: Run) -> list[Moved]:
    """Every number of a run that has a beginning and an end, held-out ones first."""
    return [*_held_out(run), *_training(run)]


def exploited(run: Run) -> Diagnosis | None:
    """On held-out prompts, the reward that is trained on rose while one of weight 0 fell, both more than chance."""
    looked_at = [name for name, weight in Evidence((), (), run.config).weights.items() if weight == 0]
    found = {one.name: one for one in _held_out(run)} if looked_at else {}
    total = found.get(_TOTAL)
    fallen = [
        f"{name!r} fell from {number(one.first)} to {number(one.last)}"
        for name in looked_at
        if (one := found.get(reward_label(name, run.config))) is not None and one.verdict == "fell"
    ]
    if total is None or total.verdict != "rose" or not fallen:
        return None
    return over_optimisation(total.first, total.last, fallen, " on held-out prompts")


def reward_label(name: str, config: Mapping[str, Any]) -> str:
    """A reward function's name; "(weight 0)" behind one that is only looked at."""
    return f"{name} (weight 0)" if Evidence((), (), config).weights.get(name) == 0 else name


def _held_out(run: Run) -> list[Moved]:
    evals = run.evals
    if len(evals) < 2:
        return []
    first, last = evals[0], evals[-1]
    found = []
    for name, words, share in _OF_EVALS if algorithm(run.config) in ON_ROWS else ():
        a, b, n = (finite(value) for value in (first.get(name), last.get(name), last.get("n")))
        if a is not None and b is not None:
            spread = max(a * (1 - a) + b * (1 - b), 0.0)
            chance = 2 * math.sqrt(spread / n) if share and n else None
            found.append(Moved(words, "held out", a, b, chance))
    sides = [_answers(run, line["step"]) for line in (first, last)]
    columns = [("correct", "accuracy"), ("reward", _TOTAL)]
    columns += [(schema.REWARD + name, reward_label(name, run.config)) for name in run.reward_names]
    for column, words in columns if all(sides) else ():
        values = [_numbers(side, column) for side in sides]
        if all(values) and not (column.startswith(schema.REWARD) and len(run.reward_names) == 1):
            found.append(_compared(words, "held out", *values))
    return found


def _answers(run: Run, step: int) -> list[dict[str, Any]]:
    try:
        return run.eval_samples(step, "greedy")
    except ConfigError:  # a file that was damaged after writing
        return []


def _training(run: Run) -> list[Moved]:
    metrics, config = run.metrics, run.config
    found = []
    sampled = algorithm(config) not in ON_ROWS
    for name, words in _OF_STEPS:
        if name == "loss" and sampled:  # says nothing about progress there
            continue
        names = [(name, words)]
        if name == schema.REWARDS:
            several = len(run.reward_names) > 1
            names = [(name + one, reward_label(one, config)) for one in run.reward_names] if several else []
        for key, label in names:
            values = _numbers(metrics, key)
            size = min(WINDOW, len(values) // 2)
            if size >= _LEAST:
                found.append(_compared(label, "training", values[:size], values[-size:]))
    return found


def _numbers(rows: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    return [value for row in rows if (value := finite(row.get(name))) is not None]


def _compared(name: str, where: str, before: Sequence[float], after: Sequence[float]) -> Moved:
    error = 2 * math.sqrt(pvariance(before) / len(before) + pvariance(after) / len(after))
    return Moved(name, where, fmean(before), fmean(after), error)
