"""Micro-batches: every row once, within the budget, hardly any padding, and the gradient does not notice."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_trainer import make_trainer, small_model

from rlkit.rollout import Completion, Rollout, build_batch, unpack
from rlkit.trainers.micro_batches import MAX_PADDING, micro_batches


@given(
    st.lists(st.integers(1, 300), max_size=80),
    st.integers(1, 2000),
    st.one_of(st.none(), st.integers(1, 20)),
)
def test_every_row_once_within_all_limits(lengths, max_tokens, max_rows):
    batches = micro_batches(lengths, max_tokens=max_tokens, max_rows=max_rows)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    for batch in batches:
        width = max(lengths[row] for row in batch)
        filled = sum(lengths[row] for row in batch)
        assert len(batch) == 1 or len(batch) * width <= max_tokens
        assert max_rows is None or len(batch) <= max_rows
        assert len(batch) * width - filled <= MAX_PADDING * filled


@given(st.lists(st.integers(1, 300), min_size=1, max_size=80))
def test_rows_of_one_length_fill_the_budget(lengths):
    """No more rectangles than needed: equal rows stand together."""
    rows = [7] * len(lengths)
    assert len(micro_batches(rows, max_tokens=70)) == -(-len(rows) // 10)


def ragged_batch(generator: torch.Generator):
    """Prompts and completions of many lengths; token ids are all different, so that a shift would show."""
    counter = iter(range(10_000))
    sizes = torch.randint(1, 9, (6, 2), generator=generator).tolist()
    prompts = [[next(counter) for _ in range(size)] for size, _ in sizes]
    completions = [
        Completion([next(counter) for _ in range(size)], [0.0] * size, "", "stop")
        for _, size in sizes
        for _ in range(2)
    ]
    rollout = Rollout(1, [{}] * 6, [""] * 6, [""] * 6, prompts, completions, 2)
    return rollout, build_batch(rollout, pad_token_id=99_999)


def test_a_packed_micro_batch_holds_the_rows_tokens_in_order_and_gives_them_back():
    rollout, batch = ragged_batch(torch.Generator().manual_seed(0))
    for rows in ([3], [0, 11, 5], list(range(12))[::-1]):
        ids, attention, scored = batch.packed(rows)
        assert ids.shape[1] == max(batch.lengths[row] for row in rows)
        for i, row in enumerate(rows):
            whole = rollout.prompt_ids[row // 2] + rollout.completions[row].token_ids
            assert ids[i][attention[i].bool()].tolist() == whole
            assert attention[i].tolist() == [1] * len(whole) + [0] * (ids.shape[1] - len(whole))
            assert ids[i][scored[i]].tolist() == rollout.completions[row].token_ids
        back = unpack(ids.double(), scored, batch.mask[rows])  # the ids themselves stand for their numbers
        expected = torch.where(batch.mask, batch.input_ids[:, batch.prompt_length :], 0).double()[rows]
        assert torch.equal(back, expected)


def test_unpack_carries_gradients_to_their_tokens():
    _, batch = ragged_batch(torch.Generator().manual_seed(1))
    ids, _, scored = batch.packed([2, 7])
    values = torch.randn(ids.shape, requires_grad=True)
    weights = torch.randn(batch.mask[[2, 7]].shape)
    (unpack(values, scored, batch.mask[[2, 7]]) * weights).sum().backward()
    assert torch.equal(values.grad[scored], weights[batch.mask[[2, 7]]])
    assert not values.grad[~scored].any()


@pytest.mark.parametrize("settings", [{}, {"gradient_checkpointing": True}, {"micro_batch_tokens": 24}])
def test_memory_settings_do_not_change_the_step(tmp_path, settings):
    def weights_after(name, **changed):
        trainer = make_trainer(tmp_path / name, max_steps=1, loss_type="dapo", **changed)
        metrics = trainer.step()
        assert metrics["padding"] <= MAX_PADDING
        return dict(trainer.model.named_parameters()), metrics

    plain, metrics = weights_after("plain", per_device_train_batch_size=16)
    other, changed = weights_after("other", **settings)
    assert changed["loss"] == pytest.approx(metrics["loss"], abs=1e-6)
    assert changed["grad_norm"] == pytest.approx(metrics["grad_norm"], rel=1e-4)
    for name, parameter in other.items():
        # AdamW's first step is lr · sign(g) wherever |g| is far above epsilon: compare the direction it took
        assert torch.allclose(parameter, plain[name], atol=2.1e-3), name


def test_gradient_checkpointing_recomputes_in_the_update_and_nowhere_else(tmp_path):
    """Generation would lose its key/value cache in a layer that believes to be training."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    model, tokenizer = small_model()
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    calls = {"forward": 0}
    trainer = make_trainer(tmp_path, model=(model, tokenizer), gradient_checkpointing=True)
    rollout = trainer.rollout()
    for layer in layers:
        layer.self_attn.register_forward_hook(lambda *_: calls.update(forward=calls["forward"] + 1))
    advantages = trainer.advantages(trainer.score(rollout))
    trainer.update(rollout, advantages)
    recomputed = calls["forward"]
    assert not any(layer.training for layer in layers)
    assert recomputed > 0 and recomputed % (2 * len(layers)) == 0  # once forward, once again backward
    trainer.rollout()
    assert not any(module.training for module in model.modules())


