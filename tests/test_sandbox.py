"""The sandbox with programs that mean no harm: verdicts, what may be tested and how, the pool, its end."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlkit import sandbox
from rlkit.errors import ConfigError
from rlkit.sandbox import isolation
from rlkit.sandbox import pool as pools
from rlkit.sandbox.answers import decode, read_frames
from rlkit.sandbox.judging import read_test
from rlkit.sandbox.pool import read_tests

WALLS = {name: on for name, on, _ in sandbox.active()}
holds = pytest.mark.skipif(not WALLS["sandbox"], reason="this system cannot hold a hostile program")
QUICK = sandbox.Limits(seconds=5)


@pytest.fixture(scope="module")
def pool():
    if not WALLS["sandbox"]:
        pytest.skip("this system cannot hold a hostile program")
    with sandbox.Pool(workers=2) as pool:
        yield pool


# --- verdicts --------------------------------------------------------------------------------------------------------


@holds
def test_the_verdicts():
    tests = ["assert f(2) == 4", "assert f(-3) == 9"]
    right = sandbox.run("def f(x): return x * x", tests)
    assert (right.verdict, right.failed_test, right.detail, right.tests_passed) == ("passed", None, "", 2)
    assert right.passed and right.proven and right.seconds > 0

    wrong = sandbox.run("def f(x): return 2 * x", tests)
    assert (wrong.verdict, wrong.failed_test, wrong.tests_passed) == ("failed", 1, 1)
    assert wrong.detail == "assert f(-3) == 9: f(-3) is -6"

    raises = sandbox.run("def f(x): return x[0]", tests)
    assert (raises.verdict, raises.failed_test) == ("failed", 0)
    assert "TypeError" in raises.detail and "line 1" in raises.detail

    broken = sandbox.run("def f(x) return x", tests)
    assert (broken.verdict, broken.failed_test) == ("error", None)
    assert "SyntaxError" in broken.detail and "line 1" in broken.detail

    endless = sandbox.run(
        "def f(x):\n    while x < 0: pass\n    return 4", tests, sandbox.Limits(seconds=0.3)
    )
    assert (endless.verdict, endless.failed_test, endless.tests_passed) == ("timeout", 1, 1)

    large = sandbox.run("def f(x): return bytearray(10 ** 10)", tests)
    assert (large.verdict, large.failed_test) == ("memory", 0)

    reaching = sandbox.run("import socket\nsocket.socket()", tests)
    assert reaching.verdict == "blocked"


def test_a_program_without_tests_is_a_script(pool):
    program = "import sys\nprint('ä', __name__, file=sys.stderr)\nif __name__ == '__main__': print(6 * 7)"
    outcome = pool.run(program)
    assert outcome.passed and not outcome.proven
    assert outcome.output == "ä __main__\n42\n"
    assert pool.run("raise SystemExit(0)").passed
    assert pool.run("raise SystemExit(1)").verdict == "error"
    assert pool.run("import os; os._exit(0)").verdict == "error"
    assert pool.run("1 / 0").detail.startswith("ZeroDivisionError")


def test_what_stands_under_main_is_left_out_with_tests(pool):
    program = "def f(): return __name__\nif __name__ == '__main__':\n    input()"
    assert pool.run(program, ["assert f() == 'solution'"]).passed


def test_a_program_finds_an_empty_world(pool):
    program = (
        "import os, sys\n"
        "def world(): return (sorted(os.environ), os.listdir('.'), sys.stdin.read(), sys.argv[1:])\n"
        "def fds(): return [fd for fd in range(64) if not closed(fd)]\n"
        "def closed(fd):\n"
        "    try: os.fstat(fd)\n"
        "    except OSError: return True\n"
    )
    # Descriptors: standard input, output and errors, and the one that answers go to.
    tests = ["assert world() == (['TMPDIR'], [], '', [])", "assert fds() == [0, 1, 2, 3]"]
    assert pool.run(program, tests).detail == ""


def test_what_ordinary_programs_need_works(pool):
    program = """
import asyncio, dataclasses, decimal, json, sqlite3, tempfile, threading, zoneinfo
from collections import Counter, namedtuple
from concurrent.futures import ThreadPoolExecutor

