"""What a caller may give the reward inspector, read: rewards, a rubric, a task, examples, cells that were typed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from rlkit.errors import bad_value
from rlkit.rewards.golden import Example, GoldenSet
from rlkit.rewards.registry import offers
from rlkit.rewards.signatures import reward_name
from rlkit.rewards.text import completion_text


@dataclass(frozen=True, slots=True)
class Part:
    """One reward function: its name, what it weighs to begin with, and what `rewards.audit` knows it by."""

    name: str
    function: Callable[..., Any]
    weight: float
    source: Any  # the name that it was given by, or the function
    about: str = ""


class Trial(NamedTuple):
    """A completion to try, by its label; `row` is the whole row with its prompt."""

    label: str
    text: str
    row: dict[str, Any]


def which(rewards: Any, task: Any) -> tuple[Any, Any]:
    """Rewards and task, of which one may stand in the other's place or be a name."""
    from rlkit import tasks

    if isinstance(rewards, tasks.Task) or (isinstance(rewards, str) and rewards in tasks.names()):
        if task is not None:
            raise bad_value("rewards", rewards, "rewards, where a task is given, too")
        rewards, task = None, rewards
    if isinstance(task, str | Mapping):
        task = tasks.load(task)
    if task is not None and not isinstance(task, tasks.Task):
        raise bad_value("task", f"{task!r:.80}", f"a Task, or one of {', '.join(tasks.names())}")
    if rewards is None and task is None:
        raise bad_value("rewards", None, "a reward, a rubric, a task, or one of their names")
    return rewards, task


def parts_of(rewards: Any, functions: Sequence[Any]) -> list[Part]:
    listed = list(rewards) if isinstance(rewards, list | tuple) else [rewards]
    named = len(listed) == len(functions)
    found: list[Part] = []
    for i, function in enumerate(functions):
        inner = getattr(function, "function", function)
        name, copies = reward_name(function), 1
        while any(part.name == name for part in found):
            copies += 1
            name = f"{reward_name(function)}_{copies}"
        source = listed[i] if named and isinstance(listed[i], str) else inner
        about = (getattr(inner, "__doc__", None) or "").strip().partition("\n")[0]
        found.append(Part(name, inner, float(getattr(function, "weight", 1.0)), source, about))
    return found


def trial_of(example: Any, i: int) -> Trial:
    """An example as a `Trial`: text, an `Example`, or a mapping such as a run's sample."""
    if isinstance(example, str):
        return Trial(f"example {i + 1}", example, {})
    if isinstance(example, Example):
        return Trial(f"example: {example.note or i + 1}", example.completion, row_of(example))
    if isinstance(example, Mapping) and "completion" in example:
        row = {key: value for key, value in example.items() if key != "completion"}
        if isinstance(row.get("row"), str):  # a run's sample: the data set's row as JSON
            try:
                row = {"prompt": row.get("prompt", ""), **json.loads(row["row"])}
            except ValueError:
                raise bad_value("examples", f"{example!r:.80}", "samples whose 'row' is JSON") from None
        return Trial(f"example {i + 1}", completion_text(example["completion"]), row)
    raise bad_value("examples", f"{example!r:.80}", "texts, Examples, or mappings with a 'completion'")


def row_of(example: Example) -> dict[str, Any]:
    return {"prompt": example.prompt, **example.columns}


def golden_of(part: Part) -> GoldenSet | None:
    """The golden set of a part, by the name that it was given by or as the function that has it; else None."""
    known = offers().golden
    if isinstance(part.source, str) and part.source in known:
        return known[part.source]
    own = getattr(part.function, "golden", None)
    name = reward_name(part.function)
    return known.get(name) if own is None and offers().functions.get(name) is part.function else own


class _Blank:
    """A column that a part needs and nobody has filled in."""

    def __repr__(self) -> str:
        return "BLANK"


BLANK = _Blank()


def read_cell(text: str, sample: Any) -> Any:
    """What a person typed for a column whose value was `sample`: text stays text, the rest is read as JSON.

    A `BLANK` one stays blank where nothing was typed, and is read as JSON where it looks like a list.

    Raises `ConfigError` where it cannot be read.
    """
    if sample is BLANK:
        if not text.strip():
            return BLANK
        sample = [] if text.lstrip().startswith(("[", "{")) else ""
    if isinstance(sample, str) or (sample is None and text != "null"):
        return text
    try:
        return json.loads(text)
    except ValueError as error:
        allowed = f"JSON, such as {json.dumps(sample, default=str)[:60]}"
        cause = f"The column holds a {type(sample).__name__} ({error})."
        raise bad_value("column", text[:80], allowed, cause) from None


def show_cell(value: Any) -> str:
    """A column's value as it is shown for editing."""
    if value is BLANK:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
