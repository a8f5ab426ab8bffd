"""Everything of the parameter server that must outlive it: write-ahead log, snapshots, and the numbers they
give.

The log decides, the numbers follow: a merge is in the log by its contributions and weights, and is computed
again from their payloads after a restart, bit for bit (the record's hash checks it).
"""

import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import xxhash

from isthmus.errors import CorruptError, StorageError
from isthmus.journal import events
from isthmus.journal.store import DiskStore, Store
from isthmus.journal.writer import Journal
from isthmus.outer.intake import Intake
from isthmus.outer.layout import Layout
from isthmus.outer.merge import MasterState, Push, Rule, merge, norm, publish
from isthmus.outer.messages import Contribution, Identity
from isthmus.outer.protocol import ServerConfig
from isthmus.outer.protocol.records import (
    HISTORY,
    AnyRecord,
    Book,
    ContributionAccepted,
    ContributionDiscarded,
    Merged,
    decode_record,
    encode_record,
    fold,
)
from isthmus.outer.protocol.state import Merge
from isthmus.outer.snapshot import Loaded, Snapshots
from isthmus.outer.wal import Entry, Octets, Wal
from isthmus.outer.weights import Share
from isthmus.spec.run import OuterSpec
from isthmus.wire import codecs

DELTAS_KEPT = HISTORY + 1
"""Versions whose deltas stay in memory, for sites that are a little behind: those the machine may send, and
the one being merged.
"""
_CHECK_BYTES = 8


class Seeded(msgspec.Struct, frozen=True):
    """What the first site brought, beside its weights: written once, before anybody is welcomed."""

    layout: Layout
    identity: Identity


class Saved(msgspec.Struct, frozen=True):
    """What a snapshot holds beside the numbers. `waiting`: log entries of contributions not merged yet."""

    book: Book
    waiting: dict[str, int]


