"""The patience that a real model asks for: exact probabilities of right answers, without drawing a single one.

Where the right answer is one string, such as "42", its probability is the product of its tokens' (teacher forcing), the
end token's among them: p = π(4|17+25=) · π(2|17+25=4) · π(end|17+25=42). One forward pass a prompt, exact, no noise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rlkit.errors import ConfigError, bad_value
from rlkit.lab.patience import Patience, patience
from rlkit.logprobs import completion_logprobs
from rlkit.rollout import tokenize_prompts


@torch.no_grad()
def answer_logprobs(
    model: Any,
    tokenizer: Any,
    rows: Iterable[Mapping[str, Any]],
    *,
    answer: str = "answer",
    temperature: float = 1.0,
    end: bool = True,
    batch_size: int = 64,
) -> Tensor:  # [N] float64
    """log p of each row's answer after its prompt, in nats.

    Args:
        model, tokenizer: as `rlkit.load_model` returns them.
        rows: dicts with a "prompt" (text, or messages for the chat template) and the answer's text.
        answer: the column that holds the right answer, and nothing but it.
        temperature: that of sampling; truncated sampling (top-p, top-k) is not accounted for.
        end: whether the answer must end there (the end token's probability counts). Without, p is that of everything
            that begins so: "42" and "420".
        batch_size: rows a forward pass.

    It is the probability of *this string, in the tokens that the tokenizer cuts it into*. A verifier that also
    accepts "042" or "The answer is 42" accepts more often than this: then it is a lower bound, and so are draws of
    1/p an upper one.

    Raises `ConfigError` for no rows, a row without the column or with an empty answer, and a tokenizer without end
    token.
    """
    rows = list(rows)
    if not rows:
        raise bad_value("rows", rows, "one row or more")
    for i, row in enumerate(rows):
        if "prompt" not in row or not str(row.get(answer) or ""):
            raise ConfigError(f"row {i} is {dict(row)!r:.120}. Allowed: a 'prompt', and a text in {answer!r}")
    if end and tokenizer.eos_token_id is None:
        raise bad_value("end", True, "False for a tokenizer without an end token")
    _, prompts = tokenize_prompts(tokenizer, [row["prompt"] for row in rows])
    answers = [list(tokenizer(str(row[answer]), add_special_tokens=False)["input_ids"]) for row in rows]
    if end:
        answers = [[*ids, tokenizer.eos_token_id] for ids in answers]
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        parts = [
            _scored(model, prompts[i : i + batch_size], answers[i : i + batch_size], temperature)
            for i in range(0, len(rows), batch_size)
        ]
    finally:
        for module, training in modes:
            module.training = training
    return torch.cat(parts)


def _scored(
    model: Any, prompts: Sequence[list[int]], answers: Sequence[list[int]], temperature: float
) -> Tensor:  # [n] float64
    width = max(len(a) + len(b) for a, b in zip(prompts, answers))
    ids = torch.zeros(len(prompts), width, dtype=torch.long)  # [n, W], padded on the right
    attended, scored = torch.zeros_like(ids), torch.zeros_like(ids)
    for i, (prompt, text) in enumerate(zip(prompts, answers)):
        length = len(prompt) + len(text)
        ids[i, :length] = torch.tensor(prompt + text)
        attended[i, :length], scored[i, len(prompt) : length] = 1, 1
    device = next(model.parameters()).device
    ids, attended, scored = (x.to(device) for x in (ids, attended, scored))
    logp = completion_logprobs(model, ids, attended, scored, temperature=temperature).logprobs  # [n, W]
    return logp.double().sum(1).cpu()


def answer_probabilities(
    model: Any, tokenizer: Any, rows: Iterable[Mapping[str, Any]], **settings: Any
) -> Tensor:
    """p [N] of each row's answer, float64: exp of `answer_logprobs`, which takes the same settings."""
    return answer_logprobs(model, tokenizer, rows, **settings).exp()


def task_patience(
    model: Any,
    tokenizer: Any,
    task: Any,
    *,
    side: str = "test",
    count: int | None = None,
    group_size: int = 8,
    **settings: Any,
) -> tuple[Tensor, Patience]:
    """The exact p [N] of the first `count` rows of a task's side, and what they mean (`rlkit.lab.patience.patience`).

    Call it before and after training: the policy is evaluated, not the luck of an evaluation.
    """
    p = answer_probabilities(model, tokenizer, task.rows(side, count), **settings)
    return p, patience(p, group_size)


def compare(before: Tensor, after: Tensor) -> str:
    """What k updates changed, in two sentences, from exact p [N] of the same rows."""
    if before.shape != after.shape:
        raise bad_value(
            "after", tuple(after.shape), f"one p for each of the same rows, {tuple(before.shape)}"
        )
    old, new = patience(before), patience(after)
    worse = int((after < before).sum())
    return (
        f"Draws until right: mean {old.mean_draws:.3g} → {new.mean_draws:.3g}, median {old.median_draws:.3g} → "
        f"{new.median_draws:.3g}, worst {old.worst_draws:.3g} → {new.worst_draws:.3g}; mean p {old.mean_p:.3f} → "
        f"{new.mean_p:.3f}. For {worse} of {len(before)} prompts p fell."
    )
