"""The transformers engine: what it samples, at which log-probabilities, and when it stops."""

from __future__ import annotations

import pytest
import torch
from tiny_models import VOCAB, IdTokenizer, random_model

from rlkit.engines import Engine, Sampling
from rlkit.engines.hf import HFEngine
from rlkit.errors import EngineError

PROMPTS = [[5, 6, 7, 8, 9, 10], [11], [12, 13, 14]]


@pytest.fixture(scope="module")
def model():
    return random_model("qwen2", tied=True)


def expected_logprobs(model, prompt, completion, temperature=1.0):
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt + completion.token_ids])).logits[0].float()
    logp = (logits / temperature).log_softmax(-1)[len(prompt) - 1 :]
    return [float(logp[j, token]) for j, token in enumerate(completion.token_ids)]


def test_it_is_an_engine(model):
    assert isinstance(HFEngine(model, IdTokenizer()), Engine)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_logprobs_are_those_of_the_distribution_it_draws_from(model, temperature):
    engine = HFEngine(model, IdTokenizer())
    completions = engine.generate(PROMPTS, Sampling(n=5, max_tokens=20, temperature=temperature, seed=1))
    assert len(completions) == 15
    assert any(not c.truncated for c in completions), "rows that end early leave the batch"
    for i, completion in enumerate(completions):
        expected = expected_logprobs(model, PROMPTS[i // 5], completion, temperature)
        assert completion.logprobs == pytest.approx(expected, abs=1e-4)


def test_completions_end_with_the_end_token_or_at_the_limit(model):
    for completion in HFEngine(model, IdTokenizer()).generate(PROMPTS, Sampling(n=20, max_tokens=12, seed=2)):
        ended = completion.token_ids[-1] == IdTokenizer.eos_token_id
        assert IdTokenizer.eos_token_id not in completion.token_ids[:-1]
        assert completion.finish_reason == ("stop" if ended else "length")
        assert ended or len(completion.token_ids) == 12


def test_greedy_equals_transformers_generate(model):
    ours = HFEngine(model, IdTokenizer()).generate(PROMPTS, Sampling(max_tokens=10, temperature=0.0))
    for prompt, completion in zip(PROMPTS, ours, strict=True):
        theirs = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt)),
            do_sample=False,
            max_new_tokens=10,
        )
        assert completion.token_ids == theirs[0, len(prompt) :].tolist()


def test_samples_follow_the_models_distribution(model):
    """First tokens of many samples against the exact probabilities (a χ² test with a fixed seed)."""
    count = 4000
    completions = HFEngine(model, IdTokenizer(), max_batch_rows=count).generate(
        [PROMPTS[0]], Sampling(n=count, max_tokens=1, seed=3)
    )
    with torch.no_grad():
        policy = model(input_ids=torch.tensor([PROMPTS[0]])).logits[0, -1].double().softmax(-1)
    seen = torch.bincount(torch.tensor([c.token_ids[0] for c in completions]), minlength=VOCAB)
    likely = policy * count >= 5
    chi2 = float((((seen - policy * count) ** 2) / (policy * count))[likely].sum())
    freedom = int(likely.sum())
    assert chi2 < freedom + 4 * (2 * freedom) ** 0.5


def test_seeds_repeat_and_the_users_random_numbers_stay(model):
    engine = HFEngine(model, IdTokenizer())
    torch.manual_seed(9)
    expected = torch.rand(2)
    torch.manual_seed(9)
    first, second = (engine.generate(PROMPTS, Sampling(n=3, max_tokens=9, seed=4)) for _ in range(2))
    assert [c.token_ids for c in first] == [c.token_ids for c in second]
    assert torch.equal(torch.rand(2), expected)


def test_small_batches_serve_all_prompts(model):
    engine = HFEngine(model, IdTokenizer(), max_batch_rows=4)
    completions = engine.generate(PROMPTS, Sampling(n=3, max_tokens=5, temperature=0.0))
    whole = HFEngine(model, IdTokenizer()).generate(PROMPTS, Sampling(n=3, max_tokens=5, temperature=0.0))
    assert [c.token_ids for c in completions] == [c.token_ids for c in whole]


