"""`rlkit.logprobs` against plain float64 autograd: values, gradients, shapes, sure tokens, memory, real models."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from rlkit.errors import ConfigError
from rlkit.logprobs import LinearLogprob, check_head, completion_logprobs, linear_logprob

F64 = torch.float64


def plain(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    softcap: float | None = None,
) -> LinearLogprob:
    """The definition: all logits at once."""
    z = hidden @ weight.T
    if bias is not None:
        z = z + bias
    if softcap is not None:
        z = softcap * torch.tanh(z / softcap)
    y = z / (temperature[:, None] if isinstance(temperature, Tensor) else temperature)
    logp = y.log_softmax(1)
    entropy = -(logp.exp() * logp).sum(1)
    return LinearLogprob(logp.gather(1, targets[:, None])[:, 0], entropy, y.logsumexp(1))


def problem(
    n: int = 7,
    width: int = 5,
    vocab: int = 23,
    frozen: bool = True,
    with_bias: bool = False,
    spread: float = 2.0,
) -> dict[str, Any]:
    """Random hidden [N, H], weight [V, H], targets [N] and perhaps bias [V], in float64."""
    r = torch.Generator().manual_seed(n * 10007 + width * 101 + vocab)
    hidden = torch.randn(n, width, generator=r, dtype=F64).requires_grad_()
    weight = (spread * torch.randn(vocab, width, generator=r, dtype=F64)).requires_grad_(not frozen)
    out = {"hidden": hidden, "weight": weight, "targets": torch.randint(0, vocab, (n,), generator=r)}
    if with_bias:
        out["bias"] = torch.randn(vocab, generator=r, dtype=F64).requires_grad_(not frozen)
    return out


def as_type(inputs: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """Leaf copies of the floats in another type."""
    copy = lambda x: x.detach().to(dtype).requires_grad_(x.requires_grad) if x.is_floating_point() else x  # noqa: E731
    return {name: copy(x) for name, x in inputs.items()}


def weighted(out: LinearLogprob, with_entropy: bool) -> Tensor:
    """A scalar in which every token counts differently."""
    n = out.logprobs.shape[0]
    g = torch.linspace(-1, 1.5, n, dtype=out.logprobs.dtype)
    loss = (g * out.logprobs).sum()
    if with_entropy:
        assert out.entropy is not None
        loss = loss + (g.flip(0).cos() * out.entropy).sum()
    return loss


def gradients(loss: Tensor, inputs: dict[str, Any]) -> list[Tensor]:
    leaves = [x for x in inputs.values() if x.requires_grad]
    return list(torch.autograd.grad(loss, leaves))


def relative(found: Tensor, expected: Tensor) -> float:
    """max |found - expected| / max |expected|"""
    return float((found.detach().double() - expected.detach()).abs().max() / expected.detach().abs().max())


# ------------------------------------------------------------------------ values and gradients


@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "trained"])
@pytest.mark.parametrize("entropy_grad", [False, True], ids=["", "entropy_grad"])
def test_equals_the_definition_in_float64(frozen: bool, entropy_grad: bool) -> None:
    for with_bias, per_row, softcap, masked in itertools.product([False, True], repeat=4):
        inputs = problem(frozen=frozen, with_bias=with_bias)
        options: dict[str, Any] = {"softcap": 3.0 if softcap else None}
        options["temperature"] = torch.linspace(0.5, 1.5, 7, dtype=F64) if per_row else 0.7
        mask = torch.tensor([1, 0, 1, 1, 0, 1, 0]).bool() if masked else torch.ones(7).bool()
        expected = plain(**inputs, **options)
        expected = LinearLogprob(*(torch.where(mask, x, 0) for x in expected))  # type: ignore[arg-type]
        found = linear_logprob(
            **inputs,
            **options,
            mask=mask if masked else None,
            return_entropy=True,
            entropy_grad=entropy_grad,
            row_tile=3,
            vocab_tile=4,
        )
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)
        assert found.entropy is not None and found.entropy.requires_grad == entropy_grad
        ours = gradients(weighted(found, entropy_grad), inputs)
        theirs = gradients(weighted(expected, entropy_grad), inputs)
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "trained"])
def test_gradcheck(frozen: bool) -> None:
    inputs = problem(n=3, width=4, vocab=7, frozen=frozen, with_bias=True)
    names = [name for name, x in inputs.items() if x.requires_grad]

    def f(*leaves: Tensor) -> tuple[Tensor, Tensor]:
        changed = inputs | dict(zip(names, leaves, strict=True))
        out = linear_logprob(
            **changed, softcap=2.5, temperature=0.8, entropy_grad=True, row_tile=2, vocab_tile=3
        )
        assert out.entropy is not None
        return out.logprobs, out.entropy

    assert torch.autograd.gradcheck(f, [inputs[name] for name in names])


@settings(max_examples=60)
@given(
    n=st.integers(0, 9),
    width=st.integers(1, 6),
    vocab=st.integers(1, 20),
    row_tile=st.integers(1, 10),
    vocab_tile=st.integers(1, 21),
    kept=st.integers(0, 2**9 - 1),
    frozen=st.booleans(),
)
def test_any_shape_and_tile(
    n: int, width: int, vocab: int, row_tile: int, vocab_tile: int, kept: int, frozen: bool
) -> None:
    inputs = problem(n, width, vocab, frozen)
    mask = torch.tensor([bool(kept >> i & 1) for i in range(n)], dtype=torch.bool)
    expected = LinearLogprob(*(torch.where(mask, x, 0) for x in plain(**inputs)))  # type: ignore[arg-type]
    found = linear_logprob(**inputs, mask=mask, entropy_grad=True, row_tile=row_tile, vocab_tile=vocab_tile)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)
    ours, theirs = gradients(weighted(found, True), inputs), gradients(weighted(expected, True), inputs)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_masked_rows_may_hold_anything() -> None:
    inputs = problem()
    mask = torch.arange(7) != 2
    inputs["targets"][2] = -100
    with torch.no_grad():
        inputs["hidden"][2] = torch.nan
    found = linear_logprob(**inputs, mask=mask, entropy_grad=True)
    (d_hidden,) = gradients(weighted(found, True), inputs)
    assert found.logprobs[2] == found.lse[2] == d_hidden[2].abs().sum() == 0
    assert torch.isfinite(d_hidden).all()


def test_bias_alone_may_be_trained_and_hidden_frozen() -> None:
    inputs = problem(with_bias=True)
    inputs["hidden"].requires_grad_(False)
    inputs["bias"].requires_grad_(True)
    (ours,) = gradients(weighted(linear_logprob(**inputs), False), inputs)
    (theirs,) = gradients(weighted(plain(**inputs), False), inputs)
    torch.testing.assert_close(ours, theirs)


def test_loss_on_entropy_alone() -> None:
    for frozen in (True, False):
        inputs = problem(frozen=frozen)
        found, expected = linear_logprob(**inputs, entropy_grad=True).entropy, plain(**inputs).entropy
        assert found is not None and expected is not None
        for a, b in zip(gradients(found.sum(), inputs), gradients(expected.sum(), inputs), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_the_soft_cap_comes_before_the_temperature() -> None:
    hidden, weight = torch.tensor([[6.0]]), torch.tensor([[1.0], [0.0]])
    y = 3 * torch.tanh(torch.tensor(2.0)) / 0.5  # the other order, 3 tanh(4) = 2.998, would be capped at 3
    found = linear_logprob(hidden, weight, torch.tensor([0]), softcap=3.0, temperature=0.5)
    assert float(found.lse) == pytest.approx(float(torch.logaddexp(y, torch.zeros(()))), rel=1e-6)


# ------------------------------------------------------------------------ precision


@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "trained"])
@pytest.mark.parametrize("softcap", [None, 100.0])
def test_sure_tokens_keep_their_gradients(frozen: bool, softcap: float | None) -> None:
    """1 - p from 1e-2 to 1e-8 in float32: W_t - Σ p W, formed directly, has no correct digit left at the end."""
    vocab, width, n = 5000, 32, 7
    r = torch.Generator().manual_seed(0)
    weight = torch.randn(vocab, width, generator=r) / width**0.5
    hidden = torch.randn(n, width, generator=r)
    targets = torch.arange(n) * 700

    for i, doubt in enumerate([1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8]):  # h + c W_t, c by bisection
        low, high = 0.0, 60.0
        for _ in range(60):
            c = (low + high) / 2
            h = (hidden[i] + c * weight[targets[i]])[None].double()
            logp = plain(h, weight.double(), targets[i : i + 1], softcap=softcap).logprobs
            low, high = (c, high) if -torch.expm1(logp) > doubt else (low, c)
        hidden[i] += low * weight[targets[i]]
    hidden.requires_grad_()
    weight.requires_grad_(not frozen)
    inputs = {"hidden": hidden, "weight": weight, "targets": targets}
    exact = as_type(inputs, F64)
    found = linear_logprob(**inputs, softcap=softcap, entropy_grad=True, row_tile=4, vocab_tile=512)
    expected = plain(**exact, softcap=softcap)
    assert float(-torch.expm1(expected.logprobs[3].detach())) == pytest.approx(1e-5, rel=0.01)
    for a, b in ((found.logprobs, expected.logprobs), (found.entropy, expected.entropy)):
        assert a is not None and b is not None
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=0)
    for out, ref in ((found.logprobs, expected.logprobs), (found.entropy, expected.entropy)):
        assert out is not None and ref is not None
        for i in range(n):
            ours = torch.autograd.grad(out[i], hidden, retain_graph=True)[0][i]
            theirs = torch.autograd.grad(ref[i], exact["hidden"], retain_graph=True)[0][i]
            assert relative(ours, theirs) < 1e-3, i
            if not frozen:
                ours = torch.autograd.grad(out[i], weight, retain_graph=True)[0]
                theirs = torch.autograd.grad(ref[i], exact["weight"], retain_graph=True)[0]
                assert relative(ours, theirs) < 1e-3, i


@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "trained"])
def test_logits_of_ten_thousand(frozen: bool) -> None:
    weight = torch.tensor([[1e4], [-1e4], [0.0], [9999.0]]).requires_grad_(not frozen)
    inputs = {"hidden": torch.ones(4, 1).requires_grad_(), "weight": weight, "targets": torch.arange(4)}
    exact = as_type(inputs, F64)
    for vocab_tile in (1, 2, 4):
        found, expected = linear_logprob(**inputs, entropy_grad=True, vocab_tile=vocab_tile), plain(**exact)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a.double(), b, rtol=1e-6, atol=1e-30)
        ours, theirs = gradients(weighted(found, True), inputs), gradients(weighted(expected, True), exact)
        for a, b in zip(ours, theirs, strict=True):
            assert torch.isfinite(a).all() and relative(a, b) < 1e-4


@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "trained"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 4e-3), (torch.bfloat16, 2e-2)], ids=str
)
def test_low_precision(frozen: bool, dtype: torch.dtype, tolerance: float) -> None:
    inputs = as_type(problem(n=40, width=16, vocab=301, frozen=frozen, with_bias=True, spread=0.5), dtype)
    exact = as_type(inputs, F64)
    found = linear_logprob(**inputs, temperature=0.9, entropy_grad=True, row_tile=16, vocab_tile=64)
    expected = plain(**exact, temperature=0.9)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == torch.float32 and relative(a, b) < tolerance
    ours, theirs = gradients(weighted(found, True), inputs), gradients(weighted(expected, True), exact)
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == dtype and relative(a, b) < tolerance


def test_sure_token_in_bfloat16() -> None:
    """The sum of the others is rounded, not the difference: the direction survives at 1 - p = 1e-4."""
    r = torch.Generator().manual_seed(1)
    weight = torch.randn(512, 64, generator=r).bfloat16()
    hidden = (weight[3:4] * 0.28).requires_grad_()
    exact = hidden.detach().double().requires_grad_()
    expected = plain(exact, weight.double(), torch.tensor([3])).logprobs
    assert 1e-6 < float(-torch.expm1(expected.detach())) < 1e-3
    (theirs,) = torch.autograd.grad(expected, exact)
    (ours,) = torch.autograd.grad(linear_logprob(hidden, weight, torch.tensor([3])).logprobs, hidden)
    assert float(torch.cosine_similarity(ours.double(), theirs)) > 0.999


def test_autocast_runs_the_matmuls_in_its_type() -> None:
    for frozen in (True, False):
        inputs = as_type(problem(n=20, width=16, vocab=100, frozen=frozen), torch.float32)
        low = as_type(inputs, torch.bfloat16)
        low["weight"] = inputs["weight"]
        with torch.autocast("cpu", torch.bfloat16):
            found = linear_logprob(**inputs)
        expected = linear_logprob(**low)
        assert torch.equal(found.logprobs, expected.logprobs)
        ours, theirs = gradients(weighted(found, False), inputs), gradients(weighted(expected, False), low)
        for a, b in zip(ours, theirs, strict=True):
            assert a.dtype == torch.float32 and torch.equal(a, b.float())


# ------------------------------------------------------------------------ memory and errors


class Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation returns, and counts the matmuls' multiplications."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0
        self.multiplications = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple | list) else [out]:
            if isinstance(x, Tensor):
                self.numbers = max(self.numbers, x.untyped_storage().nbytes() // x.element_size())
        if func._schema.name in ("aten::mm", "aten::addmm_"):
            a, b = args[-2:]
            self.multiplications += a.shape[0] * a.shape[1] * b.shape[1]
        return out


@pytest.mark.parametrize(("frozen", "matmuls"), [(True, 2), (False, 4)], ids=["frozen", "trained"])
def test_never_holds_rows_times_vocabulary(frozen: bool, matmuls: int) -> None:
    n, width, vocab = 300, 16, 1000
    inputs = as_type(problem(n, width, vocab, frozen), torch.float32)
    with Largest() as largest:
        found = linear_logprob(**inputs, return_entropy=True, row_tile=64, vocab_tile=128)
        weighted(found, False).backward()
    assert largest.numbers <= max(64 * 128, n * width, vocab * width) < n * vocab / 10
    assert largest.multiplications == matmuls * n * width * vocab
    with Largest() as largest, torch.no_grad():
        linear_logprob(**inputs, mask=torch.arange(n) < 100, row_tile=64, vocab_tile=128)
    assert largest.multiplications == 100 * width * vocab  # one matmul, and none of it for masked rows


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hidden": torch.zeros(2, 3, 5)}, "hidden.shape"),
        ({"weight": torch.zeros(5, 23)}, "weight.shape"),
        ({"weight": torch.zeros(23, 5, dtype=torch.int8)}, "weight.dtype"),
        ({"bias": torch.zeros(22)}, "bias.shape"),
        ({"targets": torch.zeros(6, dtype=torch.long)}, "shape [7]"),
        ({"targets": torch.full((7,), 23)}, "0 to 22"),
        ({"targets": torch.full((7,), -100)}, "masked"),
        ({"mask": torch.ones(6).bool()}, "mask"),
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"temperature": torch.tensor([1.0, -1.0, 1, 1, 1, 1, 1])}, "temperature=-1.0"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"temperature": torch.ones(6)}, "temperature.shape"),
        ({"softcap": 0.0}, "softcap"),
        ({"row_tile": 0}, "row_tile"),
        ({"vocab_tile": -1}, "vocab_tile"),
    ],
)
def test_errors_name_the_argument(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as error:
        linear_logprob(**(as_type(problem(), torch.float32) | change))
    assert words in str(error.value)


# ------------------------------------------------------------------------ from a model

SMALL: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "Qwen2": {"tie_word_embeddings": True},
    "Llama": {"tie_word_embeddings": False},
    "Gemma2": {"final_logit_softcapping": 2.0, "head_dim": 8},
    "Gemma3Text": {"final_logit_softcapping": 2.0, "head_dim": 8, "sliding_window": 4},
    "Cohere": {"logit_scale": 0.25},
    "Granite": {"logits_scaling": 4.0},
    "Phi": {"num_key_value_heads": 4},  # its head has a bias
}


def tiny(family: str, seed: int = 0) -> Any:
    transformers = pytest.importorskip("transformers")
    config_class = getattr(transformers, f"{family}Config")
    model_class = getattr(transformers, f"{family.removesuffix('Text')}ForCausalLM")
    torch.manual_seed(seed)
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = config_class(**(SMALL | ids | FAMILIES[family]), attn_implementation="eager")
    model = model_class(config).eval()
    if getattr(model.lm_head, "bias", None) is not None:
        torch.nn.init.normal_(model.lm_head.bias)
    return model


def batch() -> tuple[Tensor, Tensor, Tensor]:
    """Prompts padded left, completions padded right, and one masked token (a tool's) inside a completion."""
    r = torch.Generator().manual_seed(3)
    ids = torch.randint(3, 97, (3, 9), generator=r)
    attention = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 0, 0], [1] * 9, [0, 1, 1, 1, 1, 1, 1, 1, 0]])
    completion = attention * (torch.arange(9) >= 4)
    completion[2, 5] = 0
    return ids * attention, attention, completion


