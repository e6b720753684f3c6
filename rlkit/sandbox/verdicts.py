"""From a worker's report to a verdict: what ended the program, and whether its answers satisfy the tests.

The report's frame (what ended the process, how long it took) is the worker's, which is trusted; the answers and
the output in it are the program's, which are not.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import Any

from rlkit.sandbox.answers import read_frames
from rlkit.sandbox.judging import Test
from rlkit.sandbox.limits import Limits, Outcome, Verdict

_KINDS: dict[Any, Verdict] = {"error": "error", "memory": "memory", "blocked": "blocked"}


def outcome(report: dict[str, Any], tests: Sequence[Test], limits: Limits) -> Outcome:
    """Judge one program.

    Stopped by force comes first, then an error of the program itself, then the first test that does not hold. "passed"
    needs the right answer to every test.
    """
    ran, error, kind, faults, judged = _judge(read_frames(report["answers"]), tests)
    said: dict[str, Any] = {
        "output": report["output"],
        "seconds": report["seconds"],
        "tests_passed": judged - len(faults),
    }
    reached = judged if ran and judged < len(tests) else None  # the test in which the process ended
    first = min(faults, default=reached)
    stopped = _stopped(report, limits)
    if stopped is not None:
        return Outcome(stopped[0], first, stopped[1], **said)
    if not ran:
        return Outcome(kind, None, error or f"the program ended early ({_status(report)})", **said)
    if faults:
        number = min(faults)
        how, what = faults[number]
        return Outcome(how, number, what, **said)
    if reached is not None:
        return Outcome("error", reached, f"the program ended during this test ({_status(report)})", **said)
    return Outcome("passed", proven=bool(tests) and all(test.proven for test in tests), **said)


def _judge(
    frames: list[dict[str, Any]], tests: Sequence[Test]
) -> tuple[bool, str, Verdict, dict[int, tuple[Verdict, str]], int]:
    """Return whether the program ran, what it raised and of which kind; then the tests' faults, and how many came."""
    if not frames or frames[0].get("ran") is not True:
        error, kind = _raised(frames[0]) if frames else ("", "error")
        return False, error, kind, {}, 0
    faults: dict[int, tuple[Verdict, str]] = {}
    judged = min(len(frames) - 1, len(tests))
    for number in range(judged):
        frame, test = frames[number + 1], tests[number]
        if "answers" in frame:
            fault = test.fault(frame["answers"])
            if fault:
                faults[number] = ("failed", fault)
            continue
        error, kind = _raised(frame)
        faults[number] = ("failed" if kind == "error" else kind, error)
    return True, "", "error", faults, judged


def _raised(frame: dict[str, Any]) -> tuple[str, Verdict]:
    """Read what a frame says was raised."""
    error, kind = frame.get("error"), frame.get("kind")
    text = (
        _printable(error[:600]) if isinstance(error, str) else "the program wrote something that is no answer"
    )
    return text, _KINDS[kind] if isinstance(kind, str) and kind in _KINDS else "error"


def _printable(text: str) -> str:
    """Spell out what no terminal and no file should get: control characters, and halves of surrogate pairs."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def _stopped(report: dict[str, Any], limits: Limits) -> tuple[Verdict, str] | None:
    """Return verdict and detail where the process was ended by force; None where it ended by itself."""
    killed, number = report["killed"], report["signal"]
    if killed == "time":
        return "timeout", f"not ended after {limits.seconds:g} s"
    if killed == "output":
        return "blocked", f"printed more than {limits.output_kib} KiB"
    if killed == "answers":
        return "blocked", f"answered with more than {limits.output_kib} KiB"
    if killed == "files":
        return "blocked", f"wrote more than {limits.file_mib} MiB, or too many files"
    if number == _number("SIGXCPU") or (
        number == _number("SIGKILL") and report["cpu"] >= limits.whole_cpu_seconds() - 0.2
    ):
        return "timeout", f"used {limits.whole_cpu_seconds()} s of processor time"
    if number == _number("SIGSYS"):
        return "blocked", "made a system call that is not allowed here"
    if number == _number("SIGXFSZ"):
        return "blocked", f"wrote a file of more than {limits.file_mib} MiB"
    if number == _number("SIGKILL"):
        return "memory", "the system killed it, most likely for want of memory"
    return None


def _number(name: str) -> int:
    return int(getattr(signal, name, -1))


def _status(report: dict[str, Any]) -> str:
    """Say how a process ended."""
    if report["signal"]:
        try:
            return f"crashed with {signal.Signals(report['signal']).name}"
        except ValueError:
            return f"crashed with signal {report['signal']}"
    return f"exit status {report['status']}"
