"""The policy loss against TRL's own numbers: its GRPOTrainer._compute_loss, run on the same tensors.

TRL's method is called without its trainer: it gets an object that holds the settings it reads, and a model
whose log-probabilities are ours.
"""

from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

from rlkit.objectives import LossTotals, apply_truncation_mask, mismatch_weight, policy_loss

pytest.importorskip("trl")
from trl import GRPOTrainer

N, T, LONGEST = 6, 9, 12
LENGTHS = [9, 1, 4, 7, 2, 9]

pytestmark = pytest.mark.filterwarnings("ignore::rlkit.objectives.ObjectiveWarning")


def tensors(seed=0, dtype=torch.float32):
    """One batch [N, T]: ratios beyond every bound, ragged lengths, a hole, a wholly masked completion."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    mask = torch.arange(T)[None, :] < torch.tensor(LENGTHS)[:, None]
    mask[3, 2] = False  # a tool's token inside a completion
    mask = apply_truncation_mask(mask, torch.tensor([False] * 5 + [True]))
    old = normal(N, T) - 2
    batch = {
        "logp_new": old + 0.35 * normal(N, T),
        "logp_old": old,
        "logp_ref": old + 0.3 * normal(N, T),
        "logp_engine": old + 0.2 * normal(N, T),
        "entropy": normal(N, T).abs(),
        "advantages": normal(N),
    }
    return {k: v.to(dtype) for k, v in batch.items()} | {"mask": mask}


def trl_loss(batch, rows=slice(None), *, accumulation=1, steps=1, **options):
    """TRL's loss of some rows of the batch, its gradient by logp_new and by entropy, and its metrics."""
    new = batch["logp_new"][rows].clone().requires_grad_()
    entropy = batch["entropy"][rows].clone().requires_grad_()
    mask = batch["mask"]
    options = {
        "loss_type": "grpo",
        "importance_sampling_level": "token",
        "epsilon": 0.2,
        "epsilon_high": None,
        "delta": None,
        "beta": 0.0,
        "use_bias_correction_kl": False,
        "entropy_coef": 0.0,
        "is_weight": None,
        "old": True,
    } | options
    high = options["epsilon"] if options["epsilon_high"] is None else options["epsilon_high"]
    accelerator = SimpleNamespace(
        num_processes=1,
        sync_gradients=True,
        gather=lambda x: x,
        reduce=lambda x, reduction: x,
    )
    args = SimpleNamespace(
        delta=options["delta"],
        use_bias_correction_kl=options["use_bias_correction_kl"],
        steps_per_generation=steps,
    )
    trainer = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *a, **k: (new, entropy, None),
        _metrics={"train": defaultdict(list), "eval": defaultdict(list)},
        accelerator=accelerator,
        args=args,
        aux_loss_enabled=False,
        beta=options["beta"],
        current_gradient_accumulation_steps=accumulation,
        entropy_coef=options["entropy_coef"],
        _entropy_bonus_enabled=options["entropy_coef"] != 0,
        epsilon_low=options["epsilon"],
        epsilon_high=high,
        importance_sampling_level=options["importance_sampling_level"],
        loss_type=options["loss_type"],
        max_completion_length=LONGEST,
        model=SimpleNamespace(training=True),
        off_policy_mask_threshold=None,
        top_entropy_quantile=1.0,
        use_adaptive_entropy=False,
        use_vllm=options["is_weight"] is not None,
        vllm_importance_sampling_correction=True,
    )
    n = new.shape[0]
    inputs = {
        "prompt_ids": torch.zeros(n, 1, dtype=torch.long),
        "prompt_mask": torch.ones(n, 1, dtype=torch.long),
        "completion_ids": torch.zeros(n, T, dtype=torch.long),
        "completion_mask": mask[rows].int(),
        "advantages": batch["advantages"][rows],
        "ref_per_token_logps": batch["logp_ref"][rows],
        "num_items_in_batch": mask.sum(),
    }
    if options["old"]:
        inputs["old_per_token_logps"] = batch["logp_old"][rows]
    if options["is_weight"] is not None:
        inputs["importance_sampling_ratio"] = options["is_weight"][rows]
    loss = GRPOTrainer._compute_loss(trainer, None, inputs)
    grads = torch.autograd.grad(loss, (new, entropy), allow_unused=True)
    return loss.item(), *grads, trainer._metrics["train"]


def our_loss(batch, rows=slice(None), **options):
    new = batch["logp_new"][rows].clone().requires_grad_()
    entropy = batch["entropy"][rows].clone().requires_grad_()
    old = batch["logp_old"][rows] if options.pop("old", True) else None
    weight = options.pop("is_weight", None)
    out = policy_loss(
        new,
        old,
        batch["advantages"][rows],
        batch["mask"][rows],
        logp_ref=batch["logp_ref"][rows],
        entropy=entropy,
        is_weight=None if weight is None else weight[rows],
        max_completion_length=LONGEST,
        **options,
    )
    return out.loss.item(), *torch.autograd.grad(out.loss, (new, entropy), allow_unused=True), out


