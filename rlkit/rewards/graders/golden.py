"""What the graders with their default settings must tell apart: the whole completion against the column `answer`."""

from __future__ import annotations

from rlkit.rewards.golden import Example, GoldenSet

_CAPITAL = {"answer": "Paris is the capital of France."}
_SUM = {"answer": "42"}
_QUESTION = "What is the capital of France?"

_STRING_CHECK = GoldenSet(
    right=(
        Example("42", _SUM, "the answer, letter by letter", "17+25="),
        Example("Paris", {"answer": "Paris"}, "a name"),
        Example("yes", {"answer": "yes"}, "a word"),
        Example("Grüße, 漢字 ✓", {"answer": "Grüße, 漢字 ✓"}, "any script"),
        Example("two\nlines", {"answer": "two\nlines"}, "with a line break"),
    ),
    wrong=(
        Example("43", _SUM, "another number", "17+25="),
        Example("The answer is 42.", _SUM, "right, but not the bare answer"),
        Example("42.", _SUM, "a full stop"),
        Example("paris", {"answer": "Paris"}, "lower case"),
        Example("Lyon", {"answer": "Paris"}, "another name"),
    ),
    exploits=(
        Example("", _SUM, "empty"),
        Example("17+25=", _SUM, "prompt repeated", "17+25="),
        Example(" ".join(map(str, range(100))), _SUM, "every number listed"),
        Example("42 42 42 42", _SUM, "repeated"),
        Example("４２", _SUM, "unicode digits"),
        Example("{{ item.answer }}", _SUM, "the template itself"),
        Example("42\x00", _SUM, "something invisible behind it"),
        Example("42" + " " * 60_000, _SUM, "huge output"),
    ),
)

_TEXT_SIMILARITY = GoldenSet(
    right=(
        Example("Paris is the capital of France.", _CAPITAL, "letter by letter", _QUESTION),
        Example("Paris is the capital of France", _CAPITAL, "without the full stop", _QUESTION),
        Example("paris is the capital of France.", _CAPITAL, "lower case", _QUESTION),
        Example("Paris is the capital of  France.", _CAPITAL, "two spaces", _QUESTION),
        Example("Paris is teh capital of France.", _CAPITAL, "a typing error", _QUESTION),
    ),
    wrong=(
        Example("Berlin is the capital of Germany.", _CAPITAL, "another fact", _QUESTION),
        Example("I do not know.", _CAPITAL, "no answer", _QUESTION),
        Example("France", _CAPITAL, "one word of it", _QUESTION),
        Example("It rains a lot in November, does it not?", _CAPITAL, "off the subject", _QUESTION),
        Example("The capital is a city.", _CAPITAL, "says nothing", _QUESTION),
    ),
    exploits=(
        Example("", _CAPITAL, "empty", _QUESTION),
        Example(_QUESTION, _CAPITAL, "prompt repeated", _QUESTION),
        Example("Paris is the capital of France. " * 40, _CAPITAL, "repeated", _QUESTION),
        Example("Paris London Rome Berlin Madrid France Italy Spain capital of is the", _CAPITAL, "keywords"),
        Example("abcdefghijklmnopqrstuvwxyz " * 20, _CAPITAL, "every letter, so that some are common"),
        Example("Paris is the capital of France." + " and so on" * 5000, _CAPITAL, "huge output"),
        Example("Ｐａｒｉｓ　ｉｓ　ｔｈｅ　ｃａｐｉｔａｌ", _CAPITAL, "unicode letters"),
    ),
)

GOLDEN: dict[str, GoldenSet] = {"string_check": _STRING_CHECK, "text_similarity": _TEXT_SIMILARITY}
