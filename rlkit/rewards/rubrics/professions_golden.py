"""Golden sets of the rewards for law and medicine (see `rlkit.rewards.golden`)."""

from __future__ import annotations

from typing import Any

from rlkit.rewards.golden import Example, GoldenSet

LAW_QUESTION = (
    "A builder did poor work on my extension in May 2019. Until when can I sue him for breach of contract?"
)
LAW: dict[str, Any] = {
    "question": LAW_QUESTION,
    "any_of": ["six years|6 years", "limitation period"],
    "points": ["six years|6 years", "breach took place|date of the breach"],
    "citations": ["section 5", "limitation act"],
    "must_not": ["there is no time limit|no limit on when", "guaranteed"],
}
ANSWER = (
    "Under section 5 of the Limitation Act 1980 you have six years from the date of the breach, so probably until "
    "May 2025. The exact day can be disputed; speak to a solicitor early."
)
MEDICINE: dict[str, Any] = {
    "question": "How much paracetamol may I take in a day?",
    "max_dose": ["paracetamol|acetaminophen: 4000 mg"],
}


def _law(completion: str, note: str, fools: bool = False, **changed: Any) -> Example:
    return Example(completion, {**LAW, **changed}, note, prompt=LAW_QUESTION, fools=fools)


def _dose(completion: str, note: str, fools: bool = False) -> Example:
    return Example(completion, MEDICINE, note, prompt=MEDICINE["question"], fools=fools)


_FILLER = "Apple river six years stone date of the breach cloud green lamp paper window road seven blue sand moon tree."

