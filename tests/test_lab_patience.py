"""Patience: formulas against draws (with intervals), against listing every case, and on the real tiny model."""

from __future__ import annotations

import itertools
import math
import random

import pytest
import torch

from rlkit import lab, load_model, tasks
from rlkit.errors import ConfigError
from rlkit.lab import patience as pt
from rlkit.lab.patience_models import answer_logprobs, answer_probabilities, compare, task_patience
from rlkit.objectives import group_advantages

F64 = torch.float64

# --- The geometric law -------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.9, 0.3, 0.02, 0.001])
def test_measured_draws_against_one_over_p(p):
    found = pt.measure_patience(p, trials=4000, seed=1, z=4)
    assert found.holds(float(pt.expected_draws(p)))
    assert not found.holds(1.25 / p)  # so it could fail


def test_the_law_itself():
    p, trials = 0.2, 20_000
    draws = pt.simulate_draws(p, trials, seed=2)[0]
    for k in (1, 2, 5, 12):
        assert pt.wilson_interval(int((draws == k).sum()), trials, z=4).holds(float(pt.geometric_pmf(p, k)))
        assert pt.wilson_interval(int((draws <= k).sum()), trials, z=4).holds(float(pt.pass_at_k_exact(p, k)))
    k = torch.arange(1, 400)
    assert float(pt.geometric_pmf(p, k).sum()) == pytest.approx(1)
    assert float((k * pt.geometric_pmf(p, k)).sum()) == pytest.approx(1 / p)
    assert float(pt.geometric_pmf(p, 0)) == 0 and float(pt.geometric_pmf(1.0, 1)) == 1


def test_drawing_by_hand():
    rng = random.Random(0)
    draws = [pt.draw_until_right(lambda: rng.random() < 0.25) for _ in range(4000)]
    assert pt.mean_interval(torch.tensor(draws), z=4).holds(4)
    assert pt.draw_until_right(lambda: False, limit=50) is None


def test_no_patience_suffices_where_p_is_zero():
    assert float(pt.expected_draws(0.0)) == math.inf == float(pt.draws_for(0.0))
    assert torch.isinf(pt.simulate_draws([0.0, 1.0], 5)[0]).all()
    assert (pt.simulate_draws([0.0, 1.0], 5)[1] == 1).all()
    assert float(pt.pass_at_k_exact(0.0, 10**9)) == 0 and float(pt.pass_at_k_exact(1.0, 1)) == 1
    assert torch.isinf(pt.simulate_draws(1e-9, 3, limit=1000)).all()


def test_tiny_chances_are_not_rounded_away():
    assert float(pt.pass_at_k_exact(1e-18, 10)) == pytest.approx(1e-17, rel=1e-9, abs=0)
    assert float(pt.draws_for(0.01)) == 299 and float(pt.draws_for(1e-6)) == pytest.approx(2.9957e6, rel=1e-4)
    assert float(pt.pass_at_k_exact(0.01, 299)) >= 0.95 > float(pt.pass_at_k_exact(0.01, 298))
    assert float(pt.draws_for(1.0)) == 1


def test_first_hits_and_the_mean_wait_when_some_never_came():
    correct = torch.tensor([[0, 0, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0]])
    assert pt.first_hits(correct).tolist() == [3, 1, math.inf]
    p, n = 0.05, 10
    verdicts = torch.rand(40_000, n, generator=torch.Generator().manual_seed(0)) < p
    hits = pt.first_hits(verdicts)
    assert pt.mean_draws(hits, n) == pytest.approx(1 / p, rel=0.05)
    assert float(hits[torch.isfinite(hits)].mean()) < 6  # those that came, alone, look short of 20
    assert pt.mean_draws(torch.tensor([math.inf]), n) == math.inf


# --- pass@k ------------------------------------------------------------------------------------------------


def test_pass_at_k_is_the_share_of_choices_with_a_right_one():
    for n in range(1, 8):
        for c, k in itertools.product(range(n + 1), range(1, n + 1)):
            choices = list(itertools.combinations([True] * c + [False] * (n - c), k))
            assert float(pt.pass_at_k(n, c, k)) == pytest.approx(
                sum(map(any, choices)) / len(choices), abs=1e-12
            )


@pytest.mark.parametrize(("p", "n", "k"), [(0.1, 10, 4), (0.02, 64, 16), (0.7, 5, 5)])
def test_pass_at_k_is_unbiased_and_the_plug_in_is_not(p, n, k):
    c = torch.arange(n + 1)
    chance = torch.tensor([math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(n + 1)], dtype=F64)
    truth = float(pt.pass_at_k_exact(p, k))
    assert float(chance @ pt.pass_at_k(torch.tensor(n), c, k)) == pytest.approx(truth, abs=1e-12)
    assert float(chance @ pt.pass_at_k_exact(c / n, k)) < truth - 1e-3
    large = pt.pass_at_k(20_000, 7, 1000)  # C(20000, 1000) itself has more digits than a float has room for
    exact = 1 - math.comb(19_993, 1000) / math.comb(20_000, 1000)
    assert float(large) == pytest.approx(exact, abs=1e-10)


