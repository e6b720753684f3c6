r"""Where in a text an answer to a maths problem stands.

Two rules, a strict and a lenient one:

- **Stated** answers have a final form: ``\boxed{42}``, ``<answer>42</answer>``, ``#### 42`` (GSM8K's), or a sentence
  such as "The final answer is 42." or "Answer: 42".
- **Last things** are whatever maths a text ends with: its last line, what follows the last "=" or "is" there, its last
  formula between dollars, its last number.

This module only cuts text out; `maths.reading` reads it. Every search runs once over the text or over a bounded
stretch of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from rlkit.rewards.numbers import NUMBER
from rlkit.rewards.spans import Spans

LONGEST_TEXT = 2000
"""So many characters from the end of a completion are searched: who has answered before has gone on rambling."""

DELIMITERS = (("$$", "$$"), (r"\[", r"\]"), (r"\(", r"\)"), ("$", "$"))
"""What LaTeX puts around formulas."""

_BOX = re.compile(r"\\(?:boxed|fbox)\s{0,3}\{")
_SENTENCE = re.compile(
    r"(?<![A-Za-z</])answers?\b[^.\n:=<>]{0,60}?(?:\bis\b|\bare\b|:|=)", re.IGNORECASE | re.ASCII
)
_SENTENCE_END = re.compile(r"[.!?](?=\s)|[<\n]|,?\s(?:because|since|which|where|so|as)\b")
_BEFORE_A_RESULT = re.compile(r"=|:|\b(?:is|are|equals|get|gives)\b")
_LAST_NUMBER = re.compile(rf"{NUMBER.pattern}(?:\s?/\s?[0-9]+| [0-9]+/[0-9]+)?(?:\s?(?:\\?%|percent\b))?")


def stated_answers(text: str) -> list[str]:
    r"""Return what stands in the last answer of each final form, the one that begins last first.

    Of two boxes the last counts, and so for tags and sentences. An unclosed box or tag states nothing.

    >>> stated_answers(r"The answer is 41. Wait: \boxed{42}")
    ['42', '41']
    """
    return [text[start:end] for start, end in stated_spans(text)]


def stated_spans(text: str) -> Spans:
    """Return where `stated_answers` stand."""
    found: list[tuple[int, int, int]] = []  # where the form begins; where its content begins and ends
    box = _last(_BOX, text)
    if box is not None:
        content = braced(text, box.end() - 1)
        if content is not None:
            found.append((box.start(), box.end(), box.end() + len(content)))
    start = text.rfind("<answer>")
    end = text.find("</answer>", start)
    if 0 <= start < end:
        found.append((start, start + len("<answer>"), end))
    start = text.rfind("####")
    if start >= 0:
        said = text[start:].lstrip("#")
        begin = len(text) - len(said)
        found.append((start, begin, begin + len(said.partition("\n")[0])))
    sentence = _last(_SENTENCE, text)
    if sentence is not None:
        found.append((sentence.start(), *_said_next(text, sentence.end())))
    return [(begin, end) for _, begin, end in sorted(found, reverse=True)]


def last_things(text: str) -> Iterator[str]:
    """Yield what `text` ends with, from the largest piece to the smallest: line, result, then formula or number.

    >>> list(last_things("Adding up, 17+25 = 42 apples"))
    ['Adding up, 17+25 = 42 apples', ' 42 apples', '42']
    """
    return (text[start:end] for start, end in last_spans(text))


def last_spans(text: str) -> Iterator[tuple[int, int]]:
    """Yield where `last_things` stand."""
    start, line_end = last_line_span(text)
    yield start, line_end
    before = _last(_BEFORE_A_RESULT, text[start:line_end])
    if before is not None:
        yield start + before.end(), line_end
    ends: list[tuple[int, str, int]] = []
    for opening, closing in DELIMITERS:
        end = text.rfind(closing)
        start = text.rfind(opening, 0, end) if end > 0 else -1
        if start >= 0 and text[start + len(opening) : end].strip():
            ends.append((end, text[start + len(opening) : end], start + len(opening)))
    number = _last(_LAST_NUMBER, text)
    if number is not None:
        ends.append((number.end(), number.group(), number.start()))
    if ends:
        end, _, start = max(ends)
        yield start, end


def last_line(text: str) -> str:
    """Return the last line of `text` that holds anything."""
    start, end = last_line_span(text)
    return text[start:end]


def last_line_span(text: str) -> tuple[int, int]:
    """Return where that line stands."""
    end = len(text.rstrip())
    return text.rfind("\n", 0, end) + 1, end


def braced(text: str, start: int) -> str | None:
    """Return what stands between the brace at `start` and its partner; None where that is missing.

    >>> braced(r"{\\frac{1}{2}} and {3}", 0)
    '\\\\frac{1}{2}'
    """
    depth = 0
    for place in range(start, len(text)):
        if text[place] == "{":
            depth += 1
        elif text[place] == "}":
            depth -= 1
            if depth == 0:
                return text[start + 1 : place]
    return None


def _said_next(text: str, place: int) -> tuple[int, int]:
    """Return where the first thing stands that is said from `place` on: a formula, or a sentence up to its end."""
    tail = text[place:].lstrip(" \t\n*_:=")
    start = len(text) - len(tail)
    for opening, closing in DELIMITERS:
        if tail.startswith(opening):
            end = tail.find(closing, len(opening))
            if end > 0:
                return start + len(opening), start + end
    # An exclamation mark here ends the sentence; in a formula it is a factorial.
    return start, start + len(_SENTENCE_END.split(tail, maxsplit=1)[0].rstrip(" .!*_"))


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    last = None
    for match in pattern.finditer(text):
        last = match
    return last
