"""Run notebooks from top to bottom, each in a kernel of its own, and store what they give.

    python -m rlkit.classroom execute notebooks/*.ipynb            # run, compare with what is stored, store
    python -m rlkit.classroom execute --seed 3 notebooks/*.ipynb   # only run: do the claims hold with another seed?

What differs from the stored outputs is told. In cells tagged ``nbval-ignore-output`` it may; where a cell is tagged
``nbval-check-output`` it must not, beyond durations, dates and the like.
"""

from __future__ import annotations

import copy
import difflib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

LIMIT = 300  # seconds for one cell
QUIET = ["--log-level=ERROR"]  # kernels warn on stderr that they talk over TCP, at every start
LIVE, CHECKED = "nbval-ignore-output", "nbval-check-output"
PASSING = (  # what two true runs may differ in
    (re.compile(r"\b\d+(\.\d+)?\s?(ms|s|sec|seconds|min|minutes|µs)\b"), "DURATION"),
    (re.compile(r"\b[\d,]+(\.\d+)?\s?(tokens?/s|tok/s|it/s|s/it|steps?/s)"), "SPEED"),
    (re.compile(r"\b\d+(\.\d+)?\s?(MB|GB|MiB|GiB)\b"), "MEMORY"),
    (re.compile(r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?Z?"), "DATE"),
    (re.compile(r"0x[0-9a-fA-F]{6,}"), "ADDRESS"),
    (re.compile(r"\.old-\d+"), ".old-N"),
)
PICTURE = re.compile(r"data:image/[a-z+]+;base64,[A-Za-z0-9+/=]*")
WIDGET = "application/vnd.jupyter.widget-view+json"


class Outcome(NamedTuple):
    """A notebook that was run: the notebook, the seconds it took, and the error that stopped it, or ""."""

    notebook: Any
    seconds: float
    error: str


class Change(NamedTuple):
    """A cell whose output is not what was stored: its number, its tags, and the difference, line by line."""

    cell: int
    tags: tuple[str, ...]
    lines: tuple[str, ...]


def execute(path: Path, seed: int | None = None, folder: Path | None = None) -> Outcome:
    """Run the notebook at ``path`` in ``folder``, by default its own, and return it with its outputs.

    ``seed`` is what the notebook finds in the environment variable RLKIT_SEED. Nothing is written.
    """
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    environment = {**os.environ, "RLKIT_SEED": str(seed or 0)}
    client = NotebookClient(
        notebook,
        timeout=LIMIT,
        kernel_name="python3",
        extra_arguments=QUIET,
        record_timing=False,
        store_widget_state=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(folder or path.parent)}},
    )
    began, error = time.perf_counter(), ""
    try:
        client.execute(env=environment)
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as raised:
        error = str(raised)
    return Outcome(tidy(notebook), time.perf_counter() - began, error)


def tidy(notebook: Any) -> Any:
    """Drop what differs from run to run and says nothing: widgets' ids and their states, and this Python's version."""
    notebook.metadata.pop("widgets", None)
    notebook.metadata.get("language_info", {}).pop("version", None)
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            output.get("data", {}).pop(WIDGET, None)
    return notebook


def changes(before: Any, after: Any) -> Iterator[Change]:
    """The cells of ``after`` whose outputs differ from those of ``before``, apart from what may differ."""
    stored = {cell.get("id"): cell for cell in before.cells}
    for number, cell in enumerate(after.cells):
        old = stored.get(cell.get("id"))
        if cell.cell_type != "code" or old is None or old.source != cell.source:
            continue
        was, now = list(_lines(old)), list(_lines(cell))
        if was != now:
            told = [
                line
                for line in difflib.unified_diff(was, now, lineterm="", n=0)
                if not line.startswith(("---", "+++", "@@"))
            ]
            yield Change(number, tuple(cell.metadata.get("tags", ())), tuple(told))


def keep_unchanged(before: Any, after: Any) -> Any:
    """``after`` with the stored outputs wherever the new ones differ only in durations, dates and the like.

    Files then change where something has changed.
    """
    stored = {cell.get("id"): cell for cell in before.cells}
    changed = {change.cell for change in changes(before, after)}
    for number, cell in enumerate(after.cells):
        old = stored.get(cell.get("id"))
        if (
            cell.cell_type == "code"
            and old is not None
            and number not in changed
            and old.source == cell.source
        ):
            cell.outputs = copy.deepcopy(old.outputs)
    return after


def _lines(cell: Any) -> Iterator[str]:
    """Everything in a cell's outputs that can be read, without what may differ between two true runs."""
    for output in cell.get("outputs", ()):
        data = output.get("data", {})
        shown = [
            data[kind] for kind in sorted(data) if isinstance(data[kind], str)
        ]  # in no order of their own
        texts = [output.text] if output.output_type == "stream" else shown
        for text in texts:
            text = PICTURE.sub("PICTURE", text)
            for pattern, name in PASSING:
                text = pattern.sub(name, text)
            yield from (line.rstrip() for line in text.splitlines())
