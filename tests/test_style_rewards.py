"""Rewards for style: exact scores where arithmetic decides, golden sets, and texts that would rather not be judged."""

from __future__ import annotations

import os
import subprocess
import sys
from math import inf
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlkit.errors import ConfigError
from rlkit.rewards import style
from rlkit.rewards.style import (
    FACTORIES,
    language,
    length_penalty,
    no_markers,
    readability,
    repetition_penalty,
)
from rlkit.rewards.style_golden import GOLDEN, PASSAGE
from rlkit.rewards.words import LONGEST_WORD, word_spans, words_of


def one(reward: Any, completion: Any) -> float | None:
    (score,) = reward([""], [completion])
    return score


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


# --- words -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        (" \n\t", []),
        ("It's 17+25 = 42.", ["It", "s", "17", "25", "42"]),
        ("snake_case naïve", ["snake_case", "naïve"]),
        ("cafe\u0301", ["cafe\u0301"]),  # an accent of its own belongs to its letter
        ("नमस्ते दुनिया", ["नमस्ते", "दुनिया"]),  # so do vowel signs
        ("你好 world", ["你", "好", "world"]),
        ("すし", ["す", "し"]),
        ("a" * 65, ["a" * 30, "a" * 30, "a" * 5]),
        ("🎉🎉!", ["🎉", "🎉", "!"]),
        ("a ---", ["a", "-", "-", "-"]),
    ],
)
def test_words(text, words):
    assert words_of(text) == words


@given(st.text())
def test_words_are_short_and_hold_every_letter(text):
    words = words_of(text)
    assert all(0 < len(word) <= LONGEST_WORD for word in words)
    assert [text[start:end] for start, end in word_spans(text)] == words
    assert [c for c in "".join(words) if c.isalnum()] == [c for c in text if c.isalnum()]


# --- length ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "score"),
    [
        (0, -1.0),
        (4, -0.5),
        (7, -0.125),
        (8, 0),
        (10, 0),
        (12, 0),
        (13, -0.1),
        (17, -0.5),
        (22, -1.0),
        (500, -1.0),
    ],
)
def test_length_penalty(length, score):
    assert one(length_penalty(10, 2), "so " * length) == pytest.approx(score)
    assert one(length_penalty(10, 2, "characters"), " " + "x" * length + "\n") == pytest.approx(score)
    short = 0.0 if length < 10 else score
    assert one(length_penalty(10, 2, too_short=False), "so " * length) == pytest.approx(short)


@given(st.integers(1, 200), st.data(), st.text())
def test_length_penalty_has_its_range(target, data, text):
    tolerance = data.draw(st.integers(0, target - 1))
    for unit in ("words", "characters"):
        assert -1.0 <= one(length_penalty(target, tolerance, unit), text) <= 0.0
    assert one(length_penalty(target, tolerance), "") == -1.0
    assert one(length_penalty(target, tolerance), "so " * target) == 0.0


# --- repetition ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ngram", "text", "score"),
    [
        (1, "a b a b", -0.5),
        (2, "a b a b", -1 / 3),
        (2, "carry the one, Carry THE one!", -0.4),
        (3, "a b c d e f", 0.0),
        (3, "a b c a b c", -0.25),
        (3, "no no no no", -0.5),
        (3, "no no no", None),
        (3, "", None),
        (3, "🎉" * 10, -7 / 8),
        (1, "重复重复", -0.5),
    ],
)
def test_repetition_penalty(ngram, text, score):
    assert one(repetition_penalty(ngram), text) == (None if score is None else pytest.approx(score))
    doubled = one(repetition_penalty(ngram, most=2.0), text)
    assert doubled == (None if score is None else pytest.approx(2 * score))


@given(st.integers(1, 20), st.text() | st.lists(st.sampled_from(["a", "b", "!", "你"])).map(" ".join))
def test_repetition_penalty_has_its_range(ngram, text):
    score = one(repetition_penalty(ngram, most=0.5), text)
    assert (score is None) == (len(words_of(text.casefold())) <= ngram)
    assert score is None or -0.5 < score <= 0.0
    twice = one(repetition_penalty(ngram, most=0.5), f"{text} {text}")
    if score is not None and words_of(f"{text} {text}".casefold()) == 2 * words_of(text.casefold()):
        assert twice < 0.0


def test_a_distinct_text_costs_nothing():
    text = " ".join(f"word{n}" for n in range(1000))
    for ngram in (1, 3, 20):
        score = one(repetition_penalty(ngram), text)
        assert score == 0.0 and str(score) == "0.0"


# --- language --------------------------------------------------------------------------------------------------------

GERMAN = (
    "Um zwei Zahlen von Hand zu addieren, schreibt man sie untereinander und beginnt rechts mit den Einern."
)


