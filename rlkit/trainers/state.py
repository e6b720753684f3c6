"""State as plain values: what goes into a file that is loaded without running code, and the random generators' part."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import torch

from rlkit.errors import bad_value


def plain_state(value: Any, where: str) -> Any:
    """``value`` in the types that torch.load(weights_only=True) reads; views get a storage of their own.

    Raises:
        ConfigError: something is neither plain nor a tensor; ``where`` it stands is part of the message.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, torch.Tensor):
        tensor = value.detach()
        # torch.save writes the whole storage behind a view
        own = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
        return tensor if own else tensor.clone()
    for kind in (str, int, float):  # numpy's float64 and enumerations are such, and would not be read back
        if isinstance(value, kind):
            return getattr(kind, f"__{kind.__name__}__")(value)
    if isinstance(value, Mapping):
        return {
            plain_state(key, f"{where}'s keys"): plain_state(item, f"{where}[{key!r}]")
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        items = [plain_state(item, f"{where}[{i}]") for i, item in enumerate(value)]
        return items if isinstance(value, list) else tuple(items)
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return value.tolist()
    raise bad_value(where, value, "tensors, numbers, texts, None, and dicts, lists and tuples of these")


def tensors_in(value: Any) -> list[torch.Tensor]:
    """All tensors in a nested plain value."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict | list | tuple):
        items = value.values() if isinstance(value, dict) else value
        return [tensor for item in items for tensor in tensors_in(item)]
    return []


def random_states(device: torch.device | str) -> dict[str, Any]:
    """The states of all global random generators: Python's, numpy's, torch's, and ``device``'s where it is CUDA."""
    import numpy as np

    device = torch.device(device)
    states = {
        "python": random.getstate(),
        "numpy": plain_state(np.random.get_state(legacy=False), "numpy"),
        "torch": torch.get_rng_state(),  # [5056] bytes
    }
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_random_states(states: Mapping[str, Any]) -> None:
    """The inverse of ``random_states``; CUDA's state goes to the current device, and nowhere if there is none."""
    import numpy as np

    version_number, internal, gauss = states["python"]
    random.setstate((version_number, tuple(internal), gauss))
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
