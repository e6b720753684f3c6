"""The canary: after every weight update, does the engine still speak with the trainer's voice?

Two checks, because one is not enough:

* ``SyncGuard.check`` compares log-probabilities of a few fixed tokens after each update. It catches a
  skipped sync, a swapped gate/up or a stale lm_head *when the update is large enough to see*.
* ``SyncGuard.prove`` covers updates that vanish in the arithmetic's noise (low learning rates, bf16): it
  visibly perturbs every tensor that travels, synchronises, compares, and restores the weights bit for bit.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from rlkit.adapters import is_adapter_model
from rlkit.engines.base import Engine
from rlkit.engines.base_weights import quantised_layers
from rlkit.engines.sync import SyncReport
from rlkit.errors import SyncError
from rlkit.interrupts import interrupts_held

# Largest |log π_engine − log π_trainer| in nats that arithmetic alone explains, by the dtype of the weights.
# float32: 1e-6 to 3e-5 was seen; 16 bits: engine and trainer round at different places, and the logits are far off.
# The canary's random tokens are unlikely ones, whose logits are large: 0.47 was seen in bfloat16 (SmolLM2, H100).
TOLERANCE = {torch.float32: 3e-4, torch.float64: 3e-4, torch.bfloat16: 1.0, torch.float16: 0.1}
# On a GPU vLLM's float32 attention multiplies in TF32: 9e-3 was seen on an H100, the same shared and reloaded.
TOLERANCE_TF32 = 0.05
FLIPPED = {1: 0.25}  # share of entries whose sign the perturbation flips: biases and norms are few,
FLIPPED_OTHERWISE = 0.02  # matrices many
FLIPPED_ADAPTER = 0.25  # an adapter's matrices are small, and so is what they do
FILLED = 0.05  # what replaces a tensor of zeros, and an adapter's B
_FOLLOWED = 0.25  # an engine has followed a movement when it is off by less than this share of it


class SyncGuard:
    """Watches that engine and trainer agree.

    Args:
        engine: the rollout engine.
        model: the model being trained.
        sequences: fixed token ids to compare on; a real prompt and a few random ones do.
        tolerance: largest accepted gap in nats; default by the coarsest dtype that computes (``TOLERANCE``).
    """

    def __init__(
        self, engine: Engine, model: Any, sequences: Sequence[Sequence[int]], tolerance: float | None = None
    ) -> None:
        self.engine = engine
        self.model = model
        self.sequences = [list(ids) for ids in sequences]
        # A 4-bit layer computes in a dtype of its own; the engine's dequantised copy does not.
        dtypes = {model.dtype, *(getattr(layer, "compute_dtype", None) for layer in quantised_layers(model))}
        coarsest = max(TOLERANCE.get(dtype, 1.0) for dtype in dtypes - {None})
        tf32 = model.device.type == "cuda" and engine.weight_sync != "same module"
        if tf32:
            coarsest = max(coarsest, TOLERANCE_TF32)
        self.tolerance = coarsest if tolerance is None else tolerance
        self._exact = dtypes <= {torch.float32, torch.float64, None} and not tf32
        self._last = self._trainer_logprobs()

    def check(self, report: SyncReport) -> SyncReport:
        """Fill in the report's ``gap``, ``moved`` and ``conclusive``.

        Raises:
            SyncError: the gap exceeds the tolerance.
        """
        start = time.perf_counter()
        mine = self._trainer_logprobs()  # [tokens]
        report.moved = _largest(mine - self._last)
        report.conclusive = report.moved > self.tolerance
        same = report.strategy == "same module"  # one and the same: nothing to compare
        report.gap = 0.0 if same else _largest(self._engine_logprobs() - mine)
        self._last = mine
        report.seconds += time.perf_counter() - start
        if not report.gap <= self.tolerance:  # also true for NaN
            raise SyncError(
                f"after a {report.strategy!r} weight sync the engine's log-probabilities are {report.gap:.3g} nats "
                f"from the trainer's on the canary tokens (tolerance {self.tolerance:g}). Rollouts would come from "
                "the wrong weights. " + self._advice(report.strategy)
            )
        return report

    def prove(self) -> SyncReport:
        """Perturb every tensor that travels, sync, compare, restore, sync, compare. The weights end bit-equal.

        In float32 the engine must agree to the tolerance under the perturbed weights too, which any one stale
        tensor breaks. In 16 bits rounding hides single tensors; there the engine must have followed the
        trainer's movement to a quarter, on average over the canary tokens, which a dead path breaks.

        Raises:
            SyncError: the engine did not follow the perturbed or the restored weights, or the perturbation
                moved nothing, so that agreement would prove nothing.
        """
        start = time.perf_counter()
        before = self._trainer_logprobs()  # [tokens]
        with interrupts_held():  # a perturbed model must never be left behind
            try:
                with perturbed(self.model):
                    moved = self._trainer_logprobs() - before
                    report = self.engine.sync(self.model)
                    missed = self._engine_logprobs() - before - moved
            finally:
                restored = self.engine.sync(self.model)
        back = self._engine_logprobs() - before
        followed = (
            _largest(missed) <= self.tolerance
            if self._exact
            else float(missed.abs().mean()) <= _FOLLOWED * float(moved.abs().mean())
        )
        conclusive = _largest(moved) > self.tolerance or not self._exact
        if not (followed and conclusive and _largest(back) <= self.tolerance):
            raise SyncError(
                f"weights do not reach the engine: with every tensor perturbed, the trainer's log-probabilities moved "
                f"by up to {_largest(moved):.3g} nats, and the {report.strategy!r} sync left the engine "
                f"{_largest(missed):.3g} from them, {_largest(back):.3g} after restoring (tolerance "
                f"{self.tolerance:g}). {self._advice(report.strategy)}"
            )
        return SyncReport(
            strategy=report.strategy,
            bytes_copied=report.bytes_copied + restored.bytes_copied,
            seconds=time.perf_counter() - start,
            gap=max(_largest(missed), _largest(back)),
            moved=_largest(moved),
            conclusive=True,
        )

    def _engine_logprobs(self) -> torch.Tensor:
        rows = self.engine.logprobs(self.sequences)
        return torch.tensor([value for row in rows for value in row], dtype=torch.float64)

    @torch.no_grad()
    def _trainer_logprobs(self) -> torch.Tensor:
        """log π(x_t | x_<t) of every canary token but each sequence's first: float64 [tokens]."""
        was_training = self.model.training
        self.model.eval()
        # One pass for all: what stands behind a shorter sequence's end is not seen by a causal model before it.
        width = max(len(ids) for ids in self.sequences)
        padded = [ids + [0] * (width - len(ids)) for ids in self.sequences]
        tokens = torch.tensor(padded, device=self.model.device)  # [n, L]
        logits = self.model(input_ids=tokens, use_cache=False).logits[:, :-1].float()  # [n, L-1, V]
        logp = logits.log_softmax(-1).gather(-1, tokens[:, 1:, None]).squeeze(-1)  # [n, L-1]
        self.model.train(was_training)
        rows = [row[: len(ids) - 1] for row, ids in zip(logp, self.sequences, strict=True)]
        return torch.cat(rows).double().cpu()

    @staticmethod
    def _advice(strategy: str) -> str:
        other = " try weight_sync='reload', or" if strategy == "shared" else ""
        return (
            f"What to do:{other} set fast_inference=False (generation with the trainer's own module). If weights "
            "are changed outside trainer.update(), call trainer.sync() afterwards."
        )


