"""The course's conventions for notebooks: every rule is a function from a notebook to the list of its faults."""

from __future__ import annotations

import ast
import html.parser
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlkit import exercises
from rlkit.classroom import solving

nbformat = pytest.importorskip("nbformat")

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("[0-9][0-9]_*.ipynb"))  # not the copies that learners keep beside them
SETUP_CELL = Path(__file__).parent / "setup_cell.txt"

CELLS = range(25, 46)
MOST_LINES = 25
LARGEST_PICTURE = 150_000  # bytes of base64 text
TAGS = {"nbval-ignore-output", "nbval-check-output"}  # no cell is skipped or may raise
EXERCISES = range(2, 5)  # of a notebook
# What a notebook may import: rlkit and what it stands on. Of widget packages ipywidgets alone: others need
# front-end code that Colab does not load.
PACKAGES = {"rlkit", "rlkit_kernels", "torch", "transformers", "numpy", "matplotlib", "IPython", "ipywidgets"}
MACHINE_PATH = re.compile(
    r"(?<![\w.:/])/(?:home|root|Users|work|tmp|var|usr|opt|mnt|content|private)/|\b[A-Za-z]:\\\\?\w"
)
DATA_URI = re.compile(r"data:image/[a-z+]+;base64,[A-Za-z0-9+/=]*")
FENCE = re.compile(r"^(```|~~~).*?^\1", re.M | re.S)
MARKDOWN_IMAGE = re.compile(r"!\[([^\]]*)\]\(")


# ------------------------------------------------------------------------------------------- reading


