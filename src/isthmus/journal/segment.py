"""One segment of an append-only log: how its records are written, and how they are told from damage.

A segment is named after its first record's index. A record is a header and its body:

    magic 4 | lag u32 | length u64 | index u64 | xxh3_64(body) u64 | xxh3_64(header so far) u64 | body

`lag` says how many of the records before this one were not known to be durable when it was written. So a
damaged record is told apart from a torn tail: what a later record vouches for was acknowledged, damage to it
is corruption.
"""

import re
import struct
from collections.abc import Iterator
from pathlib import Path

import msgspec
import xxhash

from isthmus.journal.store import Data, Store

_MAGIC = b"\xa5iRL"
_FIELDS = struct.Struct("<4sIQQQ")
_CHECK = struct.Struct("<Q")
HEADER_BYTES = _FIELDS.size + _CHECK.size
_WINDOW_BYTES = 1 << 20
_MAX_LAG = 2**32 - 1


class Record(msgspec.Struct, frozen=True):
    index: int
    body: memoryview


class _Header(msgspec.Struct, frozen=True):
    lag: int
    length: int
    index: int
    body_check: int


def pack_header(index: int, lag: int, buffers: tuple[Data, ...]) -> bytes:
    digest = xxhash.xxh3_64()
    length = 0
    for buffer in buffers:
        digest.update(buffer)
        length += memoryview(buffer).nbytes
    fields = _FIELDS.pack(_MAGIC, min(lag, _MAX_LAG), length, index, digest.intdigest())
    return fields + _CHECK.pack(xxhash.xxh3_64_intdigest(fields))


def _unpack_header(data: memoryview) -> _Header | None:
    """None if these bytes are no header of ours."""
    magic, lag, length, index, body_check = _FIELDS.unpack_from(data)
    (check,) = _CHECK.unpack_from(data, _FIELDS.size)
    if magic != _MAGIC or check != xxhash.xxh3_64_intdigest(data[: _FIELDS.size]):
        return None
    return _Header(lag, length, index, body_check)


def segments(store: Store, folder: Path) -> list[int]:
    """First indices, sorted."""
    return [int(name[:-4]) for name in store.list(folder) if name.endswith(".log") and name[:-4].isdigit()]


def segment_path(folder: Path, first: int) -> Path:
    return folder / f"{first:020d}.log"


class Scan:
    """Walks one segment's records from `offset`; `stopped` says why it ended, '' for the clean end."""

    def __init__(self, store: Store, path: Path, offset: int, index: int):
        self._store, self._path = store, path
        self.offset, self.index = offset, index
        self.stopped = ""
        self._window = memoryview(b"")
        self._window_at = offset

    def _bytes(self, offset: int, size: int) -> memoryview:
        start = offset - self._window_at
        if start < 0 or start + size > self._window.nbytes:
            self._window = self._store.read(self._path, offset, max(size, _WINDOW_BYTES))
            self._window_at, start = offset, 0
        return self._window[start : start + size]

    def __iter__(self) -> Iterator[Record]:
        self.stopped = ""
        self._window = self._window[:0]
        while True:
            head = self._bytes(self.offset, HEADER_BYTES)
            if head.nbytes < HEADER_BYTES:
                self.stopped = "half a header" if head.nbytes else ""
                return
            header = _unpack_header(head)
            if header is None or header.index != self.index:
                self.stopped = "a damaged header"
                return
            body = self._bytes(self.offset + HEADER_BYTES, header.length)
            if body.nbytes < header.length:
                self.stopped = "half a record"
                return
            if xxhash.xxh3_64_intdigest(body) != header.body_check:
                self.stopped = "a damaged record"
                return
            self.offset += HEADER_BYTES + header.length
            self.index += 1
            yield Record(header.index, body)

    def acknowledged(self) -> bool:
        """Whether a later header in this segment vouches for the record at which the scan stopped."""
        rest = self._store.read(self._path, self.offset)
        for match in re.finditer(re.escape(_MAGIC), rest):
            candidate = rest[match.start() : match.start() + HEADER_BYTES]
            header = _unpack_header(candidate) if candidate.nbytes == HEADER_BYTES else None
            if header and header.index - header.lag > self.index:
                return True
        return False
