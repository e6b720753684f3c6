"""RewardInspector: scores against the functions, marks, weights, golden sets, a task, and all that breaks."""

from __future__ import annotations

import asyncio
import html
import re
import threading

import pytest

from rlkit import rewards, tasks
from rlkit.errors import ConfigError
from rlkit.rewards import Example, GoldenSet, Rubric, audit, correct_number, number_found
from rlkit.widgets import RewardInspector
from rlkit.widgets.models.reward import RewardModel, pieces
from rlkit.widgets.models.reward_audits import golden_results, group_means, score_task
from rlkit.widgets.models.reward_inputs import BLANK, read_cell, show_cell
from rlkit.widgets.reward_html import LONGEST

INJECTIONS = [
    "<script>window.hacked=1</script>", "<img src=x onerror=alert(1)>", "</div></mark><h1>x</h1>", "$x^2$ \\(y\\)",
    "\u202eabc", "\x1b[31mred", "<style>*{display:none}</style>", "\ud800", "[a](javascript:alert(1))", "&lt;b&gt;",
]  # fmt: skip


def breaks(completions, **columns):
    return [1 / len(completion) for completion in completions]


RELEASED = threading.Event()


def hangs(completions, **columns):
    RELEASED.wait(60)
    return [0.0] * len(completions)


def test_scores_are_the_functions_own():
    rubric, task = rewards.email_rubric(), tasks.email()
    model = RewardModel.make(rubric, task)
    for row in task.rows("train", 3):
        columns = {name: value for name, value in row.items() if name != "prompt"}
        for text in ("", row["ideal"], "Dear Sam,\n\nwe refund you."):
            found = model.inspect(text, row)
            expected = rubric.score(text, **columns)
            assert found.total == pytest.approx(expected.pop("total"))
            assert {part.name: part.counts for part in found.parts} == pytest.approx(expected)
            assert found.right == task.verifier(text, **columns)
            assert found.span == (rubric.lowest, rubric.highest)


def test_weights_multiply_and_0_switches_off():
    model = RewardModel.make([number_found, correct_number], weights=[0.5, 0])
    found = model.inspect("42", {"answer": "41"})
    assert [part.counts for part in found.parts] == [0.5, 0.0] and found.total == 0.5
    assert found.weighed([1, 2]).total == 1 - 6 and found.total == 0.5
    with pytest.raises(ConfigError, match="weights"):
        RewardModel.make([number_found], weights=[1, 2])


def test_pieces_hold_the_whole_text_and_say_who_looked():
    text = "It is 42 or 43."
    cut = pieces(text, [[(6, 8), (12, 14)], None, [(6, 14)], []])
    assert "".join(piece.text for piece in cut) == text
    assert [(p.text, p.parts, p.ends) for p in cut if p.parts] == [
        ("42", (0, 2), (0,)), (" or ", (2,), ()), ("43", (0, 2), (0, 2))
    ]  # fmt: skip


def test_a_part_that_fails_is_shown_with_the_completion():
    widget = RewardInspector([breaks, number_found], examples=[""])
    part = widget.result.parts[0]
    assert part.state == "failed" and "ZeroDivisionError" in part.failure
    assert "ZeroDivisionError" in widget._table.value and "failed" in widget._table.value
    assert widget.result.total == -1.0 and not widget._trouble.value  # the other part still counts
    widget.completion.value = "4 <b>"
    assert widget.result.parts[0].score == 1 / 5


def test_a_part_that_hangs_is_given_up_and_an_async_one_is_awaited():
    async def later(completions, **columns):
        await asyncio.sleep(0.01)
        return [0.25]

    found = RewardModel.make([hangs, later], timeout=3.0).inspect("x")
    RELEASED.set()
    assert "longer" in found.parts[0].failure and found.parts[1].score == 0.25


def test_a_missing_column_is_named_and_can_be_filled_in():
    widget = RewardInspector([correct_number], examples=["42"])
    assert widget.result.parts[0].missing == ("answer",) and "needs the column answer" in widget._table.value
    widget.cells["answer"].value = "42"
    assert widget.result.total == 3.0 and not widget.result.parts[0].missing


