"""Notebook 03: a verifier for numbers, a reward function in TRL's signature, proximity, and a rubric's sum."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from typing import Any

from rlkit import rewards
from rlkit.exercises.exercise import Exercise, Wrong

# --- a verifier for the last number ----------------------------------------------------------------------------------


def is_right(completion: str, answer: str) -> bool:
    numbers = re.findall(r"(?<!\d)-?\d[\d,]*(?:\.\d+)?", completion)
    if not numbers:
        return False
    said = float(numbers[-1].replace(",", ""))
    return said == float(answer)


_NUMBER = r"(?<!\d)-?\d[\d,]*(?:\.\d+)?"


def _reads(pattern: str, place: int = -1) -> Callable[..., Any]:
    """A verifier that finds its numbers by `pattern`, and takes the one at `place`."""

    def verifier(completion: str, answer: str) -> bool:
        numbers = re.findall(pattern, completion)
        return bool(numbers) and float(numbers[place].replace(",", "")) == float(answer)

    return verifier


def _as_text(completion: str, answer: str) -> bool:
    numbers = re.findall(_NUMBER, completion)
    return bool(numbers) and numbers[-1] == answer


def _needs_a_number(completion: str, answer: str) -> bool:
    return float(re.findall(_NUMBER, completion)[-1].replace(",", "")) == float(answer)


def _texts(rng: random.Random) -> list[tuple[Any, ...]]:
    a, b = rng.sample(range(12, 99), 2)
    thousand = rng.randint(100, 999)
    right = [f"{a}", f"{a - 7}+7={a}", f"{b}? No, {a}.", f"{a}.0"]
    wrong = [f"{b}", f"{a} or {b}", f"-{a}", f"{a}{rng.randint(1, 9)}", "I do not know", ""]
    others = [(f"1,{thousand}", f"1{thousand}"), (f"-{a}", f"-{a}"), (f"{a + b}-{b}", f"{b}")]
    return [(text, f"{a}") for text in right + wrong] + others


def _verdict(completion: str, answer: str) -> bool:
    return rewards.verify_number(completion, answer)


VERIFIER = Exercise(
    name="03-verifier",
    title="A verifier for the last number",
    difficulty="medium",
    minutes=10,
    hint=(
        r"`re.findall(pattern, completion)` gives all matches; the last one counts, and there may be none. The pattern "
        r"`(?<!\d)-?\d[\d,]*(?:\.\d+)?` reads a sign (if no digit stands before it), digits and commas, and decimals. "
        "Compare as float."
    ),
    solution=is_right,
    cases=_texts,
    expected=_verdict,
    wrong=(
        Wrong(
            "contains",
            "You ask whether the answer occurs anywhere. Then '42 or 43' is right, '421' as well, and a list of all "
            "numbers always is. Take one number, the last, and compare that.",
            lambda completion, answer: answer in completion,
        ),
        Wrong(
            "whole text",
            "You compare the whole text, so '17+25=42' and '42.0' are wrong: a false negative punishes a right answer. "
            "Find the last number in the text first, then compare values.",
            lambda completion, answer: completion.strip() == answer,
        ),
        Wrong(
            "first number",
            "You take the first number. In '17+25=42' that is 17, and in '42 or 43' it pays for hedging. "
            "The last number counts: index −1.",
            _reads(_NUMBER, place=0),
        ),
        Wrong(
            "as text",
            "You found the right number and compare it as text: '42.0' and '1,234' are then wrong for 42 and 1234. "
            "Remove the commas and compare float with float.",
            _as_text,
        ),
        Wrong(
            "digits only",
            r"Your numbers are runs of digits, so '42.0' ends in 0, '1,234' in 234, and −42 passes for 42. Let the "
            r"pattern take a sign, commas and decimals as well.",
            _reads(r"\d+"),
        ),
        Wrong(
            "whole numbers only",
            r"Your pattern -?\d+ reads whole numbers: '42.0' ends in 0 and '1,234' in 234. Let it take commas and "
            r"decimals, [\d,]* and (?:\.\d+)?; and a minus after a digit, as in '50-8', is no sign.",
            _reads(r"-?\d+"),
        ),
        Wrong(
            "a group that captures",
            r"With brackets (…) in the pattern, re.findall returns what stands in the *brackets*, here '' or '.0', and "
            r"not the number. Write (?:…) for brackets that only hold together.",
            _reads(r"(?<!\d)-?\d[\d,]*(\.\d+)?"),
        ),
        Wrong(
            "every minus is a sign",
            "You read every minus as a sign, so '50-8' ends in −8. A minus after a digit is a subtraction: put the "
            r"lookbehind (?<!\d) before it.",
            _reads(r"-?\d[\d,]*(?:\.\d+)?"),
        ),
        Wrong(
            "stops without a number",
            "It stops with an IndexError where the text holds no number. A model says anything, the empty text too: "
            "no number is simply wrong. Return False before you take the last one.",
            _needs_a_number,
        ),
    ),
    praise="It agrees with rewards.verify_number on all of them.",
)

# --- a reward function in TRL's signature ----------------------------------------------------------------------------


def pay(prompts, completions, answer, **columns):  # type: ignore[no-untyped-def]
    scores = []  # type: ignore[var-annotated]
    for completion, right in zip(completions, answer):
        text = rewards.completion_text(completion)
        if right is None:
            scores.append(None)  # type: ignore[arg-type]
        elif rewards.verify_number(text, right):
            scores.append(2.0)
        elif rewards.last_number(text) is not None:
            scores.append(0.5)
        else:
            scores.append(-1.0)
    return scores


def _paid_by_parts(
    prompts: Sequence[Any], completions: Sequence[Any], answer: Sequence[Any], **columns: Any
) -> list[float | None]:
    """Another way: two of the library's reward functions, put together."""
    known = [one if one is not None else "0" for one in answer]
    found = rewards.number_found(prompts, completions)  # +1 or -1
    right = rewards.correct_number(prompts, completions, answer=known)  # +3 or -3
    table = {(1.0, 3.0): 2.0, (1.0, -3.0): 0.5, (-1.0, -3.0): -1.0}
    return [
        None if one is None else table[float(f or 0), float(r or 0)]
        for one, f, r in zip(answer, found, right)
    ]


