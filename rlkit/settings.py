"""What all settings classes share: unknown names are refused, types are checked, mappings are read.

A settings class is a dataclass that derives from ``Settings`` and is decorated with ``strict_keywords``.
"""

from __future__ import annotations

import functools
import math
import numbers
import os
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any, Self

from rlkit.errors import ConfigError, bad_value, unknown_name

# Names that people bring from TRL or Unsloth, and what they are called here.
_KNOWN_ELSEWHERE = {
    "use_vllm": "fast_inference (True: vLLM, False: transformers)",
    "vllm_mode": "nothing: rlkit's vLLM is always colocated",
    "vllm_gpu_memory_utilization": "gpu_memory_utilization",
    "generation_batch_size": "prompts_per_step × num_generations",
    "vllm_importance_sampling_cap": "vllm_importance_sampling_clip_max",
    "max_tokens_per_batch": "micro_batch_tokens",
    "completion_only_loss": "nothing: only completions are learned",
    "assistant_only_loss": "nothing: only the assistant's turns are learned",
    "max_seq_length": "max_length (SFTConfig), or the argument of load_model",
    "packing": "nothing: rows of similar length share a micro-batch",
    "dataset_text_field": "the columns prompt and completion",
    "logging_steps": "nothing: every step is logged",
    "save_strategy": "save_steps (None: only where training is stopped early)",
    "eval_strategy": "eval_steps (None: before and after training only)",
    "resume_from_checkpoint": "the argument of trainer.train(resume=True)",
    "log_completions": "save_samples",
    "kl_coef": "beta",
    "beta": "kl_coef",
    "clip_range": "epsilon",
    "cliprange": "epsilon",
    "epsilon": "cliprange",
    "group_size": "num_generations",
    "max_new_tokens": "max_completion_length",
    "response_length": "max_completion_length",
    "total_episodes": "max_steps × prompts_per_step × num_generations",
    "local_rollout_forward_batch_size": "micro_batch_tokens",
    "whiten_advantage": "whiten_advantages",
    "num_epochs": "num_train_epochs",
    "lr": "learning_rate",
    "bf16": "the dtype argument of load_model",
}
# One trainer's names for what another calls otherwise: no advice to who has neither.
_ONLY_THERE = ("beta", "kl_coef", "epsilon", "cliprange")


def strict_keywords(cls: type) -> type:
    """Make a dataclass refuse an unknown setting with the nearest known one, when it is made and later.

    ``args.learning_rte = 1e-4`` would otherwise be accepted and do nothing.
    """
    accept = cls.__init__
    known = {field.name for field in fields(cls)}

    def check(name: Any, known: set[str]) -> None:
        if name not in known:
            elsewhere = _KNOWN_ELSEWHERE.get(name, "")
            if elsewhere in _ONLY_THERE and elsewhere not in known:
                elsewhere = ""
            cause = f"Here that is {elsewhere}." if elsewhere else ""
            raise unknown_name(f"{cls.__name__} setting", name, known, cause)

    @functools.wraps(accept)
    def __init__(self: Any, *unnamed: Any, **settings: Any) -> None:
        if unnamed:
            raise ConfigError(
                f"{cls.__name__} takes its settings by name, such as {cls.__name__}(output_dir='runs/first'); found "
                f"{unnamed[0]!r} without a name. From a dict: {cls.__name__}.from_dict(settings)"
            )
        for name in settings:
            check(name, known)
        accept(self, **settings)

    def __setattr__(self: Any, name: str, value: Any) -> None:
        check(name, {field.name for field in fields(self)})  # a subclass may have more
        object.__setattr__(self, name, value)

    cls.__init__ = __init__  # type: ignore[misc]
    cls.__setattr__ = __setattr__  # type: ignore[method-assign,assignment]
    return cls


class Settings:
    """Base of the settings classes."""

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> Self:
        """Build from a mapping, such as the ``grpo`` section of a YAML file.

        YAML 1.1 reads ``1e-5`` as text; numbers in text form are understood for number fields.
        """
        if not isinstance(settings, Mapping):
            raise bad_value("settings", settings, f"a mapping of {cls.__name__}'s fields")
        kinds = {field.name: str(field.type) for field in fields(cls)}
        settings = {str(name): value for name, value in settings.items()}
        read = {name: number_from(value, kinds.get(name, "")) for name, value in settings.items()}
        return cls(**read)

    def to_dict(self) -> dict[str, Any]:
        """All settings as plain values."""
        return asdict(self)

    def check_types(self) -> None:
        """Bring every field to a plain value of the type that its annotation names.

        Raises:
            ConfigError: naming the field, its value and what it is.
        """
        for field in fields(self):
            value, kinds = getattr(self, field.name), str(field.type)
            if value is None and "None" in kinds:
                continue
            value = plain(value, kinds)
            setattr(self, field.name, value)
            accepted: tuple[type, ...] = ()
            for name, types in (("int", (int,)), ("float", (int, float)), ("bool", (bool,)), ("str", (str,))):
                if name in kinds:
                    accepted += types
            if "list" in kinds:
                accepted = (list, tuple, str) if kinds.startswith("str |") else (list, tuple)
            wrong_bool = isinstance(value, bool) and "bool" not in kinds
            if wrong_bool or not isinstance(value, accepted):
                raise bad_value(field.name, value, f"a value of type {kinds}", _what_it_is(value, kinds))


def require(name: str, value: Any, good: bool, allowed: str, cause: str = "") -> None:
    """Raise the house error unless ``good`` holds and the value is finite."""
    if not good or (isinstance(value, float) and not math.isfinite(value)):
        raise bad_value(name, value, allowed, cause)


def number_from(value: Any, kind: str) -> Any:
    """Text as a number where the field wants one, otherwise unchanged."""
    if isinstance(value, (list, tuple)) and "list[float]" in kind:
        return [number_from(item, "float") for item in value]
    if isinstance(value, str) and "str" not in kind and ("float" in kind or "int" in kind):
        try:
            number = float(value)
        except ValueError:
            return value
        return int(number) if "float" not in kind and number.is_integer() else number
    return value


def plain(value: Any, kinds: str) -> Any:
    """A path as text, numbers of NumPy and the like as Python's own, so that they can be written down."""
    if isinstance(value, os.PathLike) and "str" in kinds:
        return os.fspath(value)
    if isinstance(value, (list, tuple)) and "list" in kinds:
        return [plain(item, kinds.replace("list", "")) for item in value]
    if not isinstance(value, (bool, int)) and isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real) and not isinstance(value, numbers.Rational):
        return float(value)
    return value


def _what_it_is(value: Any, kinds: str) -> str:
    """Why a value has the wrong type, as far as it can be guessed."""
    if isinstance(value, str) and isinstance(number_from(value, kinds), (int, float)):
        return "This is text: write the number without quotes."
    if isinstance(value, float) and value.is_integer():
        return f"This is a float: write {int(value)}."
    return f"This is a {type(value).__name__}."
