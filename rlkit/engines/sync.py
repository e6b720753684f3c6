"""How trained weights reach the engine, and the proof that they did.

Three ways, chosen from the model:

* **shared**: trainer and engine use the same memory. vLLM fuses q/k/v and gate/up into one matrix each, so
  the trainer's parameters become *views* of the engine's fused tensors. An optimizer step writes straight
  into the engine; nothing is copied, ever.
* **reload**: the full state dict goes through vLLM's ``reload_weights``, which fuses and packs it again.
* **adapter** (``engines/adapter.py``): a frozen base goes over once, by one of the two ways above; after each
  update only the adapter moves.

"Rollouts silently came from the wrong weights" is the recurring bug of this field, so neither is trusted:
``engines/canary.py`` compares log-probabilities after every update.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from rlkit.adapters import is_adapter_model
from rlkit.config import WEIGHT_SYNCS
from rlkit.engines.base_weights import (
    base_parameters,
    base_state,
    is_quantised,
    plain_shape,
    quantised_layers,
)
from rlkit.errors import EngineError, bad_value
from rlkit.quantised import dequantised


@dataclass(slots=True)
class SyncReport:
    """What one synchronisation did, and whether the canary agreed.

    Attributes:
        strategy: ``"shared"``, ``"reload"``, ``"adapter"``, ``"same module"`` (Hugging Face engine) or ``"copied"``.
        bytes_copied: bytes moved for this update.
        seconds: wall-clock seconds, the canary's comparison included where it ran.
        gap: largest |log π_engine − log π_trainer| over the canary tokens; None before the canary ran, 0 where
            the engine is the trainer's own module.
        moved: largest change of the trainer's own canary log-probabilities since the last sync.
        conclusive: whether ``moved`` exceeds the tolerance. Agreement proves nothing about an update that is
            too small to see; the perturbation check of ``SyncGuard.prove`` covers those.
    """

    strategy: str
    bytes_copied: int
    seconds: float
    gap: float | None = None
    moved: float | None = None
    conclusive: bool = False

    def __repr__(self) -> str:
        seen = "" if self.gap is None else f", engine − trainer {self.gap:.1e} nats, moved {self.moved:.1e}"
        return f"SyncReport({self.strategy}: {self.bytes_copied} bytes in {1000 * self.seconds:.0f} ms{seen})"


class Transport(Protocol):
    """One way to carry weights into a running vLLM engine; ``reason`` says why it is not ``shared``."""

    name: str
    reason: str

    def push(self, model: nn.Module) -> SyncReport: ...

    def release(self) -> None:
        """Forget the engine's tensors, so that closing it frees them."""
        ...


def choose_transport(vllm_model: nn.Module, model: nn.Module, llm: Any, weight_sync: str) -> Transport:
    """Share weights where every tensor has a home on both sides; otherwise reload, keeping the reason.

    With an adapter, ``weight_sync`` says how the base gets there, and the adapter moves after every update.

    Raises:
        ConfigError: ``weight_sync`` is not one of ``WEIGHT_SYNCS``.
        EngineError: ``"shared"`` was asked for and the model does not allow it.
    """
    if weight_sync not in WEIGHT_SYNCS:
        raise bad_value("weight_sync", weight_sync, "one of " + ", ".join(WEIGHT_SYNCS))
    if is_adapter_model(model):
        from rlkit.engines.adapter import AdapterTransport

        return AdapterTransport(vllm_model, model, _choose_base(vllm_model, model, llm, weight_sync))
    return _choose_base(vllm_model, model, llm, weight_sync)


def _choose_base(vllm_model: nn.Module, model: nn.Module, llm: Any, weight_sync: str) -> Transport:
    if weight_sync == "reload":
        return ReloadTransport(llm, reason="asked for")
    plan, reason = plan_sharing(vllm_model, model)
    if plan is None:
        if weight_sync == "shared":
            raise EngineError(f"weight_sync='shared' is not possible: {reason}. weight_sync='reload' works")
        return ReloadTransport(llm, reason=reason)
    return SharedTransport(plan, model)


@dataclass(slots=True)
class Tie:
    """One engine tensor and the trainer parameters that are its rows, top to bottom.

    Attributes:
        module, attribute: the engine's module and the name of its parameter.
        pieces: the trainer's parameters, in the order of the engine's rows (q, k, v; gate, up).
        rows: rows of the engine's tensor; more than the pieces' where vLLM pads the vocabulary.
    """

    module: nn.Module
    attribute: str
    pieces: list[nn.Parameter]
    rows: int


def plan_sharing(vllm_model: nn.Module, model: nn.Module) -> tuple[list[Tie] | None, str]:
    """Find a home for every tensor of the base on both sides: (plan, "") or (None, why not)."""
    ours = base_parameters(model)
    fused: dict[str, list[str]] = getattr(vllm_model, "packed_modules_mapping", None) or {}
    plan: list[Tie] = []
    homes: set[int] = set()
    for wrapped_name, module in vllm_model.named_modules():
        module_name = wrapped_name.removesuffix(".base_layer")  # inside vLLM's own LoRA layer
        for attribute, tensor in module._parameters.items():
            if tensor is None:
                continue
            pieces = _pieces(f"{module_name}.{attribute}", ours, fused)
            if pieces is None:
                return None, f"{module_name}.{attribute} has no counterpart in {type(model).__name__}"
            if any(piece.dtype != tensor.dtype and not is_quantised(piece) for piece in pieces):
                return None, f"{module_name}.{attribute} is {tensor.dtype} in the engine"
            rows = sum(plain_shape(piece)[0] for piece in pieces)
            # The engine pads vocabularies; on CPU it has also emptied the matrices that it packed.
            rows = max(rows, getattr(module, "num_embeddings_padded", rows))
            if tensor.numel() and tensor.shape != (rows, *plain_shape(pieces[0])[1:]):
                return (
                    None,
                    f"{module_name}.{attribute} is {tuple(tensor.shape)} in the engine, not {rows} rows",
                )
            plan.append(Tie(module, attribute, pieces, rows))
            homes.update(id(piece) for piece in pieces)
    homeless = [name for name, parameter in ours.items() if id(parameter) not in homes]
    if homeless:
        return None, f"{homeless[0]} has no counterpart in the engine"
    return plan, ""


