"""Read a run, finished or still being written: nothing here waits for the writer or changes a file.

Only whole steps are shown. A last line without its newline, or a parquet file under a temporary name,
belongs to a step that is being written, or to one that a killed run never finished.
"""

from __future__ import annotations

import html
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlkit.errors import ConfigError, bad_value
from rlkit.runs import lock, schema
from rlkit.runs.diagnose import diagnose
from rlkit.runs.evidence import Diagnosis
from rlkit.runs.facts import run_facts
from rlkit.runs.lines import Lines

if TYPE_CHECKING:
    import pyarrow as pa

STALE_SECONDS = 600.0  # without file locks: silence after which a run without summary counts as interrupted


class Run:
    """One run directory. Every property looks at the files anew, so it follows a live run.

    ``path``: the directory; ``wait``: seconds to wait for a run to appear there. Raises ConfigError where
    there is none.
    """

    def __init__(self, path: str | os.PathLike[str], *, wait: float = 0.0):
        self.path = Path(path)
        end = time.monotonic() + wait
        while not (self.path / schema.CONFIG).is_file():
            if time.monotonic() >= end:
                raise ConfigError(_not_a_run(self.path))
            time.sleep(0.05)
        self._lines = Lines(self.path / schema.METRICS)
        self.config  # noqa: B018 - a config that cannot be read is said now

    @property
    def name(self) -> str:
        """The directory's name."""
        return self.path.resolve().name

    @property
    def config(self) -> dict[str, Any]:
        """What the run was started with."""
        return _read_json(self.path / schema.CONFIG)

    @property
    def summary(self) -> dict[str, Any] | None:
        """What came out; None while the run goes on, and where it was killed."""
        path = self.path / schema.SUMMARY
        return _read_json(path) if path.is_file() else None

    @property
    def events(self) -> list[dict[str, Any]]:
        """Every whole line of ``metrics.jsonl``, in the order of writing."""
        return self._lines.read()

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The step lines, by step; where a resumed run repeated a step, its last line counts."""
        return _by_step(self.events, "step")

    @property
    def evals(self) -> list[dict[str, Any]]:
        """The evaluation lines, by step."""
        return _by_step(self.events, "eval")

    @property
    def notes(self) -> list[str]:
        """The remarks, in order."""
        return [str(e.get("text", "")) for e in self.events if e.get("event") == "note"]

    @property
    def steps(self) -> list[int]:
        """Numbers of the whole steps, rising."""
        return [m["step"] for m in self.metrics]

    @property
    def unreadable_lines(self) -> int:
        """How many finished lines were no JSON object; 0 in every run that was written by ``RunWriter``."""
        self._lines.read()
        return self._lines.unreadable

    @property
    def reward_names(self) -> list[str]:
        """Names of the reward functions, in the order of the first step line."""
        names = dict.fromkeys(key for m in self.metrics for key in m if key.startswith(schema.REWARDS))
        return [key[len(schema.REWARDS) :] for key in names]

    @property
    def status(self) -> str:
        """What the summary says: "finished", "interrupted" or "stopped: why".

        Without a summary: "running" while its writer lives (on a file system without locks: while it wrote
        within ``STALE_SECONDS``), else "interrupted".
        """
        summary = self.summary
        if summary is not None:
            return str(summary.get("status", "finished"))
        metrics = self.path / schema.METRICS
        writing = lock.is_taken(metrics)
        if writing is None:
            newest = max(
                (p.stat().st_mtime for p in (metrics, self.path / schema.CONFIG) if p.exists()), default=0.0
            )
            writing = time.time() - newest < STALE_SECONDS
        if writing:
            return "running"
        return "finished" if self.summary is not None else "interrupted"  # it may have ended while we looked

    def column(self, name: str) -> tuple[list[int], list[float]]:
        """(steps, values) of one metric, e.g. "reward" or "rewards/format".

        Steps where it is missing or null are left out; NaN stays.
        Raises ConfigError where no step line has that name.
        """
        metrics = self.metrics
        if metrics and not any(name in m for m in metrics):
            known = sorted({key for m in metrics for key in m} - {"event", "step", "time"})
            raise ConfigError(f"no step of {self.path} has a metric {name!r}. Known: {', '.join(known)}.")
        kept = [m for m in metrics if m.get(name) is not None]
        return [m["step"] for m in kept], [float(m[name]) for m in kept]

    @property
    def sample_steps(self) -> list[int]:
        """The whole steps whose completions were kept."""
        return [step for step in self.steps if self._samples_path(step).is_file()]

    def samples_table(self, step: int, columns: Sequence[str] | None = None) -> pa.Table:
        """One whole step's completions as a pyarrow table; empty (with its columns) where none were kept.

        ``columns``: read only these (``"reward/"``: all that begin so); those that the file lacks are left out.
        """
        if step not in self.steps:
            raise bad_value("step", step, f"a whole step of {self.path}: {_spans(self.steps)}")
        return _read_table(self._samples_path(step), self.reward_names, columns)

    def samples(self, step: int) -> list[dict[str, Any]]:
        """One whole step's completions, one dict each; the columns are those of ``schema.sample_schema``."""
        rows: list[dict[str, Any]] = self.samples_table(step).to_pylist()
        return rows

    def eval_table(self, step: int, kind: str = "greedy", columns: Sequence[str] | None = None) -> pa.Table:
        """The completions of one evaluation, as ``samples_table`` gives a step's. ``kind``: "greedy" or "sampled"."""
        steps = [e["step"] for e in self.evals]
        if step not in steps:
            raise bad_value("step", step, f"a step of {self.path} with an evaluation: {_spans(steps)}")
        path = self.path / schema.EVALS / schema.eval_file(step, kind)
        return _read_table(path, self.reward_names, columns)

    def eval_samples(self, step: int, kind: str = "greedy") -> list[dict[str, Any]]:
        """The same, one dict each; [] where they were not kept."""
        rows: list[dict[str, Any]] = self.eval_table(step, kind).to_pylist()
        return rows

    def follow(self, poll: float = 0.2, timeout: float | None = None) -> Iterator[dict[str, Any]]:
        """Yield each whole step's metrics, those already there first, until the run has ended.

        ``poll``: seconds between two looks; ``timeout``: seconds without a new step after which to give up
        (None: as long as the run lives).
        """
        lines = self._fresh_lines()
        events: list[dict[str, Any]] = []
        seen, turn, last = 0, 0, time.monotonic()
        while True:
            ended = self.status != "running"  # asked before reading, so that no last line is missed
            before, events = events, lines.read()
            if lines.turn != turn:
                # A resumed run was cut, and goes on after the lines that it kept; where another run took the
                # directory over, no line stays and its steps start anew.
                seen, turn = _same_lines(before[:seen], events), lines.turn
            for event in events[seen:]:
                if _is_event(event, "step"):
                    last = time.monotonic()
                    yield event
            seen = len(events)
            if ended or (timeout is not None and time.monotonic() - last >= timeout):
                return
            time.sleep(poll)

    def diagnose(self) -> list[Diagnosis]:
        """What the numbers mean and what to change, worst first; see ``rlkit.runs.diagnose``."""
        from rlkit.runs.moved import exploited

        found = diagnose([*self.evals, *self.metrics], self.config)
        known = any(finding.code == "over_optimised" for finding in found)
        more = None if known else exploited(self)
        return found if more is None else [more, *found]

    def report(self) -> Path:
        """Write ``report.html`` and return its path; see ``rlkit.runs.report``."""
        from rlkit.runs.report import write_report

        return write_report(self.path)

    def _fresh_lines(self) -> Lines:
        """What ``follow`` reads: all lines, from the first one on."""
        return Lines(self.path / schema.METRICS)

    def _samples_path(self, step: int) -> Path:
        return self.path / schema.SAMPLES / schema.step_file(step)

    def _facts(self) -> dict[str, str]:
        metrics = self.metrics
        facts = {"status": self.status, "steps": str(len(metrics))}
        return facts | run_facts(self.config, metrics, self.evals)

    def __repr__(self) -> str:
        return (
            f"Run({str(self.path)!r}: {', '.join(f'{key} {value}' for key, value in self._facts().items())})"
        )

    def _repr_html_(self) -> str:
        cells = "".join(
            f"<tr><th scope='row' style='text-align:left'>{html.escape(key)}</th>"
            f"<td style='text-align:left'>{html.escape(value)}</td></tr>"
            for key, value in self._facts().items()
        )
        return f"<table><caption><b>{html.escape(str(self.path))}</b></caption>{cells}</table>"


