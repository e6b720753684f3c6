"""PPO against GRPO on the embedded model's sums, at equal sampled tokens: accuracy, seconds, memory.

GRPO is said to be cheap because it does without the value model and the reward model of PPO. Four arms, which all
sample 16 prompts × 16 completions a step from the same prompts in the same order:

    grpo         GRPO, the demo's settings: the policy, and nothing else; one optimizer step a rollout
    grpo_4       the same with four optimizer steps a rollout, as PPO takes
    ppo_head     PPO with the value model as a head on the policy; the same verifier judges, no KL
    ppo_rlhf     PPO with the four models of RLHF: policy, reference policy (KL 0.2), value model, and a reward model
                 that was trained before on preferences for right answers

What is reported of each is held-out accuracy by the verifier, also where the reward model judged. Every run is a
process of its own, and the arms take turns, seed by seed. Seconds are the processor's, on one thread (the clock's
stand in the files): a busy machine moves them less. Peak memory is the resident set in training above what it was once
the policy was loaded; all arms cut an update into micro-batches of 64 rows. With a model of 3 MB that is mostly
activations and the library's own buffers, so that what the models themselves hold (weights, gradients, AdamW's moments)
is counted tensor by tensor, and by formula for SmolLM2 and for 7 billion weights.

PPO's settings were chosen on seed 10 (with a KL of 0.05 in place of 0.2 the arm ppo_rlhf ended at 0.22 there: it found
what the reward model gets wrong); GRPO's are the demo's, which were chosen with its seeds 0 to 4 in view. Then the
seeds 0 to 4 ran once.

    python -m benchmarks.ppo [--arms …] [--seeds 0 1 2 3 4] [--output DIR] [--quick]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks._cost import GIB, CpuClock, by_formula, model_bytes, total
from benchmarks._peers import MIB, TINY, Peak
from benchmarks.learning import KEPT

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).parent / "results" / "ppo"
ARMS = ("grpo", "grpo_4", "ppo_head", "ppo_rlhf")
PHASES = ("rollout", "score", "estimate", "update", "sync", "step")
STEPS = 40
UPDATES = 4  # optimizer steps a rollout, but for the arm grpo
MICRO_BATCH = 64  # rows
PPO: dict[str, Any] = {
    "num_ppo_epochs": 1,
    "num_mini_batches": UPDATES,
    "value_learning_rate": 1e-3,
    "learning_rate": 5e-5,
}
KL = 0.2
RATER = {"pairs_each": 4, "answers_each": 16, "epochs": 6, "learning_rate": 3e-4}
SIZES = {
    "SmolLM2-135M": (134_515_008, 576),
    "7 billion weights": (7_000_000_000, 4096),
}  # weights, hidden size


def run_one(
    arm: str, seed: int, steps: int, override: dict[str, Any], judge: str, prompts: int | None = None
) -> dict[str, Any]:
    """Train once in this process and return the kept part of the summary; ``judge``: a reward model's folder."""
    from rlkit import GRPOTrainer, Run, load_model, tasks
    from rlkit.config import PPOConfig
    from rlkit.demo import demo_config
    from rlkit.trainers.ppo import PPOTrainer
    from rlkit.trainers.scorer import load_reward_model

    task = tasks.arithmetic()
    model, tokenizer = load_model(TINY)
    loaded = Peak().before
    funcs: list[Any] = list(task.reward_funcs)
    extra: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        if judge:
            reward = load_reward_model(judge)
            extra["value_model"] = reward  # a copy of it
            reward.model.requires_grad_(False)
            funcs = [reward]
        cpu = CpuClock()
        settings: dict[str, Any] = {
            "seed": seed,
            "max_steps": steps,
            "output_dir": f"{folder}/run",
            "per_device_train_batch_size": MICRO_BATCH,
            "fast_inference": False,
            "top_logprobs": 0,
            "probe_prompts": 0,
            "save_model": False,
            "save_samples": False,
            "disable_tqdm": True,
        }
        several = {"steps_per_generation": UPDATES} if arm == "grpo_4" else {}
        demo = demo_config(**settings, **several)
        trainer_class: Any = GRPOTrainer
        args: Any = demo
        if arm.startswith("ppo"):
            same = ("prompts_per_step", "num_generations", "max_completion_length", "lr_scheduler_type")
            settings |= {name: getattr(demo, name) for name in same} | PPO
            args = PPOConfig(**settings | {"kl_coef": KL if judge else 0.0} | override)
            trainer_class = PPOTrainer
        with trainer_class(
            model,
            funcs,
            args,
            task.train,
            task.rows("test", prompts),
            processing_class=tokenizer,
            callbacks=[cpu],
            verifier=task.verifier,
            **extra,
        ) as trainer:
            summary = trainer.train()
            lines = Run(trainer.run_dir).metrics
            held = held_bytes(trainer, funcs)
    highest = max(line[f"memory/{name}"] for line in lines for name in ("rollout", "score", "update"))  # GiB
    return {
        "arm": arm,
        **{name: summary[name] for name in KEPT},
        "completions": args.rows_per_step * steps,
        "updates": args.updates_per_rollout * steps,
        "learning_rate": args.learning_rate,
        "cpu_seconds": round(sum(cpu.seconds), 2),
        "cpu_seconds_a_step": round(median(cpu.seconds), 4),
        "clock_seconds": {
            name: round(sum(line.get(f"seconds/{name}") or 0.0 for line in lines), 2) for name in PHASES
        },
        "peak_mib": round(highest * 1024 - loaded / MIB, 1),
        "model_bytes": held,
        "accuracy_by_step": [round(line["accuracy"], 4) for line in lines],
        "kl_completion_last": lines[-1].get("kl_completion"),
    }


