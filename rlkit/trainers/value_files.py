"""A value model on disk: a model's folder as others read it, and the head beside it.

config.json, model.safetensors, tokenizer…   the body as transformers writes it; of an adapter peft's two files
value_head.safetensors                       weight [1, H] and bias [1] of V(s) = w · h(s) + b, float32
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch

from rlkit.adapters import CONFIG as ADAPTER_CONFIG
from rlkit.errors import bad_value
from rlkit.export import written_whole
from rlkit.trainers.values import SAVED_HEAD, ValueModel
from rlkit.trainers.weights import save_weights

HEAD = "value_head.safetensors"


def save_value_model(values: ValueModel, policy: Any, tokenizer: Any, folder: str | os.PathLike[str]) -> Path:
    """Write the model whose hidden states ``values`` reads, its own or the policy, and its head.

    Raises:
        ConfigError: ``folder`` is a file.
    """
    from safetensors.torch import save_file

    with written_whole(folder) as partial:
        save_weights(partial, values.model if values.own else policy)
        tokenizer.save_pretrained(partial)
        head = {name: tensor.detach().cpu().contiguous() for name, tensor in values.head.named_parameters()}
        save_file(head, partial / HEAD)
    return Path(folder)


def load_value_model(folder: str | os.PathLike[str], **settings: Any) -> Any:
    """A ``value_model`` for ``PPOTrainer``, as ``PPOTrainer.save_value_model`` wrote it: it goes on with its head.

    Args:
        settings: ``device`` and ``dtype``. Default: the first CUDA device if there is one, and the type that was saved
            (on a CPU, of a language model, float32).

    Raises:
        ConfigError: there is no value model in the folder.
    """
    from safetensors.torch import load_file

    path = Path(folder)
    if not (path / HEAD).is_file():
        cause = "A reward model or any causal LM of the same vocabulary may be given as value_model too."
        raise bad_value("folder", str(folder), f"a folder of save_value_model, with {HEAD}", cause)
    if _has_score(path):
        from rlkit.trainers.scorer import load_reward_model

        settings.setdefault("device", "cuda" if torch.cuda.is_available() else "cpu")
        model = load_reward_model(path, **settings).model
    else:
        from rlkit.models import load_model

        model, _ = load_model(path, **settings)
    device = model.get_input_embeddings().weight.device
    setattr(model, SAVED_HEAD, load_file(path / HEAD, device=str(device)))
    return model


def _has_score(path: Path) -> bool:
    """Whether the body in the folder is a reward model's."""
    if (path / ADAPTER_CONFIG).is_file():
        settings = json.loads((path / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        return bool(settings.get("task_type") == "SEQ_CLS")
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    return any("ForSequenceClassification" in name for name in config.get("architectures") or ())
