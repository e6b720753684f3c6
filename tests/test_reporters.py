"""`report_to`: what arrives in TensorBoard, and that no reporter can stop training.

TensorBoard is real here: its files are read back by its own reader. wandb and trackio are no dependencies, and
what is held to here (which calls come in which order, and what happens when one of them fails) needs a package that
fails on demand; so a small stand-in takes their place in `sys.modules`. It shows nothing of their real behaviour.
"""

from __future__ import annotations

import importlib.machinery
import math
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import pytest
from small_trainer import PROMPTS, make_trainer

from rlkit.errors import ConfigError
from rlkit.rollout import Evaluation, Metrics
from rlkit.trainers.reporters import REPORTERS, ReportWarning, make_reporters, numbers, reporter_names


def trainer_at(step: int) -> Any:
    """As much of a trainer as a reporter looks at."""
    return types.SimpleNamespace(step_index=step, describe=lambda: {"algorithm": "GRPO", "beta": 0.0})


def step(number: int, **values: Any) -> Metrics:
    return Metrics(number, {"step": number, **values})


def evaluation(at: int, accuracy: float | None = 0.5) -> Evaluation:
    return Evaluation(at, 8, accuracy, accuracy, 1.0, 0.9, 0.1, rows_greedy=[{"reward": 1.0}])


def points(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Every curve as TensorBoard's own reader sees it."""
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    ).EventAccumulator(str(run / "tensorboard"))
    accumulator.Reload()
    tags = accumulator.Tags()
    found = {tag: [(e.step, e.value) for e in accumulator.Scalars(tag)] for tag in tags["scalars"]}
    return found | {tag: [] for tag in tags["tensors"]}


# ---------------------------------------------------------------------------------------- which ones


@pytest.mark.parametrize("report_to", [None, "none", [], ["none"], ()])
def test_none(report_to: Any, tmp_path: Path) -> None:
    assert make_reporters(report_to, tmp_path) == []


def test_names_once_each() -> None:
    assert reporter_names(["tensorboard", "tensorboard"]) == reporter_names("tensorboard") == ["tensorboard"]


@pytest.mark.parametrize(
    "report_to, says",
    [
        ("tensorbord", "Did you mean 'tensorboard'"),
        (["tensorboard", "mlflow"], "unknown reporter in report_to 'mlflow'"),
        (["none", "tensorboard"], '"none" is alone'),
        (3, "report_to=3 is not usable"),
        ([None], r"report_to=\[None\] is not usable"),
        ({"tensorboard": True}, "is not usable"),
    ],
)
def test_what_is_no_reporter(report_to: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        reporter_names(report_to)


def test_a_package_that_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match="needs the package wandb.*pip install wandb"):
        make_reporters(["tensorboard", "wandb"], tmp_path)
    assert "wandb" not in reporter_names("all")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_no_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """wandb leaves a folder of its name behind, which Python would import as an empty package."""
    (tmp_path / "wandb").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    with pytest.raises(ConfigError, match="not installed"):
        reporter_names("wandb")


