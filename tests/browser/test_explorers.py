"""ClipExplorer, KLExplorer, PatienceSimulator and GridWorldPlayer in JupyterLab and Notebook 7, by mouse and keyboard.

What the page shows is compared with numbers that are worked out here, by the formulas where they are short.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

import pytest
from jupyter_pages import Book
from playwright.sync_api import expect

from rlkit.lab import PacmanGrid
from rlkit.runs.evidence import number
from rlkit.widgets.models.grid_world import GridWorldModel
from rlkit.widgets.models.kl import REFERENCES, KLModel
from rlkit.widgets.models.patience import PatienceModel

CLIP, KL, PATIENCE, PLAYER, AGAIN = 1, 2, 3, 4, 5  # the cells; the last shows the first explorer once more
CELLS = (
    "from rlkit import lab\n"
    "from rlkit.widgets import ClipExplorer, GridWorldPlayer, KLExplorer, PatienceSimulator",
    "clip = ClipExplorer()\nclip",
    "kl = KLExplorer()\nkl",
    "patience = PatienceSimulator(0.3)\npatience",
    "player = GridWorldPlayer(lab.PacmanGrid('guide'))\nplayer",
    "clip",
)


def check_clip(page: Book, cell: int, ratio: float) -> None:
    """The table and both pictures say what the formula says at this ratio, with ε = 0.2."""
    where, clipped = page.output(cell), min(max(ratio, 0.8), 1.2)
    good, bad = min(ratio, clipped), min(-ratio, -clipped)  # of advantages 1 and -1
    pushes = [ratio if ratio <= 1.2 else 0.0, -ratio if ratio >= 0.8 else 0.0]
    expect(where.locator("caption")).to_have_text(f"This token, at ρ = {number(ratio)}")
    for row, values in (("ρ·A, not clipped", [ratio, -ratio]), ("surrogate", [good, bad]), ("push", pushes)):
        cells = where.locator("tbody tr").filter(has_text=row).locator("td")
        expect(cells).to_have_text([re.compile(row), *map(number, values)])
    for kind, value in (("good", good), ("bad", bad)):
        told = page.alt(f"Chart of a {kind} token", where)
        assert f"surrogate {number(value)} at ratio {number(ratio)}" in told


def test_clip_by_keyboard_and_mouse(page: Book) -> None:
    where = page.output(CLIP)
    check_clip(page, CLIP, 1.4)
    page.press(page.slider("ratio ρ", where), *["ArrowLeft"] * 25)
    expect(page.readout("ratio ρ", where)).to_have_text("1.15")
    check_clip(page, CLIP, 1.15)
    page.drag(page.slider("ratio ρ", where), 0.2)
    ratio = float(page.readout("ratio ρ", where).inner_text())
    assert 0.5 < ratio < 0.7 and ratio == pytest.approx(float(page.python("clip.ratio.value")))
    check_clip(page, CLIP, ratio)
    expect(where.get_by_text("✕ gradient 0")).to_have_count(1)
    page.choose("settings", "INTELLECT-2: two-sided, δ = 4", where)
    assert "δ" in page.alt("Chart of a bad token", where)
    page.click(page.tick("bound by δ as well", where))
    assert page.python("clip.preset.value") == "PPO and GRPO: ε = 0.2"


def test_a_number_can_be_typed(page: Book) -> None:
    where = page.output(CLIP)
    field = page.readout("ratio ρ", where)
    field.click()
    page.page.keyboard.press("Control+A")
    page.page.keyboard.type("2.5")
    page.page.keyboard.press("Enter")
    page.settle()
    check_clip(page, CLIP, 2.5)


def softmax(logits: Sequence[float]) -> list[float]:
    powers = [math.exp(logit) for logit in logits]
    return [power / sum(powers) for power in powers]


def mean(chances: Sequence[float], values: Sequence[float]) -> float:
    return math.fsum(p * value for p, value in zip(chances, values, strict=True))


def test_kl_by_keyboard_and_mouse(page: Book) -> None:
    where = page.output(KL)
    page.press(page.slider("logit of “the”", where), *["ArrowRight"] * 5)
    model = KLModel((1.5, 1.5, 0.5, -0.5))
    new, ref = softmax((1.5, 1.5, 0.5, -0.5)), softmax(REFERENCES["a favourite"])
    logs = [math.log(q / p) for p, q in zip(new, ref, strict=True)]  # log ref - log new
    says = {
        "k1": [-x for x in logs],
        "k2": [x * x / 2 for x in logs],
        "k3": [math.exp(x) - 1 - x for x in logs],
    }
    expect(where.locator(".facts")).to_contain_text(f"{number(mean(new, says['k1']))} nats")
    for name, values in says.items():
        middle = mean(new, values)
        row = where.locator("tbody tr").filter(has=page.page.locator(f"b:text-is('{name}')"))
        expect(row.locator("td").nth(1)).to_have_text(number(middle))
        spread = math.sqrt(mean(new, [(value - middle) ** 2 for value in values]))
        expect(row.locator("td").nth(3)).to_have_text(number(spread))
    seen = {one.estimator: one.interval.value for one in model.sampled(model.draw(400))}
    assert f"to {number(seen['k2'])} at 400" in page.alt("Chart of estimates", where)
    page.drag(page.slider("draws", where), 0.5)
    draws = int(page.readout("draws", where).inner_text().replace(",", ""))
    assert draws > 2000
    expect(where.locator("th").filter(has_text="draws (nats)")).to_contain_text(f"{draws:,}")
    page.click(page.button("policy = reference", where))
    expect(where.locator(".facts")).to_contain_text("0 nats")
    expect(where).to_contain_text("The two policies are the same")


def test_patience_by_buttons_and_keyboard(page: Book) -> None:
    where = page.output(PATIENCE)
    expect(where).to_contain_text("No draws yet")
    page.click(page.button("Draw 100", where))
    page.press(page.button("Draw once", where), "Enter", "Space")
    model = PatienceModel(0.3)
    model.draw(102)
    wait = model.wait()
    facts = where.locator(".facts").first
    expect(facts).to_contain_text(f"drawn {wait.draws}")
    expect(facts).to_contain_text(f"right {wait.hits}")
    expect(facts).to_contain_text(f"draws per right answer {number(wait.measured)} draws")
    latest = "".join("✓" if right else "✗" for right in model.correct[0, -60:])
    expect(where.locator(".draws")).to_have_text(latest)
    page.press(page.slider("group size G", where), "ArrowLeft", "ArrowLeft")
    model.group_size = 6
    exact, estimate = model.without_spread()
    told = page.alt("Chart of groups of 6 without spread", where)
    assert f"{number(100 * exact)} at 0.3" in told and f"{number(100 * estimate)} at 0.3" in told
    page.drag(page.slider("p, right answer", where), 0.5)
    p = float(page.python("patience.p.value"))
    assert 0.02 < p < 0.2 and page.python("patience.model.draws") == "0"
    expect(facts).to_contain_text(f"expected wait 1/p {number(1 / p)} draws")
    page.choose("prompts", "easy, middling, hard", where)
    page.click(page.button("Draw 5,000", where))
    expect(where.locator("table")).to_have_count(2)


def test_player_by_buttons_keys_and_play(page: Book) -> None:
    where = page.output(PLAYER)
    model = GridWorldModel(PacmanGrid("guide"))
    page.click(page.button("↓ down", where))
    page.press(page.button("↓ down", where), "Enter")
    field = page.control("keys", where).locator("input")
    field.click()
    page.page.keyboard.type("dda", delay=15)
    page.settle()
    for key in "ssdda":
        model.go(key)
    expect(where.locator(".facts")).to_contain_text(f"step {len(model.moves)} of 50")
    expect(where.locator(".facts")).to_contain_text(f"return so far {number(model.total)}")
    assert page.alt("Grid of", where) == re.search('aria-label="([^"]+)"', model.picture())[1]
    page.choose("drawn into the grid", "the optimum", where)
    assert "Values from" in page.alt("Grid of", where)
    page.click(page.button("↺ New episode", where))
    page.click(page.button("Step", where))
    expect(where.locator(".facts")).to_contain_text("step 1 of 50")
    page.choose("speed", "fast: 5 steps a second", where)
    where.locator(".widget-play button").first.click()
    expect(where.get_by_text("Won:")).to_be_visible(timeout=30_000)
    best = GridWorldModel(PacmanGrid("guide")).best
    expect(where.locator(".facts")).to_contain_text(f"return so far {number(best)}")


def test_two_at_once_and_one_twice(page: Book) -> None:
    """Two explorers move apart; two views of one move together."""
    page.execute("clip.ratio.value = 1.4; kl.equal.click()")
    before = page.output(KL).inner_text()
    page.press(page.slider("ratio ρ", page.output(CLIP)), "ArrowRight")
    check_clip(page, CLIP, 1.41)
    assert page.output(KL).inner_text() == before
    check_clip(page, AGAIN, 1.41)
    page.press(page.slider("ratio ρ", page.output(AGAIN)), "ArrowLeft", "ArrowLeft")
    check_clip(page, CLIP, 1.39)


def test_nothing_fails_and_nothing_is_fetched_from_elsewhere(page: Book) -> None:
    assert page.errors == [] and page.alerts == [] and page.stage.outside == []


@pytest.mark.parametrize("pixels", [1280, 400])
def test_layout_fits(page: Book, pixels: int) -> None:
    page.width(pixels)
    for cell in (CLIP, KL, PATIENCE, PLAYER):
        assert page.overflow(page.output(cell)) <= 1, f"cell {cell} at {pixels} pixels"
    page.width(1280)


def test_dark_theme(page: Book) -> None:
    """Paper and ink change places."""
    paper = page.output(CLIP).locator(".rlkit").first
    light = paper.evaluate("e => getComputedStyle(e).backgroundColor")
    page.theme("dark")
    dark = paper.evaluate("e => getComputedStyle(e).backgroundColor")
    page.theme("light")
    assert (light, dark) == ("rgb(255, 255, 255)", "rgb(20, 23, 27)")


def test_pictures(page: Book) -> None:
    """For people to look at: set RLKIT_SCREENSHOTS."""
    page.execute(
        "clip.ratio.value = 1.4; kl.logits[0].value = 0.5\n"
        "patience.prompts.value = 'one prompt'; patience.p.value = 0.3; patience.hundred.click()\n"
        "player.again.click(); player.step.click(); player.overlay.value = 'policy'"
    )
    for name, cell in (("clip", CLIP), ("kl", KL), ("patience", PATIENCE), ("grid_world", PLAYER)):
        page.shots(name, page.output(cell))


def test_reload_and_restart(page: Book) -> None:
    """After a reload all is as before, and moves; after a restart nothing fails, and the cells make it again."""
    page.execute("clip.preset.value = clip.preset.options[1]; clip.ratio.value = 0.9")
    page.reload()
    check_clip(page, CLIP, 0.9)
    page.press(page.slider("ratio ρ", page.output(CLIP)), "ArrowRight")
    check_clip(page, CLIP, 0.91)
    page.restart_kernel()
    expect(page.page.locator('[data-mime-type="application/vnd.jupyter.error"]')).to_have_count(0)
    page.run()
    check_clip(page, CLIP, 1.4)
    page.press(page.slider("ratio ρ", page.output(CLIP)), "ArrowRight")
    check_clip(page, CLIP, 1.41)


def test_notebook_7(book: Callable[..., Book]) -> None:
    """The same in the other front end, where arrow keys belong to the notebook: sliders are dragged, numbers typed."""
    page = book(*CELLS, front="notebook")
    where = page.output(CLIP)
    page.drag(page.slider("ratio ρ", where), 0.6)
    ratio = float(page.readout("ratio ρ", where).inner_text())
    assert 1.6 < ratio < 2.0
    check_clip(page, CLIP, ratio)
    page.click(page.button("Draw 100", page.output(PATIENCE)))
    model = PatienceModel(0.3)
    model.draw(100)
    expect(page.output(PATIENCE).locator(".facts").first).to_contain_text(f"right {model.wait().hits}")
    page.control("keys", page.output(PLAYER)).locator("input").click()
    page.page.keyboard.type("sd", delay=15)
    page.settle()
    expect(page.output(PLAYER).locator(".facts")).to_contain_text("step 2 of 50")
    page.press(page.button("policy = reference", page.output(KL)), "Enter")
    expect(page.output(KL)).to_contain_text("The two policies are the same")
    assert page.errors == [] and page.alerts == []
    page.shot("notebook_7_clip", where)
