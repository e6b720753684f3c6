"""A side of a task as a `datasets.Dataset`. Imports that package, so it is imported when a side is first read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow
from datasets import Dataset, DatasetInfo, NamedSplit

from rlkit.errors import ConfigError

if TYPE_CHECKING:
    from rlkit.tasks.base import Task


def as_dataset(task: Task, side: str, rows: list[dict[str, Any]]) -> Dataset:
    """Return the rows of one side as a data set whose fingerprint follows from the task's.

    Raises `ConfigError` where a column mixes kinds of values, which a table cannot hold.
    """
    try:
        made = Dataset.from_list(rows)
    except (pyarrow.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise _no_table(rows, side, error) from error
    info = DatasetInfo(
        description=task.description, license=task.licence, homepage=task.source, features=made.features
    )
    return Dataset(made.data, info=info, split=NamedSplit(side), fingerprint=f"{task.fingerprint}-{side}")


def _no_table(rows: list[dict[str, Any]], side: str, error: Exception) -> ConfigError:
    """Say which column it is that cannot be put into a table."""
    at_fault = []
    for column in rows[0]:
        try:
            Dataset.from_dict({column: [row[column] for row in rows]})
        except (pyarrow.ArrowException, TypeError, ValueError, OverflowError):
            at_fault.append(column)
    return ConfigError(
        f"{side} cannot become a datasets.Dataset: the column {', '.join(map(repr, at_fault)) or '(unknown)'} mixes "
        f"kinds of values ({type(error).__name__}: {str(error).strip():.200}). Allowed: one kind in each column; write "
        "what differs from row to row as JSON text"
    )
