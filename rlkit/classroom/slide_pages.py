"""What stands on which slide: text cut where it may be cut, questions, folds, code and outputs, put on pages.

nbconvert turns the pages into slides (`rlkit.classroom.slides`). Heights are estimates: the browser has the last word.
"""

from __future__ import annotations

import html
import itertools
import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

# Pixels of a slide of 1280 × 720 and characters in its lines, as slides.html.jinja sets them. What is a little higher
# than estimated is shrunk in the browser, so code and outputs may take more than prose.
ROOM, CODE_ROOM, LINE, CODE_LINE, LETTERS, CODE_LETTERS = 590, 680, 35, 24, 96, 108

QUESTION = "**Predict"
PLAIN = re.compile(r"(?![#|`$<]|    |[-*] |\d+\. )")  # a paragraph of text
ITEM = re.compile(r"[-*] |\d+\. ")
FOLD = re.compile(r"<details[^>]*>\s*<summary>(.*?)</summary>\s*(.*?)\s*</details>", re.S)
LOCAL_LINK = re.compile(r"(?<!!)\[([^\[\]]*)\]\((?!https?:|#)[^)]*\)")  # to what is not beside the slides


def blocks(text: str) -> Iterator[str]:
    """The pieces of a text between which a slide may end: paragraphs, items, tables, fences, formulas, folds."""
    lines: list[str] = []
    end = ""  # of the fence, formula or fold that we are in
    for line in text.splitlines():
        bare = line.strip()
        if end:
            lines.append(line)
            if bare.endswith(end):
                yield "\n".join(lines)
                lines, end = [], ""
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
        return 30 + _lines(block)
    if block.startswith("|"):
        return 20 + sum(10 + 26 * math.ceil(len(row) / LETTERS) for row in rows)
    if block.startswith("$$"):
        return 110
    words = re.sub(r"\]\([^)]*\)", "", block)
    tall = 20 if re.search(r"\$[^$]*\\(d?frac|sum)", words) else 0
    return 14 + tall + LINE * math.ceil(len(words) / LETTERS)


class _Piece(NamedTuple):
    """What cannot be divided between slides: markdown, or a code cell."""

    content: Any
    pixels: int
    fragment: bool = False  # shown at the next click

    def prose(self) -> bool:
        return isinstance(self.content, str) and not self.fragment


class _Page(NamedTuple):
    kind: str  # nbconvert's: slide (to the right of the last one) or subslide (below it)
    pieces: list[_Piece]
    notes: list[str]

    def used(self) -> int:
        return sum(piece.pixels for piece in self.pieces)


