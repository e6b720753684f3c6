"""RLHF end to end: a small run learns the taste that it never sees, and the kept results say what the tables say."""

from __future__ import annotations

import json
import re

import pytest
import torch

from benchmarks.rlhf import ARMS, NAME, RESULTS, cells, markdown_table, peak, summaries
from rlkit import demo_rlhf
from rlkit.demo_rlhf import (
    learn_proxy,
    log_probabilities,
    ppo_config,
    preferences,
    reward_model_config,
    run_rlhf,
)
from rlkit.errors import ConfigError
from rlkit.feedback import SyntheticRater
from rlkit.models import load_model
from rlkit.runs import Run
from rlkit.tasks import arithmetic

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """All three stages on fewer prompts and in fewer steps; (folder, what came out)."""
    folder = tmp_path_factory.mktemp("rlhf")
    settings = {"max_steps": 16, "eval_steps": 8, "prompts": 400, "save_model": False, "quiet": True}
    return folder, run_rlhf(seed=11, output_dir=str(folder), **settings)


@pytest.mark.slow
def test_the_true_taste_rises_although_ppo_never_sees_it(small):
    folder, found = small
    assert found["status"] == "finished"
    assert found["taste_after"] > found["taste_before"] + 0.3
    assert found["proxy_after"] > found["proxy_before"] + 0.3
    run = Run(folder / "ppo")
    assert run.reward_names == ["proxy", "taste"]
    for line in run.metrics:
        assert line["reward"] == pytest.approx(line["rewards/proxy"], abs=1e-6)  # only the proxy is paid
        assert line["rewards/taste"] != line["rewards/proxy"]


@pytest.mark.slow
def test_both_runs_can_be_read_and_the_summary_is_theirs(small):
    folder, found = small
    judged = Run(folder / "reward_model")
    assert judged.status == "finished"
    assert judged.summary["accuracy_after"] == pytest.approx(found["reward_model"]["accuracy"], abs=1e-4)
    run = Run(folder / "ppo")
    assert [line["step"] for line in run.evals] == [at["step"] for at in found["evals"]] == [0, 8, 16]
    assert found["by_step"]["taste"] == [round(line["rewards/taste"], 4) for line in run.metrics]
    rows, taste = run.eval_samples(16, "sampled"), demo_rlhf.make_rater(0).taste
    scores = [taste.score(row["prompt"], row["completion"]) for row in rows]
    assert found["taste_after"] == pytest.approx(sum(scores) / len(scores), abs=1e-4)
    assert set(found["seconds"]) == {"preferences", "reward_model", "ppo"}


@pytest.mark.slow
def test_the_kl_is_measured_from_the_start(small):
    _, found = small
    kls = [at["kl"] for at in found["evals"]]
    assert kls[0] == pytest.approx(0.0, abs=2e-3)  # the same model, up to rounding
    assert kls[-1] > 0.1


def test_log_probabilities_are_the_models_own():
    model, tokenizer = load_model(demo_rlhf.MODEL)
    texts = [("17+25=", "42"), ("3+4=", "The answer is 7.")]
    rows = []
    for prompt, answer in texts:
        ids = [tokenizer(text)["input_ids"] for text in (prompt, answer + "<|end|>")]
        rows.append({"prompt_ids": ids[0], "completion_ids": ids[1]})
    found = log_probabilities(model, rows, tokenizer.pad_token_id)
    for row, total in zip(rows, found, strict=True):
        ids, expected = row["prompt_ids"] + row["completion_ids"], 0.0
        for position in range(len(row["prompt_ids"]), len(ids)):  # token by token, without padding
            with torch.no_grad():
                logits = model(torch.tensor([ids[:position]])).logits[0, -1].double()
            expected += float(logits.log_softmax(-1)[ids[position]])
        assert total == pytest.approx(expected, abs=1e-3)


def test_preferences_are_of_the_models_own_answers_and_follow_from_the_seed():
    model, tokenizer = load_model(demo_rlhf.MODEL)
    rows, rater = arithmetic().rows("train")[:20], SyntheticRater(seed=3)
    one, two, other = (preferences(model, tokenizer, rater, rows, 2, seed) for seed in (5, 5, 6))
    assert one == two != other
    asked = {row["prompt"] for row in rows}
    assert all(row["prompt"] in asked and row["chosen"] != row["rejected"] for row in one)
    assert len(one) <= 2 * len(rows)


def test_what_cannot_be_is_said_before_anything_is_loaded(tmp_path):
    with pytest.raises(ConfigError, match="kl_coef"):
        run_rlhf(output_dir=str(tmp_path / "run"), kl_coef=-1.0, quiet=True)
    with pytest.raises(ConfigError, match="noise"):
        run_rlhf(output_dir=str(tmp_path / "run"), noise=-1.0, quiet=True)
    assert not (tmp_path / "run").exists()