CLIPS = {
    "plain": {},
    "asymmetric": {"epsilon_high": 0.28},
    "delta": {"epsilon_high": 0.28, "delta": 1.5},
    "sequence": {"importance_sampling_level": "sequence", "epsilon": 0.03, "epsilon_high": 0.04},
    "sequence and delta": {"importance_sampling_level": "sequence", "epsilon": 0.03, "delta": 1.1},
    "on-policy": {"old": False},
}
KLS = {
    "no KL": {},
    "KL": {"beta": 0.3},
    "KL times ratio": {"beta": 0.3, "use_bias_correction_kl": True},
}


@pytest.mark.parametrize("kl", KLS)
@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dr_grpo", "dapo"])
def test_one_micro_batch(loss_type, clip, kl):
    for seed in range(5):
        batch = tensors(seed)
        options = {"loss_type": loss_type, **CLIPS[clip], **KLS[kl]}
        want, want_grad, _, _ = trl_loss(batch, **options)
        got, got_grad, _, _ = our_loss(batch, **options)
        assert got == pytest.approx(want, rel=1e-5, abs=1e-6)
        torch.testing.assert_close(got_grad, want_grad, rtol=1e-5, atol=1e-6)
        assert want_grad.abs().max() > 1e-3


@pytest.mark.parametrize("clip", CLIPS)
def test_the_clip_fractions(clip):
    batch = tensors(1)
    batch["mask"] = batch["mask"].clone()
    batch["mask"][5] = True  # TRL's minimum over completions is NaN with a wholly masked one
    _, _, _, metrics = trl_loss(batch, **CLIPS[clip])
    out = our_loss(batch, **CLIPS[clip])[3]
    if "sequence" in clip:  # TRL counts completions there
        low, high = out.clipped_low.any(1).float().mean(), out.clipped_high.any(1).float().mean()
    else:
        low, high = (flags.sum() / batch["mask"].sum() for flags in (out.clipped_low, out.clipped_high))
    assert low.item() == pytest.approx(metrics["clip_ratio/low_mean"][0], rel=1e-6)
    assert high.item() == pytest.approx(metrics["clip_ratio/high_mean"][0], rel=1e-6)
    if clip != "on-policy":
        assert low > 0 and high > 0


def test_gspo_is_trl_s_grpo_at_sequence_level():
    batch = tensors(2)
    width = {"epsilon": 3e-4, "epsilon_high": 4e-4}
    want, want_grad, _, _ = trl_loss(batch, importance_sampling_level="sequence", **width)
    got, got_grad, _, _ = our_loss(batch, loss_type="gspo", **width)
    assert got == pytest.approx(want, rel=1e-5)
    torch.testing.assert_close(got_grad, want_grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("loss_type", ["dapo", "bnpo"])
def test_the_entropy_bonus_of_the_losses_that_count_tokens(loss_type):
    batch = tensors(3)
    options = {"loss_type": loss_type, "entropy_coef": 0.05}
    want, want_grad, want_entropy, _ = trl_loss(batch, **options)
    got, got_grad, got_entropy, _ = our_loss(batch, **options)
    assert got == pytest.approx(want, rel=1e-5)
    torch.testing.assert_close(got_grad, want_grad, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(got_entropy, want_entropy, rtol=1e-5, atol=1e-9)
    assert want_entropy.abs().max() > 1e-4


@pytest.mark.parametrize("mode", ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"])
def test_the_engine_s_weight_multiplies_the_policy_term_and_not_the_kl_term(mode):
    batch = tensors(4)
    weight = mismatch_weight(batch["logp_old"], batch["logp_engine"], batch["mask"], mode=mode, clip_max=1.1)
    assert weight.unique().numel() > 2 and weight.max() < 1.1 + 1e-6
    options = {"loss_type": "dapo", "beta": 0.3, "is_weight": weight}
    want, want_grad, _, _ = trl_loss(batch, **options)
    got, got_grad, _, _ = our_loss(batch, **options)
    assert got == pytest.approx(want, rel=1e-5)
    torch.testing.assert_close(got_grad, want_grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("loss_type", ["grpo", "dr_grpo", "dapo", "bnpo"])
def test_accumulation_over_micro_batches(loss_type):
    """Equal micro-batches add up to TRL's accumulated loss, except bnpo, where TRL's depends on the cut."""
    batch = tensors(5)
    totals = LossTotals.from_mask(batch["mask"])
    parts = [slice(0, 2), slice(2, 4), slice(4, 6)]
    theirs = [trl_loss(batch, part, accumulation=3, steps=3, loss_type=loss_type) for part in parts]
    ours = [our_loss(batch, part, loss_type=loss_type, totals=totals) for part in parts]
    their_grad, our_grad = (torch.cat([x[1] for x in losses]) for losses in (theirs, ours))
    whole = our_loss(batch, loss_type=loss_type)
    torch.testing.assert_close(our_grad, whole[1], rtol=1e-5, atol=1e-7)
    if loss_type == "bnpo":
        assert (their_grad - our_grad).abs().max() > 1e-3
    else:
        assert sum(x[0] for x in ours) == pytest.approx(sum(x[0] for x in theirs), rel=1e-5)
        torch.testing.assert_close(our_grad, their_grad, rtol=1e-5, atol=1e-7)
