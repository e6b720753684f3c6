"""What the README says is what the files say."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = ("README.md", "CONTRIBUTING.md", "notebooks/README.md")


def test_the_learning_table_is_that_of_the_recorded_runs():
    from benchmarks.learning import markdown_table

    assert markdown_table() in README


def test_the_benchmark_table_is_that_of_the_results_file():
    from benchmarks._report import RESULTS, markdown_table

    assert markdown_table(RESULTS / "cpu.json") in README


def test_every_make_target_that_is_named_exists():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    named = set(re.findall(r"`make ([a-z]+)", README)) | set(re.findall(r"^ *make ([a-z]+)", README, re.M))
    assert named
    assert named <= targets


@pytest.mark.parametrize("page", PAGES)
def test_every_relative_link_leads_somewhere(page):
    text = (ROOT / page).read_text()
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        if not link.startswith("http"):
            assert ((ROOT / page).parent / link).exists(), f"{page}: {link}"


def test_the_map_names_every_module():
    """CONTRIBUTING.md's map and the package agree."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    listed = subprocess.run(
        ["git", "ls-files", "rlkit"], capture_output=True, text=True, cwd=ROOT, check=False
    ).stdout.split() or [str(p.relative_to(ROOT)) for p in (ROOT / "rlkit").rglob("*.py")]
    for path in listed:
        name = Path(path).name
        if name.endswith(".py") and not name.startswith("_"):
            assert re.search(rf"`{re.escape(name.removesuffix('.py'))}(\.py)?`", text), path


def test_python_in_the_readme_runs_until_it_would_train(tmp_path, monkeypatch):
    """The README's example, as it stands there, with fewer steps and no vLLM start."""
    blocks = re.findall(r"```python\n(.*?)```", README, re.S)
    assert blocks
    monkeypatch.chdir(tmp_path)
    code = blocks[0].replace("max_steps=80", "max_steps=2, fast_inference=False, disable_tqdm=True")
    assert "max_steps=2" in code
    namespace: dict = {}
    exec(compile(code, "README.md", "exec"), namespace)
    assert namespace["summary"]["steps"] == 2
