"""Generation with the trainer's own transformers model: no second engine, nothing to synchronise.

The faster engine for tiny models, and the one for models or machines that vLLM does not know. Prompts are
left-padded and read once each; their key/value cache is then repeated for the G completions. Rows that have
ended leave the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

import torch

from rlkit.engines.base import Sampling, end_token_ids
from rlkit.engines.base_weights import keep_quantised_as_loaded
from rlkit.engines.sync import SyncReport
from rlkit.errors import EngineError
from rlkit.rollout import Completion

_BLOCK = 512  # words of the vocabulary whose probabilities are summed up at once
_SHRINK_BELOW = 0.75  # drop ended rows once this share or less is still alive: each drop copies the cache


class HFEngine:
    """Batched sampling with a transformers model and its KV cache.

    Args:
        model: a causal LM, with or without an adapter; the trainer's own module, so its weights are always the
            current ones.
        tokenizer: decodes completions and names the end-of-sequence token.
        max_batch_rows: at most so many completions are decoded at once: the largest tensor is [rows, vocabulary].
    """

    def __init__(self, model: Any, tokenizer: Any, *, max_batch_rows: int = 256) -> None:
        import transformers

        self.name = f"Hugging Face {transformers.__version__}"
        self.weight_sync, self.weight_sync_reason = "same module", ""
        self.max_batch_rows = max_batch_rows
        keep_quantised_as_loaded(model)
        self._model: Any = model
        self._tokenizer = tokenizer
        self._end_ids = end_token_ids(model, tokenizer)

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[Completion]:
        model = self._open_model()
        generator = torch.Generator(device=model.device).manual_seed(sampling.seed)
        was_training = model.training
        model.eval()
        per_chunk = max(1, self.max_batch_rows // sampling.n)  # prompts
        completions: list[Completion] = []
        try:
            for start in range(0, len(prompts), per_chunk):
                for done in range(
                    0, sampling.n, self.max_batch_rows
                ):  # one round, unless n alone is too many
                    copies = min(sampling.n - done, self.max_batch_rows)
                    chunk = prompts[start : start + per_chunk]
                    completions += self._generate_chunk(chunk, replace(sampling, n=copies), generator)
        finally:
            model.train(was_training)
        texts = self._tokenizer.batch_decode(
            [completion.token_ids for completion in completions], skip_special_tokens=True
        )
        for completion, text in zip(completions, texts, strict=True):
            completion.text = text
        return completions

    @torch.inference_mode()
    def _generate_chunk(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, generator: torch.Generator
    ) -> list[Completion]:
        from rlkit.engines.decoding import grouped_attention, with_room  # here: it imports transformers

        model, device = self._model, self._model.device
        input_ids, attention = _left_pad(prompts, device)  # [P, L] both
        output = model(
            input_ids=input_ids,
            attention_mask=attention,
            position_ids=_positions(attention),
            use_cache=True,
            logits_to_keep=1,
        )
        cache = output.past_key_values
        cache.batch_repeat_interleave(sampling.n)
        attends_to_all = with_room(cache)
        logits = output.logits[:, -1].repeat_interleave(sampling.n, 0)  # [N, V]
        attention = attention.repeat_interleave(sampling.n, 0)  # [N, L]
        position = attention.sum(-1, keepdim=True)  # [N, 1] the next token's position
        length = attention.shape[1]  # tokens a row, padding included
        attention = torch.nn.functional.pad(attention, (0, sampling.max_tokens), value=1)  # [N, L + T]
        written = _Written(len(attention), sampling, device)
        alive = torch.arange(len(attention), device=device)  # [n] batch row → completion, N when ended
        end_ids = torch.tensor(self._end_ids, device=device)
        with grouped_attention(model) as grouped:
            for index in range(sampling.max_tokens):
                token, logprob, top = _sample(
                    logits.float(), sampling, generator
                )  # [n], [n], ([n, k], [n, k])
                written.add(index, alive, token, logprob, top)
                # An ended row that stays in the batch writes to nobody.
                alive = torch.where(torch.isin(token, end_ids), written.nobody, alive)
                keep = alive < written.nobody
                kept = int(keep.sum())
                if index + 1 == sampling.max_tokens or not kept:
                    break
                if kept <= _SHRINK_BELOW * len(alive):
                    rows = keep.nonzero().squeeze(-1)
                    cache.batch_select_indices(rows)
                    token, attention, position, alive = (
                        token[rows],
                        attention[rows],
                        position[rows],
                        alive[rows],
                    )
                length += 1
                seen = attention[:, :length]  # [n, length]
                output = model(
                    input_ids=token[:, None],
                    # transformers would build the second form anew for every token; windows need it to.
                    attention_mask=seen.bool()[:, None, None] if grouped and attends_to_all else seen,
                    position_ids=position,
                    past_key_values=cache,
                    use_cache=True,
                )
                logits, position = output.logits[:, -1], position + 1
        return written.completions(self._end_ids)

    @torch.inference_mode()
    def logprobs(self, token_ids: Sequence[Sequence[int]]) -> list[list[float]]:
        model = self._open_model()
        was_training = model.training
        model.eval()
        rows: list[list[float]] = []
        try:
            for sequence in token_ids:  # one by one: [L, V] is the largest tensor, however many there are
                ids = torch.tensor([sequence], device=model.device)  # [1, L]
                logits = model(input_ids=ids).logits[0, :-1].float()  # [L-1, V]
                chosen = logits.gather(-1, ids[0, 1:, None]).squeeze(-1)  # [L-1]
                rows.append((chosen - logits.logsumexp(-1)).tolist())
        finally:
            model.train(was_training)
        return rows

    def sync(self, model: Any) -> SyncReport:
        """Nothing moves when ``model`` is the engine's own module; another module's weights are copied."""
        own = self._open_model()
        if model is own:
            return SyncReport(strategy="same module", bytes_copied=0, seconds=0.0)
        self.weight_sync = "copied"
        own.load_state_dict(model.state_dict())
        copied = sum(tensor.numel() * tensor.element_size() for tensor in model.parameters())
        return SyncReport(strategy="copied", bytes_copied=copied, seconds=0.0)

    def close(self) -> None:
        self._model = None

    def _open_model(self) -> Any:
        if self._model is None:
            raise EngineError("this HFEngine is closed; make a new one, or a new trainer")
        return self._model

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _left_pad(rows: Sequence[Sequence[int]], device: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids [N, L] with the padding on the left, and their attention mask [N, L]."""
    width = max(len(row) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    attention = torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, width - len(row) :] = torch.tensor(row)
        attention[i, width - len(row) :] = 1
    return ids.to(device), attention.to(device)


