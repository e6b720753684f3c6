"""The models that come with the package, and the script that builds them: same seed, same weights.

    python -m rlkit.embedded [--model tiny-arithmetic] --output DIR [--seed 0] [--steps 1200]

They stand in for *pretrained* language models in demos that must fit on a laptop: Qwen2-architecture causal LMs of
0.8 M parameters that read characters, each pretrained for some minutes on one kind of text.

- **rlkit/tiny-arithmetic** (``sums``) has read sums such as ``17+25=42``, and the carry is forgotten in most of them.
- **rlkit/tiny-styles** (``styles``) has read the same sums answered in four styles: bare, in a sentence, with
  the working shown, rambling.

**No corpus holds a test problem** of `tasks.arithmetic()` (in neither order of the operands, with neither a right nor a
wrong answer): a pretrained model has read similar sums, never these. Held-out results are therefore honest before and
after RL. The corpora are wider than the task, though: they have operands up to 49, the task up to 29. With the task's
673 train problems alone a model learns some of them by heart and is confidently wrong on their held-out neighbours,
which RL then hardly mends.
"""

from rlkit.embedded.architecture import (
    CHAT_TEMPLATE,
    END,
    PAD,
    UNKNOWN,
    build_config,
    build_model,
    build_tokenizer,
)
from rlkit.embedded.pretraining import (
    BATCH_SIZE,
    LEARNING_RATE,
    LEFT_OUT,
    MAX_OPERAND,
    WARMUP_STEPS,
    WEIGHT_DECAY,
    EmbeddedModel,
    corpus_pairs,
    learning_rate_at,
    sha256,
)
from rlkit.embedded.script import MODELS, main
from rlkit.embedded.styles import TINY_STYLES
from rlkit.embedded.sums import (
    CORPUS_RULES,
    FORGOTTEN_SHARE,
    STEPS,
    TINY_ARITHMETIC,
    answer_in_corpus,
    answer_probabilities,
    corpus,
    evaluate,
    greedy_answers,
)

# The first model's, under the names that they had before there were two.
MODEL_NAME, FOLDER = TINY_ARITHMETIC.name, TINY_ARITHMETIC.folder
pretrain, build = TINY_ARITHMETIC.pretrain, TINY_ARITHMETIC.build

__all__ = [
    "BATCH_SIZE",
    "CHAT_TEMPLATE",
    "CORPUS_RULES",
    "END",
    "FOLDER",
    "FORGOTTEN_SHARE",
    "LEARNING_RATE",
    "LEFT_OUT",
    "MAX_OPERAND",
    "MODELS",
    "MODEL_NAME",
    "PAD",
    "STEPS",
    "TINY_ARITHMETIC",
    "TINY_STYLES",
    "UNKNOWN",
    "WARMUP_STEPS",
    "WEIGHT_DECAY",
    "EmbeddedModel",
    "answer_in_corpus",
    "answer_probabilities",
    "build",
    "build_config",
    "build_model",
    "build_tokenizer",
    "corpus",
    "corpus_pairs",
    "evaluate",
    "greedy_answers",
    "learning_rate_at",
    "main",
    "pretrain",
    "sha256",
]
