"""What an embedded model is (a name, a corpus, a way to look at it), its pretraining, and its folder.

Same seed, steps and torch version on the same kind of processor give the same bytes; another processor's arithmetic
may differ in the last digits. ``provenance.json`` beside the weights says how the shipped ones were made.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlkit.embedded.architecture import END, build_config, build_model, build_tokenizer
from rlkit.tasks.arithmetic import SMALLEST_OPERAND, arithmetic, split_pairs

if TYPE_CHECKING:
    import torch
    from transformers import Qwen2ForCausalLM, Qwen2Tokenizer

ASSETS = Path(__file__).parent.parent / "assets"

# What all corpora share.
MAX_OPERAND = 49
LEFT_OUT: dict[str, Any] = {
    "max_operand": 29,
    "test_share": 0.2,
    "seed": 0,
}  # the test side of tasks.arithmetic() with its defaults
SHARED_RULES = {
    "operands": f"1 to {MAX_OPERAND}, every ordered pair but those left out, once an epoch in a new order",
    "left_out": f"the test side of tasks.arithmetic({', '.join(f'{k}={v}' for k, v in LEFT_OUT.items())})",
}

BATCH_SIZE, LEARNING_RATE, WARMUP_STEPS, WEIGHT_DECAY = 128, 1e-3, 50, 0.01

Samples = Iterator[tuple[str, str]]  # (prompt, answer), without end


@dataclasses.dataclass(frozen=True)
class EmbeddedModel:
    """An embedded model and how it is made.

    Attributes:
        name: for ``load_model``.
        corpus: from a seed to (prompt, answer) without end.
        rules: the corpus in words, for ``provenance.json``.
        evaluate: from (model, tokenizer, task rows) to what is stated of the model.
        steps: of its pretraining.
        learning_rate: its peak.
        command: what builds it, but for seed and steps.
        parts: equal parts, by length, that a batch is cut into, so that little is padding. The loss is the mean over
            the batch's tokens all the same: other weights would move the probabilities of long and short answers.
    """

    name: str
    corpus: Callable[[int], Samples]
    rules: dict[str, str]
    evaluate: Callable[[Any, Any, list[dict[str, Any]]], dict[str, Any]]
    steps: int
    learning_rate: float = LEARNING_RATE
    command: str = "python -m rlkit.embedded"
    parts: int = 1

    @property
    def folder(self) -> Path:
        """Where it stands in the package."""
        return ASSETS / self.name.removeprefix("rlkit/")

    def pretrain(
        self, seed: int = 0, steps: int | None = None, progress: bool = False
    ) -> tuple[Qwen2ForCausalLM, Any]:
        """Build tokenizer and model and pretrain them; returns both. One thread, fp32: same arguments, same weights.

        Args:
            seed: of weights and corpus.
            steps: optimizer steps on ``BATCH_SIZE`` samples; None: the model's own number.
            progress: show a bar.
        """
        import torch
        import torch.nn.functional as F
        from tqdm.auto import tqdm

        steps = self.steps if steps is None else steps
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # a tiny model is slower with more, and sums must be taken in one order
        try:
            generator = torch.Generator().manual_seed(seed)
            tokenizer = build_tokenizer()
            model = build_model(build_config(tokenizer), generator).train()
            optimizer = torch.optim.AdamW(
                model.parameters(), lr=self.learning_rate, weight_decay=WEIGHT_DECAY
            )
            samples = self.corpus(seed)
            bar = tqdm(range(steps), desc="pretraining", unit="step", disable=not progress)
            for step in bar:
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate_at(step, steps, self.learning_rate)
                optimizer.zero_grad()
                parts = [
                    padded(tokenizer, part)
                    for part in by_length(list(islice(samples, BATCH_SIZE)), self.parts)
                ]
                counts = [int((labels >= 0).sum()) for _, labels in parts]  # tokens to learn
                total = 0.0
                for (ids, labels), count in zip(parts, counts, strict=True):  # [B, T] each
                    share = count / sum(counts)
                    logits = model(
                        input_ids=ids, use_cache=False
                    ).logits  # [B, T, V]; padding is unseen: causal
                    loss = F.cross_entropy(
                        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100
                    )
                    (loss * share).backward()
                    total += loss.item() * share
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                if step % 20 == 0:
                    bar.set_postfix(loss=f"{total:.3f}")
        finally:
            torch.set_num_threads(threads)
        return model.eval(), tokenizer

    def build(
        self, output: Path, seed: int = 0, steps: int | None = None, progress: bool = False
    ) -> dict[str, Any]:
        """Pretrain the model; write it, its tokenizer and ``provenance.json`` to `output`; returns the provenance."""
        import torch
        import transformers

        steps = self.steps if steps is None else steps
        model, tokenizer = self.pretrain(seed, steps, progress)
        output.mkdir(parents=True, exist_ok=True)
        model.save_pretrained(output, safe_serialization=True)
        tokenizer.save_pretrained(output)
        (output / "model.safetensors").chmod(0o644)  # safetensors writes it for its owner only
        task = arithmetic(**LEFT_OUT)
        provenance = {
            "model": self.name,
            "built_by": f"{self.command} --seed {seed} --steps {steps}",
            "seed": seed,
            "steps": steps,
            "batch_size": BATCH_SIZE,
            "learning_rate": self.learning_rate,
            "parameters": sum(p.numel() for p in model.parameters()),
            "corpus": self.rules,
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
            "sha256": {"model.safetensors": sha256(output / "model.safetensors")},
            "held_out": self.evaluate(model, tokenizer, task.test),
            "in_corpus": self.evaluate(model, tokenizer, task.train),
        }
        text = json.dumps(provenance, indent=2, ensure_ascii=False) + "\n"
        (output / "provenance.json").write_text(text, encoding="utf-8")
        return provenance


def corpus_pairs() -> list[tuple[int, int]]:
    """Return the problems of every corpus: all ordered pairs of operands but the task's test problems."""
    _, test = split_pairs(**LEFT_OUT)
    operands = range(SMALLEST_OPERAND, MAX_OPERAND + 1)
    return sorted({(a, b) for a in operands for b in operands} - set(test))


