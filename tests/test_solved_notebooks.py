"""Every notebook as a student gets it, and as one hands it in when all is solved, which is run from top to bottom."""

from __future__ import annotations

import nbformat
import pytest
from notebook_rules import NOTEBOOKS

from rlkit.classroom import solving
from rlkit.classroom.assignments import STUB, assignments
from rlkit.classroom.execute import execute

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code(notebook) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


@each
def test_every_check_passes_when_all_is_solved(path, tmp_path):
    notebook = solving.solved(nbformat.read(path, as_version=4))
    copied = tmp_path / path.name
    nbformat.write(notebook, copied)
    outcome = execute(copied)
    assert not outcome.error  # a check of an answer that is not right raises here
    names = [name for _, name in solving.checks(outcome.notebook)]
    assert names and all(
        outcome.notebook.cells[n].execution_count for n, _ in solving.checks(outcome.notebook)
    )


def test_students_get_the_code_that_nbval_runs_and_no_solution(tmp_path):
    """So nbval's run of the stored notebooks, which says "Not solved yet" at every check, is the student's run, too."""
    released = assignments(NOTEBOOKS, tmp_path / "classroom")
    assert [path.name for path in released] == [path.name for path in NOTEBOOKS]
    for original, path in zip(NOTEBOOKS, released):
        ours, theirs = (nbformat.read(one, as_version=4) for one in (original, path))
        stubs = dict(solving.stubs(theirs))
        assert sorted(stubs.values()) == sorted(name for _, name in solving.stubs(ours))
        for number in stubs:
            assert STUB in theirs.cells[number].source
        assert code(theirs) == code(ours)
        prose = "\n".join(cell.source for cell in theirs.cells if cell.cell_type == "markdown")
        assert "<summary>Solution" not in prose and "<summary>Hint" in prose