def train_reward_model(seed: int, judge: str, prompts: int | None = None) -> dict[str, Any]:
    """A reward model on a rater's preferences for right answers among the model's own; saved to ``judge``.

    ``prompts``: so many of each side only.
    """
    from rlkit import load_model, tasks
    from rlkit.config.reward_model import RewardModelConfig
    from rlkit.engines.answers import sampled_answers
    from rlkit.feedback import SyntheticRater, Taste
    from rlkit.trainers.reward_model import RewardModelTrainer

    task = tasks.arithmetic()
    model, tokenizer = load_model(TINY)
    start, cpu = time.perf_counter(), time.process_time()
    rater = SyntheticRater(Taste(correct=1.0, working=0.0, length=0.0), seed=seed)
    pairs, held_out = (
        rater.preferences(
            sampled_answers(
                model, tokenizer, task.rows(side, prompts), RATER["answers_each"], max_completion_length=4
            ),
            RATER["pairs_each"],
        )
        for side in ("train", "test")
    )
    settings = RewardModelConfig(
        output_dir=f"{judge}-run",
        seed=seed,
        rows_per_step=32,
        num_train_epochs=float(RATER["epochs"]),
        learning_rate=RATER["learning_rate"],
        center_rewards_coefficient=0.01,
        save_model=False,
        disable_tqdm=True,
    )
    with RewardModelTrainer(model, settings, pairs, held_out, processing_class=tokenizer) as trainer:
        summary = trainer.train()
        trainer.as_reward(normalise=True).save(judge)
    return {
        "reward_model_accuracy": summary["accuracy_after"],
        "reward_model_best_possible": round(rater.expected_accuracy(held_out), 4),
        "reward_model_pairs": len(pairs),
        "reward_model_held_out": len(held_out),
        "reward_model_cpu_seconds": round(time.process_time() - cpu, 2),
        "reward_model_clock_seconds": round(time.perf_counter() - start, 2),
    }


def held_bytes(trainer: Any, funcs: list[Any]) -> dict[str, dict[str, int]]:
    """What each model at work in a trainer holds, by its name."""
    policy = trainer.policy
    models = {"policy": model_bytes(trainer.model, policy.optimizer)}
    if policy.reference is not None:
        with policy.reference() as reference:
            models["reference"] = model_bytes(reference)
    if hasattr(policy, "values"):
        models["value"] = model_bytes(policy.values, policy.value_optimizer)
    if hasattr(funcs[0], "model"):
        models["reward"] = model_bytes(funcs[0].model)
    return models


def formula(arm: str, parameters: int, hidden: int, bits: int = 32) -> dict[str, dict[str, int]]:
    """The same for a model of so many weights, backbones with their embedding each."""
    models = {"policy": by_formula(parameters, True, bits)}
    if arm == "ppo_head":
        models["value"] = by_formula(hidden + 1, True)  # the head is float32
    if arm == "ppo_rlhf":
        models["reference"] = by_formula(parameters, False, bits)
        models["value"] = by_formula(parameters, True, bits)
        models["reward"] = by_formula(parameters, False, bits)
    return models


def summaries(folder: Path = RESULTS) -> dict[str, list[dict[str, Any]]]:
    """The runs in ``folder``: by arm, each by seed."""
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*-seed-*.json"))]
    arms = {arm: sorted((s for s in found if s["arm"] == arm), key=lambda s: s["seed"]) for arm in ARMS}
    return {arm: runs for arm, runs in arms.items() if runs}


def middle(runs: list[dict[str, Any]], name: str) -> float:
    """The median over the seeds."""
    return float(median(s[name] for s in runs))


