"""Slides: what of a notebook stands on which slide, what only the speaker sees, and what is loaded from where."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import nbformat
import pytest
from notebook_rules import FOLDER, MACHINE_PATH
from sample_notebook import exercise_cells

from rlkit import exercises
from rlkit.classroom.__main__ import main
from rlkit.classroom.slide_pages import CODE_ROOM, ROOM, blocks, height
from rlkit.classroom.slides import as_slides, slides
from rlkit.errors import ConfigError

v4 = nbformat.v4
NAME = next(name for name in exercises.names() if name.startswith("07"))
TITLE = """# A title

[![Open in Colab](pictures/open-in-colab.svg)](README.md#on-colab)

A promise.

**You can afterwards**

- say a goal."""
SECTION = """## 1. A section about `x`

It is short; see [04](04_policy_gradient.ipynb).

What was asked before.

**Predict:** is it so?

<details><summary>Think first</summary>

No, because.
</details>

What follows."""


def cell_with(*outputs, source: str = "print(1)"):
    cell = v4.new_code_cell(source, execution_count=1)
    cell.outputs = list(outputs)
    return cell


def said(text: str):
    return v4.new_output("stream", text=text)


def shown(html: str):
    return v4.new_output("display_data", {"text/html": html, "text/plain": "what it shows"})


def pages(notebook) -> list[list]:
    """The cells of each slide."""
    found: list[list] = []
    for cell in as_slides(notebook).cells:
        if cell.metadata.slideshow.slide_type in ("slide", "subslide"):
            found.append([])
        found[-1].append(cell)
    return found


def kinds(page) -> list[str]:
    return [cell.metadata.slideshow.slide_type for cell in page]


def text_of(page, kind: str = "") -> str:
    return "\n".join(c.source for c in page if kind in ("", c.metadata.slideshow.slide_type))


@pytest.fixture
def lesson():
    setup = [v4.new_code_cell("# Set-up."), v4.new_code_cell("import torch")]
    section = [v4.new_markdown_cell(SECTION), cell_with(said("1\n"))]
    return v4.new_notebook(cells=[v4.new_markdown_cell(TITLE), *setup, *section, *exercise_cells(NAME, 5)])


# --------------------------------------------------------------------------------- what stands where


def test_title_and_goals_come_first_and_what_is_for_readers_goes_into_the_notes(lesson):
    first, second = pages(lesson)[:2]
    assert kinds(first) == ["slide", "notes"] and kinds(second)[0] == "slide"
    assert first[0].source == "# A title\n\n**You can afterwards**\n\n- say a goal."
    assert first[1].source == "A promise."
    assert as_slides(lesson).metadata.title == "A title"


def test_a_question_stands_alone_until_the_next_click(lesson):
    section, question, rest = pages(lesson)[1:4]
    # The link is gone: it would lead nowhere.
    assert text_of(section) == "## 1. A section about `x`\n\nIt is short; see 04."
    assert kinds(question) == ["subslide", "fragment", "notes"]
    assert "What was asked before." in question[0].source and "is it so?" in question[0].source
    assert "No, because." in question[1].source and "<details" not in question[1].source
    assert question[2].source == "**Think first**\n\nNo, because."
    assert "What follows." in text_of(rest) and "A section about x" in text_of(rest)


def test_output_waits_for_a_click_too_and_set_up_and_checks_are_left_out(lesson):
    deck = as_slides(lesson)
    everything = "\n".join(cell.source for cell in deck.cells)
    assert "Set-up" not in everything and "import torch" not in everything
    assert "exercises.check" not in everything
    code, output = [cell for cell in pages(lesson)[3] if cell.cell_type == "code"]
    assert code.source == "print(1)" and not code.outputs
    assert output.metadata.slideshow.slide_type == "fragment" and output.metadata.transient.remove_source
    assert output.outputs[0].text == "1\n" and lesson.cells[4].outputs  # of a copy


def test_exercise_has_its_stub_and_hint_on_the_slide_and_its_solution_in_the_notes(lesson):
    page = pages(lesson)[-1]
    assert text_of(page).count("...  # your code") == 1
    assert "Solution" in text_of(page, "notes")
    assert all("Solution" not in text_of(one[:-1]) for one in pages(lesson))


def test_long_cells_are_spread_evenly_over_slides_that_are_not_too_high():
    paragraph = "A sentence of some length stands here, and says little. " * 5
    items = "\n".join(f"- {paragraph}" for _ in range(7))
    notebook = v4.new_notebook(cells=[v4.new_markdown_cell("# T"), v4.new_markdown_cell(f"## S\n\n{items}")])
    found = pages(notebook)[1:]
    counts = [text_of(page).count("\n- ") for page in found]
    assert sum(counts) == 7 and max(counts) - min(counts) <= 1
    assert kinds(found[0]) == ["slide"] and all(kinds(page) == ["subslide"] for page in found[1:])
    assert all(sum(height(one) for one in blocks(text_of(page))) <= ROOM + 60 for page in found)


@pytest.mark.parametrize(
    "output", [shown("<style></style><p>a widget"), shown('<img src="data:,">'), said("x\n" * 12)]
)
def test_output_that_does_not_fit_below_its_code_gets_a_slide_of_its_own(output):
    code = cell_with(output, source="x = 1\n" * 22)
    section = v4.new_markdown_cell("## S\n\nA sentence that is not alone, for it is long. " + "Yes. " * 80)
    found = pages(v4.new_notebook(cells=[v4.new_markdown_cell("# T"), section, code]))[2:]
    assert [kinds(page) for page in found] == [["subslide", "-"], ["subslide", "-"]]
    assert not found[0][1].outputs and found[1][1].outputs == [output]
    assert CODE_ROOM < 720


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("one\nline\n\ntwo", ["one\nline", "two"]),
        ("so:\n- a\n  b\n- c", ["so:", "- a\n  b", "- c"]),
        ("the factor is\n16. That is much", ["the factor is\n16. That is much"]),
        ("1. a\n2. b", ["1. a", "2. b"]),
        ("```python\na\n\nb\n```\nc", ["```python\na\n\nb\n```", "c"]),
        (
            "<details><summary>H</summary>\n\na\n\n</details>\n\nb",
            ["<details><summary>H</summary>\n\na\n\n</details>", "b"],
        ),
        ("$$x$$\n\n$$\ny\n\n$$", ["$$x$$", "$$\ny\n\n$$"]),
        ("## h\ntext\n### i", ["## h", "text", "### i"]),
    ],
)
def test_text_is_cut_only_where_it_may_be(text, wanted):
    assert list(blocks(text)) == wanted


# ----------------------------------------------------------------------------------------- real slides


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with stand-ins for reveal.js and MathJax, in which slides are made."""
    root = tmp_path_factory.mktemp("room")
    for name in ("reveal.js/dist/reveal.js", "mathjax/es5/tex-svg.js"):
        (root / "node_modules" / name).parent.mkdir(parents=True)
        (root / "node_modules" / name).write_text("")
    return root


@pytest.fixture(scope="module")
def page(folder) -> str:
    pytest.importorskip("nbconvert")
    (path,) = slides(
        [FOLDER / "07_grpo_advantages.ipynb"], folder, str(folder / "node_modules" / "reveal.js")
    )
    assert path == folder / "07_grpo_advantages.slides.html"
    return path.read_text(encoding="utf-8")


def test_a_real_notebook_gives_its_sections_and_hides_its_solutions(page):
    assert "<title>GRPO advantages: marking on a curve slides</title>" in page
    assert 45 <= len(re.findall(r"<section", page)) - len(re.findall(r"<h2", page)) <= 80
    headings = re.findall(r"<h2[^>]*>(.*?)</h2>", page)
    assert headings[0].startswith("1. Why") and headings[-1] == "Where to read on" and len(headings) == 13
    on_slides = re.sub(r'<aside class="notes">.*?</aside>', "", page, flags=re.S)
    assert "<strong>Solution</strong>" in page and "Solution" not in on_slides
    assert on_slides.count("<summary>Hint</summary>") == 4 and "exercises.check" not in page.replace(
        "&quot;", '"'
    )


def test_folds_questions_and_answers_hold_what_belongs_to_them(page):
    """Markdown is read inside of them; nbconvert closes such tags at once where it embeds pictures."""
    fold = re.search(r"<details><summary>Hint</summary>(.*?)</details>", page, re.S)[1]
    assert "keepdim=True" in fold and "<p>" in fold
    assert re.search(r'<div class="predict">\s*<p><strong>Predict:</strong> 3 and D', page)
    assert re.search(r'<div class="answer">\s*<p>Not always', page)


def test_nothing_is_loaded_from_elsewhere_and_no_path_of_this_machine_is_left(page, folder):
    loaded = re.findall(r"<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=\"(?!data:)([^\"]*)", page)
    assert len(loaded) == 5 and all(one.startswith("node_modules/") for one in loaded), loaded
    assert "node_modules/mathjax/es5/tex-svg.js" in loaded
    assert not re.findall(r"@import|url\(.?https?:|import .* from", page)
    assert str(folder) not in page and not MACHINE_PATH.search(re.sub(r"data:image[^\"]*", "", page))


def test_without_a_local_mathjax_formulas_stay_tex_and_without_options_both_come_from_the_net(
    lesson, tmp_path
):
    pytest.importorskip("nbconvert")
    lesson.cells[3].source += "\n\n$$x_p$$"
    nbformat.write(lesson, tmp_path / "a.ipynb")
    (tmp_path / "reveal" / "dist").mkdir(parents=True)
    (tmp_path / "reveal" / "dist" / "reveal.js").write_text("")
    where = ["slides", str(tmp_path / "a.ipynb"), "--to", str(tmp_path / "out")]
    assert main([*where, "--reveal", str(tmp_path / "reveal")]) == 0
    page = (tmp_path / "out" / "a.slides.html").read_text(encoding="utf-8")
    assert 'src="../reveal/dist/reveal.js"' in page and "tex-svg" not in page and "$$x_p$$" in page
    assert main(where) == 0
    page = (tmp_path / "out" / "a.slides.html").read_text(encoding="utf-8")
    assert page.count("https://unpkg.com/reveal.js") == 4 and "https://unpkg.com/mathjax@3" in page
    assert main([*where, "--reveal", "https://example.org/reveal/"]) == 0
    page = (tmp_path / "out" / "a.slides.html").read_text(encoding="utf-8")
    assert 'src="https://example.org/reveal/dist/reveal.js"' in page


# -------------------------------------------------------------------------------------------- bad input


def test_what_cannot_be_shown_is_said(tmp_path, capsys):
    (tmp_path / "text.ipynb").write_text("no JSON")
    nbformat.write(v4.new_notebook(), tmp_path / "empty.ipynb")
    for name, words in {
        "none": "there is no notebook",
        "text": "is not a notebook",
        "empty": "no text",
    }.items():
        assert main(["slides", str(tmp_path / f"{name}.ipynb"), "--to", str(tmp_path)]) == 1
        told = capsys.readouterr().err
        assert words in told and name in told and "Traceback" not in told
    nowhere = ["slides", str(tmp_path / "empty.ipynb"), "--reveal", str(tmp_path / "reveal")]
    assert main(nowhere) == 1 and "npm install" in capsys.readouterr().err


def test_missing_nbconvert_names_the_extra(lesson, tmp_path, monkeypatch):
    nbformat.write(lesson, tmp_path / "a.ipynb")
    monkeypatch.setitem(sys.modules, "nbconvert.exporters", None)  # what makes an import fail
    with pytest.raises(ConfigError, match=r"rlkit-notebooks\[classroom\]"):
        slides([tmp_path / "a.ipynb"], tmp_path)
