"""Held-out results of a policy: one greedy answer to each problem, and a few sampled ones."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence

from rlkit.engines import Sampling
from rlkit.rollout import Evaluation, Rewards, Rollout, Row
from rlkit.trainers.record import TokenStrings, sample_rows


def judge_policy(
    rows: Sequence[Row],
    sampled: Sampling,
    sample: Callable[[Sequence[Row], Sampling], Rollout],
    score: Callable[[Rollout], Rewards],
    token_strings: TokenStrings,
) -> Evaluation:
    """Answer ``rows`` greedily once and as ``sampled`` says, and score both.

    With the same seed each time, two evaluations differ by the model, not by the draw.
    """
    start = time.perf_counter()
    greedy = dataclasses.replace(sampled, n=1, temperature=0.0)
    rollouts = [sample(rows, sampling) for sampling in (greedy, sampled)]
    rewards = [score(rollout) for rollout in rollouts]
    tables = [
        sample_rows(rollout, reward, token_strings) for rollout, reward in zip(rollouts, rewards, strict=True)
    ]
    return Evaluation(
        step=rollouts[0].step,
        n=len(rows),
        accuracy_greedy=rewards[0].accuracy,
        accuracy_sampled=rewards[1].accuracy,
        reward_greedy=float(rewards[0].total.mean()),
        reward_sampled=float(rewards[1].total.mean()),
        seconds=time.perf_counter() - start,
        rows_greedy=tables[0],
        rows_sampled=tables[1],
    )
