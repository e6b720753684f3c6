"""The server that forks a process for every program. It runs as a script, outside the rlkit package.

A fresh interpreter takes some 30 ms to start; a fork of one that is running takes 1 ms. This one has imported little,
has one thread, and knows nothing of the training process, which starts it with an empty environment and talks to it
over one socket, in turns: a length (4 bytes, big-endian), that much JSON, and as many bytes as the JSON's "sizes" name.

Those bytes are a job's program and tests, and a report's answers and output. The server never looks at them, and
overwrites them: what stays in its memory would be in the process of every program that is forked from it later, which
could read there how another program solved the same problem.

With namespaces there are three generations: the process that was started makes the namespaces; its child, the
first process of the new ones, is the server; the server's children run programs, each as the first process of a
process namespace of its own, so that everything which a program starts ends with it. When the socket closes, because
rlkit is done or was killed, the server ends, and with it whatever runs.
"""

import contextlib
import gc
import json
import os
import signal
import struct
import sys
import tempfile
import time

import child
import filters
import kernel
import watching

sys.path.pop(0)  # the folder of this file: a program must not import its worker

import bisect  # noqa: F401  what programs often import, so that their processes find it loaded
import collections  # noqa: F401
import copy  # noqa: F401
import dataclasses  # noqa: F401
import datetime  # noqa: F401
import fractions  # noqa: F401
import functools  # noqa: F401
import heapq  # noqa: F401
import itertools  # noqa: F401
import math  # noqa: F401
import operator  # noqa: F401
import random
import re  # noqa: F401
import statistics  # noqa: F401
import string  # noqa: F401
import typing  # noqa: F401

FIRST_USER = 59_000  # whose programs a root user runs: from here on nobody has an account
ELSEWHERE = "Linux has it, this system has not"


class Server:
    """How a worker is walled in, and how it runs one program."""

    def __init__(self, control, plan):
        self.control = control
        self.base = plan["base"]  # for private directories, where there is no root directory of its own
        self.namespaces = plan["namespaces"]
        self.without = plan["without"]
        self.home = None  # the process namespace that the server itself is in
        self.user = None  # whom programs become
        self.landlock = False
        self.libraries = None  # Landlock's rules for libraries, where there is no root directory of its own
        self.filters = {}  # may it start processes? -> compiled filter
        self.counts = False  # whether the kernel's limit on processes counts those of programs only
        self.size = 64 << 20  # bytes of address space before any program
        self.walls = {}  # name -> [whether it stands, why not]

    # --- walls ----------------------------------------------------------------------------------------------

    def enter(self):
        """Enter the namespaces and a root directory in a forked process; the calling one stays behind and waits."""
        root, number = os.getuid() == 0, os.getpid() % 1000
        needed_users = kernel.enter_namespaces()
        server = os.fork()
        if server:
            os.close(self.control)
            os.waitpid(server, 0)
            os._exit(0)
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        self.home = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self.size = kernel.address_space()
        kernel.build_root()
        if root and not needed_users:
            self.user = FIRST_USER + number
        self.walls["user namespace"] = [needed_users, "" if needed_users else "root needs none"]

    def settle(self):
        """Try every other wall in a process of its own, and keep those that stand."""
        if not self.namespaces:
            self.size = kernel.address_space()
            os.chmod(self.base, 0o711)
            self.user = FIRST_USER + os.getpid() % 1000 if os.getuid() == 0 else None
        why = "only root can become somebody else"
        if self.user is not None:
            why = self.tried(self.become_and_look)
            if why and self.namespaces:
                raise OSError(why)
            self.user = None if why else self.user
        self.walls["another user"] = [not why, why]
        for name, prepare in (("landlock", self.with_landlock), ("seccomp", self.with_seccomp)):
            why = "switched off" if name in self.without else prepare() if kernel.LINUX else ELSEWHERE
            self.walls[name] = [not why, why]
        self.counts = kernel.LINUX and (self.user is not None or (self.namespaces and os.getuid() != 0))
        why = "" if self.counts else "it would count all processes of the user"
        self.walls["process limit"] = [self.counts, why]

    def with_landlock(self):
        """Returns why Landlock cannot be used, or "" where it is."""
        why = self.tried(self.restrict)
        self.landlock = not why
        if self.landlock and not self.namespaces:
            self.libraries = kernel.library_rules(self.base)
        return why

    def with_seccomp(self):
        """Returns why seccomp cannot be used, or "" where it is."""
        try:
            for may_fork in (False, True):
                self.filters[may_fork] = filters.build(may_fork, own_root=self.namespaces)
            why = self.tried(self.filter_and_fork)
        except OSError as error:
            why = f"libseccomp: {error}"
        if why:
            self.filters = {}
        return why

    def become_and_look(self):
        """As another user the interpreter's own modules must still be readable."""
        kernel.become(self.user)
        os.listdir(kernel.STDLIB)

    def restrict(self):
        """Landlock alone."""
        os.chdir(kernel.PRIVATE if self.namespaces else self.base)
        kernel.drop_rights()
        kernel.landlock(None if self.namespaces else kernel.library_rules(self.base))

    def filter_and_fork(self):
        """seccomp alone: starting a process must fail."""
        kernel.drop_rights()
        filters.load(self.filters[False])
        try:
            os.fork()
        except PermissionError:
            return
        raise OSError("the filter lets processes be started")

    def tried(self, action):
        """Do something in a process of its own; returns "" or what went wrong."""
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                action()
                os.write(writing, b"done")
            except BaseException as error:
                os.write(writing, f"{type(error).__name__}: {error}".encode(errors="replace")[:500])
            os._exit(0)
        os.close(writing)
        with open(reading, "rb") as file:
            said = file.read().decode(errors="replace")
        os.waitpid(pid, 0)
        return "" if said == "done" else said or "it killed its process"

    # --- one program ----------------------------------------------------------------------------------------

    def furnish(self, limits):
        """Make an empty private directory; returns its path."""
        if self.namespaces:
            owner = os.getuid() if self.user is None else self.user
            size = f"size={limits['file_mib']}m,nr_inodes={watching.MOST_FILES},mode=700,uid={owner}"
            kernel.mount("tmpfs", kernel.PRIVATE, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, size)
            return kernel.PRIVATE
        place = tempfile.mkdtemp(dir=self.base)
        if self.user is not None:
            os.chown(place, self.user, self.user)
        return place

    def clear(self, place):
        """Remove a private directory with whatever is in it."""
        if self.namespaces:
            kernel.unmount(place)
            return
        removing = os.posix_spawn("/bin/rm", ["rm", "-rf", place], {})  # takes trees of any depth
        os.waitpid(removing, 0)

    def become_program(self, limits, place, output):
        """In a new process: give up everything that a program must not have."""
        os.dup2(output, 1)
        os.dup2(output, 2)
        rules = child.ANSWERS if self.libraries is None else self.libraries
        os.closerange(child.ANSWERS + 1, rules)
        os.closerange(rules + 1, 1024)
        os.setsid()
        os.chdir(place)
        os.environ["TMPDIR"] = place
        kernel.set_limits(limits, self.size, self.counts)
        if kernel.LINUX:
            kernel.become(self.user)
            kernel.drop_rights()
        if self.landlock:
            kernel.landlock(self.libraries)
        if self.filters:
            filters.load(self.filters[limits["processes"] > 1])
        random.seed(0)  # the same program draws the same numbers each time
        gc.enable()

    def execute(self, limits, job, place):
        """Run one program to its end or to a limit; returns the report, its answers and its output.

        `job` is the JSON of program and tests; all of it is zeros afterwards.
        """
        answers, output = os.pipe(), os.pipe()
        start = time.monotonic()
        if self.namespaces:
            kernel.unshare(kernel.CLONE_NEWPID)
        pid = os.fork()
        if pid == 0:
            try:
                os.dup2(answers[1], child.ANSWERS, inheritable=False)  # where the socket was
                job = json.loads(job)
                self.become_program(limits, place, output[1])
            except BaseException as error:
                why = f"the sandbox could not be set up: {type(error).__name__}: {error}"
                child.write({"error": why, "kind": "error"})
                os._exit(70)
            try:
                child.run(job["program"], job["tests"])
            finally:
                child.leave()
        watching.wipe(job)
        if self.namespaces:  # the next program gets a namespace of its own, not this one
            kernel.call("setns", self.home, kernel.CLONE_NEWPID)
        os.close(answers[1])
        os.close(output[1])
        unbounded = None if self.namespaces else place
        return watching.watch(pid, start, answers[0], output[0], limits, self.control, unbounded)

    def serve(self):
        """Run programs until the socket closes."""
        process = os.getpid()
        while (received := receive(self.control)) is not None:
            limits, job = received
            place = self.furnish(limits)
            try:
                report, *written = self.execute(limits, job, place)
                send(self.control, report, written)
                for data in written:
                    watching.wipe(data)
            finally:
                if os.getpid() == process:  # and not a program that got away from its end
                    self.clear(place)


