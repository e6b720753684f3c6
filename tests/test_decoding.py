"""Decoding with transformers' model: the cache that has room, and attention that reads each key/value head once."""

from __future__ import annotations

import pytest
import torch
from tiny_models import ARCHITECTURES, IdTokenizer, random_model
from transformers.cache_utils import DynamicCache, DynamicLayer

from rlkit.engines import Sampling, decoding
from rlkit.engines.decoding import RoomyLayer, grouped_attention, with_room
from rlkit.engines.hf import HFEngine, _draw
from rlkit.errors import EngineError

PROMPTS = [[5, 6, 7, 8, 9, 10], [11], [12, 13, 14]]


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "gptoss"])
def test_every_architecture_samples_from_its_own_distribution(architecture, monkeypatch):
    """Padded prompts, rows that end, and more tokens than the first room holds; gpt-oss has no sdpa."""
    monkeypatch.setattr(decoding, "_LEAST_ROOM", 2)
    model = random_model(architecture, tied=False)
    completions = HFEngine(model, IdTokenizer()).generate(PROMPTS, Sampling(n=12, max_tokens=24, seed=1))
    assert len({len(completion.token_ids) for completion in completions}) > 1
    for i, completion in enumerate(completions):
        prompt = PROMPTS[i // 12]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt + completion.token_ids])).logits[0].float()
        logp = logits.log_softmax(-1)[len(prompt) - 1 :]
        expected = [float(logp[j, token]) for j, token in enumerate(completion.token_ids)]
        assert completion.logprobs == pytest.approx(expected, abs=1e-4)


def test_a_token_does_not_copy_the_cache():
    layer = DynamicLayer()
    r = torch.Generator().manual_seed(0)
    states = [torch.randn(3, 2, n, 4, generator=r) for n in (5, *[1] * 80)]  # [N, K, L, D]
    layer.update(states[0], -states[0])
    cache = DynamicCache()
    cache.layers.append(layer)
    with_room(cache)
    (roomy,) = cache.layers
    assert isinstance(roomy, RoomyLayer)
    places = set()
    for new in states[1:]:
        keys, values = roomy.update(new, -new)
        places.add((keys.data_ptr(), values.data_ptr()))
    assert len(places) == 3, "80 tokens, and room was made three times: 32, 74 and 150 tokens"
    assert torch.equal(keys, torch.cat(states, -2)) and torch.equal(values, -keys)
    assert roomy.get_seq_length() == 85

    roomy.batch_select_indices(torch.tensor([2, 0]))
    keys, _ = roomy.update(states[1][:2], states[1][:2])
    assert torch.equal(keys, torch.cat([*(s[[2, 0]] for s in states), states[1][:2]], -2))
    roomy.batch_repeat_interleave(2)
    keys, _ = roomy.update(states[1][:1].repeat(4, 1, 1, 1), states[1][:1].repeat(4, 1, 1, 1))
    assert keys.shape == (4, 2, 87, 4) and torch.equal(keys[0], keys[1])


def test_attention_reads_each_key_head_where_it_lies(monkeypatch):
    """4 query heads and 2 key/value heads: torch is given 2 heads of 2 queries, and no copy of the keys."""
    seen = []
    torch_attention = torch.nn.functional.scaled_dot_product_attention

    def watched(query, key, value, *args, **kwargs):
        seen.append((tuple(query.shape[1:3]), key.shape[1]))
        return torch_attention(query, key, value, *args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    model = random_model("qwen2", tied=True)
    HFEngine(model, IdTokenizer()).generate(PROMPTS, Sampling(n=2, max_tokens=3, temperature=0.0))
    decoded = [shapes for shapes in seen if shapes[0][1] == 2]
    assert decoded and all(key_heads == 2 for _, key_heads in decoded)


def test_the_models_own_attention_comes_back():
    model = random_model("qwen3", tied=True)
    with pytest.raises(KeyboardInterrupt), grouped_attention(model):
        assert model.config._attn_implementation == decoding.GROUPED
        raise KeyboardInterrupt
    assert model.config._attn_implementation == "sdpa"
    model.set_attn_implementation("eager")
    with grouped_attention(model):
        assert model.config._attn_implementation == "eager"


@pytest.mark.parametrize("vocabulary", [100, 512, 1024, 1300])
def test_draws_follow_the_probabilities_and_never_hit_zero(vocabulary):
    """Also in a vocabulary of several blocks, at their edges, and where the last one is not whole."""
    generator = torch.Generator().manual_seed(0)
    likely = [0, 7, vocabulary - 2, min(512, vocabulary - 3)]
    p = torch.zeros(vocabulary)
    p[likely] = torch.tensor([0.4, 0.1, 0.3, 0.2])
    drawn = _draw(p.expand(20_000, -1), generator)
    share = torch.bincount(drawn, minlength=vocabulary) / len(drawn)
    assert set(drawn.unique().tolist()) == set(likely)
    assert torch.allclose(share, p, atol=0.015)  # four standard deviations


def test_probabilities_that_are_not_finite_are_refused():
    model = random_model("qwen2", tied=True)
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(EngineError, match=r"not finite.*NaN in its weights"):
        HFEngine(model, IdTokenizer()).generate(PROMPTS, Sampling(max_tokens=2))


def test_a_rare_token_of_a_large_vocabulary_is_drawn():
    """100,000 tokens of 1e-5 each: a sum in float32 would lose the last ones' share."""
    p = torch.full((100_000,), 1e-5)
    drawn = _draw(p.expand(200, -1), torch.Generator().manual_seed(1))
    upper = (drawn >= 50_000).float().mean()
    assert 0.35 < float(upper) < 0.65 and int(drawn.max()) < 100_000
