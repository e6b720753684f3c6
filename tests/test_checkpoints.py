"""Checkpoint folders: the newest are kept, and no damage, full disk or kill costs a whole one."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch
from child_python import python
from small_checkpoint import write
from small_trainer import small_model

from rlkit.embedded import build_tokenizer
from rlkit.errors import ConfigError, TrainingError
from rlkit.trainers import checkpoints
from rlkit.trainers.checkpoints import (
    Checkpoint,
    CheckpointWarning,
    latest_checkpoint,
)


def steps_in(run_dir) -> list[str]:
    return sorted(path.name for path in (run_dir / "checkpoints").iterdir())


# ----------------------------------------------------------------------- folders, damage and kills


def test_the_newest_are_kept(tmp_path):
    model, _ = small_model()
    assert latest_checkpoint(tmp_path) is None
    for step in range(1, 6):
        path = write(tmp_path, step, model, keep=3)
        assert path == tmp_path / "checkpoints" / f"step_{step:06d}"
        assert latest_checkpoint(tmp_path).path == path
    assert steps_in(tmp_path) == ["step_000003", "step_000004", "step_000005"]
    write(tmp_path, 1_000_000, model, keep=1)  # beyond the digits of the name
    assert steps_in(tmp_path) == ["step_1000000"] and latest_checkpoint(tmp_path).step == 1_000_000


def test_a_step_can_be_written_again(tmp_path):
    model, _ = small_model()
    write(tmp_path, 4, model, {"turn": 1})
    write(tmp_path, 4, model, {"turn": 2})
    assert latest_checkpoint(tmp_path).state() == {"turn": 2} and steps_in(tmp_path) == ["step_000004"]
    folder = tmp_path / "checkpoints"
    (folder / "step_000004").rename(folder / "step_000004.old")  # killed between the two renames
    assert latest_checkpoint(tmp_path).state() == {"turn": 2}
    write(tmp_path, 4, model, {"turn": 3})
    assert latest_checkpoint(tmp_path).state() == {"turn": 3} and steps_in(tmp_path) == ["step_000004"]


def damage_missing(path: Path) -> None:
    (path / "model" / "config.json").unlink()


def damage_short(path: Path) -> None:
    file = path / "state.pt"
    file.write_bytes(file.read_bytes()[:-1])


def damage_no_json(path: Path) -> None:
    (path / "checkpoint.json").unlink()


def damage_json(path: Path) -> None:
    (path / "checkpoint.json").write_text('{"format": 1, "step"')


def damage_json_kind(path: Path) -> None:
    (path / "checkpoint.json").write_text("[1]")


def damage_format(path: Path) -> None:
    info = json.loads((path / "checkpoint.json").read_text())
    (path / "checkpoint.json").write_text(json.dumps(info | {"format": 99}))


DAMAGES = [damage_missing, damage_short, damage_no_json, damage_json, damage_json_kind, damage_format]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_skipped(tmp_path, damage):
    model, _ = small_model()
    for step in (1, 2):
        write(tmp_path, step, model, {"step": step})
    damage(tmp_path / "checkpoints" / "step_000002")
    with pytest.warns(CheckpointWarning, match=r"step_000002 is .*skipped"):
        checkpoint = latest_checkpoint(tmp_path)
    assert checkpoint.step == 1 and checkpoint.state() == {"step": 1}
    write(tmp_path, 2, model, {"step": 2}, keep=1)  # the damaged one does not count and does not stay
    assert latest_checkpoint(tmp_path).state() == {"step": 2} and steps_in(tmp_path) == ["step_000002"]


def test_one_that_is_half_deleted_has_lost_its_name(tmp_path, monkeypatch):
    def cut_short(path, ignore_errors=False) -> None:
        (Path(path) / "state.pt").unlink()

    model, _ = small_model()
    write(tmp_path, 1, model)
    monkeypatch.setattr(checkpoints.shutil, "rmtree", cut_short)
    write(tmp_path, 2, model, keep=1)
    assert steps_in(tmp_path) == [f".step_000001.gone-{os.getpid()}", "step_000002"]
    monkeypatch.undo()
    write(tmp_path, 3, model)
    assert steps_in(tmp_path) == ["step_000002", "step_000003"]


def test_a_damaged_newer_one_does_not_push_whole_ones_out(tmp_path):
    model, _ = small_model()
    for step in (1, 2, 9):
        write(tmp_path, step, model, keep=3)
    damage_short(tmp_path / "checkpoints" / "step_000009")
    write(tmp_path, 3, model, keep=2)
    assert steps_in(tmp_path) == ["step_000002", "step_000003", "step_000009"]


def test_state_that_cannot_be_read_is_said(tmp_path):
    path = write(tmp_path, 1, small_model()[0], {"a": torch.arange(1000)})
    file = path / "state.pt"
    file.write_bytes(b"x" * file.stat().st_size)
    with pytest.raises(ConfigError, match=r"step_000001 is damaged \(state\.pt"):
        Checkpoint(path).state()


def test_what_dead_processes_left_is_cleared_away(tmp_path):
    model, _ = small_model()
    folder = tmp_path / "checkpoints"
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for name in (
        f".step_000001.partial-{gone.pid}",
        f".step_000002.gone-{os.getppid()}",
        f".step_000002.old.gone-{gone.pid}",
        f".step_000001.partial-{os.getpid()}",  # a container gives the same number again
        f".step_000001.partial-{os.getppid()}",  # alive
        ".step_mine",
    ):
        (folder / name / "model").mkdir(parents=True)
    assert latest_checkpoint(tmp_path) is None
    write(tmp_path, 1, model)
    assert steps_in(tmp_path) == sorted([f".step_000001.partial-{os.getppid()}", ".step_mine", "step_000001"])


@pytest.mark.skipif(os.name != "posix", reason="needs a umask")
def test_files_are_as_readable_as_the_umask_says(tmp_path):
    before = os.umask(0o027)
    try:
        path = write(tmp_path, 1, small_model()[0], tokenizer=build_tokenizer())
    finally:
        os.umask(before)
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in path.rglob("*") if p.is_file()}
    assert set(modes.values()) == {0o640}, modes


def test_a_full_disk_is_said_before_anything_is_written(tmp_path, monkeypatch):
    model, _ = small_model()
    write(tmp_path, 1, model)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(checkpoints.shutil, "disk_usage", lambda path: usage._replace(free=1_000_000))
    with pytest.raises(
        TrainingError, match=r"step_000002 could not be written: it takes about 17 MB .* has 1 MB left"
    ):
        write(tmp_path, 2, model)
    assert steps_in(tmp_path) == ["step_000001"]


FULL_DISK = """
    import resource, sys
    from pathlib import Path
    import torch
    from small_trainer import small_model
    from rlkit.errors import TrainingError
    from rlkit.trainers.checkpoints import latest_checkpoint, write_checkpoint

    run, model = Path(sys.argv[1]), small_model()[0]

    def write(step):
        state = {"step": step, "moments": torch.zeros(100_000)}
        write_checkpoint(run, step, model=model, tokenizer=None, state=state, keep=2, position=0)

    write(1)
    for largest in (50, 100_000, 300_000):  # bytes: the first file is too large, the weights, the state
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))
        try:
            write(2)
        except TrainingError as error:
            said = str(error)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        print(said)
        print(sorted(path.name for path in (run / "checkpoints").iterdir()), latest_checkpoint(run).state()["step"])
    write(3)
    print(latest_checkpoint(run).state()["step"])
