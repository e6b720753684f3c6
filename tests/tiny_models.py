"""Small random models of the architectures that rlkit supports, for tests of engines and weight sync."""

from __future__ import annotations

from typing import Any

import torch

ARCHITECTURES = ("qwen2", "qwen3", "llama", "mistral", "phi3", "gemma3")
VOCAB = 100


class IdTokenizer:
    """The least that an engine asks of a tokenizer: an end token and a decoder."""

    eos_token_id = 2
    pad_token_id = 0

    def batch_decode(self, rows: list[list[int]], skip_special_tokens: bool = True) -> list[str]:
        return [" ".join(map(str, row)) for row in rows]


def random_model(architecture: str, tied: bool, seed: int = 0) -> Any:
    """A two-layer model with weights large enough that its predictions are far from uniform."""
    import transformers as hf

    settings: dict[str, Any] = {
        "vocab_size": VOCAB,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "tie_word_embeddings": tied,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    if architecture in ("qwen2", "phi3"):
        settings["hidden_size"] = 128  # no head_dim of their own: 128 / 4 heads = 32
    else:
        settings["head_dim"] = 32
    if architecture == "gptoss":
        settings |= {"num_local_experts": 4, "num_experts_per_tok": 2}
    classes = {
        "qwen2": ("Qwen2Config", "Qwen2ForCausalLM"),
        "qwen3": ("Qwen3Config", "Qwen3ForCausalLM"),
        "llama": ("LlamaConfig", "LlamaForCausalLM"),
        "mistral": ("MistralConfig", "MistralForCausalLM"),
        "phi3": ("Phi3Config", "Phi3ForCausalLM"),
        "gemma3": ("Gemma3TextConfig", "Gemma3ForCausalLM"),
        "gptoss": ("GptOssConfig", "GptOssForCausalLM"),
    }
    config_class, model_class = (getattr(hf, name) for name in classes[architecture])
    generator = torch.random.fork_rng()
    with generator:
        torch.manual_seed(seed)
        model = model_class(config_class(**settings)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                # Norm weights and biases start out uniform, which would hide a mix-up.
                parameter.add_(torch.randn_like(parameter) * 0.1) if parameter.ndim == 1 else parameter.mul_(
                    4
                )
    return model


def train_a_little(model: Any, steps: int, seed: int = 0, lr: float = 1e-3) -> None:
    """Move all weights with a few optimizer steps on random tokens."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        ids = torch.randint(3, VOCAB, (4, 20), generator=generator)
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
