"""``TrainingDashboard``: a run while it trains, after it has ended, or told again; up to five side by side."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import ipywidgets

from rlkit.errors import ConfigError, bad_value
from rlkit.runs.reader import Run
from rlkit.runs.replay import Replay
from rlkit.widgets import training_html as page
from rlkit.widgets.following import Refresher
from rlkit.widgets.look import escaped
from rlkit.widgets.models import training as model
from rlkit.widgets.models.subjects import NUMBERS
from rlkit.widgets.models.track import Track, labels
from rlkit.widgets.panel import Pace, Panel, guarded, put
from rlkit.widgets.training_controls import Controls

Source = str | os.PathLike[str] | Run

_SHARE = 0.01  # of the time that is spent drawing
_NO_TRAINER = (
    "No buttons here: this dashboard reads the run directory from outside of the training. "
    "trainer.dashboard() has them."
)
_NOT_BEGUN = "Not started yet. trainer.train(background=True) keeps the notebook, and these buttons, usable."
_FOREGROUND = (
    "Training runs in the foreground: the kernel is busy and hears no button until it ends. "
    "The notebook's stop button ends it with a checkpoint; trainer.train(background=True) frees these."
)
_ENDED = "Training has ended."


class TrainingDashboard(Panel):
    """What a run's numbers say: rewards, accuracy, KL, entropy, lengths, clipping, time, memory; a diagnosis in words.

    It reads run directories only. While a run is written it is drawn again, at most twice a second and for at most 1 %
    of the time; what it shows is what the run directory holds.

    Args:
        runs: a run directory, a ``Run``, a ``Replay``; or up to five of them, which are compared.
        control: what the buttons act on: a ``TrainerControl`` (``trainer.dashboard()`` passes its own).
        total_steps: how many steps the (first) run is to have, where its config does not say.
        begun: says whether the trainer has opened its run directory; until then, what lies there is an older run.

    Raises:
        ConfigError: no run, more than five, or something that is none. A directory without a run in it is no error: the
            dashboard says so, and "Look again" looks again.

    Attributes:
        pause, step, stop, again, speed, restart: the buttons, and a replay's speed.
        section, average: which charts are shown; over how many steps a point is averaged.
        drawings, seconds_drawing: how often it was drawn, and how much processor time that took.

    >>> TrainingDashboard("runs/demo")
    >>> TrainingDashboard(["runs/seed-0", "runs/seed-1"])
    """

    _refresher: Any = None  # not yet, where closing comes before the end of making
    _controls_shown: Any = None

    def __init__(
        self,
        runs: Source | Sequence[Source],
        *,
        control: Any = None,
        total_steps: int | None = None,
        begun: Callable[[], bool] | None = None,
    ) -> None:
        sources = _sources(runs)
        self._tracks = [Track(source, None if i else total_steps) for i, source in enumerate(sources)]
        self._replays = [source for source in sources if isinstance(source, Replay)]
        self._is_replay = control is None and bool(self._replays)
        longest: Any = max(
            (source.control for source in self._replays), key=lambda told: told.length, default=None
        )
        self.control: Any = control or longest
        self._controls = [source.control for source in self._replays] if self._is_replay else [control]
        self._begun = begun or (lambda: True)
        self._foreground = False
        self._drawing = threading.RLock()
        self._shown_as: str | None = None  # the display's id
        self._drawn: tuple[Any, ...] = ()
        self._choosing = self._failed = False
        self.seconds_drawing, self.drawings = 0.0, 0
        self.pace = Pace(per_second=2.0, share=_SHARE, cost=time.thread_time)
        self._refresher = Refresher(self, every=self.pace.least)
        speed = float(self.control.speed) if self._is_replay else None
        self._controls_shown = made = Controls(speed, act=self.control is not None)
        self.pause, self.step, self.stop, self.again = made.pause, made.step, made.stop, made.again
        self.restart, self.speed, self.section, self.average = (
            made.restart,
            made.speed,
            made.section,
            made.average,
        )
        for button, act in (
            (self.pause, self._on_pause),
            (self.step, self._on_step),
            (self.stop, self._on_stop),
            (self.restart, self._on_restart),
            (self.again, self._on_again),
        ):
            button.on_click(act)
        self.speed.observe(self._on_speed, "value")
        self.section.observe(self._on_choice, "value")
        self.average.observe(self._on_choice, "value")
        self._state, self._why, self._facts, self._findings, self._charts, self._foot = (
            ipywidgets.HTML("", layout=ipywidgets.Layout(width="100%", margin="2px 0")) for _ in range(6)
        )
        names = ", ".join(labels(self._tracks))
        kind = "Replay of" if self._is_replay else "Training:" if len(sources) == 1 else "Runs compared:"
        super().__init__(
            f"{kind} {names}",
            [
                self._state,
                made.buttons,
                self._why,
                self._facts,
                self._findings,
                made.choice,
                self._charts,
                self._foot,
            ],
        )
        self.refresh()
        self._follow()

    # -- following ------------------------------------------------------------------------------------

    @property
    def live(self) -> bool:
        """Whether more is to come: a run is being written, a replay told, or the trainer's buttons act."""
        trained = self.control is not None and self.control.alive
        return trained or any(track.live for track in self._tracks)

    def begin(self, foreground: bool) -> None:
        """Training begins: draw from here on."""
        self._foreground = foreground
        self.tick(force=True)
        if not foreground:
            self._refresher.start()

    def tick(self, force: bool = False) -> bool:
        """Draw what is new, where it is due; returns whether more is to come. Errors are shown, not raised."""
        with self._drawing:
            live = self.live  # asked before drawing, so that no last line is missed
            if not (force or self.pace.due() or not live):
                return True
            with self.pace:
                try:
                    self._look_and_draw()
                except Exception as error:
                    self._failed = True
                    self.trouble(error)
                else:
                    if self._failed:
                        self._failed = False
                        self.trouble(None)
            return live

    def refresh(self) -> None:
        """Read the run directories and draw, now."""
        self.tick(force=True)

    def settle(self) -> None:
        """Training has ended: draw the last time, and let the notebook keep the picture."""
        self._foreground = False
        self.tick(force=True)
        if self._shown_as is not None:
            from IPython.display import update_display

            update_display(self._repr_mimebundle_(), raw=True, display_id=self._shown_as)

    def close(self) -> None:
        """End drawing, and take the panel away. The run goes on."""
        if self._refresher is not None:
            self._refresher.stop()
        for control in self._controls_shown.spare if self._controls_shown else ():
            control.close()
        super().close()

    def _follow(self) -> None:
        # A control without a thread of its own is a trainer that has not begun, or one in the foreground.
        if self.live and (self.control is None or self.control.background or not self.control.alive):
            self._refresher.start()

    def _ipython_display_(self, **kwargs: Any) -> None:
        """Show it under an id, so that the end of training can renew what a stored notebook keeps."""
        from IPython.display import display

        self._shown_as = self._shown_as or uuid.uuid4().hex
        display(self._repr_mimebundle_(), raw=True, display_id=self._shown_as)

    # -- drawing --------------------------------------------------------------------------------------

    def _look_and_draw(self) -> None:
        start = time.thread_time()
        begun = self._begun()
        if begun:
            for track in self._tracks:
                track.look()
        state = (
            begun,
            tuple(track._state() for track in self._tracks),
            (self.control.state, self.control.pausing, self.control.stop_reason) if self.control else None,
            (self._foreground, self.section.value, self.average.value),
        )
        before = self._drawn
        if state != before:
            self._draw(self._tracks if begun else self._tracks[1:])
            self._drawn = (*state[:-1], (self._foreground, self.section.value, self.average.value))
        self.seconds_drawing += time.thread_time() - start
        self.drawings += state != before

    def _draw(self, tracks: list[Track]) -> None:
        self._set_buttons()
        names = labels(tracks)
        titles = model.sections(tracks)
        options = titles or [NUMBERS]
        if list(self.section.options) != options:
            had = len(self.section.options) > 1  # else there was nothing to choose from
            chosen = self.section.value if had and self.section.value in options else options[0]
            self._choosing = True
            try:
                self.section.options = options
                self.section.value = chosen
            finally:
                self._choosing = False
        self._controls_shown.choice.layout.display = None if titles else "none"
        put(self._state, page.state_html(tracks, names, self.control, begun=len(tracks) == len(self._tracks)))
        put(self._facts, page.facts_html(tracks, names))
        put(self._findings, page.findings_html(tracks, names))
        put(
            self._charts,
            page.section_html(tracks, names, self.section.value, self.average.value) if titles else "",
        )
        put(self._foot, page.foot_html(tracks, names))

    def _set_buttons(self) -> None:
        why = self._why_not()
        if self.control is None:
            put(self._why, f'<p class="soft">{escaped(why)}</p>' if why else "")
            return
        pausing, stopping = self.control.pausing, self.control.stop_reason is not None
        self._controls_shown.set(why, pausing, stopping)
        if not why and stopping:
            why = "Stopping after the running step …"
        elif not why and pausing and self.control.state == "running":
            why = "Pausing after the running step …"
        put(self._why, f'<p class="soft">{escaped(why)}</p>' if why else "")

    def _why_not(self) -> str:
        """Why the buttons cannot act; "" where they can."""
        if self.control is None:
            return _NO_TRAINER if any(track.live for track in self._tracks) else ""
        if self.control.alive:
            return "" if self.control.background and not self._foreground else _FOREGROUND
        if self._is_replay:
            return "The recorded run has been told to its end."
        return _NOT_BEGUN if self.control.state == "idle" else _ENDED

    # -- what is done by hand -------------------------------------------------------------------------

    @guarded
    def _on_pause(self, _: Any) -> None:
        act = "resume" if self.control.pausing else "pause"
        for control in self._controls:
            getattr(control, act)()
        self._act()

    @guarded
    def _on_step(self, _: Any) -> None:
        for control in self._controls:
            control.step()
        self._act()

    @guarded
    def _on_stop(self, _: Any) -> None:
        for control in self._controls:
            control.stop("stopped by hand, in the dashboard")
        self._act()

    @guarded
    def _on_restart(self, _: Any) -> None:
        for replay in self._replays:
            replay.control.restart()
        self._act()

    @guarded
    def _on_speed(self, change: Any) -> None:
        for replay in self._replays:
            replay.control.speed = change["new"]
        self._act()

    @guarded
    def _on_again(self, _: Any) -> None:
        self._act()

    @guarded
    def _on_choice(self, _: Any) -> None:
        if self._drawn and not self._choosing:
            with self._drawing:
                self._look_and_draw()

    def _act(self) -> None:
        with self._drawing:
            self._look_and_draw()
        self._follow()

    # -- pages without widgets ------------------------------------------------------------------------

    def static_html(self) -> str:
        with self._drawing:
            tracks = self._tracks if self._begun() else self._tracks[1:]
            names = labels(tracks)
            parts = [page.state_html(tracks, names, self.control, begun=len(tracks) == len(self._tracks))]
            parts += [page.facts_html(tracks, names), page.findings_html(tracks, names)]
            for title in model.sections(tracks):
                if title != NUMBERS:
                    parts.append(f"<h4>{escaped(title)}</h4>")
                    parts.append(page.section_html(tracks, names, title, self.average.value))
            return "".join([*parts, page.foot_html(tracks, names)])

    def describe(self) -> str:
        if not self._begun():
            return "training has not started."
        return " ".join(page.in_words(track, name) for track, name in zip(self._tracks, labels(self._tracks)))


def _sources(runs: Any) -> list[Source]:
    given = [runs] if isinstance(runs, (str, os.PathLike, Run)) else runs
    if not isinstance(given, Iterable):
        raise bad_value("runs", runs, "a run directory, a Run, or a list of them")
    sources = list(given)
    for source in sources:
        if not isinstance(source, (str, os.PathLike, Run)):
            raise bad_value("runs", source, "a run directory, a Run, or a list of them")
    if not 1 <= len(sources) <= model.MAX_RUNS:
        raise ConfigError(
            f"runs has {len(sources)} entries. Allowed: 1 to {model.MAX_RUNS}; more curves cannot be told apart."
        )
    return sources
