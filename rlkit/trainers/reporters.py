"""``report_to``: the numbers of a run, sent to TensorBoard, Trackio or Weights & Biases while it trains.

The run directory has everything in any case; these show it elsewhere. Names are those of ``metrics.jsonl`` (``reward``,
``rewards/<function>``, ``seconds/rollout``); an evaluation's stand under ``eval/``. The x-axis is the step.

A reporter that cannot start is an error, before anything is trained. One that fails later (the network is gone) warns
once and switches itself off: training goes on.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlkit.errors import ConfigError, bad_value, unknown_name
from rlkit.runs.schema import dumps, plain
from rlkit.trainers.callbacks import Callback

if TYPE_CHECKING:
    from rlkit.rollout import Evaluation, Metrics

PROJECT = "rlkit"  # unless WANDB_PROJECT or TRACKIO_PROJECT says otherwise
WANDB_ID = "wandb_id"  # the file in the run directory by which a resumed run finds its page again


class ReportWarning(UserWarning):
    """A reporter failed and was switched off; the run directory still has every number."""


def reporter_names(report_to: str | Sequence[str] | None) -> list[str]:
    """The reporters that ``report_to`` asks for; cheap, so that settings can be checked with it.

    Args:
        report_to: ``"none"``, ``"all"`` (those that are installed), a name of ``REPORTERS``, or a list of names.

    Raises:
        ConfigError: a name is unknown, "none" stands beside others, or a named package is not installed.
    """
    if report_to is None:
        return []
    asked = [report_to] if isinstance(report_to, str) else report_to
    if not isinstance(asked, Sequence) or not all(isinstance(name, str) for name in asked):
        raise bad_value("report_to", report_to, f"one of {_ALLOWED}, or a list of such names")
    for name in asked:
        if name not in (*REPORTERS, "all", "none"):
            raise unknown_name("reporter in report_to", name, (*REPORTERS, "all", "none"))
    if "none" in asked and len(asked) > 1:
        raise bad_value(
            "report_to", report_to, f"one of {_ALLOWED}, or a list of such names", '"none" is alone.'
        )
    if "all" in asked:
        return [name for name in REPORTERS if _installed(name)]
    names = [name for name in dict.fromkeys(asked) if name != "none"]
    for name in names:
        if not _installed(name):
            raise ConfigError(
                f"report_to={report_to!r} needs the package {name}, which is not installed. "
                f'Install it with: pip install {name}. Or leave it out: report_to="none".'
            )
    return names


def make_reporters(report_to: str | Sequence[str] | None, run_dir: str | os.PathLike[str]) -> list[Reporter]:
    """One callback for each reporter that ``report_to`` asks for; nothing is opened or written yet.

    Raises:
        ConfigError: as ``reporter_names``; or a named package is installed and cannot be imported.
    """
    by_name = report_to not in ("all", ["all"], ("all",))
    reporters = []
    for name in reporter_names(report_to):
        try:
            reporters.append(REPORTERS[name](run_dir, required=by_name))
        except Exception as error:  # a broken installation can raise anything
            if by_name:
                raise ConfigError(
                    f"report_to={report_to!r}: {name} is installed and cannot be imported "
                    f"({type(error).__name__}: {error}). Reinstall it with: pip install --force-reinstall {name}"
                ) from error
            _warn(f"{name} is left out: it cannot be imported ({type(error).__name__}: {error})")
    return reporters


class Reporter(Callback):
    """Sends a run's numbers somewhere; a subclass says how to open, log and close.

    Call ``close`` however training ends; ``on_train_end`` is not called after an error.

    Args:
        run_dir: the run directory; the name of its folder is the name of the run.
        required: whether failing to start is an error (it was asked for by name) or a warning (``"all"``).
    """

    name = ""
    module = ""
    remedy = ""  # what usually helps when it does not start

    def __init__(self, run_dir: str | os.PathLike[str], required: bool = True) -> None:
        self.run_dir = Path(run_dir)
        self.required = required
        self.package: Any = importlib.import_module(self.module)
        self._running = False
        self._off = False
        self._began = False
        self._step = 0
        self._early: list[tuple[dict[str, float], int]] = []  # evaluations by hand, before training

    def open(self, name: str, config: dict[str, Any], step: int, resumed: bool) -> None:
        """Begin, or go on after ``step`` where ``resumed``; ``config`` holds JSON's own types."""
        raise NotImplementedError

    def log(self, values: dict[str, float], step: int) -> None:
        raise NotImplementedError

    def summarise(self, summary: dict[str, Any]) -> None:
        raise NotImplementedError

    def shut(self, ended_well: bool) -> None:
        """Write out what is held back and let go."""
        raise NotImplementedError

    # -- the hooks ------------------------------------------------------------------------------------

    def on_train_begin(self, trainer: Any) -> None:
        if self._running or self._off:
            return
        step = int(trainer.step_index)
        # A folder that is used anew must not go on with the old run's curves.
        resumed = step > 0 or self._began
        name = self.run_dir.absolute().name
        try:
            self.open(name, plain(trainer.describe()), step, resumed)
        except Exception as error:
            if self.required:
                raise ConfigError(
                    f"report_to: {self.name} does not start ({type(error).__name__}: {error}). {self.remedy}"
                ) from error
            self._switch_off(error)
            return
        self._running = self._began = True
        self._step = step
        for values, at in self._early:
            self._guarded(self.log, values, at)
        self._early.clear()

    def on_step_end(self, trainer: Any, metrics: Metrics) -> None:
        self._step = metrics.step
        if self._running:
            self._guarded(self.log, numbers(metrics.values), metrics.step)

    def on_evaluate(self, trainer: Any, evaluation: Evaluation) -> None:
        found = {f"eval/{name}": value for name, value in numbers(evaluation.values()).items()}
        if "eval/seconds/eval" in found:
            found["eval/seconds"] = found.pop("eval/seconds/eval")
        if self._running:
            self._guarded(self.log, found, evaluation.step)
        elif not self._off:
            self._early.append((found, evaluation.step))

    def on_train_end(self, trainer: Any, summary: dict[str, Any]) -> None:
        if self._running:
            self._guarded(self.summarise, plain(summary))
        self._close(ended_well=True)

    def close(self) -> None:
        """Let go, whatever happened; a run that is still open counts as failed. May be called twice."""
        self._close(ended_well=False)

    def _close(self, ended_well: bool) -> None:
        if self._running:
            self._running = False
            self._guarded(self.shut, ended_well)

    def _guarded(self, act: Callable[..., None], *arguments: Any) -> None:
        if self._off:
            return
        try:
            act(*arguments)
        except Exception as error:  # never Ctrl-C
            self._switch_off(error)

    def _switch_off(self, error: Exception) -> None:
        self._off = True
        _warn(
            f"{self.name} failed and is switched off, training goes on ({type(error).__name__}: {error}); "
            f"every number is in {self.run_dir}"
        )
        if self._running:
            self._running = False
            with contextlib.suppress(Exception):
                self.shut(False)


