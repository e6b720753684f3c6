"""What held-out pairs say of a reward model: accuracy, calibration, length."""

from __future__ import annotations

import dataclasses
from typing import Any

from rlkit.rollout import Row
from rlkit.runs.pairs import pairs_report


@dataclasses.dataclass(slots=True)
class RewardModelEvaluation:
    """Held-out results on ``n`` pairs.

    ``accuracy``: share of pairs whose chosen side has the higher reward. ``calibration_error``: how far its
    probabilities are from what comes true (``rlkit.objectives.preferences.calibration``; the bins are in
    ``calibration``). ``reward_mean``, ``reward_std``: of all sides. The five numbers on length: ``LengthBias``, there.
    """

    step: int
    n: int
    loss: float
    accuracy: float
    margin_mean: float
    reward_mean: float
    reward_std: float
    calibration_error: float
    longer_chosen: float | None
    longer_preferred: float | None
    accuracy_longer: float | None
    accuracy_shorter: float | None
    length_correlation: float | None
    seconds: float
    calibration: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def values(self) -> dict[str, Any]:
        """Its line in ``metrics.jsonl``, the bins of the calibration among it."""
        left_out = ("step", "seconds")
        numbers = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in left_out}
        return {**numbers, "seconds/eval": self.seconds}

    def tables(self) -> dict[str, list[Row]]:
        """The completions to keep, by kind: none, since none are sampled."""
        return {}

    def forget_tables(self) -> None:
        """Nothing large is held."""

    def outcome(self) -> dict[str, float]:
        """What a run's summary says, before and after."""
        return {"loss": self.loss, "accuracy": self.accuracy, "calibration_error": self.calibration_error}

    def report(self) -> str:
        """The findings in words, for people; see ``rlkit.runs.pairs``."""
        return "\n".join(pairs_report(self.values()))

    def __repr__(self) -> str:
        return (
            f"RewardModelEvaluation(step {self.step}: accuracy {self.accuracy:.3f}, loss {self.loss:.4f}, "
            f"calibration error {self.calibration_error:.3f}, {self.n} held-out pairs)"
        )
