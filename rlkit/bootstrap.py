"""Set up rlkit in a virtual environment, from nothing: ``python3 -m rlkit.bootstrap .venv --extras lab,dev``.

It runs before anything is installed, so it uses the standard library alone. In this order it

1. checks this Python and creates the virtual environment,
2. picks the build of vLLM: `gpu` beside an NVIDIA GPU, `cpu` on other Linux machines, none elsewhere
   (there rlkit generates with the Hugging Face engine),
3. finds out whether pip must be told of PyTorch's CPU wheel index: vLLM's CPU build wants torch's ``+cpu``
   build, which the ordinary package index does not have,
4. installs rlkit with its extras, at the versions that stand in pyproject.toml,
5. uninstalls torchvision, torchaudio and torchcodec where they do not import beside this torch, because
   transformers then breaks on them and text models need none of the three,
6. imports what was installed, and leaves a stamp, so that the next call has nothing to do and is instant.

Step 5 alone, for an environment that something else made (conda, Binder, Colab)::

    python -m rlkit.bootstrap --repair
"""

# This file and rlkit/__init__.py must stay readable by Python 3.7: an old Python has to get as far as the
# sentence that says it is too old. Nothing newer than 3.7 at the top level; tomllib only after the check.
from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

ROOT = Path(__file__).resolve().parent.parent
OLDEST_PYTHON = (3, 11)  # inclusive
NEWEST_PYTHON = (3, 15)  # exclusive: torch and vLLM have no wheels for it
PYTORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
COMPANIONS = ("torchvision", "torchaudio", "torchcodec")  # vLLM brings them; they want one build of torch
ENGINES = ("gpu", "cpu")  # the extras that bring vLLM
STAMP = "rlkit-stamp.json"
LOG = "install.log"


class SetupError(Exception):
    """The set-up cannot go on; the message says why and what to do."""


# --- decisions: plain functions of plain facts -------------------------------------------------------------


def python_problem(version: Sequence[int], has_venv: bool = True) -> str | None:
    """Return what is wrong with this Python, or None. `version` is (major, minor, …)."""
    found = ".".join(str(part) for part in version[:3])
    oldest, newest = (".".join(str(part) for part in v) for v in (OLDEST_PYTHON, NEWEST_PYTHON))
    if tuple(version[:2]) < OLDEST_PYTHON:
        return (
            f"rlkit needs Python {oldest} or newer; this is {found}.\n"
            "Name a newer one, for instance:  make PYTHON=python3.11 demo"
        )
    if tuple(version[:2]) >= NEWEST_PYTHON:
        return (
            f"rlkit runs on Python {oldest} up to but without {newest} (beyond it torch and vLLM have no "
            f"wheels); this is {found}.\nName another one, for instance:  make PYTHON=python3.12 demo"
        )
    if not has_venv:
        return (
            f"Python {found} cannot create virtual environments: its `venv` or `ensurepip` is missing.\n"
            f"On Debian and Ubuntu:  sudo apt install python{version[0]}.{version[1]}-venv"
        )
    return None


def choose_engine(system: str, machine: str, has_gpu: bool) -> str | None:
    """Return the extra that brings vLLM here: "gpu", "cpu", or None where it has no wheel.

    `system` is ``sys.platform`` and `machine` is ``platform.machine()``.
    """
    if system != "linux" or machine.lower() not in ("x86_64", "amd64", "aarch64", "arm64"):
        return None
    return "gpu" if has_gpu else "cpu"


def choose_extras(
    requested: Iterable[str], system: str, machine: str, has_gpu: bool, engine: str = "auto"
) -> tuple[str, ...]:
    """Return the extras to install, sorted, as a tuple: those requested and the engine's.

    An engine named among the requested ones, or by `engine` ("cpu", "gpu", "none"), overrules the machine.
    """
    extras = {extra.strip() for extra in requested if extra.strip()}
    named = extras.intersection(ENGINES)
    if engine != "auto":
        named = {engine}
    if len(named) > 1:
        raise SetupError("The extras cpu and gpu exclude each other: both install the package `vllm`.")
    picked = named.pop() if named else choose_engine(system, machine, has_gpu)
    extras.difference_update(ENGINES)
    if picked and picked != "none":
        extras.add(picked)
    return tuple(sorted(extras))