def from_logits(model: Any, temperature: float) -> tuple[Tensor, Tensor]:
    """log p and entropy, [N, L], from the model's own logits: every row alone and without any padding."""
    ids, attention, completion = batch()
    logprobs, entropy = [], []
    for row, real in zip(ids, attention.bool(), strict=True):
        logp = (model(input_ids=row[real][None]).logits[0, :-1] / temperature).log_softmax(-1)
        places = real.nonzero()[1:, 0]
        blank = torch.zeros(row.shape[0])
        logprobs.append(blank.index_put((places,), logp.gather(1, row[places][:, None])[:, 0]))
        entropy.append(blank.index_put((places,), -(logp.exp() * logp).sum(-1)))
    return torch.stack(logprobs) * completion, torch.stack(entropy) * completion


@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "trained"])
@pytest.mark.parametrize("family", FAMILIES)
def test_completions_against_the_models_own_logits(family: str, frozen: bool) -> None:
    model = tiny(family)
    model.get_output_embeddings().requires_grad_(not frozen)
    ids, attention, completion = batch()
    loss_weights = torch.linspace(-1, 1, 27).view(3, 9)
    found = completion_logprobs(model, ids, attention, completion, temperature=0.8, entropy_grad=True)
    logprobs, entropy = from_logits(model, 0.8)
    assert found.entropy is not None and found.logprobs.shape == (3, 9)
    torch.testing.assert_close(found.logprobs, logprobs, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.entropy, entropy, rtol=1e-4, atol=1e-4)
    parameters = [p for p in model.parameters() if p.requires_grad]
    ours = torch.autograd.grad((loss_weights * (found.logprobs + 0.3 * found.entropy)).sum(), parameters)
    theirs = torch.autograd.grad((loss_weights * (logprobs + 0.3 * entropy)).sum(), parameters)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * float(b.abs().max() + 1e-3))
    assert check_head(model, ids[1:]) < 1e-4


