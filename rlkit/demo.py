"""``rlkit demo``: a model that usually errs, and two minutes of GRPO.

The model is the embedded one. It has read a popular misconception (sums whose carry is forgotten) more often
than the truth, so the likeliest answer is often wrong although the right one is in its distribution. GRPO only
ever says which of its own answers were good.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rlkit import rewards, tasks
from rlkit.config import GRPOConfig
from rlkit.runs import Run
from rlkit.runs.report import headline
from rlkit.tasks.arithmetic import forgotten_carry, needs_carry

MODEL = "rlkit/tiny-arithmetic"
SHOWN = 8  # problems in the table


def demo_config(**settings: Any) -> GRPOConfig:
    """The demo's settings; ``settings`` override them."""
    defaults: dict[str, Any] = {
        "loss_type": "dr_grpo",
        "learning_rate": 5e-5,
        "lr_scheduler_type": "constant",
        "max_steps": 80,
        "prompts_per_step": 16,
        "num_generations": 16,
        "per_device_train_batch_size": 256,
        "max_completion_length": 4,
        "output_dir": "runs/demo",
        "seed": 0,
    }
    return GRPOConfig(**{**defaults, **settings})


def run_demo(
    seed: int = 0, output_dir: str = "runs/demo", fast_inference: bool | None = None
) -> dict[str, Any]:
    """Train the embedded model, show what happened, and return the run's summary."""
    from rlkit.engines.make import check_engine
    from rlkit.models import load_model
    from rlkit.trainers.grpo import GRPOTrainer

    check_engine(fast_inference)
    console = Console()
    task = tasks.arithmetic()
    args = demo_config(seed=seed, output_dir=output_dir, fast_inference=fast_inference)
    console.print(
        f"[bold]{MODEL}[/] stands in for a pretrained model: 0.8 M parameters, fed with sums in which the carry "
        "is mostly forgotten.\nGRPO samples 16 answers to each question, scores them, and makes the better ones "
        "likelier.\n"
    )
    console.print("loading the model and starting the engine (10 to 30 s) …")
    model, tokenizer = load_model(MODEL)
    with GRPOTrainer(
        model=model,
        processing_class=tokenizer,
        reward_funcs=[rewards.number_found, rewards.correct_number],
        args=args,
        train_dataset=task.train,
        eval_dataset=task.test,
    ) as trainer:
        if not trainer.engine.name.startswith("vLLM"):
            console.print("vLLM is not used here; generation runs on transformers, and learns the same.")
        summary = trainer.train()
        report = trainer.report()
    run = Run(output_dir)
    if len(run.evals) > 1:
        console.print(before_after_table(run))
    for line in what_happened(run):
        console.print(f"• {escape(line)}", highlight=False)
    console.print(f"\nsamples, metrics and configuration: {escape(str(Path(output_dir)))}")
    console.print(f"the whole run on one page:           {escape(str(report))}\n")
    print(headline(summary))
    return summary


def before_after_table(run: Run) -> Table:
    """Sampled answers to the same held-out problems before and after training, with each reward."""
    first, last = run.evals[0]["step"], run.evals[-1]["step"]
    before, after = (run.eval_samples(step, "sampled") for step in (first, last))
    names = run.reward_names
    table = Table(title="Sampled answers to held-out problems")
    table.add_column("problem", justify="right")
    for when in ("before", f"after {last} steps"):
        table.add_column(when)
        for name in names:
            table.add_column(name.replace("_", " "), justify="right")
    seen = 0
    for old, new in zip(before, after, strict=True):
        if old["completion_index"] or seen == SHOWN:  # the first sample of each problem
            continue
        seen += 1
        cells: list[str] = []
        for row in (old, new):
            mark = "[green]✓[/]" if row["correct"] else "[red]✗[/]"
            cells += [
                f"{escape(row['completion'])} {mark}",
                *(f"{row[f'reward/{name}']:+g}" for name in names),
            ]
        table.add_row(escape(old["prompt"]), *cells)
    return table


def what_happened(run: Run) -> list[str]:
    """The run in words: what was wrong before, what is wrong now, and what the numbers mean."""
    lines: list[str] = []
    for evaluation, when in (
        ((run.evals[0], "Before"), (run.evals[-1], "After")) if len(run.evals) > 1 else ()
    ):
        rows = run.eval_samples(evaluation["step"], "greedy")
        errors = Counter(_kind_of_error(row) for row in rows if not row["correct"])
        wrong = sum(errors.values())
        lines.append(
            f"{when}: {len(rows) - wrong} of {len(rows)} held-out problems right, greedily"
            + (f"; {errors['carry']} of the {wrong} errors forget the carry." if wrong else ".")
        )
    steps = run.metrics
    if steps:
        start, end = steps[0], steps[-1]
        lines.append(
            f"At step 1, {start['accuracy']:.0%} of the sampled answers were right: luck, and enough of it. "
            f"By step {end['step']} it was {end['accuracy']:.0%}. Nobody showed the model a right answer; it was "
            "only told which of its own answers were good."
        )
        lines.append(
            "Groups whose answers all earned the same teach nothing (advantage 0): "
            f"{_dead(steps[:10]):.0%} of the groups in the first ten steps, {_dead(steps[-10:]):.0%} in the last ten. "
            "Where a problem is always answered right, nothing is left to learn."
        )
    return lines + [str(diagnosis) for diagnosis in run.diagnose()]


def _dead(steps: list[dict[str, Any]]) -> float:
    return sum(metrics["dead_groups"] for metrics in steps) / len(steps)


def _kind_of_error(row: dict[str, Any]) -> str:
    left, _, right = row["prompt"].rstrip("=").partition("+")
    a, b = int(left), int(right)
    return "carry" if needs_carry(a, b) and row["completion"] == str(forgotten_carry(a, b)) else "other"
