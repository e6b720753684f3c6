"""What is installed, what runs on this machine, and what to do about the rest: ``rlkit doctor``.

Data first: `checkup()` returns a list of `Check`, one for each thing looked at; `render()` prints it. The
judgements are plain functions of plain facts (`judge_…`), so that each can be tried with other facts. What
is heavy or may crash (torch, transformers, vLLM) is imported in child processes. Standard library only:
the doctor must run where nothing else does.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from rlkit._version import DISTRIBUTION, version
from rlkit.bootstrap import (
    COMPANIONS,
    ENGINES,
    PYTORCH_CPU_INDEX,
    ROOT,
    choose_engine,
    gpus,
    probe_imports,
    python_problem,
)

REPAIR = "python -m rlkit.bootstrap --repair"
GIB = 2**30
OLDEST_CAPABILITY = (7, 5)  # compute capability below which torch's CUDA 13 build has no kernels
PURPOSE = {  # of the extras that are no engine
    "lab": "JupyterLab and its widgets",
    "dev": "tests and linters",
    "bench": "benchmarks",
}

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Check:
    """One row: what was looked at, how it stands, what was found, and what to do where it is not fine.

    `status` is "ok", "warn" (works, with a restriction) or "fail" (no training before this is put right).
    """

    section: str
    name: str
    status: Status
    found: str
    advice: str = ""


@dataclass(frozen=True)
class Requirement:
    """A line of pyproject.toml's dependencies: package, version specifier, and the extra it belongs to."""

    name: str
    spec: str
    extra: str = ""


# --- what is wanted -----------------------------------------------------------------------------------------


def parse_requirement(line: str, extra: str = "") -> Requirement:
    """Read ``"vllm==0.32.0; extra == 'gpu'"``, as pyproject.toml and installed metadata write it."""
    text, _, marker = line.partition(";")
    match = re.match(r"\s*([\w.-]+)\s*(?:\[[^\]]*\])?\s*\(?([^()]*)\)?\s*$", text)
    if match is None:
        raise ValueError(f"not a requirement: {line!r}")
    named = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", marker)
    return Requirement(match[1], match[2].replace(" ", ""), named[1] if named else extra)


def requirements() -> list[Requirement]:
    """Return what rlkit wants: pyproject.toml says it in a checkout, the installed metadata elsewhere."""
    pyproject = ROOT / "pyproject.toml"
    if pyproject.is_file():
        import tomllib

        project = tomllib.loads(pyproject.read_text(encoding="utf-8")).get("project", {})
        if project.get("name") == DISTRIBUTION:
            wanted = [parse_requirement(line) for line in project["dependencies"]]
            for extra, lines in project["optional-dependencies"].items():
                wanted += [parse_requirement(line, extra) for line in lines]
            return wanted
    try:
        return [parse_requirement(line) for line in metadata.requires(DISTRIBUTION) or []]
    except metadata.PackageNotFoundError:
        return []


def _numbers(release: str) -> tuple[int, ...]:
    match = re.match(r"\d+(\.\d+)*", release)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def satisfies(found: str, spec: str) -> bool:
    """Say whether version `found` lies in `spec`, e.g. ``satisfies("2.13.0+cpu", "==2.13.0")``.

    Release numbers only; build tags such as ``+cpu`` and pre-release tags are left out of account.
    """
    have = _numbers(found)
    for clause in filter(None, spec.split(",")):
        operator, want = re.match(r"([~=<>!]+)(.*)", clause).groups()  # type: ignore[union-attr]
        limit = _numbers(want)
        length = max(len(have), len(limit))
        a, b = (v + (0,) * (length - len(v)) for v in (have, limit))
        held = {
            "==": a == b,
            "!=": a != b,
            ">=": a >= b,
            "<=": a <= b,
            ">": a > b,
            "<": a < b,
            "~=": a >= b and have[: len(limit) - 1] == limit[:-1],
        }
        if not held[operator]:
            return False
    return True


