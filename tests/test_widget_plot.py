"""Charts and tables of the widgets: whole numbers for what is counted, logarithmic axes, room for numbers, phones."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlkit.widgets.look import table
from rlkit.widgets.plot import Curve, Plot, log_ticks, ticks


def marks(svg: str, anchor: str) -> list[str]:
    """The numbers of an axis: "middle" for x, "end" for y."""
    return re.findall(rf'text-anchor="{anchor}" fill="var\(--soft\)">([^<]+)<', svg)


@given(st.integers(-1000, 1000), st.floats(0.5, 1e6))
def test_counted_things_are_marked_at_whole_numbers(low, span):
    found = ticks(low - 0.5, low - 0.5 + span, 6, whole=True)
    assert all(tick == int(tick) for tick in found) and len(found) <= 8
    assert all(low - 0.5 <= tick <= low - 0.5 + span + 1e-6 for tick in found)


@given(st.floats(-6, 6), st.floats(0.05, 9))
def test_logarithmic_marks_are_few_round_and_inside(low, span):
    found = log_ticks(low, low + span)
    assert len(found) <= 6
    for tick in found:
        assert 10**low * (1 - 1e-6) <= tick <= 10 ** (low + span) * (1 + 1e-6)
        assert float(f"{tick:.0e}") == pytest.approx(tick)
    assert found or span < 0.5


def test_draws_are_whole_and_shares_are_not():
    drawn = Plot(
        "waits", "draws", "share (%)", [Curve("a", [1, 2, 3, 4], [1.0, 0.5, 0.2, 0.1], "bars")]
    ).svg()
    assert marks(drawn, "middle") == ["1", "2", "3", "4"]
    drawn = Plot("groups", "p", "share", [Curve("a", [0.0, 0.5, 1.0], [1.0, 0.0, 1.0])]).svg()
    assert "0.2" in marks(drawn, "middle")


def test_a_logarithmic_axis_has_equal_steps_for_equal_ratios():
    plot = Plot(
        "k",
        "draws",
        "%",
        [Curve("a", [0, 1, 10, 100], [9.0, 1.0, 2.0, 3.0])],
        x_log=True,
        marks=[(10, "ten")],
    )
    drawn = plot.svg()
    assert {"1", "10", "100"} <= set(marks(drawn, "middle"))
    (points,) = re.findall(r'polyline points="([^"]+)"', drawn)
    x = [float(pair.split(",")[0]) for pair in points.split()]
    assert len(x) == 3 and x[2] - x[1] == pytest.approx(x[1] - x[0], abs=0.2)  # 0 has no place
    assert f'd="M{x[1]} ' in drawn  # the mark


def test_long_numbers_have_room_beside_the_name_of_the_axis():
    drawn = Plot("weights", "tokens", "weight", [Curve("a", [1, 2], [0.001, 0.003])]).svg()
    longest = max(map(len, marks(drawn, "end")))
    start = min(float(x) for x in re.findall(r'<text x="([\d.]+)"[^>]*text-anchor="end"', drawn))
    assert start - 7 * longest >= 11  # where the axis' name stands


def test_a_wide_table_tells_each_cell_its_column():
    made = table(["", "a <b>", "c"], [["1", "2", "3"]], [1], stack=True)
    assert 'class="stack ' in made and '<td class=n data-h="a &lt;b&gt;">2</td><td data-h="c">3</td>' in made
    assert "<td>1</td>" in made and "data-h" not in table(["a"], [["1"]])
