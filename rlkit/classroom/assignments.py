"""The course's notebooks as nbgrader assignments, and the grading of what comes back.

    python -m rlkit.classroom assignments notebooks --to classroom
    python -m rlkit.classroom autograde submissions --to classroom     # submissions/<student>/<notebook>.ipynb

`classroom` is then an ordinary nbgrader course: ``source/`` with solutions and hidden tests, ``release/`` to hand out,
``submitted/``, ``autograded/``, ``feedback/`` and ``grades.csv``. nbgrader's own commands work in it, too.
"""

from __future__ import annotations

import csv
import json
import os
import secrets
import shutil
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from rlkit.classroom import solving
from rlkit.classroom.execute import LIMIT, QUIET
from rlkit.errors import ConfigError, RlkitError

STUB = "...  # your code"
SETTINGS = "classroom.json"  # the seed of the hidden tests
CONFIG = """# nbgrader's settings for this course; written by `python -m rlkit.classroom assignments`.
c = get_config()
c.CourseDirectory.course_id = "rlkit"
c.ClearSolutions.code_stub = {{"python": "{stub}"}}
c.ClearSolutions.enforce_metadata = False
c.ExecutePreprocessor.timeout = {limit}
c.ExecutePreprocessor.startup_timeout = 120
"""


class GradingError(RlkitError, RuntimeError):
    """nbgrader could not make or grade an assignment; the message is its own."""


def assignments(notebooks: Sequence[Path], to: Path, seed: int | None = None) -> list[Path]:
    """Write the student version of each notebook into ``to``/release, and return their paths.

    ``seed`` draws the inputs of the hidden tests; by default a secret one, kept in ``to``/classroom.json.
    """
    import nbformat

    to.mkdir(parents=True, exist_ok=True)
    settings = to / SETTINGS
    if seed is None:
        seed = json.loads(settings.read_text())["seed"] if settings.exists() else secrets.randbelow(10**9)
    settings.write_text(json.dumps({"seed": seed}) + "\n")
    (to / "nbgrader_config.py").write_text(CONFIG.format(stub=STUB, limit=LIMIT))
    released = []
    for path in tqdm(notebooks, desc="assignments", unit="notebook", disable=None):
        notebook = nbformat.read(path, as_version=4)
        if not list(solving.stubs(notebook)):
            raise ConfigError(f"{path.name} holds no exercise that could be handed out")
        folder = to / "source" / path.stem
        folder.mkdir(parents=True, exist_ok=True)
        nbformat.write(solving.to_grade(notebook), folder / path.name)
        pictures = path.parent / "pictures"
        if pictures.is_dir():
            for picture in pictures.glob("*.svg"):  # the badges at the top
                (folder / "pictures").mkdir(exist_ok=True)
                shutil.copy(picture, folder / "pictures")
        _succeed(_nbgrader(to).generate_assignment(path.stem, force=True, create=True), path.stem)
        released.append(to / "release" / path.stem / path.name)
    return released


def autograde(submissions: Path, to: Path) -> Path:
    """Grade ``submissions``/<student>/<notebook>.ipynb, write feedback as HTML, and return the path of grades.csv.

    A student without a notebook gets 0 for it. Notebooks of other names are refused, and named, before anything is
    graded. Raises ``GradingError`` for submissions that nbgrader cannot read, after all the others have been graded.
    """
    known = {path.stem for path in (to / "release").glob("*/*.ipynb")}
    if not known:
        raise ConfigError(f"{to} holds no assignments: make them first.")
    found = sorted(path for path in submissions.glob("*/*.ipynb"))
    if not found:
        raise ConfigError(f"no submission in {submissions}: expected <student>/<notebook>.ipynb")
    strange = [str(path.relative_to(submissions)) for path in found if path.stem not in known]
    if strange:
        raise ConfigError(
            f"not the name of an assignment: {', '.join(strange)}. Assignments: {', '.join(sorted(known))}"
        )
    os.environ[solving.SEED] = str(json.loads((to / SETTINGS).read_text())["seed"])
    failed = []
    for path in tqdm(found, desc="grading", unit="notebook", disable=None):
        folder = to / "submitted" / path.parent.name / path.stem
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder)
        api = _nbgrader(to)
        try:
            _succeed(api.autograde(path.stem, path.parent.name, force=True, create=True), str(path))
            # What training wrote; feedback would hold a second copy.
            shutil.rmtree(to / "autograded" / path.parent.name / path.stem / "runs", ignore_errors=True)
            _succeed(api.generate_feedback(path.stem, path.parent.name, force=True), str(path))
        except GradingError as error:
            failed.append(str(error))
    grades = write_grades(to)
    if failed:
        raise GradingError(
            f"{len(failed)} of {len(found)} notebooks could not be graded; {grades} has the others.\n"
            + "\n".join(failed)
        )
    return grades


def write_grades(to: Path) -> Path:
    """Write grades.csv: one line a student and exercise, with points, and of how many; 0 where nothing was graded."""
    from nbgrader.api import Gradebook

    rows = []
    with Gradebook(f"sqlite:///{to / 'gradebook.db'}") as book:
        got = {  # (student, assignment, grade cell) -> points
            (submission.student.id, assignment.name, grade.name): grade.auto_score
            for assignment in book.assignments
            for submission in assignment.submissions
            for notebook in submission.notebooks
            for grade in notebook.grades
        }
        for student in book.students:
            for assignment in book.assignments:
                for cell in sorted(
                    (cell for notebook in assignment.notebooks for cell in notebook.grade_cells),
                    key=lambda one: one.name,
                ):
                    points = got.get((student.id, assignment.name, cell.name)) or 0.0
                    name = cell.name.removesuffix(solving.SUFFIX)
                    rows.append([student.id, assignment.name, name, points, cell.max_score])
    target = to / "grades.csv"
    with open(target, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["student", "assignment", "exercise", "points", "of"])
        writer.writerows(rows)
    return target


def _nbgrader(to: Path) -> Any:
    _find_alembic()
    from nbgrader.apps import NbGraderAPI
    from sqlalchemy.exc import SAWarning
    from traitlets.config import Config

    warnings.filterwarnings(
        "ignore", category=SAWarning, module="nbgrader"
    )  # of its own making, and harmless

    config = Config()
    config.CourseDirectory.root = str(to.resolve())
    config.CourseDirectory.course_id = "rlkit"
    (to / "exchange").mkdir(exist_ok=True)
    config.Exchange.root = str(
        to.resolve() / "exchange"
    )  # not used, but it must be a folder that can be written to
    config.CourseDirectory.db_url = f"sqlite:///{to.resolve() / 'gradebook.db'}"
    config.ClearSolutions.code_stub = {"python": STUB}
    config.ExecutePreprocessor.timeout = LIMIT
    config.ExecutePreprocessor.startup_timeout = 120
    config.ExecutePreprocessor.extra_arguments = QUIET
    return NbGraderAPI(config=config)


def _find_alembic() -> None:
    """nbgrader starts `alembic` by its bare name: it must be found also where no environment was activated."""
    beside = str(Path(sys.executable).parent)
    if beside not in os.environ.get("PATH", "").split(os.pathsep):
        os.environ["PATH"] = os.pathsep.join([beside, os.environ.get("PATH", "")])


def _succeed(answer: dict[str, Any], what: str) -> None:
    if not answer["success"]:
        raise GradingError(f"{what}: {answer.get('error') or ''}\n{answer.get('log') or ''}".strip())
