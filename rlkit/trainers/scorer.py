"""A reward model: a transformers backbone with one number as its head, read at the last token.

    r(prompt, answer) = w · h_last        h_last [H]: the hidden state of the row's last token, its end token

It is transformers' …ForSequenceClassification with one label, so that others can load what is saved. The numbers are
our
own: that class finds the last token by looking for padding, and looks too far left where the end token pads.
"""

from __future__ import annotations

import copy
import json
import math
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rlkit.adapters import CONFIG as ADAPTER_CONFIG
from rlkit.adapters import base_model, base_of, is_adapter_model
from rlkit.errors import ConfigError, RewardError, bad_value
from rlkit.export import _written_whole, merged_model
from rlkit.hub import quiet_transformers
from rlkit.rollout import Messages
from rlkit.trainers.micro_batches import micro_batches, token_budget
from rlkit.trainers.sft_data import _tokens
from rlkit.trainers.weights import save_weights

_ABOUT = "reward_model.json"


class RewardModel:
    """A reward model with its tokenizer. Callable as a reward function of every trainer: it scores what was sampled.

    Args:
        model: a model of ``make_reward_model``, or a transformers …ForSequenceClassification with one label.
        tokenizer: its tokenizer, which may be another than the policy's: answers come as text.
        mean, std: a score is (r − mean) / std.
        name: under which it is logged.
        micro_batch_tokens: tokens of a forward pass; None: as many as suit the device.

    A completion that was cut off is read as if it had ended there.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        mean: float = 0.0,
        std: float = 1.0,
        name: str = "reward_model",
        micro_batch_tokens: int | None = None,
    ) -> None:
        check_reward_model(model)
        if not math.isfinite(mean):
            raise bad_value("mean", mean, "a finite number")
        if not 0 < std < math.inf:
            raise bad_value(
                "std", std, "a number above 0", "All rewards are the same: it has learned nothing."
            )
        self.model, self.tokenizer = model.eval(), tokenizer
        self.mean, self.std, self.__name__ = float(mean), float(std), name
        self.micro_batch_tokens = micro_batch_tokens
        self._end_ids = end_ids_of(tokenizer)

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float]:
        """A score for each completion.

        Raises:
            RewardError: a reward that is not finite.
        """
        return self.score(prompts, completions)

    def score(self, prompts: Sequence[Any], completions: Sequence[Any]) -> list[float]:
        """(r − mean) / std of each pair of prompt and completion.

        Raises:
            RewardError: a reward that is not finite: the model is broken.
        """
        pairs = list(zip(prompts, completions, strict=True))
        rows = [read_row(self.tokenizer, *pair, self._end_ids) for pair in pairs]
        context = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        for (prompt, _), row in zip(pairs, rows, strict=True):
            if context and len(row) > context:
                raise RewardError(
                    f"the reward model {self.__name__!r} reads {context} tokens at most; the prompt {prompt!r:.60} and "
                    "its "
                    f"completion have {len(row)}. Lower max_completion_length, or take a backbone with a longer context"
                )
        scores = [
            (r - self.mean) / self.std
            for r in score_rows(self.model, rows, self.micro_batch_tokens, self._padding).tolist()
        ]
        lost = [i for i, score in enumerate(scores) if not math.isfinite(score)]
        if lost:
            raise RewardError(
                f"the reward model {self.__name__!r} gives {scores[lost[0]]} to {len(lost)} of {len(scores)} "
                "completions, "
                f"first to {pairs[lost[0]][1]!r:.80}. Its weights are broken: was its learning rate too high, its file "
                "damaged, or is it in float16? load_reward_model(…, dtype='float32')"
            )
        return scores

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write model (or adapter with head), tokenizer, mean and std; whole or not at all. See
        ``load_reward_model``.
        """
        return save_reward_model(self.model, self.tokenizer, folder, self.mean, self.std)

    @property
    def _padding(self) -> int:
        return int(self.tokenizer.pad_token_id or 0)  # never looked at

    def __repr__(self) -> str:
        return (
            f"RewardModel({type(base_model(self.model)).__name__}, mean={self.mean:.4g}, std={self.std:.4g})"
        )


# -- making, saving, loading -----------------------------------------------------------------------------------


