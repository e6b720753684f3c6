"""The five types of graders of reinforcement fine-tuning: each checks its own part of the JSON and makes a `Grader`."""

from __future__ import annotations

import ast
import asyncio
import re
import warnings
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from rlkit.errors import ConfigError, RewardError, bad_value, unknown_name
from rlkit.rewards.calls import RewardWarning
from rlkit.rewards.drafts.sandboxed import SandboxedFunction, as_number
from rlkit.rewards.graders import formula, templates
from rlkit.rewards.graders.similarity import metric
from rlkit.rewards.graders.templates import NotInSample, Template, sample_of
from rlkit.rewards.judge.llm_judge import MAX_CHARACTERS, LLMJudge
from rlkit.rewards.judge.prompt import neutral, reply_rule
from rlkit.rewards.text import Completion

Scores = list[float | None]
Rows = Sequence[dict[str, Any]]

OPERATIONS: dict[str, Callable[[str, str], bool]] = {
    "eq": lambda text, reference: text == reference,
    "ne": lambda text, reference: text != reference,
    "like": lambda text, reference: reference in text,
    "ilike": lambda text, reference: reference.lower() in text.lower(),
}
"""What a string_check can ask of input and reference; like and ilike: input holds reference."""

# What each type must have and may have, beside "type" and "name".
_KEYS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "string_check": (("input", "reference", "operation"), ()),
    "text_similarity": (("input", "reference", "evaluation_metric"), ("pass_threshold",)),
    "score_model": (("input", "model"), ("range", "sampling_params", "pass_threshold")),
    "python": (("source",), ("image_tag", "invalid_grade", "pass_threshold")),
    "multi": (("graders", "calculate_output"), ("invalid_grade",)),
}
_LARGEST_SOURCE = 256_000  # bytes, as with the service


@dataclass(frozen=True)
class Grader:
    """A grader that was read: `grade(samples, items)` gives a score for each, or something to wait for that does.

    Attributes:
        kind, name: its type and its own name.
        columns: those that its templates name.
        waits: whether `grade` must be waited for.
        verifier: right or wrong, where the grader knows that.
    """

    kind: str
    name: str
    columns: tuple[str, ...]
    grade: Callable[[Rows, Rows], Scores | Awaitable[Scores]]
    waits: bool = False
    verifier: Callable[..., bool] | None = None


def build(spec: Mapping[str, Any], settings: Mapping[str, Any]) -> Grader:
    """Check a grader's keys and make it."""
    kind = spec.get("type")
    if not isinstance(kind, str) or kind not in _KEYS:
        raise unknown_name("type of grader", kind, _KEYS)
    required, optional = _KEYS[kind]
    name = spec.get("name", kind)
    if not isinstance(name, str) or not name.strip():
        raise bad_value("name", name, "what logs shall call this grader")
    for key in spec:
        if key not in ("type", "name", *required, *optional):
            raise unknown_name(f"key of grader {name!r}:", key, [*required, *optional])
    for key in required:
        if key not in spec:
            raise ConfigError(
                f"grader {name!r} ({kind}) needs the key {key!r}; found {', '.join(map(str, spec))}"
            )
    return _MAKERS[kind](spec, name, settings)


def _string_check(spec: Mapping[str, Any], name: str, settings: Mapping[str, Any]) -> Grader:
    left, right = _templates(spec, name)
    operation = spec["operation"]
    if not isinstance(operation, str) or operation not in OPERATIONS:
        raise unknown_name(f"operation of grader {name!r}:", operation, OPERATIONS)
    compare = OPERATIONS[operation]
    holds = operation in ("like", "ilike")

    def holds_true(sample: Mapping[str, Any], item: Mapping[str, Any]) -> bool:
        reference = right.fill(sample, item)
        if holds and not reference:
            raise RewardError(f"grader {name!r}: the reference is empty, and every text holds an empty one")
        return compare(left.fill(sample, item), reference)

    return _compared("string_check", name, (left, right), lambda s, i: float(holds_true(s, i)), 1.0)


def _text_similarity(spec: Mapping[str, Any], name: str, settings: Mapping[str, Any]) -> Grader:
    left, right = _templates(spec, name)
    measure = metric(spec["evaluation_metric"])
    threshold = None if spec.get("pass_threshold") is None else _number(spec, "pass_threshold", name)

    def score(sample: Mapping[str, Any], item: Mapping[str, Any]) -> float:
        return measure(left.fill(sample, item), right.fill(sample, item))

    return _compared("text_similarity", name, (left, right), score, threshold)


