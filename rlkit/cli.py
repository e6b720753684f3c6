"""The command line: ``rlkit demo``, ``rlkit train``, ``rlkit doctor``, ``rlkit runs``.

What a user did wrong is printed in words, without a traceback, and the exit status is then 2.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rlkit.errors import RlkitError, bad_value

_TRAIN_EXAMPLE = """
example CONFIG.yaml:

  model: rlkit/tiny-arithmetic        # or a folder, or a Hub id
  task: arithmetic
  rewards: [number_found, correct_number]
  grpo: {loss_type: dr_grpo, learning_rate: 1e-4, max_completion_length: 4, max_steps: 20}
  seed: 0
  output_dir: runs/first

  rlkit train CONFIG.yaml grpo.learning_rate=3e-4 seed=1
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status (0 done, 1 the doctor found training impossible, 2 bad input)."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal without "→" gets "?", not a traceback
    parser = _parser()
    args = parser.parse_args(argv)
    try:
        return args.run(args)
    except RlkitError as error:
        print(f"rlkit: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("rlkit: interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    from rlkit import __version__

    parser = argparse.ArgumentParser(prog="rlkit", description="Reinforcement learning of language models.")
    parser.add_argument("--version", action="version", version=f"rlkit {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo = commands.add_parser(
        "demo", help="train the embedded model with GRPO, about two minutes on two cores"
    )
    demo.add_argument("--seed", type=int, default=0, help="of data order and sampling (default 0)")
    demo.add_argument("--output", default="runs/demo", help="run directory (default runs/demo)")
    demo.add_argument(
        "--engine", choices=("vllm", "hf"), help="generation engine; default: vLLM where it is installed"
    )
    demo.set_defaults(run=_demo)

    train = commands.add_parser(
        "train",
        help="run a YAML configuration",
        epilog=_TRAIN_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    train.add_argument("config", metavar="CONFIG.yaml")
    train.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="e.g. grpo.learning_rate=1e-5")
    train.set_defaults(run=_train)

    doctor = commands.add_parser(
        "doctor", help="what is installed, what runs here, what to do about the rest"
    )
    doctor.set_defaults(run=_doctor)

    runs = commands.add_parser("runs", help="look at run directories")
    actions = runs.add_subparsers(required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="all runs below a folder")
    listing.add_argument("root", nargs="?", default="runs")
    listing.set_defaults(run=_runs_list)
    show = actions.add_parser("show", help="one run: outcome, diagnoses, last steps")
    show.add_argument("path")
    show.set_defaults(run=_runs_show)
    report = actions.add_parser("report", help="write report.html, which opens without a server")
    report.add_argument("path")
    report.set_defaults(run=_runs_report)
    return parser


def _demo(args: argparse.Namespace) -> int:
    from rlkit.demo import run_demo

    fast_inference = {"vllm": True, "hf": False, None: None}[args.engine]
    run_demo(seed=args.seed, output_dir=args.output, fast_inference=fast_inference)
    return 0


def _train(args: argparse.Namespace) -> int:
    from rlkit.recipe import Recipe
    from rlkit.runs.report import headline

    recipe = Recipe.read(args.config, args.overrides)
    with recipe.trainer() as trainer:
        summary = trainer.train()
        report = trainer.report()
    print(headline(summary))
    print(f"run directory: {trainer.run_dir}   report: {report}")
    return 0


def _doctor(args: argparse.Namespace) -> int:
    from rlkit import doctor

    return doctor.main()


def _runs_list(args: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    from rlkit.runs import list_runs

    if args.root != "runs" and not Path(args.root).is_dir():
        raise bad_value("root", args.root, "a folder that holds run directories", "There is no such folder.")
    runs = list_runs(args.root)
    if not runs:
        print(f"no runs below {args.root!r}; 'rlkit demo' makes one")
        return 0
    table = Table("run", "status", "steps", "accuracy before → after", "seconds", box=None)
    for run in runs:
        summary = run.summary or {}
        accuracy = " → ".join(_two(summary.get(f"accuracy_{when}")) for when in ("before", "after"))
        table.add_row(
            str(run.path), run.status, str(len(run.steps)), accuracy, _two(summary.get("train_seconds"))
        )
    Console().print(table)
    return 0


def _runs_show(args: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    from rlkit.runs import Run
    from rlkit.runs.report import headline

    run = Run(args.path)
    print(f"{run.path}: {headline(run.summary, len(run.steps), run.status)}")
    for diagnosis in run.diagnose():
        print(f"  {diagnosis}")
    names = ("step", "reward", "accuracy", "loss", "grad_norm", "entropy", "dead_groups", "seconds/step")
    table = Table(*names, box=None)
    for metrics in run.metrics[-5:]:
        table.add_row(*(_two(metrics.get(name)) for name in names))
    Console().print(table)
    return 0


def _runs_report(args: argparse.Namespace) -> int:
    from rlkit.runs import Run

    print(Run(args.path).report())
    return 0


def _two(value: object) -> str:
    """A number with two decimals, anything else as it is."""
    return "–" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