def test_typing_choosing_and_weighing():
    widget = RewardInspector("arithmetic")
    answer = widget.cells["answer"].value
    assert widget.trial.value.startswith("right") and widget.result.total == 4.0 and widget.result.right
    widget.completion.value = f"{answer} or 1000"
    assert (
        widget.trial.value == "my own text" and widget.result.total == -2.0 and widget.result.right is False
    )
    assert re.search(r"<mark[^>]*>1000<sup><i>\[</i>2<i>]</i></sup></mark>", widget._marked.value)
    assert re.search(rf"<mark[^>]*>{answer}<sup><i>\[</i>1<i>]</i></sup></mark>", widget._marked.value)
    widget.weights["correct_number"].value = 0.5
    assert widget.result.total == 1 - 1.5 and "-0.5" in widget._marked.value
    widget.cells["answer"].value = "1000"
    assert widget.result.total == 1 + 1.5 and widget.result.right
    widget.trial.value = next(label for label in widget.trial.options if "every number" in label)
    assert len(widget.completion.value) > 200 and widget.cells["answer"].value == answer


def test_rows_and_sides():
    task = tasks.arithmetic()
    widget = RewardInspector([correct_number], task)
    widget.index.value = 7
    assert widget.cells["prompt"].value == task.rows("train", 8)[7]["prompt"]
    widget.side.value = "test"
    assert widget.cells["prompt"].value == task.rows("test", 8)[7]["prompt"] and widget.index.max == 167
    widget.index.value = 10_000
    assert widget.index.value == 167 and not widget._trouble.value


def test_a_row_that_cannot_be_read_is_said():
    widget = RewardInspector("email")
    widget.cells["keywords"].value = '["24.90"'
    assert "JSON" in widget._trouble.value
    widget.cells["keywords"].value = '["24.90"]'
    assert not widget._trouble.value


@pytest.mark.parametrize("value", ["text", "", 3, 2.5, ["a", "b"], {"a": 1}, None, True])
def test_cells_read_back_what_they_show(value):
    assert read_cell(show_cell(value), value) == value
    assert read_cell("", BLANK) is BLANK and read_cell("[1]", BLANK) == [1] and read_cell("42", BLANK) == "42"


@pytest.mark.parametrize("text", INJECTIONS)
def test_model_text_is_shown_and_never_markup(text):
    rubric = Rubric({"<b>part": number_found})
    widget = RewardInspector(rubric, examples=[text])
    page = widget.static_html() + widget._marked.value + widget._table.value
    assert "<script" not in page and "<img" not in page and "<h1" not in page and "<style" not in page
    assert "<b>part" not in page and "\u202e" not in page and "\x1b" not in page
    page.encode()


def test_a_megabyte_is_cut_for_show_and_scored_whole():
    widget = RewardInspector([correct_number], tasks.arithmetic(), examples=["word " * 200_000 + "38"])
    widget.trial.value = next(label for label in widget.trial.options if label.startswith("example"))
    assert widget.result.parts[0].spans == [(1_000_000, 1_000_002)]
    assert len(widget._marked.value) < 2 * LONGEST and "more characters" in widget._marked.value


def test_golden_sets_are_the_audits():
    model = RewardModel.make(["number_found", "xml_format", breaks])
    results = list(golden_results(model))
    assert [result.audit is None for result in results] == [False, False, True]
    for result, name in zip(results, ("number_found", "xml_format")):
        expected = audit(name)
        assert [(s.text, s.score) for s in result.audit.scored] == [
            (s.text, s.score) for s in expected.scored
        ]
        assert [str(hole) for hole in result.audit.holes] == [str(hole) for hole in expected.holes]