def by_length(samples: list[tuple[str, str]], parts: int) -> list[list[tuple[str, str]]]:
    """Cut `samples` into so many parts of equal size, the shortest first; a single part keeps their order."""
    if parts == 1:
        return [samples]
    ordered = sorted(samples, key=lambda pair: len(pair[0]) + len(pair[1]))
    size = len(ordered) // parts
    return [ordered[start : start + size] for start in range(0, parts * size, size)]


def padded(tokenizer: Qwen2Tokenizer, samples: list[tuple[str, str]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids [B, T], padded on the right, and labels [B, T] with −100 on padding and on prompts."""
    import torch

    prompts = tokenizer([prompt for prompt, _ in samples])["input_ids"]
    answers = tokenizer([answer + END for _, answer in samples])["input_ids"]
    length = max(len(p) + len(a) for p, a in zip(prompts, answers, strict=True))
    ids = torch.full((len(samples), length), tokenizer.pad_token_id)
    labels = torch.full((len(samples), length), -100)
    for row, (p, a) in enumerate(zip(prompts, answers, strict=True)):
        ids[row, : len(p) + len(a)] = torch.tensor(p + a)
        labels[row, len(p) : len(p) + len(a)] = torch.tensor(a)
    return ids, labels


def learning_rate_at(step: int, steps: int, peak: float = LEARNING_RATE) -> float:
    """Return the learning rate of 0-based `step`: linear warm-up to `peak`, then a half cosine to a tenth."""
    if step < WARMUP_STEPS:
        return peak * (step + 1) / WARMUP_STEPS
    done = (step - WARMUP_STEPS) / max(1, steps - WARMUP_STEPS)
    return peak * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * done)))


def sha256(path: Path) -> str:
    """Return the file's SHA-256 as hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
