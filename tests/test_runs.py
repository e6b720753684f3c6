"""Run directories: what is written comes back, and a run that was killed is read to its last whole step."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_run import CONFIG, GENERATIONS, PROBLEMS, PROMPTS, completion, step_line, write_run

import rlkit
from rlkit.errors import ConfigError, TrainingError
from rlkit.runs import Run, RunWriter, list_runs, schema
from rlkit.runs import reader as reader_module

ROOT = Path(rlkit.__path__[0]).parent
TESTS = Path(__file__).parent


def python(code: str, *args: object, **options) -> subprocess.Popen:
    """Start another Python that can import the package and the helpers here."""
    path = os.pathsep.join([str(ROOT), str(TESTS)])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, args)]
    return subprocess.Popen(command, env=environment, **options)


# ------------------------------------------------------------------------------------ round trips


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def same(a: object, b: object) -> bool:
    """Equal, with NaN equal to NaN."""
    if isinstance(a, float) and isinstance(b, float) and math.isnan(a):
        return math.isnan(b)
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@given(st.dictionaries(st.text().filter(lambda key: key != schema.NONFINITE), json_values, max_size=5))
def test_every_json_value_comes_back_and_the_text_is_strict_json(record):
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    text = schema.dumps(record)
    assert "\n" not in text
    json.loads(text, parse_constant=refuse)
    assert same(schema.loads(text), record)


def test_values_of_other_kinds_become_plain():
    def my_reward() -> None: ...

    record = {
        "function": my_reward,
        "array": np.array([[1, 2], [3, 4]]),
        "scalar": np.float32(0.5),
        "nan": np.float64("nan"),
        "flag": np.bool_(True),
        "path": Path("a/b"),
        "set": {2, 1},
        "tuple": (1, None),
        "broken": "\ud800 text",
        3: "key",
    }
    back = schema.loads(schema.dumps(record))
    assert back["function"] == "my_reward" and back["array"] == [[1, 2], [3, 4]] and back["scalar"] == 0.5
    assert math.isnan(back["nan"]) and back["flag"] is True and back["path"] == str(Path("a/b"))
    assert (
        back["set"] == [1, 2]
        and back["tuple"] == [1, None]
        and back["broken"] == "? text"
        and back["3"] == "key"
    )


def test_non_finite_metrics_are_null_on_disk_and_numbers_when_read(tmp_path):
    with RunWriter(tmp_path / "run", config={"limit": math.inf}) as writer:
        writer.write_metrics({"step": 1, "loss": math.nan, "grad_norm": math.inf, "kl": None})
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text())
    assert line["loss"] is None and line["nonfinite"] == {"loss": "nan", "grad_norm": "inf"}
    (step,) = Run(tmp_path / "run").metrics
    assert math.isnan(step["loss"]) and step["grad_norm"] == math.inf and step["kl"] is None
    assert Run(tmp_path / "run").config["limit"] == math.inf
    assert Run(tmp_path / "run").column("kl") == ([], [])
    assert Run(tmp_path / "run").column("grad_norm") == ([1], [math.inf])


def test_samples_come_back_typed(tmp_path):
    rng = random.Random(1)
    full = completion(rng, 5, 1.0)
    odd = {
        "prompt_index": np.int64(1),
        "completion_index": 0,
        "prompt": "broken \udc80",
        "completion": "<script>",
        "completion_ids": np.array([1, 2]),
        "tokens": ["a", "\ud800"],
        "logp_engine": np.array([-0.5, -math.inf], dtype=np.float32),
        "topk_ids": np.array([[1, 2], [3, 4]]),
        "reward/number_found": None,
        "reward/correct_number": math.nan,
        "reward": np.float64(0.1),
    }
    writer = RunWriter(tmp_path / "run", config={})
    writer.write_samples(7, [full, odd])
    writer.write_metrics({"step": 7, "rewards/number_found": 1.0})
    run = Run(tmp_path / "run")
    first, second = run.samples(7)
    exact = (
        "prompt",
        "prompt_ids",
        "completion",
        "completion_ids",
        "tokens",
        "reward",
        "advantage",
        "correct",
    )
    assert {name: first[name] for name in exact} == {name: full[name] for name in exact}
    assert set(full) <= set(first)
    assert json.loads(first["row"]) == full["row"] and first["logp_ref"] is None and first["step"] == 7
    assert first["logp_engine"] == pytest.approx(full["logp_engine"])
    assert second["prompt"] == "broken ?" and second["tokens"] == ["a", "?"] and second["correct"] is None
    assert second["logp_engine"] == [-0.5, -math.inf] and second["topk_ids"] == [[1, 2], [3, 4]]
    assert second["reward/number_found"] is None and math.isnan(second["reward/correct_number"])
    assert second["reward"] == 0.1 and second["entropy"] is None
    expected = schema.sample_schema(["number_found", "correct_number"])
    assert run.samples_table(7).schema.equals(expected)
    assert pq.read_table(tmp_path / "run" / "samples" / "step_000007.parquet").schema.equals(expected)


def test_samples_that_fit_no_column_are_refused(tmp_path):
    writer = RunWriter(tmp_path / "run", config={})
    with pytest.raises(ConfigError, match=r"advantages.*Did you mean 'advantage'"):
        writer.write_samples(1, [{"advantages": 1.0}])
    with pytest.raises(ConfigError, match=r"'entropy' has 1 entries for 2 completion tokens"):
        writer.write_samples(1, [{"completion_ids": [1, 2], "entropy": [0.1]}])
    with pytest.raises(ConfigError, match="'reward' of step 1 needs double"):
        writer.write_samples(1, [{"reward": "high"}])
    with pytest.raises(ConfigError, match="evaluation kind"):
        writer.write_eval(1, "greddy", [])
    with pytest.raises(ConfigError, match="step=None"):
        writer.write_metrics({"loss": 1.0})
    with pytest.raises(ConfigError, match="event"):
        writer.write_metrics({"event": "stpe", "step": 1})
    assert not list((tmp_path / "run" / "samples").iterdir())


def test_whole_run(tmp_path):
    run = Run(write_run(tmp_path / "run", steps=6, every=3))
    assert run.steps == [1, 2, 3, 4, 5, 6] and run.sample_steps == run.steps and run.status == "finished"
    assert [e["step"] for e in run.evals] == [0, 3, 6]
    assert run.reward_names == ["number_found", "correct_number"]
    assert run.config["trainer"]["loss_type"] == "dr_grpo" and run.config["run"]["format"] == schema.FORMAT
    assert run.summary is not None and run.summary["accuracy_after"] == 0.93
    assert [len(rows) for rows in (run.samples(6), run.eval_samples(3), run.eval_samples(3, "sampled"))] == [
        PROMPTS * GENERATIONS,
        PROBLEMS,
        PROBLEMS,
    ]
    steps, values = run.column("reward")
    assert steps == run.steps and values == [m["reward"] for m in run.metrics]
    assert run.samples_table(2).num_rows == PROMPTS * GENERATIONS
    assert "finished" in repr(run) and "steps 6" in repr(run) and "0.50 → 0.93" in run._repr_html_()
    with pytest.raises(ConfigError, match=r"whole step of .*: 1-6"):
        run.samples(9)
    with pytest.raises(ConfigError, match=r"no step of .* has a metric 'rewrad'"):
        run.column("rewrad")


def test_repr_html_escapes_the_path(tmp_path):
    run = Run(write_run(tmp_path / "<b>run", steps=1))
    assert "<b>run" not in run._repr_html_() and "&lt;b&gt;run" in run._repr_html_()


def test_a_repeated_step_counts_once_with_its_last_line(tmp_path):
    with RunWriter(tmp_path / "run", config={}) as writer:
        for step, loss in ((1, 0.1), (2, 0.2), (2, 0.3), (3, 0.4)):
            writer.write_metrics({"step": step, "loss": loss})
    assert Run(tmp_path / "run").column("loss") == ([1, 2, 3], [0.1, 0.3, 0.4])


def test_steps_without_completions(tmp_path):
    with RunWriter(tmp_path / "run", config={}) as writer:
        writer.write_metrics({"step": 1, "rewards/f": 0.0})  # samples switched off
        writer.write_samples(2, [])
        writer.write_metrics({"step": 2, "rewards/f": 0.0})
    run = Run(tmp_path / "run")
    assert run.samples(1) == [] and run.samples(2) == [] and run.sample_steps == [2]
    assert "reward/f" in run.samples_table(1).column_names == run.samples_table(1).schema.names


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


# ------------------------------------------------------------------------------- resumed runs


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
    from rlkit.runs import Run, RunWriter

    target = Path(sys.argv[1])
    with RunWriter(sys.argv[1] + "-warm-up", config={}) as writer:  # what pyarrow imports at the first use
        writer.write_samples(1, [{"completion": "x"}])
    for line in sys.stdin:
        child = os.fork()
        if child:
            os.waitpid(child, 0)
            print("dead", flush=True)
            continue
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


# ------------------------------------------------------------------------------------ reading live


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


def test_many_threads_write_and_read(tmp_path):
    writer = RunWriter(tmp_path / "run", config={})
    run = Run(tmp_path / "run")

    def write(start: int) -> None:
        for step in range(start, start + 25):
            writer.write_metrics({"step": step, "text": "x" * 5000})
            assert step in run.steps

    threads = [threading.Thread(target=write, args=(25 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert run.steps == list(range(100)) and run.unreadable_lines == 0


def test_importing_loads_nothing_heavy():
    code = """
        import sys
        import rlkit.runs
        print([name for name in ("torch", "matplotlib", "pyarrow", "jinja2", "numpy") if name in sys.modules])
    """
    process = python(code, stdout=subprocess.PIPE, text=True)
    assert process.communicate(timeout=60)[0].strip() == "[]"
    from rlkit.runs import diagnose

    assert callable(diagnose)  # and not the module of that name
