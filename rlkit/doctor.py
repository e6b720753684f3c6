"""What is installed, what runs on this machine, and what to do about the rest: ``rlkit doctor``.

`checkup()` looks at everything and returns the rows; `main()` prints them. The rows that differ most from
machine to machine (`…_row`) are functions of plain facts, so that they can be tried with other machines'.
torch, transformers and vLLM are heavy and may crash: they are imported in child processes.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from rlkit._version import DISTRIBUTION, version
from rlkit.bootstrap import (
    BUILDS,
    COMPANIONS,
    PYTORCH_CPU_INDEX,
    ROOT,
    choose_engine,
    has_gpu,
    python_problem,
    try_import,
)

try:
    from packaging.requirements import Requirement
except ImportError:  # then nothing is installed, and checkup() says so
    Requirement = None

REPAIR = "python -m rlkit.bootstrap --repair"
GIB = 2**30
# Core dependencies that training can do without, and what needs them.
ONLY_FOR = {
    "peft": "LoRA",
    "accelerate": "LoRA and 4-bit models",
    "bitsandbytes": "4-bit models",
    "gguf": ".gguf files and `rlkit fetch`",
}
# Extras that only some work needs, and what that is.
EXTRAS = {
    "rewards": "maths, judges, drafts, graders and style",
    "tasks": "tasks.reasoning_gym, and GSM8K without the Hub",
}
OLDEST_CAPABILITY = [7, 5]  # compute capability below which torch's CUDA 13 build has no kernels

# What the child that imports torch prints: [its CUDA version or null, [[name, bytes, [major, minor]] per GPU]].
TELL_TORCH = (
    "import json; gpus = map(torch.cuda.get_device_properties, range(torch.cuda.device_count())); "
    "gpus = [[gpu.name, gpu.total_memory, [gpu.major, gpu.minor]] for gpu in gpus]; "
    "print(json.dumps([torch.version.cuda, gpus]))"
)


@dataclass(frozen=True)
class Check:
    """One row: what was looked at, how it stands, what was found, and what to do where it is not fine.

    `status` is "ok", "warn" (works, with a restriction) or "fail" (no training before this is put right).
    """

    name: str
    status: Literal["ok", "warn", "fail"]
    found: str
    advice: str = ""


# --- the machine --------------------------------------------------------------------------------------------


def _container_limit(file: str) -> list[int]:
    """Return the numbers in a file of this container's control group; [] where there is no limit."""
    try:
        return [int(word) for word in Path("/sys/fs/cgroup", file).read_text().split()]
    except (OSError, ValueError):  # no container, or the word "max"
        return []


def usable_cores() -> int:
    """Return how many CPU cores this process may use: affinity and a container's quota counted in."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _container_limit("cpu.max")  # microseconds of CPU time a period, the period
    return min(cores, max(1, round(quota[0] / quota[1]))) if quota else cores


def memory_row() -> Check:
    """Look at the main memory, a container's limit counted in."""
    try:
        rows = Path("/proc/meminfo").read_text()
    except OSError:  # no Linux, so no vLLM, for which it matters
        return Check("memory", "ok", "unknown")
    total, free = (int(re.search(rf"{key}:\s+(\d+)", rows)[1]) * 1024 for key in ("MemTotal", "MemAvailable"))
    for limit in _container_limit("memory.max"):
        used = sum(_container_limit("memory.current"))
        total, free = min(total, limit), min(free, max(limit - used, 0))
    found = f"{total / GIB:.1f} GiB, {free / GIB:.1f} GiB of it available"
    if free < 3 * GIB:
        advice = "vLLM wants about 3 GiB: close other programs, or generate with the Hugging Face engine"
        return Check("memory", "warn", found, advice)
    return Check("memory", "ok", found)


def disk_row() -> Check:
    """Look at the disk that holds the working folder."""
    free = shutil.disk_usage(Path.cwd()).free
    if free < 2 * GIB:
        advice = "make room: runs, checkpoints and downloaded models are written here"
        return Check("disk", "warn", f"{free / GIB:.1f} GiB free here", advice)
    return Check("disk", "ok", f"{free / GIB:.1f} GiB free here")


