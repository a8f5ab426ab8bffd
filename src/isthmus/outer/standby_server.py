"""A standby server's process: `python -m isthmus.outer.standby_server --run-dir DIR --primary HOST:PORT ...`.

It keeps a replica of the primary's folder, computes every merge itself, and becomes the server when a
majority of the sites say so. As in the server, one thread runs the state machine (`standby`).
"""

import argparse
import queue
import secrets
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from isthmus import __version__
from isthmus.clock import Clock, RealClock
from isthmus.errors import AuthError, InputError, IsthmusError, StorageError
from isthmus.journal import events as journal
from isthmus.journal.store import DiskStore
from isthmus.journal.writer import Journal
from isthmus.outer import messages, standby
from isthmus.outer.dialect import dialect
from isthmus.outer.ledger import Ledger
from isthmus.outer.merge import warm_up
from isthmus.outer.protocol.records import decode_record
from isthmus.outer.replication import Gate, Landing, fragment_sizes
from isthmus.outer.server import serve, server_name, take_over
from isthmus.rundir import RunDir
from isthmus.spec.load import load_run
from isthmus.wire.certs import STANDBY
from isthmus.wire.tls import ClientTls
from isthmus.wire.transport import Listener, Peer, ServerTls, Session, format_address, parse_address

TICK_S = 0.05
QUEUE_SIZE = 10_000


class Arrived(msgspec.Struct, frozen=True):
    """Something in bulk is here."""


