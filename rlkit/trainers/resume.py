"""Go on with an interrupted run: what is kept of the loop, and what must not have changed in between."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rlkit.adapters import is_adapter_model
from rlkit.errors import ConfigError
from rlkit.runs import Run, RunWriter, schema
from rlkit.runs.lock import is_taken
from rlkit.runs.writer import close_writers
from rlkit.trainers.checkpoints import latest_checkpoint, random_states, restore_random_states
from rlkit.trainers.weights import fingerprint

if TYPE_CHECKING:
    from rlkit.config import TrainingSettings
    from rlkit.trainers.loop import TrainingLoop

# Settings that say where, how fast or how often something is written, and not what is learned.
_FREE = frozenset(
    (
        "output_dir",
        "max_steps",
        "num_train_epochs",
        "eval_steps",
        "save_steps",
        "save_total_limit",
        "save_samples",
        "save_model",
        "report_to",
        "disable_tqdm",
        "top_logprobs",
        "probe_prompts",
        "sync_tolerance",
        "sync_check_steps",
        "gpu_memory_utilization",
        "target_accuracy",
        "num_generations_eval",
    )
)
# These change the order of sums, and so the last digits: whoever ran out of memory may resume with less.
_ROUNDING = (
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "micro_batch_tokens",
    "gradient_checkpointing",
    "versions",
    "device",
    "engine",
)


class ResumeWarning(UserWarning):
    """A run is resumed with something changed that makes it go on, but not bit for bit as it would have."""


def loop_state(trainer: TrainingLoop) -> dict[str, Any]:
    """The loop's own numbers and every random state, as plain values and tensors."""
    return {
        "step": trainer.step_index,
        "train_seconds": trainer.train_seconds,
        "tokens_sampled": trainer.tokens_sampled,
        "evaluations": [
            {
                field.name: getattr(evaluation, field.name)
                for field in dataclasses.fields(evaluation)
                if field.repr  # the completions are on disk already
            }
            for evaluation in trainer.evaluations
        ],
        "random": random_states(trainer.model.device),
    }


def load_loop_state(trainer: TrainingLoop, state: dict[str, Any]) -> None:
    """The inverse of ``loop_state``."""
    trainer.step_index = state["step"]
    trainer.train_seconds = state["train_seconds"]
    trainer.tokens_sampled = state["tokens_sampled"]
    trainer.evaluations = [trainer.evaluation_type(**values) for values in state["evaluations"]]
    restore_random_states(state["random"])


def settings_that_matter(args: TrainingSettings) -> dict[str, Any]:
    """The settings that decide what is learned."""
    return {name: value for name, value in args.to_dict().items() if name not in _FREE}


def rows_fingerprint(rows: Sequence[Any]) -> str:
    """A digest of a data set's rows, in their order."""
    digest = hashlib.blake2b(digest_size=8)
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True, default=str, ensure_ascii=False).encode())
    return digest.hexdigest()


def model_fingerprint(model: Any, initial_weights_matter: bool) -> str | None:
    """A digest of what training leaves alone: an adapter's base, or the reference policy that the run began as.

    None where a checkpoint replaces all of the model.
    """
    if is_adapter_model(model):
        return fingerprint(model, frozen_only=True)
    return fingerprint(model) if initial_weights_matter else None


def resume(trainer: TrainingLoop) -> None:
    """Put ``trainer`` where its run's newest checkpoint stood, and reopen the run directory.

    A run without a checkpoint starts over in its directory; without any run there training simply begins.

    Raises:
        ConfigError: model, data or a setting that decides what is learned is another one than before.
    """
    directory = trainer.run_dir
    if not (directory / schema.CONFIG).exists():
        print(f"there is no run in {directory} yet: training begins", flush=True)
        return
    close_writers(directory)  # a notebook's earlier trainer, which may still be alive
    if is_taken(directory / schema.METRICS):
        raise ConfigError(
            f"the run in {directory} is being written by another process. Wait for it, or stop it"
        )
    checkpoint = latest_checkpoint(directory)
    if checkpoint is None and any((directory / schema.CHECKPOINTS).glob("step_*")):
        raise ConfigError(
            f"no checkpoint of the run in {directory} can be read; the warnings say why. train() without resume begins "
            "anew and moves the run aside"
        )
    if checkpoint is None and (Run(directory).summary or {}).get("status") == "finished":
        raise ConfigError(
            f"the run in {directory} has finished and kept no checkpoint to go on from. train() without resume begins "
            "anew and moves it aside; runs that are to be prolonged want save_steps"
        )
    if checkpoint is None:
        trainer._writer = RunWriter.resume(directory, config=trainer.describe(), position=0, step=-1)
        trainer.run.note("started over: the run had no checkpoint yet")
        print(f"the run in {directory} has no checkpoint yet: it starts over", flush=True)
        return
    state = checkpoint.state()
    _check_match(state.pop("must_match"), trainer.what_must_match())
    checkpoint.load_weights(trainer.model)
    trainer.load_state_dict(state)
    trainer.after_loading(checkpoint)
    trainer._writer = RunWriter.resume(
        directory, config=trainer.describe(), position=checkpoint.position, step=checkpoint.step
    )
    trainer._history = list(Run(directory).metrics)
    trainer.run.note(f"resumed after step {checkpoint.step}")
    print(f"resumed {directory} after step {checkpoint.step}", flush=True)


def _check_match(before: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse to resume a run as if it were another one."""
    changed = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    said = {name: f"{name}: {before.get(name)!r} → {now.get(name)!r}" for name in changed}
    rounding = [said.pop(name) for name in changed if name in _ROUNDING]
    if said:
        raise ConfigError(
            f"the run cannot be resumed, since this has changed: {'; '.join(said.values())}. Allowed: the settings, "
            "model and data that it began with (max_steps and what is written or shown may change). To train on "
            "with other settings load the model of the checkpoint, <run>/checkpoints/step_…/model, and give another "
            "output_dir"
        )
    if rounding:
        text = f"the run goes on, but not bit for bit as it would have; changed: {'; '.join(rounding)}"
        warnings.warn(text, ResumeWarning, stacklevel=5)
