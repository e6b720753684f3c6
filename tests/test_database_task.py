"""Database retrieval: queries are locked up, results are compared as they should be, constants earn nothing."""

from __future__ import annotations

import os
import sqlite3

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlkit import tasks
from rlkit.errors import ConfigError, RewardError
from rlkit.rewards.rubrics import database, sql
from rlkit.rewards.rubrics.database_golden import CONSTANT, CROSS, ENDLESS, RIGHT, ROW
from rlkit.rewards.signatures import required_columns
from rlkit.tasks.database import database as database_task
from rlkit.tasks.database import describe

TASK = database_task()
TRAIN, TEST = (list(side) for side in (TASK.train, TASK.test))
ROWS = [*TRAIN, *TEST]
GOLDEN = [(name, example, kind) for name, golden in database.GOLDEN.items() for kind in ("right", "wrong", "exploits")
          for example in getattr(golden, kind)]  # fmt: skip
NUMBERS = "CREATE TABLE t (x, y); INSERT INTO t VALUES (1, 'a'), (2, 'b'), (2, 'b'), (3, NULL)"


def score(name: str, completion, **columns) -> float:
    row = {**ROW, **columns}
    (value,) = database.FUNCTIONS[name](
        prompts=[""], completions=[completion], **{key: [value] for key, value in row.items()}
    )
    return value


def right(query: str, reference: str, script: str = NUMBERS) -> bool:
    return database.returns_right_rows(query, database=script, query=reference)


# --- golden sets -----------------------------------------------------------------------------------------------------


def test_every_reward_has_a_golden_set():
    assert set(database.GOLDEN) == set(database.FUNCTIONS)
    for golden in database.GOLDEN.values():
        assert min(len(golden.right), len(golden.wrong), len(golden.exploits)) >= 5


@pytest.mark.parametrize(("name", "example", "kind"), GOLDEN, ids=lambda value: getattr(value, "note", value))
def test_golden(name, example, kind):
    golden = database.GOLDEN[name]
    value = score(name, example.completion, **example.columns)
    assert score(name, [{"role": "assistant", "content": example.completion}], **example.columns) == value
    assert golden.low <= value <= golden.high
    assert (value == golden.high) is (kind == "right" or example.fools)


# --- reading a query -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("SELECT 1", "SELECT 1"),
        ("  select 1 ;  ", "select 1"),
        ("Sure:\nSELECT a\nFROM t;\nThat is it.", "SELECT a\nFROM t"),
        ("SELECT a\nFROM t\n\nThat is it.", "SELECT a\nFROM t"),
        ("```sql\nSELECT 1;\n```", "SELECT 1"),
        ("```SQL\nSELECT 1\n```\ntext", "SELECT 1"),
        ("```\nSELECT 1\n```", "SELECT 1"),
        ("```SELECT 1```", "SELECT 1"),
        ("```SELECT\n1```", "SELECT\n1"),
        ("```sql\nSELECT 1", "SELECT 1"),
        ("```\nSELECT 1\n```\nor\n```sql\nSELECT 2\n```", "SELECT 2"),
        ("```\nSELECT 1\n```\nor\n```sql\nSELECT 2", "SELECT 2"),
        ("no query", ""),
        ("", ""),
        ("SELECTED works", ""),
    ],
)
def test_read_query(text, query):
    assert database.read_query(text) == query


def test_a_query_that_is_only_thought_of_is_none():
    row = next(iter(database_task().train))
    thoughtful = f"<think>SELECT 1? DELETE it. No:</think>\n{row['query']}"
    assert database.database_rubric().score(thoughtful, **row)["total"] == 6
    assert database.database_rubric().score(f"<think>\n{row['query']}\n</think>", **row)["total"] == 0


@pytest.mark.parametrize(
    ("query", "one"),
    [
        ("SELECT 1", True),
        ("WITH a AS (SELECT 1) SELECT * FROM a", True),
        ("SELECT ';'", True),
        ("SELECT 1 -- ; delete", True),
        ("/* a */ SELECT 1", True),
        ("SELECT replace(a, 'b', 'insert') FROM t", True),
        ('SELECT "update" FROM t', True),
        ("SELECT 1;;", False),
        ("SELECT 1; SELECT 2", False),
        ("VALUES (1)", False),
        ("EXPLAIN SELECT 1", False),
        ("WITH a AS (SELECT 1) UPDATE t SET x = 1", False),
        ("REPLACE INTO t VALUES (1)", False),
    ],
)
def test_one_select(query, one):
    assert database.is_select(f"```\n{query}\n```") is one


