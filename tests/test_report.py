"""The report page: one file that loads and runs nothing, true to the run, whole for half a run."""

from __future__ import annotations

import html
import math
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from synthetic_run import CONFIG, write_run

from rlkit.errors import ConfigError
from rlkit.runs import Run, RunWriter, headline, write_report
from rlkit.runs.charts import smooth, thin

VOID = {"meta", "br", "hr", "img", "input", "link"}
ATTACK = "<script>alert(1)</script><img src=x onerror=alert(2)></span></table>&lt;b&gt;{{ 7*7 }}\u202e\x1b[31m\x00 $x$"


class Page(HTMLParser):
    """Parses a page: its tags (with attributes), its text by tag path, and whether every tag is closed in order."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> at {self.getpos()}"

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def check_safe(page: Page) -> None:
    """Nothing is run and nothing is fetched; every picture has a name; every inner link has its target."""
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    for tag, attrs in page.tags:
        assert tag not in {"script", "iframe", "object", "embed", "link", "base", "form", "img"}, tag
        for name, value in attrs.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "xlink:href", "data", "action"):
                assert value is not None and value.startswith("#") and value[1:] in ids, (tag, name, value)
    for target in re.findall(r"url\((.*?)\)", page.source):
        assert target.startswith("#") and target[1:] in ids
    assert "@import" not in page.source and "default-src 'none'" in page.source
    pictures = [attrs for tag, attrs in page.tags if tag == "svg"]
    assert all(p["role"] == "img" and len(p["aria-label"] or "") > 30 for p in pictures)
    assert [attrs["lang"] for tag, attrs in page.tags if tag == "html"] == ["en"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("report") / "demo", steps=24, every=12)


def test_a_finished_run(finished):
    path = write_report(finished)
    page = Page(path)
    check_safe(page)
    assert path == finished / "report.html" and path.stat().st_size < 400_000
    assert (
        "held-out accuracy 0.52 → 0.93 in 24 s (24 steps, vLLM 0.32 colocated, weights shared)" in page.text
    )
    titles = ["Reward", "Reward by function", "Accuracy", "Entropy", "Completion length", "Gradient norm"]
    titles += ["Groups, truncation, clipping", "Engine against trainer", "Time by phase"]
    assert sorted(re.findall(r"<figure><h3>(.*?)</h3>", page.source)) == sorted(titles)  # no KL: β is 0
    for words in (
        "Held-out accuracy (greedy) rose",
        "✓ right",
        "✗ wrong",
        "dr_grpo",
        "0.32.0",
        "How to read",
    ):
        assert words in page.text
    assert not list(finished.glob(".*tmp*"))


def test_the_numbers_are_the_runs_own(finished):
    run, page = Run(finished), Page(write_report(finished))
    labels = [html.unescape(attrs["aria-label"] or "") for tag, attrs in page.tags if tag == "svg"]
    rewards = [m["reward"] for m in run.metrics]
    told = f"total: {rewards[0]:.3g} at step 1, {rewards[-1]:.3g} at step 24, "
    assert told + f"lowest {min(rewards):.3g}, highest {max(rewards):.3g}." in labels[0]
    assert "held out, greedy: 0.5 at step 0, 0.93 at step 24" in labels[2]
    seconds = sum(m["seconds/update"] for m in run.metrics)
    assert f"update: {seconds:.1f} s" in labels[-1]
    first, last = run.eval_samples(0), run.eval_samples(24)
    learned = sum(not a["correct"] and b["correct"] for a, b in zip(first, last))
    lost = sum(a["correct"] and not b["correct"] for a, b in zip(first, last))
    assert f"at step 0 and at step 24: {learned} learned, {lost} lost," in page.text
    rows = re.findall(
        r"<tr>.*?</tr>", page.source[page.source.index('<section id="samples">') :], flags=re.DOTALL
    )
    assert sum("advantage" not in row.lower() and "+0.8" in row for row in rows) > 0


def test_what_a_model_wrote_stays_text(tmp_path):
    def attack(row):
        return {**row, "prompt": ATTACK, "completion": ATTACK, "row": {"x": ATTACK}, "finish_reason": ATTACK}

    config = {"model": ATTACK, ATTACK: {"nested": [ATTACK]}, "versions": {ATTACK: ATTACK}}
    summary = {"engine": ATTACK, "status": f"stopped: {ATTACK}"}
    run = write_run(tmp_path / "a & <b>", steps=2, every=1, alter=attack, config=config, summary=summary)
    page = Page(write_report(run))
    check_safe(page)
    assert "<script>alert(1)</script>" in page.text and "<script>" not in page.source
    assert "&lt;b&gt;{{ 7*7 }}⟨U+202E⟩⟨U+001B⟩[31m⟨U+0000⟩" in page.text and "49" not in re.findall(
        r"\}\}.{9}", page.text
    )
    assert not re.search("[\u202a-\u202e\x00\x1b]", page.source)
    assert page.text.count("<script>alert(1)</script>") > 20


def test_odd_names_of_reward_functions(tmp_path):
    names = ["_hidden", "$x^2$", "<b>&bold", "a" * 80, "é\nnew line", "f6", "f7", "f8"]
    with RunWriter(tmp_path / "run", config={}) as writer:
        for step in range(1, 4):
            writer.write_samples(step, [{"prompt_index": 0, **{f"reward/{n}": 1.0 for n in names}}])
            writer.write_metrics(
                {"step": step, **{f"rewards/{n}": step * (i + 1) for i, n in enumerate(names)}}
            )
    page = Page(write_report(tmp_path / "run"))
    check_safe(page)
    for name in ("_hidden", "$x^2$", "<b>&bold", "a" * 27 + "…"):
        assert name in page.text


@pytest.mark.parametrize("steps", [0, 1])
def test_a_run_that_was_killed_early(tmp_path, steps):
    page = Page(write_report(write_run(tmp_path / "run", steps=steps, summary={})))
    check_safe(page)
    assert f"interrupted after {steps} step{'s' * (steps != 1)}" in page.text
    assert ("No step is whole yet" in page.text) == (steps == 0)
    assert ("did not reach its end" in page.text) == (steps > 0)
    assert "It takes two evaluations" in page.text and "dr_grpo" in page.text


def test_a_run_that_goes_on(tmp_path):
    writer = RunWriter(tmp_path / "run", config=CONFIG)
    writer.write_metrics({"step": 1, "loss": 0.0})
    page = Page(write_report(tmp_path / "run"))
    check_safe(page)
    assert "running after 1 step" in page.text and "still going on" in page.text


def test_nothing_finite_and_nothing_right(tmp_path):
    with RunWriter(tmp_path / "run", config={}) as writer:
        for step in range(1, 5):
            row = {"completion": "", "reward": math.nan, "advantage": math.nan, "reward/f": None}
            writer.write_samples(step, [row, row])
            writer.write_metrics({"step": step, "reward": math.nan, "grad_norm": math.inf, "rewards/f": None})
        writer.write_summary({"accuracy_before": math.nan, "accuracy_after": None, "train_seconds": math.nan})
    page = Page(write_report(tmp_path / "run"))
    check_safe(page)
    assert "4 of 4 steps had a NaN or infinite gradient" in page.text and "NaN" in page.text


def test_damaged_files_leave_the_rest_of_the_page(tmp_path):
    run = write_run(tmp_path / "run", steps=4, every=2)
    for path in (run / "samples" / "step_000001.parquet", run / "evals" / "step_000004_greedy.parquet"):
        path.write_bytes(b"PAR1 no longer")
    page = Page(write_report(run))
    check_safe(page)
    assert "Step 2" in page.text and "It takes two evaluations" in page.text
    with pytest.raises(ConfigError, match="no run at"):
        write_report(tmp_path / "nowhere")


def test_a_long_run_makes_no_huge_page(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda fd: None)  # 3,000 of them are not what is tested
    with RunWriter(tmp_path / "run", config=CONFIG) as writer:
        for step in range(1, 3001):
            writer.write_metrics({"step": step, "reward": math.sin(step), "entropy": 1 / step})
    path = write_report(tmp_path / "run")
    check_safe(Page(path))
    assert path.stat().st_size < 300_000


def test_headline():
    full = {
        "accuracy_before": 0.524,
        "accuracy_after": 0.93,
        "train_seconds": 24.3,
        "steps": 60,
        "engine": "vLLM 0.32 colocated",
        "weight_sync": "shared",
    }
    expected = "held-out accuracy 0.52 → 0.93 in 24 s (60 steps, vLLM 0.32 colocated, weights shared)"
    assert headline(full) == expected
    assert headline({**full, "engine": "vllm", "versions": {"vllm": "0.32.0"}}) == expected
    own = {**full, "engine": "Hugging Face 5.19.0", "weight_sync": "same module"}
    assert headline(own).endswith(" steps, Hugging Face 5.19.0)")
    assert headline({**full, "engine": "hf", "weight_sync": "reload"}).endswith(
        "Hugging Face engine, weights reloaded)"
    )
    assert headline({**full, "status": "interrupted"}) == f"interrupted: {expected}"
    assert headline({}, 3) == "trained (3 steps)"
    assert headline(None, 1, "running") == "running after 1 step"
    assert headline({"status": "stopped: TrainingError: three in a row"}, 5) == (
        "stopped: TrainingError: three in a row after 5 steps"
    )


def test_thin_and_smooth_keep_the_mean():
    values = [float(i % 7) for i in range(1000)]
    steps, means = thin(range(1000), values, 100)
    assert len(steps) == len(means) == 100 and sum(means) / 100 == pytest.approx(sum(values) / 1000)
    assert thin([1, 2], [3.0, 4.0]) == ([1, 2], [3.0, 4.0]) and thin([], []) == ([], [])
    assert smooth([2.0] * 50) == [2.0] * 50 and smooth([1.0, 5.0]) == [1.0, 5.0]
