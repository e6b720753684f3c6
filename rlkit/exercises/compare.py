"""Compare what two answers computed, whatever it is: numbers, text, tensors, arrays, and lists and mappings of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

LONGEST = 160  # characters of a value that is shown


def difference(got: Any, wanted: Any, tolerance: float) -> str:
    """Return in words the first way in which ``got`` differs from ``wanted``, or ""."""
    return _difference(_plain(got), _plain(wanted), tolerance, "")


def equal(a: Any, b: Any, tolerance: float) -> bool:
    """Say whether two values are the same up to ``tolerance``."""
    return not difference(a, b, tolerance)


def shown(value: Any) -> str:
    """A value on one line, short, tensors as lists with their shape."""
    shape = _shape(value)
    text = _text(_plain(value))
    if len(text) > LONGEST:
        text = text[: LONGEST - 1] + "…"
    return f"{text}, shape {list(shape)}" if shape else text


def _difference(got: Any, wanted: Any, tolerance: float, where: str) -> str:
    at = f" at {where}" if where else ""
    if isinstance(wanted, Mapping):
        if not isinstance(got, Mapping):
            return f"{_kind(got)} instead of a mapping{at}"
        if set(got) != set(wanted):
            return f"the keys {sorted(map(str, got))} instead of {sorted(map(str, wanted))}{at}"
        faults = (_difference(got[key], wanted[key], tolerance, f"{where}[{key!r}]") for key in wanted)
        return next(filter(None, faults), "")
    if isinstance(wanted, Sequence) and not isinstance(wanted, str):
        if not isinstance(got, Sequence) or isinstance(got, str):
            return f"{_kind(got)} instead of {len(wanted)} values{at}"
        if _shape(got) != _shape(wanted):
            return f"the shape is {list(_shape(got))} instead of {list(_shape(wanted))}{at}"
        faults = (_difference(a, b, tolerance, f"{where}[{i}]") for i, (a, b) in enumerate(zip(got, wanted)))
        return next(filter(None, faults), "")
    if isinstance(wanted, (bool, str)) or wanted is None:
        # True and 1 are not told apart: `a == b` of a tensor and a comparison in Python should both do.
        alike = got == wanted if isinstance(got, (bool, int, float, str, type(None))) else False
        return "" if alike else f"{_text(got)} instead of {_text(wanted)}{at}"
    if isinstance(got, (bool, int, float)) and isinstance(wanted, (int, float)):
        if math.isnan(wanted) or math.isnan(got):
            return (
                ""
                if math.isnan(wanted) and math.isnan(got)
                else f"{_text(got)} instead of {_text(wanted)}{at}"
            )
        close = got == wanted or abs(got - wanted) <= tolerance * max(1.0, abs(wanted))
        return "" if close else f"{_text(got)} instead of {_text(wanted)}{at}"
    if isinstance(wanted, (int, float)):
        return f"{_kind(got)} instead of a number{at}"
    return "" if got == wanted else f"{_text(got)} instead of {_text(wanted)}{at}"


def _plain(value: Any) -> Any:
    """Tensors, arrays and their scalars as Python's numbers and lists; tuples and sets as lists."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().tolist()
    elif hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted((_plain(one) for one in value), key=repr)
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return value


def _shape(value: Any) -> tuple[int, ...]:
    """The shape of a tensor, or the length of a list; () for a single value."""
    if hasattr(value, "shape"):
        return tuple(value.shape)
    return (len(value),) if isinstance(value, Sequence) and not isinstance(value, str) else ()


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_text, value)) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {_text(one)}" for key, one in value.items()) + "}"
    return repr(value)


def _kind(value: Any) -> str:
    if isinstance(value, str):
        return repr(value)  # also what an observation says: "none: the value is a plain number, not a tensor"
    return "a single value" if isinstance(value, (bool, int, float)) else f"a {type(value).__name__}"
