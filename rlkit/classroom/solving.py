"""The exercise cells of a notebook: find them, put solutions into them.

A notebook says of a cell in nbgrader's metadata whether it is a stub to be filled in ("07-advantages") or the check of
one ("07-advantages-check"). Solutions come from `rlkit.exercises`: notebooks hold none but those in their folds.
"""

from __future__ import annotations

import ast
import copy
import inspect
import os
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

from rlkit import exercises
from rlkit.errors import ConfigError

SEED = "RLKIT_HIDDEN_SEED"  # in the environment
SUFFIX = "-check"
SOLUTION = "solution"  # the tag of a folded worked solution
BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
BEGIN_HIDDEN, END_HIDDEN = "### BEGIN HIDDEN TESTS", "### END HIDDEN TESTS"


def stubs(notebook: Any) -> Iterator[tuple[int, str]]:
    """(cell number, name of the exercise) of every stub."""
    for number, cell in enumerate(notebook.cells):
        about = cell.metadata.get("nbgrader")
        if about and about.get("solution"):
            yield number, about["grade_id"]


def checks(notebook: Any) -> Iterator[tuple[int, str]]:
    """(cell number, name of the exercise) of every check."""
    for number, cell in enumerate(notebook.cells):
        about = cell.metadata.get("nbgrader")
        if about and about.get("grade"):
            yield number, about["grade_id"].removesuffix(SUFFIX)


def body(function: Callable[..., Any]) -> list[str]:
    """The lines of a function below its header and docstring, not indented."""
    lines = textwrap.dedent(inspect.getsource(function)).splitlines()
    node = ast.parse("\n".join(lines)).body[0]
    assert isinstance(node, ast.FunctionDef)
    statements = node.body[1:] if ast.get_docstring(node) else node.body
    return textwrap.dedent("\n".join(lines[statements[0].lineno - 1 :])).splitlines()


def filled(stub: str, name: str, marked: bool = False) -> str:
    """The stub cell ``stub`` with the solution of exercise ``name`` in place of its dots.

    ``marked`` puts nbgrader's marks around it, between which it takes out again. Raises ``ConfigError`` where the cell
    does not define the function that is asked for.
    """
    solution = exercises.find(name).solution
    tree = ast.parse(stub)
    function = next(
        (n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == solution.__name__), None
    )
    if function is None:
        raise ConfigError(f"the stub of exercise {name!r} does not define {solution.__name__}()")
    statements = function.body[1:] if ast.get_docstring(function) else function.body
    if not statements:
        raise ConfigError(f"the stub of exercise {name!r} has no dots after its docstring")
    lines = stub.splitlines()
    inside = body(solution)
    if marked:
        inside = [BEGIN, *inside, END]
    indented = [f"    {line}" if line else "" for line in inside]
    return "\n".join(
        [*lines[: statements[0].lineno - 1], *indented, *lines[statements[-1].end_lineno or 0 :]]
    )


def solved(notebook: Any) -> Any:
    """A copy of ``notebook`` with every exercise solved; every check is then right, or the cell raises."""
    copied = copy.deepcopy(notebook)
    for number, name in stubs(copied):
        copied.cells[number].source = filled(copied.cells[number].source, name)
    for number, _ in checks(copied):
        copied.cells[number].source += ".must_pass()"
    return copied


def hidden_seed() -> int:
    """The seed that draws the inputs of hidden tests: `SEED` in the environment, which grading sets; else 1."""
    return int(os.environ.get(SEED, "1"))


def to_grade(notebook: Any) -> Any:
    """A copy of ``notebook`` as nbgrader's source: solutions marked, a hidden test after each check, no worked ones.

    The hidden test is the same check on inputs that students have not seen. It does not name the seed that draws them,
    since the feedback that students get shows the test.
    """
    copied = copy.deepcopy(notebook)
    for number, name in stubs(copied):
        copied.cells[number].source = filled(copied.cells[number].source, name, marked=True)
    for number, name in checks(copied):
        function = exercises.find(name).solution.__name__
        hidden = (
            "from rlkit.classroom.solving import hidden_seed\n\n"
            f'exercises.check("{name}", {function}, seed=hidden_seed()).must_pass()'
        )
        copied.cells[number].source += f"\n{BEGIN_HIDDEN}\n{hidden}\n{END_HIDDEN}"
    copied.cells = [cell for cell in copied.cells if SOLUTION not in cell.metadata.get("tags", ())]
    for cell in copied.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return copied
