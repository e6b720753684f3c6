"""The card of a trained model, ``README.md``: what was trained, on what, with which results, how to load it.

Every text that comes from a run (reward names, data columns, error messages) is written so that Markdown and YAML
show it and do not act on it.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

# The settings that a reader asks for first, in this order; the run's config.json has the rest.
SHOWN = (
    "loss_type",
    "scale_rewards",
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "max_steps",
    "num_train_epochs",
    "prompts_per_step",
    "num_generations",
    "num_iterations",
    "max_completion_length",
    "temperature",
    "beta",
    "epsilon",
    "epsilon_high",
    # of PPO
    "num_ppo_epochs",
    "num_mini_batches",
    "cliprange",
    "cliprange_value",
    "vf_coef",
    "value_learning_rate",
    "gamma",
    "lam",
    "whiten_rewards",
    "whiten_advantages",
    "kl_coef",
    "kl_penalty",
    "kl_estimator",
    "kl_target",
    "kl_horizon",
    "missing_eos_penalty",
    "bootstrap_truncated",
    # of the warm start and the reward model
    "rows_per_step",
    "max_length",
    "center_rewards_coefficient",
    "max_grad_norm",
    "weight_decay",
)
_REWARD_MODEL = "reward model"  # what its runs say under "algorithm"
_RESULTS = (  # name in summary.json, in words
    ("accuracy", "accuracy, greedy"),
    ("accuracy_sampled", "accuracy, sampled"),
    ("reward", "reward, greedy"),
    ("reward_sampled", "reward, sampled"),
    ("loss", "loss, nats"),
    ("perplexity", "perplexity"),
    ("calibration_error", "calibration error"),
)
_JUDGES = (
    "It gives an answer one number; that one answer is preferred to another has the probability σ(difference of their "
    "two numbers). Only differences mean anything.\n"
)
_TRUST = (
    "This holds for answers like those that it was trained on. A policy that is trained on this model moves away from "
    "them: keep it near with a KL term, and compare with something that the policy is not trained on."
)
_NF4_NOTE = (
    "The adapter was trained on a base held in 4 bits (NF4) and merged into the dequantised base: these weights are "
    "near those of the model that was trained, and not bit-identical to them."
)


def model_card(about: Mapping[str, Any], adapter: bool = False) -> str:
    """The card as Markdown with YAML front matter.

    Args:
        about: the run's ``config.json`` and ``summary.json`` in one mapping (``{**config, **summary}``). Read are
            ``algorithm``, ``model``, ``license``, ``parameters``, ``dtype``, ``train_rows``, ``eval_rows``, ``eval_n``,
            ``dataset``, ``columns``, ``rewards`` (name: weight), ``lora`` (mapping), ``load_in_4bit``, ``merged``,
            the section of settings named after the algorithm (``grpo``), ``steps``, ``status``, ``seed``,
            ``train_seconds``, ``engine``, ``weight_sync``, ``…_before`` and ``…_after``, ``versions``, ``device``;
            of PPO also ``value_model`` and ``reward_models`` (name of the reward: base it was trained from); of a
            reward model ``report``, ``calibration``, ``mean`` and ``std``. Whatever is missing is left out.
        adapter: the folder holds a LoRA adapter and not a whole model.
    """
    base, license_id = _base(about)
    algorithm = " ".join(str(about.get("algorithm") or "").split())
    front: dict[str, Any] = {"library_name": "peft" if adapter else "transformers"}
    if base:
        front["base_model"] = base
    if license_id:
        front["license"] = license_id
    judges = algorithm == _REWARD_MODEL
    tags = [
        "rlkit",
        "" if judges or algorithm == "SFT" else "reinforcement-learning",
        algorithm.lower().replace(" ", "-"),
        "lora" if adapter or about.get("lora") else "",
    ]
    front["tags"] = [tag for tag in tags if tag]
    front["pipeline_tag"] = "text-classification" if judges else "text-generation"
    kind = "reward model" if judges else "model"
    what = f"A LoRA adapter{' of a reward model' if judges else ''}" if adapter else f"A {kind}"
    with_what = f" with {text(algorithm)}" if algorithm and not judges else ""
    on_what = f" from {code(base)}" if base else ""
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---\n",
        f"# {text(base.rpartition('/')[2] if base else 'Model')}{f', {text(algorithm)}' if algorithm else ''}\n",
        f"{what}, trained{with_what}{on_what} by rlkit.\n",
        *([f"{_NF4_NOTE}\n"] if about.get("merged") and about.get("load_in_4bit") else []),
        *([_JUDGES] if judges else []),
        _section("Results on held-out data", _results(about)),
        _section("How far to trust it", _trust(about)),
        _section("Training", _table(("", ""), _training(about))),
        _section("Rewards", _table(*_rewards(about))),
        _section("Settings", _table(("setting", "value"), _settings(about))),
        _section("Load it", _loading_a_judge(adapter) if judges else _loading(adapter)),
        _section("Versions", _table(("package", "version"), _pairs(about.get("versions")))),
    ]
    return "\n".join(part for part in parts if part)


# --- text from elsewhere ------------------------------------------------------------------------------------


def text(value: Any) -> str:
    """``value`` on one line, with all that Markdown or HTML would act on escaped."""
    flat = " ".join(str(value).split())
    flat = flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~$])", r"\\\1", flat)


def code(value: Any) -> str:
    """``value`` as inline code: fenced by more backticks than it holds; pipes escaped, as tables want it."""
    flat = " ".join(str(value).split()).replace("|", "\\|")
    fence = "`" * (max((len(run) for run in re.findall("`+", flat)), default=0) + 1)
    pad = " " if flat.startswith("`") or flat.endswith("`") else ""
    return f"{fence}{pad}{flat}{pad}{fence}" if flat else ""


def _number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return text(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if math.isfinite(value) else str(value)


# --- the sections -------------------------------------------------------------------------------------------


def _section(title: str, body: str) -> str:
    return f"## {title}\n\n{body}\n" if body else ""


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    rule = "|" + "---|" * len(head)
    return "\n".join([f"| {' | '.join(head)} |", rule, *lines]) if lines else ""


def _pairs(mapping: Any) -> list[tuple[str, str]]:
    if not isinstance(mapping, Mapping):
        return []
    return [(code(name), text(value)) for name, value in mapping.items() if value is not None]


def _base(about: Mapping[str, Any]) -> tuple[str, str]:
    """(base model without anyone's folders, licence where it is known)."""
    from rlkit.fetchable import lookup

    # On one line: a line of dashes would end the front matter.
    name, license_id = (" ".join(str(about.get(key) or "").split()) for key in ("model", "license"))
    if entry := lookup(Path(name).name):
        return entry.origin, license_id or entry.license.lower()
    if name.startswith("rlkit/"):
        return name, license_id or "apache-2.0"
    if os.path.isabs(name) or name.startswith((".", "~")) or "\\" in name:
        name = re.split(r"[\\/]", name.rstrip("\\/"))[-1]
    return name, license_id


def _results(about: Mapping[str, Any]) -> str:
    rows = []
    for name, words in _RESULTS:
        if about.get("algorithm") == _REWARD_MODEL:  # which generates nothing, greedily or otherwise
            words = words.removesuffix(", greedy")
        before, after = about.get(f"{name}_before"), about.get(f"{name}_after")
        if before is not None or after is not None:
            rows.append((words, *("not measured" if v is None else _number(v) for v in (before, after))))
    table = _table(("", "before", "after"), rows)
    count = about.get("eval_n") or about.get("eval_rows")
    kind = {_REWARD_MODEL: "pairs of answers", "SFT": "rows"}.get(str(about.get("algorithm")), "problems")
    return f"{table}\n\nOn {_number(count)} held-out {kind}." if table and count else table


def _trust(about: Mapping[str, Any]) -> str:
    """What a reward model's last evaluation says in words, and its calibration as a table."""
    said, bins = about.get("report"), about.get("calibration")
    if about.get("algorithm") != _REWARD_MODEL or not isinstance(said, str):
        return ""
    parts = ["\n".join(f"- {text(line)}" for line in said.splitlines() if line and not line.startswith(" "))]
    if isinstance(bins, (list, tuple)):
        rows = [
            (f"{one['low']:.0%} to {one['high']:.0%}", _number(one["pairs"]), f"{one['accuracy']:.0%}")
            for one in bins
            if isinstance(one, Mapping) and {"low", "high", "pairs", "accuracy"} <= one.keys()
        ]
        parts.append(_table(("it says", "pairs", "came true"), rows))
    parts.append(_TRUST)
    return "\n\n".join(part for part in parts if part)


def _training(about: Mapping[str, Any]) -> list[tuple[str, str]]:
    lora = about.get("lora")
    adapter = (
        ", ".join(f"{name} = {value}" for name, value in lora.items()) if isinstance(lora, Mapping) else ""
    )
    columns, value = about.get("columns"), about.get("value_model")
    mean, std = about.get("mean"), about.get("std")
    facts: dict[str, Any] = {
        "algorithm": about.get("algorithm"),
        "parameters": about.get("parameters"),
        "dtype": about.get("dtype"),
        "adapter": f"LoRA, {adapter}" if adapter else None,
        "base held in": "4 bits (NF4)" if about.get("load_in_4bit") else None,
        "data": about.get("dataset"),
        "columns": ", ".join(map(str, columns)) if isinstance(columns, (list, tuple)) else columns,
        "rows trained on": about.get("train_rows"),
        "rows held out": about.get("eval_rows"),
        "steps": about.get("steps"),
        "status": about.get("status"),
        "seconds": about.get("train_seconds"),
        "seed": about.get("seed"),
        "value model": value.get("kind") if isinstance(value, Mapping) else None,
        "mean and standard deviation taken out": f"{_number(mean)}, {_number(std)}"
        if mean is not None and std is not None and (mean, std) != (0.0, 1.0)
        else None,
        "engine": about.get("engine"),
        "weights to the engine": about.get("weight_sync"),
        "device": about.get("device"),
    }
    return [(name, _number(value)) for name, value in facts.items() if value not in (None, "")]


def _rewards(about: Mapping[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Head and rows: each function's weight, and of a reward model what it was trained from."""
    rewards, models = about.get("rewards"), about.get("reward_models")
    models = models if isinstance(models, Mapping) else {}
    if isinstance(rewards, Mapping):
        weights = {
            name: f"{_number(w)}{' (only looked at)' if w == 0 else ''}" for name, w in rewards.items()
        }
    else:
        weights = dict.fromkeys(rewards if isinstance(rewards, (list, tuple)) else (), "")
    if not models:
        return ("function", "weight"), [(code(name), weight) for name, weight in weights.items()]
    rows: list[tuple[str, ...]] = [
        (code(name), weight, code(_base({"model": models[name]})[0]) if name in models else "")
        for name, weight in weights.items()
    ]
    return ("function", "weight", "a reward model, trained from"), rows


def _settings(about: Mapping[str, Any]) -> list[tuple[str, str]]:
    section = about.get(str(about.get("algorithm") or "").lower().replace(" ", "_"))
    if not isinstance(section, Mapping):
        return []
    return [(code(name), text(section[name])) for name in SHOWN if section.get(name) is not None]


def _loading(adapter: bool) -> str:
    ours = 'from rlkit import load_model\n\nmodel, tokenizer = load_model("path/to/this/folder")'
    if adapter:
        plain = (
            "from peft import AutoPeftModelForCausalLM\n\n"
            'model = AutoPeftModelForCausalLM.from_pretrained("path/to/this/folder")'
        )
        who = "With transformers and peft alone (the base is where `adapter_config.json` says):"
    else:
        plain = (
            "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            'model = AutoModelForCausalLM.from_pretrained("path/to/this/folder")\n'
            'tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")'
        )
        who = "With transformers alone:"
    return f"```python\n{ours}\n```\n\n{who}\n\n```python\n{plain}\n```"


def _loading_a_judge(adapter: bool) -> str:
    ours = (
        "from rlkit import load_reward_model\n\n"
        'reward = load_reward_model("path/to/this/folder")\n'
        'reward.score(["17+25="], ["42"])  # and as it is: PPOTrainer(model, reward_funcs=[reward], …)'
    )
    row = (
        'row = tokenizer("17+25=42" + tokenizer.eos_token, return_tensors="pt")  # prompt, answer, end token\n'
        "score = model(**row).logits[0, 0]  # one row at a time: with padding, another token than the last may be read"
    )
    tokenizer = 'tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")\n'
    if adapter:
        plain = (
            "from peft import AutoPeftModelForSequenceClassification\nfrom transformers import AutoTokenizer\n\n"
            'model = AutoPeftModelForSequenceClassification.from_pretrained("path/to/this/folder", num_labels=1)\n'
        )
    else:
        plain = (
            "from transformers import AutoModelForSequenceClassification, AutoTokenizer\n\n"
            'model = AutoModelForSequenceClassification.from_pretrained("path/to/this/folder")\n'
        )
    plain += tokenizer + row
    who = (
        "With transformers and peft alone:"
        if adapter
        else "With transformers alone, where it knows this architecture:"
    )
    return f"```python\n{ours}\n```\n\n{who}\n\n```python\n{plain}\n```"
