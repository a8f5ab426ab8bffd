from pathlib import Path

import msgspec
import numpy as np
import pytest
import xxhash

from isthmus.errors import CorruptError, StorageError
from isthmus.journal.memory_store import Crash, MemoryStore
from isthmus.outer.intake import Intake
from isthmus.outer.layout import build_layout
from isthmus.outer.ledger import DELTAS_KEPT, Ledger
from isthmus.outer.messages import Contribution, Fragment, Identity, contribution_key
from isthmus.outer.protocol import records
from isthmus.outer.protocol.state import Merge
from isthmus.spec.run import OuterSpec
from isthmus.wire import codecs

FOLDER = Path("/run/server")
LAYOUT = build_layout([("w", (37, 11)), ("b", (129,))], {}, 2)
OUTER = OuterSpec(codec="int8", down_codec="int8", block_size=16, snapshot_every=3)
FIRST = np.random.default_rng(0).standard_normal(LAYOUT.size).astype(np.float32)


class Events:
    """Stands for the journal."""

    def __init__(self):
        self.told = []

    def emit(self, event):
        self.told.append(event)

    def kinds(self):
        return [getattr(event, "kind", type(event).__name__) for event in self.told]


class Owner:
    """Drives a ledger as the server does: push, merge, publish. Crashes with its store."""

    def __init__(self, store: MemoryStore, outer: OuterSpec = OUTER):
        self.events = Events()
        self.ledger = Ledger(FOLDER, outer, self.events, store)
        if not self.ledger.seeded:
            self.ledger.seed(LAYOUT, Identity(model_hash="m"), [view.copy() for view in LAYOUT.views(FIRST)])
        if not self.ledger.book.epoch:
            self.append(records.ServerStarted(epoch=1, voted=False, standby=""))
        if not self.ledger.book.sites:
            self.append(records.SiteAdmitted(site="a", incarnation=1))
        self.intake = Intake(self.ledger.payload_sizes, lambda contribution: None)

    def append(self, record):
        intake = getattr(self, "intake", None)
        self.ledger.append(record, intake)
        self.ledger.book = records.fold(self.ledger.book, record)

    def accept(self, seq: int) -> Contribution:
        start = 8 * (seq - 1)
        self.append(records.RangeGranted(site="a", ranges=((start, start + 8),)))
        contribution = self.push(seq)
        self.append(records.ContributionAccepted(contribution=contribution))
        return contribution

    def push(self, seq: int) -> Contribution:
        rng = np.random.default_rng(seq)
        payloads = [
            codecs.encode("int8", 0.01 * rng.standard_normal(n).astype(np.float32), 16)
            for n in LAYOUT.fragment_sizes
        ]
        fragments = tuple(
            Fragment(contribution_key("a", 1, seq, i), p.size, xxhash.xxh3_64_hexdigest(p.data))
            for i, p in enumerate(payloads)
        )
        for fragment, payload in zip(fragments, payloads, strict=True):
            self.intake.blob("a", fragment.key, payload)
        return Contribution(
            site="a",
            incarnation=1,
            seq=seq,
            base_version=self.ledger.book.version,
            ranges=((8 * (seq - 1), 8 * seq),),
            tokens=8,
            steps=1,
            fragments=fragments,
        )

    def merge(self) -> str:
        book = self.ledger.book
        action = merging(book.version + 1, book.accepted)
        digest = self.ledger.merge(action)
        self.append(
            records.Merged(
                version=action.version,
                contributions=tuple(c.id for c in action.contributions),
                weights=action.weights,
                share=1.0,
                full=True,
                hash=digest,
            )
        )
        self.ledger.published_one()
        return digest

    def round(self, seq: int) -> str:
        self.accept(seq)
        return self.merge()

    @property
    def published(self) -> bytes:
        return b"".join(part.tobytes() for part in self.ledger.published())


@pytest.fixture
def store():
    return MemoryStore()


def merging(version: int, contributions: tuple[Contribution, ...]) -> Merge:
    count = len(contributions)
    return Merge(version, contributions, weights=(8.0,) * count, staleness=(0,) * count, share=1.0, full=True)


def names(store: MemoryStore, part: str) -> list[Path]:
    return sorted(path for path in store._names if part in str(path) and not path.name.startswith("."))


def test_a_seeded_folder_knows_its_first_weights(store):
    owner = Owner(store)
    again = Owner(store.after_kill()).ledger
    assert again.seeded
    assert again.book.version == 0
    assert b"".join(part.tobytes() for part in again.published()) == owner.published
    assert np.array_equal(again.parameters()["b"], LAYOUT.unpack(FIRST)["b"])


