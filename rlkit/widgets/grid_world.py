"""GridWorldPlayer: play PacmanGrid by hand, or watch a policy play it, beside what planning knows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ipywidgets

from rlkit.lab.pacman import ACTIONS
from rlkit.runs.evidence import number
from rlkit.widgets.controls import Explorer, button, menu, picture, row, tick
from rlkit.widgets.look import callout, escaped, facts, table
from rlkit.widgets.models.grid_world import ARROWS, KEYS, NAMED, GridWorldModel
from rlkit.widgets.panel import put

_SPEEDS = [
    ("slow: 1 step a second", 1000),
    ("normal: 2 steps a second", 500),
    ("fast: 5 steps a second", 200),
]
_OVERLAYS = [("nothing", "nothing"), ("policy", "policy"), ("the optimum", "optimal")]
_SEEN = 8  # steps in the log
_NAMES = dict(zip(NAMED, ("optimal (by planning)", "uniform (all moves alike)")))


class GridWorldPlayer(Explorer):
    """PacmanGrid to play: with four buttons, with the keys w a s d, or by letting a policy play.

    Shows reward and return, the value of every cell and the policy's arrows (or the optimum's), and for the present
    state each action's probability and its Q*. The world is a copy: the environment that was given stays as it is.

    Args:
        env: a `lab.PacmanGrid`, also as `gymnasium.make` wraps it; None: the guide's map.
        policy: who is watched: "optimal", "uniform", probabilities [S, A], or what the lab's methods train.
        gamma: the discount of values; returns are undiscounted.
        seed: the luck of slips and of the policy's draws.

    Keys: click into the field “keys” (or reach it with Tab) and type w a s d; every letter is a step. The buttons are
    reached with Tab and pressed with Enter. Raises `ConfigError` for other environments, and policies that do not fit.

    >>> GridWorldPlayer(lab.PacmanGrid("cliff", slip=0.2), history.policy)  # a cell's last line

    Controls: `up`, `left`, `right`, `down`, `typed`, `step`, `play`, `speed`, `again`, `policy`, `overlay`.
    """

    def __init__(self, env: Any = None, policy: Any = None, *, gamma: float = 1.0, seed: int = 0) -> None:
        self.model = GridWorldModel(env, policy, gamma, seed)
        self._given = policy if self.model.policy_name not in NAMED else None
        names = [(_NAMES[name], name) for name in NAMED]
        if self._given is not None:
            names.insert(0, (f"the given one ({self.model.policy_name})", "given"))
        start = "given" if self._given is not None else self.model.policy_name
        self.up, self.left, self.right, self.down = (
            button(f"{arrow} {name.lower()}", f"Go {name.lower()} (key {key})", "100%")
            for arrow, name, key in zip(ARROWS, ACTIONS, KEYS)
        )
        self.typed = ipywidgets.Text(
            description="keys",
            placeholder="type w a s d",
            tooltip="Every w (up), a (left), s (down) or d (right) that you type is a step",
            continuous_update=True,
            style={"description_width": "2.6rem"},
            layout=ipywidgets.Layout(width="100%"),
        )
        self.policy = menu("policy", names, start, "Who plays when you watch, and whose arrows are drawn")
        self.step = button("Step", "Let the policy make one step")
        self.play = ipywidgets.Play(
            value=0, min=0, max=1_000_000, interval=500, tooltip="Let the policy play", show_repeat=False
        )
        self.speed = menu("speed", _SPEEDS, 500, "How fast the policy plays")
        self.overlay = menu(
            "drawn into the grid", _OVERLAYS, "nothing", "Values and arrows, of the policy or the best"
        )
        self.again = button("↺ New episode", "Back to the start")
        self.go_on = tick(
            "then a new episode", False, "Begin again when an episode ends while the policy plays"
        )
        self._picture, self._numbers = picture(), picture()
        self._seen, self._played = "", 0
        super().__init__("PacmanGrid: play, or watch", [self._laid_out(), self._numbers], self._about())
        self._connect()
        self.follow(self.overlay)

    def _about(self) -> str:
        return "Eat all cookies and meet no enemy. Use the buttons, type w a s d, or let the policy play."

    def _laid_out(self) -> ipywidgets.Widget:
        cross = ipywidgets.GridBox(
            [self.up, self.left, self.right, self.down],
            layout=ipywidgets.Layout(
                grid_template_areas='". up ." "left . right" ". down ."',
                grid_template_columns="1fr 1fr 1fr",
                grid_gap="4px",
                width="min(100%, 17rem)",
            ),
        )
        for name, one in zip(("up", "left", "right", "down"), (self.up, self.left, self.right, self.down)):
            one.layout.grid_area = name
        self.typed.layout.width = "min(100%, 17rem)"
        self.again.layout.align_self = "flex-start"
        side = ipywidgets.VBox(
            [
                cross,
                self.typed,
                row(self.step, self.play, self.go_on),
                self.speed,
                self.policy,
                self.overlay,
                self.again,
            ],
            layout=ipywidgets.Layout(
                width="auto", min_width="min(100%, 17rem)", flex="1 1 18rem", grid_gap="4px"
            ),
        )
        self._picture.layout.width = "auto"
        self._picture.layout.flex = "1 1 16rem"
        self._picture.layout.max_width = "440px"
        return ipywidgets.HBox(
            [self._picture, side],
            layout=ipywidgets.Layout(flex_flow="row wrap", grid_gap="10px 24px", width="100%"),
        )

    def _connect(self) -> None:
        for one, action in ((self.up, 0), (self.left, 1), (self.right, 2), (self.down, 3)):
            one.on_click(lambda _button, action=action: self._do(lambda: self.model.go(action)))
        self.step.on_click(lambda _button: self._do(self._policy_step))
        self.again.on_click(lambda _button: self._do(self.new_episode))
        self.typed.observe(self._type, names="value")
        self.play.observe(self._tick, names="value")
        self.speed.observe(lambda change: setattr(self.play, "interval", change["new"]), names="value")
        self.policy.observe(lambda _change: self._do(self._take), names="value")

    # -- what is done ---------------------------------------------------------------------------------------

    def _do(self, deed: Callable[[], Any]) -> None:
        """Do it and draw; what goes wrong is shown."""
        try:
            deed()
            self.refresh()
        except Exception as error:
            self.trouble(error)
        else:
            self.trouble(None)

    def new_episode(self) -> None:
        """Back to the start; the luck goes on."""
        self.model.reset()
        self._seen = self.typed.value = ""

    def _policy_step(self) -> None:
        if self.model.over and self.go_on.value:
            self.new_episode()
        self.model.act()

    def _take(self) -> None:
        self.model.use(self._given if self.policy.value == "given" else self.policy.value)

    def _type(self, change: Any) -> None:
        """Every letter that was added is a step; the letters stay, so that fast typing loses none."""
        before, self._seen = self._seen, change["new"]
        if not self._seen.startswith(before):
            return  # something was deleted
        new = [key for key in self._seen[len(before) :].lower() if not key.isspace()]
        if new:
            self._do(lambda: self._walk(new))

    def _walk(self, keys: list[str]) -> None:
        for key in keys:
            if not self.model.over:
                self.model.go(key)

    def _tick(self, change: Any) -> None:
        """One tick of the play button; it starts from 0 again when it is stopped."""
        forward, self._played = change["new"] > self._played, change["new"]
        if not forward:
            return
        if self.model.over and not self.go_on.value:
            self.play.playing = False
            self._do(lambda: None)
            return
        self._do(self._policy_step)
        if self.model.over and not self.go_on.value:
            self.play.playing = False

    def refresh(self) -> None:
        for one in (self.up, self.left, self.right, self.down):
            one.disabled = self.model.over
        self.step.disabled = self.model.over and not self.go_on.value
        put(self._picture, self._world())
        put(self._numbers, self._below())

    # -- pictures -------------------------------------------------------------------------------------------

    def _world(self) -> str:
        return f'<div class="world">{self.model.picture(self.overlay.value)}</div>'

    def _remark(self) -> str:
        total, best = self.model.total, self.model.best
        told = f"return {number(total)} after {len(self.model.moves)} steps; the best on average is {number(best)}."
        if self.model.outcome == "won":
            return callout("good", "Won:", f"all cookies are eaten, {told}")
        if self.model.outcome == "lost":
            return callout("problem", "Lost:", f"an enemy was met, {told}")
        if self.model.outcome == "cut off":
            return callout("warning", "Cut off:", f"an episode has {self.model.env.max_steps} steps; {told}")
        return ""

    def _facts(self) -> str:
        model = self.model
        last = "—" if not model.moves else number(model.moves[-1].reward)
        return facts(
            [
                ("step", f"{len(model.moves)} of {model.env.max_steps}"),
                ("last reward", last),
                ("return so far", number(model.total)),
                ("best expected return from the start", number(model.best)),
                ("this policy's", number(model.expected)),
            ]
        )

    def _actions(self) -> str:
        if self.model.over:
            return ""
        best = max(q for _, _, q in self.model.here())
        rows = [
            [
                escaped(f"{arrow} {name.lower()}"),
                escaped(f"{chance:.2f}"),
                escaped(f"{'★ ' if q > best - 1e-9 else ''}{q:.3f}"),
            ]
            for arrow, (name, chance, q) in zip(ARROWS, self.model.here())
        ]
        head = ("action", "policy's probability", "Q*, return from here (★ best)")
        return table(head, rows, (1, 2), "In this state")

    def _log(self) -> str:
        if not self.model.moves:
            return ""
        rows = [
            [
                f"{move.step}",
                escaped(f"{ARROWS[move.action]} {ACTIONS[move.action].lower()}"),
                escaped(f"{move.by}{', slipped' if move.slipped else ''}"),
                escaped(number(move.reward)),
            ]
            for move in reversed(self.model.moves[-_SEEN:])
        ]
        return table(("step", "action", "by", "reward"), rows, (0, 3), "The latest steps")

    def _legend(self) -> str:
        env = self.model.env
        gains = env.rewards
        text = (
            f"Yellow disc with a mouth: Pac-Man. Brown dots with chips: cookies ({number(gains['cookie'])} each). "
            f"Red with eyes: enemies ({number(gains['enemy'])}). Dark blue: walls. Every step: {number(gains['step'])}."
        )
        if env.slip:
            text += f" The floor is slippery: {number(100 * env.slip)} % of the steps go to one side."
        if self.overlay.value != "nothing":
            whose = "the optimum" if self.overlay.value == "optimal" else "the policy"
            text += (
                f" Numbers in the cells: the return that {whose} expects from there with these cookies left and all "
                f"{env.max_steps} steps ahead; arrows: what it would do, as long as it is likely. Cells without a "
                "number cannot be entered with these cookies left."
            )
        return f'<p class="soft">{escaped(text)}</p>'

    def _below(self) -> str:
        tables = f'<div class="two"><div>{self._actions()}</div><div>{self._log()}</div></div>'
        return f"{self._remark()}{self._facts()}{self._legend()}{tables}"

    def static_html(self) -> str:
        return self._world() + self._below()

    def describe(self) -> str:
        model = self.model
        return (
            f"{model.outcome}, {len(model.moves)} steps, return {number(model.total)}; best expected return "
            f"{number(model.best)}, the policy's ({model.policy_name}) {number(model.expected)}."
        )
