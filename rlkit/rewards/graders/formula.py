"""``calculate_output``: the formula by which a multi grader puts its graders' scores together.

    0.7 * correct + 0.3 * max(style, 0.5)

Numbers, the graders' names, + - * / ^, parentheses and a few functions. It is parsed, never evaluated as Python.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rlkit.errors import ConfigError, bad_value, unknown_name

FUNCTIONS: dict[str, Callable[..., float]] = {
    "min": min,
    "max": max,
    "abs": abs,
    "floor": math.floor,
    "ceil": math.ceil,
    "exp": math.exp,
    "sqrt": math.sqrt,
    "log": math.log,
}
"""`log` is the natural logarithm; `min` and `max` take two numbers or more, the others one."""

_OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}
_LONGEST = 1000  # characters


@dataclass(frozen=True)
class Formula:
    """A parsed formula; `names` are the graders that occur in it."""

    text: str
    names: tuple[str, ...]
    _tree: ast.expr = field(repr=False)

    def __call__(self, scores: Mapping[str, float]) -> float | None:
        """Return the result; None where it is no finite number: division by zero, the root of −1, an overflow."""
        try:
            value = _value(self._tree, scores)
        except (ArithmeticError, ValueError):
            return None
        if isinstance(value, complex) or not math.isfinite(value):
            return None
        return float(value) + 0.0  # no −0.0


def parse(text: Any, graders: Iterable[str]) -> Formula:
    """Read a formula over the named graders. Raises `ConfigError` for anything else than arithmetic.

    >>> parse("0.5 * a + max(b, 0)", ["a", "b"])({"a": 1.0, "b": -2.0})
    0.5
    """
    if not isinstance(text, str) or not text.strip() or len(text) > _LONGEST:
        raise bad_value("calculate_output", text, f"a formula of at most {_LONGEST} characters")
    known = list(graders)
    try:
        # ^ is a power in these formulas. There is no text in a formula that the change could hit by mistake.
        tree = ast.parse(text.strip().replace("^", "**"), mode="eval").body
        names: list[str] = []
        _check(tree, text, known, names)
    except (SyntaxError, ValueError, RecursionError, MemoryError, SystemError) as error:
        if isinstance(error, ConfigError):
            raise
        raise bad_value("calculate_output", text, "a formula such as 0.7 * a + 0.3 * b", str(error)) from None
    return Formula(text, tuple(dict.fromkeys(names)), tree)


def _check(node: ast.expr, text: str, known: list[str], names: list[str]) -> None:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        if not math.isfinite(_as_float(node.value)):
            raise bad_value("calculate_output", text, "numbers that are finite")
    elif isinstance(node, ast.Name):
        if node.id not in known:
            raise unknown_name("grader in calculate_output:", node.id, known)
        names.append(node.id)
    elif isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        _check(node.left, text, known, names)
        _check(node.right, text, known, names)
    elif isinstance(node, ast.UnaryOp) and type(node.op) in _OPERATORS:
        _check(node.operand, text, known, names)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        function = node.func.id
        if function not in FUNCTIONS:
            raise unknown_name("function in calculate_output:", function, FUNCTIONS)
        many = function in ("min", "max")
        if node.keywords or not (len(node.args) >= 2 if many else len(node.args) == 1):
            count = "two numbers or more" if many else "one number"
            raise bad_value("calculate_output", text, f"{function}() of {count}")
        for argument in node.args:
            _check(argument, text, known, names)
    else:
        allowed = f"numbers, grader names, + - * / ^ ( ) and {', '.join(FUNCTIONS)}"
        raise bad_value("calculate_output", text, allowed)


def _value(node: ast.expr, scores: Mapping[str, float]) -> Any:
    if isinstance(node, ast.Constant):
        return _as_float(node.value)
    if isinstance(node, ast.Name):
        return float(scores[node.id])
    if isinstance(node, ast.BinOp):
        left, right = _value(node.left, scores), _value(node.right, scores)
        return _real(_OPERATORS[type(node.op)](left, right))
    if isinstance(node, ast.UnaryOp):
        return _OPERATORS[type(node.op)](_value(node.operand, scores))
    assert isinstance(node, ast.Call) and isinstance(node.func, ast.Name)  # `_check` let nothing else through
    return float(FUNCTIONS[node.func.id](*(_value(argument, scores) for argument in node.args)))


def _real(value: Any) -> Any:
    """A negative number to a broken power is complex: no score."""
    if isinstance(value, complex):
        raise ValueError
    return value


def _as_float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf
