"""The table that all benchmarks write to: results/<device>.json, one row a measurement.

A row says what was measured, our number and the peer's in the same unit, ours divided by the peer's, what that
ratio is to reach, and the versions that ran. Running a benchmark again replaces the rows of the same name only.
"""

from __future__ import annotations

import json
import os
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def row(
    name: str, ours: float, peer: float, unit: str, to_reach: str, versions: dict[str, str]
) -> dict[str, Any]:
    """One measurement; ``to_reach`` is text such as "<= 0.7" and speaks of ``ratio`` = ours / peer."""
    numbers = {"ours": _short(ours), "peer": _short(peer), "unit": unit, "ratio": _short(ours / peer)}
    return {"name": name, **numbers, "to_reach": to_reach, "versions": versions}


def reached(measured: dict[str, Any]) -> bool:
    """Does a row's ratio meet its own ``to_reach``?"""
    sign, bound = measured["to_reach"].split()
    ratio = float(measured["ratio"])
    return ratio <= float(bound) if sign == "<=" else ratio >= float(bound)


def results_path(device: str) -> Path:
    """``results/cpu.json``, or of a GPU its name: ``results/nvidia-h100-80gb-hbm3.json``."""
    from rlkit.environment import device_name

    name = "cpu" if device == "cpu" else device_name(device)
    return RESULTS / f"{re.sub('[^a-z0-9]+', '-', name.lower()).strip('-')}.json"


def machine(device: str) -> str:
    """The device in words, and a CPU's memory: ``"Intel(R) Xeon(R) Processor, 2 cores, 24 GiB"``."""
    from rlkit.environment import device_name

    name = device_name(device)
    if device != "cpu" or not hasattr(os, "sysconf"):
        return name
    return f"{name}, {os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB"


def update(path: Path, rows: list[dict[str, Any]], device: str = "cpu") -> None:
    """Merge rows, and the machine that they were measured on, into the file at ``path``."""
    old: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    kept = {r["name"]: r for r in old.get("rows", [])}
    kept |= {r["name"]: r for r in rows}
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "device": device,
        "machine": machine(device),
        "torch": version("torch"),
        "rows": [kept[name] for name in sorted(kept)],
    }
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def markdown_table(path: Path) -> str:
    """The rows of a results file as a table, as the README shows them, below the machine."""
    found = json.loads(path.read_text())
    lines = [
        f"{found['machine']}, torch {found['torch']}:",
        "",
        "| what | ours | peer | ratio | to reach |",
        "|---|---|---|---|---|",
    ]
    for r in found["rows"]:
        mark = "✓" if reached(r) else "✗"
        lines.append(
            f"| {r['name']} | {r['ours']:g} {r['unit']} | {r['peer']:g} {r['unit']} | {r['ratio']:g} {mark} | "
            f"{r['to_reach']} |"
        )
    return "\n".join(lines)


def _short(value: float) -> float:
    return float(f"{value:.4g}")
