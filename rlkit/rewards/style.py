"""Rewards for style: how long an answer is, whether it repeats itself, its language, how easily it reads, what leaks.

None of them knows whether an answer is right, and each is easily earned by nonsense of the right shape. They belong
beside a reward for the answer, with a small weight: they then say how, among the right answers, one would like it said.
Texts that are too short to judge get None; an answer of one word is not charged with its style.
"""

from __future__ import annotations

import functools
import importlib
import math
import re
import string
from collections.abc import Callable, Sequence
from typing import Any

from rlkit.errors import ConfigError, bad_value, unknown_name
from rlkit.rewards.signatures import RewardFunction
from rlkit.rewards.spans import marker_spans
from rlkit.rewards.style_golden import GOLDEN as GOLDEN
from rlkit.rewards.text import Completion, completion_text
from rlkit.rewards.words import LONGEST_WORD, folded, repeated_spans, words_of

PIECE = 150  # characters by which a language is told, about two lines
CHAT_MARKERS = (
    *("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|end_of_text|>", "<|begin_of_text|>", "<|eot_id|>"),
    *("<|start_header_id|>", "<|end_header_id|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"),
    *("<start_of_turn>", "<end_of_turn>", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"),
    *("### Instruction:", "### Response:"),
)
"""What chat templates write between turns: none of it belongs into an answer."""

_LONG_RUN = re.compile(rf"(\S{{{LONGEST_WORD}}})(?=\S)")
_NO_LETTERS = str.maketrans({c: " " for c in string.digits + string.punctuation if c != "'"})


def length_penalty(
    target: int = 120, tolerance: int = 30, unit: str = "words", too_short: bool = True
) -> RewardFunction:
    """Return a reward function that charges for answers longer or shorter than `target`, from 0 down to −1.

    With n words (or characters) in an answer, target t and tolerance d:

        0                          |n − t| ≤ d
        −(n − t − d) / t           longer; −1 from 2t + d on
        −(t − d − n) / (t − d)     shorter; −1 for an answer that says nothing; 0 with ``too_short=False``

    `unit` is "words" (see `words_of`) or "characters" (white space at the ends aside). In tokens, and only near the
    limit, `soft_overlong` does the same. Only the length counts: any words of that number earn the best score.

    Raises `ConfigError` unless 0 ≤ tolerance < target.

    >>> length_penalty(10, 2)([""] * 3, ["word " * 12, "word " * 17, "word " * 4])
    [0.0, -0.5, -0.5]
    """
    if unit not in ("words", "characters"):
        raise bad_value("unit", unit, "'words' or 'characters'", "soft_overlong counts tokens.")
    _check_whole("target", target, 1)
    _check_whole("tolerance", tolerance, 0)
    if tolerance >= target:
        raise bad_value("tolerance", tolerance, f"less than target = {target}")

    def score(completion: Completion) -> float:
        text = completion_text(completion)
        length = len(words_of(text)) if unit == "words" else len(text.strip())
        longer, shorter = length - target - tolerance, target - tolerance - length
        if longer > 0:
            return -min(1.0, longer / target)
        return -shorter / (target - tolerance) if shorter > 0 and too_short else 0.0

    span = f"{target - tolerance if too_short else 0} to {target + tolerance} {unit}"
    doc = f"0 for {span}, down to −1 beyond."
    return _reward("length_penalty", doc, score, -1, 0, f"the whole completion: how many {unit} it has")


def repetition_penalty(ngram: int = 3, most: float = 1.0) -> RewardFunction:
    """Return a reward function that charges for saying the same again, from 0 down to −`most`.

    Of the n-grams of an answer (`ngram` words of `words_of` in a row, in lower case), s is the share that has
    occurred before, s = 1 − distinct / all; the score is −most · s. Time and memory grow with the text's length alone.

    Punctuation does not make a phrase another, and a row of emoji is a repetition too. Not more than `ngram` words:
    None. A loop that changes a word in every n-gram (counting up, say) escapes it.

    Raises `ConfigError` for an `ngram` outside 1 to 20 or a `most` that is not above 0.

    >>> repetition_penalty(2)([""], ["carry the one, carry the one!"])
    [-0.4]
    """
    _check_whole("ngram", ngram, 1)
    if ngram > 20:
        raise bad_value("ngram", ngram, "at most 20 words", "Longer phrases hardly ever come back.")
    if not _is_number(most) or most <= 0:
        raise bad_value(
            "most", most, "a number above 0", "It is the largest charge, written without a minus."
        )

    def score(completion: Completion) -> float | None:
        words = words_of(completion_text(completion).casefold())
        if len(words) <= ngram:
            return None
        grams = list(zip(*(words[i:] for i in range(ngram))))
        return -most * (1 - len(set(grams)) / len(grams)) + 0.0

    doc = f"0 down to {-most:g} with the share of {ngram}-word phrases that have occurred before."
    reward: Any = _reward("repetition_penalty", doc, score, -most, 0)
    reward.spans = lambda completion, **columns: repeated_spans(completion_text(completion), ngram)
    return reward  # type: ignore[no-any-return]


def language(code: str = "en", among: Sequence[str] | None = None, least: int = 20) -> RewardFunction:
    """Return a reward function for the share of an answer that is written in the language `code`, from 0 to 1.

    Models that learn to reason begin to mix languages; DeepSeek-R1 (arXiv:2501.12948) was paid for the share of the
    language that was wanted. An answer is cut into pieces of about `PIECE` characters, py3langid names the language
    of each, and the score is the share of letters in pieces of the right one. Digits and punctuation count for
    nothing. Less than `least` letters: None.

    `among` limits the languages to choose from (ISO 639-1 codes), which makes fewer mistakes where they are known.
    The language counts and not the sense: a question that is repeated earns as much as its answer.

    Raises `ConfigError` for a language that the detector does not know, or where it is not installed.

    >>> language("de")([""], ["Sieben und fünf sind zwölf: schreibe die Zwei und merke dir die Eins."])
    [1.0]
    """
    _check_whole("least", least, 1)
    detect, known = _detector(None if among is None else tuple(map(str, among)))
    if code not in known:
        cause = "An ISO 639-1 code is meant, such as 'en', and one of 'among' where that is given."
        raise bad_value("code", code, ", ".join(known), cause)

    def score(completion: Completion) -> float | None:
        pieces = _pieces(completion_text(completion).translate(_NO_LETTERS))
        letters = [sum(map(str.isalpha, piece)) for piece in pieces]
        if sum(letters) < least:
            return None
        right = sum(n for piece, n in zip(pieces, letters, strict=True) if n and detect(piece) == code)
        return right / sum(letters)

    doc = f"The share of the answer that is written in {code!r}, 0 to 1."
    return _reward(f"language_{code}", doc, score, 0, 1, "the whole completion, in pieces of two lines")


def _pieces(text: str) -> list[str]:
    """Cut text at white space into pieces of `PIECE` characters or a little more; a short rest joins the last one."""
    pieces: list[list[str]] = [[]]
    size = 0  # characters of the last piece
    for word in text.split():
        for i in range(0, len(word), PIECE):
            if size >= PIECE:
                pieces.append([])
                size = 0
            pieces[-1].append(word[i : i + PIECE])
            size += len(pieces[-1][-1]) + 1
    if size < PIECE // 2 and len(pieces) > 1:
        rest = pieces.pop()
        pieces[-1] += rest
    return [" ".join(piece) for piece in pieces]


@functools.cache
def _detector(among: tuple[str, ...] | None) -> tuple[Callable[[str], str], list[str]]:
    """A function from a text to its language, and the languages that it chooses from. Loaded once."""
    langid = _library("py3langid.langid", "language")
    identifier = langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE)
    known = sorted(identifier.labels)
    if among is not None:
        if len(set(among)) < 2 or any(language not in known for language in among):
            raise bad_value("among", list(among), f"two or more of {', '.join(known)}; or None for all")
        identifier.set_languages(list(among))
        known = sorted(set(among))
    return lambda text: str(identifier.classify(text)[0]), known


