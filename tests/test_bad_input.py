"""Bad input ends in an error that says what to do, before a weight is read, an engine started or a file written."""

from __future__ import annotations

import asyncio
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlkit import Callback, GRPOConfig, GRPOTrainer, cli, load_model, rewards, tasks
from rlkit.errors import ConfigError, RewardError, RlkitError
from rlkit.models import EMBEDDED
from rlkit.recipe import Recipe
from rlkit.runs import Run

ROOT = Path(__file__).resolve().parent.parent
TINY = "rlkit/tiny-arithmetic"
TASK = tasks.arithmetic()
GOOD = {"model": TINY, "task": "arithmetic", "grpo": {"max_steps": 1, "max_completion_length": 4}}


@pytest.fixture(scope="module")
def tiny() -> tuple[Any, Any]:
    return load_model(TINY)


@pytest.fixture
def untouched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Work in an empty folder; fail where weights are read, an engine is started or a run is written."""
    import transformers

    import rlkit.trainers.generation as generation

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def reached(what: str) -> Any:
        return lambda *arguments, **keywords: pytest.fail(f"{what}, but the input is bad")

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", reached("weights were read"))
    monkeypatch.setattr(generation, "make_engine", reached("an engine was started"))
    yield tmp_path
    assert not [path for path in tmp_path.rglob("*") if path.name in ("metrics.jsonl", "samples", "runs")]


class Untouchable:
    """A model or tokenizer that nobody may look at yet."""

    def __getattr__(self, name: str) -> Any:
        pytest.fail(f"the model's {name!r} was used, but the input is bad")


def refused(kind: type[RlkitError], says: list[str], **arguments: Any) -> None:
    """Make a trainer with good arguments but for ``arguments``, and compare the error's text."""
    good: dict[str, Any] = {
        "model": Untouchable(),
        "reward_funcs": rewards.correct_number,
        "args": GRPOConfig(max_steps=1, max_completion_length=4),
        "train_dataset": TASK.train,
        "processing_class": None,
    }
    with pytest.raises(kind) as caught:
        GRPOTrainer(**{**good, **arguments})
    for part in says:
        assert part in str(caught.value)


# --- the trainer: reward functions ------------------------------------------------------------------------


def no_answer(prompts, completions, **columns):
    return [None for _ in completions]


def forgets_to_return(prompts, completions, **columns):
    [1.0 for _ in completions]


async def async_raises(completions, **columns):
    await asyncio.sleep(0)
    raise KeyError("judge")


