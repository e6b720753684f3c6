"""Exercises of notebook 01: returns, rewards, and what a policy's probabilities say."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rlkit.exercises.exercise import Exercise, Wrong

# --------------------------------------------------------------------------------------------- the return


def discounted_return(rewards: list[float], gamma: float) -> float:
    """Σ_t γ^t r_t with t counted from 0."""
    return sum(gamma**t * reward for t, reward in enumerate(rewards))


def _return_backwards(rewards: list[float], gamma: float) -> float:
    """Horner's way, from the last reward to the first: G ← r + γ G."""
    total = 0.0
    for reward in reversed(rewards):
        total = reward + gamma * total
    return total


def _return_cases(rng: random.Random) -> list[tuple[Any, ...]]:
    def drawn(steps: int) -> list[float]:
        return [round(rng.uniform(-1, 3), 2) for _ in range(steps)]

    return [
        ([1.0, 0.0, 2.0], 0.5),
        (drawn(4), 0.9),
        (drawn(7), round(rng.uniform(0.2, 0.8), 2)),
        (drawn(1), 0.7),
    ]


RETURN = Exercise(
    name="01-return",
    title="The return of an episode",
    difficulty="easy",
    minutes=5,
    hint="The first reward counts in full. The second is multiplied by γ once, the third by γ twice.",
    solution=discounted_return,
    cases=_return_cases,
    expected=_return_backwards,
    wrong=(
        Wrong(
            "undiscounted",
            "You add the rewards up as they are: that is the return for γ = 1. Multiply the reward of "
            "step t by gamma**t.",
            lambda rewards, gamma: sum(rewards),
        ),
        Wrong(
            "first reward discounted",
            "Your first reward is discounted already: you count steps from 1. What comes at once counts "
            "in full, so t begins at 0 (as `enumerate` counts).",
            lambda rewards, gamma: sum(gamma ** (t + 1) * reward for t, reward in enumerate(rewards)),
        ),
        Wrong(
            "past discounted",
            "You discount from the wrong end: your last reward counts in full and the first one least. γ "
            "makes what is far in the future small, not what is far in the past.",
            lambda rewards, gamma: sum(
                gamma ** (len(rewards) - 1 - t) * reward for t, reward in enumerate(rewards)
            ),
        ),
        Wrong(
            "one factor for all later steps",
            "You multiply every later reward by γ once. Waiting one step costs a factor γ each time: two "
            "steps cost γ·γ. Use gamma**t.",
            lambda rewards, gamma: rewards[0] + gamma * sum(rewards[1:]),
        ),
        Wrong(
            "mean",
            "You divide by the number of steps. A return is a sum, not a mean: an episode with twice as "
            "many cookies is worth more, not the same.",
            lambda rewards, gamma: discounted_return(rewards, gamma) / len(rewards),
        ),
        Wrong(
            "times t",
            "You multiply γ by t. Each step of waiting costs another *factor* γ: that is a power, gamma**t, and "
            "gamma**0 is 1.",
            lambda rewards, gamma: sum(gamma * t * reward for t, reward in enumerate(rewards)),
        ),
    ),
    praise="Your function and the lab's agree, and the lab's is what trains Pac-Man.",
)

# ---------------------------------------------------------------------------------------------- the reward


def reward(completion: str) -> float:
    """1 for 4, less for other numbers the farther they are, -1 for what is no number."""
    try:
        number = float(completion)
    except ValueError:
        return -1.0  # a letter
    return 1 / (1 + abs(number - 4))  # 1 for 4, less the farther away, but always above 0


def _ranks(answer: Callable[..., Any], case: tuple[Any, ...]) -> Any:
    """What is looked at: which completions are paid more than which (place 1 is the best); not how much."""
    paid = [answer(completion) for completion in case[0]]
    if None in paid:
        return f"nothing is paid for {case[0][paid.index(None)]}"
    paid = [float(f"{float(one):.12g}") for one in paid]  # what differs by rounding only is alike
    levels = sorted(set(paid), reverse=True)
    return {f"place of {text}": levels.index(one) + 1 for text, one in zip(case[0], paid)}


