"""The progress bar in each place that it must suit: a log, a terminal, a notebook, a notebook's background thread."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rlkit.trainers.progress import LogBar, NotebookBar, TerminalBar, progress

ROOT = Path(__file__).resolve().parent.parent


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def log_of(
    total: int, seconds: float, initial: int = 0, stop: int | None = None, **settings: Any
) -> list[str]:
    """The lines of a run whose steps take ``seconds`` each."""
    stream, clock = io.StringIO(), Clock()
    with progress(total, initial, stream=stream, clock=clock, **settings) as bar:
        for _ in range(initial, total if stop is None else stop):
            clock.now += seconds
            bar.update({"reward": 0.5})
    text = stream.getvalue()
    assert "\r" not in text and text.endswith("\n")
    return text.splitlines()


# ------------------------------------------------------------------------------------------------ logs


def test_a_short_log() -> None:
    lines = log_of(80, 1.0)
    assert len(lines) == 11  # the start and every 10 %
    assert lines[0] == "step 0 of 80, 0 %, 00:00 gone"
    assert lines[1] == "step 8 of 80, 10 %, 00:08 gone, 01:12 left, reward 0.50"
    assert lines[-1] == "step 80 of 80, 100 %, 01:20 gone, reward 0.50"


def test_slow_steps_are_heard_of_every_half_minute() -> None:
    lines = log_of(100, 20.0, stop=20)
    assert [line.split(",")[0] for line in lines[:4]] == [f"step {n} of 100" for n in (0, 2, 4, 6)]
    assert log_of(3, 3600.0)[1] == "step 1 of 3, 33 %, 1:00:00 gone, 2:00:00 left, reward 0.50"


def test_days_fit_into_a_few_hundred_lines() -> None:
    assert 200 < len(log_of(3 * 8640, 10.0)) < 450


def test_a_log_that_stops_early_says_where() -> None:
    assert log_of(100, 0.1, stop=13)[-1].startswith("step 13 of 100, 13 %")
    assert len(log_of(100, 0.1, stop=10)) == 2  # the line of step 10 is not said twice


def test_a_resumed_log() -> None:
    lines = log_of(100, 1.0, initial=50, desc="SFT")
    assert lines[0] == "SFT: step 50 of 100, 50 %, 00:00 gone" and "step 60" in lines[1] and len(lines) == 6


def test_the_last_state_is_said_after_an_error() -> None:
    stream = io.StringIO()
    with pytest.raises(KeyboardInterrupt), progress(100, stream=stream) as bar:
        bar.update({"reward": 1.0})
        raise KeyboardInterrupt
    assert stream.getvalue().splitlines()[-1].startswith("step 1 of 100")


def test_streams_of_a_program_that_writes_to_files(capfd: pytest.CaptureFixture[str]) -> None:
    with progress(2) as bar:
        bar.update({})
        bar.write("the rewards are all alike")
        bar.update({})
    out, err = capfd.readouterr()
    assert out == "the rewards are all alike\n"
    assert [line.split(",")[0] for line in err.splitlines()] == ["step 0 of 2", "step 1 of 2", "step 2 of 2"]


def test_disabled_is_silent(capfd: pytest.CaptureFixture[str]) -> None:
    with progress(2, disable=True) as bar:
        bar.update({"reward": 1.0})
        bar.write("nothing")
    assert bar.done == 1
    assert capfd.readouterr() == ("", "")


def test_a_stream_that_is_gone_does_not_stop_training() -> None:
    stream = io.StringIO()
    with progress(10, stream=stream) as bar:
        stream.close()
        for _ in range(10):
            bar.update({})
            bar.write("unheard")
    assert bar.done == 10


def test_no_steps_at_all() -> None:
    assert log_of(0, 1.0) == ["step 0 of 0, 0 %, 00:00 gone"]


# --------------------------------------------------------------------------------------------- numbers


def test_time_left_is_the_median_of_recent_steps() -> None:
    clock = Clock()
    with progress(100, stream=io.StringIO(), clock=clock) as bar:
        assert bar.seconds_left is None
        for seconds in (60.0, 2.0, 2.0, 90.0, 2.0):  # an engine that starts, an evaluation
            clock.now += seconds
            bar.update({})
        assert bar.seconds_left == 2.0 * 95
        for _ in range(20):  # it has become slower for good
            clock.now += 5.0
            bar.update({})
        assert bar.seconds_left == 5.0 * 75
        clock.now += 40.0
        bar.update({}, n=8)
        assert bar.seconds_left == 5.0 * 67


def test_numbers_that_are_shown() -> None:
    with progress(10, stream=io.StringIO(), clock=Clock()) as bar:
        bar.update({"reward": 0.123, "accuracy": None, "loss": -1.25e-5, "entropy": 1.0})
        assert bar.state() == "00:00 left, reward 0.12, loss -1.25e-05"
        bar.update({"accuracy": 0.5, "loss": float("nan")})
        assert bar.state() == "00:00 left, accuracy 0.50"
        bar.update(n=8)
        assert bar.state() == ""  # done: no time left to speak of


# -------------------------------------------------------------------------------------------- terminal


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals")
def test_in_a_terminal() -> None:
    import pty
    import termios

    code = (
        "import time\n"
        "from rlkit.trainers.progress import progress\n"
        "with progress(20, 4, desc='GRPO') as bar:\n"
        "    for i in range(16):\n"
        "        time.sleep(0.02)\n"
        "        bar.update({'reward': 0.25, 'accuracy': 0.5, 'loss': 0.125})\n"
        "        if i == 7: bar.write('a line in between')\n"
        "print(type(bar).__name__)\n"
    )
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    done = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=theirs, stderr=theirs, stdin=theirs
    )
    os.close(theirs)
    text = b""
    while True:
        try:
            piece = os.read(ours, 4096)
        except OSError:  # the other side is closed
            break
        if not piece:
            break
        text += piece
    os.close(ours)
    assert done.wait(30) == 0
    shown = text.decode()
    lines = shown.replace("\r\n", "\n").split("\n")
    assert lines[-2:] == [TerminalBar.__name__, ""]
    assert "a line in between" in [line.rpartition("\r")[2] for line in lines]  # on a line of its own
    last = lines[-3].rpartition("\r")[2]
    assert re.search(
        r"^GRPO: 100%\|.+\| 20/20 \[\d\d:\d\d, reward 0\.25, accuracy 0\.50, loss 0\.125\]", last
    )
    assert re.search(r"00:\d\d left", shown)
    assert len(lines) <= 6  # one line, drawn over and over
    assert all(len(drawn.rstrip()) <= 100 for line in lines for drawn in line.split("\r"))


def test_the_kind_of_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    with progress(1, stream=io.StringIO()) as bar:
        assert type(bar) is LogBar
    monkeypatch.setattr(sys, "stderr", None)  # a Windows program without a console
    monkeypatch.setattr(sys, "stdout", None)
    with progress(1) as bar:
        bar.update({})
        bar.write("unheard")


# -------------------------------------------------------------------------------------------- notebook


def run_notebook(*cells: str) -> Any:
    """The executed cells, each of which has run without an error."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    client = nbclient.NotebookClient(
        notebook, kernel_name="python3", timeout=60, resources={"metadata": {"path": str(ROOT)}}
    )
    client.execute()
    return notebook.cells


