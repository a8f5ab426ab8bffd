"""What a site does between two steps: it pushes, takes up a version, and leaves word with the client."""

from pathlib import Path

import torch
from torch import nn

from isthmus.outer import bridge, ranges
from isthmus.outer.layout import Layout
from isthmus.outer.parameters import Exchange
from isthmus.outer.site_state import Kept, SiteState, Todo
from isthmus.outer.site_talk import Talk
from isthmus.outer.window import Window

_RATE_STEPS = 3
"""Steps after which the server first hears how fast this site is."""


class Boundary:
    """The parameters' way to and from the client, as the state says what is due.

    Args:
        optimizer: loses its moments where the server asks for it.
        keeps_notes: another rank 0 may come in the place of this one: the client is told at every change.
    """

    _exchange: Exchange

    def __init__(
        self,
        talk: Talk,
        model: nn.Module,
        layout: Layout,
        optimizer: torch.optim.Optimizer | None,
        *,
        keeps_notes: bool,
    ):
        self._talk = talk
        self._model, self._layout = model, layout
        self._optimizer = optimizer
        self._keeps_notes = keeps_notes

    @property
    def _state(self) -> SiteState:
        return self._talk.state

    def share(self, path: Path) -> None:
        """The vectors that are shared with the client are in this file."""
        self._exchange = Exchange(self._model, self._layout, bridge.Vectors(path, self._layout.size))

    def seed(self) -> None:
        """The first parameters, for a server that has none yet."""
        self._exchange.save()
        self._talk.say(bridge.SnapshotReady())

    def load_kept(self) -> bool:
        """Takes the parameters after the last step from where they are kept. False where others have them."""
        if self._state.kept == Kept.OTHERS:
            return False
        self._exchange.load_kept(self._state.kept)
        return True

    def needs_snapshot(self) -> bool:
        """The snapshot is needed as it is, until the next step or push."""
        return self._state.kept == Kept.SNAPSHOT and self._state.window.steps > 0

    def stepped(self) -> bool:
        """A step was counted. True if the parameters were changed here."""
        self._tell_rate()
        self._note()
        return self.finish()

    def _tell_rate(self) -> None:
        window = self._state.window
        if not self._state.rate_told and window.steps == _RATE_STEPS:
            self._talk.say(bridge.Rate(step_s=window.busy_s / window.steps))
            self._state.rate_told = True

    def _noted(self) -> SiteState | None:
        return self._state if self._keeps_notes else None

    def _note(self) -> None:
        if self._keeps_notes:
            self._talk.say(bridge.Noted(self._state))

    def finish(self) -> bool:
        """What is left to do of a step boundary (`Todo`). True if the parameters were changed here."""
        state, changed = self._state, False
        self._talk.look(0)
        if state.todo == Todo.LOOK:
            changed = self._look_for_version(Todo.PUSH)
            state.todo = Todo.PUSH
        if state.todo == Todo.PUSH:
            if self._due():
                self.push(Todo.WAIT if state.strict and state.delay == 0 else Todo.NOTHING)
            else:
                state.todo = Todo.NOTHING
        if state.todo == Todo.WAIT:
            changed = self._look_for_version(Todo.NOTHING) or changed
        state.todo = Todo.NOTHING
        return changed

    def _look_for_version(self, then: Todo) -> bool:
        """Takes up a version that is there; in strict mode at exactly `delay` steps after the push. A strict
        delay that nobody set is measured once: the steps that the first push took there and back, and one.
        """
        state = self._state
        if state.strict:
            if state.pushes == 0:
                return False
            if state.delay < 0 and (state.base is not None or state.since_push >= state.inner_steps):
                state.delay = min(state.since_push + 1, state.inner_steps)
                self._note()
            if state.since_push != state.delay:
                return False
            self._talk.wait_until(lambda: state.base is not None, "the round's version")
        if state.base is None:
            return False
        state.todo = then
        self.take_up()
        return True

    def _due(self) -> bool:
        state = self._state
        if state.window.steps < state.inner_steps:
            return False
        if state.strict and not state.may_push:
            self._talk.wait_until(lambda: state.may_push, "the last push's fate")
        return state.may_push

    def push(self, then: Todo = Todo.NOTHING) -> None:
        state = self._state
        window, state.window = state.window, Window()
        if state.kept != Kept.SNAPSHOT:
            self._exchange.save()
        state.pushes += 1
        state.since_push = 0
        state.may_push = False
        state.base = None
        state.todo, state.kept = then, Kept.SNAPSHOT if self._keeps_notes else Kept.OTHERS
        self._talk.say(
            bridge.Pushed(
                ranges=ranges.normal(window.samples),
                tokens=window.tokens,
                group_tokens=window.group_tokens,
                steps=window.steps,
                step_s=window.busy_s / window.steps,
                note=self._noted(),
            )
        )

    def take_up(self) -> None:
        """The base that is there becomes what training stands on, with the progress since the last push."""
        state = self._state
        base, state.base = state.base, None
        assert base is not None
        has_progress = state.window.steps > 0 and not base.reset
        if base.reset:
            self._exchange.load()
            state.ranges = []
            state.window = Window()
            state.reset = base.moments
            if base.moments and state.version >= 0 and self._optimizer is not None:
                self._optimizer.state.clear()
        elif self._keeps_notes and not has_progress:
            self._exchange.load()
        else:
            self._exchange.take_up()
        state.version = base.version
        if self._keeps_notes:
            state.kept = Kept.SNAPSHOT if has_progress else Kept.REFERENCE
            if has_progress:
                self._exchange.save()
        self._talk.say(bridge.Taken(base.version, delay_steps=state.since_push, note=self._noted()))