def list_runs(root: str | os.PathLike[str] = "runs") -> list[Run]:
    """The runs directly below ``root``, oldest first; [] where there is no such directory."""
    root = Path(root)
    found = []
    for config in root.glob(f"*/{schema.CONFIG}") if root.is_dir() else ():
        try:
            found.append(Run(config.parent))
        except ConfigError:  # somebody else's config.json
            continue
    return sorted(found, key=lambda run: (str((run.config.get("run") or {}).get("started", "")), run.name))


def _is_event(event: dict[str, Any], kind: str) -> bool:
    return event.get("event") == kind and isinstance(event.get("step"), int)


def _same_lines(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> int:
    """How many lines stand at the start of both. As text, in which one NaN is like the other."""
    count = 0
    for old, new in zip(before, after):
        if repr(old) != repr(new):
            break
        count += 1
    return count


def _by_step(events: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    last = {event["step"]: event for event in events if _is_event(event, kind)}
    return [last[step] for step in sorted(last)]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return schema.loads(path.read_bytes())
    except (ValueError, OSError) as error:
        raise ConfigError(f"{path} cannot be read as a run's {path.name}: {error}") from error


def _read_table(path: Path, reward_names: list[str], columns: Sequence[str] | None = None) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        return schema.sample_schema(reward_names).empty_table()
    try:
        with open(path, "rb") as file:
            whole = pq.ParquetFile(file)
            wanted = tuple(columns or ())
            names = [n for n in whole.schema_arrow.names if n in wanted or n[: n.find("/") + 1] in wanted]
            table = whole.read(None if columns is None else names)
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(
            f"{path} is not a readable parquet file ({error}). A run writes such files whole: was it cut "
            "short while being copied, or is it a pointer of a large-file store?"
        ) from error
    if columns is not None:
        return table
    for field in schema.sample_schema(reward_names):  # a file from elsewhere, or of an older version
        if field.name not in table.schema.names:
            table = table.append_column(field, pa.nulls(table.num_rows, field.type))
    return table


def _not_a_run(path: Path) -> str:
    if not path.exists():
        return f"there is no run at {path}: no such directory."
    if not path.is_dir():
        return f"there is no run at {path}: it is a file; a run is a directory with a {schema.CONFIG}."
    message = f"there is no run at {path}: looked for {schema.CONFIG} in it and found none."
    inside = sorted(p.parent.name for p in path.glob(f"*/{schema.CONFIG}"))
    return f"{message} Did you mean one of the runs below it: {', '.join(inside[:5])}?" if inside else message


def _spans(steps: list[int]) -> str:
    """[1, 2, 3, 7] as "1-3, 7"."""
    spans: list[list[int]] = []
    for step in steps:
        if spans and step == spans[-1][1] + 1:
            spans[-1][1] = step
        else:
            spans.append([step, step])
    shown = [f"{a}-{b}" if a != b else str(a) for a, b in spans]
    return ", ".join(shown[:8] + ["…"] * (len(shown) > 8)) or "none yet"
