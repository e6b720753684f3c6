"""What an exercise is, and how an answer is judged: by what it computes on inputs that are drawn for it.

A wrong answer is told what is wrong with it by comparing it with answers whose error is known: whoever computes on
every input what "divides by the number of groups" computes, has divided by the number of groups.
"""

from __future__ import annotations

import copy
import html
import inspect
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from rlkit.exercises.compare import difference, equal, shown

DIFFICULTIES = ("easy", "medium", "hard")


class Wrong(NamedTuple):
    """A wrong answer that people give: its ``name``, what to tell whoever gives it, and the answer itself."""

    name: str
    says: str
    answer: Callable[..., Any]


class Raised(NamedTuple):
    """What stands for the value of an answer that raised an error."""

    kind: str
    text: str


def call(answer: Callable[..., Any], case: tuple[Any, ...]) -> Any:
    """The usual observation: what the answer returns for the arguments ``case``."""
    return answer(*case)


def value_and_gradient(answer: Callable[..., Any], case: tuple[Any, ...]) -> Any:
    """Another observation: what a scalar ``answer`` returns, and its gradient with respect to the first argument.

    So a loss whose value is right, but through which no gradient or the wrong one flows, is told apart.
    """
    first = case[0].clone().requires_grad_(True)
    value = answer(first, *case[1:])
    if value is None:
        return None
    if not hasattr(value, "backward"):
        return {"value": value, "gradient": "none: the value is a plain number, not a tensor"}
    if not value.requires_grad:
        return {"value": value, "gradient": "none: the value does not depend on the first argument"}
    value.sum().backward()
    gradient = "none: the first argument was left out" if first.grad is None else first.grad
    return {"value": value, "gradient": gradient}


@dataclass(frozen=True)
class Exercise:
    """One exercise and all that is needed to judge an answer to it.

    ``cases(rng)`` draws the inputs, a list of tuples of arguments, the easiest to read first. ``expected(*case)``
    computes what is right in another way than ``solution``: a loop, an enumeration, a library of its own.
    ``observe(answer, case)`` is what is looked at, by default the value returned; it can return a gradient as well.
    Numbers may differ by ``tolerance``, relative to the larger one above 1.
    """

    name: str
    title: str
    difficulty: str  # of DIFFICULTIES
    minutes: int
    hint: str
    solution: Callable[..., Any]
    cases: Callable[[random.Random], Sequence[tuple[Any, ...]]]
    expected: Callable[..., Any]
    wrong: tuple[Wrong, ...]
    observe: Callable[[Callable[..., Any], tuple[Any, ...]], Any] = call
    tolerance: float = 1e-5
    praise: str = ""  # what a right answer means, in a sentence

    def check(self, answer: Any, seed: int = 0) -> Result:
        """Judge ``answer``; see `rlkit.exercises.check`."""
        if answer is None or answer is Ellipsis:
            return self._result("unsolved", "Not solved yet: put your answer in place of the dots.")
        if not callable(answer):
            return self._result(
                "wrong",
                f"This checks a function, and was given {shown(answer)}. Hand over the function itself, without "
                f'brackets: exercises.check("{self.name}", {self.solution.__name__}).',
            )
        cases = list(self.cases(random.Random(seed)))
        returned: list[Any] = []

        def watched(*arguments: Any, **named: Any) -> Any:
            returned.append(answer(*arguments, **named))
            return returned[-1]

        seen = [self._observed(watched, case) for case in cases]
        if all(value is None or value is Ellipsis for value in returned) and (
            returned or (isinstance(seen[0], Raised) and seen[0].kind == "NotImplementedError")
        ):
            name = self.solution.__name__
            return self._result(
                "unsolved",
                f"Not solved yet: {name} returns nothing. Put your code in place of the dots, run that cell, then this "
                "one. (If you did write it: is a `return` missing?)",
            )
        for number, (case, value) in enumerate(zip(cases, seen)):
            right = self.expected(*copy.deepcopy(case))
            fault = value if isinstance(value, Raised) else difference(value, right, self.tolerance)
            if fault:
                where = self._where(case, value, right, fault)
                return self._result("wrong", self._known(cases, seen, number, where) or where)
        return self._result("right", f"Right, on {len(cases)} different inputs. {self.praise}".strip())

    def _observed(self, answer: Callable[..., Any], case: tuple[Any, ...]) -> Any:
        try:
            return self.observe(answer, copy.deepcopy(case))  # a copy: an answer may change its arguments
        except Exception as error:
            return Raised(type(error).__name__, str(error))

    def _known(self, cases: Sequence[tuple[Any, ...]], seen: Sequence[Any], number: int, where: str) -> str:
        """The words of the named wrong answer that computes the same, or "".

        On every input: that is the mistake. Only on the first that is wrong, ``number``: it is one of several.
        """
        partly = []
        for wrong in self.wrong:
            theirs = [self._observed(wrong.answer, case) for case in cases]
            if all(same(a, b, self.tolerance) for a, b in zip(seen, theirs)):
                return wrong.says
            if not isinstance(seen[number], Raised) and same(seen[number], theirs[number], self.tolerance):
                partly.append(wrong.says)
        if len(partly) != 1:
            return ""
        more = "That explains the input below, but not all of them: look for something else, too."
        return f"{partly[0]}\n{more}\n{where}"

    def _where(self, case: tuple[Any, ...], value: Any, right: Any, fault: Any) -> str:
        """Where an error shows: what there is to say of one that has no name."""
        names = list(inspect.signature(self.solution).parameters)
        given = ", ".join(
            f"{name}={shown(argument)}" for name, argument in zip([*names, *["…"] * len(case)], case)
        )
        if isinstance(value, Raised):
            return f"It stops with {value.kind}: {value.text or 'no message'}\nInput: {given}"
        return f"Not yet: {fault}.\nInput:    {given}\nYours:    {shown(value)}\nExpected: {shown(right)}"

    def _result(self, state: str, message: str) -> Result:
        return Result(self.name, state, message)


def same(a: Any, b: Any, tolerance: float) -> bool:
    """Say whether two observations are the same, errors of the same kind included."""
    if isinstance(a, Raised) or isinstance(b, Raised):
        return isinstance(a, Raised) and isinstance(b, Raised) and a.kind == b.kind
    return equal(a, b, tolerance)


@dataclass(frozen=True)
class Result:
    """What a check found: ``state`` is "right", "wrong" or "unsolved". It is true where the answer is right."""

    name: str
    state: str
    message: str

    def __bool__(self) -> bool:
        return self.state == "right"

    def must_pass(self) -> None:
        """Raise ``AssertionError`` with the message unless the answer is right: what a grader asks for."""
        if not self:
            raise AssertionError(f"{self.name}: {self.message}")

    def __repr__(self) -> str:
        return f"{_MARK[self.state]} {self.name}: {self.message}"

    def _repr_html_(self) -> str:
        text = html.escape(self.message).replace("\n", "<br>")
        colour = {"right": "#009E73", "wrong": "#D55E00", "unsolved": "#777777"}[self.state]
        return (
            f'<div role="status" class="tex2jax_ignore mathjax_ignore" style="border-left:4px solid {colour};'
            f'padding:.3em .8em"><b>{_MARK[self.state]} {html.escape(self.name)}</b><br>'
            f'<span style="font-family:monospace;white-space:pre-wrap">{text}</span></div>'
        )


_MARK = {"right": "✓", "wrong": "✗", "unsolved": "○"}
