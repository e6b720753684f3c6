"""What an answer must say, and what it must not: rewards for points made, provisions cited, phrases avoided.

    makes_points     0 … 1    the share of the row's `points` that it makes
    cites            0 … 1    the share of the row's `citations` that it names, or 1 for a pattern
    mentions         0 or 1   one of some phrases
    must_not_say    −1 or 0   none of some phrases

How phrases are written and found: `rlkit.rewards.rubrics.phrases`. What these rewards see are words; whether the
sentence around them is true, they do not. `professions` makes rubrics of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from rlkit.errors import RewardError, bad_value
from rlkit.rewards.rubrics.phrases import (
    MARKUP,
    TAG,
    check_phrases,
    fits,
    own_text,
    plain,
    reply_text,
    share_in,
    share_said,
    unmasked,
)
from rlkit.rewards.rubrics.readings import blanked, open_reading, own_reading, phrase_spans, said_spans
from rlkit.rewards.signatures import RewardFunction
from rlkit.rewards.spans import Spans
from rlkit.rewards.text import Completion
from rlkit.rewards.verifiers import reward_from


def own_words(completion: Completion, question: str | None = "") -> str:
    """Return, `plain`, what a completion says of its own: lines copied from the row's question do not count."""
    return own_text(reply_text(completion), question or "")


def priced(
    verifier: Callable[..., bool],
    right: float,
    wrong: float,
    name: str,
    about: str,
    columns: Sequence[str] = (),
) -> RewardFunction:
    """Return `reward_from`'s reward with a docstring, its range, and the columns that it needs in this use."""
    reward = reward_from(verifier, right, wrong, name)
    reward.__doc__ = about
    reward.score_range = (min(right, wrong), max(right, wrong))  # type: ignore[attr-defined]
    reward.required_columns = list(columns)  # type: ignore[attr-defined]
    return reward


def _fixed(name: str, phrases: Sequence[str]) -> list[str]:
    """Check phrases that were given as a setting."""
    try:
        checked = check_phrases(phrases, name)
        for phrase in checked:
            fits("", phrase)
    except RewardError as error:
        raise bad_value(
            name, phrases, "one or more phrases, '|' between alternatives", f"({error})"
        ) from None
    return checked


# --- what must be said -----------------------------------------------------------------------------------------------


def mentions(any_of: Sequence[str] | None = None, right: float = 1.0, wrong: float = 0.0) -> RewardFunction:
    """Return a reward function that pays for a completion which says one of `any_of` in its own words.

    Phrases and what counts as saying them: `rlkit.rewards.rubrics.phrases`. Without `any_of` the row's column of that
    name is read.

    >>> mentions(["appeal", "objection"])([""], ["You may lodge an objection within a month."])
    [1.0]
    """
    fixed = None if any_of is None else _fixed("any_of", any_of)

    def says_one(
        completion: Completion, *, any_of: Sequence[str] = (), question: str = "", **columns: Any
    ) -> bool:
        """Verifier: one of the phrases is said."""
        wanted = check_phrases(any_of, "any_of") if fixed is None else fixed
        return share_in(own_words(completion, question), ["|".join(wanted)]) == 1

    def spans(
        completion: Completion, any_of: Sequence[str] = (), question: str = "", **columns: Any
    ) -> Spans:
        return phrase_spans(
            completion, check_phrases(any_of, "any_of") if fixed is None else fixed, question or ""
        )

    says_one.spans = spans  # type: ignore[attr-defined]
    shown = "the row's phrases" if fixed is None else ", ".join(fixed)
    about = f"Reward {right:g} for saying one of {shown}, else {wrong:g}."
    return priced(says_one, right, wrong, "mentions", about, ["any_of"] if fixed is None else [])


def all_points(completion: Completion, *, points: Sequence[str], question: str = "", **columns: Any) -> bool:
    """Verifier: every point of the row is made."""
    return share_said(reply_text(completion), check_phrases(points, "points"), question) == 1


def makes_points(
    prompts: Sequence[Any],
    completions: Sequence[Completion],
    points: Sequence[Sequence[str]],
    question: Sequence[str] | None = None,
    **columns: Any,
) -> list[float | None]:
    """Reward the share of the row's `points` that the completion makes in its own words, from 0 to 1.

    A point is a phrase, or several with "|" between them. Known weakness: a text that works all the words in without
    meaning them is paid.
    """
    asked = question or [""] * len(completions)
    return [
        share_said(reply_text(completion), check_phrases(row, "points"), given or "")
        for completion, row, given in zip(completions, points, asked, strict=True)
    ]


def _point_spans(completion: Completion, points: Sequence[str], question: str = "", **columns: Any) -> Spans:
    return phrase_spans(completion, check_phrases(points, "points"), question or "")


makes_points.verifier = all_points  # type: ignore[attr-defined]
makes_points.spans = _point_spans  # type: ignore[attr-defined]
makes_points.score_range = (0.0, 1.0)  # type: ignore[attr-defined]

_SECTION = re.compile(r"(?:(?<!§)§++|(?<!['\w])(?:sections?|secs?|ss?)\b\.?)\s*(?=[0-9])")
_ARTICLE = re.compile(r"\b(?:articles?|arts?)\b\.?\s*(?=[0-9])")
_CITED = re.compile(r"(?:§|\bart) [0-9][0-9a-z-]*")
_GUESSES = (
    3  # provisions named for each that is wanted, and four more, before they count as a list of guesses
)


