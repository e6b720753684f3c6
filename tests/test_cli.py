"""The command line: help, looking at runs, and a real training run. Bad input is in ``test_bad_input.py``."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from synthetic_run import write_run

import rlkit
from rlkit import cli
from rlkit.runs import Run, RunWriter
from rlkit.runs.report import headline

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = [
    ["demo"],
    ["train"],
    ["fetch"],
    ["export"],
    ["rewards"],
    ["rewards", "list"],
    ["rewards", "audit"],
    ["tasks"],
    ["tasks", "list"],
    ["tasks", "show"],
    ["doctor"],
    ["runs"],
    ["runs", "list"],
    ["runs", "show"],
    ["runs", "report"],
]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit status, output and errors of ``rlkit ARGUMENTS``."""
    capsys.readouterr()
    try:
        status = cli.main(arguments)
    except SystemExit as end:  # argparse's own way out
        status = end.code if isinstance(end.code, int) else 1
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    return status, out, err


def python(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    whole = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=whole, capture_output=True, text=True, timeout=120
    )


# --- help -------------------------------------------------------------------------------------------------


def commands(parser: argparse.ArgumentParser, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Every command and subcommand with its parser."""
    found = {path: parser} if path else {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, sub in action.choices.items():
                found |= commands(sub, (*path, name))
    return found


def test_the_list_of_commands_is_whole() -> None:
    assert sorted(commands(cli._parser())) == sorted(tuple(command) for command in COMMANDS)


@pytest.mark.parametrize("command", [[], *COMMANDS], ids=" ".join)
def test_help(capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    status, out, err = run(capsys, *command, "--help")
    assert (status, err) == (0, "")
    assert out.startswith(" ".join(["usage: rlkit", *command]))
    if not command:
        assert all(name in out for name in ("demo", "train", "doctor", "runs"))


def test_the_example_in_the_help_is_a_configuration_that_works() -> None:
    from rlkit.recipe import Recipe

    block = cli._TRAIN_EXAMPLE.partition("CONFIG.yaml:")[2].partition("rlkit train")[0]
    recipe = Recipe.from_dict(yaml.safe_load(block))
    assert recipe.args.learning_rate == 1e-4
    assert recipe.args.max_steps == 20


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--version")[:2] == (0, f"rlkit {rlkit.__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "COMMAND"),
        (["trian", "x.yaml"], "invalid choice: 'trian'"),
        (["train"], "CONFIG.yaml"),
        (["train", "x.yaml", "--grpo.max_steps=3"], "--grpo.max_steps=3"),
        (["demo", "--seed", "three"], "invalid int value: 'three'"),
        (["demo", "--engine", "tgi"], "invalid choice: 'tgi'"),
        (["runs"], "ACTION"),
        (["runs", "show"], "path"),
    ],
)
def test_wrong_arguments(capsys: pytest.CaptureFixture[str], arguments: list[str], says: str) -> None:
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert says in err and "usage: rlkit" in err


def test_ctrl_c_is_no_traceback(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import rlkit.doctor

    def interrupted() -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(rlkit.doctor, "main", interrupted)
    assert run(capsys, "doctor") == (130, "", "rlkit: interrupted\n")


# --- rlkit rewards, rlkit tasks ----------------------------------------------------------------------------


def test_rewards_and_tasks_are_listed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rlkit import rewards, tasks

    monkeypatch.setenv("COLUMNS", "160")
    for command, names in (("rewards", rewards.names()), ("tasks", tasks.names())):
        status, out, err = run(capsys, command, "list")
        assert (status, err) == (0, "")
        assert {*names} <= {line.split()[0] for line in out.splitlines()}
    assert all(name in run(capsys, "rewards", "list")[1] for name in ("email_rubric", "llm_judge"))


def test_an_audit_says_where_a_reward_would_be_hacked(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, "rewards", "audit", "number_found", "--task", "arithmetic", "--rows", "4")
    assert (status, err) == (1, "")
    assert "cannot tell right from wrong" in out and "every number listed" in out
    assert run(capsys, "rewards", "audit", "correct_number", "--task", "arithmetic")[0] == 0
    both = run(capsys, "rewards", "audit", "number_found", "correct_number", "--task", "arithmetic")
    assert both[0] == 0 and "number_found + correct_number" in both[1]
    assert run(capsys, "rewards", "audit", "email_rubric", "--task", "email", "--rows", "2")[0] in (0, 1)


def test_a_tasks_card(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, "tasks", "show", "arithmetic", "max_operand=19", "chat=true")
    assert (status, err) == (0, "")
    assert out.startswith("## Task arithmetic") and "Apache-2.0" in out and '"content"' not in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["rewards", "audit", "correct_nmber"], "Did you mean 'correct_number'"),
        (["rewards", "audit", "correct_number", "--model", "smollm2"], "--task"),
        (["rewards", "audit", "correct_equation", "--task", "arithmetic"], "'numbers'"),
        (["tasks", "show", "arithmetik"], "arithmetic"),
        (["tasks", "show", "arithmetic", "max=3"], "max_operand"),
        (["tasks", "show", "arithmetic", "3"], "key=value"),
    ],
)
def test_rewards_and_tasks_that_are_not_there(
    capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "") and says in err


# --- rlkit runs -------------------------------------------------------------------------------------------


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two runs, one finished and one that was killed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    write_run(tmp_path / "runs" / "first", steps=6)
    write_run(tmp_path / "runs" / "killed", steps=3, summary={})
    return tmp_path / "runs"


def test_list(capsys: pytest.CaptureFixture[str], runs: Path) -> None:
    for arguments in (["runs", "list"], ["runs", "list", str(runs)]):
        status, out, err = run(capsys, *arguments)
        assert (status, err) == (0, "")
        lines = {line.split()[0].rpartition("/")[2]: line for line in out.splitlines()}
        for word in ("finished", " 6 ", "0.52 → 0.93", "24.30"):
            assert word in lines["first"]
        for word in (Run(runs / "killed").status, " 3 ", "– → –"):
            assert word in lines["killed"]


def test_list_of_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, _ = run(capsys, "runs", "list")
    assert status == 0 and "no runs below 'runs'" in out and "rlkit demo" in out
    status, out, err = run(capsys, "runs", "list", "rnus")
    assert (status, out) == (2, "") and "root='rnus'" in err and "no such folder" in err


def test_show(capsys: pytest.CaptureFixture[str], runs: Path) -> None:
    status, out, err = run(capsys, "runs", "show", "runs/first")
    assert (status, err) == (0, "")
    one = Run(runs / "first")
    assert out.splitlines()[0] == f"runs/first: {headline(one.summary)}"
    for diagnosis in one.diagnose():
        assert str(diagnosis)[:60] in out
    table = [line.split() for line in out.splitlines()]
    assert [
        "step",
        "reward",
        "accuracy",
        "loss",
        "grad_norm",
        "entropy",
        "dead_groups",
        "seconds/step",
    ] in table
    steps = [line[0] for line in table if len(line) == 8 and line[0].isdigit()]
    assert steps == ["2", "3", "4", "5", "6"]  # the last five
    last = one.metrics[-1]
    assert f"{last['reward']:.2f}" in out and f"{last['grad_norm']:.2f}" in out


def test_show_a_run_that_was_killed_and_one_that_never_stepped(
    capsys: pytest.CaptureFixture[str], runs: Path
) -> None:
    status, out, _ = run(capsys, "runs", "show", "runs/killed")
    assert status == 0 and "3 steps" in out
    with RunWriter(runs / "new", config={"model": "rlkit/tiny-arithmetic"}):
        status, out, _ = run(capsys, "runs", "show", "runs/new")
        assert status == 0 and "0 steps" in out


def test_report(capsys: pytest.CaptureFixture[str], runs: Path) -> None:
    status, out, err = run(capsys, "runs", "report", "runs/first")
    assert (status, err) == (0, "")
    page = Path(out.strip())
    assert page.resolve() == (runs / "first" / "report.html").resolve()
    assert "0.93" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("action", ["show", "report"])
def test_something_that_is_no_run(capsys: pytest.CaptureFixture[str], runs: Path, action: str) -> None:
    (runs / "notes.txt").write_text("mine")
    (runs / "empty").mkdir()
    for path, says in (
        ("runs/fisrt", "no such directory"),
        ("runs", "Did you mean one of the runs below it: first, killed"),
        ("runs/empty", "config.json"),
        ("runs/notes.txt", "runs/notes.txt"),
    ):
        status, out, err = run(capsys, "runs", action, path)
        assert (status, out) == (2, "")
        assert err.startswith("rlkit: there is no run at") and path in err and says in err
    assert not list(runs.rglob("report.html"))


def test_a_terminal_that_knows_ascii_only(runs: Path) -> None:
    done = python("-m", "rlkit.cli", "runs", "show", "runs/first", cwd=runs.parent, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "held-out accuracy 0.52 ? 0.93" in done.stdout


# --- rlkit train, for real --------------------------------------------------------------------------------

CONFIG = {
    "model": "rlkit/tiny-arithmetic",
    "task": {"name": "arithmetic", "max_operand": 9},
    "rewards": ["number_found", {"name": "xml_format", "tags": ["answer"]}, "correct_number"],
    "seed": 3,
    "output_dir": "runs/first",
    "grpo": {
        "fast_inference": False,
        "max_steps": 5,
        "prompts_per_step": 2,
        "num_generations": 2,
        "num_generations_eval": 1,
        "max_completion_length": 4,
        "learning_rate": "1e-4",
    },
}


def test_train(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text(yaml.safe_dump(CONFIG))
    status, out, err = run(capsys, "train", "config.yaml", "grpo.max_steps=2", "grpo.learning_rate=3e-4")
    assert status == 0, err
    one = Run("runs/first")
    summary = json.loads(Path("runs/first/summary.json").read_text())
    assert summary["status"] == one.status == "finished"
    assert summary["steps"] == 2 and [line["step"] for line in one.metrics] == [1, 2]
    assert summary["seed"] == 3
    for name in (
        "accuracy_before",
        "accuracy_after",
        "train_seconds",
        "engine",
        "weight_sync",
        "versions",
        "device",
    ):
        assert summary[name] is not None, name
    assert one.config["grpo"]["learning_rate"] == 3e-4  # the override
    assert one.config["grpo"]["prompts_per_step"] == 2  # the file
    assert list(one.config["rewards"]) == ["number_found", "xml_format_answer", "correct_number"]
    assert len(one.samples(2)) == 4

    lines = out.splitlines()
    assert "2 prompts a step × 2 completions = 4 rows a step: 2 steps" in lines[0]
    assert summary["engine"] in lines[1] and summary["weight_sync"] in lines[1]
    assert headline(summary) in lines
    assert "(2 steps, " in headline(summary)
    assert Path("runs/first/report.html").is_file() and "report.html" in lines[-1]
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(os.listdir("runs/first/model"))

    # What was trained can be trained on, from the folder; the older run is moved aside, not overwritten.
    status, out, err = run(
        capsys, "train", "config.yaml", "grpo.max_steps=1", "model=runs/first/model", "seed=4"
    )
    assert status == 0, err
    assert Run("runs/first").summary["steps"] == 1
    assert Run("runs/first.old-1").summary == summary


def test_the_same_seed_gives_the_same_numbers(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text(yaml.safe_dump(CONFIG))
    told = {}
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        status, _, err = run(
            capsys, "train", "config.yaml", "grpo.max_steps=2", f"seed={seed}", f"output_dir=runs/{name}"
        )
        assert status == 0, err
        one = Run(f"runs/{name}")
        told[name] = [
            [(s["prompt"], s["completion"], s["reward"]) for s in one.samples(step)] for step in (1, 2)
        ]
        told[name].append([(m["loss"], m["grad_norm"]) for m in one.metrics])
    assert told["a"] == told["b"]
    assert told["a"] != told["c"]


# --- a run that was stopped, an adapter, a warm start -----------------------------------------------------

# A reward function that stops the training by Ctrl-C when it is called for the n-th time.
TIRED = """
calls, last = 0, None
def tired(completions, **columns):
    global calls
    calls += 1
    if calls == last:
        raise KeyboardInterrupt
    return [float(len(text) % 3) for text in completions]
"""


@pytest.fixture
def tired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder with a module ``tired_rewards``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "tired_rewards", raising=False)
    Path("tired_rewards.py").write_text(TIRED)


def test_resume(capsys: pytest.CaptureFixture[str], tired: None) -> None:
    """A run stopped in the middle of a step goes on as if nothing had happened."""
    config = {**CONFIG, "rewards": ["tired_rewards:tired"], "lora": {"r": 4}}
    config["grpo"] = {**CONFIG["grpo"], "probe_prompts": 0, "save_steps": 1, "disable_tqdm": True}
    Path("config.yaml").write_text(yaml.safe_dump(config))
    status, _, err = run(capsys, "train", "config.yaml", "output_dir=runs/whole")
    assert status == 0, err

    import tired_rewards

    tired_rewards.calls, tired_rewards.last = 0, 6  # a trial, two evaluations, and the third step
    status, out, err = run(capsys, "train", "config.yaml", "output_dir=runs/stopped")
    assert status == 0 and "interrupted by hand" in out, err
    stopped = Run("runs/stopped")
    done = len(stopped.steps)
    assert 1 <= done < 5 and stopped.summary["status"].startswith("stopped")

    tired_rewards.last = None
    status, out, err = run(capsys, "train", "config.yaml", "output_dir=runs/stopped", "--resume")
    assert status == 0, err
    assert f"resumed runs/stopped after step {done}" in out
    told = []
    for name in ("whole", "stopped"):
        one = Run(f"runs/{name}")
        assert one.status == "finished" and [line["step"] for line in one.metrics] == [1, 2, 3, 4, 5]
        told.append([(line["loss"], line["grad_norm"], line["reward"]) for line in one.metrics])
        told[-1].append([(s["prompt"], s["completion"], s["reward"]) for s in one.samples(5)])
    assert told[0] == told[1]
    assert not list(Path("runs").glob("stopped.old*"))

    # Another setting is another run, and a run that is not there simply begins.
    status, _, err = run(
        capsys, "train", "config.yaml", "output_dir=runs/stopped", "grpo.learning_rate=1", "--resume"
    )
    assert status == 2 and "learning_rate: 0.0001 → 1" in err
    status, out, err = run(
        capsys, "train", "config.yaml", "output_dir=runs/new", "grpo.max_steps=1", "--resume"
    )
    assert status == 0 and "there is no run in runs/new yet" in out, err


def test_a_warm_start_then_an_adapter_then_export(capsys: pytest.CaptureFixture[str], tired: None) -> None:
    import torch

    from rlkit import load_model
    from rlkit.adapters import is_adapter_model

    warm = {"model": "rlkit/tiny-arithmetic", "task": CONFIG["task"], "output_dir": "runs/sft"}
    warm["sft"] = {"max_steps": 2, "rows_per_step": 4, "learning_rate": 1e-3}
    Path("warm.yaml").write_text(yaml.safe_dump(warm))
    status, out, err = run(capsys, "train", "warm.yaml")
    assert status == 0, err
    assert "4 rows a step: 2 steps" in out and "run directory: runs/sft" in out
    assert Run("runs/sft").status == "finished" and Run("runs/sft").config["algorithm"] == "SFT"
    assert run(capsys, "runs", "show", "runs/sft")[0] == 0

    config = {**CONFIG, "model": "runs/sft/model", "lora": {"r": 4}, "rewards": "tired_rewards:tired"}
    Path("config.yaml").write_text(yaml.safe_dump({**config, "output_dir": "runs/lora"}))
    status, _, err = run(capsys, "train", "config.yaml", "grpo.learning_rate=1e-2", "grpo.prompts_per_step=4")
    assert status == 0, err

    exports = {"whole": ["runs/sft"], "adapter": ["runs/lora"], "merged": ["runs/lora", "--merged"]}
    for name, (path, *flags) in exports.items():
        status, out, err = run(capsys, "export", path, f"out/{name}", *flags)
        assert (status, out, err) == (0, f"written: out/{name}\n", "")
        assert "rlkit" in Path(f"out/{name}/README.md").read_text()
    models = {name: load_model(f"out/{name}")[0] for name in exports}
    assert [is_adapter_model(models[name]) for name in exports] == [False, True, False]
    ids = torch.arange(5, 15)[None]  # [1, 10]
    logits = {name: model(ids).logits for name, model in models.items()}
    assert torch.equal(logits["whole"], load_model("runs/sft/model")[0](ids).logits)
    assert torch.equal(logits["adapter"], load_model("runs/lora/model")[0](ids).logits)
    torch.testing.assert_close(logits["merged"], logits["adapter"], rtol=1e-4, atol=1e-4)
    assert (logits["merged"] - logits["whole"]).abs().max() > 1e-3  # it has learned something

    # An older export is replaced; a folder with anything else in it never is.
    assert run(capsys, "export", "runs/lora", "out/whole")[0] == 0
    assert is_adapter_model(load_model("out/whole")[0])
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("mine")
    for output, says in (
        ("mine", "It holds notes.txt"),
        (".", "what is to be exported"),
        ("runs", "what is to be exported"),
        ("runs/lora/model", "what is to be exported"),
        ("runs/sft", "metrics.jsonl"),
        ("mine/notes.txt", "a file of that name"),
    ):
        before = sorted(Path().rglob("*"))
        status, out, err = run(capsys, "export", "runs/lora", output)
        assert (status, out) == (2, "") and says in err, output
        assert sorted(Path().rglob("*")) == before


def test_what_cannot_be_exported(capsys: pytest.CaptureFixture[str], runs: Path) -> None:
    tiny = "rlkit/tiny-arithmetic"
    for arguments, says in (
        (["runs/first", "out"], "the run in runs/first has no model"),
        (["runs/fisrt", "out"], "Did you mean first"),
        ([tiny, "out", "--merged"], "no adapter to merge"),
    ):
        status, out, err = run(capsys, "export", *arguments)
        assert (status, out) == (2, "") and err.startswith("rlkit: ") and says in err
    saved = runs / "first" / "checkpoints" / "step_000004" / "model"
    saved.mkdir(parents=True)
    assert (
        "rlkit export runs/first/checkpoints/step_000004/model out"
        in run(capsys, "export", "runs/first", "out")[2]
    )
    assert not Path("out").exists()


# --- rlkit fetch ------------------------------------------------------------------------------------------


def test_fetch_lists_and_knows_what_is_here(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real download is in ``test_fetch.py``, from an index that is a folder."""
    from rlkit.fetching import available

    monkeypatch.setenv("RLKIT_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    status, out, err = run(capsys, "fetch")
    assert (status, err) == (0, "") and len(out.splitlines()) == len(available())
    for word in ("smollm2-135m-instruct (or smollm2)", "Apache-2.0", "93 MB to fetch, 542 MB on disk"):
        assert word in out
    assert "fetched already" not in out

    status, out, err = run(capsys, "fetch", "nonsense")
    assert (status, out) == (2, "")
    assert "unknown model to fetch 'nonsense'" in err and "smollm2, smollm2-135m-instruct" in err
    assert "Did you mean 'smollm2'" in run(capsys, "fetch", "smolm2")[2]

    folder = tmp_path / "models" / "smollm2-135m-instruct"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    assert run(capsys, "fetch")[1].rstrip().endswith("fetched already")
    status, out, err = run(capsys, "fetch", "smollm2")
    assert (status, err) == (0, "")
    assert f"already in {folder}" in out and f"load_model('smollm2') finds it now: {folder}" in out
