"""LossWeights: what a token and a completion weigh in the loss, for lengths of one's choice or of a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import ipywidgets

from rlkit.runs.evidence import number
from rlkit.widgets.controls import FIELD, LABEL, Explorer, field, menu, picture, row, tick
from rlkit.widgets.look import bar, escaped, facts, table
from rlkit.widgets.models.loss_weights import (
    IN_WORDS,
    LONGEST,
    PRESETS,
    LossWeightsModel,
    lengths_of_step,
    parse_lengths,
)
from rlkit.widgets.panel import put
from rlkit.widgets.plot import Curve, Plot

_OWN = "my own lengths"


class LossWeights(Explorer):
    """The weight of one token, and of a whole completion, under grpo, gspo, bnpo, dapo and dr_grpo.

    All numbers are `rlkit.objectives.token_weights`', which the trainers' loss uses.

    Args:
        lengths: tokens of each completion of an optimizer batch; default 10 and 100.
        max_completion_length: tokens; what dr_grpo divides by. None: 128, or the run's.
        run: a run, or its folder: take the lengths of one of its steps instead.
        step: which one; None: the last whose completions were kept.

    Raises `ConfigError` for lengths that are no whole numbers above 0, or a run without completions.

    >>> LossWeights([10, 100, 55])  # a cell's last line

    Controls: `lengths` (a text field), `preset`, `limit`, `mask_truncated`.
    """

    def __init__(
        self,
        lengths: Sequence[int] | None = None,
        max_completion_length: int | None = None,
        *,
        run: Any = None,
        step: int | None = None,
    ) -> None:
        about = (
            "Every loss type is a sum over tokens; they differ in what one token weighs. Type other lengths."
        )
        if run is not None:
            lengths, limit, step = lengths_of_step(run, step)
            max_completion_length = max_completion_length or limit
            about = f"The completions of step {step} of a run, and what a token of each weighed under each loss type."
        elif lengths is None:
            lengths = PRESETS["a short and a long one"][0]
        limit = max_completion_length or max(128, *lengths)
        self.model = LossWeightsModel(lengths, limit)
        self.preset = menu("lengths by name", [_OWN, *PRESETS], _OWN, "Batches that one meets in training")
        self.preset.layout.width = "min(100% - 8px, 28rem)"  # its names are long
        self.lengths = ipywidgets.Text(
            value=_joined(lengths),
            description="lengths",
            tooltip="Tokens of each completion, with commas between them; Enter to apply",
            continuous_update=False,
            style=LABEL,
            layout=ipywidgets.Layout(width="min(100%, 48rem)"),
        )
        field(self.lengths)
        self.limit = ipywidgets.BoundedIntText(
            value=limit,
            min=1,
            max=LONGEST,
            description="longest allowed",
            tooltip="max_completion_length in tokens: what dr_grpo divides by",
            style=LABEL,
            layout=ipywidgets.Layout(width=FIELD),
        )
        field(self.limit)
        self.mask_truncated = tick(
            "mask those at the limit",
            False,
            "mask_truncated_completions: what reaches the longest length allowed gets no weight",
        )
        self._picture = picture()
        super().__init__(
            "Loss weights: does every token count the same?",
            [row(self.preset, self.limit, self.mask_truncated), row(self.lengths), self._picture],
            about,
        )
        self.preset.observe(self._preset, names="value")
        self.follow(self.lengths, self.limit, self.mask_truncated)

    def _preset(self, change: Any) -> None:
        if change["new"] == _OWN or self._held:
            return
        lengths, limit = PRESETS[change["new"]]
        with self.at_once():
            self.lengths.value, self.limit.value = _joined(lengths), limit

    def refresh(self) -> None:
        lengths = parse_lengths(self.lengths.value)
        self.model = LossWeightsModel(lengths, self.limit.value, self.mask_truncated.value)
        present = (tuple(lengths), self.limit.value)
        self._held = True
        self.preset.value = next((name for name, own in PRESETS.items() if own == present), _OWN)
        self._held = False
        put(self._picture, self.static_html())

    # -- pictures -----------------------------------------------------------------------------------------

    def plots(self) -> tuple[Plot, Plot]:
        """Weight against length: of one token, and of the whole completion."""
        kept = [i for i, cut in enumerate(self.model.truncated) if not (cut and self.model.mask_truncated)]
        order = sorted(kept, key=lambda i: self.model.lengths[i])
        x = [self.model.lengths[i] for i in order]
        token, whole = [], []
        for color, (names, weights) in enumerate(self.model.families()):
            token.append(Curve(names, x, [weights.token[i] for i in order], "points", color))
            whole.append(Curve(names, x, [weights.whole[i] for i in order], "points", color))
        length = "length of the completion (tokens)"
        return (
            Plot("one token", length, "weight (no unit)", token, (0, None), (0, None)),
            Plot("a whole completion", length, "weight (no unit)", whole, (0, None), (0, None)),
        )

    def static_html(self) -> str:
        model = self.model
        said = facts(
            [
                ("completions N", str(len(model.lengths))),
                ("tokens", f"{sum(model.lengths):,}"),
                ("longest allowed", f"{model.limit:,} tokens"),
            ]
        )
        charts = "".join(plot.figure_html() for plot in self.plots())
        families = model.families()
        rows = []
        for i, length in enumerate(model.lengths):
            cut = " ✂ at the limit" if model.truncated[i] else ""
            masked = ", masked" if model.truncated[i] and model.mask_truncated else ""
            cells = [f"{i + 1}", f"{length:,}{cut}{masked}"]
            for color, (_, weights) in enumerate(families):
                share = weights.whole[i] / weights.total if weights.total else 0.0
                cells.append(escaped(column(weights.token)[i]))
                words = f"{column(weights.whole)[i]} ({number(round(100 * share, 9))} %)"
                cells.append(f'{bar(share, color)} <span class="num wide">{escaped(words)}</span>')
            rows.append(cells)
        totals = [c for _, w in families for c in ("", f"<b>{escaped(number(w.total))}</b>")]
        rows.append(["", "<b>sum</b>", *totals])
        head = ["", "tokens", *(h for names, _ in families for h in (f"{names}: a token", "the completion"))]
        caption = "Weights of a token and of a completion; in brackets the completion's share of all weight."
        numbers = table(head, rows, range(1, len(head)), caption, True)
        kinds = "".join(
            f"<li><b>{escaped(name)}</b>: {escaped(text)}</li>" for name, text in IN_WORDS.items()
        )
        drawn = f'<div class="charts pair">{charts}</div><div class="weights">{numbers}</div>'
        return f"{said}<p>{escaped(model.says())}</p>{drawn}<ul>{kinds}</ul>"

    def describe(self) -> str:
        parts = "; ".join(
            f"{names}: {', '.join(number(w) for w in weights.token[:6])}"
            for names, weights in self.model.families()
        )
        return f"weight of one token of completions of {_joined(self.model.lengths[:6])} tokens: {parts}."


def column(values: Sequence[float]) -> list[str]:
    """Numbers with as many decimals as the smallest needs for three digits, so that they can be compared.

    >>> column([0.5, 0.00313, 0.0])
    ['0.50000', '0.00313', '0']
    """
    least = min((abs(value) for value in values if value), default=1.0)
    decimals = max(0, 2 - math.floor(math.log10(least)))
    return [f"{value:.{decimals}f}" if value else "0" for value in values]


def _joined(lengths: Sequence[int]) -> str:
    return ", ".join(map(str, lengths))
