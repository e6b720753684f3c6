"""A notebook of the course in JupyterLab: run by the menu, its pictures seen, an exercise solved by typing."""

from __future__ import annotations

import nbformat
import pytest
from course import NOTEBOOKS, lay_out, run_all
from playwright.sync_api import expect

from rlkit.classroom import solving

NOTEBOOK = NOTEBOOKS / "01_agents_and_rewards.ipynb"  # the quickest to run


@pytest.fixture(scope="module")
def lesson(stage):
    book = stage.open_file(lay_out(stage, NOTEBOOK))
    run_all(book)
    yield book
    book.close()


def code_cell(book, number):
    """The code cell that has ``number`` among all cells of the notebook, scrolled to."""
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    count = sum(cell.cell_type == "code" for cell in cells[:number])
    found = book.page.locator(".jp-Notebook .jp-CodeCell").nth(count)
    found.scroll_into_view_if_needed()
    return found


def test_it_runs_without_the_network_or_a_fault(lesson, stage):
    assert (lesson.errors, lesson.alerts, stage.outside) == ([], [], [])


def test_every_picture_is_seen_and_described(lesson):
    lesson.page.locator(".jp-Notebook .jp-Cell").last.scroll_into_view_if_needed()
    pictures = lesson.page.locator(".jp-Notebook .jp-Cell img")
    assert pictures.count() >= 4  # two badges and the figures
    for picture in pictures.all():
        picture.scroll_into_view_if_needed()
        assert picture.evaluate("one => one.decode().then(() => one.naturalWidth)") > 0
        assert len(picture.get_attribute("alt") or "") > 5


def test_an_exercise_is_stubbed_solved_wrongly_and_solved(lesson):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    number, name = next(solving.stubs(notebook))
    stub, check = code_cell(lesson, number), code_cell(lesson, number + 1)
    expect(check.locator(".jp-OutputArea")).to_contain_text("Not solved yet")

    def answer(source):
        stub.locator(".cm-content").click()
        lesson.page.keyboard.press("Control+A")
        lesson.page.keyboard.insert_text(source)
        lesson.page.keyboard.press("Shift+Enter")  # runs it, and goes on to the check
        lesson.page.keyboard.press("Shift+Enter")
        lesson.settle()

    header = next(line for line in notebook.cells[number].source.splitlines() if line.startswith("def "))
    answer(f"{header} return 0.5")
    expect(check.locator(".jp-OutputArea")).to_contain_text("✗")
    answer(solving.filled(notebook.cells[number].source, name))
    expect(check.locator(".jp-OutputArea")).to_contain_text(f"✓ {name}")
