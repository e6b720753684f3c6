r"""Maths rewards: is the answer in a completion equal to the known one, however either is written?

    "So it is $\frac{1}{2}$."  and   "0.5"        equal
    "\boxed{(x+1)^2}"         and   "x^2+2x+1"   equal

Which answer a text gives is a matter of the parser, and parsers disagree: the same completions score higher with one
that takes the last number it finds than with one that wants a box. So every text is judged twice:

- **strict**: the answer is *stated* (``\boxed{…}``, ``<answer>…</answer>``, ``#### …``, "the answer is …"), and read
  as maths.
- **lenient**: what is stated counts where it can be read; else the last thing in the text that can be. A percent sign
  may be missing on either side ("50" for "50\%").

Whatever is right strictly is right leniently. Log both (`strict_and_lenient`, one of them with weight 0), and look at
`maths_parsers` before comparing with a published score.

Where the known answer is no maths ("Evelyn"), what is stated, or else the last line, must be the same text. Units are
dropped and not compared. Of several answers in one text the last counts; a list of guesses is a set, and a set is not
its member. Only the last 2,000 characters are searched and answers of up to 160 characters parsed. Numbers and
fractions cost next to nothing; formulas go through math-verify, which takes milliseconds for most and a tenth of a
second for some, once for the same answer, and is stopped after two seconds.
"""

from __future__ import annotations

import html
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from typing import Any

from rlkit.errors import RewardError, bad_value
from rlkit.rewards.maths.equal import same
from rlkit.rewards.maths.finding import LONGEST_TEXT, last_line_span, last_spans, stated_answers, stated_spans
from rlkit.rewards.maths.golden import GOLDEN as GOLDEN
from rlkit.rewards.maths.reading import PARSED, Library, read
from rlkit.rewards.signatures import RewardFunction
from rlkit.rewards.spans import Spans
from rlkit.rewards.text import Completion, completion_text
from rlkit.rewards.verifiers import reward_from


@dataclass(frozen=True)
class MathsReading:
    """What a text says: `value` as text, and the `parser` that read it.

    `parser` is "number" (42, $1,234.50, 50%), "expression" (3/4, 2*(x+1)), "latex" (``\\frac{3}{4}``), "text" for
    what is no maths, or "none" where there is nothing at all.
    """

    value: str
    parser: str


@dataclass(frozen=True)
class MathsVerdict:
    """Two verdicts on one completion, and what they rest on."""

    strict: bool
    lenient: bool
    answer_read: MathsReading
    gold_read: MathsReading


def read_maths(text: str) -> MathsReading:
    r"""Return what `text` says and which parser read it, by the lenient rule.

    >>> read_maths("17+25 makes 42 apples."), read_maths(r"It is \boxed{\frac{3}{4}}.")
    (MathsReading(value='42', parser='number'), MathsReading(value='3/4', parser='latex'))
    """
    return _reading(_said(text)[1])


def compare_maths(text: str, answer: Any) -> MathsVerdict:
    """Judge `text` by the known `answer` with both rules; the module docstring says how.

    `answer` is a string (a formula, a number, or a whole solution that states its answer) or a number. Raises
    `RewardError` where it is empty or nothing of the kind, and `ConfigError` where math-verify is not installed; no
    `text` raises.
    """
    gold = _gold(answer)
    formal, casual = _said(text, words=read(gold).parser == "text")
    strict = formal is not None and same(gold, formal)
    lenient = strict or same(gold, casual, loose=True)
    return MathsVerdict(strict, lenient, _reading(casual), _reading(gold))


def verify_maths(text: str, answer: Any, strict: bool = False) -> bool:
    r"""Verifier: does `text` give the known `answer`? By the lenient rule, or by the strict one. True or False, no
    score.

    >>> verify_maths("It is 0.5", r"\frac{1}{2}"), verify_maths("It is 0.5", r"\frac{1}{2}", strict=True)
    (True, False)
    """
    verdict = compare_maths(text, answer)
    return verdict.strict if strict else verdict.lenient