def _compared(
    kind: str,
    name: str,
    texts: Sequence[Template],
    score: Callable[[Mapping[str, Any], Mapping[str, Any]], float],
    threshold: float | None,
) -> Grader:
    """A grader that compares two texts; its verifier says right from `threshold` on."""
    columns = _columns(texts)

    def one(sample: Mapping[str, Any], item: Mapping[str, Any]) -> float:
        try:
            return score(sample, item)
        except NotInSample:
            return 0.0

    def verify(completion: Completion, **row: Any) -> bool:
        return one(sample_of(completion), row) >= cast(float, threshold)

    verify.__name__ = identifier(name)
    known = threshold is not None and "prompt" not in columns  # a verifier is not told the prompt
    return Grader(
        kind,
        name,
        columns,
        lambda samples, items: [one(sample, item) for sample, item in zip(samples, items, strict=True)],
        verifier=verify if known else None,
    )


def _score_model(spec: Mapping[str, Any], name: str, settings: Mapping[str, Any]) -> Grader:
    turns = _turns(spec["input"], name)
    limits = spec.get("range", (0, 1))
    if not isinstance(limits, list | tuple) or len(limits) != 2:
        raise bad_value(f"range of grader {name!r}", limits, "two numbers, such as [0, 1]")
    scale = tuple(_number({"range": end}, "range", name) for end in limits)
    sampling = dict(spec.get("sampling_params") or {})
    given = {key: value for key, value in settings.items() if value is not None}
    for theirs, ours in (("temperature", "temperature"), ("max_completions_tokens", "max_tokens")):
        if sampling.pop(theirs, None) is not None:
            given.setdefault(ours, spec["sampling_params"][theirs])
    options = {**sampling, **given.pop("request_options", {})}
    judge = LLMJudge(
        f"grader {name}",
        given.pop("model", spec["model"]),
        scale=cast(tuple[float, float], scale),
        request_options={key: value for key, value in options.items() if value is not None},
        name=identifier(name),
        **given,
    )
    rule = reply_rule(judge.scale, judge.whole)
    shown = partial(neutral, limit=MAX_CHARACTERS)

    async def grade(samples: Rows, items: Rows) -> Scores:
        requests: dict[int, list[dict[str, str]]] = {}
        for i, (sample, item) in enumerate(zip(samples, items, strict=True)):
            try:
                said = [
                    (role, "".join(part.fill(sample, item, shown) for part in parts)) for role, parts in turns
                ]
            except NotInSample:
                continue
            messages = [{"role": role, "content": text} for role, text in said]
            messages[-1]["content"] += f"\n\n{rule}"
            requests[i] = messages
        answers = [samples[i]["output_text"] for i in requests]
        scores = dict(
            zip(requests, await judge.score_messages(list(requests.values()), answers), strict=True)
        )
        return [scores[i] if i in requests else judge.scale[0] for i in range(len(samples))]

    columns = _columns([part for _, parts in turns for part in parts])
    return Grader("score_model", name, columns, grade, waits=True)


def _turns(messages: Any, name: str) -> list[tuple[str, list[Template]]]:
    """The messages of a score_model grader: role, and the templates of its text."""
    where = f"input of grader {name!r}"
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise bad_value(where, messages, 'messages such as [{"role": "user", "content": "…"}]')
    turns = []
    for message in messages:
        role = message.get("role") if isinstance(message, Mapping) else None
        if role not in ("system", "developer", "user", "assistant"):
            raise bad_value(where, message, "messages with a role: system, developer, user or assistant")
        content = message.get("content")
        parts = content if isinstance(content, list) else [content]
        texts = []
        for part in parts:
            if isinstance(part, Mapping) and part.get("type") in ("input_text", "output_text", "text"):
                part = part.get("text")
            if not isinstance(part, str):
                raise bad_value(where, part, "text; images and audio are not judged here")
            texts.append(templates.parse(part, where))
        # Most chat templates know no developer.
        turns.append(("system" if role == "developer" else role, texts))
    return turns


