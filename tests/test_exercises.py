"""Every exercise's check accepts its solution, and tells each wrong answer what is wrong with it."""

from __future__ import annotations

import dataclasses
import inspect
import random

import pytest

from rlkit import exercises
from rlkit.errors import ConfigError
from rlkit.exercises.exercise import DIFFICULTIES

ALL = [exercises.find(name) for name in exercises.names()]
WRONG = [(exercise, wrong) for exercise in ALL for wrong in exercise.wrong]
HIDDEN = (0, 1, 20261123)  # seeds: the one that learners see, and others that a grader may draw

each = pytest.mark.parametrize("exercise", ALL, ids=lambda exercise: exercise.name)


@each
@pytest.mark.parametrize("seed", HIDDEN)
def test_solution_is_right(exercise, seed):
    result = exercises.check(exercise.name, exercise.solution, seed)
    assert result, result.message
    result.must_pass()


@pytest.mark.parametrize(
    ("exercise", "wrong"), WRONG, ids=[f"{exercise.name}: {wrong.name}" for exercise, wrong in WRONG]
)
@pytest.mark.parametrize("seed", HIDDEN)
def test_wrong_answer_is_told_its_misconception(exercise, wrong, seed):
    result = exercises.check(exercise.name, wrong.answer, seed)
    assert result.state == "wrong"
    assert result.message == wrong.says  # its own words, not those of another wrong answer
    with pytest.raises(AssertionError, match=exercise.name):
        result.must_pass()


@each
def test_unsolved_stub_fails_kindly(exercise):
    def dots(*arguments, **named): ...

    def refuses(*arguments, **named):
        raise NotImplementedError

    for stub in (dots, refuses):
        result = exercises.check(exercise.name, stub)
        assert not result and result.state == "unsolved"
        assert result.message.startswith("Not solved yet")


@each
def test_answer_that_stops_is_reported_with_its_input(exercise):
    def stops(*arguments, **named):
        raise ZeroDivisionError("no group")

    result = exercises.check(exercise.name, stops)
    assert result.state == "wrong" and "ZeroDivisionError: no group" in result.message
    assert "Input: " in result.message


@each
def test_answer_without_a_known_error_sees_where_it_differs(exercise):
    result = exercises.check(exercise.name, lambda *arguments, **named: "nonsense")
    assert result.state == "wrong" and len(result.message) > 20


@each
def test_exercise_is_complete(exercise):
    assert len(exercise.wrong) >= 4
    names, said = [wrong.name for wrong in exercise.wrong], [wrong.says for wrong in exercise.wrong]
    assert len(set(names)) == len(names) and len(set(said)) == len(said)
    assert all(len(text) > 40 for text in said)  # a sentence
    assert exercise.difficulty in DIFFICULTIES and 1 <= exercise.minutes <= 30
    assert exercise.hint and exercise.title
    assert exercise.expected is not exercise.solution
    assert exercise.cases(random.Random(0))


@each
def test_inputs_depend_on_the_seed_alone(exercise):
    texts = [repr(exercise.cases(random.Random(seed))) for seed in (5, 5, 6)]
    assert texts[0] == texts[1] != texts[2]


@each
def test_wrong_answers_take_the_arguments_of_the_solution(exercise):
    wanted = list(inspect.signature(exercise.solution).parameters)
    for wrong in exercise.wrong:
        assert list(inspect.signature(wrong.answer).parameters) == wanted, wrong.name


# ------------------------------------------------------------------------------- the machinery, by a toy exercise


def toy() -> exercises.Exercise:
    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    def total(values: list[float]) -> float:
        return sum(values)

    def cases(rng: random.Random) -> list[tuple]:
        return [([1.0, 3.0],), ([rng.random() for _ in range(4)],)]

    return exercises.Exercise(
        name="99-mean",
        title="A mean",
        difficulty="easy",
        minutes=1,
        hint="Divide.",
        solution=mean,
        cases=cases,
        expected=lambda values: float(sum(values) * (1 / len(values))),
        wrong=(exercises.Wrong("sum", "You did not divide.", total),),
    )


