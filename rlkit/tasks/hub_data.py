"""Data sets of the Hugging Face Hub, with an answer in seconds where it cannot be reached."""

from __future__ import annotations

import glob
import os
import re
from typing import Any

from rlkit.errors import ConfigError
from rlkit.hub import offline_keywords

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def page(name: str) -> str:
    """Return the address of a data set's page."""
    return f"https://huggingface.co/datasets/{name}"


def load_hub(name: str, config: str | None = None) -> Any:
    """Return the Hub's data set `name` ("owner/name") as a `datasets.DatasetDict`, from the cache where it is offline.

    `config` is the configuration, where it has several. Raises `ConfigError`, at once and not after retries, where the
    Hub cannot be reached and the data set was never loaded here; and where there is no such data set.
    """
    import datasets

    offline = _why_offline(name)
    if offline and not _cached(name):
        raise ConfigError(
            f"the data set {name!r} cannot be loaded: it is not on this machine and the Hugging Face Hub cannot be "
            f"reached ({offline}). Load it once with a network, or give a file instead"
        )
    settings = datasets.config
    before = settings.HF_HUB_OFFLINE
    settings.HF_HUB_OFFLINE = bool(
        offline
    )  # what the variable of that name sets; without it the client keeps trying
    try:
        return datasets.load_dataset(name, config)
    except Exception as error:  # the library's, the Hub's client's, the network's
        said = (str(error).strip() or type(error).__name__).splitlines()
        cause = (
            "A typo, or it is private and you are not logged in (`hf auth login`)? "
            if "NotFound" in type(error).__name__
            else ""
        )
        raise ConfigError(
            f"the data set {name!r} cannot be loaded. {cause}{type(error).__name__}: {' '.join(said)[:400]}"
        ) from error
    finally:
        settings.HF_HUB_OFFLINE = before


def _why_offline(name: str) -> str:
    """Why the Hub cannot be reached; '' where it can, or where only its client knows the way."""
    import datasets

    if datasets.config.HF_HUB_OFFLINE:
        variables = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
        return f"{next((v for v in variables if os.environ.get(v)), variables[0])} is set"
    try:
        reached = not offline_keywords(name, {})
    except ConfigError:  # which speaks of models
        reached = False
    return "" if reached else "is there a network connection?"


def _cached(name: str) -> bool:
    """Whether `datasets` has prepared the data set before."""
    import datasets
    from datasets.naming import camelcase_to_snakecase

    owner, _, own_name = name.partition("/")
    folder = f"{owner}___{camelcase_to_snakecase(own_name)}"
    return bool(glob.glob(os.path.join(str(datasets.config.HF_DATASETS_CACHE), folder, "*", "*", "*")))
