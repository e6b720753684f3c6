"""A training that can be killed at a chosen moment: what the tests of resuming run in processes of their own."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from pathlib import Path

MOMENTS = (
    "rollout",
    "scoring",
    "backward",
    "before the optimizer",
    "after the optimizer",
    "sample write",
    "metrics line",
    "checkpoint weights",
    "checkpoint state",
    "checkpoint rename",
    "checkpoint pruning",
    "evaluation",
)
STEPS = 8
_MEASURED = ("seconds/", "memory/", "time", "tokens_per_second")  # by the clock, not by the training


def train(
    folder: str,
    moment: str | None = None,
    occurrence: int = 1,
    resume: bool = False,
    dtype: str = "float32",
    **settings,
) -> None:
    """Train for ``STEPS`` steps; be killed at the n-th occurrence of ``moment``."""
    import numpy
    import torch
    from small_trainer import PROMPTS, make_trainer, small_model, token_sum

    def noisy_sum(completions, completion_ids, **columns):
        """A reward that draws from Python's, NumPy's and torch's global generators."""
        noise = random.random() + numpy.random.rand() + float(torch.rand(()))
        return [value + noise for value in token_sum(completions, completion_ids)]

    defaults = dict(max_steps=STEPS, save_steps=2, eval_steps=3, lr_scheduler_type="linear")
    judged = {"eval_dataset": PROMPTS[:4], "verifier": lambda completion, **_: len(completion) % 2 == 0}
    random.seed(1)
    numpy.random.seed(1)
    torch.manual_seed(1)
    model, tokenizer = small_model()
    trainer = make_trainer(
        Path(folder),
        noisy_sum,
        model=(model.to(getattr(torch, dtype)), tokenizer),
        judged_by=judged,
        **{**defaults, "steps_per_generation": 2, **settings},
    )
    if moment is not None:
        _kill_at(trainer, moment, occurrence)
    trainer.train(resume=resume)
    trainer.close()


def _kill_at(trainer, moment: str, occurrence: int) -> None:
    """Kill this process, without a chance to clean up, when ``moment`` has come for the n-th time."""
    left = [occurrence]

    def now(*_, **__):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def before(owner, name):
        inner = getattr(owner, name)

        def wrapped(*args, **kwargs):
            now()
            return inner(*args, **kwargs)

        setattr(owner, name, wrapped)

    import torch

    from rlkit.runs import writer
    from rlkit.trainers import checkpoints

    if moment == "rollout":
        before(trainer.engine, "generate")
    elif moment == "scoring":
        judge = trainer.reward_funcs[0]
        trainer.reward_funcs[0] = lambda **given: (now(), judge(**given))[1]
    elif moment == "backward":
        next(trainer.model.parameters()).register_hook(lambda grad: now())
    elif moment == "before the optimizer":
        trainer.policy.optimizer.adamw.register_step_pre_hook(now)
    elif moment == "after the optimizer":
        trainer.policy.optimizer.adamw.register_step_post_hook(now)
    elif moment == "sample write":
        before(writer.os, "replace")
    elif moment == "metrics line":
        inner = os.write

        def half(fd, line):  # the disk gets the first half of the line
            if left[0] == 1:
                inner(fd, line[: len(line) // 2])
            now()
            return inner(fd, line)

        writer.os.write = half
    elif moment == "checkpoint weights":
        before(checkpoints, "save_weights")
    elif moment == "checkpoint state":
        before(torch, "save")
    elif moment == "checkpoint rename":
        before(checkpoints, "_swap_in")
    elif moment == "checkpoint pruning":
        before(checkpoints.shutil, "rmtree")
    elif moment == "evaluation":
        before(trainer, "judge")
    else:
        raise ValueError(moment)


def lines(folder: str | Path) -> list[dict]:
    """What a run's metrics say, without what a clock or a ledger measured and without notes."""
    from rlkit.runs import Run

    found = []
    for event in Run(Path(folder) / "run").events:
        if event.get("event") != "note":
            found.append({name: value for name, value in event.items() if not name.startswith(_MEASURED)})
    return found


if __name__ == "__main__":  # python tests/resumable.py '{"folder": …}'
    train(**json.loads(sys.argv[1]))
