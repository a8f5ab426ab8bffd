"""The server's write-ahead log: protocol records with the payloads they name, durable before anybody is told.

An entry is `count u32 | record length u32 | payload lengths u64... | record | payloads`, each of these padded
to 8 bytes, so that payloads read back are aligned. Checksums, segments and torn tails are `journal.log`'s.
"""

import contextlib
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from isthmus.errors import CorruptError
from isthmus.journal.log import AppendLog, LogReader, Tail
from isthmus.journal.segment import segment_path, segments
from isthmus.journal.store import Store

Octets = NDArray[np.uint8]

_HEAD = struct.Struct("<II")
_ALIGN = 8
SEGMENT_BYTES = 256 << 20
_REMEDY = (
    "restore this folder from a copy or from the standby; or move it away: the server then goes back to its "
    "newest snapshot, and what was merged since is trained again"
)


class Entry(NamedTuple):
    number: int
    """What the log calls its index."""
    record: bytes
    payloads: list[Octets]


class Wal:
    """Thread-safe; threads that append at once share one fsync. One process at a time, enforced by a lock.

    Args:
        first_index: of the next entry, where the folder holds no log (it was moved away).

    Raises:
        CorruptError: acknowledged entries are damaged; names file, offset and remedy.
        StorageError: another process writes here, or the disk refuses.
    """

    def __init__(self, store: Store, folder: Path, segment_bytes: int = SEGMENT_BYTES, first_index: int = 0):
        self._reader: LogReader | None = None
        self._read_to = 0
        store.make_folder(folder)
        self._held = contextlib.ExitStack()
        self._held.enter_context(store.lock(folder))
        try:
            with _remedied():
                self._log = AppendLog(store, folder, segment_bytes, first_index)
        except BaseException:
            self._held.close()
            raise

    @property
    def tail(self) -> Tail | None:
        """What a crash left half-written at the end, and opening cut off: never anything acknowledged."""
        return self._log.tail

    @property
    def next_index(self) -> int:
        return self._log.next_index

    @property
    def first_index(self) -> int:
        """Of the oldest entry that is still there."""
        firsts = segments(self._log.store, self._log.folder)
        return firsts[0] if firsts else self.next_index

    def segments(self, index: int) -> list[Path]:
        """The files that hold the entries from `index` on, in order."""
        firsts = segments(self._log.store, self._log.folder)
        last_before = max((first for first in firsts if first <= index), default=0)
        return [segment_path(self._log.folder, first) for first in firsts if first >= last_before]

    def append(self, record: bytes, payloads: Sequence[NDArray] = (), *, sync: bool = True) -> int:
        """Add one entry, without copying its payloads (contiguous arrays of any type); returns its index.

        With `sync` it is durable on return. Raises StorageError; then the entry is not in the log, and the
        log stays usable.
        """
        lengths = struct.pack(f"<{len(payloads)}Q", *(payload.nbytes for payload in payloads))
        head = _HEAD.pack(len(payloads), len(record)) + lengths + record
        buffers: list[bytes | memoryview] = [head, bytes(-len(head) % _ALIGN)]
        for payload in payloads:
            buffers += [payload.data.cast("B"), bytes(-payload.nbytes % _ALIGN)]
        return self._log.append(*buffers, sync=sync)

    def sync(self) -> None:
        """Make durable what was appended without. Raises StorageError; then those entries are gone."""
        self._log.sync()

    def replay(self, after: int = -1) -> Iterator[Entry]:
        """Entries above index `after`, in order. Raises CorruptError, also where the first is missing."""
        wanted, end = after + 1, self._log.next_index
        with _remedied():
            for index, body in ((record.index, record.body) for record in self._log.read(wanted)):
                if index != wanted:
                    raise CorruptError(
                        f"the log begins with entry {index}; {wanted} is wanted", where=self._where
                    )
                wanted += 1
                yield _entry(index, body)
            if wanted < end or after + 1 > end:
                reason = (
                    f"the log ends before entry {min(wanted, end)}, but {max(end - 1, after)} was written"
                )
                raise CorruptError(reason, where=self._where)

    def read(self, start: int, end: int, max_bytes: int) -> list[Entry]:
        """Entries from `start` on, below `end`, until they have `max_bytes`; at least one if there is one.

        Quick where the last call ended. Raises CorruptError, also where the first is missing.
        """
        if self._reader is None or self._read_to != start:
            self._reader, self._read_to = LogReader(self._log.store, self._log.folder, start), start
        entries: list[Entry] = []
        held = 0
        if start < end:
            with _remedied():
                for index, body in ((record.index, record.body) for record in self._reader.read()):
                    if index != self._read_to:
                        raise CorruptError(f"the log begins with entry {index}", where=self._where)
                    entries.append(_entry(index, body))
                    self._read_to += 1
                    held += body.nbytes
                    if self._read_to >= end or held >= max_bytes:
                        break
        return entries

    @property
    def _where(self) -> str:
        return str(self._log.folder)

    def truncate_before(self, index: int) -> None:
        """Delete whole segments below `index`: what the oldest snapshot worth going back to holds."""
        self._log.truncate_before(index)

    def close(self) -> None:
        """Raises StorageError if the last entries could not be synced."""
        with self._held:
            self._log.close()


@contextlib.contextmanager
def _remedied() -> Iterator[None]:
    try:
        yield
    except CorruptError as error:
        raise CorruptError(error.message, where=error.where, hint=_REMEDY) from error


def _entry(index: int, body: memoryview) -> Entry:
    count, length = _HEAD.unpack_from(body)
    sizes = struct.unpack_from(f"<{count}Q", body, _HEAD.size)
    at = _HEAD.size + 8 * count
    record = bytes(body[at : at + length])
    at += length
    octets = np.frombuffer(body, np.uint8)
    payloads: list[Octets] = []
    for size in sizes:
        at += -at % _ALIGN
        payloads.append(octets[at : at + size])
        at += size
    return Entry(index, record, payloads)