def installed(name: str) -> str | None:
    """Return the version of an installed distribution, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def install_command(extras: Iterable[str] = ()) -> str:
    """Return the command that installs rlkit with `extras` into the running environment."""
    extras = sorted(extras)
    index = f"--extra-index-url {PYTORCH_CPU_INDEX} " if "cpu" in extras else ""
    what = "." if (ROOT / "pyproject.toml").is_file() else DISTRIBUTION
    bracket = f"[{','.join(extras)}]" if extras else ""
    return f"python -m pip install {index}{'-e ' if what == '.' else ''}'{what}{bracket}'"


# --- the machine --------------------------------------------------------------------------------------------


def usable_cores() -> int:
    """Return how many CPU cores this process may use: affinity and a container's quota counted in."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return min(cores, max(1, round(int(quota) / int(period))))
    except (OSError, ValueError):
        return cores


def memory() -> tuple[int, int] | None:
    """Return (total, available) bytes of memory, a container's limit counted in; None where unknown."""
    try:
        rows = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        total, available = (int(rows[key].split()[0]) * 1024 for key in ("MemTotal", "MemAvailable"))
    except (OSError, ValueError, KeyError):
        try:
            total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
            return total, total
        except (AttributeError, OSError, ValueError):
            return None
    try:
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
        return min(total, limit), min(available, max(limit - used, 0))
    except (OSError, ValueError):
        return total, available


# --- judgements: facts in, checks out ---------------------------------------------------------------------


def judge_memory(sizes: tuple[int, int] | None, has_vllm: bool) -> Check:
    """Judge (total, available) bytes of memory."""
    if sizes is None:
        return Check("machine", "memory", "ok", "unknown")
    total, available = sizes
    found = f"{total / GIB:.1f} GiB, {available / GIB:.1f} GiB of it available"
    if available < 3 * GIB and has_vllm:
        advice = "vLLM wants about 3 GiB: close other programs, or generate with the Hugging Face engine"
        return Check("machine", "memory", "warn", found, advice)
    return Check("machine", "memory", "ok", found)


def judge_disk(free: int) -> Check:
    """Judge the free bytes on the disk that holds the working folder."""
    found = f"{free / GIB:.1f} GiB free here"
    if free < 2 * GIB:
        advice = "make room: runs, checkpoints and downloaded models are written here"
        return Check("machine", "disk", "warn", found, advice)
    return Check("machine", "disk", "ok", found)


def judge_threads(value: str | None, cores: int) -> Check:
    """Judge OMP_NUM_THREADS: more threads than free cores makes small models up to 100 times slower."""
    name, advice = "OMP_NUM_THREADS", "export OMP_NUM_THREADS=1 before Python starts; `make` does"
    if value is None:
        if cores == 1:
            return Check("machine", name, "ok", "not set; there is one core")
        found = f"not set: {cores} threads, which small models wait on when other programs are busy"
        return Check("machine", name, "warn", found, advice)
    if not value.isdecimal() or int(value) < 1:
        return Check("machine", name, "warn", f"{value!r} is no number of threads", advice)
    if int(value) > cores:
        return Check("machine", name, "warn", f"{value}, but only {cores} cores are usable", advice)
    return Check("machine", name, "ok", value)


def judge_compiler(compiler: str | None, has_gpu: bool) -> Check:
    """Judge the C compiler: Triton builds its launchers with one on a GPU; on a CPU nothing is compiled."""
    if compiler:
        return Check("machine", "C compiler", "ok", Path(compiler).name)
    if not has_gpu:
        return Check("machine", "C compiler", "ok", "none, and none is needed on the CPU")
    advice = "install one with Python's headers (Debian, Ubuntu: sudo apt install gcc python3-dev)"
    return Check("machine", "C compiler", "warn", "none; Triton needs one for the GPU", advice)


