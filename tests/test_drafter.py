"""Drafting rewards: what a model writes is checked, run in the sandbox, audited, and used only when accepted."""

from __future__ import annotations

import html
import os
import warnings

import pytest
from chat_server import ChatServer, Reply, said
from hypothesis import given
from hypothesis import strategies as st

from rlkit import tasks
from rlkit.errors import ConfigError, RewardError
from rlkit.rewards.calls import RewardWarning
from rlkit.rewards.drafts.checks import MAX_SOURCE, check_source
from rlkit.rewards.drafts.drafter import draft_reward
from rlkit.rewards.drafts.sandboxed import sandboxed_reward
from rlkit.rewards.registry import resolve
from rlkit.rewards.signatures import required_columns, reward_name

SHORT = '''
def short_answer(prompts, completions, **columns):
    """Reward short answers, from 0 to 1."""
    return [1.0 / (1 + len(completion.split())) for completion in completions]
'''
RIGHT = '''
import re

NUMBER = re.compile(r"-?[0-9]+")

def right_number(prompts, completions, answer, **columns):
    """Reward the right last number with 1, else 0."""
    scores = []
    for completion, wanted in zip(completions, answer):
        found = NUMBER.findall(completion)
        scores.append(1.0 if found and found[-1] == wanted else 0.0)
    return scores
'''
BAD = "def reward(completions, **columns):\n    import os\n    return [float(os.getpid())]"
ROWS = [
    {"prompt": "1+1=", "answer": "2"},
    {"prompt": [{"role": "user", "content": "17+25="}], "answer": "42"},
]


@pytest.fixture(autouse=True)
def own_surroundings(monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def fenced(code):
    return f"Here it is:\n```python\n{code.strip()}\n```\nHave fun!"


def replies(*texts):
    return lambda request, number: Reply(texts[min(number, len(texts) - 1)])


def draft(*texts, examples=ROWS, **settings):
    with ChatServer(replies(*texts)) as server:
        return draft_reward("short answers", examples, "m", server.base_url, retries=0, **settings), server


# --- drafting --------------------------------------------------------------------------------------------------------


def test_a_draft_is_shown_tried_and_not_used_before_it_is_accepted():
    made, _ = draft(fenced(SHORT), audit=False)
    assert made.name == "short_answer"
    assert made.code.strip() == SHORT.strip()
    assert made.problems == []
    kinds = {verdict.kind for verdict in made.verdicts}
    assert kinds == {"right", "of another row", "empty", "prompt repeated", "long"}
    by_kind = {verdict.kind: verdict.score for verdict in made.verdicts}
    assert by_kind["empty"] == 1.0 and by_kind["right"] == 0.5 and by_kind["long"] < 0.001
    for shown in (str(made), html.unescape(made._repr_html_())):
        assert "def short_answer" in shown and "not accepted" in shown and "prompt repeated" in shown
    with pytest.raises(ConfigError, match="was not accepted"):
        _ = made.reward

    with pytest.warns(RewardWarning, match="without an audit .not audited."):
        reward = made.accept()
    assert made.reward is reward
    assert "not accepted" not in str(made)
    assert reward_name(reward) == "short_answer"
    assert "Reward short answers" in reward.__doc__
    chat = [{"role": "assistant", "content": "one two"}]
    assert reward(["q"] * 3, ["one two", chat, ""], answer=["1"] * 3, trainer_state=object()) == [
        1 / 3,
        1 / 3,
        1.0,
    ]


def test_what_the_model_is_told():
    _, server = draft(fenced(RIGHT), audit=False)
    text = said(server.requests[0])
    assert "Reward this: short answers" in text
    assert "def NAME(prompts, completions, answer, **columns)" in text
    assert '"1+1="' in text and "user: 17+25=" in text and '"42"' in text


def test_what_is_wrong_is_told_to_the_model():
    made, server = draft(fenced(BAD), fenced(SHORT), audit=False)
    assert made.problems == [] and made.attempts == 2 and made.name == "short_answer"
    assert len(server.requests) == 2
    assert "import of 'os'" in server.requests[1]["messages"][-1]["content"]


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (BAD, "import of 'os'"),
        ("no code at all", "line 1|function is needed"),
        ("", "no code"),
        (SHORT.replace("1.0 / (1 + len(completion.split()))", "1.0 / len(completion)"), "ZeroDivisionError"),
        (
            SHORT.replace("1.0 / (1 + len(completion.split()))", "0.5"),
            "the same, 0.5: nothing can be learned",
        ),
        (SHORT.replace("1.0 / (1 + len(completion.split()))", "None"), "scores nothing"),
        (SHORT.replace("1.0 / (1 + len(completion.split()))", "'good'"), "not a list with one number"),
        ("def f(completions, **columns):\n    return 1.0", "not a list with one number"),
        (
            "import math\nX = math.nothing\ndef f(completions, **columns):\n    return [1.0]",
            "cannot be loaded",
        ),
        (RIGHT.replace("answer", "solution"), "column 'solution'.*columns: answer"),
    ],
)
def test_drafts_that_cannot_be_used(code, says):
    made, server = draft(fenced(code) if code else "", attempts=2, audit=False)
    assert len(server.requests) == 2
    with pytest.raises(ConfigError, match=says):
        made.accept()
    with pytest.raises(ConfigError, match=says):
        made.accept(anyway=True)
    with pytest.raises(ConfigError, match="not accepted"):
        _ = made.reward
    assert "problem: " in str(made)


