"""Slides for reveal.js, made from the course's notebooks: `nbconvert` writes them, this decides what is a slide.

    python -m rlkit.classroom slides notebooks/07*.ipynb --to slides
    npm install --prefix slides reveal.js@4 mathjax@3                  # once, for rooms without a network
    python -m rlkit.classroom slides notebooks/07*.ipynb --to slides --reveal slides/node_modules/reveal.js

Notebooks are written to be read: cells hold several paragraphs, questions and folds. A class sees less at a time, and
in another order: a question stands alone until everybody has voted; hints stay folded; solutions and answers are in
the speaker's notes (key S), where the teacher sees them first. The set-up and the cells that check exercises are left out.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rlkit.classroom import solving
from rlkit.errors import ConfigError

# Pixels of a slide of 1280 × 720, and characters in its lines: the look is in slides.html.jinja.
ROOM, PROSE = 600, 470  # below the section's name; text alone is tiring where it fills a screen
LINE, CODE_LINE, LETTERS, CODE_LETTERS = 35, 24, 96, 108
TEMPLATE = Path(__file__).with_name("slides.html.jinja")
MATHJAX = "https://unpkg.com/mathjax@3.2.2"
ENGINE = "es5/tex-svg.js"  # one file, without fonts to be loaded later
INSTALL = "npm install --prefix slides reveal.js@4 mathjax@3"

ITEM = re.compile(r"[-*] |\d+\. ")
FOLD = re.compile(r"<details[^>]*>\s*<summary>(.*?)</summary>(.*)</details>", re.S)
LOCAL_LINK = re.compile(
    r"(?<!!)\[([^\[\]]*)\]\((?!https?:|#)[^)]*\)"
)  # leads nowhere from the slides' folder


def slides(notebooks: Sequence[Path], to: Path, reveal: str = "") -> list[Path]:
    """Write ``to``/<notebook>.slides.html for each notebook, and return their paths.

    ``reveal`` is the address or the folder of reveal.js, by default nbconvert's address. From a folder the slides work
    without a network; formulas then need a folder `mathjax` beside it, and are shown as TeX where there is none.
    """
    prefix, mathjax = _sources(reveal, to)
    written = []
    for path in notebooks:
        deck = as_slides(_read(path))
        page = _export(deck, path, prefix, mathjax)
        to.mkdir(parents=True, exist_ok=True)
        target = to / f"{path.stem}.slides.html"
        target.write_text(page, encoding="utf-8")
        written.append(target)
    return written


def as_slides(notebook: Any) -> Any:
    """A copy of ``notebook`` whose cells are what stands on slides, and say so in the metadata that nbconvert reads."""
    deck = _Deck()
    left_out = {number for number, _ in solving.checks(notebook)}
    stubs = {number for number, _ in solving.stubs(notebook)}
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown" and solving.SOLUTION in cell.metadata.get("tags", ()):
            deck.note(cell.source)
        elif cell.cell_type == "markdown":
            deck.prose(cell.source)
        elif cell.cell_type == "code" and deck.section and number not in left_out:
            deck.code(cell, follow=number in stubs)  # code before the first section is set-up
    if not deck.pages:
        raise ConfigError("there is nothing in it that could be shown")
    made = type(notebook)(notebook)
    made.cells = deck.cells()
    made.metadata = {**notebook.metadata, "title": deck.title}
    return made


def blocks(text: str) -> Iterator[str]:
    """The pieces of a markdown text between which a slide may end: paragraphs, items, tables, fences, formulas, folds."""
    lines: list[str] = []
    end = ""  # of the fence, formula or fold that we are in
    for line in text.splitlines():
        bare = line.strip()
        if end:
            lines.append(line)
            if bare.endswith(end):
                end = ""
            continue
        opens = {"```": "```", "~~~": "~~~", "<details": "</details>", "$$": "$$"}
        start = next((mark for mark in opens if bare.startswith(mark)), "")
        in_list = bool(lines) and ITEM.match(lines[0])
        # A line of running text may begin with "16. ": only after nothing or an item it is one.
        item = ITEM.match(line) and (line[0] in "-*" or in_list or not lines)
        if lines and (not bare or start or item or line.startswith("#") or lines[0].startswith("#")):
            yield "\n".join(lines)
            lines = []
        if bare:
            lines.append(line)
        if start and not (bare.endswith(opens[start]) and len(bare) > len(start)):
            end = opens[start]
    if lines:
        yield "\n".join(lines)


def height(block: str) -> int:
    """About how many pixels a piece of markdown needs."""
    if fold := FOLD.match(block):
        return 60 + sum(height(one) + 8 for one in blocks(fold.group(2)))  # as if it were open
    rows = block.splitlines()
    if block.startswith("#"):
        return 24 + 44 * math.ceil(len(block) / 60)
    if block.startswith(("```", "~~~", "    ")):
        return 30 + CODE_LINE * sum(math.ceil(len(row) / CODE_LETTERS) or 1 for row in rows)
    if block.startswith("|"):
        return 20 + sum(12 + 27 * math.ceil(len(row) / LETTERS) for row in rows)
    if block.startswith("$$"):
        return 110
    words = re.sub(r"\]\([^)]*\)", "", block)
    tall = 20 if re.search(r"\$[^$]*\\(d?frac|sum)", words) else 0
    return 14 + tall + LINE * math.ceil(len(words) / LETTERS)


class _Deck:
    """Puts pieces on pages. A page is [slide type, pieces, notes, pixels left]; a piece [is it a fragment, cell]."""

    def __init__(self) -> None:
        self.title, self.section = "", ""
        self.pages: list[tuple[str, list[tuple[bool, Any]], list[str]]] = []
        self.used = 0

    def page(self, kind: str = "subslide") -> None:
        self.pages.append((kind, [], []))
        self.used = 0
        if kind == "subslide" and self.section:
            self.text(f'<p class="where">{self.section}</p>', 0)

    def text(self, source: str, pixels: int, fragment: bool = False) -> None:
        from nbformat.v4 import new_markdown_cell

        pieces = self.pages[-1][1]
        self.used += pixels
        if pieces and not fragment and not pieces[-1][0] and pieces[-1][1].cell_type == "markdown":
            cell = pieces[-1][1]
            tight = ITEM.match(source) and ITEM.match(cell.source.rpartition("\n\n")[2])
            cell.source += ("\n" if tight else "\n\n") + source
        else:
            pieces.append((fragment, new_markdown_cell(source)))

    def note(self, source: str) -> None:
        if self.pages:
            fold = FOLD.match(source.strip())
            self.pages[-1][2].append(f"**{fold.group(1)}**\n\n{fold.group(2).strip()}" if fold else source)

    def prose(self, source: str) -> None:
        """A cell of text. It begins on a new page, since what came before it was code."""
        parts = [LOCAL_LINK.sub(r"\1", one) if not one.startswith("```") else one for one in blocks(source)]
        if parts and not self.title:
            self.first(parts)
            return
        fresh, asked, before = True, False, ""
        exercise = False
        for part in parts:
            fold, pixels = FOLD.match(part), height(part)
            if part.startswith("## "):
                self.section, exercise = part.lstrip("# "), False
                self.page("slide")
            elif part.startswith("#"):
                exercise = True
                self.page()
            elif part.startswith("**Predict"):
                self.question(part, before)
                fresh, asked, before = False, True, ""
                continue
            elif asked and fold:
                self.answer(part)
                fresh, asked = True, False
                continue
            elif asked and not ITEM.match(part):
                asked = False
                self.page()
            elif fresh or self.used + pixels > (ROOM if exercise or fold else PROSE):
                self.page()
            self.text(part, pixels)
            fresh = False
            plain = not (fold or part.startswith(("#", "|", "`", "$", "<")) or ITEM.match(part))
            before = part if plain else ""

    def first(self, parts: list[str]) -> None:
        """The title and the goals; the rest, on how to read the notebook, is for the speaker."""
        self.title = parts[0].lstrip("# ").splitlines()[0]
        self.page("slide")
        self.text(f"# {self.title}", 90)
        for part in parts[1:]:
            if part.startswith("**You can") or ITEM.match(part):
                self.text(part, height(part))
            elif "[![" not in part:
                self.note(part)

    def question(self, part: str, before: str) -> None:
        """A question on a page of its own; the paragraph before it, without which few can be understood, in small."""
        self.page()
        if before and height(before) < 250:
            self.text(f'<div class="context">\n\n{before}\n\n</div>', height(before))
        self.text(f'<div class="predict">\n\n{part}\n\n</div>', 60 + height(part) * 5 // 4)

    def answer(self, part: str) -> None:
        """The fold after a question: a fragment where it fits, else the next page; the teacher reads it before."""
        self.note(part)
        inside = f'<div class="answer">\n\n{FOLD.match(part).group(2).strip()}\n\n</div>'  # type: ignore[union-attr]
        pixels = 20 + height(part)
        if self.used + pixels > ROOM:
            self.page()
            self.text(inside, pixels)
        else:
            self.text(inside, pixels, fragment=True)

    def code(self, cell: Any, follow: bool) -> None:
        """Code on a page of its own, then its outputs: fragments where they fit, else on pages of their own."""
        from nbformat.v4 import new_code_cell

        lines = cell.source.splitlines()
        pixels = 40 + CODE_LINE * sum(math.ceil(len(line) / CODE_LETTERS) or 1 for line in lines)
        if not (follow and self.used + pixels <= ROOM):
            self.page()
        self.pages[-1][1].append((False, new_code_cell(cell.source)))
        self.used += pixels
        alone = False  # do outputs stand on a page without the code?
        for output in cell.outputs:
            pixels = _output_height(output)
            if self.used + pixels > ROOM:
                self.page()
                alone = True
            hidden = new_code_cell("", outputs=[output], metadata={"transient": {"remove_source": True}})
            self.pages[-1][1].append((not alone, hidden))
            self.used += pixels

    def cells(self) -> list[Any]:
        """The pages as cells in nbconvert's terms."""
        from nbformat.v4 import new_markdown_cell

        cells = []
        for kind, pieces, notes in self.pages:
            for number, (fragment, cell) in enumerate(pieces):
                inner = "fragment" if fragment else "-"
                cell.metadata["slideshow"] = {"slide_type": inner if number else kind}
                cells.append(cell)
            if notes:
                about = {"slideshow": {"slide_type": "notes"}}
                cells.append(new_markdown_cell("\n\n".join(notes), metadata=about))
        return cells


