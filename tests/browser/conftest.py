"""The fixtures of the browser tests; how to write one stands in jupyter_pages.py.

They need Chromium and Playwright. Without them `test_browser_is_there` alone is collected: it is skipped with the
reason, and fails in CI, which installs both.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from jupyter_pages import Book, Stage

HERE = Path(__file__).parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PACKAGES = ("playwright", "jupyterlab", "ipywidgets", "notebook")
_STAGE = pytest.StashKey["Stage"]()


def missing() -> str:
    """What the tests lack, in words; empty where nothing is missing."""
    absent = [name for name in PACKAGES if not importlib.util.find_spec(name)]
    if absent:
        return f"not installed: {', '.join(absent)} (the extras lab and dev bring them)"
    if not any(shutil.which(name) for name in BROWSERS):
        return "there is no Chromium on this machine (Debian: apt-get install chromium fonts-dejavu-core)"
    return ""


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Without Playwright the other files cannot even be imported."""
    name = collection_path.name
    return True if name.startswith("test_") and name != "test_browser_is_there.py" and missing() else None


@pytest.fixture(scope="session")
def lacking() -> str:
    """What is missing here, in words."""
    return missing()


@pytest.fixture(scope="session")
def stage(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """The server and the browser: one of each for all tests of this process."""
    from jupyter_pages import Stage

    made = request.config.stash[_STAGE] = Stage(tmp_path_factory.mktemp("jupyter"))
    yield made
    made.close()


@pytest.fixture
def book(stage: Stage) -> Iterator[Callable[..., Book]]:
    """Opens notebooks: ``book("code of cell 0", "code of cell 1", front="lab", width=1280)``; closes them after."""
    opened: list[Book] = []

    def make(*cells: str, **settings: Any) -> Book:
        opened.append(stage.open(cells, **settings))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


@pytest.fixture(scope="module")
def page(stage: Stage, request: pytest.FixtureRequest) -> Iterator[Book]:
    """One notebook of the file's ``CELLS`` for all its tests; a file that needs more has a ``page`` of its own."""
    opened = stage.open(request.module.CELLS)
    yield opened
    opened.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """Close the browser after the last test of this folder: see `Stage.close_browser`."""
    result = yield
    if nextitem is None or HERE not in nextitem.path.parents:
        stage = item.config.stash.get(_STAGE, None)
        if stage is not None:
            stage.close_browser()
    return result  # type: ignore[return-value]
