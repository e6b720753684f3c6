"""Slides for reveal.js, made from the course's notebooks: `nbconvert` writes them, this decides what is a slide.

    python -m rlkit.classroom slides notebooks/07*.ipynb --to slides
    npm install --prefix slides reveal.js@4 mathjax@3                  # once, for rooms without a network
    python -m rlkit.classroom slides notebooks/07*.ipynb --to slides --reveal slides/node_modules/reveal.js

Notebooks are written to be read: cells hold several paragraphs, questions and folds. A class sees less at a time, and
in another order: a question stands alone until everybody has voted; hints stay folded; solutions and answers are in
the speaker's notes (key S), where the teacher sees them first. Set-up and checks of exercises are left out.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlkit.classroom import solving
from rlkit.classroom.slide_pages import Deck
from rlkit.errors import ConfigError

TEMPLATE = Path(__file__).with_name("slides.html.jinja")
MATHJAX = "https://unpkg.com/mathjax@3.2.2"
ENGINE = "es5/tex-svg.js"  # one file, without fonts to be loaded later
INSTALL = "npm install --prefix slides reveal.js@4 mathjax@3"


def slides(notebooks: Sequence[Path], to: Path, reveal: str = "") -> list[Path]:
    """Write ``to``/<notebook>.slides.html for each notebook, and return their paths.

    ``reveal`` is the address or the folder of reveal.js, by default nbconvert's address. From a folder the slides work
    without a network; formulas then need a folder `mathjax` beside it, and are shown as TeX where there is none.
    """
    prefix, mathjax = _sources(reveal, to)
    written = []
    for path in notebooks:
        deck = as_slides(_read(path))
        if not deck.cells:
            raise ConfigError(f"{path} holds no text: there is nothing to make slides of")
        page = _export(deck, path.stem, prefix, mathjax)
        to.mkdir(parents=True, exist_ok=True)
        target = to / f"{path.stem}.slides.html"
        target.write_text(page, encoding="utf-8")
        written.append(target)
    return written


def as_slides(notebook: Any) -> Any:
    """A copy of ``notebook`` whose cells are what stands on slides, and say so in the metadata that nbconvert reads."""
    deck = Deck()
    left_out = {number for number, _ in solving.checks(notebook)}
    stubs = {number for number, _ in solving.stubs(notebook)}
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown" and solving.SOLUTION in cell.metadata.get("tags", ()):
            deck.note(cell.source)
        elif cell.cell_type == "markdown":
            deck.prose(cell.source)
        elif cell.cell_type == "code" and deck.section and number not in left_out:
            deck.code(cell, stub=number in stubs)  # code before the first section is set-up
    made = type(notebook)(notebook)
    made.cells, made.metadata = deck.cells(), {**notebook.metadata, "title": deck.title}
    return made


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


def _export(deck: Any, name: str, prefix: str, mathjax: str) -> str:
    try:
        from nbconvert.exporters import SlidesExporter
    except ImportError as error:
        raise ConfigError("slides need nbconvert: pip install 'rlkit-notebooks[classroom]'") from error
    exporter = SlidesExporter(
        raw_template=TEMPLATE.read_text(encoding="utf-8"),
        reveal_theme="white",  # the only light one that loads no fonts from elsewhere
        mathjax_url=mathjax,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        exclude_anchor_links=True,
    )
    if prefix:
        exporter.reveal_url_prefix = prefix
    return str(exporter.from_notebook_node(deck, resources={"metadata": {"name": name}})[0])
