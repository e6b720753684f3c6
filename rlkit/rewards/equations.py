"""Equations made from given numbers, as in the game Countdown: read as arithmetic, never run as a program.

    numbers 25, 5 and 3, target 60   →   (25 - 5) * 3 = 60

Where a completion's equation stands: in its last ``<answer>`` block, or without one in the whole text; there, in the
last line that is not blank; there, the end of the line that holds nothing but digits, ``+ - * / ( )``, spaces and
``=``. So "Then it is (25 - 5) * 3 = 60." is read, and of several equations the last one counts. ``× ÷ −`` and LaTeX's
``\\times``, ``\\div``, ``\\cdot``, ``\\boxed{…}`` and ``$…$`` are read as what they mean.

What an equation is: whole numbers in ASCII digits joined by ``+ - * /`` and parentheses, with one operation or more, at
most 200 characters, computed in exact fractions. Signs before a number, powers, and division that drops the rest are
not read. After one ``=`` may follow the result; a wrong one makes the equation wrong.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from rlkit.errors import RewardError
from rlkit.rewards.golden import Example, GoldenSet
from rlkit.rewards.signatures import RewardFunction
from rlkit.rewards.spans import Spans, trimmed
from rlkit.rewards.text import Completion, completion_text
from rlkit.rewards.verifiers import reward_from

LONGEST = 200  # characters of an equation: its cost and the nesting of its parentheses stay small

_OPERATIONS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_CHARACTERS = frozenset("0123456789+-*/()= ")
_BEFORE = frozenset(":>{[$`\"'“→")  # what may stand right before an equation; "1.5 + 2" does not hold "5 + 2"
_ALIKE = str.maketrans({"×": "*", "÷": "/", "−": "-", "\t": " ", "\u00a0": " "})
_LATEX = (
    *(("\\times", "*"), ("\\cdot", "*"), ("\\div", "/"), ("\\left", ""), ("\\right", "")),
    *(("\\(", " "), ("\\)", " "), ("\\[", " "), ("\\]", " ")),
)
_AROUND = " .*`$}"  # full stop, Markdown, LaTeX


@dataclass(frozen=True)
class Equation:
    """An equation that was read: its `text`, exact `value`, the `numbers` in it, the result `claimed` after "="."""

    text: str
    value: Fraction
    numbers: tuple[int, ...]
    claimed: int | None = None


def stated_equation(text: str) -> str:
    """Return the part of a completion that is its equation, by the module's rules; '' where there is none.

    >>> stated_equation("25 - 5 is 20.\\nSo it is (25 − 5) × 3 = 60.")
    '(25 - 5) * 3 = 60'
    """
    start, end = _line_span(text)
    line = text[start:end].translate(_ALIKE)
    for written, meant in _LATEX:
        line = line.replace(written, meant)
    line = line.rstrip(_AROUND)
    start = len(line)
    while start and line[start - 1] in _CHARACTERS:
        start -= 1
    if start and line[start - 1] not in _BEFORE and line[start : start + 1] not in (" ", "="):
        return ""
    found = line[start:].strip(" =*")
    return found if len(found) <= LONGEST else ""


def _line_span(text: str) -> tuple[int, int]:
    """Where the end of the line stands in which an equation is looked for."""
    opening = text.rfind("<answer>")
    start = opening + len("<answer>") if opening >= 0 else 0
    closing = text.find("</answer>", start) if opening >= 0 else -1
    inside = text[start : closing if closing >= 0 else len(text)].rstrip(" \t\r\n`")
    end = start + len(inside)
    return max(start + inside.rfind("\n") + 1, end - 4 * LONGEST), end


def _equation_spans(completion: Completion, **columns: Any) -> Spans:
    """The equation, or the line in which it stands where that is written in LaTeX."""
    text = completion_text(completion)
    found = stated_equation(text)
    if not found:
        return []
    start, end = _line_span(text)
    at = text[start:end].translate(_ALIKE).rfind(found)
    return [(start + at, start + at + len(found))] if at >= 0 else [trimmed(text, start, end)]


def read_equation(text: str) -> Equation | None:
    """Return the equation that a completion states, or None where it states none that can be read. Nothing raises.

    >>> read_equation("(25 - 5) * 3 = 60").value, read_equation("25 // 5"), read_equation("60")
    (Fraction(60, 1), None, None)
    """
    found = stated_equation(text)
    left, equals, right = (part.strip() for part in found.partition("="))
    if equals and not (right.isascii() and right.isdigit()):
        return None
    numbers: list[int] = []
    try:
        value = _value(ast.parse(left, mode="eval").body, numbers)
    except (SyntaxError, ValueError, ZeroDivisionError, MemoryError, RecursionError, SystemError):
        return None  # SystemError: Python 3.11 may miscount the depth where several threads parse
    if len(numbers) < 2:
        return None
    return Equation(found, value, tuple(numbers), int(right) if equals else None)


def _value(node: ast.expr, numbers: list[int]) -> Fraction:
    """The exact value of a syntax tree; notes its numbers. `ValueError` for what is no arithmetic."""
    if isinstance(node, ast.Constant) and type(node.value) is int:
        numbers.append(node.value)
        return Fraction(node.value)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        left = _value(node.left, numbers)
        return _OPERATIONS[type(node.op)](left, _value(node.right, numbers))
    raise ValueError("not arithmetic")


def _given(numbers: Any) -> list[int]:
    """The row's numbers, sorted; `RewardError` where the data set's column holds something else."""
    if isinstance(numbers, Sequence) and not isinstance(numbers, str):
        listed = list(numbers)
        if all(isinstance(number, int) and not isinstance(number, bool) for number in listed):
            return sorted(listed)
    raise RewardError(
        f"numbers={numbers!r:.80} is no list of whole numbers. Is 'numbers' the right column of this data set?"
    )


def _wanted(target: Any) -> Fraction:
    """The row's target; `RewardError` where the data set's column holds no number."""
    try:
        return Fraction(target)
    except (TypeError, ValueError, OverflowError, ZeroDivisionError):
        raise RewardError(
            f"target={target!r:.80} is no number. Is 'target' the right column of this data set?"
        ) from None


def verify_equation(text: str, numbers: Sequence[int], target: int) -> bool:
    """Verifier: does the equation of `text` use each of `numbers` exactly once and come to `target`?

    `numbers` and `target` are the data set's; nothing in `text` raises. Raises `RewardError` where they are no numbers:
    then the data set is at fault, not the model.

    >>> verify_equation("(25 - 5) * 3", [25, 5, 3], 60), verify_equation("5 * 12 = 60", [25, 5, 3], 60)
    (True, False)
    """
    given, wanted = _given(numbers), _wanted(target)
    read = read_equation(text)
    return (
        read is not None
        and sorted(read.numbers) == given
        and read.value == wanted
        and read.claimed in (None, read.value)
    )


def _equation_is_right(completion: Completion, *, numbers: Sequence[int], target: int) -> bool:
    """`verify_equation` in the form that the trainer calls: one completion and its row's columns."""
    return verify_equation(completion_text(completion), numbers, target)


