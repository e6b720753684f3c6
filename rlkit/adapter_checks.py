"""What an adapter may be: LoRA as the engine can run it, on linear layers of the blocks, within the engine's room."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from rlkit.errors import ConfigError, bad_value

# How an adapter may start without changing the base's weights, which the engine has from the base itself.
_INITS = (True, False, "gaussian", "orthogonal", "eva")
DROPOUT = "The policy that samples must be the policy that is trained; dropout would make them two."
# Settings of peft.LoraConfig that must be unset, and why.
_REFUSED = {
    "modules_to_save": "Whole modules are no adapter: the engine takes LoRA matrices only, and samples without them.",
    "use_dora": "vLLM does not run DoRA.",
    "lora_bias": "vLLM does not run biases in an adapter.",
    "layer_replication": "vLLM does not run replicated layers.",
    "alora_invocation_tokens": "vLLM does not run activated LoRA.",
    "use_bdlora": "vLLM does not run block-diagonal LoRA.",
    "use_qalora": "vLLM does not run QALoRA.",
    "trainable_token_indices": "Embedding rows are no adapter: the engine takes LoRA matrices only.",
    "target_parameters": "Adapters on bare parameters are not synchronised to the engine.",
    "velora_config": "Only plain LoRA is held to the engine.",
    "monteclora_config": "Only plain LoRA is held to the engine.",
    "arrow_config": "Only plain LoRA is held to the engine.",
    "kasa_config": "Only plain LoRA is held to the engine.",
}


def check_numbers(r: Any, lora_alpha: Any, lora_dropout: Any, seed: Any) -> None:
    """Refuse numbers that cannot be meant, and any dropout."""
    if not (isinstance(r, int) and not isinstance(r, bool) and r >= 1):
        raise bad_value("r", r, "a whole number from 1 on")
    number = isinstance(lora_alpha, (int, float)) and not isinstance(lora_alpha, bool)
    if not (number and math.isfinite(lora_alpha) and lora_alpha > 0):
        raise bad_value("lora_alpha", lora_alpha, "a number above 0")
    if lora_dropout != 0:
        raise bad_value("lora_dropout", lora_dropout, "0", DROPOUT)
    if not (isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed < 2**63):
        raise bad_value("seed", seed, "a whole number from 0 on")


def check_config(config: Any) -> None:
    """Refuse what is no LoRA, or a kind of LoRA that the engine cannot run."""
    from peft import LoraConfig

    kind = getattr(config, "peft_type", None)
    name = getattr(kind, "value", type(config).__name__)
    if getattr(config, "is_prompt_learning", False):
        cause = (
            "Prompt learning puts invented tokens before the prompt, which the engine cannot sample after."
        )
        raise bad_value("peft_config", name, "a peft.LoraConfig", cause)
    if type(config) is not LoraConfig:
        raise bad_value("peft_config", name, "a peft.LoraConfig", "The engine takes LoRA adapters only.")
    check_numbers(config.r, config.lora_alpha, config.lora_dropout, 0)
    for setting, cause in _REFUSED.items():
        if value := getattr(config, setting, None):
            raise bad_value(setting, value, "leave it out", cause)
    if config.bias != "none":
        raise bad_value("bias", config.bias, "'none'", "The engine takes LoRA matrices only.")
    if config.init_lora_weights not in _INITS:
        cause = (
            "It changes the weights of the base, which engine and reference policy have without that change."
        )
        raise bad_value(
            "init_lora_weights", config.init_lora_weights, "True, 'gaussian' or 'orthogonal'", cause
        )


def check_rank(model: Any, config: Any) -> None:
    """Compare the largest rank with the room that ``load_model`` was told of."""
    from rlkit.models import MAX_LORA_RANK

    rank = max([config.r, *config.rank_pattern.values()])
    room = getattr(model, "rlkit_max_lora_rank", None)
    if rank > (room or MAX_LORA_RANK):
        cause = "load_model(…, max_lora_rank=…) makes more room." if room else "vLLM has no room for more."
        raise bad_value("r", rank, f"at most {room or MAX_LORA_RANK}", cause)


def choose_targets(model: Any, config: Any) -> None:
    """Fill in the default targets; refuse those that are not there, not linear, or the head. Before peft acts."""
    from peft.tuners.tuners_utils import check_target_module_exists

    linear = {
        path.rpartition(".")[2]
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear) and any(part.isdigit() for part in path.split(".")[:-1])
    }  # inside a numbered block: neither head nor embeddings
    known = ", ".join(sorted(linear))
    if not linear:
        raise ConfigError(f"{type(model).__name__} has no linear layers in its blocks for LoRA to go on")
    if config.target_modules is None or config.target_modules == "all-linear":
        config.target_modules = linear
    shown = sorted(config.target_modules) if isinstance(config.target_modules, set) else config.target_modules
    hit = [
        (path, module) for path, module in model.named_modules() if check_target_module_exists(config, path)
    ]
    if isinstance(config.target_modules, set):
        idle = [name for name in shown if not any(p == name or p.endswith(f".{name}") for p, _ in hit)]
        if idle:
            raise bad_value(
                "target_modules", shown, f"names among {known}", f"The model has no {', '.join(idle)}."
            )
    if not hit:
        raise bad_value(
            "target_modules", shown, f"names among {known}", "Nothing in the model has such a name."
        )
    ends = (model.get_output_embeddings(), model.get_input_embeddings())
    for path, module in hit:
        if any(module is end for end in ends):
            cause = f"{path} is the output head or the embedding; log-probabilities need a plain head."
            raise bad_value("target_modules", shown, f"names among {known}", cause)
        if not isinstance(module, nn.Linear):
            cause = f"{path} is a {type(module).__name__}, not a linear layer."
            raise bad_value("target_modules", shown, f"names among {known}", cause)
