"""Tests that a program cannot pass by cheating: it computes values, and somebody else judges them.

A test is Python text, mostly one assert. `read_test` cuts each assert in two. What needs the program is *asked* of it,
and what judges the answer never enters its process:

    assert area(2, 3) == 6                asked: area(2, 3)      judged: answer == 6
    assert abs(root(2) - 1.4142) < 1e-4   asked: root(2)         judged: abs(answer − 1.4142) < 1e-4
    assert not is_prime(9)                asked: is_prime(9)     judged: not answer

Answers come back as plain data (numbers, text, lists, tuples, sets, dicts, bytes, True, False, None), so an object
whose ``==`` is always true is no answer, and a program that patches built-ins, leaves early or rewrites its checker
only harms itself: it does not know what is expected. Asserts that cannot be cut like this (inside functions or loops,
comparisons of two things that both come from the program, conditions inside an argument) are "unproven": refused
unless allowed.
"""

from __future__ import annotations

import ast
import itertools
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from rlkit.errors import ConfigError, bad_value
from rlkit.sandbox.answers import decode, shown

# What the judge itself calls: these also with an answer among the arguments, those below with literals only.
_ON_ANSWERS: dict[str, Any] = {
    "abs": abs,
    "round": round,
    "max": max,
    "min": min,
    "isclose": math.isclose,
}
_TYPES = {
    kind.__name__: kind
    for kind in (bool, int, float, str, bytes, list, tuple, set, frozenset, dict, type(None))
}
_ON_LITERALS: dict[str, Any] = {
    **{name: kind for name, kind in _TYPES.items() if name != "NoneType"},
    **{function.__name__: function for function in (len, sorted, sum, range)},
}
_CONSTANTS = {name: getattr(math, name) for name in ("inf", "nan", "pi", "e", "tau")}
_LARGEST = 10**6  # elements that a test's own expression may make
_MOST_BITS = 2**16  # of whole numbers that a judge computes with; an answer has at most a quarter of that


_OPERATIONS: dict[type, Any] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
    ast.BitXor: operator.xor,
    ast.LShift: operator.lshift,
    ast.RShift: operator.rshift,
}


class Unproven(Exception):
    """An assert that cannot be cut into a question and a judgement; the message names its shape."""


@dataclass(frozen=True)
class Step:
    """One statement of a test: run `source`, or ask for the values of `questions` and judge them.

    `judge` holds a `Name` with a number for each question; None: the whole assert runs in the program's process.
    """

    source: str
    questions: tuple[str, ...] = ()
    judge: ast.expr | None = None


@dataclass(frozen=True)
class Test:
    """A test as it is put to a program: the steps in their order, and whether its verdict can be trusted."""

    __test__ = False  # pytest would collect it

    source: str
    steps: tuple[Step, ...]
    proven: bool

    def orders(self) -> list[list[Any]]:
        """Return what the program's process gets: ["do", source] or ["ask", [expression, …]]; nothing expected."""
        return [
            ["do", step.source] if step.judge is None else ["ask", list(step.questions)]
            for step in self.steps
        ]

    def fault(self, answers: Any) -> str:
        """Return "" where the answers (one list of encoded values an "ask") satisfy all judges, else what is wrong."""
        asked = [step for step in self.steps if step.judge is not None]
        if not isinstance(answers, list) or len(answers) != len(asked):
            return "no answer"
        for step, encoded in zip(asked, answers, strict=True):
            try:
                if not isinstance(encoded, list) or len(encoded) != len(step.questions):
                    return f"{step.source}: no answer"
                values = [decode(value) for value in encoded]
                if not _value(step.judge, values):
                    got = ", ".join(f"{q} is {shown(v)}" for q, v in zip(step.questions, values, strict=True))
                    return f"{step.source}: {got}"
            except (Unproven, TypeError, ValueError, ArithmeticError, RecursionError) as error:
                return f"{step.source}: {type(error).__name__}: {error!s:.200}"
        return ""


@lru_cache(maxsize=4096)
def read_test(source: str, allow_unproven: bool = False) -> Test:
    """Cut a test's text into steps.

    Raises `ConfigError` for text that is no Python or holds no assert, and, unless `allow_unproven`, for an assert that
    cannot be proven; the message names its shape.
    """
    try:
        statements = ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise bad_value("test", source[:200], "Python text with at least one assert", f"({error})") from None
    steps: list[Step] = []
    proven, asserts = True, 0
    for statement in statements:
        text = ast.unparse(statement)
        inside = [node for node in ast.walk(statement) if isinstance(node, ast.Assert)]
        asserts += len(inside)
        try:
            if isinstance(statement, ast.Assert):
                steps.append(_cut(text, statement.test))
                continue
            if inside:
                raise Unproven(f"an assert inside a {type(statement).__name__} statement")
        except Unproven as shape:
            if not allow_unproven:
                raise ConfigError(
                    f"the test {text[:200]!r} cannot be proven: it has {shape}. A test is proven where the program "
                    "only computes values and what is expected stays outside its process, as in `assert f(2) == 4`: "
                    "write it like that at the top level, or set allow_unproven=True and trust the program."
                ) from None
            proven = False
        steps.append(Step(text))
    if not asserts:
        raise bad_value("test", source[:200], "Python text with at least one assert", "It would always hold.")
    return Test(source, tuple(steps), proven)


