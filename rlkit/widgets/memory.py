"""MemoryCalculator: the guide's memory table with every term shown, and the same for other models."""

from __future__ import annotations

from typing import Any

import ipywidgets

from rlkit.errors import unknown_name
from rlkit.widgets.controls import Explorer, menu, picture, row
from rlkit.widgets.look import bar, callout, escaped, table
from rlkit.widgets.models.memory import PRESETS, UNITS, MemoryModel, MemorySetup, Term, shown
from rlkit.widgets.panel import put

_OWN = "my own numbers"
_HOW = {
    "derived": ("good", "✓ derived"),
    "claimed": ("bad", "✎ claimed by the guide"),
    "unknown": ("soft", "? not derived here"),
}
# attribute of MemorySetup -> label, largest value, tooltip
_FIELDS: dict[str, tuple[str, float, str]] = {
    "context": ("context, tokens", 2**22, "Tokens of a sequence: prompt and completion"),
    "generations": ("generations", 4096, "Sequences whose logits are held at once"),
    "vocabulary": ("vocabulary", 2**21, "Entries of the model's vocabulary"),
    "layers": ("layers", 1000, "Layers of the model"),
    "kv_heads": (
        "key/value heads",
        1000,
        "Heads that keep keys and values: fewer than query heads, as a rule",
    ),
    "head_size": ("head size", 4096, "Numbers of one head"),
    "parameters": ("parameters, millions", 2e6, "Weights of the model, in millions"),
    "bytes_each": ("bytes a number", 8, "2 for bfloat16 and float16, 4 for float32"),
    "cached": ("cached sequences", 4096, "Sequences in the key/value cache at once; the guide counts one"),
}