def test_what_pass_at_k_refuses():
    for n, c, k in ((4, 2, 5), (4, 2, 0)):
        with pytest.raises(ConfigError, match="k="):
            pt.pass_at_k(n, c, k)
    with pytest.raises(ConfigError, match="c="):
        pt.pass_at_k(4, 5, 2)


# --- Means over prompts ------------------------------------------------------------------------------------


def test_jensen():
    found = pt.jensen([0.5, 0.1, 0.02])
    assert found.mean_of_inverse == pytest.approx((2 + 10 + 50) / 3)
    assert found.inverse_of_mean == pytest.approx(3 / 0.62)
    assert found.ratio == pytest.approx(found.mean_of_inverse / found.inverse_of_mean) and found.ratio > 4
    assert pt.jensen([0.3] * 4).ratio == pytest.approx(1)
    assert pt.jensen([0.0, 0.5]).mean_of_inverse == math.inf and pt.jensen([0.0, 0.5]).inverse_of_mean == 4
    assert math.isnan(pt.jensen([0.0]).ratio)
    # Drawn: prompts dealt out, each drawn until right, against a new prompt for every draw.
    p = torch.tensor([0.5, 0.1, 0.02])
    assert pt.mean_interval(pt.simulate_draws(p, 4000).flatten(), z=4).holds(found.mean_of_inverse)
    generator = torch.Generator().manual_seed(0)
    mixed = p[torch.randint(3, (4000, 400), generator=generator)]  # [trials, draws], a prompt for each draw
    hits = pt.first_hits(torch.rand(mixed.shape, generator=generator) < mixed)
    assert pt.mean_interval(hits, z=4).holds(found.inverse_of_mean)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_groups_without_spread_by_listing_them(size):
    shares = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.0, 0.9]], dtype=F64)
    dead = 0.0
    for row in shares:
        for group in itertools.product(range(3), repeat=size):
            dead += float(row[list(group)].prod()) * (len(set(group)) == 1) / 2
    assert float(pt.no_spread(shares, size)) == pytest.approx(dead, abs=1e-12)
    p = torch.tensor([0.3, 0.05])
    assert float(pt.no_spread(p, size)) == pytest.approx(float((p**size + (1 - p) ** size).mean()))


def test_groups_without_spread_against_what_the_objective_calls_dead():
    p = torch.tensor([0.02, 0.2, 0.6, 0.95], dtype=F64)
    generator = torch.Generator().manual_seed(0)
    rewards = (torch.rand(2000, 4, 8, generator=generator) < p[:, None]).double()  # [trials, P, G]
    dead = group_advantages(rewards.flatten(0, 1)).dead
    expected = float(pt.no_spread(p, 8))
    assert pt.wilson_interval(int(dead.sum()), len(dead), z=4).holds(expected)
    assert not pt.wilson_interval(int(dead.sum()), len(dead), z=4).holds(float(pt.no_spread(p.mean(), 8)))


def test_the_estimate_of_groups_without_spread_is_unbiased():
    shares, n, size = torch.tensor([0.6, 0.3, 0.1], dtype=F64), 5, 3
    mean = 0.0
    for drawn in itertools.product(range(3), repeat=n):
        estimate = float(pt.no_spread_estimate(torch.tensor([drawn]), size))
        mean += float(shares[list(drawn)].prod()) * estimate
    assert mean == pytest.approx(float(pt.no_spread(shares[None], size)), abs=1e-12)


def test_the_summary_adds_up():
    p = torch.tensor([0.5, 0.1, 0.02], dtype=F64)
    found = pt.patience(p, group_size=4)
    assert (found.prompts, found.median_draws, found.worst_draws) == (3, 10.0, pytest.approx(50))
    assert found.mean_draws == pytest.approx(62 / 3) and found.mean_p == pytest.approx(0.62 / 3)
    assert found.pass_at_k == pytest.approx(float((1 - (1 - p) ** 4).mean()))
    assert found.no_spread == pytest.approx(float(pt.no_spread(p, 4)))
    assert "median 10" in str(found) and "groups of 4" in str(found)


