"""What a run directory holds, and how a number or a completion is written there and read back.

A run is a folder that anyone can read without this package:

    config.json            every setting that the run was started with, and the versions it ran on
    metrics.jsonl          one JSON object a line: a step, an evaluation, a sync check or a note
    samples/step_000012.parquet            one row a completion, with its numbers per token
    evals/step_000012_greedy.parquet       the same for held-out problems (``_sampled`` beside it)
    summary.json           what came out; there only once the run has ended
    report.html            the run told on one page
    checkpoints/step_000010/               all that the run needs to go on from there
    tensorboard/                           the numbers for TensorBoard, where asked for
    model/                                 the trained model
    set_aside-1/                           what had been written after the checkpoint that a run was resumed from

JSON has no NaN and no infinity. Such a number is written as ``null`` and named in the object's
``"nonfinite"`` entry, so that every JSON reader can read the line and ours gives the number back.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlkit.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = 1  # raised when a reader of today could not read the files of tomorrow

CONFIG = "config.json"
METRICS = "metrics.jsonl"
SUMMARY = "summary.json"
REPORT = "report.html"
SAMPLES = "samples"
EVALS = "evals"
CHECKPOINTS = "checkpoints"
TENSORBOARD = "tensorboard"
MODEL = "model"
SET_ASIDE = "set_aside-"  # and a number
RUN_NAMES = (  # all that a run may hold, with the folders that begin with SET_ASIDE
    CONFIG,
    METRICS,
    SUMMARY,
    REPORT,
    SAMPLES,
    EVALS,
    CHECKPOINTS,
    TENSORBOARD,
    MODEL,
    "wandb",
    "wandb_id",
)

EVENTS = ("step", "eval", "sync_check", "note")
EVAL_KINDS = ("greedy", "sampled")
REWARD = "reward/"  # in a sample row: the column of one reward function
REWARDS = "rewards/"  # in a step line: the mean of one reward function
UNSCORED = "unscored/"  # in a step line: the share of completions for which it returned None
SECONDS = "seconds/"  # in a step line: seconds spent in one phase
PHASES = ("rollout", "score", "update", "sync", "eval")  # in the order of a step; "step" is the whole

NONFINITE = "nonfinite"

# Lists with one entry a completion token; null where the trainer did not keep them; token_reward and those
# up to token_return are PPO's.
PER_TOKEN = (
    "tokens",
    "logp_engine",
    "logp_old",
    "logp_ref",
    "logp_new",
    "entropy",
    "ratio",
    "is_weight",
    "token_reward",
    "value",
    "token_advantage",
    "token_return",
    "topk_ids",
    "topk_logps",
)
_PER_TOKEN_FLOATS = tuple(n for n in PER_TOKEN if n not in ("tokens", "topk_ids", "topk_logps"))


def step_file(step: int) -> str:
    """Name of one step's samples, e.g. ``step_000012.parquet``."""
    return f"step_{step:06d}.parquet"


def eval_file(step: int, kind: str) -> str:
    """Name of one evaluation's rows, e.g. ``step_000012_greedy.parquet``."""
    if kind not in EVAL_KINDS:
        raise unknown_name("evaluation kind", kind, EVAL_KINDS)
    return f"step_{step:06d}_{kind}.parquet"


def setting(config: Mapping[str, Any], *names: str, default: Any = None) -> Any:
    """First of ``names`` that is set in a run's config: at its top level, else in one of its sections."""
    sections = [config, *(value for value in config.values() if isinstance(value, Mapping))]
    for name in names:
        for section in sections:
            value = section.get(name)
            if value is not None and not isinstance(value, Mapping):
                return value
    return default


# ---------------------------------------------------------------------------------------- JSON


