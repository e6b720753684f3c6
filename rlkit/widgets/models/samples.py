"""What a run's completions are: a sheet of one step or one evaluation, put in order, searched, cut into pages.

Only the columns that a list needs are read at first; per-token numbers come with the completion that is opened.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

from rlkit.errors import ConfigError, bad_value, unknown_name
from rlkit.runs import Run, schema
from rlkit.widgets.models.places import KINDS, Place, kept
from rlkit.widgets.models.tokens import Tokens

if TYPE_CHECKING:
    import pyarrow as pa

_LIGHT = (
    "prompt_index",
    "completion_index",
    "prompt",
    "completion",
    "completion_ids",
    "finish_reason",
    "reward",
    "advantage",
    "correct",
)
#: What can be left of a list: name -> whether a row stays.
FILTERS = {
    "all": lambda row: True,
    "right": lambda row: row.correct is True,
    "wrong": lambda row: row.correct is False,
    "truncated": lambda row: row.finish_reason == "length",
    "advantage above 0": lambda row: (row.advantage or 0) > 0,
    "advantage below 0": lambda row: (row.advantage or 0) < 0,
    "advantage 0: teaches nothing": lambda row: row.advantage == 0,
    "reward is no number": lambda row: row.reward is None or not math.isfinite(row.reward),
}
ORDERS = ("position", "reward", "advantage", "length", "correct", "finish reason")


class Listed(NamedTuple):
    """One completion as a list shows it; None where the run does not say."""

    position: int  # in the file, from 0
    prompt_index: int | None
    completion_index: int | None
    prompt: str
    completion: str
    length: int | None  # tokens
    finish_reason: str | None
    reward: float | None
    advantage: float | None
    correct: bool | None
    rewards: dict[str, float | None]  # by reward function


class Page(NamedTuple):
    """Some rows of a list."""

    rows: list[Listed]
    number: int  # from 1
    pages: int
    found: int  # rows that the search and the filter left
    total: int


class Sheet:
    """The completions of one place in a run.

    Args:
        run: the run.
        place: which step or evaluation.
        tokenizer: says what token ids mean that the sheet itself does not spell out; may be None.

    Attributes:
        rows: all completions, in the order of the file; [] where none were kept.
        reward_names: the reward functions that the file has a column for.

    Raises:
        ConfigError: no such step; a file that cannot be read.
    """

    def __init__(self, run: Run, place: Place, tokenizer: Any = None) -> None:
        if place.kind not in KINDS:
            raise unknown_name("kind of completions", place.kind, KINDS)
        self.run, self.place, self.tokenizer = run, place, tokenizer
        self._columns: dict[str, Any] = {}
        self._spelt: dict[int, str] | None = None
        table = self._read([*_LIGHT, schema.REWARD])
        named = [name for name in table.column_names if name.startswith(schema.REWARD)]
        self.reward_names = [name.removeprefix(schema.REWARD) for name in named]
        self.rows = self._listed(table)
        config = run.config
        steps = run.metrics if place.kind == "train" else []
        self.line: dict[str, Any] = next((m for m in steps if m["step"] == place.step), {})
        self.config = config

    def __len__(self) -> int:
        return len(self.rows)

    def __str__(self) -> str:
        return f"{self.run.name}, {self.place}"

    @property
    def why_empty(self) -> str:
        """In words why there are no completions; empty where there are some."""
        if self.rows:
            return ""
        if schema.setting(self.config, "save_samples") is False:
            return f"No completions of {self.place}: the run was started with save_samples=False."
        path = self.run.path / (schema.SAMPLES if self.place.kind == "train" else schema.EVALS)
        return (
            f"No completions of {self.place} were kept: {path} has no file of that step. "
            "Was the folder copied in part?"
        )

    @property
    def summary(self) -> dict[str, float]:
        """The sheet in a few numbers; those that it has nothing for are left out."""
        rows = self.rows
        found: dict[str, float] = {"completions": len(rows), "prompts": len({row.prompt for row in rows})}
        rewards = [row.reward for row in rows if row.reward is not None]
        judged = [row.correct for row in rows if row.correct is not None]
        lengths = [row.length for row in rows if row.length is not None]
        ends = [row.finish_reason for row in rows if row.finish_reason is not None]
        if rewards:
            found["mean reward"] = fmean(rewards)
        if judged:
            found["right"] = sum(judged) / len(judged)
        if lengths:
            found["mean tokens"] = fmean(lengths)
        if ends:
            found["cut off"] = ends.count("length") / len(ends)
        return found

    @property
    def kept(self) -> str:
        """In words of how many steps the run has its completions; empty where of all of them."""
        here, all_steps = kept(self.run, self.place.kind)
        steps = "steps" if self.place.kind == "train" else "evaluations"
        return (
            "" if here == all_steps else f"{here:,} of the run's {all_steps:,} {steps} have completions here."
        )

    @property
    def most_advantage(self) -> float:
        """The advantage that is the furthest from 0; 0 where there is none."""
        known = [abs(row.advantage) for row in self.rows if row.advantage is not None]
        return max((a for a in known if math.isfinite(a)), default=0.0)

    @property
    def notes(self) -> list[str]:
        """What a reader should know of the whole sheet."""
        found = []
        status = self.run.status
        if status not in ("finished", "running"):
            found.append(f"This run is {status}: its whole steps are here, the unfinished one is not.")
        if self.run.unreadable_lines:
            found.append(
                f"{self.run.unreadable_lines} lines of {schema.METRICS} cannot be read and are left out."
            )
        odd = sum(row.reward is not None and not math.isfinite(row.reward) for row in self.rows)
        if odd:
            found.append(f"{odd} of {len(self)} completions have a reward that is no finite number.")
        if self.line.get("skipped"):
            found.append(
                "This step's update was skipped: a gradient was not finite, so nothing was learned from it."
            )
        return found

    # -- lists ----------------------------------------------------------------------------------------------

    @property
    def orders(self) -> list[str]:
        """What the list can be sorted by."""
        return [*ORDERS, *(f"reward: {name}" for name in self.reward_names)]

    def listed(
        self, order: str = "position", descending: bool = False, only: str = "all", search: str = ""
    ) -> list[Listed]:
        """The rows that a filter and a search leave, in order.

        Args:
            order: one of ``orders``; ties stay in the file's order.
            descending: largest first; what has no number (None, NaN) comes last either way.
            only: one of ``FILTERS``.
            search: part of the prompt or the completion, capitals aside; "" finds all.
        """
        if order not in self.orders:
            raise unknown_name("order", order, self.orders)
        if only not in FILTERS:
            raise unknown_name("filter", only, FILTERS)
        wanted, keep = search.casefold(), FILTERS[only]
        found = [
            row
            for row in self.rows
            if keep(row)
            and (not wanted or wanted in row.completion.casefold() or wanted in row.prompt.casefold())
        ]
        keyed = [(_key(row, order), row) for row in found]
        known = [pair for pair in keyed if pair[0] is not None]
        known.sort(key=lambda pair: pair[0], reverse=descending)
        return [row for _, row in known] + [row for key, row in keyed if key is None]

    def page(self, number: int = 1, size: int = 8, **chosen: Any) -> Page:
        """Page ``number`` (from 1; the last one where there are fewer) of ``listed(**chosen)``."""
        rows = self.listed(**chosen)
        pages = max(1, math.ceil(len(rows) / size))
        number = min(max(1, number), pages)
        return Page(rows[(number - 1) * size : number * size], number, pages, len(rows), len(self.rows))

    def find_prompt(self, prompt: str) -> Listed | None:
        """The first completion of the same prompt."""
        return next((row for row in self.rows if row.prompt == prompt), None)

    # -- one completion -------------------------------------------------------------------------------------

    def open(self, position: int) -> Tokens:
        """A completion with its numbers per token.

        Raises:
            ConfigError: no such completion.
        """
        if not 0 <= position < len(self.rows):
            raise bad_value(
                "position", position, f"0 to {len(self.rows) - 1}", f"{self} has no more completions."
            )
        return Tokens(self, self.rows[position])

    def value(self, name: str, position: int) -> Any:
        """One cell of any column; None where the file lacks it. The column is read at the first question."""
        if name not in self._columns:
            table = self._read([name])
            self._columns[name] = table.column(name) if name in table.column_names else None
        column = self._columns[name]
        if column is None:
            return None
        self._check_same(len(column))
        return column[position].as_py()

    def spelling(self, token_id: int) -> str | None:
        """A token id as text: as some completion of this sheet has it, else as the tokenizer does."""
        if self._spelt is None:
            self._spelt = _spellings(self._read(["completion_ids", "tokens"]))
        if token_id not in self._spelt and self.tokenizer is not None:
            try:
                self._spelt[token_id] = str(self.tokenizer.decode([token_id]))
            except Exception:  # another model's tokenizer: the id alone is shown
                return None
        return self._spelt.get(token_id)

    def table(self) -> pa.Table:
        """Every column of all completions, as the run has them."""
        table = self._read(None)
        self._check_same(table.num_rows)
        return table

    # -- inside ---------------------------------------------------------------------------------------------

    def _check_same(self, count: int) -> None:
        if count != len(self.rows):
            raise ConfigError(
                f"the completions of {self} are no longer the ones that were listed: the run was resumed, and made "
                "this step again. Press “look again”."
            )

    def _read(self, columns: Sequence[str] | None) -> pa.Table:
        if self.place.kind == "train":
            return self.run.samples_table(self.place.step, columns)
        return self.run.eval_table(self.place.step, self.place.kind, columns)

    def _listed(self, table: pa.Table) -> list[Listed]:
        import pyarrow.compute as pc

        def column(name: str) -> list[Any]:
            there = name in table.column_names
            values: list[Any] = table.column(name).to_pylist() if there else [None] * table.num_rows
            return values

        ids = "completion_ids"
        lengths = (
            pc.list_value_length(table.column(ids)).to_pylist() if ids in table.column_names else column(ids)
        )
        plain = {name: column(name) for name in _LIGHT if name != ids}
        rewards = {name: column(schema.REWARD + name) for name in self.reward_names}
        return [
            Listed(
                position=i,
                prompt_index=plain["prompt_index"][i],
                completion_index=plain["completion_index"][i],
                prompt=plain["prompt"][i] or "",
                completion=plain["completion"][i] or "",
                length=lengths[i],
                finish_reason=plain["finish_reason"][i],
                reward=plain["reward"][i],
                advantage=plain["advantage"][i],
                correct=plain["correct"][i],
                rewards={name: values[i] for name, values in rewards.items()},
            )
            for i in range(table.num_rows)
        ]


def _key(row: Listed, order: str) -> Any:
    """What a row is sorted by; None sorts last."""
    if order.startswith("reward: "):
        value: Any = row.rewards.get(order.removeprefix("reward: "))
    else:
        value = getattr(row, order.replace(" ", "_"))
    return None if isinstance(value, float) and math.isnan(value) else value


def _spellings(table: pa.Table) -> dict[int, str]:
    """Every token id that occurs, as text."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not {"completion_ids", "tokens"} <= set(table.column_names):
        return {}
    both = pc.and_(pc.is_valid(table.column("completion_ids")), pc.is_valid(table.column("tokens")))
    table = table.filter(both)
    ids = pc.list_flatten(table.column("completion_ids"))
    words = pc.list_flatten(table.column("tokens"))
    if len(ids) != len(words):  # a foreign file
        return {}
    once = pa.table({"id": ids, "word": words}).group_by(["id", "word"]).aggregate([])
    return dict(zip(once.column("id").to_pylist(), once.column("word").to_pylist(), strict=True))
