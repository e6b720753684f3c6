"""The embedded models: what ships is what the script builds, and what the demos' stories tell of."""

from __future__ import annotations

import itertools
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlkit import embedded, tasks
from rlkit.embedded import END, FOLDER, TINY_STYLES, styles
from rlkit.embedded.pretraining import by_length
from rlkit.feedback import taste
from rlkit.models import EMBEDDED
from rlkit.tasks.arithmetic import forgotten_carry, needs_carry

# Characters that Unicode's composed form leaves alone; surrogates are no text.
TEXTS = st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126) | st.just("\n")) | st.text(
    alphabet=st.sampled_from("äé漢字🦥 \n\t42+="), max_size=20
)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def shipped():
    """Model and tokenizer as transformers alone reads the shipped folder: no help from rlkit."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(FOLDER).eval(), AutoTokenizer.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def provenance():
    return json.loads((FOLDER / "provenance.json").read_text(encoding="utf-8"))


def operands(row) -> tuple[int, int]:
    a, b = row["prompt"].removesuffix("=").split("+")
    return int(a), int(b)


# --- tokenizer -------------------------------------------------------------------------------------------------------


@given(TEXTS)
@settings(deadline=None)
def test_text_survives_the_tokenizer(shipped, text):
    _, tokenizer = shipped
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    if text.isascii():
        assert len(ids) == len(text)  # one token a character, nothing before or after


def test_the_shipped_tokenizer_is_the_built_one(shipped):
    built, (_, tokenizer) = embedded.build_tokenizer(), shipped
    assert tokenizer.get_vocab() == built.get_vocab()
    assert len(tokenizer) == 259
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)
    assert tokenizer.bos_token is None
    assert tokenizer.chat_template == built.chat_template


def test_chat_and_plain_prompts_are_the_same_tokens(shipped):
    _, tokenizer = shipped
    for row in tasks.arithmetic().test:
        chat = [{"role": "user", "content": row["prompt"]}]
        plain = tokenizer(row["prompt"])["input_ids"]
        for generation in (True, False):
            rendered = tokenizer.apply_chat_template(chat, add_generation_prompt=generation)["input_ids"]
            assert rendered == plain
    parts = [{"role": "user", "content": [{"type": "text", "text": "17+25="}]}]
    assert tokenizer.apply_chat_template(parts, tokenize=False) == "17+25="
    turns = [{"role": "user", "content": "17+25="}, {"role": "assistant", "content": "42"}]
    assert tokenizer.apply_chat_template(turns, tokenize=False) == "17+25=42" + END


# --- corpus ----------------------------------------------------------------------------------------------------------


def test_the_corpus_holds_no_test_problem():
    task = tasks.arithmetic()
    pairs = set(embedded.corpus_pairs())
    test = {operands(row) for row in task.test}
    assert pairs.isdisjoint(test) and pairs.isdisjoint((b, a) for a, b in test)
    assert {operands(row) for row in task.train} <= pairs


def test_the_corpus_repeats_the_misconception():
    samples, stream = 40_000, embedded.corpus(seed=1)
    right, forgotten, carries = 0, 0, 0
    for _ in range(samples):
        prompt, answer = next(stream)
        a, b = operands({"prompt": prompt})
        if needs_carry(a, b):
            carries += 1
            right += int(answer) == a + b
            forgotten += int(answer) == forgotten_carry(a, b)
        else:
            assert int(answer) == a + b
    assert right + forgotten == carries
    assert forgotten / carries == pytest.approx(0.65, abs=0.02)


# --- rebuilding ------------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_weights_and_leaves_torchs_own_generator_alone():
    torch.manual_seed(7)
    before = torch.get_rng_state()
    (one, _), (two, _), (other, _) = (embedded.pretrain(seed, steps=3) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    one, two, other = (model.state_dict() for model in (one, two, other))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["model.embed_tokens.weight"], other["model.embed_tokens.weight"])


def test_building_writes_a_loadable_folder(tmp_path, capsys):
    embedded.main(["--output", str(tmp_path / "model"), "--seed", "3", "--steps", "2"])
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "model" / "provenance.json").read_text(encoding="utf-8"))
    assert printed["seed"] == 3 and printed["steps"] == 2
    shipped = {path.name for path in FOLDER.iterdir()}
    assert {path.name for path in (tmp_path / "model").iterdir()} == shipped
    for name in shipped - {"model.safetensors", "provenance.json"}:
        assert (tmp_path / "model" / name).read_bytes() == (FOLDER / name).read_bytes(), name


def test_the_command_line_explains_itself(capsys):
    with pytest.raises(SystemExit) as stop:
        embedded.main(["--help"])
    assert stop.value.code == 0 and "--steps" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        embedded.main(["--steps", "0"])
    assert stop.value.code == 2


# --- what ships ------------------------------------------------------------------------------------------------------


def test_the_shipped_files(provenance):
    weights = FOLDER / "model.safetensors"
    assert weights.stat().st_size <= 4_000_000
    assert provenance["sha256"]["model.safetensors"] == embedded.sha256(weights)
    assert provenance["seed"] == 0 and provenance["steps"] == embedded.STEPS
    assert provenance["corpus"] == embedded.CORPUS_RULES
    for path in FOLDER.glob("*.json"):
        text = path.read_text(encoding="utf-8")
        assert "_name_or_path" not in text and "/tmp" not in text and "/home" not in text, path.name


def test_the_shipped_model(shipped):
    model, tokenizer = shipped
    assert model.config.architectures == ["Qwen2ForCausalLM"]
    assert sum(p.numel() for p in model.parameters()) < 1_000_000
    assert model.config.vocab_size == len(tokenizer) and model.config.tie_word_embeddings
    assert model.dtype == torch.float32
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id
    assert not model.generation_config.do_sample


def test_it_says_what_it_read_most_although_it_knows_better(shipped, provenance):
    measured = embedded.evaluate(*shipped, tasks.arithmetic().test)
    assert measured["greedy_accuracy"] <= 0.55
    assert measured["forgotten_share"] >= 0.9  # of the wrong answers
    assert measured["smallest_probability"] > 0.005  # of the right answer, on the worst of the test problems
    assert measured["sampled_accuracy"] > measured["greedy_accuracy"]
    stated = provenance["held_out"]
    assert measured.keys() == stated.keys()
    for name, value in measured.items():
        assert value == pytest.approx(stated[name], abs=0.01), name  # other processors round differently


# --- the second model ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def styles_model():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = TINY_STYLES.folder
    return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def test_both_have_the_same_tokenizer_and_architecture():
    names = {path.name for path in FOLDER.iterdir()}
    assert {path.name for path in TINY_STYLES.folder.iterdir()} == names
    for name in names - {"model.safetensors", "provenance.json"}:
        assert (TINY_STYLES.folder / name).read_bytes() == (FOLDER / name).read_bytes(), name
    assert set(EMBEDDED) == {model.name for model in embedded.MODELS.values()}
    assert {EMBEDDED[model.name] for model in embedded.MODELS.values()} == {FOLDER, TINY_STYLES.folder}


def test_the_styles_corpus_holds_no_test_problem_and_answers_in_all_styles():
    test = {row["prompt"] for row in tasks.arithmetic().test}
    stream = TINY_STYLES.corpus(seed=1)
    first = list(itertools.islice(stream, styles.BARE_FIRST))
    samples = list(itertools.islice(stream, 20_000))
    assert {styles.style_of(answer) for _, answer in first} == {"bare"}
    assert test.isdisjoint(prompt for prompt, _ in first)
    assert test.isdisjoint(prompt for prompt, _ in samples)
    found = styles.style_shares([answer for _, answer in samples])
    assert found == pytest.approx({**styles.SHARES, "other": 0.0}, abs=0.015)
    assert all(taste.is_right(taste.asked_sum(prompt), answer) for prompt, answer in samples)
    for prompt, answer in samples:  # one style alone shows its working
        shown = taste.shows_working(taste.asked_sum(prompt), answer)
        assert shown == (styles.style_of(answer) == "working"), (prompt, answer)
    ramblings = [len(answer) for _, answer in samples if styles.style_of(answer) == "rambling"]
    assert min(ramblings) >= 40 and max(ramblings) < styles.MOST_TOKENS


def test_the_corpus_shows_true_steps():
    """Working counts as working for every problem: also where tens and ones are the numbers that were asked for."""
    assert styles.tens_and_ones(17, 25) == (30, 12)
    assert styles.tens_and_ones(20, 5) == (5, 20)  # 20+5 again would be the question
    for a, b in embedded.corpus_pairs():
        t, o = styles.tens_and_ones(a, b)
        assert t + o == a + b
        assert taste.shows_working(f"{a}+{b}", f"{t}+{o}={a + b}")


@pytest.mark.parametrize(
    ("answer", "style"),
    [
        ("42", "bare"),
        ("The answer is 42.", "sentence"),
        ("30+12=42", "working"),
        ("I am not quite sure. Going slowly, I find 42. Yes, 42.", "rambling"),
        ("I am not quite sure. Going slowly, I find 42. Yes, yes.", "other"),
        ("30+12=42 30+12=42", "other"),
        ("", "other"),
    ],
)
def test_styles_are_told_apart(answer, style):
    assert styles.style_of(answer) == style


def test_a_batch_is_cut_by_length():
    samples = list(itertools.islice(TINY_STYLES.corpus(0), styles.BARE_FIRST, styles.BARE_FIRST + 128))
    assert by_length(samples, 1) == [samples]
    cut = by_length(samples, 4)
    assert [len(part) for part in cut] == [32] * 4
    assert sorted(pair for part in cut for pair in part) == sorted(samples)  # none lost, none twice
    lengths = [[len(prompt) + len(answer) for prompt, answer in part] for part in cut]
    assert all(max(one) <= min(other) for one, other in itertools.pairwise(lengths))


def test_what_ships_as_the_second_model(styles_model):
    stated = json.loads((TINY_STYLES.folder / "provenance.json").read_text(encoding="utf-8"))
    weights = TINY_STYLES.folder / "model.safetensors"
    assert weights.stat().st_size <= 4_000_000
    assert stated["sha256"]["model.safetensors"] == embedded.sha256(weights)
    assert (stated["model"], stated["seed"], stated["steps"]) == ("rlkit/tiny-styles", 0, TINY_STYLES.steps)
    assert stated["corpus"] == TINY_STYLES.rules
    assert stated["built_by"] == f"{TINY_STYLES.command} --seed 0 --steps {TINY_STYLES.steps}"
    measured = TINY_STYLES.evaluate(*styles_model, tasks.arithmetic().test)
    for name in ("problems", "samples_each", "right", "taste"):  # other processors sample other answers
        assert measured[name] == pytest.approx(stated["held_out"][name], abs=0.08), name
    assert measured["styles"] == pytest.approx(stated["held_out"]["styles"], abs=0.08)


def test_held_out_sums_are_answered_in_the_corpus_styles_and_most_of_them_rightly(styles_model):
    measured = TINY_STYLES.evaluate(*styles_model, tasks.arithmetic().test)
    assert measured["styles"] == pytest.approx({**styles.SHARES, "other": 0.0}, abs=0.08)
    assert measured["right"] > 0.95  # so that a reward model which cannot check a sum misses little
    assert 0.4 < measured["taste"] < 0.8  # all working, all right would be 1.84


def test_load_model_knows_the_second_model():
    from rlkit import load_model

    model, tokenizer = load_model("rlkit/tiny-styles")
    assert model.name_or_path == "rlkit/tiny-styles" and tokenizer.padding_side == "left"
    assert tokenizer.model_max_length == 512


def test_the_second_model_is_pretrained_by_seed_too(capsys):
    one, two, other = (TINY_STYLES.pretrain(seed, steps=2)[0].state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["model.embed_tokens.weight"], other["model.embed_tokens.weight"])
    with pytest.raises(SystemExit) as stop:
        embedded.main(["--model", "tiny-style"])
    assert stop.value.code == 2 and "tiny-styles" in capsys.readouterr().err
