"""Watch one program's process: collect what it writes, and end it at a limit.

Part of the worker's process: nothing but the standard library, and no import of rlkit.
"""

import contextlib
import ctypes
import os
import select
import signal
import time

LOOK = 0.02  # seconds between two looks at what the kernel does not bound or announce
MOST_FILES = 1000
DEEPEST = 50  # directories within each other, where the kernel does not bound their number
CHUNK = 65536


def wipe(data):
    """Overwrite a buffer with zeros, so that no process that is forked later finds in its memory what was in it."""
    if data:
        ctypes.memset((ctypes.c_char * len(data)).from_buffer(data), 0, len(data))


class Written:
    """What a process has written to one pipe: the first `most` bytes of it, in a buffer that can be wiped."""

    def __init__(self, most):
        self.buffer = bytearray(most + 1)
        self.size = 0

    def take(self, descriptor):
        """Read once; returns how many bytes came, 0 at the end."""
        count = os.readv(descriptor, [memoryview(self.buffer)[self.size : self.size + CHUNK]])
        self.size += count
        return count

    def full(self):
        """Whether it is more than allowed."""
        return self.size == len(self.buffer)

    def all(self):
        """Return what may be kept of it; the buffer is zeros afterwards."""
        kept = self.buffer[: min(self.size, len(self.buffer) - 1)]
        wipe(self.buffer)
        return kept


def watch(pid, start, answers, output, limits, control, place=None):
    """Collect what a process writes until it ends, a limit ends it, or nobody wants it any more.

    Returns the report, and as bytes the answers and the output.

    `answers` and `output` are the reading ends of its pipes, `control` the socket that closes when nobody waits,
    `place` a directory that the kernel does not bound (None: it does, and the process is the first of a namespace).
    """
    most = limits["output_kib"] << 10
    written = {answers: Written(most), output: Written(most)}
    ended = os.pidfd_open(pid) if hasattr(os, "pidfd_open") else None
    poll = select.poll()
    for descriptor in (answers, output, control, *([] if ended is None else [ended])):
        poll.register(descriptor, select.POLLIN)
    killed, done = None, None
    while killed is None and done is None:
        left = start + limits["seconds"] - time.monotonic()
        if left <= 0:
            killed = "time"
            break
        pause = left if ended is not None and place is None else min(left, LOOK)
        for descriptor, _ in poll.poll(pause * 1000 + 1):
            if descriptor == ended:
                done = os.wait4(pid, 0)
            elif descriptor == control:  # it is the other side's turn to be silent
                killed = "nobody"
            else:
                if not written[descriptor].take(descriptor):
                    poll.unregister(descriptor)
                if written[descriptor].full():
                    killed = "output" if descriptor == output else "answers"
                    break
        if ended is None and done is None:
            found = os.wait4(pid, os.WNOHANG)
            done = found if found[0] else None
        if place is not None and overfull(place, limits["file_mib"] << 20):
            killed = "files"
    if done is None:
        os.kill(pid, signal.SIGKILL)
        done = os.wait4(pid, 0)
    if place is not None:
        with contextlib.suppress(OSError):  # without a process namespace something may have stayed behind
            os.killpg(pid, signal.SIGKILL)
    seconds = time.monotonic() - start
    for descriptor, pipe in written.items():
        drain(descriptor, pipe)
    if ended is not None:
        os.close(ended)
    _, status, usage = done
    report = {
        "killed": killed,
        "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0,
        "status": os.WEXITSTATUS(status) if os.WIFEXITED(status) else 0,
        "cpu": usage.ru_utime + usage.ru_stime,
        "seconds": seconds,
    }
    return report, written[answers].all(), written[output].all()


def drain(descriptor, written):
    """Take what is left in a pipe, without waiting for more, and close it."""
    os.set_blocking(descriptor, False)
    with contextlib.suppress(BlockingIOError):
        while not written.full() and written.take(descriptor):
            pass
    os.close(descriptor)


def overfull(place, most):
    """Whether a directory holds more than `most` bytes, too many files, or what cannot be looked at."""
    size, count, waiting = 0, 0, [(place, 0)]
    try:
        while waiting:
            path, depth = waiting.pop()
            with os.scandir(path) as entries:
                for entry in entries:
                    count += 1
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append((entry.path, depth + 1))
                    else:
                        size += entry.stat(follow_symlinks=False).st_blocks * 512
                    if size > most or count > MOST_FILES or depth > DEEPEST:
                        return True
    except FileNotFoundError:  # it was removed while we looked
        return False
    except OSError:
        return True
    return False
