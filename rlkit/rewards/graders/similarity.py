"""How alike two texts are, from 0 to 1, by the measures of reinforcement fine-tuning's text_similarity graders.

All but fuzzy_match compare words: runs of letters and digits, and single punctuation marks, in lower case.

- **fuzzy_match**: 2·M / (letters of both texts), M the letters that a longest common subsequence keeps (rapidfuzz's
  ``fuzz.ratio``). Letters, so that a typing error costs little; case counts.
- **bleu**: the geometric mean of the 1- to 4-gram precisions times the brevity penalty (Papineni et al., 2002), of the
  orders that both texts have; those without a match are smoothed (nltk's method 3). **gleu**: Google's variant, the
  smaller of n-gram precision and recall (arXiv:1609.08144). Both from nltk.
- **rouge_1** to **rouge_5**: F₁ of the n-grams, each counted as often as both texts have it. **rouge_l**: F₁ of the
  longest common subsequence of words (Lin, 2004). No stemming.

*meteor* needs WordNet's data and *cosine* an embedding model; neither is offered here.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from rlkit.errors import ConfigError, unknown_name

_WORD = re.compile(r"\w+|[^\w\s]")
_NOT_HERE = {
    "meteor": "it needs WordNet's data, which is downloaded; bleu, gleu and rouge_l are near to it",
    "cosine": "it needs an embedding model; a score_model grader judges meaning",
}


def words(text: str) -> list[str]:
    """Return the words and punctuation marks of `text` in lower case.

    >>> words("It's 4.5!")
    ['it', "'", 's', '4', '.', '5', '!']
    """
    return _WORD.findall(text.lower())


def fuzzy_match(text: str, reference: str) -> float:
    """Share of letters in common order; 1 for equal texts, also for two empty ones."""
    return float(_rapidfuzz("fuzz").ratio(text, reference)) / 100


def bleu(text: str, reference: str) -> float:
    """Sentence BLEU of the words, up to 4-grams, smoothed."""
    said, wanted = words(text), words(reference)
    orders = min(4, len(said), len(wanted))
    if not orders:
        return 0.0
    score = _nltk("bleu_score")
    smoothing = score.SmoothingFunction().method3
    weights = (1 / orders,) * orders
    if not set(said) & set(wanted):
        return 0.0
    return _within(score.sentence_bleu([wanted], said, weights=weights, smoothing_function=smoothing))


def gleu(text: str, reference: str) -> float:
    """Sentence GLEU of the words, 1- to 4-grams."""
    said, wanted = words(text), words(reference)
    return _within(_nltk("gleu_score").sentence_gleu([wanted], said)) if said and wanted else 0.0


def rouge_n(text: str, reference: str, n: int) -> float:
    """F₁ of the n-grams of words.

    >>> rouge_n("the cat sat", "the cat ran", 1)
    0.6666666666666666
    """
    said, wanted = _ngrams(words(text), n), _ngrams(words(reference), n)
    return _f1((said & wanted).total(), said.total(), wanted.total())


def rouge_l(text: str, reference: str) -> float:
    """F₁ of the longest common subsequence of words."""
    said, wanted = words(text), words(reference)
    if not said or not wanted:
        return 0.0
    common = _rapidfuzz("distance").LCSseq.similarity(said, wanted)
    return _f1(int(common), len(said), len(wanted))


METRICS: dict[str, Callable[[str, str], float]] = {
    "fuzzy_match": fuzzy_match,
    "bleu": bleu,
    "gleu": gleu,
    **{f"rouge_{n}": partial(rouge_n, n=n) for n in range(1, 6)},
    "rouge_l": rouge_l,
}
"""Every measure by its name: ``(text, reference) -> 0 … 1``."""


def metric(name: Any) -> Callable[[str, str], float]:
    """Return the measure called `name`; raises `ConfigError` for one that is unknown, or whose package is missing."""
    if not isinstance(name, str):
        raise unknown_name("evaluation_metric", name, METRICS)
    if name in _NOT_HERE:
        raise ConfigError(
            f"evaluation_metric={name!r} is not offered: {_NOT_HERE[name]}. Known: {', '.join(METRICS)}"
        )
    if name not in METRICS:
        raise unknown_name("evaluation_metric", name, METRICS)
    METRICS[name]("a b", "a c")  # says early that a package is missing
    return METRICS[name]


def _ngrams(tokens: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))


def _f1(common: int, said: int, wanted: int) -> float:
    return 2 * common / (said + wanted) if common else 0.0


def _within(value: Any) -> float:
    """Rounding can put a product of ones a little above 1."""
    return min(1.0, max(0.0, float(value)))


def _rapidfuzz(module: str) -> Any:
    try:
        from rapidfuzz import distance, fuzz
    except ImportError as error:
        raise ConfigError(
            "text similarity needs rapidfuzz: pip install 'rlkit-notebooks[rewards]'"
        ) from error
    return {"fuzz": fuzz, "distance": distance}[module]


def _nltk(module: str) -> Any:
    try:
        from nltk.translate import bleu_score, gleu_score
    except ImportError as error:
        raise ConfigError("bleu and gleu need nltk: pip install 'rlkit-notebooks[rewards]'") from error
    return {"bleu_score": bleu_score, "gleu_score": gleu_score}[module]
