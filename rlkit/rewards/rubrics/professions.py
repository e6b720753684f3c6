"""Law and medicine: answers that no program can verify as a whole, judged by small things that it can.

An answer to "must I accept the repair?" is good when it makes the points that a lawyer would make, names the
provisions it rests on, says nothing that is plainly wrong, admits what it cannot know, sends the asker to
somebody who can, and is brief. Each of these is a small reward (`statements`, `care`), and a rubric adds them up:
`law_rubric`, `medicine_rubric`.

    rubric, row = law_rubric(), LAW_EXAMPLES[0]      # a kettle leaks after twelve days
    rubric.score("You have 30 days to reject it and get a refund.", **row)    # what each part gives, and why not more
    rubric.score(row["reference"], **row)            # all that there is: 6

**They teach a method and are no advice.** The examples (`LAW_EXAMPLES`, `MEDICINE_EXAMPLES`) are simplified, from
several countries, and will be out of date one day: the law is that of the provisions which they cite, the medicine
that of patient information as the NHS publishes it (https://www.nhs.uk). A model trained on such rewards is no
lawyer and no doctor: they look at words, and do not see whether the sentence around them is true.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rlkit.rewards.rubric import Rubric
from rlkit.rewards.rubrics.care import (
    diagnoses_with_care,
    doses_within_limits,
    keeps_to_limits,
    no_bare_diagnosis,
    recommends_professional,
    sends_to,
    states_uncertainty,
)
from rlkit.rewards.rubrics.email import short_enough
from rlkit.rewards.rubrics.phrases import check_phrases, reply_text
from rlkit.rewards.rubrics.professions_golden import GOLDEN
from rlkit.rewards.rubrics.statements import (
    all_points,
    cites,
    makes_points,
    mentions,
    must_not_say,
    own_words,
    says_none_of,
    share_cited,
)
from rlkit.rewards.signatures import RewardFunction
from rlkit.rewards.style import length_penalty
from rlkit.rewards.text import Completion

_FOLDER = Path(__file__).parent.parent.parent / "assets" / "tasks"

MAX_WORDS = 200
"""Words up to which an answer is not charged for its length; the references have about a hundred."""

SYSTEM_PROMPTS = {
    "law": "You explain the law to people without legal training. Name the provisions that your answer rests on, say "
    "what it depends on, and say whom to ask.",
    "medicine": "You explain medical matters to people without medical training. Say what is safe and what is urgent, "
    "do not diagnose, and say whom to see.",
}


def law_answered(
    completion: Completion,
    *,
    points: Sequence[str],
    citations: Sequence[str],
    must_not: Sequence[str],
    question: str = "",
    **columns: Any,
) -> bool:
    """Verifier: every point made, every provision named, nothing forbidden said, in at most `MAX_WORDS` words."""
    return (
        short_enough(completion, max_words=MAX_WORDS)
        and all_points(completion, points=points, question=question)
        and share_cited(completion, check_phrases(citations, "citations"), question) == 1
        and says_none_of(reply_text(completion), check_phrases(must_not, "must_not"))
    )


def medicine_answered(
    completion: Completion,
    *,
    points: Sequence[str],
    must_not: Sequence[str],
    max_dose: Sequence[str] = (),
    question: str = "",
    **columns: Any,
) -> bool:
    """Verifier: every point made, nothing forbidden said, no dose too high, no bare diagnosis, and a doctor to see.

    All of it in at most `MAX_WORDS` words.
    """
    return (
        short_enough(completion, max_words=MAX_WORDS)
        and all_points(completion, points=points, question=question)
        and says_none_of(reply_text(completion), check_phrases(must_not, "must_not"))
        and keeps_to_limits(completion, max_dose=max_dose)
        and diagnoses_with_care(completion)
        and sends_to("doctor", own_words(completion, question))
    )


# Whoever says everything says what is right, too: 0 up to 200 words, −1 from 350 on.
_brief = length_penalty(MAX_WORDS - 50, tolerance=50, too_short=False)
_brief.score_range = (-1.0, 0.0)  # type: ignore[attr-defined]


def law_rubric() -> Rubric:
    """Return the rubric for legal questions, from −5 to +6. It teaches a method and is no advice.

    Columns: `points`, `citations`, `must_not`, and `question`, whose lines do not count where they are copied.

    >>> law_rubric().highest
    6.0
    """
    parts: dict[str, tuple[RewardFunction, float]] = {
        "points": (makes_points, 3.0),
        "provisions": (cites(), 2.0),
        "nothing forbidden": (must_not_say(), 2.0),
        "uncertainty": (states_uncertainty, 0.5),
        "too long": (_brief, 3.0),
        "see a lawyer": (recommends_professional("lawyer"), 0.5),
    }
    return Rubric(parts, name="law", verifier=law_answered)


def medicine_rubric() -> Rubric:
    """Return the rubric for medical questions, from −9 to +4.5. It teaches a method and is no advice.

    Columns: `points`, `must_not`, `max_dose`, and `question`, whose lines do not count where they are copied.

    >>> medicine_rubric().lowest
    -9.0
    """
    parts: dict[str, tuple[RewardFunction, float]] = {
        "points": (makes_points, 3.0),
        "nothing forbidden": (must_not_say(), 2.0),
        "doses": (doses_within_limits, 2.0),
        "no bare diagnosis": (no_bare_diagnosis, 2.0),
        "uncertainty": (states_uncertainty, 0.5),
        "too long": (_brief, 3.0),
        "see a doctor": (recommends_professional("doctor"), 1.0),
    }
    return Rubric(parts, name="medicine", verifier=medicine_answered)


def _examples(name: str) -> list[dict[str, Any]]:
    """Read example rows and put prompts in front."""
    rows = []
    for line in (_FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        messages = [
            {"role": "system", "content": SYSTEM_PROMPTS[name]},
            {"role": "user", "content": entry["question"]},
        ]
        rows.append({"prompt": messages, **entry})
    return rows


LAW_EXAMPLES = _examples("law")
"""Eight questions with `points`, `citations`, `must_not`, and a `reference` answer that passes. No advice."""

MEDICINE_EXAMPLES = _examples("medicine")
"""Eight questions with `points`, `must_not`, `max_dose`, and a `reference` answer that passes. No advice."""

FUNCTIONS: dict[str, RewardFunction] = {
    "makes_points": makes_points,
    "states_uncertainty": states_uncertainty,
    "no_bare_diagnosis": no_bare_diagnosis,
    "doses_within_limits": doses_within_limits,
}
"""Reward functions that are used as they are."""

FACTORIES: dict[str, Callable[..., RewardFunction]] = {
    "mentions": mentions,
    "cites": cites,
    "must_not_say": must_not_say,
    "recommends_professional": recommends_professional,
}
"""Functions that return a reward function; named alone, they are called with their defaults."""

RUBRICS = {"law_rubric": law_rubric, "medicine_rubric": medicine_rubric}
"""Functions that return a list of reward functions."""

__all__ = [
    "FACTORIES",
    "FUNCTIONS",
    "GOLDEN",
    "LAW_EXAMPLES",
    "MEDICINE_EXAMPLES",
    "RUBRICS",
    "law_answered",
    "law_rubric",
    "medicine_answered",
    "medicine_rubric",
]
