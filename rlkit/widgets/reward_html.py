"""What the reward inspector shows, as HTML: a completion with its marks, the parts, golden sets, a task's means."""

from __future__ import annotations

from collections.abc import Sequence

from rlkit.rewards.audits.report import Audit, Hole
from rlkit.runs.evidence import number, percent
from rlkit.widgets.look import LITERAL, SERIES, callout, empty, escaped, model_text, signed_bar, table
from rlkit.widgets.models.reward import Inspection, PartScore, Piece, pieces
from rlkit.widgets.models.reward_audits import GoldenResult, GroupMean

LONGEST = 20_000  # characters of a completion that are shown
_EXCERPTS, _EXCERPT = 4, 40  # places that a part's line quotes, and characters of each


def key(i: int) -> str:
    """A part's number with its colour."""
    return f'<span class="key h{i % SERIES}">{i + 1}</span>'


def marked(found: Inspection) -> str:
    """The completion with the places underlined where parts looked; each place ends in their numbers."""
    text = found.text[:LONGEST]
    if not text.strip():
        return empty(
            "The completion is empty, or nothing but white space. Type one above, or take one from “try”."
        )
    spans = [None if p.spans is None else [(a, b) for a, b in p.spans if b <= LONGEST] for p in found.parts]
    shown = "".join(_piece(piece, [p.name for p in found.parts]) for piece in pieces(text, spans))
    more = len(found.text) - LONGEST
    rest = (
        f'<p class="soft">… and {more:,} more characters, which count and are not shown.</p>'
        if more > 0
        else ""
    )
    return f'<div class="text boxed {LITERAL}" dir="auto">{shown}</div>{rest}'


def _piece(piece: Piece, names: Sequence[str]) -> str:
    text = escaped(piece.text, LONGEST)
    if not piece.parts:
        return text
    title = escaped("looked at by " + ", ".join(names[i] for i in piece.parts), 300)
    ends = f"<sup><i>[</i>{' '.join(str(i + 1) for i in piece.ends)}<i>]</i></sup>" if piece.ends else ""
    return f'<mark class="h{piece.parts[0] % SERIES}" title="{title}">{text}{ends}</mark>'


def verdict(found: Inspection) -> str:
    """The total, what it could be, and the task's verdict."""
    total = "nobody scored it" if found.total is None else f"<b>{escaped(number(found.total))}</b>"
    span = found.span
    reach = "" if span is None else f" <span class='soft'>from {number(span[0])} to {number(span[1])}</span>"
    right = {
        True: ' · verifier: <b class="good">✓ right</b>',
        False: ' · verifier: <b class="bad">✗ wrong</b>',
        None: "",
    }[found.right]
    return f"<p>Total reward: {total}{reach}{right}</p>"


def parts_table(found: Inspection) -> str:
    """One line a part: what it gives, its weight, what counts, where it looked."""
    most = max((abs(p.counts) for p in found.parts if p.counts is not None), default=0.0)
    rows = [_part_row(i, part, most, found.text) for i, part in enumerate(found.parts)]
    total = "–" if found.total is None else number(found.total)
    rows.append(["", "<b>Total</b>", "", "", f"<b>{escaped(total)}</b>", ""])
    head = ("", "part", "gives", "× weight", "= counts", "where it looked")
    failed = "".join(
        callout(
            "problem", f"{part.name} failed.", f"It {part.failure} for the completion {found.text!r:.300}"
        )
        for part in found.failures
    )
    tokens = found.guessed_tokens
    guess = f"A part counts tokens; without a tokenizer {tokens} are assumed, a quarter of the characters."
    guess = "" if tokens is None else f'<p class="soft">{guess}</p>'
    return f'{failed}<div class="wide">{table(head, rows, (2, 3, 4), stack=True)}</div>{guess}'


