"""A language model drafts a reward function from a wish in words; a person accepts it, or not.

    draft = draft_reward("short answers, and no apologies", task, model="gpt-5-mini")
    draft                    # the code, what it gives to stand-in answers, where it would be hacked
    reward = draft.accept()  # only now can it be trained with

A drafted reward is code that nobody has read yet, so it is read first by `rlkit.rewards.drafts.checks`, then run in the
sandbox on answers to the task's own questions, then audited. It never runs in the trainer's process, also not once it
is accepted.
"""

from __future__ import annotations

import html
import itertools
import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlkit.errors import ConfigError, RewardError, bad_value
from rlkit.rewards.audits.exploits import SOLUTIONS
from rlkit.rewards.calls import RewardWarning
from rlkit.rewards.code import extract_code
from rlkit.rewards.drafts.checks import MODULES, check_source
from rlkit.rewards.drafts.sandboxed import SECONDS, SandboxedFunction, as_number, sandboxed_reward
from rlkit.rewards.judge.endpoint import Endpoint
from rlkit.rewards.judge.prompt import prompt_text
from rlkit.rewards.signatures import RewardFunction

SHOWN = 5  # rows that the model sees
TRIED = 4  # rows whose stand-in answers the draft is run on
ANSWER_COLUMNS = ("answer", *SOLUTIONS, "target", "label", "reference_answer")

_RULES = f"""You write reward functions for reinforcement learning of language models. Write one Python function:

def NAME(prompts, completions, {{columns}}**columns):
    \"\"\"One sentence: what it rewards, and its range.\"\"\"
    ...
    return scores  # one float for each completion

- prompts and completions are lists of strings, the columns are lists, all of the same length.
- Give the function a short name that says what it rewards.
- A model may write anything: never raise, also for an empty text or one of 64,000 characters, and be fast.
- Better answers score higher; what only looks right (the prompt repeated, every number listed, keywords) does not.
- Only the standard modules {", ".join(MODULES)} may be imported. No classes, no other functions at the top level, no
  print, no files, no eval, no names with double underscores.
- Reply with one Python code block and nothing else."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a draft gave one stand-in answer.

    Attributes:
        kind: where the answer is from: "right", "of another row", "empty", "prompt repeated", "long".
        prompt, completion: question and answer.
        score: the reward; None where it gave none.
        reason: why there is none.
    """

    kind: str
    prompt: str
    completion: str
    score: float | None
    reason: str = ""


@dataclass
class Draft:
    """A reward function that a model wrote, and everything that is known of it.

    Attributes:
        wish: what was asked for.
        code: the function's source, to be read.
        name: its name.
        problems: why it cannot be accepted; empty where it can.
        verdicts: what it gave stand-in answers, in the sandbox.
        audit: the report of `rewards.audit`, or in words why there is none; None where it was not asked for, or the
            rows have no answers.
        attempts: how often the model was asked.
    """

    wish: str
    code: str
    name: str = ""
    problems: list[str] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    audit: Any = None
    attempts: int = 1
    seconds: float = SECONDS
    _reward: RewardFunction | None = None
    _shown: bool = False

    @property
    def reward(self) -> RewardFunction:
        """The reward function; raises `ConfigError` until it was accepted."""
        if self._reward is None:
            raise ConfigError(
                f"the drafted reward {self.name or '(none)'!r} was not accepted. Read draft.code and print(draft), "
                "then call draft.accept(): nobody should train with code that nobody has read"
            )
        return self._reward

    def accept(self, anyway: bool = False) -> RewardFunction:
        """Accept the draft as it stands and return its reward function, which runs in the sandbox.

        A draft that has not been shown yet is printed: nobody trains with code that was not there to be read. One
        without an audit is accepted with a `RewardWarning`.

        Raises `ConfigError` where it has problems; or where its audit found holes, unless `anyway`.
        """
        if self.problems:
            raise ConfigError(f"the draft cannot be used: {'; '.join(self.problems)}")
        if self.holes and not anyway:
            found = "; ".join(str(getattr(hole, "says", hole)) for hole in self.holes)
            raise ConfigError(
                f"the audit of {self.name!r} found where it would be hacked: {found}. Ask for "
                "another draft with this in the wish, or accept(anyway=True)"
            )
        if not self._shown:
            print(self)
        if not hasattr(self.audit, "holes") and not anyway:
            why = self.audit or "not audited"
            advice = "try it on a task with answers"
            text = f"the drafted reward {self.name!r} is accepted without an audit ({why}): {advice}"
            warnings.warn(text, RewardWarning, stacklevel=2)
        self._reward = self._reward or sandboxed_reward(self.code, self.seconds)
        return self._reward

    @property
    def holes(self) -> list[Any]:
        """What the audit found; empty where it found nothing or there was none."""
        return list(getattr(self.audit, "holes", None) or [])

    def __str__(self) -> str:
        self._shown = True
        state = "accepted" if self._reward else "not accepted"
        lines = [f"Draft {self.name!r} ({state}) for the wish: {self.wish}", "", self.code.rstrip(), ""]
        lines += [f"problem: {problem}" for problem in self.problems]
        for verdict in self.verdicts:
            score = "none" if verdict.score is None else f"{verdict.score:g}"
            why = f"   ({verdict.reason})" if verdict.reason else ""
            lines.append(f"{score:>8}   {verdict.kind:<15} {_short(verdict.completion)!r}{why}")
        if not self.problems:
            lines += ["", "not audited" if self.audit is None else str(self.audit)]
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        self._shown = True
        state = "accepted" if self._reward else "not accepted: read it, then call <code>draft.accept()</code>"
        rows = "".join(
            f"<tr><td>{html.escape(v.kind)}</td><td>{'–' if v.score is None else f'{v.score:g}'}</td>"
            f"<td><code>{html.escape(_short(v.completion))}</code> {html.escape(v.reason)}</td></tr>"
            for v in self.verdicts
        )
        problems = "".join(f"<li>{html.escape(problem)}</li>" for problem in self.problems)
        show = getattr(self.audit, "_repr_html_", None)
        audit = show() if show else f"<pre>{html.escape(str(self.audit))}</pre>" if self.audit else ""
        return (
            f"<p>Draft <b>{html.escape(self.name)}</b> for “{html.escape(self.wish)}” ({state})</p>"
            f"<pre>{html.escape(self.code)}</pre><ul>{problems}</ul>"
            f"<table><tr><th>answer</th><th>reward</th><th></th></tr>{rows}</table>{audit}"
        )


