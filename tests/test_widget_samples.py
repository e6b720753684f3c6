"""The sample inspector: its lists and numbers equal the run directory's, its push the reference loss's gradient, and
runs that are cut short, empty or foreign are shown as what they are.
"""

import csv
import json
import math
import random

import pyarrow.parquet as pq
import pytest
from reference_loss import reference_loss
from sample_runs import GRPO, awkward_rows, run_with
from small_trainer import make_trainer
from synthetic_run import CONFIG, step_line, write_run

from rlkit.errors import ConfigError
from rlkit.runs import Run, RunWriter
from rlkit.runs.evidence import number
from rlkit.widgets import SampleInspector
from rlkit.widgets.models.places import Place, places
from rlkit.widgets.models.quantities import QUANTITIES
from rlkit.widgets.models.sample_export import export, free_path
from rlkit.widgets.models.samples import Sheet
from rlkit.widgets.sample_controls import NO_STEP, ROWS
from rlkit.widgets.sample_html import preview
from rlkit.widgets.token_view import WINDOW, visible_token


def stored(run, name="samples/step_000001.parquet"):
    """What the file holds, read without rlkit."""
    return pq.read_table(run / name).to_pylist()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "demo", steps=4, every=2)


# -- lists ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "file"),
    [
        (Place("train", 1), "samples/step_000001.parquet"),
        (Place("greedy", 2), "evals/step_000002_greedy.parquet"),
        (Place("sampled", 4), "evals/step_000004_sampled.parquet"),
    ],
)
def test_a_list_is_the_file(finished, place, file):
    sheet, rows = Sheet(Run(finished), place), stored(finished, file)
    assert len(sheet) == len(rows) > 0
    for listed, row in zip(sheet.rows, rows, strict=True):
        for name in ("prompt_index", "completion_index", "prompt", "completion", "finish_reason"):
            assert getattr(listed, name) == row[name]
        assert (listed.reward, listed.advantage, listed.correct) == (
            row["reward"],
            row["advantage"],
            row["correct"],
        )
        assert listed.length == len(row["completion_ids"])
        assert listed.rewards == {n: row[f"reward/{n}"] for n in ("number_found", "correct_number")}


def test_a_sheet_in_a_few_numbers_is_the_files(finished):
    for place, file in (
        (Place("train", 2), "samples/step_000002.parquet"),
        (Place("greedy", 2), "evals/step_000002_greedy.parquet"),
    ):
        rows, pane = stored(finished, file), SampleInspector(finished, step=2).left
        pane.kind.value = place.kind
        expected = {
            "completions": f"{len(rows)}",
            "prompts": f"{len({row['prompt'] for row in rows})}",
            "mean reward": number(math.fsum(row["reward"] for row in rows) / len(rows)),
            "right": f"{100 * sum(row['correct'] for row in rows) / len(rows):.0f} %",
            "mean tokens": number(sum(len(row["completion_ids"]) for row in rows) / len(rows)),
            "cut off": "0 %",
        }
        for name, said in expected.items():
            assert f"{name} <b>{said}</b>" in pane._summary.value
        assert pane._summary.value.count("<b>") == 1 + len(expected)
    empty = Sheet(Run(finished), Place("train", 1))
    empty.rows = [empty.rows[0]._replace(reward=None, correct=None, length=None, finish_reason=None)]
    assert empty.summary == {"completions": 1, "prompts": 1}


def test_a_recording_shows_the_steps_that_it_kept():
    from rlkit import runs

    run = runs.recorded("demo")
    found = places(run)
    assert found["train"] == run.sample_steps and len(found["train"]) < len(run.steps)
    inspector = SampleInspector(run)
    kept = f"{len(found['train'])} of the run&#x27;s {len(run.steps)} steps have completions here."
    assert inspector.left.step.value == run.steps[-1] and kept in inspector.left._summary.value
    for step in found["train"]:
        inspector.left.step.value = step
        assert len(inspector.left.listed) == ROWS


