"""A small notebook that keeps every rule of the course, and the cells of an exercise as the course writes them."""

from __future__ import annotations

import inspect
import textwrap

import nbformat
from notebook_rules import SETUP_CELL

from rlkit import exercises


def good_notebook():
    """A small notebook that keeps every rule."""
    v4 = nbformat.v4
    dot = "data:image/png;base64,iVBORw0KGgo="
    badges = "[![Open in Colab](a.svg)](README.md#on-colab) [![Launch on Binder](b.svg)](README.md#on-binder)"
    cells = [v4.new_markdown_cell(f"# A title\n{badges}\n\n**You need** a laptop. **Time:** 5 minutes.")]
    cells.append(v4.new_code_cell(SETUP_CELL.read_text().rstrip("\n"), execution_count=1))
    for count in range(2, 24):
        cell = v4.new_code_cell("import math, rlkit\nassert math.pi > 3", execution_count=count)
        cells.append(cell)
    shown = {"text/html": f'<img alt="a small dot" src="{dot}">', "text/plain": "a small dot"}
    cells[2].outputs = [v4.new_output("display_data", shown)]
    described = {"image/png": {"alt": "a small dot"}}
    cells[3].outputs = [v4.new_output("display_data", {"image/png": "iVBORw0KGgo="}, metadata=described)]
    cells[4].outputs = [v4.new_output("stream", text="runs/demo, https://example.org/home/page, 3/4\n")]
    cells[4].metadata["tags"] = ["nbval-check-output"]
    parts = ("What people get wrong", "In two minutes", "Words and symbols", "Where to read on")
    prose = [
        f"<details><summary>Why?</summary>![a small dot]({dot})</details>",
        "**Predict:** a\n\n**Predict:** b",
    ]
    prose += ["**Predict:** c", *(f"## {part}" for part in parts)]
    cells.append(v4.new_markdown_cell("\n\n".join(prose)))
    for count, name in enumerate(exercises.names()[:2]):
        cells += exercise_cells(name, 24 + 2 * count)
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})


def exercise_cells(name: str, count: int) -> list:
    """The four cells of an exercise, as the course writes them."""
    v4, exercise = nbformat.v4, exercises.find(name)
    source = textwrap.dedent(inspect.getsource(exercise.solution))
    function = exercise.solution.__name__
    heading = f"### Exercise 1 · {exercise.title} ({exercise.difficulty}, {exercise.minutes} minutes)"
    statement = v4.new_markdown_cell(f"{heading}\n\n<details><summary>Hint</summary>Think.</details>")
    arguments = ", ".join(inspect.signature(exercise.solution).parameters)
    stub = v4.new_code_cell(f'def {function}({arguments}):\n    """What it does."""\n    ...  # your code')
    stub.execution_count, stub.metadata["nbgrader"] = count, nbgrader(name, solution=True)
    check = v4.new_code_cell(f'exercises.check("{name}", {function})', execution_count=count + 1)
    check.metadata.update(nbgrader=nbgrader(f"{name}-check", grade=True), tags=["nbval-check-output"])
    said = {"text/plain": f"○ {name}: Not solved yet: …"}
    check.outputs = [v4.new_output("execute_result", said, execution_count=count + 1)]
    fold = f"<details><summary>Solution</summary>\n\n```python\n{source}```\n\nBecause.\n\n</details>"
    return [statement, stub, check, v4.new_markdown_cell(fold, metadata={"tags": ["solution"]})]


def nbgrader(name: str, solution: bool = False, grade: bool = False) -> dict:
    about = {"grade_id": name, "solution": solution, "grade": grade, "locked": grade, "task": False}
    return {**about, "schema_version": 3, **({"points": 2} if grade else {})}
