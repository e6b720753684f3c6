"""What the benchmarks against other libraries share: processes that take turns, memory, models, the last lines.

Each side runs in a process of its own, with fresh memory, and the sides alternate, so that a busy machine disturbs both
alike. Ratios are formed within one run of a benchmark, never across two.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks import _report

TINY = "rlkit/tiny-arithmetic"
SMOLLM2 = "smollm2-135m-instruct"
MIB = 2**20

Job = dict[str, Any]
Found = dict[str, Any]


def main(name: str, doc: str | None, run: Any) -> int:
    """Command line of the benchmark module ``name``: with ``--job`` one side's work, otherwise ``run(options)``.

    ``run`` returns rows. They go to ``results/<device>.json``, with ``--quick`` to a scratch file.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="file for the rows (results/<device>.json)")
    parser.add_argument("--quick", action="store_true", help="everything once, small, to a scratch file")
    parser.add_argument("--rounds", type=int, metavar="N", help="turns that each side takes")
    parser.add_argument("--only", metavar="TEXT", default="", help="only what has TEXT in its name")
    parser.add_argument("--job", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job is not None:
        module = importlib.import_module(f"benchmarks.{name}")
        print(json.dumps(getattr(module, options.job.pop("call"))(**options.job)), flush=True)
        return 0
    start = time.perf_counter()
    rows = run(options)
    for r in rows:
        verdict = "" if options.quick else "reached" if _report.reached(r) else "NOT reached"
        numbers = f"{r['ours']:g} against {r['peer']:g} {r['unit']}"
        print(f"{r['ratio']:>8} {r['to_reach']:>8} {verdict:12} {r['name']}: {numbers}")
    path = options.json or _report.results_path(device())
    if options.quick and not options.json:
        path = Path(tempfile.mkdtemp(prefix="rlkit-bench-")) / path.name
    if rows:
        _report.update(path, rows, device())
        print(f"written to {path}, {time.perf_counter() - start:.0f} s in all")
    return 0


def device() -> str:
    """What is measured: the GPU where there is one, else the CPU."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def dtype() -> str:
    """What the models are loaded in, on both sides: vLLM's LoRA kernels want 16 bits on a GPU."""
    return "float32" if device() == "cpu" else "bfloat16"


def in_a_process(name: str, job: Job, threads: int) -> Found:
    """Call ``job["call"]`` of the benchmark module ``name`` in a fresh interpreter, on so many threads."""
    command = [sys.executable, "-m", f"benchmarks.{name}", "--job", json.dumps(job)]
    # Threads sleep while they wait: spinning ones would steal a busy machine's cores from themselves.
    threading = {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    environment = os.environ | threading | {"HF_HUB_OFFLINE": "1"}
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{name} {job} failed:\n{done.stderr[-4000:]}")
    found: Found = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def in_turns(
    name: str, what: str, sides: dict[str, Job], threads: int, rounds: int
) -> dict[str, list[Found]]:
    """Run every side ``rounds`` times, A B A B …, with a line on each run; what they found, by side."""
    runs: dict[str, list[Found]] = {side: [] for side in sides}
    for i in range(rounds):
        for side, job in sides.items():
            start = time.perf_counter()
            found = in_a_process(name, job, threads)
            runs[side].append(found)
            seconds = " ".join(f"{s:.2f}" for s in found["seconds"])
            memory = f", {found['mib']:.0f} MiB" if "mib" in found else ""
            took = f"{time.perf_counter() - start:.0f} s in all"
            print(f"  {what}, {side} {i + 1}/{rounds}: {seconds} s{memory} ({took})", flush=True)
    return runs


def middle(runs: list[Found], key: str = "seconds") -> float:
    """The median over all runs; of a key that holds lists, over all of their entries."""
    values = [
        value for found in runs for value in (found[key] if isinstance(found[key], list) else [found[key]])
    ]
    return statistics.median(values)


def versions(*packages: str) -> dict[str, str]:
    """Versions of Python and of those packages that are installed."""
    found = {"python": platform.python_version()}
    for name in ("torch", "transformers", *packages):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def have_smollm2() -> bool:
    """Whether SmolLM2 is here; says what to do where it is not."""
    from rlkit.fetchable import fetched

    if fetched(SMOLLM2):
        return True
    print("SmolLM2 is not here, and its rows are left out. To get it: rlkit fetch smollm2", flush=True)
    return False


def have(package: str, command: str) -> bool:
    """Whether a peer is installed; says what to do where it is not."""
    try:
        version(package)
    except PackageNotFoundError:
        print(f"{package} is not installed, and its rows are left out. To get it: {command}", flush=True)
        return False
    return True


def distinct_rewards(completions: list[Any], **_: Any) -> list[float]:
    """A cheap reward that hardly ever gives two different texts the same: every row then has a gradient."""
    return [zlib.crc32(str(completion).encode()) % 1000 / 1000 for completion in completions]


def bare_settings(folder: str, **settings: Any) -> Any:
    """A GRPOConfig whose steps do nothing but train: no probe, no samples on disk, no progress bar."""
    from rlkit import GRPOConfig

    return GRPOConfig(
        output_dir=f"{folder}/run",
        probe_prompts=0,
        top_logprobs=0,
        save_samples=False,
        save_model=False,
        disable_tqdm=True,
        **settings,
    )


def forget_end(model: Any) -> None:
    """Let the model's configuration name no end token; vLLM would stop there whatever else it is told."""
    model.config.eos_token_id = None
    model.generation_config.eos_token_id = None


def without_end(engine: Any) -> None:
    """Let every completion run to its full length; for vLLM also ``forget_end`` before it is made."""
    engine._end_ids = []


class Peak:
    """The most memory from here on, above the present: of a GPU's allocator, or the process's resident set (Linux).

    The trainer's own memory ledger sets these marks back at every phase: ``watch`` it, and nothing is missed.
    """

    def __init__(self) -> None:
        from rlkit.memory.ledger import gauge_for

        self._gauge: Any = gauge_for(device())
        self.before = self.highest = self._gauge.cut()[1]

    def watch(self, ledger: Any) -> None:
        ledger.gauge = self

    name = "peak"

    def cut(self) -> tuple[int, int]:
        peak, now = self._gauge.cut()
        self.highest = max(self.highest, peak)
        return peak, now

    def mib(self) -> float:
        """MiB above what was there before."""
        self.cut()
        return (self.highest - self.before) / MIB
