"""A run as a trainer would write it, with random numbers that tell a plausible story. No model is involved."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

from rlkit.runs import RunWriter

PROMPTS, GENERATIONS, PROBLEMS = 2, 6, 40

CONFIG: dict[str, Any] = {
    "model": "rlkit/tiny-arithmetic",
    "task": "arithmetic",
    "rewards": ["number_found", "correct_number"],
    "seed": 3,
    "device": "cpu, 2 cores",
    "dtype": "torch.float32",
    "engine": "vllm",
    "weight_sync": "shared",
    "trainer": {
        "loss_type": "dr_grpo",
        "beta": 0.0,
        "learning_rate": 1e-4,
        "num_generations": 16,
        "prompts_per_step": 16,
        "max_completion_length": 8,
        "max_grad_norm": 1.0,
        "num_iterations": 1,
        "max_steps": 60,
    },
    "versions": {"rlkit": "0.1.0", "torch": "2.13.0", "transformers": "5.19.0", "vllm": "0.32.0"},
}


def completion(rng: random.Random, index: int, right: float, generation: int = 0) -> dict[str, Any]:
    """One row: ``a+b=`` answered rightly with probability ``right``, else with the carry forgotten."""
    a, b = random.Random(index).choices(range(10, 30), k=2)
    correct = rng.random() < right
    forgotten = (a // 10 + b // 10) % 10 * 10 + (a + b) % 10
    answer = str(a + b) if correct else str(forgotten)
    correct = answer == str(a + b)
    tokens = [*answer, "<eos>"]
    logps = [-abs(rng.gauss(0, 0.4)) for _ in tokens]
    return {
        "prompt_index": index,
        "completion_index": generation,
        "prompt": f"{a}+{b}=",
        "prompt_ids": list(range(len(f"{a}+{b}="))),
        "completion": answer,
        "completion_ids": [ord(t[0]) % 20 for t in tokens],
        "tokens": tokens,
        "finish_reason": "stop",
        "row": {"prompt": f"{a}+{b}=", "answer": a + b},
        "reward/number_found": 1.0,
        "reward/correct_number": 3.0 if correct else -3.0,
        "reward": 4.0 if correct else -2.0,
        "advantage": 0.8 if correct else -1.1,
        "correct": correct,
        "logp_engine": logps,
        "logp_old": [x + 1e-6 for x in logps],
        "logp_new": logps,
        "entropy": [0.3 for _ in tokens],
        "ratio": [1.0 for _ in tokens],
        "is_weight": [1.0 for _ in tokens],
        "topk_ids": [[1, 2, 3, 4, 5] for _ in tokens],
        "topk_logps": [[-0.1, -2.0, -3.0, -4.0, -5.0] for _ in tokens],
    }


def step_line(rng: random.Random, step: int, steps: int) -> dict[str, Any]:
    """The metrics of one step of a run that learns."""
    right = 0.42 + 0.5 * (1 - math.exp(-4 * step / steps)) + rng.gauss(0, 0.03)
    seconds = {
        "rollout": 0.18 + rng.random() * 0.05,
        "score": 0.002,
        "update": 0.12 + rng.random() * 0.03,
        "sync": 0.015,
        "eval": 0.4 if step % 20 == 0 else 0.0,
    }
    return {
        "step": step,
        "epoch": step / 30,
        "loss": rng.gauss(0, 0.004),
        "grad_norm": 0.4 + abs(rng.gauss(0, 0.15)),
        "learning_rate": 1e-4,
        "reward": 6 * right - 2,
        "reward_std": 2.4 - right,
        "rewards/number_found": 1.0,
        "rewards/correct_number": 6 * right - 3,
        "unscored/number_found": 0.0,
        "unscored/correct_number": 0.0,
        "dead_groups": min(1.0, max(0.0, 0.1 + 0.4 * step / steps + rng.gauss(0, 0.05))),
        "accuracy": right,
        "completion_length": 2.9 + rng.gauss(0, 0.05),
        "completion_length_max": 4,
        "truncated": 0.0,
        "entropy": 0.5 * math.exp(-1.5 * step / steps) + abs(rng.gauss(0, 0.01)),
        "kl": None,
        "engine_gap": 1e-6,
        "engine_gap_max": 4e-6,
        "ratio_mean": 1.0,
        "clip_low": 0.0,
        "clip_high": 0.0,
        "skipped": False,
        "tokens": 740,
        "tokens_per_second": 740 / seconds["rollout"],
        "sync_gap": 2e-6,
        **{f"seconds/{phase}": value for phase, value in seconds.items()},
        "seconds/step": sum(seconds.values()),
    }


def write_run(
    directory: Path,
    *,
    steps: int = 60,
    summary: dict[str, Any] | None = None,
    config: dict[str, Any] | None = None,
    alter: Any = lambda row: row,
    every: int = 20,
) -> Path:
    """Write a whole run and return its directory; ``summary={}`` leaves the summary out, as after a kill.

    ``alter``: is given each sample row before it is written.
    """
    rng = random.Random(0)
    with RunWriter(directory, config={**CONFIG, **(config or {})}) as writer:
        for step in range(steps + 1):
            if step:
                right = 0.42 + 0.5 * step / max(steps, 1)
                rows = [completion(rng, p, right, g) for p in range(PROMPTS) for g in range(GENERATIONS)]
                writer.write_samples(step, [alter(row) for row in rows])
                writer.write_metrics(step_line(rng, step, steps))
            if step % every == 0 and steps:
                greedy, sampled = 0.5 + 0.43 * step / steps, 0.45 + 0.43 * step / steps
                for kind, share in (("greedy", greedy), ("sampled", sampled)):
                    rows = [
                        completion(random.Random(1000 * step + i), 100 + i, share) for i in range(PROBLEMS)
                    ]
                    writer.write_eval(step, kind, [alter(row) for row in rows])
                writer.write_metrics(
                    {
                        "event": "eval",
                        "step": step,
                        "accuracy_greedy": greedy,
                        "accuracy_sampled": sampled,
                        "reward_greedy": 6 * greedy - 2,
                        "reward_sampled": 6 * sampled - 2,
                        "n": PROBLEMS,
                    }
                )
        if summary is None:
            summary = {
                "accuracy_before": 0.52,
                "accuracy_after": 0.93,
                "train_seconds": 24.3,
                "steps": steps,
                "engine": "vllm",
                "weight_sync": "shared",
                "seed": 3,
                "versions": CONFIG["versions"],
                "device": "cpu",
            }
        if summary:
            writer.write_summary(summary)
    return directory
