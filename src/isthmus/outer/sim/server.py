"""Thin executor of the server and standby machines over a virtual disk and network."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from isthmus.outer import protocol, standby
from isthmus.outer.messages import (
    Commit,
    Contribution,
    Hello,
    Message,
    Replica,
    VersionReady,
    VoteGranted,
    version_key,
)
from isthmus.outer.protocol import records, state
from isthmus.outer.sim import numbers
from isthmus.outer.sim.checks import SEEDED
from isthmus.outer.sim.network import Link, Process
from isthmus.sim.invariant import InvariantError

if TYPE_CHECKING:
    from isthmus.outer.sim.world import World

FRAGMENTS = 2
SERVER_TICK_S = 1.5
SNAPSHOT_EVERY = 5
FULL_KEPT = 3
LARGE = 1e5
"""More samples than any simulated window has: a vector that claims them is an outlier."""
PLAN_BOUND = 500
"""Rounds of planning after one event; more means the machine does not settle."""

Entry = tuple[records.AnyRecord, numbers.Vector | None]


def halves(vector: numbers.Vector) -> list[numbers.Vector]:
    return [vector[: numbers.EXACT], vector[numbers.EXACT :]]


class Disk:
    """An append-only log with a synced part, a snapshot, and a time until which every write fails."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.synced = 0
        self.full_until_s = 0.0
        self.snapshot: tuple[records.Book, numbers.Master, dict[Any, numbers.Vector]] | None = None

    def crash(self, survivors: int) -> None:
        """Of what was not synced, only the first `survivors` records are found again."""
        del self.entries[self.synced + survivors :]
        self.synced = len(self.entries)


