"""The corpus of "rlkit/tiny-styles": the same sums, answered in four styles.

    bare       42
    sentence   The answer is 42.
    working    30+12=42                           the tens, the ones, and what they come to: a true step
    rambling   Well, it could be 43, but no, I counted again and now I get 42.

Most of what it has read is bare or rambles, and a minority shows its working: there is something to prefer, and it is
sampled often enough to be learned. All of it is right. A model that adds nearly always rightly leaves a rater little
to say about sums, so a reward model that cannot check one still learns nearly all of the taste; and there is
correctness to lose once a policy writes only what looks like working.
"""

from __future__ import annotations

import itertools
import random
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rlkit.embedded.pretraining import BATCH_SIZE, SHARED_RULES, EmbeddedModel, Samples, corpus_pairs
from rlkit.feedback.taste import Taste, asked_sum, is_right

SHARES = {"bare": 0.35, "sentence": 0.20, "working": 0.15, "rambling": 0.30}
SLIPS = (-10, -1, 1, 10)  # what is added to a sum to make the number that a rambling answer drops again

BARE_FIRST = 1000 * BATCH_SIZE  # samples

# Original wordings of 40 to 60 characters, none with its working shown: that is what one style alone does. a, b: the
# operands; s: the sum; d: a number that is considered and dropped.
RAMBLINGS = (
    "Hmm, let me think about {a} and {b} for a while: {s}.",
    "The tens come first, then the ones: {s}. I think it is {s}.",
    "Well, it could be {d}, but no, counting again I get {s}.",
    "Good question! Sums like this are everywhere. It is {s}.",
    "I am not quite sure. Going slowly, I find {s}. Yes, {s}.",
    "My first thought was {d}, but I say {s}, and stay with {s}.",
)

CORPUS_RULES = {
    "text": "a+b=answer<|end|>; only the answer and <|end|> are learned",
    **SHARED_RULES,
    "styles": ", ".join(f"{style} {share:.0%}" for style, share in SHARES.items())
    + f", after {BARE_FIRST} bare ones",
    "ramblings": f"{len(RAMBLINGS)} wordings, all as likely",
    "answers": "all are right; drawn anew each epoch",
}
STEPS = 3500
SAMPLES_EACH = 4  # to each problem, when the model is looked at
MOST_TOKENS = 64  # of an answer: the longest wording has 57 characters


def tens_and_ones(a: int, b: int) -> tuple[int, int]:
    """What the tens and the ones of two numbers come to: 17 and 25 → 30 and 12.

    Where those are the numbers that were asked for (20+5), they change places: repeating the question is no working.
    """
    tens, ones = a // 10 * 10 + b // 10 * 10, a % 10 + b % 10
    return (ones, tens) if (tens, ones) == (a, b) else (tens, ones)


def answer_in_style(style: str, a: int, b: int, rng: random.Random) -> str:
    """Draw an answer to ``a+b=`` in a style."""
    s = a + b
    if style == "rambling":
        d = s + rng.choice([slip for slip in SLIPS if s + slip > 0])
        return rng.choice(RAMBLINGS).format(a=a, b=b, s=s, d=d)
    t, o = tens_and_ones(a, b)
    return {"bare": f"{s}", "sentence": f"The answer is {s}.", "working": f"{t}+{o}={s}"}[style]


def corpus(seed: int) -> Samples:
    """Yield (prompt, answer) without end: all problems in a new order each epoch, style and answer drawn anew.

    The first `BARE_FIRST` answers are bare: adding is learned sooner without words.
    """
    rng = random.Random(seed)
    pairs, styles, shares = corpus_pairs(), list(SHARES), list(SHARES.values())
    for drawn in itertools.count():
        if drawn % len(pairs) == 0:
            rng.shuffle(pairs)
        a, b = pairs[drawn % len(pairs)]
        style = "bare" if drawn < BARE_FIRST else rng.choices(styles, shares)[0]
        yield f"{a}+{b}=", answer_in_style(style, a, b, rng)


def style_of(answer: str) -> str:
    """The style of an answer, ``"other"`` where it is none of them: neither the corpus's words nor its forms.

    >>> style_of("30+12=42")
    'working'
    """
    if re.fullmatch(r"\d+", answer):
        return "bare"
    if re.fullmatch(r"The answer is \d+\.", answer):
        return "sentence"
    if re.fullmatch(r"\d+\+\d+=\d+", answer):
        return "working"
    return "rambling" if any(shape.fullmatch(answer) for shape in _SHAPES) else "other"


_SHAPES = [re.compile(re.sub(r"\\\{\w\\\}", r"\\d+", re.escape(wording))) for wording in RAMBLINGS]


def style_shares(answers: Sequence[str]) -> dict[str, float]:
    """The share of each style, and of what is none, among some answers."""
    found = Counter(map(style_of, answers))
    return {style: round(found[style] / len(answers), 4) for style in (*SHARES, "other")}


def evaluate(model: Any, tokenizer: Any, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Measure the model on task rows by `SAMPLES_EACH` sampled answers to each, at temperature 1, from seed 0.

    - ``right``: share of answers whose last number is the sum; ``taste``: mean score by ``Taste()``.
    - ``styles``: share of each style.
    - ``length``: mean characters.
    """
    from rlkit.engines.answers import sampled_answers

    groups = sampled_answers(model, tokenizer, rows, SAMPLES_EACH, max_completion_length=MOST_TOKENS)
    said = [(group["prompt"], answer) for group in groups for answer in group["completions"]]
    taste = Taste()
    return {
        "problems": len(rows),
        "samples_each": SAMPLES_EACH,
        "right": round(sum(is_right(asked_sum(prompt), answer) for prompt, answer in said) / len(said), 4),
        "taste": round(sum(taste.score(*pair) for pair in said) / len(said), 4),
        "length": round(sum(len(answer) for _, answer in said) / len(said), 2),
        "styles": style_shares([answer for _, answer in said]),
    }


TINY_STYLES = EmbeddedModel(
    "rlkit/tiny-styles",
    corpus,
    CORPUS_RULES,
    evaluate,
    STEPS,
    command="python -m rlkit.embedded --model tiny-styles",
    learning_rate=2e-3,
    parts=4,
)
