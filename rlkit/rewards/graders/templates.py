"""The ``{{ … }}`` of reinforcement fine-tuning's graders: what of the sample and of the data set's row they stand for.

{{ sample.output_text }}            what the model said
{{ sample.output_json.answer }}     what it said, read as JSON
{{ item.reference_answer }}         the row's column; item.prompt is the question
{{ item.facts[0].name }}            further in, by dots and brackets
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlkit.errors import ConfigError, RewardError, bad_value, unknown_name
from rlkit.rewards.judge.prompt import prompt_text
from rlkit.rewards.text import Completion, completion_text

NAMESPACES = ("sample", "item")
SAMPLE = ("output_text", "output_json", "output_tools", "choices")

_PATH = re.compile(r"[A-Za-z_]\w*(?:\.\w+|\[\d+\]|\['[^']*'\]|\[\"[^\"]*\"\])+")
_STEP = re.compile(r"\.?([A-Za-z_0-9]\w*)|\[(\d+)\]|\['([^']*)'\]|\[\"([^\"]*)\"\]")


class NotInSample(Exception):
    """The completion does not hold what a template asks of it: it is no JSON, or lacks the key."""


@dataclass(frozen=True)
class Template:
    """A text with places to fill in.

    Attributes:
        parts: plain texts, and paths as tuples of keys, namespace first.
        columns: the columns of the data set that it needs.
    """

    parts: tuple[str | tuple[str | int, ...], ...]

    @property
    def columns(self) -> tuple[str, ...]:
        paths = [part for part in self.parts if isinstance(part, tuple) and part[0] == "item"]
        return tuple(dict.fromkeys(str(path[1]) for path in paths))

    def fill(
        self,
        sample: Mapping[str, Any],
        item: Mapping[str, Any],
        change: Callable[[str], str] = lambda text: text,
    ) -> str:
        """Return the text with every place filled in; `change` is applied to what is filled in.

        Raises `NotInSample` where the completion lacks something, and `RewardError` where the row does.
        """
        filled = []
        for part in self.parts:
            if isinstance(part, str):
                filled.append(part)
            else:
                filled.append(change(_text(_look_up(part, sample if part[0] == "sample" else item))))
        return "".join(filled)


def parse(text: Any, where: str) -> Template:
    """Read a template; `where` names the setting in messages. Raises `ConfigError` for a path that leads nowhere.

    >>> parse("It is {{ item.answer }}.", "reference").parts
    ('It is ', ('item', 'answer'), '.')
    """
    if not isinstance(text, str):
        raise bad_value(where, text, "text, with places such as {{ sample.output_text }}")
    parts: list[str | tuple[str | int, ...]] = []
    rest = text
    while True:
        before, opened, rest = rest.partition("{{")
        if before:
            parts.append(before)
        if not opened:
            return Template(tuple(parts))
        inside, closed, rest = rest.partition("}}")
        if not closed:
            raise bad_value(where, text, "as many }} as {{")
        parts.append(_path(inside.strip(), where))


def _path(written: str, where: str) -> tuple[str | int, ...]:
    if not _PATH.fullmatch(written):
        allowed = "paths such as {{ item.answer }} or {{ sample.output_json.steps[0] }}"
        raise bad_value(where, "{{ " + written + " }}", allowed)
    path: list[str | int] = []
    for name, index, single, double in _STEP.findall(written):
        path.append(int(index) if index else name or single or double)
    if path[0] not in NAMESPACES:
        raise unknown_name(f"namespace in {where}:", path[0], NAMESPACES)
    if path[0] == "sample" and path[1] not in SAMPLE:
        raise unknown_name(f"variable of sample in {where}:", path[1], SAMPLE)
    if isinstance(path[1], int):
        raise ConfigError(f"{where}: {path[0]} has names, not numbers; found {{{{ {written} }}}}")
    return tuple(path)


def _look_up(path: Sequence[str | int], space: Mapping[str, Any]) -> Any:
    value: Any = space
    for step in path[1:]:
        try:
            if isinstance(value, Mapping):
                value = value[step] if step in value else value[str(step)]
            elif isinstance(value, Sequence) and not isinstance(value, str):
                value = value[int(step)]
            else:
                raise KeyError(step)
        except (KeyError, IndexError, ValueError):
            written = ".".join(str(step) for step in path)
            if path[0] == "sample":
                raise NotInSample(written) from None
            known = ", ".join(str(name) for name in space) or "none"
            raise RewardError(f"{{{{ {written} }}}} is not in the row; its columns: {known}") from None
    return value


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, ensure_ascii=False, default=str)


def sample_of(completion: Completion) -> dict[str, Any]:
    """Return the namespace `sample` of one completion.

    `output_json` is None unless the text is JSON; `output_tools` are the tool calls of a message list, else empty.
    """
    text = completion_text(completion)
    try:
        as_json = json.loads(text)
    except (ValueError, RecursionError):
        as_json = None
    tools: Any = []
    if not isinstance(completion, str):
        calls = [message.get("tool_calls") for message in completion if isinstance(message, Mapping)]
        tools = [call for some in calls if isinstance(some, Sequence) for call in some]
    message = {"role": "assistant", "content": text}
    return {
        "output_text": text,
        "output_json": as_json,
        "output_tools": tools,
        "choices": [{"index": 0, "message": message}],
    }


def item_of(columns: Mapping[str, Any], i: int, prompt: Any = None) -> dict[str, Any]:
    """Return the namespace `item` of the i-th completion: its row's columns, and the prompt as text."""
    row = {
        name: values[i]
        for name, values in columns.items()
        if isinstance(values, Sequence) and not isinstance(values, str) and len(values) > i
    }
    return row if prompt is None else {"prompt": prompt_text(prompt), **row}
