"""Linear layers with e4m3 weights: the rounding, the matmul and its gradients, held to bounds that can be derived.

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

KERNELS = Path(__file__).parents[1] / "kernels"
INSIDE = os.environ.get("TRITON_INTERPRET") == "1"
if INSIDE:
    sys.path.insert(0, str(KERNELS))
    from rlkit_kernels import fp8
    from rlkit_kernels.fp8 import (
        Fp8Weight,
        dequantise_fp8,
        fp8_linear,
        fp8_linear_reference,
        quantise_fp8,
        variants,
    )

F64 = torch.float64
QUICK = (Phase.explicit, Phase.reuse, Phase.generate)  # the interpreter is too slow to shrink a failure
#: One rounding of the result, relative: half a unit in the last place; a whole one in bfloat16, where Triton's
#: interpreter cuts off instead of rounding.
ROUNDING = {torch.float32: 2**-24, torch.float16: 2**-11, torch.bfloat16: 2**-7}


@pytest.mark.skipif(not importlib.util.find_spec("triton"), reason="Triton has wheels for Linux only")
def test_in_a_process_where_triton_interprets():
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(
        command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout and " skipped" not in done.stdout


def normal(*shape, seed=0, spread=1.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator) * spread


def rough(*shape, seed=0):
    """A weight whose blocks differ in size by orders of magnitude, with an outlier."""
    weight = normal(*shape, seed=seed) * torch.logspace(-4, 1, shape[0])[:, None]
    weight[0, -1] = 300.0
    return weight


def worst_weight_error(weight, quantised):
    """The bound on |W - scale q| that the format implies: half a step, of a normal or of a subnormal number."""
    scale = dequantise_fp8(
        Fp8Weight(torch.ones_like(quantised.data.float()), quantised.scale, quantised.block), F64
    )
    return torch.maximum(weight.double().abs() / 16, scale / 1024) * (1 + 1e-6)


# ---------------------------------------------------------------------- the rounding


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (64, 64), (130, 70), (257, 129)])
@pytest.mark.parametrize("block", [64, 128])
def test_each_number_is_within_half_a_step(rows, columns, block, dtype):
    weight = rough(rows, columns).to(dtype)
    quantised = quantise_fp8(weight, block)
    assert quantised.data.shape == weight.shape and quantised.data.dtype == torch.float8_e4m3fn
    assert quantised.scale.shape == (math.ceil(rows / block), math.ceil(columns / block))
    error = (dequantise_fp8(quantised, F64) - weight.double()).abs()
    assert (error <= worst_weight_error(weight, quantised)).all()
    for i in range(quantised.scale.shape[0]):
        for j in range(quantised.scale.shape[1]):
            part = (slice(i * block, (i + 1) * block), slice(j * block, (j + 1) * block))
            assert quantised.data[part].float().abs().max() == 448
            torch.testing.assert_close(quantised.scale[i, j], weight[part].float().abs().max() / 448)


def test_numbers_that_e4m3_has_come_back_exactly():
    codes = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    weight = codes[codes.isfinite()].repeat(2).reshape(4, -1) * 2.0**-7  # 254 numbers, twice
    quantised = quantise_fp8(weight)
    assert quantised.scale.item() == 2.0**-7
    assert torch.equal(dequantise_fp8(quantised), weight)
    assert torch.equal(quantise_fp8(dequantise_fp8(quantised)).data.float(), quantised.data.float())


def test_blocks_of_zeros_and_of_the_smallest_and_largest_numbers():
    weight = torch.zeros(64, 256)
    weight[:, 64:128] = 1e-42  # subnormal in float32
    weight[:, 128:192] = torch.finfo(torch.float32).max
    weight[3, 192] = -1e-3
    found = quantise_fp8(weight, 64)
    back = dequantise_fp8(found)
    assert found.scale[0, 0] == 1 and not back[:, :64].any() and back.isfinite().all()
    assert back[:, 64:128].abs().max() < 1e-40
    torch.testing.assert_close(back[:, 128:], weight[:, 128:])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_shows_in_every_output_of_its_block(bad):
    weight = normal(128, 128)
    weight[70, 3] = bad
    quantised = quantise_fp8(weight, 64)
    broken = torch.zeros(128, 128, dtype=torch.bool)
    broken[64:, :64] = True
    assert torch.equal(dequantise_fp8(quantised).isnan(), broken)
    out = fp8_linear(normal(2, 128), quantised)
    assert out[:, 64:].isnan().all() and out[:, :64].isfinite().all()


def test_strips_give_what_one_piece_gives(monkeypatch):
    weight = rough(300, 200)
    whole = quantise_fp8(weight, 64)
    monkeypatch.setattr(fp8, "_STRIP", 1)
    strips = quantise_fp8(weight, 64)
    assert torch.equal(whole.data.view(torch.uint8), strips.data.view(torch.uint8))
    assert torch.equal(whole.scale, strips.scale)


# ---------------------------------------------------------------------- the matmul


def check_linear(m, o, i, block, dtype, with_bias=True, seed=0):
    """Value and gradients against float64, once with the rounded weight, once with the true one."""
    weight = rough(o, i, seed=seed)
    quantised = quantise_fp8(weight, block)
    x = normal(m, i, seed=seed + 1).to(dtype).requires_grad_()
    bias = normal(o, seed=seed + 2).to(dtype).requires_grad_() if with_bias else None
    g = normal(m, o, seed=seed + 3).to(dtype)
    y = fp8_linear(x, quantised, bias)
    y.backward(g)
    assert y.dtype == x.grad.dtype == dtype and y.shape == (m, o)

    wide = dequantise_fp8(quantised, F64)  # [O, I]
    error = worst_weight_error(weight, quantised)  # [O, I]
    add = 0.0 if bias is None else bias.detach().double()
    cases = (
        (y.detach(), x.detach().double(), wide.T, weight.double().T, error.T, add, i),
        (x.grad, g.double(), wide, weight.double(), error, 0.0, o),
    )
    for found, left, rounded, true, wrong, extra, depth in cases:
        size = left.abs() @ rounded.abs() + abs(extra)  # what rounding errors of a sum are relative to
        exact = left @ rounded + extra
        sums = (depth + 4) * 2**-24 * size + ROUNDING[dtype] * exact.abs() + 1e-7
        assert ((found.double() - exact).abs() <= sums).all()
        assert ((found.double() - (left @ true + extra)).abs() <= left.abs() @ wrong + sums).all()
    if bias is not None:
        torch.testing.assert_close(
            bias.grad.double(), g.double().sum(0), rtol=1e-2 if dtype != torch.float32 else 1e-5, atol=1e-6
        )


@settings(max_examples=25, phases=QUICK)
@given(
    m=st.integers(1, 70),
    o=st.integers(1, 140),
    i=st.integers(1, 140),
    block=st.sampled_from([64, 128]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    with_bias=st.booleans(),
    seed=st.integers(0, 99),
)
def test_values_and_gradients_of_any_shape(m, o, i, block, dtype, with_bias, seed):
    check_linear(m, o, i, block, dtype, with_bias, seed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("m", "o", "i", "block"),
    [
        (1, 1, 1, 64),
        (1, 65, 4097, 128),
        (3, 4097, 5, 64),
        (70, 129, 65, 128),  # odd: the small tile
        (130, 256, 192, 128),  # the large one, ragged in rows
        (600, 144, 80, 64),  # more row tiles than one group
    ],
)
def test_values_and_gradients_of_awkward_shapes(m, o, i, block, dtype):
    check_linear(m, o, i, block, dtype)


def test_the_tile_on_hopper(monkeypatch):
    monkeypatch.setattr(fp8, "choose_tile", lambda *_: fp8.HOPPER)
    check_linear(150, 272, 208, 128, torch.bfloat16)


def test_the_kernel_reads_every_code_as_torch_does():
    codes = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn)
    codes = torch.where(codes.float().isfinite(), codes.float(), 0.0).to(torch.float8_e4m3fn).view(2, 128)
    weight = Fp8Weight(codes, torch.ones(1, 1))
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert torch.equal(fp8_linear(torch.eye(128, dtype=dtype), weight).float().T, codes.float())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_reference_computes_the_same(dtype):
    quantised = quantise_fp8(rough(130, 200))
    x, bias = normal(5, 200).to(dtype), normal(130, seed=1).to(dtype)
    found, wanted = (f(x, quantised, bias) for f in (fp8_linear, fp8_linear_reference))
    torch.testing.assert_close(found, wanted, rtol=2 * ROUNDING[dtype] + 1e-5, atol=1e-4)


def test_leading_dimensions_and_memory_layout_do_not_matter():
    quantised = quantise_fp8(rough(100, 96), 64)
    x = normal(2, 3, 96)
    wanted = torch.stack([fp8_linear(part, quantised) for part in x])
    assert torch.equal(fp8_linear(x, quantised), wanted)
    assert torch.equal(fp8_linear(x.transpose(0, 1), quantised), wanted.transpose(0, 1))
    assert torch.equal(fp8_linear(x.mT.contiguous().mT, quantised), wanted)
    assert torch.equal(fp8_linear(torch.cat((x, x), -1)[..., :96], quantised), wanted)
    assert torch.equal(fp8_linear(x[0, 0], quantised), wanted[0, 0])
    assert fp8_linear(x[:0], quantised).shape == (0, 3, 100)

    x.requires_grad_()
    fp8_linear(x, quantised).sum().backward()  # the gradient is expanded from one number
    exact = dequantise_fp8(quantised, F64).sum(0).expand(2, 3, 96)
    torch.testing.assert_close(x.grad.double(), exact, rtol=1e-5, atol=1e-3)


def test_autocast_decides_the_type():
    quantised = quantise_fp8(rough(100, 96), 64)
    x = normal(4, 96, seed=1).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        out = fp8_linear(x, quantised)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, fp8_linear(x.bfloat16(), quantised))
    out.sum().backward()
    assert x.grad.dtype == torch.float32


def test_two_runs_give_the_same_bits():
    quantised, x = quantise_fp8(rough(100, 300)), normal(70, 300)
    assert torch.equal(fp8_linear(x, quantised), fp8_linear(x, quantised))


class _Recorder(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.kept = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        assert "_local_scalar_dense" not in str(func) and "nonzero" not in str(func)
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return out


@pytest.mark.parametrize("rows", [64, 128])
@pytest.mark.parametrize("size", [256, 512])
def test_only_results_are_allocated_and_only_the_weight_is_kept(rows, size):
    quantised = quantise_fp8(normal(size, size))
    x = normal(rows, size).bfloat16().requires_grad_()
    saved = []
    with (
        _Recorder() as recorder,
        torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.data_ptr()) or t, lambda t: t),
    ):
        y = fp8_linear(x, quantised)
        given_ = {t.untyped_storage().data_ptr() for t in (x, quantised.data, quantised.scale)}
        assert sum(s.nbytes() for p, s in recorder.kept.items() if p not in given_) == 2 * rows * size
    assert set(saved) == {quantised.data.data_ptr(), quantised.scale.data_ptr()}
    with _Recorder() as recorder:
        torch.autograd.grad(y, x, torch.ones_like(y))
    given_ |= {y.untyped_storage().data_ptr()}
    # the ones above, and the gradient
    assert sum(s.nbytes() for p, s in recorder.kept.items() if p not in given_) <= 4 * rows * size


def test_quantising_takes_a_bounded_number_of_bytes_more(monkeypatch):
    monkeypatch.setattr(fp8, "_STRIP", 64 * 256)
    largest = []
    for rows in (256, 1024):
        with _Recorder() as recorder:
            found = quantise_fp8(torch.ones(rows, 256), 64)
        results = {t.untyped_storage().data_ptr() for t in found[:2]}
        largest.append(max(s.nbytes() for p, s in recorder.kept.items() if p not in results))
    assert largest[1] == 4 * 1024 * 256  # the weight itself
    monkeypatch.undo()
    assert 4 * fp8._STRIP * 4 <= 64 * 2**20


def test_every_argument_of_the_kernel_is_in_each_variant():
    found = list(variants())
    assert len({variant.name for variant in found}) == len(found)
    assert {"fp8 bf16 128x128x64 x Wt", "fp8 fp32 32x32x32 g W"} <= {variant.name for variant in found}
    for variant in found:
        names = variant.kernel.arg_names
        assert sorted(names) == sorted([*variant.signature, *variant.constants])
        assert variant.min_capability >= 89
    cuts = {tuple(v.constants[k] for k in ("BLOCK_M", "BLOCK_N", "BLOCK_K")) for v in found}
    for rows in (1, 64, 65, 10_000):
        for aligned in (False, True):
            for hopper in (False, True):
                for dtype in ROUNDING:
                    assert fp8.choose_tile(rows, aligned, dtype, hopper)[:3] in cuts


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda w, x: quantise_fp8(torch.ones(4)), r"weight='torch.float32 \[4\]'"),
        (lambda w, x: quantise_fp8(torch.ones(4, 0)), "not empty"),
        (lambda w, x: quantise_fp8(w.data), "float8_e4m3fn"),
        (lambda w, x: quantise_fp8(torch.ones(4, 4), 100), "block=100 .* multiple of 64"),
        (lambda w, x: fp8_linear(x[:, :5], w), r"x.shape=\[3, 5\] .* \[..., 70\]"),
        (lambda w, x: fp8_linear(x.double(), w), "x.dtype=torch.float64"),
        (lambda w, x: fp8_linear(x, w._replace(data=w.data.float())), "weight.data=.*quantise_fp8"),
        (lambda w, x: fp8_linear(x, w._replace(scale=w.scale.T)), "weight.scale="),
        (lambda w, x: fp8_linear(x, w._replace(block=32)), "weight.block=32"),
        (lambda w, x: fp8_linear(x, w, torch.ones(70)), r"bias='torch.float32 \[70\]'"),
        (lambda w, x: fp8_linear(x.to("meta"), w), "weight.data.device='cpu'"),
    ],
)
def test_refusals_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call(quantise_fp8(normal(130, 70), 64), normal(3, 70))


def test_without_a_gpu_and_without_the_interpreter_it_says_what_to_do(monkeypatch):
    monkeypatch.setattr(fp8, "INTERPRETED", False)
    with pytest.raises(ValueError, match="a CUDA device.*fp8_linear_reference, or TRITON_INTERPRET=1"):
        fp8_linear(normal(3, 70), quantise_fp8(normal(130, 70), 64))


_OUTER = "test_in_a_process_where_triton_interprets"
for _name in [n for n in globals() if n.startswith("test_") and (n == _OUTER) == INSIDE]:
    del globals()[_name]  # outside, the one that starts the process is left; inside, all the others
