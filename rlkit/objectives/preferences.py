"""Learning from comparisons: the Bradley–Terry loss, and how far its probabilities can be trusted.

    P(chosen beats rejected) = σ(r_chosen − r_rejected)

R. A. Bradley, M. E. Terry, "Rank analysis of incomplete block designs" (1952). Only differences are learned: adding a
number to every reward changes nothing, which is what the centring term is for.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from rlkit.errors import bad_value


def bradley_terry_loss(
    chosen: Tensor,  # [N]
    rejected: Tensor,  # [N]
    margin: Tensor | None = None,  # [N]
    center_rewards_coefficient: float | None = None,
) -> Tensor:  # [N]
    """The loss of each pair, in nats; its mean over the pairs is what is minimised.

        −log σ(r_chosen − r_rejected − margin) + c · (r_chosen + r_rejected)²

    chosen, rejected: rewards of the two sides of each pair. margin: by how much the chosen side must win (of a rater
    who says how much better it is; Touvron et al. 2023, arXiv:2307.09288, eq. 2); None: 0.
    center_rewards_coefficient: c, which draws the rewards of a pair to a mean of 0 (Eisenstein et al. 2023,
        arXiv:2312.09244, eq. 2); None: no such term.

    A reward that is NaN makes a loss that is NaN: it is the trainer that skips such a step.

    Raises ConfigError for shapes that differ, no pairs, a margin that is not finite, a coefficient below 0.
    """
    _check_pairs(chosen, rejected)
    if margin is not None and margin.shape != chosen.shape:
        raise bad_value("margin", tuple(margin.shape), f"one for each of the {len(chosen)} pairs")
    if margin is not None and not bool(torch.isfinite(margin).all()):
        raise bad_value("margin", margin.tolist(), "finite numbers", "Is there a pair without one?")
    weight = center_rewards_coefficient
    if weight is not None and not 0 <= weight < float("inf"):
        raise bad_value("center_rewards_coefficient", weight, "0 or more, or None")
    gap = chosen - rejected if margin is None else chosen - rejected - margin  # [N]
    loss = F.softplus(-gap)  # [N] −log σ(gap), exact where σ underflows
    return loss + weight * (chosen + rejected) ** 2 if weight else loss


def pairwise_accuracy(chosen: Tensor, rejected: Tensor) -> float:
    """The share of pairs whose chosen side has the higher reward; equal rewards count half.

    Raises ConfigError for shapes that differ, no pairs, or a reward that is not finite.
    """
    return float(_wins(chosen, rejected).mean())


class CalibrationBin(NamedTuple):
    """The pairs of which the model is about equally sure."""

    low: float  # confidence from here …
    high: float  # … to here; the last bin has its end too
    pairs: int
    confidence: float  # what it said, on average
    accuracy: float  # what came true


def calibration(chosen: Tensor, rejected: Tensor, bins: int = 10) -> tuple[float, list[CalibrationBin]]:
    """Expected calibration error of the probabilities that the rewards stand for, and the bins behind it.

    The confidence of a pair is σ(|r_chosen − r_rejected|), from 1/2 to 1, cut into ``bins`` equal intervals:

        ECE = Σ_b (N_b / N) |accuracy_b − mean confidence_b|

    0 where what is said with 80 % comes true in 80 % of the cases. Few pairs make it large by chance: about
    1/(2 √N_b) a bin. Empty bins are left out. Source: Guo et al. 2017, arXiv:1706.04599, eq. 3.

    Raises ConfigError as ``pairwise_accuracy``, and for no bins.
    """
    if bins < 1:
        raise bad_value("bins", bins, "a whole number, 1 or more")
    wins = _wins(chosen, rejected)  # [N]
    confidence = torch.sigmoid((chosen - rejected).detach().double().abs())  # [N]
    place = ((confidence - 0.5) * 2 * bins).long().clamp(max=bins - 1)  # [N]
    found, error = [], 0.0
    for b in range(bins):
        here = place == b  # [N]
        count = int(here.sum())
        if count:
            said, true = float(confidence[here].mean()), float(wins[here].mean())
            found.append(CalibrationBin(0.5 + b / (2 * bins), 0.5 + (b + 1) / (2 * bins), count, said, true))
            error += count / len(wins) * abs(true - said)
    return error, found


class LengthBias(NamedTuple):
    """How far rewards follow length. None where there is no pair to tell from.

    ``longer_chosen`` against ``longer_preferred`` is the question: a model that prefers the longer side more often
    than the rater did has learned that length pays.
    """

    longer_chosen: float | None  # share of the pairs of unequal length whose longer side the rater chose
    longer_preferred: float | None  # … whose longer side the model gives more
    accuracy_longer: float | None  # accuracy where the longer side was chosen
    accuracy_shorter: float | None  # accuracy where the shorter side was chosen
    correlation: float | None  # Pearson's, of reward difference and length difference, over all pairs


def length_bias(
    chosen: Tensor,  # [N]
    rejected: Tensor,  # [N]
    chosen_lengths: Tensor,  # [N]
    rejected_lengths: Tensor,  # [N]
) -> LengthBias:
    """What the rewards make of length; lengths in tokens, or any unit.

    The correlation is that of Δr and Δlength with each pair counted in both orders, so that it does not matter which
    side
    was chosen: Σ Δr Δl / √(Σ Δr² Σ Δl²).

    Raises ConfigError as ``pairwise_accuracy``.
    """
    wins = _wins(chosen, rejected)  # [N]
    if chosen_lengths.shape != chosen.shape or rejected_lengths.shape != chosen.shape:
        raise bad_value("lengths", tuple(chosen_lengths.shape), f"one for each side of {len(chosen)} pairs")
    reward = (chosen - rejected).detach().double()  # [N]
    length = (chosen_lengths - rejected_lengths).double().to(reward.device)  # [N]
    longer, shorter = length > 0, length < 0  # [N] the chosen side is the longer, the shorter one
    unequal = longer | shorter  # [N]
    prefers_longer = torch.where(longer, wins, 1 - wins)  # [N]
    scale = float((reward.square().sum() * length.square().sum()).sqrt())
    return LengthBias(
        _mean(longer.double(), unequal),
        _mean(prefers_longer, unequal),
        _mean(wins, longer),
        _mean(wins, shorter),
        float((reward * length).sum()) / scale if scale > 0 else None,
    )


def _mean(values: Tensor, where: Tensor) -> float | None:
    return float(values[where].mean()) if bool(where.any()) else None


def _wins(chosen: Tensor, rejected: Tensor) -> Tensor:
    """1 where the chosen side has more, 1/2 where both have the same, else 0; [N] in float64."""
    _check_pairs(chosen, rejected)
    for name, rewards in (("chosen", chosen), ("rejected", rejected)):
        lost = (~torch.isfinite(rewards)).nonzero()  # [bad, 1]
        if len(lost):
            i = int(lost[0])
            cause = "The reward model is broken: a learning rate that was too high, or a damaged file."
            raise bad_value(f"{name}[{i}]", float(rewards[i]), "a finite reward", cause)
    return ((chosen - rejected).detach().double().sign() + 1) / 2


def _check_pairs(chosen: Tensor, rejected: Tensor) -> None:
    if chosen.ndim != 1 or chosen.shape != rejected.shape:
        shapes = f"chosen {tuple(chosen.shape)}, rejected {tuple(rejected.shape)}"
        raise bad_value("rewards", shapes, "two vectors of the same length, one entry a pair")
    if not len(chosen):
        raise bad_value("rewards", "no pairs", "at least one pair")
