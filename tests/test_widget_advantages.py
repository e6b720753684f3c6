"""AdvantageExplorer: its numbers against plain arithmetic, its controls, what it says."""

import math
from statistics import fmean, pstdev, stdev

import pytest

from rlkit.errors import ConfigError
from rlkit.widgets import AdvantageExplorer
from rlkit.widgets.models.advantages import METHODS, PRESETS, RESTS, AdvantageModel

MANY = [0.0, 1.0, 0.25, 2.5, -1.0]
HARD = "a hard prompt: one right"


@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("rewards", [[1, 0, 0, 0], [1, 1, 0, 0], MANY, [3.0, -3.0]])
def test_every_advantage_is_what_the_formula_says(rewards, unbiased):
    model = AdvantageModel(rewards, unbiased, HARD)
    mean, g = fmean(rewards), len(rewards)
    rest = [1.0] + [0.0] * (g - 1)
    spread = stdev if unbiased else pstdev
    expected = {
        "grpo": [(r - mean) / (spread(rewards) + 1e-4) for r in rewards],
        "dr_grpo": [r - mean for r in rewards],
        "rloo": [r - (sum(rewards) - r) / (g - 1) for r in rewards],
        "batch": [(r - mean) / (spread([*rewards, *rest]) + 1e-4) for r in rewards],
    }
    for key, values in expected.items():
        assert model.advantages(key) == pytest.approx(values, abs=1e-12)
    assert model.mean == pytest.approx(mean) and model.spread == pytest.approx(spread(rewards))


def test_bessel_is_the_difference_between_0_866_and_1():
    assert AdvantageModel([1, 1, 0, 0]).advantages("grpo")[0] == pytest.approx(0.866, abs=5e-4)
    assert AdvantageModel([1, 1, 0, 0], unbiased=False).advantages("grpo")[0] == pytest.approx(1.0, abs=5e-4)


@pytest.mark.parametrize("rest", RESTS)
@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1])
def test_a_dead_group_is_exactly_0_under_every_method(reward, rest):
    model = AdvantageModel([reward] * 8, rest=rest)
    assert model.dead and all(result.values == [0.0] * 8 for result in model.results)
    assert [remark.kind for remark in model.remarks()] == ["problem"]


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("size", [2, 3, 16])
def test_presets_have_any_size(name, size):
    rewards = PRESETS[name](size)
    assert len(rewards) == size
    model = AdvantageModel(rewards)
    assert model.dead == (name.endswith("(dead)"))
    assert abs(math.fsum(model.advantages("grpo"))) < 1e-9


def test_small_differences_and_outliers_are_spoken_of():
    said = {remark.title for remark in AdvantageModel(PRESETS["nearly the same"](8)).remarks()}
    assert "A small difference, blown up." in said
    said = {remark.title for remark in AdvantageModel(PRESETS["outlier"](16)).remarks()}
    assert "One completion decides." in said


@pytest.mark.parametrize("rewards", [[1.0], [0.0] * 17, [0.0, math.nan], [0.0, math.inf]])
def test_other_groups_are_refused(rewards):
    with pytest.raises(ConfigError, match="rewards"):
        AdvantageModel(rewards)


def test_a_slider_moves_the_numbers():
    widget = AdvantageExplorer([1, 0, 0, 0])
    before = widget.static_html()
    assert "+1.50" in before and "+0.75" in before  # GRPO 0.75 / 0.5, Dr. GRPO
    widget.sliders[1].value = 1.0
    after = widget.static_html()
    assert after != before and widget.rewards == [1.0, 1.0, 0.0, 0.0]
    assert "+0.87" in after and "+0.50" in after
    assert widget._picture.value in after
    widget.unbiased.value = False
    assert "+1.00" in widget.static_html()


def test_size_presets_and_buttons():
    widget = AdvantageExplorer()
    widget.preset.value = "all right (dead)"
    assert widget.model.dead and "A dead group." in widget.static_html()
    widget.more.click()
    assert widget.size.value == 9 and len(widget._group.children) == 9
    assert widget.preset.value == "all right (dead)" and widget.model.dead  # the preset grows with the group
    widget.sliders[0].value = 0.5
    assert widget.preset.value == "my own rewards" and not widget.model.dead
    widget.size.value = 2
    assert widget.fewer.disabled and not widget.more.disabled
    widget.fewer.click()
    assert widget.size.value == 2


def test_only_batch_scaling_looks_at_the_rest():
    widget = AdvantageExplorer([1, 0, 0, 0])
    before = {m.key: widget.model.advantages(m.key) for m in METHODS}
    widget.rest.value = "a prompt with large rewards, 0 and 3"
    after = {m.key: widget.model.advantages(m.key) for m in METHODS}
    assert [key for key in before if before[key] != after[key]] == ["batch"]


def test_rewards_beyond_the_sliders_widen_them():
    widget = AdvantageExplorer([-5, 10])
    assert widget.rewards == [-5.0, 10.0]
    with pytest.raises(ConfigError, match="million"):
        AdvantageExplorer([0, 1e9])


def test_every_control_is_labelled_and_explained():
    widget = AdvantageExplorer()
    for control in (*widget.sliders, widget.size, widget.preset, widget.unbiased, widget.rest, widget.more):
        assert control.description and control.tooltip


def test_the_static_form_holds_the_numbers():
    data = AdvantageExplorer([1, 0])._repr_mimebundle_()
    data = data[0] if isinstance(data, tuple) else data
    assert "Dr. GRPO" in data["text/html"] and "mean 0.5" in data["text/plain"]
