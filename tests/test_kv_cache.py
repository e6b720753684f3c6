"""The size of vLLM's key/value cache on a CPU."""

from __future__ import annotations

import pytest
import torch
from tiny_models import IdTokenizer, random_model

from rlkit.adapters import add_lora
from rlkit.engines import kv_cache
from rlkit.engines.kv_cache import LEAST, kv_cache_bytes


def test_it_is_what_the_sequences_keep(monkeypatch):
    """Two layers, keys and values of 2 heads of 32, float32: 1,024 bytes a token; 130 tokens are two blocks of 128."""
    monkeypatch.setattr(kv_cache, "LEAST", 0)
    model = random_model("qwen2", tied=True)
    assert kv_cache_bytes(model, rows=10, length=128) == 10 * 128 * 1024
    assert kv_cache_bytes(model, rows=10, length=130) == 10 * 256 * 1024
    assert kv_cache_bytes(add_lora(model, r=2), rows=10, length=130) == 10 * 256 * 1024
    assert kv_cache_bytes(model.to(torch.bfloat16), rows=10, length=130) == 10 * 256 * 512
    wide = random_model("qwen3", tied=True)  # a head_dim of its own
    assert kv_cache_bytes(wide, rows=10, length=1) == 10 * 128 * 1024


def test_it_leaves_the_machine_its_memory_and_always_holds_a_sequence(monkeypatch):
    model = random_model("qwen2", tied=True)
    assert kv_cache_bytes(model, rows=1, length=10) == LEAST
    most = kv_cache_bytes(model, rows=10**9, length=256)
    assert LEAST < most < 2**40
    monkeypatch.setattr(kv_cache, "MOST_OF_MEMORY", 1e-12)
    assert kv_cache_bytes(model, rows=10**9, length=2**20) == 2 * 2**20 * 1024


@pytest.mark.engine
def test_more_sequences_than_it_holds_wait_for_each_other(monkeypatch):
    from rlkit.engines import Sampling, VLLMEngine

    monkeypatch.setattr(kv_cache, "LEAST", 0)
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    model = random_model("qwen2", tied=True)
    with VLLMEngine(model, IdTokenizer(), max_model_len=128, cache_rows=2) as engine:
        held = engine._open().llm_engine.vllm_config.cache_config.kv_cache_memory_bytes
        assert held == kv_cache_bytes(model, 2, 128) == 2 * 128 * 1024
        few = engine.generate([[5, 6, 7]], Sampling(n=2, max_tokens=100, seed=1))
        many = engine.generate([[5, 6, 7]], Sampling(n=12, max_tokens=100, seed=1))
    assert len(many) == 12 and all(completion.token_ids for completion in many)
    assert [c.token_ids for c in many[:2]] == [c.token_ids for c in few], (
        "a seed's samples do not depend on it"
    )
