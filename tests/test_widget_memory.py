"""MemoryCalculator: the derivations against arithmetic written out here, the guide's printed table, the units."""

import pytest

from rlkit.errors import ConfigError
from rlkit.widgets import MemoryCalculator
from rlkit.widgets.models.memory import GB, GIB, GUIDE, PRESETS, MemoryModel, MemorySetup, shown


def test_the_guides_numbers_are_derived():
    model = MemoryModel(GUIDE)
    assert model.logits == 2 * 2 * 8 * 20_480 * 128_256
    assert model.kv_cache == 2 * 2 * 32 * 20_480 * 1024
    assert round(model.logits / GIB, 2) == 78.28 and round(model.logits / 8 / GIB, 2) == 9.79
    assert round(model.kv_cache / GIB, 2) == 2.5 and round(model.weights / GB, 2) == 16.06


def test_what_the_guide_prints_is_within_its_rounding_in_the_unit_that_we_name():
    units = {"GiB": GIB, "GB": GB}
    derived = [term for term in MemoryModel(GUIDE).terms() if term.how == "derived"]
    assert len(derived) == 3
    for term in derived:
        unit = units[term.printed.unit]
        assert term.standard / unit == pytest.approx(term.printed.standard, abs=0.07)
        assert term.saving / unit == pytest.approx(term.printed.saving, abs=0.07)
        other = GB if unit == GIB else GIB
        assert abs(term.standard / other - term.printed.standard) > 0.1, "it would fit the other unit as well"


def test_the_printed_terms_add_up_and_the_claims_are_marked():
    model = MemoryModel(GUIDE)
    standard, saving = model.printed_totals()
    assert round(standard, 1) == 510.8 and round(saving, 1) == 54.3
    claimed = [term for term in model.terms() if term.how == "claimed"]
    assert [(term.standard, term.saving) for term in claimed] == [(414 * GB, 42 * GB)]
    total = 414e9 + 2 * 2 * 8 * 20_480 * 128_256 + 8_030_261_248 * 2 + 2 * 2 * 32 * 20_480 * 1024
    assert model.totals()[0] == pytest.approx(total, rel=1e-15)
    assert "516.8 GB = 481.3 GiB" in model.says()[0]


def test_other_set_ups_claim_nothing_and_give_no_full_total():
    for name, setup in PRESETS.items():
        model = MemoryModel(setup)
        assert model.complete == (setup is GUIDE)
        assert any("not derived" in text for text in model.says()) != (setup is GUIDE), name


def test_the_presets_are_the_models_own_sizes():
    smollm2 = PRESETS["SmolLM2-135M on a 16 GB GPU"]
    assert MemoryModel(smollm2).kv_cache == 2 * 2 * 30 * 1024 * 192 * 8
    # embeddings (tied), and per layer q, k, v, o, gate, up, down and two norms
    layer = 576 * (576 + 192 + 192 + 576) + 3 * 576 * 1536 + 2 * 576
    assert smollm2.parameters == 49_152 * 576 + 30 * layer + 576
    qwen = PRESETS["Qwen2.5-1.5B on a 16 GB GPU"]
    layer = (
        1536 * (1536 + 256 + 256 + 1536) + 1536 + 2 * 256 + 3 * 1536 * 8960 + 2 * 1536
    )  # q, k, v have a bias
    assert qwen.parameters == 151_936 * 1536 + 28 * layer + 1536
    layer = 4096 * (4096 + 1024 + 1024 + 4096) + 3 * 4096 * 14_336 + 2 * 4096
    assert GUIDE.parameters == 2 * 128_256 * 4096 + 32 * layer + 4096  # not tied


@pytest.mark.parametrize(
    "field, value", [("context", 0), ("layers", 1.5), ("parameters", -1), ("bytes_each", 0)]
)
def test_impossible_sizes_are_refused(field, value):
    with pytest.raises(ConfigError, match=field):
        MemorySetup(**{field: value})


def test_units_are_shown_as_people_write_them():
    assert [shown(size, "GiB") for size in (None, 0, GIB, 78.28 * GIB, 0.5 * GIB, 0.004 * GIB)] == [
        "?", "0", "1.00", "78.3", "0.50", "0.004"
    ]  # fmt: skip
    assert shown(GIB, "GB") == "1.07"


def test_an_input_moves_its_term_alone():
    widget = MemoryCalculator()
    before = {t.name: t.standard for t in widget.model.terms()}
    widget.fields["vocabulary"].value = 2 * 128_256
    after = {t.name: t.standard for t in widget.model.terms()}
    assert widget.preset.value == "my own numbers"
    assert after["GRPO: logits of the loss"] == 2 * before["GRPO: logits of the loss"]
    changed = [name for name in before if before[name] != after.get(name)]
    # the claim is for the guide's numbers only
    assert changed == ["Training: activations, gradients, optimizer", "GRPO: logits of the loss"]
    assert "the guide prints" not in widget.static_html()
    widget.fields["vocabulary"].value = 128_256
    assert widget.preset.value.startswith("the guide's") and "the guide prints" in widget.static_html()


def test_unit_and_preset():
    widget = MemoryCalculator("SmolLM2", unit="GB")
    assert widget.preset.value.startswith("SmolLM2") and widget.fields["layers"].value == 30
    html = widget.static_html()
    assert "standard, GB" in html and "No planner yet" in html
    widget.unit.value = "GiB"
    assert "standard, GiB" in widget.static_html()
    widget.preset.value = next(iter(PRESETS))
    html = widget.static_html()
    assert "510.8" in html and "54.33" in html and "78.3" in html and "claimed by the guide" in html
    for argument in ({"preset": "GPT"}, {"unit": "MB"}):
        with pytest.raises(ConfigError):
            MemoryCalculator(**argument)


def test_every_control_is_labelled_and_explained():
    widget = MemoryCalculator()
    assert all(field.description and field.tooltip for field in widget.fields.values())