def _said(text: str, words: bool = False) -> tuple[str | None, str]:
    """Return the answer that counts strictly, or None, and the one that counts leniently, as they stand in `text`.

    `words`: what is looked for is no maths.
    """
    text = text[-LONGEST_TEXT:]
    formal, (start, end) = _said_spans(text, words)
    return None if formal is None else text[formal[0] : formal[1]], text[start:end]


def _said_spans(text: str, words: bool) -> tuple[tuple[int, int] | None, tuple[int, int]]:
    """Return where they stand."""
    stated = stated_spans(text)
    formal = next(iter(stated), None) if words else _first_span(text, stated)
    if formal is not None:
        return formal, formal
    lenient = None if words else _first_span(text, last_spans(text))
    return None, lenient or (stated[0] if stated else last_line_span(text))


def _first_span(text: str, spans: Iterable[tuple[int, int]]) -> tuple[int, int] | None:
    return next((span for span in spans if read(text[span[0] : span[1]]).parser in PARSED), None)


def _first_read(candidates: Iterable[str]) -> str | None:
    return next((candidate for candidate in candidates if read(candidate).parser in PARSED), None)


def _reading(answer: str) -> MathsReading:
    value = read(answer)
    return MathsReading(value.shown, value.parser)


def _gold(answer: Any) -> str:
    """Return the part of a data set's answer that is compared: what it states, or all of it."""
    if isinstance(answer, str):
        found = _gold_in(answer)
    elif isinstance(answer, int | float | Decimal | Fraction) and not isinstance(answer, bool):
        found = str(answer) if isinstance(answer, Fraction) or math.isfinite(answer) else ""
    else:
        found = ""
    if not found:
        raise RewardError(
            f"answer={answer!r:.80} holds nothing to compare with. Allowed: text with an answer in it, or a finite "
            "number. Is 'answer' the right column of this data set?"
        )
    return found


@lru_cache(maxsize=4096)
def _gold_in(answer: str) -> str:
    stated = stated_answers(answer[-LONGEST_TEXT:])
    found = _first_read(stated) or (stated[0] if stated else answer)
    return "" if read(found).parser == "none" else found


def _strictly(completion: Completion, *, answer: Any, **columns: Any) -> bool:
    """`verify_maths` by the strict rule, in the form that a trainer calls."""
    return verify_maths(completion_text(completion), answer, strict=True)


def _leniently(completion: Completion, *, answer: Any, **columns: Any) -> bool:
    """`verify_maths` by the lenient rule, in the form that a trainer calls."""
    return verify_maths(completion_text(completion), answer)


def _finder(strict: bool) -> Callable[..., Spans]:
    """Where the answer stands that is compared."""

    def spans(completion: Completion, answer: Any, **columns: Any) -> Spans:
        text = completion_text(completion)
        skipped = max(0, len(text) - LONGEST_TEXT)
        words = read(_gold(answer)).parser == "text"
        formal, casual = _said_spans(text[skipped:], words)
        found = formal if strict else casual
        return [] if found is None else [(skipped + found[0], skipped + found[1])]

    return spans


_strictly.spans, _leniently.spans = _finder(True), _finder(False)  # type: ignore[attr-defined]


def correct_maths(right: float = 1.0, wrong: float = 0.0, strict: bool = False) -> RewardFunction:
    """Return a reward function that pays `right` for the column `answer`'s value and `wrong` for anything else.

    The verdict is `verify_maths`'s, by its lenient rule or by its strict one; it rides on the function as
    ``.verifier``.

    Raises `ConfigError` where `right` is not above `wrong`, or math-verify is not installed.

    >>> correct_maths()(["", ""], ["So x = 1/2", "2"], answer=["0.5", "0.5"])
    [1.0, 0.0]
    """
    if not wrong < right:
        raise bad_value("right", right, f"more than wrong = {wrong}", "Or the reward teaches wrong answers.")
    Library.get()
    name = "correct_maths_strict" if strict else "correct_maths"
    reward = reward_from(_strictly if strict else _leniently, right, wrong, name)
    rule = "stated and equal" if strict else "equal"
    reward.__doc__ = (
        f"Reward {right:g} where the answer is {rule} to the known one, however written, else {wrong:g}."
    )
    return reward


