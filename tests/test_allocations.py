"""What the allocator is asked for while a trainer steps: never completion tokens × vocabulary numbers.

The profiler notes every allocation's size, forward and backward, whichever operation asks for it and however short its
life. What stays is one tile of the log-probabilities (rows × vocabulary of ``DEFAULT_TILES``), the head with its
gradient (V × H), and in sampling the logits of one position of the rows that are decoded at once: [rows, V].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from small_trainer import PROMPTS, token_sum
from torch.profiler import ProfilerActivity, profile

from rlkit import GRPOConfig, GRPOTrainer, SFTConfig
from rlkit.adapters import add_lora
from rlkit.embedded import build_tokenizer
from rlkit.logprobs import DEFAULT_TILES
from rlkit.trainers.sft import SFTTrainer

V, H = 20_000, 32
P, G, T = 4, 8, 64  # prompts, completions each, tokens each
ROWS = P * G
FLOAT = 4  # bytes
TILE = DEFAULT_TILES["cpu"][0] * DEFAULT_TILES["cpu"][1] * FLOAT
HEAD = V * H * FLOAT
ONE_POSITION = ROWS * V * FLOAT


def largest_allocation(work: Callable[[], Any]) -> tuple[int, Any]:
    """The most bytes that one allocation asks for while ``work()`` runs, and what it returns."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = work()
    assert profiler.profiler is not None and profiler.profiler.kineto_results is not None
    events = profiler.profiler.kineto_results.events()
    return max(event.nbytes() for event in events if event.name() == "[memory]"), result


def wide_model(tied: bool = False) -> tuple[Any, Any]:
    """A random two-layer model with a large vocabulary, of which the tokenizer knows the first few."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tokenizer = build_tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = Qwen2Config(
            vocab_size=V,
            hidden_size=H,
            intermediate_size=H,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=128,
            tie_word_embeddings=tied,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
        )
        return Qwen2ForCausalLM(config), tokenizer


def make_trainer(tmp_path: Any, model: Any, tokenizer: Any, **settings: Any) -> GRPOTrainer:
    args = GRPOConfig(
        output_dir=str(tmp_path / "run"),
        max_steps=1,
        prompts_per_step=P,
        num_generations=G,
        max_completion_length=T,
        learning_rate=1e-3,
        fast_inference=False,
        save_model=False,
        probe_prompts=0,
        disable_tqdm=True,
        **settings,
    )
    return GRPOTrainer(model, token_sum, args, PROMPTS, processing_class=tokenizer)


def tokens_times_vocabulary(tokens: float) -> int:
    """Bytes of the logits that are never held; the tiles must be small beside them, or the test says nothing."""
    whole = int(tokens) * V * FLOAT
    assert max(TILE, HEAD, ONE_POSITION) < whole / 16
    return whole


@pytest.mark.parametrize(
    ("head", "settings"),
    [
        ("trained", {}),
        ("tied", {"beta": 0.1}),
        ("frozen", {"entropy_coef": 0.01}),
        ("trained", {"steps_per_generation": 2, "num_iterations": 2}),
        ("trained", {"gradient_checkpointing": True, "micro_batch_tokens": 100_000}),
        ("lora", {}),
        ("lora", {"beta": 0.1, "steps_per_generation": 2, "gradient_checkpointing": True}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value) or "plain",
)
def test_a_whole_step(tmp_path: Any, head: str, settings: dict[str, Any]) -> None:
    """Also where a micro-batch is the whole step, and with every second pass that a setting asks for."""
    model, tokenizer = wide_model(tied=head == "tied")
    if head == "frozen":
        model.lm_head.requires_grad_(False)
    if head == "lora":
        model = add_lora(model, r=4, lora_alpha=8)
    with make_trainer(tmp_path, model, tokenizer, **settings) as trainer:
        most, metrics = largest_allocation(trainer.step)
    assert metrics["grad_norm"] > 0 and not metrics["skipped"]
    assert most < tokens_times_vocabulary(metrics["tokens"]) / 8
    assert most == max(TILE, HEAD, ONE_POSITION)


def test_sampling_holds_one_position_of_the_rows_and_the_update_one_tile(tmp_path: Any) -> None:
    model, tokenizer = wide_model()
    with make_trainer(tmp_path, model, tokenizer, beta=0.1) as trainer:
        most, rollout = largest_allocation(trainer.rollout)
        assert most == ONE_POSITION
        advantages = trainer.advantages(trainer.score(rollout))
        most, metrics = largest_allocation(lambda: trainer.update(rollout, advantages))
        assert metrics["grad_norm"] > 0 and most == max(TILE, HEAD)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "gradient_checkpointing"])
def test_a_step_of_supervised_fine_tuning(tmp_path: Any, checkpointing: bool) -> None:
    model, tokenizer = wide_model()
    rows = [{"prompt": f"{a}+{a}=", "completion": str(a % 10) * (T - 1)} for a in range(ROWS)]
    args = SFTConfig(
        output_dir=str(tmp_path / "run"),
        max_steps=1,
        rows_per_step=ROWS,
        gradient_checkpointing=checkpointing,
        micro_batch_tokens=100_000,
        save_model=False,
        disable_tqdm=True,
    )
    trainer = SFTTrainer(model, args, rows, rows, processing_class=tokenizer)
    for work in (trainer.step, trainer.judge):
        most, result = largest_allocation(work)
        tokens = result.tokens if work == trainer.judge else result["completion_tokens"]
        assert most < tokens_times_vocabulary(tokens) / 8
        assert most == max(TILE, HEAD)


def test_the_instrument_sees_logits_where_they_are_held() -> None:
    """The control: a planted tensor, and the usual way to log-probabilities on a batch of the same size."""
    planted, _ = largest_allocation(lambda: torch.empty(12_345, dtype=torch.uint8))
    assert planted == 12_345
    model, _ = wide_model()
    ids = torch.randint(0, V, (ROWS, T), generator=torch.Generator().manual_seed(0))  # [N, T]

    def usual() -> None:
        logp = model(ids).logits.log_softmax(-1)  # [N, T, V]
        logp.gather(-1, ids[..., None]).sum().backward()

    most, _ = largest_allocation(usual)
    assert most == tokens_times_vocabulary(ids.numel())
    most, _ = largest_allocation(lambda: model.lm_head(torch.zeros(1, H)).detach())
    assert most == V * FLOAT
