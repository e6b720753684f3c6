"""Bradley–Terry, calibration and length bias against plain float64 loops."""

from __future__ import annotations

import math

import pytest
import torch

from rlkit.errors import ConfigError
from rlkit.objectives.preferences import bradley_terry_loss, calibration, length_bias, pairwise_accuracy


def sides(n: int = 17, seed: int = 0, scale: float = 2.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    chosen, rejected = scale * torch.randn(2, n, generator=generator, dtype=torch.float64)
    return chosen + 0.5, rejected


def loop_loss(chosen, rejected, margin, weight):
    """One pair after the other, on Python's floats: the loss, and its derivatives by hand."""
    losses, by_chosen, by_rejected = [], [], []
    for c, r, m in zip(chosen.tolist(), rejected.tolist(), margin, strict=True):
        p = 1 / (1 + math.exp(-(c - r - m)))
        losses.append(-math.log(p) + weight * (c + r) ** 2)
        by_chosen.append(-(1 - p) + 2 * weight * (c + r))
        by_rejected.append((1 - p) + 2 * weight * (c + r))
    return losses, by_chosen, by_rejected


@pytest.mark.parametrize("margins", [False, True])
@pytest.mark.parametrize("weight", [None, 0.0, 0.01, 0.7])
def test_loss_and_gradient_are_those_of_the_loop(margins, weight):
    chosen, rejected = (side.requires_grad_() for side in sides())
    margin = torch.linspace(-1, 2, 17, dtype=torch.float64) if margins else None
    loss = bradley_terry_loss(chosen, rejected, margin, weight)
    loss.sum().backward()
    values = [0.0] * 17 if margin is None else margin.tolist()
    losses, by_chosen, by_rejected = loop_loss(chosen, rejected, values, weight or 0.0)
    for found, wanted in ((loss, losses), (chosen.grad, by_chosen), (rejected.grad, by_rejected)):
        torch.testing.assert_close(found.detach(), torch.tensor(wanted).double(), rtol=0, atol=1e-6)
        assert max(abs(a - b) for a, b in zip(found.tolist(), wanted, strict=True)) < 1e-12


def test_trl_gives_the_same_mean():
    """TRL's formula, written out: −logsigmoid(r_c − r_r − margin).mean() + c · mean((r_c + r_r)²)."""
    chosen, rejected = sides()
    margin = torch.rand(17, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    theirs = -torch.nn.functional.logsigmoid(chosen - rejected - margin).mean()
    theirs = theirs + 0.01 * ((chosen + rejected) ** 2).mean()
    ours = bradley_terry_loss(chosen, rejected, margin, 0.01).mean()
    assert abs(float(ours - theirs)) < 1e-14


def test_only_differences_count_until_rewards_are_centred():
    chosen, rejected = sides()
    plain = bradley_terry_loss(chosen, rejected)
    torch.testing.assert_close(bradley_terry_loss(chosen + 3, rejected + 3), plain, rtol=0, atol=1e-12)
    centred = bradley_terry_loss(chosen + 3, rejected + 3, center_rewards_coefficient=0.01)
    assert (centred > plain + 0.01).any()


def test_loss_is_exact_where_the_sigmoid_underflows():
    chosen = torch.tensor([0.0, 1000.0], requires_grad=True)
    loss = bradley_terry_loss(chosen, torch.tensor([1000.0, 0.0]))
    loss.sum().backward()
    assert loss.tolist() == [1000.0, 0.0]
    assert chosen.grad.tolist() == [-1.0, 0.0]


def test_accuracy_counts_equal_rewards_half():
    assert pairwise_accuracy(torch.tensor([1.0, 0.0, 2.0, 5.0]), torch.tensor([0.0, 1.0, 2.0, 4.0])) == 0.625


@pytest.mark.parametrize("bins", [1, 3, 10])
def test_calibration_is_that_of_the_loop(bins):
    chosen, rejected = sides(200)
    error, found = calibration(chosen, rejected, bins)
    groups: dict[int, list[tuple[float, float]]] = {}
    for c, r in zip(chosen.tolist(), rejected.tolist(), strict=True):
        confidence = 1 / (1 + math.exp(-abs(c - r)))
        groups.setdefault(min(int((confidence - 0.5) * 2 * bins), bins - 1), []).append(
            (confidence, float(c > r))
        )
    wanted = sum(
        abs(sum(won for _, won in group) - sum(said for said, _ in group)) for group in groups.values()
    )
    assert abs(error - wanted / 200) < 1e-12
    assert [b.pairs for b in found] == [len(groups[b]) for b in sorted(groups)]
    assert all(b.low <= b.confidence <= b.high for b in found)


def test_calibration_of_probabilities_that_come_true_goes_to_zero():
    generator = torch.Generator().manual_seed(0)
    gap = torch.randn(40_000, generator=generator, dtype=torch.float64) * 2
    won = torch.rand(40_000, generator=generator, dtype=torch.float64) < torch.sigmoid(gap)
    true = torch.where(won, gap, -gap)  # the winner stands first
    zero = torch.zeros_like(gap)
    assert calibration(true, zero)[0] < 0.02
    assert calibration(3 * true, zero)[0] > 0.08  # too sure of itself
    assert calibration(true / 5, zero)[0] > 0.08  # too modest


def test_length_bias_is_that_of_the_loop():
    chosen, rejected = sides(30)
    lengths = torch.randint(1, 6, (2, 30), generator=torch.Generator().manual_seed(3))
    found = length_bias(chosen, rejected, *lengths)
    rows = list(zip(chosen.tolist(), rejected.tolist(), *lengths.tolist(), strict=True))
    unequal = [row for row in rows if row[2] != row[3]]
    longer = [row for row in rows if row[2] > row[3]]
    shorter = [row for row in rows if row[2] < row[3]]
    assert 0 < len(unequal) < 30 and longer and shorter
    assert found.longer_chosen == pytest.approx(len(longer) / len(unequal))
    preferred = [(c > r) == (a > b) for c, r, a, b in unequal]
    assert found.longer_preferred == pytest.approx(sum(preferred) / len(unequal))
    assert found.accuracy_longer == pytest.approx(sum(c > r for c, r, _, _ in longer) / len(longer))
    assert found.accuracy_shorter == pytest.approx(sum(c > r for c, r, _, _ in shorter) / len(shorter))
    both = [(c - r, a - b) for c, r, a, b in rows] + [(r - c, b - a) for c, r, a, b in rows]
    pearson = torch.corrcoef(torch.tensor(both, dtype=torch.float64).T)[0, 1]
    assert found.correlation == pytest.approx(float(pearson), abs=1e-12)


def test_length_bias_of_a_reward_that_is_length():
    lengths = torch.tensor([[3, 9, 4], [5, 2, 8]])
    found = length_bias(lengths[0].double(), lengths[1].double(), *lengths)
    assert found.longer_preferred == 1 and found.correlation == pytest.approx(1)
    assert found.accuracy_longer == 1 and found.accuracy_shorter == 0
    same = torch.tensor([4, 4, 4])
    nothing = length_bias(lengths[0].double(), lengths[1].double(), same, same)
    assert nothing == (None, None, None, None, None)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda x: bradley_terry_loss(x, x[:2]), "same length"),
        (lambda x: bradley_terry_loss(x[None], x[None]), "same length"),
        (lambda x: bradley_terry_loss(x[:0], x[:0]), "no pairs"),
        (lambda x: bradley_terry_loss(x, x, x[:1]), "margin"),
        (lambda x: bradley_terry_loss(x, x, x * math.nan), "margin"),
        (lambda x: bradley_terry_loss(x, x, None, -0.1), "center_rewards_coefficient"),
        (lambda x: pairwise_accuracy(x, x * math.nan), r"rejected\[0\]=nan"),
        (lambda x: pairwise_accuracy(x / torch.tensor([1, 0, 1]), x), r"chosen\[1\]=inf"),
        (lambda x: calibration(x * math.nan, x), "finite reward"),
        (lambda x: calibration(x, x, 0), "bins"),
        (lambda x: length_bias(x, x, x[:1], x), "lengths"),
    ],
)
def test_what_cannot_be_is_refused(call, said):
    with pytest.raises(ConfigError, match=said):
        call(torch.tensor([1.0, 2.0, 3.0]))
