"""The executor of the member machine: one thread takes events from a queue, applies them, plans, and carries
the actions out. NumPy only.
"""

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
from isthmus.outer.client_links import Links
from isthmus.outer.client_memory import Memory
from isthmus.outer.client_ranks import Ranks
from isthmus.outer.client_traffic import Upload, Uptake
from isthmus.outer.member import state as machine
from isthmus.outer.replica import Replica
from isthmus.outer.seeding import seed_key
from isthmus.wire.transport import Peer, Session

TICK_S = 1.0
QUEUE_SIZE = 10_000
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
        self._ranks = Ranks()
        self._links = Links(site, log, self._clock)
        self._replica: Replica | None = None
        self._early: list[machine.AnyEvent] = []
        self._arrivals = Arrivals()
        self._upload, self._uptake = Upload(), Uptake()
        self._refused_s = 0.0
        self._over = ""
        self._asked_to_stop = ""

    @property
    def peers(self) -> dict[str, Peer]:
        """The servers that were reached, by address."""
        return self._links.peers

    def put(self, event: Any) -> None:
        self._queue.put(event, timeout=60)

    def note_link(self, server: str, reason: str) -> None:
        if not self._over:
            self._links.note_down(server, reason)

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
                if self._ranks.awaited:
                    self._ranks_gone()
                self._feed(machine.StopAsked(self._asked_to_stop))
                self._asked_to_stop = ""
            self._drive()
            self._links.sample()
        return self._over

    def _refused(self, error: AuthError) -> None:
        """No server will ever have us: the ranks hear why, once they are there, and end; then this raises."""
        if not self._refused_s:
            self._refused_s = self._clock.now_s()
        if self._ranks.refused(error) or self._clock.now_s() > self._refused_s + REFUSAL_S:
            raise error

    def _take(self, event: Any) -> None:
        match event:
            case InputError():
                self._ranks.tell(bridge.Refused(event.message, event.hint or ""))
                raise event
            case Blob(key=key, payload=payload):
                self._arrivals.add(key, payload)
                self._check_versions()
            case Sent(key=key):
                self._sent(key)
            case Dialled(line=line):
                self._hung_up()
                self._ranks.dialled(line)
            case Heard(line=line, message=message):
                if self._ranks.speak_on(line):
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
        if self._ranks.awaited_s(self._clock.now_s()) > REPLACE_S:
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
                self._ranks.noted(note)
            case bridge.Pushed(ranges=ranges, tokens=tokens, group_tokens=groups, steps=steps, step_s=step_s):
                self._ranks.noted(message.note)
                self._feed(machine.Pushed(ranges, tokens, tuple(groups), steps, step_s))
            case bridge.Taken(version=version, delay_steps=delay):
                self._ranks.noted(message.note)
                self._taken(version, delay)
            case bridge.Rate(step_s=step_s):
                self._feed(machine.Rate(step_s))
            case bridge.Leaving(reason=reason):
                self._feed(machine.Leaving(reason))

    def _hung_up(self) -> None:
        """Rank 0 died. If it left notes, the others may yet go on from there with another one."""
        has_note, state = self._ranks.hung_up(), self._state
        if not has_note or state is None or state.left:
            self._ranks_gone()
        elif state.attached:
            self._ranks.await_another(self._clock.now_s())

    def _ranks_gone(self) -> None:
        self._ranks.forget()
        if self._state is not None and self._state.attached:
            self._feed(machine.RanksGone())

    def _attached(self, attach: bridge.Attach) -> None:
        if not self._ranks.admit(attach):
            return
        self._arrivals.num_fragments = attach.layout.num_fragments
        if attach.resume and self._resumed(attach.step):
            return
        self._ranks_gone()
        self._ranks.begin(keeps_notes=attach.step >= 0)

    def _resumed(self, step: int) -> bool:
        """To the machine these are the ranks that it has known all along."""
        resumed = self._ranks.resume(step)
        level, text = (
            ("info", f"another rank 0 goes on at step {step}")
            if resumed
            else ("warning", f"no note of step {step}, its ranks start over from the last version")
        )
        self._journal.emit(journal.Note(level=level, text=f"site {self._site}: {text}"))
        return resumed

    def _ready(self) -> None:
        """The ranks' initial weights are in the snapshot: now this site can say what it is."""
        assert self._ranks.attach
        if self._state is None:
            attach = self._ranks.attach
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
        self._journal.emit(self._uptake.taken(self._site, version, delay_steps))

    # ---- the wire

    def _seed(self, server: str) -> None:
        """The server has no weights yet: send those in the snapshot vector, in full."""
        assert self._ranks.attach
        assert self._ranks.vectors
        peer = self.peers[server]
        for index, view in enumerate(self._ranks.attach.layout.views(self._ranks.vectors.snapshot)):
            peer.put(seed_key(index), view.view(np.uint8).data)
        peer.send(messages.encode(messages.Seed(layout=msgspec.msgpack.encode(self._ranks.attach.layout))))

    def _check_versions(self) -> None:
        """Tells the machine of announced versions whose fragments are all here."""
        for ready, started_s in self._arrivals.complete():
            self._feed(machine.VersionArrived(ready.version, ready.base, self._clock.now_s() - started_s))

    def _sent(self, key: str) -> None:
        duration_s = self._upload.sent(key, self._clock.now_s())
        if duration_s is not None:
            self._feed(machine.Uploaded(self._upload.seq, duration_s))

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
        keys = {fragment.key for fragment in fragments}
        self._upload = Upload(action.contribution.seq, self._clock.now_s(), keys)
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
        self._uptake.installed(sum(payload.size for payload in payloads), full=ready.base < 0)
        self._feed(machine.Installed(ready.version, digest))

    def _do_offer(self, action: machine.OfferBase) -> None:
        assert self._replica
        assert self._state
        assert self._state.version == action.version
        self._replica.offer(action.minus)
        self._uptake.offered_hash = self._state.hash
        self._ranks.say(bridge.BaseReady(action.version, action.pushes_seen, action.reset, action.moments))

    def _do_tell_start(self, action: machine.TellStart) -> None:
        assert self._ranks.attach
        assert self._ranks.vectors
        terms = action.terms
        if self._replica is None:
            self._replica = Replica(
                self._ranks.attach.layout,
                self._ranks.vectors,
                terms.codec,
                terms.down_codec,
                terms.block_size,
            )
        self._ranks.say(
            bridge.Started(terms.mode == "strict", terms.inner_steps, terms.delay, action.may_push)
        )

    def _do_give_work(self, action: machine.GiveWork) -> None:
        self._ranks.say(bridge.Granted(action.ranges))

    def _do_tell_pace(self, action: machine.TellPace) -> None:
        self._ranks.say(bridge.Pace(action.inner_steps))

    def _do_tell_may_push(self, action: machine.TellMayPush) -> None:
        self._ranks.say(bridge.MayPush())

    def _do_tell_stop(self, action: machine.TellStop) -> None:
        self._ranks.say(bridge.Stop(action.reason))

    def _do_tell_refused(self, action: machine.TellRefused) -> None:
        self._ranks.tell(bridge.Refused(action.reason, action.hint))
        self._over = f"refused: {action.reason}"

    def _do_persist_ballot(self, action: machine.PersistBallot) -> None:
        self._memory.vote(action.epoch, action.candidate)
        self._feed(machine.BallotDurable(action.epoch, action.candidate))

    def _do_exit(self, action: machine.Exit) -> None:
        self._over = action.reason

    def close(self) -> None:
        self._ranks.close()


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
