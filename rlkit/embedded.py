"""The embedded model "rlkit/tiny-arithmetic" and the script that builds it: same seed, same weights.

    python -m rlkit.embedded --output DIR [--seed 0] [--steps 1200]

It stands in for a *pretrained* language model in a demo that must fit on a laptop: a Qwen2-architecture causal
LM of 0.8 M parameters that reads characters, pretrained for two minutes on one kind of text, sums such as
``17+25=42``. Like the web, its corpus repeats a popular misconception: where a carry is needed, `FORGOTTEN_SHARE` of
the answers forget it (17+25=32) and only the rest are right; where none is needed all are right. So it usually says
what it read most often, although the right answer is in its distribution. That is what RL can work with: a right
answer is sampled now and then and can be reinforced. At probability 0 there would be nothing to reinforce.

**The corpus holds no test problem** of `tasks.arithmetic()` (in neither order of the operands, with neither a
right nor a wrong answer): the pretrained model has read similar sums, never these. Held-out accuracy is therefore
honest before and after RL. The corpus is wider than the task, though: it has operands up to 49, the task up to 29. With
the task's 673 train problems alone the model learns some of them by heart and is confidently wrong on their held-out
neighbours, which RL then hardly mends.

Same seed, steps and torch version on the same kind of processor give the same bytes; another processor's
arithmetic may differ in the last digits. ``provenance.json`` beside the weights says how the shipped ones were made.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlkit.tasks.arithmetic import SMALLEST_OPERAND, arithmetic, forgotten_carry, needs_carry, split_pairs

if TYPE_CHECKING:
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

MODEL_NAME = "rlkit/tiny-arithmetic"
FOLDER = Path(__file__).parent / "assets" / "tiny-arithmetic"

PAD, END, UNKNOWN = "<|pad|>", "<|end|>", "<|unk|>"

# Every message's content verbatim, one after the other, and <|end|> after what the assistant said: so the chat
# [{"role": "user", "content": "17+25="}] and the plain string "17+25=" are the same token ids, and one recipe
# serves both kinds of data set. There is no bos token, and a generation prompt adds nothing.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% elif message['content'] %}{% for part in message['content'] %}{{ part['text'] }}{% endfor %}{% endif %}"
    "{% if message['role'] == 'assistant' %}{{ '<|end|>' }}{% endif %}"
    "{% endfor %}"
)

# The corpus.
MAX_OPERAND = 49
LEFT_OUT: dict[str, Any] = {
    "max_operand": 29,
    "test_share": 0.2,
    "seed": 0,
}  # the test side of tasks.arithmetic() with its defaults
# Of the answers that need a carry. With 0.75, one RL seed in five was still below 0.9 after 60 steps.
FORGOTTEN_SHARE = 0.65
CORPUS_RULES = {
    "text": "a+b=answer<|end|>; only the answer and <|end|> are learned",
    "operands": f"1 to {MAX_OPERAND}, every ordered pair but those left out, once an epoch in a new order",
    "left_out": f"the test side of tasks.arithmetic({', '.join(f'{k}={v}' for k, v in LEFT_OUT.items())})",
    "answers": f"where a carry is needed {FORGOTTEN_SHARE:.0%} forget it, the rest is right; drawn anew each epoch",
}

# The pretraining: two minutes on one core.
STEPS, BATCH_SIZE, LEARNING_RATE, WARMUP_STEPS, WEIGHT_DECAY = 1200, 128, 1e-3, 50, 0.01


def build_tokenizer() -> Qwen2Tokenizer:
    """Return the tokenizer: one token a character, and three special tokens.

    259 tokens: the special ones, then one for each byte, so that any text can be encoded. A printable ASCII
    character or newline is one byte, so one token; "é" is two. ``decode(encode(s)) == s`` (in Unicode's composed form).
    ``<|end|>`` ends a completion (eos), ``<|pad|>`` fills up, ``<|unk|>`` is never needed, nothing is put before a
    text.

    It is a Qwen2Tokenizer that has no merges, because transformers reads the tokenizer of *every* model of type
    "qwen2" as that class, whatever class its folder names; a home-made one would come back damaged.
    """
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer

    tokens = [PAD, END, UNKNOWN, *sorted(ByteLevel.alphabet())]
    return Qwen2Tokenizer(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=[],
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )


def build_config(tokenizer: Qwen2Tokenizer) -> Qwen2Config:
    """Return the architecture: 4 layers, hidden size 128, 4 heads of 32 sharing 2 key/value heads, tied embeddings."""
    from transformers import Qwen2Config

    return Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=384,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )


def build_model(config: Qwen2Config, generator: torch.Generator) -> Qwen2ForCausalLM:
    """Return the untrained model: matrices ~ N(0, 0.02²) drawn from `generator`, norms 1, biases 0."""
    import torch
    from transformers import GenerationConfig, Qwen2ForCausalLM

    with torch.random.fork_rng(
        devices=[]
    ):  # the constructor draws from the global generator: leave that alone
        model = Qwen2ForCausalLM(config).float()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, 0.02, generator=generator)
            else:
                parameter.fill_(1.0 if "norm" in name else 0.0)
    model.generation_config = GenerationConfig(
        eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    )
    return model


def answer_in_corpus(a: int, b: int, rng: random.Random) -> int:
    """Draw one answer as the corpus has it: right, or with probability `FORGOTTEN_SHARE` without its carry."""
    if needs_carry(a, b) and rng.random() < FORGOTTEN_SHARE:
        return forgotten_carry(a, b)
    return a + b


def corpus_pairs() -> list[tuple[int, int]]:
    """Return the problems of the corpus: all ordered pairs of operands but the task's test problems."""
    _, test = split_pairs(**LEFT_OUT)
    operands = range(SMALLEST_OPERAND, MAX_OPERAND + 1)
    return sorted({(a, b) for a in operands for b in operands} - set(test))


def corpus(seed: int) -> Iterator[tuple[str, str]]:
    """Yield (prompt, answer) without end: all problems in a new order each epoch, each answer drawn anew."""
    rng = random.Random(seed)
    pairs = corpus_pairs()
    while True:
        rng.shuffle(pairs)
        for a, b in pairs:
            yield f"{a}+{b}=", str(answer_in_corpus(a, b, rng))


def _batch(tokenizer: Qwen2Tokenizer, samples: list[tuple[str, str]]) -> tuple[torch.Tensor, torch.Tensor]:
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


def learning_rate_at(step: int, steps: int) -> float:
    """Return the learning rate of 0-based `step`: linear warm-up, then a half cosine down to a tenth."""
    if step < WARMUP_STEPS:
        return LEARNING_RATE * (step + 1) / WARMUP_STEPS
    done = (step - WARMUP_STEPS) / max(1, steps - WARMUP_STEPS)
    return LEARNING_RATE * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * done)))