class Standby:
    """The executor of the standby machine. The sites' transport handler; `primary` is the other one's."""

    def __init__(self, run: RunDir, log: Journal, clock: Clock | None = None):
        self._run, self._journal, self._clock = run, log, clock or RealClock()
        self._queue: queue.Queue[Any] = queue.Queue(QUEUE_SIZE)
        self._sites: dict[str, Peer] = {}
        self._ledger: Ledger | None = None
        self._fragments = Gate()
        self._records: messages.Records | None = None
        self._landing = Landing(run.path / "server.copy")
        self._asked_to_stop = ""
        self._over = ""
        self.primary = FromPrimary(self._queue, self._fragments, self._landing)
        self.address = ""
        now_s = self._clock.now_s()
        self._state = standby.StandbyState(name=server_name(run), now_s=now_s, heard_s=now_s)
        if run.run_yaml.exists():
            self._open()

    # ---- transport's threads: the sites

    def on_up(self, peer: Peer) -> None:
        self._sites[peer.name] = peer
        self._queue.put(standby.PeerUp(peer.name), timeout=60)

    def on_down(self, peer: Peer, reason: str) -> None:
        self._queue.put(standby.PeerDown(peer.name), timeout=60)

    def on_message(self, peer: Peer, message: bytes) -> None:
        """What sites say to a server waits for one that serves; only their votes count here."""
        try:
            said = messages.decode(message, where=peer.name)
        except InputError as error:
            peer.drop(error.message)
            return
        if isinstance(said, messages.VoteGranted):
            self._queue.put(standby.Voted(peer.name, said.epoch, said.candidate), timeout=60)

    def allocate(self, peer: Peer, key: str, size: int) -> np.ndarray | None:
        return None

    def on_blob(self, peer: Peer, key: str, buffer: np.ndarray) -> None:
        """Nothing is let in."""

    def on_sent(self, peer: Peer, key: str) -> None:
        """Nothing is sent in bulk."""

    # ---- the machine's thread

    def stop(self, reason: str) -> None:
        """`run` returns soon. Safe in a signal handler."""
        self._asked_to_stop = reason

    def run(self, session: Session) -> str:
        """Stands by until the run is over, or until this is the server: then returns ''. Raises AuthError if
        the primary refuses it for good, CorruptError if what it computes differs from the primary's.
        """
        while not self._over and not self._state.promoted:
            try:
                event = self._queue.get(timeout=TICK_S)
            except queue.Empty:
                event = None
            self._over = self._asked_to_stop
            if isinstance(session.error, AuthError):
                raise session.error
            self._state = standby.apply(self._state, standby.Tick(self._clock.now_s()))
            self._take(event)
            self._drive()
        return self._over

    def _take(self, event: Any) -> None:
        match event:
            case None:
                return
            case IsthmusError():
                raise event
            case messages.Records():
                self._records = event
                self._feed(standby.PrimarySent(event.epoch, event.start, ()))
                self._follow()
            case messages.Copy() | Arrived():
                self._follow()
                self._settle_copy()
            case standby.PrimaryUp():
                self._records = None
                self._feed(event)
            case messages.Stop():
                self._over = event.reason
            case _:
                self._feed(event)

    def _feed(self, event: standby.AnyEvent) -> None:
        self._state = standby.apply(self._state, event)

    def _drive(self) -> None:
        while actions := standby.plan(self._state):
            self._feed(standby.Issued(tuple(actions)))
            for action in actions:
                self._execute(action)

    def _execute(self, action: standby.AnyAction) -> None:
        match action:
            case standby.Store():
                self._store(action)
            case standby.Report():
                report = msgspec.structs.replace(action.replica, copy=self._landing.number)
                self.primary.send(report)
            case standby.Ask():
                self._sites[action.site].send(messages.encode(action.request))
            case standby.Promote():
                self._promote(action.epoch)

    def _follow(self) -> None:
        """Hands the machine the records that can be stored: those whose fragments are all here."""
        said, book = self._records, self._state.book
        if said is None:
            return
        ready = []
        for data in said.records[max(0, book.length - said.start) :]:
            record = decode_record(data)
            if self._fragments.take(fragment_sizes(record)) is None:
                break
            ready.append(record)
        if ready:
            start = max(book.length, said.start)
            self._feed(standby.PrimarySent(said.epoch, start, tuple(ready)))

    def _store(self, action: standby.Store) -> None:
        assert self._ledger
        stored = []
        try:
            for record in action.records:
                self._ledger.follow(record, self._fragments.take(fragment_sizes(record)) or [])
                stored.append(record)
        except StorageError as error:
            self._journal.emit(journal.Fault(subject=STANDBY, kind="disk_full", detail=str(error)))
        self._feed(standby.Stored(tuple(stored)) if stored else standby.StoreFailed("the disk refused"))

    def _settle_copy(self) -> None:
        """A copy that is complete takes the replica's place."""
        copy = self._landing.complete()
        if copy is None or not standby.replaceable(self._state, copy.epoch):
            return
        if self._ledger:
            self._ledger.close()
        self._landing.replace(self._run.server)
        for name, text in copy.specs.items():
            DiskStore().write_atomic(self._run.path / Path(name).name, text)
        self._records = None
        self._open()
        self._feed(standby.Copied(self._state.book))

    def _open(self) -> None:
        """Takes up the replica as the folder holds it."""
        outer = load_run(self._run.run_yaml).outer
        self._ledger = Ledger(self._run.server, outer, self._journal)
        self._state = msgspec.structs.replace(
            self._state, book=self._ledger.book, timeout_s=float(outer.standby_timeout)
        )
        self.tell_address()

    def tell_address(self) -> None:
        """Writes where the sites reach this server, once it is known."""
        if self.address:
            DiskStore().make_folder(self._run.server)
            DiskStore().write_atomic(self._run.server_address, f"{self.address}\n".encode())

    def _promote(self, epoch: int) -> None:
        assert self._ledger
        take_over(self._run, self._ledger, epoch)
        silent_s = self._state.now_s - self._state.heard_s
        self._journal.emit(
            journal.Fault(subject="server", kind="server_lost", detail=f"silent for {silent_s:.0f} s")
        )
        self._journal.emit(journal.Recovered(subject="server", kind="server_lost", after_s=silent_s))

    def close(self) -> None:
        if self._ledger:
            self._ledger.close()


