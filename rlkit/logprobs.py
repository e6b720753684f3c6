"""Hidden states in, per-token log-probabilities and entropies out; the logits are never held.

A language model's last layer turns each hidden state h [H] into V logits, one for every token of the
vocabulary. For 4,096 tokens and V = 151,936 they are 2.5 GB, and autograd keeps several copies. Here only the
numbers are computed that reinforcement learning needs, one or two a token, in tiles of rows × vocabulary:

- `linear_logprob` from hidden states (how, and why in two matmuls, is told in `rlkit.logprob_tiles`);
- `completion_logprobs` from a transformers or peft model and a batch of token ids;
- `check_head` compares the latter, once and on a few tokens, with the logits that the model itself gives.

Triton kernels do the work on an NVIDIA GPU, torch elsewhere: `rlkit.kernel_choice`.
"""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rlkit.errors import ConfigError, bad_value
from rlkit.kernel_choice import triton_form
from rlkit.logprob_tiles import Job, TiledLogprob

# Rows × vocabulary of one tile. CPU: the fastest, frozen and trained, of ten shapes from 256 × 1,024 to
# 2,048 × 8,192 (H = 896, fp32). Elsewhere: 32 MiB a tile in fp32, meant to fill a GPU, but not measured.
DEFAULT_TILES = {"cpu": (1024, 2048), "other": (1024, 8192)}


class LinearLogprob(NamedTuple):
    """What the last layer says about each target token; float64 where the hidden states are, else float32.

    [N] from `linear_logprob`, [N, L] from `completion_logprobs`; 0 where masked.
    """

    logprobs: Tensor  # log p(target), differentiable
    entropy: Tensor | None  # -Σ_v p_v log p_v in nats, where asked for; differentiable with entropy_grad
    lse: Tensor  # logsumexp of the tempered logits; not differentiable


def linear_logprob(
    hidden: Tensor,  # [N, H] after the final norm; float64, float32, bfloat16 or float16
    weight: Tensor,  # [V, H] the head (lm_head.weight)
    targets: Tensor,  # [N] token ids; those of masked rows may be anything
    *,
    bias: Tensor | None = None,  # [V]
    mask: Tensor | None = None,  # [N] bool; False: the row costs nothing, its outputs and its gradient are 0
    temperature: float | Tensor = 1.0,  # number or [N]
    softcap: float | None = None,  # Gemma's final_logit_softcapping
    return_entropy: bool = False,
    entropy_grad: bool = False,  # implies return_entropy
    row_tile: int | None = None,  # of the torch form; the Triton kernels have tiles of their own
    vocab_tile: int | None = None,
) -> LinearLogprob:
    """log p(target | h) for each row, without ever holding [N, V].

    y = softcap · tanh((h Wᵀ + b) / softcap) / T    first the soft-cap, then the temperature, as in vLLM
    logprobs = y_target - logsumexp(y)              entropy = -Σ_v p_v log p_v

    A head is frozen when neither `weight` nor `bias` requires a gradient: then forward and backward together
    take two matmuls (one more for an entropy gradient), and one under `torch.no_grad`; a trained head takes
    four. Matmuls run in the type of `hidden` (in autocast's, where that is on), with the weight cast tile by
    tile if its type differs; all sums are float32, for float64 input float64. `temperature` gets no gradient.

    Raises `ConfigError` for shapes and types that do not fit, a target outside [0, V), and a temperature or
    soft-cap that is not above 0.
    """
    tiles = DEFAULT_TILES.get(hidden.device.type, DEFAULT_TILES["other"])
    row_tile = tiles[0] if row_tile is None else row_tile
    vocab_tile = tiles[1] if vocab_tile is None else vocab_tile
    _check(hidden, weight, targets, bias, mask, softcap, row_tile, vocab_tile)
    sums = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    n_rows, device = hidden.shape[0], hidden.device

    warmth = _temperature(temperature, ((n_rows,),)).to(sums).to(device).expand(n_rows)  # [N]
    targets = targets.to(device, torch.long)
    kept = None if mask is None else mask.to(device).nonzero()[:, 0]  # [n] row numbers
    if kept is not None:
        hidden, targets, warmth = (x.index_select(0, kept) for x in (hidden, targets, warmth))
    if targets.numel():
        low, high = torch.stack(targets.aminmax()).tolist()
        if low < 0 or high >= weight.shape[0]:
            cause = "Ignore labels (-100) must be masked; or are the ids another tokenizer's?"
            raise bad_value("targets", f"{low} … {high}", f"token ids from 0 to {weight.shape[0] - 1}", cause)

    grad = torch.is_grad_enabled()
    trained = weight.requires_grad or (bias is not None and bias.requires_grad)
    directions = grad and hidden.requires_grad and not trained
    job = Job(row_tile, vocab_tile, return_entropy or entropy_grad, entropy_grad, directions)
    kind = device.type
    if torch.is_autocast_enabled(kind) and hidden.dtype != torch.float64:
        hidden = hidden.to(torch.get_autocast_dtype(kind))
    with torch.autocast(kind, enabled=False):
        fused = triton_form(hidden)
        if fused is None:
            found = TiledLogprob.apply(hidden, weight, bias, targets, 1 / warmth, softcap, job)
        else:
            found = fused(
                hidden,
                weight,
                targets,
                bias=bias,
                temperature=warmth,
                softcap=softcap,
                return_entropy=job.want_entropy,
                entropy_grad=entropy_grad,
            )
    logprobs, entropy, lse = found
    if kept is not None:
        logprobs, lse = _put_back(logprobs, kept, n_rows), _put_back(lse, kept, n_rows)
        entropy = None if entropy is None else _put_back(entropy, kept, n_rows)
    return LinearLogprob(logprobs, entropy, lse)


