"""Rewards for e-mail replies: the guide's second example, as a rubric of five small checks.

    +1  the required keywords are there (a share of it for a share of them)     `email_keywords`
    +1  the reply is the ideal one, word for word                               `email_exact`
    −1  the reply is too long                                                   `email_too_long`
    +1  the recipient is greeted by name                                        `email_recipient`
    +1  a signature block with phone, e-mail or address ends the reply          `email_signature`

Each looks where the thing belongs. A name counts in the greeting, contacts count in a short block at the end, and
keywords count in sentences of the reply's own: what is copied from the message that is answered, quoted with ">" or
hidden in tags counts for nothing. So the inbound message repeated earns none of the +1s.

Columns (`tasks.email` has them): `recipient`, `keywords` (a list; "refund|money back" for either), `ideal`,
`max_words`, and, where the data set has them, `signature` (the block to be used: another phone number is then a
made-up one) and `message` (what the model read).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rlkit.errors import RewardError, bad_value
from rlkit.rewards.rubric import Rubric
from rlkit.rewards.rubrics.contacts import WORD, read_contacts, read_signature, signature_spans
from rlkit.rewards.rubrics.contacts import Contacts as Contacts
from rlkit.rewards.rubrics.email_golden import GOLDEN
from rlkit.rewards.rubrics.phrases import (
    check_phrases,
    listed,
    plain,
    reply_text,
    share_said,
)
from rlkit.rewards.rubrics.readings import blanked, phrase_spans
from rlkit.rewards.signatures import RewardFunction
from rlkit.rewards.spans import Spans
from rlkit.rewards.text import Completion
from rlkit.rewards.verifiers import reward_from

GREETING_WORDS = 5
"""The recipient's name must be among so many first words: "Good morning Ms Dr Keller"."""

LETTERS_A_WORD = 12
"""A reply is also too long where it has more than so many characters for each word allowed."""

_HEADERS = ("subject:", "re:", "from:", "to:", "cc:", "bcc:", "date:", "sent:", "reply:")
_TITLES = listed("mr,mrs,ms,miss,mx,dr,prof,professor,sir,madam")


# --- the greeting and the words --------------------------------------------------------------------------------------


def greets_by_name(completion: Completion, *, recipient: str, **columns: Any) -> bool:
    """Verifier: the first line, header lines aside, has a part of the recipient's name among its first five words.

    Raises `RewardError` where `recipient` holds no name.
    """
    names = set(WORD.findall(plain(recipient))) - _TITLES if isinstance(recipient, str) else set()
    if not names:
        raise RewardError(
            f"recipient={recipient!r:.80} holds no name. Is it the right column of this data set?"
        )
    return not names.isdisjoint(WORD.findall(plain(_greeting(reply_text(completion))[1]))[:GREETING_WORDS])


def _greeting(text: str) -> tuple[int, str]:
    """The first line, header lines aside, up to 200 characters of it, and where it begins."""
    start = 0
    for line in text.splitlines(keepends=True):
        if line.strip() and not plain(line[:20]).startswith(_HEADERS):
            return start, line[:200]
        start += len(line)
    return start, ""


def _greeting_spans(completion: Completion, recipient: str, **columns: Any) -> Spans:
    """The name in the greeting."""
    if not greets_by_name(completion, recipient=recipient):
        return []
    start, line = _greeting(blanked(completion))
    names = set(WORD.findall(plain(recipient))) - _TITLES
    words = list(WORD.finditer(line))[:GREETING_WORDS]
    return [(start + w.start(), start + w.end()) for w in words if plain(w.group()) in names]


def short_enough(completion: Completion, *, max_words: int, **columns: Any) -> bool:
    """Verifier: at most `max_words` words, and at most twelve characters for each of them.

    Without the second half, a text without spaces would be one word. Raises `RewardError` unless `max_words` is
    a number above 0.
    """
    if isinstance(max_words, bool) or not isinstance(max_words, int | float) or not max_words > 0:
        raise RewardError(f"max_words={max_words!r:.80} is no limit. Allowed: a number of words, 1 or more.")
    text = reply_text(completion)
    return len(text) <= LETTERS_A_WORD * max_words and len(text.split()) <= max_words


def is_ideal(completion: Completion, *, ideal: str, **columns: Any) -> bool:
    """Verifier: the ideal reply, letter for letter but for white space. Raises `RewardError` where that is blank."""
    if not isinstance(ideal, str) or not ideal.strip():
        raise RewardError(f"ideal={ideal!r:.80} is no reply. Is it the right column of this data set?")
    return reply_text(completion).split() == ideal.split()


def has_keywords(
    completion: Completion, *, keywords: Sequence[str], message: str = "", **columns: Any
) -> bool:
    """Verifier: every keyword stands in the reply's own sentences, as `phrases.share_said` reads them."""
    return share_said(reply_text(completion), check_phrases(keywords, "keywords"), message) == 1


