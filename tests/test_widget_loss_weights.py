"""LossWeights: weights as exact fractions, its fields, lengths of a run, what goes wrong."""

from fractions import Fraction

import pytest
from synthetic_run import write_run

from rlkit.errors import ConfigError
from rlkit.objectives import LOSS_TYPES
from rlkit.runs import Run
from rlkit.widgets import LossWeights
from rlkit.widgets.models.loss_weights import PRESETS, LossWeightsModel, lengths_of_step, parse_lengths


def expected(loss_type, lengths, limit):
    n, tokens = len(lengths), sum(lengths)
    each = {
        "grpo": lambda length: Fraction(1, n * length),
        "gspo": lambda length: Fraction(1, n * length),
        "bnpo": lambda length: Fraction(1, tokens),
        "dapo": lambda length: Fraction(1, tokens),
        "dr_grpo": lambda length: Fraction(1, n * limit),
    }[loss_type]
    return [each(length) for length in lengths]


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@pytest.mark.parametrize("lengths, limit", [((10, 100), 128), ((1,), 1), ((7, 7, 7), 9), ((3, 5, 11, 2), 11)])
def test_weights_are_exact(loss_type, lengths, limit):
    weights = LossWeightsModel(lengths, limit).of(loss_type)
    token = expected(loss_type, lengths, limit)
    assert weights.token == pytest.approx([float(w) for w in token], rel=1e-14)
    assert weights.whole == pytest.approx([float(w * n) for w, n in zip(token, lengths)], rel=1e-13)
    assert weights.total == pytest.approx(float(sum(w * n for w, n in zip(token, lengths))), rel=1e-13)


def test_the_example_that_everybody_gives():
    model = LossWeightsModel((10, 100), 128)
    assert model.of("grpo").token == pytest.approx([0.05, 0.005])
    assert "10 times" in model.says() and "91 %" in model.says()
    assert [names for names, _ in model.families()] == ["grpo, gspo", "bnpo, dapo", "dr_grpo"]


def test_a_masked_completion_weighs_nothing_and_counts_in_n():
    model = LossWeightsModel((10, 20, 30), 30, mask_truncated=True)
    assert model.of("grpo").token == pytest.approx([1 / 30, 1 / 60, 0])
    assert model.of("dapo").token == pytest.approx([1 / 30, 1 / 30, 0])
    alone = LossWeightsModel((30,), 30, mask_truncated=True)
    assert alone.of("grpo").total == 0 and "nothing is learned" in alone.says()


@pytest.mark.parametrize(
    "lengths, limit",
    [((), 10), ((0, 4), 10), ((5,), 4), ((1.5,), 4), ((True,), 4), ([4] * 65, 4), ((10**6,), None)],
)
def test_other_lengths_are_refused(lengths, limit):
    with pytest.raises(ConfigError):
        LossWeightsModel(lengths, limit)


def test_lengths_are_read_as_people_write_them():
    assert parse_lengths("10, 100 55;3") == [10, 100, 55, 3]
    for text in ("", "ten", "-4", "1.5", "9" * 12, "²"):
        with pytest.raises(ConfigError):
            parse_lengths(text)


def test_typing_lengths_changes_the_picture_and_says_what_is_wrong():
    widget = LossWeights()
    assert widget.preset.value == "a short and a long one"
    before = widget.static_html()
    widget.lengths.value = "20, 100"
    assert widget.preset.value == "my own lengths" and widget.static_html() != before
    assert widget.model.of("grpo").token[0] == pytest.approx(1 / 40)
    widget.lengths.value = "20, many"
    assert "many" in widget._trouble.value and widget._trouble.layout.display is None
    widget.lengths.value = "20, 30"
    assert widget._trouble.layout.display == "none"
    widget.limit.value = 20
    assert "30" in widget._trouble.value


@pytest.mark.parametrize("name", PRESETS)
def test_presets(name):
    widget = LossWeights([5])
    widget.preset.value = name
    assert tuple(widget.model.lengths) == PRESETS[name][0] and widget.limit.value == PRESETS[name][1]
    assert widget.preset.value == name and not widget._trouble.value


def test_lengths_of_a_run(tmp_path):
    write_run(tmp_path / "run", steps=3)
    run = Run(tmp_path / "run")
    step = run.sample_steps[-1]
    own = [len(row["completion_ids"]) for row in run.samples(step)]
    lengths, limit, found = lengths_of_step(run)
    assert (lengths, found) == (own, step) and limit == 8  # the synthetic run's setting
    widget = LossWeights(run=tmp_path / "run", step=run.sample_steps[0])
    assert widget.model.lengths == [len(row["completion_ids"]) for row in run.samples(run.sample_steps[0])]
    assert widget.limit.value == 8


def test_a_run_without_completions_is_refused(tmp_path):
    write_run(tmp_path / "run", steps=2)
    for file in (tmp_path / "run" / "samples").glob("*"):
        file.unlink()
    with pytest.raises(ConfigError, match="kept no completions"):
        LossWeights(run=tmp_path / "run")


def test_the_static_form_has_charts_in_words():
    html = LossWeights([10, 100]).static_html()
    assert html.count("<svg xmlns") == 2 and "aria-label" in html
    assert "0.05" in html and "tokens" in html and "grpo, gspo" in html
    assert "<span>completions N <b>2</b></span>" in html and "0.500 (50 %)" in html
