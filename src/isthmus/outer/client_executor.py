"""The executor of the member machine: one thread takes events from a queue, applies them, plans, and carries
the actions out. NumPy only.
"""

import contextlib
import queue
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from isthmus import __version__
from isthmus.clock import Clock, RealClock
from isthmus.errors import AuthError, InputError, UnreachableError
from isthmus.journal import events as journal
from isthmus.journal.writer import Journal
from isthmus.outer import bridge, member, messages
from isthmus.outer.arrivals import Arrivals
from isthmus.outer.client_events import Blob, Dialled, Heard, Sent
from isthmus.outer.client_memory import Memory
from isthmus.outer.member import state as machine
from isthmus.outer.recall import Recall
from isthmus.outer.replica import Replica
from isthmus.outer.seeding import seed_key
from isthmus.wire.line import LineClosedError
from isthmus.wire.transport import Peer, Session

TICK_S = 1.0
QUEUE_SIZE = 10_000
LINK_SAMPLE_S = 2.0
REFUSAL_S = 60.0
"""How long the ranks of a refused site have to come and hear of it."""
REPLACE_S = 120.0
"""How long the ranks have to put another in the place of a rank 0 that died; then all count as dead."""


class Client:
    """The executor of the member machine for one site."""

    def __init__(self, site: str, folder: Path, log: Journal, clock: Clock | None = None):
        self._site, self._journal = site, log
        self._clock = clock or RealClock()
        self._queue: queue.Queue[Any] = queue.Queue(QUEUE_SIZE)
        self._memory = Memory(folder, self._clock)
        self._state: machine.MemberState | None = None
        self._line: bridge.Line | None = None
        self._attended = False
        """The ranks on this line have attached."""
        self._alone_s: float | None = None
        """Since when there is no rank 0, while one is awaited in its place."""
        self._recall = Recall()
        self._vectors: bridge.Vectors | None = None
        self._replica: Replica | None = None
        self._attach: bridge.Attach | None = None
        self._early: list[machine.AnyEvent] = []
        self._arrivals = Arrivals()
        self._upload: tuple[int, float, set[str]] = (0, 0.0, set())
        self._refused_s = 0.0
        self._told_line: bridge.Line | None = None
        """The ranks that know of the refusal."""
        self._offered_hash = ""
        """Of the version the ranks were offered last; a newer one may be installed by now."""
        self._fresh_bytes = 0
        self._refreshed = False
        self._sampled_s = 0.0
        self._over = ""
        self._asked_to_stop = ""
        self.peers: dict[str, Peer] = {}

    def put(self, event: Any) -> None:
        self._queue.put(event, timeout=60)

    def note_link(self, server: str, reason: str) -> None:
        if not self._over:
            self._journal.emit(
                journal.Fault(subject=f"link/{self._site}", kind="link_down", detail=f"{server}: {reason}")
            )

    def stop(self, reason: str) -> None:
        """Asks the site to leave. Safe in a signal handler, as putting into the queue is not."""
        self._asked_to_stop = reason

    def run(self, sessions: Sequence[Session]) -> str:
        """Works until the site has left. Returns why. Raises AuthError if all servers refuse it for good."""
        while not self._over:
            errors = [session.error for session in sessions if session.error]
            if len(errors) == len(sessions):
                self._refused(errors[0])
            try:
                event = self._queue.get(timeout=TICK_S)
            except queue.Empty:
                event = machine.Tick(self._clock.now_s())
            self._take(event)
            if self._asked_to_stop:
                if self._alone_s is not None:
                    self._ranks_gone()
                self._feed(machine.StopAsked(self._asked_to_stop))
                self._asked_to_stop = ""
            self._drive()
            self._sample_links()
        return self._over

    def _refused(self, error: AuthError) -> None:
        """No server will ever have us: the ranks hear why, once they are there, and end; then this raises."""
        if not self._refused_s:
            self._refused_s = self._clock.now_s()
        if self._line and self._told_line is not self._line:
            self._told_line = self._line
            self._tell(bridge.Refused(error.message, error.hint or ""))
        told = self._told_line is not None and self._line is None
        if told or self._clock.now_s() > self._refused_s + REFUSAL_S:
            raise error

    def _take(self, event: Any) -> None:
        match event:
            case InputError():
                self._tell(bridge.Refused(event.message, event.hint or ""))
                raise event
            case Blob(key=key, payload=payload):
                self._arrivals.add(key, payload)
                self._check_versions()
            case Sent(key=key):
                self._sent(key)
            case Dialled(line=line):
                self._hung_up()
                self._line = line
            case Heard(line=line, message=message):
                if line is self._line:
                    self._hear(message)
            case machine.Received(server=server, message=messages.SeedWanted()):
                self._seed(server)
            case _:
                self._feed(event)
                if isinstance(event, machine.Received) and isinstance(event.message, messages.VersionReady):
                    self._announce(event.message)
                self._check_versions()

    def _announce(self, ready: messages.VersionReady) -> None:
        """Only what the machine heeds: one of a lower epoch has the same numbers and other fragments."""
        if self._state is not None and ready in self._state.announced:
            self._arrivals.announce(ready, self._clock.now_s())

    def _feed(self, event: machine.AnyEvent) -> None:
        if self._state is None:
            if not isinstance(event, machine.Tick):
                self._early.append(event)
            if isinstance(event, machine.StopAsked):
                self._over = event.reason
            return
        self._state = member.apply(self._state, event)

    def _drive(self) -> None:
        if self._state is None:
            return
        if self._alone_s is not None and self._clock.now_s() > self._alone_s + REPLACE_S:
            self._ranks_gone()
        self._feed(machine.Tick(self._clock.now_s()))
        while actions := member.plan(self._state):
            self._feed(machine.Issued(tuple(actions)))
            for action in actions:
                _EXECUTE[type(action)](self, action)

    # ---- the ranks

    def attend(self, line: bridge.Line) -> None:
        """A rank 0 has connected: its messages go to the queue until it hangs up. Runs in a thread of its
        own.
        """
        self.put(Dialled(line))
        while True:
            try:
                for message in line.receive(None):
                    self.put(Heard(line, message))
            except UnreachableError:
                line.close()
                self.put(Heard(line, None))
                return

    def _hear(self, message: bridge.LocalMessage | None) -> None:
        match message:
            case None:
                self._hung_up()
            case bridge.Attach():
                self._attached(message)
            case bridge.SnapshotReady():
                self._ready()
            case bridge.Noted(note=note):
                self._recall.noted(note)
            case bridge.Pushed(ranges=ranges, tokens=tokens, group_tokens=groups, steps=steps, step_s=step_s):
                self._recall.noted(message.note)
                self._feed(machine.Pushed(ranges, tokens, tuple(groups), steps, step_s))
            case bridge.Taken(version=version, delay_steps=delay):
                self._recall.noted(message.note)
                self._taken(version, delay)
            case bridge.Rate(step_s=step_s):
                self._feed(machine.Rate(step_s))
            case bridge.Leaving(reason=reason):
                self._feed(machine.Leaving(reason))

    def _hung_up(self) -> None:
        """Rank 0 died. If it left notes, the others may yet go on from there with another one."""
        if self._line:
            self._line.close()
            self._line = None
        self._attended = False
        if self._recall.note is None or self._state is None or self._state.left:
            self._ranks_gone()
        elif self._alone_s is None and self._state.attached:
            self._alone_s = self._clock.now_s()

    def _ranks_gone(self) -> None:
        self._alone_s = None
        self._recall = Recall()
        if self._state is not None and self._state.attached:
            self._feed(machine.RanksGone())

    def _attached(self, attach: bridge.Attach) -> None:
        if self._attach is None:
            self._attach = attach
            self._arrivals.num_fragments = attach.layout.num_fragments
            self._vectors = bridge.Vectors.make(attach.layout.size)
        elif attach.layout.hash != self._attach.layout.hash:
            self._tell(bridge.Refused("the restarted ranks build another model", "restart the site's client"))
            return
        assert self._vectors
        if attach.resume and self._resumed(attach.step, str(self._vectors.path)):
            return
        self._ranks_gone()
        self._recall = Recall(keeps=attach.step >= 0)
        self._attended = True
        self._tell(bridge.Attached(str(self._vectors.path)))

    def _resumed(self, step: int, path: str) -> bool:
        """To the machine these are the ranks that it has known all along."""
        answer = self._recall.answer(step)
        if answer is None:
            text = f"site {self._site}: no note of step {step}, its ranks start over from the last version"
            self._journal.emit(journal.Note(level="warning", text=text))
            return False
        self._alone_s = None
        self._attended = True
        self._tell(bridge.Attached(path, *answer))
        text = f"site {self._site}: another rank 0 goes on at step {step}"
        self._journal.emit(journal.Note(level="info", text=text))
        return True

    def _ready(self) -> None:
        """The ranks' initial weights are in the snapshot: now this site can say what it is."""
        assert self._attach
        if self._state is None:
            attach = self._attach
            self._state = machine.MemberState(
                site=self._site,
                incarnation=self._memory.kept.incarnation,
                voted_epoch=self._memory.kept.voted_epoch,
                voted_for=self._memory.kept.voted_for,
                identity=messages.Identity(
                    model_hash=attach.model_hash,
                    data_hash=attach.data_hash,
                    code_version=__version__,
                    layout_hash=attach.layout.hash,
                ),
            )
            early, self._early = self._early, []
            for event in early:
                self._feed(event)
        self._feed(machine.RanksAttached())

    def _taken(self, version: int, delay_steps: int) -> None:
        assert self._replica
        self._replica.taken()
        self._feed(machine.Taken(version))
        self._journal.emit(
            journal.VersionApplied(
                site=self._site,
                version=version,
                hash=self._offered_hash,
                delay_steps=delay_steps,
                bytes_down=self._fresh_bytes,
                refresh=self._refreshed,
            )
        )
        self._fresh_bytes, self._refreshed = 0, False

    def _say(self, message: bridge.LocalMessage) -> None:
        """What the machine has for its ranks: kept until they note that they have heard it."""
        self._recall.told(message)
        if self._attended:
            self._tell(message)

    def _tell(self, message: bridge.LocalMessage) -> None:
        """Ranks that are gone hear nothing; the line's own thread tells that they are."""
        if self._line:
            with contextlib.suppress(LineClosedError):
                self._line.send(message)

    # ---- the wire

    def _seed(self, server: str) -> None:
        """The server has no weights yet: send those in the snapshot vector, in full."""
        assert self._attach
        assert self._vectors
        peer = self.peers[server]
        for index, view in enumerate(self._attach.layout.views(self._vectors.snapshot)):
            peer.put(seed_key(index), view.view(np.uint8).data)
        peer.send(messages.encode(messages.Seed(layout=msgspec.msgpack.encode(self._attach.layout))))

    def _check_versions(self) -> None:
        """Tells the machine of announced versions whose fragments are all here."""
        for ready, started_s in self._arrivals.complete():
            self._feed(machine.VersionArrived(ready.version, ready.base, self._clock.now_s() - started_s))

    def _sent(self, key: str) -> None:
        seq, started_s, waiting = self._upload
        waiting.discard(key)
        if seq and not waiting:
            self._upload = (0, 0.0, set())
            self._feed(machine.Uploaded(seq, self._clock.now_s() - started_s))

    def _sample_links(self) -> None:
        if self._clock.now_s() - self._sampled_s < LINK_SAMPLE_S:
            return
        self._sampled_s = self._clock.now_s()
        for server, peer in list(self.peers.items()):
            stats = peer.stats()
            self._journal.emit(
                journal.LinkSample(
                    site=self._site,
                    bytes_up=stats.bytes_up,
                    bytes_down=stats.bytes_down,
                    rtt_s=stats.rtt_s,
                    up_bps=stats.up_bps,
                    down_bps=stats.down_bps,
                    resent_chunks=stats.resent_chunks,
                    connected=peer.up,
                    server=server,
                )
            )

    # ---- actions

    def _do_send(self, action: machine.Send) -> None:
        self.peers[action.server].send(messages.encode(action.message))

    def _do_encode(self, action: machine.Encode) -> None:
        assert self._replica
        assert self._state
        norm, fragments = self._replica.encode(self._site, self._state.incarnation, action.seq)
        self._feed(machine.Encoded(action.seq, norm, fragments))

    def _do_upload(self, action: machine.Upload) -> None:
        assert self._replica
        peer = self.peers[action.server]
        fragments = action.contribution.fragments
        self._upload = (
            action.contribution.seq,
            self._clock.now_s(),
            {fragment.key for fragment in fragments},
        )
        for fragment, payload in zip(fragments, self._replica.payloads, strict=True):
            peer.put(fragment.key, payload.data)
        peer.send(messages.encode(messages.Commit(contribution=action.contribution)))

    def _do_forget(self, action: machine.Forget) -> None:
        assert self._replica
        self._replica.forget(action.seq, action.discarded)

    def _do_install(self, action: machine.Install) -> None:
        assert self._replica
        ready = action.ready
        payloads = self._arrivals.take(ready)
        digest = self._replica.install(payloads, full=ready.base < 0)
        self._fresh_bytes += sum(payload.size for payload in payloads)
        self._refreshed = self._refreshed or ready.base < 0
        self._feed(machine.Installed(ready.version, digest))

    def _do_offer(self, action: machine.OfferBase) -> None:
        assert self._replica
        assert self._state
        assert self._state.version == action.version
        self._replica.offer(action.minus)
        self._offered_hash = self._state.hash
        self._say(bridge.BaseReady(action.version, action.pushes_seen, action.reset, action.moments))

    def _do_tell_start(self, action: machine.TellStart) -> None:
        assert self._attach
        assert self._vectors
        terms = action.terms
        if self._replica is None:
            self._replica = Replica(
                self._attach.layout, self._vectors, terms.codec, terms.down_codec, terms.block_size
            )
        self._say(bridge.Started(terms.mode == "strict", terms.inner_steps, terms.delay, action.may_push))

    def _do_give_work(self, action: machine.GiveWork) -> None:
        self._say(bridge.Granted(action.ranges))

    def _do_tell_pace(self, action: machine.TellPace) -> None:
        self._say(bridge.Pace(action.inner_steps))

    def _do_tell_may_push(self, action: machine.TellMayPush) -> None:
        self._say(bridge.MayPush())

    def _do_tell_stop(self, action: machine.TellStop) -> None:
        self._say(bridge.Stop(action.reason))

    def _do_tell_refused(self, action: machine.TellRefused) -> None:
        self._tell(bridge.Refused(action.reason, action.hint))
        self._over = f"refused: {action.reason}"

    def _do_persist_ballot(self, action: machine.PersistBallot) -> None:
        self._memory.vote(action.epoch, action.candidate)
        self._feed(machine.BallotDurable(action.epoch, action.candidate))

    def _do_exit(self, action: machine.Exit) -> None:
        self._over = action.reason

    def close(self) -> None:
        if self._line:
            self._line.close()
        if self._vectors:
            self._vectors.remove()


_EXECUTE: dict[type, Any] = {
    machine.Send: Client._do_send,
    machine.Encode: Client._do_encode,
    machine.Upload: Client._do_upload,
    machine.Forget: Client._do_forget,
    machine.Install: Client._do_install,
    machine.OfferBase: Client._do_offer,
    machine.TellStart: Client._do_tell_start,
    machine.GiveWork: Client._do_give_work,
    machine.TellPace: Client._do_tell_pace,
    machine.TellMayPush: Client._do_tell_may_push,
    machine.TellStop: Client._do_tell_stop,
    machine.TellRefused: Client._do_tell_refused,
    machine.PersistBallot: Client._do_persist_ballot,
    machine.Exit: Client._do_exit,
}
