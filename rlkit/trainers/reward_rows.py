"""What a reward model reads and says: a prompt and an answer as one row of tokens, and the number at its last one.

The numbers are our own: transformers' …ForSequenceClassification finds the last token by looking for padding, and looks
too far left where the end token pads.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch

from rlkit.adapters import base_model
from rlkit.errors import ConfigError, bad_value
from rlkit.rollout import Messages
from rlkit.trainers.micro_batches import micro_batches, token_budget
from rlkit.trainers.sft_data import token_ids_of


def check_reward_model(model: Any) -> None:
    """Refuse what gives no single number a row.

    Raises:
        ConfigError: saying how to get a reward model.
    """
    inner = base_model(model) if hasattr(model, "config") else model
    if not hasattr(inner, "score") or not hasattr(inner, "base_model_prefix"):
        raise bad_value(
            "model",
            f"<{type(inner).__name__}>",
            "a model with a scalar head",
            "make_reward_model(model, tokenizer) puts one on a causal LM.",
        )
    if model.config.num_labels != 1:
        raise bad_value("num_labels", model.config.num_labels, "1", "A reward is one number.")


def end_ids_of(tokenizer: Any) -> Collection[int]:
    """The tokens that end an answer.

    Raises:
        ConfigError: the tokenizer has none.
    """
    if getattr(tokenizer, "eos_token_id", None) is None:
        raise bad_value("tokenizer", f"<{type(tokenizer).__name__}>", "a tokenizer with an eos_token")
    return {tokenizer.eos_token_id}


def read_row(
    tokenizer: Any, prompt: str | Messages, completion: str | Messages, end_ids: Collection[int]
) -> list[int]:
    """The tokens of a prompt and an answer, up to the end token, at which the reward stands.

    A chat template that writes no end token behind an answer has it stand at the last token that it writes.

    Raises:
        ConfigError: the chat template cannot read the messages.
    """
    if isinstance(prompt, str):
        if not isinstance(completion, str):
            raise bad_value("completion", completion, "a text, as the prompt is")
        ids = [
            token for part in token_ids_of(tokenizer, [prompt, completion], special=True) for token in part
        ]
        return ids if ids and ids[-1] in end_ids else [*ids, tokenizer.eos_token_id]
    try:
        text = tokenizer.apply_chat_template([*prompt, *completion], tokenize=False)
        opening = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # whatever a chat template raises
        raise ConfigError(
            f"the chat template cannot read {prompt!r:.80}: {type(error).__name__}: {error}"
        ) from error
    ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    start = len(tokenizer(opening, add_special_tokens=False)["input_ids"])
    last = max((k for k in range(start, len(ids)) if ids[k] in end_ids), default=len(ids) - 1)
    return ids[: last + 1]  # without the line break that many templates write after the end token


def rewards_of(model: Any, rows: Sequence[Sequence[int]], pad_token_id: int) -> torch.Tensor:
    """r of each row of token ids, [n], in one forward pass; float32, of a float64 model float64."""
    inner = base_model(model)
    width = max(map(len, rows))
    ids = torch.full(
        (len(rows), width), pad_token_id
    )  # [n, W] padded on the right: causal, so padding is unseen
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
    last = torch.tensor([len(row) - 1 for row in rows], device=model.device)  # [n]
    hidden = inner.base_model(input_ids=ids.to(model.device), use_cache=False).last_hidden_state  # [n, W, H]
    at_end = hidden[torch.arange(len(rows), device=model.device), last]  # [n, H]
    rewards = inner.score(at_end)[:, 0]  # [n]
    return rewards if rewards.dtype == torch.float64 else rewards.float()


@torch.no_grad()
def score_rows(
    model: Any, rows: Sequence[Sequence[int]], micro_batch_tokens: int | None, pad_token_id: int
) -> torch.Tensor:
    """r of each row of token ids, [N], on the CPU."""
    found = torch.zeros(len(rows), dtype=torch.float64)  # [N]
    budget = token_budget(micro_batch_tokens, model)
    for chosen in micro_batches([len(row) for row in rows], max_tokens=budget):
        found[chosen] = rewards_of(model, [rows[i] for i in chosen], pad_token_id).double().cpu()
    return found
