"""Recorded runs: packed small with their provenance, told over time again, and those that come with the package."""

from __future__ import annotations

import hashlib
import json
import math
import time

import pyarrow.parquet as pq
import pytest
from dashboards import SOON, dashboard_threads, text_of, wait_for
from synthetic_run import write_run

from rlkit import runs
from rlkit.errors import ConfigError
from rlkit.runs import Run, RunWriter, recordings
from rlkit.runs.replay import Replay
from rlkit.widgets import TrainingDashboard

NAMES = recordings.recorded_names()


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def timed_run(path, times, evals=(0.0,)):
    """Steps 1, 2, … at these seconds, evaluations of step 0 at those."""
    with RunWriter(path, config={"algorithm": "GRPO", "grpo": {"max_steps": len(times)}}) as writer:
        for _ in evals:
            writer.write_metrics({"event": "eval", "step": 0, "accuracy_greedy": 0.5})
        for step in range(1, len(times) + 1):
            writer.write_metrics({"step": step, "reward": step / 10})
        writer.write_summary({"steps": len(times)})
    file = path / "metrics.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for row, at in zip(rows, [*evals, *times], strict=True):
        row["time"] = 1e9 + at
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def told(tmp_path):
    """A replay of steps at 1, 2, 4 and 8 seconds, and the clock that it goes by."""
    clock = Clock()
    return Replay(timed_run(tmp_path / "run", (1, 2, 4, 8)), clock=clock), clock


# --- over time ----------------------------------------------------------------------------------------------


def test_lines_appear_as_they_did(told):
    replay, clock = told
    assert replay.steps == [] and len(replay.evals) == 1  # the first look begins it
    for now, steps in ((0.9, []), (1, [1]), (3.9, [1, 2]), (4, [1, 2, 3]), (7.9, [1, 2, 3])):
        clock.now = 100 + now
        assert replay.steps == steps and replay.status == "running" and replay.summary is None
    clock.now = 108
    assert replay.steps == [1, 2, 3, 4] and replay.status == "finished" and replay.summary["steps"] == 4
    assert replay.events == Run(replay.path).events and not replay.control.alive


def test_it_begins_when_it_is_first_looked_at(told):
    replay, clock = told
    clock.now = 500.0
    assert replay.steps == []
    clock.now = 502.0
    assert replay.steps == [1, 2]


def test_speed_may_change_on_the_way(told):
    replay, clock = told
    assert replay.steps == []
    replay.control.speed = 2
    clock.now += 1
    assert replay.steps == [1, 2]
    replay.control.speed = 0.5
    clock.now += 3.9
    assert replay.steps == [1, 2]
    clock.now += 0.1
    assert replay.steps == [1, 2, 3]
    replay.control.speed = math.inf
    clock.now += 1e-6
    assert replay.steps == [1, 2, 3, 4]


def test_pause_step_resume_stop_and_restart(told):
    replay, clock = told
    control = replay.control
    clock.now += 1
    assert control.state == "running" and replay.steps == []  # begun with this look
    clock.now += 1
    control.pause()
    clock.now += 50
    assert replay.steps == [1] and control.state == "paused" and control.pausing and control.alive
    control.step()
    assert replay.steps == [1, 2] and control.state == "paused"
    control.step(1)
    assert replay.steps == [1, 2, 3]
    control.resume()
    clock.now += 3.9
    assert replay.steps == [1, 2, 3] and control.state == "running"
    control.stop()
    assert replay.steps == [1, 2, 3, 4] and control.state == "finished" and not control.pausing
    control.restart()
    assert replay.steps == [] and replay.status == "running"
    control.step(99)
    assert replay.status == "finished"


def test_a_run_that_was_left_alone_over_night_is_not_waited_for(tmp_path):
    clock = Clock()
    replay = Replay(timed_run(tmp_path / "run", (1, 2, 40_000, 40_001)), longest_gap=5, clock=clock)
    assert replay.control.length == 2 + 5 + 1
    assert replay.steps == []
    clock.now += 7
    assert replay.steps == [1, 2, 3]


def test_follow_yields_every_step_once(tmp_path):
    replay = runs.replay(timed_run(tmp_path / "run", [i / 10 for i in range(1, 21)]), speed=20)
    assert [line["step"] for line in replay.follow(poll=0.01, timeout=SOON)] == list(range(1, 21))


def test_all_at_once(tmp_path):
    replay = runs.replay(timed_run(tmp_path / "run", (10, 2000)), speed=math.inf)
    time.sleep(0.01)
    assert replay.steps == [1, 2] and replay.status == "finished"


