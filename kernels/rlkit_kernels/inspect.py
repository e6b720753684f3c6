"""Compiles every kernel for every chip, without one, and holds what comes out to limits.

    python -m rlkit_kernels.inspect [--arch 75 80 89 90 100] [--only TEXT] [--json OUT] [--record]

Each `Variant` is compiled in two forms, because Triton specialises on the arguments that it sees: `aligned` has
pointers and integers that are multiples of 16 (hidden sizes and vocabularies of real models), `odd` has aligned
pointers only (PyTorch's allocations always are). Registers and local memory are those that `cuobjdump` reads from
the machine code, shared and tensor memory those that Triton asks for at launch. The status is 1 if a variant

- does not compile,
- spills: any local memory at all,
- asks for more shared memory than a block of that chip may have, or for more than 512 columns of tensor memory,
- needs more registers or shared memory than `kernels/limits.json` records for it, or is not recorded,
- or if a module autotunes over a configuration that is not among its variants.

`--record` rewrites the records of what passes. Needs no GPU and no CUDA: `ptxas` and `cuobjdump` are in Triton's
wheel.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pkgutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import rlkit_kernels
from rlkit_kernels.compilation import CHIPS, Measured, jit_function, measure
from rlkit_kernels.variants import Variant, interpreting

NO_KERNELS = ("rlkit_kernels.inspect", "rlkit_kernels.compilation", "rlkit_kernels.variants")
LIMITS = Path(__file__).resolve().parent.parent / "limits.json"
TENSOR_COLUMNS = 512  # of tensor memory, in a block of a data-centre Blackwell


# ---------------------------------------------------------------------- what there is to compile


def modules() -> list[str]:
    """The modules of this package that define `variants`."""
    names = [f"{__package__}.{found.name}" for found in pkgutil.iter_modules(rlkit_kernels.__path__)]
    return [n for n in names if n not in NO_KERNELS and _defines_variants(importlib.import_module(n))]


def _defines_variants(module: Any) -> bool:
    return getattr(getattr(module, "variants", None), "__module__", None) == module.__name__


def collect(names: list[str]) -> tuple[list[Variant], list[str]]:
    """All variants of these modules, and what is wrong with the lists."""
    found: list[Variant] = []
    wrong: list[str] = []
    for name in names:
        module = importlib.import_module(name)
        own = list(module.variants())
        wrong += [f"{name}: {text}" for text in _untold(module, own)]
        found += own
    every = [variant.name for variant in found]
    wrong += [f"two variants are called {name!r}" for name in sorted(set(every)) if every.count(name) > 1]
    return found, wrong


def _untold(module: Any, own: list[Variant]) -> Iterator[str]:
    """Configurations of the module's autotuned kernels that none of its variants has."""
    for label, kernel in vars(module).items():
        for config in getattr(kernel, "configs", ()) if hasattr(kernel, "fn") else ():
            told = any(
                jit_function(v.kernel) is jit_function(kernel)
                and (v.num_warps, v.num_stages) == (config.num_warps, config.num_stages)
                and config.kwargs.items() <= v.constants.items()
                for v in own
            )
            if not told:
                yield f"{label} may choose {config}, which no variant has"


# ---------------------------------------------------------------------- limits


def faults(found: Measured) -> list[str]:
    """What is wrong with it, whatever is recorded."""
    chip = CHIPS[found.arch]
    if found.error:
        return [found.error]
    wrong = []
    if found.local:
        wrong.append(f"spills: {found.local} bytes of local memory a thread")
    if found.shared > chip.block_shared:
        wrong.append(f"{found.shared} bytes of shared memory, a block of this chip has {chip.block_shared}")
    if found.columns > TENSOR_COLUMNS:
        wrong.append(f"{found.columns} columns of tensor memory, a block has {TENSOR_COLUMNS}")
    return wrong


def worst(found: list[Measured]) -> dict[str, dict[str, list[int]]]:
    """variant → chip → [registers, shared bytes], the larger of the two forms; without what has faults."""
    most: dict[str, dict[str, list[int]]] = {}
    bad = {(m.name, m.arch) for m in found if faults(m)}
    for m in found:
        if (m.name, m.arch) not in bad:
            old = most.setdefault(m.name, {}).get(str(m.arch), [0, 0])
            most[m.name][str(m.arch)] = [max(old[0], m.registers), max(old[1], m.shared)]
    return most


