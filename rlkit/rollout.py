"""The data that flows through a GRPO step, as plain dataclasses that can be printed.

    prompts ─rollout()─▶ Rollout ─score()─▶ Rewards ─advantages()─▶ Advantages ─update()─▶ Metrics

Everything works on *token ids*: what the engine sampled is what is trained on. Text is kept beside the
ids for reward functions and for people, and is never tokenised again.

Sizes: P prompts a step, G completions a prompt, N = P · G rows, F reward functions, T completion tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

Messages = list[dict[str, str]]
Row = dict[str, Any]


@dataclass(slots=True)
class Completion:
    """One sampled answer, as the engine produced it.

    Attributes:
        token_ids: the T sampled ids, the end-of-sequence token included when there is one.
        logprobs: log π(o_t | q, o_<t) of each sampled token under the engine's weights, at the sampling
            temperature (natural log, length T).
        text: the decoded ids without special tokens.
        finish_reason: ``"stop"`` (the model ended its answer) or ``"length"`` (it was cut: *truncated*).
        topk_ids, topk_logprobs: the engine's k likeliest tokens at each position (length T, each k long),
            or None when they were not asked for.
    """

    token_ids: list[int]
    logprobs: list[float]
    text: str
    finish_reason: str
    topk_ids: list[list[int]] | None = None
    topk_logprobs: list[list[float]] | None = None

    @property
    def truncated(self) -> bool:
        return self.finish_reason == "length"

    def __repr__(self) -> str:
        return f"Completion({self.text!r}, {len(self.token_ids)} tokens, {self.finish_reason})"


@dataclass(slots=True)
class Rollout:
    """G completions for each of P prompts: the raw material of one GRPO step.

    Attributes:
        step: the optimizer step that these samples are for (1-based; 0 before training).
        rows: the P data set rows.
        prompts: the P prompts as the data set has them (strings or message lists).
        prompt_texts: the P prompts as the model reads them, chat template applied.
        prompt_ids: the P prompts as token ids.
        completions: N = P · G completions, prompt by prompt.
        num_generations: G.
        seconds: wall-clock seconds spent sampling.
    """

    step: int
    rows: list[Row]
    prompts: list[str | Messages]
    prompt_texts: list[str]
    prompt_ids: list[list[int]]
    completions: list[Completion]
    num_generations: int
    seconds: float = 0.0

    def __len__(self) -> int:
        return len(self.completions)

    @property
    def groups(self) -> list[list[Completion]]:
        """The completions as P lists of G."""
        size = self.num_generations
        return [self.completions[i : i + size] for i in range(0, len(self.completions), size)]

    @property
    def num_tokens(self) -> int:
        """Sampled tokens in all completions."""
        return sum(len(completion.token_ids) for completion in self.completions)

    def __repr__(self) -> str:
        first = f"{self.prompt_texts[0]!r} → {self.completions[0].text!r}" if self.completions else "empty"
        return (
            f"Rollout(step {self.step}: {len(self.rows)} prompts × {self.num_generations} completions, "
            f"{self.num_tokens} tokens; first: {first})"
        )


@dataclass(slots=True)
class Rewards:
    """What every reward function gave every completion.

    Attributes:
        names: the F reward functions' names.
        per_function: float64 [P, G, F]; NaN where a function answered None ("not mine to judge").
        weights: float64 [F].
        total: float64 [P, G], the weighted sum over the functions that answered.
        correct: bool [P, G] by the task's verifier, or None where there is none.
        seconds: wall-clock seconds spent scoring.
        metrics: numbers that the functions logged by ``log_metric``.
        columns: values, one a completion, that they logged by ``log_extra``.
    """

    names: list[str]
    per_function: torch.Tensor
    weights: torch.Tensor
    total: torch.Tensor
    correct: torch.Tensor | None = None
    seconds: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)
    columns: dict[str, list[Any]] = field(default_factory=dict)

    @property
    def accuracy(self) -> float | None:
        """Share of completions that the verifier accepts, or None without a verifier."""
        return None if self.correct is None else float(self.correct.double().mean())

    def __repr__(self) -> str:
        parts = ", ".join(
            f"{name} {self.per_function[..., i].nanmean():+.2f}" for i, name in enumerate(self.names)
        )
        return f"Rewards(mean total {self.total.mean():+.3f}: {parts})"


@dataclass(slots=True)
class Batch:
    """A rollout as the trainer's tensors: prompts left-padded, completions right-padded.

    Attributes:
        input_ids: int64 [N, L], prompt and completion in one row.
        attention_mask: int64 [N, L], 1 on real tokens.
        completion_mask: bool [N, L], True on the tokens that the model sampled.
        prompt_length: columns before the first completion column, so completions are ``[:, prompt_length:]``.
        logp_engine: float32 [N, T], the engine's log-probabilities (0 where the mask is).
        truncated: bool [N].
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    completion_mask: torch.Tensor
    prompt_length: int
    logp_engine: torch.Tensor
    truncated: torch.Tensor

    def __len__(self) -> int:
        return self.input_ids.shape[0]

    @property
    def mask(self) -> torch.Tensor:
        """The completion mask on completion columns only: bool [N, T]."""
        return self.completion_mask[:, self.prompt_length :]

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row, prompt and completion together."""
        return self.attention_mask.sum(-1).tolist()

    def packed(self, rows: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """A micro-batch of these rows, each shifted to the left edge and cut to the longest: no padding but at the end.

        Returns:
            input_ids [n, W], attention_mask [n, W] and completion_mask [n, W]. The completion's tokens stand in the
            same order as in ``mask[rows]``: what is computed for them is put back with ``unpack``.
        """
        import torch

        chosen = torch.as_tensor(list(rows), device=self.input_ids.device)
        attention = self.attention_mask[chosen]  # [n, L]
        lengths = attention.sum(-1, keepdim=True)  # [n, 1]
        first = attention.argmax(-1, keepdim=True)  # [n, 1] column of the first real token
        columns = torch.arange(int(lengths.max()), device=chosen.device)  # [W]
        source = (first + columns).clamp(max=attention.shape[1] - 1)  # [n, W]
        inside = columns < lengths  # [n, W]
        return (
            self.input_ids[chosen].gather(1, source),
            inside.long(),
            self.completion_mask[chosen].gather(1, source) & inside,
        )


def unpack(values: torch.Tensor, completion_mask: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Numbers of a packed micro-batch [n, W] in the frame of its completions [n, T], 0 where ``mask`` [n, T] is."""
    return values.new_zeros(mask.shape).masked_scatter(mask, values[completion_mask])


