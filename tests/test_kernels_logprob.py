"""`rlkit_kernels.linear_logprob` in Triton's interpreter, on a CPU, against float64: values, gradients, memory.

Triton decides when it is imported whether it interprets, and other tests must not find interpreted kernels: so this
file runs itself once more, in a process of its own with TRITON_INTERPRET=1, and only there are its tests collected.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from rlkit.logprobs import linear_logprob as torch_logprob

KERNELS = Path(__file__).resolve().parents[1] / "kernels"
INSIDE = os.environ.get("TRITON_INTERPRET") == "1"
if INSIDE:
    sys.path.insert(0, str(KERNELS))
    from rlkit_kernels import available, linear_logprob
    from rlkit_kernels import logprob_configs as configs
    from rlkit_kernels.linear_logprob import extra_bytes
    from rlkit_kernels.logprob_configs import splits_of
    from rlkit_kernels.logprob_math import interpreting

F64, F32, BF16, F16 = torch.float64, torch.float32, torch.bfloat16, torch.float16
TYPES = pytest.mark.parametrize("dtype", [F32, BF16, F16], ids=["fp32", "bf16", "fp16"])
HEADS = pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "trained"])
VALUES = 1e-5  # of values and of fp32 gradients: all sums are fp32, whatever the inputs
GRADIENTS = {F32: 1e-5, BF16: 1e-2, F16: 2e-3}


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    """Every tensor from torch.empty is full of NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def problem(
    n: int,
    width: int,
    vocab: int,
    dtype: torch.dtype,
    frozen: bool = True,
    bias: bool = False,
    spread: float = 1.0,
) -> dict[str, Any]:
    """Random hidden [N, H], weight [V, H], targets [N] (the first and last token among them) and perhaps bias [V]."""
    r = torch.Generator().manual_seed(n * 10007 + width * 101 + vocab)
    scale = spread / width**0.5
    out: dict[str, Any] = {"hidden": torch.randn(n, width, generator=r).to(dtype).requires_grad_()}
    out["weight"] = (scale * 3 * torch.randn(vocab, width, generator=r)).to(dtype).requires_grad_(not frozen)
    out["targets"] = torch.randint(0, vocab, (n,), generator=r)
    out["targets"][: n // 2 : 2], out["targets"][1 : n // 2 : 2] = 0, vocab - 1
    if bias:
        out["bias"] = torch.randn(vocab, generator=r).to(dtype).requires_grad_(not frozen)
    return out


def loss_of(out: Any, entropy: bool, scale: float = 1.0) -> Tensor:
    """A scalar in which every token counts differently."""
    n = out.logprobs.shape[0]
    g = scale * torch.linspace(-1, 1.5, n, dtype=out.logprobs.dtype)
    loss = (g * out.logprobs).sum()
    return loss + (g.flip(0).cos() * out.entropy).sum() if entropy else loss


def gradients(loss: Tensor, inputs: dict[str, Any]) -> dict[str, Tensor]:
    leaves = {name: x for name, x in inputs.items() if isinstance(x, Tensor) and x.requires_grad}
    return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))


def in_float64(inputs: dict[str, Any], **options: Any) -> tuple[Any, dict[str, Any]]:
    """What `rlkit.logprobs` finds for the same (rounded) inputs in float64, and these as leaves."""
    wide = {
        name: x.detach().to(F64).requires_grad_(x.requires_grad) if x.is_floating_point() else x
        for name, x in inputs.items()
    }
    options = {name: x.to(F64) if isinstance(x, Tensor) else x for name, x in options.items()}
    return torch_logprob(**wide, **options), wide


def relative(found: Tensor, expected: Tensor, by_row: bool = False) -> float:
    """max |found - expected| / max |expected|, the latter of each row if `by_row`."""
    found, expected = found.detach().double(), expected.detach()
    assert found.shape == expected.shape
    if not expected.numel():
        return 0.0
    size = expected.abs().amax(-1, keepdim=True) if by_row else expected.abs().max()
    return float(((found - expected).abs() / size.clamp_min(1e-300)).max())


