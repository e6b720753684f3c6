"""Database retrieval: 48 questions about two small databases, to be answered by an SQL query.

    CREATE TABLE book (…); …   Which titles were published after 2015?   →   SELECT title FROM book WHERE year > 2015

A town library (authors, books, members, loans) and a shop for tea and pottery (customers, products, purchases,
items), written for rlkit. The model sees the tables' definitions and a few rows, never the data as a whole. What is
judged is the result of its query, on two sets of data (`rewards.database_rubric`); so there is no single right answer,
and no answer can be learned by heart.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from functools import lru_cache
from pathlib import Path
from typing import Any

from rlkit.errors import bad_value
from rlkit.rewards.rubrics.database import database_rubric, returns_right_rows
from rlkit.rewards.rubrics.sql import read_database
from rlkit.tasks.base import Task
from rlkit.tasks.card import OURS

_QUESTIONS = Path(__file__).parent.parent / "assets" / "tasks" / "database.jsonl"

SYSTEM_PROMPT = (
    "You answer questions with SQL queries for SQLite. Reply with one SELECT statement in a block of ```sql and ```. "
    "Dates are text such as '2024-03-31'."
)

_RUBRIC = database_rubric()  # one for all, so that two equal tasks compare as equal


@lru_cache(maxsize=32)
def describe(name: str, sample_rows: int) -> str:
    """Return a built-in database as a model is shown it: each table's definition, and its first rows as comments."""
    known = read_database(name)
    parts = []
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(known.script)
        for statement in known.schema.split(";\n"):
            table = statement.split()[2]
            rows = connection.execute(f"SELECT * FROM {table} LIMIT {int(sample_rows)}").fetchall()
            shown = "".join(f"\n-- {row}" for row in rows)
            parts.append(f"{statement.rstrip(';')};{shown}")
    return "\n".join(parts)


def database(sample_rows: int = 2, chat: bool = True) -> Task:
    """Return 36 questions to train with and 12 to test with, half of each on either database; always the same ones.

    Columns: `prompt` (the database as `sample_rows` rows a table show it, then the question; one text with
    ``chat=False``), `database` and `query` (what the rewards need), `question`. The verifier wants the reference
    query's rows, on both sets of data, and in its order where it has one.

    For a warm start: ``demonstrations(task.train, "query")``.

    Raises `ConfigError` for values out of range.
    """
    if not isinstance(sample_rows, int) or isinstance(sample_rows, bool) or not 0 <= sample_rows <= 5:
        raise bad_value(
            "sample_rows", sample_rows, "a whole number from 0 to 5", "they make every prompt longer."
        )
    if not isinstance(chat, bool):
        raise bad_value("chat", chat, "True for lists of messages, False for plain text")
    rows: dict[str, list[dict[str, Any]]] = {"train": [], "test": []}
    for line in _QUESTIONS.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        rows[entry["split"]].append(_row(entry, sample_rows, chat))
    return Task(
        name="database",
        train=rows["train"],
        test=rows["test"],
        verifier=returns_right_rows,
        reward_funcs=_RUBRIC,
        description="questions about a library and a shop, answered in SQL; no question on both sides",
        licence=OURS,
        source="written for rlkit",
        columns={
            "prompt": "the tables' definitions, a few of their rows, the question",
            "database": "which of the two",
            "query": "a query that answers the question",
            "question": "the question alone",
        },
        judging="the completion's query must return the reference's rows on two sets of data, in its order if any",
        weaknesses=("Two sets of data tell apart most wrong queries, not all.",),
    )


def _row(entry: dict[str, Any], sample_rows: int, chat: bool) -> dict[str, Any]:
    """One question as a row."""
    asked = f"{describe(entry['database'], sample_rows)}\n\n{entry['question']}"
    prompt: Any = f"{SYSTEM_PROMPT}\n\n{asked}\n"
    if chat:
        prompt = [{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": asked}]
    return {
        "prompt": prompt,
        "database": entry["database"],
        "query": entry["query"],
        "question": entry["question"],
    }
