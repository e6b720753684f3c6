"""Resumed runs: what comes after the checkpoint is cut off, whole lines at a time, and nothing else is lost."""

from __future__ import annotations

import math
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from child_python import python
from synthetic_run import completion, write_run

from rlkit.errors import ConfigError, TrainingError
from rlkit.runs import Run, RunWriter, list_runs, schema
from rlkit.runs import reader as reader_module


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_position_counts_the_bytes_on_disk(tmp_path):
    path = tmp_path / "run" / "metrics.jsonl"
    with RunWriter(tmp_path / "run", config={}) as writer:
        assert writer.position == 0
        for step in (1, 2):
            writer.write_metrics({"step": step, "text": "é"})
            assert writer.position == path.stat().st_size
        before = path.read_bytes()
    with RunWriter.resume(tmp_path / "run", config={}, position=len(before), step=2) as writer:
        assert writer.position == len(before)
        writer.note("resumed")
        assert writer.position == path.stat().st_size and path.read_bytes().startswith(before)


def test_half_a_line_is_taken_back_when_the_disk_is_full(tmp_path, monkeypatch):
    writer = RunWriter(tmp_path / "run", config={})
    writer.write_metrics({"step": 1})
    whole, real = writer.position, os.write

    def full(fd: int, data: bytes) -> int:
        if len(data) < 20:
            raise OSError(28, "No space left on device")
        return real(fd, data[:20])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space"):
        writer.write_metrics({"step": 2})
    monkeypatch.undo()
    assert writer.position == whole == (tmp_path / "run" / "metrics.jsonl").stat().st_size
    writer.write_metrics({"step": 3})
    run = Run(tmp_path / "run")
    assert run.steps == [1, 3] and run.unreadable_lines == 0


def test_a_run_goes_on_from_a_checkpoint(tmp_path):
    target, rng = tmp_path / "run", random.Random(0)
    writer, positions = RunWriter(target, config={"lr": 1, "old": True}), {}
    for step in range(6):
        if step % 2 == 0:
            for kind in ("greedy", "sampled"):
                writer.write_eval(step, kind, [completion(rng, 0, 0.5)])
            writer.write_metrics({"event": "eval", "step": step, "accuracy_greedy": step / 10})
        if step:
            writer.write_samples(step, [completion(rng, 0, 0.5)])
            writer.write_metrics({"step": step, "loss": step / 2})
        positions[step] = writer.position
        (target / "checkpoints" / f"step_{step:06d}").mkdir(parents=True)
    (target / "checkpoints" / "step_000005.old").mkdir()
    (target / "samples" / ".step_000006.parquet.tmp-1").write_bytes(b"cut short")
    (target / "my-notes.txt").write_text("mine")
    writer.write_summary({"status": "stopped: for the test"})
    started = Run(target).config["run"]["started"]
    before = files_in(target)

    again = RunWriter.resume(target, config={"lr": 2}, position=positions[3], step=3)
    with pytest.raises(TrainingError, match="closed"):  # a notebook cell that is run twice
        writer.write_metrics({"step": 9})
    run = Run(target)
    assert run.status == "running" and run.summary is None
    assert run.steps == [1, 2, 3] == run.sample_steps and [e["step"] for e in run.evals] == [0, 2]
    about = run.config.pop("run")
    assert run.config.keys() == {"lr", "run"} and run.config["lr"] == 2 and about["started"] == started
    assert [entry["step"] for entry in about["resumed"]] == [3] and about["format"] == schema.FORMAT
    kept, aside = files_in(target), files_in(target / "set_aside-1")
    # Nothing is lost: what is not where it was lies aside, under the same name.
    assert kept["metrics.jsonl"] + aside.pop("metrics.jsonl") == before.pop("metrics.jsonl")
    for name, content in before.items():
        assert name == "config.json" or aside.get(name, kept.get(name)) == content, name
    assert set(aside) == {
        "summary.json",
        "samples/step_000004.parquet",
        "samples/step_000005.parquet",
        "samples/.step_000006.parquet.tmp-1",
        "evals/step_000004_greedy.parquet",
        "evals/step_000004_sampled.parquet",
    }
    assert sorted(p.name for p in (target / "checkpoints").iterdir()) == [f"step_00000{i}" for i in range(4)]
    assert (target / "set_aside-1" / "checkpoints" / "step_000005.old").is_dir()

    again.write_samples(4, [completion(rng, 0, 0.5)])
    again.write_metrics({"step": 4, "loss": 7.0})
    assert run.column("loss") == ([1, 2, 3, 4], [0.5, 1.0, 1.5, 7.0])
    again.close()
    assert run.status == "interrupted"
    with RunWriter.resume(target, config={}, position=0, step=-1) as writer:  # from the very beginning
        assert run.steps == [] == run.evals and writer.position == 0
        assert [entry["step"] for entry in run.config["run"]["resumed"]] == [3, -1]
        assert not list((target / "samples").iterdir()) and not list((target / "checkpoints").iterdir())
        writer.write_metrics({"step": 1})
    assert run.steps == [1] and (target / "my-notes.txt").read_text() == "mine"
    assert [r.path.name for r in list_runs(tmp_path)] == ["run"] and list_runs(target) == []
    (target / "tensorboard").mkdir()
    RunWriter(target, config={}, overwrite=True).close()
    moved = tmp_path / "run.old-1"
    assert {"set_aside-1", "set_aside-2", "checkpoints", "tensorboard"} <= {p.name for p in moved.iterdir()}
    assert not list(target.glob("set_aside-*"))


