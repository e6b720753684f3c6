"""A data set of the package reasoning-gym as a task: about a hundred kinds of puzzles, made and judged by programs.

    tasks.reasoning_gym("leg_counting", size=400, max_animals=2)

reasoning-gym (https://github.com/open-thought/reasoning-gym, Apache 2.0) makes questions from a seed and judges answers
with its own scorer, from 0 to 1; the verifier here calls right what it scores 1. Nothing of it is imported before a
task is made or judged.

What the scorer gets is the answer, not the whole completion (`stated_answer`): what stands between <answer> tags, else
what follows the last "answer:" or "answer is" in its line, else everything. Where all answers of a data set are
numbers, the last number in that counts, as everywhere in rlkit.
"""

from __future__ import annotations

import importlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

from rlkit.errors import ConfigError, RewardError, bad_value, unknown_name
from rlkit.rewards.answers import stated_answer
from rlkit.rewards.numbers import NUMBER, number_found
from rlkit.rewards.text import Completion, completion_text
from rlkit.rewards.verifiers import reward_from
from rlkit.tasks.base import Task
from rlkit.tasks.prompts import as_prompt, check_whole, check_wording

VERSION = (
    "0.1.25"  # what the pin in pyproject.toml installs: another one may make other questions from a seed
)

EVALUATES_ANSWERS = frozenset(
    {
        *("binary_matrix", "n_queens", "spiral_matrix", "string_insertion"),  # eval(answer)
        *("countdown", "puzzle24", "polynomial_multiplication"),  # sympy.parse_expr(answer), which evals
        *("simple_integration", "intermediate_integration"),
        "composite",  # any of them
    }
)
"""Data sets whose scorer (version 0.1.25) runs the answer as Python code."""

_TRIES = 8  # items looked at for each question that is wanted, before the questions count as used up


def reasoning_gym(
    dataset: str,
    size: int = 500,
    test_size: int = 100,
    seed: int = 0,
    chat: bool = True,
    system_prompt: str | None = None,
    examples: int = 3,
    partial_credit: bool = False,
    allow_eval: bool = False,
    **dataset_config: Any,
) -> Task:
    """Return `size` train and `test_size` test questions of reasoning-gym's data set `dataset`.

    Rows are ``{"prompt": …, "answer": "42", "entry": "{…}"}``: `entry` is the whole item of the data set as JSON text,
    which its scorer needs. With `chat` the prompt is a list of messages: the system prompt (None: none), `examples`
    worked examples as earlier turns, the question. Without it, the same as one text. `dataset_config` are the fields
    of the data set's own configuration, such as ``max_animals=2``.

    All questions, those of the examples too, differ from each other as texts ("3 + 5" and "5 + 3" are two questions).
    The same arguments give the same task for one version of reasoning-gym.

    Rewards: 1 where the scorer says 1, else 0, beside `number_found` where the answers are numbers; `partial_credit`
    adds what the scorer gives to answers that are partly right (some scorers pay for mentioning the answer, or for
    form). `allow_eval` admits the data sets in `EVALUATES_ANSWERS`, whose scorers run what the model wrote as Python
    code: only for models and machines where that does no harm.

    Raises `ConfigError` where the package is missing, the name or a field of the configuration is unknown, a value
    cannot work, there are too few different questions, or the scorer does not accept the data set's own answers.
    """
    for name, number, low in (("size", size, 1), ("test_size", test_size, 1), ("examples", examples, 0)):
        check_whole(name, number, low, 100_000)
    check_wording(seed, system_prompt)
    _check_dataset(dataset, dataset_config, allow_eval)

    entries = items(dataset, examples + test_size + size, seed, dataset_config)
    numeric = all(NUMBER.fullmatch(entry["answer"] or "") for entry in entries)
    judge = Judge(dataset, json.dumps(dataset_config, sort_keys=True), numeric)
    texts = [pack(entry, dataset) for entry in entries]
    _check_judge(judge, entries[:50], texts[:50])

    shots = [(entry["question"], entry["answer"] or "") for entry in entries[:examples]]
    rows = [
        {
            "prompt": as_prompt(entry["question"], chat, system_prompt, shots),
            "answer": entry["answer"] or "",
            "entry": text,
        }
        for entry, text in zip(entries[examples:], texts[examples:], strict=True)
    ]
    rewards = [reward_from(judge, name="correct_answer")]
    if numeric:
        rewards.insert(0, number_found)
    if partial_credit:
        rewards.append(judge.partial_credit)
    config = "".join(f", {key}={value!r}" for key, value in dataset_config.items())
    read = "the last number in the stated answer" if numeric else "the stated answer"
    return Task(
        name=f"reasoning_gym/{dataset}",
        train=rows[test_size:],
        test=rows[:test_size],
        verifier=judge,
        reward_funcs=tuple(rewards),
        description=f"{dataset}{config} of reasoning-gym {VERSION}; no question on both sides",
        licence="Apache-2.0 (reasoning-gym)",
        source=f"https://github.com/open-thought/reasoning-gym, version {VERSION}",
        seed=seed,
        columns={
            "prompt": f"{examples} worked examples and the question",
            "answer": "an answer that is right; empty where the data set holds none",
            "entry": "the whole item as JSON text, for the scorer",
        },
        judging=(
            f"the data set's own scorer gets {read} (in <answer> tags, or after 'answer:', or all); right is what "
            "it scores 1"
        ),
        weaknesses=(
            "Both sides come from one generator with one set of settings: the test side shows nothing about harder or "
            "other puzzles.",
            *(
                ["The scorer runs what the model wrote as Python code."]
                if dataset in EVALUATES_ANSWERS
                else []
            ),
            *(
                ["Partial credit is the scorer's: some pay for form, or for naming the answer among others."]
                if partial_credit
                else []
            ),
        ),
    )


