"""Notebook 08's own GRPO loop: short, on its own feet, and the trainer's equal step for step."""

from __future__ import annotations

import ast
import copy
import random
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
torch = pytest.importorskip("torch")

from rlkit import GRPOConfig, GRPOTrainer, load_model, rewards, tasks  # noqa: E402

NOTEBOOK = Path(__file__).parent.parent / "notebooks" / "08_grpo_from_scratch.ipynb"
FEWER_THAN = 80
ALLOWED = {"model", "rewards", "tokenizer", "torch", "random", "PAD", "END"}  # what the loop may stand on


def definitions() -> list[ast.FunctionDef]:
    """The functions of the loop: those in the cells that begin with "# The loop"."""
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    trees = [ast.parse(cell.source) for cell in cells if cell.source.startswith("# The loop, part")]
    return [node for tree in trees for node in tree.body if isinstance(node, ast.FunctionDef)]


def source() -> str:
    """The loop as a program, without comments, blank lines and docstrings' layout."""
    return "\n".join(map(ast.unparse, definitions()))


def written_lines() -> int:
    """Lines of the loop as they stand in the notebook, without blank ones and comments."""
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    count = 0
    for cell in cells:
        if cell.source.startswith("# The loop, part"):
            lines = cell.source.splitlines()
            for node in ast.parse(cell.source).body:
                if isinstance(node, ast.FunctionDef):
                    start = min([node.lineno, *(one.lineno for one in node.decorator_list)])
                    body = [line.strip() for line in lines[start - 1 : node.end_lineno]]
                    count += sum(bool(line) and not line.startswith("#") for line in body)
    return count


@pytest.fixture(scope="module")
def loop():
    model, tokenizer = load_model("rlkit/tiny-arithmetic")
    names = {"torch": torch, "random": random, "rewards": rewards, "tokenizer": tokenizer}
    names |= {"PAD": tokenizer.pad_token_id, "END": tokenizer.eos_token_id, "model": model.eval()}
    exec(source(), names)
    return names


def test_loop_is_short_and_whole():
    names = [node.name for node in definitions()]
    assert names == ["sample", "score", "advantages", "logprobs", "clipped_loss", "update", "train"]
    assert 40 < written_lines() < FEWER_THAN


def test_loop_stands_on_its_own_feet():
    tree = ast.parse(source())
    assert not [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
    bound = {node.name for node in tree.body}
    for function in tree.body:
        bound |= {one.arg for one in ast.walk(function) if isinstance(one, ast.arg)}
        bound |= {
            n.id for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
        }
    read = {
        node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    }
    free = read - bound - set(dir(__builtins__) if not isinstance(__builtins__, dict) else __builtins__)
    assert free <= ALLOWED


def test_samples_end_where_the_mask_does(loop):
    generator = torch.Generator().manual_seed(3)
    *_, completions, mask = loop["sample"](loop["model"], ["7+8=", "17+25="], 8, 4, generator)
    assert completions.shape == mask.shape == (16, 4)
    for row, kept in zip(completions.tolist(), mask.tolist()):
        length = row.index(loop["END"]) + 1 if loop["END"] in row else 4
        assert kept == [1] * length + [0] * (4 - length)
        assert row[length:] == [loop["PAD"]] * (4 - length)


def test_loop_matches_the_trainer_step_for_step(loop, tmp_path):
    theirs, ours = copy.deepcopy(loop["model"]), copy.deepcopy(loop["model"])
    task, tokenizer, G = tasks.arithmetic(), loop["tokenizer"], 8
    args = GRPOConfig(
        loss_type="grpo",
        learning_rate=1e-4,
        lr_scheduler_type="constant",
        adam_epsilon=1e-6,  # where a gradient is rounding noise alone, 1e-8 would make it a full step
        max_steps=3,
        prompts_per_step=8,
        num_generations=G,
        max_completion_length=4,
        fast_inference=False,
        probe_prompts=0,
        output_dir=str(tmp_path / "run"),
        seed=1,
    )
    functions = [rewards.number_found, rewards.correct_number]
    optimizer = torch.optim.AdamW(ours.parameters(), lr=1e-4, eps=1e-6, weight_decay=0.0)
    pad = torch.nn.utils.rnn.pad_sequence
    with GRPOTrainer(theirs, functions, args, task.train, processing_class=tokenizer) as trainer:
        for _ in range(3):
            rollout = trainer.rollout()
            scores = trainer.score(rollout)
            metrics = trainer.update(rollout, trainer.advantages(scores))
            trainer.sync()
            batch = tokenizer(rollout.prompts, return_tensors="pt", padding=True, padding_side="left")
            rows = [torch.tensor(one.token_ids) for one in rollout.completions]
            given = (
                batch["input_ids"].repeat_interleave(G, 0),
                batch["attention_mask"].repeat_interleave(G, 0),
                pad(rows, batch_first=True, padding_value=loop["PAD"]),
                pad([torch.ones_like(row) for row in rows], batch_first=True),
            )
            r = loop["score"](rollout.prompts, [row["answer"] for row in rollout.rows], given[2], G)
            loss, norm = loop["update"](ours, optimizer, given, r)
            assert torch.equal(r.double(), scores.total)
            assert abs(loss - metrics["loss"]) < 1e-6 and norm == pytest.approx(
                metrics["grad_norm"], rel=1e-4
            )
            for a, b in zip(theirs.parameters(), ours.parameters()):
                assert (a - b).abs().max() < 5e-6
    moved = max((a - b).abs().max() for a, b in zip(loop["model"].parameters(), ours.parameters()))
    assert moved > 1e-4
