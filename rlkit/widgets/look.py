"""What all widgets look like: colours for light and dark, spacing, type; and text that is shown and never run.

Colours and spacing stand in `style.css`; nothing is told by colour alone.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from pathlib import Path

from rlkit.runs.evidence import shown

SERIES = 6  # colours --s0 to --s5
DASHES = ("", "7 4", "9 3 2 3", "2 3", "10 3 2 3 2 3", "2 4 8 4")  # of an SVG stroke, one a colour
MARKS = ("●", "■", "▲", "◆", "▼", "✚")

STYLE = f"<style>{(Path(__file__).parent / 'style.css').read_text(encoding='utf-8')}</style>"

# MathJax typesets $...$ in notebook outputs unless an ancestor has one of these classes.
LITERAL = "tex2jax_ignore mathjax_ignore"


def escaped(text: object, limit: int = 2000) -> str:
    """Text as HTML that shows it literally: markup escaped, control and direction characters spelt out, cut."""
    return html.escape(shown(whole(text), limit), quote=True)


def whole(text: object) -> str:
    """``text`` without lone surrogates, which no JSON message could carry; each becomes a replacement character."""
    return str(text).encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def model_text(text: object, limit: int = 2000, inline: bool = False) -> str:
    """What a model or a data set wrote, in the typewriter face; markup and mathematics show as text."""
    tag, kind = ("span", " inline") if inline else ("div", "")
    return f'<{tag} class="text{kind} {LITERAL}" dir="auto">{escaped(text, limit)}</{tag}>'


def callout(kind: str, title: str, text: str) -> str:
    """A remark with a coloured edge and its kind in words: "problem", "warning", "info" or "good"; plain texts."""
    return (
        f'<div class="callout {kind}" role="note"><span class="tag">{escaped(kind)}</span>'
        f"<b>{escaped(title)}</b> {escaped(text)}</div>"
    )


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Small facts in a row that wraps: label and value, plain texts."""
    inside = "".join(f"<span>{escaped(label)} <b>{escaped(value)}</b></span>" for label, value in pairs)
    return f'<div class="facts {LITERAL}">{inside}</div>'


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    numeric: Iterable[int] = (),
    caption: str = "",
    stack: bool = False,
) -> str:
    """An HTML table. Cells are HTML already (``escaped`` them); ``numeric``: columns that are aligned to the right.

    ``stack``: on a phone each cell stands with its column's name, one row below the other (`style.css`): for tables
    that are too wide for it.
    """
    right = set(numeric)
    names = [f' data-h="{escaped(name)}"' if stack and name else "" for name in head]

    def cells(tag: str, row: Sequence[str]) -> str:
        said = [" scope=col"] * len(row) if tag == "th" else names
        return "".join(
            f"<{tag}{' class=n' if i in right else ''}{said[i] if i < len(said) else ''}>{cell}</{tag}>"
            for i, cell in enumerate(row)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    kind = f"stack {LITERAL}" if stack else LITERAL
    said = f"<caption>{escaped(caption)}</caption>" if caption else ""
    return (
        f'<div class="scroll"><table class="{kind}">{said}'
        f"<thead><tr>{cells('th', [escaped(h) for h in head])}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def bar(share: float, color: int = 0) -> str:
    """A share from 0 to 1 as a short bar for a table's cell; the number stands beside it."""
    width = max(0.0, min(1.0, share)) * 60
    return (
        f'<svg class="bar" width="60" height="10" viewBox="0 0 60 10" aria-hidden="true">'
        f'<rect width="60" height="10" fill="var(--panel)"/>'
        f'<rect width="{width:.1f}" height="10" fill="var(--s{color % SERIES})"/></svg>'
    )


def signed_bar(value: float, most: float, color: int = 0) -> str:
    """A number from -`most` to `most` as a short bar from the middle of a table's cell; the number stands beside it."""
    size = 0.0 if not most else max(-1.0, min(1.0, value / most)) * 30
    start, color = 30 + min(0.0, size), color % SERIES
    return (
        '<svg class="bar" width="60" height="12" viewBox="0 0 60 12" aria-hidden="true">'
        '<rect width="60" height="12" fill="var(--panel)"/><path d="M30 0V12" stroke="var(--soft)"/>'
        f'<rect x="{start:.1f}" y="1" width="{abs(size):.1f}" height="10" fill="var(--s{color})"/>'
        "</svg>"
    )


def empty(text: str) -> str:
    """What stands where nothing is there yet: says what will, and what to do for it."""
    return f'<div class="empty">{escaped(text)}</div>'
