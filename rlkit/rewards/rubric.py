"""Rubrics: several small rewards with names and weights, in place of one that says it all.

    rubric = Rubric({
        "has number": (number_found, 0.5),
        "right": correct_number,                          # weight 1
        "short": reward_from(is_short, right=0.0, wrong=-1.0),
    })
    GRPOTrainer(model, rubric, …)

A single number hides why it is what it is, and a reward that wants everything at once is hardly ever paid. A rubric
pays for each thing separately, and because it *is* a list of reward functions, each part has its own line in every
log, its own column in every sample and its own curve: a part that is never earned, or always, shows.

The idea of a rubric as "a list of smaller verifiable rewards" is the guide's, which credits OpenAI's reinforcement
fine-tuning with it.
"""

from __future__ import annotations

import html
import inspect
import math
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

from rlkit.errors import ConfigError, RewardError, bad_value
from rlkit.rewards.registry import resolve
from rlkit.rewards.signatures import RewardFunction, required_columns, reward_name
from rlkit.rewards.text import Completion

Part: TypeAlias = "RewardFunction | str | Mapping[str, Any] | Sequence[Any]"
"""A reward function, or what `resolve` turns into one, alone or in a pair with its weight."""

LONGEST_NAME = 60


class Rubric(list[RewardFunction]):
    """A list of reward functions, each named as given and multiplied by its weight.

    Args:
        parts: from a part's name to a reward function, or to a pair (reward function, weight). The function may be
            given as `rewards.resolve` reads it, so that a rubric can stand in a YAML file. A weight is any number
            but 0, default 1; a negative one turns a reward into a charge. Sync or async.
        name: what the rubric is called where it is shown.
        verifier: ``verifier(completion, **columns) -> bool``: whether a completion is right as a whole. Kept as
            ``.verifier`` (None where there is none).

    Each part is an ordinary reward function: f(prompts, completions, **columns) → weight × what the wrapped one
    returns, None where it returns None. It has ``.function`` (what it wraps), ``.weight``, ``.required_columns``,
    and ``.verifier`` and ``.score_range`` where what it wraps has them.

    Raises `ConfigError` for names, weights or parts that cannot work.

    >>> from rlkit.rewards import correct_number, number_found
    >>> rubric = Rubric({"has number": (number_found, 0.5), "right": correct_number})
    >>> rubric.score("It is 42.", answer="42")
    {'has number': 0.5, 'right': 3.0, 'total': 3.5}
    """

    def __init__(
        self, parts: Mapping[str, Part], *, name: str = "rubric", verifier: Callable[..., bool] | None = None
    ) -> None:
        if not isinstance(parts, Mapping) or not parts:
            cause = "Every part needs a name: it is what the logs show."
            raise bad_value("parts", parts, 'a mapping such as {"right": (correct_number, 2.0)}', cause)
        if verifier is not None and not callable(verifier):
            raise bad_value("verifier", verifier, "a function (completion, **columns) -> bool")
        super().__init__(_part(part, given) for part, given in parts.items())
        self.name = name
        self.verifier = verifier

    @property
    def names(self) -> list[str]:
        """The parts' names."""
        return [reward_name(part) for part in self]

    @property
    def parts(self) -> dict[str, tuple[RewardFunction, float]]:
        """What it was made of, so that rubrics can be joined: ``Rubric({**a.parts, **b.parts})``."""
        return {
            reward_name(part): (getattr(part, "function", part), getattr(part, "weight", 1.0))
            for part in self
        }

    @property
    def required_columns(self) -> list[str]:
        """The data set's columns without which some part cannot be called."""
        return list(dict.fromkeys(column for part in self for column in required_columns(part)))

    @property
    def lowest(self) -> float | None:
        """The lowest total, or None where a part does not say how low it goes."""
        return _sum_of(None if (known := score_range(part)) is None else known[0] for part in self)

    @property
    def highest(self) -> float | None:
        """The highest total, or None where a part does not say how high it goes."""
        return _sum_of(None if (known := score_range(part)) is None else known[1] for part in self)

    def score(
        self, completion: Completion, /, *, prompt: Any = "", **columns: Any
    ) -> dict[str, float | None]:
        """Return what each part gives one completion, by name, and the sum of those that answered as ``"total"``.

        `columns` are one row of the data set; ``rubric.score("…", **row)`` takes all of it. None stands for "not
        mine to judge"; the total is None where no part answered.

        Raises:
            ConfigError: a column that a part needs is missing.
            RewardError: a part did not return one value for one completion.
        """
        given = {name: [value] for name, value in columns.items() if name != "completion"}
        scores: dict[str, float | None] = {}
        for part in self:
            missing = [column for column in required_columns(part) if column not in given]
            if missing:
                raise ConfigError(
                    f"the part {reward_name(part)!r} asks for the column {missing[0]!r}; found: "
                    f"{', '.join(columns) or 'none'}. Give all that a row holds: rubric.score(completion, **row)"
                )
            values: Any = part(prompts=[prompt], completions=[completion], **given)
            if inspect.isawaitable(values):
                values = _wait(values)
            if isinstance(values, str | Mapping | Set) or not hasattr(values, "__len__") or len(values) != 1:
                raise RewardError(
                    f"the part {reward_name(part)!r} returned {values!r:.80} for one completion"
                )
            value = next(iter(values))
            scores[reward_name(part)] = None if value is None else float(value)
        answered = [value for value in scores.values() if value is not None]
        return {**scores, "total": sum(answered) if answered else None}

    def __repr__(self) -> str:
        rows = [row[:3] for row in self._rows()]
        widths = [max(len(row[i]) for row in rows) for i in range(3)] if rows else []
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows
        ]
        about = [f"    {row[3]}" if row[3] else "" for row in self._rows()]
        table = [f"  {line}{note}".rstrip() for line, note in zip(lines, about, strict=True)]
        return "\n".join([self._heading(), *table])

    def _repr_html_(self) -> str:
        head = "".join(f"<th style='text-align:left'>{cell}</th>" for cell in ("part", "weight", "range", ""))
        rows = [
            "<tr>"
            + "".join(f"<td style='text-align:left'>{html.escape(cell)}</td>" for cell in row)
            + "</tr>"
            for row in self._rows()
        ]
        caption = f"<caption style='text-align:left'>{html.escape(self._heading())}</caption>"
        return f"<table>{caption}<tr>{head}</tr>{''.join(rows)}</table>"

    def _heading(self) -> str:
        reach = "" if self.lowest is None or self.highest is None else f", {_span(self.lowest, self.highest)}"
        return f"Rubric {self.name!r}: {len(self)} part{'' if len(self) == 1 else 's'}{reach}"

    def _rows(self) -> list[tuple[str, str, str, str]]:
        """Name, weight, range and a sentence of each part, as they are shown."""
        rows = []
        for part in self:
            function = getattr(part, "function", part)
            known = score_range(part)
            about = (getattr(function, "__doc__", None) or reward_name(function)).strip().partition("\n")[0]
            weight = f"× {getattr(part, 'weight', 1.0):g}"
            rows.append((reward_name(part), weight, "" if known is None else _span(*known), about))
        return rows