def _output_height(output: Any) -> int:
    shown = output.get("data", {})
    html = shown.get("text/html", "")
    if html.startswith("<style>"):
        return ROOM  # a widget
    if re.search(r"<(img|svg)\b", html) or any(kind.startswith("image/") for kind in shown):
        return 420
    if html:
        return 40 + 40 * html.count("<tr")
    text = output.get("text") or shown.get("text/plain", "")
    return 20 + CODE_LINE * sum(math.ceil(len(line) / CODE_LETTERS) or 1 for line in text.splitlines())


def _read(path: Path) -> Any:
    import nbformat

    try:
        return nbformat.read(path, as_version=4)
    except FileNotFoundError:
        raise ConfigError(f"there is no notebook {path}") from None
    except (nbformat.reader.NotJSONError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not a notebook: {error}") from error


def _sources(reveal: str, to: Path) -> tuple[str, str]:
    """The addresses of reveal.js and of MathJax, as the slides say them; "" is nbconvert's, or none for MathJax."""
    if not reveal or re.match(r"https?://", reveal):
        return reveal.rstrip("/"), f"{MATHJAX}/{ENGINE}"
    folder = Path(reveal)
    if not (folder / "dist" / "reveal.js").is_file():
        raise ConfigError(f"there is no dist/reveal.js in {folder}. `{INSTALL}` brings it.")
    engine = folder.parent / "mathjax" / ENGINE
    local = [Path(os.path.relpath(one, to)).as_posix() for one in (folder, engine)]
    return local[0], local[1] if engine.is_file() else ""


def _export(deck: Any, path: Path, prefix: str, mathjax: str) -> str:
    try:
        from nbconvert.exporters import SlidesExporter
    except ImportError as error:
        raise ConfigError("slides need nbconvert: pip install 'rlkit-notebooks[classroom]'") from error
    exporter = SlidesExporter(
        raw_template=TEMPLATE.read_text(encoding="utf-8"),
        reveal_theme="white",  # the only light one that loads no fonts from elsewhere
        mathjax_url=mathjax,
        embed_images=True,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        exclude_anchor_links=True,
    )
    if prefix:
        exporter.reveal_url_prefix = prefix
    resources = {"metadata": {"name": path.stem, "path": str(path.parent)}}
    return str(exporter.from_notebook_node(deck, resources=resources)[0])
