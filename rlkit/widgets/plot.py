"""Charts as inline SVG, drawn in about a millisecond: for pictures that are drawn again while a model trains.

matplotlib takes 50 to 100 ms for the same, in the process that trains. Colours are the page's (`look.STYLE`), so one
picture serves light and dark; curves differ in dashes and markers too; the content stands in words in ``aria-label``.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from rlkit.runs.charts import thin
from rlkit.runs.evidence import number
from rlkit.widgets.look import DASHES, SERIES, escaped

MAX_POINTS = 300  # of a curve; more are drawn as means of equal stretches
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 20, 8, 36  # margins around the axes, in the drawing's pixels
_LETTER, _LONGEST = 6.2, 32  # pixels of a legend's letter, and the letters of its longest entry


@dataclass(slots=True)
class Curve:
    """One curve. ``kind``: "line", "points" (all marked), "limit" (a thin bound), "bars" or "area" (a filled step).

    ``told``: its content in words, for points that stand for more than they show (means of stretches); see ``told``.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    kind: str = "line"
    color: int | None = None  # of SERIES; None: the next one
    told: str = ""


@dataclass(slots=True)
class Plot:
    """What a chart shows; ``svg()`` draws it.

    Args:
        title: in words; a heading for people, and the beginning of the description.
        x_label, y_label: with their units.
        x_span, y_span: the least that an axis shows.
        marks: values of x with a vertical line and a short text.
        x_log: a logarithmic axis; values of x that are not above 0 have no place on it.

    Where every x is a whole number (steps, draws, tokens) the axis is marked at whole numbers only.
    """

    title: str
    x_label: str
    y_label: str
    curves: list[Curve] = field(default_factory=list)
    x_span: tuple[float | None, float | None] = (None, None)
    y_span: tuple[float | None, float | None] = (None, None)
    marks: list[tuple[float, str]] = field(default_factory=list)
    width: int = 440
    height: int = 230
    note: str = ""
    x_log: bool = False

    def alt(self) -> str:
        """The chart in words, for people who cannot see it."""
        told = " ".join(curve.told or _told(curve) for curve in self.curves)
        marked = " ".join(f"Marked at {number(x)}: {text}." for x, text in self.marks)
        axes = f"{self.y_label} against {self.x_label}"
        return f"Chart of {self.title}: {axes}. {told or 'No values yet.'} {marked}".strip()

    def svg(self) -> str:
        """The chart as inline SVG."""
        return _draw(self)

    def figure_html(self) -> str:
        """Chart with its title and note, as an HTML figure."""
        note = f"<figcaption>{escaped(self.note)}</figcaption>" if self.note else ""
        return f"<figure><h4>{escaped(self.title)}</h4>{self.svg()}{note}</figure>"


def _told(curve: Curve) -> str:
    points = _finite(curve)
    if not points:
        return f"{curve.label}: no values."
    values = [y for _, y in points]
    if curve.kind == "limit":
        return f"{curve.label}: {number(values[0])}."
    if curve.kind == "bars" and len(points) <= 12:
        return f"{curve.label}: " + ", ".join(f"{number(y)} at {number(x)}" for x, y in points) + "."
    (x0, first), (x1, last) = points[0], points[-1]
    if len(points) == 1:
        return f"{curve.label}: {number(first)} at {number(x0)}."
    return told(curve.label, (x0, first), (x1, last), min(values), max(values))


def told(
    label: str, first: tuple[float, float], last: tuple[float, float], lowest: float, highest: float
) -> str:
    """A curve in words; ``first`` and ``last`` are (x, y)."""
    return (
        f"{label}: from {number(first[1])} at {number(first[0])} to {number(last[1])} at {number(last[0])}, "
        f"lowest {number(lowest)}, highest {number(highest)}."
    )


def _finite(curve: Curve) -> list[tuple[float, float]]:
    pairs = zip(curve.x, curve.y, strict=True)
    return [(float(x), float(y)) for x, y in pairs if y is not None and math.isfinite(x) and math.isfinite(y)]


