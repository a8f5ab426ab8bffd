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

import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from torch import nn

from isthmus.errors import UnreachableError
from isthmus.outer import bridge, ranges
from isthmus.outer.layout import build_layout
from isthmus.outer.site_boundary import Boundary
from isthmus.outer.site_entry import Entry, SiteJob
from isthmus.outer.site_state import Kept, SiteState, Stand, Todo
from isthmus.outer.site_talk import Talk
from isthmus.outer.spawn import ClientProcess
from isthmus.wire.line import LineClosedError

_STARVED_S = 0.1
"""How long a site with something to push waits for more work first."""


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
        self._client = None if line else ClientProcess.start(name, _addresses(server), Path(certs))
        job = job or SiteJob()
        layout = build_layout(
            [(name, tuple(p.shape)) for name, p in model.named_parameters()], job.groups, job.num_fragments
        )
        self._talk = Talk(
            path=line or str(self._client.line if self._client else ""),
            server=", ".join(_addresses(server)) or line,
            state=SiteState(step=stand.step if stand else 0),
        )
        self._boundary = Boundary(self._talk, model, layout, optimizer, keeps_notes=stand is not None)
        self._entry = Entry(self._talk, self._boundary, layout, job, stand=stand, client=self._client)
        self._left = False

    @property
    def _state(self) -> SiteState:
        return self._talk.state

    @property
    def changed(self) -> bool:
        """Entering it changed the parameters here."""
        return self._entry.changed

    @property
    def wait_s(self) -> float:
        """Seconds spent waiting for leases or versions so far."""
        return self._talk.wait_s

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
        return self._entry.redo

    def __enter__(self) -> "Site":
        try:
            self._entry.enter()
        except BaseException:
            self.__exit__()
            raise
        return self

    def redone(self) -> bool:
        """Call when the step of `redo` is done. True if the parameters were changed here."""
        return self._entry.redone()

    def __exit__(self, *exc: object) -> None:
        """A loop that ended without an error hands in what is left, if it has not called `leave`."""
        if self._talk.begun:
            if not self._left and exc[:1] == (None,):
                self.leave("end of the loop")
            self._talk.close()
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
            self._talk.look(0)
            if not self._state.ranges and not self._state.stop:
                self._starved(timeout_s)
        except LineClosedError:
            self._entry.rejoin()
        taken, rest = ranges.take(tuple(self._state.ranges), count)
        self._state.ranges = list(rest)
        return list(taken)

    def _starved(self, timeout_s: float) -> None:
        start = time.monotonic()
        state = self._state
        self._talk.look(min(timeout_s, _STARVED_S) if state.window.steps else timeout_s)
        if not state.ranges and state.window.steps and state.may_push:
            self._boundary.push()
        self._talk.wait_s += time.monotonic() - start

    def poll(self) -> bool:
        """Call where there is no work: takes up a version that is there. True if the parameters were
        changed.
        """
        try:
            self._talk.look(0)
            if (
                self._state.base is None
                or (self._state.strict and self._state.ranges)
                or self._boundary.needs_snapshot()
            ):
                return False
            self._boundary.take_up()
        except LineClosedError:
            self._entry.rejoin()
        return True

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
        window.busy_s += self._talk.lap_s() if busy_s is None else busy_s
        window.add_samples(done)
        window.add_groups(group_tokens)
        state.since_push += 1
        state.step += 1
        state.samples, state.todo, state.kept = done, Todo.LOOK, Kept.OTHERS
        try:
            return self._boundary.stepped()
        except LineClosedError:
            self._entry.rejoin()
            return True

    def leave(self, reason: str, timeout_s: float = 60.0) -> None:
        """Pushes what is left, gives unused leases back, and waits until the server has it or `timeout_s`
        passed.
        """
        deadline = time.monotonic() + timeout_s
        self._left = True
        try:
            if self._state.window.steps:
                self._talk.wait_until(lambda: self._state.may_push, "the last push's fate", timeout_s)
                self._boundary.push()
            self._talk.say(bridge.Leaving(reason=reason))
            self._talk.wait_until(
                lambda: self._state.may_push, "the final push", max(1.0, deadline - time.monotonic())
            )
        except UnreachableError:
            return