def agree(
    inputs: dict[str, Any], entropy: bool = True, by_row: bool = False, scale: float = 1.0, **options: Any
) -> None:
    """Values and gradients of both forward paths are those of float64."""
    dtype = inputs["hidden"].dtype
    expected, wide = in_float64(inputs, entropy_grad=entropy, **options)
    found = linear_logprob(**inputs, entropy_grad=entropy, **options)
    with torch.no_grad():
        fused = linear_logprob(**inputs, return_entropy=entropy, **options)
    for a, b, name in zip((*found, *fused), (*expected, *expected), found._fields * 2, strict=True):
        if a is not None:
            assert a.dtype == F32, name
            # Of the largest: an entropy of 0 has no digits of its own
            assert relative(a, b) <= VALUES, (name, a, b)
    ours = gradients(loss_of(found, entropy, scale), inputs)
    theirs = gradients(loss_of(expected, entropy, scale), wide)
    for name, grad in ours.items():
        assert grad.dtype == dtype, name
        bound = GRADIENTS[dtype]
        assert relative(grad, theirs[name], by_row and name == "hidden") <= bound, (name, grad, theirs[name])


# ------------------------------------------------------------------------ values and gradients


@TYPES
@HEADS
def test_equals_float64(dtype: torch.dtype, frozen: bool) -> None:
    agree(problem(21, 40, 75, dtype, frozen), entropy=False)
    agree(
        problem(21, 40, 75, dtype, frozen, bias=True), softcap=3.0, temperature=torch.linspace(0.5, 1.5, 21)
    )


@HEADS
def test_entropy_without_a_softcap(frozen: bool) -> None:
    agree(problem(21, 40, 75, F32, frozen))
    agree(problem(21, 40, 75, BF16, frozen), temperature=0.7)


@HEADS
def test_temperatures_from_a_tenth_to_ten(frozen: bool) -> None:
    inputs = problem(12, 24, 70, F32, frozen, bias=True)
    agree(inputs, temperature=torch.logspace(-1, 1, 12), by_row=True)


@HEADS
@pytest.mark.parametrize(
    "shape",
    [(1, 1, 1), (1, 3, 2), (1, 16, 33), (17, 1, 5), (33, 3, 32), (3, 4097, 5), (2, 5, 97)],
    ids=lambda shape: "x".join(map(str, shape)),
)
def test_odd_shapes(shape: tuple[int, int, int], frozen: bool) -> None:
    agree(problem(*shape, F32, frozen, bias=True))


@settings(max_examples=12)
@given(
    n=st.integers(0, 40),
    width=st.integers(1, 40),
    vocab=st.integers(1, 80),
    frozen=st.booleans(),
    row_tile=st.integers(1, 40),
    vocab_tile=st.integers(1, 80),
)
def test_any_shape_and_tile(
    n: int, width: int, vocab: int, frozen: bool, row_tile: int, vocab_tile: int
) -> None:
    inputs = problem(n, width, vocab, F32, frozen)
    expected, wide = in_float64(inputs, entropy_grad=True)
    found = linear_logprob(**inputs, entropy_grad=True, row_tile=row_tile, vocab_tile=vocab_tile)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-5)
    ours, theirs = gradients(loss_of(found, True), inputs), gradients(loss_of(expected, True), wide)
    for name, grad in ours.items():
        torch.testing.assert_close(grad.double(), theirs[name], rtol=1e-5, atol=1e-5)


def test_other_layouts_and_types() -> None:
    """Strided hidden states and targets, a transposed head, int32 targets; a float32 head for bfloat16 states."""
    inputs = problem(9, 20, 45, F32)
    expected = linear_logprob(**inputs)
    hidden = torch.zeros(18, 40)
    hidden[::2, ::2] = inputs["hidden"].detach()
    strided: dict[str, Any] = {
        "hidden": hidden[::2, ::2].requires_grad_(),
        "weight": inputs["weight"].detach().T.contiguous().T,
        "targets": inputs["targets"].repeat_interleave(2).int()[::2],
    }
    for a, b in zip(linear_logprob(**strided), expected, strict=True):
        torch.testing.assert_close(a, b)
    ours, theirs = (
        gradients(linear_logprob(**strided).logprobs.sum(), strided),
        gradients(expected[0].sum(), inputs),
    )
    torch.testing.assert_close(ours["hidden"], theirs["hidden"])
    with torch.no_grad():
        torch.testing.assert_close(linear_logprob(**strided).logprobs, expected.logprobs)

    for frozen in (True, False):
        mixed = problem(9, 20, 45, BF16) | {"weight": problem(9, 20, 45, F32, frozen)["weight"]}
        rounded = mixed | {"weight": mixed["weight"].detach().to(BF16).requires_grad_(not frozen)}
        for a, b in zip(linear_logprob(**mixed), linear_logprob(**rounded), strict=True):
            torch.testing.assert_close(a, b)
        ours = gradients(loss_of(linear_logprob(**mixed, entropy_grad=True), True), mixed)
        theirs = gradients(loss_of(linear_logprob(**rounded, entropy_grad=True), True), rounded)
        torch.testing.assert_close(ours["hidden"], theirs["hidden"])
        if not frozen:
            assert ours["weight"].dtype == F32
            torch.testing.assert_close(ours["weight"].to(BF16), theirs["weight"])


