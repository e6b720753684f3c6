"""Gradient checkpointing without training mode."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from rlkit.errors import ConfigError


class GradientCheckpointing:
    """Inside ``with checkpointing():`` a forward pass keeps only what goes into each layer; the rest is computed again.

    transformers does so in training mode only, and the policy stays in eval mode, since dropout would make it another
    policy than the one that samples. So the layers, and nothing inside them, are told that they are training;
    outside the block they are not, since a layer in that state throws the key/value cache of generation away.

    Raises:
        ConfigError: the model's layers do not offer it.
    """

    def __init__(self, model: Any) -> None:
        from transformers.modeling_layers import GradientCheckpointingLayer

        self._layers = [
            module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)
        ]
        if not self._layers:
            raise ConfigError(
                f"gradient_checkpointing=True: {type(model).__name__} has no layers that can be computed again. "
                "Allowed: False for this model; a smaller micro_batch_tokens also saves memory"
            )
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        for layer in self._layers:
            layer._gradient_checkpointing_func = _in_eval_mode(layer, layer._gradient_checkpointing_func)

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        for layer in self._layers:
            layer.training = True
        try:
            yield
        finally:
            for layer in self._layers:
                layer.training = False


def _in_eval_mode(layer: Any, recompute: Callable[..., Any]) -> Callable[..., Any]:
    """``recompute``, with the layer's own forward pass in eval mode: some layers (OPT's) apply dropout themselves."""

    def run(forward: Callable[..., Any], *args: Any) -> Any:
        def in_eval_mode(*given: Any) -> Any:
            layer.training = False
            try:
                return forward(*given)
            finally:
                layer.training = True

        return recompute(in_eval_mode, *args)

    return run


def gradient_checkpointing(model: Any, wanted: bool) -> Any:
    """A context manager factory for forward and backward passes; does nothing where it is not wanted."""
    return GradientCheckpointing(model) if wanted else contextlib.nullcontext
