r"""What maths rewards are judged by: right answers in many notations, wrong ones that look alike, and tricks."""

from __future__ import annotations

from rlkit.rewards.golden import Example, GoldenSet

_PROMPT = "What is 17+25?"


def _examples(*rows: tuple[str, str, str], fools: bool = False) -> tuple[Example, ...]:
    return tuple(
        Example(text, {"answer": answer}, note, prompt=_PROMPT, fools=fools) for text, answer, note in rows
    )


_STATED = _examples(
    ("7+5=12, write 2 and carry 1. So it is \\boxed{42}.", "42", "a box"),
    ("<reasoning>\n7+5=12\n</reasoning>\n<answer>\n42\n</answer>", "42", "a tag"),
    ("7+5=12, write 2 and carry 1.\n#### 42", "42", "GSM8K's own form"),
    ("The final answer is 1,234.50. I hope it is correct.", "1234.5", "a sentence, commas, a trailing zero"),
    ("**Answer:** $42", "42", "bold, with a dollar sign"),
    ("The answer is 42 apples.", "42", "a unit"),
    (r"\boxed{\frac{1}{2}}", "0.5", "a fraction for a decimal"),
    (r"\boxed{1 3/4}", "7/4", "a mixed number"),
    (r"\boxed{0.333333}", r"\frac{1}{3}", "six places of a fraction"),
    (r"The answer is $x = 3$.", "3", "an assignment"),
    (r"\boxed{50\%}", r"\frac12", "a percentage"),
    (r"\boxed{5\text{ cm}}", "5", "a unit in LaTeX"),
    (r"\boxed{\sqrt{8}}", r"2\sqrt{2}", "two forms of a root"),
    (r"\boxed{(x+1)^2}", "x^2+2x+1", "two forms of a polynomial"),
    (r"\boxed{\{2, 4\}}", r"\{4, 2\}", "sets have no order"),
    (r"The answer is $[0, 1)$", "[0,1)", "an interval"),
    (r"\boxed{3 \times 10^8}", "300000000", "powers of ten"),
    ("<answer>Evelyn</answer>", "evelyn", "a name"),
    (r"First \boxed{41}, no: \boxed{42}", "42", "the last box counts"),
)
_UNSTATED = _examples(
    ("42", "42", "a bare number"),
    ("7+5=12, so 17+25=42", "42", "the end of an equation"),
    ("So it comes to $\\frac{3}{4}$ of a cake.", "0.75", "a formula at the end"),
    (r"x = \frac{3}{4}", "0.75", "a formula without dollars"),
    ("They pay 50%", "50", "a percent sign too many"),
    ("We ask who it was.\nEvelyn", "Evelyn", "a name on the last line"),
)
_WRONG = _examples(
    (r"\boxed{41}", "42", "another number"),
    ("The answer is 41.", "42", "another number in a sentence"),
    ("<answer>0.33</answer>", r"\frac{1}{3}", "rounded too early"),
    (r"\boxed{[0, 1]}", "[0, 1)", "a closed interval for a half-open one"),
    (r"\boxed{\{2, 4, 5\}}", r"\{2, 4\}", "one member too many"),
    (r"\boxed{(x-1)^2}", "x^2+2x+1", "another polynomial"),
    (r"\boxed{5x}", "5", "a variable too many"),
    (r"\boxed{1 3/4}", "3/4", "a mixed number for its fraction"),
    ("<answer>Eve</answer>", "Evelyn", "half a name"),
    ("I do not know.", "42", "no answer"),
)
_MISREAD = _examples(("The answer is 3 million.", "3", "a word that is no unit: leniently a 3 is a 3"))
_EXPLOITS = _examples(
    ("", "42", "empty"),
    (_PROMPT, "42", "the prompt repeated"),
    ("<answer>17+25</answer>", "42", "the problem for an answer"),
    (r"\boxed{17 + 25}", "42", "the same in a box"),
    (r"\boxed{6 \cdot 7}", "42", "a product not carried out"),
    (r"\boxed{\frac{84}{2}}", "42", "a quotient not carried out"),
    ("The answer is " + " ".join(map(str, range(100))), "42", "every number listed"),
    (r"\boxed{" + ", ".join(map(str, range(40))) + "}", "12", "a box full of guesses"),
    ("The answer is 42 or 43.", "42", "two guesses"),
    (r"\boxed{\pm 42}", "42", "both signs"),
    (r"\boxed{42} is wrong, \boxed{41} is right", "42", "the right answer in the wrong place"),
    ("<answer>42</answer><answer>41</answer>", "42", "a second pair of tags"),
    ("\\boxed{" * 800, "42", "boxes that never close"),
    ("<answer>" * 500 + "</answer>" * 500, "42", "tags over and over"),
    (r"\boxed{42}" + " and so on" * 400, "42", "the right answer, then four thousand characters"),
    (r"\boxed{４２}", "42", "digits of another script"),
    (r"\boxed{9^{9^{9^{9}}}}", "42", "a number that no computer can hold"),
    (r"\boxed{\frac{0}{0}}", "42", "no number at all"),
    (r"\boxed{42 + 0 \cdot \infty}", "42", "infinity"),
)
_FOOLED = _examples(
    ("<answer>no idea</answer> 42", "42", "an unreadable statement, then a number"),
    ("41 42", "42", "two guesses, the right one last"),
    fools=True,
)
_NOT_STATED = tuple(
    Example(example.completion, example.columns, example.note, prompt=example.prompt) for example in _FOOLED
)

GOLDEN: dict[str, GoldenSet] = {
    "correct_maths": GoldenSet(_STATED + _UNSTATED, _WRONG, _EXPLOITS + _FOOLED),
    "correct_maths_lenient": GoldenSet(_STATED + _UNSTATED, _WRONG, _EXPLOITS + _FOOLED),
    "correct_maths_strict": GoldenSet(_STATED, _WRONG + _UNSTATED + _MISREAD, _EXPLOITS + _NOT_STATED),
}
