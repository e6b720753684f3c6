"""Run a model's SQL query, locked up: on a copy of a database in memory that is made for this one query.

sqlite reads the copy with ``query_only`` on. An authorizer admits reading tables, recursion and a list of harmless
functions and denies the rest: writing, ATTACH, PRAGMA, extensions, sqlite's own tables. Values of more than 2000
bytes, wide results and deep nesting are refused, and a handler stops a query after `MAX_STEPS` steps of sqlite's
machine. Steps, not seconds: the verdict is the same on a busy machine.

Limits and authorizer: https://www.sqlite.org/limits.html, https://www.sqlite.org/c3ref/set_authorizer.html.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from rlkit.errors import RewardError, unknown_name

MAX_STEPS = 10_000
"""Instructions of sqlite's virtual machine after which a query is stopped; one more for every four bytes of data.

The reference queries of the built-in databases take less than 1000. Where all of them go into the dearest functions
that there are, a query takes some tens of milliseconds.
"""

MAX_LETTERS, MAX_VALUE = 4000, 2000
"""Letters in a query, and bytes in any value or row on its way."""

MAX_ROWS, MAX_RESULT = 1000, 100_000
"""Rows, and letters in all of them, after which a result is too large."""

DATABASES = ("library", "shop")
"""The built-in databases: a town library, and a shop for tea and pottery."""

_STEPS_A_LOOK = 1000
_FOLDER = Path(__file__).parent.parent.parent / "assets" / "tasks"
_AGGREGATES = (
    "avg count group_concat string_agg max min sum total row_number rank dense_rank percent_rank "
    "cume_dist ntile lag lead first_value last_value nth_value"
)
# Not among them: random and randomblob, which give no verdict twice, and load_extension.
_OF_A_ROW = (
    "abs round sign ceil ceiling floor sqrt pow power mod coalesce ifnull nullif iif if length lower "
    "upper substr substring trim ltrim rtrim replace instr like glob printf format concat concat_ws char "
    "unicode typeof date time datetime julianday strftime unixepoch"
)
_FUNCTIONS = frozenset([*_AGGREGATES.split(), *_OF_A_ROW.split()])


@dataclass(frozen=True, slots=True)
class Database:
    """A database as two scripts. Both are trusted: only queries are locked up.

    Attributes:
        script: makes the tables and fills them.
        changes: statements that turn its data into other data of the same kind, on which a query must be right, too;
            blank for none.
    """

    script: str
    changes: str = ""

    @property
    def schema(self) -> str:
        """The CREATE TABLE statements: what a model is shown."""
        statements = (part.strip() for part in self.script.split(";"))
        return "\n".join(f"{part};" for part in statements if part.upper().startswith("CREATE TABLE"))


@lru_cache(maxsize=8)
def read_database(name: str) -> Database:
    """Return a built-in database. Raises `ConfigError` for a name that is none of `DATABASES`."""
    if name not in DATABASES:
        raise unknown_name("database", name, DATABASES)
    script, _, changes = (_FOLDER / f"{name}.sql").read_text(encoding="utf-8").partition("-- changes\n")
    return Database(script.strip(), changes.strip())


@lru_cache(maxsize=64)
def copies(database: str) -> tuple[bytes, ...]:
    """Return a database as bytes, once for each set of data; `database` is a name of `DATABASES` or an SQL script.

    Raises `RewardError` where the script fails or makes no table: then the data set is at fault.
    """
    if not isinstance(database, str):
        raise RewardError(f"database={database!r:.80} is neither the name of a database nor an SQL script")
    known = read_database(database) if database in DATABASES else Database(database)
    scripts = [known.script, f"{known.script}\n{known.changes}"] if known.changes else [known.script]
    made = []
    for script in scripts:
        with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
            tables: set[str] = set()
            cause = "it makes no table"
            try:
                connection.executescript(script)
                tables = _tables(connection)
            except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
                cause = f"{type(error).__name__}: {error}"
            if not tables:
                raise RewardError(
                    f"database={database!r:.80} makes no database: {cause}. Allowed: "
                    f"{' or '.join(map(repr, DATABASES))}, or an SQL script with CREATE TABLE and INSERT"
                )
            made.append(bytes(connection.serialize()))
    return tuple(made)


def _tables(connection: sqlite3.Connection) -> set[str]:
    return {
        name for (name,) in connection.execute("SELECT lower(name) FROM sqlite_master WHERE type != 'index'")
    }


@dataclass(frozen=True, slots=True)
class Result:
    """What a query returned.

    Attributes:
        rows: the rows, as tuples of int, float, str, bytes and None.
        columns: how many columns there are; 0 where it failed.
        error: why it failed, or "".
        reads: whether it looked at a table of the database.
    """

    rows: tuple[tuple[Any, ...], ...] = ()
    columns: int = 0
    error: str = ""
    reads: bool = False


def run_query(query: str, database: str) -> tuple[Result, ...]:
    """Run `query` on a fresh copy of `database`, locked up as the module says; one result for each set of data.

    Nothing in `query` raises. Raises `RewardError` where the database itself cannot be made.

    >>> run_query("SELECT count(*) FROM t", "CREATE TABLE t (x); INSERT INTO t VALUES (1), (2)")[0].rows
    ((2,),)
    >>> run_query("DELETE FROM t", "CREATE TABLE t (x)")[0].error
    'DatabaseError: not authorized'
    """
    if len(query) > MAX_LETTERS:  # not worth keeping
        return tuple(Result(error=f"more than {MAX_LETTERS} letters") for _ in copies(database))
    return _results(query, database)


@lru_cache(maxsize=1024)  # the parts of a rubric ask for the same thing
def _results(query: str, database: str) -> tuple[Result, ...]:
    images = copies(database)
    results = [_run(query, images[0])]
    for image in images[1:]:  # what fails on one set of data is wrong, and need not be tried again
        results.append(results[0] if results[0].error else _run(query, image))
    return tuple(results)


def _run(query: str, image: bytes) -> Result:
    """Run one query on one copy."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.deserialize(image)
        connection.execute("PRAGMA query_only = ON")
        connection.execute("PRAGMA temp_store = MEMORY")  # no file, however much is sorted
        tables = _tables(connection)
        connection.text_factory = _text
        for limit, value in (
            (sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE),
            (sqlite3.SQLITE_LIMIT_SQL_LENGTH, 4 * MAX_LETTERS),  # in bytes
            (sqlite3.SQLITE_LIMIT_COLUMN, 40),
            (sqlite3.SQLITE_LIMIT_EXPR_DEPTH, 60),
            (sqlite3.SQLITE_LIMIT_COMPOUND_SELECT, 20),
            (sqlite3.SQLITE_LIMIT_FUNCTION_ARG, 20),
            (sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 100),
            (sqlite3.SQLITE_LIMIT_ATTACHED, 0),
            (sqlite3.SQLITE_LIMIT_WORKER_THREADS, 0),
        ):
            connection.setlimit(limit, value)
        reads: set[str] = set()
        connection.set_authorizer(_authorizer(reads))
        connection.set_progress_handler(_stopwatch(MAX_STEPS + len(image) // 4), _STEPS_A_LOOK)
        rows: list[tuple[Any, ...]] = []
        letters = 0
        try:
            with closing(connection.cursor()) as cursor:
                for row in cursor.execute(query):
                    letters += sum(len(value) if isinstance(value, str | bytes) else 8 for value in row)
                    if len(rows) == MAX_ROWS or letters > MAX_RESULT:
                        return Result(error=f"more than {MAX_ROWS} rows or {MAX_RESULT} letters")
                    rows.append(tuple(row))
                if cursor.description is None:
                    return Result(error="returns no rows")  # what is no SELECT
                return Result(tuple(rows), len(cursor.description), "", not reads.isdisjoint(tables))
        # A NUL in the query, a lone surrogate and the like are ValueErrors.
        except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError, MemoryError) as error:
            return Result(error=f"{type(error).__name__}: {error}")


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


def _authorizer(reads: set[str]) -> Callable[..., int]:
    """Say yes to reading and to harmless functions only; note in `reads` what was read."""

    def allowed(action: int, first: str | None, second: str | None, *rest: Any) -> int:
        if action in (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_RECURSIVE):
            return sqlite3.SQLITE_OK
        if action == sqlite3.SQLITE_FUNCTION and str(second).lower() in _FUNCTIONS:
            return sqlite3.SQLITE_OK
        if action == sqlite3.SQLITE_READ and not str(first).lower().startswith(
            ("sqlite_", "pragma_", "json_")
        ):
            reads.add(str(first).lower())
            return sqlite3.SQLITE_OK
        return sqlite3.SQLITE_DENY

    return allowed


def _stopwatch(most: int) -> Callable[[], int]:
    """A progress handler that stops a query after `most` steps."""
    looks = 0

    def stop() -> int:
        nonlocal looks
        looks += 1
        return int(looks * _STEPS_A_LOOK > most)

    return stop
