"""The page of the widgets: each has a line that opens it, and a small picture with a description in words."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from rlkit import lab, runs, widgets

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
PAGE = (FOLDER / "widgets.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S))


def test_every_widget_has_a_section():
    assert sorted(SECTIONS) == sorted(widgets.__all__)


@pytest.mark.parametrize("name", sorted(SECTIONS))
def test_its_line_opens_it(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ((line,),) = [re.findall(r"```python\n(.*)\n```", SECTIONS[name])]
    for code in (line, *re.findall(r"`(widgets\.[^`]+)`", SECTIONS[name])):
        panel = eval(code, {"lab": lab, "runs": runs, "widgets": widgets})
        assert type(panel).__name__ == name and panel.describe()
        panel.close()


@pytest.mark.parametrize("name", sorted(SECTIONS))
def test_its_picture_is_small_and_described(name):
    ((alt, path),) = re.findall(r"!\[(.*)\]\((.*)\)", SECTIONS[name])
    data = (FOLDER / path).read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) <= 100_000
    width, height = struct.unpack(">II", data[16:24])
    assert 900 <= width <= 1100 and 200 <= height <= 1200
    assert len(alt) >= 60