class TensorBoardReporter(Reporter):
    """Event files in ``<run_dir>/tensorboard``: ``tensorboard --logdir <run_dir>`` shows them.

    A resumed run writes another file there and says from which step on the older ones no longer hold.
    """

    name = "tensorboard"
    module = "torch.utils.tensorboard"
    remedy = "Can the run directory be written to?"

    def open(self, name: str, config: dict[str, Any], step: int, resumed: bool) -> None:
        self._writer = self.package.SummaryWriter(
            str(self.run_dir / "tensorboard"),
            purge_step=step + 1 if resumed else 0,
            flush_secs=10,  # the library's 120 s is long to wait for a first point
        )
        self._writer.add_text("config", _as_code(config), step)

    def log(self, values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def summarise(self, summary: dict[str, Any]) -> None:
        self._writer.add_text("summary", _as_code(summary), self._step)

    def shut(self, ended_well: bool) -> None:
        self._writer.close()


class TrackioReporter(Reporter):
    """Trackio: ``trackio show`` opens its local page; TRACKIO_SPACE_ID sends it to a Hugging Face Space instead.

    Runs there have names, not folders: a resumed run goes on with the youngest one of its name.
    """

    name = "trackio"
    module = "trackio"
    remedy = "Unset TRACKIO_SPACE_ID to log on this machine alone."

    def open(self, name: str, config: dict[str, Any], step: int, resumed: bool) -> None:
        self._run = self.package.init(
            project=os.environ.get("TRACKIO_PROJECT") or PROJECT,
            name=name,
            config=config,
            resume="allow" if resumed else "never",  # never: a second run of that name, beside the first
        )

    def log(self, values: dict[str, float], step: int) -> None:
        self._run.log(values, step=step)

    def summarise(self, summary: dict[str, Any]) -> None:
        """There is no place for a summary: its numbers become the last point of ``summary/...``."""
        found = {f"summary/{name}": value for name, value in numbers(summary).items()}
        self._run.log(found, step=self._step)

    def shut(self, ended_well: bool) -> None:
        if self.package.context_vars.current_run.get() is self._run:
            self.package.finish()  # so that it is not finished once more when Python exits
        else:
            self._run.finish()


class WandbReporter(Reporter):
    """Weights & Biases; its files lie in ``<run_dir>/wandb``. WANDB_MODE=offline keeps them there for ``wandb sync``.

    The run's id is kept in ``<run_dir>/wandb_id``, and a resumed run goes on under it. A run that the program has
    opened itself is used, and left open.
    """

    name = "wandb"
    module = "wandb"
    remedy = "`wandb login` stores a key; WANDB_MODE=offline needs neither key nor network."

    def open(self, name: str, config: dict[str, Any], step: int, resumed: bool) -> None:
        self._run = self.package.run
        self._ours = self._run is None
        if self._ours:
            kept = self.run_dir / WANDB_ID
            self.run_dir.mkdir(parents=True, exist_ok=True)
            self._run = self.package.init(
                project=os.environ.get("WANDB_PROJECT") or PROJECT,
                name=name,
                config=config,
                dir=str(self.run_dir),
                id=(kept.read_text().strip() or None) if resumed and kept.exists() else None,
                resume="allow",
            )
            kept.write_text(f"{self._run.id}\n")
        else:
            self._run.config.update(config, allow_val_change=True)
        # Its own counter may only rise: after a resume from an earlier step it would drop what comes.
        self._run.define_metric("*", step_metric="step")

    def log(self, values: dict[str, float], step: int) -> None:
        self._run.log({**values, "step": step})

    def summarise(self, summary: dict[str, Any]) -> None:
        self._run.summary.update(summary)

    def shut(self, ended_well: bool) -> None:
        if self._ours:
            self._run.finish(exit_code=0 if ended_well else 1)


REPORTERS: dict[str, type[Reporter]] = {
    reporter.name: reporter for reporter in (TensorBoardReporter, TrackioReporter, WandbReporter)
}
_ALLOWED = ", ".join(f'"{name}"' for name in ("none", "all", *REPORTERS))


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """The entries that are one number each; None, NaN, texts, lists and ``step`` itself are left out.

    >>> numbers({"step": 3, "loss": 0.5, "kl": None, "skipped": False})
    {'loss': 0.5, 'skipped': 0}
    """
    found: dict[str, float] = {}
    for name, value in values.items():
        if name == "step" or isinstance(value, (str, list, dict, tuple)):
            continue
        number = plain(value)
        if isinstance(number, (bool, int, float)) and not math.isnan(number):
            found[name] = int(number) if isinstance(number, bool) else number
    return found


def _installed(name: str) -> bool:
    """Whether a package can be imported; a mere folder of that name (wandb leaves one behind) does not count."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None


def _as_code(values: Mapping[str, Any]) -> str:
    """JSON as Markdown, indented by four."""
    return "\n".join("    " + line for line in dumps(values, indent=2).splitlines())


def _warn(message: str) -> None:
    warnings.warn(message, ReportWarning, stacklevel=3)