def threads_row(value: str | None, cores: int) -> Check:
    """Judge OMP_NUM_THREADS: more threads than free cores makes small models up to 100 times slower."""
    name, advice = "OMP_NUM_THREADS", "export OMP_NUM_THREADS=1 before Python starts; `make` does"
    if value is None and cores > 1:
        found = f"not set: {cores} threads, which small models wait on when other programs are busy"
        return Check(name, "warn", found, advice)
    if value is not None and not (value.isdecimal() and 1 <= int(value) <= cores):
        return Check(name, "warn", f"{value}, but {cores} cores are usable", advice)
    return Check(name, "ok", value or "not set; there is one core")


def gpu_row(driver: bool, cuda: str | None, gpus: Sequence[tuple[str, int, list[int]]]) -> Check:
    """Judge the GPUs. `driver`: NVIDIA's driver knows one; `cuda`, `gpus`: what torch says, see TELL_TORCH."""
    if gpus:
        lines = [f"{name}, {size / GIB:.0f} GiB, compute capability {a}.{b}" for name, size, (a, b) in gpus]
        if min(capability for _, _, capability in gpus) < OLDEST_CAPABILITY:
            oldest = ".".join(map(str, OLDEST_CAPABILITY))
            advice = f"too old for torch, which wants {oldest}: use the CPU (export CUDA_VISIBLE_DEVICES=)"
            return Check("GPU", "warn", "; ".join(lines), advice)
        return Check("GPU", "ok", "; ".join(lines))
    if not driver:
        return Check("GPU", "ok", "no NVIDIA GPU: everything runs on the CPU")
    if not cuda:
        advice = "in a checkout: make clean; make ENGINE=gpu demo"
        return Check("GPU", "warn", "there is one, but this torch is built for the CPU", advice)
    advice = f"the driver is too old for CUDA {cuda}, or CUDA_VISIBLE_DEVICES hides the GPU"
    return Check("GPU", "warn", "there is one, but torch cannot use it", advice)


# --- the packages -------------------------------------------------------------------------------------------


def _project() -> tuple[list[Requirement], dict[str, list[Requirement]]]:
    """Return what rlkit depends on here: the core, and each extra of `BUILDS` and `EXTRAS`.

    pyproject.toml says it in a checkout, the installed metadata elsewhere.
    """
    import tomllib  # an old Python has to get as far as the row that says it is too old

    pyproject, project = ROOT / "pyproject.toml", {}
    if pyproject.is_file():
        project = tomllib.loads(pyproject.read_text(encoding="utf-8")).get("project", {})
    if project.get("name") == DISTRIBUTION:
        core = [Requirement(line) for line in project["dependencies"]]
        given = project["optional-dependencies"]
        extras = {extra: [Requirement(line) for line in given[extra]] for extra in (*BUILDS, *EXTRAS)}
    else:
        lines = [Requirement(line) for line in metadata.requires(DISTRIBUTION) or []]
        core = [line for line in lines if "extra" not in str(line.marker)]
        extras = {
            extra: [line for line in lines if f'extra == "{extra}"' in str(line.marker)]
            for extra in (*BUILDS, *EXTRAS)
        }
    return [r for r in core if r.marker is None or r.marker.evaluate()], extras


def requirements() -> dict[str, Requirement]:
    """Return what rlkit wants, by name: its core dependencies and both builds of vLLM."""
    core, extras = _project()
    return {r.name: r for r in (*core, *(r for build in BUILDS for r in extras[build]))}


def missing_extras() -> dict[str, list[str]]:
    """Return the packages that are not installed, for each extra of `EXTRAS`."""
    _, extras = _project()
    return {extra: [r.name for r in extras[extra] if installed(r.name) is None] for extra in EXTRAS}


