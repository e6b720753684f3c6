"""Rubrics: a list of reward functions with names and weights, in the trainer, in TRL's way of calling, and by hand."""

from __future__ import annotations

import asyncio
import copy
import functools
import inspect

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_trainer import make_trainer

from rlkit import rewards
from rlkit.errors import ConfigError, RewardError
from rlkit.recipe import Recipe
from rlkit.rewards.formats import xml_format
from rlkit.rewards.lengths import soft_overlong
from rlkit.rewards.numbers import correct_number, number_found
from rlkit.rewards.rubric import Rubric, score_range
from rlkit.rewards.signatures import required_columns, reward_name
from rlkit.rewards.verifiers import reward_from
from rlkit.runs import Run
from rlkit.trainers.scoring import check_columns, check_reward_functions, probe_reward_functions

ROWS = [{"prompt": "17+25=", "answer": "42"}, {"prompt": "1+1=", "answer": "2"}]


def short(completion: str, *, limit: int = 4) -> bool:
    return len(rewards.completion_text(completion)) <= limit


def only_even(completions, **columns):
    """Reward the length of even ones."""
    return [float(len(c)) if len(c) % 2 == 0 else None for c in completions]


async def slowly(completions, answer, **columns):
    """Reward 2 for the answer."""
    await asyncio.sleep(0)
    return [2.0 if text == right else 0.0 for text, right in zip(completions, answer, strict=True)]


def example() -> Rubric:
    return Rubric(
        {
            "has number": (number_found, 0.5),
            "right": correct_number,
            "short": (reward_from(short, right=0.0, wrong=-1.0), 2.0),
            "even": [only_even, -1],
        },
        name="sums",
    )


# --- what it is ------------------------------------------------------------------------------------------------------


def test_it_is_a_list_of_named_reward_functions():
    rubric = example()
    assert isinstance(rubric, list) and len(rubric) == 4
    assert [reward.__name__ for reward in rubric] == rubric.names == ["has number", "right", "short", "even"]
    columns = {"answer": ["42", "42"]}
    values = [reward(prompts=["", ""], completions=["42", "is 43"], **columns) for reward in rubric]
    assert values == [[0.5, 0.5], [3.0, -3.0], [0.0, -2.0], [-2.0, None]]
    assert [reward(["", ""], ["42", "is 43"], answer=["42", "42"]) for reward in rubric] == values
    assert check_reward_functions(rubric, None) == rubric.names
    assert copy.copy(rubric) == rubric and rubric[:2] == list(rubric)[:2]


def test_parts_carry_what_they_wrap():
    rubric = example()
    assert rubric[1].verifier is correct_number.verifier
    assert rubric[2].verifier("42") is True
    assert not hasattr(rubric[0], "verifier") and not hasattr(rubric[3], "verifier")
    assert [required_columns(reward) for reward in rubric] == [[], ["answer"], [], []]
    assert rubric.required_columns == ["answer"]
    assert rubric.parts["has number"] == (number_found, 0.5)
    assert [reward.weight for reward in rubric] == [0.5, 1.0, 2.0, -1.0]
    assert rubric[0].__doc__.startswith("0.5 × number_found. Reward +1")
    joined = Rubric({**rubric.parts, "even": only_even})
    assert joined.score("4242", answer="42")["even"] == 4 and rubric.score("4242", answer="42")["even"] == -4


def test_names_and_settings_stand_for_reward_functions():
    rubric = Rubric(
        {"number": "number_found", "form": [{"name": "xml_format", "tags": ["a"], "right": 2.0}, 0.5]}
    )
    assert rubric.score("<a>4</a>") == {"number": 1.0, "form": 1.0, "total": 2.0}


def test_a_whole_verifier():
    rubric = Rubric({"right": correct_number}, verifier=short)
    assert rubric.verifier is short and example().verifier is None


# --- scores ----------------------------------------------------------------------------------------------------------


def test_score_of_one_completion():
    assert example().score("is 43", **ROWS[0]) == {
        "has number": 0.5, "right": -3.0, "short": -2.0, "even": None, "total": -4.5
    }  # fmt: skip
    message = [{"role": "assistant", "content": "42"}]
    assert Rubric({"right": correct_number}).score(message, **ROWS[0])["right"] == 3.0
    assert Rubric({"even": only_even}).score("odd") == {"even": None, "total": None}
    assert Rubric({"over": soft_overlong(4, 2)}).score("abc", completion_ids=[1, 2, 3]) == {
        "over": -0.5, "total": -0.5
    }  # fmt: skip
    assert str(Rubric({"short": reward_from(short, 0.0, -1.0)}).score("42")["short"]) == "0.0"


def test_score_says_what_is_missing():
    with pytest.raises(ConfigError, match="'right' asks for the column 'answer'; found: question"):
        example().score("42", question="17+25")


@pytest.mark.parametrize("returned", [None, 1.0, "x", [1.0, 2.0], [], {1.0}])
def test_a_part_that_returns_something_else(returned):
    with pytest.raises(RewardError, match="for one completion"):
        Rubric({"odd": lambda completions, **columns: returned}).score("42")


