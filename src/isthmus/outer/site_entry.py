"""How a site's rank 0 comes to its client: from the start, in the place of a rank 0 that died, or again when
the client died.
"""

import time
from collections.abc import Iterable
from pathlib import Path

import msgspec

from isthmus.errors import UnreachableError
from isthmus.outer import bridge, ranges
from isthmus.outer.layout import Layout
from isthmus.outer.site_boundary import Boundary
from isthmus.outer.site_state import SiteState, Stand
from isthmus.outer.site_talk import Talk
from isthmus.outer.spawn import ClientProcess
from isthmus.wire.line import LineClosedError

_REJOIN_S = 60.0


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


class Entry:
    """`enter` once, `rejoin` whenever the client is gone.

    Args:
        client: the client's process, where it is this site's own.
    """

    def __init__(
        self,
        talk: Talk,
        boundary: Boundary,
        layout: Layout,
        job: SiteJob,
        *,
        stand: Stand | None,
        client: ClientProcess | None,
    ):
        self._talk, self._boundary = talk, boundary
        self._layout, self._job = layout, job
        self._stand, self._client = stand, client
        self.redo: list[ranges.Range] = []
        """Samples of a step that is counted here and that the ranks have not done; `redone` follows it."""
        self.changed = False
        """Entering changed the parameters."""

    def enter(self) -> None:
        if not (self._stand and self._stand.resume and self._resume(self._stand)):
            self._join()

    def _resume(self, stand: Stand) -> bool:
        """Goes on where the rank 0 was that this one replaces. False where the client cannot tell."""
        talk = self._talk
        talk.dial()
        attached = self._attach(resume=True)
        if attached.note is None or not self._recall(attached.note, attached.unheard, stand):
            talk.close()
            talk.state = SiteState(step=stand.step)
            return False
        talk.start_lap()
        if talk.state.step == stand.step:
            self.changed = self._catch_up()
        return True

    def _recall(self, note: SiteState, unheard: Iterable[bridge.LocalMessage], stand: Stand) -> bool:
        """Becomes the site that was there. The ranks may be a step ahead of it, which is told next, or one
        behind, which they do again.
        """
        self._talk.state = note
        for message in unheard:
            self._talk.hear(message)
        if note.step < stand.step:
            note.reset = False  # the order for the step that the ranks have done told them
            return note.hand_out(stand.samples)
        self.redo = note.samples if note.step > stand.step else []
        return True

    def redone(self) -> bool:
        """The step of `redo` is done. True if the parameters were changed here."""
        if not self.redo:
            return False
        self.redo = []
        return self._catch_up()

    def _catch_up(self) -> bool:
        """The ranks stand at the step of the note: what became of the parameters there, and what else was
        to be done.
        """
        found = self._boundary.load_kept()
        try:
            return self._boundary.finish() or found
        except LineClosedError:
            self.rejoin()
            return True

    def _join(self) -> None:
        """Attaches to the client, and stands on the published parameters when it returns."""
        talk, before = self._talk, self._talk.state
        state = talk.state = SiteState(step=before.step, version=before.version, stop=before.stop)
        talk.dial()
        self._attach()
        self._boundary.seed()
        started = talk.expect(bridge.Started)
        state.strict, state.inner_steps, state.delay = started.strict, started.inner_steps, started.delay
        state.may_push = started.may_push
        talk.wait_until(lambda: state.base is not None, "the first parameters")
        self._boundary.take_up()
        self.changed = True
        state.reset = False
        talk.start_lap()

    def _attach(self, *, resume: bool = False) -> bridge.Attached:
        self._talk.say(
            bridge.Attach(
                layout=self._layout,
                model_hash=self._job.model_hash,
                data_hash=self._job.data_hash,
                batch_size=self._job.batch_size,
                step=self._talk.state.step if self._stand else -1,
                resume=resume,
            )
        )
        attached = self._talk.expect(bridge.Attached)
        self._boundary.share(Path(attached.path))
        return attached

    def rejoin(self) -> None:
        """The client died: attach to the one that is started in its place."""
        self._talk.close()
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
