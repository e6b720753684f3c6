"""TrainingDashboard of a run that is missing, broken, killed or hostile: it says so and goes on."""

from __future__ import annotations

import shutil

import pytest
from dashboards import (
    Markup,
    all_html,
    dashboard_threads,
    text_of,
    write_steps,
)

from rlkit.widgets import TrainingDashboard
from rlkit.widgets.models import training as model
from rlkit.widgets.models.subjects import NUMBERS


def test_a_directory_without_a_run_is_said_and_looked_at_again(tmp_path):
    panel = TrainingDashboard(tmp_path / "later")
    assert "no such directory" in text_of(panel) and "problem" not in panel._state.value
    assert "no such directory" in panel.describe() and "no such directory" in panel.static_html()
    write_steps(tmp_path / "later", [{"step": 1, "reward": 0.25}], summary={})
    panel.again.click()
    assert "step 1 of 9" in text_of(panel) and "no such directory" not in text_of(panel)


@pytest.mark.parametrize("config", ["", "[1, 2]", "{", '{"grpo": '])
def test_a_foreign_or_broken_config_is_said(tmp_path, config):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(config)
    panel = TrainingDashboard(tmp_path / "run")
    assert "cannot be read as a run's config.json" in text_of(panel)
    assert panel.static_html() and panel.describe()


def test_the_folder_of_a_model_is_no_run(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "qwen2", "hidden_size": 64}')
    panel = TrainingDashboard(tmp_path)
    assert "is no training run's" in text_of(panel) and "Is this a model's folder?" in panel.describe()
    assert "interrupted" not in text_of(panel) and "step 0" not in text_of(panel)


def test_a_file_in_place_of_a_run_is_said(tmp_path):
    (tmp_path / "run").write_text("not a run")
    assert "it is a file" in text_of(TrainingDashboard(tmp_path / "run"))


def test_a_killed_run_says_so_and_shows_its_whole_steps(tmp_path):
    path = write_steps(tmp_path / "run", [{"step": s, "reward": s / 3} for s in (1, 2, 3)])
    with open(path / "metrics.jsonl", "ab") as file:
        file.write(b'{"event": "step", "step": 4, "rew')  # killed while it wrote
    panel = TrainingDashboard(path)
    text = text_of(panel)
    assert "interrupted" in text and "ended without a summary" in text and "step 3 of 9" in text
    assert not dashboard_threads()


def test_lines_that_cannot_be_read_are_counted(tmp_path):
    path = write_steps(tmp_path / "run", [{"step": 1, "reward": 1.0}], summary={})
    with open(path / "metrics.jsonl", "ab") as file:
        file.write(
            b'\xff\xfe broken\n[1]\n{"event": "step", "step": "x"}\n{"event": "step", "step": 2, "reward": 3}\n'
        )
    text = text_of(TrainingDashboard(path))
    assert "2 lines of metrics.jsonl cannot be read" in text and "step 2 of 9" in text


def test_rewards_that_are_no_numbers_are_shown_as_such(tmp_path):
    nan = float("nan")
    rows = [
        {"step": s, "reward": nan if s in (3, 4) else 1.0, "rewards/f": nan, "loss": float("inf")}
        for s in range(1, 5)
    ]
    panel = TrainingDashboard(write_steps(tmp_path / "run", rows, summary={}))
    assert "reward 1 → NaN" in text_of(panel)
    reward, functions = model.plots(panel._tracks, ["run"], "Learning")
    assert list(reward.curves[0].x) == [1, 2]
    assert "total: NaN or infinite at 2 steps, first at step 3; left out" in reward.note
    assert "f: NaN or infinite at 4 steps, first at step 1" in functions.note
    assert "no values yet" in functions.svg()
    panel.section.value = "All numbers"
    assert "NaN" in panel._charts.value and "∞" in panel._charts.value


def test_steps_without_completions_and_runs_without_steps(tmp_path):
    empty = {"reward": None, "completion_length": None, "tokens": 0, "accuracy": None}
    panel = TrainingDashboard(
        write_steps(tmp_path / "none", [{"step": s, **empty} for s in (1, 2)], summary={})
    )
    assert "step 2 of 9" in text_of(panel) and panel.section.options == (NUMBERS,)
    assert panel.static_html()
    panel = TrainingDashboard(write_steps(tmp_path / "bare", [], summary={}))
    assert (
        "This run has no whole step." in text_of(panel)
        and panel._controls_shown.choice.layout.display == "none"
    )


def test_a_run_that_is_deleted_while_it_is_watched(tmp_path):
    path = write_steps(tmp_path / "run", [{"step": 1, "reward": 1.0}], summary={})
    panel = TrainingDashboard(path)
    shutil.rmtree(path)
    panel.again.click()
    text = text_of(panel)
    assert "cannot be read" in text and "moved or deleted" in text and "step 1 of 9" in text


def test_text_of_models_and_files_is_shown_and_never_run(tmp_path):
    attack = "<script>alert(1)</script><img src=x onerror=alert(2)>\u202e\x1b[31m $x$ &amp; "
    path = tmp_path / "<img src=x onerror=alert(3)>"
    config = {
        "algorithm": attack,
        "model": attack,
        "device": attack,
        "schedule": attack,
        "grpo": {"max_steps": 9},
    }
    rows = [
        {"step": s, "reward": float(s), f"rewards/{attack}": 1.0, f"seconds/{attack}": 1.0, attack: 2.0}
        for s in (1, 2)
    ]
    write_steps(path, [*rows, {"event": "note", "text": attack}], config, {"status": f"stopped: {attack}"})
    for panel in (TrainingDashboard(path), TrainingDashboard([path, path])):
        pages = all_html(panel)
        for section in panel.section.options:
            panel.section.value = section
            pages += all_html(panel)
        for part in pages:
            page = Markup(part)
            assert not {"script", "img", "iframe"} & set(page.tags)
            assert not [name for name, _ in page.attributes if name.startswith("on")]
            assert "\x1b" not in part and "\u202e" not in part
        assert "<script>alert(1)</script>" in Markup(panel.static_html()).text
