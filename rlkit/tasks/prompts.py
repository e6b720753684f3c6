"""How a question becomes a prompt, and the checks of settings that tasks have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rlkit.errors import bad_value

Messages = list[dict[str, str]]


def as_prompt(
    question: str,
    chat: bool,
    system_prompt: str | None = None,
    shots: Sequence[tuple[str, str]] = (),
) -> str | Messages:
    """Return the prompt of one question, as messages or as one text that ends where the answer begins.

    `shots` are worked examples, (question, answer), that come before it.

    >>> as_prompt("How many?", chat=False)
    'Question: How many?\\nAnswer:'
    """
    turns = [*shots, (question, "")]
    if not chat:
        parts = [f"Question: {asked}\nAnswer: {answer}".strip() for asked, answer in turns]
        return "\n\n".join([system_prompt, *parts] if system_prompt else parts)
    messages = [{"role": "system", "content": system_prompt}] if system_prompt else []
    for asked, answer in turns:
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
    return messages[:-1]


def check_whole(name: str, value: Any, low: int, high: int, cause: str = "") -> None:
    """Refuse what is no whole number from `low` to `high`."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise bad_value(name, value, f"a whole number from {low} to {high}", cause)


def check_wording(seed: Any, system_prompt: Any) -> None:
    """Refuse a seed that is no whole number, and a system prompt that is neither text nor None."""
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise bad_value("seed", seed, "a whole number")
    if system_prompt is not None and (not isinstance(system_prompt, str) or not system_prompt.strip()):
        raise bad_value("system_prompt", system_prompt, "text, or None for none")
