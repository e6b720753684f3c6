"""Maths rewards: what is read where, what equals what, and that nothing a model writes can do harm. Proximity."""

from __future__ import annotations

import contextlib
import functools
import gc
import itertools
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlkit.errors import ConfigError, RewardError
from rlkit.rewards import signatures
from rlkit.rewards.maths import equal as equality
from rlkit.rewards.maths import guard, reading
from rlkit.rewards.maths import rewards as maths
from rlkit.rewards.maths.deadline import within
from rlkit.rewards.maths.finding import last_things, stated_answers
from rlkit.rewards.proximity import FACTORIES, proximity
from rlkit.rewards.proximity import GOLDEN as PROXIMITY

pytest.importorskip("math_verify")

PIECES = [
    "\\boxed{", "}", "{", "<answer>", "</answer>", "The answer is ", "#### ", "$", "\\frac", "\\sqrt{2}", "^", "^{",
    "\\pi", "1", "42", "0.5", "1,234", "%", "\\%", "=", "+", "-", "*", "/",
    "(", ")", "[", "]", ",", " ", "\n", "x", "y", "e", "!",
    "\\text{ cm}", " or ", "\\infty", "|", "<", "\\left(", "\\right)", "million", "４",
    "\\begin{pmatrix}", "&", "\\\\",
]  # fmt: skip


def message(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def equal(gold: str, said: str, loose: bool = False) -> bool:
    return equality.same(gold, said, loose)


# --- finding ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "stated"),
    [
        ("", []),
        ("17+25=42", []),
        (r"\boxed{42}", ["42"]),
        (r"\boxed{\frac{1}{2}} or so", [r"\frac{1}{2}"]),
        (r"\boxed {42}", ["42"]),
        (r"\fbox{42}", ["42"]),
        (r"\boxed{41}, \boxed{42}", ["42"]),
        (r"\boxed{42", []),
        (r"\boxed{\boxed{42}}", ["42"]),
        ("<answer>\n42\n</answer>", ["\n42\n"]),
        ("<answer>42", []),
        ("</answer>42<answer>", []),
        ("<answer>41</answer><answer>42</answer>", ["42"]),
        ("text\n#### 42\n", [" 42"]),
        ("The answer is 42.", ["42"]),
        ("The final answer is: 42. I hope so.", ["42"]),
        ("ANSWER: 42", ["42"]),
        ("**Answer:** 42", ["42"]),
        ("**Answer**: 42", ["42"]),
        ("Answer:\n42", ["42"]),
        ("Answer:\n$$\n42\n$$", ["\n42\n"]),
        (r"The answer to your question is \(x = 3\), or so.", ["x = 3"]),
        ("The answer is 3.5 because 7/2 is.", ["3.5"]),
        ("The answer is 42!", ["42"]),
        ("The answers are 1 and 2", ["1 and 2"]),
        ("<answer>The answer is 42</answer>", ["42", "The answer is 42"]),
        (r"<answer>\boxed{42}</answer>", ["42", r"\boxed{42}"]),
        ("unanswered: 42", []),
    ],
)
def test_where_an_answer_is_stated(text: str, stated: list[str]) -> None:
    assert stated_answers(text) == stated


def test_the_last_things_of_a_text() -> None:
    assert list(last_things("a 1\nso x is $y$ and 3/4")) == ["so x is $y$ and 3/4", " $y$ and 3/4", "3/4"]
    assert list(last_things("she takes -1 3/4 cups\n"))[-1] == "-1 3/4"
    assert list(last_things("of 8\n3/4 remain"))[-1] == "3/4"
    assert list(last_things("3/4 is $y$"))[-1] == "y"
    assert list(last_things("")) == [""]