def score_range(reward: RewardFunction) -> tuple[float, float] | None:
    """Return the lowest and the highest score that `reward` says it can give, or None where it does not say.

    It says so by an attribute ``score_range = (low, high)``; our own by their golden set.
    """
    declared = getattr(reward, "score_range", None)
    if declared is not None:
        low, high = declared
        return float(low), float(high)
    module, name = sys.modules.get(getattr(reward, "__module__", None) or ""), reward_name(reward)
    if getattr(module, name, None) is not reward:  # a factory's may have other settings than its golden set
        return None
    golden = getattr(module, "GOLDEN", {}).get(name)
    return None if golden is None else (float(golden.low), float(golden.high))


def _part(name: str, given: Part) -> RewardFunction:
    """Check one entry of a rubric and wrap its function."""
    if not isinstance(name, str) or not name.strip() or name != name.strip() or not name.isprintable():
        raise bad_value("a part's name", name, "text on one line, such as 'has number'")
    if len(name) > LONGEST_NAME or "/" in name or name == "total":
        allowed = f"at most {LONGEST_NAME} characters, without '/', and not 'total'"
        raise bad_value("a part's name", name, allowed, "Logs call it rewards/<name>, and the sum 'total'.")
    function: Any
    function, weight = given, 1.0
    if isinstance(given, Sequence) and not isinstance(given, str):
        if isinstance(given, Rubric):
            cause = "Join rubrics by their parts: Rubric({**a.parts, **b.parts})."
            raise bad_value(f"part {name!r}", given.names, "a reward function", cause)
        if len(given) != 2:
            raise bad_value(f"part {name!r}", given, "a reward function, or a pair (reward function, weight)")
        pair: Any = given
        function, weight = pair
    number = isinstance(weight, int | float) and not isinstance(weight, bool)
    if not number or not math.isfinite(weight) or not weight:
        cause = (
            "A part that weighs nothing is logged as 0 whatever it says; leave it out." if weight == 0 else ""
        )
        raise bad_value(f"weight of part {name!r}", weight, "a finite number other than 0", cause)
    if isinstance(function, str | Mapping):
        function = resolve(function)
    if not callable(function):
        raise bad_value(f"part {name!r}", function, "a reward function f(prompts, completions, **columns)")
    return _scaled(name, function, float(weight))


