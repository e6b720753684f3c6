"""What one token, and a whole completion, weighs in the loss under each loss type, for the lengths at hand."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from rlkit.errors import ConfigError, bad_value
from rlkit.objectives.names import LOSS_TYPES
from rlkit.objectives.normalisers import apply_truncation_mask, token_weights
from rlkit.runs.evidence import number, percent

MOST_COMPLETIONS = 64
LONGEST = 65_536  # tokens

IN_WORDS = {
    "grpo": "each completion weighs the same: a token of a long one counts for less",
    "gspo": "weights as in GRPO; what differs is the ratio, one a completion instead of one a token",
    "bnpo": "each token weighs the same",
    "dapo": "each token weighs the same",
    "dr_grpo": "each token weighs the same, by a constant: the longest completion allowed",
}

PRESETS: dict[str, tuple[tuple[int, ...], int]] = {
    "a short and a long one": ((10, 100), 128),
    "right ones short, wrong ones long": ((40, 44, 52, 60, 190, 230, 240, 256), 256),
    "all of a length": ((64, 64, 64, 64), 128),
    "one that never stops": ((12, 15, 14, 512), 512),
}
"""(lengths, max_completion_length) by name."""


class Weights(NamedTuple):
    """One loss type: the weight of one token of each completion, and of each whole completion; their sum."""

    loss_type: str
    token: list[float]
    whole: list[float]
    total: float


class LossWeightsModel:
    """Completion lengths and their weights, all by `rlkit.objectives.token_weights`.

    Args:
        lengths: tokens of each completion of the optimizer batch, 1 to 64 of them.
        max_completion_length: tokens; what "dr_grpo" divides by. None: the longest of `lengths`.
        mask_truncated: leave completions of that length out (`mask_truncated_completions`).

    Raises `ConfigError` for lengths that are no whole numbers from 1 up to `max_completion_length`.
    """

    def __init__(
        self, lengths: Sequence[int], max_completion_length: int | None = None, mask_truncated: bool = False
    ) -> None:
        self.lengths = _checked(lengths)
        longest = max(self.lengths)
        self.limit = longest if max_completion_length is None else max_completion_length
        if not isinstance(self.limit, int) or self.limit < longest:
            raise bad_value(
                "max_completion_length",
                self.limit,
                f"a whole number of tokens, {longest} (the longest) or more",
            )
        self.mask_truncated = bool(mask_truncated)
        mask = torch.zeros(len(self.lengths), longest, dtype=torch.float64)  # [N, T]
        for i, length in enumerate(self.lengths):
            mask[i, :length] = 1
        self.truncated = [length == self.limit for length in self.lengths]
        if self.mask_truncated:
            mask = apply_truncation_mask(mask, torch.tensor(self.truncated))  # [N, T]
        self.weights = [self._weights(mask, loss_type) for loss_type in LOSS_TYPES]

    def _weights(self, mask: torch.Tensor, loss_type: str) -> Weights:  # mask [N, T]
        w = token_weights(mask, loss_type, max_completion_length=self.limit)  # [N, T]
        whole = w.sum(dim=1)  # [N]
        return Weights(loss_type, w[:, 0].tolist(), whole.tolist(), float(whole.sum()))

    def of(self, loss_type: str) -> Weights:
        """The weights under one loss type."""
        return self.weights[LOSS_TYPES.index(loss_type)]

    def families(self) -> list[tuple[str, Weights]]:
        """Loss types that weigh alike, under all their names, each family with its weights."""
        found: list[tuple[str, Weights]] = []
        for weights in self.weights:
            for i, (names, known) in enumerate(found):
                if known.token == weights.token:
                    found[i] = f"{names}, {weights.loss_type}", known
                    break
            else:
                found.append((weights.loss_type, weights))
        return found

    def says(self) -> str:
        """What the lengths make of it, in words."""
        kept = [i for i, t in enumerate(self.truncated) if not (t and self.mask_truncated)]
        if not kept:
            return "Every completion is cut off and masked: no token has any weight, and nothing is learned."
        short = min(kept, key=lambda i: self.lengths[i])
        long = max(kept, key=lambda i: self.lengths[i])
        if self.lengths[short] == self.lengths[long]:
            return "All have the same length: the loss types differ by a constant factor at most."
        times = self.of("grpo").token[short] / self.of("grpo").token[long]
        share = self.of("dapo").whole[long]
        return (
            f"Under GRPO a token of the shortest completion ({self.lengths[short]} tokens) weighs "
            f"{number(times)} times as much as one of the longest ({self.lengths[long]}). Under DAPO tokens weigh the "
            f"same, so that the longest completion alone has {percent(share)} of the whole weight."
        )


def parse_lengths(text: str) -> list[int]:
    """Read "10, 100 55" as [10, 100, 55]. Raises `ConfigError` for what is no whole number."""
    words = text.replace(",", " ").replace(";", " ").split()
    lengths = []
    for word in words:
        if not (word.isascii() and word.isdigit() and len(word) < 9):
            raise bad_value(
                "lengths", word, "whole numbers of tokens with commas between them, such as 10, 100"
            )
        lengths.append(int(word))
    return _checked(lengths)


def lengths_of_step(run: Any, step: int | None = None) -> tuple[list[int], int | None, int]:
    """Return the lengths of the completions that a run kept of a step, its max_completion_length, and the step.

    `run`: a `Run` or its folder. `step`: None for the last that has samples. Of more than 64 completions the first 64.
    Raises `ConfigError` where none were kept.
    """
    from rlkit.runs import Run, schema

    if isinstance(run, str | os.PathLike):
        run = Run(run)
    steps = run.sample_steps
    if not steps:
        raise ConfigError(f"{run.path} kept no completions, so their lengths are not known.")
    step = steps[-1] if step is None else step
    table = run.samples_table(step)
    counts = [len(ids) for ids in table.column("completion_ids").to_pylist() if ids]
    if not counts:
        raise ConfigError(f"step {step} of {run.path} has no completions with tokens in them.")
    limit = schema.setting(run.config, "max_completion_length")
    return counts[:MOST_COMPLETIONS], limit if isinstance(limit, int) else None, step


def _checked(lengths: Sequence[int]) -> list[int]:
    listed = list(lengths)
    if not 1 <= len(listed) <= MOST_COMPLETIONS:
        raise bad_value("lengths", f"{len(listed)} of them", f"from 1 to {MOST_COMPLETIONS} completions")
    for length in listed:
        if not isinstance(length, int) or isinstance(length, bool) or not 1 <= length <= LONGEST:
            raise bad_value("lengths", length, f"whole numbers of tokens from 1 to {LONGEST:,}")
    return listed
