"""A directory holds one run: who may write there, how a run ended, and what is left of one that was killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from child_python import python
from synthetic_run import GENERATIONS, PROMPTS, write_run

from rlkit.errors import ConfigError, TrainingError
from rlkit.runs import Run, RunWriter, list_runs
from rlkit.runs import reader as reader_module

# ---------------------------------------------------------------------------- directories and ends


def test_a_directory_that_holds_a_run_is_refused_or_moved_aside(tmp_path):
    target = tmp_path / "run"
    write_run(target, steps=2)
    (target / "my-notes.txt").write_text("mine")
    before = {p.relative_to(target): p.read_bytes() for p in target.rglob("*") if p.is_file()}
    with pytest.raises(ConfigError, match=r"already holds a run .*overwrite=True"):
        RunWriter(target, config={})
    assert before == {p.relative_to(target): p.read_bytes() for p in target.rglob("*") if p.is_file()}
    for n in (1, 2):
        with RunWriter(target, config={"n": n}, overwrite=True) as writer:
            writer.write_metrics({"step": 1})
    assert (
        Run(target).config["n"] == 2
        and Run(target).steps == [1]
        and (target / "my-notes.txt").read_text() == "mine"
    )
    assert Run(tmp_path / "run.old-1").steps == [1, 2] and Run(tmp_path / "run.old-2").config["n"] == 1
    moved = {
        p.relative_to(tmp_path / "run.old-1"): p.read_bytes()
        for p in (tmp_path / "run.old-1").rglob("*")
        if p.is_file()
    }
    assert moved == {path: content for path, content in before.items() if path != Path("my-notes.txt")}


def test_an_empty_or_unrelated_directory_is_used(tmp_path):
    (tmp_path / "empty").mkdir()
    RunWriter(tmp_path / "empty", config={})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x.txt").write_text("mine")
    RunWriter(tmp_path / "other", config={})
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file of that name"):
        RunWriter(tmp_path / "file", config={})


def test_two_writers_never_mix(tmp_path):
    """A notebook cell that is run twice: the old trainer's writer is shut out, the new one writes alone."""
    old = RunWriter(tmp_path / "run", config={"n": 1})
    old.write_metrics({"step": 1})
    new = RunWriter(tmp_path / "run", config={"n": 2}, overwrite=True)
    with pytest.raises(TrainingError, match="closed"):
        old.write_metrics({"step": 2})
    assert Run(tmp_path / "run.old-1").status == "interrupted" and Run(tmp_path / "run").status == "running"
    os.rename(tmp_path / "run", tmp_path / "elsewhere")  # by hand, or by another process
    with pytest.raises(TrainingError, match="no longer this run's file"):
        new.write_metrics({"step": 1})
    with pytest.raises(TrainingError, match="no longer this run's file"):
        new.write_samples(1, [])


def test_status_tells_how_a_run_ended(tmp_path):
    writer = RunWriter(tmp_path / "a", config={})
    run = Run(tmp_path / "a")
    assert run.status == "running" and run.summary is None and run.steps == [] and run.notes == []
    writer.note("half way")
    writer.write_summary({"steps": 0})
    assert run.status == "finished" and run.notes == ["half way"]
    with pytest.raises(ZeroDivisionError), RunWriter(tmp_path / "b", config={}):
        raise ZeroDivisionError("by zero")
    assert Run(tmp_path / "b").status == "stopped: ZeroDivisionError: by zero"
    with pytest.raises(KeyboardInterrupt), RunWriter(tmp_path / "c", config={}):
        raise KeyboardInterrupt
    assert Run(tmp_path / "c").status == "interrupted"
    RunWriter(tmp_path / "d", config={}).close()
    assert Run(tmp_path / "d").status == "interrupted"


def test_status_without_file_locks_goes_by_age(tmp_path, monkeypatch):
    RunWriter(tmp_path / "run", config={}).close()
    monkeypatch.setattr(reader_module.lock, "fcntl", None)
    assert Run(tmp_path / "run").status == "running"
    long_ago = time.time() - 2 * reader_module.STALE_SECONDS
    for name in ("metrics.jsonl", "config.json"):
        os.utime(tmp_path / "run" / name, (long_ago, long_ago))
    assert Run(tmp_path / "run").status == "interrupted"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_keeps_no_dead_run_alive_and_cannot_write(tmp_path):
    writer = RunWriter(tmp_path / "run", config={})
    wait, go = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            writer.write_metrics({"step": 1})
            code = 1
        except TrainingError:
            code = 0
        os.close(go)
        os.read(wait, 1)
        os._exit(code)
    os.close(wait)
    try:
        time.sleep(0.05)
        assert Run(tmp_path / "run").status == "running"
        writer.close()
        assert Run(tmp_path / "run").status == "interrupted"  # while the child still lives
    finally:
        os.close(go)
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0 and Run(tmp_path / "run").steps == []


