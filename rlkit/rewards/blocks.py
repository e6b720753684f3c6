"""Blocks in text: what stands between an opening and a closing marker.

Format rewards and reasoning templates read completions with it. Markers are plain text, so that reading is a handful of
searches for fixed strings: its time grows with the text's length and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence


def read_blocks(
    text: str, blocks: Sequence[tuple[str, str]], strict: bool = False, own_lines: bool = True
) -> list[str] | None:
    """Return what stands inside each block, stripped, or None where `text` is not made of these blocks.

    A block is its opening marker, its content and its closing marker. `text` is made of `blocks` where they come in
    this order, every marker occurs exactly once, no content is blank and nothing but white space stands around them.
    `strict` also fixes that white space: none before the first block, at most one newline after the last, and

    - with `own_lines` every marker alone on its line and no blank line between the blocks,
    - without it the blocks follow each other directly; what white space their contents begin and end with is free.

    >>> read_blocks("<a>7+5=12</a> <b>42</b>", [("<a>", "</a>"), ("<b>", "</b>")])
    ['7+5=12', '42']
    """
    if any(text.count(marker) != 1 for block in blocks for marker in block):
        return None
    contents: list[str] = []
    place = 0  # characters that are read
    for opening, closing in blocks:
        start = text.find(opening, place)
        end = text.find(closing, start + len(opening)) if start >= 0 else -1
        if end < 0:  # a marker out of order: it stands somewhere before `place`
            return None
        before, content = text[place:start], text[start + len(opening) : end]
        if before.strip() or not content.strip():
            return None
        if strict and not _laid_out(before, content, first=not contents, own_lines=own_lines):
            return None
        contents.append(content.strip())
        place = end + len(closing)
    after = text[place:]
    if after.strip() or (strict and after not in ("", "\n")):
        return None
    return contents


def _laid_out(before: str, content: str, first: bool, own_lines: bool) -> bool:
    """Whether the white space before a block and at the edges of its content is what `strict` asks for."""
    if not own_lines:
        return before == ""
    lines = len(content) >= 3 and content.startswith("\n") and content.endswith("\n")
    return lines and before == ("" if first else "\n")