# What textstat measures: from, to, and how far beyond nothing is left.
MEASURES: dict[str, tuple[float, float, float]] = {
    "automated_readability_index": (0.0, 10.0, 5.0),
    "coleman_liau_index": (0.0, 10.0, 5.0),
    "flesch_kincaid_grade": (0.0, 10.0, 5.0),
    "flesch_reading_ease": (60.0, 100.0, 30.0),
}


def readability(
    lowest: float | None = None,
    highest: float | None = None,
    measure: str = "automated_readability_index",
    fade: float | None = None,
    least: int = 20,
) -> RewardFunction:
    """Return a reward function for English that reads neither too hard nor too simple, from 0 to 1.

    1 where the measure lies between `lowest` and `highest`, falling to 0 over `fade` beyond them; None takes the
    measure's own of `MEASURES`, an infinite limit is none. The measures are textstat's. Three give years of school:
    "automated_readability_index" and "coleman_liau_index" count letters, words and sentences;
    "flesch_kincaid_grade" counts syllables instead of letters, and so does "flesch_reading_ease" (100 very easy, 60
    plain, 30 academic). For syllables textstat needs a dictionary that nltk downloads once.

    Only such counts matter: nonsense in words of the usual length reads well. Less than `least` words, or letters that
    are mostly not Latin: None.

    Raises `ConfigError` for limits that leave nothing between them, an unknown measure, or where textstat, or the
    dictionary, is missing.
    """
    if measure not in MEASURES:
        raise unknown_name("measure", measure, MEASURES)
    usual = MEASURES[measure]
    low, high, slope = (
        given if given is not None else own for given, own in zip((lowest, highest, fade), usual, strict=True)
    )
    for name, limit in (("lowest", low), ("highest", high)):
        if not _is_number(limit) and limit not in (-math.inf, math.inf):
            raise bad_value(name, limit, "a number, an infinity for no limit, or None")
    if not low < high or (low == -math.inf and high == math.inf):
        raise bad_value("lowest, highest", (low, high), "lowest < highest, one of them finite")
    if not _is_number(slope) or slope <= 0:
        raise bad_value("fade", fade, "a number above 0, or None")
    _check_whole("least", least, 1)
    measured = _measured(measure)

    def score(completion: Completion) -> float | None:
        text = completion_text(completion)
        letters = [c for c in text if c.isalpha()]
        if len(words_of(text)) < least or 2 * sum(map(str.isascii, letters)) <= len(letters):
            return None
        value = measured(_LONG_RUN.sub(r"\1 ", text))
        return max(0.0, 1.0 - max(0.0, low - value, value - high) / slope)

    doc = f"1 for a {measure} of {low:g} to {high:g}, down to 0 beyond."
    return _reward(
        "readability", doc, score, 0, 1, "the whole completion: the length of its words and sentences"
    )


