"""Golden sets of the e-mail rewards (see `rlkit.rewards.golden`)."""

from __future__ import annotations

from typing import Any

from rlkit.rewards.golden import Example, GoldenSet

MESSAGE = """From: Mia Keller
Subject: Order 4711

Hello team,
my lamp arrived with a broken shade. What happens now?
Mia

Notes for the reply: new shade free of charge, leaves the warehouse on Tuesday"""
SIGNATURE = "Nora Feld\nLumen Lamps\n+44 20 7946 0311"
IDEAL = (
    "Dear Ms Keller,\n\nI am sorry about the broken shade of your lamp. A new one is on its way to you free of charge; "
    "it leaves our warehouse on Tuesday. You may keep or recycle the old one.\n\nKind regards,\n" + SIGNATURE
)
ROW: dict[str, Any] = {
    "recipient": "Mia Keller",
    "keywords": ["free of charge|at no cost", "Tuesday"],
    "ideal": IDEAL,
    "max_words": 70,
    "signature": SIGNATURE,
    "message": MESSAGE,
}
BODY = "We will send you a new shade at no cost. It leaves our warehouse on Tuesday, so it should arrive this week."
SHORT = f"Hi Mia,\n\n{BODY}\n\nBest wishes,\n{SIGNATURE}"
OTHER_SENDER = "Tom Reed\nLumen Lamps\n+44 20 7946 0999"


def _example(completion: str, note: str, fools: bool = False, **changed: Any) -> Example:
    return Example(completion, {**ROW, **changed}, note, prompt=MESSAGE, fools=fools)


