import os
import random
import signal
from pathlib import Path

import numpy as np
import pytest

from isthmus.errors import CorruptError, StorageError
from isthmus.journal.memory_store import Crash, MemoryStore
from isthmus.journal.store import DiskStore, Store
from isthmus.outer.layout import build_layout
from isthmus.outer.merge import MasterState, Push, Rule, merge, publish
from isthmus.outer.snapshot import Snapshots
from isthmus.outer.wal import Wal
from isthmus.outer.weights import Share
from isthmus.wire import codecs

ROOT = Path("/disk")
LAYOUT = build_layout([("a", (9,)), ("expert", (5,))], {"expert": 0}, 2)
F32 = np.float32


def start() -> MasterState:
    return MasterState.from_flat(LAYOUT, np.arange(LAYOUT.size, dtype=F32))


def payloads(number: int) -> list[np.ndarray]:
    d = np.random.default_rng(number).normal(size=LAYOUT.size).astype(F32)
    return [codecs.encode("int8", view, 4) for view in LAYOUT.views(d)]


def step(state: MasterState, number: int, parts: list[np.ndarray]) -> None:
    share = Share(site="a", tokens=1, group_tokens=(number % 2,))
    merge(state, [Push(share, parts)], Rule(block=4, share=0.4 if number % 3 else 1.0))
    publish(state, "int4", 4)


def content(state: MasterState) -> tuple:
    arrays = (state.master, state.momentum, state.published, state.waiting)
    flat = tuple(np.concatenate(array).tobytes() for array in arrays)
    return state.version, state.progress, state.usual_tokens, state.touched.tolist(), flat


def expected(count: int) -> list[tuple]:
    """What the server holds after 0, 1, ... count entries."""
    state, seen = start(), [content(start())]
    for number in range(count):
        step(state, number, payloads(number))
        seen.append(content(state))
    return seen


EXPECTED = expected(40)


class Disk:
    """A small server: every entry is merged at once, every fourth is followed by a snapshot."""

    def __init__(self, store: Store, folder: Path):
        self.snapshots = Snapshots(store, folder / "snapshots", keep=2)
        loaded = self.snapshots.load()
        self.state, entry = (loaded.state, loaded.entry) if loaded else (start(), -1)
        self.skipped = loaded.skipped if loaded else []
        self.wal = Wal(store, folder / "wal", segment_bytes=300, first_index=entry + 1)
        for index, record, parts in self.wal.replay(entry):
            assert record == b"%d" % index
            step(self.state, index, parts)
        self.done = self.wal.next_index

    def advance(self) -> int:
        parts = payloads(self.done)
        self.wal.append(b"%d" % self.done, parts)
        step(self.state, self.done, parts)
        self.done += 1
        return self.done

    def snapshot(self) -> None:
        self.wal.truncate_before(self.snapshots.save(self.state, b"%d" % self.done, self.done - 1))


def test_a_snapshot_brings_everything_back(tmp_path: Path):
    for count in range(6):
        state = start()
        for number in range(count):
            step(state, number, payloads(number))
        snapshots = Snapshots(DiskStore(), tmp_path / str(count))
        assert snapshots.load() is None
        assert snapshots.save(state, b"protocol", count - 1) == count
        loaded = Snapshots(DiskStore(), tmp_path / str(count)).load()
        assert loaded is not None
        assert (loaded.protocol, loaded.entry, loaded.skipped) == (b"protocol", count - 1, [])
        assert content(loaded.state) == EXPECTED[count]
        step(loaded.state, count, payloads(count))
        assert content(loaded.state) == EXPECTED[count + 1]


def test_the_last_ones_are_kept_and_the_rest_deleted():
    store = MemoryStore()
    snapshots = Snapshots(store, ROOT, keep=2)
    assert [snapshots.save(start(), b"", entry) for entry in range(5)] == [1, 1, 2, 3, 4]
    assert [name[:8] for name in store.list(ROOT)] == ["00000004"] * 3 + ["00000005"] * 3


