"""The site's side of outer training, inside rank 0: a `with` block around any PyTorch loop.

    with outer.Site(model, optimizer, name="jinan", server="10.0.0.1:4711", certs="certs") as site:
        for batch in loader:
            ...
            optimizer.step()
            site.step(tokens=batch.numel())

The work on the wire is done by a client process beside this one (`isthmus.outer.client`); here, parameters
are only copied to and from shared memory, at step boundaries. Local progress is never lost: with R the
parameters at the last push (or uptake), a new base B is taken up as `L := (L - R) + B` (eager local
progress, cf. arXiv 2502.12996).

Where other ranks hold the parameters too, a rank 0 that comes in place of another goes on where that one was:
a `Site` with a `Stand` sends its client what it knows at every change (`SiteState`), see `bridge`.
"""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar

import msgspec
import torch
from torch import nn

from isthmus.errors import InputError, UnreachableError
from isthmus.outer import bridge, ranges
from isthmus.outer.layout import build_layout
from isthmus.outer.parameters import Exchange
from isthmus.outer.site_state import Kept, SiteState, Stand, Todo
from isthmus.outer.spawn import ClientProcess
from isthmus.outer.window import Window
from isthmus.wire.line import LineClosedError

_log = logging.getLogger(__name__)
M = TypeVar("M", bound=bridge.LocalMessage)
_START_TIMEOUT_S = 600.0
_START_QUIET_S = 15.0
"""A site that waits longer than this for its server says so."""
_DIAL_S = 60.0
_REJOIN_S = 60.0
_STARVED_S = 0.1
"""How long a site with something to push waits for more work first."""
_RATE_STEPS = 3
"""Steps after which the server first hears how fast this site is."""


class SiteJob(msgspec.Struct, frozen=True, kw_only=True):
    """What a site tells the server about itself; the server refuses sites that differ in the hashes."""

    model_hash: str = ""
    data_hash: str = ""
    batch_size: int = 1
    """Samples in one inner step: leases come in multiples of it."""
    num_fragments: int = 0
    """0: chosen from the model's size."""
    groups: dict[str, int] = {}
    """Parameter name -> expert group, for experts that are weighted by the tokens routed to them."""


def _addresses(server: str | Sequence[str]) -> list[str]:
    return [server] if isinstance(server, str) else list(server)


