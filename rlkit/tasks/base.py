"""What a task is: problems to train on, problems to be judged by, and a verifier that knows right from wrong."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlkit.errors import ConfigError, bad_value, unknown_name

SIDES = ("train", "test")


class _Side:
    """A field of `Task` that is given rows and read as a `datasets.Dataset`, which the first reading makes.

    Making one imports the package `datasets`, which takes a second: a task is often made only to be looked at.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, task: Any, owner: type | None = None) -> Any:
        if task is None:
            raise AttributeError(self.name)  # what `dataclass` asks for; so it is a field without a default
        return task._dataset(self.name)

    def __set__(self, task: Any, rows: Iterable[Mapping[str, Any]]) -> None:
        task.__dict__[f"_{self.name}_rows"] = _checked_rows(rows, self.name)


@dataclass(frozen=True, repr=False, eq=False)
class Task:
    """A data set with its verifier and the reward functions that suit it.

    Made from lists of rows, dicts of plain values: `prompt` (a string, or a list of chat messages) and whatever
    columns the reward functions need, such as `answer`. The sides share no problem.

    Attributes:
        train, test: `datasets.Dataset`, made when first read. A slice of one is a dict of columns: for a list of rows
            there is :meth:`rows`.
        verifier: ``verifier(completion, **columns)`` is True where a completion solves the row with these columns;
            None where only rewards judge.
        reward_funcs: what one would start training with; nothing ties the task to them.
        description: what the problems are, in a line.
        licence: under which the rows may be used.
        source: where they come from.
        seed: what they were drawn or dealt out with; None where nothing was.
        columns: the meaning of each column, for the card.
        judging: how the verifier reads an answer, for the card.
        weaknesses: what is known to be wrong with the rows or with the verifier, for the card.
        notes: what happened while the rows were read, such as rows that were left out, for the card.

    Raises `ConfigError` for rows that are no dicts, have no prompt or have different columns.
    """

    name: str
    train: Any = _Side()
    test: Any = _Side()
    verifier: Callable[..., bool] | None
    reward_funcs: Sequence[Callable[..., Any]]
    description: str = ""
    licence: str = ""
    source: str = ""
    seed: int | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    judging: str = ""
    weaknesses: Sequence[str] = ()
    notes: Sequence[str] = ()

    def rows(self, side: str = "train", count: int | None = None) -> list[dict[str, Any]]:
        """Return the first `count` rows (None: all) of a side as a list of dicts, copies that may be changed.

        >>> from rlkit import tasks
        >>> tasks.arithmetic().rows("test", 1)[0].keys()
        dict_keys(['prompt', 'answer'])
        """
        if side not in SIDES:
            raise unknown_name("side of a task", side, SIDES)
        if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < 0):
            raise bad_value("count", count, "a whole number of rows, or None for all")
        return copy.deepcopy(self.__dict__[f"_{side}_rows"][:count])

    @property
    def sizes(self) -> dict[str, int]:
        """The number of rows of each side."""
        return {side: len(self.__dict__[f"_{side}_rows"]) for side in SIDES}

    @property
    def column_names(self) -> list[str]:
        """The names of the columns, in the rows' order."""
        rows = [*self.__dict__["_train_rows"][:1], *self.__dict__["_test_rows"][:1]]
        return list(rows[0]) if rows else []

    @property
    def fingerprint(self) -> str:
        """A digest of name and rows, 16 hexadecimal digits: the same arguments make a task with the same one."""
        if "_fingerprint" not in self.__dict__:
            digest = hashlib.blake2b(self.name.encode(), digest_size=8)
            for side in SIDES:
                for row in self.__dict__[f"_{side}_rows"]:
                    digest.update(side.encode())
                    digest.update(json.dumps(row, sort_keys=True, default=str).encode())
            self.__dict__["_fingerprint"] = digest.hexdigest()
        return str(self.__dict__["_fingerprint"])

    @property
    def card(self) -> str:
        """The task on one page of Markdown: what, columns, splits, licence, how answers are judged, weaknesses."""
        from rlkit.tasks.card import card

        return card(self)

    def _dataset(self, side: str) -> Any:
        """One side as a `datasets.Dataset`, the same object each time."""
        if f"_{side}_dataset" not in self.__dict__:
            from rlkit.tasks.split import as_dataset

            self.__dict__[f"_{side}_dataset"] = as_dataset(self, side, self.__dict__[f"_{side}_rows"])
        return self.__dict__[f"_{side}_dataset"]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Task):
            return NotImplemented
        mine, theirs = (
            (task.fingerprint, task.verifier, list(task.reward_funcs), task.description)
            for task in (self, other)
        )
        return mine == theirs

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __repr__(self) -> str:
        rewards = ", ".join(getattr(f, "__name__", repr(f)) for f in self.reward_funcs)
        first = self.rows("train", 1)
        shown = repr(first[0]) if first else ""
        example = f"; e.g. {shown if len(shown) <= 160 else f'{shown[:159]}…'}" if shown else ""
        sizes = ", ".join(f"{count} {side}" for side, count in self.sizes.items())
        return f"Task({self.name!r}: {sizes}; rewards: {rewards}{example})"

    def _repr_markdown_(self) -> str:
        return self.card


def _checked_rows(rows: Iterable[Mapping[str, Any]], side: str) -> list[dict[str, Any]]:
    """The rows as a list of dicts, all with the same columns, a prompt among them."""
    if isinstance(rows, str | Mapping) or not isinstance(rows, Iterable):
        raise bad_value(side, rows, "a list of rows, each a dict with a 'prompt'")
    listed: list[dict[str, Any]] = []
    for i, row in enumerate(rows):
        if not isinstance(row, Mapping) or "prompt" not in row:
            raise ConfigError(f"row {i} of {side} is {row!r:.80}; every row must be a dict with a 'prompt'")
        if listed and set(row) != set(listed[0]):
            raise ConfigError(
                f"row {i} of {side} has the columns {sorted(row)}, row 0 has {sorted(listed[0])}; all rows of a task "
                "need the same"
            )
        listed.append(dict(row))
    return listed
