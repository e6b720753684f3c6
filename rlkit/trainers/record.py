"""Turn what flowed through a step into what is written: sample rows and step numbers."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import TYPE_CHECKING, Any

from rlkit.rollout import Rewards, Rollout, Row, TokenRecord

if TYPE_CHECKING:
    from rlkit.objectives import Advantages


class TokenStrings:
    """Token ids as text, one string a token, so that a viewer of a run needs no tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._known: dict[int, str] = {}

    def __call__(self, ids: list[int]) -> list[str]:
        for token in ids:
            if token not in self._known:
                self._known[token] = self._tokenizer.decode([token])
        return [self._known[token] for token in ids]


def sample_rows(
    rollout: Rollout,
    rewards: Rewards,
    token_strings: TokenStrings,
    advantages: Advantages | None = None,
    tokens: TokenRecord | None = None,
) -> list[Row]:
    """One dict a completion, in the columns of ``rlkit.runs.schema``."""
    rows = []
    size = rollout.num_generations
    for i, completion in enumerate(rollout.completions):
        p, g = divmod(i, size)
        length = len(completion.token_ids)
        logged = {name: values[i] for name, values in rewards.columns.items()}
        row: Row = {
            "step": rollout.step,
            "prompt_index": p,
            "completion_index": g,
            "prompt": rollout.prompt_texts[p],
            "prompt_ids": rollout.prompt_ids[p],
            "completion": completion.text,
            "completion_ids": completion.token_ids,
            "tokens": token_strings(completion.token_ids),
            "finish_reason": completion.finish_reason,
            "row": json.dumps({**rollout.rows[p], **logged}, ensure_ascii=False, default=str),
            "reward": float(rewards.total[p, g]),
            "advantage": None if advantages is None else float(advantages.values[p, g]),
            "correct": None if rewards.correct is None else bool(rewards.correct[p, g]),
            "logp_engine": completion.logprobs,
            "topk_ids": completion.topk_ids,
            "topk_logps": completion.topk_logprobs,
        }
        for f, name in enumerate(rewards.names):
            value = float(rewards.per_function[p, g, f])
            row[f"reward/{name}"] = None if math.isnan(value) else value
        if tokens is not None:
            for field in dataclasses.fields(tokens):
                name, values = field.name, getattr(tokens, field.name)
                row[name] = None if values is None else values[i, :length].tolist()
        rows.append(row)
    return rows


def reward_values(rollout: Rollout, rewards: Rewards, advantages: Advantages) -> dict[str, Any]:
    """The numbers of a step that are known before the update."""
    lengths = [len(completion.token_ids) for completion in rollout.completions]
    # [P]; without groups, that of the whole rollout
    spread = rewards.total.std(-1) if rollout.num_generations > 1 else rewards.total.std(correction=0)
    values: dict[str, Any] = {
        "reward": float(rewards.total.mean()),
        "reward_std": float(spread.mean()),
        "dead_groups": float(advantages.dead.double().mean()),
        "accuracy": rewards.accuracy,
        "completion_length": sum(lengths) / len(lengths),
        "completion_length_max": max(lengths),
        "truncated": sum(completion.truncated for completion in rollout.completions) / len(lengths),
        "tokens": sum(lengths),
        "tokens_per_second": sum(lengths) / max(rollout.seconds, 1e-9),
    }
    for f, name in enumerate(rewards.names):
        column = rewards.per_function[..., f]
        values[f"rewards/{name}"] = float(column.nanmean())
        values[f"unscored/{name}"] = float(column.isnan().double().mean())
    return {**rewards.metrics, **values}
