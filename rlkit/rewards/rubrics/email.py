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

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rlkit.errors import RewardError, bad_value
from rlkit.rewards.rubric import Rubric
from rlkit.rewards.rubrics.email_golden import GOLDEN
from rlkit.rewards.rubrics.phrases import check_phrases, plain, reply_text, share_said
from rlkit.rewards.signatures import RewardFunction
from rlkit.rewards.text import Completion
from rlkit.rewards.verifiers import reward_from

GREETING_WORDS = 5
"""The recipient's name must be among so many first words: "Good morning Ms Dr Keller"."""

LETTERS_A_WORD = 12
"""A reply is also too long where it has more than so many characters for each word allowed."""


def _listed(words: str) -> frozenset[str]:
    return frozenset(words.split(","))


_HEADERS = ("subject:", "re:", "from:", "to:", "cc:", "bcc:", "date:", "sent:", "reply:")
_TITLES = _listed("mr,mrs,ms,miss,mx,dr,prof,professor,sir,madam")
_WORD = re.compile(r"[^\W\d_]+(?:['-][^\W\d_]+)*")


# --- the greeting and the words --------------------------------------------------------------------------------------


def greets_by_name(completion: Completion, *, recipient: str, **columns: Any) -> bool:
    """Verifier: the first line, header lines aside, has a part of the recipient's name among its first five words.

    Raises `RewardError` where `recipient` holds no name.
    """
    names = set(_WORD.findall(plain(recipient))) - _TITLES if isinstance(recipient, str) else set()
    if not names:
        raise RewardError(
            f"recipient={recipient!r:.80} holds no name. Is it the right column of this data set?"
        )
    for line in reply_text(completion).splitlines():
        if line.strip() and not plain(line[:20]).startswith(_HEADERS):
            return not names.isdisjoint(_WORD.findall(plain(line[:200]))[:GREETING_WORDS])
    return False


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

_BLOCK_LINES, _LINE_LETTERS, _SENTENCE_WORDS, _BODY_WORDS = 8, 80, 6, 3
_TAIL = 2000  # characters from the end in which a signature is looked for
_AT_MOST = 2  # contacts of one kind: a longer list is a list of guesses
_CLOSINGS = _listed(
    "best regards,kind regards,warm regards,with kind regards,with best regards,regards,best,best wishes,"
    "with best wishes,all the best,sincerely,yours sincerely,sincerely yours,yours faithfully,yours truly,yours,"
    "many thanks,thanks,thank you,cheers,warmly,respectfully,--,-"
)
_LABELS = _listed("phone,tel,telephone,mobile,cell,call,fax,email,e-mail,mail,address,web")
_PHONE = re.compile(r"(?<![0-9A-Za-z@.+/-])[+(]?[0-9][0-9 ()/.-]{5,22}[0-9](?![0-9A-Za-z@])")
_LABELLED = re.compile(r"\b(?:phone|tel|telephone|mobile|cell|call|fax)\b")
_GROUPED = re.compile(r"[0-9]{3}[-. ][0-9]{3,4}(?:[-. ][0-9]{4})?")
_DATE = re.compile(r"[0-9]{1,4}[./-][0-9]{1,2}[./-][0-9]{2,4}")
_EMAIL = re.compile(r"[a-z0-9._%+-]{1,64}@(?:[a-z0-9-]{1,63}\.){1,4}[a-z]{2,24}")
_BETWEEN = re.compile(r"[\s<>()\[\]|,;:]+")
_STREETS = _listed(
    "street,st,road,rd,avenue,ave,lane,ln,drive,boulevard,blvd,way,square,place,court,quay,terrace,close,"
    "row,hill,park,crescent,rue,via,calle,plaza,platz,weg,strasse,allee,gasse"
)
_STREET_ENDS = ("strasse", "str", "weg", "platz", "allee", "gasse")
_NUMBER_OR_WORD = re.compile(r"[^\W_]+")
_HOUSE = re.compile(r"[0-9]{1,5}[a-z]?")


@dataclass(frozen=True, slots=True)
class Contacts:
    """The contacts in a signature: phone numbers as digits, addresses as "14 mill lane", all in lower case."""

    phones: frozenset[str] = frozenset()
    emails: frozenset[str] = frozenset()
    addresses: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.phones or self.emails or self.addresses)

    def among(self, others: Contacts) -> bool:
        """Whether each of these is one of `others`; a phone number may have its country code or not."""
        known = all(any(_same_phone(phone, other) for other in others.phones) for phone in self.phones)
        return known and self.emails <= others.emails and self.addresses <= others.addresses


