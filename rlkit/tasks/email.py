"""Answering e-mails: 64 inbound messages, what a reply must say, and an ideal one for each.

    late parcels, broken lamps, a beagle full of chocolate, leave, invoices, drums at midnight …   →   a reply

The messages are written for rlkit, on sixteen subjects with four messages each; twelve subjects are trained on and
four are tested (lost property, evening classes, subscriptions, a restaurant), so that nothing of a test message was
seen. People, firms and numbers are made up: telephone numbers are of the ranges that Ofcom keeps for drama (020 7946
0xxx, 01632 960xxx), mail domains end in ``.example``.

The guide's e-mail example is the reward: `rewards.email_rubric`.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from rlkit.errors import bad_value
from rlkit.rewards.rubrics.email import email_handled, email_rubric
from rlkit.tasks.base import Task
from rlkit.tasks.card import OURS

FOLDER = Path(__file__).parent.parent / "assets" / "tasks"

SYSTEM_PROMPT = (
    "You answer e-mails for {desk}. Sign with exactly these lines:\n{signature}\n\nWrite the reply and nothing else: "
    "greet the sender by name, use the notes, stay friendly and below {max_words} words, and end with the signature."
)

_RUBRIC = email_rubric()  # one for all, so that two equal tasks compare as equal


@lru_cache(maxsize=1)
def _messages() -> tuple[dict[str, Any], ...]:
    """All messages, each with what holds for its subject."""
    scenarios = {
        entry["scenario"]: entry
        for entry in json.loads((FOLDER / "email_scenarios.json").read_text(encoding="utf-8"))
    }
    lines = (FOLDER / "email.jsonl").read_text(encoding="utf-8").splitlines()
    return tuple({**scenarios[entry["scenario"]], **entry} for entry in map(json.loads, lines))


def email(chat: bool = True) -> Task:
    """Return 48 messages to train with and 16 to test with, on other subjects; always the same ones.

    Columns: `prompt` (a system prompt with the signature, then the message with notes for the reply; one text with
    ``chat=False``), `recipient` (who wrote, and is to be greeted), `keywords` (what the reply must say; "|" stands
    between alternatives), `ideal` (a reply that passes all checks), `max_words`, `signature`, `message` (what the
    user's turn says) and `scenario` (the subject). The verifier wants all keywords, the greeting, the signature and
    no more than `max_words` words; it does not want the ideal reply. It cannot see a denial, nor whether the rest of
    a reply is true.

    For a warm start: ``demonstrations(task.train, "ideal")``.

    Raises `ConfigError` where `chat` is no truth value.
    """
    if not isinstance(chat, bool):
        raise bad_value("chat", chat, "True for lists of messages, False for plain text")
    rows: dict[str, list[dict[str, Any]]] = {"train": [], "test": []}
    for entry in _messages():
        rows[entry["split"]].append(_row(entry, chat))
    return Task(
        name="email",
        train=rows["train"],
        test=rows["test"],
        verifier=email_handled,
        reward_funcs=_RUBRIC,
        description="inbound messages with notes for the reply; the test side is on subjects of its own",
        licence=OURS,
        source="written for rlkit; people, firms and numbers are made up",
        columns={
            "prompt": "the signature, the message, notes for the reply",
            "recipient": "who wrote, and is to be greeted",
            "keywords": 'what the reply must say; "|" stands between alternatives',
            "ideal": "a reply that passes all checks",
            "max_words": "how long a reply may be",
            "signature": "the lines that a reply must end with",
            "message": "the message and the notes, without the signature",
            "scenario": "the subject",
        },
        judging="all keywords, the greeting, the signature, and no more than max_words words",
        weaknesses=(
            "A denial of what must be said counts as saying it; whether the rest is true, nobody looks.",
        ),
    )


def _row(entry: dict[str, Any], chat: bool) -> dict[str, Any]:
    """One message as a row."""
    system = SYSTEM_PROMPT.format(**{key: entry[key] for key in ("desk", "signature", "max_words")})
    message = (
        f"From: {entry['recipient']}\nSubject: {entry['subject']}\n\n{entry['message']}\n\n"
        f"Notes for the reply: {entry['notes']}"
    )
    prompt: Any = f"{system}\n\n{message}\n\nReply:\n"
    if chat:
        prompt = [{"role": "system", "content": system}, {"role": "user", "content": message}]
    return {
        "prompt": prompt,
        "recipient": entry["recipient"],
        "keywords": list(entry["keywords"]),
        "ideal": f"{entry['greeting']}\n\n{entry['reply']}\n\n{entry['closing']}\n{entry['signature']}",
        "max_words": entry["max_words"],
        "signature": entry["signature"],
        "message": message,
        "scenario": entry["scenario"],
    }
