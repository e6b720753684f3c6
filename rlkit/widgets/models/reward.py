"""What each part of a reward gives one completion and where it looked; its golden and exploit sets; a whole task."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, NamedTuple

from rlkit.errors import bad_value
from rlkit.rewards.audits.exploits import FORMS, answer_of, exploit_trials, right_trials, wrong_trials
from rlkit.rewards.calls import RewardCaller
from rlkit.rewards.registry import resolve_all
from rlkit.rewards.rubric import score_range
from rlkit.rewards.signatures import required_columns
from rlkit.rewards.spans import Spans, spans_of
from rlkit.rewards.text import completion_text
from rlkit.rollout import completion_as_given
from rlkit.widgets.models.reward_inputs import (
    BLANK,
    Part,
    Trial,
    golden_of,
    parts_of,
    row_of,
    trial_of,
    which,
)

LETTERS_A_TOKEN = 4  # no tokenizer here: where a reward counts tokens, they are guessed by it


@dataclass(frozen=True, slots=True)
class PartScore:
    """What a part says of one completion.

    Attributes:
        score: before its weight; None where it has nothing to say, or failed.
        weight, counts: weight × score is what goes into the total.
        spans: where it looked, in characters; [] where it found nothing, None where it does not tell.
        verdict: its verifier's, None without one.
        failure: what went wrong, in words.
        missing: the columns that it needs and the row lacks; it was not called then.
        range: lowest and highest score, where it says.
        looks_at: what it looks at instead of places, in words, where it says.
    """

    name: str
    weight: float
    score: float | None = None
    spans: Spans | None = None
    verdict: bool | None = None
    failure: str = ""
    missing: tuple[str, ...] = ()
    range: tuple[float, float] | None = None
    looks_at: str = ""

    @property
    def counts(self) -> float | None:
        return None if self.score is None else self.weight * self.score + 0.0

    @property
    def state(self) -> str:
        """ "scored", "silent" (None), "failed" or "missing"."""
        if self.missing:
            return "missing"
        return "failed" if self.failure else "silent" if self.score is None else "scored"


@dataclass(frozen=True, slots=True)
class Inspection:
    """All parts of one completion; `total` is None where nobody scored it, `right` the task's verdict if it has one."""

    text: str
    parts: list[PartScore]
    total: float | None
    right: bool | None
    guessed_tokens: int | None = None  # where some part counts tokens

    @property
    def span(self) -> tuple[float, float] | None:
        """The lowest and the highest total, with the weights as they are; None where a part does not say."""
        ends = [[part.weight * end for end in part.range] for part in self.parts if part.range is not None]
        if len(ends) < len(self.parts):
            return None
        return math.fsum(map(min, ends)), math.fsum(map(max, ends))

    def weighed(self, weights: Sequence[float]) -> Inspection:
        """The same with other weights; nobody is asked again."""
        parts = [replace(part, weight=weight) for part, weight in zip(self.parts, weights, strict=True)]
        return replace(self, parts=parts, total=total_of(parts))

    @property
    def failures(self) -> list[PartScore]:
        return [part for part in self.parts if part.state == "failed"]


class Piece(NamedTuple):
    """A stretch of a completion; the parts (from 0) that looked there, and those whose span ends with it."""

    text: str
    parts: tuple[int, ...]
    ends: tuple[int, ...]


