"""Hostile programs: none passes, none outlives its limit, none changes anything or leaves anything behind."""

from __future__ import annotations

import os
import socket
import time

import pytest
from sandbox_attacks import ATTACKS, BOMBS, TESTS

from rlkit import sandbox

psutil = pytest.importorskip("psutil")

WALLS = dict((name, on) for name, on, _ in sandbox.active())
pytestmark = pytest.mark.skipif(not WALLS["sandbox"], reason="this system cannot hold a hostile program")

LIMITS = sandbox.Limits(seconds=0.6, memory_mib=192, file_mib=4, output_kib=64)
SECRET = "the-secret-of-the-parent"
WELL = "def double(x): return x + x\n" + "#" * 600  # right, and long enough to leave traces in a heap

# Behind all walls, and behind fewer: each set alone must hold everything, too.
BEHIND = {
    "all": (),
    "no namespaces": ("namespaces",),
    "no seccomp": ("seccomp",),
    "no landlock": ("landlock",),
}


@pytest.fixture(scope="module", params=BEHIND)
def pool(request):
    """A pool with one worker, for each set of walls that is enough here."""
    without = BEHIND[request.param]
    whole = WALLS["process namespace"] and (WALLS["seccomp"] or WALLS["process limit"])
    needs = {
        "all": True,
        "no namespaces": WALLS["landlock"] and WALLS["seccomp"],
        "no seccomp": WALLS["process namespace"] and WALLS["process limit"],
        "no landlock": whole,
    }
    if not needs[request.param]:
        pytest.skip("without these walls this system cannot hold a hostile program")
    with sandbox.Pool(workers=1, without=without) as pool:
        pool.behind = request.param
        yield pool


@pytest.fixture(scope="module")
def surroundings(tmp_path_factory):
    """What programs try to reach: a directory, a secret, a port that listens; and a look at all of it."""
    outside = tmp_path_factory.mktemp("outside")
    outside.chmod(0o777)
    (outside / "file").write_text("untouched")
    (outside / "secret").write_text(SECRET)
    for path in (outside, *outside.parents):
        if path.stat().st_uid == os.getuid() and path != path.parent and "pytest" in path.name:
            path.chmod(0o755 if path != outside else 0o777)  # so that nothing but the sandbox protects it
    (outside / "file").chmod(0o666)
    os.environ["RLKIT_TEST_SECRET"] = SECRET
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.settimeout(0)
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as named,
        ):
            datagrams.bind(listener.getsockname())
            named.bind(str(outside / "socket"))
            (outside / "socket").chmod(0o777)
            for receiver in (datagrams, named):
                receiver.settimeout(0)
            yield outside, listener, datagrams, named
    del os.environ["RLKIT_TEST_SECRET"]


def look(outside) -> tuple:
    """Everything that must stay as it is."""
    library = os.stat(os.__file__)
    return (
        sorted(path.name for path in outside.iterdir()),
        (outside / "file").read_text(),
        (library.st_mode, library.st_size, library.st_mtime_ns),
        os.getpriority(os.PRIO_PROCESS, 0),
        sorted(name for name in os.listdir("/dev/shm") if "rlkit" in name),
    )


def processes(pool) -> list[int]:
    """The worker's processes, once it has cleared up: the one that was started, and the server where it has a child."""
    (worker,) = pool._workers
    first = psutil.Process(worker.process.pid)
    until = time.monotonic() + 2
    while True:
        found = [first, *first.children(recursive=True)]
        if len(found) == 1 + pool.walls["process namespace"][0] or time.monotonic() > until:
            return sorted(process.pid for process in found)
        time.sleep(0.01)


@pytest.mark.parametrize("name", ATTACKS)
def test_attack(name, pool, surroundings):
    outside, listener, *datagrams = surroundings
    program, verdicts = ATTACKS[name]
    if name in BOMBS and not (WALLS["process namespace"] and pool.behind != "no namespaces"):
        pytest.skip("processes are started only where all of them end with a process namespace")
    for mark, value in (
        ("@PARENT@", os.getpid()),
        ("@OUTSIDE@", outside),
        ("@SECRET@", outside / "secret"),
        ("@PORT@", listener.getsockname()[1]),
    ):
        program = program.replace(mark, str(value))
    assert pool.run(WELL, TESTS, sandbox.Limits()).passed  # the worker is well
    before, own = look(outside), processes(pool)

    start = time.monotonic()
    outcome = pool.run(program, TESTS, LIMITS)
    took = time.monotonic() - start

    assert outcome.verdict != "passed", outcome
    known = {*verdicts, "timeout"}  # a busy machine may be too slow for any of them
    assert pool.behind != "all" or outcome.verdict in known, outcome
    assert took <= LIMITS.seconds + 1
    assert look(outside) == before
    assert SECRET not in outcome.output + outcome.detail
    with pytest.raises(BlockingIOError):
        listener.accept()
    for receiver in datagrams:
        with pytest.raises(BlockingIOError):
            receiver.recv(1)
    assert outcome.detail.replace("\n", " ").isprintable()
    assert len(outcome.output) <= LIMITS.output_kib * 1024
    assert processes(pool) == own  # the same worker, and nothing else is left
    assert pool.run(WELL, TESTS, LIMITS).passed


def test_there_are_at_least_forty():
    assert len(ATTACKS) >= 40


@pytest.mark.skipif(
    not WALLS["process namespace"], reason="needs a process namespace, which ends with all in it"
)
def test_where_processes_are_allowed_they_are_counted_and_end_together():
    limits = sandbox.Limits(seconds=1.0, processes=4)
    bomb = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"
    stays = (
        "import os, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    time.sleep(600)\n"
        "def double(x): return 2 * x"
    )
    with sandbox.Pool(workers=1) as pool:
        assert pool.run(stays, TESTS, limits).passed
        own = processes(pool)
        assert len(own) == 2
        start = time.monotonic()
        assert pool.run(bomb, TESTS, limits).verdict == "timeout"
        assert time.monotonic() - start < limits.seconds + 1
        assert processes(pool) == own
        assert pool.run(stays, TESTS, limits).passed


def test_nothing_stays_in_the_private_directory(pool):
    writes = "import os\nopen('left', 'w').write('x')\ndef double(x): return len(os.listdir('.')) * 2 * x"
    for _ in range(2):
        assert pool.run(writes, TESTS, LIMITS).passed, "there is one file: the program's own"
