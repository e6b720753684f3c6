"""What holds for every reward that is offered by name: it survives any text, stays in its range, and passes its audit.

New entries of the registry are covered by themselves. Columns come from each one's golden set.
"""

from __future__ import annotations

import importlib
import itertools
import math
import pkgutil
import random
import time
import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import rlkit.rewards
from rlkit.rewards import registry, signatures
from rlkit.rewards.audits.audit import audit
from rlkit.rewards.calls import RewardCaller
from rlkit.rewards.golden import Example, GoldenSet
from rlkit.rewards.maths.reading import LONGEST_SECONDS
from rlkit.rewards.rubric import score_range

MODULES = [
    importlib.import_module(m.name)
    for m in pkgutil.walk_packages(rlkit.rewards.__path__, "rlkit.rewards.")
    if not m.ispkg
]
FUNCTIONS, FACTORIES = registry.offers().functions, registry.offers().factories
NAMES = registry.names()
LONG = 4096  # characters
LIMIT, MARGIN = 0.010, 5  # seconds; the margin is for a busy machine: disasters take seconds


@cache
def reward(name: str) -> Any:
    return FUNCTIONS[name] if name in FUNCTIONS else FACTORIES[name]()


@cache
def golden(name: str) -> GoldenSet:
    return registry.offers().golden[name]


def starts_processes(name: str) -> bool:
    """Whether a reward says that it starts processes (as `passes_tests` does): it is tried less often, not timed."""
    return bool(getattr(reward(name), "starts_processes", False))


QUICK = [name for name in NAMES if not starts_processes(name)]


def examples(name: str) -> tuple[Example, ...]:
    return (*golden(name).right, *golden(name).wrong, *golden(name).exploits)