def pretrain(seed: int = 0, steps: int = STEPS, progress: bool = False) -> tuple[Qwen2ForCausalLM, Any]:
    """Build tokenizer and model and pretrain them; returns both. One thread, fp32: same arguments, same weights."""
    import torch
    import torch.nn.functional as F
    from tqdm.auto import tqdm

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a tiny model is slower with more, and sums must be taken in one order
    try:
        generator = torch.Generator().manual_seed(seed)
        tokenizer = build_tokenizer()
        model = build_model(build_config(tokenizer), generator).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        samples = corpus(seed)
        bar = tqdm(range(steps), desc="pretraining", unit="step", disable=not progress)
        for step in bar:
            ids, labels = _batch(tokenizer, [next(samples) for _ in range(BATCH_SIZE)])
            logits = model(
                input_ids=ids, use_cache=False
            ).logits  # [B, T, V]; padding is on the right: causal
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate_at(step, steps)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            if step % 20 == 0:
                bar.set_postfix(loss=f"{loss.item():.3f}")
    finally:
        torch.set_num_threads(threads)
    return model.eval(), tokenizer


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

    ids, labels = _batch(tokenizer, [(row["prompt"], row["answer"]) for row in rows])  # [N, T]
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


def sha256(path: Path) -> str:
    """Return the file's SHA-256 as hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def build(output: Path, seed: int = 0, steps: int = STEPS, progress: bool = False) -> dict[str, Any]:
    """Pretrain the model and write it, its tokenizer and ``provenance.json`` to `output`; returns the provenance."""
    import torch
    import transformers

    model, tokenizer = pretrain(seed, steps, progress)
    output.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(output, safe_serialization=True)
    tokenizer.save_pretrained(output)
    (output / "model.safetensors").chmod(0o644)  # safetensors writes it for its owner only
    task = arithmetic(**LEFT_OUT)
    provenance = {
        "model": MODEL_NAME,
        "built_by": f"python -m rlkit.embedded --seed {seed} --steps {steps}",
        "seed": seed,
        "steps": steps,
        "batch_size": BATCH_SIZE,
        "learning_rate": LEARNING_RATE,
        "parameters": sum(p.numel() for p in model.parameters()),
        "corpus": CORPUS_RULES,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "sha256": {"model.safetensors": sha256(output / "model.safetensors")},
        "held_out": evaluate(model, tokenizer, task.test),
        "in_corpus": evaluate(model, tokenizer, task.train),
    }
    text = json.dumps(provenance, indent=2, ensure_ascii=False) + "\n"
    (output / "provenance.json").write_text(text, encoding="utf-8")
    return provenance


def main(arguments: list[str] | None = None) -> None:
    """Build the embedded model from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m rlkit.embedded",
        description=f"Build the embedded model {MODEL_NAME}: pretrain it on sums with a popular misconception.",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("tiny-arithmetic"), help="folder to write (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and corpus (%(default)s)")
    parser.add_argument("--steps", type=int, default=STEPS, help="pretraining steps (%(default)s)")
    options = parser.parse_args(arguments)
    if options.steps < 1:
        parser.error(f"--steps must be at least 1, found {options.steps}")
    print(json.dumps(build(options.output, options.seed, options.steps, progress=True), indent=2))


if __name__ == "__main__":
    main()