@pytest.mark.parametrize(
    ("query", "ordered"),
    [
        ("SELECT a FROM t ORDER BY a", True),
        ("select a from t order\n  by a desc limit 3", True),
        ("SELECT a FROM t", False),
        ("SELECT a FROM (SELECT a FROM t ORDER BY a)", False),
        ("SELECT rank() OVER (ORDER BY a) FROM t", False),
        ("SELECT 'order by' FROM t -- order by a", False),
    ],
)
def test_is_ordered(query, ordered):
    assert database.is_ordered(query) is ordered


# --- comparing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "reference", "same"),
    [
        ("SELECT x FROM t", "SELECT x FROM t", True),
        ("SELECT x AS z FROM t", "SELECT x FROM t", True),
        ("SELECT x FROM t ORDER BY x DESC", "SELECT x FROM t", True),
        ("SELECT x FROM t ORDER BY x DESC", "SELECT x FROM t ORDER BY x", False),
        ("SELECT DISTINCT x FROM t", "SELECT x FROM t", False),
        ("SELECT x, y FROM t", "SELECT x FROM t", False),
        ("SELECT y, x FROM t", "SELECT x, y FROM t", False),
        ("SELECT x * 1.0 FROM t", "SELECT x FROM t", True),
        ("SELECT x + 0.0000001 FROM t", "SELECT x FROM t", True),
        ("SELECT x + 0.0001 FROM t", "SELECT x FROM t", False),
        ("SELECT 1e9 * x + 1 FROM t", "SELECT 1e9 * x FROM t", True),
        ("SELECT x || '' FROM t", "SELECT x FROM t", False),
        ("SELECT upper(y) FROM t", "SELECT y FROM t", False),
        ("SELECT coalesce(y, '') FROM t", "SELECT y FROM t", False),
        ("SELECT x FROM t WHERE 0", "SELECT x FROM t WHERE x > 9", True),
        ("SELECT count(*) FROM t", "SELECT count(*) FROM t", True),
        ("SELECT 4", "SELECT count(*) FROM t", False),
        ("WITH c AS (SELECT 4) SELECT count(*) + 3 FROM c", "SELECT count(*) FROM t", False),
    ],
)
def test_results_are_compared(query, reference, same):
    assert right(query, reference) is same


CELLS = (
    st.none() | st.integers(-3, 3) | st.floats(allow_nan=False) | st.text(max_size=2) | st.binary(max_size=2)
)
TABLES = st.lists(st.tuples(CELLS, CELLS), max_size=6)


@given(TABLES, TABLES)
def test_same_rows_and_f1(rows, others):
    assert database.same_rows(rows, rows, ordered=True) and database.rows_f1(rows, rows) == 1
    assert database.same_rows(rows, sorted(rows, key=repr), ordered=False)
    share = database.rows_f1(rows, others)
    assert 0 <= share <= 1 and share == database.rows_f1(others, rows)
    if share == 1 or database.same_rows(rows, others, ordered=True):
        assert database.same_rows(rows, others, ordered=False)
    if others:
        assert database.rows_f1(rows + others, rows) < 1 and not database.same_rows(
            rows + others, rows, False
        )


def test_partial_credit():
    assert score("sql_rows", "SELECT title FROM book WHERE genre = 'crime' LIMIT 2") == pytest.approx(
        (2 * 2 / (2 + 4) + 2 * 2 / (2 + 5)) / 2  # four crime books in one set of data, five in the other
    )


# --- locked up -------------------------------------------------------------------------------------------------------

