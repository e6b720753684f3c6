"""The corpus of tests/injections.py in a real browser: nothing runs, nothing is fetched, no layout breaks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from injections import HIT, INJECTIONS, file_name
from jupyter_pages import Book, Stage
from sample_runs import planted_run

SAMPLES, RATER, STATIC = 1, 2, 3  # the cells
TALLEST = 8000  # pixels of any one element, the whole panel among them
RUNS = (
    "image that fails",
    "script behind a closed attribute",
    "latex",
    "bidirectional override",
    "wide characters",
)
LONG = ("one line of a megabyte", "a very long word", "spaces and tabs", "combining towers")
BROKEN = """([box, tallest]) => {
    const edge = box.getBoundingClientRect(), found = [];
    for (const one of [box, ...box.querySelectorAll('*')]) {
        const at = one.getBoundingClientRect();
        const inner = one.closest('.scroll, .text, .noUi-target, .snippet, svg');
        const wide = !inner && (at.right > edge.right + 1 || at.left < edge.left - 1);
        const tall = at.height > tallest && !one.closest('.text');
        if (at.width && (wide || tall)) found.push(one.outerHTML.slice(0, 90));
    }
    const page = [document.documentElement, ...document.querySelectorAll('.jp-OutputArea-output')];
    for (const one of page)
        if (one.scrollWidth > one.clientWidth + 1) found.push(`${one.className}: ${one.scrollWidth} wide`);
    return found.slice(0, 5);
}"""  # what stands beyond its frame, is taller than anything should be, or makes the page scroll sideways


@pytest.fixture(scope="module")
def page(stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Book]:
    folder: Path = tmp_path_factory.mktemp("hostile")
    texts = list(INJECTIONS.values())
    runs = [
        str(planted_run(folder / file_name(INJECTIONS[name]), texts if i == 0 else ["x"]))
        for i, name in enumerate(RUNS)
    ]
    rows = [{"prompt": text, "completions": [text, "other"]} for text in texts if text.strip()]
    (folder / "rows.json").write_text(json.dumps(rows))
    (folder / "texts.json").write_text(json.dumps(texts))
    opened = stage.open(
        (
            "import json\nfrom IPython.display import HTML, display\n"
            "from rlkit.runs.schema import whole_text\n"
            "from rlkit.widgets import PreferenceRater, SampleInspector\n"
            f"texts = json.load(open({str(folder / 'texts.json')!r}))",
            f"inspector = SampleInspector({runs!r})\ninspector",
            f"rows = json.load(open({str(folder / 'rows.json')!r}))\n"
            f"rater = PreferenceRater(rows, {str(folder / 'feedback.jsonl')!r}, rater=rows[0]['prompt'])\nrater",
            "handle = display(HTML('static'), display_id=True)",
        )
    )
    yield opened
    opened.close()


def check(page: Book, what: str, cell: int = SAMPLES) -> None:
    """Nothing ran, nothing was fetched, and everything stands in its frame."""
    assert not page.page.evaluate(HIT), what
    assert not page.alerts and not page.errors, (what, page.alerts, page.errors)
    assert not page.stage.outside, (what, page.stage.outside)
    box = page.output(cell).locator(".rlkit").first.element_handle()
    assert page.page.evaluate(BROKEN, [box, TALLEST]) == [], what


def opening(i: int) -> str:
    """Code that opens a completion."""
    return (
        f"inspector.left.page.value = {i // 8 + 1}; inspector.left.rows[{i % 8}].click()\n"
        "assert not inspector._trouble.value, inspector._trouble.value\n"
    )


def test_every_completion_opened(page: Book) -> None:
    """Each is drawn, though the page is looked at once in eight: what runs in between has left its mark."""
    names = list(INJECTIONS)
    for start in range(0, len(names), 8):
        page.execute("".join(opening(i) for i in range(start, min(start + 8, len(names)))))
        page.settle()
        check(page, ", ".join(names[start : start + 8]))


def test_names_of_rewards_runs_and_raters(page: Book) -> None:
    page.execute("for o in inspector.left.sheet.orders: inspector.left.order.value = o")
    page.settle()
    check(page, "names of rewards")
    for i in reversed(range(len(RUNS))):
        page.execute(f"inspector.left.run.value = {i}; inspector.left.rows[0].click()")
        page.settle()
        check(page, f"a run called {RUNS[i]}")
    page.execute(
        "for t in texts: rater.rater.value = whole_text(t[:300]).strip(); rater.rater.value and rater.press('1')"
    )
    page.settle()
    check(page, "names of raters", RATER)
    page.execute("rater.rater.value = rows[0]['prompt']")


@pytest.mark.parametrize("width", [400, 1280])
def test_long_texts_stay_in_their_frame(page: Book, width: int) -> None:
    page.width(width)
    for name in LONG:
        page.execute(opening(list(INJECTIONS).index(name)))
        page.settle()
        check(page, name)
        page.shot(f"hostile_{name.replace(' ', '_')}_{width}", page.output(SAMPLES))


def test_every_question(page: Book) -> None:
    for _ in range(8):
        page.execute("for _ in range(8): rater.press('2' if rater.rating.question else 'u')")
        page.settle()
        check(page, page.python("rater.describe()"), RATER)


def test_static_pages(page: Book) -> None:
    names = list(INJECTIONS)
    for start in range(0, len(names), 32):
        bundle = "pages.append(inspector._repr_mimebundle_()['text/html'])\n"
        code = "".join(opening(i) + bundle for i in range(start, min(start + 32, len(names))))
        page.execute(f"pages = []\n{code}handle.update(HTML(''.join(pages)))")
        page.settle()
        check(page, ", ".join(names[start : start + 32]), STATIC)


def test_these_checks_would_see_it(page: Book) -> None:
    """The last test of this page: put in as they are, the texts do run, and do break the layout."""
    page.execute("handle.update(HTML('<div class=rlkit><div style=\"width:3000px\">wide</div></div>'))")
    page.settle()
    with pytest.raises(AssertionError, match="wide"):
        check(page, "wide", STATIC)
    page.execute(f"handle.update(HTML({INJECTIONS['image that fails']!r}))")
    page.page.wait_for_function(HIT)
    with pytest.raises(AssertionError, match="markup"):
        check(page, "markup", STATIC)
