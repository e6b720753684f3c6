"""The classroom: notebooks solved, handed out without their solutions, graded, run again, given an address."""

from __future__ import annotations

import csv
import json
import re
import sys
from pathlib import Path

import nbformat
import pytest
from notebook_rules import NOTEBOOKS
from sample_notebook import exercise_cells, good_notebook

from rlkit import exercises
from rlkit.classroom import solving
from rlkit.classroom.__main__ import main
from rlkit.classroom.badges import with_address
from rlkit.classroom.execute import changes, execute, keep_unchanged, tidy
from rlkit.errors import ConfigError

NAMES = [name for name in exercises.names() if name.startswith("07")][:2]
v4 = nbformat.v4


@pytest.fixture(scope="module")
def lesson(tmp_path_factory) -> Path:
    """A short notebook with two real exercises, in a folder of its own."""
    cells = [
        v4.new_markdown_cell("# Advantages"),
        v4.new_code_cell("import torch\n\nfrom rlkit import exercises"),
    ]
    for count, name in enumerate(NAMES):
        cells += exercise_cells(name, 2 + 2 * count)
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path = tmp_path_factory.mktemp("lesson") / "07_short.ipynb"
    nbformat.write(v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    return path


def results(notebook) -> list[str]:
    """What the checks said."""
    said = []
    for number, _ in solving.checks(notebook):
        outputs = notebook.cells[number].outputs
        said += [output.data["text/plain"] for output in outputs if "data" in output]
    return said


# ----------------------------------------------------------------------------------------------- solving


def test_solved_notebook_passes_and_the_stubs_fail_kindly(lesson):
    notebook = nbformat.read(lesson, as_version=4)
    outcome = execute(lesson)
    assert not outcome.error and len(results(outcome.notebook)) == 2
    assert all("Not solved yet" in said for said in results(outcome.notebook))
    solved = lesson.with_name("solved.ipynb")
    nbformat.write(solving.solved(notebook), solved)
    assert execute(solved).error == ""


def test_must_pass_stops_a_wrong_one(lesson):
    notebook = solving.solved(nbformat.read(lesson, as_version=4))
    for number, _ in solving.stubs(notebook):
        notebook.cells[number].source = nbformat.read(lesson, as_version=4).cells[number].source
    path = lesson.with_name("wrong.ipynb")
    nbformat.write(notebook, path)
    assert "AssertionError" in execute(path).error


@pytest.mark.parametrize("stub", ["x = 1", 'def other():\n    """What."""\n    ...', "def"])
def test_stub_of_another_function_is_refused(stub):
    with pytest.raises((ConfigError, SyntaxError)):
        solving.filled(stub, NAMES[0])


# ----------------------------------------------------------------------------------------------- grading


def test_a_perfect_an_empty_and_a_wrong_submission(lesson, tmp_path, capsys):
    pytest.importorskip("nbgrader")
    course, submissions = tmp_path / "classroom", tmp_path / "submissions"
    assert main(["assignments", str(lesson), "--to", str(course)]) == 0
    released = course / "release" / lesson.stem / lesson.name
    student = nbformat.read(released, as_version=4)
    text = "\n".join(cell.source for cell in student.cells)
    assert "must_pass" not in text and "HIDDEN" not in text and "BEGIN SOLUTION" not in text
    assert "<summary>Solution" not in text and text.count("...  # your code") == 2
    seed = json.loads((course / "classroom.json").read_text())["seed"]
    assert str(seed) not in text  # nobody can draw the hidden inputs beforehand,

    for name in ("ada", "bob", "cy"):
        (submissions / name).mkdir(parents=True)
    for number, exercise in solving.stubs(student):
        student.cells[number].source = solving.filled(student.cells[number].source, exercise)
    nbformat.write(student, submissions / "ada" / lesson.name)
    (submissions / "bob" / lesson.name).write_bytes(released.read_bytes())
    number, exercise = next(iter(solving.stubs(student)))
    student.cells[
        number
    ].source = f"def {exercises.find(exercise).solution.__name__}(*values):\n    return 1 / 0"
    nbformat.write(student, submissions / "cy" / lesson.name)

    # Dee's file is broken: the others are graded all the same, and hers is named.
    (submissions / "dee").mkdir()
    (submissions / "dee" / lesson.name).write_text("{")
    assert main(["autograde", str(submissions), "--to", str(course)]) == 1
    said = capsys.readouterr().err
    assert "1 of 4 notebooks could not be graded" in said and f"dee/{lesson.name}" in said
    (submissions / "dee" / lesson.name).unlink()

    assert main(["autograde", str(submissions), "--to", str(course)]) == 0
    with open(course / "grades.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    points = {(row["student"], row["exercise"]): float(row["points"]) for row in rows}
    full = {name: 2.0 for name in NAMES}
    assert {e: p for (s, e), p in points.items() if s == "ada"} == full
    assert {e: p for (s, e), p in points.items() if s == "bob"} == dict.fromkeys(NAMES, 0.0)
    assert {e: p for (s, e), p in points.items() if s == "cy"} == {**full, exercise: 0.0}
    assert {e: p for (s, e), p in points.items() if s == "dee"} == dict.fromkeys(
        NAMES, 0.0
    )  # nothing handed in
    feedback = course / "feedback" / "cy" / lesson.stem / f"{lesson.stem}.html"
    shown = feedback.read_text(encoding="utf-8")
    assert "ZeroDivisionError" in shown
    assert "must_pass" in shown and str(seed) not in shown  # or afterwards
    assert not list(course.glob("*/cy/*/runs"))


def test_what_cannot_be_graded_is_said(tmp_path, capsys, lesson):
    assert main(["autograde", str(tmp_path), "--to", str(tmp_path / "none")]) == 1
    assert "make them first" in capsys.readouterr().err
    empty = tmp_path / "empty.ipynb"
    nbformat.write(v4.new_notebook(), empty)
    assert main(["assignments", str(empty), "--to", str(tmp_path / "c")]) == 1
    assert "no exercise" in capsys.readouterr().err


@pytest.mark.parametrize("package", ["nbformat", "nbgrader"])
def test_missing_packages_are_named_with_their_extra(package, monkeypatch, capsys, lesson, tmp_path):
    for name in [one for one in sys.modules if one.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["assignments", str(lesson), "--to", str(tmp_path)]) == 1
    assert f"{package} is not installed: pip install -e '.[classroom]'" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------- executing


def one_cell(text: str, tags=()):
    cell = v4.new_code_cell("print(x)", id="c1", metadata={"tags": list(tags)}, execution_count=1)
    cell.outputs = [v4.new_output("stream", text=text)]
    return v4.new_notebook(cells=[cell])


def test_only_real_differences_are_told():
    before = one_cell("0.54 in 12.3 s, 400 MiB\n")
    assert list(changes(before, one_cell("0.54 in 9 s, 512 MiB\n"))) == []
    (change,) = changes(before, one_cell("0.55 in 12.3 s, 400 MiB\n", ["nbval-check-output"]))
    assert change.cell == 0 and change.tags == ("nbval-check-output",)
    assert change.lines == ("-0.54 in DURATION, MEMORY", "+0.55 in DURATION, MEMORY")
    kept = keep_unchanged(before, one_cell("0.54 in 9 s, 512 MiB\n"))
    assert kept.cells[0].outputs[0].text == "0.54 in 12.3 s, 400 MiB\n"
    assert keep_unchanged(before, one_cell("0.6\n")).cells[0].outputs[0].text == "0.6\n"


def test_a_failing_notebook_is_not_stored(tmp_path, capsys):
    path = tmp_path / "bad.ipynb"
    nbformat.write(v4.new_notebook(cells=[v4.new_code_cell("1 / 0")]), path)
    before = path.read_bytes()
    assert main(["execute", str(path)]) == 1 and path.read_bytes() == before
    assert "ZeroDivisionError" in capsys.readouterr().out


def test_a_notebook_finds_its_seed_and_is_stored_tidily(tmp_path):
    path = tmp_path / "seed.ipynb"
    nbformat.write(
        v4.new_notebook(cells=[v4.new_code_cell("import os\nprint(os.environ['RLKIT_SEED'])")]), path
    )
    assert execute(path, seed=7).notebook.cells[0].outputs[0].text == "7\n"
    assert main(["execute", str(path)]) == 0
    stored = nbformat.read(path, as_version=4)
    assert stored.cells[0].outputs[0].text == "0\n" and "execution" not in stored.cells[0].metadata
    assert "version" not in stored.metadata.language_info


def test_widget_ids_are_not_stored():
    notebook = one_cell("x")
    data = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "a widget"}
    notebook.cells[0].outputs = [v4.new_output("display_data", data)]
    assert list(tidy(notebook).cells[0].outputs[0].data) == ["text/plain"]


# ------------------------------------------------------------------------------------- the instructor's guide


def test_the_guides_own_exercise_is_one(tmp_path, monkeypatch):
    """It stands there as a whole module with its own asserts, and grading finds it like the course's."""
    text = (NOTEBOOKS[0].parent / "INSTRUCTOR.md").read_text(encoding="utf-8")
    module, hidden = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    (tmp_path / "mine.py").write_text(module)
    monkeypatch.syspath_prepend(tmp_path)
    assert "hidden_seed()" in hidden
    exec(hidden, {"centred": lambda rewards: rewards - rewards.mean(1, keepdim=True)})
    with pytest.raises(AssertionError, match="one mean for all"):
        exec(hidden, {"centred": lambda rewards: rewards - rewards.mean()})


# ----------------------------------------------------------------------------------------------- badges


def test_badges_lead_to_ones_own_copy_and_back():
    notebook = good_notebook()
    before = notebook.cells[0].source, notebook.cells[1].source
    with_address(notebook, "https://github.com/ada/rlkit", "07_x.ipynb", "2026")
    first, setup = notebook.cells[0].source, notebook.cells[1].source
    assert "(https://colab.research.google.com/github/ada/rlkit/blob/2026/notebooks/07_x.ipynb)" in first
    assert "(https://mybinder.org/v2/gh/ada/rlkit/2026?labpath=notebooks/07_x.ipynb)" in first
    assert 'SOURCE = "https://github.com/ada/rlkit"' in setup
    with_address(notebook, "", "07_x.ipynb")
    assert (notebook.cells[0].source, notebook.cells[1].source) == before
    with pytest.raises(ConfigError, match="address='ada/rlkit'"):
        with_address(notebook, "ada/rlkit", "x")
