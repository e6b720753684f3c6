"""Write a run so that whatever kills it, all steps before are whole.

A step is *whole* when its line stands in ``metrics.jsonl``, newline included. Its samples are written
first, under a temporary name that ``os.replace`` turns into the real one; a file with a real name is
complete. The writer holds a lock on ``metrics.jsonl`` as long as it lives, which the operating system
drops whatever the way the process ends: so a reader can tell a slow run from a dead one.

A run that goes on from a checkpoint (``RunWriter.resume``) is put back to what it held then. What it had written
since is moved to ``set_aside-<n>``, since it will be written again; nothing is deleted.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rlkit.errors import ConfigError, TrainingError, bad_value, unknown_name
from rlkit.runs import lock, reopen, schema

_OPEN: weakref.WeakSet[RunWriter] = weakref.WeakSet()  # the writers of this process


class RunWriter:
    """Writes one run directory; see ``rlkit.runs.schema`` for what stands in it.

    ``directory``: created where missing. One that already holds a run is refused; with ``overwrite=True``
    the old run's files are moved to ``<directory>.old-<n>`` (nothing is deleted, files that are not a
    run's stay where they are). ``config``: a mapping of settings; sections may be nested.
    Use it as a context manager, or call ``close()``: an exception that passes through is noted in
    ``summary.json``.
    """

    def __init__(
        self, directory: str | os.PathLike[str], *, config: Mapping[str, Any], overwrite: bool = False
    ):
        self.directory = Path(directory)
        self._fd = -1
        self._lock = threading.RLock()
        self._position = 0
        _make_room(self.directory, overwrite)
        (self.directory / schema.SAMPLES).mkdir(parents=True, exist_ok=True)
        (self.directory / schema.EVALS).mkdir(exist_ok=True)
        self._metrics = self.directory / schema.METRICS
        self._fd = os.open(self._metrics, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        lock.take(self._fd)
        _OPEN.add(self)
        # Last, because a folder is a run from the moment on that it has its config.
        self._write_config(config, {"format": schema.FORMAT, "started": now()})

    @classmethod
    def resume(
        cls, directory: str | os.PathLike[str], *, config: Mapping[str, Any], position: int, step: int
    ) -> RunWriter:
        """Open a run that was interrupted, or that has ended, to go on after ``step``.

        ``position``: bytes of ``metrics.jsonl`` to keep, as ``RunWriter.position`` said when that step's checkpoint
        was written; 0 with ``step=-1`` starts over. Lines beyond it, the completions and checkpoints of later steps,
        evaluations without a line and the summary move to ``<directory>/set_aside-<n>``. ``config.json`` takes the
        new ``config``, keeps ``run.started`` and notes step and time under ``run.resumed``.
        A process that is killed in here leaves a run that can be resumed from the same checkpoint.

        Raises ConfigError where there is no run, where another process writes it, and for a ``position`` beyond the
        end of its metrics.
        """
        writer = cls.__new__(cls)
        writer.directory = Path(directory)
        writer._fd = -1
        writer._lock = threading.RLock()
        writer._metrics = writer.directory / schema.METRICS
        about = reopen.about(writer.directory)
        if not isinstance(step, int) or step < -1:
            raise bad_value("step", step, "the checkpoint's step, or -1 to start over")
        close_writers(writer.directory)
        held = reopen.hold(writer._metrics)
        try:
            content = writer._metrics.read_bytes()
            if not 0 <= position <= len(content):
                cause = "The file is shorter than when the checkpoint was written: was it edited, or copied in part?"
                raise bad_value(
                    "position", position, f"0 to {len(content)}, the size of {writer._metrics}", cause
                )
            kept = content[: content.rfind(b"\n", 0, position) + 1]
            aside = reopen.Aside(writer.directory)
            if len(kept) < len(content):
                writer._replace(aside.place(schema.METRICS), content[len(kept) :])
            for path in reopen.later_files(writer.directory, kept, step):
                aside.move(path)
            for name in (schema.SAMPLES, schema.EVALS):
                (writer.directory / name).mkdir(exist_ok=True)
            about["resumed"] = [*about.get("resumed", []), {"step": step, "time": now()}]
            writer._write_config(config, about)
            # Last, so that whatever interrupts this finds all of the run, here or set aside, the next time.
            writer._start_from(kept)
        finally:
            if held >= 0:
                os.close(held)
        return writer

    @property
    def position(self) -> int:
        """Bytes of ``metrics.jsonl`` that hold whole lines, all on disk: what a checkpoint keeps for ``resume``."""
        with self._lock:
            return self._position

    def write_samples(self, step: int, rows: Sequence[Mapping[str, Any]]) -> Path:
        """Store one step's completions, a mapping each. Call it before the step's ``write_metrics``."""
        return self._write_table(self.directory / schema.SAMPLES / schema.step_file(step), step, rows)

    def write_eval(self, step: int, kind: str, rows: Sequence[Mapping[str, Any]]) -> Path:
        """Store one evaluation's completions; ``kind`` is "greedy" or "sampled". Its line comes after."""
        return self._write_table(self.directory / schema.EVALS / schema.eval_file(step, kind), step, rows)

    def write_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Append one line and wait until it is on disk. ``event`` defaults to "step"; ``time`` is added."""
        event = metrics.get("event", "step")
        if event not in schema.EVENTS:
            raise unknown_name("event", event, schema.EVENTS)
        if event in ("step", "eval") and not _is_step(metrics.get("step")):
            raise bad_value(
                "step", metrics.get("step"), "a whole number, 0 or more", f"An {event!r} line needs it."
            )
        line = schema.dumps({"event": event, **metrics, "time": round(time.time(), 3)}).encode() + b"\n"
        with self._lock:
            self._check_open()
            written = 0
            try:
                while written < len(line):  # one write in practice; a full disk may split it
                    written += os.write(self._fd, line[written:])
            except BaseException:
                os.ftruncate(self._fd, self._position)  # half a line would swallow the next one
                raise
            self._position += written
            os.fsync(self._fd)

    def note(self, text: str) -> None:
        """Append a remark for people, e.g. "stopped by hand"."""
        self.write_metrics({"event": "note", "text": str(text)})

    def write_summary(self, summary: Mapping[str, Any]) -> Path:
        """Write what came out; the run counts as ended from here on. ``status`` defaults to "finished"."""
        with self._lock:
            self._check_open()
            path = self.directory / schema.SUMMARY
            self._replace(path, schema.dumps({"status": "finished", **summary}, indent=2).encode())
            return path

    def close(self) -> None:
        """Let go of the files; a run without a summary then reads as interrupted. May be called twice."""
        with self._lock:
            fd, self._fd = self._fd, -1
            _OPEN.discard(self)
            if fd >= 0:
                os.close(fd)

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        try:
            if kind is not None and self._fd >= 0 and not (self.directory / schema.SUMMARY).exists():
                why = (
                    "interrupted"
                    if issubclass(kind, KeyboardInterrupt)
                    else f"stopped: {kind.__name__}: {error}"
                )
                self.write_summary({"status": why})
        finally:
            self.close()

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            self.close()

    def __repr__(self) -> str:
        return f"RunWriter({str(self.directory)!r}{'' if self._fd >= 0 else ', closed'})"

    def _write_table(self, path: Path, step: int, rows: Sequence[Mapping[str, Any]]) -> Path:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not _is_step(step):
            raise bad_value("step", step, "a whole number, 0 or more")
        table = schema.sample_table(step, rows)
        sink = pa.BufferOutputStream()
        # Lean, as there is a file a step: together these halve a small one.
        pq.write_table(
            table, sink, compression="zstd", use_dictionary=False, write_statistics=False, store_schema=False
        )
        with self._lock:
            self._check_open()
            self._replace(path, sink.getvalue())
        return path

    def _write_config(self, config: Mapping[str, Any], about: Mapping[str, Any]) -> None:
        text = schema.dumps({**config, "run": about}, indent=2)
        self._replace(self.directory / schema.CONFIG, text.encode())

    def _start_from(self, kept: bytes) -> None:
        """Put a file with ``kept`` in the metrics' place, locked before any reader sees it."""
        if lock.fcntl is None:  # Windows, which moves no open file
            self._replace(self._metrics, kept)
            self._fd, self._position = os.open(self._metrics, os.O_WRONLY | os.O_APPEND), len(kept)
            _OPEN.add(self)
            return
        temporary = self._metrics.with_name(f".{self._metrics.name}.tmp-{os.getpid()}")
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
        try:
            lock.take(fd)
            rest = memoryview(kept)
            while rest:
                rest = rest[os.write(fd, rest) :]
            os.fsync(fd)
            os.replace(temporary, self._metrics)
        except BaseException:
            os.close(fd)
            temporary.unlink(missing_ok=True)
            raise
        self._fd, self._position = fd, len(kept)
        _OPEN.add(self)
        sync_directory(self.directory)

    def _replace(self, path: Path, content: Any) -> None:
        """Put ``content`` at ``path`` at once: readers see the old file or the whole new one."""
        temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
        try:
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_directory(path.parent)

    def _check_open(self) -> None:
        if self._fd < 0:
            raise TrainingError(f"the run at {self.directory} is closed: nothing more can be written to it.")
        try:
            same = os.path.samestat(os.fstat(self._fd), os.stat(self._metrics))
        except FileNotFoundError:
            same = False
        if not same:
            raise TrainingError(
                f"{self._metrics} is no longer this run's file: the directory was moved, deleted, or taken "
                "over by a newer run with overwrite=True. Nothing was written, so that the two do not mix."
            )


