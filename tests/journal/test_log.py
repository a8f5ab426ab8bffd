import contextlib
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.errors import CorruptError, StorageError
from isthmus.journal.log import HEADER_BYTES, AppendLog, LogReader
from isthmus.journal.memory_store import Crash, MemoryStore
from isthmus.journal.store import DiskStore

ROOT = Path("/disk/log")


def bodies(log: AppendLog, index: int = 0) -> list[bytes]:
    return [bytes(record.body) for record in log.read(index)]


def body(number: int) -> bytes:
    return b"%d " % number * (1 + number % 7)


def test_records_come_back_in_order_over_segments(tmp_path: Path):
    log = AppendLog(DiskStore(), tmp_path / "log", segment_bytes=200)
    for number in range(20):
        assert log.append(body(number), memoryview(b"!"), sync=number % 3 == 0) == number
    log.close()
    assert len(list((tmp_path / "log").iterdir())) > 3
    again = AppendLog(DiskStore(), tmp_path / "log", segment_bytes=200)
    assert again.tail is None
    assert again.next_index == 20
    assert bodies(again) == [body(number) + b"!" for number in range(20)]
    assert [record.index for record in again.read(7)] == list(range(7, 20))


def test_truncation_keeps_the_index(tmp_path: Path):
    log = AppendLog(DiskStore(), tmp_path, segment_bytes=1)
    for number in range(5):
        log.append(body(number))
    log.truncate_before(3)
    assert [record.index for record in log.read()] == [3, 4]
    log.truncate_before(100)
    assert AppendLog(DiskStore(), tmp_path).next_index == 5


@pytest.mark.parametrize("cut", [1, 10, HEADER_BYTES - 1, HEADER_BYTES, HEADER_BYTES + 3])
def test_a_torn_tail_is_dropped_and_reported(cut: int):
    store = MemoryStore()
    log = AppendLog(store, ROOT)
    log.append(b"first")
    end = store.size(ROOT / f"{0:020d}.log")
    log.append(b"second")
    store.truncate(ROOT / f"{0:020d}.log", end + cut)
    again = AppendLog(store, ROOT)
    assert again.tail is not None
    assert (again.tail.offset, again.tail.dropped_bytes) == (end, cut)
    assert bodies(again) == [b"first"]
    again.append(b"other")
    assert bodies(again) == [b"first", b"other"]


def test_damage_before_acknowledged_records_is_corruption_wherever_the_bit_is():
    store = MemoryStore()
    log = AppendLog(store, ROOT)
    ends = [0]
    for number in range(4):
        log.append(body(number))
        ends.append(store.size(ROOT / f"{0:020d}.log"))
    for offset in range(ends[3]):
        store.flip(ROOT / f"{0:020d}.log", offset)
        damaged = max(end for end in ends if end <= offset)
        reader = LogReader(store, ROOT)
        with pytest.raises(CorruptError, match="middle") as caught:
            list(reader.read())
        assert caught.value.where == f"{ROOT / f'{0:020d}.log'}:{damaged}"
        assert caught.value.hint
        with pytest.raises(CorruptError):
            AppendLog(store, ROOT)
        store.flip(ROOT / f"{0:020d}.log", offset)


def test_damage_in_a_closed_segment_or_a_missing_one_is_corruption():
    store = MemoryStore()
    log = AppendLog(store, ROOT, segment_bytes=1)
    for number in range(3):
        log.append(body(number))
    closed = ROOT / f"{1:020d}.log"
    store.flip(closed, store.size(closed) - 1)
    with pytest.raises(CorruptError):
        bodies(AppendLog(store, ROOT))
    store.delete(closed)
    with pytest.raises(CorruptError, match="records 1 to 1 missing"):
        bodies(AppendLog(store, ROOT))


