"""PatienceSimulator: what is drawn against lists written out, promises against the law; its controls."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch

from rlkit.errors import ConfigError
from rlkit.lab.patience import wilson_interval
from rlkit.widgets import PatienceSimulator
from rlkit.widgets.models.patience import MOST_DRAWS, PRESETS, PatienceModel


def planted(verdicts, p=0.5, group_size=2):
    """A model with these verdicts instead of drawn ones."""
    model = PatienceModel(p, group_size)
    model.correct = torch.tensor(verdicts, dtype=torch.bool)
    return model


def test_draws_have_their_chance_and_do_not_depend_on_how_they_are_called():
    model = PatienceModel((0.9, 0.2, 0.0), seed=4)
    model.draw(10_000)
    for row, p in zip(model.correct, (0.9, 0.2)):
        assert wilson_interval(int(row.sum()), 10_000, z=4).holds(p)
    assert not model.correct[2].any()
    other = PatienceModel((0.9, 0.2, 0.0), seed=4)
    for count in (1, 2, 30, 1, 966):
        other.draw(count)
    assert torch.equal(other.correct, model.correct[:, :1000])
    model.reset()
    assert model.draws == 0
    model.draw(1000)
    assert torch.equal(other.correct, model.correct)
    assert not torch.equal(PatienceModel((0.9, 0.2, 0.0), seed=5).draw(1000), other.correct)


def test_waits():
    model = planted([[0, 0, 1, 1, 0, 1, 0, 0]])
    assert model.waits().tolist() == [3, 1, 2] and model.since() == 2
    wait = model.wait()
    assert (wait.hits, wait.draws, wait.expected) == (3, 8, 2.0) and wait.measured == pytest.approx(8 / 3)
    bars = {bar.first: bar for bar in model.histogram()}
    assert [bars[k].seen for k in (1, 2, 3, 4)] == [1, 1, 1, 0]
    assert bars[2].share == pytest.approx(1 / 3)
    assert [bars[k].promised for k in (1, 2, 3)] == pytest.approx([0.5, 0.25, 0.125])  # p = 1/2


@pytest.mark.parametrize("p", [1.0, 0.3, 0.004])
def test_histogram_bars_add_up_to_the_law(p):
    model = PatienceModel(p)
    model.draw(3000)
    bars = model.histogram()
    assert sum(bar.seen for bar in bars) == int(model.correct.sum())  # every finished wait stands in a bar
    for bar in bars:
        law = sum(p * (1 - p) ** (k - 1) for k in range(bar.first, bar.last + 1))
        assert bar.promised == pytest.approx(law, abs=1e-12)
    assert 0.99 <= sum(bar.promised for bar in bars) <= 1 + 1e-12 and len(bars) <= 24


def test_pass_at_k_and_groups_against_listing_every_choice():
    rows = [[1, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 1]]
    model = planted(rows, p=(0.3, 0.1), group_size=3)
    for k in (1, 2, 3, 6):
        choices = [[any(c) for c in combinations(row, k)] for row in rows]
        exact, estimate = model.pass_at_k(k)
        assert estimate == pytest.approx(sum(sum(c) / len(c) for c in choices) / 2)
        assert exact == pytest.approx((1 - 0.7**k + 1 - 0.9**k) / 2)
    assert model.pass_at_k(7)[1] is None
    equal = [[len(set(c)) == 1 for c in combinations(row, 3)] for row in rows]
    exact, estimate = model.without_spread()
    assert estimate == pytest.approx(sum(sum(c) / len(c) for c in equal) / 2)
    assert exact == pytest.approx((0.3**3 + 0.7**3 + 0.1**3 + 0.9**3) / 2)
    assert planted([[1, 0]], group_size=3).without_spread()[1] is None


def test_two_means():
    model = planted([[1, 0, 0, 0], [1, 1, 0, 1]], p=(0.25, 0.75))
    exact, measured, pooled = model.means()
    assert (exact.mean_of_inverse, exact.inverse_of_mean) == pytest.approx(((4 + 4 / 3) / 2, 2.0))
    assert measured == pytest.approx((4 + 4 / 3) / 2) and pooled == pytest.approx(2.0)
    assert math.isnan(PatienceModel().means()[1])


def test_curve_of_groups():
    model = PatienceModel(0.5, group_size=5)
    p, share = model.spread_curve()
    assert share == pytest.approx([x**5 + (1 - x) ** 5 for x in p], abs=1e-12)
    assert min(model.ks()) == 1 and 16 <= max(model.ks()) <= 4096 and max(PatienceModel(0.01).ks()) == 299


def test_bad_settings_say_so():
    for bad in (1.5, -0.1, (), (0.5, math.nan)):
        with pytest.raises(ConfigError, match="p="):
            PatienceModel(bad)
    with pytest.raises(ConfigError, match="group_size"):
        PatienceModel(0.5, group_size=1)
    model = PatienceModel(0.5)
    with pytest.raises(ConfigError, match="Reset"):
        model.draw(MOST_DRAWS + 1)


# --- the view ---------------------------------------------------------------------------------------------------


def test_buttons_draw():
    simulator = PatienceSimulator(0.3)
    assert "No draws yet" in simulator.static_html() and "no draws yet" in simulator.describe()
    simulator.one.click()
    simulator.hundred.click()
    assert simulator.model.draws == 101 and "101 draws" in simulator.describe()
    hits = int(simulator.model.correct.sum())
    assert f"right <b>{hits}</b>" in simulator._picture.value
    assert simulator._picture.value.count("✓</span>") == int(simulator.model.correct[0, -60:].sum())
    simulator.many.click()
    assert simulator.model.draws == 5101
    simulator.again.click()
    assert simulator.model.draws == 0 and simulator._trouble.value == ""


def test_group_size_keeps_the_draws_and_p_and_seed_begin_again():
    simulator = PatienceSimulator(0.3)
    simulator.hundred.click()
    simulator.group_size.value = 4
    assert simulator.model.draws == 100 and "groups of 4 without spread" in simulator.static_html()
    assert f"{0.3**4 + 0.7**4:.0%}".rstrip("%") in simulator.static_html()
    simulator.p.value = 0.1
    assert simulator.model.draws == 0 and simulator.model.p.tolist() == [0.1]
    simulator.hundred.click()
    simulator.seed.value = 3
    assert simulator.model.draws == 0 and simulator.model.seed == 3


def test_never():
    simulator = PatienceSimulator(0.3)
    simulator.p.value = 0.0
    assert simulator.model.p.tolist() == [0.0] and simulator.p.label == "0, never"
    simulator.many.click()
    html = simulator.static_html()
    assert "expected wait 1/p <b>never</b>" in html and "No patience suffices" in html and "NaN" not in html
    assert PatienceSimulator(0.0).p.value == 0


def test_several_prompts():
    simulator = PatienceSimulator()
    for name in list(PRESETS)[1:]:
        simulator.prompts.value = name
        simulator.hundred.click()
        assert simulator.model.p.tolist() == list(PRESETS[name]) and simulator.p.disabled
        html = simulator.static_html()
        assert "easily confused" in html and "NaN" not in html
    simulator.prompts.value = "easy, middling, hard"
    simulator.hundred.click()
    first = simulator.plots()[0].alt()
    simulator.shown.value = 2
    assert simulator.prompt == 2 and simulator.plots()[0].alt() != first
    simulator.prompts.value = "one prompt"
    assert simulator.prompt == 0 and not simulator.p.disabled


def test_any_chance_that_is_given_is_kept():
    assert PatienceSimulator(1e-5).model.p.tolist() == [1e-5] == [PatienceSimulator(1e-5).p.value]
    assert PatienceSimulator((0.5, 0.25)).model.p.tolist() == [0.5, 0.25]


def test_draws_end_before_they_fill_the_memory():
    simulator = PatienceSimulator(0.5)
    simulator.draw(MOST_DRAWS - 10)
    assert simulator.hundred.disabled and not simulator.one.disabled
    simulator.draw(100)
    assert "Reset and draw again" in simulator._trouble.value and simulator._trouble.layout.display is None
    simulator.again.click()
    assert not simulator.hundred.disabled
