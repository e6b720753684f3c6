"""TrainingDashboard: every number is the run directory's, for every trainer, for one run and for five."""

from __future__ import annotations

import json
import math
import time

import pytest
from dashboards import (
    Markup,
    lines_of,
    numbers_in,
    text_of,
    write_steps,
)
from synthetic_run import write_run

from rlkit.errors import ConfigError
from rlkit.runs import Run, RunWriter, charts, schema
from rlkit.runs.evidence import duration, number, percent
from rlkit.widgets import TrainingDashboard
from rlkit.widgets.models import training as model
from rlkit.widgets.models.subjects import NUMBERS
from rlkit.widgets.models.track import Track, labels


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("training") / "demo", steps=40, every=20)


# --- numbers ----------------------------------------------------------------------------------------------


def test_every_number_in_the_table_is_that_of_the_file(finished):
    track = Track(finished)
    track.look()
    shown = {row[0]: row[1:] for row in model.all_numbers(track)}
    expected = {}
    for prefix, event in (("", "step"), ("held out: ", "eval")):
        rows = lines_of(finished, event)
        for name in dict.fromkeys(key for row in rows for key in row if key not in ("step", "time", "event")):
            values = [value for _, value in numbers_in(rows, name)]
            if values:
                ends = (values[0], values[-1], min(values), max(values))
                expected[prefix + name] = (*map(number, ends), str(len(values)))
    assert shown == expected and len(shown) > 25
    panel = TrainingDashboard(finished)
    panel.section.value = "All numbers"
    page = Markup(panel._charts.value)
    for name, cells in expected.items():
        at = page.words.index(name)
        assert tuple(word for word in page.words[at + 1 : at + 6]) == cells


def test_the_points_of_every_curve_are_those_of_the_file(finished):
    panel = TrainingDashboard(finished)
    track = panel._tracks[0]
    titles = [title for title in panel.section.options if title != NUMBERS]
    assert titles == ["Learning", "Completions", "Update", "Time and memory"]  # no values: this is no PPO
    metrics, evals, seen = lines_of(finished), lines_of(finished, "eval"), set()
    for title in titles:
        for subject in model._subjects([track], model.SECTIONS[title]):
            plot = next((p for p in model.plots([track], ["demo"], title) if p.title == subject.title), None)
            for of, rows in ((subject.metrics, metrics), (subject.evals, evals)):
                for name, label in of:
                    points = numbers_in(rows, name)
                    if points:
                        curve = next(c for c in plot.curves if c.label == label)
                        assert list(zip(curve.x, curve.y, strict=True)) == points
                        seen.add(name)
    assert {"reward", "rewards/correct_number", "accuracy", "accuracy_greedy", "entropy"} <= seen
    assert {"completion_length", "truncated", "dead_groups", "clip_low", "engine_gap"} <= seen
    assert {"grad_norm", "seconds/rollout", "seconds/step", "learning_rate", "loss"} <= seen
    assert "kl" not in seen  # β is 0: null in every line


def test_headline_progress_and_phases_are_those_of_the_file(finished):
    panel = TrainingDashboard(finished)
    rows, evals = lines_of(finished), lines_of(finished, "eval")
    text = text_of(panel)
    assert f"reward {number(rows[0]['reward'])} → {number(rows[-1]['reward'])}" in text
    greedy = [row["accuracy_greedy"] for row in evals]
    assert f"held-out accuracy, greedy {percent(greedy[0])} → {percent(greedy[-1])}" in text
    everything = [row["time"] for row in [*rows, *evals]]
    gone = max(everything) - min(everything)
    assert f"step 40 of 60, {percent(40 / 60)}, {duration(gone)} gone" in text  # its config says 60
    seconds = {
        name: sum(row[f"seconds/{name}"] for row in rows)
        for name in ("rollout", "score", "update", "sync", "eval")
    }
    whole = sum(seconds.values())
    found = {row[0]: row[1:3] for row in model.phases(panel._tracks[0])}
    assert found == {n: (duration(s), percent(s / whole)) for n, s in seconds.items()}


