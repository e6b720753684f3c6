"""Words, in any script, as the rewards for style count them; and what comes back."""

from __future__ import annotations

import re

from rlkit.rewards.spans import Spans

LONGEST_WORD = 30  # letters; more are several words, so that a page without a space is not one

# Scripts that write no spaces: kana and Chinese characters. Each of them counts as a word.
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
# Marks that are part of a word and no letters to Python: accents, Hebrew and Arabic vowels, the vowels of India.
_MARKS = "\u0300-\u036f\u0591-\u05c7\u064b-\u065f\u0900-\u0963\u0966-\u0eff"
_WORD = re.compile(rf"[{_UNSPACED}]|(?:[^\W{_UNSPACED}]|[{_MARKS}])+")
_WORD_OR_SYMBOL = re.compile(rf"{_WORD.pattern}|[^\w\s]")
# Full-width forms: ＜ is written for < to evade a search.
_TO_ASCII = {0xFF01 + i: 0x21 + i for i in range(94)}


def words_of(text: str) -> list[str]:
    """Return the words of `text`: runs of letters, digits and underscores, and each Chinese character or kana.

    What is longer than `LONGEST_WORD` is cut into pieces of that length. A text that is more symbols than letters is
    taken as symbols: each punctuation mark or emoji is a word as well.

    >>> words_of("Add 7 and 5: 12."), words_of("12 :-) !!")
    (['Add', '7', 'and', '5', '12'], ['12', ':', '-', ')', '!', '!'])
    """
    words = _WORD.findall(text)
    if 2 * sum(map(len, words)) < sum(map(len, text.split())):
        words = _WORD_OR_SYMBOL.findall(text)
    return [word[i : i + LONGEST_WORD] for word in words for i in range(0, len(word), LONGEST_WORD)]


def word_spans(text: str) -> Spans:
    """Return where the words stand that `words_of` returns, in the same order.

    >>> word_spans("Add 7.")
    [(0, 3), (4, 5)]
    """
    words = [match.span() for match in _WORD.finditer(text)]
    if 2 * sum(end - start for start, end in words) < sum(map(len, text.split())):
        words = [match.span() for match in _WORD_OR_SYMBOL.finditer(text)]
    return [(i, min(i + LONGEST_WORD, end)) for start, end in words for i in range(start, end, LONGEST_WORD)]


def repeated_spans(text: str, ngram: int) -> Spans:
    """Return the stretches of `ngram` words and more that have stood before, whatever their capitals.

    >>> repeated_spans("carry the one, carry the one!", 2)
    [(15, 28)]
    """
    text = folded(text)
    words, seen = word_spans(text), set()
    found: Spans = []
    for i in range(len(words) - ngram + 1):
        phrase = tuple(text[start:end] for start, end in words[i : i + ngram])
        span = words[i][0], words[i + ngram - 1][1]
        if phrase not in seen:
            seen.add(phrase)
        elif found and span[0] <= found[-1][1]:
            found[-1] = found[-1][0], span[1]
        else:
            found.append(span)
    return found


def folded(text: str) -> str:
    """In small ASCII letters, each at its place: what folds to two letters, as "ß" does, stays."""
    folded = (text := text.translate(_TO_ASCII)).casefold()
    return folded if len(folded) == len(text) else "".join(min(c.casefold(), c, key=len) for c in text)
