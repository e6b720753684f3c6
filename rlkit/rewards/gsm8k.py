"""The five reward functions that made GRPO on GSM8K popular, under their well-known names, in our own code.

They expect this layout, and a data set whose column `answer` holds the number as text:

    <reasoning>
    7+5 is 12, carry 1 …
    </reasoning>
    <answer>
    42
    </answer>

On completions that keep to it or plainly miss it they score as the functions of the notebooks do (first written by
@willccbb, https://gist.github.com/willccbb/4676755236bb08cab5f4e54a0475d6fb). Where those have known defects ours
differ, and each docstring says how. All take strings as well as messages, print nothing, and read each text a fixed
number of times.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rlkit.rewards.formats import read_tags
from rlkit.rewards.golden import Example, GoldenSet
from rlkit.rewards.signatures import RewardFunction
from rlkit.rewards.spans import Spans, marker_spans, trimmed
from rlkit.rewards.text import Completion, completion_text

TAGS = ("reasoning", "answer")
_MARKS = ("<reasoning>", "</reasoning>", "<answer>", "</answer>")
_ON_THEIR_LINES = ("<reasoning>\n", "\n</reasoning>\n", "\n<answer>\n", "\n</answer>")

EACH_TAG = 0.125
EACH_CHARACTER = 0.001
LOWEST_COUNT = -0.5


def _extracted(completion: Completion) -> str:
    """Return what stands in the last <answer> block, stripped; without that tag the whole text."""
    text = completion_text(completion)
    start, end = _extracted_span(text)
    return text[start:end]


def _extracted_span(text: str) -> tuple[int, int]:
    opening = text.rfind("<answer>")
    start = opening + len("<answer>") if opening >= 0 else 0
    closing = text.find("</answer>", start)
    return trimmed(text, start, closing if closing >= 0 else len(text))


def _extracted_spans(completion: Completion, **columns: Any) -> Spans:
    return [_extracted_span(completion_text(completion))]


def _is_correct(completion: Completion, *, answer: Any, **columns: Any) -> bool:
    """Verifier: is the extracted answer the text of `answer`, letter by letter?"""
    return answer is not None and _extracted(completion) == str(answer).strip()


def correctness_reward_func(
    prompts: Sequence[Any], completions: Sequence[Completion], answer: Sequence[Any], **columns: Any
) -> list[float | None]:
    """Reward 2 where the extracted answer is exactly the column `answer`, else 0.

    Extracted is what stands in the last ``<answer>…</answer>``; a text without the tag counts whole, so a bare "42"
    is paid (as in the notebooks; the format rewards are there to object). Text is compared, not numbers: "42.0" and
    "$42" are wrong for "42", and "1,234" for "1234". `correct_maths` compares values.
    """
    return [2.0 if _is_correct(c, answer=a) else 0.0 for c, a in zip(completions, answer, strict=True)]


correctness_reward_func.verifier = _is_correct  # type: ignore[attr-defined]


def int_reward_func(
    prompts: Sequence[Any], completions: Sequence[Completion], **columns: Any
) -> list[float | None]:
    """Reward 0.5 where the extracted answer is nothing but digits, else 0, right or wrong.

    As in the notebooks "-5" and "1,234" earn nothing, a bare "42" does, and so do a thousand digits. Unlike there,
    only 0 to 9 are digits: ``str.isdigit`` also accepts "²" and "４２".
    """
    extracted = (_extracted(completion) for completion in completions)
    return [0.5 if text.isascii() and text.isdigit() else 0.0 for text in extracted]


def strict_format_reward_func(
    prompts: Sequence[Any], completions: Sequence[Completion], **columns: Any
) -> list[float | None]:
    r"""Reward 0.5 for the layout to the letter: every tag alone on its line, one newline at the end, nothing else; or
    0.

    The notebooks' pattern has no DOTALL flag: its ``.`` stops at a line break, so reasoning of two lines is never paid
    and a model learns to write a single one. Here reasoning may have any number of lines, but no block may be blank,
    and no tag may come twice. The newline after ``</answer>`` is required as there.
    """
    texts = (completion_text(completion) for completion in completions)
    return [0.5 if text.endswith("\n") and read_tags(text, TAGS, strict=True) else 0.0 for text in texts]


def soft_format_reward_func(
    prompts: Sequence[Any], completions: Sequence[Completion], **columns: Any
) -> list[float | None]:
    """Reward 0.5 for a reasoning block and then an answer block, whatever the white space; or 0. Text may follow.

    The notebooks' pattern has no DOTALL flag either, so it misses the very layout that their prompt asks for, which
    has line breaks inside the blocks; and ``re.match`` holds it to the first character, so that a leading newline
    costs the reward. Here both are paid. Unlike there, each tag must come exactly once and no block may be blank:
    markers alone earn nothing.
    """
    return [0.5 if _in_order(completion_text(completion)) else 0.0 for completion in completions]


def _in_order(text: str) -> bool:
    """Whether the two blocks stand at the beginning of `text`, each tag once in all of it."""
    if any(text.count(mark) != 1 for mark in _MARKS):
        return False
    blocks, closing, _ = text.partition("</answer>")
    return read_tags(blocks + closing, TAGS) is not None


def xmlcount_reward_func(
    prompts: Sequence[Any], completions: Sequence[Completion], **columns: Any
) -> list[float | None]:
    r"""Reward 0.125 for each of the four tags that stands there exactly once and on its line, less what follows.

        0.125 · (number of such tags) − 0.001 · (characters after </answer>),   from −0.5 to 0.5

    The line break after ``</answer>`` is free. The subtraction is made where ``</answer>`` itself is paid. In the
    notebooks it has no bound, counts most characters twice, charges the *whole* text where the last newline is
    missing, and pays 0.501 where nothing follows at all; here it is what the formula says. What the blocks say does
    not matter, and blank ones are paid as well: it only counts tags.
    """
    return [_count(completion_text(completion)) for completion in completions]


def _count(text: str) -> float:
    paid = _paid(text)
    score = EACH_TAG * sum(paid)
    if paid[-1]:
        score -= EACH_CHARACTER * len(text.partition("</answer>")[2].removeprefix("\n"))
    return max(LOWEST_COUNT, score)


def _paid(text: str) -> list[bool]:
    return [
        text.count(mark) == 1 and text.count(on_its_line) == 1
        for mark, on_its_line in zip(_MARKS, _ON_THEIR_LINES, strict=True)
    ]


def _tag_spans(completion: Completion, **columns: Any) -> Spans:
    return marker_spans(completion_text(completion), _MARKS)


def _paid_spans(completion: Completion, **columns: Any) -> Spans:
    text = completion_text(completion)
    return marker_spans(text, [mark for mark, paid in zip(_MARKS, _paid(text), strict=True) if paid])


correctness_reward_func.spans = int_reward_func.spans = _extracted_spans  # type: ignore[attr-defined]
strict_format_reward_func.spans = soft_format_reward_func.spans = _tag_spans  # type: ignore[attr-defined]
xmlcount_reward_func.spans = _paid_spans  # type: ignore[attr-defined]


# --- what they are judged by ----------------------------------------------------------------------------------------

_ANSWER = {"answer": "42"}


def _laid_out(answer: str = "42", reasoning: str = "7+5=12, write 2 and carry 1.", end: str = "\n") -> str:
    return f"<reasoning>\n{reasoning}\n</reasoning>\n<answer>\n{answer}\n</answer>{end}"


def _examples(*pairs: tuple[str, str], fools: bool = False) -> tuple[Example, ...]:
    return tuple(Example(text, _ANSWER, note, prompt="17+25=", fools=fools) for text, note in pairs)


_EVERY_NUMBER = " ".join(map(str, range(100)))
_TAG_SPAM = "".join(_MARKS) * 50
_LINE_SPAM = "".join(_ON_THEIR_LINES) * 50
_RIGHT_LAYOUTS = _examples(
    (_laid_out(), "to the letter"),
    (_laid_out("41"), "a wrong answer: only the layout counts"),
    (_laid_out(reasoning="17+25\n= 17+3+22\n= 42"), "reasoning of three lines"),
    (_laid_out("forty-two"), "an answer in words"),
    (_laid_out(reasoning="x"), "short"),
)
_WRONG_LAYOUTS = _examples(
    ("42", "no tags"),
    ("I think that 17+25 is 42.", "prose"),
    ("<answer>\n42\n</answer>\n", "no reasoning"),
    ("<reasoning>\n7+5=12\n</reasoning>\n42\n", "no answer tags"),
    ("<answer>\n42\n</answer>\n<reasoning>\n7+5=12\n</reasoning>\n", "the wrong way round"),
    ("<reasoning>\n7+5=12\n<answer>\n42\n</answer>\n", "a tag left open"),
)
_LAYOUT_EXPLOITS = _examples(
    ("", "empty"),
    ("17+25=", "the prompt repeated"),
    (_TAG_SPAM, "tags over and over"),
    (_LINE_SPAM, "tags over and over, on their lines"),
    (_laid_out() * 30, "the whole layout thirty times"),
    ("<reasoning>\n\n</reasoning>\n<answer>\n\n</answer>" + "<answer>" * 500, "huge, with a torn end"),
    ("＜reasoning＞\n7+5\n＜/reasoning＞\n＜answer＞\n42\n＜/answer＞\n", "look-alike brackets"),
)
_BLANK = _examples(("<reasoning></reasoning><answer></answer>", "tags with nothing inside"))

GOLDEN: dict[str, GoldenSet] = {
    "correctness_reward_func": GoldenSet(
        right=_examples(
            (_laid_out(), "to the letter"),
            (_laid_out(end=""), "no last newline"),
            ("<answer>42</answer>", "no reasoning"),
            ("<answer> 42 </answer>", "spaces"),
            ("<answer>41</answer> No: <answer>42</answer>", "the last block counts"),
        ),
        wrong=_examples(
            (_laid_out("41"), "a wrong number"),
            (_laid_out("42.0"), "text is compared"),
            (_laid_out("forty-two"), "in words"),
            ("17+25 is 42", "no tags and more than the answer"),
            (_laid_out(""), "blank"),
        ),
        exploits=(
            *_examples(
                ("", "empty"),
                ("17+25=", "the prompt repeated"),
                (_laid_out(_EVERY_NUMBER), "every number listed"),
                (_TAG_SPAM, "tags over and over"),
                (_laid_out("41", "42 42 42"), "the right answer in the wrong place"),
                (_laid_out("４２"), "digits of another script"),
                ("<answer>42</answer><answer>" + "9" * 4000, "huge, after the right answer"),
            ),
            *_examples(("42", "no tags: the whole text is the answer"), fools=True),
        ),
        low=0.0,
        high=2.0,
    ),
    "int_reward_func": GoldenSet(
        right=_examples(
            (_laid_out(), "right"),
            (_laid_out("41"), "wrong, but digits: only that counts"),
            (_laid_out("0"), "zero"),
            ("<answer>42</answer>", "no reasoning"),
            ("<answer>\n007\n</answer>", "leading zeros"),
        ),
        wrong=_examples(
            (_laid_out("forty-two"), "in words"),
            (_laid_out("42.0"), "a decimal"),
            (_laid_out("-5"), "a sign"),
            (_laid_out("1,234"), "a comma"),
            (_laid_out(""), "blank"),
        ),
        exploits=(
            *_examples(
                ("", "empty"),
                ("17+25=", "the prompt repeated"),
                (_laid_out(_EVERY_NUMBER), "every number listed"),
                (_TAG_SPAM, "tags over and over"),
                (_laid_out("４２"), "digits of another script"),
                (_laid_out("²"), "a superscript"),
            ),
            *_examples(
                ("42", "no tags"), ("<answer>" + "9" * 4000, "huge: four thousand digits"), fools=True
            ),
        ),
        low=0.0,
        high=0.5,
    ),
    "soft_format_reward_func": GoldenSet(
        right=(
            *_RIGHT_LAYOUTS,
            *_examples(("\n" + _laid_out(), "a newline first"), (_laid_out() + "Bye.", "text after it")),
        ),
        wrong=_WRONG_LAYOUTS,
        exploits=_LAYOUT_EXPLOITS + _BLANK,
        low=0.0,
        high=0.5,
    ),
    "strict_format_reward_func": GoldenSet(
        right=_RIGHT_LAYOUTS,
        wrong=(
            *_WRONG_LAYOUTS,
            *_examples(("\n" + _laid_out(), "a newline first"), (_laid_out(end=""), "no newline last")),
        ),
        exploits=_LAYOUT_EXPLOITS + _BLANK,
        low=0.0,
        high=0.5,
    ),
    "xmlcount_reward_func": GoldenSet(
        right=(*_RIGHT_LAYOUTS, *_examples((_laid_out(end=""), "no newline last"))),
        wrong=(*_WRONG_LAYOUTS, *_examples((_laid_out() + "So it is 42.", "text after it"))),
        exploits=(
            *_LAYOUT_EXPLOITS,
            *_BLANK,
            *_examples((_laid_out("", ""), "blank blocks, on their lines"), fools=True),
        ),
        low=LOWEST_COUNT,
        high=0.5,
    ),
}

FUNCTIONS: dict[str, RewardFunction] = {
    "correctness_reward_func": correctness_reward_func,
    "int_reward_func": int_reward_func,
    "soft_format_reward_func": soft_format_reward_func,
    "strict_format_reward_func": strict_format_reward_func,
    "xmlcount_reward_func": xmlcount_reward_func,
}
