"""RLHF end to end, and what becomes of it without a KL term: two arms on "rlkit/tiny-styles", five seeds each.

    python -m benchmarks.rlhf [--arms kl free] [--seeds 0 1 2 3 4] [--output DIR] [--quick]

**kl** is ``rlkit demo --rlhf``, evaluated more often: preferences of a synthetic rater, a reward model (the *proxy*),
PPO with a KL term. Does the reward model predict the rater's held-out verdicts as well as the taste itself does? Does
the *true* taste, which PPO never sees, rise on held-out prompts?

**free** is the same with ``kl_coef=0``, on the very same reward model: the experiment on over-optimisation (Gao,
Schulman and Hilton 2022, arXiv:2210.10760). Does the proxy go on rising while the taste falls?

All numbers are of answers sampled at temperature 1 to the task's 168 held-out prompts. The proxy is in standard
deviations over its training pairs, the KL in nats a completion, from the model that PPO began with. The settings were
chosen on seeds from 10; 0 to 4 were then run once. Every seed is a process of its own, on one thread; ``cpu_seconds``
are its processor time, which other programs on the machine disturb less than the clock's.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any

from rlkit.demo_rlhf import NOISE

RESULTS = Path(__file__).parent / "results" / "rlhf"
ARMS: dict[str, dict[str, Any]] = {"kl": {}, "free": {"kl_coef": 0.0}}
NAME = "overoptimisation.svg"
EVERY = 5  # steps from one evaluation to the next


def run_one(
    arms: list[str],
    seed: int,
    noise: float = NOISE,
    reward_model: dict[str, Any] | None = None,
    **settings: Any,
) -> list[dict[str, Any]]:
    """One seed: a rater and its reward model, then PPO once for each arm."""
    from rlkit.demo_rlhf import learn_proxy, make_rater, ppo_config, reward_model_config, train_policy
    from rlkit.environment import device_name, versions

    rater = make_rater(seed, noise)
    common: dict[str, Any] = {"seed": seed, "disable_tqdm": True, "save_model": False}
    found = []
    with tempfile.TemporaryDirectory() as folder:
        args = reward_model_config(output_dir=f"{folder}/reward_model", **{**common, **(reward_model or {})})
        proxy, learned = learn_proxy(rater, args)
        for arm in arms:
            given = {**common, "eval_steps": EVERY, **settings, **ARMS[arm]}
            trained = train_policy(proxy, rater.taste, ppo_config(output_dir=f"{folder}/{arm}", **given))
            times = {name: {**learned[name], **trained[name]} for name in ("seconds", "cpu_seconds")}
            found.append({"arm": arm, "seed": seed, **learned, **trained, **times})
    about = {"device": device_name("cpu"), "threads": os.environ["OMP_NUM_THREADS"], "versions": versions()}
    return [{**summary, **about} for summary in found]


def summaries(arm: str, folder: Path = RESULTS) -> list[dict[str, Any]]:
    """The runs of an arm in ``folder``, by seed."""
    found = [json.loads(path.read_text()) for path in folder.glob(f"{arm}-seed-*.json")]
    return sorted(found, key=lambda s: s["seed"])


def peak(s: dict[str, Any]) -> dict[str, Any]:
    """The evaluation of a run that has the highest taste."""
    return max(s["evals"], key=lambda at: at["taste"])


TITLES = (
    "arm",
    "seed",
    "rater's own accuracy",
    "the taste on this draw",
    "a second rater",
    "reward model, held out",
    "proxy",
    "taste",
    "highest taste (step)",
    "right",
    "KL",
    "CPU seconds: pairs + reward model + PPO",
)


def markdown_table(folder: Path = RESULTS) -> str:
    """One row a run, from the summaries in ``folder``."""
    lines = [_row(TITLES), "|" + "---|" * len(TITLES)]
    lines += [_row([arm, str(s["seed"]), *cells(s)]) for arm in ARMS for s in summaries(arm, folder)]
    return "\n".join(lines)


def cells(s: dict[str, Any]) -> list[str]:
    """What a run's row says, after arm and seed."""
    judged, best, seconds = s["reward_model"], peak(s), s["cpu_seconds"]
    return [
        f"{s['preferences']['expected_accuracy']:.3f}",
        f"{s['preferences']['taste_accuracy']:.3f}",
        f"{s['preferences']['second_rater']:.3f}",
        f"{judged['accuracy']:.3f} ± {judged['standard_error']:.3f}",
        f"{s['proxy_before']:.2f} → {s['proxy_after']:.2f}",
        f"{s['taste_before']:.2f} → {s['taste_after']:.2f}",
        f"{best['taste']:.2f} ({best['step']})",
        f"{s['right_before']:.2f} → {s['right_after']:.2f}",
        f"{s['evals'][-1]['kl']:.1f}",
        " + ".join(f"{seconds[stage]:.0f}" for stage in ("preferences", "reward_model", "ppo")),
    ]


