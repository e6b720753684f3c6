"""The reward lab: where would this reward be hacked?

    print(rewards.audit("number_found", tasks.arithmetic()))

A model that is trained finds every way to be paid. `audit` looks for them first: it scores right answers, wrong ones
and exploits (`rlkit.rewards.audits.exploits`) made from a task's rows, the reward's own golden set, and, with a model,
what that really says; and it shows which of them earn as much as a right answer.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any

from rlkit.errors import ConfigError, bad_value
from rlkit.rewards import registry
from rlkit.rewards.audits.exploits import FORMS, answer_of, exploit_trials, right_trials, wrong_trials
from rlkit.rewards.audits.holes import holes
from rlkit.rewards.audits.report import Audit, Scored, lines_of
from rlkit.rewards.calls import RewardCaller
from rlkit.rewards.golden import Example, GoldenSet
from rlkit.rewards.signatures import required_columns, reward_name

_ROWS_LOOKED_AT = 1000  # for the answers that occur
_HUGE_ROWS = 2  # rows that huge outputs are tried on


def audit(
    reward: Any,
    task: Any = None,
    model: Any = None,
    n: int = 16,
    *,
    tokenizer: Any = None,
    weights: Sequence[float] | None = None,
    golden: GoldenSet | None = None,
    forms: Sequence[str] = FORMS,
    samples: int = 4,
    max_completion_length: int = 256,
    timeout: float | None = None,
    seed: int = 0,
) -> Audit:
    """Score right answers, wrong answers and exploits, and say which of them are paid as if they were right.

    A right answer is the row's `answer` in each of `forms`, or a whole solution in another column
    (`exploits.SOLUTIONS`), where the task's verifier accepts it (or all, without a verifier). What counts is the best
    score that one of them earns: a wrong completion or an exploit that earns as much for the same row is a *hole*.
    Exploits that may be right by luck, such as the prompt's numbers, are one only where they are paid in clearly more
    than a quarter of the rows.

    Args:
        reward: a reward function, a rubric, or what else `resolve_all` reads; of several the weighted sum is judged.
        task: a Task, its name, or rows; None: only the reward's golden set.
        model, tokenizer: also score what this model says (a causal LM with its tokenizer, or a name for load_model);
            the task's verifier tells right from wrong there.
        n: rows of the task's train side.
        weights: one number a reward function; default all 1.
        golden: a golden set; default the one that the reward has, as its attribute `golden` or by its registry name.
        forms: how an answer stands in a completion that the reward expects, ``{answer}`` in its place.
        samples, max_completion_length, seed: of the model's completions a row.
        timeout: seconds that one call of a reward function may take.

    Raises `ConfigError` where there is nothing to score, or the rows lack a column that the reward needs.

    >>> audit("correct_number", "arithmetic").ok
    True
    """
    functions, names, own = _parts(reward)
    title = getattr(functions, "name", None)  # a rubric's
    golden = golden or own
    weights = [1.0] * len(functions) if weights is None else list(weights)
    if len(weights) != len(functions):
        raise bad_value(
            "weights", weights, f"one number a reward function, of which there are {len(functions)}"
        )
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise bad_value("n", n, "a whole number of rows, 1 or more")
    if task is None and golden is None:
        advice = "This reward has no golden set of its own, so there is nothing to try it with."
        raise bad_value("task", None, "a task, a task's name, or rows", advice)

    notes: list[str] = []
    scored = [] if golden is None else _golden_completions(golden)
    if task is not None:
        task_name, rows, verifier = _rows(task)
        chosen = rows[:n]
        _check_columns(functions, chosen[0], task_name)
        judge = _Judge(verifier)
        scored += _task_completions(chosen, rows, forms, judge, notes)
        if model is not None:
            scored += _sampled(model, tokenizer, chosen, judge, samples, max_completion_length, seed)
        notes += judge.notes
    elif model is not None:
        raise bad_value("task", None, "a task to ask the model about")

    failed = _score(scored, functions, names, weights, timeout)
    _set_due(scored)
    about = "its golden set" if task is None else f"{len(chosen)} row{'s' * (len(chosen) > 1)} of {task_name}"
    if task is not None and golden is not None:
        about += " and its golden set"
    name = f"rubric {title!r}" if title else " + ".join(names)
    return Audit(name, about, scored, lines_of(scored), holes(scored, golden, failed), notes)


# --- what is tried -----------------------------------------------------------------------------------------


def _parts(reward: Any) -> tuple[list[Callable[..., Any]], list[str], GoldenSet | None]:
    """The reward functions, their names, and the golden set that belongs to the reward as a whole."""
    functions = registry.resolve_all(reward)
    names: list[str] = []
    for name in map(reward_name, functions):
        unique, copies = name, 1
        while unique in names:
            copies += 1
            unique = f"{name}_{copies}"
        names.append(unique)
    golden = getattr(reward, "golden", None)
    if golden is None and len(functions) == 1:
        known = reward if isinstance(reward, str) else reward_name(functions[0])
        if isinstance(reward, str) or registry.offers().functions.get(known) is functions[0]:
            golden = registry.offers().golden.get(known)
        golden = golden or getattr(functions[0], "golden", None)
    return functions, names, golden


def _rows(task: Any) -> tuple[str, list[dict[str, Any]], Callable[..., bool] | None]:
    """A task's name, some of its train rows and its verifier; of plain rows the rows."""
    if isinstance(task, str):
        from rlkit import tasks  # here: tasks are built on rewards

        task = tasks.load(task)
    source = getattr(task, "train", task)
    rows = [dict(row) for row in islice(iter(source), _ROWS_LOOKED_AT)]
    if not rows or any("prompt" not in row for row in rows):
        raise bad_value("task", f"{task!r:.80}", "a task, its name, or rows with a prompt")
    return getattr(task, "name", "the data set"), rows, getattr(task, "verifier", None)


