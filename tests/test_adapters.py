"""LoRA and QLoRA: what is trainable, what is refused, and that peft alone reads what is written."""

from __future__ import annotations

import json
import shutil
import tempfile

import pytest
import torch
from tiny_models import random_model

from rlkit import quantised
from rlkit.adapters import (
    adapter_config,
    adapter_disabled,
    adapter_state,
    add_lora,
    attach_adapter,
    base_model,
    is_adapter_model,
    save_adapter,
)
from rlkit.config import ConfigWarning
from rlkit.errors import ConfigError
from rlkit.models import EMBEDDED, ModelWarning, load_model
from rlkit.trainers.reference import reference_policy

NAME = "rlkit/tiny-arithmetic"
IDS = torch.arange(5, 25)[None]  # [1, 20]


@pytest.fixture
def model():
    return load_model(NAME, fast_inference=False, max_lora_rank=16)[0]


@pytest.fixture
def in_4bit():
    pytest.importorskip("bitsandbytes")
    return load_model(NAME, load_in_4bit=True, device="cpu")[0]


def loss_of(model):
    return model(input_ids=IDS, labels=IDS, use_cache=False).loss


def train(model, steps=3, lr=1e-2):
    """A few steps of Adam on what is trainable; the losses before each."""
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=lr)
    losses = []
    for _ in range(steps):
        loss = loss_of(model)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def bytes_of(model):
    """Every tensor of the base, bit for bit."""
    return {n: p.detach().clone() for n, p in model.named_parameters() if ".lora_" not in n}


def same(before, after):
    return before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


# --- LoRA -----------------------------------------------------------------------------------------------------


def test_lora_starts_as_the_base_and_trains_only_itself(model):
    expected = model(IDS).logits  # [1, 20, V]
    lora = add_lora(model, r=4)
    assert is_adapter_model(lora) and not is_adapter_model(model) and base_model(lora) is model
    assert torch.equal(lora(IDS).logits, expected)  # B is zero
    assert not any(module.training for module in lora.modules())
    trainable = {name for name, p in lora.named_parameters() if p.requires_grad}
    assert trainable and all(".lora_" in name for name in trainable)
    layers = model.config.num_hidden_layers
    assert len(trainable) == layers * 7 * 2  # q k v o gate up down; A and B
    assert not any("lm_head" in name or "embed" in name for name in trainable)
    before = bytes_of(lora)
    losses = train(lora)
    assert losses[-1] < losses[0]
    assert same(before, bytes_of(lora))
    # What load_model noted is still there.
    assert lora.rlkit_fast_inference is False and lora.rlkit_max_lora_rank == 16
    assert lora.name_or_path == NAME and lora.config.use_cache and lora.dtype == torch.float32
    assert lora.generation_config.pad_token_id == model.generation_config.pad_token_id is not None


def test_the_seed_decides_and_torchs_generator_stays_where_it_is():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    states = [adapter_state(add_lora(random_model("llama", True), r=4, seed=seed)) for seed in (0, 0, 1)]
    assert torch.equal(torch.rand(3), expected)
    assert same(states[0], states[1]) and not same(states[0], states[2])
    name = next(name for name in states[0] if name.endswith("q_proj.lora_A.weight"))
    assert name.startswith("base_model.model.model.layers.") and states[0][name].shape == (4, 64)
    assert states[0][name].std() > 0


def test_a_bfloat16_base_gets_a_float32_adapter():
    lora = add_lora(random_model("qwen3", False).to(torch.bfloat16), r=2)
    assert {p.dtype for p in lora.parameters() if p.requires_grad} == {torch.float32}
    assert lora.dtype == torch.bfloat16 and lora(IDS).logits.dtype == torch.bfloat16


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3", "llama", "mistral", "phi3", "gemma3"])
@pytest.mark.parametrize("tied", [True, False])
def test_default_targets_are_the_linear_layers_of_the_blocks(architecture, tied):
    model = random_model(architecture, tied)
    linear = [n for n, m in model.model.layers.named_modules() if isinstance(m, torch.nn.Linear)]
    lora = add_lora(model, r=2)
    on = [n for n, m in base_model(lora).model.layers.named_modules() if hasattr(m, "lora_A")]
    assert sorted(on) == sorted(linear)
    assert not hasattr(model.get_output_embeddings(), "lora_A")