def build_batch(rollout: Rollout, pad_token_id: int, device: torch.device | str = "cpu") -> Batch:
    """Lay a rollout out as padded tensors, prompts on the left and completions on the right.

    >>> batch = build_batch(rollout, tokenizer.pad_token_id)
    >>> batch.input_ids.shape, batch.mask.shape         # [N, L], [N, T]
    """
    import torch

    prompts = [ids for ids in rollout.prompt_ids for _ in range(rollout.num_generations)]
    answers = [completion.token_ids for completion in rollout.completions]
    width_prompt = max(len(ids) for ids in prompts)
    width_answer = max(1, max(len(ids) for ids in answers))
    shape = (len(prompts), width_prompt + width_answer)
    input_ids = torch.full(shape, pad_token_id, dtype=torch.long)
    attention_mask = torch.zeros(shape, dtype=torch.long)
    completion_mask = torch.zeros(shape, dtype=torch.bool)
    logp_engine = torch.zeros(len(prompts), width_answer)
    for i, (prompt, completion) in enumerate(zip(prompts, rollout.completions, strict=True)):
        start, stop = width_prompt - len(prompt), width_prompt + len(completion.token_ids)
        input_ids[i, start:stop] = torch.tensor(prompt + completion.token_ids)
        attention_mask[i, start:stop] = 1
        completion_mask[i, width_prompt:stop] = True
        logp_engine[i, : len(completion.logprobs)] = torch.tensor(completion.logprobs)
    truncated = torch.tensor([completion.truncated for completion in rollout.completions])
    tensors = (input_ids, attention_mask, completion_mask)
    return Batch(
        *(tensor.to(device) for tensor in tensors),
        prompt_length=width_prompt,
        logp_engine=logp_engine.to(device),
        truncated=truncated.to(device),
    )


