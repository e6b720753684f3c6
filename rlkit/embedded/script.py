"""The command line that builds an embedded model."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rlkit.embedded.styles import TINY_STYLES
from rlkit.embedded.sums import TINY_ARITHMETIC

MODELS = {model.name.removeprefix("rlkit/"): model for model in (TINY_ARITHMETIC, TINY_STYLES)}


def main(arguments: list[str] | None = None) -> None:
    """Build an embedded model from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m rlkit.embedded",
        description="Build an embedded model: tiny-arithmetic, pretrained on sums with a popular misconception, or "
        "tiny-styles, on sums that are answered in four styles.",
    )
    parser.add_argument(
        "--model", choices=list(MODELS), default="tiny-arithmetic", help="which (%(default)s)"
    )
    parser.add_argument("--output", type=Path, help="folder to write (the model's name)")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and corpus (%(default)s)")
    parser.add_argument("--steps", type=int, help="pretraining steps (the model's own number)")
    options = parser.parse_args(arguments)
    if options.steps is not None and options.steps < 1:
        parser.error(f"--steps must be at least 1, found {options.steps}")
    output = options.output or Path(options.model)
    provenance = MODELS[options.model].build(output, options.seed, options.steps, progress=True)
    print(json.dumps(provenance, indent=2))
