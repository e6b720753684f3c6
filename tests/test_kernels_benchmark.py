"""`benchmarks/kernels.py` without a GPU: it runs, its float64 is right, and it catches a side that is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import _kernel_report as report
from benchmarks import _kernel_sides as k
from benchmarks import kernels

ROOT = Path(__file__).resolve().parent.parent
CPU = ["--quick", "--heads", "frozen"]

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU the benchmark itself is run")


def small(head: str, dtype: torch.dtype = torch.float32, rows: int = 24, peaked: bool = True) -> k.Problem:
    return k.problem(rows, 101, 16, head, dtype, "cpu", seed=3, peaked=peaked)


# ---------------------------------------------------------------------- what is right


@pytest.mark.parametrize("head", ["frozen", "trained"])
def test_the_reference_is_what_autograd_finds_in_float64(head: str) -> None:
    p = small(head)
    double = p._replace(
        hidden=p.hidden.detach().double().requires_grad_(),
        weight=p.weight.detach().double().requires_grad_(head == "trained"),
        advantages=p.advantages.double(),
    )
    logits = double.hidden @ double.weight.T
    logp = logits.log_softmax(1).gather(1, p.targets[:, None])[:, 0]
    expected = torch.autograd.grad(k.policy_loss(logp, double.advantages), double.wanted)
    found = k.exact(p)
    assert torch.allclose(found[0], logp.detach(), rtol=0, atol=1e-14)
    for a, b in zip(found[1:], expected, strict=False):
        # 1 - p is 1e-5 in every other row, and float64's own definition loses those five digits
        assert a is not None and float((a - b).abs().max()) < 1e-12
    assert (found[2] is None) == (head == "frozen")
    sure, unsure = -found[0][::2], -found[0][1::2]  # nats
    assert float(sure.median()) < 1e-3 < 1 < float(unsure.median())


@pytest.mark.parametrize("head", ["frozen", "trained", "scored"])
def test_the_torch_tiles_are_within_the_tolerance(head: str) -> None:
    (side,), _ = k.sides(["chunked"])
    found = k.errors(side, small(head))
    gradients = {"frozen": {"d_hidden"}, "trained": {"d_hidden", "d_weight"}, "scored": set()}
    assert set(found) == {"values"} | gradients[head]
    assert not kernels.wrong(found, "float32"), found
    sampled = k.errors(side, small(head), torch.tensor([0, 23, 5]))
    assert not kernels.wrong(sampled, "float32") and "d_weight" not in sampled


def _spoilt(how: str) -> k.Side:
    def logprobs(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        good = k.plain_logprobs(hidden, weight, targets)
        if how == "values":
            return good + 0.1
        if how == "gradient":
            return good.detach() + 1.03 * (good - good.detach())
        if how == "last row":
            return torch.cat((good[:-1], good[-1:].detach() + 0 * good[-1:]))
        out = torch.empty(len(targets))  # the first entry is never written
        return torch.cat((good[:1] + 0 * out[:1], good[1:]))

    return k.Side(how, k._through(logprobs), logprobs)


@pytest.mark.parametrize(
    "how, where",
    [("values", "values"), ("gradient", "d_hidden"), ("last row", "d_hidden"), ("unwritten", "values")],
)
def test_a_side_that_is_wrong_is_seen(how: str, where: str) -> None:
    p = small("frozen", peaked=False)
    assert not kernels.wrong(k.errors(k.sides(["plain"])[0][0], p), "float32")
    for sample in (None, torch.tensor([0, 7, 23])):
        found = k.errors(_spoilt(how), p, sample)
        assert kernels.wrong({where: found[where]}, "bfloat16"), found
    assert how != "unwritten" or found["values"] == float("inf")


def test_ours_is_not_timed_where_it_is_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path
) -> None:
    wrong = _spoilt("gradient")
    monkeypatch.setattr(k, "sides", lambda names: ([wrong._replace(name="ours")], {}))
    assert kernels.main([*CPU, "--sides", "ours", "--json", str(tmp_path / "out.json")]) == 1
    assert "not timed: ours is wrong" in capsys.readouterr().out
    assert not (tmp_path / "out.json").exists()


# ---------------------------------------------------------------------- the command


def test_the_command_measures_and_keeps_what_belongs_together(tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out.json"
    assert kernels.main([*CPU, "--commit", "abc", "--json", str(out)]) == 0
    assert kernels.main(["--quick", "--heads", "trained", "--commit", "abc", "--json", str(out)]) == 0
    said = capsys.readouterr().out
    assert "held to no target" in said and "matmul peak in this run" in said
    kept = json.loads(out.read_text())
    assert kept["commit"] == "abc" and kept["versions"]["torch"] == torch.__version__ and kept["device"]
    assert [cell["head"] for cell in kept["cells"]] == ["frozen", "trained"]
    for cell in kept["cells"]:
        assert set(cell["sides"]) == {"plain", "chunked"} and cell["peak_tflops"] > 0
        for side in cell["sides"].values():
            flops = report.HEADS[cell["head"]] * cell["rows"] * cell["vocab"] * cell["width"]
            assert 0 < side["least"] <= side["ms"] <= side["most"] and side["runs"] == 1
            share = flops / (side["ms"] * 1e9) / cell["peak_tflops"]
            assert side["share"] == pytest.approx(share, rel=2e-3)
    assert {check["side"] for check in kept["checks"]} == {"plain", "chunked"}
    assert kernels.main(["--table", str(out)]) == 0
    table = capsys.readouterr().out
    assert "| tiny | 16 | trained | " in table and "commit abc" in table

    assert kernels.main([*CPU, "--commit", "abd", "--json", str(out)]) == 0
    assert [cell["head"] for cell in json.loads(out.read_text())["cells"]] == ["frozen"]
    assert kernels.main(["--quick", "--minutes", "0"]) == 0
    assert "3 sizes left out: 0 minutes were over" in capsys.readouterr().out


def test_as_a_script_it_hides_no_package_called_kernels() -> None:
    """transformers looks for Hugging Face's `kernels`; the folder of a script is the first place it looks in."""
    path = ROOT / "benchmarks" / "kernels.py"
    code = f"import runpy, sys; sys.argv = [{str(path)!r}]; sys.path.insert(0, {str(path.parent)!r})\n"
    code += "try: runpy.run_path(sys.argv[0], run_name='__main__')\nexcept SystemExit as end: assert end.code == 0\n"
    code += "import importlib.util as u; print(getattr(u.find_spec('kernels'), 'origin', None))"
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert lines[0] == "No GPU: nothing is measured. --quick tries the command out."
    assert "benchmarks" not in lines[-1]


