"""The same PPO on a real model: SmolLM2-135M-Instruct, rewarded by a reward model that is SmolLM2 itself.

    sums in chat form ──SmolLM2 samples──▶ SyntheticRater prefers ──▶ RewardModelTrainer ──▶ PPOTrainer

All four models are whole and float32, none an adapter: policy and value model with gradient and AdamW state,
reference policy and reward model frozen. The value model begins as a copy of the reward model. The rater's taste is
known, so that the *true* score of every answer is written beside the reward model's: it is given weight 0, and
nothing is trained on it.

What is reported of the held-out sums is a difference between the same prompts before and after, with its standard
error; one that lies within two of them is called "no clear change". A dozen steps of 32 answers are a proof that it
runs, and no proof of what PPO comes to.

    rlkit fetch smollm2
    python -m benchmarks.ppo_smollm2 [--model FOLDER] [--steps 12] [--run-dir DIR] [--output DIR] [--quick]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks._cost import GIB, CpuClock
from benchmarks._peers import SMOLLM2, TINY, Peak, device
from benchmarks._ppo_words import COLUMNS, RESULTS, markdown_table, read_run, short

GIB_LIMIT = 12.0
MAX_OPERAND = 19
SYSTEM = "You add numbers."
EXAMPLE = ("What is 31 + 42?", "31 + 42 = 30 + 40 + 3 = 73")
PHASES = ("rollout", "score", "estimate", "update", "sync", "step")
FULL = {
    "steps": 12,
    "prompts_per_step": 32,
    "rater_prompts": (80, 40),  # whose answers are compared: training, held out
    "answers_each": 4,
    "pairs_each": 2,
    "eval_prompts": 48,
    "max_completion_length": 32,
}
QUICK = {
    "steps": 2,
    "prompts_per_step": 8,
    "rater_prompts": (12, 6),
    "answers_each": 4,
    "pairs_each": 2,
    "eval_prompts": 8,
    "max_completion_length": 12,
}


def chat_rows(rows: list[dict[str, Any]], chat: bool) -> list[dict[str, Any]]:
    """Each sum as a question, after a worked example; a model that knows no chat gets it as it is."""
    if not chat:
        return rows
    made = []
    for row in rows:
        asked = row["prompt"].removesuffix("=").replace("+", " + ")
        turns = [("system", SYSTEM), ("user", EXAMPLE[0]), ("assistant", EXAMPLE[1])]
        turns.append(("user", f"What is {asked}?"))
        made.append({**row, "prompt": [{"role": role, "content": text} for role, text in turns]})
    return made


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Everything once, in this process; returns what goes into the results file."""
    from rlkit import load_model, tasks
    from rlkit.engines.answers import sampled_answers
    from rlkit.environment import device_name, versions
    from rlkit.feedback import SyntheticRater
    from rlkit.trainers.scorer import make_reward_model

    sizes: dict[str, Any] = {**(QUICK if args.quick else FULL), "seed": args.seed}
    if args.steps:
        sizes["steps"] = args.steps
    chat = args.model != TINY
    task = tasks.arithmetic(max_operand=MAX_OPERAND)
    model, tokenizer = load_model(args.model, dtype="float32")
    peak = Peak()
    start = time.perf_counter()
    train, test = (chat_rows(task.rows(side), chat) for side in ("train", "test"))
    rater = SyntheticRater(seed=args.seed)
    compared = (train[: sizes["rater_prompts"][0]], test[: sizes["rater_prompts"][1]])
    asked = {
        "num_generations": sizes["answers_each"],
        "max_completion_length": sizes["max_completion_length"],
        "at_once": 64,
    }
    preferences, held_out = (
        rater.preferences(sampled_answers(model, tokenizer, rows, **asked), sizes["pairs_each"])
        for rows in compared
    )
    sampled = time.perf_counter() - start
    judge, _ = make_reward_model(model, tokenizer, seed=args.seed)
    reward, about_judge = train_reward_model(judge, tokenizer, preferences, held_out, rater, peak, args)
    policy, about_policy = train_policy(
        model, tokenizer, reward, rater.taste, train, test, task, peak, sizes, args
    )
    return {
        "model": "SmolLM2-135M-Instruct" if chat else args.model,
        "task": f"sums up to {MAX_OPERAND}, {'in chat form after a worked example' if chat else 'bare'}",
        "sizes": sizes,
        "device": device_name(device()),
        "threads": threads(),
        "versions": versions(),
        "parameters_each": sum(p.numel() for p in model.parameters()),
        "models": "policy, value model: all weights trained; reference policy, reward model: frozen; float32",
        "peak_gib": round(peak.highest / GIB, 3),
        "peak_above_loaded_gib": round((peak.highest - peak.before) / GIB, 3),
        "limit_gib": GIB_LIMIT,
        "seconds": {
            "sampling_for_the_rater": round(sampled, 1),
            "reward_model": about_judge.pop("seconds"),
            "ppo": about_policy.pop("seconds"),
            "all": round(time.perf_counter() - start, 1),
        },
        "reward_model": about_judge,
        "ppo": about_policy,
        **policy,
    }