@dataclass(slots=True)
class TokenRecord:
    """Per-token numbers of one update, kept for the samples on disk; every tensor is [N, T].

    ``is_weight`` is the weight against an engine/trainer mismatch: 1 where none is applied. The last four are PPO's.
    """

    logp_old: torch.Tensor
    logp_new: torch.Tensor
    ratio: torch.Tensor
    entropy: torch.Tensor
    is_weight: torch.Tensor
    logp_ref: torch.Tensor | None = None
    token_reward: torch.Tensor | None = None  # r, the KL penalty and the score in it
    value: torch.Tensor | None = None  # V before the token
    token_advantage: torch.Tensor | None = None  # A, as the loss took it
    token_return: torch.Tensor | None = None  # what V was to learn

    @classmethod
    def zeros(cls, shape: tuple[int, ...], device: torch.device | str = "cpu") -> TokenRecord:
        """A record that an update fills in."""
        import torch

        tensors = [torch.zeros(shape, device=device) for _ in range(4)]
        return cls(*tensors, is_weight=torch.ones(shape, device=device))

    def cpu(self) -> TokenRecord:
        """The record on the CPU."""
        names = (field.name for field in fields(self))
        return TokenRecord(*(None if (x := getattr(self, name)) is None else x.cpu() for name in names))


@dataclass(slots=True)
class Metrics:
    """What one update did. ``values`` holds the numbers that go to ``metrics.jsonl`` under the same names."""

    step: int
    values: dict[str, Any]
    tokens: TokenRecord | None = None

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def __repr__(self) -> str:
        shown = ("loss", "grad_norm", "reward", "accuracy", "entropy", "dead_groups")
        parts = [f"{name} {self.values[name]:.4g}" for name in shown if self.values.get(name) is not None]
        return f"Metrics(step {self.step}: {', '.join(parts)})"


@dataclass(slots=True)
class Evaluation:
    """Held-out results: greedy (the likeliest answer) and sampled (an answer drawn at the training temperature).

    ``accuracy_*`` is the share that the verifier accepts (None without one); ``rows_*`` are the completions
    with their rewards, one dict a completion, as written to the run directory.
    """

    step: int
    n: int
    accuracy_greedy: float | None
    accuracy_sampled: float | None
    reward_greedy: float
    reward_sampled: float
    seconds: float
    rows_greedy: list[Row] = field(default_factory=list, repr=False)
    rows_sampled: list[Row] = field(default_factory=list, repr=False)

    def values(self) -> dict[str, Any]:
        """Its line in ``metrics.jsonl``."""
        names = ("n", "accuracy_greedy", "accuracy_sampled", "reward_greedy", "reward_sampled")
        return {**{name: getattr(self, name) for name in names}, "seconds/eval": self.seconds}

    def tables(self) -> dict[str, list[Row]]:
        """The completions, by kind."""
        return {"greedy": self.rows_greedy, "sampled": self.rows_sampled}

    def forget_tables(self) -> None:
        """Let go of the completions."""
        self.rows_greedy, self.rows_sampled = [], []

    def outcome(self) -> dict[str, float | None]:
        """What a run's summary says, before and after."""
        return {
            "accuracy": self.accuracy_greedy,
            "accuracy_sampled": self.accuracy_sampled,
            "reward": self.reward_greedy,
            "reward_sampled": self.reward_sampled,
        }

    def __repr__(self) -> str:
        if self.accuracy_greedy is None or self.accuracy_sampled is None:
            found = f"reward {self.reward_greedy:.3f} greedy, {self.reward_sampled:.3f} sampled"
        else:
            found = f"{self.accuracy_greedy:.3f} right greedily, {self.accuracy_sampled:.3f} sampled"
        return f"Evaluation(step {self.step}: {found}, {self.n} held-out problems)"


def completion_as_given(prompt: str | Messages, text: str) -> str | Messages:
    """A completion in the form of its prompt: a string for a string, a message list for a message list."""
    return text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]


def tokenize_prompts(tokenizer: Any, prompts: Sequence[str | Messages]) -> tuple[list[str], list[list[int]]]:
    """Turn prompts into (texts, token ids); message lists go through the chat template."""
    texts: list[str] = []
    ids: list[list[int]] = []
    for prompt in prompts:
        if isinstance(prompt, str):
            texts.append(prompt)
            ids.append(list(tokenizer(prompt)["input_ids"]))
        else:
            text = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
            texts.append(text)
            # The template already writes the special tokens that belong there.
            ids.append(list(tokenizer(text, add_special_tokens=False)["input_ids"]))
    return texts, ids
