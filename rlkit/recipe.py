"""A training run as a YAML file: what ``rlkit train CONFIG.yaml`` reads.

    model: rlkit/tiny-arithmetic          # or {name: smollm2, load_in_4bit: true}: load_model's arguments
    lora: {r: 16, lora_alpha: 32}         # add_lora's arguments; leave it out for full fine-tuning
    task: arithmetic                      # or {name: arithmetic, max_operand: 19}
    rewards: [number_found, correct_number]
    grpo: {loss_type: dr_grpo, learning_rate: 1e-4, max_steps: 60}    # GRPOConfig's fields
    seed: 0
    output_dir: runs/first

With ``ppo:`` (PPOConfig's fields) in place of ``grpo:`` it is PPO with a value head on the policy; a trained reward
model is a reward such as ``{name: "rlkit:load_reward_model", folder: runs/reward_model/model}``. With ``sft:``
(SFTConfig's fields) in place of ``grpo:`` and ``rewards:`` it is a warm start on the task's own answers.
Everything is checked before a model is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import yaml

from rlkit import rewards, tasks
from rlkit.config import GRPOConfig, PPOConfig, SFTConfig
from rlkit.errors import ConfigError, bad_value, unknown_name
from rlkit.models import find_model

if TYPE_CHECKING:
    from rlkit.tasks.base import Task
    from rlkit.trainers.loop import TrainingLoop

SECTIONS: dict[str, type[GRPOConfig | PPOConfig | SFTConfig]] = {
    "grpo": GRPOConfig,
    "ppo": PPOConfig,
    "sft": SFTConfig,
}
KEYS = ("model", "lora", "task", "rewards", *SECTIONS, "seed", "output_dir")
LORA_KEYS = ("r", "lora_alpha", "lora_dropout", "target_modules", "use_rslora", "seed")


@dataclass(slots=True)
class Recipe:
    """A checked training run; ``trainer()`` loads the model and starts the engine."""

    model: str
    task: Task
    reward_funcs: list[Callable[..., Any]]
    args: GRPOConfig | PPOConfig | SFTConfig
    model_kwargs: dict[str, Any] = field(default_factory=dict)
    lora: dict[str, Any] | None = None

    @classmethod
    def read(cls, path: str | Path, overrides: Sequence[str] = ()) -> Self:
        """Read a YAML file, apply overrides such as ``"grpo.learning_rate=1e-5"``, and check the whole.

        Raises:
            ConfigError: no such file, not YAML, an unknown key, or a setting that cannot work.
        """
        path = Path(path)
        try:
            settings = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except OSError as error:
            raise ConfigError(f"cannot read the configuration {str(path)!r}: {error.strerror}") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"{str(path)!r} is not valid YAML: {error}") from error
        if not isinstance(settings, dict):
            raise ConfigError(
                f"{str(path)!r} holds a {type(settings).__name__}; it must be a mapping with the keys {', '.join(KEYS)}"
            )
        for override in overrides:
            _override(settings, override)
        return cls.from_dict(settings)

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> Self:
        """Check a mapping with the keys of ``KEYS``; ``model`` and ``task`` must be there.

        Raises:
            ConfigError: an unknown key, a missing one, or a setting that cannot work.
        """
        for key in settings:
            if key not in KEYS:
                raise unknown_name("key in the configuration:", key, KEYS, _misplaced(key))
        for key in ("model", "task"):
            if not settings.get(key):
                raise ConfigError(f"the configuration has no {key!r}; it needs at least 'model' and 'task'")
        asked = [key for key in SECTIONS if key in settings]
        if len(asked) > 1 or ("sft" in settings and "rewards" in settings):
            both = asked if len(asked) > 1 else ["sft", "rewards"]
            raise ConfigError(
                f"the configuration has {both[0]!r} beside {both[1]!r}; one run is one of the two. Run a warm start "
                "first, then GRPO or PPO with its result as the model: model: runs/sft/model"
            )
        section = asked[0] if asked else "grpo"
        kind = SECTIONS[section]
        given = settings.get(section) or {}
        if not isinstance(given, Mapping):
            raise bad_value(section, given, f"a mapping of {kind.__name__}'s fields")
        twice = [key for key in ("seed", "output_dir") if key in settings and key in given]
        if twice:
            raise ConfigError(f"{twice[0]!r} stands both at the top level and under {section!r}; keep one")
        top = {key: settings[key] for key in ("seed", "output_dir") if key in settings}
        args = kind.from_dict({**given, **top})
        model_kwargs = settings["model"]
        if not isinstance(model_kwargs, Mapping):
            model_kwargs = {"name": model_kwargs}
        model_kwargs = dict(model_kwargs)
        name = model_kwargs.pop("name", None)
        if name is None:
            raise bad_value("model", settings["model"], "a name, or a mapping with 'name' in it")
        find_model(name)
        lora = settings.get("lora")
        if lora is not None and not isinstance(lora, Mapping):
            raise bad_value("lora", lora, "a mapping of add_lora's arguments, such as {r: 16}")
        for key in lora or ():
            if key not in LORA_KEYS:
                raise unknown_name("key under 'lora':", key, LORA_KEYS)
        task = tasks.load(settings["task"])
        named = settings.get("rewards")
        if named is None:
            named = list(task.reward_funcs) if isinstance(task.reward_funcs, tuple) else task.reward_funcs
        elif not isinstance(named, (str, Mapping, list, tuple)) or not named:
            cause = "Leave it out for those of the task."
            raise bad_value("rewards", named, "one or more reward functions, or a rubric", cause)
        reward_funcs = rewards.resolve_all(named)  # a rubric stays one
        return cls(name, task, reward_funcs, args, model_kwargs, None if lora is None else dict(lora))

    def trainer(self) -> TrainingLoop:
        """Load the model, start the engine, and return the trainer."""
        model: Any = self.model
        tokenizer = None
        if self.lora is not None:
            from rlkit.adapter_checks import check_numbers

            numbers = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.0, "seed": self.args.seed, **self.lora}
            check_numbers(*(numbers[name] for name in ("r", "lora_alpha", "lora_dropout", "seed")))
        if self.model_kwargs or self.lora is not None or isinstance(self.args, SFTConfig):
            from rlkit.models import load_model

            model, tokenizer = load_model(self.model, **self.model_kwargs)
        if self.lora is not None:
            from rlkit.adapters import add_lora

            model = add_lora(model, **{"seed": self.args.seed, **self.lora})
        if isinstance(self.args, SFTConfig):
            from rlkit.trainers.sft import SFTTrainer
            from rlkit.trainers.sft_data import demonstrations

            return SFTTrainer(
                model,
                self.args,
                demonstrations(self.task.train),
                demonstrations(self.task.test),
                processing_class=tokenizer,
            )
        kind: Any
        if isinstance(self.args, PPOConfig):
            from rlkit.trainers.ppo import PPOTrainer as kind
        else:
            from rlkit.trainers.grpo import GRPOTrainer as kind

        # The trainer loads a model that is given by name, after it has tried data and reward functions.
        trainer: TrainingLoop = kind(
            model,
            self.reward_funcs,
            self.args,
            self.task.train,
            self.task.test,
            processing_class=tokenizer,
            verifier=self.task.verifier,
        )
        return trainer


def read_settings(overrides: Sequence[str]) -> dict[str, Any]:
    """Return ``["max_operand=19", "chat=true"]`` as a mapping; values are read as YAML, dots lead into mappings."""
    settings: dict[str, Any] = {}
    for override in overrides:
        _override(settings, override)
    return settings


def _override(settings: dict[str, Any], override: str) -> None:
    """Apply ``"grpo.learning_rate=1e-5"`` in place; the value is read as YAML."""
    name, equals, text = override.partition("=")
    if not equals or not name.strip():
        raise bad_value("override", override, "key=value, such as grpo.learning_rate=1e-5")
    *path, last = name.strip().split(".")
    here = settings
    for part in path:
        if here.get(part) is None:  # missing, or "grpo:" with nothing below it
            here[part] = {}
        here = here[part]
        if not isinstance(here, dict):
            raise bad_value("override", override, f"a setting inside a mapping; {part!r} is {here!r}")
    try:
        here[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise bad_value("override", override, "key=value with a value in YAML", f"{error}") from error


def _misplaced(key: str) -> str:
    """A hint for a key that belongs one level down."""
    for section, kind in SECTIONS.items():
        if key in {entry.name for entry in fields(kind)}:
            return f"{key} is a {kind.__name__} field: write it under {section!r}."
    return f"{key} is an argument of add_lora: write it under 'lora'." if key in LORA_KEYS else ""
