"""Reading a run while it is written: every step once, and never half a line."""

from __future__ import annotations

import random
import threading
import time

from synthetic_run import CONFIG, completion, step_line

from rlkit.runs import Run, RunWriter


def test_follow_yields_every_step_of_a_live_run_once_and_ends_with_it(tmp_path):
    def write() -> None:
        rng = random.Random(0)
        with RunWriter(tmp_path / "run", config=CONFIG) as writer:
            for step in range(1, 31):
                writer.write_samples(step, [completion(rng, 0, 0.5)])
                writer.write_metrics(step_line(rng, step, 30))
                writer.note("between")
                time.sleep(0.005)
            writer.write_summary({})

    thread = threading.Thread(target=write)
    thread.start()
    run = Run(tmp_path / "run", wait=10)
    seen = []
    for metrics in run.follow(poll=0.01, timeout=20):
        assert len(run.samples(metrics["step"])) == 1  # a step that is shown is whole
        seen.append(metrics["step"])
    thread.join()
    assert seen == list(range(1, 31)) and run.status == "finished" and len(run.notes) == 30


def test_follow_waits_for_a_torn_line_and_gives_up_when_told(tmp_path):
    writer = RunWriter(tmp_path / "run", config={})
    run = Run(tmp_path / "run")
    started = time.monotonic()
    assert list(run.follow(poll=0.01, timeout=0.1)) == [] and time.monotonic() - started < 5
    writer.write_metrics({"step": 1})
    path = tmp_path / "run" / "metrics.jsonl"
    with path.open("ab") as file:
        file.write(b'{"event": "step", "step": 2')
    assert [m["step"] for m in run.follow(poll=0.01, timeout=0.05)] == [1]
    following = run.follow(poll=0.01, timeout=10)
    assert next(following)["step"] == 1
    with path.open("ab") as file:
        file.write(b"}\n")
    assert next(following)["step"] == 2
    writer.close()
    assert list(following) == []


def test_follow_starts_anew_when_another_run_takes_the_directory(tmp_path):
    writer = RunWriter(tmp_path / "run", config={})
    writer.write_metrics({"step": 1, "n": 1})
    following = Run(tmp_path / "run").follow(poll=0.01, timeout=10)
    assert next(following)["n"] == 1
    newer = RunWriter(tmp_path / "run", config={}, overwrite=True)
    newer.write_metrics({"step": 1, "n": 2})
    assert next(following)["n"] == 2


def test_follow_needs_no_metrics_file_yet(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert list(Run(tmp_path).follow(poll=0.01, timeout=0.05)) == []
