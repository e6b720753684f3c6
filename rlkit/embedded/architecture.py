"""Tokenizer and architecture of the embedded models: one token a character, 0.8 M parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

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
