"""``python -m rlkit.classroom``: run, hand out, grade and show the course's notebooks."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rlkit.errors import RlkitError

PACKAGES = {"nbformat", "nbclient", "nbconvert", "nbgrader"}  # the extra `classroom`


def main(argv: Sequence[str] | None = None) -> int:
    """Do what is asked; return 0, or 1 with the reason on stderr."""
    parser = argparse.ArgumentParser(prog="python -m rlkit.classroom", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    execute = commands.add_parser("execute", help="run notebooks and store what they give")
    execute.add_argument("notebooks", nargs="+", type=Path)
    execute.add_argument("--seed", type=int, help="only run, with this seed: do the claims hold?")
    assign = commands.add_parser("assignments", help="student versions: no solutions, hidden tests kept back")
    assign.add_argument("notebooks", nargs="+", type=Path)
    assign.add_argument("--to", type=Path, default=Path("classroom"), help="folder of the course (classroom)")
    assign.add_argument("--seed", type=int, help="draws the hidden tests' inputs (default: a secret one)")
    grade = commands.add_parser("autograde", help="grade <student>/<notebook>.ipynb in a folder")
    grade.add_argument("submissions", type=Path)
    grade.add_argument("--to", type=Path, default=Path("classroom"), help="folder of the course (classroom)")
    badges = commands.add_parser("badges", help="write your copy's address into badges and set-up cells")
    badges.add_argument("address", help='"https://github.com/you/rlkit"; "" takes it out')
    badges.add_argument("notebooks", nargs="+", type=Path)
    badges.add_argument("--branch", default="main")
    slides = commands.add_parser("slides", help="slides for reveal.js, in one HTML file a notebook")
    slides.add_argument("notebooks", nargs="+", type=Path)
    slides.add_argument("--to", type=Path, default=Path("slides"), help="folder to write into (slides)")
    slides.add_argument(
        "--reveal",
        default="",
        metavar="FOLDER_OR_URL",
        help="where reveal.js is (nbconvert's address). For rooms without a network: `npm install --prefix slides "
        "reveal.js@4 mathjax@3`, then --reveal slides/node_modules/reveal.js; formulas use the mathjax beside it",
    )
    arguments = parser.parse_args(argv)
    try:
        return _run(arguments)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in PACKAGES:
            raise
        how = "pip install -e '.[classroom]' in rlkit's repository; `make notebooks` and its likes do it themselves."
        print(f"{package} is not installed: {how}", file=sys.stderr)
        return 1
    except (RlkitError, OSError) as error:
        print(error, file=sys.stderr)
        return 1


def _run(arguments: argparse.Namespace) -> int:
    if arguments.command == "execute":
        return _execute(arguments.notebooks, arguments.seed)
    if arguments.command == "assignments":
        from rlkit.classroom.assignments import assignments

        for path in assignments(arguments.notebooks, arguments.to, arguments.seed):
            print(path)
    elif arguments.command == "autograde":
        from rlkit.classroom.assignments import autograde

        path = autograde(arguments.submissions, arguments.to)
        print(path.read_text(encoding="utf-8"), end="")
        print(f"in {path}; feedback in {arguments.to / 'feedback'}")
    elif arguments.command == "slides":
        from rlkit.classroom.slides import slides

        for path in slides(arguments.notebooks, arguments.to, arguments.reveal):
            print(path)
    else:
        from rlkit.classroom.badges import write_address

        write_address(arguments.notebooks, arguments.address, arguments.branch)
    return 0


def _execute(paths: list[Path], seed: int | None) -> int:
    import nbformat

    from rlkit.classroom.execute import CHECKED, LIVE, changes, execute, keep_unchanged

    failed = 0
    for path in paths:
        print(f"{path.name} …", end=" ", flush=True)
        before, outcome = nbformat.read(path, as_version=4), execute(path, seed)
        if outcome.error:
            print(f"stopped after {outcome.seconds:.0f} s\n{outcome.error}")
            failed += 1
            continue
        print(f"{outcome.seconds:.0f} s")
        if seed is not None:
            continue
        for change in changes(before, outcome.notebook):
            if LIVE not in change.tags:
                failed += CHECKED in change.tags
                kind = "MUST NOT change, and did" if CHECKED in change.tags else "changed"
                print(f"  cell {change.cell} {kind}:", *change.lines[:8], sep="\n    ")
        nbformat.write(keep_unchanged(before, outcome.notebook), path)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
