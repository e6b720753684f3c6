"""Runs of one step whose completions have everything in them: off-policy, clipped on every side; or hostile names."""

from __future__ import annotations

import math
import random

from synthetic_run import CONFIG, step_line

from rlkit.runs import RunWriter

GRPO = {
    "loss_type": "grpo",
    "epsilon": 0.2,
    "epsilon_high": 0.28,
    "delta": 2.0,
    "beta": 0.05,
    "kl_estimator": "k3",
}


def awkward_rows(rng, rows=6, lengths=(3, 5, 1, 4, 2, 6)):
    """Completions with everything that a per-token record can hold, off-policy, with clipping on every side."""
    made = []
    for i in range(rows):
        size = lengths[i % len(lengths)]
        old = [-abs(rng.gauss(0.7, 0.5)) - 0.01 for _ in range(size)]
        new = [min(-0.001, x + rng.gauss(0, 0.4)) for x in old]
        made.append(
            {
                "prompt_index": i // 3,
                "completion_index": i % 3,
                "prompt": f"question {i // 3}",
                "prompt_ids": [1, 2],
                "completion": f"answer {i}",
                "completion_ids": [10 + t for t in range(size)],
                "tokens": [f"t{t}" for t in range(size)],
                "finish_reason": "length" if i == 3 else "stop",
                "row": {"prompt": "q"},
                "reward/one": float(i),
                "reward": float(i),
                "advantage": (-1.5, 0.7, 1.1, -0.4, 0.0, 2.0)[i],
                "correct": None,
                "logp_engine": [x + 1e-3 for x in old],
                "logp_old": old,
                "logp_new": new,
                "logp_ref": [x - 0.1 * rng.random() for x in new],
                "entropy": [rng.random() for _ in new],
                "ratio": [math.exp(a - b) for a, b in zip(new, old, strict=True)],
                "is_weight": [0.9] * size,
                "topk_ids": [[10 + t, 99] for t in range(size)],
                "topk_logps": [[-0.2, -1.9] for _ in range(size)],
            }
        )
    return made


def run_with(directory, rows, line=None, **config):
    """A run of one step with these completions."""
    with RunWriter(directory, config={**CONFIG, "trainer": config}) as writer:
        writer.write_samples(1, rows)
        writer.write_metrics({**step_line(random.Random(0), 1, 4), **(line or {})})
        writer.write_summary({"steps": 1})
    return directory


def planted_run(path, texts):
    """A run in which everything that has a name is called one of ``texts``."""

    def row(i, text):
        return {
            "prompt_index": i,
            "completion_index": 0,
            "prompt": text,
            "prompt_ids": [1],
            "completion": text,
            "completion_ids": [7, 8, 9],
            "tokens": [text, "\n", text],
            "finish_reason": text,
            "row": {"column": text, text: "value"},
            **{f"reward/{name}": 1.0 for name in texts},
            "reward": 1.0,
            "advantage": 0.5,
            **{name: [-0.5, -1.0, -2.0] for name in ("logp_engine", "logp_old", "logp_new", "entropy")},
            "ratio": [1.0, 1.4, 1.0],
            "topk_ids": [[7, 8]] * 3,
            "topk_logps": [[-0.5, -1.0]] * 3,
        }

    text = texts[0]
    with RunWriter(path, config={**CONFIG, "model": text, "task": text, "rewards": texts}) as writer:
        writer.write_samples(1, [row(i, text) for i, text in enumerate(texts)])
        writer.write_metrics({"step": 1, "reward": math.nan, f"rewards/{text}": 1.0, "skipped": True})
        writer.note(text)
        writer.write_summary({"status": f"stopped: {text}"})
    return path