def test_half_a_seed_is_none(store):
    for crash_at in range(200):
        broken = MemoryStore(crash_at=crash_at, seed=crash_at)
        try:
            Owner(broken)
            break
        except Crash:
            pass
        found = broken.after_power_loss()
        ledger = Ledger(FOLDER, OUTER, Events(), found)
        if ledger.seeded:
            assert ledger.published()[0].tobytes() == LAYOUT.views(FIRST)[0].tobytes()
        ledger.close()
    else:
        pytest.fail("never got through")


def test_a_disk_without_room_for_the_first_weights_is_said():
    for room in range(0, 12_000, 500):
        store = MemoryStore(capacity_bytes=room)
        try:
            Owner(store)
            break
        except StorageError:
            pass
        store.capacity_bytes = None
        Owner(store.after_kill()).round(1)
    else:
        pytest.fail("never got through")


@pytest.mark.parametrize("kills", [(1,), (2,), (3,), (4,), (1, 2, 3, 4, 5, 6, 7)])
def test_killed_after_any_merge_it_comes_back_the_same(store, kills):
    straight, owner = Owner(MemoryStore()), Owner(store)
    for seq in range(1, 8):
        wanted, got = straight.round(seq), owner.round(seq)
        assert wanted == got
        if seq in kills:
            store = store.after_kill()
            owner = Owner(store)
            assert owner.published == straight.published
            assert owner.ledger.book == straight.ledger.book


def test_accepted_and_not_merged_survives(store):
    owner = Owner(store)
    straight = Owner(MemoryStore())
    for one in (owner, straight):
        one.round(1)
        one.accept(2)
    again = Owner(store.after_kill())
    assert [c.seq for c in again.ledger.book.accepted] == [2]
    assert again.merge() == straight.merge()


def test_accepted_survives_snapshots_and_truncation(store):
    """A contribution waits in the log below the snapshots until it is merged."""
    owner = Owner(store)
    waiting = owner.accept(1)
    for _ in range(5):
        owner.ledger.snapshot()
    again = Owner(store.after_kill())
    assert again.ledger.book.accepted == (waiting,)
    again.merge()


def test_the_log_is_cut_when_snapshots_hold_it(store, monkeypatch):
    monkeypatch.setattr("isthmus.outer.wal.SEGMENT_BYTES", 1)
    monkeypatch.setattr("isthmus.outer.wal.Wal.__init__.__defaults__", (1, 0), raising=False)
    owner = Owner(store)
    for seq in range(1, 30):
        owner.round(seq)
    assert owner.ledger.replayed == 0
    again = Owner(store.after_kill())
    assert again.published == owner.published
    assert again.ledger.replayed <= 3 * OUTER.snapshot_every
    assert len(names(store, "manifest")) <= 3


def test_deltas_are_at_hand_for_the_last_versions(store):
    owner = Owner(store)
    sites = [part.view(np.float32).copy() for part in owner.ledger.published()]
    last = DELTAS_KEPT + 3
    for seq in range(1, last + 1):
        owner.round(seq)
        for payload, part in zip(owner.ledger.delta(seq), sites, strict=True):
            codecs.take_up("int8", payload, 16, part)
    assert b"".join(part.tobytes() for part in sites) == owner.published
    assert owner.ledger.oldest_base == last - DELTAS_KEPT
    with pytest.raises(KeyError):
        owner.ledger.delta(last - DELTAS_KEPT)


def test_every_delta_the_machine_may_send_is_at_hand(store):
    """Also while the next version is computed and not durable."""
    owner = Owner(store)
    for seq in range(1, 15):
        owner.accept(seq)
        book = owner.ledger.book
        owner.ledger.merge(merging(book.version + 1, book.accepted))
        for facts in book.history:
            assert owner.ledger.delta(facts.version)
        owner.merge()


def test_computing_a_merge_twice_changes_nothing(store):
    owner = Owner(store)
    contribution = owner.accept(1)
    action = merging(1, (contribution,))
    first = owner.ledger.merge(action)
    assert owner.ledger.merge(action) == first


@pytest.mark.parametrize("part", ["manifest", "fragment-0001"])
def test_a_damaged_snapshot_falls_back_to_the_one_before(store, part):
    owner = Owner(store)
    for seq in range(1, 9):
        owner.round(seq)
    store.flip(names(store, part)[-1], 40)
    again = Owner(store.after_kill())
    assert again.published == owner.published
    assert "snapshot_damaged" in again.events.kinds()