def _cut(text: str, condition: ast.expr) -> Step:
    """Turn the condition of an assert into questions and a judge."""
    questions: list[str] = []
    judge = _split(condition, questions, truth=True)
    if not questions:
        raise Unproven("nothing that the program computes")
    return Step(text, tuple(questions), judge)


def _split(node: ast.expr, questions: list[str], truth: bool = False) -> ast.expr:
    """Return `node` with what needs the program replaced by numbered names; `truth`: only its truth value counts."""
    known = _known(node)
    if known is not None:
        return known
    if isinstance(node, ast.BoolOp):
        return ast.BoolOp(node.op, [_split(value, questions, truth) for value in node.values])
    if isinstance(node, ast.UnaryOp):
        inner_truth = truth and isinstance(node.op, ast.Not)
        return ast.UnaryOp(node.op, _split(node.operand, questions, inner_truth))
    if isinstance(node, ast.Compare):
        sides = [node.left, *node.comparators]
        for a, b in itertools.pairwise(sides):
            if _known(a) is None and _known(b) is None:
                raise Unproven("a comparison of two things that both come from the program")
        left, *others = [_split(side, questions) for side in sides]
        return ast.Compare(left, node.ops, others)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        return ast.BinOp(_split(node.left, questions), node.op, _split(node.right, questions))
    if isinstance(node, ast.Tuple | ast.List | ast.Set) and not any(
        isinstance(part, ast.Starred) for part in node.elts
    ):
        return type(node)(elts=[_split(part, questions) for part in node.elts])  # type: ignore[call-arg]
    if isinstance(node, ast.Call):
        name = _function(node)
        if name == "isinstance" and len(node.args) == 2 and not node.keywords:
            kinds = node.args[1].elts if isinstance(node.args[1], ast.Tuple) else [node.args[1]]
            if all(isinstance(kind, ast.Name) and kind.id in _TYPES for kind in kinds):
                return ast.Call(node.func, [_split(node.args[0], questions), node.args[1]], [])
        starred = any(isinstance(part, ast.Starred) for part in node.args)
        named = all(k.arg is not None for k in node.keywords) and (name == "isclose" or not node.keywords)
        digits = name != "round" or all(_known(part) is not None for part in node.args[1:])
        if name in _ON_ANSWERS and named and digits and not starred:
            return ast.Call(
                node.func,
                [_split(argument, questions) for argument in node.args],
                [ast.keyword(k.arg, _split(k.value, questions)) for k in node.keywords],
            )
    for part in ast.walk(node):
        if isinstance(part, ast.Compare | ast.BoolOp | ast.NamedExpr):
            raise Unproven("a condition inside what the program computes")
    if truth and not _direct_call(node):
        raise Unproven("a truth value that is no direct call of a function of the program")
    questions.append(ast.unparse(node))
    return ast.Name(str(len(questions) - 1), ast.Load())


def _direct_call(node: ast.expr) -> bool:
    """Whether a truth value comes straight from the program, as in is_prime(7) or stack.is_empty()."""
    if not isinstance(node, ast.Call):
        return False
    if any(isinstance(part, ast.Call) for part in ast.walk(node) if part is not node):
        return False
    if isinstance(node.func, ast.Attribute):
        return isinstance(node.func.value, ast.Name)
    return isinstance(node.func, ast.Name) and node.func.id not in {"all", "any", "eval", *_ON_LITERALS}


def _function(node: ast.Call) -> str:
    """Return the name of the function that is called, also as math.name; "" where it is something else."""
    if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
        return node.func.attr if node.func.value.id == "math" else ""
    return node.func.id if isinstance(node.func, ast.Name) else ""


def _known(node: ast.expr) -> ast.Constant | None:
    """Return the value of an expression that needs no program as a constant; None where it needs one."""
    try:
        return ast.Constant(_value(node, []))
    except (Unproven, TypeError, ValueError, ArithmeticError, RecursionError, LookupError):
        return None


