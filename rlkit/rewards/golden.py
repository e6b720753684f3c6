"""Golden sets: completions whose verdict is known, by which a reward function is judged.

A reward is only as good as what it refuses. So each of ours comes with answers that deserve its best score, answers
that do not, and *exploits*: texts that a model finds when it is paid for them, although they solve nothing.
`rewards.audit` scores all of them and says where a reward would be hacked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Example:
    """One completion to be scored, with what a data set's row would hold.

    Attributes:
        completion: what the model said.
        columns: the row's columns by name, such as ``{"answer": "42"}``.
        note: what is tried here, in a few words.
        prompt: the question, where the reward looks at it.
        fools: the reward is known to pay for this exploit, and its docstring says so. An audit shows it and expects it.
    """

    completion: str
    columns: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""
    prompt: str = ""
    fools: bool = False


@dataclass(frozen=True)
class GoldenSet:
    """What a reward function must tell apart.

    Attributes:
        right: deserve the best score; each must score above every ``wrong`` one.
        wrong: honest failures.
        exploits: dishonest ones; none may score as high as any ``right`` one, unless it is known to fool.
        low, high: the range in which every score lies.
    """

    right: tuple[Example, ...]
    wrong: tuple[Example, ...]
    exploits: tuple[Example, ...] = ()
    low: float = 0.0
    high: float = 1.0
