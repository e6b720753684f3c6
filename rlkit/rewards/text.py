"""What a reward function reads: the text of a completion.

A data set with plain prompts yields completions as strings; a data set with chat prompts yields each completion
as a list of messages. `completion_text` turns both into one string, so that a reward function is written once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from rlkit.errors import RewardError

Completion: TypeAlias = "str | Sequence[Mapping[str, Any]]"
"""One completion: a string, or messages such as ``[{"role": "assistant", "content": "42"}]``."""


def completion_text(completion: Completion) -> str:
    """Return the text of one completion, whichever form the data set gave it.

    A string is returned as it is. Of a message list the *last assistant* message counts (with tools a
    completion has several); its content may be a string, ``None`` (a bare tool call: empty text) or a list of
    parts, of which the text parts are joined.

    Raises `RewardError` for anything else, because then a reward function was called with the wrong thing.

    >>> completion_text("42"), completion_text([{"role": "assistant", "content": "42"}])
    ('42', '42')
    """
    if isinstance(completion, str):
        return completion
    if isinstance(completion, list | tuple) and all(isinstance(message, Mapping) for message in completion):
        said = [message for message in completion if message.get("role", "assistant") == "assistant"]
        return _content_text(said[-1].get("content")) if said else ""
    raise RewardError(
        f"a completion must be a string or a list of messages; found {type(completion).__name__} "
        f"({completion!r:.80}). Reward functions take lists: f(prompts=[...], completions=[...])."
    )


def _content_text(content: Any) -> str:
    """Return a message's content as one string: text as it is, the text parts of a list joined, nothing as ''."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence):
        parts = (part if isinstance(part, str) else part.get("text") for part in content if part)
        return "".join(part for part in parts if isinstance(part, str))
    raise RewardError(f"a message's content must be text or a list of parts; found {type(content).__name__}.")
