"""SampleInspector and PreferenceRater in JupyterLab, by mouse and keyboard; what is shown is what the files hold."""

from __future__ import annotations

import csv
import json
import math
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from jupyter_pages import Book, Stage
from playwright.sync_api import Locator, expect
from sample_runs import GRPO, awkward_rows, run_with

from rlkit import runs
from rlkit.runs.evidence import number, percent

SAMPLES, DEMO, RATER, THUMBS = 1, 2, 3, 4  # the cells
DRAWN = """buttons => buttons.map(button => {
    const style = getComputedStyle(button), weight = parseFloat(style.borderBottomWidth);
    const shown = style.backgroundColor !== 'rgba(0, 0, 0, 0)' && style.borderBottomColor !== 'rgba(0, 0, 0, 0)';
    return shown ? (style.borderBottomStyle === 'dashed' ? -weight : weight) : 0;
})"""  # each token's underline: its weight, below 0 where it is dashed, 0 where there is none
QUANTITIES = {  # label -> (its number from a row of the file, the value without colour)
    "log-probability": (lambda row, t: -row["logp_old"][t], 0.0),
    "ratio ρ": (lambda row, t: row["ratio"][t], 1.0),
    "KL to the reference": (lambda row, t: row["logp_new"][t] - row["logp_ref"][t], 0.0),
    "entropy": (lambda row, t: row["entropy"][t], 0.0),
    "engine/trainer difference": (lambda row, t: row["logp_old"][t] - row["logp_engine"][t], 0.0),
}
PPO = {"value": "value V", "token_advantage": "advantage of the token", "token_return": "return"}


def ppo_rows() -> list[dict]:
    """Completions as PPO keeps them."""
    made = awkward_rows(random.Random(3))
    for row in made:
        size = len(row["completion_ids"])
        row["token_advantage"] = [(-1.0) ** t * (t + 1) for t in range(size)]
        row.update(
            {name: [0.1 * t for t in range(size)] for name in ("value", "token_reward", "token_return")}
        )
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("samples")
    run_with(made / "awkward", awkward_rows(random.Random(5)), **GRPO)
    run_with(
        made / "ppo", ppo_rows(), {"kl_coef": 0.05}, cliprange=0.1, kl_penalty="reward", num_mini_batches=1
    )
    return made


@pytest.fixture(scope="module")
def page(stage: Stage, folder: Path) -> Iterator[Book]:
    rows = [{"prompt": f"{a}+1=", "completions": [str(a + 1), str(a + 2)]} for a in range(5)]
    ones = [{"prompt": row["prompt"], "completions": row["completions"][:1]} for row in rows[:3]]
    opened = stage.open(
        (
            "from rlkit import runs\nfrom rlkit.widgets import PreferenceRater, SampleInspector",
            f"inspector = SampleInspector([{str(folder / 'awkward')!r}, {str(folder / 'ppo')!r}])\ninspector",
            "demo = SampleInspector(runs.recorded('demo'))\ndemo",
            f"rater = PreferenceRater({rows!r}, {str(folder / 'feedback.jsonl')!r})\nrater",
            f"thumbs = PreferenceRater({ones!r}, {str(folder / 'thumbs.jsonl')!r}, rater='cyd')\nthumbs",
        )
    )
    yield opened
    opened.close()


def side(page: Book, right: bool = False) -> Locator:
    """A side of the inspector."""
    return page.output(SAMPLES).locator(".sample-pane").nth(int(right))


def stored(run: Path, name: str = "samples/step_000001.parquet") -> list[dict]:
    """What the file holds, read without rlkit."""
    return pq.read_table(run / name).to_pylist()


def cell_of(where: Locator, what: str) -> Locator:
    """The number in the table of a token."""
    return where.locator("tbody tr").filter(has_text=what).first.locator("td").last


def best_of(folder: Path) -> dict:
    return max(stored(folder / "awkward"), key=lambda row: row["advantage"])