def test_left_and_right_padding_give_the_same_numbers() -> None:
    model = tiny("Llama")
    ids = torch.randint(3, 97, (1, 6), generator=torch.Generator().manual_seed(5))
    blank, ones = torch.zeros(1, 3, dtype=torch.long), torch.ones(1, 6, dtype=torch.long)
    left = completion_logprobs(model, torch.cat((blank, ids), 1), torch.cat((blank, ones), 1), 4)
    right_mask = torch.cat((ones * (torch.arange(6) >= 2), blank), 1)
    right = completion_logprobs(model, torch.cat((ids, blank), 1), torch.cat((ones, blank), 1), right_mask)
    torch.testing.assert_close(left.logprobs[:, 5:], right.logprobs[:, 2:6], rtol=1e-5, atol=1e-5)
    assert left.logprobs[:, :5].abs().sum() == right.logprobs[:, 6:].abs().sum() == 0


@pytest.mark.parametrize(("padded", "masked"), [("right", False), ("left", True)])
def test_padding_on_the_right_needs_no_attention_mask(padded: str, masked: bool) -> None:
    """A causal model never looks at it, and without a mask attention's fused kernels may run."""
    model, seen = tiny("Qwen2"), []
    model.set_attn_implementation("sdpa")
    ids, attention = torch.full((2, 5), 7), torch.ones(2, 5, dtype=torch.long)
    attention[1, -2:] = 0
    if padded == "left":
        attention = attention.flip(1)
    hook = model.model.layers[0].self_attn.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["attention_mask"]), with_kwargs=True
    )
    score = attention.bool() & (attention.cumsum(1) > 1)
    completion_logprobs(model, ids, attention, score)
    hook.remove()
    assert [mask is not None for mask in seen] == [masked]


