"""A reward model: a transformers backbone with one number as its head, read at the last token.

    r(prompt, answer) = w · h_last        h_last [H]: the hidden state of the row's last token, its end token

It is transformers' …ForSequenceClassification with one label, so that others can load what is saved; how it reads and
scores is in ``reward_rows``.
"""

from __future__ import annotations

import copy
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rlkit.adapters import CONFIG as ADAPTER_CONFIG
from rlkit.adapters import adapter_summary, base_model, base_of, is_adapter_model
from rlkit.errors import ConfigError, RewardError, bad_value
from rlkit.export import merged_model, write_model_card, written_whole
from rlkit.hub import quiet_transformers
from rlkit.quantised import is_nf4
from rlkit.trainers.reward_rows import check_reward_model, end_ids_of, read_row, score_rows
from rlkit.trainers.weights import fingerprint, save_weights

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
        lora: freeze the backbone, which may be in 4 bits, and train a LoRA adapter and the head. These two are what is
            saved: the backbone is loaded by its name again, in full precision, so it must be there as it is.
        seed: of the head's random numbers, which have a standard deviation of 1/√(H + 1) (Stiennon et al. 2020).
        lora_settings: of ``peft.LoraConfig``: ``r``, ``lora_alpha``, ``target_modules``, …

    Raises:
        ConfigError: no such model, no tokenizer, LoRA settings without ``lora=True``, 4 bits without it, or an adapter
            model with it.
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
    if lora and policy is not model and not isinstance(model, (str, os.PathLike)):
        raise ConfigError(
            "lora=True on a model with an adapter: the new adapter would be saved with the old one's base, without the "
            "old one. Merge first (rlkit export --merged) and give the name of that folder, or lora=False"
        )
    if is_nf4(policy) and not lora:
        raise ConfigError(
            f"the {type(policy).__name__} was loaded in 4 bits, which cannot be trained themselves. Give lora=True"
        )
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
    for parameter in made.parameters():
        parameter.requires_grad_(parameter.is_floating_point())  # not what is packed in 4 bits
    if is_nf4(policy):
        made.is_loaded_in_4bit = True
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
            _check_base(model, about.get("base"), path)
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
    model: Any,
    tokenizer: Any,
    folder: str | os.PathLike[str],
    mean: float = 0.0,
    std: float = 1.0,
    about: Mapping[str, Any] | None = None,
) -> Path:
    """Write a reward model's folder, its card among it; whole or not at all. ``about``: more facts for the card."""
    facts = {
        "algorithm": "reward model",
        "model": model.name_or_path,
        "lora": adapter_summary(model),
        "mean": mean,
        "std": std,
        **(about or {}),
    }
    with written_whole(folder) as partial:
        save_weights(partial, model)
        tokenizer.save_pretrained(partial)
        numbers = {"mean": mean, "std": std, "base": _base_digest(model)}
        (partial / _ABOUT).write_text(json.dumps(numbers) + "\n", encoding="utf-8")
        write_model_card(partial, facts)
    return Path(folder)


def _base_digest(model: Any) -> str | None:
    """A digest of an adapter's base; None without an adapter, or of a base in 4 bits, which is loaded in full."""
    if not is_adapter_model(model) or is_nf4(model):
        return None
    return f"{model.dtype} {fingerprint(model, frozen_only=True)}"


def _check_base(model: Any, saved: str | None, folder: Path) -> None:
    """Refuse an adapter on another base than it was trained on: its rewards would mean nothing."""
    found = _base_digest(model)
    if saved is None or found is None or saved.split()[0] != found.split()[0] or saved == found:
        return  # another type has another digest
    raise ConfigError(
        f"the adapter in {folder} was trained on other weights than {base_of(folder)!r} has now. Was that model "
        "trained in memory before? Save it (save_model) and make the reward model from the folder's name"
    )


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
    from rlkit.adapters import loadable_name, own_generator

    given = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.0, **settings}
    config = LoraConfig(**given, task_type="SEQ_CLS", modules_to_save=["score"])
    choose_targets(model, config)
    base = loadable_name(model.name_or_path)
    with own_generator(model, seed):
        adapted = get_peft_model(model, config)
    adapted.peft_config["default"].base_model_name_or_path = base
    return adapted.eval()