class Deck:
    """Puts pieces on pages, in the order in which they come."""

    def __init__(self) -> None:
        self.title, self.section = "", ""
        self.pages: list[_Page] = []

    def page(self, kind: str = "subslide") -> None:
        self.pages.append(_Page(kind, [], []))
        if kind == "subslide" and self.section:
            name = html.escape(re.sub(r"[`*]", "", self.section), quote=False)
            self.add(f'<p class="where">{name}</p>', 0)

    def add(self, content: Any, pixels: int, fragment: bool = False) -> None:
        self.pages[-1].pieces.append(_Piece(content, pixels, fragment))

    def fits(self, pixels: int, room: float = ROOM) -> bool:
        return self.pages[-1].used() + pixels <= room

    def bare(self) -> bool:
        """Is there nothing on the page but headings?"""
        return all(str(one.content).startswith(("#", "<p class=")) for one in self.pages[-1].pieces)

    def ends_with_output(self) -> bool:
        last = self.pages[-1].pieces[-1].content
        return not isinstance(last, str) and bool(last.outputs)

    def note(self, source: str) -> None:
        if self.pages:
            self.pages[-1].notes.append(FOLD.sub(r"**\1**\n\n\2", source.strip()))

    def prose(self, source: str) -> None:
        """A cell of text. It begins on a new page, since what came before it was code."""
        parts = [one if one.startswith("```") else LOCAL_LINK.sub(r"\1", one) for one in blocks(source)]
        if not self.title:
            return self.first(parts)
        fresh, asked, budget = True, False, 0.0
        for number, part in enumerate(parts):
            pixels, heading = height(part), part.startswith("#")
            only = not number and (len(parts) == 1 or parts[1].startswith("#")) and not heading
            if asked and FOLD.match(part):
                self.answer(part)
                fresh, asked = True, False
            elif asked := QUESTION in part:
                self.question(part, alone=fresh)
                fresh = True
            elif only and self.ends_with_output() and pixels < 3 * LINE and self.fits(pixels):
                self.add(part, pixels, fragment=True)  # a last word on it
            else:
                if part.startswith("## "):
                    self.section = part.lstrip("# ")
                    self.page("slide")
                elif heading or fresh or not self.fits(pixels, CODE_ROOM if self.bare() else budget):
                    self.page()
                if heading or fresh:
                    budget = self.budget(parts[number:])
                self.add(part, pixels)
                fresh = False
        return None

    def budget(self, parts: list[str]) -> float:
        """Pixels of each page if what follows, up to the next heading or question, is spread evenly."""
        run = itertools.takewhile(lambda one: one[0] != "#" and QUESTION not in one, parts[1:])
        total = height(parts[0]) + sum(height(one) for one in run)
        return min(ROOM, total / math.ceil(total / ROOM) + 2 * LINE)

    def first(self, parts: list[str]) -> None:
        """The title and the goals; the rest, on how to read the notebook, is for the speaker."""
        for part in parts:
            if not self.title:
                self.title = part.lstrip("# ").splitlines()[0]
                self.page("slide")
                self.add(f"# {self.title}", 90)
            elif part.startswith("**You can") or ITEM.match(part):
                self.add(part, height(part))
            elif "[![" not in part:
                self.note(part)

    def question(self, part: str, alone: bool) -> None:
        """A question on a page of its own, with the paragraph before it, without which few can be understood."""
        pieces, before = self.pages[-1].pieces, []
        if not alone and PLAIN.match(pieces[-1].content) and pieces[-1].pixels < 8 * LINE:
            before = [pieces.pop()]
        pixels = 60 + height(part) * 5 // 4
        if alone or not self.bare() or not self.fits(pixels + sum(piece.pixels for piece in before)):
            self.page()
        self.pages[-1].pieces.extend(before)
        self.add(f'<div class="predict">\n\n{part}\n\n</div>', pixels)

    def answer(self, fold: str) -> None:
        """The fold after a question: a fragment where it fits, else the next page; the teacher reads it before."""
        self.note(fold)
        shown = FOLD.sub(r'<div class="answer">\n\n\2\n\n</div>', fold)
        if fragment := self.fits(height(fold)):
            self.add(shown, height(fold), fragment)
        else:
            self.page()
            self.add(shown, height(fold))

    def code(self, cell: Any, stub: bool) -> None:
        """Code, on a new page unless it is a stub or follows a sentence; outputs are fragments where they fit."""
        from nbformat.v4 import new_code_cell

        page = self.pages[-1]
        sentence = page.kind == "subslide" and page.used() < 3 * LINE
        pixels = 40 + _lines(cell.source)
        prose = all(piece.prose() and "predict" not in piece.content for piece in page.pieces)
        if not (prose and (stub or sentence) and self.fits(pixels, CODE_ROOM)):
            self.page()
        self.add(new_code_cell(cell.source), pixels)
        with_code = True
        for output in cell.outputs:
            if not self.fits(_output_height(output), CODE_ROOM):
                self.page()
                with_code = False
            shown = new_code_cell("", outputs=[output], metadata={"transient": {"remove_source": True}})
            self.add(shown, _output_height(output), with_code)

    def cells(self) -> list[Any]:
        """The pages as cells in nbconvert's terms."""
        from nbformat.v4 import new_markdown_cell

        cells = []
        for page in self.pages:
            made: list[Any] = []
            before = None
            for piece in page.pieces:
                if before and before.prose() and piece.prose():
                    # Items without a blank line between them, which would set a list wide.
                    tight = ITEM.match(before.content) and ITEM.match(piece.content)
                    made[-1].source += ("\n" if tight else "\n\n") + piece.content
                else:
                    text = isinstance(piece.content, str)
                    made.append(new_markdown_cell(piece.content) if text else piece.content)
                    made[-1].metadata["slideshow"] = {"slide_type": "fragment" if piece.fragment else "-"}
                before = piece
            made[0].metadata["slideshow"] = {"slide_type": page.kind}
            if page.notes:
                about = {"slideshow": {"slide_type": "notes"}}
                made.append(new_markdown_cell("\n\n".join(page.notes), metadata=about))
            cells += made
        return cells


def _lines(text: str) -> int:
    """Pixels that a program or its output needs."""
    return CODE_LINE * sum(math.ceil(len(line) / CODE_LETTERS) or 1 for line in text.splitlines())


def _output_height(output: Any) -> int:
    shown = output.get("data", {})
    page = shown.get("text/html", "")
    if page.startswith("<style>"):
        return ROOM  # a widget
    if re.search(r"<(img|svg)\b", page) or any(kind.startswith("image/") for kind in shown):
        return 500
    if page:
        return 50 + 45 * page.count("<tr")
    return 20 + _lines(output.get("text") or shown.get("text/plain", ""))
