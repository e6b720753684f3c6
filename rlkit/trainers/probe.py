"""Look before training: how long are the answers, and is any of them right?

Two things doom a training before its first step: completions that are all cut off before the
answer, and problems that the model never solves, so that there is nothing to reinforce.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rlkit.objectives import group_advantages
from rlkit.rollout import Rewards, Rollout
from rlkit.runs.evidence import percent

_ENOUGH = 1024  # tokens: shorter limits are probed with up to four times as many, to see where answers end
_NEARLY_ALL = 0.9  # of the prompts


class ProbeWarning(UserWarning):
    """Training as set up will hardly learn."""


@dataclass(slots=True)
class ProbeReport:
    """What a few completions say about a training that has not begun.

    Attributes:
        max_completion_length: the limit that training will use, in tokens.
        sampled_up_to: the limit of the probe.
        lengths: tokens of each completion; ``sampled_up_to`` where it was cut even there.
        p_right: share of right answers of each prompt; None without a verifier.
        dead_groups: share of prompts whose answers all got the same reward.
        seconds: what it took.
    """

    max_completion_length: int
    sampled_up_to: int
    lengths: list[int]
    p_right: list[float] | None
    dead_groups: float
    seconds: float

    @property
    def truncated(self) -> float:
        """Share of completions that training would cut off."""
        over = [length > self.max_completion_length for length in self.lengths]
        return sum(over) / len(over)

    def quantile(self, share: float) -> int:
        """So many tokens suffice for this share of the completions."""
        ordered = sorted(self.lengths)
        return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]

    def warnings(self) -> list[str]:
        """What should be changed before training, in words; empty where all is well."""
        found = []
        if self.truncated > 0.5:
            enough = self.quantile(0.9)
            if enough < self.sampled_up_to:
                advice = f"Set max_completion_length={16 * math.ceil(enough / 16)}: nine in ten end by then"
            else:
                advice = (
                    f"Even {self.sampled_up_to} tokens do not suffice: does the model end its answers at all (end "
                    "token, chat template), and does the prompt ask for short ones?"
                )
            found.append(
                f"{self.truncated:.0%} of {len(self.lengths)} completions are longer than max_completion_length="
                f"{self.max_completion_length} and would be cut off, most likely before the answer. {advice}"
            )
        if self.p_right is not None:
            never = sum(p == 0 for p in self.p_right) / len(self.p_right)
            if never >= _NEARLY_ALL:
                found.append(
                    f"{never:.0%} of {len(self.p_right)} prompts got no right answer in "
                    f"{len(self.lengths) // len(self.p_right)} tries: RL makes right answers likelier that turn up by "
                    "chance, and here hardly one does. Warm the model up first (SFTTrainer on worked examples), begin "
                    "with easier problems, or raise num_generations"
                )
        if self.dead_groups == 1.0 and not found:
            found.append(
                "no prompt got answers with different rewards, so no advantage differs from 0 and nothing is learned. "
                "Give rewards for partial success, other problems, or a higher temperature"
            )
        return found

    def __str__(self) -> str:
        parts = [
            f"{len(self.lengths)} completions: median {self.quantile(0.5)} tokens, 90 % within {self.quantile(0.9)}, "
            f"{percent(self.truncated)} beyond {self.max_completion_length}"
        ]
        if self.p_right is not None:
            parts.append(
                f"right: {percent(sum(self.p_right) / len(self.p_right))} on average, never for "
                f"{sum(p == 0 for p in self.p_right)} of {len(self.p_right)} prompts"
            )
        parts.append(f"no reward spread in {percent(self.dead_groups)} of groups")
        return "; ".join(parts)


def probe_length(max_completion_length: int, room: int | None) -> int:
    """Tokens a completion to sample in the probe; ``room`` is what the model's context leaves."""
    length = max(max_completion_length, min(4 * max_completion_length, _ENOUGH))
    return length if room is None else max(max_completion_length, min(length, room))


def probe_report(
    rollout: Rollout, rewards: Rewards, max_completion_length: int, sampled_up_to: int, seconds: float
) -> ProbeReport:
    """Sum a probe's rollout up."""
    lengths = [
        len(completion.token_ids) + completion.truncated * (sampled_up_to == max_completion_length)
        for completion in rollout.completions
    ]
    correct: Sequence[float] | None = None
    if rewards.correct is not None:
        correct = rewards.correct.double().mean(-1).tolist()
    # Without groups, the whole rollout is one.
    totals = rewards.total if rollout.num_generations > 1 else rewards.total.T  # [P, G] or [1, P]
    dead = float(group_advantages(totals).dead.double().mean()) if totals.shape[1] > 1 else 0.0
    return ProbeReport(
        max_completion_length,
        sampled_up_to,
        lengths,
        correct if correct is None else list(correct),
        dead,
        seconds,
    )
