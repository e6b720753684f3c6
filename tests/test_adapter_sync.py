"""LoRA and QLoRA on vLLM: the frozen base goes over once, the adapter after every update, and nothing goes unseen."""

from __future__ import annotations

import gc

import pytest
import torch
from tiny_models import VOCAB, IdTokenizer, random_model, train_a_little

from rlkit.adapters import adapter_disabled, adapter_state, add_lora, save_adapter
from rlkit.engines.base import Sampling
from rlkit.engines.canary import SyncGuard, canary_sequences, perturbed
from rlkit.engines.hf import HFEngine
from rlkit.engines.make import EngineWarning, make_engine
from rlkit.engines.sync import SyncReport
from rlkit.engines.vllm import VLLMEngine, close_live_engine, why_vllm_cannot_run
from rlkit.errors import ConfigError, EngineError, SyncError

TOLERANCE = 1e-4  # nats, float32


def lora_model(architecture: str = "qwen2", tied: bool = True, **settings):
    return add_lora(random_model(architecture, tied), **{"r": 4, "lora_alpha": 8, **settings})


def qlora_model(
    folder, architecture: str = "qwen2", dtype: torch.dtype = torch.float32, prepared: bool = True
):
    from transformers import AutoModelForCausalLM

    from rlkit.quantised import nf4_keywords, prepare_nf4

    random_model(architecture, tied=True).save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, **nf4_keywords(dtype, torch.device("cpu"))
    )
    if prepared:
        prepare_nf4(model)
    return add_lora(model.requires_grad_(False).eval(), r=4, lora_alpha=8)


def start(model, weight_sync: str = "auto", **settings) -> VLLMEngine:
    return VLLMEngine(model, IdTokenizer(), **{"max_model_len": 64, "weight_sync": weight_sync, **settings})


def guard_for(engine, model, tolerance: float | None = TOLERANCE) -> SyncGuard:
    return SyncGuard(engine, model, canary_sequences([5, 6, 7, 8], VOCAB), tolerance)


def train(model, steps: int, lr: float = 1e-2) -> None:
    train_a_little(model, steps, seed=steps, lr=lr)


def adapter_bytes(model) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in adapter_state(model).values())


def everything(model) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def same(before: dict[str, torch.Tensor], model) -> bool:
    return all(torch.equal(before[name], parameter) for name, parameter in model.named_parameters())