def test_places_are_steps_and_evaluations(finished):
    assert places(Run(finished)) == {"train": [1, 2, 3, 4], "greedy": [0, 2, 4], "sampled": [0, 2, 4]}


def test_sorting_keeps_ties_in_order_and_puts_missing_numbers_last(tmp_path):
    rows = awkward_rows(random.Random(1))
    rows[1]["reward"], rows[4]["reward"], rows[2]["reward"] = math.nan, None, rows[0]["reward"]
    sheet = Sheet(Run(run_with(tmp_path / "run", rows, loss_type="grpo")), Place("train", 1))
    assert [r.position for r in sheet.listed("reward")] == [0, 2, 3, 5, 1, 4]
    assert [r.position for r in sheet.listed("reward", descending=True)] == [5, 3, 0, 2, 1, 4]
    assert [r.length for r in sheet.listed("length")] == [1, 2, 3, 4, 5, 6]
    assert [r.position for r in sheet.listed("reward: one", descending=True)] == [5, 4, 3, 2, 1, 0]
    assert sheet.listed("finish reason")[0].position == 3
    assert [r.position for r in sheet.listed(only="reward is no number")] == [1, 4]
    assert [r.position for r in sheet.listed(only="truncated")] == [3]
    assert [r.position for r in sheet.listed(only="advantage 0: teaches nothing")] == [4]
    assert [r.position for r in sheet.listed(search="ANSWER 5")] == [5]
    assert [r.position for r in sheet.listed(search="question 1")] == [3, 4, 5]
    with pytest.raises(ConfigError, match="order"):
        sheet.listed("beauty")


def test_pages_hold_all_rows_once(finished):
    sheet = Sheet(Run(finished), Place("greedy", 2))
    pages = [sheet.page(n, size=7) for n in range(1, 7)]
    assert [row.position for page in pages for row in page.rows] == list(range(40))
    assert sheet.page(99, size=7).number == 6 and pages[0].pages == 6