def _same_phone(one: str, other: str) -> bool:
    short, long = sorted((one.lstrip("0"), other.lstrip("0")), key=len)
    return len(short) >= 7 and long.endswith(short)


def read_contacts(lines: Sequence[str]) -> Contacts:
    """Return the phone numbers, e-mail addresses and street addresses in a few short lines.

    A phone number has 7 to 15 digits, at least three different ones, and looks like one: it begins with "+", "0" or
    "(", is grouped as in 555-0142, or is called phone, tel, mobile. A street address is a house number within three
    words of a word for a street.

    >>> sorted(read_contacts(["Tel. 020 7946 0311", "14 Mill Lane, Barrowby"]).addresses)
    ['14 mill lane']
    """
    phones: set[str] = set()
    emails: set[str] = set()
    addresses: set[str] = set()
    for line in lines:
        text = plain(line[:_LINE_LETTERS]).replace("(0)", "")  # +44 (0)20 is +44 20
        for match in _PHONE.finditer(text):
            number = match.group()
            digits = "".join(c for c in number if c in "0123456789")
            looks = (
                number[0] in "+0(" or _GROUPED.fullmatch(number) or _LABELLED.search(text[: match.start()])
            )
            if 7 <= len(digits) <= 15 and len(set(digits)) >= 3 and looks and not _DATE.fullmatch(number):
                phones.add(digits)
        for token in _BETWEEN.split(text):
            if _EMAIL.fullmatch(token.rstrip(".")):
                emails.add(token.rstrip("."))
        words = _NUMBER_OR_WORD.findall(text)
        for i, word in enumerate(words):
            if word in _STREETS or (len(word) > 5 and word.endswith(_STREET_ENDS)):
                near = range(max(0, i - 4), min(len(words), i + 2))
                house = next((j for j in near if _HOUSE.fullmatch(words[j])), None)
                if house is not None:
                    addresses.add(" ".join(words[min(i, house) : max(i, house) + 1]))
    return Contacts(frozenset(phones), frozenset(emails), frozenset(addresses))


def read_signature(text: str) -> Contacts | None:
    """Return the contacts in the signature block that ends `text`, or None where it does not end in one.

    The block is what stands below a closing formula ("Kind regards,", "--"), or the short lines at the end that are no
    sentences: at most eight lines of at most 80 characters. It needs a name, one contact or two of a kind, no line
    twice, and a reply of at least three words above it.

    >>> read_signature("See you on Friday.\\n\\nKind regards,\\nNora Feld\\n+44 20 7946 0311").phones
    frozenset({'442079460311'})
    >>> read_signature("+44 20 7946 0311") is None
    True
    """
    lines = [line for raw in text[-_TAIL:].splitlines() if (line := raw.strip())]
    block: list[str] = []
    while lines and len(block) < _BLOCK_LINES:
        line = lines[-1]
        if len(line) > _LINE_LETTERS or line.startswith(">") or plain(line).rstrip(",.! ") in _CLOSINGS:
            break
        if line[-1] in ".!?" and len(line.split()) >= _SENTENCE_WORDS:
            break
        block.append(lines.pop())
    contacts = read_contacts(block)
    kinds = (contacts.phones, contacts.emails, contacts.addresses)
    if not contacts or any(len(kind) > _AT_MOST for kind in kinds) or len(set(block)) < len(block):
        return None
    # What holds digits or an @ is a contact, the rest but for its label is somebody's name.
    tokens = [token for line in block for token in _BETWEEN.split(plain(line))]
    words = [
        w for token in tokens if not any(c.isdigit() or c == "@" for c in token) for w in _WORD.findall(token)
    ]
    named = any(len(word) > 1 and word not in _LABELS for word in words)
    body = sum(len(_WORD.findall(plain(line))) for line in lines[-20:])
    return contacts if named and body >= _BODY_WORDS else None


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


email_keywords.verifier = has_keywords  # type: ignore[attr-defined]

email_exact = reward_from(is_ideal, name="email_exact")
email_exact.__doc__ = "Reward 1 where the reply is the ideal one, white space aside, else 0."

email_too_long = reward_from(short_enough, right=0.0, wrong=-1.0, name="email_too_long")
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
