"""What RL does to patience: expected draws until the first right answer, before and after k GRPO updates.

A model that is right with probability p needs 1/p draws on average until it is right for the first time
(`rlkit.lab.patience`). Two models, on held-out prompts that no update saw:

    tiny      the embedded model on sums, k = 0, 20, 40, 80 (the demo's settings): every p is known exactly, by teacher
              forcing, and 64 real draws a prompt are held against it
    smollm2   SmolLM2-135M-Instruct on sums in chat form, k = 0 and 10 (8 prompts × 8, LoRA): its right answers can be
              worded in too many ways to sum up, so p is estimated from 16 draws a prompt

Of n draws with c right, (n + 1) / (c + 1) has the mean (1 − (1 − p)^(n + 1)) / p: the expected draws of someone who
gives up after n + 1. It is unbiased without any prior, also where c = 0, and is what both models' measured draws are.
The mean of 1/p itself cannot be measured by drawing (one prompt with p near 0 makes it as large as one likes). A prompt
counts as hopeless where its exact p is below 1/1000; where it is only sampled, "no hit" means no right answer in n
draws, which with 95 % excludes p above 3/n and no other. The share of groups of G without spread, on which GRPO learns
nothing, is estimated without bias too (`no_spread_estimate`).

    rlkit fetch smollm2
    python -m benchmarks.patience [--only tiny|smollm2] [--model FOLDER] [--output DIR] [--quick]
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks._changes import mean_and_error
from benchmarks._peers import SMOLLM2, TINY, Peak, device

RESULTS = Path(__file__).parent / "results" / "patience"
HOPELESS = 1e-3
TINY_AT = (0, 20, 40, 80)
TINY_DRAWS, TINY_GROUP = 64, 16
SMOL: dict[str, Any] = {"steps": 10, "prompts": 32, "draws": 16, "group": 8, "length": 24, "operand": 19}
SMOL_QUICK: dict[str, Any] = {**SMOL, "steps": 2, "prompts": 6, "draws": 8, "length": 8}


def given_up(draws: int, right: Any) -> Any:
    """Unbiased for the expected draws of someone who gives up after ``draws`` + 1, from ``right`` hits of ``draws``.

    >>> given_up(3, 1)
    2.0
    """
    return (draws + 1) / (right + 1)


def given_up_exact(p: Any, draws: int) -> Any:
    """The same from exact p [P]: Σ_{k ≤ draws} (1 − p)^k = (1 − (1 − p)^(draws + 1)) / p; ``draws`` + 1 at p = 0."""
    return sum((1 - p) ** k for k in range(draws + 1))


def measured(trainer: Any, rows: list[dict[str, Any]], draws: int, group: int) -> dict[str, Any]:
    """What ``draws`` answers to each row say, with the trainer's present weights; nothing is trained."""
    import dataclasses

    import torch

    from rlkit.lab.patience import first_hits, no_spread_estimate, wilson_interval

    sampling = dataclasses.replace(trainer._sampling(-2), n=draws, top_logprobs=0)
    rollout = trainer._sample(rows, sampling)
    right = trainer.score(rollout).correct  # [P, n] bool
    hits = right.sum(1).double()  # [P]
    waits, error = mean_and_error([float(w) for w in given_up(draws, hits)])
    first = first_hits(right)  # [P], in the order of drawing
    none = int((hits == 0).sum())
    return {
        "draws": draws,
        "right": [int(c) for c in hits],
        "mean_p": float(right.double().mean()),
        "mean_p_error": mean_and_error([float(c) for c in hits / draws])[1],
        "draws_until_right": waits,  # of who gives up after draws + 1
        "draws_until_right_error": error,
        "first_hit_median": float(torch.quantile(first, 0.5, interpolation="higher")),
        "prompts_without_hit": none / len(rows),
        "prompts_without_hit_interval": list(wilson_interval(none, len(rows))[1:]),
        "dead_groups": float(no_spread_estimate(right.double(), group)),
        "group": group,
        "tokens_a_completion": rollout.num_tokens / len(rollout),
    }


def exact(model: Any, tokenizer: Any, rows: list[dict[str, Any]], draws: int, group: int) -> dict[str, Any]:
    """The same from exact p; of the embedded model, whose right answers are one string each."""
    from rlkit.lab.patience import patience
    from rlkit.lab.patience_models import answer_probabilities

    p = answer_probabilities(model, tokenizer, rows)  # [P]
    known = patience(p, group)
    return {
        "mean_p": known.mean_p,
        "mean_draws": known.mean_draws,  # the mean of 1/p
        "median_draws": known.median_draws,
        "worst_draws": known.worst_draws,
        "inverse_of_mean_p": known.inverse_of_mean,
        "draws_until_right": float(given_up_exact(p, draws).mean()),
        "hopeless": float((p < HOPELESS).double().mean()),
        "dead_groups": known.no_spread,
        "pass_at_group": known.pass_at_k,
        "p": [float(f"{value:.4g}") for value in p],
    }


