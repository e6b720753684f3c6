"""A task from one's own data: a file, a table, a list, or a data set of the Hub.

    tasks.from_dataset("questions.csv", prompt="question", answer="answer")

How rows are dealt out: by a hash of seed and prompt, not by position. A row is then on the same side whatever rows are
added, removed or moved around it, so that a growing file never lets a test problem slip into training; and rows with
the same prompt (letter case and white space aside) are on one side. The price is that the share of the test side is
met on average only.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rlkit.config import ConfigWarning
from rlkit.errors import ConfigError, bad_value, unknown_name
from rlkit.tasks.base import Task
from rlkit.tasks.judging import choose_judging
from rlkit.tasks.prompts import check_wording
from rlkit.tasks.sources import ONLY, Row, Source, read_source

TEST_SPLITS = ("test", "validation", "valid", "val", "dev")
"""What a data set's own test side may be called; the first that there is counts."""


def from_dataset(
    source: Any,
    prompt: str = "question",
    answer: str | None = "answer",
    verifier: str | Callable[..., bool] | None = None,
    reward_funcs: Any = None,
    test_size: float | int = 0.2,
    seed: int = 0,
    chat: bool = False,
    system_prompt: str | None = None,
    map: Callable[[Row], Mapping[str, Any] | None] | None = None,
    split: str | None = None,
    licence: str = "",
) -> Task:
    """Return the rows of `source` as a task, split into train and test.

    Args:
        source: a csv, tsv, json, jsonl or parquet file; a data set of the Hub ("owner/name" or
            "owner/name:configuration"); a pandas DataFrame; a `datasets.Dataset` or `DatasetDict`; a list of dicts, or
            a dict of such lists, one a split.
        prompt: the column with the questions, texts or lists of messages; it becomes the column `prompt`.
        answer: the column with the answers; it becomes the column `answer`. None: there is none. All other columns are
            kept, for reward functions and verifiers to read.
        verifier: None chooses by the answers: "number" where all of them are numbers (the last number of a completion
            counts), else "text" (the stated answer is the row's). Or the name of a reward that has a verifier; or a
            function ``verifier(completion, **columns) -> bool``, called with those columns that it names.
        reward_funcs: a reward function, or a list of them, names among them; None: what suits the verifier.
        test_size: a share from 0.01 to 0.9, met on average, or a number of prompts. A data set with a test (or
            validation) split of its own keeps that instead.
        seed: another one deals the rows out in another way.
        chat: prompts that are texts become a list with one user message.
        system_prompt: comes before every prompt: as a system message, or as text with a blank line after it.
        map: called with each row (a dict, before anything else happens) to change it; None in return leaves it out.
        split: use only this split of the source, and deal its rows out.
        licence: for the card, where the source does not state one.

    A prompt that the data set itself has on both sides is taken out of train; how many were is said in a warning and in
    the card.

    Raises:
        ConfigError: a source that cannot be read, a column or split that is not there, prompts or answers that are
            empty (with the numbers of their rows, counted from 0), settings out of range, too few different prompts.
    """
    whole = isinstance(test_size, int) and not isinstance(test_size, bool)
    if not (test_size >= 1 if whole else isinstance(test_size, float) and 0.01 <= test_size <= 0.9):
        raise bad_value(
            "test_size", test_size, "a share from 0.01 to 0.9, or a whole number of prompts from 1"
        )
    check_wording(seed, system_prompt)
    if map is not None and not callable(map):
        raise bad_value("map", map, "a function of a row that returns a row, or None to leave it out")
    if not isinstance(prompt, str) or prompt == answer:
        raise bad_value("prompt", prompt, "the name of a column, another one than the answer's")

    read = read_source(source)
    own = _own_sides(read, split)
    sides = {side: _converted(read.splits[name], name, prompt, answer, map) for side, name in own.items()}
    if answer is not None:
        _one_kind([row for rows in sides.values() for row in rows])
    notes: list[str] = []
    if len(sides) == 1:
        (rows,) = sides.values()
        notes += _repeated(rows, "")
        in_test = deal([_key(row["prompt"]) for row in rows], test_size, seed)
        sides = {
            "train": [row for row, test in zip(rows, in_test, strict=True) if not test],
            "test": [row for row, test in zip(rows, in_test, strict=True) if test],
        }
    else:
        sides["train"], removed = _without(sides["train"], sides["test"])
        if removed:
            notes.append(f"{removed} rows of train are left out: their prompts are in {own['test']!r} too")
            warnings.warn(notes[-1], ConfigWarning, stacklevel=2)
        notes += [note for side, rows in sides.items() for note in _repeated(rows, f" of {side}")]
    every = [*sides["train"], *sides["test"]]
    judging = choose_judging(
        verifier, reward_funcs, None if answer is None else [row["answer"] for row in every]
    )
    for row in every:
        row["prompt"] = _worded(row["prompt"], chat, system_prompt)
    return Task(
        name=f"from_dataset/{read.name}" if read.name else "from_dataset",
        train=sides["train"],
        test=sides["test"],
        verifier=judging.verifier,
        reward_funcs=judging.reward_funcs,
        description=f"{len(every)} rows of {read.name or 'a data set that was given'}",
        licence=licence or read.licence,
        source=read.origin,
        seed=seed if len(own) == 1 else None,
        columns={"prompt": f"from {prompt!r}", **({} if answer is None else {"answer": f"from {answer!r}"})},
        judging=judging.words,
        weaknesses=judging.weaknesses,
        notes=notes,
    )


