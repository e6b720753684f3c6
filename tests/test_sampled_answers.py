"""A model's answers, for a rater: as many as asked for, in the prompt's form, the same from the same seed."""

from __future__ import annotations

import pytest

from rlkit import load_model
from rlkit.engines.answers import sampled_answers
from rlkit.errors import ConfigError


@pytest.fixture(scope="module")
def tiny():
    return load_model("rlkit/tiny-arithmetic")


def test_texts_and_messages(tiny):
    rows = [{"prompt": "17+25="}, {"prompt": [{"role": "user", "content": "3+4="}]}]
    found = sampled_answers(*tiny, rows, 3, max_completion_length=4)
    assert [row["prompt"] for row in found] == [row["prompt"] for row in rows]
    assert len(found[0]["completions"]) == len(found[1]["completions"]) == 3
    assert all(isinstance(answer, str) and answer for answer in found[0]["completions"])
    assert all(
        answer[0]["role"] == "assistant" and answer[0]["content"] for answer in found[1]["completions"]
    )


def test_the_seed_and_nothing_else_decides(tiny):
    rows = [{"prompt": f"{a}+{b}="} for a in range(11, 19) for b in range(21, 25)]
    one, same = (sampled_answers(*tiny, rows, 4, max_completion_length=4, seed=3) for _ in range(2))
    other = sampled_answers(*tiny, rows, 4, max_completion_length=4, seed=4)
    assert one == same != other
    assert len({answer for row in one for answer in row["completions"]}) > 10


def test_answers_stay_with_their_prompts_however_they_are_cut(tiny):
    rows = [{"prompt": f"{a}+1="} for a in range(11, 18)]  # no carry: the model knows these
    for at_once in (1, 4, 256):
        found = sampled_answers(*tiny, rows, 2, max_completion_length=4, at_once=at_once)
        assert [row["prompt"] for row in found] == [row["prompt"] for row in rows]
        right = [
            answer == str(a + 1)
            for a, row in zip(range(11, 18), found, strict=True)
            for answer in row["completions"]
        ]
        assert sum(right) >= 12


@pytest.mark.parametrize(("rows", "count"), [([], 2), ([{"prompt": "1+1="}], 0)])
def test_nothing_to_sample(tiny, rows, count):
    with pytest.raises(ConfigError, match="Allowed"):
        sampled_answers(*tiny, rows, count)
