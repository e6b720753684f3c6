"""Pictures and tables for notebooks, each with its content in words for those who cannot see it.

    figure, axis = figures.new(5, 2.6)
    axis.plot(steps, right, "o-", color=figures.BLUE)
    figures.show(figure, f"Right answers rise from {right[0]:.2f} to {right[-1]:.2f}.")

The colours are those of Okabe and Ito, which colour-blind readers tell apart; give each curve its own marker or
dashes all the same, and each kind of bar its own hatch.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence
from typing import Any

BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#AA4499", "#777777"
DPI = 100
LARGEST = 110_000  # bytes of a PNG: as base64 text it stays below 150 KB, which a notebook can carry


def new(width: float = 5.0, height: float = 2.8, columns: int = 1, rows: int = 1) -> tuple[Any, Any]:
    """A matplotlib figure of ``width`` × ``height`` inches and its axes: one, or an array of rows and columns.

    It belongs to no window and to no global list, so nothing has to be closed.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns)
    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def png(figure: Any, dpi: int = DPI) -> bytes:
    """``figure`` as PNG."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=dpi)
    return stream.getvalue()


def show(figure: Any, alt: str, dpi: int = DPI) -> None:
    """Show ``figure`` in the notebook; ``alt`` says in words what can be seen in it.

    Raises ``ValueError`` where the description is missing, or where the picture is too large to be stored.
    """
    from IPython.display import display

    if len(alt.split()) < 4:
        raise ValueError(f"alt={alt!r} does not say what is in the picture: describe it in a sentence.")
    data = png(figure, dpi)
    if len(data) > LARGEST:
        raise ValueError(
            f"the picture has {len(data):,} bytes, {LARGEST:,} at most: draw fewer points, or set dpi below {dpi}."
        )
    source = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    tag = f'<img src="{source}" alt="{html.escape(alt)}" style="max-width:100%">'
    display({"text/html": tag, "text/plain": alt}, raw=True)


def table(head: Sequence[str], rows: Iterable[Sequence[object]], caption: str = "") -> None:
    """Show a table in the notebook; where no HTML is shown, as text in columns.

    Cells are any values; what a model wrote may stand in them, for it is escaped and never run. Columns whose cells
    are all numbers, or text that begins like one, stand to the right.

    Raises ``ValueError`` for a row that is not as long as ``head``.
    """
    from IPython.display import display

    cells = [[str(cell) for cell in row] for row in rows]
    for number, row in enumerate(cells):
        if len(row) != len(head):
            raise ValueError(f"rows[{number}] has {len(row)} cells, and head has {len(head)}: {row}")
    right = [bool(cells) and all(_number(row[i]) for row in cells) for i in range(len(head))]
    style = [f"text-align:{'right' if one else 'left'}" for one in right]

    def line(tag: str, row: Sequence[str]) -> str:
        # Literal: MathJax would otherwise typeset what stands between two dollar signs.
        inside = "".join(
            f'<{tag} style="{style[i]}">{html.escape(cell)}</{tag}>' for i, cell in enumerate(row)
        )
        return f"<tr>{inside}</tr>"

    said = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    body = line("th", head) + "".join(line("td", row) for row in cells)
    page = f'<table class="tex2jax_ignore mathjax_ignore">{said}{body}</table>'
    widths = [max(len(row[i]) for row in [list(head), *cells]) for i in range(len(head))]
    plain = [
        "  ".join(cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(row, widths, right)).rstrip()
        for row in [list(head), *cells]
    ]
    display({"text/html": page, "text/plain": "\n".join([*([caption] if caption else []), *plain])}, raw=True)


def _number(cell: str) -> bool:
    return cell.lstrip("+-−± ")[:1].isdigit() or cell in ("", "–", "nan", "inf")