def _largest(difference: torch.Tensor) -> float:
    """Largest absolute entry; NaN where there is one."""
    return float(difference.abs().max())


@contextlib.contextmanager
def perturbed(model: nn.Module, seed: int = 20) -> Iterator[None]:
    """Flip the sign of a fixed random share of every parameter inside the block, and flip it back after it.

    Negation is exact in every dtype, so the weights are restored bit for bit with no copy of the model. A
    tensor that is all zero (a fresh bias) is filled with a constant and zeroed again.

    With an adapter, only what travels is touched: the adapter, and what is trained besides it. Its B, which starts at
    zero and stays too small to see for many updates, becomes ±0.05 and is put back from a copy: adapters
    are small. The frozen base went over once, and the first comparison covers it.

    Only what was perturbed is undone, whatever happens in between.
    """
    adapted = is_adapter_model(model)
    done: list[tuple[nn.Parameter, tuple[torch.Tensor, ...] | torch.Tensor | None]] = []
    try:
        with torch.no_grad():
            for index, (name, parameter) in enumerate(model.named_parameters()):
                of_adapter = adapted and ".lora_" in name
                if not parameter.numel() or not parameter.is_floating_point():
                    continue  # such as the codes of a 4-bit layer
                if adapted and not (of_adapter or parameter.requires_grad):
                    continue
                if of_adapter and ".lora_B." in name:
                    done.append((parameter, parameter.data.clone()))
                    parameter.data.fill_(FILLED)
                    where = _chosen(parameter, seed + index, 0.5)
                    parameter.data[where] = -parameter.data[where]
                elif not parameter.data.any():
                    done.append((parameter, None))
                    parameter.data.fill_(FILLED)
                else:
                    where = _chosen(parameter, seed + index, FLIPPED_ADAPTER if of_adapter else None)
                    done.append((parameter, where))
                    parameter.data[where] = -parameter.data[where]
        yield
    finally:
        with torch.no_grad():
            for parameter, undo in done:
                if undo is None:
                    parameter.data.zero_()
                elif isinstance(undo, torch.Tensor):
                    parameter.data.copy_(undo)
                else:
                    parameter.data[undo] = -parameter.data[undo]


def _chosen(parameter: nn.Parameter, seed: int, share: float | None) -> tuple[torch.Tensor, ...]:
    """Indices of the entries to flip: at least one, distinct, drawn without a permutation of the whole tensor."""
    share = FLIPPED.get(parameter.ndim, FLIPPED_OTHERWISE) if share is None else share
    count = max(1, int(share * parameter.numel()))
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(parameter.numel(), (count,), generator=generator).unique()
    return torch.unravel_index(chosen.to(parameter.device), parameter.shape)


def canary_sequences(
    prompt_ids: Sequence[int], vocab_size: int, *, length: int = 16, count: int = 2, seed: int = 11
) -> list[list[int]]:
    """The canary's tokens: the start of a real prompt and ``count`` random sequences of ``length`` ids."""
    generator = torch.Generator().manual_seed(seed)
    random = torch.randint(0, vocab_size, (count, length), generator=generator).tolist()
    return [list(prompt_ids)[:length], *random] if len(prompt_ids) > 1 else random
