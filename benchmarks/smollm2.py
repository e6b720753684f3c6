"""GRPO on a real model: SmolLM2-135M-Instruct on word problems, LoRA and full fine-tuning, three seeds each.

Every run is a process of its own. What the model can do before training is part of what is reported: p(right) of
the held-out problems, greedy and sampled. Summaries go to ``benchmarks/results/smollm2/``, from where the
README's table is written.

    rlkit fetch smollm2
    python -m benchmarks.smollm2 [--modes lora full] [--seeds 0 1 2] [--engine vllm|hf] [--at-once 1] [--quick]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks.learning import KEPT

RESULTS = Path(__file__).parent / "results" / "smollm2"
LEARNING_RATES = {"lora": 3e-4, "full": 1e-5}
STEPS = 40


def run_one(args: argparse.Namespace) -> dict[str, Any]:
    """Train once in this process and return the kept part of the summary."""
    from rlkit import GRPOConfig, GRPOTrainer, Run, add_lora, load_model, tasks

    task = tasks.word_problems()
    model, tokenizer = load_model(args.model, dtype="float32")
    if args.mode == "lora":
        model = add_lora(model, r=16, lora_alpha=32, seed=args.seed)
    with tempfile.TemporaryDirectory() as folder:
        settings = GRPOConfig(
            output_dir=f"{folder}/run",
            seed=args.seed,
            max_steps=args.steps,
            prompts_per_step=8,
            num_generations=16,
            max_completion_length=40,
            micro_batch_tokens=4096,
            loss_type="dr_grpo",
            scale_rewards="none",
            learning_rate=args.learning_rate or LEARNING_RATES[args.mode],
            lr_scheduler_type="constant_with_warmup",
            warmup_steps=5,
            fast_inference=args.engine == "vllm",
            num_generations_eval=8,
            save_model=False,
            save_samples=False,
            top_logprobs=0,
            disable_tqdm=not args.verbose,
        )
        trainer = GRPOTrainer(
            model,
            list(task.reward_funcs),
            settings,
            task.train,
            task.test,
            processing_class=tokenizer,
            verifier=task.verifier,
        )
        with trainer:
            summary = trainer.train()
            metrics = Run(trainer.run_dir).metrics
    curves = {
        name: [round(line[name], 4) for line in metrics]
        for name in ("accuracy", "reward", "completion_length", "truncated", "dead_groups", "entropy")
    }
    rewards = [f"reward{kind}_{when}" for kind in ("", "_sampled") for when in ("before", "after")]
    kept = {name: summary[name] for name in (*KEPT, *rewards)}
    setup = {
        "model": "SmolLM2-135M-Instruct",
        "task": task.name,
        "mode": args.mode,
        "learning_rate": settings.learning_rate,
        "rows_per_step": settings.rows_per_step,
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }
    seconds = sorted(line["seconds/step"] for line in metrics)[len(metrics) // 2]
    return {**setup, **kept, "median_step_seconds": round(seconds, 3), "by_step": curves}


def summaries(folder: Path = RESULTS) -> list[dict[str, Any]]:
    """All runs in ``folder``, by mode and seed."""
    found = [json.loads(path.read_text()) for path in folder.glob("*.json")]
    return sorted(found, key=lambda s: (s["mode"], s["seed"]))


def markdown_table(folder: Path = RESULTS) -> str:
    """The README's table: every run, and mean ± standard deviation over the seeds."""
    lines = [
        "| training | seed | greedy accuracy | sampled accuracy | mean reward, sampled | a step (median) |",
        "|---|---|---|---|---|---|",
    ]
    runs = summaries(folder)
    for mode in sorted({s["mode"] for s in runs}):
        mine = [s for s in runs if s["mode"] == mode]
        pairs: dict[str, list[tuple[float, float]]] = {}
        for s in mine:
            cells = []
            for name in ("accuracy", "accuracy_sampled", "reward_sampled"):
                before, after = (_value(s, name, when) for when in ("before", "after"))
                pairs.setdefault(name, []).append((before, after))
                cells.append(f"{before:.2f} → {after:.2f}")
            lines.append(f"| {mode} | {s['seed']} | {' | '.join(cells)} | {s['median_step_seconds']:.1f} s |")
        if len(mine) > 1:
            cells = []
            for found in pairs.values():
                after = [a for _, a in found]
                cells.append(f"{mean(b for b, _ in found):.2f} → **{mean(after):.2f} ± {stdev(after):.2f}**")
            lines.append(f"| {mode} | mean of {len(mine)} | {' | '.join(cells)} | |")
    return "\n".join(lines)


def _value(summary: dict[str, Any], name: str, when: str) -> float:
    return summary[f"{name}_{when}"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--modes", nargs="*", choices=list(LEARNING_RATES), default=list(LEARNING_RATES))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--learning-rate", type=float, help="default: 3e-4 for LoRA, 1e-5 for full")
    parser.add_argument("--engine", choices=("vllm", "hf"), default="vllm")
    parser.add_argument("--at-once", type=int, default=1, help="runs side by side (a large GPU takes six)")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--quick", action="store_true", help="one seed, two steps, to a scratch folder")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--one", metavar="MODE", dest="mode", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.mode:
        print(json.dumps(run_one(args)))
        return
    if args.quick:
        args.seeds, args.steps, args.output = [0], 2, Path(tempfile.mkdtemp())
    args.output.mkdir(parents=True, exist_ok=True)
    wanted = [(mode, seed) for mode in args.modes for seed in args.seeds]
    running: list[tuple[str, subprocess.Popen[str]]] = []
    failed = []
    while wanted or running:
        while wanted and len(running) < args.at_once:
            mode, seed = wanted.pop(0)
            command = [sys.executable, "-m", "benchmarks.smollm2", "--one", mode, "--seed", str(seed)]
            command += ["--engine", args.engine, "--steps", str(args.steps), "--model", args.model]
            command += ["--learning-rate", str(args.learning_rate)] if args.learning_rate else []
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            running.append((f"{mode}-seed-{seed}", process))
        name, process = running.pop(0)
        out, err = process.communicate()
        if process.returncode:
            failed.append(name)
            print(f"{name} failed:\n{err[-3000:]}", file=sys.stderr, flush=True)
            continue
        summary = json.loads(out.strip().splitlines()[-1])
        (args.output / f"{name}.json").write_text(json.dumps(summary, indent=1) + "\n")
        print(
            f"{name}: greedy {summary['accuracy_before']:.3f} → {summary['accuracy_after']:.3f}, sampled "
            f"{summary['accuracy_sampled_before']:.3f} → {summary['accuracy_sampled_after']:.3f}, "
            f"{summary['median_step_seconds']:.2f} s a step",
            flush=True,
        )
    print(markdown_table(args.output))
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
