"""Whether the browser tests can run here at all; in CI they must."""

from __future__ import annotations

import os

import pytest


def test_browser_is_there(lacking: str) -> None:
    if lacking and not os.environ.get("CI"):
        pytest.skip(lacking)
    assert not lacking, f"{lacking}; .ci/run installs it"
