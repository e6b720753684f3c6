"""What a run of PPO, of a reward model and of a warm start looks like afterwards: short real runs of each, and numbers
that are made up where an exact answer is asked for."""

from __future__ import annotations

import html
import io
import math
import re
import warnings
from pathlib import Path
from statistics import pvariance
from typing import Any

import pytest
import yaml
from small_trainer import PROMPTS, small_model, token_sum
from test_report import Page, check_safe

from rlkit import PPOConfig, PPOTrainer, RewardModelConfig, RewardModelTrainer, SFTConfig, SFTTrainer
from rlkit.runs import Run, RunWriter, headline, write_report
from rlkit.runs.facts import held_out, step_columns
from rlkit.runs.moved import Moved, what_moved
from rlkit.runs.pairs import calibration_chance, pairs_report, said_and_true
from rlkit.runs.panels import charts
from rlkit.trainers.progress import progress

PAIRS = [
    {"prompt": f"{a}+{b}=", "chosen": f"{a + b}y" + "!" * (a % 3), "rejected": f"{a + b}n" + "!" * (b % 4)}
    for a in range(3, 30, 4)
    for b in range(5, 21, 3)
]
ROWS = [{"prompt": f"{a}+{b}=", "completion": str(a + b)} for a in range(6) for b in range(5)]


def short(completions, completion_ids, **columns):
    return [-float(len(ids)) for ids in completion_ids]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, Path]:
    """A run directory of each kind, with its model in it."""
    folder = tmp_path_factory.mktemp("kinds")
    settings: dict[str, Any] = dict(disable_tqdm=True, learning_rate=1e-3, seed=0)
    sampled: dict[str, Any] = dict(
        prompts_per_step=12,
        max_completion_length=6,
        fast_inference=False,
        probe_prompts=0,
        num_ppo_epochs=1,
        eval_steps=3,
        **settings,
    )
    trainers: list[Any] = []
    for name, own in (
        ("ppo", dict(reward_weights=[1.0, 0.0], kl_target=0.1)),
        ("ppo_free", dict(reward_weights=[1.0, 1.0], kl_coef=0.0)),
    ):
        model, tokenizer = small_model()
        args = PPOConfig(output_dir=str(folder / name), max_steps=6, **sampled, **own)
        judged = {"processing_class": tokenizer, "eval_dataset": PROMPTS[:4]}
        trainers.append(PPOTrainer(model, [token_sum, short], args, PROMPTS, **judged))
    model, tokenizer = small_model()
    pairs = RewardModelConfig(
        output_dir=str(folder / "pairs"), max_steps=6, rows_per_step=8, eval_steps=3, **settings
    )
    trainers.append(RewardModelTrainer(model, pairs, PAIRS[:30], PAIRS[30:], tokenizer))
    model, tokenizer = small_model()
    sft = SFTConfig(output_dir=str(folder / "sft"), max_steps=6, rows_per_step=8, eval_steps=3, **settings)
    trainers.append(SFTTrainer(model, sft, ROWS[:22], ROWS[22:], tokenizer))
    for trainer in trainers:
        with trainer, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer.train()
    return {name: folder / name for name in ("ppo", "ppo_free", "pairs", "sft")}


TITLES = {
    "ppo": [
        *(
            "Reward",
            "Reward by function",
            "Value against return",
            "Explained variance",
            "Value loss",
            "Entropy",
        ),
        *("Completion length", "Truncation and clipping", "Gradient norm", "Size of an update"),
        *(
            "KL to the reference",
            "KL of a completion",
            "KL coefficient",
            "Engine against trainer",
            "Time by phase",
        ),
    ],
    "pairs": ["Loss", "Accuracy", "Margin", "Calibration", "Length", "Gradient norm"],
    "sft": ["Loss", "Entropy", "Gradient norm"],
}
TITLES["ppo_free"] = [title for title in TITLES["ppo"] if not title.startswith("KL ")]
SECTIONS = {
    "ppo": ["words", "moved", "curves", "before-after", "samples", "settings", "reading"],
    "pairs": ["words", "moved", "pairs", "curves", "settings", "reading"],
    "sft": ["words", "moved", "curves", "settings", "reading"],
}
SECTIONS["ppo_free"] = SECTIONS["ppo"]


