"""The policy loss against a plain-Python oracle, its invariances, on-policy facts, and what it refuses."""

import math
import subprocess
import sys
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_loss import reference_loss

from rlkit.errors import ConfigError
from rlkit.objectives import (
    KL_ESTIMATORS,
    LOSS_TYPES,
    MISMATCH_MODES,
    LossTotals,
    ObjectiveWarning,
    apply_truncation_mask,
    clipped_term,
    group_advantages,
    mismatch_weight,
    policy_loss,
    token_weights,
)
from rlkit.objectives.names import resolve_level

F64 = torch.float64
LONGEST = 17
#: epsilon, epsilon_high, delta: symmetric, DAPO's asymmetric, two-sided, GSPO's narrow, none
CLIPS = [(0.2, None, None), (0.2, 0.28, None), (0.2, 0.28, 1.5), (3e-4, 4e-4, None), (math.inf, None, None)]

quietly = pytest.mark.filterwarnings("ignore::rlkit.objectives.ObjectiveWarning")


def mask_row(kind, tokens, generator):
    row = torch.ones(tokens, dtype=torch.bool)
    cut = int(torch.randint(0, tokens, (), generator=generator))
    if kind == "right":
        row[tokens - cut :] = False
    elif kind == "left":
        row[:cut] = False
    elif kind == "holes":
        row = torch.rand(tokens, generator=generator) < 0.6
    elif kind == "empty":
        row[:] = False
    return row


@st.composite
def batches(draw, min_rows=1):
    """Random tensors [N, T] in float64 with every kind of mask, ratios on both sides of every bound."""
    rows = draw(st.integers(min_rows, 6))
    tokens = draw(st.integers(1, 7))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    kinds = [draw(st.sampled_from(["full", "right", "left", "holes", "empty"])) for _ in range(rows)]
    mask = torch.stack([mask_row(kind, tokens, generator) for kind in kinds])
    spread = draw(st.sampled_from([0.0, 1e-3, 0.4]))

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=F64)

    old = normal(rows, tokens) - 2.0
    advantages = normal(rows) if draw(st.booleans()) else normal(rows, tokens)
    if draw(st.booleans()):
        advantages[0] = 0.0
    return {
        "logp_new": old + spread * normal(rows, tokens),
        "logp_old": old,
        "advantages": advantages,
        "mask": mask,
        "logp_ref": old + 0.5 * normal(rows, tokens),
        "entropy": normal(rows, tokens).abs(),
        "is_weight": normal(rows, tokens).exp() if draw(st.booleans()) else None,
    }


def run(batch, **settings_):
    """Loss, gradient by logp_new and by entropy, of one call."""
    new = batch["logp_new"].clone().requires_grad_()
    entropy = batch["entropy"].clone().requires_grad_()
    rest = {k: v for k, v in batch.items() if k not in ("logp_new", "entropy")}
    out = policy_loss(new, **rest, entropy=entropy, max_completion_length=LONGEST, **settings_)
    by_new, by_entropy = torch.autograd.grad(out.loss, (new, entropy), allow_unused=True)
    return out, by_new, torch.zeros_like(entropy) if by_entropy is None else by_entropy


def oracle(batch, *, loss_type, importance_sampling_level, clip, totals=None, **settings_):
    shape = batch["mask"].shape
    advantages = batch["advantages"]
    advantages = advantages[:, None].expand(shape) if advantages.dim() == 1 else advantages
    epsilon, epsilon_high, delta = clip
    value, by_new, by_entropy = reference_loss(
        batch["logp_new"].tolist(),
        batch["logp_old"].tolist(),
        advantages.tolist(),
        batch["mask"].int().tolist(),
        ref=batch["logp_ref"].tolist(),
        entropy=batch["entropy"].tolist(),
        is_weight=None if batch["is_weight"] is None else batch["is_weight"].tolist(),
        loss_type=loss_type,
        level=resolve_level(loss_type, importance_sampling_level),
        epsilon=epsilon,
        epsilon_high=epsilon if epsilon_high is None else epsilon_high,
        delta=delta,
        longest=LONGEST,
        rows=None if totals is None else totals.sequences,
        tokens=None if totals is None else totals.tokens,
        **settings_,
    )
    return value, torch.tensor(by_new, dtype=F64), torch.tensor(by_entropy, dtype=F64)