def test_the_log_is_kept_for_payloads_that_a_kept_snapshot_waits_for():
    snapshots = Snapshots(MemoryStore(), ROOT, keep=2)
    wanted = [(10, 7), (20, 21), (30, 25), (40, 41)]
    assert [snapshots.save(start(), b"", *pair) for pair in wanted] == [7, 7, 21, 25]


@pytest.mark.parametrize("victim", ["00000003-manifest", "00000003-fragment-0001"])
def test_a_damaged_snapshot_is_skipped_and_named(victim: str):
    store = MemoryStore()
    snapshots = Snapshots(store, ROOT)
    for entry in range(3):
        snapshots.save(start(), b"%d" % entry, entry)
    store.flip(ROOT / victim, 20)
    loaded = snapshots.load()
    assert loaded is not None
    assert loaded.protocol == b"1"
    assert loaded.skipped == [f"{ROOT / victim}: does not match its checksum"]
    for number in (1, 2):
        store.flip(ROOT / f"{number:08d}-manifest", 100)
    with pytest.raises(CorruptError, match="no snapshot is whole"):
        snapshots.load()


def test_a_full_disk_harms_no_earlier_snapshot():
    store = MemoryStore()
    snapshots = Snapshots(store, ROOT)
    snapshots.save(start(), b"good", 0)
    names = store.list(ROOT)
    for room in range(0, 1000, 50):
        store.capacity_bytes = sum(store.size(ROOT / name) for name in names) + room
        with pytest.raises(StorageError, match="no space"):
            snapshots.save(start(), b"x" * 600, 1)
        assert store.list(ROOT) == names
    loaded = snapshots.load()
    assert loaded is not None
    assert loaded.protocol == b"good"


def run(store: MemoryStore) -> int:
    """Acknowledged entries when the machine stopped."""
    acknowledged = 0
    try:
        server = Disk(store, ROOT)
        while server.done < 13:
            acknowledged = server.advance()
            if server.done % 4 == 0:
                server.snapshot()
    except Crash:
        pass
    return acknowledged


def test_crash_at_every_operation():
    whole = MemoryStore()
    assert run(whole) == 13
    assert whole.operations > 80
    for crash_at in range(whole.operations):
        for seed in range(3):
            store = MemoryStore(crash_at=crash_at, seed=seed)
            acknowledged = run(store)
            found = store.after_kill() if seed == 0 else store.after_power_loss()
            server = Disk(found, ROOT)
            assert server.done >= acknowledged, (crash_at, seed)
            assert content(server.state) == EXPECTED[server.done], (crash_at, seed)
            server.advance()
            server.snapshot()
            assert content(server.state) == EXPECTED[server.done]


def test_a_damaged_newest_snapshot_is_made_up_for_by_the_log():
    store = MemoryStore()
    assert run(store) == 13
    newest = max(store.list(ROOT / "snapshots"))
    store.flip(ROOT / "snapshots" / newest, 30)
    server = Disk(store.after_kill(), ROOT)
    assert len(server.skipped) == 1
    assert server.done == 13
    assert content(server.state) == EXPECTED[13]


def _serve_for_ever(folder: Path, acknowledge: int) -> None:
    server = Disk(DiskStore(), folder)
    while server.done < 39:
        os.write(acknowledge, b"%d\n" % server.advance())
        if server.done % 3 == 0:
            server.snapshot()


def test_kill_9_at_any_instant(tmp_path: Path):
    rng = random.Random(0)
    codecs.warm_up()
    for _ in range(20):
        reading, acknowledge = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                _serve_for_ever(tmp_path, acknowledge)
            finally:
                os._exit(1)
        os.close(acknowledge)
        with os.fdopen(reading, "rb") as lines:
            for _ in range(rng.randint(0, 3)):
                lines.readline()
            for _ in range(rng.randint(0, 30_000)):
                pass
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            acknowledged = [int(line) for line in lines.read().split()]
        server = Disk(DiskStore(), tmp_path)
        assert server.done >= max(acknowledged, default=0)
        assert content(server.state) == EXPECTED[server.done]
        server.wal.close()