def run_tiny(args: argparse.Namespace) -> dict[str, Any]:
    """The embedded model at each k of one GRPO run."""
    from rlkit import GRPOTrainer, load_model, tasks
    from rlkit.demo import demo_config

    task = tasks.arithmetic()
    rows = task.rows("test")
    model, tokenizer = load_model(TINY)
    ks = (0, 2) if args.quick else TINY_AT
    found = []
    with tempfile.TemporaryDirectory() as folder:
        settings = demo_config(
            seed=args.seed,
            output_dir=f"{folder}/run",
            fast_inference=False,
            top_logprobs=0,
            probe_prompts=0,
            save_model=False,
            disable_tqdm=True,
        )
        funcs = list(task.reward_funcs)
        with GRPOTrainer(
            model, funcs, settings, task.train, processing_class=tokenizer, verifier=task.verifier
        ) as trainer:
            dead: list[float] = []
            for k in ks:
                while trainer.step_index < k:
                    dead.append(trainer.step().values["dead_groups"])
                known = exact(model, tokenizer, rows, TINY_DRAWS, TINY_GROUP)
                drawn = measured(trainer, rows, TINY_DRAWS, TINY_GROUP)
                pairs = zip(drawn["right"], known["p"], strict=True)
                gaps = [given_up(TINY_DRAWS, c) - given_up_exact(p, TINY_DRAWS) for c, p in pairs]
                gap = dict(zip(("difference", "error"), mean_and_error(gaps), strict=True))
                found.append({"k": k, "exact": known, "measured": drawn, "measured_less_exact": gap})
    return {
        "model": TINY,
        "task": "arithmetic, held-out sums",
        "prompts": len(rows),
        "prompts_a_step": settings.prompts_per_step,
        "completions_a_step": settings.rows_per_step,
        "learning_rate": settings.learning_rate,
        "seed": args.seed,
        "at": found,
        "dead_groups_in_training": [round(share, 4) for share in dead],
    }


def run_smollm2(args: argparse.Namespace) -> dict[str, Any]:
    """SmolLM2 before and after one short GRPO run; with --quick the embedded model stands in."""
    from benchmarks.ppo_smollm2 import chat_rows
    from rlkit import GRPOConfig, GRPOTrainer, add_lora, load_model, tasks

    sizes = SMOL_QUICK if args.quick else SMOL
    chat = args.model != TINY
    task = tasks.arithmetic(max_operand=sizes["operand"])
    train, test = (chat_rows(task.rows(side), chat) for side in ("train", "test"))
    rows = test[: sizes["prompts"]]
    model, tokenizer = load_model(args.model, dtype="float32")
    model = add_lora(model, r=16, lora_alpha=32, seed=args.seed)
    peak = Peak()
    found = []
    with tempfile.TemporaryDirectory() as folder:
        settings = GRPOConfig(
            output_dir=f"{folder}/run",
            seed=args.seed,
            max_steps=sizes["steps"],
            prompts_per_step=8,
            num_generations=sizes["group"],
            max_completion_length=sizes["length"],
            loss_type="dr_grpo",
            scale_rewards="none",
            learning_rate=3e-4,  # as benchmarks.smollm2 has for LoRA
            lr_scheduler_type="constant",
            fast_inference=False,
            top_logprobs=0,
            probe_prompts=0,
            save_model=False,
            save_samples=False,
            disable_tqdm=True,
        )
        funcs = list(task.reward_funcs)
        with GRPOTrainer(
            model, funcs, settings, train, processing_class=tokenizer, verifier=task.verifier
        ) as trainer:
            peak.watch(trainer.ledger)
            steps = []
            for k in (0, sizes["steps"]):
                while trainer.step_index < k:
                    steps.append(trainer.step().values)
                    if args.verbose:
                        print(f"step {trainer.step_index} of {k}", flush=True)
                found.append({"k": k, "measured": measured(trainer, rows, sizes["draws"], sizes["group"])})
    return {
        "model": "SmolLM2-135M-Instruct" if chat else args.model,
        "task": f"sums up to {sizes['operand']}, {'in chat form after a worked example' if chat else 'bare'}",
        "prompts": len(rows),
        "prompts_a_step": settings.prompts_per_step,
        "completions_a_step": settings.rows_per_step,
        "learning_rate": settings.learning_rate,
        "seed": args.seed,
        "at": found,
        **paired(*(at["measured"] for at in found)),
        "dead_groups_in_training": [round(line["dead_groups"], 4) for line in steps],
        "accuracy_in_training": [round(line["accuracy"], 4) for line in steps],
        "peak_gib": round(peak.highest / 2**30, 3),
    }


