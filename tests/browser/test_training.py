"""The training dashboard as people meet it: a real run followed, paused, stepped, stopped; replays; restart, reload.

What is on the page is compared with ``metrics.jsonl``, which the test reads itself.
"""

from __future__ import annotations

import json
import re

from playwright.sync_api import expect

from rlkit.runs.evidence import number, percent
from rlkit.runs.recordings import recorded_path

TOTAL = 5000  # steps: it never gets there
TRAINER = """
from rlkit import GRPOTrainer, load_model, rewards, tasks
from rlkit.demo import demo_config
task = tasks.arithmetic()
model, tokenizer = load_model("rlkit/tiny-arithmetic")
args = demo_config(
    output_dir={run!r}, max_steps={total}, prompts_per_step=8, num_generations=8, fast_inference=False,
    save_model=False, probe_prompts=0, disable_tqdm=True)
trainer = GRPOTrainer(
    model, [rewards.number_found, rewards.correct_number], args, task.train, list(task.test)[:8],
    processing_class=tokenizer)
"""
OUTSIDE = """
import pathlib
from rlkit.widgets import TrainingDashboard
if not pathlib.Path({run!r}).exists():  # the kernel may be a new one
    exec({trainer!r})
    trainer.run  # the directory is there before the other cell looks
    control = trainer.train(background=True)
"""
CHARTS = ("Reward", "Reward by function", "Accuracy", "Entropy")


def trainer_code(run):
    return TRAINER.format(run=str(run), total=TOTAL)


def lines(run, event="step"):
    """The whole lines of a run, read without rlkit."""
    text = (run / "metrics.jsonl").read_text()
    found = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
    return [line for line in found if line["event"] == event]


def shows_what_is_written(page, out, run):
    """Progress, facts and charts of ``out`` are those of the run's lines."""
    rows = lines(run)
    expect(out).to_contain_text(f"step {len(rows):,} of {TOTAL:,}, {percent(len(rows) / TOTAL)}")
    rewards, entropies = ([row[name] for row in rows] for name in ("reward", "entropy"))
    expect(out).to_contain_text(re.compile(rf"reward\s+{number(rewards[0])} → {number(rewards[-1])}"))
    for title, values in (("Reward", rewards), ("Entropy", entropies)):
        first, last, count = number(values[0]), number(values[-1]), len(values)
        told = f"from {first} at 1 to {last} at {count}, lowest {number(min(values))}, highest {number(max(values))}."
        # Facts and charts reach the page in messages of their own, so this waits: the last step's charts may follow.
        expect(page.picture(f"Chart of {title}:", out)).to_have_attribute(
            "aria-label", re.compile(re.escape(told))
        )


def made_steps(out):
    """How many steps the page says have been made."""
    return int(re.search(rf"step ([\d,]+) of {TOTAL:,}", out.inner_text()).group(1).replace(",", ""))


def grows(out):
    """The page follows: there are steps and a time left, and soon more steps."""
    expect(out).to_contain_text(re.compile(rf"step [1-9][\d,]* of {TOTAL:,}.* left"))
    before = made_steps(out)
    expect(out).not_to_contain_text(f"step {before:,} of")
    assert made_steps(out) > before


def test_a_run_is_followed_paused_stepped_and_stopped(book, tmp_path):
    run = tmp_path / "run"
    page = book(
        trainer_code(run),
        "panel = trainer.dashboard()\npanel",
        "from rlkit import runs, widgets\nwidgets.TrainingDashboard(runs.recorded('collapse'))",
        "control = trainer.train(background=True)",
    )
    out, other = page.output(1), page.output(2)  # two widgets open at once
    expect(out.get_by_text("running").first).to_be_visible()
    grows(out)  # it follows by itself
    for title in CHARTS:
        assert out.locator(f'svg[aria-label^="Chart of {title}:"]').count() == 1
    page.shots("training_running", out)
    # Paused by mouse: the step that runs is finished, and nothing more is done.
    page.click(page.button("Pause", out))
    expect(page.button("Go on", out)).to_be_visible()
    expect(out.get_by_text("paused").first).to_be_visible()
    shows_what_is_written(page, out, run)
    done = made_steps(out)
    # A step by keyboard, twice: one more each time.
    for more in (1, 2):
        page.press(page.button("One step", out), "Enter")
        expect(out).to_contain_text(f"step {done + more} of {TOTAL:,}")
        expect(out.get_by_text("paused").first).to_be_visible()
        assert len(lines(run)) == done + more
    shows_what_is_written(page, out, run)
    page.shots("training_paused", out)
    # On by keyboard, then stopped by mouse, with a checkpoint.
    page.press(page.button("Go on", out), "Space")
    expect(page.button("Pause", out)).to_be_visible()
    grows(out)
    page.click(page.button("Stop with checkpoint", out))
    expect(out).to_contain_text("stopped by hand, in the dashboard")
    for name in ("Pause", "One step", "Stop with checkpoint"):
        expect(page.button(name, out)).to_be_disabled()
    expect(out).to_contain_text("Training has ended.")
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "stopped: stopped by hand, in the dashboard"
    assert summary["steps"] == len(lines(run))
    assert (run / "checkpoints" / f"step_{summary['steps']:06d}").is_dir()
    shows_what_is_written(page, out, run)
    # Each dashboard has a section of its own.
    page.press(page.button("Update", other), "Enter")
    expect(other).to_contain_text("Gradient norm")
    expect(out).not_to_contain_text("Gradient norm")
    # The page is loaded again: both are there, and answer.
    page.reload()
    out, other = page.output(1), page.output(2)
    shows_what_is_written(page, out, run)
    expect(other).to_contain_text("Gradient norm")
    page.click(page.button("Completions", out))
    expect(out).to_contain_text("Groups without reward spread")
    assert not page.errors and not page.alerts