def _temperature(temperature: float | Tensor, shapes: tuple[tuple[int, ...], ...]) -> Tensor:
    """As a tensor, () if it is one number; refused unless all are above 0 and the shape is one of these."""
    many = isinstance(temperature, Tensor)
    t = torch.as_tensor(temperature, dtype=None if many else torch.float64).detach()
    if t.numel() != 1 and t.shape not in shapes:
        wanted = " or ".join(str(list(shape)) for shape in shapes)
        raise bad_value("temperature.shape", list(t.shape), f"one number, or {wanted}")
    if not bool((t > 0).all()):
        cause = "Greedy sampling has no distribution of its own: score it at temperature 1."
        raise bad_value("temperature", float(t.min()), "numbers above 0", cause)
    return t.reshape(()) if t.numel() == 1 else t


def completion_logprobs(
    model: nn.Module,  # a transformers model with a language-model head, or a peft model around one
    input_ids: Tensor,  # [N, L] prompt and completion, padded left, right or both
    attention_mask: Tensor,  # [N, L] 1 for tokens, 0 for padding; one unbroken run of ones a row
    completion_mask: Tensor | int,  # [N, L] 1 for tokens to score; or K: the tokens among the last K columns
    *,
    temperature: float | Tensor = 1.0,  # number, [N] or [N, L]
    return_entropy: bool = False,
    entropy_grad: bool = False,
    hidden: Tensor
    | None = None,  # [N, L, H] of `hidden_states`, where they are needed for something else as well
    **model_inputs: Any,  # what else the model's body takes, for instance pixel_values
) -> LinearLogprob:
    """log p(token | what precedes it) for each completion token, in the frame [N, L] of `input_ids`.

    Entry [i, j] belongs to token input_ids[i, j] and comes from the hidden state at j - 1; it is 0 where
    `completion_mask` is 0. `entropy` and `lse` at [i, j] are those of the distribution that this token was
    drawn from. Only the model's body runs (no logits), and only rows that are scored reach the head.
    Gradients reach all parameters that require them.

    Raises `ConfigError` if a token to score is padding or has no token before it, and for a head that is not
    `softcap · tanh(scale · (h Wᵀ + b) / softcap)`; see `check_head`.
    """
    n, length = input_ids.shape
    attended = attention_mask.bool()
    if isinstance(completion_mask, int):
        if not 0 <= completion_mask < length:
            raise bad_value("completion_mask", completion_mask, f"0 to {length - 1} columns, or a mask")
        last = torch.arange(length, device=attended.device) >= length - completion_mask
        completion_mask = attended & last
    score = completion_mask.bool()
    if attended.shape != (n, length) or score.shape != (n, length):
        found = f"{list(attended.shape)} and {list(score.shape)}"
        raise bad_value("attention_mask, completion_mask", found, f"shape [{n}, {length}], that of input_ids")
    before = nn.functional.pad(attended, (1, 0))[:, :-1]
    if bool((score & ~(attended & before)).any()):
        cause = "Does the prompt hold no token, or is there padding between prompt and completion?"
        raise bad_value(
            "completion_mask", "1 at padding or a first token", "1 after an attended token", cause
        )

    warmth = _temperature(temperature, ((n,), (n, 1), (n, length)))
    if warmth.ndim == 1:
        warmth = warmth[:, None]

    shape = _head(model)
    if hidden is None:
        hidden = hidden_states(model, input_ids, attention_mask, **model_inputs)
    kept = score.flatten().nonzero()[:, 0].to(hidden.device)  # [n] places in the flattened frame
    hidden = hidden.flatten(0, 1).index_select(0, kept - 1).to(shape.weight.device)  # [n, H]
    if warmth.ndim:
        warmth = warmth.to(kept.device).expand(n, length).flatten()[kept]
    flat = linear_logprob(
        hidden,
        shape.weight,
        input_ids.to(kept.device).flatten()[kept],
        bias=shape.bias,
        temperature=warmth / shape.scale,
        softcap=None if shape.softcap is None else shape.softcap / shape.scale,
        return_entropy=return_entropy,
        entropy_grad=entropy_grad,
    )
    kept = kept.to(hidden.device)
    parts = (None if x is None else _put_back(x, kept, n * length).view(n, length) for x in flat)
    return LinearLogprob(*parts)  # type: ignore[arg-type]


