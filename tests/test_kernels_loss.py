"""The loss kernel against `policy_loss` in float64: value, parts, gradients, counts, and what it refuses.

The tests run in a process of their own, because Triton decides on import whether to interpret its kernels.
"""

import importlib.util
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from rlkit.objectives import (
    KL_ESTIMATORS,
    LOSS_TYPES,
    LossTotals,
    apply_truncation_mask,
    mismatch_weight,
    policy_loss,
)

KERNELS = Path(__file__).parents[1] / "kernels"
INSIDE = os.environ.get("TRITON_INTERPRET") == "1"
if INSIDE:
    sys.path.insert(0, str(KERNELS))
    from rlkit_kernels.grpo_loss import GrpoLoss, grpo_loss, variants
    from rlkit_kernels.loss_kernel import configuration

pytestmark = pytest.mark.filterwarnings("ignore::rlkit.objectives.ObjectiveWarning")

LONGEST = 50
QUICK = (Phase.explicit, Phase.reuse, Phase.generate)  # the interpreter is too slow to shrink a failure
INF = math.inf
#: epsilon, epsilon_high, delta: symmetric, DAPO's asymmetric, two-sided, GSPO's narrow, none
CLIPS = [(0.2, None, None), (0.2, 0.28, None), (0.2, 0.28, 1.5), (3e-4, 4e-4, None), (INF, None, None)]