def test_sorting_searching_and_opening(page: Book, folder: Path) -> None:
    where, rows = side(page), stored(folder / "awkward")
    shown = where.locator(".sample-row:visible")
    expect(shown).to_have_count(6)
    expect(where.locator(".sheet + .facts")).to_contain_text(
        f"mean reward {number(math.fsum(row['reward'] for row in rows) / 6)}"
    )
    page.choose("sort by", "advantage", where)
    page.click(page.tick("largest first", where))
    by_advantage = sorted(rows, key=lambda row: -row["advantage"])
    for i, row in enumerate(by_advantage):
        expect(shown.nth(i)).to_contain_text(f"advantage {number(row['advantage'])}")
        expect(shown.nth(i)).to_contain_text(row["completion"])
        expect(shown.nth(i)).to_contain_text(f"tokens {len(row['completion_ids'])}")
    page.choose("sort by", "reward: one", where)
    expect(shown.first).to_contain_text(f"one {number(max(row['reward/one'] for row in rows))}")
    page.choose("sort by", "advantage", where)
    page.choose("show", "truncated", where)
    expect(shown).to_have_count(1)
    expect(shown.first).to_contain_text("✂ cut off (length)")
    page.choose("show", "all", where)
    field = page.control("search", where).locator("input")
    field.fill("ANSWER 3")
    page.press(field, "Enter")
    expect(shown).to_have_count(1)
    field.fill("no such text")
    page.press(field, "Enter")
    expect(where).to_contain_text("Nothing is found")
    field.fill("")
    page.press(field, "Enter")
    expect(shown).to_have_count(6)
    page.press(shown.first.get_by_role("button"), "Enter")  # the keyboard opens it, too
    best = best_of(folder)
    expect(where).to_contain_text(f"Completion {best['completion_index']} of prompt {best['prompt_index']}")
    expect(where.locator(".toks button:visible")).to_have_count(len(best["tokens"]))
    assert not page.errors


def test_tokens_by_mouse_keyboard_and_slider(page: Book, folder: Path) -> None:
    where, best = side(page), best_of(folder)
    tokens = where.locator(".toks button:visible")

    def numbers_of(t: int) -> None:
        expect(where.locator("h4").filter(has_text=f"Token {t + 1} of")).to_be_visible()
        for name, what in (("logp_engine", "log π, engine"), ("entropy", "entropy"), ("ratio", "ratio ρ")):
            expect(cell_of(where, what)).to_contain_text(number(best[name][t]))
        lines = where.locator(".two table").nth(1).locator("tbody tr")
        expect(lines).to_have_count(len(best["topk_ids"][t]))
        for i, (token, logp) in enumerate(zip(best["topk_ids"][t], best["topk_logps"][t], strict=True)):
            said = [str(token), number(logp), percent(math.exp(logp))]
            assert lines.nth(i).locator("td").all_inner_texts()[1:4] == said
        expect(lines.first).to_contain_text(f"t{t} ◀ sampled")

    page.click(tokens.nth(3))
    numbers_of(3)
    page.press(tokens.nth(4), "Enter")
    numbers_of(4)
    expect(tokens.nth(4)).to_be_focused()  # whoever goes on by keyboard starts from here
    page.press(page.slider("token", where), "ArrowLeft", "ArrowLeft")
    numbers_of(2)
    page.click(where.get_by_title("The next token"))
    numbers_of(3)
    page.press(where.get_by_title("The token before"), " ")
    numbers_of(2)
    outlines = tokens.evaluate_all("all => all.map(e => getComputedStyle(e).outlineStyle)")
    assert [t for t, style in enumerate(outlines) if style == "solid"] == [2]
    assert math.isclose(float(page.python("inspector.left.opened.advantage")), best["advantage"])


@pytest.mark.parametrize("label", QUANTITIES)
def test_colours_follow_the_files_numbers(page: Book, folder: Path, label: str) -> None:
    where, row = side(page), best_of(folder)
    value, middle = QUANTITIES[label]
    page.choose("colour by", label, where)
    tokens = where.locator(".toks button:visible")
    drawn = tokens.evaluate_all(DRAWN)
    apart = [value(row, t) - middle for t in range(len(row["tokens"]))]
    order = sorted(range(len(apart)), key=lambda t: abs(apart[t]))
    weights = [abs(drawn[t]) for t in order]
    assert weights == sorted(weights) and weights[-1] > 0
    assert all(drawn[t] * apart[t] > 0 for t in order if drawn[t])
    clipped = [t for t, rho in enumerate(row["ratio"]) if rho > 1.28]  # its advantage is above 0
    signs = [t for t, said in enumerate(tokens.all_inner_texts()) if "✂" in said]
    assert signs == clipped and clipped
    expect(where.get_by_label("legend").locator(".tok")).to_have_count(len(set(drawn)))