def agree(batch, loss_type, level, clip, totals=None, **shared):
    renamed = dict(shared)
    renamed["use_bias_correction_kl"] = renamed.pop("corrected_kl", False)
    out, by_new, by_entropy = run(
        batch,
        loss_type=loss_type,
        importance_sampling_level=level,
        epsilon=clip[0],
        epsilon_high=clip[1],
        delta=clip[2],
        totals=totals,
        **renamed,
    )
    value, want_new, want_entropy = oracle(
        batch, loss_type=loss_type, importance_sampling_level=level, clip=clip, totals=totals, **shared
    )
    assert out.loss.item() == pytest.approx(value, rel=1e-10, abs=1e-10)
    torch.testing.assert_close(by_new, want_new, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(by_entropy, want_entropy, rtol=1e-10, atol=1e-10)
    parts = out.policy_part + out.kl_part + out.entropy_part
    torch.testing.assert_close(parts, out.loss.detach(), rtol=1e-12, atol=1e-12)


@quietly
@pytest.mark.parametrize("clip", CLIPS, ids=str)
@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@settings(max_examples=25)
@given(data=st.data())
def test_value_and_gradient_against_plain_python(loss_type, level, clip, data):
    if loss_type == "gspo":
        level = None
    batch = data.draw(batches())
    beta = data.draw(st.sampled_from([0.0, 0.04, 1.0]))
    agree(
        batch,
        loss_type,
        level,
        clip,
        beta=beta,
        kl_estimator=data.draw(st.sampled_from(KL_ESTIMATORS)),
        corrected_kl=data.draw(st.booleans()),
        entropy_coef=data.draw(st.sampled_from([0.0, 0.01])),
        totals=data.draw(st.sampled_from([None, LossTotals(31, 257)])),
    )


@quietly
@pytest.mark.parametrize("corrected_kl", [False, True])
@pytest.mark.parametrize("kl_estimator", KL_ESTIMATORS)
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@settings(max_examples=10)
@given(batch=batches())
def test_every_kl_estimator_in_every_loss(loss_type, kl_estimator, corrected_kl, batch):
    agree(batch, loss_type, None, CLIPS[2], beta=0.3, kl_estimator=kl_estimator, corrected_kl=corrected_kl)


@quietly
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@settings(max_examples=40)
@given(data=st.data())
def test_micro_batches_add_up_however_the_batch_is_cut(loss_type, data):
    batch = data.draw(batches(min_rows=2))
    rows = batch["mask"].shape[0]
    totals = LossTotals.from_mask(batch["mask"])
    shared = {
        "loss_type": loss_type,
        "epsilon_high": 0.28,
        "beta": 0.1,
        "entropy_coef": 0.01,
        "totals": totals,
    }
    whole, whole_new, whole_entropy = run(batch, **shared)
    without, without_new, _ = run(batch, **{**shared, "totals": None})
    assert without.loss.item() == whole.loss.item()
    assert torch.equal(without_new, whole_new)

    cuts = sorted(data.draw(st.sets(st.integers(1, rows - 1))))
    order = torch.tensor(data.draw(st.permutations(range(rows))))
    loss = 0.0
    by_new, by_entropy = torch.zeros_like(whole_new), torch.zeros_like(whole_entropy)
    for start, stop in zip([0, *cuts], [*cuts, rows], strict=True):
        chosen = order[start:stop]
        part = {k: None if v is None else v[chosen] for k, v in batch.items()}
        out, part_new, part_entropy = run(part, **shared)
        loss += out.loss.item()
        by_new[chosen] += part_new
        by_entropy[chosen] += part_entropy
    assert loss == pytest.approx(whole.loss.item(), rel=1e-12, abs=1e-12)
    torch.testing.assert_close(by_new, whole_new, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(by_entropy, whole_entropy, rtol=1e-12, atol=1e-12)


def ragged(lengths, tokens):
    return torch.arange(tokens)[None, :] < torch.tensor(lengths)[:, None]


def test_without_totals_a_cut_changes_the_gradient():
    """The check above can fail: each micro-batch by its own counts is a different objective."""
    mask = ragged([1, 5], 5)
    new = torch.zeros(2, 5, dtype=F64, requires_grad=True)
    a = torch.tensor([1.0, -1.0], dtype=F64)
    whole = torch.autograd.grad(policy_loss(new, None, a, mask, loss_type="dapo").loss, new)[0]
    cut = torch.zeros_like(whole)
    for i in range(2):
        row = policy_loss(new[i : i + 1], None, a[i : i + 1], mask[i : i + 1], loss_type="dapo")
        cut += torch.autograd.grad(row.loss / 2, new)[0]
    assert not torch.allclose(whole, cut)


@quietly
@pytest.mark.parametrize("garbage", [math.nan, math.inf, -math.inf, 1e30])
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_what_is_masked_reaches_nothing(loss_type, garbage):
    torch.manual_seed(0)
    mask = torch.tensor([[1, 1, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0]])
    off = mask == 0
    shape = mask.shape
    clean = {
        "logp_new": torch.randn(shape, dtype=F64) - 2,
        "logp_old": torch.randn(shape, dtype=F64) - 2,
        "advantages": torch.randn(shape, dtype=F64),
        "mask": mask,
        "logp_ref": torch.randn(shape, dtype=F64) - 2,
        "entropy": torch.rand(shape, dtype=F64),
        "is_weight": torch.rand(shape, dtype=F64),
    }
    dirty = {k: v if k == "mask" else torch.where(off, garbage, v) for k, v in clean.items()}
    shared = {"loss_type": loss_type, "beta": 0.1, "entropy_coef": 0.01, "delta": 1.5}
    want, want_new, want_entropy = run(clean, **shared)
    got, got_new, got_entropy = run(dirty, **shared)
    assert got.loss.item() == want.loss.item()
    assert torch.isfinite(got.loss)
    assert torch.equal(got_new, want_new) and torch.equal(got_entropy, want_entropy)
    assert (got_new[off] == 0).all() and (got_new[~off] != 0).any()
    assert got.kl is not None and (got.kl[off] == 0).all()
    assert (got.ratio[off] == 1).all() and (got.log_ratio[off] == 0).all()
    assert not (got.clipped_low | got.clipped_high | got.capped)[off].any()


@quietly
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_a_batch_without_any_active_token_gives_zero(loss_type):
    new = torch.zeros(2, 3, requires_grad=True)
    mask = torch.zeros(2, 3)
    out = policy_loss(new, None, torch.ones(2), mask, loss_type=loss_type, max_completion_length=3)
    out.loss.backward()
    assert out.loss.item() == 0.0
    assert torch.equal(new.grad, torch.zeros(2, 3))


# --- On-policy facts -------------------------------------------------------------------------------------


def on_policy(loss_type, lengths):
    rewards = torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    a = group_advantages(rewards).values.flatten()
    mask = ragged(lengths, 5)
    new = torch.full((4, 5), -1.5, dtype=F64, requires_grad=True)
    out = policy_loss(new, new, a, mask, loss_type=loss_type, max_completion_length=5, epsilon=1e-3)
    return out, torch.autograd.grad(out.loss, new)[0], a, mask


@pytest.mark.parametrize("loss_type", ["grpo", "gspo"])
def test_on_policy_the_loss_is_zero_and_the_gradient_is_the_policy_gradient(loss_type):
    out, grad, a, mask = on_policy(loss_type, [1, 2, 3, 5])
    assert out.loss.item() == 0.0
    want = torch.where(mask, -a[:, None] / mask.sum(1, keepdim=True) / 4, 0.0)
    torch.testing.assert_close(grad, want, rtol=1e-14, atol=0)
    assert grad.norm() > 0.3
    assert (out.ratio == 1).all()


@pytest.mark.parametrize("loss_type", ["dapo", "bnpo", "dr_grpo"])
def test_on_policy_losses_that_weigh_by_length_are_zero_for_equal_lengths_only(loss_type):
    out, grad, a, mask = on_policy(loss_type, [1, 2, 3, 5])
    divisor = 20 if loss_type == "dr_grpo" else 11
    want = -(a * mask.sum(1)).sum().item() / divisor
    assert out.loss.item() == pytest.approx(want, rel=1e-12)
    assert abs(out.loss.item()) > 0.1
    torch.testing.assert_close(grad, torch.where(mask, -a[:, None] / divisor, 0.0), rtol=1e-14, atol=0)
    assert on_policy(loss_type, [3, 3, 3, 3])[0].loss.item() == pytest.approx(0.0, abs=1e-16)


def test_all_but_the_new_policy_is_detached_and_none_means_on_policy():
    new = torch.full((2, 3), -1.0, requires_grad=True)
    old = torch.full((2, 3), -1.1, requires_grad=True)
    a, mask = torch.tensor([1.0, -1.0]), torch.ones(2, 3)
    policy_loss(new, old, a, mask).loss.backward()
    assert old.grad is None
    weight = torch.ones(2, requires_grad=True)
    policy_loss(new, old, a.requires_grad_(), mask, is_weight=weight).loss.backward()
    assert a.grad is None and weight.grad is None
    left = policy_loss(new, None, a, mask)
    right = policy_loss(new, new.detach(), a, mask)
    assert left.loss.item() == right.loss.item()


# --- Clipping, in numbers that can be checked in the head ------------------------------------------------


@pytest.mark.parametrize(
    ("rho", "a", "delta", "objective", "slope", "flag"),
    [
        (1.1, 1.0, None, 1.1, 1.0, None),
        (1.5, 1.0, None, 1.28, 0.0, "high"),  # good and likelier already: enough
        (1.5, -1.0, None, -1.5, -1.0, None),  # bad and likelier: pushed down at full strength
        (0.5, 1.0, None, 0.5, 1.0, None),  # good and unlikelier: pushed up
        (0.5, -1.0, None, -0.8, 0.0, "low"),  # bad and unlikelier already: enough
        (9.0, -1.0, None, -9.0, -1.0, None),  # the open side
        (9.0, -1.0, 1.5, -1.5, 0.0, "capped"),  # closed by delta
        (9.0, 1.0, 1.5, 1.28, 0.0, "high"),  # delta changes nothing where A > 0
        (9.0, 0.0, 1.5, 0.0, 0.0, None),
    ],
)
def test_clipping_case_by_case(rho, a, delta, objective, slope, flag):
    ratio = torch.tensor([[rho]], dtype=F64, requires_grad=True)
    out = clipped_term(ratio, torch.tensor([[a]], dtype=F64), epsilon=0.2, epsilon_high=0.28, delta=delta)
    (grad,) = torch.autograd.grad(out.objective.sum(), ratio)
    assert out.objective.item() == pytest.approx(objective, rel=1e-15)
    assert grad.item() == slope
    assert {name for name in ("low", "high", "capped") if getattr(out, name).item()} == ({flag} - {None})


def test_flags_and_ratios_are_reported_per_token():
    log_ratio = torch.log(torch.tensor([[0.5, 1.0, 2.0], [0.5, 1.0, 2.0]], dtype=F64))
    old = torch.full((2, 3), -1.0, dtype=F64)
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    out = policy_loss(old + log_ratio, old, torch.tensor([1.0, -1.0]), mask, delta=1.5)
    assert out.clipped_high.tolist() == [[False, False, True], [False, False, False]]
    assert out.clipped_low.tolist() == [[False, False, False], [True, False, False]]
    assert not out.capped.any()
    assert not out.ratio.requires_grad
    torch.testing.assert_close(out.ratio, torch.tensor([[0.5, 1.0, 2.0], [0.5, 1.0, 1.0]], dtype=F64))
    by_sequence = policy_loss(old + log_ratio, old, torch.tensor([1.0, -1.0]), mask, loss_type="gspo",
                              epsilon=1e-3)  # fmt: skip
    half = 2**-0.5
    torch.testing.assert_close(by_sequence.ratio, torch.tensor([[1, 1, 1], [half, half, 1]], dtype=F64))
    assert by_sequence.clipped_low.tolist() == [[False, False, False], [True, True, False]]


def test_kl_is_reported_without_beta_but_not_added():
    new, ref = torch.full((1, 2), -1.0), torch.full((1, 2), -2.0)
    out = policy_loss(new, None, torch.ones(1), torch.ones(1, 2), logp_ref=ref, kl_estimator="k1")
    assert out.kl is not None and out.kl.tolist() == [[1.0, 1.0]]
    assert out.kl_part.item() == 0.0 and out.loss.item() == -1.0
    assert policy_loss(new, None, torch.ones(1), torch.ones(1, 2)).kl is None


def test_is_weight_leaves_the_kl_term_alone_and_takes_every_shape():
    torch.manual_seed(1)
    new, ref = torch.randn(2, 3, dtype=F64), torch.randn(2, 3, dtype=F64)
    a, mask, w = torch.randn(2, dtype=F64), torch.ones(2, 3), torch.tensor([0.0, 2.0], dtype=F64)
    plain = policy_loss(new, None, a, mask, logp_ref=ref, beta=0.1)
    none = policy_loss(new, None, a, mask, logp_ref=ref, beta=0.1, is_weight=torch.zeros(2))
    assert none.policy_part == 0 and none.kl_part == plain.kl_part
    losses = [
        policy_loss(new, None, a, mask, logp_ref=ref, beta=0.1, is_weight=x).loss.item()
        for x in (w, w[:, None], w[:, None].expand(2, 3))
    ]
    assert losses[0] == losses[1] == losses[2]
    assert losses[0] == pytest.approx(-a[1].item() * 2 / 2 + plain.kl_part.item())


# --- Normalisers -----------------------------------------------------------------------------------------


def test_token_weights_by_hand():
    mask = ragged([1, 4], 4)
    totals = LossTotals.from_mask(mask)
    assert totals == LossTotals(sequences=2, tokens=5)
    assert token_weights(mask, "grpo").tolist() == [[0.5, 0, 0, 0], [0.125] * 4]
    assert token_weights(mask, "dapo").tolist() == [[0.2, 0, 0, 0], [0.2] * 4]
    assert torch.equal(token_weights(mask, "bnpo"), token_weights(mask, "dapo"))
    assert token_weights(mask, "dr_grpo", max_completion_length=10).tolist() == [[0.05, 0, 0, 0], [0.05] * 4]
    assert token_weights(mask, "dapo", totals=LossTotals(8, 50)).sum().item() == pytest.approx(0.1)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
def test_truncated_completions_count_as_sequences_but_not_as_tokens(dtype):
    mask = ragged([2, 4], 4).to(dtype)
    masked = apply_truncation_mask(mask, torch.tensor([False, True]))
    assert masked.dtype == dtype
    assert masked.bool().tolist() == [[True, True, False, False], [False] * 4]
    assert mask[1].bool().all()  # the original is untouched
    assert LossTotals.from_mask(masked) == LossTotals(sequences=2, tokens=2)
    assert token_weights(masked, "grpo").tolist() == [[0.25, 0.25, 0, 0], [0.0] * 4]


# --- Engine and trainer disagree ----------------------------------------------------------------------------


def test_mismatch_weights_by_hand():
    old = torch.log(torch.tensor([[0.5, 0.4, 0.9], [0.8, 0.6, 0.1]], dtype=F64))
    engine = torch.log(torch.tensor([[0.25, 0.5, 0.1], [0.1, 0.6, math.nan]], dtype=F64))
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    raw = {"token": [[2.0, 0.8, 1.0], [8.0, 1.0, 1.0]], "sequence": [[1.6, 1.6, 1.0], [8.0] * 3]}
    raw["geometric"] = [[math.sqrt(1.6)] * 2 + [1.0], [2.0] * 3]
    for mode in MISMATCH_MODES:
        level, action = mode.split("_")
        got = mismatch_weight(old, engine, mask, mode=mode, clip_max=3.0, clip_min=0.9)
        for i, t in [(i, t) for i in range(2) for t in range(3)]:
            x = raw[level][i][t]
            if mask[i, t]:
                inside = min(max(x, 0.9), 3.0)
                x = inside if action == "truncate" else (x if inside == x else 0.0)
            assert got[i, t].item() == pytest.approx(x, rel=1e-12), (mode, i, t)


def test_mismatch_weight_is_one_when_engine_and_trainer_agree():
    logp = torch.randn(3, 4)
    for mode in MISMATCH_MODES:
        assert (mismatch_weight(logp, logp, torch.ones(3, 4), mode=mode) == 1).all()


# --- Low precision ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_log_probabilities_are_added_up_in_float32(dtype):
    torch.manual_seed(2)
    new = (torch.randn(4, 6) - 2).to(dtype).requires_grad_()
    a, mask = torch.randn(4, dtype=F64), torch.ones(4, 6)
    out = policy_loss(new, None, a, mask)
    assert out.loss.dtype == torch.float32
    assert out.loss.item() == pytest.approx(-a.mean().item(), rel=1e-6)
    out.loss.backward()
    assert new.grad.dtype == dtype


# --- What is refused, and what is warned of --------------------------------------------------------------


def call(**changes):
    arguments = {
        "logp_new": torch.zeros(2, 3),
        "logp_old": torch.zeros(2, 3),
        "advantages": torch.ones(2),
        "mask": torch.ones(2, 3),
    }
    return policy_loss(**{**arguments, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss_type": "dr-grpo"}, "Did you mean 'dr_grpo'"),
        ({"importance_sampling_level": "word"}, "importance_sampling_level"),
        ({"loss_type": "gspo", "importance_sampling_level": "token"}, "GSPO is GRPO with one ratio"),
        ({"kl_estimator": "k4"}, "kl_estimator"),
        ({"loss_type": "dr_grpo"}, "max_completion_length=None"),
        ({"loss_type": "dr_grpo", "max_completion_length": 0}, "max_completion_length=0"),
        ({"epsilon": -0.1}, "epsilon=-0.1"),
        ({"epsilon": math.nan}, "epsilon=nan"),
        ({"epsilon_high": -0.1}, "epsilon_high=-0.1"),
        ({"delta": 1.2}, "delta=1.2"),
        ({"delta": 1.28, "epsilon_high": 0.28}, "above 1 [+] epsilon_high = 1.28"),
        ({"beta": 0.1}, "beta=0.1 .* without logp_ref"),
        ({"beta": -0.1, "logp_ref": torch.zeros(2, 3)}, "beta=-0.1"),
        ({"entropy_coef": 0.1}, "without entropy"),
        ({"entropy_coef": math.inf, "entropy": torch.zeros(2, 3)}, "entropy_coef=inf"),
        ({"logp_new": torch.zeros(6)}, "logp_new"),
        ({"logp_new": torch.zeros(2, 3, dtype=torch.int64)}, "int64"),
        ({"logp_old": torch.zeros(2, 4)}, "logp_old"),
        ({"mask": torch.ones(2)}, "mask"),
        ({"logp_ref": torch.zeros(3, 2)}, "logp_ref"),
        ({"entropy": torch.zeros(1, 3)}, "entropy"),
        ({"advantages": torch.ones(2, 1)}, "advantages"),
        ({"advantages": torch.ones(1, 2)}, "flattened"),
        ({"is_weight": torch.ones(3)}, "is_weight"),
    ],
)
def test_refusals_name_the_argument(changes, message):
    with pytest.raises(ConfigError, match=message):
        call(**changes)


def test_other_refusals():
    with pytest.raises(ConfigError, match="truncated"):
        apply_truncation_mask(torch.ones(2, 3), torch.tensor([True]))
    with pytest.raises(ConfigError, match="mask"):
        LossTotals.from_mask(torch.ones(3))
    with pytest.raises(ConfigError, match="loss_type"):
        token_weights(torch.ones(2, 3), "ppo")
    x = torch.zeros(2, 3)
    with pytest.raises(ConfigError, match="sequence_mask"):
        mismatch_weight(x, x, x, mode="sequence_maks")
    with pytest.raises(ConfigError, match="clip_min"):
        mismatch_weight(x, x, x, clip_min=4.0)
    with pytest.raises(ConfigError, match="logp_engine"):
        mismatch_weight(x, torch.zeros(2, 4), x)


def test_warnings_speak_up_where_a_setting_does_nothing():
    ref = torch.zeros(2, 3)
    with pytest.warns(ObjectiveWarning, match="3e-4"):
        call(loss_type="gspo")
    with pytest.warns(ObjectiveWarning, match="epsilon 0.28"):
        call(importance_sampling_level="sequence", epsilon=1e-3, epsilon_high=0.28)
    with pytest.warns(ObjectiveWarning, match="k1"):
        call(beta=0.1, logp_ref=ref, kl_estimator="k1")
    with pytest.warns(ObjectiveWarning, match="carries no gradient"):
        call(logp_new=torch.zeros(2, 3, requires_grad=True), entropy=ref, entropy_coef=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        call()
        call(loss_type="gspo", epsilon=3e-4, epsilon_high=4e-4)
        call(beta=0.1, logp_ref=ref, kl_estimator="k1", use_bias_correction_kl=True)
        call(entropy=ref, entropy_coef=0.1)  # nothing is trained here, so nothing is missed


def test_the_warning_points_at_the_caller():
    with pytest.warns(ObjectiveWarning) as caught:
        policy_loss(torch.zeros(1, 1), None, torch.ones(1), torch.ones(1, 1), loss_type="gspo")
    assert caught[0].filename == __file__


# --- The package -----------------------------------------------------------------------------------------


def test_names_load_without_torch_and_the_function_is_not_hidden_by_a_module():
    code = (
        "import sys; from rlkit.objectives.names import LOSS_TYPES;"
        "from rlkit.objectives import KL_ESTIMATORS;"
        "assert 'torch' not in sys.modules, 'torch was loaded';"
        "import rlkit.objectives.loss; from rlkit.objectives import policy_loss;"
        "assert callable(policy_loss);"
        "import rlkit.objectives as o; assert all(hasattr(o, name) for name in o.__all__);"
        "assert not hasattr(o, 'nonsense')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_a_clipped_ratio_that_overflows_has_gradient_zero(level):
    """exp(100) is infinite in float32, and 0 · ∞ is not a number."""
    new = torch.full((1, 2), -1.0, requires_grad=True)
    old = torch.full((1, 2), -101.0)
    settings = {"loss_type": "grpo", "importance_sampling_level": level, "epsilon": 0.2}
    out = policy_loss(new, old, torch.ones(1), torch.ones(1, 2), **settings)
    out.loss.backward()
    assert new.grad.tolist() == [[0.0, 0.0]] and out.loss.item() == pytest.approx(-1.2)
