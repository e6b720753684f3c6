"""What a live dashboard costs: the demo's training in a Jupyter kernel, with a dashboard and without, in turns.

A real kernel: much of the work is turning the picture into messages and sending them. In the background a thread
of the dashboard's draws, in the foreground the training itself between two steps. Two rows each: processor time spent
drawing against the time of the training; and the processor time of the whole kernel, its threads that send included,
against that of a kernel without a dashboard (medians). A clock would say more of the machine than of the dashboard.

    python -m benchmarks.dashboard [--quick] [--only background] --json benchmarks/results/dashboard/cpu.json
"""

from __future__ import annotations

import json
import sys
import tempfile
from typing import Any

from benchmarks import _peers, _report
from benchmarks._peers import Found

THREADS = 1
STEPS, ROUNDS = 60, 5
MOST = 0.02  # of the training's time

TRAINING = """
import json, time
from rlkit import GRPOTrainer, load_model, rewards, tasks
from rlkit.demo import MODEL, demo_config
task = tasks.arithmetic()
model, tokenizer = load_model(MODEL)
args = demo_config(max_steps={steps}, output_dir={folder!r}, fast_inference=False, save_model=False, disable_tqdm=True)
functions = [rewards.number_found, rewards.correct_number]
trainer = GRPOTrainer(model, functions, args, task.train, task.test, processing_class=tokenizer)
trainer.step()  # warm-up
panel = trainer.dashboard() if {shown} else None
if panel is not None:
    display(panel)
"""
MEASURED = """
start, worked = time.perf_counter(), time.process_time()
if {background}:
    trainer.train(background=True).wait()
else:
    trainer.train()
seconds, worked = time.perf_counter() - start, time.process_time() - worked
drawing, drawn = (panel.seconds_drawing, panel.drawings) if panel is not None else (0.0, 0)
print(json.dumps(dict(seconds=[worked], clock=seconds, drawing=drawing, drawn=drawn)))
"""


def measure(shown: bool, background: bool, steps: int) -> Found:
    """Processor seconds of one training in a kernel of its own, those of a clock, and those spent drawing."""
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(startup_timeout=120)
    try:
        with tempfile.TemporaryDirectory() as folder:
            said: list[str] = []
            for code in (TRAINING, MEASURED):
                filled = code.format(steps=steps, folder=f"{folder}/run", shown=shown, background=background)
                reply = client.execute_interactive(
                    filled, timeout=600, output_hook=lambda m: said.append(_text(m))
                )
                if reply["content"]["status"] != "ok":
                    sys.exit("\n".join(reply["content"].get("traceback", [])))
            found: Found = json.loads("".join(said).strip().splitlines()[-1])
            return found
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def _text(message: dict[str, Any]) -> str:
    return str(message["content"]["text"]) if message["msg_type"] == "stream" else ""


def run(options: Any) -> list[dict[str, Any]]:
    if not (
        _peers.have("ipykernel", "pip install ipykernel")
        and _peers.have("ipywidgets", "pip install ipywidgets")
    ):
        return []
    steps, rounds = (8, 1) if options.quick else (STEPS, options.rounds or ROUNDS)
    print(f"a live dashboard, threads: {THREADS}", flush=True)
    versions = _peers.versions("ipywidgets", "ipykernel")
    rows = []
    for where in ("background", "foreground"):
        if options.only not in where:
            continue
        sides = {
            name: {
                "call": "measure",
                "shown": name == "with",
                "background": where == "background",
                "steps": steps,
            }
            for name in ("without", "with")
        }
        found = _peers.in_turns("dashboard", f"dashboard, {where}", sides, THREADS, rounds)
        drawing, drawn = (_peers.middle(found["with"], key) for key in ("drawing", "drawn"))
        print(f"  drawn {drawn:.0f} times in {drawing:.2f} s of processor time", flush=True)
        about = f"training in the {where}, {steps} steps of the demo, {THREADS} thread"
        rows += [
            _report.row(
                f"dashboard, processor time spent drawing against the training's time ({about})",
                drawing,
                _peers.middle(found["with"], "clock"),
                "s",
                f"<= {MOST}",
                versions,
            ),
            _report.row(
                f"dashboard, processor time of the kernel with it against without ({about})",
                _peers.middle(found["with"]),
                _peers.middle(found["without"]),
                "s",
                f"<= {1 + MOST}",
                versions,
            ),
        ]
    return rows


if __name__ == "__main__":
    sys.exit(_peers.main("dashboard", __doc__, run))