class Site(AbstractContextManager["Site"]):
    """Joins a training loop to the parameter server. See the module's example.

    Where the client dies, it is dialled again for a minute: what was trained since the last push is then
    trained again, nothing else is lost.

    Args:
        model: its parameters are what is trained; all sites must have the same names and shapes.
        optimizer: its moments are dropped when the server asks for it (after a quarantined push).
        name: this site's, as in its certificate.
        server: host:port of the parameter server; a list with its standby's where it has one.
        certs: folder made by `isthmus certs init` or `isthmus server start`.
        line: socket of a client that runs already, instead of `name`, `server` and `certs`.
        job: hashes and batch size, see `SiteJob`.
        stand: where the loop stands, if a rank 0 that dies there is replaced and the others live on.
    """

    def __init__(  # noqa: PLR0913 - the public face; each is used by its name
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        name: str = "",
        server: str | Sequence[str] = (),
        certs: Path | str = "",
        line: str = "",
        job: SiteJob | None = None,
        stand: Stand | None = None,
    ):
        self._model, self._optimizer = model, optimizer
        self._server = ", ".join(_addresses(server)) or line
        self._client = None if line else ClientProcess.start(name, _addresses(server), Path(certs))
        self._socket_path = line or str(self._client.line if self._client else "")
        self._job = job or SiteJob()
        self._layout = build_layout(
            [(name, tuple(p.shape)) for name, p in model.named_parameters()],
            self._job.groups,
            self._job.num_fragments,
        )
        self._stand = stand
        self._state = SiteState(step=stand.step if stand else 0)
        self._redo: list[ranges.Range] = []
        self._left = False
        self.changed = False
        """Entering it changed the parameters here."""
        self.wait_s = 0.0
        """Seconds spent waiting for leases or versions so far."""
        self._lap = (time.monotonic(), 0.0)

    @property
    def version(self) -> int:
        """Of the published parameters that training stands on; -1 before the first."""
        return self._state.version

    @property
    def inner_steps(self) -> int:
        return self._state.inner_steps

    @property
    def strict(self) -> bool:
        return self._state.strict

    @property
    def delay(self) -> int:
        return self._state.delay

    @property
    def steps(self) -> int:
        """Calls of `step` so far, on top of those of its `Stand`."""
        return self._state.step

    @property
    def redo(self) -> list[ranges.Range]:
        """Samples of a step that is counted here and that the ranks have not done; `redone` follows it."""
        return self._redo

    def __enter__(self) -> "Site":
        try:
            if not (self._stand and self._stand.resume and self._resume(self._stand)):
                self._join()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _resume(self, stand: Stand) -> bool:
        """Goes on where the rank 0 was that this one replaces. False where the client cannot tell."""
        self._line = bridge.Line.dial(self._socket_path, _DIAL_S)
        attached = self._attach(resume=True)
        if attached.note is None or not self._recall(attached.note, attached.unheard, stand):
            self._line.close()
            self._state = SiteState(step=stand.step)
            return False
        self._lap = (time.monotonic(), self.wait_s)
        if self._state.step == stand.step:
            self.changed = self._catch_up()
        return True

    def _recall(self, note: SiteState, unheard: Iterable[bridge.LocalMessage], stand: Stand) -> bool:
        """Becomes the Site that was there. The ranks may be a step ahead of it, which is told next, or one
        behind, which they do again.
        """
        self._state = note
        for message in unheard:
            self._hear(message)
        if note.step < stand.step:
            return note.hand_out(stand.samples)
        self._redo = note.samples if note.step > stand.step else []
        return True

    def redone(self) -> bool:
        """Call when the step of `redo` is done. True if the parameters were changed here."""
        if not self._redo:
            return False
        self._redo = []
        return self._catch_up()

    def _catch_up(self) -> bool:
        """The ranks stand at the step of the note: what became of the parameters there, and what else was
        to be done.
        """
        found = self._state.kept != Kept.OTHERS
        if found:
            self._exchange.load_kept(self._state.kept)
        try:
            return self._finish_step() or found
        except LineClosedError:
            self._rejoin()
            return True

    def _join(self) -> None:
        """Attaches to the client, and stands on the published parameters when it returns."""
        before = self._state
        self._state = SiteState(step=before.step, version=before.version, stop=before.stop)
        self._line = bridge.Line.dial(self._socket_path, _DIAL_S)
        self._attach()
        self._exchange.save()
        self._line.send(bridge.SnapshotReady())
        started = self._expect(bridge.Started)
        state = self._state
        state.strict, state.inner_steps, state.delay = started.strict, started.inner_steps, started.delay
        state.may_push = started.may_push
        self._wait_until(lambda: state.base is not None, "the first parameters")
        self._take_up()
        self.changed = True
        state.reset = False
        self._lap = (time.monotonic(), self.wait_s)

    def _attach(self, *, resume: bool = False) -> bridge.Attached:
        self._line.send(
            bridge.Attach(
                layout=self._layout,
                model_hash=self._job.model_hash,
                data_hash=self._job.data_hash,
                batch_size=self._job.batch_size,
                step=self._state.step if self._stand else -1,
                resume=resume,
            )
        )
        attached = self._expect(bridge.Attached)
        vectors = bridge.Vectors(Path(attached.path), self._layout.size)
        self._exchange = Exchange(self._model, self._layout, vectors)
        return attached

    def _rejoin(self) -> None:
        """The client died: attach to the one that is started in its place."""
        self._line.close()
        deadline = time.monotonic() + _REJOIN_S
        while True:
            try:
                if self._client:
                    self._client.revive()
                self._join()
                return
            except UnreachableError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def __exit__(self, *exc: object) -> None:
        """A loop that ended without an error hands in what is left, if it has not called `leave`."""
        if hasattr(self, "_line"):
            if not self._left and exc[:1] == (None,):
                self.leave("end of the loop")
            self._line.close()
        if self._client:
            self._client.stop()

    @property
    def stopping(self) -> str | None:
        """Why the server wants this site to stop, if it does."""
        return self._state.stop

    def take(self, count: int, timeout_s: float = 1.0) -> list[ranges.Range]:
        """The next `count` samples of the global stream, as half-open ranges; fewer where a lease ends.

        [] if none came within `timeout_s`: the run is over (see `stopping`), all work is leased to others,
        or the server has been away for longer than `outer.outage_reserve`. What was trained is then pushed,
        so that nobody waits for it.
        """
        try:
            self._look(0)
            if not self._state.ranges and not self._state.stop:
                self._starved(timeout_s)
        except LineClosedError:
            self._rejoin()
        taken, rest = ranges.take(tuple(self._state.ranges), count)
        self._state.ranges = list(rest)
        return list(taken)

    def _starved(self, timeout_s: float) -> None:
        start = time.monotonic()
        state = self._state
        self._look(min(timeout_s, _STARVED_S) if state.window.steps else timeout_s)
        if not state.ranges and state.window.steps and state.may_push:
            self._push()
        self.wait_s += time.monotonic() - start

    def poll(self) -> bool:
        """Call where there is no work: takes up a version that is there. True if the parameters were
        changed.
        """
        try:
            self._look(0)
            if self._state.base is None or (self._state.strict and self._state.ranges) or self._kept_here():
                return False
            self._take_up()
        except LineClosedError:
            self._rejoin()
        return True

    def _kept_here(self) -> bool:
        """The snapshot is needed as it is, until the next step or push."""
        return self._state.kept == Kept.SNAPSHOT and self._state.window.steps > 0

    def was_reset(self) -> bool:
        """Whether the optimizer's moments must start afresh, since the last call."""
        reset, self._state.reset = self._state.reset, False
        return reset

    def step(
        self,
        *,
        tokens: int,
        samples: Iterable[ranges.Range] = (),
        group_tokens: Iterable[int] = (),
        busy_s: float | None = None,
    ) -> bool:
        """Call after each optimizer step. True if the parameters were changed here (a version was taken up).

        Args:
            tokens: tokens of this step, over all ranks of the site.
            samples: what `take` gave for it.
            group_tokens: tokens routed to each expert group in this step.
            busy_s: seconds of this step, waiting not counted; by default the time since the last one.
        """
        state, done = self._state, list(samples)
        window = state.window
        window.steps += 1
        window.tokens += tokens
        window.busy_s += self._lap_s() if busy_s is None else busy_s
        window.add_samples(done)
        window.add_groups(group_tokens)
        state.since_push += 1
        state.step += 1
        state.samples, state.todo, state.kept = done, Todo.LOOK, Kept.OTHERS
        try:
            self._tell_rate()
            self._note()
            return self._finish_step()
        except LineClosedError:
            self._rejoin()
            return True

    def _lap_s(self) -> float:
        """Seconds since the last lap that were not spent waiting here."""
        now_s, waited_s = time.monotonic(), self.wait_s
        lap_s = (now_s - self._lap[0]) - (waited_s - self._lap[1])
        self._lap = (now_s, waited_s)
        return lap_s

    def _tell_rate(self) -> None:
        window = self._state.window
        if not self._state.rate_told and window.steps == _RATE_STEPS:
            self._line.send(bridge.Rate(step_s=window.busy_s / window.steps))
            self._state.rate_told = True

    def _noted(self) -> SiteState | None:
        return self._state if self._stand else None

    def _note(self) -> None:
        if self._stand:
            self._line.send(bridge.Noted(self._state))

    def _finish_step(self) -> bool:
        """What is left to do of a step boundary (`Todo`). True if the parameters were changed here."""
        state, changed = self._state, False
        self._look(0)
        if state.todo == Todo.LOOK:
            changed = self._boundary(Todo.PUSH)
            state.todo = Todo.PUSH
        if state.todo == Todo.PUSH:
            if self._due():
                self._push(Todo.WAIT if state.strict and state.delay == 0 else Todo.NOTHING)
            else:
                state.todo = Todo.NOTHING
        if state.todo == Todo.WAIT:
            changed = self._boundary(Todo.NOTHING) or changed
        state.todo = Todo.NOTHING
        return changed

    def _boundary(self, then: Todo) -> bool:
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
            self._wait_until(lambda: state.base is not None, "the round's version")
        if state.base is None:
            return False
        state.todo = then
        self._take_up()
        return True

    def _due(self) -> bool:
        state = self._state
        if state.window.steps < state.inner_steps:
            return False
        if state.strict and not state.may_push:
            self._wait_until(lambda: state.may_push, "the last push's fate")
        return state.may_push

    def _push(self, then: Todo = Todo.NOTHING) -> None:
        state = self._state
        window, state.window = state.window, Window()
        if state.kept != Kept.SNAPSHOT:
            self._exchange.save()
        state.pushes += 1
        state.since_push = 0
        state.may_push = False
        state.base = None
        state.todo, state.kept = then, Kept.SNAPSHOT if self._stand else Kept.OTHERS
        self._line.send(
            bridge.Pushed(
                ranges=ranges.normal(window.samples),
                tokens=window.tokens,
                group_tokens=window.group_tokens,
                steps=window.steps,
                step_s=window.busy_s / window.steps,
                note=self._noted(),
            )
        )

    def _take_up(self) -> None:
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
        elif self._stand and not has_progress:
            self._exchange.load()
        else:
            self._exchange.take_up()
        state.version = base.version
        if self._stand:
            state.kept = Kept.SNAPSHOT if has_progress else Kept.REFERENCE
            if has_progress:
                self._exchange.save()
        self._line.send(bridge.Taken(base.version, delay_steps=state.since_push, note=self._noted()))

    def leave(self, reason: str, timeout_s: float = 60.0) -> None:
        """Pushes what is left, gives unused leases back, and waits until the server has it or `timeout_s`
        passed.
        """
        deadline = time.monotonic() + timeout_s
        self._left = True
        try:
            if self._state.window.steps:
                self._wait_until(lambda: self._state.may_push, "the last push's fate", timeout_s)
                self._push()
            self._line.send(bridge.Leaving(reason=reason))
            self._wait_until(
                lambda: self._state.may_push, "the final push", max(1.0, deadline - time.monotonic())
            )
        except UnreachableError:
            return

    def _look(self, timeout_s: float) -> None:
        for message in self._line.receive(timeout_s):
            self._hear(message)

    def _hear(self, message: bridge.LocalMessage) -> None:
        state = self._state
        state.heard += 1
        match message:
            case bridge.Attached():
                state.heard -= 1  # counted from there
            case bridge.Granted(ranges=granted):
                state.ranges.extend(granted)
            case bridge.Pace(inner_steps=steps):
                state.inner_steps = steps
            case bridge.MayPush():
                state.may_push = True
            case bridge.BaseReady():
                if message.pushes_seen == state.pushes:
                    state.base = message
            case bridge.Stop(reason=reason):
                state.stop = reason
            case bridge.Refused(reason=reason, hint=hint):
                raise InputError(f"the server refused this site: {reason}", hint=hint)

    def _expect(self, kind: type[M]) -> M:
        """The next message of this kind; others are heard meanwhile."""
        start_s, quiet_s = time.monotonic(), _START_QUIET_S
        while (waited_s := time.monotonic() - start_s) < _START_TIMEOUT_S:
            if waited_s > quiet_s:
                quiet_s = _START_TIMEOUT_S
                _log.warning(
                    "no word from the parameter server yet: is it up, its run not over? (%s)", self._server
                )
            messages = self._line.receive(1.0)
            found = [message for message in messages if isinstance(message, kind)]
            for message in messages:
                self._hear(message)
            if found:
                return found[0]
        raise UnreachableError(
            f"no {kind.__name__} from the site's client within {_START_TIMEOUT_S:.0f} s",
            where=self._socket_path,
            hint="is the parameter server up? `isthmus check link` tells",
        )

    def _wait_until(self, there: Callable[[], bool], what: str, timeout_s: float = float("inf")) -> None:
        """Hears messages until `there()`, counting the time as waiting. Raises UnreachableError after
        `timeout_s`.
        """
        start = time.monotonic()
        while not there():
            if time.monotonic() - start > timeout_s:
                raise UnreachableError(f"waited {timeout_s:.0f} s for {what}", where=self._socket_path)
            self._look(0.5)
        self.wait_s += time.monotonic() - start
