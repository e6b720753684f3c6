"""The card of a task: one page of Markdown that says what the problems are and how far to trust them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlkit.tasks.base import Task

OURS = "Apache-2.0"
"""The licence of what rlkit makes itself."""

LAST_NUMBER = (
    "the last number in the completion counts, compared with the answer as an exact decimal "
    "(`rewards.verify_number`)"
)
GUESSED = "The working is not looked at: a right number after wrong reasoning, or a lucky guess, is right."

_LONGEST = 160  # characters of an example in the table


def card(task: Task) -> str:
    """Return the card of `task` as Markdown, headings from the second level on."""
    example = next((row[0] for row in (task.rows("train", 1), task.rows("test", 1)) if row), {})
    seed = "" if task.seed is None else f"Seed {task.seed}. "
    parts = [f"## Task {task.name}"]
    parts += [_sentence(task.description)] if task.description else []
    parts += [
        "\n".join(["| split | rows |", "|---|---|", *(f"| {s} | {n} |" for s, n in task.sizes.items())]),
        f"{seed}Fingerprint `{task.fingerprint}`.",
        f"**Licence:** {task.licence or 'not stated'}. **Source:** {task.source or 'not stated'}.",
        "### Columns",
        "\n".join(
            [
                "| column | what | example |",
                "|---|---|---|",
                *(
                    f"| {_code(name)} | {_cell(task.columns.get(name, ''))} | {_code(_example(value))} |"
                    for name, value in example.items()
                ),
            ]
        ),
        "### How an answer is judged",
        _sentence(task.judging or _of(task.verifier)),
    ]
    if task.reward_funcs:
        parts += ["Rewards to start with: " + ", ".join(_code(_name(f)) for f in task.reward_funcs) + "."]
    for heading, lines in (("Known weaknesses", task.weaknesses), ("Notes", task.notes)):
        if lines:
            parts += [f"### {heading}", "\n".join(f"- {_sentence(line)}" for line in lines)]
    return "\n\n".join(parts) + "\n"


def _sentence(text: str) -> str:
    """The text with a capital letter and a full stop."""
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def _of(verifier: Any) -> str:
    """What a verifier says of itself."""
    if verifier is None:
        return "by rewards alone: there is no verifier"
    said = " ".join((getattr(verifier, "__doc__", None) or "").split())
    return said or "not described; see `task.verifier`"


def _name(reward: Any) -> str:
    return str(getattr(reward, "__name__", type(reward).__name__))


def _example(value: Any) -> str:
    """A value in a few words: of a chat its last message, of anything else its beginning."""
    if isinstance(value, list) and value and isinstance(value[-1], dict) and "content" in value[-1]:
        count = f"{len(value)} messages, the last: " if len(value) > 1 else ""
        return count + _example(value[-1]["content"])
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _cell(text: str) -> str:
    """Text in a cell of a table: a bar would end the cell."""
    return " ".join(text.split()).replace("|", "\\|")


def _code(text: str) -> str:
    """Text that is shown and not acted upon, in a cell of a table."""
    fence = "`"
    while fence in text:
        fence += "`"
    space = " " if fence != "`" else ""
    return f"{fence}{space}{_cell(text)}{space}{fence}"