def test_wilsons_interval_covers_as_often_as_it_says():
    p, n = 0.03, 100
    covered = sum(
        math.comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1) if pt.wilson_interval(c, n).holds(p)
    )
    assert 0.92 < covered < 0.99
    assert pt.wilson_interval(0, 100).low == 0 and 0.03 < pt.wilson_interval(0, 100).high < 0.04


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: pt.expected_draws(1.5), "p=1.5"),
        (lambda: pt.expected_draws([]), "p="),
        (lambda: pt.no_spread([[0.5, 0.4]], 2), "add up to 1"),
        (lambda: pt.no_spread([0.5], 0), "group_size=0"),
        (lambda: pt.no_spread_estimate(torch.zeros(1, 3), 4), "group_size=4"),
        (lambda: pt.draws_for(0.5, 1.0), "confidence"),
        (lambda: pt.wilson_interval(3, 2), "hits=3"),
    ],
)
def test_what_is_refused(call, words):
    with pytest.raises(ConfigError, match=words):
        call()


# --- The real tiny model -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny():
    return load_model("rlkit/tiny-arithmetic")


def test_exact_p_is_the_product_of_the_models_own_probabilities(tiny):
    model, tokenizer = tiny
    rows = tasks.arithmetic().rows("test", 12)
    p = answer_probabilities(model, tokenizer, rows, batch_size=5)
    warm = answer_probabilities(model, tokenizer, rows, temperature=2.0)
    begins = answer_probabilities(model, tokenizer, rows, end=False)
    for i, row in enumerate(rows):
        prompt = tokenizer(row["prompt"])["input_ids"]
        answer = [*tokenizer(row["answer"])["input_ids"], tokenizer.eos_token_id]
        with torch.no_grad():
            logits = model(torch.tensor([prompt + answer])).logits[0].double()
        for found, temperature, tokens in ((p, 1, answer), (warm, 2, answer), (begins, 1, answer[:-1])):
            logp = (logits / temperature).log_softmax(-1)
            product = math.prod(math.exp(logp[len(prompt) - 1 + t, y]) for t, y in enumerate(tokens))
            assert float(found[i]) == pytest.approx(product, rel=1e-4)
    assert (begins >= p).all()
    chat = tasks.arithmetic(chat=True).rows("test", 12)
    assert torch.allclose(answer_logprobs(model, tokenizer, chat), p.log(), atol=1e-4)


def test_exact_p_against_sampling(tiny):
    from rlkit.engines.base import Sampling
    from rlkit.engines.hf import HFEngine

    model, tokenizer = tiny
    task = tasks.arithmetic()
    rows = task.rows("test", 8)
    p = answer_probabilities(model, tokenizer, rows)
    engine = HFEngine(model, tokenizer)
    _, ids = lab.patience_models.tokenize_prompts(tokenizer, [row["prompt"] for row in rows])
    completions = engine.generate(ids, Sampling(n=256, temperature=1.0, max_tokens=6, seed=0))
    ended = [completion.text == rows[i // 256]["answer"] for i, completion in enumerate(completions)]
    verdicts = torch.tensor(ended).view(8, 256)  # [P, n]
    for chance, right in zip(p.tolist(), verdicts.sum(1).tolist()):
        assert pt.wilson_interval(right, 256, z=4).holds(chance)
    assert float(pt.pass_at_k(256, verdicts.sum(1), 8).mean()) == pytest.approx(
        float(pt.pass_at_k_exact(p, 8).mean()), abs=0.12
    )


def test_what_a_few_updates_change(tmp_path):
    from rlkit import GRPOConfig, GRPOTrainer

    model, tokenizer = load_model("rlkit/tiny-arithmetic")
    task = tasks.arithmetic()
    before, old = task_patience(model, tokenizer, task)
    args = GRPOConfig(
        max_steps=10, prompts_per_step=16, num_generations=16, max_completion_length=4, learning_rate=5e-5,
        fast_inference=False, output_dir=str(tmp_path / "run"), disable_tqdm=True,
    )  # fmt: skip
    with GRPOTrainer(model, task.reward_funcs[1], args, task.train, processing_class=tokenizer) as trainer:
        trainer.train()
    after, new = task_patience(model, tokenizer, task)
    print(old, new, compare(before, after), sep="\n")
    assert new.mean_draws < old.mean_draws - 0.1 and new.mean_p > old.mean_p + 0.01
    assert old.mean_draws > 1.3 * old.inverse_of_mean  # Jensen, with exact p
    assert f"For {int((after < before).sum())} of 168 prompts p fell" in compare(before, after)


def test_rows_that_have_no_answer(tiny):
    model, tokenizer = tiny
    with pytest.raises(ConfigError, match="row 0"):
        answer_logprobs(model, tokenizer, [{"prompt": "1+1="}])
    with pytest.raises(ConfigError, match="rows="):
        answer_logprobs(model, tokenizer, [])
    with pytest.raises(ConfigError, match="same rows"):
        compare(torch.ones(2), torch.ones(3))