def follow_updates(engine: VLLMEngine, model) -> None:
    """0, 1 and 20 updates, a proof, and samples with the policy's own log-probabilities."""
    guard = guard_for(engine, model)
    guard.check(engine.sync(model))
    frozen = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    for updates in (1, 19):
        train(model, updates)
        report = guard.check(engine.sync(model))
        assert report.strategy == engine.weight_sync == "adapter"
        assert report.bytes_copied == adapter_bytes(model), "the base does not travel again"
        assert report.gap < TOLERANCE
        assert report.conclusive, f"moved by {report.moved}: agreement would prove nothing"
    trained = everything(model)
    assert guard.prove().moved > 0.1
    assert same(trained, model)
    assert all(torch.equal(p, frozen[name]) for name, p in model.named_parameters() if name in frozen)
    prompts = [[5, 6, 7], [8, 9]]
    completions = engine.generate(prompts, Sampling(n=2, max_tokens=12, temperature=0.7))
    for i, completion in enumerate(completions):
        expected = expected_logprobs(model, prompts[i // 2], completion, 0.7)
        assert completion.logprobs == pytest.approx(expected, abs=TOLERANCE)


@torch.no_grad()
def expected_logprobs(model, prompt, completion, temperature: float = 1.0) -> list[float]:
    logits = model(input_ids=torch.tensor([prompt + completion.token_ids])).logits[0].float()
    logp = (logits / temperature).log_softmax(-1)[len(prompt) - 1 :]  # row j predicts completion token j
    return [float(logp[j, token]) for j, token in enumerate(completion.token_ids)]


# -- the engine follows ------------------------------------------------------------------------------------


@pytest.mark.engine
@pytest.mark.parametrize(
    ("architecture", "tied", "weight_sync"),
    [
        ("qwen2", True, "auto"),
        ("qwen2", False, "reload"),
        ("llama", False, "shared"),
        ("phi3", False, "auto"),  # qkv and gate/up fused in the trainer too
        ("gemma3", True, "reload"),
    ],
)
def test_the_engine_follows_an_adapter(architecture, tied, weight_sync):
    model = lora_model(architecture, tied)
    with start(model, weight_sync) as engine:
        shared = weight_sync != "reload"
        assert ("shared" in engine.weight_sync_reason) == shared
        base = {p.data_ptr() for p in engine.vllm_model.parameters()}
        down = model.get_base_model().model.layers[0].mlp.down_proj.base_layer.weight
        assert (down.data_ptr() in base) == shared
        follow_updates(engine, model)


@pytest.mark.engine
@pytest.mark.parametrize(("architecture", "weight_sync"), [("qwen2", "auto"), ("llama", "reload")])
def test_the_engine_follows_an_adapter_on_a_4_bit_base(architecture, weight_sync, tmp_path):
    model = qlora_model(tmp_path, architecture)
    with start(model, weight_sync) as engine:
        assert "dequantised" in engine.weight_sync_reason
        assert "quantization_config" in model.config.to_dict(), "the trainer's own config is left alone"
        follow_updates(engine, model)
        assert model.get_base_model().model.layers[0].mlp.down_proj.base_layer.weight.dtype == torch.uint8


@pytest.mark.engine
def test_a_4_bit_base_that_was_never_prepared_is_kept_as_it_was_loaded(tmp_path):
    """bitsandbytes would re-pack it, with rounded scales, at the first evaluation: here inside the canary."""
    model = qlora_model(tmp_path, prepared=False)
    before = everything(model)
    with start(model) as engine:
        guard_for(engine, model).check(engine.sync(model))
    assert same(before, model)


@pytest.mark.engine
def test_16_bits_have_a_tolerance_of_their_own(tmp_path):
    """A bfloat16 base with a float32 adapter, and a float32 base whose 4-bit layers compute in bfloat16."""
    rounded = add_lora(random_model("qwen2", tied=True).to(torch.bfloat16), r=4)
    coarse = qlora_model(tmp_path, dtype=torch.bfloat16)
    for model in (rounded, coarse):
        with start(model) as engine:
            guard = guard_for(engine, model, tolerance=None)
            assert guard.tolerance > 0.1
            train(model, 20)
            guard.check(engine.sync(model))
            assert guard.prove().moved > 0.3
            engine.sync = lambda model: SyncReport("adapter", 0, 0.0)
            with pytest.raises(SyncError, match="do not reach the engine"):
                guard.prove()


@pytest.mark.engine
def test_what_is_trained_besides_the_adapter_travels_or_is_refused():
    def with_norms():
        model = lora_model()
        model.get_base_model().model.norm.weight.requires_grad_(True)
        return model

    model = with_norms()
    with start(model, "shared") as engine:
        guard = guard_for(engine, model)
        with torch.no_grad():
            model.get_base_model().model.norm.weight.mul_(1.5)
        assert guard.check(engine.sync(model)).conclusive
        guard.prove()
    with pytest.raises(EngineError, match=r"model\.norm\.weight is trained besides the adapter"):
        start(with_norms(), "reload")


# -- sabotage: every way to be silently wrong must be loud -------------------------------------------------


def forgotten(patch, engine, model):
    """Requests that do not name the adapter sample the bare base."""
    patch.setattr(engine, "_lora", None)


def skipped(patch, engine, model):
    patch.setattr(engine, "sync", lambda model: SyncReport("adapter", 0, 0.0))


def ignored(patch, engine, model):
    """What vLLM does with an adapter whose number is taken: nothing, successfully."""
    patch.setattr(engine.vllm_model.lora_manager, "remove_adapter", lambda adapter_id: True)


def of_another(patch, engine, model):
    other = {name: torch.roll(tensor, 1, 0) for name, tensor in adapter_state(model).items()}
    patch.setattr("rlkit.engines.adapter.adapter_state", lambda model: other)


def swapped(first: str, second: str):
    def sabotage(patch, engine, model):
        def state(model):
            right = adapter_state(model)
            return {
                name: right[name.replace(first, "*").replace(second, first).replace("*", second)]
                for name in right
            }

        patch.setattr("rlkit.engines.adapter.adapter_state", state)

    sabotage.__name__ = f"{first}_and_{second}_swapped"
    return sabotage


def unscaled(patch, engine, model):
    """α/r forgotten."""
    patch.setattr(model.peft_config["default"], "lora_alpha", model.peft_config["default"].r)


SABOTAGES = [forgotten, skipped, ignored, of_another, unscaled]
SABOTAGES += [swapped("k_proj", "v_proj"), swapped("gate_proj", "up_proj"), swapped("layers.0.", "layers.1.")]
SABOTAGES += [swapped("q_proj.lora_A", "k_proj.lora_A")]  # their B differ in height


@pytest.mark.engine
@pytest.mark.parametrize("kind", ["lora", "qlora"])
def test_every_sabotage_is_caught(kind, tmp_path):
    """By `check` where the update is large enough to see, by `prove` where it is not. One engine for all of them."""
    model = lora_model("llama") if kind == "lora" else qlora_model(tmp_path, "llama")
    with start(model) as engine:
        for sabotage in SABOTAGES:
            for seen, lr in ((False, 1e-9), (True, 1e-2)):
                with torch.no_grad():
                    for name, tensor in adapter_state(model).items():
                        if "lora_B" in name:
                            tensor.zero_()
                guard = guard_for(engine, model)
                guard.check(engine.sync(model))
                with pytest.MonkeyPatch.context() as patch:
                    train(model, 5, lr=lr)
                    sabotage(patch, engine, model)
                    with pytest.raises(SyncError):
                        if seen:
                            guard.check(engine.sync(model))
                        else:
                            report = guard.check(engine.sync(model))
                            assert not report.conclusive, sabotage.__name__
                            guard.prove()
                            pytest.fail(f"{sabotage.__name__} went unseen")
        guard_for(engine, model).check(engine.sync(model))  # and it was the sabotage, each time


def trade_a(patch) -> None:
    def state(model):
        right = adapter_state(model)
        return right | {
            name: right[name.replace("q_proj", "*").replace("k_proj", "q_proj").replace("*", "k_proj")]
            for name in right
            if ".lora_A." in name
        }

    patch.setattr("rlkit.engines.adapter.adapter_state", state)


@pytest.mark.engine
def test_the_proof_notices_any_single_adapter_tensor_that_is_never_synchronised(monkeypatch):
    model = lora_model()
    with start(model) as engine:
        guard = guard_for(engine, model)
        guard.prove()
        clean = {name: tensor.clone() for name, tensor in adapter_state(model).items()}
        assert len(clean) == 2 * 2 * 7
        for left_out in clean:
            stale = {left_out: clean[left_out]}
            monkeypatch.setattr(
                "rlkit.engines.adapter.adapter_state", lambda model, stale=stale: adapter_state(model) | stale
            )
            with pytest.raises(SyncError):
                guard.prove()


@pytest.mark.engine
def test_no_cached_prefix_outlives_its_adapter(monkeypatch):
    """Not even where vLLM keeps its cache: requests of different weights do not share it."""
    model = lora_model()
    prompt = torch.randint(3, VOCAB, (200,), generator=torch.Generator().manual_seed(0)).tolist()
    with start(model, max_model_len=250) as engine:
        monkeypatch.setattr(engine._llm, "reset_prefix_cache", lambda: True)
        engine.generate([prompt], Sampling(max_tokens=4))
        train(model, 20)
        engine.sync(model)
        (completion,) = engine.generate([prompt], Sampling(max_tokens=4))
        assert completion.logprobs == pytest.approx(
            expected_logprobs(model, prompt, completion), abs=TOLERANCE
        )
        monkeypatch.setattr(engine, "_request", lambda ids: {"prompt_token_ids": list(ids)})
        engine.generate([prompt], Sampling(max_tokens=4))
        train(model, 20)
        engine.sync(model)
        (stale,) = engine.generate([prompt], Sampling(max_tokens=4))
        assert stale.logprobs != pytest.approx(expected_logprobs(model, prompt, stale), abs=1e-2), (
            "a real danger"
        )


@pytest.mark.engine
def test_a_slot_that_was_emptied_is_an_error_and_not_the_base():
    model = lora_model()
    engine = start(model)
    try:
        engine.vllm_model.lora_manager.remove_adapter(1)
        with pytest.raises(Exception, match=r"(?i)adapter|lora"):
            engine.generate([[5, 6]], Sampling(max_tokens=2))
    finally:
        engine.close()


# -- the perturbation --------------------------------------------------------------------------------------


@pytest.mark.parametrize("updates", [0, 3])
@pytest.mark.parametrize("kind", ["float32", "bfloat16", "4 bits"])
def test_a_perturbation_touches_the_adapter_alone_and_restores_every_bit(kind, updates, tmp_path):
    if kind == "4 bits":
        model = qlora_model(tmp_path)
    else:
        model = add_lora(random_model("qwen2", tied=True).to(getattr(torch, kind)), r=4)
    train(model, updates, lr=1e-6)
    before = everything(model)

    def changed() -> set[str]:
        return {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}

    with perturbed(model):
        assert changed() == {name for name in before if ".lora_" in name}
    assert not changed()
    with pytest.raises(KeyboardInterrupt), perturbed(model):
        raise KeyboardInterrupt
    assert not changed()


# -- what vLLM cannot run ----------------------------------------------------------------------------------


def peft_model(**settings):
    from peft import LoraConfig, get_peft_model

    return get_peft_model(random_model("qwen2", tied=True), LoraConfig(**{"r": 4, **settings}))


@pytest.mark.engine
@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"use_dora": True, "target_modules": ["q_proj"]}, "DoRA"),
        ({"modules_to_save": ["lm_head"], "target_modules": ["q_proj"]}, "modules_to_save"),
        ({"r": 600, "target_modules": ["q_proj"]}, "rank 600"),
        ({"target_modules": ["embed_tokens"]}, "lora_embedding"),
        ({"target_modules": ["q_proj"], "bias": "all"}, "bias"),
    ],
)
def test_an_adapter_that_vllm_cannot_run_falls_back(settings, why):
    model = peft_model(**settings)
    assert why in why_vllm_cannot_run(model)
    with pytest.raises(EngineError, match=why):
        start(model)
    with pytest.warns(EngineWarning, match=why):
        engine = make_engine(model, IdTokenizer(), fast_inference=None, max_model_len=64)
    assert isinstance(engine, HFEngine)


