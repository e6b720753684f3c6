"""Pictures and tables of the notebooks: described, small enough, and nothing in them is run."""

from __future__ import annotations

import base64
import re

import pytest

from rlkit import figures


@pytest.fixture
def shown(monkeypatch):
    """What is displayed, as mappings from kind to content."""
    seen = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw: seen.append(data))
    return seen


def drawing():
    figure, axis = figures.new(3, 2)
    axis.plot([0, 1], [0, 1], "o-", color=figures.BLUE)
    return figure


def test_picture_carries_its_description(shown):
    figures.show(drawing(), 'A line that rises from 0 to 1, "straight".')
    (data,) = shown
    assert data["text/plain"] == 'A line that rises from 0 to 1, "straight".'
    assert 'alt="A line that rises from 0 to 1, &quot;straight&quot;."' in data["text/html"]
    png = base64.b64decode(re.search(r"base64,([^\"]*)", data["text/html"]).group(1))
    assert png.startswith(b"\x89PNG") and int.from_bytes(png[16:20], "big") == 300  # 3 inches at 100 dots


@pytest.mark.parametrize("alt", ["", "a plot", "Reward against step"])
def test_picture_without_a_sentence_is_refused(alt):
    with pytest.raises(ValueError, match="describe it"):
        figures.show(drawing(), alt)


def test_picture_that_is_too_large_is_refused(monkeypatch, shown):
    monkeypatch.setattr(figures, "LARGEST", 100)
    with pytest.raises(ValueError, match="dpi below 100"):
        figures.show(drawing(), "A line that rises from 0 to 1.")
    assert not shown


def test_axes_are_as_many_as_asked_for_and_belong_to_no_window():
    import matplotlib.pyplot as plt

    figure, axes = figures.new(columns=3, rows=2)
    assert axes.shape == (2, 3) and len(figure.axes) == 6 and plt.get_fignums() == []


def test_table_in_columns_and_escaped(shown):
    figures.table(
        ("text", "times", "share"), [("<b>$x$</b>", 3, "50 %"), ("4", 12, "–")], caption="Two & more"
    )
    (data,) = shown
    assert data["text/plain"].splitlines() == [
        "Two & more",
        "text        times  share",
        "<b>$x$</b>      3   50 %",
        "4              12      –",
    ]
    page = data["text/html"]
    assert "&lt;b&gt;$x$&lt;/b&gt;" in page and "<b>" not in page and "<caption>Two &amp; more" in page
    assert "mathjax_ignore" in page  # dollar signs are dollar signs
    assert page.count("text-align:right") == 6 and page.count("text-align:left") == 3


def test_table_of_nothing_is_its_head(shown):
    figures.table(("a", "b"), [])
    assert shown[0]["text/plain"] == "a  b"


def test_row_of_another_length_is_refused(shown):
    with pytest.raises(ValueError, match=r"rows\[1\] has 1 cells, and head has 2"):
        figures.table(("a", "b"), [(1, 2), (3,)])
    assert not shown
