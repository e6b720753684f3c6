"""What leaves a run loads elsewhere: merged, adapter or full; whole or not at all; with a card that is true."""

from __future__ import annotations

import re

import pytest
import torch
import yaml

from rlkit import export
from rlkit.adapters import add_lora, is_adapter_model
from rlkit.errors import ConfigError
from rlkit.export import merged_model, replace_folder, save_merged, save_model, write_model_card
from rlkit.model_card import code, model_card, text
from rlkit.models import load_model

NAME = "rlkit/tiny-arithmetic"
IDS = torch.arange(5, 25)[None]  # [1, 20]
ABOUT = {
    "algorithm": "GRPO",
    "model": NAME,
    "parameters": 886_000,
    "dtype": "float32",
    "dataset": "sums of two numbers",
    "columns": ["prompt", "answer"],
    "train_rows": 120,
    "eval_rows": 64,
    "rewards": {"correct_number": 1.0, "number_found": 0.5},
    "grpo": {
        "loss_type": "dr_grpo",
        "learning_rate": 5e-5,
        "beta": 0.0,
        "epsilon": 0.2,
        "output_dir": "/home/me/run",
    },
    "seed": 3,
    "status": "finished",
    "steps": 80,
    "accuracy_before": 0.55,
    "accuracy_after": 0.92,
    "accuracy_sampled_before": 0.5,
    "accuracy_sampled_after": None,
    "eval_n": 64,
    "versions": {"rlkit": "0.1.0", "torch": "2.13.0"},
    "device": "a CPU, 2 cores",
}


def trained(model, spread=0.05):
    """An adapter as training leaves it: B is no longer zero."""
    lora = add_lora(model, r=4)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in (p for p in lora.parameters() if p.requires_grad):
            parameter.add_(spread * torch.randn(parameter.shape, generator=generator))
    return lora


def front_matter(path):
    _, front, body = path.read_text().split("---\n", 2)
    return yaml.safe_load(front), body


# --- merging --------------------------------------------------------------------------------------------------


def test_merged_loads_in_plain_transformers_and_the_live_model_is_untouched(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = load_model(NAME)
    base = model(IDS).logits
    lora = trained(model)
    expected = lora(IDS).logits  # [1, 20, V]
    assert (expected - base).abs().max() > 0.1
    before = {name: p.detach().clone() for name, p in lora.named_parameters()}
    places = {name: p.data_ptr() for name, p in lora.named_parameters()}
    assert save_merged(lora, tokenizer, tmp_path / "merged", ABOUT) == tmp_path / "merged"
    assert all(
        torch.equal(p, before[name]) and p.data_ptr() == places[name] for name, p in lora.named_parameters()
    )
    assert is_adapter_model(lora) and torch.equal(lora(IDS).logits, expected)

    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    assert (plain(IDS).logits - expected).abs().max() < 1e-5
    assert not (tmp_path / "merged" / "adapter_config.json").exists()
    assert (
        AutoTokenizer.from_pretrained(tmp_path / "merged")("1+1=")["input_ids"]
        == tokenizer("1+1=")["input_ids"]
    )
    again, _ = load_model(tmp_path / "merged")
    assert torch.equal(again(IDS).logits, plain(IDS).logits)
    assert again.generation_config.eos_token_id == model.generation_config.eos_token_id
    front, body = front_matter(tmp_path / "merged" / "README.md")
    assert front["library_name"] == "transformers" and "4 bits" not in body and "LoRA, r = 4" in body
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "merged").iterdir()}
    (tmp_path / "probe").touch()
    assert modes == {(tmp_path / "probe").stat().st_mode & 0o777}
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name or "old" in path.name] == []


@pytest.mark.parametrize("architecture", ["llama", "phi3", "gemma3"])
@pytest.mark.parametrize("tied", [True, False])
def test_merging_agrees_with_the_adapter_for_other_architectures(architecture, tied):
    from tiny_models import random_model

    lora = trained(random_model(architecture, tied))
    merged = merged_model(lora)
    scale = lora(IDS).logits.abs().max()
    assert (merged(IDS).logits - lora(IDS).logits).abs().max() < 1e-5 * max(scale, 1)


def test_a_bfloat16_base_is_rounded_once():
    model, _ = load_model(NAME, dtype="bfloat16")
    exact = model.model.layers[0].mlp.up_proj.weight.detach().float()
    lora = trained(model)
    layer = model.model.layers[0].mlp.up_proj
    a, b = layer.lora_A["default"].weight.detach(), layer.lora_B["default"].weight.detach()
    assert layer.scaling["default"] == 8.0  # α / r = 32 / 4
    expected = (exact + 8.0 * (b @ a)).to(torch.bfloat16)
    merged = merged_model(lora).model.layers[0].mlp.up_proj.weight
    assert merged.dtype == torch.bfloat16 and torch.equal(merged, expected)


def test_a_4bit_base_is_dequantised_and_the_card_says_so(tmp_path):
    pytest.importorskip("bitsandbytes")
    from transformers import AutoModelForCausalLM

    model, tokenizer = load_model(NAME, load_in_4bit=True, device="cpu")
    lora = trained(model)
    with torch.no_grad():
        expected = lora(IDS).logits
    before = {name: p.detach().clone() for name, p in lora.named_parameters()}
    save_merged(lora, tokenizer, tmp_path / "merged")
    assert all(torch.equal(p, before[name]) for name, p in lora.named_parameters())
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    assert not hasattr(plain.config, "quantization_config")
    assert (plain(IDS).logits - expected).abs().max() < 1e-4  # of the dequantised base, not of the exact one
    front, body = front_matter(tmp_path / "merged" / "README.md")
    assert "not bit-identical" in body and front["base_model"] == NAME


