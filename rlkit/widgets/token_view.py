"""A completion's tokens in colour; one of them chosen, with its numbers and what else might have been sampled.

The tokens are one ``ToggleButtons``: clickable and reachable by keyboard with core widgets, one message for all of
them. Colours come as style rules by position; strength is shown by an underline's weight as well, the side of a signed
quantity by its dashes, and clipping by a symbol.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import ipywidgets

from rlkit.runs.evidence import number, percent, shown
from rlkit.widgets.look import LITERAL, bar, escaped, table, whole
from rlkit.widgets.models.quantities import QUANTITIES
from rlkit.widgets.models.tokens import Tokens
from rlkit.widgets.panel import SetsItself, guarded, put

WINDOW = 200  # tokens shown at a time
_LONGEST = 40  # characters of a token
_UNSPELT = '<span class="soft">(not spelt here)</span>'
CLIP_SIGNS = {"low": "✂", "high": "✂", "capped": "⊤", "": ""}


class TokenView(SetsItself, ipywidgets.VBox):  # type: ignore[misc]
    """The tokens of an opened completion.

    Args:
        trouble: shows an error above the panel.

    Attributes:
        quantity: ``Dropdown``, what colours mean.
        position: ``IntSlider``, the chosen token, from 1.
        previous, next: ``Button``.
        tokens: ``ToggleButtons``, the window of 200 tokens around it.
        opened: the ``Tokens`` shown; None where there are none.
    """

    def __init__(self, trouble: Callable[[Any], None]) -> None:
        self.trouble = trouble
        self.opened: Tokens | None = None
        self.quantity = ipywidgets.Dropdown(
            description="colour by",
            tooltip="What the tokens' colours and underlines show",
            layout={
                "width": "auto",
                "min_width": "250px",
                "max_width": "calc(100% - 4px)",
                "flex": "1 1 250px",
            },
        )
        self.position = ipywidgets.IntSlider(
            1,
            1,
            1,
            description="token",
            tooltip="Which token's numbers are shown",
            layout={
                "width": "auto",
                "min_width": "220px",
                "max_width": "calc(100% - 4px)",
                "flex": "2 1 260px",
            },
        )
        narrow = {"width": "44px"}
        self.previous = ipywidgets.Button(description="◀", tooltip="The token before", layout=narrow)
        self.next = ipywidgets.Button(description="▶", tooltip="The next token", layout=narrow)
        self._about = ipywidgets.HTML()
        self._legend = ipywidgets.HTML()
        self._chosen = ipywidgets.HTML()
        self._numbers = ipywidgets.HTML()
        self.tokens = ipywidgets.ToggleButtons(options=[], tooltip="Choose a token")
        for name in ("toks", *LITERAL.split()):
            self.tokens.add_class(name)
        self._scope = f"toks-{self.tokens.model_id[:10]}"
        self.tokens.add_class(self._scope)
        controls = ipywidgets.HBox([self.quantity, self.position, self.previous, self.next])
        controls.layout.flex_flow = "row wrap"
        super().__init__([controls, self._about, self._legend, self._chosen, self.tokens, self._numbers])
        self.quantity.observe(self._on_quantity, "value")
        self.position.observe(self._on_position, "value")
        self.tokens.observe(self._on_token, "value")
        self.previous.on_click(self._on_previous)
        self.next.on_click(self._on_next)
        self.show(None)

    def show(self, opened: Tokens | None) -> None:
        """Show another completion; the quantity stays where it has that one, too."""
        self.opened = opened
        filled = opened is not None and len(opened) > 0
        with self.silently():
            if filled and opened is not None:
                names = opened.quantities
                kept = self.quantity.value if self.quantity.value in names else next(iter(names), None)
                self.quantity.options = [(QUANTITIES[name].label, name) for name in names]
                self.quantity.value = kept
                self.position.value = 1
                self.position.max = len(opened)
        for child in self.children:
            child.layout.display = None if filled else "none"
        self._draw()

    # -- what stands in a page without widgets --------------------------------------------------------

    def static_html(self) -> str:
        """Tokens, legend and the chosen token's numbers as HTML without widgets."""
        if self.opened is None or not len(self.opened):
            return ""
        levels, start = self._levels(), self._start
        spans = "".join(
            f'<span class="tok" style="{_look(levels[i])}">{escaped(self._label(i))}</span>'
            + ("<br>" if "\n" in self.opened.tokens[i] else "")
            for i in range(start, min(start + WINDOW, len(self.opened)))
        )
        return (
            f'{self._about.value}{self._legend_html()}<div class="tokline {LITERAL}">{spans}</div>'
            f"{self._numbers.value}"
        )

    # -- events ---------------------------------------------------------------------------------------

    @guarded
    def _on_quantity(self, change: Any) -> None:
        if not self._silent:
            self._draw()

    @guarded
    def _on_position(self, change: Any) -> None:
        if not self._silent:
            moved = self._start != self._drawn_start
            self._draw() if moved else self._draw_chosen()

    @guarded
    def _on_token(self, change: Any) -> None:
        if not self._silent and change["new"] is not None:
            self.position.value = change["new"] + 1

    @guarded
    def _on_previous(self, button: Any) -> None:
        self.position.value = max(1, self.position.value - 1)

    @guarded
    def _on_next(self, button: Any) -> None:
        self.position.value = min(self.position.max, self.position.value + 1)

    # -- drawing --------------------------------------------------------------------------------------

    _drawn_start = 0

    @property
    def _start(self) -> int:
        """The first token of the window."""
        return int((self.position.value - 1) // WINDOW * WINDOW)

    def _levels(self) -> list[int | None]:
        assert self.opened is not None
        name = self.quantity.value
        return [None] * len(self.opened) if name is None else self.opened.strengths(name)

    def _draw(self) -> None:
        opened = self.opened
        if opened is None or not len(opened):
            for part in (self._about, self._legend, self._chosen, self._numbers):
                put(part, "")
            return
        start = self._drawn_start = self._start
        stop = min(start + WINDOW, len(opened))
        put(self._about, self._about_html(start, stop))
        rules = _rules(self._scope, self._levels()[start:stop], opened.tokens[start:stop])
        put(self._legend, f"<style>{rules}</style>{self._legend_html()}")
        with self.silently():
            self.tokens.options = []  # so that no token of the one before stays chosen
            self.tokens.tooltips = [self._hint(i) for i in range(start, stop)]
            self.tokens.options = [(self._label(i), i) for i in range(start, stop)]
        self._draw_chosen()

    def _draw_chosen(self) -> None:
        opened, t = self.opened, int(self.position.value - 1)
        if opened is None or not 0 <= t < len(opened):
            return
        with self.silently():
            self.tokens.value = t
        place = t - self._start + 1
        chosen = (
            f".{self._scope} button:nth-child({place}){{outline:2px solid var(--ink)!important;z-index:1}}"
        )
        put(self._chosen, f"<style>{chosen}</style>")
        put(self._numbers, _numbers_html(opened, t))

    def _label(self, i: int) -> str:
        assert self.opened is not None
        return CLIP_SIGNS[self.opened.clipped[i]] + visible_token(self.opened.tokens[i])

    def _hint(self, i: int) -> str:
        """What is said of a token when the mouse rests on it."""
        assert self.opened is not None
        values = self.opened.values(self.quantity.value) if self.quantity.value else None
        value = None if values is None else values[i]
        said = "" if value is None else f": {QUANTITIES[self.quantity.value].label} {number(value)}"
        return f"token {i + 1}{said}"

    def _about_html(self, start: int, stop: int) -> str:
        assert self.opened is not None
        name, total = self.quantity.value, len(self.opened)
        said = [] if name is None else [f"{QUANTITIES[name].label}: {QUANTITIES[name].formula}"]
        if name is None:
            said.append("The run kept no numbers per token of this completion.")
        said += self.opened.notes + (self.opened.push_notes if name == "push" else [])
        if total > WINDOW:
            said.append(
                f"Tokens {start + 1:,} to {stop:,} of {total:,} are shown; the slider reaches all of them."
            )
        return f'<p class="soft">{escaped(" ".join(said), 4000)}</p>'

    def _legend_html(self) -> str:
        assert self.opened is not None
        if self.quantity.value is None:
            return ""
        entries = [
            f'<span><span class="tok" style="{_look(level)}">{_sample(level)}</span> {escaped(words)}</span>'
            for level, words in self.opened.legend(self.quantity.value)
        ]
        if None in self._levels():
            entries.append(f'<span><span class="tok" style="{_look(None)}">abc</span> no number</span>')
        there = set(self.opened.clipped)
        if there & {"low", "high"}:
            entries.append("<span>✂ clipped: no gradient from the advantage</span>")
        if "capped" in there:
            entries.append("<span>⊤ capped by δ: no gradient from the advantage</span>")
        return f'<div class="facts" role="note" aria-label="legend">{"".join(entries)}</div>'


def visible_token(text: str) -> str:
    """A token as it is shown: white space that would not be seen has a sign, long ones are cut."""
    text = whole(text)
    if not text:
        return "∅"
    text = text.replace("\r", "␍").replace("\n", "↵").replace("\t", "⇥")
    if not text.strip():
        text = text.replace(" ", "␣")
    return shown(text[:_LONGEST]) + ("…" if len(text) > _LONGEST else "")


def _sample(level: int) -> str:
    return "+" * level if level > 0 else "−" * -level if level < 0 else "abc"


def _look(level: int | None) -> str:
    """Style declarations of a strength: background, underline's weight; dashes where it is below 0."""
    if level is None:
        return "border-bottom:4px dotted var(--rule)"
    if level == 0:
        return "border-bottom:4px solid transparent"
    side, line, color = ("cool", "solid", "s0") if level > 0 else ("warm", "dashed", "s1")
    weight = abs(level)
    return (
        f"background:color-mix(in srgb,var(--{side}) {25 * weight}%,var(--paper));"
        f"border-bottom:{weight}px {line} var(--{color});padding-bottom:{4 - weight}px"
    )


def _rules(scope: str, levels: list[int | None], tokens: list[str]) -> str:
    """The style rules of a window of tokens, by their position in it."""
    by_level: dict[int | None, list[int]] = {}
    for i, level in enumerate(levels, 1):
        by_level.setdefault(level, []).append(i)
    rules = []
    for level, places in by_level.items():
        chosen = ",".join(f".{scope} button:nth-child({i})" for i in places)
        rules.append(f"{chosen}{{{_look(level).replace(';', '!important;')}!important}}")
    broken = [i + 2 for i, token in enumerate(tokens) if "\n" in token]  # a line begins behind a line break
    if broken:
        rules.append(",".join(f".{scope} button:nth-child({i})" for i in broken) + "{clear:left}")
    return "".join(rules)


def _numbers_html(opened: Tokens, t: int) -> str:
    """All numbers of one token, and its alternatives."""
    token = visible_token(opened.tokens[t])
    named = f"id {opened.ids[t]}" if opened.ids else "without id"
    head = f"<h4>Token {t + 1} of {len(opened)}: <code>{escaped(token)}</code> ({named})</h4>"
    rows = [[escaped(what), f"{number(value)} {escaped(unit)}"] for what, value, unit in opened.numbers(t)]
    clip = f"<p class='soft'>{escaped(opened.clip_words(t))}.</p>" if opened.values("ratio") else ""
    left = table(["of this token", ""], rows, numeric=[1]) if rows else ""
    found = opened.alternatives(t)
    if found:
        lines = [
            [
                (_UNSPELT if one.text is None else f"<code>{escaped(visible_token(one.text))}</code>")
                + (" <b>◀ sampled</b>" if one.sampled else ""),
                str(one.token_id),
                number(one.logp),
                percent(math.exp(min(one.logp, 0.0))),
                bar(math.exp(min(one.logp, 0.0))),
            ]
            for one in found
        ]
        right = table(["the engine's likeliest", "id", "log π, nats", "π", ""], lines, numeric=[1, 2, 3])
    else:
        right = '<p class="soft">The run kept no alternatives (top_logprobs=0, or an older run).</p>'
    return f'{head}{clip}<div class="two">{left}{right}</div>'
