import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from isthmus.errors import NotFoundError, StorageError
from isthmus.journal.memory_store import Crash, MemoryStore
from isthmus.journal.store import DiskStore, Store

ROOT = Path("/disk")


@pytest.fixture(params=["disk", "memory"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Store, Path]:
    return (DiskStore(), tmp_path) if request.param == "disk" else (MemoryStore(), ROOT)


def test_what_is_written_is_read(disk: tuple[Store, Path]):
    store, folder = disk
    store.make_folder(folder / "a" / "b")
    path = folder / "a" / "b" / "file"
    store.append(path, b"one ", memoryview(b"two "))
    store.append(path, *[b"%d" % digit for digit in range(10)] * 120)
    store.fsync(path)
    store.fsync(path.parent)
    assert bytes(store.read(path)) == b"one two " + b"0123456789" * 120
    assert bytes(store.read(path, 4, 3)) == b"two"
    assert bytes(store.read(path, 1205, 100)) == b"789"
    assert store.size(path) == 1208
    store.truncate(path, 3)
    assert bytes(store.read(path)) == b"one"
    store.write_atomic(path, b"whole ", b"new")
    store.write_atomic(path.with_name("other"), b"")
    assert bytes(store.read(path)) == b"whole new"
    assert store.list(path.parent) == ["file", "other"]
    store.delete(path)
    assert store.list(path.parent) == ["other"]
    assert store.list(folder / "nowhere") == []


def test_missing_names_are_not_found(disk: tuple[Store, Path]):
    store, folder = disk
    for operation in (store.read, store.size):
        with pytest.raises(NotFoundError):
            operation(folder / "none")
    with pytest.raises(NotFoundError):
        store.truncate(folder / "none", 0)


def test_a_refusal_names_file_and_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(descriptor: int, buffers: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    store, path = DiskStore(), tmp_path / "file"
    store.write_atomic(path, b"old")
    monkeypatch.setattr(os, "writev", full)
    with pytest.raises(StorageError) as caught:
        store.write_atomic(path, b"new")
    assert caught.value.where == str(path)
    assert "free some space" in str(caught.value.hint)
    assert bytes(store.read(path)) == b"old"
    assert os.listdir(tmp_path) == ["file"]


TRY_LOCK = """
import sys
from pathlib import Path
from isthmus.journal.store import DiskStore
with DiskStore().lock(Path(sys.argv[1])):
    print("locked")
"""


def test_two_processes_do_not_write_in_one_folder(tmp_path: Path):
    command = [sys.executable, "-c", TRY_LOCK, str(tmp_path)]
    with DiskStore().lock(tmp_path):
        second = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "stop the other one" in second.stderr
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "locked\n"


def test_a_full_memory_disk_keeps_what_fits():
    store = MemoryStore(capacity_bytes=10)
    store.append(ROOT / "a", b"12345678")
    with pytest.raises(StorageError):
        store.append(ROOT / "a", b"1234")
    assert store.size(ROOT / "a") == 10
    with pytest.raises(StorageError):
        store.write_atomic(ROOT / "b", b"1")
    assert store.list(ROOT) == ["a"]


def test_power_loss_keeps_what_was_synced_and_any_part_of_the_rest():
    seen = set()
    for seed in range(60):
        store = MemoryStore(seed=seed)
        store.append(ROOT / "a", b"synced")
        store.fsync(ROOT / "a")
        store.fsync(ROOT)
        store.append(ROOT / "a", b" rest")
        store.append(ROOT / "b", b"unnamed")
        found = store.after_power_loss()
        assert bytes(found.read(ROOT / "a", 0, 6)) == b"synced"
        seen.add((bytes(found.read(ROOT / "a", 6)), tuple(found.list(ROOT))))
    assert {tail for tail, _ in seen} >= {b"", b" rest"}
    assert any(b"\0" in tail for tail, _ in seen)
    assert {names for _, names in seen} == {("a",), ("a", "b")}


def test_atomic_write_is_old_or_new_at_every_crash_point():
    outcomes = set()
    for crash_at in range(8):
        for seed in range(5):
            store = MemoryStore(crash_at=crash_at, seed=seed)
            done = b"old"
            try:
                store.write_atomic(ROOT / "a", b"old")
                store.write_atomic(ROOT / "a", b"new")
                done = b"new"
            except Crash:
                pass
            found = store.after_power_loss()
            content = bytes(found.read(ROOT / "a")) if found.list(ROOT) else b""
            assert content == b"new" if done == b"new" else content in (b"", b"old", b"new")
            if crash_at >= 4:
                assert content != b""
            outcomes.add(content)
    assert outcomes == {b"", b"old", b"new"}
