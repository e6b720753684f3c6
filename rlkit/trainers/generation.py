"""The engine that samples from the policy being trained, and is kept in step with it."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from typing import Any

from rlkit.config import RolloutSettings
from rlkit.engines import Engine, Sampling, SyncReport, make_engine
from rlkit.engines.canary import SyncGuard, canary_sequences
from rlkit.engines.make import EngineWarning
from rlkit.errors import SyncError
from rlkit.rollout import Rollout, Row, tokenize_prompts


class PolicyEngine:
    """Makes the engine, proves that weights reach it, and never samples from weights that are not the trained ones.

    Args:
        model, tokenizer: the policy.
        args: which engine, and how closely it is watched.
        canary: fixed tokens to compare engine and trainer on; see ``canary_tokens``.
        max_model_len: longest prompt + completion, in tokens.
        engine: a ready engine instead of the one that ``args`` asks for.

    Raises:
        SyncError: the engine's weights cannot be trusted, and vLLM or this very engine was asked for. Otherwise
            transformers generates, with an ``EngineWarning``.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        args: RolloutSettings,
        canary: list[list[int]],
        max_model_len: int,
        engine: Engine | None = None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.args = args
        self.canary = canary
        self.stale = False  # the weights have moved and the engine has not been seen to follow
        self.proof: SyncReport | None = None
        self.engine: Engine = engine or self._make(self._wanted, max_model_len)
        self.guard = SyncGuard(self.engine, model, canary, args.sync_tolerance)
        try:
            self.guard.check(self.engine.sync(model))
            if self.engine.weight_sync != "same module":
                self.proof = self.guard.prove()
        except SyncError as error:
            if engine is not None:
                raise
            self.engine.close()
            if self._wanted:
                raise
            text = f"generating with transformers instead of vLLM: {error}"
            warnings.warn(text, EngineWarning, stacklevel=4)
            self.engine = self._make(False, 0)
            self.guard = SyncGuard(self.engine, model, canary, args.sync_tolerance)

    @property
    def _wanted(self) -> bool | None:
        """What the settings ask for, or else what ``load_model`` was told."""
        asked = self.args.fast_inference
        return asked if asked is not None else getattr(self.model, "rlkit_fast_inference", None)

    def _make(self, fast_inference: bool | None, max_model_len: int) -> Engine:
        return make_engine(
            self.model,
            self.tokenizer,
            fast_inference=fast_inference,
            max_model_len=max_model_len,
            weight_sync=self.args.weight_sync,
            gpu_memory_utilization=self.args.gpu_memory_utilization,
            cache_rows=self.args.rows_per_step,
        )

    def sample(self, rows: Sequence[Row], sampling: Sampling, step: int) -> Rollout:
        """``sampling.n`` completions for each row's prompt, from the present weights."""
        if self.stale:  # a forgotten or interrupted sync
            self.sync()
        start = time.perf_counter()
        prompts = [row["prompt"] for row in rows]
        texts, ids = tokenize_prompts(self.tokenizer, prompts)
        completions = self.engine.generate(ids, sampling)
        return Rollout(
            step, list(rows), prompts, texts, ids, completions, sampling.n, time.perf_counter() - start
        )

    def sync(self) -> SyncReport:
        """Carry the weights to the engine; the canary compares both sides.

        Raises:
            SyncError: engine and trainer disagree by more than ``sync_tolerance``.
        """
        report = self.guard.check(self.engine.sync(self.model))
        self.stale = False
        return report

    def prove(self) -> SyncReport | None:
        """The perturbation check; None where engine and trainer are the same module."""
        return None if self.engine.weight_sync == "same module" else self.guard.prove()


def canary_tokens(tokenizer: Any, model: Any, row: Row, context: int | None) -> list[list[int]]:
    """Fixed tokens to compare engine and trainer on, short enough for the model and one generated token."""
    _, ids = tokenize_prompts(tokenizer, [row["prompt"]])
    length = min(16, (context or 17) - 1)
    return canary_sequences(ids[0], model.get_input_embeddings().num_embeddings, length=length)