def _measured(measure: str) -> Callable[[str], float]:
    """textstat's function of that name, once it is sure that it will not try to download anything."""
    measured = getattr(_library("textstat", "readability"), measure)
    if measure.startswith("flesch"):
        try:
            _library("nltk.data", "readability").find("corpora/cmudict")
        except LookupError:
            cause = (
                "It counts syllables with a dictionary that is not here: python -m nltk.downloader cmudict"
            )
            raise bad_value("measure", measure, "automated_readability_index without it", cause) from None
    return lambda text: float(measured(text))


def no_markers(
    markers: Sequence[str] = CHAT_MARKERS, right: float = 0.0, wrong: float = -1.0
) -> RewardFunction:
    """Return a reward function that charges `wrong` for a text that holds one of `markers`, else pays `right`.

    By default those that chat templates write between turns: a model that says them plays the user's part as well.
    Capitals and full-width letters make no difference. A blank answer: None. Whatever holds no marker is paid for.

    Raises `ConfigError` for a list that is empty or holds something that is no text, or blank.

    >>> no_markers()([""] * 2, ["42", "42<|im_end|>"])
    [0.0, -1.0]
    """
    searched = (markers,) if isinstance(markers, str) else tuple(markers)
    if not searched or not all(isinstance(marker, str) and marker.strip() for marker in searched):
        raise bad_value("markers", markers, "at least one text, none of them blank")
    sought = tuple(map(folded, searched))

    def score(completion: Completion) -> float | None:
        text = folded(completion_text(completion))
        if not text.strip():
            return None
        return float(wrong) if any(marker in text for marker in sought) else float(right)

    shown = ", ".join(searched[:3]) + (" …" if len(searched) > 3 else "")
    doc = f"{wrong:g} for a text that holds one of {shown}, else {right:g}."

    reward: Any = _reward("no_markers", doc, score, min(right, wrong), max(right, wrong))
    reward.spans = lambda completion, **columns: marker_spans(folded(completion_text(completion)), sought)
    return reward  # type: ignore[no-any-return]


def _reward(
    name: str,
    doc: str,
    score: Callable[[Completion], float | None],
    low: float,
    high: float,
    looks_at: str = "",
) -> RewardFunction:
    """The reward function that scores each completion by itself, from `low` to `high`."""

    def reward(
        prompts: Sequence[Any], completions: Sequence[Completion], **columns: Any
    ) -> list[float | None]:
        return [score(completion) for completion in completions]

    reward.__name__ = reward.__qualname__ = name
    reward.__doc__ = doc
    reward.score_range = (float(low), float(high))  # type: ignore[attr-defined]
    reward.looks_at = looks_at  # type: ignore[attr-defined]
    return reward


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_whole(name: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise bad_value(name, value, f"a whole number, {least} or more")


def _library(module: str, reward: str) -> Any:
    """Import a library that only this reward needs."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"the reward {reward!r} needs {module.partition('.')[0]}, which cannot be imported ({error}). Install it: "
            "pip install 'rlkit-notebooks[rewards]'"
        ) from error


FACTORIES: dict[str, Callable[..., RewardFunction]] = {
    "language": language,
    "length_penalty": length_penalty,
    "no_markers": no_markers,
    "readability": readability,
    "repetition_penalty": repetition_penalty,
}
"""Factories by the names that a configuration uses."""
