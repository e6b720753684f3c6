"""Run directories: write one while training, read it live or later, and say what its numbers mean.

Trainers write, everything else reads::

    from rlkit.runs import Run

    run = Run("runs/demo")
    steps, reward = run.column("reward")
    for diagnosis in run.diagnose():
        print(diagnosis)
    run.report()                        # runs/demo/report.html

``replay`` tells a recorded run over time again; ``recorded`` has those of the package, and ``pack`` makes one.

Importing this loads neither torch nor matplotlib; pyarrow is loaded when samples are touched.
"""

from rlkit.runs.diagnose import diagnose
from rlkit.runs.evidence import Diagnosis
from rlkit.runs.reader import Run, list_runs
from rlkit.runs.recordings import pack, recorded
from rlkit.runs.replay import Replay, replay
from rlkit.runs.report import headline, write_report
from rlkit.runs.writer import RunWriter

__all__ = [
    "Diagnosis",
    "Replay",
    "Run",
    "RunWriter",
    "diagnose",
    "headline",
    "list_runs",
    "pack",
    "recorded",
    "replay",
    "write_report",
]
