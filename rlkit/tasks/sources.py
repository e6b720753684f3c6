"""Rows from wherever someone has them: files, the Hub, tables of pandas, data sets, lists.

Nothing is guessed about values: a csv file's are text as they stand there, everything else keeps its types. What stands
for "missing" in a table (NaN, NaT, NA) becomes None.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlkit.errors import ConfigError, bad_value
from rlkit.tasks.hub_data import HUB_NAME, load_hub, page

Row = dict[str, Any]

_MEMORY = "given in memory"
ONLY = "all"
"""The name of the split of a source that has none."""

SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet")
_ALLOWED = (
    f"a file ({', '.join(SUFFIXES)}), a Hub data set ('owner/name' or 'owner/name:configuration'), a DataFrame, a "
    "datasets.Dataset or DatasetDict, or a list of dicts"
)


@dataclass(frozen=True)
class Source:
    """Rows by split (`ONLY` where there is none), the name, where it is from, and its licence if it says."""

    splits: Mapping[str, list[Row]]
    name: str
    origin: str
    licence: str = ""


def read_source(source: Any) -> Source:
    """Return the rows of a file, a Hub data set, a table, a data set or a list; `ConfigError` for the rest."""
    if isinstance(source, str | os.PathLike):
        return _named(source)
    if isinstance(source, Mapping):
        return Source(_splits(source, "source"), _title(source), _MEMORY, _licence(source))
    if not _is_table(source):
        endless = hasattr(source, "__iter__") and not hasattr(source, "__len__")
        advice = "It has no length: make a list of the rows that you need." if endless else ""
        raise bad_value("source", _described(source), _ALLOWED, advice)
    return Source({ONLY: _table(source)}, _title(source), _MEMORY, _licence(source))


def _named(source: str | os.PathLike[str]) -> Source:
    """A file or a data set of the Hub, by its name."""
    text = os.fspath(source)
    path = Path(text).expanduser()
    if _is(path.is_file):
        return Source(_from_file(path), path.stem, path.name)
    name, _, configuration = text.partition(":")
    if path.suffix.lower() not in SUFFIXES and not _is(path.is_dir) and HUB_NAME.fullmatch(name):
        data = load_hub(name, configuration or None)
        return Source(_splits(data, name), name.partition("/")[2], page(name), _licence(data))
    cause = "It is a folder: name the file in it." if _is(path.is_dir) else "There is no such file here."
    raise bad_value("source", text, _ALLOWED, cause)


def _is(question: Callable[[], bool]) -> bool:
    """Whether a path is a file (a folder); False for what cannot be a path."""
    try:
        return question()
    except OSError:
        return False


def _from_file(path: Path) -> dict[str, list[Row]]:
    """The rows of a file, by the end of its name."""
    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            from pyarrow import parquet

            return {ONLY: _rows(parquet.read_table(path).to_pylist(), path.name)}
        if suffix in (".csv", ".tsv"):
            return {ONLY: _from_csv(path, suffix)}
        if suffix in (".json", ".jsonl", ".ndjson"):
            return _from_json(path, suffix)
    except ConfigError:
        raise
    except Exception as error:  # the file may hold anything
        raise ConfigError(
            f"{path.name} cannot be read as {suffix}: {type(error).__name__}: {error}"
        ) from error
    raise bad_value("source", path.name, f"a file that ends in {', '.join(SUFFIXES)}")


def _from_csv(path: Path, suffix: str) -> list[Row]:
    """A header and rows of text; fields are separated by what stands in the header: comma, semicolon or tab."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        header = file.readline()
        file.seek(0)
        separator = "\t" if suffix == ".tsv" else max(",;\t", key=header.count)
        rows = []
        reader = csv.DictReader(file, delimiter=separator, strict=True)
        for row in reader:
            if None in row or None in row.values():
                raise ConfigError(
                    f"line {reader.line_num} of {path.name} has another number of fields than the header's "
                    f"{len(reader.fieldnames or ())}. A field that holds {separator!r} needs quotes around it"
                )
            rows.append(dict(row))
    return rows


def _from_json(path: Path, suffix: str) -> dict[str, list[Row]]:
    """A list of objects, an object of columns or of splits, or one object a line."""
    text = path.read_text(encoding="utf-8-sig")
    if suffix == ".json":
        try:
            data = json.loads(text)
        except json.JSONDecodeError:
            if text.lstrip()[:1] != "{":  # else: perhaps one object a line
                raise
        else:
            if isinstance(data, Mapping) and any(isinstance(part, list) for part in data.values()):
                return _splits(data, path.name)
            return {ONLY: _rows(data if isinstance(data, list) else [data], path.name)}
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise ConfigError(f"line {number} of {path.name} is no JSON: {error}") from error
    return {ONLY: _rows(rows, path.name)}


def _splits(source: Mapping[Any, Any], where: str) -> dict[str, list[Row]]:
    """Rows by split from a mapping of tables, or all rows from a mapping of columns."""
    if source and all(_is_table(part) for part in source.values()):
        return {str(name): _table(part) for name, part in source.items()}
    if not source or not all(isinstance(part, list | tuple) for part in source.values()):
        raise bad_value(where, _described(source), _ALLOWED, "A dict holds lists: of rows or of values.")
    lengths = {str(name): len(values) for name, values in source.items()}
    if len(set(lengths.values())) != 1:
        raise ConfigError(f"{where} is a dict of columns of different lengths: {lengths}")
    rows = (dict(zip(lengths, values, strict=True)) for values in zip(*source.values(), strict=True))
    return {ONLY: _rows(rows, where)}


def _is_table(source: Any) -> bool:
    """Whether it is a DataFrame, a `datasets.Dataset`, or a list of rows."""
    if hasattr(source, "iloc") or hasattr(source, "column_names"):
        return hasattr(source, "__len__")
    if isinstance(source, str | bytes | Mapping) or not isinstance(source, Sequence):
        return False
    return all(isinstance(row, Mapping) for row in source)


def _table(source: Any) -> list[Row]:
    """The rows of what `_is_table` knows."""
    if hasattr(source, "iloc"):
        if not hasattr(source, "to_dict") or not hasattr(source, "columns"):  # a Series
            raise bad_value("source", _described(source), _ALLOWED)
        return _rows(source.to_dict("records"), "source")
    return _rows(source, "source")


def _rows(rows: Iterable[Any], where: str) -> list[Row]:
    """Rows as dicts with plain values."""
    plain = []
    for i, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise ConfigError(
                f"row {i} of {where} is {row!r:.80}; every row must be a dict (in a file: a JSON object)"
            )
        plain.append({str(name): _plain(value) for name, value in row.items()})
    return plain


def _plain(value: Any) -> Any:
    """Numpy's values as Python's, and whatever stands for "missing" as None."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, float) and value != value:
        return None
    return None if type(value).__name__ in ("NAType", "NaTType") else value


def _title(source: Any) -> str:
    """The name that a data set of `datasets` goes by, if it says."""
    first = next(iter(source.values()), None) if isinstance(source, Mapping) else source
    return str(getattr(getattr(first, "info", None), "dataset_name", None) or "")


def _licence(source: Any) -> str:
    """The licence that a data set of `datasets` states, if it does."""
    first = next(iter(source.values()), None) if isinstance(source, Mapping) else source
    said = getattr(getattr(first, "info", None), "license", None)
    return said if isinstance(said, str) else ""


def _described(source: Any) -> str:
    text = " ".join(repr(source).split())
    return f"{type(source).__name__} {text if len(text) <= 80 else text[:79] + '…'}"