def scores(name: str, texts: Sequence[str], rows: Sequence[Example], messages: bool = False) -> list[float]:
    """What a reward gives texts in the place of the examples' completions; NaN for None. Raises where it raises."""
    paired = list(zip(itertools.cycle(rows), texts, strict=False))
    found = [math.nan] * len(paired)
    for columns in {frozenset(row.columns) for row, _ in paired}:  # in a data set all rows have the same
        chosen = [i for i, (row, _) in enumerate(paired) if row.columns.keys() == columns]
        prompts: list[Any] = [paired[i][0].prompt for i in chosen]
        completions: list[Any] = [paired[i][1] for i in chosen]
        ids = [[0] * (len(text) // 4 + 1) for text in completions]
        if messages:
            prompts = [[{"role": "user", "content": prompt}] for prompt in prompts]
            completions = [[{"role": "assistant", "content": text}] for text in completions]
        own = {key: [paired[i][0].columns[key] for i in chosen] for key in columns}
        given = {"prompts": prompts, "completions": completions, "completion_ids": ids, **own}
        for i, score in zip(chosen, RewardCaller()([reward(name)], given, "a test")[0], strict=True):
            found[i] = score
    return found


def same(one: Sequence[float], other: Sequence[float]) -> bool:
    return len(one) == len(other) and all(
        math.isclose(a, b, abs_tol=1e-9) or (math.isnan(a) and math.isnan(b))
        for a, b in zip(one, other, strict=True)
    )


def any_text(seed: int, size: int) -> str:
    """Random characters out of all of Unicode."""
    draw = random.Random(seed)
    codes = (draw.randrange(0x110000) for _ in range(size))
    return "".join(chr(code) for code in codes if not 0xD800 <= code < 0xE000)


# Pieces of what rewards look for: texts made of them get deeper than random ones.
PIECES = [
    *("42", "4", "-", ".", ",", "e", "1e999999999", "1/2", "50%", "4２", "²", "٤", "−", "0", "9**9**9"),
    *(
        "<answer>",
        "</answer>",
        "<reasoning>",
        "</reasoning>",
        "<think>",
        "</think>",
        "<SOLUTION>",
        "</SOLUTION>",
    ),
    *(
        "####",
        r"\boxed{",
        "{",
        "}",
        r"\frac{1}{",
        "$",
        "\\",
        "(",
        ")",
        "[",
        "]",
        "```",
        "```python\n",
        "assert ",
    ),
    *(
        "SELECT ",
        "FROM ",
        "'",
        '"',
        ";",
        "--",
        "answer is ",
        "Answer: ",
        "def f(x):\n",
        "return ",
        "x",
        "@",
        "+49 ",
    ),
    *(" ", "\n", "\t", "\r\n", "\0", "\u202e", "\ufeff", "é", "ß", "🙂"),
    *("word ", "the ", "Dear Sir", "Regards,\n"),
]
TEXTS = st.text(max_size=200) | st.lists(st.sampled_from(PIECES), max_size=40).map("".join)

NASTY = [
    *(piece * (LONG // len(piece)) for piece in PIECES),
    *("ab" * (LONG // 2), "a b " * (LONG // 4), "1," * (LONG // 2), "1.1" * (LONG // 3), "(1+" * (LONG // 3)),
    *("<answer>1</answer>" * (LONG // 18), "<reasoning>" + "\n" * (LONG - 11), "a@b." * (LONG // 4)),
    *(" " * (LONG - 1) + "x", "\n" * (LONG - 1) + "x", "9" * (LONG - 1) + "x", "x" * (LONG - 1) + "9"),
    *(r"\frac{1}{2}" * (LONG // 11), "{" * (LONG // 2) + "}" * (LONG // 2), "not " * (LONG // 4)),
    any_text(1, LONG),
]


# --- golden sets and audits -------------------------------------------------------------------------------


def test_there_is_something_to_test() -> None:
    assert {"number_found", "correct_number", "only_number", "xml_format", "soft_overlong"} <= {*NAMES}


def test_whatever_a_module_offers_is_in_the_registry() -> None:
    """A module with rewards that is not in the registry's list would be neither found nor tested."""
    listed = {f"rlkit.rewards.{name}" for name in registry.MODULES}
    for attribute in ("FACTORIES", "CONFIGURED", "RUBRICS"):
        assert {module.__name__ for module in MODULES if hasattr(module, attribute)} <= listed
    offered = registry.offers()
    for module in MODULES:
        assert getattr(module, "GOLDEN", {}).keys() <= offered.golden.keys(), module.__name__
    assert len({*offered.functions, *offered.factories, *offered.configured, *offered.rubrics}) == sum(
        map(len, offered[:4])
    )


@pytest.mark.parametrize("name", NAMES)
def test_every_reward_has_a_golden_set(name: str) -> None:
    assert name in registry.offers().golden
    for group in ("right", "wrong", "exploits"):
        assert len(getattr(golden(name), group)) >= 5, f"{name}: fewer than 5 {group}"
    assert golden(name).low < golden(name).high
    assert "" in [example.completion for example in examples(name)], f"{name}: what is saying nothing worth?"
    assert all(example.note for example in golden(name).exploits)


@pytest.mark.parametrize("name", NAMES)
def test_its_audit_finds_no_hole(name: str) -> None:
    found = audit(name if name in registry.names() else reward(name), golden=golden(name))
    assert found.ok, str(found)


@pytest.mark.parametrize("name", NAMES)
def test_what_fools_it_does(name: str) -> None:
    """An exploit that is marked although it earns nothing would hide the day when it does."""
    found = audit(reward(name), golden=golden(name))
    for scored in found.scored:
        assert not scored.fools or scored.paid, f"{name} is not fooled by {scored}"


@pytest.mark.parametrize("name", NAMES)
def test_it_says_what_it_is(name: str) -> None:
    assert reward(name).__doc__
    assert signatures.reward_name(reward(name)) not in ("", "reward", "<lambda>")
    assert score_range(reward(name)) == (golden(name).low, golden(name).high)


# --- any text ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_any_text_gets_a_score_in_range(name: str) -> None:
    count = 5 if starts_processes(name) else 100
    given_rows = examples(name)

    @settings(max_examples=count, suppress_health_check=list(HealthCheck))
    @given(st.lists(TEXTS, min_size=1, max_size=3), st.integers(0, 999))
    def holds(texts: list[str], start: int) -> None:
        rows = given_rows[start % len(given_rows) :]
        found = scores(name, texts, rows)
        for value in found:
            assert math.isnan(value) or golden(name).low - 1e-9 <= value <= golden(name).high + 1e-9
        assert same(found, scores(name, texts, rows, messages=True))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        holds()


@pytest.mark.parametrize("name", NAMES)
def test_64_kilobytes_of_anything(name: str) -> None:
    texts = [any_text(seed, 16_384) for seed in range(3)]  # about four bytes a character
    texts += [any_text(4, 65_536), "42 " * 21_845, "\ud800 42", "\0" * 65_536]
    if starts_processes(name):
        texts = texts[:1] + texts[-2:]
    for value in scores(name, texts, examples(name)):
        assert math.isnan(value) or golden(name).low - 1e-9 <= value <= golden(name).high + 1e-9


@pytest.mark.parametrize("name", NAMES)
def test_the_verifier_survives_any_text(name: str) -> None:
    verifier = getattr(reward(name), "verifier", None)
    if verifier is None:
        return
    texts = NASTY[:: 12 if starts_processes(name) else 1]
    for i, text in enumerate(texts):
        columns = examples(name)[i % len(examples(name))].columns
        assert verifier(text, **columns) in (True, False)
        assert verifier([{"role": "assistant", "content": text}], **columns) in (True, False)


@pytest.mark.parametrize("name", QUICK)
def test_no_text_of_4_kilobytes_takes_long(name: str) -> None:
    """The only timings among the tests: 10 ms a text, at the best of several tries, with a margin of five.

    None of these texts holds a formula that SymPy can read: the next test does.
    """
    scores(name, ["", "42"], examples(name))  # imports, caches
    slowest = (0.0, "")
    for i, text in enumerate(NASTY):
        row = examples(name)[i % len(examples(name)) :]
        best = math.inf
        for _ in range(5):
            start = time.perf_counter()
            scores(name, [text], row)
            best = min(best, time.perf_counter() - start)
            if best <= LIMIT:
                break
        slowest = max(slowest, (best, text))
    assert slowest[0] <= LIMIT * MARGIN, f"{name} takes {slowest[0]:.3f} s for {slowest[1][:40]!r}…"


FORMULAS = (
    *(r"\frac{x^2-1}{x-1}+\sqrt{x+5}", r"\sin(x)+\cos(2x)-\tan(3x)", r"(x+7)^{64}", r"\{1,2,\sqrt{3},\pi\}"),
    *(
        r"\begin{pmatrix}1&2\\3&4\end{pmatrix}",
        r"[5,\infty)\cup(0,1]",
        r"99!+3x",
        r"\binom{99}{7}",
        "x^2+3x+1=0",
    ),
)


@pytest.mark.parametrize("name", ["correct_maths", "correct_maths_lenient", "correct_maths_strict"])
@pytest.mark.parametrize("formula", FORMULAS)
def test_formulas_take_longer_once(name: str, formula: str) -> None:
    """The one exception to the 10 ms: SymPy takes some 0.1 s for a formula that it has not read yet, and is stopped
    after two (`rewards.maths` says so)."""
    text = ("so " * LONG)[: LONG - 200] + rf"it is \boxed{{{formula}}}"
    columns = [Example("", {"answer": r"\frac{1}{\sqrt{x}}+3"})]
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        assert scores(name, [text], columns) == [0.0]
        seconds.append(time.perf_counter() - start)
    assert seconds[0] <= 2 * LONGEST_SECONDS + 1  # one answer is read, then compared
    assert min(seconds[1:]) <= LIMIT * MARGIN


# --- batches ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_a_batch_does_not_matter(name: str) -> None:
    rows = [*examples(name), *(Example(text, examples(name)[0].columns) for text in ("", "42", "x" * 5000))]
    if starts_processes(name):
        rows = rows[:6]
    found = scores(name, [row.completion for row in rows], rows)
    for seed in range(2):
        order = random.Random(seed).sample(range(len(rows)), len(rows))
        mixed = [rows[i] for i in order]
        assert same(scores(name, [row.completion for row in mixed], mixed), [found[i] for i in order])
    alone = [scores(name, [row.completion], [row])[0] for row in rows]
    assert same(alone, found)


@pytest.mark.parametrize("name", NAMES)
def test_messages_are_read_like_strings(name: str) -> None:
    rows = examples(name)[: 4 if starts_processes(name) else None]
    texts = [row.completion for row in rows]
    assert same(scores(name, texts, rows), scores(name, texts, rows, messages=True))


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_changed_that_it_was_given(name: str) -> None:
    row = examples(name)[0]
    before = repr(row.columns)
    scores(name, [row.completion], [row])
    assert repr(row.columns) == before
