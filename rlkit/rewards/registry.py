"""Reward functions by name, for configurations, and the few questions that a trainer asks about one.

A configuration names rewards in three ways, and `resolve` understands all of them, and plain functions:

    rewards:
      - number_found                            # one of ours
      - {name: xml_format, tags: [think, answer]}   # one of ours with settings
      - my_package.my_rewards:robotic_tone      # anybody's, as package.module:function
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rlkit.errors import ConfigError, bad_value, unknown_name
from rlkit.rewards.formats import RewardFunction, xml_format
from rlkit.rewards.lengths import soft_overlong
from rlkit.rewards.numbers import correct_number, number_found, only_number
from rlkit.rewards.text import Completion

FUNCTIONS: dict[str, RewardFunction] = {
    "number_found": number_found,
    "correct_number": correct_number,
    "only_number": only_number,
}
"""Reward functions that are used as they are."""

FACTORIES: dict[str, Callable[..., RewardFunction]] = {
    "xml_format": xml_format,
    "soft_overlong": soft_overlong,
}
"""Functions that return a reward function; named alone, they are called with their defaults."""

# What a trainer passes besides the data set's columns, with TRL's names.
GIVEN = ("prompts", "completions", "completion_ids")

_KEYWORD = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def names() -> list[str]:
    """Return the names that `resolve` knows."""
    return sorted([*FUNCTIONS, *FACTORIES])


def resolve(reward: str | Mapping[str, Any] | RewardFunction) -> RewardFunction:
    """Return the reward function that `reward` stands for.

    A callable is returned as it is; a string is a name of `names()` or "package.module:function"; a mapping has
    the key `name` and the settings of a factory. Raises `ConfigError` where there is no such thing.

    >>> resolve("number_found").__name__
    'number_found'
    """
    if isinstance(reward, str):
        return _by_name(reward, {})
    if isinstance(reward, Mapping):
        settings = {str(key): value for key, value in reward.items()}
        if not isinstance(settings.get("name"), str):
            raise bad_value(
                "reward", dict(reward), "a mapping with the key 'name'", f"Known: {', '.join(names())}."
            )
        return _by_name(settings.pop("name"), settings)
    if callable(reward):
        return reward
    raise bad_value(
        "reward", reward, "a name, 'package.module:function', a mapping with 'name', or a function"
    )


def _by_name(name: str, settings: dict[str, Any]) -> RewardFunction:
    """Find a function or factory by its name and apply the settings, which only a factory takes."""
    if ":" in name:
        imported = _imported(name)
        return _made(name, imported, settings) if settings else imported
    if name in FUNCTIONS:
        if settings:
            cause = f"It is a plain function; only {', '.join(sorted(FACTORIES))} can be set."
            raise bad_value(f"settings of reward {name!r}", settings, "none", cause)
        return FUNCTIONS[name]
    if name in FACTORIES:
        return _made(name, FACTORIES[name], settings)
    raise unknown_name("reward", name, names(), "A function of your own is written package.module:function.")


def _made(name: str, factory: Callable[..., RewardFunction], settings: dict[str, Any]) -> RewardFunction:
    """Call a factory, and turn settings that it does not have into an error that lists those it has."""
    try:
        inspect.signature(factory).bind(**settings)
    except TypeError as error:
        allowed = ", ".join(inspect.signature(factory).parameters)
        raise bad_value(f"settings of reward {name!r}", settings, allowed, f"({error})") from None
    made = factory(**settings)
    if not callable(made):
        raise bad_value("reward", name, "a factory that returns a function", f"It returned {made!r:.80}.")
    return made


def _imported(path: str) -> Callable[..., Any]:
    """Import "package.module:function"; say which half is at fault where that fails."""
    module_name, _, attribute = path.partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), *attribute.split(".")]):
        raise bad_value("reward", path, "package.module:function, such as my_rewards:length_penalty")
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:  # the module is the user's: whatever it raises belongs in the message
        cause = f"Importing {module_name!r} failed: {type(error).__name__}: {error}."
        advice = " Is it installed, or is the file in the folder that Python was started in?"
        raise ConfigError(f"reward={path!r} cannot be imported. {cause}{advice}") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            known = [n for n, value in vars(found).items() if callable(value) and not n.startswith("_")]
            raise unknown_name(f"function in {module_name!r}:", part, known or ["(no function)"])
        found = getattr(found, part)
    if not callable(found):
        raise bad_value("reward", path, "a function", f"{attribute} is a {type(found).__name__}.")
    function: Callable[..., Any] = found
    return function


def reward_name(reward: Callable[..., Any]) -> str:
    """Return the name under which a reward function is logged: its `__name__`, else that of its class.

    >>> reward_name(number_found)
    'number_found'
    """
    while not hasattr(reward, "__name__") and hasattr(reward, "func"):  # functools.partial
        reward = reward.func
    return str(getattr(reward, "__name__", type(reward).__name__))


def required_columns(reward: Callable[..., Any]) -> list[str]:
    """Return the data-set columns without which `reward` cannot be called: its parameters without a default.

    A trainer compares them with the data set before it starts. Empty where the signature cannot be read.

    >>> required_columns(correct_number), required_columns(number_found)
    (['answer'], [])
    """
    if hasattr(reward, "required_columns"):
        return list(reward.required_columns)
    try:
        parameters = inspect.signature(reward).parameters.values()
    except (TypeError, ValueError):
        return []
    needed = [p.name for p in parameters if p.kind in _KEYWORD and p.default is inspect.Parameter.empty]
    return [name for name in needed if name not in GIVEN]


def from_verifier(
    verifier: Callable[..., bool], right: float = 1.0, wrong: float = 0.0, name: str | None = None
) -> RewardFunction:
    """Return the reward function that pays `right` or `wrong` for a verifier's verdict.

    `verifier(completion, **columns) -> bool` judges one completion by its row's columns: it gets those that it
    names (or all, where it takes ``**columns``). The result carries it as `.verifier`.

    >>> short = from_verifier(lambda completion: len(completion) < 4, right=0.5, name="short")
    >>> short.__name__, short(["", ""], ["42", "forty-two"])
    ('short', [0.5, 0.0])
    """
    if not callable(verifier):
        raise bad_value("verifier", verifier, "a function (completion, **columns) -> bool")
    parameters = list(inspect.signature(verifier).parameters.values())[1:]
    takes_all = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
    named = {p.name for p in parameters if p.kind is not inspect.Parameter.VAR_KEYWORD}

    def judge(completion: Completion, **columns: Any) -> bool:
        wanted = columns if takes_all else {key: columns[key] for key in columns if key in named}
        return bool(verifier(completion, **wanted))

    def reward(
        prompts: Sequence[Any], completions: Sequence[Completion], **columns: Any
    ) -> list[float | None]:
        lists = {key: values for key, values in columns.items() if _is_column(values)}
        verdicts = [
            judge(completion, **{key: values[i] for key, values in lists.items()})
            for i, completion in enumerate(completions)
        ]
        return [float(right) if verdict else float(wrong) for verdict in verdicts]

    reward.__name__ = reward.__qualname__ = name or reward_name(verifier)
    reward.__doc__ = f"Reward {right:g} where {reward_name(verifier)} says right, else {wrong:g}."
    reward.verifier = judge  # type: ignore[attr-defined]
    reward.required_columns = [  # type: ignore[attr-defined]
        p.name for p in parameters if p.kind in _KEYWORD and p.default is inspect.Parameter.empty
    ]
    return reward


def _is_column(values: Any) -> bool:
    """Tell the data set's columns (lists) from other things that a trainer hands over, such as its state."""
    return isinstance(values, Sequence) and not isinstance(values, str)
