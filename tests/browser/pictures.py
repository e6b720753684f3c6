"""Pictures of the widgets for notebooks/widgets.md, from a real JupyterLab: ``make pictures``, or some of them by name.

    python tests/browser/pictures.py kl_explorer clip_explorer

What is opened is the line of code that the page shows above each picture; `MOVES` says what is done with it first.
Pillow, which cuts and saves them, comes with matplotlib.
"""

from __future__ import annotations

import io
import re
import sys
import tempfile
from pathlib import Path

from jupyter_pages import REPOSITORY, Book, Stage
from PIL import Image

PAGE = REPOSITORY / "notebooks" / "widgets.md"
WINDOW = 1180  # pixels, of which a widget takes about 1,000
TALLEST = 1150  # pixels; what is longer is cut off at its bottom
LARGEST = 100_000  # bytes
COLORS = (256, 128, 64, 32)  # the most that fit into it

#: By picture: what is done with the widget `w` before the picture is taken.
MOVES = {
    "sample_inspector": "w.left.show(7)",
    "preference_rater": "w.rater.value = 'Ada'",
    "clip_explorer": "w.ratio.value = 1.4",
    "kl_explorer": "w.draws.value = 2000",
    "patience_simulator": "w.many.click()",
    "grid_world_player": "w.up.click(); w.down.click(); w.down.click(); w.overlay.value = 'optimal'",
}


def sections() -> dict[str, str]:
    """The page's lines of code by their pictures' names, in its order."""
    found = re.findall(
        r"^## \w+\n+```python\n(.+?)\n```.*?\(pictures/(\w+)\.png\)$",
        PAGE.read_text(encoding="utf-8"),
        re.M | re.S,
    )
    return {picture: code for code, picture in found}


def take(book: Book, cell: int, name: str) -> bytes:
    """One widget as a PNG with few colours."""
    panel = book.output(cell).locator(".rlkit").first
    height = (panel.bounding_box() or {"height": 900})["height"]
    book.page.set_viewport_size({"width": WINDOW, "height": int(height) + 300})
    book.settle()
    panel.scroll_into_view_if_needed()
    seen = Image.open(io.BytesIO(panel.screenshot())).convert("RGB")
    seen = seen.crop((0, 0, seen.width, min(seen.height, TALLEST)))
    for colors in COLORS:
        made = io.BytesIO()
        seen.quantize(colors, method=Image.Quantize.MEDIANCUT, kmeans=3, dither=Image.Dither.NONE).save(
            made, "PNG", optimize=True
        )
        if made.tell() <= LARGEST:
            return made.getvalue()
    raise ValueError(f"the picture {name!r} takes {made.tell():,} bytes, more than {LARGEST:,}")


def main(names: list[str]) -> None:
    known = sections()
    unknown = [name for name in names if name not in known]
    if unknown:
        raise SystemExit(f"no such picture: {', '.join(unknown)}. There are: {', '.join(known)}.")
    names = names or list(known)
    code = [f"w = {known[name]}\n{MOVES.get(name, '')}\nw".replace("\n\n", "\n") for name in names]
    with tempfile.TemporaryDirectory() as folder:
        stage = Stage(Path(folder))
        try:
            book = stage.open(("from rlkit import lab, runs, widgets", *code), width=WINDOW)
            for cell, name in enumerate(names, 1):
                picture = take(book, cell, name)
                target = PAGE.parent / "pictures" / f"{name}.png"
                target.parent.mkdir(exist_ok=True)
                target.write_bytes(picture)
                print(f"{target.relative_to(REPOSITORY)}: {len(picture) / 1000:.0f} kB")
        finally:
            stage.close()


if __name__ == "__main__":
    main(sys.argv[1:])
