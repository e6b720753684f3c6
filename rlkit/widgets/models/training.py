"""What a training dashboard shows: which curves there are, in words and as plots; a table of every number.

A run shows what it has: a warm start has no rewards, only PPO has values. One run: a chart for each subject, with a
curve for each of its numbers. Several runs: a chart for each number, with a curve for each run.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

from rlkit.runs import schema
from rlkit.runs.charts import thin
from rlkit.runs.evidence import duration, finite, number, percent
from rlkit.widgets.look import SERIES
from rlkit.widgets.models.subjects import LOSSES, MEMORY, NUMBERS, SECTIONS, SHARE, UP, Span, Subject
from rlkit.widgets.models.track import Column, Track
from rlkit.widgets.plot import MAX_POINTS, Curve, Plot, told

MAX_RUNS = 5
_WIDTH, _HEIGHT = 350, 200  # of a chart: three fit beside each other, and their letters are not scaled down


def sections(tracks: Sequence[Track]) -> list[str]:
    """The sections in which at least one of the runs has something to show."""
    found = [
        title
        for title, subjects in SECTIONS.items()
        if any(_has(track, subject) for subject in _subjects(tracks, subjects) for track in tracks)
    ]
    return [*found, NUMBERS] if any(track.columns or track.held_out for track in tracks) else []


def plots(tracks: Sequence[Track], names: Sequence[str], section: str, average: int = 1) -> list[Plot]:
    """The charts of one section.

    Args:
        tracks, names: the runs, and what they are called here.
        section: a key of ``SECTIONS``.
        average: a point is the mean of so many steps (of more where a curve would have over ``MAX_POINTS``).
    """
    found = []
    for subject in _subjects(tracks, SECTIONS[section]):
        if not any(_has(track, subject) for track in tracks):
            continue
        if len(tracks) == 1:
            found.append(_of_one_run(tracks[0], subject, average))
        else:
            found += _of_several(tracks, names, subject, average)
    return found


def _subjects(tracks: Sequence[Track], subjects: Iterable[Subject | str]) -> list[Subject]:
    """``subjects``, with those filled in that depend on what the runs have."""
    found: list[Subject] = []
    for subject in subjects:
        if isinstance(subject, Subject):
            found.append(subject)
        elif subject in LOSSES:  # of a policy it says next to nothing, of all else it is what is learned
            if any("reward" in track.columns for track in tracks) == (subject == "policy loss"):
                found.append(LOSSES[subject])
        elif subject in ("rewards", "unscored"):
            prefix = schema.REWARDS if subject == "rewards" else schema.UNSCORED
            members = [(name, name[len(prefix) :]) for name in _names(tracks, prefix)]
            if subject == "unscored":  # a chart of zeros says nothing
                members = [(n, label) for n, label in members if any(_highest(t, n) > 0 for t in tracks)]
            span: Span = (None, None)
            title, unit = "Reward by function", "mean reward"
            note = "Which part of the reward is learned, and when. A flat line teaches nothing."
            if subject == "unscored":
                title, unit, span = "Not scored", "share of completions", SHARE
                note = "The reward function returned None for these."
            for i in range(0, len(members), SERIES):
                part = f" ({i // SERIES + 1})" if len(members) > SERIES else ""
                found.append(
                    Subject(title + part, unit, tuple(members[i : i + SERIES]), span=span, note=note)
                )
        else:
            prefix = schema.SECONDS if subject == "seconds" else MEMORY
            members = [(name, name[len(prefix) :]) for name in _names(tracks, prefix)][:SERIES]
            title, unit = ("Seconds of a step", "seconds") if subject == "seconds" else ("Peak memory", "GiB")
            note = (
                "Rollout: the engine samples. Score: reward functions. Update: log-probabilities, gradient, optimizer. "
                "Sync: new weights to the engine, and the check that they arrived."
                if subject == "seconds"
                else "The most that the process held in each phase, weights included; after: at the step's end."
            )
            found.append(Subject(title, unit, tuple(members), span=UP, note=note))
    return found


def _names(tracks: Sequence[Track], prefix: str) -> list[str]:
    """Metrics with a prefix, of all runs: phases in the order of a step, others as they first appeared."""
    names = dict.fromkeys(name for track in tracks for name in track.columns if name.startswith(prefix))
    order = [prefix + phase for phase in ("step", *schema.PHASES)]
    return sorted(names, key=lambda name: order.index(name) if name in order else len(order))


def _highest(track: Track, name: str) -> float:
    return track.columns[name].high if name in track.columns else -math.inf


def _has(track: Track, subject: Subject) -> bool:
    return any(name in track.columns for name, _ in subject.metrics) or any(
        name in track.held_out for name, _ in subject.evals
    )


def _of_one_run(track: Track, subject: Subject, average: int) -> Plot:
    drawn = [
        (curve(label, track.columns[name], average), track.columns[name])
        for name, label in subject.metrics
        if name in track.columns
    ]
    drawn += [
        (curve(label, track.held_out[name], 1, "points"), track.held_out[name])
        for name, label in subject.evals
        if name in track.held_out
    ]
    curves = [one for one, _ in drawn]
    for name in subject.limits:
        bound = finite(schema.setting(track.config, name))
        if bound and track.rows:
            ends = [track.rows[0]["step"], track.rows[-1]["step"]]
            curves.append(Curve(name, ends, [bound, bound], "limit"))
    return _plot(subject, curves, [(one.label, column) for one, column in drawn], average)


def _of_several(tracks: Sequence[Track], names: Sequence[str], subject: Subject, average: int) -> list[Plot]:
    found: list[Plot] = []
    for kind, members in (("line", subject.metrics), ("points", subject.evals)):
        for name, label in members:
            columns = [track.columns if kind == "line" else track.held_out for track in tracks]
            drawn = [
                (curve(names[i], of[name], average if kind == "line" else 1, kind, i), of[name])
                for i, of in enumerate(columns)
                if name in of
            ]
            if drawn:
                alone = len(subject.metrics) + len(subject.evals) == 1
                title = subject.title if alone else f"{subject.title}: {label}"
                titled = replace(subject, title=title, note="" if found else subject.note)  # said once
                plot = _plot(
                    titled, [one for one, _ in drawn], [(c.label, column) for c, column in drawn], average
                )
                found.append(plot)
    return found


def curve(
    label: str, column: Column, average: int = 1, kind: str = "line", color: int | None = None
) -> Curve:
    """A column as a curve: thinned for the eye, told from all of its values."""
    most = min(MAX_POINTS, math.ceil(len(column.values) / max(1, average)))
    steps, values = thin(column.steps, column.values, max(1, most))
    words = ""
    if len(column.values) > len(values):
        ends = [(column.steps[i], column.values[i]) for i in (0, -1)]
        words = told(label, ends[0], ends[1], column.low, column.high)
    return Curve(label, steps, values, kind, color, words)


def _plot(subject: Subject, curves: list[Curve], columns: list[tuple[str, Column]], average: int) -> Plot:
    notes = [subject.note] if subject.note else []
    for label, column in columns:
        if column.odd:
            where = "one step" if len(column.odd) == 1 else f"{len(column.odd):,} steps"
            first = f"{column.odd[0]:,}"
            notes.append(
                f"⚠ {label}: NaN or infinite at {where}, first at step {first}; left out of the curve."
            )
    size = max((math.ceil(len(c.values) / MAX_POINTS) for _, c in columns), default=1)
    size = max(size, average)
    if size > 1:
        notes.append(f"Each point is the mean of {size:,} steps.")
    return Plot(
        subject.title,
        "step",
        subject.unit,
        curves,
        y_span=subject.span,
        width=_WIDTH,
        height=_HEIGHT,
        note=" ".join(notes),
    )


# -- tables ---------------------------------------------------------------------------------------------


def phases(track: Track) -> list[tuple[str, str, str, str]]:
    """(phase, seconds of all steps, share of them, highest memory) in words, in the order of a step."""
    seconds = {
        name[len(schema.SECONDS) :]: sum(track.columns[name].values)
        for name in _names([track], schema.SECONDS)
        if name != f"{schema.SECONDS}step"
    }
    if f"{schema.SECONDS}eval" in track.held_out:  # evaluations have lines of their own
        judged = sum(track.held_out[f"{schema.SECONDS}eval"].values)
        seconds["eval"] = seconds.get("eval", 0.0) + judged
    whole = sum(seconds.values())
    peaks = {name[len(MEMORY) :]: track.columns[name].high for name in _names([track], MEMORY)}
    return [
        (
            phase,
            duration(seconds[phase]) if phase in seconds else "–",
            percent(seconds[phase] / whole) if phase in seconds and whole > 0 else "–",
            f"{number(peaks[phase])} GiB" if math.isfinite(peaks.get(phase, math.nan)) else "–",
        )
        for phase in dict.fromkeys([*seconds, *peaks])
    ]


def all_numbers(track: Track) -> list[tuple[str, str, str, str, str, str]]:
    """Every metric: (name, first, last, lowest, highest, over how many lines), in words."""
    rows = []
    for prefix, columns in (("", track.columns), ("held out: ", track.held_out)):
        for name, column in columns.items():
            low, high = (column.low, column.high) if column.values else (math.nan, math.nan)
            shown = [column.first, column.last, low, high]
            words = [number(math.nan if value is None else value) for value in shown]
            rows.append((prefix + name, *words, f"{len(column.values) + len(column.odd):,}"))
    return rows  # type: ignore[return-value]


_HEADLINE = (  # (metric, held out, label): the numbers that one looks at first
    ("reward", False, "reward"),
    ("accuracy_greedy", True, "held-out accuracy, greedy"),
    ("accuracy", True, "held-out accuracy"),
    ("accuracy", False, "accuracy in training"),
    ("loss", True, "held-out loss"),
    ("kl", False, "KL"),
    ("entropy", False, "entropy"),
    ("completion_length", False, "tokens a completion"),
    ("dead_groups", False, "groups without spread"),
)
_SHARES = ("accuracy", "accuracy_greedy", "dead_groups")


def headline(track: Track) -> list[tuple[str, str]]:
    """The numbers that one looks at first: (label, "first → last"), as the run directory has them."""
    found = []
    for name, held_out, label in _HEADLINE:
        column = (track.held_out if held_out else track.columns).get(name)
        if column is None or column.first is None or column.last is None:
            continue
        say = _share if name in _SHARES else number
        several = len(column.values) + len(column.odd) > 1
        found.append((label, f"{say(column.first)} → {say(column.last)}" if several else say(column.last)))
    return found


def _share(value: float) -> str:
    return percent(value) if math.isfinite(value) else number(value)