def test_the_share_of_a_language():
    english = PASSAGE[:300]
    assert one(language("en"), english) == 1.0 and one(language("de"), english) == 0.0
    assert one(language("en"), GERMAN) == 0.0 and one(language("de"), GERMAN) == 1.0
    mixed = f"{english} {GERMAN} {GERMAN} {GERMAN}"
    share = one(language("en"), mixed)
    assert 0.3 < share < 0.7
    assert share + one(language("de"), mixed) == pytest.approx(1.0, abs=0.3)
    assert one(language("en", among=("en", "de")), mixed) == pytest.approx(share, abs=0.2)
    assert language("de").__name__ == "language_de"


def test_too_little_to_tell_a_language():
    for text in ("", "42", "17 + 25 = 42; " * 50, "Yes.", "🎉" * 100):
        assert one(language("en"), text) is None
    assert one(language("en", least=3), "The answer is yes.") is not None


def test_the_same_text_gets_the_same_language_each_time():
    texts = [
        PASSAGE,
        GERMAN,
        "The sum of both is forty-two, I think.",
        "ceci n'est pas une pipe, mais une addition",
    ]
    reward = language("en")
    first = reward([""] * 4, texts)
    assert all(reward([""] * 4, texts) == first for _ in range(3))
    assert reward([""] * 4, texts[::-1]) == first[::-1]


@given(st.text(), st.integers(1, 400))
def test_pieces_hold_every_word(text, times):
    text *= times
    pieces = style._pieces(text)
    assert "".join(pieces).replace(" ", "") == "".join(text.split()).replace(" ", "")
    assert all(len(piece) < 4 * style.PIECE for piece in pieces)


# --- readability -----------------------------------------------------------------------------------------------------

HARD = GOLDEN["readability"].wrong[0].completion


@pytest.mark.parametrize("measure", ["automated_readability_index", "coleman_liau_index"])
def test_readability_is_textstats_measure(measure):
    import textstat

    value = getattr(textstat, measure)(PASSAGE)

    def score(lowest: float, highest: float, fade: float | None = None, text: str = PASSAGE) -> float | None:
        return one(readability(lowest, highest, measure, fade), text)

    assert score(value - 1, value + 1) == 1.0
    assert score(value + 2, inf) == pytest.approx(0.6)
    assert score(-inf, value - 2) == pytest.approx(0.6)
    assert score(value + 2, inf, fade=4.0) == pytest.approx(0.5)
    assert score(value + 9, value + 10) == 0.0
    assert one(readability(measure=measure), PASSAGE) == 1.0
    assert one(readability(measure=measure), HARD) == 0.0
    assert score(20.0, inf, text=HARD) == 1.0