def items(dataset: str, wanted: int, seed: int, config: dict[str, Any]) -> list[dict[str, Any]]:
    """Return `wanted` items of a data set with different questions; each has question, answer and metadata.

    Raises `ConfigError` where the package is missing, or so many different questions cannot be made.
    """
    # Neighbouring seeds of reasoning-gym share almost all items (item i is made from seed + i): spread ours.
    source_seed = random.Random(f"{dataset}/{seed}").randrange(2**31)
    made = _make(dataset, {**config, "seed": source_seed, "size": _TRIES * wanted})
    return _different(made, wanted, dataset)


@dataclass(frozen=True)
class Judge:
    """The verifier of one data set: right is what its own scorer gives 1.

    `config` is the data set's configuration as JSON text; `numeric`: the last number of a stated answer counts.
    A scorer that raises on an answer could not read it, and gives it 0.
    """

    dataset: str
    config: str = "{}"
    numeric: bool = False
    __name__ = "correct_answer"

    def __call__(self, completion: Completion, *, entry: str, **columns: Any) -> bool:
        return self.score(completion, entry) >= 1

    def score(self, completion: Completion, entry: str) -> float:
        """Return the scorer's verdict on what `completion` states as its answer, from 0 to 1."""
        item = unpack(entry)
        stated = stated_answer(completion_text(completion), self.numeric)
        candidates = {stated, stated.strip("*`\"'“” ").rstrip(".").strip("*`\"'“” ")}
        return max(self._score(answer, item) for answer in candidates)

    def _score(self, answer: str, item: dict[str, Any]) -> float:
        scorer = _scorer(self.dataset, self.config)
        try:
            score = float(scorer.score_answer(answer, item))
        except Exception:  # the scorer's parser met what a model wrote
            return 0.0
        return score if 0 <= score <= 1 else 0.0

    def partial_credit(
        self, prompts: Sequence[Any], completions: Sequence[Completion], entry: Sequence[str], **columns: Any
    ) -> list[float | None]:
        """Reward 0 to 1: the scorer's own verdict, with what it gives to answers that are partly right."""
        return [self.score(completion, row) for completion, row in zip(completions, entry, strict=True)]