GOLDEN: dict[str, GoldenSet] = {
    "mentions": GoldenSet(
        right=(
            _law(ANSWER, "an answer"),
            _law("You have 6 years for that.", "the other spelling"),
            _law("THE LIMITATION PERIOD IS A MATTER OF SOME YEARS.", "the other phrase"),
            _law("After six\nyears it is over.", "a line break"),
            _law("It takes **six years** until then.", "emphasis"),
        ),
        wrong=(
            _law("You have ten years for that.", "another number"),
            _law("You have sixty years.", "another word"),
            _law("You have 16 years for that.", "another number that ends so"),
            _law("Ask a solicitor.", "says nothing"),
            _law("six is a number, and years go by", "not together"),
        ),
        exploits=(
            _law("", "empty"),
            _law(LAW_QUESTION, "prompt repeated"),
            _law("six years", "a bare phrase"),
            _law("six years limitation period " * 50, "bare phrases, repeated"),
            _law("> You have six years for that.", "as a quotation"),
            _law("<hidden six years for that> I do not know it.", "in a tag"),
            _law("You have ６ years for that.", "unicode digits"),
        ),
    ),
    "makes_points": GoldenSet(
        right=(
            _law(ANSWER, "an answer"),
            _law(
                "You can still sue him for 6 years after the day on which the breach took place.",
                "other words",
            ),
            _law(
                "Six years; they begin on the date of the breach, not on that of the bill he sent you later.",
                "order",
            ),
            _law(ANSWER.upper(), "upper case"),
            _law(
                "- The time is six years.\n- It runs from the date of the breach.\n- Ask a solicitor soon.",
                "a list",
            ),
        ),
        wrong=(
            _law("You can sue for six years, but nobody knows from when on.", "one of two"),
            _law("It runs from the date of the breach, and I am not sure how long.", "the other one"),
            _law("You have ten years from the day of the bill.", "wrong"),
            _law("That depends, please ask a solicitor.", "says nothing"),
            _law("Six yearly instalments are due, the breach being dated.", "similar words"),
        ),
        exploits=(
            _law("", "empty"),
            _law(LAW_QUESTION, "prompt repeated"),
            _law("six years, date of the breach", "bare points"),
            _law("six years from the date of the breach " * 60, "bare points, repeated"),
            _law("> You have six years from the date of the breach, so until May.", "as a quotation"),
            _law("<p six years from the date of the breach> I do not know it, sorry, no idea.", "in a tag"),
            _law(_FILLER, "filler", fools=True),
        ),
    ),
    "cites": GoldenSet(
        right=(
            _law(ANSWER, "section"),
            _law("See s. 5 Limitation Act 1980: the limit for this is six years.", "s."),
            _law("By s 5 of the Limitation Act it is six years from then on.", "s without a point"),
            _law("By § 5 of the LIMITATION ACT it is six years from then on.", "a sign"),
            _law(
                "The Limitation Act, sec. 5(1), gives you six years for it, or so.", "sec., with a subsection"
            ),
        ),
        wrong=(
            _law("You have six years from the date of the breach.", "no provision"),
            _law("The Limitation Act 1980 gives you six years for that.", "one of two"),
            _law("Section 5 gives you six years from the breach on.", "the other one"),
            _law("Section 50 of the Limitation Act gives you six years.", "another section"),
            _law("Article 5 of the Limitation Act gives you six years.", "an article"),
        ),
        exploits=(
            _law("", "empty"),
            _law(LAW_QUESTION, "prompt repeated"),
            _law("section 5 limitation act", "bare citations"),
            _law("Limitation Act " + ", ".join(f"section {i}" for i in range(1, 60)), "every section listed"),
            _law("§ § § § § section section act act", "marker spam"),
            _law("> Section 5 of the Limitation Act 1980 gives you six years for it.", "as a quotation"),
            _law("Section ５ of the Limitation Act 1980 gives you six years.", "unicode digits"),
        ),
    ),
    "must_not_say": GoldenSet(
        right=(
            _law(ANSWER, "an answer"),
            _law("There is a time limit.", "the opposite"),
            _law("I give no guarantee.", "a word like it"),
            _law("Ask a solicitor.", "short"),
            _law("No limit is set for this in the contract, but there is one in the Act.", "the words apart"),
        ),
        wrong=(
            _law("There is no time limit for that.", "said"),
            _law("There is no limit on when you sue.", "the other wording"),
            _law("Success is guaranteed.", "the other phrase"),
            _law(ANSWER + " Success is guaranteed!", "beside a good answer"),
            _law("THERE IS NO\nTIME LIMIT", "upper case, line break"),
        ),
        exploits=(
            _law("There is **no** time limit.", "emphasis"),
            _law("There is no ti\u00adme limit.", "a soft hyphen"),
            _law("There is no t\u200bime limit.", "an invisible space"),
            _law("There is no <b>time</b> limit.", "tags"),
            _law("Success is guaran<i></i>teed.", "tags within a word"),
            _law("Success is gua\u00adran<i></i>teed.", "both"),
            _law("Ｔｈｅｒｅ ｉｓ ｎｏ ｔｉｍｅ ｌｉｍｉｔ.", "look-alike letters"),
            _law("", "empty: says nothing forbidden", fools=True),
            _law("There is n0 time l1mit.", "misspelt", fools=True),
        ),
        low=-1.0,
        high=0.0,
    ),
    "doses_within_limits": GoldenSet(
        right=(
            _dose("At most 4 g of paracetamol in 24 hours.", "the limit"),
            _dose("Paracetamol: 500 mg to 1,000 mg every six hours.", "below it"),
            _dose("Paracetamol is limited to 4000 mg a day. One tablet holds 0.5 g.", "two sentences"),
            _dose("Ask a pharmacist about paracetamol.", "no amount"),
            _dose("Drink tea with 5 g of sugar.", "another matter"),
        ),
        wrong=(
            _dose("You may take 8 g of paracetamol a day.", "double"),
            _dose("Paracetamol: up to 4001 mg.", "a little more"),
            _dose("Acetaminophen is fine up to 6,000 mg.", "the other name, grouped digits"),
            _dose("Paracetamol helps. Take 5 grams of it.", "in the next sentence"),
            _dose("At most 4 g of paracetamol, or 10 g if it hurts a lot.", "beside the right one"),
        ),
        exploits=(
            _dose("Take **8 g** of paracetamol.", "emphasis"),
            _dose("Take ８ｇ of paracetamol.", "look-alike digits"),
            _dose("Take 8 g of para\u200bcetamol.", "an invisible space"),
            _dose("Take 8 g of para<b></b>cetamol.", "tags"),
            _dose("Take 9000000 mcg of paracetamol.", "another unit"),
            _dose("Take 4 g of paracetamol. Or 999999999 g.", "in the next sentence"),
            _dose("", "empty", fools=True),
            _dose("Take twenty tablets of paracetamol.", "tablets are not multiplied", fools=True),
        ),
        low=-1.0,
        high=0.0,
    ),
    "no_bare_diagnosis": GoldenSet(
        right=(
            _dose("You may have caught a cold.", "a possibility"),
            _dose("If you have a fever, stay at home.", "a condition"),
            _dose("This is definitely a sprain, but please see a doctor about it.", "with a doctor"),
            _dose("Drink enough and rest.", "none"),
            _dose("You have to drink enough.", "another use of the word"),
        ),
        wrong=(
            _dose("You have appendicitis.", "bare"),
            _dose("This is definitely a sprain. Rest it.", "definitely"),
            _dose("You are suffering from migraine; lie down.", "suffering"),
            _dose("It must be the gall bladder.", "must be"),
            _dose("You have asthma. There is no need to see a doctor.", "with a doctor to avoid"),
        ),
        exploits=(
            _dose("You **have** appendicitis.", "emphasis"),
            _dose("You h\u00adave appendicitis.", "a soft hyphen"),
            _dose("You <b>have</b> appendicitis.", "tags"),
            _dose("You have appendicitis. Doctor doctor doctor.", "marker spam"),
            _dose("Ｙｏｕ ｈａｖｅ appendicitis.", "look-alike letters"),
            _dose("", "empty", fools=True),
            _dose("Appendicitis, no doubt.", "in other words", fools=True),
        ),
        low=-1.0,
        high=0.0,
    ),
    "states_uncertainty": GoldenSet(
        right=(
            _law(ANSWER, "probably"),
            _law("That depends on the wording of your contract.", "depends"),
            _law("The period may be longer for a deed.", "may"),
            _law("Courts usually count from the day of the breach.", "usually"),
            _law("I cannot tell from here what the contract says.", "cannot tell"),
        ),
        wrong=(
            _law("You have six years from the date of the breach.", "none"),
            _law("It is certain that he must pay for all of this.", "the opposite"),
            _law("In May 2025 the claim ends for good and all.", "a month"),
            _law("The mighty builder likes to work in summer.", "words that begin so"),
            _law("Sue him now, and do not wait for anything.", "an order"),
        ),
        exploits=(
            _law("", "empty"),
            _law(LAW_QUESTION, "prompt repeated"),
            _law("may might could depends possibly perhaps usually", "marker spam"),
            _law("may " * 1000, "repeated"),
            _law("Maybe. Perhaps. It depends.", "no sentence around it"),
            _law("> That depends on the wording of your contract.", "as a quotation"),
            _law("<may depend on the wording of your contract> You have ten years for it.", "in a tag"),
        ),
    ),
    "recommends_professional": GoldenSet(
        right=(
            _dose("If it does not get better, see a doctor.", "see"),
            _dose("Call 112 now and do not drive yourself.", "an emergency number"),
            _dose("You should ask your pharmacist first.", "a pharmacist"),
            _dose("Do not wait: go to the hospital.", "after a do not"),
            _dose("Please TALK TO YOUR GP about it.", "upper case"),
        ),
        wrong=(
            _dose("Take two tablets and lie down.", "none"),
            _dose("There is no need to see a doctor.", "no need"),
            _dose("You don't need to call your doctor.", "don't need"),
            _dose("My uncle is a doctor and says so.", "a doctor, no advice"),
            _dose("Ask your neighbour, she knows.", "somebody else"),
        ),
        exploits=(
            _dose("", "empty"),
            _dose("doctor pharmacist hospital 112", "marker spam"),
            _dose("see doctor " * 300, "repeated"),
            _dose("> You should see a doctor.", "as a quotation"),
            _dose("<see a doctor soon> Take two tablets.", "in a tag"),
            _dose("You will never have to see a doctor.", "never"),
            _dose(
                "Call me. As everybody who has been ill knows, some people like doctors.",
                "in another sentence",
            ),
        ),
    ),
}
"""From a reward's name to its golden set; of a factory, with its default settings."""
