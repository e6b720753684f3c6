"""The errors that rlkit raises on purpose.

Every one of them is written for the person at the keyboard: it names the argument, the value that was
found, what is allowed, and the likely cause. The command line prints them without a traceback.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class RlkitError(Exception):
    """Base class: anything that rlkit refuses, with a message that says what to do."""


class ConfigError(RlkitError, ValueError):
    """A setting, data set or model folder that cannot work; raised before anything is loaded or trained."""


class RewardError(RlkitError, RuntimeError):
    """A reward function raised, or returned something that is not one number (or None) per completion."""


class EngineError(RlkitError, RuntimeError):
    """The generation engine cannot start, was closed, or cannot run this model."""


class SyncError(RlkitError, RuntimeError):
    """The engine's log-probabilities have parted from the trainer's: its weights are not the trained ones."""


class TrainingError(RlkitError, RuntimeError):
    """Training had to stop, for instance after three non-finite gradients in a row; the run is on disk."""


def bad_value(argument: str, value: object, allowed: str, cause: str = "") -> ConfigError:
    """Build the house error: ``argument=value``, what is allowed, and the likely cause.

    >>> raise bad_value("learning_rate", -1.0, "a number above 0", "a sign slipped in?")
    Traceback (most recent call last):
    rlkit.errors.ConfigError: learning_rate=-1.0 is not usable. Allowed: a number above 0. a sign slipped in?
    """
    message = f"{argument}={value!r} is not usable. Allowed: {allowed}."
    return ConfigError(f"{message} {cause}" if cause else message)


def unknown_name(kind: str, name: object, known: Iterable[str], cause: str = "") -> ConfigError:
    """Build the error for a name that does not exist, with the nearest one that does."""
    known = sorted(known)
    near = get_close_matches(str(name), known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    # A long list buries the hint; a near miss needs none.
    listing = "" if near and len(known) > 15 else f" Known: {', '.join(known)}."
    message = f"unknown {kind} {name!r}.{hint}{listing}"
    return ConfigError(f"{message} {cause}" if cause else message)