class FromPrimary:
    """The transport's callbacks for the link to the primary."""

    def __init__(self, events: queue.Queue[Any], fragments: Gate, landing: Landing):
        self._events, self._fragments, self._landing = events, fragments, landing
        self._peer: Peer | None = None

    def send(self, message: messages.Message) -> None:
        if self._peer:
            self._peer.send(messages.encode(message))

    def on_up(self, peer: Peer) -> None:
        self._peer = peer
        self._landing.link_up()
        self._events.put(standby.PrimaryUp(), timeout=60)

    def on_down(self, peer: Peer, reason: str) -> None:
        self._events.put(standby.PrimaryDown(), timeout=60)

    def on_message(self, peer: Peer, message: bytes) -> None:
        """What is announced must be let in from here on: its bytes may follow at once."""
        try:
            said = messages.decode(message, where="the primary")
        except InputError as error:
            self._events.put(error, timeout=60)
            return
        if isinstance(said, messages.Records):
            records = [decode_record(data) for data in said.records]
            self._fragments.expect({k: v for record in records for k, v in fragment_sizes(record).items()})
        elif isinstance(said, messages.Copy):
            self._landing.announce(said)
        self._events.put(said, timeout=60)

    def allocate(self, peer: Peer, key: str, size: int) -> np.ndarray | None:
        gate = self._landing.files if key.startswith("copy/") else self._fragments
        return gate.allocate(key, size)

    def on_blob(self, peer: Peer, key: str, buffer: np.ndarray) -> None:
        gate = self._landing.files if key.startswith("copy/") else self._fragments
        gate.blob(key, buffer)
        self._events.put(Arrived(), timeout=60)

    def on_sent(self, peer: Peer, key: str) -> None:
        """Nothing is sent in bulk."""


def stand_by(run: RunDir, primary: str, *, bind: str, certs: Path, log: Journal) -> str:
    """Runs a standby of the server at `primary` until the run is over; returns why it ended.

    `bind` is where the sites reach it, before and after it has become the server; `certs` holds the
    certificates of the server and of 'standby'. Raises as `serve`, and AuthError.
    """
    if not run.promoted.exists():
        reason, bind = _until_promoted(run, primary, bind, certs, log)
        if reason:
            return reason
    return serve(run, bind, certs=certs, log=log)


def _until_promoted(run: RunDir, primary: str, bind: str, certs: Path, log: Journal) -> tuple[str, str]:
    """(why it ended, '' when it is the server now; address of its port)."""
    warm_up()
    DiskStore().make_folder(run.path)
    if not run.standby_name.exists():
        DiskStore().write_atomic(run.standby_name, f"{STANDBY}-{secrets.token_hex(4)}".encode())
    member = Standby(run, log)
    try:
        tls = ServerTls.load(certs), ClientTls.load(certs, STANDBY)
        with Listener(parse_address(bind), tls[0], member, speaks=dialect()) as listener:
            member.address = format_address(listener.address)
            member.tell_address()
            signal.signal(signal.SIGTERM, lambda *_: member.stop("asked to stop"))
            with Session([primary], tls[1], member.primary, dialect()) as session:
                return member.run(session), member.address
    finally:
        member.close()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="standby of a run's parameter server")
    parser.add_argument("--run-dir", type=Path, required=True, help="its own folder")
    parser.add_argument("--primary", required=True, help="host:port of the server")
    parser.add_argument("--bind", required=True, help="host:port for the sites")
    parser.add_argument("--certs", type=Path, required=True)
    parser.add_argument("--journal", type=Path, help="the run that tells of it; by default its own folder")
    options = parser.parse_args(argv)
    run = RunDir(options.run_dir)
    try:
        log = Journal(options.journal or run.path, STANDBY)
        with log:
            reason = stand_by(run, options.primary, bind=options.bind, certs=options.certs, log=log)
    except IsthmusError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"isthmus standby {__version__} ended: {reason}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