def test_nothing_is_accepted_unseen(capsys):
    made, _ = draft(fenced(RIGHT), examples=tasks.arithmetic())
    made.accept()
    shown = capsys.readouterr().out
    assert RIGHT.strip() in shown and "not accepted" in shown and "no hole found" in shown
    made.accept()
    repr(made)
    made, _ = draft(fenced(RIGHT), examples=tasks.arithmetic())
    assert repr(made) == str(made)  # in a terminal, too
    capsys.readouterr()
    made.accept()
    assert capsys.readouterr().out == ""  # it was there to be read


@pytest.mark.slow
def test_a_draft_that_never_ends():
    forever = SHORT.replace("    return", "    while len(completions[0]) > 60_000:\n        pass\n    return")
    made, _ = draft(fenced(forever), attempts=1, audit=False, seconds=2.0)
    assert "timeout" in made.problems[0] and "(long)" in made.problems[0]


def test_a_task_is_audited_and_holes_must_be_accepted_knowingly():
    task = tasks.arithmetic()
    made, _ = draft(fenced(SHORT), examples=task)
    assert made.audit is not None and made.holes
    assert str(made.audit) in str(made)
    with pytest.raises(ConfigError, match="where it would be hacked"):
        made.accept()
    assert made.accept(anyway=True)(["q"], [""]) == [1.0]


def test_an_endpoint_that_does_not_answer():
    says = "no reward was drafted: .*HTTP 401.*bad key"
    refusal = Reply(status=401, error="bad key")
    with ChatServer(lambda request, number: refusal) as server, pytest.raises(RewardError, match=says):
        draft_reward("short answers", ROWS, "m", server.base_url, retries=0)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"wish": " "}, "wish="),
        ({"examples": []}, "examples="),
        ({"examples": [{"question": "1+1="}]}, "examples="),
        ({"examples": "arithmetic"}, "examples="),
        ({"attempts": 0}, "attempts="),
        ({"base_url": None}, "OPENAI_API_KEY"),
    ],
)
def test_arguments_that_cannot_work(changed, says):
    good = {"wish": "short", "examples": ROWS, "model": "m", "base_url": "http://localhost:1/v1"}
    with pytest.raises(ConfigError, match=says):
        draft_reward(**{**good, **changed})


# --- the check -------------------------------------------------------------------------------------------------------


def body(line, before=""):
    return (
        f"{before}\ndef reward(completions, **columns):\n    {line}\n    return [0.0 for _ in completions]\n"
    )


