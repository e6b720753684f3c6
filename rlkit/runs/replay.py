"""A recorded run, told over time again: for a classroom without a GPU, at the speed that suits it.

A ``Replay`` is a ``Run`` whose lines appear as they did when it was recorded. Whatever shows a run shows it, and says
that it is a replay.
"""

from __future__ import annotations

import math
import os
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rlkit.errors import ConfigError, bad_value
from rlkit.runs import recordings
from rlkit.runs.evidence import finite
from rlkit.runs.reader import Run

LONGEST_GAP = 30.0  # seconds between two lines; a run that was left alone over night is not waited for


class ReplayControl:
    """Pause, step, and skip to the end: the remote control of a replay, with the names of ``TrainerControl``.

    ``length``: seconds of the recording, from its first line to its last.

    >>> replay.control.pause(); replay.control.step(5); replay.control.resume()
    """

    background = True  # whoever shows the replay is free to hear its buttons
    stop_reason = None

    def __init__(
        self,
        times: Sequence[float],
        steps: Sequence[float],
        speed: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._steps, self._clock = list(steps), clock
        self.length = times[-1] if times else 0.0
        self._lock = threading.RLock()
        self._told = 0.0  # recorded seconds, up to `_since`
        self._since: float | None = None  # clock; None: not begun, or paused
        self._begun = False
        self._speed = _checked(speed)

    @property
    def speed(self) -> float:
        """Seconds of the recording that pass in one second; may be set at any time."""
        return self._speed

    @speed.setter
    def speed(self, value: float) -> None:
        with self._lock:
            value = _checked(value)
            self._move_to(self.position)
            self._speed = value

    @property
    def position(self) -> float:
        """Recorded seconds that have been told; the first look begins it."""
        with self._lock:
            if not self._begun:
                self._begun, self._since = True, self._clock()
            if self._since is None:
                return self._told
            gone = self._clock() - self._since
            told = self._told + (gone * self._speed if gone > 0 else 0.0)
            return min(told, self.length) if math.isfinite(self._speed) else self.length

    @property
    def state(self) -> str:
        """``running``, ``paused`` or ``finished``."""
        with self._lock:
            return (
                "finished"
                if self.position >= self.length
                else "running"
                if self._since is not None
                else "paused"
            )

    @property
    def alive(self) -> bool:
        """Whether more is to come, be it paused."""
        return self.state != "finished"

    @property
    def pausing(self) -> bool:
        """Whether it is paused."""
        return self.state == "paused"

    def pause(self) -> None:
        """Tell nothing more, until ``resume`` or ``step``."""
        with self._lock:
            self._told, self._since = self.position, None

    def resume(self) -> None:
        """Go on after ``pause``."""
        with self._lock:
            if self._since is None:
                self._since = self._clock()

    def step(self, count: int = 1) -> None:
        """Tell ``count`` more steps, then pause."""
        if count < 1:
            raise bad_value("count", count, "a whole number of steps, 1 or more")
        with self._lock:
            later = [at for at in self._steps if at > self.position]
            self._told = later[count - 1] if count <= len(later) else self.length
            self._since = None

    def stop(self, reason: str = "") -> None:
        """Tell the rest at once."""
        with self._lock:
            self._begun, self._told, self._since = True, self.length, None

    def restart(self) -> None:
        """Begin again."""
        with self._lock:
            self._begun, self._told, self._since = True, 0.0, self._clock()

    def _move_to(self, position: float) -> None:
        self._told = position
        if self._since is not None:
            self._since = self._clock()


class Replay(Run):
    """A recorded run whose steps appear as time passes; in all else a ``Run``.

    Attributes:
        control: pause, step, skip to the end, speed; a ``ReplayControl``.
        provenance: what was recorded: model, data, device, versions, commit; None where the run was not packed.
        checked: what is not as it was recorded, in words (``recordings.differences``); None where it was not packed.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        speed: float = 1.0,
        *,
        longest_gap: float = LONGEST_GAP,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(path)
        events = super().events
        times = _timeline(events, longest_gap)
        steps = [at for at, event in zip(times, events, strict=True) if event.get("event") == "step"]
        self.control = ReplayControl(times, steps, speed, clock)
        self.provenance = recordings.provenance(self.path)
        self.checked = recordings.differences(self.path) if self.provenance is not None else None
        self._lines: Any = _Told(events, times, self.control, self._lines.unreadable)

    @property
    def status(self) -> str:
        """ "running" until all of it has been told, then what the recorded run says."""
        return "running" if self.control.alive else super().status

    @property
    def summary(self) -> dict[str, Any] | None:
        """What came out; None until all of the run has been told."""
        return None if self.control.alive else super().summary

    def origin(self) -> str:
        """Model, data, device, versions and commit of the recording, and whether it is unchanged, in words."""
        noted = self.provenance
        if noted is None:
            return f"Not packed: without a {recordings.PROVENANCE} nobody can say whether it is as it was recorded."
        versions = noted.get("versions")
        named = [f"{k} {v}" for k, v in versions.items()] if isinstance(versions, dict) else []
        parts = [
            ("", noted.get("about")),
            ("Model: ", noted.get("model")),
            ("Data: ", noted.get("data")),
            ("Device: ", noted.get("device")),
            ("Versions: ", ", ".join(named)),
            ("Commit: ", noted.get("commit")),
            ("Recorded: ", noted.get("recorded")),
        ]
        said = [f"{label}{str(value).rstrip('.')}." for label, value in parts if value]
        if self.checked:
            said.append(f"NOT as it was recorded: {'; '.join(self.checked[:5])}.")
        else:
            said.append(f"All {len(noted['sha256'])} files have the SHA-256 that was recorded.")
        return " ".join(said)

    def _fresh_lines(self) -> Any:
        return self._lines


def replay(run: str | os.PathLike[str], speed: float = 1.0, *, longest_gap: float = LONGEST_GAP) -> Replay:
    """Tell a recorded run over time again, in whatever shows a run.

    Args:
        run: a run directory, or the name of a recording that comes with the package (``runs.recorded()`` lists them).
        speed: seconds of the recording that pass in one second; ``float("inf")`` tells all of it at once.
        longest_gap: seconds of the recording; longer silences are cut to as many.

    Raises:
        ConfigError: there is no such run or recording, or ``speed`` is not above 0.

    >>> TrainingDashboard(runs.replay("demo", speed=4))
    """
    path = Path(run)
    if not path.exists() and str(run) in recordings.recorded_names():
        path = recordings.recorded_path(str(run))
    if not path.exists() and len(path.parts) == 1:
        known = ", ".join(recordings.recorded_names()) or "none"
        raise ConfigError(f"there is neither a run nor a recording called {str(run)!r}. Recorded: {known}.")
    return Replay(path, speed, longest_gap=longest_gap)


class _Told:
    """The lines that have been told so far, in place of a growing file."""

    def __init__(
        self, events: list[dict[str, Any]], times: list[float], control: ReplayControl, unreadable: int
    ) -> None:
        self._events, self._times, self._control = events, times, control
        self.turn, self.unreadable = 0, unreadable
        self._most = 0

    def read(self) -> list[dict[str, Any]]:
        count = bisect_right(self._times, self._control.position)
        self.turn += count < self._most  # begun again
        self._most = count
        return self._events[:count]


def _timeline(events: Sequence[dict[str, Any]], longest_gap: float) -> list[float]:
    """When each line appears, in seconds from the first one: rising, without long silences."""
    times: list[float] = []
    before: float | None = None
    for event in events:
        now = finite(event.get("time"))
        now = before if now is None else now
        gap = max(0.0, now - before) if now is not None and before is not None else 0.0
        times.append((times[-1] if times else 0.0) + min(gap, longest_gap))
        before = now
    return times


def _checked(speed: float) -> float:
    if isinstance(speed, bool) or not isinstance(speed, (int, float)) or not speed > 0:
        raise bad_value("speed", speed, "a number above 0; 2 is twice as fast as it was")
    return float(speed)