def test_a_run_whose_kernel_is_restarted_shows_its_whole_steps(book, tmp_path):
    run = tmp_path / "run"
    page = book(
        OUTSIDE.format(run=str(run), trainer=trainer_code(run)), f"TrainingDashboard({str(run)!r})", width=400
    )
    out = page.output(1)
    expect(out).to_contain_text(
        "reads the run directory from outside of the training"
    )  # so it has no buttons
    assert not page.button("Pause", out).count()
    expect(out).to_contain_text("▶ running")
    grows(out)
    assert page.overflow(out) == 0
    page.restart_kernel()  # it takes the training with it
    page.run()
    expect(out).to_contain_text("interrupted")
    expect(out).to_contain_text("trainer.train(resume=True) goes on from the newest checkpoint")
    shows_what_is_written(page, out, run)
    page.shots("training_interrupted", out)


def test_a_replay_in_notebook_7_and_its_sections(book):
    page = book(
        "from rlkit import runs\nfrom rlkit.widgets import TrainingDashboard",
        "panel = TrainingDashboard(runs.replay('demo', speed=0.1))\npanel",
        front="notebook",
    )
    out, rows = page.output(1), lines(recorded_path("demo"))
    greedy = [line["accuracy_greedy"] for line in lines(recorded_path("demo"), "eval")]
    expect(out).to_contain_text("Replay of demo")
    page.press(page.button("Pause", out), "Enter")
    expect(page.button("Go on", out)).to_be_visible()
    expect(out).to_contain_text("‖ paused")
    before = page.python("len(panel._tracks[0].rows)")
    page.click(page.button("One step", out))
    expect(out).to_contain_text(f"step {int(before) + 1} of 80")
    told = page.alt("Chart of Reward:", out)
    assert number(rows[int(before)]["reward"]) in told
    page.click(page.button("Skip to the end", out))
    expect(out).to_contain_text("step 80 of 80, 100 %")
    expect(out).to_contain_text("have the SHA-256 that was recorded")
    expect(out).to_contain_text(re.compile(f"greedy\\s+{percent(greedy[0])} → {percent(greedy[-1])}"))
    page.shots("training_replay", out)
    page.press(page.button("Completions", out), "Enter")
    expect(out).to_contain_text("Groups without reward spread")
    page.press(page.button("Time and memory", out), "Space")
    expect(out).to_contain_text("most memory")
    page.shots("training_time", out)
    page.click(page.button("All numbers", out))
    norms = [row["grad_norm"] for row in rows]
    cells = (
        out.locator("tr", has=page.page.get_by_text("grad_norm", exact=True)).locator("td").all_inner_texts()
    )
    assert cells[1:] == [number(x) for x in (norms[0], norms[-1], min(norms), max(norms))] + ["80"]
    page.shots("training_numbers", out)
    page.click(page.button("Learning", out))
    page.choose("Points", "mean of 5 steps", out)
    expect(out).to_contain_text("Each point is the mean of 5 steps.")
    assert (
        len(out.locator('svg[aria-label^="Chart of Reward:"] polyline').first.get_attribute("points").split())
        == 16
    )
    page.width(400)
    assert page.overflow(out) == 0
    assert not page.errors and not page.alerts
