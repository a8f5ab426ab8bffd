"""A copy of a rank's state in its node's memory, which outlives the process that writes it.

One file in the agent's folder (a memory file system), mapped: a header, then two slots that are written in
turn. A slot is sealed last, with its step and a checksum of all that is in it, and its seal is broken before
it is written again: whenever the writer is killed, the other slot is whole. No torch here.

    header   magic, size of a slot, identity of run and layout, checksum | last step done
    slot     seal: magic, step, sizes, XXH3-128, checksum of the seal | facts | arrays, one after the other
"""

import contextlib
import mmap
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import xxhash

from isthmus.errors import StorageError
from isthmus.weights.tensorfile import Arrays

MEMORY = Path("/dev/shm")
"""Where copies may be: on a disk they would be written out at every step."""
HEADROOM = 64 << 20
"""Bytes that are left free, with a tenth of what is free: for the pages of other ranks, for loaders."""
FACTS_BYTES = 1 << 20
"""At most, of what is kept beside the arrays."""

_PAGE = 4096
_CHUNK = 1 << 20
"""Bytes that are copied and then hashed while they are in the cache."""
_ALIGN = 64
_MAGIC = b"isthcopy"
_HEADER = struct.Struct("<8sQ16s16sQ")
_SEAL = struct.Struct("<8sqQQ16sQ")
_DONE = struct.Struct("<qq")
_DONE_AT = 2048


class Shard(msgspec.Struct, frozen=True, kw_only=True):
    """Whose part of the state a copy is. With data parallelism each rank has the whole: part 0 of 1."""

    owner: int = 0
    """Rank."""
    index: int = 0
    of: int = 1


class Entry(msgspec.Struct, frozen=True):
    dtype: str
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        return np.dtype(self.dtype).itemsize * int(np.prod(self.shape, dtype=np.int64))


Layout = dict[str, Entry]


def layout_of(arrays: Arrays) -> Layout:
    return {name: Entry(array.dtype.str, array.shape) for name, array in arrays.items()}