def deal(keys: Sequence[str], test_size: float | int, seed: int) -> list[bool]:
    """Say for each prompt whether it goes to the test side: by a hash of seed and prompt.

    A share takes the prompts whose place, from 0 to 1, is below it; a number takes that many prompts, those with the
    smallest places (a prompt that is added may then push out one other). No side is left empty.

    Raises `ConfigError` where there are too few different prompts.
    """

    def place(key: str) -> int:
        text = f"{seed}/{key}".encode("utf-8", "surrogatepass")
        return int.from_bytes(hashlib.sha256(text).digest()[:8], "big")

    places = {key: place(key) for key in keys}
    ordered = sorted(places, key=lambda key: (places[key], key))
    count = test_size if isinstance(test_size, int) else 1
    if count >= len(ordered):
        raise ConfigError(
            f"test_size={test_size} cannot be taken from {len(ordered)} different prompts: both sides need at least one"
        )
    if not isinstance(test_size, int):
        below = sum(places[key] < test_size * 2**64 for key in ordered)
        count = min(max(below, 1), len(ordered) - 1)
    test = set(ordered[:count])
    return [key in test for key in keys]


def _own_sides(read: Source, split: str | None) -> dict[str, str]:
    """Which splits of the source are used: one to be dealt out, or its own train and test."""
    names = list(read.splits)
    if split is not None:
        if split not in names:
            raise unknown_name(
                "split of this data set:", split, names if names != [ONLY] else ["None (it has no splits)"]
            )
        return {split: split}
    if len(names) == 1:
        return {names[0]: names[0]}
    test = next((name for name in TEST_SPLITS if name in names), None)
    if "train" not in names:
        cause = "There is no split 'train' to choose."
        raise bad_value("split", split, f"one of {', '.join(map(repr, names))}", cause)
    return {"train": "train", "test": test} if test else {"train": "train"}


