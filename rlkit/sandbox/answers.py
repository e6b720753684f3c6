"""Answers from a program's process: lines of JSON that hold plain data, read without trust.

Whoever ran a program cannot know what wrote its answers. So they are made of JSON's few types, everything else is spelt
out as {"tuple": […]}, and what does not fit is no answer. The other end is `child.plain`.
"""

from __future__ import annotations

import json
from typing import Any

# Whole numbers that are alike modulo this have one hash, as have tuples of them: in sets and dicts of many such numbers
# every look-up would go through all of them.
HASHES = 2**61 - 1
MOST_LARGE = 1000


def decode(encoded: Any) -> Any:
    """Turn an encoded value into plain data of built-in types; raises ValueError or TypeError for anything else."""
    return _decode(encoded, 0, [0], False)


def _decode(encoded: Any, depth: int, large: list[int], hashed: bool) -> Any:
    """`large` counts the large whole numbers in sets and keys (`hashed`) so far."""
    if hashed and type(encoded) is int and abs(encoded) >= HASHES:
        large[0] += 1
        if large[0] > MOST_LARGE:
            raise ValueError(f"more than {MOST_LARGE} numbers of 2^61 or more in sets or keys")
    if encoded is None or type(encoded) in (bool, int, float, str):
        return encoded
    if depth > 60 or type(encoded) is not dict or len(encoded) != 1:
        raise ValueError("the answer is no plain data")
    ((kind, parts),) = encoded.items()
    if kind == "bytes" and isinstance(parts, str):
        return bytes.fromhex(parts)
    if not isinstance(parts, list):
        raise ValueError("the answer is no plain data")
    if kind == "dict":
        if not all(isinstance(pair, list) and len(pair) == 2 for pair in parts):
            raise ValueError("the answer is no plain data")
        return {
            _decode(key, depth + 1, large, True): _decode(value, depth + 1, large, hashed)
            for key, value in parts
        }
    if kind == "complex" and [type(part) for part in parts] == [float, float]:
        return complex(*parts)
    kinds: dict[str, Any] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
    if kind not in kinds:
        raise ValueError("the answer is no plain data")
    hashed = hashed or kind in ("set", "frozenset")
    return kinds[kind]([_decode(part, depth + 1, large, hashed) for part in parts])


def read_frames(text: str) -> list[dict[str, Any]]:
    """Return the objects that a program's process wrote, one a line, up to the first line that is none."""
    frames = []
    for line in text.split("\n"):
        if not line:
            continue
        try:
            frame = json.loads(line)
        except (ValueError, RecursionError):
            break
        if not isinstance(frame, dict):
            break
        frames.append(frame)
    return frames


def shown(value: Any) -> str:
    """Return the beginning of a value's repr."""
    try:
        return f"{value!r:.200}"
    except ValueError:  # a whole number of more digits than Python writes
        return "a very large number"