def _python(spec: Mapping[str, Any], name: str, settings: Mapping[str, Any]) -> Grader:
    source = spec["source"]
    if not isinstance(source, str) or len(source.encode("utf-8", "replace")) > _LARGEST_SOURCE:
        raise bad_value(f"source of grader {name!r}", f"{source!r:.40}", "Python code of at most 256 kB")
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError, SystemError) as error:
        raise ConfigError(f"source of grader {name!r} is no Python: {error}") from None
    defined = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "grade"]
    if not defined or len(defined[-1].args.posonlyargs + defined[-1].args.args) < 2:
        raise ConfigError(f"source of grader {name!r} must define a function grade(sample, item)")
    invalid = _number(spec, "invalid_grade", name) if "invalid_grade" in spec else 0.0
    box = SandboxedFunction(source, "grade")
    warned: list[str] = []

    def grade(samples: Rows, items: Rows) -> Scores:
        results = box.call([((sample, item), {}) for sample, item in zip(samples, items, strict=True)])
        scores = [None if result.reason else as_number(result.value) for result in results]
        lost = [i for i, score in enumerate(scores) if score is None]
        if lost and not warned:
            warned.append(name)
            why = results[lost[0]].reason or f"it returned {results[lost[0]].value!r:.60}"
            text = (
                f"grader {name!r} gave no number for {len(lost)} of {len(samples)} completions, which get {invalid:g}: "
                f"{why}. Said once"
            )
            warnings.warn(text, RewardWarning, stacklevel=3)
        return [invalid if score is None else score for score in scores]

    return Grader("python", name, (), grade)


def _multi(spec: Mapping[str, Any], name: str, settings: Mapping[str, Any]) -> Grader:
    graders = spec["graders"]
    if isinstance(graders, list):  # as in some of OpenAI's examples: their names are what the formula knows
        graders = {entry.get("name"): entry for entry in graders if isinstance(entry, Mapping)}
    if not isinstance(graders, Mapping) or not graders:
        raise bad_value(f"graders of {name!r}", graders, "a mapping from names to graders")
    for key, part in graders.items():
        if not isinstance(part, Mapping) or part.get("type") == "multi":
            raise bad_value(f"graders of {name!r}", {key: part}, "graders of the other types")
    built = {str(key): build({"name": str(key), **part}, settings) for key, part in graders.items()}
    output = formula.parse(spec["calculate_output"], built)
    invalid = _number(spec, "invalid_grade", name) if "invalid_grade" in spec else 0.0
    used = {key: built[key] for key in output.names}

    def combined(columns: Sequence[Scores], count: int) -> Scores:
        totals: Scores = []
        for i in range(count):
            row = {key: column[i] for key, column in zip(used, columns, strict=True)}
            known = {key: score for key, score in row.items() if score is not None}
            if len(known) < len(row):
                totals.append(None)
                continue
            value = output(known)
            totals.append(invalid if value is None else value)
        return totals

    async def wait(samples: Rows, items: Rows) -> Scores:
        scores: dict[str, Any] = {k: part.grade(samples, items) for k, part in used.items() if not part.waits}
        asked: dict[str, Any] = {k: part.grade(samples, items) for k, part in used.items() if part.waits}
        scores |= dict(zip(asked, await asyncio.gather(*asked.values()), strict=True))
        return combined([scores[key] for key in used], len(samples))

    def at_once(samples: Rows, items: Rows) -> Scores:
        return combined([cast(Scores, part.grade(samples, items)) for part in used.values()], len(samples))

    waits = any(part.waits for part in used.values())
    columns = tuple(dict.fromkeys(column for part in used.values() for column in part.columns))
    return Grader("multi", name, columns, wait if waits else at_once, waits)


_MAKERS = {
    "string_check": _string_check,
    "text_similarity": _text_similarity,
    "score_model": _score_model,
    "python": _python,
    "multi": _multi,
}


def _templates(spec: Mapping[str, Any], name: str) -> tuple[Template, Template]:
    left = templates.parse(spec["input"], f"input of grader {name!r}")
    return left, templates.parse(spec["reference"], f"reference of grader {name!r}")


def _columns(texts: Sequence[Template]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(column for text in texts for column in text.columns))


def _number(spec: Mapping[str, Any], key: str, name: str) -> float:
    value = as_number(spec[key])
    if value is None or isinstance(spec[key], bool):
        raise bad_value(f"{key} of grader {name!r}", spec[key], "a finite number")
    return value


def identifier(name: str) -> str:
    """A name for logs: "Answer, and tone" becomes "Answer_and_tone"."""
    return re.sub(r"\W+", "_", name).strip("_") or "grader"
