"""Write one checkpoint of a small model, with little to say."""

from __future__ import annotations

from pathlib import Path

from rlkit.trainers.checkpoints import write_checkpoint


def write(run_dir, step, model, state=None, keep=2, position=0, tokenizer=None) -> Path:
    return write_checkpoint(
        run_dir, step, model=model, tokenizer=tokenizer, state=state or {}, keep=keep, position=position
    )
