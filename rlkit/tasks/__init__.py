"""Tasks: data sets with their verifiers. A configuration names one, `load` finds it.

task: arithmetic
task: {name: word_problems, max_number: 10}
task: {name: reasoning_gym, dataset: leg_counting, max_animals: 2}
task: {name: from_dataset, source: my_problems.csv, prompt: question, answer: solution}
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from rlkit.errors import ConfigError, bad_value, unknown_name
from rlkit.tasks.arithmetic import arithmetic
from rlkit.tasks.base import Task
from rlkit.tasks.code import code
from rlkit.tasks.countdown import countdown
from rlkit.tasks.database import database
from rlkit.tasks.email import email
from rlkit.tasks.from_dataset import from_dataset
from rlkit.tasks.gsm8k import gsm8k
from rlkit.tasks.reasoning_gym import reasoning_gym
from rlkit.tasks.word_problems import word_problems

TASKS: dict[str, Callable[..., Task]] = {
    "arithmetic": arithmetic,
    "code": code,
    "countdown": countdown,
    "database": database,
    "email": email,
    "from_dataset": from_dataset,
    "gsm8k": gsm8k,
    "reasoning_gym": reasoning_gym,
    "word_problems": word_problems,
}
"""Every task by its name: a function that returns the `Task`."""

__all__ = [
    "TASKS",
    "Task",
    "arithmetic",
    "code",
    "countdown",
    "database",
    "email",
    "from_dataset",
    "gsm8k",
    "load",
    "names",
    "reasoning_gym",
    "word_problems",
]


def names() -> list[str]:
    """Return the names that `load` knows."""
    return sorted(TASKS)


def load(name: str | Mapping[str, Any], **settings: Any) -> Task:
    """Return the task called `name`, made with `settings`; a mapping has the key `name` and settings.

    Raises `ConfigError` for a name or a setting that does not exist.

    >>> load({"name": "arithmetic", "max_operand": 19}).name
    'arithmetic'
    """
    if isinstance(name, Mapping):
        settings = {**{str(key): value for key, value in name.items()}, **settings}
        if not isinstance(settings.get("name"), str):
            raise bad_value(
                "task", dict(name), "a mapping with the key 'name'", f"Known: {', '.join(names())}."
            )
        name = settings.pop("name")
    if not isinstance(name, str):
        raise bad_value("task", name, "a task's name, or a mapping with 'name' and settings")
    if name not in TASKS:
        raise unknown_name("task", name, TASKS)
    make = TASKS[name]
    parameters = inspect.signature(make).parameters
    takes_more = any(
        p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()
    )  # and checks it itself
    allowed = [key for key, p in parameters.items() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    for setting in settings:
        if setting not in allowed and not takes_more:
            raise unknown_name(f"setting of task {name!r}:", setting, allowed)
    for key in allowed:
        if parameters[key].default is inspect.Parameter.empty and key not in settings:
            raise ConfigError(
                f"the task {name!r} needs the setting {key!r}; found {sorted(settings) or 'none'}"
            )
    return make(**settings)
