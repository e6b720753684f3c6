"""Completions as files for other programs: what a list shows as csv, every column as parquet."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path

from rlkit.errors import ConfigError, bad_value
from rlkit.runs import schema
from rlkit.widgets.models.samples import Listed, Sheet

ENDINGS = (".csv", ".parquet")


def export(sheet: Sheet, path: str | os.PathLike[str], rows: Sequence[Listed] | None = None) -> Path:
    """Write completions to a new file: ``.csv`` has what the list shows, ``.parquet`` every column.

    Texts are written as they are: a spreadsheet may take one that begins with = for a formula.

    Args:
        rows: which, in this order; None takes all.

    Raises:
        ConfigError: another ending, a file that is there already, a folder that is not.
    """
    path = Path(path)
    if path.suffix not in ENDINGS:
        raise bad_value("path", str(path), "a name that ends in .csv or .parquet")
    if not path.parent.is_dir():
        raise bad_value("path", str(path), "a file in a folder that is there", f"There is no {path.parent}.")
    if path.exists():
        raise _taken(path)
    chosen = sheet.rows if rows is None else list(rows)
    content = _csv(sheet, chosen) if path.suffix == ".csv" else _parquet(sheet, chosen)
    try:
        with open(path, "xb") as file:
            file.write(content)
    except FileExistsError:
        raise _taken(path) from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error}") from error
    return path


def free_path(path: str | os.PathLike[str]) -> Path:
    """``path``, or where a file has that name the first of ``name-2``, ``name-3``, … that is free."""
    wanted = Path(path)
    found, count = wanted, 1
    while found.exists():
        count += 1
        found = wanted.with_name(f"{wanted.stem}-{count}{wanted.suffix}")
    return found


def _taken(path: Path) -> ConfigError:
    return bad_value("path", str(path), "a new name", "A file of that name is there, and is left as it is.")


def _csv(sheet: Sheet, rows: Sequence[Listed]) -> bytes:
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    plain = [name for name in Listed._fields if name != "rewards"]
    writer.writerow(["step", "kind", *plain, *(schema.REWARD + name for name in sheet.reward_names)])
    for row in rows:
        values = [getattr(row, name) for name in plain]
        rewards = [row.rewards.get(name) for name in sheet.reward_names]
        writer.writerow([sheet.place.step, sheet.place.kind, *values, *rewards])
    return out.getvalue().encode()


def _parquet(sheet: Sheet, rows: Sequence[Listed]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    table = sheet.table().take(pa.array([row.position for row in rows], pa.int64()))
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue())
