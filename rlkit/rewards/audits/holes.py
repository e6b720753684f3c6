"""What is wrong with a reward, judged by what it gave right answers, wrong ones and exploits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rlkit.rewards.audits.report import DUST, Hole, Scored, lines_of
from rlkit.rewards.golden import GoldenSet

_LUCK = 0.25, 2  # a guess may be right in a quarter of the rows, and in two more
_ANOTHER_FORM = ". Does it expect answers in another form? The argument forms takes it"


def holes(scored: Sequence[Scored], golden: GoldenSet | None, together: Sequence[str] = ()) -> list[Hole]:
    """Return everything that makes the reward unfit, the gravest first.

    `together`: how a reward function failed on a batch, though on no completion alone.
    """
    found = [Hole("fails", says) for says in dict.fromkeys(together)]
    failed = [s for s in scored if s.failure]
    for failure in dict.fromkeys(s.failure for s in failed):
        mine = [s for s in failed if s.failure == failure]
        count = "1 completion" if len(mine) == 1 else f"{len(mine)} completions"
        found.append(Hole("fails", f"it fails on {count}: {failure}", tuple(mine[:3])))
    scores = [s.score for s in scored if s.score is not None]
    if not scores:
        return [*found, Hole("silent", "it returns None for everything: nothing can be learned from it")]
    if _constant(scores):
        says = f"it is constant: everything earns {scores[0]:.3g}, so nothing can be learned from it"
        advice = "" if all(s.source == "golden" for s in scored) else _ANOTHER_FORM
        return [*found, Hole("constant", says + advice)]
    if golden is not None:
        found += _golden_holes([s for s in scored if s.source == "golden"], golden)
    return found + _task_holes([s for s in scored if s.source != "golden"])


def _constant(scores: Sequence[float]) -> bool:
    return len(scores) > 1 and max(scores) - min(scores) <= DUST


def _golden_holes(scored: Sequence[Scored], golden: GoldenSet) -> list[Hole]:
    """Where the golden set's own rules are broken."""
    found = []
    low, high = golden.low - DUST, golden.high + DUST
    outside = [s for s in scored if s.score is not None and not low <= s.score <= high]
    if outside:
        says = f"it leaves its range, {golden.low:g} to {golden.high:g}"
        found.append(Hole("range", says, tuple(outside[:3])))
    silent = [s for s in scored if s.group == "right" and s.score is None and not s.failure]
    if silent:
        says = "it has no score for a right answer of its golden set"
        found.append(Hole("golden right", says, tuple(silent[:3])))
    for group in ("wrong", "exploit"):
        paid = _worst_first(s for s in scored if s.group == group and s.paid and not s.fools)
        if paid:
            earn = "earns" if len(paid) == 1 else "earn"
            says = f"{len(paid)} of the golden set's {group} completions {earn} as much as a right one"
            found.append(Hole(f"golden {group}", says, tuple(paid[:3])))
    return found


def _task_holes(scored: Sequence[Scored]) -> list[Hole]:
    """Kinds of completions that are paid like right ones."""
    compared = [s for s in scored if s.due is not None]
    if not compared:
        return []
    scores = [s.score for s in compared if s.score is not None]
    if _constant(scores):
        says = f"it is constant here: everything that was tried on this task earns {scores[0]:.3g}{_ANOTHER_FORM}"
        return [Hole("constant", says)]
    found = []
    wrong = [s for s in compared if s.group == "wrong" and s.source == "task"]
    kinds = {(s.row, s.kind) for s in wrong}  # each in several forms, of which the reward may like one
    blind = bool(kinds) and kinds == {(s.row, s.kind) for s in wrong if s.paid}
    if blind:
        says = (
            "it cannot tell right from wrong: a wrong answer in the form that it likes best earns as much as a right "
            "one. Beside a reward that can it may teach form; alone it teaches nothing else"
        )
        found.append(Hole("blind", says, tuple(_worst_first(s for s in wrong if s.paid)[:2])))
    for line in lines_of(compared):
        if line.group in ("right", "unknown") or (blind and line.group == "wrong"):
            continue
        mine = [s for s in compared if (s.group, s.kind) == (line.group, line.kind)]
        paid = _worst_first(s for s in mine if s.paid)
        luck = _LUCK[0] * len(mine) + _LUCK[1] if mine[0].by_chance else 0.0
        if len(paid) > luck:
            share = "all" if len(paid) == len(mine) else f"{len(paid) / len(mine):.0%} of"
            says = f"{line.kind}: {share} {len(mine)} earn as much as a right answer"
            found.append(Hole(line.kind, says, tuple(paid[:2])))
    return found


def _worst_first(scored: Iterable[Scored]) -> list[Scored]:
    return sorted(scored, key=lambda s: (s.due or 0.0) - (s.score or 0.0))