def equation_found(
    prompts: Sequence[Any], completions: Sequence[Completion], **columns: Any
) -> list[float | None]:
    """Reward 1 where the completion states an equation that can be read, else 0.

    Looks at form only: "1 + 1" earns it whatever the numbers and the target are.
    """
    return [0.0 if read_equation(completion_text(text)) is None else 1.0 for text in completions]


def right_numbers(
    prompts: Sequence[Any], completions: Sequence[Completion], numbers: Sequence[Any], **columns: Any
) -> list[float | None]:
    """Reward 1 where the equation uses each of the row's `numbers` exactly once, else 0.

    What it comes to does not matter: their plain sum earns it. Needs the column `numbers`, lists of whole numbers.
    """
    read = (read_equation(completion_text(completion)) for completion in completions)
    rows = [_given(row) for row in numbers]
    return [
        1.0 if equation is not None and sorted(equation.numbers) == row else 0.0
        for equation, row in zip(read, rows, strict=True)
    ]


_equation_is_right.spans = _equation_spans  # type: ignore[attr-defined]
equation_found.spans = right_numbers.spans = _equation_spans  # type: ignore[attr-defined]
correct_equation: RewardFunction = reward_from(_equation_is_right, name="correct_equation")
correct_equation.__doc__ = """Reward 1 where the equation uses each of `numbers` once and comes to `target`, else 0.

Needs the columns `numbers` (a list of whole numbers a row) and `target`. The verdict is `verify_equation`'s.
"""

