"""One run, followed: its numbers as columns that grow with its files. Every line is read once, at any length.

What is kept is what stands in ``metrics.jsonl``: nothing is averaged here, and a value that is no number is
remembered as such.
"""

from __future__ import annotations

import os
import re
import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from rlkit.errors import ConfigError
from rlkit.runs import schema
from rlkit.runs.diagnose import diagnose
from rlkit.runs.evidence import Diagnosis, duration, finite, percent
from rlkit.runs.reader import Run

_RECENT = 20  # steps whose median length says how long the others will take
_RUNNING = "running"


@dataclass(slots=True)
class Column:
    """One metric over the steps: its finite values; and where it was NaN or infinite."""

    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    low: float = float("inf")
    high: float = float("-inf")
    odd: list[int] = field(default_factory=list)  # steps
    first: float | None = None  # as written, finite or not
    last: float | None = None

    def add(self, step: int, value: float) -> None:
        self.first = value if self.first is None else self.first
        self.last = value
        if finite(value) is None:
            self.odd.append(step)
            return
        self.steps.append(step)
        self.values.append(float(value))
        self.low, self.high = min(self.low, value), max(self.high, value)


@dataclass(frozen=True)
class Progress:
    """How far a run is. ``total``: None where the run does not say; ``left``: seconds, None where nobody knows."""

    done: int
    total: int | None
    seconds: float
    left: float | None

    def __str__(self) -> str:
        said = f"step {self.done:,}"
        if self.total:
            said += f" of {self.total:,}, {percent(self.done / self.total)}"
        if self.done:
            said += f", {duration(self.seconds)} gone"
        return f"{said}, about {duration(self.left)} left" if self.left is not None else said