def read_exactly(descriptor, count):
    """Read so many bytes into a buffer; None where the other side has closed before."""
    data, found = bytearray(count), 0
    while found < count:
        more = os.readv(descriptor, [memoryview(data)[found:]])
        if not more:
            return None
        found += more
    return data


def receive(descriptor):
    """Read one job: its limits, and its program and tests as they came; None where the other side has closed."""
    length = read_exactly(descriptor, 4)
    head = None if length is None else read_exactly(descriptor, struct.unpack("!I", length)[0])
    if head is None:
        return None
    head = json.loads(head)
    job = read_exactly(descriptor, head["sizes"][0])
    return None if job is None else (head["limits"], job)


def send(descriptor, message, written=()):
    """Write one message and the bytes that belong to it."""
    head = json.dumps({**message, "sizes": [len(data) for data in written]}).encode()
    for data in (struct.pack("!I", len(head)) + head, *written):
        left = memoryview(data)
        while left:
            left = left[os.write(descriptor, left) :]


def main():
    """Wall the server in, say how that went, and run programs until the socket closes."""
    control, plan = child.ANSWERS, json.loads(sys.argv[2])
    given = int(sys.argv[1])
    if (
        given != control
    ):  # it may be any number where the training has many files open, and programs must not find it
        os.dup2(given, control, inheritable=False)
        os.close(given)
    server = Server(control, plan)
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")  # where memory runs out, this goes first, and not the training
    except OSError:
        pass
    try:
        if server.namespaces:
            server.enter()
        server.settle()
    except BaseException as error:
        send(control, {"ready": False, "why": f"{type(error).__name__}: {error}"})
        os._exit(1)
    os.environ.clear()
    if kernel.LINUX:
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    gc.collect()
    gc.freeze()  # a collection in a program's process would copy every page
    gc.disable()
    send(control, {"ready": True, "walls": server.walls})
    with contextlib.suppress(OSError):  # nobody is there any more
        server.serve()
    if server.base:
        server.clear(server.base)
    os._exit(0)


if __name__ == "__main__":
    main()