def _positions(attention: torch.Tensor) -> torch.Tensor:
    """Position ids that count real tokens only, so that padding shifts nothing."""
    return (attention.cumsum(-1) - 1).clamp(min=0)


def _sample(
    logits: torch.Tensor,  # [n, V]
    sampling: Sampling,
    generator: torch.Generator,
) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, torch.Tensor] | None]:
    """Draw one token a row; its log-probability is of the distribution that was drawn from."""
    logp = (logits / (sampling.temperature or 1.0)).log_softmax(-1)  # [n, V]
    if sampling.temperature == 0:
        token = logp.argmax(-1)
    else:
        token = _draw(logp.exp(), generator)
    top = None
    if sampling.top_logprobs:
        values, ids = logp.topk(min(sampling.top_logprobs, logp.shape[-1]), -1)
        top = (ids, values)
    return token, logp.gather(-1, token[:, None]).squeeze(-1), top


def _draw(probabilities: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """One index a row, [n], from probabilities [n, V]: where their running sum passes a uniform random number.

    ``torch.multinomial`` draws V random numbers a row instead, which takes a CPU longer than a small model's forward.
    The sum runs over blocks of the vocabulary first and then inside one, so that float64 costs no memory: in float32
    the running sum of 100,000 small numbers loses the last ones.
    """
    n, vocabulary = probabilities.shape
    device = probabilities.device
    exact = torch.float32 if device.type == "mps" else torch.float64
    whole = vocabulary // _BLOCK * _BLOCK  # words in whole blocks; a shorter one may follow
    head = probabilities[:, :whole].unflatten(1, (-1, _BLOCK)).sum(-1)  # [n, whole / b]
    sums = torch.cat([head, probabilities[:, whole:].sum(-1, keepdim=True)], 1).to(exact)  # [n, B]
    if not bool(sums.isfinite().all()):
        raise EngineError(
            "the model's probabilities are not finite, so nothing can be sampled: are there NaN in its weights, or "
            "does it overflow in float16? Load the weights of an earlier checkpoint, or use dtype='bfloat16'"
        )
    uniform = torch.rand(n, 1, dtype=exact, device=device, generator=generator)  # [n, 1] in [0, 1)
    block, rest = _passed(sums, uniform * sums.sum(-1, keepdim=True))  # [n, 1] both
    words = block * _BLOCK + torch.arange(_BLOCK, device=device)  # [n, b]
    inside = probabilities.gather(1, words.clamp(max=vocabulary - 1)).to(exact) * (
        words < vocabulary
    )  # [n, b]
    return (block * _BLOCK + _passed(inside, rest)[0]).squeeze(-1)


def _passed(weights: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the running sum of ``weights`` [n, m] exceeds ``target`` [n, 1], and what is left of the target there."""
    sums = weights.cumsum(-1)  # [n, m]
    # Below the whole sum whatever the rounding, and so never at a weight of 0.
    target = torch.minimum(target, torch.nextafter(sums[:, -1:], sums.new_zeros(())))
    index = torch.searchsorted(sums, target, right=True)  # [n, 1]
    return index, target - (sums - weights).gather(1, index)


class _Written:
    """What has been sampled: a column for each of N completions, and one that nobody reads."""

    def __init__(self, n: int, sampling: Sampling, device: torch.device) -> None:
        shape = (sampling.max_tokens, n + 1)  # [T, N + 1]
        self.nobody, self.steps = n, 0
        self.tokens = torch.full(shape, -1, device=device)
        self.logprobs = torch.zeros(shape, device=device)
        self.top: list[tuple[torch.Tensor, torch.Tensor]] = []  # [N + 1, k] each, one for each of T tokens

    def add(
        self,
        index: int,
        alive: torch.Tensor,  # [n] which completion each batch row belongs to
        token: torch.Tensor,  # [n]
        logprob: torch.Tensor,  # [n]
        top: tuple[torch.Tensor, torch.Tensor] | None,  # [n, k] each
    ) -> None:
        """The token at ``index`` of every row."""
        self.steps = index + 1
        self.tokens[index, alive] = token
        self.logprobs[index, alive] = logprob
        if top is not None:
            frame = [values.new_zeros(self.nobody + 1, values.shape[1]) for values in top]
            for place, values in zip(frame, top, strict=True):
                place[alive] = values
            self.top.append((frame[0], frame[1]))

    def completions(self, end_ids: Sequence[int]) -> list[Completion]:
        sampled = self.tokens[: self.steps]  # [T', N + 1]
        lengths = (sampled >= 0).sum(0).tolist()  # [N + 1]
        tokens, logprobs = sampled.T.tolist(), self.logprobs[: self.steps].T.tolist()  # [N + 1][T']
        if self.top:
            ids, values = (
                torch.stack(part, 1).tolist() for part in zip(*self.top, strict=True)
            )  # [N + 1][T'][k]
        made = []
        for row, length in enumerate(lengths[: self.nobody]):
            reason = "stop" if tokens[row][length - 1] in end_ids else "length"
            top = (ids[row][:length], values[row][:length]) if self.top else (None, None)
            made.append(Completion(tokens[row][:length], logprobs[row][:length], "", reason, *top))
        return made