@dataclass(slots=True)
class RewardModel:
    """A reward's parts, their weights, the rows and completions to try them on. Arguments: see `RewardInspector`."""

    parts: list[Part]
    title: str = "rewards"
    task: Any = None
    verifier: Callable[..., bool] | None = None
    given: list[Trial] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    timeout: float | None = 10.0

    @classmethod
    def make(
        cls,
        rewards: Any = None,
        task: Any = None,
        examples: Iterable[Any] | None = None,
        weights: Sequence[float] | None = None,
        timeout: float | None = 10.0,
    ) -> RewardModel:
        """Read what a caller may give. Raises `ConfigError` for what is no reward, task or example."""
        rewards, task = which(rewards, task)
        if rewards is None:
            if not task.reward_funcs:
                raise bad_value("rewards", None, "a reward", f"The task {task.name!r} has none of its own.")
            rewards = list(task.reward_funcs)
        functions = resolve_all(rewards)
        parts = parts_of(rewards, functions)
        title = getattr(functions, "name", None) or ", ".join(part.name for part in parts)
        verifier = getattr(task, "verifier", None) or getattr(functions, "verifier", None)
        own = [part.weight for part in parts] if weights is None else list(weights)
        if len(own) != len(parts) or not all(isinstance(w, int | float) and math.isfinite(w) for w in own):
            raise bad_value("weights", weights, f"{len(parts)} finite numbers, one a reward function")
        given = [trial_of(example, i) for i, example in enumerate(examples or ())]
        RewardCaller(timeout=timeout)  # checks it
        return cls(parts, title, task, verifier, given, own, timeout)

    # -- one completion -----------------------------------------------------------------------------------

    @property
    def columns(self) -> list[str]:
        """The columns that some part needs."""
        names = [name for part in self.parts for name in required_columns(part.function)]
        return [name for name in dict.fromkeys(names) if name != "completion_ids"]

    def inspect(self, completion: str, row: Mapping[str, Any] | None = None) -> Inspection:
        """Score one completion by every part. A part that fails is shown as such; nothing it does raises."""
        row = {name: value for name, value in (row or {}).items() if value is not BLANK}
        prompt = row.pop("prompt", "")
        row.pop("completion", None)
        as_given = completion_as_given(prompt, completion)
        row.setdefault("completion_ids", [0] * (len(completion) // LETTERS_A_TOKEN + 1))
        callable_parts = [p for p in self.parts if not _missing(p, row)]
        caller = RewardCaller(on_error="skip", timeout=self.timeout, quiet=True)
        given = {
            "prompts": [prompt],
            "completions": [as_given],
            **{name: [value] for name, value in row.items()},
        }
        names = [part.name for part in callable_parts]
        columns = caller([p.function for p in callable_parts], given, "a look at one completion", names)
        numbers = {part.name: column[0] for part, column in zip(callable_parts, columns, strict=True)}
        failures = {failure.name: failure.reason for failure in caller.failures}
        scored = []
        for part, weight in zip(self.parts, self.weights, strict=True):
            number = numbers.get(part.name, math.nan)
            missing = _missing(part, row)
            scored.append(
                PartScore(
                    part.name,
                    weight,
                    None if math.isnan(number) else number,
                    None if missing or part.name in failures else spans_of(part.function, as_given, row),
                    None if missing else _verdict(getattr(part.function, "verifier", None), as_given, row),
                    failures.get(part.name, ""),
                    missing,
                    score_range(part.function),
                    str(getattr(part.function, "looks_at", "")),
                )
            )
        tokens = any("completion_ids" in required_columns(part.function) for part in self.parts)
        return Inspection(
            completion_text(as_given),
            scored,
            total_of(scored),
            _verdict(self.verifier, as_given, row),
            len(row["completion_ids"]) if tokens else None,
        )

    # -- what to try --------------------------------------------------------------------------------------

    def size(self, side: str) -> int:
        """Rows of the task's side; 0 without a task."""
        return 0 if self.task is None else int(self.task.sizes[side])

    def row(self, side: str = "train", index: int = 0) -> dict[str, Any]:
        """A row of the task; without one a row of blanks with the columns that are needed."""
        if self.task is None:
            return {"prompt": "", **dict.fromkeys(self.columns, BLANK)}
        count = self.size(side)
        if not 0 <= index < count:
            raise bad_value("row", index, f"a number from 0 to {count - 1}: {side} has {count} rows")
        rows: list[dict[str, Any]] = self.task.rows(side, index + 1)
        return rows[index]

    def trials(self, row: Mapping[str, Any]) -> list[Trial]:
        """Completions to try: the examples that were given, what the audit makes of `row`, and the golden sets."""
        found = list(self.given)
        whole = dict(row)
        if self.task is not None:
            right = [
                t for t in right_trials(row, FORMS) if self.verifier is None or self._is_right(t.text, whole)
            ]
            wrong = wrong_trials(row, [])
            exploits = exploit_trials(row, [a] if (a := answer_of(row)) else [], huge=False)
            found += [
                Trial(f"{kind}: {_bare(t.kind)}", t.text, whole)
                for kind, t in (
                    *(("right", t) for t in right),
                    *(("wrong", t) for t in wrong),
                    *(("exploit", t) for t in exploits),
                )
            ]
        for part in self.parts:
            golden = golden_of(part)
            groups = (
                ()
                if golden is None
                else (("right", golden.right), ("wrong", golden.wrong), ("exploit", golden.exploits))
            )
            for group, examples in groups:
                for example in examples:
                    note = example.note or example.completion[:30]
                    found.append(
                        Trial(f"golden {group}, {part.name}: {note}", example.completion, row_of(example))
                    )
        return _labelled(found)

    def _is_right(self, text: str, row: Mapping[str, Any]) -> bool:
        columns = {name: value for name, value in row.items() if name not in ("prompt", "completion")}
        return bool(_verdict(self.verifier, completion_as_given(row["prompt"], text), columns))


def total_of(parts: Sequence[PartScore]) -> float | None:
    """The weighted sum of those that scored, by `rlkit.objectives.weighted_total`; None where nobody did."""
    import torch

    from rlkit.objectives.advantages import weighted_total

    if all(part.score is None for part in parts):
        return None
    scores = [math.nan if part.score is None else part.score for part in parts]
    per_func = torch.tensor([[scores]], dtype=torch.float64)  # [1, 1, F]
    return float(weighted_total(per_func, [part.weight for part in parts])[0, 0]) + 0.0


def _labelled(trials: Sequence[Trial]) -> list[Trial]:
    """Each with a label of its own: those of one kind are told apart by how they begin, or else by a number."""
    kinds = Counter(trial.label for trial in trials)
    taken: Counter[str] = Counter()
    found = []
    for trial in trials:
        begin = " ".join(trial.text[:200].split())[:30] or "nothing"
        label = " ".join(trial.label.split())[:70]
        label = label if kinds[trial.label] == 1 else f"{label} · {begin}"
        taken[label] += 1
        found.append(trial._replace(label=label if taken[label] == 1 else f"{label} ({taken[label]})"))
    return found


def pieces(text: str, spans: Sequence[Spans | None]) -> list[Piece]:
    """Cut `text` where a span begins or ends; `spans[i]` are part i's.

    >>> pieces("It is 42.", [[(6, 8)], None])[1]
    Piece(text='42', parts=(0,), ends=(0,))
    """
    marks = [(start, end, i) for i, found in enumerate(spans) for start, end in found or ()]
    edges = sorted({0, len(text), *(edge for start, end, _ in marks for edge in (start, end))})
    cut = []
    for start, end in pairwise(edges):
        inside = tuple(sorted({i for a, b, i in marks if a <= start and end <= b}))
        ends = tuple(sorted({i for a, b, i in marks if b == end and a <= start}))
        cut.append(Piece(text[start:end], inside, ends))
    return cut


def _missing(part: Part, row: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(name for name in required_columns(part.function) if name not in row)


def _verdict(verifier: Callable[..., bool] | None, completion: Any, row: Mapping[str, Any]) -> bool | None:
    if verifier is None:
        return None
    try:
        return bool(
            verifier(completion, **{name: value for name, value in row.items() if name != "completion_ids"})
        )
    except Exception:
        return None


def _bare(kind: str) -> str:
    return kind.partition(": ")[2] if kind.startswith(("right: ", "wrong: ")) else kind
