"""An append-only log of checksummed records in segments: one writer and any number of readers at once."""

import contextlib
import itertools
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec

from isthmus.errors import CorruptError, NotFoundError, StorageError
from isthmus.journal.segment import HEADER_BYTES, Record, Scan, pack_header, segment_path, segments
from isthmus.journal.store import Data, Store

_RESTORE = (
    "restore the folder from a copy; or move this segment and the later ones away to go back to before it"
)


class Tail(msgspec.Struct, frozen=True):
    """What opening a log cut off its end: `dropped_bytes` after `offset` in `path`."""

    path: Path
    offset: int
    dropped_bytes: int
    reason: str


def _corrupt(path: Path, offset: int, what: str) -> CorruptError:
    return CorruptError(f"{what} in the middle of the log", where=f"{path}:{offset}", hint=_RESTORE)


class LogReader:
    """Reads from record `index` on; `read` again later to get what was written in the meantime.

    Raises CorruptError (file and offset) for damage that is not merely a torn tail.
    """

    def __init__(self, store: Store, folder: Path, index: int = 0):
        self._store, self._folder = store, folder
        self._wanted = index
        self._scan: Scan | None = None
        self._first = -1

    @property
    def torn(self) -> str:
        """Why the last `read` stopped before the end of the bytes; '' if it did not."""
        return self._scan.stopped if self._scan else ""

    def read(self) -> Iterator[Record]:
        while self._scan is not None or self._enter():
            scan = self._scan
            assert scan is not None
            for record in scan:
                if record.index >= self._wanted:
                    self._wanted = record.index + 1
                    yield record
            if not self._next_segment(scan):
                return

    def _enter(self) -> bool:
        firsts = segments(self._store, self._folder)
        if not firsts:
            return False
        self._open(max([first for first in firsts if first <= self._wanted], default=firsts[0]))
        return True

    def _open(self, first: int) -> None:
        self._first = first
        self._scan = Scan(self._store, segment_path(self._folder, first), 0, first)

    def _next_segment(self, scan: Scan) -> bool:
        """Move on if there is a later segment. Bytes may have come after the scan: look twice."""
        later = [first for first in segments(self._store, self._folder) if first > self._first]
        path = segment_path(self._folder, self._first)
        if later and later[0] == scan.index:
            self._open(later[0])
            return True
        suspect = bool(later) or (scan.stopped.startswith("a damaged") and scan.acknowledged())
        if not suspect:
            return False
        if any(True for _ in Scan(self._store, path, scan.offset, scan.index)):
            return True
        raise _corrupt(path, scan.offset, scan.stopped or f"records {scan.index} to {later[0] - 1} missing")


