"""An OpenAI-compatible endpoint: where it is, who may ask, and what its errors mean in words.

The judge and the reward drafter ask one through the `openai` client, which also does the retries: rate limits (429),
server errors (5xx), lost connections and timeouts are tried again, after the time that the server asks for, else after
a wait that doubles. Nothing of `openai` is imported before an endpoint is made.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from rlkit.errors import ConfigError, bad_value

NO_KEY = "none"  # the client insists on a key; a local server does not look at it
_LOCAL = ("localhost", "127.0.0.1", "::1", "0.0.0.0")


def openai_package() -> Any:
    """Return the module `openai`; raises `ConfigError` where it is not installed."""
    try:
        import openai
    except ImportError as error:
        raise ConfigError(
            "asking a model over the network needs the package openai: pip install 'rlkit-notebooks[rewards]'"
        ) from error
    return openai


@dataclass(frozen=True)
class Endpoint:
    """One model behind an OpenAI-compatible chat-completions endpoint.

    Attributes:
        model: the name under which the endpoint serves it.
        base_url: where, such as ``http://localhost:8000/v1`` for ``vllm serve``. None: ``$OPENAI_BASE_URL``, else
            OpenAI's own.
        api_key: None: ``$OPENAI_API_KEY``. Needed for OpenAI; many servers of one's own want none.
        timeout: seconds for one try.
        retries: further tries after the first.
        client_options: more keywords for ``openai.AsyncOpenAI``, such as ``default_headers``.

    Raises `ConfigError` for a value that cannot work, a missing key, a missing package.
    """

    model: str
    base_url: str | None = None
    api_key: str | None = field(default=None, repr=False)
    timeout: float = 30.0
    retries: int = 3
    client_options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.model, str) or not self.model.strip():
            raise bad_value("model", self.model, "the name under which the endpoint serves the model")
        url = self.base_url if self.base_url is not None else os.environ.get("OPENAI_BASE_URL") or None
        if url is not None:
            if not isinstance(url, str) or urlsplit(url).scheme not in ("http", "https"):
                raise bad_value("base_url", url, "an address such as http://localhost:8000/v1")
            url = url.rstrip("/")
        key = self.api_key if self.api_key is not None else os.environ.get("OPENAI_API_KEY") or None
        if key is None and url is None:
            raise ConfigError(
                f"api_key: asking {self.model!r} at OpenAI needs a key. Set the environment variable OPENAI_API_KEY or "
                "pass api_key=…; for a server of your own pass base_url=…, such as http://localhost:8000/v1"
            )
        if key is not None and (
            not isinstance(key, str) or not key or not key.isascii() or key.split() != [key]
        ):
            # Not shown: an error message ends up in logs.
            raise ConfigError(
                "api_key is not usable. Allowed: ASCII text without white space. Was it copied whole, on one line?"
            )
        for name, value, low in (("timeout", self.timeout, 0), ("retries", self.retries, 0)):
            kinds = (int, float) if name == "timeout" else (int,)
            if not isinstance(value, kinds) or isinstance(value, bool) or not low <= value < 10_000:
                allowed = "seconds, above 0" if name == "timeout" else "a whole number, 0 or more"
                raise bad_value(name, value, allowed)
        if not self.timeout > 0:
            raise bad_value("timeout", self.timeout, "seconds, above 0")
        openai_package()
        object.__setattr__(self, "base_url", url)
        object.__setattr__(self, "api_key", key or NO_KEY)

    def async_client(self) -> Any:
        """Return a new ``AsyncOpenAI``, for one event loop; it is closed by ``async with``."""
        return openai_package().AsyncOpenAI(**self._options("DefaultAsyncHttpxClient"))

    def client(self) -> Any:
        """Return a new ``OpenAI``; it is closed by ``with``."""
        return openai_package().OpenAI(**self._options("DefaultHttpxClient"))

    def _options(self, transport: str) -> dict[str, Any]:
        options = {
            "api_key": self.api_key,
            "base_url": self.base_url,
            "timeout": self.timeout,
            "max_retries": self.retries,
        }
        if self.base_url is not None and urlsplit(self.base_url).hostname in _LOCAL:
            # A proxy that the environment names cannot reach this machine's own server.
            options["http_client"] = getattr(openai_package(), transport)(trust_env=False)
        return {**options, **self.client_options}

    def explain(self, error: BaseException) -> str:
        """Say in one line what went wrong, without the key."""
        openai = openai_package()
        where = self.base_url or "OpenAI"
        if isinstance(error, openai.APITimeoutError):
            said = f"no answer from {where} within {self.timeout:g} s"
        elif isinstance(error, openai.APIStatusError):
            said = f"{where} answered HTTP {error.status_code}: {error.message}"
        elif isinstance(error, openai.APIConnectionError):
            cause = error.__cause__ or error
            said = f"no connection to {where} ({str(cause) or type(cause).__name__})"
        else:
            said = f"{type(error).__name__}: {error}"
        if self.api_key and self.api_key != NO_KEY:
            said = said.replace(self.api_key, "…")
        said = " ".join(said.split())
        return said if len(said) <= 300 else said[:299] + "…"

    def refuses(self, error: BaseException) -> bool:
        """Say whether every further request would fail in the same way: the key or the model is not accepted."""
        openai = openai_package()
        kinds = (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError)
        return isinstance(error, kinds)
