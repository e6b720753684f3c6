"""What `benchmarks.kernels` makes of its figures: shares, targets, the result file and its table."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
HEADS = {"frozen": 4, "trained": 8, "scored": 2}  # and the flops, in N V H, that the method needs
SIDES = ["ours", "plain", "compiled", "liger", "chunked"]
COMPARED = 151_936 * 1536  # V H from which on compiled torch must be slower: "from 1.5B up"
TO_REACH = {"share": 0.55, "liger": 1.4, "compiled": 1.0, "extra_mb": 256.0}


def say(found: dict[str, float]) -> str:
    return ", ".join(f"{name} {error:.1e}" for name, error in found.items())


def words(side: dict[str, Any]) -> str:
    if "ms" not in side:
        return f"left out: {side['left_out']}"
    memory = "" if side["extra_mb"] is None else f", {side['extra_mb']:,.0f} MB extra"
    spread = f"{side['least']:.4g} to {side['most']:.4g}, {side['runs']} runs"
    return f"{side['ms']:.4g} ms ({spread}), {side['share']:.0%} of peak{memory}; {say(side['errors'])}"


def add_shares(cells: list[dict[str, Any]], peak: float) -> None:
    """Share of the run's peak that each side reaches, by the flops that the method needs."""
    for c in cells:
        c["peak_tflops"] = peak
        flops = HEADS[c["head"]] * c["rows"] * c["vocab"] * c["width"]
        for side in c["sides"].values():
            if "ms" in side:
                side["share"] = flops / (side["ms"] * 1e9) / peak


def judge(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every target at every size where both numbers are there. They are meant for an H100."""
    found = []

    def add(c: dict[str, Any], what: str, value: float, sign: str, bound: float) -> None:
        met = value >= bound if sign == ">=" else value > bound if sign == ">" else value <= bound
        where = f"{c['model']}, {c['rows']} rows, {c['head']}"
        found.append(
            {"what": what, "where": where, "found": value, "to_reach": f"{sign} {bound:g}", "met": met}
        )

    for c in cells:
        ours = c["sides"].get("ours", {})
        if "ms" not in ours:
            continue
        faster = {name: side["ms"] / ours["ms"] for name, side in c["sides"].items() if "ms" in side}
        if c["head"] == "frozen":
            add(c, "share of the matmul peak", ours["share"], ">=", TO_REACH["share"])
            if "liger" in faster:
                add(c, "times as fast as Liger", faster["liger"], ">=", TO_REACH["liger"])
        if "compiled" in faster and c["head"] != "scored" and c["vocab"] * c["width"] >= COMPARED:
            add(c, "times as fast as compiled torch", faster["compiled"], ">", TO_REACH["compiled"])
        if ours["extra_mb"] is not None:
            add(c, "extra memory, MB", ours["extra_mb"], "<=", TO_REACH["extra_mb"])
    return found


def commit() -> str:
    """Of the repository, with "+" if the files that are measured differ from it; "unknown" without git."""
    try:
        name = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        files = ["kernels", "benchmarks/kernels.py", "benchmarks/_kernel_sides.py", "rlkit/logprob_tiles.py"]
        command = ["git", "status", "--porcelain", "--", *files]
        changed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return name.stdout.strip() + "+" * bool(changed.stdout.strip())


def merge(path: Path, about: dict[str, Any], checks: list[Any], cells: list[Any]) -> dict[str, Any]:
    """With what the file holds of the same commit, device, type and versions; anything else in it is dropped.

    Everything is, if there is no commit that says what was measured.
    """
    old: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    nameless = about["commit"] == "unknown" or about["commit"].endswith("+")
    if nameless or any(old.get(key) != value for key, value in about.items()):
        old = {}

    def place(x: dict[str, Any]) -> tuple[Any, ...]:
        return x["model"], x["rows"], x["head"], x.get("side")

    every = {place(x): x for x in old.get("cells", []) + cells}
    checked = {place(x): x for x in old.get("checks", []) + checks}
    cells = list(every.values())
    return about | {"cells": cells, "checks": list(checked.values()), "targets": judge(cells)}


def write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_short(content), indent=1, ensure_ascii=False) + "\n")


def _short(value: Any) -> Any:
    """Four digits are more than a benchmark knows."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _short(x) for key, x in value.items()}
    return [_short(x) for x in value] if isinstance(value, list) else value


def table(content: dict[str, Any]) -> str:
    """Markdown: one row a size, milliseconds and extra memory of each side."""
    names = [name for name in SIDES if any(name in c["sides"] for c in content["cells"])]
    lines = [
        f"{content['device']}, {content['dtype']}, commit {content['commit'][:12]}, "
        + ", ".join(f"{name} {version}" for name, version in content["versions"].items() if version)
        + ":",
        "",
        "| model | rows | head | "
        + " | ".join(f"{name}, ms (extra MB)" for name in names)
        + " | share of peak |",
        "|---" * (len(names) + 4) + "|",
    ]
    for c in content["cells"]:
        texts = []
        for name in names:
            side = c["sides"].get(name, {})
            extra = side.get("extra_mb")
            memory = "" if extra is None else f" ({extra:,.0f})"
            texts.append(f"{side['ms']:.4g}{memory}" if "ms" in side else "-")
        share = c["sides"].get("ours", {}).get("share")
        texts.append("-" if share is None else f"{share:.0%}")
        lines.append(f"| {c['model']} | {c['rows']:,} | {c['head']} | " + " | ".join(texts) + " |")
    return "\n".join(lines)
