"""The rater: what is pressed is what the file holds, across restarts and raters; agreement is said as it is."""

import json

import pytest
from synthetic_run import write_run

from rlkit.errors import ConfigError
from rlkit.feedback import FeedbackStore, Questions, cohen_kappa
from rlkit.runs import Run
from rlkit.runs.evidence import number
from rlkit.widgets import PreferenceRater
from rlkit.widgets.models.preferences import Agreement, Rating, rows_from_run

PAIRS = [{"prompt": f"{a}+1=", "completions": [str(a + 1), str(a + 2)]} for a in range(6)]
ONES = [{"prompt": f"{a}+1=", "completions": [str(a + 1)]} for a in range(3)]


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_buttons_write_the_answer_that_was_shown(tmp_path):
    path = tmp_path / "feedback.jsonl"
    rater = PreferenceRater(PAIRS, path, rater="ada")
    shown = []
    for button, choice in ((rater.first, "first"), (rater.second, "second"), (rater.tie, "tie")):
        question = rater.rating.question
        assert all(answer in rater._question.value for answer in question.answers)
        shown.append((question.prompt, *question.answers, choice))
        button.click()
    kept = [(e["prompt"], e["first"], e["second"], e["choice"]) for e in lines_of(path)]
    assert kept == shown and "3 of 6 answered" in rater._progress.value
    assert not rater._trouble.value and "as good as each other" in rater._said.value


def test_the_order_is_that_of_questions_and_differs_between_raters(tmp_path):
    store = FeedbackStore(tmp_path / "feedback.jsonl")
    rows = [{"prompt": f"q{i}", "completions": ["one", "two"]} for i in range(30)]
    seen = {}
    for name in ("ada", "bob"):
        rater = PreferenceRater(rows, store, rater=name, seed=3)
        expected = Questions(store, rows, rater=name, seed=3)
        sides = []
        while rater.rating.question is not None:
            assert rater.rating.question == expected.current
            sides.append((rater.rating.question.prompt, rater.rating.question.answers[0]))
            rater.first.click()
            expected = Questions(store, rows, rater=name, seed=3)
        seen[name] = sides
    assert seen["ada"] != seen["bob"] and {first for _, first in seen["ada"]} == {"one", "two"}


def test_keys_answer_at_each_character(tmp_path):
    path = tmp_path / "feedback.jsonl"
    rater = PreferenceRater(PAIRS, path, rater="ada")
    rater.key_field.value = "1"
    rater.key_field.value = "12="  # two keys that came in one message
    assert [e["choice"] for e in lines_of(path)] == ["first", "second", "tie"]
    rater.key_field.value = "12"  # a deletion is no key
    assert len(lines_of(path)) == 3
    before = rater.rating.question
    rater.key_field.value = "12s"
    assert rater.rating.question != before
    rater.key_field.value = "12sU"
    assert lines_of(path)[-1]["kind"] == "undo" and "2 of 6 answered" in rater._progress.value
    rater.key_field.value = "12sUx"
    assert "one of 1, 2, =, s, u" in rater._trouble.value and len(lines_of(path)) == 4
    rater.key_field.value = "12sUx1"
    assert not rater._trouble.value and len(lines_of(path)) == 5


def test_thumbs(tmp_path):
    path = tmp_path / "feedback.jsonl"
    rater = PreferenceRater(ONES, path, rater="ada")
    assert rater.first.layout.display == "none" and rater.up.layout.display is None
    rater.up.click()
    rater.press("2")
    rater.press("=")
    assert "allowed" in rater._trouble.value or "one of" in rater._trouble.value
    rater.down.click()
    assert [e["label"] for e in lines_of(path)] == [True, False, False]
    assert "All 3 questions are answered" in rater._question.value and rater.up.disabled
    rater.undo.click()
    assert rater.rating.state == "asking" and not rater.up.disabled