def choose_index(
    extras: Iterable[str], system: str, found_without: Callable[[], bool], found_with: Callable[[], bool]
) -> str | None:
    """Return PyTorch's CPU wheel index where pip has to be told of it, else None.

    `found_without` and `found_with` are callables that say whether pip finds torch's ``+cpu`` build; they
    cost seconds, so they are asked only where the answer matters.
    """
    if system != "linux" or "gpu" in extras:
        return None  # the ordinary index has the right build
    if found_without():
        return None
    if found_with():
        return PYTORCH_CPU_INDEX
    if "cpu" in extras:
        raise SetupError(
            f"vLLM's CPU build needs PyTorch's CPU wheels, and their index cannot be reached:\n"
            f"  {PYTORCH_CPU_INDEX}\n"
            "Likely cause: no network, or a proxy or firewall that does not let it through.\n"
            "Without vLLM everything runs on the Hugging Face engine:  make ENGINE=none demo"
        )
    return None  # no vLLM wanted: the ordinary, larger build of torch will do


def fingerprint(pyproject: bytes, system: str, machine: str) -> str:
    """Hash what an installation depends on besides its extras: `pyproject`'s bytes and the machine."""
    return hashlib.sha256(pyproject + f"\0{system}\0{machine}".encode()).hexdigest()


def is_current(stamp: dict[str, Any] | None, want: str, extras: Iterable[str]) -> bool:
    """Say whether a finished installation (`stamp`, or None) already offers all of `extras`."""
    return (
        stamp is not None and stamp.get("fingerprint") == want and set(extras) <= set(stamp.get("extras", ()))
    )


def must_recreate(stamp: dict[str, Any] | None, extras: Iterable[str]) -> bool:
    """Say whether the other build of vLLM is installed: the two share files and cannot replace each other."""
    before = set((stamp or {}).get("extras", ())).intersection(ENGINES)
    after = set(extras).intersection(ENGINES)
    return bool(before and after) and before != after


CAUSES = (  # (what pip's complaint holds, what that means), the more particular first
    (
        r"No space left on device|Errno 28",
        "The disk is full: the installation needs about 5 GB (10 GB with a GPU).",
    ),
    (
        r"CERTIFICATE_VERIFY_FAILED|SSLCertVerificationError",
        "A certificate is not trusted, as behind some company proxies: `pip config set global.cert FILE`.",
    ),
    (
        r"torch==\S+\+cpu|download\.pytorch\.org|/whl/cpu",
        f"PyTorch's CPU wheel index cannot be reached, or lacks this build: {PYTORCH_CPU_INDEX}",
    ),
    (
        r"name resolution|Failed to establish a new connection|Network is unreachable|ConnectTimeoutError"
        r"|NewConnectionError|ReadTimeoutError|ProxyError|Max retries exceeded",
        "The package index cannot be reached: no network, or a proxy that pip does not know.",
    ),
    (
        r"No matching distribution found for vllm",
        "vLLM has no wheel for this machine (it wants Linux with glibc 2.28 or newer on x86-64 or ARM). "
        "Without it everything runs on the Hugging Face engine:  make ENGINE=none demo",
    ),
    (
        r"[Rr]equires? a different [Pp]ython",
        "A package has no release for this Python; try another:  make clean; make PYTHON=python3.11 demo",
    ),
    (r"Permission denied|Errno 13", "A file may not be written: who owns the virtual environment?"),
    (r"MemoryError|Killed", "Memory ran out."),
)


def likely_cause(log: str) -> str:
    """Return the likely cause of a failed pip run, read from its complaints in `log`; "" where unknown."""
    complaints = "\n".join(
        line for line in log.splitlines() if re.search(r"error|warning|Killed", line, re.I)
    )
    for pattern, cause in CAUSES:
        if re.search(pattern, complaints):
            return cause
    return ""


