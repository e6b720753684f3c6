"""What was given in the place of a data set: what it is, in words, and how rows are made of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any


def described(value: Any) -> str:
    """A value and its type, short enough for an error."""
    text = " ".join(repr(value).split())
    kind = "" if value is None else f" (type {type(value).__name__})"
    return (text if len(text) <= 80 else f"{text[:79]}…") + kind


def is_in_columns(dataset: Any) -> bool:
    """Whether this is text, or something that is indexed by column or split and not by row."""
    return isinstance(dataset, (str, bytes, Mapping)) or hasattr(dataset, "iloc")


def how_to_make_rows(dataset: Any) -> str:
    """How to turn what was given into a data set; empty where nothing is known."""
    if isinstance(dataset, (str, os.PathLike)):
        return "Read the file first, for example with datasets.load_dataset('json', data_files=…)['train']."
    if isinstance(dataset, Mapping):
        if any(hasattr(part, "column_names") for part in dataset.values()):
            return f"Choose one of its splits: {', '.join(map(repr, dataset))}."
        return "A dict of columns becomes a data set with datasets.Dataset.from_dict(…)."
    if hasattr(dataset, "iloc"):
        return "A table of pandas becomes a list of dicts with .to_dict('records')."
    if hasattr(dataset, "__iter__"):
        return "It has no length; make a list of it: list(…)."
    return ""