# -- one completion ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        GRPO,
        {**GRPO, "loss_type": "dapo", "mask_truncated_completions": True},
        {**GRPO, "loss_type": "dr_grpo", "max_completion_length": 9, "delta": None, "beta": 0.0},
        {**GRPO, "loss_type": "gspo", "kl_estimator": "k2", "use_bias_correction_kl": True},
        {**GRPO, "loss_type": "bnpo", "steps_per_generation": 2},
    ],
)
def test_the_push_is_the_reference_losss_gradient(tmp_path, settings):
    rows = awkward_rows(random.Random(7))
    path = run_with(tmp_path / "run", rows, **settings)
    rows = stored(path)  # as float32 left them
    sheet = Sheet(Run(path), Place("train", 1))
    parts = settings.get("steps_per_generation", 1)
    for start in range(0, 6, 6 // parts):
        part = rows[start : start + 6 // parts]
        longest = max(len(r["completion_ids"]) for r in part)
        masked = settings.get("mask_truncated_completions", False)

        def padded(name, part=part, longest=longest):
            return [r[name] + [0.0] * (longest - len(r[name])) for r in part]

        mask = [
            [0.0 if masked and r["finish_reason"] == "length" else 1.0] * len(r["completion_ids"])
            + [0.0] * (longest - len(r["completion_ids"]))
            for r in part
        ]
        _, gradient, _ = reference_loss(
            padded("logp_new"),
            padded("logp_old"),
            [[r["advantage"]] * longest for r in part],
            mask,
            ref=padded("logp_ref"),
            is_weight=padded("is_weight"),
            loss_type=settings["loss_type"],
            level="sequence" if settings["loss_type"] == "gspo" else "token",
            epsilon=0.2,
            epsilon_high=0.28,
            delta=settings["delta"],
            beta=settings["beta"],
            kl_estimator=settings["kl_estimator"],
            corrected_kl=settings.get("use_bias_correction_kl", False),
            longest=settings.get("max_completion_length"),
        )
        for i, row in enumerate(part):
            push = sheet.open(start + i).values("push")
            expected = [-g * (1 - math.exp(x)) for g, x in zip(gradient[i], row["logp_new"], strict=False)]
            assert push == pytest.approx(expected, rel=1e-9, abs=1e-15)


def test_the_push_is_the_gradient_of_the_sampled_tokens_logit():
    """(1 − π) is what a softmax makes of a gradient by log π."""
    import torch

    logits = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    taken = torch.tensor([3, 1, 0, 6, 2])
    logp = torch.log_softmax(logits, -1)[torch.arange(5), taken]
    upstream = torch.randn(5, dtype=torch.float64)
    (by_logit,) = torch.autograd.grad((upstream * logp).sum(), logits)
    expected = upstream * (1 - logp.detach().exp())
    assert torch.allclose(by_logit[torch.arange(5), taken], expected, atol=1e-14)


def test_ppo_takes_the_tokens_advantage_and_its_own_clip_range(tmp_path):
    rows = awkward_rows(random.Random(3))
    for row in rows:
        size = len(row["completion_ids"])
        row["advantage"] = None
        row["token_advantage"] = [(-1.0) ** t * (t + 1) for t in range(size)]
        for name in ("value", "token_reward", "token_return"):
            row[name] = [0.1 * t for t in range(size)]
    path = run_with(
        tmp_path / "run", rows, {"kl_coef": 0.05}, cliprange=0.1, kl_penalty="reward", num_mini_batches=1
    )
    sheet, kept = Sheet(Run(path), Place("train", 1)), stored(path)
    total = sum(len(row["completion_ids"]) for row in kept)
    for i, row in enumerate(kept):
        opened = sheet.open(i)
        assert {"value", "token_advantage", "token_reward", "token_return", "push"} <= set(opened.quantities)
        for t, (rho, a) in enumerate(zip(row["ratio"], row["token_advantage"], strict=True)):
            low, high = rho < 0.9 and a < 0, rho > 1.1 and a > 0
            assert opened.clipped[t] == ("low" if low else "high" if high else "")
            exact = math.exp(row["logp_new"][t] - row["logp_old"][t])
            by_logp = 0.0 if low or high else 0.9 * a * exact / total
            expected = by_logp * (1 - math.exp(row["logp_new"][t]))
            assert opened.values("push")[t] == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_every_quantity_is_the_files(tmp_path):
    rows = awkward_rows(random.Random(5))
    path = run_with(tmp_path / "run", rows, **GRPO)
    kept = stored(path)
    sheet = Sheet(Run(path), Place("train", 1))
    for i, row in enumerate(kept):
        opened = sheet.open(i)
        assert opened.tokens == row["tokens"] and opened.ids == row["completion_ids"]
        assert opened.values("logp") == row["logp_old"]
        assert opened.values("ratio") == row["ratio"] and opened.values("entropy") == row["entropy"]
        assert opened.values("kl") == [a - b for a, b in zip(row["logp_new"], row["logp_ref"], strict=True)]
        apart = [a - b for a, b in zip(row["logp_old"], row["logp_engine"], strict=True)]
        assert opened.values("mismatch") == apart
        told = {what: value for what, value, _ in opened.numbers(0)}
        assert told["log π, engine"] == row["logp_engine"][0]
        assert told["w, the token's weight in the loss"] == pytest.approx(1 / (6 * len(row["tokens"])))
        first = opened.alternatives(0)
        assert [(a.token_id, a.logp) for a in first] == list(
            zip(row["topk_ids"][0], row["topk_logps"][0], strict=True)
        )
        assert first[0].sampled and first[0].text == "t0" and first[1].text is None
    flags = {(i, t): f for i in range(6) for t, f in enumerate(sheet.open(i).clipped) if f}
    expected = {}
    for i, row in enumerate(kept):
        for t, rho in enumerate(row["ratio"]):
            a = row["advantage"]
            if a < 0 and rho < 0.8:
                expected[i, t] = "low"
            elif a > 0 and rho > 1.28:
                expected[i, t] = "high"
            elif a < 0 and rho > 2:
                expected[i, t] = "capped"
    assert flags == expected and {"low", "high"} <= set(flags.values())


def test_strengths_and_their_legend_agree(tmp_path):
    path = run_with(tmp_path / "run", awkward_rows(random.Random(5)), **GRPO)
    opened = Sheet(Run(path), Place("train", 1)).open(5)
    for name in opened.quantities:
        strengths, steps = opened.strengths(name), opened.steps(name)
        for x, level in zip(opened.values(name), strengths, strict=True):
            apart = x - QUANTITIES[name].middle
            assert abs(level) == sum(abs(apart) >= s for s in steps)
            assert (level < 0) == (QUANTITIES[name].signed and apart < 0 and level != 0)
        assert [level for level, _ in opened.legend(name)] == sorted(set(strengths))


def test_a_sampled_token_outside_the_alternatives_is_added(tmp_path):
    rows = awkward_rows(random.Random(5))
    rows[0]["topk_ids"] = [[98, 99] for _ in rows[0]["tokens"]]
    opened = Sheet(Run(run_with(tmp_path / "run", rows, **GRPO)), Place("train", 1)).open(0)
    last = opened.alternatives(1)[-1]
    assert (
        last.sampled
        and last.token_id == 11
        and last.logp == pytest.approx(rows[0]["logp_engine"][1], abs=1e-6)
    )


# -- the widget ----------------------------------------------------------------------------------------------


def test_moving_the_controls_shows_the_files_numbers(finished):
    inspector = SampleInspector(str(finished))
    pane = inspector.left
    assert pane.step.value == 4 and len(pane.listed) == ROWS
    pane.step.value = 2
    kept = stored(finished, "samples/step_000002.parquet")
    pane.order.value, pane.descending.value = "advantage", True
    assert pane.listed[0].advantage == max(row["advantage"] for row in kept)
    pane.after.click()
    assert pane.page.value == 2 and len(pane.listed) == len(kept) - ROWS
    pane.before.click()
    pane.rows[0].click()
    row = kept[pane.opened.position]
    assert number(row["reward"]) in pane._opened.value and row["completion"] in pane._opened.value
    pane.kind.value = "greedy"
    assert pane.step.value == 2 and pane.opened is None and len(pane.sheet) == 40
    pane.search.value = "no such text"
    assert not pane.listed and "Nothing is found" in pane._count.value
    assert not inspector._trouble.value


def test_tokens_are_chosen_by_slider_buttons_and_click(tmp_path):
    path = run_with(tmp_path / "run", awkward_rows(random.Random(5)), **GRPO)
    inspector = SampleInspector(path)
    inspector.left.rows[5].click()
    view = inspector.left.tokens
    assert view.position.max == 6 and [label.strip("✂⊤") for label, _ in view.tokens.options] == [
        f"t{t}" for t in range(6)
    ]
    view.tokens.value = 3  # what a click on the fourth token does
    assert view.position.value == 4 and "Token 4 of 6" in view._numbers.value
    view.next.click()
    assert view.tokens.value == 4 and "nth-child(5)" in view._chosen.value
    view.previous.click()
    view.position.value = 6
    assert view.tokens.value == 5
    view.quantity.value = "entropy"
    assert "H = " in view._about.value and number(view.opened.values("entropy")[5]) in view._numbers.value
    clipped = [label for label, i in view.tokens.options if view.opened.clipped[i]]
    assert clipped and all(label[0] in "✂⊤" for label in clipped)


def test_long_completions_are_shown_in_windows(tmp_path):
    row = awkward_rows(random.Random(5), rows=1)[0]
    size = 2 * WINDOW + 50
    for name, value in row.items():
        if isinstance(value, list) and name not in ("prompt_ids",):
            row[name] = (value * size)[:size]
    inspector = SampleInspector(run_with(tmp_path / "run", [row], **GRPO))
    inspector.left.rows[0].click()
    view = inspector.left.tokens
    assert len(view.tokens.options) == WINDOW
    view.position.value = 2 * WINDOW + 3
    assert len(view.tokens.options) == 50 and view.tokens.value == 2 * WINDOW + 2
    assert "nth-child(3)" in view._chosen.value and "401 to 450 of 450" in view._about.value


def test_two_steps_and_two_runs_side_by_side(finished, tmp_path):
    inspector = SampleInspector(finished, compare=True)
    assert (inspector.left.step.value, inspector.right.step.value) == (4, 1)
    inspector.left.order.value = "reward"
    assert inspector.right.order.value == "reward"
    inspector.left.rows[0].click()
    assert inspector.right.opened.prompt == inspector.left.opened.prompt
    inspector.left.kind.value = "greedy"
    assert inspector.right.kind.value == "greedy" and inspector.right.step.value == 0
    inspector.left.rows[0].click()
    assert inspector.right.opened.prompt == inspector.left.opened.prompt
    inspector.left.sheet.rows[1] = inspector.left.sheet.rows[1]._replace(prompt="asked nowhere else")
    inspector.left.show(1)
    assert (
        inspector.right.opened is None and "has no completion of the prompt" in inspector.right._opened.value
    )
    inspector.linked.value = False
    inspector.left.order.value = "length"
    assert inspector.right.order.value == "reward"
    other = write_run(tmp_path / "other", steps=2)
    both = SampleInspector([str(finished), Run(other)])
    assert both.right.sheet is None  # nothing is read that nobody sees
    both.compare.value = True
    assert both.right.sheet.run.name == "other" and "other" in both.describe()


def test_a_trainers_run_of_its_own(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=2, num_iterations=2, beta=0.1, epsilon=0.01)
    assert "has not written" in SampleInspector(trainer).describe()
    trainer.train()
    inspector = SampleInspector(trainer)
    kept = stored(trainer.run_dir, "samples/step_000002.parquet")
    inspector.left.rows[0].click()
    opened = inspector.left.tokens.opened
    assert {"push", "logp", "ratio", "kl", "entropy", "mismatch"} <= set(opened.quantities)
    assert opened.values("ratio") == kept[0]["ratio"]
    # The trainer's tokenizer spells what no completion says.
    assert all(a.text is not None for t in range(len(opened)) for a in opened.alternatives(t))
    clipped = sum(
        f in ("low", "high") for i in range(len(kept)) for f in inspector.left.sheet.open(i).clipped
    )
    line = Run(trainer.run_dir).metrics[-1]
    total = sum(len(row["completion_ids"]) for row in kept)
    assert clipped / total == pytest.approx(line["clip_low"] + line["clip_high"])


def test_the_static_form_says_it_all(finished):
    inspector = SampleInspector(finished)
    inspector.left.rows[1].click()
    bundle = inspector._repr_mimebundle_()
    data = bundle[0] if isinstance(bundle, tuple) else bundle
    row = stored(finished, "samples/step_000004.parquet")[1]
    assert row["completion"] in data["text/html"] and "Token 1 of" in data["text/html"]
    assert f"reward {number(row['reward'])}" in data["text/plain"]


def test_a_live_run_grows_when_looked_at_again(tmp_path):
    with RunWriter(tmp_path / "run", config=CONFIG) as writer:
        inspector = SampleInspector(tmp_path / "run")
        pane = inspector.left
        assert pane.step.value == NO_STEP and "No whole step yet" in pane._notes.value
        assert inspector.describe() == "no completions yet"
        with pytest.raises(ConfigError, match="no whole step"):
            inspector.export(tmp_path / "x.csv")
        pane.csv.click()
        assert "no completions to save" in pane._saved.value
        writer.write_samples(1, awkward_rows(random.Random(0)))
        writer.write_metrics(step_line(random.Random(0), 1, 4))
        pane.again.click()
        assert pane.step.value == 1 and len(pane.listed) == 6


# -- what is broken ------------------------------------------------------------------------------------------


def test_runs_that_are_none_are_said_in_words(tmp_path):
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "config.json").write_text("[1, 2")
    for path in ("nowhere", "foreign"):
        inspector = SampleInspector(tmp_path / path)
        assert inspector.missing and path in inspector.static_html() and path in inspector.describe()
    for wrong in (3, None, []):
        with pytest.raises(ConfigError):
            SampleInspector(wrong)
    with pytest.raises(ConfigError, match="step"):
        SampleInspector(tmp_path, step=-3)


def test_broken_steps_are_said_in_words(finished, tmp_path):
    run = write_run(tmp_path / "killed", steps=3, summary={})
    (run / "samples" / "step_000003.parquet").unlink()
    damaged = run / "samples" / "step_000002.parquet"
    damaged.write_bytes(damaged.read_bytes()[:100])
    with open(run / "metrics.jsonl", "ab") as file:
        file.write(b"no json\n\xff\xfe\n" + b'{"event": "step", "st')
    inspector = SampleInspector(run)
    pane = inspector.left
    assert pane.step.options == (("1", 1), ("2", 2)) and pane.step.value == 2
    assert "not a readable parquet file" in pane._notes.value and not pane.listed
    pane.step.value = 1
    assert len(pane.listed) == ROWS
    assert "interrupted" in pane._notes.value and "2 lines" in pane._notes.value
    assert "2 of the run&#x27;s 3 steps have completions here." in pane._summary.value
    assert "Step 3 has no completions here" not in pane._notes.value
    damaged.unlink()
    assert "Step 3 has no completions here" in SampleInspector(run, step=3).left._notes.value
    (run / "samples" / "step_000001.parquet").unlink()
    pane = SampleInspector(run).left
    assert pane.step.value == 3 and "has no file of that step" in pane._notes.value and not pane.listed
    unsaved = SampleInspector(write_run(tmp_path / "unsaved", steps=1, config={"save_samples": False}))
    unsaved.left.sheet.rows.clear()
    unsaved.left._list(1)
    assert "save_samples=False" in unsaved.left._notes.value


def test_numbers_that_are_none_are_said_in_words(tmp_path):
    rows = awkward_rows(random.Random(2), rows=3)
    rows[0].update(reward=math.nan, advantage=math.nan, logp_new=[math.nan] * 3)
    rows[1].update(reward=math.inf)
    rows[2] = {
        "prompt_index": 0,
        "completion_index": 2,
        "prompt": "q",
        "completion": "",
        "completion_ids": [],
    }
    inspector = SampleInspector(run_with(tmp_path / "run", rows, line={"skipped": True}, **GRPO))
    assert "2 of 3 completions have a reward that is no finite number" in inspector.left._notes.value
    assert "update was skipped" in inspector.left._notes.value
    for i in range(3):
        inspector.left.rows[i].click()
        assert not inspector._trouble.value, inspector._trouble.value
        for name in inspector.left.tokens.quantity.options and list(inspector.left.tokens.opened.quantities):
            inspector.left.tokens.quantity.value = name
            assert not inspector._trouble.value, inspector._trouble.value
        inspector.static_html()
    assert "(nothing)" in inspector.left._opened.value
    inspector.left.rows[0].click()
    inspector.left.tokens.quantity.value = "push"
    assert "no number" in inspector.left.tokens._legend.value and "NaN" in inspector.left._opened.value


def test_a_config_of_somebody_else_has_no_push(tmp_path):
    for config in ({}, {"loss_type": "magic"}, {"loss_type": "grpo", "epsilon": "wide"}):
        path = run_with(tmp_path / f"run{len(str(config))}", awkward_rows(random.Random(2)), **config)
        opened = Sheet(Run(path), Place("train", 1)).open(0)
        assert "push" not in opened.quantities and "logp" in opened.quantities


def test_a_run_that_made_the_step_again_is_noticed(tmp_path):
    path = run_with(tmp_path / "run", awkward_rows(random.Random(2)), **GRPO)
    inspector = SampleInspector(path)
    other = run_with(tmp_path / "other", awkward_rows(random.Random(2), rows=3), **GRPO)
    target = path / "samples" / "step_000001.parquet"
    target.write_bytes((other / "samples" / "step_000001.parquet").read_bytes())
    inspector.left.rows[0].click()
    assert "look again" in inspector._trouble.value
    inspector.left.again.click()
    assert len(inspector.left.sheet) == 3 and not inspector._trouble.value


# -- files ---------------------------------------------------------------------------------------------------


def test_export_writes_what_is_listed_and_overwrites_nothing(finished, tmp_path, monkeypatch):
    inspector = SampleInspector(finished, step=2)
    inspector.left.order.value, inspector.left.only.value = "reward", "wrong"
    wanted = [row.position for row in inspector.left.sheet.listed("reward", only="wrong")]
    kept = stored(finished, "samples/step_000002.parquet")
    path = inspector.export(tmp_path / "list.csv")
    with open(path, newline="") as file:
        lines = list(csv.DictReader(file))
    assert [int(line["position"]) for line in lines] == wanted
    assert [line["completion"] for line in lines] == [kept[i]["completion"] for i in wanted]
    assert [float(line["reward/correct_number"]) for line in lines] == [
        kept[i]["reward/correct_number"] for i in wanted
    ]
    table = pq.read_table(inspector.export(tmp_path / "list.parquet")).to_pylist()
    assert table == [kept[i] for i in wanted]
    before = path.read_bytes()
    for name, why in (("list.csv", "is left as it is"), ("list.txt", "ends in"), ("no/list.csv", "folder")):
        with pytest.raises(ConfigError, match=why):
            inspector.export(tmp_path / name)
    assert path.read_bytes() == before
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        inspector.left.csv.click()
    written = sorted(p.name for p in tmp_path.glob("demo*"))
    assert written == ["demo_train_step_2-2.csv", "demo_train_step_2.csv"]
    assert "demo_train_step_2-2.csv" in inspector.left._saved.value
    assert free_path(tmp_path / "list.csv").name == "list-2.csv"
    assert len(json.dumps(str(export(inspector.left.sheet, tmp_path / "all.parquet")))) > 0


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        (" the", " the"),
        ("\n", "↵"),
        ("\n\n", "↵↵"),
        ("  ", "␣␣"),
        ("", "∅"),
        ("\t", "⇥"),
        ("\x1b[31m", "⟨U+001B⟩[31m"),
    ],
)
def test_white_space_and_control_characters_are_seen(token, shown):
    assert visible_token(token) == shown


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("5+3=", "5+3="),
        (
            "<|im_start|>system\nAdd.<|im_end|>\n<|im_start|>user\n7+1?<|im_end|>\n<|im_start|>assistant\n",
            "Add. 7+1?",
        ),
        ("<|start_header_id|>user<|end_header_id|>\n\nHi\nyou<|eot_id|>", "Hi\nyou"),
        ("the user asks <b>|x|</b>", "the user asks <b>|x|</b>"),
        ("<|im_start|>", "<|im_start|>"),
        ("", ""),
    ],
)
def test_a_list_leaves_out_a_chat_templates_marks(prompt, said):
    assert preview(prompt) == said


def test_a_very_long_token_is_cut():
    assert visible_token("a" * 1_000_000) == "a" * 40 + "…"
