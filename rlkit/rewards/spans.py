"""Where in a completion a reward looked: which number, which tag, which signature it went by.

A reward function may say so itself: ``function.spans(completion, **columns) -> [(start, end), …]``, places in
`completion_text(completion)`, none where it found nothing. It is not called in training. `RewardInspector` lights
these places up. Ours have it where their verdict rests on places; those that judge the whole say so in
``function.looks_at``, a few words such as "the whole completion: how many words it has".
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rlkit.rewards.text import Completion, completion_text

Spans = list[tuple[int, int]]
"""Beginnings and ends, in characters of the completion's text."""


def spans_of(reward: Callable[..., Any], completion: Completion, row: Mapping[str, Any]) -> Spans | None:
    """Return where `reward` found what it judges `completion` by, or None where it does not tell.

    Nothing raises: an error there is the finder's, and the score stands. Empty spans and such beyond the text are
    left out.

    >>> from rlkit.rewards import correct_number
    >>> spans_of(correct_number, "17+25=42", {"answer": "42"})
    [(6, 8)]
    """
    find = getattr(reward, "spans", None)
    if find is None:
        return None
    try:
        parameters = inspect.signature(find).parameters.values()
        takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
        named = {p.name for p in parameters}
        given = {key: value for key, value in row.items() if takes_all or key in named}
        given.pop("completion", None)
        size = len(completion_text(completion))
        found = [(int(start), int(end)) for start, end in find(completion, **given)]
    except Exception:
        return None
    return sorted({(start, end) for start, end in found if 0 <= start < end <= size})


def trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """Return the span without the white space at its ends.

    >>> trimmed("<b> 42 </b>", 3, 7)
    (4, 6)
    """
    inside = text[start:end]
    start += len(inside) - len(inside.lstrip())
    return start, start + len(inside.strip())


def marker_spans(text: str, markers: Iterable[str]) -> Spans:
    """Return where each of `markers` stands, every time.

    >>> marker_spans("<b>42</b>", ["<b>", "</b>"])
    [(0, 3), (5, 9)]
    """
    found: Spans = []
    for marker in markers:
        at = text.find(marker)
        while at >= 0:
            found.append((at, at + len(marker)))
            at = text.find(marker, at + len(marker))
    return sorted(found)
