"""What the README says is what the files say."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from rlkit.runs import Run

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
RESULTS = "benchmarks/results"
PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "notebooks/README.md",
    f"{RESULTS}/ppo/README.md",
    f"{RESULTS}/patience/README.md",
    f"{RESULTS}/rlhf/README.md",
    f"{RESULTS}/dashboard/README.md",
    "notebooks/widgets.md",
    "notebooks/INSTRUCTOR.md",
)


def test_the_learning_table_is_that_of_the_recorded_runs():
    from benchmarks.learning import markdown_table

    assert markdown_table() in README


def test_the_benchmark_table_is_that_of_the_results_file():
    from benchmarks._report import RESULTS, markdown_table

    assert markdown_table(RESULTS / "cpu.json") in README


def test_the_smollm2_table_is_that_of_the_recorded_runs():
    from benchmarks.smollm2 import markdown_table

    assert markdown_table() in README


def test_the_tables_of_ppo_rlhf_and_patience_are_those_of_the_recorded_runs():
    from benchmarks import patience, ppo, ppo_smollm2, rlhf

    ppo_page, patience_page, rlhf_page = ((ROOT / page).read_text() for page in PAGES[3:6])
    assert ppo.markdown_table() in README
    assert ppo.markdown_table() in ppo_page and ppo.memory_table() in ppo_page
    assert ppo_smollm2.markdown_table() in ppo_page
    assert patience.markdown_table() in patience_page
    assert rlhf.markdown_table() in rlhf_page


def test_every_make_target_that_is_named_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = set(re.findall(r"`make ([a-z-]+)", README)) | set(re.findall(r"^ *make ([a-z-]+)", README, re.M))
    assert named
    assert named <= targets


@pytest.mark.parametrize("page", PAGES)
def test_every_relative_link_leads_somewhere(page):
    text = (ROOT / page).read_text()
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        if not link.startswith("http"):
            assert ((ROOT / page).parent / link).exists(), f"{page}: {link}"


def test_the_map_names_every_module():
    """CONTRIBUTING.md's map and the package agree."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    listed = subprocess.run(
        ["git", "ls-files", "rlkit"], capture_output=True, text=True, cwd=ROOT, check=False
    ).stdout.split() or [str(p.relative_to(ROOT)) for p in (ROOT / "rlkit").rglob("*.py")]
    for path in listed:
        name = Path(path).name
        if name.endswith(".py") and not name.startswith("_"):
            assert re.search(rf"`{re.escape(name.removesuffix('.py'))}(\.py)?`", text), path


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_is_named_exists(page):
    named = re.findall(r"`((?:tests|rlkit|benchmarks|notebooks)/[\w./]+)`", (ROOT / page).read_text())
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_exercise_in_the_readme_is_told_its_mistake(capsys):
    run(python_blocks()[0], {})
    printed = capsys.readouterr().out
    assert printed.strip() in README  # what it prints stands below it
    assert printed.startswith("✗ 07-advantages")


def test_the_example_in_the_readme_trains(tmp_path, monkeypatch):
    """As it stands there, with fewer steps and no vLLM start."""
    monkeypatch.chdir(tmp_path)
    namespace = run(
        python_blocks()[1], {"max_steps=80": "max_steps=2, fast_inference=False, disable_tqdm=True"}
    )
    assert namespace["summary"]["steps"] == 2


