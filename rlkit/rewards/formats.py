"""Format rewards: whether a completion has the shape that was asked for, whatever it says inside.

The usual case is the reasoning format of R1-style training: the thoughts in one tag, the answer in the next.

    <reasoning>
    17+25: seven and five is twelve, write 2, carry 1 …
    </reasoning>
    <answer>
    42
    </answer>
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from rlkit.errors import bad_value
from rlkit.rewards.text import Completion, completion_text

RewardFunction = Callable[..., list[float | None]]

_TAG_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


def read_tags(text: str, tags: Sequence[str], strict: bool = False) -> dict[str, str] | None:
    """Return what stands inside each tag, stripped, or None where `text` is not in the format.

    In the format means: the blocks ``<tag>…</tag>`` in the order of `tags`, each exactly once and none of them
    blank, with nothing but white space around them. `strict` also fixes the white space: every opening and closing tag
    alone on its line, no blank line between the blocks, nothing before the first, at most one newline after the last.

    >>> read_tags("<reasoning>7+5=12</reasoning> <answer>42</answer>", ("reasoning", "answer"))
    {'reasoning': '7+5=12', 'answer': '42'}
    """
    if any(text.count(mark) != 1 for tag in tags for mark in (f"<{tag}>", f"</{tag}>")):
        return None
    contents: dict[str, str] = {}
    rest = text
    for number, tag in enumerate(tags):
        before, _, rest = rest.partition(f"<{tag}>")
        content, _, rest = rest.partition(f"</{tag}>")
        # A tag out of order leaves the marks of another in `before` or `content`, or nothing in `content`.
        if before.strip() or not content.strip() or any(f"<{other}>" in content for other in tags):
            return None
        own_lines = content.startswith("\n") and content.endswith("\n") and len(content) >= 3
        if strict and (before != ("\n" if number else "") or not own_lines):
            return None
        contents[tag] = content.strip()
    if rest.strip() or (strict and rest not in ("", "\n")):
        return None
    return contents


def xml_format(
    tags: Sequence[str] = ("reasoning", "answer"),
    right: float = 1.0,
    wrong: float = 0.0,
    strict: bool = False,
) -> RewardFunction:
    """Return a reward function that pays `right` for a completion in the format of `tags` and `wrong` otherwise.

    The format is `read_tags`'s: each block once, in order, not blank, nothing around them; `strict` fixes the line
    breaks too. Only the shape counts: it earns the same with a wrong answer inside.

    Raises `ConfigError` for a list of tags that is empty, repeats one or holds something that is no tag name.

    >>> reward = xml_format(("think", "answer"), right=0.5)
    >>> reward.__name__, reward([""], ["<think>7+5=12</think><answer>42</answer>"])
    ('xml_format_think_answer', [0.5])
    """
    names = (tags,) if isinstance(tags, str) else tuple(tags)
    if not names or len(set(names)) != len(names):
        raise bad_value("tags", tags, "at least one tag name, each once")
    for name in names:
        if not isinstance(name, str) or not _TAG_NAME.fullmatch(name):
            cause = "Write the name alone, without angle brackets."
            raise bad_value("tags", tags, "names of letters, digits, '_' and '-', such as 'reasoning'", cause)

    def reward(
        prompts: Sequence[Any], completions: Sequence[Completion], **columns: Any
    ) -> list[float | None]:
        found = (read_tags(completion_text(completion), names, strict) for completion in completions)
        return [float(wrong) if tag_contents is None else float(right) for tag_contents in found]

    reward.__name__ = "_".join(["xml_format", *(["strict"] if strict else []), *names])
    reward.__qualname__ = reward.__name__
    shape = " ".join(f"<{name}>…</{name}>" for name in names)
    reward.__doc__ = (
        f"Reward {right:g} for {shape}{' on lines of their own' if strict else ''}, else {wrong:g}."
    )
    return reward