def test_the_disabled_adapter_is_the_reference_policy(model):
    expected = model(IDS).logits
    lora = add_lora(model, r=4)
    train(lora)
    trained = lora(IDS).logits
    first = next(p for p in lora.parameters() if p.requires_grad)
    first.requires_grad_(False)  # someone's choice, which peft would overrule
    flags = {name: p.requires_grad for name, p in lora.named_parameters()}
    with adapter_disabled(lora) as reference, torch.no_grad():
        assert torch.equal(reference(IDS).logits, expected)
    assert torch.equal(lora(IDS).logits, trained) and not torch.equal(trained, expected)
    with pytest.raises(ZeroDivisionError), adapter_disabled(lora):
        raise ZeroDivisionError
    assert torch.equal(lora(IDS).logits, trained)
    assert flags == {name: p.requires_grad for name, p in lora.named_parameters()}


def test_a_reference_that_forgets_the_warm_start_is_warned_of(model, recwarn):
    lora = add_lora(model, r=4)
    reference_policy(lora)
    assert not recwarn.list, "a fresh adapter changes nothing yet: the base is the policy before training"
    train(lora)
    with pytest.warns(ConfigWarning, match=r"adapter has been trained before.*merge it"):
        reference_policy(lora)


def test_adapter_state_is_the_live_adapter(model):
    lora = add_lora(model, r=4)
    state = adapter_state(lora)
    name = next(name for name in state if name.endswith("lora_B.weight"))
    assert not state[name].any() and not state[name].requires_grad
    train(lora, steps=1)
    assert state[name].any()


# --- on disk --------------------------------------------------------------------------------------------------


