"""Which verifier and which rewards suit somebody's own data."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlkit.errors import bad_value
from rlkit.rewards.answers import correct_text
from rlkit.rewards.numbers import NUMBER, correct_number, number_found
from rlkit.rewards.registry import resolve
from rlkit.rewards.signatures import reward_name
from rlkit.rewards.verifiers import reward_from
from rlkit.tasks.card import GUESSED, LAST_NUMBER

_MARKED = re.compile(rf"####\s*{NUMBER.pattern}\s*\Z")  # how GSM8K and its kin end an answer
_SAME_TEXT = (
    "the stated answer (in the last <answer> tag, or after 'answer:', or the whole completion) must be the row's, "
    "letter case, white space, quotes and a full stop aside (`rewards.verify_text`)"
)


@dataclass(frozen=True)
class Judging:
    """A verifier (None: only rewards judge), rewards, how it judges in words, and what is weak about that."""

    verifier: Callable[..., bool] | None
    reward_funcs: tuple[Callable[..., Any], ...]
    words: str
    weaknesses: tuple[str, ...] = ()


def choose_judging(verifier: Any, reward_funcs: Any, answers: Sequence[Any] | None) -> Judging:
    """Return what `tasks.from_dataset` trains with, by its arguments and all answers (None: there are none).

    Raises `ConfigError` for names that do not exist, things that are no functions, and answers that do not fit.
    """
    given = _rewards(reward_funcs)
    if verifier is None:
        theirs = next((reward.verifier for reward in given if hasattr(reward, "verifier")), None)
        if theirs is not None:
            return Judging(theirs, given, "by the verifier of its first reward that has one")
        verifier = None if answers is None else _kind_of(answers)
        if verifier is None and given:
            return Judging(None, given, "by rewards alone: there is no verifier, so no accuracy is reported")
    if verifier is None:
        cause = "Nothing would tell a right completion from a wrong one."
        if answers is not None:
            odd = next(said for said in answers if not _is_text(said))
            cause = f"One of the answers is {odd!r:.80}: neither text nor a number."
        raise bad_value(
            "verifier", None, "a function (completion, **columns) -> bool, or reward_funcs", cause
        )
    made = _by_verifier(verifier, answers)
    return Judging(made.verifier, given or made.reward_funcs, made.words, made.weaknesses)


def _by_verifier(verifier: Any, answers: Sequence[Any] | None) -> Judging:
    """What suits a verifier that is given by name or as a function."""
    if isinstance(verifier, str) and verifier in ("number", "text"):
        if answers is None:
            cause = "It compares with answers, and answer=None says that there are none."
            raise bad_value("verifier", verifier, "a function (completion, **columns) -> bool", cause)
        fits = _holds_number if verifier == "number" else _is_text
        wrong = [said for said in answers if not fits(said)]
        if wrong:
            allowed = (
                "answers that hold a number" if verifier == "number" else "answers that are text or numbers"
            )
            raise bad_value("verifier", verifier, allowed, f"{len(wrong)} do not, such as {wrong[0]!r:.80}.")
        if verifier == "number":
            judge = correct_number.verifier  # type: ignore[attr-defined]
            return Judging(judge, (number_found, correct_number), LAST_NUMBER, (GUESSED,))
        weak = "An answer that means the same in other words is wrong."
        return Judging(correct_text.verifier, (correct_text,), _SAME_TEXT, (weak,))  # type: ignore[attr-defined]
    if isinstance(verifier, str):
        reward = resolve(verifier)
        if not hasattr(reward, "verifier"):
            allowed = "'number', 'text', the name of a reward that has a verifier, or a function"
            raise bad_value(
                "verifier", verifier, allowed, "This reward has none; it may be one of reward_funcs."
            )
        return Judging(reward.verifier, (reward,), f"by the verifier of `{verifier}`")
    _check_function(verifier)
    reward = verifier if hasattr(verifier, "verifier") else reward_from(verifier)
    return Judging(reward.verifier, (reward,), f"by the function `{reward_name(verifier)}`")


def _rewards(reward_funcs: Any) -> tuple[Callable[..., Any], ...]:
    """The reward functions that were given, as functions."""
    if reward_funcs is None:
        return ()
    alone = isinstance(reward_funcs, str | Mapping) or callable(reward_funcs)
    if not alone and not isinstance(reward_funcs, Sequence):
        raise bad_value("reward_funcs", reward_funcs, "a reward function, or a list of them")
    given = tuple(resolve(reward) for reward in ([reward_funcs] if alone else reward_funcs))
    if not given:
        raise bad_value("reward_funcs", reward_funcs, "at least one reward function, or None for what fits")
    return given


def _kind_of(answers: Sequence[Any]) -> str | None:
    """Say "number" where every answer is one, "text" where every one can be written out, else None."""
    if all(_is_number(said) for said in answers):
        return "number"
    return "text" if all(_is_text(said) for said in answers) else None


def _is_text(said: Any) -> bool:
    return isinstance(said, str | int | float)


def _is_number(said: Any) -> bool:
    """Whether an answer is nothing but a number, or a text with one behind '####'."""
    if isinstance(said, str):
        return bool(NUMBER.fullmatch(said.strip()) or _MARKED.search(said))
    return isinstance(said, int | float) and not isinstance(said, bool) and math.isfinite(said)


def _holds_number(said: Any) -> bool:
    return bool(NUMBER.search(said)) if isinstance(said, str) else _is_number(said)


def _check_function(verifier: Any) -> None:
    """Refuse what is no function, and a reward function in the place of a verifier."""
    allowed = (
        "'number', 'text', a reward's name, or a function of one completion: (completion, **columns) -> bool"
    )
    if not callable(verifier):
        raise bad_value("verifier", verifier, allowed)
    try:
        parameters = set(inspect.signature(verifier).parameters)
    except (TypeError, ValueError):
        return
    if not hasattr(verifier, "verifier") and parameters & {"prompts", "completions"}:
        cause = "It takes all completions at once, as reward functions do: give it as reward_funcs."
        raise bad_value("verifier", reward_name(verifier), allowed, cause)
