"""What a checkpoint holds comes back: weights bit for bit into the same memory, state, and whose they are."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from small_checkpoint import write
from small_trainer import small_model, weights_of
from tiny_models import ARCHITECTURES, VOCAB, random_model, train_a_little

from rlkit.errors import ConfigError, TrainingError
from rlkit.models import load_model
from rlkit.trainers import weights
from rlkit.trainers.checkpoints import (
    Checkpoint,
    fingerprint,
    latest_checkpoint,
    random_states,
    restore_random_states,
)


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def fuse(model) -> list[torch.Tensor]:
    """Make q, k, v views of one tensor each, and the embedding one of a padded tensor, as a shared engine does."""
    groups = [
        [layer.self_attn.q_proj.weight, layer.self_attn.k_proj.weight, layer.self_attn.v_proj.weight]
        for layer in model.model.layers
    ]
    fused = []
    for pieces in [*groups, [model.model.embed_tokens.weight]]:
        rows = sum(piece.shape[0] for piece in pieces)
        storage = torch.full(
            (rows + 50, pieces[0].shape[1]), 7.0, dtype=pieces[0].dtype
        )  # [rows + padding, H]
        row = 0
        for piece in pieces:
            view = storage[row : row + piece.shape[0]]
            view.copy_(piece.data)
            piece.data = view
            row += piece.shape[0]
        fused.append(storage)
    return fused


def spoil(model) -> None:
    """Negate every floating-point tensor, and change zeros too."""
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.neg_().add_(0.25)


def assert_restored(path: Path, model, before: dict[str, torch.Tensor]) -> None:
    """Spoil the model, load the checkpoint: the same values, in the same memory."""
    addresses = {name: tensor.data_ptr() for name, tensor in model.state_dict().items()}
    parameters = {name: parameter for name, parameter in model.named_parameters()}
    spoil(model)
    Checkpoint(path).load_weights(model)
    after = model.state_dict()
    assert list(after) == list(before)
    for name, tensor in before.items():
        assert after[name].dtype == tensor.dtype and bits(after[name]) == bits(tensor), name
        assert after[name].data_ptr() == addresses[name], f"{name} was replaced"
    assert all(parameters[name] is parameter for name, parameter in model.named_parameters())


# ---------------------------------------------------------------------------------------- weights


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("views", [True, False])
def test_weights_come_back_bit_for_bit_into_the_same_memory(tmp_path, tied, dtype, views):
    model, tokenizer = small_model(tied=tied)
    model = model.to(dtype)
    fused = fuse(model) if views else []
    path = write(tmp_path, 10, model, tokenizer=tokenizer)
    assert_restored(path, model, weights_of(model) | {})
    for storage in fused:
        assert (storage[-50:] == 7.0).all()  # what else lives there is left alone
    size = (path / "model" / "model.safetensors").stat().st_size
    exact = sum(p.numel() * p.element_size() for p in model.parameters())  # a tied tensor counts once
    assert exact <= size < exact + 8000  # views do not drag their whole storage along


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "gptoss"])
def test_every_architecture(tmp_path, architecture):
    model = random_model(architecture, tied=architecture == "gemma3")
    assert_restored(write(tmp_path, 1, model), model, weights_of(model))


def mixture_of_experts():
    """A model that transformers keeps with fused experts and writes with single ones."""
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Qwen3MoeForCausalLM(
            Qwen3MoeConfig(
                vocab_size=VOCAB,
                hidden_size=32,
                intermediate_size=32,
                moe_intermediate_size=16,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=1,
                num_experts=4,
                num_experts_per_tok=2,
            )
        )


def test_a_model_whose_files_use_other_names(tmp_path):
    model = mixture_of_experts()
    path = write(tmp_path, 1, model)
    assert not weights._copy_files(path / "model", model, weights.live_weights(model))  # the detour is needed
    assert_restored(path, model, weights_of(model))


def adapter_model(seed: int = 0, **settings):
    from peft import LoraConfig, get_peft_model

    model, tokenizer = small_model()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = LoraConfig(**{"r": 4, "target_modules": ["q_proj", "v_proj"], **settings})
        model = get_peft_model(model, config).eval()
        for parameter in model.parameters():
            if parameter.requires_grad:  # B starts at zero, which would hide a mix-up
                parameter.data.normal_()
    return model, tokenizer


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings:UserWarning")
@pytest.mark.parametrize(
    "settings", [{}, {"modules_to_save": ["lm_head"]}, {"use_dora": True}, {"bias": "lora_only"}]
)
def test_of_a_peft_model_only_the_adapter_is_written(tmp_path, settings):
    model, tokenizer = adapter_model(**settings)
    base = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    before = {name: p.detach().clone() for name, p in trained.items()}
    addresses = {name: p.data_ptr() for name, p in trained.items()}
    path = write(tmp_path, 3, model, tokenizer=tokenizer)
    assert {p.name for p in (path / "model").iterdir()} >= {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    assert not (path / "model" / "model.safetensors").exists()
    with torch.no_grad():
        for p in trained.values():
            p.neg_().add_(0.25)
    Checkpoint(path).load_weights(model)
    for name, p in model.named_parameters():
        expected = base[name] if name in base else before[name]
        assert bits(p) == bits(expected), name
    assert {name: p.data_ptr() for name, p in model.named_parameters() if p.requires_grad} == addresses


def test_peft_reads_the_adapter_and_transformers_the_model(tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = adapter_model()
    ids = torch.tensor([[3, 4, 5, 6]])
    path = write(tmp_path / "a", 1, model, tokenizer=tokenizer)
    other = PeftModel.from_pretrained(small_model()[0], path / "model").eval()
    assert torch.equal(other(ids).logits, model(ids).logits)
    full, tokenizer = small_model(seed=1)
    path = write(tmp_path / "b", 1, full.eval(), tokenizer=tokenizer)
    again = AutoModelForCausalLM.from_pretrained(path / "model").eval()
    assert torch.equal(again(ids).logits, full(ids).logits)
    assert AutoTokenizer.from_pretrained(path / "model")("1+2=").input_ids == tokenizer("1+2=").input_ids
    loaded, _ = load_model(path / "model", device="cpu")
    assert torch.equal(loaded(ids).logits, full(ids).logits)


def test_load_model_reads_an_adapters_checkpoint(tmp_path):
    from rlkit.adapters import add_lora

    model, tokenizer = load_model("rlkit/tiny-arithmetic", device="cpu")
    model = add_lora(model, r=4)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    path = write(tmp_path, 1, model, tokenizer=tokenizer)
    again, _ = load_model(path / "model", device="cpu")
    ids = torch.tensor([[3, 4, 5, 6]])
    assert torch.equal(again(ids).logits, model(ids).logits)


def test_an_adapter_on_a_base_in_four_bits(tmp_path):
    pytest.importorskip("bitsandbytes")
    from rlkit.adapters import add_lora

    def start(seed: int):
        torch.manual_seed(0)
        return add_lora(
            load_model("rlkit/tiny-arithmetic", device="cpu", load_in_4bit=True)[0], r=4, seed=seed
        )

    model, other = start(1), start(2)
    assert fingerprint(model, frozen_only=True) == fingerprint(other, frozen_only=True)
    assert fingerprint(model) != fingerprint(other)
    Checkpoint(write(tmp_path, 1, model)).load_weights(other)
    assert fingerprint(model) == fingerprint(other)
    ids = torch.tensor([[3, 4, 5, 6]])
    assert torch.equal(other(ids).logits, model(ids).logits)


def test_what_is_trained_beside_the_adapter_is_not_lost_silently(tmp_path):
    model, _ = adapter_model()
    model.base_model.model.model.norm.weight.requires_grad_(True)
    with pytest.raises(TrainingError, match=r"norm\.weight is trained but belongs to no active adapter"):
        write(tmp_path, 1, model)


def test_a_checkpoint_of_another_model_is_refused_and_nothing_is_copied(tmp_path):
    model, _ = small_model()
    path = write(tmp_path / "a", 1, model)
    for other, said in (
        (small_model()[0].bfloat16(), r"embed_tokens\.weight is float32 .* bfloat16"),
        (random_model("qwen2", tied=True), r"embed_tokens\.weight is float32 \[\d+, 64\] .* \[100, 128\]"),
        (adapter_model()[0], r"missing in the"),
    ):
        before = weights_of(other)
        with pytest.raises(ConfigError, match=f"does not fit this .*{said}"):
            Checkpoint(path).load_weights(other)
        assert all(torch.equal(tensor, before[name]) for name, tensor in other.state_dict().items())
    path = write(tmp_path / "b", 1, adapter_model()[0])
    with pytest.raises(
        ConfigError, match=r"lora_A\.weight is float32 \[4, 64\] in .* \[8, 64\] in the model"
    ):
        Checkpoint(path).load_weights(adapter_model(r=8)[0])


def test_weights_of_the_same_size_and_other_values_are_noticed(tmp_path):
    model, _ = small_model()
    path = write(tmp_path, 1, model)
    file = path / "model" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-2] ^= 0x40  # an exponent's bit
    file.write_bytes(content)
    with pytest.raises(ConfigError, match="hold other values than were written"):
        latest_checkpoint(tmp_path).load_weights(model)


# ------------------------------------------------------------------------------------------ state


def test_state_comes_back_and_views_do_not_drag_their_storage_along(tmp_path):
    from enum import IntEnum

    model, _ = small_model()
    big = torch.randn(1_000_000)
    state = {
        "step": 7,
        "nested": {"list": [1, 2.5, None, True, "text"], "tuple": (1, (2,)), 3: "a whole number for a key"},
        "view": big[10:20],
        "parameter": model.lm_head.weight,
        "bfloat16": torch.randn(3).bfloat16(),
        "numpy": (np.float64(0.1), np.float32(0.5), np.int64(4), np.arange(3)),
        "enumeration": IntEnum("Colour", ["RED"]).RED,
        "nan": float("nan"),
        "large": 2**100,
    }
    path = write(tmp_path, 7, model, state=state, position=123)
    checkpoint = latest_checkpoint(tmp_path)
    assert checkpoint is not None and (checkpoint.step, checkpoint.position) == (7, 123)
    back = torch.load(path / "state.pt", weights_only=True)
    assert list(back) == list(checkpoint.state()) == list(state)
    assert back["nested"] == state["nested"] and back["large"] == 2**100 and back["nan"] != back["nan"]
    assert torch.equal(back["view"], big[10:20]) and (path / "state.pt").stat().st_size < 100_000
    assert torch.equal(back["parameter"], model.lm_head.weight) and torch.equal(
        back["bfloat16"], state["bfloat16"]
    )
    assert back["numpy"] == (0.1, 0.5, 4, [0, 1, 2]) and back["enumeration"] == 1
    assert type(back["enumeration"]) is int and type(back["numpy"][0]) is float


def test_what_torch_load_would_refuse_is_refused_at_once(tmp_path):
    model, _ = small_model()
    with pytest.raises(ConfigError, match=r"state\['a'\]\[1\]=.*not usable"):
        write(tmp_path, 1, model, state={"a": [1, random.Random()]})
    with pytest.raises(ConfigError, match="keep=0"):
        write(tmp_path, 1, model, keep=0)
    assert not (tmp_path / "checkpoints").exists()


def test_an_optimizer_goes_on_exactly(tmp_path):
    def train(model, optimizer, schedule, seeds) -> None:
        for seed in seeds:
            ids = torch.randint(3, VOCAB, (4, 20), generator=torch.Generator().manual_seed(seed))
            model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()

    def start():
        model = random_model("llama", tied=True)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
        return model, optimizer, torch.optim.lr_scheduler.LinearLR(optimizer)

    model, optimizer, schedule = start()
    train(model, optimizer, schedule, range(3))
    write(tmp_path, 3, model, {"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()})
    train(model, optimizer, schedule, range(3, 6))
    other, optimizer, schedule = start()
    checkpoint = latest_checkpoint(tmp_path)
    checkpoint.load_weights(other)
    optimizer.load_state_dict(checkpoint.state()["optimizer"])
    schedule.load_state_dict(checkpoint.state()["schedule"])
    train(other, optimizer, schedule, range(3, 6))
    for (name, a), b in zip(model.named_parameters(), other.parameters()):
        assert bits(a) == bits(b), name


def test_random_states_go_on_where_they_stood(tmp_path):
    def draw():
        return (
            random.random(),
            random.gauss(0, 1),
            np.random.rand(),
            np.random.randn(),
            torch.randn(2).tolist(),
        )

    random.gauss(0, 1)  # leaves a second number behind
    np.random.randn()
    write(tmp_path, 1, small_model()[0], state={"random": random_states("cpu")})
    expected = [draw(), draw()]
    restore_random_states(latest_checkpoint(tmp_path).state()["random"])
    assert [draw(), draw()] == expected


# ------------------------------------------------------------------------------------ fingerprint


def test_a_fingerprint_tells_models_apart():
    model, _ = small_model()
    same = fingerprint(model)
    assert fingerprint(small_model()[0]) == same and fingerprint(small_model(seed=1)[0]) != same
    fuse(model)
    assert fingerprint(model) == same  # how it lies in memory does not matter
    assert (
        fingerprint(small_model(tied=False)[0]) != same and fingerprint(small_model()[0].bfloat16()) != same
    )
    with torch.no_grad():
        model.model.layers[1].input_layernorm.weight[3] += 1e-6
    assert fingerprint(model) != same
    moved = random_model("llama", tied=True)
    before = fingerprint(moved)
    train_a_little(moved, steps=1, lr=1e-6)
    assert fingerprint(moved) != before


def test_the_fingerprint_of_an_adapters_base():
    model, _ = adapter_model(seed=0)
    other, _ = adapter_model(seed=1)
    assert fingerprint(model) != fingerprint(other)
    assert fingerprint(model, frozen_only=True) == fingerprint(other, frozen_only=True)
    with torch.no_grad():
        other.base_model.model.model.norm.weight[0] += 1
    assert fingerprint(model, frozen_only=True) != fingerprint(other, frozen_only=True)


def test_quantised_weights_count_with_their_scales():
    bnb = pytest.importorskip("bitsandbytes")

    def layer(scale: float):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            linear = bnb.nn.Linear4bit(64, 64, bias=False, quant_type="nf4")
            linear.weight = bnb.nn.Params4bit(
                torch.randn(64, 64) * scale, requires_grad=False, quant_type="nf4"
            )
            return linear.to("cpu")

    assert layer(1.0).weight.dtype == torch.uint8
    assert torch.equal(layer(1.0).weight, layer(4.0).weight)  # the codes alone do not tell
    assert fingerprint(layer(1.0)) == fingerprint(layer(1.0)) != fingerprint(layer(4.0))
