"""Rewards for database retrieval: the model writes a query, sqlite runs it, and the rows are compared.

    1   the answer is one SELECT                                    `sql_select`
    1   it runs, within its limits, on the tables                   `sql_runs`
    1   it returns as many columns as the reference query           `sql_columns`
    F₁  of its rows against those of the reference query            `sql_rows`
    1   exactly the same rows                                       `sql_correct`

What counts is what a query returns, not how it is written. Column names do not matter; duplicates count; the order
of rows counts where the reference query has an ORDER BY of its own; numbers are equal within 1e-6 (relative above
1), 3 equals 3.0, text is compared letter for letter. How a query is kept from doing harm: `rlkit.rewards.rubrics.sql`.

**A constant is not a query.** ``SELECT 42`` may be what the reference returns, and a model that sees the same
question often enough can learn such answers by heart. So a built-in database has two sets of data, and a query must
be right on both; and a query that reads no table earns nothing beyond its form.

Columns: `database` (a name of `sql.DATABASES`, or an SQL script that makes one) and `query`, the reference.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from rlkit.errors import RewardError
from rlkit.rewards.rubric import Rubric
from rlkit.rewards.rubrics.database_golden import GOLDEN
from rlkit.rewards.rubrics.phrases import reply_text
from rlkit.rewards.rubrics.readings import blanked
from rlkit.rewards.rubrics.sql import Result, copies, run_query
from rlkit.rewards.signatures import RewardFunction
from rlkit.rewards.spans import Spans
from rlkit.rewards.text import Completion
from rlkit.rewards.verifiers import reward_from

TOLERANCE = 1e-6

_FENCE = re.compile(r"```(?:[ \t]*+(?!(?i:select|with)\b)[A-Za-z0-9]*+[ \t]*+\n)?")
_HIDDEN = re.compile(r"'[^']*'|\"[^\"]*\"|--[^\n]*|/\*(?s:.*?)(?:\*/|\Z)")  # text, names, comments
_WRITES = re.compile(
    r"\b(?:insert|update|delete|create|drop|alter|attach|detach|pragma|vacuum|replace\s+into)\b"
)


# --- reading a query -------------------------------------------------------------------------------------------------


def read_query(text: str) -> str:
    """Return the query in a completion, without a closing semicolon; "" where there is none.

    It is what stands in the last fenced block (three backticks, with or without "sql"); without one, from the first
    line that begins with SELECT or WITH up to a semicolon at a line's end, a blank line or the end.

    >>> read_query("Count them:\\n```sql\\nSELECT count(*) FROM book;\\n```")
    'SELECT count(*) FROM book'
    """
    marks = list(_FENCE.finditer(text))
    if marks:
        closed = len(marks) % 2 == 0
        block = text[marks[-2].end() : marks[-1].start()] if closed else text[marks[-1].end() :]
        return _without_semicolon(block)
    lines = text.splitlines()
    begin = next((i for i, line in enumerate(lines) if _begins(line)), len(lines))
    taken: list[str] = []
    for line in lines[begin:]:
        if not line.strip():
            break
        taken.append(line)
        if line.rstrip().endswith(";"):
            break
    return _without_semicolon("\n".join(taken))


def _begins(text: str) -> bool:
    first = text.lstrip()[:7].upper()
    return (first[:6] == "SELECT" and not first[6:].isalnum()) or (
        first[:4] == "WITH" and first[4:5].isspace()
    )


def _without_semicolon(query: str) -> str:
    return query.strip().removesuffix(";").rstrip()


def _is_select(query: str) -> bool:
    visible = _HIDDEN.sub(" ", query).lower()
    return _begins(visible) and ";" not in visible and not _WRITES.search(visible)


@lru_cache(maxsize=1024)
def is_ordered(query: str) -> bool:
    """Say whether `query` orders its rows itself: an ORDER BY outside of brackets.

    >>> is_ordered("SELECT a FROM t ORDER BY a"), is_ordered("SELECT (SELECT a FROM t ORDER BY a LIMIT 1)")
    (True, False)
    """
    depth = 0
    outside = []
    for letter in _HIDDEN.sub(" ", query).lower():
        depth += (letter == "(") - (letter == ")")
        outside.append(letter if depth == 0 and letter != ")" else " ")
    return " order by " in f" {' '.join(''.join(outside).split())} "


# --- comparing results -----------------------------------------------------------------------------------------------


def same_rows(rows: Sequence[tuple[Any, ...]], wanted: Sequence[tuple[Any, ...]], ordered: bool) -> bool:
    """Say whether two results are equal: as lists where `ordered`, else as multisets.

    >>> same_rows([(1, "a"), (2.0000001, None)], [(2, None), (1.0, "a")], ordered=False)
    True
    """
    if len(rows) != len(wanted):
        return False
    if not ordered:
        rows, wanted = sorted(rows, key=_key_of_row), sorted(wanted, key=_key_of_row)
    return all(
        len(row) == len(other) and all(_same(a, b) for a, b in zip(row, other, strict=True))
        for row, other in zip(rows, wanted, strict=True)
    )


def rows_f1(rows: Sequence[tuple[Any, ...]], wanted: Sequence[tuple[Any, ...]]) -> float:
    """Return F₁ = 2·shared / (rows returned + rows wanted); 1 for two empty results.

    Duplicates count, order does not.

    >>> rows_f1([(1,), (1,), (2,)], [(1,), (3,)])
    0.4
    """
    if not rows and not wanted:
        return 1.0
    shared = Counter(map(_key_of_row, rows)) & Counter(map(_key_of_row, wanted))
    return 2 * shared.total() / (len(rows) + len(wanted))


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, int | float) and isinstance(b, int | float):
        return a == b or math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return type(a) is type(b) and bool(a == b)


def _key_of_row(row: tuple[Any, ...]) -> tuple[tuple[int, Any], ...]:
    """A row that sorts among others, whatever their types, with numbers rounded so that equal ones are equal."""
    return tuple(map(_key, row))


def _key(value: Any) -> tuple[int, Any]:
    if value is None:
        return 0, 0
    if isinstance(value, float) and math.isfinite(value):
        return 1, round(value, 6)
    return (1 if isinstance(value, int | float) else 2 if isinstance(value, str) else 3), value


# --- verifiers -------------------------------------------------------------------------------------------------------


def is_select(completion: Completion, **columns: Any) -> bool:
    """Verifier: the completion holds a query, one statement that begins with SELECT or WITH and writes nothing."""
    return _is_select(read_query(reply_text(completion)))


def runs(completion: Completion, *, database: str, **columns: Any) -> bool:
    """Verifier: the completion's SELECT runs on every copy, within the limits, and reads a table."""
    return all(not result.error and result.reads for result in _asked(completion, database))