def growth(now: dict[str, dict[str, list[int]]], recorded: dict[str, dict[str, list[int]]]) -> list[str]:
    """What needs more than its record says, or has none."""
    wrong = []
    for name, chips in now.items():
        for arch, sizes in chips.items():
            record = recorded.get(name, {}).get(arch)
            if record is None:
                wrong.append(f"{name}, sm_{arch}: not recorded")
                continue
            for what, size, limit in zip(("registers", "bytes of shared memory"), sizes, record, strict=True):
                if size > limit:
                    wrong.append(f"{name}, sm_{arch}: {size} {what}, {limit} are recorded")
    return wrong


def _write_limits(path: Path, version: str, limits: dict[str, dict[str, list[int]]]) -> None:
    """One line a variant, so that a change shows in a diff."""
    lines = ",\n".join(f"    {json.dumps(name)}: {json.dumps(limits[name])}" for name in sorted(limits))
    head = json.dumps("variant -> sm -> [registers a thread, bytes of shared memory a block]")
    path.write_text(
        f'{{\n  "is": {head},\n  "triton": {json.dumps(version)},\n  "limits": {{\n{lines}\n  }}\n}}\n'
    )


# ---------------------------------------------------------------------- table and command line


def table(found: list[Measured]) -> str:
    """One line for each variant and chip; where the two forms differ, `aligned/odd`."""
    head = ("variant", "chip", "registers", "local", "shared", "of", "warps/SM", "matrix unit")
    lines = [head]
    groups: dict[tuple[str, int], list[Measured]] = {}
    for m in found:
        groups.setdefault((m.name, m.arch), []).append(m)
    for (name, arch), forms in groups.items():
        if all(m.error for m in forms):
            cells = ["-"] * 4 + [""] * 2
        else:
            picks = ("registers", "local", "shared", "", "resident", "unit")
            cells = [
                _both([getattr(m, pick) for m in forms]) if pick else f"{CHIPS[arch].block_shared}"
                for pick in picks
            ]
        lines.append((name, f"sm_{arch}", *cells))
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    right = {2, 3, 4, 5, 6}
    return "\n".join(
        "  ".join(
            c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(line, widths))
        ).rstrip()
        for line in lines
    )


def _both(values: list[Any]) -> str:
    texts = [str(value) or "-" for value in values]
    return texts[0] if len(set(texts)) == 1 else "/".join(texts)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m rlkit_kernels.inspect",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--arch", nargs="+", type=int, choices=list(CHIPS), default=list(CHIPS), metavar="SM")
    parser.add_argument("--only", metavar="TEXT", default="", help="variants with TEXT in their name")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write all figures to this file")
    parser.add_argument("--record", action="store_true", help="make what was found the limits")
    parser.add_argument("--limits", type=Path, default=LIMITS, metavar="FILE", help="kernels/limits.json")
    parser.add_argument("--module", nargs="+", metavar="NAME", help="kernel modules (all)")
    parser.add_argument("--jobs", type=int, default=min(8, os.cpu_count() or 1), metavar="N")
    args = parser.parse_args(arguments)
    if interpreting():
        parser.error("TRITON_INTERPRET is set: nothing would be compiled")

    import triton

    os.environ.setdefault(
        "TRITON_DEFAULT_FP_FUSION", "1"
    )  # as at run time in Triton 3.9, without its warning
    variants, wrong = collect(args.module or modules())
    variants = [variant for variant in variants if args.only in variant.name]
    if not variants:
        print(f"no variant has {args.only!r} in its name" if args.only else "no kernel module has a variant")
        return 1
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TRITON_CACHE_DIR"] = folder
        found = list(measure(variants, args.arch, args.jobs))
    print(table(found))

    wrong += [f"{m.name}, sm_{m.arch}, {m.form}: {fault}" for m in found for fault in faults(m)]
    now = worst(found)
    old: dict[str, Any] = json.loads(args.limits.read_text()) if args.limits.exists() else {}
    recorded: dict[str, dict[str, list[int]]] = old.get("limits", {})
    if args.record:
        whole = not args.only and set(args.arch) == set(CHIPS)
        kept = {} if whole else recorded
        _write_limits(
            args.limits, triton.__version__, kept | {n: kept.get(n, {}) | chips for n, chips in now.items()}
        )
    elif old.get("triton", triton.__version__) == triton.__version__:
        wrong += growth(now, recorded)
        if not args.only:
            names = {variant.name for variant in variants}
            wrong += [f"{name}: recorded, but there is no such variant" for name in recorded.keys() - names]
    else:
        print(f"Not held to the records, which are Triton {old['triton']}'s; this is {triton.__version__}.")
    if args.json:
        args.json.write_text(json.dumps([m._asdict() for m in found], indent=1) + "\n")
    print(f"\n{len(variants)} variants, {len(found)} compilations, {len(wrong)} faults")
    for text in wrong:
        print(f"FAULT: {text}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