def run_without_network(tmp_path: Path, code: str) -> str:
    """In a process without sockets, whose home folder is `tmp_path`."""
    refuse = (
        "import socket\n"
        "def refuse(*args, **kwargs): raise OSError('no network')\n"
        "socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse\n"
        "from rlkit.rewards.style import language, readability\n"
        "from rlkit.rewards.style_golden import PASSAGE\n"
    )
    folders = {name: str(tmp_path) for name in ("HOME", "XDG_CACHE_HOME", "NLTK_DATA")}
    environment = {**os.environ, **folders, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", refuse + code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return done.stdout.strip()


def test_language_and_readability_need_no_network(tmp_path):
    code = "print(language()([''], [PASSAGE]), readability()([''], [PASSAGE]))"
    assert run_without_network(tmp_path, code) == "[1.0] [1.0]"
    assert not list(tmp_path.rglob("*")), "nothing is downloaded or kept"


def test_a_measure_that_counts_syllables_asks_for_its_dictionary(tmp_path):
    code = (
        "from rlkit.errors import ConfigError\n"
        "try: reward = readability(measure='flesch_reading_ease', least=3)\n"
        "except ConfigError as error: print(error)\n"
        "else: print(reward([''], ['One two three four. Five six seven eight.']))\n"
    )
    assert "nltk.downloader cmudict" in run_without_network(tmp_path, code)
    assert not list(tmp_path.rglob("*")), "nothing was downloaded"
    folder = tmp_path / "corpora" / "cmudict"
    folder.mkdir(parents=True)
    words = {"ONE": "W AH1 N", "TWO": "T UW1", "THREE": "TH R IY1", "FOUR": "F AO1 R", "FIVE": "F AY1 V"}
    words |= {"SIX": "S IH1 K S", "SEVEN": "S EH1 V AH0 N", "EIGHT": "EY1 T"}
    (folder / "cmudict").write_text("".join(f"{word} 1 {sounds}\n" for word, sounds in words.items()))
    # 206.835 − 1.015 · 4 words a sentence − 84.6 · 9/8 syllables a word = 107.6, and 100 is the usual limit
    score = float(run_without_network(tmp_path, code).strip("[]"))
    assert score == pytest.approx(1 - 7.6 / 30, abs=1e-6)


def test_too_little_to_read():
    for text in ("", "Yes.", "The sum is 42.", "你好" * 50, "1 2 3. " * 20, "!" * 100):
        assert one(readability(), text) is None
    assert one(readability(least=3), "The sum of the two is small.") is not None


# --- markers ---------------------------------------------------------------------------------------------------------


def test_no_markers():
    reward = no_markers(("<think>", "User:"), right=0.5, wrong=-2)
    texts = ["42", "a <THINK> b", "＜think＞", "user: hi", "think user", " \n", ""]
    assert reward([""] * 7, texts) == [0.5, -2, -2, -2, 0.5, None, None]
    assert one(no_markers("User:"), "User: hi") == -1.0
    for marker in style.CHAT_MARKERS:
        assert one(no_markers(), f"42 {marker} 43") == -1.0


# --- all of them -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "settings", "says"),
    [
        (length_penalty, dict(target=0), "target=0"),
        (length_penalty, dict(target=1.5), "target=1.5"),
        (length_penalty, dict(target=10, tolerance=10), "less than target = 10"),
        (length_penalty, dict(tolerance=-1), "tolerance=-1"),
        (length_penalty, dict(unit="tokens"), "soft_overlong"),
        (repetition_penalty, dict(ngram=0), "ngram=0"),
        (repetition_penalty, dict(ngram=21), "at most 20"),
        (repetition_penalty, dict(most=-1.0), "without a minus"),
        (repetition_penalty, dict(most=float("nan")), "most=nan"),
        (language, dict(code="english"), "ISO 639-1"),
        (language, dict(code="fr", among=("en", "de")), "'among'"),
        (language, dict(among=("en",)), "among="),
        (language, dict(among=("en", "xx")), "among="),
        (language, dict(least=0), "least=0"),
        (readability, dict(lowest=80, highest=60), "lowest < highest"),
        (readability, dict(lowest=-inf, highest=inf), "lowest < highest"),
        (readability, dict(lowest="easy"), "lowest='easy'"),
        (readability, dict(highest=float("nan")), "highest=nan"),
        (readability, dict(measure="flesch_reading_eas"), "Did you mean 'flesch_reading_ease'"),
        (readability, dict(fade=0), "fade=0"),
        (readability, dict(least=0), "least=0"),
        (no_markers, dict(markers=()), "markers="),
        (no_markers, dict(markers=("<a>", " ")), "markers="),
        (no_markers, dict(markers=(3,)), "markers="),
    ],
)
def test_settings_that_cannot_work(make, settings, says):
    with pytest.raises(ConfigError, match=says):
        make(**settings)


@pytest.mark.parametrize(("make", "module"), [(language, "py3langid.langid"), (readability, "textstat")])
def test_a_missing_library_is_named(make, module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    style._detector.cache_clear()
    with pytest.raises(ConfigError, match=r"pip install 'rlkit-notebooks\[rewards\]'"):
        make()


def test_nothing_heavy_is_imported_with_the_module():
    code = (
        "import sys, rlkit.rewards.style, rlkit.rewards.style_golden, rlkit.rewards.templates.rewards\n"
        "print(sorted({'torch', 'transformers', 'py3langid', 'textstat'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", FACTORIES)
def test_golden(name):
    golden, reward = GOLDEN[name], FACTORIES[name]()
    assert reward.__name__.startswith(name) and reward.__doc__
    assert min(len(golden.right), len(golden.wrong), len(golden.exploits)) >= 5

    def score(example: Any) -> float | None:
        value = one(reward, example.completion)
        assert value is None or golden.low <= value <= golden.high
        assert one(reward, said(example.completion)) == value
        return value

    rights = {example.note: score(example) for example in golden.right}
    worst = min(rights.values())
    for example in golden.wrong:
        assert score(example) < worst, (example.note, rights)
    for example in golden.exploits:
        value = score(example)
        assert (value is not None and value >= worst) == example.fools, (example.note, value, rights)


@pytest.mark.parametrize("name", FACTORIES)
@given(text=st.text() | st.text(alphabet="aé你\u0301\u200d🎉<|>.! \n", max_size=300))
def test_nothing_raises_and_order_does_not_matter(name, text):
    golden, reward = GOLDEN[name], FACTORIES[name]()
    texts = [text, PASSAGE, text * 20]
    scores = reward([""] * 3, texts)
    assert all(score is None or golden.low <= score <= golden.high for score in scores)
    assert reward([""] * 3, texts[::-1]) == scores[::-1]


@pytest.mark.parametrize("name", FACTORIES)
@pytest.mark.parametrize(
    "text", ["a", "ab ", "é.", "你好。", "\u0301", "<|im_end|", "the cat. ", "x" * 29 + " ", "\ud800"]
)
def test_huge_texts_are_judged(name, text):
    golden = GOLDEN[name]
    score = one(FACTORIES[name](), text * (200_000 // len(text)))
    assert score is None or golden.low <= score <= golden.high
