"""Exercises of notebook 08: the mask and the shift; those of the loss are in `grpo_loss`."""

from __future__ import annotations

import math
import random
from typing import Any

import torch
from torch import Tensor

from rlkit.exercises.exercise import Exercise, Wrong
from rlkit.exercises.grpo_loss import LOSS, WEIGHTS

# --------------------------------------------------------------------------------- which tokens are trained on


def completion_mask(completions: Tensor, end_id: int) -> Tensor:
    ends = (completions == end_id).long()  # [N, T]
    ended_before = ends.cumsum(1) - ends  # [N, T] end tokens strictly before each place
    return ended_before == 0


def _mask_by_loop(completions: Tensor, end_id: int) -> list[list[bool]]:
    found = []
    for row in completions.tolist():
        length = row.index(end_id) + 1 if end_id in row else len(row)
        found.append([place < length for place in range(len(row))])
    return found


def _one_too_many(completions: Tensor, end_id: int) -> Tensor:
    ends = (completions == end_id).long()
    before = ends.cumsum(1) - ends
    return torch.cat([torch.ones_like(before[:, :1]).bool(), before[:, :-1] == 0], 1)


def _argmax_alone(completions: Tensor, end_id: int) -> Tensor:
    first = (completions == end_id).long().argmax(1, keepdim=True)
    return torch.arange(completions.shape[1]) <= first


def _mask_cases(rng: random.Random) -> list[tuple[Any, ...]]:
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    drawn = torch.randint(2, 9, (4, 6), generator=generator)
    drawn[0, rng.randrange(1, 5)] = 1  # ends in the middle; what follows is not padding
    drawn[1, 0] = drawn[1, 3] = 1  # empty, and a second end token
    drawn[2, 5] = 1
    return [
        (torch.tensor([[5, 6, 1, 0], [7, 1, 0, 0]]), 1),
        (torch.tensor([[5, 6, 7, 8], [1, 0, 0, 0]]), 1),  # truncated; empty
        (drawn, 1),
    ]


MASK = Exercise(
    name="08-mask",
    title="The mask",
    difficulty="easy",
    minutes=6,
    hint="Count the end tokens that stand strictly before each place: `cumsum`, less the place's own. Where that "
    "count is 0, the model was still talking.",
    solution=completion_mask,
    cases=_mask_cases,
    expected=_mask_by_loop,
    praise="The end token is in, what follows is out, and an answer that was cut counts whole.",
    wrong=(
        Wrong(
            "end token left out",
            "Your mask stops before the end token. Ending was the model's decision too: without it in the loss it "
            "never learns when to stop. Take the end token in, and leave out only what follows it.",
            lambda completions, end_id: (completions == end_id).long().cumsum(1) == 0,
        ),
        Wrong(
            "only the end token left out",
            "You leave out the end tokens themselves, and keep everything after them. Leave out what comes *after* "
            "the first end token: a cumulative sum along the row remembers that one has been seen.",
            lambda completions, end_id: completions != end_id,
        ),
        Wrong(
            "nothing masked",
            "You count every place, padding included. The padding was never sampled: nobody is to be praised or "
            "blamed for it. Look for end_id in each row.",
            lambda completions, end_id: torch.ones_like(completions).bool(),
        ),
        Wrong(
            "one place too many",
            "Your mask runs one place past the end token, into the padding. Count the end tokens strictly before "
            "each place: cumsum less the place's own.",
            _one_too_many,
        ),
        Wrong(
            "up to the second end",
            "cumsum <= 1 holds from the first end token up to the second: what follows the first is still counted. "
            "Take the place's own token off the running sum, and compare with 0.",
            lambda completions, end_id: (completions == end_id).long().cumsum(1) <= 1,
        ),
        Wrong(
            "every end token",
            "You keep every end token, also those that stand behind the first one. Nobody reads on after the first: "
            "count the end tokens strictly before each place.",
            lambda completions, end_id: (
                ((completions == end_id).long().cumsum(1) == 0) | (completions == end_id)
            ),
        ),
        Wrong(
            "padding by its value",
            "You look for 0 as the padding. Which number stands behind the end is not known, and may be that of a real "
            "token. Only the first end token tells where it is over.",
            lambda completions, end_id: completions != 0,
        ),
        Wrong(
            "argmax of a row without end",
            "argmax of a row without an end token is 0, so you keep a single token of every answer that was cut. "
            "Such a row counts whole: use any() to tell it apart, or cumsum, which needs no special case.",
            _argmax_alone,
        ),
    ),
)

# ------------------------------------------------------------------------- log-probabilities, shifted by one