def test_all_snapshots_damaged_is_said(store):
    Owner(store).round(1)
    for path in names(store, "manifest"):
        store.flip(path, 40)
    with pytest.raises(CorruptError, match="no snapshot is whole") as caught:
        Owner(store.after_kill())
    assert caught.value.hint


def test_all_snapshots_gone_is_said(store):
    Owner(store).round(1)
    for path in names(store, "snapshots"):
        store.delete(path)
    with pytest.raises(CorruptError, match="gone"):
        Owner(store.after_kill())


def test_a_damaged_seed_is_said(store):
    Owner(store)
    store.flip(FOLDER / "seed", 0)
    with pytest.raises(CorruptError) as caught:
        Owner(store.after_kill())
    assert "seed" in str(caught.value)
    assert caught.value.hint


def test_a_torn_log_is_told_and_nothing_is_lost(store):
    owner = Owner(store)
    owner.round(1)
    store.append(names(store, "wal")[-1], b"half an ent")
    again = Owner(store.after_kill())
    assert again.published == owner.published
    assert "torn_log" in again.events.kinds()
    again.round(2)


@pytest.mark.parametrize("change", [{"lr": 0.5}, {"momentum": 0.5}, {"codec": "int4"}, {"block_size": 32}])
def test_another_outer_setting_is_said(store, change):
    Owner(store).round(1)
    with pytest.raises(CorruptError) as caught:
        Owner(store.after_kill(), msgspec.structs.replace(OUTER, **change))
    assert "outer" in (caught.value.hint or "") or "codec" in (caught.value.hint or "")


def test_a_full_disk_loses_nothing_that_was_acknowledged():
    room = 40_000
    store = MemoryStore(capacity_bytes=room)
    owner, acknowledged = Owner(store), []
    for seq in range(1, 200):
        try:
            owner.round(seq)
            acknowledged.append(seq)
        except StorageError:
            break
    else:
        pytest.fail("the disk never filled")
    assert acknowledged
    book, published = owner.ledger.book, owner.published
    again = Owner(store.after_kill())
    assert again.ledger.book == book
    assert again.ledger.book.merged_samples == 8 * len(acknowledged)
    store.capacity_bytes = None
    survivor = Owner(store.after_kill())
    if survivor.ledger.book.accepted:
        survivor.merge()
    else:
        assert survivor.published == published


def test_a_snapshot_that_finds_no_room_is_told_and_harms_nothing(store):
    owner = Owner(store)
    owner.round(1)
    store.capacity_bytes = 1
    owner.ledger.snapshot()
    assert owner.events.kinds()[-1] == "CheckpointFailed"
    store.capacity_bytes = None
    again = Owner(store.after_kill())
    assert again.published == owner.published


@pytest.mark.parametrize("seed", range(6))
def test_any_crash_loses_nothing_that_was_acknowledged(seed):
    """Power is cut at every operation of the disk in turn; what was said to be durable is there."""
    straight = Owner(MemoryStore())
    hashes = [straight.ledger.book.hash] + [straight.round(seq) for seq in range(1, 6)]
    total = straight.ledger._store.operations
    for crash_at in range(12 + seed, total, 6):
        store = MemoryStore(crash_at=crash_at, seed=crash_at)
        accepted = merged = 0
        try:
            owner = Owner(store)
            for seq in range(1, 6):
                owner.accept(seq)
                accepted = seq
                owner.merge()
                merged = seq
        except Crash:
            pass
        ledger = Ledger(FOLDER, OUTER, Events(), store.after_power_loss())
        if not ledger.seeded:
            assert accepted == 0
            continue
        book = ledger.book
        assert book.version >= merged
        assert book.version + len(book.accepted) >= accepted
        assert book.hash == hashes[book.version] or book.version == 0
        ledger.close()


def test_two_servers_do_not_write_one_folder(store):
    owner = Owner(store)
    with pytest.raises(StorageError, match="another process"):
        Owner(store)
    owner.ledger.close()
    Owner(store)


def test_damage_in_the_middle_of_the_log_is_said(store):
    owner = Owner(store, msgspec.structs.replace(OUTER, snapshot_every=100))
    for seq in range(1, 4):
        owner.round(seq)
    path = names(store, "wal")[0]
    store.flip(path, store.size(path) // 2)
    with pytest.raises(CorruptError) as caught:
        Owner(store.after_kill())
    assert "wal" in str(caught.value)
    assert caught.value.hint
