"""One worker process, as the training process sees it: start it, hand it jobs, end it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

WORKER = Path(__file__).parent / "worker.py"
START_SECONDS = 60.0


class Gone(Exception):
    """The worker ended, or does not answer."""


class Connection:
    """A worker that was started; `hello` waits until it is ready.

    It is a fresh interpreter (never a fork of this process, which may hold threads and a GPU), in a session of its own,
    with an empty environment, no standard streams and no descriptors but its end of a socket.
    """

    def __init__(self, namespaces: bool, without: Collection[str]) -> None:
        self._owner = os.getpid()
        self.base = "" if namespaces else tempfile.mkdtemp(prefix="rlkit-sandbox-")
        plan = {"base": self.base, "namespaces": namespaces, "without": sorted(without)}
        self.socket, theirs = socket.socketpair()
        # Some interpreters find their own library by the one variable; the other fixes the order of sets of text.
        environment = {k: v for k, v in os.environ.items() if k == "LD_LIBRARY_PATH"} | {
            "PYTHONHASHSEED": "0"
        }
        # -s, -S: no packages of anybody's, the standard library only
        command = [
            sys.executable,
            "-s",
            "-S",
            "-X",
            "utf8",
            str(WORKER),
            str(theirs.fileno()),
            json.dumps(plan),
        ]
        with theirs:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment,
                pass_fds=(theirs.fileno(),),
                cwd="/",
                start_new_session=True,  # Ctrl-C is for the training
            )

    def fileno(self) -> int:
        """The socket's descriptor, for selectors."""
        return self.socket.fileno()

    def hello(self) -> dict[str, Any]:
        """Wait for the worker's first message: whether it is ready, and which walls stand."""
        try:
            return self._message(START_SECONDS)[0]
        except Gone as error:
            return {"ready": False, "why": f"{error} (exit status {self.process.poll()})"}

    def send(self, program: str, tests: Sequence[Any], limits: dict[str, Any]) -> None:
        """Hand over one job: a program, the orders of its tests, and limits as the worker names them; raises `Gone`."""
        job = json.dumps({"program": program, "tests": tests}).encode()
        head = json.dumps({"limits": limits, "sizes": [len(job)]}).encode()
        try:
            self.socket.settimeout(START_SECONDS)
            self.socket.sendall(struct.pack("!I", len(head)) + head + job)
        except OSError as error:
            raise Gone(f"the worker does not listen: {error}") from None

    def receive(self, seconds: float) -> dict[str, Any]:
        """Wait so long for the report on a job; raises `Gone`."""
        report, (answers, output) = self._message(seconds)
        return {
            **report,
            "answers": answers.decode("ascii", "replace"),
            "output": output.decode("utf-8", "replace"),
        }

    def _message(self, seconds: float) -> tuple[dict[str, Any], list[bytes]]:
        try:
            self.socket.settimeout(seconds)
            (length,) = struct.unpack("!I", self._exactly(4))
            head: dict[str, Any] = json.loads(self._exactly(length))
            return head, [self._exactly(size) for size in head.pop("sizes")]
        except OSError as error:
            raise Gone(f"the worker does not answer: {error}") from None

    def _exactly(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            more = self.socket.recv(min(count - len(data), 1 << 20))
            if not more:
                raise Gone("the worker ended")
            data += more
        return bytes(data)

    def close(self) -> None:
        """End the worker and whatever it runs; it ends by itself when the socket closes."""
        self.socket.close()
        if os.getpid() != self._owner:  # this process was forked from the one whose worker it is
            return
        try:
            self.process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.base:
            shutil.rmtree(self.base, ignore_errors=True)

    def kill(self) -> None:
        """End the worker now; its programs' processes are tied to it and end, too."""
        if os.getpid() == self._owner:
            self.process.kill()
        self.close()