@pytest.mark.parametrize("speed", [0, -1, float("nan"), "2", None, True])
def test_a_speed_must_be_above_zero(tmp_path, speed):
    timed_run(tmp_path / "run", (1,))
    with pytest.raises(ConfigError, match="speed"):
        runs.replay(tmp_path / "run", speed=speed)


def test_what_is_neither_a_run_nor_a_recording(tmp_path):
    with pytest.raises(ConfigError, match="neither a run nor a recording"):
        runs.replay("no-such-recording")
    with pytest.raises(ConfigError, match="no such directory"):
        runs.replay(tmp_path / "none")


def test_a_killed_run_ends_as_it_did(tmp_path):
    timed_run(tmp_path / "run", (1, 2))
    (tmp_path / "run" / "summary.json").unlink()
    clock = Clock()
    replay = Replay(tmp_path / "run", clock=clock)
    assert replay.status == "running"
    clock.now += 2
    assert replay.status == "interrupted" and replay.summary is None


def test_an_empty_run_is_told_at_once(tmp_path):
    with RunWriter(tmp_path / "run", config={}) as writer:
        writer.write_summary({})
    assert runs.replay(tmp_path / "run").status == "finished"


def test_the_dashboard_shows_a_replay_and_its_buttons_act_on_it(tmp_path):
    panel = TrainingDashboard(runs.replay(timed_run(tmp_path / "run", (100, 200, 300, 400)), longest_gap=1e9))
    text = text_of(panel)
    assert "Replay of run" in text and "running step 0 of 4" in text and not panel.pause.disabled
    assert "Not packed" in text and panel.stop.description == "Skip to the end"
    panel.step.click()
    assert "paused step 1 of 4" in text_of(panel) and panel.pause.description == "Go on"
    panel.speed.value = 20.0
    assert panel.control.speed == 20
    panel.pause.click()
    assert "running step 1 of 4" in text_of(panel)
    panel.stop.click()
    assert "finished step 4 of 4" in text_of(panel) and "reward 0.1 → 0.4" in text_of(panel)
    wait_for(lambda: not dashboard_threads())
    assert panel.pause.disabled and "told to its end" in text_of(panel)
    panel.restart.click()
    assert "running step 0 of 4" in text_of(panel) and "reward 0.1" not in text_of(panel)
    panel.stop.click()
    wait_for(lambda: not dashboard_threads())


def test_the_dashboard_follows_a_replay_by_itself(tmp_path):
    panel = TrainingDashboard(runs.replay(timed_run(tmp_path / "run", (1, 2, 3)), speed=2))
    assert "running step 0 of 3" in text_of(panel)
    wait_for(lambda: "finished step 3 of 3" in text_of(panel))
    wait_for(lambda: not dashboard_threads())


# --- packing ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    config = {"model": "/home/somebody/models/small", "grpo": {"output_dir": "/home/somebody/runs/demo"}}
    return write_run(tmp_path_factory.mktemp("pack") / "demo", steps=30, every=10, config=config)


@pytest.fixture(scope="module")
def packed(source, tmp_path_factory):
    return runs.pack(source, tmp_path_factory.mktemp("packed") / "small", about="It learns.", commit="abc123")


def test_every_number_stays(source, packed):
    assert (packed / "metrics.jsonl").read_bytes() == (source / "metrics.jsonl").read_bytes()
    assert (packed / "summary.json").read_text() == (source / "summary.json").read_text()
    assert Run(packed).metrics == Run(source).metrics and Run(packed).status == "finished"
    for step in Run(packed).sample_steps:
        assert Run(packed).samples(step) == Run(source).samples(step)
    assert Run(packed).eval_samples(0) == Run(source).eval_samples(0)
    assert Run(packed).eval_samples(30, "sampled") == Run(source).eval_samples(30, "sampled")
    assert Run(packed).eval_samples(10) == []  # neither the first nor the last


def test_folders_of_the_machine_are_left_out(packed):
    config = Run(packed).config
    assert config["model"] == "small" and config["grpo"]["output_dir"] == "demo"
    assert (
        config["trainer"] == Run(packed).config["trainer"]
        and "somebody" not in (packed / "config.json").read_text()
    )