def _is_step(value: Any) -> bool:
    return hasattr(value, "__index__") and not isinstance(value, bool) and int(value) >= 0


def _make_room(directory: Path, overwrite: bool) -> None:
    """Refuse a directory that holds a run, or move that run's files to ``<directory>.old-<n>``."""
    if directory.exists() and not directory.is_dir():
        raise bad_value("output_dir", str(directory), "a directory", "There is a file of that name.")
    held = [name for name in schema.RUN_NAMES if (directory / name).exists()]
    held += sorted(path.name for path in directory.glob(f"{schema.SET_ASIDE}*"))
    if not any(name in held for name in (schema.CONFIG, schema.METRICS)):
        return
    if not overwrite:
        raise ConfigError(
            f"output_dir={str(directory)!r} already holds a run ({', '.join(held)}). Allowed: a new or empty "
            "directory, or overwrite=True, which moves the old run aside and deletes nothing."
        )
    close_writers(directory)
    full = directory.absolute()
    number = 1
    while (aside := full.with_name(f"{full.name}.old-{number}")).exists():
        number += 1
    aside.mkdir()
    for name in held:
        os.rename(directory / name, aside / name)


def close_writers(directory: Path) -> None:
    """Close this process's own writers of ``directory``: a notebook cell that is run twice."""
    for writer in list(_OPEN):
        if writer.directory.absolute() == directory.absolute():
            writer.close()


def now() -> str:
    """The time as a run's files tell it, with the offset from UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def sync_directory(directory: Path) -> None:
    """Make a rename last through a power cut, where the system offers that."""
    try:
        fd = os.open(directory, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(fd)
    except OSError:
        pass
    finally:
        os.close(fd)


def _let_go_in_child() -> None:
    """A forked child (a sandbox, a data loader) must neither write into the run nor keep its lock alive."""
    for writer in list(_OPEN):
        fd, writer._fd = writer._fd, -1
        if fd >= 0:
            os.close(fd)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go_in_child)