class Ledger:
    """One process at a time owns the folder. Raises CorruptError for damage, StorageError where the disk
    refuses.

    `book` is the fold of the log; the owner sets it after each append.
    """

    def __init__(self, folder: Path, outer: OuterSpec, log: Journal, store: Store | None = None):
        self._folder, self._outer, self._journal = folder, outer, log
        self._store = store or DiskStore()
        self._store.make_folder(folder)
        self._snapshots = Snapshots(self._store, folder / "snapshots")
        self._payloads: dict[tuple[str, int, int], list[np.ndarray]] = {}
        self._entries: dict[tuple[str, int, int], int] = {}
        self._deltas: dict[int, list[np.ndarray]] = {}
        self._rule = Rule(
            optimizer=outer.optimizer,
            lr=outer.lr,
            momentum=outer.momentum,
            codec=outer.codec,
            block=outer.block_size,
        )
        self._merges_since = 0
        self._master: MasterState | None = None
        self._seeded: Seeded | None = None
        self.book = Book()
        self.replayed = 0
        """Log entries that were computed again when the folder was opened."""
        self._wal = self._open()

    def _open(self) -> Wal:
        folder = self._folder / "wal"
        if self._seed_path.name not in self._store.list(self._folder):
            return Wal(self._store, folder)
        self._seeded = self._read_seed()
        loaded = self._snapshots.load()
        if loaded is None:
            raise CorruptError(
                "the server's snapshots are gone",
                where=str(self._folder),
                hint="restore the folder from a copy, or start a new run in another one",
            )
        for reason in loaded.skipped:
            self._journal.emit(events.Fault(subject="server", kind="snapshot_damaged", detail=reason))
        wal = Wal(self._store, folder, first_index=loaded.entry + 1)
        if wal.tail:
            self._journal.emit(events.Fault(subject="server", kind="torn_log", detail=str(wal.tail)))
        self._recover(loaded, wal)
        return wal

    def _read_seed(self) -> Seeded:
        data = bytes(self._store.read(self._seed_path))
        check, body = data[:_CHECK_BYTES], data[_CHECK_BYTES:]
        if xxhash.xxh3_64_digest(body) != check:
            raise CorruptError(
                "does not match its checksum",
                where=str(self._seed_path),
                hint="restore the server's folder from a copy or from the standby",
            )
        return msgspec.msgpack.decode(body, type=Seeded)

    def _recover(self, loaded: Loaded, wal: Wal) -> None:
        """From the newest snapshot to the end of the log, computing merges again."""
        saved = msgspec.msgpack.decode(loaded.protocol, type=Saved)
        self._master, self.book = loaded.state, saved.book
        oldest = min([*saved.waiting.values(), loaded.entry + 1])
        for entry in wal.replay(oldest - 1):
            record = decode_record(entry.record)
            if isinstance(record, ContributionAccepted):
                self._keep(record.contribution, entry.payloads, entry.number)
            if entry.number <= loaded.entry:
                continue
            self._fold(record)
            self.replayed += 1
        self._forget_merged()

    def _fold(self, record: AnyRecord) -> None:
        if isinstance(record, Merged):
            self._merge_again(record)
        self.book = fold(self.book, record)

    def _merge_again(self, record: Merged) -> None:
        by_id = {contribution.id: contribution for contribution in self.book.accepted}
        merged = [by_id[key] for key in record.contributions]
        self._step(merged, record.share, self.book.version)
        assert self._master
        if self._master.hash != record.hash:
            raise CorruptError(
                f"version {record.version} comes out with another hash than before",
                where=str(self._folder),
                hint="has the isthmus version or an `outer` setting changed? take the earlier one back",
            )

    @property
    def _seed_path(self) -> Path:
        return self._folder / "seed"

    @property
    def seeded(self) -> bool:
        return self._seeded is not None

    def seed(self, layout: Layout, identity: Identity, fragments: list[np.ndarray]) -> None:
        """Version 0: the first site's weights. Raises StorageError; the folder then holds none."""
        self._master = MasterState(layout, [fragment.copy() for fragment in fragments])
        self.book = Book(hash=self._master.hash)
        self._seeded = Seeded(layout, identity)
        self._save_snapshot()
        body = msgspec.msgpack.encode(self._seeded)
        self._store.write_atomic(self._seed_path, xxhash.xxh3_64_digest(body), body)

    def complete(self, config: ServerConfig) -> ServerConfig:
        """The configuration with what only the weights tell."""
        assert self._seeded
        terms = msgspec.structs.replace(config.terms, num_fragments=self._seeded.layout.num_fragments)
        return msgspec.structs.replace(config, terms=terms, identity=self._seeded.identity)

    @property
    def payload_sizes(self) -> list[int]:
        """Bytes of each fragment as sites send it."""
        return [codecs.encoded_size(self._rule.codec, n, self._rule.block) for n in self._sizes]

    @property
    def _sizes(self) -> tuple[int, ...]:
        assert self._seeded
        return self._seeded.layout.fragment_sizes

    def inspect(self, payloads: Sequence[np.ndarray]) -> tuple[bool, float]:
        """(all finite, norm) of a contribution as it decodes."""
        size = norm(self._rule, payloads, self._sizes)
        return bool(np.isfinite(size)), size

    def append(self, record: AnyRecord, intake: Intake) -> None:
        """Durable on return, with the contribution's payloads where there is one. Raises StorageError."""
        if isinstance(record, ContributionAccepted):
            contribution = record.contribution
            payloads = intake.take(contribution)
            entry = self._wal.append(encode_record(record), payloads)
            self._keep(contribution, payloads, entry)
            intake.drop(contribution.site, (contribution.incarnation, contribution.seq))
            return
        self._wal.append(encode_record(record))
        if isinstance(record, ContributionDiscarded):
            intake.drop(record.site, (record.incarnation, record.seq))

    def follow(self, record: AnyRecord, payloads: Sequence[Octets]) -> None:
        """One more record of the primary's log, for a standby: durable on return, its merge computed too.

        Raises StorageError; then it is not in the log. Raises CorruptError where a version comes out with
        another hash than the primary's.
        """
        entry = self._wal.append(encode_record(record), payloads)
        if isinstance(record, ContributionAccepted):
            self._keep(record.contribution, list(payloads), entry)
        self._fold(record)
        if isinstance(record, Merged):
            self.published_one()

    @property
    def first_entry(self) -> int:
        """The oldest entry the log still has."""
        return self._wal.first_index

    def entries(self, start: int, end: int, max_bytes: int) -> list[Entry]:
        """Of the log, as `Wal.read`; the entry of a record is its number in the book."""
        return self._wal.read(start, end, max_bytes)

    def files(self) -> dict[str, np.ndarray]:
        """The folder at this moment, as little of it as makes a whole ledger: name -> bytes.

        They are mapped where a file never shrinks, so they hold no memory, and outlive the file's deletion.
        """
        wanted, log_from = self._snapshots.newest()
        *closed, last = self._wal.segments(log_from)
        mapped = [self._seed_path, *wanted, *closed]
        files = {str(path.relative_to(self._folder)): np.memmap(path, np.uint8, "r") for path in mapped}
        return {**files, str(last.relative_to(self._folder)): np.frombuffer(self._store.read(last), np.uint8)}

    def _keep(self, contribution: Contribution, payloads: list[np.ndarray], entry: int) -> None:
        self._payloads[contribution.id], self._entries[contribution.id] = payloads, entry

    def merge(self, action: Merge) -> str:
        """Computes the next version; returns its hash. Computing the same one again changes nothing."""
        assert self._master
        if self._master.version < action.version:
            self._step(action.contributions, action.share, self.book.version)
        return self._master.hash

    def _step(self, contributions: Sequence[Contribution], share: float, version: int) -> None:
        assert self._master
        pushes = [
            Push(
                Share(
                    site=contribution.site,
                    tokens=contribution.tokens,
                    staleness=version - contribution.base_version,
                    group_tokens=contribution.group_tokens,
                ),
                self._payloads[contribution.id],
            )
            for contribution in contributions
        ]
        merge(self._master, pushes, msgspec.structs.replace(self._rule, share=share))
        done = publish(self._master, self._outer.down_codec, self._outer.block_size)
        self._deltas[done.version] = done.payloads
        self._deltas.pop(done.version - DELTAS_KEPT, None)

    def delta(self, version: int) -> list[np.ndarray]:
        """Payloads that bring version - 1 to `version`."""
        return self._deltas[version]

    def published(self) -> list[np.ndarray]:
        """A copy of the newest version in full, as bytes, one per fragment."""
        assert self._master
        return [fragment.copy().view(np.uint8) for fragment in self._master.published]

    def parameters(self) -> dict[str, np.ndarray]:
        """The exact master, by tensor name."""
        assert self._master
        assert self._seeded
        return self._seeded.layout.unpack(np.concatenate(self._master.master))

    @property
    def oldest_base(self) -> int:
        """The version that the oldest delta at hand starts from."""
        return min(self._deltas, default=self.book.version + 1) - 1

    def published_one(self) -> None:
        """A version is durable: forget what is merged in it, and snapshot when one is due."""
        self._forget_merged()
        self._merges_since += 1
        if self._merges_since >= self._outer.snapshot_every:
            self.snapshot()

    def _forget_merged(self) -> None:
        waiting = {contribution.id for contribution in self.book.accepted}
        self._payloads = {key: value for key, value in self._payloads.items() if key in waiting}
        self._entries = {key: value for key, value in self._entries.items() if key in waiting}

    def snapshot(self) -> None:
        """Saves the state after the last entry; a disk that refuses costs nothing but a longer replay."""
        start_s = time.monotonic()
        self._merges_since = 0
        try:
            self._save_snapshot()
        except StorageError as error:
            self._journal.emit(events.CheckpointFailed(what="server", reason=str(error)))
            return
        self._journal.emit(
            events.CheckpointSaved(
                what="server",
                version=self.book.version,
                step=0,
                path=str(self._folder / "snapshots"),
                duration_s=time.monotonic() - start_s,
            )
        )

    def _save_snapshot(self) -> None:
        assert self._master
        waiting = {"/".join(map(str, key)): entry for key, entry in self._entries.items()}
        saved = msgspec.msgpack.encode(Saved(self.book, waiting))
        entry = self._wal.next_index - 1
        log_from = min([entry + 1, *self._entries.values()])
        self._wal.truncate_before(self._snapshots.save(self._master, saved, entry, log_from))

    def close(self) -> None:
        self._wal.close()