def plain(value: Any) -> Any:
    """``value`` as JSON's own types: arrays and tensors become lists, functions and types their names."""
    if value is None or isinstance(value, (bool, int, float)):
        # a subclass (numpy's float64, an IntEnum) is written as the plain number
        return value if type(value) in (bool, int, float) or value is None else plain_number(value)
    if isinstance(value, str):
        return whole_text(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain({f.name: getattr(value, f.name) for f in dataclasses.fields(value)})
    if isinstance(value, Mapping):
        return {whole_text(str(key)): plain(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted((plain(item) for item in value), key=repr)
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):  # numpy and torch, without importing either
        return plain(value.tolist())
    if isinstance(value, Path):
        return str(value)
    name = getattr(value, "__name__", None)
    return whole_text(name if isinstance(name, str) else str(value))


def plain_number(value: Any) -> int | float:
    """A subclass of int or float as the plain type."""
    return int(value) if isinstance(value, int) else float(value)


def whole_text(text: str) -> str:
    """``text`` without lone surrogates (from broken UTF-8), which no file could hold."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _split(value: Any) -> tuple[Any, Any]:
    """(value with null for NaN and ±inf, where they stood) - the second is None where there were none."""
    if isinstance(value, float) and not math.isfinite(value):
        return None, "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    if isinstance(value, dict):
        pairs = {key: _split(item) for key, item in value.items()}
        marks = {key: mark for key, (_, mark) in pairs.items() if mark is not None}
        return {key: clean for key, (clean, _) in pairs.items()}, marks or None
    if isinstance(value, list):
        split = [_split(item) for item in value]
        marks = {str(i): mark for i, (_, mark) in enumerate(split) if mark is not None}
        return [clean for clean, _ in split], marks or None
    return value, None


def _join(value: Any, marks: Any) -> Any:
    """Inverse of ``_split``; marks that fit nothing are ignored."""
    if value is None and marks in ("nan", "inf", "-inf"):
        return float(marks)
    if isinstance(marks, dict):
        if isinstance(value, dict):
            return {key: _join(item, marks.get(key)) for key, item in value.items()}
        if isinstance(value, list):
            return [_join(item, marks.get(str(i))) for i, item in enumerate(value)]
    return value


def dumps(record: Mapping[str, Any], indent: int | None = None) -> str:
    """One valid JSON object; NaN and ±inf become ``null`` and are named under ``"nonfinite"``.

    >>> dumps({"step": 3, "loss": float("nan")})
    '{"step": 3, "loss": null, "nonfinite": {"loss": "nan"}}'
    """
    clean, marks = _split(plain(dict(record)))
    if marks:
        clean[NONFINITE] = marks
    return json.dumps(clean, allow_nan=False, ensure_ascii=False, indent=indent)


def loads(text: str | bytes) -> dict[str, Any]:
    """The object that ``dumps`` wrote, NaN and ±inf included. Raises ValueError where it is no object."""
    record = json.loads(text)
    if not isinstance(record, dict):
        raise ValueError(f"a JSON object was expected, found {type(record).__name__}")
    marks = record.pop(NONFINITE, None)
    joined = _join(record, marks) if isinstance(marks, dict) else record
    assert isinstance(joined, dict)
    return joined


# ------------------------------------------------------------------------------------- samples


def sample_schema(reward_names: Iterable[str] = ()) -> pa.Schema:
    """The typed columns of a samples file; one ``reward/<name>`` column for each reward function."""
    import pyarrow as pa

    ints, floats = pa.list_(pa.int32()), pa.list_(pa.float32())
    fields: list[tuple[str, pa.DataType]] = [
        ("step", pa.int32()),
        ("prompt_index", pa.int32()),  # which prompt of the step, 0 to P-1
        ("completion_index", pa.int32()),  # which of its G completions
        ("prompt", pa.string()),
        ("prompt_ids", ints),
        ("completion", pa.string()),
        ("completion_ids", ints),
        ("tokens", pa.list_(pa.string())),  # one string a token: viewers need no tokenizer
        ("finish_reason", pa.string()),
        ("row", pa.string()),  # the data set's row, as JSON text
        *((REWARD + name, pa.float64()) for name in reward_names),  # null: the function returned None
        ("reward", pa.float64()),
        ("advantage", pa.float64()),
        ("correct", pa.bool_()),  # null: the task has no verifier
        *((name, floats) for name in _PER_TOKEN_FLOATS),
        ("topk_ids", pa.list_(ints)),  # the engine's top alternatives at each token
        ("topk_logps", pa.list_(floats)),
    ]
    return pa.schema(fields)


def sample_table(step: int, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Rows (one a completion) as a typed table; a column that a row lacks is null there.

    Raises ConfigError for a column that the schema does not know, a value of the wrong type, or a
    per-token list whose length is not that of ``completion_ids``.
    """
    import pyarrow as pa

    given = list(dict.fromkeys(key for row in rows for key in row))
    names = {
        whole_text(name): name for name in given
    }  # what no file could hold is not in a column's name, too
    if len(names) < len(given):
        twice = next(name for name in given if names[whole_text(name)] != name)
        raise ConfigError(f"two sample columns of step {step} would both be called {whole_text(twice)!r}.")
    schema = sample_schema(name[len(REWARD) :] for name in names if name.startswith(REWARD))
    for name in names:
        if name not in schema.names:
            raise unknown_name("sample column", name, schema.names)
    columns = []
    for field in schema:
        key = names.get(field.name, field.name)
        values = [step] * len(rows) if field.name == "step" else [_cell(row, key) for row in rows]
        try:
            columns.append(pa.array(values, type=field.type))
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            raise ConfigError(
                f"sample column {field.name!r} of step {step} needs {field.type}: {error}"
            ) from error
    return pa.Table.from_arrays(columns, schema=schema)


def _cell(row: Mapping[str, Any], name: str) -> Any:
    value = row.get(name)
    if value is None:
        return None
    if name == "row" and not isinstance(value, str):
        return dumps(value)
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, str):
        return whole_text(value)
    if name == "tokens":
        value = [whole_text(token) for token in value]
    if (
        name in PER_TOKEN
        and row.get("completion_ids") is not None
        and len(value) != len(row["completion_ids"])
    ):
        raise ConfigError(
            f"sample column {name!r} has {len(value)} entries for {len(row['completion_ids'])} completion "
            f"tokens; it needs one a token (prompt {row.get('prompt_index')}, completion "
            f"{row.get('completion_index')})."
        )
    return value
