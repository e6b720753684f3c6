"""Model text is data: whatever a prompt, a completion, a token, a reward, a row or a run is called, the views show it
as text and hold no element or attribute that they have not made. (What a browser makes of it: browser/.)
"""

import json

import pytest
from injections import INJECTIONS, file_name, skeleton
from sample_runs import planted_run

from rlkit.errors import ConfigError
from rlkit.feedback import FeedbackStore
from rlkit.runs import Run, schema
from rlkit.runs.evidence import shown
from rlkit.widgets import PreferenceRater, SampleInspector
from rlkit.widgets.look import escaped, whole

HARMLESS = ["harmless", "two\nlines", "long " * 5000, "", "a\tb"]


def batches(items, size):
    items = list(items)
    return [items[i : i + size] for i in range(0, len(items), size)]


CHUNKS = batches(INJECTIONS, 8)  # a page of the list each


def parts(widget):
    """A widget and all inside it."""
    yield widget
    for child in getattr(widget, "children", ()):
        yield from parts(child)


def pages(panel):
    """Everything that a panel gives a browser to read as HTML."""
    bundle = panel._repr_mimebundle_()
    data = bundle[0] if isinstance(bundle, tuple) else bundle
    yield data["text/html"]
    for widget in parts(panel):
        if type(widget).__name__ == "HTML":
            yield widget.value


def states(path, texts):
    """The sample inspector with each of a run's completions opened, and sorted by each reward."""
    panel = SampleInspector(path)
    pane = panel.left
    for i, text in enumerate(texts):
        pane.order.value = f"reward: {schema.whole_text(text)}"
        pane.rows[i].click()
        pane.tokens.quantity.value = "ratio"
        assert not panel._trouble.value, panel._trouble.value
        yield text, panel


def ratings(store, texts):
    """The rater at each of its questions: two of every text, and one of them taken back."""
    asked = [text for text in texts if text.strip()]
    rows = [{"prompt": text, "completions": [text, "other"]} for text in asked]
    rows += [{"prompt": text, "completions": [text]} for text in asked]
    panel = PreferenceRater(rows, store, rater="ada")
    for _ in rows:
        yield str(panel.rating.question.prompt), panel
        panel.press("1")
        assert not panel._trouble.value, panel._trouble.value
    panel.press("u")


def elements(page):
    """The elements of a page with their attributes; of a progress bar without its numbers."""
    return [(tag, ()) if tag == "progress" else (tag, attributes) for tag, attributes in skeleton(page)]


@pytest.fixture(scope="module")
def made_by_views(tmp_path_factory):
    """The elements and attributes that the views make of harmless texts."""
    folder = tmp_path_factory.mktemp("harmless")
    found = {("div", (("class", "empty"),))}  # nothing opened yet
    shows = [*states(planted_run(folder / "run", HARMLESS), HARMLESS)]
    for _, panel in (*shows, *ratings(FeedbackStore(folder / "feedback.jsonl"), HARMLESS)):
        for page in pages(panel):
            found |= set(elements(page))
    for text, panel in states(folder / "run", HARMLESS):  # as each is opened, not only the last
        found |= {part for page in pages(panel) for part in elements(page)}
        assert escaped(text[:20]) in panel.static_html()
    done = PreferenceRater(
        [{"prompt": "q", "completions": ["a"]}], FeedbackStore(folder / "feedback.jsonl"), rater="bob"
    )
    done.press("1")
    return found | {part for page in pages(done) for part in elements(page)}


def check(panel, made_by_views):
    for page in pages(panel):
        assert set(elements(page)) <= made_by_views
        page.encode("utf-8")
        assert len(page) < 400_000


def check_messages(panel):
    """Descriptions are taken as text, and what goes over the wire is UTF-8."""
    for widget in parts(panel):
        json.dumps(widget.get_state(), default=str, ensure_ascii=False).encode("utf-8")
        assert not getattr(widget, "description_allow_html", False)


def visible(text):
    """The beginning of what must be seen of it."""
    return escaped(schema.whole_text(text)).split("\n")[0][:60]  # as a file can hold it


def test_the_corpus_is_large_and_its_elements_would_be_seen(made_by_views):
    assert len(INJECTIONS) >= 50
    seen = sum(not set(elements(text)) <= made_by_views for text in INJECTIONS.values())
    assert seen >= 30  # put into a page as they are they bring elements that are not the views'


@pytest.mark.parametrize("names", CHUNKS, ids=[names[0] for names in CHUNKS])
def test_completions_stay_text(names, tmp_path, made_by_views):
    texts = [INJECTIONS[name] for name in names]
    for text, panel in states(planted_run(tmp_path / "run", texts), texts):
        check(panel, made_by_views)
        assert visible(text) in panel.left._opened.value
        page = panel.static_html()
        assert not {c for c in page if not c.isprintable() and c not in "\n\t\u200c\u200d\u3000\xa0"}
        json.dumps(panel.left.tokens.tokens.get_state(), ensure_ascii=False).encode("utf-8")
    check_messages(panel)


def test_questions_stay_text(tmp_path, made_by_views):
    for text, panel in ratings(FeedbackStore(tmp_path / "feedback.jsonl"), list(INJECTIONS.values())):
        assert visible(text) in panel._question.value
        check(panel, made_by_views)
    check_messages(panel)


def test_names_of_runs_stay_text(tmp_path, made_by_views):
    paths = [planted_run(tmp_path / file_name(text), ["x"]) for text in INJECTIONS.values() if text.strip()]
    for some in batches(paths, 5):
        panel = SampleInspector(some)
        for i, path in enumerate(some):
            panel.left.run.value = i
            check(panel, made_by_views)
            name = shown(whole(path.name), 60)
            assert escaped(name[:40]) in panel.static_html()
            assert f"{i + 1}: {name}" in dict(panel.left.run.options) or len(some) == 1
        check_messages(panel)


def test_names_of_raters_stay_text(tmp_path, made_by_views):
    store = FeedbackStore(tmp_path / "feedback.jsonl")
    panel = PreferenceRater([{"prompt": "q", "completions": ["a"]}], store)
    for text in INJECTIONS.values():
        name = schema.whole_text(text[:100]).strip()  # what a browser can send
        panel.rater.value = name
        if name:
            panel.press("1")
            assert not panel._trouble.value, panel._trouble.value
            assert visible(name) in panel._others.value
        check(panel, made_by_views)
        check_messages(panel)


def test_rewards_of_any_name_reach_the_file_and_the_list(tmp_path):
    """Half a character, which no file could hold, is replaced in a column's name as it is in a text."""
    name = "half \ud83d"
    run = Run(planted_run(tmp_path / "run", [name]))
    table = run.samples_table(1)
    assert "reward/half ?" in table.column_names and table.column("reward/half ?").to_pylist() == [1.0]
    assert run.reward_names == ["half ?"]
    panel = SampleInspector(run)
    panel.left.order.value = "reward: half ?"
    assert "half ? <b>1</b>" in panel.left._texts[0].value
    with pytest.raises(ConfigError, match="would both be called"):
        schema.sample_table(1, [{"reward/a\udc00": 1.0, "reward/a?": 2.0}])


def test_a_text_that_no_file_holds_is_replaced_before_anybody_sees_it(tmp_path):
    text = INJECTIONS["lone surrogates"]
    for _ in ratings(FeedbackStore(tmp_path / "feedback.jsonl"), [text]):
        pass
    kept = [json.loads(line) for line in (tmp_path / "feedback.jsonl").read_text("utf-8").splitlines()]
    assert kept[0]["prompt"] == text.encode("utf-8", "replace").decode()