def test_a_full_disk_leaves_the_log_usable():
    store = MemoryStore(capacity_bytes=300)
    log = AppendLog(store, ROOT)
    stored = []
    for number in range(20):
        with contextlib.suppress(StorageError):
            log.append(body(number) * 3)
            stored.append(body(number) * 3)
    assert 2 < len(stored) < 20
    store.capacity_bytes = None
    log.append(b"more")
    assert bodies(AppendLog(store, ROOT)) == [*stored, b"more"]


class FailingSync(MemoryStore):
    failing = False

    def fsync(self, path: Path) -> None:
        if self.failing:
            raise StorageError("device failed")
        super().fsync(path)


@pytest.mark.parametrize("segment_bytes", [100, 10_000])
def test_a_failed_sync_drops_what_was_not_durable(segment_bytes: int):
    store = FailingSync()
    log = AppendLog(store, ROOT, segment_bytes)
    log.append(b"kept " * 30)
    store.failing = True
    for _ in range(2):
        with pytest.raises(StorageError):
            log.append(b"not stored")
    store.failing = False
    log.append(b"later")
    assert bodies(AppendLog(store, ROOT)) == [b"kept " * 30, b"later"]


def test_a_reader_follows_a_writer_through_segments(tmp_path: Path):
    log = AppendLog(DiskStore(), tmp_path, segment_bytes=300)
    reader = LogReader(DiskStore(), tmp_path)
    seen: list[int] = []
    assert list(reader.read()) == []
    for number in range(40):
        log.append(body(number), sync=False)
        if number % 5 == 0:
            seen += [record.index for record in reader.read()]
            assert seen[-1] == number
    seen += [record.index for record in reader.read()]
    assert seen == list(range(40))
    assert reader.torn == ""


def test_threads_share_the_log_and_its_syncs(tmp_path: Path):
    log = AppendLog(DiskStore(), tmp_path, segment_bytes=2000)
    reader = LogReader(DiskStore(), tmp_path)
    seen: list[bytes] = []

    def write(name: int):
        for number in range(50):
            log.append(b"%d:%d" % (name, number))

    threads = [threading.Thread(target=write, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        seen += [bytes(record.body) for record in reader.read()]
    seen += [bytes(record.body) for record in reader.read()]
    assert seen == bodies(AppendLog(DiskStore(), tmp_path))
    for name in range(4):
        assert [b for b in seen if b.startswith(b"%d:" % name)] == [b"%d:%d" % (name, n) for n in range(50)]


def test_large_buffers_are_written_whole(tmp_path: Path):
    log = AppendLog(DiskStore(), tmp_path)
    blob = memoryview(bytearray(b"0123456789abcdef" * (1 << 18)))
    log.append(b"head", *[blob] * 3)
    (record,) = log.read()
    assert record.body[:4] == b"head"
    assert record.body[4 + blob.nbytes : 4 + 2 * blob.nbytes] == blob


@settings(max_examples=150)
@given(
    st.lists(st.booleans(), min_size=1, max_size=12), st.integers(0, 60), st.integers(0, 2**16), st.booleans()
)
def test_after_a_crash_anywhere_the_log_is_a_prefix_with_all_that_was_acknowledged(
    syncs: list[bool], crash_at: int, seed: int, power: bool
):
    store = MemoryStore(crash_at=crash_at, seed=seed)
    acknowledged = 0
    try:
        log = AppendLog(store, ROOT, segment_bytes=150)
        for number, sync in enumerate(syncs):
            log.append(body(number), sync=sync)
            if sync:
                acknowledged = number + 1
    except Crash:
        pass
    found = store.after_power_loss() if power else store.after_kill()
    again = AppendLog(found, ROOT, segment_bytes=150)
    kept = bodies(again)
    assert kept == [body(number) for number in range(len(kept))]
    assert len(kept) >= acknowledged
    assert bodies(AppendLog(found.after_power_loss(), ROOT)) == kept
    again.append(b"next")
    assert bodies(AppendLog(found, ROOT)) == [*kept, b"next"]
