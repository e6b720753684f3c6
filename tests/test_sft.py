"""The warm start: the loss and its gradient against references, and that it teaches what RL can go on from."""

from __future__ import annotations

import dataclasses
import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from small_trainer import PROMPTS, small_model, weights_of
from torch.utils._python_dispatch import TorchDispatchMode

from rlkit import Callback, Run, SFTConfig, SFTTrainer
from rlkit.embedded import build_tokenizer
from rlkit.errors import ConfigError, TrainingError
from rlkit.logprobs import completion_logprobs
from rlkit.trainers.sft_data import Example, demonstrations

ROWS = [  # of different lengths
    {"prompt": f"{a}+{b}=", "completion": f"{a * b} " + "so " * (a % 5) + str(a + b)}
    for a in range(3, 40, 4)
    for b in range(5, 14, 3)
]
TURNS = (
    "{% for m in messages %}[{{ m['role'][0] }}]{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}[a]{% endif %}"
)


def make_trainer(
    tmp_path: Path, model: Any = None, rows: Any = ROWS, held_out: Any = None, **settings
) -> SFTTrainer:
    model, tokenizer = model or small_model()
    defaults = dict(
        output_dir=str(tmp_path / "run"),
        max_steps=3,
        rows_per_step=8,
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        save_model=False,
        disable_tqdm=True,
        seed=0,
    )
    args = SFTConfig(**{**defaults, **settings})
    return SFTTrainer(model, args, rows, held_out, processing_class=tokenizer)


def in_float64() -> tuple[Any, Any]:
    model, tokenizer = small_model()
    return model.double(), tokenizer


