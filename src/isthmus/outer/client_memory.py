"""What a site's client must not forget over a restart."""

from pathlib import Path

import msgspec

from isthmus.clock import Clock
from isthmus.journal.store import DiskStore


class _File(msgspec.Struct, frozen=True):
    incarnation: int = 0
    voted_epoch: int = 0
    voted_for: str = ""


class Memory:
    """Owns `client.json` in the site's folder: the vote this site cast, and a number above all that its
    clients had before (`incarnation`)."""

    def __init__(self, folder: Path, clock: Clock):
        self._store = DiskStore()
        self._path = folder / "client.json"
        self._store.make_folder(folder)
        old = _File()
        if self._path.exists():
            old = msgspec.json.decode(self._path.read_bytes(), type=_File)
        incarnation = max(old.incarnation + 1, int(clock.wall_s() * 1000))
        self._write(msgspec.structs.replace(old, incarnation=incarnation))

    def vote(self, epoch: int, candidate: str) -> None:
        """Durable when it returns. Raises StorageError."""
        self._write(msgspec.structs.replace(self._file, voted_epoch=epoch, voted_for=candidate))

    def _write(self, file: _File) -> None:
        self._store.write_atomic(self._path, msgspec.json.encode(file))
        self._file = file

    @property
    def incarnation(self) -> int:
        return self._file.incarnation

    @property
    def voted_epoch(self) -> int:
        return self._file.voted_epoch

    @property
    def voted_for(self) -> str:
        return self._file.voted_for