def pinned(pyproject: str, name: str) -> str:
    """Return the exact version that pyproject's text gives the core dependency `name`, e.g. "2.13.0"."""
    import tomllib

    for requirement in tomllib.loads(pyproject)["project"]["dependencies"]:
        package, _, version = requirement.partition("==")
        if package.strip() == name and version:
            return version.partition(";")[0].strip()
    raise SetupError(f"pyproject.toml pins no version of {name}.")


# --- the machine ------------------------------------------------------------------------------------------


def gpus() -> list[dict[str, str]]:
    """Return a dict for each NVIDIA GPU: name, memory_mib, compute_capability, driver."""
    if not shutil.which("nvidia-smi"):
        return []
    import subprocess

    query = "--query-gpu=name,memory.total,compute_cap,driver_version"
    try:
        answer = subprocess.run(
            ["nvidia-smi", query, "--format=csv,noheader,nounits"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            timeout=30,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    if answer.returncode != 0:
        return []
    rows = [[field.strip() for field in line.split(",")] for line in answer.stdout.splitlines()]
    names = ("name", "memory_mib", "compute_capability", "driver")
    return [dict(zip(names, row)) for row in rows if len(row) == len(names)]


def venv_python(venv: Path) -> Path:
    """Return the path of a virtual environment's Python."""
    return venv / "Scripts" / "python.exe" if os.name == "nt" else venv / "bin" / "python"


def read_stamp(venv: Path) -> dict[str, Any] | None:
    """Return the stamp that the last finished installation left in `venv`, or None."""
    try:
        stamp = json.loads((venv / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(stamp, dict) or not venv_python(venv).exists():
        return None  # a dangling link: the Python that made the environment is gone
    return stamp if stamp.get("path") == str(venv.resolve()) else None  # its scripts hold this path


def write_stamp(venv: Path, want: str, extras: Iterable[str]) -> None:
    """Note in `venv` that an installation was finished."""
    stamp = {"fingerprint": want, "extras": sorted(extras), "path": str(venv.resolve())}
    half = venv / (STAMP + ".part")
    half.write_text(json.dumps(stamp, indent=1) + "\n", encoding="utf-8")
    os.replace(str(half), str(venv / STAMP))


def child_environment() -> dict[str, str]:
    """Return the environment for child processes: nothing of another Python, no questions."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "PIP_USER")}
    environment.update(PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_NO_INPUT="1", PYTHONUTF8="1")
    return environment


# What a package must be able to do to count as working, beyond `import name`.
IMPORTS = {
    "transformers": "import transformers; from transformers import AutoModelForCausalLM, AutoTokenizer, "
    "Qwen2ForCausalLM, GenerationMixin",
    "vllm": "import vllm; from vllm import LLM, SamplingParams",
}

_PROBE = """
import importlib.util, json, sys, time, warnings
warnings.simplefilter("ignore")
for name, statement in json.loads(sys.argv[1]):
    print("@" + json.dumps({"name": name}), flush=True)
    row, began = {"name": name, "state": "works", "version": "", "error": ""}, time.perf_counter()
    if importlib.util.find_spec(name) is None:
        row["state"] = "missing"
    else:
        try:
            exec(statement)
            row["version"] = str(getattr(sys.modules[name], "__version__", ""))
        except BaseException as error:
            row["state"] = "broken"
            row["error"] = (type(error).__name__ + ": " + str(error).strip())[:600]
        if name == "torch" and row["state"] == "works":
            torch = sys.modules["torch"]
            row["cuda"] = torch.version.cuda
            row["cuda_available"] = torch.cuda.is_available()
    row["seconds"] = round(time.perf_counter() - began, 2)
    print("@" + json.dumps(row), flush=True)
"""


def probe_imports(
    python: Path | str, names: Iterable[str], timeout: float = 180, environment: dict[str, str] | None = None
) -> dict[str, dict[str, Any]]:
    """Import `names` with the interpreter `python`, in child processes, and say how each one went.

    Returns a dict: name -> {"state": "works" | "missing" | "broken", "version", "error", "seconds"}; torch
    also has "cuda" (the CUDA version that it was built for, or None) and "cuda_available". A crash or a
    hang counts as broken, and the names after it are tried in a new process.
    """
    import subprocess

    results = {}
    rest = list(names)
    while rest:
        work = json.dumps([[name, IMPORTS.get(name, "import " + name)] for name in rest])
        try:
            child = subprocess.run(
                [str(python), "-P", "-c", _PROBE, work],
                capture_output=True,
                timeout=timeout,
                env=environment,
            )
            output, ended = child.stdout, f"the import ended the process with status {child.returncode}"
        except subprocess.TimeoutExpired as error:
            output, ended = error.stdout or b"", f"the import took more than {timeout} s"
        begun = None
        for line in output.decode("utf-8", "replace").splitlines():
            if not line.startswith('@{"name"'):
                continue
            row = json.loads(line[1:])
            begun = row["name"]
            if "state" in row:
                results[row.pop("name")] = row
                begun = None
        if begun is None and rest[0] not in results:
            begun, ended = rest[0], ended + " before it began"
        if begun is not None:
            results[begun] = {"state": "broken", "version": "", "error": ended, "seconds": 0.0}
        rest = [name for name in rest if name not in results]
    return results


# --- the work ---------------------------------------------------------------------------------------------


class _Progress:
    """Short lines that say what happens and how long it took; on a terminal, what pip is at right now."""

    def __init__(self) -> None:
        self.live = sys.stdout.isatty()
        self.what, self.began = "", 0.0

    def say(self, text: str) -> None:
        print(text, flush=True)

    def start(self, what: str) -> None:
        self.what, self.began = what, time.perf_counter()
        print(f"  {what} …", end=" ", flush=True)

    def at(self, detail: str) -> None:
        if self.live:
            room = shutil.get_terminal_size().columns - len(self.what) - 8
            detail = detail if len(detail) <= room else detail[: max(room, 1) - 1] + "…"
            print(f"\r\033[K  {self.what} … {detail}", end="", flush=True)

    def done(self, result: str = "") -> None:
        if self.live:
            print(f"\r\033[K  {self.what} … ", end="")
        seconds = f"{time.perf_counter() - self.began:.0f} s"
        print(f"{result} ({seconds})" if result else seconds, flush=True)


def _pip(
    python: Path | str, arguments: Sequence[str], log: Path, progress: _Progress | None = None
) -> tuple[int, str]:
    """Run pip, append its output to the file `log`, and return (exit status, this run's output)."""
    import subprocess

    command = [str(python), "-m", "pip", *arguments]
    lines = []
    with open(str(log), "a", encoding="utf-8") as file:
        file.write("\n$ pip " + " ".join(arguments) + "\n")
        child = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=str(ROOT),
            env=child_environment(),
        )
        try:
            for raw in child.stdout or ():
                line = raw.decode("utf-8", "replace").rstrip()
                lines.append(line)
                file.write(line + "\n")
                if progress and line.lstrip().startswith(
                    ("Collecting", "Downloading", "Building", "Installing", "Processing")
                ):
                    progress.at(" ".join(line.split()[:4]))
            return child.wait(), "\n".join(lines)
        except BaseException:  # Ctrl-C reaches pip as well: let it remove its temporary files, then insist
            try:
                child.wait(timeout=10)
            except subprocess.TimeoutExpired:
                child.terminate()
                child.wait()
            raise


def _finds_cpu_torch(python: Path, version: str, log: Path, index: str | None = None) -> bool:
    """Say whether pip finds torch's CPU build, with or without PyTorch's own index; downloads nothing."""
    arguments = ["install", "--dry-run", "--no-deps", "--ignore-installed", "--only-binary", ":all:"]
    arguments += ["--timeout", "15", "--retries", "1"]
    if index:
        arguments += ["--extra-index-url", index]
    status, _ = _pip(python, [*arguments, f"torch=={version}+cpu"], log)
    return status == 0


def broken_companions(python: Path | str) -> list[str]:
    """Return those of torchvision, torchaudio and torchcodec that are installed and do not import."""
    states = probe_imports(python, COMPANIONS, environment=child_environment())
    return sorted(name for name, result in states.items() if result["state"] == "broken")


def remove_broken_companions(python: Path | str, log: Path, progress: _Progress) -> list[str]:
    """Uninstall the companions of torch that do not import, and return their names."""
    progress.start("checking " + ", ".join(COMPANIONS))
    broken = broken_companions(python)
    if broken:
        status, output = _pip(python, ["uninstall", "--yes", *broken], log)
        if status != 0:
            raise SetupError("pip could not uninstall " + ", ".join(broken) + ":\n" + output)
        progress.done(f"removed {', '.join(broken)}: broken beside this torch, and text models need none")
    else:
        progress.done("fine")
    return broken


def _create_venv(venv: Path, clear: bool, progress: _Progress) -> None:
    import subprocess

    python = venv_python(venv)
    if not clear and python.exists():
        asked = subprocess.run(
            [str(python), "-c", "import sys; print(*sys.version_info[:3]); import pip"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=child_environment(),
        )
        version = tuple(int(part) for part in asked.stdout.split())
        problem = python_problem(version) if version else None
        if problem:
            raise SetupError(f"{venv.name} was made by another Python: {problem}\nFirst:  make clean")
        if asked.returncode == 0:
            return
    old = venv.exists() and any(venv.iterdir())
    if old and not (venv / "pyvenv.cfg").exists():
        raise SetupError(f"{venv} exists and is no virtual environment: nothing in it was touched.")
    progress.start("creating the virtual environment")
    arguments = ["--clear"] if old else []
    made = subprocess.run(
        [sys.executable, "-m", "venv", *arguments, str(venv)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=child_environment(),
    )
    if made.returncode != 0:
        output = made.stdout.decode("utf-8", "replace").strip()
        raise SetupError(f"The virtual environment could not be created:\n{output}\n{likely_cause(output)}")
    progress.done()


def _verify(python: Path, extras: Iterable[str], progress: _Progress) -> None:
    """Import what was installed; raise SetupError where rlkit could not train."""
    wanted = ["torch", "transformers"]
    if set(extras).intersection(ENGINES) and sys.platform == "linux":
        wanted.append("vllm")
    progress.start("checking the imports")
    states = probe_imports(python, wanted, environment=child_environment())
    bad = [
        f"{name} is {row['state']}. {row['error']}" for name, row in states.items() if row["state"] != "works"
    ]
    if bad:
        progress.done("failed")
        raise SetupError("\n".join(bad) + "\nStart again from nothing:  make clean")
    progress.done(", ".join(f"{name} {row['version']}" for name, row in states.items()))
    if "gpu" in extras and not states["torch"].get("cuda_available"):
        progress.say("  ! this torch does not see the GPU; `rlkit doctor` says more")


def _wanted() -> str:
    pyproject = ROOT / "pyproject.toml"
    if not pyproject.is_file():
        raise SetupError("rlkit.bootstrap sets up a checkout: there is no pyproject.toml beside the package.")
    return fingerprint(pyproject.read_bytes(), sys.platform, platform.machine())


def install(venv: Path, extras: tuple[str, ...], progress: _Progress) -> bool:
    """Bring `venv` to a finished installation with `extras`; return False where it was one already."""
    want = _wanted()
    stamp = read_stamp(venv)
    if is_current(stamp, want, extras):
        return False
    clear = must_recreate(stamp, extras) or (stamp is None and (venv / STAMP).exists())
    if stamp and not clear:
        extras = tuple(sorted(set(extras).union(stamp["extras"])))  # keep what is there up to date
    engine = (
        "vLLM on the GPU"
        if "gpu" in extras
        else "vLLM on the CPU"
        if "cpu" in extras
        else "no vLLM here: demo, tests and course generate with the Hugging Face engine"
    )
    began = time.perf_counter()
    progress.say(f"Setting up rlkit [{', '.join(extras)}] in {venv.name}: {engine}.".replace(" []", ""))
    if (venv / STAMP).exists():
        (venv / STAMP).unlink()  # from here to the end there is no finished installation
    _create_venv(venv, clear, progress)
    python, log = venv_python(venv), venv / LOG

    version = pinned((ROOT / "pyproject.toml").read_text(encoding="utf-8"), "torch")
    progress.start("asking pip for torch's CPU build" if "gpu" not in extras else "choosing the index")
    index = choose_index(
        extras,
        sys.platform,
        lambda: _finds_cpu_torch(python, version, log),
        lambda: _finds_cpu_torch(python, version, log, PYTORCH_CPU_INDEX),
    )
    progress.done("adding " + index if index else "no extra index needed")

    progress.start("downloading and installing; takes minutes the first time")
    arguments = [
        "install",
        *(["--extra-index-url", index] if index else []),
        "-e",
        f".[{','.join(extras)}]" if extras else ".",
    ]
    status, output = _pip(python, arguments, log, progress)
    if status != 0:
        progress.done("failed")
        tail = "\n".join("    " + line for line in output.splitlines()[-12:])
        cause = likely_cause(output) or "The cause is not one that this program knows."
        raise SetupError(f"pip failed. Its last lines:\n{tail}\n{cause}\nAll of it: {venv.name}/{LOG}")
    progress.done()
    remove_broken_companions(python, log, progress)
    _verify(python, extras, progress)
    write_stamp(venv, want, extras)
    progress.say(f"Ready, in {time.perf_counter() - began:.0f} s.")
    return True


def repair(progress: _Progress) -> None:
    """Remove broken companions of torch from the environment that runs this (conda, Binder, Colab)."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        remove_broken_companions(sys.executable, Path(folder) / LOG, progress)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the set-up; return 0, or 1 with the reason on stderr."""
    parser = argparse.ArgumentParser(
        prog="python3 -m rlkit.bootstrap",
        description="Set up rlkit in a virtual environment. Does nothing where that is done already.",
    )
    parser.add_argument("venv", nargs="?", default=".venv", help="folder of the environment (default: .venv)")
    parser.add_argument("--extras", default="", help="extras of pyproject.toml, such as lab,dev")
    parser.add_argument(
        "--engine",
        choices=("auto", "cpu", "gpu", "none"),
        default="auto",
        help="which build of vLLM (default: auto, by the machine; none: Hugging Face engine only)",
    )
    parser.add_argument(
        "--repair",
        action="store_true",
        help="only uninstall torchvision, torchaudio and torchcodec from the running environment where they "
        "do not import",
    )
    arguments = parser.parse_args(argv)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a terminal that cannot print "…" gets "?"
    progress = _Progress()
    try:
        problem = python_problem(sys.version_info[:3], _can_make_venvs() or arguments.repair)
        if problem:
            raise SetupError(problem)
        if arguments.repair:
            repair(progress)
            return 0
        venv = Path(arguments.venv).absolute()
        requested, machine = arguments.extras.split(","), platform.machine()
        has_driver = shutil.which("nvidia-smi") is not None
        extras = choose_extras(requested, sys.platform, machine, has_driver, arguments.engine)
        if has_driver and not is_current(
            read_stamp(venv), _wanted(), extras
        ):  # then ask it: that takes a second
            extras = choose_extras(requested, sys.platform, machine, bool(gpus()), arguments.engine)
        install(venv, extras, progress)
    except SetupError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except OSError as error:  # a full disk, a folder that is not ours
        print(f"\n{error}\n{likely_cause('error ' + str(error))}".rstrip(), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted: run it again to go on.", file=sys.stderr)
        return 130
    return 0


def _can_make_venvs() -> bool:
    from importlib.util import find_spec

    return find_spec("venv") is not None and find_spec("ensurepip") is not None


if __name__ == "__main__":
    sys.exit(main())
