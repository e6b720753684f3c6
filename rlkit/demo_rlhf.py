"""``rlkit demo --rlhf``: RLHF in its three stages on a model of 0.8 M parameters.

    sampled answers ──SyntheticRater──▶ preferences ──RewardModelTrainer──▶ proxy ──PPOTrainer──▶ policy

The model is "rlkit/tiny-styles", which answers sums bare, in a sentence, with its working shown, or rambling. The
rater prefers short answers that show their working and are right (``rlkit.feedback.Taste``), with noise. PPO never
sees that taste: it is paid by the reward model alone, the *proxy*. The taste is called beside it with weight 0, so
that every line of metrics has both, and one can see what the proxy has left of it. People's judgments rarely allow
that; here the true score is a formula.

All three stages learn from the task's training prompts; what is reported is measured on its held-out ones.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rlkit import tasks
from rlkit.config import PPOConfig, RewardModelConfig
from rlkit.feedback import SyntheticRater, Taste
from rlkit.rollout import Row
from rlkit.runs import Run

MODEL = "rlkit/tiny-styles"
SHOWN = 6  # problems in the table
SAMPLES = 6  # answers to each prompt, for the rater
TEMPERATURE = 0.7  # they are sampled at: all styles, few slips in adding, which a reward model cannot check
PAIRS, PAIRS_HELD_OUT = 9, 6  # of them that it compares, a prompt
NOISE = 0.5  # of the rater, in units of the taste: it agrees with another of its kind seven times in ten
CORRECT = 0.5  # what a right sum is worth to it; working shown is worth 1: it looks at style first
KL_COEF = 0.2
KEPT = (
    "kl_coef",
    "learning_rate",
    "max_steps",
    "prompts_per_step",
    "num_ppo_epochs",
    "max_completion_length",
)


def reward_model_config(**settings: Any) -> RewardModelConfig:
    """The demo's settings of the reward model; ``settings`` override them."""
    defaults: dict[str, Any] = {
        "output_dir": "runs/rlhf/reward_model",
        "learning_rate": 1e-3,
        "lr_scheduler_type": "linear",
        "warmup_steps": 10,
        "num_train_epochs": 1.0,
        "rows_per_step": 16,
        "seed": 0,
    }
    return RewardModelConfig(**{**defaults, **settings})


def ppo_config(**settings: Any) -> PPOConfig:
    """The demo's settings of PPO; ``settings`` override them."""
    defaults: dict[str, Any] = {
        "output_dir": "runs/rlhf/ppo",
        "kl_coef": KL_COEF,
        "learning_rate": 2e-4,
        "value_learning_rate": 1e-2,
        "lr_scheduler_type": "linear",
        "max_steps": 60,
        "prompts_per_step": 64,
        "num_ppo_epochs": 2,
        "num_mini_batches": 2,
        "cliprange_value": None,
        "max_completion_length": 64,
        "eval_steps": 10,
        "num_generations_eval": 2,
        "reward_weights": [1.0, 0.0],  # the proxy is paid, the taste only watches
        "top_logprobs": 0,
        "probe_prompts": 0,
        "fast_inference": False,
        "seed": 0,
    }
    return PPOConfig(**{**defaults, **settings})


def make_rater(seed: int, noise: float = NOISE) -> SyntheticRater:
    """The demo's rater: short answers, working shown, and, for half as much, a right sum."""
    return SyntheticRater(Taste(correct=CORRECT), noise=noise, seed=seed)


