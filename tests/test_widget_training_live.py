"""TrainingDashboard beside a training: nothing in it breaks the training, and nothing is left of it."""

from __future__ import annotations

import gc
import weakref

import pytest
from dashboards import (
    SOON,
    Markup,
    dashboard_threads,
    lines_of,
    text_of,
    wait_for,
    write_steps,
)
from small_trainer import make_trainer, token_sum

from rlkit.runs import RunWriter
from rlkit.runs.evidence import number
from rlkit.trainers.callbacks import Callback
from rlkit.widgets import TrainingDashboard, training_html


class Looks(Callback):
    """What stands in the dashboard while training runs."""

    def __init__(self):
        self.seen = []

    def on_step_end(self, trainer, metrics):
        self.panel.pace._next = 0.0  # every step is drawn
        self.panel.tick()
        self.seen.append((text_of(self.panel), [b.disabled for b in (self.panel.pause, self.panel.stop)]))


def test_training_in_the_foreground_is_drawn_between_steps_and_its_buttons_say_why_not(tmp_path):
    trainer = make_trainer(tmp_path)
    panel = trainer.dashboard()
    assert "Training has not started" in text_of(panel) and "Not started yet" in text_of(panel)
    assert panel.pause.disabled and panel.step.disabled and panel.stop.disabled
    looks = Looks()
    looks.panel = panel
    trainer.callbacks.append(looks)
    trainer.train()
    assert [f"step {i} of 3" in text for i, (text, _) in enumerate(looks.seen, 1)] == [True] * 3
    assert all("runs in the foreground" in text and off == [True, True] for text, off in looks.seen)
    text = text_of(panel)
    assert "finished" in text and "Training has ended." in text and "step 3 of 3, 100 %" in text
    assert panel.section.value == "Learning"  # the first, although there was none when it was opened
    assert "token_sum" in panel._charts.value and not dashboard_threads()
    rows = lines_of(trainer.run_dir)
    assert f"reward {number(rows[0]['reward'])} → {number(rows[-1]['reward'])}" in text


def test_an_older_run_in_the_same_directory_is_not_shown_as_this_one(tmp_path):
    with make_trainer(tmp_path) as first:
        first.train()
    trainer = make_trainer(tmp_path)
    panel = trainer.dashboard()
    assert "Training has not started" in text_of(panel) and not panel._charts.value
    assert "has not started" in panel.describe() and "<svg" not in panel.static_html()
    trainer.train()
    assert "step 3 of 3" in text_of(panel)


def test_the_buttons_pause_step_and_stop_a_training_in_the_background(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=100_000)
    panel = trainer.dashboard()
    control = trainer.train(background=True)
    try:
        wait_for(lambda: "step" in text_of(panel) and not panel.pause.disabled)
        assert len(dashboard_threads()) == 1
        panel.pause.click()
        assert control.wait_until_paused(SOON)
        wait_for(lambda: "paused" in text_of(panel) and panel.pause.description == "Go on")
        at = trainer.step_index
        panel.step.click()
        wait_for(lambda: trainer.step_index == at + 1)
        assert control.wait_until_paused(SOON)
        wait_for(lambda: f"step {at + 1:,} of 100,000" in text_of(panel))
        panel.pause.click()
        wait_for(lambda: trainer.step_index > at + 2)
        panel.stop.click()
        summary = control.wait(SOON)
        assert summary["status"] == "stopped: stopped by hand, in the dashboard"
    finally:
        control.stop()
        control.join(SOON)
    wait_for(lambda: not dashboard_threads())
    text = text_of(panel)
    assert "stopped by hand, in the dashboard" in text and panel.pause.disabled
    assert f"step {trainer.step_index:,} of 100,000" in text and "Training has ended." in text
    assert list((trainer.run_dir / "checkpoints").glob("step_*"))


def test_a_picture_that_fails_is_said_in_the_panel_and_training_goes_on(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path)
    panel = trainer.dashboard()

    def broken(*args):
        raise RuntimeError("no <b>ink</b>")

    monkeypatch.setattr(training_html, "facts_html", broken)
    assert trainer.train()["status"] == "finished"
    assert "RuntimeError: no &lt;b&gt;ink&lt;/b&gt;" in panel._trouble.value
    monkeypatch.undo()
    panel.refresh()
    assert panel._trouble.value == "" and "step 3 of 3" in text_of(panel)


