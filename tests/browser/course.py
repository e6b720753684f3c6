"""The course as readers meet it: notebooks opened in JupyterLab, run by its menu, photographed from top to bottom.

    python tests/browser/course.py notebooks/07_grpo_advantages.ipynb --to shots

For every notebook it prints the seconds that "Run All Cells" took, what failed on the page or went looking for the
network, and the pictures to look at. `run_all` and `photograph` are what a test uses of it.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path

from jupyter_pages import REPOSITORY, Book, Stage
from playwright.sync_api import Page

NOTEBOOKS = REPOSITORY / "notebooks"
SCROLLER = ".jp-NotebookPanel .jp-WindowedPanel-outer"
HEIGHT = 1500  # pixels of one picture
OVERLAP = 100


def lay_out(stage: Stage, notebook: Path) -> str:
    """Copy a notebook of the course into the server's folder, with the pictures that it shows; return its name."""
    shutil.copy(notebook, stage.root)
    shutil.copytree(NOTEBOOKS / "pictures", stage.root / "pictures", dirs_exist_ok=True)
    return notebook.name


def run_all(book: Book) -> float:
    """Choose Run → Run All Cells with the mouse, wait for the last cell, and return the seconds it took.

    A cell that raises fails, with its traceback.
    """
    began = time.perf_counter()
    book.page.locator(".lm-MenuBar-itemLabel", has_text="Run").first.click()
    book.page.locator('.lm-Menu-item[data-command="runmenu:run-all"]').click()
    book.finished()
    return time.perf_counter() - began


def photograph(page: Page, folder: Path, stem: str) -> list[Path]:
    """Pictures of the whole notebook, from its first cell to its last."""
    folder.mkdir(parents=True, exist_ok=True)
    area = page.locator(SCROLLER)
    taken: list[Path] = []
    top, step = 0, HEIGHT - OVERLAP
    while True:
        area.evaluate("(one, top) => one.scrollTo(0, top)", top)
        page.wait_for_timeout(700)  # cells and their formulas are drawn when they come into sight
        taken.append(folder / f"{stem}_{len(taken) + 1:02d}.png")
        area.screenshot(path=taken[-1])
        bottom = area.evaluate("one => one.scrollHeight - one.clientHeight")
        if top >= bottom - 2 or len(taken) == 60:
            return taken
        top += step


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "notebooks", nargs="*", type=Path, default=sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
    )
    parser.add_argument("--to", type=Path, default=Path("shots"), help="folder for the pictures")
    arguments = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        stage = Stage(Path(folder))
        try:
            for notebook in arguments.notebooks:
                book = stage.open_file(lay_out(stage, notebook), height=HEIGHT + 150)
                try:
                    seconds = run_all(book)
                    pictures = photograph(book.page, arguments.to, notebook.stem)
                    faults = [*book.errors, *book.alerts, *stage.outside]
                    print(
                        f"{notebook.stem}: {seconds:.0f} s, {len(pictures)} pictures; {faults or 'no fault'}",
                        flush=True,
                    )
                except AssertionError as error:
                    print(f"{notebook.stem}: {error}", flush=True)
                    failed += 1
                finally:
                    stage.outside.clear()
                    book.close()
        finally:
            stage.close()
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