def run_rlhf(
    seed: int = 0,
    output_dir: str = "runs/rlhf",
    *,
    kl_coef: float = KL_COEF,
    max_steps: int = 60,
    prompts: int | None = None,
    noise: float = NOISE,
    quiet: bool = False,
    reward_model: dict[str, Any] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """The three stages; returns what came out of each.

    Args:
        seed: of everything: sampled answers, rater, reward model, PPO.
        output_dir: run directories ``reward_model`` and ``ppo`` go into it.
        kl_coef: β, the weight of the KL to the model that PPO starts with; 0 lets the policy go where the proxy leads.
        max_steps: of PPO.
        prompts: training prompts whose answers are compared; None: all 673.
        noise: the rater's, in units of the taste.
        quiet: print nothing, no bars.
        reward_model, settings: override ``reward_model_config`` and ``ppo_config``.

    Returns:
        What ``learn_proxy`` and ``train_policy`` say; ``seconds`` and ``cpu_seconds`` of each stage.

    Raises:
        ConfigError: settings that cannot be, before anything is loaded.
    """
    folder, console = Path(output_dir), Console(quiet=quiet)
    common = {"seed": seed, "disable_tqdm": quiet}
    for_ppo = ppo_config(
        output_dir=str(folder / "ppo"), kl_coef=kl_coef, max_steps=max_steps, **{**common, **settings}
    )
    for_rewards = reward_model_config(
        output_dir=str(folder / "reward_model"), **{**common, **(reward_model or {})}
    )
    rater = make_rater(seed, noise)
    proxy, learned = learn_proxy(rater, for_rewards, prompts, console)
    trained = train_policy(proxy, rater.taste, for_ppo, console)
    times = {name: {**learned[name], **trained[name]} for name in ("seconds", "cpu_seconds")}
    console.print(f"{sum(times['seconds'].values()):.0f} s in all")
    return {"seed": seed, **learned, **trained, **times}


def learn_proxy(
    rater: SyntheticRater, args: RewardModelConfig, prompts: int | None = None, console: Console | None = None
) -> tuple[Any, dict[str, Any]]:
    """Stages one and two: preferences on sampled answers, and a reward model that learns them.

    Returns:
        The reward function, named ``proxy``, of mean 0 and standard deviation 1 over the training pairs; and in
        numbers: ``preferences`` (how many, how predictable the rater is on the held-out ones), ``reward_model``
        (held-out accuracy with its standard error, calibration).
    """
    from rlkit.models import load_model
    from rlkit.trainers.reward_model import RewardModelTrainer

    console, clock = console or Console(quiet=True), Clock()
    task, (model, tokenizer) = tasks.arithmetic(), load_model(MODEL)
    console.print(
        f"[bold]1. Preferences.[/] {MODEL} answers sums, and a rater compares two answers at a time:"
    )
    console.print(f"   {rater!r}", highlight=False)
    train = preferences(model, tokenizer, rater, list(task.train)[:prompts], PAIRS, 2 * args.seed)
    held_out = preferences(model, tokenizer, rater, list(task.test), PAIRS_HELD_OUT, 2 * args.seed + 1)
    console.print(f"{len(train)} pairs, and {len(held_out)} held-out ones. The first:")
    for side in ("chosen", "rejected"):
        console.print(f"   {train[0]['prompt']} {side:9}{escape(train[0][side])}", highlight=False)
    found = judged_again(rater, held_out)
    clock.lap("preferences")

    console.print("\n[bold]2. Reward model.[/] A head on a copy of the model learns who wins.")
    with RewardModelTrainer(model, args, train, held_out, tokenizer) as trainer:
        outcome = trainer.train()
        proxy = trainer.as_reward(normalise=True, name="proxy")
    accuracy, n = outcome["accuracy_after"], len(held_out)
    error = (accuracy * (1 - accuracy) / n) ** 0.5
    console.print(
        f"It is right on {accuracy:.1%} (± {error:.1%}) of the held-out pairs; who knows the taste itself, on "
        f"{found['expected_accuracy']:.1%}.\n"
    )
    clock.lap("reward_model")
    return proxy, {
        "noise": rater.noise,
        "preferences": {"train": len(train), "held_out": n, **found},
        "reward_model": {
            "accuracy": round(accuracy, 4),
            "standard_error": round(error, 4),
            "calibration_error": round(outcome["calibration_error_after"], 4),
            "steps": outcome["steps"],
            "mean": round(proxy.mean, 4),
            "std": round(proxy.std, 4),
        },
        "seconds": clock.seconds,
        "cpu_seconds": clock.cpu_seconds,
    }


def train_policy(proxy: Any, taste: Any, args: PPOConfig, console: Console | None = None) -> dict[str, Any]:
    """Stage three: PPO, paid by ``proxy``, watched by ``taste``.

    Returns:
        ``evals`` (see ``about_evaluation``), the first and the last one's ``taste_before``, ``taste_after``,
        ``proxy_before``, ``proxy_after``; ``by_step``, of the training samples; settings; ``seconds``.
    """
    from rlkit.models import load_model
    from rlkit.trainers.ppo import PPOTrainer

    console, clock = console or Console(quiet=True), Clock()
    task, (model, tokenizer) = tasks.arithmetic(), load_model(MODEL)
    console.print(f"[bold]3. PPO[/] with the reward model as reward, kl_coef={args.kl_coef:g}.")
    funcs = [proxy, taste]
    with PPOTrainer(
        model, funcs, args, task.train, task.test, processing_class=tokenizer, verifier=task.verifier
    ) as trainer:
        outcome = trainer.train()
        run = Run(trainer.run_dir)
    clock.lap("ppo")
    start, _ = load_model(MODEL)
    evals = [about_evaluation(run, line["step"], start, tokenizer) for line in run.evals]
    first, last = evals[0], evals[-1]
    console.print(before_after_table(run))
    console.print(
        f"held out: true score {first['taste']:.2f} → {last['taste']:.2f}, proxy {first['proxy']:.2f} → "
        f"{last['proxy']:.2f}, KL {last['kl']:.1f} nats a completion",
        highlight=False,
    )
    columns = {"rewards/taste": "taste", "rewards/proxy": "proxy", "completion_length": "tokens"}
    return {
        "status": outcome["status"],
        "ppo": {name: getattr(args, name) for name in KEPT},
        **{f"{name}_before": first[name] for name in ("taste", "proxy", "right")},
        **{f"{name}_after": last[name] for name in ("taste", "proxy", "right")},
        "evals": evals,
        "by_step": {name: [round(line[key], 4) for line in run.metrics] for key, name in columns.items()},
        "seconds": clock.seconds,
        "cpu_seconds": clock.cpu_seconds,
    }


class Clock:
    """Seconds of each stage: by the clock, and of the processor (all threads)."""

    def __init__(self) -> None:
        self._last = time.perf_counter(), time.process_time()
        self.seconds: dict[str, float] = {}
        self.cpu_seconds: dict[str, float] = {}

    def lap(self, name: str) -> None:
        """The stage that ends here."""
        now = time.perf_counter(), time.process_time()
        self.seconds[name], self.cpu_seconds[name] = (
            round(b - a, 1) for a, b in zip(self._last, now, strict=True)
        )
        self._last = now


def preferences(
    model: Any, tokenizer: Any, rater: SyntheticRater, rows: Sequence[Row], pairs: int, seed: int
) -> list[Row]:
    """``SAMPLES`` answers to each prompt, of which the rater compares ``pairs`` pairs."""
    from rlkit.embedded.styles import MOST_TOKENS
    from rlkit.engines.answers import sampled_answers

    asked = {"max_completion_length": MOST_TOKENS, "temperature": TEMPERATURE, "seed": seed}
    answers = sampled_answers(model, tokenizer, rows, SAMPLES, **asked)
    return rater.preferences(answers, pairs)


def judged_again(rater: SyntheticRater, held_out: Sequence[Row]) -> dict[str, float]:
    """How predictable this rater is on these pairs: no reward model can be expected to do better.

    ``expected_accuracy`` is that of the taste itself, on average over the noise; ``taste_accuracy`` on the draw at
    hand; ``second_rater`` is how often another rater of the same taste and noise says the same.
    """
    second = SyntheticRater(rater.taste, rater.noise, rater.mistakes, seed=rater.seed + 1000)
    same = [second.choose(row["prompt"], row["chosen"], row["rejected"]) == "first" for row in held_out]
    return {
        "expected_accuracy": round(rater.expected_accuracy(held_out), 4),
        "taste_accuracy": round(rater.accuracy(held_out), 4),
        "second_rater": round(mean(same), 4),
    }


def about_evaluation(run: Run, step: int, start: Any, tokenizer: Any) -> dict[str, Any]:
    """An evaluation's sampled answers in numbers.

    ``kl`` is their mean log-ratio to the model that PPO began with (``start``), in nats a completion: an unbiased
    estimate of KL(policy || start) on the held-out prompts, which also a run without a KL term has.
    """
    from rlkit.embedded.styles import style_shares

    rows = run.eval_samples(step, "sampled")
    said = [row["completion"] for row in rows]
    before = log_probabilities(start, rows, tokenizer.pad_token_id)
    apart = [sum(row["logp_engine"]) - logp for row, logp in zip(rows, before, strict=True)]
    return {
        "step": step,
        "n": len(rows),
        "taste": round(mean(row["reward/taste"] for row in rows), 4),
        "proxy": round(mean(row["reward/proxy"] for row in rows), 4),
        "right": round(mean(row["correct"] for row in rows), 4),
        "length": round(mean(map(len, said)), 2),
        "truncated": round(mean(row["finish_reason"] == "length" for row in rows), 4),
        "kl": round(mean(apart), 3),
        "styles": style_shares(said),
    }


def log_probabilities(model: Any, rows: Sequence[Row], pad_token_id: int) -> list[float]:
    """log π(completion | prompt) of each row of ``prompt_ids`` and ``completion_ids``, in nats."""
    import torch

    found: list[float] = []
    for start in range(0, len(rows), 128):
        part = rows[start : start + 128]
        texts = [[*row["prompt_ids"], *row["completion_ids"]] for row in part]
        width = max(map(len, texts))
        ids = torch.tensor([text + [pad_token_id] * (width - len(text)) for text in texts])  # [n, W], causal
        with torch.no_grad():
            logps = model(input_ids=ids, use_cache=False).logits[:, :-1].log_softmax(-1)  # [n, W-1, V]
        picked = logps.gather(-1, ids[:, 1:, None])[..., 0]  # [n, W-1]
        for row, text, line in zip(part, texts, picked, strict=True):
            found.append(float(line[len(row["prompt_ids"]) - 1 : len(text) - 1].sum()))
    return found


def before_after_table(run: Run) -> Table:
    """Sampled answers to the same held-out problems before and after PPO, each above its true and its proxy score."""
    first, last = run.evals[0]["step"], run.evals[-1]["step"]
    before, after = (run.eval_samples(step, "sampled") for step in (first, last))
    table = Table(title="Sampled answers to held-out problems", show_lines=True)
    table.add_column("problem", justify="right", no_wrap=True)
    for when in ("before", f"after {last} steps"):
        table.add_column(when, ratio=1)
    pairs = [(old, new) for old, new in zip(before, after, strict=True) if not old["completion_index"]]
    for pair in pairs[:SHOWN]:
        cells = [
            f"{escape(row['completion'])}\n[dim]true {row['reward/taste']:+.2f}, proxy {row['reward/proxy']:+.2f}[/]"
            for row in pair
        ]
        table.add_row(escape(pair[0]["prompt"]), *cells)
    return table
