"""RewardInspector, AdvantageExplorer, LossWeights and MemoryCalculator in JupyterLab, by mouse and keyboard.

What the page shows is compared with numbers that are worked out here, by the formulas where they are short.
"""

from __future__ import annotations

import statistics

from jupyter_pages import Book
from playwright.sync_api import Locator, expect

from rlkit.runs.evidence import number
from rlkit.widgets.advantages import signed
from rlkit.widgets.models.loss_weights import LossWeightsModel
from rlkit.widgets.models.memory import PRESETS, MemoryModel, shown

ADVANTAGES, LOSS, MEMORY, SUMS, EMAIL = 1, 2, 3, 4, 5  # the cells
CELLS = (
    "from rlkit.widgets import AdvantageExplorer, LossWeights, MemoryCalculator, RewardInspector",
    "advantages = AdvantageExplorer([1, 0, 0, 0])\nadvantages",
    "loss = LossWeights()\nloss",
    "memory = MemoryCalculator()\nmemory",
    "def divides(completions, **columns):\n    return [1 / len(completion) for completion in completions]\n\n"
    "sums = RewardInspector(['number_found', 'correct_number', divides], 'arithmetic')\nsums",
    "email = RewardInspector('email_rubric', 'email')\nemail",
)


def cells(where: Locator, row: int, table: int = 0) -> list[str]:
    """One row of a table, as it reads; a bar has no text."""
    return [
        text.strip()
        for text in where.locator("table")
        .nth(table)
        .locator("tbody tr")
        .nth(row)
        .locator("td")
        .all_inner_texts()
    ]


def check_advantages(page: Book, rewards: list[float]) -> None:
    """The table says what the formulas say: GRPO and batch scaling (one group) alike, Dr. GRPO, RLOO."""
    where = page.output(ADVANTAGES)
    mean, spread, size = statistics.mean(rewards), statistics.stdev(rewards), len(rewards)
    expect(where.locator(".facts")).to_contain_text(f"mean {number(mean)}")
    expect(where.locator("table").first.locator("tbody tr")).to_have_count(size)
    for i, reward in enumerate(rewards):
        scaled, centred = (reward - mean) / (spread + 1e-4), reward - mean
        others = reward - (mean * size - reward) / (size - 1)
        expected = [signed(round(a, 9)) for a in (scaled, centred, others, scaled)]
        assert cells(where, i) == [str(i + 1), number(reward), *expected]


def test_advantages_by_keyboard_and_mouse(page: Book) -> None:
    where = page.output(ADVANTAGES)
    check_advantages(page, [1, 0, 0, 0])
    page.press(page.slider("r2", where), *["ArrowUp"] * 5)
    check_advantages(page, [1, 0.05, 0, 0])
    handle = page.slider("r3", where)
    handle.scroll_into_view_if_needed()
    grip, track = (
        handle.bounding_box(),
        handle.locator("xpath=ancestor::div[contains(@class, 'noUi-base')]").bounding_box(),
    )
    assert grip and track
    page.page.mouse.move(grip["x"] + grip["width"] / 2, grip["y"] + grip["height"] / 2)
    page.page.mouse.down()
    page.page.mouse.move(grip["x"] + grip["width"] / 2, track["y"], steps=5)  # to the top
    page.page.mouse.up()
    page.settle()
    check_advantages(page, [1, 0.05, 3, 0])
    page.click(page.button("+ one more", where))
    check_advantages(page, [1, 0.05, 3, 0, 0])
    page.choose("group", "all right (dead)", where)
    expect(where.get_by_role("note").filter(has_text="A dead group.")).to_be_visible()
    check_advantages(page, [1.0] * 5)


def test_loss_weights_by_keyboard(page: Book) -> None:
    where = page.output(LOSS)
    field = page.control("lengths", where).locator("input")
    field.fill("20, 40, 60")
    page.press(field, "Enter")
    model = LossWeightsModel((20, 40, 60), 128)
    row = cells(where, 1)
    assert row[:2] == ["2", "40"]
    token = ["0.00833", "0.00833", "0.00260"]  # 1 / (3 · 40), 1 / 120, 1 / (3 · 128)
    assert [row[i] for i in (2, 4, 6)] == token
    assert [row[i].split()[0] for i in (3, 5, 7)] == ["0.333", "0.333", "0.1042"]  # 40 times as much
    told = page.alt("Chart of one token", where)
    assert f"grpo, gspo: from {number(model.of('grpo').token[0])} at 20" in told
    field.fill("20, many")
    page.press(field, "Enter")
    expect(where.get_by_role("note").filter(has_text="many")).to_be_visible()
    page.choose("lengths by name", "one that never stops", where)
    expect(where.get_by_role("note").filter(has_text="many")).to_be_hidden()
    page.click(page.tick("mask those at the limit", where))
    assert "masked" in cells(where, 3)[1] and cells(where, 3)[2] == "0"


