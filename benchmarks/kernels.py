"""The Triton log-probability kernels on a GPU, side by side with what else there is.

First correctness: against float64 on fresh random inputs, with sure rows among them and memory poisoned with NaN; at
the timed size once more, on a sample of rows. A side of ours that is wrong is not timed. Then medians from device
events, the sides taking turns, of one forward and backward (`scored`: forward alone, no gradients):

    ours       rlkit_kernels.linear_logprob
    plain      log_softmax(hidden @ W.T) and a gather, in torch
    compiled   the same under torch.compile
    liger      LigerFusedLinearGRPOLoss, where liger_kernel is installed
    chunked    rlkit.logprob_tiles, the form of ours that is all torch

Memory is the allocator's peak above what was there before, less the gradients that the step returns. The peak that
shares refer to is the fastest matmul of this run in the same type, and the flops that are counted are 4 N V H for a
frozen head (8 and 2 where it is trained or only scored), whatever a side really does.

    python benchmarks/kernels.py --json benchmarks/results/kernels-h100.json [--minutes 9]
    python benchmarks/kernels.py --quick [--interpret]     small, anywhere; held to no target

Needs torch and Triton only. What has been measured at the same commit on the same device stays in the file, so that
several runs (--heads, --models, --rows) fill one table; `--table FILE` prints it.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
# Not this folder: `import kernels` (transformers looks for Hugging Face's) would find this file.
sys.path[:] = [str(ROOT), str(ROOT / "kernels")] + [p for p in sys.path if Path(p) != ROOT / "benchmarks"]

from benchmarks import _kernel_report  # noqa: E402
from benchmarks._kernel_report import HEADS, SIDES  # noqa: E402


class Model(NamedTuple):
    model: str
    vocab: int
    width: int


MODELS = [
    Model("Qwen2.5-0.5B", 151_936, 896),
    Model("Qwen2.5-1.5B", 151_936, 1536),
    Model("Llama-3.1-8B", 128_256, 4096),
    Model("Gemma-3-1B", 262_144, 1152),
    Model("Gemma-3-4B", 262_144, 2560),
]
ROWS = [4096, 16_384, 163_840]  # the last: 8 completions of 20k tokens
TINY = Model("tiny", 203, 24)  # for a CPU, and for the interpreter there
SMALL = Model("small", 32_771, 520)

CHECK_ROWS = 4133  # beyond any tile of rows, and a multiple of none
SAMPLE = 64  # rows that are checked at the timed size
TOLERANCE = {  # of values and of gradients, relative; where 1 - p is 1e-5, fp32 rounds the logit 25 by 1e-6 a step
    "float32": (1e-5, 2e-5),
    "bfloat16": (1e-3, 1e-2),
    "float16": (1e-3, 1e-2),
}
CELL_SECONDS = 5.0  # of timed runs in a cell, all sides together
RUNS = (3, 15)  # at least, at most


class Machine(NamedTuple):
    """The device, its clock, and its allocator."""

    kind: str  # "cuda" or "cpu"

    def milliseconds(self, work: Callable[[], Any]) -> float:
        import torch

        if self.kind == "cpu":
            start = time.perf_counter()
            work()
            return 1000 * (time.perf_counter() - start)
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        before.record()
        work()
        after.record()
        torch.cuda.synchronize()
        return float(before.elapsed_time(after))

    def extra_bytes(self, work: Callable[[], tuple[Any, ...]]) -> int | None:
        """Peak above what is allocated now, less what the work returns."""
        import torch

        if self.kind == "cpu":
            return None
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        result = work()
        torch.cuda.synchronize()
        given = sum(x.numel() * x.element_size() for x in result)
        return torch.cuda.max_memory_allocated() - before - given

    def clear(self) -> None:
        import torch

        gc.collect()
        if self.kind == "cuda":
            torch.cuda.empty_cache()

    def peak_tflops(self, dtype: Any, quick: bool) -> float:
        """The fastest of three matmuls, medians; random inputs, since zeros let the clock run higher."""
        import torch

        best = 0.0
        shapes = (
            [(256, 256, 256)] if quick else [(8192, 8192, 8192), (16_384, 8192, 4096), (16_384, 16_384, 2048)]
        )
        for n, m, k in shapes:
            a = torch.randn(n, k, device=self.kind, dtype=dtype)
            b = torch.randn(m, k, device=self.kind, dtype=dtype)
            times = [self.milliseconds(lambda a=a, b=b: a @ b.T) for _ in range(13)][3:]  # type: ignore[misc]
            best = max(best, 2 * n * m * k / statistics.median(times) / 1e9)
        return best


# ---------------------------------------------------------------------- one check, one cell


def wrong(found: dict[str, float], dtype: str) -> bool:
    values, gradients = TOLERANCE[dtype]
    return any(not error <= (values if name == "values" else gradients) for name, error in found.items())


def check(model: Model, head: str, options: Any, machine: Machine) -> tuple[list[dict[str, Any]], bool]:
    """Errors of every side on fresh inputs, and whether ours are within the tolerance."""
    from benchmarks import _kernel_sides as k

    rows = options.check_rows
    seed = int.from_bytes(os.urandom(4), "little")
    p = k.problem(rows, *model[1:], head, options.torch_dtype, machine.kind, seed, peaked=True)
    report, right = [], True
    for side in k.sides(options.sides)[0]:
        if side.name in ("compiled", "liger") or (side.logprobs is None and head == "scored"):
            continue  # plain torch speaks for its compiled form; both are compared at the timed size
        found = k.errors(side, p)
        bad = side.name == "ours" and wrong(found, options.dtype)
        right &= not bad
        text = f"{rows} rows, seed {seed}: {_kernel_report.say(found)}{' WRONG' * bad}"
        print(f"  {side.name:8} against float64, {text}", flush=True)
        report.append(
            {"model": model.model, "head": head, "rows": rows, "seed": seed, "side": side.name} | found
        )
    machine.clear()
    return report, right


def cell(model: Model, head: str, rows: int, options: Any, machine: Machine) -> dict[str, Any]:
    """Time, memory and sampled errors of every side at one size."""
    import torch

    from benchmarks import _kernel_sides as k

    torch._dynamo.reset()
    able, missing = k.sides(options.sides)
    done: dict[str, Any] = {name: {"left_out": why} for name, why in missing.items()}
    p = k.problem(rows, *model[1:], head, options.torch_dtype, machine.kind, seed=rows)
    ends = torch.tensor([0, 1, rows - 1], device=machine.kind)
    sample = torch.cat((ends, torch.randint(0, rows, (SAMPLE,), device=machine.kind)))

    def once(side: Any) -> Callable[[], tuple[Any, ...]]:
        return lambda: k.step(side, p)

    ready: list[Any] = []
    spent = 0.0
    for side in able:
        if head == "scored" and side.logprobs is None:
            done[side.name] = {"left_out": "has no forward of its own"}
            continue
        try:
            found = k.errors(side, p, sample)  # the first warm-up too
            machine.clear()
            extra = machine.extra_bytes(once(side))
            spent += 0 if options.quick else machine.milliseconds(once(side))
        except torch.OutOfMemoryError:
            done[side.name] = {"left_out": "does not fit into this device's memory"}
        except Exception as error:  # a peer that breaks must not end the run
            if side.name == "ours":
                raise
            done[side.name] = {"left_out": f"failed: {type(error).__name__}: {str(error).strip()[:200]}"}
        else:
            if side.name == "ours" and wrong(found, options.dtype):
                done[side.name] = {"left_out": f"WRONG: {_kernel_report.say(found)}"}
                continue
            done[side.name] = {"extra_mb": None if extra is None else extra / 1e6, "errors": found, "ms": []}
            ready.append(side)
        finally:
            machine.clear()

    runs = 1 if options.quick else min(RUNS[1], max(RUNS[0], int(1000 * CELL_SECONDS / max(spent, 1e-3))))
    for turn in range(runs if ready else 0):
        first = turn % len(ready)
        for side in ready[first:] + ready[:first]:
            done[side.name]["ms"].append(machine.milliseconds(once(side)))
    for side in ready:
        times = done[side.name]["ms"]
        spread = {"least": min(times), "most": max(times), "runs": runs}
        done[side.name] |= {"ms": statistics.median(times)} | spread
    return model._asdict() | {"rows": rows, "head": head, "sides": done}


def describe(options: Any, machine: Machine) -> dict[str, Any]:
    import torch

    from benchmarks import _kernel_sides as k
    from rlkit.environment import device_name

    about: dict[str, Any] = {"device": device_name(machine.kind), "dtype": options.dtype}
    if machine.kind == "cuda":
        properties = torch.cuda.get_device_properties(0)
        about |= {"capability": f"sm_{properties.major}{properties.minor}"}
        about |= {"memory_gib": round(properties.total_memory / 2**30, 1)}
    return about | {"commit": options.commit or _kernel_report.commit(), "versions": k.versions()}


# ---------------------------------------------------------------------- command line


def parse(arguments: list[str] | None) -> Any:
    parser = argparse.ArgumentParser(
        prog="benchmarks/kernels.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [model.model for model in MODELS]
    parser.add_argument(
        "--json", type=Path, metavar="OUT", help="file for the figures; written after every size"
    )
    parser.add_argument("--quick", action="store_true", help="everything once, small")
    parser.add_argument("--minutes", type=float, default=30.0, help="start no new size after this long (30)")
    parser.add_argument(
        "--models", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names)
    )
    parser.add_argument("--rows", nargs="+", type=int, default=ROWS, metavar="N")
    parser.add_argument("--heads", nargs="+", choices=list(HEADS), default=list(HEADS))
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=None)
    parser.add_argument(
        "--dtype", choices=list(TOLERANCE), help="default: bfloat16; float16 before sm_80; CPU: float32"
    )
    parser.add_argument(
        "--interpret", action="store_true", help="without a GPU: ours under Triton's interpreter"
    )
    parser.add_argument("--commit", metavar="HASH", help="where there is no git to ask")
    parser.add_argument(
        "--table", type=Path, metavar="FILE", help="print the table of a result file and stop"
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    if options.table:
        print(_kernel_report.table(json.loads(options.table.read_text())))
        return 0
    if options.interpret:
        os.environ["TRITON_INTERPRET"] = "1"

    import torch

    start = time.perf_counter()
    machine = Machine("cuda" if torch.cuda.is_available() else "cpu")
    if machine.kind == "cpu" and not options.quick:
        print("No GPU: nothing is measured. --quick tries the command out.")
        return 0
    if options.sides is None:
        options.sides = (
            SIDES if machine.kind == "cuda" else ["ours"] * options.interpret + ["plain", "chunked"]
        )
    if options.dtype is None:
        modern = machine.kind == "cuda" and torch.cuda.get_device_capability() >= (8, 0)
        options.dtype = "float32" if machine.kind == "cpu" else "bfloat16" if modern else "float16"
    options.torch_dtype = getattr(torch, options.dtype)
    models = [model for model in MODELS if model.model in options.models]
    rows = options.rows
    if options.quick:
        models, rows = ([TINY], [16]) if machine.kind == "cpu" else ([SMALL], [2048])
    options.check_rows = min(CHECK_ROWS, rows[0] + 1) if options.quick else CHECK_ROWS

    about = describe(options, machine)
    print(", ".join(f"{key} {value}" for key, value in about.items()), flush=True)
    peak = machine.peak_tflops(options.torch_dtype, options.quick)
    checks: list[dict[str, Any]] = []
    cells: list[dict[str, Any]] = []
    content = about | {"cells": [], "checks": [], "targets": []}
    correct, late = True, 0
    for head in options.heads:
        right = {}
        for count in rows:
            for model in models:
                if (time.perf_counter() - start) / 60 > options.minutes:
                    late += 1
                    continue
                print(f"{model.model} ({model.vocab} x {model.width}), {count} rows, {head}:", flush=True)
                if model not in right:
                    try:
                        report, right[model] = check(model, head, options, machine)
                    except torch.OutOfMemoryError:
                        print(
                            "  not timed: float64 does not fit into this device's memory, so nothing was checked"
                        )
                        continue
                    checks += report
                if not right[model]:
                    print("  not timed: ours is wrong")
                    continue
                cells.append(cell(model, head, count, options, machine))
                peak = max(peak, machine.peak_tflops(options.torch_dtype, options.quick))
                _kernel_report.add_shares(cells, peak)
                for name, side in cells[-1]["sides"].items():
                    print(f"  {name:8} {_kernel_report.words(side)}", flush=True)
                if options.json:
                    content = _kernel_report.merge(options.json, about, checks, cells)
                    _kernel_report.write(options.json, content)
        correct &= all(right.values())
    correct &= not any("WRONG" in c["sides"].get("ours", {}).get("left_out", "") for c in cells)

    print(f"\nmatmul peak in this run: {peak:.4g} TFLOP/s, {options.dtype}")
    if late:
        print(f"{late} sizes left out: {options.minutes:g} minutes were over")
    held = "H100" in about["device"] and not options.quick
    if not held:
        print("held to no target: they are for an H100 at full size")
    for target in _kernel_report.judge(cells) if held else []:
        verdict = "met" if target["met"] else "MISSED"
        print(
            f"{verdict:6} {target['what']}: {target['found']:.3g} ({target['to_reach']}), {target['where']}"
        )
    if options.json and cells:
        print(f"written to {options.json}, {time.perf_counter() - start:.0f} s in all")
    return 0 if correct else 1


if __name__ == "__main__":
    sys.exit(main())