@pytest.mark.parametrize("n", [3, 7, 8])
def test_no_more_rows_than_allowed_are_decoded_at_once(model, n, monkeypatch):
    """Not even where one prompt alone has more completions than that."""
    shapes = []
    forward = type(model).forward

    def watched(self, *args, **kwargs):
        output = forward(self, *args, **kwargs)
        shapes.append(output.logits.shape)
        return output

    monkeypatch.setattr(type(model), "forward", watched)
    engine = HFEngine(model, IdTokenizer(), max_batch_rows=4)
    completions = engine.generate(PROMPTS, Sampling(n=n, max_tokens=5, seed=5))
    assert max(rows for rows, _, _ in shapes) <= 4
    assert max(positions for _, positions, _ in shapes) == 1
    assert len(completions) == 3 * n
    assert len({tuple(c.token_ids) for c in completions[:n]}) > 1
    for i, completion in enumerate(completions):
        assert completion.logprobs == pytest.approx(
            expected_logprobs(model, PROMPTS[i // n], completion), abs=1e-4
        )
    shapes.clear()
    engine.logprobs([[5, 6, 7], [8, 9, 10]])
    assert shapes == [(1, 3, VOCAB), (1, 3, VOCAB)], "one sequence's logits at a time"


def test_an_adapter_is_part_of_the_policy():
    from rlkit.adapters import adapter_disabled, add_lora

    policy = add_lora(random_model("qwen2", tied=True), r=4)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if ".lora_B." in name:
                parameter.fill_(0.05)
    engine = HFEngine(policy, IdTokenizer())
    assert engine.sync(policy).bytes_copied == 0
    for i, completion in enumerate(engine.generate(PROMPTS, Sampling(n=3, max_tokens=8, seed=6))):
        expected = expected_logprobs(policy, PROMPTS[i // 3], completion)
        assert completion.logprobs == pytest.approx(expected, abs=1e-4)
    (adapted,) = engine.logprobs([PROMPTS[0]])
    with adapter_disabled(policy):
        (bare,) = engine.logprobs([PROMPTS[0]])
    assert adapted != pytest.approx(bare, abs=0.1)


def test_top_logprobs_are_the_likeliest_tokens(model):
    (completion,) = HFEngine(model, IdTokenizer()).generate(
        [PROMPTS[0]], Sampling(max_tokens=1, top_logprobs=4)
    )
    with torch.no_grad():
        logp = model(input_ids=torch.tensor([PROMPTS[0]])).logits[0, -1].float().log_softmax(-1)
    values, ids = logp.topk(4)
    assert completion.topk_ids == [ids.tolist()]
    assert completion.topk_logprobs[0] == pytest.approx(values.tolist(), abs=1e-5)


def test_sequence_logprobs_do_not_depend_on_padding(model):
    engine = HFEngine(model, IdTokenizer())
    sequences = [[5, 6, 7, 8, 9], [11, 12], [13, 14, 15]]
    together = engine.logprobs(sequences)
    assert [len(row) for row in together] == [4, 1, 2]
    for sequence, row in zip(sequences, together, strict=True):
        assert row == pytest.approx(engine.logprobs([sequence])[0], abs=1e-5)


def test_syncing_another_model_copies_its_weights(model):
    own, other = random_model("qwen2", tied=True, seed=1), random_model("qwen2", tied=True, seed=2)
    engine = HFEngine(own, IdTokenizer())
    assert engine.sync(own).bytes_copied == 0
    assert engine.sync(other).bytes_copied > 0
    assert engine.logprobs([[5, 6, 7]]) == HFEngine(other, IdTokenizer()).logprobs([[5, 6, 7]])


def test_a_closed_engine_says_so(model):
    with HFEngine(model, IdTokenizer()) as engine:
        pass
    with pytest.raises(EngineError, match="closed"):
        engine.generate(PROMPTS, Sampling())