def _changed(change: Callable[[list[Any]], Any]) -> Callable[..., Any]:
    def answer(prompts: Any, completions: Any, answer: Any, **columns: Any) -> Any:
        return change(pay(prompts, completions, answer))

    return answer


def _mean(scores: list[Any]) -> float:
    known = [score for score in scores if score is not None]
    return sum(known) / len(known)


def _first_answer(prompts: Any, completions: Any, answer: Any, **columns: Any) -> Any:
    return pay(prompts, completions, [answer[0]] * len(completions))


def _plain_texts_only(prompts: Any, completions: Any, answer: Any, **columns: Any) -> Any:
    if not all(isinstance(completion, str) for completion in completions):
        raise TypeError
    return pay(prompts, completions, answer)


def _batches(rng: random.Random) -> list[tuple[Any, ...]]:
    a, b, c = rng.sample(range(12, 99), 3)

    def said(text: str) -> list[dict[str, str]]:
        return [{"role": "assistant", "content": text}]

    return [
        (["?"] * 3, [f"{a}", f"{b}", "cat"], [f"{a}"] * 3),
        (["?"] * 3, [f"it is {b}", f"{c}", f"{a}"], [f"{b}", f"{c}", f"{b}"]),
        (["?"] * 3, [f"{a}", f"{b}", "dog"], [f"{a}", None, None]),
        ([said("?")] * 2, [said(f"{c}!"), said("no idea")], [f"{c}", f"{a}"]),
    ]


REWARD = Exercise(
    name="03-reward",
    title="A reward function as trainers call it",
    difficulty="medium",
    minutes=8,
    hint=(
        "Walk through `zip(completions, answer)`: the i-th completion belongs to the i-th answer. Get the text with "
        "`rewards.completion_text`, ask `rewards.verify_number` and `rewards.last_number`, and test for None first."
    ),
    solution=pay,
    cases=_batches,
    expected=_paid_by_parts,
    wrong=(
        Wrong(
            "one number for all",
            "You return one number for the whole batch. A trainer compares completions with each other, so it needs a "
            "list: one entry a completion, in their order.",
            _changed(_mean),
        ),
        Wrong(
            "the first answer for all",
            "You compare every completion with answer[0]. Columns are lists, and a batch holds several problems: "
            "zip(completions, answer) gives each completion its own.",
            _first_answer,
        ),
        Wrong(
            "zero for not mine",
            "You pay 0 where there is no answer to compare with. 0 is a score, and beside −1 a good one; None says "
            "'not mine to judge', and the trainer leaves it out.",
            _changed(lambda scores: [score or 0.0 for score in scores]),
        ),
        Wrong(
            "paid twice",
            "A right answer gets 2.5 from you: 2 for being right and 0.5 for being a number. The three cases exclude "
            "each other: use elif, and ask for the right answer first.",
            _changed(lambda scores: [2.5 if score == 2.0 else score for score in scores]),
        ),
        Wrong(
            "plain texts only",
            "It stops where a completion is a list of messages, as in a chat. Read every completion by "
            "rewards.completion_text, which takes both forms.",
            _plain_texts_only,
        ),
        Wrong(
            "left out",
            "You leave out the rows without an answer, so the list is too short and every later score belongs to the "
            "wrong completion. Put None in their place.",
            _changed(lambda scores: [score for score in scores if score is not None]),
        ),
    ),
    praise="GRPOTrainer takes it as it stands: reward_funcs=[pay].",
)

