"""The report's pictures: curves over steps as inline SVG, with their content in words beside them.

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
from rlkit.runs.reader import Run

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


def charts(run: Run) -> list[Chart]:
    """Every chart of a run that has something to show."""
    metrics, evals = run.metrics, run.evals

    def curve(
        name: str, label: str, rows: Sequence[Mapping[str, Any]] = metrics, kind: str = "line"
    ) -> Series:
        found = [(row["step"], finite(row.get(name))) for row in rows]
        points = [(step, value) for step, value in found if value is not None]
        return Series(label, [step for step, _ in points], [value for _, value in points], kind)

    def limit(name: str) -> Series:
        value = finite(schema.setting(run.config, name))
        if not metrics or not value:
            return Series(name, [], [], "limit")
        return Series(name, [metrics[0]["step"], metrics[-1]["step"]], [value, value], "limit")

    functions = [curve(schema.REWARDS + name, name) for name in run.reward_names]
    held_out = [
        curve("accuracy_greedy", "held out, greedy", evals, "points"),
        curve("accuracy_sampled", "held out, sampled", evals, "points"),
    ]
    lengths = [curve("completion_length", "mean"), curve("completion_length_max", "longest")]
    shares = [curve("dead_groups", "groups without spread"), curve("truncated", "truncated completions")]
    clipped = [curve("clip_low", "clipped low"), curve("clip_high", "clipped high")]
    gaps = [curve("engine_gap", "mean"), curve("engine_gap_max", "largest")]
    drawn = (
        _chart("Reward", "mean reward", [curve("reward", "total")]),
        _chart("Reward by function", "mean reward", functions),
        _chart("Accuracy", "share right", [curve("accuracy", "training, sampled"), *held_out], (0, 1)),
        _chart("Entropy", "nats a token", [curve("entropy", "entropy")], (0, None)),
        _chart("Completion length", "tokens", [*lengths, limit("max_completion_length")], (0, None)),
        _chart("Groups, truncation, clipping", "share", [*shares, *clipped], (0, 1)),
        _chart(
            "Gradient norm",
            "norm",
            [curve("grad_norm", "before clipping"), limit("max_grad_norm")],
            (0, None),
        ),
        _chart("KL to the reference", "nats a token", [curve("kl", "KL")], (0, None)),
        _chart("Engine against trainer", "nats a token", gaps, (0, None)),
        _time_chart(metrics),
    )
    return [chart for chart in drawn if chart is not None]


_NOTES = {
    "Reward": "The total that advantages are computed from, averaged over each step's completions.",
    "Reward by function": "Which part of the reward is learned, and when. A flat line teaches nothing.",
    "Accuracy": "Held-out problems are never trained on. Greedy takes the most probable token each "
    "time; sampled draws, as training does.",
    "Entropy": "How undecided the model is. It falls while the model learns; near 0 it no longer tries "
    "anything else.",
    "Completion length": "Completions at the limit were cut off.",
    "Groups, truncation, clipping": "A group without reward spread teaches nothing. A clipped token had "
    "moved as far as one step allows; on-policy there are none.",
    "Gradient norm": "Large or wild values mean that the learning rate is too high.",
    "KL to the reference": "How far the policy has moved from the model that it started as.",
    "Engine against trainer": "Difference between the log-probabilities that were sampled from and those "
    "that are trained: below 0.001 in fp32, 0.01 to 0.1 in bf16.",
    "Time by phase": "Rollout: the engine samples. Score: reward functions. Update: log-probabilities, "
    "gradient, optimiser. Sync: new weights to the engine, and the check that they arrived.",
}


def _chart(
    title: str, unit: str, series: Sequence[Series], span: tuple[float, float | None] | None = None
) -> Chart | None:
    """One chart over steps, or None where no curve has a value. ``span``: the least that the axis shows."""
    series = [one for one in series if one.values]
    if all(one.kind == "limit" for one in series):
        return None
    alt = f"Chart of {title.lower()} ({unit}) against step. " + " ".join(_told(one) for one in series)
    return Chart(title, _NOTES[title], alt, _draw(title, unit, series, span, alt))


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
        low, high = span[0], span[1] if span[1] is not None else axes.get_ylim()[1]
        high = max(high, low + 1e-9)
        axes.set_ylim(low - 0.03 * (high - low), high + 0.03 * (high - low))
    if len(series) > 1:
        figure.set_size_inches(_WIDTH, _HEIGHT + 0.22 * math.ceil(len(series) / 2))
        place = {"loc": "lower left", "bbox_to_anchor": (0, 1.0), "borderaxespad": 0.2}
        axes.legend(**place, ncols=2, frameon=False, fontsize=9, labelcolor=_INK, handlelength=3.2)
    return _svg(figure, title, alt)


def _time_chart(metrics: Sequence[Mapping[str, Any]]) -> Chart | None:
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
    if whole <= 0:
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
    return Chart("Time by phase", _NOTES["Time by phase"], alt, _svg(figure, "time", alt))


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
