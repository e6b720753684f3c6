"""One person's rating: who answers, which question stands next, how far it is, how far raters agree."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

from rlkit.errors import ConfigError, bad_value
from rlkit.feedback import FeedbackStore, FeedbackWarning, Question, Questions
from rlkit.rollout import Row
from rlkit.runs import Run, schema

#: Keys and what they do; what they are called for two answers and for one.
KEYS: dict[str, tuple[str | bool, str]] = {
    "1": ("first", "the first is better"),
    "2": ("second", "the second is better"),
    "=": ("tie", "as good as each other"),
    "+": (True, "thumb up"),
    "-": (False, "thumb down"),
    "s": ("skip", "ask me later"),
    "u": ("undo", "take my last answer back"),
}
FEW = 20  # shared items below which a κ says little

# J. R. Landis and G. G. Koch, "The measurement of observer agreement for categorical data" (1977); they call the bands
# themselves arbitrary.
_BANDS = (
    (0.0, "none beyond chance"),
    (0.2, "slight"),
    (0.4, "fair"),
    (0.6, "moderate"),
    (0.8, "substantial"),
)


class Agreement(NamedTuple):
    """How far some raters agree.

    Attributes:
        who: whose answers, in words; kind: "comparisons" or "thumbs".
        items: how many of them all of these raters answered.
        kappa: Cohen's κ of two, Fleiss' κ of more; None where there is none.
    """

    who: str
    kind: str
    items: int
    kappa: float | None

    @property
    def words(self) -> str:
        """What κ means; with a star where it rests on fewer than ``FEW`` items."""
        if not self.items:
            return "nothing that they all answered yet"
        if self.kappa is None:
            return "all answers are the same, so κ has no value"
        few = " *" if self.items < FEW else ""
        return next((word for bound, word in _BANDS if self.kappa <= bound), "almost perfect") + few


class Rating:
    """One person's rating of a list of questions.

    Args:
        rows: each a ``prompt`` with ``completions``: two to be compared, or one to get a thumb.
        store: where answers go.
        rater: who answers; "" for nobody yet.
        seed: of the order of questions and sides, other ones for each rater.

    Attributes:
        said: what the last action did, in words.

    Raises:
        ConfigError: rows that are no questions.
    """

    def __init__(self, rows: Sequence[Row], store: FeedbackStore, rater: str = "", seed: int = 0) -> None:
        self.rows = list(rows)
        self.store, self.seed = store, seed
        self.warnings: list[str] = []
        self.said = ""
        self._questions: Questions | None = None
        self._ask("nobody yet")  # rows are checked before anybody is asked for a name
        self.rater = ""
        self.begin(rater)

    def begin(self, rater: str) -> None:
        """Let somebody answer; what that name has answered before is not asked again."""
        self.rater = schema.whole_text(rater).strip()
        self.said = ""
        self._questions = self._ask(self.rater) if self.rater else None

    def _ask(self, rater: str) -> Questions:
        return self._reading(lambda: Questions(self.store, self.rows, rater=rater, seed=self.seed))

    def _reading(self, action: Any) -> Any:
        """``action()``; what the store warns of is kept for the screen."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", FeedbackWarning)
            result = action()
        self.warnings = list(dict.fromkeys(str(w.message) for w in caught if w.category is FeedbackWarning))
        return result

    @property
    def question(self) -> Question | None:
        """What is asked; None before there is a name, and when all is answered."""
        return None if self._questions is None else self._questions.current

    @property
    def progress(self) -> tuple[int, int]:
        """How many are answered, of how many."""
        return (0, len(self.rows)) if self._questions is None else self._questions.progress

    @property
    def title(self) -> str:
        """What is asked of all these rows."""
        sizes = {len(row["completions"]) for row in self.rows}
        return {2: "Which answer is better?", 1: "Is this a good answer?"}[max(sizes)]

    @property
    def state(self) -> str:
        """ "nameless", "asking" or "done"."""
        return "nameless" if self._questions is None else "asking" if self.question is not None else "done"

    @property
    def allowed(self) -> set[str]:
        """The keys that do something now."""
        if self._questions is None:
            return set()
        if self.question is None:
            return {"u"}
        return (
            {"1", "2", "=", "s", "u"} if len(self.question.answers) == 2 else {"1", "2", "+", "-", "s", "u"}
        )

    def press(self, key: str) -> None:
        """Do what a key stands for; of one answer, 1 is a thumb up and 2 one down.

        Raises:
            ConfigError: a key that does nothing now.
        """
        key = key.lower()
        if self._questions is None:
            raise ConfigError("nobody has a name yet: type yours first, answers are kept under it")
        if key not in self.allowed:
            can = ", ".join(k for k in KEYS if k in self.allowed)
            raise bad_value("key", key, f"one of {can}", "All is answered." if self.question is None else "")
        if self.question is not None and len(self.question.answers) == 1:
            key = {"1": "+", "2": "-"}.get(key, key)
        what, words = KEYS[key]
        if what == "undo":
            back = self._reading(self._questions.undo)
            self.said = (
                "Your last answer was taken back."
                if back
                else "There is no answer of yours here to take back."
            )
        elif what == "skip":
            self._questions.skip()
            self.said = "Put to the end."
        else:
            self._questions.answer(what)
            self.said = f"Noted: {words}."

    def agreement(self) -> list[Agreement]:
        """How far the raters of the file agree: all of them, then each two; those with this rater first."""
        told = []
        for kind, name in (("preference", "comparisons"), ("thumb", "thumbs")):
            found = self._reading(lambda kind=kind: self.store.agreement(kind))
            if len(found["raters"]) > 2:
                told.append(
                    Agreement(f"all {len(found['raters'])} raters", name, found["items"], found["fleiss"])
                )
            pairs = sorted(found["cohen"].items(), key=lambda pair: self.rater not in pair[0])
            told += [
                Agreement(f"{one} and {other}", name, items, kappa) for (one, other), (kappa, items) in pairs
            ]
        return told

    def raters(self) -> dict[str, int]:
        """How many answers of each rater stand in the file."""
        found: dict[str, int] = self._reading(self.store.raters)
        return found


def rows_from_run(run: Run, step: int | None = None, thumbs: bool = False) -> list[Row]:
    """Questions about the completions of a run's step: of each prompt the first two that differ, or all of them once.

    Args:
        step: default the newest with completions.
        thumbs: ask for a thumb for every different completion, in place of comparisons.

    Raises:
        ConfigError: no such step, or no completions to ask about.
    """
    steps = run.sample_steps
    if step is None and not steps:
        raise ConfigError(f"{run.path} has no step with completions to ask about")
    table = run.samples_table(steps[-1] if step is None else step, ["prompt", "completion"])
    groups: dict[str, dict[str, None]] = {}
    for prompt, completion in zip(
        *(table.column(c).to_pylist() for c in ("prompt", "completion")), strict=True
    ):
        if prompt and prompt.strip() and completion and completion.strip():
            groups.setdefault(prompt, {})[completion] = None
    rows: list[Row] = []
    for prompt, answers in groups.items():
        if thumbs:
            rows += [{"prompt": prompt, "completions": [answer]} for answer in answers]
            continue
        first = next(iter(answers))
        other = next((answer for answer in answers if answer.strip() != first.strip()), None)
        if other is not None:
            rows.append({"prompt": prompt, "completions": [first, other]})
    if not rows:
        raise ConfigError(
            f"no prompt of {run.path} has {'an answer' if thumbs else 'two different answers'} to ask about"
        )
    return rows
