"""Phrases in text: whether a completion says something that it must, or must not, say.

A phrase is found as whole words, whatever the case, the white space and the kind of quotes and dashes: "24.90" is
found in "We refund 24.90 euros", not in "124.90" or "24.905". What a data set wants said is written in a small
grammar: ``"refund|money back"`` is said by either of the two, ``"section 20 & consumer rights act"`` only by both
parts, wherever they stand.

A phrase that is present is not yet a phrase that was meant. What is only thought (`reply_text`) is not said, and
three cheap tricks are refused (`share_said`): text inside ``<tags>`` and quoted lines (``> …``) count for nothing,
lines copied from the question count for nothing, and neither does a bare list of phrases, once or repeated. A denial
("we will not refund") still says "refund": only a reader sees that.

Everything is linear in the text: `str.find`, `str.split` and patterns without backtracking.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache

from rlkit.errors import RewardError
from rlkit.rewards.text import Completion, completion_text

WORDS_A_PHRASE_WORD = 2
"""A text must have more than so many times as many different words as the phrases that it is paid for have words."""

_COPIED = 4  # words from which on a line that stands in the question counts as copied from it
TAG = re.compile(r"<[^<>]*>")
THOUGHTS = re.compile(r"<(think|thinking|thought|reasoning)>.*?(?:</\1>|\Z)", re.DOTALL | re.IGNORECASE)
MARKUP = str.maketrans(dict.fromkeys("*_`~"))
LIKE_ASCII = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "‐": "-", "‑": "-", "–": "-", "—": "-"})
INVISIBLE = str.maketrans(dict.fromkeys([0xAD, 0x2060, 0xFEFF, *range(0x200B, 0x2010)]))
_LONGEST_WORD = 64  # normalising a long run of combining marks takes quadratic time


def listed(words: str) -> frozenset[str]:
    """Words with commas between them as a set."""
    return frozenset(words.split(","))


def reply_text(completion: Completion) -> str:
    """Return what a completion says to its reader: its text without what stands in think or reasoning tags.

    What a model only thought of is no answer, and no fault either.

    >>> reply_text("<think>6 years? No, ten.</think>Ten years.")
    'Ten years.'
    """
    return THOUGHTS.sub("", completion_text(completion))


def plain(text: str) -> str:
    """Return `text` in lower case, every run of white space as one space, quotes and dashes as ASCII.

    >>> plain("We’ll  refund\\n24.90")
    "we'll refund 24.90"
    """
    return " ".join(text.translate(LIKE_ASCII).casefold().split())


def unmasked(text: str) -> str:
    """Return `plain` text without invisible characters and with look-alike letters replaced (Unicode's NFKC).

    For what must *not* be said: a forbidden phrase with a soft hyphen in it is still the phrase.

    >>> unmasked("ｙｏｕ h\\u00adave")
    'you have'
    """
    if text.isascii():
        return plain(text)
    words = text.translate(INVISIBLE).split()
    return plain(" ".join(unicodedata.normalize("NFKC", w) if len(w) <= _LONGEST_WORD else w for w in words))


def says(text: str, phrase: str) -> bool:
    """Say whether `phrase` stands in `text` as whole words and whole numbers; both as `plain` returns them.

    >>> says("we refund 24.90 today", "24.90"), says("we refund 124.90", "24.90"), says("room 4.5", "4")
    (True, False, False)
    """
    return next(said_at(text, phrase), -1) >= 0


def said_at(text: str, phrase: str) -> Iterator[int]:
    """Where `phrase` stands in `text` as `says` finds it: the beginnings, in order."""
    start = text.find(phrase)
    while start >= 0:
        if not (_inside(text, start) or _inside(text, start + len(phrase))):
            yield start
        start = text.find(phrase, start + 1)


def _inside(text: str, at: int) -> bool:
    """Whether the cut before position `at` goes through a word or a number."""
    if not 0 < at < len(text):
        return False
    before, after = text[at - 1], text[at]
    if before.isalnum() and after.isalnum():
        return True
    # "4|.5" and "4.|5" are cuts through a number, "4|." at a sentence's end is none.
    if after in ".,:":
        return before.isdigit() and text[at + 1 : at + 2].isdigit()
    return before in ".,:" and after.isdigit() and text[at - 2 : at - 1].isdigit() and at >= 2


@lru_cache(maxsize=8192)
def alternatives(wanted: str) -> tuple[tuple[str, ...], ...]:
    """Return what `wanted` asks for: one of these tuples, all of whose phrases are to be said.

    Raises `RewardError` where nothing is asked for: then the data set's column is at fault.

    >>> alternatives("refund|money back & today")
    (('refund',), ('money back', 'today'))
    """
    if isinstance(wanted, str):
        choices = [tuple(map(plain, choice.split(" & "))) for choice in wanted.split("|")]
        if all(map(all, choices)):
            return tuple(choices)
    raise RewardError(
        f"{wanted!r:.80} is no phrase to look for. Allowed: text, with '|' between alternatives and ' & ' between "
        "parts that must all be said. Is it the right column of this data set?"
    )


def fits(text: str, wanted: str) -> bool:
    """Say whether `plain` text says what `wanted` asks for, in the grammar above.

    >>> fits("you get your money back today", "refund|money back & today")
    True
    """
    return any(all(says(text, phrase) for phrase in phrases) for phrases in alternatives(wanted))


def own_text(text: str, given: str = "") -> str:
    """Return, `plain`, what a completion says itself: without tags, quoted lines and lines that stand in `given`.

    `given` is what the model was asked. Lines of fewer than four words may well stand in both.

    >>> own_text("> Where is my parcel?\\nIt comes <b>today</b>.")
    'it comes today .'
    """
    asked = plain(given or "")
    lines = map(plain, TAG.sub(" ", text).splitlines())
    return " ".join(line for line in lines if is_own(line, asked))


def is_own(line: str, asked: str) -> bool:
    """Say whether a `plain` line is neither empty nor quoted nor copied from what was `asked`."""
    copied = bool(asked) and line.count(" ") >= _COPIED - 1 and line in asked
    return bool(line) and not copied and not line.startswith(">")


def check_phrases(wanted: Sequence[str], column: str) -> list[str]:
    """Return `wanted` as a list, or say that the data set's `column` holds no phrases."""
    phrases = [wanted] if isinstance(wanted, str) else list(wanted) if isinstance(wanted, Sequence) else []
    if not phrases or not all(isinstance(phrase, str) for phrase in phrases):
        raise RewardError(
            f"{column}={wanted!r:.80} holds nothing to look for. Allowed: one or more phrases. Is {column!r} the right "
            "column of this data set?"
        )
    return phrases


def share_said(text: str, wanted: Sequence[str], given: str = "") -> float:
    """Return the share of the phrases in `wanted` that a completion says itself (`own_text`), from 0 to 1.

    It is 0 for a text that is hardly more than the phrases, however often it repeats them: one whose different words
    are not more than twice as many as theirs (`WORDS_A_PHRASE_WORD`).

    >>> share_said("You will get a refund of 24.90 by Friday at the latest.", ["refund", "24.90", "voucher|coupon"])
    0.6666666666666666
    """
    return share_in(own_text(text, given), wanted)


def share_in(own: str, wanted: Sequence[str]) -> float:
    """`share_said` for a text that is all its own and `plain` already."""
    said = [phrase for phrase in wanted if fits(own, phrase)]
    words = sum(
        min(sum(len(part.split()) for part in parts) for parts in alternatives(phrase)) for phrase in said
    )
    if len(set(own.split())) <= WORDS_A_PHRASE_WORD * words:
        return 0.0
    return len(said) / len(wanted)