def _expected_ranks(completions: list[str]) -> dict[str, int]:
    distance = [abs(int(text) - 4) if text.removeprefix("-").isdigit() else math.inf for text in completions]
    return {
        f"place of {text}": 1 + len({other for other in distance if other < own})
        for text, own in zip(completions, distance)
    }


def _reward_cases(rng: random.Random) -> list[tuple[Any, ...]]:
    def drawn() -> list[str]:
        numbers = [str(rng.randint(-99, 99)) for _ in range(3)]
        return ["4", *numbers, rng.choice("ABCD"), str(rng.randint(5, 9))]

    return [(["4", "3", "8", "C", "D", "-10"],), (["4", "40", "5", "A", "14", "3"],), (drawn(),), (drawn(),)]


def _wrong_reward(rule: Callable[[float], float], otherwise: float) -> Callable[..., float]:
    def answer(completion: str) -> float:
        try:
            return rule(float(completion))
        except ValueError:
            return otherwise

    return answer


def _nothing_for_letters(completion: str) -> float | None:
    return reward(completion) if completion.lstrip("-").isdigit() else None


def _letters_not_caught(completion: str) -> float:
    return 1 / (1 + abs(float(completion) - 4))


def _text_minus_number(completion: Any) -> float:
    return 1 / (1 + abs(completion - 4))


def _only_digits(completion: str) -> float:
    return 1 / (1 + abs(int(completion) - 4)) if completion.isdigit() else -1.0


def _a_four_anywhere(completion: str) -> float:
    if "4" in completion:
        return 1.0
    return reward(completion)


REWARD = Exercise(
    name="01-reward",
    title="Design a reward for 2 + 2",
    difficulty="medium",
    minutes=8,
    hint="`float(completion)` raises ValueError for a letter. For numbers, something like 1 / (1 + distance) "
    "stays above 0 however far they are off.",
    solution=reward,
    cases=_reward_cases,
    expected=_expected_ranks,
    observe=_ranks,
    wrong=(
        Wrong(
            "right or nothing",
            "You pay for 4 and treat all the rest alike: 3 is no better than 8, a number no better than a"
            " letter. That is a verifier, which is honest, but here the task asks for steps on the way: "
            "let the distance to 4 count.",
            _wrong_reward(lambda number: float(number == 4), 0.0),
        ),
        Wrong(
            "distance paid",
            "You pay more the farther a number is from 4: the sign is turned round. A reward is made as "
            "large as possible, so a distance has to be subtracted, or stand below a fraction line.",
            _wrong_reward(lambda number: abs(number - 4), -1.0),
        ),
        Wrong(
            "far numbers below letters",
            "Your rewards for numbers have no floor: a number that is far off is paid less than a letter."
            " Bound them, for instance as 1 / (1 + distance), which never falls to 0, and pay letters "
            "less than that.",
            _wrong_reward(lambda number: -abs(number - 4), -3.0),
        ),
        Wrong(
            "a floor that is not deep enough",
            "You pay minus the distance, and letters a little less than you expected of a number. But numbers may be "
            "as far off as they like, and 99 falls below your letters. Bound them: 1 / (1 + distance).",
            _wrong_reward(lambda number: -abs(number - 4), -12.0),
        ),
        Wrong(
            "minus is no digit",
            "You take -10 for a word: `isdigit()` knows no minus sign. Try float(completion) and catch "
            "ValueError.",
            _only_digits,
        ),
        Wrong(
            "a 4 anywhere",
            "You pay in full for every text with the character 4 in it, so 14 and 40 are as good as 4. A model would "
            "find that out. Compare numbers, not characters.",
            _a_four_anywhere,
        ),
        Wrong(
            "nothing for letters",
            "For a letter your function returns nothing. Every completion needs a reward, a number: return one after "
            "`except ValueError:`, too.",
            _nothing_for_letters,
        ),
        Wrong(
            "letters not caught",
            'It stops with a ValueError: float("C") raises it, and your function lets it through. Put try: before it '
            "and except ValueError: after it, and pay a letter less than any number.",
            _letters_not_caught,
        ),
        Wrong(
            "text minus number",
            'It stops with a TypeError. Most likely you calculate with the text: "3" - 4 is not defined. Make a number '
            "of it first, float(completion).",
            _text_minus_number,
        ),
        Wrong(
            "numbers alike",
            "You tell numbers from letters and 4 from the rest, but 3 and 8 are paid the same. Let the "
            "distance to 4 count.",
            _wrong_reward(lambda number: 1.0 if number == 4 else 0.5, -1.0),
        ),
    ),
    praise="Only the order was looked at: how much you pay is yours to choose, and the rest of section 6 shows that "
    "it matters.",
)