def token_logprobs(logits: Tensor, tokens: Tensor) -> Tensor:
    logp = logits[:, :-1].log_softmax(-1)  # [N, S - 1, V], the last place predicts nothing that we have
    return logp.gather(-1, tokens[:, 1:, None]).squeeze(-1)  # [N, S - 1]


def _logprobs_by_loop(logits: Tensor, tokens: Tensor) -> list[list[float]]:
    found = []
    for scores, row in zip(logits.double().tolist(), tokens.tolist()):
        sums = [math.log(sum(math.exp(one) for one in place)) for place in scores]
        found.append([scores[t][row[t + 1]] - sums[t] for t in range(len(row) - 1)])
    return found


def _logprob_cases(rng: random.Random) -> list[tuple[Any, ...]]:
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    first = torch.tensor([[[0.0, 1.0, 2.0], [2.0, 0.0, 0.0], [0.0, 3.0, 0.0]]])
    return [
        (first, torch.tensor([[0, 2, 1]])),
        (torch.randn(2, 5, 4, generator=generator), torch.randint(0, 4, (2, 5), generator=generator)),
        (5 * torch.randn(3, 4, 6, generator=generator), torch.randint(0, 6, (3, 4), generator=generator)),
    ]


LOGPROBS = Exercise(
    name="08-logprobs",
    title="Log-probabilities, shifted by one",
    difficulty="medium",
    minutes=8,
    hint="The logits at place t say what comes at t + 1: pair `logits[:, :-1]` with `tokens[:, 1:]`. Turn logits "
    "into log-probabilities along the vocabulary, then pick one of each place with `gather`.",
    solution=token_logprobs,
    cases=_logprob_cases,
    expected=_logprobs_by_loop,
    praise="This off-by-one has cost people weeks.",
    wrong=(
        Wrong(
            "no shift",
            "You score each token with the logits of its own place, and these were computed after the model had read"
            " it. The logits at t predict token t + 1: pair logits[:, :-1] with tokens[:, 1:].",
            lambda logits, tokens: logits.log_softmax(-1).gather(-1, tokens[..., None]).squeeze(-1)[:, 1:],
        ),
        Wrong(
            "no shift, and all places",
            "You score all S tokens, each with the logits of its own place. The logits at t predict token t + 1, so S "
            "tokens give S − 1 log-probabilities: pair logits[:, :-1] with tokens[:, 1:].",
            lambda logits, tokens: logits.log_softmax(-1).gather(-1, tokens[..., None]).squeeze(-1),
        ),
        Wrong(
            "only the logits shortened",
            "You drop the last logits, but also the last token, so that each token meets the logits of its own place. "
            "Drop the *first* token: tokens[:, 1:].",
            lambda logits, tokens: (
                logits[:, :-1].log_softmax(-1).gather(-1, tokens[:, :-1, None]).squeeze(-1)
            ),
        ),
        Wrong(
            "shifted the wrong way",
            "You shift the wrong way: your logits at t + 1 score token t, two places off. The last logits predict a "
            "token that does not exist, so drop the last logits and the first token.",
            lambda logits, tokens: logits[:, 1:].log_softmax(-1).gather(-1, tokens[:, :-1, None]).squeeze(-1),
        ),
        Wrong(
            "raw logits",
            "You pick logits, not log-probabilities. Logits are only known up to a constant; subtract their "
            "logsumexp, which is what log_softmax(-1) does.",
            lambda logits, tokens: logits[:, :-1].gather(-1, tokens[:, 1:, None]).squeeze(-1),
        ),
        Wrong(
            "probabilities",
            "You return probabilities; asked for are their natural logarithms, which add up along a completion. Use "
            "log_softmax instead of softmax.",
            lambda logits, tokens: logits[:, :-1].softmax(-1).gather(-1, tokens[:, 1:, None]).squeeze(-1),
        ),
        Wrong(
            "cross-entropy",
            "The sign is flipped: cross-entropy is *minus* the log-probability. A log-probability is never above 0.",
            lambda logits, tokens: -token_logprobs(logits, tokens),
        ),
        Wrong(
            "one axis too many",
            "The numbers are right, but stand in an array [N, S − 1, 1]: gather keeps the axis it picks along. Take it "
            "away with squeeze(-1).",
            lambda logits, tokens: token_logprobs(logits, tokens)[..., None],
        ),
        Wrong(
            "softmax along the places",
            "Your log_softmax runs along dim 1, the places of the text, so that the words compete with those of "
            "other places. The candidates for one place are on the last axis: log_softmax(-1).",
            lambda logits, tokens: logits[:, :-1].log_softmax(1).gather(-1, tokens[:, 1:, None]).squeeze(-1),
        ),
    ),
)

EXERCISES: tuple[Exercise, ...] = (MASK, LOGPROBS, LOSS, WEIGHTS)
