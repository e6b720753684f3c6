"""However training ends: finished, interrupted, broken, out of finite numbers; on disk is what was."""

from __future__ import annotations

import os
import signal

import pytest
import torch
from safetensors.torch import load_file
from small_trainer import PROMPTS, make_trainer, weights_of

from rlkit import Callback, Run
from rlkit.errors import TrainingError


class Interrupt(Callback):
    """Press Ctrl-C after a step."""

    def __init__(self, at: int, times: int = 1) -> None:
        self.at = at
        self.times = times

    def on_step_end(self, trainer, metrics):
        if metrics.step == self.at:
            for _ in range(self.times):
                os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_writes_everything(tmp_path, times):
    before = signal.getsignal(signal.SIGINT)
    trainer = make_trainer(tmp_path, max_steps=50, save_model=True)
    trainer.callbacks.append(Interrupt(at=2, times=times))
    summary = trainer.train()
    assert summary["steps"] == 2
    assert "interrupted by hand" in summary["status"]
    run = Run(trainer.run_dir)
    assert run.steps == [1, 2]
    assert run.summary["status"] == summary["status"]
    assert (trainer.run_dir / "model" / "model.safetensors").exists()
    assert signal.getsignal(signal.SIGINT) is before
    trainer.total_steps, trainer.callbacks = 4, []
    assert trainer.train()["steps"] == 4, "it goes on from where it stopped"


def test_an_interrupt_inside_a_step_leaves_whole_steps_and_matching_weights(tmp_path):
    """Twice Ctrl-C while the gradient is computed, and once while the step is being recorded."""
    trainer = make_trainer(tmp_path, max_steps=50, save_model=True)
    gradient = trainer.policy._gradient

    def interrupted(*args):
        if trainer.step_index == 2:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        return gradient(*args)

    trainer.policy._gradient = interrupted
    summary = trainer.train()
    run = Run(trainer.run_dir)
    assert "in the middle of a step" in summary["status"]
    assert summary["steps"] == 2
    assert run.steps == [1, 2]
    saved = load_file(trainer.run_dir / "model" / "model.safetensors")
    assert all(torch.equal(tensor, trainer.model.state_dict()[name]) for name, tensor in saved.items())
    trainer.policy._gradient = gradient

    record = trainer.record

    def interrupted_record(*args):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        record(*args)

    trainer.record = interrupted_record
    assert trainer.train()["steps"] == 3
    assert run.steps == [1, 2, 3]


def test_an_interrupt_between_two_optimizer_steps_of_one_rollout_is_told(tmp_path):
    """μ = 3: the second Ctrl-C comes after the first of step 2's three optimizer steps."""
    trainer = make_trainer(tmp_path, max_steps=50, num_iterations=3)
    apply, calls = trainer.policy.optimizer.step, []

    def interrupted():
        calls.append(trainer.step_index)
        if len(calls) == 5:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        return apply()

    trainer.policy.optimizer.step = interrupted
    summary = trainer.train()
    assert summary["steps"] == 1
    assert summary["status"].endswith("the weights have moved on by 1 of the 3 optimizer steps of step 2")
    assert not list(trainer.run_dir.glob("checkpoints/step_000002*"))
    trainer.policy.optimizer.step = apply
    trainer.stop("enough")
    assert "moved on" not in trainer.train()["status"]


def test_a_non_finite_gradient_skips_the_step_and_keeps_the_batch(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=10)
    poison = trainer.model.model.norm.weight.register_hook(lambda gradient: gradient * float("nan"))
    before = weights_of(trainer.model)
    with pytest.warns(RuntimeWarning, match="the gradient is not finite; the update is skipped"):
        assert trainer.step()["skipped"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in trainer.model.state_dict().items())
    kept = torch.load(trainer.run_dir / "nonfinite" / "step_000001.pt", weights_only=False)
    assert len(kept["batch"]) == 16
    assert kept["rollout"].completions[0].text == kept["rollout"].groups[0][0].text
    assert kept["advantages"].values.shape == (4, 4)
    poison.remove()
    assert not trainer.step()["skipped"], "one bad batch does not end a run"
    trainer.model.model.norm.weight.register_hook(lambda gradient: gradient * float("nan"))
    with pytest.warns(RuntimeWarning), pytest.raises(TrainingError, match="3 non-finite gradients in a row"):
        trainer.train()
    run = Run(trainer.run_dir)
    assert run.steps == [1, 2, 3, 4]  # the third bad one in a row is not a step
    assert run.status.startswith("stopped: TrainingError")
    assert len(list((trainer.run_dir / "nonfinite").iterdir())) == 4


def test_a_reward_that_breaks_in_the_middle_leaves_a_readable_run(tmp_path):
    calls = []

    def fragile(completions, **columns):
        calls.append(len(completions))
        if len(calls) > 3:  # the trial call, two steps, then
            raise ZeroDivisionError("oh")
        return [0.0] * len(completions)

    trainer = make_trainer(tmp_path, fragile, save_model=True)
    with pytest.raises(Exception, match="'fragile' raised ZeroDivisionError"):
        trainer.train()
    run = Run(trainer.run_dir)
    assert run.steps == [1, 2]
    assert "fragile" in run.status
    assert (trainer.run_dir / "model" / "model.safetensors").exists(), "what was learned is not lost"


def test_callbacks_can_stop_a_run_and_see_evaluations(tmp_path):
    seen = []

    class Stop(Callback):
        def on_evaluate(self, trainer, evaluation):
            seen.append(evaluation.step)
            if evaluation.step == 2:
                trainer.stop("enough")

    judged_by = {
        "eval_dataset": PROMPTS[:3],
        "callbacks": [Stop()],
        "verifier": lambda completion, answer, **columns: completion == answer,
    }
    trainer = make_trainer(tmp_path, max_steps=9, eval_steps=1, judged_by=judged_by)
    summary = trainer.train()
    assert seen == [0, 1, 2]
    assert summary["status"] == "stopped: enough"
    assert summary["accuracy_after"] is not None  # the last step was judged before the stop


def test_training_announces_itself_and_says_once_what_goes_wrong(tmp_path, capsys):
    def same_for_all(completions, **columns):
        return [1.0] * len(completions)

    trainer = make_trainer(tmp_path, same_for_all, max_steps=20, disable_tqdm=False)
    trainer.train()
    out, err = capsys.readouterr()
    assert "12 rows, 4 prompts a step × 4 completions = 16 rows a step: 20 steps" in out
    assert "weights: same module" in out
    said = [line for line in (out + err).splitlines() if "Every completion got the same reward" in line]
    assert len(said) == 1, out + err
