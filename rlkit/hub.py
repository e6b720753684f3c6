"""Reaching the Hugging Face Hub, and what to say where a model cannot be read."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from rlkit.errors import ConfigError
from rlkit.fetchable import alternative_to


def offline_keywords(model_id: str, keywords: dict[str, Any]) -> dict[str, Any]:
    """Return what to add to a Hub model's keywords: nothing, or ``local_files_only`` where only the cache can serve.

    Without a network the Hub's client tries again for half a minute; one look at the address tells the same at once.
    Raises `ConfigError` where the Hub cannot be reached and the model is not in the cache.
    """
    from huggingface_hub import constants, try_to_load_from_cache

    if constants.HF_HUB_OFFLINE or keywords.get("local_files_only") or getproxies():
        return {}  # settled already, or only the client knows the way
    address = urlsplit(constants.ENDPOINT)
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        socket.create_connection((address.hostname or "", port), timeout=5).close()
        return {}
    except OSError as error:
        where = {key: keywords[key] for key in ("cache_dir", "revision") if key in keywords}
        if isinstance(try_to_load_from_cache(model_id, "config.json", **where), str):
            return {"local_files_only": True}
        raise cannot_read(model_id, model_id, "configuration", ConnectionError(str(error))) from error


def cannot_read(model_name: Any, source: str, part: str, error: Exception) -> ConfigError:
    """Turn whatever transformers raised while reading `part` into an error that names the likely cause."""
    chain: list[BaseException] = [error]
    while (link := chain[-1].__cause__ or chain[-1].__context__) is not None and link not in chain:
        chain.append(link)
    kinds = {cls.__name__ for link in chain for cls in type(link).__mro__}
    said = (
        f"{type(error).__name__}: {str(error).strip().splitlines()[0]:.200}"
        if str(error)
        else type(error).__name__
    )
    if Path(source).is_dir():
        cause = f"Reading {source} failed ({said})."
    elif "GatedRepoError" in kinds:
        cause = "The model is gated: accept its licence on its page, then log in with `hf auth login`."
    elif kinds & {"RepositoryNotFoundError", "RevisionNotFoundError"}:
        cause = (
            "The Hub has no such model: a typo, or it is private and you are not logged in (`hf auth login`)."
        )
    elif kinds & {
        "OfflineModeIsEnabled",
        "LocalEntryNotFoundError",
        "ConnectError",
        "ConnectionError",
        "TimeoutException",
    }:
        offline = [v for v in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") if os.environ.get(v)]
        why = f"{offline[0]} is set" if offline else "is there a network connection, or a proxy in between?"
        cause = (
            f"It is not on this machine and the Hugging Face Hub cannot be reached ({why}). Without a network, load "
            "'rlkit/tiny-arithmetic' or a local folder; a folder's path may also be misspelt."
        )
        cause = f"{cause} {alternative_to(str(model_name))}".rstrip()
    else:
        cause = f"Reading it failed ({said})."
    return ConfigError(f"model_name={str(model_name)!r}: the {part} cannot be loaded. {cause}")


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence transformers' and the Hub's log lines and progress bars inside the block; what matters, we raise."""
    from huggingface_hub import utils as hub
    from transformers.utils import logging

    verbosity, hub_verbosity = logging.get_verbosity(), hub.logging.get_verbosity()
    bars, hub_bars = logging.is_progress_bar_enabled(), not hub.are_progress_bars_disabled()
    logging.set_verbosity_error()
    hub.logging.set_verbosity_error()
    logging.disable_progress_bar()
    if hub_bars:
        hub.disable_progress_bars()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        hub.logging.set_verbosity(hub_verbosity)
        if bars:
            logging.enable_progress_bar()
        if hub_bars:
            hub.enable_progress_bars()
