"""Reward functions by name, for configurations.

A configuration names rewards in four ways, and `resolve_all` understands all of them, and plain functions:

    rewards:
      - number_found                            # one of ours
      - {name: xml_format, tags: [think, answer]}   # one of ours with settings
      - email_rubric                            # a rubric of ours: all of its parts
      - my_package.my_rewards:robotic_tone      # anybody's, as package.module:function
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from rlkit.errors import ConfigError, bad_value, unknown_name
from rlkit.rewards.golden import GoldenSet
from rlkit.rewards.signatures import RewardFunction

MODULES = (
    "answers",
    "code",
    "drafts.sandboxed",
    "equations",
    "formats",
    "graders.rft",
    "gsm8k",
    "judge.llm_judge",
    "lengths",
    "maths.rewards",
    "numbers",
    "proximity",
    "rubrics.database",
    "rubrics.email",
    "rubrics.professions",
    "style",
    "templates.rewards",
)
"""Where rewards are offered by name. Imported when a name is first asked for: a rubric's parts may be names, too."""


class Offers(NamedTuple):
    """What the modules offer, each as a dict by name.

    `functions` are used as they are; `factories` return a reward function, and named alone are called with their
    defaults; `configured` are factories without defaults; `rubrics` return a Rubric; `golden` are the golden sets of
    functions and factories.
    """

    functions: dict[str, RewardFunction]
    factories: dict[str, Callable[..., RewardFunction]]
    configured: dict[str, Callable[..., RewardFunction]]
    rubrics: dict[str, Callable[..., list[RewardFunction]]]
    golden: dict[str, GoldenSet]


@cache
def offers() -> Offers:
    """Return everything that is offered by name."""
    found = Offers({}, {}, {}, {}, {})
    for name in MODULES:
        module = importlib.import_module(f"rlkit.rewards.{name}")
        for field in Offers._fields:
            getattr(found, field).update(getattr(module, field.upper(), {}))
    return found


def names() -> list[str]:
    """Return the names of the reward functions that `resolve` knows, without those that need settings, and rubrics."""
    return sorted([*offers().functions, *offers().factories])


def resolve_all(
    rewards: str | Mapping[str, Any] | RewardFunction | Sequence[str | Mapping[str, Any] | RewardFunction],
) -> list[RewardFunction]:
    """Return the reward functions that `rewards` stands for: one or several of what `resolve` reads, or rubrics.

    A rubric's name stands for all of its parts; alone (or as a `Rubric`) it stays a `Rubric`, with its verifier.
    Raises `ConfigError` where there is no such thing, or none at all.

    >>> [part.__name__ for part in resolve_all(["number_found", "correct_number"])]
    ['number_found', 'correct_number']
    """
    alone = isinstance(rewards, str | Mapping) or callable(rewards)
    if not alone and (not isinstance(rewards, Sequence) or not rewards):
        raise bad_value("rewards", rewards, "one or more reward functions, or a rubric")
    given: Any = [rewards] if alone else rewards
    found = [_rubric(reward) or [resolve(reward)] for reward in given]
    if not alone and type(rewards) is not list and isinstance(rewards, list):
        return rewards  # a Rubric, whose parts are functions
    return found[0] if len(found) == 1 else [function for part in found for function in part]


def _rubric(reward: Any) -> list[RewardFunction] | None:
    """The rubric that a name, or a mapping with settings, stands for; None for anything else."""
    name, settings = reward, {}
    if isinstance(reward, Mapping):
        settings = {str(key): value for key, value in reward.items()}
        name = settings.pop("name", None)
    if not isinstance(name, str) or name not in offers().rubrics:
        return None
    make = offers().rubrics[name]
    _check_settings(name, make, settings)
    return make(**settings)


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
    known = offers()
    if name in known.functions:
        if settings:
            cause = f"It is a plain function; only {', '.join(sorted(known.factories))} can be set."
            raise bad_value(f"settings of reward {name!r}", settings, "none", cause)
        return known.functions[name]
    if name in known.factories or name in known.configured:
        return _made(name, {**known.factories, **known.configured}[name], settings)
    if name in known.rubrics:
        cause = f"It is a rubric: several of them. Give it alone, or in the list of rewards; or take rewards.{name}()."
        raise bad_value("reward", name, "one reward function", cause)
    cause = "A function of your own is written package.module:function."
    raise unknown_name("reward", name, [*names(), *known.configured, *known.rubrics], cause)


def _made(name: str, factory: Callable[..., RewardFunction], settings: dict[str, Any]) -> RewardFunction:
    """Call a factory, and turn settings that it does not have into an error that lists those it has."""
    _check_settings(name, factory, settings)
    made = factory(**settings)
    if not callable(made):
        raise bad_value("reward", name, "a factory that returns a function", f"It returned {made!r:.80}.")
    return made


def _check_settings(name: str, factory: Callable[..., Any], settings: Mapping[str, Any]) -> None:
    try:
        inspect.signature(factory).bind(**settings)
    except TypeError as error:
        allowed = ", ".join(inspect.signature(factory).parameters)
        raise bad_value(f"settings of reward {name!r}", dict(settings), allowed, f"({error})") from None


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
