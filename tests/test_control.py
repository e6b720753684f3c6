"""TrainerControl: pause, step, stop and background training, between steps and from other threads."""

from __future__ import annotations

import threading
import time

import pytest
from small_trainer import make_trainer, token_sum

from rlkit.errors import ConfigError, TrainingError
from rlkit.runs import Run
from rlkit.trainers.callbacks import Callback

SOON = 60  # seconds; nothing waits that long unless it is broken


class Gate(Callback):
    """Lets a step end only when it is told to."""

    def __init__(self):
        self.steps = threading.Semaphore(0)

    def on_step_end(self, trainer, metrics):
        assert self.steps.acquire(timeout=SOON)


def wait_for(condition):
    end = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def test_background_training_gives_the_same_run_as_the_foreground(tmp_path):
    front, back = make_trainer(tmp_path / "front"), make_trainer(tmp_path / "back")
    expected = front.train()
    control = back.train(background=True)
    assert control is back.control
    summary = control.wait(SOON)
    assert control.state == "finished"
    assert summary["status"] == expected["status"] == "finished"
    drawn = [[step["reward"], step["loss"], step["grad_norm"]] for step in Run(back.run_dir).metrics]
    assert drawn == [[step["reward"], step["loss"], step["grad_norm"]] for step in Run(front.run_dir).metrics]


def test_pause_step_resume_and_stop(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=1000)
    control = trainer.control
    control.pause()  # before it starts: not a single step is made
    trainer.train(background=True)
    assert control.wait_until_paused(SOON) and control.state == "paused"
    assert trainer.step_index == 0
    control.step()
    wait_for(lambda: trainer.step_index == 1)
    assert control.wait_until_paused(SOON)
    control.step(3)
    assert control.wait_until_paused(SOON)  # not fooled by the pause that it has just left
    assert trainer.step_index == 4
    control.resume()
    wait_for(lambda: trainer.step_index > 6)
    control.stop("seen enough")
    summary = control.wait(SOON)
    assert summary["status"] == "stopped: seen enough"
    assert control.state == "stopped" and not control.alive
    assert summary["steps"] == trainer.step_index == Run(trainer.run_dir).steps[-1]
    assert (trainer.run_dir / "checkpoints" / f"step_{trainer.step_index:06d}").is_dir()


def test_a_paused_training_can_be_stopped_and_started_again(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=6)
    trainer.control.pause()
    trainer.train(background=True)
    assert trainer.control.wait_until_paused(SOON)
    trainer.control.stop()
    assert trainer.control.wait(SOON)["steps"] == 0
    trainer.control.resume()
    assert trainer.train()["steps"] == 6


def test_model_and_engine_are_not_shared_with_a_running_training(tmp_path):
    """While a step runs the notebook gets an error; while paused it may look."""
    gate = Gate()
    trainer = make_trainer(tmp_path, max_steps=3, judged_by={"callbacks": [gate]})
    control = trainer.train(background=True)
    wait_for(lambda: trainer.step_index == 1)
    for touch in (
        trainer.rollout,
        trainer.sync,
        trainer.evaluate,
        trainer.save_model,
        trainer.save_checkpoint,
    ):
        with pytest.raises(TrainingError, match="in the background"):
            touch()
    with pytest.raises(TrainingError, match="under way already"):
        trainer.train()
    control.pause()
    gate.steps.release()
    assert control.wait_until_paused(SOON)
    assert len(trainer.rollout()) == 16
    control.resume()
    gate.steps.release(5)
    assert control.wait(SOON)["status"] == "finished"


def test_an_error_in_the_background_is_raised_where_one_waits(tmp_path, capsys):
    calls = []

    def fails_later(completions, completion_ids, **columns):
        calls.append(1)
        if len(calls) > 3:
            raise ValueError("the judge has left")
        return token_sum(completions, completion_ids)

    trainer = make_trainer(tmp_path, fails_later, max_steps=50)
    control = trainer.train(background=True)
    with pytest.raises(Exception, match="the judge has left"):
        control.wait(SOON)
    assert control.state == "failed"
    assert "the judge has left" in capsys.readouterr().out
    assert "the judge has left" in Run(trainer.run_dir).summary["status"]


def test_waiting_can_be_given_up(tmp_path):
    gate = Gate()
    trainer = make_trainer(tmp_path, max_steps=1, judged_by={"callbacks": [gate]})
    control = trainer.train(background=True)
    assert control.wait(0.01) is None
    gate.steps.release()
    assert control.wait(SOON)["steps"] == 1


def test_closing_a_trainer_stops_its_training_first(tmp_path):
    with make_trainer(tmp_path, max_steps=10_000) as trainer:
        control = trainer.train(background=True)
        wait_for(lambda: trainer.step_index >= 2)
    assert control.state == "stopped"
    assert control.wait()["status"] == "stopped: the trainer was closed"
    assert Run(trainer.run_dir).steps[-1] == trainer.step_index


def test_zero_steps_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="count"):
        make_trainer(tmp_path).control.step(0)


@pytest.mark.engine
@pytest.mark.slow
def test_vllm_generates_in_the_background_thread(tmp_path):
    with make_trainer(tmp_path, fast_inference=True, max_steps=2) as trainer:
        summary = trainer.train(background=True).wait(240)
        assert summary["status"] == "finished"
        assert summary["weight_sync"] == "shared"


def test_a_stop_is_not_lost_while_the_thread_starts(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=10_000)
    begin = trainer.control.begin
    trainer.control.begin = lambda: (time.sleep(0.2), begin())
    trainer.train(background=True).stop("at once")
    assert trainer.control.wait(SOON)["status"] == "stopped: at once"