def test_two_runs_side_by_side(page: Book, folder: Path) -> None:
    where = page.output(SAMPLES)
    page.press(page.tick("two side by side", where), " ")
    other, rows = side(page, right=True), stored(folder / "ppo")
    expect(where.locator(".sample-row:visible")).to_have_count(6 + 6)
    expect(other).to_contain_text("ppo, step 1, training")
    best = best_of(folder)
    page.click(side(page).locator(".sample-row:visible").first.get_by_role("button"))
    prompts = where.locator(".said > .text:first-of-type")
    same = next(row for row in rows if row["prompt"] == best["prompt"])
    expect(other).to_contain_text(f"Completion {same['completion_index']} of prompt {same['prompt_index']}")
    assert prompts.count() == 2
    page.choose("colour by", "value V", other)
    for name, label in PPO.items():  # a PPO run's own numbers
        expect(cell_of(other, label)).to_contain_text(number(same[name][0]))
    page.choose("sort by", "length", side(page))
    longest = max(len(row["completion_ids"]) for row in rows)
    expect(other.locator(".sample-row:visible").first).to_contain_text(f"tokens {longest}")
    page.shots("samples_side_by_side", where)
    page.click(page.tick("two side by side", where))
    expect(where.locator(".sample-row:visible")).to_have_count(6)


def test_saving_says_where(page: Book, folder: Path) -> None:
    where, rows = side(page), stored(folder / "awkward")
    order = sorted(range(6), key=lambda i: -len(rows[i]["completion_ids"]))
    page.click(page.button("save as csv", where))
    expect(where).to_contain_text("6 completions were written to")
    with open(page.stage.root / "awkward_train_step_1.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["completion"] for line in lines] == [rows[i]["completion"] for i in order]
    assert [float(line["reward/one"]) for line in lines] == [rows[i]["reward/one"] for i in order]
    page.press(page.button("save as parquet", where), "Enter")
    expect(where).to_contain_text("awkward_train_step_1.parquet")
    written = pq.read_table(page.stage.root / "awkward_train_step_1.parquet").to_pylist()
    assert [{name: got[name] for name in rows[0]} for got in written] == [rows[i] for i in order]


def test_a_recording_by_its_slider(page: Book) -> None:
    where, run = page.output(DEMO).locator(".sample-pane").first, runs.recorded("demo")
    kept = sorted(int(file.stem.removeprefix("step_")) for file in (run.path / "samples").iterdir())
    expect(where).to_contain_text(f"demo, step {kept[-1]}, training")
    page.press(page.slider("step", where), "Home", "ArrowRight", "ArrowRight")
    rows = stored(run.path, f"samples/step_{kept[2]:06d}.parquet")
    expect(where).to_contain_text(f"demo, step {kept[2]}, training")
    right = sum(row["correct"] for row in rows) / len(rows)
    expect(where.locator(".sheet + .facts")).to_contain_text(f"right {100 * right:.0f} %")
    shown = where.locator(".sample-row:visible")
    expect(shown).to_have_count(8)
    for i, row in enumerate(rows[:8]):
        for said in (row["prompt"], row["completion"], f"reward {number(row['reward'])}"):
            expect(shown.nth(i)).to_contain_text(said)
    page.click(where.get_by_title("The next page"))
    expect(shown.first).to_contain_text(rows[8]["completion"])
    page.choose("completions", "held-out, greedy", where)
    judged = stored(run.path, "evals/step_000000_greedy.parquet")
    right = sum(row["correct"] for row in judged) / len(judged)
    expect(where.locator(".sheet + .facts")).to_contain_text(f"right {100 * right:.0f} %")
    page.choose("completions", "training", where)
    page.click(shown.first.get_by_role("button"))
    page.shots("sample_inspector", page.output(DEMO))


@pytest.mark.parametrize("width", [400, 1280])
def test_nothing_is_wider_than_the_page(page: Book, width: int) -> None:
    page.width(width)
    for cell in (SAMPLES, DEMO, RATER, THUMBS):
        assert page.overflow(page.output(cell)) <= 1, cell


def kappa(one: list[int], other: list[int]) -> float:
    """Cohen's κ of verdicts −1, 0 and 1, each counted in both orders."""
    pairs = [*zip(one, other, strict=True), *((-a, -b) for a, b in zip(one, other, strict=True))]
    agreed = sum(a == b for a, b in pairs) / len(pairs)
    first, second = (Counter(pair[i] for pair in pairs) for i in (0, 1))
    chance = sum(first[k] * second[k] for k in first) / len(pairs) ** 2
    return (agreed - chance) / (1 - chance)


def test_rating_by_name_button_and_key(page: Book, folder: Path) -> None:
    where, path = page.output(RATER), folder / "feedback.jsonl"
    first = where.get_by_role("button", name="first is better")
    expect(first).to_be_disabled()
    name = page.control("your name", where).locator("input")
    name.fill("ada")
    page.press(name, "Enter")
    expect(first).to_be_enabled()
    question = json.loads(page.python("__import__('json').dumps(rater.rating.question)"))
    for answer in question[1]:
        expect(where.locator(".text").filter(has_text=answer).first).to_be_visible()
    page.click(first)
    keys = page.control("keys", where).locator("input")
    keys.focus()
    page.page.keyboard.type("2=", delay=20)
    page.settle()
    expect(where).to_contain_text("3 of 5 answered")
    said = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["choice"] for line in said] == ["first", "second", "tie"]
    assert (said[0]["prompt"], said[0]["first"], said[0]["second"]) == (question[0], *question[1])
    page.page.keyboard.type("u")
    page.settle()
    expect(where).to_contain_text("2 of 5 answered")
    expect(where).to_contain_text("taken back")


