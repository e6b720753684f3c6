"""GGUF files, llama.cpp's format: find them, and turn them into a plain transformers folder.

transformers reads them, and ``dequantize=True`` makes the model an ordinary one that can be trained and saved.
Without it transformers may keep the quantised blocks, for which there is neither a backward pass nor a
``save_pretrained``.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any


def find_gguf(path: Path) -> Path | None:
    """The GGUF file that ``path`` stands for: the file itself, or the only one of a folder without config.json."""
    if path.is_file() and path.suffix.lower() == ".gguf":
        return path
    if path.is_dir() and not (path / "config.json").exists():
        files = [file for file in path.iterdir() if file.suffix.lower() == ".gguf" and file.is_file()]
        return files[0] if len(files) == 1 else None
    return None


def gguf_keywords(file: Path) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """What transformers wants to be told: (folder, keywords for all parts, keywords for the model alone)."""
    from transformers.utils.quantization_config import GgufConfig

    return str(file.parent), {"gguf_file": file.name}, {"quantization_config": GgufConfig(dequantize=True)}


@contextmanager
def no_gguf_bar() -> Iterator[None]:
    """Hide the progress bar that reading a GGUF file draws on stderr whatever transformers' settings say."""
    with redirect_stderr(io.StringIO()):
        yield


def convert_gguf(file: Path, folder: Path) -> None:
    """Write a GGUF file as a transformers folder: float32 safetensors, tokenizer, configuration, chat template.

    It is what ``load_model`` makes of the file, saved.

    Raises:
        ConfigError: what ``load_model`` says of a file that it cannot read.
    """
    from rlkit.hub import quiet_transformers
    from rlkit.models import load_model

    model, tokenizer = load_model(file, dtype="float32", device="cpu")
    vars(model.config).pop("_model_name_or_path", None)  # the GGUF file's title, which is no name to load
    tokenizer.init_kwargs.pop("is_local", None)
    tokenizer.init_kwargs.pop("local_files_only", None)
    with quiet_transformers():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