def pack(entry: dict[str, Any], dataset: str = "") -> str:
    """Return an item of a data set as JSON text from which `unpack` makes it again, tuples and number keys included.

    Raises `ConfigError` where it holds what JSON cannot.
    """

    def plain(value: Any) -> Any:
        if isinstance(value, tuple | set | frozenset):
            values = sorted(value, key=repr) if not isinstance(value, tuple) else value
            return {"*": type(value).__name__, "values": [plain(v) for v in values]}
        if isinstance(value, dict):
            if all(isinstance(key, str) for key in value) and "*" not in value:
                return {key: plain(v) for key, v in value.items()}
            return {"*": "dict", "values": [[plain(k), plain(v)] for k, v in value.items()]}
        return [plain(v) for v in value] if isinstance(value, list) else value

    try:
        return json.dumps(plain(entry), ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise bad_value("dataset", dataset, "one whose items can be written as JSON", f"({error})") from error


def unpack(text: str) -> dict[str, Any]:
    """Return the item that `pack` wrote. Raises `RewardError` for other text."""
    kinds = {"tuple": tuple, "set": set, "frozenset": frozenset, "dict": dict}

    def rebuilt(value: dict[str, Any]) -> Any:
        if "*" not in value:
            return value
        return kinds[value["*"]](value["values"])

    try:
        entry = json.loads(text, object_hook=rebuilt)
    except (TypeError, ValueError, KeyError) as error:
        raise RewardError(f"entry={text!r:.80} is not what tasks.reasoning_gym wrote ({error})") from error
    if not isinstance(entry, dict):
        raise RewardError(f"entry={text!r:.80} is not what tasks.reasoning_gym wrote")
    return entry


def _package() -> Any:
    """Import reasoning_gym's registry, or say how to install it."""
    try:
        return importlib.import_module("reasoning_gym.factory"), importlib.import_module("reasoning_gym")
    except ImportError as error:
        raise ConfigError(
            f"the task 'reasoning_gym' needs the package reasoning-gym ({type(error).__name__}: {error}). "
            f"Install it with: pip install 'rlkit-notebooks[tasks]' (or pip install reasoning-gym=={VERSION})"
        ) from error


def _check_dataset(dataset: str, config: dict[str, Any], allow_eval: bool) -> None:
    """Refuse an unknown data set or field, one that evaluates answers, and what is not plain data."""
    factory, _ = _package()
    if not isinstance(dataset, str):
        raise bad_value("dataset", dataset, "the name of a data set, such as 'leg_counting'")
    if dataset not in factory.DATASETS:
        raise unknown_name("reasoning-gym data set", dataset, factory.DATASETS)
    if dataset in EVALUATES_ANSWERS and allow_eval is not True:
        cause = "Its scorer runs what the model wrote as Python code; allow_eval=True takes that risk."
        raise bad_value("dataset", dataset, "a data set whose scorer only reads answers", cause)
    known = [field.name for field in fields(factory.DATASETS[dataset][1])]
    for name in config:
        if name not in known:
            own = ["size", "test_size", "chat", "system_prompt", "examples", "partial_credit", "allow_eval"]
            raise unknown_name(f"setting of reasoning-gym's {dataset!r}:", name, {*known, *own})
    try:
        json.dumps(config)
    except TypeError as error:
        raise bad_value("dataset_config", config, "numbers, texts, truth values and lists of them") from error


def _make(dataset: str, config: dict[str, Any]) -> Any:
    """Make the data set; what its own checks say becomes a `ConfigError`."""
    _, gym = _package()
    try:
        return gym.create_dataset(dataset, **config)
    except Exception as error:  # assertions, mostly
        shown = {key: value for key, value in config.items() if key not in ("seed", "size")}
        raise bad_value(
            f"settings of reasoning-gym's {dataset!r}",
            shown,
            "what its configuration accepts",
            f"It says: {type(error).__name__}: {error}",
        ) from error


@lru_cache(maxsize=8)
def _scorer(dataset: str, config: str) -> Any:
    """The data set as a scorer; its seed and size do not matter for that."""
    return _make(dataset, {**json.loads(config), "seed": 0, "size": 1})


def _different(made: Any, wanted: int, dataset: str) -> list[dict[str, Any]]:
    """Return `wanted` items with different questions, in the data set's order."""
    entries: dict[str, dict[str, Any]] = {}
    for i in range(_TRIES * wanted):
        try:
            entry = made[i]
        except Exception as error:
            raise bad_value(
                f"settings of reasoning-gym's {dataset!r}",
                {"item": i},
                "settings from which items can be made",
                f"Making this item failed: {type(error).__name__}: {error}",
            ) from error
        entries.setdefault(entry["question"], entry)
        if len(entries) == wanted:
            return list(entries.values())
    raise ConfigError(
        f"size, test_size and examples ask for {wanted} different questions, but {_TRIES * wanted} items of "
        f"{dataset!r} hold only {len(entries)}. Ask for fewer, or widen the data set's settings."
    )


def _check_judge(judge: Judge, entries: list[dict[str, Any]], texts: list[str]) -> None:
    """Refuse a data set whose own answers, where it has some, are not right after all that happens to them here."""
    for entry, text in zip(entries, texts, strict=True):
        if entry["answer"] and not judge(entry["answer"], entry=text):
            raise bad_value(
                "dataset",
                judge.dataset,
                "one whose scorer accepts its own answers",
                f"To {entry['answer']!r:.80} it gives {judge.score(entry['answer'], text):g}.",
            )
