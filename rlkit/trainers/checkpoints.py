"""Checkpoints: all that a run needs to go on from a step, bit for bit, however it was ended.

    checkpoints/step_000010/
        model/             weights and tokenizer as ``load_model`` and transformers read them; an adapter alone for peft
        state.pt           optimizer, random states and the loop's numbers; for torch.load(weights_only=True)
        checkpoint.json    step, place in metrics.jsonl, sizes of all files, names and shapes of all weights

A checkpoint is written under a name that nobody reads, and renamed when all of it is on disk: a folder
``step_…`` is whole, unless it was damaged later, which its sizes tell.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from rlkit._version import version
from rlkit.errors import ConfigError, TrainingError, bad_value
from rlkit.runs import schema
from rlkit.runs.writer import now, sync_directory
from rlkit.trainers.state import plain_state, random_states, restore_random_states, tensors_in
from rlkit.trainers.weights import copy_weights, fingerprint, live_weights, save_weights, table, values_digest

__all__ = [
    "Checkpoint",
    "CheckpointWarning",
    "fingerprint",
    "latest_checkpoint",
    "random_states",
    "restore_random_states",
    "write_checkpoint",
]

_FORMAT = 1
_INFO, _STATE, _MODEL = "checkpoint.json", "state.pt", "model"
_NAME = re.compile(r"step_(\d+)(\.old)?")  # .old: of the same step, until its successor is there
_LEFT_OVER = re.compile(r"\.step_\d+(?:\.old)?\.(partial|gone)-(\d+)")
_MARGIN = 16 * 2**20  # bytes beside weights and state: the tokenizer, and room to go on writing


class CheckpointWarning(UserWarning):
    """A checkpoint is damaged and an older one is taken, or an old one could not be deleted."""


class Checkpoint:
    """One whole checkpoint on disk.

    Args:
        path: its folder.

    Attributes:
        step: the training step after which it was written.
        position: how many bytes of metrics.jsonl had been written then.

    Raises:
        ConfigError: something is missing or has another size; says what.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            self._info: dict[str, Any] = json.loads((self.path / _INFO).read_bytes())
            if self._info["format"] != _FORMAT:
                raise ConfigError(
                    f"checkpoint {self.path} is of format {self._info['format']}, this rlkit reads {_FORMAT}: "
                    "it was written by another version"
                )
            self.step, self.position = int(self._info["step"]), int(self._info["position"])
            for name, size in self._info["files"].items():
                found = (self.path / name).stat().st_size
                if found != size:
                    raise ValueError(f"{name} has {found} bytes, not {size}")
        except (OSError, KeyError, TypeError, ValueError) as error:
            if isinstance(error, ConfigError):
                raise
            raise self._damaged(error) from error

    def state(self) -> dict[str, Any]:
        """What ``write_checkpoint`` was given as ``state``; its tensors on the CPU.

        Raises:
            ConfigError: the file is damaged.
        """
        try:
            state: dict[str, Any] = torch.load(self.path / _STATE, map_location="cpu", weights_only=True)
        except Exception as error:  # zip, pickle and torch each have their own
            raise self._damaged(f"{_STATE}: {error}") from error
        return state

    def load_weights(self, model: Any) -> None:
        """Copy the saved values into ``model``, in place: whoever shares its tensors' memory has them too.

        Raises:
            ConfigError: the checkpoint is of another model (nothing was copied), or its files do not hold the values
                that were written (the model is then not usable).
        """
        here, there = table(live_weights(model)), self._info["tensors"]
        for name in {**here, **there}:
            if here.get(name) != there.get(name):
                raise ConfigError(
                    f"checkpoint {self.path} does not fit this {type(model).__name__}: {name} is "
                    f"{there.get(name, 'missing')} in the checkpoint and {here.get(name, 'missing')} in the model. "
                    "Load the model that the run began with: same size, dtype and adapter settings"
                )
        try:
            fits = copy_weights(self.path / _MODEL, model, self._info["values"])
        except Exception as error:
            raise self._damaged(f"{_MODEL}: {error}") from error
        if not fits:
            raise self._damaged(f"the files in {_MODEL} hold other values than were written")

    def __repr__(self) -> str:
        return f"Checkpoint({str(self.path)!r}, step {self.step})"

    def _damaged(self, why: object) -> ConfigError:
        return ConfigError(
            f"checkpoint {self.path} is damaged ({why}). Checkpoints are written whole: was it cut short "
            "while being copied, or changed by hand?"
        )


def latest_checkpoint(run_dir: str | os.PathLike[str]) -> Checkpoint | None:
    """The newest whole checkpoint of a run; None where it has none. Damaged ones are named in a warning."""
    for folder in _folders(Path(run_dir) / schema.CHECKPOINTS):
        try:
            return Checkpoint(folder)
        except ConfigError as error:
            warnings.warn(f"{error} It is skipped.", CheckpointWarning, stacklevel=2)
    return None