def markdown_table(folder: Path = RESULTS) -> str:
    """The README's table: medians over the seeds, ratios against GRPO."""
    arms = summaries(folder)
    base = arms.get("grpo") or next(iter(arms.values()))
    lines = [
        "| arm | greedy accuracy | sampled accuracy | sampled tokens | CPU seconds a step "
        "| peak above the loaded model | weights, gradients, AdamW |",
        "|---|---|---|---|---|---|---|",
    ]
    for arm, runs in arms.items():
        cells = []
        for name in ("accuracy", "accuracy_sampled"):
            after = [s[f"{name}_after"] for s in runs]
            cells.append(
                f"{middle(runs, f'{name}_before'):.2f} → {median(after):.2f} ({min(after):.2f} to {max(after):.2f})"
            )
        cells.append(f"{middle(runs, 'tokens_sampled'):,.0f}")
        for name, unit, digits in (("cpu_seconds_a_step", "s", 2), ("peak_mib", "MiB", 0)):
            value = middle(runs, name)
            cells.append(f"{value:.{digits}f} {unit} (× {value / middle(base, name):.2f})")
        bytes_held, base_held = (total(found[0]["model_bytes"]) for found in (runs, base))
        cells.append(f"{bytes_held / 1e6:.1f} MB (× {bytes_held / base_held:.2f})")
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def memory_table() -> str:
    """What the models at work hold besides activations, by formula."""
    sizes = [
        (name, *size, bits) for name, size in SIZES.items() for bits in ((32,) if size[0] < 1e9 else (32, 16))
    ]
    titles = [
        f"{name}, {'float32' if bits == 32 else 'bfloat16 with float32 masters'}"
        for name, _, _, bits in sizes
    ]
    lines = ["| arm | " + " | ".join(titles) + " |", "|" + "---|" * (len(titles) + 1)]
    for arm in ARMS:
        cells = []
        for _, parameters, hidden, bits in sizes:
            held, base = (total(formula(name, parameters, hidden, bits)) for name in (arm, "grpo"))
            cells.append(f"{held / GIB:.3g} GiB (× {held / base:.2f})")
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def in_a_process(what: str, seed: int, args: argparse.Namespace, judge: str) -> dict[str, Any]:
    """One arm, or the reward model's training, in a fresh interpreter on one thread."""
    command = [sys.executable, "-m", "benchmarks.ppo", "--one", what, "--seeds", str(seed), "--judge", judge]
    command += ["--steps", str(args.steps), "--set", json.dumps(args.set)]
    command += ["--prompts", str(args.prompts)] if args.prompts else []
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    found = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False)
    if found.returncode:
        sys.exit(f"{what}, seed {seed}, failed:\n{found.stderr[-3000:]}")
    last: dict[str, Any] = json.loads(found.stdout.strip().splitlines()[-1])
    return last


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arms", nargs="*", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", type=int, nargs="*", default=list(range(5)))
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--quick", action="store_true", help="one seed, three steps, to a scratch folder")
    parser.add_argument(
        "--set", type=json.loads, default={}, help="PPOConfig settings, as JSON, for choosing them"
    )
    parser.add_argument("--one", metavar="ARM", help=argparse.SUPPRESS)
    parser.add_argument("--prompts", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--judge", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one == "reward_model":
        print(json.dumps(train_reward_model(args.seeds[0], args.judge, args.prompts)))
        return
    if args.one:
        print(json.dumps(run_one(args.one, args.seeds[0], args.steps, args.set, args.judge, args.prompts)))
        return
    if args.quick:
        args.seeds, args.steps, args.prompts = args.seeds[:1], 3, 40
        args.output = Path(tempfile.mkdtemp())
    args.output.mkdir(parents=True, exist_ok=True)
    for seed in args.seeds:
        for arm in args.arms:
            with tempfile.TemporaryDirectory() as folder:
                judge = f"{folder}/judge" if arm == "ppo_rlhf" else ""
                before = in_a_process("reward_model", seed, args, judge) if judge else {}
                s = in_a_process(arm, seed, args, judge) | before
            (args.output / f"{arm}-seed-{seed}.json").write_text(json.dumps(s) + "\n")
            judged = f", reward model {s['reward_model_accuracy']:.3f}" if judge else ""
            print(
                f"{arm}, seed {seed}: greedy {s['accuracy_before']:.3f} → {s['accuracy_after']:.3f}, sampled "
                f"{s['accuracy_sampled_before']:.3f} → {s['accuracy_sampled_after']:.3f}, "
                f"{s['tokens_sampled']} tokens, {s['cpu_seconds']:.0f} s of CPU, {s['peak_mib']:.0f} MiB{judged}",
                flush=True,
            )
    print(markdown_table(args.output))
    print(memory_table())
    print(f"written to {args.output}")


if __name__ == "__main__":
    main()
