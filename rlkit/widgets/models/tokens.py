"""One completion token by token: each quantity's numbers, how strong each is, what clipping did, the alternatives.

Nothing is computed here that ``rlkit.objectives`` computes: the gradient is autograd's, of the one ``policy_loss``.
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

from rlkit.errors import RlkitError
from rlkit.runs import schema
from rlkit.runs.evidence import number
from rlkit.widgets.models.quantities import LEVELS, QUANTITIES
from rlkit.widgets.models.run_objective import objective

if TYPE_CHECKING:
    from rlkit.widgets.models.samples import Listed, Sheet


class Alternative(NamedTuple):
    """A token that the engine might have sampled here."""

    token_id: int
    text: str | None  # None: nothing at hand spells this id
    logp: float  # nats, the engine's
    sampled: bool


_CLIPPED = {
    "low": "clipped below: the ratio is under 1 − ε and A < 0, so the policy term has no gradient",
    "high": "clipped above: the ratio is over 1 + ε_high and A > 0, so the policy term has no gradient",
    "capped": "capped: the ratio is over δ and A < 0, so the policy term has no gradient",
}


class Tokens:
    """An opened completion. Made by ``Sheet.open``.

    Attributes:
        row: what the list says of it.
        tokens: its tokens as text; ids: as numbers. [] where the run did not keep them.
        weight: w of each of its tokens in the loss; None where there is no push.
        clipped: for each token "low", "high", "capped" or "".
        notes: what a reader should know of these numbers; push_notes: of the push alone.
    """

    def __init__(self, sheet: Sheet, row: Listed) -> None:
        self.sheet, self.row = sheet, row
        self.ids: list[int] = self._column("completion_ids") or []
        texts = self._column("tokens")
        self.tokens: list[str] = texts or [f"⟨{i}⟩" for i in self.ids]
        self.objective = objective(sheet.config, sheet.line)
        self.notes: list[str] = []
        self.push_notes: list[str] = []
        self.weight: float | None = None
        self._values: dict[str, list[float | None] | None] = {}
        self.clipped = self._clipped()

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def prompt(self) -> str:
        return self.row.prompt

    @property
    def data_row(self) -> str:
        """The data set's row, as JSON text; "" where it was not kept."""
        return str(self.sheet.value("row", self.row.position) or "")

    @property
    def quantities(self) -> list[str]:
        """Names of the quantities that this completion has numbers for."""
        return [name for name in QUANTITIES if self.values(name) is not None]

    def values(self, name: str) -> list[float | None] | None:
        """A quantity of each token; None where the run did not keep what it takes."""
        if name not in self._values:
            self._values[name] = self._compute(name)
        return self._values[name]

    # -- how strong -------------------------------------------------------------------------------------------

    def steps(self, name: str) -> tuple[float, ...]:
        """The distances from the middle at which each strength begins; () where all values are the middle."""
        quantity = QUANTITIES[name]
        if quantity.steps is not None:
            return quantity.steps
        if name == "ratio":
            return self._ratio_steps()
        apart = [
            abs(x - quantity.middle) for x in self.values(name) or [] if x is not None and math.isfinite(x)
        ]
        most = max(apart, default=0.0)
        return tuple(most * k / LEVELS for k in (0.2, 1, 2, 3)) if most else ()

    def strengths(self, name: str) -> list[int | None]:
        """For each token −4 to 4: how far from the middle, and on which side; None where there is no number."""
        quantity, steps = QUANTITIES[name], self.steps(name)
        found: list[int | None] = []
        for x in self.values(name) or [None] * len(self):
            if x is None or math.isnan(x):
                found.append(None)
                continue
            apart = x - quantity.middle
            level = sum(abs(apart) >= step for step in steps)
            found.append(-level if quantity.signed and apart < 0 else level)
        return found

    def legend(self, name: str) -> list[tuple[int, str]]:
        """What each strength means, in numbers: (strength, words); only strengths that occur."""
        quantity, steps = QUANTITIES[name], self.steps(name)
        there = {level for level in self.strengths(name) if level is not None}
        unit = f" {quantity.unit}" if quantity.unit else ""
        found = []
        for level in sorted(there):
            k = abs(level)
            if name == "logp":
                chances = [f"{100 * math.exp(-step):.0f} %" for step in steps]
                low, high = (chances[k] if k < LEVELS else None), (chances[k - 1] if k else None)
                words = (
                    f"{low} or likelier" if high is None else f"{low} to {high}" if low else f"under {high}"
                )
                found.append((level, f"π {words}"))
                continue
            sign = -1 if level < 0 else 1
            bounds = [quantity.middle + sign * step for step in steps]
            if not steps:
                found.append((level, f"{number(quantity.middle)}{unit} throughout"))
            elif k == 0:
                least = f"within {number(steps[0])}{unit} of {number(quantity.middle)}"
                found.append((level, least if quantity.signed else f"under {number(steps[0])}{unit}"))
            elif k == LEVELS:
                found.append((level, f"{'over' if sign > 0 else 'under'} {number(bounds[-1])}{unit}"))
            else:
                found.append((level, f"{number(bounds[k - 1])} to {number(bounds[k])}{unit}"))
        return found

    # -- one token --------------------------------------------------------------------------------------------

    def numbers(self, t: int) -> list[tuple[str, float, str]]:
        """All that the run says of token ``t`` (from 0): (what, value, unit)."""

        def raw(name: str) -> float | None:
            column = self._column(name)
            return None if column is None else column[t]

        logps = [
            ("log π, engine", raw("logp_engine"), "nats"),
            ("log π_old, trainer when sampling", raw("logp_old"), "nats"),
            ("log π_new, trainer in the last pass", raw("logp_new"), "nats"),
            ("log π_ref, reference", raw("logp_ref"), "nats"),
        ]
        others = [
            (QUANTITIES[name].label, (self.values(name) or [])[t], QUANTITIES[name].unit)
            for name in self.quantities
            if name != "logp"
        ]
        weights = [
            ("weight against the engine/trainer difference", raw("is_weight"), ""),
            ("w, the token's weight in the loss", self.weight, ""),
        ]
        found = (*logps, *others, *weights)
        return [(what, value, unit) for what, value, unit in found if value is not None]

    def clip_words(self, t: int) -> str:
        """What clipping did to token ``t``, in words."""
        return _CLIPPED.get(self.clipped[t], "not clipped") if self.values("ratio") else "no ratio was kept"

    def alternatives(self, t: int) -> list[Alternative]:
        """The engine's likeliest tokens at position ``t``, and the sampled one where it is not among them."""
        ids, logps = self._column("topk_ids"), self._column("topk_logps")
        if not ids or not logps or not ids[t] or not self.ids:
            return []
        mine = self.ids[t]
        found = [
            Alternative(i, self.tokens[t] if i == mine else self.sheet.spelling(i), logp, i == mine)
            for i, logp in zip(ids[t], logps[t], strict=False)
        ]
        engine = self._column("logp_engine")
        if mine not in ids[t] and engine:
            found.append(Alternative(mine, self.tokens[t], engine[t], True))
        return found

    # -- inside -----------------------------------------------------------------------------------------------

    def _column(self, name: str) -> list[Any] | None:
        values: list[Any] | None = self.sheet.value(name, self.row.position)
        if values is not None and name in schema.PER_TOKEN and len(values) != len(self.ids or values):
            return None  # a foreign file: nobody can tell which number is whose
        return values

    def _compute(self, name: str) -> list[float | None] | None:
        if name == "push":
            try:
                return self._push()
            except (RlkitError, TypeError, ValueError) as error:  # a config that no rlkit run has
                self.notes.append(f"There is no push: {error}")
                return None
        if name == "logp":
            return self._column("logp_old") or self._column("logp_engine")
        if name == "kl":
            return self._difference("logp_new", "logp_ref")
        if name == "mismatch":
            return self._difference("logp_old", "logp_engine")
        return self._column(name)

    def _difference(self, one: str, other: str) -> list[float | None] | None:
        a, b = self._column(one), self._column(other)
        if a is None or b is None:
            return None
        return [None if x is None or y is None else x - y for x, y in zip(a, b, strict=True)]

    def _ratio_steps(self) -> tuple[float, ...]:
        told = self.objective.settings
        epsilon = told.get("epsilon") or 0.2
        return tuple(epsilon * share for share in (0.01, 0.25, 0.5, 1.0))

    def _advantages(self) -> list[float] | None:
        """A of each token."""
        per_token = self._column("token_advantage")  # PPO's
        if per_token is not None:
            return per_token
        return None if self.row.advantage is None else [self.row.advantage] * len(self)

    def _clipped(self) -> list[str]:
        ratios, advantages = self._column("ratio"), self._advantages()
        told = self.objective.settings
        if not ratios or advantages is None or not told:
            return [""] * len(self)
        import torch

        from rlkit.objectives import clipped_term

        bounds: dict[str, Any] = {name: told.get(name) for name in ("epsilon", "epsilon_high", "delta")}
        try:
            term = clipped_term(torch.tensor(ratios), torch.tensor(advantages), **bounds)
        except (RlkitError, TypeError, ValueError) as error:
            self.notes.append(f"Nobody can tell what was clipped: {error}")
            return [""] * len(self)
        flags = zip(term.low.tolist(), term.high.tolist(), term.capped.tolist(), strict=True)
        return [
            "low" if low else "high" if high else "capped" if capped else "" for low, high, capped in flags
        ]

    def _push(self) -> list[float | None] | None:
        """−∂loss/∂z of every sampled token, by autograd through ``policy_loss``."""
        advantages, new = self._advantages(), self._column("logp_new")
        if not new or advantages is None or not self.objective.settings or self.sheet.place.kind != "train":
            return None
        import torch

        from rlkit.objectives import LossTotals, ObjectiveWarning, policy_loss, token_weights

        told = self.objective

        def tensor(name: str) -> torch.Tensor | None:  # [1, T]
            values = self._column(name)
            return None if values is None else torch.tensor([values], dtype=torch.float64)

        logp = torch.tensor([new], dtype=torch.float64, requires_grad=True)  # [1, T]
        trained = not (told.masks_truncated and self.row.finish_reason == "length")
        mask = torch.full((1, len(new)), trained)  # [1, T]
        totals = LossTotals(*self._totals())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ObjectiveWarning)  # the run itself has warned
            loss = policy_loss(
                logp,
                tensor("logp_old"),
                torch.tensor([advantages], dtype=torch.float64),
                mask,
                logp_ref=tensor("logp_ref"),
                is_weight=tensor("is_weight"),
                totals=totals,
                **told.settings,
            )
        longest = told.settings.get("max_completion_length")
        weights = token_weights(
            mask, told.settings["loss_type"], totals=totals, max_completion_length=longest
        )  # [1, T]
        self.weight = float(weights[0, 0])
        (gradient,) = torch.autograd.grad(loss.loss, logp)  # [1, T]
        if told.shuffled:
            self.push_notes.append(
                "Mini-batches were drawn at random: w is taken as if each held its share of the tokens."
            )
        if told.entropy_coef:
            self.push_notes.append(
                "The entropy bonus is not in the push: its gradient needs the whole distribution."
            )
        pushed = -gradient * (1 - logp.detach().exp())  # [1, T]
        values: list[float | None] = pushed[0].tolist()
        return values

    def _totals(self) -> tuple[float, float]:
        """(completions, trained tokens) of the optimizer batch that this completion was in."""
        told, rows = self.objective, self.sheet.rows
        size = max(1, len(rows) // told.parts)
        start = self.row.position // size * size
        batch = rows if told.shuffled else rows[start : start + size]
        masked = told.masks_truncated
        tokens = sum(row.length or 0 for row in batch if not (masked and row.finish_reason == "length"))
        return (len(batch) / told.parts, tokens / told.parts) if told.shuffled else (len(batch), tokens)
