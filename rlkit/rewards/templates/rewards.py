"""The rewards of reasoning templates, by name: for the format, for its markers, for the answer between them.

`ReasoningTemplate` has them as methods; here they are factories that a configuration can name. Each takes the
template as an object, by the name of a preset, or as a mapping of its fields:

    rewards:
      - reasoning_markers
      - {name: reasoning_format, template: think, strict: true}
      - {name: reasoning_number, template: {reasoning: ["<work>", "</work>"], solution: ["<result>", "</result>"]}}
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from rlkit.errors import bad_value, unknown_name
from rlkit.rewards.numbers import number_is_right
from rlkit.rewards.signatures import RewardFunction
from rlkit.rewards.spans import Spans, marker_spans, trimmed
from rlkit.rewards.templates.golden import GOLDEN as GOLDEN
from rlkit.rewards.templates.reasoning import ReasoningTemplate
from rlkit.rewards.text import Completion, completion_text
from rlkit.rewards.verifiers import reward_from

Template: TypeAlias = "ReasoningTemplate | str | Mapping[str, Any]"

PRESETS: dict[str, Callable[..., ReasoningTemplate]] = {
    "working_out": ReasoningTemplate.working_out,
    "think": ReasoningTemplate.think,
    "xml": ReasoningTemplate.xml,
}
"""The templates that a configuration can name."""


def find_template(template: Template) -> ReasoningTemplate:
    """Return the template that is meant: itself, a preset by its name, or one with the fields of a mapping.

    Raises `ConfigError` for an unknown preset or field.

    >>> find_template("think").reasoning
    ('<think>', '</think>')
    """
    if isinstance(template, ReasoningTemplate):
        return template
    if isinstance(template, str):
        if template not in PRESETS:
            raise unknown_name("reasoning template", template, PRESETS)
        return PRESETS[template]()
    if isinstance(template, Mapping):
        fields = ReasoningTemplate.__dataclass_fields__
        for name in template:
            if name not in fields:
                raise unknown_name("field of a reasoning template:", name, fields)
        return ReasoningTemplate(**template)
    raise bad_value("template", template, f"a ReasoningTemplate, one of {', '.join(PRESETS)}, or a mapping")


def reasoning_format(
    template: Template = "working_out", strict: bool = False, right: float = 1.0, wrong: float = 0.0
) -> RewardFunction:
    """Return a reward function that pays `right` for a completion in the format, else `wrong`.

    In the format is what `ReasoningTemplate.read` reads: both blocks once, in order, not blank, nothing around them;
    `strict` also fixes the white space to what the template writes. Only the shape counts: nonsense and wrong answers
    between the markers earn the same.
    """
    found = find_template(template)

    def reward(
        prompts: Sequence[Any], completions: Sequence[Completion], **columns: Any
    ) -> list[float | None]:
        read = (found.read(completion, strict) for completion in completions)
        return [float(wrong) if parts is None else float(right) for parts in read]

    doc = f"Reward {right:g} for {_shape(found)}{', written just so' if strict else ''}, else {wrong:g}."
    reward.spans = _marker_finder(found)  # type: ignore[attr-defined]
    return _named(reward, "reasoning_format_strict" if strict else "reasoning_format", doc, right, wrong)


def reasoning_markers(
    template: Template = "working_out", right: float = 0.25, wrong: float = -0.25
) -> RewardFunction:
    """Return a reward function that pays `right` for each marker that occurs exactly once, `wrong` for each other.

    From 4 · `wrong` to 4 · `right`: a slope towards the format, where `reasoning_format` is a cliff. Neither the
    order of the markers nor what stands between them counts, so that the four markers alone earn all of it: use it
    beside rewards that ask for more.
    """
    found = find_template(template)

    def reward(
        prompts: Sequence[Any], completions: Sequence[Completion], **columns: Any
    ) -> list[float | None]:
        texts = (found.whole(completion) for completion in completions)
        once = (sum(text.count(marker) == 1 for marker in found.markers) for text in texts)
        return [count * float(right) + (4 - count) * float(wrong) for count in once]

    doc = f"Reward {right:g} for each marker of {_shape(found)} that occurs once, {wrong:g} for each other."
    reward.spans = _marker_finder(found)  # type: ignore[attr-defined]
    return _named(reward, "reasoning_markers", doc, 4 * right, 4 * wrong)


def reasoning_answer(
    template: Template = "working_out",
    verifier: Callable[..., bool] | None = None,
    compare: Callable[[str, Any], bool] | None = None,
    right: float = 3.0,
    wrong: float = -3.0,
    whole: bool = False,
    name: str = "reasoning_answer",
) -> RewardFunction:
    """Return a reward function that pays `right` for a right solution between its markers, else `wrong`.

    `verifier(completion, **columns)` judges the solution as if it were the completion; or `compare(solution,
    answer)` compares it with the column ``answer``; with neither it must equal that column's text, white space at the
    ends aside. An answer anywhere else does not count (`ReasoningTemplate.solution_in`); with `whole` the completion
    must be in the format besides. The verdict is carried as ``.verifier``.
    """
    if verifier is not None and compare is not None:
        raise bad_value("compare", compare, "None beside a verifier", "One of the two judges.")
    for argument, judge in (("verifier", verifier), ("compare", compare)):
        if judge is not None and not callable(judge):
            raise bad_value(argument, judge, "a function")
    found = find_template(template)
    same = compare or _same_text

    def compared(completion: Completion, *, answer: Any) -> bool:
        return bool(same(completion_text(completion), answer))

    inner: Any = reward_from(verifier or compared)  # hands a verifier the columns that it names

    def in_markers(completion: Completion, **columns: Any) -> bool:
        solution = found.solution_in(completion)
        if solution is None or (whole and found.read(completion) is None):
            return False
        return bool(inner.verifier(solution, **columns))

    def solution_spans(completion: Completion, **columns: Any) -> Spans:
        if found.solution_in(completion) is None:
            return []
        text, (opening, closing) = completion_text(completion), found.solution
        start = text.find(opening) + len(opening)
        return [trimmed(text, start, text.find(closing, start))]

    reward: Any = reward_from(in_markers, right, wrong, name)
    reward.spans = solution_spans
    reward.required_columns = inner.required_columns
    doc = f"Reward {right:g} for a right solution in {'…'.join(found.solution)}, else {wrong:g}."
    return _named(reward, name, doc, right, wrong)


def reasoning_number(
    template: Template = "working_out", right: float = 3.0, wrong: float = -3.0, whole: bool = False
) -> RewardFunction:
    """Return `reasoning_answer` with `verify_number`: the solution's last number equals the column ``answer``."""
    return reasoning_answer(template, number_is_right, None, right, wrong, whole, "reasoning_number")


def _marker_finder(template: ReasoningTemplate) -> Callable[..., Spans]:
    return lambda completion, **columns: marker_spans(completion_text(completion), template.markers)


def _same_text(solution: str, answer: Any) -> bool:
    return answer is not None and solution.strip() == str(answer).strip()


def _shape(template: ReasoningTemplate) -> str:
    return "…".join(template.reasoning) + "…".join(template.solution)


def _named(reward: Any, name: str, doc: str, right: float, wrong: float) -> RewardFunction:
    reward.score_range = (float(min(right, wrong)), float(max(right, wrong)))
    reward.__name__ = reward.__qualname__ = name
    reward.__doc__ = doc
    made: RewardFunction = reward
    return made


FACTORIES: dict[str, Callable[..., RewardFunction]] = {
    "reasoning_format": reasoning_format,
    "reasoning_markers": reasoning_markers,
    "reasoning_answer": reasoning_answer,
    "reasoning_number": reasoning_number,
}
"""Factories by the names that a configuration uses."""
