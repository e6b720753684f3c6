"""Drawing: curves over steps, time by phase and calibration as inline SVG, with their content in words beside them.

Colours stand in the SVG as placeholders that the page's style sheet fills, so that one picture serves light
and dark paper. No curve is told apart by colour alone: each has its own dashes and marker.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rlkit.runs import schema
from rlkit.runs.evidence import duration, finite, number, percent, shown

MAX_POINTS = 500  # a curve of more steps is drawn as means of equal stretches

# (placeholder for var(--s0) and so on, dashes)
_STYLES: tuple[tuple[str, Any], ...] = (
    ("#010001", "-"),
    ("#010002", "--"),
    ("#010003", "-."),
    ("#010004", ":"),
    ("#010005", (0, (6, 1, 1, 1, 1, 1))),
    ("#010006", (0, (1, 2, 5, 2))),
)
_MARKERS = "os^DvPX*<>ph"  # a dozen, so that the colours' second round still looks different
_INK, _RULE = "#020001", "#020002"
_WIDTH, _HEIGHT = 5.2, 2.9  # inches of the drawing; the page scales it


class Series(NamedTuple):
    """One curve: its label and its points; ``kind`` is "line", "points" (all marked) or "limit" (a bound)."""

    label: str
    steps: Sequence[float]
    values: Sequence[float]
    kind: str = "line"


class Chart(NamedTuple):
    """One picture of the page: ``svg`` is markup, ``alt`` its content in words, ``note`` how to read it."""

    title: str
    note: str
    alt: str
    svg: str


def chart(
    title: str,
    unit: str,
    series: Sequence[Series],
    note: str,
    span: tuple[float, float | None] | None = None,
) -> Chart | None:
    """One chart over steps, or None where no curve has a value. ``span``: the least that the axis shows."""
    series = [one for one in series if one.values]
    if all(one.kind == "limit" for one in series):
        return None
    alt = f"Chart of {title.lower()} ({unit}) against step. " + " ".join(_told(one) for one in series)
    return Chart(title, note, alt, _draw(title, unit, series, span, alt))


def _told(series: Series) -> str:
    """A curve in words, for people who cannot see it."""
    label, steps, values, kind = series
    if kind == "limit":
        return f"{label}: {number(values[0])}."
    if len(values) == 1:
        return f"{label}: {number(values[0])} at step {steps[0]:g}."
    first, last = f"{number(values[0])} at step {steps[0]:g}", f"{number(values[-1])} at step {steps[-1]:g}"
    return f"{label}: {first}, {last}, lowest {number(min(values))}, highest {number(max(values))}."


def thin(
    steps: Sequence[float], values: Sequence[float], most: int = MAX_POINTS
) -> tuple[list[float], list[float]]:
    """At most ``most`` points, each the mean of an equal stretch of neighbours."""
    size = math.ceil(len(values) / most)
    cuts = range(0, len(values), max(size, 1))
    return [_mean(steps[i : i + size]) for i in cuts], [_mean(values[i : i + size]) for i in cuts]


def smooth(values: Sequence[float]) -> list[float]:
    """Moving average over about a tenth of the curve, centred, narrower at its ends."""
    half = len(values) // 20
    return [_mean(values[max(0, i - half) : i + half + 1]) for i in range(len(values))]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _draw(
    title: str, unit: str, series: Sequence[Series], span: tuple[float, float | None] | None, alt: str
) -> str:
    figure, axes = _figure()
    curves = sum(one.kind != "limit" for one in series)
    for i, one in enumerate(series):
        color, dashes = _STYLES[i % len(_STYLES)]
        marker = _MARKERS[i % len(_MARKERS)]
        steps, values = thin(one.steps, one.values)
        look: dict[str, Any] = {
            "color": color,
            "linestyle": dashes,
            "label": _label(one.label),
            "linewidth": 1.8,
        }
        if one.kind == "limit":
            look.update(color=_INK, linestyle=(0, (1, 1)), linewidth=1.2)
        elif one.kind == "points" or len(values) < 3:
            look.update(marker=marker, markersize=6)
        else:
            if len(values) >= 20:
                if curves <= 4:  # what was measured, behind its average; of more curves it would be a thicket
                    axes.plot(steps, values, color=color, linewidth=0.8, alpha=0.35)
                values = smooth(values)
            if curves > 1:  # staggered, so that markers of curves that lie on each other can be seen
                every = max(1, len(values) // 7)
                look.update(
                    marker=marker, markersize=5, markevery=(min(i * every // 4, len(values) - 1), every)
                )
        axes.plot(steps, values, **look)
    axes.set_xlabel("step")
    axes.set_ylabel(unit)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.yaxis.set_major_formatter(lambda value, _: number(round(value, 12)))
    if span is not None:
        low = min(span[0], *(min(one.values) for one in series))  # an estimate of a KL may be below 0
        high = span[1] if span[1] is not None else axes.get_ylim()[1]
        high = max(high, low + 1e-9)
        axes.set_ylim(low - 0.03 * (high - low), high + 0.03 * (high - low))
    if len(series) > 1:
        figure.set_size_inches(_WIDTH, _HEIGHT + 0.22 * math.ceil(len(series) / 2))
        place = {"loc": "lower left", "bbox_to_anchor": (0, 1.0), "borderaxespad": 0.2}
        axes.legend(**place, ncols=2, frameon=False, fontsize=9, labelcolor=_INK, handlelength=3.2)
    return _svg(figure, title, alt)


def time_chart(metrics: Sequence[Mapping[str, Any]], note: str) -> Chart | None:
    """Where the time went: one bar a phase, its seconds and its share written at its end."""
    keys = dict.fromkeys(key for row in metrics for key in row if key.startswith(schema.SECONDS))
    phases = [*schema.PHASES, *(key[len(schema.SECONDS) :] for key in keys)]
    totals: dict[str, float] = {}
    for phase in dict.fromkeys(phases):
        found = (finite(row.get(schema.SECONDS + phase)) for row in metrics)
        seconds = [value for value in found if value is not None]
        if seconds and phase != "step":
            totals[phase] = sum(seconds)
    whole = sum(totals.values())
    if whole <= 0 or len(totals) < 2:  # one bar says nothing
        return None
    said = [f"{duration(value)}, {percent(value / whole)}" for value in totals.values()]
    told = " ".join(f"{name}: {text}." for name, text in zip(totals, said, strict=True))
    alt = f"Bar chart of seconds by phase. {told}"
    figure, axes = _figure()
    bars = axes.barh(
        [_label(name) for name in totals], list(totals.values()), color=_STYLES[0][0], height=0.6
    )
    axes.bar_label(bars, labels=said, padding=4, color=_INK, fontsize=9)
    axes.invert_yaxis()
    axes.grid(visible=False)
    axes.set_xlim(0, 1.4 * max(totals.values()))  # room for what is written at the bars' ends
    axes.set_xlabel("seconds, all steps together")
    return Chart("Time by phase", note, alt, _svg(figure, "time", alt))


def reliability_chart(bins: Sequence[Mapping[str, Any]], note: str) -> Chart | None:
    """What came true against what a model said, one point for the pairs of which it was about equally sure.

    ``bins``: mappings with ``pairs``, ``confidence`` and ``accuracy``. The bars are chance: twice the standard error of
    so many pairs, if what the model says were so.
    """
    found = [(one["pairs"], one["confidence"], one["accuracy"]) for one in bins]
    if not found:
        return None
    counts, said, true = zip(*found, strict=True)
    chance = [2 * math.sqrt(p * (1 - p) / n) for n, p in zip(counts, said, strict=True)]
    told = " ".join(f"Said {percent(p)}: {percent(t)} came true, {n} pairs." for n, p, t in found)
    alt = f"Calibration diagram: share of pairs that came true against what the model said. {told}"
    figure, axes = _figure()
    color, ink = _STYLES[0][0], {"color": _INK, "linewidth": 1.2}
    axes.plot([0.5, 1], [0.5, 1], linestyle=(0, (1, 1)), label="perfect", **ink)
    low, high = ([p + s * c for p, c in zip(said, chance, strict=True)] for s in (-1, 1))
    axes.vlines(said, low, [min(top, 1.0) for top in high], color=_RULE, linewidth=5, label="chance")
    axes.plot(said, true, color=color, linestyle="", marker="o", markersize=6, label="the model")
    for count, x, y in zip(counts, said, true, strict=True):
        axes.annotate(
            str(count), (x, y), (0, 6), textcoords="offset points", ha="center", color=_INK, fontsize=8
        )
    axes.set_xlim(0.49, 1.01)
    axes.set_ylim(min(0.45, *true) - 0.03, 1.06)
    axes.set_xlabel("what it said: P(the side that it gives more is preferred)")
    axes.set_ylabel("what came true")
    figure.set_size_inches(_WIDTH, _HEIGHT + 0.3)
    place = {"loc": "lower left", "bbox_to_anchor": (0, 1.0), "borderaxespad": 0.2}
    axes.legend(**place, ncols=3, frameon=False, fontsize=9, labelcolor=_INK, handlelength=3.2)
    return Chart("Calibration", note, alt, _svg(figure, "calibration", alt))


def _figure() -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # without pyplot: no window, no global state, any thread

    figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained")
    axes = figure.add_subplot()
    figure.patch.set_alpha(0)
    axes.patch.set_alpha(0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_RULE)
    axes.tick_params(colors=_INK, labelsize=9)
    axes.xaxis.label.set_color(_INK)
    axes.yaxis.label.set_color(_INK)
    axes.grid(axis="y", color=_RULE, linewidth=0.6, alpha=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def _label(text: str) -> str:
    """A name as matplotlib shows it literally: a short line, no mathematics, not hidden by an underscore."""
    text = shown(" ".join(text.split()), 200)
    text = (text if len(text) <= 28 else f"{text[:27]}…").replace("$", r"\$")
    return f"\u200b{text}" if text.startswith("_") else text


def _svg(figure: Any, salt: str, alt: str) -> str:
    """The figure as inline SVG: live text, the page's colours, an accessible name. Safe to insert as HTML."""
    import matplotlib
    from markupsafe import Markup, escape

    buffer = io.StringIO()
    # The salt makes element ids repeatable, and together with the prefix below unique on the page.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    for i, (color, _) in enumerate(_STYLES):
        text = text.replace(color, f"var(--s{i})")
    text = text.replace(_INK, "var(--ink)").replace(_RULE, "var(--rule)")
    text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1; font-family: inherit", text)
    prefix = re.sub(r"\W+", "-", salt.lower())
    text = re.sub(r'(?<=\bid=")|(?<=url\(#)|(?<=href="#)', f"{prefix}-", text)
    opening = re.search(r"<svg [^>]*>", text)
    assert opening is not None
    sized = re.sub(r' (width|height)="[^"]*"', "", opening.group())  # the page sizes it, by its viewBox
    sized = sized.replace("<svg ", f'<svg role="img" aria-label="{escape(alt)}" ', 1)
    return Markup(sized + text[opening.end() :])
