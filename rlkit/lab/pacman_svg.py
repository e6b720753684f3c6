"""A state of PacmanGrid as a picture: SVG text, with its description inside for those who cannot see it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from html import escape

SIZE = 44  # pixels a cell
_DIRECTIONS = ((0, -1), (-1, 0), (1, 0), (0, 1))  # x, y of UP, LEFT, RIGHT, DOWN


def describe(rows: Sequence[str], place: tuple[int, int], cookies: int, outcome: str, steps: int) -> str:
    """The picture in words."""
    enemies = sum(row.count("E") for row in rows)
    end = {"playing": "", "won": " All cookies are eaten: won.", "lost": " It met an enemy: lost."}[outcome]
    return (
        f"Grid of {len(rows)} rows and {len(rows[0])} columns after {_count(steps, 'step')}. Pac-Man stands in row "
        f"{place[0] + 1}, column {place[1] + 1}; {_count(cookies, 'cookie')} left, "
        f"{_count(enemies, 'enemy', 'enemies')}.{end}"
    )


def draw(
    rows: Sequence[str],
    place: tuple[int, int],
    cookies: Collection[tuple[int, int]],
    outcome: str,
    steps: int,
    *,
    values: Mapping[tuple[int, int], float] | None = None,
    policy: Mapping[tuple[int, int], Sequence[float]] | None = None,
) -> str:
    """Draw a state; `values` and `policy` (probabilities of UP, LEFT, RIGHT, DOWN) are per cell."""
    alt = describe(rows, place, len(cookies), outcome, steps)
    if values:
        alt += f" Values from {min(values.values()):.2f} to {max(values.values()):.2f} are written into the cells."
    if policy:
        alt += " Arrows show the policy's probabilities."
    width, height = SIZE * len(rows[0]), SIZE * len(rows)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{escape(alt)}" '
        f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"><title>{escape(alt)}</title>'
        f'<rect width="{width}" height="{height}" fill="#fbfaf5"/>'
    ]
    for r, row in enumerate(rows):
        for c, mark in enumerate(row):
            x, y = c * SIZE, r * SIZE
            fill = "#3c4a6b" if mark == "#" else "none"
            parts.append(
                f'<rect x="{x}" y="{y}" width="{SIZE}" height="{SIZE}" fill="{fill}" stroke="#c9cdd6"/>'
            )
            if mark == "E":
                parts.append(_enemy(x + SIZE / 2, y + SIZE / 2))
    for r, c in sorted(cookies):
        cx, cy = (c + 0.5) * SIZE, (r + 0.5) * SIZE
        parts.append(f'<circle cx="{cx}" cy="{cy}" r="{SIZE / 7:.1f}" fill="#b5793a" stroke="#7a4b1c"/>')
        parts.append(
            "".join(f'<circle cx="{cx + a}" cy="{cy + b}" r="1.2" fill="#4a2c0e"/>' for a, b in _CHIPS)
        )
    parts.append(_pacman((place[1] + 0.5) * SIZE, (place[0] + 0.5) * SIZE, outcome))
    for (r, c), shares in (policy or {}).items():
        parts.append(_arrows((c + 0.5) * SIZE, (r + 0.5) * SIZE, shares))
    for (r, c), number in (values or {}).items():
        up, _, _, down = (policy or {}).get((r, c), (0.0, 0.0, 0.0, 0.0))
        foot = (r + 1) * SIZE - 3.5 if up > down else r * SIZE + 9.5  # where no arrow runs
        parts.append(
            f'<text x="{c * SIZE + 2.5}" y="{foot}" font-size="9" font-family="sans-serif" fill="#1d2433" '
            f'stroke="#fbfaf5" stroke-width="2" paint-order="stroke">{number:.2f}</text>'
        )
    return "".join(parts) + "</svg>"


_CHIPS = ((-2.0, -1.5), (2.0, 0.5), (-0.5, 2.5))


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def _pacman(x: float, y: float, outcome: str) -> str:
    """A yellow disc with an open mouth; grey and closed once it has lost."""
    r = SIZE * 0.34
    if outcome == "lost":
        return f'<circle cx="{x}" cy="{y}" r="{r:.1f}" fill="#9a9a9a" stroke="#555"/>'
    lips, up, down = x + 0.87 * r, y - 0.5 * r, y + 0.5 * r
    mouth = f"M{x},{y} L{lips:.1f},{up:.1f} A{r:.1f},{r:.1f} 0 1 0 {lips:.1f},{down:.1f} Z"
    eye = f'<circle cx="{x + 1}" cy="{y - 0.55 * r:.1f}" r="2" fill="#222"/>'
    return f'<path d="{mouth}" fill="#f6c915" stroke="#8a6d00"/>{eye}'


def _enemy(x: float, y: float) -> str:
    """A squiggly thing with two eyes."""
    w = SIZE * 0.32
    waves = "".join(f"q{w / 6:.1f},{-w / 3 if i % 2 else w / 3:.1f} {w / 3:.1f},0 " for i in range(6))
    left, hem, brow = x - w, y + 0.8 * w, y - 0.1 * w
    body = f"M{left:.1f},{hem:.1f} {waves}V{brow:.1f} A{w:.1f},{w:.1f} 0 0 0 {left:.1f},{brow:.1f} Z"
    eyes = "".join(
        f'<circle cx="{x + d:.1f}" cy="{y - 2}" r="2.5" fill="#fff"/>' for d in (-w / 2.5, w / 2.5)
    )
    return f'<path d="{body}" fill="#c8324a" stroke="#7c1526"/>{eyes}'


def _arrows(x: float, y: float, shares: Sequence[float]) -> str:
    """A line and a head for every action with a share worth seeing."""
    parts = []
    for (dx, dy), share in zip(_DIRECTIONS, shares):
        if share < 0.02:
            continue
        tip = 0.44 * SIZE * share
        tx, ty = x + dx * tip, y + dy * tip
        head = f"{tx:.1f},{ty:.1f} {tx - 4 * dx - 3 * dy:.1f},{ty - 4 * dy - 3 * dx:.1f} "
        head += f"{tx - 4 * dx + 3 * dy:.1f},{ty - 4 * dy + 3 * dx:.1f}"
        parts.append(
            f'<line x1="{x}" y1="{y}" x2="{tx:.1f}" y2="{ty:.1f}" stroke="#1f5fae" stroke-width="2"/>'
            f'<polygon points="{head}" fill="#1f5fae"/>'
        )
    return "".join(parts)