ATTACKS = [
    "INSERT INTO t VALUES (5, 'e')",
    "UPDATE t SET x = 9",
    "DELETE FROM t",
    "DROP TABLE t",
    "CREATE TABLE u (x)",
    "CREATE TEMP TABLE u (x)",
    "ALTER TABLE t ADD COLUMN z",
    "ATTACH 'leak.db' AS leak",
    "ATTACH ':memory:' AS other",
    "DETACH main",
    "VACUUM INTO 'leak.db'",
    "PRAGMA query_only = OFF",
    "PRAGMA writable_schema = ON",
    "PRAGMA table_info(t)",
    "SELECT * FROM pragma_table_info('t')",
    "SELECT * FROM pragma_database_list",
    "SELECT * FROM sqlite_master",
    "SELECT * FROM sqlite_schema",
    "SELECT load_extension('x')",
    "SELECT readfile('/etc/passwd')",
    "SELECT writefile('leak.db', 'x')",
    "SELECT random() FROM t",
    "SELECT zeroblob(1000000000) FROM t",
    "SELECT randomblob(1000000000) FROM t",
    "SELECT printf('%.*c', 1999, 'x') || printf('%.*c', 1999, 'x') FROM t",
    "SELECT replace(printf('%.*c', 1999, 'x'), 'x', 'xxxxxxxxxx') FROM t",
    "SELECT group_concat(printf('%.*c', 1999, 'x')) FROM t, t AS u",
    "BEGIN EXCLUSIVE",
    "COMMIT",
    "SAVEPOINT s",
    "REINDEX",
    "ANALYZE",
    "SELECT 1; DELETE FROM t",
    "WITH c AS (SELECT 1) DELETE FROM t",
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n",
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n",
    "SELECT count(*) FROM t a, t b, t c, t d, t e, t f, t g, t h, t i, t j, t k",
    "SELECT 1" + " + 1" * 500 + " FROM t",
    "SELECT 1 " + "UNION SELECT 1 " * 100,
    "SELECT * " + ", *" * 40 + " FROM t",
    "SELECT ? FROM t",
    "SELECT x FROM t WHERE y MATCH 'a'",
    "SELECT '\0' FROM t",
    "SELECT '\ud800' FROM t",
    "SELECT 'x",
    "",
]


@pytest.mark.parametrize("query", ATTACKS, ids=lambda query: ascii(query)[:60])
def test_attacks_fail_quietly(query, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (result,) = sql.run_query(query, NUMBERS)
    assert result.error and result == sql.Result(error=result.error)
    assert os.listdir(tmp_path) == []
    (after,) = sql.run_query("SELECT count(*), sum(x) FROM t", NUMBERS)
    assert after.rows == ((4, 8),)


def test_the_limits_count_steps_not_seconds():
    assert [sql.run_query(query, "library")[0].error for query in (ENDLESS, CROSS)] == [
        "OperationalError: interrupted"
    ] * 2
    dear = "replace(printf('%.*c', 1900 - a.id - b.id * c.id, 'a'), 'b', '2') > 'z'"
    assert (
        "interrupted"
        in sql.run_query(f"SELECT count(*) FROM loan a, loan b, loan c WHERE {dear}", "library")[1].error
    )
    counting = (
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50) SELECT max(i) FROM n"
    )
    assert sql.run_query(counting, NUMBERS)[0].rows == ((50,),)


def test_sizes_are_capped():
    big = f"CREATE TABLE t (x); INSERT INTO t VALUES {', '.join(f'({i})' for i in range(1500))}"
    assert "more than 1000 rows" in sql.run_query("SELECT x FROM t", big)[0].error
    assert len(sql.run_query("SELECT x FROM t LIMIT 1000", big)[0].rows) == 1000
    assert "letters" in sql.run_query("SELECT printf('%.*c', 1900, 'x') FROM t LIMIT 900", big)[0].error
    assert "letters" in sql.run_query("SELECT x FROM t " + " " * 4000, big)[0].error


def test_nothing_hangs_on_long_texts():
    for unit in (
        "'",
        '"',
        "/*",
        "--",
        "```",
        "``` ",
        "(",
        "SELECT ",
        "select\n",
        "WITH a AS (",
        ";",
        " ",
        "```sql   ",
    ):
        text = unit * (65_536 // len(unit))
        for name in database.FUNCTIONS:
            assert score(name, text) in (0, 1)
            assert score(name, "SELECT " + text) in (0, 1)


@given(
    st.text() | st.text(alphabet="SELECT selct*FROMbk;'\"`-/()\n1,", max_size=80).map(lambda s: "SELECT " + s)
)
@settings(max_examples=200)
def test_nothing_raises_and_everything_is_in_range(text):
    for name, golden in database.GOLDEN.items():
        assert golden.low <= score(name, text) <= golden.high


# --- columns at fault ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"database": "SELECT 1"}, "no table"),
        ({"database": "libary"}, "makes no database"),
        ({"database": None}, "neither"),
        ({"query": "SELECT titel FROM book"}, "no such column"),
        ({"query": "SELECT 3"}, "reads no table"),
        ({"query": None}, "right column"),
    ],
)
def test_columns_at_fault_are_named(columns, says):
    with pytest.raises(RewardError, match=says):
        score("sql_correct", RIGHT, **columns)