def _check_columns(functions: Sequence[Callable[..., Any]], row: Mapping[str, Any], task: str) -> None:
    for function in functions:
        missing = [name for name in required_columns(function) if name not in row]
        if missing:
            has = ", ".join(name for name in row if name != "prompt") or "none beside prompt"
            raise ConfigError(
                f"reward function {reward_name(function)!r} asks for a column {missing[0]!r}, which {task} does not "
                f"have. Its columns: {has}. Try it on a task that has it, or on rows of your own"
            )


def _columns(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in ("prompt", "completion")}


def _as_given(prompt: Any, text: str) -> Any:
    """A completion in the form of its prompt: a string, or a list with one message."""
    return text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]


class _Judge:
    """The task's verifier, which may not raise either."""

    def __init__(self, verifier: Callable[..., bool] | None) -> None:
        self.verifier = verifier
        self.notes: list[str] = []

    def __call__(self, text: str, row: Mapping[str, Any]) -> bool:
        assert self.verifier is not None
        try:
            return bool(self.verifier(_as_given(row["prompt"], text), **_columns(row)))
        except Exception as error:
            if not self.notes:
                self.notes.append(
                    f"the task's verifier raised {type(error).__name__}: {error} for {text!r:.80}; counted as wrong"
                )
            return False


def _golden_completions(golden: GoldenSet) -> list[Scored]:
    def made(group: str, example: Example) -> Scored:
        note = f": {example.note}" if example.note and group == "exploit" else ""
        return Scored(
            group,
            f"golden {group}{note}",
            example.completion,
            example.prompt,
            dict(example.columns),
            "golden",
            fools=example.fools,
        )

    groups = (("right", golden.right), ("wrong", golden.wrong), ("exploit", golden.exploits))
    return [made(group, example) for group, examples in groups for example in examples]


def _task_completions(
    chosen: Sequence[dict[str, Any]],
    rows: Sequence[dict[str, Any]],
    forms: Sequence[str],
    judge: _Judge,
    notes: list[str],
) -> list[Scored]:
    """Right answers, wrong ones and exploits for each row, as far as the verifier agrees that they are that."""
    answers = [answer for row in rows if (answer := answer_of(row)) is not None]
    scored = []
    without = 0
    for number, row in enumerate(chosen):
        others, rest = answers[number + 1 :] + answers[:number], [*chosen[number + 1 :], *chosen[:number]]
        right = [t for t in right_trials(row, forms) if judge.verifier is None or judge(t.text, row)]
        wrong = [
            t
            for t in wrong_trials(row, others, forms, rest)
            if judge.verifier is None or not judge(t.text, row)
        ]
        exploits = exploit_trials(row, answers, number < _HUGE_ROWS, forms, rest)
        without += not right
        for group, trials in (("right", right), ("wrong", wrong), ("exploit", exploits)):
            scored += [
                Scored(group, t.kind, t.text, row["prompt"], _columns(row), row=number, by_chance=t.by_chance)
                for t in trials
            ]
    if without:
        notes.append(
            f"{without} of {len(chosen)} rows have no right answer to compare with: none in a column 'answer', or none "
            "that the task's verifier accepts. The argument forms says how an answer stands in a completion"
        )
    return scored


