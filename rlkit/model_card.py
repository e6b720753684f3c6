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
    "max_grad_norm",
    "weight_decay",
)
_RESULTS = (  # name in summary.json, in words
    ("accuracy", "accuracy, greedy"),
    ("accuracy_sampled", "accuracy, sampled"),
    ("reward", "reward, greedy"),
    ("reward_sampled", "reward, sampled"),
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
            ``train_seconds``, ``engine``, ``weight_sync``, ``…_before`` and ``…_after``, ``versions``, ``device``.
            Whatever is missing is left out.
        adapter: the folder holds a LoRA adapter and not a whole model.
    """
    base, license_id = _base(about)
    algorithm = " ".join(str(about.get("algorithm") or "").split())
    front: dict[str, Any] = {"library_name": "peft" if adapter else "transformers"}
    if base:
        front["base_model"] = base
    if license_id:
        front["license"] = license_id
    tags = [
        "rlkit",
        "reinforcement-learning",
        algorithm.lower(),
        "lora" if adapter or about.get("lora") else "",
    ]
    front["tags"] = [tag for tag in tags if tag]
    front["pipeline_tag"] = "text-generation"
    what = "A LoRA adapter" if adapter else "A model"
    with_what = f" with {text(algorithm)}" if algorithm else ""
    on_what = f" from {code(base)}" if base else ""
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---\n",
        f"# {text(base.rpartition('/')[2] if base else 'Model')}{f', {text(algorithm)}' if algorithm else ''}\n",
        f"{what}, trained{with_what}{on_what} by rlkit.\n",
        *([f"{_NF4_NOTE}\n"] if about.get("merged") and about.get("load_in_4bit") else []),
        _section("Results on held-out data", _results(about)),
        _section("Training", _table(("", ""), _training(about))),
        _section("Rewards", _table(("function", "weight"), _rewards(about))),
        _section("Settings", _table(("setting", "value"), _settings(about))),
        _section("Load it", _loading(adapter, base)),
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
        before, after = about.get(f"{name}_before"), about.get(f"{name}_after")
        if before is not None or after is not None:
            rows.append((words, *("not measured" if v is None else _number(v) for v in (before, after))))
    table = _table(("", "before", "after"), rows)
    count = about.get("eval_n") or about.get("eval_rows")
    return f"{table}\n\nOn {_number(count)} held-out problems." if table and count else table


def _training(about: Mapping[str, Any]) -> list[tuple[str, str]]:
    lora = about.get("lora")
    adapter = (
        ", ".join(f"{name} = {value}" for name, value in lora.items()) if isinstance(lora, Mapping) else ""
    )
    columns = about.get("columns")
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
        "engine": about.get("engine"),
        "weights to the engine": about.get("weight_sync"),
        "device": about.get("device"),
    }
    return [(name, _number(value)) for name, value in facts.items() if value not in (None, "")]


def _rewards(about: Mapping[str, Any]) -> list[tuple[str, str]]:
    rewards = about.get("rewards")
    if isinstance(rewards, Mapping):
        return [(code(name), _number(weight)) for name, weight in rewards.items()]
    return [(code(name), "") for name in rewards] if isinstance(rewards, (list, tuple)) else []


def _settings(about: Mapping[str, Any]) -> list[tuple[str, str]]:
    section = about.get(str(about.get("algorithm") or "").lower())
    if not isinstance(section, Mapping):
        return []
    return [(code(name), text(section[name])) for name in SHOWN if section.get(name) is not None]


def _loading(adapter: bool, base: str) -> str:
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