@pytest.mark.engine
def test_adapters_of_another_kind_or_name_are_named():
    from peft import IA3Config, LoraConfig, get_peft_model

    model = get_peft_model(random_model("qwen2", tied=True), IA3Config(task_type="CAUSAL_LM"))
    assert "not LoRA" in why_vllm_cannot_run(model)
    config = LoraConfig(r=4, target_modules=["q_proj"])
    model = get_peft_model(random_model("qwen2", tied=True), config, adapter_name="mine")
    assert "'mine'" in why_vllm_cannot_run(model)


@pytest.mark.engine
def test_a_layer_that_vllm_has_no_lora_for_is_an_error_that_names_it(monkeypatch):
    model = lora_model()
    monkeypatch.setattr(
        "rlkit.engines.adapter.adapter_state",
        lambda model: {name.replace("down_proj", "side_proj"): t for name, t in adapter_state(model).items()},
    )
    with pytest.warns(EngineWarning, match="side_proj"):
        assert isinstance(make_engine(model, IdTokenizer(), fast_inference=None, max_model_len=64), HFEngine)
    with pytest.raises(EngineError, match=r"no LoRA layer for model\.layers\.0\.mlp\.side_proj"):
        make_engine(model, IdTokenizer(), fast_inference=True, max_model_len=64)


