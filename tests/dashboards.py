"""What the tests of the training dashboard share: a run directory read without rlkit, and the text of a panel."""

from __future__ import annotations

import json
import threading
import time
from html.parser import HTMLParser

from rlkit.runs import RunWriter

SOON = 60  # seconds; nothing waits that long unless it is broken


def wait_for(condition):
    end = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def lines_of(path, event="step"):
    """The lines of metrics.jsonl, read without rlkit; NaN and infinities where they are marked."""
    found = []
    for line in (path / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        for name, mark in row.pop("nonfinite", {}).items():
            row[name] = float(mark)
        if row["event"] == event:
            found.append(row)
    return found


def numbers_in(rows, name):
    return [(row["step"], row[name]) for row in rows if type(row.get(name)) in (int, float)]


def write_steps(path, rows, config=None, summary=None):
    with RunWriter(path, config=config or {"algorithm": "GRPO", "grpo": {"max_steps": 9}}) as writer:
        for row in rows:
            writer.write_metrics(row)
        if summary is not None:
            writer.write_summary(summary)
    return path


def dashboard_threads():
    return [thread for thread in threading.enumerate() if thread.name == "rlkit dashboard"]


class Markup(HTMLParser):
    """Tags, attributes and text of some HTML."""

    def __init__(self, source):
        super().__init__()
        self.tags, self.attributes, self.words, self._style = [], [], [], False
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self._style = tag == "style"

    handle_startendtag = handle_starttag

    def handle_data(self, data):
        if not self._style:
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def all_html(panel):
    return [
        *(
            getattr(panel, name).value
            for name in ("_head", "_trouble", "_state", "_why", "_facts", "_findings", "_charts", "_foot")
        ),
        panel.static_html(),
    ]


def text_of(panel):
    return " ".join(Markup(part).text for part in all_html(panel)[:-1])