# -- the page ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TITLES)
def test_a_page_has_what_its_run_has(made, kind):
    page = Page(write_report(made[kind]))
    check_safe(page)
    assert re.findall(r"<figure><h3>(.*?)</h3>", page.source) == TITLES[kind]
    assert [attrs["id"] for tag, attrs in page.tags if tag == "section"] == SECTIONS[kind]
    assert "group" not in page.text  # which GRPO has
    assert "It takes two evaluations" not in page.text and "No completions were kept" not in page.text


def test_the_page_of_ppo(made):
    page = Page(write_report(made["ppo"]))
    labels = {
        attrs["aria-label"].split(" (")[0]: html.unescape(attrs["aria-label"]) for attrs in pictures(page)
    }
    run = Run(made["ppo"])
    values, returns = ([row[name] for row in run.metrics] for name in ("value", "return"))
    told = labels["Chart of value against return"]
    assert f"value V: {values[0]:.3g} at step 1" in told and f"return R: {returns[0]:.3g} at step 1" in told
    assert "short (weight 0): " in labels["Chart of reward by function"]
    assert "held out, greedy: " in labels["Chart of reward"]  # no verifier: the reward is all there is
    assert "kl_target: 0.1" in labels["Chart of kl of a completion"]
    assert "Sampled completions" in page.text and "The best and the worst of 12 completions." in page.text
    rows = re.findall(
        r"<tr>.*?</tr>", page.source[page.source.index('<section id="samples">') :], flags=re.DOTALL
    )
    best = max(run.samples(1), key=lambda row: row["reward"])
    assert (
        f'<span class="text">{best["prompt"]}</span>' in rows[1]
    )  # behind the head: the best, with its prompt
    assert headline_of(page).startswith("held-out reward ")


def test_explained_variance_is_drawn_from_minus_one(tmp_path):
    with RunWriter(tmp_path / "run", config={"algorithm": "PPO"}) as writer:
        for step, value in enumerate((0.1, -7.0, 0.3, math.nan), 1):
            writer.write_metrics({"step": step, "explained_variance": value, "kl": -0.2 * step})
    found = {chart.title: chart for chart in charts(Run(tmp_path / "run"))}
    assert list(found) == ["Explained variance", "KL to the reference"]
    assert (
        "lowest -1, highest 0.3" in found["Explained variance"].alt
        and "−1" in found["Explained variance"].note
    )
    ticks = re.findall(r">(-?[\d.]+)</text>", found["KL to the reference"].svg)
    assert min(map(float, ticks)) <= -0.6  # an estimate below 0 is not cut off


def test_the_page_of_a_reward_model(made):
    page, run = Page(write_report(made["pairs"])), Run(made["pairs"])
    last = run.evals[-1]
    labels = {
        attrs["aria-label"].split(" (")[0]: html.unescape(attrs["aria-label"]) for attrs in pictures(page)
    }
    accuracies = [row["accuracy"] for row in run.evals]
    assert (
        f"held out: {accuracies[0]:.3g} at step 0, {accuracies[-1]:.3g} at step 6"
        in labels["Chart of accuracy"]
    )
    diagram = next(label for label in labels.values() if label.startswith("Calibration diagram"))
    assert [int(n) for n in re.findall(r"(\d+) pairs", diagram)] == [
        one["pairs"] for one in last["calibration"]
    ]
    assert sum(one["pairs"] for one in last["calibration"]) == last["n"] == len(PAIRS) - 30
    assert pairs_report(last)[0] in page.text and "Length: the rater chose" in page.text
    assert headline_of(page).startswith("held-out accuracy ")
    assert (
        "calibration_error_after" in page.text and '"confidence"' not in page.text
    )  # the bins are a picture


def test_the_page_of_a_warm_start(made):
    page, run = Page(write_report(made["sft"])), Run(made["sft"])
    first, last = (run.evals[i]["loss"] for i in (0, -1))
    assert headline_of(page).startswith(f"held-out loss {first:.2f} → {last:.2f} in ")
    assert f"Held-out loss went from {first:.3g} to {last:.3g} on 8 rows." in page.text
    assert "perplexity" in page.text


def pictures(page: Page) -> list[dict[str, Any]]:
    return [attrs for tag, attrs in page.tags if tag == "svg"]