# ------------------------------------------------------------------------ extreme logits


def from_logits(
    y: Tensor, targets: list[int], dtype: torch.dtype = F32, frozen: bool = True
) -> dict[str, Any]:
    """A problem with these logits [N, V]: the head is the unit matrix."""
    weight = torch.eye(y.shape[1], dtype=dtype).requires_grad_(not frozen)
    return {"hidden": y.to(dtype).requires_grad_(), "weight": weight, "targets": torch.tensor(targets)}


@HEADS
@pytest.mark.parametrize("dtype", [F32, F16], ids=["fp32", "fp16"])
def test_extreme_logits(frozen: bool, dtype: torch.dtype) -> None:
    y = torch.zeros(8, 70)
    y[0] = torch.linspace(-1e4, 1e4, 70)
    y[1] = torch.linspace(1e4, -1e4, 70)
    y[2, 69], y[3, 69], y[4, 0] = 1e4, 1e4, -1e4
    y[5] = 1e4
    y[6] = -1e4
    agree(from_logits(y, [69, 0, 69, 0, 0, 3, 69, 40], dtype, frozen))
    larger = from_logits(y / 16, [69, 0, 69, 0, 0, 3, 69, 40], dtype, frozen)
    larger["weight"] = (16 * larger["weight"].detach()).requires_grad_(not frozen)
    agree(larger)


@HEADS
def test_an_infinite_gap(frozen: bool) -> None:
    """A bias of -inf forbids tokens: all but the target, all but another one, a few."""
    for forbidden, target in ((slice(1, 40), 0), (slice(0, 39), 39), (slice(0, 33), 36)):
        inputs = problem(3, 8, 40, F32, frozen)
        inputs["targets"] = torch.full((3,), target)
        bias = torch.zeros(40)
        bias[forbidden] = -torch.inf
        found = linear_logprob(**inputs, bias=bias, entropy_grad=True)
        with torch.no_grad():
            fused = linear_logprob(**inputs, bias=bias, entropy_grad=True)
        keep = bias == 0
        small = inputs | {"weight": inputs["weight"].detach()[keep].requires_grad_(not frozen)}
        small["targets"] = torch.full((3,), int(keep[:target].sum()))
        expected, wide = in_float64(small, entropy_grad=True)
        for a, b in zip((*found, *fused), (*expected, *expected), strict=True):
            torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-6)
        ours, theirs = gradients(loss_of(found, True), inputs), gradients(loss_of(expected, True), wide)
        torch.testing.assert_close(ours["hidden"].double(), theirs["hidden"], rtol=1e-5, atol=1e-6)
        if not frozen:
            torch.testing.assert_close(ours["weight"][keep].double(), theirs["weight"], rtol=1e-5, atol=1e-6)
            assert not ours["weight"][~keep].any()


@TYPES
@HEADS
def test_sure_tokens_keep_their_digits(dtype: torch.dtype, frozen: bool) -> None:
    """1 - p_t from 0.2 down to 3e-8: each row's gradient to within the bound of its own size."""
    gaps = torch.arange(5, 14 if dtype == F16 else 22, 2.0)
    y = torch.randn(len(gaps), 40, generator=torch.Generator().manual_seed(1))
    targets = [int(i) for i in torch.arange(len(gaps)) * 4]
    y[torch.arange(len(gaps)), targets] = gaps
    # A loss scaled as for float16 training, whose smallest number is 6e-8. With a trained head, even so, all rows'
    # logit gradients share one scale there, and those of the surest tokens are below that number.
    by_row = frozen or dtype != F16
    agree(from_logits(y, targets, dtype, frozen), entropy=dtype == F32, by_row=by_row, scale=2.0**12)


@HEADS
def test_small_gradients_in_float16(frozen: bool) -> None:
    """g p = 4e-7, times W = 64: as a float16 number g p itself would have three bits."""
    weight = (64 * torch.eye(80)).to(F16).requires_grad_(not frozen)
    inputs = {"hidden": torch.zeros(3, 80, dtype=F16).requires_grad_(), "weight": weight}
    found = linear_logprob(**inputs, targets=torch.zeros(3, dtype=torch.long))
    grad = torch.autograd.grad(found.logprobs.sum() * 2.0**-15, inputs["hidden"])[0]
    assert relative(grad[:, 1:], torch.full((3, 79), -64 / 80 * 2.0**-15, dtype=F64)) <= 5e-3


