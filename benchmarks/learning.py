"""Does it learn? The demo on several seeds, and the control whose rewards are shuffled.

Each seed is a process of its own that runs ``rlkit demo``'s settings on vLLM. The control gives every completion
the reward of another completion of the same batch: everything is as before but for the link between answer and
reward, so held-out accuracy must not rise. Summaries go to ``benchmarks/results/learning/``, from where the
README's table is written.

    python -m benchmarks.learning [--seeds 0 1 2 …] [--control-seeds 0 1 2 …] [--output DIR] [--quick]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "learning"
KEPT = (
    "status",
    "steps",
    "seed",
    "train_seconds",
    "tokens_sampled",
    "eval_n",
    "accuracy_before",
    "accuracy_after",
    "accuracy_sampled_before",
    "accuracy_sampled_after",
    "engine",
    "weight_sync",
    "device",
    "versions",
)


def run_one(seed: int, shuffled: bool, steps: int | None) -> dict[str, Any]:
    """Train once in this process and return the kept part of the summary."""
    from rlkit import GRPOTrainer, Run, load_model, rewards, tasks
    from rlkit.demo import MODEL, demo_config
    from rlkit.objectives import Advantages
    from rlkit.rollout import Rewards

    class ShuffledRewards(GRPOTrainer):
        """The control: rewards change hands within the batch before advantages are formed."""

        def advantages(self, given: Rewards) -> Advantages:
            import torch

            generator = torch.Generator().manual_seed(self.args.seed * 1000 + self.step_index)
            order = torch.randperm(given.total.numel(), generator=generator)
            given.total = given.total.flatten()[order].reshape(given.total.shape)
            return super().advantages(given)

    task = tasks.arithmetic()
    model, tokenizer = load_model(MODEL)
    settings: dict[str, Any] = {"max_steps": steps} if steps else {}
    with tempfile.TemporaryDirectory() as folder:
        args = demo_config(
            seed=seed, output_dir=f"{folder}/run", fast_inference=True, disable_tqdm=True, **settings
        )
        trainer_class = ShuffledRewards if shuffled else GRPOTrainer
        with trainer_class(
            model,
            [rewards.number_found, rewards.correct_number],
            args,
            task.train,
            task.test,
            processing_class=tokenizer,
        ) as trainer:
            summary = trainer.train()
            by_step = [round(metrics["accuracy"], 4) for metrics in Run(trainer.run_dir).metrics]
    kept = {name: summary[name] for name in KEPT}
    return {"rewards": "shuffled" if shuffled else "true", **kept, "accuracy_by_step": by_step}


def markdown_table(folder: Path = RESULTS) -> str:
    """The README's table, from the summaries in ``folder``."""
    lines = [
        "| rewards | seed | greedy accuracy | sampled accuracy | steps | training |",
        "|---|---|---|---|---|---|",
    ]
    for path in sorted(folder.glob("*.json"), key=lambda path: ("control" in path.name, path.name)):
        s = json.loads(path.read_text())
        lines.append(
            f"| {s['rewards']} | {s['seed']} | {s['accuracy_before']:.2f} → {s['accuracy_after']:.2f} | "
            f"{s['accuracy_sampled_before']:.2f} → {s['accuracy_sampled_after']:.2f} | {s['steps']} | "
            f"{s['train_seconds']:.0f} s |"
        )
    return "\n".join(lines)


def draw(folder: Path = RESULTS) -> Path:
    """``accuracy.svg``: share of right answers among those sampled at each step, one line a run."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt
    import numpy as np

    figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
    ends: dict[str, list[float]] = {}
    for path in sorted(folder.glob("*.json")):
        s = json.loads(path.read_text())
        smooth = np.convolve(s["accuracy_by_step"], np.ones(5) / 5, mode="valid")  # a step is 256 answers
        control = s["rewards"] == "shuffled"
        style: dict[str, Any] = {"color": "#D55E00", "linestyle": "--"} if control else {"color": "#0072B2"}
        axes.plot(np.arange(len(smooth)) + 3, smooth, linewidth=1.5, alpha=0.8, **style)
        ends.setdefault(s["rewards"], []).append(smooth[-1])
    for kind, values in ends.items():
        text = f"{'shuffled' if kind == 'shuffled' else 'true'} rewards,\n{len(values)} seeds"
        axes.annotate(text, (len(smooth) + 4, sum(values) / len(values)), fontsize=9, va="center")
    axes.set_xlabel("GRPO step (mean of 5)")
    axes.set_ylabel("right among sampled answers")
    axes.set_ylim(0, 1)
    axes.set_xlim(0, len(smooth) + 18)
    axes.spines[["top", "right"]].set_visible(False)
    target = folder / "accuracy.svg"
    plt.rcParams["svg.hashsalt"] = "rlkit"  # the same runs give the same file
    figure.savefig(target, metadata={"Date": None}, facecolor="white")
    return target


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="*", default=list(range(8)))
    parser.add_argument("--control-seeds", type=int, nargs="*", default=list(range(10)))
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument(
        "--quick", action="store_true", help="one seed of each, five steps, to a scratch folder"
    )
    parser.add_argument("--one", type=int, metavar="SEED", help=argparse.SUPPRESS)
    parser.add_argument("--shuffled", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one is not None:
        print(json.dumps(run_one(args.one, args.shuffled, args.steps)))
        return
    if args.quick:
        args.seeds, args.control_seeds, args.steps = [0], [0], 5
        args.output = Path(tempfile.mkdtemp())
    args.output.mkdir(parents=True, exist_ok=True)
    for shuffled, seeds in ((False, args.seeds), (True, args.control_seeds)):
        for seed in seeds:
            command = [sys.executable, "-m", "benchmarks.learning", "--one", str(seed)]
            command += ["--shuffled"] * shuffled + (["--steps", str(args.steps)] if args.steps else [])
            found = subprocess.run(command, capture_output=True, text=True, check=False)
            if found.returncode:
                sys.exit(f"seed {seed} failed:\n{found.stderr[-3000:]}")
            summary = json.loads(found.stdout.strip().splitlines()[-1])
            name = f"{'control-' if shuffled else ''}seed-{seed}.json"
            (args.output / name).write_text(json.dumps(summary, indent=2) + "\n")
            print(
                f"{name}: {summary['accuracy_before']:.3f} → {summary['accuracy_after']:.3f} "
                f"in {summary['train_seconds']:.1f} s",
                flush=True,
            )
    print(markdown_table(args.output))
    print(draw(args.output))


if __name__ == "__main__":
    main()
