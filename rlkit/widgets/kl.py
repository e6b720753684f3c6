"""KLExplorer: three estimators of the KL divergence, their values and what each does to a gradient."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from rlkit.objectives.names import KL_ESTIMATORS
from rlkit.runs.evidence import number
from rlkit.widgets.controls import Explorer, button, menu, picture, row, slider, tick
from rlkit.widgets.look import bar, escaped, facts, table
from rlkit.widgets.models.kl import POLICY, REFERENCES, TOKENS, Exact, KLModel, Sampled
from rlkit.widgets.panel import put
from rlkit.widgets.plot import Curve, Plot

_OWN = "my own reference"
_REACH = 6.0  # logits of the sliders
_DUST = 5e-10  # sums of a few float64 numbers are exact to this
_FOLLOWS = {
    "0": "nothing: 0 on average",
    "reverse KL": "KL(new ‖ ref)",
    "forward KL": "KL(ref ‖ new)",
    "both": "either KL (they agree here)",
    "neither": "neither KL",
}


class KLExplorer(Explorer):
    """k1, k2 and k3 on a distribution so small that their means, spreads and mean gradients are exact.

    Beside them stand estimates from draws. The table shows why a good estimate of the KL need not be a good loss: what
    one gets by differentiating it is another matter. All numbers are `rlkit.objectives.kl_estimate`'s.

    Args:
        logits: the policy's, one a token, from -6 to 6; their sliders move in steps of 0.1.
        reference: the reference policy's.
        tokens: their names.
        draws, seed: of the estimates.

    Raises `ConfigError` for lists of differing lengths, and logits that are not finite.

    >>> KLExplorer(logits=(2, 1, 0, -1))  # a cell's last line

    Controls: `reference`, `logits` (a list of sliders), `equal` (a button), `draws`, `seed`, `bias_correction`.
    """

    def __init__(
        self,
        logits: Sequence[float] = POLICY,
        reference: Sequence[float] = REFERENCES["a favourite"],
        tokens: Sequence[str] = TOKENS,
        *,
        draws: int = 400,
        seed: int = 0,
    ) -> None:
        self.model = KLModel(logits, reference, tokens)
        known = {name: row for name, row in REFERENCES.items() if len(row) == len(tokens)}
        own = next((name for name, row in known.items() if tuple(reference) == row), _OWN)
        self._references = {**({} if own in known else {_OWN: tuple(reference)}), **known}
        self.reference = menu("reference", list(self._references), own, "The policy that is compared with")
        self.logits = [
            slider(f"logit of “{name}”", float(value), -_REACH, _REACH, 0.1, "The policy's logit of this token",
                   shown=".1f")
            for name, value in zip(tokens, logits)
        ]  # fmt: skip
        self.equal = button("policy = reference", "Set the policy's logits to the reference's")
        self.draws = slider("draws", draws, 10, 5000, 10, "Tokens drawn from the policy for the estimates")
        self.seed = slider("seed", seed, 0, 50, 1, "Which draws")
        self.bias_correction = tick(
            "times the ratio (use_bias_correction_kl)",
            False,
            "Multiply the estimate by ρ: 1 in value, but not in gradient",
        )
        self._picture = picture()
        super().__init__(
            "KL: a good estimate, a good loss?",
            [
                row(self.reference, self.equal),
                row(*self.logits),
                row(self.draws, self.seed, self.bias_correction),
                self._picture,
            ],
            "Move the policy's logits away from the reference, and see what k1, k2 and k3 estimate, and what each does "
            "as a loss.",
        )
        self.equal.on_click(self._equal)
        self.follow(self.reference, *self.logits, self.draws, self.seed, self.bias_correction)

    def _equal(self, _button: Any) -> None:
        with self.at_once():
            for one, value in zip(self.logits, self._references[self.reference.value]):
                one.value = value

    def refresh(self) -> None:
        self.model = KLModel(
            [one.value for one in self.logits],
            self._references[self.reference.value],
            self.model.tokens,
            self.bias_correction.value,
        )
        put(self._picture, self.static_html())

    # -- numbers ------------------------------------------------------------------------------------------

    def exact(self) -> list[Exact]:
        """What each estimator does, exactly."""
        return [self.model.exact(name) for name in KL_ESTIMATORS]

    def sampled(self) -> list[Sampled]:
        """What the draws say."""
        return self.model.sampled(self.model.draw(self.draws.value, self.seed.value))

    # -- pictures -----------------------------------------------------------------------------------------

    def plot(self) -> Plot:
        """Estimates against the number of draws."""
        found = self.sampled()
        steps = torch.arange(1, self.draws.value + 1)
        shown = torch.unique(torch.logspace(0, math.log10(len(steps)), 250).round().long()) - 1
        exact = self.model.reverse
        ends = [float(steps[shown[0]]), float(steps[-1])]
        curves = [Curve("KL(new ‖ ref), exact", ends, [exact, exact], "limit")]
        curves += [
            Curve(one.estimator, steps[shown].tolist(), one.running[shown].tolist(), "line", i)
            for i, one in enumerate(found)
        ]
        return Plot(
            "estimates as draws come in",
            "draws",
            "mean so far (nats)",
            curves,
            note=f"Running means, seed {self.seed.value}. Draws on a logarithmic scale.",
            x_log=True,
        )

    def _distribution(self, exact: list[Exact]) -> str:
        new, ref = self.model.probabilities, self.model.reference_probabilities
        rows = [
            [
                f"“{escaped(token, 40)}”",
                _share(float(ref[i]), 5),
                _share(float(new[i]), 0),
                *(escaped(_number(float(one.values[i]))) for one in exact),
            ]
            for i, token in enumerate(self.model.tokens)
        ]
        head = ("token", "reference", "policy", *(f"{name} (nats)" for name in KL_ESTIMATORS))
        return table(head, rows, (3, 4, 5), "What each estimator says when this token was drawn", True)

    def _estimators(self, exact: list[Exact]) -> str:
        rows = [
            [
                f"<b>{one.estimator}</b>",
                escaped(_number(one.mean)),
                escaped("0, unbiased" if abs(one.bias) < _DUST else _signed(one.bias)),
                escaped(_number(one.spread)),
                escaped(_number(one.lowest)),
                escaped(_within(seen.interval.value, seen.interval.high - seen.interval.value)),
                escaped(_FOLLOWS[self.model.follows(one.gradient)]),
            ]
            for one, seen in zip(exact, self.sampled())
        ]
        head = (
            "", "mean (nats)", "bias (nats)", "spread of a draw (nats)", "least value (nats)",
            f"from {self.draws.value:,} draws (nats)", "gradient as a loss",
        )  # fmt: skip
        return table(
            head,
            rows,
            (1, 2, 3, 4, 5),
            "The estimators; last, whose gradient each one has on average when it is a loss",
            True,
        )

    def _gradients(self, exact: list[Exact]) -> str:
        reverse, forward = self.model.divergence_gradient(), self.model.divergence_gradient(forward=True)
        columns = [*(one.gradient for one in exact), reverse, forward]
        rows = [
            [f"“{escaped(token, 40)}”", *(escaped(_signed(float(column[i]))) for column in columns)]
            for i, token in enumerate(self.model.tokens)
        ]
        head = ("logit of", *KL_ESTIMATORS, "KL(new ‖ ref)", "KL(ref ‖ new)")
        return table(
            head,
            rows,
            range(1, 6),
            "Mean gradient for each logit (nats per unit of logit), beside both KLs'",
            True,
        )

    def _words(self, exact: list[Exact]) -> str:
        if self.model.reverse < _DUST:
            return "The two policies are the same: every estimate is 0 for every token. Move a logit."
        k2 = next(one for one in exact if one.estimator == "k2")
        off = abs(k2.bias) / self.model.reverse
        size = "hardly" if off < 0.05 else "visibly" if off < 0.5 else "badly"
        corrected = (
            "With the ratio k1 and k3 have the gradient of the reverse KL; k2 has lost it."
            if self.model.bias_correction
            else "As a loss k1 does nothing but add noise, k2 follows the reverse KL, k3 the forward KL."
        )
        return (
            f"k1 and k3 are right on average; k2 is {size} biased here ({_signed(k2.bias)} nats). {corrected}"
        )

    def static_html(self) -> str:
        exact = self.exact()
        said = facts(
            [
                ("KL(new ‖ ref), exact", f"{_number(self.model.reverse)} nats"),
                ("KL(ref ‖ new), exact", f"{_number(self.model.forward)} nats"),
            ]
        )
        beside = f'<div class="charts pair"><div>{self._distribution(exact)}</div>{self.plot().figure_html()}</div>'
        tables = self._estimators(exact) + self._gradients(exact)
        return f"{said}{beside}{tables}<p>{escaped(self._words(exact))}</p>"

    def describe(self) -> str:
        return (
            f"KL(new ‖ ref) {_number(self.model.reverse)} nats, KL(ref ‖ new) {_number(self.model.forward)} nats. "
            + self._words(self.exact())
        )


def _number(value: float) -> str:
    return number(0.0 if abs(value) < _DUST else value)


def _signed(value: float) -> str:
    """With its sign, since directions are what matters; rounding dust is 0."""
    return "0" if abs(value) < _DUST else f"{'+' if value > 0 else ''}{number(value)}"


def _within(value: float, half: float) -> str:
    """A number and how far it may be off, both with as many decimals as make sense."""
    if half < _DUST:
        return f"{_number(value)} ± 0"
    decimals = max(0, 1 - math.floor(math.log10(half)))
    return f"{value:.{decimals}f} ± {half:.{decimals}f}"


def _share(share: float, color: int) -> str:
    """A probability as a bar and a number, in one line."""
    said = escaped(f"{share:.3f}" if share >= 0.0005 else number(share))
    return f'<span class="together">{bar(share, color)} {said}</span>'