def test_rows_without_a_gradient_get_no_backward_pass_and_the_same_numbers(tmp_path):
    """Dead groups cost a forward pass; their log-probabilities and entropies are recorded all the same."""

    def one_live_group(prompts, completion_ids, **columns):
        live = prompts[0]
        return [
            float(sum(ids) % 7) if prompt == live else 1.0 for prompt, ids in zip(prompts, completion_ids)
        ]

    trainer = make_trainer(tmp_path, one_live_group, max_completion_length=8)
    rollout = trainer.rollout()
    advantages = trainer.advantages(trainer.score(rollout))
    assert advantages.dead.sum() == 3
    seen = []
    backward = torch.Tensor.backward
    forward = trainer.policy._micro_batch

    def counted(batch, index, *rest):
        seen.append((index.tolist(), torch.is_grad_enabled()))
        return forward(batch, index, *rest)

    trainer.policy._micro_batch = counted
    metrics = trainer.update(rollout, advantages)
    assert torch.Tensor.backward is backward
    trained = sorted(row for rows, grad in seen if grad for row in rows)
    idle = sorted(row for rows, grad in seen if not grad for row in rows)
    alive = next(p for p in range(4) if not advantages.dead[p])
    assert trained == list(range(4 * alive, 4 * alive + 4))
    assert sorted(trained + idle) == list(range(16))
    lengths = [len(completion.token_ids) for completion in rollout.completions]
    for row, length in enumerate(lengths):
        assert (metrics.tokens.logp_new[row, :length] < 0).all()
        assert (metrics.tokens.entropy[row, :length] > 0).all()


def test_padding_of_real_looking_lengths_is_below_a_tenth():
    """Geometric lengths, as of sampled answers, behind prompts of many lengths."""
    generator = torch.Generator().manual_seed(3)
    for _ in range(20):
        answers = torch.empty(128).geometric_(1 / 60, generator=generator).clamp(max=256).long()
        prompts = torch.randint(20, 200, (128,), generator=generator)
        lengths = (answers + prompts).tolist()
        batches = micro_batches(lengths, max_tokens=8192)
        cells = sum(len(batch) * max(lengths[row] for row in batch) for batch in batches)
        assert cells / sum(lengths) - 1 < 0.1


def test_a_layer_with_dropout_of_its_own_is_recomputed_without_it():
    """OPT's layers read their own training flag."""
    from transformers import OPTConfig, OPTForCausalLM

    from rlkit.trainers.checkpointing import gradient_checkpointing

    config = OPTConfig(
        vocab_size=50, hidden_size=16, ffn_dim=16, num_hidden_layers=2, num_attention_heads=2, dropout=0.5,
        word_embed_proj_dim=16, max_position_embeddings=32,
    )  # fmt: skip
    model = OPTForCausalLM(config).eval()
    ids = torch.arange(10)[None]
    expected = model(input_ids=ids).logits
    with gradient_checkpointing(model, True)():
        assert torch.equal(model(input_ids=ids).logits, expected)


def test_the_token_budget_follows_the_size_of_the_model():
    from rlkit.trainers.micro_batches import FEWEST_TOKENS, MOST_TOKENS, token_budget

    model, _ = small_model()
    assert token_budget(77, model) == 77
    assert token_budget(None, model) == MOST_TOKENS["cpu"]  # a tiny model: as many as there may be
    model.config.hidden_size, model.config.intermediate_size, model.config.num_hidden_layers = 576, 1536, 30
    smollm2 = token_budget(None, model)
    assert pytest.approx(smollm2, abs=1) == 2**30 / (30 * (10 * 576 + 4 * 1536) * 4)
    assert token_budget(None, model, checkpointing=True) > 5 * smollm2
    model.config.hidden_size = 100_000
    assert token_budget(None, model) == FEWEST_TOKENS
