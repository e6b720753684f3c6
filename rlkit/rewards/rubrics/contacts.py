"""Contacts in a reply: phone numbers, e-mail and street addresses, and the signature block that holds them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rlkit.rewards.rubrics.phrases import listed, plain
from rlkit.rewards.rubrics.readings import blanked
from rlkit.rewards.spans import Spans
from rlkit.rewards.text import Completion

WORD = re.compile(r"[^\W\d_]+(?:['-][^\W\d_]+)*")
_BLOCK_LINES, _LINE_LETTERS, _SENTENCE_WORDS, _BODY_WORDS = 8, 80, 6, 3
_TAIL = 2000  # characters from the end in which a signature is looked for
_AT_MOST = 2  # contacts of one kind: a longer list is a list of guesses
_CLOSINGS = listed(
    "best regards,kind regards,warm regards,with kind regards,with best regards,regards,best,best wishes,"
    "with best wishes,all the best,sincerely,yours sincerely,sincerely yours,yours faithfully,yours truly,yours,"
    "many thanks,thanks,thank you,cheers,warmly,respectfully,--,-"
)
_LABELS = listed("phone,tel,telephone,mobile,cell,call,fax,email,e-mail,mail,address,web")
_PHONE = re.compile(r"(?<![0-9A-Za-z@.+/-])[+(]?[0-9][0-9 ()/.-]{5,22}[0-9](?![0-9A-Za-z@])")
_LABELLED = re.compile(r"\b(?:phone|tel|telephone|mobile|cell|call|fax)\b")
_GROUPED = re.compile(r"[0-9]{3}[-. ][0-9]{3,4}(?:[-. ][0-9]{4})?")
_DATE = re.compile(r"[0-9]{1,4}[./-][0-9]{1,2}[./-][0-9]{2,4}")
_EMAIL = re.compile(r"[a-z0-9._%+-]{1,64}@(?:[a-z0-9-]{1,63}\.){1,4}[a-z]{2,24}")
_BETWEEN = re.compile(r"[\s<>()\[\]|,;:]+")
_STREETS = listed(
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
    lines, block = _parted(text)
    contacts = read_contacts(block)
    kinds = (contacts.phones, contacts.emails, contacts.addresses)
    if not contacts or any(len(kind) > _AT_MOST for kind in kinds) or len(set(block)) < len(block):
        return None
    # What holds digits or an @ is a contact, the rest but for its label is somebody's name.
    tokens = [token for line in block for token in _BETWEEN.split(plain(line))]
    words = [
        w for token in tokens if not any(c.isdigit() or c == "@" for c in token) for w in WORD.findall(token)
    ]
    named = any(len(word) > 1 and word not in _LABELS for word in words)
    body = sum(len(WORD.findall(plain(line))) for line in lines[-20:])
    return contacts if named and body >= _BODY_WORDS else None


def _parted(text: str) -> tuple[list[str], list[str]]:
    """The lines at the end of `text` above a signature block, and those of the block, the last one first."""
    lines = [line for raw in text[-_TAIL:].splitlines() if (line := raw.strip())]
    block: list[str] = []
    while lines and len(block) < _BLOCK_LINES:
        line = lines[-1]
        if len(line) > _LINE_LETTERS or line.startswith(">") or plain(line).rstrip(",.! ") in _CLOSINGS:
            break
        if line[-1] in ".!?" and len(line.split()) >= _SENTENCE_WORDS:
            break
        block.append(lines.pop())
    return lines, block


def signature_spans(completion: Completion, **columns: Any) -> Spans:
    """The block that is read as a signature, whoever's contacts are in it."""
    text, found = blanked(completion), []
    if read_signature(text) is None:
        return []
    end = len(text)
    for line in _parted(text)[1]:
        start = text.rfind(line, 0, end)
        found.append((start, start + len(line)))
        end = start
    return found