def test_built_in_databases():
    with pytest.raises(ConfigError, match="Did you mean 'library'"):
        sql.read_database("libary")
    for name in sql.DATABASES:
        known = sql.read_database(name)
        assert known.schema.count("CREATE TABLE") == 4 and "INSERT" not in known.schema
        assert len(sql.copies(name)) == 2 and len(set(sql.copies(name))) == 2


# --- rubric and task -------------------------------------------------------------------------------------------------


def test_the_rubric():
    rubric = database.database_rubric()
    assert (rubric.lowest, rubric.highest) == (0, 6)
    assert rubric.score(RIGHT, **ROW)["total"] == 6
    assert rubric.score(CONSTANT, **ROW)["total"] == 0.25
    near = rubric.score("SELECT title FROM book WHERE genre = 'crime' ORDER BY pages", **ROW)
    assert near == {"one SELECT": 0.25, "runs": 0.25, "columns": 0.5, "rows": 1.0, "right": 0.0, "total": 2.0}
    assert rubric.verifier(RIGHT, **ROW) and not rubric.verifier(CONSTANT, **ROW)
    assert set(rubric.required_columns) == {"database", "query"}


def test_the_task():
    assert (len(TRAIN), len(TEST)) == (36, 12)
    assert len({row["question"] for row in ROWS}) == len({row["query"] for row in ROWS}) == 48
    for side, share in ((TRAIN, 18), (TEST, 6)):
        assert sum(row["database"] == "library" for row in side) == share
    for row in ROWS:
        assert row["prompt"][-1]["content"].endswith(row["question"])
        assert row["query"] not in row["prompt"][-1]["content"]
    for reward in TASK.reward_funcs:
        assert set(required_columns(reward)) <= set(ROWS[0])
    assert list(database_task().train) == TRAIN and isinstance(TASK, tasks.Task)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["question"][:50])
def test_every_question(row):
    results = sql.run_query(row["query"], row["database"])
    assert all(result.rows and not result.error for result in results)
    assert TASK.verifier(f"```sql\n{row['query']};\n```", **row)
    # No constant is right on both sets of data.
    assert not database.same_rows(results[0].rows, results[1].rows, database.is_ordered(row["query"]))
    # Nor is the order, or the one row that is asked for, left to chance: sqlite may return ties in any order.
    known = sql.read_database(row["database"])
    for result, script in zip(results, (known.script, known.script + known.changes), strict=True):
        with sqlite3.connect(":memory:") as connection:
            connection.executescript(script)
            connection.execute("PRAGMA reverse_unordered_selects = ON")
            backwards = connection.execute(row["query"]).fetchall()
        assert database.same_rows(backwards, result.rows, database.is_ordered(row["query"]))
    prompt = "\n\n".join(message["content"] for message in row["prompt"])
    assert not TASK.verifier(prompt, **row) and not TASK.verifier(row["question"], **row)


def test_no_query_answers_two_questions():
    for row in ROWS:
        others = [other for other in ROWS if other is not row and other["database"] == row["database"]]
        assert not any(TASK.verifier(row["query"], **other) for other in others)


def test_settings():
    assert "-- (1, 'Elin Strand', 'Norway', 1951)" in describe("library", 1)
    assert "Marcus Obi" not in describe("library", 1) and "--" not in describe("shop", 0)
    text = next(iter(database_task(sample_rows=0, chat=False).train))["prompt"]
    assert text.startswith("You answer questions") and text.endswith("list?\n")
    for wrong in ({"sample_rows": 6}, {"sample_rows": True}, {"chat": 1}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            database_task(**wrong)
