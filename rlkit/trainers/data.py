"""Prompts in: check a data set before anything starts, and deal its rows out in a seeded order."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from rlkit.errors import ConfigError
from rlkit.given import described, how_to_make_rows, is_in_columns
from rlkit.rewards.signatures import GIVEN
from rlkit.rollout import Row, tokenize_prompts


def check_dataset(dataset: Any, name: str = "train_dataset") -> list[Row]:
    """The data set as a list of rows, each a dict with a ``prompt``.

    Takes a list of dicts or a ``datasets.Dataset``.

    Raises:
        ConfigError: no rows, no ``prompt`` column, an empty prompt, rows with different columns, or a column
            with the name of something that reward functions get anyway.
    """
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__") or is_in_columns(dataset):
        raise ConfigError(
            f"{name} must be a list of dicts or a datasets.Dataset with a 'prompt' column, not "
            f"{described(dataset)}. {how_to_make_rows(dataset)}".rstrip()
        )
    found_rows = [dataset[i] for i in range(len(dataset))]
    if not found_rows:
        raise ConfigError(f"{name} has no rows; was it filtered to nothing?")
    rows = [dict(row) if isinstance(row, Mapping) else row for row in found_rows]
    first = set(rows[0]) if isinstance(rows[0], dict) else None
    for i, row in enumerate(rows):
        if not isinstance(row, dict):
            raise ConfigError(
                f"row {i} of {name} is {described(row)}; every row must be a dict with a 'prompt': "
                '{"prompt": "17+25=", "answer": "42"}'
            )
        if "prompt" not in row:
            raise ConfigError(
                f"row {i} of {name} has no 'prompt' (found: {', '.join(map(str, row))}). Every row needs a 'prompt': a "
                'string or a list of chat messages [{"role": "user", "content": …}]. A data set made of questions and '
                'answers needs its question column renamed to "prompt"'
            )
        if set(row) != first:
            raise ConfigError(
                f"row {i} of {name} has the columns {sorted(row)}, row 0 has {sorted(first or ())}; reward functions "
                "need the same columns in every row"
            )
        _check_prompt(row["prompt"], f"row {i} of {name}")
    for column in GIVEN:  # a column of that name would take its place
        if column in rows[0]:
            raise ConfigError(
                f"{name} has a column {column!r}, but that is what reward functions get from the trainer. Rename the "
                "column"
            )
    return rows


def _check_prompt(prompt: Any, where: str) -> None:
    if isinstance(prompt, str):
        empty = not prompt.strip()
    elif isinstance(prompt, list) and all(
        isinstance(m, dict) and {"role", "content"} <= set(m) for m in prompt
    ):
        empty = not any(str(message["content"]).strip() for message in prompt)
    else:
        raise ConfigError(
            f"the prompt of {where} is {prompt!r}; allowed: a string, or a list of messages with 'role' and 'content'"
        )
    if empty:
        raise ConfigError(f"the prompt of {where} is empty; remove the row or fill it in")


def check_lengths(
    rows: Sequence[Row], tokenizer: Any, max_completion_length: int, longest: int | None, name: str
) -> int:
    """Tokens of the longest prompt.

    Raises:
        ConfigError: a prompt leaves no room for ``max_completion_length`` tokens within ``longest``, the
            model's context, has no tokens at all, or cannot be read by the tokenizer.
    """
    check_tokenizer(tokenizer)
    ids = []
    for i, row in enumerate(rows):
        try:
            _, (tokens,) = tokenize_prompts(tokenizer, [row["prompt"]])
        except Exception as error:  # whatever a chat template raises
            raise ConfigError(
                f"the tokenizer cannot read the prompt of row {i} of {name}, {row['prompt']!r}: "
                f"{type(error).__name__}: {error}. Chat templates differ in the roles, and their order, that they allow"
            ) from error
        ids.append(tokens)
        if not tokens:
            raise ConfigError(f"the prompt of row {i} of {name} has no tokens: {rows[i]['prompt']!r}")
        if longest is not None and len(tokens) + max_completion_length > longest:
            raise ConfigError(
                f"the prompt of row {i} of {name} has {len(tokens)} tokens; with max_completion_length="
                f"{max_completion_length} that exceeds the model's {longest}. Shorten or drop such prompts, lower "
                f"max_completion_length, or load the model with a longer max_seq_length"
            )
    return max(len(tokens) for tokens in ids)


def check_tokenizer(tokenizer: Any) -> None:
    """Refuse what is no tokenizer, or one that cannot pad.

    Raises:
        ConfigError: saying how to get one.
    """
    if not callable(tokenizer) or not hasattr(tokenizer, "decode"):
        found = "None" if tokenizer is None else f"a {type(tokenizer).__name__}"
        raise ConfigError(
            f"processing_class is {found}; it must be the model's tokenizer, the second thing that load_model returns: "
            "model, tokenizer = load_model(…). It may be left out only where model is a name"
        )
    if getattr(tokenizer, "pad_token_id", None) is None:
        raise ConfigError(
            "processing_class has no pad token. Load it with rlkit.load_model, which supplies one, or set "
            "tokenizer.pad_token = tokenizer.eos_token"
        )


class PromptOrder:
    """The order in which rows are dealt: each epoch a seeded permutation, no row twice within an epoch.

    Stateless but for ``position``, so that a cursor of one integer resumes it exactly.
    """

    def __init__(self, num_rows: int, seed: int, shuffle: bool) -> None:
        self.num_rows = num_rows
        self.seed = seed
        self.shuffle = shuffle
        self.position = 0

    @property
    def epoch(self) -> float:
        """Passes over the data so far."""
        return self.position / self.num_rows

    def take(self, count: int) -> list[int]:
        """The next ``count`` row numbers."""
        taken = [self._at(self.position + i) for i in range(count)]
        self.position += count
        return taken

    def _at(self, position: int) -> int:
        epoch, index = divmod(position, self.num_rows)
        return self._order(epoch)[index]

    def _order(self, epoch: int) -> list[int]:
        if getattr(self, "_cached", (None,))[0] != epoch:
            order = list(range(self.num_rows))
            if self.shuffle:
                random.Random(f"{self.seed}/{epoch}").shuffle(order)
            self._cached = (epoch, order)
        return self._cached[1]