def correct_maths_strict(
    prompts: Sequence[Any], completions: Sequence[Completion], answer: Sequence[Any], **columns: Any
) -> list[float | None]:
    """Reward 1 where the answer is stated in a final form and equals the column `answer`, else 0."""
    return [float(_strictly(c, answer=a)) for c, a in zip(completions, answer, strict=True)]


def correct_maths_lenient(
    prompts: Sequence[Any], completions: Sequence[Completion], answer: Sequence[Any], **columns: Any
) -> list[float | None]:
    """Reward 1 where the last maths in the text equals the column `answer`, else 0."""
    return [float(_leniently(c, answer=a)) for c, a in zip(completions, answer, strict=True)]


correct_maths_strict.verifier = _strictly  # type: ignore[attr-defined]
correct_maths_lenient.verifier = _leniently  # type: ignore[attr-defined]
correct_maths_strict.spans, correct_maths_lenient.spans = _finder(True), _finder(False)  # type: ignore[attr-defined]

strict_and_lenient: tuple[RewardFunction, RewardFunction] = (correct_maths_strict, correct_maths_lenient)
"""Both, to be logged side by side: ``reward_funcs=[*strict_and_lenient, …], reward_weights=[1.0, 0.0, …]``."""


@dataclass(frozen=True)
class MathsReport:
    """How a set of completions was read, and what the choice of parser is worth on it.

    Attributes:
        parsers: how many answers each parser read, by the lenient rule.
        strict, lenient: accuracy by each rule, from 0 to 1.
        apart: (end of the completion, known answer, verdict) wherever the two rules part; all of them.
    """

    parsers: dict[str, int]
    strict: float
    lenient: float
    apart: tuple[tuple[str, str, MathsVerdict], ...]

    def __str__(self) -> str:
        total = sum(self.parsers.values())
        points = 100 * (self.lenient - self.strict)
        lines = [f"{'parser':<12}{'answers':>8}", *(f"{name:<12}{n:>8}" for name, n in self.parsers.items())]
        lines += ["", f"{'rule':<12}{'right':>8}"]
        lines += [f"{'strict':<12}{self.strict:>8.1%}", f"{'lenient':<12}{self.lenient:>8.1%}"]
        lines.append(f"The parser alone moves the score by {points:.1f} points on these {total} answers.")
        for text, answer, verdict in self.apart[:5]:
            read_as = f"{verdict.answer_read.value!r} ({verdict.answer_read.parser})"
            lines.append(f"  right leniently only: {answer!r:.30} read as {read_as:.40} in {text!r}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


def maths_parsers(completions: Sequence[Completion], answer: Sequence[Any]) -> MathsReport:
    """Report which parser read what in `completions`, and both accuracies. One `answer` for each; print the result.

    Raises `ConfigError` for lists that are empty or of different lengths; else as `compare_maths`.
    """
    if not completions or len(completions) != len(answer):
        raise bad_value(
            "answer", f"{len(answer)} values", f"one for each of the {len(completions)} completions"
        )
    texts = [completion_text(completion) for completion in completions]
    verdicts = [compare_maths(text, known) for text, known in zip(texts, answer, strict=True)]
    counts = Counter(verdict.answer_read.parser for verdict in verdicts)
    return MathsReport(
        parsers={name: counts[name] for name in (*PARSED, "text", "none") if counts[name]},
        strict=sum(verdict.strict for verdict in verdicts) / len(verdicts),
        lenient=sum(verdict.lenient for verdict in verdicts) / len(verdicts),
        apart=tuple(
            (text[-60:], str(known), verdict)
            for text, known, verdict in zip(texts, answer, verdicts, strict=True)
            if verdict.strict != verdict.lenient
        ),
    )


FUNCTIONS: dict[str, RewardFunction] = {
    "correct_maths_strict": correct_maths_strict,
    "correct_maths_lenient": correct_maths_lenient,
}

FACTORIES: dict[str, Callable[..., RewardFunction]] = {"correct_maths": correct_maths}