def _pieces(
    name: str, ours: dict[str, nn.Parameter], fused: dict[str, list[str]]
) -> list[nn.Parameter] | None:
    """The trainer's parameters behind the engine's ``name``: the same name, or the parts that it fuses."""
    if name in ours:
        return [ours[name]]
    path, _, attribute = name.rpartition(".")
    parent, _, leaf = path.rpartition(".")
    parts = [f"{parent}.{part}.{attribute}" for part in fused.get(leaf, ())]
    return [ours[part] for part in parts] if parts and all(part in ours for part in parts) else None


class SharedTransport:
    """Zero-copy: the trainer's parameters are views of the engine's tensors.

    The engine's own storage is kept where it exists, since CUDA graphs hold its addresses; vLLM's CPU build
    has emptied the matrices that it packed, so those get new storage and a plain linear. A 4-bit layer cannot be
    a view: its numbers are copied, once, one matrix at a time. ``views`` holds the addresses of those that are, by
    their plain names.
    """

    name = "shared"
    reason = ""

    def __init__(self, plan: list[Tie], model: nn.Module) -> None:
        self._plan: list[Tie] = plan
        # A 4-bit layer keeps its codes, and its bias too, which bitsandbytes casts in place.
        apart = {id(p) for layer in quantised_layers(model) for p in layer.parameters(recurse=False)}
        self._copied = 0
        storages: dict[int, torch.Tensor] = {}  # first piece → fused storage: tied heads share one
        with torch.no_grad():
            for tie in plan:
                first = tie.pieces[0]
                known = storages.get(id(first))
                storage = known if known is not None else _storage_for(tie)
                _use_storage(tie, storage)
                if known is None:
                    storages[id(first)] = storage
                    self._copied += _fill(tie.pieces, storage, apart)
        shared = {id(piece) for tie in plan for piece in tie.pieces} - apart
        self.views = {
            name: parameter.data_ptr()
            for name, parameter in base_parameters(model).items()
            if id(parameter) in shared
        }

    def push(self, model: nn.Module) -> SyncReport:
        """Nothing to move; refuse if something re-allocated the trainer's parameters."""
        start = time.perf_counter()
        now = base_parameters(model)
        if any(now[name].data_ptr() != address for name, address in self.views.items()):
            raise EngineError(
                "the model's parameters were moved or replaced (model.to(…), a new Parameter) while the engine "
                "shares their memory; make a new trainer after moving a model"
            )
        copied, self._copied = self._copied, 0
        return SyncReport("shared", bytes_copied=copied, seconds=time.perf_counter() - start)

    def release(self) -> None:
        self._plan = []
        self.views = {}


def _storage_for(tie: Tie) -> torch.Tensor:
    """The engine's own tensor, or a new one in its place where vLLM emptied it."""
    tensor = tie.module._parameters[tie.attribute]
    assert tensor is not None
    if tensor.numel():
        return tensor.data
    first = tie.pieces[0]
    # Padded vocabulary rows must be zero, not garbage: their logits are computed before they are cut off.
    return torch.zeros(tie.rows, *plain_shape(first)[1:], dtype=tensor.dtype, device=first.device)


def _use_storage(tie: Tie, storage: torch.Tensor) -> None:
    """Make the engine's module read ``storage``, without the packed copy that it made at start."""
    tensor = tie.module._parameters[tie.attribute]
    assert tensor is not None
    if tensor.data_ptr() != storage.data_ptr():
        tie.module._parameters[tie.attribute] = nn.Parameter(storage, requires_grad=False)
    if tie.attribute == "weight" and hasattr(tie.module, "cpu_linear"):
        # vLLM's CPU build multiplies with a packed copy that is hidden in a closure.
        tie.module.cpu_linear = nn.functional.linear


def _fill(pieces: list[nn.Parameter], storage: torch.Tensor, apart: set[int]) -> int:
    """Copy the trainer's values into ``storage``, then let its parameters be views of it, but for those ``apart``.

    Returns the bytes that live twice from now on.
    """
    row = twice = 0
    for piece in pieces:
        rows = plain_shape(piece)[0]
        view = storage[row : row + rows]
        view.copy_(dequantised(piece, view.dtype))
        if id(piece) in apart:
            twice += view.numel() * view.element_size()
        else:
            piece.data = view
        row += rows
    return twice


class ReloadTransport:
    """Push the full state dict through vLLM's ``reload_weights``.

    The *state dict*, not ``named_parameters()``: that one lists a tied embedding once, and vLLM's packed
    ``lm_head`` would keep its old values without a word.
    """

    name = "reload"

    def __init__(self, llm: Any, reason: str = "") -> None:
        self._llm: Any = llm
        self.reason = reason

    def push(self, model: nn.Module) -> SyncReport:
        start = time.perf_counter()
        copied = 0

        def weights() -> Iterator[tuple[str, torch.Tensor]]:
            nonlocal copied
            for name, tensor in base_state(model):
                copied += tensor.numel() * tensor.element_size()
                yield name, tensor

        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights()})
        return SyncReport("reload", bytes_copied=copied, seconds=time.perf_counter() - start)

    def release(self) -> None:
        self._llm = None