def headline_of(page: Page) -> str:
    found = re.search(r"<h1>(.*?)</h1>", page.source)
    assert found is not None
    return html.unescape(found.group(1))


# -- what moved ----------------------------------------------------------------------------------------------------


def test_what_moved_is_exact(tmp_path):
    before, after = [1.0, 2.0, 3.0, 4.0], [4.0, 6.0, 4.0, 6.0]
    taste = [[1.0, 1.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0]]
    config = {"algorithm": "PPO", "rewards": {"proxy": 1.0, "taste": 0.0}}
    with RunWriter(tmp_path / "run", config=config) as writer:
        for step, rewards in ((0, before), (30, after)):
            rows = [
                {
                    "prompt_index": i,
                    "reward": r,
                    "reward/proxy": r,
                    "reward/taste": taste[step > 0][i],
                    "correct": r > 3,
                }
                for i, r in enumerate(rewards)
            ]
            writer.write_eval(step, "greedy", rows)
            writer.write_metrics({"event": "eval", "step": step, "n": 4})
        for i in range(30):
            numbers = {
                "reward": float(i),
                "rewards/proxy": float(i),
                "rewards/taste": 1.0,
                "loss": 3.0,
                "kl": None,
            }
            writer.write_metrics({"step": i + 1, **numbers})
    found = {(one.where, one.name): one for one in what_moved(Run(tmp_path / "run"))}
    assert list(found) == [
        *(("held out", name) for name in ("accuracy", "reward, total", "proxy", "taste (weight 0)")),
        *(("training", name) for name in ("reward, total", "proxy", "taste (weight 0)")),
    ]  # no loss, which says nothing here, and no KL, which was not measured
    total = found["held out", "reward, total"]
    assert (total.first, total.last, total.change) == (2.5, 5.0, 2.5)
    assert total.chance == pytest.approx(2 * math.sqrt(pvariance(before) / 4 + pvariance(after) / 4))
    assert total.verdict == "rose" and found["held out", "taste (weight 0)"].verdict == "fell"
    accuracy = found["held out", "accuracy"]
    assert (accuracy.first, accuracy.last) == (0.25, 1.0)
    assert accuracy.chance == pytest.approx(2 * math.sqrt(0.25 * 0.75 / 4))
    training = found["training", "reward, total"]
    assert (training.first, training.last) == (4.5, 24.5)  # the first and the last ten steps
    assert found["training", "taste (weight 0)"].verdict == "no more than chance"


def test_held_out_over_optimisation_is_said(tmp_path):
    """Too few steps for the rule that looks at training, but held-out answers enough."""

    def write(name, proxy, taste, weights):
        config = {"algorithm": "PPO", "rewards": dict(zip(("proxy", "taste"), weights))}
        with RunWriter(tmp_path / name, config=config) as writer:
            for step in (0, 5):
                means = (proxy[step > 0], taste[step > 0])
                rows = [{"prompt_index": i, **_rewards(*means, 0.1 * (-1) ** i)} for i in range(20)]
                writer.write_eval(step, "greedy", rows)
                writer.write_metrics({"event": "eval", "step": step, "n": 20})
                if step:
                    writer.write_metrics(
                        {"step": step, "rewards/proxy": 1.0, "rewards/taste": 1.0, "accuracy": 0.5}
                    )
        return Run(tmp_path / name).diagnose()

    found = write("exploited", (0.0, 1.0), (0.5, -0.5), (1.0, 0.0))
    assert [d.code for d in found] == ["over_optimised"] and found[0].severity == "problem"
    assert "from 0 to 1 on held-out prompts while 'taste' fell from 0.5 to -0.5 (weight 0" in str(found[0])
    assert write("trained on", (0.0, 1.0), (0.5, -0.5), (1.0, 0.1)) == []
    assert write("both rose", (0.0, 1.0), (-0.5, 0.5), (1.0, 0.0)) == []
    assert write("both fell", (1.0, 0.0), (0.5, -0.5), (1.0, 0.0)) == []
    assert write("by chance", (0.0, 1.0), (0.52, 0.5), (1.0, 0.0)) == []


def _rewards(proxy: float, taste: float, apart: float) -> dict[str, float]:
    return {"reward": proxy + apart, "reward/proxy": proxy + apart, "reward/taste": taste + apart}


