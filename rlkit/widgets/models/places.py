"""Where a run's completions stand: of which steps of training and of which evaluations there are any."""

from __future__ import annotations

import os
from typing import NamedTuple

from rlkit.runs import Run, schema

KINDS = {"train": "training", "greedy": "held-out, greedy", "sampled": "held-out, sampled"}


class Place(NamedTuple):
    """Where completions stand: "train", "greedy" or "sampled", and the step."""

    kind: str
    step: int

    def __str__(self) -> str:
        return f"step {self.step}, {KINDS[self.kind]}"


def places(run: Run) -> dict[str, list[int]]:
    """The steps whose completions are there, by kind; of a kind that has none at all, every step of it."""
    found = {kind: _with_files(run, kind, steps) or steps for kind, steps in _steps(run).items()}
    return {kind: steps for kind, steps in found.items() if steps}


def kept(run: Run, kind: str) -> tuple[int, int]:
    """Of how many steps the completions are there, and how many there should be."""
    steps = _steps(run)[kind]
    return len(_with_files(run, kind, steps)), len(steps)


def _steps(run: Run) -> dict[str, list[int]]:
    judged = [event["step"] for event in run.evals]
    return {"train": run.steps, "greedy": judged, "sampled": judged}


def _with_files(run: Run, kind: str, steps: list[int]) -> list[int]:
    folder = run.path / (schema.SAMPLES if kind == "train" else schema.EVALS)
    try:
        names = set(os.listdir(folder))
    except OSError:  # no such folder
        return []
    named = schema.step_file if kind == "train" else lambda step: schema.eval_file(step, kind)
    return [step for step in steps if named(step) in names]