TRAIN = """
import time
from rlkit.trainers.progress import progress
def train(steps):
    with progress(40, desc="GRPO <b>") as bar:
        for i in range(steps):
            time.sleep(0.01)
            bar.update({"reward": 0.25})
        bar.write(type(bar).__name__)
"""


def drawn(cell: Any) -> list[Any]:
    return [output for output in cell.outputs if output.output_type == "display_data"]


def said(cell: Any, name: str) -> str:
    return "".join(o.text for o in cell.outputs if o.output_type == "stream" and o.name == name)


def test_in_a_notebook() -> None:
    cells = run_notebook(TRAIN + "train(40)")
    (output,) = drawn(cells[0])  # one output, however often it was drawn
    text = output.data["text/plain"]
    assert re.fullmatch(r"GRPO <b>: step 40 of 40, 100 %, 00:\d\d gone, reward 0\.25", text)
    markup = output.data["text/html"]
    assert '<progress value="40" max="40"' in markup and "&lt;b&gt;" in markup
    assert set(output.data) == {"text/plain", "text/html"}  # no widget: nothing that a page could not show
    assert said(cells[0], "stdout") == f"{NotebookBar.__name__}\n"
    assert said(cells[0], "stderr") == ""


def test_in_a_background_thread_of_a_notebook() -> None:
    """The cell returns at once; its bar goes on, and later cells stay clean."""
    start = "import threading\nthread = threading.Thread(target=train, args=(40,))\nthread.start()\ntime.sleep(0.1)"
    cells = run_notebook(TRAIN + start, "1 + 1", "thread.join(); time.sleep(0.1)")
    (output,) = drawn(cells[0])
    assert "step 40 of 40" in output.data["text/plain"]
    for cell in cells[1:]:
        assert drawn(cell) == [] and said(cell, "stderr") == ""
    assert "".join(said(cell, "stderr") for cell in cells) == ""


def test_interrupted_in_a_notebook() -> None:
    code = "try:\n    with progress(40) as bar:\n        bar.update({})\n        raise KeyboardInterrupt\n"
    cells = run_notebook(TRAIN + code + "except KeyboardInterrupt:\n    pass")
    (output,) = drawn(cells[0])
    assert output.data["text/plain"].startswith("step 1 of 40, 2 %")
