"""Runs to show: small copies with their provenance, and the three that come with the package.

``pack`` makes a run small enough to be handed on: every number of every step, the settings, the summary, and the
completions of as many steps as there is room for. ``provenance.json`` beside them says what was trained on what, with
which versions and commit, and holds the SHA-256 of every file, so that whoever shows the run can check that it is the
one that was recorded.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import time
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from rlkit.errors import ConfigError, bad_value, unknown_name
from rlkit.runs import schema
from rlkit.runs.reader import Run

PROVENANCE = "provenance.json"
LIMIT = 2_000_000  # bytes of a packed run
MOST_STEPS = 24  # whose completions are kept
ASSETS = Path(__file__).resolve().parent.parent / "assets" / "runs"


def recorded(name: str | None = None) -> Any:
    """The recorded runs that come with the package.

    Args:
        name: one of them, e.g. ``"demo"``; None: all.

    Returns:
        A ``Run``; without a name a dict from name to ``Run``.

    Raises:
        ConfigError: there is no recording of that name.

    >>> runs.recorded("demo").evals[-1]["accuracy_greedy"]
    """
    if name is None:
        return {path.parent.name: Run(path.parent) for path in sorted(ASSETS.glob(f"*/{schema.CONFIG}"))}
    return Run(recorded_path(name))


def recorded_names() -> list[str]:
    """Names of the recorded runs."""
    return sorted(path.parent.name for path in ASSETS.glob(f"*/{schema.CONFIG}"))


def recorded_path(name: str) -> Path:
    """The directory of a recorded run. Raises ConfigError where there is none of that name."""
    if name not in recorded_names():
        raise unknown_name("recorded run", name, recorded_names())
    return ASSETS / name


def provenance(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """What ``pack`` noted of a run; None where the directory has no ``provenance.json``."""
    file = Path(path) / PROVENANCE
    if not file.is_file():
        return None
    try:
        return schema.loads(file.read_bytes())
    except (ValueError, OSError) as error:
        raise ConfigError(f"{file} cannot be read as a run's {PROVENANCE}: {error}") from error


def differences(path: str | os.PathLike[str]) -> list[str]:
    """What of a packed run is not as it was recorded, in words; [] where every file has its SHA-256.

    Raises:
        ConfigError: the directory has no ``provenance.json``, or none that can be read.
    """
    root, noted = Path(path), provenance(path)
    hashes = (noted or {}).get("sha256")
    if not isinstance(hashes, dict):
        raise ConfigError(f"{root} has no {PROVENANCE} with hashes: it was not made by runs.pack.")
    present = {p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()} - {PROVENANCE}
    found = [f"{name} is missing" for name in sorted(hashes.keys() - present)]
    found += [f"{name} was added" for name in sorted(present - hashes.keys())]
    changed = (name for name in sorted(present & hashes.keys()) if _sha256(root / name) != hashes[name])
    return found + [f"{name} was changed" for name in changed]


def pack(
    run: str | os.PathLike[str] | Run,
    target: str | os.PathLike[str],
    *,
    data: str = "",
    about: str = "",
    commit: str | None = None,
    limit: int = LIMIT,
) -> Path:
    """Copy a run into ``target``, small, with its provenance.

    The numbers of every step are kept as they are. Of the completions, those of the first and the last evaluation and
    of as many steps as fit, spread evenly (at most 24, each whole); what is left out is said. Folders of this machine
    in the settings are cut to their last name.

    Args:
        run: the run directory, or a ``Run``.
        target: a directory that does not exist yet, or is empty.
        data: what was trained on, in words; default: how many rows.
        about: one sentence on what the run shows.
        commit: of the code that trained; default: that of the git checkout which rlkit is imported from, if it is one.
        limit: bytes that all files may have together.

    Returns:
        ``target``.

    Raises:
        ConfigError: there is no run, ``target`` holds something, or the numbers alone are larger than ``limit``.
    """
    run = run if isinstance(run, Run) else Run(run)
    folder = Path(target)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise bad_value("target", str(folder), "a directory that is new or empty")
    files = _numbers(run)
    taken = sum(map(len, files.values())) + 4000  # and the provenance
    if taken > limit:
        raise bad_value(
            "limit", limit, f"{taken:,} bytes or more: the settings and numbers of {run.path} have as many"
        )
    for name, content in _eval_files(run).items():
        if taken + len(content) <= limit:
            files[name], taken = content, taken + len(content)
    samples = _sample_files(run)
    kept = _spread(samples, limit - taken)
    files |= {f"{schema.SAMPLES}/{schema.step_file(step)}": samples[step] for step in kept}
    config = run.config
    noted = {
        "name": folder.name,
        "about": about,
        "algorithm": str(config.get("algorithm", "")),
        "model": _without_folders(str(config.get("model", ""))),
        "data": data or f"{config.get('train_rows', '?')} rows, {config.get('eval_rows', '?')} held out",
        "device": str(config.get("device", "")),
        "versions": config.get("versions") or {},
        "commit": _commit() if commit is None else commit,
        "recorded": str((config.get("run") or {}).get("started", "")),
        "packed": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "steps": len(run.steps),
        "samples_of_steps": kept,
        "samples_left_out": len(samples) - len(kept),
        "sha256": {name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())},
    }
    for name, content in [*files.items(), (PROVENANCE, json.dumps(noted, indent=1).encode() + b"\n")]:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def _numbers(run: Run) -> dict[str, bytes]:
    """Settings, summary and the whole lines, byte for byte but for folders of this machine."""
    files = {schema.CONFIG: schema.dumps(_without_folders(run.config), indent=2).encode()}
    if (summary := run.summary) is not None:
        files[schema.SUMMARY] = schema.dumps(_without_folders(summary), indent=2).encode()
    metrics = run.path / schema.METRICS
    lines = metrics.read_bytes() if metrics.is_file() else b""
    files[schema.METRICS] = lines[: lines.rfind(b"\n") + 1]
    return files


def _eval_files(run: Run) -> dict[str, bytes]:
    steps = [line["step"] for line in run.evals]
    ends = dict.fromkeys(steps[:1] + steps[-1:])
    names = [schema.eval_file(step, kind) for kind in schema.EVAL_KINDS for step in ends]
    paths = {f"{schema.EVALS}/{name}": run.path / schema.EVALS / name for name in names}
    return {name: _squeezed(path) for name, path in paths.items() if path.is_file()}


def _sample_files(run: Run) -> dict[int, bytes]:
    return {step: _squeezed(run._samples_path(step)) for step in run.sample_steps}


def _squeezed(path: Path) -> bytes:
    """A parquet file's rows, compressed as far as that goes."""
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    with open(path, "rb") as file:
        table = pq.read_table(file)
    # Lean, as the writer does it.
    lean = {"use_dictionary": False, "write_statistics": False, "store_schema": False}
    pq.write_table(table, buffer, compression="zstd", compression_level=19, **lean)
    return buffer.getvalue()