@TYPES
def test_the_reference_follows_rising_logits(dtype: torch.dtype) -> None:
    """From tile to tile the largest logit rises by less and by more than what moves the reference, or falls."""
    steps = torch.tensor([[3.0, 4, 5, 6], [9, 12, 0, 20], [30, 2, 2, 9], [-9, -9, -9, -9], [0, 5, 6, -3]])
    level = torch.cat((torch.zeros(5, 1), steps.cumsum(1)), 1).repeat_interleave(32, 1)  # [5, 160]
    y = level + torch.randn(5, 160, generator=torch.Generator().manual_seed(2))
    agree(from_logits(y - y.amax(1, keepdim=True), [0, 159, 140, 3, 120], dtype), by_row=True)


def test_a_head_with_a_large_common_mean() -> None:
    """All rows of W share a vector 40 times as long as their differences, which cancels however e is rounded."""
    inputs = problem(16, 24, 70, BF16, spread=4.0)
    mean = 100 * torch.randn(24, generator=torch.Generator().manual_seed(3))
    inputs["weight"] = (inputs["weight"].detach().float() + mean).to(BF16)
    with torch.no_grad():
        inputs["hidden"] /= 8
    agree(inputs)
    agree(inputs, softcap=3.0, temperature=0.5)


# ------------------------------------------------------------------------ vocabulary, targets, what wants a gradient


@HEADS
def test_a_padded_vocabulary(frozen: bool) -> None:
    """Rows of the head from `vocab` on are not even read, and have gradient 0."""
    inputs = problem(7, 12, 40, F32, frozen, bias=True)
    padded = dict(inputs)
    for name in ("weight", "bias"):
        rest = torch.full((30, *inputs[name].shape[1:]), torch.nan)
        padded[name] = torch.cat((inputs[name].detach(), rest)).requires_grad_(not frozen)
    expected = linear_logprob(**inputs, entropy_grad=True)
    found = linear_logprob(**padded, vocab=40, entropy_grad=True)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)
    ours, theirs = gradients(loss_of(found, True), padded), gradients(loss_of(expected, True), inputs)
    torch.testing.assert_close(ours.pop("hidden"), theirs["hidden"])
    for name, grad in ours.items():
        torch.testing.assert_close(grad[:40], theirs[name])
        assert not grad[40:].any()


@HEADS
def test_an_impossible_target(frozen: bool) -> None:
    inputs = problem(6, 12, 40, F32, frozen)
    inputs["targets"][1], inputs["targets"][4] = -100, 39
    found = linear_logprob(**inputs, vocab=39)
    grad = gradients(found.logprobs[[1, 4]].sum(), inputs)["hidden"]
    assert (
        found.logprobs[[1, 4]].tolist() == [-torch.inf] * 2 and found.logprobs[[0, 2, 3, 5]].isfinite().all()
    )
    assert found.lse.isfinite().all() and not grad.any()


def test_only_what_wants_a_gradient_gets_one() -> None:
    inputs = problem(6, 12, 40, F32, frozen=False, bias=True)
    everything = gradients(linear_logprob(**inputs).logprobs.sum(), inputs)
    for name in inputs.keys() - {"targets"}:
        part = {
            key: x.detach().requires_grad_(key == name) if key != "targets" else x
            for key, x in inputs.items()
        }
        found = linear_logprob(**part)
        assert not found.lse.requires_grad and found.entropy is None
        torch.testing.assert_close(gradients(found.logprobs.sum(), part)[name], everything[name])
    asked = linear_logprob(**inputs, return_entropy=True)
    assert asked.entropy is not None and not asked.entropy.requires_grad


@HEADS
def test_a_graph_that_is_kept_gives_the_same_gradient_twice(frozen: bool) -> None:
    """What is saved becomes the gradient only where no other pass can follow."""
    inputs = problem(6, 12, 40, F32, frozen)
    loss = loss_of(linear_logprob(**inputs, entropy_grad=True), True)
    first, second = (
        torch.autograd.grad(loss, inputs["hidden"], retain_graph=True)[0].clone() for _ in range(2)
    )
    last = torch.autograd.grad(loss, inputs["hidden"])[0]
    assert torch.equal(first, second) and torch.equal(first, last)


@HEADS
def test_two_runs_are_equal_to_the_last_bit(frozen: bool) -> None:
    inputs = problem(21, 40, 75, BF16, frozen, bias=True)
    runs = []
    for _ in range(2):
        found = linear_logprob(**inputs, entropy_grad=True)
        runs.append([*found, *gradients(loss_of(found, True), inputs).values()])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


