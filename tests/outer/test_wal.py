import os
import random
import signal
from pathlib import Path

import numpy as np
import pytest

from isthmus.errors import CorruptError, StorageError
from isthmus.journal.memory_store import MemoryStore
from isthmus.journal.store import DiskStore, Store
from isthmus.outer.wal import Wal

ROOT = Path("/disk/wal")


def payloads(number: int) -> list[np.ndarray]:
    rng = np.random.default_rng(number)
    return [rng.integers(0, 256, size, np.uint8) for size in rng.integers(0, 300, number % 4)]


def fill(wal: Wal, count: int, first: int = 0) -> None:
    for number in range(first, first + count):
        assert wal.append(b"record %d" % number, payloads(number)) == number


def check(wal: Wal, after: int = -1) -> int:
    """Entries replayed; each as it was written."""
    number = after
    for number, entry in enumerate(wal.replay(after), after + 1):
        assert entry.number == number
        assert entry.record == b"record %d" % number
        assert len(entry.payloads) == number % 4
        for got, wanted in zip(entry.payloads, payloads(number), strict=True):
            assert got.ctypes.data % 8 == 0
            assert np.array_equal(got, wanted)
    return number - after


@pytest.mark.parametrize("segment_bytes", [1, 2000, 1 << 20])
def test_entries_and_payloads_come_back(tmp_path: Path, segment_bytes: int):
    wal = Wal(DiskStore(), tmp_path, segment_bytes)
    fill(wal, 25)
    assert check(wal) == 25
    wal.close()
    again = Wal(DiskStore(), tmp_path, segment_bytes)
    assert (again.next_index, again.tail) == (25, None)
    assert check(again, after=10) == 14
    fill(again, 5, first=25)
    again.truncate_before(12)
    assert check(again, after=11) == 18


def test_float_payloads_are_stored_as_bytes(tmp_path: Path):
    wal = Wal(DiskStore(), tmp_path)
    x = np.arange(1000, dtype=np.float32)
    wal.append(b"", [x, x.view(np.uint8)[:7]])
    (entry,) = wal.replay()
    assert np.array_equal(entry.payloads[0].view(np.float32), x)
    assert entry.payloads[1].tobytes() == x.tobytes()[:7]


def test_a_torn_entry_is_cut_off_and_reported():
    store = MemoryStore()
    fill(Wal(store, ROOT), 5)
    segment = ROOT / f"{0:020d}.log"
    store.truncate(segment, store.size(segment) - 3)
    wal = Wal(store.after_kill(), ROOT)
    assert wal.tail is not None
    assert wal.tail.path == segment
    assert check(wal) == 4


def test_damage_in_the_middle_names_file_offset_and_remedy():
    store = MemoryStore()
    fill(Wal(store, ROOT), 8)
    segment = ROOT / f"{0:020d}.log"
    for offset in range(0, store.size(segment) // 2, 37):
        store.flip(segment, offset)
        with pytest.raises(CorruptError) as caught:
            Wal(store.after_kill(), ROOT)
        assert str(caught.value.where).startswith(f"{segment}:")
        assert "newest snapshot" in str(caught.value.hint)
        store.flip(segment, offset)
    assert check(Wal(store.after_kill(), ROOT)) == 8


def test_a_log_that_does_not_join_its_snapshot_is_refused():
    store = MemoryStore()
    wal = Wal(store, ROOT, segment_bytes=1)
    fill(wal, 6)
    wal.truncate_before(4)
    with pytest.raises(CorruptError, match="begins with entry 4; 2 is wanted"):
        check(wal, after=1)
    with pytest.raises(CorruptError, match="ends before entry 6, but 9 was written"):
        check(wal, after=9)


def test_a_log_that_was_moved_away_goes_on_where_the_snapshot_ends():
    wal = Wal(MemoryStore(), ROOT, first_index=10)
    assert check(wal, after=9) == 0
    fill(wal, 3, first=10)
    assert check(wal, after=9) == 3


def test_a_full_disk_refuses_and_loses_nothing():
    store = MemoryStore(capacity_bytes=2500)
    wal = Wal(store, ROOT)
    count = 0
    while not count or store.size(ROOT / f"{0:020d}.log") < 1500:
        fill(wal, 1, first=count)
        count += 1
    with pytest.raises(StorageError, match="no space"):
        wal.append(bytes(1000))
    store.capacity_bytes = None
    fill(wal, 3, first=count)
    assert check(Wal(store.after_kill(), ROOT)) == count + 3


def test_two_servers_do_not_share_a_log():
    store = MemoryStore()
    wal = Wal(store, ROOT)
    with pytest.raises(StorageError, match="another process"):
        Wal(store, ROOT)
    wal.close()
    Wal(store, ROOT).close()


def _append_for_ever(store: Store, folder: Path, acknowledge: int) -> None:
    wal = Wal(store, folder, segment_bytes=5000)
    while True:
        index = wal.next_index
        fill(wal, 1, first=index)
        os.write(acknowledge, b"%d\n" % index)


def test_kill_9_at_any_instant_loses_nothing_acknowledged(tmp_path: Path):
    rng = random.Random(1)
    known = 0
    for _ in range(25):
        reading, acknowledge = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                _append_for_ever(DiskStore(), tmp_path, acknowledge)
            finally:
                os._exit(1)
        os.close(acknowledge)
        with os.fdopen(reading, "rb") as lines:
            for _ in range(rng.randint(0, 6)):
                lines.readline()
            for _ in range(rng.randint(0, 20_000)):
                pass
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            acknowledged = [int(line) for line in lines.read().split()]
        wal = Wal(DiskStore(), tmp_path, segment_bytes=5000)
        count = check(wal)
        assert count == wal.next_index
        assert count > max(acknowledged, default=-1)
        assert count >= known
        known = count
        wal.close()
    assert known > 25
