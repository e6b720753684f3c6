"""A reward's golden and exploit sets, and a whole task scored, by `rlkit.rewards.audit`; what they come to."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import NamedTuple

from rlkit.errors import bad_value
from rlkit.rewards.audits.audit import audit
from rlkit.rewards.audits.holes import holes
from rlkit.rewards.audits.report import Audit, Scored, lines_of
from rlkit.widgets.models.reward import RewardModel
from rlkit.widgets.models.reward_inputs import golden_of

CHUNK = 16  # rows that are scored between two reports of progress

_GROUPS = {"right": "right answers", "wrong": "wrong answers", "exploit": "exploits", "unknown": "not judged"}


class GoldenResult(NamedTuple):
    """One part on its golden set; `audit` is None where it has none."""

    name: str
    audit: Audit | None


class GroupMean(NamedTuple):
    """Completions of one group: how many, the mean of each part before its weight (None: never scored), of the total,
    and the share that is paid as if it were right (None: nothing to compare with)."""

    group: str
    completions: int
    parts: list[float | None]
    total: float | None
    paid: float | None


class Progress(NamedTuple):
    """Rows that are scored, of how many, and what they come to so far."""

    done: int
    rows: int
    audit: Audit


def golden_results(model: RewardModel) -> Iterator[GoldenResult]:
    """Try each part on its golden and exploit set, one after another. Weights play no part in it."""
    for part in model.parts:
        golden = golden_of(part)
        found = None if golden is None else audit(part.function, golden=golden, timeout=model.timeout)
        yield GoldenResult(part.name, found)


def score_task(model: RewardModel, side: str = "train", rows: int = 64) -> Iterator[Progress]:
    """Score right answers, wrong ones and exploits made from the first `rows` rows of a side, some rows at a time.

    With the weights as they stand. Raises `ConfigError` without a task, or for rows that a part cannot be called on.
    """
    if model.task is None:
        raise bad_value(
            "task", None, "a task whose rows can be scored", "Give one: RewardInspector(rewards, task)"
        )
    if not isinstance(rows, int) or rows < 1:
        raise bad_value("rows", rows, "a whole number, 1 or more")
    chosen = model.task.rows(side, rows)
    scored: list[Scored] = []
    notes: list[str] = []
    functions = [part.function for part in model.parts]
    for start in range(0, len(chosen), CHUNK):
        chunk = chosen[start : start + CHUNK]
        # The rest of the rows comes after: wrong answers are made from other rows' answers.
        rest = [*chunk, *chosen[:start], *chosen[start + CHUNK :]]
        source = SimpleNamespace(name=model.task.name, train=rest, verifier=model.verifier)
        found = audit(functions, source, n=len(chunk), weights=model.weights, timeout=model.timeout)
        mine = [s for s in found.scored if s.source == "task"]
        for s in mine:
            s.row += start
        scored += mine
        notes += [note for note in found.notes if note not in notes]
        done = min(start + CHUNK, len(chosen))
        about = f"{done} row{'s' * (done > 1)} of {model.task.name}, {side} side"
        together = Audit(model.title, about, list(scored), lines_of(scored), holes(scored, None), notes)
        yield Progress(done, len(chosen), together)


def score_examples(model: RewardModel) -> GroupMean | None:
    """The examples that were given, each with its own row; None without any."""
    looked = [model.inspect(trial.text, trial.row) for trial in model.given]
    if not looked:
        return None
    means = [_mean([found.parts[i].score for found in looked]) for i in range(len(model.parts))]
    return GroupMean("examples", len(looked), means, _mean([found.total for found in looked]), None)


def group_means(scored: Sequence[Scored], weights: Sequence[float]) -> list[GroupMean]:
    """What each group earns on average; totals with `weights`, by the parts' scores."""
    found = []
    for group, name in _GROUPS.items():
        mine = [s for s in scored if s.group == group]
        if not mine:
            continue
        columns = [_mean([list(s.parts.values())[i] for s in mine]) for i in range(len(weights))]
        compared = [s for s in mine if s.due is not None]
        paid = sum(s.paid for s in compared) / len(compared) if compared else None
        found.append(GroupMean(name, len(mine), columns, _mean([s.score for s in mine]), paid))
    return found


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None and math.isfinite(value)]
    return math.fsum(known) / len(known) if known else None