def paired(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """What changed for the same prompts, after less before, with standard errors; and for how many p fell."""
    draws = before["draws"]
    pairs = list(zip(before["right"], after["right"], strict=True))
    waits = [given_up(draws, b) - given_up(draws, a) for a, b in pairs]
    shares = [(b - a) / draws for a, b in pairs]
    medians = [median(given_up(draws, c) for c in side["right"]) for side in (before, after)]
    words = []
    for name, values in (("p", shares), (f"draws until right (giving up after {draws + 1})", waits)):
        difference, error = mean_and_error(values)
        clear = "clear" if abs(difference) > 2 * error else "not clear: within two standard errors"
        words.append(f"{name}: {difference:+.2f} ± {error:.2f}, {clear}")
    lost, won = (sum(x > 0 == y for x, y in order) for order in (pairs, [(b, a) for a, b in pairs]))
    words.append(f"median prompt: {medians[0]:.1f} draws → {medians[1]:.1f}")
    words.append(
        f"prompts that had no hit in {draws} and have one now: {won}; that had one and have none now: {lost}"
    )
    return {
        "paired": {
            "draws_until_right": dict(zip(("difference", "error"), mean_and_error(waits), strict=True)),
            "mean_p": dict(zip(("difference", "error"), mean_and_error(shares), strict=True)),
            "draws_until_right_median": medians,
            "hit_gained": won,
            "hit_lost": lost,
            "fewer_hits": sum(b < a for a, b in pairs),
        },
        "words": words,
    }


RUN = {"tiny": run_tiny, "smollm2": run_smollm2}


def markdown_table(folder: Path = RESULTS) -> str:
    """The README's table: one row a model and k."""
    lines = [
        "| model | updates k | p (mean) | mean of 1/p, exact | draws until right, exact | measured | "
        "hopeless prompts | dead groups |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in RUN:
        path = folder / f"{name}.json"
        if not path.exists():
            continue
        found = json.loads(path.read_text())
        for at in found["at"]:
            m, e = at["measured"], at.get("exact")
            draws = f"{m['draws_until_right']:.2f} ± {m['draws_until_right_error']:.2f}"
            if e:
                cells = [
                    f"{e['mean_p']:.2f}",
                    f"{e['mean_draws']:.3g}",
                    f"{e['draws_until_right']:.2f}",
                    draws,
                ]
                cells += [f"{e['hopeless']:.0%} (p < 1/1000)", f"{e['dead_groups']:.0%} of {m['group']}"]
            else:
                cells = [f"{m['mean_p']:.2f} ± {m['mean_p_error']:.2f}", "not known", "not known", draws]
                cells += [
                    f"{m['prompts_without_hit']:.0%} (no hit in {m['draws']})",
                    f"{m['dead_groups']:.0%} of {m['group']}",
                ]
            lines.append(f"| {found['model']} | {at['k']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    from rlkit.environment import device_name, versions

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=list(RUN), help="one model; default: both")
    parser.add_argument("--model", help=f"name or folder; default {SMOLLM2}, with --quick the embedded model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--quick", action="store_true", help="a few updates, to a scratch folder")
    parser.add_argument("--verbose", action="store_true")
    args = parser.parse_args()
    args.model = args.model or (TINY if args.quick else SMOLLM2)
    if args.quick:
        args.output = Path(tempfile.mkdtemp())
    args.output.mkdir(parents=True, exist_ok=True)
    for name in [args.only] if args.only else list(RUN):
        start = time.perf_counter()
        found = {**RUN[name](args), "device": device_name(device()), "versions": versions()}
        found["seconds"] = round(time.perf_counter() - start, 1)
        text = json.dumps(rounded(found), ensure_ascii=False)
        (args.output / f"{name}.json").write_text(text + "\n")
        for line in found.get("words", ()):
            print(line)
    print(markdown_table(args.output))
    print(f"written to {args.output}")


def rounded(value: Any) -> Any:
    """Five digits of every number, and None for what is not finite: JSON has no infinity."""
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    return [rounded(inner) for inner in value] if isinstance(value, list) else value


if __name__ == "__main__":
    main()