def test_time_left_is_the_median_step_times_the_steps_to_come(tmp_path):
    writer = RunWriter(tmp_path / "run", config={"grpo": {"max_steps": 50}})
    for step in range(1, 11):
        writer.write_metrics({"step": step, "reward": 1.0})
    path = tmp_path / "run" / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row, at in zip(rows, (0, 2, 4, 6, 8, 10, 12, 14, 90, 92), strict=True):  # once it evaluated
        row["time"] = 1000.0 + at
    with open(path, "r+") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))
        file.truncate()
    track = Track(tmp_path / "run")
    track.look()
    assert track.status == "running"
    assert (track.progress.done, track.progress.total) == (10, 50)
    assert track.progress.seconds == 92 and track.progress.left == 2 * 40
    assert str(track.progress) == "step 10 of 50, 20 %, 92 s gone, about 80 s left"
    writer.close()
    track.look()
    assert track.status == "interrupted" and track.progress.left is None


def test_ten_thousand_steps_are_drawn_from_means_told_from_all_and_read_once(tmp_path, monkeypatch):
    reads = []
    loads = schema.loads
    monkeypatch.setattr(schema, "loads", lambda text: reads.append(1) or loads(text))
    steps = 10_000
    path = tmp_path / "long"
    writer = RunWriter(path, config={"algorithm": "GRPO", "grpo": {"max_steps": steps + 5}})
    names = [f"rewards/f{i}" for i in range(4)]
    names += ["reward", "accuracy", "entropy", "kl", "loss", "grad_norm", "completion_length", "truncated"]
    names += ["dead_groups", "clip_low", "clip_high", "engine_gap", "seconds/rollout", "seconds/update"]
    with open(path / "metrics.jsonl", "a") as file:
        for step in range(1, steps + 1):
            row = {name: math.sin(step / 7 + i) + 2 for i, name in enumerate(names)}
            file.write(json.dumps({"event": "step", "step": step, **row, "time": 1e9 + step}) + "\n")
    panel = TrainingDashboard(path)
    assert sum(reads) == steps + 2  # and its config, when opened and when shown
    plot = next(p for p in model.plots(panel._tracks, ["long"], "Learning") if p.title == "Reward")
    raw = lines_of(path)
    values = [row["reward"] for row in raw]
    curve = plot.curves[0]
    thinned = charts.thin([row["step"] for row in raw], values, model.MAX_POINTS)
    assert (list(curve.x), list(curve.y)) == thinned and len(curve.x) <= model.MAX_POINTS
    assert f"from {number(values[0])} at 1 to {number(values[-1])} at {number(10_000)}" in plot.alt()
    assert f"lowest {number(min(values))}, highest {number(max(values))}" in plot.alt()
    assert "Each point is the mean of 34 steps." in plot.note
    seconds = []
    with open(path / "metrics.jsonl", "a") as file:
        for step in range(steps + 1, steps + 4):
            row = {name: 1.5 for name in names}
            file.write(json.dumps({"event": "step", "step": step, **row, "time": 1e9 + step}) + "\n")
            file.flush()
            before, start = sum(reads), time.thread_time()
            panel.refresh()
            seconds.append(time.thread_time() - start)
            assert sum(reads) == before + 1  # the new line, and no other
    assert min(seconds) < 0.2  # CPU
    assert f"step {steps + 3:,} of" in text_of(panel)
    panel.close()
    writer.close()


def test_a_point_may_stand_for_several_steps(finished):
    panel = TrainingDashboard(finished)
    panel.average.value = 5
    values = [row["reward"] for row in lines_of(finished)]
    plot = model.plots(panel._tracks, ["demo"], "Learning", 5)[0]
    assert plot.curves[0].y == pytest.approx([sum(values[i : i + 5]) / 5 for i in range(0, 40, 5)])
    assert "Each point is the mean of 5 steps." in panel._charts.value


