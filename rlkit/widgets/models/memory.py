"""The guide's memory table, term by term: what can be derived is derived, the rest is marked as its own claim.

The guide (Unsloth's reinforcement-learning guide, "GRPO Requirement Guidelines") gives 54.33 GB against 510.8 GB for
Llama 3.1 8B with 20k tokens of context and 8 generations, as a sum of four terms:

    training              42     414      not derivable: "gradient checkpointing"
    GRPO (the logits)      9.8    78.3    2 × bytes × generations × context × vocabulary, and an eighth of it
    a second set of weights 0     16      parameters × bytes
    key/value cache        2.5     2.5    2 × bytes × layers × context × (key/value heads × head size)

78.3 and 2.5 are GiB (2³⁰ bytes), 16 is GB (10⁹ bytes): the table adds different units.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

from rlkit.errors import bad_value

GB, GIB = 10**9, 2**30
UNITS = {"GiB": GIB, "GB": GB}

LOGIT_COPIES = 2
"""Tensors of logits that the guide counts."""

CHUNKED = 8
"""By how much its kernels cut them, it says."""


class Printed(NamedTuple):
    """What the guide prints for a term, standard and memory-saving, and in which unit that turns out to be."""

    standard: float
    saving: float
    unit: str


class Term(NamedTuple):
    """One line of the table. Bytes are None where nothing is known.

    `how`, `saving_how`: "derived", "claimed" (the guide's own number, which nothing here can check) or "unknown".
    `formula` with names, `numbers` with the inputs put in.
    """

    name: str
    how: str
    standard: float | None  # bytes
    saving: float | None  # bytes
    formula: str
    numbers: str
    remark: str
    printed: Printed | None = None
    saving_how: str = "derived"  # what is saved may be a claim where the rest is not


@dataclass(frozen=True, slots=True)
class MemorySetup:
    """A model and what is trained with it.

    Attributes:
        context: tokens of a sequence, prompt and completion.
        generations: sequences whose logits are held at once.
        vocabulary, layers, kv_heads, head_size: of the model; sizes without a unit.
        parameters: of the model.
        bytes_each: of a weight, a logit and a cached number.
        cached: sequences in the key/value cache; the guide counts one.
        training: GB of activations, gradients and optimizer, standard and memory-saving, as somebody claims; None:
            not known.
        gpu: GiB that there are; None: not said.

    Raises `ConfigError` for sizes that are not above 0.
    """

    context: int = 20 * 1024
    generations: int = 8
    vocabulary: int = 128_256
    layers: int = 32
    kv_heads: int = 8
    head_size: int = 128
    parameters: float = 8_030_261_248
    bytes_each: float = 2
    cached: int = 1
    training: tuple[float, float] | None = None
    gpu: float | None = None

    def __post_init__(self) -> None:
        for name in ("context", "generations", "vocabulary", "layers", "kv_heads", "head_size", "cached"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise bad_value(name, value, "a whole number, 1 or more")
        for name in ("parameters", "bytes_each"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
                raise bad_value(name, value, "a number above 0")


GUIDE = MemorySetup(training=(414.0, 42.0))
"""Llama 3.1 8B, 20k tokens (20 × 1,024, which is what gives its 78.3), 8 generations, 16 bits."""

PRESETS: dict[str, MemorySetup] = {
    "the guide's: Llama 3.1 8B, 20k tokens": GUIDE,
    "SmolLM2-135M on a 16 GB GPU": MemorySetup(1024, 8, 49_152, 30, 3, 64, 134_515_008, 2, 8, None, 16.0),
    "Qwen2.5-1.5B on a 16 GB GPU": MemorySetup(2048, 8, 151_936, 28, 2, 128, 1_543_714_304, 2, 8, None, 16.0),
}
"""Set-ups by name; sizes from the models' own configurations."""


class MemoryModel:
    """A set-up and its terms.

    >>> round(MemoryModel(GUIDE).logits / GIB, 2), round(MemoryModel(GUIDE).weights / GB, 2)
    (78.28, 16.06)
    """

    def __init__(self, setup: MemorySetup = GUIDE) -> None:
        self.setup = setup

    @property
    def logits(self) -> float:
        """Bytes of the logits that the guide's standard implementation holds."""
        s = self.setup
        return LOGIT_COPIES * s.bytes_each * s.generations * s.context * s.vocabulary

    @property
    def weights(self) -> float:
        """Bytes of one set of weights."""
        return self.setup.parameters * self.setup.bytes_each

    @property
    def kv_cache(self) -> float:
        """Bytes of the keys and values of `cached` sequences."""
        s = self.setup
        return 2 * s.bytes_each * s.layers * s.context * s.kv_heads * s.head_size * s.cached

    @property
    def is_guide(self) -> bool:
        """Whether this is the set-up whose numbers the guide prints."""
        return replace(self.setup, gpu=None) == GUIDE

    def terms(self) -> list[Term]:
        """The table's lines."""
        s, guide = self.setup, self.is_guide
        b = f"{s.bytes_each:g}"
        claim = s.training
        training = Term(
            "Training: activations, gradients, optimizer",
            "unknown" if claim is None else "claimed",
            None if claim is None else claim[0] * GB,
            None if claim is None else claim[1] * GB,
            "no formula is given",
            "",
            "Depends on what is trained and what is recomputed; nothing here derives it."
            if claim is None
            else "The guide's own claim, taken as GB: it puts the difference down to gradient checkpointing.",
            Printed(414, 42, "unknown") if guide else None,
        )
        return [
            training,
            Term(
                "GRPO: logits of the loss",
                "derived",
                self.logits,
                self.logits / CHUNKED,
                "copies × bytes × generations × context × vocabulary",
                f"{LOGIT_COPIES} × {b} × {s.generations:,} × {s.context:,} × {s.vocabulary:,}",
                f"Two tensors of logits. Saving: an eighth of it (÷ {CHUNKED}), by kernels that the guide speaks of.",
                Printed(78.3, 9.8, "GiB") if guide else None,
                "claimed",
            ),
            Term(
                "Inference: a second set of weights",
                "derived",
                self.weights,
                0.0,
                "parameters × bytes",
                f"{s.parameters:,.0f} × {b}",
                "Saving: 0, where the engine shares the trainer's weights, which are in the line for training.",
                Printed(16, 0, "GB") if guide else None,
                "claimed",
            ),
            Term(
                f"Inference: key/value cache of {s.cached} sequence{'s' if s.cached > 1 else ''}",
                "derived",
                self.kv_cache,
                self.kv_cache,
                "2 (keys, values) × bytes × layers × context × (key/value heads × head size) × sequences",
                f"2 × {b} × {s.layers} × {s.context:,} × {s.kv_heads * s.head_size:,} × {s.cached}",
                f"The guide counts one sequence; all {s.generations} at once take {s.generations} times as much."
                if s.cached == 1 and s.generations > 1
                else "For as many sequences as are sampled at once.",
                Printed(2.5, 2.5, "GiB") if guide else None,
            ),
        ]

    def totals(self) -> tuple[float, float]:
        """Bytes of all terms that are known, standard and memory-saving, in one unit."""
        terms = self.terms()
        return sum(t.standard or 0.0 for t in terms), sum(t.saving or 0.0 for t in terms)

    @property
    def complete(self) -> bool:
        """Whether every term is known."""
        return all(term.standard is not None for term in self.terms())

    def printed_totals(self) -> tuple[float, float]:
        """The sums of the numbers as the guide prints them, whatever their units."""
        printed = [term.printed for term in self.terms() if term.printed]
        return sum(p.standard for p in printed), sum(p.saving for p in printed)

    def says(self) -> list[str]:
        """What to make of the table, in words."""
        standard, saving = self.totals()
        said = []
        if self.is_guide:
            as_printed = self.printed_totals()
            said.append(
                f"The guide's totals, 510.8 GB and 54.33 GB, are sums over mixed units: 414 + 78.3 + 16 + 2.5 = "
                f"{as_printed[0]:.1f} and 42 + 9.8 + 0 + 2.5 = {as_printed[1]:.1f}, of which 78.3, 9.8 and 2.5 are GiB "
                f"and 16 is GB. In one unit they are {standard / GB:.1f} GB = {standard / GIB:.1f} GiB and "
                f"{saving / GB:.1f} GB = {saving / GIB:.1f} GiB, if 414 and 42 are GB."
            )
            assert self.setup.training is not None
            claimed = self.setup.training[0] - self.setup.training[1]
            said.append(
                f"Of the difference, {(standard - saving) / GB:.0f} GB, {claimed:.0f} GB are the claim about training. "
                "That the logits are cut to an eighth is its claim, too; what they are an eighth of is derived."
            )
        elif not self.complete:
            said.append(
                f"Without training's own memory, which is not derived here: {standard / GIB:.2f} GiB standard, "
                f"{saving / GIB:.2f} GiB with the savings. The trainer's weights, {self.weights / GIB:.2f} GiB, are a "
                "part of what is missing."
            )
        if self.setup.gpu is not None:
            left = self.setup.gpu - standard / GIB
            said.append(
                f"Of the card's {self.setup.gpu:g} GiB, less what its driver keeps, {left:.1f} GiB are left for "
                "training in the standard way."
                if left >= 0
                else f"The standard way needs {-left:.1f} GiB more than the {self.setup.gpu:g} GiB that there are, "
                "before anything is trained."
            )
        return said


def shown(size: float | None, unit: str) -> str:
    """Bytes in a unit, as people write them; "?" where they are not known.

    >>> shown(84_053_852_160, "GiB"), shown(None, "GB")
    ('78.3', '?')
    """
    if size is None:
        return "?"
    value = size / UNITS[unit]
    if value == 0:
        return "0"
    return f"{value:.1f}" if value >= 9.95 else f"{value:.2f}" if value >= 0.095 else f"{value:.3f}"
