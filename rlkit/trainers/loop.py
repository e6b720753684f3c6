"""The loop that all trainers share: steps, evaluations, callbacks, a progress bar, and a clean end.

``trainer.train()`` only loops over ``trainer.step()``. However it ends (finished, Ctrl-C or the notebook's
stop button, an error) everything up to the last whole step is on disk, with a summary that says why.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from rlkit.environment import device_name, versions
from rlkit.models import quiet_transformers
from rlkit.rollout import Evaluation, Metrics
from rlkit.runs import RunWriter, diagnose
from rlkit.trainers.callbacks import Callback
from rlkit.trainers.record import eval_values

_DIAGNOSED_EVERY = 10  # steps


class LoopSettings(Protocol):
    """What the loop needs of a trainer's settings."""

    output_dir: str
    seed: int
    eval_steps: int | None
    save_model: bool
    disable_tqdm: bool


class TrainingLoop:
    """Base class of the trainers; a subclass has ``step``, ``judge`` and ``describe``."""

    model: Any
    processing_class: Any

    def __init__(self, args: LoopSettings, total_steps: int, callbacks: Sequence[Callback]) -> None:
        self.args: Any = args
        self.total_steps = total_steps
        self.callbacks = list(callbacks)
        self.step_index = 0
        self.train_seconds = 0.0
        self.tokens_sampled = 0
        self.evaluations: list[Evaluation] = []
        self._writer: RunWriter | None = None
        self._stop_reason: str | None = None
        self._history: list[dict[str, Any]] = []  # this process's step lines, for the diagnoses
        self._said: set[str] = set()

    def step(self) -> Metrics:
        """One whole step; writes it to the run directory."""
        raise NotImplementedError

    def judge(self) -> Evaluation | None:
        """Held-out results of the present weights; None where there is no held-out data."""
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """What the run directory's ``config.json`` says of this run."""
        raise NotImplementedError

    def outcome(self) -> dict[str, Any]:
        """What the trainer adds to the summary."""
        return {}

    def announcement(self) -> str:
        """What ``train`` says before it starts."""
        return f"{self.total_steps - self.step_index} steps"

    @property
    def run(self) -> RunWriter:
        """The run directory's writer; opened at the first write. An older run there is moved aside."""
        if self._writer is None:
            self._writer = RunWriter(self.args.output_dir, config=self.describe(), overwrite=True)
        return self._writer

    @property
    def run_dir(self) -> Path:
        return Path(self.args.output_dir)

    def stop(self, reason: str = "stopped by the program") -> None:
        """End training after the step that is running."""
        self._stop_reason = reason

    def train(self) -> dict[str, Any]:
        """Run to ``total_steps`` (on from where it stopped) and return the summary.

        Ctrl-C, or the notebook's stop button, ends training after the running step; a second one ends it at
        once. Either way the model and all whole steps are written.
        """
        self._stop_reason = None
        status = "finished"
        (self.run.directory / "summary.json").unlink(missing_ok=True)  # a run that goes on is not finished
        if not self.args.disable_tqdm:
            print(self.announcement(), flush=True)
        for callback in self.callbacks:
            callback.on_train_begin(self)
        try:
            with self._stoppable(), self._progress() as bar:
                if not self.evaluations:
                    self.evaluate()
                while self.step_index < self.total_steps and self._stop_reason is None:
                    metrics = self.step()
                    self._advance(bar, metrics)
                    for callback in self.callbacks:
                        callback.on_step_end(self, metrics)
                    every = self.args.eval_steps
                    if every and self.step_index % every == 0 and self.step_index < self.total_steps:
                        self.evaluate()
                if self._stop_reason is not None:
                    status = f"stopped: {self._stop_reason}"
                elif not self.evaluations or self.evaluations[-1].step != self.step_index:
                    self.evaluate()
        except KeyboardInterrupt:
            status = "stopped: interrupted by hand, in the middle of a step"
        except Exception as error:
            # The weights are those of the last whole update; a failure to save must not hide the error itself.
            with contextlib.suppress(Exception):
                self._finish(f"stopped: {type(error).__name__}: {error}", save_model=self.args.save_model)
            raise
        summary = self._finish(status, save_model=self.args.save_model)
        for callback in self.callbacks:
            callback.on_train_end(self, summary)
        return summary

    def evaluate(self) -> Evaluation | None:
        """Judge the model on the held-out data and write the result to the run directory."""
        evaluation = self.judge()
        if evaluation is None:
            return None
        self.evaluations.append(evaluation)
        self.run.write_eval(evaluation.step, "greedy", evaluation.rows_greedy)
        self.run.write_eval(evaluation.step, "sampled", evaluation.rows_sampled)
        self.run.write_metrics(eval_values(evaluation))
        for callback in self.callbacks:
            callback.on_evaluate(self, evaluation)
        return evaluation

    def _finish(self, status: str, save_model: bool) -> dict[str, Any]:
        """Write the model and the summary, and return the summary."""
        if save_model and self.step_index:
            self.save_model()
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
            for name in ("accuracy_greedy", "accuracy_sampled", "reward_greedy", "reward_sampled"):
                short = name.removesuffix("_greedy")
                summary[f"{short}_before"] = getattr(before, name, None)
                summary[f"{short}_after"] = getattr(after, name, None)
            summary["eval_n"] = first.n
        self.run.write_summary(summary)
        return summary

    def report(self) -> Path:
        """Write ``report.html`` into the run directory: curves, completions and configuration on one page."""
        from rlkit.runs.report import write_report

        return write_report(self.run_dir)

    def save_model(self, path: str | Path | None = None) -> Path:
        """Write model and tokenizer in the form that ``load_model`` and transformers read; whole or not at all."""
        target = Path(path) if path is not None else self.run_dir / "model"
        partial = target.with_name(target.name + ".partial")
        with quiet_transformers():
            self.model.save_pretrained(partial)
        self.processing_class.save_pretrained(partial)
        _replace_folder(partial, target)
        return target

    @contextlib.contextmanager
    def _stoppable(self) -> Iterator[None]:
        """Let the first Ctrl-C finish the running step; the second one interrupts."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def on_interrupt(signum: int, frame: Any) -> None:
            if self._stop_reason is not None:
                raise KeyboardInterrupt
            self.stop("interrupted by hand")
            print("\nfinishing this step; interrupt again to stop at once", flush=True)

        before = signal.signal(signal.SIGINT, on_interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    @contextlib.contextmanager
    def _progress(self) -> Iterator[Any]:
        from tqdm.auto import tqdm

        with tqdm(
            total=self.total_steps, initial=self.step_index, disable=self.args.disable_tqdm, unit="step"
        ) as bar:
            yield bar

    def _advance(self, bar: Any, metrics: Metrics) -> None:
        """Move the bar on, and every ten steps say once what has gone wrong."""
        self._history.append(metrics.values)
        if self.step_index % _DIAGNOSED_EVERY == 0 and not self.args.disable_tqdm:
            for diagnosis in diagnose(self._history, self.describe()):
                if diagnosis.severity != "info" and diagnosis.code not in self._said:
                    self._said.add(diagnosis.code)
                    bar.write(str(diagnosis))
        shown = {"reward": metrics.values.get("reward"), "accuracy": metrics.values.get("accuracy")}
        texts = {name: f"{value:.2f}" for name, value in shown.items() if value is not None}
        bar.set_postfix(texts, refresh=False)  # update() draws, at tqdm's own pace
        bar.update(1)


def _replace_folder(new: Path, target: Path) -> None:
    """Put ``new`` in ``target``'s place; the old folder is there until the new one is."""
    import shutil

    old = target.with_name(f"{target.name}.{time.time_ns()}.old")
    if target.exists():
        target.rename(old)
    new.rename(target)
    shutil.rmtree(old, ignore_errors=True)