def _row(values: Any) -> str:
    return "| " + " | ".join(values) + " |"


COLOURS = {
    "proxy": ("#D55E00", "--"),
    "taste": ("#0072B2", "-"),
}  # distinct without colour vision, and by dashes
PANELS = {"kl": "with the KL term", "free": "without"}


def draw(folder: Path = RESULTS) -> Path:
    """``overoptimisation.svg``: proxy and taste on held-out prompts, a thin line a seed, a thick one their mean."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "rlkit"  # the same runs give the same file
    figure, grid = plt.subplots(1, len(PANELS), figsize=(8, 3.2), sharey=True, layout="constrained")
    for axes, (arm, title) in zip(grid, PANELS.items(), strict=True):
        runs = summaries(arm, folder)
        for name, (colour, dashes) in COLOURS.items():
            curves = [[at[name] for at in s["evals"]] for s in runs]
            steps = [at["step"] for at in runs[0]["evals"]]
            for values in curves:
                axes.plot(steps, values, color=colour, linestyle=dashes, linewidth=0.7, alpha=0.5)
            average = [mean(values) for values in zip(*curves, strict=True)]
            axes.plot(steps, average, color=colour, linestyle=dashes, linewidth=2.2, label=LABELS[name])
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("PPO step")
        axes.spines[["top", "right"]].set_visible(False)
    grid[0].set_ylabel("held-out score")
    grid[0].legend(frameon=False, fontsize=9)
    target = folder / NAME
    figure.savefig(target, metadata={"Date": None}, facecolor="white")
    plt.close(figure)
    return target


LABELS = {"proxy": "proxy (reward model)", "taste": "true taste"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arms", nargs="*", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--quick", action="store_true", help="one seed, two steps, to a scratch folder")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--set", type=json.loads, default={}, metavar="JSON", help="other settings of PPO")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(run_one(args.arms, args.seeds[0], **args.set)))
        return
    if args.quick:
        args.seeds, args.output = args.seeds[:1], Path(tempfile.mkdtemp())
        args.set = {**args.set, "max_steps": 2}
    args.output.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    for seed in args.seeds:
        command = [
            sys.executable,
            "-m",
            "benchmarks.rlhf",
            "--one",
            "--seeds",
            str(seed),
            "--arms",
            *args.arms,
        ]
        command += ["--set", json.dumps(args.set)]
        found = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if found.returncode:
            sys.exit(f"seed {seed} failed:\n{found.stderr[-3000:]}")
        for s in json.loads(found.stdout.strip().splitlines()[-1]):
            (args.output / f"{s['arm']}-seed-{seed}.json").write_text(json.dumps(s) + "\n")
            print(f"{s['arm']}, seed {seed}: {', '.join(cells(s))}", flush=True)
    print(markdown_table(args.output))
    if all(summaries(arm, args.output) for arm in PANELS):
        print(draw(args.output), flush=True)


if __name__ == "__main__":
    main()
