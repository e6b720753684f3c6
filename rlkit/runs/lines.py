"""A growing file of JSON lines: every byte is read once, and it is noticed where another file takes its path."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any, BinaryIO

from rlkit.runs import schema

_TAIL = 64  # bytes; a line ends in its time, so that no two end alike


class Lines:
    """Reads a growing file of JSON lines, each byte once; a tail without newline waits for the next look."""

    def __init__(self, path: Path):
        self.path = path
        self.turn = 0  # how often another file had taken the path
        self._lock = threading.Lock()
        self._start_over(None)

    def _start_over(self, identity: tuple[int, int] | None) -> None:
        self.events: list[dict[str, Any]] = []
        self.unreadable = 0
        self._offset = 0
        self._tail = b""  # the last bytes that were read
        self._identity = identity

    def read(self) -> list[dict[str, Any]]:
        """All whole lines so far (a copy of the list)."""
        with self._lock:
            try:
                with open(self.path, "rb") as file:
                    stat = os.fstat(file.fileno())
                    identity = (stat.st_dev, stat.st_ino)
                    if identity != self._identity or not self._goes_on(file):
                        self.turn += self._identity is not None
                        self._start_over(identity)
                    file.seek(self._offset)
                    chunk = file.read()
            except FileNotFoundError:  # not there yet
                return list(self.events)
            end = chunk.rfind(b"\n") + 1
            self._offset += end
            self._tail = (self._tail + chunk[:end])[-_TAIL:]
            for line in chunk[:end].split(b"\n"):
                if line.strip():
                    self._take(line)
            return list(self.events)

    def _goes_on(self, file: BinaryIO) -> bool:
        """Whether what was read still stands there: systems give the number of a file that is gone to a new one."""
        file.seek(self._offset - len(self._tail))
        return file.read(len(self._tail)) == self._tail

    def _take(self, line: bytes) -> None:
        try:
            self.events.append(schema.loads(line))
        except ValueError:  # includes broken UTF-8
            self.unreadable += 1