@pytest.mark.filterwarnings("ignore:no prompt got answers")  # one prompt is all that the probe looks at
def test_the_examples_for_a_real_model_train(tmp_path, monkeypatch):
    """One after another, on the embedded model: warm start, background, and on from where it stopped."""
    trainer, warm_start, background, resume = python_blocks()[2:6]
    small = {
        'load_model("smollm2")': 'load_model("rlkit/tiny-arithmetic")',
        "tasks.word_problems()": "tasks.arithmetic()",
    }
    few_steps = {"max_steps=40": "max_steps=4, probe_prompts=1, fast_inference=False, disable_tqdm=True"}
    monkeypatch.chdir(tmp_path)
    warmed = run(warm_start, small | {"max_steps=20": "max_steps=2, disable_tqdm=True"})
    assert Path("runs/warm_start/model/model.safetensors").exists()
    assert warmed["warm_up"].step_index == 2
    namespace = run(trainer, small | few_steps)
    with namespace["trainer"]:
        # Asked for all at once, the stop would overtake the two steps.
        waiting = "import time\nwhile trainer.step_index < 2:\n    time.sleep(0.01)"
        run(background, {"control.resume()": waiting}, namespace)
        assert namespace["summary"]["status"] == "stopped: seen enough"
        assert namespace["trainer"].step_index == 2
    with run(trainer, small | few_steps, namespace)["trainer"]:
        run(resume, {}, namespace)
    assert namespace["summary"]["status"] == "finished"
    assert [line["step"] for line in Run("runs/smollm2").metrics] == [1, 2, 3, 4]


def test_the_example_of_a_rubric_says_what_its_comments_say(capsys):
    namespace = run(python_blocks()[6], {})
    assert namespace["rubric"].score("17 and 25 make 42", answer="42")["total"] == 3.5
    assert namespace["audit"].ok, str(namespace["audit"])
    assert "'right': 3.0" in capsys.readouterr().out


def test_the_example_of_looking_inside_shows_a_recorded_run():
    """Every line opens its widget, whose static picture has the run in it."""
    lines = [line for line in python_blocks()[7].splitlines() if line.startswith("widgets.")]
    assert len(lines) == 3
    namespace = run(python_blocks()[7].split("widgets.Tr")[0], {})
    for line in lines:
        panel = eval(line.split("  #")[0], namespace)
        assert "reward" in panel.static_html()
        panel.close()


@pytest.mark.filterwarnings("ignore::rlkit.trainers.probe.ProbeWarning")
def test_the_example_of_rlhf_trains(tmp_path, monkeypatch):
    """Preferences, reward model, PPO: as it stands there, with fewer prompts and steps."""
    monkeypatch.chdir(tmp_path)
    small = {
        'task.rows("train"), 4': 'task.rows("train", 90), 4',
        'output_dir="runs/judge"': 'output_dir="runs/judge", disable_tqdm=True',
        "max_steps=40": "max_steps=2, probe_prompts=2, fast_inference=False, disable_tqdm=True",
        "prompts_per_step=64": "prompts_per_step=8",
        "eval_dataset=task.test": "eval_dataset=task.rows('test', 4)",
    }
    namespace = run(python_blocks()[8], small)
    assert len(namespace["preferences"]) > 120
    assert Path("runs/judge/model/model.safetensors").exists()
    assert namespace["judge"].evaluations[-1].n == 100
    assert [line["step"] for line in Run("runs/ppo").metrics] == [1, 2]


def test_the_recipe_in_the_readme_is_one(tmp_path):
    from rlkit.recipe import Recipe

    (recipe,) = blocks("yaml")
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe)
    assert "name: smollm2" in recipe  # which is there only once it was fetched
    made = Recipe.read(path, ["model.name=rlkit/tiny-arithmetic"])
    assert made.model_kwargs == {"load_in_4bit": True}
    assert made.args.max_steps == 40


def test_the_commands_in_the_readme_are_understood():
    from rlkit.cli import _parser

    commands = [line.split()[1:] for block in blocks("sh") for line in block.splitlines()]
    commands += [
        shlex.split(found) for found in re.findall(r"`rlkit ((?!\.)[a-z]+ [^`]*)`", README.replace("\n", " "))
    ]
    assert len(commands) >= 6
    for command in commands:
        _parser().parse_args(command)  # or SystemExit


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


def python_blocks() -> list[str]:
    found = blocks("python")
    assert len(found) == 9, "say in the tests above what a new example is to do"
    return found


def run(code: str, replaced: dict[str, str], namespace: dict | None = None) -> dict:
    """Execute a block of the README with some of its words replaced, each of which must be there."""
    for old, new in replaced.items():
        assert old in code
        code = code.replace(old, new)
    namespace = {} if namespace is None else namespace
    exec(compile(code, "README.md", "exec"), namespace)
    return namespace
