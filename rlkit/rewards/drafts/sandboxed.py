"""Somebody else's function as a reward: its code runs in the sandbox, never in the trainer's process.

For functions that a model drafted (`rlkit.rewards.drafts.drafter`) and for the python graders of reinforcement
fine-tuning (`rlkit.rewards.graders.rft`). A whole batch is one program, which gets the texts as data and prints its
results; where it does not come to its end, each call is tried in a program of its own, so one completion cannot take
the others with it.
"""

from __future__ import annotations

import base64
import json
import math
import secrets
import warnings
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from rlkit.errors import ConfigError, RewardError, bad_value
from rlkit.rewards.calls import RewardWarning
from rlkit.rewards.drafts.checks import check_source
from rlkit.rewards.judge.prompt import prompt_text
from rlkit.rewards.signatures import RewardFunction
from rlkit.rewards.text import Completion, completion_text

SECONDS = 10.0  # for a batch; a call that is tried alone gets a fifth of it
ALONE = 0.2
TOGETHER = 500_000  # characters of data in one program

# What runs in the sandbox around the function. The results are printed behind a mark that the function does not know,
# and what it prints itself goes nowhere.
_PROGRAM = """
import base64, io, json, sys, zlib

def _plain(value):
    try:
        return float(value)
    except Exception:
        return repr(value)[:80]

def _main():
    given = json.loads(zlib.decompress(base64.b64decode({given})))
    out, sys.stdout = sys.stdout, io.StringIO()
    space = {{"__name__": "reward"}}
    said = []
    try:
        exec(compile(given["source"], "<reward>", "exec"), space)
        function = space[given["function"]]
    except BaseException as error:
        said = {{"broken": f"{{type(error).__name__}}: {{error}}"[:300]}}
    else:
        for positional, named in given["calls"]:
            try:
                said.append({{"value": function(*positional, **named)}})
            except (Exception, SystemExit) as error:
                said.append({{"error": f"{{type(error).__name__}}: {{error}}"[:300]}})
    sys.stdout = out
    print({mark} + json.dumps(said, default=_plain), flush=True)

_main()
"""

Call = tuple[Sequence[Any], Mapping[str, Any]]
"""The positional and the named arguments of one call, plain values."""


class Result(NamedTuple):
    """What one call gave: a value, or the reason why there is none."""

    value: Any = None
    reason: str | None = None


@dataclass(frozen=True)
class SandboxedFunction:
    """The function called `function` in `source`, to be called in the sandbox only.

    `seconds`: the wall-clock limit of a batch.
    """

    source: str
    function: str
    seconds: float = SECONDS

    def call(self, calls: Sequence[Call]) -> list[Result]:
        """Call it once for each entry of `calls`; nothing that it does raises here.

        Raises `RewardError` where the code cannot even be loaded: then every call would fail.
        """
        groups = _groups(calls)
        results: list[list[Result]] = self._run(groups, self.seconds)
        lost = [n for n, group in enumerate(groups) if len(group) > 1 and not results[n]]
        alone = [[call] for n in lost for call in groups[n]]
        found = iter(self._run(alone, max(1.0, ALONE * self.seconds)) if alone else [])
        for n in lost:
            results[n] = [next(found)[0] for _ in groups[n]]
        return [result for group in results for result in group]

    def _run(self, groups: Sequence[Sequence[Call]], seconds: float) -> list[list[Result]]:
        """One program a group, several at a time; each group's results, empty where several calls went together."""
        from rlkit.sandbox import Limits
        from rlkit.sandbox.pool import shared

        marks = [secrets.token_hex(12) for _ in groups]
        programs = []
        for group, mark in zip(groups, marks):
            given = {"source": self.source, "function": self.function, "calls": group}
            packed = base64.b64encode(zlib.compress(json.dumps(given, default=repr).encode("ascii"), 1))
            programs.append(_PROGRAM.format(given=packed, mark=repr(mark)))
        outcomes = shared().map(programs, limits=Limits(seconds=seconds, output_kib=1024))
        results = []
        for group, mark, outcome in zip(groups, marks, outcomes, strict=True):
            said = _read(outcome.output, mark)
            if isinstance(said, Mapping):
                raise RewardError(f"the code of {self.function!r} cannot be loaded: {said.get('broken')}")
            if isinstance(said, list) and len(said) == len(group):
                results.append([_result(entry) for entry in said])
                continue
            reason = f"{outcome.verdict}: {outcome.detail}" if outcome.detail else "it ended without a result"
            results.append([Result(reason=reason)] if len(group) == 1 else [])
        return results