@dataclasses.dataclass
class Point:
    x: int
    y: "int" = 0

async def later(x):
    await asyncio.sleep(0)
    return x

def run_later(x): return asyncio.run(later(x))
def threads(n):
    with ThreadPoolExecutor(4) as pool: return sum(pool.map(lambda x: x * x, range(n)))
def file():
    with tempfile.TemporaryFile("w+") as f:
        f.write("abc"); f.seek(0)
        return f.read()
def database():
    with sqlite3.connect(":memory:") as db: return db.execute("select 6 * 7").fetchone()
def counts(text): return Counter(text)
def point(): return namedtuple("P", "x y")(1, 2)
def made(): return Point(1).y
"""
    tests = [
        "assert run_later(3) == 3",
        "assert threads(10) == 285",
        "assert file() == 'abc'",
        "assert database() == (42,)",
        "assert counts('aab') == {'a': 2, 'b': 1}",
        "assert point() == (1, 2)",
        "assert made() == 0",
    ]
    outcome = pool.run(program, tests, QUICK)
    assert outcome.passed, outcome


def test_the_same_program_does_the_same_each_time(pool):
    program = "import random\nprint(random.random(), hash('a'), list({'x', 'y', 'z'}))"
    assert len({pool.run(program).output for _ in range(5)}) == 1
    assert len({outcome.output for outcome in pool.map([program] * 8)}) == 1


def test_output_is_kept_up_to_its_limit(pool):
    limits = sandbox.Limits(output_kib=1)
    assert pool.run("print('x' * 1000)", limits=limits).output == "x" * 1000 + "\n"
    outcome = pool.run("print('x' * 10_000)", limits=limits)
    assert outcome.verdict == "blocked" and outcome.output == "x" * 1024
    assert "printed more than 1 KiB" in outcome.detail


@pytest.mark.parametrize(
    "program",
    [
        "",
        "\0",
        "\ud800",
        "def f(",
        "(" * 10_000,
        "x = " + "-" * 50_000 + "1",
        "é" * 1000,
        "\f\r\n\t",
        "#" * 2**20 + "#",
    ],
)
def test_odd_programs_are_errors_and_nothing_worse(pool, program):
    assert pool.run(program, ["assert f(2) == 4"]).verdict in ("error", "failed", "memory")


@settings(max_examples=60, deadline=None)
@given(program=st.text())
def test_no_text_makes_it_raise(program):
    if WALLS["sandbox"]:
        assert not sandbox.run(program, ["assert a_name_nobody_chooses(2) == 4"]).passed


# --- tests -----------------------------------------------------------------------------------------------------------

SHAPES = [  # a test, a program that passes it, one that does not
    ("assert f(2) == 4", "f = lambda x: 4", "f = lambda x: 5"),
    ("assert 4 == f(2)", "f = lambda x: 4", "f = lambda x: '4'"),
    ("assert f(2) == 4, 'a message'", "f = lambda x: 4", "f = lambda x: 5"),
    ("assert f(2) != 4", "f = lambda x: 5", "f = lambda x: 4"),
    ("assert f(2)", "f = lambda x: [0]", "f = lambda x: []"),
    ("assert not f(2)", "f = lambda x: ''", "f = lambda x: 'x'"),
    ("assert f(2) is None", "f = lambda x: None", "f = lambda x: 0"),
    ("assert f(2) is True", "f = lambda x: True", "f = lambda x: 1"),
    ("assert 1 < f(2) <= 4", "f = lambda x: 4", "f = lambda x: 1"),
    ("assert f(2) in (3, 4)", "f = lambda x: 4", "f = lambda x: 5"),
    ("assert f(1) == 1 and f(2) == 2", "f = lambda x: x", "f = lambda x: 1"),
    ("assert f(1) == 2 or f(2) == 2", "f = lambda x: x", "f = lambda x: 0"),
    ("assert abs(f(2) - 1.4142) < 1e-3", "f = lambda x: x ** .5", "f = lambda x: 1.4"),
    ("assert (f(2) - 1.5) ** 2 < 0.01", "f = lambda x: x ** .5", "f = lambda x: 1.0"),
    ("assert round(f(2), 2) == 1.41", "f = lambda x: x ** .5", "f = lambda x: 1.4"),
    ("import math\nassert math.isclose(f(2), 0.3)", "f = lambda x: 0.1 + 0.2", "f = lambda x: 0.31"),
    ("assert isinstance(f(2), (int, float))", "f = lambda x: 2.0", "f = lambda x: '2'"),
    (
        "assert f(2) == {'a': [1, (2, 3)], None: {4}}",
        "f = lambda x: {'a': [1, (2, 3)], None: {4}}",
        "f = dict",
    ),
    ("assert f(2) == set()", "f = lambda x: set()", "f = lambda x: []"),
    ("assert f(2) == float('inf')", "f = lambda x: 1e999", "f = lambda x: 1e99"),
    ("assert f(2) == [0] * 3 + [2 ** 5]", "f = lambda x: [0, 0, 0, 32]", "f = lambda x: [0, 0, 32]"),
    ("assert f(2) == list(range(3))", "f = lambda x: [0, 1, 2]", "f = range"),
    ("assert f(b'x') == b'xx'", "f = lambda x: x + x", "f = str"),
    ("assert list(f(2)) == [0, 1]", "f = range", "f = lambda x: [1]"),
    ("assert sorted(f(2)) == [1, 2]", "f = lambda x: {2, 1}", "f = lambda x: {2}"),
    ("assert (f(1), f(2)) == (1, 2)", "f = lambda x: x", "f = lambda x: 1"),
    ("assert f(2)[0] == 1 and len(f(2)) == 1", "f = lambda x: [1]", "f = lambda x: [1, 2]"),
    ("s = f(2)\ns.add(3)\nassert sorted(s) == [2, 3]", "f = lambda x: {x}", "f = lambda x: {x, 4}"),
    (
        "for x in (1, 2):\n    f(x)\nassert f(3) == 3",
        "n = []\ndef f(x): n.append(x); return len(n)",
        "f = lambda x: 1",
    ),
    ("assert [f(x) for x in (1, 2)] == [1, 2]", "f = lambda x: x", "f = lambda x: 1"),
    ("assert f(2) == -4.5 and f(2) == +-4.5", "f = lambda x: -4.5", "f = lambda x: 4.5"),
    ("assert f(2) & 1 == 1 and f(2) << 1 == 6", "f = lambda x: 3", "f = lambda x: 2"),
    ("assert f(2) | {1} == {1, 2}", "f = lambda x: {x}", "f = lambda x: {x, 3}"),
    ("assert f(60) % 10 == 0", "import math\nf = math.factorial", "f = lambda x: 10**60 + 1"),
    ("assert f(200) == 2**200", "f = lambda x: 1 << x", "f = lambda x: 1 << x + 1"),
    ("assert max(*f(2)) == 3", "f = lambda x: [3, 1]", "f = lambda x: [1, 4]"),
    ("assert round(f(2), g(2)) == 1.41", "f = lambda x: x ** .5\ng = abs", "f = lambda x: 1.4\ng = abs"),
    ("assert f(2) == 1 + 2j", "f = lambda x: 1 + 2j", "f = lambda x: 1 - 2j"),
]


@pytest.mark.parametrize(("test", "right", "wrong"), SHAPES)
def test_shapes_that_can_be_proven(pool, test, right, wrong):
    assert read_test(test).proven
    assert pool.run(right, [test]).passed, pool.run(right, [test])
    assert pool.run(wrong, [test]).verdict == "failed"


def test_what_is_expected_never_reaches_the_programs_process():
    """Whatever the shape: the literals of the judging side are in no order that the worker gets."""
    for test, secret in (
        ("assert f(2) == 98765", "98765"),
        ("assert 98765 == f(2)", "98765"),
        ("assert abs(f(2) - 98765) < 1e-6", "98765"),
        ("assert (f(2) - 98765) ** 2 < 1", "98765"),
        ("assert max(f(2), 98765) == 98765", "98765"),
        ("assert f(2) == [98765] * 3", "98765"),
        ("assert f(2) in {98765, 4}", "98765"),
        ("assert isinstance(f(2), int) and f(2) == 98765", "98765"),
        ("assert f(2, 'a') == {'k': ['secret']}", "secret"),
    ):
        assert secret not in json.dumps(read_test(test).orders()), test


@pytest.mark.parametrize(
    ("test", "shape"),
    [
        ("def check(g):\n    assert g(2) == 4\ncheck(f)", "inside a FunctionDef"),
        ("for x in range(3):\n    assert f(x) == x", "inside a For"),
        ("assert f(2) == g(2)", "both come from the program"),
        ("assert all(f(x) == x for x in range(3))", "a condition inside"),
        ("assert f(2).startswith('a')", "no direct call"),
        ("ok = f(2) == 4\nassert ok", "no direct call"),
        ("assert all(f(2))", "no direct call"),
        ("assert [f(x) == x for x in range(3)] == [True] * 3", "a condition inside"),
        ("assert 1 + 1 == 2", "nothing that the program computes"),
    ],
)
def test_shapes_that_cannot_be_proven_are_refused_by_name(pool, test, shape):
    with pytest.raises(ConfigError, match=shape):
        read_test(test)
    assert not read_test(test, True).proven
    program = "f = lambda x: x\ng = f"
    outcome = pool.run(program, [test], allow_unproven=True)
    assert outcome.verdict in ("passed", "failed")
    assert not (outcome.passed and outcome.proven)


@pytest.mark.parametrize("test", ["", "f(2)", "assert f(2) =", "x = 1"])
def test_what_is_no_test_is_refused(test):
    with pytest.raises(ConfigError, match="at least one assert"):
        read_test(test)


def test_unproven_tests_can_be_forged_which_is_why_they_are_refused(pool):
    class_that_equals = "class E:\n    def __eq__(self, o): return True\ndef f(x): return E()"
    test = "for x in (1, 2):\n    assert f(x) == x"
    outcome = pool.run(class_that_equals, [test], allow_unproven=True)
    assert outcome.passed and not outcome.proven
    with pytest.raises(ConfigError, match="inside a For"):
        pool.run(class_that_equals, [test])


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text() | st.integers(), inner, max_size=4)
        | st.frozensets(st.integers() | st.text(), max_size=4)
    ),
    max_leaves=20,
)


def module_of_the_worker(name):
    """A module of the worker, which is no part of the package."""
    path = os.path.join(os.path.dirname(isolation.__file__), f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"worker_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


encode = module_of_the_worker("child").plain


@given(PLAIN)
def test_plain_data_comes_back_as_it_was(value):
    back = decode(json.loads(json.dumps(encode(value))))
    assert back == value and type(back) is type(value)
    assert repr(back) == repr(value) or "set" in repr(value)  # True is not 1, and 1 is not 1.0


@given(
    st.recursive(
        st.none() | st.integers() | st.text() | st.booleans(),
        lambda i: (
            st.lists(i)
            | st.dictionaries(st.sampled_from(["list", "tuple", "set", "dict", "bytes", "frozenset", "x"]), i)
        ),
    )
)
def test_decoding_yields_plain_data_or_refuses(anything):
    try:
        value = decode(anything)
    except (ValueError, TypeError):
        return
    assert type(value) in (type(None), bool, int, float, str, bytes, list, tuple, set, frozenset, dict)


@pytest.mark.parametrize("kind", ["set", "dict"])
def test_answers_made_to_be_slow_are_refused(kind):
    """Whole numbers of one hash: looking them up takes time with the square of their number."""
    numbers = [n * (2**61 - 1) for n in range(1, 100_000)]
    for slow in (numbers, [{"tuple": [n]} for n in numbers]):
        with pytest.raises(ValueError, match="more than 1000"):
            decode({kind: [[n, 0] for n in slow] if kind == "dict" else slow})
    assert len(decode({"list": numbers})) == len(numbers)
    few = numbers[:1000]
    assert decode({"set": few}) == set(few)


def test_what_is_told_of_an_error_can_be_printed(pool):
    outcome = pool.run("def f(x): raise ValueError('\\x1b[2J \\ud800 ä')", ["assert f(2) == 4"])
    assert outcome.detail == "ValueError: \\x1b[2J \\ud800 ä (line 1)"
    outcome.detail.encode()


@given(st.text())
def test_frames_are_read_without_trust(text):
    assert all(isinstance(frame, dict) for frame in read_frames(text))
    deep = '{"ran": true}\n' + "[" * 100_000
    assert read_frames(deep) == [{"ran": True}]


# --- limits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "limits",
    [
        {"seconds": 0},
        {"seconds": "1"},
        {"cpu_seconds": -1},
        {"memory_mib": 1},
        {"file_mib": 0},
        {"processes": 0},
        {"processes": True},
        {"output_kib": 1.5},
    ],
)
def test_limits_that_cannot_work_are_refused(limits):
    (name,) = limits
    with pytest.raises(ConfigError, match=f"{name}="):
        sandbox.Limits(**limits)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda pool: pool.map("x = 1"), "programs="),
        (lambda pool: pool.map(["x = 1"], [[], []]), "one list for each"),
        (lambda pool: pool.map(["x = 1"], ["assert f(2) == 4"]), "list of Python texts"),
        (lambda pool: pool.map([1]), "program=1"),
        (lambda pool: pool.run("x = 1", limits={"seconds": 1}), "limits="),
        (lambda pool: sandbox.Pool(workers=0), "workers=0"),
        (lambda pool: sandbox.Pool(without="seccomp"), "without="),
        (lambda pool: sandbox.Pool(without=["walls"]), "without="),
    ],
)
def test_what_cannot_work_is_refused(pool, call, says):
    with pytest.raises(ConfigError, match=says):
        call(pool)


def test_too_long_a_program_is_not_started(pool):
    outcome = pool.run("#" * 2**20, ["assert f(2) == 4"])
    assert outcome.verdict == "error" and "1048576 are allowed" in outcome.detail


# --- the pool --------------------------------------------------------------------------------------------------------


def test_many_programs_at_once_in_their_order(pool):
    programs = [f"def f(): return {i}" for i in range(64)]
    tests = [[f"assert f() == {i if i % 3 else -1}"] for i in range(64)]
    outcomes = pool.map(programs, tests)
    assert [outcome.passed for outcome in outcomes] == [i % 3 != 0 for i in range(64)]
    assert len(pool._workers) == 2
    assert pool.map([], []) == []


def test_a_slow_program_does_not_hold_up_the_others(pool):
    slow = "import time\ntime.sleep(0.6)"
    outcomes = pool.map([slow, *["x = 1"] * 20])
    assert all(outcome.passed for outcome in outcomes)
    assert sum(outcome.seconds for outcome in outcomes[1:]) < 0.6 * 20


def test_one_pool_for_several_threads(pool):
    from concurrent.futures import ThreadPoolExecutor

    def square(i):
        return pool.run("def f(x): return x * x", [f"assert f({i}) == {i * i}"]).passed

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(square, range(24)))


def test_a_worker_that_was_killed_is_replaced(pool):
    assert pool.run("x = 1").passed
    for worker in pool._workers:
        worker.process.kill()
        worker.process.wait()
    assert all(outcome.passed for outcome in pool.map(["x = 1"] * 4))


@holds
@pytest.mark.parametrize("times", [1, 2])
def test_a_program_that_loses_its_worker_gets_one_more(times):
    """The first time it may have been somebody else's fault; the second time it is reported, and the others go on."""
    with sandbox.Pool(workers=1) as pool:
        assert pool.run("x = 1").passed

        def kill():
            for _ in range(times):
                time.sleep(0.5)
                os.kill(pool._workers[0].process.pid, signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        outcomes = pool.map(["import time\ntime.sleep(0.9)", "x = 1", "x = 2"], limits=QUICK)
        killer.join()
        assert outcomes[0].verdict == ("passed" if times == 1 else "memory")
        assert outcomes[0].passed or "worker was killed" in outcomes[0].detail
        assert all(outcome.passed for outcome in outcomes[1:])
        assert pool.run("x = 1").passed


def test_an_interrupted_call_does_not_answer_the_next_one(pool, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pools, "outcome", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pool.map(["print('old')"] * 4)
    assert [outcome.output for outcome in pool.map(["print('new')"] * 4)] == ["new\n"] * 4


@holds
def test_a_forked_process_gets_workers_of_its_own(tmp_path):
    """As a data loader would: the child must not talk over its parent's sockets."""
    code = f"""
import os, sys
sys.path.insert(0, {os.getcwd()!r})
from rlkit import sandbox
assert sandbox.run("x = 1").passed
child = os.fork()
passed = sandbox.run("x = 1").passed
if child == 0:
    os._exit(0 if passed else 1)
assert passed and os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert sandbox.run("x = 1").passed
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@holds
def test_a_fork_in_the_middle_of_a_call_neither_hangs_nor_keeps_workers_alive():
    """Forked while another thread runs programs; the parent is then killed, and the child lives on."""
    psutil = pytest.importorskip("psutil")
    code = f"""
import os, sys, threading, time
sys.path.insert(0, {os.getcwd()!r})
from rlkit import sandbox
slow = dict(program="import time; time.sleep(60)", limits=sandbox.Limits(seconds=60))
threading.Thread(target=sandbox.run, kwargs=slow, daemon=True).start()
while not any(pool._workers for pool in list(sandbox.pool._shared.values())): pass
time.sleep(0.3)
child = os.fork()
if child == 0:
    print(os.getpid(), sandbox.run("x = 1").verdict, flush=True)
    sys.stdin.read()
    os._exit(0)
time.sleep(60)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        pid, verdict = parent.stdout.readline().split()
        assert verdict == "passed"
        child = psutil.Process(int(pid))
        theirs = {child, *child.children(recursive=True)}
        others = set(psutil.Process(parent.pid).children(recursive=True)) - theirs
        assert others
        parent.kill()
        _, alive = psutil.wait_procs(others, timeout=10)
        assert not alive and child.is_running()
        parent.stdin.close()


@holds
def test_a_program_ends_with_its_worker_even_where_nothing_but_seccomp_and_landlock_stand():
    psutil = pytest.importorskip("psutil")
    if not (WALLS["landlock"] and WALLS["seccomp"]):
        pytest.skip("this system has no Landlock or no seccomp")
    stays = "import ctypes, time\nctypes.CDLL(None).prctl(1, 0, 0, 0, 0)\ntime.sleep(15)"
    with sandbox.Pool(workers=1, without=["namespaces"]) as pool:
        assert pool.run("x = 1").passed
        limits = {"limits": sandbox.Limits(seconds=2)}
        running = threading.Thread(target=pool.run, args=(stays,), kwargs=limits)
        running.start()
        worker = psutil.Process(pool._workers[0].process.pid)
        until = time.monotonic() + 5
        found = []
        while not (found and found == worker.children()) and time.monotonic() < until:
            found = worker.children()  # one moment it may be what clears up after the program before
            time.sleep(0.3)
        worker.kill()
        _, left = psutil.wait_procs(found, timeout=1)
        assert len(found) == 1
        assert not [p for p in left if p.status() != psutil.STATUS_ZOMBIE]  # that nobody has collected yet
        running.join(timeout=20)  # with another worker it meets its limit


@holds
def test_a_program_finds_no_descriptor_however_many_the_training_has_open():
    """The worker's socket may have a number beyond those that are closed; whoever writes there forges reports."""
    forges = """
import json, os, struct
for fd in range(4, 3000):
    try: os.fstat(fd)
    except OSError: continue
    head = json.dumps({"killed": None, "signal": 0, "status": 0, "cpu": 0, "seconds": 0, "sizes": [61, 0]}).encode()
    answers = b'{"ran": true}\\n{"answers": [[6]]}\\n'.ljust(61)
    os.write(fd, struct.pack("!I", len(head)) + head + answers)
while True: pass
"""
    code = f"""
import os, resource, sys
sys.path.insert(0, {os.getcwd()!r})
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
for _ in range(1100): os.open(os.devnull, os.O_RDONLY)
from rlkit import sandbox
outcome = sandbox.run({forges!r}, ["assert f(3) == 6"], sandbox.Limits(seconds=0.5))
print(outcome.verdict)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    if "Too many open files" in done.stderr:
        pytest.skip("this system does not allow so many open files")
    assert done.stdout == "timeout\n", done.stderr


@holds
def test_nothing_is_left_open_after_many_programs(pool):
    def open_now():
        return sorted(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else []

    programs = ["x = 1", "def f(", "import os; os._exit(0)", "print('x' * 10**6)"] * 50
    pool.map(programs[:8])
    before, threads = open_now(), threading.active_count()
    pool.map(programs)
    assert (open_now(), threading.active_count()) == (before, threads)
    closed = "def f(): return [fd for fd in range(64) if not closed(fd)]\n" + (
        "import os\ndef closed(fd):\n    try: os.fstat(fd)\n    except OSError: return True"
    )
    assert pool.run(closed, ["assert f() == [0, 1, 2, 3]"]).passed


@holds
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, None])
def test_everything_ends_with_the_training_process(tmp_path, end):
    psutil = pytest.importorskip("psutil")
    code = """
import sys, threading
from rlkit import sandbox
threading.Thread(
    target=sandbox.run, args=("while True: pass",), kwargs={"limits": sandbox.Limits(seconds=60)}, daemon=True
).start()
while not any(len(pool._workers) for pool in sandbox.pool._shared.values()): pass
print("running", flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout.readline() == "running\n"
        time.sleep(0.3)
        processes = psutil.Process(parent.pid).children(recursive=True)
        assert len(processes) >= 1
        if end is None:
            parent.stdin.close()
        else:
            parent.send_signal(end)
        parent.wait(timeout=20)
    gone, alive = psutil.wait_procs(processes, timeout=10)
    assert not alive and len(gone) == len(processes)


# --- walls -----------------------------------------------------------------------------------------------------------


def test_active_says_what_stands_and_why_not():
    rows = sandbox.active()
    assert rows[-1][0] == "sandbox"
    assert all(on or why for _, on, why in rows)
    if sys.platform == "linux" and rows[-1][1]:
        names = {name for name, _, _ in rows}
        assert {"landlock", "seccomp", "another user", *isolation.NAMESPACES} <= names


def test_too_few_walls_are_refused_unless_asked_for():
    if not WALLS["sandbox"]:
        pytest.skip("this system cannot hold a hostile program")
    few = ["namespaces", "landlock"]
    with sandbox.Pool(workers=1, without=few) as pool, pytest.raises(ConfigError, match="allow_weak=True"):
        pool.run("x = 1")
    with sandbox.Pool(workers=1, without=few, allow_weak=True) as pool:
        assert pool.run("def f(x): return x", ["assert f(2) == 2"]).passed
        with pytest.raises(ConfigError, match="processes=4"):
            pool.run("x = 1", limits=sandbox.Limits(processes=4))


@pytest.mark.parametrize(
    ("standing", "enough"),
    [
        ({*isolation.NAMESPACES, "seccomp"}, True),
        ({*isolation.NAMESPACES, "process limit"}, True),
        ({*isolation.NAMESPACES, "landlock"}, False),  # nothing bounds the number of processes
        ({"landlock", "seccomp"}, True),
        ({"seccomp"}, False),
        ({"landlock"}, False),
        (set(), False),
    ],
)
def test_what_is_enough(standing, enough):
    names = {*isolation.NAMESPACES, "seccomp", "landlock", "process limit"}
    assert isolation.enough({name: [name in standing, ""] for name in names}) is enough


def test_reading_lists_of_tests():
    assert [test.source for test in read_tests(["assert f(2) == 4"])] == ["assert f(2) == 4"]
    with pytest.raises(ConfigError, match="tests="):
        read_tests("assert f(2) == 4")
    with pytest.raises(ConfigError, match="tests="):
        read_tests([4])


def test_the_sandbox_loads_nothing_heavy():
    code = "import sys, rlkit.sandbox, rlkit.rewards.code; print(sorted({'torch', 'numpy', 'yaml'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