def test_resume_cuts_at_whole_lines_wherever_it_is_told_to(tmp_path):
    """Every position of a small file, with half a line at its end: kept and set aside are together what was there."""
    source, target = tmp_path / "source", tmp_path / "run"
    RunWriter(source, config={"n": 1}).close()
    content = '{"event": "step", "step": 1}\n{"event": "note", "text": "é\\n"}\n{"ev'.encode()
    (source / "metrics.jsonl").write_bytes(content)
    for position in range(len(content) + 1):
        target.mkdir()
        for name in ("config.json", "metrics.jsonl"):
            (target / name).write_bytes((source / name).read_bytes())
        with RunWriter.resume(target, config={}, position=position, step=0) as writer:
            kept = (target / "metrics.jsonl").read_bytes()
            aside = target / "set_aside-1" / "metrics.jsonl"
            assert kept + (aside.read_bytes() if aside.exists() else b"") == content
            assert len(kept) <= position and (not kept or kept.endswith(b"\n"))
            assert b"\n" not in content[len(kept) : position]  # no whole line too few
            assert writer.position == len(kept)
            writer.write_metrics({"step": 9})
        run = Run(target)
        assert run.steps[-1] == 9 and run.unreadable_lines == 0 and len(run.events) == kept.count(b"\n") + 1
        os.rename(target, tmp_path / f"done-{position}")


def test_resume_refuses_what_it_cannot_go_on_with(tmp_path):
    with pytest.raises(ConfigError, match="There is no run to resume"):
        RunWriter.resume(tmp_path / "nowhere", config={}, position=0, step=-1)
    assert not (tmp_path / "nowhere").exists()
    target = write_run(tmp_path / "run", steps=2)
    before = files_in(target)
    size = len(before["metrics.jsonl"])
    for position in (-1, size + 1):
        with pytest.raises(ConfigError, match=rf"position={position} .*0 to {size}"):
            RunWriter.resume(target, config={}, position=position, step=1)
    with pytest.raises(ConfigError, match="step=-2"):
        RunWriter.resume(target, config={}, position=0, step=-2)
    assert files_in(target) == before
    (target / "config.json").write_text('{"run": {"format": 99}}')
    with pytest.raises(ConfigError, match="format 99"):
        RunWriter.resume(target, config={}, position=0, step=-1)
    (target / "config.json").write_text("{torn")
    with pytest.raises(ConfigError, match="cannot be read"):
        RunWriter.resume(target, config={}, position=0, step=-1)


def test_a_run_from_before_there_were_checkpoints_can_be_started_over(tmp_path):
    (tmp_path / "config.json").write_text('{"seed": 3}')
    with RunWriter.resume(tmp_path, config={"seed": 3}, position=0, step=-1) as writer:
        writer.write_metrics({"step": 1})
    assert Run(tmp_path).steps == [1] and not (tmp_path / "set_aside-1").exists()