@given(
    st.floats(-9, 9).filter(bool), st.lists(st.none() | st.floats(-1e6, 1e6) | st.integers(-9, 9), min_size=1)
)
def test_weights_multiply_and_none_stays(weight, values):
    (part,) = Rubric({"part": (lambda completions, **columns: values, weight)})
    scaled = part(prompts=[""] * len(values), completions=[""] * len(values))
    assert scaled == [None if value is None else weight * value for value in values]


def test_what_is_no_number_is_left_to_the_trainer_to_name():
    (part,) = Rubric({"part": (lambda completions, **columns: ["1", object], 2.0)})
    assert part([""], [""]) == ["1", object]
    with pytest.raises(RewardError, match="'part' returned '1'"):
        probe_reward_functions([part], ROWS)


# --- async -----------------------------------------------------------------------------------------------------------


class AsyncJudge:
    async def __call__(self, prompts, completions, **columns):
        return [1.0] * len(completions)


@pytest.mark.parametrize("function", [AsyncJudge(), functools.partial(slowly, answer=["42"]), slowly])
def test_async_parts_stay_async(function):
    (part,) = Rubric({"slow": (function, 0.5)})
    assert inspect.iscoroutinefunction(part)
    assert asyncio.run(part(prompts=[""], completions=["42"], answer=["42"])) in ([1.0], [0.5])


def test_async_parts_are_awaited_by_score_also_inside_a_running_loop():
    rubric = Rubric(
        {"slow": (slowly, 0.5), "late": lambda completions, answer, **c: slowly(completions, answer)}
    )
    wanted = {"slow": 1.0, "late": 2.0, "total": 3.0}
    assert rubric.score("42", answer="42") == wanted

    async def in_a_notebook():
        return rubric.score("42", answer="42")

    assert asyncio.run(in_a_notebook()) == wanted
    probe_reward_functions(rubric, ROWS)


# --- ranges and tables -----------------------------------------------------------------------------------------------


def test_ranges_add_up():
    def limited(completions, **columns):
        """Reward something."""
        return [0.0] * len(completions)

    limited.score_range = (-1, 2)
    rubric = Rubric({"one": limited, "two": (limited, -0.5)})
    assert (rubric.lowest, rubric.highest) == (-2.0, 2.5)
    assert score_range(rubric[1]) == (-1.0, 0.5)
    assert score_range(xml_format(right=9.0)) in (None, (0.0, 9.0))
    unknown = Rubric({"one": limited, "even": only_even})
    assert unknown.lowest is None and unknown.highest is None


def test_tables():
    text = repr(example())
    assert text.splitlines()[0].startswith("Rubric 'sums': 4 parts")
    assert [line.split("×")[0].strip() for line in text.splitlines()[1:]] == example().names
    assert "× 0.5" in text and "Reward the length of even ones." in text
    html = Rubric({"a<b": only_even})._repr_html_()
    assert "a&lt;b" in html and "a<b" not in html and html.startswith("<table>")
    assert repr(Rubric({"one": only_even})).startswith("Rubric 'rubric': 1 part")


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({}, "parts="),
        ([correct_number], "Every part needs a name"),
        (None, "parts="),
        ({"": correct_number}, "a part's name"),
        ({" x": correct_number}, "a part's name"),
        ({"a\nb": correct_number}, "a part's name"),
        ({"a/b": correct_number}, "without '/'"),
        ({"total": correct_number}, "not 'total'"),
        ({"x" * 61: correct_number}, "at most 60"),
        ({3: correct_number}, "a part's name"),
        ({"x": 3}, "part 'x'=3"),
        ({"x": (correct_number,)}, "a pair"),
        ({"x": (correct_number, 1, 2)}, "a pair"),
        ({"x": (correct_number, 0)}, "leave it out"),
        ({"x": (correct_number, True)}, "weight of part 'x'=True"),
        ({"x": (correct_number, float("nan"))}, "finite"),
        ({"x": (correct_number, "1")}, "finite"),
        ({"x": "corect_number"}, "Did you mean 'correct_number'"),
        ({"x": short}, "reward_from"),
        ({"x": Rubric({"y": correct_number})}, "a.parts"),
    ],
)
def test_refused(parts, says):
    with pytest.raises(ConfigError, match=says):
        Rubric(parts)
    with pytest.raises(ConfigError, match="verifier="):
        Rubric({"right": correct_number}, verifier="short")


# --- in use ----------------------------------------------------------------------------------------------------------


def test_missing_columns_are_named_before_training():
    with pytest.raises(ConfigError, match="'right' asks for a column 'answer'"):
        check_columns(example(), ["question"])


def test_every_part_has_its_column_in_the_run(tmp_path):
    rubric = Rubric({"has number": (number_found, 0.5), "right": correct_number, "slow": slowly})
    trainer = make_trainer(tmp_path, rubric, max_steps=1)
    with trainer:
        trainer.train()
    run = Run(tmp_path / "run")
    step = run.metrics[-1]
    assert step["reward"] == pytest.approx(sum(step[f"rewards/{name}"] for name in rubric.names))
    assert {"reward/has number", "reward/right", "reward/slow"} <= set(run.samples(1)[0])


def test_in_recipes():
    made = Recipe.from_dict({"model": "rlkit/tiny-arithmetic", "task": "arithmetic", "rewards": example()})
    assert [reward_name(function) for function in made.reward_funcs] == example().names