class AppendLog:
    """The writer. Thread-safe; several threads that sync at once share one fsync.

    Args:
        folder: made if it is not there.
        first_index: of the first record, where there is no log yet.
        segment_bytes: a segment is closed when it has grown past this; a record is never split.

    Raises:
        CorruptError: acknowledged records of the last segment are damaged (earlier ones: when read).
    """

    def __init__(self, store: Store, folder: Path, segment_bytes: int = 64 << 20, first_index: int = 0):
        self.store, self.folder = store, folder
        self.tail: Tail | None = None
        self._segment_bytes = segment_bytes
        self._write_lock = threading.Lock()
        self._sync_lock = threading.Lock()
        self._rollbacks = 0
        store.make_folder(folder)
        firsts = segments(store, folder)
        self._first = firsts[-1] if firsts else first_index
        self._end, self._index = self._recover() if firsts else (0, first_index)
        self._named = bool(firsts)
        self._cut_needed = False
        self._durable_end, self._durable_index = self._end, self._index

    @property
    def next_index(self) -> int:
        return self._index

    @property
    def _path(self) -> Path:
        return segment_path(self.folder, self._first)

    def _recover(self) -> tuple[int, int]:
        scan = Scan(self.store, self._path, 0, self._first)
        for _ in scan:
            pass
        if scan.stopped:
            if scan.acknowledged():
                raise _corrupt(self._path, scan.offset, scan.stopped)
            dropped = self.store.size(self._path) - scan.offset
            self.tail = Tail(self._path, scan.offset, dropped, scan.stopped)
            self.store.truncate(self._path, scan.offset)
        self.store.fsync(self._path)
        self.store.fsync(self.folder)
        return scan.offset, scan.index

    def append(self, *buffers: Data, sync: bool = True) -> int:
        """Add one record made of the buffers, without copying them; returns its index.

        With `sync` it is durable on return. Raises StorageError; then the record is not in the log, and the
        log stays usable.
        """
        self._roll_if_full()
        with self._write_lock:
            self._cut()
            index, rollbacks = self._index, self._rollbacks
            header = pack_header(index, index - self._durable_index, buffers)
            try:
                self.store.append(self._path, header, *buffers)
            except StorageError:
                self._cut_needed = True
                with contextlib.suppress(StorageError):
                    self._cut()
                raise
            self._end += HEADER_BYTES + sum(memoryview(buffer).nbytes for buffer in buffers)
            self._index += 1
        if sync:
            self._sync_up_to(index, rollbacks)
        return index

    def sync(self) -> None:
        """Make all records durable. Raises StorageError; then those not durable before are gone."""
        with self._write_lock:
            last, rollbacks = self._index - 1, self._rollbacks
        self._sync_up_to(last, rollbacks)

    def _sync_up_to(self, index: int, rollbacks: int) -> None:
        with self._sync_lock:
            if self._rollbacks != rollbacks:
                raise StorageError(
                    "a disk sync failed", where=str(self._path), hint="the record was not stored"
                )
            if self._durable_index > index:
                return
            with self._write_lock:
                end, upper = self._end, self._index
            try:
                self._fsync()
            except StorageError:
                with self._write_lock:
                    self._roll_back()
                raise
            with self._write_lock:
                self._durable_end, self._durable_index = end, upper

    def _fsync(self) -> None:
        """Only under the sync lock, which also keeps the segment from being rolled."""
        self.store.fsync(self._path)
        if not self._named:
            self.store.fsync(self.folder)
            self._named = True

    def _roll_back(self) -> None:
        """After a failed sync nothing is known about the bytes since the last good one: drop them."""
        self._rollbacks += 1
        self._index, self._end = self._durable_index, self._durable_end
        self._cut_needed = True
        with contextlib.suppress(StorageError):
            self._cut()

    def _cut(self) -> None:
        """Remove what a failed append or sync left. Raises StorageError; the next append tries again."""
        if self._cut_needed:
            with contextlib.suppress(NotFoundError):
                self.store.truncate(self._path, self._end)
            self._cut_needed = False

    def _roll_if_full(self) -> None:
        """Close the segment, durably: damage in a closed one is always corruption, never a torn tail."""
        if self._end < self._segment_bytes:
            return
        with self._sync_lock, self._write_lock:
            if self._end < self._segment_bytes:
                return
            try:
                self._cut()
                self._fsync()
            except StorageError:
                self._roll_back()
                raise
            self._first, self._end, self._named = self._index, 0, False
            self._durable_end, self._durable_index = 0, self._index

    def truncate_before(self, index: int) -> None:
        """Delete the segments all of whose records are below `index`."""
        firsts = segments(self.store, self.folder)
        for first, following in itertools.pairwise(firsts):
            if following <= index:
                self.store.delete(segment_path(self.folder, first))
        self.store.fsync(self.folder)

    def read(self, index: int = 0) -> Iterator[Record]:
        """Records from `index` on. Raises CorruptError."""
        return LogReader(self.store, self.folder, index).read()

    def close(self) -> None:
        """Sync what is not yet durable. Raises StorageError."""
        self.sync()