def test_verdicts():
    assert Moved("x", "training", 1.0, 2.0, 1.0).verdict == "no more than chance"
    assert Moved("x", "training", 1.0, 2.0, 0.9).verdict == "rose"
    assert Moved("x", "training", 2.0, 1.0, 0.9).verdict == "fell"
    assert Moved("x", "training", 2.0, 1.0, None).verdict == ""
    assert Moved("x", "training", 1.0, 1.0, 0.0).verdict == "no more than chance"


def test_short_and_damaged_runs_say_less(tmp_path):
    with RunWriter(tmp_path / "run", config={"algorithm": "reward model"}) as writer:
        for step in range(1, 6):  # two steps on each side are too few
            writer.write_metrics({"step": step, "loss": 1.0 / step})
        writer.write_metrics({"event": "eval", "step": 5, "n": 7, "accuracy": 0.5})
    run = Run(tmp_path / "run")
    assert what_moved(run) == []
    assert [one.title for one in charts(run)] == ["Loss", "Accuracy"]
    page = Page(write_report(tmp_path / "run"))
    check_safe(page)
    assert "What moved" not in page.text and "7 held-out pairs" in page.text


# -- in words ------------------------------------------------------------------------------------------------------


def test_the_report_of_pairs_in_words():
    bins = [
        {"low": 0.5, "high": 0.75, "pairs": 1, "confidence": 0.6, "accuracy": 1.0},
        {"low": 0.75, "high": 1.0, "pairs": 3, "confidence": 0.8, "accuracy": 1 / 3},
    ]
    found = pairs_report(
        {"n": 100, "accuracy": 0.8, "calibration_error": 0.1, "calibration": bins}
        | {"longer_chosen": 0.5, "longer_preferred": 0.75, "accuracy_longer": 0.9, "length_correlation": None}
    )
    assert found[0].startswith("100 held-out pairs: the chosen side has the higher reward in 80.0% (± 8.0%")
    assert found[0].endswith("more than a coin would do.")
    assert found[1].startswith(
        "Calibration: its probabilities are off by 10.0% on average (chance would be about "
    )
    assert found[1].endswith("It says 75.0%, and 50.0% come true.")
    assert found[2:4] == [
        "  says 50% to 75%: 1 pair, 100% came true",
        "  says 75% to 100%: 3 pairs, 33% came true",
    ]
    assert found[4].endswith(
        "the model gives it more in 75.0%. Accuracy: 90.0% where the longer side was chosen."
    )
    assert said_and_true(bins) == pytest.approx((0.75, 0.5))
    assert "no more than a coin" in pairs_report({"n": 100, "accuracy": 0.55})[0]
    assert "the wrong way round?" in pairs_report({"n": 100, "accuracy": 0.2})[0]
    assert pairs_report({}) == [] and pairs_report({"n": 0, "accuracy": 0.5}) == []


def test_what_chance_does_to_calibration():
    """Against the exact mean absolute deviation of a binomial share: the normal formula is within 2 % at 200 pairs."""
    n, p = 200, 0.8
    exact = sum(math.comb(n, k) * p**k * (1 - p) ** (n - k) * abs(k / n - p) for k in range(n + 1))
    one = {"pairs": n, "confidence": p, "accuracy": 0.7}
    assert calibration_chance([one]) == pytest.approx(exact, rel=0.02)
    assert calibration_chance([one, one]) == pytest.approx(
        calibration_chance([one])
    )  # two such bins: their mean
    assert calibration_chance([]) == 0.0


def test_facts(made):
    assert held_out(
        {"accuracy_before": 0.5, "accuracy_after": 0.75, "reward_before": 1.0, "reward_after": 2.0}
    ) == ("accuracy 0.50 → 0.75")
    assert (
        held_out({"accuracy_before": None, "reward_before": -1.0, "reward_after": 0.012})
        == "reward -1.00 → 0.012"
    )
    assert held_out({"loss_before": 6.4449, "loss_after": None}) == held_out(None) == ""
    assert (
        headline({"loss_before": 6.4449, "loss_after": 2.1, "steps": 3})
        == "held-out loss 6.44 → 2.10 (3 steps)"
    )
    for kind, path in made.items():
        run = Run(path)
        numbers = [
            name for name in step_columns(run.config) if any(row.get(name) is not None for row in run.metrics)
        ]
        missing = {*step_columns(run.config)} - {*numbers}
        assert missing <= {"accuracy", "kl"}, kind  # no verifier; no reference
        assert "→" in repr(run) and held_out(run.summary) in repr(run)
    assert "reward" not in repr(Run(made["pairs"])) and "dead_groups" in step_columns({})