# --- several runs -------------------------------------------------------------------------------------------


def test_up_to_five_runs_in_one_chart_each_with_its_own_colour_and_name(tmp_path):
    paths = [
        write_steps(
            tmp_path / f"seed-{i}", [{"step": s, "reward": i + s / 10} for s in range(1, 8)], summary={}
        )
        for i in range(5)
    ]
    panel = TrainingDashboard(paths)
    (plot,) = model.plots(panel._tracks, labels(panel._tracks), "Learning")
    assert [c.label for c in plot.curves] == [f"seed-{i}" for i in range(5)]
    assert [c.color for c in plot.curves] == [0, 1, 2, 3, 4]
    for i, curve in enumerate(plot.curves):
        assert list(zip(curve.x, curve.y, strict=True)) == numbers_in(lines_of(paths[i]), "reward")
    text = text_of(panel)
    assert text.count("step 7 of 9") == 5 and "Diagnosis: seed-3" in text
    with pytest.raises(ConfigError, match="6 entries"):
        TrainingDashboard([*paths, paths[0]])


def test_of_several_runs_the_mere_remarks_are_folded(finished, tmp_path):
    bad = write_steps(
        tmp_path / "bad", [{"step": s, "reward": math.nan, "skipped": True} for s in range(1, 10)]
    )
    one, two = TrainingDashboard(finished), TrainingDashboard([finished, bad])
    assert "<details>" not in one._findings.value
    shown, _, folded = two._findings.value.partition("<details>")
    remarks = [found.message for found in Run(finished).diagnose() if found.severity == "info"]
    assert remarks and not [remark for remark in remarks if remark in Markup(shown).text]
    assert all(remark in Markup(folded.partition("</details>")[0]).text for remark in remarks)
    (problem,) = (found.message for found in Run(bad).diagnose() if found.severity == "problem")
    assert problem in Markup(folded.rpartition("</details>")[2]).text


def test_a_run_keeps_its_colour_where_another_one_lacks_the_number(tmp_path):
    a = write_steps(tmp_path / "a", [{"step": 1, "reward": 1.0}, {"step": 2, "reward": 1.0}], summary={})
    b = write_steps(
        tmp_path / "b", [{"step": 1, "reward": 1.0, "kl": 0.1}, {"step": 2, "kl": 0.2}], summary={}
    )
    panel = TrainingDashboard([a, b])
    plots = model.plots(panel._tracks, ["a", "b"], "Learning")
    kl = next(plot for plot in plots if plot.title.startswith("KL"))
    assert [(c.label, c.color) for c in kl.curves] == [("b", 1)]


def test_runs_of_the_same_name_are_told_apart_by_their_folders(tmp_path):
    paths = [tmp_path / "one" / "run", tmp_path / "two" / "run"]
    for path in paths:
        write_steps(path, [{"step": 1, "reward": 1.0}], summary={})
    panel = TrainingDashboard(paths)
    assert labels(panel._tracks) == ["one/run", "two/run"] and "one/run, two/run" in panel.title
    assert labels([panel._tracks[0]] * 2) == ["run (1)", "run (2)"]


@pytest.mark.parametrize("runs", [[], 7, [3], [None]])
def test_what_is_no_run_is_refused(runs):
    with pytest.raises(ConfigError, match="runs"):
        TrainingDashboard(runs)


