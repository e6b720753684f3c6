"""What an audit found, as numbers, as text and as a table for notebooks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from textwrap import wrap
from typing import Any

DUST = 1e-9  # rewards that differ by less are the same

_HEADINGS = {
    "right": "right answers",
    "wrong": "wrong answers",
    "exploit": "exploits",
    "unknown": "not judged",
}
GROUPS = tuple(_HEADINGS)
_COLUMNS = ("n", "mean", "lowest", "highest", "paid as right")


@dataclass(slots=True)
class Scored:
    """One completion of an audit with the reward that it got.

    Attributes:
        group: ``"right"``, ``"wrong"``, ``"exploit"``, or ``"unknown"`` for what nobody could judge.
        kind: what it is, in a few words.
        text: the completion.
        prompt, columns: the row that it answers.
        source: ``"task"``, ``"golden"`` (the reward's own set) or ``"model"`` (sampled).
        by_chance: an exploit that may happen to be right.
        fools: an exploit that the reward is known to pay for.
        score: the sum of all parts, None where every part returned None or failed.
        parts: each part's score, by name.
        due: what a right answer to the same row earns (of a golden set: the least that a right one does).
        failure: how a part failed on it, in words; empty where none did.
    """

    group: str
    kind: str
    text: str
    prompt: Any = ""
    columns: dict[str, Any] = field(default_factory=dict)
    source: str = "task"
    row: int = -1
    by_chance: bool = False
    fools: bool = False
    score: float | None = None
    parts: dict[str, float | None] = field(default_factory=dict)
    due: float | None = None
    failure: str = ""

    @property
    def paid(self) -> bool:
        """Whether it earns as much as a right answer."""
        return self.score is not None and self.due is not None and self.score >= self.due - DUST

    def __str__(self) -> str:
        earned = "nothing" if self.score is None else f"{self.score:.3g}"
        due = "" if self.due is None else f", a right answer {self.due:.3g}"
        parts = ", ".join(f"{n} {'–' if s is None else f'{s:.3g}'}" for n, s in self.parts.items())
        shown = self.text if len(self.text) <= 80 else f"{self.text[:60]} … ({len(self.text)} characters)"
        return f"{shown!r} earns {earned}{due}" + (f" ({parts})" if len(self.parts) > 1 else "")


@dataclass(frozen=True, slots=True)
class Line:
    """One kind of completion in an audit's table.

    Attributes:
        paid: share that earns at least as much as a right answer to the same row; None where that is not known.
        unscored: how many got no score.
        known: whether it is known that the reward pays for it.
    """

    group: str
    kind: str
    count: int
    mean: float | None
    lowest: float | None
    highest: float | None
    paid: float | None
    unscored: int
    known: bool


@dataclass(frozen=True, slots=True)
class Hole:
    """A way to be paid for something else than a right answer, or another reason not to train with a reward.

    Attributes:
        kind: of completion, or ``"constant"``, ``"blind"``, ``"silent"``, ``"fails"``, ``"range"``.
        says: what is wrong, in one sentence.
        examples: the worst completions first.
    """

    kind: str
    says: str
    examples: tuple[Scored, ...] = ()

    def __str__(self) -> str:
        one_a_kind = {example.kind: example for example in reversed(self.examples)}
        return "\n".join(
            [self.says, *(f"    such as {example}" for example in reversed(one_a_kind.values()))]
        )


@dataclass(slots=True)
class Audit:
    """What `rewards.audit` found. ``print(audit)`` shows it, ``audit.ok`` is True where there is no hole.

    In the table ✗ marks what is a hole. What else is paid as if it were right is a guess that was right by luck, or an
    exploit of the golden set that the reward is known to pay for.

    Attributes:
        name: of the reward.
        about: what it was tried on.
        scored: every completion with its score.
        lines: the table, one line a kind.
        holes: where the reward would be hacked, or teaches nothing.
        notes: what to bear in mind.
    """

    name: str
    about: str
    scored: list[Scored]
    lines: list[Line]
    holes: list[Hole]
    notes: list[str]

    @property
    def ok(self) -> bool:
        return not self.holes

    def worst(self, n: int = 5) -> list[Scored]:
        """The wrong completions and exploits that come nearest to, or surpass, what a right answer earns."""
        dishonest = [s for s in self.scored if s.group in ("wrong", "exploit") and s.score is not None]
        return sorted(dishonest, key=lambda s: (s.due or 0.0) - (s.score or 0.0))[:n]

    @property
    def verdict(self) -> str:
        found = "no hole" if self.ok else "1 hole" if len(self.holes) == 1 else f"{len(self.holes)} holes"
        return f"{self.name}: {found} found ({len(self.scored)} completions; {self.about})"

    def __str__(self) -> str:
        rows, rest = self._table()
        width = max(len(row[0]) for row in rows)
        table = []
        for label, n, mean, low, high, paid, mark in rows:
            numbers = f"{n:>5} {mean:>8} {low:>8} {high:>8} {paid:>14}  {mark}" if n else ""
            table.append(f"{label:{width}} {numbers}".rstrip())
        said = [f"✗ {hole}" for hole in self.holes] + [f"note: {note}" for note in self.notes]
        under = ["", *wrap(rest, 110)] if rest else []
        return "\n".join([self.verdict, "", *table, *under, *([""] if said else []), *said])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        (_, *names, _), *rows = self._table()[0]
        left, right = "<td style='text-align:left'>", "<td style='text-align:right'>"
        body = []
        for label, *cells, mark in rows:
            if cells[0]:
                numbers = "".join(f"{right}{escape(cell)}</td>" for cell in cells)
                body.append(f"<tr>{left}{escape(label.strip())}</td>{numbers}{left}{escape(mark)}</td></tr>")
            else:
                body.append(f"<tr><th colspan='7' style='text-align:left'>{escape(label)}</th></tr>")
        head = "".join(f"<th style='text-align:right'>{name}</th>" for name in names)
        holes = "".join(f"<li>✗ {_lines(str(hole))}</li>" for hole in self.holes)
        holes = f"<ul style='list-style:none'>{holes}</ul>" if holes else ""
        under = "".join(f"<p>{_lines(text)}</p>" for text in (self._table()[1], *self.notes) if text)
        table = f"<table><tr><th></th>{head}<th></th></tr>{''.join(body)}</table>"
        return f"<p><b>{escape(self.verdict)}</b></p>{holes}{table}{under}"

    def _table(self) -> tuple[list[tuple[str, ...]], str]:
        """The table's rows, of which headings have a label only; and in words what is not worth a row."""
        tried = [s for s in self.scored if s.group == "exploit" and s.score is not None]
        silent = [s.score or 0.0 for s in tried if not s.text.strip()]
        little = max(silent) if silent else min((s.score or 0.0 for s in tried), default=0.0)
        rows: list[tuple[str, ...]] = [("", *_COLUMNS, "")]
        dull: dict[str, None] = {}
        group = ""
        for line in self.lines:
            label = line.kind.removeprefix(f"{line.group}: ")
            if label.startswith("golden "):
                label = f"golden set{label.removeprefix(f'golden {line.group}')}"
            low = line.highest is not None and line.highest <= little
            if line.group == "exploit" and low and not line.paid and not line.unscored:
                dull[label.removeprefix("golden set: ")] = None
                continue
            if line.group != group:
                group = line.group
                rows.append((_HEADINGS[group], *[""] * 6))
            numbers = (_number(line.mean), _number(line.lowest), _number(line.highest), _share(line.paid))
            rows.append((f"  {label}", str(line.count), *numbers, self._mark(line)))
        if not dull:
            return rows, ""
        least = "no more than silence" if silent else "the least there is"
        return rows, f"Exploits that earn {_number(little)} at most, {least}: {'; '.join(dull)}."

    def _mark(self, line: Line) -> str:
        """What is to be said of a line beside its numbers."""
        found = {hole.kind for hole in self.holes}
        bad = line.kind in found or "constant" in found or (line.group == "wrong" and "blind" in found)
        bad = bad or (line.kind.startswith("golden") and not line.known and f"golden {line.group}" in found)
        marks = [f"{line.unscored} unscored"] if line.unscored else []
        if line.paid and line.group in ("wrong", "exploit"):
            marks.append("✗" if bad else "known, and documented" if line.known else "by luck")
        return ", ".join(marks)


def lines_of(scored: Sequence[Scored]) -> list[Line]:
    """The table: right ones, wrong ones, then exploits, those that pay best first, then the rest."""
    lines = []
    for group in GROUPS:
        kinds = dict.fromkeys(s.kind for s in scored if s.group == group)
        found = [
            _line(group, kind, [s for s in scored if (s.group, s.kind) == (group, kind)]) for kind in kinds
        ]
        if group == "exploit":
            found.sort(key=lambda line: (-(line.paid or 0.0), -(line.mean or 0.0)))
        lines += found
    return lines


def _line(group: str, kind: str, scored: Sequence[Scored]) -> Line:
    scores = [s.score for s in scored if s.score is not None]
    compared = [s for s in scored if s.due is not None]
    return Line(
        group,
        kind,
        len(scored),
        _mean(scores),
        min(scores, default=None),
        max(scores, default=None),
        _mean(s.paid for s in compared),
        len(scored) - len(scores),
        all(s.fools for s in scored),
    )


def _mean(values: Iterable[float]) -> float | None:
    values = list(values)
    return sum(values) / len(values) if values else None


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


def _lines(text: str) -> str:
    return escape(text).replace("\n", "<br>")