class MemoryCalculator(Explorer):
    """The guide's 54.3 against 510.8 GB, term by term: derived where that is possible, marked as a claim where not.

    Every input can be changed. It is no planner: what training itself takes (activations, gradients, optimizer) is not
    derived, so that no total of it says whether a run fits.

    Args:
        preset: a key of `models.memory.PRESETS`, or the beginning of one: "the guide's", "SmolLM2", "Qwen2.5".
        unit: "GiB" (2³⁰ bytes) or "GB" (10⁹); both are in the table, the bars and the total follow it.

    Raises `ConfigError` for a preset or a unit that does not exist.

    >>> MemoryCalculator()  # a cell's last line

    Controls: `preset`, `unit`, and `fields` by name: "context", "generations", "vocabulary", "layers", "kv_heads",
    "head_size", "parameters" (in millions), "bytes_each", "cached".
    """

    def __init__(self, preset: str = "the guide's", unit: str = "GiB") -> None:
        name = next((known for known in PRESETS if known.startswith(preset)), None)
        if name is None:
            raise unknown_name("preset", preset, PRESETS)
        if unit not in UNITS:
            raise unknown_name("unit", unit, UNITS)
        self.model = MemoryModel(PRESETS[name])
        self.preset = menu("set-up", [_OWN, *PRESETS], name, "A model and what is trained with it")
        self.preset.layout.width = "min(100% - 8px, 32rem)"  # its names are long
        self.unit = ipywidgets.ToggleButtons(
            options=list(UNITS),
            value=unit,
            description="unit",
            tooltips=[
                "2³⁰ = 1,073,741,824 bytes: what GPU tools and vLLM count in",
                "10⁹ bytes: what drives are sold in",
            ],
            style={"description_width": "2.6rem", "button_width": "5rem"},
            layout=ipywidgets.Layout(
                width="auto", display="flex", flex_flow="row nowrap", align_items="center"
            ),
        )
        self.fields: dict[str, Any] = {}
        for key, (label, most, tip) in _FIELDS.items():
            kind = (
                ipywidgets.BoundedFloatText
                if key in ("parameters", "bytes_each")
                else ipywidgets.BoundedIntText
            )
            self.fields[key] = kind(
                value=_shown_value(self.model.setup, key),
                min=0.001 if key == "parameters" else 0.5 if key == "bytes_each" else 1,
                max=most,
                description=label,
                tooltip=tip,
                style={"description_width": "9.5rem"},
                layout=ipywidgets.Layout(width="min(100%, 17rem)"),
            )
        self._picture = picture()
        super().__init__(
            "Memory: where do 54.3 and 510.8 GB come from?",
            [row(self.preset, self.unit), row(*self.fields.values()), self._picture],
            "The guide's table for Llama 3.1 8B with every term shown. Change an input and see which term moves.",
        )
        self.preset.observe(self._preset, names="value")
        self.follow(self.unit, *self.fields.values())

    def _preset(self, change: Any) -> None:
        if change["new"] == _OWN or self._held:
            return
        setup = PRESETS[change["new"]]
        with self.at_once():
            for key, field in self.fields.items():
                field.value = _shown_value(setup, key)

    def _setup(self) -> MemorySetup:
        """The inputs as they stand; a preset's claim and GPU belong to its own numbers only."""
        present = {key: field.value for key, field in self.fields.items()}
        for setup in PRESETS.values():
            if present == {key: _shown_value(setup, key) for key in _FIELDS}:
                return setup
        before = (
            self.model.setup
        )  # its field is rounded: as long as nobody changes it, the exact number counts
        untouched = present["parameters"] == _shown_value(before, "parameters")
        present["parameters"] = before.parameters if untouched else present["parameters"] * 1e6
        known = PRESETS.get(self.preset.value)
        gpu = known.gpu if known is not None else self.model.setup.gpu
        return MemorySetup(**present, gpu=gpu)

    def refresh(self) -> None:
        self.model = MemoryModel(self._setup())
        self._held = True
        self.preset.value = next((name for name, own in PRESETS.items() if own == self.model.setup), _OWN)
        self._held = False
        put(self._picture, self.static_html())

    # -- pictures -----------------------------------------------------------------------------------------

    def static_html(self) -> str:
        model, unit = self.model, self.unit.value
        other = next(name for name in UNITS if name != unit)
        most = max([t.standard or 0.0 for t in model.terms()] or [0.0])
        rows = [self._line(term, most, unit, other) for term in model.terms()]
        totals = [f"<b>{shown(total, u)}</b>" for total in model.totals() for u in (unit, other)]
        rows.append(
            ["<b>Total</b>" if model.complete else "<b>Total of what is known</b>", "", *totals]
            + (["<b>510.8</b> | <b>54.33</b>"] if model.is_guide else [])
        )
        head = ["", "how known", f"standard, {unit}", other, f"saving, {unit}", other]
        caption = "Memory of one GRPO step. GiB = 2³⁰ bytes, GB = 10⁹ bytes: 1 GiB = 1.074 GB."
        numbers = table(
            [*head, *(["the guide prints"] if model.is_guide else [])], rows, range(2, 7), caption, True
        )
        formulas = "".join(
            f"<li><b>{escaped(t.name)}</b>: {escaped(t.formula)}"
            f"{f' = <code>{escaped(t.numbers)}</code> bytes' if t.numbers else ''}. "
            f'<span class="soft">{escaped(t.remark)}</span></li>'
            for t in model.terms()
        )
        said = "".join(f"<p>{escaped(text)}</p>" for text in model.says())
        no_planner = callout(
            "info",
            "No planner yet.",
            "It shows terms and where they come from. Whether a run fits on a GPU depends on training's own memory, "
            "which is not derived here.",
        )
        return f"{numbers}{said}<h4>Where each term comes from</h4><ul>{formulas}</ul>{no_planner}"

    def _line(self, term: Term, most: float, unit: str, other: str) -> list[str]:
        kind, how = _HOW[term.how]
        known = f'<span class="{kind}">{escaped(how)}</span>'
        if term.how == "derived" != term.saving_how:
            known += ', saving <span class="bad">✎ claimed</span>'
        cells = [escaped(term.name), known]
        for color, size in enumerate((term.standard, term.saving)):
            drawn = "" if size is None else bar(size / most if most else 0.0, color)
            cells += [f'{drawn} <b class="num">{shown(size, unit)}</b>', shown(size, other)]
        if self.model.is_guide and term.printed is not None:
            meant = "unit not said" if term.printed.unit == "unknown" else f"is {term.printed.unit}"
            cells.append(f"{term.printed.standard:g} | {term.printed.saving:g} ({meant})")
        return cells

    def describe(self) -> str:
        unit = self.unit.value
        parts = "; ".join(
            f"{t.name} {shown(t.standard, unit)} against {shown(t.saving, unit)} {unit} ({t.how})"
            for t in self.model.terms()
        )
        return f"{parts}."


def _shown_value(setup: MemorySetup, key: str) -> float:
    value = getattr(setup, key)
    return round(value / 1e6, 3) if key == "parameters" else value