def installed(name: str) -> str | None:
    """Return the version of an installed distribution, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def install_command(extra: str = "") -> str:
    """Return the command that installs rlkit, with `extra`, into the running environment."""
    index = f"--extra-index-url {PYTORCH_CPU_INDEX} " if extra == "cpu" else ""
    what = "-e '." if (ROOT / "pyproject.toml").is_file() else f"'{DISTRIBUTION}"
    return f"python -m pip install {index}{what}{f'[{extra}]' if extra else ''}'"


def package_row(
    wanted: Requirement, found: str | None, imported: tuple[str, str] = ("works", ""), broken: str = ""
) -> Check:
    """Judge a core dependency by its version (None: not installed) and what `try_import` said of it.

    `broken` names the companions of torch that do not import: they break transformers. What only some training
    needs (`ONLY_FOR`) is a warning where it is missing.
    """
    state, text = imported
    if found is None and wanted.name in ONLY_FOR:
        text = f"missing; wanted {wanted.specifier} for {ONLY_FOR[wanted.name]}"
        return Check(wanted.name, "warn", text, install_command())
    if found is None:
        return Check(wanted.name, "fail", f"missing; wanted {wanted.specifier}", install_command())
    if state != "works":
        advice = REPAIR if broken and wanted.name == "transformers" else f"reinstall it: {install_command()}"
        return Check(wanted.name, "fail", f"{found}, but it does not import: {text}", advice)
    if not wanted.specifier.contains(found, prereleases=True):
        return Check(wanted.name, "warn", f"{found}; wanted {wanted.specifier}", install_command())
    return Check(wanted.name, "ok", f"{found} (wanted {wanted.specifier})")


def extras_row(missing: dict[str, list[str]]) -> Check:
    """Judge the extras of `EXTRAS` by the packages that are missing of each."""
    lacking = {extra: packages for extra, packages in missing.items() if packages}
    if not lacking:
        return Check("extras", "ok", f"{', '.join(missing)}: installed")
    found = "; ".join(f"{', '.join(names)} missing, for {EXTRAS[extra]}" for extra, names in lacking.items())
    return Check("extras", "warn", found, install_command(",".join(lacking)))


def sandbox_row(walls: Sequence[tuple[str, bool, str]]) -> Check:
    """Judge what holds the programs that models write: the rows of `rlkit.sandbox.active()`."""
    *rows, (_, holds, problem) = walls
    if not holds:
        advice = (
            "only code rewards and drafts need it; on Linux: apt install libseccomp2, Linux 5.13 or newer"
        )
        return Check("sandbox", "warn", f"does not hold what a model writes: {problem}", advice)
    return Check("sandbox", "ok", ", ".join(name for name, on, _ in rows if on))


def engine_row(
    imported: tuple[str, str],
    found: dict[str, str | None],
    wanted: dict[str, Requirement],
    suits: str,
    broken: str = "",
) -> Check:
    """Judge which engine generates: vLLM where it imports, else Hugging Face's `generate`.

    `imported`: what `try_import` said of vLLM; `found`: the version of each build of it, by extra;
    `wanted`: the requirement of each; `suits`: the extra that this machine suits, as `choose_engine` says;
    `broken`: the companions of torch that do not import.
    """
    (state, text), fallback = imported, "Hugging Face (fast_inference=False)"
    there = [extra for extra in BUILDS if found[extra]]
    if len(there) > 1:
        text = "the CPU and the GPU build of vLLM are installed, and overwrite each other's files"
        advice = f"python -m pip uninstall {' '.join(BUILDS.values())}, then {install_command(suits)}"
        return Check("engine", "warn", text, advice)
    if not there:
        if suits == "none":
            return Check("engine", "ok", f"{fallback}: vLLM has no wheel for this system")
        return Check("engine", "warn", f"{fallback}: vLLM is not installed", install_command(suits))
    build = there[0]
    if state != "works":
        advice = REPAIR if broken else f"set fast_inference=False, or reinstall it: {install_command(build)}"
        return Check("engine", "warn", f"{fallback}: vLLM does not import: {text}", advice)
    text = f"vLLM {found[build]} on the {build.upper()}"
    if suits != build:
        advice = f"this machine suits the other build. In a checkout: make clean; make ENGINE={suits} demo"
        return Check("engine", "warn", f"{text}, as the build for it is installed", advice)
    if not wanted[build].specifier.contains(found[build], prereleases=True):
        advice = install_command(build)
        return Check("engine", "warn", f"{text}; wanted {wanted[build].specifier}", advice)
    return Check("engine", "ok", text)


# --- the whole ----------------------------------------------------------------------------------------------


def checkup() -> list[Check]:
    """Look at everything and return the rows; most of its seconds go into imports."""
    problem = python_problem(sys.version_info[:3])
    if problem:
        return [Check("Python", "fail", platform.python_version(), problem.replace("\n", " "))]
    from rlkit import sandbox  # in Python's syntax of today

    cores = usable_cores()
    rows = [
        Check("rlkit", "ok", version()),
        Check("Python", "ok", platform.python_version()),
        Check("system", "ok", f"{platform.system()} on {platform.machine()}, {cores} CPU cores usable"),
        memory_row(),
        disk_row(),
        threads_row(os.environ.get("OMP_NUM_THREADS"), cores),
    ]
    if Requirement is None:
        return [*rows, Check("packages", "fail", "what rlkit needs is not installed", install_command())]

    names = ("vllm", "torch", "transformers", *COMPANIONS)  # the slowest first
    with ThreadPoolExecutor(max_workers=2) as pool:
        jobs = {
            name: pool.submit(try_import, sys.executable, name, TELL_TORCH if name == "torch" else "")
            for name in names
        }
        imports = {name: job.result() for name, job in jobs.items()}
    broken = ", ".join(name for name in COMPANIONS if imports[name][0] == "broken")
    driver = has_gpu()

    if imports["torch"][0] == "works":
        cuda, gpus = json.loads(imports["torch"][1])
        rows.append(gpu_row(driver, cuda, gpus))
    wanted = requirements()
    for name, requirement in wanted.items():
        if name not in BUILDS.values():
            imported = imports.get(name, ("works", ""))
            rows.append(package_row(requirement, installed(name), imported, broken))
    rows += [extras_row(missing_extras()), sandbox_row(sandbox.active())]
    if broken:
        found = f"{broken}: installed for another torch, and transformers breaks on it"
        rows.append(Check("torch's companions", "warn", found, REPAIR))
    suits = choose_engine(sys.platform, platform.machine(), driver)
    builds = {extra: wanted[name] for extra, name in BUILDS.items()}
    found = {extra: installed(name) for extra, name in BUILDS.items()}
    return [*rows, engine_row(imports["vllm"], found, builds, suits, broken)]


def verdict(rows: Sequence[Check]) -> str:
    """Return the one sentence that the rows come to."""
    failed = [row for row in rows if row.status == "fail"]
    if failed:
        names = ", ".join(row.name for row in failed)
        return f"Training is impossible here before this is put right: {names}. First: {failed[0].advice}"
    engine = next(row.found for row in rows if row.name == "engine")
    warned = sum(row.status == "warn" for row in rows)
    tail = f"; {warned} of the rows above deserve a look" if warned else ""
    return f"Training works here. Engine: {engine.split(':')[0]}{tail}."


def main() -> int:
    """Print the rows; return 1 where training is impossible, else 0."""
    print("Looking around; importing torch, transformers and vLLM takes some seconds …", flush=True)
    rows = checkup()
    width = max(len(row.name) for row in rows)
    for row in rows:
        sign = {"ok": "✓", "warn": "!", "fail": "✗"}[row.status]
        print(f"{sign} {row.name:{width}}  {row.found}")
        if row.advice:
            print(f"  {'':{width}}  → {row.advice}")
    print(f"\n{verdict(rows)}")
    return int(any(row.status == "fail" for row in rows))


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="replace")  # a terminal that cannot print "✓" gets "?"
    sys.exit(main())
