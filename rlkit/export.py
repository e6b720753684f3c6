"""What leaves a run: model folders that others can load, whole or not at all, with a card that says what they are."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rlkit.adapters import CONFIG as ADAPTER_CONFIG
from rlkit.adapters import adapter_config, base_model, is_adapter_model, save_adapter
from rlkit.errors import ConfigError, bad_value
from rlkit.hub import quiet_transformers


def save_model(
    model: Any, tokenizer: Any, folder: str | os.PathLike[str], about: Mapping[str, Any] | None = None
) -> Path:
    """Write model and tokenizer so that ``load_model`` reads them; whole or not at all.

    An adapter model is written as its adapter alone (peft's two files), any other in full (``save_pretrained``).
    ``about``: what ``write_model_card`` is told; None for no card.

    Raises:
        ConfigError: ``folder`` is a file.
    """
    with written_whole(folder) as partial:
        if is_adapter_model(model):
            save_adapter(model, partial)
        else:
            with quiet_transformers():
                model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        if about is not None:
            write_model_card(partial, about)
    return Path(folder)


def save_merged(
    model: Any, tokenizer: Any, folder: str | os.PathLike[str], about: Mapping[str, Any] | None = None
) -> Path:
    """Write W + s·B A of every layer as an ordinary model that transformers loads alone; the live model is only read.

    Each sum is taken in float32 and rounded once to the base's dtype. A base in 4 bits is dequantised first: what is
    written is then near the model that was trained and not bit-identical to it; the card says so.

    Args:
        about: further facts for the card, see ``write_model_card``.

    Raises:
        ConfigError: there is no adapter, or ``folder`` is a file.
    """
    from rlkit.quantised import is_nf4

    base = base_model(model)
    settings = adapter_config(model)
    facts = {"model": base.name_or_path, **(about or {}), "merged": True, "load_in_4bit": is_nf4(base)}
    facts.setdefault("lora", {"r": settings.r, "lora_alpha": settings.lora_alpha})
    with written_whole(folder) as partial:
        with quiet_transformers():
            merged_model(model).save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        write_model_card(partial, facts)
    return Path(folder)


def merged_model(model: Any) -> Any:
    """An ordinary transformers model with the adapter merged in; tensors without an adapter are shared with ``model``.

    Meant for saving. Raises `ConfigError` where there is no adapter.
    """
    import copy

    adapter_config(model)  # or the error that there is none
    base = base_model(model)
    config = copy.deepcopy(base.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.dtype = base.dtype
    whole, loaded = type(base).from_pretrained(
        None, config=config, state_dict=_merged_state(base), dtype=base.dtype, output_loading_info=True
    )
    if loaded["missing_keys"] or loaded["unexpected_keys"]:
        wrong = sorted([*loaded["missing_keys"], *loaded["unexpected_keys"]])
        raise ConfigError(
            f"{type(base).__name__} cannot be merged: {', '.join(wrong[:3])} did not find their place"
        )
    whole.generation_config = copy.deepcopy(base.generation_config)
    return whole.eval()


def _merged_state(base: Any) -> dict[str, Any]:
    """The state dict of the plain model: adapters merged, 4-bit matrices dequantised, names without ``base_layer``."""
    from peft.tuners.lora import LoraLayer

    from rlkit.quantised import dequantised

    state: dict[str, Any] = {}
    for path, module in base.named_modules():
        if isinstance(module, LoraLayer):
            weight = dequantised(module.base_layer.weight, base.dtype)  # [out, in]
            name = next(iter(module.lora_A))
            a, b = (
                module.lora_A[name].weight.detach(),
                module.lora_B[name].weight.detach(),
            )  # [r, in], [out, r]
            change = module.scaling[name] * (b.float() @ a.float())  # [out, in]
            state[f"{path}.weight"] = (weight.float() + change.to(weight.device)).to(base.dtype)
            if module.base_layer.bias is not None:
                state[f"{path}.bias"] = module.base_layer.bias.detach()
    for path, module in base.named_modules():
        if ".lora_" in path or path.endswith(".base_layer"):
            continue
        own = [*module._parameters.items()]
        own += [item for item in module._buffers.items() if item[0] not in module._non_persistent_buffers_set]
        for name, tensor in own:
            full = f"{path}.{name}" if path else name
            if tensor is not None and full not in state:
                state[full] = dequantised(tensor, base.dtype)
    return state


# --- whole or not at all ------------------------------------------------------------------------------------


def replace_folder(new: Path, target: Path) -> None:
    """Put ``new`` in ``target``'s place; the old folder is there until the new one is."""
    old = target.with_name(f"{target.name}.{time.time_ns()}.old")
    if target.exists():
        target.rename(old)
    try:
        new.rename(target)
    except BaseException:
        if old.exists() and not target.exists():
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def readable_by_others(folder: Path) -> None:
    """Give every file the permissions of a new one under the user's umask: safetensors writes 0600."""
    probe = folder / ".permissions"
    probe.touch()  # asking for the umask itself would change it for all threads
    mode = probe.stat().st_mode & 0o777
    probe.unlink()
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(mode)


@contextmanager
def written_whole(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """A folder to write into that takes ``folder``'s place at the end of the block, or vanishes with an error."""
    target = Path(folder)
    if target.exists() and not target.is_dir():
        raise bad_value("folder", str(folder), "a folder, new or old", "There is a file of that name.")
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
    partial.mkdir(parents=True)
    try:
        yield partial
        readable_by_others(partial)
        replace_folder(partial, target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def write_model_card(folder: str | os.PathLike[str], about: Mapping[str, Any]) -> Path:
    """Write ``README.md``: what was trained, on what, with which results, and how to load it. See ``model_card``."""
    from rlkit.model_card import model_card

    path = Path(folder) / "README.md"
    adapter = (path.parent / ADAPTER_CONFIG).is_file()
    path.write_text(model_card(about, adapter=adapter), encoding="utf-8")
    return path
