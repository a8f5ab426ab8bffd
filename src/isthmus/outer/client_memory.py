"""What a site's client must not forget over a restart."""

from pathlib import Path

import msgspec

from isthmus.clock import Clock
from isthmus.journal.store import DiskStore


class Kept(msgspec.Struct, frozen=True):
    incarnation: int = 0
    """Above all that this site's clients had before."""
    voted_epoch: int = 0
    voted_for: str = ""


class Memory:
    """Owns `client.json` in the site's folder: its client's number and the vote that the site cast."""

    def __init__(self, folder: Path, clock: Clock):
        self._store = DiskStore()
        self._path = folder / "client.json"
        self._store.make_folder(folder)
        old = Kept()
        if self._path.exists():
            old = msgspec.json.decode(self._path.read_bytes(), type=Kept)
        incarnation = max(old.incarnation + 1, int(clock.wall_s() * 1000))
        self._write(msgspec.structs.replace(old, incarnation=incarnation))

    def vote(self, epoch: int, candidate: str) -> None:
        """Durable when it returns. Raises StorageError."""
        self._write(msgspec.structs.replace(self.kept, voted_epoch=epoch, voted_for=candidate))

    def _write(self, kept: Kept) -> None:
        self._store.write_atomic(self._path, msgspec.json.encode(kept))
        self.kept = kept
