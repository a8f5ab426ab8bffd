"""The executor of the server machine: one thread takes events from a queue, applies them, plans, and carries
the actions out. The transport's threads only feed the queue and fill buffers. Everything durable goes through
the `Ledger`. NumPy only.
"""

import queue
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

import numpy as np

from isthmus.clock import Clock, RealClock
from isthmus.errors import InputError, StorageError
from isthmus.journal import events as journal
from isthmus.journal.writer import Journal
from isthmus.outer import messages, protocol
from isthmus.outer.intake import Intake, intact
from isthmus.outer.ledger import Ledger
from isthmus.outer.narrate import narrate
from isthmus.outer.protocol import state as machine
from isthmus.outer.protocol.records import AnyRecord
from isthmus.outer.replication import Replication
from isthmus.outer.seeding import Seeding
from isthmus.wire.certs import STANDBY
from isthmus.wire.transport import Peer

TICK_S = 0.05
QUEUE_SIZE = 10_000


@dataclass
class Server:
    """`run` returns when the run is over or another server has taken over.

    It is a transport handler: `on_...` and `allocate` are called from the transport's threads.
    """

    config: protocol.ServerConfig
    ledger: Ledger
    journal: Journal
    seq_len: int
    specs: Mapping[str, bytes] = field(default_factory=dict)
    """Name -> text of what a standby must know of the run."""
    epoch: int = 0
    """The epoch it was put in charge of; 0: the next one."""
    clock: Clock = field(default_factory=RealClock)

    def __post_init__(self) -> None:
        self._queue: queue.Queue[machine.AnyEvent] = queue.Queue(QUEUE_SIZE)
        self._peers: dict[str, Peer] = {}
        self._seeding: Seeding | None = None
        self._state: protocol.ServerState | None = None
        self._full: tuple[int, list[np.ndarray]] = (-1, [])
        self._standby: Peer | None = None
        self._standby_name = ""
        self._over = ""
        self.superseded_by = 0
        """The epoch of the server that took this one's place."""
        self._asked_to_stop = ""
        self._refused_s: float | None = None
        if self.ledger.seeded:
            self._begin()
        else:
            self._seeding = Seeding()

    # ---- transport's threads

    def on_up(self, peer: Peer) -> None:
        if peer.name == STANDBY:
            self._standby = peer
            return
        self._peers[peer.name] = peer
        self._put(machine.PeerUp(peer.name))

    def on_down(self, peer: Peer, reason: str) -> None:
        if peer.name == STANDBY:
            self._put(machine.ReplicaDown(self._standby_name))
            return
        self._put(machine.PeerDown(peer.name))

    def on_message(self, peer: Peer, message: bytes) -> None:
        try:
            said = messages.decode(message, where=peer.name)
        except InputError as error:
            epoch = self._state.book.epoch if self._state else 0
            refused = messages.Refused(epoch=epoch, reason=error.message, hint=error.hint or "")
            peer.send(messages.encode(refused))
            peer.drop(error.message)
            return
        if peer.name == STANDBY:
            self._heard_standby(said)
            return
        if (
            isinstance(said, messages.Commit)
            and self._state
            and not self._intake.commit(peer.name, said.contribution)
        ):
            peer.drop("a contribution that is not this site's, or not cut as this model is")
            return
        self._put(machine.Received(peer.name, said))

    def _heard_standby(self, said: messages.AnyMessage) -> None:
        if isinstance(said, messages.Replica) and self._state:
            self._standby_name, self._replication.wanted = said.name, said.copy
            self._put(machine.ReplicaHeard(said.name, said.epoch, said.length))

    def allocate(self, peer: Peer, key: str, size: int) -> np.ndarray | None:
        if self._seeding:
            return self._seeding.allocate(peer.name, key, size)
        return self._intake.allocate(peer.name, key, size)

    def on_blob(self, peer: Peer, key: str, buffer: np.ndarray) -> None:
        if self._seeding:
            self._seeding.blob(key, buffer)
        else:
            self._intake.blob(peer.name, key, buffer)

    def on_sent(self, peer: Peer, key: str) -> None:
        """Versions are confirmed by `Applied`, not by their bytes."""

    def _put(self, event: machine.AnyEvent) -> None:
        self._queue.put(event, timeout=60)

    # ---- the machine's thread

    def stop(self, reason: str) -> None:
        """Sites are asked to push what they have and to leave; then `run` returns. Safe in a signal handler,
        as putting into the queue is not.
        """
        self._asked_to_stop = reason

    def run(self) -> str:
        """Serves until the run is over. Returns why it ended: 'budget', 'stopped', or 'epoch N elsewhere'."""
        while not self._over:
            try:
                event = self._queue.get(timeout=TICK_S)
            except queue.Empty:
                event = machine.Tick(self.clock.now_s())
            if self._asked_to_stop:
                reason, self._asked_to_stop = self._asked_to_stop, ""
                self._put(machine.StopAsked(reason))
            if self._seeding:
                self._seed(self._seeding, event)
            else:
                self._feed(machine.Tick(self.clock.now_s()))
                self._feed(event)
                self._drive()
        return self._over

    def _begin(self) -> None:
        self.config = self.ledger.complete(self.config)
        self._intake = Intake(self.ledger.payload_sizes, self._complete)
        self._replication = Replication(self.ledger, self.specs)
        book, now_s = self.ledger.book, self.clock.now_s()
        if self.epoch > book.epoch:
            self._state = protocol.promote(self.config, book, now_s, self.epoch)
        else:
            self._state = protocol.start(self.config, book, now_s, self.ledger.oldest_base)

    def _seed(self, seeding: Seeding, event: machine.AnyEvent) -> None:
        """Until the first site's weights are here, nobody is welcomed; what is said meanwhile is kept."""
        if isinstance(event, machine.StopAsked):
            self._over = "stopped before any site came"
        wanted = seeding.hear(event)
        if wanted:
            self._peers[wanted].send(messages.encode(messages.SeedWanted()))
        if seeding.complete:
            self.ledger.seed(*seeding.weights())
            self._begin()
            self._seeding = None
            for kept in seeding.kept:
                self._feed(kept)

    def _feed(self, event: machine.AnyEvent) -> None:
        assert self._state
        self._state = protocol.apply(self._state, event)

    def _drive(self) -> None:
        assert self._state
        while actions := protocol.plan(self._state):
            self._feed(machine.Issued(tuple(actions)))
            for action in actions:
                _EXECUTE[type(action)](self, action)

    def _complete(self, contribution: messages.Contribution) -> None:
        """All fragments are here: check them, and tell the machine. What is damaged, or was not finite before
        the site quantised it, is not finite to the machine.
        """
        payloads = self._intake.take(contribution)
        finite, norm = False, float("nan")
        if intact(contribution, payloads) and isfinite(contribution.norm):
            finite, norm = self.ledger.inspect(payloads)
        self.journal.emit(
            journal.ContributionReceived(
                site=contribution.site,
                seq=contribution.seq,
                base_version=contribution.base_version,
                tokens=contribution.tokens,
                bytes_up=sum(payload.size for payload in payloads),
                norm=norm,
            )
        )
        self._put(machine.Arrived(contribution.site, contribution, finite, norm))

    # ---- actions

    def _persist(self, action: machine.Persist) -> None:
        assert self._state
        before = self._state.book
        done: list[AnyRecord] = []
        try:
            for record in action.records:
                self.ledger.append(record, self._intake)
                done.append(record)
        except StorageError as error:
            self._disk_refused(error)
            self._feed(machine.Persisted(tuple(done)))
            self._feed(machine.PersistFailed(str(error)))
        else:
            self._disk_took_it()
            self._feed(machine.Persisted(action.records))
        self.ledger.book = self._state.book
        for record in done:
            for event in narrate(record, before, self._state.book):
                self.journal.emit(event)

    def _disk_refused(self, error: StorageError) -> None:
        """Told once; the machine tries again until the disk has room, and sites train on meanwhile."""
        if self._refused_s is None:
            self._refused_s = self.clock.now_s()
            self.journal.emit(journal.Fault(subject="server", kind="disk_full", detail=str(error)))

    def _disk_took_it(self) -> None:
        if self._refused_s is not None:
            after_s, self._refused_s = self.clock.now_s() - self._refused_s, None
            self.journal.emit(journal.Recovered(subject="server", kind="disk_full", after_s=after_s))

    def _send(self, action: machine.Send) -> None:
        peer = self._peers.get(action.site)
        if peer is None:
            return
        if isinstance(action.message, messages.VersionReady):
            for index, payload in enumerate(self._version(action.message)):
                peer.put(messages.version_key(action.message, index), payload.data)
        peer.send(messages.encode(action.message))

    def _version(self, message: messages.VersionReady) -> list[np.ndarray]:
        if message.base >= 0:
            return self.ledger.delta(message.version)
        if self._full[0] != message.version:
            self._full = (message.version, self.ledger.published())
        return self._full[1]

    def _merge(self, action: machine.Merge) -> None:
        digest = self.ledger.merge(action)
        self._feed(machine.MergeDone(action.version, digest))

    def _publish(self, action: machine.Publish) -> None:
        self.ledger.published_one()

    def _step_down(self, action: machine.StepDown) -> None:
        self.superseded_by = action.epoch
        self._over = f"epoch {action.epoch} is served elsewhere"

    def _finish(self, action: machine.Finish) -> None:
        self.ledger.snapshot()
        self._over = action.reason
        if self._standby:
            stop = messages.Stop(epoch=self.ledger.book.epoch, reason=action.reason)
            self._standby.send(messages.encode(stop))
        tokens = self.ledger.book.merged_samples * self.seq_len
        self.journal.emit(journal.RunFinished(reason=action.reason, tokens=tokens))

    def _replicate(self, action: machine.Replicate) -> None:
        assert self._state
        if self._standby:
            self._replication.send(self._standby, self._state.book.epoch, action.start, action.end)


_EXECUTE: dict[type, Any] = {
    machine.Persist: Server._persist,
    machine.Send: Server._send,
    machine.Merge: Server._merge,
    machine.Publish: Server._publish,
    machine.StepDown: Server._step_down,
    machine.Finish: Server._finish,
    machine.Replicate: Server._replicate,
}
