"""The graders of OpenAI's reinforcement fine-tuning (RFT), read from their JSON form, as reward functions.

    reward = from_json({
        "type": "multi",
        "name": "answer and tone",
        "graders": {
            "right": {"type": "string_check", "name": "right", "operation": "eq",
                      "input": "{{ sample.output_text }}", "reference": "{{ item.answer }}"},
            "tone": {"type": "score_model", "name": "tone", "model": "gpt-5-mini", "range": [0, 1],
                     "input": [{"role": "user", "content": "How kind is this? {{ sample.output_text }}"}]},
        },
        "calculate_output": "0.8 * right + 0.2 * tone",
    })

Forms and meanings are those of https://developers.openai.com/api/docs/guides/graders (of which OpenAI retires its own
service): string_check, text_similarity, score_model, python, multi. `item` is the data set's row, with ``item.prompt``
the question; `sample` is the completion. What differs from the service:

- A score_model that fails gives None, not 0, and one that is out of range counts as failed instead of being cut.
- A python grader runs in our sandbox, with this machine's Python and packages; ``image_tag`` is not looked at.
- label_model and endpoint graders are not offered, nor are images and audio.
"""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from rlkit.errors import ConfigError, bad_value, unknown_name
from rlkit.rewards.graders.golden import GOLDEN as GOLDEN
from rlkit.rewards.graders.kinds import Grader, Rows, Scores, build, identifier
from rlkit.rewards.graders.templates import item_of, sample_of
from rlkit.rewards.judge.llm_judge import LLMJudge
from rlkit.rewards.signatures import RewardFunction
from rlkit.rewards.text import Completion
from rlkit.rewards.verifiers import reward_from

# What a score_model grader says itself.
_NOT_SET = {"instruction", "scale", "name", "include_prompt", "show_columns"}


def from_json(
    grader: Mapping[str, Any] | str | os.PathLike[str],
    model: str | None = None,
    base_url: str | None = None,
    api_key: str | None = None,
    **judge_settings: Any,
) -> RewardFunction:
    """Return the reward function that a grader in JSON form stands for.

    Args:
        grader: a mapping, JSON text, or the path of a JSON file.
        model: for score_model graders, instead of the model that the grader names.
        base_url, api_key, judge_settings: their endpoint, and settings of `rlkit.rewards.judge.llm_judge.LLMJudge`.

    string_check gives 1 or 0, text_similarity 0 to 1, score_model a number in its range or None, python what its
    ``grade(sample, item)`` returns, multi what its formula makes of them: None where a part is None, ``invalid_grade``
    (0) where it is no finite number. A python grader that raises, or returns no number, gives 0 as well, with one
    `RewardWarning`: so it is with the service. A completion without the JSON that a template asks for gets the lowest
    score.

    The function is async where it asks a model. A string_check, and a text_similarity with ``pass_threshold``, has a
    ``.verifier``, too. Raises `ConfigError` for a grader that cannot be read, naming the part.
    """
    spec = _read(grader)
    known = set(inspect.signature(LLMJudge).parameters) - _NOT_SET
    for setting in judge_settings:
        if setting not in known:
            raise unknown_name("setting of the judge:", setting, known)
    settings = {"model": model, "base_url": base_url, "api_key": api_key, **judge_settings}
    return _reward(build(spec, settings))


def string_check(
    input: str = "{{ sample.output_text }}",
    reference: str = "{{ item.answer }}",
    operation: str = "eq",
    name: str = "string_check",
) -> RewardFunction:
    """Return a reward of 1 where `input` equals (eq), differs from (ne) or holds (like, ilike) `reference`, else 0.

    ilike ignores case. Nothing is stripped or normalised: "42." is not "42". With like and ilike, a completion that
    lists everything holds the reference, too.
    """
    spec = {"input": input, "reference": reference, "operation": operation, "name": name}
    return _reward(build({"type": "string_check", **spec}, {}))


def text_similarity(
    input: str = "{{ sample.output_text }}",
    reference: str = "{{ item.answer }}",
    evaluation_metric: str = "fuzzy_match",
    pass_threshold: float | None = None,
    name: str = "text_similarity",
) -> RewardFunction:
    """Return a reward from 0 to 1 for how alike `input` and `reference` are.

    The measures are explained in `rlkit.rewards.graders.similarity`. With `pass_threshold` it is a verifier, too: right
    from that score on.
    """
    spec = {"input": input, "reference": reference, "evaluation_metric": evaluation_metric, "name": name}
    limit = {} if pass_threshold is None else {"pass_threshold": pass_threshold}
    return _reward(build({"type": "text_similarity", **spec, **limit}, {}))


def _read(grader: Mapping[str, Any] | str | os.PathLike[str]) -> Mapping[str, Any]:
    if isinstance(grader, str | os.PathLike):
        text = os.fspath(grader)
        if not text.lstrip().startswith("{"):
            try:
                text = Path(text).read_text(encoding="utf-8")
            except (OSError, ValueError) as error:
                raise bad_value(
                    "grader", os.fspath(grader), "JSON text or a readable file", str(error)
                ) from None
        try:
            grader = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"the grader is no JSON: {error}") from None
    if not isinstance(grader, Mapping):
        raise bad_value("grader", grader, 'a JSON object such as {"type": "string_check", …}')
    return grader


_LOOKS_AT = {
    "string_check": "the whole text, letter by letter, beside the reference",
    "text_similarity": "the whole text, and how like the reference it is",
    "score_model": "the whole text: another model reads it",
    "python": "whatever its Python code looks at",
    "multi": "what its graders look at",
}


def _reward(grader: Grader) -> RewardFunction:
    """A grader in TRL's signature."""
    name = identifier(grader.name)
    reward: Any

    def spaces(
        prompts: Sequence[Any], completions: Sequence[Completion], columns: Mapping[str, Any]
    ) -> tuple[Rows, Rows]:
        items = [item_of(columns, i, prompts[i]) for i in range(len(completions))]
        return [sample_of(completion) for completion in completions], items

    def at_once(prompts: Sequence[Any], completions: Sequence[Completion], **columns: Any) -> Scores:
        return cast(Scores, grader.grade(*spaces(prompts, completions, columns)))

    async def waiting(prompts: Sequence[Any], completions: Sequence[Completion], **columns: Any) -> Scores:
        return await cast(Awaitable[Scores], grader.grade(*spaces(prompts, completions, columns)))

    if grader.kind == "string_check" and grader.verifier is not None:
        reward = reward_from(grader.verifier, 1.0, 0.0, name)
    else:
        reward = waiting if grader.waits else at_once
        if grader.verifier is not None:
            reward.verifier = grader.verifier
    if grader.kind == "text_similarity":
        reward.score_range = (0.0, 1.0)
    reward.looks_at = _LOOKS_AT[grader.kind]
    reward.__name__ = reward.__qualname__ = name
    reward.__doc__ = f"The {grader.kind} grader {grader.name!r} of reinforcement fine-tuning."
    reward.required_columns = [column for column in grader.columns if column != "prompt"]
    return cast(RewardFunction, reward)


FACTORIES: dict[str, Callable[..., RewardFunction]] = {
    "string_check": string_check,
    "text_similarity": text_similarity,
}
CONFIGURED: dict[str, Callable[..., RewardFunction]] = {"rft_grader": from_json}
"""Offered by name with settings: the grader."""
