"""The training dashboard's HTML: state and progress, findings, charts, tables. Numbers come from `models.training`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rlkit.runs import schema
from rlkit.runs.replay import Replay
from rlkit.widgets.look import LITERAL, callout, empty, escaped, facts, table
from rlkit.widgets.models import training as model
from rlkit.widgets.models.subjects import NUMBERS
from rlkit.widgets.models.track import Track

_SIGNS = {"running": "▶", "paused": "‖", "finished": "✓", "interrupted": "✗", "failed": "✗"}
_SHOWN_NOTES = 6
_KIND = {"problem": "problem", "warning": "warning", "info": "info"}


def state_html(tracks: Sequence[Track], names: Sequence[str], control: Any = None, begun: bool = True) -> str:
    """How far each run is, with its status in words and a sign."""
    parts = []
    if not begun:
        parts.append(
            empty("Training has not started: nothing to show yet. The curves appear with the first step.")
        )
    for i, (track, name) in enumerate(zip(tracks, names, strict=True)):
        if track.error:
            waiting = not track.rows and not (track.path / schema.CONFIG).exists()
            parts.append(callout("info" if waiting else "problem", "", track.error))
        if not track.status:
            continue
        status = track.status
        is_replay = isinstance(track.run, Replay)
        if control is not None and begun and control.alive and track.live and (i == 0 or is_replay):
            status = control.state
        progress = track.progress
        label = f"<b>{escaped(name, 60)}</b> " if len(tracks) > 1 else ""
        most = max(progress.total or progress.done, 1)
        told = " (recorded time)" if is_replay else ""
        sign = _SIGNS.get(status, "■")
        parts.append(
            f'<div class="progress {LITERAL}">{label}<span class="tag">{sign} {escaped(status, 200)}</span>'
            f'<progress value="{progress.done}" max="{most}" aria-label="steps of {escaped(name, 60)}"></progress>'
            f"<span>{escaped(str(progress))}{told}</span></div>"
        )
        if status == "interrupted" and track.summary is None:
            parts.append(
                '<p class="soft">Its process ended without a summary: killed, or the kernel was restarted. Every step '
                "up to here is whole; trainer.train(resume=True) goes on from the newest checkpoint.</p>"
            )
        if track.unreadable:
            lines = "1 line" if track.unreadable == 1 else f"{track.unreadable:,} lines"
            parts.append(callout("warning", f"{lines} of metrics.jsonl cannot be read", "and are left out."))
        if track.live and not track.rows and not track.error:
            parts.append(
                empty("No step has been made yet. Loading, the probe and the first evaluation come first.")
            )
        elif not track.rows and not track.evals and not track.live and not track.error:
            parts.append(empty("This run has no whole step."))
    return "".join(parts)


def facts_html(tracks: Sequence[Track], names: Sequence[str]) -> str:
    """The first and the last value of the numbers that one looks at first; of several runs as a table."""
    rows = [model.headline(track) for track in tracks]
    if not any(rows):
        return ""
    if len(tracks) == 1:
        return facts(rows[0])
    shown = list(dict.fromkeys(label for row in rows for label, _ in row))
    body = [
        [_unbroken(name), *(escaped(dict(row).get(label, "–")) for label in shown)]
        for name, row in zip(names, rows, strict=True)
    ]
    return table(["run", *shown], body, range(1, len(shown) + 1), caption="first value → last value")


def findings_html(tracks: Sequence[Track], names: Sequence[str]) -> str:
    """The diagnosis of each run in words, with what to change. Of several runs the mere remarks are folded."""
    parts = []
    for track, name in zip(tracks, names, strict=True):
        if not track.rows:
            continue
        several = len(tracks) > 1
        parts.append(f"<h4>Diagnosis: {escaped(name, 60)}</h4>" if several else "<h4>Diagnosis</h4>")
        found = track.diagnose()
        folded = [one for one in found if several and one.severity == "info"]
        parts += [callout(_KIND[one.severity], one.message, one.advice) for one in found if one not in folded]
        if len(folded) == len(found):
            parts.append(callout("good", "Nothing stands out", "in the numbers so far."))
        if folded:
            inside = "".join(callout(_KIND[one.severity], one.message, one.advice) for one in folded)
            parts.append(f"<details><summary>worth knowing: {len(folded)}</summary>{inside}</details>")
    return f'<div aria-live="polite">{"".join(parts)}</div>' if parts else ""


def _unbroken(name: str) -> str:
    """A run's name for a cell: a short one stays in one line."""
    return f'<span class="together">{escaped(name, 60)}</span>' if len(name) <= 24 else escaped(name, 60)


def section_html(tracks: Sequence[Track], names: Sequence[str], section: str, average: int = 1) -> str:
    """One section: its charts, and the tables that belong to it."""
    if section == NUMBERS:
        return "".join(
            _numbers(track, name, len(tracks) > 1) for track, name in zip(tracks, names, strict=True)
        )
    figures = "".join(plot.figure_html() for plot in model.plots(tracks, names, section, average))
    page = f'<div class="charts">{figures}</div>'
    if section == "Time and memory":
        for track, name in zip(tracks, names, strict=True):
            rows = [[escaped(cell) for cell in row] for row in model.phases(track)]
            said = "Seconds and memory by phase, all steps together" + (
                f": {name}" if len(tracks) > 1 else ""
            )
            if rows:
                page += table(["phase", "time", "share", "most memory"], rows, (1, 2, 3), caption=said)
    return page


def _numbers(track: Track, name: str, several: bool) -> str:
    rows = [[escaped(cell, 80) for cell in row] for row in model.all_numbers(track)]
    if not rows:
        return ""
    head = ["number", "first", "last", "lowest", "highest", "lines"]
    caption = "Every number of metrics.jsonl, to three digits" + (f": {name}" if several else "")
    return table(head, rows, range(1, 6), caption=caption)


def foot_html(tracks: Sequence[Track], names: Sequence[str]) -> str:
    """Where the numbers come from, and the run's own remarks."""
    parts = []
    for track, name in zip(tracks, names, strict=True):
        label = f"<b>{escaped(name, 60)}</b>: " if len(tracks) > 1 else ""
        if isinstance(track.run, Replay):
            kind = "warning" if track.run.checked or track.run.provenance is None else "info"
            parts.append(callout(kind, f"Replay of {track.name}", track.run.origin()))
        elif track.config:
            keys = ("algorithm", "model", "device", "schedule")
            said = [str(track.config[key]) for key in keys if track.config.get(key)]
            parts.append(f'<p class="soft {LITERAL}">{label}{escaped(" · ".join(said), 600)}</p>')
        if track.notes:
            listed = "".join(f"<li>{escaped(note, 600)}</li>" for note in track.notes[-_SHOWN_NOTES:])
            more = len(track.notes) - _SHOWN_NOTES
            earlier = (
                f'<p class="soft">{more:,} earlier ones are in the run directory.</p>' if more > 0 else ""
            )
            parts.append(f'<h4>{label}Remarks of the run</h4>{earlier}<ul class="{LITERAL}">{listed}</ul>')
    return "".join(parts)


def in_words(track: Track, name: str) -> str:
    """One run in a line of text."""
    if track.error and not track.rows:
        return track.error
    said = ", ".join(f"{label} {value}" for label, value in model.headline(track))
    return f"{name} is {track.status}: {track.progress}" + (f"; {said}." if said else ".")