def _scaled(name: str, function: Callable[..., Any], weight: float) -> RewardFunction:
    """Return `function` under another name, its values multiplied by `weight`."""
    accepted = _accepted(name, function)

    def call(prompts: Sequence[Any], completions: Sequence[Completion], columns: dict[str, Any]) -> Any:
        given = {"prompts": prompts, "completions": completions, **columns}
        wanted = given if accepted is None else {key: given[key] for key in given if key in accepted}
        return function(**wanted)

    async def later(values: Awaitable[Any]) -> Any:
        return _times(weight, await values)

    # Both have defaults because a caller goes by the signature of `function`, which may lack prompts.
    async def later_part(prompts: Any = (), completions: Any = (), **columns: Any) -> Any:
        return await later(call(prompts, completions, columns))

    def part_now(prompts: Any = (), completions: Any = (), **columns: Any) -> Any:
        values = call(prompts, completions, columns)
        return later(values) if inspect.isawaitable(values) else _times(weight, values)

    # A trainer tells async functions by their kind: what wraps one must be one.
    is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)
    part: Any = later_part if is_async else part_now
    part.__name__ = part.__qualname__ = name
    part.__doc__ = f"{weight:g} × {reward_name(function)}. {(function.__doc__ or '').strip()}".strip()
    part.function, part.weight = function, weight
    part.__wrapped__ = function  # its signature, so that a caller sees which arguments it names
    part.required_columns = required_columns(function)
    verifier = getattr(function, "verifier", None)
    if verifier is not None:
        part.verifier = verifier
    if hasattr(function, "spans"):
        part.spans = function.spans
    known = score_range(function)
    if known is not None:
        part.score_range = (min(weight * end for end in known), max(weight * end for end in known))
    made: RewardFunction = part
    return made


def _accepted(name: str, function: Callable[..., Any]) -> set[str] | None:
    """The arguments that `function` takes by name, None for any; a verifier is refused, as it gives no score."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return None
    named = {p.name for p in parameters}
    if "completion" in named and "completions" not in named:
        cause = "Is it a verifier? Give it a price: reward_from(verifier, right=1.0, wrong=0.0)."
        raise bad_value(
            f"part {name!r}",
            reward_name(function),
            "a reward function f(prompts, completions, **columns)",
            cause,
        )
    return None if any(p.kind is p.VAR_KEYWORD for p in parameters) else named


def _times(weight: float, values: Any) -> Any:
    """Multiply every value that is a number; whatever else was returned is left for the trainer to complain about."""
    if isinstance(values, str | bytes | Mapping | Set) or not isinstance(values, Iterable):
        return values
    return [_product(weight, value) for value in values]


def _product(weight: float, value: Any) -> Any:
    if value is None or isinstance(value, str):
        return value
    try:
        return weight * float(value) + 0.0  # without the 0.0, a charge that is not due reads −0.0
    except (TypeError, ValueError):
        return value


def _sum_of(values: Iterable[float | None]) -> float | None:
    """The sum, or None where one of them is unknown."""
    total = 0.0
    for value in values:
        if value is None:
            return None
        total += value
    return total


def _span(low: float, high: float) -> str:
    return " … ".join(f"{end:+g}" if end else "0" for end in (low, high))


def _wait(values: Awaitable[Any]) -> Any:
    """Run an awaitable to its end in a thread of its own: in a notebook this thread has a running loop already."""
    import asyncio

    async def main() -> Any:
        return await values

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, main()).result()