def _value(node: Any, answers: Sequence[Any]) -> Any:
    """Compute a judge, or an expression of literals; raises `Unproven` for anything else."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        if node.id.isdigit():
            return answers[int(node.id)]
    elif isinstance(node, ast.Attribute):
        if isinstance(node.value, ast.Name) and node.value.id == "math" and node.attr in _CONSTANTS:
            return _CONSTANTS[node.attr]
    elif isinstance(node, ast.Tuple | ast.List | ast.Set):
        kind = {ast.Tuple: tuple, ast.List: list, ast.Set: set}[type(node)]
        return kind(_value(part, answers) for part in node.elts)
    elif isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        return {_value(key, answers): _value(value, answers) for key, value in pairs}
    elif isinstance(node, ast.BoolOp):
        values = [bool(_value(part, answers)) for part in node.values]
        return all(values) if isinstance(node.op, ast.And) else any(values)
    elif isinstance(node, ast.UnaryOp):
        value = _value(node.operand, answers)
        if isinstance(node.op, ast.Not):
            return not value
        return (
            -value if isinstance(node.op, ast.USub) else +value if isinstance(node.op, ast.UAdd) else ~value
        )
    elif isinstance(node, ast.BinOp):
        return _arithmetic(node.op, _value(node.left, answers), _value(node.right, answers))
    elif isinstance(node, ast.Compare):
        sides = [_value(side, answers) for side in (node.left, *node.comparators)]
        return all(_compare(op, a, b) for op, (a, b) in zip(node.ops, itertools.pairwise(sides), strict=True))
    elif isinstance(node, ast.Call):
        return _call(node, answers)
    raise Unproven(f"a {type(node).__name__}")


def _call(node: ast.Call, answers: Sequence[Any]) -> Any:
    """Compute a call of one of the judge's own functions."""
    name = _function(node)
    if name == "isinstance":
        kinds = node.args[1].elts if isinstance(node.args[1], ast.Tuple) else [node.args[1]]
        return isinstance(_value(node.args[0], answers), tuple(_TYPES[kind.id] for kind in kinds))  # type: ignore[attr-defined]
    function = {**_ON_LITERALS, **_ON_ANSWERS}.get(name)
    if function is None:
        raise Unproven(f"a call of {name or 'something'}")
    given = [_value(argument, answers) for argument in node.args]
    named = {str(k.arg): _value(k.value, answers) for k in node.keywords}
    if isinstance(function, type) and issubclass(function, bytes) and given and isinstance(given[0], int):
        raise Unproven("bytes of a length")
    made = function(*given, **named)
    if isinstance(made, range) and len(made) > _LARGEST:
        raise Unproven("a range that is too long")
    return made


def _arithmetic(op: ast.operator, a: Any, b: Any) -> Any:
    """Compute with numbers of a bounded size, and with sets; texts and lists may be added and repeated."""
    kind = type(op)
    if kind not in _OPERATIONS:
        raise Unproven(f"the operator {kind.__name__}")
    plain = all(isinstance(x, int | float | complex) for x in (a, b))
    if kind is ast.Mult and not plain:
        text, times = (a, b) if isinstance(b, int) else (b, a)
        if (
            isinstance(text, str | bytes | list | tuple)
            and isinstance(times, int)
            and len(text) * times <= _LARGEST
        ):
            return text * times
        raise Unproven("a product of things that are no numbers")
    if plain:
        bits = [x.bit_length() if isinstance(x, int) else 64 for x in (a, b)]
        if kind is ast.Pow and isinstance(b, int):
            bits.append(bits[0] * abs(b) if isinstance(a, int) else 0)
        if kind is ast.LShift and isinstance(b, int):
            bits.append(bits[0] + abs(b))
        if max(bits) > _MOST_BITS:
            raise Unproven("a very large number")
    elif not (type(a) is type(b) and kind is ast.Add) and not all(
        isinstance(x, set | frozenset) for x in (a, b)
    ):
        raise Unproven("arithmetic with something that is no number")
    return _OPERATIONS[kind](a, b)


def _compare(op: ast.cmpop, a: Any, b: Any) -> bool:
    """Compare two plain values as Python does."""
    operations: dict[type, Any] = {
        ast.Eq: lambda: a == b,
        ast.NotEq: lambda: a != b,
        ast.Lt: lambda: a < b,
        ast.LtE: lambda: a <= b,
        ast.Gt: lambda: a > b,
        ast.GtE: lambda: a >= b,
        ast.In: lambda: a in b,
        ast.NotIn: lambda: a not in b,
        ast.Is: lambda: a is b,
        ast.IsNot: lambda: a is not b,
    }
    return bool(operations[type(op)]())