def write_checkpoint(
    run_dir: str | os.PathLike[str],
    step: int,
    *,
    model: Any,
    tokenizer: Any,
    state: Mapping[str, Any],
    keep: int,
    position: int,
) -> Path:
    """Write one checkpoint, whole or not at all, then delete all but the ``keep`` newest.

    Args:
        step: the step that has just ended.
        model: a transformers model, written with all its weights; or a peft model, of which only the active
            adapters are. Its tensors may be views of larger ones.
        tokenizer: written beside the model; None leaves it out.
        state: everything else, as nested dicts, lists and tuples of tensors and plain values.
        keep: how many checkpoints stay, 1 or more.
        position: ``RunWriter.position``.

    Returns:
        The checkpoint's folder.

    Raises:
        ConfigError: ``state`` holds something that is neither plain nor a tensor, or ``keep`` is below 1.
        TrainingError: it could not be written (a full disk, say); earlier checkpoints are as they were.
    """
    if keep < 1:
        raise bad_value("keep", keep, "1 or more", "A checkpoint that is not kept cannot be resumed.")
    plain = plain_state(state, "state")
    parent = Path(run_dir).absolute() / schema.CHECKPOINTS
    target = parent / f"step_{step:06d}"
    partial = parent / f".{target.name}.partial-{os.getpid()}"
    try:
        weights = live_weights(model)
        parent.mkdir(parents=True, exist_ok=True)
        _clear_left_over(parent)
        _check_space(parent, [*weights.values(), *tensors_in(plain)])
        partial.mkdir()
        save_weights(partial / _MODEL, model)
        if tokenizer is not None:
            tokenizer.save_pretrained(partial / _MODEL)
        with open(
            partial / _STATE, "wb"
        ) as file:  # not by name: only Python's own errors say what went wrong
            torch.save(plain, file)
        files = sorted(path for path in partial.rglob("*") if path.is_file())
        info = {
            "format": _FORMAT,
            "step": step,
            "position": position,
            "rlkit": version(),
            "time": now(),
            "files": {path.relative_to(partial).as_posix(): path.stat().st_size for path in files},
            "values": values_digest(weights.items()),
            "tensors": table(weights),
        }
        (partial / _INFO).write_text(json.dumps(info, indent=1), encoding="utf-8")
        _to_disk(partial, [*files, partial / _INFO])
        _swap_in(partial, target)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if not isinstance(error, Exception):
            raise  # interrupted by hand
        why = _reason(error)
        raise TrainingError(
            f"checkpoint {target} could not be written: {why}. Earlier checkpoints are as they were."
        ) from error
    _prune(parent, keep)
    return target


def _reason(error: BaseException) -> str:
    """The error in one line, with the full disk that torch and safetensors report as one of their own."""
    if isinstance(error, TrainingError):
        return str(error)
    said, inner = f"{type(error).__name__}: {error}", error.__context__
    while inner is not None:
        if isinstance(inner, OSError) and inner.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO):
            return f"{inner} ({said})"
        inner = inner.__context__
    return said


def _check_space(parent: Path, tensors: list[torch.Tensor]) -> None:
    """Refuse to begin what the disk cannot hold. Raises TrainingError, with both numbers."""
    sizes = {(tensor.data_ptr(), tensor.shape): tensor.numel() * tensor.element_size() for tensor in tensors}
    needed, free = sum(sizes.values()) + _MARGIN, shutil.disk_usage(parent).free
    if free < needed:
        raise TrainingError(
            f"it takes about {needed / 1e6:,.0f} MB and the disk has {free / 1e6:,.0f} MB left. Free some, or write "
            "to another disk (output_dir)"
        )


def _to_disk(folder: Path, files: list[Path]) -> None:
    """Wait until all of ``folder`` is on disk; files readable as the user's others are."""
    mode = (folder / _INFO).stat().st_mode & 0o777  # what the umask leaves; safetensors makes files private
    for path in files:
        path.chmod(mode)
        with open(path, "rb+") as file:
            os.fsync(file.fileno())
    for path in {file.parent for file in files}:
        sync_directory(path)


def _swap_in(partial: Path, target: Path) -> None:
    """Rename ``partial`` to ``target``. A checkpoint of the same step stays readable until then, as ``.old``."""
    if target.exists():
        old = target.with_name(f"{target.name}.old")
        if _is_whole(target):
            if old.exists():
                _remove(old)
            target.rename(old)
        else:
            _remove(target)
    partial.rename(target)
    sync_directory(target.parent)


def _folders(parent: Path) -> list[Path]:
    """The checkpoints' folders, newest first."""
    found = [(match, path) for path in parent.glob("step_*") if (match := _NAME.fullmatch(path.name))]
    found.sort(key=lambda pair: (int(pair[0][1]), pair[0][2] is None), reverse=True)
    return [path for _, path in found]


def _is_whole(folder: Path) -> bool:
    try:
        Checkpoint(folder)
    except ConfigError:
        return False
    return True


def _prune(parent: Path, keep: int) -> None:
    """Delete what is older than the ``keep`` newest whole checkpoints, and second ones of a step."""
    kept: list[str] = []
    for folder in _folders(parent):
        step = folder.name.removesuffix(".old")
        if len(kept) == keep or step in kept:
            try:
                _remove(folder)
            except OSError as error:
                warnings.warn(
                    f"checkpoint {folder} was to go and stays: {error}", CheckpointWarning, stacklevel=3
                )
        elif _is_whole(folder):
            kept.append(step)


def _remove(folder: Path) -> None:
    """Delete a checkpoint; the rename comes first, so that half of one is never taken for a whole."""
    gone = folder.with_name(f".{folder.name}.gone-{os.getpid()}")
    folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def _clear_left_over(parent: Path) -> None:
    """Delete what killed processes left half written or half deleted."""
    for path in parent.glob(".step_*"):
        match = _LEFT_OVER.fullmatch(path.name)
        if match and (match[1] == "gone" or not _lives(int(match[2]))):
            shutil.rmtree(path, ignore_errors=True)


def _lives(pid: int) -> bool:
    """Whether another process of this number runs; one of our own number has been before us."""
    if pid == os.getpid():
        return False
    if os.name != "posix":
        return True  # where os.kill(pid, 0) would end it
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True
