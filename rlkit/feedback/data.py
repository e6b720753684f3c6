"""Human feedback as rows, in TRL's forms:

    {"prompt": "17+25=", "chosen": "42", "rejected": "32"}         a preference; optionally "margin", a number
    {"prompt": "17+25=", "completion": "42", "label": True}        thumbs: up or down

Prompts and answers are texts or lists of chat messages. A preference without ``prompt``, whose sides are whole
conversations, is cut where they part (TRL: implicit prompt).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from rlkit.errors import ConfigError
from rlkit.given import described, how_to_make_rows, is_in_columns
from rlkit.rewards.text import completion_text
from rlkit.rollout import Row

_PREFERENCE = '{"prompt": "17+25=", "chosen": "42", "rejected": "32"}'
_THUMB = '{"prompt": "17+25=", "completion": "42", "label": True}'


def check_preferences(dataset: Any, name: str = "train_dataset") -> list[Row]:
    """The rows of a data set of preferences, each with ``prompt``, ``chosen`` and ``rejected``; other columns stay.

    Args:
        dataset: a list of dicts or a ``datasets.Dataset``.
        name: what it is called in errors.

    Raises:
        ConfigError: no rows; a row in another form; a prompt or a side that is empty; two equal sides, which say
            nothing; a ``margin`` that is no finite number, or that only some rows have.
    """
    rows = [_explicit(row, where) for row, where in _rows(dataset, name, _PREFERENCE)]
    for i, row in enumerate(rows):
        where = f"row {i} of {name}"
        _check_texts(row, ("prompt", "chosen", "rejected"), where)
        if same_answer(row["chosen"], row["rejected"]):
            raise ConfigError(
                f"{where} prefers {_short(row['chosen'])} to itself: chosen and rejected are equal, so there is "
                "nothing "
                "to learn. Remove the row; was one answer sampled twice?"
            )
        if ("margin" in row) != ("margin" in rows[0]):
            raise ConfigError(
                f"{where} and row 0: only one of them has a 'margin'. Give it for all rows or none"
            )
        margin = row.get("margin", 0.0)
        if isinstance(margin, bool) or not isinstance(margin, (int, float)) or not math.isfinite(margin):
            raise ConfigError(
                f"the margin of {where} is {margin!r}; allowed: a finite number, 0 for no margin"
            )
    return rows


def check_thumbs(dataset: Any, name: str = "train_dataset") -> list[Row]:
    """The rows of a data set of thumbs, each with ``prompt``, ``completion`` and ``label`` (True or False).

    Raises:
        ConfigError: no rows; a row in another form; an empty prompt or completion; a label that is neither True nor
            False.
    """
    rows = []
    for row, where in _rows(dataset, name, _THUMB):
        _check_texts(row, ("prompt", "completion"), where)
        if not isinstance(row.get("label"), bool):
            found = repr(row["label"]) if "label" in row else "missing"
            raise ConfigError(
                f"the label of {where} is {found}; allowed: True (thumb up) or False (thumb down)"
            )
        rows.append(row)
    return rows


def pairs_from_thumbs(rows: Sequence[Row]) -> list[Row]:
    """Preferences from thumbs: for each prompt, every answer with its thumb up over every one with its thumb down.

    An answer with both (of two raters) is preferred to none and none to it. Prompts with one kind only yield nothing.

    >>> pairs_from_thumbs([{"prompt": "2+2=", "completion": c, "label": c == "4"} for c in "45"])
    [{'prompt': '2+2=', 'chosen': '4', 'rejected': '5'}]
    """
    groups: dict[str, tuple[Any, dict[str, tuple[Any, set[bool]]]]] = {}
    for row in check_thumbs(rows, "rows"):
        _, answers = groups.setdefault(item_key(row["prompt"]), (row["prompt"], {}))
        answers.setdefault(item_key(row["completion"]), (row["completion"], set()))[1].add(row["label"])
    return [
        {"prompt": prompt, "chosen": good, "rejected": bad}
        for prompt, answers in groups.values()
        for good, said in answers.values()
        if said == {True}
        for bad, heard in answers.values()
        if heard == {False}
    ]


def thumbs_from_pairs(rows: Sequence[Row]) -> list[Row]:
    """Thumbs from preferences: up for the chosen side of each, down for the rejected one (TRL: unpaired preferences).

    A thumb says more than was asked: the rejected side may be good, and only worse than the other.
    """
    return [
        {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
        for row in check_preferences(rows, "rows")
        for side in ("chosen", "rejected")
    ]


def as_dataset(rows: Sequence[Row]) -> Any:
    """The rows as a ``datasets.Dataset``, which TRL's trainers take."""
    from datasets import Dataset

    return Dataset.from_list([dict(row) for row in rows])


