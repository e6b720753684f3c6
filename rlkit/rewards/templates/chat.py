"""The chat template that a reasoning template gives to a base model."""

from __future__ import annotations

import json

# A message's content is text, a list of parts, or nothing.
_TEXT_OF = (
    "{% macro text_of(content) %}{% if content is string %}{{ content }}"
    "{% elif content %}{% for part in content %}{{ part['text'] }}{% endfor %}{% endif %}{% endmacro %}"
)


def chat_template(system_prompt: str, opening: str | None = None) -> str:
    r"""Return a Jinja chat template: the system message, then each turn under its role's name.

    `system_prompt` stands in for the system message of a conversation that has none. After what the assistant said
    comes the tokenizer's end token, where a model learns to stop::

        You are given a problem …\n\nUser:\n17+25=\n\nAssistant:\n<think>…</answer><eos>\n\n

    The generation prompt is ``Assistant:\n`` followed by `opening`, which is also supplied in front of what the
    assistant said wherever it is not there yet: a finished turn reads as the model read it when it answered.
    """
    supply = prefix = ""
    if opening is not None:
        prefix = "{{ " + _literal(opening) + " }}"
        supply = "{% if not said.startswith(" + _literal(opening) + ") %}" + prefix + "{% endif %}"
    return (
        _TEXT_OF
        + "{% if messages and messages[0]['role'] == 'system' %}{{ text_of(messages[0]['content']) }}"
        + "{% else %}{{ "
        + _literal(system_prompt)
        + " }}{% endif %}{{ '\\n\\n' }}"
        + "{% for message in messages %}{% set said = text_of(message['content']) %}"
        + "{% if message['role'] == 'assistant' %}{{ 'Assistant:\\n' }}"
        + supply
        + "{{ said }}{{ eos_token }}{{ '\\n\\n' }}"
        + "{% elif not (loop.first and message['role'] == 'system') %}"
        + "{{ message['role'] | capitalize }}{{ ':\\n' }}{{ said }}{{ '\\n\\n' }}"
        + "{% endif %}{% endfor %}"
        + "{% if add_generation_prompt %}{{ 'Assistant:\\n' }}"
        + prefix
        + "{% endif %}"
    )


def _literal(text: str) -> str:
    """`text` as a string in Jinja's syntax, whose escapes are Python's; so are those that JSON uses."""
    return json.dumps(text, ensure_ascii=False)