# --- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "parser", "value"),
    [
        ("42", "number", 42),
        (" **42.** ", "number", 42),
        ("$42$", "number", 42),
        ("$42", "number", 42),
        ("-$1,234.50", "number", Fraction("-1234.5")),
        ("−42", "number", -42),
        ("1{,}234", "number", 1234),
        ("1e3", "number", 1000),
        ("50%", "number", Fraction(1, 2)),
        (r"50\%", "number", Fraction(1, 2)),
        ("12.5 percent", "number", Fraction(1, 8)),
        ("42 apples", "number", 42),
        ("5cm", "number", 5),
        ("60 km/h", "number", 60),
        (r"5\text{ cm}^2", "number", 5),
        (r"45^\circ", "number", 45),
        ("45°", "number", 45),
        (r"\text{42}", "number", 42),
        ("3/4", "expression", Fraction(3, 4)),
        ("1 3/4", "expression", Fraction(7, 4)),
        ("-1 3/4 cups", "expression", Fraction(-7, 4)),
        ("3/4 cup", "expression", Fraction(3, 4)),
        (r"\frac{3}{4}", "latex", Fraction(3, 4)),
        (r"-\dfrac{3}{4}", "latex", Fraction(-3, 4)),
        (r"\frac34", "latex", Fraction(3, 4)),
        (r"2\frac{1}{2}", "latex", Fraction(5, 2)),
        ("2^10", "expression", 1024),
        ("3*10^8", "expression", 300_000_000),
        ("17+25=42", "number", 42),
        ("17+25 = 84/2 = 42", "number", 42),
        ("(42)", "expression", 42),
        ("--42", "expression", 42),
        (r"\sqrt{2}", "latex", None),
        ("sqrt(2)", "expression", None),
        ("x+1", "expression", None),
        ("x", "expression", None),
        (r"\{1, 2\}", "latex", None),
        ("(1, 2]", "expression", None),
        ("1 or 2", "expression", None),
        ("5 pi", "expression", None),
        ("2^(1/2)", "latex", None),
        ("17+25", "text", None),
        ("6*7", "text", None),
        ("84/2", "text", None),
        ("1 4/3", "text", None),
        ("1 4/2", "text", None),
        (r"\frac{84}{2}", "text", None),
        (r"17+\sqrt{625}", "text", None),
        (r"6 \cdot 7", "text", None),
        ("3 million", "text", None),
        (r"3\text{ million}", "text", None),
        ("4 2", "text", None),
        ("1/0", "text", None),
        (r"\frac{1}{0}", "text", None),
        ("Evelyn", "text", None),
        ("so it is", "text", None),
        ("forty-two", "text", None),
        ("４２", "text", None),
        (r"\gamma(99999999)", "text", None),
        (r"\int_0^1 x dx", "text", None),
        ("", "none", None),
        (" . ", "none", None),
    ],
)
def test_how_an_answer_is_read(answer: str, parser: str, value: Any) -> None:
    found = reading.read(answer)
    assert (found.parser, found.exact) == (parser, value), found


def test_every_reading_is_labelled() -> None:
    assert maths.read_maths(r"so \boxed{\frac{3}{4}}.") == maths.MathsReading("3/4", "latex")
    assert maths.read_maths("It took 5 days") == maths.MathsReading("5", "number")
    assert maths.read_maths("I cannot tell.") == maths.MathsReading("i cannot tell", "text")
    assert maths.read_maths("") == maths.MathsReading("", "none")


@given(st.integers(-(10**12), 10**12), st.integers(1, 999))
def test_numbers_and_fractions_come_back(number: int, below: int) -> None:
    assert maths.verify_maths(f"The answer is {number:,}.", number, strict=True)
    assert maths.verify_maths(f"\\boxed{{{number}}}", f"${number}$", strict=True)
    assert not maths.verify_maths(f"\\boxed{{{number + 1}}}", number)
    value = Fraction(number, below)
    if value.denominator > 1:
        assert equal(f"{number}/{below}", f"\\frac{{{value.numerator}}}{{{value.denominator}}}")


# --- equality --------------------------------------------------------------------------------------------------------

