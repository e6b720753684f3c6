"""The notebooks keep the course's conventions; nbval runs them, this reads them.

A rule that cannot fail proves nothing, so each is also shown a spoiled copy of a good notebook, which it must refuse.
"""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from notebook_rules import (
    CELLS,
    FOLDER,
    NOTEBOOKS,
    TAGS,
    announced,
    checked_cells_have_output,
    closed_folds,
    code_cells,
    described_pictures,
    executed_in_order,
    known_imports,
    known_tags,
    no_machine_paths,
    nodes,
    of_the_right_length,
    opened_everywhere,
    plain_python,
    python3_kernel,
    short_cells,
    small_pictures,
    something_is_checked,
    whole_exercises,
    with_its_parts,
    without_errors,
)
from sample_notebook import good_notebook

from rlkit.classroom import solving


def _cell(notebook, kind: str):
    """The first stub of a notebook, its check, or its fold."""
    number = next(solving.stubs(notebook))[0]
    return notebook.cells[number + {"statement": -1, "stub": 0, "check": 1, "fold": 2}[kind]]


def _replaced(notebook, kind: str, old: str, new: str) -> None:
    cell = _cell(notebook, kind)
    assert old in cell.source
    cell.source = cell.source.replace(old, new)


def _all_prose(notebook, old: str, new: str) -> None:
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = cell.source.replace(old, new)


def _shown(notebook, kind: str, value: str, **metadata) -> None:
    output = nbformat.v4.new_output("display_data", {kind: value}, metadata=metadata)
    notebook.cells[5].outputs = [output]


def _said(notebook, text: str) -> None:
    notebook.cells[5].outputs = [nbformat.v4.new_output("stream", text=text)]


def _failed(notebook) -> None:
    notebook.cells[5].outputs = [nbformat.v4.new_output("error", ename="ValueError", evalue="", traceback=[])]


def _code(notebook, source: str) -> None:
    notebook.cells[5].source = source


def _prose(notebook, source: str) -> None:
    notebook.cells[24].source = source


def _no_asserts(notebook) -> None:
    for cell in code_cells(notebook):
        cell.source = "1"