def test_a_hole_is_said_in_words():
    def long_pays(completions, **columns):
        return [float(len(completion)) for completion in completions]

    long_pays.golden = GoldenSet(
        (Example("42"),), (Example("41"),), (Example("42 " * 9, note="padding"),), 0, 99
    )
    widget = RewardInspector([long_pays])
    widget.golden_button.click()
    shown = html.unescape(widget._audits.value)
    assert "earn as much as a right one" in shown or "earns as much as a right one" in shown
    assert not widget.golden_button.disabled and widget._busy.value == ""


def test_a_whole_task_is_scored_and_equals_the_audit():
    task = tasks.arithmetic()
    widget = RewardInspector("arithmetic", examples=["38", "none"])
    widget.rows.value = 20
    widget.weights["correct_number"].value = 2.0
    widget.task_button.click()
    by_group = {mean.group: mean for mean in widget.scores}
    expected = audit([number_found, correct_number], task, n=16, weights=[1, 2])
    right = [s for s in expected.scored if s.group == "right" and s.source == "task"]
    assert by_group["right answers"].parts == [1.0, 3.0] and by_group["right answers"].total == 7.0
    assert by_group["right answers"].completions == len(right) / 16 * 20
    assert by_group["wrong answers"].parts == [1.0, -3.0] and by_group["wrong answers"].paid == 0
    assert by_group["examples"].completions == 2 and by_group["examples"].parts[0] == 0.0
    assert "20 rows of arithmetic" in widget._task_scores.value and "no hole" in widget._task_scores.value


def test_scoring_reports_progress_and_first_chunk_equals_the_audit():
    model = RewardModel.make("arithmetic")
    steps = list(score_task(model, "train", 16))
    assert [(step.done, step.rows) for step in steps] == [(16, 16)]
    expected = audit([number_found, correct_number], SixteenRows(), n=16)
    expected_means = group_means([s for s in expected.scored if s.source == "task"], [1, 1])
    assert group_means(steps[0].audit.scored, model.weights) == expected_means
    assert [(s.done, s.rows) for s in score_task(model, "test", 40)] == [(16, 40), (32, 40), (40, 40)]


class SixteenRows:
    name, verifier = "arithmetic", staticmethod(correct_number.verifier)
    train = tasks.arithmetic().rows("train", 16)


def test_a_reward_that_the_task_cannot_serve_is_said():
    widget = RewardInspector(["correct_equation"], "arithmetic")
    widget.task_button.click()
    assert "numbers" in widget._trouble.value and widget._busy.value == "" and not widget.task_button.disabled


@pytest.mark.parametrize(
    "arguments",
    [{}, {"rewards": "nonsense"}, {"rewards": 7}, {"rewards": "arithmetic", "task": "email"}, {"task": 3},
     {"rewards": number_found, "examples": [3]}, {"rewards": number_found, "timeout": -1},
     {"rewards": number_found, "weights": ["x"]}],
)  # fmt: skip
def test_what_is_no_reward_is_refused(arguments):
    with pytest.raises(ConfigError):
        RewardInspector(**arguments)


def test_a_runs_sample_is_an_example():
    sample = {"prompt": "1+2=", "completion": "3", "row": '{"answer": "3"}', "reward": 1.0, "tokens": ["3"]}
    widget = RewardInspector([correct_number], examples=[sample])
    assert widget.result.total == 3.0 and widget.cells["prompt"].value == "1+2="


def test_chat_prompts_get_messages():
    seen = []

    def looks(completions, **columns):
        seen.extend(completions)
        return [0.0] * len(completions)

    RewardInspector([looks], tasks.arithmetic(chat=True))
    assert seen[-1][0]["role"] == "assistant"


def test_controls_have_labels_and_the_static_form_the_numbers():
    widget = RewardInspector("arithmetic")
    for control in (widget.completion, widget.trial, widget.index, widget.side, widget.score_button, widget.rows,
                    *widget.weights.values(), *widget.cells.values()):  # fmt: skip
        assert control.description and control.tooltip
    assert "Total reward" in widget.static_html() and "correct_number 3" in widget.describe()