def test_several_raters_and_how_far_they_agree(page: Book, folder: Path) -> None:
    where, path = page.output(RATER), folder / "feedback.jsonl"
    page.execute("for key in '111': rater.press(key)")
    name = page.control("your name", where).locator("input")
    name.fill("bob")
    page.press(name, "Enter")
    expect(where).to_contain_text("0 of 5 answered")
    page.control("keys", where).locator("input").focus()
    page.page.keyboard.type("12121", delay=20)
    page.settle()
    expect(where).to_contain_text("All 5 questions are answered. Thank you, bob.")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    back = {line["entry"] for line in lines if line["kind"] == "undo"}
    verdicts: dict[str, dict[str, int]] = {"ada": {}, "bob": {}}
    for line in lines:
        if line["kind"] == "preference" and line["id"] not in back:
            sign = {"first": -1, "second": 1, "tie": 0}[line["choice"]]
            sides = int(line["first"]) < int(line["second"])
            verdicts[line["rater"]][line["prompt"]] = sign if sides else -sign
    assert len(verdicts["ada"]) == len(verdicts["bob"]) == 5
    expected = kappa(
        *([verdicts[who][prompt] for prompt in sorted(verdicts["ada"])] for who in ("ada", "bob"))
    )
    cells = where.locator("tbody tr").first.locator("td").all_inner_texts()
    assert cells[:3] == ["ada and bob", "5 comparisons", number(expected)]
    page.shots("preference_rater", where)


def test_thumbs_by_mouse_and_key(page: Book, folder: Path) -> None:
    where = page.output(THUMBS)
    page.click(where.get_by_role("button", name="thumb up"))
    page.press(where.get_by_role("button", name="thumb down"), " ")
    page.control("keys", where).locator("input").focus()
    page.page.keyboard.type("s1", delay=20)
    page.settle()
    expect(where).to_contain_text("All 3 questions are answered")
    said = [json.loads(line) for line in (folder / "thumbs.jsonl").read_text().splitlines()]
    assert [line["label"] for line in said] == [True, False, True]


def test_one_goes_on_after_a_kernel_restart_and_a_reload(page: Book) -> None:
    page.execute("rater.press('u')")
    page.restart_kernel()
    page.run()
    where = page.output(RATER)
    name = page.control("your name", where).locator("input")
    name.fill("bob")
    page.press(name, "Enter")
    expect(where).to_contain_text("4 of 5 answered")
    page.reload()
    expect(page.output(RATER)).to_contain_text("4 of 5 answered")
    expect(page.output(SAMPLES).locator(".sample-row:visible")).to_have_count(6)
    assert not page.alerts and not page.errors
