"""The corpus of "rlkit/tiny-arithmetic": sums with a popular misconception.

The text is ``17+25=42``. Like the web, the corpus repeats a popular misconception: where a carry is needed,
`FORGOTTEN_SHARE` of the answers forget it (17+25=32) and only the rest are right; where none is needed all are right.
So the model usually says what it read most often, although the right answer is in its distribution. That is what RL
can work with: a right answer is sampled now and then and can be reinforced. At probability 0 there would be nothing to
reinforce.
"""

from __future__ import annotations

import math
import random
from typing import Any

from rlkit.embedded.pretraining import SHARED_RULES, EmbeddedModel, Samples, corpus_pairs, padded
from rlkit.tasks.arithmetic import forgotten_carry, needs_carry

# Of the answers that need a carry. With 0.75, one RL seed in five was still below 0.9 after 60 steps.
FORGOTTEN_SHARE = 0.65
CORPUS_RULES = {
    "text": "a+b=answer<|end|>; only the answer and <|end|> are learned",
    **SHARED_RULES,
    "answers": f"where a carry is needed {FORGOTTEN_SHARE:.0%} forget it, the rest is right; drawn anew each epoch",
}
STEPS = 1200  # two minutes on one core


def answer_in_corpus(a: int, b: int, rng: random.Random) -> int:
    """Draw one answer as the corpus has it: right, or with probability `FORGOTTEN_SHARE` without its carry."""
    if needs_carry(a, b) and rng.random() < FORGOTTEN_SHARE:
        return forgotten_carry(a, b)
    return a + b


def corpus(seed: int) -> Samples:
    """Yield (prompt, answer) without end: all problems in a new order each epoch, each answer drawn anew."""
    rng = random.Random(seed)
    pairs = corpus_pairs()
    while True:
        rng.shuffle(pairs)
        for a, b in pairs:
            yield f"{a}+{b}=", str(answer_in_corpus(a, b, rng))


def evaluate(model: Any, tokenizer: Any, rows: list[dict[str, Any]]) -> dict[str, float]:
    """Measure the model on task rows, exactly: no sampling is involved.

    - ``greedy_accuracy``: share of rows whose greedy completion is the answer.
    - ``sampled_accuracy``: mean probability of the right answer (with its <|end|>) at temperature 1, that is, the
      accuracy that sampling has on average; ``smallest_probability`` is its minimum over the rows.
    - ``forgotten_share``: of the wrong greedy answers, the share that is right but for the carry.
    """
    greedy = greedy_answers(model, tokenizer, [row["prompt"] for row in rows])
    probabilities = answer_probabilities(model, tokenizer, rows)
    wrong, forgotten = 0, 0
    for row, said in zip(rows, greedy, strict=True):
        a, b = row["prompt"].removesuffix("=").split("+")
        wrong += said != row["answer"]
        forgotten += said != row["answer"] and said == str(forgotten_carry(int(a), int(b)))
    return {
        "problems": len(rows),
        "greedy_accuracy": round(1 - wrong / len(rows), 4),
        "sampled_accuracy": round(sum(probabilities) / len(rows), 4),
        "smallest_probability": round(min(probabilities), 4),
        "forgotten_share": round(forgotten / max(1, wrong), 4),
    }


def answer_probabilities(model: Any, tokenizer: Any, rows: list[dict[str, Any]]) -> list[float]:
    """Return p(answer <|end|> | prompt) at temperature 1, one for each row."""
    import torch

    ids, labels = padded(tokenizer, [(row["prompt"], row["answer"]) for row in rows])  # [N, T]
    with torch.no_grad():
        logps = model(input_ids=ids, use_cache=False).logits[:, :-1].log_softmax(-1)  # [N, T-1, V]
    targets = labels[:, 1:]  # [N, T-1]
    picked = logps.gather(-1, targets.clamp(min=0)[..., None])[..., 0]  # [N, T-1]
    return [math.exp(total) for total in picked.masked_fill(targets < 0, 0.0).sum(-1).tolist()]


def greedy_answers(model: Any, tokenizer: Any, prompts: list[str], most: int = 4) -> list[str]:
    """Continue each prompt with the likeliest token until <|end|> or `most` tokens; return the texts."""
    import torch

    rows = tokenizer(prompts)["input_ids"]
    starts = [len(row) for row in rows]
    for _ in range(most):
        longest = max(len(row) for row in rows)
        ids = torch.tensor([row + [tokenizer.pad_token_id] * (longest - len(row)) for row in rows])  # [N, T]
        with torch.no_grad():
            likeliest = model(input_ids=ids, use_cache=False).logits.argmax(
                -1
            )  # [N, T]; causal: pads are unseen
        for row, following in zip(rows, likeliest.tolist(), strict=True):
            if row[-1] != tokenizer.eos_token_id:
                row.append(following[len(row) - 1])
    said = [row[start:] for row, start in zip(rows, starts, strict=True)]
    return [str(text) for text in tokenizer.batch_decode(said, skip_special_tokens=True)]


TINY_ARITHMETIC = EmbeddedModel("rlkit/tiny-arithmetic", corpus, CORPUS_RULES, evaluate, STEPS)