def test_a_broken_installation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = tmp_path / "site"
    package.mkdir()
    (package / "wandb.py").write_text("raise RuntimeError('built for another Python')")
    for name in ("tensorboard", "trackio"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.syspath_prepend(str(package))
    with pytest.raises(ConfigError, match="built for another Python.*--force-reinstall wandb"):
        make_reporters("wandb", tmp_path / "run")
    with pytest.warns(ReportWarning, match="wandb is left out"):
        assert make_reporters("all", tmp_path / "run") == []


def test_numbers() -> None:
    import numpy as np
    import torch

    values = {
        "step": 3,
        "loss": np.float32(0.5),
        "kl": None,
        "nan": math.nan,
        "norm": torch.tensor(2.0),
        "skipped": False,
        "text": "no",
        "rows": [1],
        "vector": torch.ones(2),
        "inf": math.inf,
    }
    assert numbers(values) == {"loss": 0.5, "norm": 2.0, "skipped": 0, "inf": math.inf}


# --------------------------------------------------------------------------------------- TensorBoard


def test_tensorboard_has_what_the_run_directory_has(tmp_path: Path) -> None:
    from rlkit.runs import Run

    run = tmp_path / "run"
    reporters = make_reporters("tensorboard", run)
    assert not run.exists()
    judged_by = {"callbacks": reporters, "eval_dataset": PROMPTS[:3]}
    make_trainer(tmp_path, judged_by=judged_by, eval_steps=2, max_steps=3).train()
    found = points(run)
    written = Run(run)
    for name in ("reward", "loss", "grad_norm", "rewards/token_sum", "seconds/rollout"):
        steps, values = written.column(name)
        assert [at for at, _ in found[name]] == list(steps) == [1, 2, 3]
        assert [value for _, value in found[name]] == pytest.approx(list(values), rel=1e-6)
    assert [at for at, _ in found["eval/reward_greedy"]] == [0, 2, 3]
    assert "kl" not in found  # None without a KL term
    assert "config/text_summary" in found and "summary/text_summary" in found


def test_a_resumed_run_replaces_the_steps_that_it_repeats(tmp_path: Path) -> None:
    """The first process came to step 4, its checkpoint was of step 2."""
    for start, stop, reward in ((0, 4, 0.0), (2, 5, 1.0)):
        (reporter,) = make_reporters("tensorboard", tmp_path)
        reporter.on_train_begin(trainer_at(start))
        for number in range(start + 1, stop + 1):
            reporter.on_step_end(trainer_at(number), step(number, reward=reward))
        reporter.close()
        reporter.close()
    assert points(tmp_path)["reward"] == [(1, 0), (2, 0), (3, 1), (4, 1), (5, 1)]


def test_a_new_run_in_an_old_folder_starts_from_nothing(tmp_path: Path) -> None:
    for reward in (0.0, 1.0):
        (reporter,) = make_reporters("tensorboard", tmp_path)
        reporter.on_train_begin(trainer_at(0))
        reporter.on_evaluate(trainer_at(0), evaluation(0, reward))
        reporter.on_step_end(trainer_at(1), step(1, reward=reward))
        reporter.close()
    found = points(tmp_path)
    assert found["reward"] == [(1, 1)] and found["eval/accuracy_greedy"] == [(0, 1)]


def test_training_that_goes_on_in_the_same_process(tmp_path: Path) -> None:
    """Interrupted before its first step: the evaluation of step 0 is not made again and must stay."""
    (reporter,) = make_reporters("tensorboard", tmp_path)
    reporter.on_evaluate(trainer_at(0), evaluation(0))  # by hand, before training
    for _ in range(2):
        reporter.on_train_begin(trainer_at(0))
        reporter.on_train_end(trainer_at(0), {"status": "stopped"})
    assert points(tmp_path)["eval/accuracy_greedy"] == [(0, 0.5)]


def test_what_cannot_be_written_is_said_before_training(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").write_text("a file where the folder should be")
    (reporter,) = make_reporters("tensorboard", tmp_path)
    with pytest.raises(ConfigError, match="report_to: tensorboard does not start"):
        reporter.on_train_begin(trainer_at(0))
    reporter.close()


# ------------------------------------------------------------------------- wandb and trackio, stand-ins


class FakeRun:
    """Writes down what is called; `failing` is the call that raises."""

    def __init__(self, calls: list, failing: str | None, settings: dict[str, Any]) -> None:
        self.calls, self.failing, self.id = calls, failing, settings.get("id") or f"id{len(calls)}"
        self.config = self.summary = types.SimpleNamespace(update=lambda *a, **k: self._call("update", *a))

    def _call(self, name: str, *arguments: Any, **settings: Any) -> None:
        self.calls.append((name, *arguments, settings) if settings else (name, *arguments))
        if name == self.failing:
            raise ConnectionError("the network is gone")

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments, **settings: self._call(name, *arguments, **settings)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put a stand-in for a package in place; returns it, with its list of calls."""

    def install(name: str, failing: str | None = None) -> Any:
        module: Any = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None, origin="a stand-in")
        module.calls, module.run = [], None

        def init(**settings: Any) -> FakeRun:
            module.calls.append(("init", settings))
            if failing == "init":
                raise ConnectionError("no key")
            module.last = FakeRun(module.calls, failing, settings)
            return module.last

        module.init = init
        module.finish = lambda: module.last.finish()
        current = types.SimpleNamespace(get=lambda: module.last)
        module.context_vars = types.SimpleNamespace(current_run=current)
        monkeypatch.setitem(sys.modules, name, module)
        return module

    return install


def whole_run(reporter: Any, start: int = 0) -> None:
    reporter.on_train_begin(trainer_at(start))
    reporter.on_evaluate(trainer_at(start), evaluation(start, None))
    reporter.on_step_end(trainer_at(start + 1), step(start + 1, reward=0.5, kl=None))
    reporter.on_train_end(trainer_at(start + 1), {"status": "finished", "steps": start + 1})
    reporter.close()


def test_wandb_calls_and_its_id(fake: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    wandb, run = fake("wandb"), tmp_path / "demo"
    whole_run(*make_reporters("wandb", run))
    (_, settings), *rest = wandb.calls
    config = {"algorithm": "GRPO", "beta": 0.0}
    assert settings == dict(
        project="rlkit", name="demo", config=config, dir=str(run), id=None, resume="allow"
    )
    judged = {"eval/n": 8, "eval/reward_greedy": 1.0, "eval/reward_sampled": 0.9, "eval/seconds": 0.1}
    assert rest == [
        ("define_metric", "*", {"step_metric": "step"}),
        ("log", {**judged, "step": 0}),
        ("log", {"reward": 0.5, "step": 1}),
        ("update", {"status": "finished", "steps": 1}),
        ("finish", {"exit_code": 0}),
    ]
    kept = (run / "wandb_id").read_text().strip()
    assert kept == wandb.last.id

    wandb.calls.clear()
    whole_run(*make_reporters("wandb", run), start=1)  # resumed: the same page
    assert wandb.calls[0][1]["id"] == kept
    wandb.calls.clear()
    whole_run(*make_reporters("wandb", run), start=0)  # a new run in the same folder: a new one
    assert wandb.calls[0][1]["id"] is None


def test_wandb_uses_a_run_that_is_open(fake: Any, tmp_path: Path) -> None:
    wandb = fake("wandb")
    wandb.run = wandb.init(id="theirs")
    whole_run(*make_reporters("wandb", tmp_path))
    names = [name for name, *_ in wandb.calls]
    assert names.count("init") == 1 and "finish" not in names and names.count("log") == 2


def test_trackio_calls(fake: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_PROJECT", "mine")
    trackio = fake("trackio")
    (reporter,) = make_reporters(["trackio"], tmp_path / "demo")
    whole_run(reporter)
    (_, settings), *rest = trackio.calls
    assert (settings["project"], settings["name"], settings["resume"]) == ("mine", "demo", "never")
    assert rest[1:] == [
        ("log", {"reward": 0.5}, {"step": 1}),
        ("log", {"summary/steps": 1}, {"step": 1}),
        ("finish",),
    ]
    whole_run(*make_reporters("trackio", tmp_path / "demo"), start=1)
    assert trackio.calls[5][1]["resume"] == "allow"


@pytest.mark.parametrize("name", ["wandb", "trackio"])
@pytest.mark.parametrize("failing", ["log", "finish"])
def test_a_failing_reporter_does_not_stop_training(
    fake: Any, tmp_path: Path, name: str, failing: str
) -> None:
    package = fake(name, failing)
    reporters = make_reporters([name, "tensorboard"], tmp_path / "run")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        summary = make_trainer(tmp_path, judged_by={"callbacks": reporters}, max_steps=3).train()
    said = [str(w.message) for w in caught if issubclass(w.category, ReportWarning)]
    assert len(said) == 1 and f"{name} failed and is switched off" in said[0] and "network is gone" in said[0]
    assert summary["status"] == "finished"
    calls = [call for call, *_ in package.calls]
    assert calls.count("log") == (1 if failing == "log" else 3 + (name == "trackio"))
    assert (
        calls[-1] == "finish" and calls.count("finish") == 1
    )  # what was sent before it is still written out
    assert len(points(tmp_path / "run")["reward"]) == 3


def test_asked_for_by_name_it_must_start(fake: Any, tmp_path: Path) -> None:
    fake("wandb", "init")
    (reporter,) = make_reporters("wandb", tmp_path)
    with pytest.raises(ConfigError, match="wandb does not start.*no key.*wandb login"):
        reporter.on_train_begin(trainer_at(0))
    assert not (tmp_path / "wandb_id").exists()


def test_among_all_it_may_stay_away(fake: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = fake("wandb", "init")
    for name in {"tensorboard", "trackio"}:
        monkeypatch.setitem(sys.modules, name, None)
    (reporter,) = make_reporters("all", tmp_path)
    with pytest.warns(ReportWarning, match="wandb failed"):
        reporter.on_train_begin(trainer_at(0))
    reporter.on_step_end(trainer_at(1), step(1, reward=1.0))
    reporter.close()
    assert [name for name, *_ in wandb.calls] == ["init"]


def test_an_error_or_ctrl_c_closes_as_failed(fake: Any, tmp_path: Path) -> None:
    """`close` without `on_train_end` is what a trainer calls when training raised."""
    wandb = fake("wandb")
    (reporter,) = make_reporters("wandb", tmp_path)
    reporter.on_train_begin(trainer_at(0))
    reporter.close()
    reporter.close()
    assert wandb.calls[-1] == ("finish", {"exit_code": 1})
    assert [name for name, *_ in wandb.calls].count("finish") == 1
    assert set(REPORTERS) == {"tensorboard", "trackio", "wandb"}