def has_right_columns(completion: Completion, *, database: str, query: str, **columns: Any) -> bool:
    """Verifier: the completion's SELECT reads a table and returns as many columns as the reference `query`."""
    pairs = zip(_asked(completion, database), _reference(query, database), strict=True)
    return all(result.reads and result.columns == wanted.columns for result, wanted in pairs)


def returns_right_rows(completion: Completion, *, database: str, query: str, **columns: Any) -> bool:
    """Verifier: the completion's SELECT reads a table and returns what the reference `query` does, on every copy.

    Raises `RewardError` where the reference itself does not run: then the data set is at fault.
    """
    pairs = zip(_asked(completion, database), _reference(query, database), strict=True)
    return all(
        result.reads
        and result.columns == wanted.columns
        and same_rows(result.rows, wanted.rows, is_ordered(query))
        for result, wanted in pairs
    )


def _asked(completion: Completion, database: str) -> tuple[Result, ...]:
    """The results of the completion's query."""
    query = read_query(reply_text(completion))
    if not _is_select(query):
        return tuple(Result(error="not one SELECT statement") for _ in copies(database))
    return run_query(query, database)


def _reference(query: str, database: str) -> tuple[Result, ...]:
    """The results of the reference query."""
    if not isinstance(query, str):
        raise RewardError(
            f"query={query!r:.80} is no reference query. Is it the right column of this data set?"
        )
    results = run_query(_without_semicolon(query), database)
    for result in results:
        if result.error or not result.reads:
            cause = result.error or "it reads no table"
            raise RewardError(f"the reference query={query!r:.200} does not run on its database: {cause}")
    return results


def _query_spans(completion: Completion, **columns: Any) -> Spans:
    """The query that is read."""
    text = blanked(completion)
    query = read_query(text)
    start = text.rfind(query)
    return [(start, start + len(query))] if start >= 0 else []


is_select.spans = runs.spans = _query_spans  # type: ignore[attr-defined]
has_right_columns.spans = returns_right_rows.spans = _query_spans  # type: ignore[attr-defined]


# --- reward functions ------------------------------------------------------------------------------------------------


def sql_rows(
    prompts: Sequence[Any],
    completions: Sequence[Completion],
    database: Sequence[str],
    query: Sequence[str],
    **columns: Any,
) -> list[float | None]:
    """Reward the share of right rows: F₁ of the query's rows against the reference's, from 0 to 1.

    The mean over the sets of data. Order is ignored here; rows of another number of columns are never right.
    """
    scores: list[float | None] = []
    for completion, where, reference in zip(completions, database, query, strict=True):
        pairs = list(zip(_asked(completion, where), _reference(reference, where), strict=True))
        shares = [
            rows_f1(result.rows, wanted.rows) if result.reads and result.columns == wanted.columns else 0.0
            for result, wanted in pairs
        ]
        scores.append(sum(shares) / len(shares))
    return scores


sql_rows.spans = _query_spans  # type: ignore[attr-defined]

sql_select = reward_from(is_select, name="sql_select")
sql_select.__doc__ = "Reward 1 for one SELECT statement, whatever it asks, else 0."

sql_runs = reward_from(runs, name="sql_runs")
sql_runs.__doc__ = "Reward 1 for a SELECT that runs within its limits and reads a table, else 0."

sql_columns = reward_from(has_right_columns, name="sql_columns")
sql_columns.__doc__ = "Reward 1 for a SELECT with as many columns as the reference, else 0."

sql_correct = reward_from(returns_right_rows, name="sql_correct")
sql_correct.__doc__ = "Reward 1 for a SELECT that returns exactly the right rows, else 0."


def database_rubric() -> Rubric:
    """Return the five checks as a `Rubric`, from 0 to 6: 4 for what is right, 2 for getting near.

    >>> database_rubric().highest
    6.0
    """
    parts: dict[str, tuple[RewardFunction, float]] = {
        "one SELECT": (sql_select, 0.25),
        "runs": (sql_runs, 0.25),
        "columns": (sql_columns, 0.5),
        "rows": (sql_rows, 1.0),
        "right": (sql_correct, 4.0),
    }
    return Rubric(parts, name="database", verifier=returns_right_rows)


FUNCTIONS: dict[str, RewardFunction] = {
    "sql_select": sql_select,
    "sql_runs": sql_runs,
    "sql_columns": sql_columns,
    "sql_rows": sql_rows,
    "sql_correct": sql_correct,
}
"""Reward functions that are used as they are."""

RUBRICS = {"database_rubric": database_rubric}
"""Functions that return a list of reward functions."""

for _name, _golden in GOLDEN.items():
    FUNCTIONS[_name].score_range = (_golden.low, _golden.high)  # type: ignore[attr-defined]