EQUAL = [
    ("1/2", "0.5"),
    (r"\frac{1}{3}", "0.333333"),
    ("2/3", "66.6667%"),
    ("1/2", r"50\%"),
    (r"\sqrt{8}", r"2\sqrt{2}"),
    (r"\frac{\sqrt{2}}{2}", "0.707107"),
    (r"\frac{1}{\sqrt{2}}", r"\frac{\sqrt{2}}{2}"),
    ("pi", r"\pi"),
    (r"5\pi", "5 pi"),
    ("x+1", "1+x"),
    ("x^2+2x+1", "(x+1)^2"),
    (r"\frac{x^2-1}{x-1}", "x+1"),
    (r"\sin^2 x + \cos^2 x + y", "1+y"),
    ("5", "x=5"),
    ("x=5", "5"),
    ("y=2x+1", "y = 1+2x"),
    ("x<2", "2>x"),
    (r"\{1,2\}", "2, 1"),
    ("1,2", "1 and 2"),
    ("[0,1)", "[0, 1)"),
    ("(1,2)", "( 1 , 2 )"),
    (r"[0,\infty)", r"[0, \infty)"),
    (r"\begin{pmatrix} 1 & 2 \end{pmatrix}", r"\begin{pmatrix}1&2\end{pmatrix}"),
    (r"3 \pm \sqrt{2}", r"3+\sqrt{2}, 3-\sqrt{2}"),
    ("3+4i", "4i+3"),
    ("5!", "120"),
    (r"\binom{5}{2}", "10"),
    (r"\log_2 3", r"\log_{2}(3)"),
    (r"(-\infty, 1) \cup (2, \infty)", r"(2,\infty) \cup (-\infty,1)"),
    (r"10^{-3}", "0.001"),
    ("5 m", "5"),
    ("(B)", "B"),
    (r"\text{Evelyn}", "evelyn"),
]
DIFFERENT = [
    ("1/3", "0.33"),
    ("1/3", "0.3334"),
    ("0.3333333", "0.3333334"),
    ("1/3000000", "0.0000003"),
    ("10^{-7}", "0.0000002"),
    ("0", "0.0000001"),
    ("1/2", "50"),
    ("2", r"\sqrt{2}"),
    (r"\sqrt{2}", "1.41"),
    ("x+1", "x+2"),
    ("x+1", "1"),
    ("x^2", "x"),
    ("y=2x+1", "y=2x"),
    ("x<2", "x>2"),
    ("x=5", "x=6"),
    (r"\{1,2\}", r"\{1,2,3\}"),
    (r"\{1,2\}", r"\{1,3\}"),
    ("[0,1)", "[0,1]"),
    ("(1,2)", "(2,1)"),
    ("5", "5x"),
    ("3+4i", "3-4i"),
    ("Evelyn", "Eve"),
    ("42", r"\infty"),
    ("42", r"\frac{0}{0}"),
    ("3", "3 million"),
]


@pytest.mark.parametrize(("gold", "said"), EQUAL)
def test_equal(gold: str, said: str) -> None:
    assert equal(gold, said)


@pytest.mark.parametrize(("gold", "said"), DIFFERENT)
def test_different(gold: str, said: str) -> None:
    assert not equal(gold, said)
    assert not equal(gold, said, loose=True)


def test_the_look_at_points_never_overrules_the_library() -> None:
    """What math-verify calls equal is not refused beforehand: without the look the verdicts are the same."""
    library = reading.Library.get()
    for gold, said in EQUAL + DIFFERENT:
        left, right = reading.read(gold), reading.read(said)
        if left.parsed is None or right.parsed is None:
            continue
        assert library.equal(left.parsed, right.parsed) == equal(gold, said), (gold, said)


def test_a_percent_sign_may_be_missing_leniently() -> None:
    for gold, said in (("50", "50%"), (r"50\%", "50")):
        verdict = maths.compare_maths(f"The answer is {said}.", gold)
        assert (verdict.strict, verdict.lenient) == (False, True)
    assert not maths.verify_maths("The answer is 0.5%", "0.5")
    assert not maths.verify_maths("The answer is 51%", "50")