def _sampled(
    model: Any,
    tokenizer: Any,
    rows: Sequence[dict[str, Any]],
    judge: _Judge,
    samples: int,
    tokens: int,
    seed: int,
) -> list[Scored]:
    """What the model says, right or wrong by the verifier."""
    from rlkit.engines import HFEngine, Sampling  # here: everything above does without torch
    from rlkit.rollout import tokenize_prompts

    if isinstance(model, str | os.PathLike):
        from rlkit.models import load_model

        model, loaded = load_model(model)
        tokenizer = tokenizer or loaded
    if tokenizer is None:
        raise bad_value("tokenizer", None, "the model's tokenizer", "Or give the model by its name.")
    if judge.verifier is None:
        judge.notes.append("without a verifier nobody can say which of the model's completions are right")
    ids = tokenize_prompts(tokenizer, [row["prompt"] for row in rows])[1]
    with HFEngine(model, tokenizer) as engine:
        completions = engine.generate(ids, Sampling(n=samples, max_tokens=tokens, seed=seed))
    scored = []
    for i, completion in enumerate(completions):
        row = rows[i // samples]
        group = "unknown"
        if judge.verifier is not None:
            group = "right" if judge(completion.text, row) else "wrong"
        columns = {**_columns(row), "completion_ids": completion.token_ids}
        kind = "sampled" if judge.verifier is None else f"sampled, {group}"
        scored.append(Scored(group, kind, completion.text, row["prompt"], columns, "model", row=i // samples))
    return scored


# --- what it earns -----------------------------------------------------------------------------------------


def _score(
    scored: Sequence[Scored],
    functions: Sequence[Callable[..., Any]],
    names: Sequence[str],
    weights: Sequence[float],
    timeout: float | None,
) -> list[str]:
    """Fill in scores and parts, and return how functions failed on whole batches.

    Completions with the same columns make one batch.
    """
    failed: list[str] = []
    caller = RewardCaller(on_error="skip", timeout=timeout, quiet=True)
    batches: dict[tuple[str, ...], list[Scored]] = {}
    for s in scored:
        ids = [0] * (len(s.text) // 4 + 1)  # about as many as there would be
        s.columns.setdefault("completion_ids", ids)
        batches.setdefault((*sorted(s.columns), type(s.prompt).__name__), []).append(s)
    for batch in batches.values():
        given = {
            "prompts": [s.prompt for s in batch],
            "completions": [_as_given(s.prompt, s.text) for s in batch],
            **{name: [s.columns[name] for s in batch] for name in batch[0].columns},
        }
        numbers = caller(functions, given, "an audit", names)
        for i, s in enumerate(batch):
            s.parts = {
                name: None if math.isnan(column[i]) else column[i]
                for name, column in zip(names, numbers, strict=True)
            }
            said = [
                weight * value
                for weight, value in zip(weights, s.parts.values(), strict=True)
                if value is not None
            ]
            s.score = sum(said) if said else None
        for failure in caller.failures:
            batch[failure.index].failure = f"{failure.name} {failure.reason}"
        failed += caller.together
    return failed


def _set_due(scored: Sequence[Scored]) -> None:
    """What a right answer earns: in a row the best of them, in a golden set the least."""
    best: dict[int, float] = {}
    for s in scored:
        if s.group == "right" and s.score is not None and s.source != "golden":
            best[s.row] = max(s.score, best.get(s.row, -math.inf))
    golden = [s.score for s in scored if s.group == "right" and s.source == "golden" and s.score is not None]
    for s in scored:
        s.due = min(golden, default=None) if s.source == "golden" else best.get(s.row)