def test_settings_are_those_of_the_demo_but_for_what_is_given():
    assert ppo_config().kl_coef == demo_rlhf.KL_COEF
    assert ppo_config(kl_coef=0.0).kl_coef == 0.0
    assert ppo_config().reward_weights == [1.0, 0.0]
    assert reward_model_config(seed=4).seed == 4


def test_the_reward_model_is_normalised_over_its_training_pairs(tmp_path):
    args = reward_model_config(output_dir=str(tmp_path / "run"), disable_tqdm=True, save_model=False)
    proxy, found = learn_proxy(SyntheticRater(), args, prompts=40)
    assert proxy.__name__ == "proxy"
    assert (round(proxy.mean, 4), round(proxy.std, 4)) == (
        found["reward_model"]["mean"],
        found["reward_model"]["std"],
    )
    assert 0.5 < found["preferences"]["expected_accuracy"] < 1.0
    assert found["preferences"]["train"] <= 40 * demo_rlhf.PAIRS


# -- the kept results ------------------------------------------------------------------------------------------


def kept(arm):
    found = summaries(arm)
    assert [s["seed"] for s in found] == [0, 1, 2, 3, 4]
    return found


def test_five_seeds_were_run_of_every_arm_and_they_finished():
    for arm in ARMS:
        for s in kept(arm):
            assert s["status"] == "finished" and s["arm"] == arm
            assert s["evals"][0]["step"] == 0 and s["evals"][-1]["step"] == s["ppo"]["max_steps"]
            assert len(s["by_step"]["taste"]) == s["ppo"]["max_steps"]


def test_the_arms_with_and_without_kl_differ_in_nothing_else():
    for one, other in zip(kept("kl"), kept("free"), strict=True):
        assert one["reward_model"] == other["reward_model"] and one["preferences"] == other["preferences"]
        assert one["evals"][0] == other["evals"][0]
        differing = {name for name in one["ppo"] if one["ppo"][name] != other["ppo"][name]}
        assert differing == {"kl_coef"} and other["ppo"]["kl_coef"] == 0


def test_the_reward_model_predicts_the_rater_as_well_as_the_taste_itself_up_to_noise():
    """Each seed within two standard errors of the rater's own accuracy, and so is the mean over the seeds."""
    gaps, errors = [], []
    for s in kept("kl"):
        judged, known = s["reward_model"], s["preferences"]
        assert judged["accuracy"] > known["second_rater"] + judged["standard_error"], s["seed"]
        gaps.append(known["expected_accuracy"] - judged["accuracy"])
        errors.append(judged["standard_error"])
        assert abs(gaps[-1]) < 2 * errors[-1], s["seed"]
    assert abs(sum(gaps)) < 2 * sum(error**2 for error in errors) ** 0.5


def test_the_taste_rises_in_every_seed():
    for s in kept("kl"):
        assert s["taste_after"] > s["taste_before"] + 0.5, s["seed"]
        assert s["proxy_after"] > s["proxy_before"], s["seed"]
        assert sum(s["cpu_seconds"].values()) < 120


def test_without_kl_the_proxy_rises_and_the_taste_falls():
    for with_kl, free in zip(kept("kl"), kept("free"), strict=True):
        seed, best = free["seed"], peak(free)
        assert 0 < best["step"] <= 10 and best["taste"] > free["taste_before"] + 0.2, seed
        assert free["proxy_after"] > best["proxy"], seed  # the proxy has gone on rising …
        assert free["taste_after"] < best["taste"] - 0.25, (
            seed
        )  # … while most of what the taste had won is lost
        assert free["taste_after"] < free["taste_before"] + 0.15, seed
        assert free["proxy_after"] > with_kl["proxy_after"], seed
        assert free["taste_after"] < with_kl["taste_after"] - 0.7, seed


def test_the_table_says_what_the_summaries_say():
    lines = markdown_table().splitlines()[2:]
    runs = [(arm, s) for arm in ARMS for s in summaries(arm)]
    assert len(lines) == len(runs)
    for line, (arm, s) in zip(lines, runs, strict=True):
        assert line.startswith(f"| {arm} | {s['seed']} |")
        assert f"{s['taste_before']:.2f} → {s['taste_after']:.2f}" in line
        assert all(cell in line for cell in cells(s))


def test_the_kept_files_are_small_and_name_no_machine():
    for path in RESULTS.iterdir():
        assert path.stat().st_size < 100_000, path.name
        assert not re.search(r"/(work|tmp|root|home)\b", path.read_text()), path.name
        if path.suffix == ".json":
            json.loads(path.read_text())
    assert (RESULTS / NAME).read_text().startswith("<?xml")
