"""A model's own answers, as those are asked for their opinion who prefer one to another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rlkit.engines.base import Sampling
from rlkit.engines.hf import HFEngine
from rlkit.errors import bad_value
from rlkit.rollout import Row, tokenize_prompts

_AT_ONCE = 256  # answers whose key/value cache is held


def sampled_answers(
    model: Any,
    tokenizer: Any,
    rows: Sequence[Row],
    num_generations: int = 4,
    *,
    max_completion_length: int = 256,
    temperature: float = 1.0,
    seed: int = 0,
    at_once: int = _AT_ONCE,
) -> list[Row]:
    """``{"prompt": …, "completions": […]}`` for each row, as ``SyntheticRater`` and ``Questions`` read them.

    Args:
        rows: each with a ``prompt``: a text, whose answers are texts, or messages, whose answers are messages.
        num_generations: answers to each.
        max_completion_length: tokens of an answer at most.
        seed: same seed, same answers.
        at_once: answers that are sampled together; fewer take less memory.

    Raises:
        ConfigError: no rows, or fewer than one answer each.
    """
    if num_generations < 1:
        raise bad_value("num_generations", num_generations, "a whole number, 1 or more")
    if not len(rows):
        raise bad_value("rows", "no rows", "at least one row with a prompt")
    asked = [row["prompt"] for row in rows]
    _, ids = tokenize_prompts(tokenizer, asked)
    engine, size = HFEngine(model, tokenizer), max(1, at_once // num_generations)
    said: list[str] = []
    for start in range(0, len(asked), size):
        sampling = Sampling(
            n=num_generations,
            max_tokens=max_completion_length,
            temperature=temperature,
            seed=(seed * 1_000_003 + start) % 2**31,
        )
        said += [completion.text for completion in engine.generate(ids[start : start + size], sampling)]
    groups = [said[i : i + num_generations] for i in range(0, len(said), num_generations)]
    return [
        {
            "prompt": prompt,
            "completions": group
            if isinstance(prompt, str)
            else [[{"role": "assistant", "content": text}] for text in group],
        }
        for prompt, group in zip(asked, groups, strict=True)
    ]
