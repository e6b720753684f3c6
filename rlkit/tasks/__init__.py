"""Tasks: data sets with their verifiers. A configuration names one, `load` finds it.

task: arithmetic
task: {name: arithmetic, max_operand: 19}
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from rlkit.errors import bad_value, unknown_name
from rlkit.tasks.arithmetic import arithmetic
from rlkit.tasks.base import Task

TASKS: dict[str, Callable[..., Task]] = {"arithmetic": arithmetic}
"""Every task by its name: a function that returns the `Task`."""

__all__ = ["TASKS", "Task", "arithmetic", "load", "names"]


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
    allowed = list(inspect.signature(make).parameters)
    for setting in settings:
        if setting not in allowed:
            raise unknown_name(f"setting of task {name!r}:", setting, allowed)
    return make(**settings)
