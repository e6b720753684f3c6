"""KLExplorer: means, spreads and gradients against sums written out and finite differences; its controls in Python."""

from __future__ import annotations

import math

import pytest
import torch

from rlkit.errors import ConfigError
from rlkit.lab.patience import wilson_interval
from rlkit.widgets import KLExplorer
from rlkit.widgets.models.kl import REFERENCES, KLModel

NEW, REF = (1.3, -0.4, 0.2, 0.0), (2.0, 1.0, 0.0, -1.0)


def softmax(logits):
    total = sum(math.exp(x) for x in logits)
    return [math.exp(x) / total for x in logits]


def estimate(name, new, ref):
    """k1, k2, k3 at every token, in plain Python."""
    d = [math.log(q / p) for p, q in zip(new, ref)]
    return {"k1": [-x for x in d], "k2": [x * x / 2 for x in d], "k3": [math.exp(x) - x - 1 for x in d]}[name]


def test_exact_divergences_and_means():
    model, p, q = KLModel(NEW, REF), softmax(NEW), softmax(REF)
    reverse = sum(a * math.log(a / b) for a, b in zip(p, q))
    assert model.reverse == pytest.approx(reverse, abs=1e-14)
    assert model.forward == pytest.approx(sum(b * math.log(b / a) for a, b in zip(p, q)), abs=1e-14)
    for name in ("k1", "k2", "k3"):
        found, values = model.exact(name), estimate(name, p, q)
        mean = sum(a * v for a, v in zip(p, values))
        assert found.values.tolist() == pytest.approx(values, abs=1e-13)
        assert found.mean == pytest.approx(mean, abs=1e-13)
        assert found.bias == pytest.approx(mean - reverse, abs=1e-13)
        assert found.spread == pytest.approx(
            math.sqrt(sum(a * (v - mean) ** 2 for a, v in zip(p, values))), abs=1e-13
        )
        assert found.lowest == pytest.approx(min(values), abs=1e-13)
    assert model.exact("k1").bias == pytest.approx(0, abs=1e-13) == model.exact("k3").bias
    assert abs(model.exact("k2").bias) > 0.01 and model.exact("k1").lowest < 0 < model.exact("k3").lowest


@pytest.mark.parametrize("corrected", [False, True])
def test_mean_gradients_by_finite_differences(corrected):
    """The mean is over tokens of the fixed policy; what moves with the logits is the estimate, or ratio times it."""
    model, p, q = KLModel(NEW, REF, bias_correction=corrected), softmax(NEW), softmax(REF)

    def loss(name, logits):
        moved = softmax(logits)
        ratio = [a / b for a, b in zip(moved, p)] if corrected else [1.0] * 4
        return sum(w * r * v for w, r, v in zip(p, ratio, estimate(name, moved, q)))

    h = 1e-5
    for name in ("k1", "k2", "k3"):
        gradient = model.exact(name).gradient.tolist()
        for i in range(4):
            up, down = ([x + s * h * (j == i) for j, x in enumerate(NEW)] for s in (1, -1))
            assert gradient[i] == pytest.approx((loss(name, up) - loss(name, down)) / (2 * h), abs=1e-8)


def test_whose_gradient_each_estimator_has():
    model = KLModel(NEW, REF)
    assert [model.follows(model.exact(k).gradient) for k in ("k1", "k2", "k3")] == [
        "0",
        "reverse KL",
        "forward KL",
    ]
    model = KLModel(NEW, REF, bias_correction=True)
    assert [model.follows(model.exact(k).gradient) for k in ("k1", "k2", "k3")] == [
        "reverse KL",
        "neither",
        "reverse KL",
    ]
    p, q = torch.tensor(softmax(NEW)), torch.tensor(softmax(REF))
    # the closed forms: p * (log(p/q) - KL) and p - q
    reverse = p * ((p / q).log() - (p * (p / q).log()).sum())
    assert torch.allclose(model.divergence_gradient().float(), reverse, atol=1e-6)
    assert torch.allclose(model.divergence_gradient(forward=True).float(), p - q, atol=1e-6)


def test_draws_follow_the_policy_and_more_of_them_begin_the_same():
    model = KLModel(NEW, REF)
    drawn = model.draw(20_000, seed=3)
    for i, p in enumerate(softmax(NEW)):
        assert wilson_interval(int((drawn == i).sum()), 20_000, z=4).holds(p)
    assert torch.equal(model.draw(50, seed=3), drawn[:50]) and not torch.equal(
        model.draw(50, seed=4), drawn[:50]
    )
    for one in model.sampled(drawn):
        values = model.exact(one.estimator).values[drawn]
        assert one.interval.value == pytest.approx(float(values.mean()), abs=1e-12)
        assert float(one.running[-1]) == pytest.approx(one.interval.value, abs=1e-12)
        assert float(one.running[9]) == pytest.approx(float(values[:10].mean()), abs=1e-12)
        spread = (one.interval.high - one.interval.value) / 1.96 * 4
        assert abs(one.interval.value - model.exact(one.estimator).mean) < spread


def test_bad_settings_say_so():
    with pytest.raises(ConfigError, match="same number"):
        KLModel((1.0, 2.0), (0.0,), ("a", "b"))
    with pytest.raises(ConfigError, match="finite"):
        KLModel((math.nan, 0.0), (0.0, 0.0), ("a", "b"))
    with pytest.raises(ConfigError, match="draws"):
        KLModel().draw(0)
    with pytest.raises(ConfigError, match="k9"):
        KLModel().exact("k9")


# --- the view ---------------------------------------------------------------------------------------------------


def test_controls():
    explorer = KLExplorer()
    before = explorer.model.reverse
    explorer.logits[0].value = -1.0
    assert explorer.model.reverse != before and explorer.model.logits[0] == -1.0
    assert f"{explorer.model.reverse:.3g} nats" in explorer.describe()
    explorer.equal.click()
    assert explorer.model.reverse == 0 and "the same" in explorer.describe()
    explorer.reference.value = "one almost never"
    assert (
        explorer.model.reference.tolist() == list(REFERENCES["one almost never"])
        and explorer.model.reverse > 0.1
    )
    assert "k1 does nothing but add noise" in explorer.describe()
    explorer.bias_correction.value = True
    assert "k2 has lost it" in explorer.describe() and "neither KL" in explorer.static_html()
    shown = explorer.plot().alt()
    explorer.seed.value = 7
    assert explorer.plot().alt() != shown
    explorer.draws.value = 1000
    assert "to" in explorer.plot().alt() and "at 1,000" in explorer.plot().alt()
    assert explorer._trouble.value == ""


def test_table_has_the_models_numbers():
    explorer = KLExplorer(NEW, REF)
    html = explorer.static_html()
    for name in ("k1", "k2", "k3"):
        one = explorer.model.exact(name)
        assert f"{one.spread:.3g}" in html and f"{one.lowest:.3g}" in html
    assert "0, unbiased" in html and "KL(ref ‖ new)" in html


def test_own_tokens_are_data():
    explorer = KLExplorer((0.0, 1.0), (1.0, 0.0), ("<script>alert(1)</script>", "$x$"))
    assert "<script>" not in explorer.static_html() and "&lt;script&gt;" in explorer.static_html()
    assert explorer.reference.value == "my own reference"