@pytest.mark.engine
def test_the_engine_makes_room_for_the_rank_that_is_asked_for():
    model = lora_model(target_modules=["q_proj", "down_proj"], use_rslora=True)
    model.rlkit_max_lora_rank = 20
    with start(model) as engine:
        manager = engine.vllm_model.lora_manager
        assert manager.lora_config.max_lora_rank == 32
        assert {name.rpartition(".")[2] for name in manager.modules} == {"qkv_proj", "down_proj"}
        train(model, 3)
        assert guard_for(engine, model).check(engine.sync(model)).gap < TOLERANCE
    with pytest.raises(ConfigError, match="max_lora_rank=2 .*The adapter's rank is 4"):
        start(model, max_lora_rank=2)
    with pytest.raises(ConfigError, match="max_lora_rank=513"):
        start(model, max_lora_rank=513)


# -- the CPU's matrix products -----------------------------------------------------------------------------


@pytest.mark.engine
@pytest.mark.parametrize("batch", [(1, 1, 1, 1, 1), (0, 0, 0, 0, 0), (1, 0, 0, 1, 1)])
def test_dense_products_equal_vllms_own(batch):
    """All rows with the adapter, none, and some; three slices of unequal height, as q, k and v have."""
    from types import SimpleNamespace

    from vllm.lora.layers import LoRAMapping
    from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

    from rlkit.engines.lora_cpu import use_dense_lora

    wrapper = PunicaWrapperCPU(64, 8, "cpu")
    wrapper.update_metadata(LoRAMapping(batch, batch, is_prefill=True), [1], 2, VOCAB)
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(5, 12, generator=generator)  # [tokens, in]
    slices = (8, 4, 4)
    a = tuple(torch.randn(1, 1, 3, 12, generator=generator) for _ in slices)  # [1, 1, r, in]
    b = tuple(torch.randn(1, 1, rows, 3, generator=generator) for rows in slices)  # [1, 1, out, r]
    start = torch.randn(5, 16, generator=generator)  # [tokens, out]
    theirs, ours = start.clone(), start.clone()
    wrapper.add_lora_linear(theirs, x, a, b, 1.5, slices)
    manager = SimpleNamespace(punica_wrapper_mapping={"language_model": wrapper}, lora_slots=1)
    use_dense_lora(SimpleNamespace(lora_manager=manager))
    wrapper.add_lora_linear(ours, x, a, b, 1.5, slices)
    if len(set(batch)) == 1:  # in mixed batches vLLM 0.32 reads index -1, "none", as the last adapter on CPU
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    expected = start.clone()
    for row, adapter in enumerate(batch):
        if adapter:
            delta = [1.5 * (x[row] @ a_i[0, 0].T) @ b_i[0, 0].T for a_i, b_i in zip(a, b, strict=True)]
            expected[row] += torch.cat(delta)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


