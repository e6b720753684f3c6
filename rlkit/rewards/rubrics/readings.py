"""A completion as rubrics read it, with the place of every letter in what was written: for showing where they looked.

`phrases.plain` folds capitals and white space; a `Reading` does the same and remembers where each letter stood.
Rewards do not use it; their ``spans`` do (`rlkit.rewards.spans`).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rlkit.rewards.rubrics.phrases import (
    INVISIBLE,
    LIKE_ASCII,
    MARKUP,
    TAG,
    THOUGHTS,
    alternatives,
    is_own,
    plain,
    said_at,
    says,
)
from rlkit.rewards.spans import Spans
from rlkit.rewards.text import Completion, completion_text


class Reading(NamedTuple):
    """Text as it is read, and for each of its characters the place in the completion's text."""

    text: str
    places: list[int]

    def spans(self, found: Iterable[tuple[int, int]]) -> Spans:
        """Stretches of `text` as places in the completion."""
        return [(self.places[start], self.places[end - 1] + 1) for start, end in found if start < end]

    def replaced(self, pattern: re.Pattern[str], by: str) -> Reading:
        """As `pattern.sub(by, text)`; what is put in stands where the match began."""
        text, places, end = "", [], 0
        for match in pattern.finditer(self.text):
            text += self.text[end : match.start()] + by
            places += self.places[end : match.start()] + [self.places[match.start()]] * len(by)
            end = match.end()
        return Reading(text + self.text[end:], places + self.places[end:])


def blanked(completion: Completion) -> str:
    """Return a completion's whole text with spaces where it only thinks: places stay what they are."""
    return THOUGHTS.sub(lambda thought: " " * len(thought.group()), completion_text(completion))


def own_reading(completion: Completion, given: str = "") -> Reading:
    """What `phrases.own_text` returns for a reply, with places."""
    text = TAG.sub(lambda tag: " " * len(tag.group()), blanked(completion))
    asked, start = plain(given or ""), 0
    kept: list[tuple[str, int]] = []
    for line in text.splitlines(keepends=True):
        if is_own(plain(line), asked):
            kept += [
                (letter, start + i)
                for i, c in enumerate(line)
                for letter in c.translate(LIKE_ASCII).casefold()
            ]
            kept.append((" ", start + len(line) - 1))
        start += len(line)
    return _read(kept)


def open_reading(completion: Completion) -> Reading:
    """What `statements.undisguised` returns for a reply, tags taken for nothing, with places."""
    text, start = blanked(completion), 0
    kept: list[tuple[str, int]] = []
    for tag in [*TAG.finditer(text), None]:
        for i in range(start, len(text) if tag is None else tag.start()):
            shown = unicodedata.normalize("NFKC", text[i].translate(MARKUP).translate(INVISIBLE))
            kept += [(letter, i) for letter in shown.translate(LIKE_ASCII).casefold()]
        start = len(text) if tag is None else tag.end()
    return _read(kept)


def _read(letters: Iterable[tuple[str, int]]) -> Reading:
    """Every run of white space as one space, none at the ends."""
    kept: list[tuple[str, int]] = []
    for letter, place in letters:
        if not letter.isspace():
            kept.append((letter, place))
        elif kept and kept[-1][0] != " ":
            kept.append((" ", place))
    if kept and kept[-1][0] == " ":
        kept.pop()
    return Reading("".join(letter for letter, _ in kept), [place for _, place in kept])


def said_spans(reading: Reading, wanted: Sequence[str]) -> Spans:
    """Where a reading says what one of `wanted` asks for (`phrases.fits`), every time and all parts of it."""
    parts = [
        part
        for asked in wanted
        for choice in alternatives(asked)
        if all(says(reading.text, phrase) for phrase in choice)
        for part in choice
    ]
    found = [(at, at + len(part)) for part in dict.fromkeys(parts) for at in said_at(reading.text, part)]
    return reading.spans(found)


def phrase_spans(completion: Completion, wanted: Sequence[str], given: str = "") -> Spans:
    """Return where a completion says in its own words what one of `wanted` asks for.

    >>> phrase_spans("We will refund\\n24.90.", ["refund & 24.90"])
    [(8, 14), (15, 20)]
    """
    return said_spans(own_reading(completion, given), wanted)