def test_one_goes_on_after_a_restart(tmp_path):
    path = tmp_path / "feedback.jsonl"
    one = PreferenceRater(PAIRS, path, rater="ada")
    for _ in range(4):
        one.first.click()
    left = one.rating.question
    again = PreferenceRater(PAIRS, path, rater="ada")
    assert again.rating.progress == (4, 6) and again.rating.question == left
    again.undo.click()
    assert again.rating.progress == (3, 6)


def test_a_name_is_asked_for_and_may_change(tmp_path):
    path = tmp_path / "feedback.jsonl"
    rater = PreferenceRater(PAIRS, path)
    assert rater.first.disabled and rater.key_field.disabled and "name first" in rater._question.value
    rater.press("1")
    assert "type yours first" in rater._trouble.value and not path.exists()
    rater.rater.value = " ada "
    assert not rater._trouble.value and not rater.first.disabled
    rater.first.click()
    rater.rater.value = "bob"
    assert "0 of 6 answered" in rater._progress.value
    rater.undo.click()
    assert "no answer of yours" in rater._said.value
    rater.first.click()
    assert [e["rater"] for e in lines_of(path)] == ["ada", "bob"]
    rater.rater.value = ""
    assert rater.rating.state == "nameless"


def test_agreement_in_words_is_the_stores(tmp_path):
    store = FeedbackStore(tmp_path / "feedback.jsonl")
    rows = [{"prompt": f"q{i}", "completions": ["one", "two"]} for i in range(8)]
    for name, says in (("ada", "oooottto"), ("bob", "ooottttt")):
        for row, said in zip(rows, says, strict=True):
            store.prefer(row["prompt"], "one", "two", "first" if said == "o" else "second", rater=name)
    rating = Rating(rows, store, "ada")
    kappa, items = store.agreement()["cohen"]["ada", "bob"]
    both = [[1 if c == "o" else -1 for c in says] for says in ("oooottto", "ooottttt")]
    assert kappa == cohen_kappa(*[[*one, *(-x for x in one)] for one in both]) and items == 8
    (told,) = rating.agreement()
    assert (told.who, told.kind, told.items, told.kappa) == ("ada and bob", "comparisons", 8, kappa)
    assert told.words == "moderate *"
    panel = PreferenceRater(rows, store, rater="cyd")
    cells = [f">{cell}<" for cell in ("ada and bob", "8 comparisons", number(kappa), told.words)]
    assert all(cell in panel._others.value for cell in cells) and "ada: 8 answers" in panel._others.value
    for row in rows:
        store.prefer(row["prompt"], "one", "two", "tie", rater="cyd")
    everyone, *pairs = Rating(rows, store, "cyd").agreement()
    assert everyone.who == "all 3 raters" and everyone.kappa == store.agreement()["fleiss"]
    assert [pair.who for pair in pairs] == ["ada and cyd", "bob and cyd", "ada and bob"]  # one's own first


@pytest.mark.parametrize(
    ("items", "kappa", "words"),
    [
        (0, None, "nothing that they all answered yet"),
        (30, None, "all answers are the same, so κ has no value"),
        (30, -0.2, "none beyond chance"),
        (30, 0.21, "fair"),
        (19, 0.9, "almost perfect *"),
    ],
)
def test_what_a_kappa_means(items, kappa, words):
    assert Agreement("ada and bob", "thumbs", items, kappa).words == words


def test_many_raters_leave_a_short_table(tmp_path):
    store = FeedbackStore(tmp_path / "feedback.jsonl")
    for i in range(20):
        store.prefer("q", "one", "two", "first" if i % 3 else "second", rater=f"rater {i}")
    panel = PreferenceRater([{"prompt": "q", "completions": ["one", "two"]}], store, rater="rater 7")
    table = panel._others.value
    assert table.count("<tr>") == 1 + 10 and "181 pairs more" in table and "8 raters more" in table
    assert "all 20 raters" in table and "rater 0 and rater 7" in table


