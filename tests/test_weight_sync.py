"""Does vLLM sample from the weights that are trained? For each architecture, each way, and each sabotage."""

from __future__ import annotations

import gc

import pytest
import torch
from tiny_models import ARCHITECTURES, VOCAB, IdTokenizer, random_model, train_a_little

from rlkit.engines.base import Sampling
from rlkit.engines.canary import SyncGuard, canary_sequences, perturbed
from rlkit.engines.hf import HFEngine
from rlkit.engines.sync import ReloadTransport, SyncReport, choose_transport, plan_sharing
from rlkit.engines.vllm import VLLMEngine, close_live_engine
from rlkit.errors import EngineError, SyncError

TOLERANCE = 1e-4  # the figure for float32


def guard_for(engine, model, tolerance: float = TOLERANCE) -> SyncGuard:
    return SyncGuard(engine, model, canary_sequences([5, 6, 7, 8], VOCAB), tolerance)


def start(model, weight_sync: str = "auto") -> VLLMEngine:
    return VLLMEngine(model, IdTokenizer(), max_model_len=64, weight_sync=weight_sync)


@pytest.mark.engine
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_engine_follows_0_1_and_20_updates(architecture, tied):
    model = random_model(architecture, tied)
    with start(model, "reload") as engine:
        follow_updates(engine, model, "reload")
        # The same engine again, now with one set of weights: a start costs seconds.
        engine.transport = choose_transport(engine.vllm_model, model, None, "shared")
        follow_updates(engine, model, "shared")