# --- verdicts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "answer", "strict", "lenient"),
    [
        ("42", "42", False, True),
        (r"\boxed{42}", "42", True, True),
        (r"\boxed{42} and 43 more", "42", True, True),
        (r"\boxed{41}, not 42", "42", False, False),
        (r"\boxed{forty-two}, that is 42", "42", False, True),
        ("<answer>42</answer>", "Solution: 7+5=12.\n#### 42", True, True),
        ("<answer>1/2</answer>", r"We get \boxed{\frac{1}{2}}.", True, True),
        ("<answer>Evelyn</answer>", "Evelyn", True, True),
        ("It was\nEvelyn.", "Evelyn", False, True),
        ("Evelyn it was", "Evelyn", False, False),
        (r"\boxed{42}" + "x " * 1500, "42", False, False),
        ("<answer>42</answer>", 42, True, True),
        ("<answer>0.1</answer>", 0.1, True, True),
        ("<answer>0.5</answer>", Fraction(1, 2), True, True),
        ("<answer>0.10</answer>", Decimal("0.1"), True, True),
    ],
)
def test_the_two_rules(text: str, answer: Any, strict: bool, lenient: bool) -> None:
    verdict = maths.compare_maths(text, answer)
    assert (verdict.strict, verdict.lenient) == (strict, lenient), verdict
    assert maths.verify_maths(text, answer, strict=True) is strict
    assert maths.verify_maths(text, answer) is lenient


@pytest.mark.parametrize("answer", ["", "  ", None, True, float("nan"), float("inf"), Decimal("NaN"), [42]])
def test_an_answer_that_is_none_is_the_data_sets_fault(answer: Any) -> None:
    with pytest.raises(RewardError, match="right column"):
        maths.verify_maths("42", answer)


@given(
    st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=12),
    st.sampled_from(["42", "x+1", r"\{1,2\}", "Eve"]),
)
def test_no_text_raises_and_strict_implies_lenient(pieces: list[str], answer: str) -> None:
    text = "".join(pieces)
    verdict = maths.compare_maths(text, answer)
    assert verdict.lenient or not verdict.strict
    assert verdict.answer_read.parser in (*reading.PARSED, "text", "none")
    assert maths.compare_maths(text, answer) == verdict  # cached or not


@given(st.text())
def test_no_text_at_all_raises(text: str) -> None:
    maths.verify_maths(text, "42")
    with contextlib.suppress(RewardError):  # a blank answer
        maths.verify_maths(text, text)


# --- harm ------------------------------------------------------------------------------------------------------------

BOMBS = [
    "9**9**9",
    "9^9^9^9",
    r"9^{9^{9^{9}}}",
    r"(((9^{999})^{999})^{999})^{999}",
    "(((9^999)^999)^999)^999",
    "9^{99999999999}",
    r"9^{99999 \cdot 99999}",
    r"10^{10!}",
    "99999999999!",
    "((9!)!)!",
    "9!!!!",
    r"\binom{9999999999}{999999999}",
    r"\gamma(9999999999)",
    r"\Gamma(9999999999)",
    r"e^{e^{e^{e^{9}}}}",
    r"\sinh(\sinh(\sinh(99)))",
    r"\exp(\exp(\exp(99)))",
    r"\int_0^1 \sin(\sin(\sin(x))) dx",
    r"\sum_{n=1}^{9999999999} n",
    r"\prod_{n=1}^{9999999999} n",
    r"\lim_{x \to 0} \frac{x}{x}",
    r"\operatorname{eye}(99999999)",
    "(x+y+z)^{999999}",
    "(x+1)^999 - (x+2)^999",
    "1e999999999",
    "1e999999999 + x",
    "(" * 80 + "1" + ")" * 80,
    "{" * 70 + "1" + "}" * 70,
    "\\left(" * 20 + "1" + "\\right)" * 20,
    "|" * 150,
    r"\sqrt{" * 20 + "2" + "}" * 20,
    r"\frac{1}{" * 12 + "2" + "}" * 12,
    "1+" * 79 + "1",
    "-" * 150 + "1",
    "1," * 79 + "1",
    "9" * 3000,
]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("formula", BOMBS, ids=lambda formula: formula[:30])
def test_a_formula_that_would_never_end_is_no_answer(formula: str) -> None:
    for text in (f"\\boxed{{{formula}}}", f"The answer is ${formula}$.", formula):
        for answer in ("42", "x+1", r"\{1,2\}"):
            assert not maths.compare_maths(text, answer).lenient