@pytest.mark.parametrize(
    ("functions", "kind", "says"),
    [
        ([], ConfigError, ["reward_funcs=[]", "at least one"]),
        (None, ConfigError, ["reward_funcs=None", "functions f(prompts"]),
        ("correct_number", ConfigError, ["reward_funcs='correct_number'", "Without the quotes"]),
        (["tone"], ConfigError, ["reward_funcs='tone'", "functions f(prompts"]),
        (
            lambda completions, solution: [],
            ConfigError,
            ["'solution'", "train_dataset does not have", "answer"],
        ),
        (lambda prompt, completion: [], ConfigError, ["'prompt'", "call the parameter 'prompts'"]),
        (
            lambda completions: [c[0] for c in completions],
            RewardError,
            ["IndexError", "empty string included"],
        ),
        (lambda completions: [1.0], RewardError, ["1 values for 2 completions"]),
        (lambda completions: [math.nan, 0.0], RewardError, ["returned nan", "finite number"]),
        (lambda completions: [0.0, math.inf], RewardError, ["returned inf", "finite number"]),
        (lambda completions: ["good", "bad"], RewardError, ["returned 'good'", "finite number"]),
        (lambda completions: "ab", RewardError, ["returned 'ab'", "a list"]),
        (lambda completions: 1.0, RewardError, ["returned 1.0", "a list"]),
        (no_answer, RewardError, ["'no_answer' returned only None"]),
        (forgets_to_return, RewardError, ["'forgets_to_return' returned None", "a list"]),
        (async_raises, RewardError, ["'async_raises' raised KeyError", "judge"]),
        (rewards.xml_format, RewardError, ["'xml_format' returned a function", "xml_format(…)"]),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_reward_functions(untouched: Path, functions: Any, kind: type[RlkitError], says: list[str]) -> None:
    refused(kind, says, reward_funcs=functions)


def test_reward_functions_inside_a_running_event_loop(untouched: Path) -> None:
    async def cell() -> None:
        refused(RewardError, ["'async_raises' raised KeyError"], reward_funcs=async_raises)

    asyncio.run(cell())


def test_another_number_of_weights(untouched: Path) -> None:
    args = GRPOConfig(reward_weights=[1.0, 0.5, 0.25])
    refused(ConfigError, ["reward_weights=[1.0, 0.5, 0.25]", "there are 1"], args=args)


@pytest.mark.parametrize(
    ("verifier", "kind", "says"),
    [
        ("correct_number", ConfigError, ["verifier='correct_number'", "(completion, **columns) -> bool"]),
        (
            lambda completion, solution: True,
            RewardError,
            ["verifier '<lambda>' raised TypeError", "columns answer"],
        ),
    ],
)
def test_verifiers(untouched: Path, verifier: Any, kind: type[RlkitError], says: list[str]) -> None:
    refused(kind, says, verifier=verifier)


# --- the trainer: data ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dataset", "says"),
    [
        (None, ["train_dataset must be a list of dicts", "not None"]),
        ([], ["train_dataset has no rows"]),
        ("train.jsonl", ["not 'train.jsonl'", "Read the file first"]),
        (["1+1="], ["row 0 of train_dataset", "must be a dict"]),
        ([None], ["row 0 of train_dataset", "None"]),
        ([{"question": "1+1=", "answer": "2"}], ["no 'prompt'", "found: question, answer", "renamed"]),
        ([{"prompt": "1+1=", "answer": "2"}, {"prompt": "2+2="}], ["row 1 of train_dataset", "same columns"]),
        ([{"prompt": "", "answer": "2"}], ["prompt of row 0 of train_dataset is empty"]),
        ([{"prompt": "1+1="}], ["'correct_number' asks for a column 'answer'", "none beside prompt"]),
    ],
)
def test_data_sets(untouched: Path, dataset: Any, says: list[str]) -> None:
    refused(ConfigError, says, train_dataset=dataset)


@pytest.mark.parametrize(
    ("dataset", "says"),
    [
        ([], ["eval_dataset has no rows"]),
        (["1+1="], ["row 0 of eval_dataset", "must be a dict"]),
        ([{"prompt": " ", "answer": "2"}], ["prompt of row 0 of eval_dataset is empty"]),
        ([{"prompt": "1+1=", "solution": "2"}], ["'correct_number'", "'answer'", "eval_dataset", "solution"]),
    ],
)
def test_held_out_data_sets(untouched: Path, dataset: Any, says: list[str]) -> None:
    refused(ConfigError, says, eval_dataset=dataset)


def test_prompts_that_are_too_long(untouched: Path, tiny: tuple[Any, Any]) -> None:
    model, tokenizer = tiny
    longest = model.config.max_position_embeddings
    rows = [*TASK.rows("train", 3), {"prompt": "1+" * longest + "1=", "answer": "0"}]
    says = ["row 3 of train_dataset", "max_completion_length=4", f"the model's {longest}", "Shorten or drop"]
    refused(ConfigError, says, model=model, processing_class=tokenizer, train_dataset=rows)
    says[0] = "row 3 of eval_dataset"
    refused(ConfigError, says, model=model, processing_class=tokenizer, eval_dataset=rows)


def test_answers_that_are_too_long(untouched: Path, tiny: tuple[Any, Any]) -> None:
    model, tokenizer = tiny
    args = GRPOConfig(max_completion_length=model.config.max_position_embeddings)
    says = ["max_completion_length=", "lower max_completion_length"]
    refused(ConfigError, says, model=model, processing_class=tokenizer, args=args)


# --- the trainer: model, tokenizer, settings --------------------------------------------------------------


def test_settings_as_a_dict(untouched: Path) -> None:
    refused(ConfigError, ["args={'max_steps': 1}", "GRPOConfig", "from_dict"], args={"max_steps": 1})


@pytest.mark.parametrize("model", [None, 3, rewards.number_found], ids=["None", "number", "function"])
def test_what_is_no_model(untouched: Path, model: Any) -> None:
    refused(ConfigError, ["model=", "a transformers causal LM", "load_model"], model=model)


def test_model_and_tokenizer_in_the_wrong_places(untouched: Path, tiny: tuple[Any, Any]) -> None:
    model, tokenizer = tiny
    refused(ConfigError, ["model=", "load_model"], model=tokenizer, processing_class=model)
    refused(ConfigError, ["processing_class is a", "load_model"], model=model, processing_class=model)
    refused(ConfigError, ["processing_class is None", "model, tokenizer = load_model"], model=model)


@pytest.mark.parametrize("as_path", [False, True], ids=["text", "Path"])
def test_a_misspelt_folder(untouched: Path, as_path: bool) -> None:
    (untouched / "my-model").mkdir()
    name = untouched / "my-modell"
    refused(
        ConfigError, ["my-modell", "a folder that exists", "my-model?"], model=name if as_path else str(name)
    )


@pytest.mark.parametrize("callbacks", [Callback(), [Callback], [print]], ids=["one", "a class", "a function"])
def test_callbacks(untouched: Path, callbacks: Any) -> None:
    refused(ConfigError, ["callbacks", "a list of Callback objects"], callbacks=callbacks)


def test_a_run_directory_that_cannot_be(untouched: Path, tiny: tuple[Any, Any]) -> None:
    (untouched / "notes.txt").write_text("mine")
    for place in ("notes.txt", "notes.txt/run"):
        args = GRPOConfig(max_steps=1, max_completion_length=4, output_dir=place)
        refused(ConfigError, ["output_dir", place], model=tiny[0], processing_class=tiny[1], args=args)
    assert (untouched / "notes.txt").read_text() == "mine"


# --- the command line -------------------------------------------------------------------------------------


def train(capsys: pytest.CaptureFixture[str], config: Any, *overrides: str) -> str:
    """``rlkit train`` on a configuration that is wrong; returns what it printed as its error."""
    path = Path("config.yaml")
    if isinstance(config, bytes):
        path.write_bytes(config)
    else:
        path.write_text(config if isinstance(config, str) else yaml.safe_dump(config), encoding="utf-8")
    status = cli.main(["train", str(path), *overrides])
    out, err = capsys.readouterr()
    assert status == 2
    assert err.startswith("rlkit: ")
    assert "Traceback" not in out + err
    return err


CONFIGURATIONS: list[tuple[str, Any, list[str], list[str]]] = [
    ("unknown key", {**GOOD, "modle": "x"}, [], ["'modle'", "Did you mean 'model'"]),
    (
        "misplaced key",
        {**GOOD, "learning_rate": 1e-5},
        [],
        ["'learning_rate'", "GRPOConfig field", "under 'grpo'"],
    ),
    ("unknown setting", GOOD, ["grpo.learning_rte=1e-5"], ["'learning_rte'", "Did you mean 'learning_rate'"]),
    ("TRL's name", GOOD, ["grpo.use_vllm=true"], ["'use_vllm'", "fast_inference"]),
    ("no model", {"task": "arithmetic"}, [], ["no 'model'"]),
    ("no task", {"model": TINY}, [], ["no 'task'"]),
    ("empty file", "", [], ["no 'model'"]),
    ("unknown loss", GOOD, ["grpo.loss_type=drgrpo"], ["loss_type 'drgrpo'", "Did you mean 'dr_grpo'"]),
    (
        "unknown reward",
        GOOD,
        ["rewards=[number_fund]"],
        ["reward 'number_fund'", "Did you mean 'number_found'"],
    ),
    ("unknown task", GOOD, ["task=arithmatic"], ["task 'arithmatic'", "Did you mean 'arithmetic'"]),
    (
        "unknown task setting",
        GOOD,
        ["task={name: arithmetic, max_operant: 9}"],
        ["'max_operant'", "'max_operand'"],
    ),
    ("rewards of no kind", GOOD, ["rewards=5"], ["rewards=5", "Leave it out for those of the task"]),
    ("no rewards", GOOD, ["rewards=[]"], ["rewards=[]", "one or more reward functions"]),
    ("group of one", GOOD, ["grpo.num_generations=1"], ["num_generations=1", "2 or more"]),
    ("half a group", GOOD, ["grpo.per_device_train_batch_size=6"], ["=6 ", "multiple of num_generations=8"]),
    (
        "contradictory pair",
        {
            **GOOD,
            "grpo": {
                "prompts_per_step": 2,
                "per_device_train_batch_size": 4,
                "gradient_accumulation_steps": 2,
            },
        },
        [],
        ["prompts_per_step=2 × num_generations=8 is 16 rows", "is 8", "not both"],
    ),
    ("negative rate", GOOD, ["grpo.learning_rate=-1e-5"], ["learning_rate=-1e-05", "above 0"]),
    ("NaN rate", GOOD, ["grpo.learning_rate=.nan"], ["learning_rate=nan", "above 0"]),
    ("rate in words", GOOD, ["grpo.learning_rate=fast"], ["learning_rate='fast'", "type float"]),
    ("empty rate", GOOD, ["grpo.learning_rate="], ["learning_rate=None", "type float"]),
    ("top-p", GOOD, ["grpo.top_p=0.9"], ["top_p=0.9", "truncated distribution"]),
    ("seed twice", {**GOOD, "seed": 1}, ["grpo.seed=2"], ["'seed'", "keep one"]),
    ("grpo as a list", {**GOOD, "grpo": [1]}, [], ["grpo=[1]", "a mapping"]),
    ("grpo with a number as key", {**GOOD, "grpo": {1: 2}}, [], ["setting '1'"]),
    ("not YAML", "model: [unclosed", [], ["config.yaml", "not valid YAML", "line"]),
    ("not text", b"\xff\xfe\x00model", [], ["config.yaml", "not valid YAML"]),
    ("a list", "- model\n- task\n", [], ["config.yaml", "holds a list", "a mapping with the keys model"]),
    ("a sentence", "train please", [], ["config.yaml", "holds a str", "a mapping"]),
    ("override without =", GOOD, ["grpo.max_steps"], ["override='grpo.max_steps'", "key=value"]),
    ("override without a key", GOOD, ["=5"], ["override='=5'", "key=value"]),
    (
        "override that is not YAML",
        GOOD,
        ["grpo.reward_weights=[1"],
        ["override='grpo.reward_weights=[1'", "in YAML"],
    ),
    ("override below a value", GOOD, ["model.name=x"], ["override='model.name=x'", f"'model' is '{TINY}'"]),
    (
        "unknown embedded model",
        GOOD,
        ["model=rlkit/tiny-arithmetics"],
        ["Did you mean 'rlkit/tiny-arithmetic'"],
    ),
    ("typo in a path", GOOD, ["model=./modells/mine"], ["./modells/mine", "a folder that exists"]),
    ("model as a list", GOOD, ["model=[a, b]"], ["model_name=['a', 'b']", "a folder or a Hub id"]),
    ("model without a name", GOOD, ["model={load_in_4bit: true}"], ["model={'load_in_4bit'", "'name' in it"]),
    (
        "misspelt model",
        GOOD,
        ["model={name: rlkit/tiny-arithmetics}"],
        ["Did you mean 'rlkit/tiny-arithmetic'"],
    ),
    ("lora as a number", GOOD, ["lora=4"], ["lora=4", "a mapping of add_lora's arguments"]),
    ("unknown lora setting", GOOD, ["lora.rank=4"], ["'lora'", "'rank'", "Known: ", " r, "]),
    ("misplaced lora setting", {**GOOD, "lora_alpha": 8}, [], ["'lora_alpha'", "under 'lora'"]),
    ("rank of none", GOOD, ["lora.r=0"], ["r=0", "a whole number from 1 on"]),
    ("dropout", GOOD, ["lora.lora_dropout=0.1"], ["lora_dropout=0.1", "two"]),
    ("both trainers", {**GOOD, "sft": {"max_steps": 1}}, [], ["'grpo' beside 'sft'", "runs/sft/model"]),
    ("GRPO and PPO", {**GOOD, "ppo": {"max_steps": 1}}, [], ["'grpo' beside 'ppo'", "one of the two"]),
    (
        "a warm start with rewards",
        {"model": TINY, "task": "arithmetic", "sft": {}, "rewards": "correct_number"},
        [],
        ["'sft' beside", "'rewards'"],
    ),
    (
        "unknown setting of the warm start",
        {"model": TINY, "task": "arithmetic", "sft": {"rows_per_stp": 4}},
        [],
        ["'rows_per_stp'", "Did you mean 'rows_per_step'"],
    ),
    ("misplaced key of the warm start", {**GOOD, "rows_per_step": 4}, [], ["SFTConfig field", "under 'sft'"]),
    (
        "sft as a list",
        {"model": TINY, "task": "arithmetic", "sft": [1]},
        [],
        ["sft=[1]", "SFTConfig's fields"],
    ),
    ("single file as model", GOOD, ["model=config.yaml"], ["'config.yaml'", "a single file"]),
]


@pytest.mark.parametrize(
    ("config", "overrides", "says"),
    [case[1:] for case in CONFIGURATIONS],
    ids=[case[0] for case in CONFIGURATIONS],
)
def test_configurations(
    untouched: Path, capsys: pytest.CaptureFixture[str], config: Any, overrides: list[str], says: list[str]
) -> None:
    said = train(capsys, config, *overrides)
    for part in says:
        assert part in said


def test_a_configuration_that_is_not_there(untouched: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path, why in (("no/such.yaml", "No such file"), (".", "directory")):
        assert cli.main(["train", path]) == 2
        said = capsys.readouterr().err
        assert path in said and why in said


def test_model_folders(untouched: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = untouched / "model"
    folder.mkdir()
    said = train(capsys, {**GOOD, "model": str(folder)})
    assert str(folder) in said and "config.json and weights" in said and "holds nothing" in said
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(EMBEDDED[TINY] / name, folder)
    said = train(capsys, {**GOOD, "model": str(folder)})
    assert "no *.safetensors and no pytorch_model*.bin" in said and "tokenizer.json" in said
    (folder / "config.json").unlink()
    shutil.copy(EMBEDDED[TINY] / "model.safetensors", folder)
    said = train(capsys, {**GOOD, "model": str(folder)})
    assert "config.json and weights" in said and "It holds model.safetensors" in said


REWARDS = {
    "asks": "def asks(completions, solution): return []",
    "raises": "def raises(completions, **columns): return [float(c) for c in completions]",
    "short": "def short(completions, **columns): return [1.0]",
    "nan": "def nan(completions, **columns): return [float('nan')] * len(completions)",
    "silent": "def silent(completions, **columns): return [None] * len(completions)",
    "scalar": "async def scalar(completions, **columns): return 1.0",
}


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("asks", ["'asks' asks for a column 'solution'", "Its columns: answer"]),
        ("raises", ["'raises' raised ValueError", "could not convert"]),
        ("short", ["'short' returned 1 values for 2"]),
        ("nan", ["'nan' returned nan"]),
        ("silent", ["'silent' returned only None"]),
        ("scalar", ["'scalar' returned 1.0"]),
        ("shrot", ["function in 'own_rewards': 'shrot'", "Did you mean 'short'"]),
    ],
)
def test_reward_functions_of_ones_own(
    untouched: Path, capsys: pytest.CaptureFixture[str], name: str, says: list[str]
) -> None:
    (untouched / "own_rewards.py").write_text("\n".join(REWARDS.values()))
    sys.modules.pop("own_rewards", None)
    said = train(capsys, {**GOOD, "rewards": [f"own_rewards:{name}"]})
    for part in says:
        assert part in said


def test_a_reward_module_that_is_not_there(untouched: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = train(capsys, {**GOOD, "rewards": ["no_such_module:tone"]})
    assert "no_such_module" in said and "Is it installed" in said
    (untouched / "half_written.py").write_text("def tone(:")
    said = train(capsys, {**GOOD, "rewards": ["half_written:tone"]})
    assert "half_written" in said and "SyntaxError" in said


def test_overrides_reach_nested_and_empty_sections(untouched: Path) -> None:
    Path("config.yaml").write_text(f"model: {TINY}\ntask: {{name: arithmetic}}\ngrpo:\n")
    overrides = ["grpo.learning_rate=1e-5", "grpo.max_steps=1e1", "task.max_operand=19", "seed=7"]
    overrides += ["rewards=only_number", "output_dir=runs/x=y", "grpo.reward_weights=[2e0]"]
    recipe = Recipe.read("config.yaml", overrides)
    grpo = recipe.args
    assert (grpo.learning_rate, grpo.max_steps, grpo.seed, grpo.output_dir) == (1e-5, 10, 7, "runs/x=y")
    assert grpo.reward_weights == [2.0]
    assert recipe.task.name == "arithmetic"
    assert len(recipe.task.train) < len(TASK.train)
    assert recipe.reward_funcs == [rewards.only_number]
    Path("config.yaml").write_text(yaml.safe_dump(GOOD))
    assert Recipe.read("config.yaml").reward_funcs == list(TASK.reward_funcs)


# --- a machine without vLLM -------------------------------------------------------------------------------

HIDE = """
import importlib.metadata as metadata, sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "vllm":
            raise ImportError(f"libcudart.so: cannot open shared object file")

sys.meta_path.insert(0, Hidden())
find = metadata.MetadataPathFinder.find_distributions
def without(context=metadata.DistributionFinder.Context()):
    return [d for d in find(context) if not (d.metadata["Name"] or "").startswith("vllm")]
if {hide_metadata}:
    metadata.MetadataPathFinder.find_distributions = without

import transformers
def read(*arguments, **keywords):
    print("WEIGHTS WERE READ")
    raise SystemExit(9)
transformers.AutoModelForCausalLM.from_pretrained = read
from rlkit.cli import main
sys.exit(main({arguments}))
"""


@pytest.mark.parametrize("hide_metadata", [True, False], ids=["not installed", "broken"])
def test_a_missing_engine(tmp_path: Path, hide_metadata: bool) -> None:
    if not hide_metadata and not _vllm_is_installed():
        pytest.skip("vLLM is not installed, so it cannot be broken")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(GOOD))
    code = HIDE.format(
        hide_metadata=hide_metadata, arguments=["train", "config.yaml", "grpo.fast_inference=true"]
    )
    done = python("-c", code, cwd=tmp_path)
    assert "WEIGHTS WERE READ" not in done.stdout
    assert done.returncode == 2
    assert done.stderr.startswith("rlkit: ") and "Traceback" not in done.stderr
    says = ["not installed", "pip install"] if hide_metadata else ["cannot be imported", "libcudart.so"]
    for part in ["fast_inference=True", "vLLM", "fast_inference=False", *says]:
        assert part in done.stderr
    assert os.listdir(tmp_path) == ["config.yaml"]


def _vllm_is_installed() -> bool:
    from rlkit.engines.vllm import vllm_version

    return vllm_version() is not None


# --- in a process of its own ------------------------------------------------------------------------------


def python(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120
    )


def test_nothing_heavy_is_loaded_to_refuse_a_configuration(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(GOOD))
    (tmp_path / "empty").mkdir()
    tries = ["grpo.num_generations=1", "grpo.loss_type=ppo", "rewards=[tone]", "model=./empty", "modle=x"]
    code = (
        "import json, sys\nfrom rlkit.cli import main\n"
        f"statuses = [main(['train', 'config.yaml', wrong]) for wrong in {tries}]\n"
        "print(json.dumps([statuses, sorted({'torch', 'transformers', 'vllm'} & set(sys.modules))]))"
    )
    done = python("-c", code, cwd=tmp_path)
    assert json.loads(done.stdout) == [[2] * len(tries), []], done.stderr
    assert done.stderr.count("rlkit: ") == len(tries)
    assert not (tmp_path / "runs").exists()


def test_the_exit_status_reaches_the_shell(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**GOOD, "grpo": {"learning_rate": "fast"}}))
    done = python("-m", "rlkit.cli", "train", "config.yaml", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("rlkit: learning_rate='fast' is not usable.")
    assert len(done.stderr.splitlines()) == 1


# --- what only shows while training -----------------------------------------------------------------------


def test_a_reward_that_breaks_later_stops_the_run_with_all_steps_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "late_rewards.py").write_text(
        "calls = 0\n"
        "def tires(completions, **columns):\n"
        "    global calls\n"
        "    calls += 1\n"
        "    return [1.0] * (len(completions) - (calls > 3))\n"  # a trial, two whole steps, then one too few
    )
    monkeypatch.delitem(sys.modules, "late_rewards", raising=False)
    Path("config.yaml").write_text(yaml.safe_dump({**GOOD, "rewards": "late_rewards:tires"}))
    overrides = ["grpo.fast_inference=false", "grpo.max_steps=9", "grpo.prompts_per_step=2"]
    overrides += ["grpo.num_generations=2", "grpo.disable_tqdm=true", "output_dir=runs/late"]
    overrides += ["grpo.probe_prompts=0"]
    recipe = Recipe.read("config.yaml", overrides)
    without_evaluation = GRPOTrainer(recipe.model, recipe.reward_funcs, recipe.args, recipe.task.train)
    with without_evaluation as trainer, pytest.raises(RewardError) as caught:
        trainer.train()
    assert "'tires' returned 3 values for 4 completions (during step 3)" in str(caught.value)
    run = Run("runs/late")
    assert [line["step"] for line in run.metrics] == [1, 2]
    assert len(run.samples(2)) == 4
    assert run.summary is not None
    assert run.summary["status"].startswith("stopped: RewardError: reward function 'tires'")