def judge_gpu(gpu: dict[str, str], torch: dict[str, Any]) -> Check:
    """Judge one GPU, as `bootstrap.gpus` describes it, beside what `bootstrap.probe_imports` says of torch."""
    capability = _numbers(gpu["compute_capability"])
    memory_gib = float(gpu["memory_mib"]) / 1024 if gpu["memory_mib"].isdecimal() else 0.0
    found = (
        f"{gpu['name']}, {memory_gib:.0f} GiB, compute capability {gpu['compute_capability']}, "
        f"driver {gpu['driver']}"
    )
    if capability < OLDEST_CAPABILITY:
        oldest = ".".join(map(str, OLDEST_CAPABILITY))
        advice = f"too old for torch, which wants {oldest}: use the CPU"
        return Check("machine", "GPU", "warn", found, advice)
    if torch["state"] == "works" and not torch.get("cuda"):
        advice = "this torch is built for the CPU. In a checkout: make clean; make ENGINE=gpu demo"
        return Check("machine", "GPU", "warn", found, advice)
    if torch["state"] == "works" and not torch.get("cuda_available"):
        advice = f"torch cannot use it: the driver is too old for CUDA {torch['cuda']}, or the GPU is hidden"
        return Check("machine", "GPU", "warn", found, f"{advice} (CUDA_VISIBLE_DEVICES)")
    return Check("machine", "GPU", "ok", found)


def judge_package(requirement: Requirement, found: str | None) -> Check:
    """Judge one core dependency by the version found (None: not installed)."""
    wanted = requirement.spec.removeprefix("==")
    if found is None:
        return Check("packages", requirement.name, "fail", f"missing; wanted {wanted}", install_command())
    if not satisfies(found, requirement.spec):
        advice = install_command()
        return Check("packages", requirement.name, "warn", f"{found}; tested with {wanted}", advice)
    return Check("packages", requirement.name, "ok", found)


def judge_extra(extra: str, wanted: Sequence[Requirement], found: dict[str, str | None]) -> Check:
    """Judge an extra as a whole: all of it there at the right versions, partly, or not at all."""
    name = f"extra: {extra}"
    missing = [r.name for r in wanted if found.get(r.name) is None]
    other = [
        f"{r.name} {v} (tested: {r.spec})"
        for r in wanted
        if (v := found.get(r.name)) and not satisfies(v, r.spec)
    ]
    purpose = PURPOSE.get(extra, "optional")
    if not missing and not other:
        return Check("packages", name, "ok", f"complete ({purpose})")
    if len(missing) == len(wanted):
        return Check(
            "packages", name, "ok", f"not installed ({purpose})", f"if wanted: {install_command([extra])}"
        )
    parts = ([f"missing: {', '.join(missing)}"] if missing else []) + other
    return Check("packages", name, "warn", "; ".join(parts), install_command([extra]))


def judge_vllm_package(
    wanted: Sequence[Requirement], found: dict[str, str | None], engine: str | None, system: str
) -> Check:
    """Judge which build of vLLM is installed; `engine` is the extra that suits this machine, or None."""
    have = [r for r in wanted if found.get(r.name)]
    if len(have) > 1:
        both = " and ".join(f"{r.name} {found[r.name]}" for r in have)
        advice = (
            f"they overwrite each other's files: uninstall both, then {install_command([engine or 'cpu'])}"
        )
        return Check("packages", "vllm", "warn", both, advice)
    if not have:
        if engine is None:
            return Check("packages", "vllm", "ok", f"no wheel for {system} on this processor")
        advice = f"the Hugging Face engine serves without it; for vLLM: {install_command([engine])}"
        return Check("packages", "vllm", "warn", "not installed", advice)
    requirement = have[0]
    version_found = found[requirement.name] or ""
    if not satisfies(version_found, requirement.spec):
        text = f"{requirement.name} {version_found}; tested with {requirement.spec.removeprefix('==')}"
        return Check("packages", "vllm", "warn", text, install_command([requirement.extra]))
    if engine is not None and requirement.extra != engine:
        text = f"{requirement.name} {version_found}, the build for {requirement.extra.upper()}s"
        advice = f"this machine suits the other one. In a checkout: make clean; make ENGINE={engine} demo"
        return Check("packages", "vllm", "warn", text, advice)
    return Check("packages", "vllm", "ok", f"{requirement.name} {version_found}")


