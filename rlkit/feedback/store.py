"""Feedback on disk: one JSONL file to which several raters append, and from which nothing is ever deleted.

    {"id": "…", "time": "…", "rater": "ada", "kind": "preference", "prompt": …, "first": …, "second": …,
     "choice": "first"}
    {"id": "…", "time": "…", "rater": "ada", "kind": "thumb", "prompt": …, "completion": …, "label": true}
    {"id": "…", "time": "…", "rater": "ada", "kind": "undo", "entry": "<id>"}

An answer is on disk when ``prefer`` or ``thumb`` returns. A process that is killed while it writes leaves at most one
line without an end, which nobody reads; the next writer begins a new one. Taking an answer back is an entry too.
"""

from __future__ import annotations

import json
import os
import threading
import uuid
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from rlkit.errors import ConfigError, bad_value, unknown_name
from rlkit.feedback.agreement import cohen_kappa, fleiss_kappa
from rlkit.feedback.data import check_preferences, check_thumbs, item_key
from rlkit.rollout import Messages, Row
from rlkit.runs import lock
from rlkit.runs.writer import now, sync_directory

CHOICES = ("first", "second", "tie")
KINDS = ("preference", "thumb")


class FeedbackWarning(UserWarning):
    """A feedback file holds lines that cannot be read."""


@dataclass(frozen=True)
class Entry:
    """One line of the file; ``content`` is what it holds besides id, time, rater and kind."""

    id: str
    time: str
    rater: str
    kind: str
    content: dict[str, Any] = field(repr=False)

    @property
    def item(self) -> str:
        """What was judged: the prompt with its answer, or with its two answers whichever came first."""
        c = self.content
        if self.kind == "thumb":
            return item_key([c["prompt"], c["completion"]])
        return item_key([c["prompt"], *sorted([item_key(c["first"]), item_key(c["second"])])])

    @property
    def verdict(self) -> Any:
        """The answer to that item: True or False; −1 for the side that comes first in sorting, 1, or 0 for a tie."""
        if self.kind == "thumb":
            return self.content["label"]
        turned = item_key(self.content["first"]) > item_key(self.content["second"])
        return {"first": -1, "second": 1, "tie": 0}[self.content["choice"]] * (-1 if turned else 1)

    def row(self) -> Row | None:
        """The entry as a row in TRL's form; None for a tie."""
        c = self.content
        if self.kind == "thumb":
            return {"prompt": c["prompt"], "completion": c["completion"], "label": c["label"]}
        if c["choice"] == "tie":
            return None
        won, lost = ("first", "second") if c["choice"] == "first" else ("second", "first")
        return {"prompt": c["prompt"], "chosen": c[won], "rejected": c[lost]}


