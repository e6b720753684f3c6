"""Loading: the embedded model and local folders work, and what cannot work is said before anything is read."""

from __future__ import annotations

import json
import shutil
import warnings

import pytest
import torch
from tiny_gguf import random_llama, write_gguf

from rlkit import hub
from rlkit.errors import ConfigError
from rlkit.models import DEFAULT_CHAT_TEMPLATE, EMBEDDED, ModelWarning, find_model, load_model

FOLDER = EMBEDDED["rlkit/tiny-arithmetic"]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def copy(tmp_path):
    """A copy of the embedded model's folder that a test may damage."""
    return shutil.copytree(FOLDER, tmp_path / "model")


def edit_json(path, **changes):
    content = json.loads(path.read_text())
    for key, value in changes.items():
        content.pop(key, None) if value is None else content.update({key: value})
    path.write_text(json.dumps(content))


def test_the_embedded_model_comes_ready_for_rl(capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model, tokenizer = load_model("rlkit/tiny-arithmetic", fast_inference=False)
    assert not model.training and model.config.use_cache
    assert all(p.requires_grad and p.dtype == torch.float32 for p in model.parameters())
    assert tokenizer.padding_side == "left"
    assert tokenizer.model_max_length == model.config.max_position_embeddings
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.rlkit_fast_inference is False
    ids = tokenizer("17+25=", return_tensors="pt")
    out = model.generate(**ids, do_sample=False, max_new_tokens=4)
    assert tokenizer.decode(out[0], skip_special_tokens=True).startswith("17+25=")
    assert capfd.readouterr() == ("", "")  # no log lines, no progress bars


def test_a_local_folder_and_its_options(copy):
    model, tokenizer = load_model(
        copy, dtype="bfloat16", max_seq_length=32, chat_template="{{ messages[0]['content'] }}"
    )
    assert model.dtype == torch.bfloat16
    assert tokenizer.model_max_length == 32
    assert tokenizer.chat_template == "{{ messages[0]['content'] }}"
    assert model.rlkit_fast_inference is None
    again, _ = load_model(str(copy), dtype=torch.float32, device="cpu")
    assert again.dtype == torch.float32


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A folder with a small random Llama and a tokenizer that knows its end and unknown token, and no more."""
    from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import WordLevel
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = {token: i for i, token in enumerate(["<unk>", "</s>", *"0123456789+="])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    folder = tmp_path_factory.mktemp("llama") / "model"
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>").save_pretrained(
        folder
    )
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = LlamaConfig(vocab_size=len(vocabulary), max_position_embeddings=64, **sizes)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def base_model(llama, tmp_path):
    return shutil.copytree(llama, tmp_path / "base_model")


def test_missing_pad_token_and_chat_template_are_supplied_with_a_warning(base_model):
    with pytest.warns(ModelWarning) as caught:
        model, tokenizer = load_model(base_model)
    texts = [str(w.message) for w in caught if w.category is ModelWarning]
    assert len(texts) == 2
    assert "no pad token" in texts[0] and "no chat template" in texts[1] and "base model" in texts[1]
    assert all(w.filename == __file__ for w in caught if w.category is ModelWarning)
    assert tokenizer.pad_token == tokenizer.eos_token == "</s>"
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id
    messages = [{"role": "user", "content": "1+1="}, {"role": "assistant", "content": "2"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    assert text == "<|im_start|>user\n1+1=<|im_end|>\n<|im_start|>assistant\n2</s>\n"
    prompt = tokenizer.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
    assert prompt == "<|im_start|>user\n1+1=<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.chat_template == DEFAULT_CHAT_TEMPLATE


def test_the_unknown_token_pads_where_there_is_no_end_token(base_model):
    edit_json(base_model / "tokenizer_config.json", eos_token=None)
    with pytest.warns(ModelWarning, match="no pad token"):
        _, tokenizer = load_model(base_model, chat_template="{{ messages[0]['content'] }}")
    assert tokenizer.pad_token == "<unk>"


def test_a_tokenizer_without_any_special_token_is_refused(base_model):
    edit_json(base_model / "tokenizer_config.json", eos_token=None, unk_token=None)
    with pytest.raises(ConfigError, match="no pad token, and neither"):
        load_model(base_model)


# --- GGUF files -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory):
    """The small random Llama of ``tiny_gguf``, in float32: reading it loses nothing."""
    return write_gguf(random_llama(), tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def test_a_gguf_file_has_the_logits_of_the_model_it_came_from(gguf_file, capfd):
    ids = torch.arange(3, 23)[None]  # [1, 20]
    expected = random_llama()(ids).logits  # [1, 20, vocabulary]
    for source in (gguf_file, gguf_file.parent):
        model, tokenizer = load_model(source)
        assert torch.equal(model(ids).logits, expected)
        assert model.name_or_path == str(source)
        assert tokenizer.chat_template and tokenizer.eos_token == "<|im_end|>"
        assert tokenizer("ab")["input_ids"] == [len(tokenizer) - 1]  # the merge
    assert load_model(gguf_file, dtype="bfloat16")[0].dtype == torch.bfloat16
    assert capfd.readouterr() == ("", "")


def test_a_gguf_model_trains_and_is_saved_as_a_plain_one(gguf_file, tmp_path):
    from transformers import AutoModelForCausalLM

    model, tokenizer = load_model(gguf_file)
    assert not hasattr(model.config, "quantization_config")
    ids = torch.arange(3, 23)[None]  # [1, 20]
    before = model(input_ids=ids, labels=ids).loss
    before.backward()
    assert all(p.grad is not None for p in model.parameters())
    torch.optim.SGD(model.parameters(), lr=0.01).step()
    model.save_pretrained(tmp_path / "plain")
    tokenizer.save_pretrained(tmp_path / "plain")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "plain", dtype=torch.float32)
    assert torch.equal(again(ids).logits, model(ids).logits)
    assert model(input_ids=ids, labels=ids).loss < before


def test_gguf_files_that_cannot_be_loaded(gguf_file, tmp_path):
    with pytest.raises(ConfigError, match="quantised already"):
        load_model(gguf_file, load_in_4bit=True)
    (tmp_path / "broken.gguf").write_bytes(b"no model at all")
    with pytest.raises(ConfigError, match="GGUF magic bytes"):
        load_model(tmp_path / "broken.gguf")
    (tmp_path / "second.gguf").touch()
    with pytest.raises(ConfigError, match="Pass one of the .gguf files"):
        find_model(tmp_path)


# --- damaged checkpoints, bad arguments --------------------------------------------------------------------------


def test_missing_weights_are_not_filled_with_random_numbers(copy):
    from safetensors.torch import load_file, save_file

    weights = load_file(copy / "model.safetensors")
    del weights["model.layers.0.mlp.up_proj.weight"]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match="lacks 1 of the weights"):
        load_model(copy)


def test_a_damaged_weight_file_is_named(copy):
    (copy / "model.safetensors").write_bytes(b"no weights at all")
    with pytest.raises(ConfigError, match="weights cannot be loaded"):
        load_model(copy)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"dtype": "fp16"}, "dtype='fp16'"),
        ({"dtype": torch.int8}, "dtype=torch.int8"),
        ({"max_seq_length": 0}, "max_seq_length=0"),
        ({"max_seq_length": 10_000}, "at most 512"),
        ({"chat_template": ""}, "chat_template=''"),
        ({"fast_inference": "vllm"}, "fast_inference='vllm'"),
        ({"device": "gpu"}, "device='gpu'"),
        ({"load_in_4bit": "nf4"}, "load_in_4bit='nf4'"),
        ({"load_in_8bit": True}, "load_in_8bit=True.* 4-bit"),
        ({"load_in_fp8": True}, "fp8 comes with the kernels"),
        ({"quantization_config": {"bits": 4}}, "load_in_4bit=True is the one way"),
        ({"peft_config": object()}, "add_lora"),
        ({"max_lora_rank": 0}, "max_lora_rank=0"),
        ({"max_lora_rank": 1024}, "max_lora_rank=1024.* to 512"),
        ({"no_such_argument": 1}, "no_such_argument"),
    ],
)
def test_bad_arguments(arguments, says):
    with pytest.raises(ConfigError, match=says):
        load_model("rlkit/tiny-arithmetic", **arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_absent():
    with pytest.raises(ConfigError, match="torch sees no CUDA device"):
        load_model("rlkit/tiny-arithmetic", device="cuda")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("rlkit/tiny-arithmetics", "Did you mean 'rlkit/tiny-arithmetic'"),
        ("", "model_name=''"),
        (None, "model_name=None"),
        ("a model", "a Hub id"),
        ("./no-such-folder", "no folder of that name"),
        ("/no/such/folder", "There is no folder '/no/such'"),
        ("some/where/else", "There is no folder 'some/where'"),
    ],
)
def test_names_that_stand_for_nothing(name, says):
    with pytest.raises(ConfigError, match=says):
        find_model(name)


def test_folders_that_hold_no_model(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="It holds nothing"):
        find_model(tmp_path / "empty")
    run = tmp_path / "run"
    (run / "checkpoint-20").mkdir(parents=True)
    with pytest.raises(ConfigError, match="Did you mean .*checkpoint-20"):
        find_model(run)
    no_weights = tmp_path / "no_weights"
    no_weights.mkdir()
    (no_weights / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"no \*.safetensors .* only config.json"):
        find_model(no_weights)
    with pytest.raises(ConfigError, match="single file"):
        find_model(no_weights / "config.json")
    with pytest.raises(ConfigError, match="Did you mean no_weights"):
        find_model(tmp_path / "no_weight")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="Did you mean checkpoint-20"):
        find_model("run/checkpoint-2")


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("GatedRepoError", "gated"),
        ("RepositoryNotFoundError", "a typo, or it is private"),
        ("OfflineModeIsEnabled", "cannot be reached"),
        ("ConnectError", "cannot be reached"),
        ("SomethingElse", "SomethingElse: because"),
    ],
)
def test_why_a_hub_model_cannot_be_read(kind, says):
    error = OSError("We could not load this")
    error.__cause__ = type(kind, (Exception,), {})("because")
    if kind == "SomethingElse":
        error = error.__cause__
    message = str(hub.cannot_read("someone/some-model", "someone/some-model", "configuration", error))
    assert says in message and "someone/some-model" in message


def test_a_hub_id_without_a_network(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigError, match="cannot be reached .HF_HUB_OFFLINE is set"):
        load_model("someone/no-such-model-here")


def test_no_half_minute_of_retries_without_a_network(monkeypatch, tmp_path):
    import huggingface_hub.constants

    def unreachable(*args, **kwargs):
        raise OSError("Name or service not known")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "getproxies", dict)
    monkeypatch.setattr(hub.socket, "create_connection", unreachable)
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match="cannot be reached .is there a network connection"):
        load_model("someone/no-such-model-here", cache_dir=tmp_path)
    assert hub.offline_keywords("someone/model", {"local_files_only": True}) == {}
    # What is in the cache is loaded from there.
    snapshot = tmp_path / "models--someone--model" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (tmp_path / "models--someone--model" / "refs").mkdir()
    (tmp_path / "models--someone--model" / "refs" / "main").write_text("abc")
    assert hub.offline_keywords("someone/model", {"cache_dir": tmp_path}) == {"local_files_only": True}
