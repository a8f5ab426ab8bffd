"""A disk in memory that crashes, fills up, tears writes and flips bits on demand."""

import contextlib
import errno
import random
from collections.abc import Iterator
from pathlib import Path

from isthmus.errors import NotFoundError, StorageError
from isthmus.journal.store import HINTS, Data


class Crash(BaseException):
    """The machine stopped here. No `except Exception` of the code under test may swallow it."""


class _File:
    def __init__(self) -> None:
        self.bytes = bytearray()
        self.durable = b""


class MemoryStore:
    """A Store with planted faults, for tests and the simulator.

    Args:
        capacity_bytes: writes past this many bytes in all files fail with ENOSPC after filling the rest.
        crash_at: number of the operation (from 0) that raises `Crash`, half done.
        seed: decides how much of a write and of unsynced data outlives a crash.
    """

    def __init__(self, capacity_bytes: int | None = None, crash_at: int | None = None, seed: int = 0):
        self.capacity_bytes = capacity_bytes
        self.crash_at = crash_at
        self.operations = 0
        self._random = random.Random(seed)
        self._names: dict[Path, _File] = {}
        self._durable_names: dict[Path, _File] = {}
        self._locked: set[Path] = set()

    def _step(self) -> bool:
        """Count an operation; True if the machine crashes in it."""
        self.operations += 1
        return self.operations - 1 == self.crash_at

    def _file(self, path: Path) -> _File:
        if path not in self._names:
            raise NotFoundError("no such file", where=str(path))
        return self._names[path]

    def append(self, path: Path, *buffers: Data) -> None:
        crash = self._step()
        data = b"".join(buffers)
        room = None
        if self.capacity_bytes is not None:
            room = self.capacity_bytes - sum(len(file.bytes) for file in self._names.values())
        full = room is not None and len(data) > room
        if crash:
            data = data[: self._random.randint(0, len(data))]
        elif full:
            data = data[: max(0, room or 0)]
        self._names.setdefault(path, _File()).bytes += data
        if crash:
            raise Crash
        if full:
            raise StorageError("cannot append: no space left", where=str(path), hint=HINTS[errno.ENOSPC])

    def write_atomic(self, path: Path, *buffers: Data) -> None:
        temporary = path.with_name(f".{path.name}.tmp")
        self._names.pop(temporary, None)
        try:
            self.append(temporary, *buffers)
            self.fsync(temporary)
        except StorageError:
            self.delete(temporary)
            raise
        crash = self._step()
        self._names[path] = self._names.pop(temporary)
        if crash:
            raise Crash
        self.fsync(path.parent)

    def read(self, path: Path, offset: int = 0, size: int | None = None) -> memoryview:
        end = None if size is None else offset + size
        return memoryview(bytes(self._file(path).bytes[offset:end]))

    def size(self, path: Path) -> int:
        return len(self._file(path).bytes)

    def list(self, folder: Path) -> list[str]:
        return sorted(p.name for p in self._names if p.parent == folder and not p.name.startswith("."))

    def make_folder(self, folder: Path) -> None:
        pass

    def fsync(self, path: Path) -> None:
        if self._step():
            raise Crash
        if path in self._names:
            self._names[path].durable = bytes(self._names[path].bytes)
            return
        for name in [name for name in self._durable_names if name.parent == path]:
            if name not in self._names:
                del self._durable_names[name]
        self._durable_names.update({n: file for n, file in self._names.items() if n.parent == path})

    def truncate(self, path: Path, size: int) -> None:
        crash = self._step()
        del self._file(path).bytes[size:]
        if crash:
            raise Crash

    def delete(self, path: Path) -> None:
        crash = self._step()
        self._names.pop(path, None)
        if crash:
            raise Crash

    @contextlib.contextmanager
    def lock(self, folder: Path) -> Iterator[None]:
        if folder in self._locked:
            raise StorageError(
                "another process is writing here", where=str(folder), hint="stop the other one"
            )
        self._locked.add(folder)
        try:
            yield
        finally:
            self._locked.discard(folder)

    def flip(self, path: Path, offset: int) -> None:
        """Turn one bit over, now and on the medium."""
        file = self._file(path)
        file.bytes[offset] ^= 1
        if offset < len(file.durable):
            file.durable = (
                file.durable[:offset] + bytes([file.durable[offset] ^ 1]) + file.durable[offset + 1 :]
            )

    def after_power_loss(self) -> "MemoryStore":
        """The disk that a restarted machine may find: all that was synced, and any part of what was not."""
        found = MemoryStore(self.capacity_bytes, seed=self._random.randrange(2**32))
        for path in sorted(self._names.keys() | self._durable_names.keys()):
            now, then = self._names.get(path), self._durable_names.get(path)
            kept = now if now is then else self._random.choice([now, then])
            if kept is not None:
                survivor = found._names.setdefault(path, _File())
                survivor.bytes = self._remains(kept)
                survivor.durable = bytes(survivor.bytes)
        found._durable_names = dict(found._names)
        return found

    def after_kill(self) -> "MemoryStore":
        """The disk after kill -9 of the writing process alone: the operating system loses nothing."""
        found = MemoryStore(self.capacity_bytes, seed=self._random.randrange(2**32))
        found._names, found._durable_names = self._names, self._durable_names
        return found

    def _remains(self, file: _File) -> bytearray:
        now, durable = file.bytes, file.durable
        if not now.startswith(durable):
            return bytearray(self._random.choice([bytes(now), durable]))
        rest = now[len(durable) :]
        cut = self._random.randint(0, len(rest))
        hole = self._random.choice([0, self._random.randint(0, cut)])
        return now[: len(durable)] + bytes(hole) + rest[hole:cut]