def _part_row(i: int, part: PartScore, most: float, text: str) -> list[str]:
    name = f"<b>{escaped(part.name, 80)}</b>"
    if part.verdict is not None:
        name += ' <span class="good">✓ right</span>' if part.verdict else ' <span class="bad">✗ wrong</span>'
    weight = escaped(number(part.weight))
    if part.state == "missing":
        told = f'<span class="bad">not called: it needs the column {escaped(", ".join(part.missing), 200)}</span>'
        return [key(i), name, "–", weight, "–", told]
    if part.state == "failed":
        return [key(i), name, '<span class="bad">✗ failed</span>', weight, "–", escaped(part.failure, 200)]
    if part.score is None or part.counts is None:
        return [
            key(i),
            name,
            "None",
            weight,
            "–",
            '<span class="soft">has nothing to say about this one</span>',
        ]
    bar = signed_bar(part.counts, most, i)
    return [
        key(i),
        name,
        escaped(number(part.score)),
        weight,
        f'{bar} <span class="num">{escaped(number(part.counts))}</span>',
        _places(part, text),
    ]


def _places(part: PartScore, text: str) -> str:
    if part.spans is None:
        told = part.looks_at or "does not say where: it has no spans of its own"
        return f'<span class="soft">{escaped(told, 200)}</span>'
    if not part.spans:
        return '<span class="soft">found nothing</span>'
    quoted = [model_text(text[a:b], _EXCERPT, inline=True) for a, b in part.spans[:_EXCERPTS]]
    more = len(part.spans) - _EXCERPTS
    return " · ".join(quoted) + (f" and {more} more" if more > 0 else "")


# --- many completions ------------------------------------------------------------------------------------------------


def golden_html(results: Sequence[GoldenResult]) -> str:
    """Each part's golden and exploit set: means of right, wrong and exploits, and what was found, in words."""
    rows = []
    for i, (name, audit) in enumerate(results):
        if audit is None:
            told = '<span class="soft">has no golden set of its own: nothing to try it with</span>'
            rows.append([key(i), f"<b>{escaped(name, 80)}</b>", "–", "–", "–", told])
            continue
        groups = {g: [s.score for s in audit.scored if s.group == g and s.score is not None] for g in _GROUPS}
        means = [f"{number(sum(v) / len(v))} ({len(v)})" if v else "–" for v in groups.values()]
        rows.append([key(i), f"<b>{escaped(name, 80)}</b>", *means, _finding(audit)])
    head = ("", "part", "right", "wrong", "exploits", "what was found")
    caption = "Golden and exploit sets: mean score before the weight, and of how many completions."
    found = table(head, rows, (2, 3, 4), caption, stack=True)
    return f'<h4>Golden and exploit sets</h4><div class="wide">{found}</div>'


_GROUPS = ("right", "wrong", "exploit")


def _finding(audit: Audit) -> str:
    known = sum(s.fools and s.paid for s in audit.scored)
    said = f" It pays for {known} known exploit{'s' * (known > 1)}, as its description says." if known else ""
    if audit.ok:
        return f'<span class="good">✓ no hole</span> in {len(audit.scored)} completions.{escaped(said)}'
    return holes_html(audit.holes) + escaped(said)


def holes_html(holes: Sequence[Hole]) -> str:
    """What is wrong, in words, each with a completion that shows it."""
    lines = []
    for hole in holes:
        such = (
            f' <span class="soft">Such as {model_text(hole.examples[0], 220, inline=True)}</span>'
            if hole.examples
            else ""
        )
        lines.append(f'<li><span class="bad">✗</span> {escaped(hole.says, 400)}.{such}</li>')
    return f"<ul>{''.join(lines)}</ul>"


def task_html(audit: Audit, groups: Sequence[GroupMean], names: Sequence[str]) -> str:
    """A task's answers, right ones, wrong ones and exploits: the mean of each part, and the holes."""
    rows = [
        [
            escaped(group.group),
            f"{group.completions:,}",
            *("–" if mean is None else escaped(number(mean)) for mean in group.parts),
            "–" if group.total is None else f"<b>{escaped(number(group.total))}</b>",
            "–" if group.paid is None else percent(group.paid),
        ]
        for group in groups
    ]
    head = ("", "completions", *(name[:40] for name in names), "total", "paid as right")
    caption = "Mean of each part before its weight; the total with weights. Paid as right: earns what a right one does."
    found = holes_html(audit.holes) if audit.holes else '<p><span class="good">✓ no hole found</span></p>'
    notes = "".join(f'<p class="soft">{escaped(note)}</p>' for note in audit.notes)
    title = f"<h4>Scored: {escaped(audit.about)}</h4>"
    return title + table(head, rows, range(1, len(head)), caption, stack=True) + found + notes
