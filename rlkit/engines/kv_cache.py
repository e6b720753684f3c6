"""How large vLLM's key/value cache on a CPU has to be: it takes all of its memory at the start."""

from __future__ import annotations

import os
from typing import Any

from rlkit.adapters import base_model

BLOCK = 128  # tokens; vLLM's CPU build hands the cache out in blocks of so many
LEAST = 2**26  # bytes
MOST_OF_MEMORY = 0.125  # of the machine's; where more sequences are asked for they wait for each other


def kv_cache_bytes(model: Any, rows: int, length: int) -> int:
    """Bytes that hold ``rows`` sequences of ``length`` tokens, within what a machine can spare.

        2 (keys and values) × layers × key/value heads × head size × bytes a number × tokens in whole blocks

    At least one such sequence fits, or vLLM does not start.
    """
    config = base_model(model).config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    size = 2 if "16" in str(model.dtype) else 4
    row = 2 * config.num_hidden_layers * heads * width * size * -(-length // BLOCK) * BLOCK
    spare = int(MOST_OF_MEMORY * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return max(LEAST, min(rows * row, spare), 2 * row)
