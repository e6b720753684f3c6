"""The reference policy π_ref: the model as it was before training."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

from rlkit.adapters import adapter_disabled, is_adapter_model


def reference_policy(model: Any) -> Callable[[], AbstractContextManager[Any]]:
    """``with reference_policy(model)() as reference:`` gives the policy that the KL term pulls towards.

    With an adapter that is the frozen base: the model itself, with its adapter switched off inside the block; no
    memory is used. Otherwise it is a frozen copy of the model as it is now.
    """
    if is_adapter_model(model):

        @contextlib.contextmanager
        def base() -> Iterator[Any]:
            with adapter_disabled(model):
                yield model

        return base
    reference = copy.deepcopy(model).eval().requires_grad_(False)
    return lambda: contextlib.nullcontext(reference)