# --- the signature ---------------------------------------------------------------------------------------------------


def has_signature(completion: Completion, *, signature: str = "", **columns: Any) -> bool:
    """Verifier: the reply ends in a signature block, with contacts of `signature` only where the data set gives one.

    Raises `RewardError` where `signature` is given and holds no contact.
    """
    contacts = read_signature(reply_text(completion))
    if not signature:
        return contacts is not None
    expected = read_contacts(signature.splitlines())
    if not expected:
        raise RewardError(
            f"signature={signature!r:.80} holds no phone number, e-mail address or street address to compare with"
        )
    return contacts is not None and contacts.among(expected)


# --- reward functions ------------------------------------------------------------------------------------------------


def email_keywords(
    prompts: Sequence[Any],
    completions: Sequence[Completion],
    keywords: Sequence[Sequence[str]],
    message: Sequence[str] | None = None,
    **columns: Any,
) -> list[float | None]:
    """Reward the share of the required keywords that the reply says in its own sentences, from 0 to 1.

    Known weakness: keywords strewn into as many other words are paid. The other parts of the rubric, and a
    look at samples, are there for that.
    """
    messages = message or [""] * len(completions)
    return [
        share_said(reply_text(completion), check_phrases(row, "keywords"), given or "")
        for completion, row, given in zip(completions, keywords, messages, strict=True)
    ]


def _keyword_spans(
    completion: Completion, keywords: Sequence[str], message: str = "", **columns: Any
) -> Spans:
    return phrase_spans(completion, check_phrases(keywords, "keywords"), message or "")


email_keywords.verifier = has_keywords  # type: ignore[attr-defined]
email_keywords.spans = _keyword_spans  # type: ignore[attr-defined]
greets_by_name.spans = _greeting_spans  # type: ignore[attr-defined]
has_signature.spans = signature_spans  # type: ignore[attr-defined]

email_exact = reward_from(is_ideal, name="email_exact")
email_exact.looks_at = "the whole reply beside the ideal one"  # type: ignore[attr-defined]
email_exact.__doc__ = "Reward 1 where the reply is the ideal one, white space aside, else 0."

email_too_long = reward_from(short_enough, right=0.0, wrong=-1.0, name="email_too_long")
email_too_long.looks_at = "the whole reply: how many words it has"  # type: ignore[attr-defined]
email_too_long.__doc__ = (
    "Charge −1 for a reply of more than `max_words` words, else 0 (for an empty one, too)."
)

email_recipient = reward_from(greets_by_name, name="email_recipient")
email_recipient.__doc__ = "Reward 1 where the greeting has the recipient's name, else 0."

email_signature = reward_from(has_signature, name="email_signature")
email_signature.__doc__ = (
    "Reward 1 where the reply ends in a signature block with the right contacts, else 0."
)


def email_handled(
    completion: Completion,
    *,
    recipient: str,
    keywords: Sequence[str],
    max_words: int,
    signature: str = "",
    message: str = "",
    **columns: Any,
) -> bool:
    """Verifier: keywords, greeting and signature are there, and it is not too long; it need not be the ideal reply."""
    return (
        greets_by_name(completion, recipient=recipient)
        and has_keywords(completion, keywords=keywords, message=message)
        and has_signature(completion, signature=signature)
        and short_enough(completion, max_words=max_words)
    )


def email_rubric(
    keywords: float = 1.0,
    ideal: float = 1.0,
    too_long: float = 1.0,
    recipient: float = 1.0,
    signature: float = 1.0,
) -> Rubric:
    """Return the five checks as a `Rubric`, with the guide's points: from −1 to +4.

    The arguments are weights; 0 leaves a check out.

    >>> email_rubric(ideal=0).names
    ['keywords', 'too long', 'recipient', 'signature']
    """
    parts: dict[str, tuple[RewardFunction, float]] = {
        "keywords": (email_keywords, keywords),
        "ideal reply": (email_exact, ideal),
        "too long": (email_too_long, too_long),
        "recipient": (email_recipient, recipient),
        "signature": (email_signature, signature),
    }
    kept = {name: part for name, part in parts.items() if part[1] != 0}
    if not kept:
        raise bad_value("weights", [part[1] for part in parts.values()], "at least one other than 0")
    return Rubric(kept, name="email", verifier=email_handled)


FUNCTIONS: dict[str, RewardFunction] = {
    "email_keywords": email_keywords,
    "email_exact": email_exact,
    "email_too_long": email_too_long,
    "email_recipient": email_recipient,
    "email_signature": email_signature,
}
"""Reward functions that are used as they are."""

RUBRICS = {"email_rubric": email_rubric}
"""Functions that return a list of reward functions."""

for _name, _golden in GOLDEN.items():
    FUNCTIONS[_name].score_range = (_golden.low, _golden.high)  # type: ignore[attr-defined]
