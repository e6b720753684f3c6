"""Completions as HTML: a sheet in a few numbers, a line of a list, one that is opened."""

from __future__ import annotations

import math
import re

from rlkit.runs.evidence import number, percent, shown
from rlkit.widgets.look import LITERAL, empty, escaped, facts, model_text, signed_bar
from rlkit.widgets.models.samples import Listed, Sheet

_SHARES = ("right", "cut off")  # of a sheet's summary: as percentages
_TAIL = 60  # characters of a prompt's end in a list
_MARK = re.compile(r"<\|[^<>|]{1,40}\|>(?:(?:system|user|assistant)\b)?\s*")


def index(x: int | None) -> str:
    """A count or a place."""
    return "?" if x is None else str(x)


def value(x: float | None) -> str:
    """A reward or an advantage."""
    return "none" if x is None else number(x)


def end(row: Listed) -> str:
    said = {"stop": "ended (stop)", "length": "✂ cut off (length)"}
    return said.get(row.finish_reason or "", shown(row.finish_reason or "unknown", 40))


def right(row: Listed) -> str:
    return {True: "✓ right", False: "✗ wrong", None: "not judged"}[row.correct]


def summary_html(sheet: Sheet) -> str:
    """The run, the step, and all its completions in a few numbers."""
    pairs = [
        (name, percent(x) if name in _SHARES else f"{x:,}" if isinstance(x, int) else number(x))
        for name, x in sheet.summary.items()
    ]
    kept = f' <span class="soft">{escaped(sheet.kept)}</span>' if sheet.kept else ""
    return f'<p class="sheet"><b>{escaped(shown(str(sheet), 120))}</b>{kept}</p>{facts(pairs)}'


def row_html(row: Listed, order: str, most: float) -> str:
    """One completion in the list; ``most``: the largest advantage on either side, which fills a bar."""
    name = order.removeprefix("reward: ")
    cells = [_cell("reward", value(row.reward))]
    if row.advantage is not None:  # an evaluation has none
        cells.append(_cell("advantage", value(row.advantage), _bar(row, most)))
    if name != order:
        cells.insert(0, _cell(shown(name, 60), value(row.rewards.get(name))))
    cells += [_cell("tokens", index(row.length)), _cell("", end(row)), _cell("", right(row))]
    asked = preview(row.prompt)
    prompt, completion = (text.replace("\n", "↵") for text in (asked[-_TAIL:], row.completion[:200]))
    cut = "…" if len(asked) > _TAIL else ""
    answer = model_text(completion or "(nothing)", 200, inline=True)
    return (
        f"<div class='cells'><div class='snippet'>"
        f"<div class='q'>{model_text(cut + prompt, _TAIL + 1, inline=True)}</div>"
        f"<div class='a'><span class='soft' aria-label='was answered'>→</span> {answer}"
        f"{'…' if len(row.completion) > 200 else ''}</div></div>"
        f"<div class='numbers {LITERAL}'>{''.join(cells)}</div></div>"
    )


def preview(prompt: str) -> str:
    """What a prompt's end says: without a chat template's marks (``<|im_start|>user`` and the like)."""
    end = prompt[-2000:]
    return re.sub(" {2,}", " ", _MARK.sub(" ", end)).strip() or end.strip()


def _cell(label: str, said: str, after: str = "") -> str:
    """A number of a row, its label before it; those of all rows stand below each other."""
    name = f"{escaped(label)} " if label else ""
    return f"<span class='cell'>{name}<b>{escaped(said)}</b>{after}</span>"


def _bar(row: Listed, most: float) -> str:
    a = row.advantage
    return "" if a is None or not math.isfinite(a) or not most else signed_bar(a, most, 1 if a < 0 else 0)


def opened_html(sheet: Sheet, row: Listed, data_row: str) -> str:
    """An opened completion above its tokens."""
    pairs = [
        ("total reward", value(row.reward)),
        *((f"reward {shown(name, 60)}", value(x)) for name, x in row.rewards.items()),
        ("advantage", value(row.advantage)),
        ("tokens", index(row.length)),
        ("", end(row)),
        ("", right(row)),
    ]
    title = f"Completion {index(row.completion_index)} of prompt {index(row.prompt_index)}, {sheet.place}"
    data = (
        f"<details><summary>the data set's row</summary>{model_text(data_row, 4000)}</details>"
        if data_row
        else ""
    )
    return (
        f"<h4>{escaped(title)}</h4>{facts(pairs)}<div class='said'>"
        f"<p class='soft'>prompt</p>{model_text(row.prompt, 8000)}"
        f"<p class='soft'>completion</p>{model_text(row.completion or '(nothing)', 20_000)}{data}</div>"
    )


def none_opened(why: str = "Press a number in the list to open a completion token by token.") -> str:
    """What stands where a completion will."""
    return empty(why)