def test_temperature_per_completion_and_per_token() -> None:
    model, (ids, attention, completion) = tiny("Qwen2"), batch()
    warm = torch.tensor([0.5, 1.0, 2.0])
    per_row = completion_logprobs(model, ids, attention, completion, temperature=warm).logprobs
    whole = warm[:, None].expand(3, 9)
    assert torch.equal(
        per_row, completion_logprobs(model, ids, attention, completion, temperature=whole).logprobs
    )
    single = completion_logprobs(model, ids, attention, completion, temperature=2.0).logprobs
    torch.testing.assert_close(per_row[2], single[2])


def test_nothing_to_score_still_gives_a_gradient() -> None:
    model, (ids, attention, _) = tiny("Qwen2"), batch()
    out = completion_logprobs(model, ids, attention, 0)
    out.logprobs.sum().backward()
    assert out.logprobs.abs().sum() == 0 and model.lm_head.weight.grad.abs().sum() == 0


def test_completion_masks_that_cannot_be() -> None:
    model, (ids, attention, completion) = tiny("Qwen2"), batch()
    gap = attention.clone()
    gap[1, 3] = 0  # padding between prompt and completion
    first = completion.clone()
    first[0, 2] = 1  # the first real token follows padding
    for a, c in ((attention, torch.ones_like(completion)), (gap, completion), (attention, first)):
        with pytest.raises(ConfigError, match="completion_mask"):
            completion_logprobs(model, ids, a, c)
    for wrong in (9, -1):
        with pytest.raises(ConfigError, match="columns"):
            completion_logprobs(model, ids, attention, wrong)
    with pytest.raises(ConfigError, match="that of input_ids"):
        completion_logprobs(model, ids, attention, completion[:, 1:])
    with pytest.raises(ConfigError, match="temperature"):
        completion_logprobs(model, ids, attention, completion, temperature=0.0)