def test_bars(made):
    for kind, expected in (
        ("ppo", r"left, reward -?[\d.]+, kl \S+, value loss [\d.e-]+$"),
        ("ppo_free", r"left, reward -?[\d.]+, value loss [\d.e-]+$"),
        ("pairs", r"left, accuracy [\d.]+, loss [\d.e-]+$"),
        ("sft", r"left, loss [\d.e-]+$"),
    ):
        stream = io.StringIO()
        with progress(6, stream=stream) as bar:
            bar.update(Run(made[kind]).metrics[-1])
        assert re.search(expected, stream.getvalue().splitlines()[1]), (kind, stream.getvalue())


# -- the card ------------------------------------------------------------------------------------------------------


def card(folder: Path) -> tuple[dict[str, Any], str]:
    _, front, body = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(front), body


def test_the_card_of_a_reward_model(made):
    front, body = card(made["pairs"] / "model")
    last = Run(made["pairs"]).evals[-1]
    assert front["pipeline_tag"] == "text-classification" and front["tags"] == ["rlkit", "reward-model"]
    assert f"| {last['accuracy']:.4g} |" in body and f"On {last['n']} held-out pairs of answers." in body
    for line in (
        "| accuracy |",
        "| calibration error |",
        "| it says | pairs | came true |",
        "- Length: the rater",
    ):
        assert line in body, line
    assert "greedy" not in body and "| rows trained on | 30 |" in body and "| `rows_per_step` | 8 |" in body
    assert "load_reward_model(" in body and "AutoModelForCausalLM" not in body


@pytest.mark.parametrize("lora", [False, True])
def test_what_the_card_says_about_loading_is_so(tmp_path, lora):
    """The card's own lines are run: rlkit's reading and that of transformers give one number."""
    from rlkit import load_model
    from rlkit.trainers.scorer import RewardModel, make_reward_model

    model, tokenizer = make_reward_model(*load_model("rlkit/tiny-arithmetic"), lora=lora)
    expected = RewardModel(model, tokenizer).score(["17+25="], ["42"])[0]
    RewardModel(model, tokenizer, mean=0.5, std=2.0).save(tmp_path / "folder")
    front, body = card(tmp_path / "folder")
    assert "| mean and standard deviation taken out | 0.5, 2 |" in body
    assert front["library_name"] == ("peft" if lora else "transformers")
    ours, plain = re.findall(r"```python\n(.*?)```", body, flags=re.DOTALL)
    found: dict[str, Any] = {}
    for code in (ours.replace("reward.score(", "scores = reward.score("), plain):
        exec(code.replace("path/to/this/folder", str(tmp_path / "folder")), found)
    assert found["scores"] == [pytest.approx((expected - 0.5) / 2.0, abs=1e-5)]
    assert found["score"].item() == pytest.approx(expected, abs=1e-5)


def test_the_cards_of_ppo_and_of_a_warm_start(made):
    from rlkit.model_card import model_card

    front, body = card(made["ppo"] / "model")
    assert front["tags"] == ["rlkit", "reinforcement-learning", "ppo"]
    for line in (
        "| `cliprange` | 0.2 |",
        "| `kl_coef` | 0.05 |",
        "| `kl_target` | 0.1 |",
        "| `gamma` | 1.0 |",
        "| `lam` | 0.95 |",
        "| value model | a head on the policy |",
        "| `short` | 0 (only looked at) |",
        "| reward, greedy |",
    ):
        assert line in body, line
    front, body = card(made["sft"] / "model")
    assert front["tags"] == ["rlkit", "sft"] and front["pipeline_tag"] == "text-generation"
    assert "| loss, nats |" in body and "On 8 held-out rows." in body
    run = Run(made["ppo"])
    named = model_card({**run.config, "reward_models": {"token_sum": "/home/me/smollm2"}})
    assert "| `token_sum` | 1 | `HuggingFaceTB/SmolLM2-135M-Instruct` |" in named and "/home/me" not in named