def _spread(samples: dict[int, bytes], room: int) -> list[int]:
    """As many steps as fit, from the first to the last, spread evenly."""
    steps = sorted(samples)
    for count in range(min(MOST_STEPS, len(steps)), 0, -1):
        picked = [steps[round(i * (len(steps) - 1) / max(count - 1, 1))] for i in range(count)]
        if sum(len(samples[step]) for step in picked) <= room:
            return picked
    return []


def _without_folders(value: Any) -> Any:
    """``value`` with every absolute path in it cut to its last name: nobody needs another machine's folders."""
    if isinstance(value, dict):
        return {key: _without_folders(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_folders(item) for item in value]
    if isinstance(value, str) and "\n" not in value:
        for kind in (PurePosixPath, PureWindowsPath):
            if kind(value).is_absolute() and kind(value).name:
                return kind(value).name
    return value


def _commit() -> str:
    """The commit of the checkout that rlkit is imported from, or ""; says where files differ from it."""
    here = Path(__file__).resolve().parent

    def git(*words: str) -> str:
        try:
            done = subprocess.run(
                ["git", "-C", str(here), *words], capture_output=True, text=True, timeout=20
            )
        except (OSError, subprocess.TimeoutExpired):
            return ""
        return done.stdout.strip() if done.returncode == 0 else ""

    found = git("rev-parse", "HEAD")
    return (
        f"{found}, with changes" if found and git("status", "--porcelain", "--", str(here.parent)) else found
    )


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
