"""One token more with transformers' own model, without copying its cache for it.

Two costs of decoding are left out, whatever the architecture, an adapter or quantised weights:

* transformers appends to a key/value cache with ``torch.cat``, which copies all of it for every token. A ``RoomyLayer``
  keeps room behind the last token and doubles it when it is used up.
* With padding to mask, transformers copies each key/value head once for every query head that reads it (grouped-query
  attention). A query is one token here, so that the query heads of a group can stand where a longer query's tokens
  would: attention then reads each key/value head where it lies.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from rlkit.adapters import base_model

GROUPED = "rlkit_grouped_sdpa"
_LEAST_ROOM = 32  # tokens


class RoomyLayer(DynamicLayer):
    """A layer's key/value cache, [N, K, L, D] each, as a view into a buffer with room for more tokens."""

    _buffers: tuple[torch.Tensor, torch.Tensor] | None = None  # [N, K, room, D] each

    @classmethod
    def holding(cls, layer: DynamicLayer) -> RoomyLayer:
        """Take over what ``layer`` holds."""
        roomy = cls()
        roomy.lazy_initialization(layer.keys, layer.values)
        roomy.keys, roomy.values = layer.keys, layer.values
        return roomy

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if self._buffers is None or end > self._buffers[0].shape[-2]:
            shape = (*key_states.shape[:-2], end + max(_LEAST_ROOM, end), key_states.shape[-1])
            self._buffers = (
                key_states.new_empty(shape),
                value_states.new_empty(*shape[:-1], value_states.shape[-1]),
            )
            self._write(0, start, self.keys, self.values)
        self._write(start, end, key_states, value_states)
        self.keys, self.values = (buffer[..., :end, :] for buffer in self._buffers)
        return self.keys, self.values

    def _write(self, start: int, end: int, *states: torch.Tensor) -> None:
        assert self._buffers is not None
        for buffer, new in zip(self._buffers, states, strict=True):
            if end > start:
                buffer[..., start:end, :].copy_(new)

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        self._buffers = None

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        super().batch_select_indices(indices)
        self._buffers = None


def with_room(cache: Any) -> bool:
    """Let a cache that a prefill has filled grow without copies; layers with a window or a state stay as they are.

    Returns:
        Whether that was all of them: every layer then attends to every earlier token.
    """
    layers = getattr(cache, "layers", [])
    for index, layer in enumerate(layers):
        if type(layer) is DynamicLayer and layer.is_initialized:
            layers[index] = RoomyLayer.holding(layer)
    return bool(layers) and all(isinstance(layer, RoomyLayer) for layer in layers)


def _grouped_sdpa(
    module: Any,
    query: torch.Tensor,  # [N, H, Q, D]
    key: torch.Tensor,  # [N, K, L, D]; query head h reads key/value head h // (H / K)
    value: torch.Tensor,  # [N, K, L, D]
    attention_mask: torch.Tensor | None,  # [N, 1, Q, L] or None
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Scaled dot-product attention, [N, Q, H, D]; a one-token query's H heads count as K heads of H / K tokens."""
    n, heads, length, width = query.shape
    plain = length > 1 or heads == key.shape[1] or kwargs.get("position_bias") is not None
    if plain or (attention_mask is not None and attention_mask.shape[1] > 1):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    grouped = query.reshape(n, key.shape[1], heads // key.shape[1], width)  # [N, K, H / K, D]
    output = torch.nn.functional.scaled_dot_product_attention(
        grouped, key, value, attn_mask=attention_mask, scale=kwargs.get("scaling")
    )
    return output.reshape(n, 1, heads, value.shape[-1]), None


@contextmanager
def grouped_attention(model: Any) -> Iterator[bool]:
    """Inside, a model that uses transformers' "sdpa" attention decodes with the grouped one; yields whether it does.

    Models whose code does not look its attention up in transformers' table stay as they are.
    """
    config = model.config.get_text_config()
    looks_up = getattr(base_model(model), "_supports_attention_backend", False)
    if config._attn_implementation != "sdpa" or not looks_up:
        yield False
        return
    AttentionInterface.register(GROUPED, _grouped_sdpa)
    AttentionMaskInterface.register(GROUPED, sdpa_mask)
    config._attn_implementation = GROUPED
    try:
        yield True
    finally:
        config._attn_implementation = "sdpa"