@pytest.mark.skipif(not importlib.util.find_spec("triton"), reason="Triton has wheels for Linux only")
def test_in_a_process_where_triton_interprets():
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(
        command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout and " skipped" not in done.stdout


@st.composite
def batches(draw, rows=None):
    """float32 tensors, every kind of mask, up to three tiles a row, ratios on both sides of every bound."""
    n = draw(st.integers(1, 4)) if rows is None else rows
    t = draw(st.sampled_from([1, 2, 7, 16, 17, 40]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    mask = torch.rand(n, t, generator=generator) < draw(st.sampled_from([0.0, 0.5, 1.0]))
    for row in range(n):
        cut = int(torch.randint(0, t, (), generator=generator))
        match draw(st.sampled_from(["as is", "right", "left", "full", "empty"])):
            case "right":
                mask[row] = torch.arange(t) < t - cut
            case "left":
                mask[row] = torch.arange(t) >= cut
            case "full":
                mask[row] = True
            case "empty":
                mask[row] = False
    old = normal(n, t) - 2.0
    advantages = normal(n) if draw(st.booleans()) else normal(n, t)
    if draw(st.booleans()):
        advantages[0] = 0.0
    weight = draw(st.sampled_from([None, (n,), (n, 1), (n, t)]))
    return {
        "logprobs": old + draw(st.sampled_from([0.0, 1e-3, 0.4])) * normal(n, t),
        "old_logprobs": old,
        "ref_logprobs": old + draw(st.sampled_from([1e-4, 0.5])) * normal(n, t),
        "advantages": advantages,
        "mask": mask,
        "entropy": normal(n, t).abs(),
        "is_weight": None if weight is None else normal(*weight).exp(),
    }


def oracle(batch, **given_):
    """`policy_loss` in float64 on the same numbers, and its gradients by log-probability and entropy."""
    wide = {k: v.double() if v is not None and k != "mask" else v for k, v in batch.items()}
    new, entropy = wide["logprobs"].requires_grad_(), wide["entropy"].requires_grad_()
    out = policy_loss(
        new,
        wide["old_logprobs"],
        wide["advantages"],
        wide["mask"],
        logp_ref=wide["ref_logprobs"],
        entropy=entropy,
        is_weight=wide["is_weight"],
        max_completion_length=LONGEST,
        **given_,
    )
    by_new, by_entropy = torch.autograd.grad(out.loss, (new, entropy), allow_unused=True)
    return out, by_new, by_entropy


def run(batch, **given_):
    batch = dict(batch)
    new, entropy = (batch.pop(k).clone().requires_grad_() for k in ("logprobs", "entropy"))
    out = grpo_loss(new, **batch, entropy=entropy, max_completion_length=LONGEST, **given_)
    by_new, by_entropy = torch.autograd.grad(out.loss, (new, entropy), allow_unused=True)
    return out, by_new, by_entropy


def close(found, wanted, scale=1.0):
    """1e-5 of the value, or of the largest one beside it: a sum keeps the rounding errors of its terms."""
    largest = float(wanted.abs().max()) if wanted.numel() else 0.0
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5 * largest + 2e-6 * scale)


def agree(batch, **given_):
    out, by_new, by_entropy = run(batch, **given_)
    want, want_new, want_entropy = oracle(batch, **given_)
    for name in ("loss", "policy_part", "kl_part", "entropy_part"):
        close(getattr(out, name), getattr(want, name).detach())
    close(out.ratio, want.ratio.expand_as(out.ratio))
    close(by_new, want_new, scale=0.0)
    assert (by_entropy is None) == (want_entropy is None)
    if by_entropy is not None:
        close(by_entropy, want_entropy, scale=0.0)
    for name in ("clipped_low", "clipped_high", "capped"):
        assert getattr(out, name).item() == getattr(want, name).sum().item()
    assert out.tokens.item() == (batch["mask"] != 0).sum().item()
    close(out.kl, want.kl.sum())


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@settings(max_examples=25, phases=QUICK)
@given(data=st.data())
def test_value_and_gradients_are_those_of_policy_loss(loss_type, level, data):
    batch = data.draw(batches())
    epsilon, epsilon_high, delta = data.draw(st.sampled_from(CLIPS))
    totals = data.draw(st.sampled_from([None, LossTotals(sequences=9, tokens=123)]))
    agree(
        batch,
        loss_type=loss_type,
        importance_sampling_level=None if loss_type == "gspo" else level,
        epsilon=epsilon,
        epsilon_high=epsilon_high,
        delta=delta,
        beta=data.draw(st.sampled_from([0.0, 0.04, 1.0])),
        kl_estimator=data.draw(st.sampled_from(KL_ESTIMATORS)),
        use_bias_correction_kl=data.draw(st.booleans()),
        entropy_coef=data.draw(st.sampled_from([0.0, 0.01, -0.5])),
        totals=totals,
    )


def sample(n=3, t=20, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    old = normal(n, t) - 2.0
    return {
        "logprobs": old + 0.3 * normal(n, t),
        "old_logprobs": old,
        "ref_logprobs": old + 0.5 * normal(n, t),
        "advantages": normal(n),
        "mask": torch.arange(t) < torch.randint(1, t + 1, (n, 1), generator=generator),
        "entropy": normal(n, t).abs(),
        "is_weight": None,
    }


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_what_is_masked_reaches_nothing(level):
    batch = sample()
    dirty = dict(batch)
    for name in ("logprobs", "old_logprobs", "ref_logprobs", "entropy"):
        garbage = torch.tensor([math.nan, INF, -INF, 1e30]).repeat(5)
        dirty[name] = torch.where(batch["mask"], batch[name], garbage)
    dirty["is_weight"] = torch.where(batch["mask"], 1.0, math.nan)
    dirty["advantages"] = torch.where(batch["mask"], batch["advantages"][:, None], math.nan)
    given_ = {"importance_sampling_level": level, "beta": 0.1, "entropy_coef": 0.1}
    clean, by_new, by_entropy = run(batch, **given_)
    found, dirty_new, dirty_entropy = run(dirty, **given_)
    assert found.loss.item() == clean.loss.item()
    assert torch.equal(dirty_new, by_new) and torch.equal(dirty_entropy, by_entropy)
    assert (by_new[~batch["mask"]] == 0).all() and (by_entropy[~batch["mask"]] == 0).all()
    assert (found.ratio[~batch["mask"]] == 1).all()


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_a_batch_without_active_tokens_is_zero(loss_type):
    batch = sample() | {"mask": torch.zeros(3, 20)}
    out, by_new, by_entropy = run(batch, loss_type=loss_type, beta=0.1, entropy_coef=0.1)
    assert out.loss.item() == 0 and not by_new.any() and not by_entropy.any()
    agree(batch, loss_type=loss_type, beta=0.1, entropy_coef=0.1)


@pytest.mark.parametrize(("rows", "tokens"), [(0, 4), (3, 0)])
def test_an_empty_batch_is_zero(rows, tokens):
    new = torch.zeros(rows, tokens, requires_grad=True)
    out = grpo_loss(new, None, None, torch.ones(rows), torch.ones(rows, tokens))
    out.loss.backward()
    assert out.loss.item() == 0 and new.grad.shape == (rows, tokens)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_a_truncated_completion_teaches_nothing_and_still_counts(loss_type):
    batch, truncated = sample(), torch.tensor([False, True, False])
    masked = batch | {"mask": apply_truncation_mask(batch["mask"], truncated)}
    given_ = {"loss_type": loss_type, "beta": 0.1, "entropy_coef": 0.1}
    found, by_new, by_entropy = run(batch, truncated=truncated, **given_)
    wanted, want_new, want_entropy = run(masked, **given_)
    assert torch.equal(by_new, want_new) and torch.equal(by_entropy, want_entropy)
    assert not by_new[1].any() and found.loss.item() == wanted.loss.item() and found.tokens == wanted.tokens
    agree(masked, **given_)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_micro_batches_add_up_to_the_batch(loss_type):
    batch = sample(n=5)
    whole, by_new, _ = run(batch, loss_type=loss_type, beta=0.1)
    totals = LossTotals.from_mask(batch["mask"])
    parts = [
        run(
            {k: v if v is None else v[rows] for k, v in batch.items()},
            loss_type=loss_type,
            beta=0.1,
            totals=totals,
        )
        for rows in (slice(0, 2), slice(2, 5))
    ]
    close(sum(part.loss for part, _, _ in parts).detach(), whole.loss.detach().double())
    close(torch.cat([g for _, g, _ in parts]), by_new.double(), scale=0.0)


def test_on_policy_without_old_and_without_reference():
    batch = sample() | {"old_logprobs": None, "ref_logprobs": None, "entropy": None}
    new = batch.pop("logprobs").requires_grad_()
    out = grpo_loss(new, **batch)
    out.loss.backward()
    length = batch["mask"].sum(1, keepdim=True)
    wanted = torch.where(batch["mask"], -batch["advantages"][:, None] / (3 * length), 0.0)
    torch.testing.assert_close(new.grad, wanted, rtol=1e-6, atol=0)
    assert out.kl is None and (out.ratio == 1).all() and out.kl_part == 0


@pytest.mark.parametrize("mode", ["token_truncate", "sequence_mask"])
def test_weights_for_the_mismatch_with_the_engine(mode):
    batch = sample()
    engine = batch["old_logprobs"] + 0.3 * torch.randn(3, 20, generator=torch.Generator().manual_seed(5))
    batch["is_weight"] = mismatch_weight(
        batch["old_logprobs"], engine, batch["mask"], mode=mode, clip_max=1.5
    )
    assert batch["is_weight"].unique().numel() > 1
    agree(batch, beta=0.1)
    agree(batch, loss_type="gspo", epsilon=3e-4, epsilon_high=4e-4)


def test_memory_layout_and_type_of_the_inputs_do_not_matter():
    batch = sample()
    wanted, by_new, by_entropy = run(batch, beta=0.1, entropy_coef=0.1)
    odd = {k: v.T.contiguous().T if v is not None and v.dim() == 2 else v for k, v in batch.items()}
    odd["advantages"] = batch["advantages"].repeat_interleave(2)[::2].double()
    odd["mask"] = odd["mask"].to(torch.int64) * 3
    odd["is_weight"] = torch.ones(()).expand(3, 20)
    found, odd_new, odd_entropy = run(odd, beta=0.1, entropy_coef=0.1)
    assert found.loss.item() == wanted.loss.item()
    assert torch.equal(odd_new, by_new) and torch.equal(odd_entropy, by_entropy)


def test_the_gradient_is_scaled_by_what_comes_after_the_loss():
    batch = sample()
    _, by_new, _ = run(batch)
    new = batch.pop("logprobs").requires_grad_()
    (-3 * grpo_loss(new, **batch).loss).backward()
    torch.testing.assert_close(new.grad, -3 * by_new, rtol=1e-6, atol=0)


@pytest.mark.parametrize("advantage", [1.0, -1.0, 0.0])
@pytest.mark.parametrize("log_ratio", [100.0, -200.0])
def test_a_ratio_that_overflows_is_clipped_without_nan(log_ratio, advantage):
    new = torch.full((1, 2), -1.0, requires_grad=True)
    old = torch.tensor([[-1.0 - log_ratio, -1.0]])
    out = grpo_loss(new, old, None, torch.full((1,), advantage), torch.ones(1, 2), delta=3.0)
    out.loss.backward()
    assert new.grad[0].isfinite().all() and new.grad[0, 1] == -advantage / 2
    if log_ratio > 0 or advantage < 0:
        assert new.grad[0, 0] == 0
    if advantage:
        wanted = min(
            min(math.exp(log_ratio), 3) * advantage, min(max(math.exp(log_ratio), 0.8), 1.2) * advantage
        )
        assert out.loss.item() == pytest.approx(-(wanted + advantage) / 2, rel=1e-6)


@pytest.mark.parametrize("size", [1e-6, 1e-4, 1e-2, 0.1, 0.499, 0.501, 1.0, 5.0, 30.0])
@pytest.mark.parametrize("sign", [1, -1])
def test_k3_keeps_its_digits_however_close_the_policies_are(size, sign):
    new = torch.zeros(1, 1, requires_grad=True)
    ref = torch.full((1, 1), sign * size)
    out = grpo_loss(new, None, ref, torch.zeros(1), torch.ones(1, 1), beta=1.0)
    out.loss.backward()
    d = ref.double().item()
    exact = math.fsum(d**n / math.factorial(n) for n in range(2, 12)) if size < 0.5 else math.expm1(d) - d
    assert out.loss.item() == pytest.approx(exact, rel=2e-6)
    assert new.grad.item() == pytest.approx(-math.expm1(d), rel=2e-6)


def test_a_long_row_in_many_tiles():
    agree(sample(n=1, t=1500), beta=0.1)
    agree(sample(n=1, t=1500), beta=0.1, loss_type="gspo", use_bias_correction_kl=True, epsilon=3e-4)


def test_two_runs_give_the_same_bits():
    batch = sample(n=4, t=40)
    (a, a_new, _), (b, b_new, _) = (run(batch, beta=0.1, loss_type="gspo") for _ in range(2))
    assert a.loss.item() == b.loss.item() and torch.equal(a_new, b_new)


class _Recorder(TorchDispatchMode):
    """Names of the operators that ran, and bytes of the memory that they asked for."""

    def __init__(self):
        super().__init__()
        self.names, self.kept = [], {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.names.append(str(func))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return out

    @property
    def allocated(self):
        return sum(storage.nbytes() for storage in self.kept.values())


@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "gspo"])
@pytest.mark.parametrize(("rows", "tokens"), [(4, 64), (8, 64), (8, 128)])
def test_memory_follows_the_formula_and_nothing_waits_for_the_device(rows, tokens, loss_type):
    batch = sample(rows, tokens) | {"entropy": None}
    new = batch.pop("logprobs").requires_grad_()
    given_tensors = [new, *(v for v in batch.values() if v is not None)]
    with _Recorder() as recorder:
        loss = grpo_loss(new, **batch, loss_type=loss_type, beta=0.1).loss
        for tensor in given_tensors:
            recorder.kept.pop(tensor.untyped_storage().data_ptr(), None)
        forward = recorder.allocated
        loss.backward()
    assert 8 * rows * tokens <= forward <= 8 * rows * tokens + 36 * rows + 256
    for waits in ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal"):
        assert not any(waits in name for name in recorder.names), recorder.names


def test_every_argument_of_the_kernel_is_in_each_variant():
    found = list(variants())
    assert len({variant.name for variant in found}) == len(found) <= 12
    for variant in found:
        names = variant.kernel.arg_names
        assert sorted(names) == sorted([*variant.signature, *variant.constants])
    assert configuration()[0] == 16  # these tests run several tiles


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss_type": "ppo"}, "loss_type='ppo'"),
        ({"loss_type": "gspo", "importance_sampling_level": "token"}, "importance_sampling_level='token'"),
        ({"importance_sampling_level": "word"}, "importance_sampling_level='word'"),
        ({"loss_type": "dr_grpo"}, "max_completion_length=None"),
        ({"epsilon": -0.1}, "epsilon=-0.1"),
        ({"epsilon_high": math.nan}, "epsilon_high=nan"),
        ({"delta": 1.1}, "above 1 \\+ epsilon_high = 1.2"),
        ({"beta": -1.0}, "beta=-1.0"),
        ({"beta": 0.1, "ref_logprobs": None}, "0 without ref_logprobs"),
        ({"kl_estimator": "k4"}, "kl_estimator='k4'"),
        ({"entropy_coef": INF}, "entropy_coef=inf"),
        ({"entropy_coef": 0.1, "entropy": None}, "0 without entropy"),
        ({"mask": torch.ones(3, 19)}, r"mask.shape=\[3, 19\]"),
        ({"advantages": torch.ones(20)}, r"advantages.shape=\[20\] .* \[3\] or \[3, 20\]"),
        ({"is_weight": torch.ones(1, 20)}, r"is_weight.shape=\[1, 20\]"),
        ({"truncated": torch.ones(4, dtype=torch.bool)}, r"truncated.shape=\[4\]"),
        ({"logprobs": torch.zeros(3, 20, dtype=torch.bfloat16)}, "torch.bfloat16.*policy_loss takes every"),
        ({"logprobs": torch.zeros(60)}, "float32 of shape"),
        ({"old_logprobs": torch.zeros(3, 20, device="meta")}, "old_logprobs.device='meta'"),
    ],
)
def test_refusals_name_the_argument(change, message):
    with pytest.raises(ValueError, match=message):
        grpo_loss(**(sample() | change))


def test_without_a_gpu_and_without_the_interpreter_it_says_what_to_do(monkeypatch):
    monkeypatch.setattr(
        sys.modules["rlkit_kernels.grpo_loss"], "INTERPRETED", False
    )  # the package has it as a function
    with pytest.raises(ValueError, match="a CUDA device.*policy_loss, or TRITON_INTERPRET=1"):
        grpo_loss(**sample())


def test_the_result_is_the_documented_tuple():
    out = grpo_loss(**sample())
    assert isinstance(out, GrpoLoss) and out.loss.shape == () and not out.loss.requires_grad
    assert all(x.dtype == torch.float32 for x in out)


_OUTER = "test_in_a_process_where_triton_interprets"
for _name in [n for n in globals() if n.startswith("test_") and (n == _OUTER) == INSIDE]:
    del globals()[_name]  # outside, the one that starts the process is left; inside, all the others