def draft_reward(
    wish: str,
    examples: Any,
    model: str,
    base_url: str | None = None,
    api_key: str | None = None,
    attempts: int = 3,
    timeout: float = 120.0,
    retries: int = 3,
    seconds: float = SECONDS,
    audit: bool = True,
    request_options: Mapping[str, Any] | None = None,
) -> Draft:
    """Ask a model for a reward function that grants `wish`, and return what it wrote, tried and audited.

    Args:
        wish: what shall be rewarded, in words.
        examples: a `Task`, or rows with a ``prompt``. A few are shown to the model; the draft is run on them.
        model, base_url, api_key, timeout, retries: the endpoint, see `rlkit.rewards.judge.endpoint.Endpoint`.
        attempts: how often the model may try: what was wrong with its code is told to it.
        seconds: what one batch may take in the sandbox.
        audit: audit it, too, where `examples` is a task or has answers.
        request_options: more fields of the request, such as ``{"temperature": 0.2}``.

    Code that is still unusable after the last attempt comes back as a draft with `problems`, which cannot be accepted.

    Raises `ConfigError` for arguments that cannot work; `RewardError` where the endpoint does not answer.
    """
    if not isinstance(wish, str) or not wish.strip():
        raise bad_value("wish", wish, "what shall be rewarded, in words")
    if not isinstance(attempts, int) or isinstance(attempts, bool) or not 1 <= attempts <= 10:
        raise bad_value("attempts", attempts, "a whole number from 1 to 10")
    task = examples if hasattr(examples, "train") and hasattr(examples, "verifier") else None
    rows = _rows(task.train if task is not None else examples)
    columns = tuple(name for name in rows[0] if name not in ("prompt", "completion"))
    endpoint = Endpoint(model, base_url, api_key, timeout, retries)
    messages = _messages(wish.strip(), rows, columns)
    draft = Draft(wish.strip(), "")
    with endpoint.client() as client:
        for attempt in range(1, attempts + 1):
            reply = _ask(client, endpoint, messages, request_options or {})
            draft = _tried(wish.strip(), extract_code(reply).strip() + "\n", rows, columns, attempt, seconds)
            if not draft.problems:
                break
            faults = "; ".join(draft.problems)
            messages += [
                {"role": "assistant", "content": reply},
                {
                    "role": "user",
                    "content": f"This cannot be used: {faults}. Write the whole function again.",
                },
            ]
    if audit and not draft.problems and (task is not None or not {"answer", *SOLUTIONS}.isdisjoint(columns)):
        from rlkit.rewards.audits.audit import audit as audited

        try:
            draft.audit = audited(sandboxed_reward(draft.code, seconds), rows if task is None else task)
        except ConfigError as error:  # answers that cannot be tried
            draft.audit = f"not audited: {error}"
    return draft


