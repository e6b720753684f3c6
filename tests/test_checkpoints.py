"""Checkpoints: what is written comes back bit for bit and in place, and a kill at any moment leaves a whole one."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from small_trainer import small_model, weights_of
from tiny_models import ARCHITECTURES, VOCAB, random_model, train_a_little

import rlkit
from rlkit.embedded import build_tokenizer
from rlkit.errors import ConfigError, TrainingError
from rlkit.models import load_model
from rlkit.trainers import checkpoints, weights
from rlkit.trainers.checkpoints import (
    Checkpoint,
    CheckpointWarning,
    fingerprint,
    latest_checkpoint,
    random_states,
    restore_random_states,
    write_checkpoint,
)

ROOT = Path(rlkit.__path__[0]).parent
TESTS = Path(__file__).parent


def write(run_dir, step, model, state=None, keep=2, position=0, tokenizer=None) -> Path:
    return write_checkpoint(
        run_dir, step, model=model, tokenizer=tokenizer, state=state or {}, keep=keep, position=position
    )


def steps_in(run_dir) -> list[str]:
    return sorted(path.name for path in (run_dir / "checkpoints").iterdir())


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


# ----------------------------------------------------------------------- folders, damage and kills


def test_the_newest_are_kept(tmp_path):
    model, _ = small_model()
    assert latest_checkpoint(tmp_path) is None
    for step in range(1, 6):
        path = write(tmp_path, step, model, keep=3)
        assert path == tmp_path / "checkpoints" / f"step_{step:06d}"
        assert latest_checkpoint(tmp_path).path == path
    assert steps_in(tmp_path) == ["step_000003", "step_000004", "step_000005"]
    write(tmp_path, 1_000_000, model, keep=1)  # beyond the digits of the name
    assert steps_in(tmp_path) == ["step_1000000"] and latest_checkpoint(tmp_path).step == 1_000_000


def test_a_step_can_be_written_again(tmp_path):
    model, _ = small_model()
    write(tmp_path, 4, model, {"turn": 1})
    write(tmp_path, 4, model, {"turn": 2})
    assert latest_checkpoint(tmp_path).state() == {"turn": 2} and steps_in(tmp_path) == ["step_000004"]
    folder = tmp_path / "checkpoints"
    (folder / "step_000004").rename(folder / "step_000004.old")  # killed between the two renames
    assert latest_checkpoint(tmp_path).state() == {"turn": 2}
    write(tmp_path, 4, model, {"turn": 3})
    assert latest_checkpoint(tmp_path).state() == {"turn": 3} and steps_in(tmp_path) == ["step_000004"]


def damage_missing(path: Path) -> None:
    (path / "model" / "config.json").unlink()


def damage_short(path: Path) -> None:
    file = path / "state.pt"
    file.write_bytes(file.read_bytes()[:-1])


def damage_no_json(path: Path) -> None:
    (path / "checkpoint.json").unlink()


def damage_json(path: Path) -> None:
    (path / "checkpoint.json").write_text('{"format": 1, "step"')


def damage_json_kind(path: Path) -> None:
    (path / "checkpoint.json").write_text("[1]")


def damage_format(path: Path) -> None:
    info = json.loads((path / "checkpoint.json").read_text())
    (path / "checkpoint.json").write_text(json.dumps(info | {"format": 99}))


DAMAGES = [damage_missing, damage_short, damage_no_json, damage_json, damage_json_kind, damage_format]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_skipped(tmp_path, damage):
    model, _ = small_model()
    for step in (1, 2):
        write(tmp_path, step, model, {"step": step})
    damage(tmp_path / "checkpoints" / "step_000002")
    with pytest.warns(CheckpointWarning, match=r"step_000002 is .*skipped"):
        checkpoint = latest_checkpoint(tmp_path)
    assert checkpoint.step == 1 and checkpoint.state() == {"step": 1}
    write(tmp_path, 2, model, {"step": 2}, keep=1)  # the damaged one does not count and does not stay
    assert latest_checkpoint(tmp_path).state() == {"step": 2} and steps_in(tmp_path) == ["step_000002"]


def test_one_that_is_half_deleted_has_lost_its_name(tmp_path, monkeypatch):
    def cut_short(path, ignore_errors=False) -> None:
        (Path(path) / "state.pt").unlink()

    model, _ = small_model()
    write(tmp_path, 1, model)
    monkeypatch.setattr(checkpoints.shutil, "rmtree", cut_short)
    write(tmp_path, 2, model, keep=1)
    assert steps_in(tmp_path) == [f".step_000001.gone-{os.getpid()}", "step_000002"]
    monkeypatch.undo()
    write(tmp_path, 3, model)
    assert steps_in(tmp_path) == ["step_000002", "step_000003"]


def test_a_damaged_newer_one_does_not_push_whole_ones_out(tmp_path):
    model, _ = small_model()
    for step in (1, 2, 9):
        write(tmp_path, step, model, keep=3)
    damage_short(tmp_path / "checkpoints" / "step_000009")
    write(tmp_path, 3, model, keep=2)
    assert steps_in(tmp_path) == ["step_000002", "step_000003", "step_000009"]


def test_state_that_cannot_be_read_is_said(tmp_path):
    path = write(tmp_path, 1, small_model()[0], {"a": torch.arange(1000)})
    file = path / "state.pt"
    file.write_bytes(b"x" * file.stat().st_size)
    with pytest.raises(ConfigError, match=r"step_000001 is damaged \(state\.pt"):
        Checkpoint(path).state()


def test_what_dead_processes_left_is_cleared_away(tmp_path):
    model, _ = small_model()
    folder = tmp_path / "checkpoints"
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for name in (
        f".step_000001.partial-{gone.pid}",
        f".step_000002.gone-{os.getppid()}",
        f".step_000002.old.gone-{gone.pid}",
        f".step_000001.partial-{os.getpid()}",  # a container gives the same number again
        f".step_000001.partial-{os.getppid()}",  # alive
        ".step_mine",
    ):
        (folder / name / "model").mkdir(parents=True)
    assert latest_checkpoint(tmp_path) is None
    write(tmp_path, 1, model)
    assert steps_in(tmp_path) == sorted([f".step_000001.partial-{os.getppid()}", ".step_mine", "step_000001"])


@pytest.mark.skipif(os.name != "posix", reason="needs a umask")
def test_files_are_as_readable_as_the_umask_says(tmp_path):
    before = os.umask(0o027)
    try:
        path = write(tmp_path, 1, small_model()[0], tokenizer=build_tokenizer())
    finally:
        os.umask(before)
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in path.rglob("*") if p.is_file()}
    assert set(modes.values()) == {0o640}, modes


def test_a_full_disk_is_said_before_anything_is_written(tmp_path, monkeypatch):
    model, _ = small_model()
    write(tmp_path, 1, model)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(checkpoints.shutil, "disk_usage", lambda path: usage._replace(free=1_000_000))
    with pytest.raises(
        TrainingError, match=r"step_000002 could not be written: it takes about 17 MB .* has 1 MB left"
    ):
        write(tmp_path, 2, model)
    assert steps_in(tmp_path) == ["step_000001"]


FULL_DISK = """
    import resource, sys
    from pathlib import Path
    import torch
    from small_trainer import small_model
    from rlkit.errors import TrainingError
    from rlkit.trainers.checkpoints import latest_checkpoint, write_checkpoint

    run, model = Path(sys.argv[1]), small_model()[0]

    def write(step):
        state = {"step": step, "moments": torch.zeros(100_000)}
        write_checkpoint(run, step, model=model, tokenizer=None, state=state, keep=2, position=0)

    write(1)
    for largest in (50, 100_000, 300_000):  # bytes: the first file is too large, the weights, the state
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))
        try:
            write(2)
        except TrainingError as error:
            said = str(error)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        print(said)
        print(sorted(path.name for path in (run / "checkpoints").iterdir()), latest_checkpoint(run).state()["step"])
    write(3)
    print(latest_checkpoint(run).state()["step"])