class FeedbackStore:
    """Collects preferences and thumbs of several raters in one file.

    Args:
        path: the file; made, with its folder, at the first answer.
        rater: who answers where ``prefer``, ``thumb`` and ``undo`` are not told.

    Several stores, in one process or several, may write the same file at once.

    Example:
        >>> store = FeedbackStore("feedback.jsonl", rater="ada")
        >>> store.prefer("17+25=", "42", "32", "first")
        >>> store.undo()
        >>> store.preferences()
        []
    """

    def __init__(self, path: str | os.PathLike[str], rater: str | None = None) -> None:
        self.path = Path(path)
        if self.path.is_dir():
            raise bad_value(
                "path", str(path), "the name of a file, such as feedback.jsonl", "It is a folder."
            )
        self.rater = rater
        self._lock = threading.Lock()

    # -- answers -----------------------------------------------------------------------------------------------

    def prefer(
        self,
        prompt: str | Messages,
        first: str | Messages,
        second: str | Messages,
        choice: str,
        rater: str | None = None,
    ) -> str:
        """Note which of two answers is better, in the order in which they were shown; returns the entry's id.

        Args:
            choice: ``"first"``, ``"second"`` or ``"tie"``.

        Raises:
            ConfigError: an unknown choice; equal or empty answers; no rater. Nothing is written.
        """
        if choice not in CHOICES:
            raise unknown_name("choice", choice, CHOICES)
        check_preferences([{"prompt": prompt, "chosen": first, "rejected": second}], "the answer")
        content = {"prompt": prompt, "first": first, "second": second, "choice": choice}
        return self._append("preference", content, rater)

    def thumb(
        self, prompt: str | Messages, completion: str | Messages, label: bool, rater: str | None = None
    ) -> str:
        """Note a thumb, up (True) or down; returns the entry's id.

        Raises:
            ConfigError: an empty prompt or completion, a label that is no truth value, no rater. Nothing is written.
        """
        content = {"prompt": prompt, "completion": completion, "label": label}
        check_thumbs([content], "the answer")
        return self._append("thumb", content, rater)

    def undo(self, rater: str | None = None) -> Entry | None:
        """Take the rater's newest answer back, with an entry that says so; returns it, or None where there is none."""
        name = self.rater_name(rater)
        mine = [entry for entry in self.entries() if entry.rater == name]
        if not mine:
            return None
        self._append("undo", {"entry": mine[-1].id}, name)
        return mine[-1]

    # -- what was said -----------------------------------------------------------------------------------------

    def entries(self, kind: str | None = None) -> list[Entry]:
        """All answers that stand, oldest first.

        Those taken back are left out. Who answered the same item twice has changed their mind: the newest counts.
        """
        if kind is not None and kind not in KINDS:
            raise unknown_name("kind of feedback", kind, KINDS)
        read = self._read()
        taken = {entry.content["entry"] for entry in read if entry.kind == "undo"}
        newest: dict[tuple[str, str, str], Entry] = {}
        for entry in read:
            if entry.kind in (KINDS if kind is None else (kind,)) and entry.id not in taken:
                place = (entry.rater, entry.kind, entry.item)
                newest.pop(place, None)  # so that it moves to the end
                newest[place] = entry
        return list(newest.values())

    def raters(self) -> dict[str, int]:
        """How many answers of each rater stand."""
        return dict(Counter(entry.rater for entry in self.entries()))

    def preferences(self, rater: str | None = None, majority: bool = False) -> list[Row]:
        """Preferences in TRL's form: ``prompt``, ``chosen``, ``rejected``; without ties.

        Args:
            rater: only this one's; None takes everybody's.
            majority: one row an item, what most raters said; none where they are divided.
        """
        return self._rows("preference", rater, majority)

    def thumbs(self, rater: str | None = None, majority: bool = False) -> list[Row]:
        """Thumbs in TRL's form: ``prompt``, ``completion``, ``label``; arguments as for ``preferences``."""
        return self._rows("thumb", rater, majority)

    def agreement(self, kind: str = "preference") -> dict[str, Any]:
        """How far the raters agree beyond chance; see ``rlkit.feedback.agreement``.

        A preference has no fixed categories: which answer is called the first is arbitrary. Each item is therefore
        counted in both orders, so that κ does not depend on it (chance agreement is then 1/2 where there are no ties).

        Returns:
            ``raters``: answers of each; ``cohen``: κ of each two raters, on the items that both judged, with their
            number (``{("ada", "bob"): (κ, items)}``); ``fleiss``: κ over the items that all judged; ``items``: how many
            those are. A κ is None where there is nothing to compute it from.
        """
        if kind not in KINDS:
            raise unknown_name("kind of feedback", kind, KINDS)
        said: dict[str, dict[str, Any]] = {}
        for entry in self.entries(kind):
            said.setdefault(entry.rater, {})[entry.item] = entry.verdict
        cohen: dict[tuple[str, str], tuple[float | None, int]] = {}
        for one, other in combinations(sorted(said), 2):
            shared = [item for item in said[one] if item in said[other]]
            answers = [_both_orders([said[r][item] for item in shared], kind) for r in (one, other)]
            cohen[one, other] = (cohen_kappa(*answers) if shared else None, len(shared))
        common = set.intersection(*(set(items) for items in said.values())) if len(said) > 1 else set()
        columns = [_both_orders([said[r][item] for item in sorted(common)], kind) for r in sorted(said)]
        return {
            "raters": {rater: len(items) for rater, items in sorted(said.items())},
            "cohen": cohen,
            "fleiss": fleiss_kappa(list(zip(*columns, strict=True))) if common else None,
            "items": len(common),
        }

    def __len__(self) -> int:
        return len(self.entries())

    def __repr__(self) -> str:
        counts = Counter(entry.kind for entry in self.entries())
        return (
            f"FeedbackStore({str(self.path)!r}: {counts['preference']} preferences, {counts['thumb']} thumbs)"
        )

    # -- inside ------------------------------------------------------------------------------------------------

    def rater_name(self, rater: str | None) -> str:
        """Who answers: ``rater``, or the store's. Raises ConfigError where neither is a name."""
        name = self.rater if rater is None else rater
        if not isinstance(name, str) or not name.strip():
            raise bad_value(
                "rater", name, "a name", "FeedbackStore(path, rater='ada'), or rater= for each answer."
            )
        return name

    def _append(self, kind: str, content: Mapping[str, Any], rater: str | None) -> str:
        """Write one whole line, and return when it is on disk."""
        entry = {
            "id": uuid.uuid4().hex,
            "time": now(),
            "rater": self.rater_name(rater),
            "kind": kind,
            **content,
        }
        try:
            line = json.dumps(entry, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        except (TypeError, ValueError) as error:
            raise ConfigError(f"this feedback cannot be written as JSON: {error}") from error
        with self._lock:
            new = not self.path.exists()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                lock.take(fd)  # other writers wait, half a second at most; O_APPEND keeps lines whole without
                if os.fstat(fd).st_size:
                    os.lseek(fd, -1, os.SEEK_END)
                    if os.read(fd, 1) != b"\n":  # a writer was killed
                        line = b"\n" + line
                written = 0
                while written < len(line):
                    written += os.write(fd, line[written:])
                os.fsync(fd)
            finally:
                os.close(fd)
            if new:
                sync_directory(self.path.parent)
        return str(entry["id"])

    def _read(self) -> list[Entry]:
        """Every entry of the file in the order of writing; lines that cannot be read are counted in a warning."""
        try:
            lines = self.path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        entries, damaged = [], []
        for number, line in enumerate(
            lines[:-1], 1
        ):  # what follows the last line break is being written, or was cut
            if not line.strip():
                continue
            try:
                entries.append(_entry(json.loads(line)))
            except (ValueError, KeyError, TypeError):
                damaged.append(number)
        if damaged:
            text = f"{self.path}: line {', '.join(map(str, damaged))} cannot be read and is left out"
            warnings.warn(
                f"{text}; was the writer killed, or the file edited?", FeedbackWarning, stacklevel=3
            )
        return entries

    def _rows(self, kind: str, rater: str | None, majority: bool) -> list[Row]:
        entries = [entry for entry in self.entries(kind) if rater in (None, entry.rater)]
        if majority:
            votes: dict[str, Counter[Any]] = {}
            for entry in entries:
                votes.setdefault(entry.item, Counter())[entry.verdict] += 1
            won = {item: _winner(count) for item, count in votes.items()}
            first = {(e.item, e.verdict): e for e in reversed(entries)}  # the oldest entry that says so
            entries = [first[item, verdict] for item, verdict in won.items() if verdict is not None]
        return [row for entry in entries if (row := entry.row()) is not None]


def _entry(line: dict[str, Any]) -> Entry:
    """A line of the file, checked."""
    content = {name: value for name, value in line.items() if name not in ("id", "time", "rater", "kind")}
    entry = Entry(line["id"], line["time"], line["rater"], line["kind"], content)
    if entry.kind == "undo":
        content["entry"]
    else:
        entry.item, entry.verdict  # noqa: B018 - raises what a line without its parts raises
    return entry


def _winner(votes: Counter[Any]) -> Any:
    """What most said; None where two answers lead."""
    (answer, most), *others = votes.most_common(2)
    return None if others and others[0][1] == most else answer


def _both_orders(verdicts: Sequence[Any], kind: str) -> list[Any]:
    """Preferences once as they are and once turned round; thumbs as they are."""
    return [*verdicts, *(-verdict for verdict in verdicts)] if kind == "preference" else list(verdicts)