def test_only_adapters_are_merged(tmp_path):
    model, tokenizer = load_model(NAME)
    with pytest.raises(ConfigError, match="has no adapter"):
        save_merged(model, tokenizer, tmp_path / "merged")
    assert list(tmp_path.iterdir()) == []


# --- saving -----------------------------------------------------------------------------------------------------


def test_save_model_writes_a_full_model_or_an_adapter(tmp_path):
    model, tokenizer = load_model(NAME)
    expected = model(IDS).logits
    save_model(model, tokenizer, tmp_path / "full")
    assert torch.equal(load_model(tmp_path / "full")[0](IDS).logits, expected)
    assert not (tmp_path / "full" / "README.md").exists()
    lora = trained(model)
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    save_model(lora, tokenizer, tmp_path / "adapter", ABOUT)
    assert not (tmp_path / "adapter" / "config.json").exists()
    again, words = load_model(tmp_path / "adapter")
    assert torch.equal(again(IDS).logits, lora(IDS).logits)
    assert words.chat_template == tokenizer.chat_template  # the adapter's own tokenizer, not the base's
    front, body = front_matter(tmp_path / "adapter" / "README.md")
    assert front["library_name"] == "peft" and "lora" in front["tags"] and "AutoPeftModelForCausalLM" in body
    # An adapter where a full model was leaves nothing of it.
    save_model(lora, tokenizer, tmp_path / "full")
    assert not (tmp_path / "full" / "model.safetensors").exists()


def test_a_failure_keeps_the_old_folder_and_nothing_half_written(tmp_path, monkeypatch):
    model, tokenizer = load_model(NAME)
    save_model(model, tokenizer, tmp_path / "model")
    before = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}

    def fails(folder):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "readable_by_others", fails)
    with pytest.raises(OSError, match="No space"):
        save_model(trained(model), tokenizer, tmp_path / "model")
    assert {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="a file of that name"):
        save_model(model, tokenizer, tmp_path / "file")


def test_replace_folder_puts_the_old_one_back_where_the_new_one_is_missing(tmp_path):
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "old").touch()
    with pytest.raises(FileNotFoundError):
        replace_folder(tmp_path / "no-such-folder", tmp_path / "target")
    assert (tmp_path / "target" / "old").exists() and len(list(tmp_path.iterdir())) == 1
    (tmp_path / "new").mkdir()
    replace_folder(tmp_path / "new", tmp_path / "target")
    assert list((tmp_path / "target").iterdir()) == [] and len(list(tmp_path.iterdir())) == 1


# --- the card -----------------------------------------------------------------------------------------------------


def test_the_card_tells_the_run(tmp_path):
    front, body = front_matter(write_model_card(tmp_path, ABOUT))
    assert front == {
        "library_name": "transformers",
        "base_model": NAME,
        "license": "apache-2.0",
        "tags": ["rlkit", "reinforcement-learning", "grpo"],
        "pipeline_tag": "text-generation",
    }
    for line in (
        "| accuracy, greedy | 0.55 | 0.92 |",
        "| accuracy, sampled | 0.5 | not measured |",
        "On 64 held-out problems.",
        "| `correct_number` | 1 |",
        "| `loss_type` | dr\\_grpo |",
        "| columns | prompt, answer |",
        "| steps | 80 |",
        "| device | a CPU, 2 cores |",
        "| `torch` | 2.13.0 |",
        'load_model("path/to/this/folder")',
    ):
        assert line in body, line
    assert "/home/me" not in body


@pytest.mark.parametrize(
    "about", [{}, {"algorithm": "GRPO"}, {"rewards": ["a"], "grpo": 3, "versions": None, "model": None}]
)
def test_missing_facts_are_left_out(about):
    card = model_card(about)
    assert yaml.safe_load(card.split("---\n")[1])["library_name"] == "transformers"
    assert "None" not in card and "## Load it" in card


@pytest.mark.parametrize(
    ("name", "base", "license_id"),
    [
        ("smollm2", "HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0"),
        (
            "/home/me/.cache/rlkit/models/smollm2-135m-instruct",
            "HuggingFaceTB/SmolLM2-135M-Instruct",
            "apache-2.0",
        ),
        ("someone/model", "someone/model", None),
        ("/home/me/secret/models/mine", "mine", None),
        ("./runs/first/model", "model", None),
        ("C:\\Users\\me\\mine", "mine", None),
    ],
)
def test_the_base_is_named_without_anyones_folders(name, base, license_id):
    front = yaml.safe_load(model_card({"model": name}).split("---\n")[1])
    assert (front["base_model"], front.get("license")) == (base, license_id)
    assert "me/" not in model_card({"model": name}).replace("load_model", "").replace("name/", "")


def test_text_from_a_run_is_shown_and_does_not_act():
    nasty = "a|b <img src=x onerror=alert(1)> [x](y) `code` *b*\n# new line"
    about = {**ABOUT, "status": nasty, "rewards": {nasty: 1.0}, "model": "x: y\n---\nlicense: mit"}
    card = model_card(about)
    front, body = card.split("---\n", 2)[1:]
    assert yaml.safe_load(front)["base_model"] == "x: y --- license: mit" and "license" not in yaml.safe_load(
        front
    )
    assert "<img" not in re.sub(r"(`+).*?\1", "", body)  # outside inline code, where it is text
    row = next(line for line in body.splitlines() if line.startswith("| status"))
    assert len(re.findall(r"(?<!\\)\|", row)) == 3  # two cells
    assert "\n# new line" not in body
    assert text("a*b") == "a\\*b" and code("`") == "`` ` ``" and code("") == ""
