"""Time and memory of `rlkit.logprobs.linear_logprob` against `log_softmax(hidden @ W.T)` and a gather.

Forward and backward, fp32 on the CPU, head frozen (LoRA) and trained. Each run is a process of its own, and ours
and the plain path take turns, so that a busy machine disturbs both. Seconds are wall-clock medians. Memory is the
peak resident set of the run above the resident set just before it, when hidden states and head are there already
(Linux: VmHWM, reset through /proc/self/clear_refs; elsewhere the growth of ru_maxrss); for the trained head less
the weight's gradient, which any method returns. Before that, values and gradients of 16 rows are compared with
float64.

    python -m benchmarks.logprobs [--quick] [--json benchmarks/results/cpu.json]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import _report  # noqa: E402

FULL = {"rows": 4096, "vocab": 151936, "width": 896, "repeats": 3}  # Qwen2.5-0.5B's head
QUICK = {"rows": 512, "vocab": 32768, "width": 256, "repeats": 3}
TO_REACH = {  # (seconds, memory), ours / plain
    "frozen": ("<= 0.7", "<= 0.0333"),
    "trained": ("<= 1.3", "<= 0.125"),
}


def problem(size: dict[str, int], trained: bool, rows: int | None = None) -> tuple[Any, Any, Any]:
    """hidden [N, H], weight [V, H], targets [N]; the logits have a spread of 2."""
    import torch

    torch.manual_seed(0)
    n = rows or size["rows"]
    hidden = torch.randn(n, size["width"]).requires_grad_()
    weight = torch.empty(size["vocab"], size["width"]).normal_(std=2 / size["width"] ** 0.5)
    return hidden, weight.requires_grad_(trained), torch.randint(0, size["vocab"], (n,))


def ours(hidden: Any, weight: Any, targets: Any) -> Any:
    from rlkit.logprobs import linear_logprob

    return linear_logprob(hidden, weight, targets).logprobs


def plain(hidden: Any, weight: Any, targets: Any) -> Any:
    logp = (hidden @ weight.T).log_softmax(-1)
    return logp.gather(1, targets[:, None])[:, 0]


def peak_memory(reset: bool = False) -> int:
    """Bytes: the process's peak resident set, since the last reset where the system can reset it."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def measure(method: str, head: str, size: dict[str, int]) -> dict[str, float]:
    """One forward and backward; runs in a process of its own."""
    import torch

    compute = ours if method == "ours" else plain
    tiny = {"rows": 8, "vocab": 512, "width": 16}
    compute(*problem(tiny, True)).sum().backward()  # threads and libraries are up
    inputs = problem(size, head == "trained")
    upstream = torch.linspace(-1, 1, size["rows"])
    before = peak_memory(reset=True)
    wall, processor = time.perf_counter(), time.process_time()
    compute(*inputs).backward(upstream)
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    extra = peak_memory() - before
    if head == "trained":
        extra -= inputs[1].numel() * inputs[1].element_size()
    return {"seconds": wall, "processor": processor, "mib": extra / 2**20}


def check(head: str, size: dict[str, int]) -> dict[str, float]:
    """Largest error of 16 rows' values and gradients, relative to the largest entry of the float64 reference."""
    inputs = problem(size, head == "trained", rows=16)
    exact = [
        x.detach().double().requires_grad_(x.requires_grad) if x.is_floating_point() else x for x in inputs
    ]
    found, expected = ours(*inputs), plain(*exact)
    found.sum().backward()
    expected.sum().backward()
    pairs = {"values": (found.detach(), expected.detach()), "d_hidden": (inputs[0].grad, exact[0].grad)}
    if head == "trained":
        pairs["d_weight"] = (inputs[1].grad, exact[1].grad)
    return {name: float((a.double() - b).abs().max() / b.abs().max()) for name, (a, b) in pairs.items()}


def in_a_process(job: list[str], size: dict[str, int], threads: int) -> dict[str, float]:
    """Run `measure` or `check` in a fresh interpreter; threads sleep while they wait, which a busy machine needs."""
    command = [sys.executable, str(Path(__file__).resolve()), "--job", *job, "--size", json.dumps(size)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--json", type=Path, metavar="OUT", help="file for the rows (benchmarks/results/cpu.json)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="small; not held to targets; kept only with --json"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--job", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--size", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.job:
        method, head = args.job
        print(json.dumps(check(head, args.size) if method == "check" else measure(method, head, args.size)))
        return 0

    import torch

    size = QUICK if args.quick else FULL
    shape = f"{size['rows']} tokens x {size['vocab']} vocabulary x {size['width']}, fp32"
    shape += f", {args.threads} threads"
    print(f"{shape}, {size['repeats']} runs each", flush=True)
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    rows = []
    for head, (seconds_to_reach, memory_to_reach) in TO_REACH.items():
        errors = in_a_process(["check", head], size, args.threads)
        words = ", ".join(f"{name} {error:.1e}" for name, error in errors.items())
        print(f"{head}: relative error against float64: {words}", flush=True)
        if max(errors.values()) > 1e-4:
            print("not measured: the numbers are wrong", flush=True)
            return 1
        runs: dict[str, list[dict[str, float]]] = {"ours": [], "plain": []}
        for i in range(size["repeats"]):
            for method in runs:
                found = in_a_process([method, head], size, args.threads)
                runs[method].append(found)
                words = f"{found['seconds']:.1f} s, {found['processor']:.1f} s of processor, {found['mib']:.0f} MiB"
                print(f"{head} {method:5} {i + 1}/{size['repeats']}: {words}", flush=True)
        for key, unit, to_reach in (("seconds", "s", seconds_to_reach), ("mib", "MiB", memory_to_reach)):
            a, b = (statistics.median(run[key] for run in runs[method]) for method in ("ours", "plain"))
            what = "time" if key == "seconds" else "extra peak memory"
            name = f"logprobs, {head} head, forward + backward, {what} ({shape})"
            rows.append(_report.row(name, a, b, unit, to_reach, versions))
    for r in rows:
        verdict = "" if args.quick else "reached" if _report.reached(r) else "NOT reached"
        numbers = f"{r['ours']} against {r['peer']} {r['unit']}"
        print(f"{r['ratio']:>8} {r['to_reach']:>10} {verdict:12} {r['name']}: {numbers}")
    path = args.json or (None if args.quick else _report.RESULTS / "cpu.json")
    if path:
        _report.update(path, rows)
        print(f"written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