def test_the_guard_lets_usual_answers_through() -> None:
    for answer in ("x^{64}", "10^{1000}", "2^{100}", r"e^{50}", "12!", r"\binom{10}{3}"):
        assert guard.is_mathematical(answer) and guard.is_harmless(answer), answer
    towers = ["9^9^9", "9**9**9", r"9^{9^{9}}", "2^{5!}", "((2^{80})^{80})"]
    runaways = [
        "x^{65}",
        "10^{3000}",
        "100!",
        "5!!",
        r"\binom{1000}{5}",
        "1e1000",
        r"\log_{\pi^2} 3",
        r"\sin x \cos x \tan x \ln x",
    ]
    for answer in towers + runaways:
        assert not guard.is_harmless(answer), answer


@pytest.mark.parametrize(
    "garbage",
    [
        "1+",
        "*2",
        "(1",
        "1)",
        "{1",
        "1 2",
        "1..2",
        "x=",
        "=x",
        "2*/3",
        "()",
        "1,,2",
        "---1",
        "x2",
        "(1}",
        "x^",
    ],
)
def test_what_no_parser_could_read_is_not_given_to_one(garbage: str) -> None:
    assert not guard.is_well_formed(garbage)


@pytest.mark.parametrize(
    "answer",
    [
        "-x",
        "(0, 1]",
        r"\{1, 2\}",
        "2(x+1)",
        "x^{-1}",
        "-1 < x < 1",
        "3--1",
        "f(x)",
        r"\frac12",
        "x_1",
        r"\log_2 3",
        "|x|",
        "n!",
    ],
)
def test_what_may_be_read_is(answer: str) -> None:
    assert guard.is_well_formed(answer)


@pytest.fixture
def no_collector() -> Iterator[None]:
    """The deadline's exception may arrive in a callback of the garbage collector, where Python only reports it."""
    gc.disable()
    yield
    gc.enable()


def endless() -> int:
    while True:
        with contextlib.suppress(Exception):  # as SymPy does; the deadline is no Exception
            sum(range(100))


def count_to(most: int) -> int:
    count = 0
    while count < most:
        count += 1
    return count


@pytest.mark.usefixtures("no_collector")
def test_a_deadline_ends_what_does_not_end_by_itself() -> None:
    found = []
    worker = threading.Thread(target=lambda: found.append(within(0.05, endless, default=-1)))
    worker.start()
    assert within(0.05, endless, default=-1) == -1
    worker.join()
    assert found == [-1]


@pytest.mark.usefixtures("no_collector")
def test_a_deadline_that_is_not_met_leaves_no_trace() -> None:
    def fails() -> int:
        raise KeyError("x")

    with pytest.raises(KeyError):
        within(0.001, fails, default=-1)
    for most in range(0, 40_000, 400):  # the bell rings before the end, at it and after it
        result = within(0.001, functools.partial(count_to, most), default=-1)
        assert result in (-1, most)
    time.sleep(0.05)  # a bell that still rings would be heard here
    assert within(60.0, lambda: 1, default=-1) == 1


@pytest.mark.usefixtures("no_collector")
def test_an_answer_that_takes_too_long_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "LONGEST_SECONDS", 0.05)
    monkeypatch.setattr(reading.Library, "parse", lambda self, latex: endless())
    reading.read.cache_clear()
    assert reading.read("x+7").parser == "text"
    monkeypatch.undo()
    reading.read.cache_clear()
    assert reading.read("x+7").parser == "expression"


def test_it_works_in_any_thread() -> None:
    """Training in the background: math-verify's own timeouts raise there, because signals are for the main thread."""
    cases = [(gold, said, True) for gold, said in EQUAL] + [(gold, said, False) for gold, said in DIFFERENT]
    reading.read.cache_clear()
    equality.same.cache_clear()
    wrong: list[Any] = []

    def work() -> None:
        try:
            wrong.extend(case for case in cases if equal(case[0], case[1]) is not case[2])
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_nobody_elses_alarm_is_touched() -> None:
    signal = pytest.importorskip("signal")
    if not hasattr(signal, "setitimer"):
        pytest.skip("no alarms on this system")
    before = signal.getsignal(signal.SIGALRM)
    pending = signal.getitimer(signal.ITIMER_REAL)[0]
    equal(r"\sqrt{12}", r"2\sqrt{3}")
    assert signal.getsignal(signal.SIGALRM) is before
    assert (signal.getitimer(signal.ITIMER_REAL)[0] > 0) == (pending > 0)