def ticks(low: float, high: float, most: int = 5, whole: bool = False) -> list[float]:
    """About ``most`` round numbers from ``low`` to ``high``: steps of 1, 2, 2.5 or 5 times a power of ten.

    ``whole``: whole numbers only.
    """
    if not high > low:
        return [low]
    rough = max((high - low) / most, 1.0 if whole else 0.0)
    power = 10.0 ** math.floor(math.log10(rough))
    steps = (power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * 0.999)
    step = next(s for s in steps if not whole or s == int(s))
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers from 10^``low`` to 10^``high``: powers of ten; with 2 and 5 times them where there is room."""
    for factors in ((1, 2, 5), (1, 3), (1,)):
        powers = range(math.floor(low), math.ceil(high) + 1)
        found = [
            m * 10.0**p
            for p in powers
            for m in factors
            if low - 1e-9 <= math.log10(m * 10.0**p) <= high + 1e-9
        ]
        if len(found) <= most:
            return found
    return found[:: -(-len(found) // most)]


def _span(values: list[float], asked: tuple[float | None, float | None]) -> tuple[float, float]:
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    low = low if asked[0] is None else min(low, asked[0])
    high = high if asked[1] is None else max(high, asked[1])
    if not high > low:
        pad = abs(low) * 0.1 or 0.5
        low, high = low - (0 if asked[0] == low else pad), high + pad
    return low, high


def _draw(plot: Plot) -> str:
    drawn = [(curve, _finite(curve)) for curve in plot.curves]
    whole = all(x == int(x) for _, points in drawn for x, _ in points)
    if plot.x_log:
        drawn = [(curve, [(math.log10(x), y) for x, y in points if x > 0]) for curve, points in drawn]
    legend = [curve for curve, _ in drawn] if len(drawn) > 1 else []
    columns = max(1, min(3, plot.width // 150))
    room = max((len(_short(curve.label)) for curve in legend), default=0) * _LETTER + 36
    columns = max(1, min(columns, int((plot.width - _LEFT) // room)))
    extra = 17 * math.ceil(len(legend) / columns)
    width, height, top = plot.width, plot.height + extra, _TOP + extra
    xs = [x for _, points in drawn for x, _ in points]
    for curve, points in drawn:
        if curve.kind == "bars" and points:  # half a bar stands beyond the outer ones
            half = _gap(points) / 2
            xs += [points[0][0] - half, points[-1][0] + half]
    asked = plot.x_span
    if plot.x_log:
        asked = tuple(math.log10(x) if x is not None and x > 0 else None for x in asked)  # type: ignore[assignment]
    x0, x1 = _span(xs, asked)
    y0, y1 = _span([y for _, points in drawn for _, y in points], plot.y_span)
    pad = 0.04 * (y1 - y0)
    y0, y1 = (y0 if plot.y_span[0] == y0 else y0 - pad), y1 + pad

    marked = ticks(y0, y1, 4)
    # The longest number of the axis stands between the axis and its name.
    left = max(_LEFT, 24 + math.ceil(7.2 * max((len(number(tick)) for tick in marked), default=0)))

    def sx(x: float) -> float:
        return round(left + (x - x0) / (x1 - x0) * (width - left - _RIGHT), 1)

    def sy(y: float) -> float:
        return round(height - _BOTTOM - (y - y0) / (y1 - y0) * (height - _BOTTOM - top), 1)

    alt = escaped(plot.alt(), 4000)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{alt}" viewBox="0 0 {width} {height}" '
        f'width="{width}" font-size="11.5" font-family="inherit"><title>{alt}</title>'
    ]
    for tick in marked:
        y = sy(tick)
        parts.append(
            f'<line x1="{left}" x2="{width - _RIGHT}" y1="{y}" y2="{y}" stroke="var(--rule)" stroke-width=".7"/>'
            f'<text x="{left - 6}" y="{y + 4}" text-anchor="end" fill="var(--soft)">{number(tick)}</text>'
        )
    for tick in log_ticks(x0, x1) if plot.x_log else ticks(x0, x1, 6, whole):
        x = sx(math.log10(tick) if plot.x_log else tick)
        parts.append(
            f'<line x1="{x}" x2="{x}" y1="{height - _BOTTOM}" y2="{height - _BOTTOM + 4}" stroke="var(--rule)"/>'
            f'<text x="{x}" y="{height - _BOTTOM + 16}" text-anchor="middle" fill="var(--soft)">{number(tick)}</text>'
        )
    parts.append(
        f'<path d="M{left} {height - _BOTTOM}H{width - _RIGHT}" stroke="var(--soft)"/>'
        f'<text x="{(left + width - _RIGHT) / 2}" y="{height - 4}" text-anchor="middle" fill="var(--ink)">'
        f"{escaped(plot.x_label)}</text>"
        f'<text x="11" y="{(top + height - _BOTTOM) / 2}" text-anchor="middle" fill="var(--ink)" '
        f'transform="rotate(-90 11 {(top + height - _BOTTOM) / 2})">{escaped(plot.y_label)}</text>'
    )
    for i, (curve, points) in enumerate(drawn):
        parts.append(_curve(curve, points, i, sx, sy, y0))
    for x, text in plot.marks:
        if plot.x_log:
            x = math.log10(x) if x > 0 else x0 - 1
        if x0 <= x <= x1:
            at, flip = sx(x), sx(x) > width * 0.7
            parts.append(
                f'<path d="M{at} {top}V{height - _BOTTOM}" stroke="var(--ink)" stroke-dasharray="3 3"/>'
                f'<text x="{at + (-4 if flip else 4)}" y="{top + 11}" text-anchor="{"end" if flip else "start"}" '
                f'fill="var(--ink)" stroke="var(--paper)" stroke-width="3" paint-order="stroke">'
                f"{escaped(text, 60)}</text>"
            )
    for i, curve in enumerate(legend):
        x, y = left + i % columns * ((width - left) // columns), 12 + 17 * (i // columns)
        parts.append(_sample(curve, i, x, y))
    if not any(points for _, points in drawn):
        parts.append(
            f'<text x="{width / 2}" y="{height / 2}" text-anchor="middle" fill="var(--soft)" font-style="italic">'
            "no values yet</text>"
        )
    return "".join(parts) + "</svg>"


def _gap(points: Sequence[tuple[float, float]]) -> float:
    """The least distance of two bars."""
    return min((b[0] - a[0] for a, b in pairwise(points)), default=1.0)


def _color(curve: Curve, i: int) -> int:
    return (i if curve.color is None else curve.color) % SERIES


def _curve(curve: Curve, points: list[tuple[float, float]], i: int, sx, sy, y0: float) -> str:  # type: ignore[no-untyped-def]
    if not points:
        return ""
    s = _color(curve, i)
    color = "var(--ink)" if curve.kind == "limit" else f"var(--s{s})"
    if curve.kind == "bars":
        half = max(1.0, 0.38 * abs(sx(_gap(points)) - sx(0)))
        base = sy(max(0.0, y0))
        return "".join(
            f'<rect x="{sx(x) - half:.1f}" width="{2 * half:.1f}" y="{min(sy(y), base)}" '
            f'height="{abs(sy(y) - base):.1f}" fill="{color}"/>'
            for x, y in points
        )
    if len(points) > MAX_POINTS:
        points = list(zip(*thin([x for x, _ in points], [y for _, y in points], MAX_POINTS), strict=True))
    path = " ".join(f"{sx(x)},{sy(y)}" for x, y in points)
    if curve.kind == "area":
        base = sy(max(0.0, y0))
        path = f"{sx(points[0][0])},{base} {path} {sx(points[-1][0])},{base}"
        return f'<polygon points="{path}" fill="{color}" fill-opacity=".25" stroke="{color}"/>'
    dash = "2 3" if curve.kind == "limit" else DASHES[s]
    stroke = 1.2 if curve.kind == "limit" else 2
    drawn = (
        f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="{stroke}" stroke-linejoin="round"'
        + (f' stroke-dasharray="{dash}"' if dash else "")
        + "/>"
    )
    if curve.kind == "points" or (curve.kind == "line" and len(points) < 3):
        return drawn + "".join(_marker(s, sx(x), sy(y)) for x, y in points)
    return drawn


def _marker(s: int, x: float, y: float) -> str:
    """Circle, square, triangle, diamond, upside-down triangle, plus: one a colour."""
    fill = f'fill="var(--s{s})"'
    if s == 0:
        return f'<circle cx="{x}" cy="{y}" r="4" {fill}/>'
    if s == 1:
        return f'<rect x="{x - 3.5:.1f}" y="{y - 3.5:.1f}" width="7" height="7" {fill}/>'
    shape = {
        2: ((0, -5), (4.5, 3.5), (-4.5, 3.5)),
        3: ((0, -5), (5, 0), (0, 5), (-5, 0)),
        4: ((0, 5), (4.5, -3.5), (-4.5, -3.5)),
    }.get(s)
    if shape is None:
        return f'<path d="M{x - 4:.1f} {y}h8M{x} {y - 4:.1f}v8" stroke="var(--s{s})" stroke-width="2.4"/>'
    return f'<polygon points="{" ".join(f"{x + a:.1f},{y + b:.1f}" for a, b in shape)}" {fill}/>'


def _sample(curve: Curve, i: int, x: int, y: int) -> str:
    """One entry of the legend."""
    s = _color(curve, i)
    if curve.kind in ("bars", "area"):
        sign = f'<rect x="{x}" y="{y - 8}" width="22" height="9" fill="var(--s{s})"/>'
    else:
        color, dash = ("var(--ink)", "2 3") if curve.kind == "limit" else (f"var(--s{s})", DASHES[s])
        sign = f'<path d="M{x} {y - 4}h24" stroke="{color}" stroke-width="2" stroke-dasharray="{dash}"/>'
        if curve.kind == "points":
            sign += _marker(s, x + 12, y - 4)
    return f'{sign}<text x="{x + 29}" y="{y}" fill="var(--ink)">{html.escape(_short(curve.label))}</text>'


def _short(label: str) -> str:
    return label if len(label) <= _LONGEST else f"{label[: _LONGEST - 1]}…"