SPOILED: list[tuple[Callable, str, Callable]] = [
    (of_the_right_length, "too short", lambda nb: nb.cells.__delitem__(slice(CELLS.start - 1, None))),
    (of_the_right_length, "too long", lambda nb: nb.cells.extend(nb.cells[1:] * 2)),
    (short_cells, "26 lines", lambda nb: _code(nb, "1\n" * 26)),
    (executed_in_order, "never run", lambda nb: nb.cells[5].update(execution_count=None)),
    (executed_in_order, "run out of order", lambda nb: nb.cells[5].update(execution_count=99)),
    (without_errors, "an error", _failed),
    (described_pictures, "a PNG without alt", lambda nb: _shown(nb, "image/png", "AAAA")),
    (
        described_pictures,
        "an empty alt",
        lambda nb: _shown(nb, "image/png", "AAAA", **{"image/png": {"alt": ""}}),
    ),
    (
        described_pictures,
        "an <img> without alt",
        lambda nb: _shown(nb, "text/html", '<p><img src="a.png"></p>'),
    ),
    (described_pictures, "markdown without alt", lambda nb: _prose(nb, "![](a.png)")),
    (described_pictures, "an <img> in markdown", lambda nb: _prose(nb, '<img src="a.png">')),
    (small_pictures, "a large PNG", lambda nb: _shown(nb, "image/png", "A" * 200_000)),
    (small_pictures, "a large data URI", lambda nb: _shown(nb, "text/html", f'<img src="{"A" * 200_000}">')),
    (no_machine_paths, "in a stream", lambda nb: _said(nb, "saved to /home/ada/runs/demo")),
    (no_machine_paths, "quoted", lambda nb: _said(nb, "PosixPath('/tmp/run')")),
    (no_machine_paths, "of Windows", lambda nb: _said(nb, r"saved to C:\Users\ada")),
    (no_machine_paths, "in HTML", lambda nb: _shown(nb, "text/html", "<b>/Users/ada</b>")),
    (no_machine_paths, "in code", lambda nb: _code(nb, "open('/home/someone/x')")),
    (checked_cells_have_output, "nothing stored", lambda nb: nb.cells[4].update(outputs=[])),
    (something_is_checked, "no comparison", lambda nb: [cell.metadata.update(tags=[]) for cell in nb.cells]),
    (something_is_checked, "no claim", _no_asserts),
    (known_tags, "skipped", lambda nb: nb.cells[5].metadata.update(tags=["nbval-skip"])),
    (known_tags, "may raise", lambda nb: nb.cells[5].metadata.update(tags=["raises-exception"])),
    (known_tags, "both", lambda nb: nb.cells[5].metadata.update(tags=sorted(TAGS))),
    (known_imports, "a custom widget", lambda nb: _code(nb, "import anywidget")),
    (known_imports, "a part of one", lambda nb: _code(nb, "from ipympl.backend_nbagg import Canvas")),
    (plain_python, "a shell command", lambda nb: _code(nb, "!pip install rlkit")),
    (plain_python, "a magic", lambda nb: _code(nb, "%matplotlib widget")),
    (python3_kernel, "another kernel", lambda nb: nb.metadata.kernelspec.update(name="my-env")),
    (announced, "no time", lambda nb: nb.cells[0].update(source="# A title\n\nA laptop will do.")),
    (announced, "no hardware", lambda nb: nb.cells[0].update(source="# A title\n\n**Time:** 5 minutes")),
    (opened_everywhere, "no badge", lambda nb: nb.cells[0].update(source="# A title")),
    (opened_everywhere, "another set-up", lambda nb: nb.cells[1].update(source="import rlkit")),
    (with_its_parts, "no summary", lambda nb: _all_prose(nb, "## In two minutes", "In two minutes")),
    (with_its_parts, "nothing to predict", lambda nb: _all_prose(nb, "**Predict:**", "Predict:")),
    (whole_exercises, "one exercise", lambda nb: nb.cells.__delitem__(slice(-4, None))),
    (whole_exercises, "no check", lambda nb: nb.cells.remove(_cell(nb, "check"))),
    (whole_exercises, "another check", lambda nb: _replaced(nb, "check", "check(", "check (")),
    (whole_exercises, "no difficulty", lambda nb: _replaced(nb, "statement", "minutes)", ")")),
    (whole_exercises, "no hint", lambda nb: _replaced(nb, "statement", "Hint", "Note")),
    (whole_exercises, "solved", lambda nb: _replaced(nb, "stub", "your code", "done")),
    (whole_exercises, "no docstring", lambda nb: _replaced(nb, "stub", '"""', "'")),
    (whole_exercises, "another solution", lambda nb: _replaced(nb, "fold", "return", "return not")),
    (whole_exercises, "an open solution", lambda nb: _cell(nb, "fold").metadata.update(tags=[])),
    (whole_exercises, "stored as right", lambda nb: _cell(nb, "check").update(outputs=[])),
    (closed_folds, "open", lambda nb: _prose(nb, "<details><summary>Why?</summary>Because.")),
]
RULES = list(dict.fromkeys(rule for rule, _, _ in SPOILED))


# --------------------------------------------------------------------------------------------- tests


def test_there_is_a_notebook_to_start_with():
    assert (FOLDER / "00_start_here.ipynb") in NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_notebook_keeps_the_rule(path: Path, rule: Callable):
    assert rule(nbformat.read(path, as_version=4)) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_a_valid_file(path: Path):
    nbformat.validate(nbformat.read(path, as_version=nbformat.NO_CONVERT))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule_accepts_a_good_notebook(rule: Callable):
    assert rule(good_notebook()) == []


@pytest.mark.parametrize(("rule", "how", "spoil"), SPOILED, ids=lambda x: getattr(x, "__name__", str(x)))
def test_rule_refuses_a_spoiled_notebook(rule: Callable, how: str, spoil: Callable):
    notebook = copy.deepcopy(good_notebook())
    spoil(notebook)
    assert rule(notebook), f"{rule.__name__} accepts a notebook that is spoiled: {how}"


def test_course_index_lists_every_notebook():
    index = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in NOTEBOOKS if f"({path.name})" not in index] == []
    linked = re.findall(r"\(([^)]+\.ipynb)\)", index)
    assert [name for name in linked if not (FOLDER / name).exists()] == []


def test_start_here_has_the_settings_of_the_demo():
    """It says so; and its numbers are those that the README reports for the demo."""
    from rlkit.demo import demo_config

    notebook = nbformat.read(FOLDER / "00_start_here.ipynb", as_version=4)
    calls = [
        node
        for cell in code_cells(notebook)
        for node in nodes(cell)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "GRPOConfig"
    ]
    written = {keyword.arg: ast.literal_eval(keyword.value) for keyword in calls[0].keywords}
    assert written.pop("eval_steps") == 10  # besides the demo, for the curve
    assert written.pop("output_dir") == "runs/00_start_here"
    written["fast_inference"] = None
    demo = demo_config().to_dict()
    assert {name: demo[name] for name in written} == written
    ours = type(demo_config())(**written).to_dict()
    assert {name for name in demo if demo[name] != ours[name]} <= {"output_dir", "eval_steps"}