def train_reward_model(
    judge: Any, tokenizer: Any, pairs: Any, held_out: Any, rater: Any, peak: Peak, args: Any
) -> tuple[Any, dict[str, Any]]:
    """The reward function, and how far it is to be trusted."""
    from rlkit.config.reward_model import RewardModelConfig
    from rlkit.trainers.reward_model import RewardModelTrainer

    start = time.perf_counter()
    settings = RewardModelConfig(
        output_dir=str(args.run_dir / "reward_model"),
        seed=args.seed,
        rows_per_step=8,
        learning_rate=5e-5,
        warmup_steps=3,
        center_rewards_coefficient=0.01,
        save_model=False,
        disable_tqdm=not args.verbose,
    )
    with RewardModelTrainer(judge, settings, pairs, held_out, processing_class=tokenizer) as trainer:
        peak.watch(trainer.ledger)
        summary = trainer.train()
        evaluation = trainer.evaluations[-1]
        reward = trainer.as_reward(normalise=True)
        trainer.report()
    accuracy = evaluation.accuracy
    return reward, {
        "pairs": len(pairs),
        "held_out_pairs": evaluation.n,
        "steps": summary["steps"],
        "learning_rate": settings.learning_rate,
        "accuracy_before": summary["accuracy_before"],
        "accuracy": accuracy,
        "standard_error": round((accuracy * (1 - accuracy) / evaluation.n) ** 0.5, 4),
        "rater_noise": rater.noise,
        "best_possible_accuracy": round(rater.expected_accuracy(held_out), 4),
        "report": evaluation.report(),
        "seconds": round(time.perf_counter() - start, 1),
    }


def train_policy(
    model: Any,
    tokenizer: Any,
    reward: Any,
    taste: Any,
    train: Any,
    test: Any,
    task: Any,
    peak: Peak,
    sizes: Any,
    args: Any,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """PPO; what moved on held-out prompts, and the run's own numbers."""
    from rlkit import Run
    from rlkit.config import PPOConfig
    from rlkit.trainers.ppo import PPOTrainer

    start = time.perf_counter()
    settings = PPOConfig(
        output_dir=str(args.run_dir / "ppo"),
        seed=args.seed,
        max_steps=sizes["steps"],
        prompts_per_step=sizes["prompts_per_step"],
        max_completion_length=sizes["max_completion_length"],
        num_ppo_epochs=1,
        num_mini_batches=4,
        learning_rate=1e-5,
        lr_scheduler_type="constant",
        value_learning_rate=2e-5,
        kl_coef=0.05,
        reward_weights=[1.0, 0.0],
        num_generations_eval=2,
        probe_prompts=0,
        top_logprobs=0,
        fast_inference=False,
        save_model=False,
        disable_tqdm=not args.verbose,
    )
    reward.model.requires_grad_(False)
    cpu = CpuClock()
    with PPOTrainer(
        model,
        [reward, taste],
        settings,
        train,
        test[: sizes["eval_prompts"]],
        processing_class=tokenizer,
        verifier=task.verifier,
        value_model=reward,  # a copy of it is trained
        callbacks=[cpu],
    ) as trainer:
        peak.watch(trainer.ledger)
        summary = trainer.train()
        run = Run(trainer.run_dir)
        found = read_run(run)
        for line in found["words"]:
            trainer.run.note(line)
        trainer.report()
    lines = run.metrics
    return found, {
        "status": summary["status"],
        "steps": summary["steps"],
        "tokens_sampled": summary["tokens_sampled"],
        "learning_rate": settings.learning_rate,
        "kl_coef": settings.kl_coef,
        "optimizer_steps_each": settings.updates_per_rollout,
        "median_seconds": {
            name: round(statistics.median(line[f"seconds/{name}"] for line in lines), 2) for name in PHASES
        },
        "median_cpu_seconds_a_step": round(statistics.median(cpu.seconds), 2),
        "peak_gib_by_phase": {
            name: round(max(line[f"memory/{name}"] for line in lines), 3)
            for name in ("rollout", "score", "update")
        },
        "by_step": {name: [short(line.get(name)) for line in lines] for name in COLUMNS},
        "seconds": round(time.perf_counter() - start, 1),
    }


def threads() -> int:
    import torch

    return torch.get_num_threads()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help=f"name or folder; default {SMOLLM2}, with --quick the embedded model")
    parser.add_argument("--steps", type=int, help=f"PPO steps; default {FULL['steps']}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run-dir", type=Path, help="where the two runs with their report pages go")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--quick", action="store_true", help="two small steps, to a scratch folder")
    parser.add_argument("--verbose", action="store_true")
    args = parser.parse_args()
    args.model = args.model or (TINY if args.quick else SMOLLM2)
    scratch = Path(tempfile.mkdtemp())
    args.run_dir = args.run_dir or scratch / "runs"
    if args.quick:
        args.output = scratch
    found = run(args)
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "run.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    print(markdown_table(args.output))
    for line in found["words"]:
        print(line)
    print(f"peak {found['peak_gib']:.2f} GiB, {found['ppo']['median_seconds']['step']:.1f} s a step")
    print(f"written to {args.output / 'run.json'}; report pages in {args.run_dir}")


if __name__ == "__main__":
    main()