# ------------------------------------------------------------------------ memory and errors


class Live(TorchDispatchMode):
    """The most bytes of tensors alive at a time, those that were there before not counted."""

    def __init__(self, *before: Tensor) -> None:
        super().__init__()
        self.known = {x.untyped_storage()._cdata for x in before}
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.most = self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.alive = {key: (ref, size) for key, (ref, size) in self.alive.items() if not ref.expired()}
        for x in out if isinstance(out, tuple | list) else [out]:
            if isinstance(x, Tensor) and x.untyped_storage()._cdata not in self.known:
                storage = x.untyped_storage()
                self.alive[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
                self.largest = max(self.largest, storage.nbytes())
        self.most = max(self.most, sum(size for _, size in self.alive.values()))
        return out


@pytest.mark.parametrize("path", [1, 2, 3])
@pytest.mark.parametrize("entropy", [False, True], ids=["", "entropy"])
def test_memory_is_what_the_formula_says(path: int, entropy: bool) -> None:
    """Measured while rows and vocabulary double: at most the formula, which has no vocabulary in it."""
    width, row_tile, vocab_tile = 32, 16, 64
    for n, vocab in ((64, 128), (128, 128), (64, 256)):
        inputs = problem(n, width, vocab, F32, frozen=path != 3)
        splits, _ = splits_of(n, vocab, configs.TINY)
        sizes = {"row_tile": row_tile, "vocab_tile": vocab_tile}
        before = [x for x in inputs.values() if isinstance(x, Tensor)]
        with torch.set_grad_enabled(path > 1), Live(*before) as live:
            found = linear_logprob(**inputs, return_entropy=True, entropy_grad=entropy, **sizes)
            if path > 1:
                loss_of(found, entropy).backward()
        formula = extra_bytes(n, width, 4, path=path, entropy_grad=entropy, splits=splits, **sizes)
        results = vocab * width * 4 if path == 3 else 0
        assert live.most <= formula + results + 16 * n  # the loss's own [N]
        assert live.most >= 0.6 * (formula + results)  # which does not promise too little, either
        assert live.largest <= max(n * width * 4, results, row_tile * vocab_tile * 4, 12 * splits * n)


def test_the_formula_keeps_the_promise() -> None:
    """≤ 256 MB besides [rows, hidden] at 160k rows of every width up to 4,096, with a frozen head."""
    for width in (896, 1536, 2560, 4096):
        for n in (4096, 16_384, 163_840):
            for entropy in (False, True):
                result = n * width * 2 * (2 if entropy else 1)
                assert extra_bytes(n, width, 2, entropy_grad=entropy) - result <= 256e6
            assert extra_bytes(n, width, 2, path=1) <= 256e6


def test_splits_cover_the_vocabulary() -> None:
    config = configs.FUSED[2][80]
    for n in (1, 128, 129, 2048, 160_000):
        for vocab in (1, 128, 151_936, 262_144):
            splits, each = splits_of(n, vocab, config)
            tiles = -(-vocab // config.columns)
            assert 1 <= splits <= configs.MAX_SPLITS and (splits - 1) * each < tiles <= splits * each


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hidden": torch.zeros(2, 3, 5)}, "hidden.shape"),
        ({"hidden": torch.zeros(7, 5, dtype=F64)}, "rlkit.logprobs"),
        ({"weight": torch.zeros(5, 23)}, "weight.shape"),
        ({"weight": torch.zeros(23, 5, dtype=torch.int8)}, "weight.dtype"),
        ({"bias": torch.zeros(22)}, "bias.shape"),
        ({"targets": torch.zeros(6, dtype=torch.long)}, "shape [7]"),
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"temperature": torch.ones(6)}, "temperature.shape"),
        ({"softcap": 0.0}, "softcap"),
        ({"vocab": 24}, "vocab=24"),
        ({"vocab": 0}, "vocab=0"),
        ({"row_tile": 0}, "row_tile"),
        ({"vocab_tile": 5000}, "1 to 4096"),
    ],
)
def test_errors_name_the_argument(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match="is not usable") as error:
        linear_logprob(**(problem(7, 5, 23, F32) | change))
    assert words in str(error.value)


def test_the_package_says_that_it_can_run() -> None:
    assert available() and interpreting()


# ------------------------------------------------------------------------ the other process

if not INSIDE:
    for _name in [name for name in globals() if name.startswith("test_")]:
        del globals()[_name]

    def test_in_the_interpreter() -> None:
        pytest.importorskip("triton")
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
        done = subprocess.run(
            command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
        assert " passed" in done.stdout and " skipped" not in done.stdout