def test_wrong_answer_is_recognised_by_what_it_computes():
    def other_code(values):
        result = 0.0
        for value in values:
            result += value
        return result

    assert toy().check(other_code).message == "You did not divide."


def test_two_mistakes_at_once_are_told_apart_from_one():
    def total_but_for_four(values):
        return sum(values) if len(values) < 4 else 0.0

    message = toy().check(total_but_for_four).message
    assert message.startswith("You did not divide.\n") and "something else, too" in message
    assert "Yours:    4" in message and "Expected: 2" in message


def test_the_mistake_is_looked_for_where_it_is_made():
    """Python keeps one 1 and one True: an answer that is right first and wrong later may give the same object twice."""
    exercise = dataclasses.replace(toy(), cases=lambda rng: [([1],), ([1, 0],), ([3, 1],)])
    message = exercise.check(
        lambda values: {1: 1, 2: sum(values)}[len(values)] if values != [3, 1] else 9
    ).message
    assert message.startswith("You did not divide.\n") and "values=[1, 0]" in message


def test_unknown_error_shows_input_answer_and_expectation():
    message = toy().check(lambda values: 0.25).message
    assert "values=[1, 3]" in message and "Yours:    0.25" in message and "Expected: 2" in message


def test_answer_cannot_spoil_the_inputs():
    def spoils(values):
        answer = sum(values) / len(values)
        values.clear()
        return answer

    assert toy().check(spoils)


@pytest.mark.parametrize("answer", [3, "mean", [1.0]])
def test_what_is_no_function_is_refused_in_words(answer):
    result = toy().check(answer)
    assert result.state == "wrong" and 'exercises.check("99-mean", mean)' in result.message


@pytest.mark.parametrize("answer", [None, ...])
def test_nothing_is_unsolved(answer):
    assert toy().check(answer).state == "unsolved"


def test_result_shows_itself_and_runs_nothing():
    result = exercises.Result("07-x", "wrong", "<script>alert(1)</script>\n$x$")
    assert repr(result).startswith("✗ 07-x: ")
    page = result._repr_html_()
    assert "<script>" not in page and "&lt;script&gt;" in page and "mathjax_ignore" in page and "✗" in page


@pytest.mark.parametrize("name", ["07-advantage", "7", "", None, "77-x"])
def test_unknown_exercise_is_refused(name):
    with pytest.raises(ConfigError, match="exercise"):
        exercises.check(name, len)


def test_gradient_is_looked_at():
    import torch

    from rlkit.exercises.exercise import value_and_gradient

    x = torch.tensor([1.0, 2.0])
    seen = value_and_gradient(lambda x: (x**2).sum(), (x,))
    assert seen["value"].item() == 5 and seen["gradient"].tolist() == [2, 4]
    assert "plain number" in value_and_gradient(lambda x: (x**2).sum().item(), (x,))["gradient"]
    assert "not depend" in value_and_gradient(lambda x: (x**2).sum().detach(), (x,))["gradient"]
    assert value_and_gradient(lambda x: None, (x,)) is None and not x.requires_grad


def test_differences_are_told_in_words():
    import torch

    from rlkit.exercises.compare import difference

    assert difference(torch.ones(2, 3), [[1.0] * 3] * 2, 1e-6) == ""
    assert difference(torch.ones(3), torch.ones(2), 1e-6) == "the shape is [3] instead of [2]"
    assert difference([1.0, 2.0], [1.0, 2.5], 1e-6) == "2 instead of 2.5 at [1]"
    assert difference(1.0, [1.0], 1e-6) == "a single value instead of 1 values"
    assert difference([1.0], 1.0, 1e-6) == "a list instead of a number"
    assert (
        difference({"gradient": "none"}, {"gradient": [1.0]}, 0)
        == "'none' instead of 1 values at ['gradient']"
    )
    assert difference(float("nan"), 1.0, 1e-6) and not difference(float("nan"), float("nan"), 1e-6)
    assert difference({"a": 1}, {"b": 1}, 1e-6) and difference("a", "b", 0) == "'a' instead of 'b'"
    assert difference(1, True, 0) == "" and difference(None, "right", 0)
    assert difference(10**9 + 1, 10**9, 1e-5) == "" and difference(float("inf"), 1.0, 1e-5)
