"""Scores that a judge has given already, on disk: the same question is not paid for twice.

One small file a score, named by a hash of all that the score depends on. A file is written under another name and then
renamed, so several processes can share the folder, also one on a network drive, without locks: at worst two of them ask
the same thing once each. What was judged is not written down, only its hash.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import threading
from pathlib import Path
from typing import Any


def cache_key(**parts: Any) -> str:
    """Return the hash of `parts`, plain values by name: 40 hexadecimal digits.

    >>> cache_key(model="a", temperature=0) == cache_key(temperature=0, model="a") != cache_key(model="a")
    True
    """
    text = json.dumps(parts, sort_keys=True)  # ASCII: lone surrogates are escaped, not refused
    return hashlib.blake2b(text.encode("ascii"), digest_size=20).hexdigest()


class JudgeCache:
    """Scores by key in `folder`, which is made when the first one is kept."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder).expanduser()
        self.trouble: str | None = None  # why nothing could be kept, once that has happened

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key[2:]}.json"

    def get(self, key: str) -> float | None:
        """Return the score kept under `key`; None where there is none, or its file is damaged."""
        try:
            kept = json.loads(self._path(key).read_bytes())
            score = kept["score"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        good = isinstance(score, int | float) and not isinstance(score, bool) and math.isfinite(score)
        return float(score) if good else None

    def put(self, key: str, score: float, model: str) -> None:
        """Keep a score. A folder that cannot be written to is no error: `trouble` says why, and nothing is kept."""
        if self.trouble:
            return
        path = self._path(key)
        temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps({"score": score, "model": model}), encoding="ascii")
            os.replace(temporary, path)
        except OSError as error:
            self.trouble = f"scores cannot be kept in {self.folder} ({error.strerror or error})"
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