HOLD = """
    import sys
    from rlkit.runs import RunWriter
    writer = RunWriter(sys.argv[1], config={})
    writer.write_metrics({"step": 1})
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs file locks")
def test_a_run_that_another_process_writes_is_not_resumed(tmp_path):
    target = tmp_path / "run"
    process = python(HOLD, target, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    before = files_in(target)
    with pytest.raises(ConfigError, match="another process"):
        RunWriter.resume(target, config={}, position=0, step=-1)
    assert files_in(target) == before
    process.kill()
    process.communicate(timeout=30)
    with RunWriter.resume(target, config={}, position=len(before["metrics.jsonl"]), step=1):
        assert Run(target).status == "running" and Run(target).steps == [1]
    assert Run(target).status == "interrupted"


def test_resume_without_file_locks(tmp_path, monkeypatch):
    target = write_run(tmp_path / "run", steps=2)
    monkeypatch.setattr(reader_module.lock, "fcntl", None)
    with RunWriter.resume(target, config={}, position=0, step=-1) as writer:
        writer.write_metrics({"step": 1})
        assert Run(target).status == "running"
    assert Run(target).steps == [1]


# Each child resumes the run, writes a step and its checkpoint's position, until it is killed.
RESUME_UNTIL_KILLED = """
    import os, sys
    from pathlib import Path
    import pyarrow.parquet
    from child_python import a_fork_a_line
    from rlkit.runs import Run, RunWriter

    target = Path(sys.argv[1])
    with RunWriter(sys.argv[1] + "-warm-up", config={}) as writer:  # what pyarrow imports at the first use
        writer.write_samples(1, [{"completion": "x"}])
    for _ in a_fork_a_line():
        for turn in range(100_000):
            lines = (target / "metrics.jsonl").read_bytes().split(b"\\n")[:-1]
            step = max(len(lines) - 2, 0)  # go two back
            position = sum(len(line) + 1 for line in lines[:step])
            with RunWriter.resume(target, config={}, position=position, step=step) as writer:
                for number in range(step + 1, step + 5):
                    writer.write_samples(number, [{"completion": "x"}])
                    writer.write_metrics({"step": number, "text": f"<{os.getpid()} {turn} {number}>"})
                    print(f"<{os.getpid()} {turn} {number}>", flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_a_kill_while_a_run_is_resumed_loses_nothing(tmp_path):
    rng, target = random.Random(3), tmp_path / "run"
    RunWriter(target, config={}).close()
    process = python(RESUME_UNTIL_KILLED, target, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    stdin, stdout = process.stdin, process.stdout
    assert stdin is not None and stdout is not None
    most, announced = 0, []
    for _ in range(15):
        stdin.write("go\n")
        stdin.flush()
        announced.append(stdout.readline().strip())  # one resume has worked
        time.sleep(rng.uniform(0.0, 0.1))
        os.kill(int(announced[-1].strip("<>").split()[0]), signal.SIGKILL)
        while (line := stdout.readline()) != "dead\n":
            announced.append(line.strip())
        metrics = [target / "metrics.jsonl", *target.glob("set_aside-*/metrics.jsonl")]
        lines = b"".join(path.read_bytes() for path in metrics).decode()
        assert all(line in lines for line in announced)  # here or set aside
        run = Run(target)
        assert run.status == "interrupted" and run.unreadable_lines == 0
        assert run.steps == list(range(1, len(run.steps) + 1))
        samples = {int(p.stem[5:]) for p in (target / "samples").glob("step_*")}
        aside = {int(p.stem[5:]) for p in target.glob("set_aside-*/samples/step_*")}
        assert set(run.steps) <= samples | aside
        most = max(most, len(run.steps))
    stdin.close()
    assert process.wait(timeout=30) == 0 and most > 4


def test_follow_goes_on_after_a_resume_without_repeating_what_stayed(tmp_path):
    target = tmp_path / "run"
    writer, positions = RunWriter(target, config={}), []
    for step in (1, 2, 3):
        writer.write_metrics({"step": step, "loss": math.nan, "turn": 1})
        positions.append(writer.position)
    run = Run(target)
    following = run.follow(poll=0.01, timeout=10)
    assert [next(following)["step"] for _ in range(3)] == [1, 2, 3] == run.steps
    for turn in (2, 3):  # twice, so that the system may give the first file's number to the third
        writer = RunWriter.resume(target, config={}, position=positions[1], step=2)
        writer.write_metrics({"step": 3, "turn": turn, "padding": "x" * 500})
    metrics = next(following)
    assert (metrics["step"], metrics["turn"]) == (3, 3)
    assert [m["turn"] for m in run.metrics] == [1, 1, 3] and run.unreadable_lines == 0
    writer.close()
    assert list(following) == []


def test_a_file_that_takes_an_old_ones_number_is_read_anew(tmp_path):
    RunWriter(tmp_path / "run", config={}).close()
    path = tmp_path / "run" / "metrics.jsonl"
    path.write_bytes(b'{"event": "step", "step": 1, "time": 1}\n')
    run = Run(tmp_path / "run")
    assert run.steps == [1]
    with path.open("r+b") as file:  # the same number, as a new file may have it
        file.write(b'{"event": "step", "step": 7, "time": 2}\n{"event": "step", "step": 8, "time": 2}\n')
    assert run.steps == [7, 8] and run.unreadable_lines == 0