"""


@pytest.mark.skipif(os.name != "posix", reason="needs setrlimit")
def test_a_disk_that_fills_up_while_writing_leaves_the_earlier_ones(tmp_path):
    process = python(FULL_DISK, tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    *lines, last = out.splitlines()
    assert len(lines) == 6 and last == "3"
    for said, folders in zip(lines[::2], lines[1::2]):
        assert "step_000002 could not be written" in said and "too large" in said.lower()
        assert folders == "['step_000001'] 1"


def python(code: str, *args: object, **options) -> subprocess.Popen:
    """Start another Python that can import the package and the helpers here."""
    path = os.pathsep.join([str(ROOT), str(TESTS)])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, args)], env=environment, **options
    )


# Writers that share one start-up: each is a fork, and writes checkpoints until it is killed.
WRITE_UNTIL_KILLED = """
    import os, sys
    import torch, safetensors, transformers
    from small_trainer import small_model
    from rlkit.trainers.checkpoints import latest_checkpoint, write_checkpoint

    torch.set_num_threads(1)
    model = small_model()[0]
    for line in sys.stdin:
        child = os.fork()
        if child:
            os.waitpid(child, 0)
            print("dead", flush=True)
            continue
        print("pid", os.getpid(), flush=True)
        newest = latest_checkpoint(sys.argv[1])
        step = newest.step if newest else 0
        while True:
            step += 1
            for again in range(1 + step % 2):  # every other step twice: a run that is resumed and stopped at once
                with torch.no_grad():
                    for parameter in model.parameters():
                        parameter.fill_(step)
                state = {"step": step, "moments": torch.full((2000,), float(step)), "again": again}
                write_checkpoint(sys.argv[1], step, model=model, tokenizer=None, state=state,
                                 keep=2, position=10 * step)
                print("written", step, flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(tmp_path):
    """kill -9 twenty times, between one and a few checkpoints after the start, by a writer that goes on each time."""
    rng, model = random.Random(5), small_model()[0]
    process = python(WRITE_UNTIL_KILLED, tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    stdin, stdout = process.stdin, process.stdout
    assert stdin is not None and stdout is not None
    announced, between = 0, 0
    for _ in range(20):
        stdin.write("go\n")
        stdin.flush()
        pid = int(stdout.readline().split()[1])
        lines = [stdout.readline()]  # one at least
        time.sleep(rng.uniform(0.0, 0.15))
        os.kill(pid, signal.SIGKILL)
        while (line := stdout.readline()) != "dead\n":
            lines.append(line)
        announced = max(int(line.split()[1]) for line in lines if line.endswith("\n"))
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a checkpoint that is not whole was never given its name
            newest = latest_checkpoint(tmp_path)
        assert newest is not None and announced <= newest.step <= announced + 1
        state = newest.state()
        assert state["step"] == newest.step and newest.position == 10 * newest.step
        assert (state["moments"] == newest.step).all()
        newest.load_weights(model)
        assert all((parameter == newest.step).all() for parameter in model.parameters())
        for path in (tmp_path / "checkpoints").glob("step_*"):
            Checkpoint(path)  # nor is one half deleted under its name
        between += any(name.startswith(".") for name in steps_in(tmp_path))
    stdin.close()
    assert process.wait(timeout=30) == 0
    assert announced > 20 and between > 0  # some kills did fall into the writing