# --- all trainers, and the page -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("algorithm", "row", "evaluation", "expected", "missing"),
    [
        ("PPO", {"reward": 1.0, "value": 0.4, "return": 0.5, "explained_variance": 0.1, "kl_coef": 0.2}, None,
         {"Value against return", "Explained variance", "KL coefficient", "Reward"}, {"Reward by function"}),
        ("SFT", {"loss": 2.0, "perplexity": 7.0, "entropy": 0.3}, {"loss": 2.5},
         {"Loss", "Entropy"}, {"Reward", "Accuracy", "Completion length"}),
        ("reward model", {"loss": 0.6, "accuracy": 0.7, "margin_mean": 0.2}, {"accuracy": 0.6, "loss": 0.7},
         {"Loss", "Accuracy", "Margin"}, {"Reward", "Entropy"}),
    ],
)  # fmt: skip
def test_a_run_shows_what_it_has(tmp_path, algorithm, row, evaluation, expected, missing):
    lines = [{"step": s, **row} for s in (1, 2)]
    lines += [{"event": "eval", "step": 2, **evaluation}] if evaluation else []
    panel = TrainingDashboard(write_steps(tmp_path / "run", lines, {"algorithm": algorithm}, {}))
    titles = set()
    for section in panel.section.options:
        if section != NUMBERS:
            titles |= {plot.title for plot in model.plots(panel._tracks, ["run"], section)}
    assert expected <= titles and not missing & titles


def test_the_picture_without_widgets_has_every_chart_in_words(finished):
    panel = TrainingDashboard(finished)
    bundle = panel._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    page = Markup(bundle["text/html"])
    pictures = [dict(page.attributes)] and page.tags.count("svg")
    shown = sum(len(model.plots(panel._tracks, ["demo"], s)) for s in panel.section.options[:-1])
    assert pictures == shown > 12
    alts = [value for name, value in page.attributes if name == "aria-label" and value.startswith("Chart of")]
    assert len(alts) == shown
    rewards = [row["reward"] for row in lines_of(finished)]
    assert f"total: from {number(rewards[0])} at 1 to {number(rewards[-1])} at 40" in alts[0]
    assert bundle["text/plain"].startswith("Training: demo: demo is finished: step 40 of 60")


def test_diagnoses_are_those_of_the_run(finished):
    panel = TrainingDashboard(finished)
    found = Run(finished).diagnose()
    assert found
    for one in found:
        assert (
            one.message in Markup(panel._findings.value).text
            and one.advice in Markup(panel._findings.value).text
        )


def test_every_control_has_a_label_and_a_tooltip(finished):
    panel = TrainingDashboard(finished)
    for control in (
        panel.pause,
        panel.step,
        panel.stop,
        panel.again,
        panel.speed,
        panel.section,
        panel.average,
    ):
        assert control.description and control.tooltip


@pytest.mark.parametrize("kind", ["ppo", "sft"])
def test_every_trainer_has_a_dashboard(tmp_path, kind):
    if kind == "ppo":
        from test_ppo_trainer import make_ppo

        trainer, expected = (
            make_ppo(tmp_path, max_steps=2),
            {"Reward", "Value against return", "KL to the reference"},
        )
    else:
        from test_sft import make_trainer as make_sft

        trainer, expected = make_sft(tmp_path, max_steps=2), {"Loss", "Gradient norm", "Peak memory"}
    panel = trainer.dashboard()
    trainer.train()
    text = Markup(panel.static_html()).text
    assert "finished" in text and "step 2 of 2" in text
    assert all(title in text for title in expected)
    assert ("Reward" in text) == (kind == "ppo")
    assert (">max_completion_length</text>" in panel.static_html()) == (
        kind == "ppo"
    )  # the legend has room for it
    config = json.loads((trainer.run_dir / "config.json").read_text())
    assert config["total_steps"] == 2  # so that a dashboard elsewhere knows the time left


def test_the_page_on_its_cost_has_the_numbers_that_were_measured():
    _report = pytest.importorskip("benchmarks._report")
    folder = _report.RESULTS / "dashboard"
    rows = json.loads((folder / "cpu.json").read_text())["rows"]
    assert _report.markdown_table(folder / "cpu.json") in (folder / "README.md").read_text()
    spent = [row["ratio"] for row in rows if "spent drawing" in row["name"]]
    assert len(spent) == 2 and max(spent) < 0.02  # of the training's time
