"""Record the runs that come with the package, for replays: rlkit/assets/runs/.

    python -m benchmarks._record demo collapse            about a minute each
    rlkit fetch smollm2 && python -m benchmarks._record smollm2     some minutes

Their commit is noted, so record from a checkout without changes (or say ``--commit``).
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

ABOUT = {
    "demo": "The embedded model, which mostly forgets carries, learns to add: the settings of `rlkit demo`.",
    "collapse": (
        "The same with forty times the learning rate: within twenty steps all answers are wrong, and nothing is left "
        "to learn from."
    ),
    "smollm2": "SmolLM2-135M-Instruct with a LoRA adapter takes its first steps on word problems.",
}
_EVALUATED = 16  # held-out word problems of SmolLM2's run


def record(name: str) -> tuple[Path, str]:
    """Train in the present directory; returns the run directory, and the data in words."""
    from rlkit import GRPOTrainer, add_lora, load_model, rewards, tasks
    from rlkit.config import GRPOConfig
    from rlkit.demo import MODEL, demo_config

    folder = f"runs/{name}"
    held_out: Any
    if name == "smollm2":
        task = tasks.word_problems()
        model, tokenizer = load_model("smollm2-135m-instruct", dtype="float32")
        model = add_lora(model, r=16, lora_alpha=32, seed=0)
        reward_funcs, held_out = list(task.reward_funcs), list(task.test)[:_EVALUATED]
        args = GRPOConfig(
            output_dir=folder,
            seed=0,
            max_steps=8,
            prompts_per_step=4,
            num_generations=8,
            max_completion_length=32,
            micro_batch_tokens=1024,
            loss_type="dr_grpo",
            scale_rewards="none",
            learning_rate=3e-4,
            lr_scheduler_type="constant_with_warmup",
            warmup_steps=2,
            probe_prompts=4,
            num_generations_eval=2,
            save_model=False,
            fast_inference=False,
        )
    else:
        task = tasks.arithmetic()
        model, tokenizer = load_model(MODEL)
        reward_funcs, held_out = [rewards.number_found, rewards.correct_number], task.test
        more = {"learning_rate": 2e-3} if name == "collapse" else {}
        args = demo_config(output_dir=folder, eval_steps=20, save_model=False, **more)
    trainer = GRPOTrainer(
        model,
        reward_funcs,
        args,
        task.train,
        held_out,
        processing_class=tokenizer,
        verifier=task.verifier,
    )
    with trainer:
        summary = trainer.train()
    print({key: value for key, value in summary.items() if key.startswith("accuracy") or key == "status"})
    return Path(folder), f"{task.name}: {len(task.train)} rows to train on, {len(held_out)} held out"


def main() -> None:
    from rlkit.runs import pack, recordings

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="+", choices=list(ABOUT))
    parser.add_argument("--commit", help="of the code that trains; default: the checkout's")
    parser.add_argument("--output", type=Path, default=recordings.ASSETS)
    options = parser.parse_args()
    options.output = options.output.resolve()
    for name in options.names:
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            run, data = record(name)
            shutil.rmtree(options.output / name, ignore_errors=True)
            path = pack(run, options.output / name, data=data, about=ABOUT[name], commit=options.commit)
            size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
            print(f"{path}: {size:,} bytes")
            os.chdir(options.output)


if __name__ == "__main__":
    main()