def test_what_is_no_run_is_said(tmp_path):
    with pytest.raises(ConfigError, match="no such directory"):
        Run(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"looked for config\.json"):
        Run(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="it is a file"):
        Run(tmp_path / "file")
    write_run(tmp_path / "runs" / "demo", steps=1)
    with pytest.raises(ConfigError, match="one of the runs below it: demo"):
        Run(tmp_path / "runs")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "config.json").write_text("[1]")
    with pytest.raises(ConfigError, match=r"config\.json.*JSON object"):
        Run(tmp_path / "bad")


def test_list_runs(tmp_path):
    assert list_runs(tmp_path / "nowhere") == []
    for name in ("b", "a"):
        RunWriter(tmp_path / name, config={}).close()
    (tmp_path / "stray").mkdir()
    (tmp_path / "stray" / "config.json").write_text("{torn")
    assert sorted(run.name for run in list_runs(tmp_path)) == ["a", "b"]


# --------------------------------------------------------------------------- torn and killed runs


def test_a_torn_last_line_is_not_read_wherever_it_was_cut(tmp_path):
    write_run(tmp_path / "run", steps=3, every=100)
    path = tmp_path / "run" / "metrics.jsonl"
    content = path.read_bytes()
    last = content.rindex(b"\n", 0, -1) + 1
    for cut in range(last, len(content), 7):
        path.write_bytes(content[:cut])
        run = Run(tmp_path / "run")
        assert run.steps == [1, 2] and run.sample_steps == [1, 2] and run.unreadable_lines == 0
        with path.open("ab") as file:  # the rest arrives
            file.write(content[cut:])
        assert run.steps == [1, 2, 3]


def test_lines_that_are_no_json_are_skipped_and_counted(tmp_path):
    write_run(tmp_path / "run", steps=2)
    path = tmp_path / "run" / "metrics.jsonl"
    path.write_bytes(
        b'{"event": "st\n[1, 2]\n\xff\xfe\n\n' + path.read_bytes() + b'{"event": "step"}\n{"event": "new"}\n'
    )
    run = Run(tmp_path / "run")
    assert run.steps == [1, 2] and run.unreadable_lines == 3
    assert [m["step"] for m in run.follow()] == [1, 2]


def test_damaged_samples_are_said_not_crashed_on(tmp_path):
    write_run(tmp_path / "run", steps=2)
    path = tmp_path / "run" / "samples" / "step_000002.parquet"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ConfigError, match=r"step_000002\.parquet is not a readable parquet file"):
        Run(tmp_path / "run").samples(2)
    assert len(Run(tmp_path / "run").samples(1)) == PROMPTS * GENERATIONS


# Ten writers that share one start-up: each is a fork, and writes until it is killed.
WRITE_UNTIL_KILLED = """
    import os, random, sys
    import pyarrow.parquet
    from synthetic_run import CONFIG, completion, step_line
    from rlkit.runs import RunWriter

    for path in sys.argv[1:]:
        child = os.fork()
        if child:
            print(child, flush=True)
            sys.stdin.readline()   # until that one was killed
            os.waitpid(child, 0)
            print("dead", flush=True)
            continue
        rng, writer = random.Random(0), RunWriter(path, config=CONFIG)
        for step in range(1, 100_000):
            writer.write_samples(step, [completion(rng, p, 0.5) for p in range(step % 7 + 1)])
            writer.write_metrics({**step_line(rng, step, 100), "padding": "x" * 100_000})
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_a_killed_run_is_read_to_its_last_whole_step(tmp_path):
    """kill -9 at ten random moments: every step with a line is whole, and nothing else is shown."""
    rng = random.Random(20)
    paths = [tmp_path / f"run-{i}" for i in range(10)]
    process = python(WRITE_UNTIL_KILLED, *paths, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    stdin, stdout = process.stdin, process.stdout
    assert stdin is not None and stdout is not None
    written = 0
    for path in paths:
        writer = int(stdout.readline())
        run = Run(path, wait=30)
        next(run.follow(poll=0.02, timeout=30))  # the first step is there
        assert run.status == "running"
        time.sleep(rng.uniform(0.0, 0.2))
        os.kill(writer, signal.SIGKILL)
        stdin.write("killed\n")
        stdin.flush()
        assert stdout.readline() == "dead\n"
        assert run.status == "interrupted" and run.unreadable_lines == 0
        assert run.steps == list(range(1, len(run.steps) + 1)) == run.sample_steps
        for step in run.steps[-3:]:
            assert len(run.samples(step)) == step % 7 + 1
        assert list(run.follow()) == run.metrics
        written += len(run.steps)
    process.communicate(timeout=30)
    assert process.returncode == 0 and written > 10
