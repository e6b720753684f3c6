"""What each module loads: settings, recipes, runs and the command line answer without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "transformers", "vllm")


def loaded_after(code: str, *, without: tuple[str, ...] = ()) -> list[str]:
    """The heavy packages that are loaded once ``code`` has run in a fresh Python; ``without``: made unimportable."""
    report = f"import json, sys\nfor name in {without}: sys.modules[name] = None\n{code}\n"
    report += f"print(json.dumps([n for n in {HEAVY} if sys.modules.get(n) is not None]), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", report], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stderr.splitlines()[-1])


@pytest.mark.parametrize(
    "code",
    [
        "import rlkit.errors, rlkit.config, rlkit.recipe, rlkit.cli, rlkit.models, rlkit.environment",
        "import rlkit.rewards, rlkit.tasks, rlkit.runs, rlkit.runs.report, rlkit.objectives.names",
        "import rlkit.rollout, rlkit.trainers, rlkit.trainers.data, rlkit.trainers.scoring, rlkit.trainers.callbacks",
        "from rlkit import GRPOConfig, Run, Callback, Completion, Rollout, load_model, rewards, runs, tasks",
        "from rlkit import GRPOConfig; GRPOConfig(loss_type='gspo', epsilon=3e-4).schedule(300)",
        "from rlkit.recipe import Recipe; Recipe.from_dict({'model': 'rlkit/tiny-arithmetic', 'task': 'arithmetic'})",
        "from rlkit.trainers.data import PromptOrder; PromptOrder(9, 1, True).take(20)",
        "from rlkit.cli import main; main(['runs', 'list', 'tests'])",
    ],
)
def test_light_modules_stay_light(code: str) -> None:
    assert loaded_after(code) == []


def test_the_measure_can_tell() -> None:
    assert "torch" in loaded_after("import rlkit.logprobs")


def test_checks_work_where_nothing_heavy_is_installed() -> None:
    """A broken torch must not hide a misspelt setting."""
    code = (
        "from rlkit.cli import main\n"
        "from rlkit import tasks\n"
        "from rlkit.trainers.data import check_dataset\n"
        "from rlkit.trainers.scoring import check_columns, check_reward_functions, probe_reward_functions\n"
        "task = tasks.arithmetic()\n"
        "rows = check_dataset(task.rows())\n"
        "check_reward_functions(task.reward_funcs, None)\n"
        "check_columns(task.reward_funcs, ['answer'])\n"
        "probe_reward_functions(task.reward_funcs, rows, task.verifier)\n"
        "assert main(['train', 'no-such.yaml']) == 2"
    )
    assert loaded_after(code, without=HEAVY) == []


def test_training_with_transformers_never_loads_vllm(tmp_path: Path) -> None:
    code = f"""
from rlkit import GRPOConfig, GRPOTrainer, rewards, tasks
task = tasks.arithmetic()
args = GRPOConfig(max_steps=1, prompts_per_step=2, num_generations=2, max_completion_length=3, fast_inference=False,
                  output_dir={str(tmp_path / "run")!r}, disable_tqdm=True)
with GRPOTrainer("rlkit/tiny-arithmetic", rewards.correct_number, args, task.train) as trainer:
    trainer.train()
"""
    assert loaded_after(code, without=("vllm",)) == ["torch", "transformers"]
    assert (tmp_path / "run" / "summary.json").is_file()
