"""The canary: after every weight update, does the engine still speak with the trainer's voice?

Two checks, because one is not enough:

* ``SyncGuard.check`` compares log-probabilities of a few fixed tokens after each update. It catches a
  skipped sync, a swapped gate/up or a stale lm_head *when the update is large enough to see*.
* ``SyncGuard.prove`` covers updates that vanish in the arithmetic's noise (low learning rates, bf16): it
  visibly perturbs every tensor, synchronises, compares, and restores the weights bit for bit.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from rlkit.engines.base import Engine
from rlkit.engines.sync import SyncReport
from rlkit.errors import SyncError

# Largest |log π_engine − log π_trainer| that arithmetic alone explains, by the dtype of the weights.
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3, torch.bfloat16: 0.35, torch.float16: 0.1}
_FLIPPED = 0.02  # share of entries whose sign the perturbation flips


class SyncGuard:
    """Watches that engine and trainer agree.

    Args:
        engine: the rollout engine.
        model: the model being trained.
        sequences: fixed token ids to compare on; a real prompt and a few random ones do.
        tolerance: largest accepted gap in nats; default by dtype (``TOLERANCE``).
    """

    def __init__(
        self, engine: Engine, model: Any, sequences: Sequence[Sequence[int]], tolerance: float | None = None
    ) -> None:
        self.engine = engine
        self.model = model
        self.sequences = [list(ids) for ids in sequences]
        self.tolerance = TOLERANCE.get(model.dtype, 0.35) if tolerance is None else tolerance
        self._last = self._trainer_logprobs()

    def check(self, report: SyncReport) -> SyncReport:
        """Fill in the report's ``gap``, ``moved`` and ``conclusive``.

        Raises:
            SyncError: the gap exceeds the tolerance.
        """
        start = time.perf_counter()
        mine = self._trainer_logprobs()  # [tokens]
        report.moved = float((mine - self._last).abs().max())
        report.conclusive = report.moved > self.tolerance
        report.gap = self._gap(mine)
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
        """Perturb every tensor, sync, compare, restore, sync, compare. The weights end bit-equal.

        Raises:
            SyncError: the engine did not follow the perturbed or the restored weights.
        """
        start = time.perf_counter()
        try:
            flip_signs(self.model)
            self._last, before = self._trainer_logprobs(), self._last
            moved = float((self._last - before).abs().max())
            report = self.engine.sync(self.model)
            gap = self._gap(self._last)
        finally:
            flip_signs(self.model)
        restored = self.engine.sync(self.model)
        self._last = self._trainer_logprobs()
        gap_restored = self._gap(self._last)
        # A perturbed model's logits are larger than a trained one's, and so is the noise of its arithmetic.
        allowed = self.tolerance * max(1.0, moved)
        if not (gap <= allowed and gap_restored <= self.tolerance):
            raise SyncError(
                f"weights do not reach the engine: with every tensor perturbed, the {report.strategy!r} sync left "
                f"the engine {gap:.3g} nats from the trainer (allowed {allowed:.3g}; the perturbation itself moved "
                f"the trainer by {moved:.3g}), and {gap_restored:.3g} after restoring. {self._advice(report.strategy)}"
            )
        return SyncReport(
            strategy=report.strategy,
            bytes_copied=report.bytes_copied + restored.bytes_copied,
            seconds=time.perf_counter() - start,
            gap=max(gap, gap_restored),
            moved=moved,
            conclusive=moved > self.tolerance,
        )

    def _gap(self, mine: torch.Tensor) -> float:
        """Largest |log π_engine − log π_trainer| in nats; NaN-safe (a NaN on either side is a NaN gap)."""
        theirs = torch.tensor([value for row in self.engine.logprobs(self.sequences) for value in row])
        return float((theirs.double() - mine).abs().max())

    @torch.no_grad()
    def _trainer_logprobs(self) -> torch.Tensor:
        """log π(x_t | x_<t) of every canary token but each sequence's first: float64 [tokens]."""
        was_training = self.model.training
        self.model.eval()
        rows = []
        for ids in self.sequences:
            tokens = torch.tensor([ids], device=self.model.device)  # [1, L]
            logits = self.model(input_ids=tokens).logits[0, :-1].float()  # [L-1, V]
            rows.append(logits.log_softmax(-1).gather(-1, tokens[0, 1:, None]).squeeze(-1))
        self.model.train(was_training)
        return torch.cat(rows).double().cpu()

    @staticmethod
    def _advice(strategy: str) -> str:
        other = {"shared": " try weight_sync='reload', or", "reload": ""}.get(strategy, "")
        return (
            f"What to do:{other} set fast_inference=False (generation with the trainer's own module). If weights "
            "are changed outside trainer.update(), call trainer.sync() afterwards."
        )


@torch.no_grad()
def flip_signs(model: nn.Module, share: float = _FLIPPED, seed: int = 20) -> None:
    """Flip the sign of a fixed random ``share`` of every parameter, in place.

    Applied twice it restores the weights bit for bit in every dtype, with no copy of the model: negation is
    exact. One entry at least is flipped in each tensor.
    """
    seen: set[int] = set()
    for index, parameter in enumerate(model.parameters()):
        if parameter.data_ptr() in seen:
            continue
        seen.add(parameter.data_ptr())
        generator = torch.Generator().manual_seed(seed + index)
        count = max(1, int(share * parameter.numel()))
        # Distinct, so that no entry is flipped twice; drawn without a permutation of the whole tensor.
        chosen = torch.randint(parameter.numel(), (count,), generator=generator).unique()
        where = torch.unravel_index(chosen.to(parameter.device), parameter.shape)
        parameter.data[where] = -parameter.data[where]


def canary_sequences(
    prompt_ids: Sequence[int], vocab_size: int, *, length: int = 16, count: int = 2, seed: int = 11
) -> list[list[int]]:
    """The canary's tokens: the start of a real prompt and ``count`` random sequences of ``length`` ids."""
    generator = torch.Generator().manual_seed(seed)
    random = torch.randint(0, vocab_size, (count, length), generator=generator).tolist()
    return [list(prompt_ids)[:length], *random] if len(prompt_ids) > 1 else random