def _groups(calls: Sequence[Call]) -> list[list[Call]]:
    """Cut a batch into programs that are not too long for the sandbox."""
    groups: list[list[Call]] = []
    size = TOGETHER
    for call in calls:
        length = len(json.dumps(call, default=repr))
        if size + length > TOGETHER:
            groups.append([])
            size = 0
        groups[-1].append(call)
        size += length
    return groups


def _read(output: str, mark: str) -> Any:
    """What stands behind the mark; None where it was not printed whole."""
    _, found, rest = output.rpartition(mark)
    if not found:
        return None
    try:
        return json.loads(rest.splitlines()[0])
    except (ValueError, IndexError, RecursionError):
        return None


def _result(entry: Any) -> Result:
    if isinstance(entry, Mapping) and "value" in entry:
        return Result(entry["value"])
    reason = entry.get("error") if isinstance(entry, Mapping) else None
    return Result(reason=str(reason))


def as_number(value: Any) -> float | None:
    """Return a finite number as a float, anything else as None (True counts as 1)."""
    if isinstance(value, int | float) and abs(value) < 1e300 and math.isfinite(value):
        return float(value)
    return None


def sandboxed_reward(source: str, seconds: float = SECONDS) -> RewardFunction:
    """Return the reward function that `source` defines; its code is checked, and runs in the sandbox for every batch.

    `source` is one Python function in TRL's signature, as `draft_reward` gets them: it takes `prompts` and
    `completions` as plain text and the data set's columns by name. Its rewards may be any finite numbers. A completion
    that it fails for gets None; the first such failure is a `RewardWarning`.

    Raises `ConfigError` for code that the check refuses. The check is a fence against mistakes, the sandbox the wall.

    >>> sandboxed_reward("def short(completions, **columns):\\n    return [-len(c) for c in completions]").__name__
    'short'
    """
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= 600:
        raise bad_value("seconds", seconds, "the seconds that a batch may take, up to 600")
    checked = check_source(source)
    if checked.problems:
        raise ConfigError(f"this reward function is not run: {'; '.join(checked.problems)}")
    box = SandboxedFunction(source, checked.name, float(seconds))
    warned: list[str] = []

    def reward(
        prompts: Sequence[Any], completions: Sequence[Completion], **columns: Any
    ) -> list[float | None]:
        rows = _rows(prompts, completions, columns, checked.parameters, checked.takes_all)
        if not rows:
            return []
        together = {name: [row[name] for row in rows] for name in rows[0]}
        said = box.call([((), together)])[0]
        if isinstance(said.value, list) and len(said.value) == len(rows):
            verdicts = [Result(value) for value in said.value]
        else:  # it failed as a whole: which completion was it?
            alone = [((), {name: [value] for name, value in row.items()}) for row in rows]
            verdicts = [_only(result) for result in box.call(alone)]
        scores = [as_number(verdict.value) for verdict in verdicts]
        lost = [i for i, verdict in enumerate(verdicts) if scores[i] is None and verdict != Result()]
        if lost and not warned:
            warned.append(checked.name)
            why = verdicts[lost[0]].reason or f"it returned {verdicts[lost[0]].value!r:.60}"
            text = (
                f"reward {checked.name!r} gave no number for {len(lost)} of {len(rows)} completions, which get None: "
                f"{why} (for {rows[lost[0]].get('completions', '')!r:.80}). Said once"
            )
            warnings.warn(text, RewardWarning, stacklevel=2)
        return scores

    reward.__name__ = reward.__qualname__ = checked.name
    reward.__doc__ = f"{checked.summary or 'A reward function from source code'} (runs in the sandbox)."
    reward.required_columns = list(checked.columns)  # type: ignore[attr-defined]
    return reward


def _only(result: Result) -> Result:
    """The verdict on one completion from a call that was given it alone."""
    if result.reason is not None:
        return result
    if isinstance(result.value, list) and len(result.value) == 1:
        return Result(result.value[0])
    return Result(reason=f"it returned {result.value!r:.60}, not a list with one number")


def _rows(
    prompts: Sequence[Any],
    completions: Sequence[Completion],
    columns: Mapping[str, Any],
    named: Sequence[str],
    takes_all: bool,
) -> list[dict[str, Any]]:
    """What each completion's call gets: texts, and of the columns those that the function takes and that are data."""
    lists = {
        name: values
        for name, values in columns.items()
        if (takes_all or name in named)
        and isinstance(values, Sequence)
        and not isinstance(values, str)
        and len(values) == len(completions)
    }
    rows = []
    for i, completion in enumerate(completions):
        row = {"prompts": prompt_text(prompts[i]), "completions": completion_text(completion)}
        row = {name: text for name, text in row.items() if takes_all or name in named}
        rows.append({**row, **{name: values[i] for name, values in lists.items()}})
    return rows


CONFIGURED = {"sandboxed_reward": sandboxed_reward}
"""Offered by name with settings: the code to run."""