def hidden_states(
    model: nn.Module,
    input_ids: Tensor,  # [N, L]
    attention_mask: Tensor,  # [N, L] 1 on real tokens
    **model_inputs: Any,
) -> Tensor:  # [N, L, H]
    """What the body of a transformers or peft model hands to its head, after the final norm."""
    body = _unwrap(model).base_model
    attended = attention_mask.bool()
    # Padding on the right is never looked at by a causal model: no mask, so attention's fast kernels are free to run.
    if not bool(attended[:, 0].all()):
        model_inputs["attention_mask"] = attention_mask
        if "position_ids" in inspect.signature(body.forward).parameters:
            model_inputs.setdefault("position_ids", (attended.long().cumsum(1) - 1).clamp(min=0))
    states: Tensor = body(input_ids=input_ids, use_cache=False, **model_inputs)[0]
    return states


def check_head(model: nn.Module, input_ids: Tensor) -> float:  # [N, L]
    """Largest difference between `completion_logprobs` and the model's own logits, in nats; dropout off.

    Compares log-probabilities and entropies of the first row's first 32 tokens; call it once, before
    training. Raises `ConfigError` beyond 1e-3 + 2 eps max |logit|: the model then does something to its
    logits that `completion_logprobs` does not know of.
    """
    ids = input_ids[:1, :32]
    ones = torch.ones_like(ids)
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            logits = model(input_ids=ids, attention_mask=ones, use_cache=False).logits[0, :-1]
            ours = completion_logprobs(model, ids, ones, ids.shape[1] - 1, return_entropy=True)
    finally:
        for module, training in modes:
            module.training = training
    logp = logits.double().log_softmax(-1)  # [L - 1, V]
    expected = torch.stack(
        (logp.gather(1, ids[0, 1:, None].to(logp.device))[:, 0], -(logp.exp() * logp).sum(1))
    )
    found = torch.stack((ours.logprobs[0, 1:], ours.entropy[0, 1:]))  # type: ignore[index]
    gap = float((found.to(expected) - expected).abs().max()) if expected.numel() else 0.0
    allowed = 1e-3 + 2 * torch.finfo(logits.dtype).eps * float(logits.abs().max()) if expected.numel() else 0
    if not gap <= allowed:
        raise ConfigError(
            f"{type(model).__name__}: log-probabilities from hidden states and head differ from those of "
            f"model(...).logits by {gap:.3g} nats (allowed: {allowed:.2g}). Something is between its head "
            "and its logits other than a bias, a scale (logit_scale, logits_scaling, lm_head_multiplier) and "
            "final_logit_softcapping; or an adapter sits on its output layer."
        )
    return gap


