"""Four tokens: a language model so small that every text it can write is listed, with its probability and its reward.

A text is up to `max_tokens` tokens and ends at the last token of the vocabulary or where it is cut off. What was
written so far is the state; the policy is a table of logits [S, V], one row for each unfinished text. So expectations
are sums, not samples: returns, values, gradients, and what an estimator does on average. Everything is float64.

Sizes: S states, V tokens, M texts, T tokens of the longest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise, product
from typing import Any

import gymnasium
import torch
from torch import Tensor

from rlkit.errors import bad_value
from rlkit.lab.planning import TransitionModel, action_values, policy_evaluation
from rlkit.objectives import group_advantages

MAX_TEXTS = 5_000


def two_pairs(text: tuple[str, ...]) -> float:
    """The default reward of a text: 1 for each "a" that a "b" follows, and half for ending it."""
    return sum(pair == ("a", "b") for pair in pairwise(text)) + 0.5 * (text[-1] == ".")


class TokenMDP:
    """All texts over a small vocabulary.

    Args:
        reward: of a finished text (a tuple of tokens), given at its last token.
        vocabulary: V tokens; the last one ends the text.
        max_tokens: a text is cut off after so many.
        token_cost: taken from every token's reward.

    Attributes, all float64 or int64, padded with 0:
        texts: the M texts. states: the S unfinished texts, the empty one first.
        path, tokens, mask, rewards: [M, T], the state before each token, the token, whether there is one, its reward.
        model: the same as a `TransitionModel` (horizon `max_tokens`; one terminal state more, number S).

    Raises `ConfigError` for a vocabulary of one, or with more than 5,000 texts.
    """

    def __init__(
        self,
        reward: Callable[[tuple[str, ...]], float] = two_pairs,
        vocabulary: Sequence[str] = ("a", "b", "."),
        max_tokens: int = 4,
        token_cost: float = 0.0,
    ) -> None:
        self.vocabulary, self.max_tokens = tuple(vocabulary), max_tokens
        if len(self.vocabulary) < 2 or len(set(self.vocabulary)) != len(self.vocabulary):
            raise bad_value(
                "vocabulary", self.vocabulary, "two or more different tokens, the last one the end"
            )
        letters, end = self.vocabulary[:-1], self.vocabulary[-1]
        if max_tokens < 1 or 2 * len(letters) ** max_tokens > MAX_TEXTS:
            raise bad_value("max_tokens", max_tokens, f"1 or more, and at most {MAX_TEXTS:,} texts")
        self.states = [text for length in range(max_tokens) for text in product(letters, repeat=length)]
        self.texts = [(*text, end) for text in self.states] + list(product(letters, repeat=max_tokens))
        number = {text: i for i, text in enumerate(self.states)}
        shape = (len(self.texts), max_tokens)  # [M, T]
        self.path, self.tokens = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
        self.mask = torch.zeros(shape, dtype=torch.bool)
        self.rewards = torch.zeros(shape, dtype=torch.float64)
        for i, text in enumerate(self.texts):
            for t, token in enumerate(text):
                self.path[i, t], self.tokens[i, t] = number[text[:t]], self.vocabulary.index(token)
                self.mask[i, t], self.rewards[i, t] = True, -token_cost
            self.rewards[i, len(text) - 1] += float(reward(text))
        self.model = self._rules()

    def _rules(self) -> TransitionModel:
        n, v = len(self.states), len(self.vocabulary)
        following = torch.full((n + 1, v, 1), n)
        rewards = torch.zeros(n + 1, v, 1, dtype=torch.float64)
        for i in range(len(self.texts)):
            steps = int(self.mask[i].sum())
            for t in range(steps):
                s, a = int(self.path[i, t]), int(self.tokens[i, t])
                rewards[s, a, 0] = self.rewards[i, t]
                following[s, a, 0] = int(self.path[i, t + 1]) if t + 1 < steps else n
        ends = torch.arange(n + 1) == n
        start = (torch.arange(n + 1) == 0).double()
        return TransitionModel(following, torch.ones_like(rewards), rewards, ends, start, self.max_tokens)

    def env(self) -> TokenEnv:
        """The same world for those who sample: an environment for `lab.ppo`, `lab.sample_episodes` and gymnasium."""
        return TokenEnv(self)

    # -- sums over all texts -----------------------------------------------------------------------------------

    def logprobs(self, logits: Tensor) -> Tensor:  # [M, T]
        """log π of every token of every text under the logits [S, V]; 0 where masked; differentiable."""
        logp = logits.log_softmax(-1)[self.path, self.tokens]  # [M, T]
        return torch.where(self.mask, logp, 0.0)

    def probabilities(self, logits: Tensor) -> Tensor:  # [M]
        """The probability of every text; they add up to 1; differentiable."""
        return self.logprobs(logits).sum(1).exp()

    def returns(self, gamma: float = 1.0) -> Tensor:  # [M]
        """Σ_t γ^t r_t of every text."""
        return (self.rewards * self._discounts(gamma)).sum(1)

    def expected_return(self, logits: Tensor, gamma: float = 1.0) -> Tensor:  # []
        """J = Σ_m π(m) G(m); differentiable, so autograd's gradient of it is one way to the policy gradient."""
        return (self.probabilities(logits) * self.returns(gamma)).sum()

    def visits(self, logits: Tensor, gamma: float = 1.0) -> Tensor:  # [S]
        """d(s) = Σ_t γ^t P(S_t = s): how often each unfinished text is met."""
        weight = self.probabilities(logits)[:, None] * self._discounts(gamma)  # [M, T]
        visits = torch.zeros(len(self.states), dtype=torch.float64)
        return visits.index_add(0, self.path[self.mask], weight[self.mask])

    def _discounts(self, gamma: float) -> Tensor:  # [T]
        return gamma ** torch.arange(self.max_tokens, dtype=torch.float64)

    # -- values and gradients in closed form -------------------------------------------------------------------

    def values(self, logits: Tensor, gamma: float = 1.0) -> tuple[Tensor, Tensor]:
        """V_π [S] and Q_π [S, V], by Bellman's equation."""
        policy = torch.cat(
            (logits.detach().softmax(-1), torch.ones(1, len(self.vocabulary)).double() / len(self.vocabulary))
        )
        values = policy_evaluation(self.model, policy, gamma)  # [S + 1]
        return values[:-1], action_values(self.model, values, gamma)[:-1]

    def policy_gradient(self, logits: Tensor, gamma: float = 1.0) -> Tensor:  # [S, V]
        """∂J/∂logits[s, a] = d(s) π(a|s) (Q(s, a) - V(s)), the policy gradient theorem for a softmax table.

        Source: Sutton, McAllester, Singh & Mansour 1999; Sutton & Barto (2018), section 13.2.
        """
        values, q = self.values(logits, gamma)  # [S], [S, V]
        return self.visits(logits, gamma)[:, None] * logits.softmax(-1) * (q - values[:, None])

    def expected_score(self, logits: Tensor, weights: Tensor) -> Tensor:  # [S, V]
        """Σ_m π(m) Σ_t w[m, t] ∇ log π(token t of m): what an estimator with these weights does on average.

        `weights`: [M, T], or [M] for the same weight on all of a text's tokens. With w = return it is REINFORCE's
        expected update; with any w that is right on average it is `policy_gradient`.
        """
        weights = (weights if weights.dim() == 2 else weights[:, None]).expand(self.mask.shape)  # [M, T]
        chance = (self.probabilities(logits)[:, None] * weights)[self.mask]  # [all tokens]
        states, tokens = self.path[self.mask], self.tokens[self.mask]
        pulled = torch.zeros(logits.shape, dtype=torch.float64).index_put(
            (states, tokens), chance, accumulate=True
        )
        return pulled - pulled.sum(-1, keepdim=True) * logits.softmax(-1)

    def group_weights(self, logits: Tensor, group_size: int = 2, **advantages: object) -> Tensor:  # [M]
        """GRPO's weight of a text: E[A | the text is m], where m's group has `group_size` - 1 others, drawn from π.

        Over all M^G groups; `advantages` are the settings of `rlkit.objectives.group_advantages`. ``expected_score``
        of it is GRPO's exact expected update (each text's tokens summed). Raises `ConfigError` above a million
        groups.
        """
        many = len(self.texts)
        if group_size < 2 or many**group_size > 1_000_000:
            raise bad_value("group_size", group_size, "2 or more, with at most a million groups M^G")
        groups = torch.cartesian_prod(*[torch.arange(many)] * group_size)  # [M^G, G]
        a = group_advantages(self.returns()[groups], **advantages).values[:, 0]  # type: ignore[arg-type]  # [M^G]
        others = self.probabilities(logits)[groups[:, 1:]].prod(1)  # [M^G]
        return torch.zeros(many, dtype=torch.float64).index_add(0, groups[:, 0], a * others)


class TokenEnv(gymnasium.Env[Any, Any]):
    """A `TokenMDP`, played token by token: a state is the number of an unfinished text, an action that of a token.

    Observation S, one more than there are unfinished texts, stands for the end. A text that is cut off at `max_tokens`
    has *terminated*: nothing could follow it.
    """

    def __init__(self, world: TokenMDP) -> None:
        self._next = world.model.next_state[:, :, 0].tolist()
        self._paid = world.model.reward[:, :, 0].tolist()
        self._end, self._state = len(world.states), 0
        self.observation_space = gymnasium.spaces.Discrete(len(world.states) + 1)
        self.action_space = gymnasium.spaces.Discrete(len(world.vocabulary))

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self._state = 0
        return 0, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        paid, self._state = self._paid[self._state][int(action)], self._next[self._state][int(action)]
        return self._state, paid, self._state == self._end, False, {}
