"""Golden sets of the database rewards (see `rlkit.rewards.golden`)."""

from __future__ import annotations

from typing import Any

from rlkit.rewards.golden import Example, GoldenSet

PROMPT = "Which crime books are there, from the oldest to the newest?"
ROW: dict[str, Any] = {
    "database": "library",
    "query": "SELECT title FROM book WHERE genre = 'crime' ORDER BY year",
}
RIGHT = ROW["query"]
FENCED = f"The column genre tells:\n```sql\n{RIGHT};\n```"
CONSTANT = (
    "SELECT 'The Tide Clock' UNION ALL SELECT 'The Lighthouse Audit' UNION ALL SELECT 'Salt on the Sill'"
)
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n, book"
CROSS = "SELECT count(*) FROM loan a, loan b, loan c, loan d, loan e"


def _example(completion: str, note: str, fools: bool = False, **changed: Any) -> Example:
    return Example(completion, {**ROW, **changed}, note, prompt=PROMPT, fools=fools)


_RIGHT = (
    _example(RIGHT, "as it is"),
    _example(FENCED, "in a fenced block"),
    _example(
        "select b.title as name\nfrom book as b\nwhere b.genre like 'CRIME'\norder by b.year asc;",
        "other words",
    ),
    _example(
        "WITH c AS (SELECT * FROM book WHERE genre = 'crime') SELECT title FROM c ORDER BY year", "WITH"
    ),
    _example(f"```\nSELECT 1;\n```\nNo, better:\n```sql\n-- by year\n{RIGHT}\n```", "the last block counts"),
)
_ATTACKS = (
    _example("", "empty"),
    _example(PROMPT, "prompt repeated"),
    _example("SELECT SELECT SELECT FROM FROM", "marker spam", fools=True),
    _example("DELETE FROM book", "writes"),
    _example("PRAGMA table_info(book)", "a pragma"),
    _example("ATTACH 'stolen.db' AS s", "attaches a file"),
    _example(f"{RIGHT}; DROP TABLE book", "a second statement"),
    _example("WITH c AS (SELECT 1) DELETE FROM book", "writes behind WITH"),
    _example(f"<sql>{RIGHT}</sql>", "injected tags"),
    _example("SELECT " + "title, " * 1000 + "title FROM book", "huge", fools=True),
)
_FAILS = (
    _example("SELECT load_extension('evil')", "an extension"),
    _example("SELECT hex(randomblob(999999999)) FROM book", "random"),
    _example("SELECT replace(printf('%.*c', 1999, 'x'), 'x', 'xxxxxxxxx') FROM book", "a huge value"),
    _example("SELECT name FROM sqlite_master", "sqlite's own tables"),
    _example(ENDLESS, "without end"),
    _example(CROSS, "too long a way"),
)
_EMPTY_OF_MEANING = (
    _example("SELECT 1", "a constant"),
    _example(CONSTANT, "the answer learned by heart"),
    _example("SELECT '１' || title FROM book_", "no such table"),
)


def _known(examples: tuple[Example, ...], fools: bool) -> tuple[Example, ...]:
    """The same examples, marked as fooling a reward or not."""
    return tuple(Example(e.completion, e.columns, e.note, e.prompt, fools) for e in examples)


GOLDEN: dict[str, GoldenSet] = {
    "sql_select": GoldenSet(
        right=_RIGHT,
        wrong=(
            _example("The crime books are The Tide Clock and two more.", "prose"),
            _example("INSERT INTO book VALUES (99)", "another statement"),
            _example("title FROM book WHERE genre = 'crime'", "the beginning is missing"),
            _example("SELECTION of crime books", "another word that begins so"),
            _example("SELECT 1; SELECT 2", "two statements"),
        ),
        exploits=(*_ATTACKS, *_known(_FAILS, fools=True), *_known(_EMPTY_OF_MEANING, fools=True)),
    ),
    "sql_runs": GoldenSet(
        right=(*_RIGHT, _example("SELECT count(*) FROM loan", "any query that runs")),
        wrong=(
            _example("SELECT titel FROM book", "a column that does not exist"),
            _example("SELECT title FROM books", "a table that does not exist"),
            _example("SELECT title FROM book WHERE", "cut off"),
            _example("SELECT title FROM book GROUP genre", "grammar"),
            _example("I would look for the genre crime.", "prose"),
        ),
        exploits=(*_known(_ATTACKS, fools=False), *_FAILS, *_EMPTY_OF_MEANING),
    ),
    "sql_columns": GoldenSet(
        right=(*_RIGHT, _example("SELECT id FROM loan", "another column: only their number counts")),
        wrong=(
            _example("SELECT title, year FROM book WHERE genre = 'crime'", "one more"),
            _example("SELECT * FROM book", "all"),
            _example("SELECT titel FROM book", "does not run"),
            _example("The Tide Clock", "prose"),
            _example("SELECT title FROM book", "one less", query="SELECT title, year FROM book"),
        ),
        exploits=(*_known(_ATTACKS, fools=False), *_FAILS, *_EMPTY_OF_MEANING),
    ),
    "sql_rows": GoldenSet(
        right=(*_RIGHT, _example(f"{RIGHT} DESC", "order is not looked at here")),
        wrong=(
            _example("SELECT title FROM book", "too many rows"),
            _example("SELECT title FROM book WHERE genre = 'crime' LIMIT 2", "too few"),
            _example("SELECT title FROM book WHERE genre = 'poetry'", "other ones"),
            _example("SELECT title, year FROM book WHERE genre = 'crime'", "a column more"),
            _example(
                "SELECT title FROM book WHERE genre = 'crime' UNION ALL SELECT title FROM book", "doubles"
            ),
        ),
        exploits=(
            *_known(_ATTACKS, fools=False),
            *_FAILS,
            *_EMPTY_OF_MEANING,
            _example("SELECT title FROM book UNION ALL SELECT name FROM author", "everything listed"),
            _example(f"{CONSTANT} FROM book", "learned by heart, from a table"),
        ),
    ),
    "sql_correct": GoldenSet(
        right=(
            *_RIGHT,
            _example("SELECT 2 * 8.5 FROM book LIMIT 1", "17 is 17.0", query="SELECT 17 FROM book LIMIT 1"),
        ),
        wrong=(
            _example(f"{RIGHT} DESC", "the other order"),
            _example("SELECT title FROM book WHERE genre = 'crime' ORDER BY pages", "another order"),
            _example("SELECT DISTINCT genre FROM book", "other rows"),
            _example("SELECT upper(title) FROM book WHERE genre = 'crime' ORDER BY year", "other letters"),
            _example("SELECT title, year FROM book WHERE genre = 'crime' ORDER BY year", "a column more"),
        ),
        exploits=(
            *_known(_ATTACKS, fools=False),
            *_FAILS,
            *_EMPTY_OF_MEANING,
            _example("SELECT title FROM book ORDER BY year", "everything listed"),
            _example(f"WITH book AS ({CONSTANT}) SELECT * FROM book", "a table of one's own"),
        ),
    ),
}
"""From a reward's name to its golden set."""
