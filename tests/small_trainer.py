"""A trainer on a random two-layer model: what tests of training need."""

from __future__ import annotations

import torch

from rlkit import GRPOConfig, GRPOTrainer
from rlkit.embedded import build_tokenizer

PROMPTS = [{"prompt": f"{a}+{b}=", "answer": str(a + b)} for a in range(4) for b in range(3)]


def small_model(seed: int = 0, tied: bool = True):
    """A random two-layer character model."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tokenizer = build_tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=64,
            tie_word_embeddings=tied,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
        )
        return Qwen2ForCausalLM(config), tokenizer


def token_sum(completions, completion_ids, **columns):
    """A reward with spread for any model: depends on the sampled tokens alone."""
    return [float(sum(ids) % 7) for ids in completion_ids]


def make_trainer(
    tmp_path, reward=token_sum, model=None, dataset=PROMPTS, judged_by=None, **settings
) -> GRPOTrainer:
    """``judged_by``: the trainer's arguments for evaluation (eval_dataset, callbacks, verifier)."""
    model, tokenizer = model or small_model()
    defaults = dict(
        output_dir=str(tmp_path / "run"),
        max_steps=3,
        prompts_per_step=4,
        num_generations=4,
        max_completion_length=6,
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        fast_inference=False,
        save_model=False,
        probe_prompts=0,
        disable_tqdm=True,
        seed=0,
    )
    args = GRPOConfig(**{**defaults, **settings})
    return GRPOTrainer(model, reward, args, dataset, processing_class=tokenizer, **(judged_by or {}))


def weights_of(model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}