# -- checks --------------------------------------------------------------------------------------------------


def _rows(dataset: Any, name: str, form: str) -> list[tuple[Row, str]]:
    """Each row as a dict, with the words for it in an error."""
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__") or is_in_columns(dataset):
        raise ConfigError(
            f"{name} must be a list of dicts or a datasets.Dataset with rows such as {form}, not "
            f"{described(dataset)}. {how_to_make_rows(dataset)}".rstrip()
        )
    rows = [(dataset[i], f"row {i} of {name}") for i in range(len(dataset))]
    if not rows:
        raise ConfigError(f"{name} has no rows; was it filtered to nothing?")
    for row, where in rows:
        if not isinstance(row, Mapping):
            raise ConfigError(f"{where} is {described(row)}; every row must be a dict such as {form}")
    return [(dict(row), where) for row, where in rows]


def _explicit(row: Row, where: str) -> Row:
    """A preference with its ``prompt``, which may stand at the beginning of both sides."""
    missing = [side for side in ("chosen", "rejected") if side not in row]
    if missing:
        why = "Thumbs become preferences with rlkit.feedback.pairs_from_thumbs. " if "label" in row else ""
        raise ConfigError(
            f"{where} has no {missing[0]!r} (found: {', '.join(map(str, row)) or 'no columns'}). {why}Allowed: "
            f"{_PREFERENCE}"
        )
    if "prompt" in row:
        return row
    chosen, rejected = row["chosen"], row["rejected"]
    if not (isinstance(chosen, list) and isinstance(rejected, list)):
        raise ConfigError(
            f"{where} has no 'prompt', and its sides are no lists of messages, so nobody can tell where the "
            "answer begins. "
            f"Allowed: {_PREFERENCE}"
        )
    common = 0
    while common < min(len(chosen), len(rejected)) and chosen[common] == rejected[common]:
        common += 1
    if not common:
        raise ConfigError(
            f"{where} has no 'prompt', and its two conversations do not begin with the same message"
        )
    rest = {name: value for name, value in row.items() if name not in ("chosen", "rejected")}
    return {"prompt": chosen[:common], "chosen": chosen[common:], "rejected": rejected[common:], **rest}


def _check_texts(row: Row, columns: Sequence[str], where: str) -> None:
    """Every column a text or messages, all in the same form, and none of them empty."""
    for column in columns:
        if column not in row:
            found = ", ".join(map(str, row)) or "no columns"
            raise ConfigError(f"{where} has no {column!r} (found: {found})")
        value = row[column]
        if isinstance(value, str):
            empty = not value.strip()
        elif isinstance(value, list) and all(
            isinstance(m, Mapping) and {"role", "content"} <= set(m) for m in value
        ):
            empty = not any(_spoken(message) for message in value)
        else:
            raise ConfigError(
                f"the {column} of {where} is {described(value)}; allowed: a text, or a list of messages with 'role' "
                "and "
                "'content'"
            )
        if empty:
            raise ConfigError(f"the {column} of {where} is empty; remove the row or fill it in")
        if isinstance(value, str) != isinstance(row[columns[0]], str):
            raise ConfigError(
                f"{where}: the {columns[0]} is {described(row[columns[0]])}, the {column} {described(value)}. "
                "Allowed: "
                "all texts, or all lists of messages"
            )


def _spoken(message: Mapping[str, Any]) -> bool:
    return bool(completion_text([{**message, "role": "assistant"}]).strip())


def same_answer(one: Any, other: Any) -> bool:
    """Whether two answers read the same; white space around them aside."""
    return bool(_read(one) == _read(other))


def _read(answer: Any) -> Any:
    return answer.strip() if isinstance(answer, str) else [(m["role"], m["content"]) for m in answer]


def item_key(value: Any) -> str:
    """What tells prompts and answers apart."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:59]}…"