def follow_updates(engine: VLLMEngine, model, strategy: str) -> None:
    guard = guard_for(engine, model)
    report = guard.check(engine.sync(model))
    assert report.strategy == strategy
    assert report.gap < TOLERANCE
    for updates in (1, 19):  # 1 and 20 in all
        train_a_little(model, updates, seed=updates)
        report = guard.check(engine.sync(model))
        assert report.gap < TOLERANCE
        assert report.conclusive, f"moved by {report.moved}: agreement would prove nothing"
    assert guard.prove().moved > 0.1
    # What it samples has the log-probabilities that the trainer's forward pass gives, at T = 0.7 too.
    prompts = [[5, 6, 7], [8, 9]]
    completions = engine.generate(prompts, Sampling(n=2, max_tokens=12, temperature=0.7))
    for i, completion in enumerate(completions):
        prompt = prompts[i // 2]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt + completion.token_ids])).logits[0].float()
        logp = (logits / 0.7).log_softmax(-1)[len(prompt) - 1 :]  # row j predicts completion token j
        expected = [float(logp[j, token]) for j, token in enumerate(completion.token_ids)]
        assert completion.logprobs == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.engine
def test_shared_weights_cost_no_bytes_and_reload_costs_all():
    model = random_model("qwen2", tied=True)
    with start(model, "shared") as engine:
        assert engine.sync(model).bytes_copied == 0
        # One memory: the trainer's q and k lie side by side in the engine's fused matrix.
        attention = model.model.layers[0].self_attn
        fused = engine.vllm_model.model.layers[0].self_attn.qkv_proj.weight
        assert attention.q_proj.weight.data_ptr() == fused.data_ptr()
        rows = attention.q_proj.weight.shape[0]
        assert attention.k_proj.weight.data_ptr() == fused[rows:].data_ptr()
    with start(model, "reload") as engine:
        weights = sum(t.numel() * t.element_size() for t in model.state_dict().values())
        assert engine.sync(model).bytes_copied == weights


@pytest.mark.engine
def test_shared_model_can_be_saved_and_loaded(tmp_path):
    model = random_model("llama", tied=False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with start(model, "shared"):
        model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in before.items())


@pytest.mark.engine
def test_gpt_oss_is_refused():
    """Its reload leaves the engine elsewhere and raises nothing; only the canary sees it."""
    model = random_model("gptoss", tied=False)
    with start(model) as engine:
        assert engine.transport.name == "reload"
        guard = guard_for(engine, model, tolerance=1e-2)
        with pytest.raises(SyncError, match="nats from the trainer's"):
            guard.check(engine.sync(model))


# -- sabotage: every way to be silently wrong must be loud ------------------------------------------------


@pytest.mark.engine
def test_a_skipped_sync_is_caught(monkeypatch):
    model = random_model("qwen2", tied=True)
    with start(model, "reload") as engine:
        guard = guard_for(engine, model)
        monkeypatch.setattr(engine, "sync", lambda model: SyncReport("reload", 0, 0.0))
        train_a_little(model, 1)
        with pytest.raises(SyncError, match="wrong weights"):
            guard.check(engine.sync(model))


@pytest.mark.engine
def test_an_update_too_small_to_see_is_inconclusive_and_the_proof_catches_the_skipped_sync(monkeypatch):
    model = random_model("qwen2", tied=True)
    with start(model, "reload") as engine:
        guard = guard_for(engine, model)
        monkeypatch.setattr(engine, "sync", lambda model: SyncReport("reload", 0, 0.0))
        train_a_little(model, 1, lr=1e-7)
        report = guard.check(engine.sync(model))  # stale, and yet it agrees
        assert not report.conclusive
        weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        with pytest.raises(SyncError, match="do not reach the engine"):
            guard.prove()
        after = model.state_dict()
        assert all(torch.equal(after[name], tensor) for name, tensor in weights.items())


@pytest.mark.engine
def test_a_swapped_gate_and_up_is_caught(monkeypatch):
    model = random_model("llama", tied=False)

    def swapped(vllm_model, model):
        plan, reason = plan_sharing(vllm_model, model)
        for tie in plan:
            if tie.attribute == "weight" and len(tie.pieces) == 2:
                tie.pieces.reverse()
        return plan, reason

    monkeypatch.setattr("rlkit.engines.sync.plan_sharing", swapped)
    with start(model, "shared") as engine, pytest.raises(SyncError):
        guard_for(engine, model).check(engine.sync(model))


@pytest.mark.engine
def test_a_stale_lm_head_is_caught(monkeypatch):
    """The known trap: ``named_parameters()`` lists a tied embedding once, and the packed head keeps its values."""
    model = random_model("qwen2", tied=True)
    with start(model, "reload") as engine:
        guard = guard_for(engine, model)
        monkeypatch.setattr(model, "state_dict", lambda: dict(model.named_parameters()))
        train_a_little(model, 20)
        with pytest.raises(SyncError):
            guard.check(engine.sync(model))
        with pytest.raises(SyncError):
            guard.prove()


@pytest.mark.engine
@pytest.mark.parametrize("how", ["moved", "replaced"])
def test_a_shared_model_whose_parameters_went_elsewhere_is_refused(how):
    model = random_model("qwen2", tied=True)
    with start(model, "shared") as engine:
        layer = model.model.layers[0].mlp.down_proj
        if how == "moved":
            layer.weight.data = layer.weight.data.clone()
        else:
            layer.weight = torch.nn.Parameter(layer.weight.detach().clone())
        with pytest.raises(EngineError, match="moved or replaced"):
            engine.sync(model)


# -- the engine in a notebook -----------------------------------------------------------------------------


@pytest.mark.engine
def test_a_second_engine_works_and_the_first_one_says_that_it_is_closed():
    model = random_model("qwen2", tied=True)
    first = start(model)
    second = start(model)
    try:
        assert len(second.generate([[5, 6]], Sampling(n=3, max_tokens=4))) == 3
        with pytest.raises(EngineError, match="closed"):
            first.generate([[5, 6]], Sampling(max_tokens=4))
    finally:
        second.close()
    second.close()  # twice is once


@pytest.mark.engine
def test_starting_again_and_again_leaks_no_memory():
    """Each engine holds a KV cache of 1 GiB; a leaked one would show."""
    import psutil

    process, sizes = psutil.Process(), []
    model = random_model("qwen2", tied=True)
    for _ in range(4):
        start(model).generate([[5, 6]], Sampling(max_tokens=2))
        sizes.append(process.memory_info().rss)
    close_live_engine()
    assert sizes[-1] - sizes[1] < 100e6, [size >> 20 for size in sizes]


@pytest.mark.engine
@pytest.mark.parametrize("weight_sync", ["shared", "reload"])
def test_cached_prefixes_of_the_old_weights_are_dropped(weight_sync):
    """A prompt of several cache blocks, sampled before and after an update."""
    model = random_model("qwen2", tied=True)
    prompt = torch.randint(3, VOCAB, (200,), generator=torch.Generator().manual_seed(0)).tolist()
    with VLLMEngine(model, IdTokenizer(), max_model_len=250, weight_sync=weight_sync) as engine:
        engine.generate([prompt], Sampling(max_tokens=4))
        train_a_little(model, 20)
        engine.sync(model)
        (completion,) = engine.generate([prompt], Sampling(max_tokens=4))
    with torch.no_grad():
        logp = model(input_ids=torch.tensor([prompt + completion.token_ids])).logits[0].log_softmax(-1)
    expected = [float(logp[len(prompt) - 1 + j, token]) for j, token in enumerate(completion.token_ids)]
    assert completion.logprobs == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.engine
def test_seeded_samples_repeat_and_leave_the_users_random_numbers_alone():
    model = random_model("qwen2", tied=True)
    torch.manual_seed(123)
    expected = torch.rand(3)
    torch.manual_seed(123)
    with start(model) as engine:
        sampling = Sampling(n=4, max_tokens=8, seed=7, top_logprobs=3)
        first, second = (engine.generate([[5, 6], [7]], sampling) for _ in range(2))
        other = engine.generate([[5, 6], [7]], Sampling(n=4, max_tokens=8, seed=8))
    assert [c.token_ids for c in first] == [c.token_ids for c in second]
    assert [c.token_ids for c in first] != [c.token_ids for c in other]
    assert len({tuple(c.token_ids) for c in first[:4]}) > 1, "the completions of a group differ"
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.engine
def test_greedy_and_top_logprobs_agree_with_transformers():
    model = random_model("llama", tied=False)
    sampling = Sampling(n=1, max_tokens=10, temperature=0.0, top_logprobs=4)
    prompts = [[5, 6, 7, 8], [9]]
    theirs = HFEngine(model, IdTokenizer()).generate(prompts, sampling)
    with start(model) as engine:
        ours = engine.generate(prompts, sampling)
    for a, b in zip(ours, theirs, strict=True):
        assert a.token_ids == b.token_ids
        assert a.finish_reason == b.finish_reason
        assert a.topk_ids == b.topk_ids
        assert [x for row in a.topk_logprobs for x in row] == pytest.approx(
            [x for row in b.topk_logprobs for x in row], abs=TOLERANCE
        )
        assert a.logprobs == pytest.approx(b.logprobs, abs=TOLERANCE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_perturbation_touches_every_tensor_and_restores_every_bit(dtype):
    model = random_model("qwen2", tied=True).to(dtype)
    with torch.no_grad():
        model.model.layers[0].self_attn.q_proj.bias.zero_()  # as in a freshly made model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def changed() -> set[str]:
        return {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}

    with perturbed(model):
        assert changed() == set(before)
    assert not changed()
    with pytest.raises(KeyboardInterrupt), perturbed(model):
        raise KeyboardInterrupt
    assert not changed()


@pytest.mark.engine
def test_the_proof_notices_any_single_tensor_that_is_never_synchronised(monkeypatch):
    """float32: leave one tensor out of every sync, each in turn."""
    model = random_model("qwen2", tied=True)
    with start(model, "reload") as engine:
        guard = guard_for(engine, model, tolerance=3e-4)
        guard.prove()
        clean = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        state_dict = type(model).state_dict
        unnoticed = []
        for left_out in clean:
            if left_out == "lm_head.weight":  # tied: the same tensor as the embedding
                continue
            tied = {left_out, "lm_head.weight"} if "embed" in left_out else {left_out}
            stale = {name: clean[name] for name in tied}
            monkeypatch.setattr(model, "state_dict", lambda stale=stale: {**state_dict(model), **stale})
            try:
                guard.prove()
                unnoticed.append(left_out)
            except SyncError:
                pass
        assert not unnoticed


@pytest.mark.engine
def test_the_proof_notices_a_dead_sync_in_bfloat16():
    model = random_model("qwen2", tied=True).to(torch.bfloat16)
    with start(model, "reload") as engine:
        guard = SyncGuard(engine, model, canary_sequences([5, 6, 7, 8], VOCAB))
        guard.check(engine.sync(model))
        proof = guard.prove()
        assert proof.moved > 0.3
        engine.sync = lambda model: SyncReport("reload", 0, 0.0)
        with pytest.raises(SyncError, match="do not reach the engine"):
            guard.prove()


@pytest.mark.engine
def test_an_interrupted_generation_leaves_nothing_behind(monkeypatch):
    """vLLM keeps the requests of an interrupted call, and would answer them at the next one."""
    model = random_model("qwen2", tied=True)
    with start(model) as engine:
        expected = engine.generate([[5, 6]], Sampling(n=2, max_tokens=6, seed=1))
        step, calls = engine._llm.llm_engine.step, []

        def interrupted_step():
            calls.append(1)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return step()

        monkeypatch.setattr(engine._llm.llm_engine, "step", interrupted_step)
        with pytest.raises(KeyboardInterrupt):
            engine.generate([[7, 8], [9]], Sampling(n=3, max_tokens=20))
        monkeypatch.undo()
        again = engine.generate([[5, 6]], Sampling(n=2, max_tokens=6, seed=1))
        assert [c.token_ids for c in again] == [c.token_ids for c in expected]


@pytest.mark.engine
def test_a_start_that_fails_late_leaves_room_for_the_next(monkeypatch):
    with pytest.raises(EngineError, match="weight_sync='shared' is not possible"):
        start(random_model("gptoss", tied=False), "shared")
    monkeypatch.setattr(ReloadTransport, "push", lambda self, model: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        start(random_model("qwen2", tied=True), "reload")
    monkeypatch.undo()
    gc.collect()
    with start(random_model("qwen2", tied=True)) as engine:
        gc.collect()
        assert len(engine.generate([[5, 6]], Sampling(n=2, max_tokens=3, top_logprobs=40))) == 2