def judge_import(name: str, result: dict[str, Any], broken_companions: Sequence[str] = ()) -> Check:
    """Judge whether torch or transformers imports; without them there is no training."""
    if result["state"] == "works":
        return Check("imports", name, "ok", f"imports, in {result['seconds']:.0f} s")
    if result["state"] == "missing":
        return Check("imports", name, "fail", "not installed", install_command())
    advice = REPAIR if broken_companions and name == "transformers" else f"reinstall it: {install_command()}"
    return Check("imports", name, "fail", f"does not import: {result['error']}", advice)


def judge_companions(results: dict[str, dict[str, Any]]) -> Check:
    """Judge torchvision, torchaudio, torchcodec: absent is fine, broken breaks transformers and vLLM."""
    name = "companions of torch"
    broken = sorted(n for n, r in results.items() if r["state"] == "broken")
    if broken:
        found = f"{', '.join(broken)}: installed for another torch, and transformers breaks on it"
        return Check("imports", name, "warn", found, REPAIR)
    works = sorted(n for n, r in results.items() if r["state"] == "works")
    return Check(
        "imports", name, "ok", f"{', '.join(works)} import" if works else "none, and text needs none"
    )


def judge_engine(
    vllm: dict[str, Any], torch: dict[str, Any], has_vllm_wheel: bool, broken_companions: Sequence[str] = ()
) -> Check:
    """Judge which engine generates: vLLM where it imports, else Hugging Face's `generate`."""
    if vllm["state"] == "works":
        where = "GPU" if torch.get("cuda_available") else "CPU"
        return Check("imports", "engine", "ok", f"vLLM {vllm['version']} on the {where}")
    fallback = "Hugging Face (fast_inference=False)"
    if vllm["state"] == "missing":
        status: Status = "warn" if has_vllm_wheel else "ok"
        why = "vLLM is not installed" if has_vllm_wheel else "vLLM has no wheel for this system"
        return Check("imports", "engine", status, f"{fallback}: {why}")
    advice = REPAIR if broken_companions else "reinstall vLLM, or set fast_inference=False"
    return Check("imports", "engine", "warn", f"{fallback}: vLLM does not import: {vllm['error']}", advice)


# --- the checkup --------------------------------------------------------------------------------------------


