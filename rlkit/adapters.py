"""LoRA: train two thin matrices beside each linear layer instead of the layer itself.

    W' = W + s · B A      A [r, in], B [out, r];   s = α / r, or α / √r with rsLoRA

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (2021). W is frozen, so the base is still there: with
the adapter off, the model is its own reference policy. On a base in 4 bits this is QLoRA (``rlkit.quantised``).

What is allowed is what the engine can run: vLLM 0.32 takes LoRA and rsLoRA on linear layers, and refuses the rest.
"""

from __future__ import annotations

import copy
import json
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from rlkit import quantised  # noqa: F401  # before peft imports bitsandbytes, which would log advice
from rlkit.adapter_checks import DROPOUT, check_config, check_numbers, check_rank, choose_targets
from rlkit.errors import ConfigError

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"


def add_lora(
    model: Any,
    r: int = 16,
    lora_alpha: float = 32,
    lora_dropout: float = 0.0,
    target_modules: list[str] | str | None = None,
    use_rslora: bool = False,
    peft_config: Any = None,
    seed: int = 0,
) -> Any:
    """Freeze ``model`` and put a trainable LoRA adapter on it; returns peft's model around the same modules.

    Args:
        model: a causal LM from ``load_model``; changed in place.
        r: rank of the update, at most the ``max_lora_rank`` that ``load_model`` was given.
        lora_alpha: α; the update is scaled by α / r.
        lora_dropout: 0. It is here because TRL and Unsloth have it.
        target_modules: names of linear layers (``["q_proj", "v_proj"]``) or a regular expression for whole paths. None
            or "all-linear": every linear layer of the transformer blocks. Never the output head or the embeddings.
        use_rslora: scale by α / √r (Kalajdzievski, 2023).
        peft_config: a ``peft.LoraConfig`` in place of all settings above; without target modules it gets all of them.
        seed: of A's random numbers; B starts at zero, so the model starts as its base. torch's own generator is left
            where it is.

    The adapter is float32 whatever the base's dtype: steps of Adam are too small for bfloat16's eight bits.

    Raises:
        ConfigError: an adapter is there already; settings that the engine cannot run; a rank above ``max_lora_rank``;
            target modules that are not there, not linear, or the head.
    """
    if is_adapter_model(model):
        raise ConfigError(
            "the model has an adapter already. Merge it first (rlkit.export.save_merged), or train that one"
        )
    check_numbers(r, lora_alpha, lora_dropout, seed)
    from peft import LoraConfig, get_peft_model

    if peft_config is None:
        config = LoraConfig(
            r=r,
            lora_alpha=lora_alpha,
            lora_dropout=lora_dropout,
            use_rslora=use_rslora,
            target_modules=target_modules,
        )
    else:
        if (r, lora_alpha, lora_dropout, target_modules, use_rslora) != (16, 32, 0.0, None, False):
            raise ConfigError("peft_config stands beside r, lora_alpha, … : give one or the other")
        config = copy.deepcopy(peft_config)  # peft writes into it
    check_config(config)
    config.task_type = "CAUSAL_LM"
    config.inference_mode = False
    choose_targets(model, config)
    check_rank(model, config)
    base = loadable_name(model.name_or_path)
    config.base_model_name_or_path = None
    with own_generator(model, seed):
        adapted = get_peft_model(model, config)
    adapted.peft_config["default"].base_model_name_or_path = base
    return adapted.eval()


def attach_adapter(model: Any, folder: str | os.PathLike[str]) -> Any:
    """Put a saved adapter on its base, trainable; what ``load_model`` does with an adapter's folder.

    Raises:
        ConfigError: weights that do not fit the base, or an adapter that the engine cannot run.
    """
    folder = Path(folder)
    from peft import PeftConfig, PeftModel
    from safetensors import safe_open

    config = PeftConfig.from_pretrained(str(folder))
    if getattr(config, "lora_dropout", 0):
        from rlkit.models import ModelWarning

        text = f"the adapter in {folder} was trained with lora_dropout={config.lora_dropout}; it goes on with 0. "
        warnings.warn(text + DROPOUT, ModelWarning, stacklevel=3)
        config.lora_dropout = 0.0
    check_config(config)
    check_rank(model, config)
    config.inference_mode = False
    base = loadable_name(model.name_or_path)
    try:
        with warnings.catch_warnings(), own_generator(model, 0):
            warnings.simplefilter("ignore")  # of missing keys, which are an error below
            adapted = PeftModel.from_pretrained(model, str(folder), config=config, is_trainable=True)
    except (ValueError, RuntimeError, OSError) as error:
        said = str(error).strip().splitlines()[0][:300]
        raise ConfigError(
            f"the adapter in {folder} does not fit its base {model.name_or_path}: {said}"
        ) from error
    if (folder / WEIGHTS).is_file():
        with safe_open(folder / WEIGHTS, "pt") as file:
            differ = set(adapter_state(adapted)) ^ set(file.keys())
        if differ:
            raise ConfigError(
                f"the adapter in {folder} does not fit its base {model.name_or_path}: {len(differ)} tensors are on one "
                f"side only ({', '.join(sorted(differ)[:2])}, …)"
            )
    adapted.peft_config["default"].base_model_name_or_path = base
    return adapted.eval()


