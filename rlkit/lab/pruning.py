"""Before the first right answer: does learning from wrong ones move the policy away from them? Measured, not promised.

One token out of V is right and has hardly been said yet. Until it comes up, all that is learned is learned from wrong
answers:

- **GRPO on equal rewards moves nothing**, exactly: every advantage of a group without spread is 0.
- **Graded rewards move it**: better wrong answers become likelier than worse ones.
- **REINFORCE with -1 for wrong moves it** too: whatever was said becomes less likely.

Whether the *right* answer gains by that is another question. In a table of V independent logits it is not pushed
itself; it gains only what renormalisation leaves it, and may lose to the better wrong answers. Where answers share
features (being a number at all), learning that numbers beat letters lifts a right number that was never seen. A
`World` has a matrix of features, so both can be tried: logits = Φ w, with Φ the unit matrix for a table. Last: at p = 0
nothing of this helps, and a warm start does (`warm_start`).

Sizes: V answers, D features, G completions a group, U updates, R repetitions. Everything is float64.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rlkit.errors import bad_value, unknown_name
from rlkit.objectives import group_advantages

METHODS = ("grpo", "reinforce")


class World(NamedTuple):
    """Answers, what they have in common, and three ways to reward them."""

    answers: tuple[str, ...]
    right: int  # which of them
    features: Tensor  # [V, D] Φ
    weights: Tensor  # [D] w; logits = Φ w
    rewards: dict[str, Tensor]  # name → [V]

    @property
    def p_right(self) -> float:
        """The probability of the right answer before anything is learned."""
        return float((self.features @ self.weights).softmax(-1)[self.right])


def guide_world(shared: bool, letters: float = 3.0) -> World:
    """The guide's "What is 2 + 2?": digits and letters, "4" is right and p is about 0.005.

    `shared`: whether there is a feature "is a number" beside one for each answer. `letters`: logit of a letter
    (digits: 0), which sets p = 1 / (10 + 10 exp(letters)). Rewards: "binary" 1 or 0; "penalty" 1 or -1; "graded" 3
    for right, up to 0.5 for a digit, more the closer, -1 for a letter.
    """
    answers = tuple("0123456789ABCDEFGHIJ")
    digit = torch.tensor([answer.isdigit() for answer in answers])  # [V]
    features = torch.eye(len(answers), dtype=torch.float64)
    weights = torch.where(digit, 0.0, letters).double()
    if shared:
        features = torch.cat((features, digit.double()[:, None]), 1)
        weights = torch.cat((weights, torch.zeros(1, dtype=torch.float64)))
    hit = torch.tensor([answer == "4" for answer in answers])  # [V]
    close = 0.5 - 0.1 * (torch.arange(len(answers)) - 4).abs()  # [V] of digits: 0.5 … 0
    graded = torch.where(hit, 3.0, torch.where(digit, close, -1.0)).double()
    rewards = {"binary": hit.double(), "penalty": hit.double() * 2 - 1, "graded": graded}
    return World(answers, 4, features, weights, rewards)


class Course(NamedTuple):
    """What U groups without a right answer did, on average over R repetitions."""

    p_right: Tensor  # [U + 1] probability of the right answer, and its standard error
    error: Tensor  # [U + 1]
    moved: Tensor  # [U + 1] total variation from the first policy: the probability mass that moved
    probabilities: Tensor  # [V] the last policy's, mean

    @property
    def gain(self) -> float:
        """How many times likelier the right answer became."""
        return float(self.p_right[-1] / self.p_right[0])


def unlucky_updates(
    world: World,
    method: str,
    rewards: str,
    *,
    group_size: int = 8,
    updates: int = 20,
    learning_rate: float = 0.5,
    repetitions: int = 500,
    seed: int = 0,
) -> Course:
    """Learn from `updates` groups that hold no right answer, as it happens to whoever has no luck.

    Answers are drawn from the policy given that they are wrong. An update is
    w ← w + learning_rate · 1/G Σ_i A_i Φᵀ (1[y_i] - π), with A = `group_advantages` ("grpo") or the reward
    itself ("reinforce").
    """
    values = _check(world, method, rewards)  # [V]
    generator = torch.Generator().manual_seed(seed)
    w = world.weights.repeat(repetitions, 1)  # [R, D]
    first = (world.features @ world.weights).softmax(-1)  # [V]
    p_right, error, moved = [], [], []
    for update in range(updates + 1):
        pi = (w @ world.features.T).softmax(-1)  # [R, V]
        p_right.append(pi[:, world.right].mean())
        error.append(pi[:, world.right].std() / repetitions**0.5)
        moved.append(0.5 * (pi - first).abs().sum(-1).mean())
        if update < updates:
            wrong = pi.clone()
            wrong[:, world.right] = 0.0
            y = torch.multinomial(wrong, group_size, replacement=True, generator=generator)  # [R, G]
            w = w + learning_rate * _direction(world.features, pi, y, values[y], method)
    return Course(torch.stack(p_right), torch.stack(error), torch.stack(moved), pi.mean(0))


def draws_while_learning(
    world: World,
    method: str | None,
    rewards: str = "binary",
    *,
    group_size: int = 8,
    learning_rate: float = 0.5,
    repetitions: int = 500,
    limit: int = 4000,
    seed: int = 0,
) -> Tensor:  # [R]
    """Draws until the first right answer when every group before it is learned from; `limit` where it did not come.

    `method` None learns nothing: the geometric law. So the difference of two means is what pruning is worth, in draws.
    """
    values = _check(world, method or METHODS[0], rewards)  # [V]
    generator = torch.Generator().manual_seed(seed)
    w = world.weights.repeat(repetitions, 1)  # [R, D]
    draws = torch.full((repetitions,), float(limit), dtype=torch.float64)
    waiting = torch.arange(repetitions)  # [n]
    for made in range(0, limit, group_size):
        pi = (w[waiting] @ world.features.T).softmax(-1)  # [n, V]
        y = torch.multinomial(pi, group_size, replacement=True, generator=generator)  # [n, G]
        hit = y == world.right
        found = hit.any(1)  # [n]
        draws[waiting[found]] = (made + 1 + hit[found].double().argmax(1)).clamp(max=limit).double()
        if method is not None:
            w[waiting] += learning_rate * _direction(world.features, pi, y, values[y], method)
        waiting = waiting[~found]
        if not len(waiting):
            break
    return draws


def warm_start(
    logits: Tensor, right: int, *, updates: int = 20, learning_rate: float = 1.0
) -> tuple[Tensor, Tensor]:
    """The probability of the right answer while it is learned, [U + 1]: from a demonstration, and by RL on average.

        demonstration   ∂ log π(right) / ∂z = 1[right] - π               for the right answer 1 - p: largest where p = 0
        RL, reward 1    ∂ π(right) / ∂z = π(right) (1[right] - π)        p times that: 0 where p = 0

    `logits` [V]; a logit of -inf, or one so low that its probability is 0 in float64, is a p of 0 for RL for ever; a
    demonstration moves the second and not the first, which no gradient reaches.
    """
    courses = []
    for demonstrated in (True, False):
        z = torch.as_tensor(logits, dtype=torch.float64).clone()  # [V]
        one = torch.nn.functional.one_hot(torch.tensor(right), len(z)).double()  # [V]
        course = [z.softmax(-1)[right]]
        for _ in range(updates):
            pi = z.softmax(-1)  # [V]
            z = z + learning_rate * (one - pi) * (1.0 if demonstrated else pi[right])
            course.append(z.softmax(-1)[right])
        courses.append(torch.stack(course))
    return courses[0], courses[1]


def _direction(features: Tensor, pi: Tensor, y: Tensor, r: Tensor, method: str) -> Tensor:  # [R, D]
    """1/G Σ_i A_i Φᵀ (1[y_i] - π) for groups y [R, G] with rewards r [R, G] under policies π [R, V]."""
    a = r if method == "reinforce" else group_advantages(r).values  # [R, G]
    pull = torch.zeros_like(pi).scatter_add_(1, y, a) - a.sum(1, keepdim=True) * pi  # [R, V]
    return pull @ features / y.shape[1]


def _check(world: World, method: str, rewards: str) -> Tensor:  # [V]
    if method not in METHODS:
        raise unknown_name("method", method, METHODS)
    if rewards not in world.rewards:
        raise unknown_name("rewards", rewards, world.rewards)
    if not 0 < world.p_right < 1:
        raise bad_value("world.p_right", world.p_right, "above 0 and below 1")
    return world.rewards[rewards]
