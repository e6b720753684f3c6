"""Cut a batch into micro-batches: by a token budget, with next to no padding.

A micro-batch is a rectangle, as wide as its longest row; what the shorter rows leave empty is padding, which costs
time and memory and teaches nothing. Rows of similar length go together, and a rectangle is closed before it would
be more than a tenth padding.
"""

from __future__ import annotations

from collections.abc import Sequence

MAX_PADDING = 0.1  # of a micro-batch's tokens that are not padding
TOKENS_BY_DEVICE = {"cpu": 2048}  # a CPU is as fast on 2,048 tokens as on more; memory grows with each
TOKENS_ELSEWHERE = 8192


def token_budget(asked: int | None, device_type: str) -> int:
    """Tokens a micro-batch: what was asked for, or what suits the device."""
    return TOKENS_BY_DEVICE.get(device_type, TOKENS_ELSEWHERE) if asked is None else asked


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