def test_plain_peft_loads_what_was_saved(model, tmp_path):
    from peft import AutoPeftModelForCausalLM, PeftModel
    from transformers import AutoModelForCausalLM

    lora = add_lora(model, r=4, use_rslora=True)
    train(lora)
    expected = lora(IDS).logits
    save_adapter(lora, tmp_path / "adapter")
    assert {p.name for p in (tmp_path / "adapter").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    written = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert written["base_model_name_or_path"] == str(EMBEDDED[NAME])
    assert written["target_modules"] == sorted(written["target_modules"]) and written["use_rslora"]
    plain = AutoModelForCausalLM.from_pretrained(EMBEDDED[NAME], dtype=torch.float32)
    loaded = PeftModel.from_pretrained(plain, tmp_path / "adapter")
    assert torch.equal(loaded(IDS).logits, expected)
    alone = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter", dtype=torch.float32)
    assert torch.equal(alone(IDS).logits, expected)


def test_load_model_puts_an_adapter_on_its_base_and_it_trains_on(model, tmp_path):
    lora = add_lora(model, r=4)
    train(lora)
    save_adapter(lora, tmp_path / "adapter")
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    again, tokenizer = load_model(tmp_path / "adapter", max_lora_rank=8)
    assert torch.equal(torch.rand(3), expected)
    assert same(adapter_state(lora), adapter_state(again)) and torch.equal(
        again(IDS).logits, lora(IDS).logits
    )
    assert again.name_or_path == NAME and again.rlkit_max_lora_rank == 8 and tokenizer.padding_side == "left"
    assert adapter_config(again).r == 4
    before = loss_of(again)
    train(again)
    assert loss_of(again) < before
    save_adapter(again, tmp_path / "second")
    first, second = ((tmp_path / name / "adapter_config.json").read_text() for name in ("adapter", "second"))
    assert first == second


def test_the_same_adapter_is_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        save_adapter(add_lora(random_model("llama", True), r=2), tmp_path / name)
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_adapters_that_do_not_load(model, tmp_path):
    folder = save_adapter(add_lora(model, r=4), tmp_path / "adapter")
    with pytest.raises(ConfigError, match="r=4 .* at most 2.* max_lora_rank"):
        load_model(folder, max_lora_rank=2)
    with pytest.raises(ConfigError, match="does not fit its base"):
        attach_adapter(random_model("llama", True), folder)

    def edited(name, **changes):
        copy = shutil.copytree(folder, tmp_path / name)
        written = json.loads((copy / "adapter_config.json").read_text()) | changes
        (copy / "adapter_config.json").write_text(json.dumps(written))
        return copy

    with pytest.raises(ConfigError, match="its base is not to be found.*no folder"):
        load_model(edited("lost", base_model_name_or_path="/no/such/base"))
    with pytest.raises(ConfigError, match="does not say which model"):
        load_model(edited("nameless", base_model_name_or_path=None))
    with pytest.raises(ConfigError, match="is an adapter too"):
        load_model(edited("chain", base_model_name_or_path=str(folder)))
    with pytest.raises(ConfigError, match="DoRA"):
        load_model(edited("dora", use_dora=True))
    with pytest.raises(ConfigError, match="on one side only"):
        load_model(edited("fewer", target_modules=["q_proj"]))
    with pytest.warns(ModelWarning, match="lora_dropout=0.1"):
        dropped, _ = load_model(edited("dropout", lora_dropout=0.1))
    assert not any(isinstance(m, torch.nn.Dropout) and m.p for m in dropped.modules())
    # A path into the package on another machine is still the model that comes with the package.
    elsewhere, _ = load_model(
        edited("elsewhere", base_model_name_or_path="/other/rlkit/assets/tiny-arithmetic")
    )
    assert elsewhere.name_or_path == NAME
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(ConfigError, match="adapter's weights are missing"):
        load_model(folder)


# --- what is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"r": 0}, "r=0"),
        ({"r": 17}, "r=17 .* at most 16.* max_lora_rank"),
        ({"lora_alpha": 0}, "lora_alpha=0"),
        ({"lora_dropout": 0.05}, "lora_dropout=0.05.*policy that samples"),
        ({"seed": -1}, "seed=-1"),
        ({"target_modules": ["query"]}, "q_proj.*no query"),
        ({"target_modules": r".*query"}, "names among .*q_proj"),
        ({"target_modules": ["q_proj", "query"]}, "no query"),
        ({"target_modules": ["q_proj", "lm_head"]}, "output head"),
        ({"target_modules": ["embed_tokens"]}, "output head or the embedding"),
        ({"target_modules": r".*norm"}, "not a linear layer"),
    ],
)
def test_bad_settings(model, arguments, says):
    before = bytes_of(model)
    with pytest.raises(ConfigError, match=says):
        add_lora(model, **arguments)
    assert same(before, bytes_of(model)) and not any(hasattr(m, "lora_A") for m in model.modules())
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"lora_dropout": 0.1}, "policy that samples"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save.*LoRA matrices only"),
        ({"use_dora": True}, "DoRA"),
        ({"bias": "all"}, "bias='all'"),
        ({"lora_bias": True}, "lora_bias"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa'"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"r": 8, "rank_pattern": {"q_proj": 32}}, "r=32 .* at most 16"),
    ],
)
def test_configurations_that_the_engine_cannot_run(model, settings, says):
    from peft import LoraConfig

    with pytest.raises(ConfigError, match=says):
        add_lora(model, peft_config=LoraConfig(**settings))


def test_other_kinds_of_adapter_are_refused(model):
    from peft import IA3Config, LoraConfig, PromptTuningConfig

    with pytest.raises(ConfigError, match="PROMPT_TUNING.*Prompt learning"):
        add_lora(model, peft_config=PromptTuningConfig(num_virtual_tokens=4))
    with pytest.raises(ConfigError, match="IA3.*LoRA adapters only"):
        add_lora(model, peft_config=IA3Config())
    with pytest.raises(ConfigError, match="one or the other"):
        add_lora(model, r=8, peft_config=LoraConfig())
    given = LoraConfig(r=8, target_modules=["q_proj", "v_proj"])
    lora = add_lora(model, peft_config=given)
    assert (
        given.base_model_name_or_path is None and adapter_config(lora).r == 8
    )  # the caller's is not written to
    with pytest.raises(ConfigError, match="an adapter already"):
        add_lora(lora)
    plain = random_model("llama", True)
    for function in (adapter_config, adapter_state):
        with pytest.raises(ConfigError, match="has no adapter"):
            function(plain)
    assert base_model(plain) is plain


# --- QLoRA ------------------------------------------------------------------------------------------------------


