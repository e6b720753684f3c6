"""The main job, for real: ``rlkit demo`` on vLLM, from a model that usually errs to one that learned."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rlkit import Run

LEARNING = Path(__file__).parent.parent / "benchmarks" / "results" / "learning"


@pytest.mark.engine
@pytest.mark.slow
def test_demo_learns_and_leaves_everything_behind(tmp_path):
    output = tmp_path / "demo"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "rlkit.cli",
            "demo",
            "--seed",
            "0",
            "--output",
            str(output),
            "--engine",
            "vllm",
        ],
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, "COLUMNS": "120"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    last = done.stdout.strip().splitlines()[-1]
    assert re.fullmatch(
        r"held-out accuracy 0\.\d\d → 0\.\d\d in [\d.]+ \w+( [\d.]+ \w+)? "
        r"\(\d+ steps, vLLM 0\.32 colocated, weights shared\)",
        last,
    ), last
    for shown in (
        "before",
        "after",
        "number found",
        "correct number",
        "forget the carry",
        "held-out problems",
    ):
        assert shown in done.stdout, shown
    assert "step 80 of 80, 100 %" in done.stderr, "progress"
    summary = json.loads((output / "summary.json").read_text())
    assert summary["accuracy_before"] <= 0.55
    assert summary["accuracy_after"] >= 0.90
    assert summary["engine"].startswith("vLLM")
    assert summary["weight_sync"] == "shared"
    assert summary["seed"] == 0
    assert {"steps", "train_seconds", "versions", "device"} <= set(summary)
    page = (output / "report.html").read_text()
    assert "held-out accuracy" in page
    addresses = re.findall(r"""(?:src|href)=["'](?!#|data:)([^"']*)""", page)
    assert not addresses, "the report needs no network"
    run = Run(output)
    assert run.status == "finished"
    assert len(run.steps) == summary["steps"]
    assert max(metrics["engine_gap_max"] for metrics in run.metrics) < 1e-4
    assert max(metrics["sync_gap"] for metrics in run.metrics) < 1e-4
    assert (output / "model" / "model.safetensors").exists()


def test_recorded_runs_reach_the_target_on_every_seed_and_the_control_does_not_rise():
    """The committed summaries of ``python -m benchmarks.learning``, which the README quotes."""
    summaries = [json.loads(path.read_text()) for path in sorted(LEARNING.glob("*.json"))]
    true = {s["seed"]: s for s in summaries if s["rewards"] == "true"}
    control = [s for s in summaries if s["rewards"] == "shuffled"]
    assert set(true) >= set(range(8))
    for summary in true.values():
        assert summary["accuracy_before"] <= 0.55
        assert summary["accuracy_after"] >= 0.90
        assert summary["train_seconds"] <= 60
        assert summary["engine"].startswith("vLLM")
    assert {s["seed"] for s in control} >= set(range(10))
    mean = sum(summary["accuracy_after"] for summary in control) / len(control)
    assert mean <= control[0]["accuracy_before"]  # single seeds drift: greedy answers flip on small pushes
    for summary in control:
        assert summary["accuracy_sampled_after"] <= summary["accuracy_sampled_before"]
