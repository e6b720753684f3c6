"""How many completions a second each reward scores, those that are offered by name.

A batch is made of the reward's own golden set, right, wrong and exploits, over and over; one thread, the median of
several batches. Some rewards remember what they have seen (maths, code), so the cost of a completion at first sight is
measured as well, once. There is no peer: a training step scores some hundred new completions, and the table says
which rewards it would have to wait for. (`correct_maths` comes first and reads the formulas for its siblings.)

    python -m benchmarks.rewards [--quick] [--only TEXT] [--json benchmarks/results/rewards.json]
"""

from __future__ import annotations

import argparse
import inspect
import json
import platform
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

from benchmarks import _report

BATCH, ROUNDS, SECONDS = 1024, 5, 1.0  # completions, batches at least, seconds at least
A_STEP = 512  # completions, of a large one


def measured(name: str, batch: int, rounds: int, seconds: float) -> dict[str, Any]:
    """One reward's row."""
    from rlkit import rewards
    from rlkit.rewards import registry
    from rlkit.rewards.calls import RewardCaller

    golden = registry.offers().golden[name]
    examples = [*golden.right, *golden.wrong, *golden.exploits]
    columns = examples[0].columns.keys()
    chosen = [example for example in examples if example.columns.keys() == columns]
    rows = (chosen * (batch // len(chosen) + 1))[:batch]
    given = {
        "prompts": [row.prompt for row in rows],
        "completions": [row.completion for row in rows],
        "completion_ids": [[0] * (len(row.completion) // 4 + 1) for row in rows],
        **{key: [row.columns[key] for row in rows] for key in columns},
    }
    call = RewardCaller()
    reward = rewards.resolve(name)
    call([reward], {key: values[:1] for key, values in given.items()}, "a benchmark")  # imports, workers
    start = time.perf_counter()
    call([reward], {key: values[1 : len(chosen)] for key, values in given.items()}, "a benchmark")
    at_first_sight = (time.perf_counter() - start) / (len(chosen) - 1)
    speeds: list[float] = []
    end = time.perf_counter() + seconds
    while len(speeds) < rounds or (seconds and time.perf_counter() < end):
        start = time.perf_counter()
        call([reward], given, "a benchmark")
        speeds.append(batch / (time.perf_counter() - start))
    speed = statistics.median(speeds)
    return {
        "name": name,
        "completions_per_second": _report._short(speed),
        "seconds_a_step": _report._short(A_STEP * at_first_sight),
        "characters": round(statistics.mean(len(row.completion) for row in rows)),
    }


def usable(name: str) -> bool:
    """Whether a reward has a golden set, and can be had without settings."""
    from rlkit.rewards import registry

    if name not in registry.offers().golden:
        return False
    if name in registry.offers().functions:
        return True
    parameters = inspect.signature(registry.offers().factories[name]).parameters.values()
    return all(p.default is not p.empty or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters)


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as text, the slowest last."""
    width = max(len(row["name"]) for row in rows)
    lines = [f"{'':{width}} {'completions/s':>14} {f's for {A_STEP} new':>14} {'characters':>11}"]
    for row in sorted(rows, key=lambda row: -row["completions_per_second"]):
        lines.append(
            f"{row['name']:{width}} {row['completions_per_second']:>14,.0f} {row['seconds_a_step']:>14.3g} "
            f"{row['characters']:>11}"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.rewards",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="file for the rows (results/rewards.json)")
    parser.add_argument("--quick", action="store_true", help="everything once, small, to a scratch file")
    parser.add_argument("--only", metavar="TEXT", default="", help="only what has TEXT in its name")
    options = parser.parse_args()

    from rlkit import rewards

    warnings.simplefilter("ignore")
    size: tuple[int, int, float] = (64, 1, 0.0) if options.quick else (BATCH, ROUNDS, SECONDS)
    rows = [measured(name, *size) for name in rewards.names() if options.only in name and usable(name)]
    if not rows:
        sys.exit(f"no reward has {options.only!r} in its name; there are {', '.join(rewards.names())}")
    print(table(rows))
    path = options.json or _report.RESULTS / "rewards.json"
    if options.quick and not options.json:
        path = Path(tempfile.mkdtemp(prefix="rlkit-bench-")) / "rewards.json"
    old = json.loads(path.read_text())["rows"] if path.exists() else []
    kept = {row["name"]: row for row in [*old, *rows] if row["name"] in rewards.names()}
    content = {
        "device": "cpu",
        "machine": _report.machine("cpu"),
        "python": platform.python_version(),
        "rows": [kept[name] for name in sorted(kept)],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    print(f"written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