def gradients(model: Any) -> dict[str, torch.Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def reference_loss(model: Any, examples: list[Example]) -> torch.Tensor:
    """Row by row, on the full logits in float64."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    for example in examples:
        ids = torch.tensor([example.input_ids])  # [1, L]
        logp = model(input_ids=ids).logits.double().log_softmax(-1)[0]  # [L, V]
        for place in range(1, len(example)):
            if example.learned[place]:
                total = total - logp[place - 1, example.input_ids[place]]
                count += 1
    return total / count


# -- the loss ----------------------------------------------------------------------------------------------


def test_loss_and_gradient_are_those_of_the_full_logits(tmp_path):
    trainer = make_trainer(tmp_path, in_float64(), micro_batch_tokens=40)
    examples = trainer.train_rows[:8]
    values = trainer.gradient(examples)
    ours = gradients(trainer.model)
    loss = reference_loss(trainer.model, examples)
    loss.backward()
    assert values["loss"] == pytest.approx(loss.item(), rel=1e-12)
    assert values["perplexity"] == pytest.approx(math.exp(loss.item()), rel=1e-12)
    assert values["completion_tokens"] == sum(sum(example.learned) for example in examples)
    reference = gradients(trainer.model)
    assert ours.keys() == reference.keys()
    for name, gradient in reference.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-9, atol=1e-12)


def test_loss_in_float32(tmp_path):
    trainer = make_trainer(tmp_path)
    loss = trainer.gradient(trainer.train_rows[:8])["loss"]
    assert loss == pytest.approx(reference_loss(trainer.model, trainer.train_rows[:8]).item(), rel=1e-5)


def test_how_the_batch_is_split_does_not_change_the_gradient(tmp_path):
    splits = (
        {},
        {"micro_batch_tokens": 30},
        {"per_device_train_batch_size": 3},
        {"gradient_accumulation_steps": 8},
    )
    found = []
    for split in splits:
        trainer = make_trainer(tmp_path, in_float64(), rows_per_step=24, **split)
        rows = trainer.train_rows[:24]
        values = trainer.gradient(rows)
        found.append((len(trainer._micro_batches(rows)), values["loss"], gradients(trainer.model)))
    assert len({pieces for pieces, _, _ in found}) > 2, "the splits must differ"
    for _, loss, gradient in found[1:]:
        assert loss == pytest.approx(found[0][1], rel=1e-12)
        for name, expected in found[0][2].items():
            torch.testing.assert_close(gradient[name], expected, rtol=1e-6, atol=1e-8)


def test_a_chat_is_its_turns(tmp_path):
    """What is learned from a conversation is the sum of what is learned from each turn after what came before."""
    model, tokenizer = in_float64()
    tokenizer.chat_template = TURNS
    talk = [
        {"role": role, "content": text}
        for role, text in zip(
            ["user", "assistant"] * 3, ["1+1=", "2", "and 4?", "no: 2", "ok", "fine"], strict=True
        )
    ]
    turns = [{"prompt": talk[:i], "completion": [talk[i]]} for i in (1, 3, 5)]
    trainer = make_trainer(tmp_path, (model, tokenizer), [{"messages": talk}, *turns])
    whole = trainer.gradient(trainer.train_rows[:1])
    learned = gradients(model)
    parts = trainer.gradient(trainer.train_rows[1:])
    assert (
        whole["completion_tokens"] == parts["completion_tokens"] == len("2|") + len("no: 2|") + len("fine|")
    )
    assert whole["loss"] == pytest.approx(parts["loss"], rel=1e-12)
    for name, gradient in gradients(model).items():  # the model's norms and positions are float32 in any case
        torch.testing.assert_close(learned[name], gradient, rtol=1e-5, atol=1e-7)


def test_prompt_tokens_are_read_but_not_learned(tmp_path):
    """With a head of its own, ∂loss/∂logits shows which targets count: a target's row of the head is pulled up."""
    trainer = make_trainer(tmp_path, small_model(tied=False), [{"prompt": "7+7=", "completion": "14"}])
    trainer.gradient(trainer.train_rows)
    head = gradients(trainer.model)["lm_head.weight"]  # [V, H]
    size = head.norm(dim=-1)  # [V]: p(v) · |h| where v is no target, (1 − p) · |h| where it is one
    targets = set(trainer.train_rows[0].input_ids[-3:])
    assert set(size.topk(3).indices.tolist()) == targets
    assert size[trainer.train_rows[0].input_ids[0]] < 0.2 * size[list(targets)].min()


def test_agrees_with_trl(tmp_path):
    pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    import trl

    model, tokenizer = small_model()
    args = trl.SFTConfig(
        output_dir=str(tmp_path / "trl"),
        max_steps=1,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        completion_only_loss=True,
        report_to="none",
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        max_grad_norm=1.0,
    )
    rows = ROWS[:8]
    theirs = trl.SFTTrainer(
        model, args=args, train_dataset=datasets.Dataset.from_list(rows), processing_class=tokenizer
    )
    theirs.train()
    logged = theirs.state.log_history[0]

    trainer = make_trainer(tmp_path, rows=rows)
    metrics = trainer.step()
    assert metrics["loss"] == pytest.approx(logged["loss"], abs=1e-5)
    assert metrics["grad_norm"] == pytest.approx(logged["grad_norm"], rel=1e-4)
    assert metrics["entropy"] == pytest.approx(logged["entropy"], rel=0.02)  # theirs is the mean of two means
    for name, tensor in trainer.model.state_dict().items():
        torch.testing.assert_close(tensor, model.state_dict()[name], rtol=0, atol=2e-5)


# -- how it is computed ------------------------------------------------------------------------------------


class Largest(TorchDispatchMode):
    """The most numbers that any one tensor had."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return out


def test_the_logits_are_never_held(tmp_path):
    from transformers import Qwen2Config, Qwen2ForCausalLM

    vocab, tokenizer = 30_000, build_tokenizer()
    config = Qwen2Config(
        vocab_size=vocab,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        max_position_embeddings=64,
    )
    rows = [{"prompt": "1+1=", "completion": "2" * 40}] * 8
    trainer = make_trainer(tmp_path, (Qwen2ForCausalLM(config), tokenizer), rows)
    with Largest() as seen:
        values = trainer.gradient(trainer.train_rows)
        trainer.eval_rows = trainer.train_rows
        trainer.judge()
    logits = values["completion_tokens"] * vocab
    assert seen.numel < logits / 10
    with Largest() as seen, torch.no_grad():
        ids, attention, _ = trainer._batch(trainer.train_rows)
        trainer.model(input_ids=ids, attention_mask=attention)
    assert seen.numel >= logits, "the instrument sees the logits where they are"


def test_little_padding(tmp_path):
    trainer = make_trainer(tmp_path, rows_per_step=len(ROWS), max_steps=1)
    lengths = [len(example) for example in trainer.train_rows]
    assert min(lengths) * 2 < max(lengths), "the test needs different lengths"
    metrics = trainer.step()
    assert metrics["padding"] < 0.1
    assert metrics["tokens"] == sum(lengths)


def test_dropout_stays_off(tmp_path):
    model, tokenizer = small_model()
    model.config.attention_dropout = 0.5
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    trainer = make_trainer(tmp_path, (model.train(), tokenizer))
    losses = {trainer.gradient(trainer.train_rows[:8])["loss"] for _ in range(3)}
    assert len(losses) == 1


def test_gradient_checkpointing_changes_no_gradient(tmp_path):
    found = []
    for wanted in (False, True):
        trainer = make_trainer(tmp_path, in_float64(), gradient_checkpointing=wanted)
        trainer.gradient(trainer.train_rows[:8])
        found.append(gradients(trainer.model))
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-9, atol=1e-12)


def test_an_adapter_learns_and_its_base_does_not(tmp_path):
    peft = pytest.importorskip("peft")
    model, tokenizer = small_model()
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    model = peft.get_peft_model(model, config)
    trainer = make_trainer(tmp_path, (model, tokenizer), learning_rate=1e-2, max_steps=20)
    before = weights_of(model)
    losses = [trainer.step()["loss"] for _ in range(20)]
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name in before if "lora_" in name}
    assert losses[-1] < losses[0] - 0.05
    assert trainer.describe()["trained_parameters"] == sum(before[name].numel() for name in changed)


# -- a run -------------------------------------------------------------------------------------------------


def test_it_learns_by_heart(tmp_path):
    model, tokenizer = small_model()
    rows = [{"prompt": f"{a}*{b}=", "completion": str(a * b)} for a in range(2, 6) for b in range(3, 8)]
    settings = dict(max_steps=150, rows_per_step=20, learning_rate=5e-3, lr_scheduler_type="linear")
    trainer = make_trainer(tmp_path, (model, tokenizer), rows, rows, **settings)
    summary = trainer.train()
    assert summary["loss_before"] == pytest.approx(math.log(len(tokenizer)), abs=0.3)
    assert summary["loss_after"] < 0.1
    assert summary["perplexity_after"] == pytest.approx(math.exp(summary["loss_after"]))
    assert summary["train_loss_first"] > 5 and summary["train_loss_last"] < 0.1
    for row in rows:
        ids = torch.tensor([tokenizer(row["prompt"])["input_ids"]])
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False)
        assert tokenizer.decode(out[0, ids.shape[1] :]) == row["completion"] + tokenizer.eos_token


def test_a_warm_start_gives_reinforcement_learning_something_to_reinforce(tmp_path):
    """p(right answer and end) under sampling: next to 0 before, found within a few groups after."""
    model, tokenizer = small_model()
    trainer = make_trainer(
        tmp_path,
        (model, tokenizer),
        demonstrations(PROMPTS),
        max_steps=25,
        rows_per_step=12,
        learning_rate=5e-3,
    )

    @torch.no_grad()
    def p_right() -> float:
        logp = completion_logprobs(model, *trainer._batch(trainer.train_rows)).logprobs  # [N, L]
        return float(logp.sum(-1).exp().mean())

    before = p_right()
    trainer.train()
    after = p_right()
    groups = 8 * len(PROMPTS)  # completions that one GRPO step samples
    assert groups * before < 0.01, "nothing to reinforce"
    assert groups * after > 8, "several right answers a step"
    assert after < 0.95, "and something left to learn"


def test_the_run_directory(tmp_path):
    trainer = make_trainer(tmp_path, held_out=ROWS[:5], max_steps=4, eval_steps=2, save_model=True)
    summary = trainer.train()
    run = Run(tmp_path / "run")
    assert run.status == "finished"
    assert run.config["algorithm"] == "SFT"
    assert run.config["sft"]["rows_per_step"] == 8
    assert [row["step"] for row in run.metrics] == [1, 2, 3, 4]
    wanted = {"epoch", "loss", "perplexity", "entropy", "grad_norm", "learning_rate", "skipped", "tokens"}
    wanted |= {"completion_tokens", "padding", "seconds/update", "seconds/step"}
    assert all(wanted <= set(row) for row in run.metrics)
    assert [row["step"] for row in run.evals] == [0, 2, 4]
    assert run.evals[0]["loss"] == pytest.approx(summary["loss_before"])
    assert run.evals[-1]["perplexity"] == pytest.approx(summary["perplexity_after"])
    assert summary["tokens_trained"] == sum(row["completion_tokens"] for row in run.metrics)
    assert run.evals[-1]["n"] == summary["eval_n"] == 5
    from rlkit import load_model

    loaded, _ = load_model(tmp_path / "run" / "model")
    for name, tensor in trainer.model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name])


def test_the_evaluation_is_the_loss_and_changes_nothing(tmp_path):
    trainer = make_trainer(tmp_path, in_float64(), held_out=ROWS[:7], micro_batch_tokens=30)
    before = weights_of(trainer.model)
    evaluation = trainer.judge()
    assert evaluation.loss == pytest.approx(
        reference_loss(trainer.model, trainer.eval_rows).item(), rel=1e-12
    )
    assert evaluation.n == 7
    assert all(torch.equal(tensor, before[name]) for name, tensor in trainer.model.state_dict().items())
    assert all(p.grad is None for p in trainer.model.parameters())
    again = trainer.evaluation_type(
        **{f.name: getattr(evaluation, f.name) for f in dataclasses.fields(evaluation)}
    )
    assert again == evaluation


def test_a_step_leaves_every_row_once_an_epoch(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=-1, num_train_epochs=2, rows_per_step=10)
    assert len(ROWS) == 30 and trainer.total_steps == 6
    assert [trainer.step()["epoch"] for _ in range(6)] == pytest.approx([1 / 3, 2 / 3, 1, 4 / 3, 5 / 3, 2])


def test_what_a_checkpoint_keeps_is_enough_to_go_on(tmp_path):
    straight = make_trainer(tmp_path / "a", max_steps=6, lr_scheduler_type="linear")
    for _ in range(6):
        straight.step()
    first = make_trainer(tmp_path / "b", max_steps=6, lr_scheduler_type="linear")
    for _ in range(3):
        first.step()
    torch.save(first.state_dict(), tmp_path / "state.pt")
    model, tokenizer = small_model(seed=1)
    model.load_state_dict(first.model.state_dict())
    second = make_trainer(tmp_path / "c", (model, tokenizer), max_steps=6, lr_scheduler_type="linear")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=False))
    assert second.step_index == 3
    for _ in range(3):
        second.step()
    assert second.outcome() == straight.outcome()
    for name, tensor in straight.model.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name])


def test_an_interrupted_run_is_resumed_as_if_nothing_had_happened(tmp_path):
    settings = dict(max_steps=6, lr_scheduler_type="linear", held_out=ROWS[:5])
    straight = make_trainer(tmp_path / "a", **settings)
    expected = straight.train()

    class Stop(Callback):
        def on_step_end(self, trainer, metrics):
            if metrics.step == 4:
                trainer.stop()

    first = make_trainer(tmp_path / "b", **settings)
    first.callbacks.append(Stop())
    assert first.train()["status"].startswith("stopped")
    second = make_trainer(tmp_path / "b", **settings)
    summary = second.train(resume=True)
    for name in (
        "steps",
        "loss_before",
        "loss_after",
        "train_loss_first",
        "train_loss_last",
        "tokens_trained",
    ):
        assert summary[name] == expected[name]
    for name, tensor in straight.model.state_dict().items():
        assert torch.equal(tensor, second.model.state_dict()[name])
    other = make_trainer(tmp_path / "b", rows=ROWS[1:], **settings)
    with pytest.raises(ConfigError, match="train_dataset"):
        other.train(resume=True)


def test_gradients_that_are_not_finite_are_never_applied(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.step()
    before = weights_of(trainer.model)
    poison = trainer.model.model.norm.weight.register_hook(lambda gradient: gradient * math.nan)
    with pytest.warns(RuntimeWarning, match="step 2: the gradient is not finite"):
        assert trainer.step()["skipped"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        trainer.step()
        with pytest.raises(TrainingError, match="3 non-finite gradients in a row"):
            trainer.step()
    assert all(torch.equal(tensor, before[name]) for name, tensor in trainer.model.state_dict().items())
    poison.remove()
    assert (trainer.run_dir / "nonfinite").exists()


# -- settings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "rows", "micro"),
    [
        ({}, 16, None),
        ({"rows_per_step": 4}, 4, None),
        ({"per_device_train_batch_size": 4}, 4, 4),
        ({"per_device_train_batch_size": 4, "gradient_accumulation_steps": 3}, 12, 4),
        ({"rows_per_step": 12, "gradient_accumulation_steps": 3}, 12, 4),
        ({"rows_per_step": 12, "per_device_train_batch_size": 5}, 12, 5),
    ],
)
def test_the_rows_of_a_step(settings, rows, micro):
    args = SFTConfig(**settings)
    assert (args.rows_per_step, args.per_device_train_batch_size) == (rows, micro)
    assert SFTConfig.from_dict(args.to_dict()) == args
    assert dataclasses.replace(args) == args


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"rows_per_step": 0}, ["rows_per_step=0", "1 or more"]),
        ({"max_length": 1}, ["max_length=1", "2 or more", "a token before it"]),
        (
            {"rows_per_step": 8, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
            ["rows_per_step=8", "is 4", "not both"],
        ),
        (
            {"rows_per_step": 8, "gradient_accumulation_steps": 3},
            ["gradient_accumulation_steps=3", "divisor of the 8"],
        ),
        ({"learning_rate": 0.0}, ["learning_rate=0.0", "above 0"]),
        ({"max_steps": 0}, ["max_steps=0", "count epochs"]),
        ({"rows_per_stp": 8}, ["'rows_per_stp'", "Did you mean 'rows_per_step'"]),
        ({"num_generations": 8}, ["SFTConfig setting 'num_generations'"]),
    ],
)
def test_settings_refused(settings, says):
    with pytest.raises(ConfigError) as caught:
        SFTConfig(**settings)
    for part in says:
        assert part in str(caught.value)


def test_arguments_refused(tmp_path):
    model, tokenizer = small_model()
    with pytest.raises(ConfigError, match=r"args=\{.*SFTConfig\.from_dict"):
        SFTTrainer(model, {"max_steps": 3}, ROWS, processing_class=tokenizer)
    with pytest.raises(ConfigError, match="a transformers causal LM"):
        SFTTrainer(torch.nn.Linear(2, 2), SFTConfig(), ROWS, processing_class=tokenizer)
    with pytest.raises(ConfigError, match="must be the model's tokenizer"):
        SFTTrainer(model, SFTConfig(output_dir=str(tmp_path)), ROWS)
    with pytest.raises(ConfigError, match="train_dataset must be a list of dicts"):
        SFTTrainer(model, SFTConfig(output_dir=str(tmp_path)), processing_class=tokenizer)
    with pytest.raises(ConfigError, match="row 0 of eval_dataset has no completion to learn"):
        make_trainer(tmp_path, held_out=[{"prompt": "1+1=", "answer": "2"}])
    with pytest.raises(ConfigError, match=r"max_length=65 .*at most 64 for this model"):
        make_trainer(tmp_path, max_length=65)
    with pytest.raises(ConfigError, match="no trainable parameter"):
        make_trainer(tmp_path, (model.requires_grad_(False), tokenizer))
    assert not (tmp_path / "run").exists(), "nothing was written"


def test_rows_beyond_the_models_context_are_left_out(tmp_path):
    long = {"prompt": "1" * 60, "completion": "2222"}  # 65 tokens, the model has positions for 64
    with pytest.warns(UserWarning, match="1 of the 31 rows of train_dataset are left out"):
        trainer = make_trainer(tmp_path, rows=[*ROWS, long])
    assert len(trainer.train_rows) == 30
    assert trainer.describe()["left_out"] == {"train_dataset": 1, "eval_dataset": 0}
