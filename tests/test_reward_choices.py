"""The two comparisons of rewards: they run, and what is kept of them says what the tables say."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.reward_choices import ARMS, RESULTS, markdown_table, reached, smooth, summaries

ROOT = Path(__file__).parent.parent


def test_a_quick_run_of_one_arm():
    command = [sys.executable, "-m", "benchmarks.reward_choices", "--quick", "--only", "proximity"]
    command += ["--arms", "usual-proximity"]
    found = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert found.returncode == 0, found.stderr[-2000:]
    folder = Path(found.stdout.strip().splitlines()[-1]).parent
    (summary,) = summaries("proximity", folder)["usual-proximity"]
    assert summary["steps"] == 6
    assert summary["paid"] == {"exact": 0.0, "proximity_ratio": 1.0}
    assert (
        summary["by_step"]["accuracy"] == summary["by_step"]["exact"]
    )  # who watches sees what the verifier sees
    assert {len(values) for values in summary["by_step"].values()} == {6}
    assert (folder / "proximity.svg").read_text().startswith("<?xml")


def test_steps_until_a_share_is_reached():
    values = [0.0] * 4 + [1.0] * 6
    assert smooth(values) == [0.2, 0.4, 0.6, 0.8, 1.0, 1.0]
    assert reached(values, 0.8) == 8  # the mean of the steps 4 to 8
    assert reached(values, 1.1) is None


@pytest.mark.parametrize("comparison", ARMS)
def test_every_arm_was_run_with_three_seeds_and_the_same_settings(comparison):
    kept = summaries(comparison)
    assert tuple(kept) == ARMS[comparison]
    for runs in kept.values():
        assert [s["seed"] for s in runs] == [0, 1, 2]
        assert {s["status"] for s in runs} == {"finished"}
    for situation in {arm.partition("-")[0] for arm in kept} if comparison == "proximity" else {""}:
        runs = [s for arm, found in kept.items() if arm.startswith(situation) for s in found]
        assert len({(s["steps"], s["learning_rate"], s["scale_rewards"], s["eval_n"]) for s in runs}) == 1


@pytest.mark.parametrize("comparison", ARMS)
def test_the_table_says_what_the_summaries_say(comparison):
    lines = markdown_table(comparison).splitlines()[2:]
    runs = [(arm, s) for arm, found in summaries(comparison).items() for s in found]
    assert len(lines) == len(runs)
    for line, (arm, s) in zip(lines, runs, strict=True):
        assert line.startswith(f"| {arm} | {s['seed']} |")
        assert f"{s['accuracy_sampled_before']:.2f} → {s['accuracy_sampled_after']:.2f}" in line


def test_what_the_runs_show():
    """The findings that documentation may rest on, seed by seed."""
    arms = {**summaries("proximity"), **summaries("warm_start")}

    def values(arm, read):
        return [read(s) for s in arms[arm]]

    def after(s):
        return s["accuracy_sampled_after"]

    pairs = zip(values("usual-exact", after), values("usual-proximity", after), strict=True)
    assert all(
        abs(exact - near) < 0.03 for exact, near in pairs
    )  # groups of two values have the same advantages
    pairs = zip(values("wide-exact", after), values("wide-proximity", after), strict=True)
    assert all(exact > near + 0.1 for exact, near in pairs)  # the spread makes small differences loud
    assert max(values("wide-proximity", after)) < min(
        s["accuracy_sampled_before"] for s in arms["wide-exact"]
    )

    def close(s):
        return s["held_out_sampled"]["after"]["proximity_ratio"]

    assert min(values("unscaled-proximity", after)) > max(values("wide-proximity", after)) + 0.05
    assert min(values("unscaled-proximity", close)) > max(values("unscaled-exact", close))
    assert max(values("unscaled-proximity", after)) < min(values("unscaled-exact", after))

    def anywhere(s):
        return s["held_out_sampled"]["before"]["right_anywhere"]

    assert max(values("warm", anywhere)) < min(values("none", anywhere))  # the warm start taught form only
    assert all(dead == 1 for s in arms["none"] for dead in s["by_step"]["dead_groups"])
    assert min(values("warm", after)) > max(values("rare", after))


@pytest.mark.parametrize("comparison", ARMS)
def test_what_is_kept_is_small_and_names_no_folder(comparison):
    files = sorted(RESULTS.glob(f"{comparison}-*.json"))
    assert files
    for path in files:
        assert path.stat().st_size <= 20_000
        texts = [value for value in _leaves(json.loads(path.read_text())) if isinstance(value, str)]
        assert not [text for text in texts if re.search(r"(^|\s)/\w|\\", text)]
    assert (RESULTS / f"{comparison}.svg").exists()


def _leaves(value):
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _leaves(part)
    else:
        yield value


def test_the_page_of_results_has_both_tables():
    page = (RESULTS / "README.md").read_text()
    assert all(markdown_table(comparison) in page for comparison in ARMS)
