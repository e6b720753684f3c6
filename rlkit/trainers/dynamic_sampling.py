"""Dynamic sampling: groups whose rewards are all equal teach nothing, so sample other prompts in their place.

From DAPO (Yu et al. 2025, arXiv:2503.14476). What is *trained on* is then no fair sample of the data any more, so
rewards and accuracy are reported over everything that was *drawn*.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from rlkit.objectives import group_advantages
from rlkit.rollout import Rewards, Rollout


class Refilled(NamedTuple):
    """A rollout whose dead groups were replaced as far as possible, with everything that was drawn for it."""

    rollout: Rollout
    rewards: Rewards
    drawn_rollout: Rollout
    drawn_rewards: Rewards
    tries: int

    def values(self) -> dict[str, Any]:
        """What it cost, and what is left."""
        extra = len(self.drawn_rollout.rows) - len(self.rollout.rows)
        return {
            "resample_tries": self.tries,
            "resampled_groups": extra,
            "resampled_tokens": self.drawn_rollout.num_tokens - self.rollout.num_tokens,
            "dead_groups_trained": float(_dead(self.rewards).double().mean()),
        }


def replace_dead_groups(
    rollout: Rollout,
    rewards: Rewards,
    more: Callable[[int], tuple[Rollout, Rewards]],
    tries: int,
) -> Refilled:
    """Replace groups without reward spread by new ones.

    Args:
        more: ``more(n)`` samples and scores the next n prompts.
        tries: at most so many calls of ``more``; groups that are still dead then stay.
    """
    drawn = [(rollout, rewards)]
    made = 0
    while made < tries and bool((dead := _dead(rewards)).any()):
        places = dead.nonzero()[:, 0].tolist()
        new_rollout, new_rewards = more(len(places))
        drawn.append((new_rollout, new_rewards))
        alive = (~_dead(new_rewards)).nonzero()[:, 0].tolist()
        count = len(rollout.rows)
        chosen = list(range(count))
        for place, new in zip(places, alive, strict=False):
            chosen[place] = count + new
        both = concat_rollouts([rollout, new_rollout]), concat_rewards([rewards, new_rewards])
        rollout, rewards = _select(*both, chosen)
        made += 1
    return Refilled(
        rollout,
        rewards,
        concat_rollouts([part for part, _ in drawn]),
        concat_rewards([part for _, part in drawn]),
        made,
    )


def _dead(rewards: Rewards) -> torch.Tensor:
    """bool [P]: groups whose rewards are all equal."""
    return group_advantages(rewards.total).dead


def concat_rollouts(parts: Sequence[Rollout]) -> Rollout:
    """Several rollouts of the same step as one."""
    first = parts[0]
    lists = ("rows", "prompts", "prompt_texts", "prompt_ids", "completions")
    joined = {name: [item for part in parts for item in getattr(part, name)] for name in lists}
    seconds = sum(part.seconds for part in parts)
    return Rollout(step=first.step, num_generations=first.num_generations, seconds=seconds, **joined)


def concat_rewards(parts: Sequence[Rewards]) -> Rewards:
    """The rewards of several rollouts as one."""
    first = parts[0]
    correct = None if first.correct is None else torch.cat([part.correct for part in parts])  # type: ignore[misc]
    logged = [name for name in first.columns if all(name in part.columns for part in parts)]
    return Rewards(
        names=first.names,
        per_function=torch.cat([part.per_function for part in parts]),
        weights=first.weights,
        total=torch.cat([part.total for part in parts]),
        correct=correct,
        seconds=sum(part.seconds for part in parts),
        metrics=first.metrics,  # of the rollout that the step began with
        columns={name: [value for part in parts for value in part.columns[name]] for name in logged},
    )


def _select(rollout: Rollout, rewards: Rewards, prompts: Sequence[int]) -> tuple[Rollout, Rewards]:
    """The groups of these prompts, in this order; seconds stay those of all."""
    groups, size = rollout.groups, rollout.num_generations
    index = torch.tensor(list(prompts))
    lists = ("rows", "prompts", "prompt_texts", "prompt_ids")
    chosen = {name: [getattr(rollout, name)[p] for p in prompts] for name in lists}
    completions = [completion for p in prompts for completion in groups[p]]
    return (
        Rollout(
            step=rollout.step,
            num_generations=rollout.num_generations,
            seconds=rollout.seconds,
            completions=completions,
            **chosen,
        ),
        Rewards(
            names=rewards.names,
            per_function=rewards.per_function[index],
            weights=rewards.weights,
            total=rewards.total[index],
            correct=None if rewards.correct is None else rewards.correct[index],
            seconds=rewards.seconds,
            metrics=rewards.metrics,
            columns={
                name: [values[p * size + g] for p in prompts for g in range(size)]
                for name, values in rewards.columns.items()
            },
        ),
    )