def is_adapter_model(model: Any) -> bool:
    """Whether ``model`` is a base with an adapter on it; does not import peft to find out."""
    return "peft" in sys.modules and isinstance(model, sys.modules["peft"].PeftModel)


def base_model(model: Any) -> Any:
    """The transformers model inside, or ``model`` itself where there is no adapter.

    The adapter's layers stay in it: a matrix is called ``….q_proj.base_layer.weight`` there.
    """
    return model.get_base_model() if is_adapter_model(model) else model


def adapter_config(model: Any) -> Any:
    """The adapter's ``peft.LoraConfig``.

    Raises:
        ConfigError: there is no adapter.
    """
    return _adapted(model).peft_config["default"]


def adapter_summary(model: Any) -> dict[str, Any] | None:
    """What a run's config says of the adapter; None where there is none."""
    if not is_adapter_model(model):
        return None
    config = adapter_config(model)
    targets = config.target_modules
    return {
        "r": config.r,
        "lora_alpha": config.lora_alpha,
        "use_rslora": config.use_rslora,
        "target_modules": targets if isinstance(targets, str) else sorted(targets or ()),
    }


def adapter_state(model: Any) -> dict[str, torch.Tensor]:
    """The adapter's tensors under the names that peft writes to disk; the live values, detached, not copies.

    ``base_model.model.….q_proj.lora_A.weight`` [r, in] and ``….lora_B.weight`` [out, r].

    Raises:
        ConfigError: there is no adapter.
    """
    from peft import get_peft_model_state_dict

    # Of the adapter alone: the state dict of a 4-bit base would be packed anew at each call.
    own = {name: p.detach() for name, p in _adapted(model).named_parameters() if ".lora_" in name}
    return get_peft_model_state_dict(model, state_dict=own, save_embedding_layers=False)


@contextmanager
def adapter_disabled(model: Any) -> Iterator[Any]:
    """Within the block the model is its frozen base, such as the reference policy; yields the model.

    Costs no memory. What was trainable before is trainable after.

    Raises:
        ConfigError: there is no adapter.
    """
    # peft marks the whole adapter frozen on the way in and trainable on the way out.
    flags = [(p, p.requires_grad) for name, p in _adapted(model).named_parameters() if ".lora_" in name]
    try:
        with model.disable_adapter():
            yield model
    finally:
        for parameter, trainable in flags:
            parameter.requires_grad_(trainable)


def save_adapter(model: Any, folder: str | os.PathLike[str]) -> Path:
    """Write the adapter into ``folder`` as peft does: ``adapter_config.json`` and ``adapter_model.safetensors``.

    The configuration names the base by its Hub id, or by the absolute path of its folder, so that peft alone finds it.

    Raises:
        ConfigError: there is no adapter.
    """
    from safetensors.torch import save_file

    config = copy.deepcopy(adapter_config(model))
    config.inference_mode = True  # what peft writes; loading for training overrides it
    if isinstance(config.target_modules, set):
        config.target_modules = sorted(config.target_modules)  # a set's order changes from run to run
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(str(folder))
    tensors = {name: tensor.contiguous().cpu() for name, tensor in adapter_state(model).items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    return folder


def base_of(folder: Path) -> str:
    """The base of a saved adapter, as ``load_model`` understands it.

    A path into rlkit's own folders on another machine is read as the name of that model.

    Raises:
        ConfigError: the adapter does not name its base.
    """
    try:
        base = json.loads((folder / CONFIG).read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(f"{folder / CONFIG} cannot be read: {error}") from error
    if not base:
        raise ConfigError(
            f"{folder / CONFIG} does not say which model the adapter belongs to. Set base_model_name_or_path in it"
        )
    known = _names_by_folder().get(Path(base).name)
    return known if known and os.path.isabs(base) and Path(base).parent.name in ("assets", "models") else base


# --- inside -------------------------------------------------------------------------------------------------


def _adapted(model: Any) -> Any:
    if not is_adapter_model(model):
        raise ConfigError(
            f"the {type(model).__name__} has no adapter; rlkit.adapters.add_lora(model) adds one"
        )
    return model


def _names_by_folder() -> dict[str, str]:
    """Models that rlkit keeps itself: the last part of their folder, and the name that load_model knows."""
    from rlkit.fetchable import available
    from rlkit.models import EMBEDDED

    return {path.name: name for name, path in EMBEDDED.items()} | {
        entry.name: entry.name for entry in available()
    }


def loadable_name(name: str) -> str:
    """What plain peft and transformers can load: an absolute path, or a Hub id."""
    from rlkit.models import find_model

    try:
        source = find_model(name)
    except ConfigError:  # made by hand, or its folder is gone: nothing better is known
        return name
    return str(Path(source).absolute()) if Path(source).exists() else source


@contextmanager
def own_generator(model: Any, seed: int) -> Iterator[None]:
    """Random numbers from ``seed`` in the block; the global generators are afterwards as they were."""
    device = model.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
