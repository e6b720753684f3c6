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
from rlkit.rewards.blocks import read_blocks
from rlkit.rewards.golden import Example, GoldenSet
from rlkit.rewards.signatures import RewardFunction
from rlkit.rewards.spans import Spans, marker_spans
from rlkit.rewards.text import Completion, completion_text

_TAG_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


def read_tags(text: str, tags: Sequence[str], strict: bool = False) -> dict[str, str] | None:
    """Return what stands inside each tag, stripped, or None where `text` is not in the format.

    In the format means: the blocks ``<tag>…</tag>`` in the order of `tags`, each exactly once and none of them
    blank, with nothing but white space around them. `strict` also fixes the white space: every opening and closing tag
    alone on its line, no blank line between the blocks, nothing before the first, at most one newline after the last.

    >>> read_tags("<reasoning>7+5=12</reasoning> <answer>42</answer>", ("reasoning", "answer"))
    {'reasoning': '7+5=12', 'answer': '42'}
    """
    found = read_blocks(text, [(f"<{tag}>", f"</{tag}>") for tag in tags], strict)
    return None if found is None else dict(zip(tags, found, strict=True))


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

    def tag_spans(completion: Completion, **columns: Any) -> Spans:
        return marker_spans(
            completion_text(completion), [f"<{e}{name}>" for name in names for e in ("", "/")]
        )

    reward.spans = tag_spans  # type: ignore[attr-defined]
    reward.__name__ = "_".join(["xml_format", *(["strict"] if strict else []), *names])
    reward.__qualname__ = reward.__name__
    reward.score_range = (float(min(right, wrong)), float(max(right, wrong)))  # type: ignore[attr-defined]
    shape = " ".join(f"<{name}>…</{name}>" for name in names)
    reward.__doc__ = (
        f"Reward {right:g} for {shape}{' on lines of their own' if strict else ''}, else {wrong:g}."
    )
    return reward


FACTORIES: dict[str, Callable[..., RewardFunction]] = {"xml_format": xml_format}

_SHAPE = "<reasoning>\n7+5=12\n</reasoning>\n<answer>\n42\n</answer>\n"

GOLDEN: dict[str, GoldenSet] = {
    "xml_format": GoldenSet(
        right=(
            Example(_SHAPE),
            Example(_SHAPE.rstrip("\n")),
            Example("\n\n" + _SHAPE),
            Example("<reasoning>7+5=12</reasoning> <answer>42</answer>"),
            Example("<reasoning>7 < 12 and 12 > 7</reasoning><answer>forty-two</answer>"),
        ),
        wrong=(
            Example("42"),
            Example("The answer is 42."),
            Example("<answer>42</answer>"),
            Example(_SHAPE + "Have a nice day!"),
            Example(_SHAPE.replace("</answer>", "")),
            Example("<answer>42</answer><reasoning>7+5=12</reasoning>"),
            Example(_SHAPE.replace("reasoning", "Reasoning")),
        ),
        exploits=(
            Example("", note="empty"),
            Example(
                "Use <reasoning> and <answer>.",
                note="prompt repeated",
                prompt="Use <reasoning> and <answer>.",
            ),
            Example("<reasoning></reasoning><answer></answer>", note="the tags alone"),
            Example("<reasoning> \n </reasoning><answer>\n</answer>", note="the tags around white space"),
            Example("<reasoning></reasoning><answer></answer>" * 200, note="marker spam"),
            Example(_SHAPE * 2, note="two answers"),
            Example("<reasoning>x</reasoning><answer>42</answer><answer>43</answer>", note="injected tags"),
            Example("<reasoning>x<answer>42</answer></reasoning>", note="right answer in the wrong place"),
            Example("<reasoning>" + "so " * 5000, note="huge output"),
            Example("＜reasoning＞x＜/reasoning＞＜answer＞42＜/answer＞", note="unicode brackets"),
            Example("<reasoning>.</reasoning><answer>.</answer>", note="next to nothing inside", fools=True),
        ),
    ),
}
"""Each reward's golden set; a factory's is for its default settings."""