def test_half_a_character_is_replaced_before_anybody_sees_it(tmp_path):
    rows = [{"prompt": "a \ud83d", "completions": ["b \udc00", "c"]}]
    for made in (
        lambda: Questions(FeedbackStore(tmp_path / "one"), rows, rater="ad\ud83da"),
        lambda: Rating(rows, FeedbackStore(tmp_path / "two"), "ada"),
    ):
        questions = made()
        question = questions.current if isinstance(questions, Questions) else questions.question
        assert question.prompt == "a ?" and set(question.answers) == {"b ?", "c"}
    rater = Questions(FeedbackStore(tmp_path / "one"), rows, rater="ad\ud83da")
    rater.answer("first")
    assert Questions(FeedbackStore(tmp_path / "one"), rows, rater="ad\ud83da").current is None
    for wrong in (["text"], [{"prompt": "q", "completions": "ab"}], [{"completions": ["a"]}]):
        with pytest.raises(ConfigError, match="row 0"):
            Questions(FeedbackStore(tmp_path / "one"), wrong, rater="ada")


def test_the_title_asks_what_is_asked(tmp_path):
    assert PreferenceRater(PAIRS, tmp_path / "a").title == "Which answer is better?"
    assert PreferenceRater(ONES, tmp_path / "b").title == "Is this a good answer?"


def test_a_damaged_file_is_said_and_not_raised(tmp_path):
    path = tmp_path / "feedback.jsonl"
    PreferenceRater(PAIRS, path, rater="ada").first.click()
    with open(path, "ab") as file:
        file.write(b'{"id": "half\n')
    rater = PreferenceRater(PAIRS, path, rater="ada")
    assert "line 2 cannot be read" in rater._others.value and rater.rating.progress == (1, 6)


def test_a_file_that_cannot_be_written_is_said(tmp_path):
    path = tmp_path / "folder" / "feedback.jsonl"
    rater = PreferenceRater(PAIRS, path, rater="ada")
    (tmp_path / "folder").write_text("a file stands in the way")
    rater.first.click()
    assert rater._trouble.value and rater.rating.progress == (0, 6)


def test_bad_rows_come_before_anybody_is_asked(tmp_path):
    for rows in ([], [{"prompt": "q"}], [{"prompt": "q", "completions": ["a", "a"]}]):
        with pytest.raises(ConfigError):
            PreferenceRater(rows, tmp_path / "feedback.jsonl")
    with pytest.raises(ConfigError):
        PreferenceRater(PAIRS, tmp_path)


def test_messages_are_shown_with_their_roles(tmp_path):
    rows = [
        {
            "prompt": [{"role": "user", "content": "How many legs?"}],
            "completions": [[{"role": "assistant", "content": c}] for c in ("eight", "six")],
        }
    ]
    rater = PreferenceRater(rows, tmp_path / "feedback.jsonl", rater="ada")
    assert all(
        word in rater._question.value for word in ("user", "How many legs?", "assistant", "eight", "six")
    )
    rater.first.click()
    assert "Done." in rater.static_html() and "1 of 1" in rater.describe()


def different(row):
    """The same answer is given by two completions each."""
    return {**row, "completion": f"answer {row['completion_index'] // 2}"}


def test_questions_of_a_runs_completions(tmp_path):
    run = Run(write_run(tmp_path / "run", steps=3, alter=different))
    kept = run.samples(3)
    rows = rows_from_run(run)
    for row in rows:
        answers = [r["completion"] for r in kept if r["prompt"] == row["prompt"]]
        assert row["completions"][0] == answers[0] and row["completions"][1] in answers
        assert len(set(row["completions"])) == 2
    thumbs = rows_from_run(run, step=1, thumbs=True)
    asked = {(r["prompt"], r["completions"][0]) for r in thumbs}
    assert asked == {(r["prompt"], r["completion"]) for r in run.samples(1)} and len(asked) == len(thumbs)
    PreferenceRater(thumbs, tmp_path / "feedback.jsonl", rater="ada").up.click()
    with pytest.raises(ConfigError):
        rows_from_run(run, step=9)
