"""What every generation engine offers: token ids in, completions out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

from rlkit.adapters import base_model
from rlkit.rollout import Completion

if TYPE_CHECKING:
    from rlkit.engines.sync import SyncReport


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to sample.

    Attributes:
        n: completions a prompt (G).
        max_tokens: at most this many tokens a completion.
        temperature: T in softmax(logits / T); 0 is greedy, and its log-probabilities are then those at T = 1.
        seed: makes the samples repeatable. vLLM draws completion j of prompt i from ``seed + i · n + j``, so its
            samples do not depend on what else is in the batch; transformers draws all from one generator.
        top_logprobs: how many likeliest alternatives to keep at every position (0: none).
    """

    n: int = 1
    max_tokens: int = 256
    temperature: float = 1.0
    seed: int = 0
    top_logprobs: int = 0


@runtime_checkable
class Engine(Protocol):
    """Samples completions from the policy's current weights.

    ``name`` is what summaries and reports show, such as ``"vLLM 0.32 colocated"``; ``weight_sync`` says how
    weights reach it (``"shared"``, ``"reload"``, ``"adapter"``, ``"same module"``, ``"copied"``),
    ``weight_sync_reason`` why they are not shared, or where an adapter's base is. An engine is a context
    manager; leaving the block frees what it holds.
    """

    name: str

    @property
    def weight_sync(self) -> str: ...

    @property
    def weight_sync_reason(self) -> str: ...

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[Completion]:
        """Sample ``sampling.n`` completions for each prompt of token ids; prompt by prompt, in order."""
        ...

    def logprobs(self, token_ids: Sequence[Sequence[int]]) -> list[list[float]]:
        """log π(x_t | x_<t) at temperature 1 of each sequence's tokens but the first (length len − 1)."""
        ...

    def sync(self, model: Any) -> SyncReport:
        """Make the engine sample from ``model``'s present weights."""
        ...

    def close(self) -> None:
        """Free the memory; using the engine afterwards raises ``EngineError``."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc_info: object) -> None: ...


def end_token_ids(model: Any, tokenizer: Any) -> list[int]:
    """Every id that ends a completion: the tokenizer's and the generation config's end-of-sequence tokens.

    Ids beyond the model's vocabulary, which some configs carry over from a larger relative, are left out.
    """
    ids = {tokenizer.eos_token_id}
    model = base_model(model)
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ids.update(configured if isinstance(configured, list) else [configured])
    vocab_size = model.get_input_embeddings().weight.shape[0]  # an adapted embedding has no num_embeddings
    return sorted(i for i in ids if i is not None and i < vocab_size)