# -- elsewhere ---------------------------------------------------------------------------------------------


@pytest.mark.engine
def test_a_saved_adapter_gives_the_same_policy_in_plain_vllm(tmp_path):
    from rlkit.engines.quiet import native_chatter, quiet, set_environment

    base = random_model("qwen2", tied=True)
    base.save_pretrained(tmp_path / "base")
    model = add_lora(base, r=4, lora_alpha=8)
    train(model, 20)
    save_adapter(model, tmp_path / "adapter")
    sequence = [5, 6, 7, 8, 9, 10, 11]
    (expected,) = HFEngine(model, IdTokenizer()).logprobs([sequence])
    with adapter_disabled(model):
        (bare,) = HFEngine(model, IdTokenizer()).logprobs([sequence])
    assert bare != pytest.approx(expected, abs=0.1)
    close_live_engine()
    set_environment()
    with quiet(), native_chatter():
        from vllm import LLM, SamplingParams
        from vllm.lora.request import LoRARequest

        llm = LLM(
            str(tmp_path / "base"), skip_tokenizer_init=True, enforce_eager=True, dtype="float32",
            enable_lora=True, max_lora_rank=8, max_model_len=64, disable_log_stats=True,
            kv_cache_memory_bytes=2**26,
        )  # fmt: skip
        try:
            (result,) = llm.generate(
                {"prompt_token_ids": sequence},
                SamplingParams(max_tokens=1, prompt_logprobs=0, detokenize=False),
                lora_request=LoRARequest("saved", 1, str(tmp_path / "adapter")),
                use_tqdm=False,
            )
        finally:
            llm.llm_engine.engine_core.shutdown()
    theirs = [p[token].logprob for p, token in zip(result.prompt_logprobs[1:], sequence[1:], strict=True)]
    assert theirs == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.engine
def test_three_trainings_in_a_row_give_their_memory_back(tmp_path):
    import psutil

    process, sizes = psutil.Process(), []
    for turn in range(3):
        model = qlora_model(tmp_path / str(turn)) if turn % 2 else lora_model()
        with start(model) as engine:
            guard = guard_for(engine, model)
            for _ in range(3):
                engine.generate([[5, 6], [7]], Sampling(n=4, max_tokens=8))
                train(model, 2)
                guard.check(engine.sync(model))
            guard.prove()
        del model, engine, guard
        gc.collect()
        sizes.append(process.memory_info().rss)
    assert sizes[-1] - sizes[0] < 30e6, [size >> 20 for size in sizes]