def test_a_4bit_base_is_frozen_and_small(in_4bit):
    from bitsandbytes.nn import Linear4bit

    kinds = {name.rpartition(".")[2]: type(m) for name, m in in_4bit.named_modules() if hasattr(m, "weight")}
    assert kinds["q_proj"] is kinds["down_proj"] is Linear4bit
    assert kinds["lm_head"] is torch.nn.Linear and kinds["embed_tokens"] is torch.nn.Embedding
    assert not any(p.requires_grad for p in in_4bit.parameters())
    layer = in_4bit.model.layers[0].mlp.up_proj
    assert (
        layer.weight.quant_type == "nf4"
        and layer.weight.quant_state.nested
        and layer.compute_dtype == torch.float32
    )
    assert layer.weight.numel() * 2 == layer.in_features * layer.out_features  # two weights a byte
    norms = [p for name, p in in_4bit.named_parameters() if "norm" in name]
    assert {p.dtype for p in norms} == {torch.float32} and not in_4bit.is_gradient_checkpointing
    exact = load_model(NAME)[0].model.layers[0].mlp.up_proj.weight
    near = quantised.dequantised(layer.weight, torch.float32)
    assert near.shape == exact.shape and 0 < (near - exact).norm() / exact.norm() < 0.15
    assert torch.equal(layer(torch.eye(layer.in_features)).T, near)  # computed in float32, not less


def test_qlora_trains_the_adapter_and_keeps_the_bytes_of_the_base(in_4bit, tmp_path):
    lora = add_lora(in_4bit, r=4)
    before = bytes_of(lora)
    with torch.no_grad():
        lora(IDS)  # a rollout comes before the update
    losses = train(lora)
    assert losses[-1] < losses[0]
    assert all(
        p.any() for name, p in adapter_state(lora).items() if "lora_B" in name
    )  # gradient reached all layers
    assert same(before, bytes_of(lora))
    with adapter_disabled(lora), torch.no_grad():
        reference = lora(IDS).logits
    assert torch.equal(reference, load_model(NAME, load_in_4bit=True)[0](IDS).logits)
    save_adapter(lora, tmp_path / "adapter")
    again, _ = load_model(tmp_path / "adapter", load_in_4bit=True)
    with torch.no_grad():
        assert torch.equal(again(IDS).logits, lora(IDS).logits)


def test_bitsandbytes_own_path_for_cpus_would_train_next_to_nothing():
    """The reason for `prepare_nf4`: where a CPU has AVX512-BF16, weights are repacked and gradients end there."""
    pytest.importorskip("bitsandbytes")
    from bitsandbytes.nn import Linear4bit
    from bitsandbytes.nn.modules import has_avx512bf16

    if not has_avx512bf16():
        pytest.skip("this CPU has no AVX512-BF16, so bitsandbytes repacks nothing")

    def reached(own_path, tmp_path):
        """Whether the base's bytes stay, and the share of adapters that a gradient reaches after a rollout."""
        from transformers import AutoModelForCausalLM

        keywords = quantised.nf4_keywords("float32", torch.device("cpu"))
        four = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32, **keywords).eval()
        quantised.prepare_nf4(four)
        lora = add_lora(four, r=4)
        for module in lora.modules():
            if isinstance(module, Linear4bit) and own_path:
                module.support_avx512bf16_for_cpu = True
        before = bytes_of(lora)
        with torch.no_grad():
            lora(IDS)
        stay = same(before, bytes_of(lora))
        loss_of(lora).backward()
        gradients = [p.grad for name, p in lora.named_parameters() if "lora_B" in name]
        return stay, sum(bool(g.any()) for g in gradients) / len(gradients)

    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = dict(
        vocab_size=100, hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=2
    )
    with tempfile.TemporaryDirectory() as folder:
        LlamaForCausalLM(LlamaConfig(**sizes)).save_pretrained(folder)
        assert reached(False, folder) == (True, 1.0)
        stay, share = reached(True, folder)
    assert not stay and share < 0.5


def test_4bit_without_bitsandbytes(monkeypatch):
    monkeypatch.setattr(quantised, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="load_in_4bit=True.*pip install bitsandbytes"):
        load_model(NAME, load_in_4bit=True)
