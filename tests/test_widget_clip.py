"""ClipExplorer: its numbers against the formula, finite differences and the loss; its controls in Python."""

from __future__ import annotations

import math

import pytest
import torch

from rlkit.errors import ConfigError
from rlkit.objectives import policy_loss
from rlkit.widgets import ClipExplorer
from rlkit.widgets.models.clip import PRESETS, ClipModel

SETTINGS = [(0.2, None, None), (0.2, 0.28, None), (0.2, None, 4.0), (0.0, 0.0, None), (0.1, 0.5, 1.6)]
RATIOS = [0.0, 0.3, 0.7999, 0.95, 1.0, 1.05, 1.2501, 1.7, 3.9, 5.0]


@pytest.mark.parametrize(("epsilon", "high", "delta"), SETTINGS)
@pytest.mark.parametrize("a", [2.0, -0.7, 0.0])
def test_surrogate_slope_and_push(epsilon, high, delta, a):
    model = ClipModel(epsilon, high, delta)
    upper, most = 1 + (epsilon if high is None else high), math.inf if delta is None else delta

    def formula(rho: float) -> float:
        return min(min(rho, most) * a, max(1 - epsilon, min(upper, rho)) * a)

    for rho in RATIOS:
        token = model.token(rho, a)
        assert token.surrogate == pytest.approx(formula(rho), abs=1e-12)
        assert token.unclipped == rho * a and token.advantage == a
        if any(abs(rho - edge) < 1e-3 for edge in (1 - epsilon, upper, most)):
            continue  # a kink has no slope
        h = 1e-6
        slope = (formula(rho + h) - formula(rho - h)) / (2 * h)
        assert token.slope == pytest.approx(slope, abs=1e-6)
        assert token.push == pytest.approx(rho * slope, abs=1e-6)
        assert (token.state == "free") == (token.slope != 0 or a == 0)
        if rho > 0:
            assert token.log_ratio == math.log(rho)
            logp = torch.tensor([[math.log(rho)]], dtype=torch.float64, requires_grad=True)
            loss = policy_loss(
                logp,
                torch.zeros(1, 1, dtype=torch.float64),
                torch.tensor([a], dtype=torch.float64),
                torch.ones(1, 1),
                epsilon=epsilon,
                epsilon_high=high,
                delta=delta,
            ).loss
            loss.backward()
            assert float(loss.detach()) == pytest.approx(-token.surrogate, abs=1e-12)
            assert float(logp.grad) == pytest.approx(-token.push, abs=1e-12)


def test_stretches_say_where_the_gradient_is_zero():
    model = ClipModel(0.2, 0.28, 4.0)
    assert [tuple(s) for s in model.stretches(1.0, 5.0)] == [("free", 0.0, 1.28), ("high", 1.28, 5.0)]
    assert [tuple(s) for s in model.stretches(-1.0, 5.0)] == [
        ("low", 0.0, 0.8), ("free", 0.8, 4.0), ("capped", 4.0, 5.0),
    ]  # fmt: skip
    assert [s.state for s in ClipModel(0.2).stretches(-1.0, 5.0)] == ["low", "free"]  # open at the far side
    for a in (1.0, -1.0):
        for stretch in model.stretches(a, 5.0):
            x, y = model.curve(stretch, a)
            middle = model.token(sum(x) / 2, a)
            assert middle.surrogate == pytest.approx(sum(y) / 2)  # straight
            assert (middle.slope == 0) == (stretch.state != "free")


def test_a_token_exactly_at_its_bound_is_still_moved():
    for rho, a in ((1.2, 1.0), (0.8, -1.0)):
        token = ClipModel(0.2).token(rho, a)
        assert token.state == "free" and token.push == pytest.approx(rho * a)


def test_bad_settings_say_so():
    with pytest.raises(ConfigError, match="delta"):
        ClipModel(0.2, delta=1.1)
    with pytest.raises(ConfigError, match="epsilon"):
        ClipExplorer(-0.1)
    with pytest.raises(ConfigError, match="ratio"):
        ClipModel().token(-1.0, 1.0)


def test_what_is_said_about_a_token():
    model = ClipModel(0.2)
    cases = {
        (1.5, 1): "clipped, gradient 0",
        (0.5, -1): "clipped, gradient 0",
        (0.5, 1): "pulled back",
        (1, 0): "A is 0",
    }
    for (rho, a), words in cases.items():
        assert words in model.says(model.token(rho, a))
    assert "no bound holds" in model.says(model.token(2.0, -1.0))
    closed = ClipModel(0.2, delta=1.5)
    assert "no bound" not in closed.says(closed.token(1.4, -1.0)) and "δ" in closed.says(
        closed.token(2.0, -1.0)
    )


# --- the view ---------------------------------------------------------------------------------------------------


def test_moving_the_controls_moves_the_picture():
    explorer = ClipExplorer()
    assert "surrogate is 1.2 for A = 1 (gradient 0) and -1.4 for A = -1 (not clipped)" in explorer.describe()
    shown = explorer._picture.value
    explorer.ratio.value = 0.5
    assert explorer._picture.value != shown == shown
    assert "surrogate is 0.5 for A = 1 (not clipped) and -0.8 for A = -1 (gradient 0)" in explorer.describe()
    good, bad = explorer.plots()
    assert "This token: surrogate 0.5 at ratio 0.5" in good.alt() and "-0.8 at ratio 0.5" in bad.alt()
    assert "Marked at 1.2" in good.alt() and "Marked at 0.8" in bad.alt()
    explorer.advantage.value = 2.0
    assert "-1.6 for A = -2" in explorer.describe()
    assert "✕ gradient 0" in explorer.static_html()


def test_presets_set_the_sliders_and_follow_them():
    explorer = ClipExplorer()
    for name, (epsilon, high, delta) in PRESETS.items():
        explorer.preset.value = name
        assert explorer.preset.value == name
        assert (explorer.model.epsilon, explorer.model.epsilon_high, explorer.model.delta) == (
            epsilon,
            high,
            delta,
        )
        assert explorer.epsilon_high.disabled == (high is None) and explorer.delta.disabled == (delta is None)
    explorer.preset.value = next(iter(PRESETS))
    explorer.epsilon.value = 0.33
    assert explorer.preset.value == "my own settings" and explorer.epsilon_high.value == 0.33
    explorer.epsilon.value = 0.2
    assert explorer.preset.value == next(iter(PRESETS))


def test_two_sided_clipping_widens_the_axis_and_ends_the_open_side():
    explorer = ClipExplorer(delta=4.0)
    assert explorer.two_sided.value and explorer.ratio.max == 6.0
    explorer.ratio.value = 5.0
    assert "-4 for A = -1 (gradient 0)" in explorer.describe()
    explorer.two_sided.value = False
    assert explorer.ratio.value == 3.0 and "-3 for A = -1 (not clipped)" in explorer.describe()


def test_without_widgets_there_is_a_picture_in_words():
    bundle = ClipExplorer()._repr_mimebundle_()
    data = bundle[0] if isinstance(bundle, tuple) else bundle
    assert "application/vnd.jupyter.widget-view+json" in data
    assert data["text/html"].count("<svg") == 2 and 'aria-label="Chart of a good token' in data["text/html"]
    assert data["text/plain"].startswith("Clipping")