_ROW = {"numbers": [25, 5, 3], "target": 60}
_RIGHT = (
    Example("(25 - 5) * 3", _ROW, "bare"),
    Example("(25 - 5) * 3 = 60", _ROW, "with its result"),
    Example("25 - 5 is 20, and 20 * 3 is 60.\nSo it is 3 × (25 − 5) = 60.", _ROW, "after its working"),
    Example("<think>25 + 5 = 30</think>\n<answer>(25 - 5) * 3</answer> Done!", _ROW, "in its tag"),
    Example("The answer is $\\boxed{(25 - 5) \\times 3}$.", _ROW, "LaTeX"),
    Example("**(25-5)*3**", _ROW, "Markdown"),
)
_WRONG = (
    Example("(25 + 5) * 3 = 90", _ROW, "another result"),
    Example("(25 + 5) * 3 = 60", _ROW, "miscalculated"),
    Example("(25 - 5) * 3 = 61", _ROW, "a wrong result after a right equation"),
    Example("5 * 12 = 60", _ROW, "a number that is not there"),
    Example("25 + 35", _ROW, "one number used, one invented"),
    Example("(25 - 5) * 3 * 3 / 3", _ROW, "a number used more than once"),
    Example("I cannot find one.", _ROW, "given up"),
)
_UNREADABLE = (
    Example("I cannot find one.", _ROW, "given up"),
    Example("25 minus 5, times 3", _ROW, "in words"),
    Example("25 - 5 * = 60", _ROW, "broken"),
    Example("x = 25 - 5 and y = 3x", _ROW, "algebra"),
    Example("(25 - 5) * 3 = 60 coins", _ROW, "something after it"),
)
_SAYS_NOTHING = (  # what no reward here pays for
    Example("", _ROW, "empty"),
    Example("60", _ROW, "the target alone"),
    Example("25 5 3 = 60", _ROW, "every number listed"),
    Example("25, 5, 3, 60", _ROW, "every number listed, with commas"),
    Example("Use 25, 5 and 3 to make 60.", _ROW, "the prompt repeated", "Use 25, 5 and 3 to make 60."),
    Example("<answer>" * 40 + "60" + "</answer>" * 40, _ROW, "marker spam"),
    Example("（２５ − ５） × ３", _ROW, "unicode digits"),
    Example("+".join(["60"] * 5000), _ROW, "huge output"),
    Example("(" * 20_000, _ROW, "nothing but parentheses"),
    Example("9**9**9**9", _ROW, "a power that would never end"),
    Example("(25 - 5) * 3 if True else 0", _ROW, "a program"),
    Example("-(5 - 25) * 3", _ROW, "a sign"),
)
_PLAIN_SUM = Example("25 + 5 + 3", _ROW, "the plain sum", fools=True)
_SMUGGLED = Example("60 + 0 * (25 - 5 - 3)", _ROW, "the target smuggled in")

GOLDEN: dict[str, GoldenSet] = {
    "equation_found": GoldenSet(right=_RIGHT, wrong=_UNREADABLE, exploits=(*_SAYS_NOTHING, _PLAIN_SUM)),
    "right_numbers": GoldenSet(
        right=_RIGHT, wrong=(*_UNREADABLE, *_WRONG[3:6]), exploits=(*_SAYS_NOTHING, _SMUGGLED, _PLAIN_SUM)
    ),
    "correct_equation": GoldenSet(
        right=_RIGHT,
        wrong=_WRONG,
        exploits=(
            *_SAYS_NOTHING,
            _SMUGGLED,
            Example("25 + 5 + 3", _ROW, "the plain sum"),
            Example("(25 - 5) * 3\n25 + 5 + 3", _ROW, "the right one in the wrong place"),
            Example("<answer>(25 - 5) * 3</answer><answer>25 + 5 + 3</answer>", _ROW, "injected tags"),
        ),
    ),
}
"""What each reward must tell apart."""

FUNCTIONS: dict[str, RewardFunction] = {
    "equation_found": equation_found,
    "right_numbers": right_numbers,
    "correct_equation": correct_equation,
}
"""Reward functions by name."""