@pytest.mark.parametrize(
    "source", [SHORT, RIGHT, body("from collections import Counter"), body("x = {'a': 1}.get('a')")]
)
def test_code_that_may_be_run(source):
    assert check_source(source).problems == ()


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (body("import os"), "import of 'os'"),
        (body("import os.path as re"), "import of 'os.path'"),
        (body("from os import system"), "import from 'os'"),
        (body("from . import secrets"), "import from '.'"),
        (body("from re import *"), "import *"),
        (body("from re import enum"), "re.enum is another module"),
        (body("x = re.enum.sys", "import re"), "re.enum is another module"),
        (body("x = r.enum", "import re as r"), "re.enum is another module"),
        (body("x = json.codecs.open", "import json"), "json.codecs is another module"),
        (body("x = ().__class__"), "double underscore"),
        (body("__import__('os')"), "double underscore"),
        (body("x = '{0.__class__}'.format(1)"), "double underscore"),
        (body("x = string.Formatter()", "import string"), "'Formatter'"),
        (body("open('x')"), "'open'"),
        (body("eval('1')"), "'eval'"),
        (body("exec('1')"), "'exec'"),
        (body("getattr(1, 'real')"), "'getattr'"),
        (body("f = open"), "'open'"),
        (body("globals()"), "'globals'"),
        (body("class A: pass"), "a class"),
        (body("yield 1"), "yield"),
        (body("global x"), "global"),
        (body("x = (i for i in ()).gi_frame"), "'gi_frame'"),
        (body("pass", "print('hello')"), "at the top level"),
        (body("pass", "for i in (): pass"), "at the top level"),
        (body("pass", "def other(): pass"), "exactly one function"),
        ("@staticmethod\ndef f(completions): return []", "decorator"),
        ("async def f(completions): return []", "exactly one function"),
        ("def f(prompts): return []", "no parameter 'completions'"),
        ("def f(completions, /): return []", "taken by name"),
        ("def f(*completions): return []", "taken by name"),
        ("def f(completions) return []", "line 1"),
        ("def f(completions):\n    return '\0'", "cannot be read|null"),
        ("x = " + "(" * 3000, "line 1|cannot be read"),
        ("#" * (MAX_SOURCE + 1), "characters"),
        ("", "no code"),
    ],
)
def test_code_that_is_not_run(source, says):
    problems = "; ".join(check_source(source).problems)
    assert says in problems or any(part in problems for part in says.split("|"))
    with pytest.raises(ConfigError, match="is not run"):
        sandboxed_reward(source)


@given(st.text() | st.text(alphabet="def f(completions):\n    return[]_import os", max_size=200))
def test_reading_code_never_raises(source):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python's own, about escapes that it does not know
        checked = check_source(source)
    assert checked.problems or checked.name


# --- in use ----------------------------------------------------------------------------------------------------------


def test_columns_are_known_before_training():
    reward = sandboxed_reward(RIGHT)
    assert required_columns(reward) == ["answer"]
    assert reward([[{"role": "user", "content": "17+25="}]] * 2, ["42", "43"], answer=["42"] * 2) == [
        1.0,
        0.0,
    ]
    assert reward([], [], answer=[]) == []
    assert (
        resolve({"name": "rlkit.rewards.drafts.sandboxed:sandboxed_reward", "source": SHORT}).__name__
        == "short_answer"
    )


def test_it_does_not_run_in_this_process():
    """The check stops what is plain to see; the sandbox keeps the rest from this process."""
    from rlkit.rewards.drafts.sandboxed import SandboxedFunction

    source = "import os\ndef f(x):\n    return [os.getpid(), sorted(os.environ)]"
    (result,) = SandboxedFunction(source, "f").call([((1,), {})])
    pid, names = result.value
    assert pid != os.getpid()
    assert "HOME" not in names


def test_one_completion_cannot_take_the_others_with_it():
    fragile = SHORT.replace("    return", "    assert 'crash' not in completions\n    return")
    reward = sandboxed_reward(fragile)
    with pytest.warns(RewardWarning, match="1 of 3 completions, which get None: AssertionError.*'crash'"):
        assert reward(["q"] * 3, ["a", "crash", "a b"]) == [0.5, None, 1 / 3]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert reward(["q"] * 2, ["a", "crash"]) == [0.5, None]


def test_none_stays_none_and_is_no_fault():
    source = "def f(completions, **columns):\n    return [None if c == '' else 1 for c in completions]"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert sandboxed_reward(source)(["q"] * 2, ["", "x"]) == [None, 1.0]


def test_numbers_that_are_none_are_not_taken():
    source = "def f(completions, **columns):\n    return [float(c) for c in completions]"
    reward = sandboxed_reward(source)
    with pytest.warns(RewardWarning, match="3 of 4"):
        assert reward(["q"] * 4, ["nan", "inf", "1e308", "2.5"]) == [None, None, None, 2.5]


@pytest.mark.parametrize(
    "text", ["\ud800", "{mark}", "'''\"\"\"\\", "\x00", "日本語" * 30_000, "a" * 2_000_000]
)
def test_any_text_reaches_the_function_as_it_is(text):
    source = "def f(completions, **columns):\n    return [len(c) + ord(c[0]) / 1e6 for c in completions]"
    expected = len(text) + ord(text[0]) / 1e6
    assert sandboxed_reward(source)(["q"] * 3, [text] * 3) == [pytest.approx(expected)] * 3