def make_reward_model(
    model: Any, tokenizer: Any = None, *, lora: bool = False, seed: int = 0, **lora_settings: Any
) -> tuple[Any, Any]:
    """A causal LM's backbone with a new scalar head; returns (model, tokenizer).

    Args:
        model: a name or folder for ``load_model``; or a causal LM, which is copied and stays as it is (of an adapter
            model the merged weights).
        tokenizer: needed where ``model`` is a causal LM.
        lora: freeze the backbone and train a LoRA adapter and the head.
        seed: of the head's random numbers, which have a standard deviation of 1/√(H + 1) (Stiennon et al. 2020).
        lora_settings: of ``peft.LoraConfig``: ``r``, ``lora_alpha``, ``target_modules``, …

    Raises:
        ConfigError: no such model, no tokenizer, or LoRA settings without ``lora=True``.
    """
    if lora_settings and not lora:
        raise ConfigError(f"{', '.join(lora_settings)}: settings of an adapter. Give lora=True with them")
    if isinstance(model, (str, os.PathLike)):
        from rlkit.models import load_model

        name = str(model)
        policy, loaded = load_model(model)
        tokenizer = tokenizer or loaded
        policy = merged_model(policy) if is_adapter_model(policy) else policy
        backbone = policy.base_model
    else:
        if not hasattr(model, "get_output_embeddings") or model.get_output_embeddings() is None:
            raise bad_value(
                "model", f"<{type(model).__name__}>", "a transformers causal LM, or a name for load_model"
            )
        name = model.name_or_path
        policy = merged_model(model) if is_adapter_model(model) else model
        backbone = copy.deepcopy(policy.base_model)
    if tokenizer is None:
        raise bad_value("tokenizer", None, "the model's tokenizer", "load_model(name) gives both.")
    config = copy.deepcopy(policy.config)
    config.num_labels, config.architectures = 1, None
    config.pad_token_id = tokenizer.pad_token_id
    kind = _classifier(type(config), type(policy))
    with torch.device("meta"):  # all of it is replaced
        made = kind(config)
    if not isinstance(getattr(made, "score", None), nn.Module) or not hasattr(made, made.base_model_prefix):
        raise ConfigError(
            f"{kind.__name__} has no linear head called score on a decoder. Allowed: decoders, such as Llama, "
            "Qwen, Gemma, "
            "Mistral, Phi"
        )
    weight = next(policy.parameters())
    width = policy.config.get_text_config().hidden_size  # H
    head = nn.Linear(width, 1, bias=False, device="cpu", dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    nn.init.normal_(head.weight, std=(width + 1) ** -0.5, generator=generator)
    setattr(made, made.base_model_prefix, backbone)
    made.score = head.to(weight.device, policy.dtype)
    made.requires_grad_(True)
    made.config._name_or_path = made.name_or_path = name
    made = made.eval()
    return (_with_adapter(made, seed, lora_settings) if lora else made), tokenizer


def load_reward_model(
    folder: str | os.PathLike[str], *, device: str | None = None, dtype: str | None = None, **settings: Any
) -> RewardModel:
    """What ``RewardModel.save`` or ``RewardModelTrainer.save_model`` wrote; or any folder of transformers'
    …ForSequenceClassification with one label.

    Args:
        device, dtype: where, and in which type, such as ``"float32"``; None: the CPU, as saved.
        settings: of :class:`RewardModel`.

    Raises:
        ConfigError: there is no reward model in the folder, or it has another number of labels.
    """
    from transformers import AutoConfig, AutoTokenizer

    path = Path(folder)
    if not ((path / "config.json").is_file() or (path / ADAPTER_CONFIG).is_file()):
        raise bad_value("folder", str(folder), "a folder with a saved reward model", "It has no config.json.")
    about = json.loads((path / _ABOUT).read_text(encoding="utf-8")) if (path / _ABOUT).is_file() else {}
    tokenizer = AutoTokenizer.from_pretrained(path)
    with quiet_transformers():
        if (path / ADAPTER_CONFIG).is_file():
            from peft import PeftModel

            model, _ = make_reward_model(base_of(path), tokenizer)
            model = PeftModel.from_pretrained(model, str(path), is_trainable=True)
        else:
            config = AutoConfig.from_pretrained(path)
            if config.num_labels != 1:
                raise bad_value(
                    "folder", str(folder), "a model with one label", f"It has {config.num_labels}."
                )
            model = _classifier(type(config)).from_pretrained(path, dtype=dtype or "auto")
    if dtype is not None:
        model = model.to(getattr(torch, dtype))
    return RewardModel(
        model.to(device or "cpu").eval(),
        tokenizer,
        **{"mean": about.get("mean", 0.0), "std": about.get("std", 1.0), **settings},
    )


def save_reward_model(
    model: Any, tokenizer: Any, folder: str | os.PathLike[str], mean: float = 0.0, std: float = 1.0
) -> Path:
    """Write a reward model's folder; whole or not at all."""
    with _written_whole(folder) as partial:
        save_weights(partial, model)
        tokenizer.save_pretrained(partial)
        (partial / _ABOUT).write_text(json.dumps({"mean": mean, "std": std}) + "\n", encoding="utf-8")
    return Path(folder)


def _classifier(config_type: type, policy_type: type | None = None) -> Any:
    """The architecture's …ForSequenceClassification; where transformers has none, one made of its parts."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
    from transformers.modeling_layers import GenericForSequenceClassification

    if config_type in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        return MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[config_type]
    policy: Any = policy_type or MODEL_FOR_CAUSAL_LM_MAPPING[config_type]
    parent = next(kind for kind in policy.__mro__ if kind.__name__.endswith("PreTrainedModel"))
    name = policy.__name__.removesuffix("ForCausalLM") + "ForSequenceClassification"
    return type(name, (GenericForSequenceClassification, parent), {"__module__": __name__})


def _with_adapter(model: Any, seed: int, settings: dict[str, Any]) -> Any:
    """The model with a LoRA adapter on its blocks; the head is trained whole."""
    from peft import LoraConfig, get_peft_model

    from rlkit.adapter_checks import choose_targets
    from rlkit.adapters import _loadable, _own_generator

    given = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.0, **settings}
    config = LoraConfig(**given, task_type="SEQ_CLS", modules_to_save=["score"])
    choose_targets(model, config)
    base = _loadable(model.name_or_path)
    with _own_generator(model, seed):
        adapted = get_peft_model(model, config)
    adapted.peft_config["default"].base_model_name_or_path = base
    return adapted.eval()


def check_reward_model(model: Any) -> None:
    """Refuse what gives no single number a row.

    Raises:
        ConfigError: saying how to get a reward model.
    """
    inner = base_model(model) if hasattr(model, "config") else model
    if not hasattr(inner, "score") or not hasattr(inner, "base_model_prefix"):
        raise bad_value(
            "model",
            f"<{type(inner).__name__}>",
            "a model with a scalar head",
            "make_reward_model(model, tokenizer) puts one on a causal LM.",
        )
    if model.config.num_labels != 1:
        raise bad_value("num_labels", model.config.num_labels, "1", "A reward is one number.")


# -- rows and their rewards ------------------------------------------------------------------------------------


def end_ids_of(tokenizer: Any) -> Collection[int]:
    """The tokens that end an answer.

    Raises:
        ConfigError: the tokenizer has none.
    """
    if getattr(tokenizer, "eos_token_id", None) is None:
        raise bad_value("tokenizer", f"<{type(tokenizer).__name__}>", "a tokenizer with an eos_token")
    return {tokenizer.eos_token_id}


def read_row(
    tokenizer: Any, prompt: str | Messages, completion: str | Messages, end_ids: Collection[int]
) -> list[int]:
    """The tokens of a prompt and an answer, up to the end token, at which the reward stands.

    Raises:
        ConfigError: the chat template cannot read the messages.
    """
    if isinstance(prompt, str):
        if not isinstance(completion, str):
            raise bad_value("completion", completion, "a text, as the prompt is")
        ids = [token for part in _tokens(tokenizer, [prompt, completion], special=True) for token in part]
        return ids if ids and ids[-1] in end_ids else [*ids, tokenizer.eos_token_id]
    try:
        text = tokenizer.apply_chat_template([*prompt, *completion], tokenize=False)
    except Exception as error:  # whatever a chat template raises
        raise ConfigError(
            f"the chat template cannot read {prompt!r:.80}: {type(error).__name__}: {error}"
        ) from error
    ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    opening = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    start = len(tokenizer(opening, add_special_tokens=False)["input_ids"])
    last = max((k for k in range(start, len(ids)) if ids[k] in end_ids), default=len(ids) - 1)
    return ids[: last + 1]  # without the line break that many templates write after the end token


def rewards_of(model: Any, rows: Sequence[Sequence[int]], pad_token_id: int) -> torch.Tensor:
    """r of each row of token ids, [n], in one forward pass; float32, of a float64 model float64."""
    inner = base_model(model)
    width = max(map(len, rows))
    ids = torch.full(
        (len(rows), width), pad_token_id
    )  # [n, W] padded on the right: causal, so padding is unseen
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
    last = torch.tensor([len(row) - 1 for row in rows], device=model.device)  # [n]
    hidden = inner.base_model(input_ids=ids.to(model.device), use_cache=False).last_hidden_state  # [n, W, H]
    at_end = hidden[torch.arange(len(rows), device=model.device), last]  # [n, H]
    rewards = inner.score(at_end)[:, 0]  # [n]
    return rewards if rewards.dtype == torch.float64 else rewards.float()


@torch.no_grad()
def score_rows(
    model: Any, rows: Sequence[Sequence[int]], micro_batch_tokens: int | None, pad_token_id: int
) -> torch.Tensor:
    """r of each row of token ids, [N], on the CPU."""
    found = torch.zeros(len(rows), dtype=torch.float64)  # [N]
    budget = token_budget(micro_batch_tokens, model)
    for chosen in micro_batches([len(row) for row in rows], max_tokens=budget):
        found[chosen] = rewards_of(model, [rows[i] for i in chosen], pad_token_id).double().cpu()
    return found