def test_memory_by_keyboard_and_mouse(page: Book) -> None:
    where = page.output(MEMORY)
    expect(where.locator("table").first).to_contain_text("78.3")
    expect(where.locator("table").first).to_contain_text("510.8")
    page.click(where.get_by_role("button", name="GB", exact=True))
    model = MemoryModel()
    assert cells(where, 1)[2:6] == [
        shown(size, unit) for size in (model.logits, model.logits / 8) for unit in ("GB", "GiB")
    ]
    page.choose("set-up", list(PRESETS)[1], where)
    expect(where.locator("table").first).not_to_contain_text("510.8")
    field = page.control("context, tokens", where).locator("input")
    field.fill("2048")
    page.press(field, "Tab")
    logits = 2 * 2 * 8 * 2048 * 49_152
    assert (
        cells(where, 1)[2] == shown(logits, "GB") and page.python("memory.preset.value") == "my own numbers"
    )


def test_a_completion_is_typed_and_lights_up(page: Book) -> None:
    where = page.output(SUMS)
    answer = page.python("sums.cells['answer'].value")
    text = page.control("completion", where).locator("textarea")
    text.fill(f"12? No: {answer}")
    page.press(text, "Tab")
    expect(where.locator("mark")).to_have_text(["12[1]", f"{answer}[2]"])  # with the parts' numbers
    assert cells(where, 0)[2:5] == ["1", "1", "1"] and cells(where, 1)[2:5] == ["3", "1", "3"]
    weight = page.control("2 ×", where).locator("input")
    weight.fill("0.5")
    page.press(weight, "Tab")
    assert cells(where, 1)[2:5] == ["3", "0.5", "1.5"]
    text.fill("")
    page.click(page.button("Score it", where))
    expect(where.get_by_role("note").filter(has_text="ZeroDivisionError")).to_be_visible()
    text.fill("<img src=x onerror=alert(1)> $x^2$ 7")
    page.press(text, "Tab")
    expect(where.locator(".boxed")).to_contain_text("<img src=x onerror=alert(1[1])> $x^2$")
    assert where.locator("img, mjx-container").count() == 0 and not page.alerts


def test_sets_and_a_task_are_scored(page: Book) -> None:
    where = page.output(EMAIL)
    expect(where.locator("mark").first).to_be_visible()
    page.click(page.button("Golden and exploit sets", where))
    expect(where.get_by_text("Golden and exploit sets: mean score")).to_be_visible()
    page.press(page.slider("rows", where), "Home", "ArrowRight", "ArrowRight")
    page.click(page.button("Score the task", where))
    expect(where.get_by_role("heading", name="Scored: 3 rows of email, train side")).to_be_visible()
    page.choose("try", "exploit: prompt repeated", where)
    assert "exploit" in page.python("email.trial.value")
    page.choose("side", "test", where)
    assert page.control("prompt", where).locator("textarea").input_value() != ""


def test_the_row_is_edited_by_keyboard(page: Book) -> None:
    where = page.output(EMAIL)
    page.python("setattr(email.trial, 'value', email.trial.options[1])")
    name = page.control("recipient", where).locator("input")
    expect(name).to_be_hidden()
    page.press(page.button("Show the row's columns", where), "Enter")
    expect(name).to_be_visible()
    assert cells(where, 3)[2] == "1"  # the greeting names the recipient
    name.fill("Zoe Quill")
    page.press(name, "Tab")
    assert cells(where, 3)[2:] == ["0", "1", "0", "found nothing"]
    page.press(page.button("Show the row's columns", where), "Enter")
    expect(name).to_be_hidden()


def test_nothing_is_wider_than_a_phone(page: Book) -> None:
    page.width(400)
    for cell in (ADVANTAGES, LOSS, MEMORY, SUMS, EMAIL):
        assert page.overflow(page.output(cell)) <= 1, cell
    page.width(1280)
    assert not page.errors and not page.stage.outside


def test_pictures(page: Book) -> None:
    for cell, name in (
        (ADVANTAGES, "advantage_explorer"),
        (LOSS, "loss_weights"),
        (MEMORY, "memory_calculator"),
        (SUMS, "reward_inspector"),
        (EMAIL, "reward_inspector_email"),
    ):
        page.shots(name, page.output(cell))