def legal(text: str) -> str:
    """Return `plain` text with every way to write "section" as "§" and "article" as "art".

    >>> legal("Sections 20 and Art. 17, s.5")
    '§ 20 and art 17, § 5'
    """
    return _ARTICLE.sub("art ", _SECTION.sub("§ ", plain(text)))


def share_cited(completion: Completion, citations: Sequence[str], question: str = "") -> float:
    """Return the share of `citations` that a completion names, 0 where it names a whole list of provisions."""
    own = legal(own_words(completion, question))
    if len(set(_CITED.findall(own))) > _GUESSES * len(citations) + 4:
        return 0.0
    return share_in(own, [legal(citation) for citation in citations])


def _cited_spans(
    completion: Completion, citations: Sequence[str], question: str = "", **columns: Any
) -> Spans:
    own = own_reading(completion, question or "").replaced(_SECTION, "§ ").replaced(_ARTICLE, "art ")
    return said_spans(own, [legal(citation) for citation in check_phrases(citations, "citations")])


def cites(pattern: str | None = None) -> RewardFunction:
    """Return a reward function that pays for citations.

    Without `pattern`: the share of the row's `citations` that are named, however "section" and "article" are
    written; none where the completion names far more provisions than are wanted. With it: 1 where the regular
    expression is found in the text of the completion. Its speed is then yours to see to: avoid nested repetitions.

    Raises `ConfigError` for a pattern that is no regular expression.

    >>> cites()([""], ["Under s. 5 of the Limitation Act 1980 you have six years."], citations=[["section 5"]])
    [1.0]
    """
    if pattern is not None:
        try:
            found = re.compile(pattern)
        except (re.error, TypeError) as error:
            raise bad_value(
                "pattern", pattern, "a regular expression, such as r'§ ?[0-9]+'", f"({error})"
            ) from None

        def is_cited(completion: Completion, **columns: Any) -> bool:
            """Verifier: the pattern is found."""
            return found.search(reply_text(completion)) is not None

        is_cited.spans = lambda completion, **columns: [  # type: ignore[attr-defined]
            match.span() for match in found.finditer(blanked(completion))
        ]
        return priced(is_cited, 1.0, 0.0, "cites", f"Reward 1 where {pattern} is found, else 0.")

    def all_cited(
        completion: Completion, *, citations: Sequence[str], question: str = "", **columns: Any
    ) -> bool:
        """Verifier: every citation of the row is named."""
        return share_cited(completion, check_phrases(citations, "citations"), question) == 1

    def reward(
        prompts: Sequence[Any],
        completions: Sequence[Completion],
        citations: Sequence[Sequence[str]],
        question: Sequence[str] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        asked = question or [""] * len(completions)
        return [
            share_cited(completion, check_phrases(row, "citations"), given or "")
            for completion, row, given in zip(completions, citations, asked, strict=True)
        ]

    reward.__name__ = reward.__qualname__ = "cites"
    reward.__doc__ = "Reward the share of the row's citations that the completion names, from 0 to 1."
    reward.verifier = all_cited  # type: ignore[attr-defined]
    reward.spans = _cited_spans  # type: ignore[attr-defined]
    reward.score_range = (0.0, 1.0)  # type: ignore[attr-defined]
    return reward


# --- what must not be said -------------------------------------------------------------------------------------------


def undisguised(text: str) -> tuple[str, str]:
    """Return a completion, `plain`, without markup and look-alikes: with tags taken for nothing, and for a space."""
    return unmasked(TAG.sub("", text).translate(MARKUP)), unmasked(TAG.sub(" ", text).translate(MARKUP))


def must_not_say(phrases: Sequence[str] | None = None, wrong: float = -1.0) -> RewardFunction:
    """Return a reward function that charges `wrong` for a completion that says one of `phrases`, and gives 0 otherwise.

    Markup, tags, invisible characters and look-alike letters hide nothing. Without `phrases` the row's column
    `must_not` is read. A phrase in a denial ("never stop taking …") is charged as well: write phrases that are wrong
    in themselves. An empty completion says nothing forbidden.

    >>> must_not_say(["guaranteed"])([""], ["Success is **guaran\\u00adteed**."])
    [-1.0]
    """
    fixed = None if phrases is None else _fixed("phrases", phrases)

    def says_none(completion: Completion, *, must_not: Sequence[str] = (), **columns: Any) -> bool:
        """Verifier: none of the phrases is said."""
        text = reply_text(completion)
        return says_none_of(text, check_phrases(must_not, "must_not") if fixed is None else fixed)

    def spans(completion: Completion, must_not: Sequence[str] = (), **columns: Any) -> Spans:
        wanted = check_phrases(must_not, "must_not") if fixed is None else fixed
        return said_spans(open_reading(completion), wanted)

    says_none.spans = spans  # type: ignore[attr-defined]
    shown = "the row's phrases" if fixed is None else ", ".join(fixed)
    about = f"Charge {wrong:g} for saying one of {shown}, else 0."
    return priced(says_none, 0.0, wrong, "must_not_say", about, ["must_not"] if fixed is None else [])


def says_none_of(text: str, phrases: Sequence[str]) -> bool:
    """Say whether a completion says none of `phrases`, under no disguise."""
    readings = undisguised(text)
    return not any(fits(reading, phrase) for reading in readings for phrase in phrases)
