"""The reference policy π_ref: the model as it was before training."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

from rlkit.adapters import adapter_disabled, adapter_state, is_adapter_model
from rlkit.config import ConfigWarning


def reference_policy(model: Any) -> Callable[[], AbstractContextManager[Any]]:
    """``with reference_policy(model)() as reference:`` gives the policy that the KL term pulls towards.

    With an adapter that is the frozen base: the model itself, with its adapter switched off inside the block; no
    memory is used. Otherwise it is a frozen copy of the model as it is now.
    """
    if is_adapter_model(model):
        if any(name.endswith(".lora_B.weight") and bool(b.any()) for name, b in adapter_state(model).items()):
            warnings.warn(
                "beta (PPO: kl_coef) > 0, and the adapter has been trained before: the KL term pulls towards the base "
                "model without it, and so undoes the warm start. To be pulled towards the warm start, merge it (rlkit "
                "export --merged) and add a fresh adapter to that model",
                ConfigWarning,
                stacklevel=3,
            )

        @contextlib.contextmanager
        def base() -> Iterator[Any]:
            with adapter_disabled(model):
                yield model

        return base
    reference = copy.deepcopy(model).eval().requires_grad_(False)
    return lambda: contextlib.nullcontext(reference)
