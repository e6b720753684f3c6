"""What ``RunWriter.resume`` needs: is the run free, and which of its files come after the checkpoint."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Any

from rlkit.errors import ConfigError, bad_value
from rlkit.runs import lock, schema


def about(directory: Path) -> dict[str, Any]:
    """What ``config.json`` says under ``run`` of the run that is to go on."""
    path = directory / schema.CONFIG
    cause = f"There is no run to resume at {directory}."
    try:
        found = schema.loads(path.read_bytes()).get("run")
    except FileNotFoundError:
        raise bad_value(
            "output_dir", str(directory), f"a run's directory, with its {path.name}", cause
        ) from None
    except ValueError as error:
        raise ConfigError(f"{path} cannot be read as a run's {path.name}: {error}") from error
    found = found if isinstance(found, dict) else {}
    if found.get("format", schema.FORMAT) != schema.FORMAT:
        raise ConfigError(
            f"{path} is of format {found['format']}, this rlkit writes format {schema.FORMAT}: another version of "
            "rlkit began the run and must resume it."
        )
    return {"format": schema.FORMAT, **found}


def hold(metrics: Path) -> int:
    """Open a run's metrics and hold their lock; -1 on a system without locks.

    Raises ConfigError where another process has it.
    """
    if lock.fcntl is None:
        metrics.touch()
        return -1
    refusal = ConfigError(
        f"{metrics.parent} is being written by another process: a run cannot be resumed while it goes on. Stop that "
        "process (or a notebook's kernel) first; nothing was changed."
    )
    fd = os.open(metrics, os.O_RDONLY | os.O_CREAT, 0o644)
    try:
        for attempt in range(50):
            try:
                lock.fcntl.flock(fd, lock.fcntl.LOCK_EX | lock.fcntl.LOCK_NB)
                break
            except BlockingIOError:  # its writer, or a reader that looks this very moment
                if attempt == 49 or lock.is_taken(metrics):
                    raise refusal from None
                time.sleep(0.01)
            except OSError:  # a file system without locks
                break
        if not os.path.samestat(os.fstat(fd), os.stat(metrics)):  # another process has just resumed it
            raise refusal
        return fd
    except BaseException:
        os.close(fd)
        raise


def later_files(directory: Path, kept: bytes, step: int) -> list[Path]:
    """The files and folders of a run that belong to what comes after ``step`` and the lines in ``kept``."""
    events = []
    for line in kept.split(b"\n"):
        try:
            events.append(schema.loads(line))
        except ValueError:
            continue
    judged = {event.get("step") for event in events if event.get("event") == "eval"}
    later = [directory / schema.SUMMARY]
    for name in (schema.SAMPLES, schema.EVALS, schema.CHECKPOINTS):
        for path in sorted((directory / name).glob("*")):  # with .step_…, writes that were cut short
            found = re.match(r"\.?step_(\d+)", path.name)
            if found is None:
                continue
            number = int(found[1])
            if path.name.startswith(".") and name == schema.CHECKPOINTS:
                continue  # half of one; the next checkpoint's writer clears it away
            stays = number in judged if name == schema.EVALS else number <= step
            if not stays or path.name.startswith("."):
                later.append(path)
    return [path for path in later if path.exists()]


class Aside:
    """A new ``set_aside-<n>`` in a run directory, made when the first thing goes there."""

    def __init__(self, directory: Path):
        self._directory = directory
        number = 1
        while (folder := directory / f"{schema.SET_ASIDE}{number}").exists():
            number += 1
        self._folder = folder

    def place(self, name: str) -> Path:
        """Where the run's ``name``, such as "samples/step_000003.parquet", goes."""
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def move(self, path: Path) -> None:
        os.rename(path, self.place(str(path.relative_to(self._directory))))
