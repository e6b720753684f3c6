"""What a trainer asks of its arguments before anything is loaded: settings, callbacks, the run directory, the model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlkit.adapters import is_adapter_model
from rlkit.errors import ConfigError, bad_value
from rlkit.quantised import is_nf4
from rlkit.trainers.callbacks import Callback
from rlkit.trainers.reporters import reporter_names


def check_settings(args: Any, kind: type) -> None:
    """Refuse settings of another kind, such as a dict or another library's, and a ``report_to`` that is missing.

    Raises:
        ConfigError: naming ``kind`` and how to make one.
    """
    if not isinstance(args, kind):
        found = repr(args) if isinstance(args, dict) else f"a {type(args).__module__}.{type(args).__name__}"
        raise ConfigError(
            f"args={found} is not usable. Allowed: a rlkit.{kind.__name__}. "
            f"From a dict: {kind.__name__}.from_dict(settings)"
        )
    reporter_names(args.report_to)


def check_callbacks(callbacks: Any) -> None:
    """Refuse a single callback, a class instead of an object, or a bare function.

    Raises:
        ConfigError: naming what was found.
    """
    good = isinstance(callbacks, Sequence) and all(isinstance(callback, Callback) for callback in callbacks)
    if not good:
        cause = "Derive a class from rlkit.Callback and pass [YourCallback()], with the brackets."
        raise bad_value("callbacks", callbacks, "a list of Callback objects", cause)


def check_output_dir(output_dir: str) -> None:
    """Refuse a place where no run can be written; creates nothing.

    Raises:
        ConfigError: a file stands in the way, or the folder cannot be written to.
    """
    path = Path(output_dir)
    for folder in (path, *path.parents):
        if not folder.exists():
            continue
        if not folder.is_dir():
            raise bad_value("output_dir", output_dir, "a folder, new or old", f"{str(folder)!r} is a file.")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise bad_value(
                "output_dir", output_dir, "a folder that you may write to", f"{str(folder)!r} is not."
            )
        return


def check_model(model: Any) -> None:
    """Refuse what is no causal LM of transformers.

    Raises:
        ConfigError: saying how to get one.
    """
    if not all(hasattr(model, name) for name in ("eval", "config", "get_input_embeddings")):
        raise bad_value(
            "model",
            f"<{type(model).__name__}>" if model is not None else None,
            "a transformers causal LM, or a name or folder for load_model",
            "model, tokenizer = load_model('rlkit/tiny-arithmetic') makes one; the tokenizer is processing_class.",
        )
    if is_nf4(model) and not is_adapter_model(model):
        raise ConfigError(
            f"the {type(model).__name__} was loaded in 4 bits, which cannot be trained themselves. Give it an adapter: "
            "model = add_lora(model), or peft_config=… for the trainer"
        )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError(
            f"the {type(model).__name__} has no trainable parameter: requires_grad is False everywhere. Was it frozen, "
            "or loaded for inference only? model.requires_grad_(True) makes all of it trainable"
        )


def check_policy(model: Any, token_ids: Sequence[int]) -> None:
    """Compare, on a few tokens, our log-probabilities with the model's own logits.

    Raises:
        ConfigError: they differ: something is between head and logits that is not known here.
    """
    import torch

    from rlkit.logprobs import check_head

    check_head(model, torch.tensor([list(token_ids)], device=model.device))