def test_check_head_names_a_gap() -> None:
    model, (ids, _, _) = tiny("Llama"), batch()
    forward = model.forward

    def scaled(*args: Any, **kwargs: Any) -> Any:
        out = forward(*args, **kwargs)
        out.logits = out.logits * 0.9
        return out

    model.forward = scaled
    model.train()
    with pytest.raises(ConfigError, match=r"LlamaForCausalLM.*differ"):
        check_head(model, ids[1:])
    assert model.training and model.model.training


def test_a_model_without_a_head_is_refused() -> None:
    model, (ids, attention, completion) = tiny("Llama"), batch()
    with pytest.raises(ConfigError, match="plain linear head"):
        completion_logprobs(model.model, ids, attention, completion)


def test_peft_adapters_count_and_can_be_switched_off() -> None:
    peft = pytest.importorskip("peft")
    ids, attention, completion = batch()
    plain_numbers = completion_logprobs(tiny("Llama"), ids, attention, completion).logprobs
    for saved in (None, ["lm_head"]):
        config = peft.LoraConfig(
            target_modules=["q_proj", "v_proj"], init_lora_weights=False, modules_to_save=saved
        )
        model = peft.get_peft_model(tiny("Llama"), config).eval()
        found = completion_logprobs(model, ids, attention, completion)
        torch.testing.assert_close(found.logprobs, from_logits(model, 1.0)[0], rtol=1e-4, atol=1e-4)
        found.logprobs.sum().backward()
        trained = [p for p in model.parameters() if p.requires_grad]
        assert trained and all(p.grad is not None and p.grad.abs().sum() > 0 for p in trained)
        assert check_head(model, ids[1:]) < 1e-4
        with model.disable_adapter():
            off = completion_logprobs(model, ids, attention, completion).logprobs
        assert torch.equal(off, plain_numbers)
    config = peft.LoraConfig(target_modules=["lm_head"])
    with pytest.raises(ConfigError, match="lm_head"):
        completion_logprobs(peft.get_peft_model(tiny("Llama"), config), ids, attention, completion)
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    with pytest.raises(ConfigError, match="prompt learning"):
        completion_logprobs(peft.get_peft_model(tiny("Llama"), config), ids, attention, completion)