def test_nothing_heavy_is_imported_with_the_module() -> None:
    code = (
        "import sys; from rlkit.rewards import gsm8k, proximity; from rlkit.rewards.maths import rewards; "
        "print(sorted({'torch', 'sympy', 'math_verify', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_without_the_package_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "math_verify", None)
    reading.Library.get.cache_clear()
    with pytest.raises(ConfigError, match=r"math-verify.*pip install 'rlkit-notebooks\[rewards\]'"):
        maths.correct_maths()
    monkeypatch.undo()
    reading.Library.get.cache_clear()
    assert maths.correct_maths()


# --- rewards ---------------------------------------------------------------------------------------------------------


def test_correct_maths() -> None:
    texts = [r"\boxed{\frac{1}{2}}", "0.5", "0.51", ""]
    answer = ["1/2"] * 4
    assert maths.correct_maths()([""] * 4, texts, answer=answer) == [1, 1, 0, 0]
    strict = maths.correct_maths(right=2, wrong=-1, strict=True)
    assert strict([""] * 4, [message(text) for text in texts], answer=answer) == [2, -1, -1, -1]
    assert strict.verifier(texts[0], answer="1/2", level=3) is True
    assert strict.verifier(message(texts[1]), answer="1/2") is False
    assert signatures.required_columns(strict) == ["answer"]
    assert (strict.__name__, maths.correct_maths().__name__) == ("correct_maths_strict", "correct_maths")
    assert strict.__doc__ and "2" in strict.__doc__
    with pytest.raises(ConfigError, match="right=0"):
        maths.correct_maths(right=0)


def test_strict_and_lenient_side_by_side() -> None:
    strict, lenient = maths.strict_and_lenient
    texts, answer = [r"\boxed{42}", "42", "41"], ["42"] * 3
    assert strict([""] * 3, texts, answer=answer) == [1, 0, 0]
    assert lenient([""] * 3, texts, answer=answer) == [1, 1, 0]
    assert [signatures.reward_name(f) for f in maths.strict_and_lenient] == list(maths.FUNCTIONS)
    assert [signatures.required_columns(f) for f in maths.strict_and_lenient] == [["answer"]] * 2
    assert strict.verifier("42", answer="42") is False and lenient.verifier("42", answer="42") is True


def test_the_report_counts_parsers_and_points() -> None:
    texts = [r"\boxed{42}", "so 42", r"$\frac{84}{5}$", "3/4", "no idea", "", r"\boxed{41}", "x+1"]
    report = maths.maths_parsers([message(text) for text in texts], ["42"] * 7 + ["1+x"])
    assert report.parsers == {"latex": 1, "expression": 2, "number": 3, "text": 1, "none": 1}
    assert (report.strict, report.lenient) == (1 / 8, 3 / 8)
    assert [(text, answer) for text, answer, _ in report.apart] == [("so 42", "42"), ("x+1", "1+x")]
    table = str(report)
    assert "12.5%" in table and "37.5%" in table and "25.0 points" in table and "'so 42'" in table
    with pytest.raises(ConfigError, match="one for each of the 0"):
        maths.maths_parsers([], [])


# --- proximity -------------------------------------------------------------------------------------------------------

numbers = st.decimals(allow_nan=False, allow_infinity=False)


def near(text: str, answer: Any = "10", **settings: Any) -> float:
    (score,) = proximity(**settings)([""], [text], answer=[answer])
    assert proximity(**settings)([""], [message(text)], answer=[answer]) == [score]
    return score


def test_closer_is_more() -> None:
    assert [near(text) for text in ("10", "9", "3", "0", "20", "ten")] == [
        1,
        0.45,
        pytest.approx(0.15),
        -1,
        -1,
        -0.5,
    ]
    assert near("9") > near("3") > near("ten") > near("500")
    assert near("9.9999") == near("10.0001") < 0.5 < near("10.0")
    assert [near(text, by="distance") for text in ("10", "9", "3", "25")] == [
        1,
        0.45,
        pytest.approx(0.15),
        -1,
    ]
    assert near("9", right=3, outlier=-2) == pytest.approx(1.35) and near("", right=3, outlier=-2) == -1
    assert near("95", "100", scale=0.1) == 0.25 and near("80", "100", scale=0.1) == -1


def test_an_answer_of_nought_and_below() -> None:
    assert [near(text, "0") for text in ("0", "0.5", "-0.5", "1")] == [1, 0.25, 0.25, -1]
    assert near("-9", "-10") == near("9", "10") and near("9", "-10") == -1


def test_huge_numbers_are_outliers_and_nothing_overflows() -> None:
    assert near("9" * 5000) == near("1e999999999") == near("-1e999999") == -1
    assert near("1e-999999999") == -1  # as good as 0, and 0 is one whole answer away
    assert near("1", "1e999999999") == -1 and near("1e999999999", "1e999999999") == 1
    assert near("9e999999998", "1e999999999") == pytest.approx(0.45)
    assert near("1", "1e-999999999", by="distance", scale=1e-300) == -1


@given(
    numbers,
    st.lists(numbers, min_size=2, max_size=6),
    st.sampled_from(["ratio", "distance"]),
    st.floats(1e-6, 1e6),
)
def test_never_more_for_a_larger_error(
    answer: Decimal, guesses: list[Decimal], by: str, scale: float
) -> None:
    reward = proximity(by=by, scale=scale)
    texts = [format(guess, "f") if abs(guess.adjusted()) < 50 else str(guess) for guess in guesses]
    scores = reward([""] * len(texts), texts, answer=[answer] * len(texts))
    errors = [
        abs(Fraction(guess) - Fraction(answer)) if abs(guess.adjusted()) < 50 else None for guess in guesses
    ]
    ranked = (
        sorted((e, s) for e, s in zip(errors, scores, strict=True) if e is not None)
        if abs(answer.adjusted()) < 50
        else []
    )
    assert all(b[1] <= a[1] for a, b in itertools.pairwise(ranked) if a[0] < b[0])
    assert all(-1 <= score <= 1 for score in scores)
    assert all(
        (score == 1) == (Decimal(guess) == answer) for score, guess in zip(scores, guesses, strict=True)
    )


@given(st.text() | st.text(alphabet="0123456789.,-eE ", max_size=30), st.integers())
def test_proximity_takes_any_text(text: str, answer: int) -> None:
    assert -1 <= near(text, answer) <= 1


def test_proximity_carries_the_verifier_and_its_name() -> None:
    reward = proximity(by="distance")
    assert reward.__name__ == "proximity_distance" and "distance" in reward.__doc__
    assert reward.verifier("10", answer="10") is True and reward.verifier("9", answer="10") is False
    assert signatures.required_columns(reward) == ["answer"]
    with pytest.raises(RewardError, match="right column"):
        reward([""], ["1"], answer=["ten"])


@pytest.mark.parametrize(
    "settings",
    [{"by": "log"}, {"scale": 0}, {"scale": -1.0}, {"scale": float("nan")}, {"scale": "1"}, {"scale": True},
     {"right": 0}, {"right": float("inf")}, {"outlier": 0}, {"outlier": 1}],
)  # fmt: skip
def test_proximity_refuses_settings_that_cannot_work(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        proximity(**settings)


# --- golden sets -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*maths.GOLDEN, *PROXIMITY])
def test_golden_sets(name: str) -> None:
    factories = {**maths.FACTORIES, **FACTORIES}
    reward = factories[name]() if name in factories else maths.FUNCTIONS[name]
    golden = {**maths.GOLDEN, **PROXIMITY}[name]
    scores = {
        kind: [
            (reward([e.prompt], [e.completion], answer=[e.columns["answer"]])[0], e)
            for e in getattr(golden, kind)
        ]
        for kind in ("right", "wrong", "exploits")
    }
    assert all(len(examples) >= 5 for examples in scores.values())
    for score, example in scores["right"]:
        assert score == golden.high, example
    for score, example in scores["wrong"]:
        assert golden.low <= score < golden.high, example
    for score, example in scores["exploits"]:
        assert golden.low <= score and (score == golden.high) == example.fools, example


def test_every_reward_here_has_its_golden_set() -> None:
    assert maths.GOLDEN.keys() == maths.FUNCTIONS.keys() | maths.FACTORIES.keys()
    assert PROXIMITY.keys() == FACTORIES.keys()