class _HeadShape(NamedTuple):
    """logits = softcap · tanh(scale · (h Wᵀ + b) / softcap)."""

    weight: Tensor  # [V, H]
    bias: Tensor | None  # [V]
    softcap: float | None
    scale: float


def _unwrap(model: nn.Module) -> Any:
    """The transformers model inside a peft model (whose adapters sit in its layers), or the model itself."""
    if not hasattr(model, "get_base_model"):
        return model
    adapters: Any = model.peft_config
    if any(getattr(adapter, "is_prompt_learning", False) for adapter in adapters.values()):
        raise ConfigError("prompt learning (prompt, prefix and p-tuning) is not supported: use LoRA.")
    return model.get_base_model()  # type: ignore[operator]


def _head(model: nn.Module) -> _HeadShape:
    """Find the head, and what the configuration says is done to its logits."""
    inner = _unwrap(model)
    layer = inner.get_output_embeddings()
    if hasattr(layer, "modules_to_save"):  # peft trains a copy of the layer
        off = layer.disable_adapters
        layer = layer.original_module if off else layer.modules_to_save[layer.active_adapters[0]]
    if not isinstance(layer, nn.Linear) or inner.base_model is inner:
        what = f"{type(inner).__name__} with output layer {type(layer).__name__}"
        cause = "Leave lm_head out of target_modules."
        raise bad_value("model", what, "a model with a plain linear head", cause)
    configs = (inner.config.get_text_config(), inner.config)

    def setting(name: str) -> float | None:
        return next((float(x) for x in (getattr(c, name, None) for c in configs) if x is not None), None)

    scale = (setting("logit_scale") or 1.0) * (setting("lm_head_multiplier") or 1.0)
    scale /= setting("logits_scaling") or 1.0
    return _HeadShape(layer.weight, layer.bias, setting("final_logit_softcapping"), scale)


def _put_back(values: Tensor, kept: Tensor, n_rows: int) -> Tensor:
    """Values [n] of the kept rows into [N], with 0 elsewhere."""
    return values.new_zeros(n_rows).index_put((kept,), values)


def _check(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    softcap: float | None,
    row_tile: int,
    vocab_tile: int,
) -> None:
    """Shapes, types and ranges, before any work."""
    floats = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
    for name, tensor in (("hidden", hidden), ("weight", weight)):
        if tensor.ndim != 2:
            raise bad_value(
                f"{name}.shape", list(tensor.shape), "2 dimensions", "Flatten [B, L, H] to [N, H]."
            )
        if tensor.dtype not in floats:
            cause = "A quantised head must be left out of the quantisation, or dequantised first."
            raise bad_value(f"{name}.dtype", tensor.dtype, "float64, float32, bfloat16 or float16", cause)
    n_rows, width = hidden.shape
    n_vocab = weight.shape[0]
    if weight.shape[1] != width or n_vocab == 0:
        fits = f"[V, {width}], since hidden is {list(hidden.shape)}"
        raise bad_value("weight.shape", list(weight.shape), fits, "Is it transposed?")
    if targets.shape != (n_rows,) or targets.is_floating_point():
        raise bad_value("targets", f"{targets.dtype} {list(targets.shape)}", f"token ids of shape [{n_rows}]")
    if mask is not None and (mask.shape != (n_rows,) or mask.is_floating_point()):
        raise bad_value("mask", f"{mask.dtype} {list(mask.shape)}", f"bool of shape [{n_rows}]")
    if bias is not None and bias.shape != (n_vocab,):
        raise bad_value("bias.shape", list(bias.shape), f"[{n_vocab}], one for each token of the vocabulary")
    if softcap is not None and not softcap > 0:
        raise bad_value("softcap", softcap, "a number above 0, or None")
    for name, size in (("row_tile", row_tile), ("vocab_tile", vocab_tile)):
        if size < 1:
            raise bad_value(name, size, "a whole number above 0")