class Track:
    """A run directory, or a ``Run`` (a ``Replay`` is one), as a dashboard needs it.

    ``look()`` takes in what is new. A directory without a run, or none yet, is no exception but ``error``, in words.

    Args:
        source: the directory, or a ``Run``.
        total: how many steps the run is to have, where its config does not say.

    Attributes:
        rows, evals: the step lines and the evaluation lines, by step.
        columns, held_out: their numbers by name, a ``Column`` each.
        notes: the run's remarks.
        config, summary, status: as ``Run`` has them; ``status`` is "" before the first look.
        error: what is wrong with the directory, or "".
        turn, count: how often the run was read from its beginning, and how many lines were taken in since.
    """

    def __init__(self, source: str | os.PathLike[str] | Run, total: int | None = None) -> None:
        self.run: Run | None = source if isinstance(source, Run) else None
        self.path = source.path if isinstance(source, Run) else Path(source)
        self.error = self.status = ""
        self.config: dict[str, Any] = {}
        self.summary: dict[str, Any] | None = None
        self._total = total
        self._stamp: tuple[int, ...] = ()
        self._diagnosed: tuple[Any, list[Diagnosis]] = (None, [])
        self.turn = 0
        self._forget()

    def _forget(self) -> None:
        self.turn += 1
        self.rows: list[dict[str, Any]] = []
        self.evals: list[dict[str, Any]] = []
        self.columns: dict[str, Column] = {}
        self.held_out: dict[str, Column] = {}
        self.notes: list[str] = []
        self.count = self.unreadable = 0
        self._last: dict[str, Any] | None = None  # the newest line, as the reader keeps it
        self._times: deque[float] = deque(maxlen=_RECENT + 1)
        self._start: float | None = None
        self._end = 0.0

    def look(self) -> bool:
        """Take in what has been written since; True where anything has changed."""
        before = self._state()
        try:
            self.run = self.run or Run(self.path)
            # Before the lines: what a run that has ended wrote last must not be missed.
            self.status, self.summary = self.run.status, self.run.summary
            self._read_config(self.run)
            self._read_lines(self.run)
            self.error = self._foreign()
        except ConfigError as error:  # what was read before stays
            self.error = str(error)
        except OSError as error:
            self.error = f"{self.path} cannot be read: {error.strerror or error}. Was it moved or deleted?"
        return before != self._state()

    def _foreign(self) -> str:
        """What is wrong where somebody else wrote the config.json; "" where it is a run's."""
        if "run" in self.config or (self.path / schema.METRICS).exists():
            return ""
        self.status = ""
        return (
            f"{self.path / schema.CONFIG} is no training run's: no trainer signed it, and there is no {schema.METRICS} "
            "beside it. Is this a model's folder?"
        )

    def _state(self) -> tuple[Any, ...]:
        return (self.turn, self.count, self.status, self.error, self._stamp, self.summary is None)

    def _read_config(self, run: Run) -> None:
        stat = os.stat(run.path / schema.CONFIG)
        stamp = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        if stamp != self._stamp:
            self.config, self._stamp = run.config, stamp

    def _read_lines(self, run: Run) -> None:
        events = run.events
        if self.count and (len(events) < self.count or events[self.count - 1] is not self._last):
            self._forget()  # another run took the directory over, or this one was cut and goes on
        new = events[self.count :]
        for event in new:
            self._take(event)
        if new:
            self._last = new[-1]
        self.count = len(events)
        self.unreadable = run.unreadable_lines

    def _take(self, event: dict[str, Any]) -> None:
        kind, step, time = event.get("event"), event.get("step"), finite(event.get("time"))
        if time is not None:
            self._start = time if self._start is None else self._start
            self._end = max(self._end, time)
        if kind == "note":
            self.notes.append(str(event.get("text", "")))
        if kind not in ("step", "eval") or not isinstance(step, int):
            return
        rows, columns = (self.rows, self.columns) if kind == "step" else (self.evals, self.held_out)
        if (
            rows and step <= rows[-1]["step"]
        ):  # a step that was made again: its last line counts, as in ``Run``
            by_step = {row["step"]: row for row in [*rows, event]}
            rows[:] = [by_step[number] for number in sorted(by_step)]
            columns.clear()
            for row in rows:
                _add(columns, row)
        else:
            rows.append(event)
            _add(columns, event)
        if kind == "step" and time is not None:
            self._times.append(time)

    # -- what it says ---------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return self.run.name if self.run is not None else self.path.resolve().name

    @property
    def live(self) -> bool:
        """Whether more is to come."""
        return self.status == _RUNNING

    @property
    def reward_names(self) -> list[str]:
        """The reward functions, in the order in which they appeared."""
        cut = len(schema.REWARDS)
        return [name[cut:] for name in self.columns if name.startswith(schema.REWARDS)]

    @property
    def total(self) -> int | None:
        """How many steps the run is to have; None where nothing says so."""
        if self._total:
            return self._total
        for name in ("total_steps", "max_steps"):
            found = schema.setting(self.config, name)
            if isinstance(found, int) and found > 0:
                return found
        said = re.search(r": ([\d,]+) steps?\b", str(self.config.get("schedule", "")))
        return int(said.group(1).replace(",", "")) if said else None

    @property
    def progress(self) -> Progress:
        """Steps done and to come. Time left: the median of the last steps × the steps to come."""
        done, total = self.rows[-1]["step"] if self.rows else 0, self.total
        gone = self._end - self._start if self._start is not None else 0.0
        times = list(self._times)
        between = [b - a for a, b in pairwise(times) if b >= a]
        left = None
        if self.live and total and between and done < total:
            left = statistics.median_low(between) * (total - done)
        return Progress(done, total, gone, left)

    def diagnose(self) -> list[Diagnosis]:
        """What the numbers mean, worst first, by the same rules as ``Run.diagnose``; computed once for each state."""
        state = (self.turn, self.count, self._stamp)
        if self._diagnosed[0] != state:
            self._diagnosed = state, diagnose([*self.evals, *self.rows], self.config)
        return self._diagnosed[1]


def _add(columns: dict[str, Column], row: Mapping[str, Any]) -> None:
    for name, value in row.items():
        if name in ("step", "time") or type(value) not in (int, float):
            continue
        column = columns.get(name)
        if column is None:
            column = columns[name] = Column()
        column.add(row["step"], value)


def labels(tracks: Sequence[Track]) -> list[str]:
    """Names to tell runs apart: each directory's name, with as many of the folders above it as that takes."""
    parts = [list(reversed(track.path.resolve().parts)) for track in tracks]
    for depth in range(1, max(map(len, parts), default=1) + 1):
        names = ["/".join(reversed(part[:depth])) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{track.name} ({i + 1})" for i, track in enumerate(tracks)]  # one directory, several times