def code_cells(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tags(cell) -> set[str]:
    return set(cell.metadata.get("tags", ()))


def _outputs(cell) -> list:
    return cell.get("outputs", [])  # prose has none


def bundles(cell) -> Iterator:
    """The outputs of a cell that are shown in one of several forms: pictures, tables, values."""
    return (output for output in _outputs(cell) if output.output_type in ("display_data", "execute_result"))


def texts(cell) -> Iterator[str]:
    """Everything in a cell's outputs that can be read, without the bytes of pictures."""
    for output in _outputs(cell):
        if output.output_type == "stream":
            yield output.text
        elif output.output_type == "error":
            yield "\n".join(output.traceback)
    for output in bundles(cell):
        for kind, value in output.data.items():
            if not kind.startswith("image/") and isinstance(value, str):
                yield DATA_URI.sub("", value)


class _Images(html.parser.HTMLParser):
    """Collects the attributes of every <img>."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[dict[str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.found.append(dict(attrs))


def images(notebook) -> Iterator[tuple[int, str, str]]:
    """(cell number, alt text, what is shown) of every picture, in markdown and in outputs."""
    for number, cell in enumerate(notebook.cells):
        pages = []
        if cell.cell_type == "markdown":
            prose = FENCE.sub("", cell.source)
            yield from ((number, match.group(1), "") for match in MARKDOWN_IMAGE.finditer(prose))
            pages.append(prose)
        else:
            for output in bundles(cell):
                for kind, value in output.data.items():
                    if kind.startswith("image/"):
                        yield number, output.metadata.get(kind, {}).get("alt") or "", value
                    elif kind == "text/html":
                        pages.append(value)
        for page in pages:
            for image in _Images(page).found:
                yield number, image.get("alt") or "", image.get("src") or ""


# --------------------------------------------------------------------------------------------- rules


def of_the_right_length(notebook) -> list[str]:
    count = len(notebook.cells)
    return [] if count in CELLS else [f"{count} cells: {CELLS.start} to {CELLS.stop - 1} are asked for"]


def short_cells(notebook) -> list[str]:
    lengths = [(n, len(c.source.splitlines())) for n, c in enumerate(notebook.cells) if c.cell_type == "code"]
    return [
        f"cell {n}: {lines} lines of code, {MOST_LINES} at most" for n, lines in lengths if lines > MOST_LINES
    ]


def executed_in_order(notebook) -> list[str]:
    """Also what nbval needs: without an execution count it compares nothing and says nothing."""
    counts = [cell.execution_count for cell in code_cells(notebook)]
    wanted = list(range(1, len(counts) + 1))
    return [] if counts == wanted else [f"execution counts {counts}: not run from top to bottom in one go"]


def without_errors(notebook) -> list[str]:
    return [
        f"cell {n}: a stored error, {output.ename}"
        for n, cell in enumerate(notebook.cells)
        if cell.cell_type == "code"
        for output in cell.outputs
        if output.output_type == "error"
    ]


def described_pictures(notebook) -> list[str]:
    return [
        f"cell {n}: a picture without alt text" for n, alt, _ in images(notebook) if len(alt.strip()) < 10
    ]


def small_pictures(notebook) -> list[str]:
    sizes = [(n, len(source)) for n, _, source in images(notebook)]
    return [f"cell {n}: a picture of {size:,} bytes" for n, size in sizes if size > LARGEST_PICTURE]


def no_machine_paths(notebook) -> list[str]:
    return [
        f"cell {n}: a path of one machine: {match.group()!r} in {text[match.start() : match.end() + 30]!r}"
        for n, cell in enumerate(notebook.cells)
        for text in ([cell.source] if cell.cell_type == "markdown" else [cell.source, *texts(cell)])
        for match in MACHINE_PATH.finditer(text)
    ]


def checked_cells_have_output(notebook) -> list[str]:
    checked = [
        (n, cell)
        for n, cell in enumerate(notebook.cells)
        if "nbval-check-output" in cell.metadata.get("tags", ())
    ]
    return [f"cell {n}: nothing stored to compare with" for n, cell in checked if not cell.get("outputs")]


def something_is_checked(notebook) -> list[str]:
    checked = any("nbval-check-output" in tags(cell) for cell in code_cells(notebook))
    asserted = any(isinstance(node, ast.Assert) for cell in code_cells(notebook) for node in nodes(cell))
    missing = ["a cell tagged nbval-check-output"] * (not checked) + ["a claim as `assert`"] * (not asserted)
    return [f"there is not {what}" for what in missing]


def known_tags(notebook) -> list[str]:
    return [
        f"cell {n}: the tags {sorted(tags(cell))}; known are {sorted(TAGS)}, and not both"
        for n, cell in enumerate(notebook.cells)
        if tags(cell) - (TAGS if cell.cell_type == "code" else {"solution"}) or tags(cell) == TAGS
    ]


def known_imports(notebook) -> list[str]:
    return [
        f"cell {n}: imports {module}"
        for n, cell in enumerate(notebook.cells)
        if cell.cell_type == "code"
        for module in _imports(cell)
        if module not in PACKAGES and module not in sys.stdlib_module_names
    ]


def plain_python(notebook) -> list[str]:
    """No ``%magic`` and no ``!command``: every cell is Python, and whole."""
    faults = []
    for n, cell in enumerate(notebook.cells):
        if cell.cell_type == "code":
            try:
                ast.parse(cell.source)
            except SyntaxError as error:
                faults.append(f"cell {n}: {error}")
    return faults


def python3_kernel(notebook) -> list[str]:
    name = notebook.metadata.get("kernelspec", {}).get("name")
    return [] if name == "python3" else [f"kernel {name!r}: python3 is the name that everybody has"]


def announced(notebook) -> list[str]:
    """The first cell says what one learns, what one needs and how long it takes."""
    first = notebook.cells[0].source if notebook.cells[0].cell_type == "markdown" else ""
    wanted = {"a title": r"^# \S", "the hardware": r"\b(GPU|CPU|laptop)\b", "the time": r"\*\*Time:?\*\*"}
    return [
        f"the first cell does not state {what}"
        for what, how in wanted.items()
        if not re.search(how, first, re.M)
    ]


def closed_folds(notebook) -> list[str]:
    return [
        f"cell {n}: <details> and <summary> do not close"
        for n, cell in enumerate(notebook.cells)
        if cell.cell_type == "markdown"
        and len({cell.source.count(mark) for mark in ("<details>", "</details>", "<summary>", "</summary>")})
        > 1
    ]


def opened_everywhere(notebook) -> list[str]:
    """Badges in the first cell, and in the second the set-up cell that all notebooks share."""
    first = notebook.cells[0].source
    faults = [
        f"no badge {name!r}" for name in ("Open in Colab", "Launch on Binder") if f"[![{name}](" not in first
    ]
    setup = re.sub(r'^SOURCE = "[^"]*"', 'SOURCE = ""', notebook.cells[1].source, flags=re.M)
    return faults + ["the second cell is not the set-up cell"] * (
        setup != SETUP_CELL.read_text().rstrip("\n")
    )


def with_its_parts(notebook) -> list[str]:
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    wanted = ("What people get wrong", "In two minutes", "Words and symbols", "Where to read on")
    faults = [f"no section {name!r}" for name in wanted if not re.search(rf"^## .*{name}", text, re.M)]
    predictions = len(re.findall(r"^\*\*Predict", text, re.M))
    return faults + [f"{predictions} predictions, 3 are asked for"] * (predictions < 3)


def whole_exercises(notebook) -> list[str]:
    """Statement, stub, check and folded solution, in this order, and all of them those of `rlkit.exercises`."""
    found = list(solving.stubs(notebook))
    faults = [] if len(found) in EXERCISES else [f"{len(found)} exercises, 2 to 4 are asked for"]
    for number, name in found:
        statement, stub, check, fold = notebook.cells[number - 1 : number + 3]
        exercise = exercises.find(name)
        heading = f"· {exercise.title} ({exercise.difficulty}, {exercise.minutes} minutes)"
        block = re.search(r"^```python\n(.*?)^```", fold.source, re.M | re.S)
        function = exercise.solution.__name__
        wanted = {
            f"its heading does not end with {heading!r}": heading in statement.source,
            "no hint": "<summary>Hint</summary>" in statement.source,
            "the stub is solved": "your code" in stub.source and len(stub.source.splitlines()) <= MOST_LINES,
            "no docstring": '"""' in stub.source,
            "the check is another": check.source == f'exercises.check("{name}", {function})',
            "the check is not nbgrader's": (number + 1, name) in list(solving.checks(notebook)),
            "no tag `solution`": tags(fold) == {"solution"},
            "the fold holds another solution": bool(block)
            and _code_of(block.group(1)) == _code_of(exercise.solution),
            "it was stored as solved": "Not solved yet" in "".join(texts(check)),
        }
        faults += [f"exercise {name}: {fault}" for fault, holds in wanted.items() if not holds]
    return faults


def _code_of(function) -> str:
    """The code of a function without docstring and annotations, formatted in one way."""
    text = function if isinstance(function, str) else textwrap.dedent(inspect.getsource(function))
    node = next(one for one in ast.parse(text).body if isinstance(one, ast.FunctionDef))
    if ast.get_docstring(node):
        node.body = node.body[1:]
    node.returns = None
    for argument in ast.walk(node.args):
        if isinstance(argument, ast.arg):
            argument.annotation = None
    return ast.unparse(node)


def nodes(cell) -> Iterator[ast.AST]:
    try:
        yield from ast.walk(ast.parse(cell.source))
    except SyntaxError:  # `plain_python` says so
        return


def _imports(cell) -> Iterator[str]:
    for node in nodes(cell):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or ".").partition(".")[0]
