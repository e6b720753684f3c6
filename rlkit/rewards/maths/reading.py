r"""Reading an answer to a maths problem: from a short text to a value that can be compared.

Three parsers are tried in turn, and what none of them reads is text:

- **number**: "42", "-1,234.50", "$5", "50\%", "12 apples" (units are dropped, not compared).
- fractions and powers of plain numbers, exact and our own: "3/4", "1 3/4", "3*10^8", "17+25=42" (the last part
  counts), ``\frac{3}{4}``.
- the library `math-verify` (LaTeX to SymPy): roots, variables, sets, intervals, matrices, equations.

What the second and third have read is labelled "expression" or "latex", by how it was written.

A sum, product or quotient of plain numbers that is not carried out ("17+25", "84/2" for 42) is text: otherwise
repeating the problem would be an answer to it. Roots, powers and factorials may stay as they are.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from typing import Any

from rlkit.errors import ConfigError
from rlkit.rewards.maths.deadline import Result, within
from rlkit.rewards.maths.finding import DELIMITERS
from rlkit.rewards.maths.guard import (
    LARGEST_RESULT,
    WORDS_IN_LATEX,
    is_harmless,
    is_mathematical,
    is_well_formed,
)
from rlkit.rewards.numbers import NUMBER

PARSED = ("latex", "expression", "number")
"""The parsers that find a mathematical value."""

LONGEST_ANSWER = 160  # characters: a longer one is text, unless it is a number
LONGEST_NUMBER = 400  # digits
LONGEST_SECONDS = 2.0  # for one answer to be read, and to be compared; then it is text, or not equal

_SIGNS = str.maketrans(
    {"−": "-", "×": "*", "÷": "/", "⋅": "*", "·": "*", "\u00a0": " ", "\n": " ", "\r": " ", "\t": " "}
)
_SPACES = re.compile(r"(?<!\\)\\[,;!: ]|~|\\q?quad(?![a-z])")
_FUNCTION = re.compile(r"(?<![A-Za-z\\])(pi|sin|cos|tan|log|ln|infty)(?![A-Za-z])")
_PERCENT = r"(?P<percent>\s?(?:\\?%|percent\b))?"
_UNIT = (
    r"(?P<unit>\s?(?:°|\^\\circ|\^\{\\circ\})\s?[CFK]?"  # 45°, 20 °C
    r"|\s?\\(?:text|mathrm|mbox)\s?\{[^{}]{0,40}\}(?:\^\{?[23]\}?)?"  # 5\text{ cm}^2
    r"|(?:\s?(?:[mcdk]m|[mk]g|[mc]l|ft|in|lb|oz|yd|mi|hr|min|sec|mph|kph|Hz)(?![A-Za-z])"  # 5cm
    r"|\s[A-Za-z]{3,}\.?)"  # 5 cups
    r"(?:\^?[23²³])?(?:(?:\s|\s?/\s?)[A-Za-z]+(?:\^?[23²³])?){0,3})?"  # cm^2, km/h, cups of tea
)
_NUMBER = re.compile(rf"(?P<minus>-)?\s?[$€£¥]?\s?(?P<number>{NUMBER.pattern}){_PERCENT}{_UNIT}")
_FRACTION = re.compile(
    r"(?P<minus>-)?\s?"
    r"(?:\\[dtc]?frac\s?(?:\{\s?(?P<a>-?[0-9]{1,60})\s?\}\s?\{\s?(?P<b>-?[0-9]{1,60})\s?\}|(?P<c>[0-9])\s?(?P<d>[0-9]))"
    rf"|(?:(?P<whole>[0-9]{{1,60}})\s)?(?P<e>[0-9]{{1,60}})\s?/\s?(?P<f>[0-9]{{1,60}})){_PERCENT}{_UNIT}"
)
_POWER = re.compile(
    r"(?:(?P<times>[0-9]{1,60}(?:\.[0-9]{1,60})?)\s?\*\s?)?(?P<base>[0-9]{1,60})\s?(?:\^|\*\*)\s?"
    r"(?P<exponent>-?[0-9]{1,4}|\{-?[0-9]{1,4}\}|\(-?[0-9]{1,4}\))"
)
_ARITHMETIC = re.compile(r"[-0-9+*/^(). =]*[0-9][-0-9+*/^(). =]*")
# Words after a number that change its value: "3 million" is not 3.
_NOT_UNITS_IN_A_ROW = (
    "hundred thousand million billion trillion dozen half halves third thirds quarter quarters fourth "
    "fourths fifth fifths sixth sixths seventh sevenths eighth eighths ninth ninths tenth tenths over "
    "squared cubed factorial and or to plus minus times divided by mod sqrt"
)
_NOT_UNITS = frozenset(_NOT_UNITS_IN_A_ROW.split())


@dataclass(frozen=True)
class Value:
    """One answer, read.

    Attributes:
        parser: "number", "expression", "latex", "text", or "none" where there is nothing.
        shown: the value as text, cut to 80 characters.
        plain: the answer's own text, with case, spaces and LaTeX's text commands evened out.
        exact: its value where that is a rational number; a percentage is already divided by 100.
        decimal: it was written with a decimal point, and so may be rounded.
        percent: it was written with a percent sign.
        parsed: what math-verify made of it, a SymPy object.
    """

    parser: str
    shown: str
    plain: str
    exact: Fraction | None = None
    decimal: bool = False
    percent: bool = False
    parsed: Any = None


@lru_cache(maxsize=4096)
def read(answer: str) -> Value:
    """Read one answer, as `maths.finding` cut it out. No text raises, and the same text is read only once.

    Raises `ConfigError` where math-verify is needed and not installed.
    """
    text = _tidied(answer)
    plain = _plain(text)
    if not plain:
        return Value("none", "", "")
    number = _read_number(text, plain)
    if number is not None:
        return number
    if len(text) > LONGEST_ANSWER:
        return _as_text(plain)
    return _read_arithmetic(text, plain) or _read_with_library(text, plain)


def _tidied(answer: str) -> str:
    """Take off what stands around an answer: spaces, emphasis, dollars, full stops; even out how signs are written."""
    text = _SPACES.sub(" ", answer.translate(_SIGNS)).replace("{,}", ",").replace("\\$", "$")
    text = text.strip(" *").rstrip(".,;: ")
    for opening, closing in DELIMITERS:
        inner = text[len(opening) : -len(closing)]
        if inner and text.startswith(opening) and text.endswith(closing) and opening not in inner:
            text = inner.strip(" *").rstrip(".,;: ")
    words = WORDS_IN_LATEX.fullmatch(text)
    return words[1].strip() if words else text


def _plain(text: str) -> str:
    text = WORDS_IN_LATEX.sub(r"\1", text)
    return " ".join(text.split()).casefold().strip(" .,;:\"'`")


def _as_text(plain: str) -> Value:
    return Value("text", _shown(plain), plain)


def _read_number(text: str, plain: str) -> Value | None:
    """Read one number or one fraction, with currency, percent sign or unit around it."""
    match = _NUMBER.fullmatch(text)
    if match is not None:
        parser, value = "number", _exact(match["number"])
    else:
        match = _FRACTION.fullmatch(text)
        if match is None:
            return None
        parser = "latex" if "\\" in text else "expression"
        above = next(int(match[name]) for name in "ace" if match[name])
        below = next(int(match[name]) for name in "bdf" if match[name])
        value = Fraction(above, below) if below else None
        if value is not None and value.denominator == 1 and abs(below) > 1:
            value = None  # 84/2 is not carried out
        if value is not None and match["whole"]:  # 1 3/4
            value = value + int(match["whole"]) if value < 1 else None
    unit = WORDS_IN_LATEX.sub(r" \1", match["unit"] or "").lower()
    if value is None or any(word in _NOT_UNITS for word in re.findall("[a-z]+", unit)):
        return _as_text(plain)
    if _FUNCTION.search(unit):  # 5 sin(x) is no number of sins
        return None
    percent = bool(match["percent"])
    value = (-value if match["minus"] else value) / (100 if percent else 1)
    decimal = parser == "number" and "." in match["number"]
    return Value(parser, _shown(value), plain, value, decimal=decimal, percent=percent)


def _exact(number: str) -> Fraction | None:
    """Return the fraction that a match of `NUMBER` stands for; None where it has too many digits."""
    exponent = re.search("[eE][-−+]?([0-9]+)", number)
    if len(number) > LONGEST_NUMBER or (exponent and len(exponent[1]) > 3):
        return None
    return Fraction(Decimal(number.replace(",", "").replace("−", "-")))


def _read_arithmetic(text: str, plain: str) -> Value | None:
    """Read plain numbers in brackets or in a power; of a chain of equations the last part counts."""
    if not _ARITHMETIC.fullmatch(text):
        return None
    result = text.rpartition("=")[2].strip()
    if result != text:
        return _read_number(result, plain) or _read_arithmetic(result, plain) or _as_text(plain)
    sign = 1
    while text.startswith("-") or (text.startswith("(") and text.find(")") == len(text) - 1):
        sign, text = (-sign, text[1:].strip()) if text.startswith("-") else (sign, text[1:-1].strip())
    number = _read_number(text, plain)
    if number is not None:
        value = number.exact
    elif "^" not in text and "**" not in text:
        return _as_text(plain)  # malformed, or not carried out
    else:
        value = _power(text)
        if value is None:
            return None  # such as a root, 2^(1/2): the library knows
    if value is None:
        return _as_text(plain)
    return Value("expression", _shown(sign * value), plain, sign * value, decimal="." in text)


def _power(text: str) -> Fraction | None:
    """Return the value of a plain power, such as 2^10 or 3*10^-8; None for anything else and for huge ones."""
    match = _POWER.fullmatch(text)
    if match is None:
        return None
    base, exponent = int(match["base"]), int(match["exponent"].strip("{}()"))
    if (base == 0 and exponent < 0) or base.bit_length() * abs(exponent) > 4 * LARGEST_RESULT:
        return None
    return Fraction(match["times"] or 1) * Fraction(base) ** exponent


def _read_with_library(text: str, plain: str) -> Value:
    """Have math-verify read `text`, where that is maths and cannot run away; else it is text."""
    latex = _FUNCTION.sub(r"\\\1", text.replace("**", "^").replace("$", ""))
    latex = re.sub(r"\\?sqrt\s?\(([^()]*)\)", r"\\sqrt{\1}", latex)
    latex = re.sub(r"\^(-?[0-9]{2,})", r"^{\1}", latex)  # 2^10 is no 2¹·0
    latex = re.sub(r",?\s(?:and|or)\s", ", ", latex)
    if not is_mathematical(latex) or not is_well_formed(latex) or not is_harmless(latex):
        return _as_text(plain)
    library = Library.get()
    unread = _as_text(plain)
    return library.limited(lambda: _made_value(library.parse(latex), text, plain) or unread, default=unread)


def _made_value(parsed: Any, text: str, plain: str) -> Value | None:
    if parsed is None or not _is_carried_out(parsed):
        return None
    exact = None
    if getattr(parsed, "is_Rational", False):  # the class, not the property: nothing is left to be computed
        exact = Fraction(int(parsed.p), int(parsed.q))
    written = "latex" if any(mark in text for mark in "\\^_{}") else "expression"
    return Value(written, _shown(parsed), plain, exact, percent="%" in text, parsed=parsed)


def _is_carried_out(parsed: Any) -> bool:
    """Whether no two numbers in a SymPy object are still to be added or multiplied: 17+25 is no answer to 17+25."""
    import sympy

    for node in sympy.preorder_traversal(parsed):
        if isinstance(node, sympy.Add | sympy.Mul):
            # 3·10^8 is carried out as far as anybody would, 1+2^3 is not.
            if isinstance(node, sympy.Add):
                numbers = [member for member in node.args if member.is_number and member.is_rational]
            else:
                numbers = [member for member in node.args if member.is_Number and abs(member) != 1]
            if len(numbers) > 1:
                return False
    return True


def _shown(value: Any) -> str:
    try:
        text = str(value)
    except Exception:  # an integer beyond Python's limit of printable digits
        return f"({type(value).__name__})"
    return text if len(text) <= 80 else f"{text[:79]}…"


class Library:
    """math-verify, loaded when it is first needed, with our time limit instead of its own.

    Its own is made with signals, which only a program's main thread may use and which would replace anybody else's
    alarm. `maths.guard` refuses what is known to run away, so that the limit is hardly ever met. One lock for all
    threads: the parser's tables grow as it is used.
    """

    _lock = threading.Lock()

    def __init__(self) -> None:
        try:
            import math_verify
        except ImportError as error:
            raise ConfigError(
                f"maths rewards need the package math-verify ({error}). Install it: "
                "pip install 'rlkit-notebooks[rewards]'"
            ) from error
        for name in ("math_verify.parser", "math_verify.grader"):
            logging.getLogger(name).setLevel(logging.ERROR)  # both warn that no timeout is set
        self._module = math_verify
        self._formula = math_verify.LatexExtractionConfig(boxed_match_priority=-1)

    @staticmethod
    @lru_cache(maxsize=1)
    def get() -> Library:
        """Return the one instance. Raises `ConfigError` where the package is missing."""
        return Library()

    def limited(self, work: Callable[[], Result], default: Result) -> Result:
        """Return `work()`, one at a time, or `default` where SymPy takes longer than `LONGEST_SECONDS`."""
        with self._lock:
            return within(LONGEST_SECONDS, work, default)

    def parse(self, latex: str) -> Any:
        """Return the SymPy object for one formula, or None."""
        try:
            found = self._module.parse(
                f"${latex}$",
                extraction_config=[self._formula],
                fallback_mode="no_fallback",
                extraction_mode="first_match",
                parsing_timeout=None,
            )
        except Exception:  # a parser's or SymPy's own: the text cannot be read, whatever the reason
            return None
        return found[0] if found and not isinstance(found[0], str) else None

    def equal(self, gold: Any, said: Any) -> bool:
        """Return math-verify's own verdict on two SymPy objects, the known answer first."""
        try:
            return bool(self._module.verify(gold, said, timeout_seconds=None))
        except Exception:
            return False