def test_provenance_says_what_was_recorded_and_holds_every_hash(source, packed):
    noted = json.loads((packed / "provenance.json").read_text())
    files = {p.relative_to(packed).as_posix() for p in packed.rglob("*") if p.is_file()} - {"provenance.json"}
    assert noted["sha256"] == {n: hashlib.sha256((packed / n).read_bytes()).hexdigest() for n in files}
    assert (noted["model"], noted["commit"], noted["about"], noted["steps"]) == (
        "small",
        "abc123",
        "It learns.",
        30,
    )
    assert noted["samples_of_steps"] == Run(packed).sample_steps
    assert len(noted["samples_of_steps"]) + noted["samples_left_out"] == len(Run(source).sample_steps)
    assert noted["samples_of_steps"][0] == 1 and noted["samples_of_steps"][-1] == 30
    assert recordings.differences(packed) == []
    said = runs.replay(packed).origin()
    for words in ("It learns.", "Model: small.", "Commit: abc123.", "torch 2.13.0", "have the SHA-256"):
        assert words in said


def test_what_was_changed_is_said(packed, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(packed, copy)
    (copy / "metrics.jsonl").write_text((copy / "metrics.jsonl").read_text().replace("0.5", "0.9", 1))
    (copy / "summary.json").unlink()
    (copy / "more.txt").write_text("!")
    found = ["summary.json is missing", "more.txt was added", "metrics.jsonl was changed"]
    assert recordings.differences(copy) == found
    replay = runs.replay(copy)
    assert replay.checked == found and "NOT as it was recorded" in replay.origin()
    assert "NOT as it was recorded" in text_of(TrainingDashboard(runs.replay(copy, speed=math.inf)))
    (copy / "provenance.json").write_text("{}")
    with pytest.raises(ConfigError, match="no provenance.json with hashes"):
        recordings.differences(copy)
    (copy / "provenance.json").write_text("[")
    with pytest.raises(ConfigError, match="cannot be read"):
        runs.replay(copy)


def test_the_limit_is_kept_by_leaving_completions_out_and_said_where_it_cannot_be(source, tmp_path):
    everything = sum(p.stat().st_size for p in runs.pack(source, tmp_path / "all").rglob("*") if p.is_file())
    limit = everything - 60_000
    less = runs.pack(source, tmp_path / "less", limit=limit)
    assert sum(p.stat().st_size for p in less.rglob("*") if p.is_file()) <= limit
    kept = Run(less).sample_steps
    assert (
        0 < len(kept) < len(Run(tmp_path / "all").sample_steps) and Run(less).metrics == Run(source).metrics
    )
    with pytest.raises(ConfigError, match="limit=1000"):
        runs.pack(source, tmp_path / "tiny", limit=1000)
    assert not (tmp_path / "tiny").exists()


def test_nothing_is_overwritten(source, packed):
    with pytest.raises(ConfigError, match="new or empty"):
        runs.pack(source, packed)
    with pytest.raises(ConfigError, match="no such directory"):
        runs.pack(source.parent / "none", source.parent / "target")


def test_a_run_without_completions_or_summary_can_be_packed(tmp_path):
    with RunWriter(tmp_path / "run", config={"algorithm": "SFT"}) as writer:
        writer.write_metrics({"step": 1, "loss": 2.0})
    path = tmp_path / "run" / "metrics.jsonl"
    path.write_bytes(path.read_bytes() + b'{"event": "st')  # killed while it wrote
    target = runs.pack(tmp_path / "run", tmp_path / "small", commit="")
    assert (
        Run(target).status == "interrupted" and Run(target).steps == [1] and Run(target).unreadable_lines == 0
    )
    assert recordings.differences(target) == []


# --- those of the package -----------------------------------------------------------------------------------


def test_recordings_are_listed_and_found_by_name():
    assert list(runs.recorded()) == NAMES
    for name, run in runs.recorded().items():
        assert (
            run.name == name and runs.recorded(name).path == run.path and runs.replay(name).path == run.path
        )
    with pytest.raises(ConfigError, match="unknown recorded run 'dmo'"):
        runs.recorded("dmo")


@pytest.mark.parametrize("name", NAMES)
def test_a_recording_is_small_whole_and_says_where_it_comes_from(name):
    run = runs.recorded(name)
    files = [path for path in run.path.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 2_000_000
    assert recordings.differences(run.path) == [] and run.unreadable_lines == 0 and run.summary is not None
    noted = recordings.provenance(run.path)
    assert all(noted[key] for key in ("about", "model", "data", "device", "versions", "commit", "recorded"))
    texts = [path.read_text() for path in files if path.suffix in (".json", ".jsonl")]
    assert not [word for word in ("/tmp/", "/root", "/home/", "/work") if any(word in text for text in texts)]
    for step in run.sample_steps:
        assert (
            pq.read_table(run.path / "samples" / f"step_{step:06d}.parquet").num_rows
            == len(run.samples(step))
            > 0
        )