"""


@pytest.mark.skipif(os.name != "posix", reason="needs setrlimit")
def test_a_disk_that_fills_up_while_writing_leaves_the_earlier_ones(tmp_path):
    process = python(FULL_DISK, tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    *lines, last = out.splitlines()
    assert len(lines) == 6 and last == "3"
    for said, folders in zip(lines[::2], lines[1::2]):
        assert "step_000002 could not be written" in said and "too large" in said.lower()
        assert folders == "['step_000001'] 1"


# Writers that share one start-up: each is a fork, and writes checkpoints until it is killed.
WRITE_UNTIL_KILLED = """
    import os, sys
    import torch, safetensors, transformers
    from child_python import a_fork_a_line
    from small_trainer import small_model
    from rlkit.trainers.checkpoints import latest_checkpoint, write_checkpoint

    torch.set_num_threads(1)
    model = small_model()[0]
    for _ in a_fork_a_line():
        print("pid", os.getpid(), flush=True)
        newest = latest_checkpoint(sys.argv[1])
        step = newest.step if newest else 0
        while True:
            step += 1
            for again in range(1 + step % 2):  # every other step twice: a run that is resumed and stopped at once
                with torch.no_grad():
                    for parameter in model.parameters():
                        parameter.fill_(step)
                state = {"step": step, "moments": torch.full((2000,), float(step)), "again": again}
                write_checkpoint(sys.argv[1], step, model=model, tokenizer=None, state=state,
                                 keep=2, position=10 * step)
                print("written", step, flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(tmp_path):
    """kill -9 twenty times, between one and a few checkpoints after the start, by a writer that goes on each time."""
    rng, model = random.Random(5), small_model()[0]
    process = python(WRITE_UNTIL_KILLED, tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    stdin, stdout = process.stdin, process.stdout
    assert stdin is not None and stdout is not None
    announced, between = 0, 0
    for _ in range(20):
        stdin.write("go\n")
        stdin.flush()
        pid = int(stdout.readline().split()[1])
        lines = [stdout.readline()]  # one at least
        time.sleep(rng.uniform(0.0, 0.15))
        os.kill(pid, signal.SIGKILL)
        while (line := stdout.readline()) != "dead\n":
            lines.append(line)
        announced = max(int(line.split()[1]) for line in lines if line.endswith("\n"))
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a checkpoint that is not whole was never given its name
            newest = latest_checkpoint(tmp_path)
        assert newest is not None and announced <= newest.step <= announced + 1
        state = newest.state()
        assert state["step"] == newest.step and newest.position == 10 * newest.step
        assert (state["moments"] == newest.step).all()
        newest.load_weights(model)
        assert all((parameter == newest.step).all() for parameter in model.parameters())
        for path in (tmp_path / "checkpoints").glob("step_*"):
            Checkpoint(path)  # nor is one half deleted under its name
        between += any(name.startswith(".") for name in steps_in(tmp_path))
    stdin.close()
    assert process.wait(timeout=30) == 0
    assert announced > 20 and between > 0  # some kills did fall into the writing