def checkup(say: Callable[[str], None] = lambda text: None) -> list[Check]:
    """Look at everything and return the rows; most of its seconds go into imports. `say` hears of them."""
    problem = python_problem(sys.version_info[:3])
    python = Check(
        "machine",
        "Python",
        "fail" if problem else "ok",
        platform.python_version(),
        (problem or "").split("\n")[-1],
    )
    if problem:
        return [python]

    say("importing torch, transformers and vLLM, to see whether they work …")
    with ThreadPoolExecutor() as pool:
        groups = (("torch", "transformers"), ("vllm",), COMPANIONS)
        jobs = [pool.submit(probe_imports, sys.executable, names) for names in groups]
        found_gpus = gpus()
        core, engine, companions = (job.result() for job in jobs)
    torch, vllm = core["torch"], engine["vllm"]
    broken = sorted(name for name, result in companions.items() if result["state"] == "broken")
    system, machine = sys.platform, platform.machine()
    suits = choose_engine(system, machine, bool(found_gpus))
    cores = usable_cores()

    compiler = next(filter(None, map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang"))), None)
    rows = [
        python,
        Check("machine", "system", "ok", f"{platform.system()} {platform.release()}, {machine}"),
        Check("machine", "CPU cores", "ok", f"{cores} usable"),
        judge_memory(memory(), vllm["state"] == "works"),
        judge_disk(shutil.disk_usage(Path.cwd()).free),
        *[judge_gpu(gpu, torch) for gpu in found_gpus],
    ]
    if not found_gpus:
        rows.append(Check("machine", "GPU", "ok", "no NVIDIA GPU: everything runs on the CPU"))
    rows += [
        judge_threads(os.environ.get("OMP_NUM_THREADS"), cores),
        judge_compiler(compiler, bool(found_gpus)),
    ]

    rows.append(Check("packages", "rlkit", "ok", version()))
    stranger = installed("rlkit")
    if stranger:
        advice = f"python -m pip uninstall rlkit, then {install_command()}"
        rows.append(
            Check(
                "packages", "rlkit (other)", "warn", f"{stranger}: an unrelated package of this name", advice
            )
        )
    wanted = requirements()
    found = {r.name: installed(r.name) for r in wanted}
    rows += [judge_package(r, found[r.name]) for r in wanted if not r.extra]
    rows.append(
        judge_vllm_package([r for r in wanted if r.extra in ENGINES], found, suits, platform.system())
    )
    for extra in dict.fromkeys(r.extra for r in wanted if r.extra and r.extra not in ENGINES):
        rows.append(judge_extra(extra, [r for r in wanted if r.extra == extra], found))

    rows += [judge_import(name, core[name], broken) for name in ("torch", "transformers")]
    rows += [judge_companions(companions), judge_engine(vllm, torch, suits is not None, broken)]
    return rows


def verdict(rows: Sequence[Check]) -> str:
    """Return the one sentence that the rows come to."""
    failed = [row for row in rows if row.status == "fail"]
    if failed:
        names = ", ".join(dict.fromkeys(row.name for row in failed))
        return f"Training is impossible here before this is put right: {names}. First: {failed[0].advice}"
    engine = next(row.found for row in rows if row.name == "engine")
    warned = sum(row.status == "warn" for row in rows)
    tail = f"; {warned} of the rows above deserve a look" if warned else ""
    return f"Training works here. Engine: {engine.split(':')[0]}{tail}."


# --- rendering ----------------------------------------------------------------------------------------------


def _symbols() -> dict[str, str]:
    signs = {"ok": "✓", "warn": "!", "fail": "✗"}
    try:
        "".join(signs.values()).encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return {"ok": "ok", "warn": "!", "fail": "X"}
    return signs


def render(rows: Sequence[Check]) -> None:
    """Print the rows as a table: with rich where it is installed, plain where not."""
    signs = _symbols()
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        width = max(len(row.name) for row in rows)
        section = ""
        for row in rows:
            if row.section != section:
                section = row.section
                print(f"\n{section}")
            print(f"  {signs[row.status]:2} {row.name:{width}}  {row.found}")
            if row.advice:
                print(f"     {'':{width}}  → {row.advice}")
        print(f"\n{verdict(rows)}")
        return
    colours = {"ok": "green", "warn": "yellow", "fail": "bold red"}
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    section = ""
    for row in rows:
        if row.section != section:
            if section:
                table.add_row()
            section = row.section
            table.add_row("", Text(section, style="bold"))
        found = Text(row.found)
        if row.advice:
            found.append(f"\n→ {row.advice}", style=colours[row.status] if row.status != "ok" else "dim")
        table.add_row(Text(signs[row.status], style=colours[row.status]), Text(row.name), found)
    console = Console()
    console.print(table)
    console.print()
    console.print(Text(verdict(rows), style="bold red" if any(r.status == "fail" for r in rows) else "bold"))


def main(argv: Sequence[str] = ()) -> int:
    """Run the doctor; return 1 where training is impossible, else 0. ``--json`` prints the rows as JSON."""
    import argparse

    parser = argparse.ArgumentParser(
        prog="rlkit doctor", description="What is installed, what runs here, what to do."
    )
    parser.add_argument("--json", action="store_true", help="print the rows as JSON, for a bug report")
    arguments = parser.parse_args(list(argv))

    def say(text: str) -> None:
        print(text, end="" if sys.stderr.isatty() else "\n", file=sys.stderr, flush=True)

    rows = checkup(say)
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)
    if arguments.json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
    else:
        render(rows)
    return int(any(row.status == "fail" for row in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
