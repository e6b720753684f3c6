"""What a PPO run with a reward model and a true score says of itself, read from its run directory.

Nothing here is more than the run's own numbers: what moved on held-out prompts, by how many standard errors, and
what the reward model went by.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from benchmarks._changes import change, sentence

RESULTS = Path(__file__).parent / "results" / "ppo_smollm2"
MEASURES = {  # columns of the evaluations' rows
    "proxy": "reward/reward_model",
    "taste": "reward/taste",
    "accuracy": "correct",
    "tokens": "length",
    "cut_off": "cut_off",
}
COLUMNS = (  # of the step lines
    "reward",
    "rewards/reward_model",
    "rewards/taste",
    "accuracy",
    "completion_length",
    "truncated",
    "kl_completion",
    "value",
    "return",
    "explained_variance",
    "value_loss",
    "approx_kl",
    "clip_high",
    "grad_norm",
    "entropy",
)


def read_run(run: Any) -> dict[str, Any]:
    """What moved, what the judge went by, and both in words; ``run`` is an ``rlkit.Run`` that has ended."""
    moved = {kind: what_moved(run, kind) for kind in ("sampled", "greedy")}
    lines = run.metrics
    kl = [line["kl_completion"] for line in lines]  # of the rollouts, so before each step's update
    entropy = [line["entropy"] for line in lines]
    explained_by_step = [
        line.get("explained_variance") for line in lines
    ]  # None or nan: all returns were the same
    explained = statistics.median([x for x in explained_by_step if x is not None and x == x] or [0.0])
    last, judge = statistics.mean(kl[-3:]), what_the_judge_sees(run)
    words = [f"{kind}, {sentence(name, one)}" for kind in moved for name, one in moved[kind].items()]
    words.append(
        f"KL to the reference, nats a completion: {kl[0]:.2g} first, {last:.2g} in the last three steps"
    )
    words.append(
        f"entropy, nats a token: {entropy[0]:.2g} → {entropy[-1]:.2g}; a policy that only becomes surer of its "
        "likeliest answers gains in sampled accuracy too, so see the greedy answers"
    )
    words.append(
        f"the reward model on held-out answers before PPO: right ones {judge['right']:+.2f}, wrong ones "
        f"{judge['wrong']:+.2f}; correlation with their length {judge['length_correlation']:+.2f}; among answers of "
        f"up to {judge['short_tokens']} tokens right ones {judge['right_short']:+.2f}, wrong ones "
        f"{judge['wrong_short']:+.2f}"
    )
    words.append(
        f"explained variance of the value model: {explained:.2f} in the median step (0: no better than a mean)"
    )
    return {
        "moved": moved,
        "kl": {"first_step": short(kl[0]), "last_three_steps": short(last)},
        "entropy": {"first_step": short(entropy[0]), "last_step": short(entropy[-1])},
        "explained_variance_median": short(explained),
        "judge": judge,
        "words": words,
        "diagnosis": [str(finding) for finding in run.diagnose()],
        "examples": examples(run),
    }


def what_moved(run: Any, kind: str) -> dict[str, dict[str, Any]]:
    """The held-out differences of every measure, of greedy or sampled answers."""
    tables = [answers(run, at, kind) for at in (run.evals[0], run.evals[-1])]
    return {name: change(*tables, column) for name, column in MEASURES.items()}


def what_the_judge_sees(run: Any) -> dict[str, Any]:
    """Mean scores of right and of wrong answers to held-out prompts before training, also of short ones alone."""
    rows = answers(run, run.evals[0], "sampled")
    scores, lengths = ([float(row[MEASURES[name]]) for row in rows] for name in ("proxy", "tokens"))
    short_tokens = int(statistics.median(lengths))
    found: dict[str, Any] = {"short_tokens": short_tokens}
    for name, right in (("right", True), ("wrong", False)):
        mine = [score for row, score in zip(rows, scores, strict=True) if row["correct"] == right]
        brief = [
            score
            for row, score in zip(rows, scores, strict=True)
            if row["correct"] == right and row["length"] <= short_tokens
        ]
        for key, values in ((name, mine), (f"{name}_short", brief)):
            found[key] = short(statistics.mean(values)) if values else float("nan")
    spread = min(map(statistics.pstdev, (scores, lengths)))
    found["length_correlation"] = short(statistics.correlation(scores, lengths)) if spread else 0.0
    return found


def answers(run: Any, at: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    """One evaluation's answers, with their lengths in tokens and whether they were cut off."""
    rows: list[dict[str, Any]] = run.eval_samples(at["step"], kind)
    for row in rows:
        row["length"], row["cut_off"] = len(row["completion_ids"]), row["finish_reason"] == "length"
    return rows


def examples(run: Any, count: int = 6) -> list[dict[str, Any]]:
    """Greedy answers to the first held-out prompts, before and after, with both scores."""
    before, after = (answers(run, at, "greedy")[:count] for at in (run.evals[0], run.evals[-1]))
    found = []
    for one, other in zip(before, after, strict=True):
        question = json.loads(one["row"])["prompt"]
        asked = question if isinstance(question, str) else question[-1]["content"]
        sides = {
            when: {
                "answer": row["completion"],
                **{name: short(row[MEASURES[name]]) for name in ("proxy", "taste")},
            }
            for when, row in (("before", one), ("after", other))
        }
        found.append({"prompt": asked, **sides})
    return found


def short(value: float | None) -> float | None:
    """Four digits are enough for a file."""
    return None if value is None else float(f"{value:.4g}")


def markdown_table(folder: Path = RESULTS) -> str:
    """The README's table: what moved on held-out prompts."""
    found = json.loads((folder / "run.json").read_text())
    lines = [
        "| held-out prompts | answers | before | after | difference ± standard error | |",
        "|---|---|---|---|---|---|",
    ]
    names = {
        "proxy": "reward model's score (in its standard deviations)",
        "taste": "true taste (weight 0)",
        "accuracy": "right",
        "tokens": "tokens an answer",
        "cut_off": "cut off",
    }
    for key, name in names.items():
        for kind in ("sampled", "greedy"):
            s = found["moved"][kind][key]
            lines.append(
                f"| {name} | {kind} | {s['before']:.2f} | {s['after']:.2f} | {s['difference']:+.2f} ± "
                f"{s['standard_error']:.2f} | {s['verdict']} |"
            )
    return "\n".join(lines)