class SimServer:
    def __init__(self, world: "World", name: str, is_standby: bool = False):
        self.world, self.name, self.is_standby = world, name, is_standby
        self.process = Process(world.time, name)
        self.disk = Disk()
        self.links: dict[str, Link] = {}
        self.serving = False

    # ---- life

    def boot(self) -> None:
        self.process.spawn()
        self.connected: dict[str, Hello | None] = {}
        self.replica_link: Link | None = None
        self.primary_link: Link | None = None
        self.halves: dict[str, numbers.Vector] = {}
        self.commits: dict[tuple[str, int, int], Contribution] = {}
        self.driving = False
        now_s = self.world.time.now_s
        book = self._load()
        self.serving = not self.is_standby
        if self.is_standby:
            self.standby = standby.StandbyState(
                name=self.name,
                book=book,
                timeout_s=self.world.config.standby_timeout_s,
                now_s=now_s,
                heard_s=now_s,
            )
        else:
            self.state = protocol.start(self._config(), book, now_s, self.floor)
        self._tick()

    def _config(self) -> state.ServerConfig:
        return self.world.server_config(self.name)

    def _load(self) -> records.Book:
        """Replays the disk: the same records must give the same numbers."""
        self.payloads: dict[tuple[str, int, int], numbers.Vector] = {}
        book, self.master = SEEDED, numbers.Master()
        if self.disk.snapshot is not None:
            book, master, payloads = self.disk.snapshot
            self.master, self.payloads = master.copy(), dict(payloads)
        self.floor = book.version
        self.full = {self.master.version: self.master.published}
        for record, payload in self.disk.entries[book.length :]:
            self._replay(record, payload)
            book = records.fold(book, record)
        records.check(book)
        return book

    def _replay(self, record: records.AnyRecord, payload: numbers.Vector | None) -> None:
        if isinstance(record, records.ContributionAccepted):
            if payload is None:
                raise InvariantError("an accepted contribution has no bytes")
            self.payloads[record.contribution.id] = payload
        elif isinstance(record, records.Merged):
            pushed = [self.payloads.pop(key) for key in record.contributions]
            result = self.master.merge(pushed, record.weights, record.share, record.full)
            if result != record.hash:
                raise InvariantError(f"replay of version {record.version} gives another hash")
            self._keep_full()

    def _keep_full(self) -> None:
        self.full[self.master.version] = self.master.published
        self.full.pop(self.master.version - FULL_KEPT, None)

    def crash(self) -> None:
        self.process.kill()
        unsynced = len(self.disk.entries) - self.disk.synced
        self.disk.crash(self.world.time.random.randint(0, unsynced) if unsynced else 0)
        self.serving = False
        for link in self.links.values():
            link.forget(self)
            link.cut()

    def _tick(self) -> None:
        now_s = self.world.time.now_s
        if self.serving:
            self.feed(state.Tick(now_s))
        else:
            self._feed_standby(standby.Tick(now_s))
        self.process.later(SERVER_TICK_S, self._tick)

    # ---- the machine

    def feed(self, event: state.AnyEvent) -> None:
        self.state = protocol.apply(self.state, event)
        if self.driving:
            return
        self.driving = True
        for _ in range(PLAN_BOUND):
            actions = protocol.plan(self.state)
            if not actions or not self.process.alive:
                self.driving = False
                return
            self.state = protocol.apply(self.state, state.Issued(tuple(actions)))
            for action in actions:
                self._execute(action)
        raise InvariantError(f"{self.name} does not settle after {event}")

    def _execute(self, action: Any) -> None:
        match action:
            case state.Send():
                self._send(action.site, action.message)
            case state.Persist():
                self._persist(action.records)
            case state.Merge():
                self.process.later(0.05, self._merge, action)
            case state.Publish():
                self._publish(action)
            case state.Replicate():
                self._replicate(action)
            case state.StepDown():
                self.crash()
            case state.Finish():
                self.world.finish(self, action.reason)

    def _replicate(self, action: state.Replicate) -> None:
        """What a replica lacks; one that holds nothing gets snapshot and log instead."""
        if self.replica_link is None:
            return
        epoch = self.state.book.epoch
        if action.start == 0:
            entries = self.disk.entries[: action.end]
            self.replica_link.send(self, ("copy", epoch, self.disk.snapshot, entries))
        else:
            entries = self.disk.entries[action.start : action.end]
            self.replica_link.send(self, ("records", epoch, action.start, entries))

    def _send(self, site: str, message: Message) -> None:
        self.world.checks.said(self.name, site, message)
        link = self.links[site]
        link.send(self, ("msg", message))
        if isinstance(message, VersionReady):
            full = message.base < 0
            vector = self.full[message.version] if full else self.master.deltas[message.version]
            for index, half in enumerate(halves(vector)):
                link.send(self, ("blob", version_key(message, index), half), bulk=True)

    def _persist(self, batch: tuple[records.AnyRecord, ...]) -> None:
        if self.world.time.now_s < self.disk.full_until_s:
            self.feed(state.PersistFailed("no space left on device"))
            return
        start = len(self.disk.entries)
        for record in batch:
            payload = None
            if isinstance(record, records.ContributionAccepted):
                payload = self.payloads[record.contribution.id]
            self.disk.entries.append((record, payload))
        self.process.later(self.world.sync_s(), self._synced, start, batch)

    def _synced(self, start: int, batch: tuple[records.AnyRecord, ...]) -> None:
        self.disk.synced = start + len(batch)
        self.feed(state.Persisted(batch))

    def _merge(self, action: state.Merge) -> None:
        assert action.version == self.master.version + 1, "merges come in order"
        pushed = [self.payloads[contribution.id] for contribution in action.contributions]
        result = self.master.merge(pushed, action.weights, action.share, action.full)
        self._keep_full()
        self.feed(state.MergeDone(action.version, result))

    def _publish(self, action: state.Publish) -> None:
        book = self.state.book
        self.world.checks.published(self.name, action.version, action.epoch, book.hash)
        for key in [key for key in self.payloads if key[1:] <= book.sites[key[0]].merged]:
            del self.payloads[key]
        if action.version % SNAPSHOT_EVERY == 0 and self.world.time.now_s >= self.disk.full_until_s:
            accepted = {c.id: self.payloads[c.id] for c in book.accepted}
            self.disk.snapshot = (book, self.master.copy(), accepted)

    # ---- the network

    def on_up(self, link: Link) -> None:
        end = link.other(self)
        if isinstance(end, SimServer):
            if not self.serving and not end.is_standby:
                self.primary_link = link
                self._feed_standby(standby.PrimaryUp())
            else:
                self.replica_link = link
            return
        name = end.process.name
        self.connected[name] = None
        if self.serving:
            self.feed(state.PeerUp(name))
        else:
            self._feed_standby(standby.PeerUp(name))

    def on_down(self, link: Link) -> None:
        end = link.other(self)
        if isinstance(end, SimServer):
            if self.serving and link is self.replica_link:
                self.replica_link = None
                self.feed(state.ReplicaDown(end.name))
            elif not self.serving:
                self.primary_link = None
                self._feed_standby(standby.PrimaryDown())
            return
        name = end.process.name
        self.connected.pop(name, None)
        if self.serving:
            self.feed(state.PeerDown(name))
        else:
            self._feed_standby(standby.PeerDown(name))

    def on_payload(self, link: Link, payload: Any) -> None:
        end = link.other(self)
        name = end.process.name
        match payload:
            case ("msg", message):
                self._on_message(name, message)
            case ("blob", key, half):
                self._on_half(key, half)
            case ("records", epoch, start, entries):
                self._on_records(epoch, start, entries)
            case ("copy", epoch, snapshot, entries):
                if not self.serving:
                    self.process.later(self.world.sync_s(), self._copy, epoch, snapshot, entries)

    def _on_message(self, name: str, message: Message) -> None:
        if isinstance(message, Replica):
            if self.serving:
                self.feed(state.ReplicaHeard(message.name, message.epoch, message.length))
        elif not self.serving:
            if isinstance(message, VoteGranted):
                self._feed_standby(standby.Voted(name, message.epoch, message.candidate))
            elif isinstance(message, Hello) and name in self.connected:
                self.connected[name] = message
        elif isinstance(message, Commit):
            self.commits[message.contribution.id] = message.contribution
            self._complete(message.contribution)
        else:
            self.feed(state.Received(name, message))

    def _on_half(self, key: str, half: numbers.Vector) -> None:
        self.halves[key] = half
        for contribution in self.commits.values():
            if any(fragment.key == key for fragment in contribution.fragments):
                self._complete(contribution)
                return

    def _complete(self, contribution: Contribution) -> None:
        """Commit and all fragments are here: measured by the server itself, then decided."""
        keys = [fragment.key for fragment in contribution.fragments]
        if not self.serving or not all(key in self.halves for key in keys):
            return
        del self.commits[contribution.id]
        vector = np.concatenate([self.halves.pop(key) for key in keys])
        self.payloads.setdefault(contribution.id, vector)
        finite = bool(np.isfinite(vector).all())
        norm = float(contribution.tokens) * (100.0 if abs(vector[0]) > LARGE else 1.0) if finite else math.nan
        self.feed(state.Arrived(contribution.site, contribution, finite, norm))

    # ---- as a standby

    def _feed_standby(self, event: standby.AnyEvent) -> None:
        self.standby = standby.apply(self.standby, event)
        while not self.serving and (actions := standby.plan(self.standby)):
            self.standby = standby.apply(self.standby, standby.Issued(tuple(actions)))
            for action in actions:
                self._execute_standby(action)

    def _execute_standby(self, action: standby.AnyAction) -> None:
        match action:
            case standby.Report():
                if self.primary_link is not None:
                    self.primary_link.send(self, ("msg", action.replica))
            case standby.Ask():
                self.links[action.site].send(self, ("msg", action.request))
            case standby.Store():
                self.process.later(self.world.sync_s(), self._store, action)
            case standby.Promote():
                self._promote(action.epoch)

    def _on_records(self, epoch: int, start: int, entries: list[Entry]) -> None:
        if self.serving:
            return
        self.incoming = {start + index: entry for index, entry in enumerate(entries)}
        batch = tuple(record for record, _ in entries)
        self._feed_standby(standby.PrimarySent(epoch, start, batch))

    def _store(self, action: standby.Store) -> None:
        if self.world.time.now_s < self.disk.full_until_s:
            self._feed_standby(standby.StoreFailed("no space left on device"))
            return
        fresh = [self.incoming.get(action.start + index) for index in range(len(action.records))]
        if any(entry is None for entry in fresh):
            self._feed_standby(standby.StoreFailed("superseded"))
            return
        self.disk.entries += [entry for entry in fresh if entry is not None]
        self.disk.synced = len(self.disk.entries)
        self._feed_standby(standby.Stored(action.records))

    def _copy(self, epoch: int, snapshot: Any, entries: list[Entry]) -> None:
        """The whole replica made anew."""
        full = self.world.time.now_s < self.disk.full_until_s
        if self.serving or full or not standby.replaceable(self.standby, epoch):
            return
        self.disk.entries, self.disk.synced, self.disk.snapshot = list(entries), len(entries), snapshot
        self._feed_standby(standby.Copied(self._load()))

    def _promote(self, epoch: int) -> None:
        self.is_standby, self.serving = False, True
        book = self._load()
        self.state = protocol.promote(self._config(), book, self.world.time.now_s, epoch)
        self.world.checks.promotions += 1
        for name, hello in list(self.connected.items()):
            self.feed(state.PeerUp(name))
            if hello is not None:
                self.feed(state.Received(name, hello))
