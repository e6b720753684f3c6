"""Whether two answers, read by `maths.reading`, have the same value.

Rational numbers are compared exactly, here. What math-verify has parsed is compared by math-verify, after a look at
some points: an answer that is plainly another number, function or equation is refused at once. Without it every wrong
answer would be simplified, and every wrong equation solved, by SymPy, which takes a hundred times as long.
"""

from __future__ import annotations

import cmath
import zlib
from fractions import Fraction
from functools import lru_cache
from typing import Any

from rlkit.rewards.maths.reading import Library, Value, read

ROUNDED = Fraction(1, 2_000_000)
"""A decimal stands for a fraction that it is rounded from: 0.333333 for 1/3. Six places, as in math-verify."""

SAME = 2e-6
"""Two values at a point are plainly different where their relative difference is larger."""

POINTS = 3


@lru_cache(maxsize=4096)
def same(gold: str, said: str, loose: bool = False) -> bool:
    """Return whether two answers are equal: as text, as numbers, or for math-verify.

    `loose` also lets a percent sign be left out: "50" for "50%", where the number is above 1.
    """
    known, found = read(gold), read(said)
    if known.plain == found.plain:
        return bool(known.plain)
    if known.exact is not None and found.exact is not None:
        return _same_number(known, found) or (loose and _same_without_percent(known, found))
    if "text" in (known.parser, found.parser) or "none" in (known.parser, found.parser):
        return False
    left, right = _for_library(known), _for_library(found)
    library = Library.get()
    return library.limited(lambda: not differ(left, right) and library.equal(left, right), default=False)


def _same_number(known: Value, found: Value) -> bool:
    assert known.exact is not None and found.exact is not None
    if known.exact == found.exact:
        return True
    pair = ((known, found.exact), (found, known.exact))
    if not any(value.decimal and not _terminates(other) for value, other in pair):
        return False
    gap = abs(known.exact - found.exact)
    return gap <= ROUNDED and gap <= abs(known.exact) * Fraction(SAME)


def _terminates(number: Fraction) -> bool:
    """Whether a fraction can be written as a decimal: its denominator has no prime factor but 2 and 5."""
    rest = number.denominator
    rest //= rest & -rest
    while rest % 5 == 0:
        rest //= 5
    return rest == 1


def _same_without_percent(known: Value, found: Value) -> bool:
    assert known.exact is not None and found.exact is not None
    if known.percent == found.percent:
        return False
    left, right = (
        value.exact * (100 if value.percent else 1) for value in (known, found) if value.exact is not None
    )
    return left == right and abs(left) > 1


def _for_library(value: Value) -> Any:
    """Return a SymPy object for `value`: the one that was parsed, or its number."""
    import sympy

    if value.parsed is not None or value.exact is None:
        return value.parsed
    number = sympy.Rational(value.exact.numerator, value.exact.denominator)
    return sympy.Float(number, 15) if value.decimal else number


def differ(gold: Any, said: Any) -> bool:
    """Return True where two SymPy objects are certainly not equal for math-verify; False where it has to look.

    Numbers and expressions are compared at a few points, equations by whether the differences of their sides are
    proportional there, sets and tuples member by member in any order. One number is no set of several, no interval
    and no inequality. What has no value anywhere equals only what is written the same.
    """
    import sympy
    from sympy.logic.boolalg import Boolean

    if isinstance(said, sympy.Eq) and not isinstance(gold, Boolean):
        said = said.rhs  # x = 5 answers "5"
    elif isinstance(gold, sympy.Eq) and gold.lhs.is_Symbol and not isinstance(said, Boolean):
        gold = gold.rhs
    collections = (sympy.FiniteSet, sympy.Tuple)
    try:
        if gold == said:
            return False
        if isinstance(gold, collections) and isinstance(said, collections):
            return len(gold.args) != len(said.args) or _differ_as_collections(gold.args, said.args)
        if isinstance(gold, sympy.Rel) and isinstance(said, sympy.Rel):
            return _differ_as_equations(gold.lhs - gold.rhs, said.lhs - said.rhs)
        if isinstance(gold, sympy.Expr) and isinstance(said, sympy.Expr):
            return _differ_as_expressions(gold, said)
    except Exception:  # whatever SymPy raises for members or sides that have no value
        return False
    for one, other in ((gold, said), (said, gold)):
        if isinstance(one, sympy.Expr):
            several = isinstance(other, collections) and len(other.args) != 1
            inequality = isinstance(other, sympy.Rel) and not isinstance(other, sympy.Eq)
            return several or inequality or isinstance(other, sympy.Interval)
    return False


def _differ_as_expressions(gold: Any, said: Any) -> bool:
    if gold.is_Symbol or said.is_Symbol:
        return False  # names: math-verify compares them as text
    pairs = _both_known(gold, said)
    return not pairs or any(not _near(a, b) for a, b in pairs)


def _differ_as_collections(gold: tuple[Any, ...], said: tuple[Any, ...]) -> bool:
    left = [value for value in (_values(member)[0] for member in gold) if value is not None]
    right = [value for value in (_values(member)[0] for member in said) if value is not None]
    if len(left) < len(gold) or len(right) < len(said):
        return False
    for value in left:
        partner = next((other for other in right if _near(value, other)), None)
        if partner is None:
            return True
        right.remove(partner)
    return False


def _differ_as_equations(gold: Any, said: Any) -> bool:
    ratios = [a / b for a, b in _both_known(gold, said) if abs(b) > 1e-9]
    return not ratios or any(not _near(ratios[0], ratio) for ratio in ratios[1:])


def _both_known(gold: Any, said: Any) -> list[tuple[complex, complex]]:
    pairs = zip(_values(gold), _values(said), strict=True)
    return [(a, b) for a, b in pairs if a is not None and b is not None]


def _near(a: complex, b: complex) -> bool:
    return abs(a - b) <= SAME * max(abs(a), abs(b)) + 1e-12


def _values(expression: Any) -> list[complex | None]:
    """Return what `expression` comes to at each point (the same ones for the same names), or None."""
    symbols = expression.free_symbols
    found: list[complex | None] = []
    for point in range(POINTS if symbols else 1):
        try:
            value = complex(
                expression.evalf(15, subs={symbol: _at(symbol.name, point) for symbol in symbols})
            )
        except Exception:
            found.append(None)
        else:
            found.append(value if cmath.isfinite(value) else None)
    return found if symbols else found * POINTS


def _at(name: str, point: int) -> float:
    """Return the number that the symbol `name` stands for at a point: from 0.5 to 2.5, below 0 at the second point."""
    if name.lower() == "e":
        return cmath.e  # SymPy's letter e and its number are two things
    share = zlib.crc32(f"{name.lower()}{point}".encode()) / 2**32
    return (0.5 + 2 * share) * (-1 if point == 1 else 1)