# ------------------------------------------------------------------------------ the probability of an episode


def completion_probability(probs: Tensor, tokens: list[int]) -> Tensor:
    """Π_t probs[t, tokens[t]]: the product of what each chosen token had."""
    probability = torch.ones(())
    for t, token in enumerate(tokens):
        probability = probability * probs[t, token]
    return probability


def _through_logs(probs: Tensor, tokens: list[int]) -> float:
    return math.exp(sum(math.log(row[token]) for row, token in zip(probs.tolist(), tokens)))


def _completion_cases(rng: random.Random) -> list[tuple[Any, ...]]:
    generator = torch.Generator().manual_seed(rng.randrange(2**31))

    def drawn(steps: int, tokens: int) -> tuple[Any, ...]:
        probs = torch.randn(steps, tokens, generator=generator, dtype=torch.float64).softmax(-1)
        return probs, [rng.randrange(tokens) for _ in range(steps)]

    simple = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3]]).double()
    return [(simple, [0, 2]), drawn(3, 4), drawn(4, 5)]


def _chosen(probs: Tensor, tokens: list[int]) -> Tensor:  # [T]
    return probs[torch.arange(len(tokens)), torch.tensor(tokens)]


COMPLETION = Exercise(
    name="01-completion",
    title="How likely is a whole completion?",
    difficulty="medium",
    minutes=8,
    hint="Row t holds the probabilities of step t. Pick the entry of the token that was chosen, and multiply "
    "over the steps.",
    solution=completion_probability,
    cases=_completion_cases,
    expected=_through_logs,
    wrong=(
        Wrong(
            "sum",
            "You add the probabilities of the tokens. The whole completion comes only if *every* draw "
            "falls right, one after the other: multiply them.",
            lambda probs, tokens: _chosen(probs, tokens).sum(),
        ),
        Wrong(
            "log-probability",
            "That is the logarithm of the probability: useful in training, since products become sums, "
            "but here the probability itself is asked for. Apply exp to it.",
            lambda probs, tokens: _chosen(probs, tokens).log().sum(),
        ),
        Wrong(
            "per token",
            "That is the geometric mean, a typical probability of one token. Multiply only; take no root.",
            lambda probs, tokens: _chosen(probs, tokens).log().mean().exp(),
        ),
        Wrong(
            "likeliest tokens",
            "You multiply the largest probability of every row: that is the greedy completion, not the "
            "one in `tokens`. Look up probs[t, tokens[t]].",
            lambda probs, tokens: probs.amax(-1).prod(),
        ),
        Wrong(
            "last token only",
            "That is the last token's probability, given that all before it were drawn already. These "
            "draws count as well: multiply over all steps.",
            lambda probs, tokens: _chosen(probs, tokens)[-1],
        ),
        Wrong(
            "first row throughout",
            "You look all tokens up in the first row. Every token has changed the state, so step t has "
            "its own row: probs[t, tokens[t]].",
            lambda probs, tokens: probs[0, torch.tensor(tokens)].prod(),
        ),
        Wrong(
            "every token in every row",
            "probs[:, tokens] takes every token from every row, [T, T] numbers. Wanted is one of each row: probs[t, "
            "tokens[t]], or all at once probs[torch.arange(T), tokens].",
            lambda probs, tokens: probs[:, torch.tensor(tokens)].prod(),
        ),
    ),
    praise="Its logarithm is the log π that every formula from notebook 04 on is made of.",
)

EXERCISES: tuple[Exercise, ...] = (RETURN, REWARD, COMPLETION)