def _converted(
    rows: Sequence[Row], split: str, prompt: str, answer: str | None, change: Callable[[Row], Any] | None
) -> list[Row]:
    """The rows with the columns `prompt` and `answer`, checked; the errors name rows by their number in the source."""
    where = "the data set" if split == ONLY else f"split {split!r}"
    numbered = [(i, row if change is None else _changed(row, i, change)) for i, row in enumerate(rows)]
    kept = [(i, row) for i, row in numbered if row is not None]
    if not kept:
        raise ConfigError(f"{where} has no rows" + ("; map left all of them out" if rows else ""))
    columns = list(dict.fromkeys(name for _, row in kept for name in row))
    wanted = {"prompt": prompt, **({} if answer is None else {"answer": answer})}
    for setting, column in wanted.items():
        if column not in columns:
            cause = "answer=None says that there is none." if setting == "answer" else ""
            raise unknown_name(f"column for {setting}:", column, columns, cause)
        if column != setting and setting in columns and setting not in wanted.values():
            cause = f"The data set has both; take the one called {setting!r}, or rename it with map."
            raise bad_value(setting, column, f"a column, where no other one is called {setting!r}", cause)
        empty = [i for i, row in kept if _is_empty(row.get(column))]
        if empty:
            shown = ", ".join(map(str, empty[:10])) + (", …" if len(empty) > 10 else "")
            raise ConfigError(
                f"column {column!r} is empty in {len(empty)} of {len(kept)} rows of {where}, counted from 0: {shown}. "
                f"Fill them in, or leave them out: map=lambda row: row if row[{column!r}] else None"
            )
    for i, row in kept:
        if not isinstance(row[prompt], str) and not _is_chat(row[prompt]):
            raise ConfigError(
                f"the prompt of row {i} of {where} is {row[prompt]!r:.80}; allowed: text, or a list of messages with "
                "'role' and 'content'"
            )
    others = [name for name in columns if name not in wanted.values()]
    return [
        {**{name: row[column] for name, column in wanted.items()}, **{name: row.get(name) for name in others}}
        for _, row in kept
    ]


def _changed(row: Row, i: int, change: Callable[[Row], Any]) -> Row | None:
    """What the user's `map` makes of a row."""
    try:
        changed = change(dict(row))
    except Exception as error:  # it is the user's
        raise ConfigError(
            f"map raised {type(error).__name__}: {error} (for row {i}: {row!r:.200})"
        ) from error
    if changed is not None and not isinstance(changed, Mapping):
        raise ConfigError(
            f"map returned {changed!r:.80} for row {i}; allowed: a dict, or None to leave the row out"
        )
    return None if changed is None else dict(changed)


def _is_chat(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(message, Mapping) and {"role", "content"} <= set(message) for message in value)
    )


def _is_empty(value: Any) -> bool:
    if _is_chat(value):
        return not any(str(message["content"] or "").strip() for message in value)
    return value is None or value == [] or (isinstance(value, str) and not value.strip())


def _one_kind(rows: Sequence[Row]) -> None:
    """Write answers as text where some are text and some are numbers: a table holds one kind in a column."""
    kinds = {type(row["answer"]) for row in rows}
    if len(kinds) > 1 and kinds <= {str, int, float, bool}:
        for row in rows:
            row["answer"] = str(row["answer"])


def _key(prompt: Any) -> str:
    """What makes two prompts the same: their words, letter case and white space aside."""
    texts = [prompt] if isinstance(prompt, str) else [f"{m['role']}: {m['content']}" for m in prompt]
    return " ".join("\n".join(texts).casefold().split())


def _repeated(rows: Sequence[Row], where: str) -> list[str]:
    """What the card says of prompts that occur more than once."""
    answers: dict[str, set[str]] = {}
    for row in rows:
        answers.setdefault(_key(row["prompt"]), set()).add(str(row.get("answer")))
    extra = len(rows) - len(answers)
    several = sum(len(said) > 1 for said in answers.values())
    note = f"{extra} rows{where} repeat the prompt of another one"
    if several:
        note += f"; {several} prompts have more than one answer, and each row accepts only its own"
    return [note] if extra else []


def _without(train: list[Row], test: list[Row]) -> tuple[list[Row], int]:
    """Train without the prompts of test, and how many rows that took out."""
    known = {_key(row["prompt"]) for row in test}
    kept = [row for row in train if _key(row["prompt"]) not in known]
    if not kept:
        raise ConfigError("every prompt of train is in the test split too: nothing is left to train on")
    return kept, len(train) - len(kept)


def _worded(prompt: Any, chat: bool, system_prompt: str | None) -> Any:
    """The prompt in the form that was asked for; messages stay messages."""
    if isinstance(prompt, str) and not chat:
        return f"{system_prompt}\n\n{prompt}" if system_prompt else prompt
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [dict(m) for m in prompt]
    if system_prompt and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system_prompt})
    return messages
