"""Cut a batch into micro-batches: by a token budget, with next to no padding.

A micro-batch is a rectangle, as wide as its longest row; what the shorter rows leave empty is padding, which costs
time and memory and teaches nothing. Rows of similar length go together, and a rectangle is closed before it would
be more than a tenth padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

MAX_PADDING = 0.1  # of a micro-batch's tokens that are not padding
# Of one micro-batch, where nothing else is asked for: bytes, and at most so many tokens. More brings a CPU no speed.
ACTIVATION_BYTES, MOST_TOKENS = {"cpu": 2**30}, {"cpu": 4096}
ACTIVATION_BYTES_ELSEWHERE, MOST_TOKENS_ELSEWHERE = 2**33, 16_384
FEWEST_TOKENS = 256


def token_budget(asked: int | None, model: Any, checkpointing: bool = False) -> int:
    """Tokens a micro-batch: what was asked for, or as many as keep its activations near ``ACTIVATION_BYTES``.

    A layer keeps about 10 H + 4 I numbers a token for the backward pass (H hidden size; I of the feed-forward
    part), with gradient checkpointing H, and once more those of the layer that is being recomputed.
    """
    if asked is not None:
        return asked
    config = model.config.get_text_config()
    width = config.hidden_size
    inner = getattr(config, "intermediate_size", None) or 4 * width
    layers = getattr(config, "num_hidden_layers", None) or 1
    layer = 10 * width + 4 * inner
    numbers = layers * width + layer if checkpointing else layers * layer
    size = 2 if "16" in str(model.dtype) else 4
    room = ACTIVATION_BYTES.get(model.device.type, ACTIVATION_BYTES_ELSEWHERE)
    most = MOST_TOKENS.get(model.device.type, MOST_TOKENS_ELSEWHERE)
    return max(FEWEST_TOKENS, min(most, room // (numbers * size)))


def micro_batches(
    lengths: Sequence[int], *, max_tokens: int, max_rows: int | None = None, max_padding: float = MAX_PADDING
) -> list[list[int]]:
    """Row numbers of each micro-batch; every row is in exactly one.

    Args:
        lengths: tokens of each row, prompt and completion together.
        max_tokens: rows × width of a micro-batch at most; a longer row stands alone.
        max_rows: rows of a micro-batch at most; None does not bind.
        max_padding: padding, as a share of the tokens that are not padding.

    Returns:
        Row numbers, longest rows first; the order depends on the lengths alone.

    >>> micro_batches([9, 10, 3, 3], max_tokens=20)
    [[1, 0], [2, 3]]
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    batches: list[list[int]] = []
    width = filled = 0  # of the micro-batch that is open
    for row in order:
        length = lengths[row]
        if batches:
            rows = len(batches[-1]) + 1
            cells = rows * width
            fits = cells <= max_tokens and cells - filled - length <= max_padding * (filled + length)
            if fits and (max_rows is None or rows <= max_rows):
                batches[-1].append(row)
                filled += length
                continue
        batches.append([row])
        width, filled = length, length
    return batches
