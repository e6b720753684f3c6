"""GSM8K: grade-school word problems of two to eight steps, with whole numbers for answers; and a stand-in for it.

    A shelf holds 12 books and a box half as many. Two books are lent. How many are there now?   →   16

The problems are those of https://github.com/openai/grade-school-math (arXiv:2110.14168, MIT licence), 7473 to train on
and 1319 to be tested with, read from the Hugging Face Hub. Where that cannot be reached, ``gsm_symbolic`` of
reasoning-gym makes problems of the same kind, with the same columns, and the task says so.
"""

from __future__ import annotations

import re
import warnings
from typing import Any

from rlkit.config import ConfigWarning
from rlkit.errors import ConfigError, bad_value
from rlkit.rewards.numbers import NUMBER, correct_number, number_found
from rlkit.tasks.base import Task
from rlkit.tasks.card import GUESSED, LAST_NUMBER
from rlkit.tasks.hub_data import load_hub, page
from rlkit.tasks.prompts import as_prompt, check_whole, check_wording
from rlkit.tasks.reasoning_gym import VERSION, items

HUB_NAME = "openai/gsm8k"
SOURCES = ("auto", "hub", "synthetic")
SIZES = {"train": 7473, "test": 1319}
"""Rows of GSM8K's own split."""

_CALCULATOR = re.compile(r"<<[^<>]*>>")  # "48/2=<<48/2=24>>24": for a calculator, not for a reader
_INSTRUCTION = " Give the result as your final answer. Do not include units."  # ends each synthetic question

_COLUMNS = {
    "prompt": "the question",
    "answer": "the number that solves it, as text without commas",
    "solution": "the working in sentences, without the number in the end; for a warm start",
}


def gsm8k(
    train_size: int | None = None,
    test_size: int | None = None,
    chat: bool = True,
    system_prompt: str | None = None,
    source: str = "auto",
    seed: int = 0,
) -> Task:
    """Return GSM8K, or what stands in for it without a network.

    Rows are ``{"prompt": …, "answer": "72", "solution": "In May she sold 48/2 = 24 of them. …"}``: with `chat` the
    prompt is a list of messages, the system prompt first (None: none), else one text that ends in "Answer:". The
    verifier takes the last number of a completion.

    `source` is "hub" for GSM8K itself in its own split (`train_size` and `test_size` take the first rows of each side;
    None: all); "synthetic" for as many problems of reasoning-gym's ``gsm_symbolic``, made from `seed`, no question on
    both sides; "auto" for the first where it can be read, else the second, with a warning. The task's name tells which
    it is ("gsm8k" or "gsm8k/synthetic"): results on the one say nothing about the other.

    Raises `ConfigError` for values out of range, or where neither can be had.
    """
    if source not in SOURCES:
        raise bad_value("source", source, " or ".join(map(repr, SOURCES)))
    for name, size, side in (("train_size", train_size, "train"), ("test_size", test_size, "test")):
        if size is not None:
            check_whole(
                name, size, 1, SIZES[side], f"GSM8K has {SIZES[side]} rows on that side; None takes all."
            )
    check_wording(seed, system_prompt)
    wanted = {"train": train_size or SIZES["train"], "test": test_size or SIZES["test"]}
    if source == "synthetic":
        return _synthetic(wanted, chat, system_prompt, seed, ())
    try:
        data = load_hub(HUB_NAME, "main")
    except ConfigError as error:
        if source == "hub":
            raise
        return _stand_in(wanted, chat, system_prompt, seed, error)
    sides = {
        side: [
            _row(*read_answer(row["question"], row["answer"]), chat, system_prompt)
            for row in data[side].select(range(min(wanted[side], len(data[side]))))
        ]
        for side in wanted
    }
    return Task(
        name="gsm8k",
        **sides,
        verifier=correct_number.verifier,  # type: ignore[attr-defined]
        reward_funcs=(number_found, correct_number),
        description="GSM8K: word problems of grade school, two to eight steps each, in its own split",
        licence="MIT",
        source=page(HUB_NAME),
        columns=_COLUMNS,
        judging=LAST_NUMBER,
        weaknesses=(
            GUESSED,
            "Some answers are wrong and some questions ambiguous (arXiv:2502.03461): 100 % is out of reach.",
            "Public since 2021: models may have read the problems, the test side too, in pretraining "
            "(arXiv:2405.00332).",
        ),
    )


def read_answer(question: str, answer: str) -> tuple[str, str, str]:
    """Return question, number and working of one row of GSM8K, whose answers end in "#### 1,200".

    Raises `ConfigError` for another form.

    >>> read_answer("How many?", "In May 48/2 = <<48/2=24>>24 clips.\\n#### 24")
    ('How many?', '24', 'In May 48/2 = 24 clips.')
    """
    working, mark, number = answer.rpartition("####")
    number = number.strip()
    if not mark or not NUMBER.fullmatch(number):
        raise ConfigError(
            f"the answer {answer[-80:]!r} does not end in '#### ' and a number, as GSM8K's do; is it another data set?"
        )
    return question.strip(), number.replace(",", ""), _CALCULATOR.sub("", working).strip()


def _row(question: str, answer: str, solution: str, chat: bool, system_prompt: str | None) -> dict[str, Any]:
    return {"prompt": as_prompt(question, chat, system_prompt), "answer": answer, "solution": solution}


def _stand_in(
    wanted: dict[str, int], chat: bool, system_prompt: str | None, seed: int, why: ConfigError
) -> Task:
    """The synthetic problems with a warning, or an error that says why neither can be had."""
    note = f"GSM8K itself could not be read: {why}"
    try:
        task = _synthetic(wanted, chat, system_prompt, seed, (note,))
    except ConfigError as error:
        raise ConfigError(f"{note}. Nor can anything stand in for it: {error}") from why
    warnings.warn(
        f"{note}. reasoning-gym's gsm_symbolic stands in for it: problems of the same kind with the same columns, but "
        "results are not comparable with GSM8K's. source='synthetic' asks for it without this warning",
        ConfigWarning,
        stacklevel=3,
    )
    return task


def _synthetic(
    wanted: dict[str, int], chat: bool, system_prompt: str | None, seed: int, notes: tuple[str, ...]
) -> Task:
    """As many problems of reasoning-gym's gsm_symbolic, in the same form."""
    made = items("gsm_symbolic", sum(wanted.values()), seed, {})
    rows = []
    for item in made:
        working, _, _ = str(item["metadata"]["answer_cot"]).rpartition("####")
        question = item["question"].removesuffix(_INSTRUCTION)
        rows.append(_row(question, item["answer"].replace(",", ""), working.strip(), chat, system_prompt))
    return Task(
        name="gsm8k/synthetic",
        train=rows[wanted["test"] :],
        test=rows[: wanted["test"]],
        verifier=correct_number.verifier,  # type: ignore[attr-defined]
        reward_funcs=(number_found, correct_number),
        description="problems in the manner of GSM8K, made by reasoning-gym's gsm_symbolic; not GSM8K itself",
        licence="Apache-2.0 (reasoning-gym); its templates retell those of GSM-Symbolic, whose data is CC BY-NC-ND 4.0",
        source=f"reasoning-gym {VERSION}, gsm_symbolic, after GSM-Symbolic (arXiv:2410.05229)",
        seed=seed,
        columns=_COLUMNS,
        judging=LAST_NUMBER,
        weaknesses=(
            GUESSED,
            "All problems come from 85 templates with other names and numbers, the same ones on both sides: the test "
            "side shows what was learned of these templates, not of word problems in general.",
            "Results are not comparable with results on GSM8K.",
        ),
        notes=notes,
    )
