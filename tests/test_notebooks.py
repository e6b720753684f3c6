"""The notebooks keep the course's conventions; nbval runs them, this reads them.

Every rule is a function from a notebook to the list of its faults. A rule that cannot fail proves nothing, so
each one is also shown a spoiled copy of a good notebook, which it must refuse.
"""

from __future__ import annotations

import ast
import copy
import html.parser
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
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
    asserted = any(isinstance(node, ast.Assert) for cell in code_cells(notebook) for node in _nodes(cell))
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


def _nodes(cell) -> Iterator[ast.AST]:
    try:
        yield from ast.walk(ast.parse(cell.source))
    except SyntaxError:  # `plain_python` says so
        return


def _imports(cell) -> Iterator[str]:
    for node in _nodes(cell):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or ".").partition(".")[0]


# ------------------------------------------------------------------ a good notebook, and how to spoil it


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
        for node in _nodes(cell)
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