def _rows(examples: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The first rows of a data set, checked."""
    if isinstance(examples, str | Mapping) or not isinstance(examples, Iterable):
        raise bad_value(
            "examples", examples, "a Task, or rows such as [{'prompt': '17+25=', 'answer': '42'}]"
        )
    rows = [dict(row) for row in itertools.islice(examples, SHOWN)]
    if not rows or any("prompt" not in row for row in rows):
        raise bad_value("examples", rows[:1], "at least one row, each with a 'prompt'")
    return rows


def _messages(wish: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> list[dict[str, str]]:
    shown = [
        {name: prompt_text(value) if name == "prompt" else value for name, value in row.items()}
        for row in rows
    ]
    lines = "\n".join(json.dumps(row, ensure_ascii=False, default=repr)[:2000] for row in shown)
    rules = _RULES.replace("{columns}", "".join(f"{name}, " for name in columns if name.isidentifier()))
    return [
        {"role": "system", "content": rules},
        {"role": "user", "content": f"Reward this: {wish}\n\nRows of the data set, as JSON:\n{lines}"},
    ]


def _ask(client: Any, endpoint: Endpoint, messages: list[dict[str, str]], options: Mapping[str, Any]) -> str:
    try:
        reply = client.chat.completions.create(model=endpoint.model, messages=messages, **options)
        content = reply.choices[0].message.content
    except Exception as error:  # whatever the endpoint sends, and whatever the client makes of it
        raise RewardError(f"no reward was drafted: {endpoint.explain(error)}") from error
    return content if isinstance(content, str) else ""


def _tried(
    wish: str,
    code: str,
    rows: Sequence[Mapping[str, Any]],
    columns: tuple[str, ...],
    attempt: int,
    seconds: float,
) -> Draft:
    """Check code and, if it may be run, run it in the sandbox on stand-in answers."""
    checked = check_source(code, columns)
    draft = Draft(wish, code, checked.name, list(checked.problems), attempts=attempt, seconds=seconds)
    if draft.problems:
        return draft
    calls, stand_ins = [], _stand_ins(rows)
    for _, row, completion in stand_ins:
        given = {**row, "prompts": prompt_text(row["prompt"]), "completions": completion}
        taken = {
            n: [v]
            for n, v in given.items()
            if n in checked.parameters or (checked.takes_all and n != "prompt")
        }
        calls.append(((), taken))
    try:
        results = SandboxedFunction(code, checked.name, seconds).call(calls)
    except RewardError as error:
        draft.problems.append(str(error))
        return draft
    for (kind, row, completion), result in zip(stand_ins, results, strict=True):
        values = result.value
        good = isinstance(values, list) and len(values) == 1
        good = good and (values[0] is None or as_number(values[0]) is not None)
        reason = result.reason or ("" if good else f"it returned {values!r:.60}, not a list with one number")
        score = as_number(values[0]) if good else None
        draft.verdicts.append(Verdict(kind, prompt_text(row["prompt"]), completion, score, reason))
    failed = [verdict for verdict in draft.verdicts if verdict.reason]
    if failed:
        worst = failed[0]
        draft.problems.append(
            f"for the completion {_short(worst.completion)!r} ({worst.kind}): {worst.reason}"
        )
    elif all(verdict.score is None for verdict in draft.verdicts):
        draft.problems.append("it scores nothing: every reward is None")
    elif len({verdict.score for verdict in draft.verdicts}) == 1:
        draft.problems.append(
            f"it gives every answer the same, {draft.verdicts[0].score:g}: nothing can be learned"
        )
    return draft


def _stand_ins(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any], str]]:
    """Answers to the first rows that a model might give: kind, row, completion."""
    found = []
    rows = rows[:TRIED]
    for i, row in enumerate(rows):
        column = next((name for name in ANSWER_COLUMNS if isinstance(row.get(name), str | int | float)), None)
        prompt = prompt_text(row["prompt"])
        if column is not None:
            found.append(("right", row, str(row[column])))
            other = str(rows[(i + 1) % len(rows)].get(column, ""))
            if other != str(row[column]):
                found.append(("of another row", row, other))
        found += [("empty", row, ""), ("prompt repeated", row, prompt)]
    found.append(("long", rows[0], "I think so, and so on. " * 2800))  # 64 KB
    return found


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:59] + "…"
