"""The loop that all trainers share: steps, evaluations, checkpoints, callbacks, and a clean end.

``trainer.train()`` only loops over ``trainer.step()``. However it ends (finished, Ctrl-C or the notebook's
stop button, an error, a power cut) everything up to the last whole step is on disk; ``train(resume=True)`` goes on
from the newest checkpoint.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from rlkit.adapters import adapter_summary
from rlkit.config import TrainingSettings
from rlkit.environment import device_name, versions
from rlkit.errors import ConfigError, TrainingError
from rlkit.export import save_model
from rlkit.memory import MemoryLedger
from rlkit.rollout import Evaluation, Metrics
from rlkit.runs import RunWriter, diagnose, schema
from rlkit.trainers import resume
from rlkit.trainers.callbacks import Callback
from rlkit.trainers.checkpoints import Checkpoint, write_checkpoint
from rlkit.trainers.control import TrainerControl, stoppable_by_hand
from rlkit.trainers.progress import progress
from rlkit.trainers.reporters import make_reporters

_DIAGNOSED_EVERY = 10  # steps


class TrainingLoop:
    """Base class of the trainers; a subclass has ``step``, ``judge`` and ``describe``.

    Attributes:
        control: pause, step and stop, from any thread.
        step_index: steps done.
        evaluations: held-out results so far.
    """

    model: Any
    processing_class: Any
    evaluation_type: type = Evaluation

    def __init__(self, args: TrainingSettings, total_steps: int, callbacks: Sequence[Callback]) -> None:
        self.args: Any = args
        self.total_steps = total_steps
        self.reporters = make_reporters(args.report_to, Path(args.output_dir))
        self.callbacks = [*callbacks, *self.reporters]
        self.control = TrainerControl()
        self.ledger = MemoryLedger(self.model.device)
        self.step_index = 0
        self.train_seconds = 0.0
        self.tokens_sampled = 0
        self.evaluations: list[Any] = []
        self._writer: RunWriter | None = None
        self._history: list[dict[str, Any]] = []  # the step lines, for the diagnoses
        self._said: set[str] = set()
        self._drawers: list[Any] = []  # of dashboards; told when training has ended, however it did

    # -- what a subclass says -------------------------------------------------------------------------

    def step(self) -> Metrics:
        """One whole step; writes it to the run directory."""
        raise NotImplementedError

    def judge(self) -> Any:
        """Held-out results of the present weights; None where there is no held-out data."""
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """What the run directory's ``config.json`` says of this run."""
        raise NotImplementedError

    def prepare(self) -> None:
        """What is done once, before the first step of a run."""

    def outcome(self) -> dict[str, Any]:
        """What the trainer adds to the summary."""
        return {}

    def between_steps(self) -> str:
        """What of an unfinished step is in the weights already; empty where they are those of the last whole step."""
        return ""

    def announcement(self) -> str:
        """What ``train`` says before it starts."""
        return f"{self.total_steps - self.step_index} steps"

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps beside the weights; a subclass adds its own."""
        return resume.loop_state(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` gave."""
        resume.load_loop_state(self, state)

    def what_must_match(self) -> dict[str, Any]:
        """What a run that is resumed must have in common with its beginning; names and plain values."""
        return {
            **resume.settings_that_matter(self.args),
            "lora": adapter_summary(self.model),
            "versions": versions(),
            "device": device_name(str(self.model.device)),
        }

    # -- the run --------------------------------------------------------------------------------------

    @property
    def run(self) -> RunWriter:
        """The run directory's writer; opened at the first write. An older run there is moved aside."""
        if self._writer is None:
            self._took_over = (self.run_dir / schema.CONFIG).exists()
            self._writer = RunWriter(self.args.output_dir, config=self.describe(), overwrite=True)
        return self._writer

    @property
    def run_dir(self) -> Path:
        return Path(self.args.output_dir)

    def stop(self, reason: str = "stopped by the program") -> None:
        """End training after the step that is running."""
        self.control.stop(reason)

    def train(self, *, resume: bool = False, background: bool = False) -> Any:
        """Run to ``total_steps`` (on from where it stopped) and return the summary.

        Ctrl-C, or the notebook's stop button, ends training after the running step; a second one ends it at
        once. Either way all whole steps are written, and the first way leaves a checkpoint.

        Args:
            resume: go on with the run in ``output_dir``, from its newest checkpoint, exactly as if it had not been
                interrupted; from its beginning where it has none yet.
            background: train in a thread and return the ``TrainerControl`` at once, so that a notebook stays
                usable; ``trainer.control.wait()`` returns the summary.

        Raises:
            ConfigError: the run in ``output_dir`` cannot be resumed with this model, data or these settings.
            TrainingError: training is under way already.
        """
        if self.control.alive:
            raise TrainingError(
                "training is under way already, in the background. trainer.control has pause(), step(), stop() and "
                "wait(); to change settings stop it and make a new trainer"
            )
        if resume:
            self._resume()
        if background:
            self.control.in_background(lambda: self._train(background=True))
            return self.control
        return self._train()

    def _resume(self) -> None:
        if self._writer is None:
            resume.resume(self)
        elif self._took_over and not self._began:
            raise ConfigError(
                f"train(resume=True) comes too late: this trainer has begun a new run in {self.run_dir} (evaluate() or "
                f"a step by hand came first), and the earlier run was moved to {self.run_dir}.old-…. Move it back, "
                "make a new trainer, and call train(resume=True) first"
            )  # otherwise this trainer goes on by itself

    def _train(self, background: bool = False) -> dict[str, Any]:
        self.control.begin()
        self._began = True
        ended, summary, failure = "failed", None, None
        try:
            summary = self._whole_training()
            ended = "finished" if summary["status"] == "finished" else "stopped"
            return summary
        except BaseException as error:
            failure = error
            raise
        finally:
            for reporter in self.reporters:
                reporter.close()
            self.control.end(ended, summary, failure if background else None)
            for drawer in self._drawers:
                drawer.close()

    def _whole_training(self) -> dict[str, Any]:
        (self.run.directory / "summary.json").unlink(missing_ok=True)  # a run that goes on is not finished
        if not self.args.disable_tqdm:
            print(self.announcement(), flush=True)
        for callback in self.callbacks:
            callback.on_train_begin(self)
        try:
            with stoppable_by_hand(self.control):
                if not self.step_index and not self._prepared:
                    self._prepared = True
                    self.prepare()
                if not self.evaluations:
                    self.evaluate()
                status = self._steps()
        except KeyboardInterrupt:
            status = f"stopped: interrupted by hand, in the middle of a step{self._partly()}"
        except Exception as error:
            with contextlib.suppress(Exception):  # a failure to save must not hide the error itself
                status = f"stopped: {type(error).__name__}: {error}{self._partly()}"
                self._finish(status, save_model=self.args.save_model)
            raise
        summary = self._finish(status, save_model=self.args.save_model)
        for callback in self.callbacks:
            callback.on_train_end(self, summary)
        return summary

    def _partly(self) -> str:
        """For the summary's status: weights between two steps are no step's."""
        done = self.between_steps()
        return f"; the weights have moved on by {done}" if done else ""

    def _steps(self) -> str:
        """Step after step; returns the summary's status."""
        disable, every = self.args.disable_tqdm, self.args.eval_steps
        with progress(self.total_steps, self.step_index, disable) as bar:
            while self.step_index < self.total_steps and self.control.may_go_on():
                metrics = self.step()
                bar.update(metrics.values)
                self._diagnose(bar, metrics)
                for callback in self.callbacks:
                    callback.on_step_end(self, metrics)
                if every and self.step_index % every == 0 and self.step_index < self.total_steps:
                    self.evaluate()
                if self.args.save_steps and self.step_index % self.args.save_steps == 0:
                    self.save_checkpoint()
        if self.step_index < self.total_steps:
            if self.step_index and self._checkpointed != self.step_index:
                self.save_checkpoint()
            return f"stopped: {self.control.stop_reason}"
        if not self.evaluations or self.evaluations[-1].step != self.step_index:
            self.evaluate()
        return "finished"

    def evaluate(self) -> Any:
        """Judge the model on the held-out data and write the result to the run directory."""
        self.control.check_free("evaluate()")
        evaluation = self.judge()
        if evaluation is None:
            return None
        for earlier in self.evaluations[1:]:
            earlier.forget_tables()  # they are on disk; the first and the newest are kept for comparing
        self.evaluations.append(evaluation)
        for kind, rows in evaluation.tables().items():
            self.run.write_eval(evaluation.step, kind, rows)
        self.run.write_metrics({"event": "eval", "step": evaluation.step, **evaluation.values()})
        for callback in self.callbacks:
            callback.on_evaluate(self, evaluation)
        return evaluation

    _checkpointed = -1  # the step of the newest checkpoint
    _took_over = False  # opening the run directory moved an earlier run aside
    _began = False  # train() has been called
    _prepared = False

    def save_checkpoint(self) -> Path:
        """Write what ``train(resume=True)`` needs to ``<run>/checkpoints``; whole or not at all."""
        self.control.check_free("save_checkpoint()")
        path = write_checkpoint(
            self.run.directory,
            self.step_index,
            model=self.model,
            tokenizer=self.processing_class,
            state={**self.state_dict(), "must_match": self.what_must_match()},
            keep=self.args.save_total_limit,
            position=self.run.position,
        )
        self._checkpointed = self.step_index
        return path

    def after_loading(self, checkpoint: Checkpoint) -> None:
        """What must follow once a checkpoint's weights are in the model."""
        self._checkpointed = checkpoint.step

    def _finish(self, status: str, save_model: bool) -> dict[str, Any]:
        """Write the model and the summary, and return the summary."""
        summary = {
            "status": status,
            "steps": self.step_index,
            "train_seconds": round(self.train_seconds, 3),
            "tokens_sampled": self.tokens_sampled,
            "seed": self.args.seed,
            **self.outcome(),
            "versions": versions(),
            "device": device_name(str(self.model.device)),
        }
        if self.evaluations:
            first, last = self.evaluations[0], self.evaluations[-1]
            after = last if last.step == self.step_index else None  # an interrupted run was not judged again
            before = first if first.step == 0 else None  # steps by hand came before the first evaluation
            for name in first.outcome():
                summary[f"{name}_before"] = before.outcome()[name] if before else None
                summary[f"{name}_after"] = after.outcome()[name] if after else None
            summary["eval_n"] = first.n
        if save_model and self.step_index:
            self.save_model(about=summary)
        self.run.write_summary(summary)
        return summary

    def report(self) -> Path:
        """Write ``report.html`` into the run directory: curves, completions and configuration on one page."""
        from rlkit.runs.report import write_report

        return write_report(self.run_dir)

    def dashboard(self, *compare: Any) -> Any:
        """A live ``TrainingDashboard`` of this training, for a notebook: show it, then ``train(background=True)``.

        Its buttons act through ``control``. While training runs in the foreground they are disabled, and it is drawn
        between two steps. ``compare``: up to four earlier runs beside it.
        """
        from rlkit.widgets.following import dashboard

        return dashboard(self, compare)

    def save_model(self, path: str | Path | None = None, about: dict[str, Any] | None = None) -> Path:
        """Write model (or adapter), tokenizer and model card; whole or not at all.

        ``load_model``, transformers and, for an adapter, peft and vLLM read the folder. Default: ``<run>/model``.
        """
        self.control.check_free("save_model()")
        target = Path(path) if path is not None else self.run_dir / "model"
        return save_model(self.model, self.processing_class, target, {**self.describe(), **(about or {})})

    def close(self) -> None:
        """Close the run directory, and free what a subclass holds; a training in the background is stopped first."""
        if self.control.alive:
            self.control.stop("the trainer was closed")
            self.control.join()
        if self._writer is not None:
            self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # -- inside ---------------------------------------------------------------------------------------

    def _diagnose(self, bar: Any, metrics: Metrics) -> None:
        """Every ten steps say once what has gone wrong."""
        self._history.append(metrics.values)
        if self.step_index % _DIAGNOSED_EVERY == 0 and not self.args.disable_tqdm:
            judged = [{"event": "eval", "step": e.step, **e.values()} for e in self.evaluations]
            for diagnosis in diagnose([*judged, *self._history], self.describe()):
                if diagnosis.severity != "info" and diagnosis.code not in self._said:
                    self._said.add(diagnosis.code)
                    bar.write(str(diagnosis))