def neighbour(rank: int, world_size: int, ranks_per_node: int) -> int:
    """The rank that keeps a copy of this one's shard: at the same place on the next node. Itself, where there
    is one node. A last node with fewer ranks has its last one stand in for those it lacks. For `shard_copies`
    alone, which no run uses yet.
    """
    num_nodes = -(-world_size // ranks_per_node)
    node, place = divmod(rank, ranks_per_node)
    return min((node + 1) % num_nodes * ranks_per_node + place, world_size - 1) if num_nodes > 1 else rank


@dataclass(frozen=True)
class Found:
    """A sealed slot. The arrays are views of the file: gone with the next `save` but one."""

    step: int
    facts: bytes
    arrays: dict[str, np.ndarray]


class PeerCopy:
    """Owns the file and its mapping. One process writes; another may read once that one is dead.

    Args:
        folder: private to this user, in a memory file system.
        run: what tells this run, model and data from others.
        layout: names, types and shapes of what is copied.
    """

    def __init__(self, folder: Path, run: bytes, layout: Layout, shard: Shard = Shard()):  # noqa: B008
        self.path = folder / f"state-{shard.owner}-{shard.index}-of-{shard.of}.copy"
        self.layout = layout
        self._identity = (
            xxhash.xxh3_128_digest(run + msgspec.msgpack.encode(shard)),
            xxhash.xxh3_128_digest(msgspec.msgpack.encode(layout)),
        )
        self.body_bytes = sum(_padded(entry.num_bytes) for entry in layout.values())
        self.slot_bytes = _page_up(_PAGE + FACTS_BYTES + self.body_bytes)
        self.size = _PAGE + 2 * self.slot_bytes
        self._map: mmap.mmap | None = None
        self._bytes = np.empty(0, np.uint8)

    def open(self) -> None:
        """Make the file, or take it over from the process before, and fault its pages in. Raises StorageError
        where it does not fit.
        """
        if self._map is not None:
            return
        if not self._attach(mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)):
            self._make()

    def save(self, step: int, facts: bytes, arrays: Arrays) -> None:
        """Copy into the slot that is not the newest, and seal it. Raises StorageError if it does not fit."""
        self.open()
        slot = self.free_slot()
        digest = xxhash.xxh3_128()
        for place, source in self._places(slot, facts, arrays):
            for start in range(0, len(source), _CHUNK):
                piece = source[start : start + _CHUNK]
                np.copyto(self._bytes[place + start : place + start + len(piece)], piece)
                digest.update(piece.data)
        self.seal(slot, step, len(facts), digest.digest())

    def free_slot(self) -> int:
        """The one that is not the newest, its seal broken."""
        steps = [self._sealed_step(slot) for slot in (0, 1)]
        slot = steps.index(min(steps))
        self.break_seal(slot)
        return slot

    def _places(self, slot: int, facts: bytes, arrays: Arrays) -> Iterator[tuple[int, np.ndarray]]:
        """Where in the file, and what."""
        if len(facts) > FACTS_BYTES:
            raise StorageError(f"{len(facts)} bytes of facts do not fit a copy", where=str(self.path))
        place = self._start(slot) + _PAGE
        yield place, np.frombuffer(facts, np.uint8)
        place += FACTS_BYTES
        for name, entry in self.layout.items():
            yield place, arrays[name].reshape(-1).view(np.uint8)
            place += _padded(entry.num_bytes)

    def break_seal(self, slot: int) -> None:
        self.seal_of(slot)[:] = 0

    def seal(self, slot: int, step: int, facts_bytes: int, digest: bytes) -> None:
        """The slot's bytes are all there. Its seal counts only when its own checksum does, so it may be
        written in any order.
        """
        fields = _SEAL.pack(_MAGIC, step, facts_bytes, self.body_bytes, digest, 0)[:-8]
        self._write(self._start(slot), fields + xxhash.xxh3_64_intdigest(fields).to_bytes(8, "little"))

    def done(self, step: int) -> None:
        """So many steps are done, copied or not: what a resumed run has lost is told by it."""
        if self._map is not None:
            self._write(_DONE_AT, _DONE.pack(step, ~step))

    def last_done(self) -> int:
        """-1: not known."""
        if self._map is None and not self._attach(mmap.MAP_SHARED):
            return -1
        step, check = _DONE.unpack(self._read(_DONE_AT, _DONE.size))
        return step if check == ~step else -1

    def steps(self) -> list[int]:
        """Of the sealed slots, the newest first."""
        if self._map is None and not self._attach(mmap.MAP_SHARED):
            return []
        return sorted((step for slot in (0, 1) if (step := self._sealed_step(slot)) >= 0), reverse=True)

    def newest(self, step: int = -1) -> Found | None:
        """The newest slot that is sound, or that of `step`. One that is not is never looked at again."""
        for wanted in self.steps():
            slot = self.slot_of(wanted)
            if slot is not None and step in (-1, wanted) and (found := self.check(slot)):
                return found
        return None

    def check(self, slot: int) -> Found | None:
        """What is in a sealed slot; None, and the seal broken, if that is not what was sealed."""
        start = self._start(slot)
        _, step, facts_bytes, body_bytes, expected, _ = _SEAL.unpack(self._read(start, _SEAL.size))
        if facts_bytes <= FACTS_BYTES and body_bytes == self.body_bytes:
            facts = self._read(start + _PAGE, facts_bytes)
            arrays = self._views(slot)
            digest = xxhash.xxh3_128(facts)
            for array in arrays.values():
                digest.update(array.reshape(-1).view(np.uint8).data)
            if digest.digest() == expected:
                return Found(step, facts, arrays)
        self.break_seal(slot)
        return None

    def _views(self, slot: int) -> dict[str, np.ndarray]:
        place, views = self._start(slot) + _PAGE + FACTS_BYTES, {}
        for name, entry in self.layout.items():
            part = self._bytes[place : place + entry.num_bytes]
            views[name] = part.view(np.dtype(entry.dtype)).reshape(entry.shape)
            place += _padded(entry.num_bytes)
        return views

    def drop_after(self, step: int) -> None:
        """Roll back: what is of a later step is gone for good."""
        for slot in (0, 1) if self.steps() else ():
            if self._sealed_step(slot) > step:
                self.break_seal(slot)

    def window(self, slot: int) -> np.ndarray:
        """The slot's own bytes, seal excepted: facts and arrays."""
        start = self._start(slot)
        return self._bytes[start + _PAGE : start + _PAGE + FACTS_BYTES + self.body_bytes]

    def is_sealed(self, slot: int) -> bool:
        return self._sealed_step(slot) >= 0

    def seal_of(self, slot: int) -> np.ndarray:
        start = self._start(slot)
        return self._bytes[start : start + _SEAL.size]

    def slot_of(self, step: int) -> int | None:
        return next((slot for slot in (0, 1) if self._sealed_step(slot) == step), None)

    def _sealed_step(self, slot: int) -> int:
        start = self._start(slot)
        fields = self._read(start, _SEAL.size - 8)
        magic, step, *_ = _SEAL.unpack(fields + bytes(8))
        check = int.from_bytes(self._read(start + _SEAL.size - 8, 8), "little")
        return step if magic == _MAGIC and check == xxhash.xxh3_64_intdigest(fields) else -1

    def _start(self, slot: int) -> int:
        return _PAGE + slot * self.slot_bytes

    def _read(self, place: int, size: int) -> bytes:
        return self._bytes[place : place + size].tobytes()

    def _write(self, place: int, data: bytes) -> None:
        self._bytes[place : place + len(data)] = np.frombuffer(data, np.uint8)

    def _header(self) -> bytes:
        fields = _HEADER.pack(_MAGIC, self.slot_bytes, *self._identity, 0)[:-8]
        return fields + xxhash.xxh3_64_intdigest(fields).to_bytes(8, "little")

    def _attach(self, flags: int) -> bool:
        """Map the file that is there. False where it is another's, or no whole one."""
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_NOFOLLOW)
        except OSError:
            return False
        try:
            about = os.fstat(descriptor)
            is_ours = about.st_uid == os.getuid() and about.st_mode & 0o077 == 0
            if not is_ours or about.st_size != self.size:
                return False
            if os.pread(descriptor, _HEADER.size, 0) != self._header():
                return False
            self._take(descriptor, flags)
            return True
        finally:
            os.close(descriptor)

    def _make(self) -> None:
        """All pages are reserved at once: a store to a full file system would kill this process later."""
        self.path.unlink(missing_ok=True)
        room = free_bytes(self.path.parent)
        if self.size + HEADROOM + room // 10 > room:
            raise StorageError(
                f"two copies of the state take {self.size >> 20} MiB, {room >> 20} MiB of memory are free",
                where=str(self.path.parent),
                hint="give the container a larger /dev/shm (docker: --shm-size)",
            )
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, self.size)
                self._take(descriptor, mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0))
            finally:
                os.close(descriptor)
        except OSError as error:
            self.path.unlink(missing_ok=True)
            raise StorageError(f"no copy of the state: {error.strerror}", where=str(self.path)) from error
        self._write(0, self._header())

    def _take(self, descriptor: int, flags: int) -> None:
        self._map = mmap.mmap(descriptor, self.size, flags=flags)
        self._bytes = np.frombuffer(self._map, np.uint8)

    def close(self) -> None:
        """The file stays."""
        mapped, self._map, self._bytes = self._map, None, np.empty(0, np.uint8)
        if mapped is not None:
            with contextlib.suppress(BufferError):  # while somebody holds what was found, it stays mapped
                mapped.close()

    def remove(self) -> None:
        self.close()
        self.path.unlink(missing_ok=True)


def free_bytes(folder: Path) -> int:
    """What a file in a memory file system may take: its own limit, and the machine's memory."""
    about = os.statvfs(folder)
    room = about.f_bavail * about.f_frsize
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        line = next(line for line in lines if line.startswith("MemAvailable:"))
        room = min(room, int(line.split()[1]) * 1024)
    return room


def flat(parameters: Arrays, moments: Arrays) -> dict[str, np.ndarray]:
    """One mapping of both."""
    return {f"model.{name}": array for name, array in parameters.items()} | {
        f"optimizer.{name}": array for name, array in moments.items()
    }


def split(arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(parameters, moments)."""
    parts = {"model.": dict[str, np.ndarray](), "optimizer.": dict[str, np.ndarray]()}
    for name, array in arrays.items():
        for prefix, part in parts.items():
            if name.startswith(prefix):
                part[name.removeprefix(prefix)] = array
    return parts["model."], parts["optimizer."]


def _padded(num_bytes: int) -> int:
    return -(-num_bytes // _ALIGN) * _ALIGN


def _page_up(num_bytes: int) -> int:
    return -(-num_bytes // _PAGE) * _PAGE
