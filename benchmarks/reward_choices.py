"""What is paid for decides what is learned: two comparisons on the embedded model, three seeds each.

    python -m benchmarks.reward_choices [--only proximity|warm_start] [--seeds 0 1 2] [--output DIR] [--quick]

**proximity**: closeness against exactness on the same sums. Each arm is paid by one reward and watched by the other
(weight 0). "usual" is the demo, whose model is right two times in three; "wide" has operands up to 99, of which the
model has read those below 50 only: it is right one time in five, and in four groups of five all answers are wrong
(or all right), so that an exact reward is silent. "unscaled" is "wide" with ``scale_rewards="none"``: the others divide
a group's advantages by its spread, and so make a small difference between two wrong answers as loud as right and wrong.

**warm_start**: the answer must stand in markers, ``[42]`` and nothing else: 1 for that, ±3 for a right number between
them. The tiny model reads no instructions, so that only luck or demonstrations can tell it. Three starts, the same
GRPO: "none" is the embedded model, which never writes a bracket; "rare" has seen the format in one demonstration of
twenty and finds it now and then, as a large model does with a format that it was asked for; "warm" has seen nothing
else. All demonstrations hold the model's own sampled answers, right or wrong: they teach form only, and the share of
right numbers wherever they stand ("right anywhere", which is not paid) says whether that is so.

Every run is a process of its own, with transformers' engine: it starts at once. Summaries and a picture of each
comparison go to ``benchmarks/results/reward_choices/``.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.learning import KEPT

RESULTS = Path(__file__).parent / "results" / "reward_choices"
SUMS = ("usual", "wide", "unscaled")
ARMS = {
    "proximity": tuple(f"{sums}-{paid}" for sums in SUMS for paid in ("exact", "proximity")),
    "warm_start": ("none", "rare", "warm"),
}
WIDE: dict[str, Any] = {"max_operand": 99, "test_share": 0.05}
WIDE_SETTINGS = {"max_steps": 120, "learning_rate": 1e-4}  # further to go than in the demo

MARKERS = ("[", "]")  # one token each
RARE_SHARE = 0.05
WARM_START: dict[str, Any] = {"max_steps": 200, "rows_per_step": 64, "learning_rate": 1e-3}
ANSWERS_EACH = 4  # sampled to each problem, for the demonstrations
FORMAT_SETTINGS = {"max_completion_length": 6}  # [42] and the end token: 5

SMOOTH = 5  # steps; a step is 256 completions


def run_proximity(arm: str, seed: int, **settings: Any) -> dict[str, Any]:
    """One run that is paid by "exact" or "proximity", on "usual" or "wide" sums, these also "unscaled"."""
    from rlkit import load_model, rewards, tasks
    from rlkit.demo import MODEL

    sums, paid = arm.split("-")
    task = tasks.arithmetic(**({} if sums == "usual" else WIDE))
    model, tokenizer = load_model(MODEL)
    assert task.verifier is not None
    exact = rewards.reward_from(task.verifier, right=1.0, wrong=0.0, name="exact")
    funcs = [exact, rewards.proximity()]
    weights = [1.0, 0.0] if paid == "exact" else [0.0, 1.0]
    unscaled = {"scale_rewards": "none"} if sums == "unscaled" else {}
    settings = {**({} if sums == "usual" else WIDE_SETTINGS), **unscaled, **settings}
    return train(model, tokenizer, task, funcs, weights, task.verifier, seed, settings)


def run_warm_start(arm: str, seed: int, **settings: Any) -> dict[str, Any]:
    """One run from the start "none", "rare" or "warm", all paid for the format and for the answer in it."""
    from rlkit import load_model, rewards, tasks
    from rlkit.demo import MODEL
    from rlkit.rewards.text import completion_text

    task = tasks.arithmetic()
    model, tokenizer = load_model(MODEL)
    shown = {"none": None, "rare": RARE_SHARE, "warm": 1.0}[arm]
    warm = {} if shown is None else warm_start(model, tokenizer, task.rows("train"), shown, seed)
    template = rewards.ReasoningTemplate(
        solution=MARKERS
    )  # its answer markers only: this model has no working

    def well_formed(completion: Any) -> bool:
        solution = template.solution_in(completion)
        return solution is not None and completion_text(completion) == solution.join(MARKERS)

    answer: Any = template.number_reward()
    assert task.verifier is not None
    anywhere = rewards.reward_from(task.verifier, name="right_anywhere")
    funcs, weights = [rewards.reward_from(well_formed), answer, anywhere], [1.0, 1.0, 0.0]
    settings = {**FORMAT_SETTINGS, **settings}
    return {**warm, **train(model, tokenizer, task, funcs, weights, answer.verifier, seed, settings)}


def warm_start(
    model: Any, tokenizer: Any, rows: list[dict[str, Any]], shown: float, seed: int
) -> dict[str, Any]:
    """Fine-tune on the model's own sampled answers, a share of which, ``shown``, is written in the format."""
    import torch

    from rlkit import SFTConfig, SFTTrainer
    from rlkit.rewards.numbers import last_number

    rows = rows * ANSWERS_EACH
    batch = tokenizer([row["prompt"] for row in rows], return_tensors="pt", padding=True)  # [N, T], left
    torch.manual_seed(seed)
    said = model.generate(**batch, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=4)
    answers = tokenizer.batch_decode(said[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    rng = random.Random(seed)
    demonstrations, right = [], 0
    for row, answer in zip(rows, answers, strict=True):
        if last_number(answer) is None:  # one that ended at once
            continue
        right += answer == row["answer"]
        text = answer.join(MARKERS) if rng.random() < shown else answer
        demonstrations.append({"prompt": row["prompt"], "completion": text})
    with tempfile.TemporaryDirectory() as folder:
        args = SFTConfig(output_dir=folder, seed=seed, save_model=False, disable_tqdm=True, **WARM_START)
        summary = SFTTrainer(model, args, demonstrations, processing_class=tokenizer).train()
    return {
        "demonstrations": len(demonstrations),
        "demonstrations_right": round(right / len(demonstrations), 4),
        "demonstrations_in_format": shown,
        "warm_start_steps": summary["steps"],
    }


def train(
    model: Any,
    tokenizer: Any,
    task: Any,
    funcs: list[Any],
    weights: list[float],
    verifier: Any,
    seed: int,
    settings: Any,
) -> dict[str, Any]:
    """The demo's GRPO with these rewards, and what is kept of it: results, curves, held-out means of each reward."""
    from rlkit import GRPOTrainer, Run
    from rlkit.demo import demo_config

    with tempfile.TemporaryDirectory() as folder:
        args = demo_config(
            seed=seed,
            output_dir=f"{folder}/run",
            fast_inference=False,
            reward_weights=weights,
            top_logprobs=0,
            save_model=False,
            disable_tqdm=True,
            **settings,
        )
        with GRPOTrainer(
            model, funcs, args, task.train, task.test, processing_class=tokenizer, verifier=verifier
        ) as trainer:
            summary = trainer.train()
            run = Run(trainer.run_dir)
        names = run.reward_names
        held_out = {
            when: {
                name: round(mean(row[f"reward/{name}"] for row in run.eval_samples(at["step"], "sampled")), 4)
                for name in names
            }
            for when, at in (("before", run.evals[0]), ("after", run.evals[-1]))
        }
        columns = {name: name for name in ("accuracy", "dead_groups")}
        columns |= {f"rewards/{name}": name for name in names}
        by_step = {name: [round(line[key], 4) for line in run.metrics] for key, name in columns.items()}
    kept = {name: summary[name] for name in KEPT}
    return {
        "task": task.name,
        "learning_rate": args.learning_rate,
        "scale_rewards": args.scale_rewards,
        "paid": dict(zip(names, weights, strict=True)),
        **kept,
        "held_out_sampled": held_out,
        "by_step": by_step,
    }


RUN = {"proximity": run_proximity, "warm_start": run_warm_start}


def summaries(comparison: str, folder: Path = RESULTS) -> dict[str, list[dict[str, Any]]]:
    """The runs of a comparison in ``folder``: by arm, each by seed."""
    found = [json.loads(path.read_text()) for path in sorted(folder.glob(f"{comparison}-*.json"))]
    arms = {arm: [s for s in found if s["arm"] == arm] for arm in ARMS[comparison]}
    return {arm: sorted(runs, key=lambda s: s["seed"]) for arm, runs in arms.items() if runs}


def smooth(values: list[float]) -> list[float]:
    """Means of `SMOOTH` steps: entry k is that of the steps k + 1 to k + `SMOOTH`."""
    return [mean(values[k : k + SMOOTH]) for k in range(len(values) - SMOOTH + 1)]


def reached(values: list[float], share: float) -> int | None:
    """The step at which the mean of the last `SMOOTH` steps first reaches ``share``; None: never."""
    return next((k + SMOOTH for k, value in enumerate(smooth(values)) if value >= share), None)


def markdown_table(comparison: str, folder: Path = RESULTS) -> str:
    """One row a run, from the summaries in ``folder``."""
    lines = [_row(TITLES[comparison]), "|" + "---|" * len(TITLES[comparison])]
    for arm, runs in summaries(comparison, folder).items():
        lines += [_row([arm, str(s["seed"]), *_cells(comparison, s)]) for s in runs]
    return "\n".join(lines)


SHARES = (0.75, 0.85)
TITLES = {
    "proximity": (
        "sums, paid",
        "seed",
        "greedy accuracy",
        "sampled accuracy",
        "sampled closeness",
        *(f"step that reaches {share:g}" for share in SHARES),
        "dead groups",
    ),
    "warm_start": (
        "start",
        "seed",
        "in the format",
        "right anywhere",
        "right in the format",
        "step with half in the format",
        "lowest right anywhere",
    ),
}


def _cells(comparison: str, s: dict[str, Any]) -> list[str]:
    """What a run's row says, after arm and seed."""
    curves, (before, after) = s["by_step"], s["held_out_sampled"].values()

    def held_out(name: str) -> str:
        return f"{before[name]:.2f} → {after[name]:.2f}"

    if comparison == "proximity":
        steps = [reached(curves["accuracy"], share) for share in SHARES]
        return [
            f"{s['accuracy_before']:.2f} → {s['accuracy_after']:.2f}",
            f"{s['accuracy_sampled_before']:.2f} → {s['accuracy_sampled_after']:.2f}",
            held_out("proximity_ratio"),
            *("never" if step is None else str(step) for step in steps),
            f"{mean(curves['dead_groups']):.0%}",
        ]
    formed, lowest = reached(curves["well_formed"], 0.5), min(smooth(curves["right_anywhere"]))
    in_format = f"{s['accuracy_sampled_before']:.2f} → {s['accuracy_sampled_after']:.2f}"
    names = [held_out(name) for name in ("well_formed", "right_anywhere")]
    return [*names, in_format, "never" if formed is None else str(formed), f"{lowest:.2f}"]


def _row(cells: Any) -> str:
    return "| " + " | ".join(cells) + " |"


PANELS = {
    "proximity": (
        ("usual sums: right", "accuracy", "usual"),
        ("wide sums: right", "accuracy", "wide"),
        ("wide, advantages unscaled: right", "accuracy", "unscaled"),
    ),
    "warm_start": (
        ("in the format", "well_formed", ""),
        ("right anywhere", "right_anywhere", ""),
        ("right in the format", "accuracy", ""),
    ),
}
COLOURS = {  # distinct without colour vision; the lines differ in their dashes too
    "exact": ("#0072B2", "-"),
    "proximity": ("#D55E00", "--"),
    "warm": ("#0072B2", "-"),
    "rare": ("#D55E00", "--"),
    "none": ("#555555", ":"),
}


def draw(comparison: str, folder: Path = RESULTS) -> Path:
    """``<comparison>.svg``: means of `SMOOTH` steps, one line a run."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "rlkit"  # the same runs give the same file
    panels = PANELS[comparison]
    figure, grid = plt.subplots(1, len(panels), figsize=(3.3 * len(panels), 2.9), layout="constrained")
    for axes, (title, column, situation) in zip(grid, panels, strict=True):
        for arm, runs in summaries(comparison, folder).items():
            if situation not in arm:
                continue
            kind = arm.removeprefix(f"{situation}-")
            colour, dashes = COLOURS[kind]
            for i, s in enumerate(runs):
                values = smooth(s["by_step"][column])
                steps = range(SMOOTH, SMOOTH + len(values))
                label = "_" * (i > 0) + kind  # matplotlib leaves "_…" out of the legend
                axes.plot(steps, values, color=colour, linestyle=dashes, linewidth=1.3, label=label)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel(f"GRPO step (mean of {SMOOTH})")
        axes.set_ylim(0, 1.02)
        axes.spines[["top", "right"]].set_visible(False)
    grid[0].legend(frameon=False, fontsize=9)
    target = folder / f"{comparison}.svg"
    figure.savefig(target, metadata={"Date": None}, facecolor="white")
    plt.close(figure)
    return target


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=list(ARMS), help="one comparison; default: both")
    parser.add_argument("--arms", nargs="*", help="some arms of it; default: all")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--quick", action="store_true", help="one seed, six steps, to a scratch folder")
    parser.add_argument("--one", metavar="ARM", help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.arms and not (args.only and set(args.arms) <= set(ARMS[args.only])):
        parser.error(f"--arms takes some of one comparison's, with --only: {ARMS}")
    if args.one:
        settings = {"max_steps": args.steps} if args.steps else {}
        print(json.dumps(RUN[args.only](args.one, args.seeds[0], **settings)))
        return
    if args.quick:
        args.seeds, args.steps, args.output = args.seeds[:1], 6, Path(tempfile.mkdtemp())
    args.output.mkdir(parents=True, exist_ok=True)
    for comparison in [args.only] if args.only else list(ARMS):
        for arm in args.arms or ARMS[comparison]:
            for seed in args.seeds:
                command = [sys.executable, "-m", "benchmarks.reward_choices", "--only", comparison]
                command += ["--one", arm, "--seeds", str(seed)]
                command += ["--steps", str(args.steps)] if args.steps else []
                found = subprocess.run(command, capture_output=True, text=True, check=False)
                if found.returncode:
                    sys.exit(f"{comparison} {arm}, seed {seed}, failed:\n{found.stderr[-3000:]}")
                s = {
                    "comparison": comparison,
                    "arm": arm,
                    **json.loads(found.stdout.strip().splitlines()[-1]),
                }
                name = f"{comparison}-{arm}-seed-{seed}.json"
                (args.output / name).write_text(json.dumps(s) + "\n")
                print(f"{name}: {', '.join(_cells(comparison, s))}", flush=True)
        print(markdown_table(comparison, args.output))
        print(draw(comparison, args.output), flush=True)


if __name__ == "__main__":
    main()
