"""What a diagnosis rests on (``Evidence``), what it is (``Diagnosis``), and numbers as people say them."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import Any, Literal

from rlkit.runs import schema

WINDOW = 10  # steps that "lately" means
ENOUGH = 2 * WINDOW  # steps from which on the first and the last window are two different ones

Severity = Literal["info", "warning", "problem"]


@dataclass(frozen=True)
class Diagnosis:
    """One finding: ``code`` names it, ``message`` says what was seen, ``advice`` what to do about it."""

    code: str
    severity: Severity
    message: str
    advice: str

    def __str__(self) -> str:
        return f"[{self.severity}] {self.message} {self.advice}".strip()


@dataclass(frozen=True)
class Evidence:
    """What the rules look at: step lines and evaluation lines by step, and the run's config."""

    steps: Sequence[Mapping[str, Any]]
    evals: Sequence[Mapping[str, Any]]
    config: Mapping[str, Any]

    def values(self, name: str, rows: Sequence[Mapping[str, Any]] | None = None) -> list[float]:
        """The finite values of one metric, by step."""
        found = (finite(row.get(name)) for row in (self.steps if rows is None else rows))
        return [value for value in found if value is not None]

    def recent(self, name: str) -> list[float]:
        """Its finite values in the last ``WINDOW`` steps."""
        return self.values(name, self.steps[-WINDOW:])

    def mean(self, name: str) -> float | None:
        """Their mean; None where there are none."""
        recent = self.recent(name)
        return fmean(recent) if recent else None

    def change(self, name: str) -> tuple[float, float, float] | None:
        """(mean of the first window, of the last, twice the standard error of their difference)."""
        values = self.values(name)
        if len(values) < ENOUGH:
            return None
        first, last = values[:WINDOW], values[-WINDOW:]
        error = 2 * math.sqrt((pstdev(first) ** 2 + pstdev(last) ** 2) / WINDOW)
        return fmean(first), fmean(last), error

    def setting(self, *names: str, default: Any = None) -> Any:
        """A setting of the run, wherever in the config it stands."""
        return schema.setting(self.config, *names, default=default)

    def amount(self, name: str) -> float:
        """A setting that is a number; 0 where it is not set."""
        return finite(self.setting(name)) or 0.0

    def names(self, prefix: str) -> list[str]:
        """Metric names with a prefix, e.g. every ``rewards/<name>``."""
        return list(
            dict.fromkeys(key for row in self.steps[-WINDOW:] for key in row if key.startswith(prefix))
        )

    @property
    def low_precision(self) -> bool:
        """Whether the weights are in 16 bits or fewer, as far as the config says."""
        said = str(self.setting("dtype", "torch_dtype", "precision", default="")).lower()
        if self.setting("bf16", "fp16", "load_in_4bit", "load_in_fp8", default=False) is True:
            return True
        return any(kind in said for kind in ("bf16", "bfloat16", "fp16", "float16", "half", "fp8"))

    @property
    def on_policy(self) -> bool:
        """Whether each batch was used for one update only: then every ratio is 1."""
        ratios = self.recent("ratio_mean")
        return self.setting("num_iterations", default=1) == 1 and all(abs(r - 1) < 1e-3 for r in ratios)

    @property
    def ppo(self) -> bool:
        """Whether it is a PPO run: a value model is the baseline there, and not the group."""
        return self.config.get("algorithm") == "PPO"

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each reward function, as far as the config says."""
        found = self.config.get("rewards")
        if not isinstance(found, Mapping):
            return {}
        return {str(name): value for name, one in found.items() if (value := finite(one)) is not None}

    @property
    def loss_type(self) -> str:
        return str(self.setting("loss_type", default="")).lower()


def finite(value: Any) -> float | None:
    """``value`` where it is a number that can be reckoned with, else None."""
    if isinstance(value, (int, float)) and abs(value) < 1e150:  # NaN fails, too; the bound is for squares
        return float(value)
    return None


def percent(share: float) -> str:
    """0.974 as "97 %"; a share that is almost but not quite all (or none) does not read as all (or none)."""
    if 0 < share < 0.005:
        return "under 1 %"
    if 0.995 <= share < 1:
        return "over 99 %"
    return f"{100 * share:.0f} %"


def number(value: float) -> str:
    """A number as a person would say it: three significant digits, no exponent where none is needed."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "∞" if value > 0 else "-∞"
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
        return "0" if text == "-0" else text
    digits, exponent = f"{value:.1e}".split("e")
    return f"{digits.removesuffix('.0')}e{int(exponent)}"


def duration(seconds: float) -> str:
    """24.3 as "24 s", 3725 as "1 h 2 min"."""
    if not math.isfinite(seconds):
        return "an unknown time"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def shown(text: object, limit: int = 2000) -> str:
    """Text for the page: control and direction characters made visible, and cut at ``limit`` characters."""
    text = str(text)
    more = len(text) - limit
    text = "".join(_visible(character) for character in text[:limit])
    return f"{text} … ({more:,} more characters)" if more > 0 else text


def _visible(character: str) -> str:
    code = ord(character)
    if character in "\n\t\u200c\u200d" or character.isprintable():  # the last two join letters and emoji
        return character
    kind = unicodedata.category(character)
    return character if kind == "Zs" else f"⟨U+{code:04X}⟩"


def lately(count: int) -> str:
    """When: over how many steps."""
    return "in the last step" if count == 1 else f"in the last {count} steps"
