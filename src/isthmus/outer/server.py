"""The parameter server's process: `python -m isthmus.outer.server --run-dir RUN`. NumPy only.

One thread runs the state machine (`protocol`): it takes events from a queue, applies them, plans, and
carries the actions out. The transport's threads only feed the queue and fill buffers. Everything durable
goes through the `Ledger`.
"""

import argparse
import queue
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import replace

from isthmus import __version__
from isthmus.clock import Clock, RealClock
from isthmus.errors import InputError, IsthmusError, NotFoundError, StorageError, SupersededError
from isthmus.journal import events as journal
from isthmus.journal.store import DiskStore
from isthmus.journal.writer import Journal
from isthmus.outer import messages, protocol
from isthmus.outer.dialect import dialect
from isthmus.outer.intake import Intake, intact
from isthmus.outer.ledger import Ledger
from isthmus.outer.merge import warm_up
from isthmus.outer.narrate import narrate
from isthmus.outer.protocol import ServerConfig
from isthmus.outer.protocol import state as machine
from isthmus.outer.protocol.records import AnyRecord
from isthmus.outer.replication import Replication
from isthmus.outer.seeding import Seeding
from isthmus.outer.settings import read_plan, server_config
from isthmus.rundir import RunDir
from isthmus.spec.load import load_fleet, load_run
from isthmus.wire.certs import STANDBY
from isthmus.wire.probe import run_facts
from isthmus.wire.transport import Listener, Peer, ServerTls, format_address, parse_address

TICK_S = 0.05
QUEUE_SIZE = 10_000
BY_HAND_EPOCHS = 1000
"""A server put in charge by hand leaves out as many epochs: more than the lost one can have used since."""


@dataclass
class Server:
    """The executor of the server machine. `run` returns when the run is over or another server has taken
    over.

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


def serve(
    run: RunDir, bind: str, *, certs: Path | None = None, log: Journal | None = None, by_hand: bool = False
) -> str:
    """Runs the server of this run folder until the run is over; returns why it ended.

    The address is written to `run.server_address`.

    Args:
        certs: the fleet's certificates; by default the run's.
        log: where to tell of it; by default the run's journal. Closed at the end.
        by_hand: a person says that the server which had the run is gone, and this one takes over.

    Raises:
        SupersededError: another server has taken over meanwhile.
        NotFoundError: `by_hand`, and there is nothing to go on from.
    """
    spec = load_run(run.run_yaml)
    plan = read_plan(run.plan.read_bytes())
    warm_up()
    with log or Journal(run.path, "server") as log:
        ledger = Ledger(run.server, spec.outer, log)
        if by_hand:
            take_over(run, ledger, ledger.book.epoch + BY_HAND_EPOCHS)
        server = Server(
            replace(server_config(plan, spec.outer), name=server_name(run)),
            ledger,
            log,
            spec.data.seq_len,
            {path.name: path.read_bytes() for path in (run.run_yaml, run.fleet_yaml, run.plan)},
            epoch=int(run.promoted.read_text()) if run.promoted.exists() else 0,
        )
        tls = ServerTls.load(certs or run.certs)
        listener = Listener(parse_address(bind), tls, server, speaks=dialect())
        listener.facts = run_facts(spec)
        signal.signal(signal.SIGTERM, lambda *_: server.stop("checkpoint"))
        address = format_address(listener.address)
        DiskStore().write_atomic(run.server_address, f"{address}\n".encode())
        log.emit(
            journal.ServerStarted(
                server_epoch=max(ledger.book.epoch + 1, server.epoch),
                version=ledger.book.version,
                replayed=ledger.replayed,
                address=address,
            )
        )
        reason = server.run()
        listener.close()
        ledger.close()
    if server.superseded_by:
        run.promoted.unlink(missing_ok=True)
        raise SupersededError(
            f"{reason}: this server was away, and another one has taken its place",
            where=str(run.path),
            hint="the run goes on there. `isthmus server standby` with this folder makes it the new standby",
        )
    return reason


def take_over(run: RunDir, ledger: Ledger, epoch: int) -> None:
    """At its next start this folder's server is that of `epoch`. Raises NotFoundError if it is empty."""
    if not ledger.seeded:
        raise NotFoundError(
            "there is nothing to go on from",
            where=str(run.server),
            hint="name the run folder of a standby, or a copy of the lost server's",
        )
    DiskStore().write_atomic(run.promoted, str(epoch).encode())


def server_name(run: RunDir) -> str:
    """As a candidate for an epoch."""
    return run.standby_name.read_text().strip() if run.standby_name.exists() else ServerConfig().name


def last_address(run: RunDir) -> str:
    """Where the server listened the time before, as the sites know it; '' if it never did."""
    known = [path for path in (run.server_address, run.last_address) if path.exists()]
    return known[0].read_text().strip() if known else ""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="parameter server of one run")
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--bind", default="")
    options = parser.parse_args(argv)
    run = RunDir.existing(options.run_dir)
    try:
        bind = last_address(run) or options.bind or load_fleet(run.fleet_yaml).server.bind
        reason = serve(run, bind)
    except IsthmusError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"isthmus server {__version__} ended: {reason}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
