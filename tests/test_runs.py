"""Run directories: what is written comes back, and where it does not fit, that is said."""

from __future__ import annotations

import json
import math
import random
import subprocess
import threading
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from child_python import python
from hypothesis import given
from hypothesis import strategies as st
from synthetic_run import GENERATIONS, PROBLEMS, PROMPTS, completion, write_run

from rlkit.errors import ConfigError
from rlkit.runs import Run, RunWriter, schema

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
