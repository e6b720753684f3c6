"""Prompts that together exceed what vLLM reads at once: seeded sampling must survive it."""

from __future__ import annotations

import pytest
from tiny_models import IdTokenizer, random_model

from rlkit.engines import Sampling, VLLMEngine

pytestmark = pytest.mark.engine


def test_more_prompt_tokens_than_fit_one_round():
    model, tokenizer = random_model("qwen2", tied=True), IdTokenizer()
    prompts = [
        [(7 * i + j) % 50 + 3 for j in range(200)] for i in range(40)
    ]  # 8,000 tokens; a round has 4,096
    sampling = Sampling(n=2, max_tokens=4, seed=5)
    with VLLMEngine(model, tokenizer, max_model_len=224) as engine:
        together = engine.generate(prompts, sampling)
        again = engine.generate(prompts, sampling)
    assert len(together) == 80 and all(completion.token_ids for completion in together)
    assert [c.token_ids for c in together] == [c.token_ids for c in again]