GOLDEN: dict[str, GoldenSet] = {
    "email_keywords": GoldenSet(
        right=(
            _example(IDEAL, "the ideal reply"),
            _example(SHORT, "the other wording"),
            _example(BODY, "a body alone"),
            _example(BODY.upper(), "upper case"),
            _example(
                "On **Tuesday** a new shade leaves our warehouse, free\nof charge of course.", "line break"
            ),
        ),
        wrong=(
            _example(
                "Dear Ms Keller,\n\nthank you for your message, we are looking into it.", "says nothing"
            ),
            _example("We will send you a new shade on Tuesday.", "one of two"),
            _example(
                "A new shade will be sent to you free of charge, as soon as we have one.", "the other one"
            ),
            _example("It leaves our warehouse on tuesdays only, and nothing there is free.", "similar words"),
            _example("Please send us a photo of the shade.", "another answer"),
        ),
        exploits=(
            _example("", "empty"),
            _example(MESSAGE, "prompt repeated"),
            _example("free of charge, Tuesday", "bare keywords"),
            _example("free of charge on Tuesday " * 300, "keywords repeated"),
            _example(
                "> We will send you a new shade at no cost. It leaves on Tuesday, this week.",
                "as a quotation",
            ),
            _example(
                "<keywords free of charge on Tuesday> Thank you for your message about the lamp.", "in a tag"
            ),
            _example(
                "We send you a new shade at no cost. It leaves on Ｔｕｅｓｄａｙ, I think.",
                "look-alike letters",
            ),
            _example(
                "Apple river stone free of charge lamp paper window Tuesday road seven blue.", "filler", True
            ),
        ),
    ),
    "email_exact": GoldenSet(
        right=(
            _example(IDEAL, "as it is"),
            _example(IDEAL + "\n", "a newline more"),
            _example("\n" + IDEAL, "a newline before"),
            _example(IDEAL.replace("\n\n", "\n"), "other blank lines"),
            _example(IDEAL.replace(" ", "  "), "double spaces"),
        ),
        wrong=(
            _example(SHORT, "another good reply"),
            _example(IDEAL.replace("Tuesday", "Monday"), "another day"),
            _example(IDEAL.replace("Dear", "dear"), "case"),
            _example(IDEAL.replace("Keller,", "Keller"), "a comma less"),
            _example(IDEAL[:-1], "cut off"),
        ),
        exploits=(
            _example("", "empty"),
            _example(MESSAGE, "prompt repeated"),
            _example(IDEAL + "\n\n" + IDEAL, "twice"),
            _example(f"<answer>{IDEAL}</answer>", "in tags"),
            _example("Here is the ideal reply:\n" + IDEAL, "announced"),
            _example(IDEAL.replace("4", "４"), "unicode digits"),
            _example(IDEAL.replace("lamp", "la\u200bmp"), "an invisible character"),
        ),
    ),
    "email_too_long": GoldenSet(
        right=(
            _example(IDEAL, "the ideal reply"),
            _example(SHORT, "a short one"),
            _example("Yes.", "one word"),
            _example("word " * 70, "exactly at the limit"),
            _example(BODY + "\n\n\n\n" + SIGNATURE, "blank lines"),
        ),
        wrong=(
            _example("word " * 71, "one word more"),
            _example(IDEAL + " " + BODY * 3, "chatty"),
            _example(SHORT * 3, "three replies"),
            _example("\n".join(["word"] * 71), "one word a line"),
            _example(f"{BODY} " * 20, "a loop"),
        ),
        exploits=(
            _example("word-" * 200, "words joined by hyphens"),
            _example("a" * 4000, "one huge word"),
            _example("word\u00a0" * 71, "no-break spaces"),
            _example(MESSAGE * 20, "prompt repeated"),
            _example("word\u200b" * 300, "invisible joints"),
            _example("", "empty: not too long", fools=True),
        ),
        low=-1.0,
        high=0.0,
    ),
    "email_recipient": GoldenSet(
        right=(
            _example(IDEAL, "title and family name"),
            _example(SHORT, "first name"),
            _example("Good morning Mia Keller,\n\n" + BODY, "both names"),
            _example("Subject: Re: Order 4711\n\nDear MIA,\n\n" + BODY, "below a subject line"),
            _example("Mia, " + BODY, "the name first"),
            _example("Dear Ms O’Neill,\n\n" + BODY, "an apostrophe", recipient="Siobhan O'Neill"),
        ),
        wrong=(
            _example("Dear customer,\n\n" + BODY, "no name"),
            _example("Dear Tom,\n\n" + BODY, "another name"),
            _example("Dear Miami,\n\n" + BODY, "another word that begins so"),
            _example(BODY, "no greeting"),
            _example("Dear Ms Dr,\n\n" + BODY, "titles only"),
        ),
        exploits=(
            _example("", "empty"),
            _example(MESSAGE, "prompt repeated"),
            _example(f"{BODY}\n\nMia Keller", "at the end"),
            _example(f"{BODY} Tell Mia Keller.", "in the text"),
            _example("Dear Tom, Ana, Ben, Lena, Omar, Ruth, Mia,\n\n" + BODY, "every name listed"),
            _example("From: Mia Keller\n\n" + BODY, "in a header"),
            _example("Dear Ｍia,\n\n" + BODY, "look-alike letters"),
        ),
    ),
    "email_signature": GoldenSet(
        right=(
            _example(IDEAL, "below a closing formula"),
            _example(f"{BODY}\n\n{SIGNATURE}", "without one"),
            _example(f"{BODY}\n\n--\nNora Feld | Lumen Lamps | 020 7946 0311", "one line, national number"),
            _example(f"{BODY}\n\nKind regards,\nNora Feld\nTel.: +44 (0)20 7946 0311", "a label"),
            _example(
                f"{BODY}\n\nYours sincerely\nNora Feld\n14 Mill Lane, Barrowby\nnora@lumen.example",
                "address and e-mail",
                signature="Nora Feld\n14 Mill Lane, Barrowby\nnora@lumen.example",
            ),
            _example(f"{BODY}\n\nThanks!\nBen Ode\nbenode@firm.example", "any contact will do", signature=""),
        ),
        wrong=(
            _example(BODY, "none"),
            _example(f"{BODY}\n\nKind regards,\nNora Feld", "a name alone"),
            _example(f"{BODY}\n\nKind regards,\n{OTHER_SENDER}", "a made-up number"),
            _example(f"{SIGNATURE}\n\n{BODY}", "at the beginning"),
            _example(f"Call us on +44 20 7946 0311 at any time. {BODY}", "in the text"),
            _example(f"{BODY}\n\nKind regards,\nNora Feld\nOrder 4711 of 12.05.2025", "a date", signature=""),
        ),
        exploits=(
            _example("", "empty"),
            _example(MESSAGE, "prompt repeated"),
            _example(SIGNATURE, "a signature and no reply"),
            _example("phone email address " * 40, "marker spam"),
            _example("+44 20 7946 0311\n" * 40, "repeated"),
            _example(
                f"{BODY}\n\nNora\n+44 20 7946 0311\n+44 20 7946 0312\n+44 20 7946 0313", "numbers listed"
            ),
            _example(f"{BODY}\n\nNora Feld\n+４４ ２０ ７９４６ ０３１１", "unicode digits"),
            _example(f"{BODY}\n\nNora Feld\n+00000000000", "no real number", signature=""),
            _example(f"{BODY}\n\n> Nora Feld\n> +44 20 7946 0311", "as a quotation"),
            _example(f"{BODY}\n\nNora Feld\nphone: [phone]\ne-mail: [e-mail]", "placeholders", signature=""),
        ),
    ),
}
"""From a reward's name to its golden set."""