def test_a_training_that_fails_leaves_its_reason_in_the_panel(tmp_path):
    calls = []

    def breaks(completions, completion_ids, **columns):
        calls.append(1)
        if len(calls) > 3:
            raise ValueError("no reward today")
        return token_sum(completions, completion_ids)

    trainer = make_trainer(tmp_path, reward=breaks)
    panel = trainer.dashboard()
    with pytest.raises(Exception, match="no reward today"):
        trainer.train()
    assert "stopped: " in text_of(panel) and "no reward today" in text_of(panel)
    assert panel.pause.disabled and not dashboard_threads()


def test_closing_ends_the_thread_and_lets_go_of_everything(tmp_path):
    writer = RunWriter(tmp_path / "run", config={"grpo": {"max_steps": 9}})
    panel = TrainingDashboard(tmp_path / "run")
    assert len(dashboard_threads()) == 1 and "No step has been made yet" in text_of(panel)
    gone = weakref.ref(panel)
    panel.close()
    assert not dashboard_threads()
    del panel
    gc.collect()
    assert gone() is None
    writer.close()


def test_a_run_of_another_process_is_followed_until_its_summary(tmp_path):
    path = tmp_path / "run"
    writer = RunWriter(path, config={"grpo": {"max_steps": 2}})
    panel = TrainingDashboard(path)
    assert "reads the run directory from outside" in text_of(panel)
    assert panel._controls_shown.buttons.children == (panel.again,)
    for step in (1, 2):
        writer.write_metrics({"step": step, "reward": step / 7})
        wait_for(lambda step=step: f"step {step} of 2" in text_of(panel))
    writer.write_summary({})
    wait_for(lambda: not dashboard_threads())
    assert "finished" in text_of(panel) and f"reward {number(1 / 7)} → {number(2 / 7)}" in text_of(panel)
    writer.close()


def test_a_directory_that_another_run_takes_over_is_read_anew(tmp_path):
    path = write_steps(
        tmp_path / "run", [{"step": s, "reward": 1.0, "kl": 0.5} for s in range(1, 6)], summary={}
    )
    panel = TrainingDashboard(path)
    assert "step 5 of 9" in text_of(panel) and "KL to the reference" in panel._charts.value
    with RunWriter(path, config={"grpo": {"max_steps": 4}}, overwrite=True) as writer:
        writer.write_metrics({"step": 1, "reward": 2.0})
        writer.write_summary({})
    panel.again.click()
    assert "step 1 of 4" in text_of(panel) and "KL to the reference" not in panel._charts.value


STORED = """
import threading, time
from rlkit.runs import RunWriter
from rlkit.widgets import TrainingDashboard
writer = RunWriter({path!r}, config={{"grpo": {{"max_steps": 3}}}})
panel = TrainingDashboard({path!r})
panel"""


def test_a_stored_notebook_keeps_the_last_picture(tmp_path):
    """The run ends two cells later; what the first cell shows without widgets is the end, with its numbers."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    ends = "for s in (1, 2, 3): writer.write_metrics({'step': s, 'reward': s / 7})\nwriter.write_summary({})"
    waits = "while any(t.name == 'rlkit dashboard' for t in threading.enumerate()): time.sleep(0.05)\nprint('ended')"
    cells = [nbformat.v4.new_code_cell(c) for c in (STORED.format(path=str(tmp_path / "run")), ends, waits)]
    book = nbformat.v4.new_notebook(cells=cells)
    nbclient.NotebookClient(book, timeout=120, kernel_name="python3").execute()
    (shown,) = book.cells[0].outputs
    assert "application/vnd.jupyter.widget-view+json" in shown.data
    page = Markup(shown.data["text/html"])
    assert "step 3 of 3, 100 %" in page.text and "finished" in page.text and "svg" in page.tags
    assert f"reward {number(1 / 7)} → {number(3 / 7)}" in page.text
    assert (
        "is finished: step 3 of 3" in shown.data["text/plain"] and book.cells[2].outputs[0].text == "ended\n"
    )