def test_ours_runs_under_the_interpreter(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    out = tmp_path / "out.json"
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "kernels.py"),
        *CPU,
        "--interpret",
        "--json",
        str(out),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (cell,) = json.loads(out.read_text())["cells"]
    assert not kernels.wrong(cell["sides"]["ours"]["errors"], "float32")


# ---------------------------------------------------------------------- targets


def test_targets_are_judged_by_the_issue() -> None:
    def cell(model: kernels.Model, head: str, extra: float, **ms: float) -> dict[str, Any]:
        timed = {name: {"ms": value, "extra_mb": extra} for name, value in ms.items()}
        return {
            "model": model.model,
            "vocab": model.vocab,
            "width": model.width,
            "rows": 4096,
            "head": head,
            "sides": timed,
        }

    small_one, large = kernels.MODELS[0], kernels.MODELS[2]
    flops = 4 * 4096 * large.vocab * large.width
    ms = flops / (0.56 * 700 * 1e9)  # at 56 % of 700 TFLOP/s
    cells = [
        cell(large, "frozen", 256.0, ours=ms, liger=1.39 * ms, compiled=1.01 * ms),
        cell(large, "trained", 257.0, ours=ms, compiled=ms, liger=0.5 * ms),
        cell(small_one, "frozen", 1.0, ours=1e6, compiled=1.0),
        {"model": "x", "rows": 1, "head": "frozen", "sides": {"ours": {"left_out": "does not fit"}}},
    ]
    report.add_shares(cells[:3], 700.0)
    judged = {
        (t["where"].split(",")[0], t["where"].split()[-1], t["what"]): t["met"] for t in report.judge(cells)
    }
    assert judged == {
        (large.model, "frozen", "share of the matmul peak"): True,
        (large.model, "frozen", "times as fast as Liger"): False,
        (large.model, "frozen", "times as fast as compiled torch"): True,
        (large.model, "frozen", "extra memory, MB"): True,
        (large.model, "trained", "times as fast as compiled torch"): False,
        (large.model, "trained", "extra memory, MB"): False,
        (small_one.model, "frozen", "share of the matmul peak"): False,
        (small_one.model, "frozen", "extra memory, MB"): True,
    }
    shares = [t["found"] for t in report.judge(cells) if "share" in t["what"]]
    assert shares[0] == pytest.approx(0.56)