# --- proximity -------------------------------------------------------------------------------------------------------


def near(said: float | None, answer: float, scale: float) -> float:
    if said is None:
        return -0.5
    if said == answer:
        return 1.0
    error = abs(said - answer) / scale
    return 0.5 * (1 - error) if error < 1 else -1.0


def _near_by_library(said: float | None, answer: float, scale: float) -> float:
    text = "no idea" if said is None else repr(said)
    score = rewards.proximity(by="distance", scale=scale)([""], [text], answer=[repr(answer)])
    return float(score[0] or 0.0)


def _priced(price: Callable[[float], float]) -> Callable[..., Any]:
    """Right on the first two cases, else ``price`` of the error with its sign."""

    def answer(said: float | None, answer: float, scale: float) -> float:
        if said is None or said == answer:
            return near(said, answer, scale)
        return price((said - answer) / scale)

    return answer


def _zero_is_none(said: float | None, answer: float, scale: float) -> float:
    return near(said or None, answer, scale)


def _nothing_is_zero(said: float | None, answer: float, scale: float) -> float:
    return near(0.0 if said is None else said, answer, scale)


def _guesses(rng: random.Random) -> list[tuple[Any, ...]]:
    a, scale = float(rng.randint(12, 60)), float(rng.randint(8, 12))
    step = float(rng.randint(1, 3))
    said = [a, a + step, a - step, a - scale, a + 40, None]
    return [(one, a, scale) for one in said] + [(None, 3.0, scale), (0.0, 3.0, 20.0)]


PROXIMITY = Exercise(
    name="03-proximity",
    title="Closer earns more",
    difficulty="easy",
    minutes=6,
    hint="Four cases, in this order: no number, exactly right, within the scale, beyond it. The distance is an `abs`.",
    solution=near,
    cases=_guesses,
    expected=_near_by_library,
    wrong=(
        Wrong(
            "no abs",
            "Your error has a sign, so every answer that is too small is overpaid: the model would learn to aim low. "
            "A distance is abs(said - answer).",
            _priced(lambda e: 0.5 * (1 - e) if e < 1 else -1.0),
        ),
        Wrong(
            "pays distance",
            "You pay more the further away the guess is. Rewards are maximised: it must be (1 − error), not error.",
            _priced(lambda e: 0.5 * abs(e) if abs(e) < 1 else -1.0),
        ),
        Wrong(
            "no floor",
            "Your reward has no floor: one guess of a million would drown everything else in its group. From an error "
            "of 1 on it is −1.",
            _priced(lambda e: 0.5 * (1 - abs(e))),
        ),
        Wrong(
            "no gap",
            "A near miss gets almost as much as the right answer, so there is little left to gain and a model may "
            "settle beside it. Near misses get half: 0.5 · (1 − error).",
            _priced(lambda e: 1 - abs(e) if abs(e) < 1 else -1.0),
        ),
        Wrong(
            "nothing is zero",
            "You read 'no number' as the number 0, which is a fine guess where the answer is 3. Give None its own "
            "case: −0.5.",
            _nothing_is_zero,
        ),
        Wrong(
            "zero is no number",
            "`if not said` is true for 0 as well, and 0 is a number. Ask for `said is None`.",
            _zero_is_none,
        ),
        Wrong(
            "the edge",
            "At an error of exactly 1 you still pay for nearness (0). Below 1 is near; from 1 on it is −1: "
            "`error < 1`, not `<=`.",
            _priced(lambda e: 0.5 * (1 - abs(e)) if abs(e) <= 1 else -1.0),
        ),
    ),
    praise='It is rewards.proximity(by="distance").',
)

EXERCISES: tuple[Exercise, ...] = (VERIFIER, REWARD, PROXIMITY)
