"""How time and memory grow with tokens and with the vocabulary.

* a whole GRPO step of the tiny model on the Hugging Face engine, with 4, 8, 16 and 32 prompts × 8 × 32 tokens;
* an update of a small random model (4 layers of width 256, 49,152 words, LoRA) on 8,192 tokens in rows of 256, 512,
  1,024 and 2,048, and on 16 rows of 256 to 128 rows: time a token, and peak memory above what was there before;
* the same update's memory with four times the vocabulary.

"Ours" is the largest case, "peer" the smallest, so a ratio of 1 is exactly linear (time a token) or flat (memory).
Cases take turns, each in a process of its own; medians; one thread.

    python -m benchmarks.scaling [--quick]
"""

from __future__ import annotations

import sys
import time
from typing import Any

from benchmarks import _peers, _report
from benchmarks._peers import TINY, Found, Peak
from benchmarks.training import ours as training_step

THREADS = 1
VOCAB = 49152  # SmolLM2's
PROMPT = 16  # tokens


def step(prompts: int, tokens: int, steps: int) -> Found:
    """Seconds of each GRPO step of the tiny model, groups of 8."""
    found = training_step(TINY, False, prompts, 8, tokens, False, steps)
    return {"seconds": found["seconds"], "mib": found["mib"]}


def update(rows: int, length: int, vocab: int, updates: int) -> Found:
    """Seconds of each update on ``rows`` random rows of ``length`` tokens, and MiB above the memory before it."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from rlkit import GRPOConfig, add_lora
    from rlkit.rollout import Completion, Rollout, build_batch
    from rlkit.trainers.update import PolicyUpdate

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
    )
    model = add_lora(LlamaForCausalLM(config).eval().to(_peers.device()), r=8)
    args = GRPOConfig(prompts_per_step=rows, num_generations=2, max_completion_length=length)
    policy = PolicyUpdate(model, args, updates + 1)

    def batch(rows: int, length: int) -> tuple[Any, Any]:
        """Random tokens, one completion a prompt (an update does not look at groups), and advantages [N], none 0."""
        ids = torch.randint(3, vocab, (rows, length)).tolist()
        answers = [Completion(row[PROMPT:], [-1.0] * (length - PROMPT), "", "length") for row in ids]
        texts = [""] * rows
        rollout = Rollout(1, [{}] * rows, texts, texts, [row[:PROMPT] for row in ids], answers, 1)
        return build_batch(rollout, 0, model.device), torch.linspace(-1, 1, rows) + 0.01

    policy.update(*batch(2, 2 * PROMPT))  # threads and libraries are up, Adam's moments are there
    given = batch(rows, length)
    # The mark is set before the first large update: what the allocator keeps of one would hide the next one's peak.
    seconds, peak = [], Peak()
    for _ in range(updates):
        start = time.perf_counter()
        policy.update(*given)
        seconds.append(time.perf_counter() - start)
    return {"seconds": seconds, "mib": peak.mib()}


def run(options: Any) -> list[dict[str, Any]]:
    quick = options.quick
    rounds, updates = options.rounds or (1 if quick else 2), 1 if quick else 2
    lengths = (32, 64, 128, 256) if quick else (256, 512, 1024, 2048)
    many = (2, 4, 8, 16) if quick else (4, 8, 16, 32)  # rows
    fixed = 512 if quick else 8192  # tokens
    vocab = 4096 if quick else VOCAB
    rows: list[dict[str, Any]] = []
    named = _peers.versions("peft")

    prompts = (1, 2, 4, 8) if quick else (4, 8, 16, 32)
    jobs = {
        f"{p} prompts": {
            "call": "step",
            "prompts": p,
            "tokens": 8 if quick else 32,
            "steps": 2 if quick else 7,
        }
        for p in prompts
    }
    runs = _peers.in_turns("scaling", "step", jobs, THREADS, rounds)
    each = [_peers.middle(found) / p for found, p in zip(runs.values(), prompts, strict=True)]
    print("  ms a prompt: " + ", ".join(f"{1000 * value:.1f}" for value in each), flush=True)
    about = f"x 8 x {8 if quick else 32} tokens, tiny model, {THREADS} thread"
    name = f"scaling, GRPO step, time a prompt, {prompts[-1]} against {prompts[0]} prompts ({about})"
    rows.append(_report.row(name, 1000 * each[-1], 1000 * each[0], "ms", "<= 1.15", named))

    cases = {
        "rows": [(n, 256 if not quick else 32) for n in many],
        "tokens a row": [(fixed // length, length) for length in lengths],
    }
    for what, shapes in cases.items():
        jobs = {
            f"{n} rows of {length}": {
                "call": "update",
                "rows": n,
                "length": length,
                "vocab": vocab,
                "updates": updates,
            }
            for n, length in shapes
        }
        runs = _peers.in_turns("scaling", f"update, {what}", jobs, THREADS, rounds)
        each = [
            1e6 * _peers.middle(found) / (n * length)
            for found, (n, length) in zip(runs.values(), shapes, strict=True)
        ]
        memory = [_peers.middle(found, "mib") for found in runs.values()]
        print("  µs a token: " + ", ".join(f"{value:.0f}" for value in each), flush=True)
        print("  MiB: " + ", ".join(f"{value:.0f}" for value in memory), flush=True)
        first, last = (f"{n} x {length}" for n, length in (shapes[0], shapes[-1]))
        about = f"{last} against {first} tokens, 4 layers x 256, {vocab} words, LoRA, {THREADS} thread"
        rows.append(
            _report.row(f"scaling, update, time a token ({about})", each[-1], each[0], "µs", "<= 1.15", named)
        )
        factor = 1 if what == "tokens a row" else shapes[-1][0] / shapes[0][0]
        words = "extra peak memory" if factor == 1 else "extra peak memory a token"
        share = (memory[-1] / factor, memory[0])
        rows.append(_report.row(f"scaling, update, {words} ({about})", *share, "MiB", "<= 1.15", named))

    shape = {"rows": many[-1], "length": lengths[0], "updates": 1}
    jobs = {str(v): {"call": "update", **shape, "vocab": v} for v in (vocab, 4 * vocab)}
    runs = _peers.in_turns("scaling", "vocabulary", jobs, THREADS, rounds)
    small, large = (_peers.middle(found, "mib") for found in runs.values())
    about = f"{shape['rows']} x {shape['length']} tokens, 4 layers x 256, LoRA, {THREADS} thread"
    name = f"scaling, update, extra peak memory, {4 * vocab} against {vocab} words ({about})"
    rows.append(_report.row(name, large, small, "MiB", "<= 1.1", named))
    return rows


if __name__ == "__main__":
    sys.exit(_peers.main("scaling", __doc__, run))
