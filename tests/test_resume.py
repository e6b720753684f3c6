"""Exact resume: killed at any moment, a run goes on and ends with the numbers that it would have had."""

from __future__ import annotations

import json
import multiprocessing
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from resumable import MOMENTS, STEPS, lines, train
from small_trainer import PROMPTS, make_trainer, small_model

from rlkit.errors import ConfigError
from rlkit.runs import Run
from rlkit.trainers.resume import ResumeWarning

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is a POSIX signal")


@pytest.fixture(scope="module")
def processes():
    """Fresh processes that have imported torch and transformers already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "transformers", "rlkit.trainers.grpo", "resumable"])
    return context


def in_a_process(processes, **arguments) -> int:
    """``train`` in a process of its own; its exit code."""
    process = processes.Process(target=train, kwargs=arguments)
    process.start()
    process.join(120)
    assert process.exitcode is not None, f"{arguments} did not end"
    return process.exitcode


@pytest.fixture(scope="module")
def uninterrupted(processes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    assert in_a_process(processes, folder=str(folder)) == 0
    return lines(folder)


def twenty_moments() -> list[tuple[str, int]]:
    """Every moment once early, and eight more at random."""
    chosen = random.Random(20)
    return [(moment, 1) for moment in MOMENTS] + [
        (chosen.choice(MOMENTS), chosen.randint(2, 3)) for _ in range(20 - len(MOMENTS))
    ]


@pytest.mark.parametrize("moment, occurrence", twenty_moments())
def test_killed_at_any_moment_a_run_ends_as_if_it_had_not_been(
    processes, uninterrupted, tmp_path, moment, occurrence
):
    folder = str(tmp_path)
    if moment in (
        "rollout",
        "scoring",
        "backward",
        "before the optimizer",
        "after the optimizer",
        "sample write",
    ):
        occurrence *= 4  # several a step: get past the first checkpoint
    exitcode = in_a_process(processes, folder=folder, moment=moment, occurrence=occurrence)
    assert exitcode == -signal.SIGKILL
    before = [line for line in lines(folder) if line["event"] == "step"] if Run_exists(folder) else []
    assert in_a_process(processes, folder=folder, resume=True) == 0
    after = lines(folder)
    assert after == uninterrupted  # bit for bit: JSON keeps every digit of a float
    assert all(line in after for line in before)  # no finished step was lost
    run = Run(tmp_path / "run")
    assert run.status == "finished" and run.unreadable_lines == 0
    assert run.sample_steps == list(range(1, STEPS + 1))
    for step in run.sample_steps:
        assert len(run.samples(step)) == 16
    assert run.summary["accuracy_before"] is not None
    kept = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert [name for name in kept if not name.startswith(".")] == ["step_000006", "step_000008"]


def Run_exists(folder: str) -> bool:
    return (Path(folder) / "run" / "config.json").exists()


def test_a_run_that_is_killed_again_and_again_gets_there(processes, uninterrupted, tmp_path):
    kills = 0
    for occurrence in (3, 5, 4, 6, 5, 7):
        code = in_a_process(
            processes,
            folder=str(tmp_path),
            moment="after the optimizer",
            occurrence=occurrence,
            resume=kills > 0,
        )
        kills += code == -signal.SIGKILL
        if code == 0:
            break
    assert kills >= 3
    assert in_a_process(processes, folder=str(tmp_path), resume=True) == 0
    assert lines(tmp_path) == uninterrupted


@pytest.mark.parametrize(
    "settings",
    [
        {"beta": 0.1},
        {"dynamic_sampling_tries": 2},
        {"num_iterations": 2, "steps_per_generation": 1},
        {
            "dtype": "bfloat16",
            "learning_rate": 1e-5,
        },  # what each step moves shows in the master weights alone
    ],
    ids=["reference model", "dynamic sampling", "two passes", "master weights"],
)
def test_other_settings_resume_exactly_too(processes, tmp_path, settings):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        folder.mkdir()
    assert in_a_process(processes, folder=str(whole), **settings) == 0
    moment = {"moment": "after the optimizer", "occurrence": 9}
    assert in_a_process(processes, folder=str(cut), **moment, **settings) == -signal.SIGKILL
    assert in_a_process(processes, folder=str(cut), resume=True, **settings) == 0
    assert lines(cut) == lines(whole)


@pytest.mark.engine
@pytest.mark.slow
def test_vllm_resumes_bit_for_bit_on_a_cpu(tmp_path):
    """Sampling is seeded by step, prompt and completion, and the batch is the same: so are its numbers."""
    arguments = {"fast_inference": True}
    for name, kill in (("whole", {}), ("cut", {"moment": "after the optimizer", "occurrence": 9})):
        (tmp_path / name).mkdir()
        code = _command({"folder": str(tmp_path / name), **arguments, **kill})
        assert code == (-signal.SIGKILL if kill else 0)
    assert _command({"folder": str(tmp_path / "cut"), "resume": True, **arguments}) == 0
    assert lines(tmp_path / "cut") == lines(tmp_path / "whole")


def _command(arguments: dict) -> int:
    return subprocess.run(
        [sys.executable, "tests/resumable.py", json.dumps(arguments)],
        cwd=Path(__file__).parent.parent,
        timeout=280,
    ).returncode


# -- what is asked for, and what is refused ----------------------------------------------------------


def stopped_run(tmp_path, **settings):
    trainer = make_trainer(tmp_path, max_steps=6, **settings)
    trainer.control.pause()
    trainer.train(background=True)
    assert trainer.control.wait_until_paused(60)
    trainer.control.step(3)
    assert trainer.control.wait_until_paused(60)
    trainer.control.stop("enough for today")
    trainer.control.wait(60)
    trainer.close()
    return trainer


def test_a_stopped_run_leaves_a_checkpoint_and_goes_on_from_it(tmp_path, capsys):
    stopped_run(tmp_path)
    checkpoint = tmp_path / "run" / "checkpoints" / "step_000003"
    assert checkpoint.is_dir()
    again = make_trainer(tmp_path, max_steps=6)
    summary = again.train(resume=True)
    assert "after step 3" in capsys.readouterr().out
    assert summary["steps"] == 6
    run = Run(tmp_path / "run")
    assert run.steps == [1, 2, 3, 4, 5, 6]
    assert any("resumed after step 3" in note for note in run.notes)
    whole = make_trainer(tmp_path / "whole", max_steps=6)
    whole.train()
    assert [step["loss"] for step in run.metrics] == [
        step["loss"] for step in Run(tmp_path / "whole" / "run").metrics
    ]


def test_the_checkpoints_model_can_be_loaded(tmp_path):
    from rlkit import load_model

    trainer = stopped_run(tmp_path)
    model, _ = load_model(tmp_path / "run" / "checkpoints" / "step_000003" / "model")
    for (name, ours), loaded in zip(trainer.model.named_parameters(), model.parameters(), strict=True):
        assert (ours == loaded).all(), name


def test_without_a_run_training_just_begins(tmp_path, capsys):
    assert make_trainer(tmp_path, max_steps=2).train(resume=True)["steps"] == 2
    assert "there is no run" in capsys.readouterr().out


def test_a_changed_setting_model_or_data_set_is_named_and_refused(tmp_path):
    stopped_run(tmp_path, beta=0.1)
    for changed, words in (
        ({"learning_rate": 5e-4}, ["learning_rate: 0.001 → 0.0005"]),
        ({"num_generations": 8}, ["num_generations: 4 → 8"]),
        ({"dataset": PROMPTS[:-1]}, ["train_dataset"]),
        ({"model": small_model(seed=5)}, ["base model"]),
    ):
        with pytest.raises(ConfigError) as refused:
            make_trainer(tmp_path, max_steps=6, **{"beta": 0.1, **changed}).train(resume=True)
        assert all(word in str(refused.value) for word in words), refused.value
    assert Run(tmp_path / "run").steps == [1, 2, 3]  # a refusal touches nothing
    assert (
        make_trainer(tmp_path, max_steps=7, beta=0.1).train(resume=True)["steps"] == 7
    )  # more steps may be asked for


def test_other_versions_are_warned_of(tmp_path, monkeypatch):
    stopped_run(tmp_path)
    from rlkit.trainers import loop

    monkeypatch.setattr(loop, "versions", lambda: {"torch": "1.0"})
    with pytest.warns(ResumeWarning, match="not bit for bit"):
        make_trainer(tmp_path, max_steps=6).train(resume=True)


def test_a_trainer_that_was_stopped_goes_on_by_itself(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=4)
    trainer.step()
    trainer.stop()  # forgotten when training starts
    assert trainer.train(resume=True)["steps"] == 4
    assert Run(trainer.run_dir).steps == [1, 2, 3, 4]


def test_a_resume_at_a_perturbation_check_leaves_the_run_where_it_is(tmp_path):
    """The check writes a line; the run directory is not reopened yet while weights are being loaded."""
    from rlkit.engines import SyncReport

    def trainer():
        made = make_trainer(tmp_path, max_steps=6, save_steps=2, sync_check_steps=2)
        made.generation.prove = lambda: SyncReport("reload", 0, 0.0, 0.0, 1.0, True)
        return made

    first = trainer()
    first.control.pause()
    first.train(background=True)
    first.control.step(4)
    assert first.control.wait_until_paused(60)
    first.control.stop()
    first.close()
    assert trainer().train(resume=True)["steps"] == 6
    assert Run(tmp_path / "run").steps == [1, 2, 3, 4, 5, 6]
    assert not list(tmp_path.glob("run.old-*"))


def test_evaluating_first_does_not_begin_anew_without_a_word(tmp_path):
    stopped_run(tmp_path)
    trainer = make_trainer(tmp_path, max_steps=6, judged_by={"eval_dataset": PROMPTS[:2]})
    trainer.evaluate()
    with pytest.raises(ConfigError, match="comes too late"):
        trainer.train(resume=True)


def test_more_steps_go_on_at_the_new_schedules_rate(tmp_path):
    make_trainer(tmp_path, max_steps=2, save_steps=1, lr_scheduler_type="linear").train()
    make_trainer(tmp_path, max_steps=4, save_steps=1, lr_scheduler_type="linear").train(resume=True)
    rates = [step["learning_rate"] for step in Run(tmp_path / "run").metrics]
    assert rates == pytest.approx([1e-3, 5e-4, 5e-4, 2.5e-4])


def test_a_finished_run_without_a_checkpoint_is_not_trained_again(tmp_path):
    make_trainer(tmp_path, max_steps=2).train()
    with pytest.raises(ConfigError, match="has finished"):
        make_trainer(tmp_path, max_steps=3).train(resume=True)


def test_another_adapter_scale_is_refused(tmp_path):
    from rlkit import add_lora

    def with_lora(alpha):
        model, tokenizer = small_model()
        return make_trainer(
            tmp_path, model=(add_lora(model, r=2, lora_alpha=alpha), tokenizer), max_steps=3, save_steps=2
        )

    with_lora(8).train()
    with pytest.raises(ConfigError, match="lora"):
        with_lora(64).train(resume=True)
    assert with_lora(8).train(resume=True)["steps"] == 3


def test_a_step_that_fails_keeps_no_prompts(tmp_path):
    left = [2]

    def fails_once(completions, completion_ids, **columns):
        left[0] -= len(completions) == 16
        if left[0] == 0:
            raise ValueError("once")
        return [float(sum(ids) % 7) for ids in completion_ids]

    trainer = make_trainer(tmp_path, fails_once, max_steps=4)
    with pytest.raises(Exception, match="once"):
        trainer.train()
    assert trainer._order.position == 4 and trainer._rollouts == 1
    assert trainer.train()["steps"] == 4
    whole = make_trainer(tmp_path / "whole", max_steps=4)
    whole.train()
    losses = [[step["loss"] for step in Run(t.run_dir).metrics] for t in (trainer, whole)]
    assert losses[0] == losses[1]
